//! What `import` makes of logins: checked, applied, delivered by the very rules that it wrote, and pulled with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::delivery::Product;
use crate::harness::namespace::{bound_pod, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::wait::NEW_NODE;
use crate::registry::{Account, Kit};

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "import_scenario_50_54_every_file_is_checked_delivered_and_pulled_with",
        every_file,
    );
}

/// A file of logins that some Secret comes of; nothing comes of the others in the directory.
struct File {
    name: &'static str,
    /// The Secrets, in the order of the rules.
    secrets: &'static [&'static str],
    /// Keys of the logins that let nobody pull: no kubelet could use them.
    unusable: &'static [&'static str],
}

const FILES: [File; 11] = [
    File {
        name: "aliyun",
        secrets: &[
            "registry.cn-hangzhou.aliyuncs.com",
            "registry-vpc.cn-hangzhou.aliyuncs.com",
            "acme-registry.cn-shanghai.cr.aliyuncs.com",
        ],
        unusable: &[],
    },
    File {
        name: "azure",
        secrets: &["token.azurecr.io", "principal.azurecr.io"],
        unusable: &["example.azurecr.io", "ended.azurecr.io"],
    },
    File {
        name: "containers_auth",
        secrets: &["docker-hub", "quay.io", "ghcr.io"],
        unusable: &["index.docker.io"],
    },
    File {
        name: "docker_desktop",
        secrets: &["ghcr.io", "harbor.example.com", "docker-hub"],
        unusable: &["gone.example.com", "example.azurecr.io"],
    },
    File {
        name: "dockercfg",
        secrets: &["docker-hub", "registry.example.com"],
        unusable: &[],
    },
    File {
        name: "github",
        secrets: &["ghcr.io", "docker.pkg.github.com"],
        unusable: &[],
    },
    File {
        name: "google_json_key",
        secrets: &["gcr.io", "europe-docker.pkg.dev", "us.gcr.io"],
        unusable: &[],
    },
    File {
        name: "harbor_robot",
        secrets: &["harbor.example.com"],
        unusable: &[],
    },
    File {
        name: "linux_plain",
        secrets: &[
            "10.39.0.118",
            "10.39.0.12-5000",
            "docker-hub",
            "my-registry.cn",
            "r.example.com-443",
        ],
        unusable: &[],
    },
    File {
        name: "mixed_helpers",
        secrets: &[
            "harbor.example.com",
            "gcr.io",
            "europe-west1-docker.pkg.dev",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        ],
        unusable: &[],
    },
    File {
        name: "quay_robot",
        secrets: &["quay.io"],
        unusable: &[],
    },
];

fn every_file(shared: &Cluster) {
    // The rules hand each Secret to every namespace there is: not to those of other trials.
    let cluster = &shared.another();
    let disk = cluster.directory("node");
    let node = shared
        .node()
        .start_another(&cluster.plane, "imports", disk, None, json!({}));
    let names = FILES.iter().flat_map(|file| file.secrets).copied();
    let product = Product::start(cluster, &names.collect::<Vec<_>>(), "");
    let own = &product.delivery.own();
    for file in &FILES {
        let imported = Imported::of(file, &own.name, cluster.directory(file.name));
        own.kubectl(
            &["apply", "--server-side", "-f", "-"],
            &imported.read("secrets.yaml"),
        );
        product.delivery.set_rules(&imported.read("rules.yaml"));
        // Of its own: a kubelet may hold for a while what the file before had under the same name.
        let name = file.name.replace('_', "-");
        let namespace = product.namespace(&name);
        for (name, payload) in imported.payloads() {
            product.delivery.until_copied(&namespace, &name, &payload);
        }
        let mut images = Vec::new();
        for (number, login) in imported.logins("used").enumerate() {
            let image = image_of(login, file, number, shared.registries());
            let secret = login["secret"].as_str().expect("it is in one");
            product.until_injected(&namespace, &image, &[secret]);
            images.push((format!("login-{number}"), image));
        }
        let containers = images.iter().map(|(name, image)| (&**name, &**image));
        let containers: Vec<_> = containers.collect();
        namespace.create_object("pods", &bound_pod(&node.name, &name, &containers));
        let running = namespace.running_within(&name, NEW_NODE);
        assert_eq!(pull_secrets_of(&running), file.secrets, "{name}");
        namespace.assert_pulled_without_a_failure(&name);
        println!("import: {name} pulled with {} logins", images.len());
    }
}

/// What `import` wrote and said of a file.
struct Imported {
    directory: PathBuf,
    report: Value,
}

impl Imported {
    /// Runs `pullpass import`, and `check` on the rules that it wrote.
    fn of(file: &File, namespace: &str, directory: PathBuf) -> Self {
        let path = std::env::var("PATH").expect("there is one");
        let output = pullpass()
            .args(["import", "--namespace", namespace, "-o", "json", "--out"])
            .arg(&directory)
            .arg(source(file))
            .env("PATH", format!("{}:{path}", helpers().display()))
            .output()
            .expect("pullpass can be started");
        let errors = String::from_utf8_lossy(&output.stderr);
        let has_unusable = !file.unusable.is_empty();
        assert_eq!(output.status.code(), Some(has_unusable.into()), "{errors}");
        let report = serde_json::from_slice(&output.stdout).expect("it writes JSON");
        let imported = Self { directory, report };
        let check = pullpass()
            .arg("check")
            .arg(imported.directory.join("rules.yaml"))
            .output()
            .expect("pullpass can be started");
        let said = String::from_utf8_lossy(&check.stdout);
        assert_eq!(check.status.code(), Some(0), "{said}");
        let unusable = imported.logins("unusable").map(|login| {
            let is_said = |field: &str| login[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(is_said("reason") && is_said("fix"), "{login}");
            &login["key"]
        });
        assert_eq!(unusable.collect::<Vec<_>>(), file.unusable);
        imported
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).expect("import wrote it")
    }

    /// What became of those logins that are in this state.
    fn logins(&self, state: &str) -> impl Iterator<Item = &Value> {
        let logins = self.report["logins"].as_array().expect("there are some");
        logins.iter().filter(move |login| login["state"] == state)
    }

    /// The Secrets: name and payload.
    fn payloads(&self) -> Vec<(String, String)> {
        let secrets: Vec<Value> =
            serde_saphyr::from_multiple(&self.read("secrets.yaml")).expect("it is YAML");
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        let secrets = secrets.iter().map(|secret| {
            let payload = BASE64_STANDARD.decode(text(&secret["data"][".dockerconfigjson"]));
            let payload = String::from_utf8(payload.expect("it is base64"));
            let name = text(&secret["metadata"]["name"]);
            (name, payload.expect("it is JSON"))
        });
        secrets.collect()
    }
}

/// A fresh image under the key of a login, which only the account of that login may pull.
fn image_of(login: &Value, file: &File, number: usize, kit: &Kit) -> String {
    let key = login["index_key"].as_str().expect("it has one");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = host.replace("index.docker.io", "docker.io");
    let repository = format!("{path}/import/{}-{number}", file.name);
    let repository = repository.trim_start_matches('/').replace("//", "/");
    let (user, password) = account_of(login, file);
    kit.tokens
        .permit(&Account::new(&user, &password, &[&*repository]));
    kit.fresh(&host, &repository)
}

/// User and password of a login, not as `import` read them: from the helper that has it, or from the file.
fn account_of(login: &Value, file: &File) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (key, from) = (text(&login["key"]), text(&login["from"]));
    if from.starts_with("docker-credential-") {
        let answer = ask_helper(&helpers().join(from), &key);
        return (text(&answer["Username"]), text(&answer["Secret"]));
    }
    let logins = fs::read_to_string(source(file)).expect("it is a file of the tests");
    let logins: Value = serde_json::from_str(&logins).expect("it is JSON");
    let entry = logins.get("auths").unwrap_or(&logins)[key].clone();
    let Some(auth) = entry["auth"].as_str() else {
        return (text(&entry["username"]), text(&entry["password"]));
    };
    let auth = BASE64_STANDARD.decode(auth).expect("it is base64");
    let auth = String::from_utf8(auth).expect("it is text");
    let (user, password) = auth.split_once(':').expect("it has a colon");
    (user.to_owned(), password.to_owned())
}

fn ask_helper(program: &Path, key: &str) -> Value {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can run");
    let mut input = child.stdin.take().expect("it is piped");
    // One that gives the same for every registry does not read it, and may have ended.
    writeln!(input, "{key}").ok();
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    serde_json::from_slice(&output.stdout).expect("it answers in JSON")
}

fn pullpass() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pullpass"))
}

fn source(file: &File) -> PathBuf {
    data().join(format!("{}.json", file.name))
}

fn helpers() -> PathBuf {
    data().join("helpers")
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

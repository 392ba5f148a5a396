//! The commands of the README and the docs, as they are written there, from an empty cluster to a private
//! image that runs, and to an empty cluster again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::lifecycle::install_yaml;
use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pod};
use crate::harness::release::ROLLOUT;
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::registry::Account;

pub(crate) fn register(trials: &mut Trials) {
    // Its configuration is for every namespace, other trials' as well.
    trials.alone(
        "scenario_62_63_commands_of_readme_and_docs_as_written",
        as_written,
    );
}

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// Beginnings of commands that need no cluster but a toolchain or a terminal. Other tiers run what they run.
const ELSEWHERE: &[&str] = &[
    "make demo",
    "make test",
    "cargo run -q -- mutate ",
    "pullpass import",
    "pullpass webhook --rules examples/rules.yaml ",
];

/// The page whose commands need the former tools: `migration.rs` types them.
const MIGRATION: &str = "docs/migration.md";

/// A page, and its commands in order with what is printed below each.
struct Page {
    name: String,
    text: String,
    commands: Vec<(String, String)>,
}

impl Page {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(Path::new(REPOSITORY).join(name)).expect("the page is there");
        let mut commands: Vec<(String, String)> = Vec::new();
        let blocks = text.split("```console\n").skip(1);
        for block in blocks.filter_map(|block| block.split("```").next()) {
            for line in block.lines() {
                if let Some(command) = line.strip_prefix("$ ") {
                    commands.push((command.to_owned(), String::new()));
                    continue;
                }
                let last = commands.last_mut();
                let (command, printed) = last.expect("a block begins with a command");
                let part = if is_open(command) { command } else { printed };
                *part += &format!("\n{line}");
            }
        }
        Self {
            name: name.to_owned(),
            text,
            commands,
        }
    }

    /// The YAML block below this line.
    fn yaml_below(&self, line: &str) -> &str {
        let below = self.text.split(line).nth(1).expect("the page has the line");
        let block = below.split("```yaml\n").nth(1).expect("a block follows");
        block.split("```").next().expect("it ends")
    }
}

/// Whether a command goes on in the next line.
fn is_open(command: &str) -> bool {
    command.ends_with('\\') || command.matches('\'').count() % 2 == 1
}

/// Somebody at a terminal, in a checkout of the repository.
struct Person<'a> {
    cluster: &'a Cluster,
    directory: PathBuf,
    typed: BTreeSet<String>,
}

impl<'a> Person<'a> {
    fn sit_down(cluster: &'a Cluster) -> Self {
        let directory = cluster.directory("checkout");
        for name in ["charts", "examples"] {
            symlink(Path::new(REPOSITORY).join(name), directory.join(name)).expect("it is empty");
        }
        Self {
            cluster,
            directory,
            typed: BTreeSet::new(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("the work directory is writable");
    }

    /// Types a command; gives what it printed.
    #[track_caller]
    fn types(&mut self, command: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_pullpass"));
        let ours = program.parent().expect("it is in a directory");
        let path = std::env::var("PATH").expect("it is set");
        let path = format!("{}:{}:{path}", tools().display(), ours.display());
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.directory)
            .env("PATH", path)
            .env("HOME", &self.directory)
            .env("KUBECONFIG", self.cluster.kubectl.kubeconfig())
            .output()
            .expect("there is a shell");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        // It says what it would delete, and that this is something to do.
        let has_findings = command == "pullpass cleanup -n pullpass";
        let code = output.status.code();
        assert_eq!(
            code,
            Some(has_findings.into()),
            "{command}\n{printed}{errors}"
        );
        self.typed.insert(command.to_owned());
        printed
    }

    /// Types those commands of a page that begin so, in the order of the page.
    #[track_caller]
    fn follows(&mut self, page: &Page, beginnings: &[&str]) {
        let is_meant = |command: &str| beginnings.iter().any(|start| command.starts_with(start));
        let meant = page
            .commands
            .iter()
            .filter(|(command, _)| is_meant(command));
        let meant: Vec<_> = meant.collect();
        assert!(
            meant.len() >= beginnings.len(),
            "{}: {beginnings:?}",
            page.name
        );
        for (command, _) in meant {
            self.types(command);
        }
    }

    /// A Pod with a private image runs in a namespace that nobody has prepared.
    fn runs_a_private_image(&self) {
        let namespace = Namespace::create(self.cluster, "unprepared", "none");
        self.cluster.registries().push("team/app", "1");
        let image = "harbor.example.com/team/app:1";
        let mut pod = pod("app", &[("app", image)]);
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        namespace.create_object("pods", &pod);
        namespace.running("app");
        namespace.assert_pulled_at_once("app");
        // Or every later look finds it.
        namespace.delete("pods", "app").expect("it runs");
    }

    /// Back to an empty cluster.
    fn leaves(&mut self) {
        self.types("kubectl delete namespace pullpass --ignore-not-found");
        let gone = || match self.cluster.api.get("/api/v1/namespaces/pullpass") {
            Err(error) if error.starts_with("404") => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait_for("the namespace is gone", ONE_BACK_OFF, gone);
    }
}

/// Every page that has commands.
struct Pages(Vec<Page>);

impl Pages {
    fn read() -> Self {
        let docs = fs::read_dir(Path::new(REPOSITORY).join("docs")).expect("there are docs");
        let docs = docs.map(|entry| entry.expect("it can be read").file_name());
        let docs = docs.map(|name| format!("docs/{}", name.display()));
        let docs = docs.filter(|name| name.ends_with(".md") && name != MIGRATION);
        let others = ["README.md", "charts/pullpass/README.md"].map(str::to_owned);
        Self(
            others
                .into_iter()
                .chain(docs)
                .map(|name| Page::read(&name))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> &Page {
        let page = self.0.iter().find(|page| page.name == name);
        page.expect("there is such a page")
    }
}

fn as_written(cluster: &Cluster) {
    // With the password that the pages show.
    for user in ["robot", "…"] {
        let account = Account::new(user, "…", &["team/app"]);
        cluster.registries().tokens.permit(&account);
    }
    let mut person = Person::sit_down(cluster);
    let pages = Pages::read();
    let image = cluster.image();
    let rules = pages
        .get("docs/install.md")
        .yaml_below("with the rules in `my-values.yaml`:");
    let image = format!(
        "{{repository: {}, digest: \"{}\"}}",
        image.repository, image.digest
    );
    for name in ["my-values.yaml", "values.yaml"] {
        person.write(name, &format!("image: {image}\n{rules}"));
    }
    person.write("rules.yaml", pages.get("README.md").yaml_below("## Rules"));

    as_the_readme_says(&mut person, &pages);
    as_the_docs_say(&mut person, &pages);
    without_helm(&mut person, &pages);
    person.follows(
        pages.get("charts/pullpass/README.md"),
        &["kubectl ", "helm "],
    );
    person.runs_a_private_image();
    person.types("helm uninstall pullpass -n pullpass");
    person.leaves();
    for (command, _) in pages.0.iter().flat_map(|page| &page.commands) {
        let is_elsewhere = ELSEWHERE.iter().any(|start| command.starts_with(start));
        assert!(
            is_elsewhere || person.typed.contains(command),
            "nobody typed {command}"
        );
    }
}

/// The source first; then what follows in the life of an installation.
fn as_the_readme_says(person: &mut Person<'_>, pages: &Pages) {
    let readme = pages.get("README.md");
    person.follows(readme, &["kubectl ", "helm "]);
    let typed = person.typed.len();
    println!("scenario 62: {typed} commands from an empty cluster to a private image that runs");
    assert_eq!(typed, 3, "{:?}", person.typed);
    assert!(
        readme
            .text
            .contains("Three commands, whatever the number of nodes, namespaces and Pods")
    );
    person.runs_a_private_image();
    person.follows(readme, &["pullpass check "]);
    person.follows(
        pages.get("docs/status.md"),
        &["pullpass status", "pullpass recover"],
    );
    person.follows(pages.get("docs/certificates.md"), &["kubectl "]);
    person.follows(pages.get("docs/troubleshooting.md"), &["pullpass "]);
    let upgrade = pages.get("docs/upgrade.md");
    person.follows(upgrade, &["helm upgrade", "helm rollback"]);
    person.runs_a_private_image();
    person.follows(upgrade, &["helm uninstall"]);
    person.leaves();
}

/// The source after the installation; at the end no copy is left.
fn as_the_docs_say(person: &mut Person<'_>, pages: &Pages) {
    let install = pages.get("docs/install.md");
    for (command, expected) in &install.commands {
        let printed = person.types(command);
        if !expected.is_empty() {
            assert_eq!(printed.trim(), expected.trim(), "{command}");
        }
    }
    person.runs_a_private_image();
    let test = "helm test pullpass -n pullpass";
    assert!(install.text.contains(test));
    person.types(test);
    person.follows(
        pages.get("docs/status.md"),
        &["helm uninstall", "pullpass cleanup"],
    );
    let copies = "/api/v1/secrets?labelSelector=app.kubernetes.io%2Finstance%3Dpullpass.pullpass";
    let left = person.cluster.api.get(copies).expect("a list");
    assert_eq!(left["items"], json!([]));
    person.leaves();
}

/// By `install.yaml`, with the image under test in it.
fn without_helm(person: &mut Person<'_>, pages: &Pages) {
    let install = pages.get("docs/install.md");
    person.write("install.yaml", &install_yaml(person.cluster));
    let apply = "kubectl apply -f install.yaml";
    assert!(install.text.contains(apply));
    person.types(apply);
    // "then edit the ConfigMap": the rules of the page.
    let rules = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{name: harbor}]\n\
                 rules: [{name: harbor, pullSecrets: [harbor]}]\n";
    let patch = json!({"data": {"rules.yaml": rules}});
    let own = Namespace::existing(person.cluster, "pullpass");
    own.merge("configmaps", "pullpass-rules", &patch)
        .expect("it is there");
    person.follows(
        install,
        &[
            "kubectl patch clusterrole",
            "kubectl -n pullpass create secret",
        ],
    );
    let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
    for role in ["webhook", "controller"] {
        let deployment = format!("deployment/pullpass-{role}");
        own.kubectl(&["rollout", "status", &deployment, &timeout], "");
    }
    wait_for("the copies are there", HAPPY, || {
        Namespace::existing(person.cluster, "default").get("secrets", "harbor")
    });
    person.runs_a_private_image();
    let upgrade = pages.get("docs/upgrade.md");
    let delete = "kubectl delete -f install.yaml";
    assert!(upgrade.text.contains(delete));
    person.types(delete);
    person.leaves();
}

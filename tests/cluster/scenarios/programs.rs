//! Pull secrets that programs and files give: tokens that end soon, programs that fail, files that are swapped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::status;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::{Delivery, Product, payload};
use crate::harness::ecr::{self, Ecr, HOST};
use crate::harness::namespace::{Namespace, pod, pull_secrets_of};
use crate::harness::release::Release;
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "scenario_52_tokens_of_two_minutes_from_the_ecr_credential_provider",
        tokens,
    );
    trials.api(
        "scenario_52_a_program_that_crashes_hangs_or_talks_nonsense",
        failures,
    );
    trials.api("scenario_52_a_docker_credential_helper", helper);
    trials.api("scenario_55_a_file_is_followed_through_symlink_swaps", file);
}

/// Trials of the installed product.
pub(crate) fn register_install(trials: &mut Trials) {
    trials.node(
        "scenario_52_a_program_from_an_image_that_is_copied_or_mounted",
        |cluster| {
            for is_copied in [true, false] {
                from_image(cluster, is_copied);
            }
        },
    );
}

const GENERATIONS: usize = 5;
/// How long a token opens the registry.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long an answer holds, as `ecr-credential-provider` says: half the life of its token.
const HOLDS: Duration = Duration::from_secs(60);

/// Variables that lead `ecr-credential-provider` to the stand-in.
fn environment(ecr: &Ecr) -> [Value; 3] {
    [
        ("AWS_ENDPOINT_URL_ECR", ecr.url()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".to_owned()),
    ]
    .map(|(name, value)| json!({"name": name, "value": value}))
}

/// How it is run by a controller that is a process of the machine.
fn ecr_entry(ecr: &Ecr) -> String {
    let exec = json!({
        "command": tools().join("ecr-credential-provider"),
        "images": [HOST, format!("{HOST}/team/app")],
        "env": environment(ecr),
    });
    format!("{{name: ecr, namespaces: NAMESPACES, source: {{exec: {exec}}}}}")
}

fn tokens(cluster: &Cluster) {
    const REPOSITORY: &str = "team/short-lived";
    let kit = cluster.registries();
    let ecr = Ecr::start(kit, REPOSITORY, LIFETIME);
    let product = Product::start(cluster, &["ecr"], &ecr_entry(&ecr));
    let delivery = &product.delivery;
    // It stands in, and does not run the program.
    let other = delivery.next_controller();
    let namespaces = ["a", "b", "c", "d"].map(|suffix| product.namespace(suffix));
    let mut generation = 0;
    for round in 1..=GENERATIONS {
        // A machine may be slow, and one generation passed by.
        generation = until_newer(&ecr, &namespaces, generation);
        for namespace in &namespaces {
            let image = kit.fresh(HOST, REPOSITORY);
            product.until_injected(namespace, &image, &["ecr"]);
            let name = format!("round-{round}");
            namespace.create_object("pods", &pod(&name, &[("app", &image)]));
            namespace.running(&name);
            namespace.assert_pulled_at_once(&name);
        }
    }
    let both = |series: &str| delivery.controller.metric(series) + other.metric(series);
    wait_for("one write for each copy and token", HAPPY, || {
        let writes = both("pullpass_writes_total{object=\"copy\"}");
        let most = namespaces.len() * ecr.given().len();
        assert!(writes <= most as f64, "{writes} writes, more than {most}");
        let least = namespaces.len() * GENERATIONS;
        (writes >= least as f64)
            .then_some(())
            .ok_or_else(|| writes.to_string())
    });
    // On a machine that is slow enough, the Lease is lost: then whoever leads next asks for itself.
    let is_calm = !other.log().contains("leading")
        && !delivery.controller.log().contains("no longer leading");
    if is_calm {
        for pair in ecr.given().windows(2) {
            let pause = pair[1] - pair[0];
            assert!(pause >= HOLDS * 3 / 5, "asked after {pause:?}");
        }
        assert_eq!(other.metric(RUNS), 0.0, "who stands in asks nobody");
        wait_for("one run for each token", HAPPY, || {
            let (runs, given) = (delivery.controller.metric(RUNS), ecr.given().len() as f64);
            assert!(runs <= given, "{runs} runs for {given} tokens");
            (runs == given)
                .then_some(())
                .ok_or_else(|| format!("{runs} runs for {given} tokens"))
        });
    }
    assert!(!delivery.controller.log().contains("hunter2"));
}

/// Waits until all namespaces hold the token of one generation after this one, and gives that.
#[track_caller]
fn until_newer(ecr: &Ecr, namespaces: &[Namespace<'_>], generation: usize) -> usize {
    wait_for(
        &format!("a token after the {generation}th"),
        LIFETIME,
        || {
            let newest = ecr.given().len();
            let expected = BASE64_STANDARD.encode(ecr::payload(newest));
            for namespace in namespaces {
                let copy = namespace.get("secrets", "ecr")?;
                if newest == generation || copy["data"][".dockerconfigjson"] != expected {
                    return Err(format!("{newest}: {copy}"));
                }
            }
            Ok(newest)
        },
    )
}

/// The two documented ways of a program into the controller of an installed product, and a Pod that is pulled by what
/// it gives.
fn from_image(cluster: &Cluster, is_copied: bool) {
    const REPOSITORY: &str = "team/by-program";
    let kit = cluster.registries();
    let ecr = Ecr::start(kit, REPOSITORY, LIFETIME);
    let image = kit.push_program("ecr-credential-provider", is_copied);
    let mut plugins = json!({"image": image});
    if !is_copied {
        plugins["copyCommand"] = json!([]);
    }
    let release = Release::prepare(cluster);
    let source = json!({"exec": {"command": "ecr-credential-provider", "images": [HOST]}});
    let namespaces = [&release.pods.name];
    let controller = json!({
        "plugins": plugins,
        "extraEnv": environment(&ecr),
        "resources": {"limits": {"memory": "384Mi"}},
    });
    release.install(&json!({
        "controller": controller,
        "rules": {
            "pullSecrets": [{"name": "ecr", "namespaces": namespaces, "source": source}],
            "rules": [{"name": "ecr", "pullSecrets": ["ecr"]}],
        },
    }));
    for pod in release.role("controller") {
        assert_eq!(pod["spec"]["initContainers"].is_array(), is_copied);
    }
    let pod = pod("app", &[("app", &kit.fresh(HOST, REPOSITORY))]);
    wait_for("the Pod gets its pull secret", HAPPY, || {
        let found = pull_secrets_of(&release.pods.dry_run(&pod)?);
        (found == ["ecr"])
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    release.pods.create_object("pods", &pod);
    release.pods.running("app");
    release.pods.assert_pulled_at_once("app");
}

/// Runs that gave something.
const RUNS: &str = "pullpass_program_runs_total{outcome=\"answered\"}";

/// A program that does as a file says.
struct Moody {
    directory: PathBuf,
}

impl Moody {
    fn new(cluster: &Cluster, name: &str) -> Self {
        let directory = cluster.directory(&cluster.unique(name));
        let moody = Self { directory };
        moody.set("mood", "hang");
        moody
    }

    /// Puts text into one of its files at once.
    fn set(&self, file: &str, text: &str) {
        let new = self.directory.join("new");
        fs::write(&new, text).expect("it is writable");
        fs::rename(&new, self.directory.join(file)).expect("it is one directory");
    }

    /// Lets it answer with this password, for the shortest time that there is.
    fn answer(&self, password: &str) {
        let answer = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderResponse",
            "cacheKeyType": "Registry",
            "cacheDuration": "15s",
            "auth": {"registry.example.com": {"username": "robot", "password": password}},
        });
        self.set("answer", &answer.to_string());
        self.set("mood", "answer");
    }

    /// The entry `moody` of the rules.
    fn entry(&self) -> String {
        const SCRIPT: &str = "cat >/dev/null
            while [ \"$(cat mood)\" = hang ]; do sleep 0.1; done
            case $(cat mood) in
                answer) cat answer ;;
                crash) echo hunter2 >&2; exit 3 ;;
                garbage) echo hunter2 ;;
            esac";
        let script = format!("cd {} && {SCRIPT}", self.directory.display());
        let exec = json!({"command": "/bin/sh", "args": ["-c", script], "images": ["registry.example.com"]});
        format!("{{name: moody, namespaces: NAMESPACES, source: {{exec: {exec}}}}}")
    }
}

/// What copies hold that a [`Moody`] with this password gave.
fn moody_payload(password: &str) -> String {
    let config: Value = serde_json::from_str(&payload(password)).expect("it is JSON");
    let auth = &config["auths"]["registry.example.com"]["auth"];
    json!({"auths": {"registry.example.com": {"auth": auth}}}).to_string()
}

/// Waits until `status` says this of the source of `moody`.
#[track_caller]
fn until_source(cluster: &Cluster, delivery: &Delivery<'_>, state: &str, reason: &str) {
    wait_for(
        &format!("status says {state}, {reason}"),
        ONE_BACK_OFF,
        || {
            let said = status::ask(cluster, delivery, &["status"]);
            let source = &said.report["pull_secrets"][0]["source"];
            let has_reason = source["reason"]
                .as_str()
                .unwrap_or_default()
                .contains(reason);
            let is_said = source["state"] == state && has_reason;
            is_said.then_some(()).ok_or_else(|| said.text())
        },
    );
}

fn failures(cluster: &Cluster) {
    let moody = Moody::new(cluster, "moody");
    let entries = format!(
        "{}, {{name: regcred, namespaces: NAMESPACES}}",
        moody.entry()
    );
    let product = Product::start(cluster, &["moody", "regcred"], &entries);
    let delivery = &product.delivery;
    status::create_deployment(delivery);
    let first = product.namespace("first");
    // Nobody waits for it.
    product.make_source("regcred", &payload("other"));
    delivery.until_copied(&first, "regcred", &payload("other"));
    until_source(cluster, delivery, "unusable", "it has not answered yet");

    moody.answer("one");
    delivery.until_copied(&first, "moody", &moody_payload("one"));
    until_source(cluster, delivery, "usable", "");

    let crash = "failed (exit status: 3)";
    let late = "its last answer has ended";
    for (mood, reason) in [
        ("crash", crash),
        ("garbage", "something else"),
        ("nothing", "something else"),
        ("hang", late),
    ] {
        moody.set("mood", mood);
        until_source(cluster, delivery, "unusable", reason);
        delivery.until_said("SourceUnusable", reason);
        delivery.until_indexed("moody", |secret| {
            secret["state"] == "stale" && secret["problem"].to_string().contains(reason)
        });
        product.until_injected(
            &first,
            "registry.example.com/team/app:v1",
            &["moody", "regcred"],
        );
        let other = format!("while-{mood}");
        let other = product.namespace(&other);
        delivery.until_copied(&other, "regcred", &payload("other"));
        delivery.until_copied(
            &first,
            "moody",
            &moody_payload(if mood == "crash" { "one" } else { "two" }),
        );
        other
            .get("secrets", "moody")
            .expect_err("nothing is known to be good");
        moody.answer("two");
        delivery.until_copied_within(&other, "moody", &moody_payload("two"), ONE_BACK_OFF);
        delivery.until_copied(&first, "moody", &moody_payload("two"));
        until_source(cluster, delivery, "usable", "");
        delivery.until_said("SourceUsable", "moody");
    }
    let log = delivery.controller.log();
    let index = delivery.index().expect("it is published").to_string();
    assert!(
        !log.contains("hunter2") && !index.contains("hunter2"),
        "{log} {index}"
    );
}

fn helper(cluster: &Cluster) {
    let directory = cluster.directory(&cluster.unique("helper"));
    let calls = directory.join("calls");
    // $1 is the verb.
    let script = format!(
        "read server; echo $1 $server >>{}; \
         echo '{{\"ServerURL\": \"x\", \"Username\": \"robot\", \"Secret\": \"hunter2\"}}'",
        calls.display()
    );
    let exec = json!({
        "command": "/bin/sh",
        "args": ["-c", script, "helper"],
        "servers": ["registry.example.com"],
        "defaultCacheDuration": "1h",
    });
    let entry = format!("{{name: moody, namespaces: NAMESPACES, source: {{exec: {exec}}}}}");
    let delivery = Delivery::start(cluster, &["moody"], &entry);
    let namespaces = ["a", "b", "c"].map(|suffix| delivery.namespace(suffix));
    for namespace in &namespaces {
        delivery.until_copied(namespace, "moody", &moody_payload("hunter2"));
    }
    delivery.until_wrote(namespaces.len());
    let called = || fs::read_to_string(&calls).expect("it was called");
    assert_eq!(called(), "get registry.example.com\n");

    // The next one to lead has to ask, and gets the same: it writes nothing but what is new.
    let next = delivery.next_controller();
    delivery.controller.terminate();
    next.until_leading();
    let new = delivery.namespace("new");
    delivery.until_copied(&new, "moody", &moody_payload("hunter2"));
    assert_eq!(called(), "get registry.example.com\n".repeat(2));
    wait_for("it says what it wrote", HAPPY, || {
        let writes = next.metric("pullpass_writes_total{object=\"copy\"}");
        assert!(writes <= 1.0, "{writes} writes");
        (writes == 1.0)
            .then_some(())
            .ok_or_else(|| writes.to_string())
    });
    for log in [delivery.controller.log(), next.log()] {
        assert!(!log.contains("hunter2"), "{log}");
    }
}

/// As a kubelet swaps what a Secret or ConfigMap mounts.
fn swap(directory: &Path, version: &str, text: &str) {
    let versioned = directory.join(version);
    fs::create_dir(&versioned).expect("the version is new");
    fs::write(versioned.join("config.json"), text).expect("it is writable");
    symlink(version, directory.join("..data_tmp")).expect("it is gone since the last time");
    fs::rename(directory.join("..data_tmp"), directory.join("..data"))
        .expect("it is one directory");
}

fn file(cluster: &Cluster) {
    let directory = cluster.directory(&cluster.unique("file"));
    swap(&directory, "1", &payload("first"));
    let path = directory.join("config.json");
    symlink("..data/config.json", &path).expect("it is new");
    let entry = format!(
        "{{name: from-file, namespaces: NAMESPACES, source: {{file: {}}}}}",
        path.display()
    );
    let delivery = Delivery::start(cluster, &["from-file"], &entry);
    let namespaces = ["a", "b"].map(|suffix| delivery.namespace(suffix));
    let until_all = |text: &str| {
        for namespace in &namespaces {
            delivery.until_copied(namespace, "from-file", text);
        }
    };
    until_all(&payload("first"));
    for generation in 2..=4 {
        let text = payload(&format!("generation {generation}"));
        swap(&directory, &generation.to_string(), &text);
        until_all(&text);
    }
    delivery.until_wrote(4 * namespaces.len());

    swap(&directory, "bad", "{\"auths\": {}}");
    delivery.until_said(
        "SourceUnusable",
        "no entry has both a user name and a password",
    );
    let is_stale = |secret: &Value| secret["state"] == "stale";
    delivery.until_indexed("from-file", is_stale);
    until_all(&payload("generation 4"));
    fs::remove_file(&path).expect("it is there");
    delivery.until_said("SourceUnusable", "No such file");
    until_all(&payload("generation 4"));
    symlink("..data/config.json", &path).expect("it is gone");
    swap(&directory, "5", &payload("last"));
    until_all(&payload("last"));
    delivery.until_said("SourceUsable", "from-file");
    delivery.until_wrote(5 * namespaces.len());
    wait_for("nothing is asked", HAPPY, || {
        let runs = delivery.controller.metric(RUNS);
        (runs == 0.0).then_some(()).ok_or_else(|| runs.to_string())
    });
}

//! Pull secrets that programs and files give: tokens that end soon, programs that fail, files that are swapped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::status;
use crate::harness::cluster::Cluster;
use crate::harness::controller::Controller;
use crate::harness::delivery::{Delivery, Product, payload};
use crate::harness::ecr::{self, Ecr, HOST};
use crate::harness::namespace::{Namespace, pod, pull_secrets_of};
use crate::harness::release::Release;
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, until_counts_within, wait_for};
use crate::registry::Account;

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "scenario_52_tokens_of_two_minutes_from_the_ecr_credential_provider",
        tokens,
    );
    trials.api(
        "scenario_52_a_program_that_crashes_hangs_or_talks_nonsense",
        failures,
    );
    trials.api(
        "scenario_52_what_a_program_gave_is_used_while_it_holds_though_the_next_run_fails",
        holding,
    );
    trials.api("scenario_52_a_docker_credential_helper", helper);
    trials.node(
        "scenario_52_a_docker_credential_helper_whose_password_changes",
        changing,
    );
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
/// Whoever leads asks again when two thirds of that are over; a tenth less, for Amazon counts in whole seconds.
const AGAIN_MIN: Duration = Duration::from_secs(HOLDS.as_secs() * 3 / 5);

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
    let start = Instant::now();
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
            let name = format!("round-{round}");
            pull(&product, "ecr", namespace, &name, &image);
        }
        // Nobody waits for the end of the last.
        if round < GENERATIONS {
            let image = kit.fresh(HOST, REPOSITORY);
            let (namespace, name) = (&namespaces[round % 4], format!("late-{round}"));
            until_late(&ecr, generation);
            pull(&product, "ecr", namespace, &name, &image);
        }
    }
    let controllers = [&delivery.controller, &other];
    until_counts_within(
        "one write for each copy and token",
        (namespaces.len() * GENERATIONS) as f64,
        || (namespaces.len() * ecr.given().len()) as f64,
        || sum(controllers, "pullpass_writes_total{object=\"copy\"}"),
    );
    assert_asked_in_time(&ecr, controllers, start);
    assert!(!delivery.controller.log().contains("hunter2"));
}

/// A Pod of this name gets the pull secret, and its image by that.
#[track_caller]
fn pull(product: &Product<'_>, secret: &str, namespace: &Namespace<'_>, name: &str, image: &str) {
    product.until_injected(namespace, image, &[secret]);
    namespace.create_object("pods", &pod(name, &[("app", image)]));
    namespace.running(name);
    namespace.assert_pulled_at_once(name);
}

/// Holds that tokens are asked for before they end and no more often than that, by whoever leads and nobody else.
fn assert_asked_in_time(ecr: &Ecr, controllers: [&Controller; 2], start: Instant) {
    for controller in controllers {
        let runs = controller.metric(RUNS);
        assert!(
            runs == 0.0 || controller.terms() > 0,
            "who stands in asks nobody"
        );
    }
    let given = ecr.given();
    let terms: usize = controllers.map(Controller::terms).iter().sum();
    // The first of each term is asked for at once.
    let most = start.elapsed().div_duration_f64(AGAIN_MIN) + terms as f64;
    assert!(given.len() as f64 <= most, "{given:?} in {terms} terms");
    // The end of a term may cut one short.
    let least = (given.len() + 1) as f64 - terms as f64;
    until_counts_within(
        "one run for each token",
        least,
        || ecr.given().len() as f64,
        || sum(controllers, RUNS),
    );
    // On a machine that is slow enough, the Lease is lost: then whoever leads next asks for itself.
    if terms > 1 {
        println!(
            "scenario 52: in {terms} terms, no pause between two tokens is held against anybody"
        );
        return;
    }
    for pair in given.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(
            (AGAIN_MIN..=HOLDS).contains(&pause),
            "asked after {pause:?}"
        );
    }
}

/// A metric of both.
fn sum(controllers: [&Controller; 2], series: &str) -> f64 {
    let each = controllers.map(|controller| controller.metric(series));
    each.iter().sum()
}

/// Waits until the token of a generation is as old as any gets before the next is asked for.
#[track_caller]
fn until_late(ecr: &Ecr, generation: usize) {
    let what = format!("the {generation}th token grows old");
    wait_for(&what, LIFETIME, || {
        let age = ecr.given()[generation - 1].elapsed();
        (age >= AGAIN_MIN)
            .then_some(())
            .ok_or_else(|| format!("{age:?}"))
    });
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

/// A program that does as a file says, of an entry with this name.
struct Moody {
    name: &'static str,
    directory: PathBuf,
}

impl Moody {
    fn new(cluster: &Cluster, name: &'static str) -> Self {
        let directory = cluster.directory(name);
        let moody = Self { name, directory };
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
        self.answer_for(password, "15s");
    }

    /// Lets it answer with this password, which holds for so long.
    fn answer_for(&self, password: &str, holds: &str) {
        let answer = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderResponse",
            "cacheKeyType": "Registry",
            "cacheDuration": holds,
            "auth": {"registry.example.com": {"username": "robot", "password": password}},
        });
        self.set("answer", &answer.to_string());
        self.set("mood", "answer");
    }

    /// Its entry of the rules.
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
        let name = self.name;
        format!("{{name: {name}, namespaces: NAMESPACES, source: {{exec: {exec}}}}}")
    }
}

/// What copies hold that a [`Moody`] with this password gave.
fn moody_payload(password: &str) -> String {
    let config: Value = serde_json::from_str(&payload(password)).expect("it is JSON");
    let auth = &config["auths"]["registry.example.com"]["auth"];
    json!({"auths": {"registry.example.com": {"auth": auth}}}).to_string()
}

/// What is said of the mood `crash`.
const CRASH: &str = "failed (exit status: 3)";

/// Waits until `status` says this of the source of a program.
#[track_caller]
fn until_source(cluster: &Cluster, delivery: &Delivery<'_>, name: &str, state: &str, reason: &str) {
    // One minute is what a program may take.
    wait_for(
        &format!("status says {state} of {name}, {reason}"),
        2 * ONE_BACK_OFF,
        || {
            let said = status::ask(cluster, delivery, &["status", "--secret", name]);
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
    let until_source = |state, reason| until_source(cluster, delivery, "moody", state, reason);
    until_source("unusable", "it has not answered yet");

    moody.answer("one");
    delivery.until_copied(&first, "moody", &moody_payload("one"));
    until_source("usable", "");

    let late = "its last answer has ended";
    for (mood, reason) in [
        ("crash", CRASH),
        ("garbage", "something else"),
        ("nothing", "something else"),
        ("hang", late),
    ] {
        moody.set("mood", mood);
        until_source("unusable", reason);
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
        until_source("usable", "");
        delivery.until_said("SourceUsable", "moody");
    }
    let log = delivery.controller.log();
    let index = delivery.index().expect("it is published").to_string();
    assert!(
        !log.contains("hunter2") && !index.contains("hunter2"),
        "{log} {index}"
    );
}

/// One fails while its answer holds, and one never gave any.
fn holding(cluster: &Cluster) {
    let moody = Moody::new(cluster, "moody");
    let hung = Moody::new(cluster, "hung");
    let entries = format!("{}, {}", moody.entry(), hung.entry());
    let delivery = &Delivery::start(cluster, &["moody", "hung"], &entries);
    status::create_deployment(delivery);
    // It is asked again when at most three quarters of this are over; one is left to look at.
    moody.answer_for("one", "80s");
    let first = delivery.namespace("first");
    delivery.until_copied(&first, "moody", &moody_payload("one"));
    moody.set("mood", "crash");
    until_source(cluster, delivery, "moody", "usable", CRASH);
    let second = delivery.namespace("second");
    delivery.until_copied(&second, "moody", &moody_payload("one"));
    delivery.until_said("SourceUnusable", "what it gave last is still used");

    let reason = "gave no answer within 60 s";
    until_source(cluster, delivery, "hung", "unusable", reason);
    delivery.until_said("SourceUnusable", reason);
    hung.answer("late");
    for namespace in [&first, &second] {
        delivery.until_copied(namespace, "hung", &moody_payload("late"));
    }
    until_source(cluster, delivery, "hung", "usable", "");
}

/// Of two passwords, one after the other, the registry takes the last one only.
fn changing(cluster: &Cluster) {
    const HOST: &str = "registry.example.com";
    const REPOSITORY: &str = "team/by-helper";
    let kit = cluster.registries();
    let program = Moody::new(cluster, "helper");
    let script = format!("cat {}/answer", program.directory.display());
    let exec = json!({
        "command": "/bin/sh",
        "args": ["-c", script, "helper"],
        "servers": [HOST],
        "defaultCacheDuration": "15s",
    });
    let entry = format!("{{name: helper, namespaces: NAMESPACES, source: {{exec: {exec}}}}}");
    let product = Product::start(cluster, &["helper"], &entry);
    let namespace = product.namespace("app");
    for password in ["hunter2-a", "hunter2-b"] {
        let account = Account::new("robot", password, &[REPOSITORY]);
        kit.tokens.permit(&account);
        let answer = json!({"ServerURL": HOST, "Username": account.user, "Secret": password});
        program.set("answer", &answer.to_string());
        let delivery = &product.delivery;
        delivery.until_copied(&namespace, "helper", &moody_payload(password));
        let image = kit.fresh(HOST, REPOSITORY);
        pull(&product, "helper", &namespace, password, &image);
    }
    assert!(!product.delivery.controller.log().contains("hunter2"));
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

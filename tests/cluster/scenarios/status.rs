//! `pullpass status` and `pullpass cleanup` beside a controller that delivers: what they say is what is
//! there, what they advise helps, and what they delete is what they may.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::controller::{INDEX, RULES};
use crate::harness::delivery::{Delivery, payload, secret};
use crate::harness::namespace::{Namespace, docker_config, pod, pull_secrets_of};
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::harness::webhook::{Pullpass, Reach, Registration};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "status_scenario_61_pods_older_than_the_rule_until_they_are_restarted",
        scenario_61,
    );
    trials.api("status_sees_copies_as_the_controller_does", copies);
    trials.api("status_says_what_it_may_not_look_at", without_rights);
    trials.api("status_doctor_finds_what_is_wrong_with_delivery", doctor);
    trials.api(
        "status_cleanup_keeps_what_a_controller_would_put_back",
        cleanup_kept,
    );
    trials.api(
        "status_cleanup_deletes_copies_and_nothing_else",
        cleanup_all,
    );
    trials.api(
        "status_incident_21_cleanup_undoes_what_was_attached",
        cleanup_attached,
    );
    trials.api(
        "status_says_which_accounts_have_their_entry",
        attached_accounts,
    );
}

/// What a command said.
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) report: Value,
    errors: String,
}

/// Runs a command about an installation as this user.
fn ask_as(kubeconfig: &Path, delivery: &Delivery<'_>, words: &[&str]) -> Said {
    let installation = &delivery.own().name;
    let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
        .args(words)
        .args(["-o", "json", "-n", installation])
        .args(["--webhook-configuration", installation])
        .env("KUBECONFIG", kubeconfig)
        .output()
        .expect("pullpass can be started");
    Said {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(super) fn ask(cluster: &Cluster, delivery: &Delivery<'_>, words: &[&str]) -> Said {
    ask_as(cluster.kubectl.kubeconfig(), delivery, words)
}

impl Said {
    pub(super) fn text(&self) -> String {
        format!("{:?} {} {}", self.code, self.report, self.errors)
    }
}

/// Waits until a command says what is expected, and gives it.
#[track_caller]
fn until(
    what: &str,
    cluster: &Cluster,
    delivery: &Delivery<'_>,
    words: &[&str],
    is_said: impl Fn(&Said) -> bool,
) -> Said {
    wait_for(what, HAPPY, || {
        let said = ask(cluster, delivery, words);
        let is_said = is_said(&said);
        is_said
            .then_some(said)
            .ok_or_else(|| ask(cluster, delivery, words).text())
    })
}

/// A Deployment `web` with one Pod of this image.
pub(super) fn deployment(image: &str) -> Value {
    let labels = json!({"app": "web"});
    let mut template = pod("web", &[("app", image)]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"].take()},
        },
    })
}

fn scenario_61(cluster: &Cluster) {
    // No rule yet.
    let delivery = Delivery::start(cluster, &["regcred"], "");
    create_deployment(&delivery);
    let login = docker_config(&[ALPHA.entry()]).to_string();
    delivery.make_source("regcred", &login);
    let webhook = Pullpass::following(cluster, delivery.own(), &cluster.plane.kubeconfig);
    webhook.until_ready();
    let group = &delivery.own().name;
    Registration::pullpass(group, Reach::Url(webhook.url())).create(cluster);
    let team = delivery.namespace_labelled("team", &json!({"pullpass-test": group}));
    let image = cluster.registries().fresh(ALPHA.host, "status/web");
    team.kubectl(&["create", "-f", "-"], &deployment(&image).to_string());
    let old = wait_for("the Pod fails to pull", ONE_BACK_OFF, || {
        let pods = team.list("pods", "labelSelector=app%3Dweb")?;
        let name = pods.first().ok_or("no Pod")?["metadata"]["name"].clone();
        let name = name.as_str().ok_or("no name")?.to_owned();
        let waiting = &pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        let failed = waiting == "ErrImagePull" || waiting == "ImagePullBackOff";
        failed.then_some(name).ok_or_else(|| waiting.to_string())
    });
    let before = ask(cluster, &delivery, &["status"]);
    assert_eq!(before.report["restarts"], json!([]), "{}", before.text());
    assert_eq!(before.code, Some(0), "{}", before.text());

    delivery.set_pull_secrets("{name: regcred, namespaces: NAMESPACES}");
    delivery.until_copied(&team, "regcred", &login);
    let trial = pod("trial", &[("app", &image)]);
    wait_for("the webhook has the rule", HAPPY, || {
        let made = team.dry_run(&trial)?;
        let is_injected = pull_secrets_of(&made) == ["regcred"];
        is_injected.then_some(()).ok_or_else(|| made.to_string())
    });
    let listed = until(
        "the Pod is listed",
        cluster,
        &delivery,
        &["status"],
        |said| {
            said.report["restarts"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        },
    );
    let fix = format!("kubectl -n {} rollout restart deployment/web", team.name);
    let expected =
        json!([{"namespace": team.name, "pods": [old], "adds": ["regcred"], "fix": fix}]);
    assert_eq!(listed.report["restarts"], expected);
    assert_eq!(listed.code, Some(1));

    run(cluster, &fix);
    team.kubectl(
        &["rollout", "status", "deployment/web", "--timeout=60s"],
        "",
    );
    let after = until(
        "the list is empty",
        cluster,
        &delivery,
        &["status"],
        |said| said.report["restarts"] == json!([]) && said.code == Some(0),
    );
    let copies = &after.report["pull_secrets"][0]["copies"];
    assert_eq!(copies["present"], json!([team.name]));
}

/// Runs a command that was given as a fix.
fn run(cluster: &Cluster, fix: &str) {
    let path = std::env::var("PATH").expect("it is set");
    let status = Command::new("sh")
        .args(["-c", fix])
        .env("PATH", format!("{}:{path}", tools().display()))
        .env("KUBECONFIG", cluster.kubectl.kubeconfig())
        .status();
    assert!(status.expect("sh can be started").success(), "{fix}");
}

fn copies(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    create_deployment(&delivery);
    let there = delivery.namespace("there");
    delivery.until_copied(&there, "regcred", &payload("first"));
    // Not permitted at first, so that somebody else has the name before the controller.
    let taken = delivery.name_of("taken");
    let entry = format!("{{name: regcred, namespaces: NAMESPACES, excludeNamespaces: [{taken}]}}");
    delivery.set_pull_secrets(&entry);
    let taken = delivery.namespace("taken");
    taken.create_object("secrets", &secret("regcred", &payload("theirs")));
    delivery.set_pull_secrets("{name: regcred, namespaces: NAMESPACES}");
    let said = until(
        "the foreign one is seen",
        cluster,
        &delivery,
        &["status"],
        |said| {
            said.report["pull_secrets"][0]["copies"]["foreign"] == json!([taken.name])
                && said.report["index_is_current"] == true
        },
    );
    assert_eq!(said.code, Some(1), "{}", said.text());
    let regcred = &said.report["pull_secrets"][0];
    assert_eq!(regcred["source"]["state"], "usable");
    assert_eq!(regcred["index"]["state"], "usable");
    assert_eq!(regcred["registries"], json!(["registry.example.com"]));
    let present = regcred["copies"]["present"].as_array().expect("a list");
    assert!(present.contains(&json!(there.name)), "{}", said.text());

    let source = format!("/api/v1/namespaces/{}/secrets/regcred", delivery.own().name);
    cluster.api.delete(&source).expect("it is there");
    let said = until(
        "the source is missed",
        cluster,
        &delivery,
        &["status"],
        |said| said.report["pull_secrets"][0]["index"]["state"] == "stale",
    );
    let regcred = &said.report["pull_secrets"][0];
    assert_eq!(regcred["source"]["state"], "missing", "{}", said.text());
    let stale = regcred["copies"]["stale"].as_array().expect("a list");
    assert!(stale.contains(&json!(there.name)), "{}", said.text());
    assert!(!said.text().contains("first"), "no password is shown");
}

fn without_rights(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    create_deployment(&delivery);
    let team = delivery.namespace("team");
    delivery.until_copied(&team, "regcred", &payload("first"));
    let installation = &delivery.own().name;
    let nobody = cluster.account_kubeconfig(&cluster.api, installation, "default");
    let said = ask_as(&nobody, &delivery, &["status"]);
    assert_eq!(said.code, Some(2), "{}", said.text());
    assert!(
        said.errors.contains("cannot read the rules"),
        "{}",
        said.text()
    );
    let said = ask_as(&nobody, &delivery, &["cleanup", "--yes"]);
    assert_eq!(said.code, Some(2), "{}", said.text());
    assert!(
        said.errors.contains("list secrets in all namespaces"),
        "{}",
        said.text()
    );

    let role = [
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=configmaps,deployments.apps",
    ];
    delivery.own().kubectl(&role, "");
    let account = format!("--serviceaccount={installation}:default");
    let binding = ["create", "rolebinding", "reader", "--role=reader", &account];
    delivery.own().kubectl(&binding, "");
    let said = wait_for("the right is there", HAPPY, || {
        let said = ask_as(&nobody, &delivery, &["status"]);
        let is_read = said.code == Some(0);
        is_read
            .then(|| said.report.clone())
            .ok_or_else(|| said.text())
    });
    let unseen = said["unseen"].as_array().expect("a list");
    for what in [
        "copies: regcred",
        "Pods that a restart would fix",
        "sources",
    ] {
        let found = unseen.iter().find(|unseen| {
            let text = unseen["what"].as_str().unwrap_or_default();
            text.starts_with(what)
        });
        let found = found.unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(
            found["said"]
                .as_str()
                .is_some_and(|said| said.contains("forbidden")),
            "{found}"
        );
    }
    let regcred = &said["pull_secrets"][0];
    assert_eq!(regcred["source"]["state"], "unseen");
    assert_eq!(regcred["registries"], json!(["registry.example.com"]));
}

fn doctor(cluster: &Cluster) {
    let entries =
        "{name: regcred, namespaces: NAMESPACES}, {name: forgotten, namespaces: NAMESPACES}";
    let delivery = Delivery::start(cluster, &["regcred"], entries);
    create_deployment(&delivery);
    delivery.make_source("forgotten", &payload("first"));
    let own = &delivery.own().name;
    let problems = |expected: &[(&str, &str)]| {
        until("doctor says it", cluster, &delivery, &["doctor"], |said| {
            let findings = said.report["findings"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let findings = findings
                .iter()
                .filter(|finding| finding["check"] == "delivery" && finding["status"] == "problem");
            let found: Vec<_> = findings
                .map(|finding| {
                    [&finding["message"], &finding["fix"]]
                        .map(|text| text.as_str().unwrap_or_default())
                })
                .collect();
            found.len() == expected.len()
                && expected.iter().all(|(message, fix)| {
                    found
                        .iter()
                        .any(|[said, how]| said.contains(message) && how.contains(fix))
                })
        });
    };
    let forbidden = (
        "may not copy Secrets called forgotten",
        "delivery.secretNames={forgotten}",
    );
    let missing = format!("Secret {own}/regcred does not exist");
    let create = format!("kubectl -n {own} create secret docker-registry regcred");
    problems(&[forbidden, (&missing, &create)]);

    let team = delivery.namespace("team");
    delivery.make_source("regcred", &payload("first"));
    delivery.until_copied(&team, "regcred", &payload("first"));
    let not_there = format!(
        "copies of pull secret forgotten are missing in {}",
        team.name
    );
    problems(&[
        forbidden,
        (&not_there, "logs deployment/pullpass-controller"),
    ]);

    delivery.set_pull_secrets("{name: regcred, namespaces: NAMESPACES}");
    problems(&[]);
}

/// The Deployment of the controller, by which commands know what things are called; nobody runs it.
pub(super) fn create_deployment(delivery: &Delivery<'_>) {
    let installation = &delivery.own().name;
    let labels = json!({
        "app.kubernetes.io/name": "pullpass",
        "app.kubernetes.io/instance": installation,
        "app.kubernetes.io/component": "controller",
    });
    let arguments = [
        "controller".to_owned(),
        "--delivery".to_owned(),
        format!("--webhook-configuration={installation}"),
        format!("--rules-config-map={RULES}"),
        format!("--index-config-map={INDEX}"),
    ];
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "pullpass-controller", "labels": labels},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"serviceAccountName": "pullpass-controller", "containers": [
                    {"name": "controller", "image": "pullpass.example.com/pullpass", "args": arguments},
                ]},
            },
        },
    });
    delivery
        .own()
        .kubectl(&["create", "-f", "-"], &object.to_string());
}

/// Ends the controller, which has no Deployment.
fn stop(delivery: &Delivery<'_>) {
    delivery.controller.terminate();
    wait_for("the controller ends", HAPPY, || {
        let code = delivery.controller.exit_code();
        code.ok_or_else(|| "it runs".to_owned())
    });
}

fn exists(namespace: &Namespace<'_>, name: &str) -> bool {
    namespace.get("secrets", name).is_ok()
}

fn cleanup_kept(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let teams = ["one", "two"].map(|suffix| delivery.namespace(suffix));
    for team in &teams {
        delivery.until_copied(team, "regcred", &payload("first"));
    }
    create_deployment(&delivery);
    let listed = ask(cluster, &delivery, &["cleanup"]);
    assert_eq!(listed.code, Some(1), "{}", listed.text());
    assert_eq!(listed.report["delivers"], true);
    let refused = ask(cluster, &delivery, &["cleanup", "--yes"]);
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(
        refused.errors.contains("helm uninstall"),
        "{}",
        refused.text()
    );
    assert!(teams.iter().all(|team| exists(team, "regcred")));

    // One that no longer runs, and rules that no longer permit one of the namespaces.
    stop(&delivery);
    let rules = format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
         pullSecrets: [{{name: regcred, namespaces: [{}]}}]\nrules: []\n",
        teams[0].name
    );
    delivery.set_rules(&rules);
    let said = ask(cluster, &delivery, &["cleanup", "--yes"]);
    assert_eq!(said.code, Some(1), "{}", said.text());
    assert!(exists(&teams[0], "regcred"));
    assert!(!exists(&teams[1], "regcred"));
}

fn cleanup_all(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let other = Delivery::of_regcred(cluster);
    let team = delivery.namespace("team");
    let others = other.namespace("team");
    delivery.until_copied(&team, "regcred", &payload("first"));
    other.until_copied(&others, "regcred", &payload("first"));
    team.create_object("secrets", &secret("mine", &payload("mine")));
    let mut named = pod("web", &[("app", "registry.example.com/web")]);
    named["spec"]["imagePullSecrets"] = json!([{"name": "regcred"}, {"name": "mine"}]);
    named["spec"]["schedulerName"] = json!("nobody");
    team.create_object("pods", &named);
    stop(&delivery);
    let listed = ask(cluster, &delivery, &["cleanup"]);
    let expected = json!([{"namespace": team.name, "secret": "regcred", "pods": 1,
        "fate": "deletable", "reason": null}]);
    assert_eq!(listed.report["copies"], expected, "{}", listed.text());
    assert_eq!(listed.code, Some(1));
    assert_eq!(
        listed.report["others"][other.instance()],
        1,
        "{}",
        listed.text()
    );
    assert!(exists(&team, "regcred"), "nothing is deleted without --yes");

    let deleted = ask(cluster, &delivery, &["cleanup", "--yes"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.text());
    assert_eq!(deleted.report["copies"][0]["fate"], "deleted");
    assert!(!exists(&team, "regcred"));
    assert!(exists(&team, "mine") && exists(delivery.own(), "regcred"));
    assert!(
        exists(&others, "regcred"),
        "another installation's copy stays"
    );
    let again = ask(cluster, &delivery, &["cleanup", "--yes"]);
    assert_eq!(again.code, Some(0), "{}", again.text());
    assert_eq!(again.report["copies"], json!([]));
}

fn attached_accounts(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    create_deployment(&delivery);
    let team = delivery.namespace("team");
    delivery.until_listed(&team, "default", &["regcred"]);
    let account = format!("{}/default", team.name);
    let until_said = |what, expected: Value| {
        until(what, cluster, &delivery, &["status"], |said| {
            said.report["pull_secrets"][0]["accounts"] == expected
        });
    };
    until_said("it is there", json!({"attached": [account], "missing": []}));
    stop(&delivery);
    team.set_account_secrets("default", &["x"]);
    until_said(
        "it is missing",
        json!({"attached": [], "missing": [account]}),
    );
}

/// What is recorded as ours is taken out of ServiceAccounts, and nothing else.
fn cleanup_attached(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    let team = delivery.namespace("team");
    delivery.until_listed(&team, "default", &["regcred"]);
    team.set_account_secrets("default", &["x"]);
    delivery.until_listed(&team, "default", &["x", "regcred"]);
    delivery.until_copied(&team, "regcred", &payload("first"));
    let theirs = json!({
        "metadata": {"name": "theirs", "annotations": {"pullpass.dev/attached": "b.c/regcred"}},
        "imagePullSecrets": [{"name": "regcred"}],
    });
    team.create_object("serviceaccounts", &theirs);
    stop(&delivery);
    let listed = ask(cluster, &delivery, &["cleanup"]);
    let expected = json!([{"namespace": team.name, "service_account": "default",
        "secrets": ["regcred"], "fate": "deletable", "reason": null}]);
    assert_eq!(
        listed.report["service_accounts"],
        expected,
        "{}",
        listed.text()
    );
    delivery.until_listed(&team, "default", &["x", "regcred"]);

    let done = ask(cluster, &delivery, &["cleanup", "--yes"]);
    assert_eq!(done.code, Some(0), "{}", done.text());
    assert_eq!(done.report["service_accounts"][0]["fate"], "deleted");
    delivery.until_listed(&team, "default", &["x"]);
    delivery.until_listed(&team, "theirs", &["regcred"]);
    assert!(!exists(&team, "regcred"));
}

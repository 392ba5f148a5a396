//! `pullpass explain pod/NAME` on the node: each way not to get an image is brought about, and told from the others by
//! the words of a real kubelet and containerd.

use std::process::Command;

use serde_json::{Value, json};

use super::status::create_deployment;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::Delivery;
use crate::harness::namespace::{
    Namespace, container, docker_config, pod, pull_secret, pull_secrets_of,
};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::harness::webhook::{Pullpass, Reach, Registration};
use crate::registry::{ALPHA, Account, BETA, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_60_each_failure_is_explained", scenario_60);
}

/// The rules that make a Pod with an image of [`ALPHA`] pull.
const ENTRY: &str = "{name: regcred, namespaces: NAMESPACES}";

/// An installation without a rule, and a namespace that its webhook sees.
pub(super) struct Trial<'a> {
    cluster: &'a Cluster,
    pub(super) delivery: Delivery<'a>,
    _webhook: Pullpass,
    pub(super) team: Namespace<'a>,
}

impl<'a> Trial<'a> {
    pub(super) fn start(cluster: &'a Cluster) -> Self {
        Self::of(cluster, Delivery::start(cluster, &["regcred"], ""))
    }

    /// The same of this delivery.
    pub(super) fn of(cluster: &'a Cluster, delivery: Delivery<'a>) -> Self {
        create_deployment(&delivery);
        let webhook = Pullpass::following(cluster, delivery.own(), &cluster.plane.kubeconfig);
        webhook.until_ready();
        let group = &delivery.own().name;
        delivery.installation.delete_configuration();
        let registration = Registration {
            name: group.clone(),
            ..Registration::pullpass(group, Reach::Url(webhook.url()))
        };
        registration.create(cluster);
        let team = delivery.namespace_labelled("team", &json!({"pullpass-test": group}));
        Self {
            cluster,
            delivery,
            _webhook: webhook,
            team,
        }
    }

    /// From now on, Pods with an image of [`ALPHA`] get its login.
    pub(super) fn make_rule(&self) {
        let login = docker_config(&[ALPHA.entry()]).to_string();
        self.delivery.make_source("regcred", &login);
        self.delivery.set_pull_secrets(ENTRY);
        self.delivery.until_copied(&self.team, "regcred", &login);
        let trial = pod("trial", &[("app", &format!("{}/trial:1", ALPHA.host))]);
        wait_for("the webhook has the rule", HAPPY, || {
            let made = self.team.dry_run(&trial)?;
            let is_injected = pull_secrets_of(&made) == ["regcred"];
            is_injected.then_some(()).ok_or_else(|| made.to_string())
        });
    }

    /// What `explain` says of a Pod, and its exit code.
    fn explain(&self, pod: &str) -> (Option<i32>, Value) {
        let installation = &self.delivery.own().name;
        let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
            .args(["explain", &format!("pod/{pod}"), "-n", &self.team.name])
            .args(["--installation", installation])
            .args(["--webhook-configuration", installation])
            .args(["-o", "json"])
            .env("KUBECONFIG", self.cluster.kubectl.kubeconfig())
            .output()
            .expect("pullpass can be started");
        let report = serde_json::from_slice(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            report.unwrap_or_else(|_| json!(errors)),
        )
    }

    /// Waits until an image of the Pod is explained so.
    #[track_caller]
    fn until_explained(&self, pod: &str, place: &str, failure: &str, cause: &str) -> Value {
        wait_for(&format!("{pod}: {failure}, {cause}"), ONE_BACK_OFF, || {
            let (code, report) = self.explain(pod);
            let images = report["images"].as_array().into_iter().flatten();
            let failing: Vec<&Value> = images.filter(|one| one["state"] == "failing").collect();
            let expected = [json!(place), json!(failure), json!(cause)];
            let is_so = |image: &&&Value| {
                [&image["place"], &image["failure"], &image["cause"]] == expected.each_ref()
            };
            let found = failing.iter().find(is_so).filter(|_| code == Some(1));
            found
                .map(|image| (*image).clone())
                .ok_or_else(|| report.to_string())
        })
    }
}

/// A Pod of one container that names these pull secrets.
fn naming(name: &str, image: &str, secrets: &[&str]) -> Value {
    let mut pod = pod(name, &[("app", image)]);
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    pod["spec"]["imagePullSecrets"] = json!(secrets);
    pod
}

/// A Pod, the place of its image that fails, and how that is told.
type Row = (Value, &'static str, &'static str, &'static str);

/// Images that no login helps; `m403.example.com` and `m503.example.com` answer with that.
fn rows_of_registries(cluster: &Cluster) -> Vec<Row> {
    let kit = cluster.registries();
    kit.lead_plain("tls.example.com");
    let limited = kit.fresh("docker.io", "explain/limit");
    let foreign = kit.other_platform("explain/foreign");
    let row = |name: &str, image: &str, failure, cause| -> Row {
        (pod(name, &[("app", image)]), "containers", failure, cause)
    };
    let [x509, http] = [kit.untrusted(), kit.plain_http()].map(|host| format!("{host}/app:1"));
    let never = kit.fresh_public("explain/never");
    let mut never = row("never", &never, "never_pulled", "other");
    never.0["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    vec![
        row("limit", &limited, "rate_limited", "no_login"),
        row("m403", "m403.example.com/a/b:1", "denied", "no_login"),
        row("m503", "m503.example.com/a/b:1", "registry_error", "other"),
        row("x509", &x509, "untrusted_certificate", "other"),
        row("http", &http, "plain_http", "other"),
        row("tls", "tls.example.com/a:1", "tls_expected", "other"),
        row("port", "127.0.0.1:1/a:1", "connection_refused", "other"),
        row("name", "127.0.0.1:5099/A/b:1", "invalid_reference", "other"),
        row("foreign", &foreign, "no_platform", "other"),
        row("gone", "127.0.0.1:5099/gone:1", "not_found", "other"),
        never,
    ]
}

/// Images that a login is about.
fn rows_of_logins(cluster: &Cluster, team: &Namespace<'_>) -> Vec<Row> {
    let kit = cluster.registries();
    let wrong = docker_config(&[(ALPHA.host, ALPHA.user, "not the password")]);
    let robot = Account::new("explain-robot", "of another", &["explain/another"]);
    kit.tokens.permit(&robot);
    let garbage = json!({"auths": {"127.0.0.1:5099": {"auth": "no base64!"}}});
    for secret in [
        pull_secret("wrong", &wrong),
        pull_secret("robot", &token_config("quay.io", &robot)),
        pull_secret("garbage", &garbage),
        ALPHA.secret(),
    ] {
        team.create_object("secrets", &secret);
    }
    let private = |name: &str| kit.fresh(ALPHA.host, &format!("explain/{name}"));
    // No rule is about these.
    let beyond = |name: &str| kit.fresh(BETA.host, &format!("explain/{name}"));
    let public = kit.fresh_public("explain/public");
    let mut volume = naming("volume", &public, &["missing"]);
    volume["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/data"}]);
    volume["spec"]["volumes"] = json!([{"name": "data", "image": {"reference": beyond("volume")}}]);
    let mut init = naming("init", &public, &["missing"]);
    init["spec"]["initContainers"] = json!([container("first", &beyond("init"))]);
    let hidden = format!("{}/explain/no-such:1", ALPHA.host);
    vec![
        (
            naming("wrong", &private("wrong"), &["wrong"]),
            "containers",
            "unauthorized",
            "login_refused",
        ),
        (
            naming("robot", &kit.fresh("quay.io", "explain/robot"), &["robot"]),
            "containers",
            "denied",
            "login_not_permitted",
        ),
        (
            naming("absent", &beyond("absent"), &["missing"]),
            "containers",
            "unauthorized",
            "secret_missing",
        ),
        (
            naming("garbage", &public, &["garbage"]),
            "containers",
            "undecodable_secret",
            "secret_undecodable",
        ),
        (
            naming("no-such", &hidden, &["alpha"]),
            "containers",
            "not_found",
            "other",
        ),
        (volume, "volumes", "unauthorized", "secret_missing"),
        (init, "initContainers", "unauthorized", "secret_missing"),
    ]
}

fn scenario_60(cluster: &Cluster) {
    let trial = Trial::start(cluster);
    let team = &trial.team;
    let kit = cluster.registries();
    let image = kit.fresh(ALPHA.host, "explain/older");
    team.create_object("pods", &pod("older", &[("app", &image)]));
    let _moody = [403, 503].map(|status| kit.moody(&format!("m{status}.example.com"), status));
    let mut rows = rows_of_registries(cluster);
    rows.extend(rows_of_logins(cluster, team));
    for (pod, ..) in &rows {
        team.create_object("pods", pod);
    }
    let before = trial.until_explained("older", "containers", "unauthorized", "no_login");
    trial.make_rule();
    let older = trial.until_explained("older", "containers", "unauthorized", "older_than_rule");
    let fix = format!(
        "kubectl -n {} delete pod older, and create it again",
        team.name
    );
    assert_eq!(older["fix"], fix);
    println!("before the rule: {}", before["says"]);
    for (pod, place, failure, cause) in rows {
        let name = pod["metadata"]["name"].as_str().expect("it has one");
        let image = trial.until_explained(name, place, failure, cause);
        println!("{failure}: {}: {}", image["reason"], image["message"]);
        let text = image.to_string();
        let leaked = ["not the password", ALPHA.password, "of another"];
        assert!(!leaked.iter().any(|secret| text.contains(secret)), "{text}");
    }
    let image = kit.fresh(ALPHA.host, "explain/fine");
    team.create_object("pods", &pod("fine", &[("app", &image)]));
    team.running("fine");
    let (code, report) = trial.explain("fine");
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        report["images"][0]["logins"][0]["secret"], "regcred",
        "{report}"
    );
    assert_eq!(report["pull_secrets"][0]["state"], "current", "{report}");
}

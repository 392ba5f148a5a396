//! `pullpass explain pod/NAME` on the node: each way not to get an image is brought about, and told from the others by
//! the words of a real kubelet and containerd.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::status::create_deployment;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::Delivery;
use crate::harness::namespace::{
    Namespace, bound_pod, container, docker_config, pod, pull_secret, pull_secrets_of,
};
use crate::harness::node::Node;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, NEW_NODE, ONE_BACK_OFF, wait_for};
use crate::harness::webhook::{Pullpass, Reach, Registration};
use crate::registry::{ALPHA, Account, BETA, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_60_each_failure_is_explained", scenario_60);
    trials.node(
        "scenario_12_a_stale_login_for_a_public_image_is_explained",
        scenario_12,
    );
}

/// The rules that make a Pod with an image of [`ALPHA`] pull.
const ENTRY: &str = "{name: regcred, namespaces: NAMESPACES}";
/// The words that are known, each with its class: all classes there are, as a test beside them holds.
const KNOWN: &str = include_str!("../../data/kubelet-messages.yaml");
/// Classes that no kubelet with containerd tells: only a runtime with a signature policy (CRI-O) has words for it.
const UNTOLD: [&str; 1] = ["signature"];

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
        self.make_rule_of(&docker_config(&[ALPHA.entry()]));
        self.until_injected(&format!("{}/trial:1", ALPHA.host), &["regcred"]);
    }

    /// The same of this login; webhooks may not know it yet.
    fn make_rule_of(&self, login: &Value) {
        let login = login.to_string();
        self.delivery.make_source("regcred", &login);
        self.delivery.set_pull_secrets(ENTRY);
        self.delivery.until_copied(&self.team, "regcred", &login);
    }

    /// Waits until a Pod with this image would get these pull secrets.
    #[track_caller]
    fn until_injected(&self, image: &str, names: &[&str]) {
        let trial = pod("trial", &[("app", image)]);
        wait_for("the webhook has the rule", HAPPY, || {
            let made = self.team.dry_run(&trial)?;
            let is_so = pull_secrets_of(&made) == names;
            is_so.then_some(()).ok_or_else(|| made.to_string())
        });
    }

    /// What `explain` says of a Pod to the owner of a kubeconfig, and its exit code.
    fn explain(&self, kubeconfig: &Path, pod: &str) -> (Option<i32>, Value) {
        let installation = &self.delivery.own().name;
        let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
            .args(["explain", &format!("pod/{pod}"), "-n", &self.team.name])
            .args(["--installation", installation])
            .args(["--webhook-configuration", installation])
            .args(["-o", "json"])
            .env("KUBECONFIG", kubeconfig)
            .output()
            .expect("pullpass can be started");
        let report = serde_json::from_slice(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            report.unwrap_or_else(|_| json!(errors)),
        )
    }

    /// Waits until an image of the Pod is explained so to the administrator.
    #[track_caller]
    fn until_explained(&self, pod: &str, place: &str, failure: &str, cause: &str) -> Value {
        let administrator = self.cluster.kubectl.kubeconfig();
        self.until_explained_to(administrator, pod, [place, failure, cause])
    }

    /// The same to the owner of this kubeconfig: the place of the image, its failure and the cause.
    #[track_caller]
    fn until_explained_to(&self, kubeconfig: &Path, pod: &str, expected: [&str; 3]) -> Value {
        wait_for(&format!("{pod}: {expected:?}"), NEW_NODE, || {
            let (code, report) = self.explain(kubeconfig, pod);
            let images = report["images"].as_array().into_iter().flatten();
            let failing: Vec<&Value> = images.filter(|one| one["state"] == "failing").collect();
            let is_so = |image: &&&Value| {
                ["place", "failure", "cause"].map(|field| &image[field]) == expected
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

/// Images that no login helps; `m403.example.com` and the like answer with that.
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
        row("m418", "m418.example.com/a/b:1", "other", "other"),
        row("m503", "m503.example.com/a/b:1", "registry_error", "other"),
        row("x509", &x509, "untrusted_certificate", "other"),
        row("http", &http, "plain_http", "other"),
        row("tls", "tls.example.com/a:1", "tls_expected", "other"),
        row("port", "127.0.0.1:1/a:1", "connection_refused", "other"),
        // Nobody answers questions for names in here, and no way leads out.
        row("host", "no-such.invalid/a:1", "unknown_host", "other"),
        row("away", "192.0.2.1/a:1", "unreachable", "other"),
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
    let limited = docker_config(&[("m429.example.com", "limited", "of the limited")]);
    let garbage = json!({"auths": {"127.0.0.1:5099": {"auth": "no base64!"}}});
    for secret in [
        pull_secret("wrong", &wrong),
        pull_secret("robot", &token_config("quay.io", &robot)),
        pull_secret("limited", &limited),
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
            naming("limited", "m429.example.com/a/b:1", &["limited"]),
            "containers",
            "rate_limited",
            "login_limited",
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

/// What goes wrong on a node that pulls one image a second, and then has no room for more.
fn explain_of_node(trial: &Trial<'_>, node: &Node) -> [Value; 2] {
    let at_once = ["a", "b", "c", "d"].map(|name| (name, format!("127.0.0.1:1/{name}:1")));
    let at_once = at_once.each_ref().map(|(name, image)| (*name, &**image));
    let team = &trial.team;
    team.create_object("pods", &bound_pod(&node.name, "throttled", &at_once));
    let throttled = trial.until_explained("throttled", "containers", "throttled", "other");
    node.fill_store();
    let image = trial.cluster.registries().fresh_public("explain/full");
    team.create_object("pods", &bound_pod(&node.name, "full", &[("app", &image)]));
    let full = trial.until_explained("full", "containers", "disk_full", "other");
    [throttled, full]
}

/// Of the Pod `wrong`, somebody asks who may see Pods and no Secrets.
fn explain_to_a_stranger(trial: &Trial<'_>) {
    let team = &trial.team;
    let role = ["create", "role", "stranger", "--verb=get,list"];
    team.kubectl(&[&role[..], &["--resource=pods,events"]].concat(), "");
    let account = format!("--serviceaccount={}:default", team.name);
    let binding = ["create", "rolebinding", "stranger", "--role=stranger"];
    team.kubectl(&[&binding[..], &[&account]].concat(), "");
    let cluster = trial.cluster;
    let stranger = cluster.account_kubeconfig(&cluster.api, &team.name, "default");
    let expected = ["containers", "unauthorized", "login_unseen"];
    let image = trial.until_explained_to(&stranger, "wrong", expected);
    let fix = format!(
        "run it as someone who may get secrets/wrong -n {}",
        team.name
    );
    assert_eq!(image["fix"], fix);
}

fn scenario_60(cluster: &Cluster) {
    let trial = Trial::start(cluster);
    let team = &trial.team;
    let kit = cluster.registries();
    let image = kit.fresh(ALPHA.host, "explain/older");
    team.create_object("pods", &pod("older", &[("app", &image)]));
    let _answering = [
        StatusCode::FORBIDDEN,
        StatusCode::IM_A_TEAPOT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ]
    .map(|status| kit.answering(&format!("m{}.example.com", status.as_u16()), status));
    let mut rows = rows_of_registries(cluster);
    rows.extend(rows_of_logins(cluster, team));
    for (pod, ..) in &rows {
        team.create_object("pods", pod);
    }
    let one_a_second = json!({"registryPullQPS": 1, "registryBurst": 1});
    let node = cluster.another_node_with(None, one_a_second);
    let before = trial.until_explained("older", "containers", "unauthorized", "no_login");
    trial.make_rule();
    let older = trial.until_explained("older", "containers", "unauthorized", "older_than_rule");
    let fix = format!(
        "kubectl -n {} delete pod older, and create it again",
        team.name
    );
    assert_eq!(older["fix"], fix);
    println!("before the rule: {}", before["says"]);
    let images = rows.into_iter().map(|(pod, place, failure, cause)| {
        let name = pod["metadata"]["name"].as_str().expect("it has one");
        trial.until_explained(name, place, failure, cause)
    });
    let mut told = BTreeSet::new();
    for image in images.chain(explain_of_node(&trial, &node)) {
        let failure = image["failure"].as_str().expect("it has one");
        println!("{failure}: {}: {}", image["reason"], image["message"]);
        told.insert(failure.to_owned());
        let text = image.to_string();
        let leaked = [
            "not the password",
            ALPHA.password,
            "of another",
            "of the limited",
        ];
        assert!(!leaked.iter().any(|secret| text.contains(secret)), "{text}");
    }
    assert_eq!(told, tellable());
    explain_to_a_stranger(&trial);
    let image = kit.fresh(ALPHA.host, "explain/fine");
    team.create_object("pods", &pod("fine", &[("app", &image)]));
    team.running("fine");
    let (code, report) = trial.explain(cluster.kubectl.kubeconfig(), "fine");
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        report["images"][0]["logins"][0]["secret"], "regcred",
        "{report}"
    );
    assert_eq!(report["pull_secrets"][0]["state"], "current", "{report}");
}

/// Every class but [`UNTOLD`].
fn tellable() -> BTreeSet<String> {
    let rows: Vec<Value> = serde_saphyr::from_multiple(KNOWN).expect("it is YAML");
    let classes = rows.iter().filter_map(|row| row["class"].as_str());
    let told = classes.filter(|class| !UNTOLD.contains(class));
    told.map(str::to_owned).collect()
}

/// A login that ended keeps a public image away, and each way out that is said is one.
fn scenario_12(cluster: &Cluster) {
    const REPOSITORY: &str = "scenario-12/explained";
    let trial = Trial::start(cluster);
    let (team, kit) = (&trial.team, cluster.registries());
    let image = || kit.fresh("quay.io", REPOSITORY);
    kit.tokens.publish(REPOSITORY);
    team.create_object("pods", &pod("without", &[("app", &image())]));
    team.running("without");

    let mut account = Account::new("explained+stale", "over", &[REPOSITORY]);
    trial.make_rule_of(&token_config("quay.io", &account));
    trial.until_injected("quay.io/trial:1", &["regcred"]);
    team.create_object("pods", &pod("stale", &[("app", &image())]));
    let stale = trial.until_explained("stale", "containers", "unauthorized", "login_refused");
    let own = &trial.delivery.own().name;
    let exclude = format!("excludeImages: [quay.io/{REPOSITORY}]");
    let fix = format!(
        "put the right password into the source, Secret {own}/regcred; or leave a public image out of the rule: {exclude}"
    );
    assert_eq!(stale["fix"], fix);
    let says = stale["says"].as_str().unwrap_or_default();
    assert!(says.contains("the kubelet does not try without"), "{says}");

    // The one way, for new Pods.
    trial.delivery.set_rules(&format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
         pullSecrets: [{{name: regcred, namespaces: [\"{own}-*\"]}}]\n\
         rules: [{{name: regcred, {exclude}, pullSecrets: [regcred]}}]\n"
    ));
    trial.until_injected(&format!("quay.io/{REPOSITORY}:1"), &[]);
    team.create_object("pods", &pod("left-out", &[("app", &image())]));
    team.running("left-out");
    // The other, also for this one.
    account.password = "right".to_owned();
    kit.tokens.permit(&account);
    let login = token_config("quay.io", &account).to_string();
    trial.delivery.change_source("regcred", &login);
    team.running_within("stale", ONE_BACK_OFF);
}

//! The webhook as it runs in a cluster: rules, index, certificate and namespaces come from the API
//! server, under an account that may read just those.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{IMAGE, RULES};
use crate::harness::api::Api;
use crate::harness::cluster::Cluster;
use crate::harness::namespace::Namespace;
use crate::harness::pki::Pair;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::Pullpass;

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "watches_a_rules_edit_is_live_and_a_bad_one_is_not",
        rules_edits,
    );
    trials.api("watches_a_cold_start_with_bad_rules_recovers", cold_start);
}

/// Names of the objects, as the chart calls them.
const RULES_MAP: &str = "pullpass-rules";
const INDEX_MAP: &str = "pullpass-index";
const TLS_SECRET: &str = "pullpass-tls";
const ACCOUNT: &str = "pullpass-webhook";

/// A webhook that follows the objects of a namespace of its own.
struct Follower<'a> {
    pullpass: Pullpass,
    namespace: Namespace<'a>,
    kubeconfig: PathBuf,
    cluster: &'a Cluster,
}

impl<'a> Follower<'a> {
    /// Starts it under these rules; it need not become ready.
    fn start(cluster: &'a Cluster, rules: &str) -> Self {
        Self::start_at(cluster, &cluster.api, rules)
    }

    /// Starts it on this API server.
    fn start_at(cluster: &'a Cluster, api: &Api, rules: &str) -> Self {
        let namespace = Namespace::create(cluster, "follower", "none");
        grant(cluster, &namespace.name);
        namespace.create_object("configmaps", &config_map(RULES_MAP, "rules.yaml", rules));
        let secret = tls_secret(&cluster.webhook_certificate());
        namespace.create_object("secrets", &secret);
        let kubeconfig = cluster.account_kubeconfig(api, &namespace.name, ACCOUNT);
        let pullpass = Pullpass::launch(cluster, Ipv4Addr::LOCALHOST, |command| {
            command
                .env("KUBECONFIG", &kubeconfig)
                .args(["--namespace", &namespace.name, "--tls-secret", TLS_SECRET])
                .args(["--rules-config-map", RULES_MAP])
                .args(["--index-config-map", INDEX_MAP]);
        });
        Self {
            pullpass,
            namespace,
            kubeconfig,
            cluster,
        }
    }

    /// Starts it and waits until it is ready.
    fn ready(cluster: &'a Cluster, rules: &str) -> Self {
        let follower = Self::start(cluster, rules);
        follower.pullpass.until_ready();
        follower
    }

    /// Applies these rules, and gives the moment before.
    fn edit(&self, rules: &str) -> Instant {
        let before = Instant::now();
        let map = config_map(RULES_MAP, "rules.yaml", rules);
        self.namespace
            .kubectl(&["replace", "-f", "-"], &map.to_string());
        before
    }

    /// Names of the secrets that a Pod with `image` in `namespace` gets, asked of the webhook itself.
    fn decides(&self, namespace: &str, image: &str) -> Vec<String> {
        let api = self.cluster.api.at(self.pullpass.address());
        let answer = api.post("/mutate", &review(namespace, image));
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        let Some(patch) = answer["response"]["patch"].as_str() else {
            return Vec::new();
        };
        let patch = BASE64_STANDARD.decode(patch).expect("base64");
        let patch: Value = serde_json::from_slice(&patch).expect("JSON");
        let names = patch[0]["value"].as_array().expect("a new list").iter();
        names
            .map(|entry| entry["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// Waits until a Pod with `image` gets just these secrets.
    #[track_caller]
    fn until_decides(&self, image: &str, secrets: &[&str]) {
        wait_for("the webhook decides under new rules", HAPPY, || {
            let decided = self.decides("default", image);
            (decided == secrets)
                .then_some(())
                .ok_or_else(|| format!("{decided:?}"))
        });
    }

    /// Waits until the log holds `text`.
    #[track_caller]
    fn until_logged(&self, text: &str) {
        wait_for(&format!("{text} is logged"), HAPPY, || {
            let logged = self.pullpass.logged();
            logged.contains(text).then_some(()).ok_or(logged)
        });
    }
}

fn config_map(name: &str, key: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {key: text},
    })
}

fn tls_secret(pair: &Pair) -> Value {
    let base64 = |path: &PathBuf| BASE64_STANDARD.encode(std::fs::read(path).expect("we wrote it"));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": TLS_SECRET},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64(&pair.certificate), "tls.key": base64(&pair.key)},
    })
}

fn review(namespace: &str, image: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "direct",
            "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "object": {"metadata": {}, "spec": {"containers": [{"name": "app", "image": image}]}},
        },
    })
}

/// Makes the webhook's account, with what it may do and nothing else.
fn grant(cluster: &Cluster, namespace: &str) {
    const READ: [&str; 3] = ["get", "list", "watch"];
    let core = |resource: &str, names: &[&str], verbs: &[&str]| {
        let mut rule = json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let of_kind = |kind: &str, name: &str, mut object: Value| {
        let is_account = kind == "ServiceAccount";
        let group = if is_account {
            "v1"
        } else {
            "rbac.authorization.k8s.io/v1"
        };
        object["apiVersion"] = json!(group);
        object["kind"] = json!(kind);
        object["metadata"] = json!({"name": name, "namespace": namespace});
        object
    };
    let subjects = json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]);
    let binding = |kind: &str, name: &str| {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        json!({"subjects": subjects, "roleRef": role})
    };
    let role = json!({"rules": [
        core("configmaps", &[RULES_MAP, INDEX_MAP], &READ),
        core("secrets", &[TLS_SECRET], &READ),
    ]});
    let cluster_role = json!({"rules": [core("namespaces", &[], &["list", "watch"])]});
    let wide = format!("{ACCOUNT}-{namespace}");
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        of_kind("ServiceAccount", ACCOUNT, json!({})),
        of_kind("Role", ACCOUNT, role),
        of_kind("RoleBinding", ACCOUNT, binding("Role", ACCOUNT)),
        of_kind("ClusterRole", &wide, cluster_role),
        of_kind("ClusterRoleBinding", &wide, binding("ClusterRole", &wide)),
    ]});
    cluster
        .kubectl
        .run(&["create", "-f", "-"], &objects.to_string());
}

fn rules_edits(cluster: &Cluster) {
    let follower = Follower::ready(cluster, RULES);
    assert_eq!(follower.decides("default", IMAGE), ["alpha"]);

    let edited = follower.edit(
        &RULES
            .replace("alpha}", "beta}")
            .replace("[alpha]", "[beta]"),
    );
    follower.until_decides(IMAGE, &["beta"]);
    println!(
        "a rules edit was live after {:.3} s",
        edited.elapsed().as_secs_f64()
    );

    follower.edit(&RULES.replace("images:", "imagez:"));
    follower.until_logged("rules refused: the last good ones stay in use");
    assert!(follower.pullpass.logged().contains("rules.yaml:5:"));
    assert_eq!(follower.pullpass.metric("pullpass_rules_valid"), 0.0);
    assert_eq!(follower.decides("default", IMAGE), ["beta"]);
    follower.pullpass.until_ready();

    follower
        .namespace
        .kubectl(&["delete", "configmap", RULES_MAP], "");
    follower.until_logged("pullpass-rules does not exist");
    assert_eq!(follower.decides("default", IMAGE), ["beta"]);

    let empty = "{apiVersion: pullpass.dev/v1alpha1, kind: PullRules, pullSecrets: [], rules: []}";
    let empty = config_map(RULES_MAP, "rules.yaml", empty);
    follower.namespace.create_object("configmaps", &empty);
    follower.until_decides(IMAGE, &[]);
    assert_eq!(follower.pullpass.metric("pullpass_rules_valid"), 1.0);
    assert_eq!(follower.pullpass.metric("pullpass_rules_generation"), 3.0);
}

fn cold_start(cluster: &Cluster) {
    let follower = Follower::start(cluster, &RULES.replace("images:", "imagez:"));
    wait_for("the probe says why", HAPPY, || {
        let report = follower.pullpass.probe("/readyz").expect_err("not ready");
        report
            .contains("[-] rules: rules.yaml:5:")
            .then_some(())
            .ok_or(report)
    });
    follower.edit(RULES);
    follower.pullpass.until_ready();
    assert_eq!(follower.decides("default", IMAGE), ["alpha"]);
}

//! The webhook as it runs in a cluster: rules, index, certificate and namespaces come from the API
//! server, under an account that may read just those.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pullpass::cluster::watch::WATCH_SECONDS;
use pullpass::index::IndexDocument;
use serde_json::{Value, json};

use super::{IMAGE, RULES};
use crate::harness::api::{Api, KeptConnection};
use crate::harness::cluster::Cluster;
use crate::harness::controller::{INDEX as INDEX_MAP, RULES as RULES_MAP, TLS as TLS_SECRET};
use crate::harness::kubectl::Kubectl;
use crate::harness::namespace::Namespace;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::{Pullpass, tls_secret};

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "watches_a_rules_edit_is_live_and_a_bad_one_is_not",
        rules_edits,
    );
    trials.api("watches_a_cold_start_with_bad_rules_recovers", cold_start);
    trials.api("watches_an_index_says_what_secrets_cover", index);
    trials.api(
        "incident_19_watches_a_rotated_certificate_is_served",
        rotation,
    );
    trials.api("watches_a_namespace_made_with_its_pod", new_namespaces);
    trials.api(
        "incident_10_incident_36_watches_survive_a_frozen_api_server",
        frozen,
    );
    trials.api("watches_the_account_may_read_and_nothing_else", account);
}

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
        let kubeconfig = cluster.account_kubeconfig(api, &namespace.name, ACCOUNT);
        let pullpass = Pullpass::following(cluster, &namespace, &kubeconfig);
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

    /// Waits until a metric is this.
    #[track_caller]
    fn until_metric(&self, series: &str, expected: f64) {
        wait_for(&format!("{series} is {expected}"), HAPPY, || {
            let now = self.pullpass.metric(series);
            (now == expected)
                .then_some(())
                .ok_or_else(|| now.to_string())
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
    let cluster_role = json!({"rules": [core("namespaces", &[], &READ)]});
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
    follower.until_metric("pullpass_rules_valid", 0.0);
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
    follower.until_metric("pullpass_rules_valid", 1.0);
    follower.until_metric("pullpass_rules_generation", 3.0);
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

fn index(cluster: &Cluster) {
    const COVERED: &str = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: alpha}]
rules: [{name: covered, pullSecrets: [alpha]}]
";
    let follower = Follower::start(cluster, COVERED);
    wait_for("the probe says that there is no index", HAPPY, || {
        let report = follower.pullpass.probe("/readyz").expect_err("not ready");
        let rest_is_met = ["[+] rules", "[+] certificate", "[+] namespaces"];
        let is_all = report.contains("[-] index: none that knows the rules yet")
            && rest_is_met.iter().all(|met| report.contains(met));
        is_all.then_some(()).ok_or(report)
    });
    let mut document = IndexDocument::new(COVERED);
    let secret = json!({"keys": ["registry.example.com"], "state": "usable"});
    let secret = serde_json::from_value(secret).expect("the form of the index");
    document.secrets.insert("alpha".to_owned(), secret);
    let json = document.to_json().expect("small");
    let map = config_map(INDEX_MAP, "index.json", &json);
    follower.namespace.create_object("configmaps", &map);
    follower.pullpass.until_ready();
    assert_eq!(follower.decides("default", IMAGE), ["alpha"]);
    assert!(
        follower
            .decides("default", "other.example.com/app")
            .is_empty()
    );

    let later = config_map(
        INDEX_MAP,
        "index.json",
        &json.replace("\"version\":1", "\"version\":2"),
    );
    follower
        .namespace
        .kubectl(&["replace", "-f", "-"], &later.to_string());
    follower.until_logged("index not used: the last good one stays in use");
    assert_eq!(follower.decides("default", IMAGE), ["alpha"]);
}

fn rotation(cluster: &Cluster) {
    let follower = Follower::ready(cluster, RULES);
    let address = follower.pullpass.address();
    let mut old = KeptConnection::open(&cluster.api.at(address));
    assert_eq!(old.post("/mutate", &review("default", IMAGE)), 200);

    let next = cluster.new_webhook_certificate();
    let secret = tls_secret(&next).to_string();
    let before = Instant::now();
    follower.namespace.kubectl(&["replace", "-f", "-"], &secret);
    wait_for("a handshake shows the new certificate", HAPPY, || {
        let shown = KeptConnection::open(&cluster.api.at(address)).certificate();
        let differs = "still the old certificate".to_owned();
        (shown == next.der()).then_some(()).ok_or(differs)
    });
    println!(
        "a rotated certificate was served after {:.3} s",
        before.elapsed().as_secs_f64()
    );
    assert_eq!(
        old.post("/mutate", &review("default", IMAGE)),
        200,
        "connections survive"
    );

    let mut mismatched = tls_secret(&cluster.new_webhook_certificate());
    mismatched["data"]["tls.key"] = tls_secret(&next)["data"]["tls.key"].clone();
    follower
        .namespace
        .kubectl(&["replace", "-f", "-"], &mismatched.to_string());
    follower.until_logged("the private key does not belong to the first certificate");
    follower
        .namespace
        .kubectl(&["delete", "secret", TLS_SECRET], "");
    follower.until_logged("pullpass-tls does not exist");
    assert_eq!(
        KeptConnection::open(&cluster.api.at(address)).certificate(),
        next.der()
    );
    follower.until_metric("pullpass_certificate_load_failures", 2.0);
    follower.pullpass.until_ready();
}

fn new_namespaces(cluster: &Cluster) {
    let rules = RULES.replace(
        "name: registry,",
        "name: registry, namespaceSelector: {matchLabels: {pull: \"yes\"}},",
    );
    let follower = Follower::ready(cluster, &rules);
    let mut at_once = 0;
    for _ in 0..20 {
        let name = cluster.unique("just-made");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pull": "yes"}},
        });
        cluster
            .api
            .post("/api/v1/namespaces", &object)
            .expect("the name is new");
        at_once += u32::from(follower.decides(&name, IMAGE) == ["alpha"]);
        wait_for("the namespace is known", HAPPY, || {
            let decided = follower.decides(&name, IMAGE);
            (decided == ["alpha"])
                .then_some(())
                .ok_or_else(|| format!("{decided:?}"))
        });
    }
    let waits = || follower.pullpass.metric("pullpass_namespace_waits_total");
    println!(
        "{at_once} of 20 Pods that came with their namespace were injected, {} reviews waited",
        waits()
    );
    assert!(at_once > 0, "nobody waited for the watch");
    let before = waits();
    assert!(follower.decides("never-made", IMAGE).is_empty());
    assert_eq!(waits(), before + 1.0);
    assert!(
        follower
            .decides("never-made", "other.example.com/app")
            .is_empty()
    );
    assert_eq!(waits(), before + 1.0, "no rule could have matched");
    // A label that comes later counts from then on.
    let labelled = Namespace::create(cluster, "labelled", "none");
    assert!(follower.decides(&labelled.name, IMAGE).is_empty());
    cluster
        .kubectl
        .run(&["label", "namespace", &labelled.name, "pull=yes"], "");
    wait_for("the new label counts", HAPPY, || {
        let decided = follower.decides(&labelled.name, IMAGE);
        (decided == ["alpha"])
            .then_some(())
            .ok_or_else(|| format!("{decided:?}"))
    });
}

/// Long enough for a watch to be asked for once in vain.
const FREEZE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

fn frozen(cluster: &Cluster) {
    let (process, api) = cluster.another_api_server();
    let follower = Follower::start_at(cluster, &api, RULES);
    follower.pullpass.until_ready();
    let age = |watch: &str| {
        let series = format!("pullpass_watch_age_seconds{{watch=\"{watch}\"}}");
        follower.pullpass.metric(&series)
    };

    process.signal("STOP");
    // Through the other API server.
    follower.edit(
        &RULES
            .replace("alpha}", "beta}")
            .replace("[alpha]", "[beta]"),
    );
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    wait_for(
        "every watch is older than a healthy one",
        HAPPY + FREEZE,
        || {
            let asked = Instant::now();
            assert_eq!(follower.decides("default", IMAGE), ["alpha"]);
            slowest = slowest.max(asked.elapsed());
            follower
                .pullpass
                .probe("/readyz")
                .expect("readiness does not depend on the API server");
            let age = WATCHES.map(age).into_iter().fold(f64::MAX, f64::min);
            (age > FREEZE.as_secs_f64())
                .then_some(())
                .ok_or_else(|| format!("{age} s"))
        },
    );
    println!(
        "frozen for {:.0} s: slowest answer {:.1} ms",
        start.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );

    process.signal("CONT");
    let resumed = Instant::now();
    follower.until_decides(IMAGE, &["beta"]);
    println!(
        "rules were fresh {:.1} s after the API server went on",
        resumed.elapsed().as_secs_f64()
    );
    wait_for("every watch is fresh", HAPPY, || {
        let ages = WATCHES.map(age);
        let is_fresh = ages
            .iter()
            .all(|age| *age < resumed.elapsed().as_secs_f64());
        is_fresh.then_some(()).ok_or_else(|| format!("{ages:?}"))
    });
}

/// What the webhook watches, as its metrics call it.
const WATCHES: [&str; 4] = ["rules", "index", "tls", "namespaces"];

fn account(cluster: &Cluster) {
    let follower = Follower::ready(cluster, RULES);
    let namespace = &follower.namespace.name;
    let other = config_map("other", "key", "text").to_string();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}});
    follower.namespace.create_object("secrets", &secret);
    let kubectl = Kubectl::new(&follower.kubeconfig, &cluster.directory("kubectl"));
    let run = |arguments: &[&str], input: &str| {
        kubectl.try_run(&[&["--namespace", namespace], arguments].concat(), input)
    };
    for readable in [
        &["get", "configmap", RULES_MAP][..],
        &["get", "secret", TLS_SECRET],
        &["get", "namespaces"],
    ] {
        run(readable, "").unwrap_or_else(|error| panic!("{readable:?}: {error}"));
    }
    for (forbidden, input) in [
        (&["create", "-f", "-"][..], &*other),
        (&["annotate", "configmap", RULES_MAP, "a=b"], ""),
        (&["delete", "configmap", RULES_MAP], ""),
        (&["delete", "configmap", INDEX_MAP], ""),
        (&["create", "secret", "generic", "new"], ""),
        (
            &[
                "patch",
                "secret",
                TLS_SECRET,
                "-p",
                "{\"data\":{\"a\":\"Yg==\"}}",
            ],
            "",
        ),
        (&["delete", "secret", TLS_SECRET], ""),
        (&["get", "secret", "other"], ""),
        (&["get", "secrets"], ""),
        (&["get", "secrets", "--all-namespaces"], ""),
        (&["get", "configmaps"], ""),
        (&["get", "pods", "--all-namespaces"], ""),
        (&["create", "namespace", "new"], ""),
        (&["label", "namespace", "default", "a=b"], ""),
        (&["delete", "namespace", "default"], ""),
        (&["create", "serviceaccount", "new"], ""),
        (&["create", "token", ACCOUNT], ""),
        (&["get", "mutatingwebhookconfigurations"], ""),
        (&["delete", "mutatingwebhookconfigurations", "--all"], ""),
    ] {
        let refused = run(forbidden, input).expect_err(&format!("{forbidden:?}"));
        assert!(
            refused.contains("(Forbidden)") || refused.contains("forbidden"),
            "{forbidden:?}: {refused}"
        );
    }
}

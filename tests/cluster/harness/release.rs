//! pullpass as people run it: the image, put on the node by Helm.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::load::{Load, Question};
use super::namespace::{Namespace, unscheduled_pod};
use super::sandbox::run;
use super::wait::{HAPPY, wait_for};

/// How long Helm waits. Two Deployments are ready in seconds on a machine that does nothing else.
const HELM_TIMEOUT: &str = "--timeout=180s";
/// A rollout of two replicas, one after the other, each with its drain.
pub(crate) const ROLLOUT: Duration = Duration::from_secs(120);
/// The garbage collector follows the owner of an object within seconds.
const GARBAGE: Duration = Duration::from_secs(60);
/// An image that the rules of every release cover.
pub(crate) const COVERED: &str = "registry.release.example.com/team/app:v1";
/// What a Pod with that image gets.
pub(crate) const SECRET: &str = "release";
/// Pod creates a second under which restarts and rotations must go unnoticed.
pub(crate) const LOAD_PER_SECOND: u32 = 200;

/// One release in a namespace of its own, and a namespace for Pods that it sees and no other does.
pub(crate) struct Release<'a> {
    /// Its name, and that of most of its objects.
    pub(crate) name: String,
    /// Where it is installed.
    pub(crate) namespace: Namespace<'a>,
    /// Where its users' Pods are.
    pub(crate) pods: Namespace<'a>,
    cluster: &'a Cluster,
    group: String,
}

impl<'a> Release<'a> {
    /// The two namespaces; nothing is installed.
    pub(crate) fn prepare(cluster: &'a Cluster) -> Self {
        Self::prepare_named(cluster, &cluster.unique("pullpass"))
    }

    /// The same under this name.
    pub(crate) fn prepare_named(cluster: &'a Cluster, name: &str) -> Self {
        let group = cluster.unique("release");
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        Self {
            namespace: Namespace::create_labelled(cluster, name, &labels),
            pods: Namespace::create(cluster, "release-pods", &group),
            name: name.to_owned(),
            cluster,
            group,
        }
    }

    /// Installed by Helm with [`Self::values`].
    pub(crate) fn installed(cluster: &'a Cluster) -> Self {
        let release = Self::prepare(cluster);
        release.install(&json!({}));
        release
    }

    /// What every release on this cluster is installed with, and `more`.
    pub(crate) fn values(&self, more: &Value) -> Value {
        let image = self.cluster.image();
        let mut rules = rules(SECRET);
        // The chart says these two.
        rules
            .as_object_mut()
            .expect("rules are an object")
            .retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind"));
        let mut values = json!({
            "image": {"repository": image.repository, "digest": image.digest},
            "rules": rules,
            // Other trials' Pods are none of its business.
            "webhook": {"namespaceSelector": {"matchLabels": {"pullpass-test": self.group}}},
            "helmTest": {"namespace": self.pods.name},
        });
        merge(&mut values, more);
        values
    }

    /// Installs it and waits as Helm waits.
    #[track_caller]
    pub(crate) fn install(&self, more: &Value) {
        self.bring_in("install", more);
    }

    /// Upgrades it and waits as Helm waits.
    #[track_caller]
    pub(crate) fn upgrade(&self, more: &Value) {
        self.bring_in("upgrade", more);
    }

    #[track_caller]
    fn bring_in(&self, verb: &str, more: &Value) {
        self.helm(
            &[
                verb,
                &self.name,
                "CHART",
                "--wait",
                HELM_TIMEOUT,
                "--values=-",
            ],
            more,
        );
    }

    /// Goes back to an earlier revision.
    #[track_caller]
    pub(crate) fn rollback(&self, revision: &str) {
        self.helm(
            &["rollback", &self.name, revision, "--wait", HELM_TIMEOUT],
            &json!({}),
        );
    }

    /// Runs its test and gives what was said. Helm shows the log of a test that passed only.
    #[track_caller]
    pub(crate) fn test(&self) -> String {
        let arguments = ["test", &self.name, "--logs", HELM_TIMEOUT];
        let outcome = self
            .cluster
            .helm
            .try_run(&self.namespace.name, &arguments, "");
        outcome.unwrap_or_else(|error| {
            let pod = format!("{}-test", self.name);
            panic!("{error}\n{}", self.namespace.kubectl(&["logs", &pod], ""))
        })
    }

    /// Uninstalls it, and waits until nothing is left.
    #[track_caller]
    pub(crate) fn uninstall(&self) {
        self.helm(
            &["uninstall", &self.name, "--wait", HELM_TIMEOUT],
            &json!({}),
        );
        self.assert_nothing_is_left();
    }

    /// What the chart makes of [`Self::values`].
    #[track_caller]
    pub(crate) fn render(&self, more: &Value) -> String {
        self.helm(&["template", &self.name, "CHART", "--values=-"], more)
    }

    fn helm(&self, arguments: &[&str], more: &Value) -> String {
        let values = self.values(more).to_string();
        self.cluster
            .helm
            .run(&self.namespace.name, arguments, &values)
    }

    /// Waits until nothing in the cluster carries the name of this release, or is in its namespace
    /// without being there in every namespace.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        wait_for("nothing is left of the release", GARBAGE, || {
            let left = self.everything();
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(" "))
            }
        });
    }

    /// Every object with the label of this release, and every one in its namespace that would not be
    /// there without it; Events aside, which are history.
    pub(crate) fn everything(&self) -> Vec<String> {
        let kubectl = &self.cluster.kubectl;
        let kinds = |scope: &str| {
            let arguments = ["api-resources", "--verbs=list", scope, "--output=name"];
            let kinds = kubectl.run(&arguments, "");
            let kinds = kinds.lines().filter(|kind| !kind.starts_with("events"));
            kinds.collect::<Vec<_>>().join(",")
        };
        let list = |kinds: &str, more: &[&str]| {
            let arguments = [&["get", kinds, "--output=name", "--ignore-not-found"], more].concat();
            let list = kubectl.run(&arguments, "");
            list.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let own = format!("--selector=app.kubernetes.io/instance={}", self.name);
        let mut found = list(&kinds("--namespaced=false"), &[&own]);
        found.extend(list(
            &kinds("--namespaced=true"),
            &[&own, "--all-namespaces"],
        ));
        let in_namespace = list(
            &kinds("--namespaced=true"),
            &["--namespace", &self.namespace.name],
        );
        let ours = in_namespace.into_iter().filter(|object| {
            !matches!(
                object.as_str(),
                "configmap/kube-root-ca.crt" | "serviceaccount/default"
            )
        });
        found.extend(ours);
        found
    }

    /// Creates a Pod that the rules cover, and gives the API server's object.
    #[track_caller]
    pub(crate) fn create_pod(&self) -> Value {
        self.pods
            .create_object("pods", &covered_pod(&self.cluster.unique("app")))
    }

    /// Asks, [`LOAD_PER_SECOND`] times a second, what would become of such a Pod.
    pub(crate) fn load(&self) -> Load {
        let question = self
            .cluster
            .api
            .ask_for_pod(&self.pods.name, &covered_pod("load"));
        Load::start(question, LOAD_PER_SECOND)
    }

    /// The question of an AdmissionReview, asked of one webhook Pod past the API server.
    pub(crate) fn ask_directly(&self, pod: &Value) -> Question {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "00000000-0000-0000-0000-000000000000",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": self.pods.name,
                "operation": "CREATE",
                "object": covered_pod("direct"),
            },
        });
        Question {
            address: SocketAddr::new(pod_ip(pod), WEBHOOK_PORT),
            tls: super::load::trusting(&self.bundle()),
            name: self
                .service()
                .try_into()
                .expect("the name of a Service is a DNS name"),
            path: "/mutate?timeout=5s".to_owned(),
            body: review.to_string().into(),
            is_mutated: |review| review["response"]["patch"].is_string(),
        }
    }

    /// The name that the webhook's certificate must be for.
    pub(crate) fn service(&self) -> String {
        format!("{}-webhook.{}.svc", self.name, self.namespace.name)
    }

    /// Its MutatingWebhookConfiguration.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn configuration(&self) -> Result<Value, String> {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        self.cluster.api.get(&format!("{path}/{}", self.name))
    }

    /// The certificates that the API server trusts, PEM.
    #[track_caller]
    pub(crate) fn bundle(&self) -> String {
        let configuration = self.configuration().expect("it is installed");
        let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        let bundle = BASE64_STANDARD.decode(bundle.expect("the bundle is there"));
        String::from_utf8(bundle.expect("it is base64")).expect("PEM is text")
    }

    /// Its Pods of one role that are not about to end.
    pub(crate) fn role(&self, role: &str) -> Vec<Value> {
        let query = format!("labelSelector=app.kubernetes.io/component={role}");
        let pods = self
            .namespace
            .list("pods", &query)
            .expect("Pods can be listed");
        let is_staying = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.into_iter().filter(is_staying).collect()
    }

    /// Restarts the webhook replica by replica, and waits until the last old Pod is gone.
    #[track_caller]
    pub(crate) fn restart_webhook(&self) {
        let deployment = format!("deployment/{}-webhook", self.name);
        self.namespace
            .kubectl(&["rollout", "restart", &deployment], "");
        self.wait_for_rollout();
    }

    /// Waits until the webhook's replicas are the ones that are wanted, and nothing else is there.
    #[track_caller]
    pub(crate) fn wait_for_rollout(&self) {
        let deployment = format!("deployment/{}-webhook", self.name);
        let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
        self.namespace
            .kubectl(&["rollout", "status", &deployment, &timeout], "");
        let query = "labelSelector=app.kubernetes.io/component=webhook";
        wait_for("the old replicas are gone", ROLLOUT, || {
            let pods = self.namespace.list("pods", query)?;
            let ending = pods.len() - self.role("webhook").len();
            if ending == 0 {
                Ok(())
            } else {
                Err(format!("{ending} are ending"))
            }
        });
    }

    /// Gives the webhook this many replicas.
    pub(crate) fn scale_webhook(&self, replicas: u32) {
        let deployment = format!("deployment/{}-webhook", self.name);
        let replicas = format!("--replicas={replicas}");
        self.namespace
            .kubectl(&["scale", &deployment, &replicas], "");
    }

    /// Waits until a Pod that is created now is injected again.
    #[track_caller]
    pub(crate) fn wait_until_injecting(&self) {
        wait_for("Pods are injected", HAPPY, || {
            let pod = self.pods.dry_run(&covered_pod("probe"))?;
            let list = super::namespace::pull_secrets_of(&pod);
            if list == [SECRET] {
                Ok(())
            } else {
                Err(format!("{list:?}"))
            }
        });
    }

    /// Replaces the rules in the ConfigMap, as `kubectl edit` does.
    pub(crate) fn edit_rules(&self, rules: &str) {
        let patch = json!({"data": {"rules.yaml": rules}}).to_string();
        let name = format!("{}-rules", self.name);
        self.namespace.kubectl(
            &[
                "patch",
                "configmap",
                &name,
                "--type=merge",
                "--patch",
                &patch,
            ],
            "",
        );
    }

    /// One of the two Secrets of its certificates: `ca` or `tls`.
    #[track_caller]
    pub(crate) fn secret(&self, which: &str) -> Value {
        let name = format!("{}-{which}", self.name);
        self.namespace
            .get("secrets", &name)
            .expect("the Secret is there")
    }

    /// Asks for a new CA; every value asks once.
    pub(crate) fn rotate(&self, value: &str) {
        let secret = format!("{}-ca", self.name);
        let annotation = format!("pullpass.dev/rotate={value}");
        self.namespace.kubectl(
            &["annotate", "--overwrite", "secret", &secret, &annotation],
            "",
        );
    }

    /// The largest value of a metric of one Pod.
    ///
    /// # Errors
    /// If it does not answer, or has no such metric.
    pub(crate) fn metric(pod: &Value, name: &str) -> Result<f64, String> {
        let text = super::webhook::probe(SocketAddr::new(pod_ip(pod), PROBE_PORT), "/metrics")?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_whole = rest.starts_with([' ', '{']);
            is_whole.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values
            .reduce(f64::max)
            .ok_or_else(|| format!("there is no metric {name}"))
    }
}

/// Port of the webhook in its Pods.
const WEBHOOK_PORT: u16 = 10250;
/// Port of probes and metrics.
const PROBE_PORT: u16 = 8080;

/// Rules that give Pods with [`COVERED`] the secret of this name. Nobody has to read it.
pub(crate) fn rules(secret: &str) -> Value {
    json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "PullRules",
        "pullSecrets": [{"name": secret, "deliver": "Never"}],
        "rules": [{
            "name": "covered",
            "images": ["registry.release.example.com"],
            "pullSecrets": [secret],
        }],
    })
}

/// A Pod that [`rules`] cover, and that no scheduler takes.
pub(crate) fn covered_pod(name: &str) -> Value {
    unscheduled_pod(name, &[("app", COVERED)])
}

/// Kills the program in a Pod's only container, as a machine that runs out of memory does.
pub(crate) fn kill_program(pod: &Value) {
    let uid = pod["metadata"]["uid"].as_str().expect("a Pod has a uid");
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let ids = ids.filter(|id| {
        let of_process = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}"));
        of_process("cgroup").is_ok_and(|groups| groups.contains(uid))
            && of_process("cmdline").is_ok_and(|line| line.starts_with("/pullpass\0"))
    });
    let ids: Vec<String> = ids.collect();
    assert_eq!(ids.len(), 1, "processes of Pod {uid}: {ids:?}");
    run("kill", &["-KILL", &ids[0]]);
}

fn pod_ip(pod: &Value) -> std::net::IpAddr {
    let ip = pod["status"]["podIP"]
        .as_str()
        .expect("a running Pod has an address");
    ip.parse().expect("it is one")
}

/// Lays `more` over `base`, as Helm does with values.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

//! What the chart makes for a controller, with exactly its permissions, and controllers that run on it.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::api::Api;
use super::clock::Clock;
use super::cluster::Cluster;
use super::control_plane::free_address;
use super::namespace::Namespace;
use super::process::Process;
use super::sandbox;
use super::wait::{ONE_BACK_OFF, wait_for};
use super::webhook::{WEBHOOK, probe};

const ACCOUNT: &str = "pullpass-controller";
/// The Service of the webhook.
pub(crate) const SERVICE: &str = "pullpass-webhook";
/// The Secret of the CA.
pub(crate) const CA: &str = "pullpass-ca";
/// The Secret of the leaf.
pub(crate) const TLS: &str = "pullpass-tls";
/// The ConfigMap of the rules.
pub(crate) const RULES: &str = "pullpass-rules";
/// The ConfigMap of the index.
pub(crate) const INDEX: &str = "pullpass-index";
/// The Lease.
pub(crate) const LEASE: &str = "pullpass-controller";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// A namespace as an installation finds it, before any controller ran.
pub(crate) struct Installation<'a> {
    /// The namespace, which gives its name to the webhook configuration too.
    pub(crate) namespace: Namespace<'a>,
    cluster: &'a Cluster,
}

impl<'a> Installation<'a> {
    /// Everything but what the controller makes itself.
    pub(crate) fn create(cluster: &'a Cluster, prefix: &str, rules: &str) -> Self {
        let namespace = Namespace::create(cluster, prefix, "none");
        let name = namespace.name.clone();
        let labels = json!({
            "app.kubernetes.io/name": "pullpass",
            "app.kubernetes.io/instance": name,
            "app.kubernetes.io/managed-by": "Helm",
        });
        let account = json!({"metadata": {"name": ACCOUNT, "labels": labels}});
        namespace.create_object("serviceaccounts", &account);
        let map = json!({"metadata": {"name": RULES}, "data": {"rules.yaml": rules}});
        namespace.create_object("configmaps", &map);
        let installation = Self { namespace, cluster };
        let (role, cluster_role) = permissions(&name);
        installation.grant(&name, &role, &cluster_role);
        installation.create_configuration(&configuration(&name));
        installation
    }

    /// What the chart adds for delivery: Secrets of these names may be copied.
    pub(crate) fn grant_delivery(&self, secret_names: &[&str]) {
        let role = json!([
            rule("", "secrets", &[], &["get", "list", "watch"]),
            rule(
                "",
                "configmaps",
                &[INDEX],
                &["get", "list", "watch", "create", "patch", "delete"]
            ),
        ]);
        let look = ["get", "list", "watch"];
        let mut cluster_role = vec![
            rule("", "namespaces", &[], &look),
            rule("", "serviceaccounts", &[], &look),
            rule("", "pods", &[], &look),
        ];
        if !secret_names.is_empty() {
            let verbs = ["get", "list", "watch", "create", "patch", "delete"];
            cluster_role.push(rule("", "secrets", secret_names, &verbs));
        }
        let name = format!("{}-delivery", self.namespace.name);
        self.grant(&name, &role, &json!(cluster_role));
    }

    /// Lets the controller hold one more Lease.
    pub(crate) fn grant_lease(&self, lease: &str) {
        let verbs = ["get", "create", "patch"];
        let role = json!([rule("coordination.k8s.io", "leases", &[lease], &verbs)]);
        let name = format!("{}-{lease}", self.namespace.name);
        self.grant(&name, &role, &json!([]));
    }

    /// What the chart adds where rules attach secrets to ServiceAccounts.
    pub(crate) fn grant_attachment(&self) {
        let name = format!("{}-attachment", self.namespace.name);
        let patch = rule("", "serviceaccounts", &[], &["patch"]);
        self.grant(&name, &json!([]), &json!([patch]));
    }

    /// What the chart adds for the eviction of Pods, and the reading of the webhook configuration and of the rules, which
    /// a watch does elsewhere.
    pub(crate) fn grant_recovery(&self) {
        let name = format!("{}-recovery", self.namespace.name);
        let role = json!([rule("", "configmaps", &[RULES], &["get"])]);
        let cluster_role = json!([
            rule(
                "admissionregistration.k8s.io",
                "mutatingwebhookconfigurations",
                &[&self.namespace.name],
                &["get"]
            ),
            rule("", "pods", &[], &["get", "list"]),
            rule("", "pods/eviction", &[], &["create"]),
            rule("events.k8s.io", "events", &[], &["create"]),
        ]);
        self.grant(&name, &role, &cluster_role);
    }

    /// Gives the controller's account a Role and a ClusterRole of this name.
    fn grant(&self, name: &str, role: &Value, cluster_role: &Value) {
        const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
        let namespace = &self.namespace.name;
        let local = format!("{RBAC}/namespaces/{namespace}/roles");
        let subject = json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]);
        for (collection, kind, rules) in [
            (local, "Role", role),
            (format!("{RBAC}/clusterroles"), "ClusterRole", cluster_role),
        ] {
            let bindings = collection.replace("roles", "rolebindings");
            let reference =
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
            let metadata = json!({"name": name});
            let role = json!({"metadata": metadata, "rules": rules});
            let binding = json!({"metadata": metadata, "roleRef": reference, "subjects": subject});
            for (path, object) in [(collection, role), (bindings, binding)] {
                let created = self.cluster.api.post(&path, &object);
                created.expect("the name is new");
            }
        }
    }

    /// Makes a webhook configuration.
    pub(crate) fn create_configuration(&self, object: &Value) {
        let created = self.cluster.api.post(CONFIGURATIONS, object);
        created.expect("the name is new");
    }

    /// Removes the webhook configuration.
    pub(crate) fn delete_configuration(&self) {
        let path = format!("{CONFIGURATIONS}/{}", self.namespace.name);
        self.cluster.api.delete(&path).expect("it is there");
    }

    /// Starts a controller as its ServiceAccount.
    pub(crate) fn controller(&self, arguments: &[&str]) -> Controller {
        self.controller_at(&self.cluster.api, arguments)
    }

    /// Starts a controller that talks to this API server.
    pub(crate) fn controller_at(&self, api: &Api, arguments: &[&str]) -> Controller {
        self.start(api, arguments, |_| {})
    }

    /// Starts a controller whose wall clock, and no other, is off by as much as it says.
    pub(crate) fn controller_with_clock(&self, clock: &Clock, arguments: &[&str]) -> Controller {
        self.start(&self.cluster.api, arguments, |command| clock.give(command))
    }

    fn start(
        &self,
        api: &Api,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Controller {
        let name = &self.namespace.name;
        let kubeconfig = self.cluster.account_kubeconfig(api, name, ACCOUNT);
        let probes = free_address();
        let mut command = sandbox::pullpass();
        command
            .args(["controller", "--namespace", &self.namespace.name])
            .args(["--webhook-configuration", &self.namespace.name])
            .args(["--probe-addr", &probes.to_string()])
            .args(arguments)
            .env("KUBECONFIG", &kubeconfig);
        change(&mut command);
        let name = self.cluster.unique("pullpass-controller");
        Controller {
            process: Process::start(&name, &mut command, self.cluster.logs()),
            probes,
        }
    }

    /// A Lease of this name, which somebody holds or has held.
    pub(crate) fn lease(&self, name: &str) -> Value {
        let lease = self.cluster.api.get(&self.lease_path(name));
        lease.expect("the Lease is there")
    }

    /// Where the API server has a Lease of this name.
    pub(crate) fn lease_path(&self, name: &str) -> String {
        let namespace = &self.namespace.name;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    }

    /// One entry of a Secret as text.
    ///
    /// # Errors
    /// If there is no such Secret or entry.
    pub(crate) fn entry(&self, secret: &str, key: &str) -> Result<String, String> {
        let object = self.namespace.get("secrets", secret)?;
        let value = object["data"][key].as_str();
        decoded(value.ok_or_else(|| format!("{secret} has no {key}"))?)
    }

    /// The bundle in the webhook configuration.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn bundle(&self) -> Result<String, String> {
        let object = self.configuration()?;
        let value = object["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        decoded(value.ok_or("there is no caBundle")?)
    }

    /// The webhook configuration.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn configuration(&self) -> Result<Value, String> {
        let name = &self.namespace.name;
        self.cluster.api.get(&format!("{CONFIGURATIONS}/{name}"))
    }

    /// Changes the webhook configuration as somebody called `manager`.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn patch_configuration(
        &self,
        manager: &str,
        kind: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let name = &self.namespace.name;
        let path = format!("{CONFIGURATIONS}/{name}?fieldManager={manager}");
        let answer = self.cluster.api.request("PATCH", &path, kind, Some(body))?;
        answer.ok()
    }

    /// Notes of the Events of this reason.
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let events = self.namespace.events_of(reason).into_iter();
        let notes = events.filter_map(|event| event["note"].as_str().map(ToOwned::to_owned));
        notes.collect()
    }
}

fn decoded(base64: &str) -> Result<String, String> {
    let bytes = BASE64_STANDARD.decode(base64);
    let bytes = bytes.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A configuration as the chart renders it: without `caBundle`. No namespace is labelled for it.
fn configuration(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": WEBHOOK,
            "clientConfig": {
                "service": {"namespace": name, "name": SERVICE, "path": "/mutate"},
            },
            "rules": [{
                "operations": ["CREATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
                "scope": "Namespaced",
            }],
            "namespaceSelector": {"matchLabels": {"pullpass-test": name}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
        }],
    })
}

/// Every permission that the controller has without delivery, and no other: in its namespace, and in the
/// cluster.
fn permissions(namespace: &str) -> (Value, Value) {
    let role = json!([
        rule("", "configmaps", &[RULES], &["list", "watch"]),
        rule(
            "",
            "secrets",
            &[CA, TLS],
            &["list", "watch", "create", "patch", "delete"]
        ),
        rule("", "serviceaccounts", &[ACCOUNT], &["get"]),
        rule("", "services", &[SERVICE], &["get"]),
        rule(
            "coordination.k8s.io",
            "leases",
            &[LEASE],
            &["get", "create", "patch"]
        ),
        rule("events.k8s.io", "events", &[], &["create", "patch"]),
    ]);
    let cluster_role = json!([rule(
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        &[namespace],
        &["list", "watch", "patch"],
    )]);
    (role, cluster_role)
}

fn rule(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> Value {
    json!({
        "apiGroups": [group],
        "resources": [resource],
        "resourceNames": names,
        "verbs": verbs,
    })
}

/// A running controller. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Controller {
    process: Process,
    probes: SocketAddr,
}

impl Controller {
    /// The value of a metric, labels included in its name; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = probe(self.probes, "/metrics").unwrap_or_default();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_default()
    }

    /// How often it has begun to lead.
    pub(crate) fn terms(&self) -> usize {
        let log = self.log();
        let begins = |line: &&str| line.contains("leading") && !line.contains("no longer");
        log.lines().filter(begins).count()
    }

    /// What `/readyz` says, ready or not.
    pub(crate) fn readiness(&self) -> String {
        probe(self.probes, "/readyz").unwrap_or_else(|answer| answer)
    }

    /// Memory that is resident, in MiB; of which kind, says [`Process::memory_mib`].
    pub(crate) fn memory_mib(&self, kind: &str) -> f64 {
        self.process.memory_mib(kind)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    /// Waits until it leads.
    #[track_caller]
    pub(crate) fn until_leading(&self) {
        wait_for("it leads", ONE_BACK_OFF, || {
            let leads = self.metric("pullpass_leader");
            (leads == 1.0).then_some(()).ok_or_else(|| self.log())
        });
    }

    /// Asks it to end, as a kubelet does.
    pub(crate) fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Ends it at once, as a lost node does.
    pub(crate) fn kill(&self) {
        self.process.signal("KILL");
    }

    /// Its exit code, once it has ended by itself.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.process.try_wait()?.code()
    }
}

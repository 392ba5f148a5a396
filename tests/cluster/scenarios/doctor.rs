//! `pullpass doctor` on an installation made by hand: nothing to say about a sound one, the right line
//! about each thing that is broken, and fixes that fix.
//!
//! The Pods of the Deployments are played: the controllers make them, nobody runs them, and the trial
//! says in their status, and in the Service's Endpoints, that they are ready at the address where one
//! pullpass really serves.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::RULES;
use crate::harness::cluster::Cluster;
use crate::harness::namespace::Namespace;
use crate::harness::network::BRIDGE_ADDRESS;
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::{Pullpass, Reach, Registration, WEBHOOKS};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("doctor_finds_each_broken_link_on_the_way", broken_way);
    trials.node("doctor_finds_what_is_wrong_beside_the_way", broken_beside);
    trials.node("doctor_says_what_it_may_not_look_at", without_rights);
}

/// The objects of the chart in namespace `webhooks`, and one pullpass behind them.
struct Installation<'a> {
    cluster: &'a Cluster,
    /// Full name, and release.
    name: String,
    /// A namespace whose Pods are sent to this installation.
    team: Namespace<'a>,
    /// Taken away to stop it.
    pullpass: Option<Pullpass>,
    port: u16,
    probe_port: u16,
    configuration: Value,
    service: Value,
}

/// What `doctor` said.
struct Said {
    code: Option<i32>,
    report: Value,
}

impl<'a> Installation<'a> {
    fn create(cluster: &'a Cluster) -> Self {
        let name = cluster.unique("doctor");
        let bridge = BRIDGE_ADDRESS.parse().expect("it is an address");
        let pullpass = Pullpass::start(cluster, bridge, RULES, &[]);
        // The namespace is shared with other trials.
        let namespace = json!({"metadata": {"name": WEBHOOKS}});
        drop(cluster.api.post("/api/v1/namespaces", &namespace));
        let reach = Reach::Service(format!("{name}-webhook"));
        let mut configuration = Registration::pullpass(&name, reach).configuration(cluster);
        configuration["metadata"] = json!({"name": name, "labels": labels(&name, "webhook")});
        configuration["webhooks"][0]["namespaceSelector"]["matchExpressions"] = json!([{
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": [WEBHOOKS, "kube-system", "kube-node-lease", "kube-public"],
        }]);
        let installation = Self {
            service: service(&name),
            port: pullpass.port(),
            team: Namespace::create(cluster, "team", &name),
            cluster,
            name,
            probe_port: pullpass.probe_port(),
            pullpass: Some(pullpass),
            configuration,
        };
        installation.create_objects();
        installation.play_pods(true);
        installation.assert_sound();
        installation
    }

    fn create_objects(&self) {
        let pair = self.cluster.webhook_certificate();
        let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("it is there");
        self.apply(&self.configuration);
        self.apply(&self.service);
        self.apply(&self.rules(RULES));
        self.apply(&self.certificate(&read(&pair.certificate)));
        self.grant_rights();
        for (component, replicas) in [("webhook", 2), ("controller", 1)] {
            self.apply(&self.deployment(component, replicas));
        }
        self.apply(&json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": self.metadata("webhook"),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(&self.name, "webhook")}},
        }));
    }

    fn metadata(&self, component: &str) -> Value {
        json!({
            "name": format!("{}-{component}", self.name),
            "namespace": WEBHOOKS,
            "labels": labels(&self.name, component),
        })
    }

    fn rules(&self, text: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": format!("{}-rules", self.name), "namespace": WEBHOOKS},
            "data": {"rules.yaml": text},
        })
    }

    fn certificate(&self, chain: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": format!("{}-tls", self.name), "namespace": WEBHOOKS},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": chain, "tls.key": "doctor must not look at it"},
        })
    }

    fn deployment(&self, component: &str, replicas: u32) -> Value {
        let labels = labels(&self.name, component);
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(component),
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "schedulerName": "nobody",
                        "serviceAccountName": format!("{}-{component}", self.name),
                        "containers": [{
                            "name": component,
                            "image": "pullpass.example.com/pullpass",
                            "args": [component, format!("--rules-config-map={}-rules", self.name)],
                            "ports": [{
                                "name": "metrics",
                                "containerPort": self.probe_port,
                            }],
                        }],
                    },
                },
            },
        })
    }

    /// ServiceAccounts and rights as the chart gives them.
    fn grant_rights(&self) {
        let name = &self.name;
        let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| {
            let names: Vec<_> = names.iter().map(|part| format!("{name}{part}")).collect();
            json!({"apiGroups": [group], "resources": [resource], "resourceNames": names,
                   "verbs": verbs})
        };
        let follow = ["get", "list", "watch"];
        let webhook = json!([
            rule("", "configmaps", &["-rules", "-index"], &follow),
            rule("", "secrets", &["-tls"], &follow),
        ]);
        let controller = json!([
            rule("", "configmaps", &["-rules"], &follow),
            rule(
                "",
                "secrets",
                &["-tls", "-ca"],
                &["get", "list", "watch", "create", "patch", "delete"]
            ),
            rule(
                "coordination.k8s.io",
                "leases",
                &["-controller"],
                &["get", "create", "patch"]
            ),
            rule("events.k8s.io", "events", &[], &["create", "patch"]),
        ]);
        let admission = "admissionregistration.k8s.io";
        let configurations = "mutatingwebhookconfigurations";
        let verbs = ["get", "list", "watch", "patch"];
        for (component, own, wide) in [
            ("webhook", webhook, rule("", "namespaces", &[], &follow)),
            (
                "controller",
                controller,
                rule(admission, configurations, &[""], &verbs),
            ),
        ] {
            let metadata = self.metadata(component);
            self.apply(
                &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            );
            for (kind, rules) in [("Role", own), ("ClusterRole", json!([wide]))] {
                self.apply(
                    &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                    "metadata": named(kind, &format!("{name}-{component}")), "rules": rules}),
                );
                self.bind(component, kind, component);
            }
        }
    }

    /// Lets the controller evict Pods by itself, as far as its arguments go.
    fn recover(&self) {
        let patch = r#"[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--recovery"}]"#;
        self.kubectl(&format!(
            "patch deployment NAME-controller --type=json -p {patch}"
        ));
    }

    /// As the chart gives the rights for it.
    fn grant_recovery(&self) {
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let role = format!("{}-controller-recovers", self.name);
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": named("ClusterRole", &role),
            "rules": [
                rule("", "pods", &["get", "list"]),
                rule("", "pods/eviction", &["create"]),
                rule("events.k8s.io", "events", &["create"]),
            ],
        }));
        self.bind("controller", "ClusterRole", "controller-recovers");
    }

    /// Gives the account of `component` the role of `of`.
    fn bind(&self, component: &str, kind: &str, of: &str) {
        let (account, role) = (
            format!("{}-{component}", self.name),
            format!("{}-{of}", self.name),
        );
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": format!("{kind}Binding"),
            "metadata": named(kind, &format!("{account}-is-{of}")),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": WEBHOOKS}],
        }));
    }

    /// Says of every Pod that it runs where pullpass serves, or does not.
    fn play_pods(&self, ready: bool) {
        let query = format!("labelSelector=app.kubernetes.io/instance={}", self.name);
        let webhooks = Namespace::existing(self.cluster, WEBHOOKS);
        let pods = wait_for("the controllers have made three Pods", HAPPY, || {
            let pods = webhooks.list("pods", &query)?;
            let made = pods.len() == 3;
            made.then_some(pods).ok_or_else(|| "not three".to_owned())
        });
        let condition = if ready { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running",
            "podIP": BRIDGE_ADDRESS,
            "podIPs": [{"ip": BRIDGE_ADDRESS}],
            "conditions": [{"type": "Ready", "status": condition, "reason": "Played"}],
        }});
        for pod in &pods {
            let name = pod["metadata"]["name"].as_str().expect("a Pod has a name");
            let path = format!("/api/v1/namespaces/{WEBHOOKS}/pods/{name}/status");
            let patch = "application/merge-patch+json";
            let answer = self
                .cluster
                .api
                .request("PATCH", &path, patch, Some(&status));
            answer
                .and_then(|answer| answer.ok())
                .expect("the status is ours to write");
        }
        self.play_endpoints(&pods[0]["metadata"]["name"], self.port, ready);
    }

    /// The API server's proxy looks at Endpoints, and only dials addresses of Pods; kube-proxy gets
    /// EndpointSlices, which the controllers make of them.
    fn play_endpoints(&self, pod: &Value, port: u16, ready: bool) {
        let list = if ready {
            "addresses"
        } else {
            "notReadyAddresses"
        };
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": format!("{}-webhook", self.name), "namespace": WEBHOOKS},
            "subsets": [{
                list: [{"ip": BRIDGE_ADDRESS,
                    "targetRef": {"kind": "Pod", "namespace": WEBHOOKS, "name": pod}}],
                "ports": [{"name": "https", "port": port}],
            }],
        }));
    }

    fn apply(&self, object: &Value) {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.cluster.kubectl.run(&arguments, &object.to_string());
    }

    fn kubectl(&self, line: &str) {
        let line = line.replace("NAME", &self.name);
        let arguments: Vec<_> = line.split(' ').collect();
        self.cluster
            .kubectl
            .run(&[&["-n", WEBHOOKS], &*arguments].concat(), "");
    }

    /// Changes one field of the configuration.
    fn configure(&self, pointer: &str, value: Value) {
        let mut changed = self.configuration.clone();
        *changed.pointer_mut(pointer).expect("the field is there") = value;
        self.apply(&changed);
    }

    /// Runs `doctor` as this user; the node's network is that of the cluster.
    fn ask_as(&self, kubeconfig: &std::path::Path) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
            .args([
                "doctor",
                "-o",
                "json",
                "-n",
                WEBHOOKS,
                "--release",
                &self.name,
            ])
            .args(["--check-namespace", &self.team.name])
            .arg("--inside")
            .env("KUBECONFIG", kubeconfig)
            .output()
            .expect("pullpass can be started");
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        Said {
            code: output.status.code(),
            report,
        }
    }

    fn ask(&self) -> Said {
        self.ask_as(self.cluster.kubectl.kubeconfig())
    }

    /// Endpoints, kube-proxy and the API server's view follow the objects within a moment.
    fn assert_sound(&self) {
        wait_for("doctor has nothing to say", HAPPY, || {
            let said = self.ask();
            let all_ok = said
                .findings()
                .iter()
                .all(|finding| finding["status"] == "ok");
            (said.code == Some(0) && all_ok)
                .then_some(())
                .ok_or_else(|| said.report.to_string())
        });
    }

    /// Waits for a problem of this check that holds `part`, and gives its fix.
    fn assert_problem(&self, check: &str, part: &str) -> String {
        wait_for(&format!("doctor says {part:?}"), HAPPY, || {
            let said = self.ask();
            let findings = said.findings();
            let found = findings.iter().find(|finding| {
                let message = finding["message"].as_str().unwrap_or_default();
                finding["check"] == check
                    && finding["status"] == "problem"
                    && message.contains(part)
            });
            let found = found.filter(|_| said.code == Some(1));
            let fix = found.and_then(|finding| finding["fix"].as_str());
            fix.map(ToOwned::to_owned)
                .ok_or_else(|| said.report.to_string())
        })
    }

    /// Runs a command that doctor gave as a fix.
    fn run_fix(&self, fix: &str) {
        let path = format!(
            "{}:{}",
            tools().display(),
            std::env::var("PATH").expect("it is set")
        );
        let output = Command::new("sh")
            .args(["-c", fix])
            .env("PATH", path)
            .env("KUBECONFIG", self.cluster.kubectl.kubeconfig())
            .output()
            .expect("sh can be started");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{fix}: {errors}");
    }
}

impl Said {
    fn findings(&self) -> Vec<Value> {
        self.report["findings"]
            .as_array()
            .expect("it is a list")
            .clone()
    }
}

fn labels(release: &str, component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "pullpass",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": component,
    })
}

/// Metadata of a role or binding.
fn named(kind: &str, name: &str) -> Value {
    match kind {
        "Role" => json!({"name": name, "namespace": WEBHOOKS}),
        _ => json!({"name": name}),
    }
}

/// Without a selector: the controllers leave out Pods of no node.
fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": format!("{name}-webhook"), "namespace": WEBHOOKS},
        "spec": {"ports": [{"name": "https", "port": 443}]},
    })
}

fn broken_way(cluster: &Cluster) {
    let mut installation = Installation::create(cluster);
    let it = &installation;

    it.kubectl("delete service NAME-webhook");
    it.assert_problem("service", "Service does not exist");
    it.apply(&it.service);
    // They went with it.
    it.play_pods(true);
    it.assert_sound();

    let mut other_port = it.configuration.clone();
    other_port["webhooks"][0]["clientConfig"]["service"]["port"] = json!(444);
    it.apply(&other_port);
    it.assert_problem("service", "has not the port");
    it.apply(&it.configuration);
    it.assert_sound();

    it.play_pods(false);
    it.assert_problem("service", "no replica of the webhook is ready");
    it.assert_problem("replicas", "0 of 2 replicas");
    it.play_pods(true);
    it.assert_sound();

    it.configure("/webhooks/0/clientConfig/service/path", json!("/elsewhere"));
    it.assert_problem("service", "does not know the path");
    it.apply(&it.configuration);

    it.configure("/webhooks/0/failurePolicy", json!("Fail"));
    it.assert_sound();
    it.apply(&it.configuration);

    // Under `Ignore` only the API server's own count tells; under `Fail` it says why it refuses the Pod.
    drop(installation.pullpass.take());
    let it = &installation;
    it.assert_problem("service", "nobody listens");
    it.assert_problem("admission", "passed over it");
    it.configure("/webhooks/0/failurePolicy", json!("Fail"));
    it.assert_problem("admission", "connection refused");
}

fn broken_beside(cluster: &Cluster) {
    let it = &Installation::create(cluster);
    let encoded = |text: &str| json!(BASE64_STANDARD.encode(text));
    let bundle = "/webhooks/0/clientConfig/caBundle";

    let other = cluster.foreign_ca_pem();
    it.configure(bundle, encoded(&other));
    it.assert_problem("certificate", "not from the CA");
    it.assert_problem("service", "not from the CA");
    it.configure(bundle, encoded("no PEM at all"));
    it.assert_problem("certificate", "caBundle: there is no certificate");
    it.apply(&it.configuration);
    it.assert_sound();

    let pair = cluster.webhook_certificate();
    let chain = std::fs::read_to_string(pair.certificate).expect("it is there");
    it.apply(&it.certificate(&cluster.certificate_for("elsewhere.example.com")));
    it.assert_problem("certificate", "for another name");
    it.apply(&it.certificate(&chain));
    it.assert_sound();

    it.apply(&it.rules(&RULES.replace("pullSecrets: [alpha]", "pullSecrets: [alhpa]")));
    it.assert_problem("rules", "rules.yaml:5:");
    it.apply(&it.rules(RULES));
    it.assert_sound();

    let group = json!({"matchLabels": {"pullpass-test": it.name}});
    it.configure("/webhooks/0/namespaceSelector", group);
    let fix = it.assert_problem("configuration", "does not exclude webhooks, kube-system");
    it.run_fix(&fix);
    it.assert_sound();

    it.recover();
    it.assert_problem("access", "`create pods/eviction -A`");
    it.grant_recovery();
    it.assert_sound();

    it.kubectl("delete rolebinding NAME-webhook-is-webhook");
    it.assert_problem("access", "may not `list configmaps");
    it.bind("webhook", "Role", "webhook");
    it.assert_sound();
    it.bind("webhook", "Role", "controller");
    it.assert_problem("access", "must not have the right to `get secrets/");
}

fn without_rights(cluster: &Cluster) {
    let it = Installation::create(cluster);
    let healthy = it.ask();
    let keys = |value: &Value| {
        let object = value.as_object().expect("it is an object");
        let mut keys: Vec<String> = object.keys().cloned().collect();
        keys.sort();
        keys
    };
    let shape = [
        "configuration",
        "findings",
        "namespace",
        "ok",
        "problems",
        "unseen",
        "warnings",
    ];
    assert_eq!(keys(&healthy.report), shape);
    for finding in healthy.findings() {
        assert_eq!(keys(&finding), ["check", "fix", "message", "status"]);
    }

    let said = it.ask_as(&cluster.account_kubeconfig(&cluster.api, WEBHOOKS, "default"));
    assert_eq!(said.code, Some(1), "{}", said.report);
    for finding in said.findings() {
        let message = finding["message"].as_str().expect("it is text");
        let is_version = finding["check"] == "cluster";
        let is_denied = finding["status"] == "unseen" && message.contains("forbidden");
        assert!(is_version || is_denied, "{finding}");
    }
}

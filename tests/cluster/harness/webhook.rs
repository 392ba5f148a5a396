//! The program under test as a running webhook, and how webhooks are made known to the API server.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::control_plane::free_address_on;
use super::controller::{INDEX, RULES, TLS};
use super::namespace::Namespace;
use super::network::BRIDGE_ADDRESS;
use super::pki::Pair;
use super::process::Process;
use super::sandbox;
use super::wait::wait_for;

/// pullpass is ready a fraction of a second after its start.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Name of pullpass's webhook inside its configuration.
pub(crate) const WEBHOOK: &str = "pods.pullpass.dev";
/// Namespace of the Services that lead to webhooks.
pub(crate) const WEBHOOKS: &str = "webhooks";
/// Seconds that the API server waits for an answer.
const TIMEOUT_S: u32 = 5;

/// How the API server reaches a webhook.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// By URL.
    Url(String),
    /// Through this Service of namespace `webhooks`, port 443.
    Service(String),
}

/// One webhook and the namespaces it is for.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    /// Name of the configuration: webhooks are called in the order of these names.
    pub(crate) name: String,
    /// Name of the webhook in it.
    pub(crate) webhook: String,
    /// Namespaces labelled `pullpass-test: <group>`.
    pub(crate) group: String,
    /// How it is reached.
    pub(crate) reach: Reach,
}

impl Registration {
    /// A configuration like the one that is shipped, for the namespaces of `group`.
    pub(crate) fn pullpass(group: &str, reach: Reach) -> Self {
        let (name, webhook) = (format!("pullpass-{group}"), WEBHOOK.to_owned());
        Self {
            name,
            webhook,
            group: group.to_owned(),
            reach,
        }
    }

    /// Creates the configuration.
    pub(crate) fn create(&self, cluster: &Cluster) {
        self.create_for(cluster, &["CREATE"], &["pods"]);
    }

    /// Creates the configuration for other operations and resources than it should have.
    pub(crate) fn create_for(&self, cluster: &Cluster, operations: &[&str], resources: &[&str]) {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        let mut object = self.configuration(cluster);
        let rule = &mut object["webhooks"][0]["rules"][0];
        rule["operations"] = json!(operations);
        rule["resources"] = json!(resources);
        cluster.api.post(path, &object).expect("the name is new");
    }

    /// The configuration as it would be created.
    pub(crate) fn configuration(&self, cluster: &Cluster) -> Value {
        let mut client = match &self.reach {
            Reach::Url(url) => json!({"url": url}),
            Reach::Service(name) => {
                json!({"service": {"namespace": WEBHOOKS, "name": name, "path": "/mutate"}})
            }
        };
        client["caBundle"] = json!(BASE64_STANDARD.encode(cluster.ca_pem()));
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [{
                "name": self.webhook,
                "clientConfig": client,
                "rules": [{
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods"],
                    "scope": "Namespaced",
                }],
                "namespaceSelector": {"matchLabels": {"pullpass-test": self.group}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "matchPolicy": "Equivalent",
                "reinvocationPolicy": "IfNeeded",
                "failurePolicy": "Ignore",
                "timeoutSeconds": TIMEOUT_S,
            }],
        })
    }
}

/// A pullpass webhook that serves one trial: the program under test, registered by URL, and the pull
/// secrets it hands out.
pub(crate) struct Injection<'a> {
    /// The program.
    pub(crate) pullpass: Pullpass,
    /// Its namespaces carry this value of the label `pullpass-test`.
    pub(crate) group: String,
    secrets: Vec<Value>,
    cluster: &'a Cluster,
}

impl<'a> Injection<'a> {
    /// Starts pullpass with these rules and Secrets and makes it known to the API server.
    pub(crate) fn start(cluster: &'a Cluster, rules: &str, secrets: &[Value]) -> Self {
        let group = cluster.unique("group");
        let pullpass = Pullpass::start(cluster, Ipv4Addr::LOCALHOST, rules, secrets);
        Registration::pullpass(&group, Reach::Url(pullpass.url())).create(cluster);
        Self {
            pullpass,
            group,
            secrets: secrets.to_vec(),
            cluster,
        }
    }

    /// Starts pullpass with one rule without patterns: each of these Secrets is injected, in this
    /// order, where it covers an image.
    pub(crate) fn covering(cluster: &'a Cluster, secrets: &[Value]) -> Self {
        let names: Vec<&Value> = secrets
            .iter()
            .map(|secret| &secret["metadata"]["name"])
            .collect();
        let entries: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        let rules = json!({
            "apiVersion": "pullpass.dev/v1alpha1",
            "kind": "PullRules",
            "pullSecrets": entries,
            "rules": [{"name": "covered", "pullSecrets": names}],
        });
        Self::start(cluster, &rules.to_string(), secrets)
    }

    /// A new namespace whose Pods pullpass sees, with the Secrets it hands out.
    pub(crate) fn namespace(&self, prefix: &str) -> Namespace<'a> {
        self.namespace_labelled(&self.cluster.unique(prefix), &json!({}))
    }

    /// The same with exactly this name, and with these labels besides its own.
    pub(crate) fn namespace_labelled(&self, name: &str, labels: &Value) -> Namespace<'a> {
        let mut labels = labels.clone();
        labels["pullpass-test"] = json!(self.group);
        let namespace = Namespace::create_labelled(self.cluster, name, &labels);
        namespace.create_objects("secrets", &self.secrets);
        namespace
    }
}

/// The program under test, running as `pullpass webhook`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Pullpass {
    process: Process,
    address: SocketAddr,
    probes: SocketAddr,
}

impl Pullpass {
    /// Starts it on `ip` and waits until it says that it is ready.
    pub(crate) fn start(cluster: &Cluster, ip: Ipv4Addr, rules: &str, secrets: &[Value]) -> Self {
        let directory = cluster.directory("pullpass");
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).expect("the work directory is writable");
            path
        };
        let certificate = cluster.webhook_certificate();
        let rules = write("rules.yaml", rules);
        let secrets = (0..)
            .zip(secrets)
            .map(|(index, secret)| write(&format!("secret-{index}.yaml"), &secret.to_string()));
        let pullpass = Self::launch(cluster, ip, |command| {
            command
                .arg("--rules")
                .arg(rules)
                .arg("--tls-cert")
                .arg(certificate.certificate)
                .arg("--tls-key")
                .arg(certificate.key);
            for secret in secrets {
                command.arg("--pull-secret").arg(secret);
            }
        });
        pullpass.until_ready();
        pullpass
    }

    /// Starts it on `ip` with what else `configure` says; it need not become ready.
    pub(crate) fn launch(
        cluster: &Cluster,
        ip: Ipv4Addr,
        configure: impl FnOnce(&mut Command),
    ) -> Self {
        Self::launch_at(cluster, free_address_on(ip), configure)
    }

    /// Starts it as it runs in a cluster, under the account of this kubeconfig, with the rules, the index
    /// and a new certificate of `namespace`.
    pub(crate) fn following(
        cluster: &Cluster,
        namespace: &Namespace<'_>,
        kubeconfig: &Path,
    ) -> Self {
        let certificate = cluster.webhook_certificate();
        namespace.create_object("secrets", &tls_secret(&certificate));
        Self::launch(cluster, Ipv4Addr::LOCALHOST, |command| {
            command
                .env("KUBECONFIG", kubeconfig)
                .args(["--namespace", &namespace.name, "--tls-secret", TLS])
                .args(["--rules-config-map", RULES])
                .args(["--index-config-map", INDEX]);
        })
    }

    /// The same at a given address.
    pub(crate) fn launch_at(
        cluster: &Cluster,
        address: SocketAddr,
        configure: impl FnOnce(&mut Command),
    ) -> Self {
        let probes = free_address_on(address.ip());
        let mut command = sandbox::pullpass();
        command
            .args(["webhook", "--log-level", "debug"])
            .args(["--addr", &address.to_string()])
            .args(["--probe-addr", &probes.to_string()]);
        configure(&mut command);
        let name = cluster.unique("pullpass");
        Self {
            process: Process::start(&name, &mut command, cluster.logs()),
            address,
            probes,
        }
    }

    /// Waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn until_ready(&self) {
        wait_for("pullpass is ready", READY_LIMIT, || {
            self.process.check_running()?;
            self.probe("/readyz").map(drop)
        });
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Memory that is resident, in MiB; of which kind, says [`Process::memory_mib`].
    pub(crate) fn memory_mib(&self, kind: &str) -> f64 {
        self.process.memory_mib(kind)
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        self.process.output()
    }

    /// The value of the series of this name, labels included.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let metrics = self
            .probe("/metrics")
            .unwrap_or_else(|error| panic!("no metrics: {error}"));
        let value = metrics.lines().find_map(|line| line.strip_prefix(series));
        let value = value.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
    }

    /// Where the API server reaches it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/mutate", self.address)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The port of its probes, at the same address.
    pub(crate) fn probe_port(&self) -> u16 {
        self.probes.port()
    }

    /// How many reviews were answered for this reason, by its own count.
    pub(crate) fn answered(&self, reason: &str) -> f64 {
        let metrics = self
            .probe("/metrics")
            .unwrap_or_else(|error| panic!("no metrics: {error}"));
        let reason = format!("reason=\"{reason}\"}} ");
        let counts = metrics
            .lines()
            .filter(|line| line.starts_with("pullpass_admission_requests_total{"))
            .filter_map(|line| line.split_once(&reason)?.1.parse::<f64>().ok());
        counts.sum()
    }

    /// What a path of the probe port answers.
    ///
    /// # Errors
    /// Any answer but 200.
    pub(crate) fn probe(&self, path: &str) -> Result<String, String> {
        probe(self.probes, path)
    }
}

/// The Secret that a webhook serves with.
pub(crate) fn tls_secret(pair: &Pair) -> Value {
    let base64 = |path: &Path| BASE64_STANDARD.encode(fs::read(path).expect("we wrote it"));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": TLS},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64(&pair.certificate), "tls.key": base64(&pair.key)},
    })
}

/// Makes a Service without a selector, and one ready endpoint on the bridge behind it.
pub(crate) fn create_service(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: u16,
    cluster_ip: Option<&str>,
) {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
    });
    if let Some(ip) = cluster_ip {
        service["spec"]["clusterIP"] = json!(ip);
    }
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": port}],
        "endpoints": [{"addresses": [BRIDGE_ADDRESS], "conditions": {"ready": true}}],
    });
    let core = format!("/api/v1/namespaces/{namespace}/services");
    let discovery = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    for (path, object) in [(core, service), (discovery, slice)] {
        cluster.api.post(&path, &object).expect("the name is new");
    }
}

/// What a path of a probe port answers.
///
/// # Errors
/// Any answer but 200.
pub(crate) fn probe(address: SocketAddr, path: &str) -> Result<String, String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READY_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

//! The whole cluster: control plane, and for the node tier the node with its registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::api::Api;
use super::control_plane::ControlPlane;
use super::helm::Helm;
use super::kubectl::Kubectl;
use super::network::{self, BRIDGE_ADDRESS};
use super::node::{self, Node};
use super::pki::{Pair, Pki};
use super::process::Process;
use super::sandbox;
use super::tier::Tier;
use crate::registry::Kit;

/// Where the logs of the last run stay.
const LOGS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cluster-logs");

/// What `make image` makes.
const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image");

/// The image under test.
#[derive(Debug)]
pub(crate) struct Image {
    /// Registry and repository.
    pub(crate) repository: String,
    /// Digest of its index.
    pub(crate) digest: String,
}

/// One certificate serves every webhook of the tests, ours and stand-ins.
const WEBHOOK_NAMES: &[&str] = &["127.0.0.1", BRIDGE_ADDRESS, "*.webhooks.svc"];

/// A running cluster. Shared by every trial.
pub(crate) struct Cluster {
    /// As the administrator.
    pub(crate) api: Api,
    /// As the administrator.
    pub(crate) kubectl: Kubectl,
    /// As the administrator.
    pub(crate) helm: Helm,
    /// What is there besides the node.
    pub(crate) plane: ControlPlane,
    node: Option<(Node, Kit)>,
    direct: OnceLock<(Process, Api)>,
    webhook_certificate: Pair,
    image: OnceLock<Image>,
    workdir: PathBuf,
    logs: PathBuf,
    counter: AtomicU32,
}

impl Cluster {
    /// Starts what `tier` needs, with these flags for the API server, and waits until it is ready.
    pub(crate) fn start(workdir: PathBuf, tier: Tier, flags: &'static [&'static str]) -> Self {
        let logs = Path::new(LOGS);
        drop(fs::remove_dir_all(logs));
        fs::create_dir_all(logs).expect("target/ is writable");
        if sandbox::isolated().is_ok() {
            sandbox::prepare(&workdir);
        }
        let mut plane = ControlPlane::start(&workdir, logs, flags);
        let node = (tier == Tier::Node).then(|| {
            network::create_bridge(&workdir);
            plane.publish();
            let kit = Kit::start(&plane.pki, &workdir, &node::registry_hosts(&workdir), logs);
            let node = Node::start(&plane, &workdir, logs, &kit.pause_image());
            plane.start_scheduler();
            node.wait_until_ready(&plane);
            (node, kit)
        });
        let cluster = Self::of(plane, node, workdir, logs);
        if cluster.node.is_some() {
            cluster.allow_logs_and_exec();
        }
        cluster
    }

    /// One more cluster without a node, for a trial that fills it.
    pub(crate) fn another(&self) -> Self {
        let workdir = self.directory("another");
        let logs = self.logs.join(self.unique("another"));
        fs::create_dir_all(&logs).expect("target/ is writable");
        Self::of(
            ControlPlane::start(&workdir, &logs, &[]),
            None,
            workdir,
            &logs,
        )
    }

    fn of(plane: ControlPlane, node: Option<(Node, Kit)>, workdir: PathBuf, logs: &Path) -> Self {
        Self {
            api: plane.admin.clone(),
            kubectl: Kubectl::new(&plane.kubeconfig, &workdir),
            helm: Helm::new(&plane.kubeconfig, &workdir),
            image: OnceLock::new(),
            webhook_certificate: plane.pki.server("webhook", WEBHOOK_NAMES),
            plane,
            node,
            direct: OnceLock::new(),
            workdir,
            logs: logs.to_owned(),
            counter: AtomicU32::new(0),
        }
    }

    /// The node.
    ///
    /// # Panics
    /// In a trial of the `api` tier.
    pub(crate) fn node(&self) -> &Node {
        &self
            .node
            .as_ref()
            .expect("this trial is registered for the node tier")
            .0
    }

    /// One more node, with this docker config on its disk. It takes only Pods that are bound to it by name.
    pub(crate) fn another_node(&self, docker_config: Option<&Value>) -> Node {
        self.another_node_with(docker_config, json!({}))
    }

    /// The same with these settings of its kubelet.
    pub(crate) fn another_node_with(&self, docker_config: Option<&Value>, settings: Value) -> Node {
        let name = self.unique("node");
        let disk = self.directory(&name);
        self.node()
            .start_another(&self.plane, &name, disk, docker_config, settings)
    }

    /// The registries.
    ///
    /// # Panics
    /// In a trial of the `api` tier.
    pub(crate) fn registries(&self) -> &Kit {
        &self
            .node
            .as_ref()
            .expect("this trial is registered for the node tier")
            .1
    }

    /// An API server that dials the endpoints of a webhook's Service itself.
    pub(crate) fn direct_api(&self) -> &Api {
        let flags = ["--enable-aggregator-routing=true"];
        let start = || {
            self.plane
                .another_api_server("kube-apiserver-direct", &flags)
        };
        &self.direct.get_or_init(start).1
    }

    /// The image that `make image` made, in the registry where anyone may pull.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn image(&self) -> &Image {
        self.image.get_or_init(|| {
            let made = Path::new(IMAGE);
            let digest = fs::read_to_string(made.join("digest"))
                .expect("there is an image: run `make image`, or `image/build native`");
            Image {
                repository: self
                    .registries()
                    .push_layout(&made.join("layout"), "pullpass"),
                digest: digest.trim().to_owned(),
            }
        })
    }

    /// The certificate of every webhook; valid on loopback and for `<service>.webhooks.svc`.
    pub(crate) fn webhook_certificate(&self) -> Pair {
        self.webhook_certificate.clone()
    }

    /// Another one for the same names.
    pub(crate) fn new_webhook_certificate(&self) -> Pair {
        self.plane
            .pki
            .server(&self.unique("webhook"), WEBHOOK_NAMES)
    }

    /// One more API server on the same etcd, which the caller may treat badly.
    pub(crate) fn another_api_server(&self) -> (Process, Api) {
        let name = self.unique("kube-apiserver");
        self.plane.another_api_server(&name, &[])
    }

    /// Such an API server anew, on the address that it had.
    pub(crate) fn api_server_again(&self, api: &Api) -> Process {
        let name = self.unique("kube-apiserver");
        let (process, _) = self.plane.another_api_server_at(&name, api.address(), &[]);
        process
    }

    /// A kubeconfig of a ServiceAccount, for the API server that `api` speaks to.
    pub(crate) fn account_kubeconfig(&self, api: &Api, namespace: &str, account: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.api.post(&path, &request);
        let answer = answer.unwrap_or_else(|error| panic!("no token: {error}"));
        let token = answer["status"]["token"].as_str().expect("a token");
        self.plane
            .token_kubeconfig(&self.unique(account), api.address(), token)
    }

    /// What a webhook configuration needs to trust that certificate, PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.plane.pki.ca_pem()
    }

    /// The CA of another cluster, PEM.
    pub(crate) fn foreign_ca_pem(&self) -> String {
        Pki::create(&self.directory("foreign-pki")).ca_pem()
    }

    /// A certificate of this cluster's CA for `name`, PEM.
    pub(crate) fn certificate_for(&self, name: &str) -> String {
        let pair = self.plane.pki.server(&self.unique("server"), &[name]);
        fs::read_to_string(pair.certificate).expect("we wrote it")
    }

    /// Where logs of the test's own programs go.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// A fresh, empty directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.workdir.join(self.unique(name));
        fs::create_dir_all(&path).expect("the work directory is writable");
        path
    }

    /// `name` with a number that no other call gets.
    pub(crate) fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    fn allow_logs_and_exec(&self) {
        self.kubectl.run(
            &[
                "create",
                "clusterrolebinding",
                "api-server-to-kubelet",
                "--clusterrole=system:kubelet-api-admin",
                "--user=kube-apiserver-kubelet-client",
            ],
            "",
        );
    }
}

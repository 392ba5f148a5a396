//! The node: containerd and the kubelet.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::control_plane::{ControlPlane, flag};
use super::network;
use super::process::Process;
use super::sandbox::{self, cgroup_parent};
use super::tier::tools;
use super::wait::wait_for;

/// Name of the only node.
pub(crate) const NODE: &str = "test-node";
/// The node is ready 10 s after its start; a machine that builds something else is slower.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Manifests of static Pods.
    pub(crate) static_pods: PathBuf,
    processes: Vec<Process>,
}

impl Node {
    /// Starts containerd, which takes `pause_image` for sandboxes; then the kubelet and kube-proxy.
    /// The bridge is there already. Does not wait for the node.
    pub(crate) fn start(plane: &ControlPlane, at: &Path, logs: &Path, pause_image: &str) -> Self {
        let node = Self {
            static_pods: at.join("static"),
            processes: Vec::new(),
        };
        fs::create_dir_all(&node.static_pods).expect("the work directory is writable");
        let containerd = start_containerd(at, pause_image, logs);
        let kubelet = start_kubelet(plane, at, &node.static_pods, logs);
        let proxy_user = plane.user("system:kube-proxy", "");
        let proxy = network::start_proxy(at, &proxy_user, logs);
        Self {
            processes: vec![containerd, kubelet, proxy],
            ..node
        }
    }

    /// Waits until the node is ready for Pods.
    pub(crate) fn wait_until_ready(&self, plane: &ControlPlane) {
        wait_for("the node is ready", START_LIMIT, || {
            for process in &self.processes {
                process.check_running()?;
            }
            let node = plane.admin.get(&format!("/api/v1/nodes/{NODE}"))?;
            let conditions = node["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = conditions
                .iter()
                .find(|condition| condition["type"] == "Ready");
            match ready {
                Some(condition) if condition["status"] == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

/// How containerd reaches each registry host: `<host>/hosts.toml` in this directory.
pub(crate) fn registry_hosts(at: &Path) -> PathBuf {
    at.join("certs.d")
}

fn start_containerd(at: &Path, pause_image: &str, logs: &Path) -> Process {
    let tools = tools();
    let at_text = at.display();
    // oom_score_adj: without CAP_SYS_RESOURCE every sandbox dies otherwise. netns: or it would
    // leave mounts in /run.
    let config = format!(
        r#"version = 3
root = "{at_text}/containerd"
state = "{at_text}/containerd-state"
[grpc]
address = "{at_text}/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause_image}"
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{hosts}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
disable_apparmor = true
enable_cdi = false
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{tools}"]
conf_dir = "{cni}"
"#,
        hosts = registry_hosts(at).display(),
        tools = tools.display(),
        cni = network::cni_directory(at).display(),
    );
    let path = at.join("containerd.toml");
    fs::write(&path, config).expect("the work directory is writable");
    let mut command = sandbox::program(&tools.join("containerd"));
    with_tools_on_path(command.arg("--config").arg(&path));
    let process = Process::start("containerd", &mut command, logs);
    let socket = at.join("containerd.sock");
    wait_for("containerd listens", START_LIMIT, || {
        process.check_running()?;
        UnixStream::connect(&socket)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    process
}

fn start_kubelet(plane: &ControlPlane, at: &Path, static_pods: &Path, logs: &Path) -> Process {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network::BRIDGE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": false},
            "x509": {"clientCAFile": plane.pki.ca_file()},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroup_parent(at)),
        // Nobody answers there, but without an address every Pod gets a warning.
        "clusterDNS": [network::DNS_SERVICE],
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", at.display()),
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi"},
        "failCgroupV1": false,
        "failSwapOn": false,
        "healthzPort": 0,
        // As many as the Pod network has addresses for.
        "maxPods": 240,
        "podLogsDir": at.join("pod-logs"),
        // The default of 5 a second makes bursts fail with "pull QPS exceeded".
        "registryPullQPS": 0,
        "resolvConf": "",
        "serializeImagePulls": false,
        "staticPodPath": static_pods,
        // Nothing but this node's own kubelet writes to Secrets' caches: look every time.
        "configMapAndSecretChangeDetectionStrategy": "Get",
    });
    let path = at.join("kubelet.json");
    fs::write(&path, config.to_string()).expect("the work directory is writable");
    let user = plane.user(&format!("system:node:{NODE}"), "system:nodes");
    let mut command = sandbox::program(&tools().join("kubelet"));
    command
        .arg(flag("config", &path))
        .arg(flag("kubeconfig", &user))
        .arg(flag("root-dir", &at.join("kubelet")))
        .arg(flag("cert-dir", &at.join("kubelet-pki")))
        .arg(format!("--node-ip={}", network::BRIDGE_ADDRESS))
        .arg(format!("--hostname-override={NODE}"))
        .arg("--v=2");
    Process::start("kubelet", with_tools_on_path(&mut command), logs)
}

/// containerd looks for its shim on PATH.
fn with_tools_on_path(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(tools()).chain(std::env::split_paths(&path));
    command.env(
        "PATH",
        std::env::join_paths(paths).expect("no colon in the paths"),
    )
}

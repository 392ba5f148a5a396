//! Nodes: containerd and a kubelet each.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::control_plane::{ControlPlane, flag, free_address_on};
use super::network::{self, BRIDGE_ADDRESS};
use super::process::Process;
use super::sandbox::{self, cgroup_parent};
use super::tier::tools;
use super::wait::{HAPPY, NEW_NODE, wait_for};

/// Name of the node that takes every Pod.
pub(crate) const NODE: &str = "test-node";
/// Trials leave their Pods behind: some 250 in all, sleeping.
pub(super) const PODS_MAX: u32 = 480;
/// Where a kubelet listens unless told otherwise.
const KUBELET_PORT: u16 = 10250;

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Manifests of static Pods.
    pub(crate) static_pods: PathBuf,
    /// Everything that would be on its disk.
    disk: PathBuf,
    port: u16,
    /// What its kubelet's configuration has that others' has not.
    settings: Value,
    shared: Shared,
    processes: Vec<Process>,
}

/// What the nodes of a cluster have in common: the Pod network, and the way to registries.
#[derive(Debug, Clone)]
struct Shared {
    workdir: PathBuf,
    logs: PathBuf,
    pause_image: String,
}

impl Node {
    /// Starts containerd, which takes `pause_image` for sandboxes; then the kubelet and kube-proxy.
    /// The bridge is there already. Does not wait for the node.
    pub(crate) fn start(plane: &ControlPlane, at: &Path, logs: &Path, pause_image: &str) -> Self {
        let mut node = Self {
            name: NODE.to_owned(),
            static_pods: at.join("static"),
            disk: at.to_owned(),
            port: KUBELET_PORT,
            settings: json!({}),
            shared: Shared {
                workdir: at.to_owned(),
                logs: logs.to_owned(),
                pause_image: pause_image.to_owned(),
            },
            processes: Vec::new(),
        };
        node.boot(plane);
        let proxy_user = plane.user("system:kube-proxy", "");
        node.processes
            .push(network::start_proxy(at, &proxy_user, logs));
        node
    }

    /// Starts one more node, on this empty disk, and waits until it is ready. It takes only Pods that are bound
    /// to it by name. The kubelet finds this docker config on its disk, and has these settings.
    pub(crate) fn start_another(
        &self,
        plane: &ControlPlane,
        name: &str,
        disk: PathBuf,
        docker_config: Option<&Value>,
        settings: Value,
    ) -> Self {
        let mut node = Self {
            name: name.to_owned(),
            static_pods: disk.join("static"),
            disk,
            port: free_address_on(bridge()).port(),
            settings,
            shared: self.shared.clone(),
            processes: Vec::new(),
        };
        if let Some(config) = docker_config {
            let root = node.disk.join("kubelet");
            fs::create_dir_all(&root).expect("the work directory is writable");
            let written = fs::write(root.join("config.json"), config.to_string());
            written.expect("the work directory is writable");
        }
        sandbox::create_cgroup(&node.cgroup());
        node.boot(plane);
        node.wait_until_ready(plane);
        node
    }

    /// Ends everything that runs on a node that was started with [`Self::start_another`], and starts it again
    /// on this empty disk, as the same node. Does not wait for it: it was ready before.
    pub(crate) fn replace(&mut self, plane: &ControlPlane, disk: PathBuf) {
        self.halt();
        self.static_pods = disk.join("static");
        self.disk = disk;
        self.boot(plane);
    }

    /// Puts an image into its store past the kubelet, as who prepares a machine's disk does.
    pub(crate) fn preload(&self, image: &str, user: &str, password: &str) {
        let ctr = tools().join("ctr").to_string_lossy().into_owned();
        let (socket, hosts) = (self.socket(), registry_hosts(&self.shared.workdir));
        let (socket, hosts) = (socket.to_string_lossy(), hosts.to_string_lossy());
        let ctr_images = ["--address", &socket, "--namespace", "k8s.io", "images"];
        let login = format!("{user}:{password}");
        let pull = ["pull", "--hosts-dir", &hosts, "--user", &login, image];
        sandbox::run(&ctr, &[&ctr_images[..], &pull].concat());
        // The kubelet sees it from then on.
        let list = ["list", &format!("name=={image}")];
        wait_for("the image is known to the kubelet's side", HAPPY, || {
            let listed = sandbox::output(&ctr, &[&ctr_images[..], &list].concat());
            let is_known = listed.contains("io.cri-containerd.image=managed");
            is_known.then_some(()).ok_or(listed)
        });
    }

    /// From now on there is no room for another image in its store.
    pub(crate) fn fill_store(&self) {
        let ingest = "containerd/io.containerd.content.v1.content/ingest";
        let ingest = self.disk.join(ingest).to_string_lossy().into_owned();
        let mount = ["-t", "tmpfs", "-o", "size=4k", "tmpfs", &ingest];
        sandbox::run("mount", &mount);
    }

    /// Waits until the node is ready for Pods, and everybody knows.
    pub(crate) fn wait_until_ready(&self, plane: &ControlPlane) {
        wait_for("the node is ready", NEW_NODE, || {
            for process in &self.processes {
                process.check_running()?;
            }
            let node = plane.admin.get(&format!("/api/v1/nodes/{}", self.name))?;
            let conditions = node["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = conditions
                .iter()
                .find(|condition| condition["type"] == "Ready");
            // The scheduler goes by the taint, which is taken away a moment later.
            let taint = node["spec"]["taints"].to_string();
            match ready {
                Some(condition)
                    if condition["status"] == "True" && !taint.contains("not-ready") =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?} {taint}")),
            }
        });
    }

    /// Ends everything that runs on it.
    fn halt(&mut self) {
        // The kubelet first, or it would complain of what becomes of the rest.
        self.processes.drain(..).rev().for_each(drop);
        sandbox::kill_cgroup(&self.cgroup());
        // What is left of containers: the shims beside them.
        sandbox::kill_all_with_argument(&self.socket());
    }

    fn boot(&mut self, plane: &ControlPlane) {
        fs::create_dir_all(&self.static_pods).expect("the work directory is writable");
        let containerd = self.start_containerd();
        let kubelet = self.start_kubelet(plane);
        self.processes = vec![containerd, kubelet];
    }

    fn socket(&self) -> PathBuf {
        self.disk.join("containerd.sock")
    }

    /// Control group of everything its kubelet makes.
    fn cgroup(&self) -> String {
        let parent = cgroup_parent(&self.shared.workdir);
        match self.is_first() {
            true => parent,
            false => format!("{parent}/{}", self.name),
        }
    }

    fn is_first(&self) -> bool {
        self.name == NODE
    }

    fn start_containerd(&self) -> Process {
        let (tools, shared) = (tools(), &self.shared.workdir);
        let at_text = self.disk.display();
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
            pause_image = self.shared.pause_image,
            hosts = registry_hosts(shared).display(),
            tools = tools.display(),
            cni = network::cni_directory(shared).display(),
        );
        let path = self.disk.join("containerd.toml");
        fs::write(&path, config).expect("the work directory is writable");
        let mut command = sandbox::program(&tools.join("containerd"));
        with_tools_on_path(command.arg("--config").arg(&path));
        let process = self.start_process("containerd", &mut command);
        let socket = self.socket();
        wait_for("containerd listens", NEW_NODE, || {
            process.check_running()?;
            UnixStream::connect(&socket)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        process
    }

    fn start_kubelet(&self, plane: &ControlPlane) -> Process {
        let at = &self.disk;
        // The scheduler leaves all but the first alone.
        let taints = match self.is_first() {
            true => json!([]),
            false => json!([{"key": "pullpass-test", "effect": "NoSchedule"}]),
        };
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": BRIDGE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": false},
                "x509": {"clientCAFile": plane.pki.ca_file()},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup()),
            // Nobody answers there, but without an address every Pod gets a warning.
            "clusterDNS": [network::DNS_SERVICE],
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi"},
            // Images stay, however full the machine's disk is.
            "imageGCHighThresholdPercent": 100,
            "failCgroupV1": false,
            "failSwapOn": false,
            "healthzPort": 0,
            "maxPods": PODS_MAX,
            "port": self.port,
            "podLogsDir": at.join("pod-logs"),
            "registerWithTaints": taints,
            // The default of 5 a second makes bursts fail with "pull QPS exceeded".
            "registryPullQPS": 0,
            "resolvConf": "",
            "serializeImagePulls": false,
            "staticPodPath": self.static_pods,
            // Nothing but this node's own kubelet writes to Secrets' caches: look every time.
            "configMapAndSecretChangeDetectionStrategy": "Get",
        });
        for (name, value) in self.settings.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        let path = at.join("kubelet.json");
        fs::write(&path, config.to_string()).expect("the work directory is writable");
        let user = plane.user(&format!("system:node:{}", self.name), "system:nodes");
        let mut command = sandbox::program(&tools().join("kubelet"));
        command
            .arg(flag("config", &path))
            .arg(flag("kubeconfig", &user))
            .arg(flag("root-dir", &at.join("kubelet")))
            .arg(flag("cert-dir", &at.join("kubelet-pki")))
            .arg(format!("--node-ip={BRIDGE_ADDRESS}"))
            .arg(format!("--hostname-override={}", self.name))
            .arg("--v=2");
        self.start_process("kubelet", with_tools_on_path(&mut command))
    }

    fn start_process(&self, program: &str, command: &mut Command) -> Process {
        let disk = self.disk.file_name().expect("it has a name").display();
        let name = match self.is_first() {
            true => program.to_owned(),
            false => format!("{program}-{disk}"),
        };
        Process::start(&name, command, &self.shared.logs)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is on the first ends with the sandbox; a trial that failed has other things to say.
        if !self.is_first() && !std::thread::panicking() {
            self.halt();
        }
    }
}

/// How containerd reaches each registry host: `<host>/hosts.toml` in this directory.
pub(crate) fn registry_hosts(at: &Path) -> PathBuf {
    at.join("certs.d")
}

fn bridge() -> Ipv4Addr {
    BRIDGE_ADDRESS.parse().expect("a constant address is valid")
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

//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Api;
use super::network;
use super::pki::{Pair, Pki};
use super::process::Process;
use super::sandbox;
use super::tier::tools;
use super::wait::wait_for;

/// The API server answers 3 s after its start; a machine that builds something else is slower.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A running API server with everything it needs.
pub(crate) struct ControlPlane {
    /// Signs every certificate of the cluster.
    pub(crate) pki: Pki,
    /// A client of `system:masters`.
    pub(crate) admin: Api,
    /// Where the API server listens.
    pub(crate) address: SocketAddr,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    etcd: SocketAddr,
    /// Given to every API server.
    flags: &'static [&'static str],
    tokens: (PathBuf, PathBuf),
    serving: Pair,
    kubelet_client: Pair,
    workdir: PathBuf,
    logs: PathBuf,
    processes: Vec<Process>,
    controllers: Mutex<Option<Process>>,
    api_server: Mutex<Option<Process>>,
}

impl ControlPlane {
    /// Starts etcd, the API server with these flags, and the controllers, and waits until the API server is ready.
    pub(crate) fn start(workdir: &Path, logs: &Path, flags: &'static [&'static str]) -> Self {
        let pki = Pki::create(&workdir.join("pki"));
        let names = [
            "127.0.0.1",
            network::KUBERNETES_SERVICE,
            "kubernetes.default.svc",
        ];
        let address = free_address();
        let admin = pki.client("admin", "admin", "system:masters");
        let mut plane = Self {
            admin: Api::new(address, &pki, &admin),
            address,
            kubeconfig: PathBuf::new(),
            etcd: free_address(),
            flags,
            tokens: pki.token_keys(),
            serving: pki.server("kube-apiserver", &names),
            kubelet_client: pki.client("kubelet-client", "kube-apiserver-kubelet-client", ""),
            pki,
            workdir: workdir.to_owned(),
            logs: logs.to_owned(),
            processes: Vec::new(),
            controllers: Mutex::default(),
            api_server: Mutex::default(),
        };
        plane.kubeconfig = plane.write_kubeconfig("admin", address, &certificate_of(&admin));
        plane.start_etcd();
        let server = plane.start_api_server("kube-apiserver", address, &[]);
        *plane.api_server() = Some(server);
        // The controller manager gives up on an API server that takes longer than 10 s to let it in.
        plane.wait_until_ready(&plane.admin);
        plane.controllers = Mutex::new(Some(plane.start_controller_manager()));
        plane
    }

    /// Starts one more API server on the same etcd, for another way to reach webhooks.
    pub(crate) fn another_api_server(&self, name: &str, flags: &[&str]) -> (Process, Api) {
        self.another_api_server_at(name, free_address(), flags)
    }

    /// The same on this address.
    pub(crate) fn another_api_server_at(
        &self,
        name: &str,
        address: SocketAddr,
        flags: &[&str],
    ) -> (Process, Api) {
        let process = self.start_api_server(name, address, flags);
        let user = self
            .pki
            .client(&format!("{name}-admin"), "admin", "system:masters");
        let api = Api::new(address, &self.pki, &user);
        self.wait_until_ready(&api);
        (process, api)
    }

    /// Leads Service `kubernetes` to the API server, as Pods expect; there is a bridge by now.
    pub(crate) fn publish(&self) {
        let slice = serde_json::json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": self.address.port()}],
            "endpoints": [{"addresses": [network::BRIDGE_ADDRESS], "conditions": {"ready": true}}],
        });
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.admin.post(slices, &slice).expect("the name is new");
    }

    /// Stops the API server where it is, as a machine without a processor would, until
    /// [`Self::thaw_api_server`].
    pub(crate) fn freeze_api_server(&self) {
        self.signal_api_server("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw_api_server(&self) {
        self.signal_api_server("CONT");
    }

    /// Kills the API server and starts it anew, on the same address and the same etcd.
    pub(crate) fn restart_api_server(&self) {
        // The old one goes first, or the new one could not listen.
        drop(self.api_server().take());
        let server = self.start_api_server("kube-apiserver-restarted", self.address, &[]);
        *self.api_server() = Some(server);
        self.wait_until_ready(&self.admin);
    }

    /// Leaves the API server and etcd alone: nobody makes ServiceAccounts in new namespaces any more.
    pub(crate) fn stop_controllers(&self) {
        let controllers = self.controllers.lock();
        drop(controllers.unwrap_or_else(PoisonError::into_inner).take());
    }

    fn signal_api_server(&self, signal: &str) {
        let server = self.api_server();
        server.as_ref().expect("it was started").signal(signal);
    }

    fn api_server(&self) -> MutexGuard<'_, Option<Process>> {
        let locked = self.api_server.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the scheduler; only a node needs it.
    pub(crate) fn start_scheduler(&mut self) {
        let kubeconfig = self.user("system:kube-scheduler", "");
        let mut command = sandbox::program(&tools().join("kube-scheduler"));
        command.arg(flag("kubeconfig", &kubeconfig)).args([
            "--leader-elect=false",
            "--secure-port=0",
            "--v=1",
        ]);
        self.processes
            .push(Process::start("kube-scheduler", &mut command, &self.logs));
    }

    /// Makes a certificate for `user` and a kubeconfig that shows it.
    pub(crate) fn user(&self, user: &str, group: &str) -> PathBuf {
        let file = user.replace(':', "-");
        let pair = self.pki.client(&file, user, group);
        self.write_kubeconfig(&file, self.address, &certificate_of(&pair))
    }

    fn start_etcd(&mut self) {
        let peer = free_address();
        let client = format!("http://{}", self.etcd);
        let peer = format!("http://{peer}");
        let mut command = sandbox::program(&tools().join("server"));
        command
            .arg(flag("data-dir", &self.workdir.join("etcd")))
            .args(["--unsafe-no-fsync", "--log-level=warn", "--name=etcd"])
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=etcd={peer}"));
        self.processes
            .push(Process::start("etcd", &mut command, &self.logs));
    }

    fn start_api_server(&self, name: &str, address: SocketAddr, flags: &[&str]) -> Process {
        let (private, public) = &self.tokens;
        let mut command = sandbox::program(&tools().join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://{}", self.etcd))
            .arg(format!("--bind-address={}", bind_address()))
            .arg(format!("--secure-port={}", address.port()))
            .arg(format!("--advertise-address={}", network::BRIDGE_ADDRESS))
            .arg(format!("--service-cluster-ip-range={}", network::SERVICES))
            .arg(flag("tls-cert-file", &self.serving.certificate))
            .arg(flag("tls-private-key-file", &self.serving.key))
            .arg(flag("client-ca-file", &self.pki.ca_file()))
            .arg(flag(
                "kubelet-client-certificate",
                &self.kubelet_client.certificate,
            ))
            .arg(flag("kubelet-client-key", &self.kubelet_client.key))
            .arg(flag("service-account-signing-key-file", private))
            .arg(flag("service-account-key-file", public))
            .args([
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--endpoint-reconciler-type=none",
                // Nobody resolves the node's name.
                "--kubelet-preferred-address-types=InternalIP",
                "--profiling=false",
                "--v=2",
            ])
            .args(self.flags)
            .args(flags);
        Process::start(name, &mut command, &self.logs)
    }

    fn start_controller_manager(&self) -> Process {
        let kubeconfig = self.user("system:kube-controller-manager", "");
        let mut command = sandbox::program(&tools().join("kube-controller-manager"));
        command
            .arg(flag("kubeconfig", &kubeconfig))
            .arg(flag("service-account-private-key-file", &self.tokens.0))
            .arg(flag("root-ca-file", &self.pki.ca_file()))
            .args([
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--secure-port=0",
                "--v=1",
            ]);
        Process::start("kube-controller-manager", &mut command, &self.logs)
    }

    fn wait_until_ready(&self, api: &Api) {
        wait_for("an API server is ready", START_LIMIT, || {
            for process in self.processes.iter().chain(&*self.api_server()) {
                process.check_running()?;
            }
            api.get("/readyz").map(drop)
        });
    }

    /// A kubeconfig that shows `token` to the API server at `address`.
    pub(crate) fn token_kubeconfig(&self, name: &str, address: SocketAddr, token: &str) -> PathBuf {
        self.write_kubeconfig(name, address, &json!({"token": token}))
    }

    fn write_kubeconfig(&self, name: &str, address: SocketAddr, user: &Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority": self.pki.ca_file(),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        let path = self.workdir.join(format!("{name}.kubeconfig"));
        fs::write(&path, config.to_string()).expect("the work directory is writable");
        path
    }
}

/// What a kubeconfig says of a user with a certificate.
fn certificate_of(user: &Pair) -> Value {
    json!({"client-certificate": user.certificate, "client-key": user.key})
}

/// Where API servers listen: Pods reach theirs at the bridge, which is made later than it.
fn bind_address() -> Ipv4Addr {
    match sandbox::isolated() {
        Ok(()) => Ipv4Addr::UNSPECIFIED,
        Err(_) => Ipv4Addr::LOCALHOST,
    }
}

/// `--name=path`.
pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// A loopback address nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    free_address_on(Ipv4Addr::LOCALHOST)
}

/// An address with this IP nobody listens on.
///
/// Each port is given once, and from below those that the kernel gives by itself (32768 and up): nobody else
/// gets it between now and its use.
pub(crate) fn free_address_on(ip: impl Into<IpAddr>) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let ip = ip.into();
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((ip, port)).is_ok() {
            return (ip, port).into();
        }
    }
}

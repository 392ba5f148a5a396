//! The addresses of the cluster, the bridge its Pods hang on, and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::control_plane::flag;
use super::process::Process;
use super::sandbox::{self, run};
use super::tier::tools;

/// The bridge: the node's own address, and what Pods and the API server see of the host.
pub(crate) const BRIDGE_ADDRESS: &str = "10.88.0.1";
/// Name of the bridge; it lives in the tests' own network namespace.
const BRIDGE: &str = "pp0";
/// Addresses of Pods: more than [`super::node::PODS_MAX`], of which nearly all may be waiting to be freed.
const PODS: &str = "10.88.0.0/22";
/// Addresses of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The first address of [`SERVICES`]: Service `kubernetes`.
pub(crate) const KUBERNETES_SERVICE: &str = "10.96.0.1";
/// An address of [`SERVICES`] for the cluster's name server, which there is not.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";
/// Addresses that literal image names hold; registries listen there.
const LITERAL_ADDRESSES: &[&str] = &["10.39.0.12", "10.39.0.118"];

/// Where the Pod network's configuration is.
pub(crate) fn cni_directory(workdir: &Path) -> PathBuf {
    workdir.join("cni")
}

/// Makes the bridge and writes the Pod network's configuration.
pub(crate) fn create_bridge(workdir: &Path) {
    let cni = cni_directory(workdir);
    run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
    run(
        "ip",
        &[
            "address",
            "add",
            &format!("{BRIDGE_ADDRESS}/22"),
            "dev",
            BRIDGE,
        ],
    );
    for address in LITERAL_ADDRESSES {
        run(
            "ip",
            &["address", "add", &format!("{address}/32"), "dev", BRIDGE],
        );
    }
    run("ip", &["link", "set", BRIDGE, "up"]);
    // The kernel wants a route before it lets kube-proxy's rules rewrite the destination.
    run("ip", &["route", "add", SERVICES, "dev", BRIDGE]);
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "pullpass-test",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            // The way to Services leads over the node.
            "isDefaultGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": cni.join("addresses"),
                "ranges": [[{"subnet": PODS, "rangeStart": "10.88.0.10"}]],
            },
        }],
    });
    fs::create_dir_all(&cni).expect("the work directory is writable");
    fs::write(cni.join("10-bridge.conflist"), config.to_string()).expect("it is writable");
}

/// Starts kube-proxy with the given kubeconfig.
pub(crate) fn start_proxy(workdir: &Path, kubeconfig: &Path, logs: &Path) -> Process {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": PODS,
        "hostnameOverride": super::node::NODE,
        // Pods share a bridge: without another source address, one would answer another directly, past
        // the node that rewrote the destination.
        "iptables": {"minSyncPeriod": "100ms", "masqueradeAll": true},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    });
    let path = workdir.join("kube-proxy.json");
    fs::write(&path, config.to_string()).expect("the work directory is writable");
    let mut command = sandbox::program(&tools().join("kube-proxy"));
    Process::start("kube-proxy", command.arg(flag("config", &path)), logs)
}

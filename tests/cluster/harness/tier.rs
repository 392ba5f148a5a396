//! What this machine can run, and why not if it cannot.

use std::path::{Path, PathBuf};

use super::sandbox;

/// Turns a skipped tier into a failure.
const REQUIRE_ALL: &str = "PULLPASS_REQUIRE_ALL";
/// Programs of the control plane; `make tools` builds them.
const API_PROGRAMS: &[&str] = &[
    "server",
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
];
/// Programs of the node; `make tools` builds them.
const NODE_PROGRAMS: &[&str] = &[
    "bridge",
    "containerd",
    "containerd-shim-runc-v2",
    "crane",
    "ctr",
    "ecr-credential-provider",
    "host-local",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "loopback",
    "registry",
];
/// Programs of the system that a node needs.
const SYSTEM_PROGRAMS: &[&str] = &["busybox", "ip", "iptables", "mount", "runc"];

/// How much of a cluster a trial needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// The API server.
    Api,
    /// A node as well.
    Node,
}

impl Tier {
    /// All tiers, the smaller first.
    pub(crate) const ALL: [Self; 2] = [Self::Api, Self::Node];

    /// How it is called on the screen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Node => "node",
        }
    }
}

/// Which tiers can run here.
#[derive(Debug)]
pub(crate) struct Tiers {
    api: Result<(), String>,
    node: Result<(), String>,
}

impl Tiers {
    /// Looks at the machine.
    pub(crate) fn available() -> Self {
        let api = find_tools(API_PROGRAMS);
        let node = api
            .clone()
            .and_then(|()| sandbox::isolated())
            .and_then(|()| find_tools(NODE_PROGRAMS))
            .and_then(|()| find_on_path(SYSTEM_PROGRAMS));
        Self { api, node }
    }

    /// Whether `tier` can run.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check(&self, tier: Tier) -> Result<(), &str> {
        let result = match tier {
            Tier::Api => &self.api,
            Tier::Node => &self.node,
        };
        result.as_ref().copied().map_err(String::as_str)
    }
}

/// Whether a skip is a failure.
pub(crate) fn all_required() -> bool {
    std::env::var(REQUIRE_ALL).is_ok_and(|value| value == "1")
}

/// Where `make tools` puts its programs.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin")
}

fn find_tools(programs: &[&str]) -> Result<(), String> {
    let missing = programs
        .iter()
        .find(|program| !tools().join(program).is_file());
    missing.map_or(Ok(()), |program| {
        Err(format!(
            "target/tools/bin/{program} is missing; run `make tools`"
        ))
    })
}

fn find_on_path(programs: &[&str]) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = |program: &&&str| directories.iter().any(|path| path.join(program).is_file());
    match programs.iter().find(|program| !found(program)) {
        Some(program) => Err(format!(
            "`{program}` is not on PATH; run `make tools` as root"
        )),
        None => Ok(()),
    }
}

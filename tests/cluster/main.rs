//! A real one-node Kubernetes, real registries, and the scenarios that must work on them.
//!
//! `cargo test --test cluster` starts one cluster, runs every trial on it (each in namespaces of
//! its own, several at a time) and takes the cluster down. `cargo test --test cluster -- scenario_03`
//! runs the trials whose name contains the filter.
//!
//! Two tiers:
//! - `api`: etcd, kube-apiserver and kube-controller-manager. Needs only the programs that
//!   `make tools` builds.
//! - `node`: also containerd, kubelet, kube-proxy, kube-scheduler and registries. Needs root.
//!
//! A tier that cannot run is never skipped in silence: its trials are shown as ignored, one line
//! `SKIPPED <tier>: <reason>` is printed, and with `PULLPASS_REQUIRE_ALL=1` it is a failure.
#![cfg(test)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program talks to the person who runs it"
)]

mod harness;
mod registry;
mod scenarios;

use std::process::ExitCode;

use harness::sandbox::{self, Role};
use harness::tier::Tiers;
use harness::trials::Trials;
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = Trials::collect(scenarios::register);
    if arguments.list {
        return trials.list(&arguments);
    }
    match sandbox::role() {
        Role::Outside => sandbox::run_inside(),
        Role::Inside(workdir) => trials.run(&arguments, &Tiers::available(), workdir),
    }
}

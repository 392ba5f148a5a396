//! Certificates that look after themselves, on a real API server.

use std::time::{Duration, Instant, SystemTime};

use pullpass::pki::verify::verify;

use super::RULES;
use crate::harness::cluster::Cluster;
use crate::harness::controller::{CA, Installation, SERVICE, TLS};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.api("incident_15_controller_starts_from_nothing", fresh);
}

impl Installation<'_> {
    /// Whether the leaf that is stored verifies against the bundle that is stored.
    fn verified(&self) -> Result<(), String> {
        let chain = self.entry(TLS, "tls.crt")?;
        let name = format!("{SERVICE}.{}.svc", self.namespace.name);
        let bundle = self.bundle()?;
        verify(
            chain.as_bytes(),
            bundle.as_bytes(),
            &name,
            SystemTime::now(),
        )
        .map_err(|error| error.to_string())
    }
}

fn fresh(cluster: &Cluster) {
    let installation = Installation::create(cluster, "fresh", RULES);
    let controller = installation.controller(&[]);
    let start = Instant::now();
    wait_for("the leaf verifies", HAPPY, || {
        installation
            .verified()
            .map_err(|e| format!("{e}\n{}", controller.log()))
    });
    println!("verified after {:?}", start.elapsed());
    println!("{}\n{}", controller.log(), controller.readiness());
}

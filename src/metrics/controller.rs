//! What only a controller counts; a webhook does not export it.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of a controller besides those of every process.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    writes: IntCounterVec,
    /// 1 while this process is the one that writes.
    pub leader: IntGauge,
    /// Writes of `caBundle`.
    pub ca_bundle_applied: IntCounter,
}

impl ControllerMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let writes = Opts::new(
            "pullpass_writes_total",
            "Objects that this process wrote, by which",
        );
        Ok(Self {
            writes: super::register(registry, IntCounterVec::new(writes, &["object"])?)?,
            leader: super::register(
                registry,
                IntGauge::new(
                    "pullpass_leader",
                    "1 while this controller is the one that writes, 0 otherwise",
                )?,
            )?,
            ca_bundle_applied: super::register(
                registry,
                IntCounter::new(
                    "pullpass_ca_bundle_applied_total",
                    "How many times this process wrote caBundle",
                )?,
            )?,
        })
    }

    /// The counter of writes of this object. Names come from the program, never from the cluster.
    pub fn writes(&self, object: &'static str) -> IntCounter {
        self.writes.with_label_values(&[object])
    }
}

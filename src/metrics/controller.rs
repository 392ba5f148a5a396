//! What only a controller counts; a webhook does not export it.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{OTHER, label};

/// Most pull secrets that get series of their own; the others share the name [`OTHER`].
const SECRET_NAMES_MAX: usize = 100;

/// Upper bounds in seconds. A Pod without volumes asks for its secrets 15 ms after it was seen, an ordinary
/// one after 250 ms, and a miss costs it ten seconds.
const LAG_BUCKETS: [f64; 12] = [
    0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

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

/// The metrics of delivery.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    /// Copies.
    pub copies: Counts,
    /// Entries in ServiceAccounts.
    pub attached: Counts,
    /// What registries say.
    pub probes: Counts,
    /// Seconds from the sight of a new namespace or a waiting Pod to the copy.
    pub lag: Histogram,
    /// 1 while the index does not fit into a ConfigMap.
    pub index_too_large: IntGauge,
    /// Runs of programs that give credentials.
    pub program_runs: ProgramRuns,
    recoveries: IntCounterVec,
}

/// How often programs were asked, by what came of it.
#[derive(Debug, Clone)]
pub struct ProgramRuns(IntCounterVec);

impl ProgramRuns {
    /// Counts one.
    pub fn count(&self, is_answered: bool) {
        let outcome = if is_answered { "answered" } else { "failed" };
        self.0.with_label_values(&[outcome]).inc();
    }
}

/// How many of something there are, by pull secret and state.
#[derive(Debug, Clone)]
pub struct Counts {
    gauges: IntGaugeVec,
    /// What the state is called.
    label: &'static str,
}

impl DeliveryMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let copies = Opts::new(
            "pullpass_copies",
            "Copies by pull secret, and how they are doing",
        );
        let attached = Opts::new(
            "pullpass_attached",
            "ServiceAccounts that a pull secret is attached to, or should be, and how they are doing",
        );
        let probes = Opts::new(
            "pullpass_probes",
            "Pull secrets that a registry was asked about, by what it says now",
        );
        let lag = HistogramOpts::new(
            "pullpass_delivery_lag_seconds",
            "From the sight of a namespace or of a Pod that waits to the copy",
        );
        Ok(Self {
            copies: Counts::register(registry, copies, "state")?,
            attached: Counts::register(registry, attached, "state")?,
            probes: Counts::register(registry, probes, "result")?,
            lag: super::register(
                registry,
                Histogram::with_opts(lag.buckets(LAG_BUCKETS.to_vec()))?,
            )?,
            index_too_large: super::register(
                registry,
                IntGauge::new(
                    "pullpass_index_too_large",
                    "1 while the index does not fit into a ConfigMap, so that webhooks keep the last",
                )?,
            )?,
            program_runs: ProgramRuns(super::register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pullpass_program_runs_total",
                        "How many times programs of the rules (`exec`) were asked, by what came of it",
                    ),
                    &["outcome"],
                )?,
            )?),
            recoveries: super::register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pullpass_recoveries_total",
                        "Pods that were to be evicted so that they get a pull secret, by what came of it",
                    ),
                    &["outcome"],
                )?,
            )?,
        })
    }

    /// Counts a Pod that was to be evicted. Outcomes come from the program.
    pub fn recovered(&self, outcome: &'static str) {
        self.recoveries.with_label_values(&[outcome]).inc();
    }
}

impl Counts {
    fn register(registry: &Registry, opts: Opts, label: &'static str) -> prometheus::Result<Self> {
        let gauges = IntGaugeVec::new(opts, &["secret", label])?;
        let gauges = super::register(registry, gauges)?;
        Ok(Self { gauges, label })
    }

    /// Sets how many there are, by pull secret and state. Series of others are dropped.
    pub fn set<'a>(&self, counts: impl IntoIterator<Item = (&'a str, &'static str, usize)>) {
        let mut names: Vec<&str> = Vec::new();
        let mut sums: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (name, state, count) in counts {
            if names.last() != Some(&name) {
                names.push(name);
            }
            let name = if names.len() > SECRET_NAMES_MAX {
                OTHER
            } else {
                name
            };
            *sums.entry((name, state)).or_default() += count;
        }
        for family in self.gauges.collect() {
            for metric in family.get_metric() {
                let (name, state) = (label(metric, "secret"), label(metric, self.label));
                if !sums.contains_key(&(name, state)) {
                    self.gauges.remove_label_values(&[name, state]).ok();
                }
            }
        }
        for ((name, state), count) in sums {
            let gauge = self.gauges.with_label_values(&[name, state]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

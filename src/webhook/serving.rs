//! What requests are served with: one value that a request loads once and that is swapped whole.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::watch;

use crate::metrics::{Metrics, RuleCounters};
use crate::rules::Mode;
use crate::snapshot::Snapshot;

/// A snapshot, with the counters of its rules: a request that started under old rules counts under
/// old rules.
#[derive(Debug)]
pub struct Serving {
    /// What decisions depend on.
    pub snapshot: Snapshot,
    /// Aligned with the snapshot's rules.
    pub injections: Arc<RuleCounters>,
}

/// Holds the current [`Serving`]; empty until rules are loaded.
///
/// An `ArcSwap`, because a request must neither wait for a swap nor see half of one.
#[derive(Debug)]
pub struct ServingStore {
    current: ArcSwapOption<Serving>,
    published: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

impl ServingStore {
    /// An empty store that counts in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            published: watch::Sender::default(),
            metrics,
        }
    }

    /// What to serve a request with. Call it once per request, or again after [`Self::published`].
    pub fn load(&self) -> Guard<Option<Arc<Serving>>> {
        self.current.load()
    }

    /// Changes with each later [`Self::publish`].
    pub fn published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }

    /// Serves later requests with `snapshot`.
    pub fn publish(&self, snapshot: Snapshot) {
        let before = self.current.load();
        let before = before.as_deref();
        let injections = match before.filter(|before| before.snapshot.shares_ruleset(&snapshot)) {
            Some(before) => before.injections.clone(),
            None => self.counters(&snapshot),
        };
        let serving = Serving {
            snapshot,
            injections,
        };
        self.current.store(Some(Arc::new(serving)));
        self.published.send_replace(());
    }

    fn counters(&self, snapshot: &Snapshot) -> Arc<RuleCounters> {
        let generation = i64::try_from(snapshot.generation()).unwrap_or(i64::MAX);
        self.metrics.rules_generation.set(generation);
        let rules = snapshot.ruleset().rules().iter();
        let labels = rules.map(|rule| (&*rule.name, mode_label(rule.mode)));
        Arc::new(self.metrics.rules(labels))
    }
}

/// As written in the rules.
fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Enforce",
        Mode::Shadow => "Shadow",
    }
}

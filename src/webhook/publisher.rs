//! Takes over rules and what is known about secrets, says so, and lets requests see it.
//!
//! Whoever reads files ([`super::files`]) or follows the API server ([`super::objects`]) hands its
//! pieces in here, so that both log, count and keep the last good state alike. This module must not
//! read anything itself.

use std::sync::Arc;

use super::serving::ServingStore;
use crate::http::probes::Condition;
use crate::metrics::Metrics;
use crate::snapshot::{Assembly, Finding, Namespaces, Refused};

/// Hands snapshots to requests.
#[derive(Debug)]
pub struct Publisher {
    /// The last good pieces.
    pub assembly: Assembly,
    store: Arc<ServingStore>,
    metrics: Arc<Metrics>,
    /// Met once rules are in use.
    condition: Condition,
}

impl Publisher {
    /// Publishes to `store`; `condition` is met once rules are in use.
    pub fn new(
        namespaces: Namespaces,
        store: Arc<ServingStore>,
        metrics: Arc<Metrics>,
        condition: Condition,
    ) -> Self {
        Self {
            assembly: Assembly::new(namespaces),
            store,
            metrics,
            condition,
        }
    }

    /// Takes over a rules text, which errors call `name`, or why there is none. Whether there are new
    /// rules to publish.
    pub fn load_rules(&mut self, name: &str, read: Result<&str, String>) -> bool {
        let loaded = read
            .map_err(Refused::because)
            .and_then(|text| self.assembly.load_rules(name, text));
        self.metrics.rules_valid.set(loaded.is_ok().into());
        let ruleset = self.assembly.ruleset();
        match loaded {
            Ok(()) => {
                let rules = ruleset.map_or(0, |ruleset| ruleset.rules().len());
                let generation = self.assembly.generation();
                tracing::info!(generation, rules, "rules loaded");
                true
            }
            Err(Refused {
                reason,
                diagnostics,
            }) => {
                let what_now = what_now(ruleset.is_some());
                tracing::error!(reason, diagnostics, "rules refused: {what_now}");
                if ruleset.is_none() {
                    self.condition.unmet(reason);
                }
                false
            }
        }
    }

    /// Serves later requests with what there is, if it is enough.
    pub fn publish(&mut self) {
        let Some(assembled) = self.assembly.assemble() else {
            return;
        };
        for finding in assembled.findings {
            match finding {
                Finding::Unclaimed { secret } => tracing::warn!(
                    secret,
                    "no pull secret of the rules has this Secret as its source"
                ),
                Finding::Unusable {
                    pull_secret,
                    reason,
                } => tracing::warn!(pull_secret, reason, "pull secret cannot be used"),
            }
        }
        self.store.publish(assembled.snapshot);
        self.condition.met();
        self.assembly.tidy();
    }
}

/// What a refusal means for requests.
pub fn what_now(has_last_good: bool) -> &'static str {
    if has_last_good {
        "the last good ones stay in use"
    } else {
        "not ready until they can be used"
    }
}

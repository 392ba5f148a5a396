//! Looks at every edit of the rules and says in an Event where it is wrong.
//!
//! Webhooks keep their last good rules and may not write Events; this is how who edited the ConfigMap
//! learns of a mistake. Every controller judges, for its metrics; only the one that leads speaks. The last
//! good rules are handed on, so that nobody loads them twice. What must not happen here: a second idea of
//! what valid rules are.

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::budget::Budget;
use super::events::{Events, Reason};
use super::next_change;
use crate::cluster::watch::Seen;
use crate::index::document::rules_hash;
use crate::metrics::Metrics;
use crate::rules::{self, RulesConfig, config::RULES_KEY};
use crate::shutdown::Stop;

/// What is to be said about one version of the ConfigMap.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// With its version, so that two mistakes in a row are two Events.
    regarding: ObjectReference,
    /// One line with line and column.
    problem: Option<String>,
}

impl Verdict {
    /// The rules' ConfigMap.
    pub(super) fn regarding(&self) -> &ObjectReference {
        &self.regarding
    }
}

/// Rules that can be used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: RulesConfig,
    /// [`rules_hash`] of their text.
    pub(super) hash: String,
}

/// Judges each version of the rules, for ever. `good` is the last that can be used.
pub(super) async fn judge(
    mut seen: watch::Receiver<Seen<ConfigMap>>,
    metrics: Arc<Metrics>,
    verdicts: watch::Sender<Option<Verdict>>,
    good: watch::Sender<Option<Arc<Loaded>>>,
) -> Infallible {
    let mut before = None;
    loop {
        let current = seen.borrow_and_update().clone();
        let problem = match &current {
            Seen::NotYet => None,
            Seen::Absent => Some(Some("the ConfigMap does not exist".to_owned())),
            Seen::Present(map) => match load(map.clone(), &metrics).await {
                Ok(loaded) => {
                    good.send_replace(Some(Arc::new(loaded)));
                    Some(None)
                }
                Err(problem) => Some(Some(problem)),
            },
        };
        if let Some(problem) = problem {
            metrics.rules_valid.set(problem.is_none().into());
            if before.as_ref() != Some(&problem) {
                match &problem {
                    None => tracing::info!("the rules are valid"),
                    Some(reason) => tracing::warn!(reason, "the rules cannot be used"),
                }
            }
            if let Seen::Present(map) = current {
                let mut regarding = map.object_ref(&());
                regarding.resource_version = map.resource_version();
                let problem = problem.clone();
                verdicts.send_replace(Some(Verdict { regarding, problem }));
            }
            before = Some(problem);
        }
        next_change(&mut seen).await;
    }
}

/// The rules of a ConfigMap, or why they cannot be used.
async fn load(map: Arc<ConfigMap>, metrics: &Metrics) -> Result<Loaded, String> {
    // A mebibyte of rules keeps a thread busy for a while.
    let judged = spawn_blocking(move || load_now(&map)).await;
    judged.unwrap_or_else(|_| {
        metrics.panics.inc();
        Err(format!("{RULES_KEY}: cannot be checked because of a bug"))
    })
}

fn load_now(map: &ConfigMap) -> Result<Loaded, String> {
    let text = map.data.as_ref().and_then(|data| data.get(RULES_KEY));
    let text = text.ok_or_else(|| format!("the ConfigMap has no key {RULES_KEY}"))?;
    let config = rules::load(text).map_err(|diagnostics| diagnostics.summary(RULES_KEY))?;
    Ok(Loaded {
        config,
        hash: rules_hash(text),
    })
}

/// Says what was judged, as long as this controller leads.
pub(super) struct Announcer {
    verdicts: watch::Receiver<Option<Verdict>>,
    announced: Option<Verdict>,
    events: Events,
    budget: Budget,
}

impl Announcer {
    pub(super) fn new(verdicts: watch::Receiver<Option<Verdict>>, events: Events) -> Self {
        Self {
            verdicts,
            announced: None,
            events,
            budget: Budget::default(),
        }
    }

    /// Announces until `stop` drains. Of many edits in a minute, some may go without an Event; the last
    /// one never does.
    pub(super) async fn run(&mut self, stop: &Stop) {
        loop {
            let verdict = self.verdicts.borrow_and_update().clone();
            let wait = self.budget.wait(Instant::now());
            if wait.is_zero() {
                self.announce(verdict).await;
            }
            tokio::select! {
                () = stop.drain() => return,
                () = next_change(&mut self.verdicts) => {}
                () = sleep(wait), if !wait.is_zero() => {}
            }
        }
    }

    async fn announce(&mut self, verdict: Option<Verdict>) {
        let Some(verdict) = verdict.filter(|verdict| Some(verdict) != self.announced.as_ref())
        else {
            return;
        };
        let before = self.announced.as_ref();
        let was_bad = before.is_some_and(|announced| announced.problem.is_some());
        let said = match &verdict.problem {
            Some(problem) => Some((Reason::RulesInvalid, &**problem)),
            None => was_bad.then_some((Reason::RulesValid, "the rules can be used again")),
        };
        if let Some((reason, note)) = said {
            self.events.publish(&verdict.regarding, reason, note).await;
            self.budget.spend(Instant::now());
        }
        self.announced = Some(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(data: &serde_json::Value) -> Option<String> {
        let map = serde_json::from_value(json!({"metadata": {}, "data": data}));
        load_now(&map.unwrap()).err()
    }

    #[test]
    fn a_problem_says_line_and_column() {
        let head = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n";
        let good = format!("{head}pullSecrets: [{{name: a}}]\nrules: []\n");
        assert_eq!(judged(&json!({"rules.yaml": good})), None);

        let one = format!("{head}pullSecrets: []\nrules:\n  - name: [\n");
        let said = judged(&json!({"rules.yaml": one})).unwrap();
        assert!(said.starts_with("rules.yaml:"), "{said}");

        let two = format!("{head}pullSecrets: [{{name: a}}]\nrulez: []\nwhat: 1\n");
        let said = judged(&json!({"rules.yaml": two})).unwrap();
        assert!(said.starts_with("rules.yaml:4:1: "), "{said}");
        assert!(said.contains(" more)"), "{said}");
    }

    #[test]
    fn a_missing_key_is_a_problem() {
        for data in [json!({}), json!({"other.yaml": "x"}), json!(null)] {
            let said = judged(&data).unwrap();
            assert_eq!(said, "the ConfigMap has no key rules.yaml");
        }
    }
}

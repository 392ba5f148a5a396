//! Says how delivery is doing: metrics, and one Event for each state that somebody should change.
//!
//! It looks at states, not at what happened, so a burst of a thousand namespaces is one Event. Only the
//! controller that leads speaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::budget::Budget;
use super::super::events::{Events, Reason};
use super::super::next_change;
use super::super::rules::Verdict;
use super::board::Board;
use super::queue::Key;
use crate::delivery::survey::{Census, Finding, OwnSource, Topic};
use crate::delivery::{CopyState, Entry, State};
use crate::index::document::ProbeResult;
use crate::metrics::DeliveryMetrics;
use crate::shutdown::Stop;

/// Pause between two surveys. One of 5,000 namespaces and 20 secrets takes some ten milliseconds.
const SURVEY_PAUSE: Duration = Duration::from_secs(1);
/// Longest time between two surveys: pauses of failures end without a change of the state.
const SURVEY_INTERVAL: Duration = Duration::from_secs(60);

/// The one that speaks.
pub(super) struct Announcer {
    pub(super) board: Arc<Board>,
    pub(super) verdicts: watch::Receiver<Option<Verdict>>,
    pub(super) events: Events,
    pub(super) metrics: DeliveryMetrics,
    /// Our own namespace.
    pub(super) namespace: String,
    /// What was said and still holds.
    pub(super) said: BTreeMap<Topic, Said>,
}

/// What could not be written the last time.
#[derive(Default)]
struct Failing {
    /// Copies, by entry.
    copies: BTreeMap<Arc<str>, usize>,
    /// ServiceAccounts, by each entry that they lack.
    accounts: BTreeMap<Arc<str>, usize>,
}

/// What was said about a topic.
pub(super) struct Said {
    note: String,
    budget: Budget,
}

impl Announcer {
    /// Speaks until `stop` drains.
    pub(super) async fn run(&mut self, stop: &Stop) {
        let mut changes = self.board.changes();
        while !stop.is_draining() {
            changes.mark_unchanged();
            self.survey().await;
            let changed = async {
                next_change(&mut changes).await;
                sleep(SURVEY_PAUSE).await;
            };
            tokio::select! {
                () = stop.drain() => {}
                () = changed => {}
                () = sleep(SURVEY_INTERVAL) => {}
            }
        }
    }

    async fn survey(&mut self) {
        let (survey, mut findings, accepted) = {
            let state = self.board.state();
            let survey = state.survey();
            let findings = state.findings(&survey);
            (survey, findings, self.accepted(&state))
        };
        let failing = self.failing(&mut findings);
        self.count(&survey, &failing);
        let usable = self.forget(&findings);
        for name in usable.iter().filter(|name| survey.contains_key(*name)) {
            let note = format!("pull secret \"{name}\": its source can be used");
            tracing::info!(note);
            self.publish(None, Reason::SourceUsable, &note).await;
        }
        for (name, source) in accepted {
            let note = format!("pull secret \"{name}\": its registry accepts it");
            tracing::info!(note);
            self.publish(source, Reason::CredentialAccepted, &note)
                .await;
        }
        for finding in findings {
            self.say(finding).await;
        }
    }

    /// Entries whose registries were complained about and accept them now, and their sources.
    fn accepted(&self, state: &State) -> Vec<(Arc<str>, Option<OwnSource>)> {
        let accepted = state.entries().iter().filter(|entry| {
            let was_said = |topic: fn(_) -> _| self.said.contains_key(&topic(entry.name.clone()));
            state.probed(entry) == Some(&ProbeResult::Accepted)
                && (was_said(Topic::CredentialRejected) || was_said(Topic::Unanswered))
        });
        let with_source = |entry: &Entry| (entry.name.clone(), state.own_source(entry));
        accepted.map(with_source).collect()
    }

    /// Forgets what no longer holds; gives the entries whose sources were complained about and are no more.
    fn forget(&mut self, findings: &[Finding]) -> Vec<Arc<str>> {
        let of_source = |topic: &Topic| match topic {
            Topic::SourceMissing(name) | Topic::SourceUnusable(name) => Some(name.clone()),
            _ => None,
        };
        let mut usable = Vec::new();
        self.said.retain(|topic, _| {
            let holds = findings.iter().any(|finding| finding.topic == *topic);
            usable.extend(of_source(topic).filter(|_| !holds));
            holds
        });
        usable.retain(|name| {
            let mut complaints = findings
                .iter()
                .filter_map(|finding| of_source(&finding.topic));
            complaints.all(|of| of != *name)
        });
        usable
    }

    /// How many copies of each entry, and how many ServiceAccounts, could not be written the last time. What
    /// needs somebody is a finding.
    fn failing(&self, findings: &mut Vec<Finding>) -> Failing {
        let failures: Vec<_> = {
            let queue = self.board.queue();
            let failures = queue.failures();
            failures
                .map(|(key, failure)| (key.clone(), failure.note.clone(), failure.is_refusal))
                .collect()
        };
        let state = self.board.state();
        let mut failing = Failing::default();
        let mut refused: BTreeMap<Option<Arc<str>>, (usize, String)> = BTreeMap::new();
        for (key, note, is_refusal) in failures {
            let (entry, namespace, is_forbidden) = match &key {
                Key::Copy((namespace, name)) => {
                    let entry = state.look(namespace, name).entry;
                    let entry = entry.map_or_else(|| name.clone(), |entry| entry.name.clone());
                    *failing.copies.entry(entry.clone()).or_default() += 1;
                    (Some(entry), namespace, state.forbidden.contains(name))
                }
                Key::Account(key) => {
                    for entry in state.unattached(key) {
                        *failing.accounts.entry(entry.name.clone()).or_default() += 1;
                    }
                    (None, &key.0, state.are_accounts_forbidden)
                }
            };
            if is_refusal && !is_forbidden {
                let example = format!("in namespace {namespace}: {note}");
                refused.entry(entry).or_insert((0, example)).0 += 1;
            }
        }
        findings.extend(refused.into_iter().map(|(entry, (count, example))| Finding {
            note: match &entry {
                Some(entry) => format!(
                    "pull secret \"{entry}\": {count} copies are refused by the API server, the first {example}"
                ),
                None => format!(
                    "changes of {count} ServiceAccounts are refused by the API server, the first {example}"
                ),
            },
            topic: entry.map_or(Topic::AccountsRefused, Topic::Refused),
            source: None,
        }));
        failing
    }

    fn count(&self, survey: &BTreeMap<Arc<str>, Census>, failing: &Failing) {
        const STATES: [(CopyState, &str); 4] = [
            (CopyState::Present, "present"),
            (CopyState::Missing, "missing"),
            (CopyState::Stale, "stale"),
            (CopyState::Foreign, "foreign"),
        ];
        let copies = survey.iter().flat_map(|(name, census)| {
            let of_state = |(state, word)| (&**name, word, census.counts.get(&state).copied());
            let failing = (&**name, "failing", failing.copies.get(name).copied());
            STATES.map(of_state).into_iter().chain([failing])
        });
        let copies = copies.map(|(name, state, count)| (name, state, count.unwrap_or(0)));
        self.metrics.copies.set(copies);
        let attached = survey.iter().flat_map(|(name, census)| {
            let failing = failing.accounts.get(name).copied().unwrap_or(0);
            let states = [
                ("present", census.attached),
                ("missing", census.unattached),
                ("failing", failing),
            ];
            let is_any = census.attached + census.unattached > 0;
            let states = states.into_iter().filter(move |_| is_any);
            states.map(|(state, count)| (&**name, state, count))
        });
        self.metrics.attached.set(attached);
        let state = self.board.state();
        let results = state.entries().iter().filter_map(|entry| {
            let result = state.probed(entry)?;
            Some((&*entry.name, result.as_str(), 1))
        });
        self.metrics.probes.set(results);
    }

    async fn say(&mut self, finding: Finding) {
        let reason = match finding.topic {
            Topic::SourceMissing(_) => Reason::SourceMissing,
            Topic::SourceUnusable(_) => Reason::SourceUnusable,
            Topic::CredentialRejected(_) => Reason::CredentialRejected,
            Topic::Unanswered(_) => Reason::ProbeUnanswered,
            Topic::Foreign(_) => Reason::CopyNotOurs,
            Topic::Permission(_) | Topic::AccountPermission | Topic::Watch(_) => {
                Reason::PermissionMissing
            }
            Topic::Refused(_) => Reason::CopyRefused,
            Topic::AccountsRefused => Reason::AccountRefused,
            Topic::Index => Reason::IndexTooLarge,
        };
        // Words of the API server may differ each time, as the numbers of a quota do.
        let is_quoted = matches!(finding.topic, Topic::Refused(_) | Topic::AccountsRefused);
        let now = Instant::now();
        let said = self.said.get_mut(&finding.topic);
        if let Some(said) = said {
            let is_same = is_quoted || said.note == finding.note;
            if is_same || !said.budget.wait(now).is_zero() {
                return;
            }
        }
        tracing::warn!(?reason, note = finding.note, "delivery needs somebody");
        self.publish(finding.source, reason, &finding.note).await;
        let said = self.said.entry(finding.topic).or_insert_with(|| Said {
            note: String::new(),
            budget: Budget::default(),
        });
        said.note = finding.note;
        said.budget.spend(now);
    }

    /// Says it on the source, else on the rules.
    async fn publish(&self, source: Option<OwnSource>, reason: Reason, note: &str) {
        let regarding = match source {
            Some((name, uid)) => Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(name.to_string()),
                uid: Some(uid.to_string()),
                ..ObjectReference::default()
            }),
            None => {
                let verdict = self.verdicts.borrow();
                verdict.as_ref().map(|verdict| verdict.regarding().clone())
            }
        };
        if let Some(regarding) = regarding {
            self.events.publish(&regarding, reason, note).await;
        }
    }
}

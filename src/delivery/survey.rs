//! How all copies are doing, and what somebody should do about it: from what was last seen.
//!
//! A finding is a state, not an event: who says it, says it once for as long as it reads the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::index::document::{INDEX_BYTES_MAX, ProbeResult};
use crate::rules::config::Source;

use super::plan::Entry;
use super::source::{Origin, SourceRef};
use super::state::{Listing, State};
use super::step::CopyState;

/// Namespaces that a finding names; it counts the others.
const NAMED_MAX: usize = 5;

/// The copies of one entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many are in each state.
    pub counts: BTreeMap<CopyState, usize>,
    /// Where somebody else's Secret has their name, sorted.
    pub foreign: Vec<Arc<str>>,
    /// How many ServiceAccounts have the entry.
    pub attached: usize,
    /// How many should have it and do not.
    pub unattached: usize,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The source of this entry is not there, or may not be read.
    SourceMissing(Arc<str>),
    /// The source of this entry cannot be used.
    SourceUnusable(Arc<str>),
    /// The registry of this entry rejects it.
    CredentialRejected(Arc<str>),
    /// The registry of this entry does not say whether it accepts it.
    Unanswered(Arc<str>),
    /// Somebody else's Secrets have the name of this entry's copies.
    Foreign(Arc<str>),
    /// Secrets of this name may not be read or written.
    Permission(Arc<str>),
    /// A kind of objects, called so, that may not be read.
    Watch(&'static str),
    /// ServiceAccounts may not be written.
    AccountPermission,
    /// The API server refuses copies of this entry.
    Refused(Arc<str>),
    /// The API server refuses changes of ServiceAccounts.
    AccountsRefused,
    /// The index is too large for a ConfigMap.
    Index,
}

/// Name and uid of a source in pullpass's own namespace, which an Event can be about.
pub type OwnSource = (Arc<str>, Box<str>);

/// Something that somebody should do something about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about; one finding each.
    pub topic: Topic,
    /// The source, if that is the Secret to look at.
    pub source: Option<OwnSource>,
    /// What is wrong and what to do.
    pub note: String,
}

impl State {
    /// How the copies are doing, by the entry's name. Every entry is there.
    pub fn survey(&self) -> BTreeMap<Arc<str>, Census> {
        let mut survey = BTreeMap::new();
        for entry in self.entries() {
            survey.insert(entry.name.clone(), Census::default());
        }
        for (namespace, secret_name) in self.objects() {
            let look = self.look(namespace, secret_name);
            let Some((entry, state)) = look.entry.zip(look.state) else {
                continue;
            };
            let census: &mut Census = survey.entry(entry.name.clone()).or_default();
            *census.counts.entry(state).or_default() += 1;
            if state == CopyState::Foreign {
                census.foreign.push(Arc::clone(namespace));
            }
        }
        for (key, account) in self.accounts.known().into_iter().flatten() {
            for (entry, wish) in self.wishes(key).unwrap_or_default() {
                let census: &mut Census = survey.entry(entry.name.clone()).or_default();
                census.attached += usize::from(account.has(wish.name));
            }
            for entry in self.unattached(key) {
                survey.entry(entry.name.clone()).or_default().unattached += 1;
            }
        }
        survey
    }

    /// What somebody should do something about, from a survey.
    pub fn findings(&self, survey: &BTreeMap<Arc<str>, Census>) -> Vec<Finding> {
        let entries = self.entries();
        let sources = entries.iter().filter_map(|entry| self.of_source(entry));
        let foreign = entries.iter().filter_map(|entry| {
            let namespaces = &survey.get(&entry.name)?.foreign;
            (!namespaces.is_empty()).then(|| of_foreign(entry, namespaces))
        });
        let names = self.secret_names().filter(|name| {
            let copies = self.copies.get(name);
            copies.is_some_and(Listing::is_denied) || self.forbidden.contains(name)
        });
        let watches = [
            ("namespaces", self.namespaces.is_denied()),
            (
                "Secrets of pullpass's own namespace",
                self.own_sources.is_denied(),
            ),
            ("Pods", self.pods.is_denied()),
            ("ServiceAccounts", self.strict_accounts.is_denied()),
        ];
        let watches = watches.into_iter().filter(|(_, is_denied)| *is_denied);
        sources
            .chain(entries.iter().filter_map(|entry| self.of_probe(entry)))
            .chain(foreign)
            .chain(names.map(of_permission))
            .chain(watches.map(|(kind, _)| of_watch(kind)))
            .chain(self.are_accounts_forbidden.then(of_accounts))
            .chain(self.is_index_too_large.then(of_index))
            .collect()
    }

    /// Every entry that is delivered.
    pub fn entries(&self) -> &[Entry] {
        let rules = self.rules.as_ref();
        rules.map(|rules| rules.plan.entries()).unwrap_or_default()
    }

    fn of_source(&self, entry: &Entry) -> Option<Finding> {
        let source = match &entry.origin {
            Origin::Secret(source) => source,
            Origin::Given(source) => return self.of_given(entry, source),
        };
        let found = self.source(source)?;
        let denied = self
            .other_sources
            .get(source)
            .is_some_and(Listing::is_denied);
        let problem = match found.map(|found| &found.content) {
            Some(Ok(_)) => return None,
            Some(Err(reason)) => {
                let SourceRef { namespace, name } = source;
                let delete = format!("kubectl -n {namespace} delete secret {name}");
                let create = command(source);
                format!(
                    "Secret {source} cannot be used: {reason}. Make it anew: {delete}; {create}"
                )
            }
            None if denied => format!(
                "Secret {source} may not be read; give the controller get, list and watch of Secrets \
                 called {} (the chart does, for sources that are in its values)",
                source.name
            ),
            None => format!(
                "Secret {source} does not exist. Make it: {}",
                command(source)
            ),
        };
        Some(Finding {
            topic: match found {
                Some(_) => Topic::SourceUnusable(entry.name.clone()),
                None => Topic::SourceMissing(entry.name.clone()),
            },
            source: self.own_source(entry),
            note: format!("pull secret \"{}\": {problem}", entry.name),
        })
    }

    /// The source of an entry, if an Event can be about it.
    pub fn own_source(&self, entry: &Entry) -> Option<OwnSource> {
        let Origin::Secret(source) = &entry.origin else {
            return None;
        };
        let is_own =
            self.rules.as_ref().map(|rules| rules.plan.own_namespace()) == Some(&*source.namespace);
        let seen = self.source(source)?.filter(|_| is_own)?;
        Some((source.name.clone(), seen.uid.clone()))
    }

    fn of_probe(&self, entry: &Entry) -> Option<Finding> {
        let name = &entry.name;
        let (topic, note) = match self.probed(entry)? {
            ProbeResult::Rejected { reason } => (
                Topic::CredentialRejected(name.clone()),
                format!(
                    "its registry rejects it: {reason}. Put a login that works into its source"
                ),
            ),
            ProbeResult::Unknown { reason } => (
                Topic::Unanswered(name.clone()),
                format!("whether its registry accepts it is not known: {reason}"),
            ),
            ProbeResult::Accepted => return None,
        };
        Some(Finding {
            topic,
            source: self.own_source(entry),
            note: format!("pull secret \"{name}\": {note}"),
        })
    }
}

impl State {
    /// Of a file or program that gives nothing, or nothing new.
    fn of_given(&self, entry: &Entry, source: &Arc<Source>) -> Option<Finding> {
        let found = self.given.get(source)?;
        let problem = match &found.content {
            Err(reason) => format!("{source} cannot be used: {reason}"),
            Ok(_) => {
                let reason = found.problem.as_deref()?;
                format!("{source} gives nothing new, and what it gave last is still used: {reason}")
            }
        };
        Some(Finding {
            topic: Topic::SourceUnusable(entry.name.clone()),
            source: None,
            note: format!("pull secret \"{}\": {problem}", entry.name),
        })
    }
}

/// How a source is made.
fn command(source: &SourceRef) -> String {
    let SourceRef { namespace, name } = source;
    format!(
        "kubectl -n {namespace} create secret docker-registry {name} --docker-server=HOST \
         --docker-username=USER --docker-password=PASSWORD"
    )
}

fn of_foreign(entry: &Entry, namespaces: &[Arc<str>]) -> Finding {
    let Entry {
        name, secret_name, ..
    } = entry;
    let mut places =
        namespaces
            .iter()
            .take(NAMED_MAX)
            .fold(String::new(), |mut text, namespace| {
                let comma = if text.is_empty() { "" } else { ", " };
                write!(text, "{comma}{namespace}").ok();
                text
            });
    if let Some(more) = namespaces
        .len()
        .checked_sub(NAMED_MAX)
        .filter(|more| *more > 0)
    {
        write!(places, " and {more} more").ok();
    }
    Finding {
        topic: Topic::Foreign(name.clone()),
        source: None,
        note: format!(
            "pull secret \"{name}\": Secret {secret_name} of somebody else is left alone in {places}. \
             Delete it, have it adopted (`adopt`), or choose another `secretName`"
        ),
    }
}

fn of_permission(secret_name: Arc<str>) -> Finding {
    let note = format!(
        "Secrets called {secret_name} may not be read or written in all namespaces. Add {secret_name} to \
         delivery.secretNames in the chart's values (also for a name that the rules no longer have, until \
         its copies are removed)"
    );
    Finding {
        topic: Topic::Permission(secret_name),
        source: None,
        note,
    }
}

fn of_accounts() -> Finding {
    let note = "ServiceAccounts may not be patched. Set delivery.serviceAccounts to true in the chart's \
                values (also for rules that no longer attach anything, until what they attached is undone)";
    Finding {
        topic: Topic::AccountPermission,
        source: None,
        note: note.to_owned(),
    }
}

fn of_watch(kind: &'static str) -> Finding {
    Finding {
        topic: Topic::Watch(kind),
        source: None,
        note: format!(
            "{kind} may not be listed and watched; render the chart with delivery.enabled"
        ),
    }
}

fn of_index() -> Finding {
    Finding {
        topic: Topic::Index,
        source: None,
        note: format!(
            "the index of what all pull secrets cover is larger than {INDEX_BYTES_MAX} bytes, and webhooks \
             go on with the last one; let pull secrets have fewer registries, or fewer pull secrets"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::SecretType;
    use crate::delivery::state::tests::{GOOD, account, copy, foreign, put, state};
    use crate::delivery::{Payload, SourceSecret};

    /// The notes of all findings.
    fn notes(state: &State) -> Vec<String> {
        let findings = state.findings(&state.survey());
        findings.into_iter().map(|finding| finding.note).collect()
    }

    #[test]
    fn copies_are_counted_by_entry_and_state() {
        let mut state = state("{name: harbor}, {name: later}");
        put(&mut state, "a", "harbor", copy());
        put(&mut state, "b", "harbor", foreign(GOOD));
        let survey = state.survey();
        let counts = [(CopyState::Present, 1), (CopyState::Foreign, 1)];
        assert_eq!(survey["harbor"].counts, counts.into());
        assert_eq!(survey["harbor"].foreign, ["b".into()]);
        assert_eq!(survey["later"].counts, [(CopyState::Missing, 2)].into());
    }

    #[test]
    fn scenario_32_findings_say_what_to_do() {
        let mut state = state("{name: harbor}, {name: later, secretName: other}");
        put(&mut state, "b", "harbor", foreign(GOOD));
        let found = notes(&state);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("Secret pullpass/later does not exist"),
            "{found:?}"
        );
        assert!(found[0].contains("kubectl -n pullpass create secret docker-registry later "));
        assert!(found[1].contains("Secret harbor of somebody else is left alone in b."));

        state.copies.get_mut("other").unwrap().deny();
        state.forbidden.insert("harbor".into());
        let found = notes(&state);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[2].contains("Add harbor to delivery.secretNames"),
            "{found:?}"
        );
        assert!(
            found[3].contains("Add other to delivery.secretNames"),
            "{found:?}"
        );
    }

    #[test]
    fn a_finding_names_some_namespaces_and_counts_the_rest() {
        let state = state("{name: harbor}");
        let entry = &state.entries()[0];
        let namespaces: Vec<Arc<str>> = (0..8).map(|n| format!("n{n}").into()).collect();
        let note = of_foreign(entry, &namespaces).note;
        assert!(
            note.contains(" in n0, n1, n2, n3, n4 and 3 more."),
            "{note}"
        );
        let note = of_foreign(entry, &namespaces[..5]).note;
        assert!(note.contains(" in n0, n1, n2, n3, n4."), "{note}");
    }

    #[test]
    fn accounts_are_counted_by_entry() {
        let mut state = state("{name: harbor, serviceAccounts: [\"*\"]}, {name: other}");
        account(&mut state, "a", &["x"], &[]);
        account(&mut state, "b", &["harbor"], &["harbor"]);
        let survey = state.survey();
        assert_eq!(
            (survey["harbor"].attached, survey["harbor"].unattached),
            (1, 1)
        );
        assert_eq!(
            (survey["other"].attached, survey["other"].unattached),
            (0, 0)
        );
        state.are_accounts_forbidden = true;
        let found = notes(&state);
        assert!(
            found
                .iter()
                .any(|note| note.contains("delivery.serviceAccounts")),
            "{found:?}"
        );
    }

    #[test]
    fn all_is_well() {
        let mut state = state("{name: harbor}");
        put(&mut state, "a", "harbor", copy());
        assert_eq!(notes(&state), Vec::<String>::new());
    }

    #[test]
    fn scenario_52_a_program_that_fails_is_said_with_its_reason() {
        let mut state = state("{name: t, source: {exec: {command: plugin, images: [r.io]}}}");
        assert_eq!(
            notes(&state),
            Vec::<String>::new(),
            "it has not answered yet"
        );
        let Origin::Given(source) = state.entries()[0].origin.clone() else {
            panic!("it is a program");
        };
        let failed = SourceSecret::given(Err("it crashed".to_owned()));
        state.given.insert(source.clone(), failed);
        let expected = "pull secret \"t\": program plugin cannot be used: it crashed";
        assert_eq!(notes(&state), [expected]);
        let payload = Payload::new(SecretType::DockerConfigJson, GOOD).unwrap();
        let late = SourceSecret {
            problem: Some("it hangs".into()),
            ..SourceSecret::given(Ok(payload.into()))
        };
        state.given.insert(source, late);
        let notes = notes(&state);
        assert!(
            notes[0].contains("program plugin gives nothing new")
                && notes[0].ends_with(": it hangs")
        );
    }
}

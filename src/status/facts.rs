//! What was found of rules, sources, copies and Pods, as it was found. This file must not judge.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use serde::Serialize;

use crate::delivery::source::Origin;
use crate::delivery::{SourceRef, State};
use crate::index::IndexDocument;
use crate::installation::{Looked, Names};
use crate::recovery::stuck::Judge;
use crate::recovery::{self, pods::FailingPod};
use crate::rules::config::{Deliver, PullSecretConfig};
use crate::rules::{RulesConfig, Ruleset};
use crate::snapshot::Snapshot;

/// Everything that was found.
#[derive(Debug)]
pub struct Facts {
    /// What the objects of the installation are called.
    pub names: Names,
    /// The rules in the ConfigMap, which are valid.
    pub config: RulesConfig,
    /// The same, compiled.
    pub ruleset: Arc<Ruleset>,
    /// How the API server is told to ask the webhook; `None` if that was not found.
    pub webhook: Option<MutatingWebhook>,
    /// What the controller published; `None` if it publishes nothing, and so delivers nothing.
    pub index: Option<IndexDocument>,
    /// Whether the controller delivers; `None` if that could not be seen.
    pub delivers: Option<bool>,
    /// Entries of the rules that are looked at, by position.
    pub entries: Vec<usize>,
    /// As the controller would see it: namespaces, sources, copies, Pods that wait.
    pub state: State,
    /// What the caller could see of each source.
    pub sources: BTreeMap<SourceRef, Looked<SourceFacts>>,
    /// Pods that wait for an image.
    pub pods: Vec<FailingPod>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// A source, without a byte of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// Why no copy should be made of it.
    pub unusable: Option<String>,
    /// Its registry keys that have a user name and a password, without user info.
    pub registries: Vec<String>,
    /// Its credentials that say when they end.
    pub expiries: Vec<Expiry>,
}

/// When a credential of a source ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Its registry key, without user info.
    pub key: String,
    /// In seconds since 1970.
    pub at: u64,
}

/// Something that the caller may not look at, or that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What is not in the report for it.
    pub what: String,
    /// The API server's words.
    pub said: String,
    /// How to see it.
    pub fix: String,
}

/// Names that one line has room for.
const NAMED_MAX: usize = 5;

/// The first few, and how many more there are.
pub fn first_few(all: &[String]) -> String {
    let named = all.iter().take(NAMED_MAX).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl Unseen {
    /// All of one kind in one line, by their names.
    pub(super) fn together(what: &str, all: Vec<(String, Self)>) -> Option<Self> {
        let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
        let (_, first) = all.into_iter().next()?;
        Some(Self {
            what: format!("{what}: {}", first_few(&names)),
            ..first
        })
    }

    /// Of a look that saw nothing; `right` as in `kubectl auth can-i`. `None` if it was seen, or is absent.
    pub fn of<T>(what: &str, right: &str, looked: &Looked<T>) -> Option<Self> {
        let (said, fix) = match looked {
            Looked::Seen(_) | Looked::Absent => return None,
            Looked::Denied(said) => (said, format!("run it as someone who may {right}")),
            Looked::Failed(said) => (said, "run it again".to_owned()),
        };
        Some(Self {
            what: what.to_owned(),
            said: said.clone(),
            fix,
        })
    }
}

impl Facts {
    /// The Secret that an entry comes from, if somebody reads it.
    pub(super) fn source_of(&self, entry: &PullSecretConfig) -> Option<SourceRef> {
        match Origin::of(&entry.source, &self.names.namespace) {
            Origin::Secret(source) if entry.deliver != Deliver::Never => Some(source),
            _ => None,
        }
    }

    /// What a webhook that knows all this decides with.
    pub fn snapshot(&self) -> Snapshot {
        recovery::snapshot(self.ruleset.clone(), self.index.as_ref(), &self.state)
    }

    /// What decides about Pods with it; about those of Jobs, only with `jobs`.
    pub fn judge<'a>(&'a self, snapshot: &'a Snapshot, jobs: bool) -> Judge<'a> {
        Judge {
            webhook: self.webhook.as_ref(),
            snapshot,
            jobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_five_are_said() {
        let all: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
        assert_eq!(first_few(&all), "n0, n1, n2, n3, n4 and 3 more");
        assert_eq!(first_few(&all[..2]), "n0, n1");
        assert_eq!(first_few(&[]), "");
    }

    #[test]
    fn what_was_seen_or_is_not_there_is_not_unseen() {
        let unseen = |looked: &Looked<()>| Unseen::of("x", "list pods", looked);
        assert_eq!(unseen(&Looked::Seen(())), None);
        assert_eq!(unseen(&Looked::Absent), None);
        let denied = unseen(&Looked::Denied("forbidden".to_owned())).unwrap();
        assert!(denied.fix.contains("who may list pods"), "{denied:?}");
        let all = ["a", "b"].map(|name| (name.to_owned(), denied.clone()));
        let together = Unseen::together("sources", all.into()).unwrap();
        assert_eq!(together.what, "sources: a, b");
        assert_eq!(Unseen::together("sources", Vec::new()), None);
    }
}

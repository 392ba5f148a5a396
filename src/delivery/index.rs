//! What the webhook is told: `index.json`, from what was last seen.
//!
//! What was published before is the memory of it: a source that is gone or broken is stale if it was ever
//! usable, with the keys it had, whichever controller leads.

use std::sync::Arc;

use crate::credential::{Keyring, SecretType};
use crate::index::document::{SecretDocument, StateDocument};
use crate::index::{Coverage, IndexDocument, State as Usability};

use super::copy::{ContentHash, Observed};
use super::plan::Entry;
use super::source::{Origin, Payload, SourceSecret};
use super::state::State;

/// Why there is nothing of a program yet.
const NOT_ANSWERED: &str = "it has not answered yet";

impl State {
    /// The index as it should be; `None` while something that it says is not known yet.
    pub fn index(&self) -> Option<IndexDocument> {
        let rules = self.rules.as_ref()?;
        let published = self.published.as_ref()?.as_ref();
        if !self.strict_accounts.is_settled() {
            return None;
        }
        let mut index = IndexDocument::for_rules(rules.hash.clone());
        for entry in rules.plan.entries() {
            let before = published.and_then(|index| index.secrets.get(&*entry.name));
            let mut secret = self.secret(entry, before)?;
            secret.undecodable_in = self.undecodable(&entry.secret_name)?;
            index.secrets.insert(entry.name.to_string(), secret);
        }
        for (namespace, account) in self
            .strict_accounts
            .known()
            .into_iter()
            .flat_map(|all| all.keys())
        {
            let accounts = index.strict_service_accounts.entry(namespace.to_string());
            accounts.or_default().insert(account.to_string());
        }
        index.delivered = self.secret_names().map(|name| name.to_string()).collect();
        index.attached = self.may_be_attached();
        Some(index)
    }

    /// For who neither reads files nor asks programs: takes for what they gave what is published of it. That
    /// tells copies apart, and is nothing to write.
    pub fn believe_published(&mut self) {
        let entries = self.rules.iter().flat_map(|rules| rules.plan.entries());
        let published = self.published.iter().flatten().next();
        let given = entries.filter_map(|entry| {
            let Origin::Given(source) = &entry.origin else {
                return None;
            };
            let secret = published?.secrets.get(&*entry.name)?;
            let hash = ContentHash::parse(&secret.hash);
            let hash = hash.filter(|_| secret.state == StateDocument::Usable);
            let payload = hash.map(|hash| Payload {
                kind: SecretType::DockerConfigJson,
                bytes: Box::default(),
                hash,
                keyring: Keyring::default(),
            });
            let content = payload.map(Arc::new).ok_or_else(|| secret.problem.clone());
            Some((Arc::clone(source), SourceSecret::given(content)))
        });
        self.given = given.collect();
    }

    fn secret(&self, entry: &Entry, before: Option<&SecretDocument>) -> Option<SecretDocument> {
        let source = match (self.source_of(entry), &entry.origin) {
            (Some(source), _) => source,
            (None, Origin::Secret(_)) => return None,
            // A program may take its time, and all others are not to wait for it.
            (None, Origin::Given(_)) if before.is_some() => return before.cloned(),
            (None, Origin::Given(_)) => None,
        };
        let coverage = |keyring, state| Coverage {
            keyring,
            state,
            undecodable_in: Default::default(),
        };
        let reason = match source.map(|source| &source.content) {
            Some(Ok(payload)) => {
                let usable = coverage(payload.keyring.clone(), Usability::Usable);
                let problem = source.and_then(|source| source.problem.as_deref());
                return Some(SecretDocument {
                    problem: problem.unwrap_or_default().to_owned(),
                    probe: self.probe_document(entry).cloned(),
                    ..SecretDocument::new(&usable, payload.hash.to_string())
                });
            }
            Some(Err(reason)) => reason.to_string(),
            None if matches!(entry.origin, Origin::Given(_)) => NOT_ANSWERED.to_owned(),
            None => "its source does not exist".to_owned(),
        };
        let was_usable = |before: &&SecretDocument| {
            matches!(before.state, StateDocument::Usable | StateDocument::Stale)
        };
        Some(match before.filter(was_usable) {
            Some(before) => SecretDocument {
                state: StateDocument::Stale,
                problem: reason,
                probe: None,
                ..before.clone()
            },
            None => {
                let unusable = coverage(Default::default(), Usability::Unusable { reason });
                SecretDocument::new(&unusable, String::new())
            }
        })
    }

    /// Namespaces with a Secret of this name, not ours, that fails Pods.
    fn undecodable<C: FromIterator<String>>(&self, secret_name: &str) -> Option<C> {
        let copies = self.copies.get(secret_name)?;
        if !copies.is_settled() {
            return None;
        }
        let fails =
            |(_, secret): &(&Arc<str>, &Observed)| secret.is_undecodable && !secret.is_ours();
        let copies = copies.known().into_iter().flatten();
        Some(
            copies
                .filter(fails)
                .map(|(namespace, _)| namespace.to_string())
                .collect(),
        )
    }
}

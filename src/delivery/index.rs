//! What the webhook is told: `index.json`, from what was last seen.
//!
//! What was published before is the memory of it: a source that is gone or broken is stale if it was ever
//! usable, with the keys it had, whichever controller leads.

use std::sync::Arc;

use crate::index::document::{SecretDocument, StateDocument};
use crate::index::{Coverage, IndexDocument, State as Usability};

use super::copy::Observed;
use super::plan::Entry;
use super::state::State;

impl State {
    /// The index as it should be; `None` while something that it says is not known yet.
    pub fn index(&self) -> Option<IndexDocument> {
        let rules = self.rules.as_ref()?;
        let published = self.published.as_ref()?.as_ref();
        if !self.strict_accounts.is_settled() {
            return None;
        }
        let mut index = IndexDocument::for_rules(rules.hash.clone());
        for entry in rules
            .plan
            .entries()
            .iter()
            .filter(|entry| entry.source.is_some())
        {
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

    fn secret(&self, entry: &Entry, before: Option<&SecretDocument>) -> Option<SecretDocument> {
        let source = self.source(entry.source.as_ref()?)?;
        let coverage = |keyring, state| Coverage {
            keyring,
            state,
            undecodable_in: Default::default(),
        };
        let reason = match source.map(|source| &source.content) {
            Some(Ok(payload)) => {
                let usable = coverage(payload.keyring.clone(), Usability::Usable);
                return Some(SecretDocument {
                    probe: self.probed(entry).cloned(),
                    ..SecretDocument::new(&usable, payload.hash.to_string())
                });
            }
            Some(Err(reason)) => reason.to_string(),
            None => "its source does not exist".to_owned(),
        };
        let was_usable = |before: &&SecretDocument| {
            matches!(before.state, StateDocument::Usable | StateDocument::Stale)
        };
        Some(match before.filter(was_usable) {
            Some(before) => SecretDocument {
                state: StateDocument::Stale,
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

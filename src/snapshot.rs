//! What a request sees: compiled rules, index and namespace labels, in one immutable value that a
//! request loads once. Swapped as a whole, never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::{Coverage, Index};
use crate::rules::selector::Labels;
use crate::rules::{Ruleset, SecretId};

/// Everything a decision depends on besides the review.
#[derive(Debug)]
pub struct Snapshot {
    ruleset: Arc<Ruleset>,
    index: Arc<Index>,
    /// Aligned with `ruleset.pull_secrets()`, so that a request looks nothing up by name.
    coverage: Vec<Option<Coverage>>,
    namespaces: Namespaces,
    generation: u64,
}

/// Labels of namespaces.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Namespaces {
    /// Outside a cluster: the same labels for every namespace (`--namespace-label`).
    Fixed(Arc<BTreeMap<String, String>>),
}

impl Snapshot {
    /// Binds an index to a ruleset.
    pub fn new(
        ruleset: Arc<Ruleset>,
        index: Arc<Index>,
        namespaces: Namespaces,
        generation: u64,
    ) -> Self {
        let coverage = ruleset
            .pull_secrets()
            .iter()
            .map(|s| index.secrets.get(&*s.name).cloned())
            .collect();
        Self {
            ruleset,
            index,
            coverage,
            namespaces,
            generation,
        }
    }

    /// The compiled rules.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What is known about a pull secret; `None`: unknown.
    pub fn coverage(&self, secret: SecretId) -> Option<&Coverage> {
        self.coverage.get(secret.0 as usize)?.as_ref()
    }

    /// Labels of namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Counts the rules loads of this process, from 1; a gauge in the metrics.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Namespaces {
    /// The labels of `namespace`; `None` while it is not known.
    pub fn labels<'a>(&'a self, namespace: &'a str) -> Option<NamespaceLabels<'a>> {
        match self {
            Self::Fixed(labels) => Some(NamespaceLabels { namespace, labels }),
        }
    }
}

/// The labels of one namespace.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceLabels<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
}

/// Label that the API server puts on every namespace, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Labels for NamespaceLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        if key == NAME_LABEL {
            Some(self.namespace)
        } else {
            self.labels.get(key).map(|v| &**v)
        }
    }
}

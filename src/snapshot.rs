//! What a request sees: compiled rules, index and namespace labels, in one immutable value that a
//! request loads once. Swapped as a whole, never changed.

mod assembly;

pub use assembly::{Assembled, Assembly, Finding, Refused};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::{Coverage, Index, SecretManifest, State};
use crate::rules::config::{PullSecretConfig, Source};
use crate::rules::ruleset::PullSecret;
use crate::rules::selector::Labels;
use crate::rules::{RulesConfig, Ruleset, SecretId};

/// Everything a decision depends on besides the review. A clone shares all of it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    ruleset: Arc<Ruleset>,
    index: Arc<Index>,
    /// Aligned with `ruleset.pull_secrets()`, so that a request looks nothing up by name.
    coverage: Arc<[Option<Coverage>]>,
    namespaces: Namespaces,
    generation: u64,
}

/// Labels of namespaces.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Namespaces {
    /// Outside a cluster: the same labels for every namespace (`--namespace-label`).
    Fixed(Arc<BTreeMap<String, String>>),
    /// In a cluster: those of each namespace that was seen.
    Seen(Arc<LabelsByName>),
}

/// Labels of each namespace by its name. A clone shares names and labels.
pub type LabelsByName = BTreeMap<Arc<str>, Arc<BTreeMap<String, String>>>;

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
            .map(|secret| coverage_of(secret, &index))
            .collect();
        Self {
            ruleset,
            index,
            coverage,
            namespaces,
            generation,
        }
    }

    /// The same under other namespaces; shares everything else.
    pub fn with_namespaces(&self, namespaces: Namespaces) -> Self {
        Self {
            namespaces,
            ..self.clone()
        }
    }

    /// Whether both have the same compiled rules in memory, so that what was derived from the rules of
    /// one fits the other.
    pub fn shares_ruleset(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ruleset, &other.ruleset)
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

/// What is known about a pull secret. An answer to what other rules asked is none.
fn coverage_of(secret: &PullSecret, index: &Index) -> Option<Coverage> {
    let mut coverage = index.secrets.get(&*secret.name)?.clone();
    if let State::Rejected { asked, .. } = &coverage.state
        && secret.asked.as_deref() != Some(asked)
    {
        coverage.state = State::Usable;
    }
    Some(coverage)
}

/// In a cluster, before any namespace was seen.
impl Default for Namespaces {
    fn default() -> Self {
        Self::Seen(Arc::default())
    }
}

impl Namespaces {
    /// The labels of `namespace`; `None` while it is not known.
    pub fn labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Fixed(labels) => Some(labels),
            Self::Seen(labels) => labels.get(namespace).map(|labels| &**labels),
        }
    }
}

/// The labels of one namespace, its name among them.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceLabels<'a> {
    /// Its name.
    pub namespace: &'a str,
    /// From [`Namespaces::labels`].
    pub labels: &'a BTreeMap<String, String>,
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

/// What Secret manifests say about the pull secrets of the rules, outside a cluster.
#[derive(Debug, Default)]
pub struct ManifestIndex {
    /// A pull secret without a manifest has no entry: nothing is known about it.
    pub index: Index,
    /// Names of the Secrets that are the source of no pull secret: most likely a slip.
    pub unclaimed: Vec<String>,
}

impl ManifestIndex {
    /// Binds each manifest to the pull secrets whose source it is: same name, and same namespace where
    /// both say one. Of several manifests for one pull secret, the last counts.
    pub fn new(secrets: Vec<SecretManifest>, config: &RulesConfig) -> Self {
        let mut found = Self::default();
        for secret in secrets {
            let mut claimed = false;
            for entry in &config.pull_secrets {
                if is_source(&secret, entry) {
                    claimed = true;
                    let coverage = secret.coverage.clone();
                    found.index.secrets.insert(entry.name.clone(), coverage);
                }
            }
            if !claimed {
                found.unclaimed.push(secret.name);
            }
        }
        found
    }
}

/// Outside a cluster, a Secret may also stand in for what a file or a program would deliver.
fn is_source(secret: &SecretManifest, entry: &PullSecretConfig) -> bool {
    let (namespace, name) = match &entry.source {
        Source::Secret { namespace, secret } => (namespace.as_deref(), secret),
        Source::File { .. } | Source::Exec(_) => (None, &entry.secret_name),
    };
    let differs = |(ours, theirs): (&str, &str)| ours != theirs;
    secret.name == *name
        && !namespace
            .zip(secret.namespace.as_deref())
            .is_some_and(differs)
}

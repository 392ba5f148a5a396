//! What each pull secret covers and whether it may be injected. Pure.
//!
//! Built from Secret manifests outside a cluster; in a cluster the controller publishes it. It holds
//! registry keys, never user names or passwords.

pub mod document;
pub mod manifest;

pub use document::{IndexDocument, IndexError};
pub use manifest::SecretManifest;

use std::collections::{HashMap, HashSet};

use crate::credential::Keyring;

/// What is known about one pull secret of the rules.
#[derive(Debug, Clone)]
pub struct Coverage {
    /// The registry keys of the payload.
    pub keyring: Keyring,
    /// Whether it may be injected.
    pub state: State,
    /// Namespaces where a Secret of this name, not made by us, sits that the kubelet cannot decode.
    pub undecodable_in: HashSet<String>,
}

/// Whether a pull secret may be injected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The source decodes and has at least one credential.
    Usable,
    /// The source is gone; copies still work. Injected, with a warning.
    Stale,
    /// The source decodes, but its registry does not accept it. Injected with a warning, unless the rules
    /// say otherwise.
    Rejected {
        /// To what, as the rules' probe says it.
        asked: String,
        /// Why, in words of ours.
        reason: String,
    },
    /// Never had a decodable payload: injecting it would fail every image of the Pod.
    Unusable {
        /// Why, without a byte of the payload.
        reason: String,
    },
}

/// What is known about all pull secrets, and about the ServiceAccounts that refuse injected ones.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// By the entry's name in the rules (`pullSecrets[].name`). No entry: unknown.
    pub secrets: HashMap<String, Coverage>,
    /// By namespace, the names of ServiceAccounts with
    /// `kubernetes.io/enforce-mountable-secrets: "true"`.
    pub strict_service_accounts: HashMap<String, HashSet<String>>,
}

impl Index {
    /// Whether the API server would refuse a Pod of this ServiceAccount that names a secret which the
    /// ServiceAccount does not list.
    pub fn is_strict(&self, namespace: &str, service_account: &str) -> bool {
        self.strict_service_accounts
            .get(namespace)
            .is_some_and(|names| names.contains(service_account))
    }
}

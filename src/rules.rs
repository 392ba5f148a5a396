//! Rules: from what the user wrote to what a request matches against. Pure: no I/O, not async, no
//! HTTP, no Kubernetes client.
//!
//! ```text
//! text --yaml--> tree --config--> RulesConfig --Ruleset::compile--> Ruleset
//!                  `--> every Diagnostic at once
//! ```
//! [`load`] turns text into a [`RulesConfig`] or into every [`Diagnostic`] at once;
//! [`Ruleset::compile`] turns the config into what a request uses.
//!
//! # What decides, in this order
//!
//! 1. Rules are looked at in the order of the text; each adds its pull secrets in the order of its
//!    own list. No rule stops another.
//! 2. A rule applies in a namespace that an entry of `namespaces` covers, that no entry of
//!    `excludeNamespaces` covers, and whose labels meet `namespaceSelector`. Excludes win.
//! 3. `podSelector` is on the Pod's labels.
//! 4. With `images`: the rule fires if at least one image is covered by a pattern of `images` and by
//!    none of `excludeImages`. Which pattern is longer or written first does not matter: excludes
//!    win. With `always` it fires whatever the images are.
//! 5. Without `images`: each credential is judged by its own keys, on the images that no pattern of
//!    `excludeImages` covers.
//! 6. A pull secret is permitted in a namespace as in 2, by its own entry; there, the system's
//!    namespaces count only where written out ([`namespace`]).

pub mod config;
pub mod diagnostics;
mod glob;
mod matcher;
pub mod namespace;
pub mod pattern;
pub mod ruleset;
pub mod selector;
mod yaml;

pub use config::{Deliver, Mode, RulesConfig, load};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use namespace::NamespaceMatcher;
pub use pattern::RegistryPattern;
pub use ruleset::{PullSecret, Rule, RuleId, Ruleset, SecretId};
pub use selector::{LabelSelector, Labels};
/// For the fuzz target.
#[cfg(any(test, fuzzing))]
pub use yaml::is_read_plainly;
pub use yaml::{DEPTH_MAX, NODES_MAX};

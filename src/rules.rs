//! Rules: from what the user wrote to what a request matches against. Pure.
//!
//! [`load`] turns text into a [`RulesConfig`] or into every [`Diagnostic`] at once;
//! [`Ruleset::compile`] turns the config into what a request uses.

pub mod config;
pub mod diagnostics;
pub mod matcher;
pub mod pattern;
pub mod ruleset;
pub mod selector;

pub use config::{Deliver, Mode, RulesConfig, load};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use ruleset::{PullSecret, Rule, RuleId, Ruleset, SecretId};
pub use selector::LabelSelector;

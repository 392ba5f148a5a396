//! Looks at an installation from outside and says what is wrong with it, with the fix.
//!
//! ```text
//! API server --fetch--> Facts --one small check each--> findings, in the order of a request's way
//! ```
//! `fetch` asks and judges nothing; the checks are pure functions of [`Facts`]. A missing right is a
//! finding of its own kind. Nothing is written: the trial Pod is a dry run, and of Secrets only the
//! certificate chain is kept.

use std::time::SystemTime;

use serde::Serialize;

use crate::cluster::WEBHOOK;

mod access;
mod certificate;
mod configuration;
mod delivery;
pub mod facts;
mod fetch;
mod namespace;
mod reach;
mod replicas;
mod rules;
#[cfg(test)]
mod sound;
mod trial;
mod trouble;

pub use facts::{Facts, Plan, Right, Trial};
pub use fetch::{Asked, fetch};

/// What one check has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: `cluster`, `configuration`, `certificate`, `service`, `admission`, `rules`,
    /// `delivery`, `replicas`, `access` or `namespace`.
    pub check: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found, in one line.
    pub message: String,
    /// What to do about it; a command where there is one.
    pub fix: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Looked at, and sound.
    Ok,
    /// Could not be looked at: the caller lacks a right, or the API server gave no answer.
    Unseen,
    /// Works, but not as well as it should.
    Warning,
    /// Pods do not get their pull secrets, or soon will not, or get more harm than that.
    Problem,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            message: message.into(),
            fix: None,
        }
    }

    fn bad(
        check: &'static str,
        status: Status,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check,
            status,
            message: message.into(),
            fix: Some(fix.into()),
        }
    }

    fn problem(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(check, Status::Problem, message, fix)
    }

    fn warning(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(check, Status::Warning, message, fix)
    }

    fn unseen(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(check, Status::Unseen, message, fix)
    }
}

/// Every check, in the order in which a Pod's request meets what they look at.
pub fn examine(facts: &Facts, now: SystemTime) -> Vec<Finding> {
    [
        configuration::version(facts),
        configuration::check(facts),
        certificate::check(facts, now),
        reach::check(facts),
        trial::check(facts),
        rules::check(facts),
        delivery::check(facts, now),
        replicas::check(facts),
        access::check(facts),
        namespace::check(facts),
    ]
    .concat()
}

/// `findings` as they are, or `sound` where there are none.
fn or_sound(findings: Vec<Finding>, sound: impl FnOnce() -> Finding) -> Vec<Finding> {
    if findings.is_empty() {
        vec![sound()]
    } else {
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_installation_has_nothing_but_ok() {
        let (facts, now) = sound::facts();
        let findings = examine(&facts, now);
        let bad: Vec<_> = findings.iter().filter(|f| f.status != Status::Ok).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let mut checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        checks.dedup();
        let all = [
            "cluster",
            "configuration",
            "certificate",
            "service",
            "admission",
            "rules",
            "delivery",
            "replicas",
            "access",
            "namespace",
        ];
        assert_eq!(checks, all);
    }

    #[test]
    fn without_any_right_nothing_is_called_wrong() {
        let (facts, now) = sound::nothing_seen();
        let findings = examine(&facts, now);
        assert!(
            findings.iter().all(|f| f.status <= Status::Unseen),
            "{findings:#?}"
        );
        assert!(findings.iter().any(|f| f.status == Status::Unseen));
    }
}

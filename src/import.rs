//! What becomes of the logins of a person or a build machine: which pull secret each goes into, and why some go into
//! none. Pure: where logins come from is the caller's to know.
//!
//! ```text
//! logins --judge: would the kubelet use it?--> rows (for the report) and pull secrets (manifests, rules)
//! ```
//! Of several logins for one registry the later counts. Only the manifest of a Secret holds passwords; everything else
//! here may be shown to anybody.

mod judge;
mod kubelet;
mod pull_secret;

use serde::Serialize;
use serde_json::{Value, json};

pub use kubelet::Clock;
pub use pull_secret::PullSecret;

use crate::credential::Login;

/// A login, or what stands in its place.
#[derive(Debug)]
pub struct Found {
    /// The registry key, as docker writes it into `auths`.
    pub key: String,
    /// Where it was found: a file or a program.
    pub from: String,
    /// The login, or why there is none.
    pub login: Result<Login, Refusal>,
}

/// Why a login cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub reason: String,
    /// What mends it.
    pub fix: String,
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is in a pull secret.
    Used,
    /// An empty entry, with a row for its login elsewhere.
    Empty,
    /// Another login for the same registry came later.
    Replaced,
    /// It cannot be used.
    Unusable,
}

/// One login in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The registry key; user info in it is masked.
    pub key: String,
    /// What the kubelet matches images with; `None` where it ignores the key.
    pub index_key: Option<String>,
    /// Where it was found.
    pub from: String,
    /// What became of it.
    pub state: State,
    /// The pull secret that holds it.
    pub secret: Option<String>,
    /// Why none does.
    pub reason: Option<String>,
    /// What mends that.
    pub fix: Option<String>,
    /// What its owner may not expect.
    pub notes: Vec<String>,
}

/// All that became of some logins.
#[derive(Debug)]
pub struct Import {
    /// One for each login, in the order given.
    pub rows: Vec<Row>,
    /// What they make, in the order of their first logins.
    pub secrets: Vec<PullSecret>,
}

impl Import {
    /// Sorts `found` into pull secrets: one for each registry host, or one called `into` for all.
    pub fn of(found: Vec<Found>, into: Option<&str>, clock: &Clock) -> Self {
        let mut rows = judge::rows(&found, clock);
        let secrets = pull_secret::group(found, &mut rows, into);
        Self { rows, secrets }
    }

    /// How many logins cannot be used.
    pub fn unusable(&self) -> usize {
        let unusable = self.rows.iter().filter(|row| row.state == State::Unusable);
        unusable.count()
    }

    /// Rules that hand out each pull secret for the images that it covers: what stands in `rules.yaml`.
    pub fn rules(&self) -> Value {
        let names = || self.secrets.iter().map(PullSecret::name);
        let pull_secrets: Vec<_> = names().map(|name| json!({"name": name})).collect();
        let rules = names().map(|name| json!({"name": name, "pullSecrets": [name]}));
        json!({
            "apiVersion": "pullpass.dev/v1alpha1",
            "kind": "PullRules",
            "pullSecrets": pull_secrets,
            "rules": rules.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;

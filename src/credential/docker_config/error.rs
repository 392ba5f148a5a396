//! Why a payload is refused, and where. Nothing here holds a byte of a user name or password.

use std::fmt;

use super::AuthProblem;
use crate::credential::go_json::{JsonKind, JsonProblem};

/// A place in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Counts from 1.
    pub line: usize,
    /// Counts characters from 1.
    pub column: usize,
}

impl Position {
    pub(super) fn new(payload: &[u8], at: usize) -> Self {
        let before = payload.get(..at).unwrap_or(payload);
        let lines = before.split(|b| *b == b'\n');
        let last = lines.clone().next_back().unwrap_or_default();
        Self {
            line: lines.count(),
            column: 1 + String::from_utf8_lossy(last).chars().count(),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why the kubelet refuses a payload. Never holds a byte of a user name or password: where a registry
/// key carries user info, that is masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload is not JSON.
    #[error("not JSON at {position}: {problem}")]
    NotJson {
        /// Where.
        position: Position,
        /// What is wrong there.
        problem: JsonProblem,
    },
    /// The document, `auths` or `HttpHeaders` is of another type.
    #[error("wrong type at {position}: {what} must be {expected}, not {found}")]
    WrongType {
        /// Which value.
        what: &'static str,
        /// What it must be (or `null`).
        expected: JsonKind,
        /// What it is.
        found: JsonKind,
        /// Where it starts.
        position: Position,
    },
    /// What stands under a registry is no object.
    #[error(
        "bad entry for registry {registry:?} at {position}: it must be an object with `auth`, or `username` and `password`, not {found}"
    )]
    BadEntry {
        /// The key in `auths`.
        registry: String,
        /// What it is.
        found: JsonKind,
        /// Where it starts.
        position: Position,
    },
    /// A field of an entry is no string.
    #[error(
        "bad entry for registry {registry:?} at {position}: wrong type, `{field}` must be a string, not {found}"
    )]
    WrongFieldType {
        /// The key in `auths`.
        registry: String,
        /// Which field.
        field: &'static str,
        /// What it is.
        found: JsonKind,
        /// Where its value starts.
        position: Position,
    },
    /// The `auth` of an entry does not decode.
    #[error("bad `auth` for registry {registry:?} at {position}: {problem}")]
    BadAuth {
        /// The key in `auths`.
        registry: String,
        /// Why.
        problem: AuthProblem,
        /// Where the entry starts.
        position: Position,
    },
}

/// A key with its user info masked, for messages.
pub fn redacted(key: &str) -> String {
    let start = key.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = key.split_at(start);
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}{path}"),
        None => key.into(),
    }
}

//! Works through the queue: takes the next step of each object that has one, many at a time.
//!
//! What is there is looked at anew before each step. This file must not know what a step is.

use std::sync::Arc;
use std::time::Duration;

use kube::Error;
use kube::core::Status;
use prometheus::IntCounter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::accounts::Accounts;
use super::board::{Board, Scope};
use super::copies::Copies;
use super::queue::{Done, Duty, Key};
use crate::shutdown::Stop;

/// Most writes under way at a time. A write takes an API server about 5 ms: this is 1,600 a second, and
/// few enough not to be noticed beside its other clients.
const WRITES_IN_FLIGHT_MAX: usize = 8;
/// How often everything is looked at, whatever the watches say.
const FULL_LOOK: Duration = Duration::from_secs(300);

/// The one that writes.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) board: Arc<Board>,
    pub(super) copies: Copies,
    pub(super) accounts: Accounts,
    pub(super) panics: IntCounter,
}

impl Writer {
    /// Takes steps until `stop` drains; those that were begun are finished first.
    pub(super) async fn run(&self, duty: Duty, stop: &Stop) {
        let _open = self.board.open(duty);
        let mut writing = JoinSet::new();
        let mut full_look = Instant::now() + FULL_LOOK;
        while !stop.is_draining() {
            while writing.len() < WRITES_IN_FLIGHT_MAX
                && let Some(key) = self.board.next()
            {
                let writer = self.clone();
                writing.spawn(async move { writer.work_on(key, duty).await });
            }
            tokio::select! {
                () = stop.drain() => {}
                Some(ended) = writing.join_next() => {
                    // What it had in hand is not known any more.
                    if ended.is_err_and(|error| error.is_panic()) {
                        self.panics.inc();
                        self.board.reopen(duty);
                    }
                }
                () = self.board.queued(), if writing.len() < WRITES_IN_FLIGHT_MAX => {}
                () = sleep_until(full_look) => {
                    full_look = Instant::now() + FULL_LOOK;
                    self.board.queue().tidy(Instant::now());
                    self.board.change(|state| {
                        // Whoever may still not write says so again.
                        state.forbidden.clear();
                        state.are_accounts_forbidden = false;
                        vec![Scope::Everything]
                    });
                }
            }
        }
        while writing.join_next().await.is_some() {}
    }

    async fn work_on(&self, key: Key, duty: Duty) {
        let taken = match &key {
            Key::Copy(key) => self.copies.take(key, duty).await,
            // Its Pods name the Secret themselves.
            Key::Account(_) if duty == Duty::StandIn => Ok(()),
            Key::Account(key) => self.accounts.take(key).await,
        };
        let done = taken.map_or_else(|error| self.judge(&key, &error), |()| Done::Settled);
        self.board.done(key, done);
    }

    /// What an error means for the object, and for others.
    fn judge(&self, key: &Key, error: &Error) -> Done {
        let answer = Answer::of(error);
        tracing::debug!(?key, ?answer, %error, "not written");
        match answer {
            Answer::Ended => Done::Settled,
            Answer::Again => Done::Failed(error.to_string()),
            Answer::Refused => Done::Refused(error.to_string()),
            Answer::Forbidden => {
                match key {
                    Key::Copy(key) => self.copies.forbid(key),
                    Key::Account(_) => self.accounts.forbid(),
                }
                Done::Refused(error.to_string())
            }
        }
    }
}

/// What the API server meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The namespace is gone or going: nobody needs a copy there.
    Ended,
    /// Somebody was faster, or it did not work this time.
    Again,
    /// A quota or a policy is against it.
    Refused,
    /// RBAC is against it.
    Forbidden,
}

impl Answer {
    fn of(error: &Error) -> Self {
        let Error::Api(status) = error else {
            return Self::Again;
        };
        match status.code {
            404 => Self::Ended,
            403 if has_cause(status, "NamespaceTerminating") => Self::Ended,
            // The words of authorizers, `secrets "x" is forbidden: User "y" cannot patch resource …`.
            // Admission, which answers 403 too, speaks otherwise.
            403 if status.message.contains(": User \"") => Self::Forbidden,
            // What breaks a rule of its kind is invalid, and says of which kind; a JSON patch whose test fails
            // does not.
            422 if status.details.as_ref().is_none_or(|of| of.kind.is_empty()) => Self::Again,
            400..=499 if !matches!(status.code, 408 | 409 | 429) => Self::Refused,
            _ => Self::Again,
        }
    }
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let causes = status.details.as_ref().map(|details| &details.causes);
    causes
        .into_iter()
        .flatten()
        .any(|cause| cause.reason == reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(code: u16, message: &str, cause: &str) -> Error {
        let details = json!({"kind": "secrets", "causes": [{"reason": cause}]});
        let status = json!({"code": code, "message": message, "details": details});
        Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn answers_are_understood() {
        for (error, expected) in [
            (status(404, "namespaces \"a\" not found", ""), Answer::Ended),
            (
                status(
                    403,
                    "secrets \"x\" is forbidden: unable to create",
                    "NamespaceTerminating",
                ),
                Answer::Ended,
            ),
            (
                status(
                    403,
                    "secrets \"x\" is forbidden: exceeded quota: q, requested: count/secrets=1",
                    "",
                ),
                Answer::Refused,
            ),
            (
                status(
                    403,
                    "admission webhook \"w\" denied the request: you cannot",
                    "",
                ),
                Answer::Refused,
            ),
            (
                status(
                    403,
                    "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'p' denied request",
                    "",
                ),
                Answer::Refused,
            ),
            (
                status(
                    403,
                    "secrets \"x\" is forbidden: User \"u\" cannot patch resource \"secrets\"",
                    "",
                ),
                Answer::Forbidden,
            ),
            (
                status(422, "data: Forbidden: field is immutable", ""),
                Answer::Refused,
            ),
            (
                status(409, "the object has been modified", ""),
                Answer::Again,
            ),
            (status(429, "too many requests", ""), Answer::Again),
            (
                status(500, "etcdserver: request timed out", ""),
                Answer::Again,
            ),
            (Error::TlsRequired, Answer::Again),
        ] {
            assert_eq!(Answer::of(&error), expected, "{error}");
        }
        let failed_test = json!({"code": 422, "reason": "Invalid", "details": {}});
        let failed_test = Error::Api(serde_json::from_value(failed_test).unwrap());
        assert_eq!(Answer::of(&failed_test), Answer::Again);
    }
}

//! Writes copies: takes the one next step of each Secret that has one, many at a time.
//!
//! A write names the version that it replaces, and a creation names one that no object ever has, so that
//! the API server itself refuses to touch what was not looked at: a Secret that somebody else made or
//! changed in between answers 409, whatever it holds. What is there is looked at anew before each step.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client, Error};
use prometheus::IntCounter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::objects;
use super::board::{Board, Scope};
use super::queue::{Done, Duty, Key, Lane};
use crate::cluster::secret;
use crate::delivery::copy::SOURCE_HASH;
use crate::delivery::{Instance, Observed, Payload, Step};
use crate::metrics::DeliveryMetrics;
use crate::shutdown::Stop;

/// Most writes under way at a time. A write takes an API server about 5 ms: this is 1,600 a second, and
/// few enough not to be noticed beside its other clients.
const WRITES_IN_FLIGHT_MAX: usize = 8;
/// How often everything is looked at, whatever the watches say.
const FULL_LOOK: Duration = Duration::from_secs(300);
/// A `resourceVersion` that no Secret ever has: etcd's first write is revision 2. Server-side apply with
/// it makes an object, and conflicts with any that is there.
const NO_VERSION: &str = "1";

/// The one that writes.
#[derive(Clone)]
pub(super) struct Copies {
    pub(super) board: Arc<Board>,
    pub(super) client: Client,
    pub(super) instance: Arc<Instance>,
    pub(super) metrics: DeliveryMetrics,
    pub(super) writes: IntCounter,
    pub(super) panics: IntCounter,
}

/// A step, with all that it takes.
struct Task {
    step: Step,
    payload: Option<Arc<Payload>>,
    /// Version and uid of what is there.
    there: Option<(String, String)>,
}

impl Copies {
    /// Takes steps until `stop` drains; those that were begun are finished first.
    pub(super) async fn run(&self, duty: Duty, stop: &Stop) {
        let _open = self.board.open(duty);
        let mut writing = JoinSet::new();
        let mut full_look = Instant::now() + FULL_LOOK;
        while !stop.is_draining() {
            while writing.len() < WRITES_IN_FLIGHT_MAX
                && let Some(key) = self.board.next()
            {
                let copies = self.clone();
                writing.spawn(async move { copies.work_on(key, duty).await });
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
                        vec![Scope::Everything]
                    });
                }
            }
        }
        while writing.join_next().await.is_some() {}
    }

    async fn work_on(&self, key: Key, duty: Duty) {
        let done = match self.take(&key, duty).await {
            Ok(()) => Done::Settled,
            Err(error) => self.judge(&key, &error),
        };
        self.board.done(key, done);
    }

    /// Takes the next step of one Secret.
    async fn take(&self, key: &Key, duty: Duty) -> Result<(), Error> {
        let (namespace, name) = key;
        let Task {
            step,
            payload,
            there,
        } = self.look(key);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let write = async |version: &str, params: PatchParams| {
            let Some(payload) = &payload else {
                return Ok(None);
            };
            let body = self.body(name, version, payload);
            secrets
                .patch(name, &params, &Patch::Apply(&body))
                .await
                .map(Some)
        };
        let version = there.as_ref().map_or("", |(version, _)| version);
        let written = match step {
            Step::Nothing => return Ok(()),
            step if duty == Duty::StandIn && step != Step::Create => return Ok(()),
            Step::Create => write(NO_VERSION, objects::apply_unforced()).await?,
            Step::Apply => write(version, objects::apply()).await?,
            Step::Delete => delete(&secrets, name, there).await?,
            Step::Recreate => {
                delete(&secrets, name, there.clone()).await?;
                self.written(key, None);
                write(NO_VERSION, objects::apply_unforced()).await?
            }
        };
        self.written(key, written.as_ref());
        self.writes.inc();
        let since = self.board.wrote(key);
        if let Some(since) = since.filter(|_| written.is_some()) {
            self.metrics.lag.observe(since.elapsed().as_secs_f64());
        }
        tracing::debug!(
            namespace = &**namespace,
            secret = &**name,
            ?step,
            "copy written"
        );
        Ok(())
    }

    fn look(&self, (namespace, name): &Key) -> Task {
        let state = self.board.state();
        let look = state.look(namespace, name);
        let version =
            |there: &Observed| (there.resource_version.to_string(), there.uid.to_string());
        Task {
            step: look.step,
            payload: look.payload.cloned(),
            there: look.there.map(version),
        }
    }

    fn body(&self, name: &str, version: &str, payload: &Payload) -> Secret {
        let hash = (SOURCE_HASH.to_owned(), payload.hash.to_string());
        let data = ByteString(payload.bytes.to_vec());
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(version.to_owned()),
                labels: Some(self.instance.labels()),
                annotations: Some([hash].into()),
                ..ObjectMeta::default()
            },
            type_: Some(payload.kind.name().to_owned()),
            data: Some([(payload.kind.data_key().to_owned(), data)].into()),
            ..Secret::default()
        }
    }

    /// Notes what is there now, before the watch says it.
    fn written(&self, (namespace, name): &Key, secret: Option<&Secret>) {
        let observed = secret.map(|secret| Observed::new(&secret::view(secret), &self.instance));
        self.board.change(|state| {
            state.forbidden.remove(name);
            let Some(copies) = state.copies.get_mut(name) else {
                return Vec::new();
            };
            match observed {
                Some(observed) => copies.set(namespace.clone(), observed),
                None => copies.remove(namespace),
            };
            vec![Scope::One((namespace.clone(), name.clone()), Lane::Normal)]
        });
    }

    /// What an error means for the Secret, and for all of its name.
    fn judge(&self, (namespace, name): &Key, error: &Error) -> Done {
        let answer = Answer::of(error);
        tracing::debug!(namespace = &**namespace, secret = &**name, ?answer, %error, "copy not written");
        match answer {
            Answer::Ended => Done::Settled,
            Answer::Again => Done::Failed(error.to_string()),
            Answer::Refused => Done::Refused(error.to_string()),
            Answer::Forbidden => {
                self.board.change(|state| {
                    state.forbidden.insert(name.clone());
                    Vec::new()
                });
                Done::Refused(error.to_string())
            }
        }
    }
}

/// Deletes this very version.
async fn delete(
    secrets: &Api<Secret>,
    name: &str,
    there: Option<(String, String)>,
) -> Result<Option<Secret>, Error> {
    let (resource_version, uid) = there.unzip();
    let params = DeleteParams::default().preconditions(Preconditions {
        uid,
        resource_version,
    });
    secrets.delete(name, &params).await?;
    Ok(None)
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
        let details = json!({"causes": [{"reason": cause}]});
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
    }
}

//! Writes copies: takes the one next step of a Secret.
//!
//! A write names the version that it replaces, and a creation names one that no object ever has, so that
//! the API server itself refuses to touch what was not looked at: a Secret that somebody else made or
//! changed in between answers 409, whatever it holds. What is there is looked at anew before each step.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Error};
use prometheus::IntCounter;

use super::super::objects;
use super::board::{Board, Scope};
use super::queue::{Duty, Key, Lane};
use crate::cluster::secret;
use crate::delivery::copy::SOURCE_HASH;
use crate::delivery::state::ObjectKey;
use crate::delivery::{Instance, Observed, Payload, Step};
use crate::metrics::DeliveryMetrics;

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
}

/// A step, with all that it takes.
struct Task {
    step: Step,
    payload: Option<Arc<Payload>>,
    /// Version and uid of what is there.
    there: Option<(String, String)>,
}

impl Copies {
    /// Takes the next step of one Secret, if that is its duty.
    pub(super) async fn take(&self, key: &ObjectKey, duty: Duty) -> Result<(), Error> {
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
        let mut looked_at = version;
        let written = match step {
            Step::Nothing => return Ok(()),
            step if duty == Duty::StandIn && step != Step::Create => return Ok(()),
            Step::Create => write(NO_VERSION, objects::apply_unforced()).await?,
            Step::Apply => write(version, objects::apply()).await?,
            Step::Delete => delete(&secrets, name, there.clone()).await?,
            Step::Recreate => {
                delete(&secrets, name, there.clone()).await?;
                self.written(key, looked_at, None);
                looked_at = "";
                write(NO_VERSION, objects::apply_unforced()).await?
            }
        };
        self.written(key, looked_at, written.as_ref());
        self.writes.inc();
        let since = self.board.wrote(&Key::Copy(key.clone()));
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

    fn look(&self, (namespace, name): &ObjectKey) -> Task {
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

    /// Notes what is there now, before the watch says it; of which version it was made, says `looked_at`.
    fn written(&self, (namespace, name): &ObjectKey, looked_at: &str, secret: Option<&Secret>) {
        let observed = secret.map(|secret| Observed::new(&secret::view(secret), &self.instance));
        self.board.change(|state| {
            state.forbidden.remove(name);
            let Some(copies) = state.copies.get_mut(name) else {
                return Vec::new();
            };
            copies.wrote(namespace.clone(), looked_at, observed);
            let key = Key::Copy((namespace.clone(), name.clone()));
            vec![Scope::One(key, Lane::Normal)]
        });
    }

    /// Notes that RBAC is against copies of this name.
    pub(super) fn forbid(&self, (_, name): &ObjectKey) {
        self.board.change(|state| {
            state.forbidden.insert(name.clone());
            Vec::new()
        });
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

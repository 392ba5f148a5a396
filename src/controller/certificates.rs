//! Keeps CA, leaf and `caBundle` as they should be: looks at all three, takes the one next step, looks
//! again.
//!
//! What the next step is, [`rotation::next`] decides in mode `self`; in mode `provided` it is to copy
//! the CA. Nothing is decided from an event alone or remembered from a step, so a crash, a lost Lease or
//! another writer between two steps changes nothing. Each write names the version that it replaces. No
//! line or Event holds a byte of a Secret.

use std::fmt::Debug;
use std::time::{self, Duration, SystemTime};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Resource, ResourceExt};
use prometheus::IntCounter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::budget::Budget;
use super::events::{Events, Reason};
use super::objects::{self, Owner};
use super::stored::{Current, Stored};
use super::{CertificateMode, observed, pauses};
use crate::metrics::ControllerMetrics;
use crate::pki::PkiError;
use crate::pki::rotation::{self, Observed, Step, StoredCa, StoredLeaf, Timing, Unchanged, Why};
use crate::shutdown::Stop;

/// The one that keeps the certificates.
pub(super) struct Certificates {
    stored: Stored,
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    events: Events,
    /// What the leaf is for.
    leaf_names: Vec<String>,
    timing: Timing,
    ca: Written,
    tls: Written,
    configuration: Written,
    bundles_applied: IntCounter,
    bundle_unchanged: Unchanged,
    leaf_unchanged: Unchanged,
    /// The bundle that was in place last.
    in_place: Vec<u8>,
}

/// What is known about one object that is written.
struct Written {
    budget: Budget,
    count: IntCounter,
    /// Whether there ever was one, in the sight of this process.
    was_there: bool,
    /// The one of somebody else that an Event was about.
    told_of: Option<String>,
}

/// One of the two Secrets.
#[derive(Debug, Clone, Copy)]
enum Object {
    Ca,
    Tls,
}

/// What becomes of a step.
enum Next {
    /// Something was written: look again at once.
    Again,
    /// Nothing to do for so long, unless something changes.
    Rest(Duration),
}

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    /// Only somebody else can help, and a watch will show it.
    #[error("{0}")]
    Blocked(String),
    /// It may work the next time.
    #[error("cannot write {what}: {error}")]
    Write { what: String, error: kube::Error },
    /// No certificate can be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl StepError {
    /// Whether somebody else was faster, which the next look will show.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Write { error: kube::Error::Api(status), .. } if status.is_conflict())
    }
}

impl Written {
    fn new(metrics: &ControllerMetrics, object: &'static str) -> Self {
        Self {
            budget: Budget::default(),
            count: metrics.writes(object),
            was_there: false,
            told_of: None,
        }
    }

    /// How long a write has to wait, if it has to.
    fn rest(&mut self) -> Option<Next> {
        let wait = self.budget.wait(Instant::now());
        (!wait.is_zero()).then_some(Next::Rest(wait))
    }

    fn note(&mut self) {
        self.budget.spend(Instant::now());
        self.count.inc();
    }
}

impl Certificates {
    /// Has done nothing yet. `leaf_names` are those of the webhook's Service.
    pub(super) fn new(
        stored: Stored,
        (secrets, configurations): (Api<Secret>, Api<MutatingWebhookConfiguration>),
        events: Events,
        leaf_names: Vec<String>,
        rotation_wait: Duration,
        metrics: &ControllerMetrics,
    ) -> Self {
        Self {
            stored,
            secrets,
            configurations,
            events,
            leaf_names,
            timing: Timing { rotation_wait },
            ca: Written::new(metrics, "ca"),
            tls: Written::new(metrics, "tls"),
            configuration: Written::new(metrics, "configuration"),
            bundles_applied: metrics.ca_bundle_applied.clone(),
            bundle_unchanged: Unchanged::default(),
            leaf_unchanged: Unchanged::default(),
            in_place: Vec::new(),
        }
    }

    /// Keeps everything as it should be until `stop` drains; a write that was begun is finished first.
    pub(super) async fn run(&mut self, owner: &Owner, stop: &Stop) {
        let mut pause = pauses();
        let mut complaint = None;
        while !stop.is_draining() {
            let taken = self.step(owner).await;
            let said = taken.as_ref().err().filter(|error| !error.is_conflict());
            let said = said.map(ToString::to_string);
            if let Some(error) = said.as_ref().filter(|_| said != complaint) {
                tracing::warn!(error, "the certificates cannot be kept; trying again");
            }
            complaint = said;
            let rest = match taken {
                Ok(next) => {
                    pause = pauses();
                    match next {
                        Next::Again => continue,
                        Next::Rest(rest) => rest.min(rotation::POLL),
                    }
                }
                Err(StepError::Blocked(_)) => rotation::POLL,
                Err(_) => {
                    // Whatever changes meanwhile: failures must not come at the pace of changes.
                    tokio::select! {
                        () = stop.drain() => {}
                        () = sleep(pause.next().unwrap_or_default()) => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                () = stop.drain() => {}
                () = self.stored.changed() => {}
                () = sleep(rest) => {}
            }
        }
    }

    async fn step(&mut self, owner: &Owner) -> Result<Next, StepError> {
        let Some(current) = self.stored.current() else {
            return Ok(Next::Rest(rotation::POLL));
        };
        match self.stored.mode {
            CertificateMode::SelfSigned => self.rotate(owner, &current).await,
            CertificateMode::Provided => {
                let pem = current.provided_bundle(&self.stored.names);
                let pem = pem.map_err(StepError::Blocked)?;
                self.apply_bundle(&current, current.tls.as_deref(), &pem)
                    .await
            }
            CertificateMode::CertManager | CertificateMode::None => Ok(Next::Rest(rotation::POLL)),
        }
    }

    async fn rotate(&mut self, owner: &Owner, current: &Current) -> Result<Next, StepError> {
        let (present_ca, present_tls) = (current.ca.as_deref(), current.tls.as_deref());
        let bundle = current.bundle(&self.stored.names);
        let step = self.next_step(current, bundle.as_deref().unwrap_or_default())?;
        match step {
            Step::Wait { at_most } => {
                self.in_place = bundle.unwrap_or_default().to_vec();
                Ok(Next::Rest(at_most))
            }
            Step::ApplyBundle { pem } => self.apply_bundle(current, present_ca, &pem).await,
            Step::WriteCa {
                ca,
                previous_pem,
                rotated,
                why,
            } => {
                let entries = [
                    (objects::ca::CERTIFICATE, ca.certificates),
                    (objects::ca::KEY, ca.key),
                    (objects::ca::PREVIOUS, previous_pem),
                ];
                let mut secret = owner.secret(&self.stored.names.ca, "Opaque", entries);
                let rotated = rotated.map(|value| (objects::ROTATED.to_owned(), value));
                secret.metadata.annotations = Some(rotated.into_iter().collect());
                let was_there = self.ca.was_there || bundle.is_ok_and(|bundle| !bundle.is_empty());
                let said = said_of_ca(why, was_there);
                self.write(Object::Ca, present_ca, secret, said).await
            }
            Step::WriteLeaf { pair, ca_pem, why } => {
                let entries = [
                    (objects::tls::CHAIN, pair.certificates),
                    (objects::tls::KEY, pair.key),
                    (objects::tls::CA, ca_pem),
                ];
                let secret = owner.secret(&self.stored.names.tls, "kubernetes.io/tls", entries);
                let said = said_of_leaf(why, self.tls.was_there);
                self.write(Object::Tls, present_tls, secret, said).await
            }
        }
    }

    /// What is to be done in mode `self`.
    fn next_step(&mut self, current: &Current, bundle: &[u8]) -> Result<Step, PkiError> {
        let (ca, leaf) = (current.ca.as_deref(), current.tls.as_deref());
        self.ca.was_there |= ca.is_some();
        self.tls.was_there |= leaf.is_some();
        let annotation = |key: &str| ca?.annotations().get(key).map(|value| &**value);
        let bundle = Some(bundle).filter(|bundle| !bundle.is_empty());
        let now = time::Instant::now();
        let observed = Observed {
            ca: ca.map(|secret| StoredCa {
                certificate: objects::entry(secret, objects::ca::CERTIFICATE),
                key: objects::entry(secret, objects::ca::KEY),
                previous: objects::entry(secret, objects::ca::PREVIOUS),
            }),
            leaf: leaf.map(|secret| StoredLeaf {
                certificates: objects::entry(secret, objects::tls::CHAIN),
                key: objects::entry(secret, objects::tls::KEY),
            }),
            bundle,
            names: &self.leaf_names,
            rotate: annotation(objects::ROTATE),
            rotated: annotation(objects::ROTATED),
            bundle_seen_for: self.bundle_unchanged.see(bundle, now),
            leaf_seen_for: self.leaf_unchanged.see(
                leaf.map(|secret| objects::entry(secret, objects::tls::CHAIN)),
                now,
            ),
        };
        rotation::next(&observed, SystemTime::now(), &self.timing)
    }

    /// Writes a Secret over the one that was looked at, and waits until the watch shows it.
    async fn write(
        &mut self,
        object: Object,
        present: Option<&Secret>,
        mut secret: Secret,
        (reason, note): (Reason, String),
    ) -> Result<Next, StepError> {
        let (written, watched) = match object {
            Object::Ca => (&mut self.ca, &mut self.stored.ca),
            Object::Tls => (&mut self.tls, &mut self.stored.tls),
        };
        if let Some(rest) = written.rest() {
            return Ok(rest);
        }
        let name = secret.name_any();
        if let Some(foreign) = present.filter(|secret| !objects::is_writable(secret)) {
            let note = format!(
                "Secret {name} holds something that pullpass did not make, and is left alone; \
                 delete it, or give pullpass another name"
            );
            if written.told_of != foreign.uid() {
                written.told_of = foreign.uid();
                let regarding = foreign.object_ref(&());
                self.events
                    .publish(&regarding, Reason::SecretNotOurs, &note)
                    .await;
            }
            return Err(StepError::Blocked(note));
        }
        let before = present.and_then(ResourceExt::resource_version);
        match present.filter(|present| !objects::is_patchable(present, &secret)) {
            None => secret.metadata.resource_version.clone_from(&before),
            Some(stuck) => delete(&self.secrets, stuck).await?,
        }
        let stored = apply(&self.secrets, &name, &secret).await?;
        written.note();
        tracing::info!(secret = name, note, "Secret written");
        self.events
            .publish(&regarding(&stored), reason, &note)
            .await;
        observed(watched, before).await;
        Ok(Next::Again)
    }

    /// Writes `caBundle` unless it is `pem` already. Events are about the Secret it came from, because
    /// the configuration is in no namespace.
    async fn apply_bundle(
        &mut self,
        current: &Current,
        source: Option<&Secret>,
        pem: &str,
    ) -> Result<Next, StepError> {
        let present = current.bundle(&self.stored.names);
        let present = present.map_err(StepError::Blocked)?;
        let Some(configuration) = current.configuration.as_deref() else {
            return Ok(Next::Rest(rotation::POLL));
        };
        if present == pem.as_bytes() {
            self.in_place = present.to_vec();
            return Ok(Next::Rest(rotation::POLL));
        }
        if let Some(rest) = self.configuration.rest() {
            return Ok(rest);
        }
        let name = configuration.name_any();
        let body = objects::ca_bundle(configuration, pem);
        apply(&self.configurations, &name, &body).await?;
        self.configuration.note();
        self.bundles_applied.inc();
        let (reason, note) = said_of_bundle(&name, self.in_place == pem.as_bytes());
        tracing::info!(configuration = name, note, "caBundle written");
        if let Some(source) = source {
            self.events.publish(&regarding(source), reason, &note).await;
        }
        let before = configuration.resource_version();
        observed(&mut self.stored.configuration, before).await;
        Ok(Next::Again)
    }
}

async fn apply<K, B>(api: &Api<K>, name: &str, body: &B) -> Result<K, StepError>
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug,
    B: Serialize + Debug,
{
    let applied = api
        .patch(name, &objects::apply(), &Patch::Apply(body))
        .await;
    applied.map_err(|error| {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let what = format!("{kind} {name}");
        StepError::Write { what, error }
    })
}

/// Deletes this very Secret.
async fn delete(secrets: &Api<Secret>, stuck: &Secret) -> Result<(), StepError> {
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: stuck.uid(),
        resource_version: stuck.resource_version(),
    });
    let name = stuck.name_any();
    let deleted = secrets.delete(&name, &params).await.map(drop);
    let what = format!("Secret {name}");
    deleted.map_err(|error| StepError::Write { what, error })
}

/// With its version, so that two losses are two Events.
fn regarding(secret: &Secret) -> ObjectReference {
    ObjectReference {
        resource_version: secret.resource_version(),
        ..secret.object_ref(&())
    }
}

fn said_of_ca(why: Why, was_there: bool) -> (Reason, String) {
    let reason = match why {
        Why::Retire => return (Reason::CaRotated, "the former CA is retired".to_owned()),
        Why::Absent if !was_there => Reason::CertificateIssued,
        why if why.is_loss() => Reason::CertificateLost,
        _ => Reason::CertificateIssued,
    };
    (reason, format!("new CA: {}", because(why, was_there)))
}

fn said_of_leaf(why: Why, was_there: bool) -> (Reason, String) {
    let reason = match why {
        Why::Absent if !was_there => Reason::CertificateIssued,
        why if why.is_loss() => Reason::CertificateLost,
        _ => Reason::CertificateIssued,
    };
    let because = because(why, was_there);
    (reason, format!("new certificate of the webhook: {because}"))
}

fn said_of_bundle(name: &str, was_in_place: bool) -> (Reason, String) {
    if was_in_place {
        let note = format!("somebody changed the caBundle of {name}; it is put back");
        (Reason::CaBundleOverwritten, note)
    } else {
        (
            Reason::CaBundleApplied,
            format!("caBundle of {name} written"),
        )
    }
}

/// For people.
fn because(why: Why, was_there: bool) -> &'static str {
    match why {
        Why::Absent if was_there => "there was none any more",
        Why::Absent => "there was none yet",
        Why::Unreadable => "the one before could not be read",
        Why::Expired => "the one before had expired",
        Why::NotYetValid => "the one before was not valid yet; a clock was wrong",
        Why::Due => "two thirds of the life of the one before were over",
        Why::Requested => "a rotation was asked for",
        Why::Unusable => "the one before could issue no certificate that is accepted",
        Why::Names => "it has to be for other names",
        Why::Issuer => "the CA is another",
        Why::Retire => "the former one is not needed any more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_a_warning_and_what_was_never_there_is_not() {
        for (why, was_there, ca, leaf) in [
            (
                Why::Absent,
                false,
                Reason::CertificateIssued,
                Reason::CertificateIssued,
            ),
            (
                Why::Absent,
                true,
                Reason::CertificateLost,
                Reason::CertificateLost,
            ),
            (
                Why::Unreadable,
                true,
                Reason::CertificateLost,
                Reason::CertificateLost,
            ),
            (
                Why::Expired,
                true,
                Reason::CertificateLost,
                Reason::CertificateLost,
            ),
            (
                Why::Due,
                true,
                Reason::CertificateIssued,
                Reason::CertificateIssued,
            ),
            (
                Why::Requested,
                true,
                Reason::CertificateIssued,
                Reason::CertificateIssued,
            ),
            (
                Why::Retire,
                true,
                Reason::CaRotated,
                Reason::CertificateIssued,
            ),
        ] {
            assert_eq!(said_of_ca(why, was_there).0, ca, "{why:?}");
            assert_eq!(said_of_leaf(why, was_there).0, leaf, "{why:?}");
        }
    }

    #[test]
    fn events_say_why() {
        let (_, note) = said_of_ca(Why::Absent, true);
        assert_eq!(note, "new CA: there was none any more");
        let (_, note) = said_of_leaf(Why::Issuer, true);
        assert_eq!(note, "new certificate of the webhook: the CA is another");
        let (reason, note) = said_of_bundle("pullpass", true);
        assert_eq!(reason, Reason::CaBundleOverwritten);
        assert_eq!(
            note,
            "somebody changed the caBundle of pullpass; it is put back"
        );
        let (reason, _) = said_of_bundle("pullpass", false);
        assert_eq!(reason, Reason::CaBundleApplied);
    }
}

//! Which of several controllers writes: the holder of one Lease.
//!
//! kube-lease-manager keeps the Lease, this module decides what its answers mean: the first error is a
//! loss. It does not say when it last renewed, so a holder that cannot renew stops at once, before the
//! Lease can be another's, and starts over. It renews by the wall clock, so a clock that was set back
//! would let it sleep; that is why a holder looks at the Lease itself now and then. Two clocks that
//! differ by more than the grace may still make two holders for some seconds; that is why every write
//! names the version it replaces. One that was set ahead would let a dead holder keep the Lease until
//! then; that is why a candidate takes it from a holder that is silent.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use prometheus::IntGauge;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::objects::{self, Owner};
use super::pauses;
use crate::cluster::client::{ConnectError, Connection};
use crate::shutdown::{self, Stop};

/// How long a Lease is held after its last renewal, in seconds: how long nobody writes after a crash.
pub const LEASE_SECONDS: u64 = 15;
/// How long before its end it is renewed, in seconds.
const RENEW_BEFORE_SECONDS: u64 = 10;
/// Longest call about the Lease. A renewal is two of them, and both must be over before the Lease is.
const LEASE_CALL_MAX: Duration = Duration::from_secs(4);
/// How often a candidate looks whether the Lease was given back: how long nobody writes when a leader is
/// replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a Lease may stay as it is, by our own monotonic clock, before it is taken from its holder,
/// whatever it says: six renewals. Only one whose holder's clock was ahead lasts as long.
const UNCHANGED_MAX: Duration = Duration::from_secs(2 * LEASE_SECONDS);
const _: () = assert!(2 * LEASE_CALL_MAX.as_secs() < RENEW_BEFORE_SECONDS);

/// One candidate.
pub(super) struct Election {
    client: Client,
    namespace: String,
    lease: String,
    service_account: String,
    /// Who this candidate is in the Lease: another one after each start.
    identity: String,
    leader: IntGauge,
}

/// What did not work since the last election.
struct Tries {
    pauses: Box<dyn Iterator<Item = Duration> + Send + Sync>,
    pause: Option<Duration>,
    complaint: Option<String>,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            pauses: Box::new(pauses()),
            pause: None,
            complaint: None,
        }
    }
}

impl Tries {
    /// Notes an error, and says it if it is another one.
    fn failed(&mut self, error: &ElectionError) {
        self.pause = self.pauses.next();
        let error = error.to_string();
        if self.complaint.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "no leader election; it is tried again until it works"
            );
            self.complaint = Some(error);
        }
    }
}

/// Why there is no Lease to be had. Whoever holds it is no error.
#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("cannot read ServiceAccount {0}, which owns what the controller makes: {1}")]
    ServiceAccount(String, kube::Error),
    #[error("cannot write Lease {0}: {1}")]
    Lease(String, kube::Error),
    #[error(transparent)]
    Manager(#[from] LeaseManagerError),
}

impl Election {
    /// `leader` is 1 while this candidate holds the Lease.
    pub(super) fn new(
        connection: &Connection,
        namespace: &str,
        lease: &str,
        service_account: &str,
        leader: IntGauge,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            client: connection.client_within(LEASE_CALL_MAX)?,
            namespace: namespace.to_owned(),
            lease: lease.to_owned(),
            service_account: service_account.to_owned(),
            identity: identity(),
            leader,
        })
    }

    /// Runs `work` whenever this candidate holds the Lease, and drops it the moment it may not hold it
    /// any more; between times `stand_in`, which has to end by itself when the [`Stop`] that it is given
    /// drains: `work` begins after it. Ends when `stop` drains: `work` has to end by itself then, and the
    /// Lease is given back.
    pub(super) async fn lead(
        &self,
        stop: &Stop,
        mut stand_in: impl AsyncFnMut(Stop),
        mut work: impl AsyncFnMut(&Owner),
    ) {
        let mut tries = Tries::default();
        while !stop.is_draining() {
            let (relief, relieved) = shutdown::channel();
            let mut standing_in = pin!(stand_in(relieved));
            let (manager, owner) = tokio::select! {
                () = &mut standing_in => return,
                () = stop.drain() => {
                    relief.drain();
                    return standing_in.await;
                }
                elected = self.elected_at_last(&mut tries) => elected,
            };
            relief.drain();
            let work = async {
                standing_in.await;
                work(&owner).await;
            };
            if let Err(error) = self.term(&manager, work).await {
                tries.failed(&error);
            }
        }
    }

    /// Waits until the Lease is ours, whatever is in the way.
    async fn elected_at_last(&self, tries: &mut Tries) -> (LeaseManager, Owner) {
        loop {
            if let Some(pause) = tries.pause.take() {
                sleep(pause).await;
            }
            match self.elected().await {
                Ok(elected) => {
                    *tries = Tries::default();
                    return elected;
                }
                Err(error) => tries.failed(&error),
            }
        }
    }

    /// Waits until the Lease is ours.
    async fn elected(&self) -> Result<(LeaseManager, Owner), ElectionError> {
        let owner = self.owner().await?;
        self.write_lease(&owner).await?;
        loop {
            let manager = LeaseManagerBuilder::new(self.client.clone(), &*self.lease)
                .with_namespace(&*self.namespace)
                .with_identity(&*self.identity)
                .with_create_mode(LeaseCreateMode::UseExistent)
                .with_duration(LEASE_SECONDS)
                .with_grace(RENEW_BEFORE_SECONDS)
                .build()
                .await?;
            let elected = tokio::select! {
                elected = manager.changed() => elected?,
                // It sleeps until the Lease that it saw is over, although that was given back.
                () = self.freed() => false,
            };
            if elected {
                return Ok((manager, owner));
            }
        }
    }

    /// Works until the Lease is lost or the work is over.
    async fn term(
        &self,
        manager: &LeaseManager,
        work: impl Future<Output = ()>,
    ) -> Result<(), ElectionError> {
        self.leader.set(1);
        tracing::info!(lease = self.lease, "leading");
        let ended = tokio::select! {
            biased;
            lost = manager.changed() => lost.map(|_| ()),
            ours = self.disturbed() => if ours { manager.release().await } else { Ok(()) },
            () = work => manager.release().await,
        };
        self.leader.set(0);
        tracing::info!(lease = self.lease, "no longer leading");
        Ok(ended?)
    }

    /// Completes when the Lease is not as a holder that renews it sees it. Says whether this one still
    /// holds it, so that it has to be given back and taken anew.
    async fn disturbed(&self) -> bool {
        loop {
            sleep(Duration::from_secs(LEASE_SECONDS)).await;
            let Some((_, spec)) = self.look().await else {
                continue;
            };
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return false;
            }
            let renewed = spec.renew_time.map(|time| SystemTime::from(time.0));
            if renewed.is_none_or(|renewed| !is_recent(renewed, SystemTime::now())) {
                return true;
            }
        }
    }

    /// Completes when nobody holds the Lease. A holder that does not renew it loses it, although the time
    /// in it may lie ahead.
    async fn freed(&self) {
        let mut last = (None, Instant::now());
        loop {
            sleep(LOOK_INTERVAL).await;
            let Some((version, spec)) = self.look().await else {
                continue;
            };
            if spec.holder_identity.is_none() {
                return;
            }
            if version != last.0 {
                last = (version, Instant::now());
            } else if last.1.elapsed() > UNCHANGED_MAX {
                self.free(&version).await;
            }
        }
    }

    /// Takes the Lease of this version from its holder; if that fails, it is looked at again.
    async fn free(&self, version: &Option<String>) {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": version},
            "spec": {"holderIdentity": null},
        }));
        let (leases, params) = (self.leases(), PatchParams::default());
        let freed = leases.patch(&self.lease, &params, &patch).await;
        if freed.is_ok() {
            tracing::warn!(lease = self.lease, "taken from a holder that is silent");
        }
    }

    /// The Lease as it is, and its version; errors are the manager's to report.
    async fn look(&self) -> Option<(Option<String>, LeaseSpec)> {
        let lease = self.leases().get(&self.lease).await.ok()?;
        let version = lease.metadata.resource_version;
        Some((version, lease.spec.unwrap_or_default()))
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Asked anew for each term: an account that was deleted and made again is another one.
    async fn owner(&self) -> Result<Owner, ElectionError> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        match accounts.get(&self.service_account).await {
            Ok(account) => Ok(Owner::new(&account)),
            Err(error) => {
                let name = self.service_account.clone();
                Err(ElectionError::ServiceAccount(name, error))
            }
        }
    }

    /// The Lease as an object of ours; its holder is left alone.
    async fn write_lease(&self, owner: &Owner) -> Result<(), ElectionError> {
        let body = Patch::Apply(owner.lease(&self.lease));
        match self
            .leases()
            .patch(&self.lease, &objects::apply(), &body)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(ElectionError::Lease(self.lease.clone(), error)),
        }
    }
}

/// Whether a holder that renews in time may have done so at `renewed`: not so if the clock was set back.
fn is_recent(renewed: SystemTime, now: SystemTime) -> bool {
    let lease = Duration::from_secs(LEASE_SECONDS);
    renewed <= now + lease && now <= renewed + lease
}

/// The Pod's name, for people, and a random number, because a name is not one process.
fn identity() -> String {
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "pullpass".to_owned());
    // Every `RandomState` has other keys.
    let random = RandomState::new().build_hasher().finish();
    format!("{host}_{random:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_22_a_clock_that_was_set_back_is_noticed() {
        let now = SystemTime::now();
        for (seconds, recent) in [(0, true), (5, true), (15, true), (16, false), (3600, false)] {
            let apart = Duration::from_secs(seconds);
            assert_eq!(is_recent(now - apart, now), recent, "{seconds} s ago");
            assert_eq!(is_recent(now + apart, now), recent, "in {seconds} s");
        }
    }

    #[test]
    fn no_two_processes_are_one_candidate() {
        assert_ne!(identity(), identity());
    }
}

//! The controller: keeps certificates and `caBundle` as they should be, and says where rules are wrong.
//!
//! ```text
//! API server --watches--> stored objects --> the next step --> server-side apply --> API server
//!                            |                  ^ only while it leads, six writes a minute an object
//!                            `--> readiness, metrics (every replica)
//! ```
//! Level-triggered: each decision is made from what is there now. No request of a Pod passes here, so
//! being down for a while costs nothing but repairs. This room must not log or export a byte of a Secret.

mod budget;
mod certificates;
mod delivery;
mod events;
mod health;
mod leader;
mod objects;
mod programs;
mod rules;
mod stored;

pub use crate::cluster::WEBHOOK;
pub use budget::WRITES_PER_MINUTE_MAX;
pub use leader::LEASE_SECONDS;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::certificates::Certificates;
use self::delivery::{Delivery, Parts, Surroundings};
use self::events::Events;
use self::health::{Caller, Health};
use self::leader::Election;
use self::programs::Programs;
use self::rules::{Announcer, Loaded, Verdict};
use self::stored::{Names, Stored};
use crate::cluster::client::{ConnectError, Connection};
use crate::cluster::watch::{BACKOFF_MAX, BACKOFF_MIN, Followed, Seen, spawn_follow_one};
use crate::delivery::Instance;
use crate::http::limits::{Limits, PROBE_CONNECTIONS_MAX};
use crate::http::probes::{self, Readiness};
use crate::http::server::{Bound, ServerMetrics};
use crate::metrics::{ControllerMetrics, Metrics};
use crate::shutdown::{self, Stop};

/// Longest wait until a watch shows what was written. It takes milliseconds, unless the watch is cut just
/// then; looking too early costs one more write at most, since each names the version it replaces.
const OBSERVE_MAX: Duration = Duration::from_secs(5);

/// What to run, and on which objects.
#[derive(Debug, Clone)]
pub struct Config {
    /// The plain port for probes and metrics.
    pub probe_address: SocketAddr,
    /// Namespace of everything but the webhook configuration.
    pub namespace: String,
    /// ConfigMap of the rules.
    pub rules_config_map: String,
    /// MutatingWebhookConfiguration that holds the webhook.
    pub webhook_configuration: String,
    /// The webhook's Service.
    pub service: String,
    /// Secret of the certificate that the webhook serves.
    pub tls_secret: String,
    /// Secret of the CA, which only the controller reads.
    pub ca_secret: String,
    /// Lease of the leader election.
    pub lease: String,
    /// ServiceAccount that owns what the controller makes.
    pub service_account: String,
    /// Who makes certificates.
    pub certificates: CertificateMode,
    /// How long old certificates stay trusted during a rotation.
    pub rotation_wait: Duration,
    /// Whether pull secrets are delivered; then this is the ConfigMap of the index.
    pub delivery: Option<String>,
    /// Whether and how Pods that a restart would fix are evicted; only where pull secrets are delivered.
    pub recovery: Option<Recovery>,
    /// Directory of the programs that rules call by a plain name.
    pub plugins: PathBuf,
    /// Files and directories of authorities that the registries of probes are verified by.
    pub registry_ca: Vec<PathBuf>,
}

/// How Pods that a restart would fix are evicted.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// Most in a minute.
    pub evictions_per_minute: u32,
    /// Time from one look for such Pods to the next.
    pub interval: Duration,
}

/// Who makes the certificates, and who writes `caBundle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CertificateMode {
    /// The controller makes and renews a CA and a certificate, and writes caBundle
    #[value(name = "self")]
    SelfSigned,
    /// Somebody keeps a certificate in the Secret; the controller copies its CA into caBundle
    Provided,
    /// cert-manager keeps the certificate and caBundle; the controller only looks
    CertManager,
    /// Nothing of certificates: the webhook is called by URL
    None,
}

/// Why the controller could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// The port could not be taken.
    #[error("cannot listen on {0}; choose another address with --probe-addr")]
    Listen(SocketAddr, #[source] io::Error),
    /// The metrics could not be registered: a bug.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// No way to the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something that runs for ever ended: a bug.
    #[error("a part of the controller ended by itself")]
    Ended,
}

/// A controller whose port is taken.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    connection: Connection,
    probes: Bound,
    metrics: Arc<Metrics>,
    own_metrics: ControllerMetrics,
    readiness: Readiness,
    stop: Stop,
}

/// What is to be said about the rules, and the last good ones.
type Judged = (
    watch::Receiver<Option<Verdict>>,
    watch::Receiver<Option<Arc<Loaded>>>,
);

impl Controller {
    /// Takes the port. The API server need not be there yet.
    ///
    /// # Errors
    /// [`ControllerError`], above all for a port that is taken.
    pub async fn bind(
        config: Config,
        connection: Connection,
        stop: Stop,
    ) -> Result<Self, ControllerError> {
        let limits = Limits {
            connections_max: PROBE_CONNECTIONS_MAX,
            drain: Duration::ZERO,
            ..Limits::default()
        };
        let address = config.probe_address;
        let probes = Bound::bind(address, None, limits).await;
        let metrics = Arc::new(Metrics::new()?);
        Ok(Self {
            probes: probes.map_err(|source| ControllerError::Listen(address, source))?,
            readiness: Readiness::new(stop.clone()),
            own_metrics: metrics.controller()?,
            metrics,
            config,
            connection,
            stop,
        })
    }

    /// Where probes connect.
    pub fn probe_addr(&self) -> SocketAddr {
        self.probes.local_addr()
    }

    /// Runs until the stop drains: the write under way is finished, the Lease given back, every task
    /// joined.
    ///
    /// # Errors
    /// [`ControllerError`] if it cannot start; [`ControllerError::Ended`] is a bug.
    pub async fn serve(self) -> Result<(), ControllerError> {
        let client = self.connection.client()?;
        let mut tasks = JoinSet::new();
        let stored = self.follow_stored(&mut tasks)?;
        let (verdicts, rules) = self.judge_rules(&mut tasks)?;
        self.earn_readiness(&mut tasks, client.clone(), stored.clone());
        let metrics = self.metrics.clone();
        let reported = stored.clone();
        tasks.spawn(async { match reported.report(metrics).await {} });

        let events = Events::new(client.clone());
        let mut announcer = Announcer::new(verdicts.clone(), events.clone());
        let mut delivery = self.delivery(
            &mut tasks,
            client.clone(),
            (verdicts, rules),
            events.clone(),
        )?;
        let mut certificates = self.certificates(client, stored, events);
        let election = self.election()?;
        let stop = self.stop.clone();
        let standing_in = delivery.as_ref().map(Delivery::stand_in);
        let stand_in = async |relieved: Stop| match &standing_in {
            Some(standing_in) => standing_in.run(&relieved).await,
            None => relieved.drain().await,
        };
        let led = election.lead(&stop, stand_in, async |owner| {
            let deliver = async {
                if let Some(delivery) = &mut delivery {
                    delivery.run(owner, &stop).await;
                }
            };
            tokio::join!(
                certificates.run(owner, &stop),
                announcer.run(&stop),
                deliver
            );
        });

        let (probes_stopper, probes_stop) = shutdown::channel();
        let probe_metrics = ServerMetrics {
            connections: IntGauge::new("probe_connections", "Not exported")?,
            panics: self.metrics.panics.clone(),
        };
        let router = probes::router(self.readiness, self.metrics);
        tasks.spawn(self.probes.serve(router, probe_metrics, probes_stop));
        let ended = tokio::select! {
            () = led => Ok(()),
            () = stop.now() => Ok(()),
            _ = tasks.join_next() => Err(ControllerError::Ended),
        };
        probes_stopper.now();
        tasks.shutdown().await;
        ended
    }

    /// The objects of certificates that the mode is about.
    fn follow_stored(&self, tasks: &mut JoinSet<()>) -> Result<Stored, ConnectError> {
        let mode = self.config.certificates;
        let names = Names {
            ca: self.config.ca_secret.clone(),
            tls: self.config.tls_secret.clone(),
            configuration: self.config.webhook_configuration.clone(),
        };
        let is_any = mode != CertificateMode::None;
        let ca = (mode == CertificateMode::SelfSigned).then_some(&*names.ca);
        let tls = is_any.then_some(&*names.tls);
        let configuration = is_any.then_some(&*names.configuration);
        Ok(Stored {
            mode,
            ca: self.follow(tasks, "ca", ca, |client| self.namespaced(client))?,
            tls: self.follow(tasks, "tls", tls, |client| self.namespaced(client))?,
            configuration: self.follow(tasks, "configuration", configuration, Api::all)?,
            names,
        })
    }

    /// What is to be said about the rules, and the last good ones.
    fn judge_rules(&self, tasks: &mut JoinSet<()>) -> Result<Judged, ConnectError> {
        let name = Some(&*self.config.rules_config_map);
        let rules = self.follow(tasks, "rules", name, |client| self.namespaced(client))?;
        let (sender, verdicts) = watch::channel(None);
        let (good, loaded) = watch::channel(None);
        let metrics = self.metrics.clone();
        tasks.spawn(async { match rules::judge(rules, metrics, sender, good).await {} });
        Ok((verdicts, loaded))
    }

    /// Who delivers, if somebody should.
    fn delivery(
        &self,
        tasks: &mut JoinSet<()>,
        client: Client,
        (verdicts, rules): Judged,
        events: Events,
    ) -> Result<Option<Delivery>, ControllerError> {
        let Some(index) = &self.config.delivery else {
            return Ok(None);
        };
        let Config {
            namespace,
            webhook_configuration,
            ..
        } = &self.config;
        let api = |client| self.namespaced(client);
        let parts = Parts {
            connection: self.connection.clone(),
            client: client.clone(),
            namespace: namespace.clone(),
            instance: Instance::new(namespace, webhook_configuration),
            index: index.clone(),
            index_seen: self.follow(tasks, "index", Some(index), api)?,
            rules,
            verdicts,
            events,
            metrics: self.metrics.clone(),
            own_metrics: self.own_metrics.clone(),
            programs: Programs::new(self.config.plugins.clone()),
            delivery_metrics: self.metrics.delivery()?,
            registry_ca: self.config.registry_ca.clone(),
            recovery: self.config.recovery.map(|recovery| Surroundings {
                rules_config_map: self.config.rules_config_map.clone(),
                webhook_configuration: webhook_configuration.clone(),
                caller: self.caller(client),
                recovery,
            }),
        };
        Ok(Some(Delivery::start(tasks, parts)))
    }

    /// Without certificates there is no bundle to wait for and nothing to verify with.
    fn earn_readiness(&self, tasks: &mut JoinSet<()>, client: Client, stored: Stored) {
        if self.config.certificates == CertificateMode::None {
            return;
        }
        let condition = |name| self.readiness.condition(name, "not asked for yet");
        let health = Health {
            stored,
            caller: self.caller(client),
            configuration: condition("configuration"),
            webhook: condition("webhook"),
        };
        tasks.spawn(async {
            health.earn().await;
            pending().await
        });
    }

    fn caller(&self, client: Client) -> Caller {
        Caller {
            services: self.namespaced(client),
            namespace: self.config.namespace.clone(),
            service: self.config.service.clone(),
        }
    }

    fn certificates(&self, client: Client, stored: Stored, events: Events) -> Certificates {
        let Config {
            service, namespace, ..
        } = &self.config;
        // An API server asks for the last one; the others are for people with curl.
        let leaf_names = vec![
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
        ];
        Certificates::new(
            stored,
            (self.namespaced(client.clone()), Api::all(client)),
            events,
            leaf_names,
            self.config.rotation_wait,
            &self.own_metrics,
        )
    }

    fn election(&self) -> Result<Election, ConnectError> {
        Election::new(
            &self.connection,
            &self.config.namespace,
            &self.config.lease,
            &self.config.service_account,
            self.own_metrics.leader.clone(),
        )
    }

    /// Follows the object called `name`; without a name there is none.
    fn follow<K: Followed>(
        &self,
        tasks: &mut JoinSet<()>,
        watch_name: &'static str,
        name: Option<&str>,
        api: impl FnOnce(Client) -> Api<K>,
    ) -> Result<watch::Receiver<Seen<K>>, ConnectError> {
        let Some(name) = name else {
            return Ok(watch::channel(Seen::Absent).1);
        };
        let freshness = self.metrics.watch_age(watch_name);
        spawn_follow_one(tasks, &self.connection, freshness, name, api)
    }

    fn namespaced<K>(&self, client: Client) -> Api<K>
    where
        K: Resource<DynamicType: Default, Scope = NamespaceResourceScope>,
    {
        Api::namespaced(client, &self.config.namespace)
    }
}

/// Pauses between tries of what failed: as those of the watches.
fn pauses() -> impl Iterator<Item = Duration> + Send + Sync + use<> {
    pauses_up_to(BACKOFF_MAX)
}

/// The same with another longest pause, jitter included.
fn pauses_up_to(max: Duration) -> impl Iterator<Item = Duration> + Send + Sync + use<> {
    pauses_between(BACKOFF_MIN, max)
}

/// The same with another longest first pause, too.
fn pauses_between(
    min: Duration,
    max: Duration,
) -> impl Iterator<Item = Duration> + Send + Sync + use<> {
    ExponentialBuilder::new()
        .with_min_delay(min / 2)
        .with_max_delay(max / 2)
        // Up to as much again.
        .with_jitter()
        .without_max_times()
        .build()
}

/// `least`, or up to twice as long.
fn jittered(least: Duration) -> Duration {
    pauses_between(least * 2, least * 2).next().unwrap_or(least)
}

/// Completes at the next change; never, if there will be none.
async fn next_change<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// Waits until a watch shows another version than the one `before`; not for ever.
async fn observed<K: ResourceExt>(watched: &mut watch::Receiver<Seen<K>>, before: Option<String>) {
    let is_other = |seen: &Seen<K>| {
        let version = seen.object().and_then(|object| object.resource_version());
        version != before
    };
    // At the deadline, the next look says what to do.
    timeout(OBSERVE_MAX, watched.wait_for(is_other)).await.ok();
}

//! The webhook: a TLS port for API servers, a plain port for probes, and what keeps both fed.
//!
//! [`Webhook::bind`] takes the ports, [`Webhook::serve`] runs until it is told to stop. Nothing on the
//! way of a request calls the API server, takes a lock for longer than a pointer's load, or reads a
//! file: [`files`] outside a cluster and [`objects`] inside one swap whole values in, requests load
//! them.

pub mod certificate;
pub mod files;
pub mod handler;
pub mod objects;
pub mod publisher;
pub mod serving;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus::IntGauge;
use tokio::task::JoinSet;

use self::certificate::{CertificateFiles, Certificates};
use self::files::RulesFiles;
use self::handler::{Admit, Handler};
use self::objects::Cluster;
use self::publisher::Publisher;
use self::serving::ServingStore;
use crate::cluster::client::{ConnectError, Connection};
use crate::files::poll;
use crate::http::limits::{Limits, PROBE_CONNECTIONS_MAX};
use crate::http::probes::{self, Condition, Readiness};
use crate::http::server::{Bound, ServerMetrics};
use crate::metrics::Metrics;
use crate::shutdown::{self, Stop};
use crate::snapshot::Namespaces;
use crate::{admission, pki};

/// What to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The TLS port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The plain port for probes and metrics.
    pub probe_address: SocketAddr,
    /// Where the rules come from, and what is known about their secrets and about namespaces.
    pub rules: RulesSource,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// Namespace of the objects that are followed; `None`: that of the connection.
    pub namespace: Option<String>,
    /// The limits.
    pub limits: Limits,
    /// What answers a review; [`admission::admit`] in service.
    pub admit: Admit,
}

/// Where the rules come from, and what is known about their secrets and about namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesSource {
    /// Outside a cluster: files, polled.
    Files {
        /// The rules.
        rules: PathBuf,
        /// Manifests of the Secrets that the rules name as sources.
        pull_secrets: Vec<PathBuf>,
        /// Labels that every namespace has.
        namespace_labels: BTreeMap<String, String>,
    },
    /// Objects of the API server, followed; namespaces are too.
    ConfigMaps {
        /// Name of the ConfigMap with the rules.
        rules: String,
        /// Name of the ConfigMap with the index.
        index: String,
    },
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Two PEM files, polled.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A CA that lives as long as the process.
    InMemory {
        /// Names besides loopback's.
        names: Vec<String>,
        /// Where to write the CA's certificate.
        ca_out: Option<PathBuf>,
    },
    /// The Secret of this name, followed: `tls.crt` and `tls.key`.
    Secret(String),
}

impl Config {
    /// With everything but the rules at its default: loopback ports chosen by the system, a
    /// certificate in memory.
    pub fn new(rules: PathBuf) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            address: any_port,
            probe_address: any_port,
            rules: RulesSource::Files {
                rules,
                pull_secrets: Vec::new(),
                namespace_labels: BTreeMap::new(),
            },
            certificate: CertificateSource::InMemory {
                names: Vec::new(),
                ca_out: None,
            },
            namespace: None,
            limits: Limits::default(),
            admit: admission::admit,
        }
    }

    fn needs_cluster(&self) -> bool {
        matches!(self.rules, RulesSource::ConfigMaps { .. })
            || matches!(self.certificate, CertificateSource::Secret(_))
    }
}

/// Why the webhook could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A port could not be taken.
    #[error("cannot listen on {address}; choose another address with {flag}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The metrics could not be registered: a bug.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// TLS could not be set up: a bug.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// No way to the API server is configured.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A webhook whose ports are taken.
#[derive(Debug)]
pub struct Webhook {
    admission: Bound,
    probes: Bound,
    config: Config,
    /// The API server, if anything comes from there.
    cluster: Option<Connection>,
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
    readiness: Readiness,
    randomness: Condition,
    stop: Stop,
}

impl Webhook {
    /// Takes the ports and checks what can be checked at once. Bad rules or certificates are no error
    /// here: the webhook is then not ready, says why, and recovers when they are mended.
    ///
    /// # Errors
    /// [`BindError`], above all for a port that is taken.
    pub async fn bind(config: Config, stop: Stop) -> Result<Self, BindError> {
        let metrics = Arc::new(Metrics::new()?);
        let readiness = Readiness::new(stop.clone());
        let randomness = readiness.condition("randomness", "not warmed up yet");
        let condition = readiness.condition("certificate", "not loaded yet");
        let certificates = Arc::new(Certificates::new(metrics.clone(), condition));
        let tls = Arc::new(certificates.server_config()?);
        let listen = async |address, flag, tls, limits| {
            let bound = Bound::bind(address, tls, limits).await;
            bound.map_err(|source| BindError::Listen {
                address,
                flag,
                source,
            })
        };
        let cluster = match config.needs_cluster() {
            true => Some(Connection::infer().await?),
            false => None,
        };
        let limits = config.limits.clone();
        let probe_limits = Limits {
            connections_max: PROBE_CONNECTIONS_MAX,
            ..limits.clone()
        };
        Ok(Self {
            admission: listen(config.address, "--addr", Some(tls), limits).await?,
            probes: listen(config.probe_address, "--probe-addr", None, probe_limits).await?,
            config,
            cluster,
            metrics,
            certificates,
            readiness,
            randomness,
            stop,
        })
    }

    /// Where API servers connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.admission.local_addr()
    }

    /// Where probes connect.
    pub fn probe_addr(&self) -> SocketAddr {
        self.probes.local_addr()
    }

    /// Serves until the stop is over: drained, finished, every task joined.
    ///
    /// # Errors
    /// [`BindError::Connect`] if the API server's address or credentials cannot be used;
    /// [`BindError::Metrics`], which is a bug.
    pub async fn serve(self) -> Result<(), BindError> {
        let probe_metrics = ServerMetrics {
            connections: IntGauge::new("probe_connections", "Not exported")?,
            panics: self.metrics.panics.clone(),
        };
        let metrics = ServerMetrics {
            connections: self.metrics.connections.clone(),
            panics: self.metrics.panics.clone(),
        };
        let store = Arc::new(ServingStore::new(self.metrics.clone()));
        let mut feeders = JoinSet::new();
        self.feed_certificates(&mut feeders)?;
        self.feed_rules(&mut feeders, store.clone())?;
        let randomness = self.randomness;
        feeders.spawn_blocking(move || match pki::warm_up() {
            Ok(()) => randomness.met(),
            Err(error) => randomness.unmet(error.to_string()),
        });
        let handler = Handler::new(
            self.config.admit,
            store,
            self.config.limits,
            self.metrics.clone(),
        );
        // Probes are answered for as long as requests are.
        let (probes_stopper, probes_stop) = shutdown::channel();
        let admission = async {
            let router = handler.into_router();
            self.admission.serve(router, metrics, self.stop).await;
            probes_stopper.now();
        };
        let router = probes::router(self.readiness, self.metrics);
        tokio::join!(
            admission,
            self.probes.serve(router, probe_metrics, probes_stop)
        );
        feeders.shutdown().await;
        Ok(())
    }

    fn feed_certificates(&self, feeders: &mut JoinSet<()>) -> Result<(), ConnectError> {
        let certificates = self.certificates.clone();
        let panics = self.metrics.panics.clone();
        match self.config.certificate.clone() {
            CertificateSource::Files { certificate, key } => {
                let files = CertificateFiles::new(certificate, key, certificates);
                feeders.spawn(async { match poll(files, panics).await {} });
            }
            CertificateSource::InMemory { names, ca_out } => {
                feeders.spawn_blocking(move || {
                    certificate::in_memory(&certificates, &names, ca_out.as_deref());
                });
            }
            CertificateSource::Secret(name) => {
                if let Some(cluster) = self.cluster() {
                    objects::follow_certificate(feeders, &cluster, &name, certificates)?;
                }
            }
        }
        Ok(())
    }

    fn feed_rules(
        &self,
        feeders: &mut JoinSet<()>,
        store: Arc<ServingStore>,
    ) -> Result<(), ConnectError> {
        let metrics = self.metrics.clone();
        let condition = self.readiness.condition("rules", "not in use yet");
        match self.config.rules.clone() {
            RulesSource::Files {
                rules,
                pull_secrets,
                namespace_labels,
            } => {
                let namespaces = Namespaces::Fixed(Arc::new(namespace_labels));
                let publisher = Publisher::new(namespaces, store, metrics, condition);
                let manifests = self.readiness.condition("pull secrets", "not read yet");
                let files = RulesFiles::new(rules, pull_secrets, publisher, manifests);
                let panics = self.metrics.panics.clone();
                feeders.spawn(async { match poll(files, panics).await {} });
            }
            RulesSource::ConfigMaps { rules, index } => {
                let publisher = Publisher::new(Namespaces::default(), store, metrics, condition);
                if let Some(cluster) = self.cluster() {
                    let names = (rules.as_str(), index.as_str());
                    objects::follow_rules(feeders, &cluster, names, publisher, &self.readiness)?;
                }
            }
        }
        Ok(())
    }

    fn cluster(&self) -> Option<Cluster<'_>> {
        let connection = self.cluster.as_ref()?;
        let namespace = self.config.namespace.as_deref();
        Some(Cluster {
            connection,
            namespace: namespace.unwrap_or_else(|| connection.namespace()),
            metrics: &self.metrics,
        })
    }
}

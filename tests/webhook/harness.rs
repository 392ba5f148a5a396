//! A server in this process, and a clock that stands still.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::SystemTime;

use axum::Router;
use axum::routing::post;
use pullpass::admission::{Answer, Reason, Report, ReviewError};
use pullpass::http::limits::Limits;
use pullpass::http::probes::{Condition, Readiness};
use pullpass::http::server::{Bound, ServerMetrics};
use pullpass::metrics::Metrics;
use pullpass::pki::{CertificateAuthority, LEAF_LIFETIME};
use pullpass::rules::{self, Ruleset};
use pullpass::shutdown::{self, Stopper};
use pullpass::snapshot::{Namespaces, Snapshot};
use pullpass::webhook::certificate::Certificates;
use pullpass::webhook::handler::{Admit, Handler};
use pullpass::webhook::serving::ServingStore;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{self, Connection};

/// The CA of every server here; a key of its own for each run of the tests.
pub(crate) static CA: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::generate(SystemTime::now()).unwrap());

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopper: Stopper,
    pub(crate) client: Arc<ClientConfig>,
    task: JoinSet<()>,
}

impl Server {
    /// Serves `router` over TLS.
    pub(crate) async fn start(router: Router, limits: Limits) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        Self::start_with(router, limits, metrics).await
    }

    /// Serves the real handler around `admit`, with rules that inject nothing.
    pub(crate) async fn admitting(admit: Admit, limits: Limits) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Arc::new(ServingStore::new(metrics.clone()));
        store.publish(snapshot("rules: []\npullSecrets: []\n"));
        let handler = Handler::new(admit, store, limits.clone(), metrics.clone());
        Self::start_with(handler.into_router(), limits, metrics).await
    }

    pub(crate) async fn start_with(router: Router, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let certificates = Arc::new(Certificates::new(metrics.clone(), condition()));
        let leaf = CA
            .issue(&["localhost"], SystemTime::now(), LEAF_LIFETIME)
            .unwrap();
        certificates
            .install(leaf.certificates.as_bytes(), leaf.key.as_bytes())
            .unwrap();
        Self::serving(router, limits, metrics, certificates).await
    }

    /// Serves `router` with these certificates.
    pub(crate) async fn serving(
        router: Router,
        limits: Limits,
        metrics: Arc<Metrics>,
        certificates: Arc<Certificates>,
    ) -> Self {
        let (stopper, stop) = shutdown::channel();
        let tls = Arc::new(certificates.server_config().unwrap());
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = Bound::bind(any_port, Some(tls), limits).await.unwrap();
        let address = bound.local_addr();
        let server_metrics = ServerMetrics {
            connections: metrics.connections.clone(),
            panics: metrics.panics.clone(),
        };
        let mut task = JoinSet::new();
        task.spawn(bound.serve(router, server_metrics, stop));
        Self {
            address,
            metrics,
            stopper,
            client: client::trusting(CA.certificate_pem()),
            task,
        }
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::tls(self.address, self.client.clone())
            .await
            .unwrap()
    }

    /// A connection without its handshake.
    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until so many connections are open.
    pub(crate) async fn until_open(&self, connections: i64) {
        until(|| self.metrics.connections.get() == connections).await;
    }

    /// Waits until the server has ended by itself.
    pub(crate) async fn ended(&mut self) {
        self.task.join_next().await.unwrap().unwrap();
    }
}

/// Waits for a condition, letting everything else run.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
    // Whoever made it true may have spawned what the test waits for next.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// A condition that nobody looks at.
pub(crate) fn condition() -> Condition {
    let (_, stop) = shutdown::channel();
    Readiness::new(stop).condition("under test", "not met yet")
}

/// A snapshot of these rules; the text leaves out what every rules text begins with.
pub(crate) fn snapshot(rules: &str) -> Snapshot {
    let config = rules::load(&rules_text(rules)).unwrap();
    let ruleset = Arc::new(Ruleset::compile(&config));
    Snapshot::new(
        ruleset,
        Arc::default(),
        Namespaces::Fixed(Arc::default()),
        1,
    )
}

pub(crate) fn rules_text(rest: &str) -> String {
    format!("apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n{rest}")
}

/// Answers anything with `{}`.
pub(crate) fn null(_: &[u8], _: &Snapshot) -> Result<Answer, ReviewError> {
    Ok(Answer {
        body: b"{}".to_vec(),
        report: Report {
            reason: Reason::NoRuleMatched,
            injections: Default::default(),
            warnings: Default::default(),
            images_unparsable: 0,
            lacks_labels: false,
        },
    })
}

/// Answers POST /echo with the length of the body.
pub(crate) fn echo() -> Router {
    let length = async |body: axum::body::Bytes| body.len().to_string();
    Router::new().route("/echo", post(length))
}

/// Keeps a paused clock from running ahead while real sockets are waited for. The test then moves it
/// with `tokio::time::advance`.
pub(crate) struct StillClock(
    #[expect(dead_code, reason = "dropping it ends the thread")] mpsc::Sender<()>,
);

impl StillClock {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        // tokio moves a paused clock only when nothing is running, blocking threads included.
        tokio::task::spawn_blocking(move || receiver.recv().ok());
        Self(sender)
    }
}

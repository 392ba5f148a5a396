//! The listener: accept loop, TLS, HTTP/1.1, and how connections end.
//!
//! ```text
//! bind --> serve --accept--> one task a connection: handshake --> requests --> router
//!            |                       ^ idle too long, too old, one too many
//!            +--first signal: answers say `Connection: close`, still accepting
//!            +--after the drain: listener gone, idle connections closed, requests finished
//!            +--second signal: everything dropped
//! ```
//! Every task is owned by one `JoinSet` and reaped as it ends, so a closed connection leaves nothing
//! behind. This module must not know what is asked or answered: it gets a `Router`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounter, IntGauge};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::limits::{
    ACCEPT_RETRY, CONNECTION_AGE_JITTER_PERCENT, HEAD_BYTES_MAX, Limits, READ_BUFFER_BYTES_MAX,
    jittered,
};
use crate::shutdown::{self, Stop};

/// A port that is taken but not served yet: connections wait in the kernel.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
}

/// What a server reports about itself.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    /// Open connections.
    pub connections: IntGauge,
    /// Connections that ended in a panic.
    pub panics: IntCounter,
}

impl Bound {
    /// Takes the port. Without `tls` the server speaks plain HTTP.
    ///
    /// # Errors
    /// Those of the operating system, usually that the port is taken.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        limits: Limits,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            tls,
            limits,
        })
    }

    /// Where the server listens: the port that was chosen, if it was bound to port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` says otherwise and every connection has ended. See the module's picture.
    pub async fn serve(self, router: Router, metrics: ServerMetrics, stop: Stop) {
        let (closer, closing) = shutdown::channel();
        let mut connections = Connections::new(&self, router, metrics, closing);
        let orderly = async {
            let drained = async {
                stop.drain().await;
                closer.drain();
                sleep(self.limits.drain).await;
            };
            tokio::select! {
                never = connections.accept(&self.listener) => match never {},
                () = drained => {}
            }
            drop(self.listener);
            closer.now();
            timeout(self.limits.finish_max, connections.all_ended())
                .await
                .ok();
        };
        tokio::select! {
            () = orderly => {}
            () = stop.now() => {}
        }
        connections.tasks.shutdown().await;
        connections.metrics.connections.set(0);
    }
}

/// The open connections of one server and what they share.
struct Connections {
    shared: Arc<Shared>,
    metrics: ServerMetrics,
    connections_max: usize,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
}

struct Open {
    task: AbortHandle,
    activity: Arc<Activity>,
}

struct Shared {
    router: Router,
    http: http1::Builder,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    /// Its first signal: answer with `Connection: close`. Its second: close when idle.
    closing: Stop,
    started: Instant,
}

impl Connections {
    fn new(bound: &Bound, router: Router, metrics: ServerMetrics, closing: Stop) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(bound.limits.head_or_idle_max)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(READ_BUFFER_BYTES_MAX);
        let shared = Shared {
            router,
            http,
            tls: bound.tls.clone().map(TlsAcceptor::from),
            limits: bound.limits.clone(),
            closing,
            started: Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
            metrics,
            connections_max: bound.limits.connections_max,
            tasks: JoinSet::new(),
            open: HashMap::new(),
        }
    }

    /// Accepts and reaps, for ever.
    async fn accept(&mut self, listener: &TcpListener) -> Infallible {
        let mut failing = false;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        failing = false;
                        self.start(stream);
                    }
                    Err(error) => {
                        if !failing {
                            tracing::error!(%error, "cannot accept connections; trying again");
                        }
                        failing = true;
                        sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(ended) = self.tasks.join_next_with_id() => self.reap(ended),
            }
        }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.reap(ended);
        }
    }

    fn start(&mut self, stream: TcpStream) {
        if self.open.len() >= self.connections_max && !self.close_longest_idle() {
            return; // Every other connection is at work; dropping the stream closes it.
        }
        let activity = Arc::new(Activity::idle_since(self.shared.elapsed_us()));
        let connection = connection(stream, self.shared.clone(), activity.clone());
        let task = self.tasks.spawn(connection);
        self.open.insert(task.id(), Open { task, activity });
        self.report();
    }

    /// A dropped connection without a request on it is what its client sees every day: it opens
    /// another. Returns whether there was one.
    fn close_longest_idle(&mut self) -> bool {
        let idle = self
            .open
            .iter()
            .filter_map(|(id, open)| Some((open.activity.idle_since_us()?, *id)));
        let Some((_, id)) = idle.min_by_key(|(since, _)| *since) else {
            return false;
        };
        if let Some(open) = self.open.remove(&id) {
            open.task.abort();
        }
        true
    }

    fn reap(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    self.metrics.panics.inc();
                }
                error.id()
            }
        };
        self.open.remove(&id);
        self.report();
    }

    fn report(&self) {
        let open = i64::try_from(self.open.len()).unwrap_or(i64::MAX);
        self.metrics.connections.set(open);
    }
}

impl Shared {
    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(Activity::BUSY - 1)
    }
}

/// Since when a connection has had no request, in microseconds after the server's start.
struct Activity(AtomicU64);

impl Activity {
    const BUSY: u64 = u64::MAX;

    fn idle_since(us: u64) -> Self {
        Self(AtomicU64::new(us))
    }

    fn set_busy(&self) {
        self.0.store(Self::BUSY, Ordering::Relaxed);
    }

    fn set_idle(&self, since_us: u64) {
        self.0.store(since_us, Ordering::Relaxed);
    }

    fn idle_since_us(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|us| *us != Self::BUSY)
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, activity: Arc<Activity>) {
    // An answer is one small write; waiting to fill a segment would only delay it.
    stream.set_nodelay(true).ok();
    let Some(tls) = &shared.tls else {
        return requests(stream, &shared, &activity).await;
    };
    match timeout(shared.limits.tls_handshake_max, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, &shared, &activity).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    activity: &Activity,
) {
    let retire_at =
        Instant::now() + jittered(shared.limits.connection_age, CONNECTION_AGE_JITTER_PERCENT);
    let service = service_fn(|request: Request<Incoming>| async move {
        activity.set_busy();
        let mut response = shared.router.clone().call(request).await?;
        if shared.closing.is_draining() || Instant::now() >= retire_at {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        activity.set_idle(shared.elapsed_us());
        Ok::<_, Infallible>(response)
    });
    let io = TokioIo::new(stream);
    let mut connection = pin!(shared.http.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.closing.now() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_connection_is_not_idle() {
        let activity = Activity::idle_since(7);
        assert_eq!(activity.idle_since_us(), Some(7));
        activity.set_busy();
        assert_eq!(activity.idle_since_us(), None);
        activity.set_idle(9);
        assert_eq!(activity.idle_since_us(), Some(9));
    }
}

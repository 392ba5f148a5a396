//! A way to the API server that a trial can spoil: calls that are answered before they reach it, and
//! connections that fall silent.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::api::Api;
use super::cluster::Cluster;
use super::load::trusting;
use super::serve::{Relayed, Server, acceptor, serve_connections};

/// One call that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its method.
    pub(crate) method: String,
    /// Its path.
    pub(crate) path: String,
    /// What follows the `?`.
    pub(crate) query: String,
}

impl Call {
    /// Whether it asks for a watch.
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }

    /// Whether both ask the same, for the same objects.
    fn is_like(&self, other: &Self) -> bool {
        let selected = |call: &Self| {
            let mut parameters = call.query.split('&');
            parameters
                .find(|parameter| parameter.starts_with("fieldSelector="))
                .map(ToOwned::to_owned)
        };
        let kind = |call: &Self| (call.method.clone(), call.path.clone(), call.is_watch());
        kind(self) == kind(other) && selected(self) == selected(other)
    }
}

/// What is answered instead of asking the API server, as a whole HTTP answer; `None`: it is asked. The
/// number says how many calls like this one came before.
type Judge = dyn Fn(&Call, usize) -> Option<String> + Send + Sync;

/// A running gateway. Every call has a connection of its own.
pub(crate) struct Gateway {
    _server: Server,
    api: Api,
    way: Arc<Way>,
    is_cut: watch::Sender<bool>,
}

/// The way of a connection.
struct Way {
    upstream: SocketAddr,
    tls: Arc<ClientConfig>,
    judge: Box<Judge>,
    calls: Mutex<Vec<Call>>,
}

impl Gateway {
    /// Starts one before the cluster's API server.
    pub(crate) fn start(
        cluster: &Cluster,
        judge: impl Fn(&Call, usize) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let way = Arc::new(Way {
            upstream: cluster.api.address(),
            tls: trusting(&cluster.ca_pem()),
            judge: Box::new(judge),
            calls: Mutex::default(),
        });
        let (is_cut, cut) = watch::channel(false);
        let tls = acceptor(&cluster.webhook_certificate());
        let taken = Arc::clone(&way);
        let handle = move |stream| {
            let (tls, way, mut cut) = (tls.clone(), Arc::clone(&taken), cut.clone());
            async move {
                let mut relay = pin!(async {
                    // A client that breaks off is its own affair.
                    if let Ok(client) = tls.accept(stream).await {
                        drop(way.relay(client).await);
                    }
                });
                tokio::select! {
                    biased;
                    // Silent, not closed: `relay` stays, and with it both connections.
                    Ok(_) = cut.wait_for(|is_cut| *is_cut) => {}
                    () = &mut relay => return,
                }
                std::future::pending::<()>().await;
            }
        };
        let server = serve_connections(listener, handle);
        Self {
            api: cluster.api.at(server.address),
            _server: server,
            way,
            is_cut,
        }
    }

    /// A client of the API server that goes this way.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// Lets every connection fall silent, for ever, and those that come until [`Self::heal`].
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Lets new connections through.
    pub(crate) fn heal(&self) {
        self.is_cut.send_replace(false);
    }

    /// How many calls came that `is_meant` chooses.
    pub(crate) fn count(&self, is_meant: impl Fn(&Call) -> bool) -> usize {
        let calls = self.way.calls();
        calls.iter().filter(|call| is_meant(call)).count()
    }
}

impl Way {
    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the one call of a connection: each answer closes it.
    async fn relay(&self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let Some(request) = Relayed::read(&mut client).await? else {
            return Ok(());
        };
        if let Some(answer) = self.judged(&request.head) {
            client.write_all(answer.as_bytes()).await?;
            return client.shutdown().await;
        }
        let server = TcpStream::connect(self.upstream).await?;
        server.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.upstream.ip().into());
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let mut server = connector.connect(name, server).await?;
        request.forward(&mut client, &mut server).await
    }

    /// Notes a call; gives what is answered in the API server's place.
    fn judged(&self, head: &str) -> Option<String> {
        let mut words = head.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        let call = Call {
            method,
            path,
            query,
        };
        let mut calls = self.calls();
        let before = calls.iter().filter(|before| before.is_like(&call)).count();
        calls.push(call.clone());
        drop(calls);
        (self.judge)(&call, before)
    }
}

/// An HTTP answer with a Status of the API server.
pub(crate) fn refusal(code: u16, reason: &str, headers: &str) -> String {
    let status = status(code, reason);
    answer(&format!("{code} {reason}"), headers, &status)
}

/// A watch that says only that its version is too old, as an API server says it.
pub(crate) fn expired_watch() -> String {
    let event = format!(
        "{{\"type\":\"ERROR\",\"object\":{}}}\n",
        status(410, "Expired")
    );
    answer("200 OK", "", &event)
}

fn status(code: u16, reason: &str) -> String {
    serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "spoiled by the trial",
        "reason": reason,
        "code": code,
    })
    .to_string()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

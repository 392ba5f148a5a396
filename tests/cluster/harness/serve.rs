//! Small HTTP servers inside the test process: stand-ins for a webhook, a token server.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Runs every server of the test process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
});

/// Larger than any head that is relayed: tokens are the largest part, about 2 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request to be relayed, as far as it was read.
pub(crate) struct Relayed {
    /// Request line and headers.
    pub(crate) head: String,
    body: Vec<u8>,
}

impl Relayed {
    /// Reads the head; `None` from who breaks off, or sends too much.
    pub(crate) async fn read(
        client: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if bytes.len() > HEAD_BYTES_MAX || client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let body = bytes.split_off(end + 4);
        bytes.truncate(end);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Some(Self { head, body }))
    }

    /// Sends it on, and all that follows either way: the connection ends with its answer.
    pub(crate) async fn forward(
        self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
        let head: Vec<_> = self.head.lines().filter(is_kept).collect();
        let head = format!("{}\r\nConnection: close\r\n\r\n", head.join("\r\n"));
        server.write_all(head.as_bytes()).await?;
        server.write_all(&self.body).await?;
        copy_bidirectional(client, server).await?;
        Ok(())
    }
}

/// A server that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `router` on `listener`, over TLS if there is an acceptor.
pub(crate) fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) -> Server {
    serve_connections(listener, move |stream| {
        let (tls, router) = (tls.clone(), router.clone());
        async move {
            // A client that breaks off is its own affair.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_stream(stream, router).await;
                    }
                }
                None => serve_stream(stream, router).await,
            }
        }
    })
}

/// Gives every connection of `listener` to `handle`.
pub(crate) fn serve_connections<F>(
    listener: TcpListener,
    handle: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    listener
        .set_nonblocking(true)
        .expect("a socket can be non-blocking");
    let task = RUNTIME.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is non-blocking");
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Or every answer waits for a delayed acknowledgement.
            drop(stream.set_nodelay(true));
            connections.spawn(handle(stream));
            while connections.try_join_next().is_some() {}
        }
    });
    Server {
        address,
        task: task.abort_handle(),
    }
}

/// A TLS acceptor for a certificate of the cluster.
pub(crate) fn acceptor(pair: &super::pki::Pair) -> TlsAcceptor {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("we wrote it");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("we wrote it");
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key fits its certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) {
    let service = TowerToHyperService::new(router);
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

//! One request to a server of the world, by TLS or not, with a bound on everything that it may send back.
//!
//! No redirect is followed and no connection kept: each answer is one of the server that was meant. This
//! module must not know what is asked or why, and logs nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::{CallError, failed, other, verifying};
use super::limits::READ_BUFFER_BYTES_MAX;

/// Longest exchange, from the look-up of the name to the last byte: a distant token server takes 2 s.
pub const FETCH_MAX: Duration = Duration::from_secs(10);
/// Largest body that is read, in bytes. The tokens of ECR, the longest, have 4 KiB.
pub const FETCHED_BYTES_MAX: usize = 64 * 1024;

/// How to verify servers: by the certificates in `pem`, and no others. Whatever else is in it is skipped,
/// as a directory of authorities holds it.
///
/// # Errors
/// [`CallError::Other`] if TLS cannot be set up: a bug.
pub fn trust(pem: &[u8]) -> Result<Arc<ClientConfig>, CallError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
    verifying(roots).map(Arc::new)
}

/// Sends `request`, whose URI is whole, and gives the answer; the body only of a success, since nothing
/// else's is of use. `https` is verified by `tls`.
///
/// # Errors
/// [`CallError`] if there is no answer within [`FETCH_MAX`], or it is too large.
pub async fn fetch(
    tls: Arc<ClientConfig>,
    request: Request<()>,
) -> Result<Response<Vec<u8>>, CallError> {
    let late = || CallError::Other(format!("no answer within {} s", FETCH_MAX.as_secs()));
    let exchanged = timeout(FETCH_MAX, exchange(tls, request)).await;
    exchanged.unwrap_or_else(|_| Err(late()))
}

async fn exchange(
    tls: Arc<ClientConfig>,
    request: Request<()>,
) -> Result<Response<Vec<u8>>, CallError> {
    let uri = request.uri();
    let host = uri.host().ok_or_else(|| other("no host"))?;
    // An IPv6 address is in brackets there, and nowhere else.
    let host = host.trim_matches(['[', ']']).to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let request = to_origin(request)?;
    let stream = TcpStream::connect((&*host, port)).await.map_err(failed)?;
    if !is_tls {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host).map_err(other)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    send(stream.map_err(failed)?, request).await
}

/// As it is sent to the server itself: with the path alone, and the host in a header.
fn to_origin(request: Request<()>) -> Result<Request<Empty<Bytes>>, CallError> {
    let (mut head, ()) = request.into_parts();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let host = HeaderValue::try_from(authority.unwrap_or_default()).map_err(other)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    // Of `https://HOST?QUERY` it is the query alone.
    let root = if path.starts_with('/') { "" } else { "/" };
    head.uri = Uri::try_from(format!("{root}{path}")).map_err(other)?;
    head.headers.insert(HOST, host);
    Ok(Request::from_parts(head, Empty::new()))
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Vec<u8>>, CallError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BUFFER_BYTES_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(other)?;
    let exchange = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(other)?
            .into_parts();
        let bytes = if head.status.is_success() {
            let body = Limited::new(body, FETCHED_BYTES_MAX).collect().await;
            body.map_err(other)?.to_bytes().to_vec()
        } else {
            Vec::new()
        };
        Ok(Response::from_parts(head, bytes))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // It may end with the answer on its way.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Asks a server that answers whatever comes with `answer`; also gives what came.
    async fn asked(answer: &str) -> (Result<Response<Vec<u8>>, CallError>, String) {
        asked_for("/v2/?a=b", answer).await
    }

    async fn asked_for(what: &str, answer: &str) -> (Result<Response<Vec<u8>>, CallError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{what}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut came = vec![0; 1024];
            let length = stream.read(&mut came).await.unwrap();
            // Who has heard enough may go.
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            String::from_utf8_lossy(&came[..length]).into_owned()
        };
        let request = Request::get(url).body(()).unwrap();
        tokio::join!(fetch(trust(b"").unwrap(), request), serve)
    }

    #[tokio::test]
    async fn what_is_sent_and_what_comes_back() {
        let (answer, came) = asked("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        assert!(came.starts_with("GET /v2/?a=b HTTP/1.1\r\n"), "{came}");
        assert!(came.contains("host: 127.0.0.1:"), "{came}");
        assert_eq!(answer.unwrap().body(), b"{}");
        let (answer, _) = asked("HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\nno").await;
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), 302);
        assert!(answer.body().is_empty());
    }

    #[tokio::test]
    async fn an_address_without_a_path_has_the_shortest() {
        for (what, path) in [("", "/"), ("/", "/"), ("?a=b", "/?a=b"), ("/x", "/x")] {
            let (answer, came) = asked_for(what, "HTTP/1.1 200 OK\r\n\r\n").await;
            assert!(answer.is_ok(), "{what}");
            assert!(
                came.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{came}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_no_answer() {
        let large = "x".repeat(FETCHED_BYTES_MAX + 1);
        let (answer, _) = asked(&format!("HTTP/1.1 200 OK\r\n\r\n{large}")).await;
        assert!(matches!(answer, Err(CallError::Other(_))), "{answer:?}");
        let large = "x".repeat(4 * READ_BUFFER_BYTES_MAX);
        let (answer, _) = asked(&format!("HTTP/1.1 200 OK\r\nA: {large}\r\n\r\n")).await;
        assert!(matches!(answer, Err(CallError::Other(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let request = Request::get(url).body(()).unwrap();
        let answer = fetch(trust(b"").unwrap(), request).await;
        assert_eq!(answer.unwrap_err(), CallError::Refused);
    }
}

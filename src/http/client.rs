//! One HTTPS call that says exactly why it failed: what an API server would meet at a webhook.
//!
//! The address is dialled as it is given, the certificate checked against a name and a bundle of the
//! caller's. This module must not look names up, and must not know what is asked or why.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::HOST;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::pki::{self, PkiError};

/// Longest call, from dialling to the head of the answer: what the API server gives this webhook.
pub const CALL_MAX: Duration = Duration::from_secs(5);

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The bundle cannot be used.
    #[error("the bundle to verify against cannot be used: {0}")]
    Bundle(#[from] PkiError),
    /// Nobody listens there.
    #[error("connection refused: nothing listens there")]
    Refused,
    /// Silence for [`CALL_MAX`].
    #[error("no answer within {} s: the server hangs, or a firewall drops the packets", CALL_MAX.as_secs())]
    TimedOut,
    /// The certificate's issuer is not in the bundle.
    #[error("the certificate is signed by an authority that the bundle does not hold")]
    UnknownAuthority,
    /// The certificate is somebody else's.
    #[error("the certificate is not valid for {expected}, only for {presented}")]
    WrongName {
        /// The name that was asked for.
        expected: String,
        /// The names in the certificate.
        presented: String,
    },
    /// The certificate is over.
    #[error("the certificate has expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("the certificate is not valid yet: a clock is wrong")]
    NotYetValid,
    /// Anything else, in the words of the layer that failed.
    #[error("{0}")]
    Other(String),
}

/// Asks `GET path` of `address` and gives the HTTP status, whatever it is. The server's certificate must
/// be valid for `server_name` under a CA of `bundle_pem`.
///
/// # Errors
/// [`CallError`] if no answer came within [`CALL_MAX`].
pub async fn call(
    address: SocketAddr,
    server_name: &str,
    path: &str,
    bundle_pem: &[u8],
) -> Result<u16, CallError> {
    let tls = TlsConnector::from(Arc::new(trusting(bundle_pem)?));
    let exchanged = timeout(CALL_MAX, exchange(tls, address, server_name, path));
    exchanged.await.unwrap_or(Err(CallError::TimedOut))
}

/// Trusts the certificates of a bundle and nothing else; HTTP/1.1, as an API server speaks it.
fn trusting(bundle_pem: &[u8]) -> Result<ClientConfig, CallError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(pki::parse_chain(bundle_pem)?);
    if added == 0 {
        return Err(PkiError::X509.into());
    }
    verifying(roots)
}

/// Trusts these authorities and nothing else; HTTP/1.1 only.
pub(super) fn verifying(roots: RootCertStore) -> Result<ClientConfig, CallError> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn exchange(
    tls: TlsConnector,
    address: SocketAddr,
    server_name: &str,
    path: &str,
) -> Result<u16, CallError> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(other)?;
    let request = Request::get(path)
        .header(HOST, server_name)
        .body(Empty::<Bytes>::new())
        .map_err(other)?;
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let stream = tls.connect(name, stream).await.map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(other)?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It may end with the answer on its way.
        _ = connection => answer.await,
    };
    Ok(answer.map_err(other)?.status().as_u16())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
pub(super) fn failed(error: io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => return CallError::Refused,
        io::ErrorKind::TimedOut => return CallError::TimedOut,
        _ => {}
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => refused_certificate(reason),
        _ => CallError::Other(error.to_string()),
    }
}

fn refused_certificate(reason: &CertificateError) -> CallError {
    match reason {
        // Two CAs of one name differ only in their signatures.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CallError::UnknownAuthority
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => CallError::WrongName {
            expected: expected.to_str().into_owned(),
            presented: presented.join(", "),
        },
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CallError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CallError::NotYetValid
        }
        other => CallError::Other(other.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
pub(super) fn other(error: impl ToString) -> CallError {
    CallError::Other(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::http::limits::Limits;
    use crate::http::server::{Bound, ServerMetrics};
    use crate::pki::{CertificateAuthority, LEAF_LIFETIME, PemPair};
    use crate::shutdown;
    use axum::Router;
    use axum::routing::post;
    use prometheus::{IntCounter, IntGauge};
    use rustls::ServerConfig;
    use std::time::SystemTime;
    use tokio::net::TcpListener;

    const NAME: &str = "pullpass-webhook.pullpass.svc";

    fn authority() -> CertificateAuthority {
        CertificateAuthority::generate(SystemTime::now()).unwrap()
    }

    fn issue(ca: &CertificateAuthority, name: &str) -> PemPair {
        ca.issue(&[name], SystemTime::now(), LEAF_LIFETIME).unwrap()
    }

    /// A socket of the loopback that TLS clients find this certificate at.
    pub(crate) async fn bound(leaf: &PemPair) -> Bound {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                pki::parse_chain(leaf.certificates.as_bytes()).unwrap(),
                pki::parse_key(leaf.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = Bound::bind(any_port, Some(Arc::new(tls)), Limits::default()).await;
        bound.unwrap()
    }

    /// Serves `POST /mutate` with this certificate, asks it with `bundle`, and gives what came of it.
    async fn asked(leaf: &PemPair, bundle: &str) -> Result<u16, CallError> {
        let bound = bound(leaf).await;
        let address = bound.local_addr();
        let metrics = ServerMetrics {
            connections: IntGauge::new("connections", "Open").unwrap(),
            panics: IntCounter::new("panics", "Caught").unwrap(),
        };
        let (_stopper, stop) = shutdown::channel();
        let router = Router::new().route("/mutate", post("never asked"));
        tokio::select! {
            () = bound.serve(router, metrics, stop) => panic!("the server ended"),
            outcome = call(address, NAME, "/mutate", bundle.as_bytes()) => outcome,
        }
    }

    #[tokio::test]
    async fn any_answer_of_a_trusted_server_is_an_answer() {
        let ca = authority();
        let status = asked(&issue(&ca, NAME), ca.certificate_pem()).await;
        assert_eq!(status, Ok(405));
    }

    #[tokio::test]
    async fn an_authority_outside_the_bundle_is_named_as_such() {
        let (ca, other) = (authority(), authority());
        let outcome = asked(&issue(&ca, NAME), other.certificate_pem()).await;
        assert_eq!(outcome, Err(CallError::UnknownAuthority));
        let both = format!("{}{}", other.certificate_pem(), ca.certificate_pem());
        assert_eq!(asked(&issue(&ca, NAME), &both).await, Ok(405));
    }

    #[tokio::test]
    async fn a_certificate_of_another_name_is_named_as_such() {
        let ca = authority();
        let outcome = asked(&issue(&ca, "other.svc"), ca.certificate_pem()).await;
        let Err(CallError::WrongName {
            expected,
            presented,
        }) = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!(expected, NAME);
        assert!(presented.contains("other.svc"), "{presented}");
    }

    #[tokio::test]
    async fn a_certificate_outside_its_life_is_named_as_such() {
        let ca = authority();
        let leaf = |at| ca.issue(&[NAME], at, LEAF_LIFETIME).unwrap();
        let past = SystemTime::now() - 2 * LEAF_LIFETIME;
        let outcome = asked(&leaf(past), ca.certificate_pem()).await;
        assert_eq!(outcome, Err(CallError::Expired));
        let future = SystemTime::now() + LEAF_LIFETIME;
        let outcome = asked(&leaf(future), ca.certificate_pem()).await;
        assert_eq!(outcome, Err(CallError::NotYetValid));
    }

    #[tokio::test]
    async fn a_port_without_a_listener_refuses() {
        let ca = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let outcome = call(address, NAME, "/", ca.certificate_pem().as_bytes()).await;
        assert_eq!(outcome, Err(CallError::Refused));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let ca = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outcome = call(address, NAME, "/", ca.certificate_pem().as_bytes()).await;
        assert_eq!(outcome, Err(CallError::TimedOut));
    }

    #[tokio::test]
    async fn what_is_no_tls_or_no_bundle_is_said() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let outcome = call(address, NAME, "/", b"Cg==").await;
        assert_eq!(outcome, Err(CallError::Bundle(PkiError::NoCertificate)));

        let ca = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
                .await
                .unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = plain => {}
            outcome = call(address, NAME, "/", ca.certificate_pem().as_bytes()) => {
                assert!(matches!(outcome, Err(CallError::Other(_))), "{outcome:?}");
            }
        }
    }
}

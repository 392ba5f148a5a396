//! A client of the API server for looking and polling, where starting kubectl would cost more than
//! the answer. It speaks HTTP/1.0, so that every answer ends with its connection.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::load::Question;
use super::namespace::pull_secrets_of;
use super::pki::{Pair, Pki};

/// Longer than the API server's own limit of 60 s for one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(70);

/// One user's way to the API server.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// What the API server said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body; `null` if it was not JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a successful answer.
    ///
    /// # Errors
    /// Status and message of any other.
    pub(crate) fn ok(self) -> Result<Value, String> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let message = self.body["message"].as_str().unwrap_or("no message");
        Err(format!("{}: {message}", self.status))
    }
}

impl Api {
    /// A client that shows the certificate `user`.
    pub(crate) fn new(address: SocketAddr, pki: &Pki, user: &Pair) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(pki.ca_file()).expect("we wrote it");
        roots.add(authority).expect("we made it");
        let certificate = CertificateDer::from_pem_file(&user.certificate).expect("we wrote it");
        let key = PrivateKeyDer::from_pem_file(&user.key).expect("we wrote it");
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .expect("the key fits its certificate");
        Self {
            address,
            tls: Arc::new(tls),
        }
    }

    /// The question whether a Pod is injected when it is created in `namespace`; nothing is kept of it.
    pub(crate) fn ask_for_pod(&self, namespace: &str, pod: &Value) -> Question {
        Question {
            address: self.address,
            tls: Arc::clone(&self.tls),
            name: ServerName::IpAddress(self.address.ip().into()),
            path: format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"),
            body: pod.to_string().into(),
            is_mutated: |pod| !pull_secrets_of(pod).is_empty(),
        }
    }

    /// The same client for another server of the cluster's authority.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            tls: Arc::clone(&self.tls),
        }
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// What the API server or the network said.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        self.request("GET", path, "application/json", None)?.ok()
    }

    /// Creates `object` in the collection `path`.
    ///
    /// # Errors
    /// What the API server or the network said.
    pub(crate) fn post(&self, path: &str, object: &Value) -> Result<Value, String> {
        self.request("POST", path, "application/json", Some(object))?
            .ok()
    }

    /// One request and its whole answer.
    ///
    /// # Errors
    /// If there was no answer.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.0\r\nAccept: application/json\r\n");
        let _ = write!(
            head,
            "Host: {}\r\nContent-Type: {content_type}\r\n",
            self.address
        );
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        let bytes = self
            .exchange(&[head.as_bytes(), body.as_bytes()].concat())
            .map_err(|error| format!("no answer from the API server: {error}"))?;
        Ok(parse_answer(&bytes))
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connection =
            ClientConnection::new(Arc::clone(&self.tls), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn parse_answer(bytes: &[u8]) -> Answer {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = serde_json::from_slice(bytes.get(end + 4..).unwrap_or_default());
    Answer {
        status,
        body: body.unwrap_or(Value::Null),
    }
}

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

/// A connection after its handshake began.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

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

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// What the API server or the network said.
    pub(crate) fn merge(&self, path: &str, patch: &Value) -> Result<Value, String> {
        let kind = "application/merge-patch+json";
        self.request("PATCH", path, kind, Some(patch))?.ok()
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// What the API server or the network said.
    pub(crate) fn delete(&self, path: &str) -> Result<Value, String> {
        self.request("DELETE", path, "application/json", None)?.ok()
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

    /// What a path that is no JSON says.
    ///
    /// # Errors
    /// What the network said.
    pub(crate) fn text(&self, path: &str) -> Result<String, String> {
        let bytes = self.exchange(self.get_request(path).as_bytes());
        let bytes = bytes.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Asks for `path`, whose answer does not end; the socket can end it.
    ///
    /// # Errors
    /// If there is no connection.
    pub(crate) fn watch(&self, path: &str) -> std::io::Result<(Stream, TcpStream)> {
        let mut stream = self.connect()?;
        let socket = stream.sock.try_clone()?;
        socket.set_read_timeout(None)?;
        stream.write_all(self.get_request(path).as_bytes())?;
        Ok((stream, socket))
    }

    fn get_request(&self, path: &str) -> String {
        let host = self.address;
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn connect(&self) -> std::io::Result<Stream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connection =
            ClientConnection::new(Arc::clone(&self.tls), name).map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

/// One connection that is kept between requests.
pub(crate) struct KeptConnection(Stream);

impl KeptConnection {
    /// Connects and does the handshake.
    pub(crate) fn open(api: &Api) -> Self {
        let mut stream = api.connect().expect("the server listens");
        while stream.conn.is_handshaking() {
            let handshake = stream.conn.complete_io(&mut stream.sock);
            handshake.expect("a handshake succeeds");
        }
        Self(stream)
    }

    /// The certificate that the server showed.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        let chain = self
            .0
            .conn
            .peer_certificates()
            .expect("after the handshake");
        chain[0].clone().into_owned()
    }

    /// Posts `object`, reads the whole answer, and gives its status.
    pub(crate) fn post(&mut self, path: &str, object: &Value) -> u16 {
        let body = object.to_string();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: kept\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.0
            .write_all(request.as_bytes())
            .expect("the connection is open");
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut part = [0; 4096];
            let read = self.0.read(&mut part).expect("the connection is open");
            assert!(read > 0, "the connection was closed");
            answer.extend_from_slice(&part[..read]);
        }
        parse_answer(&answer).status
    }
}

/// Whether a body of the length that the head says is there.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length
        .and_then(|n| n.parse().ok())
        .expect("an answer has a length");
    body.len() >= length
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

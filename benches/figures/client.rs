//! A small HTTPS client that blocks: one keep-alive connection, as an API server holds them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Outcome;

/// Pause before a server that is starting is asked again: a part of what a start takes.
const RETRY: Duration = Duration::from_micros(500);

/// What all connections to one server share.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client that trusts the CA in the file `ca`.
    pub(crate) fn new(address: SocketAddr, ca: &Path) -> Outcome<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every handshake is a whole one.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            address,
            config: Arc::new(config),
        })
    }

    /// Posts `body` until it is answered: at first the server does not listen yet, then it has no
    /// rules. `alive` is asked in between.
    pub(crate) fn first_answer(
        &self,
        body: &[u8],
        mut alive: impl FnMut() -> Outcome<()>,
    ) -> Outcome<Connection> {
        loop {
            if let Ok(mut connection) = self.connect()
                && connection.post(body).is_ok()
            {
                return Ok(connection);
            }
            alive()?;
            std::thread::sleep(RETRY);
        }
    }

    pub(crate) fn connect(&self) -> Outcome<Connection> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let mut tls = ClientConnection::new(Arc::clone(&self.config), name)?;
        // A whole request leaves in one write, so that the server reads it the same way every time.
        tls.set_buffer_limit(None);
        Ok(Connection {
            stream: StreamOwned::new(tls, socket),
            answer: Vec::new(),
        })
    }
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    /// Posts a review and reads the answer; its body is given back.
    pub(crate) fn post(&mut self, body: &[u8]) -> Outcome<&[u8]> {
        let mut request = format!(
            "POST /mutate?timeout=10s HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\naccept: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        self.stream.flush()?;
        self.answer.clear();
        let mut chunk = [0; 4096];
        loop {
            if let Some(body) = body_range(&self.answer)? {
                return self.answer.get(body).ok_or_else(|| "cut answer".into());
            }
            let read = self.stream.read(&mut chunk)?;
            let read = chunk.get(..read).unwrap_or_default();
            if read.is_empty() {
                return Err("the connection ended before the answer did".into());
            }
            self.answer.extend_from_slice(read);
        }
    }
}

/// Where in a whole `200 OK` answer its body is; `None` while it is not whole.
fn body_range(answer: &[u8]) -> Outcome<Option<std::ops::Range<usize>>> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default()).to_lowercase();
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(format!("the server answered {status}").into());
    }
    let length: usize = lines
        .find_map(|line| line.strip_prefix("content-length:"))
        .ok_or("no content-length")?
        .trim()
        .parse()?;
    let body = head + 4..head + 4 + length;
    Ok((answer.len() >= body.end).then_some(body))
}

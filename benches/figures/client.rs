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

/// Pause before a server that is starting is asked again: a small part of what a start takes, and long
/// enough that being asked is none.
const RETRY: Duration = Duration::from_millis(1);

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
    /// certificate, then no rules. `alive` is asked in between.
    pub(crate) fn first_answer(
        &self,
        body: &[u8],
        mut alive: impl FnMut() -> Outcome<()>,
    ) -> Outcome<Connection> {
        let mut pause = || {
            std::thread::sleep(RETRY);
            alive()
        };
        loop {
            // One handshake, not hundreds: they would slow down what is waited for.
            if let Ok(mut connection) = self.connect() {
                while let Ok(is_answered) = connection.exchange(body) {
                    if is_answered {
                        return Ok(connection);
                    }
                    pause()?;
                }
            }
            pause()?;
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
    /// Posts a review, and reads the answer, which must be one.
    pub(crate) fn post(&mut self, body: &[u8]) -> Outcome<()> {
        if self.exchange(body)? {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&self.answer);
        Err(format!("the server answered: {answer}").into())
    }

    /// Posts a review and reads the answer to its end; whether it is `200 OK`.
    fn exchange(&mut self, body: &[u8]) -> Outcome<bool> {
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
        while !is_whole(&self.answer)? {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err("the connection ended before the answer did".into());
            }
            self.answer.extend(chunk.iter().take(read));
        }
        Ok(self.answer.starts_with(b"HTTP/1.1 200 "))
    }
}

/// Whether an answer has come to its end.
fn is_whole(answer: &[u8]) -> Outcome<bool> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(answer.split_at(head).0).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.ok_or("no content-length")?.trim().parse()?;
    Ok(answer.len() >= head + 4 + length)
}

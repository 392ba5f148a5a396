//! A registry in a bad mood: a proxy that lets named users through to a real registry and answers
//! those who come without a name with 429, 401, 403 or 404.
//!
//! Registries know their callers by tokens; one without a subject was given to nobody in particular.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::serve::{Relayed, Server, serve_connections};

/// A running proxy.
#[derive(Debug)]
pub(crate) struct MoodProxy {
    server: Server,
}

impl MoodProxy {
    /// Starts a proxy to the registry at `upstream` that answers anonymous pulls with `status`.
    pub(crate) fn start(upstream: SocketAddr, status: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let handle = move |stream| async move {
            // A client that breaks off is its own affair.
            drop(relay(stream, upstream, status).await);
        };
        Self {
            server: serve_connections(listener, handle),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }
}

/// Handles the one request of a connection: each answer closes it.
async fn relay(mut client: TcpStream, upstream: SocketAddr, status: u16) -> std::io::Result<()> {
    let Some(request) = Relayed::read(&mut client).await? else {
        return Ok(());
    };
    if is_anonymous(&request.head) {
        let reason = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let answer = format!(
            "HTTP/1.1 {status} {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            reason.unwrap_or_default()
        );
        return client.write_all(answer.as_bytes()).await;
    }
    let mut registry = TcpStream::connect(upstream).await?;
    request.forward(&mut client, &mut registry).await
}

/// Whether the request carries a token that was given to nobody in particular. One without any token
/// goes through: the registry then says where tokens are to be had.
fn is_anonymous(head: &str) -> bool {
    let token = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization")
            .then(|| value.strip_prefix("Bearer "))?
    });
    let Some(claims) = token.and_then(|token| token.split('.').nth(1)) else {
        return false;
    };
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["sub"].as_str().is_none_or(str::is_empty)
}

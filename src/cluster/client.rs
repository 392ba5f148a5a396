//! Clients of the API server in which no call can hang.
//!
//! kube sets no deadline on the head of an answer, and a half-open connection never ends by itself:
//! an API server that is frozen, or a node that vanished, would hold a call for ever.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

use crate::metrics::Freshness;

/// Longest wait for a connection to the API server.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the head of an answer, connecting included.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// Longest silence inside an answer. A watch ends after [`super::watch::WATCH_SECONDS`] at the latest,
/// so a connection that is silent for longer is dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How to reach the API server: in a Pod by its ServiceAccount, elsewhere by the kubeconfig.
#[derive(Debug, Clone)]
pub struct Connection(Config);

/// Why no client could be made. Never holds a token or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Neither a ServiceAccount nor a usable kubeconfig.
    #[error(
        "no way to the API server; run in a Pod, or give a kubeconfig by KUBECONFIG or ~/.kube/config: {0}"
    )]
    Infer(#[from] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("the API server's address or credentials cannot be used: {0}")]
    Client(#[from] kube::Error),
}

impl Connection {
    /// The kubeconfig if there is one, else the Pod's ServiceAccount.
    ///
    /// # Errors
    /// [`ConnectError::Infer`] if there is neither.
    pub async fn infer() -> Result<Self, ConnectError> {
        let mut config = Config::infer().await?;
        config.connect_timeout = Some(CONNECT_MAX);
        config.write_timeout = Some(CALL_MAX);
        config.read_timeout = Some(SILENCE_MAX);
        // Or the rest of a pooled connection would count as its next answer's silence.
        config.reset_reader_on_write = true;
        // Who asks repeats: a retry inside a call would only eat its deadline.
        config.default_retry = false;
        Ok(Self(config))
    }

    /// The namespace of the ServiceAccount, or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        &self.0.default_namespace
    }

    /// A client for single calls.
    ///
    /// # Errors
    /// [`ConnectError::Client`] if address or credentials cannot be used.
    pub fn client(&self) -> Result<Client, ConnectError> {
        self.client_within(CALL_MAX)
    }

    /// A client whose calls end within `call_max`, for who has to know earlier.
    ///
    /// # Errors
    /// [`ConnectError::Client`] if address or credentials cannot be used.
    pub fn client_within(&self, call_max: Duration) -> Result<Client, ConnectError> {
        let builder = ClientBuilder::try_from(self.0.clone())?;
        Ok(builder.with_layer(&TimeoutLayer::new(call_max)).build())
    }

    /// A client for one watch. Each answer of the API server proves that the watch is alive, also when
    /// nothing changed; `freshness` is told.
    ///
    /// # Errors
    /// [`ConnectError::Client`] if address or credentials cannot be used.
    pub fn watcher(&self, freshness: Freshness) -> Result<Client, ConnectError> {
        let builder = ClientBuilder::try_from(self.0.clone())?;
        let layer = ServiceBuilder::new()
            .map_response(move |response: http::Response<_>| {
                if response.status().is_success() {
                    freshness.touch();
                }
                response
            })
            .layer(TimeoutLayer::new(CALL_MAX))
            .into_inner();
        Ok(builder.with_layer(&layer).build())
    }
}

//! When this controller is ready: its bundle is in the configuration, and the webhook answers a call
//! that is verified against it. So `helm install --wait` returns when injection works.
//!
//! Each condition, once met, stays met: an outage of the webhooks must not take the controllers out of
//! service as well. This module writes nothing.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::time::sleep;

use super::pauses;
use super::stored::Stored;
use crate::cluster::watch::BACKOFF_MIN;
use crate::http::client;
use crate::http::probes::Condition;

/// Where API servers find the webhook's Service. The chart says the same.
const SERVICE_PORT: u16 = 443;
/// What is asked. Any answer will do: `GET` is refused there with 405.
const PATH: &str = "/mutate";

/// Asks until both conditions are met.
pub(super) struct Health {
    pub(super) stored: Stored,
    pub(super) caller: Caller,
    pub(super) configuration: Condition,
    pub(super) webhook: Condition,
}

/// Calls the webhook as an API server does.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) services: Api<Service>,
    pub(super) namespace: String,
    pub(super) service: String,
}

impl Health {
    /// Ends when both conditions are met.
    pub(super) async fn earn(mut self) {
        let mut pause = pauses();
        let mut bundle = Vec::new();
        let mut reason = String::new();
        loop {
            let problem = match self.ask(&mut bundle).await {
                Ok(()) => break,
                Err(problem) => problem,
            };
            if problem != reason {
                tracing::info!(reason = problem, "not ready yet");
                reason = problem;
            }
            // A change is worth a look before the pause is over, but a storm of them is not.
            sleep(BACKOFF_MIN).await;
            tokio::select! {
                () = self.stored.changed() => {}
                () = sleep(pause.next().unwrap_or_default()) => {}
            }
        }
        tracing::info!("ready: the webhook answers, verified against the configuration's bundle");
    }

    async fn ask(&mut self, bundle: &mut Vec<u8>) -> Result<(), String> {
        match self.stored.bundle_in_service() {
            Ok(found) => {
                self.configuration.met();
                *bundle = found;
            }
            Err(problem) if bundle.is_empty() => {
                self.configuration.unmet(&*problem);
                return Err(problem);
            }
            // Met before: it may be another by now, and is asked for again in a moment.
            Err(_) => {}
        }
        let answered = self.caller.call(bundle).await;
        match &answered {
            Ok(()) => self.webhook.met(),
            Err(problem) => self.webhook.unmet(&**problem),
        }
        answered
    }
}

impl Caller {
    /// One call to the Service's own address, which needs no name server; verified against `bundle`, PEM.
    ///
    /// # Errors
    /// Why nobody answered.
    pub(super) async fn call(&self, bundle: &[u8]) -> Result<(), String> {
        let Self {
            service, namespace, ..
        } = self;
        let found = self.services.get(service).await;
        let found = found.map_err(|error| format!("cannot read Service {service}: {error}"))?;
        let address = found.spec.and_then(|spec| spec.cluster_ip);
        let address = address.and_then(|text| text.parse::<IpAddr>().ok());
        let ip = address.ok_or_else(|| format!("Service {service} has no cluster IP"))?;
        let name = format!("{service}.{namespace}.svc");
        let address = SocketAddr::new(ip, SERVICE_PORT);
        match client::call(address, &name, PATH, bundle).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{name} at {address}: {error}")),
        }
    }
}

//! The plain port: `/livez`, `/readyz` and `/metrics`.
//!
//! Readiness is earned: it is a list of named conditions, each unmet until its owner says otherwise.
//! It must not depend on the API server being reachable, or an outage there would take every replica
//! out of service together.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;
use crate::shutdown::Stop;

/// The conditions of being ready. Clones share them.
#[derive(Debug, Clone)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
    stop: Stop,
}

/// Each condition's name, and why it is not met.
type Conditions = Vec<(&'static str, Result<(), String>)>;

/// One condition, for its owner.
#[derive(Debug)]
pub struct Condition {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// No conditions yet; never ready again once `stop` drains.
    pub fn new(stop: Stop) -> Self {
        Self {
            conditions: Arc::default(),
            stop,
        }
    }

    /// Adds a condition, unmet because of `reason`.
    pub fn condition(&self, name: &'static str, reason: &str) -> Condition {
        self.lock().push((name, Err(reason.to_owned())));
        Condition {
            readiness: self.clone(),
            name,
        }
    }

    /// Whether every condition is met, and the list of them for people.
    pub fn report(&self) -> (bool, String) {
        let mut text = String::new();
        let mut ready = !self.stop.is_draining();
        if !ready {
            text.push_str("[-] shutting down\n");
        }
        for (name, state) in self.lock().iter() {
            ready &= state.is_ok();
            match state {
                Ok(()) => writeln!(text, "[+] {name}"),
                Err(reason) => writeln!(text, "[-] {name}: {reason}"),
            }
            .ok();
        }
        text.push_str(if ready { "ready\n" } else { "not ready\n" });
        (ready, text)
    }

    /// Every critical section only moves values, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Conditions> {
        let locked = self.conditions.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// The condition is met.
    pub fn met(&self) {
        self.set(Ok(()));
    }

    /// The condition is not met, because of `reason`.
    pub fn unmet(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        let mut conditions = self.readiness.lock();
        let own = conditions.iter_mut().find(|(name, _)| *name == self.name);
        if let Some((_, current)) = own {
            *current = state;
        }
    }
}

/// The routes of the plain port.
pub fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get("ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(print).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.report() {
        (true, text) => (StatusCode::OK, text),
        (false, text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

async fn print(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, Metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown;

    #[test]
    fn ready_when_every_condition_is_met() {
        let (_stopper, stop) = shutdown::channel();
        let readiness = Readiness::new(stop);
        let rules = readiness.condition("rules", "not loaded yet");
        let certificate = readiness.condition("certificate", "not loaded yet");
        rules.met();
        certificate.unmet("tls.crt: there is no certificate");
        let expected = "[+] rules\n[-] certificate: tls.crt: there is no certificate\nnot ready\n";
        assert_eq!(readiness.report(), (false, expected.to_owned()));
        certificate.met();
        let expected = "[+] rules\n[+] certificate\nready\n";
        assert_eq!(readiness.report(), (true, expected.to_owned()));
    }

    #[test]
    fn incident_05_not_ready_from_the_first_signal_on() {
        let (stopper, stop) = shutdown::channel();
        let readiness = Readiness::new(stop);
        assert!(readiness.report().0);
        stopper.drain();
        let expected = "[-] shutting down\nnot ready\n";
        assert_eq!(readiness.report(), (false, expected.to_owned()));
    }
}

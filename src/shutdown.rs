//! Two signals: the first drains, the second ends at once.
//!
//! [`Stop`] is what servers listen to, [`Stopper`] what ends them; tests hold a `Stopper`, the program
//! relays SIGTERM and SIGINT to one. This module must not know what is being stopped.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Run,
    Drain,
    Now,
}

/// Ends what listens to the matching [`Stop`]s.
#[derive(Debug)]
#[must_use = "dropping it counts as `now()`: keep it as long as the server should live"]
pub struct Stopper(watch::Sender<Phase>);

/// Learns that the process should end. Clones learn the same.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Phase>);

/// A connected pair.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Phase::Run);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// First signal: stop being ready, finish what is under way.
    pub fn drain(&self) {
        self.raise(Phase::Drain);
    }

    /// Second signal: end at once.
    pub fn now(&self) {
        self.raise(Phase::Now);
    }

    /// Phases only go up: a late `drain()` does not take back a `now()`.
    fn raise(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let raised = phase > *current;
            *current = phase.max(*current);
            raised
        });
    }
}

impl Stop {
    /// Whether the first signal came.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Drain || self.0.has_changed().is_err()
    }

    /// Completes at the first signal.
    pub async fn drain(&self) {
        self.reached(Phase::Drain).await;
    }

    /// Completes at the second signal.
    pub async fn now(&self) {
        self.reached(Phase::Now).await;
    }

    async fn reached(&self, phase: Phase) {
        // An error says that the Stopper is gone, which counts as the last phase.
        let mut receiver = self.0.clone();
        receiver.wait_for(|current| *current >= phase).await.ok();
    }
}

/// SIGTERM and SIGINT, caught from the moment this value exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals. Call it before anything slow, so that no signal finds the default action.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Hands signals on: the first as [`Stopper::drain`], every later one as [`Stopper::now`].
    pub async fn relay(mut self, stopper: &Stopper) -> Infallible {
        self.received("draining; a second signal ends at once")
            .await;
        stopper.drain();
        loop {
            self.received("ending at once").await;
            stopper.now();
        }
    }

    async fn received(&mut self, what_now: &str) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "{what_now}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_drains_second_ends() {
        let (stopper, stop) = channel();
        assert!(!stop.is_draining());
        stopper.drain();
        stop.drain().await;
        assert!(stop.is_draining());
        stopper.now();
        stop.now().await;
    }

    #[tokio::test]
    async fn now_includes_drain_and_is_not_taken_back() {
        let (stopper, stop) = channel();
        stopper.now();
        stopper.drain();
        stop.drain().await;
        stop.now().await;
    }

    #[tokio::test]
    async fn a_dropped_stopper_ends_everything() {
        let (stopper, stop) = channel();
        drop(stopper);
        stop.now().await;
        assert!(stop.is_draining());
    }
}

//! Instances are replaced under traffic, and an API server does not notice.
//!
//! The client does what an API server does: it keeps its connections, never repeats a POST, opens new
//! connections only to instances that are ready, and notices a closed connection before it uses it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::JoinSet;

use crate::client::{Connection, Response, post};
use crate::process::{Deployment, Instance, review};

const CONNECTIONS: usize = 25;
const ADMISSIONS: usize = 10_000;
const REPLACEMENTS: usize = 5;
/// Longer than the longest pause of a connection below, so that each is used at least once while its
/// instance drains. In service the drain is 10 s, and a connection of a busy API server rests less.
const DRAIN_SECONDS: u32 = 2;

/// How long connection number n rests between two requests.
fn rest(number: usize) -> Duration {
    Duration::from_millis(5 + 4 * number as u64)
}

/// What the clients share.
struct Cluster {
    ready: Mutex<Vec<SocketAddr>>,
    replaced: AtomicBool,
    admitted: AtomicUsize,
    closed_by_answer: AtomicUsize,
    failures: Mutex<Vec<String>>,
    tls: Arc<ClientConfig>,
}

impl Cluster {
    fn is_done(&self) -> bool {
        self.replaced.load(Ordering::Relaxed) && self.admitted.load(Ordering::Relaxed) >= ADMISSIONS
    }

    fn add(&self, instance: &Instance) {
        self.ready.lock().unwrap().push(instance.address);
    }

    fn remove(&self, instance: &Instance) {
        self.ready
            .lock()
            .unwrap()
            .retain(|address| *address != instance.address);
    }

    async fn dial(&self, number: usize) -> std::io::Result<Connection> {
        let address = {
            let ready = self.ready.lock().unwrap();
            ready[number % ready.len()]
        };
        Connection::tls(address, self.tls.clone()).await
    }

    /// One of the client's connections, replaced by another whenever it ends.
    async fn client(self: Arc<Self>, number: usize) {
        let mut connection = None;
        for request in 0.. {
            if self.is_done() {
                return;
            }
            let uid = format!("{number}-{request}");
            match self.admit(&mut connection, number, &uid).await {
                Ok(()) => self.admitted.fetch_add(1, Ordering::Relaxed),
                Err(failure) => {
                    connection = None;
                    self.failures
                        .lock()
                        .unwrap()
                        .push(format!("{uid}: {failure}"));
                    0
                }
            };
            tokio::time::sleep(rest(number)).await;
        }
    }

    async fn admit(
        &self,
        idle: &mut Option<Connection>,
        number: usize,
        uid: &str,
    ) -> Result<(), String> {
        let open = idle.take().and_then(|mut connection| {
            let has_ended = connection.has_ended();
            (!has_ended).then_some(connection)
        });
        let mut connection = match open {
            Some(open) => open,
            None => self
                .dial(number)
                .await
                .map_err(|error| format!("dial: {error}"))?,
        };
        let sent = connection
            .send(post("/mutate?timeout=5s", &review(uid)))
            .await;
        sent.map_err(|error| format!("send: {error}"))?;
        let answer = connection.receive().await;
        let answer = answer.map_err(|error| format!("receive: {error}"))?;
        let answer = answer.ok_or("the connection ended instead of an answer")?;
        check(&answer, uid)?;
        if answer.says_close() {
            self.closed_by_answer.fetch_add(1, Ordering::Relaxed);
        } else {
            *idle = Some(connection);
        }
        Ok(())
    }
}

fn check(answer: &Response, uid: &str) -> Result<(), String> {
    let is_its_own = answer.text().contains(&format!("\"uid\":\"{uid}\""));
    let is_patched = answer.text().contains("\"patchType\":\"JSONPatch\"");
    if answer.status == 200 && is_its_own && is_patched {
        Ok(())
    } else {
        Err(format!("{}: {}", answer.status, answer.text()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figure_p9_incident_06_ten_thousand_admissions_survive_five_replacements() {
    let deployment = Deployment::new();
    let cluster = Arc::new(Cluster {
        ready: Mutex::default(),
        replaced: AtomicBool::new(false),
        admitted: AtomicUsize::new(0),
        closed_by_answer: AtomicUsize::new(0),
        failures: Mutex::default(),
        tls: Deployment::client(),
    });
    let mut instances = Vec::new();
    for _ in 0..2 {
        let instance = deployment.start(DRAIN_SECONDS).await;
        cluster.add(&instance);
        instances.push(instance);
    }
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        clients.spawn(cluster.clone().client(number));
    }
    for _ in 0..REPLACEMENTS {
        // One more first, then one less, as with maxSurge 1 and maxUnavailable 0.
        let new = deployment.start(DRAIN_SECONDS).await;
        cluster.add(&new);
        instances.push(new);
        let mut old = instances.remove(0);
        old.terminate();
        old.until_not_ready().await;
        cluster.remove(&old);
        assert!(old.ended().await.success());
    }
    cluster.replaced.store(true, Ordering::Relaxed);
    clients.join_all().await;

    let failures = cluster.failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} failed: {failures:#?}",
        failures.len()
    );
    let admitted = cluster.admitted.load(Ordering::Relaxed);
    assert!(admitted >= ADMISSIONS, "{admitted}");
    // Otherwise nothing was replaced under anyone.
    assert!(cluster.closed_by_answer.load(Ordering::Relaxed) >= CONNECTIONS);
}

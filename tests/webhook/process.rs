//! `pullpass webhook` as a process of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use pullpass::pki::LEAF_LIFETIME;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::client::{Connection, get, trusting};
use crate::harness::{CA, rules_text};

/// Files that several instances share: rules that inject `harbor` for `harbor.example.com`, and a
/// certificate for `localhost`.
pub(crate) struct Deployment {
    directory: tempfile::TempDir,
    started: AtomicU32,
}

/// One running process; killed when dropped.
pub(crate) struct Instance {
    child: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
    probes: SocketAddr,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rules = "pullSecrets: [{name: harbor}]\n\
            rules: [{name: harbor, images: [harbor.example.com], pullSecrets: [harbor]}]\n";
        let leaf = CA
            .issue(&["localhost"], SystemTime::now(), LEAF_LIFETIME)
            .unwrap();
        for (name, text) in [
            ("rules.yaml", rules_text(rules)),
            ("tls.crt", leaf.certificates),
            ("tls.key", leaf.key),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self {
            directory,
            started: AtomicU32::new(0),
        }
    }

    pub(crate) fn client() -> Arc<ClientConfig> {
        trusting(CA.certificate_pem())
    }

    /// Starts an instance and waits until it is ready.
    pub(crate) async fn start(&self, drain_seconds: u32) -> Instance {
        self.start_logging(drain_seconds, "info").await
    }

    /// [`Self::start`], with this `--log-level`.
    pub(crate) async fn start_logging(&self, drain_seconds: u32, level: &str) -> Instance {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let path = |name: &str| self.directory.path().join(name);
        let log = path(&format!("{number}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_pullpass"))
            .args(["webhook", "--log-format", "json", "--log-level", level])
            .args(["--addr", "127.0.0.1:0", "--probe-addr", "127.0.0.1:0"])
            .args(["--drain-seconds", &drain_seconds.to_string()])
            .arg("--rules")
            .arg(path("rules.yaml"))
            .arg("--tls-cert")
            .arg(path("tls.crt"))
            .arg("--tls-key")
            .arg(path("tls.key"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (address, probes) = listening(&log).await;
        let instance = Instance {
            child,
            log,
            address,
            probes,
        };
        while !instance.is_ready().await {
            pause().await;
        }
        instance
    }
}

/// The whole lines of a log.
fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The addresses in the log line that says them.
async fn listening(log: &Path) -> (SocketAddr, SocketAddr) {
    loop {
        let text = fs::read_to_string(log).unwrap();
        // A line without its end may not be whole yet.
        let lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        for event in events {
            let address = |field: &str| event[field].as_str().unwrap().parse().unwrap();
            match event["message"].as_str().unwrap() {
                "listening" => return (address("webhook"), address("probes")),
                "cannot serve" => panic!("{event}"),
                _ => {}
            }
        }
        pause().await;
    }
}

/// Between two looks at another process.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

impl Instance {
    pub(crate) async fn connect(&self, client: Arc<ClientConfig>) -> Connection {
        Connection::tls(self.address, client).await.unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> Vec<Value> {
        events(&self.log)
    }

    /// What `/readyz` says; not ready if nobody answers.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(mut connection) = Connection::plain(self.probes).await else {
            return false;
        };
        connection.send(get("/readyz")).await.ok();
        let answer = connection.receive().await.ok().flatten();
        answer.is_some_and(|answer| answer.status == 200)
    }

    pub(crate) async fn until_not_ready(&self) {
        while self.is_ready().await {
            pause().await;
        }
    }

    pub(crate) fn terminate(&self) {
        let id = self
            .child
            .id()
            .expect("the process has not been waited for");
        let mut kill = std::process::Command::new("kill");
        assert!(
            kill.args(["-TERM", &id.to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}

/// A review that the rules of a [`Deployment`] patch.
pub(crate) fn review(uid: &str) -> Vec<u8> {
    let review = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"{uid}",
        "operation":"CREATE","resource":{{"group":"","version":"v1","resource":"pods"}},"namespace":"n",
        "object":{{"metadata":{{"name":"p"}},
        "spec":{{"containers":[{{"name":"c","image":"harbor.example.com/shop/web:1"}}]}}}}}}}}"#
    );
    review.into_bytes()
}

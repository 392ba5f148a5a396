//! The whole webhook in this process, watched through its plain port.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use pullpass::http::limits::Limits;
use pullpass::shutdown::{self, Stopper};
use pullpass::webhook::{CertificateSource, Config, Webhook};
use tokio::task::JoinSet;

use crate::client::{Connection, Response, get, post, trusting};
use crate::harness::{StillClock, rules_text};

struct Running {
    address: SocketAddr,
    probes: SocketAddr,
    stopper: Stopper,
    task: JoinSet<()>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let (stopper, stop) = shutdown::channel();
        let webhook = Webhook::bind(config, stop).await.unwrap();
        let (address, probes) = (webhook.local_addr(), webhook.probe_addr());
        let mut task = JoinSet::new();
        task.spawn(async { webhook.serve().await.unwrap() });
        Self {
            address,
            probes,
            stopper,
            task,
        }
    }

    async fn get(&self, path: &str) -> Response {
        let mut connection = Connection::plain(self.probes).await.unwrap();
        connection.request(get(path)).await
    }

    async fn until_ready(&self) {
        while self.get("/readyz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    }
}

fn rules_file(directory: &Path, text: &str) -> std::path::PathBuf {
    let path = directory.join("rules.yaml");
    fs::write(&path, rules_text(text)).unwrap();
    path
}

const NO_RULES: &str = "pullSecrets: []\nrules: []\n";

#[tokio::test]
async fn a_webhook_becomes_ready_serves_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let mut config = Config::new(rules_file(directory.path(), NO_RULES));
    config.limits.drain = std::time::Duration::ZERO;
    config.certificate = CertificateSource::InMemory {
        names: vec!["pullpass.example".to_owned()],
        ca_out: Some(ca.clone()),
    };
    let mut running = Running::start(config).await;
    running.until_ready().await;
    assert_eq!(running.get("/livez").await.text(), "ok\n");
    let expected = "[+] randomness\n[+] certificate\n[+] rules\n[+] pull secrets\nready\n";
    assert_eq!(running.get("/readyz").await.text(), expected);
    assert_eq!(running.get("/mutate").await.status, 404);

    let client = trusting(&fs::read_to_string(&ca).unwrap());
    let mut connection = Connection::tls(running.address, client).await.unwrap();
    assert_eq!(connection.request(post("/mutate", b"{}")).await.status, 400);
    let metrics = running.get("/metrics").await;
    let media_type = metrics.header("content-type").unwrap();
    assert!(
        media_type.starts_with("text/plain; version=0.0.4"),
        "{media_type}"
    );
    for line in [
        "pullpass_connections 1",
        "pullpass_rules_valid 1",
        "pullpass_rules_generation 1",
        "pullpass_admission_requests_total{outcome=\"refused\",reason=\"not_a_review\"} 1",
        "pullpass_admission_duration_seconds_count 1",
    ] {
        assert!(
            metrics.text().contains(line),
            "{line} is missing from\n{}",
            metrics.text()
        );
    }

    running.stopper.drain();
    running.task.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn bad_rules_at_a_cold_start_leave_it_live_but_not_ready_until_they_are_mended() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::new(rules_file(directory.path(), "pullSecrets: []\nrulez: []\n"));
    let running = Running::start(config).await;
    let report = loop {
        let answer = running.get("/readyz").await;
        assert_eq!(answer.status, 503);
        if answer.text().contains("rulez") {
            break answer;
        }
    };
    assert!(
        report.text().contains("rules.yaml:4:1: "),
        "{}",
        report.text()
    );
    assert_eq!(running.get("/livez").await.status, 200);
    rules_file(directory.path(), NO_RULES);
    running.until_ready().await;
}

#[tokio::test]
async fn a_missing_certificate_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::new(rules_file(directory.path(), NO_RULES));
    let (certificate, key) = (
        directory.path().join("tls.crt"),
        directory.path().join("tls.key"),
    );
    config.certificate = CertificateSource::Files {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let running = Running::start(config).await;
    while !running
        .get("/readyz")
        .await
        .text()
        .contains("tls.crt: No such file")
    {}
    let leaf = crate::harness::CA
        .issue(
            &["localhost"],
            std::time::SystemTime::now(),
            pullpass::pki::LEAF_LIFETIME,
        )
        .unwrap();
    fs::write(certificate, leaf.certificates).unwrap();
    fs::write(key, leaf.key).unwrap();
    running.until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn incident_05_probes_say_not_ready_as_long_as_it_drains() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(Config::new(rules_file(directory.path(), NO_RULES))).await;
    let clock = StillClock::new();
    running.until_ready().await;
    running.stopper.drain();
    let answer = running.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().starts_with("[-] shutting down\n"),
        "{}",
        answer.text()
    );
    assert_eq!(running.get("/livez").await.status, 200);
    drop(clock);
    tokio::time::advance(Limits::default().drain).await;
    running.task.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_which_flag() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::new(rules_file(directory.path(), NO_RULES));
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.probe_address = taken.local_addr().unwrap();
    let (_stopper, stop) = shutdown::channel();
    let error = Webhook::bind(config, stop).await.unwrap_err();
    assert!(error.to_string().contains("--probe-addr"), "{error}");
}

//! `make demo`: the webhook, a real one, on loopback, and what it answers.
//!
//! Starts the binary given as the first argument with `examples/rules.yaml` and the certificate that
//! it makes in memory, sends it the AdmissionReviews of `examples/reviews`, which an API server sent
//! once, prints image → rule → secret and the patched list, and stops it.
#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value that is not there is null"
)]

use std::error::Error;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The rules that the demo runs with.
const RULES: &str = "examples/rules.yaml";
/// The one credential that the demo knows the registry keys of.
const PULL_SECRET: &str = "examples/pull-secrets/harbor.yaml";
/// How long the webhook may take to become ready on a slow machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let pullpass = std::env::args()
        .nth(1)
        .ok_or("usage: demo PATH-OF-PULLPASS")?;
    let directory = tempfile::tempdir()?;
    let ca = directory.path().join("ca.pem");
    let (address, probes) = (free_address()?, free_address()?);
    let mut webhook = Webhook(
        Command::new(&pullpass)
            .args([
                "webhook",
                "--rules",
                "examples/rules.yaml",
                "--log-level",
                "warn",
            ])
            .args(["--pull-secret", "examples/pull-secrets/harbor.yaml"])
            .args([
                "--addr",
                &address.to_string(),
                "--probe-addr",
                &probes.to_string(),
            ])
            .args(["--drain-seconds", "0", "--ca-out"])
            .arg(&ca)
            .stdin(Stdio::null())
            .spawn()?,
    );
    wait_until_ready(&mut webhook, probes).await?;
    say(&format!(
        "the webhook is ready on https://{address}/mutate\n"
    ));

    let mut connection = connect(address, &ca).await?;
    let mut reviews: Vec<_> = std::fs::read_dir("examples/reviews")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    reviews.sort();
    let mut patched = 0;
    for path in reviews {
        let body = std::fs::read(&path)?;
        let review = serde_json::from_slice(&body)?;
        let explanation = explain(&pullpass, &review, directory.path())?;
        let answer = post(&mut connection, body).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        patched += usize::from(show(&name, &review, &explanation, &answer)?);
    }
    webhook.stop()?;
    if patched == 0 {
        return Err("no Pod was patched".into());
    }
    say(&format!(
        "{patched} Pods patched; the webhook has stopped. Next: pullpass mutate --help"
    ));
    Ok(())
}

/// Prints one review and its answer; whether the Pod was patched.
fn show(name: &str, review: &Value, explanation: &Value, answer: &Value) -> Outcome<bool> {
    let pod = &review["request"]["object"];
    let response = &answer["response"];
    if response["uid"] != review["request"]["uid"] || response["allowed"] != true {
        return Err(format!("unexpected answer: {answer}").into());
    }
    say(&format!(
        "{name}: a Pod in namespace {}",
        text(&review["request"]["namespace"])
    ));
    for image in items(&explanation["images"]) {
        let reasons = reasons(explanation, &image["name"]);
        let arrow = if reasons.is_empty() {
            "no rule".to_owned()
        } else {
            reasons.join(", ")
        };
        say(&format!("  {}\n    -> {arrow}", text(&image["image"])));
    }
    let Some(patch) = response["patch"].as_str() else {
        say("  allowed without a patch\n");
        return Ok(false);
    };
    let patch = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, patch)?;
    let mut patched = pod.clone();
    json_patch::patch(
        &mut patched,
        &serde_json::from_slice::<json_patch::Patch>(&patch)?,
    )?;
    say(&format!("  imagePullSecrets before: {}", pull_secrets(pod)));
    say(&format!(
        "  imagePullSecrets after:  {}\n",
        pull_secrets(&patched)
    ));
    Ok(true)
}

/// `rule RULE -> secret SECRET` for each rule that adds a secret because of this image.
fn reasons(explanation: &Value, image: &Value) -> Vec<String> {
    let mut reasons = Vec::new();
    for rule in items(&explanation["rules"]).filter(|rule| rule["outcome"] == "adds") {
        let by_pattern = items(&rule["images"])
            .any(|report| report["name"] == *image && !report["pattern"].is_null());
        for secret in items(&rule["pull_secrets"]).filter(|secret| secret["verdict"] == "added") {
            let by_key = items(&rule["images"]).next().is_none()
                && items(&secret["keys"]).any(|key| key["name"] == *image && !key["key"].is_null());
            if by_pattern || by_key {
                let (rule, secret) = (text(&rule["name"]), text(&secret["secret_name"]));
                reasons.push(format!("rule {rule} -> secret {secret}"));
            }
        }
    }
    reasons
}

/// The names in the Pod's list.
fn pull_secrets(pod: &Value) -> String {
    let names: Vec<_> = items(&pod["spec"]["imagePullSecrets"])
        .map(|entry| text(&entry["name"]))
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What `pullpass explain` says of the Pod in a review.
fn explain(pullpass: &str, review: &Value, directory: &Path) -> Outcome<Value> {
    let pod = directory.join("pod.json");
    std::fs::write(&pod, review["request"]["object"].to_string())?;
    let output = Command::new(pullpass)
        .args([
            "explain",
            "-r",
            RULES,
            "--pull-secret",
            PULL_SECRET,
            "-o",
            "json",
        ])
        .args(["--namespace", text(&review["request"]["namespace"]), "-f"])
        .arg(&pod)
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The child process; killed if the demo fails half-way.
struct Webhook(Child);

impl Webhook {
    /// SIGTERM, as a kubelet would, and the exit code.
    fn stop(&mut self) -> Outcome<()> {
        Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status()?;
        let status = self.0.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the webhook ended with {status}").into())
        }
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn wait_until_ready(webhook: &mut Webhook, probes: SocketAddr) -> Outcome<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        if let Some(status) = webhook.0.try_wait()? {
            return Err(format!("the webhook ended with {status}").into());
        }
        if let Ok(stream) = TcpStream::connect(probes).await {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let request = hyper::Request::get("/readyz").body(Full::<Bytes>::default())?;
            tokio::pin!(connection);
            let answer = tokio::select! {
                answer = sender.send_request(request) => answer,
                _ = &mut connection => continue,
            };
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err("the webhook did not become ready".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(address: SocketAddr, ca: &Path) -> Outcome<Connection> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(address.ip().to_string())?;
    let stream = TcpStream::connect(address).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { connection.await.map_err(Into::into) });
    Ok(Connection {
        sender,
        _tasks: tasks,
    })
}

/// One keep-alive connection, as the API server holds them.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _tasks: tokio::task::JoinSet<Result<(), Box<dyn Error + Send + Sync>>>,
}

async fn post(connection: &mut Connection, body: Vec<u8>) -> Outcome<Value> {
    let request = hyper::Request::post("/mutate?timeout=5s")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let answer = connection.sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("HTTP {status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Prints a line; a reader that has gone away is no reason to fail.
fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

//! A client that asks one question at a steady rate, over kept connections, and looks at every answer.
//!
//! Its pace does not depend on the answers: a slow server gets as many requests as a fast one, as long
//! as a connection is free.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Connections, and so the most requests in flight: 200 a second may take 160 ms each.
const CONNECTIONS: usize = 32;
/// Longer than any server here lets a request take, but the API server while it is frozen.
const ANSWER_LIMIT: Duration = Duration::from_secs(70);
/// Failures that are kept with their text.
const SHOWN_MAX: usize = 5;

/// What is asked, of whom, and which answers are good.
#[derive(Clone)]
pub(crate) struct Question {
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    /// Whom it must show to be, and who asks.
    pub(crate) tls: Arc<ClientConfig>,
    /// The name in its certificate.
    pub(crate) name: ServerName<'static>,
    /// Path and query of the POST.
    pub(crate) path: String,
    /// Its JSON body.
    pub(crate) body: Bytes,
    /// Whether an answer of status 200 or 201 shows an injected Pod.
    pub(crate) is_mutated: fn(&Value) -> bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Answers, good or bad.
    pub(crate) answered: usize,
    /// Requests without an answer, or with one that is neither 200 nor 201.
    pub(crate) failed: usize,
    /// The first of them.
    pub(crate) failures: Vec<String>,
    /// When answers came that show a Pod as it was sent, since the start.
    pub(crate) unmutated: Vec<Duration>,
    /// How long each answer took; those of failures as well.
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Tally {
    /// So many per cent of all answers took no longer.
    fn percentile(&self, per_cent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = sorted.len() * per_cent / 100;
        sorted.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.answered as f64 / self.elapsed.as_secs_f64();
        let ms = |per_cent| self.percentile(per_cent).as_secs_f64() * 1e3;
        write!(
            f,
            "{} asked at {rate:.0}/s, {} failed, {} unmutated, median {:.1} ms, p99 {:.1} ms",
            self.answered,
            self.failed,
            self.unmutated.len(),
            ms(50),
            ms(99),
        )?;
        self.failures
            .iter()
            .try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

/// A running client. Dropping it ends it.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    question: Question,
    start: Instant,
    interval: Duration,
    next: AtomicUsize,
    is_stopped: AtomicBool,
    tally: Mutex<Tally>,
}

impl Load {
    /// Asks `question` that many times a second until it is told to end.
    pub(crate) fn start(question: Question, per_second: u32) -> Self {
        let shared = Arc::new(Shared {
            question,
            start: Instant::now(),
            interval: Duration::from_secs(1) / per_second,
            next: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            tally: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime can be made").block_on(async {
                let mut workers = JoinSet::new();
                for _ in 0..CONNECTIONS {
                    workers.spawn(ask_on_one_connection(Arc::clone(&of_thread)));
                }
                workers.join_all().await;
            });
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// What came of it so far.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = self.shared.lock().clone();
        tally.elapsed = self.shared.start.elapsed();
        tally
    }

    /// Time since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Waits for the requests in flight, and gives what came of all.
    pub(crate) fn finish(mut self) -> Tally {
        self.stop();
        self.tally()
    }

    fn stop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load client does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next request that is due. `None` at the end.
    async fn next(&self) -> Option<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.start + self.interval * u32::try_from(number).ok()?;
        tokio::time::sleep_until(due.into()).await;
        (!self.is_stopped.load(Ordering::Relaxed)).then_some(())
    }

    fn count(&self, took: Duration, outcome: Result<Value, String>) {
        let now = self.start.elapsed();
        let mut tally = self.lock();
        tally.answered += 1;
        tally.latencies.push(took);
        match outcome {
            Ok(answer) if (self.question.is_mutated)(&answer) => {}
            Ok(_) => tally.unmutated.push(now),
            Err(error) => {
                tally.failed += 1;
                if tally.failures.len() < SHOWN_MAX {
                    let at = now.as_secs_f64();
                    tally.failures.push(format!("after {at:.1} s: {error}"));
                }
            }
        }
    }
}

/// Asks once, on a connection of its own.
///
/// # Errors
/// Whatever was no good answer.
pub(crate) fn ask_once(question: &Question) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(ask(question, &mut None))
}

async fn ask_on_one_connection(shared: Arc<Shared>) {
    let mut connection = None;
    while shared.next().await.is_some() {
        let start = Instant::now();
        let asked = tokio::time::timeout(ANSWER_LIMIT, ask(&shared.question, &mut connection));
        let outcome = match asked.await {
            Ok(outcome) => outcome,
            Err(_) => Err("no answer".to_owned()),
        };
        if outcome.is_err() {
            connection = None;
        }
        shared.count(start.elapsed(), outcome);
    }
}

/// A client that trusts these certificates, and offers what an API server offers to a webhook.
pub(crate) fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.expect("a bundle is PEM");
        roots.add(certificate).expect("a bundle holds certificates");
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// What moves its bytes; ended with it.
    _driver: JoinSet<()>,
}

async fn ask(question: &Question, connection: &mut Option<Connection>) -> Result<Value, String> {
    // A connection that the server has closed meanwhile is no failure of a request.
    if let Some(kept) = connection
        && kept.sender.ready().await.is_err()
    {
        *connection = None;
    }
    let kept = match connection {
        Some(kept) => kept,
        None => connection.insert(connect(question).await?),
    };
    let request = Request::post(&question.path)
        .header("host", question.name.to_str().as_ref())
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(Full::new(question.body.clone()))
        .map_err(|error| error.to_string())?;
    let text = |error: hyper::Error| format!("{error:?}");
    let answer = kept.sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(text)?.to_bytes();
    if !matches!(status.as_u16(), 200 | 201) {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn connect(question: &Question) -> Result<Connection, String> {
    let text = |error: std::io::Error| format!("cannot connect: {error}");
    let stream = TcpStream::connect(question.address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let tls = TlsConnector::from(Arc::clone(&question.tls));
    let stream = tls
        .connect(question.name.clone(), stream)
        .await
        .map_err(text)?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    // How it ended, the request says.
    driver.spawn(async { drop(connection.await) });
    Ok(Connection {
        sender,
        _driver: driver,
    })
}

/// Asks `count` times over so many connections, each asking again as soon as it has its answer. Gives the
/// mean time of an answer, as a client with so many at once sees it.
///
/// # Panics
/// If an answer is no good one.
pub(crate) fn mean_answer(question: &Question, connections: usize, count: usize) -> Duration {
    let took = ask_many(question, connections, count, drop);
    took / u32::try_from(count / connections).expect("a small number")
}

/// The same; gives each answer as it comes, and the time of all.
///
/// # Panics
/// If an answer is no good one.
pub(crate) fn ask_many(
    question: &Question,
    connections: usize,
    count: usize,
    on_answer: impl Fn(Value) + Clone + Send + 'static,
) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let each = count / connections;
    runtime.expect("a runtime can be made").block_on(async {
        let mut workers = JoinSet::new();
        let together = Arc::new(tokio::sync::Barrier::new(connections + 1));
        for _ in 0..connections {
            let (question, together) = (question.clone(), Arc::clone(&together));
            let on_answer = on_answer.clone();
            workers.spawn(async move {
                let mut connection = Some(connect(&question).await.expect("the server listens"));
                together.wait().await;
                for _ in 0..each {
                    let answer = ask(&question, &mut connection).await.expect("an answer");
                    assert!((question.is_mutated)(&answer), "{answer}");
                    on_answer(answer);
                }
            });
        }
        together.wait().await;
        let start = Instant::now();
        workers.join_all().await;
        start.elapsed()
    })
}

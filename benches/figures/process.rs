//! P5 and P6: the real program, from its start to its first answer, its memory and its size.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::bodies::{Bodies, RULES};
use super::client::Client;
use super::report::Report;
use super::site::Site;
use super::{Outcome, Scale};

/// The program that ships, except that the bench profile keeps its symbols and shares libc.
const PULLPASS: &str = env!("CARGO_BIN_EXE_pullpass");
/// Path of another one, such as that of the image.
const PROGRAM: &str = "PULLPASS_PROGRAM";
/// What the image sets for it is in here.
const DOCKERFILE: &str = include_str!("../../Dockerfile");

/// Connections that are open at once, as of two and a half API servers.
const CONNECTIONS: usize = 64;
/// Reviews on each of them.
const REVIEWS_PER_CONNECTION: usize = 10;

/// Memory that has not fallen for so long will not fall any more.
const SETTLE: Duration = Duration::from_millis(500);

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(scale: Scale, report: &mut Report) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let site = Site(directory.path());
    site.write_certificate()?;
    for rules in [1_000, 100_000] {
        site.write_rules(rules)?;
        let (mut first_answer_ms, mut cpu_ms) = (Vec::new(), Vec::new());
        for _ in 0..scale.samples {
            let webhook = Webhook::start(&site)?;
            first_answer_ms.push(webhook.first_answer.as_secs_f64() * 1e3);
            cpu_ms.push(webhook.cpu_ms()?);
        }
        report.add_median(&format!("first_tls_answer_ms_{rules}"), first_answer_ms);
        // Of all threads together: tells a slow program from a busy machine.
        report.add_median(&format!("first_tls_answer_cpu_ms_{rules}"), cpu_ms);
        let steady = Webhook::start(&site)?.steady_rss_mib()?;
        report.add(&format!("rss_mib_{rules}"), steady);
    }
    report.add("rss_mib_after_load", rss_after_load(&site)?);
    report.add("binary_mib", stripped_bytes(&site)? as f64 / MIB);
    Ok(())
}

/// The program, serving; killed when dropped.
struct Webhook {
    child: Child,
    client: Client,
    /// From the start of the process.
    first_answer: Duration,
}

impl Webhook {
    /// Starts it and waits for its first answer.
    fn start(site: &Site<'_>) -> Outcome<Self> {
        let (address, probes) = (free_address()?, free_address()?);
        let client = Client::new(address, &site.ca())?;
        let review = Bodies::of_size("2k")?;
        let review = review.iter().next().ok_or("no body")?;
        let started = Instant::now();
        let child = Command::new(program())
            .args(["webhook", "--log-level", "error", "--rules"])
            .arg(site.rules())
            .args([
                "--addr",
                &address.to_string(),
                "--probe-addr",
                &probes.to_string(),
            ])
            .arg("--tls-cert")
            .arg(site.certificate())
            .arg("--tls-key")
            .arg(site.key())
            .envs(image_environment())
            .stdin(Stdio::null())
            .spawn()?;
        let mut webhook = Self {
            child,
            client: client.clone(),
            first_answer: Duration::ZERO,
        };
        let child = &mut webhook.child;
        client.first_answer(review, || match child.try_wait()? {
            Some(status) => Err(format!("the webhook ended with {status}").into()),
            None => Ok(()),
        })?;
        webhook.first_answer = started.elapsed();
        Ok(webhook)
    }

    /// Time that all threads were running, as the scheduler counts it.
    fn cpu_ms(&self) -> Outcome<f64> {
        let mut total_ns = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let running_ns = text.split(' ').next().unwrap_or_default();
            total_ns += running_ns.parse::<f64>()?;
        }
        Ok(total_ns / 1e6)
    }

    /// Once it no longer falls: what the rules were read from is given back after the first answer.
    fn steady_rss_mib(&self) -> Outcome<f64> {
        let mut rss_mib = self.rss_mib()?;
        loop {
            std::thread::sleep(SETTLE);
            let before = std::mem::replace(&mut rss_mib, self.rss_mib()?);
            if rss_mib >= before {
                return Ok(rss_mib);
            }
        }
    }

    fn rss_mib(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .ok_or("no VmRSS in /proc")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn program() -> OsString {
    std::env::var_os(PROGRAM).unwrap_or_else(|| PULLPASS.into())
}

/// Names and values, from the last stage.
fn image_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, stage) = DOCKERFILE.rsplit_once("\nFROM ").unwrap_or_default();
    let variables = stage.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = variables.filter_map(|variable| variable.split_once('='));
    pairs.map(|(name, value)| (name, value.trim_matches('"')))
}

fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Memory after all connections posted their largest reviews at the same time, all still open.
fn rss_after_load(site: &Site<'_>) -> Outcome<f64> {
    site.write_rules(RULES)?;
    let bodies = Bodies::of_size("60k")?;
    let webhook = Webhook::start(site)?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(webhook.client.connect()?);
    }
    let together = Barrier::new(CONNECTIONS);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .iter_mut()
            .map(|connection| {
                scope.spawn(|| {
                    together.wait();
                    bodies
                        .cycle(REVIEWS_PER_CONNECTION)
                        .find_map(|body| connection.post(body).err().map(|e| e.to_string()))
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Some("panicked".to_owned()))
            })
            .collect()
    });
    match failures.first() {
        Some(failure) => Err(format!("under load: {failure}").into()),
        None => webhook.rss_mib(),
    }
}

/// Size of the program without symbols, as the release profile links it.
fn stripped_bytes(site: &Site<'_>) -> Outcome<u64> {
    let stripped = site.0.join("pullpass");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(program())
        .status()?;
    if !status.success() {
        return Err("strip failed".into());
    }
    Ok(fs::metadata(stripped)?.len())
}

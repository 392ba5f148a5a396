//! Asks registries about credentials, where the rules say so: when, how many at a time, and trusting whom.
//!
//! What to ask and what an answer means is in [`crate::probe`]. It only reads, and only while this process
//! leads: what is under way when that ends is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::next_change;
use super::BURST;
use super::board::Board;
use crate::delivery::{Question, State};
use crate::http::fetch::{fetch, trust};
use crate::http::limits::jittered;
use crate::index::document::ProbeResult;
use crate::probe::{Conversation, Step};
use crate::shutdown::Stop;

/// Most registries that are asked at a time. A conversation takes half a second: this is 480 a minute.
const PROBES_IN_FLIGHT_MAX: usize = 4;
/// Longest time until a registry has said what it says, twice if need be. Below the shortest interval.
const PROBE_MAX: Duration = Duration::from_secs(25);
/// By how many percent an interval varies, so that what began together does not stay so.
const INTERVAL_JITTER_PERCENT: u32 = 10;
/// Pause before a rejection is asked again. One that is a registry's hiccup would take the secret from
/// every Pod until the next question.
const CONFIRM_PAUSE: Duration = Duration::from_secs(2);
/// How long authorities are used before their files are read again.
const AUTHORITIES_AGE: Duration = Duration::from_secs(30);
/// Most bytes of authorities that are read: Debian's directory holds each of its 150 twice, in 1 MiB.
const AUTHORITIES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The one that asks.
pub(super) struct Prober {
    pub(super) board: Arc<Board>,
    pub(super) authorities: Authorities,
}

/// Whom to trust.
pub(super) struct Authorities {
    /// PEM files, and directories of them.
    pub(super) paths: Vec<PathBuf>,
    /// What was read last, and when.
    pub(super) read: Option<(Instant, Trust)>,
}

/// How to verify registries, or why they cannot be.
type Trust = Result<Arc<ClientConfig>, String>;

impl Prober {
    /// Asks until `stop` drains.
    pub(super) async fn run(&mut self, stop: &Stop) {
        let mut changes = self.board.changes();
        let mut schedule = Schedule::default();
        let mut asking = JoinSet::new();
        // What this process heard when it led before is older than what is published.
        self.board.change_if(State::forget_answers);
        while !stop.is_draining() {
            changes.mark_unchanged();
            schedule.take_over(&self.board.state(), Instant::now());
            while asking.len() < PROBES_IN_FLIGHT_MAX
                && let Some((name, question)) = schedule.next(Instant::now())
            {
                let trust = self.authorities.trust().await;
                asking.spawn(async move {
                    let result = ask(&question, trust).await;
                    (name, question, result)
                });
            }
            let is_full = asking.len() >= PROBES_IN_FLIGHT_MAX;
            let due = async {
                match schedule.due().filter(|_| !is_full) {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = stop.drain() => {}
                Some(ended) = asking.join_next() => {
                    if let Ok((name, question, result)) = ended {
                        tracing::debug!(%name, result = result.as_str(), "a registry was asked");
                        self.board.change_if(|state| state.answer(&name, question, result));
                    }
                }
                () = next_change(&mut changes) => sleep(BURST).await,
                () = due => {}
            }
        }
    }
}

/// What is asked next.
#[derive(Default)]
struct Schedule(BTreeMap<Arc<str>, (Question, Instant)>);

impl Schedule {
    /// Asks what is to be asked, and no more; what is new, at once.
    fn take_over(&mut self, state: &State, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        let wanted = state.questions().map(|(name, question)| {
            let slot = before.remove(name).filter(|(same, _)| *same == question);
            (Arc::clone(name), slot.unwrap_or((question, now)))
        });
        self.0 = wanted.collect();
    }

    /// What is due, the longest first; it is due again after its interval.
    fn next(&mut self, now: Instant) -> Option<(Arc<str>, Question)> {
        let due = self.0.iter_mut().min_by_key(|(_, (_, due))| *due);
        let (name, (question, due)) = due.filter(|(_, (_, due))| *due <= now)?;
        let interval = Duration::from_secs(question.probe.interval_seconds.into());
        *due = now + jittered(interval, INTERVAL_JITTER_PERCENT);
        Some((Arc::clone(name), question.clone()))
    }

    /// When something is due.
    fn due(&self) -> Option<Instant> {
        self.0.values().map(|(_, due)| *due).min()
    }
}

/// A rejection is asked for twice.
async fn ask(question: &Question, trust: Trust) -> ProbeResult {
    let tls = match trust {
        Ok(tls) => tls,
        Err(reason) => return ProbeResult::Unknown { reason },
    };
    let twice = async {
        let first = converse(question, &tls).await;
        if !matches!(first, ProbeResult::Rejected { .. }) {
            return first;
        }
        sleep(CONFIRM_PAUSE).await;
        converse(question, &tls).await
    };
    let reason = format!("no answer within {} s", PROBE_MAX.as_secs());
    let answered = timeout(PROBE_MAX, twice).await;
    answered.unwrap_or(ProbeResult::Unknown { reason })
}

async fn converse(question: &Question, tls: &Arc<ClientConfig>) -> ProbeResult {
    let payload = &question.payload;
    let begun = Conversation::begin(&question.probe, &payload.keyring, &payload.bytes);
    let (mut conversation, mut step) = match begun {
        Ok(begun) => begun,
        Err(result) => return result,
    };
    loop {
        let request = match step {
            Step::End(result) => return result,
            Step::Ask(request) => request,
        };
        let host = request.uri().host().unwrap_or_default().to_owned();
        step = match fetch(Arc::clone(tls), request).await {
            Ok(answer) => conversation.next(&answer),
            Err(error) => {
                let reason = format!("{host}: {error}");
                return ProbeResult::Unknown { reason };
            }
        };
    }
}

impl Authorities {
    async fn trust(&mut self) -> Trust {
        if let Some((since, trust)) = &self.read
            && since.elapsed() < AUTHORITIES_AGE
        {
            return trust.clone();
        }
        let paths = self.paths.clone();
        let read = spawn_blocking(move || {
            let pem = read_all(&paths)?;
            trust(&pem).map_err(|error| error.to_string())
        });
        let trust = read.await.unwrap_or_else(|error| Err(error.to_string()));
        self.read = Some((Instant::now(), trust.clone()));
        trust
    }
}

/// What is in these files, and in the files of these directories.
fn read_all(paths: &[PathBuf]) -> Result<Vec<u8>, String> {
    let mut pem = Vec::new();
    for path in paths {
        let said = |error: io::Error| format!("--registry-ca {}: {error}", path.display());
        if !path.is_dir() {
            read(path, &mut pem).map_err(said)?;
            continue;
        }
        let mut files: Vec<PathBuf> = fs::read_dir(path)
            .map_err(said)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        for file in files {
            // A node's directory also has links to what is not there.
            read(&file, &mut pem).ok();
        }
    }
    Ok(pem)
}

fn read(path: &Path, pem: &mut Vec<u8>) -> io::Result<()> {
    let room = AUTHORITIES_BYTES_MAX.saturating_sub(pem.len() as u64);
    File::open(path)?.take(room).read_to_end(pem)?;
    pem.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::state::tests::{set_source, state};

    fn names(schedule: &mut Schedule, now: Instant) -> Vec<Arc<str>> {
        let next = || Some(schedule.next(now)?.0);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn scenario_56_a_new_payload_is_asked_about_at_once_and_others_when_due() {
        let mut state = state("{name: harbor, probe: {repository: r.io/app, interval: 10m}}");
        let mut schedule = Schedule::default();
        let start = Instant::now();
        assert_eq!(schedule.due(), None);
        schedule.take_over(&state, start);
        assert_eq!(names(&mut schedule, start).len(), 1);
        let due = schedule.due().unwrap() - start;
        let tenth = Duration::from_secs(60);
        assert!(due >= 9 * tenth && due <= 11 * tenth, "{due:?}");
        schedule.take_over(&state, start + tenth);
        assert_eq!(names(&mut schedule, start + tenth).len(), 0);
        assert_eq!(names(&mut schedule, start + due).len(), 1);
        let other = br#"{"auths":{"r.io":{"username":"u","password":"other"}}}"#;
        set_source(&mut state, other);
        schedule.take_over(&state, start + due);
        assert_eq!(names(&mut schedule, start + due).len(), 1);
        state.rules = self::state("{name: harbor}").rules;
        schedule.take_over(&state, start + due);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn authorities_are_files_and_what_can_be_read_of_directories() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("b.pem"), "b").unwrap();
        fs::write(at("a.pem"), "a").unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("c.pem")).unwrap();
        let all = [directory.path().to_owned(), at("b.pem")];
        assert_eq!(read_all(&all).unwrap(), b"a\nb\nb\n");
        let error = read_all(&[at("nowhere")]).unwrap_err();
        assert!(error.starts_with("--registry-ca /"), "{error}");
        assert_eq!(read_all(&[]).unwrap(), b"");
    }
}

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

use prometheus::IntCounter;
use rustls::ClientConfig;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::next_change;
use super::BURST;
use super::board::Board;
use crate::delivery::{Question, State};
use crate::http::client::CallError;
use crate::http::fetch::{fetch, trust};
use crate::http::limits::jittered;
use crate::index::document::{ProbeResult, REASON_CHARACTERS_MAX};
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
/// Shortest time between two questions about one pull secret, whatever becomes of its source: six a minute,
/// as an object is written. A source that changes without end would use up the registry's limit, or have
/// the account locked; who puts one right hardly notices ten seconds.
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// How long authorities are used before their files are read again.
const AUTHORITIES_AGE: Duration = Duration::from_secs(30);
/// Most bytes of authorities that are read: Debian's directory holds each of its 150 twice, in 1 MiB.
const AUTHORITIES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The one that asks.
pub(super) struct Prober {
    pub(super) board: Arc<Board>,
    pub(super) authorities: Authorities,
    pub(super) panics: IntCounter,
}

/// How long authorities may take to be read; a few files of a node's disk take milliseconds.
const READ_MAX: Duration = Duration::from_secs(5);

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
                Some(ended) = asking.join_next() => match ended {
                    Ok((name, question, result)) => {
                        tracing::debug!(%name, result = result.as_str(), "a registry was asked");
                        self.board.change_if(|state| state.answer(&name, &question, result));
                    }
                    Err(_) => self.panics.inc(),
                },
                () = next_change(&mut changes) => sleep(BURST).await,
                () = due => {}
            }
        }
    }
}

/// What is asked next.
#[derive(Default)]
struct Schedule {
    /// What is to be asked about each pull secret, and when.
    slots: BTreeMap<Arc<str>, (Question, Instant)>,
    /// When something was last asked about each, as long as that holds the next question back: longer than
    /// its slot, which goes with its source.
    asked: BTreeMap<Arc<str>, Instant>,
}

impl Schedule {
    /// Asks what is to be asked, and no more; what is new, as soon as may be.
    fn take_over(&mut self, state: &State, now: Instant) {
        self.asked.retain(|_, asked| *asked + ASK_PAUSE > now);
        let mut before = std::mem::take(&mut self.slots);
        let wanted = state.questions().map(|(name, question)| {
            let slot = before.remove(name).filter(|(same, _)| *same == question);
            let soon = self.asked.get(name).map_or(now, |asked| *asked + ASK_PAUSE);
            (Arc::clone(name), slot.unwrap_or((question, soon)))
        });
        self.slots = wanted.collect();
    }

    /// What is due, the longest first; it is due again after its interval.
    fn next(&mut self, now: Instant) -> Option<(Arc<str>, Question)> {
        let due = self.slots.iter_mut().min_by_key(|(_, (_, due))| *due);
        let (name, (question, due)) = due.filter(|(_, (_, due))| *due <= now)?;
        let interval = Duration::from_secs(question.probe.interval_seconds.into());
        *due = now + jittered(interval, INTERVAL_JITTER_PERCENT);
        self.asked.insert(Arc::clone(name), now);
        Some((Arc::clone(name), question.clone()))
    }

    /// When something is due.
    fn due(&self) -> Option<Instant> {
        self.slots.values().map(|(_, due)| *due).min()
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
            Err(error) => return unanswered(&host, &error),
        };
    }
}

fn unanswered(host: &str, error: &CallError) -> ProbeResult {
    let reason = match error {
        CallError::UnknownAuthority => {
            format!("{host}: its certificate is signed by an authority that no --registry-ca holds")
        }
        other => format!("{host}: {other}"),
    };
    // A certificate may have hundreds of names.
    let reason = reason.chars().take(REASON_CHARACTERS_MAX).collect();
    ProbeResult::Unknown { reason }
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
        // One that hangs is not waited for, and not begun again with each question.
        let trust = match timeout(READ_MAX, read).await {
            Ok(read) => read.unwrap_or_else(|error| Err(error.to_string())),
            Err(_) => Err(format!(
                "--registry-ca cannot be read within {} s",
                READ_MAX.as_secs()
            )),
        };
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
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::{HeaderMap, StatusCode, Uri, header};
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use prometheus::IntGauge;
    use tokio::time::advance;

    use crate::delivery::state::tests::{set_source, state};
    use crate::http::client::tests::bound;
    use crate::http::server::{Bound, ServerMetrics};
    use crate::pki::{CertificateAuthority, LEAF_LIFETIME};
    use crate::shutdown;

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
        let later = start + due + ASK_PAUSE;
        schedule.take_over(&state, later);
        assert_eq!(names(&mut schedule, later).len(), 1);
        state.rules = self::state("{name: harbor}").rules;
        schedule.take_over(&state, later);
        assert_eq!(schedule.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_56_a_source_that_changes_without_end_is_asked_about_six_times_a_minute() {
        let mut state = state("{name: harbor, probe: {repository: r.io/app}}");
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let mut asked = Vec::new();
        for change in 0..599 {
            let payload =
                format!(r#"{{"auths":{{"r.io":{{"username":"u","password":"{change}"}}}}}}"#);
            // As it is while a source is put back.
            if change % 7 == 0 {
                schedule.take_over(&State::default(), Instant::now());
            }
            set_source(&mut state, payload.as_bytes());
            schedule.take_over(&state, Instant::now());
            for _ in names(&mut schedule, Instant::now()) {
                asked.push(start.elapsed().as_secs());
            }
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(asked, [0, 10, 20, 30, 40, 50]);
        sleep_until(schedule.due().unwrap()).await;
        assert_eq!(start.elapsed().as_secs(), 60);
        let (_, question) = schedule.next(Instant::now()).unwrap();
        let (_, newest) = state.questions().next().unwrap();
        assert!(question == newest, "the newest is asked about");
        advance(ASK_PAUSE).await;
        schedule.take_over(&State::default(), Instant::now());
        assert!(schedule.asked.is_empty(), "nothing is kept for ever");
    }

    /// A registry with a token server, by TLS, for `u` with this password.
    struct Registry {
        bound: Bound,
        authority: CertificateAuthority,
        /// Who asked for what, in order.
        asked: Arc<Mutex<Vec<String>>>,
    }

    /// What a registry says to a request; `None` is a token for whoever has the password.
    type Answer = fn(asked_before: usize, path: &str) -> Option<u16>;

    impl Registry {
        async fn start() -> Self {
            let authority = CertificateAuthority::generate(std::time::SystemTime::now()).unwrap();
            let now = std::time::SystemTime::now();
            let leaf = authority.issue(&["localhost"], now, LEAF_LIFETIME).unwrap();
            Self {
                bound: bound(&leaf).await,
                authority,
                asked: Arc::default(),
            }
        }

        fn router(&self, answer: Answer) -> Router {
            let host = format!("localhost:{}", self.bound.local_addr().port());
            let challenge = format!("Bearer realm=\"https://{host}/token\",service=\"s\"");
            let asked = Arc::clone(&self.asked);
            Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
                let login = headers.get(header::AUTHORIZATION);
                let login = login.map(|value| value.to_str().unwrap().to_owned());
                let path = uri.to_string();
                let mut asked = asked.lock().unwrap();
                let said = answer(asked.len(), &path);
                asked.push(format!("{path} {}", login.clone().unwrap_or_default()));
                let basic = format!("Basic {}", BASE64_STANDARD.encode("u:p"));
                let (status, body) = match said {
                    Some(status) => (status, ""),
                    None if path == "/v2/" => (401, ""),
                    None if path.starts_with("/token?") && login == Some(basic) => {
                        (200, r#"{"token":"t0ken"}"#)
                    }
                    None if path.starts_with("/v2/")
                        && login.as_deref() == Some("Bearer t0ken") =>
                    {
                        (200, "")
                    }
                    None => (401, ""),
                };
                let status = StatusCode::from_u16(status).unwrap();
                let head = [(header::WWW_AUTHENTICATE, challenge.clone())];
                async move { (status, head, body) }
            })
        }

        /// What is found out about the login in the state's source, trusting `pem`.
        async fn probed(self, answer: Answer, pem: &str) -> (ProbeResult, Vec<String>) {
            let port = self.bound.local_addr().port();
            let probe =
                format!("{{name: harbor, probe: {{repository: \"localhost:{port}/app\"}}}}");
            let mut state = state(&probe);
            let payload = format!(r#"{{"auths":{{"localhost:{port}":{{"auth":"dTpw"}}}}}}"#);
            set_source(&mut state, payload.as_bytes());
            let (_, question) = state.questions().next().unwrap();
            let metrics = ServerMetrics {
                connections: IntGauge::new("connections", "Open").unwrap(),
                panics: IntCounter::new("panics", "Caught").unwrap(),
            };
            let (_stopper, stop) = shutdown::channel();
            let router = self.router(answer);
            let trust = trust(pem.as_bytes()).map_err(|error| error.to_string());
            let result = tokio::select! {
                () = self.bound.serve(router, metrics, stop) => panic!("the server ended"),
                result = ask(&question, trust) => result,
            };
            let asked = self.asked.lock().unwrap().clone();
            (result, asked)
        }
    }

    #[tokio::test]
    async fn scenario_56_a_registry_with_a_token_server_and_its_own_authority() {
        let registry = Registry::start().await;
        let authority = registry.authority.certificate_pem().to_owned();
        let (result, asked) = registry.probed(|_, _| None, &authority).await;
        assert_eq!(result, ProbeResult::Accepted, "{asked:?}");
        let expected = [
            "/v2/ ",
            "/token?service=s&scope=repository%3Aapp%3Apull Basic dTpw",
            "/v2/app/manifests/latest Bearer t0ken",
        ];
        assert_eq!(asked, expected);
    }

    #[tokio::test]
    async fn scenario_56_a_rejection_is_asked_for_twice() {
        let refused: Answer = |_, path| path.starts_with("/token?").then_some(401);
        let registry = Registry::start().await;
        let authority = registry.authority.certificate_pem().to_owned();
        let (result, asked) = registry.probed(refused, &authority).await;
        assert!(matches!(result, ProbeResult::Rejected { .. }), "{result:?}");
        assert_eq!(asked.len(), 4);

        let hiccup: Answer = |before, path| {
            let is_first = path.starts_with("/token?") && before < 2;
            is_first.then_some(401)
        };
        let registry = Registry::start().await;
        let authority = registry.authority.certificate_pem().to_owned();
        let (result, _) = registry.probed(hiccup, &authority).await;
        assert_eq!(result, ProbeResult::Accepted);
    }

    #[tokio::test]
    async fn scenario_56_who_is_not_trusted_is_told_nothing() {
        let registry = Registry::start().await;
        let (result, asked) = registry.probed(|_, _| None, "").await;
        let ProbeResult::Unknown { reason } = result else {
            panic!("{result:?}");
        };
        assert!(reason.contains("signed by an authority"), "{reason}");
        assert_eq!(asked, Vec::<String>::new());
    }

    #[tokio::test]
    async fn scenario_56_a_registry_in_trouble_rejects_nothing() {
        let troubles: [Answer; 3] = [
            |_, path| path.starts_with("/v2/app").then_some(503),
            |_, path| path.starts_with("/token?").then_some(429),
            |_, _| Some(302),
        ];
        for trouble in troubles {
            let registry = Registry::start().await;
            let authority = registry.authority.certificate_pem().to_owned();
            let (result, asked) = registry.probed(trouble, &authority).await;
            assert!(
                matches!(result, ProbeResult::Unknown { .. }),
                "{result:?} {asked:?}"
            );
        }
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

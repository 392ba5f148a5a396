//! Sources that are no Secrets, kept up to date: files by reading them, programs by asking them again in time.
//!
//! A file is read in every replica, as Secrets are watched. A program runs only where the controller leads, so
//! that it is called once for all: who stands in for the leader does not know what it would say, and leaves its
//! copies alone. Each source is a task of its own, which no other waits for, but that few programs run at once.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::programs::Answer;
use super::super::{jittered, pauses_between};
use crate::credential::SecretType;
use crate::credential::docker_config::PAYLOAD_BYTES_MAX;
use crate::delivery::{Payload, SourceSecret};
use crate::files::{Reload, WatchedFiles};

/// What ends sooner than this after it was given is taken to hold so long: asked for again at two thirds of it,
/// it is written six times a minute, which is the most that any object is.
const LIFETIME_MIN: Duration = Duration::from_secs(15);
/// What holds longer is asked for again after this nevertheless: whoever took the right to it away is heard of
/// within a day.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// What holds longer than a clock can count is taken to hold a year.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Longest first pause after a failure; doubles.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest pause after failures: what is repaired is seen within a minute.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Why an answer that ended is not used any more, where the program has not failed: it has not ended either.
const NO_ANSWER: &str = "its last answer has ended, and it has not given another in time";

/// A file that is read again and again.
pub(super) struct File<T> {
    file: WatchedFiles,
    tell: T,
}

impl<T: Fn(SourceSecret)> File<T> {
    /// Tells what the file at `path` holds, whenever that is something else.
    pub(super) fn new(path: PathBuf, tell: T) -> Self {
        let file = WatchedFiles::new(vec![path], PAYLOAD_BYTES_MAX);
        Self { file, tell }
    }
}

impl<T: Fn(SourceSecret) + Send + 'static> Reload for File<T> {
    fn reload(&mut self) {
        let content = match self.file.changed() {
            None => return,
            Some(Ok(files)) => {
                let bytes = files.first().map(|(_, bytes)| &**bytes).unwrap_or_default();
                Payload::new(SecretType::DockerConfigJson, bytes).map(Arc::new)
            }
            Some(Err(error)) => Err(error.reason.clone()),
        };
        (self.tell)(SourceSecret::given(content));
    }
}

/// Asks a program for ever, each time before its last answer ends, and tells what it gave. After failures the last
/// answer stays until it ends.
pub(super) async fn follow<A: Future<Output = Result<Answer, String>>>(
    ask: impl Fn() -> A,
    tell: impl Fn(SourceSecret),
) -> Infallible {
    let mut held = Held {
        last: None,
        reason: None,
        tell,
    };
    let mut pauses = pauses_between(RETRY_MIN, RETRY_MAX);
    loop {
        let answer = held.during(ask()).await;
        let pause = match answer {
            Ok(answer) => {
                pauses = pauses_between(RETRY_MIN, RETRY_MAX);
                let lifetime = answer.lifetime.max(LIFETIME_MIN);
                let now = Instant::now();
                let end = now.checked_add(lifetime).unwrap_or(now + FOR_EVER);
                held.renew(answer.payload, end);
                refresh_after(lifetime.min(LIFETIME_MAX))
            }
            Err(reason) => {
                held.fail(reason);
                pauses.next().unwrap_or(RETRY_MAX)
            }
        };
        held.during(sleep(pause)).await;
    }
}

/// Between two thirds and three quarters: sources that were asked at once are not asked at once for ever, and a
/// quarter is left for failures.
fn refresh_after(lifetime: Duration) -> Duration {
    lifetime * 7 / 12 + jittered(lifetime / 12)
}

/// The last good answer of a program, while it holds.
struct Held<T> {
    /// With its end.
    last: Option<(Arc<Payload>, Instant)>,
    /// Why there is none since.
    reason: Option<String>,
    tell: T,
}

impl<T: Fn(SourceSecret)> Held<T> {
    /// Does something, and gives up the last answer meanwhile if it ends.
    async fn during<O>(&mut self, work: impl Future<Output = O>) -> O {
        let mut work = pin!(work);
        if let Some((_, end)) = &self.last {
            tokio::select! {
                done = &mut work => return done,
                () = sleep_until(*end) => {}
            }
            self.last = None;
            let reason = self.reason.clone();
            let reason = reason.unwrap_or_else(|| NO_ANSWER.to_owned());
            (self.tell)(SourceSecret::given(Err(reason)));
        }
        work.await
    }

    fn renew(&mut self, payload: Arc<Payload>, end: Instant) {
        self.last = Some((Arc::clone(&payload), end));
        self.reason = None;
        (self.tell)(SourceSecret::given(Ok(payload)));
    }

    fn fail(&mut self, reason: String) {
        let told = match &self.last {
            Some((payload, _)) => SourceSecret {
                problem: Some(reason.as_str().into()),
                ..SourceSecret::given(Ok(Arc::clone(payload)))
            },
            None => SourceSecret::given(Err(reason.clone())),
        };
        self.reason = Some(reason);
        (self.tell)(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn payload(password: &str) -> Arc<Payload> {
        let text = format!(r#"{{"auths":{{"r.io":{{"username":"u","password":"{password}"}}}}}}"#);
        let payload = Payload::new(SecretType::DockerConfigJson, text.as_bytes());
        Arc::new(payload.unwrap())
    }

    fn answer(password: &str, lifetime: u64) -> Result<Answer, String> {
        Ok(Answer {
            payload: payload(password),
            lifetime: Duration::from_secs(lifetime),
        })
    }

    /// Follows a program for so long, and gives when it was asked and what was told, in seconds.
    async fn follow_for<A: Future<Output = Result<Answer, String>>>(
        seconds: u64,
        ask: impl Fn(usize) -> A,
    ) -> (Vec<u64>, Vec<(u64, String)>) {
        let start = Instant::now();
        let (asked, told) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let count = Cell::new(0);
        let ask = || {
            asked.borrow_mut().push(start.elapsed().as_secs());
            count.set(count.get() + 1);
            ask(count.get())
        };
        let tell = |given: SourceSecret| {
            let text = match (&given.content, &given.problem) {
                (Ok(_), None) => "good".to_owned(),
                (Ok(_), Some(problem)) => format!("late: {problem}"),
                (Err(reason), _) => format!("bad: {reason}"),
            };
            told.borrow_mut().push((start.elapsed().as_secs(), text));
        };
        let end = tokio::time::timeout(Duration::from_secs(seconds), follow(ask, tell));
        assert!(end.await.is_err());
        (asked.into_inner(), told.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_52_it_is_asked_again_before_the_answer_ends() {
        let ask = async |_| answer("p", 1200);
        let (asked, told) = follow_for(12_000, ask).await;
        for pair in asked.windows(2) {
            assert!((800..=900).contains(&(pair[1] - pair[0])), "{asked:?}");
        }
        assert!(told.iter().all(|(_, text)| text == "good"), "{told:?}");
        let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            pauses.iter().any(|pause| *pause != pauses[0]),
            "{pauses:?} have no jitter"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_holds_for_a_month_is_used_for_a_month() {
        let ask = async |count| match count {
            1 => answer("p", 30 * 24 * 3600),
            _ => Err("no".to_owned()),
        };
        let (_, told) = follow_for(31 * 24 * 3600, ask).await;
        let (end, text) = told
            .iter()
            .find(|(_, text)| text.starts_with("bad"))
            .unwrap();
        assert_eq!((*end, text.as_str()), (30 * 24 * 3600, "bad: no"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_holds_for_ever_is_asked_for_once_a_day() {
        let (asked, _) = follow_for(47 * 3600, async |_| answer("p", u64::MAX)).await;
        assert_eq!(asked.len(), 3, "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_to_be_cached_is_no_storm() {
        for lifetime in [0, 1, 14] {
            let (asked, told) = follow_for(600, async |_| answer("p", lifetime)).await;
            assert!((50..=61).contains(&asked.len()), "{asked:?}");
            assert!(told.iter().all(|(_, text)| text == "good"), "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_52_after_failures_the_last_answer_stays_until_it_ends() {
        let ask = async |count| match count {
            1 | 20.. => answer("p", 120),
            _ => Err("it crashed".to_owned()),
        };
        let (asked, told) = follow_for(1200, ask).await;
        assert_eq!(told[0], (0, "good".to_owned()));
        let ended = told
            .iter()
            .position(|(_, text)| text.starts_with("bad"))
            .unwrap();
        assert_eq!(told[ended], (120, "bad: it crashed".to_owned()));
        assert!(
            ended > 1
                && told[1..ended]
                    .iter()
                    .all(|(_, text)| text == "late: it crashed")
        );
        let pauses: Vec<_> = asked[1..20]
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect();
        assert!(
            pauses[0] <= 2 && pauses.iter().all(|pause| *pause <= 60),
            "{pauses:?}"
        );
        assert!(pauses[10..].iter().all(|pause| *pause >= 30), "{pauses:?}");
        assert_eq!(told.last().unwrap().1, "good", "and it comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_52_what_hangs_ends_no_later_than_its_answer() {
        let ask = async |count| match count {
            1 => answer("p", 60),
            _ => std::future::pending().await,
        };
        let (asked, told) = follow_for(600, ask).await;
        assert_eq!(asked.len(), 2);
        let expected = [(0, "good".to_owned()), (60, format!("bad: {NO_ANSWER}"))];
        assert_eq!(told, expected);
    }

    #[test]
    fn scenario_55_a_file_is_followed_through_symlink_swaps() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let swap = |to: &str| {
            std::os::unix::fs::symlink(to, path("..data_tmp")).unwrap();
            std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        let write = |directory: &str, text: &[u8]| {
            std::fs::create_dir(path(directory)).unwrap();
            std::fs::write(path(directory).join("config.json"), text).unwrap();
        };
        write("1", &payload("first").bytes);
        write("2", &payload("second").bytes);
        write("3", b"{}");
        write("4", &vec![b' '; PAYLOAD_BYTES_MAX + 1]);
        swap("1");
        std::os::unix::fs::symlink("..data/config.json", path("config.json")).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        let mut file = File::new(path("config.json"), move |given: SourceSecret| {
            let content = given.content.map(|payload| payload.hash);
            sender
                .send(content.map_err(|reason| reason.to_string()))
                .unwrap();
        });
        let mut next = || {
            file.reload();
            file.reload();
            let content = told.try_recv().unwrap();
            assert!(told.try_recv().is_err(), "once");
            content
        };
        assert_eq!(next(), Ok(payload("first").hash));
        swap("2");
        assert_eq!(next(), Ok(payload("second").hash));
        swap("3");
        assert!(next().unwrap_err().contains("no entry has both"));
        swap("4");
        assert!(next().unwrap_err().contains("larger than"));
        swap("1");
        assert_eq!(next(), Ok(payload("first").hash));
        std::fs::remove_file(path("..data")).unwrap();
        assert!(next().unwrap_err().contains("No such file"));
    }
}

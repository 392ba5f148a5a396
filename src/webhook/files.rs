//! Files that are read again when they change: rules and Secret manifests.
//!
//! Polled and compared byte by byte. A watch on a mounted file dies with the first rotation, because
//! the kubelet swaps a symlink instead of writing; times and inodes lie on some volumes. What cannot be
//! used never replaces what can, and each changed state is logged once. This module must not decide
//! anything about a request.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use prometheus::IntCounter;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::publisher::{Publisher, what_now};
use crate::http::limits::FILE_POLL;
use crate::http::probes::Condition;
use crate::index::SecretManifest;
use crate::manifest::{self, MANIFEST_BYTES_MAX, ManifestError};
use crate::rules::config::FILE_RULES_BYTES_MAX;

/// How much of a file is compared at a time, in bytes: on the stack.
const PIECE_BYTES: usize = 16 * 1024;

/// Something that can be brought up to date, again and again.
pub trait Reload: Send + 'static {
    /// Looks whether anything changed and takes it over. May block, and take a second for large rules.
    fn reload(&mut self);
}

/// Reloads now and then every [`FILE_POLL`], on a thread that may block. A panic is counted, and the
/// next turn comes.
pub async fn poll(mut source: impl Reload, panics: IntCounter) -> Infallible {
    let mut ticks = interval(FILE_POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        source = turn(source, &panics).await;
    }
}

/// Reloads once, on a thread that may block. A panic is counted, and the source comes back.
pub(super) async fn turn<S: Reload>(mut source: S, panics: &IntCounter) -> S {
    let turn = spawn_blocking(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| source.reload()));
        (source, outcome.is_err())
    });
    let Ok((source, panicked)) = turn.await else {
        return std::future::pending().await; // The runtime is shutting down.
    };
    panics.inc_by(panicked.into());
    source
}

/// Some files, and what they held when last asked. `Debug` shows the paths only: they may hold keys.
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    bytes_max: usize,
    last: Option<Contents>,
}

/// Path and bytes of each file in order, or why one could not be read.
pub type Contents = Result<Vec<(String, Vec<u8>)>, FileError>;

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileError {
    /// The file.
    pub path: String,
    /// The operating system's words, or the limit.
    pub reason: String,
}

impl WatchedFiles {
    /// Files of at most `bytes_max` bytes each.
    pub fn new(paths: Vec<PathBuf>, bytes_max: usize) -> Self {
        Self {
            paths,
            bytes_max,
            last: None,
        }
    }

    /// The contents, if they are others than last time.
    pub fn changed(&mut self) -> Option<&Contents> {
        if self.is_as_before() {
            return None;
        }
        let seen = self.read();
        if self.last.as_ref() == Some(&seen) {
            return None; // Nothing new: the same error, for one.
        }
        // Files of one volume are swapped together but read one after the other. Two readings that
        // agree are not torn; otherwise the next turn reads again.
        if self.read() != seen {
            return None;
        }
        self.last = Some(seen);
        self.last.as_ref()
    }

    /// Piece by piece: a copy of large rules every second would be most of the memory there is.
    fn is_as_before(&self) -> bool {
        let Some(Ok(files)) = &self.last else {
            return false;
        };
        let mut files = self.paths.iter().zip(files);
        files.all(|(path, (_, bytes))| holds(path, bytes).unwrap_or(false))
    }

    fn read(&self) -> Contents {
        let read = |path: &PathBuf| {
            let shown = path.display().to_string();
            match read_at_most(path, self.bytes_max) {
                Ok(bytes) => Ok((shown, bytes)),
                Err(error) => Err(FileError {
                    path: shown,
                    reason: error.to_string(),
                }),
            }
        };
        self.paths.iter().map(read).collect()
    }
}

impl fmt::Debug for WatchedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WatchedFiles").field(&self.paths).finish()
    }
}

/// Whether a file holds exactly `expected`.
fn holds(path: &Path, mut expected: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut piece = [0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(expected.is_empty());
        }
        let rest = piece
            .get(..read)
            .and_then(|piece| expected.strip_prefix(piece));
        let Some(rest) = rest else {
            return Ok(false);
        };
        expected = rest;
    }
}

fn read_at_most(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // The length is a hint: a device has none, and a file may grow.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length.min(bytes_max).saturating_add(1));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        let limit = format!("larger than {bytes_max} bytes; split it or remove what is not needed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
    }
    Ok(bytes)
}

/// The rules file and the Secret manifests, published as snapshots.
#[derive(Debug)]
pub struct RulesFiles {
    rules: WatchedFiles,
    manifests: WatchedFiles,
    publisher: Publisher,
    manifests_condition: Condition,
    /// Whether manifests were ever read.
    has_manifests: bool,
}

impl RulesFiles {
    /// Nothing is read before the first [`Reload::reload`]; `condition` is met once the manifests are
    /// read.
    pub fn new(
        rules: PathBuf,
        manifests: Vec<PathBuf>,
        publisher: Publisher,
        condition: Condition,
    ) -> Self {
        Self {
            rules: WatchedFiles::new(vec![rules], FILE_RULES_BYTES_MAX),
            manifests: WatchedFiles::new(manifests, MANIFEST_BYTES_MAX),
            publisher,
            manifests_condition: condition,
            has_manifests: false,
        }
    }

    /// Whether there are new rules to publish.
    fn reload_rules(&mut self) -> bool {
        let read = match self.rules.changed() {
            None => return false,
            Some(Ok(files)) => files.first(),
            Some(Err(error)) => {
                return self
                    .publisher
                    .load_rules(&error.path, Err(error.to_string()));
            }
        };
        let Some((path, bytes)) = read else {
            return false; // There is one.
        };
        let text = str::from_utf8(bytes).map_err(|_| not_utf8(path));
        self.publisher.load_rules(path, text)
    }

    /// Whether there are new manifests to publish.
    fn reload_manifests(&mut self) -> bool {
        let parsed = match self.manifests.changed() {
            None => return false,
            Some(Ok(files)) => read_secrets(files),
            Some(Err(error)) => Err(error.to_string()),
        };
        match parsed {
            Ok(secrets) => {
                self.publisher.assembly.set_manifests(secrets);
                self.has_manifests = true;
                self.manifests_condition.met();
                true
            }
            Err(reason) => {
                let what_now = what_now(self.has_manifests);
                tracing::error!(reason, "pull secrets refused: {what_now}");
                if !self.has_manifests {
                    self.manifests_condition.unmet(reason);
                }
                false
            }
        }
    }
}

impl Reload for RulesFiles {
    fn reload(&mut self) {
        let rules = self.reload_rules();
        let manifests = self.reload_manifests();
        if rules || manifests {
            self.publisher.publish();
        }
    }
}

fn read_secrets(files: &[(String, Vec<u8>)]) -> Result<Vec<SecretManifest>, String> {
    let mut secrets = Vec::new();
    for (path, bytes) in files {
        let text = str::from_utf8(bytes).map_err(|_| not_utf8(path))?;
        for object in manifest::parse(text).map_err(|error| syntax(path, &error))? {
            let secret = SecretManifest::read(&object);
            secrets.push(secret.ok_or_else(|| {
                format!("{path}: an object is no Secret; keep other objects in other files")
            })?);
        }
    }
    Ok(secrets)
}

/// Without the reader's own words, which may quote a password.
fn syntax(path: &str, error: &ManifestError) -> String {
    match error {
        ManifestError::Syntax { line, column, .. } => {
            format!("{path}:{line}:{column}: neither YAML nor JSON")
        }
        other => format!("{path}: {other}"),
    }
}

fn not_utf8(path: &str) -> String {
    format!("{path}: not UTF-8 text; save it as UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    #[test]
    fn a_missing_file_is_said_once_and_its_return_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        fs::write(&path, "1").unwrap();
        let mut files = WatchedFiles::new(vec![path.clone()], 10);
        assert!(files.changed().unwrap().is_ok());
        fs::remove_file(&path).unwrap();
        let error = files.changed().unwrap().clone().unwrap_err();
        assert!(
            error.to_string().contains("rules.yaml: No such file"),
            "{error}"
        );
        assert!(files.changed().is_none());
        fs::write(&path, "1").unwrap();
        assert!(files.changed().unwrap().is_ok());
    }

    #[test]
    fn every_change_of_a_large_file_is_seen_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let mut files = WatchedFiles::new(vec![path.clone()], 4 * PIECE_BYTES);
        let whole = vec![b'a'; 2 * PIECE_BYTES];
        let mut last = whole.clone();
        *last.last_mut().unwrap() = b'b';
        let longer = [&whole[..], b"a"].concat();
        let shorter = &whole[..PIECE_BYTES];
        for bytes in [&whole, &last, &longer, shorter, &[], &whole] {
            fs::write(&path, bytes).unwrap();
            let read = files.changed().unwrap().clone().unwrap();
            assert_eq!(read[0].1, bytes);
            assert!(files.changed().is_none());
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused_with_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "12345678901").unwrap();
        let mut files = WatchedFiles::new(vec![path.clone()], 10);
        let error = files.changed().unwrap().clone().unwrap_err();
        assert!(error.reason.contains("larger than 10 bytes"), "{error}");
        fs::write(&path, "1234567890").unwrap();
        assert!(files.changed().unwrap().is_ok());
        assert!(!format!("{files:?}").contains("49"), "Debug shows contents");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_while_reloading_is_counted_and_the_next_turn_comes() {
        struct FailsOnce {
            turns: u32,
            second: Arc<tokio::sync::Notify>,
        }
        impl Reload for FailsOnce {
            fn reload(&mut self) {
                self.turns += 1;
                assert_ne!(self.turns, 1, "on purpose");
                self.second.notify_one();
            }
        }
        let second = Arc::new(tokio::sync::Notify::new());
        let panics = IntCounter::new("panics", "Panics").unwrap();
        let source = FailsOnce {
            turns: 0,
            second: second.clone(),
        };
        tokio::select! {
            never = poll(source, panics.clone()) => match never {},
            () = second.notified() => {}
        }
        assert_eq!(panics.get(), 1);
    }
}

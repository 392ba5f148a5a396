//! Files that are read again when they change.
//!
//! Polled and compared byte by byte. A watch on a mounted file dies with the first rotation, because
//! the kubelet swaps a symlink instead of writing; times and inodes lie on some volumes. This file must not
//! know what they hold.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// How often files are read. A kubelet needs up to a minute to bring a change, so a second more is
/// nothing, and reading a few files a second costs nothing either.
pub const FILE_POLL: Duration = Duration::from_secs(1);
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
pub async fn turn<S: Reload>(mut source: S, panics: &IntCounter) -> S {
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

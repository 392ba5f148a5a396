//! A wall clock that can be set forward and back under a running program, by libfaketime.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

/// Where Debian puts libraries for one platform.
const LIBRARIES: &str = "/usr/lib";
/// Below its platform's directory.
const LIBRARY: &str = "faketime/libfaketime.so.1";

/// A clock that is off by so much.
pub(crate) struct Clock {
    offset: NamedTempFile,
}

impl Clock {
    /// One that is right.
    pub(crate) fn new() -> Self {
        let clock = Self {
            offset: NamedTempFile::new().expect("a file can be made"),
        };
        clock.set(0);
        clock
    }

    /// Sets it forward, or back, by so many seconds from what is right.
    pub(crate) fn set(&self, seconds: i64) {
        fs::write(&self.offset, format!("{seconds:+}\n")).expect("it can be written");
    }

    /// Lets a program that is not started yet go by it.
    pub(crate) fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.offset.path())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

fn library() -> PathBuf {
    let platforms = fs::read_dir(LIBRARIES).expect("there are libraries");
    let mut paths = platforms.flatten().map(|entry| entry.path().join(LIBRARY));
    paths
        .find(|path| path.exists())
        .expect("libfaketime is installed: make tools")
}

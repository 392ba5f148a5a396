//! A program of the cluster: started with its output in a log file, ended by its own process id.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

/// How much of a log a failure shows, in bytes from its end.
const LOG_TAIL_BYTES: usize = 3_000;

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command` with no standard input and both outputs in `<logs>/<name>.log`.
    pub(crate) fn start(name: &str, command: &mut Command, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", log.display()));
        let errors = output.try_clone().expect("a file handle can be cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            name: name.to_owned(),
            log,
            child: Mutex::new(child),
        }
    }

    /// Sends it a signal, `STOP` for instance.
    ///
    /// # Panics
    /// If it has ended.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.lock().id().to_string();
        super::sandbox::run("kill", &[&format!("-{signal}"), &id]);
    }

    /// Memory of it that the kernel calls `kind`, in MiB: `VmRSS` for all that is resident, `RssAnon` for
    /// what of that is no file.
    pub(crate) fn memory_mib(&self, kind: &str) -> f64 {
        let path = format!("/proc/{}/status", self.lock().id());
        let status = fs::read_to_string(path).expect("it is running");
        let mut lines = status.lines();
        let kib = lines.find_map(|line| {
            line.strip_prefix(kind)?
                .strip_prefix(':')?
                .strip_suffix(" kB")
        });
        let kib: f64 = kib
            .and_then(|kib| kib.trim().parse().ok())
            .expect("the kernel says so");
        kib / 1024.0
    }

    /// What the program has written so far.
    pub(crate) fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Fails with the end of the log if the program is no longer running.
    pub(crate) fn check_running(&self) -> Result<(), String> {
        let Some(status) = self.try_wait() else {
            return Ok(());
        };
        let output = self.output();
        let start = output.len().saturating_sub(LOG_TAIL_BYTES);
        let tail = output
            .get(output.ceil_char_boundary(start)..)
            .unwrap_or_default();
        panic!(
            "{} ended with {status}; the end of {}:\n{tail}",
            self.name,
            self.log.display()
        )
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.lock();
        // It may have ended by itself; then there is nothing to do.
        drop(child.kill());
        drop(child.wait());
    }
}

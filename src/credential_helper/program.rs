//! Runs a program once, without a shell: input in, outputs out, under limits of time, size and memory.
//!
//! What it writes is the caller's to judge. This file must not repeat any of it.

use std::io::{self, ErrorKind};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::HelperError;

/// Most that a program may write to either of its outputs, in bytes: what a Secret holds at most.
pub(super) const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// Most private writable memory of a program that runs beside us, in bytes: its heap, stacks and data. A Go program
/// takes 64 MiB of that for its first page; the providers of the clouds stay below 160 MiB.
pub const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A program, and what it is given.
pub(super) struct Program {
    /// Path, or name on `PATH`.
    pub(super) path: String,
    pub(super) args: Vec<String>,
    /// How long one run may take.
    pub(super) limit: Duration,
    /// Its whole environment, for one that runs beside us; it has a process group of its own then, which ends with it,
    /// and a limit of its memory. `None`: it is as if a person had started it, who may have to type something.
    pub(super) environment: Option<Vec<(String, String)>>,
}

/// How a program ended, and what it wrote.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Program {
    /// Runs it with more arguments.
    pub(super) async fn run(&self, more: &[&str], input: &str) -> Result<Ended, HelperError> {
        let program = || self.path.clone();
        let failed = |error: &io::Error| match error.kind() {
            ErrorKind::NotFound => HelperError::Missing { program: program() },
            ErrorKind::FileTooLarge => HelperError::TooMuch { program: program() },
            error => HelperError::Start {
                program: program(),
                error,
            },
        };
        let (child, _group) = self.start(more).map_err(|error| failed(&error))?;
        match tokio::time::timeout(self.limit, converse(child, input)).await {
            Ok(ended) => ended.map_err(|error| failed(&error)),
            Err(_) => Err(HelperError::TimedOut {
                program: program(),
                limit: self.limit,
            }),
        }
    }

    fn start(&self, more: &[&str]) -> io::Result<(Child, Option<Group>)> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let Some(environment) = &self.environment else {
            return Ok((command.spawn()?, None));
        };
        let variables = environment.iter().map(|(name, value)| (name, value));
        command.env_clear().envs(variables);
        let child = command.current_dir("/").process_group(0).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            return Err(ErrorKind::Other.into());
        };
        let group = Group(id);
        // From the outside, so its first moments are free; it waits for its input then.
        for (resource, most) in [(Resource::Data, MEMORY_BYTES_MAX), (Resource::Core, 0)] {
            let limit = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            prlimit(Some(id), resource, limit)?;
        }
        Ok((child, Some(group)))
    }
}

/// A program and all that it has started. Dropped, however that comes, they end.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // There may be nobody left. The kernel gives an id out again only after all others.
        kill_process_group(self.0, Signal::KILL).ok();
    }
}

/// Writes `input`, and gives how the program ended and its two outputs.
async fn converse(mut child: Child, input: &str) -> io::Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // It may end without reading its input.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(write, read(stdout), read(stderr))?;
    Ok(Ended {
        status: child.wait().await?,
        stdout,
        stderr,
    })
}

/// # Errors
/// [`ErrorKind::FileTooLarge`] beyond [`OUTPUT_BYTES_MAX`].
async fn read(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        let mut output = output.take(OUTPUT_BYTES_MAX + 1);
        if output.read_to_end(&mut bytes).await? as u64 > OUTPUT_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(script: &str, limit: Duration) -> Program {
        Program {
            path: "/bin/sh".to_owned(),
            args: ["-c", script].map(ToOwned::to_owned).into(),
            limit,
            environment: Some(Vec::new()),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Whether a process has ended; nobody may have taken note of that.
    fn has_ended(id: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }

    #[tokio::test]
    async fn scenario_52_a_program_that_hangs_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ids");
        let text = format!("/bin/sleep 1000 & echo $$ $! >{}; wait", file.display());
        let program = script(&text, Duration::from_millis(300));
        let ended = program.run(&[], "").await;
        assert!(matches!(ended, Err(HelperError::TimedOut { .. })));
        let ids = std::fs::read_to_string(file).unwrap();
        assert_eq!(ids.split_whitespace().count(), 2);
        while !ids.split_whitespace().all(has_ended) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_program_that_takes_too_much_memory_fails() {
        let take = |bytes: u64| {
            let text =
                format!("/bin/cat; x=$(/bin/head -c {bytes} /dev/zero | /usr/bin/tr '\\0' a)");
            async move { script(&text, LONG).run(&[], "").await.ok().unwrap() }
        };
        assert!(take(1000).await.status.success());
        assert!(!take(2 * MEMORY_BYTES_MAX).await.status.success());
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_nothing_of_ours() {
        let text = "/bin/cat; /usr/bin/env; pwd";
        let mut program = script(text, LONG);
        program.environment = Some(vec![("NAME".to_owned(), "value".to_owned())]);
        let ended = program.run(&[], "input\n").await.ok().unwrap();
        let stdout = String::from_utf8(ended.stdout).unwrap();
        let mut lines: Vec<_> = stdout
            .lines()
            .filter(|line| !line.starts_with("_="))
            .collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "NAME=value", "PWD=/", "input"]);
        // It may end without reading.
        let large = "x".repeat(1024 * 1024);
        assert!(
            script("exit 0", LONG)
                .run(&[], &large)
                .await
                .ok()
                .unwrap()
                .status
                .success()
        );
    }
}

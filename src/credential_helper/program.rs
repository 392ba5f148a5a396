//! Runs a program once, without a shell: input in, outputs out, under limits of time, size and memory.
//!
//! What it writes is the caller's to judge. This file must not repeat any of it.

use std::io::{self, ErrorKind};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, kill_process_group, prlimit, waitpgid,
};
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
        reap(id);
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

/// Groups that were told to end. In a container we are the first process, so that who is left of one becomes our
/// child, and a zombie until we take note of its end.
static ENDING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

impl Drop for Group {
    fn drop(&mut self) {
        // There may be nobody left. The kernel gives an id out again only after all others.
        kill_process_group(self.0, Signal::KILL).ok();
        ending().push(self.0);
    }
}

fn ending() -> MutexGuard<'static, Vec<Pid>> {
    ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of who has ended of earlier groups. Nobody waits for that: what one program leaves, the start of the
/// next finds. tokio waits for the programs that run, so none of these may be in a group that is looked at; neither
/// may the one that `started` just now, if an id was given out again.
fn reap(started: Pid) {
    ending().retain(|group| *group != started && has_members(*group));
}

/// Whether children of ours in this group have still to end, after taking note of those that have.
fn has_members(group: Pid) -> bool {
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
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
        let program = script(&text, Duration::from_secs(2));
        let ended = program.run(&[], "").await;
        assert!(matches!(ended, Err(HelperError::TimedOut { .. })));
        let ids = std::fs::read_to_string(file).unwrap();
        assert_eq!(ids.split_whitespace().count(), 2);
        while !ids.split_whitespace().all(has_ended) {
            tokio::task::yield_now().await;
        }
    }

    /// As in a container, where what a program leaves becomes our child.
    #[tokio::test]
    async fn scenario_52_what_a_program_leaves_behind_is_no_zombie_for_ever() {
        rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
        for end in ["exit 0", "wait"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("ids");
            let ids = || std::fs::read_to_string(&file).unwrap_or_default();
            let text = format!(
                "/bin/sh -c '/bin/sleep 1000 & echo $$ $!; wait' >{0} 2>&1 & \
                 until [ -s {0} ]; do /bin/sleep 0.01; done; echo $$ >>{0}; {end}",
                file.display()
            );
            let is_hung = async {
                while end != "wait" || ids().split_whitespace().count() < 3 {
                    tokio::task::yield_now().await;
                }
            };
            let program = script(&text, LONG);
            tokio::select! {
                ended = program.run(&[], "") => assert!(ended.ok().unwrap().status.success()),
                () = is_hung => {}
            }
            assert_eq!(ids().split_whitespace().count(), 3, "{}", ids());
            let is_there = |id: &str| std::fs::exists(format!("/proc/{id}")).unwrap();
            let are_gone = async {
                while ids().split_whitespace().any(is_there) {
                    let next = script("exit 0", LONG).run(&[], "").await;
                    assert!(next.ok().unwrap().status.success());
                }
            };
            tokio::time::timeout(LONG, are_gone).await.unwrap();
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

//! Where the cluster lives, so that nothing of it can be left behind.
//!
//! The test program starts itself a second time. As root that second process gets namespaces of its
//! own for processes, mounts and the network: when it ends, however it ends, the kernel ends every
//! program it started and takes away every mount, interface and packet filter rule. The first
//! process waits, passes on the exit code, and removes the two things that outlive namespaces: the
//! control groups and the empty work directory. Without root there are no such namespaces; then
//! only the `api` tier runs, and each of its programs is told to die with its parent.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use super::wait::wait_for;

/// Tells the second process its work directory.
const WORKDIR: &str = "PULLPASS_CLUSTER_WORKDIR";
/// Path of another program than the one that was built for the tests: as it ships, where it is measured.
const PROGRAM: &str = "PULLPASS_PROGRAM";
/// Tells the second process that it has namespaces of its own.
const ISOLATED: &str = "PULLPASS_CLUSTER_ISOLATED";
/// The kernel needs a moment to empty the control groups of processes that were just killed.
const CGROUPS_LIMIT: Duration = Duration::from_secs(10);
/// Kernel settings, common to the whole machine, that a kubelet insists on writing.
const KUBELET_SETTINGS: &[(&str, &str)] = &[
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// Which of the two processes this is.
pub(crate) enum Role {
    /// The first: it only watches over the second.
    Outside,
    /// The second: it runs the cluster and the trials, in this directory.
    Inside(PathBuf),
}

/// Which of the two processes this is.
pub(crate) fn role() -> Role {
    std::env::var_os(WORKDIR).map_or(Role::Outside, |path| Role::Inside(path.into()))
}

/// Why there can be no node here, if so.
pub(crate) fn isolated() -> Result<(), String> {
    match std::env::var_os(ISOLATED) {
        Some(_) => Ok(()),
        None => Err("needs root and the right to make namespaces (CAP_SYS_ADMIN)".to_owned()),
    }
}

/// Name of the control group above everything the kubelet makes.
pub(crate) fn cgroup_parent(workdir: &Path) -> String {
    workdir
        .file_name()
        .expect("the work directory has a name")
        .to_string_lossy()
        .into_owned()
}

/// Runs this program again, inside, and cleans up after it.
pub(crate) fn run_inside() -> ExitCode {
    // Short, because paths of Unix sockets end at 107 bytes.
    let workdir = tempfile::Builder::new()
        .prefix("pp-")
        .tempdir_in("/tmp")
        .expect("/tmp is writable");
    let mut command = inside_command();
    command
        .args(std::env::args_os().skip(1))
        .env(WORKDIR, workdir.path());
    let status = wait_or_kill(command);
    remove_cgroups(&cgroup_parent(workdir.path()));
    workdir
        .close()
        .expect("nothing is mounted in the work directory any more");
    let code = status
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Gives the second process a root of its own where the node would otherwise write into the host's.
pub(crate) fn prepare(workdir: &Path) {
    run("ip", &["link", "set", "lo", "up"]);
    for directory in [workdir, Path::new("/run"), Path::new("/var/log")] {
        mount(&["-t", "tmpfs", "tmpfs"], directory);
    }
    for (setting, value) in KUBELET_SETTINGS {
        let stand_in = workdir.join(setting.trim_start_matches('/').replace('/', "."));
        fs::write(&stand_in, value).expect("the work directory is writable");
        mount(&["--bind", &stand_in.to_string_lossy()], Path::new(setting));
    }
    create_cgroup(&cgroup_parent(workdir));
}

/// Makes a control group in every hierarchy.
pub(crate) fn create_cgroup(name: &str) {
    for hierarchy in cgroup_hierarchies() {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", group.display()));
    }
}

/// Kills every process in a control group and those below it, as a power cut does.
pub(crate) fn kill_cgroup(name: &str) {
    for hierarchy in cgroup_hierarchies() {
        let group = hierarchy.join(name);
        wait_for("the control group is empty", CGROUPS_LIMIT, || {
            let processes = processes_in(&group);
            processes.iter().for_each(|process| kill(process));
            let left = processes.into_iter().filter(|process| is_alive(process));
            let left: Vec<_> = left.collect();
            left.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{left:?}"))
        });
    }
}

/// Kills every process of the tests that was given this path as an argument.
pub(crate) fn kill_all_with_argument(path: &Path) {
    let processes = fs::read_dir("/proc").expect("/proc is mounted");
    for process in processes.filter_map(Result::ok) {
        // It may have ended by now; then there is nothing to read, or to kill.
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        if arguments.any(|argument| argument == path.as_os_str().as_bytes()) {
            kill(&process.file_name().to_string_lossy());
        }
    }
}

fn processes_in(group: &Path) -> Vec<String> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().map(str::to_owned);
    let entries = fs::read_dir(group).into_iter().flatten();
    let below = entries.filter_map(Result::ok).map(|entry| entry.path());
    let below = below.filter(|path| path.is_dir());
    own.chain(below.flat_map(|group| processes_in(&group)))
        .collect()
}

fn kill(process: &str) {
    // One that has ended by itself is as good.
    drop(Command::new("kill").args(["-KILL", process]).output());
}

/// Whether it is more than what nobody has asked about since its end.
fn is_alive(process: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// The program under test: what cargo built, or what [`PROGRAM`] says, with what the image sets for it.
pub(crate) fn pullpass() -> Command {
    let Some(path) = std::env::var_os(PROGRAM) else {
        return program(Path::new(env!("CARGO_BIN_EXE_pullpass")));
    };
    let mut command = program(Path::new(&path));
    let dockerfile = include_str!("../../../Dockerfile");
    let (_, stage) = dockerfile.rsplit_once("\nFROM ").expect("it has stages");
    for line in stage.lines().filter_map(|line| line.strip_prefix("ENV ")) {
        let (name, value) = line.split_once('=').expect("ENV NAME=VALUE");
        command.env(name, value.trim_matches('"'));
    }
    command
}

/// A command for a program that cannot outlive the tests.
pub(crate) fn program(path: &Path) -> Command {
    // The process namespace sees to it already, and the kernel's signal comes when the *thread* that
    // started the program ends, which is too early for programs that several trials share.
    if isolated().is_ok() {
        Command::new(path)
    } else {
        owned(path)
    }
}

/// A command that the kernel kills when the thread that starts it ends.
fn owned(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn inside_command() -> Command {
    let this = std::env::current_exe().expect("a running program has a path");
    let namespaces = [
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let possible = Command::new("unshare")
        .args(namespaces)
        .arg("true")
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return owned(&this);
    }
    let mut command = owned(Path::new("unshare"));
    command.args(namespaces).arg(this).env(ISOLATED, "1");
    command
}

/// Waits for the end of `command`; kills it if this process is asked to stop. `None` if killed.
fn wait_or_kill(command: Command) -> Option<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime can be made").block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupted = signal(SignalKind::interrupt()).expect("signals can be handled");
        let mut terminated = signal(SignalKind::terminate()).expect("signals can be handled");
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .expect("setpriv and unshare (util-linux) are installed");
        tokio::select! {
            status = child.wait() => return status.ok(),
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        child.kill().await.expect("the child is ours");
        None
    })
}

/// Every mounted control group hierarchy: one on version 2, one for each controller on version 1.
fn cgroup_hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|fields| matches!(fields[2], "cgroup" | "cgroup2"));
    groups.map(|fields| PathBuf::from(fields[1])).collect()
}

fn remove_cgroups(parent: &str) {
    for hierarchy in cgroup_hierarchies() {
        let group = hierarchy.join(parent);
        wait_for("control groups are empty", CGROUPS_LIMIT, || {
            remove_cgroup(&group).map_err(|error| format!("{}: {error}", group.display()))
        });
    }
}

/// Removes a control group and everything under it; the files in it are not real ones.
fn remove_cgroup(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn mount(what: &[&str], target: &Path) {
    let mut arguments = what.to_vec();
    let target = target.to_string_lossy();
    arguments.push(&target);
    run("mount", &arguments);
}

/// Runs a small program to its end.
///
/// # Panics
/// If it fails; the message holds what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    output(program, arguments);
}

/// Runs a small program to its end, and gives what it wrote.
///
/// # Panics
/// If it fails; the message holds what it said.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {said}",
        arguments.join(" ")
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

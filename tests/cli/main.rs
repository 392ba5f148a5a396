//! The command line as a user sees it: the program itself, run on files.
#![cfg(test)]

mod commands;
mod fixtures;
mod import;
mod live;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the program left behind.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs `pullpass` in the repository's root, with `stdin`.
fn pullpass_with(stdin: &str, args: &[&str]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pullpass"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading its input.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the words of `line`.
fn pullpass(line: &str) -> Run {
    pullpass_with("", &line.split_whitespace().collect::<Vec<_>>())
}

/// Compares with what stands in `file`, or writes it there with `UPDATE_EXPECT=1`.
fn check_file(file: &Path, found: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        std::fs::write(file, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    let diff = diffy::create_patch(&expected, found);
    let file = file.display();
    assert!(
        expected == found,
        "{file}; if this is right, run with UPDATE_EXPECT=1\n{diff}"
    );
}

//! The architecture's invariants, checked by reading the source: mostly things that must not happen.
//!
//! ARCHITECTURE.md states them for people; a change that breaks one fails here with the line.
#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms from the ground floor up; an import may only go to a lower floor.
const FLOORS: &[&[&str]] = &[
    &[
        "image",
        "manifest",
        "pki",
        "metrics",
        "logging",
        "shutdown",
        "credential_helper",
        "files",
    ],
    &["credential"],
    &["index", "import"],
    &["rules"],
    &["snapshot", "delivery", "probe"],
    &["admission", "cluster", "http"],
    &["installation"],
    &["recovery"],
    &["webhook", "controller"],
    &["status"],
    &["doctor"],
    &["cli"],
];

/// Rooms that decide: no I/O, no async, no network or cluster crate.
const PURE: &[&str] = &[
    "image",
    "credential",
    "index",
    "rules",
    "snapshot",
    "delivery",
    "probe",
    "admission",
    "manifest",
    "import",
];

struct SourceFile {
    path: PathBuf,
    room: String,
    /// Without its unit tests.
    lines: Vec<String>,
}

impl SourceFile {
    fn lines_with<'a>(&'a self, needles: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
        self.lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .filter(move |(_, line)| needles.iter().any(|needle| line.contains(needle)))
            .map(|(n, line)| format!("{}:{}: {}", self.path.display(), n + 1, line.trim()))
    }
}

fn sources() -> Vec<SourceFile> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let relative = path.strip_prefix(&src).unwrap().to_path_buf();
            let room = relative.iter().next().unwrap().to_str().unwrap();
            let room = room.trim_end_matches(".rs").to_owned();
            let code = text.split("#[cfg(test)]").next().unwrap();
            SourceFile {
                path: relative,
                room,
                lines: code.lines().map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// No line of the files chosen by `in_scope` contains one of `needles`.
fn check_absent(why: &str, in_scope: impl Fn(&SourceFile) -> bool, needles: &[&str]) {
    let sources = sources();
    let scope: Vec<_> = sources.iter().filter(|file| in_scope(file)).collect();
    assert!(!scope.is_empty(), "no source file is in scope: {why}");
    let found: Vec<_> = scope
        .iter()
        .flat_map(|file| file.lines_with(needles))
        .collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn no_arrow_turns_upwards() {
    let floor: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor)))
        .collect();
    for file in sources() {
        if matches!(&*file.room, "lib" | "main") {
            continue;
        }
        let own = *floor
            .get(&*file.room)
            .unwrap_or_else(|| panic!("room {} has no floor", file.room));
        for line in &file.lines {
            for import in line.split("crate::").skip(1) {
                let room: String = import
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let Some(&theirs) = floor.get(&*room) else {
                    continue;
                };
                assert!(
                    room == file.room || theirs < own,
                    "{}: {} must not import {room}: {line}",
                    file.path.display(),
                    file.room
                );
            }
        }
    }
}

#[test]
fn the_pure_rooms_do_no_io_and_are_not_async() {
    check_absent(
        "a pure room does I/O, is async, or imports a network or cluster crate",
        |file| PURE.contains(&&*file.room),
        &[
            "tokio",
            "axum",
            "hyper",
            "kube::",
            "k8s_openapi",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "std::env",
            "std::process",
            "std::time",
            "std::thread",
            "async fn",
            ".await",
            "tracing::",
            "println!",
        ],
    );
}

/// It is told the time: that is how its tests live through years.
#[test]
fn certificates_are_decided_without_a_clock_or_io() {
    check_absent(
        "src/pki reads a clock, does I/O or is async",
        |file| file.room == "pki",
        &[
            "::now()",
            "std::fs",
            "std::env",
            "tokio",
            "kube::",
            "async fn",
            ".await",
            "tracing::",
        ],
    );
}

/// A clock that is set forward or back changes nothing: pauses, budgets and watches go by the monotonic
/// one, copies and index hold no time. (The Lease is another matter, see `src/controller/leader.rs`.)
#[test]
fn delivery_does_not_know_what_time_it_is() {
    let delivers = [
        "controller/delivery",
        "controller/delivery.rs",
        "controller/budget.rs",
    ];
    check_absent(
        "delivery, or what it stands on, reads the wall clock",
        |file| {
            let is_part = delivers.iter().any(|part| file.path.starts_with(part));
            is_part || matches!(&*file.room, "delivery" | "cluster")
        },
        &[
            "SystemTime",
            "UNIX_EPOCH",
            "Timestamp",
            "jiff",
            "chrono",
            "Utc",
        ],
    );
}

#[test]
fn only_review_knows_the_admission_review_json() {
    check_absent(
        "the JSON of an AdmissionReview is known outside src/admission/review.rs",
        |file| file.path != Path::new("admission/review.rs"),
        &[
            "\"AdmissionReview\"",
            "patchType",
            "patch_type",
            "auditAnnotations",
            "\"JSONPatch\"",
        ],
    );
}

#[test]
fn only_http_and_webhook_know_http() {
    check_absent(
        "HTTP is known outside src/http and src/webhook",
        |file| !matches!(&*file.room, "http" | "webhook"),
        &["hyper::", "hyper_util", "axum::", "StatusCode"],
    );
}

/// The one place is asked again for a request that waited for its namespace; it starts over then, so that
/// it still decides under one snapshot.
#[test]
fn a_request_loads_one_snapshot_once() {
    let sources = sources();
    let loads: Vec<_> = sources
        .iter()
        .filter(|file| file.path.starts_with("webhook") || PURE.contains(&&*file.room))
        .flat_map(|file| {
            file.lines_with(&["snapshots.load", "snapshot.load", "snapshots.current()"])
        })
        .collect();
    assert_eq!(
        loads.len(),
        1,
        "one place loads the snapshot, once a request:\n{}",
        loads.join("\n")
    );
}

#[test]
fn every_spawned_task_is_joined() {
    check_absent(
        "a task without an owner: use a JoinSet",
        |_| true,
        &[
            "tokio::spawn",
            "task::spawn(",
            "Handle::current().spawn",
            "thread::Builder",
        ],
    );
}

/// A literal duration or size on the request path is a limit without a name.
#[test]
fn every_limit_is_a_named_constant() {
    let sources = sources();
    let found: Vec<_> = sources
        .iter()
        .filter(|file| matches!(&*file.room, "http" | "webhook" | "cluster" | "controller"))
        .flat_map(|file| file.lines_with(&["from_secs(", "from_millis(", "1024 * 1024"]))
        .filter(|line| !line.contains("const "))
        .filter(|line| {
            line.split(['(', '='])
                .any(|part| part.trim().starts_with(|c: char| c.is_ascii_digit()))
        })
        .collect();
    assert!(
        found.is_empty(),
        "limits without a name:\n{}",
        found.join("\n")
    );
}

#[test]
fn nothing_is_left_over() {
    check_absent(
        "left over",
        |_| true,
        &[
            "todo!(",
            "unimplemented!(",
            "dbg!(",
            "#[ignore",
            "println!(",
            "eprintln!(",
        ],
    );
}

#[test]
fn the_signposts_stay_short() {
    for (file, lines_max) in [("src/main.rs", 40), ("ARCHITECTURE.md", 150)] {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let lines = text.lines().count();
        assert!(
            lines <= lines_max,
            "{file} has {lines} lines, at most {lines_max}"
        );
    }
}

#[test]
fn every_module_says_why_it_exists() {
    for file in sources() {
        let opens = file
            .lines
            .first()
            .is_some_and(|line| line.starts_with("//!"));
        assert!(
            opens,
            "{} does not open with its reason",
            file.path.display()
        );
    }
}

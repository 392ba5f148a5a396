//! The kubelet's own logic, as a child process that answers a batch of questions.

use std::env;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;

use serde_json::Value;

use crate::case::Case;

pub(crate) struct Oracle {
    program: PathBuf,
}

impl Oracle {
    /// The oracle, or `None`, with one line in the whole run that says that its tests are skipped.
    pub(crate) fn find() -> Option<Self> {
        let default = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/target/tools/bin/kubelet-oracle"
        );
        let program = env::var_os("PULLPASS_ORACLE").map_or_else(|| default.into(), PathBuf::from);
        if program.is_file() {
            return Some(Self { program });
        }
        let reason = format!(
            "SKIPPED kubelet oracle: no {}, `make tools` builds it",
            program.display()
        );
        assert!(
            env::var("PULLPASS_REQUIRE_ALL").as_deref() != Ok("1"),
            "{reason}"
        );
        static SAID: Once = Once::new();
        // Written past the test harness, which hides what passing tests print.
        SAID.call_once(|| writeln!(io::stderr(), "{reason}").expect("stderr"));
        None
    }

    /// The kubelet's answers, in the order of the questions.
    pub(crate) fn ask(&self, cases: &[Case]) -> Vec<Value> {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the oracle starts");
        let mut stdin = BufWriter::new(child.stdin.take().expect("piped"));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let answers: Vec<Value> = thread::scope(|scope| {
            scope.spawn(move || {
                for case in cases {
                    writeln!(stdin, "{}", case.question()).expect("the oracle reads");
                }
            });
            let parse = |line: io::Result<String>| {
                serde_json::from_str(&line.expect("a line")).expect("an answer")
            };
            stdout.lines().map(parse).collect()
        });
        assert!(child.wait().expect("the oracle ends").success());
        assert_eq!(answers.len(), cases.len());
        let normalise = |(case, answer): (&Case, &Value)| case.normalise(answer);
        cases.iter().zip(&answers).map(normalise).collect()
    }
}

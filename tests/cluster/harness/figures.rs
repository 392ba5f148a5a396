//! What `make bench-cluster` measures: printed beside what was promised, and kept in a file.

use std::ffi::OsString;
use std::fs;

use serde_json::{Value, json};

/// Where the figures go.
const REPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-cluster.json");

/// Path of the program of `make bench`: its `--serve fixed` is a webhook that does not look, and it knows how
/// to measure one that does.
const BENCH: &str = "PULLPASS_BENCH";

/// That path.
pub(crate) fn bench_program() -> OsString {
    std::env::var_os(BENCH).expect("`make bench-cluster` says where it is")
}

/// The figures of one group.
pub(crate) struct Figures {
    group: &'static str,
    values: Value,
}

impl Figures {
    /// A group without figures.
    pub(crate) fn new(group: &'static str) -> Self {
        println!("{group}");
        Self {
            group,
            values: json!({}),
        }
    }

    /// Adds a figure, and prints it.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        println!("  {name:<44} {value:>9.2}");
        self.values[name] = rounded(value);
    }

    /// Adds a figure that should be at most `goal`. A machine may be busy: nothing fails.
    pub(crate) fn add_at_most(&mut self, name: &str, value: f64, goal: f64) {
        let verdict = if value <= goal { "met" } else { "MISSED" };
        println!("  {name:<44} {value:>9.2}  <= {goal} {verdict}");
        self.values[name] = rounded(value);
    }

    /// Adds the median of samples with their range, and prints them.
    pub(crate) fn add_median(&mut self, name: &str, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        let (least, most) = (samples[0], samples[samples.len() - 1]);
        let median = samples[samples.len() / 2];
        println!("  {name:<44} {median:>9.2} ({least:.2} .. {most:.2})");
        self.values[name] =
            json!({"median": rounded(median), "min": rounded(least), "max": rounded(most)});
    }

    /// Puts the group into the file, beside what other groups have there.
    pub(crate) fn write(self) {
        let before = fs::read(REPORT).unwrap_or_default();
        let mut report = serde_json::from_slice(&before).unwrap_or_else(|_| json!({}));
        report[self.group] = self.values;
        fs::write(REPORT, format!("{report:#}\n")).expect("target/ is writable");
    }
}

/// To a hundredth, as it is printed.
fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}

//! What was measured, beside what was promised: the table, `target/bench.json`, the gate.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Outcome, Spread};

/// A promise about one figure.
struct Goal {
    key: &'static str,
    bound: Bound,
    /// Counts repeat on any machine and can fail a run; times cannot.
    is_count: bool,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const fn count(key: &'static str, at_most: f64) -> Goal {
    Goal {
        key,
        bound: Bound::AtMost(at_most),
        is_count: true,
    }
}

const fn at_most(key: &'static str, bound: f64) -> Goal {
    Goal {
        key,
        bound: Bound::AtMost(bound),
        is_count: false,
    }
}

const fn at_least(key: &'static str, bound: f64) -> Goal {
    Goal {
        key,
        bound: Bound::AtLeast(bound),
        is_count: false,
    }
}

/// In the order of the table.
const GOALS: &[Goal] = &[
    count("match_allocations_10", 0.0),
    count("match_allocations_1000", 0.0),
    count("match_allocations_100000", 0.0),
    at_most("match_100000_vs_10_cold", 4.0),
    at_most("match_100000_vs_10_hot", 1.2),
    at_least("linear_vs_match_100000", 1_000.0),
    count("admission_allocations", 3.0),
    count("admission_allocations_selectors", 8.0),
    at_least("throughput_vs_dynamicobject_8k", 8.0),
    count("instructions_vs_null_2k", 2.3),
    count("instructions_vs_null_8k", 2.9),
    count("instructions_vs_null_60k", 3.4),
    at_most("first_tls_answer_ms_1000", 80.0),
    at_most("first_tls_answer_ms_100000", 350.0),
    at_most("rss_mib_100000", 64.0),
    at_most("rss_mib_after_load", 16.0),
    at_most("binary_mib", 14.0),
];

/// Prefixes of the figures that are compared with the baseline, and by how much each may exceed it. The first that fits
/// counts.
///
/// Compilers and libraries move a little. Two machines of one kind move instructions by another 3 %, the null webhook's
/// as much as ours: how memory is copied and what the loader resolves depends on the processor. The ratio is spared that.
const BASELINE_TOLERANCES: &[(&str, f64)] = &[
    ("match_allocations_", 1.0),
    ("admission_allocations", 1.0),
    ("instructions_vs_null_", 1.03),
    ("instructions_", 1.1),
];

/// Instruction counts only repeat on the architecture they were taken on.
const BASELINE_ARCH: &str = "x86_64";

/// Figures in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

/// One measured number.
struct Figure {
    key: String,
    value: f64,
    /// A remark for the table.
    note: String,
}

impl Report {
    /// Adds a figure.
    pub(crate) fn add(&mut self, key: &str, value: f64) {
        self.add_with_note(key, value, &"");
    }

    /// Adds a figure with a remark for the table.
    pub(crate) fn add_with_note(&mut self, key: &str, value: f64, note: &dyn std::fmt::Display) {
        self.figures.push(Figure {
            key: key.to_owned(),
            value,
            note: note.to_string(),
        });
    }

    /// Adds the median of samples, with their range as the remark.
    pub(crate) fn add_median(&mut self, key: &str, samples: Vec<f64>) {
        let spread = Spread::of(samples);
        self.add_with_note(key, spread.median, &spread);
    }

    /// The table that is printed.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "\n{:<36} {:>14} {:>10} {:<8} {}\n",
            "figure", "value", "goal", "", "range"
        );
        for Figure { key, value, note } in &self.figures {
            let goal = GOALS.iter().find(|goal| goal.key == key);
            let (bound, verdict) = goal.map_or((String::new(), ""), |goal| {
                (goal.bound.to_string(), goal.verdict(*value))
            });
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                table,
                "{key:<36} {:>14} {bound:>10} {verdict:<8} {note}",
                format_value(*value)
            );
        }
        table
    }

    /// Writes all figures as one flat object.
    pub(crate) fn write(&self, path: &Path) -> Outcome<()> {
        write_json(path, self.figures.iter())
    }

    /// Writes the figures that are compared with the baseline.
    pub(crate) fn write_baseline(&self, path: &Path) -> Outcome<()> {
        write_json(
            path,
            self.figures
                .iter()
                .filter(|figure| figure.tolerance().is_some()),
        )
    }

    /// A line for each count over its goal, or over the baseline by more than the tolerance.
    pub(crate) fn over_the_gate(&self, baseline: &Path) -> Outcome<Vec<String>> {
        let baseline: Map<String, Value> = match std::fs::read(baseline) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) => return Err(format!("{}: {error}", baseline.display()).into()),
        };
        let mut over = Vec::new();
        for figure in &self.figures {
            let Figure { key, value, .. } = figure;
            let goal = GOALS.iter().find(|goal| goal.key == key && goal.is_count);
            if let Some(goal) = goal.filter(|goal| !goal.is_met(*value)) {
                over.push(format!(
                    "{key} is {}, goal {}",
                    format_value(*value),
                    goal.bound
                ));
            }
            let before = baseline.get(key).and_then(Value::as_f64);
            if let Some(before) = before
                && let Some(tolerance) = figure.tolerance()
                && *value > before * tolerance
            {
                let (value, before) = (format_value(*value), format_value(before));
                over.push(format!(
                    "{key} is {value}, {before} in benches/baseline.json \
                     (if it is worth that: `cargo bench --bench figures -- --write-baseline`)"
                ));
            }
        }
        Ok(over)
    }
}

impl Figure {
    /// By which factor the figure may exceed its baseline, where it has one.
    fn tolerance(&self) -> Option<f64> {
        let repeats = std::env::consts::ARCH == BASELINE_ARCH || !self.key.starts_with("instr");
        let (_, tolerance) = BASELINE_TOLERANCES
            .iter()
            .find(|(prefix, _)| repeats && self.key.starts_with(prefix))?;
        Some(*tolerance)
    }
}

impl Goal {
    fn is_met(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }

    fn verdict(&self, value: f64) -> &'static str {
        if self.is_met(value) { "met" } else { "MISSED" }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

/// Whole where nothing is lost, else with two decimals.
fn format_value(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1_000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// A whole number as such, anything else to a hundredth.
fn to_json(value: f64) -> Value {
    let hundredths = (value * 100.0).round() / 100.0;
    if hundredths.fract() == 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small")]
        let whole = hundredths as i64;
        json!(whole)
    } else {
        json!(hundredths)
    }
}

fn write_json<'f>(path: &Path, figures: impl Iterator<Item = &'f Figure>) -> Outcome<()> {
    let object: Map<String, Value> = figures
        .map(|figure| (figure.key.clone(), to_json(figure.value)))
        .collect();
    let mut text = serde_json::to_string_pretty(&object)?;
    text.push('\n');
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}

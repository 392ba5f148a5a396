//! `make bench`: every figure that the program promises, measured in one run beside its peers.
//!
//! Prints a table and writes `target/bench.json`. Counts (allocations, instructions) are evidence and
//! can fail the run; times depend on the machine and are only reported. What must not happen here: a
//! figure that the program itself would not show, such as one of a build without its server.
#![expect(
    clippy::print_stdout,
    reason = "the table is what the program is for; nothing of it ships"
)]

mod admission;
mod bodies;
mod client;
mod instructions;
mod linear;
mod matching;
mod process;
mod report;
mod serve;
mod site;
mod typed;
mod workload;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use report::Report;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures pullpass beside its peers, prints the table, writes target/bench.json.
///
/// With PULLPASS_BENCH_GATE set it takes fewer samples, and allocation or instruction counts over
/// their goal, or over benches/baseline.json by more than 3 %, fail the run.
#[derive(Parser)]
#[command(name = "figures")]
struct Args {
    /// Measure only this group; nothing is written
    #[arg(long)]
    only: Option<Group>,
    /// Write the counts of this run to benches/baseline.json
    #[arg(long)]
    write_baseline: bool,
    /// Be the server that is measured: print the address, serve until stdin ends
    #[arg(long, value_name = "HANDLER", requires = "site")]
    serve: Option<serve::Handler>,
    /// Directory with what the server serves
    #[arg(long, value_name = "DIRECTORY", requires = "serve")]
    site: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    Match,
    Admission,
    Instructions,
    Process,
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// Alternating pairs, starts, passes: the figure is their median.
    samples: usize,
    /// Times that all bodies of a size are posted to count instructions.
    instructions_parts: usize,
    /// Images given to the linear scan.
    linear_images: usize,
}

impl Scale {
    const FULL: Self = Self {
        samples: 11,
        instructions_parts: 7,
        linear_images: 100,
    };
    const GATE: Self = Self {
        samples: 7,
        instructions_parts: 3,
        linear_images: 20,
    };
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            println!("bench failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<ExitCode> {
    if let (Some(handler), Some(site)) = (args.serve, &args.site) {
        serve::run(handler, site)?;
        return Ok(ExitCode::SUCCESS);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gate = std::env::var_os("PULLPASS_BENCH_GATE").is_some();
    let scale = if gate { Scale::GATE } else { Scale::FULL };
    let wanted = |group| args.only.is_none_or(|only| only == group);

    let mut report = Report::default();
    if wanted(Group::Match) {
        matching::measure(scale, &mut report)?;
    }
    if wanted(Group::Admission) {
        admission::measure(scale, &mut report)?;
    }
    if wanted(Group::Instructions) {
        instructions::measure(scale, &mut report)?;
    }
    if wanted(Group::Process) {
        process::measure(scale, &mut report)?;
    }

    let baseline = root.join("benches/baseline.json");
    print!("{}", report.table());
    if args.write_baseline {
        report.write_baseline(&baseline)?;
    }
    if args.only.is_none() {
        report.write(&root.join("target/bench.json"))?;
    }
    let failures = report.over_the_gate(&baseline)?;
    for failure in &failures {
        println!("over the gate: {failure}");
    }
    Ok(if gate && !failures.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The middle of the samples, with the smallest and the largest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(samples.len() / 2),
            min: at(0),
            max: at(samples.len().saturating_sub(1)),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} .. {:.1}", self.min, self.max)
    }
}

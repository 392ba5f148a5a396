//! `test`: unit tests for rules, in YAML.

mod cases;

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::terminal::printable;
use super::{CliError, Format, Outcome};
use cases::CaseFile;

/// Run unit tests for rules
///
/// Reads files of cases, each a Pod and what the webhook must add to it, and decides as the webhook
/// does. Paths in a file are relative to it. Unknown fields are errors.
///
/// -o json and -o yaml print one object: cases (file, name, passed, differences: field, expected, found), passed,
/// failed.
///
/// Exit code 1 if a case failed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass test examples/tests.yaml

A file of cases:
  apiVersion: pullpass.dev/v1alpha1
  kind: PullRulesTest
  rules: rules.yaml             # a path, or the rules themselves
  pullSecrets: [harbor.yaml]    # manifests of source Secrets; without one, its keys are unknown
  cases:
    - name: web pulls from harbor
      namespace: prod-web                 # default: that of the Pod, or `default`
      namespaceLabels: {team: web}
      pod: pods/web.yaml                  # a Pod or workload, a path or inline; or instead:
      images: [harbor.example.com/web:1]  #   a Pod with these images
      serviceAccount: robot               # only beside `images`
      enforceMountableSecrets: false      # true: the ServiceAccount only allows what it lists
      expect:
        pullSecrets: [harbor]             # exactly the names that are added, in order
        shadow: []                        # optional: names that rules in Shadow mode would add
        reason: injected                  # optional: why, as in the metrics
        warnings: [\"is stale\"]            # optional: a part of each warning, in order")]
pub(super) struct TestArgs {
    /// Files of cases; `-` for standard input
    #[arg(value_name = "CASES", required = true)]
    files: Vec<PathBuf>,
    /// How to print the results
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Serialize)]
struct Results {
    cases: Vec<CaseResult>,
    passed: usize,
    failed: usize,
}

/// How one case went.
#[derive(Debug, Serialize)]
pub(super) struct CaseResult {
    file: String,
    name: String,
    passed: bool,
    differences: Vec<Difference>,
}

/// One field of `expect` that is not as expected.
#[derive(Debug, Serialize)]
struct Difference {
    field: &'static str,
    expected: Vec<String>,
    found: Vec<String>,
}

pub(super) fn run(args: &TestArgs) -> Result<Outcome, CliError> {
    let mut cases = Vec::new();
    for file in &args.files {
        cases.extend(CaseFile::read(file)?.run(file)?);
    }
    let passed = cases.iter().filter(|case| case.passed).count();
    let failed = cases.len() - passed;
    let results = Results {
        failed,
        passed,
        cases,
    };
    args.output.print(&results, Results::text)?;
    Ok(match failed {
        0 => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

impl Results {
    fn text(&self, styled: bool) -> String {
        let mut text = String::new();
        for case in &self.cases {
            // Writing to a String cannot fail.
            let _written = case.write(&mut text, styled);
        }
        text + &format!("{} passed, {} failed\n", self.passed, self.failed)
    }
}

impl CaseResult {
    fn write(&self, text: &mut String, styled: bool) -> fmt::Result {
        let (color, says) = match self.passed {
            true => (AnsiColor::Green, "ok    "),
            false => (AnsiColor::Red, "FAILED"),
        };
        let style = if styled {
            color.on_default()
        } else {
            Style::new()
        };
        let (file, name) = (printable(&self.file), printable(&self.name));
        writeln!(text, "{style}{says}{style:#} {file}: {name}")?;
        for difference in &self.differences {
            let Difference {
                field,
                expected,
                found,
            } = difference;
            writeln!(text, "    {field}")?;
            writeln!(text, "      - {}", list(expected))?;
            writeln!(text, "      + {}", list(found))?;
        }
        Ok(())
    }
}

fn list(items: &[String]) -> String {
    match items {
        [] => "(none)".to_owned(),
        items => printable(&items.join(", ")).into_owned(),
    }
}

//! `check`: is this rules file right? Every error at once, as a compiler shows them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::input::read_text;
use super::terminal::{is_styled, printable};
use super::{CliError, Format, Outcome};
use crate::manifest;
use crate::rules::config::{self, CONFIG_MAP_RULES_BYTES_MAX, FILE_RULES_BYTES_MAX};
use crate::rules::diagnostics::Finding;
use crate::rules::{self, Diagnostics, RulesConfig};

/// Check rules files: every error at once, with its place and its fix
///
/// A rules file is what the webhook reads: the text under `rules.yaml` in the ConfigMap, not the
/// ConfigMap around it.
///
/// -o json prints one object a line for each file, -o yaml the same as documents: file, valid; pull_secrets, rules, patterns (how
/// many; null if not valid); findings (line, column, message, help, related: line, message); warnings.
///
/// Exit code 1 if there is an error in any file, 2 if one cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass check rules.yaml
  pullpass check -o json team-a.yaml team-b.yaml
  kubectl -n pullpass get configmap pullpass-rules -o jsonpath='{.data.rules\\.yaml}' | pullpass check -")]
pub(super) struct CheckArgs {
    /// Rules files; `-` for standard input
    #[arg(value_name = "RULES", required = true)]
    rules: Vec<PathBuf>,
    /// How to print the findings
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// One checked file.
struct Checked {
    file: String,
    /// Empty if it is larger than any rules text may be.
    text: String,
    result: Result<RulesConfig, Diagnostics>,
}

/// What `-o json` and `-o yaml` print for one file.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    valid: bool,
    pull_secrets: Option<usize>,
    rules: Option<usize>,
    patterns: Option<usize>,
    findings: Vec<Finding<'a>>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &CheckArgs) -> Result<Outcome, CliError> {
    let mut out = io::stdout().lock();
    let mut outcome = Outcome::Clean;
    let mut unreadable = None;
    let mut separator = "";
    for path in &args.rules {
        let checked = match Checked::read(path) {
            Ok(checked) => checked,
            // The other files are checked all the same; the first that cannot be read decides.
            Err(error) => {
                unreadable.get_or_insert(error);
                continue;
            }
        };
        if checked.result.is_err() {
            outcome = Outcome::Findings;
        }
        let shown = match args.output {
            Format::Text => checked.text(is_styled(&out)),
            Format::Json => {
                serde_json::to_string(&checked.report()).map_err(io::Error::from)? + "\n"
            }
            Format::Yaml => separator.to_owned() + &manifest::to_yaml(&[checked.report()]),
        };
        separator = "---\n";
        out.write_all(shown.as_bytes())?;
    }
    unreadable.map_or(Ok(outcome), Err)
}

impl Checked {
    fn read(path: &Path) -> Result<Self, CliError> {
        let file = path.display().to_string();
        match read_text(path, FILE_RULES_BYTES_MAX) {
            Ok(text) => Ok(Self {
                file,
                result: rules::load(&text),
                text,
            }),
            Err(CliError::TooLarge { .. }) => Ok(Self {
                file,
                text: String::new(),
                result: Err(config::too_large()),
            }),
            Err(error) => Err(error),
        }
    }

    fn text(&self, styled: bool) -> String {
        let file = &*printable(&self.file);
        let mut shown = match &self.result {
            Ok(config) => format!(
                "{file}: valid: {}, {}, {}\n",
                counted(config.pull_secrets.len(), "pull secret"),
                counted(config.rules.len(), "rule"),
                counted(config.pattern_count(), "pattern"),
            ),
            Err(errors) => {
                let count = counted(errors.0.len(), "error");
                format!(
                    "{}\n{file}: {count}\n",
                    errors.render(file, &self.text, styled)
                )
            }
        };
        for warning in self.warnings() {
            shown += &format!("{file}: warning: {warning}\n");
        }
        shown
    }

    fn report(&self) -> Report<'_> {
        let config = self.result.as_ref().ok();
        let findings = self
            .result
            .as_ref()
            .err()
            .map(|errors| errors.findings(&self.text));
        Report {
            file: &self.file,
            valid: config.is_some(),
            pull_secrets: config.map(|config| config.pull_secrets.len()),
            rules: config.map(|config| config.rules.len()),
            patterns: config.map(RulesConfig::pattern_count),
            findings: findings.unwrap_or_default(),
            warnings: self.warnings(),
        }
    }

    /// What is no error in a file, but will be one elsewhere, or is dangerous.
    fn warnings(&self) -> Vec<String> {
        let bytes = self.text.len();
        let warning = format!(
            "{bytes} bytes do not fit in a ConfigMap (`CONFIG_MAP_RULES_BYTES_MAX`, \
             {CONFIG_MAP_RULES_BYTES_MAX}): mount them as a file"
        );
        let too_large = (bytes > CONFIG_MAP_RULES_BYTES_MAX).then_some(warning);
        let secrets = self.result.iter().flat_map(|config| &config.pull_secrets);
        let in_the_clear = secrets.filter_map(|secret| {
            let probe = secret.probe.as_ref().filter(|probe| probe.plain_http)?;
            Some(format!(
                "pull secret \"{}\": `plainHTTP`: its password goes to {} in the clear",
                secret.name, probe.repository
            ))
        });
        too_large.into_iter().chain(in_the_clear).collect()
    }
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

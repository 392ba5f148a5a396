//! The command line: one file per subcommand, thin. Exit code 0 is fine, 1 means findings, 2 wrong
//! usage or a file that cannot be read.

mod check;
mod cleanup;
mod completion;
mod controller;
mod doctor;
mod explain;
mod import;
mod input;
mod kubelet;
mod live;
mod mutate;
mod offline;
mod recover;
mod status;
mod terminal;
mod test;
mod webhook;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use serde::Serialize;

use self::terminal::is_styled;
use crate::credential::DecodeError;
use crate::credential::docker_config::PAYLOAD_BYTES_MAX;
use crate::manifest::{self, ManifestError};

/// Gives every Pod the image pull secrets its images need.
#[derive(Debug, Parser)]
#[command(name = "pullpass", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Webhook(webhook::WebhookArgs),
    Controller(controller::ControllerArgs),
    Check(check::CheckArgs),
    Mutate(mutate::MutateArgs),
    Explain(explain::ExplainArgs),
    Test(test::TestArgs),
    Import(import::ImportArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Recover(recover::RecoverArgs),
    Cleanup(cleanup::CleanupArgs),
    Image(kubelet::ImageArgs),
    Match(kubelet::MatchArgs),
    Keys(kubelet::KeysArgs),
    Completion(completion::CompletionArgs),
}

/// How commands print what they found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people; in colours on a terminal, unless NO_COLOR is set
    Text,
    /// One JSON object a line for each file or Pod
    Json,
    /// The same as a YAML stream
    Yaml,
}

impl Format {
    /// Prints one report. `text` is told whether it may use colours.
    fn print<T: Serialize>(
        self,
        report: &T,
        text: impl FnOnce(&T, bool) -> String,
    ) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let shown = match self {
            Self::Text => text(report, is_styled(&out)),
            Self::Json => serde_json::to_string_pretty(report)? + "\n",
            Self::Yaml => manifest::to_yaml(&[report]),
        };
        out.write_all(shown.as_bytes())
    }
}

/// What a subcommand that did its work has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing is wrong: exit code 0.
    Clean,
    /// Something is wrong with what it was shown: exit code 1.
    Findings,
}

/// Why a subcommand could not do its work: exit code 2.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is larger than the limit of {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{}: not UTF-8 text; save it as UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Manifest { path: PathBuf, error: ManifestError },
    #[error("{}: {message}", path.display())]
    Cases { path: PathBuf, message: String },
    #[error("{}:{line}:{column}: {message}", path.display())]
    CasesSyntax {
        path: PathBuf,
        line: u64,
        column: u64,
        message: String,
    },
    #[error("{}: {error}", path.display())]
    Logins { path: PathBuf, error: DecodeError },
    #[error(
        "Secret {secret} would hold more than the {PAYLOAD_BYTES_MAX} bytes that Kubernetes takes; \
         import fewer logins at a time, or without --into"
    )]
    LargeSecret { secret: String },
    #[error("cannot write {}: {error}", path.display())]
    WriteFile { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Usage(&'static str),
    /// Errors of a rules text, rendered: they say `error` themselves.
    #[error("{0}")]
    Rules(String),
    #[error("{0}")]
    Cluster(String),
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
}

/// Parses the arguments and runs the subcommand.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            drop(usage.print());
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Webhook(args) => return webhook::run(args),
        Command::Controller(args) => return controller::run(args),
        Command::Check(args) => check::run(&args),
        Command::Mutate(args) => mutate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Image(args) => kubelet::image(&args),
        Command::Match(args) => kubelet::match_keys(&args),
        Command::Keys(args) => kubelet::keys(&args),
        Command::Completion(args) => completion::run(&args, Cli::command()),
    };
    match outcome {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        // The reader has seen enough (`| head -1`).
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(CliError::Rules(rendered)) => {
            drop(io::stderr().write_all(rendered.as_bytes()));
            ExitCode::from(2)
        }
        Err(error) => {
            let error = error.to_string();
            drop(writeln!(
                io::stderr(),
                "error: {}",
                terminal::printable(&error)
            ));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, groups and defaults of every subcommand are consistent; checked only in debug builds
    /// otherwise, and there when a user runs it.
    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! The command line: one file per subcommand, thin.

use std::process::ExitCode;

/// Parses the arguments and runs the subcommand.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}

//! Signpost: one crypto provider for the whole process, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    pullpass::cli::run()
}

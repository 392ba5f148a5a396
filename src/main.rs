//! Signpost: one crypto provider for the whole process, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // An error says that there is one already, which is what this line is for.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    pullpass::cli::run()
}

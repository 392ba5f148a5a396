//! `completion`: what a shell needs to complete our commands.

use std::io::{self, Write as _};

use clap::{Args, Command};
use clap_complete::Shell;

use super::{CliError, Outcome};

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(pullpass completion bash)
  pullpass completion zsh > \"${fpath[1]}/_pullpass\"
  pullpass completion fish > ~/.config/fish/completions/pullpass.fish")]
pub(super) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// `command` is the whole command line.
pub(super) fn run(args: &CompletionArgs, mut command: Command) -> Result<Outcome, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "pullpass", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Outcome::Clean)
}

//! kubectl, for everything a person would type.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::tier::tools;

/// kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// kubectl with this kubeconfig; its discovery cache goes into `workdir`.
    pub(crate) fn new(kubeconfig: &Path, workdir: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            cache: workdir.join("kubectl-cache"),
        }
    }

    /// The kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl with `input` as its standard input and gives its standard output.
    ///
    /// # Errors
    /// What kubectl wrote to standard error, if it failed.
    pub(crate) fn try_run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        output_of(&mut self.command(arguments), input)
    }

    /// Runs kubectl and gives what it warned of.
    ///
    /// # Errors
    /// What kubectl wrote to standard error, if it failed.
    pub(crate) fn try_warnings(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        outputs_of(&mut self.command(arguments), input).map(|(_, warnings)| warnings)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools().join("kubectl"));
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache);
        command
    }

    /// Runs kubectl and gives its standard output.
    ///
    /// # Panics
    /// If kubectl failed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> String {
        self.try_run(arguments, input)
            .unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// Runs kubectl with `-o json` and gives the object.
    ///
    /// # Panics
    /// If kubectl failed.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], input: &str) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat(), input);
        serde_json::from_str(&output).expect("kubectl writes JSON when asked to")
    }
}

/// Runs `command` with `input` as its standard input and gives its standard output.
///
/// # Errors
/// What it wrote to standard error, if it failed.
pub(super) fn output_of(command: &mut Command, input: &str) -> Result<String, String> {
    outputs_of(command, input).map(|(output, _)| output)
}

/// The same with its standard error.
fn outputs_of(command: &mut Command, input: &str) -> Result<(String, String), String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end before it has read everything; then its own message says why.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let errors = text(&output.stderr);
    if output.status.success() {
        Ok((text(&output.stdout), errors))
    } else {
        Err(errors.trim().to_owned())
    }
}

//! Helm, as a person uses it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kubectl::output_of;
use super::tier::tools;

/// The chart that ships.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pullpass");

/// Helm with one kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Helm {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// Helm with this kubeconfig; what it keeps goes into `workdir`.
    pub(crate) fn new(kubeconfig: &Path, workdir: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            home: workdir.join("helm"),
        }
    }

    /// Runs Helm in `namespace`, with `values` where the arguments say `--values=-`; `CHART` among the
    /// arguments stands for the chart. Gives its standard output.
    ///
    /// # Errors
    /// What Helm wrote to standard error, if it failed.
    pub(crate) fn try_run(
        &self,
        namespace: &str,
        arguments: &[&str],
        values: &str,
    ) -> Result<String, String> {
        let mut command = Command::new(tools().join("helm"));
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), self.home.join(kind));
        }
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["--namespace", namespace])
            .args(arguments.iter().map(|argument| match *argument {
                "CHART" => CHART,
                other => other,
            }));
        output_of(&mut command, values)
    }

    /// The same, for what must succeed.
    ///
    /// # Panics
    /// If Helm failed.
    #[track_caller]
    pub(crate) fn run(&self, namespace: &str, arguments: &[&str], values: &str) -> String {
        self.try_run(namespace, arguments, values)
            .unwrap_or_else(|error| panic!("helm {}: {error}", arguments.join(" ")))
    }
}

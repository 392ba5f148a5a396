//! What the commands that look at a live cluster have in common: which installation is meant, and the
//! way to the API server.

use clap::Args;

use super::CliError;
use super::terminal::Progress;
use crate::cluster::client::Connection;
use crate::installation::{ApiServer, Chosen, Found};

#[derive(Debug, Args)]
pub(super) struct InstallationArgs {
    /// Namespace of the installation [default: the one its webhook configuration names]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    release: ReleaseArgs,
}

/// Which of several installations is meant.
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// Helm release, where there are several
    #[arg(long, value_name = "NAME")]
    release: Option<String>,
    /// Name of the MutatingWebhookConfiguration [default: found by its labels]
    #[arg(long, value_name = "NAME")]
    webhook_configuration: Option<String>,
}

impl InstallationArgs {
    pub(super) fn chosen(&self) -> Chosen {
        self.release.in_namespace(self.namespace.as_deref())
    }
}

impl ReleaseArgs {
    pub(super) fn in_namespace(&self, namespace: Option<&str>) -> Chosen {
        Chosen {
            namespace: namespace.map(str::to_owned),
            release: self.release.clone(),
            configuration: self.webhook_configuration.clone(),
        }
    }
}

/// An API server that answers.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) server: ApiServer,
    /// Of the kubeconfig's context, or of the ServiceAccount.
    pub(super) namespace: String,
}

impl Live {
    /// By the kubeconfig, or in a Pod by its ServiceAccount.
    pub(super) async fn connect() -> Result<Self, CliError> {
        let unreachable = |error: &dyn std::error::Error| CliError::Cluster(error.to_string());
        let connection = Connection::infer().await.map_err(|e| unreachable(&e))?;
        let client = connection.client().map_err(|e| unreachable(&e))?;
        let server = ApiServer::new(client).await.map_err(|e| unreachable(&e))?;
        Ok(Self {
            server,
            namespace: connection.namespace().to_owned(),
        })
    }

    /// The same, and the installation that is meant there, as far as it can be seen.
    pub(super) async fn find(
        meant: &Chosen,
        progress: &Progress,
    ) -> Result<(ApiServer, Found), CliError> {
        let live = Self::connect().await?;
        progress.show("looking at: installation");
        let found = live.server.find(meant, &live.namespace).await;
        Ok((live.server, found))
    }
}

/// Runs a command that waits for the API server, or for other programs, and does little else.
pub(super) fn run<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

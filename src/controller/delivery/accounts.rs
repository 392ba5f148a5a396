//! Writes ServiceAccounts: one JSON patch that fits one version, so that nobody's entry is lost.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Error};
use prometheus::IntCounter;

use super::board::{Board, Scope};
use super::queue::{Key, Lane};
use crate::cluster::account;
use crate::delivery::Instance;
use crate::delivery::state::ObjectKey;

/// Writes ServiceAccounts.
#[derive(Clone)]
pub(super) struct Accounts {
    pub(super) board: Arc<Board>,
    pub(super) client: Client,
    pub(super) instance: Arc<Instance>,
    pub(super) writes: IntCounter,
}

impl Accounts {
    /// Changes one ServiceAccount as it should be, if it is not.
    pub(super) async fn take(&self, key: &ObjectKey) -> Result<(), Error> {
        let change = {
            let state = self.board.state();
            let change = state.change(key);
            change.map(|change| (change.patch(&self.instance), change.version().to_owned()))
        };
        let Some((patch, looked_at)) = change else {
            return Ok(());
        };
        let patch = serde_json::from_value(patch).map_err(Error::SerdeError)?;
        let (namespace, name) = key;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let written = accounts
            .patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await?;
        self.writes.inc();
        let item = Key::Account(key.clone());
        self.board.wrote(&item);
        // Before the watch says it.
        let seen = account::read(&written, &self.instance);
        self.board.change(|state| {
            state.are_accounts_forbidden = false;
            state.accounts.wrote(key.clone(), &looked_at, Some(seen));
            vec![Scope::One(item, Lane::Normal)]
        });
        tracing::debug!(
            namespace = &**namespace,
            account = &**name,
            "ServiceAccount written"
        );
        Ok(())
    }

    /// Notes that RBAC is against it.
    pub(super) fn forbid(&self) {
        self.board
            .change_if(|state| !std::mem::replace(&mut state.are_accounts_forbidden, true));
    }
}

//! Asks the API server for the copies of an installation and for what it attached to ServiceAccounts, and
//! takes away what it is told to. What it changes is the very version that was looked at.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use kube::api::ListParams;
use serde::Deserialize;

use super::cleanup::{AccountReport, Cleanup, Controller, Fate, PodCounts, Swept};
use super::fetch::{ASKED_AT_ONCE, Bare, read_accounts, read_namespaces, read_rules};
use crate::delivery::copy::MANAGED_BY;
use crate::delivery::state::ObjectKey;
use crate::delivery::{Account, Instance};
use crate::installation::{ApiServer, Found, Looked, Names, Reading, Removal};

/// Why nothing can be said of copies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotSweepError {
    /// The copies cannot be listed.
    #[error("cannot list copies: {0}; run it as someone who may list secrets in all namespaces")]
    Copies(String),
    /// Nobody knows who would put copies back.
    #[error(
        "cannot see whether the controller still runs in namespace {namespace}: {said}; \
         run it as someone who may list deployments.apps there"
    )]
    Controller {
        /// Where it would be.
        namespace: String,
        /// The API server's words.
        said: String,
    },
}

/// A Pod, as far as it names pull secrets.
#[derive(Deserialize)]
struct NamingPod {
    metadata: Place,
    #[serde(default)]
    spec: NamingSpec,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamingSpec {
    image_pull_secrets: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

/// Looks for the copies of an installation, for who would put them back, and for Pods that name them;
/// `progress` is told what comes next.
///
/// # Errors
/// [`CannotSweepError`] if copies or the controller cannot be looked for.
pub async fn look(
    server: &ApiServer,
    found: &Found,
    progress: &dyn Fn(&str),
) -> Result<Swept, CannotSweepError> {
    let names = found.names.clone();
    progress("copies");
    let (key, value) = MANAGED_BY;
    let params = ListParams::default().labels(&format!("{key}={value}"));
    let mut labelled = Vec::new();
    let each = |Bare { metadata }| labelled.push(metadata);
    match server
        .each("/api/v1/secrets", &params, Reading::Metadata, each)
        .await
    {
        Looked::Seen(()) | Looked::Absent => {}
        Looked::Denied(said) | Looked::Failed(said) => return Err(CannotSweepError::Copies(said)),
    }
    progress("ServiceAccounts");
    let instance = Instance::new(&names.namespace, &names.configuration);
    let attached = attached(server, &instance).await;
    progress("controller");
    let controller = controller(server, &names).await?;
    Ok(Swept {
        attached,
        pods: match labelled.is_empty() {
            true => Looked::Seen(BTreeMap::new()),
            false => pods(server, progress).await,
        },
        names,
        labelled,
        controller,
    })
}

/// The controller, and what it wants.
async fn controller(server: &ApiServer, names: &Names) -> Result<Controller, CannotSweepError> {
    let namespace = names.namespace.clone();
    match server.controllers(names).await {
        Looked::Seen(all) if all.is_empty() => return Ok(Controller::Gone),
        Looked::Absent => return Ok(Controller::Gone),
        Looked::Seen(_) => {}
        Looked::Denied(said) | Looked::Failed(said) => {
            return Err(CannotSweepError::Controller { namespace, said });
        }
    }
    // Of rules that cannot be used, it goes on with those before.
    let rules = read_rules(server, names).await;
    Ok(match (rules, read_namespaces(server).await) {
        (Ok(read), Looked::Seen(namespaces)) => Controller::Delivers(read.rules.plan, namespaces),
        _ => Controller::DeliversSomething,
    })
}

/// ServiceAccounts to which an installation attached something.
async fn attached(server: &ApiServer, instance: &Instance) -> Looked<Vec<(ObjectKey, Account)>> {
    let all = read_accounts(server, instance).await;
    let is_attached = |(_, account): &(ObjectKey, Account)| !account.ours().is_empty();
    all.map(|all| all.into_iter().filter(is_attached).collect())
}

/// How many Pods that have not ended name each Secret.
async fn pods(server: &ApiServer, progress: &dyn Fn(&str)) -> Looked<PodCounts> {
    progress("Pods");
    let mut counts = PodCounts::new();
    let each = |pod: NamingPod| {
        for Named { name } in pod.spec.image_pull_secrets {
            let key = (pod.metadata.namespace.clone(), name);
            *counts.entry(key).or_default() += 1;
        }
    };
    let params = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let listed = server.each("/api/v1/pods", &params, Reading::Whole, each);
    listed.await.map(|()| counts)
}

/// Takes away everything that may be; what cannot be stops no other. Entries of ServiceAccounts go first, so
/// that no new Pod names what is gone.
pub async fn clean(server: &ApiServer, cleanup: &mut Cleanup, progress: &dyn Fn(&str)) {
    let all = cleanup.count(Fate::Deletable) + cleanup.count_accounts(Fate::Deletable);
    let mut done = 0;
    let mut count = || {
        done += 1;
        progress(&format!("done {done} of {all}"));
    };
    let instance = Instance::of_label(cleanup.instance.clone());
    let accounts = cleanup.service_accounts.iter_mut();
    let removals = accounts.filter(|account| account.fate == Fate::Deletable);
    let removals = removals.map(async |report| {
        let removal = detach(server, &instance, report).await;
        report.set(removal);
    });
    each_at_once(removals, &mut count).await;
    let copies = cleanup.copies.iter_mut();
    let removals = copies.filter(|copy| copy.fate == Fate::Deletable);
    let removals = removals.map(async |copy| {
        let collection = format!("/api/v1/namespaces/{}/secrets", copy.namespace);
        let removal = server.delete(&collection, &copy.metadata).await;
        copy.set(removal);
    });
    each_at_once(removals, &mut count).await;
}

async fn each_at_once<F: Future<Output = ()>>(
    removals: impl Iterator<Item = F>,
    count: &mut impl FnMut(),
) {
    let removals = futures_util::stream::iter(removals).buffer_unordered(ASKED_AT_ONCE);
    let mut removals = std::pin::pin!(removals);
    while let Some(()) = removals.next().await {
        count();
    }
}

/// Takes what the installation appended out of one ServiceAccount.
async fn detach(server: &ApiServer, instance: &Instance, report: &AccountReport) -> Removal {
    let Some(change) = report.account.change(&[]) else {
        return Removal::Done;
    };
    let (namespace, name) = (&report.namespace, &report.service_account);
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}");
    server.patch(&path, &change.patch(instance)).await
}

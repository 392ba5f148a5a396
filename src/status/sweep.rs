//! Asks the API server for the copies of an installation, and deletes those that it is told to. What it
//! deletes is the very version that was looked at.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use kube::api::ListParams;
use serde::Deserialize;

use super::cleanup::{Cleanup, Controller, Fate, PodCounts, Swept};
use super::fetch::{ASKED_AT_ONCE, Bare, read_namespaces, read_rules};
use crate::delivery::copy::MANAGED_BY;
use crate::installation::{ApiServer, Found, Looked, Names, Reading};

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
    progress("controller");
    let controller = controller(server, &names).await?;
    Ok(Swept {
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

/// Deletes every copy that may be; one that cannot be stops no other.
pub async fn delete(server: &ApiServer, cleanup: &mut Cleanup, progress: &dyn Fn(&str)) {
    let copies = cleanup.copies.iter_mut();
    let deletable: Vec<_> = copies.filter(|copy| copy.fate == Fate::Deletable).collect();
    let all = deletable.len();
    let deletions = deletable.into_iter().map(async |copy| {
        let collection = format!("/api/v1/namespaces/{}/secrets", copy.namespace);
        let deletion = server.delete(&collection, &copy.metadata).await;
        copy.set(deletion);
    });
    let deletions = futures_util::stream::iter(deletions).buffer_unordered(ASKED_AT_ONCE);
    let mut deletions = std::pin::pin!(deletions.enumerate());
    while let Some((done, ())) = deletions.next().await {
        progress(&format!("deleted {} of {all}", done + 1));
    }
}

//! Pods that a restart would fix, as `status --stuck` and `recover` list them, and what became of them. Which those
//! are, and how one is evicted, is in [`crate::recovery`].

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::Value;

use super::facts::Unseen;
use super::fetch::{CannotLookError, Looking, at_once};
use super::pull::fetch::PullSecret;
use crate::cluster::secret::view;
use crate::image::ImageRef;
use crate::installation::{ApiServer, Found, Looked, Reading};
use crate::recovery::eviction::{evict, pause};
use crate::recovery::pods::FailingPod;
use crate::recovery::stuck::{Fate, Judge, StuckPod};

/// Evictions a minute unless somebody says otherwise: a scheduler and a registry take one in two seconds
/// beside their other work.
pub const EVICTIONS_PER_MINUTE: u32 = 30;

/// Secrets by namespace and name, as far as Pods would get them.
type Secrets = BTreeMap<(String, String), Looked<PullSecret>>;

/// Everything that `status --stuck` and `recover` say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckReport {
    /// Where pullpass runs.
    pub namespace: String,
    /// Its Helm release.
    pub release: String,
    /// The Pods.
    pub pods: Vec<StuckPod>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// Which Pods.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Of these namespaces; empty: of all.
    pub namespaces: &'a [String],
    /// Also those of Jobs.
    pub jobs: bool,
}

/// Looks for Pods that a restart would fix; `progress` is told what comes next.
///
/// # Errors
/// [`CannotLookError`] if there are no rules that can be read and used.
pub async fn look(
    server: &ApiServer,
    found: &Found,
    which: Which<'_>,
    progress: &dyn Fn(&str),
) -> Result<StuckReport, CannotLookError> {
    let mut looking = Looking::start(server, found, None, progress).await?;
    looking.index(found).await;
    match which.namespaces {
        [] => looking.namespaces().await,
        some => {
            for namespace in some {
                looking.namespace(namespace).await;
            }
        }
    }
    looking.unseen(
        "which Pods are sent to the webhook",
        "list mutatingwebhookconfigurations",
        &found.configurations,
    );
    progress("Pods");
    looking.facts.pods = Vec::new();
    let paths = match which.namespaces {
        [] => vec!["/api/v1/pods".to_owned()],
        some => some
            .iter()
            .map(|of| format!("/api/v1/namespaces/{of}/pods"))
            .collect(),
    };
    for path in paths {
        let mut failing = Vec::new();
        let each = |pod: Value| failing.extend(FailingPod::read(&pod));
        let pending = ListParams::default().fields("status.phase=Pending");
        let listed = server.each(&path, &pending, Reading::Whole, each).await;
        looking.unseen("Pods", "list pods -A", &listed);
        looking.facts.pods.extend(failing);
    }
    let facts = looking.facts;
    let snapshot = facts.snapshot();
    let judge = facts.judge(&snapshot, which.jobs);
    let secrets = secrets(server, wanted(&judge, &facts.pods), progress).await;
    let pods = facts.pods.iter();
    let pods = pods.filter_map(|pod| {
        judge.stuck(pod, |name, images| {
            has_login(&secrets, (&pod.namespace, name), images)
        })
    });
    let denied = secrets.iter().filter_map(|((namespace, name), seen)| {
        let right = format!("get secrets/{name} -n {namespace}");
        Some((format!("{namespace}/{name}"), Unseen::of("", &right, seen)?))
    });
    let denied = Unseen::together("Secrets that Pods would get", denied.collect());
    Ok(StuckReport {
        namespace: facts.names.namespace.clone(),
        release: facts.names.release.clone(),
        pods: pods.collect(),
        unseen: facts.unseen.into_iter().chain(denied).collect(),
    })
}

/// Namespace and name of each Secret that a Pod which waits would get.
fn wanted(judge: &Judge<'_>, pods: &[FailingPod]) -> BTreeSet<(String, String)> {
    let wanted = pods.iter().flat_map(|pod| {
        let adds = judge.adds(pod).into_iter();
        adds.map(|name| (pod.namespace.clone(), name))
    });
    wanted.collect()
}

/// Whether a Secret has a login for one of these images.
fn has_login(
    secrets: &Secrets,
    (namespace, name): (&str, &str),
    images: &[ImageRef<'_>],
) -> Looked<bool> {
    let seen = secrets.get(&(namespace.to_owned(), name.to_owned()));
    let covers = |secret: PullSecret| {
        let keyring = secret.keyring.ok();
        let covers = |image| keyring.as_ref()?.covering_key(image);
        images.iter().any(|image| covers(image).is_some())
    };
    seen.cloned().unwrap_or(Looked::Absent).map(covers)
}

async fn secrets(
    server: &ApiServer,
    wanted: BTreeSet<(String, String)>,
    progress: &dyn Fn(&str),
) -> Secrets {
    let looks = wanted.into_iter().map(async |(namespace, name)| {
        let secret: Looked<Secret> = server.one(Some(&namespace), &name).await;
        let seen = secret.map(|secret| PullSecret::read(&view(&secret)));
        ((namespace, name), seen)
    });
    let mut secrets = Secrets::new();
    let mut looks = std::pin::pin!(at_once(looks));
    while let Some((key, seen)) = looks.next().await {
        progress(&format!("Secrets: {}/{}", key.0, key.1));
        secrets.insert(key, seen);
    }
    secrets
}

/// Evicts those that may be, one after the other, so many a minute; what cannot be stops no other.
pub async fn evict_all(
    server: &ApiServer,
    report: &mut StuckReport,
    per_minute: u32,
    progress: &dyn Fn(&str),
) {
    let pause = pause(per_minute);
    let all = report.count(Fate::Evictable);
    let evictable = report.pods.iter_mut();
    let evictable = evictable.filter(|pod| pod.fate == Fate::Evictable);
    for (done, pod) in evictable.enumerate() {
        progress(&format!(
            "evicted {done} of {all}: {}/{}",
            pod.namespace, pod.pod
        ));
        if done > 0 {
            tokio::time::sleep(pause).await;
        }
        evict(server, pod).await;
    }
}

impl StuckReport {
    /// How many Pods are like this.
    pub fn count(&self, fate: Fate) -> usize {
        self.pods.iter().filter(|pod| pod.fate == fate).count()
    }

    /// How many are still there.
    pub fn left(&self) -> usize {
        self.pods.len() - self.count(Fate::Evicted) - self.count(Fate::Recovered)
    }
}

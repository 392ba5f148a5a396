//! Asks the API server for Pods that a restart would fix, and evicts them. An eviction is the API server's: it
//! holds PodDisruptionBudgets, and takes away the very Pod that was looked at.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Preconditions};
use serde_json::Value;

use super::facts::Unseen;
use super::fetch::{CannotLookError, Looking, at_once};
use super::pods::FailingPod;
use super::pull::fetch::PullSecret;
use super::stuck::{Fate, Secrets, StuckPod, StuckReport, is_stuck, stuck, wanted};
use crate::cluster::secret::view;
use crate::installation::{ApiServer, Found, Looked, Reading, Removal};

/// Evictions a minute unless somebody says otherwise: a scheduler and a registry take one in two seconds
/// beside their other work.
pub const EVICTIONS_PER_MINUTE: u32 = 30;
/// Most that somebody may ask for: ten a second, a fifth of what kubectl's client asks an API server.
pub const EVICTIONS_PER_MINUTE_MAX: u32 = 600;
/// A Pod that waits changes with each attempt to pull, so that the version looked at may be old already.
const ATTEMPTS_MAX: usize = 5;

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
    let secrets = secrets(server, wanted(&facts), progress).await;
    let denied = secrets.iter().filter_map(|((namespace, name), seen)| {
        let right = format!("get secrets/{name} -n {namespace}");
        Some((format!("{namespace}/{name}"), Unseen::of("", &right, seen)?))
    });
    let denied = Unseen::together("Secrets that Pods would get", denied.collect());
    Ok(StuckReport {
        namespace: facts.names.namespace.clone(),
        release: facts.names.release.clone(),
        pods: stuck(&facts, &secrets, which.jobs),
        unseen: facts.unseen.into_iter().chain(denied).collect(),
    })
}

async fn secrets(
    server: &ApiServer,
    wanted: Vec<(String, String)>,
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
pub async fn evict(
    server: &ApiServer,
    report: &mut StuckReport,
    per_minute: u32,
    progress: &dyn Fn(&str),
) {
    let pause = Duration::from_secs(60) / per_minute.clamp(1, EVICTIONS_PER_MINUTE_MAX);
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
        let removal = evict_one(server, pod).await;
        pod.set(removal);
    }
}

/// Evicts this very Pod, if it still waits.
async fn evict_one(server: &ApiServer, pod: &StuckPod) -> Removal {
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.pod);
    for _ in 0..ATTEMPTS_MAX {
        let object: Value = match server.object(&path).await {
            Looked::Seen(object) => object,
            Looked::Absent => return Removal::Changed,
            Looked::Denied(said) | Looked::Failed(said) => return Removal::Failed(said),
        };
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        if text("/metadata/uid") != Some(&pod.uid) || !is_stuck(&object) {
            return Removal::Changed;
        }
        let exactly = Preconditions {
            uid: Some(pod.uid.clone()),
            resource_version: text("/metadata/resourceVersion").map(str::to_owned),
        };
        match server.evict(&pod.namespace, &pod.pod, &exactly).await {
            Removal::Changed => {}
            other => return other,
        }
    }
    Removal::Failed("it keeps changing; run it again".to_owned())
}

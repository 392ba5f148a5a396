//! Asks the API server for one Pod and for what its images are pulled with. It judges nothing, and writes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::Value;

use crate::admission::{PodView, decide_pod};
use crate::cluster::secret::view;
use crate::credential::{DockerConfig, Keyring};
use crate::delivery::{SecretView, SourceSecret};
use crate::installation::{ApiServer, Found, Looked, Reading};
use crate::recovery::images::PodEvent;
use crate::recovery::pods::{FailingPod, pull_secrets};
use crate::status::facts::{Facts, Unseen};
use crate::status::fetch::Looking;

/// Everything about one Pod.
#[derive(Debug)]
pub struct PodFacts {
    /// All of it, as the API server has it.
    pub object: Value,
    /// Where it is, what it is called, who makes it anew.
    pub pod: FailingPod,
    /// Events about it; none where they could not be read.
    pub events: Vec<PodEvent>,
    /// The Secrets of its list and those that rules would add, in its namespace.
    pub secrets: BTreeMap<String, Looked<PullSecret>>,
    /// What the rules, index and sources say, for its namespace only; `None` where the rules could not be
    /// read.
    pub facts: Option<Facts>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// A Secret that a Pod may pull with, without a byte of it.
#[derive(Debug, Clone)]
pub struct PullSecret {
    /// Its keys, or why no kubelet can use them.
    pub keyring: Result<Keyring, String>,
    /// Whether it fails every image of a Pod that names it.
    pub fails_all: bool,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotExplainError {
    /// No such Pod.
    #[error("there is no Pod {name} in namespace {namespace}; choose the namespace by -n")]
    Absent {
        /// Where.
        namespace: String,
        /// What it would be called.
        name: String,
    },
    /// The Pod could not be read.
    #[error("cannot read Pod {name} in namespace {namespace}: {said}")]
    Unread {
        /// Where.
        namespace: String,
        /// What it is called.
        name: String,
        /// The API server's words.
        said: String,
    },
}

/// Looks at a Pod; `progress` is told what comes next.
///
/// # Errors
/// [`CannotExplainError`] if the Pod cannot be read. All else may be missing.
pub async fn fetch(
    server: &ApiServer,
    found: &Found,
    (namespace, name): (&str, &str),
    progress: &dyn Fn(&str),
) -> Result<PodFacts, CannotExplainError> {
    progress("Pod");
    let (object, pod) = read_pod(server, namespace, name).await?;
    let mut unseen = Vec::new();
    progress("Events");
    let events = events(server, &object, namespace, name).await;
    let right = format!("list events -n {namespace}");
    unseen.extend(Unseen::of("Events of the Pod", &right, &events));
    // The API server takes empty names, and the kubelet skips them.
    let listed = pull_secrets(&object).filter(|name| !name.is_empty());
    let listed: Vec<String> = listed.map(str::to_owned).collect();
    let mut looking = match Looking::start(server, found, None, progress).await {
        Ok(looking) => Some(looking),
        Err(error) => {
            unseen.push(Unseen {
                what: "which rules it falls under".to_owned(),
                said: error.to_string(),
                fix: "choose the installation by --installation; see `pullpass doctor`".to_owned(),
            });
            None
        }
    };
    let names = match &mut looking {
        Some(looking) => surroundings(looking, found, &pod, listed).await,
        None => listed.into_iter().collect(),
    };
    let mut secrets = BTreeMap::new();
    for secret in names {
        progress(&format!("Secret {secret}"));
        let seen: Looked<Secret> = server.one(Some(namespace), &secret).await;
        let right = format!("get secrets/{secret} -n {namespace}");
        unseen.extend(Unseen::of(&format!("Secret {secret}"), &right, &seen));
        if let Some(looking) = &mut looking {
            looking.copy(namespace, &secret, &seen);
        }
        let kept = seen.map(|secret| PullSecret::read(&view(&secret)));
        secrets.insert(secret, kept);
    }
    let mut facts = looking.map(|looking| looking.facts);
    let others = facts
        .iter_mut()
        .map(|facts| std::mem::take(&mut facts.unseen));
    unseen.extend(others.flatten());
    Ok(PodFacts {
        object,
        pod,
        events: events.seen().cloned().unwrap_or_default(),
        secrets,
        facts,
        unseen,
    })
}

/// Looks at what decides about the Pod besides its Secrets, and gives the names of those that matter: of its
/// list, and those that it would get.
async fn surroundings(
    looking: &mut Looking<'_>,
    found: &Found,
    pod: &FailingPod,
    listed: Vec<String>,
) -> BTreeSet<String> {
    looking.index(found).await;
    looking.namespace(&pod.namespace).await;
    looking.unseen(
        "whether the Pod is sent to the webhook",
        "list mutatingwebhookconfigurations",
        &found.configurations,
    );
    // It waits for them, as delivery on demand sees it.
    let waits = listed.iter().map(|name| Arc::from(name.as_str())).collect();
    let key = (pod.namespace.as_str().into(), pod.name.as_str().into());
    looking.facts.state.pods.replace([(key, waits)].into());
    let mut names: BTreeSet<String> = listed.into_iter().collect();
    names.extend(added(pod, &looking.facts));
    looking.facts.entries = entries(&looking.facts, &names);
    looking.sources().await;
    names
}

async fn read_pod(
    server: &ApiServer,
    namespace: &str,
    name: &str,
) -> Result<(Value, FailingPod), CannotExplainError> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let object: Value = match server.object(&path).await {
        Looked::Seen(object) => object,
        Looked::Absent => return Err(CannotExplainError::Absent { namespace, name }),
        Looked::Denied(said) | Looked::Failed(said) => {
            return Err(CannotExplainError::Unread {
                namespace,
                name,
                said,
            });
        }
    };
    match FailingPod::of(&object) {
        Some(pod) => Ok((object, pod)),
        None => Err(CannotExplainError::Unread {
            namespace,
            name,
            said: "it has no name".to_owned(),
        }),
    }
}

/// Events about this very Pod, not about a former one of its name.
async fn events(
    server: &ApiServer,
    pod: &Value,
    namespace: &str,
    name: &str,
) -> Looked<Vec<PodEvent>> {
    let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
    let mut events = Vec::new();
    let each = |event: Value| {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        if text("/involvedObject/uid") != uid {
            return;
        }
        let at = text("/lastTimestamp").or_else(|| text("/eventTime"));
        events.push(PodEvent {
            reason: text("/reason").unwrap_or_default().to_owned(),
            message: text("/message").unwrap_or_default().to_owned(),
            at: at.unwrap_or_default().to_owned(),
        });
    };
    let of_pod = format!("involvedObject.kind=Pod,involvedObject.name={name}");
    let params = ListParams::default().fields(&of_pod);
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let listed = server.each(&path, &params, Reading::Whole, each).await;
    listed.map(|()| events)
}

/// The pull secrets that the Pod would get if it were created now.
fn added(pod: &FailingPod, facts: &Facts) -> Vec<String> {
    let Ok(view) = PodView::parse(&pod.object) else {
        return Vec::new();
    };
    let snapshot = facts.snapshot();
    let decision = decide_pod(&pod.namespace, &view, &snapshot);
    decision
        .inject
        .iter()
        .map(|&name| name.to_owned())
        .collect()
}

/// Positions of the entries that make Secrets of these names.
fn entries(facts: &Facts, names: &BTreeSet<String>) -> Vec<usize> {
    let entries = facts.config.pull_secrets.iter().enumerate();
    let meant = entries.filter(|(_, entry)| names.contains(&entry.secret_name));
    meant.map(|(position, _)| position).collect()
}

impl PullSecret {
    /// Keeps what matters of a Secret.
    pub fn read(secret: &SecretView<'_>) -> Self {
        let content = SourceSecret::read(secret).content;
        let decoded = secret.kind().zip(secret.payload);
        let decoded = decoded.map(|(kind, payload)| DockerConfig::decode(kind, payload));
        Self {
            keyring: content
                .map(|payload| payload.keyring.clone())
                .map_err(String::from),
            // One of another type, or without data, the kubelet ignores.
            fails_all: decoded.is_some_and(|decoded| decoded.is_err()),
        }
    }
}

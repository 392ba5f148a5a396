//! Pods that wait for an image, and what makes them anew. This file must not judge.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use serde_json::Value;

use super::images::statuses;
use crate::admission::pod::INJECT_ANNOTATION;
use crate::installation::selector::{NAME_LABEL, unmet};
use crate::snapshot::Snapshot;

/// What the kubelet calls a container whose image it could not pull.
const PULL_FAILED: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];
/// Label that a Deployment puts on its ReplicaSets and Pods; its value is the end of the ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod, mostly one that waits for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingPod {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What makes it anew.
    pub owner: Owner,
    /// When the API server made it, as it says so: RFC 3339, in whole seconds.
    pub created: String,
    /// All of it, JSON.
    pub object: Vec<u8>,
}

/// What makes a Pod anew when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A kind and a name that `kubectl rollout restart` takes.
    Rollout(&'static str, String),
    /// Something else; a kind and a name.
    Other(String, String),
    /// Nobody.
    Nobody,
}

/// The names in a Pod's `imagePullSecrets`.
pub fn pull_secrets(pod: &Value) -> impl Iterator<Item = &str> {
    let list = pod.pointer("/spec/imagePullSecrets");
    let entries = list.and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| entry.get("name")?.as_str())
}

impl FailingPod {
    /// Looks at a Pod; `None` for one that does not wait for an image.
    pub fn read(pod: &Value) -> Option<Self> {
        Self::waits_for_image(pod).then(|| Self::of(pod))?
    }

    pub(super) fn waits_for_image(pod: &Value) -> bool {
        let mut reasons =
            statuses(pod).filter_map(|status| status.pointer("/state/waiting/reason")?.as_str());
        reasons.any(|reason| PULL_FAILED.contains(&reason))
    }

    /// Looks at any Pod; `None` for what has no name and namespace.
    pub fn of(pod: &Value) -> Option<Self> {
        let metadata = pod.get("metadata")?;
        let text = |field| metadata.get(field)?.as_str().map(str::to_owned);
        let labels = metadata.get("labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.into())));
        let labels: BTreeMap<String, String> = labels.collect();
        Some(Self {
            namespace: text("namespace")?,
            name: text("name")?,
            owner: Owner::of(metadata, &labels),
            created: text("creationTimestamp").unwrap_or_default(),
            labels,
            object: pod.to_string().into_bytes(),
        })
    }

    /// Whether the API server asks the webhook about Pods like this one. Without the webhook's
    /// configuration, only the label by which a namespace opts out is looked at.
    pub fn is_sent(&self, webhook: Option<&MutatingWebhook>, snapshot: &Snapshot) -> bool {
        let labels = snapshot.namespaces().labels(&self.namespace);
        let mut labels = labels.cloned().unwrap_or_default();
        let Some(webhook) = webhook else {
            return labels
                .get(INJECT_ANNOTATION)
                .is_none_or(|value| value != "false");
        };
        labels.insert(NAME_LABEL.to_owned(), self.namespace.clone());
        unmet(webhook.namespace_selector.as_ref(), &labels).is_none()
            && unmet(webhook.object_selector.as_ref(), &self.labels).is_none()
    }
}

/// `deployment/web`, as `kubectl` has it.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollout(kind, name) => write!(f, "{kind}/{name}"),
            Self::Other(kind, name) => write!(f, "{}/{name}", kind.to_lowercase()),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

impl Owner {
    fn of(metadata: &Value, labels: &BTreeMap<String, String>) -> Self {
        let owners = metadata.get("ownerReferences").and_then(Value::as_array);
        let mut owners = owners.into_iter().flatten();
        let controller = owners.find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
        let text = |field| controller?.get(field)?.as_str();
        let (Some(kind), Some(name)) = (text("kind"), text("name")) else {
            return Self::Nobody;
        };
        let deployment = || {
            let hash = labels.get(TEMPLATE_HASH)?;
            name.strip_suffix(&**hash)?.strip_suffix('-')
        };
        let version = text("apiVersion").and_then(|version| version.split_once('/'));
        match (kind, deployment()) {
            // Somebody's own, of any name; called as kubectl has it.
            _ if version.is_some_and(|(group, _)| !matches!(group, "apps" | "batch")) => {
                let group = version.map_or("", |(group, _)| group);
                Self::Other(format!("{kind}.{group}"), name.to_owned())
            }
            ("ReplicaSet", Some(deployment)) => Self::Rollout("deployment", deployment.to_owned()),
            ("StatefulSet", _) => Self::Rollout("statefulset", name.to_owned()),
            ("DaemonSet", _) => Self::Rollout("daemonset", name.to_owned()),
            _ => Self::Other(kind.to_owned(), name.to_owned()),
        }
    }

    /// Whether it is one of those that make a Pod anew whatever became of the last one. Others may take an evicted Pod
    /// for a failure, as workflows do.
    pub fn makes_anew(&self) -> bool {
        match self {
            Self::Rollout(..) => true,
            Self::Other(kind, _) => matches!(&**kind, "ReplicaSet" | "ReplicationController"),
            Self::Nobody => false,
        }
    }

    /// What makes these Pods of it anew.
    pub fn fix(&self, namespace: &str, pods: &[String]) -> String {
        let pods = pods.join(" ");
        match self {
            Self::Rollout(kind, name) => {
                format!("kubectl -n {namespace} rollout restart {kind}/{name}")
            }
            Self::Other(..) => format!("kubectl -n {namespace} delete pod {pods}"),
            Self::Nobody => {
                format!("kubectl -n {namespace} delete pod {pods}, and create it again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_surely_makes_a_pod_anew() {
        for (version, kind, expected) in [
            ("apps/v1", "ReplicaSet", true),
            ("apps/v1", "StatefulSet", true),
            ("apps/v1", "DaemonSet", true),
            ("v1", "ReplicationController", true),
            ("batch/v1", "Job", false),
            ("apps.kruise.io/v1beta1", "StatefulSet", false),
            ("argoproj.io/v1alpha1", "Workflow", false),
        ] {
            let owner =
                json!({"apiVersion": version, "kind": kind, "name": "web", "controller": true});
            let metadata = json!({"ownerReferences": [owner]});
            assert_eq!(
                Owner::of(&metadata, &BTreeMap::new()).makes_anew(),
                expected,
                "{kind}"
            );
        }
        assert!(!Owner::of(&json!({}), &BTreeMap::new()).makes_anew());
    }

    #[test]
    fn who_waits_for_no_image_is_left_out() {
        let pod = |reason: &str| {
            let waiting = json!({"state": {"waiting": {"reason": reason}}});
            json!({
                "metadata": {"name": "web-1", "namespace": "team"},
                "status": {"containerStatuses": [{"state": {"running": {}}}, waiting]},
            })
        };
        assert!(FailingPod::read(&pod("ContainerCreating")).is_none());
        assert!(FailingPod::read(&json!({"metadata": {}})).is_none());
        assert!(FailingPod::read(&pod("ImagePullBackOff")).is_some());
    }
}

//! Pods that wait for an image, and those of them that a restart would help: decided again by the webhook's
//! own decision, they would get a pull secret that they do not have.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use serde::Serialize;
use serde_json::Value;

use crate::admission::pod::INJECT_ANNOTATION;
use crate::admission::{PodView, decide_pod};
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

/// Pods of one owner that a restart would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// Where they are.
    pub namespace: String,
    /// Their names.
    pub pods: Vec<String>,
    /// Pull secrets that they would get.
    pub adds: Vec<String>,
    /// What restarts them.
    pub fix: String,
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

    fn waits_for_image(pod: &Value) -> bool {
        let lists = [
            "initContainerStatuses",
            "containerStatuses",
            "ephemeralContainerStatuses",
        ];
        let containers = lists
            .iter()
            .filter_map(|list| pod.get("status")?.get(*list)?.as_array())
            .flatten();
        let mut reasons =
            containers.filter_map(|container| container.pointer("/state/waiting/reason")?.as_str());
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
            labels,
            object: pod.to_string().into_bytes(),
        })
    }

    /// Whether the API server asks the webhook about Pods like this one. Without the webhook's
    /// configuration, only the label by which a namespace opts out is looked at.
    pub(super) fn is_sent(&self, webhook: Option<&MutatingWebhook>, snapshot: &Snapshot) -> bool {
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
        match (kind, deployment()) {
            ("ReplicaSet", Some(deployment)) => Self::Rollout("deployment", deployment.to_owned()),
            ("StatefulSet", _) => Self::Rollout("statefulset", name.to_owned()),
            ("DaemonSet", _) => Self::Rollout("daemonset", name.to_owned()),
            _ => Self::Other(kind.to_owned(), name.to_owned()),
        }
    }

    /// What makes these Pods of it anew.
    pub(super) fn fix(&self, namespace: &str, pods: &[String]) -> String {
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

/// The Pods that a restart would help, those of one owner together.
pub fn restarts(
    pods: &[FailingPod],
    snapshot: &Snapshot,
    webhook: Option<&MutatingWebhook>,
) -> Vec<Restart> {
    // A Pod without an owner is made again by its name.
    let mut owners: BTreeMap<(&str, &Owner, &str), Restart> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.is_sent(webhook, snapshot)) {
        let Ok(view) = PodView::parse(&pod.object) else {
            continue;
        };
        let decision = decide_pod(&pod.namespace, &view, snapshot);
        if decision.inject.is_empty() {
            continue;
        }
        let alone = match pod.owner {
            Owner::Nobody => &*pod.name,
            _ => "",
        };
        let owner = owners.entry((&pod.namespace, &pod.owner, alone));
        let restart = owner.or_insert_with(|| Restart::of(&pod.namespace));
        restart.pods.push(pod.name.clone());
        for name in decision.inject {
            if !restart.adds.iter().any(|known| known == name) {
                restart.adds.push(name.to_owned());
            }
        }
    }
    let with_fix = |((namespace, owner, _), restart): ((&str, &Owner, &str), Restart)| Restart {
        fix: owner.fix(namespace, &restart.pods),
        ..restart
    };
    owners.into_iter().map(with_fix).collect()
}

impl Restart {
    fn of(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pods: Vec::new(),
            adds: Vec::new(),
            fix: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sound;
    use super::*;
    use serde_json::json;

    const IMAGE: &str = "harbor.example.com/web";

    fn pod(image: &str, reason: &str) -> Value {
        let waiting = json!({"state": {"waiting": {"reason": reason}}});
        json!({
            "metadata": {"name": "web-1", "namespace": "team"},
            "spec": {"containers": [{"image": image}]},
            "status": {"containerStatuses": [{"state": {"running": {}}}, waiting]},
        })
    }

    /// What restarts a Pod with this metadata besides.
    fn check_fix(metadata: &Value, expected: &str) {
        let mut object = pod(IMAGE, "ErrImagePull");
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        let failing = FailingPod::read(&object).unwrap();
        let restarts = restarts(&[failing], &sound::facts().snapshot(), None);
        assert_eq!(restarts[0].fix, expected);
        assert_eq!(restarts[0].adds, ["harbor"]);
    }

    #[test]
    fn each_owner_has_its_fix() {
        let owner =
            |kind: &str, name: &str| json!([{"kind": kind, "name": name, "controller": true}]);
        let hash = json!({"pod-template-hash": "7d9f"});
        check_fix(
            &json!({"labels": hash, "ownerReferences": owner("ReplicaSet", "web-7d9f")}),
            "kubectl -n team rollout restart deployment/web",
        );
        check_fix(
            &json!({"ownerReferences": owner("ReplicaSet", "web-7d9f")}),
            "kubectl -n team delete pod web-1",
        );
        check_fix(
            &json!({"ownerReferences": owner("StatefulSet", "web")}),
            "kubectl -n team rollout restart statefulset/web",
        );
        check_fix(
            &json!({"ownerReferences": owner("DaemonSet", "web")}),
            "kubectl -n team rollout restart daemonset/web",
        );
        check_fix(
            &json!({"ownerReferences": owner("Job", "web")}),
            "kubectl -n team delete pod web-1",
        );
        let not_a_controller = json!([{"kind": "DaemonSet", "name": "web"}]);
        check_fix(
            &json!({"ownerReferences": not_a_controller}),
            "kubectl -n team delete pod web-1, and create it again",
        );
    }

    #[test]
    fn who_waits_for_no_image_is_left_out() {
        assert!(FailingPod::read(&pod(IMAGE, "ContainerCreating")).is_none());
        assert!(FailingPod::read(&json!({"metadata": {}})).is_none());
        assert!(FailingPod::read(&pod(IMAGE, "ImagePullBackOff")).is_some());
    }

    /// Whether a Pod in namespace `team` would be helped.
    fn check_helped(change: impl FnOnce(&mut Value), webhook: Option<&Value>, expected: bool) {
        let mut object = pod(IMAGE, "ImagePullBackOff");
        change(&mut object);
        let failing = FailingPod::read(&object).unwrap();
        let webhook: Option<MutatingWebhook> =
            webhook.map(|webhook| serde_json::from_value(webhook.clone()).unwrap());
        let restarts = restarts(&[failing], &sound::facts().snapshot(), webhook.as_ref());
        assert_eq!(restarts.len(), usize::from(expected), "{object}");
    }

    #[test]
    fn only_who_would_get_another_secret_is_helped() {
        check_helped(|_| {}, None, true);
        check_helped(
            |pod| pod["spec"]["containers"][0]["image"] = json!("public.example.com/web"),
            None,
            false,
        );
        check_helped(
            |pod| pod["spec"]["imagePullSecrets"] = json!([{"name": "harbor"}]),
            None,
            false,
        );
        check_helped(
            |pod| pod["metadata"]["annotations"] = json!({INJECT_ANNOTATION: "false"}),
            None,
            false,
        );
    }

    #[test]
    fn only_who_is_sent_to_the_webhook_is_helped() {
        let webhook = |selector: &str, labels: Value| {
            let mut webhook = json!({"name": "w", "clientConfig": {}, "sideEffects": "None",
                "admissionReviewVersions": ["v1"]});
            webhook[selector] = json!({"matchLabels": labels});
            webhook
        };
        let by_name = |name: &str| webhook("namespaceSelector", json!({NAME_LABEL: name}));
        check_helped(|_| {}, Some(&by_name("team")), true);
        check_helped(|_| {}, Some(&by_name("other")), false);
        let by_pod = webhook("objectSelector", json!({"pull": "yes"}));
        check_helped(|_| {}, Some(&by_pod), false);
        let label = |pod: &mut Value| pod["metadata"]["labels"] = json!({"pull": "yes"});
        check_helped(label, Some(&by_pod), true);
    }
}

//! The Pods that wait for an image and that a restart would help: decided again by the webhook's own decision,
//! they would get a pull secret that they do not have. Whether it has a login for them is for
//! [`crate::recovery`] to say.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::recovery::pods::{FailingPod, Owner};
use crate::recovery::stuck::Judge;

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

/// The Pods that a restart would help, those of one owner together.
pub fn restarts(pods: &[FailingPod], judge: &Judge<'_>) -> Vec<Restart> {
    // A Pod without an owner is made again by its name.
    let mut owners: BTreeMap<(&str, &Owner, &str), Restart> = BTreeMap::new();
    for pod in pods {
        let adds = judge.adds(pod);
        if adds.is_empty() {
            continue;
        }
        let alone = match pod.owner {
            Owner::Nobody => &*pod.name,
            _ => "",
        };
        let owner = owners.entry((&pod.namespace, &pod.owner, alone));
        let restart = owner.or_insert_with(|| Restart::of(&pod.namespace));
        restart.pods.push(pod.name.clone());
        for name in adds {
            if !restart.adds.contains(&name) {
                restart.adds.push(name);
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
    use crate::admission::pod::INJECT_ANNOTATION;
    use crate::installation::selector::NAME_LABEL;
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
    use serde_json::{Value, json};

    const IMAGE: &str = "harbor.example.com/web";

    fn pod(image: &str, reason: &str) -> Value {
        let waiting = json!({"state": {"waiting": {"reason": reason}}});
        json!({
            "metadata": {"name": "web-1", "namespace": "team"},
            "spec": {"containers": [{"image": image}]},
            "status": {"containerStatuses": [{"state": {"running": {}}}, waiting]},
        })
    }

    fn helped(pod: FailingPod, webhook: Option<&MutatingWebhook>) -> Vec<Restart> {
        let snapshot = sound::facts().snapshot();
        let judge = Judge {
            webhook,
            snapshot: &snapshot,
            jobs: false,
        };
        restarts(&[pod], &judge)
    }

    /// What restarts a Pod with this metadata besides.
    fn check_fix(metadata: &Value, expected: &str) {
        let mut object = pod(IMAGE, "ErrImagePull");
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        let failing = FailingPod::read(&object).unwrap();
        let restarts = helped(failing, None);
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

    /// Whether a Pod in namespace `team` would be helped.
    fn check_helped(change: impl FnOnce(&mut Value), webhook: Option<&Value>, expected: bool) {
        let mut object = pod(IMAGE, "ImagePullBackOff");
        change(&mut object);
        let failing = FailingPod::read(&object).unwrap();
        let webhook: Option<MutatingWebhook> =
            webhook.map(|webhook| serde_json::from_value(webhook.clone()).unwrap());
        let restarts = helped(failing, webhook.as_ref());
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

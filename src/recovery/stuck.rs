//! Pods that wait for an image and would start if they were made anew, one by one, and which of them may be
//! evicted. Pure: it must not ask, and evicts nobody.
//!
//! A Pod is in the list only where a restart helps: created now, it would get a pull secret that it lacks, which
//! is in its namespace and has a login for an image that fails, which its registry is not known to reject. It may be
//! evicted if something makes it anew and nothing of it runs. A DaemonSet's Pod comes back to its node, and may; a Job
//! counts an evicted Pod as failed, and other controllers may, so that their Pods are left unless somebody says
//! otherwise; static Pods name no Secrets and are never in the list.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use serde::Serialize;
use serde_json::Value;

use super::images::{failing, statuses};
use super::pods::{FailingPod, Owner};
use crate::admission::{Decision, PodView, Warning, decide_pod};
use crate::image::ImageRef;
use crate::installation::{Looked, Removal};
use crate::snapshot::Snapshot;

/// What decides about Pods.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// How the API server is told to ask the webhook; `None` if that was not found.
    pub webhook: Option<&'a MutatingWebhook>,
    /// What a webhook decides with.
    pub snapshot: &'a Snapshot,
    /// Whether Pods may be evicted of Jobs, and of whatever else may count them as failed.
    pub jobs: bool,
}

/// A Pod that a restart would fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckPod {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What makes it anew, as `deployment/web`; `None`: nobody.
    pub owner: Option<String>,
    /// Pull secrets that it would get.
    pub adds: Vec<String>,
    /// What may become of it, or has.
    pub fate: Fate,
    /// Why it is still there.
    pub reason: Option<String>,
    /// What restarts it, if it is not evicted.
    pub fix: String,
    /// Which of all Pods that ever had its name.
    #[serde(skip)]
    pub uid: String,
    /// [`FailingPod::created`].
    #[serde(skip)]
    pub created: String,
}

/// What may become of a Pod, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It may be evicted.
    Evictable,
    /// It is not touched.
    Left,
    /// It was evicted.
    Evicted,
    /// It is gone, or waits no longer, without us.
    Recovered,
    /// A PodDisruptionBudget did not let it go.
    Refused,
    /// It could not be evicted.
    Failed,
}

/// Whether a Pod that was read again still waits for an image, maybe for want of a login, and nothing of it runs.
pub fn is_stuck(pod: &Value) -> bool {
    let is_pending = pod.pointer("/status/phase").and_then(Value::as_str) == Some("Pending");
    let is_going = pod.pointer("/metadata/deletionTimestamp").is_some();
    let waits = FailingPod::waits_for_image(pod) && !failing(pod).is_empty();
    is_pending && !is_going && !runs(pod) && waits
}

/// Whether a container runs: beside it, another may wait for its image. Somebody may be looking into the Pod.
fn runs(pod: &Value) -> bool {
    statuses(pod).any(|status| status.pointer("/state/running").is_some())
}

impl<'a> Judge<'a> {
    /// What a Pod would get if it were created now.
    pub fn adds(&self, pod: &FailingPod) -> Vec<String> {
        let decision = self.decision(pod);
        decision.iter().flat_map(added).map(str::to_owned).collect()
    }

    fn decision(&self, pod: &FailingPod) -> Option<Decision<'a>> {
        let view = PodView::parse(&pod.object).ok()?;
        let is_sent = pod.is_sent(self.webhook, self.snapshot);
        is_sent.then(|| decide_pod(&pod.namespace, &view, self.snapshot))
    }

    /// What may become of a Pod; `None` if a restart would not fix it. `has_login` says whether the Secret of
    /// this name, in the Pod's namespace, has a login for one of these images.
    pub fn stuck(
        &self,
        pod: &FailingPod,
        has_login: impl Fn(&str, &[ImageRef<'_>]) -> Looked<bool>,
    ) -> Option<StuckPod> {
        let decision = self.decision(pod)?;
        let object: Value = serde_json::from_slice(&pod.object).ok()?;
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            return None;
        }
        let failing = failing(&object);
        let images = failing
            .iter()
            .filter_map(|image| ImageRef::parse(image).ok());
        let images: Vec<_> = images.collect();
        if images.is_empty() {
            return None;
        }
        let is_rejected = |name| decision.warnings.contains(&Warning::InjectRejected(name));
        let accepted = added(&decision).filter(|name| !is_rejected(name));
        let reason = match help(accepted, |name| has_login(name, &images))? {
            Help::Unseen => Some("whether its pull secret is there could not be seen".to_owned()),
            Help::Sure => pod.reason_to_leave(&object, self.jobs),
        };
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let text = |pointer| text(pointer).unwrap_or_default().to_owned();
        Some(StuckPod {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            owner: (pod.owner != Owner::Nobody).then(|| pod.owner.to_string()),
            adds: added(&decision).map(str::to_owned).collect(),
            fate: match reason {
                Some(_) => Fate::Left,
                None => Fate::Evictable,
            },
            reason,
            fix: pod
                .owner
                .fix(&pod.namespace, std::slice::from_ref(&pod.name)),
            uid: text("/metadata/uid"),
            created: pod.created.clone(),
        })
    }
}

/// The names that a decision adds.
fn added<'d>(decision: &'d Decision<'_>) -> impl Iterator<Item = &'d str> {
    decision.inject.iter().copied()
}

/// How sure it is that a restart helps.
enum Help {
    Sure,
    /// A Secret that may help could not be looked at.
    Unseen,
}

/// `None`: no Secret that the Pod would get has a login for an image that fails.
fn help<'a>(
    adds: impl Iterator<Item = &'a str>,
    has_login: impl Fn(&str) -> Looked<bool>,
) -> Option<Help> {
    let mut helps = None;
    for name in adds {
        match has_login(name) {
            Looked::Seen(true) => return Some(Help::Sure),
            Looked::Denied(_) | Looked::Failed(_) => helps = Some(Help::Unseen),
            Looked::Seen(false) | Looked::Absent => {}
        }
    }
    helps
}

impl FailingPod {
    fn reason_to_leave(&self, object: &Value, jobs: bool) -> Option<String> {
        let reason = match &self.owner {
            _ if runs(object) => "one of its containers runs",
            Owner::Nobody => "nobody would make it anew",
            owner if owner.makes_anew() || jobs => return None,
            Owner::Other(kind, _) if kind == "Job" => {
                "its Job would count it as failed; --jobs evicts it all the same"
            }
            _ => "its owner may count it as failed; --jobs evicts it all the same",
        };
        Some(reason.to_owned())
    }
}

impl StuckPod {
    /// Says what became of it.
    pub fn set(&mut self, removal: Removal) {
        (self.fate, self.reason) = match removal {
            Removal::Done => (Fate::Evicted, None),
            Removal::Changed => {
                let reason = "it waits no longer, or is gone".to_owned();
                (Fate::Recovered, Some(reason))
            }
            Removal::Refused(said) => (Fate::Refused, Some(said)),
            Removal::Failed(said) => (Fate::Failed, Some(said)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::SecretType;
    use crate::index::{Coverage, Index, State, manifest::usable_keys};
    use crate::rules::{self, Ruleset};
    use crate::snapshot::Namespaces;
    use serde_json::json;
    use std::collections::HashSet;
    use std::sync::Arc;

    const RULES: &str = "apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: harbor}]
rules: [{name: harbor, images: [harbor.example.com], pullSecrets: [harbor]}]
";

    fn pod(owner: &Value) -> Value {
        let waiting = json!({"reason": "ImagePullBackOff", "message": "401 Unauthorized"});
        json!({
            "metadata": {"name": "web-1", "namespace": "team", "uid": "u", "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "app", "image": "harbor.example.com/web"}]},
            "status": {"phase": "Pending", "containerStatuses":
                [{"name": "app", "imageID": "", "state": {"waiting": waiting}}]},
        })
    }

    fn owner(kind: &str) -> Value {
        json!({"kind": kind, "name": "web", "controller": true})
    }

    fn listed(pod: &Value, has_login: &Looked<bool>, jobs: bool) -> Option<StuckPod> {
        listed_with(RULES, Index::default(), pod, has_login, jobs)
    }

    fn listed_with(
        rules: &str,
        index: Index,
        pod: &Value,
        has_login: &Looked<bool>,
        jobs: bool,
    ) -> Option<StuckPod> {
        let ruleset = Ruleset::compile(&rules::load(rules).unwrap());
        let namespaces = Namespaces::Seen(Arc::default());
        let snapshot = Snapshot::new(Arc::new(ruleset), Arc::new(index), namespaces, 1);
        let judge = Judge {
            webhook: None,
            snapshot: &snapshot,
            jobs,
        };
        let pod = FailingPod::read(pod).unwrap();
        judge.stuck(&pod, |name, images| {
            assert_eq!((name, images.len()), ("harbor", 1));
            has_login.clone()
        })
    }

    /// Whether a Pod with this owner is evicted.
    fn check_owner(kind: &str, jobs: bool, expected: bool) {
        let found = listed(&pod(&owner(kind)), &Looked::Seen(true), jobs).unwrap();
        let is_evicted = found.fate == Fate::Evictable;
        assert_eq!(is_evicted, expected, "{kind}");
        assert_eq!(found.reason.is_none(), expected, "{kind}");
    }

    #[test]
    fn who_is_made_anew_may_be_evicted() {
        for kind in [
            "ReplicaSet",
            "StatefulSet",
            "DaemonSet",
            "ReplicationController",
        ] {
            check_owner(kind, false, true);
        }
        for kind in ["Job", "TaskRun"] {
            check_owner(kind, false, false);
            check_owner(kind, true, true);
        }
        let alone = listed(&pod(&json!({})), &Looked::Seen(true), true).unwrap();
        assert_eq!(alone.fate, Fate::Left);
        assert_eq!(alone.owner, None);
        assert!(alone.fix.contains("create it again"), "{}", alone.fix);
    }

    #[test]
    fn who_runs_in_part_is_left() {
        let running = json!({"name": "side", "state": {"running": {}}});
        for list in [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ] {
            let mut pod = pod(&owner("ReplicaSet"));
            let status = pod["status"].as_object_mut().unwrap();
            let statuses = status.entry(list).or_insert_with(|| json!([]));
            statuses.as_array_mut().unwrap().push(running.clone());
            let found = listed(&pod, &Looked::Seen(true), false).unwrap();
            assert_eq!(found.fate, Fate::Left, "{list}");
            assert!(!is_stuck(&pod), "{list}");
        }
    }

    #[test]
    fn only_who_would_get_a_login_for_a_failing_image_is_listed() {
        let pod = pod(&owner("ReplicaSet"));
        assert!(listed(&pod, &Looked::Seen(true), false).is_some());
        assert!(listed(&pod, &Looked::Seen(false), false).is_none());
        assert!(listed(&pod, &Looked::Absent, false).is_none());
        let unseen = listed(&pod, &Looked::Denied("no".to_owned()), false).unwrap();
        assert_eq!(unseen.fate, Fate::Left);
    }

    #[test]
    fn who_would_get_what_the_registry_rejects_is_not_listed() {
        let probe = "probe: {repository: harbor.example.com/web}";
        let probed = RULES.replace("{name: harbor}", &format!("{{name: harbor, {probe}}}"));
        // The rejected one has the same name, and is for others.
        let beside = RULES
            .replace(
                "{name: harbor}",
                &format!(
                    "{{name: ours, secretName: harbor, namespaces: [team]}}, \
                     {{name: harbor, namespaces: [others], {probe}}}"
                ),
            )
            .replace("pullSecrets: [harbor]", "pullSecrets: [ours, harbor]");
        let ruleset = Ruleset::compile(&rules::load(&probed).unwrap());
        let asked = ruleset.pull_secrets()[0].asked.as_deref().unwrap();
        let rejected = State::Rejected {
            asked: asked.to_owned(),
            reason: String::new(),
        };
        for (rules, state, expected) in [
            (&probed, State::Usable, true),
            (&probed, rejected.clone(), false),
            (&beside, rejected, true),
        ] {
            let config =
                br#"{"auths": {"harbor.example.com": {"username": "u", "password": "p"}}}"#;
            let coverage = Coverage {
                keyring: usable_keys(SecretType::DockerConfigJson, config).unwrap(),
                state,
                undecodable_in: HashSet::new(),
            };
            let mut index = Index::default();
            index.secrets.insert("harbor".to_owned(), coverage);
            let pod = pod(&owner("ReplicaSet"));
            let found = listed_with(rules, index, &pod, &Looked::Seen(true), false);
            assert_eq!(found.is_some(), expected);
        }
    }

    #[test]
    fn who_fails_for_another_reason_is_not_listed() {
        for (message, expected) in [
            ("x509: certificate signed by unknown authority", false),
            ("no space left on device", false),
            ("429 Too Many Requests", true),
            ("words of a runtime that nobody knows", true),
            ("", true),
        ] {
            let mut pod = pod(&owner("ReplicaSet"));
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = json!(message);
            let found = listed(&pod, &Looked::Seen(true), false);
            assert_eq!(found.is_some(), expected, "{message}");
        }
    }

    #[test]
    fn who_waits_no_longer_is_not_evicted() {
        let stuck = pod(&owner("ReplicaSet"));
        assert!(is_stuck(&stuck));
        for (pointer, value) in [
            ("/status/phase", json!("Running")),
            ("/status/containerStatuses/0/state", json!({"running": {}})),
            (
                "/status/containerStatuses/0/state/waiting/message",
                json!("x509: certificate signed by unknown authority"),
            ),
            (
                "/metadata",
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            ),
        ] {
            let mut pod = stuck.clone();
            *pod.pointer_mut(pointer).unwrap() = value;
            assert!(!is_stuck(&pod), "{pod}");
        }
    }
}

//! Pods that wait for an image and would start if they were made anew, one by one, and which of them may be
//! evicted. Pure: it must not ask, and evicts nobody.
//!
//! A Pod is in the list only where a restart helps: created now, it would get a pull secret that it lacks, which
//! is in its namespace and has a login for an image that fails. It may be evicted if something makes it anew and
//! nothing of it runs. A DaemonSet's Pod comes back to its node, and may; a Job counts an evicted Pod as failed,
//! so that its Pods are left unless somebody says otherwise; static Pods name no Secrets and are never in the
//! list.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::facts::{Facts, Unseen};
use super::pods::{FailingPod, Owner};
use super::pull::fetch::PullSecret;
use super::pull::images::failing;
use crate::admission::{PodView, decide_pod};
use crate::image::ImageRef;
use crate::installation::{Looked, Removal};
use crate::snapshot::Snapshot;

/// Secrets by namespace and name, as far as Pods would get them.
pub type Secrets = BTreeMap<(String, String), Looked<PullSecret>>;

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

/// Whether a Pod that was read again still waits, and nothing of it runs.
pub fn is_stuck(pod: &Value) -> bool {
    let is_pending = pod.pointer("/status/phase").and_then(Value::as_str) == Some("Pending");
    let is_going = pod.pointer("/metadata/deletionTimestamp").is_some();
    is_pending && !is_going && !runs(pod) && FailingPod::read(pod).is_some()
}

/// Whether a container runs: beside it, another may wait for its image.
fn runs(pod: &Value) -> bool {
    let statuses = pod.pointer("/status/containerStatuses");
    let mut statuses = statuses.and_then(Value::as_array).into_iter().flatten();
    statuses.any(|status| status.pointer("/state/running").is_some())
}

/// Namespace and name of each Secret that a Pod which waits would get.
pub fn wanted(facts: &Facts) -> Vec<(String, String)> {
    let snapshot = facts.snapshot();
    let pods = facts.pods.iter();
    let mut wanted: Vec<_> = pods
        .flat_map(|pod| {
            let adds = adds(pod, facts, &snapshot).into_iter();
            adds.map(|name| (pod.namespace.clone(), name))
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// What a Pod would get if it were created now.
fn adds(pod: &FailingPod, facts: &Facts, snapshot: &Snapshot) -> Vec<String> {
    let Ok(view) = PodView::parse(&pod.object) else {
        return Vec::new();
    };
    if !pod.is_sent(facts.webhook.as_ref(), snapshot) {
        return Vec::new();
    }
    let decision = decide_pod(&pod.namespace, &view, snapshot);
    decision
        .inject
        .iter()
        .map(|&name| name.to_owned())
        .collect()
}

/// The Pods that a restart would fix; those of Jobs may be evicted only with `jobs`.
pub fn stuck(facts: &Facts, secrets: &Secrets, jobs: bool) -> Vec<StuckPod> {
    let snapshot = facts.snapshot();
    let pods = facts.pods.iter();
    pods.filter_map(|pod| {
        let adds = adds(pod, facts, &snapshot);
        let object: Value = serde_json::from_slice(&pod.object).ok()?;
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            return None;
        }
        let help = help(pod, &adds, &failing(&object), secrets)?;
        let reason = match help {
            Help::Unseen => Some("whether its pull secret is there could not be seen".to_owned()),
            Help::Sure => pod.reason_to_leave(&object, jobs),
        };
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        Some(StuckPod {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            owner: (pod.owner != Owner::Nobody).then(|| pod.owner.to_string()),
            adds,
            fate: match reason {
                Some(_) => Fate::Left,
                None => Fate::Evictable,
            },
            reason,
            fix: pod
                .owner
                .fix(&pod.namespace, std::slice::from_ref(&pod.name)),
            uid: uid.unwrap_or_default().to_owned(),
        })
    })
    .collect()
}

/// How sure it is that a restart helps.
enum Help {
    Sure,
    /// A Secret that may help could not be looked at.
    Unseen,
}

/// `None`: no Secret that the Pod would get has a login for an image that fails.
fn help(pod: &FailingPod, adds: &[String], failing: &[String], secrets: &Secrets) -> Option<Help> {
    let images: Vec<_> = failing
        .iter()
        .filter_map(|image| ImageRef::parse(image).ok())
        .collect();
    let mut helps = None;
    for name in adds {
        match secrets.get(&(pod.namespace.clone(), name.clone())) {
            Some(Looked::Seen(PullSecret { keyring, .. })) => {
                let keyring = keyring.as_ref().ok();
                let covers = |image| keyring.is_some_and(|ring| ring.covering_key(image).is_some());
                if images.iter().any(covers) {
                    return Some(Help::Sure);
                }
            }
            Some(Looked::Denied(_) | Looked::Failed(_)) => helps = Some(Help::Unseen),
            Some(Looked::Absent) | None => {}
        }
    }
    helps
}

impl FailingPod {
    fn reason_to_leave(&self, object: &Value, jobs: bool) -> Option<String> {
        let reason = match &self.owner {
            _ if runs(object) => "one of its containers runs",
            Owner::Nobody => "nobody would make it anew",
            Owner::Other(kind, _) if kind == "Job" && !jobs => {
                "its Job would count it as failed; --jobs evicts it all the same"
            }
            Owner::Rollout(..) | Owner::Other(..) => return None,
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

#[cfg(test)]
mod tests {
    use super::super::sound;
    use super::*;
    use crate::credential::Keyring;
    use crate::credential::keyring::Key;
    use serde_json::json;

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

    fn secret(key: &str) -> Looked<PullSecret> {
        let key = Key { key, usable: true };
        Looked::Seen(PullSecret {
            keyring: Ok(Keyring::new([key])),
            fails_all: false,
        })
    }

    fn listed(pod: &Value, secret: Looked<PullSecret>, jobs: bool) -> Option<StuckPod> {
        let facts = Facts {
            pods: vec![FailingPod::read(pod).unwrap()],
            ..sound::facts()
        };
        let key = ("team".to_owned(), "harbor".to_owned());
        assert_eq!(wanted(&facts), std::slice::from_ref(&key));
        stuck(&facts, &[(key, secret)].into(), jobs).pop()
    }

    /// Whether a Pod with this owner is evicted.
    fn check_owner(kind: &str, jobs: bool, expected: bool) {
        let found = listed(&pod(&owner(kind)), secret("harbor.example.com"), jobs).unwrap();
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
            "Tool",
        ] {
            check_owner(kind, false, true);
        }
        check_owner("Job", false, false);
        check_owner("Job", true, true);
        let alone = listed(&pod(&json!({})), secret("harbor.example.com"), true).unwrap();
        assert_eq!(alone.fate, Fate::Left);
        assert_eq!(alone.owner, None);
        assert!(alone.fix.contains("create it again"), "{}", alone.fix);
    }

    #[test]
    fn who_runs_in_part_is_left() {
        let mut pod = pod(&owner("ReplicaSet"));
        let running = json!({"name": "side", "state": {"running": {}}});
        let statuses = pod["status"]["containerStatuses"].as_array_mut().unwrap();
        statuses.push(running);
        let found = listed(&pod, secret("harbor.example.com"), false).unwrap();
        assert_eq!(found.fate, Fate::Left);
        assert!(!is_stuck(&pod));
    }

    #[test]
    fn only_who_would_get_a_login_for_a_failing_image_is_listed() {
        let pod = pod(&owner("ReplicaSet"));
        assert!(listed(&pod, secret("harbor.example.com"), false).is_some());
        assert!(listed(&pod, secret("other.example.com"), false).is_none());
        assert!(listed(&pod, Looked::Absent, false).is_none());
        let unseen = listed(&pod, Looked::Denied("no".to_owned()), false).unwrap();
        assert_eq!(unseen.fate, Fate::Left);
    }

    #[test]
    fn who_waits_no_longer_is_not_evicted() {
        let stuck = pod(&owner("ReplicaSet"));
        assert!(is_stuck(&stuck));
        for (pointer, value) in [
            ("/status/phase", json!("Running")),
            ("/status/containerStatuses/0/state", json!({"running": {}})),
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

//! Evicts one Pod that waits for its image. An eviction is the API server's: it holds PodDisruptionBudgets (of Pods that
//! are not Pending, as these are: `canIgnorePDB`), and takes away the very Pod that was looked at.

use std::time::Duration;

use kube::api::Preconditions;
use serde_json::Value;

use super::stuck::{StuckPod, is_stuck};
use crate::installation::{ApiServer, Looked, Removal};

/// Most evictions a minute that somebody may ask for: ten a second, a fifth of what kubectl's client asks an API
/// server.
pub const EVICTIONS_PER_MINUTE_MAX: u32 = 600;
/// A Pod that waits changes with each attempt to pull, so that the version looked at may be old already.
const ATTEMPTS_MAX: usize = 5;

/// Pause after each of so many evictions a minute.
pub fn pause(per_minute: u32) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    MINUTE / per_minute.clamp(1, EVICTIONS_PER_MINUTE_MAX)
}

/// Evicts this very Pod, if it still waits, and notes what became of it.
pub async fn evict(server: &ApiServer, pod: &mut StuckPod) {
    let removal = remove(server, pod).await;
    pod.set(removal);
}

async fn remove(server: &ApiServer, pod: &StuckPod) -> Removal {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_are_so_far_apart() {
        for (per_minute, milliseconds) in [(0, 60_000), (1, 60_000), (10, 6000), (9999, 100)] {
            assert_eq!(pause(per_minute), Duration::from_millis(milliseconds));
        }
    }
}

//! Pods that wait for an image and would start if they were made anew, and how one is evicted: for `recover`, for
//! `status`, and for a controller that recovers by itself.
//!
//! ```text
//! Pod --read--> FailingPod --judge, with rules, index and logins--> StuckPod --eviction--> API server
//! ```
//! What is here is pure but for `eviction`. This room must not look for Pods, nor choose when one is evicted.

pub mod eviction;
pub mod failure;
pub mod images;
pub mod pods;
pub mod stuck;

use std::sync::Arc;

use crate::delivery::State;
use crate::index::{Index, IndexDocument};
use crate::rules::Ruleset;
use crate::snapshot::{Namespaces, Snapshot};

/// What a webhook decides with that has these rules and this index, and knows the namespaces of `state`.
pub fn snapshot(ruleset: Arc<Ruleset>, index: Option<&IndexDocument>, state: &State) -> Snapshot {
    let index: Index = index.map(IndexDocument::to_index).unwrap_or_default();
    let namespaces = state.namespaces.known().into_iter().flatten();
    let labels = namespaces.map(|(name, known)| (name.clone(), Arc::new(known.labels.clone())));
    let namespaces = Namespaces::Seen(Arc::new(labels.collect()));
    Snapshot::new(ruleset, Arc::new(index), namespaces, 1)
}

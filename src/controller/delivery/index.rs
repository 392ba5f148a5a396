//! Publishes the index for the webhook, whenever it should be another than it is.
//!
//! It goes out before the first copy of a name, and beside the others: a webhook that knows a secret too
//! early only names one that is on its way.

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Patch;
use kube::{Api, ResourceExt};
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::budget::Budget;
use super::super::objects::{self, Owner};
use super::super::{next_change, observed, pauses};
use super::BURST;
use super::board::{Board, Scope};
use crate::cluster::watch::Seen;
use crate::delivery::State;
use crate::index::IndexDocument;
use crate::index::document::INDEX_KEY;
use crate::metrics::DeliveryMetrics;
use crate::shutdown::Stop;

/// Keeps the state up to date with what is published, for ever.
pub(super) async fn follow(
    board: Arc<Board>,
    mut seen: watch::Receiver<Seen<ConfigMap>>,
) -> Infallible {
    loop {
        let published = match &*seen.borrow_and_update() {
            Seen::NotYet => None,
            Seen::Absent => Some(None),
            Seen::Present(map) => Some(read(map)),
        };
        board.change(|state| publish(state, published));
        next_change(&mut seen).await;
    }
}

/// Notes what is published. Copies may have waited for names in it.
fn publish(state: &mut State, published: Option<Option<IndexDocument>>) -> Vec<Scope> {
    state.published = published;
    vec![Scope::Everything]
}

/// What cannot be read is as good as none.
fn read(map: &ConfigMap) -> Option<IndexDocument> {
    let text = map.data.as_ref()?.get(INDEX_KEY)?;
    IndexDocument::parse(text).ok()
}

/// The one that publishes.
pub(super) struct Publisher {
    pub(super) board: Arc<Board>,
    pub(super) maps: Api<ConfigMap>,
    pub(super) name: String,
    pub(super) seen: watch::Receiver<Seen<ConfigMap>>,
    pub(super) metrics: DeliveryMetrics,
    pub(super) writes: IntCounter,
    /// What was written last, and how often that was put back.
    pub(super) written: Option<IndexDocument>,
    pub(super) put_back: Budget,
}

impl Publisher {
    /// Publishes until `stop` drains; a write that was begun is finished first.
    pub(super) async fn run(&mut self, owner: &Owner, stop: &Stop) {
        let mut changes = self.board.changes();
        let mut pause = pauses();
        while !stop.is_draining() {
            changes.mark_unchanged();
            let rest = match self.step(owner).await {
                Ok(wait) => {
                    pause = pauses();
                    wait
                }
                Err(error) => {
                    tracing::warn!(%error, "the index cannot be published; trying again");
                    pause.next()
                }
            };
            tokio::select! {
                () = stop.drain() => {}
                () = sleep(rest.unwrap_or_default()), if rest.is_some() => {}
                () = next_change(&mut changes), if rest.is_none() => sleep(BURST).await,
            }
        }
    }

    /// Publishes what is not published yet. Gives how long a write has to wait, if it has to.
    async fn step(&mut self, owner: &Owner) -> Result<Option<std::time::Duration>, kube::Error> {
        let Some((index, is_published)) = self.index() else {
            return Ok(None);
        };
        let json = (!is_published).then(|| index.to_json());
        let is_too_large = matches!(json, Some(Err(_)));
        self.metrics.index_too_large.set(is_too_large.into());
        self.board.change_if(|state| {
            std::mem::replace(&mut state.is_index_too_large, is_too_large) != is_too_large
        });
        let Some(Ok(json)) = json else {
            return Ok(None);
        };
        let is_put_back = self.written.as_ref() == Some(&index);
        let wait = self.put_back.wait(Instant::now());
        if is_put_back && !wait.is_zero() {
            return Ok(Some(wait));
        }
        let before = self.seen.borrow_and_update().object().cloned();
        let before = before.and_then(|map| map.resource_version());
        let body = owner.config_map(&self.name, before.clone(), [(INDEX_KEY, json)]);
        self.maps
            .patch(&self.name, &objects::apply(), &Patch::Apply(&body))
            .await?;
        self.writes.inc();
        if is_put_back {
            self.put_back.spend(Instant::now());
        }
        tracing::info!(secrets = index.secrets.len(), "index published");
        observed(&mut self.seen, before).await;
        self.written = Some(index.clone());
        self.board.change(|state| publish(state, Some(Some(index))));
        Ok(None)
    }

    /// The index as it should be, and whether it is published.
    fn index(&self) -> Option<(IndexDocument, bool)> {
        let state = self.board.state();
        let index = state.index()?;
        let is_published = state.published.iter().flatten().next() == Some(&index);
        Some((index, is_published))
    }
}

//! Watches whose outcome is a state, not events: whoever listens looks at what is, not at what happened.
//!
//! kube's watcher lists again on 410 and after errors, and notices a dead stream by the watch's own end;
//! [`super::client`] makes every step of it end. What must not happen here: a decision from an event.

use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::{Stream, StreamExt};
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

pub use crate::snapshot::LabelsByName;

use crate::metrics::Freshness;

/// Length of one watch, in seconds. Then the API server ends it and it is asked for again, which is the
/// proof that it is alive: a dead stream is noticed 5 s later.
pub const WATCH_SECONDS: u32 = 25;
/// First pause after an error; doubles, with jitter.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause after errors.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// After so long without an error the pauses start over.
const BACKOFF_RESET: Duration = Duration::from_secs(60);

/// What is known about one object.
#[derive(Debug)]
pub enum Seen<K> {
    /// The API server has not answered yet.
    NotYet,
    /// There is none.
    Absent,
    /// As last seen.
    Present(Arc<K>),
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        match self {
            Self::NotYet => Self::NotYet,
            Self::Absent => Self::Absent,
            Self::Present(object) => Self::Present(object.clone()),
        }
    }
}

impl<K> Seen<K> {
    /// The object, if there is one.
    pub fn object(&self) -> Option<&Arc<K>> {
        match self {
            Self::Present(object) => Some(object),
            Self::NotYet | Self::Absent => None,
        }
    }
}

/// Follows one object by name. `api` must be made of [`super::client::Connection::watcher`].
///
/// The API server allows it to a role whose `resourceNames` is that name.
pub async fn follow_one<K>(
    api: Api<K>,
    name: &str,
    freshness: Freshness,
    latest: watch::Sender<Seen<K>>,
) -> Infallible
where
    K: Resource<DynamicType: Default + Eq + Hash>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let config = config().fields(&format!("metadata.name={name}"));
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut listed = None;
    follow(
        watcher(api, config),
        &kind,
        freshness,
        |event| match event {
            Event::Init => listed = None,
            Event::InitApply(object) => listed = Some(object),
            Event::InitDone => {
                let seen = listed.take().map(|object| Seen::Present(Arc::new(object)));
                latest.send_replace(seen.unwrap_or(Seen::Absent));
            }
            Event::Apply(object) => {
                latest.send_replace(Seen::Present(Arc::new(object)));
            }
            Event::Delete(_) => {
                latest.send_replace(Seen::Absent);
            }
        },
    )
    .await
}

/// Follows names and labels of all objects of a cluster-scoped kind; nothing else of them is read.
/// `None` until the first list is whole.
pub async fn follow_labels<K>(
    api: Api<PartialObjectMeta<K>>,
    freshness: Freshness,
    latest: watch::Sender<Option<LabelsByName>>,
) -> Infallible
where
    K: Resource<DynamicType: Default + Eq + Hash>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let labels = |object: &mut PartialObjectMeta<K>| {
        let labels = object.metadata.labels.take().unwrap_or_default();
        (object.name_any().into(), Arc::new(labels))
    };
    let mut listed = LabelsByName::new();
    follow(
        watcher(api, config()),
        &kind,
        freshness,
        |event| match event {
            Event::Init => listed.clear(),
            Event::InitApply(mut object) => listed.extend([labels(&mut object)]),
            Event::InitDone => {
                latest.send_replace(Some(std::mem::take(&mut listed)));
            }
            Event::Apply(mut object) => latest.send_modify(|known| {
                known.get_or_insert_default().extend([labels(&mut object)]);
            }),
            Event::Delete(object) => latest.send_modify(|known| {
                known.get_or_insert_default().remove(&*object.name_any());
            }),
        },
    )
    .await
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// Runs a watch for ever, with pauses after errors.
async fn follow<T>(
    events: impl Stream<Item = watcher::Result<Event<T>>> + Send,
    kind: &str,
    freshness: Freshness,
    mut on_event: impl FnMut(Event<T>),
) -> Infallible {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times();
    let backoff = ResetTimerBackoff::new(ExponentialBackoff::from(backoff), BACKOFF_RESET);
    let mut events = pin!(events.backoff(backoff));
    let mut is_failing = false;
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                // `Init` is said before the API server was asked.
                let is_proof = !matches!(event, Event::Init);
                on_event(event);
                if is_proof {
                    freshness.touch();
                    if std::mem::take(&mut is_failing) {
                        tracing::info!(kind, "watch is back");
                    }
                }
            }
            Some(Err(error)) if !std::mem::replace(&mut is_failing, true) => {
                tracing::warn!(kind, %error, "watch failed; it is tried again until it works");
            }
            Some(Err(_)) => {}
            // A watcher never ends.
            None => std::future::pending::<()>().await,
        }
    }
}

//! Watches whose outcome is a state, not events: whoever listens looks at what is, not at what happened.
//!
//! kube's watcher lists again on 410 and after errors, and notices a dead stream by the watch's own end;
//! [`super::client`] makes every step of it end. What must not happen here: a decision from an event.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{Stream, StreamExt};
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use crate::snapshot::LabelsByName;

use super::client::{ConnectError, Connection};
use crate::metrics::Freshness;

/// Length of one watch, in seconds. Then the API server ends it and it is asked for again, which is the
/// proof that it is alive: a dead stream is noticed 5 s later.
pub const WATCH_SECONDS: u32 = 25;
/// Longest first pause after an error; doubles. Jitter takes up to half of each away.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause after errors, jitter included.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// After so long without an error the pauses start over.
const BACKOFF_RESET: Duration = Duration::from_secs(60);

/// Objects in one page of a list: what is held at once while a list is read. Of Secrets of 20 KiB, which
/// is many registries, these are 2 MiB.
pub const PAGE_OBJECTS: u32 = 100;

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

/// What can be followed: an object of the API whose kind is known from its type.
pub trait Followed:
    Resource<DynamicType: Default + Eq + Hash>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Followed for K where
    K: Resource<DynamicType: Default + Eq + Hash>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Follows one object by name in a task of its own, with a client of its own; `api` says where the
/// object is.
///
/// # Errors
/// If address or credentials of the API server cannot be used.
pub fn spawn_follow_one<K: Followed>(
    tasks: &mut JoinSet<()>,
    connection: &Connection,
    freshness: Freshness,
    name: &str,
    api: impl FnOnce(Client) -> Api<K>,
) -> Result<watch::Receiver<Seen<K>>, ConnectError> {
    let api = api(connection.watcher(freshness.clone())?);
    let (latest, seen) = watch::channel(Seen::NotYet);
    let name = name.to_owned();
    tasks.spawn(async move { match follow_one(api, &name, freshness, latest).await {} });
    Ok(seen)
}

/// Follows one object by name. `api` must be made of [`super::client::Connection::watcher`].
///
/// The API server allows it to a role whose `resourceNames` is that name.
pub async fn follow_one<K: Followed>(
    api: Api<K>,
    name: &str,
    freshness: Freshness,
    latest: watch::Sender<Seen<K>>,
) -> Infallible {
    let fields = format!("metadata.name={name}");
    let read = |object| ((), Some(Arc::new(object)));
    follow_each(api, Some(&fields), freshness, read, |change| {
        let seen = match change {
            Change::Listed(all) => all.into_values().next().map(Seen::Present),
            Change::Set((), object) => Some(Seen::Present(object)),
            Change::Gone(()) => None,
            Change::Denied => return,
        };
        latest.send_replace(seen.unwrap_or(Seen::Absent));
    })
    .await
}

/// What became of many objects that are followed, each known by a small value.
#[derive(Debug)]
pub enum Change<K, V> {
    /// These are all there are.
    Listed(BTreeMap<K, V>),
    /// This one is like this now.
    Set(K, V),
    /// This one is gone, or of no interest any more.
    Gone(K),
    /// The API server does not let us look; it is asked again.
    Denied,
}

/// Follows the objects that `fields` selects, or all. Each is turned into key and value by `read` as it
/// arrives, so that no whole object is kept; without a value it is of no interest.
pub async fn follow_each<O: Followed, K: Ord, V>(
    api: Api<O>,
    fields: Option<&str>,
    freshness: Freshness,
    read: impl Fn(O) -> (K, Option<V>),
    mut on_change: impl FnMut(Change<K, V>),
) -> Infallible {
    let kind = O::kind(&O::DynamicType::default()).into_owned();
    let config = fields
        .iter()
        .fold(config(), |config, fields| config.fields(fields));
    let mut listed = BTreeMap::new();
    let on_event = |event: Result<Event<O>, &watcher::Error>| match event {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(object)) => {
            let (key, value) = read(object);
            listed.extend(value.map(|value| (key, value)));
        }
        Ok(Event::InitDone) => on_change(Change::Listed(std::mem::take(&mut listed))),
        Ok(Event::Apply(object)) => on_change(match read(object) {
            (key, Some(value)) => Change::Set(key, value),
            (key, None) => Change::Gone(key),
        }),
        Ok(Event::Delete(object)) => on_change(Change::Gone(read(object).0)),
        Err(error) if is_denial(error) => on_change(Change::Denied),
        Err(_) => {}
    };
    let start = || watcher(api.clone(), config.clone());
    follow(start, &kind, freshness, on_event).await
}

/// Follows names and labels of all objects of a cluster-scoped kind; nothing else of them is read.
/// `None` until the first list is whole.
pub async fn follow_labels<K: Followed>(
    api: Api<PartialObjectMeta<K>>,
    freshness: Freshness,
    latest: watch::Sender<Option<LabelsByName>>,
) -> Infallible {
    let read = |mut object: PartialObjectMeta<K>| {
        let labels = object.metadata.labels.take().unwrap_or_default();
        (object.name_any().into(), Some(Arc::new(labels)))
    };
    follow_each(api, None, freshness, read, |change| match change {
        Change::Listed(all) => {
            latest.send_replace(Some(all));
        }
        Change::Set(name, labels) => latest.send_modify(|known| {
            known.get_or_insert_default().insert(name, labels);
        }),
        Change::Gone(name) => latest.send_modify(|known| {
            known.get_or_insert_default().remove(&name);
        }),
        Change::Denied => {}
    })
    .await
}

fn config() -> watcher::Config {
    watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(PAGE_OBJECTS)
}

/// Runs a watch for ever, with pauses after errors.
///
/// The pauses are not kube's: those start over with each [`Event::Init`], which is said before the API
/// server was asked, so that they would never grow while lists fail.
///
/// kube lists again on a 410 inside a watch, as the API server says it, but not where something between
/// says it in the answer's head; then the watch starts anew by `start`.
async fn follow<T, S: Stream<Item = watcher::Result<Event<T>>>>(
    start: impl Fn() -> S,
    kind: &str,
    freshness: Freshness,
    mut on_event: impl FnMut(Result<Event<T>, &watcher::Error>),
) -> Infallible {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN / 2)
        .with_max_delay(BACKOFF_MAX / 2)
        // Up to as much again.
        .with_jitter()
        .without_max_times();
    let mut next_pauses = pauses.build();
    let mut failed_at = Instant::now();
    let mut is_failing = false;
    let mut events = pin!(start());
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                let is_proof = !matches!(event, Event::Init);
                if matches!(event, Event::InitDone) {
                    tracing::debug!(kind, "listed");
                }
                on_event(Ok(event));
                if is_proof {
                    freshness.touch();
                    if std::mem::take(&mut is_failing) {
                        tracing::info!(kind, "watch is back");
                    }
                }
            }
            Some(Err(error)) => {
                on_event(Err(&error));
                if is_gone(&error) {
                    events.set(start());
                }
                if !std::mem::replace(&mut is_failing, true) {
                    let error = unquoted(&error);
                    tracing::warn!(
                        kind,
                        error,
                        "watch failed; it is tried again until it works"
                    );
                }
                if failed_at.elapsed() > BACKOFF_RESET {
                    next_pauses = pauses.build();
                }
                failed_at = Instant::now();
                sleep(next_pauses.next().unwrap_or(BACKOFF_MAX)).await;
            }
            // A watcher never ends.
            None => std::future::pending::<()>().await,
        }
    }
}

/// Whether the API server said that we may not.
fn is_denial(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.is_forbidden(),
        _ => false,
    }
}

/// Whether a watch may not start from the version that it knows.
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// What went wrong. Of an answer that cannot be read not the words, which may quote a Secret.
fn unquoted(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::SerdeError(_))
        | WatchStartFailed(kube::Error::SerdeError(_))
        | WatchFailed(kube::Error::SerdeError(_)) => "the answer cannot be read".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::body::Bytes;
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
    use kube::Client;
    use kube::client::Body;
    use std::sync::{Mutex, PoisonError};
    use tokio::task::JoinSet;

    type Answer = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

    fn answer(status: u16, text: &str) -> Answer {
        let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync();
        http::Response::builder().status(status).body(body).unwrap()
    }

    fn silence() -> Answer {
        let nothing = futures_util::stream::pending();
        http::Response::new(StreamBody::new(nothing).boxed_unsync())
    }

    fn list(objects: &str, version: u32) -> Answer {
        let text = format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[{objects}]}}"#
        );
        answer(200, &text)
    }

    fn object(kind: &str, name: &str, version: u32, label: &str) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}","resourceVersion":"{version}","labels":{{"l":"{label}"}}}}}}"#
        )
    }

    fn gone() -> String {
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        event("ERROR", status)
    }

    fn event(kind: &str, object: &str) -> String {
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    /// An API server that answers by a script, at its end with silence, and what it was asked.
    #[derive(Clone)]
    struct Server(Arc<Mutex<(Vec<Answer>, Vec<String>)>>);

    impl Server {
        fn new(mut script: Vec<Answer>) -> Self {
            script.reverse();
            Self(Arc::new(Mutex::new((script, Vec::new()))))
        }

        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: http::Request<Body>| {
                let mut state = server.0.lock().unwrap_or_else(PoisonError::into_inner);
                state.1.push(request.uri().to_string());
                let answer = state.0.pop().unwrap_or_else(silence);
                async { Ok::<_, Infallible>(answer) }
            });
            Client::new(service, "default")
        }

        /// How often it was asked for a list and for a watch.
        fn asked(&self) -> (usize, usize) {
            let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let watches = state.1.iter().filter(|uri| uri.contains("watch=true"));
            let watches = watches.count();
            (state.1.len() - watches, watches)
        }
    }

    fn freshness() -> Freshness {
        Metrics::new().unwrap().watch_age("test")
    }

    /// Follows the ConfigMap `rules`.
    fn follow_config_map(
        server: &Server,
        tasks: &mut JoinSet<Infallible>,
    ) -> watch::Receiver<Seen<ConfigMap>> {
        let (latest, seen) = watch::channel(Seen::NotYet);
        let api = Api::namespaced(server.client(), "n");
        tasks.spawn(async { follow_one(api, "rules", freshness(), latest).await });
        seen
    }

    /// Waits until the object has this label; empty for none.
    async fn until(seen: &mut watch::Receiver<Seen<ConfigMap>>, label: &str) {
        let has_label = |seen: &Seen<ConfigMap>| match seen {
            Seen::NotYet => false,
            Seen::Absent => label.is_empty(),
            Seen::Present(map) => map.labels().get("l").is_some_and(|l| l == label),
        };
        seen.wait_for(has_label).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_comes_changes_goes_and_comes_back() {
        let map = |version, label| object("ConfigMap", "rules", version, label);
        let events = [
            event("ADDED", &map(2, "a")),
            event("MODIFIED", &map(3, "b")),
            event("DELETED", &map(4, "b")),
            event("ADDED", &map(5, "c")),
        ];
        for seen_up_to in 0..=events.len() {
            let watched = events[..seen_up_to].concat();
            let server = Server::new(vec![list("", 1), answer(200, &watched)]);
            let mut tasks = JoinSet::new();
            let mut seen = follow_config_map(&server, &mut tasks);
            until(&mut seen, ["", "a", "b", "", "c"][seen_up_to]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn incident_36_410_lists_again_whichever_way_it_comes() {
        let map = |version, label| object("ConfigMap", "rules", version, label);
        let expired = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410}"#;
        let server = Server::new(vec![
            list(&map(1, "a"), 1),
            answer(200, &gone()),
            list("", 2),
            answer(200, &gone()),
            list(&map(3, "b"), 3),
            answer(410, expired),
            list(&map(4, "c"), 4),
        ]);
        let mut tasks = JoinSet::new();
        let mut seen = follow_config_map(&server, &mut tasks);
        for label in ["a", "", "b", "c"] {
            until(&mut seen, label).await;
        }
        assert_eq!(server.asked().0, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn incident_36_a_silent_watch_is_asked_for_again() {
        let server = Server::new(vec![list("", 1)]);
        let mut tasks = JoinSet::new();
        let mut seen = follow_config_map(&server, &mut tasks);
        until(&mut seen, "").await;
        sleep(Duration::from_secs(301)).await;
        // One each 30 s, and it never needs another list.
        assert_eq!(server.asked(), (1, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_lists_fail_and_state_stays() {
        let map = |version, label| object("ConfigMap", "rules", version, label);
        let mut script = vec![list(&map(1, "a"), 1), answer(200, &gone())];
        script.extend((0..100).map(|_| answer(500, "{}")));
        let server = Server::new(script);
        let mut tasks = JoinSet::new();
        let mut seen = follow_config_map(&server, &mut tasks);
        until(&mut seen, "a").await;
        sleep(Duration::from_secs(100)).await;
        let (lists, _) = server.asked();
        assert!((20..=45).contains(&lists), "one in 2.5 to 5 s: {lists}");
        until(&mut seen, "a").await;
    }

    #[tokio::test(start_paused = true)]
    async fn objects_of_interest_come_change_and_go_by_key() {
        let map = |name, version, label| object("ConfigMap", name, version, label);
        let watched = event("ADDED", &map("c", 3, "3"))
            + &event("MODIFIED", &map("a", 4, "none"))
            + &event("DELETED", &map("c", 5, "3"))
            + &gone();
        let listed = [map("a", 1, "1"), map("b", 2, "none")].join(",");
        let denied = r#"{"kind":"Status","status":"Failure","reason":"Forbidden","message":"no","code":403}"#;
        let script = vec![
            list(&listed, 2),
            answer(200, &watched),
            answer(403, denied),
            list(&map("b", 6, "6"), 6),
        ];
        let api = Api::<ConfigMap>::namespaced(Server::new(script).client(), "n");
        let read = |map: ConfigMap| {
            let label = map.labels().get("l").cloned();
            (map.name_any(), label.filter(|label| label != "none"))
        };
        let (changes, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let said = |change| changes.send(format!("{change:?}")).unwrap();
            follow_each(api, Some("metadata.name=a"), freshness(), read, said).await
        });
        for expected in [
            r#"Listed({"a": "1"})"#,
            r#"Set("c", "3")"#,
            r#"Gone("a")"#,
            r#"Gone("c")"#,
            "Denied",
            r#"Listed({"b": "6"})"#,
        ] {
            assert_eq!(seen.recv().await.as_deref(), Some(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn labels_of_all_objects_are_known_once_the_list_is_whole() {
        let namespace = |name, version, label| object("Namespace", name, version, label);
        let first_page = r#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"2","continue":"more"},"items":["#;
        let first_page = format!("{first_page}{}]}}", namespace("a", 1, "1"));
        let watched = event("ADDED", &namespace("c", 3, "3"))
            + &event("MODIFIED", &namespace("a", 4, "4"))
            + &event("DELETED", &namespace("b", 5, "2"));
        for (watched, expected) in [("", "a=1 b=2"), (&*watched, "a=4 c=3")] {
            let script = vec![
                answer(200, &first_page),
                list(&namespace("b", 2, "2"), 2),
                answer(200, watched),
            ];
            let api = Api::<PartialObjectMeta<Namespace>>::all(Server::new(script).client());
            let (latest, mut seen) = watch::channel(None);
            let mut tasks = JoinSet::new();
            tasks.spawn(async { follow_labels(api, freshness(), latest).await });
            let is_expected = |known: &Option<LabelsByName>| {
                let all = known.iter().flatten();
                let all = all.map(|(name, labels)| format!("{name}={}", labels["l"]));
                all.collect::<Vec<_>>().join(" ") == expected
            };
            seen.wait_for(is_expected).await.unwrap();
        }
    }
}

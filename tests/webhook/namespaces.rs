//! A Pod that comes with its namespace, before anybody has seen that.

use std::sync::Arc;

use pullpass::admission::admit;
use pullpass::http::limits::{Limits, NAMESPACE_WAIT_MAX};
use pullpass::metrics::Metrics;
use pullpass::snapshot::{Namespaces, Snapshot};
use pullpass::webhook::handler::Handler;
use pullpass::webhook::serving::ServingStore;

use crate::client::post;
use crate::harness::{Server, StillClock, snapshot, until};
use crate::process::review;

/// A rule that asks for a label of the namespace.
const BY_LABEL: &str = "pullSecrets: [{name: a}]\n\
    rules: [{name: r, images: [harbor.example.com], pullSecrets: [a], namespaceSelector: {matchLabels: {l: v}}}]\n";

struct Waiting {
    store: Arc<ServingStore>,
    snapshot: Snapshot,
    server: Server,
}

impl Waiting {
    async fn start(rules: &str) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Arc::new(ServingStore::new(metrics.clone()));
        let snapshot = snapshot(rules).with_namespaces(Namespaces::default());
        store.publish(snapshot.clone());
        let handler = Handler::new(admit, store.clone(), Limits::default(), metrics.clone());
        Self {
            store,
            snapshot,
            server: Server::start_with(handler.into_router(), Limits::default(), metrics).await,
        }
    }

    /// Publishes that the namespace `name` has this label.
    fn publish(&self, name: &str, value: &str) {
        let labels = [("l".to_owned(), value.to_owned())].into();
        let labels = [(name.into(), Arc::new(labels))].into();
        let namespaces = Namespaces::Seen(Arc::new(labels));
        self.store
            .publish(self.snapshot.with_namespaces(namespaces));
    }

    fn waits(&self) -> u64 {
        self.server.metrics.namespace_waits.get()
    }

    /// Whether a Pod in namespace `n` is patched; meanwhile `act`, once the request waits.
    async fn is_patched(&self, act: impl AsyncFnOnce()) -> bool {
        let mut connection = self.server.connect().await;
        let answer = connection.request(post("/mutate", &review("u")));
        let meanwhile = async {
            until(|| self.waits() == 1).await;
            act().await;
        };
        let (answer, ()) = tokio::join!(answer, meanwhile);
        assert_eq!(answer.status, 200);
        answer.text().contains("JSONPatch")
    }
}

#[tokio::test(start_paused = true)]
async fn labels_that_come_in_time_decide() {
    let _clock = StillClock::new();
    let waiting = Waiting::start(BY_LABEL).await;
    let patched = waiting.is_patched(async || {
        waiting.publish("other", "v");
        tokio::task::yield_now().await;
        waiting.publish("n", "v");
    });
    assert!(patched.await);

    let waiting = Waiting::start(BY_LABEL).await;
    assert!(!waiting.is_patched(async || waiting.publish("n", "w")).await);
}

#[tokio::test(start_paused = true)]
async fn labels_that_do_not_come_count_as_no_match() {
    let _clock = StillClock::new();
    let waiting = Waiting::start(BY_LABEL).await;
    let patched = waiting.is_patched(async || {
        waiting.publish("other", "v");
        tokio::time::advance(NAMESPACE_WAIT_MAX).await;
    });
    assert!(!patched.await);
    assert_eq!(waiting.waits(), 1);
    let metrics = &waiting.server.metrics;
    assert_eq!(
        metrics.requests("unchanged", "no_rule_matched").get(),
        1,
        "counted once"
    );
}

#[tokio::test]
async fn nobody_waits_for_labels_that_cannot_matter() {
    for rules in [
        BY_LABEL.replace("harbor.example.com", "other.example.com"),
        BY_LABEL.replace("namespaceSelector", "podSelector"),
        BY_LABEL.replace("name: r,", "name: r, namespaces: [other],"),
        BY_LABEL.replace("name: r,", "name: r, podSelector: {matchLabels: {x: y}},"),
        // Nothing is known of what it covers.
        BY_LABEL.replace("images: [harbor.example.com],", ""),
    ] {
        let waiting = Waiting::start(&rules).await;
        let mut connection = waiting.server.connect().await;
        let answer = connection.request(post("/mutate", &review("u"))).await;
        assert_eq!(answer.status, 200, "{rules}");
        assert_eq!(waiting.waits(), 0, "{rules}");
    }
}

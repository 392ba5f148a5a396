//! Objects of the API server that are followed: the ConfigMaps with rules and index, the Secret with
//! the certificate, and every namespace's labels.
//!
//! [`crate::cluster::watch`] keeps the latest state of each; one task for the rules and one for the
//! certificate take it over when it changed, on a thread that may block. What cannot be used, or is
//! gone, never replaces what can, and each changed state is logged once. This module must not decide
//! anything about a request, nor make readiness depend on the API server: conditions are met once and
//! for ever, at the latest after [`FIRST_SIGHT_MAX`].

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::PartialObjectMeta;
use kube::{Api, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::certificate::Certificates;
use super::publisher::Publisher;
use crate::cluster::client::{ConnectError, Connection};
use crate::cluster::watch::{Followed, LabelsByName, Seen, follow_labels, spawn_follow_one};
use crate::files::{Reload, turn};
use crate::http::probes::{Condition, Readiness};
use crate::index::IndexDocument;
use crate::index::document::{INDEX_KEY, rules_hash};
use crate::metrics::Metrics;
use crate::rules::config::{CONFIG_MAP_RULES_BYTES_MAX, RULES_KEY};
use crate::snapshot::Namespaces;

/// How long a starting webhook is not ready for want of an index or of the list of namespaces. Then it
/// serves without: it would inject less, but a rollout must not wait for a controller that is gone.
pub const FIRST_SIGHT_MAX: Duration = Duration::from_secs(30);
/// Pause between a change and its take-over, in which others join it: hundreds of namespaces may be
/// made in a second, and each snapshot copies the list of all.
const BURST: Duration = Duration::from_millis(20);

/// The API server, and where the objects are.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// The way there.
    pub connection: &'a Connection,
    /// Namespace of ConfigMaps and Secret.
    pub namespace: &'a str,
    /// Gets a `pullpass_watch_age_seconds` for each watch.
    pub metrics: &'a Metrics,
}

impl Cluster<'_> {
    /// Follows one object by name, as the watch `watch` of the metrics.
    fn follow<K: Followed + Resource<Scope = NamespaceResourceScope>>(
        &self,
        followers: &mut JoinSet<()>,
        name: &str,
        watch: &'static str,
    ) -> Result<watch::Receiver<Seen<K>>, ConnectError> {
        let freshness = self.metrics.watch_age(watch);
        let api = |client| Api::namespaced(client, self.namespace);
        spawn_follow_one(followers, self.connection, freshness, name, api)
    }

    fn follow_namespaces(
        &self,
        followers: &mut JoinSet<()>,
    ) -> Result<watch::Receiver<Option<LabelsByName>>, ConnectError> {
        let freshness = self.metrics.watch_age("namespaces");
        let client = self.connection.watcher(freshness.clone())?;
        let api = Api::<PartialObjectMeta<Namespace>>::all(client);
        let (latest, seen) = watch::channel(None);
        followers.spawn(async move { match follow_labels(api, freshness, latest).await {} });
        Ok(seen)
    }

    /// For people.
    fn called(&self, kind: &str, name: &str) -> String {
        format!("{kind} {}/{name}", self.namespace)
    }
}

/// Follows the ConfigMaps with rules and index, by these names in this order, and all namespaces.
///
/// # Errors
/// If address or credentials of the API server cannot be used.
pub fn follow_rules(
    followers: &mut JoinSet<()>,
    cluster: &Cluster<'_>,
    (rules, index): (&str, &str),
    publisher: Publisher,
    readiness: &Readiness,
) -> Result<(), ConnectError> {
    let rules_seen = cluster.follow(followers, rules, "rules")?;
    let index_seen = cluster.follow(followers, index, "index")?;
    let mut objects = RulesObjects::new(
        Text::new(cluster.called("ConfigMap", rules), RULES_KEY, rules_seen),
        Text::new(cluster.called("ConfigMap", index), INDEX_KEY, index_seen),
        cluster.follow_namespaces(followers)?,
        publisher,
        readiness,
    );
    let panics = cluster.metrics.panics.clone();
    followers.spawn(async move {
        let (mut rules, mut index) = (objects.rules.seen.clone(), objects.index.seen.clone());
        let mut namespaces = objects.namespaces.clone();
        let patience_ends = objects.patience_ends;
        let mut is_patient = true;
        loop {
            objects = turn(objects, &panics).await;
            tokio::select! {
                () = changed(&mut rules) => {}
                () = changed(&mut index) => {}
                () = changed(&mut namespaces) => {}
                () = sleep_until(patience_ends), if is_patient => is_patient = false,
            }
            sleep(BURST).await;
        }
    });
    Ok(())
}

/// Follows the Secret `name` and lets handshakes use what it holds.
///
/// # Errors
/// If address or credentials of the API server cannot be used.
pub fn follow_certificate(
    followers: &mut JoinSet<()>,
    cluster: &Cluster<'_>,
    name: &str,
    certificates: Arc<Certificates>,
) -> Result<(), ConnectError> {
    let mut object = CertificateObject {
        called: cluster.called("Secret", name),
        seen: cluster.follow(followers, name, "tls")?,
        last: Seen::NotYet,
        certificates,
    };
    let panics = cluster.metrics.panics.clone();
    followers.spawn(async move {
        let mut secret = object.seen.clone();
        loop {
            object = turn(object, &panics).await;
            changed(&mut secret).await;
        }
    });
    Ok(())
}

/// Waits for the next state. One that can no longer come is waited for as long.
async fn changed<T>(state: &mut watch::Receiver<T>) {
    if state.changed().await.is_err() {
        pending().await
    }
}

/// What one key of a ConfigMap holds, and what it held when last asked.
#[derive(Debug)]
struct Text {
    /// The ConfigMap, for people.
    called: String,
    key: &'static str,
    seen: watch::Receiver<Seen<ConfigMap>>,
    last: Option<Result<String, String>>,
}

impl Text {
    fn new(called: String, key: &'static str, seen: watch::Receiver<Seen<ConfigMap>>) -> Self {
        Self {
            called,
            key,
            seen,
            last: None,
        }
    }

    /// The text, or why there is none, if it is another than last time.
    fn changed(&mut self) -> Option<Result<&str, &str>> {
        let Self { called, key, .. } = self;
        let text = match &*self.seen.borrow_and_update() {
            Seen::NotYet => return None,
            Seen::Absent => Err(format!("{called} does not exist")),
            Seen::Present(object) => {
                let text = object.data.as_ref().and_then(|data| data.get(*key));
                let text = text.cloned();
                text.ok_or_else(|| format!("{called} has no key \"{key}\""))
            }
        };
        if self.last.as_ref() == Some(&text) {
            return None;
        }
        let last = self.last.insert(text).as_ref();
        Some(last.map(String::as_str).map_err(String::as_str))
    }
}

/// Rules, index and namespaces, published as snapshots.
#[derive(Debug)]
struct RulesObjects {
    rules: Text,
    index: Text,
    namespaces: watch::Receiver<Option<LabelsByName>>,
    /// Of the last good rules.
    rules_hash: Option<String>,
    /// The same of the rules that the last good index was made for.
    index_made_for: Option<String>,
    publisher: Publisher,
    index_condition: Condition,
    namespaces_condition: Condition,
    patience_ends: Instant,
}

impl RulesObjects {
    fn new(
        rules: Text,
        index: Text,
        namespaces: watch::Receiver<Option<LabelsByName>>,
        mut publisher: Publisher,
        readiness: &Readiness,
    ) -> Self {
        // Until there is an index nothing is known about any secret: enough for rules with `images`.
        publisher.assembly.set_index(Arc::default());
        Self {
            rules,
            index,
            namespaces,
            rules_hash: None,
            index_made_for: None,
            publisher,
            index_condition: readiness.condition("index", "none that knows the rules yet"),
            namespaces_condition: readiness.condition("namespaces", "not listed yet"),
            patience_ends: Instant::now() + FIRST_SIGHT_MAX,
        }
    }

    /// Whether there are new rules to publish.
    fn reload_rules(&mut self) -> bool {
        let Some(text) = self.rules.changed() else {
            return false;
        };
        let text = match text {
            Ok(text) if text.len() > CONFIG_MAP_RULES_BYTES_MAX => Err(format!(
                "{RULES_KEY}: larger than {CONFIG_MAP_RULES_BYTES_MAX} bytes \
                 (`CONFIG_MAP_RULES_BYTES_MAX`)"
            )),
            other => other.map_err(str::to_owned),
        };
        let loaded = self.publisher.load_rules(RULES_KEY, text.clone());
        if loaded && let Ok(text) = text {
            self.rules_hash = Some(rules_hash(text));
        }
        loaded
    }

    /// Whether there is a new index to publish.
    fn reload_index(&mut self) -> bool {
        let Some(text) = self.index.changed() else {
            return false;
        };
        let parsed = text.map_err(str::to_owned).and_then(|json| {
            IndexDocument::parse(json).map_err(|error| format!("{INDEX_KEY}: {error}"))
        });
        match parsed {
            Ok(document) => {
                let secrets = document.secrets.len();
                tracing::info!(secrets, "index loaded");
                self.publisher
                    .assembly
                    .set_index(Arc::new(document.to_index()));
                self.index_made_for = Some(document.rules);
                true
            }
            Err(reason) => {
                let what_now = match self.index_made_for {
                    Some(_) => "the last good one stays in use",
                    None => "rules without `images` inject nothing until there is one",
                };
                tracing::warn!(reason, "index not used: {what_now}");
                false
            }
        }
    }

    /// Whether there are new namespaces to publish.
    fn reload_namespaces(&mut self) -> bool {
        if !self.namespaces.has_changed().unwrap_or(false) {
            return false;
        }
        let Some(labels) = self.namespaces.borrow_and_update().clone() else {
            return false;
        };
        self.namespaces_condition.met();
        let labels = Namespaces::Seen(Arc::new(labels));
        self.publisher.assembly.set_namespaces(labels);
        true
    }

    /// Whether there are no rules, or one goes by what its secrets cover and the index does not know it.
    fn lacks_index(&self) -> bool {
        self.publisher.assembly.ruleset().is_none_or(|ruleset| {
            self.index_made_for != self.rules_hash
                && ruleset.rules().iter().any(|rule| !rule.by_images)
        })
    }
}

impl Reload for RulesObjects {
    fn reload(&mut self) {
        let rules = self.reload_rules();
        let index = self.reload_index();
        let namespaces = self.reload_namespaces();
        if rules || index || namespaces {
            self.publisher.publish();
        }
        let is_patient = Instant::now() < self.patience_ends;
        if !is_patient || !self.lacks_index() {
            self.index_condition.met();
        }
        if !is_patient {
            self.namespaces_condition.met();
        }
    }
}

/// The Secret with the certificate.
struct CertificateObject {
    called: String,
    seen: watch::Receiver<Seen<Secret>>,
    last: Seen<Secret>,
    certificates: Arc<Certificates>,
}

impl Reload for CertificateObject {
    fn reload(&mut self) {
        let seen = self.seen.borrow_and_update().clone();
        match (&self.last, &seen) {
            (_, Seen::NotYet) | (Seen::Absent, Seen::Absent) => {}
            (Seen::Present(last), Seen::Present(secret)) if last.data == secret.data => {}
            (_, Seen::Absent) => {
                let reason = format!("{} does not exist", self.called);
                self.certificates.missing(&reason);
            }
            (_, Seen::Present(secret)) => {
                let bytes = |key: &str| {
                    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
                    bytes.map_or(&[][..], |bytes| &bytes.0)
                };
                let (certificate, key) = (bytes("tls.crt"), bytes("tls.key"));
                self.certificates.replace(&self.called, certificate, key);
            }
        }
        self.last = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::{self, Stopper};
    use crate::webhook::serving::ServingStore;
    use tokio::time::advance;

    const HEAD: &str = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n";
    const BY_IMAGES: &str =
        "pullSecrets: [{name: a}]\nrules: [{name: r, images: [r.io], pullSecrets: [a]}]\n";
    const BY_KEYS: &str = "pullSecrets: [{name: a}]\nrules: [{name: r, pullSecrets: [a]}]\n";

    /// The objects, set by hand.
    struct Fixture {
        rules: watch::Sender<Seen<ConfigMap>>,
        index: watch::Sender<Seen<ConfigMap>>,
        namespaces: watch::Sender<Option<LabelsByName>>,
        objects: RulesObjects,
        readiness: Readiness,
        store: Arc<ServingStore>,
        metrics: Arc<Metrics>,
        _stopper: Stopper,
    }

    fn config_map(key: &str, text: &str) -> Seen<ConfigMap> {
        let data = [(key.to_owned(), text.to_owned())].into();
        Seen::Present(Arc::new(ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        }))
    }

    impl Fixture {
        fn new() -> Self {
            let metrics = Arc::new(Metrics::new().unwrap());
            let store = Arc::new(ServingStore::new(metrics.clone()));
            let (stopper, stop) = shutdown::channel();
            let readiness = Readiness::new(stop);
            let condition = readiness.condition("rules", "not in use yet");
            let publisher = Publisher::new(
                Namespaces::default(),
                store.clone(),
                metrics.clone(),
                condition,
            );
            let (rules, rules_seen) = watch::channel(Seen::NotYet);
            let (index, index_seen) = watch::channel(Seen::NotYet);
            let (namespaces, namespaces_seen) = watch::channel(None);
            let objects = RulesObjects::new(
                Text::new("ConfigMap n/rules".to_owned(), RULES_KEY, rules_seen),
                Text::new("ConfigMap n/index".to_owned(), INDEX_KEY, index_seen),
                namespaces_seen,
                publisher,
                &readiness,
            );
            Self {
                rules,
                index,
                namespaces,
                objects,
                readiness,
                store,
                metrics,
                _stopper: stopper,
            }
        }

        fn set_rules(&mut self, text: &str) {
            let text = format!("{HEAD}{text}");
            self.rules.send_replace(config_map(RULES_KEY, &text));
            self.objects.reload();
        }

        fn set_index(&mut self, rules: &str) {
            let json = IndexDocument::new(&format!("{HEAD}{rules}"))
                .to_json()
                .unwrap();
            self.index.send_replace(config_map(INDEX_KEY, &json));
            self.objects.reload();
        }

        fn list_namespaces(&mut self) {
            self.namespaces.send_replace(Some(LabelsByName::new()));
            self.objects.reload();
        }

        /// What keeps it from being ready, by name.
        fn missing(&self) -> Vec<String> {
            let (_, report) = self.readiness.report();
            let missing = report.lines().filter_map(|line| line.strip_prefix("[-] "));
            let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
            missing.map(name).collect()
        }

        fn generation(&self) -> Option<u64> {
            Some(self.store.load().as_ref()?.snapshot.generation())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_by_images_need_no_index() {
        let mut fixture = Fixture::new();
        fixture.objects.reload();
        assert_eq!(fixture.missing(), ["rules", "index", "namespaces"]);
        fixture.set_rules(BY_IMAGES);
        assert_eq!(fixture.missing(), ["namespaces"]);
        fixture.list_namespaces();
        assert!(fixture.missing().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn rules_by_keys_wait_for_an_index_that_knows_them_and_for_no_other() {
        let mut fixture = Fixture::new();
        fixture.list_namespaces();
        fixture.set_rules(BY_KEYS);
        fixture.set_index(BY_IMAGES);
        assert_eq!(fixture.missing(), ["index"]);
        assert_eq!(fixture.generation(), Some(1), "published all the same");
        fixture.set_index(BY_KEYS);
        assert!(fixture.missing().is_empty());
        fixture.set_rules(&format!("{BY_KEYS}# edited\n"));
        assert!(
            fixture.missing().is_empty(),
            "an edit is no reason to stop serving"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_seen_is_waited_for_30_s() {
        let mut fixture = Fixture::new();
        fixture.set_rules(BY_KEYS);
        fixture.index.send_replace(Seen::Absent);
        advance(FIRST_SIGHT_MAX - Duration::from_millis(1)).await;
        fixture.objects.reload();
        assert_eq!(fixture.missing(), ["index", "namespaces"]);
        advance(Duration::from_millis(1)).await;
        fixture.objects.reload();
        assert!(fixture.missing().is_empty());
        assert_eq!(FIRST_SIGHT_MAX.as_secs(), 30, "what the contract says");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_bad_or_gone_keeps_the_last_good_rules() {
        let mut fixture = Fixture::new();
        fixture.set_rules(BY_IMAGES);
        let other_key = config_map("rules.yml", BY_IMAGES);
        let too_large = "#".repeat(CONFIG_MAP_RULES_BYTES_MAX + 1);
        let too_large = config_map(RULES_KEY, &too_large);
        for bad in [
            config_map(RULES_KEY, "{"),
            other_key,
            too_large,
            Seen::Absent,
        ] {
            fixture.rules.send_replace(bad);
            fixture.objects.reload();
            assert_eq!(fixture.metrics.rules_valid.get(), 0);
            assert_eq!(fixture.generation(), Some(1));
            assert_eq!(fixture.missing(), ["namespaces"]);
        }
        fixture.set_rules("pullSecrets: []\nrules: []\n");
        assert_eq!(fixture.metrics.rules_valid.get(), 1);
        assert_eq!(fixture.generation(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cold_start_says_why_it_is_not_ready() {
        let mut fixture = Fixture::new();
        for (seen, reason) in [
            (Seen::Absent, "[-] rules: ConfigMap n/rules does not exist"),
            (
                config_map("x", ""),
                "[-] rules: ConfigMap n/rules has no key \"rules.yaml\"",
            ),
            (
                config_map(RULES_KEY, "rulez: []"),
                "[-] rules: rules.yaml:1:1: ",
            ),
        ] {
            fixture.rules.send_replace(seen);
            fixture.objects.reload();
            let (ready, report) = fixture.readiness.report();
            assert!(!ready && report.contains(reason), "{report}");
        }
        assert!(fixture.generation().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_rules_are_compiled_once() {
        let mut fixture = Fixture::new();
        fixture.set_rules(BY_IMAGES);
        fixture.set_rules(BY_IMAGES);
        fixture.list_namespaces();
        assert_eq!(fixture.metrics.rules_generation.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_index_keeps_the_last_good_one() {
        let mut fixture = Fixture::new();
        fixture.set_rules(BY_KEYS);
        let json = r#"{"version":1,"rules":"","secrets":{"a":{"keys":["r.io"],"state":"usable"}}}"#;
        let later = json.replace("\"version\":1", "\"version\":2");
        for seen in [
            config_map(INDEX_KEY, json),
            config_map(INDEX_KEY, &later),
            Seen::Absent,
        ] {
            fixture.index.send_replace(seen);
            fixture.objects.reload();
            let serving = fixture.store.load();
            let snapshot = &serving.as_ref().unwrap().snapshot;
            assert!(snapshot.coverage(crate::rules::SecretId(0)).is_some());
        }
    }
}

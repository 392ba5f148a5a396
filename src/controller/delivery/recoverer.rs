//! Evicts Pods that wait for an image and would start if they were made anew, by itself, where that is wanted.
//!
//! Which those are, and how one is evicted, is in [`crate::recovery`], as for `recover`. Here is when: while this
//! process leads; while rules, index and webhook are there, and rules and webhook as they were a look before, so that
//! a Pod that is made anew meets what was judged by; so many a minute; and of each owner as [`super::patience`] says. Whether a
//! pull secret is there is what delivery knows of its own copies: this must not read a Secret.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::api::ListParams;
use kube::{Client, ResourceExt as _};
use prometheus::IntCounter;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::Recovery;
use super::super::events::{Events, Reason};
use super::super::health::Caller;
use super::super::rules::Loaded;
use super::Parts;
use super::board::Board;
use super::patience::Patience;
use crate::delivery::{CopyState, Payload, State};
use crate::image::ImageRef;
use crate::index::document::rules_hash;
use crate::installation::{ApiServer, Looked, Reading, Target, webhook_of};
use crate::metrics::DeliveryMetrics;
use crate::recovery::pods::FailingPod;
use crate::recovery::stuck::{Fate, Judge, StuckPod};
use crate::recovery::{
    self,
    eviction::{evict, pause},
};
use crate::rules::{Ruleset, config::RULES_KEY};
use crate::shutdown::Stop;
use crate::snapshot::Snapshot;

/// Pods in one answer. One is some 10 kB of JSON, and 1.5 MB at most (etcd's), ten times that while it is read.
const PAGE_PODS: u32 = 20;
/// Most Pods that a look keeps, some 500 bytes of each. Those beyond are found when these are gone.
const STUCK_MAX: usize = 5000;

/// What a recoverer is told of the installation.
pub(in super::super) struct Surroundings {
    /// ConfigMap of the rules.
    pub(in super::super) rules_config_map: String,
    /// MutatingWebhookConfiguration that holds the webhook.
    pub(in super::super) webhook_configuration: String,
    /// Calls the webhook.
    pub(in super::super) caller: Caller,
    /// How many Pods, and how often.
    pub(in super::super) recovery: Recovery,
}

/// The one that evicts.
pub(super) struct Recoverer {
    board: Arc<Board>,
    client: Client,
    rules: watch::Receiver<Option<Arc<Loaded>>>,
    events: Events,
    metrics: DeliveryMetrics,
    panics: IntCounter,
    surroundings: Surroundings,
    memory: Memory,
}

/// What is remembered from look to look.
#[derive(Default)]
struct Memory {
    patience: Patience,
    /// The compiled rules, and the hash of their text.
    ruleset: Option<(String, Arc<Ruleset>)>,
    /// What the last look found, if all was in order.
    footing: Option<Footing>,
    /// Why the last look came to nothing.
    problem: Option<String>,
}

/// Hash of the rules, and version of the webhook's configuration.
type Footing = (String, Option<String>);

/// What a Pod that is made anew meets.
struct Ground {
    loaded: Arc<Loaded>,
    webhook: MutatingWebhook,
    /// Of its configuration.
    version: Option<String>,
}

impl Ground {
    fn footing(&self) -> Footing {
        (self.loaded.hash.clone(), self.version.clone())
    }
}

impl Recoverer {
    pub(super) fn new(board: &Arc<Board>, parts: &Parts, surroundings: Surroundings) -> Self {
        Self {
            board: Arc::clone(board),
            client: parts.client.clone(),
            rules: parts.rules.clone(),
            events: parts.events.clone(),
            metrics: parts.delivery_metrics.clone(),
            panics: parts.metrics.panics.clone(),
            surroundings,
            memory: Memory::default(),
        }
    }

    /// Looks and evicts until `stop` drains.
    pub(super) async fn run(&mut self, stop: &Stop) {
        self.memory.footing = None;
        while !stop.is_draining() {
            let next = Instant::now() + self.surroundings.recovery.interval;
            let looked = tokio::select! {
                () = stop.drain() => return,
                looked = self.look() => looked,
            };
            let problem = match looked {
                Ok((server, stuck)) => {
                    self.recover(&server, stuck, stop).await;
                    None
                }
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem.as_ref().filter(|_| problem != self.memory.problem) {
                tracing::info!(problem, "no Pod is recovered");
            }
            self.memory.problem = problem;
            tokio::select! {
                () = stop.drain() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// The Pods that may be evicted; none where what decides about them is new, or why nobody can say.
    async fn look(&mut self) -> Result<(ApiServer, Vec<StuckPod>), String> {
        let before = self.memory.footing.take();
        let server = ApiServer::new(self.client.clone()).await;
        let server = server.map_err(|error| error.to_string())?;
        let ground = self.ground(&server).await?;
        let snapshot = self.snapshot(&ground.loaded).await?;
        let footing = ground.footing();
        let is_new = before.as_ref() != Some(&footing);
        self.memory.footing = Some(footing);
        if is_new {
            // Webhooks may know it a moment later.
            return Err("rules or webhook are new to this look".into());
        }
        self.look_for_proof(&server).await?;
        let stuck = self.stuck(&server, &ground.webhook, &snapshot).await?;
        Ok((server, stuck))
    }

    /// Tells patience which Pods run where it wants to know.
    async fn look_for_proof(&mut self, server: &ApiServer) -> Result<(), String> {
        let running = ListParams::default().fields("status.phase=Running");
        let patience = &mut self.memory.patience;
        for namespace in patience.unproven(Instant::now()) {
            let each = |pod: Value| {
                if let Some(pod) = FailingPod::of(&pod) {
                    patience.sees_running(&namespace, &pod.owner.to_string(), &pod.created);
                }
            };
            let path = format!("/api/v1/namespaces/{namespace}/pods");
            let listed = server.each(&path, &running, Reading::Metadata, each);
            there("the list of Pods", listed.await)?;
        }
        Ok(())
    }

    /// Whether a copy that the Pod would get is still there.
    fn has_copy(&self, pod: &StuckPod) -> bool {
        let state = self.board.state();
        let mut names = pod.adds.iter();
        names.any(|name| present(&state, &pod.namespace, name).is_some())
    }

    /// Whether rules and webhook are still those that were judged by.
    async fn stands(&self, server: &ApiServer) -> bool {
        let now = self.ground(server).await.ok();
        now.is_some_and(|now| self.memory.footing == Some(now.footing()))
    }

    /// Rules and webhook, if both are in use.
    async fn ground(&self, server: &ApiServer) -> Result<Ground, String> {
        let loaded = self.rules.borrow().clone();
        let loaded = loaded.ok_or("there are no rules that can be used yet")?;
        self.check_rules(server, &loaded).await?;
        let name = &self.surroundings.webhook_configuration;
        let what = format!("MutatingWebhookConfiguration {name}");
        let configuration = server.one::<MutatingWebhookConfiguration>(None, name).await;
        let configuration = there(&what, configuration)?;
        let webhook = webhook_of(&configuration).cloned();
        let webhook = webhook.ok_or_else(|| format!("{what} has no webhook of ours"))?;
        self.check_webhook(&webhook).await?;
        Ok(Ground {
            loaded,
            webhook,
            version: configuration.resource_version(),
        })
    }

    /// Whether the rules in the ConfigMap are those in use, and not ones with errors, say.
    async fn check_rules(&self, server: &ApiServer, loaded: &Loaded) -> Result<(), String> {
        let Surroundings {
            rules_config_map: name,
            caller,
            ..
        } = &self.surroundings;
        let what = format!("ConfigMap {name}");
        let map = server.one::<ConfigMap>(Some(&caller.namespace), name).await;
        let map = there(&what, map)?;
        let text = map.data.as_ref().and_then(|data| data.get(RULES_KEY));
        match text.is_some_and(|text| rules_hash(text) == loaded.hash) {
            true => Ok(()),
            false => Err(format!("the rules in {what} are not in use")),
        }
    }

    /// Whether somebody answers where the API server will ask. One that is called by URL cannot be asked from
    /// here.
    async fn check_webhook(&self, webhook: &MutatingWebhook) -> Result<(), String> {
        let conditions = webhook.match_conditions.iter().flatten();
        if conditions.count() > 0 {
            return Err(
                "the webhook has matchConditions, which only an API server can judge".into(),
            );
        }
        let Target::Service { .. } = Target::of(webhook) else {
            return Ok(());
        };
        let bundle = webhook.client_config.ca_bundle.as_ref();
        let bundle = bundle.ok_or("the webhook has no caBundle yet")?;
        self.surroundings.caller.call(&bundle.0).await
    }

    /// What webhooks decide with, as far as is known here.
    async fn snapshot(&mut self, loaded: &Arc<Loaded>) -> Result<Snapshot, String> {
        let ruleset = self.ruleset(loaded).await?;
        let state = self.board.state();
        let index = state.published.iter().flatten().next();
        let index = index.filter(|index| index.rules == loaded.hash);
        let index = index.ok_or("no index is published for the rules yet")?;
        Ok(recovery::snapshot(ruleset, Some(index), &state))
    }

    async fn ruleset(&mut self, loaded: &Arc<Loaded>) -> Result<Arc<Ruleset>, String> {
        if let Some((hash, ruleset)) = &self.memory.ruleset
            && *hash == loaded.hash
        {
            return Ok(Arc::clone(ruleset));
        }
        // A mebibyte of rules keeps a thread busy for a while.
        let of = Arc::clone(loaded);
        let compiled = spawn_blocking(move || Ruleset::compile(&of.config)).await;
        let compiled = compiled.map_err(|_| {
            self.panics.inc();
            "the rules cannot be compiled because of a bug".to_owned()
        })?;
        let ruleset = Arc::new(compiled);
        self.memory.ruleset = Some((loaded.hash.clone(), Arc::clone(&ruleset)));
        Ok(ruleset)
    }

    /// Every Pod that a restart would fix for sure, and that may be evicted.
    async fn stuck(
        &mut self,
        server: &ApiServer,
        webhook: &MutatingWebhook,
        snapshot: &Snapshot,
    ) -> Result<Vec<StuckPod>, String> {
        let judge = Judge {
            webhook: Some(webhook),
            snapshot,
            jobs: false,
        };
        let (board, patience) = (&self.board, &mut self.memory.patience);
        let now = Instant::now();
        let mut stuck = Vec::new();
        let each = |pod: Value| {
            let found = judged(board, &judge, &pod);
            let may_go = found.filter(|pod| patience.sees_waiting(pod, now));
            stuck.extend(may_go.filter(|_| stuck.len() < STUCK_MAX));
        };
        let pending = ListParams::default().fields("status.phase=Pending");
        let pending = pending.limit(PAGE_PODS);
        let listed = server.each("/api/v1/pods", &pending, Reading::Whole, each);
        there("the list of Pods", listed.await)?;
        Ok(stuck)
    }

    /// Evicts as many as fit into a minute, one after the other; the next look judges the others anew.
    async fn recover(&mut self, server: &ApiServer, stuck: Vec<StuckPod>, stop: &Stop) {
        let per_minute = self.surroundings.recovery.evictions_per_minute;
        let max = usize::try_from(per_minute).unwrap_or(usize::MAX);
        let patience = &mut self.memory.patience;
        for mut pod in patience.choose(stuck, max, Instant::now()) {
            let stands = tokio::select! {
                () = stop.drain() => return,
                stands = self.stands(server) => stands,
            };
            if !stands {
                // The next look says why.
                return;
            }
            if !self.has_copy(&pod) {
                continue;
            }
            evict(server, &mut pod).await;
            self.memory.patience.note(&pod, Instant::now());
            self.tell(&pod).await;
            tokio::select! {
                () = stop.drain() => return,
                () = sleep(pause(per_minute)) => {}
            }
        }
    }

    async fn tell(&self, pod: &StuckPod) {
        let (namespace, name) = (&pod.namespace, &pod.pod);
        let reason = pod.reason.as_deref().unwrap_or_default();
        let outcome = match pod.fate {
            Fate::Evicted => "evicted",
            Fate::Refused => "refused",
            Fate::Failed => "failed",
            Fate::Evictable | Fate::Left | Fate::Recovered => return,
        };
        self.metrics.recovered(outcome);
        if pod.fate != Fate::Evicted {
            tracing::warn!(namespace, pod = name, outcome, reason, "not evicted");
            return;
        }
        let gets = pod.adds.join(", ");
        let owner = pod.owner.as_deref().unwrap_or_default();
        tracing::info!(
            namespace,
            pod = name,
            owner,
            gets,
            "evicted: made anew, it pulls"
        );
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        let note = format!("evicted: it cannot pull, and made anew it gets {gets}");
        let reason = Reason::EvictedForPullSecret;
        self.events.publish(&regarding, reason, &note).await;
    }
}

/// One of those that are made anew whatever became of the last one, if it may be evicted.
fn judged(board: &Board, judge: &Judge<'_>, pod: &Value) -> Option<StuckPod> {
    let pod = FailingPod::read(pod).filter(|pod| pod.owner.makes_anew())?;
    let state = board.state();
    let found = judge.stuck(&pod, |name, images| {
        has_login(&state, (&pod.namespace, name), images)
    })?;
    (found.fate == Fate::Evictable).then_some(found)
}

/// Whether a copy is in a namespace that is as it should be, and has a login for one of these images.
fn has_login(
    state: &State,
    (namespace, name): (&str, &str),
    images: &[ImageRef<'_>],
) -> Looked<bool> {
    present(state, namespace, name).map_or(Looked::Absent, |payload| {
        let covers = |image| payload.keyring.covering_key(image).is_some();
        Looked::Seen(images.iter().any(covers))
    })
}

/// What a copy holds that is there and as it should be.
fn present<'s>(state: &'s State, namespace: &str, name: &str) -> Option<&'s Arc<Payload>> {
    let look = state.look(namespace, name);
    let is_present = look.state == Some(CopyState::Present);
    look.payload.filter(|_| is_present)
}

/// What was looked for, or why it cannot be seen.
fn there<T>(what: &str, looked: Looked<T>) -> Result<T, String> {
    match looked {
        Looked::Seen(object) => Ok(object),
        Looked::Absent => Err(format!("{what} does not exist")),
        Looked::Denied(said) | Looked::Failed(said) => Err(format!("cannot read {what}: {said}")),
    }
}

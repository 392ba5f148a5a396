//! Asks the API server for what a report is made of, with the caller's rights. It judges nothing, and
//! writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::facts::{Expiry, Facts, SourceFacts, Unseen, first_few};
use crate::cluster::account;
use crate::cluster::secret::view;
use crate::credential::keyring::without_user_info;
use crate::credential::{DockerConfig, Entry};
use crate::delivery::state::{Namespace, ObjectKey, Rules};
use crate::delivery::{
    Account, Instance, Observed, Plan, SecretView, SourceRef, SourceSecret, State,
};
use crate::index::IndexDocument;
use crate::index::document::{INDEX_KEY, rules_hash};
use crate::installation::{
    ApiServer, Found, Looked, Names, Reading, delivers, webhook_of, with_component,
};
use crate::recovery::pods::{FailingPod, pull_secrets};
use crate::rules::config::{Deliver, RULES_KEY};
use crate::rules::{self, RulesConfig, Ruleset};

/// Lists and objects that are asked for at once: few enough for any API server's fairness.
pub(super) const ASKED_AT_ONCE: usize = 8;

/// Pods between two signs of progress: an answer's worth.
const PROGRESS_PODS: usize = 500;

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Only the entry of this name; `None`: all.
    pub pull_secret: Option<&'a str>,
    /// Whether to look at Pods that wait.
    pub pods: bool,
}

/// Why there is nothing to report about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotLookError {
    /// The caller may not read the rules, or there was no answer.
    #[error("cannot read the rules in ConfigMap {object}: {said}")]
    Unread {
        /// Namespace and name.
        object: String,
        /// The API server's words.
        said: String,
    },
    /// No such ConfigMap, or none with the key.
    #[error(
        "there are no rules: no ConfigMap {object} with a {RULES_KEY}; \
         choose the installation by --namespace or --release, or see `pullpass doctor`"
    )]
    Missing {
        /// Namespace and name.
        object: String,
    },
    /// The rules have errors.
    #[error("the rules in ConfigMap {object} cannot be used: {summary}; see `pullpass doctor`")]
    Invalid {
        /// Namespace and name.
        object: String,
        /// The first error, and how many there are.
        summary: String,
    },
    /// No entry is called so.
    #[error("no pull secret is called \"{name}\"; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What the rules have.
        known: String,
    },
}

/// An object of which only the metadata was asked for.
#[derive(Deserialize)]
pub(super) struct Bare {
    pub(super) metadata: ObjectMeta,
}

/// Rules as read from the cluster.
pub(super) struct ReadRules {
    pub(super) config: RulesConfig,
    pub(super) rules: Rules,
}

/// Reads the rules of an installation.
pub(super) async fn read_rules(
    server: &ApiServer,
    names: &Names,
) -> Result<ReadRules, CannotLookError> {
    let object = format!("{}/{}", names.namespace, names.rules);
    let text = match server.text_of(names, &names.rules, RULES_KEY).await {
        Looked::Seen(Some(text)) => text,
        Looked::Seen(None) | Looked::Absent => return Err(CannotLookError::Missing { object }),
        Looked::Denied(said) | Looked::Failed(said) => {
            return Err(CannotLookError::Unread { object, said });
        }
    };
    let config = rules::load(&text).map_err(|errors| CannotLookError::Invalid {
        object,
        summary: errors.summary(RULES_KEY),
    })?;
    let plan = Arc::new(Plan::new(&config, &names.namespace));
    let hash = rules_hash(&text);
    Ok(ReadRules {
        config,
        rules: Rules { plan, hash },
    })
}

/// Every namespace, by name.
pub(super) async fn read_namespaces(server: &ApiServer) -> Looked<BTreeMap<Arc<str>, Namespace>> {
    let mut namespaces = BTreeMap::new();
    let each = |Bare { metadata }| {
        let name = metadata.name.clone().unwrap_or_default();
        namespaces.insert(name.into(), namespace_of(metadata));
    };
    let all = ListParams::default();
    let listed = server.each("/api/v1/namespaces", &all, Reading::Metadata, each);
    listed.await.map(|()| namespaces)
}

fn namespace_of(metadata: ObjectMeta) -> Namespace {
    Namespace {
        is_terminating: metadata.deletion_timestamp.is_some(),
        labels: metadata.labels.unwrap_or_default(),
    }
}

/// Looks at everything in `scope`; `progress` is told what comes next.
///
/// # Errors
/// [`CannotLookError`] if there are no rules that can be read and used, or they lack the entry.
pub async fn fetch(
    server: &ApiServer,
    found: &Found,
    scope: Scope<'_>,
    progress: &dyn Fn(&str),
) -> Result<Facts, CannotLookError> {
    let mut looking = Looking::start(server, found, scope.pull_secret, progress).await?;
    looking.index(found).await;
    looking.namespaces().await;
    if scope.pods {
        looking.facts.unseen.extend(others(found));
        looking.unseen(
            "which Pods are sent to the webhook",
            "list mutatingwebhookconfigurations",
            &found.configurations,
        );
        looking.pods().await;
    }
    if looking.facts.delivers != Some(false) {
        looking.sources().await;
        looking.copies().await;
        looking.accounts().await;
    }
    Ok(looking.facts)
}

/// What is said where there are several installations, and nobody chose one.
fn others(found: &Found) -> Option<Unseen> {
    let configurations = found.configurations.seen()?;
    let names: Vec<String> = configurations.iter().map(ResourceExt::name_any).collect();
    (names.len() > 1).then(|| Unseen {
        what: "other installations".to_owned(),
        said: format!("there are {}; this is the first", first_few(&names)),
        fix: "choose one: --webhook-configuration NAME".to_owned(),
    })
}

/// Positions of the entries that are looked at.
fn chosen(config: &RulesConfig, name: Option<&str>) -> Result<Vec<usize>, CannotLookError> {
    let entries = config.pull_secrets.iter().enumerate();
    let chosen = entries.filter(|(_, entry)| name.is_none_or(|name| entry.name == name));
    let chosen: Vec<usize> = chosen.map(|(position, _)| position).collect();
    match name.filter(|_| chosen.is_empty()) {
        None => Ok(chosen),
        Some(name) => {
            let known = config.pull_secrets.iter().map(|entry| entry.name.clone());
            let known = first_few(&known.collect::<Vec<_>>());
            let name = name.to_owned();
            Err(CannotLookError::Unknown { name, known })
        }
    }
}

/// What is being put together.
pub(super) struct Looking<'a> {
    server: &'a ApiServer,
    progress: &'a dyn Fn(&str),
    instance: Instance,
    pub(super) facts: Facts,
}

impl<'a> Looking<'a> {
    /// Begins with the rules, without which there is nothing to look for.
    pub(super) async fn start(
        server: &'a ApiServer,
        found: &Found,
        pull_secret: Option<&str>,
        progress: &'a dyn Fn(&str),
    ) -> Result<Self, CannotLookError> {
        let names = found.names.clone();
        progress("rules");
        let ReadRules { config, rules } = read_rules(server, &names).await?;
        let entries = chosen(&config, pull_secret)?;
        let instance = Instance::new(&names.namespace, &names.configuration);
        let configurations = found.configurations.seen();
        let webhook = configurations
            .and_then(|all| webhook_of(all.first()?))
            .cloned();
        Ok(Self {
            server,
            progress,
            instance,
            facts: Facts {
                ruleset: Arc::new(Ruleset::compile(&config)),
                webhook,
                index: None,
                delivers: None,
                state: State {
                    rules: Some(rules),
                    ..State::default()
                },
                sources: BTreeMap::new(),
                pods: Vec::new(),
                unseen: Vec::new(),
                names,
                config,
                entries,
            },
        })
    }

    pub(super) fn unseen<T>(&mut self, what: &str, right: &str, looked: &Looked<T>) {
        self.facts.unseen.extend(Unseen::of(what, right, looked));
    }

    /// The index. It is there only where a controller delivers, so that it says whether one does, if the
    /// Deployment does not.
    pub(super) async fn index(&mut self, found: &Found) {
        (self.progress)("index");
        let names = &self.facts.names;
        let text = self.server.text_of(names, &names.index, INDEX_KEY).await;
        let right = format!("get configmaps/{} -n {}", names.index, names.namespace);
        let deployments = found.deployments.seen();
        let controller = deployments.and_then(|all| with_component(all, "controller"));
        self.facts.delivers = match (controller, &text) {
            (Some(controller), _) => Some(delivers(controller)),
            (None, Looked::Seen(_)) => Some(true),
            (None, Looked::Absent) => Some(false),
            (None, Looked::Denied(_) | Looked::Failed(_)) => None,
        };
        let parsed = match text {
            Looked::Seen(Some(text)) => match IndexDocument::parse(&text) {
                Ok(index) => Looked::Seen(Some(index)),
                Err(error) => Looked::Failed(error.to_string()),
            },
            other => other.map(|_| None),
        };
        self.unseen(
            "what the controller says of each pull secret",
            &right,
            &parsed,
        );
        let index = match parsed {
            Looked::Seen(index) => index,
            Looked::Absent => None,
            Looked::Denied(_) | Looked::Failed(_) => return,
        };
        self.facts.state.published = Some(index.clone());
        self.facts.index = index;
    }

    pub(super) async fn namespaces(&mut self) {
        (self.progress)("namespaces");
        let namespaces = read_namespaces(self.server).await;
        self.unseen(
            "copies, and Pods under rules with labels",
            "list namespaces",
            &namespaces,
        );
        if let Looked::Seen(namespaces) = namespaces {
            self.facts.state.namespaces.replace(namespaces);
        }
    }

    /// One namespace, beside those of which this was said before.
    pub(super) async fn namespace(&mut self, name: &str) {
        (self.progress)("namespace");
        let path = format!("/api/v1/namespaces/{name}");
        let seen: Looked<Bare> = self.server.object(&path).await;
        self.unseen(
            "labels of the namespace",
            &format!("get namespaces/{name}"),
            &seen,
        );
        if let Looked::Seen(Bare { metadata }) = seen {
            let namespaces = &mut self.facts.state.namespaces;
            let mut known = namespaces.known().cloned().unwrap_or_default();
            known.insert(name.into(), namespace_of(metadata));
            namespaces.replace(known);
        }
    }

    /// What was seen of one Secret that may be a copy, as if it were the only one of its name.
    pub(super) fn copy(&mut self, namespace: &str, name: &str, seen: &Looked<Secret>) {
        let observed = |secret: &Secret| Observed::new(&view(secret), &self.instance);
        let there = match seen {
            Looked::Seen(secret) => [(namespace.into(), observed(secret))].into(),
            Looked::Absent => BTreeMap::new(),
            Looked::Denied(_) | Looked::Failed(_) => return,
        };
        let listing = self.facts.state.copies.entry(name.into());
        listing.or_default().replace(there);
    }

    /// Pods that wait for something: those that name a pull secret, and those that wait for an image.
    async fn pods(&mut self) {
        let (mut waiting, mut failing, mut count) = (BTreeMap::new(), Vec::new(), 0_usize);
        let progress = self.progress;
        progress("Pods");
        let each = |pod: Value| {
            count += 1;
            if count.is_multiple_of(PROGRESS_PODS) {
                progress(&format!("Pods: {count}"));
            }
            let text = |field: &str| pod.pointer(field).and_then(Value::as_str);
            let namespace = text("/metadata/namespace").unwrap_or_default();
            let key = (
                namespace.into(),
                text("/metadata/name").unwrap_or_default().into(),
            );
            let names: Box<[Arc<str>]> = pull_secrets(&pod).map(Arc::from).collect();
            if !names.is_empty() {
                waiting.insert(key, names);
            }
            failing.extend(FailingPod::read(&pod));
        };
        let pending = ListParams::default().fields("status.phase=Pending");
        let listed = self
            .server
            .each("/api/v1/pods", &pending, Reading::Whole, each);
        let listed = listed.await;
        self.unseen("Pods that a restart would fix", "list pods -A", &listed);
        if listed == Looked::Seen(()) {
            self.facts.state.pods.replace(waiting);
            self.facts.pods = failing;
        }
    }

    /// Each source of the entries, once.
    pub(super) async fn sources(&mut self) {
        let entries = self.facts.entries.iter();
        let entries = entries.filter_map(|&entry| self.facts.config.pull_secrets.get(entry));
        let wanted: BTreeSet<SourceRef> = entries
            .filter_map(|entry| self.facts.source_of(entry))
            .collect();
        let server = self.server;
        let looks = wanted.into_iter().map(async |source| {
            let secret: Looked<Secret> = server.one(Some(&source.namespace), &source.name).await;
            (source, secret)
        });
        let (mut own, mut is_own_seen, mut denied) = (BTreeMap::new(), true, Vec::new());
        let mut looks = std::pin::pin!(at_once(looks));
        while let Some((source, secret)) = looks.next().await {
            (self.progress)(&format!("sources: {source}"));
            let right = format!("get secrets/{} -n {}", source.name, source.namespace);
            let unseen = Unseen::of("", &right, &secret);
            let is_own = *self.facts.names.namespace == *source.namespace;
            let mut read = None;
            let facts = secret.map(|secret| {
                let secret = view(&secret);
                let (_, content) = read.insert((source.name.clone(), SourceSecret::read(&secret)));
                source_facts(&secret, content)
            });
            match (&unseen, is_own) {
                (None, true) => own.extend(read),
                (None, false) => {
                    let listing = self.facts.state.other_sources.entry(source.clone());
                    listing.or_default().replace(read.into_iter().collect());
                }
                (Some(_), _) => is_own_seen &= !is_own,
            }
            denied.extend(unseen.map(|unseen| (source.to_string(), unseen)));
            self.facts.sources.insert(source, facts);
        }
        let denied = Unseen::together("sources, and whether copies are up to date", denied);
        self.facts.unseen.extend(denied);
        // A list with a hole would make what is in the hole missing.
        if is_own_seen {
            self.facts.state.own_sources.replace(own);
        }
        self.facts.state.believe_published();
    }

    /// The Secrets of each name that copies have.
    async fn copies(&mut self) {
        let entries = self.facts.entries.iter();
        let entries = entries.filter_map(|&entry| self.facts.config.pull_secrets.get(entry));
        let delivered = entries.filter(|entry| entry.deliver != Deliver::Never);
        let mut wanted: BTreeSet<Arc<str>> =
            delivered.map(|entry| (*entry.secret_name).into()).collect();
        if self.facts.entries.len() == self.facts.config.pull_secrets.len() {
            // Also those that the rules have no longer.
            wanted.extend(self.facts.state.secret_names());
        }
        let (server, instance) = (self.server, &self.instance);
        let lists = wanted.into_iter().map(async |name| {
            let copies = named(server, instance, &name).await;
            (name, copies)
        });
        let mut denied = Vec::new();
        let mut lists = std::pin::pin!(at_once(lists));
        while let Some((name, copies)) = lists.next().await {
            (self.progress)(&format!("copies: {name}"));
            let unseen = Unseen::of("", "list secrets -A", &copies);
            denied.extend(unseen.map(|unseen| (name.to_string(), unseen)));
            if let Looked::Seen(copies) = copies {
                let listing = self.facts.state.copies.entry(name);
                listing.or_default().replace(copies);
            }
        }
        self.facts.unseen.extend(Unseen::together("copies", denied));
    }

    /// ServiceAccounts, where rules attach secrets to them.
    async fn accounts(&mut self) {
        if !self.facts.state.attaches() {
            return;
        }
        (self.progress)("ServiceAccounts");
        let accounts = read_accounts(self.server, &self.instance).await;
        self.unseen(
            "ServiceAccounts that secrets are attached to",
            "list serviceaccounts -A",
            &accounts,
        );
        if let Looked::Seen(accounts) = accounts {
            self.facts.state.accounts.replace(accounts);
        }
    }
}

/// Every ServiceAccount, as far as `instance` looks at it.
pub(super) async fn read_accounts(
    server: &ApiServer,
    instance: &Instance,
) -> Looked<BTreeMap<ObjectKey, Account>> {
    let mut accounts = BTreeMap::new();
    let each = |object: ServiceAccount| {
        accounts.insert(account::key(&object), account::read(&object, instance));
    };
    let all = ListParams::default();
    let listed = server.each("/api/v1/serviceaccounts", &all, Reading::Whole, each);
    listed.await.map(|()| accounts)
}

pub(super) fn at_once<F: Future>(
    questions: impl Iterator<Item = F>,
) -> impl Stream<Item = F::Output> {
    futures_util::stream::iter(questions).buffered(ASKED_AT_ONCE)
}

/// Every Secret of this name, by namespace. Of each only a hash is kept.
async fn named(
    server: &ApiServer,
    instance: &Instance,
    name: &str,
) -> Looked<BTreeMap<Arc<str>, Observed>> {
    let mut copies = BTreeMap::new();
    let each = |secret: Secret| {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        copies.insert(namespace.into(), Observed::new(&view(&secret), instance));
    };
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let listed = server.each("/api/v1/secrets", &params, Reading::Whole, each);
    listed.await.map(|()| copies)
}

/// What is said of a source that was read so.
fn source_facts(secret: &SecretView<'_>, read: &SourceSecret) -> SourceFacts {
    let decoded = secret.kind().zip(secret.payload);
    let decoded = decoded.and_then(|(kind, payload)| DockerConfig::decode(kind, payload).ok());
    let entries = decoded.iter().flat_map(DockerConfig::entries);
    let usable = entries.clone().filter(|entry| entry.is_usable());
    let expiry = |entry: &Entry| {
        Some(Expiry {
            key: without_user_info(&entry.key),
            at: entry.expires()?,
        })
    };
    SourceFacts {
        unusable: read.content.as_ref().err().map(ToString::to_string),
        registries: usable.map(|entry| without_user_info(&entry.key)).collect(),
        expiries: entries.filter_map(expiry).collect(),
    }
}

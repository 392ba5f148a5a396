//! Everything that delivery looks at, followed: which watches there are, and what of each object is kept.
//!
//! They run in every replica, so that the next leader knows everything already. Watches of single names
//! start and stop as the rules change. Nothing is decided here.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    LocalObjectReference, Namespace as NamespaceObject, Secret, ServiceAccount,
};
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::super::programs::Programs;
use super::BURST;
use super::board::{Board, Scope};
use super::given;
use super::queue::{Key, Lane};
use crate::cluster::client::{ConnectError, Connection};
use crate::cluster::part::part_of;
use crate::cluster::watch::{Change, Followed, follow_each};
use crate::cluster::{account, secret};
use crate::delivery::source::Origin;
use crate::delivery::state::{Listing, Namespace, ObjectKey, SecretNames};
use crate::delivery::{Account, Entry, Instance, Observed, SourceRef, SourceSecret, State};
use crate::files::poll;
use crate::metrics::{Metrics, ProgramRuns};
use crate::rules::Deliver;
use crate::rules::config::Source;

/// Secrets of our own namespace that may be sources: Helm's releases are large, many, and never one.
const OWN_SECRETS: &str = "type!=helm.sh/release.v1";
/// Pods whose images may still be pulled.
const PENDING: &str = "status.phase=Pending";
/// Starts watches.
pub(super) struct Watches {
    pub(super) board: Arc<Board>,
    pub(super) connection: Connection,
    pub(super) metrics: Arc<Metrics>,
    pub(super) instance: Arc<Instance>,
    /// The controller's.
    pub(super) namespace: String,
    pub(super) programs: Programs,
    /// Counts runs of programs.
    pub(super) runs: ProgramRuns,
}

/// A watch. Those of names come and go with the rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Wanted {
    Namespaces,
    /// The Secrets of our own namespace.
    OwnSecrets,
    /// Metadata of ServiceAccounts, for those that are strict.
    StrictAccounts,
    /// ServiceAccounts whole, where some have entries of ours.
    Accounts,
    /// The Secrets of this name, everywhere.
    Copies(Arc<str>),
    /// A source in another namespace than ours.
    Source(SourceRef),
    /// A file, or a program.
    Given(Arc<Source>),
    /// Pending Pods, for what is delivered on demand.
    Pods,
}

impl Watches {
    /// Keeps the watches as the rules want them, for ever.
    pub(super) async fn run(self) -> Result<(), ConnectError> {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<Wanted, AbortHandle> = HashMap::new();
        let mut changes = self.board.changes();
        loop {
            let wanted = wanted(&changes.borrow_and_update());
            running.retain(|watch, task| {
                let is_wanted = wanted.contains(watch);
                if !is_wanted {
                    task.abort();
                    self.board.change(|state| watch.stop(state));
                }
                // One that ended by itself, which is a bug, starts anew.
                is_wanted && !task.is_finished()
            });
            for watch in wanted {
                if let Slot::Vacant(vacant) = running.entry(watch) {
                    let task = self.start(&mut tasks, vacant.key().clone())?;
                    vacant.insert(task);
                }
            }
            while let Some(ended) = tasks.try_join_next() {
                if ended.is_err_and(|error| error.is_panic()) {
                    self.metrics.panics.inc();
                }
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
            sleep(BURST).await;
        }
    }

    fn start(&self, tasks: &mut JoinSet<()>, watch: Wanted) -> Result<AbortHandle, ConnectError> {
        match watch {
            Wanted::Namespaces => self.follow_namespaces(tasks),
            Wanted::OwnSecrets => self.follow_own_secrets(tasks),
            Wanted::StrictAccounts => self.follow_strict_accounts(tasks),
            Wanted::Accounts => self.follow_accounts(tasks),
            Wanted::Copies(name) => self.follow_copies(tasks, name),
            Wanted::Source(source) => self.follow_source(tasks, source),
            Wanted::Given(source) => Ok(self.follow_given(tasks, source)),
            Wanted::Pods => self.follow_pods(tasks),
        }
    }

    /// Follows what `api` gives as the watch called `name` in the metrics.
    fn follow<O: Followed, K: Ord + Send + 'static, V: Send + 'static>(
        &self,
        tasks: &mut JoinSet<()>,
        name: &'static str,
        (api, fields): (impl FnOnce(kube::Client) -> Api<O>, Option<String>),
        read: impl Fn(O) -> (K, Option<V>) + Send + Sync + 'static,
        apply: impl Fn(&mut State, Change<K, V>) -> Vec<Scope> + Send + Sync + 'static,
    ) -> Result<AbortHandle, ConnectError> {
        let freshness = self.metrics.watch_age(name);
        let api = api(self.connection.watcher(freshness.clone())?);
        let board = Arc::clone(&self.board);
        Ok(tasks.spawn(async move {
            let on_change = |change| board.change(|state| apply(state, change));
            match follow_each(api, fields.as_deref(), freshness, read, on_change).await {}
        }))
    }

    fn follow_namespaces(&self, tasks: &mut JoinSet<()>) -> Result<AbortHandle, ConnectError> {
        let read = |mut object: PartialObjectMeta<NamespaceObject>| {
            let namespace = Namespace {
                labels: object.metadata.labels.take().unwrap_or_default(),
                is_terminating: object.metadata.deletion_timestamp.is_some(),
            };
            (Arc::from(object.name_any()), Some(namespace))
        };
        self.follow(tasks, "namespaces", (Api::all, None), read, namespaces)
    }

    fn follow_own_secrets(&self, tasks: &mut JoinSet<()>) -> Result<AbortHandle, ConnectError> {
        let namespace = self.namespace.clone();
        let api = move |client| Api::namespaced(client, &namespace);
        let own = Arc::<str>::from(&*self.namespace);
        let selected = (api, Some(OWN_SECRETS.to_owned()));
        let read = |object: Secret| source(&object);
        self.follow(tasks, "sources", selected, read, move |state, change| {
            let names = apply(&mut state.own_sources, change);
            let of_source = |name| SourceRef {
                namespace: own.clone(),
                name,
            };
            names.map_or_else(everything, |name| scopes_of(state, &of_source(name)))
        })
    }

    fn follow_source(
        &self,
        tasks: &mut JoinSet<()>,
        of: SourceRef,
    ) -> Result<AbortHandle, ConnectError> {
        let namespace = of.namespace.clone();
        let selected = Some(format!("metadata.name={}", of.name));
        let api = move |client| Api::namespaced(client, &namespace);
        self.follow(
            tasks,
            "sources",
            (api, selected),
            |object: Secret| source(&object),
            move |state, change| {
                apply(state.other_sources.entry(of.clone()).or_default(), change);
                scopes_of(state, &of)
            },
        )
    }

    fn follow_given(&self, tasks: &mut JoinSet<()>, of: Arc<Source>) -> AbortHandle {
        let (board, source) = (Arc::clone(&self.board), Arc::clone(&of));
        let tell = move |given| board.change_given(&source, given);
        let (programs, runs) = (self.programs.clone(), self.runs.clone());
        let panics = self.metrics.panics.clone();
        tasks.spawn(async move {
            match &*of {
                Source::File { path } => {
                    match poll(given::File::new(path.into(), tell), panics).await {}
                }
                Source::Exec(exec) => {
                    let (programs, runs) = (&programs, &runs);
                    let ask = || async move {
                        let answer = programs.ask(exec).await;
                        runs.count(answer.is_ok());
                        answer
                    };
                    match given::follow(ask, tell).await {}
                }
                // That is no such source.
                Source::Secret { .. } => {}
            }
        })
    }

    fn follow_copies(
        &self,
        tasks: &mut JoinSet<()>,
        name: Arc<str>,
    ) -> Result<AbortHandle, ConnectError> {
        let instance = Arc::clone(&self.instance);
        let read = move |object: Secret| {
            let observed = Observed::new(&secret::view(&object), &instance);
            (
                Arc::from(object.namespace().unwrap_or_default()),
                Some(observed),
            )
        };
        let selected = Some(format!("metadata.name={name}"));
        self.follow(
            tasks,
            "copies",
            (Api::all, selected),
            read,
            move |state, change| {
                let namespace = apply(state.copies.entry(name.clone()).or_default(), change);
                match namespace {
                    Some(namespace) => vec![Scope::One(
                        Key::Copy((namespace, name.clone())),
                        Lane::Normal,
                    )],
                    None => vec![Scope::Name(name.clone())],
                }
            },
        )
    }

    fn follow_pods(&self, tasks: &mut JoinSet<()>) -> Result<AbortHandle, ConnectError> {
        let read = |pod: Pod| {
            let names = pod.spec.image_pull_secrets.unwrap_or_default();
            let names: Box<[Arc<str>]> = names.into_iter().map(|entry| entry.name.into()).collect();
            let key = (
                Arc::from(pod.metadata.namespace.unwrap_or_default()),
                Arc::from(pod.metadata.name.unwrap_or_default()),
            );
            (key, (!names.is_empty()).then_some(names))
        };
        let selected = (Api::all, Some(PENDING.to_owned()));
        self.follow(tasks, "pods", selected, read, pods)
    }

    fn follow_strict_accounts(&self, tasks: &mut JoinSet<()>) -> Result<AbortHandle, ConnectError> {
        let read = |object: PartialObjectMeta<ServiceAccount>| {
            let strict = account::is_strict(&object).then_some(());
            (account::key(&object), strict)
        };
        self.follow(
            tasks,
            "accounts",
            (Api::all, None),
            read,
            |state, change| {
                apply(&mut state.strict_accounts, change);
                Vec::new()
            },
        )
    }

    fn follow_accounts(&self, tasks: &mut JoinSet<()>) -> Result<AbortHandle, ConnectError> {
        let instance = Arc::clone(&self.instance);
        let read = move |object: ServiceAccount| {
            let seen = (
                account::read(&object, &instance),
                account::is_strict(&object),
            );
            (account::key(&object), Some(seen))
        };
        self.follow(tasks, "accounts", (Api::all, None), read, accounts)
    }
}

/// The watches that there should be.
fn wanted(state: &State) -> HashSet<Wanted> {
    let accounts = match state.attaches() {
        true => Wanted::Accounts,
        false => Wanted::StrictAccounts,
    };
    let always = [Wanted::Namespaces, Wanted::OwnSecrets, accounts];
    let copies = state.secret_names().map(Wanted::Copies);
    let mut wanted: HashSet<_> = always.into_iter().chain(copies).collect();
    let Some(rules) = &state.rules else {
        return wanted;
    };
    for entry in rules.plan.entries() {
        match &entry.origin {
            Origin::Secret(source) if *source.namespace != *rules.plan.own_namespace() => {
                wanted.insert(Wanted::Source(source.clone()));
            }
            Origin::Given(source)
                if state.is_leading || matches!(**source, Source::File { .. }) =>
            {
                wanted.insert(Wanted::Given(Arc::clone(source)));
            }
            Origin::Secret(_) | Origin::Given(_) => {}
        }
        if entry.deliver == Deliver::OnDemand {
            wanted.insert(Wanted::Pods);
        }
    }
    wanted
}

impl Wanted {
    /// What a stopped watch saw is no longer known.
    fn stop(&self, state: &mut State) -> Vec<Scope> {
        match self {
            Self::Copies(name) => {
                state.copies.remove(name);
                state.forbidden.remove(name);
            }
            Self::Source(source) => {
                state.other_sources.remove(source);
            }
            Self::Given(source) => {
                state.given.remove(source);
            }
            Self::Pods => state.pods = Listing::default(),
            Self::Accounts => state.accounts = Listing::default(),
            // These never stop, and of strict ones the other watch goes on saying which there are.
            Self::Namespaces | Self::OwnSecrets | Self::StrictAccounts => {}
        }
        Vec::new()
    }
}

/// A Secret as a source.
fn source(object: &Secret) -> (Arc<str>, Option<SourceSecret>) {
    let source = SourceSecret::read(&secret::view(object));
    (object.name_any().into(), Some(source))
}

/// Takes a change over; gives the one object that it is about, `None` for all.
fn apply<K: Ord + Clone, V>(listing: &mut Listing<K, V>, change: Change<K, V>) -> Option<K> {
    match change {
        Change::Listed(all) => listing.replace(all),
        Change::Denied => listing.deny(),
        Change::Set(key, value) => {
            listing.set(key.clone(), value);
            return Some(key);
        }
        Change::Gone(key) => {
            listing.remove(&key);
            return Some(key);
        }
    }
    None
}

fn everything() -> Vec<Scope> {
    vec![Scope::Everything]
}

/// The copies of a source.
fn scopes_of(state: &State, source: &SourceRef) -> Vec<Scope> {
    let entries = state.rules.iter().flat_map(|rules| rules.plan.entries());
    let is_of = |entry: &&Entry| matches!(&entry.origin, Origin::Secret(of) if of == source);
    let entries = entries.filter(is_of);
    entries
        .map(|entry| Scope::Name(entry.secret_name.clone()))
        .collect()
}

fn namespaces(state: &mut State, change: Change<Arc<str>, Namespace>) -> Vec<Scope> {
    let before = |name: &Arc<str>| state.namespaces.known().map(|known| known.get(name));
    let scopes = match &change {
        Change::Listed(all) => {
            // After the first list, what was not there is new, and somebody may wait.
            let is_new = |name: &&Arc<str>| before(name) == Some(None);
            let new = all.keys().filter(is_new).cloned().map(Scope::Namespace);
            new.chain([Scope::Everything]).collect()
        }
        Change::Set(name, namespace) => {
            let is_anew = !namespace.is_terminating
                && before(name)
                    .flatten()
                    .is_some_and(|before| before.is_terminating);
            let ended = is_anew.then(|| Scope::Ended(name.clone()));
            let scopes = ended.into_iter().chain([Scope::Namespace(name.clone())]);
            scopes.collect()
        }
        Change::Gone(name) => vec![Scope::Ended(name.clone())],
        Change::Denied => Vec::new(),
    };
    apply(&mut state.namespaces, change);
    scopes
}

fn pods(state: &mut State, change: Change<ObjectKey, SecretNames>) -> Vec<Scope> {
    let asked = |namespace: &Arc<str>, names: &[Arc<str>]| -> Vec<Scope> {
        let keys = names.iter().map(|name| (namespace.clone(), name.clone()));
        keys.map(|key| Scope::One(Key::Copy(key), Lane::Urgent))
            .collect()
    };
    let scopes = match &change {
        Change::Listed(all) => all
            .iter()
            .flat_map(|((namespace, _), names)| asked(namespace, names))
            .collect(),
        Change::Set((namespace, _), names) => asked(namespace, names),
        Change::Gone(_) | Change::Denied => Vec::new(),
    };
    apply(&mut state.pods, change);
    scopes
}

/// What is whole says also which are strict.
fn accounts(state: &mut State, change: Change<ObjectKey, (Account, bool)>) -> Vec<Scope> {
    let strict = &mut state.strict_accounts;
    let change = match change {
        Change::Listed(all) => {
            let of_strict = all.iter().filter(|(_, (_, is_strict))| *is_strict);
            strict.replace(of_strict.map(|(key, _)| (key.clone(), ())).collect());
            let all = all.into_iter().map(|(key, (account, _))| (key, account));
            Change::Listed(all.collect())
        }
        Change::Set(key, (account, is_strict)) => {
            match is_strict {
                true => strict.set(key.clone(), ()),
                false => strict.remove(&key),
            };
            Change::Set(key, account)
        }
        Change::Gone(key) => {
            strict.remove(&key);
            Change::Gone(key)
        }
        Change::Denied => {
            strict.deny();
            Change::Denied
        }
    };
    let known = state.accounts.known();
    let is_new = |key| known.is_none_or(|known| !known.contains_key(key));
    let lane = match &change {
        Change::Set(key, _) if is_new(key) => Lane::Urgent,
        _ => Lane::Normal,
    };
    let one = apply(&mut state.accounts, change);
    vec![one.map_or(Scope::Accounts, |key| Scope::One(Key::Account(key), lane))]
}

/// A Pod as far as it is looked at: a whole one has hundreds of fields, and code to read each of them.
#[derive(Debug, Clone, Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    image_pull_secrets: Option<Vec<LocalObjectReference>>,
}

part_of!(k8s_openapi::api::core::v1::Pod, Pod);

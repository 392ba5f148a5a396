//! Everything that was last seen, as far as delivery looks at it, and what is to be done about one Secret.
//!
//! Watches write here, whoever decides reads. Nothing is known until its list is whole: a Secret that is
//! not in a list that nobody has seen is not missing. This file must not remember what was done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::index::IndexDocument;
use crate::rules::config::{Deliver, Source};

use super::attach::{Account, Change, Wish};
use super::copy::{Observed, Versioned};
use super::plan::{Claim, Entry, Plan};
use super::probe::Answered;
use super::source::{Origin, Payload, SourceRef, SourceSecret};
use super::step::{self, Content, CopyState, Step, Wanted};

/// Namespace and name.
pub type ObjectKey = (Arc<str>, Arc<str>);
/// The pull secrets that a Pod names.
pub type SecretNames = Box<[Arc<str>]>;

/// Objects of one watch by key.
#[derive(Debug)]
pub struct Listing<K, V> {
    known: Option<BTreeMap<K, V>>,
    is_denied: bool,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is going away: nothing can be made there any more.
    pub is_terminating: bool,
}

/// The rules in use.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What they deliver.
    pub plan: Arc<Plan>,
    /// [`crate::index::document::rules_hash`] of their text.
    pub hash: String,
}

/// What was last seen.
#[derive(Debug, Default)]
pub struct State {
    /// The last good rules; `None` before there were any.
    pub rules: Option<Rules>,
    /// Every namespace, by name.
    pub namespaces: Listing<Arc<str>, Namespace>,
    /// The Secrets of pullpass's own namespace, by name.
    pub own_sources: Listing<Arc<str>, SourceSecret>,
    /// Sources elsewhere, each followed by itself.
    pub other_sources: BTreeMap<SourceRef, Listing<Arc<str>, SourceSecret>>,
    /// What files and programs gave, or why they do not; nothing of those that have not answered yet.
    pub given: BTreeMap<Arc<Source>, SourceSecret>,
    /// Whether this controller leads, and therefore runs programs.
    pub is_leading: bool,
    /// By name those Secrets that have the name of copies, by namespace.
    pub copies: BTreeMap<Arc<str>, Listing<Arc<str>, Observed>>,
    /// Pending Pods that name pull secrets, by namespace and name.
    pub pods: Listing<ObjectKey, SecretNames>,
    /// ServiceAccounts with `kubernetes.io/enforce-mountable-secrets: "true"`, by namespace and name.
    pub strict_accounts: Listing<ObjectKey, ()>,
    /// Every ServiceAccount, by namespace and name; never listed where [`State::attaches`] says no.
    pub accounts: Listing<ObjectKey, Account>,
    /// The index that is published; `None` before it was looked for.
    pub published: Option<Option<IndexDocument>>,
    /// What registries said, by the entry's name.
    pub answers: BTreeMap<Arc<str>, Answered>,
    /// Names of copies that the API server did not let us write.
    pub forbidden: BTreeSet<Arc<str>>,
    /// Whether the API server did not let us write ServiceAccounts.
    pub are_accounts_forbidden: bool,
    /// Whether the index does not fit into a ConfigMap.
    pub is_index_too_large: bool,
}

/// What is known of one Secret, and what follows.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// What is to be done.
    pub step: Step,
    /// How the copy is doing; `None` where none is wanted.
    pub state: Option<CopyState>,
    /// The entry that it is a copy for.
    pub entry: Option<&'a Entry>,
    /// What it should hold.
    pub payload: Option<&'a Arc<Payload>>,
    /// What is there.
    pub there: Option<&'a Observed>,
}

impl<K, V> Default for Listing<K, V> {
    fn default() -> Self {
        Self {
            known: None,
            is_denied: false,
        }
    }
}

impl<K: Ord, V> Listing<K, V> {
    /// A whole list was read.
    pub fn replace(&mut self, all: BTreeMap<K, V>) {
        self.known = Some(all);
        self.is_denied = false;
    }

    /// An object is like this; ignored before the first list. Gives what it was before.
    pub fn set(&mut self, key: K, value: V) -> Option<V> {
        self.known.as_mut()?.insert(key, value)
    }

    /// There is no such object any more.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.known.as_mut()?.remove(key)
    }

    /// The API server does not let us look.
    pub fn deny(&mut self) {
        self.is_denied = true;
    }

    /// Whether the API server does not let us look.
    pub fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// All of them, once they were listed.
    pub fn known(&self) -> Option<&BTreeMap<K, V>> {
        self.known.as_ref()
    }

    /// Whether there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        self.known.is_some() || self.is_denied
    }
}

impl<K: Ord, V: Versioned> Listing<K, V> {
    /// A write made this of the object that was at this version (empty: of none). Ignored where a watch has
    /// said something since: it knows as much, or more, for somebody may have been here again.
    pub fn wrote(&mut self, key: K, looked_at: &str, now: Option<V>) {
        let known = self.known.as_ref().and_then(|known| known.get(&key));
        if known.map_or("", V::version) != looked_at {
            return;
        }
        match now {
            Some(now) => self.set(key, now),
            None => self.remove(&key),
        };
    }
}

impl State {
    /// What is to be done about one Secret.
    pub fn look(&self, namespace: &str, secret_name: &str) -> Look<'_> {
        let there = self.copies.get(secret_name).and_then(Listing::known);
        let is_listed = there.is_some();
        let there = there.and_then(|copies| copies.get(namespace));
        let claim = self.claim(namespace, secret_name).filter(|_| is_listed);
        let entry = match claim {
            Some(Claim::Entry(entry)) if self.is_due(entry, namespace, there) => Some(entry),
            _ => None,
        };
        let wanted = match (claim, entry) {
            (Some(Claim::Nobody), _) => Wanted::Gone,
            (_, Some(entry)) => self.wish(entry),
            _ => Wanted::Unknown,
        };
        let payload = entry.and_then(|entry| self.payload(entry));
        let (step, state) = step::next(wanted, there);
        let waits = step == Step::Create && !self.is_remembered(secret_name);
        let step = if waits { Step::Nothing } else { step };
        Look {
            step,
            state,
            entry,
            payload,
            there,
        }
    }

    /// Namespace and name of every Secret that may be a copy: each name that is followed, in each namespace.
    pub fn objects(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let namespaces = self.namespaces.known();
        self.copies.keys().flat_map(move |name| {
            let namespaces = namespaces.into_iter().flat_map(BTreeMap::keys);
            namespaces.map(move |namespace| (namespace, name))
        })
    }

    /// Names of copies that are or should be followed: those of the rules, and those of former rules
    /// under which copies are left.
    pub fn secret_names(&self) -> impl Iterator<Item = Arc<str>> {
        let plan = self.rules.as_ref().map(|rules| &*rules.plan);
        let present = plan.into_iter().flat_map(Plan::secret_names).cloned();
        let published = self.published.iter().flatten();
        let former = published.flat_map(|index| &index.delivered);
        let is_left = move |name: &&String| {
            plan.is_some_and(|plan| !plan.has_name(name)) && self.may_be_left(name)
        };
        present.chain(former.filter(is_left).map(|name| (**name).into()))
    }

    /// Whether copies of ours may be under a name that rules no longer have.
    pub(super) fn may_be_left(&self, secret_name: &str) -> bool {
        let copies = self.copies.get(secret_name).and_then(Listing::known);
        copies.is_none_or(|copies| {
            copies.iter().any(|(namespace, secret)| {
                let off_limits =
                    matches!(self.claim(namespace, secret_name), Some(Claim::OffLimits));
                secret.is_ours() && !off_limits
            })
        })
    }

    /// Whether the index, which outlives rules and controllers, says that there are copies of this name.
    /// Before it does none is made: under other rules, nobody would know of it.
    fn is_remembered(&self, secret_name: &str) -> bool {
        self.remembers(|index| index.delivered.contains(secret_name))
    }

    fn remembers(&self, says: impl Fn(&IndexDocument) -> bool) -> bool {
        // An index that does not fit must not stop everything.
        self.is_index_too_large || self.published.iter().flatten().any(says)
    }

    /// Whether ServiceAccounts are to be looked at whole: under these rules some have entries of ours, or
    /// under former ones some had, as far as the index knows.
    pub fn attaches(&self) -> bool {
        let mut published = self.published.iter().flatten();
        self.wants_attached() || published.any(|index| index.attached)
    }

    /// Whether ServiceAccounts may have entries of ours.
    pub(super) fn may_be_attached(&self) -> bool {
        let all = self.accounts.known();
        let is_left =
            || all.is_none_or(|all| all.values().any(|account| !account.ours().is_empty()));
        self.attaches() && (self.wants_attached() || is_left())
    }

    fn wants_attached(&self) -> bool {
        let rules = self.rules.as_ref();
        rules.is_some_and(|rules| !rules.plan.attached().is_empty())
    }

    /// What is to be changed in a ServiceAccount; `None` if nothing is, or too little is known.
    pub fn change(&self, key: &ObjectKey) -> Option<Change<'_>> {
        let account = self.accounts.known()?.get(key)?;
        let wishes = self.wishes(key)?;
        let wishes: Vec<_> = wishes.into_iter().map(|(_, wish)| wish).collect();
        let change = account.change(&wishes);
        change.filter(|_| self.remembers(|index| index.attached))
    }

    /// What a ServiceAccount may have, in the order of the rules; `None` while too little is known.
    pub fn wishes(&self, (namespace, account): &ObjectKey) -> Option<Vec<(&Entry, Wish<'_>)>> {
        let plan = &self.rules.as_ref()?.plan;
        let known = self.namespaces.known()?.get(namespace)?;
        if known.is_terminating {
            return None;
        }
        let wishes = plan.attached().iter().filter_map(|name| {
            let Claim::Entry(entry) = plan.claim(namespace, &known.labels, name) else {
                return None;
            };
            let copies = self.copies.get(name).and_then(Listing::known);
            let there = copies.and_then(|copies| copies.get(namespace));
            // It would fail every image of every Pod.
            let fails = there.is_some_and(|there| there.is_undecodable && !there.is_ours());
            let is_due = copies.is_some() && self.payload(entry).is_some();
            let is_wished = entry.is_attached_to(account) && !fails;
            is_wished.then_some((entry, Wish { name, is_due }))
        });
        Some(wishes.collect())
    }

    /// Entries that a ServiceAccount should have and does not.
    pub fn unattached(&self, key: &ObjectKey) -> impl Iterator<Item = &Entry> {
        let account = self.accounts.known().and_then(|all| all.get(key));
        let wishes = self.wishes(key).unwrap_or_default().into_iter();
        let missing = wishes.filter(move |(_, wish)| {
            wish.is_due && account.is_some_and(|account| !account.has(wish.name))
        });
        missing.map(|(entry, _)| entry)
    }

    /// The ServiceAccounts of a namespace.
    pub fn accounts_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &ObjectKey> {
        let first = (namespace.clone(), Arc::from(""));
        let accounts = self.accounts.known().into_iter();
        let accounts = accounts.flat_map(move |all| all.range(first.clone()..));
        let keys = accounts.map(|(key, _)| key);
        keys.take_while(move |(of, _)| of == namespace)
    }

    /// What a source holds: `None` before it was looked for, then `Some(None)` if there is none to be
    /// seen.
    pub fn source(&self, source: &SourceRef) -> Option<Option<&SourceSecret>> {
        let is_own = self.rules.as_ref()?.plan.own_namespace() == &*source.namespace;
        let listing = if is_own {
            &self.own_sources
        } else {
            self.other_sources.get(source)?
        };
        let found = || listing.known()?.get(&source.name);
        listing.is_settled().then(found)
    }

    /// The same of an entry's source, wherever it is.
    pub fn source_of(&self, entry: &Entry) -> Option<Option<&SourceSecret>> {
        match &entry.origin {
            Origin::Secret(source) => self.source(source),
            Origin::Given(source) => self.given.get(source).map(Some),
        }
    }

    /// Whether a copy of an entry is, or should be, in that namespace.
    fn is_due(&self, entry: &Entry, namespace: &str, there: Option<&Observed>) -> bool {
        match entry.deliver {
            Deliver::Always => true,
            Deliver::OnDemand => {
                // What was delivered stays while it is permitted.
                there.is_some_and(Observed::is_ours) || self.is_asked(namespace, &entry.secret_name)
            }
            Deliver::Never => false,
        }
    }

    /// Whether a Pod waits there that names this Secret.
    fn is_asked(&self, namespace: &str, secret_name: &str) -> bool {
        let first = (Arc::from(namespace), Arc::from(""));
        let pods = self.pods.known().into_iter();
        let mut pods = pods
            .flat_map(|pods| pods.range(first.clone()..))
            .take_while(|((of, _), _)| **of == *namespace);
        pods.any(|(_, names)| names.iter().any(|name| **name == *secret_name))
    }

    /// `None` while the namespace is not known, or going away.
    fn claim(&self, namespace: &str, secret_name: &str) -> Option<Claim<'_>> {
        let known = self.namespaces.known()?.get(namespace)?;
        let plan = &self.rules.as_ref()?.plan;
        (!known.is_terminating).then(|| plan.claim(namespace, &known.labels, secret_name))
    }

    /// What copies of an entry should hold.
    pub(super) fn payload(&self, entry: &Entry) -> Option<&Arc<Payload>> {
        let source = self.source_of(entry)??;
        source.content.as_ref().ok()
    }

    fn wish<'a>(&'a self, entry: &'a Entry) -> Wanted<'a> {
        let is_known = self.source_of(entry).is_some();
        match self.payload(entry) {
            Some(payload) => Wanted::Holding(Content {
                kind: payload.kind,
                hash: payload.hash,
                adopt: &entry.adopt,
            }),
            None if is_known => Wanted::Kept,
            None => Wanted::Unknown,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::credential::SecretType;
    use crate::delivery::copy::{ContentHash, Instance, SOURCE_HASH, SecretView};
    use crate::delivery::plan::tests::plan;
    use crate::index::document::StateDocument;

    const JSON: &str = "kubernetes.io/dockerconfigjson";
    pub(crate) const GOOD: &[u8] = br#"{"auths":{"r.io":{"username":"u","password":"p"}}}"#;

    fn view<T>(
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        payload: &[u8],
        look: impl Fn(&SecretView<'_>) -> T,
    ) -> T {
        look(&SecretView {
            labels,
            annotations,
            type_name: JSON,
            payload: Some(payload),
            is_immutable: false,
            is_terminating: false,
            resource_version: "7",
            uid: "u",
        })
    }

    fn source(payload: &[u8]) -> SourceSecret {
        let none = BTreeMap::new();
        view(&none, &none, payload, SourceSecret::read)
    }

    fn ours() -> Instance {
        Instance::new("pullpass", "pullpass")
    }

    fn observed(labels: &BTreeMap<String, String>, payload: &[u8]) -> Observed {
        let hash = ContentHash::of(SecretType::DockerConfigJson, payload);
        let annotations = [(SOURCE_HASH.to_owned(), hash.to_string())].into();
        view(labels, &annotations, payload, |secret| {
            Observed::new(secret, &ours())
        })
    }

    pub(crate) fn copy() -> Observed {
        observed(&ours().labels(), GOOD)
    }

    #[test]
    fn what_a_write_made_is_not_newer_than_what_a_watch_said_since() {
        let at = |version: &str| {
            let mut copy = copy();
            copy.resource_version = version.into();
            copy
        };
        // What is known, what was looked at, what the write made; what is known then.
        for (known, looked_at, made, expected) in [
            (Some("1"), "1", Some("2"), Some("2")),
            (Some("3"), "1", Some("2"), Some("3")),
            (None, "1", Some("2"), None),
            (None, "", Some("2"), Some("2")),
            (Some("3"), "", Some("2"), Some("3")),
            (Some("1"), "1", None, None),
            (Some("3"), "1", None, Some("3")),
        ] {
            let mut copies = Listing::default();
            copies.replace(
                known
                    .map(|version| ("a", at(version)))
                    .into_iter()
                    .collect(),
            );
            copies.wrote("a", looked_at, made.map(at));
            let then = copies.known().and_then(|copies| copies.get("a"));
            assert_eq!(then.map(Versioned::version), expected, "{known:?}");
        }
    }

    pub(crate) fn foreign(payload: &[u8]) -> Observed {
        observed(&BTreeMap::new(), payload)
    }

    /// Rules, the namespaces `a` and `b`, and a good source `harbor`; no copies yet, and all of it listed.
    pub(crate) fn state(pull_secrets: &str) -> State {
        let mut state = State {
            rules: Some(Rules {
                plan: Arc::new(plan(pull_secrets)),
                hash: "sha256:0".to_owned(),
            }),
            published: Some(None),
            ..State::default()
        };
        let namespace = || Namespace {
            labels: BTreeMap::new(),
            is_terminating: false,
        };
        state
            .namespaces
            .replace([("a".into(), namespace()), ("b".into(), namespace())].into());
        state
            .own_sources
            .replace([("harbor".into(), source(GOOD))].into());
        state.strict_accounts.replace(BTreeMap::new());
        state.accounts.replace(BTreeMap::new());
        state.pods.replace(BTreeMap::new());
        let names: Vec<_> = state.secret_names().collect();
        for name in names {
            state
                .copies
                .entry(name)
                .or_default()
                .replace(BTreeMap::new());
        }
        state.published = Some(state.index());
        state
    }

    pub(crate) fn set_source(state: &mut State, payload: &[u8]) {
        state.own_sources.set("harbor".into(), source(payload));
    }

    pub(crate) fn put(state: &mut State, namespace: &str, name: &str, secret: Observed) {
        let copies = state.copies.entry(name.into()).or_default();
        copies.set(namespace.into(), secret);
    }

    /// A ServiceAccount `default` with this list and these entries of ours.
    pub(crate) fn account(state: &mut State, namespace: &str, names: &[&str], ours: &[&str]) {
        let ours = ours
            .iter()
            .map(|name| format!("{}/{name}", self::ours().as_str()));
        let ours = ours.collect::<Vec<_>>().join(",");
        let names = names.iter().map(|name| Arc::from(*name));
        let account = Account::new(&self::ours(), names, (true, &ours), "7");
        let key = (namespace.into(), "default".into());
        state.accounts.set(key, account);
    }

    fn check(state: &State, namespace: &str, name: &str, expected: Step) {
        assert_eq!(
            state.look(namespace, name).step,
            expected,
            "{namespace}/{name}"
        );
    }

    #[test]
    fn nothing_is_decided_before_it_was_looked_for() {
        let check_unknown = |forget: fn(&mut State)| {
            let mut state = state("{name: harbor}");
            check(&state, "a", "harbor", Step::Create);
            forget(&mut state);
            check(&state, "a", "harbor", Step::Nothing);
            put(&mut state, "a", "harbor", copy());
            check(&state, "a", "harbor", Step::Nothing);
        };
        check_unknown(|state| state.rules = None);
        check_unknown(|state| state.namespaces = Listing::default());
        check_unknown(|state| state.own_sources = Listing::default());
        check_unknown(|state| state.copies.clear());
        check_unknown(|state| {
            state.namespaces.set(
                "a".into(),
                Namespace {
                    labels: BTreeMap::new(),
                    is_terminating: true,
                },
            );
        });
    }

    #[test]
    fn incident_15_a_namespace_that_nobody_knows_is_left_alone() {
        let mut state = state("{name: harbor}");
        put(&mut state, "gone", "harbor", copy());
        check(&state, "gone", "harbor", Step::Nothing);
        check(&state, "pullpass", "harbor", Step::Nothing);
    }

    #[test]
    fn on_demand_is_when_a_pod_asks_and_then_for_ever() {
        let mut state = state("{name: harbor, deliver: OnDemand}");
        check(&state, "a", "harbor", Step::Nothing);
        assert_eq!(state.look("a", "harbor").state, None, "it is not missed");
        state.pods.set(
            ("a".into(), "pod".into()),
            ["other".into(), "harbor".into()].into(),
        );
        check(&state, "a", "harbor", Step::Create);
        check(&state, "b", "harbor", Step::Nothing);
        put(&mut state, "a", "harbor", copy());
        state.pods.remove(&("a".into(), "pod".into()));
        state.own_sources.set(
            "harbor".into(),
            source(br#"{"auths":{"r.io":{"username":"u","password":"new"}}}"#),
        );
        check(&state, "a", "harbor", Step::Apply);
        // Somebody else's is not looked after for nobody.
        put(&mut state, "b", "harbor", foreign(GOOD));
        assert_eq!(state.look("b", "harbor").state, None);
    }

    #[test]
    fn a_source_that_goes_leaves_its_copies() {
        let mut state = state("{name: harbor}");
        put(&mut state, "a", "harbor", copy());
        state.own_sources.remove(&"harbor".into());
        for payload in [None, Some(&b"{}"[..])] {
            if let Some(payload) = payload {
                state.own_sources.set("harbor".into(), source(payload));
            }
            check(&state, "a", "harbor", Step::Nothing);
            assert_eq!(state.look("a", "harbor").state, Some(CopyState::Stale));
            check(&state, "b", "harbor", Step::Nothing);
            assert_eq!(state.look("b", "harbor").state, Some(CopyState::Missing));
        }
    }

    #[test]
    fn a_source_elsewhere_is_not_one_of_the_same_name_here() {
        let mut state = state("{name: harbor, source: {namespace: default, secret: harbor}}");
        check(&state, "a", "harbor", Step::Nothing);
        let elsewhere = SourceRef {
            namespace: "default".into(),
            name: "harbor".into(),
        };
        let listing = state.other_sources.entry(elsewhere).or_default();
        listing.replace([("harbor".into(), source(GOOD))].into());
        state.published = Some(state.index());
        check(&state, "a", "harbor", Step::Create);
    }

    #[test]
    fn incident_24_no_copy_is_made_before_its_name_is_remembered() {
        let mut state = state("{name: harbor}");
        state.published = Some(None);
        check(&state, "a", "harbor", Step::Nothing);
        assert_eq!(state.look("a", "harbor").state, Some(CopyState::Missing));
        state.is_index_too_large = true;
        check(&state, "a", "harbor", Step::Create);
        state.is_index_too_large = false;
        state.published = Some(state.index());
        check(&state, "a", "harbor", Step::Create);
    }

    #[test]
    fn former_names_are_followed_until_their_copies_are_gone() {
        let without = state("");
        let mut state = state("{name: harbor}");
        let index = state.index().unwrap();
        assert_eq!(index.delivered.iter().collect::<Vec<_>>(), ["harbor"]);
        state.published = Some(Some(index));
        state.rules = without.rules;
        let names = |state: &State| {
            state
                .secret_names()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        put(&mut state, "a", "harbor", copy());
        put(&mut state, "b", "harbor", foreign(GOOD));
        assert_eq!(names(&state), ["harbor"]);
        check(&state, "a", "harbor", Step::Delete);
        check(&state, "b", "harbor", Step::Nothing);
        state.copies.get_mut("harbor").unwrap().remove(&"a".into());
        assert_eq!(names(&state), Vec::<String>::new());
        assert!(state.index().unwrap().delivered.is_empty());
        // Not looked at yet, after a start.
        state.copies.clear();
        assert_eq!(names(&state), ["harbor"]);
    }

    /// Whether the account `default` of `a` is to be changed.
    fn is_changed(state: &State) -> bool {
        state.change(&("a".into(), "default".into())).is_some()
    }

    const ATTACHED: &str = "{name: harbor, serviceAccounts: [default]}";

    #[test]
    fn scenario_36_permitted_accounts_are_attached_once_enough_is_known() {
        let check_unknown = |forget: fn(&mut State)| {
            let mut state = state(ATTACHED);
            account(&mut state, "a", &["x"], &[]);
            assert!(is_changed(&state));
            forget(&mut state);
            assert!(!is_changed(&state));
        };
        check_unknown(|state| state.rules = None);
        check_unknown(|state| state.namespaces = Listing::default());
        check_unknown(|state| state.accounts = Listing::default());
        check_unknown(|state| state.own_sources = Listing::default());
        check_unknown(|state| state.copies.clear());
        check_unknown(|state| state.published = Some(None));
        check_unknown(|state| put(state, "a", "harbor", foreign(b"{\"auths\": 1}")));
        check_unknown(|state| account(state, "a", &["x", "harbor"], &[]));
        check_unknown(|state| account(state, "a", &["x", "harbor"], &["harbor"]));

        let mut unpermitted = state("{name: harbor, serviceAccounts: [\"*\"], namespaces: [b]}");
        account(&mut unpermitted, "a", &[], &[]);
        assert!(!is_changed(&unpermitted));
        let mut other = state("{name: harbor, serviceAccounts: [build]}");
        account(&mut other, "a", &[], &[]);
        assert!(!is_changed(&other));
        account(&mut other, "a", &["harbor"], &["harbor"]);
        assert!(is_changed(&other), "no longer in the rules");
    }

    #[test]
    fn incident_21_a_controller_that_never_saw_the_rules_undoes_what_they_attached() {
        let mut state = state(ATTACHED);
        assert!(state.index().unwrap().attached);
        account(&mut state, "a", &["x", "harbor"], &["harbor"]);
        state.rules = self::state("").rules;
        assert!(state.attaches() && is_changed(&state));
        assert!(state.index().unwrap().attached);
        state.accounts = Listing::default();
        assert!(state.index().unwrap().attached, "nobody has looked yet");
        state.accounts.replace(BTreeMap::new());
        account(&mut state, "a", &["x"], &[]);
        state.published = Some(state.index());
        assert!(!state.attaches());
    }

    #[test]
    fn without_a_source_what_is_attached_stays() {
        let mut state = state(ATTACHED);
        account(&mut state, "a", &["harbor"], &["harbor"]);
        state.own_sources.remove(&"harbor".into());
        assert!(!is_changed(&state));
        account(&mut state, "a", &[], &[]);
        assert!(!is_changed(&state));
    }

    #[test]
    fn the_index_says_usable_stale_and_unusable() {
        let mut state = state(
            "{name: harbor}, {name: later}, {name: away, deliver: Never}, {name: f, source: {file: /x}}",
        );
        put(
            &mut state,
            "b",
            "harbor",
            foreign(br#"{"auths":{"r.io":{"auth":"!"}}}"#),
        );
        put(&mut state, "a", "harbor", foreign(GOOD));
        state
            .strict_accounts
            .set(("a".into(), "default".into()), ());
        let index = state.index().unwrap();
        assert_eq!(
            index.secrets.keys().collect::<Vec<_>>(),
            ["f", "harbor", "later"]
        );
        assert_eq!(index.secrets["harbor"].state, StateDocument::Usable);
        assert_eq!(index.secrets["harbor"].keys, ["r.io"]);
        assert_eq!(
            index.secrets["harbor"].undecodable_in,
            ["b".to_owned()].into()
        );
        let StateDocument::Unusable { reason } = &index.secrets["later"].state else {
            panic!("there never was one");
        };
        assert_eq!(reason, "its source does not exist");
        assert!(index.strict_service_accounts["a"].contains("default"));

        // By what was published: another controller may lead now.
        state.published = Some(Some(index.clone()));
        state.own_sources.remove(&"harbor".into());
        let stale = state.index().unwrap();
        assert_eq!(stale.secrets["harbor"].state, StateDocument::Stale);
        assert_eq!(stale.secrets["harbor"].keys, ["r.io"]);
        assert_eq!(stale.secrets["harbor"].hash, index.secrets["harbor"].hash);
        state.published = Some(Some(stale.clone()));
        assert_eq!(state.index().unwrap(), stale, "and it stays so");
    }

    #[test]
    fn there_is_no_index_of_what_is_not_known() {
        let check_none = |forget: fn(&mut State)| {
            let mut state = state("{name: harbor}");
            assert!(state.index().is_some());
            forget(&mut state);
            assert!(state.index().is_none());
        };
        check_none(|state| state.rules = None);
        check_none(|state| state.published = None);
        check_none(|state| state.own_sources = Listing::default());
        check_none(|state| state.strict_accounts = Listing::default());
        check_none(|state| state.copies.clear());
        // What may not be read is not waited for.
        let mut denied = state("{name: harbor}");
        denied.copies.insert("harbor".into(), Listing::default());
        denied.copies.get_mut("harbor").unwrap().deny();
        assert!(denied.index().is_some());
    }

    const GIVEN: &str = "{name: t, source: {exec: {command: p, images: [r.io]}}}, {name: harbor}";

    fn give(state: &mut State, given: SourceSecret) {
        let entries = state.rules.as_ref().unwrap().plan.entries();
        let Origin::Given(source) = &entries[0].origin else {
            panic!("it is a program");
        };
        let source = Arc::clone(source);
        state.given.insert(source, given);
    }

    fn answer() -> Arc<Payload> {
        Payload::new(SecretType::DockerConfigJson, GOOD)
            .unwrap()
            .into()
    }

    #[test]
    fn scenario_52_what_a_program_gives_is_delivered_and_kept_when_it_gives_nothing() {
        let mut state = state(GIVEN);
        check(&state, "a", "t", Step::Nothing);
        give(&mut state, SourceSecret::given(Ok(answer())));
        check(&state, "a", "t", Step::Create);
        put(&mut state, "a", "t", copy());
        check(&state, "a", "t", Step::Nothing);
        // What it gave last still holds.
        let late = SourceSecret {
            problem: Some("it crashed".into()),
            ..SourceSecret::given(Ok(answer()))
        };
        give(&mut state, late);
        check(&state, "b", "t", Step::Create);
        give(
            &mut state,
            SourceSecret::given(Err("it crashed".to_owned())),
        );
        check(&state, "a", "t", Step::Nothing);
        check(&state, "b", "t", Step::Nothing);
        // As a controller that does not lead, or has just been started.
        state.given.clear();
        check(&state, "a", "t", Step::Nothing);
        check(&state, "b", "t", Step::Nothing);
    }

    #[test]
    fn scenario_52_the_index_does_not_wait_for_a_program_and_says_why_it_is_stale() {
        let mut state = state(GIVEN);
        let index = state.index().unwrap();
        let unusable = |reason: &str| StateDocument::Unusable {
            reason: reason.to_owned(),
        };
        assert_eq!(
            index.secrets["t"].state,
            unusable("it has not answered yet")
        );
        assert_eq!(index.secrets["harbor"].state, StateDocument::Usable);

        let secret = |state: &mut State, given: SourceSecret| {
            give(state, given);
            let index = state.index().unwrap();
            state.published = Some(Some(index.clone()));
            let secret = &index.secrets["t"];
            (
                secret.state.clone(),
                secret.problem.clone(),
                secret.keys.clone(),
            )
        };
        let crashed = || SourceSecret::given(Err("it crashed".to_owned()));
        assert_eq!(secret(&mut state, crashed()).0, unusable("it crashed"));
        let good = SourceSecret::given(Ok(answer()));
        let keys = vec!["r.io".to_owned()];
        let expected = (StateDocument::Usable, String::new(), keys.clone());
        assert_eq!(secret(&mut state, good.clone()), expected);
        let when_usable = state.index().unwrap();
        let failing = SourceSecret {
            problem: Some("it hangs".into()),
            ..good
        };
        let expected = (StateDocument::Usable, "it hangs".to_owned(), keys.clone());
        assert_eq!(secret(&mut state, failing), expected);
        let expected = (StateDocument::Stale, "it crashed".to_owned(), keys);
        assert_eq!(secret(&mut state, crashed()), expected);
        let before = state.index();
        state.given.clear();
        assert_eq!(
            state.index(),
            before,
            "the next controller has not asked yet"
        );
        // As `status` looks at it.
        put(&mut state, "a", "t", copy());
        let how = |state: &State, namespace| state.look(namespace, "t").state;
        state.believe_published();
        assert_eq!(how(&state, "a"), Some(CopyState::Stale));
        state.published = Some(Some(when_usable));
        state.believe_published();
        assert_eq!(how(&state, "a"), Some(CopyState::Present));
        assert_eq!(how(&state, "b"), Some(CopyState::Missing));
    }
}

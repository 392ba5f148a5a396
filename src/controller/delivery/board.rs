//! What was last seen, and which objects have to be looked at because of it. Everybody here shares it.
//!
//! Watches change it, whoever leads or stands in works on it. A change queues only what has something to be done; so
//! an event that changes nothing costs a look and no call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::queue::{Done, Duty, Key, Lane, Queue};
use crate::delivery::source::Origin;
use crate::delivery::state::ObjectKey;
use crate::delivery::{Entry, SourceSecret, State, Step};
use crate::rules::config::Source;

/// The state and the queue.
#[derive(Default)]
pub(super) struct Board {
    state: watch::Sender<State>,
    queue: Mutex<Queue>,
    /// Something was queued.
    queued: Notify,
}

/// What a change may have something to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// This object; of a copy, also the ServiceAccounts beside it.
    One(Key, Lane),
    /// The copies and ServiceAccounts in this namespace.
    Namespace(Arc<str>),
    /// The copies of this name, and the ServiceAccounts that may have it.
    Name(Arc<str>),
    /// Every ServiceAccount.
    Accounts,
    /// All there is.
    Everything,
    /// What was done in this namespace is of no account any more.
    Ended(Arc<str>),
}

impl Board {
    /// Changes the state, and queues what has to be done now. Everybody who waits for a change wakes up.
    pub(super) fn change(&self, change: impl FnOnce(&mut State) -> Vec<Scope>) {
        let mut scopes = Vec::new();
        self.state.send_modify(|state| scopes = change(state));
        self.look_at(scopes);
    }

    /// Changes something that nothing written depends on; `change` says whether it did.
    pub(super) fn change_if(&self, change: impl FnOnce(&mut State) -> bool) {
        self.state.send_if_modified(change);
    }

    /// Notes what a file or program gave, if that is something else than it was.
    pub(super) fn change_given(&self, source: &Arc<Source>, given: SourceSecret) {
        let before = |state: &State| state.given.get(source).is_some_and(|of| of.is_like(&given));
        if before(&self.state()) {
            return;
        }
        self.change(|state| {
            state.given.insert(Arc::clone(source), given);
            let entries = state.rules.iter().flat_map(|rules| rules.plan.entries());
            let is_of = |entry: &&Entry| matches!(&entry.origin, Origin::Given(of) if of == source);
            let names = entries.filter(is_of).map(|entry| entry.secret_name.clone());
            names.map(Scope::Name).collect()
        });
    }

    /// Queues what has to be done in these scopes, in their order.
    pub(super) fn look_at(&self, scopes: Vec<Scope>) {
        let state = self.state.borrow();
        let mut queue = self.queue();
        if queue.duty().is_none() {
            return;
        }
        let mut looks = Looks {
            state: &state,
            queue: &mut queue,
        };
        for scope in scopes {
            looks.take(scope);
        }
        self.queued.notify_one();
    }

    /// What was last seen. Hold it for a moment only: watches wait for it.
    pub(super) fn state(&self) -> watch::Ref<'_, State> {
        self.state.borrow()
    }

    /// Wakes up at each change of the state.
    pub(super) fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Takes work until the guard is dropped.
    pub(super) fn open(&self, duty: Duty) -> Open<'_> {
        self.reopen(duty);
        Open(self)
    }

    /// Begins anew, after something was lost.
    pub(super) fn reopen(&self, duty: Duty) {
        self.queue().close();
        self.queue().open(duty);
        self.look_at(vec![Scope::Everything]);
    }

    /// The next object to look at, if there is one.
    pub(super) fn next(&self) -> Option<Key> {
        self.queue().next(Instant::now())
    }

    /// Waits until there may be a next one.
    pub(super) async fn queued(&self) {
        let due = self.queue().next_due();
        let later = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.queued.notified() => {}
            () = later => {}
        }
    }

    /// Notes a write; gives since when somebody waited for it.
    pub(super) fn wrote(&self, key: &Key) -> Option<Instant> {
        self.queue().wrote(key, Instant::now())
    }

    /// Ends a look.
    pub(super) fn done(&self, key: Key, done: Done) {
        self.queue().done(key, done, Instant::now());
    }

    /// The queue. Whoever holds it may not ask for the state.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues what there is something to be done about.
struct Looks<'a> {
    state: &'a State,
    queue: &'a mut Queue,
}

impl Looks<'_> {
    fn take(&mut self, scope: Scope) {
        let state = self.state;
        match scope {
            Scope::One(Key::Copy(key), lane) => {
                self.copy(&key.0, &key.1, lane);
                self.accounts_of(&key.0, lane);
            }
            Scope::One(Key::Account(key), lane) => self.account(&key, lane),
            Scope::Namespace(namespace) => {
                for name in state.copies.keys() {
                    self.copy(&namespace, name, Lane::Urgent);
                }
                self.accounts_of(&namespace, Lane::Urgent);
            }
            Scope::Name(name) => {
                let namespaces = state.namespaces.known().into_iter();
                for namespace in namespaces.flat_map(BTreeMap::keys) {
                    self.copy(namespace, &name, Lane::Normal);
                }
                self.accounts();
            }
            Scope::Accounts => self.accounts(),
            Scope::Everything => {
                for (namespace, name) in state.objects() {
                    self.copy(namespace, name, Lane::Normal);
                }
                self.accounts();
            }
            Scope::Ended(namespace) => self.queue.forget(&namespace),
        }
    }

    fn copy(&mut self, namespace: &Arc<str>, name: &Arc<str>, lane: Lane) {
        if self.state.look(namespace, name).step != Step::Nothing {
            let key = Key::Copy((namespace.clone(), name.clone()));
            self.queue.push(key, lane, Instant::now());
        }
    }

    fn account(&mut self, key: &ObjectKey, lane: Lane) {
        if self.state.change(key).is_some() {
            let key = Key::Account(key.clone());
            self.queue.push(key, lane, Instant::now());
        }
    }

    fn accounts_of(&mut self, namespace: &Arc<str>, lane: Lane) {
        for key in self.state.accounts_of(namespace) {
            self.account(key, lane);
        }
    }

    fn accounts(&mut self) {
        let known = self.state.accounts.known().into_iter();
        for key in known.flat_map(BTreeMap::keys) {
            self.account(key, Lane::Normal);
        }
    }
}

/// An open board. Dropped, however the work ends, it takes no more.
pub(super) struct Open<'a>(&'a Board);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.queue().close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::state::Namespace;
    use crate::delivery::state::tests::{account, copy, state};

    fn board_with(pull_secrets: &str) -> Board {
        let board = Board::default();
        board.change(|known| {
            *known = state(pull_secrets);
            Vec::new()
        });
        board
    }

    fn board() -> Board {
        board_with("{name: harbor}")
    }

    fn copy_in(namespace: &str) -> Key {
        Key::Copy((namespace.into(), "harbor".into()))
    }

    fn drain(board: &Board) -> Vec<String> {
        let keys = std::iter::from_fn(|| board.next());
        let shown = keys.map(|key| match key {
            Key::Copy((namespace, _)) => namespace.to_string(),
            Key::Account((namespace, name)) => format!("{namespace}/{name}"),
        });
        shown.collect()
    }

    #[test]
    fn a_change_queues_what_has_to_be_done_and_nothing_else() {
        let board = board();
        let everything = || vec![Scope::Everything];
        board.look_at(everything());
        assert_eq!(drain(&board), Vec::<String>::new(), "nobody works");
        let open = board.open(Duty::Lead);
        assert_eq!(drain(&board), ["a", "b"]);
        for namespace in ["a", "b"] {
            board.done(copy_in(namespace), Done::Settled);
        }
        board.change(|state| {
            state
                .copies
                .get_mut("harbor")
                .unwrap()
                .set("a".into(), copy());
            everything()
        });
        assert_eq!(drain(&board), ["b"], "a is as it should be");
        drop(open);
        board.look_at(everything());
        assert_eq!(drain(&board), Vec::<String>::new());
    }

    #[test]
    fn scenario_36_accounts_are_queued_after_the_copies_that_they_name() {
        let board = board_with("{name: harbor, serviceAccounts: [\"*\"]}");
        board.change(|state| {
            for namespace in ["a", "b"] {
                account(state, namespace, &["x"], &[]);
            }
            Vec::new()
        });
        let _open = board.open(Duty::Lead);
        assert_eq!(drain(&board), ["a", "b", "a/default", "b/default"]);
        let default = Key::Account(("a".into(), "default".into()));
        board.done(default.clone(), Done::Settled);
        board.change(|state| {
            account(state, "a", &["x", "harbor"], &["harbor"]);
            vec![Scope::One(default, Lane::Urgent), Scope::Accounts]
        });
        assert_eq!(drain(&board), Vec::<String>::new());
    }

    #[test]
    fn incident_15_a_namespace_made_again_starts_anew() {
        let board = board();
        let _open = board.open(Duty::Lead);
        assert_eq!(drain(&board), ["a", "b"]);
        board.done(copy_in("a"), Done::Refused("quota".to_owned()));
        let a: Arc<str> = "a".into();
        let made_again = |state: &mut State| {
            let namespace = Namespace {
                labels: Default::default(),
                is_terminating: false,
            };
            state.namespaces.set(a.clone(), namespace);
            vec![Scope::Ended(a.clone()), Scope::Namespace(a.clone())]
        };
        board.change(made_again);
        assert_eq!(drain(&board), ["a"]);
        assert_eq!(board.queue().failures().count(), 0);
    }
}

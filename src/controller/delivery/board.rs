//! What was last seen, and which Secrets have to be looked at because of it. Everybody here shares it.
//!
//! Watches change it, whoever leads works on it. A change queues only what has something to be done; so
//! an event that changes nothing costs a look and no call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::queue::{Done, Key, Lane, Queue};
use crate::delivery::{State, Step};

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
    /// This Secret.
    One(Key, Lane),
    /// The copies in this namespace.
    Namespace(Arc<str>),
    /// The copies of this name.
    Name(Arc<str>),
    /// All of them.
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

    /// Changes something that no copy depends on; `change` says whether it did.
    pub(super) fn change_if(&self, change: impl FnOnce(&mut State) -> bool) {
        self.state.send_if_modified(change);
    }

    /// Queues what has to be done in these scopes.
    pub(super) fn look_at(&self, scopes: impl IntoIterator<Item = Scope>) {
        let now = Instant::now();
        let state = self.state.borrow();
        let mut queue = self.queue();
        if !queue.is_open() {
            return;
        }
        let mut look = |namespace: &Arc<str>, name: &Arc<str>, lane| {
            if state.look(namespace, name).step != Step::Nothing {
                queue.push((namespace.clone(), name.clone()), lane, now);
            }
        };
        let namespaces = || {
            state
                .namespaces
                .known()
                .into_iter()
                .flat_map(|all| all.keys())
        };
        let mut ended = Vec::new();
        for scope in scopes {
            match scope {
                Scope::One((namespace, name), lane) => look(&namespace, &name, lane),
                Scope::Namespace(namespace) => {
                    let names = state.copies.keys();
                    names.for_each(|name| look(&namespace, name, Lane::Urgent));
                }
                Scope::Name(name) => namespaces().for_each(|of| look(of, &name, Lane::Normal)),
                Scope::Everything => namespaces().for_each(|of| {
                    let names = state.copies.keys();
                    names.for_each(|name| look(of, name, Lane::Normal));
                }),
                Scope::Ended(namespace) => ended.push(namespace),
            }
        }
        ended.iter().for_each(|namespace| queue.forget(namespace));
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
    pub(super) fn open(&self) -> Open<'_> {
        self.reopen();
        Open(self)
    }

    /// Begins anew, after something was lost.
    pub(super) fn reopen(&self) {
        self.queue().close();
        self.queue().open();
        self.look_at([Scope::Everything]);
    }

    /// The next Secret to look at, if there is one.
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

/// An open board. Dropped, however the work ends, it takes no more.
pub(super) struct Open<'a>(&'a Board);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.queue().close();
    }
}

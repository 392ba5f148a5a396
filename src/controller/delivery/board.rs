//! What was last seen, and which Secrets have to be looked at because of it. Everybody here shares it.
//!
//! Watches change it, whoever leads or stands in works on it. A change queues only what has something to be done; so
//! an event that changes nothing costs a look and no call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::queue::{Done, Duty, Key, Lane, Queue};
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

    /// Queues what has to be done in these scopes, in their order.
    pub(super) fn look_at(&self, scopes: Vec<Scope>) {
        let state = self.state.borrow();
        let mut queue = self.queue();
        if queue.duty().is_none() {
            return;
        }
        let queue = &mut queue;
        for scope in scopes {
            match scope {
                Scope::One((namespace, name), lane) => {
                    look(&state, queue, (&namespace, &name), lane)
                }
                Scope::Namespace(namespace) => {
                    for name in state.copies.keys() {
                        look(&state, queue, (&namespace, name), Lane::Urgent);
                    }
                }
                Scope::Name(name) => {
                    for namespace in state
                        .namespaces
                        .known()
                        .into_iter()
                        .flat_map(BTreeMap::keys)
                    {
                        look(&state, queue, (namespace, &name), Lane::Normal);
                    }
                }
                Scope::Everything => {
                    for object in state.objects() {
                        look(&state, queue, object, Lane::Normal);
                    }
                }
                Scope::Ended(namespace) => queue.forget(&namespace),
            }
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

/// Queues a Secret if there is something to be done about it.
fn look(state: &State, queue: &mut Queue, (namespace, name): (&Arc<str>, &Arc<str>), lane: Lane) {
    if state.look(namespace, name).step != Step::Nothing {
        queue.push((namespace.clone(), name.clone()), lane, Instant::now());
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
    use crate::delivery::state::tests::{copy, state};

    fn board() -> Board {
        let board = Board::default();
        board.change(|known| {
            *known = state("{name: harbor}");
            Vec::new()
        });
        board
    }

    fn drain(board: &Board) -> Vec<String> {
        let keys = std::iter::from_fn(|| board.next());
        keys.map(|(namespace, _)| namespace.to_string()).collect()
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
            board.done((namespace.into(), "harbor".into()), Done::Settled);
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
    fn incident_15_a_namespace_made_again_starts_anew() {
        let board = board();
        let _open = board.open(Duty::Lead);
        assert_eq!(drain(&board), ["a", "b"]);
        board.done(
            ("a".into(), "harbor".into()),
            Done::Refused("quota".to_owned()),
        );
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

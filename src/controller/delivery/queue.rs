//! Which object is looked at next: each at most once at a time, what waits longest for a Pod first.
//!
//! New namespaces and waiting Pods are urgent; everything else (rotation, repair, a full look) comes
//! after them. Who stands in for a leader takes only what is urgent, and gives the leader a start. What
//! failed waits, longer each time; what is written too often waits for its budget; no object makes
//! another wait. Time is given, never read, but for the jitter of the pauses. This file must not know why
//! an object is looked at.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::budget::Budget;
use super::super::pauses_up_to;
use crate::cluster::watch::BACKOFF_MAX;
use crate::delivery::state::ObjectKey;

/// What is looked at, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// A Secret.
    Copy(ObjectKey),
    /// A ServiceAccount.
    Account(ObjectKey),
}

/// Longest pause after a write that the API server refuses: a quota, a permission or a policy. Somebody
/// has to change that; thousands of copies would then come at once in a minute anyway.
pub(super) const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Head start of the leader. It has most copies written after 10 to 80 ms; a kubelet asks for the Secret
/// of an ordinary Pod 250 ms after the Pod was made.
const HEAD_START: Duration = Duration::from_millis(100);

/// What whoever works here has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Everything.
    Lead,
    /// Creating what is missing although somebody waits for it: the leader may be dead, and the next one
    /// is not elected before its Lease is over. Two who create the same harm nobody.
    StandIn,
}

/// How much it hurries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Normal,
    Urgent,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// There is nothing more to do.
    Settled,
    /// It may work the next time.
    Failed(String),
    /// The API server says no; only somebody else can help.
    Refused(String),
}

/// Objects that wait to be looked at. Closed, it takes none.
#[derive(Default)]
pub(super) struct Queue {
    duty: Option<Duty>,
    urgent: VecDeque<Key>,
    normal: VecDeque<Key>,
    /// Those that may not be looked at before some time.
    later: BTreeSet<(Instant, Key)>,
    jobs: HashMap<Key, Job>,
}

struct Job {
    place: Place,
    /// When an urgent reason to look came first; whoever waits for the copy, waits since then.
    since: Option<Instant>,
    budget: Budget,
    failure: Option<Failure>,
}

/// What failed, the last time of several in a row.
pub(super) struct Failure {
    /// The API server's words.
    pub(super) note: String,
    /// [`Done::Refused`].
    pub(super) is_refusal: bool,
    pauses: Pauses,
}

type Pauses = Box<dyn Iterator<Item = Duration> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    In(Lane),
    Later(Instant),
    /// Somebody looks at it; if it was asked for meanwhile, somebody has to look again.
    Busy(Option<Lane>),
}

impl Key {
    fn namespace(&self) -> &str {
        let (Self::Copy((namespace, _)) | Self::Account((namespace, _))) = self;
        namespace
    }
}

impl Queue {
    /// What is done with its objects; `None` while it is closed.
    pub(super) fn duty(&self) -> Option<Duty> {
        self.duty
    }

    /// Takes them from now on.
    pub(super) fn open(&mut self, duty: Duty) {
        self.duty = Some(duty);
    }

    /// Forgets everything, and takes no more.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Asks for a look.
    pub(super) fn push(&mut self, key: Key, lane: Lane, now: Instant) {
        let stands_in = match self.duty {
            None => return,
            Some(Duty::StandIn) if lane == Lane::Normal => return,
            Some(duty) => duty == Duty::StandIn,
        };
        let job = self.jobs.entry(key.clone()).or_insert_with(|| Job {
            place: Place::Nowhere,
            since: None,
            budget: Budget::default(),
            failure: None,
        });
        if lane == Lane::Urgent {
            job.since.get_or_insert(now);
        }
        match &mut job.place {
            Place::Busy(again) => *again = (*again).max(Some(lane)),
            Place::Later(_) => {}
            Place::In(before) if *before >= lane => {}
            place if stands_in => {
                *place = Place::Later(now + HEAD_START);
                self.later.insert((now + HEAD_START, key));
            }
            place => {
                *place = Place::In(lane);
                self.lane(lane).push_back(key);
            }
        }
    }

    /// The next object to look at; it is busy until [`Self::done`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Key> {
        self.release(now);
        loop {
            let (lane, key) = match self.urgent.pop_front() {
                Some(key) => (Lane::Urgent, key),
                None => (Lane::Normal, self.normal.pop_front()?),
            };
            // It may have moved to the other lane, or be forgotten.
            let job = self.jobs.get_mut(&key);
            let Some(job) = job.filter(|job| job.place == Place::In(lane)) else {
                continue;
            };
            let wait = job.budget.wait(now);
            if wait.is_zero() {
                job.place = Place::Busy(None);
                return Some(key);
            }
            job.place = Place::Later(now + wait);
            self.later.insert((now + wait, key));
        }
    }

    /// Lets those go on that have waited long enough.
    fn release(&mut self, now: Instant) {
        while let Some((due, key)) = self.later.pop_first() {
            if due > now {
                self.later.insert((due, key));
                return;
            }
            if let Some(job) = self.jobs.get_mut(&key)
                && job.place == Place::Later(due)
            {
                job.place = Place::In(Lane::Normal);
                self.normal.push_back(key);
            }
        }
    }

    /// When the next one comes that has to wait.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// Notes a write, and since when somebody waited for it.
    pub(super) fn wrote(&mut self, key: &Key, now: Instant) -> Option<Instant> {
        let job = self.jobs.get_mut(key)?;
        job.budget.spend(now);
        job.since.take()
    }

    /// Ends a look.
    pub(super) fn done(&mut self, key: Key, done: Done, now: Instant) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        // Otherwise the queue began anew meanwhile.
        let Place::Busy(again) = job.place else {
            return;
        };
        job.place = Place::Nowhere;
        let (note, is_refusal) = match done {
            Done::Settled => {
                job.failure = None;
                job.since = None;
                if let Some(lane) = again {
                    self.push(key, lane, now);
                }
                return;
            }
            Done::Failed(note) => (note, false),
            Done::Refused(note) => (note, true),
        };
        let before = job.failure.take();
        let before = before.filter(|failure| failure.is_refusal == is_refusal);
        let mut pauses = before.map_or_else(
            || -> Pauses {
                let max = if is_refusal {
                    REFUSED_PAUSE_MAX
                } else {
                    BACKOFF_MAX
                };
                Box::new(pauses_up_to(max))
            },
            |failure| failure.pauses,
        );
        let due = now + pauses.next().unwrap_or(BACKOFF_MAX);
        job.failure = Some(Failure {
            note,
            is_refusal,
            pauses,
        });
        job.place = Place::Later(due);
        self.later.insert((due, key));
    }

    /// Forgets what happened in a namespace that is gone: another one of its name starts anew.
    pub(super) fn forget(&mut self, namespace: &str) {
        self.jobs
            .retain(|key, job| key.namespace() != namespace || matches!(job.place, Place::Busy(_)));
    }

    /// Forgets what no longer matters.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.jobs.retain(|_, job| {
            job.place != Place::Nowhere || job.failure.is_some() || !job.budget.is_unspent(now)
        });
    }

    /// What failed the last time, and why.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&Key, &Failure)> {
        self.jobs
            .iter()
            .filter_map(|(key, job)| Some((key, job.failure.as_ref()?)))
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Key> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Normal => &mut self.normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::WRITES_PER_MINUTE_MAX;

    fn key(namespace: &str) -> Key {
        Key::Copy((namespace.into(), "harbor".into()))
    }

    fn open() -> (Queue, Instant) {
        let mut queue = Queue::default();
        queue.open(Duty::Lead);
        (queue, Instant::now())
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now))
            .map(|key| key.namespace().to_owned())
            .collect()
    }

    #[test]
    fn incident_25_new_namespaces_come_before_everything_else() {
        let (mut queue, now) = open();
        for namespace in ["a", "b", "c"] {
            queue.push(key(namespace), Lane::Normal, now);
        }
        queue.push(key("new"), Lane::Urgent, now);
        queue.push(key("b"), Lane::Urgent, now);
        queue.push(key("a"), Lane::Normal, now);
        assert_eq!(drain(&mut queue, now), ["new", "b", "a", "c"]);
    }

    #[test]
    fn who_stands_in_takes_what_is_urgent_after_the_head_start() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.open(Duty::StandIn);
        queue.push(key("old"), Lane::Normal, now);
        queue.push(key("new"), Lane::Urgent, now);
        queue.push(key("new"), Lane::Urgent, now + HEAD_START / 2);
        assert_eq!(drain(&mut queue, now), Vec::<String>::new());
        assert_eq!(queue.next_due(), Some(now + HEAD_START));
        assert_eq!(drain(&mut queue, now + HEAD_START), ["new"]);
    }

    #[test]
    fn what_changes_during_a_look_is_looked_at_again() {
        let (mut queue, now) = open();
        queue.push(key("a"), Lane::Normal, now);
        assert_eq!(drain(&mut queue, now), ["a"]);
        queue.push(key("a"), Lane::Normal, now);
        assert_eq!(
            drain(&mut queue, now),
            Vec::<String>::new(),
            "nobody looks twice at once"
        );
        queue.done(key("a"), Done::Settled, now);
        assert_eq!(drain(&mut queue, now), ["a"]);
        queue.done(key("a"), Done::Settled, now);
        assert_eq!(drain(&mut queue, now), Vec::<String>::new());
    }

    #[test]
    fn incident_25_one_that_fails_waits_and_stops_no_other() {
        let (mut queue, mut now) = open();
        let mut looks = Vec::new();
        queue.push(key("bad"), Lane::Urgent, now);
        for _ in 0..200 {
            queue.push(key("good"), Lane::Normal, now);
            queue.push(key("bad"), Lane::Normal, now);
            let found = drain(&mut queue, now);
            assert!(found.contains(&"good".to_owned()));
            queue.done(key("good"), Done::Settled, now);
            if found.contains(&"bad".to_owned()) {
                looks.push(now);
                queue.done(key("bad"), Done::Refused("quota".to_owned()), now);
            }
            now += Duration::from_secs(1);
        }
        let pauses: Vec<_> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let last = *pauses.last().unwrap();
        assert!(
            last >= REFUSED_PAUSE_MAX / 2 - Duration::from_secs(1),
            "{pauses:?}"
        );
        assert!(
            pauses
                .iter()
                .all(|pause| *pause <= REFUSED_PAUSE_MAX + Duration::from_secs(1))
        );
        assert_eq!(
            queue
                .failures()
                .map(|(_, failure)| &*failure.note)
                .collect::<Vec<_>>(),
            ["quota"]
        );
        queue.forget("bad");
        assert_eq!(queue.failures().count(), 0);
    }

    #[test]
    fn incident_34_six_writes_a_minute_for_one_and_none_held_back_for_others() {
        let (mut queue, start) = open();
        let mut writes = 0;
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            queue.push(key("fought"), Lane::Normal, now);
            queue.push(key(&format!("n{second}")), Lane::Normal, now);
            let found = drain(&mut queue, now);
            assert!(found.contains(&format!("n{second}")));
            for namespace in found {
                queue.wrote(&key(&namespace), now);
                queue.done(key(&namespace), Done::Settled, now);
                writes += usize::from(namespace == "fought");
            }
        }
        assert_eq!(writes, WRITES_PER_MINUTE_MAX);
        let minute = start + Duration::from_secs(60);
        assert!(queue.next_due().is_some_and(|due| due <= minute));
        assert_eq!(drain(&mut queue, minute), ["fought"]);
    }

    #[test]
    fn who_waits_for_a_copy_waits_since_the_first_reason() {
        let (mut queue, start) = open();
        let later = start + Duration::from_millis(5);
        queue.push(key("a"), Lane::Urgent, start);
        queue.push(key("a"), Lane::Urgent, later);
        queue.next(later);
        assert_eq!(queue.wrote(&key("a"), later), Some(start));
        assert_eq!(queue.wrote(&key("a"), later), None, "it is measured once");
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_a_tidy_one_keeps_nothing() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.push(key("a"), Lane::Urgent, now);
        assert!(queue.next(now).is_none());
        queue.open(Duty::Lead);
        queue.push(key("a"), Lane::Urgent, now);
        queue.next(now);
        queue.wrote(&key("a"), now);
        queue.done(key("a"), Done::Settled, now);
        queue.tidy(now);
        assert_eq!(queue.jobs.len(), 1, "its budget counts");
        queue.tidy(now + Duration::from_secs(60));
        assert_eq!(queue.jobs.len(), 0);
    }
}

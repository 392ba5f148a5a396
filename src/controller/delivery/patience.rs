//! How often Pods of one owner are evicted, whatever becomes of those that are made anew.
//!
//! Rules, index or webhook may be wrong in a way that nobody thought of, and then a Pod that is made anew waits
//! again, or is not made at all. So the first of an owner's Pods goes alone, and the others once one that was made after
//! them runs. Until then nobody of that owner goes for a pause, which doubles each time, and then another one alone.
//! Time is given, never read, and Pods are compared only with each other by age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::recovery::stuck::{Fate, StuckPod};

/// First pause of an owner none of whose new Pods was seen to run: the longest that a kubelet waits between two pulls.
const PAUSE_MIN: Duration = Duration::from_secs(5 * 60);
/// Its longest; also how long an owner is remembered after its pause.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// First pause of an owner whose Pod could not be evicted.
const RETRY_MIN: Duration = Duration::from_secs(60);
/// Its longest: somebody may have made a budget wider.
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
/// How long after an eviction a new Pod that runs is looked for: at most so many minutes' evictions are asked about.
const PROOF_MAX: Duration = Duration::from_secs(10 * 60);
/// Most owners that are remembered, some 300 bytes each. Of more, those whose pause is over are forgotten.
const OWNERS_MAX: usize = 5000;

/// Namespace, and what makes Pods anew there.
type Owner = (String, String);

/// What is remembered of owners.
#[derive(Default)]
pub(super) struct Patience(HashMap<Owner, Round>);

/// The evictions of those Pods of an owner that were there when the first of them went.
struct Round {
    /// When the youngest of them was made; who is younger was made anew.
    youngest: String,
    stage: Stage,
    /// Time from the last eviction, or the choice of the first, to the next round.
    pause: Duration,
    /// No round begins before.
    until: Instant,
    /// Pause after the next eviction that comes to nothing.
    retry: Duration,
    /// Nobody goes before, after one that came to nothing.
    retry_at: Instant,
}

/// What is known of Pods that are made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None was.
    Untried,
    /// One should be: another went then.
    Tried(Instant),
    /// One runs.
    Runs,
    /// One waits as those before it.
    Waits,
}

impl Round {
    fn first(youngest: String, now: Instant) -> Self {
        Self {
            youngest,
            stage: Stage::Untried,
            pause: PAUSE_MIN,
            until: now + PAUSE_MIN,
            retry: RETRY_MIN,
            retry_at: now,
        }
    }

    fn rests(&self, now: Instant) -> bool {
        let is_in_doubt = matches!(self.stage, Stage::Tried(_) | Stage::Waits);
        now < self.retry_at || (is_in_doubt && now < self.until)
    }

    /// How many of an owner's Pods may go, of which the youngest was made then.
    fn permits(&mut self, youngest: String, now: Instant) -> usize {
        if self.rests(now) {
            return 0;
        }
        match self.stage {
            Stage::Runs => usize::MAX,
            Stage::Untried => 1,
            Stage::Tried(_) | Stage::Waits => {
                self.youngest = youngest;
                self.stage = Stage::Untried;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                1
            }
        }
    }

    /// Whether somebody should look for a new Pod that runs.
    fn wants_proof(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Tried(at) if now < (at + PROOF_MAX).min(self.until))
    }
}

impl Patience {
    /// Namespaces with owners of whom it is not known whether a Pod that is made anew runs.
    pub(super) fn unproven(&self, now: Instant) -> BTreeSet<String> {
        let unproven = self.0.iter().filter(|(_, round)| round.wants_proof(now));
        unproven
            .map(|((namespace, _), _)| namespace.clone())
            .collect()
    }

    /// Is told of a Pod that runs: where it was made, by what, and when.
    pub(super) fn sees_running(&mut self, namespace: &str, owner: &str, created: &str) {
        let owner = (namespace.to_owned(), owner.to_owned());
        if let Some(round) = self.0.get_mut(&owner)
            && matches!(round.stage, Stage::Tried(_))
            && *created > *round.youngest
        {
            round.stage = Stage::Runs;
        }
    }

    /// Is told of a Pod that waits. Says whether any of its owner's may go now.
    pub(super) fn sees_waiting(&mut self, pod: &StuckPod, now: Instant) -> bool {
        let Some(round) = owner(pod).and_then(|owner| self.0.get_mut(&owner)) else {
            return true;
        };
        if pod.created > round.youngest {
            round.stage = Stage::Waits;
        }
        !round.rests(now)
    }

    /// Of all Pods that wait and may be evicted, those that may be now: `max` at most.
    pub(super) fn choose(
        &mut self,
        stuck: Vec<StuckPod>,
        max: usize,
        now: Instant,
    ) -> Vec<StuckPod> {
        self.0.retain(|_, round| now < round.until + PAUSE_MAX);
        let mut owners: BTreeMap<Owner, Vec<StuckPod>> = BTreeMap::new();
        for pod in stuck {
            if let Some(owner) = owner(&pod) {
                owners.entry(owner).or_default().push(pod);
            }
        }
        let mut chosen = Vec::new();
        for (owner, pods) in owners {
            if chosen.len() >= max {
                break;
            }
            let permitted = self.permits(owner, &pods, now);
            chosen.extend(pods.into_iter().take(permitted));
        }
        chosen.truncate(max);
        chosen
    }

    fn permits(&mut self, owner: Owner, pods: &[StuckPod], now: Instant) -> usize {
        let youngest = pods.iter().map(|pod| &pod.created).max();
        let youngest = youngest.cloned().unwrap_or_default();
        if !self.0.contains_key(&owner) && !self.make_room(now) {
            return 0;
        }
        let first = || Round::first(youngest.clone(), now);
        let round = self.0.entry(owner).or_insert_with(first);
        round.permits(youngest, now)
    }

    /// Forgets the owner whose pause ended first, if there are too many. Says whether there is room now.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.0.len() < OWNERS_MAX {
            return true;
        }
        let first = self.0.iter().min_by_key(|(_, round)| round.until);
        let first = first.filter(|(_, round)| round.until <= now);
        let first = first.map(|(owner, _)| owner.clone());
        first.is_some_and(|owner| self.0.remove(&owner).is_some())
    }

    /// Notes what became of a Pod that was chosen.
    pub(super) fn note(&mut self, pod: &StuckPod, now: Instant) {
        let round = owner(pod).and_then(|owner| self.0.get_mut(&owner));
        let Some(round) = round else {
            return;
        };
        match pod.fate {
            Fate::Evicted => {
                if round.stage == Stage::Untried {
                    round.stage = Stage::Tried(now);
                }
                round.until = now + round.pause;
                round.retry = RETRY_MIN;
            }
            // Those of one look are one attempt.
            Fate::Refused | Fate::Failed if now >= round.retry_at => {
                round.retry_at = now + round.retry;
                round.retry = (round.retry * 2).min(RETRY_MAX);
            }
            _ => {}
        }
    }
}

fn owner(pod: &StuckPod) -> Option<Owner> {
    Some((pod.namespace.clone(), pod.owner.clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(60);

    /// A Pod of this owner that was made in this minute.
    fn pod(owner: &str, name: &str, minute: usize) -> StuckPod {
        StuckPod {
            namespace: "team".to_owned(),
            pod: name.to_owned(),
            owner: Some(owner.to_owned()),
            adds: Vec::new(),
            fate: Fate::Evictable,
            reason: None,
            fix: String::new(),
            uid: name.to_owned(),
            created: format!("2026-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60),
        }
    }

    /// Looks at these Pods, and gives the names of those that went to their fate.
    fn look(
        patience: &mut Patience,
        pods: &[StuckPod],
        fate: Fate,
        max: usize,
        now: Instant,
    ) -> Vec<String> {
        let mut pods = pods.to_vec();
        pods.retain(|pod| patience.sees_waiting(pod, now));
        let chosen = patience.choose(pods, max, now);
        let meets = |mut pod: StuckPod| {
            pod.fate = fate;
            patience.note(&pod, now);
            pod.pod
        };
        chosen.into_iter().map(meets).collect()
    }

    #[test]
    fn the_first_goes_alone_and_the_others_once_one_that_was_made_after_them_runs() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let all = ["a", "b", "c"].map(|name| pod("deployment/web", name, 0));
        let other = pod("deployment/other", "o", 3);
        let both = [&all[..], &[other]].concat();
        let evicted = |patience: &mut Patience, pods: &[StuckPod], max, now| {
            look(patience, pods, Fate::Evicted, max, now)
        };
        assert_eq!(evicted(&mut patience, &both, 10, now), ["o", "a"]);
        let now = now + LOOK;
        for (owner, minute) in [("deployment/web", 0), ("deployment/other", 1)] {
            patience.sees_running("team", owner, &pod(owner, "runs", minute).created);
            assert_eq!(
                evicted(&mut patience, &all[1..], 9, now),
                [""; 0],
                "{owner}"
            );
        }
        assert_eq!(patience.unproven(now), BTreeSet::from(["team".to_owned()]));
        patience.sees_running("team", "deployment/web", &pod("", "runs", 1).created);
        assert_eq!(evicted(&mut patience, &all[1..], 1, now), ["b"]);
        assert_eq!(evicted(&mut patience, &all[2..], 1, now + LOOK), ["c"]);
        // Who is gone already, or waits no longer, tries nothing.
        let mut patience = Patience::default();
        assert_eq!(
            look(&mut patience, &all, Fate::Recovered, 10, now),
            ["a"],
            "and after it another one alone"
        );
        let next = evicted(&mut patience, &all[1..], 10, now + LOOK);
        assert_eq!(next, ["b"]);
    }

    /// A Pod that is made anew waits again, whatever is done: how many minutes lie between two evictions.
    #[test]
    fn who_waits_again_is_evicted_less_and_less_often() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let (mut created, mut evicted) = (0, Vec::new());
        for minute in 0..7 * 24 * 60 {
            let now = start + u32::try_from(minute).unwrap() * LOOK;
            let anew = StuckPod {
                created: format!("{created:09}"),
                ..pod("deployment/web", "anew", 0)
            };
            if !look(&mut patience, &[anew], Fate::Evicted, 10, now).is_empty() {
                evicted.push(minute);
                created = minute + 1;
            }
        }
        let pauses: Vec<_> = evicted.windows(2).map(|two| two[1] - two[0]).collect();
        let doubled = [5, 10, 20, 40, 80, 160, 320, 640, 1280];
        assert_eq!(pauses[..doubled.len()], doubled);
        assert!(
            pauses[doubled.len()..]
                .iter()
                .all(|pause| *pause == 24 * 60)
        );
        assert_eq!(evicted.len(), 15, "{pauses:?}");
    }

    /// Nobody makes the Pod anew, say, or no node has room for it.
    #[test]
    fn while_none_that_is_made_anew_is_seen_one_goes_alone_less_and_less_often() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut left: Vec<_> = (0..6)
            .map(|n| pod("deployment/web", &n.to_string(), 0))
            .collect();
        let mut evicted = Vec::new();
        for minute in 0..100_u32 {
            let now = start + minute * LOOK;
            let gone = look(&mut patience, &left, Fate::Evicted, 9, now);
            left.retain(|pod| !gone.contains(&pod.pod));
            evicted.extend(gone.iter().map(|_| minute));
        }
        assert_eq!(evicted, [0, 5, 15, 35, 75]);
        let tried = start + 75 * LOOK;
        assert_eq!(patience.unproven(tried).len(), 1);
        assert_eq!(patience.unproven(tried + PROOF_MAX).len(), 0);
    }

    #[test]
    fn nobody_goes_while_one_made_anew_waits() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let old = ["a", "b", "c"].map(|name| pod("deployment/web", name, 0));
        assert_eq!(look(&mut patience, &old, Fate::Evicted, 9, now), ["a"]);
        patience.sees_running("team", "deployment/web", &pod("", "runs", 1).created);
        let waits_again = [&old[1..], &[pod("deployment/web", "d", 1)]].concat();
        for minutes in 1..5 {
            let now = now + minutes * LOOK;
            let gone = look(&mut patience, &waits_again, Fate::Evicted, 9, now);
            assert_eq!(gone, [""; 0], "{minutes}");
        }
        let now = now + PAUSE_MIN;
        let gone = look(&mut patience, &waits_again, Fate::Evicted, 9, now);
        assert_eq!(gone, ["b"], "one alone again");
    }

    #[test]
    fn who_is_refused_is_asked_about_less_and_less_often() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let pods = ["a", "b"].map(|name| pod("deployment/web", name, 0));
        let before = start.checked_sub(LOOK).unwrap_or(start);
        look(&mut patience, &pods, Fate::Evicted, 9, before);
        patience.sees_running("team", "deployment/web", &pod("", "runs", 1).created);
        let mut asked = Vec::new();
        for minute in 0..300_u32 {
            let gone = look(
                &mut patience,
                &pods,
                Fate::Refused,
                9,
                start + minute * LOOK,
            );
            if !gone.is_empty() {
                asked.push(minute);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        let gone = look(&mut patience, &pods, Fate::Evicted, 9, start + 303 * LOOK);
        assert_eq!(gone, ["a", "b"]);
    }

    #[test]
    fn an_owner_is_forgotten_a_day_after_its_pause_and_no_more_are_known_than_there_is_room_for() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let of_many: Vec<_> = (0..OWNERS_MAX + 10)
            .map(|n| pod(&format!("deployment/{n:05}"), "a", 0))
            .collect();
        let gone = look(&mut patience, &of_many, Fate::Evicted, usize::MAX, now);
        assert_eq!(gone.len(), OWNERS_MAX);
        assert_eq!(patience.0.len(), OWNERS_MAX);
        let left = &of_many[OWNERS_MAX..];
        let gone = look(&mut patience, left, Fate::Evicted, usize::MAX, now + LOOK);
        assert_eq!(gone.len(), 0, "all of them are in their pause");
        let later = now + PAUSE_MIN;
        let gone = look(&mut patience, left, Fate::Evicted, usize::MAX, later);
        assert_eq!((gone.len(), patience.0.len()), (10, OWNERS_MAX));
        patience.choose(Vec::new(), 1, later + PAUSE_MIN + PAUSE_MAX);
        assert_eq!(patience.0.len(), 0);
    }
}

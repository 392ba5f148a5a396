//! How often one object may be written, whatever happens to it.
//!
//! Somebody who keeps undoing our writes must not turn the controller into a hammer. A loss is healed
//! at once nevertheless: writes are limited per minute, not spaced. Time is given, never read.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Most writes of one object in any minute. One every ten seconds is what an API server does not notice;
/// the worst honest minute (installed, rotated and repaired at once) takes five.
pub const WRITES_PER_MINUTE_MAX: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// The writes of one object in the last minute.
#[derive(Debug, Default)]
pub(super) struct Budget(VecDeque<Instant>);

impl Budget {
    /// How long the next write has to wait.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        while self.0.front().is_some_and(|first| *first + MINUTE <= now) {
            self.0.pop_front();
        }
        match self.0.front() {
            Some(first) if self.0.len() >= WRITES_PER_MINUTE_MAX => *first + MINUTE - now,
            _ => Duration::ZERO,
        }
    }

    /// Whether there was no write in the last minute.
    pub(super) fn is_unspent(&mut self, now: Instant) -> bool {
        self.wait(now).is_zero() && self.0.is_empty()
    }

    /// Notes a write.
    pub(super) fn spend(&mut self, now: Instant) {
        self.0.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_34_whoever_fights_gets_six_writes_in_any_minute() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let mut writes = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if budget.wait(now).is_zero() {
                budget.spend(now);
                writes.push(second);
            }
        }
        assert_eq!(writes.get(..7), Some(&[0, 1, 2, 3, 4, 5, 60][..]));
        for first in &writes {
            let in_minute = |at: &&u64| (*first..first + 60).contains(*at);
            assert!(writes.iter().filter(in_minute).count() <= WRITES_PER_MINUTE_MAX);
        }
        assert_eq!(writes.len(), 60);
    }

    #[test]
    fn the_wait_ends_when_the_oldest_write_is_a_minute_old() {
        let start = Instant::now();
        let mut budget = Budget::default();
        (0..6).for_each(|second| budget.spend(start + Duration::from_secs(second)));
        let now = start + Duration::from_secs(10);
        assert_eq!(budget.wait(now), Duration::from_secs(50));
        assert_eq!(budget.wait(start + MINUTE), Duration::ZERO);
    }
}

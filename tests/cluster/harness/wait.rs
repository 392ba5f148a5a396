//! Waiting for a condition, with a deadline and the last state seen in the failure.
//!
//! No test sleeps for a fixed time: whatever has to happen is looked for until it is there.

use std::time::{Duration, Instant};

/// How often a condition is looked at. A look costs the API server about 1 ms.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// A Pod runs in 0.5 s, twenty at once in 3.5 s.
pub(crate) const HAPPY: Duration = Duration::from_secs(30);
/// One pull back-off costs 11 to 17 s.
pub(crate) const ONE_BACK_OFF: Duration = Duration::from_secs(60);
/// A CronJob waits for the next full minute.
pub(crate) const CRON_JOB: Duration = Duration::from_secs(100);
/// A node is ready 10 s after its start, and then starts Pods; a machine that builds something else is slower.
pub(crate) const NEW_NODE: Duration = Duration::from_secs(120);
/// The kubelet tries to create a mirror Pod again after up to 90 s.
pub(crate) const MIRROR: Duration = Duration::from_secs(120);

/// Calls `look` until it gives a value.
///
/// # Panics
/// At the deadline; the message names what was waited for and what was last seen instead.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= limit => {
                panic!(
                    "{what}: not within {} s; last seen: {seen}",
                    limit.as_secs()
                )
            }
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Waits until a counter has come up to this, and holds that it is not more. What a process says of itself
/// comes a moment after what it did can be seen.
#[track_caller]
pub(crate) fn until_counts(what: &str, expected: f64, count: impl Fn() -> f64) {
    until_counts_within(what, expected, || expected, count);
}

/// The same of a counter that may come up to `most`, which may grow with time.
#[track_caller]
pub(crate) fn until_counts_within(
    what: &str,
    least: f64,
    most: impl Fn() -> f64,
    count: impl Fn() -> f64,
) {
    wait_for(&format!("{what}: {least}"), HAPPY, || {
        let now = count();
        let most = most();
        assert!(now <= most, "{what}: {now}, more than {most}");
        (now >= least).then_some(()).ok_or_else(|| now.to_string())
    });
}

/// Most writes of one object by a controller that may write it six times a minute, if the first was not
/// before `start`.
pub(crate) fn writes_max(start: Instant) -> f64 {
    let minutes_begun = start.elapsed().as_secs() / 60 + 1;
    6.0 * minutes_begun as f64
}

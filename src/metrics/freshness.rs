//! How old what watches say may be: measured when somebody looks, since nothing happens when a watch dies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus::{GaugeVec, Opts, Registry};
use tokio::time::Instant;

/// When a watch was last known to be up to date. Clones share it.
#[derive(Debug, Clone)]
pub struct Freshness(Arc<Mutex<Instant>>);

impl Freshness {
    /// The API server answered: the watch is up to date now.
    pub fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

fn age_seconds(last: &Mutex<Instant>) -> f64 {
    let last = *last.lock().unwrap_or_else(PoisonError::into_inner);
    last.elapsed().as_secs_f64()
}

/// The ages of all watches of the process. Several may share a name; then its age is that of the oldest.
#[derive(Debug)]
pub(super) struct Watches {
    age: GaugeVec,
    all: Mutex<Vec<Watch>>,
}

/// Its name and its [`Freshness`], as long as it runs.
type Watch = (&'static str, Weak<Mutex<Instant>>);

impl Watches {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help =
            "Since the API server last proved that a watch is up to date; below 30 in health";
        let opts = Opts::new("pullpass_watch_age_seconds", help);
        Ok(Self {
            age: super::register(registry, GaugeVec::new(opts, &["watch"])?)?,
            all: Mutex::default(),
        })
    }

    pub(super) fn add(&self, name: &'static str) -> Freshness {
        let freshness = Freshness(Arc::new(Mutex::new(Instant::now())));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((name, Arc::downgrade(&freshness.0)));
        freshness
    }

    /// Sets every gauge to what it is now.
    pub(super) fn measure(&self) {
        let mut ages: BTreeMap<&'static str, f64> = BTreeMap::new();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(name, last)| {
            let last = last.upgrade();
            match &last {
                Some(last) => {
                    let age = ages.entry(name).or_default();
                    *age = age.max(age_seconds(last));
                }
                None => drop(self.age.remove_label_values(&[name])),
            }
            last.is_some()
        });
        for (name, age) in ages {
            self.age.with_label_values(&[name]).set(age);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::metrics::Metrics;

    /// The age of a watch in the printed metrics, in whole seconds.
    fn age(metrics: &Metrics, watch: &str) -> u64 {
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let series = format!("pullpass_watch_age_seconds{{watch=\"{watch}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        let seconds: f64 = value.unwrap().parse().unwrap();
        Duration::from_secs_f64(seconds).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_grows_until_the_watch_is_touched() {
        let metrics = Metrics::new().unwrap();
        let (rules, _index) = (metrics.watch_age("rules"), metrics.watch_age("index"));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(age(&metrics, "rules"), 40);
        rules.clone().touch();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(age(&metrics, "rules"), 2);
        assert_eq!(age(&metrics, "index"), 42, "each has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_watch_of_a_name_counts_as_long_as_it_runs() {
        let metrics = Metrics::new().unwrap();
        let (old, new) = (metrics.watch_age("copies"), metrics.watch_age("copies"));
        tokio::time::advance(Duration::from_secs(40)).await;
        new.touch();
        assert_eq!(age(&metrics, "copies"), 40);
        drop(old);
        assert_eq!(age(&metrics, "copies"), 0);
        drop(new);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("watch=\"copies\""));
    }

    #[test]
    fn without_watches_there_is_no_age() {
        let text = Metrics::new().unwrap().render().unwrap();
        assert!(
            !String::from_utf8(text)
                .unwrap()
                .contains("pullpass_watch_age_seconds{")
        );
    }
}

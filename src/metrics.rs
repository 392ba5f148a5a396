//! What the process counts, in a registry of its own; `/metrics` prints it.
//!
//! Label values come from enums or from configured names, never from images, namespaces or error
//! texts. Handles are resolved once, when rules are loaded or a server starts: the request path
//! neither looks a label up nor allocates. This module must not know what the labels mean.

mod controller;
mod freshness;

pub use controller::{ControllerMetrics, Counts, DeliveryMetrics, ProgramRuns};
pub use freshness::Freshness;
use freshness::Watches;

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Most rule names that get a series of their own; the others share the name [`OTHER`].
pub const RULE_NAMES_MAX: usize = 100;
/// Value of the label `rule` for rules past [`RULE_NAMES_MAX`].
pub const OTHER: &str = "other";

/// Upper bounds in seconds. A decision takes about 10 µs and a request about 100 µs, so the lower half
/// lies below a millisecond; the upper half reaches the API server's longest webhook timeout.
const DURATION_BUCKETS: [f64; 14] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
    5.0, 30.0,
];

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    warnings: IntCounterVec,
    injections: IntCounterVec,
    certificate_not_after: GaugeVec,
    watches: Watches,
    /// Seconds from a request's head to its answer.
    pub admission_duration: Histogram,
    /// Image references that the kubelet will refuse as `InvalidImageName`.
    pub images_unparsable: IntCounter,
    /// 1 if the last rules that were seen are the ones in use.
    pub rules_valid: IntGauge,
    /// How many times rules were loaded.
    pub rules_generation: IntGauge,
    /// Certificates or keys that could not be used, since the last that could.
    pub certificate_failures: IntGauge,
    /// Requests refused because too many were in flight or too many bytes buffered.
    pub shed: IntCounter,
    /// Requests that waited for the labels of a namespace that was not seen yet.
    pub namespace_waits: IntCounter,
    /// Panics that were caught. Each is a bug.
    pub panics: IntCounter,
    /// Open connections on the TLS port.
    pub connections: IntGauge,
}

/// The counters of the rules of one load, by the position of the rule.
#[derive(Debug, Default)]
pub struct RuleCounters(Vec<IntCounter>);

impl RuleCounters {
    /// Counts one injection by the rule at `position`.
    pub fn count(&self, position: usize) {
        if let Some(counter) = self.0.get(position) {
            counter.inc();
        }
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// If two metrics share a name, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        register(&registry, build_info()?)?;
        let counter = |name, help| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name, help| register(&registry, IntGauge::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(
                &registry,
                IntCounterVec::new(Opts::new(name, help), labels)?,
            )
        };
        Ok(Self {
            requests: counters(
                "pullpass_admission_requests_total",
                "Requests on the admission path, by what became of them",
                &["outcome", "reason"],
            )?,
            warnings: counters(
                "pullpass_admission_warnings_total",
                "Warnings to whoever creates a Pod, by what is wrong with a pull secret",
                &["kind"],
            )?,
            injections: counters(
                "pullpass_injections_total",
                "Pods to which a rule added pull secrets (Enforce) or would have (Shadow)",
                &["rule", "mode"],
            )?,
            certificate_not_after: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "pullpass_certificate_not_after_timestamp_seconds",
                        "When the certificate in use expires, Unix time",
                    ),
                    &["kind"],
                )?,
            )?,
            watches: Watches::register(&registry)?,
            admission_duration: register(&registry, admission_duration()?)?,
            images_unparsable: counter(
                "pullpass_images_unparsable_total",
                "Image references that the kubelet refuses as InvalidImageName",
            )?,
            rules_valid: gauge(
                "pullpass_rules_valid",
                "1 if the rules last seen are in use, 0 if they have errors",
            )?,
            rules_generation: gauge(
                "pullpass_rules_generation",
                "How many times this process loaded rules",
            )?,
            certificate_failures: gauge(
                "pullpass_certificate_load_failures",
                "Certificates or keys that could not be used, since the last that could",
            )?,
            shed: counter(
                "pullpass_shed_total",
                "Requests refused with 503 because of too much load",
            )?,
            namespace_waits: counter(
                "pullpass_namespace_waits_total",
                "Requests that waited for the labels of a namespace that was not seen yet",
            )?,
            panics: counter("pullpass_panics_total", "Panics that were caught")?,
            connections: gauge("pullpass_connections", "Open connections on the TLS port")?,
            registry,
        })
    }

    /// The counter of requests with this outcome and reason. Take it once, not per request.
    pub fn requests(&self, outcome: &str, reason: &str) -> IntCounter {
        self.requests.with_label_values(&[outcome, reason])
    }

    /// The counter of warnings of this kind. Take it once, not per request.
    pub fn warnings(&self, kind: &str) -> IntCounter {
        self.warnings.with_label_values(&[kind])
    }

    /// The counters of a newly loaded list of rules, `(name, mode)` in order. Series of rules that
    /// are gone are dropped, so that renaming rules cannot fill the registry.
    pub fn rules<'a>(
        &self,
        rules: impl IntoIterator<Item = (&'a str, &'static str)>,
    ) -> RuleCounters {
        let before = self.injections.collect();
        let series = |name: &str, mode| self.injections.with_label_values(&[name, mode]);
        let mut named = Vec::new();
        let mut others = HashMap::new();
        let counters = rules.into_iter().map(|(name, mode)| {
            if named.len() < RULE_NAMES_MAX {
                named.push((name, mode));
                return series(name, mode);
            }
            let other = others.entry(mode).or_insert_with(|| series(OTHER, mode));
            other.clone()
        });
        let counters = counters.collect();
        for old in before.iter().flat_map(|family| family.get_metric()) {
            let (rule, mode) = (label(old, "rule"), label(old, "mode"));
            if rule != OTHER && !named.contains(&(rule, mode)) {
                self.injections.remove_label_values(&[rule, mode]).ok();
            }
        }
        RuleCounters(counters)
    }

    /// Registers what only a controller counts.
    ///
    /// # Errors
    /// If it is registered already.
    pub fn controller(&self) -> prometheus::Result<ControllerMetrics> {
        ControllerMetrics::register(&self.registry)
    }

    /// Registers what only a controller counts that delivers.
    ///
    /// # Errors
    /// If it is registered already.
    pub fn delivery(&self) -> prometheus::Result<DeliveryMetrics> {
        DeliveryMetrics::register(&self.registry)
    }

    /// Sets when the certificate of this kind (`leaf` or `ca`) expires; `None` if there is none.
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds until the year 285,000,000 are exact"
    )]
    pub fn certificate_not_after(&self, kind: &'static str, unix_seconds: Option<i64>) {
        match unix_seconds {
            Some(seconds) => {
                let gauge = self.certificate_not_after.with_label_values(&[kind]);
                gauge.set(seconds as f64);
            }
            None => {
                self.certificate_not_after.remove_label_values(&[kind]).ok();
            }
        }
    }

    /// The age of the watch called `name`, which starts now.
    pub fn watch_age(&self, name: &'static str) -> Freshness {
        self.watches.add(name)
    }

    /// Everything, in the text format of Prometheus.
    ///
    /// # Errors
    /// If a metric cannot be written as text, which is a bug.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        self.watches.measure();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The media type of [`Self::render`].
    pub const MEDIA_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

/// The value of one label of a series.
fn label<'a>(series: &'a prometheus::proto::Metric, name: &str) -> &'a str {
    let pair = series.get_label().iter().find(|pair| pair.name() == name);
    pair.map(|pair| pair.value()).unwrap_or_default()
}

fn build_info() -> prometheus::Result<IntGaugeVec> {
    let help = "Always 1; the version is the label";
    let build = IntGaugeVec::new(Opts::new("pullpass_build_info", help), &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(build)
}

fn admission_duration() -> prometheus::Result<Histogram> {
    let help = "From the head of a request to its answer, reading the body included";
    let opts = HistogramOpts::new("pullpass_admission_duration_seconds", help);
    Histogram::with_opts(opts.buckets(DURATION_BUCKETS.to_vec()))
}

fn register<C>(registry: &Registry, collector: C) -> prometheus::Result<C>
where
    C: Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[test]
    fn every_name_registers_once_and_is_printed() {
        let metrics = Metrics::new().unwrap();
        metrics.requests("patched", "injected").inc();
        metrics.certificate_not_after("leaf", Some(1_900_000_000));
        let text = text(&metrics);
        for line in [
            "pullpass_admission_requests_total{outcome=\"patched\",reason=\"injected\"} 1",
            "pullpass_admission_duration_seconds_bucket{le=\"0.000025\"} 0",
            "pullpass_certificate_not_after_timestamp_seconds{kind=\"leaf\"} 1900000000",
            "pullpass_rules_valid 0",
            "pullpass_shed_total 0",
            "pullpass_panics_total 0",
            "pullpass_connections 0",
            concat!(
                "pullpass_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn rules_past_the_hundredth_share_a_series() {
        let metrics = Metrics::new().unwrap();
        let names: Vec<String> = (0..150).map(|n| format!("rule-{n}")).collect();
        let counters = metrics.rules(names.iter().map(|name| (&**name, "Enforce")));
        (0..150).for_each(|position| counters.count(position));
        let text = text(&metrics);
        assert!(text.contains("pullpass_injections_total{mode=\"Enforce\",rule=\"rule-99\"} 1"));
        assert!(text.contains("pullpass_injections_total{mode=\"Enforce\",rule=\"other\"} 50"));
        assert!(!text.contains("rule-100"));
    }

    #[test]
    fn renaming_rules_leaves_no_series_behind() {
        let metrics = Metrics::new().unwrap();
        metrics
            .rules([("kept", "Enforce"), ("old", "Enforce")])
            .count(0);
        metrics.rules([("kept", "Enforce"), ("new", "Shadow")]);
        let text = text(&metrics);
        assert!(text.contains("pullpass_injections_total{mode=\"Enforce\",rule=\"kept\"} 1"));
        assert!(text.contains("pullpass_injections_total{mode=\"Shadow\",rule=\"new\"} 0"));
        assert!(!text.contains("\"old\""));
    }

    #[test]
    fn a_certificate_without_issuer_has_no_ca_series() {
        let metrics = Metrics::new().unwrap();
        metrics.certificate_not_after("ca", Some(1));
        metrics.certificate_not_after("ca", None);
        assert!(!text(&metrics).contains("kind=\"ca\""));
    }
}

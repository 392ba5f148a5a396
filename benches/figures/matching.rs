//! P3: one image against 10, 1,000 and 100,000 patterns, beside a linear scan.

use std::hint::black_box;
use std::time::Instant;

use pullpass::image::ImageRef;
use pullpass::rules::Ruleset;
use pullpass::rules::ruleset::RuleIds;

use super::linear::LinearMatcher;
use super::report::Report;
use super::{Outcome, Scale, Spread, workload};

const PATTERNS: [usize; 3] = [10, 1_000, 100_000];
/// Different images, each seen once a pass: more than the caches hold together with the table.
const COLD_IMAGES: usize = 20_000;
/// Images seen over and over.
const HOT_IMAGES: usize = 8;

/// One number of patterns.
struct Bench {
    patterns: usize,
    config: pullpass::rules::RulesConfig,
    ruleset: Ruleset,
    images: Vec<String>,
    cold_ns: Vec<f64>,
    hot_ns: Vec<f64>,
}

impl Bench {
    fn new(patterns: usize) -> Outcome<Self> {
        let config = workload::config(&workload::rules_text(patterns))?;
        Ok(Self {
            patterns,
            ruleset: Ruleset::compile(&config),
            config,
            images: workload::images(patterns, COLD_IMAGES),
            cold_ns: Vec::new(),
            hot_ns: Vec::new(),
        })
    }

    fn parsed(&self) -> Outcome<Vec<ImageRef<'_>>> {
        self.images
            .iter()
            .map(|image| ImageRef::parse(image).map_err(Into::into))
            .collect()
    }

    /// Nanoseconds of one match: over all images once, and over a few of them again and again.
    fn sample(&self) -> Outcome<(f64, f64)> {
        let images = self.parsed()?;
        let cold = ns_per_match(&self.ruleset, images.iter());
        let hot = images.iter().take(HOT_IMAGES).cycle().take(COLD_IMAGES);
        Ok((cold, ns_per_match(&self.ruleset, hot)))
    }
}

pub(crate) fn measure(scale: Scale, report: &mut Report) -> Outcome<()> {
    let started = Instant::now();
    let mut benches = Vec::new();
    for patterns in PATTERNS {
        benches.push(Bench::new(patterns)?);
    }
    report.add(
        "rules_compile_ms_all",
        started.elapsed().as_secs_f64() * 1e3,
    );
    for bench in &benches {
        let key = format!("match_allocations_{}", bench.patterns);
        report.add(&key, allocations(bench)?);
    }
    // Alternating, so that a slow moment of the machine falls on all sizes alike.
    for _ in 0..scale.samples {
        for bench in &mut benches {
            let (cold, hot) = bench.sample()?;
            bench.cold_ns.push(cold);
            bench.hot_ns.push(hot);
        }
    }
    for bench in &benches {
        for (temperature, samples) in [("cold", &bench.cold_ns), ("hot", &bench.hot_ns)] {
            let key = format!("match_ns_{}_{temperature}", bench.patterns);
            report.add_median(&key, samples.clone());
        }
    }
    let [small, .., large] = &*benches else {
        return Err("no sizes".into());
    };
    report.add(
        "match_100000_vs_10_cold",
        ratio(&large.cold_ns, &small.cold_ns),
    );
    report.add(
        "match_100000_vs_10_hot",
        ratio(&large.hot_ns, &small.hot_ns),
    );
    let linear_ns = linear(large, scale.linear_images)?;
    report.add("linear_ns_100000", linear_ns);
    let cold_ns = Spread::of(large.cold_ns.clone()).median;
    report.add("linear_vs_match_100000", linear_ns / cold_ns);
    Ok(())
}

/// Median of the ratios of samples taken side by side.
fn ratio(a: &[f64], b: &[f64]) -> f64 {
    Spread::of(a.iter().zip(b).map(|(a, b)| a / b).collect()).median
}

fn ns_per_match<'i>(ruleset: &Ruleset, images: impl Iterator<Item = &'i ImageRef<'i>>) -> f64 {
    let mut matched = RuleIds::new();
    let mut count = 0_u32;
    let started = Instant::now();
    for image in images {
        matched.clear();
        ruleset.match_image(image, &mut matched);
        black_box(&matched);
        count += 1;
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Most allocations of one match, over all images.
fn allocations(bench: &Bench) -> Outcome<f64> {
    let images = bench.parsed()?;
    let counts = images.iter().map(|image| {
        let info = allocation_counter::measure(|| {
            let mut matched = RuleIds::new();
            bench.ruleset.match_image(image, &mut matched);
            black_box(&matched);
        });
        info.count_total as f64
    });
    Ok(counts.fold(0.0, f64::max))
}

/// Nanoseconds of one linear scan; both matchers must find the same rules.
fn linear(bench: &Bench, images: usize) -> Outcome<f64> {
    let matcher = LinearMatcher::new(&bench.config);
    let images: Vec<_> = bench.parsed()?.into_iter().take(images).collect();
    let started = Instant::now();
    let found: Vec<_> = images.iter().map(|image| matcher.matches(image)).collect();
    let elapsed = started.elapsed();
    for (image, found) in images.iter().zip(&found) {
        let mut matched = RuleIds::new();
        bench.ruleset.match_image(image, &mut matched);
        matched.sort_unstable();
        matched.dedup();
        if !matched.iter().map(|id| id.0).eq(found.iter().copied()) {
            return Err(format!("{image}: compiled {matched:?}, linear {found:?}").into());
        }
    }
    Ok(elapsed.as_secs_f64() * 1e9 / images.len() as f64)
}

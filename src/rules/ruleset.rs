//! What a request matches against: the compiled rules.
//!
//! The order in which things are decided is written down at [`super`]. This module must not know
//! the rules text: positions and names are all that is left of it.

use smallvec::SmallVec;

use crate::image::ImageRef;

use super::config::{Deliver, Mode, OnRejected, RuleConfig, RulesConfig};
use super::matcher::{self, Hit, HostBuffer, Matcher, Query};
use super::namespace::NamespaceMatcher;
use super::selector::LabelSelector;

/// Position of a rule in the rules text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// Position of a pull secret in the rules text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId(pub u32);

/// Rules that one image or one Pod matches; inline up to 16.
pub type RuleIds = SmallVec<[RuleId; 16]>;

/// The compiled rules; immutable. The default has none and injects nothing.
#[derive(Debug, Default)]
pub struct Ruleset {
    rules: Box<[Rule]>,
    pull_secrets: Box<[PullSecret]>,
    unconditional: Box<[RuleId]>,
    matcher: Matcher,
    /// Patterns as they were written, by [`Hit::pattern`], for explanations.
    patterns: PatternTexts,
}

/// One compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: Box<str>,
    /// Has `images`; otherwise each of its credentials is judged by its own keys.
    pub by_images: bool,
    /// Where it applies, by the namespace's name and labels.
    pub namespaces: NamespaceMatcher,
    /// Labels of the Pod.
    pub pod_selector: Option<LabelSelector>,
    /// Its pull secrets, in order; inline up to 4, which take the room of a pointer and a length.
    pub secrets: SmallVec<[SecretId; 4]>,
    /// Also when no image matches.
    pub always: bool,
    /// Enforce or Shadow.
    pub mode: Mode,
    /// Has `excludeImages`: most have none, and are spared the walk.
    excludes_images: bool,
}

/// One compiled pull secret.
#[derive(Debug)]
pub struct PullSecret {
    /// How rules call it.
    pub name: Box<str>,
    /// Name of the Secret in the Pod's namespace.
    pub secret_name: Box<str>,
    /// When it is delivered.
    pub deliver: Deliver,
    /// Who may ever hold it.
    pub namespaces: NamespaceMatcher,
    /// What its registry is asked, [`super::config::ProbeConfig::asked`]; `None`: nothing.
    pub asked: Option<Box<str>>,
    /// Whether it is left out while its registry rejects it.
    pub skips_rejected: bool,
}

impl Ruleset {
    /// Compiles a valid config. Cannot fail: everything that can is checked by [`super::load`].
    pub fn compile(config: &RulesConfig) -> Self {
        let pull_secrets = config.pull_secrets.iter().map(|secret| PullSecret {
            name: secret.name.as_str().into(),
            secret_name: secret.secret_name.as_str().into(),
            deliver: secret.deliver,
            namespaces: NamespaceMatcher::permission(&secret.namespaces),
            asked: secret.probe.as_ref().map(|probe| probe.asked().into()),
            skips_rejected: secret
                .probe
                .as_ref()
                .is_some_and(|probe| probe.on_rejected == OnRejected::Skip),
        });
        let unconditional =
            |(_, rule): &(RuleId, &RuleConfig)| rule.always || rule.images.is_none();
        let (matcher, patterns) = compile_patterns(config);
        Self {
            rules: config.rules.iter().map(Rule::compile).collect(),
            pull_secrets: pull_secrets.collect(),
            unconditional: by_id(config)
                .filter(unconditional)
                .map(|(id, _)| id)
                .collect(),
            matcher,
            patterns,
        }
    }

    /// All rules, in order; indexed by [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// All pull secrets, in order; indexed by [`SecretId`].
    pub fn pull_secrets(&self) -> &[PullSecret] {
        &self.pull_secrets
    }

    /// The rules to look at for every Pod whatever its images: those without `images`, and those
    /// with `always`. In order.
    pub fn unconditional(&self) -> &[RuleId] {
        &self.unconditional
    }

    /// Adds to `matched` every rule with `images` for which this image is in `images` and not in
    /// `excludeImages`. Neither sorted nor deduplicated across calls; no allocation while it fits inline.
    pub fn match_image(&self, image: &ImageRef<'_>, matched: &mut RuleIds) {
        let before = matched.len();
        let mut excluded = RuleIds::new();
        self.walk(image, |hits| {
            for hit in hits {
                let ids = if hit.exclude {
                    &mut excluded
                } else {
                    &mut *matched
                };
                // Several patterns of one rule are mostly found in a row: keeps them inline.
                if ids.last() != Some(&RuleId(hit.rule)) {
                    ids.push(RuleId(hit.rule));
                }
            }
        });
        if excluded.is_empty() {
            return;
        }
        excluded.sort_unstable();
        let mut position = 0;
        matched.retain(|rule| {
            position += 1;
            position <= before || excluded.binary_search(rule).is_err()
        });
    }

    /// Whether `image` is taken out by the rule's `excludeImages`. For rules without `images` too.
    pub fn is_excluded(&self, rule: RuleId, image: &ImageRef<'_>) -> bool {
        self.excluding_pattern(rule, image).is_some()
    }

    /// The first pattern of the rule's `images` that covers `image`, as it was written.
    pub fn matching_pattern(&self, rule: RuleId, image: &ImageRef<'_>) -> Option<&str> {
        self.first_pattern(rule, false, image)
    }

    /// The first pattern of the rule's `excludeImages` that covers `image`, as it was written.
    pub fn excluding_pattern(&self, rule: RuleId, image: &ImageRef<'_>) -> Option<&str> {
        let excludes = self
            .rules
            .get(rule.0 as usize)
            .is_some_and(|rule| rule.excludes_images);
        excludes
            .then(|| self.first_pattern(rule, true, image))
            .flatten()
    }

    fn first_pattern(&self, rule: RuleId, exclude: bool, image: &ImageRef<'_>) -> Option<&str> {
        let mut first: Option<u32> = None;
        self.walk(image, |hits| {
            // Sorted: a node may hold the same pattern of a hundred thousand rules.
            let at = hits.partition_point(|hit| (hit.rule, hit.exclude) < (rule.0, exclude));
            let hit = hits
                .get(at)
                .filter(|hit| (hit.rule, hit.exclude) == (rule.0, exclude));
            first = hit.map(|hit| hit.pattern).into_iter().chain(first).min();
        });
        self.patterns.text(first?)
    }

    fn walk<'s>(&'s self, image: &ImageRef<'_>, mut visit: impl FnMut(&'s [Hit])) {
        let mut buffer = HostBuffer::new();
        self.matcher
            .walk(&Query::image(image, &mut buffer), &mut visit);
    }
}

impl Rule {
    fn compile(rule: &RuleConfig) -> Self {
        Self {
            name: rule.name.as_str().into(),
            by_images: rule.images.is_some(),
            namespaces: NamespaceMatcher::rule(&rule.namespaces),
            pod_selector: rule.pod_selector.clone(),
            secrets: rule
                .pull_secrets
                .iter()
                .map(|&secret| SecretId(id(secret)))
                .collect(),
            always: rule.always,
            mode: rule.mode,
            excludes_images: !rule.exclude_images.is_empty(),
        }
    }
}

/// All patterns' texts in one, since a hundred thousand small allocations cost more than a search.
#[derive(Debug, Default)]
struct PatternTexts {
    texts: String,
    /// Where each ends; it starts where the one before ends.
    ends: Vec<u32>,
}

impl PatternTexts {
    fn push(&mut self, text: &str) {
        self.texts.push_str(text);
        self.ends.push(id(self.texts.len()));
    }

    fn text(&self, pattern: u32) -> Option<&str> {
        let pattern = pattern as usize;
        let start = pattern
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied();
        let end = *self.ends.get(pattern)?;
        self.texts.get(start.unwrap_or(0) as usize..end as usize)
    }
}

fn compile_patterns(config: &RulesConfig) -> (Matcher, PatternTexts) {
    let mut matcher = matcher::Builder::with_capacity(config.pattern_count());
    let mut texts = PatternTexts::default();
    for (rule, config) in by_id(config) {
        let images = config
            .images
            .iter()
            .flatten()
            .map(|pattern| (false, pattern));
        let excludes = config.exclude_images.iter().map(|pattern| (true, pattern));
        for (exclude, pattern) in images.chain(excludes) {
            let hit = Hit {
                rule: rule.0,
                exclude,
                pattern: id(texts.ends.len()),
            };
            matcher.add(pattern, hit);
            texts.push(pattern.as_str());
        }
    }
    texts.texts.shrink_to_fit();
    texts.ends.shrink_to_fit();
    (matcher.build(), texts)
}

fn by_id(config: &RulesConfig) -> impl Iterator<Item = (RuleId, &RuleConfig)> {
    config
        .rules
        .iter()
        .enumerate()
        .map(|(position, rule)| (RuleId(id(position)), rule))
}

/// Positions are kept in four bytes: a rules text of 16 MiB holds fewer of anything.
fn id(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

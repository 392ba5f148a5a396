//! Goes through the rules with the questions of the decision, and puts the answers into words.

use crate::credential::docker_config::redacted;
use crate::image::ImageRef;
use crate::index::State;
use crate::rules::{Mode, PullSecret, RegistryPattern, Rule, RuleId, RulesConfig, SecretId};
use crate::snapshot::Snapshot;

use super::super::context::{Context, Hit, RuleMiss, Verdict, Wanted};
use super::super::pod::PodView;
use super::{KeyReport, Outcome, PatternReport, RuleReport, SecretReport};

/// Most patterns or keys that one sentence lists.
const LISTED_MAX: usize = 3;

/// `` `a`, `b` and 7 more ``.
fn listed<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> String {
    let quoted: Vec<_> = texts
        .clone()
        .take(LISTED_MAX)
        .map(|text| format!("`{text}`"))
        .collect();
    let list = quoted.join(", ");
    match texts.count().saturating_sub(LISTED_MAX) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

/// Why no image counts for a rule with these patterns.
fn no_match(images: &[PatternReport], patterns: &[RegistryPattern]) -> String {
    if images.iter().any(|image| image.pattern.is_some()) {
        return "every image that matches is excluded".to_owned();
    }
    format!(
        "no image matches {}",
        listed(patterns.iter().map(RegistryPattern::as_str))
    )
}

/// One Pod beside one snapshot.
pub(super) struct Asker<'p, 'v, 's> {
    context: Context<'p, 'v, 's>,
    namespace: &'p str,
    snapshot: &'s Snapshot,
}

impl<'p, 'v, 's> Asker<'p, 'v, 's> {
    pub(super) fn new(namespace: &'p str, pod: &'p PodView<'v>, snapshot: &'s Snapshot) -> Self {
        Self {
            context: Context::new(namespace, pod, snapshot),
            namespace,
            snapshot,
        }
    }

    /// Every rule, in order.
    pub(super) fn rules(&self, config: &RulesConfig) -> Vec<RuleReport> {
        let hits = self.context.hits();
        let mut rest = &*hits;
        let mut reports = Vec::new();
        let rules = self.snapshot.ruleset().rules().iter().zip(&config.rules);
        for (id, (rule, written)) in (0..).map(RuleId).zip(rules) {
            let own;
            (own, rest) = rest.split_at(rest.partition_point(|hit| hit.0 <= id));
            let mut report = self.rule(id, rule, own);
            if let (Outcome::WantsNothing, Some(patterns)) = (report.outcome, &written.images) {
                report.why_not = Some(no_match(&report.images, patterns));
            }
            reports.push(report);
        }
        reports
    }

    fn rule(&self, id: RuleId, rule: &'s Rule, hits: &[Hit]) -> RuleReport {
        let mut report = RuleReport {
            name: rule.name.to_string(),
            mode: match rule.mode {
                Mode::Enforce => "Enforce",
                Mode::Shadow => "Shadow",
            },
            outcome: Outcome::DoesNotApply,
            why_not: None,
            images: Vec::new(),
            pull_secrets: Vec::new(),
        };
        if let Err(miss) = self.context.applies(rule) {
            report.why_not = Some(self.miss(miss));
            return report;
        }
        if rule.by_images {
            report.images = self.patterns(id);
        }
        report.pull_secrets = rule
            .secrets
            .iter()
            .filter_map(|&secret| self.secret(id, rule, secret, hits))
            .collect();
        let verdicts = || report.pull_secrets.iter().filter_map(|s| s.verdict);
        let adds =
            verdicts().any(|verdict| Verdict::INJECTED.map(Verdict::as_str).contains(&verdict));
        report.outcome = match (adds, rule.mode) {
            (true, Mode::Enforce) => Outcome::Adds,
            (true, Mode::Shadow) => Outcome::WouldAdd,
            (false, _) if verdicts().next().is_some() => Outcome::AddsNothing,
            (false, _) => Outcome::WantsNothing,
        };
        report
    }

    fn miss(&self, miss: RuleMiss<'_>) -> String {
        match miss {
            RuleMiss::Namespace(refusal) => format!("namespace \"{}\" {refusal}", self.namespace),
            RuleMiss::PodLabels(unmet) => format!("the Pod does not have the labels `{unmet}`"),
        }
    }

    fn patterns(&self, id: RuleId) -> Vec<PatternReport> {
        let ruleset = self.snapshot.ruleset();
        let report = |image: &ImageRef<'_>| PatternReport {
            name: image.to_string(),
            pattern: ruleset.matching_pattern(id, image).map(str::to_owned),
            excluded_by: ruleset.excluding_pattern(id, image).map(str::to_owned),
        };
        self.context.images.iter().map(report).collect()
    }

    fn secret(
        &self,
        id: RuleId,
        rule: &'s Rule,
        secret: SecretId,
        hits: &[Hit],
    ) -> Option<SecretReport> {
        let entry = self
            .snapshot
            .ruleset()
            .pull_secrets()
            .get(secret.0 as usize)?;
        let wanted = self.context.wants(id, rule, secret, hits);
        let verdict = wanted
            .is_some()
            .then(|| self.context.verdict(secret, entry));
        let keys = self.keys(rule, secret, hits);
        Some(SecretReport {
            name: entry.name.to_string(),
            secret_name: entry.secret_name.to_string(),
            detail: match verdict {
                Some(verdict) => self.judged(rule.mode, entry, secret, verdict),
                None => self.unwanted(id, rule, secret, &keys),
            },
            verdict: verdict.map(Verdict::as_str),
            is_unread: wanted.is_none()
                && !rule.by_images
                && self.context.verdict(secret, entry) == Verdict::Unusable,
            wanted: wanted.map(|wanted| self.wish(id, &wanted)),
            is_known: self.snapshot.coverage(secret).is_some(),
            keys,
        })
    }

    /// Why the rule wants a secret.
    fn wish(&self, id: RuleId, wanted: &Wanted<'_>) -> String {
        let image = |index: usize| self.context.images.get(index);
        let name = |index| image(index).map(ToString::to_string).unwrap_or_default();
        match *wanted {
            Wanted::Always => "the rule says `always`".to_owned(),
            Wanted::Key(index, key) => {
                format!("key `{}` covers {}", redacted(key), name(index))
            }
            Wanted::Image(index) => {
                let ruleset = self.snapshot.ruleset();
                let pattern = image(index).and_then(|image| ruleset.matching_pattern(id, image));
                format!("`{}` covers {}", pattern.unwrap_or_default(), name(index))
            }
        }
    }

    /// A verdict in words.
    fn judged(
        &self,
        mode: Mode,
        entry: &'s PullSecret,
        secret: SecretId,
        verdict: Verdict,
    ) -> String {
        let secret_name = &entry.secret_name;
        let added = match mode {
            Mode::Enforce => "added",
            Mode::Shadow => "would be added",
        };
        match verdict {
            Verdict::Inject if self.snapshot.coverage(secret).is_none() => {
                format!("{added}; nothing is known about its payload")
            }
            Verdict::Inject => added.to_owned(),
            Verdict::InjectStale => format!("{added}, though its source is gone"),
            Verdict::InjectRejected => format!("{added}, though {}", self.rejected(secret)),
            Verdict::Rejected => format!("left out: {}", self.rejected(secret)),
            Verdict::AlreadyPresent => "the Pod's list has it already".to_owned(),
            Verdict::NotPermitted => match self.context.refusal(entry) {
                Some(refusal) => {
                    format!("not permitted: namespace \"{}\" {refusal}", self.namespace)
                }
                None => "not permitted".to_owned(),
            },
            Verdict::Unusable => match self.unusable(secret) {
                Some(reason) => format!("left out, unusable: {reason}"),
                None => "left out".to_owned(),
            },
            Verdict::UndecodableHere => format!(
                "left out: namespace \"{}\" has a Secret \"{secret_name}\" of its own that the kubelet cannot decode",
                self.namespace
            ),
        }
    }

    /// Why the rule does not want a secret.
    fn unwanted(&self, id: RuleId, rule: &Rule, secret: SecretId, keys: &[KeyReport]) -> String {
        if rule.by_images {
            return "no image matches".to_owned();
        }
        if self.snapshot.coverage(secret).is_none() {
            return "nothing is known about its payload, and the rule has no `images`".to_owned();
        }
        if let Some(reason) = self.unusable(secret) {
            return format!("unusable: {reason}");
        }
        if keys.iter().any(|key| key.is_empty) {
            return "a key matches, but has no user name and password".to_owned();
        }
        let excluded = self
            .context
            .images
            .iter()
            .zip(keys)
            .find_map(|(image, key)| {
                key.key.as_ref()?;
                let pattern = self.snapshot.ruleset().excluding_pattern(id, image)?;
                Some(format!("{image} is excluded by `{pattern}`"))
            });
        excluded.unwrap_or_else(|| {
            let keys: Vec<_> = self
                .snapshot
                .coverage(secret)
                .into_iter()
                .flat_map(|coverage| coverage.keyring.keys())
                .map(redacted)
                .collect();
            format!(
                "no image is covered by {}",
                listed(keys.iter().map(|key| &**key))
            )
        })
    }

    fn unusable(&self, secret: SecretId) -> Option<&'s str> {
        match &self.snapshot.coverage(secret)?.state {
            State::Unusable { reason } => Some(reason),
            State::Usable | State::Stale | State::Rejected { .. } => None,
        }
    }

    fn rejected(&self, secret: SecretId) -> String {
        let coverage = self.snapshot.coverage(secret);
        match coverage.map(|coverage| &coverage.state) {
            Some(State::Rejected { reason, .. }) => format!("its registry rejects it: {reason}"),
            _ => "its registry rejects it".to_owned(),
        }
    }

    /// The keys for the images that matter: those that the rule's patterns match, or all of them.
    fn keys(&self, rule: &Rule, secret: SecretId, hits: &[Hit]) -> Vec<KeyReport> {
        let Some(coverage) = self.snapshot.coverage(secret) else {
            return Vec::new();
        };
        if self.unusable(secret).is_some() {
            return Vec::new();
        }
        let report = |image: &ImageRef<'_>| {
            let key = coverage.keyring.covering_key(image).map(redacted);
            let lookup = coverage.keyring.lookup(image);
            KeyReport {
                name: image.to_string(),
                docker_hub_fallback: key.is_some() && lookup.docker_hub_fallback,
                is_empty: key.is_none() && !lookup.matched_in_order.is_empty(),
                key,
            }
        };
        let images = self.context.images.iter().enumerate();
        images
            .filter(|(index, _)| !rule.by_images || hits.iter().any(|hit| hit.1 == Some(*index)))
            .map(|(_, image)| report(image))
            .collect()
    }
}

//! Why a Pod gets the pull secrets it gets, and why not the others: every rule, every image, every
//! secret.
//!
//! For people, who wait for it; nothing here is on the path of a request. It asks [`Context`] the same
//! questions as [`decide_pod`], also about the rules that cannot matter, and puts the answers
//! into words. It must not decide anything itself.

use serde::Serialize;

use crate::credential::docker_config::redacted;
use crate::image::{DOCKER_HUB, ImageRef};
use crate::index::State;
use crate::rules::{Mode, PullSecret, RegistryPattern, Rule, RuleId, RulesConfig, SecretId};
use crate::snapshot::Snapshot;

use super::decision::{Context, Hit, Reason, RuleMiss, Verdict, Wanted, decide_pod, skip_reason};
use super::pod::{PodView, PullSecretList};

/// Everything that led to a decision. Its JSON is what `explain -o json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Namespace of the Pod.
    pub namespace: String,
    /// The Pod's images, in the order in which they are looked at.
    pub images: Vec<ImageReading>,
    /// The Pod's own `imagePullSecrets`.
    pub present: Vec<String>,
    /// All rules, in order; none where the Pod is skipped whatever the rules say.
    pub rules: Vec<RuleReport>,
    /// Names that are added.
    pub inject: Vec<String>,
    /// Names that rules in Shadow mode would add besides.
    pub shadow: Vec<String>,
    /// [`Reason::as_str`].
    pub reason: &'static str,
    /// What the user can act on, as `kubectl` shows it.
    pub warnings: Vec<String>,
    /// All of it in one sentence.
    pub conclusion: String,
}

/// An image as the kubelet reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageReading {
    /// As written.
    pub image: String,
    /// The list in the Pod's `spec` that names it.
    pub place: &'static str,
    /// What the kubelet looks credentials up by.
    pub name: Option<String>,
    /// Host with port.
    pub registry: Option<String>,
    /// What follows it, without tag and digest.
    pub repository: Option<String>,
    /// Why the kubelet will refuse it (`InvalidImageName`).
    pub error: Option<String>,
    /// What may surprise the user about it.
    pub hint: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub name: String,
    /// `Enforce` or `Shadow`.
    pub mode: &'static str,
    /// What it does for the Pod.
    pub outcome: Outcome,
    /// Why it does not apply, or why none of its patterns counts.
    pub why_not: Option<String>,
    /// The Pod's readable images beside the rule's patterns; none where it does not apply, or has no
    /// `images`.
    pub images: Vec<PatternReport>,
    /// Its pull secrets, in order; none where it does not apply.
    pub pull_secrets: Vec<SecretReport>,
}

/// What one rule does for a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Adds a pull secret.
    Adds,
    /// Would add one, if it were not in Shadow mode.
    WouldAdd,
    /// Wants one, but none can or need be added.
    AddsNothing,
    /// Wants none: no image matches.
    WantsNothing,
    /// Is not for this namespace or these labels.
    DoesNotApply,
}

/// One image beside a rule's patterns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatternReport {
    /// What the kubelet looks up.
    pub name: String,
    /// The first pattern of `images` that covers it.
    pub pattern: Option<String>,
    /// The first pattern of `excludeImages` that takes it out again.
    pub excluded_by: Option<String>,
}

/// One pull secret of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretReport {
    /// How rules call it.
    pub name: String,
    /// Name of the Secret in the Pod's namespace.
    pub secret_name: String,
    /// Why the rule wants it; `None`: it does not.
    pub wanted: Option<String>,
    /// What becomes of it, as [`Verdict::as_str`]; `None` where the rule does not want it.
    pub verdict: Option<&'static str>,
    /// The verdict in words, or why the rule does not want it.
    pub detail: String,
    /// Whether anything is known about its payload.
    pub is_known: bool,
    /// Which key covers which of the images that the rule's patterns match, or of all images if it
    /// has no `images`; none where nothing is known, or the payload is unusable.
    pub keys: Vec<KeyReport>,
}

/// One image beside the keys of a pull secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyReport {
    /// What the kubelet looks up.
    pub name: String,
    /// The key whose credential is used; user info in it is masked.
    pub key: Option<String>,
    /// No key matches, and the one of Docker Hub is used instead.
    pub docker_hub_fallback: bool,
    /// A key matches, but no credential stands beside it: the kubelet would pull without one.
    pub is_empty: bool,
}

impl SecretReport {
    /// Whether it is added, or would be in Enforce mode.
    pub fn is_added(&self) -> bool {
        matches!(self.verdict, Some("added" | "added_stale"))
    }
}

/// Explains the decision for one Pod that is about to be created.
///
/// `config` is what the snapshot's rules were compiled from: their patterns are shown as written.
pub fn explain(
    namespace: &str,
    pod: &PodView<'_>,
    snapshot: &Snapshot,
    config: &RulesConfig,
) -> Explanation {
    let decision = decide_pod(namespace, pod, snapshot);
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let mut explanation = Explanation {
        namespace: namespace.to_owned(),
        images: pod
            .images
            .iter()
            .map(|(place, image)| ImageReading::of(place.as_str(), image))
            .collect(),
        present: present(pod),
        rules: Vec::new(),
        inject: names(&decision.inject),
        shadow: names(&decision.shadow),
        reason: decision.reason.as_str(),
        warnings: decision.warnings.iter().map(|w| w.to_text()).collect(),
        conclusion: String::new(),
    };
    if skip_reason(pod).is_none() {
        explanation.rules = Asker::new(namespace, pod, snapshot).rules(config);
    }
    explanation.conclusion = explanation.conclude(decision.reason);
    explanation
}

fn present(pod: &PodView<'_>) -> Vec<String> {
    match &pod.pull_secrets {
        PullSecretList::Names(names) => names.iter().map(|name| name.to_string()).collect(),
        PullSecretList::Empty | PullSecretList::WrongType => Vec::new(),
    }
}

impl ImageReading {
    fn of(place: &'static str, image: &str) -> Self {
        let parsed = ImageRef::parse(image);
        let known = parsed.as_ref().ok();
        Self {
            image: image.to_owned(),
            place,
            name: known.map(|image| image.to_string()),
            registry: known.and_then(|image| image.registry()).map(str::to_owned),
            repository: known.map(|image| image.repository()),
            hint: known.and_then(|parsed| short_name_hint(image, parsed)),
            error: parsed.err().map(|error| error.to_string()),
        }
    }
}

/// A runtime with search registries of its own may read a short name differently from the kubelet,
/// and is then offered the credential that the kubelet chose.
fn short_name_hint(image: &str, parsed: &ImageRef<'_>) -> Option<String> {
    let is_short = parsed.host() == DOCKER_HUB
        && !["docker.io/", "index.docker.io/"]
            .iter()
            .any(|registry| image.starts_with(registry));
    is_short.then(|| {
        format!("a short name: the kubelet reads {parsed}; a runtime with search registries (CRI-O) may pull another image")
    })
}

impl Explanation {
    fn conclude(&self, reason: Reason) -> String {
        let shadow = self.shadow.join(", ");
        match reason {
            Reason::Injected => {
                let mut text = format!("added: {}", self.inject.join(", "));
                if !shadow.is_empty() {
                    text += &format!(" (rules in Shadow mode would also add {shadow})");
                }
                text
            }
            Reason::Shadowed => format!("nothing is added; rules in Shadow mode would add {shadow}"),
            Reason::NoRuleMatched => "nothing is added: no rule wants a pull secret".to_owned(),
            Reason::AlreadyPresent => {
                "nothing is added: the Pod has every pull secret that a rule wants".to_owned()
            }
            Reason::NotPermitted => format!(
                "nothing is added: namespace \"{}\" may not hold {}",
                self.namespace,
                self.names_of(&[Verdict::NotPermitted])
            ),
            Reason::Unusable => format!(
                "nothing is added: no kubelet can use {}",
                self.names_of(&[Verdict::Unusable, Verdict::UndecodableHere])
            ),
            Reason::StrictServiceAccount => "nothing is added: the ServiceAccount enforces mountable secrets, and the API server would refuse the Pod".to_owned(),
            Reason::MirrorPod => "nothing is added: a mirror Pod may not name Secrets".to_owned(),
            Reason::OptedOut => {
                "nothing is added: the Pod opts out by its annotation pullpass.dev/inject".to_owned()
            }
            Reason::UnreadablePod => {
                "nothing is added: the Pod has no spec, or its imagePullSecrets are no list".to_owned()
            }
            Reason::NotPodCreate => "nothing is added: not the creation of a Pod".to_owned(),
        }
    }
}

impl Explanation {
    /// The Secrets with one of these verdicts, each once.
    fn names_of(&self, verdicts: &[Verdict]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for secret in self.rules.iter().flat_map(|rule| &rule.pull_secrets) {
            let name = &*secret.secret_name;
            let is_one = verdicts
                .iter()
                .any(|verdict| secret.verdict == Some(verdict.as_str()));
            if is_one && !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }
}

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
struct Asker<'p, 'v, 's> {
    context: Context<'p, 'v, 's>,
    namespace: &'p str,
    snapshot: &'s Snapshot,
}

impl<'p, 'v, 's> Asker<'p, 'v, 's> {
    fn new(namespace: &'p str, pod: &'p PodView<'v>, snapshot: &'s Snapshot) -> Self {
        Self {
            context: Context::new(namespace, pod, snapshot),
            namespace,
            snapshot,
        }
    }

    fn rules(&self, config: &RulesConfig) -> Vec<RuleReport> {
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
        let adds = verdicts().any(|verdict| {
            verdict == Verdict::Inject.as_str() || verdict == Verdict::InjectStale.as_str()
        });
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
        let verdict = wanted.is_some().then(|| self.context.verdict(secret));
        let keys = self.keys(rule, secret, hits);
        Some(SecretReport {
            name: entry.name.to_string(),
            secret_name: entry.secret_name.to_string(),
            detail: match verdict {
                Some(verdict) => self.judged(rule.mode, entry, secret, verdict),
                None => self.unwanted(id, rule, secret, &keys),
            },
            wanted: wanted.map(|wanted| self.wish(id, &wanted)),
            verdict: verdict.map(Verdict::as_str),
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
            State::Usable | State::Stale => None,
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

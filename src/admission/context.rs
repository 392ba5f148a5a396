//! One Pod beside one snapshot: the questions that a decision asks.
//!
//! `decide_pod` asks them for the rules that can matter, `explain` for all of them, so that what is said
//! is what is done. This module must not collect answers: that is [`super::decision`].

use std::cell::OnceCell;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::image::ImageRef;
use crate::index::State;
use crate::rules::namespace::NamespaceRefusal;
use crate::rules::ruleset::RuleIds;
use crate::rules::selector::Requirement;
use crate::rules::{NamespaceMatcher, PullSecret, Rule, RuleId, SecretId};
use crate::snapshot::{NamespaceLabels, Snapshot};

use super::pod::PodView;
/// Position of an image in [`Context::images`].
pub type ImageIndex = usize;

/// A rule to look at, and an image that its patterns match.
pub type Hit = (RuleId, Option<ImageIndex>);

/// One Pod beside one snapshot, with the images parsed once. `explain` asks it rule by rule what
/// `decide_pod` asks for the rules that can matter.
#[derive(Debug)]
pub struct Context<'p, 'v, 's> {
    namespace: &'p str,
    pod: &'p PodView<'v>,
    pub(super) snapshot: &'s Snapshot,
    /// The Pod's images that parse, in order.
    pub images: SmallVec<[ImageRef<'p>; 8]>,
    /// Image references that the kubelet will refuse.
    pub(super) images_unparsable: u32,
    /// Looked up once, and only if a selector asks: hundreds of rules may.
    labels: OnceCell<Option<&'s BTreeMap<String, String>>>,
}

/// Why a rule does not apply to a Pod, whatever its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMiss<'s> {
    /// Name or labels of the namespace are not let through.
    Namespace(NamespaceRefusal<'s>),
    /// The Pod's labels do not meet this requirement.
    PodLabels(&'s Requirement),
}

/// Why a rule wants a secret for a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted<'s> {
    /// An image matches the rule's patterns.
    Image(ImageIndex),
    /// A key of the secret covers an image, as the kubelet decides.
    Key(ImageIndex, &'s str),
    /// The rule says `always`.
    Always,
}

/// What becomes of one wanted secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Added.
    Inject,
    /// Added, though its source is gone.
    InjectStale,
    /// Added, though its registry rejects it.
    InjectRejected,
    /// In the Pod's list.
    AlreadyPresent,
    /// The namespace may not hold it.
    NotPermitted,
    /// Its payload never decoded.
    Unusable,
    /// Its registry rejects it, and the rules say to leave it out then.
    Rejected,
    /// A Secret of that name in this namespace, not ours, does not decode.
    UndecodableHere,
}

impl Verdict {
    /// Those by which the secret is added.
    pub const INJECTED: [Self; 3] = [Self::Inject, Self::InjectStale, Self::InjectRejected];

    /// Whether the secret is added.
    pub fn is_injected(self) -> bool {
        Self::INJECTED.contains(&self)
    }

    /// For machines, in `explain -o json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "added",
            Self::InjectStale => "added_stale",
            Self::InjectRejected => "added_rejected",
            Self::AlreadyPresent => "already_present",
            Self::NotPermitted => "not_permitted",
            Self::Unusable => "unusable",
            Self::Rejected => "rejected",
            Self::UndecodableHere => "undecodable_here",
        }
    }
}

impl<'p, 'v, 's> Context<'p, 'v, 's> {
    /// Parses the Pod's images.
    pub fn new(namespace: &'p str, pod: &'p PodView<'v>, snapshot: &'s Snapshot) -> Self {
        let mut images = SmallVec::new();
        let mut images_unparsable = 0;
        for (_, image) in &pod.images {
            match ImageRef::parse(image) {
                Ok(image) => images.push(image),
                Err(_) => images_unparsable += 1,
            }
        }
        Self {
            namespace,
            pod,
            snapshot,
            images,
            images_unparsable,
            labels: OnceCell::new(),
        }
    }

    /// The rules that can want something, in order, each with the images that its patterns match;
    /// `None` stands for a rule that is looked at whatever the images are.
    pub fn hits(&self) -> SmallVec<[Hit; 16]> {
        let ruleset = self.snapshot.ruleset();
        let mut hits: SmallVec<[Hit; 16]> = ruleset
            .unconditional()
            .iter()
            .map(|&id| (id, None))
            .collect();
        let mut matched = RuleIds::new();
        for (index, image) in self.images.iter().enumerate() {
            matched.clear();
            ruleset.match_image(image, &mut matched);
            hits.extend(matched.iter().map(|&id| (id, Some(index))));
        }
        hits.sort_unstable();
        hits.dedup();
        hits
    }

    /// Whether the rule applies to the Pod, its images left aside.
    ///
    /// # Errors
    /// The first of namespace name, namespace labels and Pod labels that does not match.
    pub fn applies(&self, rule: &'s Rule) -> Result<(), RuleMiss<'s>> {
        if let Some(refusal) = self.namespace_refusal(&rule.namespaces) {
            return Err(RuleMiss::Namespace(refusal));
        }
        match self.pod_labels_unmet(rule) {
            Some(unmet) => Err(RuleMiss::PodLabels(unmet)),
            None => Ok(()),
        }
    }

    fn pod_labels_unmet(&self, rule: &'s Rule) -> Option<&'s Requirement> {
        rule.pod_selector.as_ref()?.unmet(&self.pod.labels)
    }

    /// Whether a rule that does not apply for want of the namespace's labels might add something with
    /// them. `hits` are the rule's own.
    pub(super) fn may_add(&self, id: RuleId, rule: &'s Rule, hits: &[Hit]) -> bool {
        let secrets = self.snapshot.ruleset().pull_secrets();
        self.pod_labels_unmet(rule).is_none()
            && rule.secrets.iter().any(|&secret| {
                let entry = secrets.get(secret.0 as usize);
                entry.is_some_and(|entry| {
                    let verdict = self.verdict(secret, entry);
                    (verdict.is_injected() || self.lacks_labels(verdict, entry))
                        && self.wants(id, rule, secret, hits).is_some()
                })
            })
    }

    /// Whether the secret was refused for want of the namespace's labels.
    pub(super) fn lacks_labels(&self, verdict: Verdict, entry: &'s PullSecret) -> bool {
        verdict == Verdict::NotPermitted
            && self.refusal(entry) == Some(NamespaceRefusal::LabelsUnknown)
    }

    /// Whether, and why, the rule wants this secret for the Pod. `hits` are the rule's own.
    pub fn wants(
        &self,
        id: RuleId,
        rule: &Rule,
        secret: SecretId,
        hits: &[Hit],
    ) -> Option<Wanted<'s>> {
        if rule.by_images {
            let matched = hits.iter().find_map(|(_, image)| *image).map(Wanted::Image);
            return matched.or_else(|| rule.always.then_some(Wanted::Always));
        }
        self.covered_image(id, secret)
            .map(|(image, key)| Wanted::Key(image, key))
            .or_else(|| rule.always.then_some(Wanted::Always))
    }

    /// The first image, not excluded by the rule, that a usable key of the secret covers.
    fn covered_image(&self, id: RuleId, secret: SecretId) -> Option<(ImageIndex, &'s str)> {
        let keyring = &self.snapshot.coverage(secret)?.keyring;
        self.images.iter().enumerate().find_map(|(index, image)| {
            let key = keyring.covering_key(image)?;
            (!self.snapshot.ruleset().is_excluded(id, image)).then_some((index, key))
        })
    }

    /// Judges one wanted secret; `entry` is the secret's own.
    pub fn verdict(&self, secret: SecretId, entry: &'s PullSecret) -> Verdict {
        if self.pod.pull_secrets.contains(&entry.secret_name) {
            return Verdict::AlreadyPresent;
        }
        if self.refusal(entry).is_some() {
            return Verdict::NotPermitted;
        }
        // Unknown: only an `images` rule or `always` can have wanted it, and they stand without us
        // knowing the payload.
        let Some(coverage) = self.snapshot.coverage(secret) else {
            return Verdict::Inject;
        };
        if coverage.undecodable_in.contains(self.namespace) {
            return Verdict::UndecodableHere;
        }
        match coverage.state {
            State::Usable => Verdict::Inject,
            State::Stale => Verdict::InjectStale,
            State::Rejected { .. } if entry.skips_rejected => Verdict::Rejected,
            State::Rejected { .. } => Verdict::InjectRejected,
            State::Unusable { .. } => Verdict::Unusable,
        }
    }

    /// The first image that the rule's patterns matched and that no key of any of its secrets covers,
    /// as far as all of them are known.
    pub(super) fn image_without_key(
        &self,
        rule: &Rule,
        secret: SecretId,
        hits: &[Hit],
    ) -> Option<&ImageRef<'p>> {
        if !rule.by_images || self.snapshot.coverage(secret).is_none() {
            return None;
        }
        let covers = |secret: &SecretId, image| {
            // An unknown secret may cover anything.
            self.snapshot
                .coverage(*secret)
                .is_none_or(|c| c.keyring.covering_key(image).is_some())
        };
        hits.iter()
            .filter_map(|(_, image)| self.images.get((*image)?))
            .find(|image| !rule.secrets.iter().any(|secret| covers(secret, image)))
    }

    /// Why the namespace may not hold a pull secret; `None` where it may.
    pub fn refusal(&self, entry: &'s PullSecret) -> Option<NamespaceRefusal<'s>> {
        self.namespace_refusal(&entry.namespaces)
    }

    fn namespace_refusal(&self, matcher: &'s NamespaceMatcher) -> Option<NamespaceRefusal<'s>> {
        let labels = matcher.selector().and_then(|_| {
            let look_up = || self.snapshot.namespaces().labels(self.namespace);
            let labels = (*self.labels.get_or_init(look_up))?;
            let namespace = self.namespace;
            Some(NamespaceLabels { namespace, labels })
        });
        matcher.refusal(self.namespace, labels.as_ref())
    }

    pub(super) fn service_account_is_strict(&self) -> bool {
        self.snapshot
            .index()
            .is_strict(self.namespace, self.pod.service_account())
    }
}

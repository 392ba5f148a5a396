//! What a request matches against: the compiled rules.

use smallvec::SmallVec;

use crate::image::ImageRef;

use super::config::{Deliver, Mode, RulesConfig};
use super::selector::{LabelSelector, Labels};

/// Position of a rule in the rules text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// Position of a pull secret in the rules text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId(pub u32);

/// Rules that one image or one Pod matches; inline up to 16.
pub type RuleIds = SmallVec<[RuleId; 16]>;

/// The compiled rules; immutable.
#[derive(Debug, Default)]
pub struct Ruleset {}

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
    /// Its pull secrets, in order.
    pub secrets: Box<[SecretId]>,
    /// Also when no image matches.
    pub always: bool,
    /// Enforce or Shadow.
    pub mode: Mode,
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
}

/// Compiled globs and labels that choose namespaces.
#[derive(Debug)]
pub struct NamespaceMatcher {}

impl NamespaceMatcher {
    /// Whether the globs let `namespace` through; the selector is not asked.
    pub fn matches_name(&self, _namespace: &str) -> bool {
        todo!()
    }

    /// The selector on the namespace's labels, if there is one.
    pub fn selector(&self) -> Option<&LabelSelector> {
        todo!()
    }

    /// Whether globs and selector let the namespace through. `labels` is only asked for when a
    /// selector needs it; unknown labels (`None`) match no selector.
    pub fn matches<L: Labels>(&self, namespace: &str, labels: Option<&L>) -> bool {
        self.matches_name(namespace)
            && self
                .selector()
                .is_none_or(|selector| labels.is_some_and(|labels| selector.matches(labels)))
    }
}

impl Ruleset {
    /// Compiles a valid config. Cannot fail: everything that can is checked by [`super::load`].
    pub fn compile(_config: &RulesConfig) -> Self {
        todo!()
    }

    /// All rules, in order; indexed by [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        todo!()
    }

    /// All pull secrets, in order; indexed by [`SecretId`].
    pub fn pull_secrets(&self) -> &[PullSecret] {
        todo!()
    }

    /// The rules to look at for every Pod whatever its images: those without `images`, and those
    /// with `always`. In order.
    pub fn unconditional(&self) -> &[RuleId] {
        todo!()
    }

    /// Adds to `matched` every rule with `images` for which this image is in `images` and not in
    /// `excludeImages`. Neither sorted nor deduplicated across calls; no allocation while it fits inline.
    pub fn match_image(&self, _image: &ImageRef<'_>, _matched: &mut RuleIds) {
        todo!()
    }

    /// Whether `image` is taken out by the rule's `excludeImages`. For rules without `images` too.
    pub fn is_excluded(&self, _rule: RuleId, _image: &ImageRef<'_>) -> bool {
        todo!()
    }
}

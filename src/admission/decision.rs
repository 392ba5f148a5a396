//! Which pull secrets a Pod gets, and why not.
//!
//! The order, which the code follows:
//! 1. [`skip_reason`]: no mirror Pods, no opted-out ones. (Only CREATE of Pods gets here.)
//! 2. Images that parse; the others are the kubelet's to refuse.
//! 3. Rules in order: namespace, Pod labels, then images ([`Context::applies`], [`Context::wants`]).
//! 4. Secrets in rule order, each judged alone ([`Context::verdict`]).
//! 5. A strict ServiceAccount takes everything back.
//!
//! The same input gives the same decision, and a Pod that got its secrets gets no more. This module
//! must not write JSON.

use std::fmt;

use smallvec::SmallVec;

use crate::image::ImageRef;
use crate::index::State;
use crate::rules::namespace::NamespaceRefusal;
use crate::rules::ruleset::RuleIds;
use crate::rules::selector::Requirement;
use crate::rules::{Mode, PullSecret, Rule, RuleId, SecretId};
use crate::snapshot::{NamespaceLabels, Snapshot};

use super::pod::{PodView, PullSecretList};

/// What happens to one Pod.
#[derive(Debug)]
pub struct Decision<'s> {
    /// Why, as counted.
    pub reason: Reason,
    /// Names to add to `spec.imagePullSecrets`, in rule order, none of them there already.
    pub inject: SmallVec<[&'s str; 8]>,
    /// Names that rules in Shadow mode would have added besides.
    pub shadow: SmallVec<[&'s str; 8]>,
    /// Rules that added a name to either list, in order.
    pub rules: SmallVec<[(RuleId, Mode); 8]>,
    /// What the user can act on; nothing about rules in Shadow mode, which users should not notice.
    pub warnings: Vec<Warning<'s>>,
    /// The Pod has no list yet, so the patch makes one.
    pub list_is_empty: bool,
    /// Image references that the kubelet will refuse as `InvalidImageName`.
    pub images_unparsable: u32,
}

/// Why a review was answered as it was: label `reason` of `pullpass_admission_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Pull secrets were added.
    Injected,
    /// Only rules in Shadow mode would have added any.
    Shadowed,
    /// No rule wants a secret for this Pod.
    NoRuleMatched,
    /// Every wanted secret is in the Pod's list.
    AlreadyPresent,
    /// Wanted, but the namespace may not hold it.
    NotPermitted,
    /// Wanted, but the kubelet could not decode it and would fail every image.
    Unusable,
    /// The ServiceAccount is strict: the API server would refuse the patched Pod.
    StrictServiceAccount,
    /// A mirror Pod: the API server would refuse the patched Pod.
    MirrorPod,
    /// Annotation `pullpass.dev/inject: "false"`.
    OptedOut,
    /// Not a CREATE of `pods`.
    NotPodCreate,
    /// No `spec`, or an `imagePullSecrets` that is no list.
    UnreadablePod,
}

impl Reason {
    /// Every value, so that each series exists from the start.
    pub const ALL: &'static [Self] = &[
        Self::Injected,
        Self::Shadowed,
        Self::NoRuleMatched,
        Self::AlreadyPresent,
        Self::NotPermitted,
        Self::Unusable,
        Self::StrictServiceAccount,
        Self::MirrorPod,
        Self::OptedOut,
        Self::NotPodCreate,
        Self::UnreadablePod,
    ];

    /// Label value `outcome`: `patched`, or `unchanged`.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Injected => "patched",
            _ => "unchanged",
        }
    }

    /// Label value `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Shadowed => "shadowed",
            Self::NoRuleMatched => "no_rule_matched",
            Self::AlreadyPresent => "already_present",
            Self::NotPermitted => "not_permitted",
            Self::Unusable => "unusable",
            Self::StrictServiceAccount => "strict_service_account",
            Self::MirrorPod => "mirror_pod",
            Self::OptedOut => "opted_out",
            Self::NotPodCreate => "not_pod_create",
            Self::UnreadablePod => "unreadable_pod",
        }
    }
}

/// Something the user can act on, shown by `kubectl`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning<'s> {
    /// Not injected: its payload does not decode.
    Unusable(&'s str),
    /// Not injected: a Secret of that name in this namespace, not ours, does not decode.
    UndecodableHere(&'s str),
    /// Injected, but its source is gone.
    Stale(&'s str),
    /// Not injected: the namespace may not hold it.
    NotPermitted(&'s str),
    /// Injected by an `images` rule, but no key of the rule's secrets covers this image.
    NoKey {
        /// Name of the Secret.
        secret: &'s str,
        /// What the kubelet looks up.
        image: String,
    },
    /// Not injected: the ServiceAccount only allows the secrets it lists.
    StrictServiceAccount,
}

impl Warning<'_> {
    /// Longest text, in characters: what the API conventions advise for one warning.
    pub const CHARACTERS_MAX: usize = 120;

    /// The text, cut to [`Self::CHARACTERS_MAX`].
    pub fn to_text(&self) -> String {
        let text = format!("pullpass: {self}");
        if text.chars().count() > Self::CHARACTERS_MAX {
            return text
                .chars()
                .take(Self::CHARACTERS_MAX - 1)
                .chain(['…'])
                .collect();
        }
        text
    }
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(name) => {
                write!(f, "pull secret \"{name}\" not added: its source cannot be decoded")
            }
            Self::UndecodableHere(name) => {
                write!(f, "pull secret \"{name}\" not added: the Secret in this namespace is broken")
            }
            Self::Stale(name) => {
                write!(f, "pull secret \"{name}\" is stale: its source is gone")
            }
            Self::NotPermitted(name) => {
                write!(f, "pull secret \"{name}\" not added: not permitted in this namespace")
            }
            Self::NoKey { secret, image } => {
                write!(f, "pull secret \"{secret}\" has no key for {image}")
            }
            Self::StrictServiceAccount => f.write_str(
                "no pull secret added: the ServiceAccount enforces mountable secrets; list it there",
            ),
        }
    }
}

/// Whether the Pod may not be patched at all; this is where Pods are skipped.
pub fn skip_reason(pod: &PodView<'_>) -> Option<Reason> {
    if pod.is_mirror {
        Some(Reason::MirrorPod)
    } else if pod.opted_out {
        Some(Reason::OptedOut)
    } else if !pod.has_spec || pod.pull_secrets == PullSecretList::WrongType {
        Some(Reason::UnreadablePod)
    } else {
        None
    }
}

/// Decides for one Pod that is about to be created.
pub fn decide_pod<'s>(namespace: &str, pod: &PodView<'_>, snapshot: &'s Snapshot) -> Decision<'s> {
    if let Some(reason) = skip_reason(pod) {
        return Decision::unchanged(reason);
    }
    let context = Context::new(namespace, pod, snapshot);
    let mut decision = Decision::unchanged(Reason::NoRuleMatched);
    decision.list_is_empty = pod.pull_secrets == PullSecretList::Empty;
    decision.images_unparsable = context.images_unparsable;
    for hits in context.hits().chunk_by(|a, b| a.0 == b.0) {
        let Some(&(id, _)) = hits.first() else {
            continue;
        };
        let Some(rule) = snapshot.ruleset().rules().get(id.0 as usize) else {
            continue;
        };
        if context.applies(rule).is_ok() {
            decision.collect(&context, id, rule, hits);
        }
    }
    decision.finish(&context)
}

impl<'s> Decision<'s> {
    /// Nothing is added, for `reason`.
    pub(super) fn unchanged(reason: Reason) -> Self {
        Self {
            reason,
            inject: SmallVec::new(),
            shadow: SmallVec::new(),
            rules: SmallVec::new(),
            warnings: Vec::new(),
            list_is_empty: true,
            images_unparsable: 0,
        }
    }

    /// Adds the secrets of one rule that applies.
    fn collect(&mut self, context: &Context<'_, '_, 's>, id: RuleId, rule: &'s Rule, hits: &[Hit]) {
        let mut added = false;
        for &secret in &rule.secrets {
            if context.wants(id, rule, secret, hits).is_none() {
                continue;
            }
            let Some(entry) = context
                .snapshot
                .ruleset()
                .pull_secrets()
                .get(secret.0 as usize)
            else {
                continue;
            };
            let name = &*entry.secret_name;
            let verdict = context.verdict(secret);
            let may_warn = rule.mode == Mode::Enforce;
            if let Some(warning) = verdict.warning(name).filter(|_| may_warn) {
                self.warn(warning);
            }
            if !verdict.is_injected() {
                self.note_dropped(verdict);
                continue;
            }
            let names = match rule.mode {
                Mode::Enforce => &mut self.inject,
                Mode::Shadow => &mut self.shadow,
            };
            if !names.contains(&name) {
                names.push(name);
                added = true;
            }
            if let Some(image) = context.image_without_key(rule, secret, hits)
                && may_warn
            {
                self.warn(Warning::NoKey {
                    secret: name,
                    image: image.to_string(),
                });
            }
        }
        if added {
            self.rules.push((id, rule.mode));
        }
    }

    fn warn(&mut self, warning: Warning<'s>) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Keeps the reason that is nearest to an injection.
    fn note_dropped(&mut self, verdict: Verdict) {
        let reason = match verdict {
            Verdict::AlreadyPresent => Reason::AlreadyPresent,
            Verdict::NotPermitted if self.reason == Reason::NoRuleMatched => Reason::NotPermitted,
            Verdict::Unusable | Verdict::UndecodableHere
                if self.reason != Reason::AlreadyPresent =>
            {
                Reason::Unusable
            }
            _ => self.reason,
        };
        self.reason = reason;
    }

    fn finish(mut self, context: &Context<'_, '_, 's>) -> Self {
        let Self {
            inject,
            shadow,
            rules,
            warnings,
            ..
        } = &mut self;
        shadow.retain(|name| !inject.contains(name));
        // Two entries may share a Secret's name, each for its own namespaces: the other's refusal
        // is no news where one of them is permitted.
        warnings.retain(
            |warning| !matches!(warning, Warning::NotPermitted(name) if inject.contains(name)),
        );
        if !inject.is_empty() && context.service_account_is_strict() {
            inject.clear();
            shadow.clear();
            rules.clear();
            *warnings = vec![Warning::StrictServiceAccount];
            self.reason = Reason::StrictServiceAccount;
        } else if !inject.is_empty() {
            self.reason = Reason::Injected;
        } else if !shadow.is_empty() {
            self.reason = Reason::Shadowed;
        }
        self
    }
}

/// Position of an image in [`Context::images`].
pub type ImageIndex = usize;

/// A rule to look at, and an image that its patterns match.
pub type Hit = (RuleId, Option<ImageIndex>);

/// One Pod beside one snapshot, with the images parsed once. `explain` asks it rule by rule what
/// [`decide_pod`] asks for the rules that can matter.
#[derive(Debug)]
pub struct Context<'p, 'v, 's> {
    namespace: &'p str,
    pod: &'p PodView<'v>,
    snapshot: &'s Snapshot,
    /// The Pod's images that parse, in order.
    pub images: SmallVec<[ImageRef<'p>; 8]>,
    images_unparsable: u32,
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
    /// In the Pod's list.
    AlreadyPresent,
    /// The namespace may not hold it.
    NotPermitted,
    /// Its payload never decoded.
    Unusable,
    /// A Secret of that name in this namespace, not ours, does not decode.
    UndecodableHere,
}

impl Verdict {
    /// Whether the secret is added.
    pub fn is_injected(self) -> bool {
        matches!(self, Self::Inject | Self::InjectStale)
    }

    /// For machines, in `explain -o json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "added",
            Self::InjectStale => "added_stale",
            Self::AlreadyPresent => "already_present",
            Self::NotPermitted => "not_permitted",
            Self::Unusable => "unusable",
            Self::UndecodableHere => "undecodable_here",
        }
    }

    fn warning(self, name: &str) -> Option<Warning<'_>> {
        match self {
            Self::Inject | Self::AlreadyPresent => None,
            Self::InjectStale => Some(Warning::Stale(name)),
            Self::NotPermitted => Some(Warning::NotPermitted(name)),
            Self::Unusable => Some(Warning::Unusable(name)),
            Self::UndecodableHere => Some(Warning::UndecodableHere(name)),
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
        if let Some(refusal) = rule
            .namespaces
            .refusal(self.namespace, self.labels().as_ref())
        {
            return Err(RuleMiss::Namespace(refusal));
        }
        let selector = rule.pod_selector.as_ref();
        match selector.and_then(|selector| selector.unmet(&self.pod.labels)) {
            Some(unmet) => Err(RuleMiss::PodLabels(unmet)),
            None => Ok(()),
        }
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

    /// Judges one wanted secret.
    pub fn verdict(&self, secret: SecretId) -> Verdict {
        let Some(entry) = self
            .snapshot
            .ruleset()
            .pull_secrets()
            .get(secret.0 as usize)
        else {
            return Verdict::NotPermitted;
        };
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
            State::Unusable { .. } => Verdict::Unusable,
        }
    }

    /// The first image that the rule's patterns matched and that no key of any of its secrets covers,
    /// as far as all of them are known.
    fn image_without_key(
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
        entry
            .namespaces
            .refusal(self.namespace, self.labels().as_ref())
    }

    fn labels(&self) -> Option<NamespaceLabels<'_>> {
        self.snapshot.namespaces().labels(self.namespace)
    }

    fn service_account_is_strict(&self) -> bool {
        self.snapshot
            .index()
            .is_strict(self.namespace, self.pod.service_account())
    }
}

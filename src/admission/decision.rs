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

use crate::rules::namespace::NamespaceRefusal;
use crate::rules::{Mode, Rule, RuleId};
use crate::snapshot::Snapshot;

use super::context::{Context, Hit, RuleMiss, Verdict};
use super::pod::{PodView, PullSecretList};

/// Most images of a Pod that is looked at. etcd stores 1.5 MiB, and a container with the fields that the
/// API server fills in is larger than 300 bytes; beyond, images times rules is work for an attacker.
pub const IMAGES_MAX: usize = 5_000;

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
    /// More might have been added if the labels of the namespace were known: it counts as no match, but
    /// who can wait for them may ask again.
    pub lacks_labels: bool,
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
    /// Wanted, but its registry rejects it, and the rules say to leave it out then.
    Rejected,
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
    /// More than [`IMAGES_MAX`] images: nobody's Pod.
    TooManyImages,
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
        Self::Rejected,
        Self::StrictServiceAccount,
        Self::MirrorPod,
        Self::OptedOut,
        Self::NotPodCreate,
        Self::UnreadablePod,
        Self::TooManyImages,
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
            Self::Rejected => "rejected",
            Self::StrictServiceAccount => "strict_service_account",
            Self::MirrorPod => "mirror_pod",
            Self::OptedOut => "opted_out",
            Self::NotPodCreate => "not_pod_create",
            Self::UnreadablePod => "unreadable_pod",
            Self::TooManyImages => "too_many_images",
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
    /// Not injected: its registry rejects it.
    Rejected(&'s str),
    /// Injected, but its registry rejects it.
    InjectRejected(&'s str),
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

impl<'s> Warning<'s> {
    /// Longest text, in characters: what the API conventions advise for one warning.
    pub const CHARACTERS_MAX: usize = 120;

    /// Every value of [`Self::kind`], so that each series exists from the start.
    pub const KINDS: [&'static str; 8] = [
        "unusable",
        "undecodable_here",
        "stale",
        "rejected",
        "inject_rejected",
        "not_permitted",
        "no_key",
        "strict_service_account",
    ];

    /// Label value `kind` of `pullpass_admission_warnings_total`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unusable(_) => "unusable",
            Self::UndecodableHere(_) => "undecodable_here",
            Self::Stale(_) => "stale",
            Self::Rejected(_) => "rejected",
            Self::InjectRejected(_) => "inject_rejected",
            Self::NotPermitted(_) => "not_permitted",
            Self::NoKey { .. } => "no_key",
            Self::StrictServiceAccount => "strict_service_account",
        }
    }

    /// What the user can do about a verdict on the Secret `name`, if anything.
    fn of(verdict: Verdict, name: &'s str) -> Option<Self> {
        match verdict {
            Verdict::Inject | Verdict::AlreadyPresent => None,
            Verdict::InjectStale => Some(Self::Stale(name)),
            Verdict::InjectRejected => Some(Self::InjectRejected(name)),
            Verdict::Rejected => Some(Self::Rejected(name)),
            Verdict::NotPermitted => Some(Self::NotPermitted(name)),
            Verdict::Unusable => Some(Self::Unusable(name)),
            Verdict::UndecodableHere => Some(Self::UndecodableHere(name)),
        }
    }

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
            Self::Rejected(name) => {
                write!(f, "pull secret \"{name}\" not added: its registry rejects it")
            }
            Self::InjectRejected(name) => {
                write!(f, "pull secret \"{name}\" is rejected by its registry: images may not pull")
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
    } else if pod.images.len() > IMAGES_MAX {
        Some(Reason::TooManyImages)
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
        match context.applies(rule) {
            Ok(()) => decision.collect(&context, id, rule, hits),
            Err(RuleMiss::Namespace(NamespaceRefusal::LabelsUnknown)) => {
                decision.lacks_labels |= context.may_add(id, rule, hits);
            }
            Err(_) => {}
        }
    }
    decision.finish(&context)
}

impl<'s> Decision<'s> {
    /// Nothing is added, for `reason`.
    pub(crate) fn unchanged(reason: Reason) -> Self {
        Self {
            reason,
            inject: SmallVec::new(),
            shadow: SmallVec::new(),
            rules: SmallVec::new(),
            warnings: Vec::new(),
            list_is_empty: true,
            images_unparsable: 0,
            lacks_labels: false,
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
            let verdict = context.verdict(secret, entry);
            let may_warn = rule.mode == Mode::Enforce;
            if let Some(warning) = Warning::of(verdict, name).filter(|_| may_warn) {
                self.warn(warning);
            }
            if !verdict.is_injected() {
                self.note_dropped(verdict);
                self.lacks_labels |= context.lacks_labels(verdict, entry);
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
            if may_warn && let Some(image) = context.image_without_key(rule, secret, hits) {
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
            Verdict::Rejected
                if matches!(self.reason, Reason::NoRuleMatched | Reason::NotPermitted) =>
            {
                Reason::Rejected
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

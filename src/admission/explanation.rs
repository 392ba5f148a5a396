//! Why a Pod gets the pull secrets it gets, and why not the others: every rule, every image, every
//! secret.
//!
//! For people, who wait for it; nothing here is on the path of a request. It asks
//! [`Context`](super::context::Context) the same questions as [`decide_pod`], also about the rules that
//! cannot matter, and puts the answers into words. It must not decide anything itself.

mod asker;

use serde::Serialize;

use crate::image::{DOCKER_HUB, ImageRef};
use crate::rules::RulesConfig;
use crate::snapshot::Snapshot;

use super::context::Verdict;
use super::decision::{IMAGES_MAX, Reason, decide_pod, skip_reason};
use super::pod::{PodView, PullSecretList};
use asker::Asker;

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
    /// The rule goes by its keys, but it cannot be decoded. Not in the JSON: `detail` says why.
    #[serde(skip)]
    pub is_unread: bool,
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
        let added = Verdict::INJECTED.map(Verdict::as_str);
        self.verdict.is_some_and(|verdict| added.contains(&verdict))
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
            Reason::NoRuleMatched => match &*self.unread_secrets() {
                [] => "nothing is added: no rule wants a pull secret".to_owned(),
                [name] => format!(
                    "nothing is added: `{name}` cannot be decoded, so nobody knows what it covers"
                ),
                names => format!(
                    "nothing is added: `{}` cannot be decoded, so nobody knows what they cover",
                    names.join("`, `")
                ),
            },
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
            Reason::Rejected => format!(
                "nothing is added: the registry rejects {}",
                self.names_of(&[Verdict::Rejected])
            ),
            Reason::StrictServiceAccount => "nothing is added: the ServiceAccount enforces mountable secrets, and the API server would refuse the Pod".to_owned(),
            Reason::MirrorPod => "nothing is added: a mirror Pod may not name Secrets".to_owned(),
            Reason::OptedOut => {
                "nothing is added: the Pod opts out by its annotation pullpass.dev/inject".to_owned()
            }
            Reason::TooManyImages => {
                format!("nothing is added: the Pod names more than {IMAGES_MAX} images")
            }
            Reason::UnreadablePod => {
                "nothing is added: the Pod has no spec, or its imagePullSecrets are no list".to_owned()
            }
            Reason::NotPodCreate => "nothing is added: not the creation of a Pod".to_owned(),
        }
    }
}

impl Explanation {
    /// The same where the namespace opts out: the API server does not ask the webhook about its Pods,
    /// so nothing that the rules say matters.
    #[must_use]
    pub fn of_opted_out_namespace(self) -> Self {
        let conclusion = format!(
            "nothing is added: namespace \"{}\" opts out by its label pullpass.dev/inject",
            self.namespace
        );
        Self {
            rules: Vec::new(),
            inject: Vec::new(),
            shadow: Vec::new(),
            reason: Reason::OptedOut.as_str(),
            warnings: Vec::new(),
            conclusion,
            ..self
        }
    }

    /// The Secrets that a rule would go by, if they could be decoded, each once; none where a rule
    /// wants another.
    pub fn unread_secrets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        if self.reason != Reason::NoRuleMatched.as_str() {
            return names;
        }
        for secret in self.rules.iter().flat_map(|rule| &rule.pull_secrets) {
            if secret.is_unread && !names.contains(&&*secret.secret_name) {
                names.push(&secret.secret_name);
            }
        }
        names
    }

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

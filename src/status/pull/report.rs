//! From what was found of a Pod to what is said of it: each image with the login that the kubelet has for it,
//! and why it is not there; each pull secret; every rule. Its JSON is what `explain pod/NAME -o json` prints.
//! This file must not ask.

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::fetch::{PodFacts, PullSecret};
use crate::admission::PodView;
use crate::admission::explanation::{Explanation, explain};
use crate::credential::Keyring;
use crate::credential::docker_config::redacted;
use crate::delivery::CopyState;
use crate::image::ImageRef;
use crate::installation::Looked;
use crate::recovery::failure::Failure;
use crate::recovery::images::{ImageState, PodImage, images};
use crate::recovery::pods::{Owner, pull_secrets};
use crate::rules::SecretId;
use crate::rules::config::PullSecretConfig;
use crate::snapshot::Snapshot;
use crate::status::facts::{Facts, Unseen};

/// Everything that is said of one Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was created, RFC 3339.
    pub created: Option<Timestamp>,
    /// Where it runs; `None` before it is scheduled.
    pub node: Option<String>,
    /// What makes it anew, as `deployment/web`; `None`: nobody.
    pub owner: Option<String>,
    /// Its ServiceAccount.
    pub service_account: Option<String>,
    /// Every image.
    pub images: Vec<ImageReport>,
    /// The Secrets of its list, then those that it would get if it were created now.
    pub pull_secrets: Vec<PodSecretReport>,
    /// Whether the API server sends Pods like it to the webhook; `None` if the rules could not be read.
    pub is_sent: Option<bool>,
    /// What would be decided if it were created now, with the list that it has.
    pub decision: Option<Explanation>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
    /// All of it in one sentence.
    pub conclusion: String,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageReport {
    /// What the kubelet says.
    #[serde(flatten)]
    pub image: PodImage,
    /// The logins that the kubelet has for it, as far as they could be seen, in its order.
    pub logins: Vec<Login>,
    /// What the words mean.
    pub failure: Option<Failure>,
    /// Why, with what is known of the Pod.
    pub cause: Option<Cause>,
    /// The same for people.
    pub says: Option<String>,
    /// What helps.
    pub fix: Option<String>,
}

/// A key of a pull secret that covers an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Name of the Secret.
    pub secret: String,
    /// Its key; user info in it is masked.
    pub key: String,
}

/// Why an image is not there, with what is known of the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Created now, the Pod would get a pull secret that covers the image.
    OlderThanRule,
    /// A pull secret that it names, or would get, is not in its namespace.
    SecretMissing,
    /// A pull secret that it names does not decode.
    SecretUndecodable,
    /// Nothing that it names covers the image, and no rule adds anything that does.
    NoLogin,
    /// It may have a login: its pull secrets could not be seen.
    LoginUnseen,
    /// The registry refuses the login: it is wrong, or over.
    LoginRefused,
    /// The login is good, and may not read the repository.
    LoginNotPermitted,
    /// The login's own limit is used up.
    LoginLimited,
    /// No login helps.
    Other,
}

/// One pull secret of the Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodSecretReport {
    /// Name of the Secret.
    pub name: String,
    /// Whether the Pod names it; otherwise it would get it if it were created now.
    pub is_listed: bool,
    /// The entry of `pullSecrets` that it is a copy for.
    pub entry: Option<String>,
    /// How it is.
    pub state: PodSecretState,
    /// Why no kubelet can use it.
    pub unusable: Option<String>,
}

/// How a pull secret is in the Pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PodSecretState {
    /// There.
    Present,
    /// A copy of pullpass that has what its source has.
    Current,
    /// Not there.
    Missing,
    /// Somebody else's Secret with the name of a copy.
    Foreign,
    /// A copy with another content than its source.
    Stale,
    /// It could not be looked at.
    Unseen,
}

/// What there is to say.
pub fn report(facts: &PodFacts) -> PullReport {
    let text = |pointer: &str| facts.object.pointer(pointer).and_then(Value::as_str);
    let asked = Asked::new(facts);
    let images: Vec<_> = images(&facts.object, &facts.events)
        .into_iter()
        .map(|image| asked.image(image))
        .collect();
    let pod = &facts.pod;
    PullReport {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        created: text("/metadata/creationTimestamp").and_then(|at| at.parse().ok()),
        node: text("/spec/nodeName").map(str::to_owned),
        owner: (pod.owner != Owner::Nobody).then(|| pod.owner.to_string()),
        service_account: text("/spec/serviceAccountName").map(str::to_owned),
        conclusion: conclusion(&images),
        images,
        is_sent: asked.is_sent,
        decision: asked.decision,
        pull_secrets: asked.secrets,
        unseen: facts.unseen.clone(),
    }
}

impl PullReport {
    /// How many things there are to do: what the exit code goes by.
    pub fn findings(&self) -> usize {
        let images = self.images.iter();
        let failing = images.filter(|image| image.image.state == ImageState::Failing);
        failing.count()
    }
}

fn conclusion(images: &[ImageReport]) -> String {
    let count = |state| images.iter().filter(|one| one.image.state == state).count();
    let (failing, pulled) = (count(ImageState::Failing), count(ImageState::Pulled));
    let all = images.len();
    if failing > 0 {
        return format!("{failing} of {all} images could not be pulled");
    }
    match pulled {
        _ if pulled == all => "every image is there".to_owned(),
        _ => format!("{pulled} of {all} images are there, none has failed"),
    }
}

/// A Pod beside rules and Secrets, asked about its images.
struct Asked<'f> {
    facts: &'f PodFacts,
    snapshot: Option<Snapshot>,
    is_sent: Option<bool>,
    decision: Option<Explanation>,
    secrets: Vec<PodSecretReport>,
}

impl<'f> Asked<'f> {
    fn new(pod: &'f PodFacts) -> Self {
        let snapshot = pod.facts.as_ref().map(Facts::snapshot);
        let is_sent = pod.facts.as_ref().zip(snapshot.as_ref());
        let is_sent =
            is_sent.map(|(facts, snapshot)| pod.pod.is_sent(facts.webhook.as_ref(), snapshot));
        let decision = decision(pod, snapshot.as_ref());
        let mut asked = Self {
            facts: pod,
            snapshot,
            is_sent,
            decision,
            secrets: Vec::new(),
        };
        asked.secrets = asked.secrets();
        asked
    }

    /// Each Secret once, in the order in which the kubelet looks at them.
    fn secrets(&self) -> Vec<PodSecretReport> {
        let added = self.added();
        let listed = pull_secrets(&self.facts.object).map(|name| (name, true));
        let added = added.iter().map(|name| (name.as_str(), false));
        let mut reports: Vec<PodSecretReport> = Vec::new();
        for (name, is_listed) in listed.chain(added).filter(|(name, _)| !name.is_empty()) {
            if !reports.iter().any(|report| report.name == name) {
                reports.push(self.secret(name, is_listed));
            }
        }
        reports
    }

    /// What the Pod would get if it were created now.
    fn added(&self) -> Vec<String> {
        let decision = self
            .decision
            .as_ref()
            .filter(|_| self.is_sent == Some(true));
        decision.map_or_else(Vec::new, |decision| decision.inject.clone())
    }

    fn secret(&self, name: &str, is_listed: bool) -> PodSecretReport {
        let seen = self.facts.secrets.get(name);
        let namespace = &self.facts.pod.namespace;
        let look = self.facts.facts.as_ref();
        let look = look.map(|facts| facts.state.look(namespace, name));
        let copy = look.and_then(|look| look.state);
        let unusable = match seen {
            Some(Looked::Seen(secret)) => secret.keyring.as_ref().err().cloned(),
            _ => None,
        };
        PodSecretReport {
            name: name.to_owned(),
            is_listed,
            entry: self.entry(name).map(|(_, entry)| entry.name.clone()),
            state: match (seen, copy) {
                (Some(Looked::Absent), _) => PodSecretState::Missing,
                (Some(Looked::Seen(_)), Some(CopyState::Present)) => PodSecretState::Current,
                (Some(Looked::Seen(_)), Some(CopyState::Stale)) => PodSecretState::Stale,
                (Some(Looked::Seen(_)), Some(CopyState::Foreign)) => PodSecretState::Foreign,
                (Some(Looked::Seen(_)), _) => PodSecretState::Present,
                _ => PodSecretState::Unseen,
            },
            unusable,
        }
    }

    /// The entry of the rules whose copies have this name.
    fn entry(&self, name: &str) -> Option<(SecretId, &PullSecretConfig)> {
        let config = &self.facts.facts.as_ref()?.config;
        let mut entries = (0..).map(SecretId).zip(&config.pull_secrets);
        entries.find(|(_, entry)| entry.secret_name == name)
    }

    fn seen(&self, name: &str) -> Option<&PullSecret> {
        self.facts.secrets.get(name).and_then(Looked::seen)
    }

    /// What a Secret covers: as it is in the namespace, or as the controller says where it may not be looked
    /// at. `None`: nobody knows.
    fn keyring(&self, secret: &PodSecretReport) -> Option<&Keyring> {
        if secret.state == PodSecretState::Unseen {
            let (id, _) = self.entry(&secret.name)?;
            return Some(&self.snapshot.as_ref()?.coverage(id)?.keyring);
        }
        self.seen(&secret.name)?.keyring.as_ref().ok()
    }

    fn login(&self, secret: &PodSecretReport, image: &ImageRef<'_>) -> Option<Login> {
        let key = self.keyring(secret)?.covering_key(image)?;
        Some(Login {
            secret: secret.name.clone(),
            key: redacted(key),
        })
    }

    fn image(&self, image: PodImage) -> ImageReport {
        let parsed = ImageRef::parse(&image.image).ok();
        let listed = self.secrets.iter().filter(|secret| secret.is_listed);
        let logins = listed.filter_map(|secret| self.login(secret, parsed.as_ref()?));
        let logins: Vec<Login> = logins.collect();
        let failure = image.failure();
        let judged = failure.map(|failure| self.judge(failure, parsed.as_ref(), &logins));
        let (cause, says, fix) = match judged {
            Some(Judged { cause, says, fix }) => (Some(cause), Some(says), Some(fix)),
            None => (None, None, None),
        };
        ImageReport {
            image,
            logins,
            failure,
            cause,
            says,
            fix,
        }
    }

    /// Why the image is not there, and what helps.
    fn judge(&self, failure: Failure, image: Option<&ImageRef<'_>>, logins: &[Login]) -> Judged {
        let says = failure.says();
        if let Some(secret) = self.secrets.iter().find(|secret| self.fails_all(secret))
            && failure == Failure::UndecodableSecret
        {
            return self.undecodable(secret);
        }
        if !failure.is_about_login() {
            return Judged::new(Cause::Other, says, failure.fix());
        }
        if let Some(login) = logins.first() {
            return self.with_login(failure, image, login);
        }
        let helps = |secret: &&PodSecretReport| {
            let keyring = self.keyring(secret);
            let covers =
                |keyring: &Keyring| image.is_some_and(|i| keyring.covering_key(i).is_some());
            !secret.is_listed && keyring.is_none_or(covers)
        };
        if let Some(secret) = self.secrets.iter().find(helps) {
            return self.older(failure, secret);
        }
        let listed = || self.secrets.iter().filter(|secret| secret.is_listed);
        if let Some(secret) = listed().find(|secret| secret.state == PodSecretState::Missing) {
            return self.missing(failure, secret);
        }
        if let Some(secret) = listed().find(|secret| self.is_unknown(secret)) {
            let says = format!(
                "{says}; what Secret {} covers could not be seen",
                secret.name
            );
            let (namespace, name) = (&self.facts.pod.namespace, &secret.name);
            let fix = format!("run it as someone who may get secrets/{name} -n {namespace}");
            return Judged::new(Cause::LoginUnseen, &says, &fix);
        }
        match failure {
            Failure::NotFound | Failure::NeverPulled => {
                Judged::new(Cause::Other, says, failure.fix())
            }
            _ => self.without_login(failure, image),
        }
    }

    fn fails_all(&self, secret: &PodSecretReport) -> bool {
        let seen = self.seen(&secret.name);
        secret.is_listed && seen.is_some_and(|secret| secret.fails_all)
    }

    fn is_unknown(&self, secret: &PodSecretReport) -> bool {
        secret.state == PodSecretState::Unseen && self.keyring(secret).is_none()
    }

    fn undecodable(&self, secret: &PodSecretReport) -> Judged {
        let name = &secret.name;
        let reason = secret.unusable.as_deref().unwrap_or_default();
        let says = format!("Secret {name} cannot be decoded ({reason}), which fails every image");
        let fix = format!("make it anew: {}", self.create(name));
        Judged::new(Cause::SecretUndecodable, &says, &fix)
    }

    /// The kubelet has a login.
    fn with_login(&self, failure: Failure, image: Option<&ImageRef<'_>>, login: &Login) -> Judged {
        let Login { secret, key } = login;
        let place = self.source(secret);
        let repository = image.map(ToString::to_string).unwrap_or_default();
        let public = match self.entry(secret) {
            Some(_) => {
                format!("; or leave a public image out of the rule: excludeImages: [{repository}]")
            }
            None => String::new(),
        };
        let (cause, says, fix) = match failure {
            Failure::Unauthorized => (
                Cause::LoginRefused,
                format!(
                    "the registry refuses the login of Secret {secret}, key {key}: it is wrong or over (401); the kubelet does not try without"
                ),
                format!("put the right password into {place}{public}"),
            ),
            Failure::Denied => (
                Cause::LoginNotPermitted,
                format!(
                    "the login of Secret {secret}, key {key}, may not pull this repository, or it does not exist (403)"
                ),
                format!("give that account the right to pull {repository}, at the registry"),
            ),
            Failure::RateLimited => (
                Cause::LoginLimited,
                format!("the limit of the login of Secret {secret}, key {key}, is used up (429)"),
                failure.fix().to_owned(),
            ),
            _ => return Judged::new(Cause::Other, failure.says(), failure.fix()),
        };
        let stale = self
            .secrets
            .iter()
            .any(|report| report.name == *secret && report.state == PodSecretState::Stale);
        let says = match stale {
            true => format!("{says}; the copy is not as its source is"),
            false => says,
        };
        Judged::new(cause, &says, &fix)
    }

    /// Created now, the Pod would get a Secret that covers the image, or may.
    fn older(&self, failure: Failure, secret: &PodSecretReport) -> Judged {
        let (says, name) = (failure.says(), &secret.name);
        let pod = &self.facts.pod;
        if secret.state == PodSecretState::Missing {
            let namespace = &pod.namespace;
            let says = format!(
                "{says}; created now, the Pod would get {name}, which namespace {namespace} does not have yet"
            );
            return Judged::new(Cause::SecretMissing, &says, &self.status(secret));
        }
        let says = format!(
            "{says}; the Pod is older than the rule, or no webhook answered when it was made: created now, it would get {name}"
        );
        let fix = pod
            .owner
            .fix(&pod.namespace, std::slice::from_ref(&pod.name));
        Judged::new(Cause::OlderThanRule, &says, &fix)
    }

    fn missing(&self, failure: Failure, secret: &PodSecretReport) -> Judged {
        let (says, name) = (failure.says(), &secret.name);
        let says = format!("{says}; the Pod names Secret {name}, which is not there");
        let fix = match secret.entry {
            Some(_) => self.status(secret),
            None => self.create(name),
        };
        Judged::new(Cause::SecretMissing, &says, &fix)
    }

    fn without_login(&self, failure: Failure, image: Option<&ImageRef<'_>>) -> Judged {
        let why_not = match (&self.decision, self.is_sent) {
            (None, _) => "whether a rule adds one could not be seen".to_owned(),
            (_, Some(false)) => "the API server does not send Pods like it to pullpass".to_owned(),
            (Some(decision), _) => decision.conclusion.clone(),
        };
        let says = format!(
            "{}; no pull secret of the Pod has a login for it, and {why_not}",
            failure.says()
        );
        let registry = image
            .and_then(|image| image.registry())
            .unwrap_or("docker.io");
        let fix = format!(
            "a rule and a pull secret for {registry}: `pullpass import` makes them of a login"
        );
        Judged::new(Cause::NoLogin, &says, &fix)
    }

    /// What says why there is no copy.
    fn status(&self, secret: &PodSecretReport) -> String {
        let entry = secret.entry.as_deref().unwrap_or_default();
        format!(
            "the kubelet tries again once it is there; if it does not come: pullpass status --secret {entry}"
        )
    }

    fn create(&self, name: &str) -> String {
        let namespace = &self.facts.pod.namespace;
        format!(
            "kubectl -n {namespace} create secret docker-registry {name} \
             --docker-server=HOST --docker-username=USER --docker-password=PASSWORD"
        )
    }

    /// Where to put another password.
    fn source(&self, secret: &str) -> String {
        let facts = self.facts.facts.as_ref();
        let entry = self.entry(secret).map(|(_, entry)| entry);
        let source = facts
            .zip(entry)
            .and_then(|(facts, entry)| facts.source_of(entry));
        match source {
            Some(source) => format!("the source, Secret {source}"),
            None => format!("Secret {}/{secret}", self.facts.pod.namespace),
        }
    }
}

/// Why an image is not there.
struct Judged {
    cause: Cause,
    says: String,
    fix: String,
}

impl Judged {
    fn new(cause: Cause, says: &str, fix: &str) -> Self {
        Self {
            cause,
            says: says.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

fn decision(pod: &PodFacts, snapshot: Option<&Snapshot>) -> Option<Explanation> {
    let view = PodView::parse(&pod.pod.object).ok()?;
    let config = &pod.facts.as_ref()?.config;
    Some(explain(&pod.pod.namespace, &view, snapshot?, config))
}

//! What a copy is: how it says whose it is, and what is remembered of a Secret of its name.
//!
//! A copy has `type` and the one docker key of its source, byte by byte, the labels of [`Instance`] and
//! the annotation [`SOURCE_HASH`]: no other label, annotation or key, no owner, no finalizer. What others
//! add besides stays, as with any server-side apply. A Secret without the labels is not ours, whatever it
//! holds. This file must not remember data: hashes only.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::credential::{DockerConfig, SecretType};
use crate::index::document::hex;
use crate::rules::config::Adopt;

/// The first label of a copy: key and value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "pullpass");
/// Key of the second; its value is an [`Instance`].
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Annotation with the [`ContentHash`] of what the copy should hold.
pub const SOURCE_HASH: &str = "pullpass.dev/source-hash";

/// Longest value of a label, in characters; Kubernetes' own limit.
const LABEL_VALUE_MAX: usize = 63;
/// Hexadecimal digits of a hash that stand for what was cut off a label value: 64 bits, since two
/// releases of one cluster are two, not billions.
const CUT_DIGITS: usize = 16;

/// Which installation made a copy, as a label value: `<controller's namespace>.<webhook configuration>`.
///
/// The configuration's name is unique in the cluster, so no two releases share it; the namespace says
/// where to look. Together they may be too long for a label: then the end is a hash of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// The installation whose controller runs in `namespace` and keeps this
    /// MutatingWebhookConfiguration.
    pub fn new(namespace: &str, configuration: &str) -> Self {
        let whole = format!("{namespace}.{configuration}");
        if whole.len() <= LABEL_VALUE_MAX {
            return Self(whole);
        }
        let digest = hex(&Sha256::digest(&whole));
        let digits = digest.get(..CUT_DIGITS).unwrap_or_default();
        // Names of objects are ASCII.
        let kept = whole.get(..LABEL_VALUE_MAX - CUT_DIGITS - 1);
        Self(format!("{}-{digits}", kept.unwrap_or_default()))
    }

    /// The one whose copies carry this value of the label [`INSTANCE`].
    pub fn of_label(value: String) -> Self {
        Self(value)
    }

    /// The value of the label [`INSTANCE`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels of a copy, all of them.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let (key, value) = MANAGED_BY;
        let pairs = [(key, value), (INSTANCE, self.as_str())];
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn whose(&self, labels: &BTreeMap<String, String>) -> Whose {
        let (key, ours) = MANAGED_BY;
        if labels.get(key).is_none_or(|value| value != ours) {
            return Whose::Foreign;
        }
        match labels.get(INSTANCE) {
            Some(instance) if *instance == self.0 => Whose::Ours,
            other => Whose::OtherInstance(other.map_or("", |name| name).into()),
        }
    }
}

/// Of type and payload of a pull secret. Two that are equal are the same credential to a kubelet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Of a payload, the value of the type's data key.
    pub fn of(kind: SecretType, payload: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.name());
        // No type name holds one, so what belongs to the payload is never part of the type.
        hash.update([0]);
        hash.update(payload);
        Self(hash.finalize().into())
    }

    /// Reads what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let (pairs, []) = digits.as_chunks::<2>() else {
            return None;
        };
        let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let hash = Self(bytes?.try_into().ok()?);
        // `+1`, which is a number too, or upper case.
        (hash.to_string() == text).then_some(hash)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A Secret as far as this room looks at it; borrowed, so that no payload is copied.
#[derive(Clone, Copy)]
pub struct SecretView<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// Its `type`, as written.
    pub type_name: &'a str,
    /// The value of its type's data key, if it is a pull secret and has one.
    pub payload: Option<&'a [u8]>,
    /// Whether the API server refuses a change of its data.
    pub is_immutable: bool,
    /// Whether somebody deleted it, and a finalizer keeps it.
    pub is_terminating: bool,
    /// Which version of it this is.
    pub resource_version: &'a str,
    /// Which of all Secrets that ever had its name.
    pub uid: &'a str,
}

impl SecretView<'_> {
    /// Its type; `None` for one that the kubelet ignores.
    pub fn kind(&self) -> Option<SecretType> {
        SecretType::named(self.type_name)
    }

    /// Hash of what it holds; `None` if it is no pull secret.
    pub fn hash(&self) -> Option<ContentHash> {
        Some(ContentHash::of(self.kind()?, self.payload?))
    }
}

/// Without the payload.
impl fmt::Debug for SecretView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretView")
            .field("type", &self.type_name)
            .field("resource_version", &self.resource_version)
            .finish_non_exhaustive()
    }
}

/// Who made a Secret, by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// This installation.
    Ours,
    /// Another installation of pullpass; empty if it does not say which.
    OtherInstance(Box<str>),
    /// Somebody else.
    Foreign,
}

/// What is kept of a Secret that has the name of copies, in some namespace. Never its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Who made it.
    pub whose: Whose,
    /// Its type; `None` for one that the kubelet ignores.
    pub kind: Option<SecretType>,
    /// Hash of what it holds; `None` if it is no pull secret.
    pub hash: Option<ContentHash>,
    /// What its annotation [`SOURCE_HASH`] says that it should hold.
    pub source_hash: Option<ContentHash>,
    /// Whether the API server refuses a change of its data.
    pub is_immutable: bool,
    /// Whether a kubelet fails to decode it, and so fails every image of a Pod that names it. Of a type
    /// that it ignores, it does not.
    pub is_undecodable: bool,
    /// Whether somebody deleted it, and a finalizer keeps it.
    pub is_terminating: bool,
    /// Which version of it this is.
    pub resource_version: Box<str>,
    /// Which of all Secrets that ever had its name.
    pub uid: Box<str>,
    /// How to tell who made it, if that was not us. Ours need none, and there are thousands.
    marks: Option<Box<Marks>>,
}

/// By what a maker is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marks {
    labels: BTreeMap<String, String>,
    is_patched: bool,
    is_reflected: bool,
}

/// An object of which a certain version was seen.
pub trait Versioned {
    /// Its `resourceVersion`.
    fn version(&self) -> &str;
}

impl Versioned for Observed {
    fn version(&self) -> &str {
        &self.resource_version
    }
}

impl Observed {
    /// What `instance` keeps of a Secret.
    pub fn new(secret: &SecretView<'_>, instance: &Instance) -> Self {
        let whose = instance.whose(secret.labels);
        let decoded = |(kind, payload)| DockerConfig::decode(kind, payload);
        let decoded = secret.kind().zip(secret.payload).map(decoded);
        let source_hash = secret.annotations.get(SOURCE_HASH);
        Self {
            kind: secret.kind(),
            hash: secret.hash(),
            source_hash: source_hash.and_then(|text| ContentHash::parse(text)),
            is_immutable: secret.is_immutable,
            is_undecodable: decoded.is_some_and(|decoded| decoded.is_err()),
            is_terminating: secret.is_terminating,
            resource_version: secret.resource_version.into(),
            uid: secret.uid.into(),
            marks: (whose != Whose::Ours).then(|| Box::new(Marks::of(secret))),
            whose,
        }
    }

    /// Whether this installation made it.
    pub fn is_ours(&self) -> bool {
        self.whose == Whose::Ours
    }

    /// Whether it is what a copy with this content should be.
    pub fn is_copy_of(&self, content: ContentHash) -> bool {
        self.is_ours() && self.hash == Some(content) && self.source_hash == Some(content)
    }

    /// Whether it may be taken over by these entries of `adopt`.
    pub fn is_adopted_by(&self, adopt: &[Adopt]) -> bool {
        let marks = self.marks.as_deref();
        marks.is_some_and(|marks| adopt.iter().any(|maker| marks.are_of(maker)))
    }
}

impl Marks {
    fn of(secret: &SecretView<'_>) -> Self {
        // An annotation, in spite of the key: titansoft's secret.go, and its fork by tamcore.
        let patcher = secret.annotations.get(MANAGED_BY.0);
        Self {
            labels: secret.labels.clone(),
            is_patched: patcher.is_some_and(|name| name == "imagepullsecret-patcher"),
            is_reflected: secret
                .annotations
                .contains_key("reflector.v1.k8s.emberstack.com/reflects"),
        }
    }

    fn are_of(&self, maker: &Adopt) -> bool {
        let has_label = |key: &str, value: &str| self.labels.get(key).is_some_and(|v| v == value);
        match maker {
            Adopt::Titansoft | Adopt::Tamcore => self.is_patched,
            Adopt::Kyverno => has_label(MANAGED_BY.0, "kyverno"),
            Adopt::Reflector => self.is_reflected,
            Adopt::Label { key, value } => has_label(key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "kubernetes.io/dockerconfigjson";
    const GOOD: &[u8] = br#"{"auths":{"r.io":{"username":"u","password":"p"}}}"#;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn observe(
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
        type_name: &str,
        payload: Option<&[u8]>,
    ) -> Observed {
        let view = SecretView {
            labels: &map(labels),
            annotations: &map(annotations),
            type_name,
            payload,
            is_immutable: false,
            is_terminating: false,
            resource_version: "7",
            uid: "u",
        };
        Observed::new(&view, &Instance::new("pullpass", "pullpass"))
    }

    #[test]
    fn an_instance_is_a_label_value_and_tells_releases_apart() {
        let short = Instance::new("pullpass", "pullpass");
        assert_eq!(short.as_str(), "pullpass.pullpass");
        let namespace = "n".repeat(63);
        let long = |name: &str| Instance::new(&namespace, name);
        assert_eq!(long("a").as_str().len(), LABEL_VALUE_MAX);
        assert_eq!(long("a"), long("a"));
        assert_ne!(long("a"), long("b"));
        let expected = [MANAGED_BY, (INSTANCE, "pullpass.pullpass")];
        assert_eq!(short.labels(), map(&expected));
    }

    #[test]
    fn a_hash_is_of_type_and_payload_and_can_be_read_again() {
        let json = ContentHash::of(SecretType::DockerConfigJson, b"x");
        assert_ne!(json, ContentHash::of(SecretType::DockerCfg, b"x"));
        assert_ne!(json, ContentHash::of(SecretType::DockerConfigJson, b"y"));
        assert_eq!(ContentHash::parse(&json.to_string()), Some(json));
        let upper = json.to_string().to_uppercase();
        for wrong in [&*upper, "", "sha256:", "sha256:zz", "sha256:+1", "md5:00"] {
            assert_eq!(ContentHash::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn incident_07_whose_a_secret_is_says_its_label() {
        let ours = [MANAGED_BY, (INSTANCE, "pullpass.pullpass")];
        for (labels, whose) in [
            (&ours[..], Whose::Ours),
            (
                &[MANAGED_BY, (INSTANCE, "b.c")],
                Whose::OtherInstance("b.c".into()),
            ),
            (&[MANAGED_BY], Whose::OtherInstance("".into())),
            (&[ours[1]], Whose::Foreign),
            (&[("app.kubernetes.io/managed-by", "Helm")], Whose::Foreign),
            (&[], Whose::Foreign),
        ] {
            assert_eq!(observe(labels, &[], JSON, Some(GOOD)).whose, whose);
        }
    }

    #[test]
    fn a_copy_is_known_by_what_it_holds_and_says() {
        let ours = [MANAGED_BY, (INSTANCE, "pullpass.pullpass")];
        let hash = ContentHash::of(SecretType::DockerConfigJson, GOOD);
        let said = hash.to_string();
        let said = [(SOURCE_HASH, &*said)];
        let is_copy = |labels: &[(&str, &str)], said: &[(&str, &str)], type_name, payload| {
            observe(labels, said, type_name, payload).is_copy_of(hash)
        };
        assert!(is_copy(&ours, &said, JSON, Some(GOOD)));
        assert!(!is_copy(&[], &said, JSON, Some(GOOD)));
        assert!(!is_copy(&ours, &[], JSON, Some(GOOD)));
        assert!(!is_copy(&ours, &said, JSON, Some(b"{}")));
        assert!(!is_copy(
            &ours,
            &said,
            "kubernetes.io/dockercfg",
            Some(GOOD)
        ));
        assert!(!is_copy(&ours, &said, "Opaque", None));
    }

    #[test]
    fn undecodable_is_what_would_fail_a_pod() {
        for (type_name, payload, undecodable) in [
            (JSON, Some(GOOD), false),
            (JSON, Some(&b"{"[..]), true),
            (JSON, Some(b""), false),
            (JSON, None, false),
            ("Opaque", None, false),
        ] {
            let observed = observe(&[], &[], type_name, payload);
            assert_eq!(observed.is_undecodable, undecodable, "{payload:?}");
        }
    }

    #[test]
    fn scenario_39_copies_of_other_tools_are_recognized() {
        let label = |key: &str, value: &str| Adopt::Label {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let patched = observe(
            &[],
            &[(MANAGED_BY.0, "imagepullsecret-patcher")],
            JSON,
            None,
        );
        let cloned = observe(&[(MANAGED_BY.0, "kyverno")], &[], JSON, None);
        let reflects = ("reflector.v1.k8s.emberstack.com/reflects", "a/b");
        let reflected = observe(&[], &[reflects], JSON, None);
        let labelled = observe(&[("k", "v")], &[], JSON, None);
        let plain = observe(&[], &[], JSON, None);
        let other = observe(&[MANAGED_BY, (INSTANCE, "b.c")], &[], JSON, None);
        for (secret, adopt, expected) in [
            (&patched, Adopt::Titansoft, true),
            (&patched, Adopt::Tamcore, true),
            (&patched, Adopt::Kyverno, false),
            (&cloned, Adopt::Kyverno, true),
            (&cloned, Adopt::Titansoft, false),
            (&reflected, Adopt::Reflector, true),
            (&labelled, label("k", "v"), true),
            (&labelled, label("k", "w"), false),
            (&plain, Adopt::Reflector, false),
            (&other, label(INSTANCE, "b.c"), true),
        ] {
            assert_eq!(
                secret.is_adopted_by(std::slice::from_ref(&adopt)),
                expected,
                "{adopt:?}"
            );
        }
        assert!(!patched.is_adopted_by(&[]), "only where the entry says so");
    }

    #[test]
    fn no_payload_is_printed() {
        let view = SecretView {
            labels: &map(&[]),
            annotations: &map(&[]),
            type_name: JSON,
            payload: Some(b"hunter2"),
            is_immutable: false,
            is_terminating: false,
            resource_version: "7",
            uid: "u",
        };
        assert!(!format!("{view:?}").contains("104, 117"));
        assert!(!format!("{view:?}").contains("hunter2"));
    }
}

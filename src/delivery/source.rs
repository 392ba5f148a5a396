//! Where a payload comes from, and whether it may be handed out.
//!
//! The kubelet's own decoding decides (`credential`), so that nothing is copied which would fail a Pod.
//! Payloads are kept only of sources; no password may leave them in text form. Beyond [`Origin`], nobody needs
//! to know whether a Secret, a file or a program gave one.

use std::fmt;
use std::sync::Arc;

use crate::credential::docker_config::PAYLOAD_BYTES_MAX;
use crate::credential::{Keyring, SecretType};
use crate::index::manifest;
use crate::rules::config::Source;

use super::copy::{ContentHash, SecretView};

/// A Secret that is a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRef {
    /// Where it is.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// For people.
impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where the credential of an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A Secret.
    Secret(SourceRef),
    /// A file of the controller, or a program that it runs. Entries with the same one share what it gives.
    Given(Arc<Source>),
}

/// What a source holds.
#[derive(Debug, Clone)]
pub struct SourceSecret {
    /// What copies of it carry, or why there should be none, without a byte of it.
    pub content: Result<Arc<Payload>, Box<str>>,
    /// Why there is nothing newer than this content, if there should be.
    pub problem: Option<Box<str>>,
    /// Which of all Secrets that ever had its name; empty for what is none.
    pub uid: Box<str>,
}

/// A payload that is handed out.
pub struct Payload {
    /// The type of Secret it belongs in.
    pub kind: SecretType,
    /// The value of that type's data key.
    pub bytes: Box<[u8]>,
    /// Of both.
    pub hash: ContentHash,
    /// What it covers.
    pub keyring: Keyring,
}

/// Without the bytes.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// What an entry says of it; without a namespace, a Secret is in `own_namespace`.
    pub fn of(source: &Source, own_namespace: &str) -> Self {
        match source {
            Source::Secret { namespace, secret } => Self::Secret(SourceRef {
                namespace: namespace.as_deref().unwrap_or(own_namespace).into(),
                name: (**secret).into(),
            }),
            Source::File { .. } | Source::Exec(_) => Self::Given(source.clone().into()),
        }
    }
}

impl SourceSecret {
    /// Judges a Secret as a source.
    pub fn read(secret: &SecretView<'_>) -> Self {
        Self {
            content: Payload::read(secret).map(Arc::new).map_err(Into::into),
            problem: None,
            uid: secret.uid.into(),
        }
    }

    /// What a file or a program gave, or why it gave nothing.
    pub fn given(content: Result<Arc<Payload>, String>) -> Self {
        Self {
            content: content.map_err(Into::into),
            problem: None,
            uid: Box::default(),
        }
    }

    /// Whether copies and everybody who is told of it stay as they are with the other.
    pub fn is_like(&self, other: &Self) -> bool {
        let content = |secret: &Self| {
            secret
                .content
                .as_ref()
                .map(|payload| payload.hash)
                .map_err(Clone::clone)
        };
        content(self) == content(other) && self.problem == other.problem
    }
}

impl Payload {
    fn read(secret: &SecretView<'_>) -> Result<Self, String> {
        let kind = secret.kind();
        let kind = kind.ok_or_else(|| manifest::wrong_type(secret.type_name))?;
        let bytes = secret.payload;
        let bytes = bytes.ok_or_else(|| manifest::no_data(kind.data_key()))?;
        Self::new(kind, bytes)
    }

    /// Judges a payload.
    ///
    /// # Errors
    /// Why no Pod should get it, without a byte of it.
    pub fn new(kind: SecretType, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "it is larger than {PAYLOAD_BYTES_MAX} bytes (`PAYLOAD_BYTES_MAX`)"
            ));
        }
        Ok(Self {
            kind,
            keyring: manifest::usable_keys(kind, bytes)?,
            hash: ContentHash::of(kind, bytes),
            bytes: bytes.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(type_name: &str, payload: Option<&[u8]>) -> Result<ContentHash, String> {
        let none = BTreeMap::new();
        let source = SourceSecret::read(&SecretView {
            labels: &none,
            annotations: &none,
            type_name,
            payload,
            is_immutable: true,
            is_terminating: false,
            resource_version: "7",
            uid: "u",
        });
        assert!(!format!("{source:?}").contains("hunter2"));
        source
            .content
            .map(|payload| payload.hash)
            .map_err(Into::into)
    }

    #[test]
    fn scenario_31_both_types_are_usable() {
        let json = br#"{"auths":{"r.io":{"username":"u","password":"hunter2"}}}"#;
        let hash = ContentHash::of(SecretType::DockerConfigJson, json);
        assert_eq!(read("kubernetes.io/dockerconfigjson", Some(json)), Ok(hash));
        let cfg = br#"{"r.io":{"username":"u","password":"hunter2"}}"#;
        assert!(read("kubernetes.io/dockercfg", Some(cfg)).is_ok());
    }

    #[test]
    fn scenario_32_what_a_kubelet_cannot_use_is_refused_with_the_reason() {
        const JSON: &str = "kubernetes.io/dockerconfigjson";
        let large = vec![b' '; PAYLOAD_BYTES_MAX + 1];
        for (type_name, payload, reason) in [
            ("Opaque", None, "its type is Opaque"),
            (JSON, None, "no data \".dockerconfigjson\""),
            (JSON, Some(&b"hunter2"[..]), "not JSON"),
            (JSON, Some(br#"{"auths":{"hunter2":{}},}"#), "not JSON"),
            (JSON, Some(b"{}"), "no entry has both"),
            (JSON, Some(&large), "larger than 1048576 bytes"),
        ] {
            let said = read(type_name, payload).unwrap_err();
            assert!(said.contains(reason) && !said.contains("hunter2"), "{said}");
        }
    }
}

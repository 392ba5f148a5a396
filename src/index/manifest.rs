//! What a Secret manifest covers: for the commands and the webhook outside a cluster, where nobody
//! publishes an index.
//!
//! This file must not know which of the rules' pull secrets a manifest is the source of.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::credential::{DockerConfig, Keyring, SecretType};

use super::{Coverage, State};

/// One Secret of a manifest.
#[derive(Debug, Clone)]
pub struct SecretManifest {
    /// `metadata.namespace`; `None` if it is not written.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// What it covers, and whether the kubelet could use it.
    pub coverage: Coverage,
}

impl SecretManifest {
    /// Reads a manifest as the API server would store it; `None` if it is no Secret.
    pub fn read(object: &Value) -> Option<Self> {
        if object.get("kind")?.as_str()? != "Secret" {
            return None;
        }
        let metadata = |field| Some(object.get("metadata")?.get(field)?.as_str()?.to_owned());
        let (keyring, state) = match decode(object) {
            Ok(keyring) => (keyring, State::Usable),
            Err(reason) => (Keyring::default(), State::Unusable { reason }),
        };
        Some(Self {
            namespace: metadata("namespace").filter(|namespace| !namespace.is_empty()),
            name: metadata("name").unwrap_or_default(),
            coverage: Coverage {
                keyring,
                state,
                undecodable_in: HashSet::new(),
            },
        })
    }
}

/// The keys of the payload, or why a kubelet cannot use them.
fn decode(secret: &Value) -> Result<Keyring, String> {
    let name = secret.get("type").and_then(Value::as_str);
    let name = name.unwrap_or("Opaque");
    let kind = SecretType::named(name).ok_or_else(|| wrong_type(name))?;
    usable_keys(kind, &payload(secret, kind.data_key())?)
}

/// Why a Secret of this type is no pull secret.
pub fn wrong_type(name: &str) -> String {
    format!(
        "its type is {name}, which the kubelet ignores; \
         make it with `kubectl create secret docker-registry`"
    )
}

/// The keys of a payload.
///
/// # Errors
/// Why it should not be injected, without a byte of it: a kubelet cannot decode it, or it logs in nowhere.
pub fn usable_keys(kind: SecretType, payload: &[u8]) -> Result<Keyring, String> {
    let config = DockerConfig::decode(kind, payload).map_err(|error| error.to_string())?;
    if !config.entries().iter().any(|entry| entry.is_usable()) {
        return Err("no entry has both a user name and a password".to_owned());
    }
    Ok(Keyring::of(&config))
}

/// `stringData` wins over `data`, as in the API server.
fn payload(secret: &Value, key: &str) -> Result<Vec<u8>, String> {
    let field = |object: &str| secret.get(object)?.get(key);
    if let Some(Value::String(text)) = field("stringData") {
        return Ok(text.clone().into_bytes());
    }
    match field("data") {
        Some(Value::String(base64)) => {
            // Go's decoder, which the API server uses, skips line breaks.
            let base64 = base64.replace(['\r', '\n'], "");
            STANDARD
                .decode(base64)
                .map_err(|_| format!("data \"{key}\" is not base64; text goes into stringData"))
        }
        _ => Err(no_data(key)),
    }
}

/// Why a Secret without this key is no pull secret.
pub fn no_data(key: &str) -> String {
    format!("it has no data \"{key}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: the key that covers `r.io/app`, or why there is none.
    fn check(yaml: &str, expected: &str) {
        let object = crate::manifest::parse(yaml).unwrap().remove(0);
        let found = SecretManifest::read(&object).map_or_else(
            || "no Secret".to_owned(),
            |secret| {
                let image = crate::image::ImageRef::parse("r.io/app").unwrap();
                match &secret.coverage.state {
                    State::Unusable { reason } => reason.clone(),
                    _ => format!("{:?}", secret.coverage.keyring.covering_key(&image)),
                }
            },
        );
        assert!(found.contains(expected), "{yaml}: {found}");
    }

    #[test]
    fn both_types_and_both_fields() {
        check(
            r#"{kind: Secret, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{"auths":{"r.io":{"username":"u","password":"p"}}}'}}"#,
            r#"Some("r.io")"#,
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockercfg, data: {.dockercfg: \"eyJyLmlvIjp7InVzZXJuYW1lIjoidSIs\\nInBhc3N3b3JkIjoicCJ9fQ==\\n\"}}",
            r#"Some("r.io")"#,
        );
        check(
            r#"{kind: Secret, type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: '!'}, stringData: {.dockerconfigjson: '{"auths":{"r.io":{"username":"u","password":"p"}}}'}}"#,
            r#"Some("r.io")"#,
        );
    }

    #[test]
    fn scenario_32_what_the_kubelet_cannot_use() {
        check("{kind: ConfigMap}", "no Secret");
        check(
            "{kind: Secret, stringData: {.dockerconfigjson: '{}'}}",
            "its type is Opaque",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockercfg, stringData: {.dockerconfigjson: '{}'}}",
            "no data \".dockercfg\"",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockercfg, data: {.dockercfg: 'a b'}}",
            "not base64",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockercfg, data: {.dockercfg: 5}}",
            "no data",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{\"auths\": {},}'}}",
            "not JSON",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{\"auths\": {\"r.io\": {}}}'}}",
            "no entry has both",
        );
        check(
            "{kind: Secret, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{}'}}",
            "no entry has both",
        );
    }
}

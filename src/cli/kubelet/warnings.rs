//! What `keys` warns of: a payload that the kubelet decodes but that does not do what its author
//! wanted, and payloads that are something else altogether. No warning holds a value.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::credential::keyring::index_key;
use crate::credential::{Entry, SecretType};

/// Warnings about single entries, then about entries that share an index key.
pub(super) fn of_entries(entries: &[Entry]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut by_index_key = BTreeMap::<_, Vec<_>>::new();
    for entry in entries {
        let key = entry.redacted_key();
        let index_key = index_key(&entry.key);
        for defect in defects(entry, index_key.is_some()) {
            warnings.push(format!("{key:?}: {defect}"));
        }
        if let Some(index_key) = index_key {
            by_index_key.entry(index_key).or_default().push(key);
        }
    }
    for (index_key, keys) in &by_index_key {
        if let [first, second, ..] = &keys[..] {
            let index_key = String::from_utf8_lossy(index_key);
            warnings.push(format!(
                "{first:?} and {second:?} share the index key {index_key:?}: the kubelet tries the \
                 credentials of both, in random order; keep one"
            ));
        }
    }
    warnings
}

fn defects(entry: &Entry, has_index_key: bool) -> impl Iterator<Item = &'static str> {
    let key_or_credential = match (has_index_key, entry.is_usable(), entry.has_token()) {
        (false, ..) => Some("the kubelet ignores this key, it is no URL: write HOST[:PORT][/PATH]"),
        (true, true, _) => None,
        (true, false, true) => Some(
            "it has a token only, which the kubelet ignores: put a user name and password there",
        ),
        (true, false, false) => Some(
            "user name and password are not both there: the kubelet uses this key all the same, and \
             does not fall back to Docker Hub credentials",
        ),
    };
    let username = "the user name has white space around it, which the kubelet keeps";
    let password = "the password has white space around it, which the kubelet keeps";
    let user_info = "what stands before `@` in the key is dropped: remove it";
    [
        key_or_credential,
        entry.has_padded_username().then_some(username),
        entry.has_padded_password().then_some(password),
        (entry.redacted_key() != entry.key).then_some(user_info),
    ]
    .into_iter()
    .flatten()
}

/// Warnings about a payload without a single key.
pub(super) fn of_payload(kind: SecretType, payload: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(payload);
    let warning = if payload.is_empty() {
        "the payload is empty: the kubelet skips this secret"
    } else if is_base64_of_json(&text) {
        "the payload is base64 itself: decode it first, with `base64 -d`"
    } else if is_secret_manifest(&text) {
        "this is a manifest, not the payload inside: extract that with `kubectl get secret NAME -o \
         jsonpath='{.data.\\.dockerconfigjson}' | base64 -d`"
    } else if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return None;
    } else if kind == SecretType::DockerConfigJson {
        "no entry under `auths`: the secret covers no image (a bare map of registries is of type \
         dockercfg)"
    } else {
        "no entry: the secret covers no image"
    };
    Some(warning.into())
}

fn is_base64_of_json(text: &str) -> bool {
    let text: String = text.split_whitespace().collect();
    STANDARD
        .decode(text)
        .is_ok_and(|decoded| decoded.trim_ascii_start().starts_with(b"{"))
}

fn is_secret_manifest(text: &str) -> bool {
    let compact: String = text
        .chars()
        .filter(|c| !matches!(c, ' ' | '"' | '\''))
        .collect();
    compact
        .split(['\n', '\r', ',', '{'])
        .any(|field| matches!(field, "kind:Secret" | "kind:SecretList" | "kind:Secret}"))
}

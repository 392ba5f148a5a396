//! A question for the kubelet, and our answer, in the shape that the tables and the oracle use.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullpass::credential::keyring::{Key, index_key};
use pullpass::credential::{DockerConfig, Entry, Keyring, SecretType};
use pullpass::image::ImageRef;
use serde::Deserialize;
use serde_json::{Value, json};

/// Text, or `{"base64": …}` for bytes that are none.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Base64 { base64: String },
}

impl From<Written> for Bytes {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => Self(text.into_bytes()),
            Written::Base64 { base64 } => Self(STANDARD.decode(base64).expect("base64")),
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Case {
    Lookup { keys: Vec<String>, image: Bytes },
    Payload { r#type: String, payload: Bytes },
    Image { image: Bytes },
}

impl Case {
    /// The line that puts the question to the oracle.
    pub(crate) fn question(&self) -> Value {
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        match self {
            Self::Image { image } => json!({"image": base64(&image.0)}),
            Self::Lookup { keys, image } => json!({
                "keys": keys.iter().map(|k| base64(k.as_bytes())).collect::<Vec<_>>(),
                "image": base64(&image.0),
            }),
            Self::Payload { r#type, payload } => json!({
                "type": format!("kubernetes.io/{}", r#type),
                "payload": base64(&payload.0),
            }),
        }
    }

    /// What this project answers.
    pub(crate) fn our_answer(&self) -> Value {
        match self {
            Self::Image { image } => image_answer(&image.0),
            Self::Lookup { keys, image } => lookup_answer(keys, &image.0),
            Self::Payload { r#type, payload } => payload_answer(r#type, &payload.0),
        }
    }

    /// The oracle's answer in the same shape as ours.
    pub(crate) fn normalise(&self, answer: &Value) -> Value {
        let is_error = answer["error"] != "";
        match self {
            Self::Payload { .. } => match answer["result"].as_str() {
                Some("ok") => json!({
                    "result": "ok",
                    "entries": list(&answer["entries"]).map(oracle_entry).collect::<Vec<_>>(),
                }),
                other => json!({"result": other}),
            },
            _ if is_error => json!({"error": true}),
            Self::Image { .. } => {
                let mut answer = answer.clone();
                answer.as_object_mut().expect("an object").remove("error");
                answer
            }
            Self::Lookup { .. } => json!({
                "matched": list(&answer["matched"]).map(|k| lossy(&bytes(k))).collect::<Vec<_>>(),
                "fallback": answer["fallback"],
            }),
        }
    }
}

fn image_answer(image: &[u8]) -> Value {
    match ImageRef::parse_bytes(image) {
        Err(_) => json!({"error": true}),
        Ok(image) => json!({
            "name": image.to_string(),
            "registry": image.registry().unwrap_or_default(),
            "repository": image.repository(),
            "tag": image.tag().unwrap_or_default(),
            "digest": image.digest().unwrap_or_default(),
            "familiar": image.familiar(),
        }),
    }
}

/// Also asserts that the allocation-free lookup agrees with the other, with some keys unusable.
fn lookup_answer(keys: &[String], image: &[u8]) -> Value {
    let Ok(image) = ImageRef::parse_bytes(image) else {
        return json!({"error": true});
    };
    let usable = |key: &str| !key.len().is_multiple_of(3);
    let keyring = Keyring::new(keys.iter().map(|key| Key {
        key,
        usable: usable(key),
    }));
    let lookup = keyring.lookup(&image);
    let first_usable = lookup.matched_in_order.iter().find(|key| usable(key));
    assert_eq!(keyring.covering_key(&image), first_usable.copied());
    json!({"matched": lookup.matched_in_order, "fallback": lookup.docker_hub_fallback})
}

fn payload_answer(payload_type: &str, payload: &[u8]) -> Value {
    let kind = match payload_type {
        "dockercfg" => SecretType::DockerCfg,
        _ => SecretType::DockerConfigJson,
    };
    match DockerConfig::decode(kind, payload) {
        Ok(_) if payload.is_empty() => json!({"result": "skipped"}),
        Ok(config) => json!({
            "result": "ok",
            "entries": config.entries().iter().map(our_entry).collect::<Vec<_>>(),
        }),
        Err(_) => json!({"result": "error"}),
    }
}

fn our_entry(entry: &Entry) -> Value {
    json!({
        "key": entry.key,
        "index": index_key(&entry.key).map(|index| index.escape_ascii().to_string()),
        "username": entry.username,
        "usable": entry.is_usable(),
        "padded": entry.has_padded_username() || entry.has_padded_password(),
    })
}

fn oracle_entry(entry: &Value) -> Value {
    let index = entry["index"].as_str().map(|_| bytes(&entry["index"]));
    json!({
        "key": lossy(&bytes(&entry["key"])),
        "index": index.map(|index| index.escape_ascii().to_string()),
        "username": lossy(&bytes(&entry["username"])),
        "usable": entry["usable"],
        "padded": entry["padded"],
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD
        .decode(value.as_str().expect("base64"))
        .expect("base64")
}

/// Text as Go shows it: U+FFFD for each byte that is not part of a character.
fn lossy(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '\u{FFFD}'));
    }
    text
}

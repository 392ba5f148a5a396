//! `index.json`: how the controller tells the webhook what each pull secret covers. Both directions.
//!
//! It holds registry keys without user info, never user names, passwords or bytes of a payload: whoever
//! may read the ConfigMap learns which registries there are, no more. A later version may add fields,
//! which are ignored here; what changes meaning gets another [`VERSION`], which is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::credential::Keyring;
use crate::credential::keyring::{Key, without_user_info};

use super::{Coverage, Index, State};

/// Key of the index in its ConfigMap.
pub const INDEX_KEY: &str = "index.json";
/// Version that is read and written.
pub const VERSION: u32 = 1;
/// Largest `index.json`, in bytes: Kubernetes' own limit for one object's data. 5,000 pull secrets
/// leave 200 bytes for each.
pub const INDEX_BYTES_MAX: usize = 1024 * 1024;
/// Longest `reason` that is taken over, in characters: it is logged.
pub const REASON_CHARACTERS_MAX: usize = 300;

/// `index.json`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexDocument {
    /// Always [`VERSION`].
    version: u32,
    /// [`rules_hash`] of the rules text that it was made for.
    pub rules: String,
    /// By the entry's name in the rules (`pullSecrets[].name`).
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretDocument>,
    /// By namespace, the names of ServiceAccounts with
    /// `kubernetes.io/enforce-mountable-secrets: "true"`.
    #[serde(default)]
    pub strict_service_accounts: BTreeMap<String, BTreeSet<String>>,
    /// Names of the Secrets that were delivered and may still be there. The controller's own note: it
    /// removes copies under names that the rules no longer have, also after it was started anew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub delivered: BTreeSet<String>,
    /// Whether ServiceAccounts may have entries of ours in their `imagePullSecrets`. The same kind of note.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
}

/// One pull secret in `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretDocument {
    /// Registry keys whose entries have a user name and a password.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Registry keys whose entries lack one of them: they cover nothing, but hide the kubelet's Docker
    /// Hub fallback as any other key that matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys_without_credential: Vec<String>,
    /// Whether it may be injected.
    #[serde(flatten)]
    pub state: StateDocument,
    /// Why there is nothing newer than what copies carry, if there should be; empty if there need not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// What its registry last said of the payload with this `hash`; `None` where nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeDocument>,
    /// Of the payload that copies carry; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// Namespaces where a Secret of this name, not made by us, sits that the kubelet cannot decode.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub undecodable_in: BTreeSet<String>,
}

/// [`State`] in `index.json`: `"state"`, beside it the `"reason"` if it is unusable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
#[non_exhaustive]
pub enum StateDocument {
    /// [`State::Usable`].
    Usable,
    /// [`State::Stale`].
    Stale,
    /// [`State::Unusable`].
    Unusable {
        /// Why, without a byte of the payload.
        #[serde(default)]
        reason: String,
    },
}

/// What a registry said, and to what: under other rules it is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeDocument {
    /// As the rules' probe says it; empty, and so an answer to nothing, from a version that did not say.
    #[serde(default)]
    pub asked: String,
    /// What it said.
    #[serde(flatten)]
    pub result: ProbeResult,
}

/// What a registry said of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "camelCase")]
#[non_exhaustive]
pub enum ProbeResult {
    /// It lets the credential pull.
    Accepted,
    /// It does not.
    Rejected {
        /// Password or right, in words of ours.
        #[serde(default)]
        reason: String,
    },
    /// It did not say.
    Unknown {
        /// Why, without a word of the registry's.
        #[serde(default)]
        reason: String,
    },
}

impl ProbeDocument {
    /// The result, if it is one of what is asked.
    pub fn answer_to(&self, asked: &str) -> Option<&ProbeResult> {
        (self.asked == asked).then_some(&self.result)
    }
}

impl ProbeResult {
    /// `accepted`, `rejected`, `unknown`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected { .. } => "rejected",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// Why an `index.json` is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Larger than [`INDEX_BYTES_MAX`].
    #[error("larger than {INDEX_BYTES_MAX} bytes (`INDEX_BYTES_MAX`)")]
    TooLarge,
    /// No JSON, or none of this form.
    #[error("line {line}, column {column}: no index; only the controller should write it")]
    Malformed {
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
    },
    /// Another version than [`VERSION`].
    #[error(
        "its version is {0}, and only {VERSION} is known here; let webhook and controller be of one release"
    )]
    Version(u32),
}

/// What makes two rules texts the same to an index: `sha256:` and hexadecimal digits.
pub fn rules_hash(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text)))
}

/// Two digits for each byte, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl IndexDocument {
    /// Without secrets, made for this rules text.
    pub fn new(rules_text: &str) -> Self {
        Self::for_rules(rules_hash(rules_text))
    }

    /// The same, for the rules text with this [`rules_hash`].
    pub fn for_rules(rules: String) -> Self {
        Self {
            version: VERSION,
            rules,
            secrets: BTreeMap::new(),
            strict_service_accounts: BTreeMap::new(),
            delivered: BTreeSet::new(),
            attached: false,
        }
    }

    /// Reads `index.json`.
    ///
    /// # Errors
    /// [`IndexError`] for what is too large, malformed, or of another version.
    pub fn parse(json: &str) -> Result<Self, IndexError> {
        /// First, since another version may have another form.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if json.len() > INDEX_BYTES_MAX {
            return Err(IndexError::TooLarge);
        }
        let Versioned { version } = serde_json::from_str(json).map_err(malformed)?;
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        serde_json::from_str(json).map_err(malformed)
    }

    /// Writes `index.json`; the same document gives the same bytes.
    ///
    /// # Errors
    /// [`IndexError::TooLarge`], so that nothing is written that nobody reads.
    pub fn to_json(&self) -> Result<String, IndexError> {
        let json = serde_json::json!(self).to_string();
        if json.len() > INDEX_BYTES_MAX {
            return Err(IndexError::TooLarge);
        }
        Ok(json)
    }

    /// What requests look at.
    pub fn to_index(&self) -> Index {
        let secrets = self.secrets.iter();
        let accounts = self.strict_service_accounts.iter();
        Index {
            secrets: secrets
                .map(|(name, secret)| (name.clone(), secret.to_coverage()))
                .collect(),
            strict_service_accounts: accounts
                .map(|(namespace, names)| (namespace.clone(), names.iter().cloned().collect()))
                .collect(),
        }
    }
}

impl SecretDocument {
    /// What is known about a pull secret; `hash` is that of the payload its copies carry.
    pub fn new(coverage: &Coverage, hash: String) -> Self {
        let keys = |usable: bool| {
            let keys = coverage.keyring.entries();
            let keys = keys.filter(move |key| key.usable == usable);
            keys.map(|key| without_user_info(key.key)).collect()
        };
        Self {
            keys: keys(true),
            keys_without_credential: keys(false),
            state: match &coverage.state {
                State::Usable | State::Rejected { .. } => StateDocument::Usable,
                State::Stale => StateDocument::Stale,
                State::Unusable { reason } => StateDocument::Unusable {
                    reason: reason.clone(),
                },
            },
            problem: String::new(),
            probe: match &coverage.state {
                State::Rejected { asked, reason } => Some(ProbeDocument {
                    asked: asked.clone(),
                    result: ProbeResult::Rejected {
                        reason: reason.clone(),
                    },
                }),
                _ => None,
            },
            hash,
            undecodable_in: coverage.undecodable_in.iter().cloned().collect(),
        }
    }

    fn to_coverage(&self) -> Coverage {
        let with = self.keys.iter().map(|key| (key, true));
        let without = self.keys_without_credential.iter().map(|key| (key, false));
        let keys = with.chain(without);
        Coverage {
            keyring: Keyring::new(keys.map(|(key, usable)| Key { key, usable })),
            state: match &self.state {
                StateDocument::Usable => self.rejection().unwrap_or(State::Usable),
                StateDocument::Stale => State::Stale,
                StateDocument::Unusable { reason } => {
                    let reason = cut(reason);
                    State::Unusable { reason }
                }
            },
            undecodable_in: self.undecodable_in.iter().cloned().collect(),
        }
    }

    fn rejection(&self) -> Option<State> {
        let ProbeDocument { asked, result } = self.probe.as_ref()?;
        let ProbeResult::Rejected { reason } = result else {
            return None;
        };
        Some(State::Rejected {
            asked: asked.clone(),
            reason: cut(reason),
        })
    }
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_CHARACTERS_MAX).collect()
}

/// Where, without the reader's words, which quote.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: serde_json::Error) -> IndexError {
    IndexError::Malformed {
        line: error.line(),
        column: error.column(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageRef;
    use std::collections::{HashMap, HashSet};

    fn coverage(keys: &[(&str, bool)], state: State) -> Coverage {
        Coverage {
            keyring: Keyring::new(keys.iter().map(|(key, usable)| Key {
                key,
                usable: *usable,
            })),
            state,
            undecodable_in: HashSet::from(["a".to_owned(), "b".to_owned()]),
        }
    }

    fn document() -> IndexDocument {
        let keys = [("r.io/x", true), ("r.io", true), ("docker.io", false)];
        let unusable = State::Unusable {
            reason: "not JSON".to_owned(),
        };
        let secrets = [
            ("harbor", coverage(&keys, State::Usable)),
            ("gone", coverage(&[], State::Stale)),
            ("broken", coverage(&[], unusable)),
        ];
        let mut document = IndexDocument::new("rules");
        for (name, coverage) in secrets {
            let secret = SecretDocument::new(&coverage, "sha256:0".to_owned());
            document.secrets.insert(name.to_owned(), secret);
        }
        let names = BTreeSet::from(["default".to_owned()]);
        document.strict_service_accounts = [("team".to_owned(), names)].into();
        document
    }

    /// The first key that covers an image.
    fn covering(coverage: &Coverage, image: &str) -> Option<String> {
        let image = ImageRef::parse(image).unwrap();
        coverage.keyring.covering_key(&image).map(str::to_owned)
    }

    #[test]
    fn what_is_written_is_read_and_is_the_same_again() {
        let json = document().to_json().unwrap();
        let read = IndexDocument::parse(&json).unwrap();
        assert_eq!(read, document());
        assert_eq!(read.to_json().unwrap(), json);
        let index = read.to_index();
        assert!(index.is_strict("team", "default") && !index.is_strict("team", "other"));
        let harbor = &index.secrets["harbor"];
        assert_eq!(harbor.state, State::Usable);
        assert_eq!(harbor.undecodable_in.len(), 2);
        assert_eq!(covering(harbor, "r.io/x/y").as_deref(), Some("r.io/x"));
        assert_eq!(covering(harbor, "r.io/z").as_deref(), Some("r.io"));
        assert_eq!(
            covering(harbor, "nginx"),
            None,
            "docker.io has no credential"
        );
        let states = ["gone", "broken"].map(|name| index.secrets[name].state.clone());
        let reason = "not JSON".to_owned();
        assert_eq!(states, [State::Stale, State::Unusable { reason }]);
    }

    #[test]
    fn the_form_is_that_of_the_contract() {
        let json = r#"{"version":1,"rules":"sha256:ab","secrets":{
            "harbor":{"keys":["r.io"],"state":"usable","hash":"sha256:cd","undecodableIn":["n"]},
            "old":{"state":"unusable","reason":"why","keysWithoutCredential":["docker.io"]}
        },"strictServiceAccounts":{"n":["default"]},"later":true}"#;
        let document = IndexDocument::parse(json).unwrap();
        assert_eq!(document.rules, "sha256:ab");
        assert_eq!(document.secrets["harbor"].hash, "sha256:cd");
        let index = document.to_index();
        assert_eq!(
            covering(&index.secrets["harbor"], "r.io/a").as_deref(),
            Some("r.io")
        );
        assert!(index.secrets["harbor"].undecodable_in.contains("n"));
        let reason = "why".to_owned();
        assert_eq!(index.secrets["old"].state, State::Unusable { reason });
        assert!(index.is_strict("n", "default"));
        assert!(IndexDocument::parse(r#"{"version":1,"rules":""}"#).is_ok());
    }

    #[test]
    fn scenario_56_what_a_registry_says_matters_where_it_rejects_what_is_usable() {
        let reason = "r.io refuses";
        let check = |state: &str, probe: &str, expected: State| {
            let probe = format!(r#"{{"result":"{probe}","reason":"{reason}","asked":"r.io/a"}}"#);
            let secret = format!(r#""state":"{state}","probe":{probe}"#);
            let json = format!(r#"{{"version":1,"rules":"","secrets":{{"a":{{{secret}}}}}}}"#);
            let document = IndexDocument::parse(&json).unwrap();
            assert_eq!(document.to_index().secrets["a"].state, expected, "{json}");
            let again = IndexDocument::parse(&document.to_json().unwrap());
            assert_eq!(again, Ok(document));
        };
        let rejected = State::Rejected {
            asked: "r.io/a".to_owned(),
            reason: reason.to_owned(),
        };
        check("usable", "rejected", rejected);
        check("usable", "unknown", State::Usable);
        check("usable", "accepted", State::Usable);
        check("stale", "rejected", State::Stale);
    }

    #[test]
    fn what_is_not_understood_is_refused_without_quoting_it() {
        let malformed = |line, column| IndexError::Malformed { line, column };
        for (json, expected) in [
            ("", malformed(1, 0)),
            (r#"{"version":"hunter2"}"#, malformed(1, 20)),
            (r#"{"version":2,"secrets":[]}"#, IndexError::Version(2)),
            (r#"{"version":1}"#, malformed(1, 13)),
            (
                r#"{"version":1,"rules":"","secrets":{"a":{"state":"hunter2"}}}"#,
                malformed(1, 58),
            ),
        ] {
            let error = IndexDocument::parse(json).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(error, expected, "{json}");
        }
    }

    #[test]
    fn what_is_too_large_is_neither_read_nor_written() {
        let mut large = document();
        let names = (0..100_000).map(|n| format!("account-{n}"));
        large.strict_service_accounts = HashMap::from([("n".to_owned(), names.collect())])
            .into_iter()
            .collect();
        assert_eq!(large.to_json(), Err(IndexError::TooLarge));
        let padded = document().to_json().unwrap() + &" ".repeat(INDEX_BYTES_MAX);
        assert_eq!(IndexDocument::parse(&padded), Err(IndexError::TooLarge));
    }

    #[test]
    fn user_info_stays_behind_and_the_keys_cover_the_same() {
        let keys = [
            ("https://user:hunter2@r.io/x?t=hunter2#hunter2", true),
            ("u@http://s.io", true),
        ];
        let before = coverage(&keys, State::Usable);
        let document = SecretDocument::new(&before, String::new());
        let json = serde_json::json!(document).to_string();
        assert!(
            !json.contains("hunter2") && !json.contains("user"),
            "{json}"
        );
        let after = document.to_coverage();
        assert!(covering(&after, "r.io/x/y").is_some());
        assert_eq!(
            covering(&before, "s.io/x").is_some(),
            covering(&after, "s.io/x").is_some()
        );
    }

    #[test]
    fn rules_texts_that_differ_have_other_hashes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(rules_hash(""), empty);
        assert_ne!(rules_hash(" "), empty);
    }
}

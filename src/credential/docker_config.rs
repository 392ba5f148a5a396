//! Decoding of the two docker config shapes (`pkg/credentialprovider/config.go`, and
//! `secrets/secrets.go` beside it) with Go's JSON and base64 habits.
//!
//! - `auths` objects merge, a later registry of the same name replaces the earlier, `null` empties;
//!   `HttpHeaders` is checked and dropped; every other field of the document is ignored.
//! - An entry has `username`, `password`, `email`, `auth`; a non-empty `auth` wins over the first two.
//! - One wrong value anywhere refuses the whole payload.
//!
//! Passwords live only while their entry is decoded: what is kept of them is whether they are empty
//! and whether white space surrounds them. This file must not know how keys match images.

mod auth_field;
mod error;

use std::collections::BTreeMap;
use std::fmt;

use super::go_json::{self, Reader};
use auth_field::decode_auth;
pub use error::redacted;

pub use super::go_json::{JsonKind, JsonProblem};
pub use auth_field::AuthProblem;
pub use error::{DecodeError, Position};

/// Which of the two Secret types a payload comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretType {
    /// `kubernetes.io/dockerconfigjson`, data key `.dockerconfigjson`.
    DockerConfigJson,
    /// `kubernetes.io/dockercfg`, data key `.dockercfg`.
    DockerCfg,
}

/// A decoded payload: one entry per registry key, sorted by key.
#[derive(Debug)]
pub struct DockerConfig {
    entries: Vec<Entry>,
}

/// One registry key and what it holds. `Debug` shows neither user name nor password.
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// The user name, from `auth` if that is not empty, else from `username`.
    pub username: String,
    password: Trace,
    has_token: bool,
}

/// What is remembered of a password.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    Empty,
    Plain,
    Padded,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.redacted_key())
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Whether a runtime would log in with it: user name and password are both there. An entry
    /// without them still matches in the kubelet, which then pulls anonymously.
    pub fn is_usable(&self) -> bool {
        !self.username.is_empty() && self.password != Trace::Empty
    }

    /// The key for messages: user info in front of `@`, which the kubelet drops, is masked.
    pub fn redacted_key(&self) -> String {
        redacted(&self.key)
    }

    /// Whether the user name starts or ends with white space, which the kubelet keeps.
    pub fn has_padded_username(&self) -> bool {
        is_padded(&self.username)
    }

    /// Whether the password starts or ends with white space, which the kubelet keeps.
    pub fn has_padded_password(&self) -> bool {
        self.password == Trace::Padded
    }

    /// Whether it holds an identity or registry token, which the kubelet ignores.
    pub fn has_token(&self) -> bool {
        self.has_token
    }
}

impl DockerConfig {
    /// Decodes a payload as the kubelet does. An empty one, which the kubelet skips, has no entries.
    ///
    /// # Errors
    /// [`DecodeError`] where the kubelet's decoder fails, which fails every image of the Pod.
    pub fn decode(kind: SecretType, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut auths = BTreeMap::new();
        if !payload.is_empty() {
            go_json::validate(payload).map_err(|error| DecodeError::NotJson {
                position: Position::new(payload, error.at),
                problem: error.problem,
            })?;
            let mut decoder = Decoder {
                payload,
                auths: &mut auths,
            };
            let reader = &mut Reader::new(payload);
            match kind {
                SecretType::DockerConfigJson => decoder.document(reader)?,
                SecretType::DockerCfg => decoder.auths(reader, "the document")?,
            }
        }
        Ok(Self {
            entries: auths.into_values().collect(),
        })
    }

    /// The entries, sorted by key.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Fills `auths` from the payload, which is known to be JSON.
struct Decoder<'a> {
    payload: &'a [u8],
    auths: &'a mut BTreeMap<String, Entry>,
}

type Decoded<T = ()> = Result<T, DecodeError>;

impl Decoder<'_> {
    fn document(&mut self, reader: &mut Reader<'_>) -> Decoded {
        self.object(reader, "the document", |decoder, reader, name| {
            if go_json::is_field(&name, "auths") {
                decoder.auths(reader, "`auths`")
            } else if go_json::is_field(&name, "HttpHeaders") {
                decoder.headers(reader)
            } else {
                reader.skip();
                Ok(())
            }
        })
        .map(drop)
    }

    fn auths(&mut self, reader: &mut Reader<'_>, what: &'static str) -> Decoded {
        let is_null = self.object(reader, what, |decoder, reader, registry| {
            let entry = decoder.entry(reader, registry)?;
            decoder.auths.insert(entry.key.clone(), entry);
            Ok(())
        })?;
        if is_null {
            self.auths.clear();
        }
        Ok(())
    }

    fn headers(&mut self, reader: &mut Reader<'_>) -> Decoded {
        self.object(reader, "`HttpHeaders`", |decoder, reader, _| {
            let (found, at) = reader.kind();
            reader.skip();
            match found {
                JsonKind::String | JsonKind::Null => Ok(()),
                _ => Err(DecodeError::WrongType {
                    what: "each of `HttpHeaders`",
                    expected: JsonKind::String,
                    found,
                    position: decoder.position(at),
                }),
            }
        })
        .map(drop)
    }

    /// Reads an object or `null`; tells whether it was `null`.
    fn object(
        &mut self,
        reader: &mut Reader<'_>,
        what: &'static str,
        mut field: impl FnMut(&mut Self, &mut Reader<'_>, String) -> Decoded,
    ) -> Decoded<bool> {
        match reader.kind() {
            (JsonKind::Object, _) => {
                reader.object(|reader, name| field(self, reader, name))?;
                Ok(false)
            }
            (JsonKind::Null, _) => {
                reader.skip();
                Ok(true)
            }
            (found, at) => Err(DecodeError::WrongType {
                what,
                expected: JsonKind::Object,
                found,
                position: self.position(at),
            }),
        }
    }

    fn entry(&self, reader: &mut Reader<'_>, key: String) -> Decoded<Entry> {
        let (found, at) = reader.kind();
        let mut fields = Fields::default();
        match found {
            JsonKind::Object => {
                reader.object(|reader, name| {
                    fields
                        .read(reader, &name)
                        .map_err(|wrong| DecodeError::WrongFieldType {
                            registry: redacted(&key),
                            field: wrong.field,
                            found: wrong.found,
                            position: self.position(wrong.at),
                        })
                })?;
            }
            JsonKind::Null => reader.skip(),
            _ => {
                return Err(DecodeError::BadEntry {
                    registry: redacted(&key),
                    found,
                    position: self.position(at),
                });
            }
        }
        if fields.auth.is_empty() {
            return Ok(fields.into_entry(key));
        }
        match decode_auth(&fields.auth) {
            Ok((username, password)) => {
                (fields.username, fields.password) = (username, password);
                Ok(fields.into_entry(key))
            }
            Err(problem) => Err(DecodeError::BadAuth {
                registry: redacted(&key),
                problem,
                position: self.position(at),
            }),
        }
    }

    fn position(&self, at: usize) -> Position {
        Position::new(self.payload, at)
    }
}

/// An entry while it is read. Later fields win over earlier ones; `null` changes nothing.
#[derive(Default)]
struct Fields {
    username: String,
    password: String,
    auth: String,
    has_token: bool,
}

struct WrongField {
    field: &'static str,
    found: JsonKind,
    at: usize,
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<(), WrongField> {
        let (found, at) = reader.kind();
        let known = ["username", "password", "auth", "email"];
        let Some(field) = known
            .into_iter()
            .find(|field| go_json::is_field(name, field))
        else {
            let is_token = ["identitytoken", "registrytoken"]
                .into_iter()
                .any(|field| go_json::is_field(name, field));
            self.has_token |= is_token && found == JsonKind::String;
            reader.skip();
            return Ok(());
        };
        match found {
            JsonKind::Null => reader.skip(),
            JsonKind::String => {
                let value = reader.string();
                match field {
                    "username" => self.username = value,
                    "password" => self.password = value,
                    "auth" => self.auth = value,
                    _ => {}
                }
            }
            _ => return Err(WrongField { field, found, at }),
        }
        Ok(())
    }

    fn into_entry(self, key: String) -> Entry {
        let password = match &*self.password {
            "" => Trace::Empty,
            text if is_padded(text) => Trace::Padded,
            _ => Trace::Plain,
        };
        Entry {
            key,
            username: self.username,
            password,
            has_token: self.has_token,
        }
    }
}

fn is_padded(text: &str) -> bool {
    text.trim().len() != text.len()
}

//! Decoding of the two docker config shapes (`pkg/credentialprovider/config.go`, and
//! `secrets/secrets.go` beside it) with Go's JSON and base64 habits.
//!
//! - `auths` objects merge, a later registry of the same name replaces the earlier, `null` empties;
//!   `HttpHeaders` is checked and dropped; every other field of the document is ignored.
//! - An entry has `username`, `password`, `email`, `auth`; a non-empty `auth` wins over the first two.
//! - One wrong value anywhere refuses the whole payload.
//!
//! Passwords live only while their entry is decoded: what is kept of them is whether they are empty,
//! whether white space surrounds them, and when they end if they say so. Only a [`Login`] has one for longer, and gives it
//! to nothing but another payload. This file must not know how keys match images.

mod auth_field;
mod error;
mod login;
mod token;

use std::collections::BTreeMap;
use std::fmt;

use super::go_json::{self, Reader};
use auth_field::decode_auth;
pub use error::redacted;

pub use super::go_json::{JsonKind, JsonProblem};
pub use auth_field::AuthProblem;
pub use error::{DecodeError, Position};
pub use login::{BasicAuth, Login, LoginFile, payload};

/// Largest payload, in bytes: Kubernetes' own limit for the data of one Secret (`MaxSecretSize`).
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Which of the two Secret types a payload comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretType {
    /// `kubernetes.io/dockerconfigjson`, data key `.dockerconfigjson`.
    DockerConfigJson,
    /// `kubernetes.io/dockercfg`, data key `.dockercfg`.
    DockerCfg,
}

impl SecretType {
    /// The type with this name; `None` for those that the kubelet ignores.
    pub fn named(name: &str) -> Option<Self> {
        [Self::DockerConfigJson, Self::DockerCfg]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// What `type` of such a Secret says.
    pub fn name(self) -> &'static str {
        match self {
            Self::DockerConfigJson => "kubernetes.io/dockerconfigjson",
            Self::DockerCfg => "kubernetes.io/dockercfg",
        }
    }

    /// The one key of its `data` that the kubelet reads.
    pub fn data_key(self) -> &'static str {
        match self {
            Self::DockerConfigJson => ".dockerconfigjson",
            Self::DockerCfg => ".dockercfg",
        }
    }
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
    expires: Option<u64>,
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

    /// When the password ends, in seconds since 1970, if it is a token that says so.
    pub fn expires(&self) -> Option<u64> {
        self.expires
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
            validate(payload)?;
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
        read_object(self.payload, reader, "the document", |reader, name| {
            if go_json::is_field(&name, "auths") {
                self.auths(reader, "`auths`")
            } else if go_json::is_field(&name, "HttpHeaders") {
                self.headers(reader)
            } else {
                reader.skip();
                Ok(())
            }
        })
        .map(drop)
    }

    fn auths(&mut self, reader: &mut Reader<'_>, what: &'static str) -> Decoded {
        let is_null = read_object(self.payload, reader, what, |reader, registry| {
            let fields = read_entry(self.payload, reader, &registry)?;
            let entry = fields.into_entry(registry);
            self.auths.insert(entry.key.clone(), entry);
            Ok(())
        })?;
        if is_null {
            self.auths.clear();
        }
        Ok(())
    }

    fn headers(&mut self, reader: &mut Reader<'_>) -> Decoded {
        read_object(self.payload, reader, "`HttpHeaders`", |reader, _| {
            read_string(self.payload, reader, "each of `HttpHeaders`").map(drop)
        })
        .map(drop)
    }
}

fn validate(payload: &[u8]) -> Decoded {
    go_json::validate(payload).map_err(|error| DecodeError::NotJson {
        position: Position::new(payload, error.at),
        problem: error.problem,
    })
}

/// Reads an object or `null`; tells whether it was `null`.
fn read_object(
    payload: &[u8],
    reader: &mut Reader<'_>,
    what: &'static str,
    field: impl FnMut(&mut Reader<'_>, String) -> Decoded,
) -> Decoded<bool> {
    match reader.kind() {
        (JsonKind::Object, _) => {
            reader.object(field)?;
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
            position: Position::new(payload, at),
        }),
    }
}

/// Reads a string, or `null` as an empty one.
fn read_string(payload: &[u8], reader: &mut Reader<'_>, what: &'static str) -> Decoded<String> {
    match reader.kind() {
        (JsonKind::String, _) => Ok(reader.string()),
        (JsonKind::Null, _) => {
            reader.skip();
            Ok(String::new())
        }
        (found, at) => Err(DecodeError::WrongType {
            what,
            expected: JsonKind::String,
            found,
            position: Position::new(payload, at),
        }),
    }
}

/// Reads what stands under the registry `key`.
fn read_entry(payload: &[u8], reader: &mut Reader<'_>, key: &str) -> Decoded<Fields> {
    let (found, at) = reader.kind();
    let position = |at| Position::new(payload, at);
    let mut fields = Fields::default();
    match found {
        JsonKind::Object => {
            reader.object(|reader, name| {
                fields
                    .read(reader, &name)
                    .map_err(|wrong| DecodeError::WrongFieldType {
                        registry: redacted(key),
                        field: wrong.field,
                        found: wrong.found,
                        position: position(wrong.at),
                    })
            })?;
        }
        JsonKind::Null => reader.skip(),
        _ => {
            return Err(DecodeError::BadEntry {
                registry: redacted(key),
                found,
                position: position(at),
            });
        }
    }
    if !fields.auth.is_empty() {
        let decoded = decode_auth(&fields.auth).map_err(|problem| DecodeError::BadAuth {
            registry: redacted(key),
            problem,
            position: position(at),
        });
        (fields.username, fields.password) = decoded?;
    }
    Ok(fields)
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
            expires: token::expiry(&self.password),
            has_token: self.has_token,
        }
    }
}

fn is_padded(text: &str) -> bool {
    text.trim().len() != text.len()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::{
        AuthProblem, DecodeError, DockerConfig, JsonKind, JsonProblem, Position, SecretType,
    };

    fn decode(payload: &str) -> Result<DockerConfig, DecodeError> {
        DockerConfig::decode(SecretType::DockerConfigJson, payload.as_bytes())
    }

    /// What one entry for `r.io` decodes to: user name, usable, password with white space around it.
    fn check(entry: &str, expected: (&str, bool, bool)) {
        let config = decode(&format!(r#"{{"auths":{{"r.io":{entry}}}}}"#)).expect(entry);
        let [entry] = config.entries() else {
            panic!("one entry");
        };
        let found = (
            &*entry.username,
            entry.is_usable(),
            entry.has_padded_password(),
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn a_token_says_when_it_ends_wherever_it_stands() {
        let token = "e30.eyJleHAiOjE3MDAwMDAwMDB9.hunter2";
        let plain = format!(r#"{{"username":"u","password":"{token}"}}"#);
        let auth = BASE64_STANDARD.encode(format!("u:{token}"));
        let auth = format!(r#"{{"auth":"{auth}"}}"#);
        for (entry, expected) in [
            (&*plain, Some(1_700_000_000)),
            (&auth, Some(1_700_000_000)),
            (r#"{"username":"u","password":"p"}"#, None),
        ] {
            let config = decode(&format!(r#"{{"auths":{{"r.io":{entry}}}}}"#)).unwrap();
            assert_eq!(config.entries()[0].expires(), expected, "{entry}");
            assert!(!format!("{config:?}").contains("hunter2"));
        }
    }

    fn check_keys(payload: &str, expected: &[&str]) {
        let config = decode(payload).expect(payload);
        let keys: Vec<_> = config.entries().iter().map(|entry| &*entry.key).collect();
        assert_eq!(keys, expected, "{payload}");
    }

    fn check_auth_error(auth: &str, expected: AuthProblem) {
        let payload = format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#);
        let expected = DecodeError::BadAuth {
            registry: "r.io".into(),
            problem: expected,
            position: Position {
                line: 1,
                column: 18,
            },
        };
        assert_eq!(decode(&payload).expect_err(auth), expected);
    }

    #[test]
    fn a_non_empty_auth_wins() {
        check(r#"{"auth":"dXNlcjpwYXNz"}"#, ("user", true, false));
        check(
            r#"{"auth":"dXNlcjpwYXNz","username":"x"}"#,
            ("user", true, false),
        );
        check(
            r#"{"auth":"","username":"x","password":"y"}"#,
            ("x", true, false),
        );
        check(r#"{"auth":"dTpwOnE="}"#, ("u", true, false));
        check(r#"{"auth":"dTpwCg=="}"#, ("u", true, true));
        check(r#"{"auth":"dTo="}"#, ("u", false, false));
        check("{}", ("", false, false));
        check("null", ("", false, false));
        check(r#"{"username":"u"}"#, ("u", false, false));
    }

    #[test]
    fn padding_decides_how_base64_is_read() {
        check(r#"{"auth":"dXNlcjpwYXNzd29yZA=="}"#, ("user", true, false));
        check(r#"{"auth":"dXNlcjpwYXNzd29yZA"}"#, ("user", true, false));
        check(
            r#"{"auth":"dXNlcjpw\r\nYXNzd29yZA=\n=\n"}"#,
            ("user", true, false),
        );
        check_auth_error("dXNlcjpwYXNzd29yZA=", AuthProblem::Padding);
        check_auth_error("dXNlcjpwYXNzd29yZA== ", AuthProblem::WhiteSpace);
        check_auth_error("dTo-Pg", AuthProblem::UrlSafe);
        check_auth_error("user:password", AuthProblem::Character);
        check_auth_error("dXNlcg==", AuthProblem::NoColon);
    }

    #[test]
    fn names_match_in_any_case_and_objects_merge() {
        check_keys(r#"{"AUTHS":{"a":{}},"auths":{"b":{}}}"#, &["a", "b"]);
        check_keys("{\"auth\u{17f}\":{\"a\":{}}}", &["a"]);
        check_keys(r#"{"auths":{"a":{}},"auths":null}"#, &[]);
        check_keys(r#"{"auths":{"b":{},"a":{},"b":{}}}"#, &["a", "b"]);
        check_keys("null", &[]);
        check_keys("", &[]);
        check(
            r#"{"USERNAME":"u","pa\u017Fsword":"p"}"#,
            ("u", true, false),
        );
        check(
            r#"{"username":"u","username":null,"password":"p"}"#,
            ("u", true, false),
        );
    }

    #[test]
    fn strings_decode_as_in_go() {
        check_keys(
            r#"{"auths":{"\ud83d\ude00\ud800\u0041":{}}}"#,
            &["😀\u{FFFD}A"],
        );
        let payload = b"{\"auths\":{\"\xe2\x82\":{}}}";
        let config = DockerConfig::decode(SecretType::DockerConfigJson, payload).expect("decodes");
        assert_eq!(config.entries()[0].key, "\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let check = |payload: &str, line, column, problem| {
            let position = Position { line, column };
            let expected = DecodeError::NotJson { position, problem };
            assert_eq!(decode(payload).expect_err(payload), expected, "{payload}");
        };
        check("{\n \"ä\": }", 2, 7, JsonProblem::ExpectedValue);
        check("{\"a\":1,}", 1, 8, JsonProblem::TrailingComma);
        check("{\"a\" 1}", 1, 6, JsonProblem::ExpectedColon);
        check("{a:1}", 1, 2, JsonProblem::ExpectedName);
        check("{\"a\":1 \"b\"}", 1, 8, JsonProblem::ExpectedCommaOrBrace);
        check("[1 2]", 1, 4, JsonProblem::ExpectedCommaOrBracket);
        check("{\"a\":\"b\n\"}", 1, 8, JsonProblem::ControlCharacter);
        check("{\"a\":\"\\x\"}", 1, 8, JsonProblem::BadEscape);
        check("{\"a\":-}", 1, 7, JsonProblem::BadNumber);
        check("{} {}", 1, 4, JsonProblem::TrailingText);
        check("{", 1, 2, JsonProblem::UnexpectedEnd);
        check("\u{feff}{}", 1, 1, JsonProblem::ByteOrderMark);
        check(&"[".repeat(10_001), 1, 10_001, JsonProblem::TooDeep);
    }

    #[test]
    fn wrong_types_are_refused_everywhere() {
        let check = |payload: &str, expected: &str| {
            let error = decode(payload).expect_err(payload).to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        };
        check("[]", "the document must be an object, not an array");
        check(
            r#"{"auths":"x"}"#,
            "`auths` must be an object, not a string",
        );
        check(
            r#"{"httpHEADERS":{"a":true}}"#,
            "must be a string, not a boolean",
        );
        check(
            r#"{"auths":{"a":"x","a":{}}}"#,
            "bad entry for registry \"a\"",
        );
        check(
            r#"{"auths":{"a":{"email":[]}}}"#,
            "`email` must be a string, not an array",
        );
    }

    #[test]
    fn messages_mask_user_info_in_keys() {
        let error = decode(r#"{"auths":{"https://u:secret@r.io/x":[]}}"#).expect_err("refused");
        let expected = DecodeError::BadEntry {
            registry: "https://***@r.io/x".into(),
            found: JsonKind::Array,
            position: Position {
                line: 1,
                column: 37,
            },
        };
        assert_eq!(error, expected);
        let config = decode(r#"{"auths":{"u:secret@r.io":{}}}"#).expect("decodes");
        assert!(!format!("{config:?}").contains("secret"));
    }
}

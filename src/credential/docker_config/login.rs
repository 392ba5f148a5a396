//! What `docker login` and its like leave on a disk, with the passwords: for `import`, which puts them into pull
//! secrets. The kubelet refuses a payload for one bad entry; here each entry stands for itself.
//!
//! This is the one place where a password outlives its decoding. It can be read from nothing but a [`payload`], and a
//! [`BasicAuth`] for its registry.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::{
    DecodeError, Decoded, Entry, Fields, JsonKind, decode_auth, read_entry, read_object,
    read_string, validate,
};
use crate::credential::go_json::{Reader, is_field};

/// One registry key with its user name and password. `Debug` shows neither.
pub struct Login {
    entry: Entry,
    /// Base64 of `USER:PASSWORD`, as the kubelet decodes it.
    auth: String,
}

impl Login {
    /// A login that a credential helper gave for the registry `key`.
    pub fn new(key: &str, username: String, password: String) -> Self {
        let fields = Fields {
            username,
            password,
            ..Fields::default()
        };
        Self::of(key, fields)
    }

    fn of(key: &str, mut fields: Fields) -> Self {
        // Go skips line ends; so does not everybody who may read the Secret.
        fields.auth.retain(|c| !matches!(c, '\r' | '\n'));
        if fields.auth.is_empty() {
            let pair = format!("{}:{}", fields.username, fields.password);
            fields.auth = BASE64_STANDARD.encode(pair);
        }
        Self {
            auth: std::mem::take(&mut fields.auth),
            entry: fields.into_entry(key.to_owned()),
        }
    }

    /// Everything but the password.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether user name and password are the same.
    pub fn is_same_account(&self, other: &Self) -> bool {
        self.auth == other.auth
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)
    }
}

/// What a registry is sent for a login (RFC 7617). `Debug` shows nothing of it.
pub struct BasicAuth(String);

impl BasicAuth {
    /// Of the login under this key of a payload; `None` where there is none.
    pub fn of(payload: &[u8], key: &str) -> Option<Self> {
        let logins = LoginFile::read(payload).ok()?.logins;
        // Of two entries under one key, the kubelet reads the last.
        let (_, login) = logins.into_iter().rfind(|(of, _)| of == key)?;
        let (username, password) = decode_auth(&login.ok()?.auth).ok()?;
        let pair = BASE64_STANDARD.encode(format!("{username}:{password}"));
        Some(Self(format!("Basic {pair}")))
    }

    /// The value of the header `Authorization`.
    pub fn header(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth").finish_non_exhaustive()
    }
}

/// The payload of a Secret of type `kubernetes.io/dockerconfigjson` that holds these logins, each under the key beside
/// it. Holds their passwords.
pub fn payload<'a>(logins: impl IntoIterator<Item = (String, &'a Login)>) -> String {
    let auths: Map<String, Value> = logins
        .into_iter()
        .map(|(key, login)| (key, json!({"auth": login.auth})))
        .collect();
    json!({"auths": auths}).to_string()
}

/// A `config.json` of docker, an `auth.json` of containers, or a `.dockercfg`.
#[derive(Debug, Default)]
pub struct LoginFile {
    /// Each registry key in the order of the file, with its login or why the kubelet refuses it.
    pub logins: Vec<(String, Result<Login, DecodeError>)>,
    /// The credential helper that knows all other logins.
    pub creds_store: Option<String>,
    /// Registry, and the credential helper that knows its login.
    pub cred_helpers: Vec<(String, String)>,
    /// Whether it has `HttpHeaders`, which docker sends to registries, and the kubelet does not.
    pub has_headers: bool,
}

impl LoginFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DecodeError`] where the file as a whole cannot be read.
    pub fn read(text: &[u8]) -> Result<Self, DecodeError> {
        validate(text)?;
        let mut file = Self::default();
        let reader = &mut Reader::new(text);
        if is_dockercfg(reader.clone()) {
            file.auths(text, reader)?;
        } else {
            file.document(text, reader)?;
        }
        Ok(file)
    }

    fn document(&mut self, text: &[u8], reader: &mut Reader<'_>) -> Decoded {
        read_object(text, reader, "the document", |reader, name| {
            if is_field(&name, "auths") {
                return self.auths(text, reader);
            } else if is_field(&name, "credsStore") {
                let store = read_string(text, reader, "`credsStore`")?;
                self.creds_store = Some(store).filter(|store| !store.is_empty());
            } else if is_field(&name, "credHelpers") {
                read_object(text, reader, "`credHelpers`", |reader, registry| {
                    let helper = read_string(text, reader, "each of `credHelpers`")?;
                    self.cred_helpers.push((registry, helper));
                    Ok(())
                })?;
            } else {
                self.has_headers |= is_field(&name, "HttpHeaders");
                reader.skip();
            }
            Ok(())
        })
        .map(drop)
    }

    fn auths(&mut self, text: &[u8], reader: &mut Reader<'_>) -> Decoded {
        read_object(text, reader, "`auths`", |reader, key| {
            let fields = read_entry(text, &mut reader.clone(), &key);
            reader.skip();
            let login = fields.map(|fields| Login::of(&key, fields));
            self.logins.push((key, login));
            Ok(())
        })
        .map(drop)
    }
}

/// Whether this is a bare map of registries: it has no field of a `config.json`, but somewhere an entry.
fn is_dockercfg(mut reader: Reader<'_>) -> bool {
    let mut has_entry = false;
    let mut is_config = reader.kind().0 != JsonKind::Object;
    if !is_config {
        let read = reader.object(|reader, name| {
            is_config |= has_name(&name, &["auths", "credsStore", "credHelpers"]);
            has_entry |= is_entry(reader.clone());
            reader.skip();
            Ok::<_, DecodeError>(())
        });
        is_config |= read.is_err();
    }
    has_entry && !is_config
}

fn is_entry(mut reader: Reader<'_>) -> bool {
    let mut is_entry = false;
    if reader.kind().0 == JsonKind::Object {
        let read = reader.object(|reader, name| {
            is_entry |= has_name(&name, &["auth", "username", "password"]);
            reader.skip();
            Ok::<_, DecodeError>(())
        });
        is_entry &= read.is_ok();
    }
    is_entry
}

fn has_name(name: &str, fields: &[&str]) -> bool {
    fields.iter().any(|field| is_field(name, field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{DockerConfig, SecretType};

    fn read(text: &str) -> LoginFile {
        LoginFile::read(text.as_bytes()).expect(text)
    }

    /// What is found, one word for each: `KEY=USER`, `KEY!` where it is refused, the store, `REGISTRY>HELPER`.
    fn check(text: &str, expected: &str) {
        let file = read(text);
        let logins = file.logins.iter().map(|(key, login)| match login {
            Ok(login) => format!("{key}={}", login.entry().username),
            Err(_) => format!("{key}!"),
        });
        let helpers = file.cred_helpers.iter().map(|(r, h)| format!("{r}>{h}"));
        let store = file.creds_store.clone();
        let found: Vec<String> = logins.chain(store).chain(helpers).collect();
        assert_eq!(found.join(" "), expected, "{text}");
    }

    #[test]
    fn three_shapes() {
        check(
            r#"{"auths":{"b.io":{"username":"u","password":"p"},"a.io":{"auth":"djp3"}}}"#,
            "b.io=u a.io=v",
        );
        check(
            r#"{"credsStore":"desktop","credHelpers":{"gcr.io":"gcloud"},"auths":{"a.io":{}}}"#,
            "a.io= desktop gcr.io>gcloud",
        );
        check(r#"{"a.io":{"auth":"djp3","email":""}}"#, "a.io=v");
        check(r#"{"HttpHeaders":{"User-Agent":"x"}}"#, "");
        check(
            r#"{"aliases":{"builder":"buildx"},"credsStore":null,"auths":null}"#,
            "",
        );
        check("null", "");
    }

    #[test]
    fn one_bad_entry_spoils_no_other() {
        check(
            r#"{"auths":{"a.io":{"auth":"!"},"b.io":[],"c.io":{"password":[{}]},"d.io":{"auth":"djp3"}}}"#,
            "a.io! b.io! c.io! d.io=v",
        );
    }

    #[test]
    fn scenario_51_what_goes_in_comes_out() {
        for entry in [
            r#"{"username":"u","password":"p\n"}"#,
            r#"{"auth":"dTpwCg==","username":"other"}"#,
            r#"{"auth":"dTpw\r\nCg=="}"#,
        ] {
            let file = read(&format!(r#"{{"auths":{{"a.io":{entry}}}}}"#));
            let [(key, Ok(login))] = &file.logins[..] else {
                panic!("{entry}");
            };
            let payload = payload([(key.clone(), login)]);
            assert_eq!(payload, r#"{"auths":{"a.io":{"auth":"dTpwCg=="}}}"#);
            let decoded = DockerConfig::decode(SecretType::DockerConfigJson, payload.as_bytes());
            let decoded = decoded.unwrap();
            assert!(decoded.entries()[0].is_usable());
            assert!(decoded.entries()[0].has_padded_password());
        }
    }

    #[test]
    fn no_debug_output_has_a_password() {
        let login = Login::new("a.io", "robot".into(), "hunter2".into());
        let shown = format!("{login:?}");
        assert!(
            !shown.contains("robot") && !shown.contains("hunter2") && !shown.contains(&login.auth)
        );
    }
}

//! Programs that give a kubelet credentials: its credential provider plugins, by the protocol that it speaks with them
//! (k8s.io/kubelet `pkg/apis/credentialprovider/v1`, kubernetes `pkg/credentialprovider/plugin/plugin.go`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::program::Program;
use super::{Credential, HelperError};

/// A credential provider plugin.
pub struct Provider(Program);

/// What a plugin answers. `Debug` shows no login.
pub struct Answer {
    /// What else it is the answer for.
    pub scope: Scope,
    /// How long it holds; `None`: it does not say.
    pub cache_duration: Option<Duration>,
    /// Logins by registry key.
    pub logins: BTreeMap<String, Credential>,
}

/// `cacheKeyType`: which images an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Scope {
    /// The one that it was asked about.
    Image,
    /// All of that one's registry.
    Registry,
    /// All.
    Global,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    cache_key_type: Scope,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, AuthConfig>>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
struct AuthConfig {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("scope", &self.scope)
            .field("cache_duration", &self.cache_duration)
            .finish_non_exhaustive()
    }
}

/// Without arguments and environment: either may hold a token.
impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(&self.0.path).finish()
    }
}

impl Provider {
    /// The plugin at this path, which gets these arguments and this environment and nothing else.
    pub fn new(path: String, args: Vec<String>, environment: Vec<(String, String)>) -> Self {
        Self(Program::beside_us(path, args, environment))
    }

    /// Asks about an image, without tag or digest, in this version of the protocol.
    ///
    /// # Errors
    /// [`HelperError`].
    pub async fn ask(&self, api_version: &str, image: &str) -> Result<Answer, HelperError> {
        let request = serde_json::json!({
            "apiVersion": api_version,
            "kind": "CredentialProviderRequest",
            "image": image,
        });
        let ended = self.0.run(&[], &request.to_string()).await?;
        let program = || self.0.path.clone();
        if !ended.status.success() {
            return Err(ended.failed(program()));
        }
        let garbage = || HelperError::Garbage { program: program() };
        let expected = TypeMeta {
            api_version: api_version.to_owned(),
            kind: "CredentialProviderResponse".to_owned(),
        };
        let found: TypeMeta = serde_json::from_slice(&ended.stdout).map_err(|_| garbage())?;
        if found != expected {
            return Err(HelperError::Kind {
                program: program(),
                expected: format!("{} of {}", expected.kind, expected.api_version),
            });
        }
        let response: Response = serde_json::from_slice(&ended.stdout).map_err(|_| garbage())?;
        response.read().ok_or_else(garbage)
    }
}

impl Response {
    /// `None` if its duration is none.
    fn read(self) -> Option<Answer> {
        let cache_duration = match self.cache_duration {
            None => None,
            // Go prints `6h0m0s`, and takes what is below nothing for nothing.
            Some(text) => Some(text.parse::<jiff::SignedDuration>().ok()?),
        };
        let logins = self.auth.into_iter().flatten();
        let logins = logins.map(|(key, login)| {
            let AuthConfig { username, password } = login;
            let secret = password;
            (key, Credential { username, secret })
        });
        Some(Answer {
            scope: self.cache_key_type,
            cache_duration: cache_duration
                .map(|duration| Duration::try_from(duration).unwrap_or_default()),
            logins: logins.collect(),
        })
    }
}

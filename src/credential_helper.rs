//! Programs that give logins, run without a shell and under limits: `docker-credential-NAME`, which docker's
//! `credsStore` and `credHelpers` name (docker/docker-credential-helpers, `client`), and the plugins of a kubelet.
//!
//! What such a program writes may hold a password anywhere. Nothing of it is repeated: of an error only
//! phrases are, that are written here. This room must not know what becomes of a login.

mod program;
mod provider;

pub use program::MEMORY_BYTES_MAX;
pub use provider::{Answer, Provider, Scope};

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use program::{Ended, OUTPUT_BYTES_MAX, Program};

/// How long a program may take for one answer, in seconds: the kubelet gives its own credential providers as much, and a
/// person may have to unlock a key store meanwhile.
pub const ANSWER_SECONDS_MAX: u64 = 60;

/// What helpers say when they have no login, on standard output (`credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// What helpers, and the programs they start, say when they fail; nothing else is repeated.
const COMPLAINTS: [&str; 18] = [
    "accessdenied",
    "certificate signed by unknown authority",
    "command not found",
    "connection refused",
    "executable file not found",
    "expiredtoken",
    "failed to refresh cached credentials",
    "i/o timeout",
    "invalidclienttokenid",
    "no basic auth credentials",
    "no credentials server url",
    "no such file or directory",
    "no such host",
    "no valid credential",
    "not initialized",
    "not logged in",
    "permission denied",
    "timed out",
];

/// A docker credential helper.
pub struct Helper(Program);

/// Without arguments and environment: either may hold a token.
impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Helper").field(&self.0.path).finish()
    }
}

/// A login that a helper gave. `Debug` shows neither part.
#[derive(Deserialize)]
pub struct Credential {
    /// The user name; `<token>` where `secret` is no password.
    #[serde(rename = "Username")]
    pub username: String,
    /// The password.
    #[serde(rename = "Secret")]
    pub secret: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

/// Why a helper gave no login. Holds nothing that it wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// `credsStore` or `credHelpers` names something else than a program.
    #[error("{0:?} is no name of a credential helper")]
    Name(String),
    /// There is no such program, or not what runs it.
    #[error("`{program}` {}", if program.contains('/') { "does not exist, or not what it needs to run" } else { "is not on PATH" })]
    Missing {
        /// The program.
        program: String,
    },
    /// It does not start, or cannot be talked to.
    #[error("`{program}` cannot be run: {error}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        error: ErrorKind,
    },
    /// It takes too long.
    #[error("`{program}` gave no answer within {} s", limit.as_secs())]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It writes without end.
    #[error("`{program}` wrote more than {OUTPUT_BYTES_MAX} bytes")]
    TooMuch {
        /// The program.
        program: String,
    },
    /// It knows no login for this registry.
    #[error("`{program}` has no login for it")]
    NotFound {
        /// The program.
        program: String,
    },
    /// It fails.
    #[error("`{program}` failed ({status}){}", said.map(|said| format!(": {said}")).unwrap_or_default())]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said, as far as it is one of the usual phrases.
        said: Option<&'static str>,
    },
    /// What it wrote is not the answer of the protocol.
    #[error("`{program}` answered something else than the JSON of the protocol")]
    Garbage {
        /// The program.
        program: String,
    },
    /// What it wrote is an answer to something else.
    #[error("`{program}` did not answer with a {expected}")]
    Kind {
        /// The program.
        program: String,
        /// Kind and version that the answer should have.
        expected: String,
    },
}

impl HelperError {
    /// Whether the program would fail the same way when it is asked for another registry.
    pub fn is_of_every_registry(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. } | Self::Failed { .. } | Self::Garbage { .. } | Self::Kind { .. }
        )
    }
}

impl Helper {
    /// The helper that a docker config calls `name`; `limit` for each answer.
    ///
    /// # Errors
    /// [`HelperError::Name`] for what is no plain name, such as a path.
    pub fn named(name: &str, limit: Duration) -> Result<Self, HelperError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(HelperError::Name(name.to_owned()));
        }
        Ok(Self(Program {
            path: format!("docker-credential-{name}"),
            args: Vec::new(),
            limit,
            environment: None,
        }))
    }

    /// The helper at this path, which gets these arguments and this environment and nothing else.
    pub fn at(path: String, args: Vec<String>, environment: Vec<(String, String)>) -> Self {
        Self(Program::beside_us(path, args, environment))
    }

    /// Its name on `PATH`, or its path.
    pub fn program(&self) -> &str {
        &self.0.path
    }

    /// The login for a registry, called as docker calls it.
    ///
    /// # Errors
    /// [`HelperError`].
    pub async fn get(&self, server: &str) -> Result<Credential, HelperError> {
        self.ask("get", server).await
    }

    /// The registries it has logins for, sorted.
    ///
    /// # Errors
    /// [`HelperError`].
    pub async fn list(&self) -> Result<Vec<String>, HelperError> {
        let accounts: BTreeMap<String, IgnoredAny> = self.ask("list", "").await?;
        Ok(accounts.into_keys().collect())
    }

    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        verb: &str,
        input: &str,
    ) -> Result<T, HelperError> {
        let program = || self.0.path.clone();
        let ended = self.0.run(&[verb], input).await?;
        if ended.status.success() {
            let answer = serde_json::from_slice(&ended.stdout);
            return answer.map_err(|_| HelperError::Garbage { program: program() });
        }
        if ended.said().contains(NOT_FOUND) {
            return Err(HelperError::NotFound { program: program() });
        }
        Err(ended.failed(program()))
    }
}

impl Program {
    /// One that gets these arguments and this environment and nothing else.
    fn beside_us(path: String, args: Vec<String>, environment: Vec<(String, String)>) -> Self {
        Self {
            path,
            args,
            limit: Duration::from_secs(ANSWER_SECONDS_MAX),
            environment: Some(environment),
        }
    }
}

impl Ended {
    /// All that it wrote, in small letters.
    fn said(&self) -> String {
        let Self { stdout, stderr, .. } = self;
        String::from_utf8_lossy(&[&**stdout, stderr].concat()).to_lowercase()
    }

    fn failed(&self, program: String) -> HelperError {
        let said = self.said();
        HelperError::Failed {
            program,
            status: self.status,
            said: COMPLAINTS.into_iter().find(|phrase| said.contains(phrase)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        let named = |name| Helper::named(name, Duration::ZERO);
        for name in ["", "../x", "/bin/sh", "a b", "a\0", "a;b", "$(x)"] {
            assert!(matches!(named(name), Err(HelperError::Name(_))), "{name}");
        }
        for name in ["desktop", "ecr-login", "wincred.exe", "gcloud_2"] {
            let program = format!("docker-credential-{name}");
            assert_eq!(named(name).unwrap().program(), program);
        }
    }

    #[test]
    fn no_debug_output_has_a_password() {
        let text = r#"{"ServerURL":"r.io","Username":"robot","Secret":"hunter2"}"#;
        let credential: Credential = serde_json::from_str(text).unwrap();
        assert_eq!(credential.secret, "hunter2");
        assert_eq!(format!("{credential:?}"), "Credential { .. }");
    }
}

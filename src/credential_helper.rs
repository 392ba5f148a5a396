//! Programs that keep passwords: `docker-credential-NAME`, which docker's `credsStore` and `credHelpers` name.
//! They are found on `PATH` and run without a shell, under limits (docker/docker-credential-helpers, `client`).
//!
//! What such a program writes may hold a password anywhere. Nothing of it is repeated: of an error only
//! phrases are, that are written here. This file must not know what becomes of a login.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// How long a helper may take for one answer, in seconds: the kubelet gives its own credential providers as much, and a
/// person may have to unlock a key store meanwhile.
pub const ANSWER_SECONDS_MAX: u64 = 60;
/// Most that a helper may write to either of its outputs, in bytes: what a Secret holds at most.
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// What helpers say when they have no login, on standard output (`credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// What helpers, and the programs they start, say when they fail; nothing else is repeated.
const COMPLAINTS: [&str; 11] = [
    "command not found",
    "connection refused",
    "executable file not found",
    "no basic auth credentials",
    "no credentials server url",
    "no such file or directory",
    "no valid credential",
    "not initialized",
    "not logged in",
    "permission denied",
    "timed out",
];

/// A credential helper.
#[derive(Debug)]
pub struct Helper {
    program: String,
    limit: Duration,
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
    /// There is no such program.
    #[error("`{0}` is not on PATH")]
    Missing(String),
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
}

impl HelperError {
    /// Whether the program would fail the same way when it is asked for another registry.
    pub fn is_of_every_registry(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. } | Self::Failed { .. } | Self::Garbage { .. }
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
        Ok(Self {
            program: format!("docker-credential-{name}"),
            limit,
        })
    }

    /// Its name on `PATH`.
    pub fn program(&self) -> &str {
        &self.program
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
        let program = || self.program.clone();
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => HelperError::Missing(program()),
            error => HelperError::Start {
                program: program(),
                error,
            },
        })?;
        let ended = tokio::time::timeout(self.limit, converse(child, input)).await;
        let Ok(ended) = ended else {
            return Err(HelperError::TimedOut {
                program: program(),
                limit: self.limit,
            });
        };
        let (status, [stdout, stderr]) = ended.map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => HelperError::TooMuch { program: program() },
            error => HelperError::Start {
                program: program(),
                error,
            },
        })?;
        if status.success() {
            let answer = serde_json::from_slice(&stdout);
            return answer.map_err(|_| HelperError::Garbage { program: program() });
        }
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).to_lowercase();
        if said.contains(NOT_FOUND) {
            return Err(HelperError::NotFound { program: program() });
        }
        Err(HelperError::Failed {
            program: program(),
            status,
            said: COMPLAINTS.into_iter().find(|phrase| said.contains(phrase)),
        })
    }
}

/// Writes `input`, and gives how the program ended and its two outputs.
async fn converse(mut child: Child, input: &str) -> io::Result<(ExitStatus, [Vec<u8>; 2])> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // It may end without reading its input.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(write, read(stdout), read(stderr))?;
    Ok((child.wait().await?, [stdout, stderr]))
}

/// # Errors
/// [`ErrorKind::FileTooLarge`] beyond [`OUTPUT_BYTES_MAX`].
async fn read(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        let mut output = output.take(OUTPUT_BYTES_MAX + 1);
        if output.read_to_end(&mut bytes).await? as u64 > OUTPUT_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
    }
    Ok(bytes)
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

//! One distribution registry: a process, its configuration, and who may come in.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::base_config;
use crate::harness::pki::Pair;
use crate::harness::process::Process;
use crate::harness::sandbox;
use crate::harness::tier::tools;
use crate::harness::wait::wait_for;

/// A registry listens 0.2 s after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Who may pull.
#[derive(Debug)]
pub(crate) enum Auth {
    /// Anyone.
    Open,
    /// One user with a password, which is given as bcrypt hashes it.
    Password {
        /// Name of the user.
        user: &'static str,
        /// bcrypt's hash of the password.
        hash: &'static str,
    },
    /// Whoever has a token from this server.
    Token {
        /// Where tokens are to be had.
        realm: String,
        /// The certificate that tokens are signed with.
        certificate: PathBuf,
    },
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Process,
    listen: SocketAddr,
}

impl Registry {
    /// Starts a registry on `listen`; its images are in the store that all share under `at`.
    pub(crate) fn start(
        name: &str,
        listen: &str,
        auth: &Auth,
        tls: Option<&Pair>,
        at: &Path,
        logs: &Path,
    ) -> Self {
        let mut config = base_config(&at.join("store"), listen);
        match auth {
            Auth::Open => {}
            Auth::Password { user, hash } => {
                let path = at.join(format!("{name}.htpasswd"));
                fs::write(&path, format!("{user}:{hash}\n")).expect("it is writable");
                config["auth"] = json!({"htpasswd": {"realm": name, "path": path}});
            }
            Auth::Token { realm, certificate } => {
                config["auth"] = json!({"token": {
                    "realm": realm,
                    "service": super::token::SERVICE,
                    "issuer": super::token::ISSUER,
                    "rootcertbundle": certificate,
                }});
            }
        }
        if let Some(pair) = tls {
            config["http"]["tls"] = json!({"certificate": pair.certificate, "key": pair.key});
        }
        let path = at.join(format!("{name}.json"));
        fs::write(&path, config.to_string()).expect("the work directory is writable");
        let mut command = sandbox::program(&tools().join("registry"));
        command
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::start(&format!("registry-{name}"), &mut command, logs);
        Self {
            process,
            listen: listen.parse().expect("a constant address is valid"),
        }
    }

    /// Waits until it listens.
    pub(crate) fn wait_until_ready(&self) {
        wait_for(
            &format!("a registry listens on {}", self.listen),
            START_LIMIT,
            || {
                self.process.check_running()?;
                TcpStream::connect(self.listen)
                    .map(drop)
                    .map_err(|error| error.to_string())
            },
        );
    }
}

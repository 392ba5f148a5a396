//! A registry of one trial's own, which takes its password back and gives it again.

use std::fs;
use std::path::PathBuf;

use super::distribution::{Auth, Registry};
use super::{BETA, Login};

/// A registry that one login may pull from, unless that is revoked.
#[derive(Debug)]
pub(crate) struct Private {
    login: &'static Login,
    at: PathBuf,
    logs: PathBuf,
    registry: Option<Registry>,
}

impl Private {
    /// Starts one; its images are in the store that all share under `at`.
    pub(super) fn start(login: &'static Login, at: PathBuf, logs: PathBuf) -> Self {
        let registry = None;
        let mut private = Self {
            login,
            at,
            logs,
            registry,
        };
        private.start_again();
        private
    }

    /// Starts it after [`Self::stop`], with the password as it was at first.
    pub(crate) fn start_again(&mut self) {
        let Login {
            user, host, hash, ..
        } = self.login;
        let auth = Auth::Password { user, hash };
        let registry = Registry::start(user, host, &auth, None, &self.at, &self.logs);
        registry.wait_until_ready();
        self.registry = Some(registry);
    }

    /// Nobody listens any more.
    pub(crate) fn stop(&mut self) {
        self.registry = None;
    }

    /// The user has another password from now on: the registry reads the file again when it has changed.
    pub(crate) fn revoke(&self) {
        let user = self.login.user;
        let path = self.at.join(format!("{user}.htpasswd"));
        fs::write(path, format!("{user}:{}\n", BETA.hash)).expect("it is writable");
    }
}

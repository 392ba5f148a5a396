//! Where logins are: files, and the credential helpers that they name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::CliError;
use crate::cli::input;
use crate::cli::terminal::Progress;
use crate::credential::docker_config::PAYLOAD_BYTES_MAX;
use crate::credential::{Login, LoginFile};
use crate::credential_helper::{Helper, HelperError};
use crate::import::{Found, Refusal};

/// Largest file with logins, in bytes: what a Secret holds at most.
const FILE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Docker Desktop keeps its own session in the store, under these; they are no logins of a registry.
const DESKTOP_SESSION: [&str; 2] = [
    "https://index.docker.io/v1/access-token",
    "https://index.docker.io/v1/refresh-token",
];

/// What to look at.
pub(super) struct Sources<'a> {
    /// Docker's own file if there are none.
    pub(super) files: &'a [PathBuf],
    /// How long a helper may take; `None` to ask none.
    pub(super) helpers: Option<Duration>,
}

/// What was found.
#[derive(Default)]
pub(super) struct Finds {
    pub(super) logins: Vec<Found>,
    /// What is true of a whole file.
    pub(super) notes: Vec<String>,
}

impl Sources<'_> {
    /// Reads the files, and asks their helpers.
    pub(super) async fn find(&self) -> Result<Finds, CliError> {
        let default = match self.files {
            [] => vec![docker_config()?],
            _ => Vec::new(),
        };
        let mut finds = Finds::default();
        let progress = Progress::new();
        for path in self.files.iter().chain(&default) {
            let text = input::read(path, FILE_BYTES_MAX)?;
            let file = LoginFile::read(&text);
            let file = file.map_err(|error| CliError::Logins {
                path: path.clone(),
                error,
            })?;
            finds.take(file, path, self.helpers, &progress).await;
        }
        Ok(finds)
    }
}

/// Where docker looks for its file.
fn docker_config() -> Result<PathBuf, CliError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = set("DOCKER_CONFIG").map(PathBuf::from);
    let directory = directory.or_else(|| Some(Path::new(&set("HOME")?).join(".docker")));
    let directory = directory.ok_or(CliError::Usage(
        "neither DOCKER_CONFIG nor HOME is set: name the file",
    ))?;
    Ok(directory.join("config.json"))
}

impl Finds {
    async fn take(
        &mut self,
        file: LoginFile,
        path: &Path,
        helpers: Option<Duration>,
        progress: &Progress,
    ) {
        let from = path.display().to_string();
        if file.has_headers {
            let note = "`HttpHeaders` are left out: the kubelet sends none";
            self.notes.push(format!("{from}: {note}"));
        }
        for (key, login) in file.logins {
            let login = login.map_err(|error| Refusal {
                reason: error.to_string(),
                fix: "log in again".to_owned(),
            });
            let from = from.clone();
            self.logins.push(Found { key, from, login });
        }
        let Some(limit) = helpers else {
            if file.creds_store.is_some() || !file.cred_helpers.is_empty() {
                let note = "its credential helpers were not asked";
                self.notes.push(format!("{from}: {note}"));
            }
            return;
        };
        if let Some(name) = file.creds_store {
            self.take_store(&name, limit, progress).await;
        }
        let mut asked: Vec<Asked> = Vec::new();
        for (registry, name) in file.cred_helpers {
            let at = asked.iter().position(|asked| asked.name == name);
            let at = at.unwrap_or_else(|| {
                asked.push(Asked::new(name, limit));
                asked.len() - 1
            });
            if let Some(asked) = asked.get_mut(at) {
                self.logins.push(asked.get(registry, progress).await);
            }
        }
    }

    /// Every login of a store.
    async fn take_store(&mut self, name: &str, limit: Duration, progress: &Progress) {
        let mut asked = Asked::new(name.to_owned(), limit);
        for registry in asked.list(progress).await {
            match registry {
                Ok(registry) if DESKTOP_SESSION.contains(&&*registry) => {
                    let note = "is the session of Docker Desktop itself, and left out";
                    self.notes.push(format!("{registry} {note}"));
                }
                Ok(registry) => self.logins.push(asked.get(registry, progress).await),
                Err(found) => self.logins.push(found),
            }
        }
    }
}

/// A helper that is asked again and again, until it fails in a way that it would fail again.
struct Asked {
    name: String,
    helper: Result<Helper, HelperError>,
}

impl Asked {
    fn new(name: String, limit: Duration) -> Self {
        let helper = Helper::named(&name, limit);
        Self { name, helper }
    }

    /// The registries it has logins for, or what to say instead.
    async fn list(&mut self, progress: &Progress) -> Vec<Result<String, Found>> {
        progress.show(&format!("asking {} for its logins", self.name));
        let listed = match &self.helper {
            Ok(helper) => helper.list().await,
            Err(error) => Err(error.clone()),
        };
        match listed {
            Ok(registries) => registries.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(self.found("credsStore".to_owned(), Err(error)))],
        }
    }

    async fn get(&mut self, registry: String, progress: &Progress) -> Found {
        progress.show(&format!("asking {} for {registry}", self.name));
        let credential = match &self.helper {
            Ok(helper) => helper.get(&registry).await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &credential
            && error.is_of_every_registry()
        {
            self.helper = Err(error.clone());
        }
        let login = credential.map(|it| Login::new(&registry, it.username, it.secret));
        self.found(registry, login)
    }

    fn found(&self, key: String, login: Result<Login, HelperError>) -> Found {
        let program = format!("docker-credential-{}", self.name);
        let fix = |error: &HelperError| match error {
            HelperError::Name(_) => {
                "write the end of its name, after `docker-credential-`".to_owned()
            }
            HelperError::Missing { .. } => {
                "install it where PATH leads, or leave such logins out with --no-helpers".to_owned()
            }
            HelperError::NotFound { .. } => "log in again, or remove the entry".to_owned(),
            _ => format!(
                "see what it says itself: `echo {key} | {program} get` (this prints a password)"
            ),
        };
        let login = login.map_err(|error| Refusal {
            fix: fix(&error),
            reason: error.to_string(),
        });
        Found {
            key,
            from: program,
            login,
        }
    }
}

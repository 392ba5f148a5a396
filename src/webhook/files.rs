//! Files that are read again when they change: rules and Secret manifests.
//!
//! What cannot be used never replaces what can, and each changed state is logged once. This module must
//! not decide anything about a request.

use std::path::PathBuf;

use super::publisher::{Publisher, what_now};
use crate::files::{Reload, WatchedFiles};
use crate::http::probes::Condition;
use crate::index::SecretManifest;
use crate::manifest::{self, MANIFEST_BYTES_MAX, ManifestError};
use crate::rules::config::FILE_RULES_BYTES_MAX;

/// The rules file and the Secret manifests, published as snapshots.
#[derive(Debug)]
pub struct RulesFiles {
    rules: WatchedFiles,
    manifests: WatchedFiles,
    publisher: Publisher,
    manifests_condition: Condition,
    /// Whether manifests were ever read.
    has_manifests: bool,
}

impl RulesFiles {
    /// Nothing is read before the first [`Reload::reload`]; `condition` is met once the manifests are
    /// read.
    pub fn new(
        rules: PathBuf,
        manifests: Vec<PathBuf>,
        publisher: Publisher,
        condition: Condition,
    ) -> Self {
        Self {
            rules: WatchedFiles::new(vec![rules], FILE_RULES_BYTES_MAX),
            manifests: WatchedFiles::new(manifests, MANIFEST_BYTES_MAX),
            publisher,
            manifests_condition: condition,
            has_manifests: false,
        }
    }

    /// Whether there are new rules to publish.
    fn reload_rules(&mut self) -> bool {
        let read = match self.rules.changed() {
            None => return false,
            Some(Ok(files)) => files.first(),
            Some(Err(error)) => {
                return self
                    .publisher
                    .load_rules(&error.path, Err(error.to_string()));
            }
        };
        let Some((path, bytes)) = read else {
            return false; // There is one.
        };
        let text = str::from_utf8(bytes).map_err(|_| not_utf8(path));
        self.publisher.load_rules(path, text)
    }

    /// Whether there are new manifests to publish.
    fn reload_manifests(&mut self) -> bool {
        let parsed = match self.manifests.changed() {
            None => return false,
            Some(Ok(files)) => read_secrets(files),
            Some(Err(error)) => Err(error.to_string()),
        };
        match parsed {
            Ok(secrets) => {
                self.publisher.assembly.set_manifests(secrets);
                self.has_manifests = true;
                self.manifests_condition.met();
                true
            }
            Err(reason) => {
                let what_now = what_now(self.has_manifests);
                tracing::error!(reason, "pull secrets refused: {what_now}");
                if !self.has_manifests {
                    self.manifests_condition.unmet(reason);
                }
                false
            }
        }
    }
}

impl Reload for RulesFiles {
    fn reload(&mut self) {
        let rules = self.reload_rules();
        let manifests = self.reload_manifests();
        if rules || manifests {
            self.publisher.publish();
        }
    }
}

fn read_secrets(files: &[(String, Vec<u8>)]) -> Result<Vec<SecretManifest>, String> {
    let mut secrets = Vec::new();
    for (path, bytes) in files {
        let text = str::from_utf8(bytes).map_err(|_| not_utf8(path))?;
        for object in manifest::parse(text).map_err(|error| syntax(path, &error))? {
            let secret = SecretManifest::read(&object);
            secrets.push(secret.ok_or_else(|| {
                format!("{path}: an object is no Secret; keep other objects in other files")
            })?);
        }
    }
    Ok(secrets)
}

/// Without the reader's own words, which may quote a password.
fn syntax(path: &str, error: &ManifestError) -> String {
    match error {
        ManifestError::Syntax { line, column, .. } => {
            format!("{path}:{line}:{column}: neither YAML nor JSON")
        }
        other => format!("{path}: {other}"),
    }
}

fn not_utf8(path: &str) -> String {
    format!("{path}: not UTF-8 text; save it as UTF-8")
}

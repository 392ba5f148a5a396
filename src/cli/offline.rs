//! What a command decides with where there is no cluster to ask: rules, Secret manifests and
//! namespace labels from the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use super::CliError;
use super::input::read_text;
use super::terminal::{is_styled, note};
use super::webhook::label;
use crate::admission::decision::decide_pod;
use crate::admission::pod::INJECT_ANNOTATION;
use crate::admission::{Decision, PodView, Reason};
use crate::index::{Index, SecretManifest};
use crate::manifest::{self, MANIFEST_BYTES_MAX};
use crate::rules::config::FILE_RULES_BYTES_MAX;
use crate::rules::selector::Labels as _;
use crate::rules::{self, RulesConfig, Ruleset};
use crate::snapshot::{ManifestIndex, Namespaces, Snapshot};

#[derive(Debug, Args)]
pub(super) struct OfflineArgs {
    /// Rules file
    #[arg(short, long, value_name = "FILE")]
    rules: PathBuf,
    #[command(flatten)]
    surroundings: SurroundingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct SurroundingsArgs {
    /// Manifest of Secrets that rules hand out, so that their keys are known; may be repeated
    ///
    /// A Secret belongs to the entry of `pullSecrets` whose `source` it is. Without it, nothing is
    /// known about the credential: rules with `images` still add it, rules without cannot.
    #[arg(long = "pull-secret", value_name = "FILE")]
    pub(super) pull_secrets: Vec<PathBuf>,
    /// Label of the namespaces, for `namespaceSelector` and for `pullpass.dev/inject=false`, by which a
    /// namespace opts out; may be repeated
    #[arg(long = "namespace-label", value_name = "KEY=VALUE", value_parser = label)]
    pub(super) namespace_labels: Vec<(String, String)>,
    /// Namespace of Pods that do not name one [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
}

/// Where `kubectl create` puts what names no namespace.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Rules as written and as compiled, with what is known around them.
#[derive(Debug)]
pub(super) struct Offline {
    pub(super) config: RulesConfig,
    pub(super) snapshot: Snapshot,
    /// Namespace of Pods that do not name one.
    pub(super) namespace: String,
}

impl OfflineArgs {
    /// Reads all files.
    pub(super) fn load(&self) -> Result<Offline, CliError> {
        self.surroundings.load(&self.rules)
    }
}

impl SurroundingsArgs {
    /// Reads all files.
    pub(super) fn load(&self, rules: &Path) -> Result<Offline, CliError> {
        let config = load_rules(rules)?;
        let secrets = read_secrets(&self.pull_secrets)?;
        let labels = self.namespace_labels.iter().cloned();
        Ok(Offline {
            snapshot: Snapshot::new(
                Arc::new(Ruleset::compile(&config)),
                Arc::new(index(&config, secrets)),
                Namespaces::Fixed(Arc::new(labels.collect())),
                1,
            ),
            config,
            namespace: match &self.namespace {
                Some(namespace) => namespace.clone(),
                None => DEFAULT_NAMESPACE.to_owned(),
            },
        })
    }
}

/// Reads a rules file.
pub(super) fn load_rules(path: &Path) -> Result<RulesConfig, CliError> {
    let text = read_text(path, FILE_RULES_BYTES_MAX)?;
    parse_rules(&path.display().to_string(), &text)
}

/// Reads a rules text; its errors are rendered as `check` renders them.
pub(super) fn parse_rules(origin: &str, text: &str) -> Result<RulesConfig, CliError> {
    rules::load(text)
        .map_err(|errors| CliError::Rules(errors.render(origin, text, is_styled(&io::stderr()))))
}

/// Reads a manifest: its objects, those of Lists one by one.
pub(super) fn read_objects(path: &Path) -> Result<Vec<Value>, CliError> {
    let text = read_text(path, MANIFEST_BYTES_MAX)?;
    manifest::parse(&text).map_err(|error| CliError::Manifest {
        path: path.into(),
        error,
    })
}

/// Reads Secret manifests; other objects beside them are left aside.
pub(super) fn read_secrets(paths: &[PathBuf]) -> Result<Vec<SecretManifest>, CliError> {
    let mut secrets = Vec::new();
    for path in paths {
        let text = read_text(path, MANIFEST_BYTES_MAX)?;
        let objects = manifest::parse(&text).map_err(|error| CliError::Manifest {
            path: path.into(),
            error: error.without_quotes(),
        })?;
        let found = secrets.len();
        secrets.extend(objects.iter().filter_map(SecretManifest::read));
        if secrets.len() == found {
            note(&format!("{} holds no Secret", path.display()));
        }
    }
    Ok(secrets)
}

/// What Secret manifests say about the pull secrets of the rules.
pub(super) fn index(config: &RulesConfig, secrets: Vec<SecretManifest>) -> Index {
    let known = ManifestIndex::new(secrets, config);
    for name in known.unclaimed {
        note(&format!(
            "Secret \"{name}\" is the source of no entry of pullSecrets"
        ));
    }
    known.index
}

/// Decides as a cluster would: the webhook's own `namespaceSelector` leaves out namespaces with the
/// label [`INJECT_ANNOTATION`]`: "false"`, so that the webhook is never asked about their Pods.
pub(super) fn decide<'s>(
    namespace: &str,
    pod: &PodView<'_>,
    snapshot: &'s Snapshot,
) -> Decision<'s> {
    if opts_out(namespace, snapshot) {
        return Decision::unchanged(Reason::OptedOut);
    }
    decide_pod(namespace, pod, snapshot)
}

/// Whether the namespace's labels keep its Pods from the webhook.
pub(super) fn opts_out(namespace: &str, snapshot: &Snapshot) -> bool {
    let labels = snapshot.namespaces().labels(namespace);
    labels.is_some_and(|labels| labels.value(INJECT_ANNOTATION) == Some("false"))
}

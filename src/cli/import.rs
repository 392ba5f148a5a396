//! `import`: the logins of a person or a build machine, as pull secrets and rules.

mod find;
mod text;
mod write;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::live;
use super::offline::parse_rules;
use super::terminal::is_styled;
use super::{CliError, Format, Outcome};
use crate::credential_helper::ANSWER_SECONDS_MAX;
use crate::import::{Clock, Import, Row};
use crate::manifest;
use crate::rules::config::RULES_KEY;

/// Make pull secrets and rules out of docker logins
///
/// Reads docker's config.json, a .dockercfg, or the auth.json of podman, skopeo and buildah. Where docker keeps the
/// logins in a credential helper (`credsStore`, `credHelpers`), it asks that helper, as docker does. Says for each login
/// into which Secret it goes, or why the kubelet could not use it, and prints rules that hand each Secret to the Pods
/// whose images it covers: one Secret for each registry host, `docker-hub` for Docker Hub.
///
/// No password is shown or written unless you ask for it:
///
/// --out DIR writes secrets.yaml (readable by you alone), rules.yaml (what the ConfigMap of the rules holds) and
/// values.yaml (the same rules as values of the Helm chart, which give the controller the rights on these Secrets).
///
/// --reveal prints the Secrets as one YAML stream for `kubectl apply --server-side -f -`. The rules are not among them,
/// because applied they would replace the rules that are there; --config-map NAME adds them as that ConfigMap.
///
/// Of several logins for one registry the later counts: later files, and in one file `auths`, then `credsStore`, then
/// `credHelpers`.
///
/// -o json and -o yaml print one object: logins (key, index_key, from, state: used, empty, replaced or unusable,
/// secret, reason, fix, notes), secrets (name, keys), notes, rules, written, unusable.
///
/// Exit code 1 if a login cannot be used or there is none, 2 if a file or the answer cannot be read or written,
/// or a Secret would be larger than Kubernetes takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass import
  pullpass import --out pull-secrets
  helm upgrade --install pullpass charts/pullpass -n pullpass -f pull-secrets/values.yaml
  pullpass import --reveal | kubectl apply --server-side -f -
  pullpass import --reveal --config-map pullpass-rules ci/config.json | kubectl apply --server-side -f -
  pullpass import ~/.docker/config.json \"$XDG_RUNTIME_DIR\"/containers/auth.json
  pullpass import -o json | jq '.logins[] | select(.state == \"unusable\") | {key, reason, fix}'")]
pub(super) struct ImportArgs {
    /// Files with logins; `-` for standard input [default: config.json in $DOCKER_CONFIG, else in ~/.docker]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask no credential helper
    #[arg(long)]
    no_helpers: bool,
    /// How long a credential helper may take for one answer
    #[arg(long, value_name = "SECONDS", default_value_t = ANSWER_SECONDS_MAX)]
    helper_timeout: u64,
    /// Put all logins into one Secret of this name
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Namespace of the Secrets: the one where pullpass is, or will be, installed
    #[arg(short, long, value_name = "NAMESPACE", default_value = "pullpass")]
    namespace: String,
    /// Write secrets.yaml, rules.yaml and values.yaml into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long, requires = "out")]
    force: bool,
    /// Print the Secrets, with their passwords; the report goes to standard error
    #[arg(long, conflicts_with_all = ["out", "output"])]
    reveal: bool,
    /// Print the rules too, as this ConfigMap
    #[arg(long, value_name = "NAME", requires = "reveal")]
    config_map: Option<String>,
    /// How to print the report
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Holds no password and no user name.
#[derive(Debug, Serialize)]
struct Report<'a> {
    logins: &'a [Row],
    secrets: Vec<SecretReport<'a>>,
    notes: &'a [String],
    rules: Value,
    written: Vec<String>,
    unusable: usize,
}

#[derive(Debug, Serialize)]
struct SecretReport<'a> {
    name: &'a str,
    keys: Vec<&'a str>,
}

pub(super) fn run(args: &ImportArgs) -> Result<Outcome, CliError> {
    let sources = find::Sources {
        files: &args.files,
        helpers: (!args.no_helpers).then(|| Duration::from_secs(args.helper_timeout)),
    };
    let found = live::run(sources.find())?;
    let import = Import::of(found.logins, args.into.as_deref(), &clock());
    if let Some(secret) = import.secrets.iter().find(|secret| secret.is_too_large()) {
        let secret = secret.name().to_owned();
        return Err(CliError::LargeSecret { secret });
    }
    let rules = import.rules();
    let rules_text = manifest::to_yaml(&[&rules]);
    parse_rules(RULES_KEY, &rules_text)?;
    let written = match &args.out {
        Some(directory) if !import.secrets.is_empty() => {
            let secrets = manifest::to_yaml(&manifests(&import, args, None));
            let values = json!({"rules": {"pullSecrets": rules.get("pullSecrets"), "rules": rules.get("rules")}});
            let values = manifest::to_yaml(&[values]);
            write::all(directory, args.force, &secrets, &rules_text, &values)?
        }
        _ => Vec::new(),
    };
    let secrets = import.secrets.iter().map(|secret| SecretReport {
        name: secret.name(),
        keys: secret.keys().collect(),
    });
    let report = Report {
        logins: &import.rows,
        secrets: secrets.collect(),
        notes: &found.notes,
        rules,
        written,
        unusable: import.unusable(),
    };
    if args.reveal {
        let mut stderr = io::stderr().lock();
        let remarks = text::remarks(&report, is_styled(&stderr));
        stderr.write_all(remarks.as_bytes())?;
        let stream = manifest::to_yaml(&manifests(&import, args, Some(&rules_text)));
        io::stdout().lock().write_all(stream.as_bytes())?;
    } else {
        args.output.print(&report, text::render)?;
    }
    Ok(match report.unusable {
        0 if !import.secrets.is_empty() => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

/// The Secrets, with their passwords, and if asked for the ConfigMap of the rules.
fn manifests(import: &Import, args: &ImportArgs, rules: Option<&str>) -> Vec<Value> {
    let namespace = &args.namespace;
    let secrets = import
        .secrets
        .iter()
        .map(|secret| secret.manifest(namespace));
    let config_map = args.config_map.as_ref().zip(rules).map(|(name, rules)| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {RULES_KEY: rules},
        })
    });
    secrets.chain(config_map).collect()
}

fn clock() -> Clock {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Clock {
        now: now.unwrap_or_default().as_secs(),
        show: |seconds| {
            let at = i64::try_from(seconds).ok();
            let at = at.and_then(|at| Timestamp::from_second(at).ok());
            // Beyond the year 9999.
            at.map_or_else(|| "the end of time".to_owned(), |at| at.to_string())
        },
    }
}

//! `image`, `match` and `keys`: how the kubelet reads references and pull secrets, as JSON, one object
//! a line, so that a script can ask before a Pod does. No password or token is ever printed.

mod warnings;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{CliError, Outcome};
use crate::credential::keyring::{Key, index_key};
use crate::credential::{DockerConfig, Entry, Keyring, SecretType};
use crate::image::ImageRef;

/// A Secret holds 1 MiB at most; a whole list of manifests, given by mistake, should still be told
/// apart and not only refused.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// Show how the kubelet reads image references
///
/// Prints one JSON object a line for each reference: input, name, registry, repository, tag, digest,
/// familiar, error. `name` is what the kubelet looks credentials up by. What is absent is null; a
/// missing tag stays absent. Bytes that are not UTF-8 are shown as U+FFFD. Exit code 1 if any
/// reference did not parse.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass image nginx ghcr.io/acme/app:1.0
  kubectl get pods -A -o jsonpath='{range .items[*].spec.containers[*]}{.image}{\"\\n\"}{end}' | pullpass image -")]
pub(super) struct ImageArgs {
    /// References as in a Pod; `-` reads one a line from standard input, cut at line feeds only
    #[arg(value_name = "REF", required = true, allow_hyphen_values = true)]
    references: Vec<OsString>,
}

/// Show which keys of a pull secret the kubelet would use for an image
///
/// Prints one JSON object a line for each image: image, name, matched_in_order, docker_hub_fallback,
/// error. The keys are taken as those of `auths` in one secret and come back as they were given, in
/// the order the kubelet tries them; it is random among those that mean the same registry. Exit code
/// 1 if any image did not parse.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass match --auth-key ghcr.io --auth-key ghcr.io/acme ghcr.io/acme/app:1.0
  pullpass match --auth-key https://index.docker.io/v1/ nginx janedoe/awesomeapp:v1")]
pub(super) struct MatchArgs {
    /// A key as in `auths`; may be given more than once
    #[arg(
        long = "auth-key",
        value_name = "KEY",
        required = true,
        allow_hyphen_values = true
    )]
    auth_keys: Vec<OsString>,
    /// Images as in a Pod; `-` reads one a line from standard input, cut at line feeds only
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<OsString>,
}

/// Show how the kubelet decodes the payload of a pull secret
///
/// Prints one JSON object: result (ok, error, or skipped when the payload is empty), error, keys (key,
/// index_key, username, usable; sorted by key), warnings. `index_key` is what the kubelet matches
/// images with, null where it ignores the key; `usable` tells whether user name and password are both
/// there. Passwords and tokens are never shown, but `key` comes back exactly as it is written, also
/// where somebody wrote a password into it as user info (`user:password@registry`). Exit code 1 if the kubelet cannot decode the payload:
/// it then pulls no image of any Pod that names the secret.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass keys ~/.docker/config.json
  kubectl get secret harbor -o jsonpath='{.data.\\.dockerconfigjson}' | base64 -d | pullpass keys -")]
pub(super) struct KeysArgs {
    /// Type of the Secret, without `kubernetes.io/`
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = PayloadType::Dockerconfigjson)]
    payload_type: PayloadType,
    /// The decoded payload (not base64, no manifest); `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PayloadType {
    /// Data key `.dockerconfigjson`: `{"auths": {...}}`
    #[value(alias = "kubernetes.io/dockerconfigjson")]
    Dockerconfigjson,
    /// Data key `.dockercfg`: the bare map
    #[value(alias = "kubernetes.io/dockercfg")]
    Dockercfg,
}

impl From<PayloadType> for SecretType {
    fn from(payload_type: PayloadType) -> Self {
        match payload_type {
            PayloadType::Dockerconfigjson => Self::DockerConfigJson,
            PayloadType::Dockercfg => Self::DockerCfg,
        }
    }
}

#[derive(Serialize)]
struct ImageRow<'a> {
    input: &'a str,
    name: Option<String>,
    registry: Option<&'a str>,
    repository: Option<String>,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
    familiar: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct MatchRow<'a> {
    image: &'a str,
    name: Option<String>,
    matched_in_order: Vec<&'a str>,
    docker_hub_fallback: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct KeysRow<'a> {
    result: &'static str,
    error: Option<String>,
    keys: Vec<KeyRow<'a>>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct KeyRow<'a> {
    key: &'a str,
    index_key: Option<String>,
    username: &'a str,
    usable: bool,
}

pub(super) fn image(args: &ImageArgs) -> Result<Outcome, CliError> {
    for_each_reference(&args.references, |shown, bytes| {
        let (image, error) = split(ImageRef::parse_bytes(bytes));
        write_row(&ImageRow {
            input: shown,
            name: image.map(|i| i.to_string()),
            registry: image.and_then(|i| i.registry()),
            repository: image.map(|i| i.repository()),
            tag: image.and_then(|i| i.tag()),
            digest: image.and_then(|i| i.digest()),
            familiar: image.map(|i| i.familiar()),
            error: error.map(|e| e.to_string()),
        })?;
        Ok(image.is_some())
    })
}

pub(super) fn match_keys(args: &MatchArgs) -> Result<Outcome, CliError> {
    let mut keys: Vec<_> = args
        .auth_keys
        .iter()
        .map(|key| key.to_string_lossy())
        .collect();
    // They are names of one JSON object, which holds each only once.
    let mut seen = HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    let keyring = Keyring::new(keys.iter().map(|key| Key { key, usable: true }));

    for_each_reference(&args.images, |shown, bytes| {
        let (image, error) = split(ImageRef::parse_bytes(bytes));
        let lookup = image.map(|i| keyring.lookup(&i));
        let docker_hub_fallback = lookup.as_ref().is_some_and(|l| l.docker_hub_fallback);
        write_row(&MatchRow {
            image: shown,
            name: image.map(|i| i.to_string()),
            matched_in_order: lookup.map(|l| l.matched_in_order).unwrap_or_default(),
            docker_hub_fallback,
            error: error.map(|e| e.to_string()),
        })?;
        Ok(image.is_some())
    })
}

pub(super) fn keys(args: &KeysArgs) -> Result<Outcome, CliError> {
    let payload = read_payload(&args.file)?;
    let decoded = DockerConfig::decode(args.payload_type.into(), &payload);
    let mut row = KeysRow {
        result: if payload.is_empty() { "skipped" } else { "ok" },
        error: None,
        keys: Vec::new(),
        warnings: Vec::new(),
    };
    match &decoded {
        Ok(config) => {
            row.keys = config.entries().iter().map(KeyRow::from).collect();
            row.warnings = warnings::of_entries(config.entries());
        }
        Err(error) => {
            row.result = "error";
            row.error = Some(error.to_string());
        }
    }
    if row.keys.is_empty() {
        row.warnings
            .extend(warnings::of_payload(args.payload_type.into(), &payload));
    }
    write_row(&row)?;
    Ok(match decoded {
        Ok(_) => Outcome::Clean,
        Err(_) => Outcome::Findings,
    })
}

impl<'a> From<&'a Entry> for KeyRow<'a> {
    fn from(entry: &'a Entry) -> Self {
        let index_key = index_key(&entry.key);
        Self {
            key: &entry.key,
            index_key: index_key.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            username: &entry.username,
            usable: entry.is_usable(),
        }
    }
}

/// Hands each reference to `answer`, as text to show and as bytes; `answer` tells whether it is good.
fn for_each_reference(
    arguments: &[OsString],
    mut answer: impl FnMut(&str, &[u8]) -> Result<bool, CliError>,
) -> Result<Outcome, CliError> {
    let mut outcome = Outcome::Clean;
    let mut handle = |bytes: &[u8]| {
        if !answer(&String::from_utf8_lossy(bytes), bytes)? {
            outcome = Outcome::Findings;
        }
        Ok::<_, CliError>(())
    };
    for argument in arguments {
        if argument != STDIN {
            handle(argument.as_encoded_bytes())?;
            continue;
        }
        for line in io::stdin().lock().split(b'\n') {
            handle(&line.map_err(|error| read_error(Path::new(STDIN), error))?)?;
        }
    }
    Ok(outcome)
}

fn split<T, E>(result: Result<T, E>) -> (Option<T>, Option<E>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

fn write_row(row: &impl Serialize) -> Result<(), CliError> {
    let mut line = serde_json::to_vec(row).map_err(io::Error::from)?;
    line.push(b'\n');
    Ok(io::stdout().lock().write_all(&line)?)
}

fn read_payload(path: &Path) -> Result<Vec<u8>, CliError> {
    let input: Box<dyn io::Read> = if path == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| read_error(path, error))?)
    };
    let mut payload = Vec::new();
    let read = input.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut payload);
    match read {
        Ok(length) if length as u64 <= PAYLOAD_BYTES_MAX => Ok(payload),
        Ok(_) => Err(CliError::TooLarge {
            path: path.into(),
            limit: PAYLOAD_BYTES_MAX,
        }),
        Err(error) => Err(read_error(path, error)),
    }
}

fn read_error(path: &Path, error: io::Error) -> CliError {
    CliError::Read {
        path: path.into(),
        error,
    }
}

//! `explain`: why does this Pod get a pull secret, or not? And why does it not pull?

mod live;
mod text;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::live::ReleaseArgs;
use super::offline::{Offline, SurroundingsArgs, opts_out, read_objects};
use super::terminal::{is_styled, note};
use super::{CliError, Format, Outcome};
use crate::admission::PodView;
use crate::admission::explanation::{Explanation, explain};
use crate::manifest::{self, PodSource};

/// Explain why a Pod gets a pull secret, or why not; of a live Pod, also why it does not pull
///
/// Goes through every rule (matched, or exactly why not), every pull secret of it (which key covers
/// which image, and what becomes of it), and ends with one line that says it all. Decides exactly as
/// the webhook does.
///
/// IMAGEs are explained as the containers of one Pod. A manifest may be any stream of YAML documents or
/// JSON objects; workloads stand for the Pods they would make, other objects are left out with a note.
///
/// pod/NAME (or: pod NAME) is explained as it is in the cluster, with the kubeconfig and only the rights that it has; what
/// it may not look at is said. For each image: what the kubelet says of it, what that means, and what helps; for each pull
/// secret: whether it is in the namespace, and whether pullpass's copy is up to date; then each rule, as if the Pod were
/// created now. It reads the Pod, its Events, its namespace, the Secrets that it names, and in pullpass's namespace the
/// ConfigMaps of rules and index and the Secrets that are sources. It shows no password, token or user name.
///
/// -o json prints one object a line for each Pod, -o yaml the same as documents: kind, name, namespace; images (image, place, name,
/// registry, repository, error, hint); present; rules (name, mode, outcome: adds, would_add,
/// adds_nothing, wants_nothing or does_not_apply, why_not, images: name, pattern, excluded_by,
/// pull_secrets: name, secret_name, wanted, verdict: added, added_stale, already_present,
/// not_permitted, unusable, undecodable_here or null, detail, is_known, keys: name, key,
/// docker_hub_fallback, is_empty); inject; shadow; reason; warnings; conclusion.
///
/// Of a live Pod it is one object: namespace, name, created, node, owner, service_account; images (image, place, name,
/// state: pulled, waiting or failing, reason, message, logins: secret, key, failure: unauthorized, denied, not_found,
/// rate_limited, untrusted_certificate, plain_http, tls_expected, unknown_host, connection_refused, unreachable,
/// registry_error, never_pulled, invalid_reference, no_platform, undecodable_secret, signature, throttled, disk_full or
/// other, cause: older_than_rule, secret_missing, secret_undecodable, no_login, login_unseen, login_refused,
/// login_not_permitted, login_limited or other, says, fix); pull_secrets (name, is_listed, entry, state: present, current,
/// missing, foreign, stale or unseen, unusable); is_sent; decision (as above); unseen; conclusion.
///
/// Exit code 1 if there is something to act on: a warning, an image that the kubelet refuses, or a pull
/// secret that cannot be decoded while no rule wants another; of a live Pod, an image that could not be pulled.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass explain pod/web-7d9f-abc -n prod-web
  pullpass explain -r rules.yaml -n prod-web --pull-secret harbor.yaml harbor.example.com/shop/web:1.4
  kubectl get deployment web -o yaml | pullpass explain -r rules.yaml -f - -o json")]
pub(super) struct ExplainArgs {
    /// Rules file; of a live Pod, its cluster has them
    #[arg(short, long, value_name = "FILE")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    surroundings: SurroundingsArgs,
    #[command(flatten)]
    subject: Subject,
    /// Of a live Pod: namespace of pullpass [default: the one its webhook configuration names]
    #[arg(long, value_name = "NAMESPACE")]
    installation: Option<String>,
    #[command(flatten)]
    release: ReleaseArgs,
    /// How to print the explanation
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Subject {
    /// Images, as in a Pod; or a live Pod, as pod/NAME
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Manifest of Pods or workloads; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// How `kubectl` calls Pods.
const POD_KINDS: [&str; 3] = ["pod", "pods", "po"];

/// One explained Pod.
#[derive(Serialize)]
struct Explained {
    /// `Pod`, or the kind of the workload that would make it.
    kind: String,
    name: String,
    #[serde(flatten)]
    explanation: Explanation,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome, CliError> {
    let offline = match (&args.rules, args.subject.live_pod()?) {
        (None, Some(pod)) => return live::run(args, pod),
        (Some(_), Some(_)) => {
            return Err(CliError::Usage(
                "a live Pod falls under the rules of its cluster; leave out --rules",
            ));
        }
        (None, None) => {
            return Err(CliError::Usage(
                "--rules is missing; only a live Pod, as pod/NAME, needs none",
            ));
        }
        (Some(rules), None) => args.surroundings.load(rules)?,
    };
    let mut out = io::stdout().lock();
    let mut outcome = Outcome::Clean;
    for (position, source) in args.subject.sources()?.into_iter().enumerate() {
        let explained = Explained::of(source, &offline)?;
        if explained.has_findings() {
            outcome = Outcome::Findings;
        }
        let shown = match args.output {
            Format::Text => text::render(&explained, is_styled(&out)),
            Format::Json => serde_json::to_string(&explained).map_err(io::Error::from)? + "\n",
            Format::Yaml => manifest::to_yaml(&[explained]),
        };
        let separator = match args.output {
            Format::Text => "\n",
            Format::Json => "",
            Format::Yaml => "---\n",
        };
        if position > 0 {
            out.write_all(separator.as_bytes())?;
        }
        out.write_all(shown.as_bytes())?;
    }
    Ok(outcome)
}

impl Subject {
    /// The name of a live Pod, as `pod/NAME` or `pod NAME`. No image is called so: an answer about the image
    /// `pod/web` would mislead.
    fn live_pod(&self) -> Result<Option<&str>, CliError> {
        let is_live = |image: &String| {
            let kind = image.split_once('/').map(|(kind, _)| kind);
            kind.is_some_and(|kind| POD_KINDS.contains(&kind))
        };
        let live = self.images.iter().any(is_live);
        match self.images.as_slice() {
            [one] if live => Ok(one.split_once('/').map(|(_, name)| name)),
            [kind, name] if POD_KINDS.contains(&kind.as_str()) => Ok(Some(name)),
            _ if live => Err(CliError::Usage("one live Pod at a time, and no images")),
            _ => Ok(None),
        }
    }

    fn sources(&self) -> Result<Vec<PodSource>, CliError> {
        let Some(file) = &self.file else {
            return Ok(vec![pod_of_images(&self.images)]);
        };
        let mut sources = Vec::new();
        for object in read_objects(file)? {
            match PodSource::of(object) {
                Ok(source) => sources.push(source),
                Err(skipped) => note(&format!("{skipped}: left out")),
            }
        }
        Ok(sources)
    }
}

/// A Pod without a name, with one container for each image.
fn pod_of_images(images: &[String]) -> PodSource {
    let containers: Vec<Value> = images.iter().map(|image| json!({"image": image})).collect();
    PodSource {
        kind: "Pod".to_owned(),
        name: String::new(),
        namespace: None,
        pod: json!({"kind": "Pod", "spec": {"containers": containers}}),
    }
}

impl Explained {
    fn of(source: PodSource, offline: &Offline) -> Result<Self, CliError> {
        let namespace = source.namespace.as_ref().unwrap_or(&offline.namespace);
        let bytes = serde_json::to_vec(&source.pod).map_err(io::Error::from)?;
        let pod = PodView::parse(&bytes).map_err(io::Error::other)?;
        let explanation = explain(namespace, &pod, &offline.snapshot, &offline.config);
        Ok(Self {
            explanation: match opts_out(namespace, &offline.snapshot) {
                true => explanation.of_opted_out_namespace(),
                false => explanation,
            },
            kind: source.kind,
            name: source.name,
        })
    }

    fn has_findings(&self) -> bool {
        let Explanation {
            warnings, images, ..
        } = &self.explanation;
        !warnings.is_empty()
            || images.iter().any(|image| image.error.is_some())
            || !self.explanation.unread_secrets().is_empty()
    }
}

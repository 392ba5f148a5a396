//! `explain`: why does this Pod get a pull secret, or not?

mod text;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::offline::{Offline, OfflineArgs, opts_out, read_objects};
use super::terminal::{is_styled, note};
use super::{CliError, Format, Outcome};
use crate::admission::PodView;
use crate::admission::explanation::{Explanation, explain};
use crate::manifest::{self, PodSource};

/// Explain why a Pod gets a pull secret, or why not
///
/// Goes through every rule (matched, or exactly why not), every pull secret of it (which key covers
/// which image, and what becomes of it), and ends with one line that says it all. Decides exactly as
/// the webhook does.
///
/// IMAGEs are explained as the containers of one Pod. A manifest may be any stream of YAML documents or
/// JSON objects; workloads stand for the Pods they would make, other objects are left out with a note.
///
/// -o json prints one object a line for each Pod, -o yaml the same as documents: kind, name, namespace; images (image, place, name,
/// registry, repository, error, hint); present; rules (name, mode, outcome: adds, would_add,
/// adds_nothing, wants_nothing or does_not_apply, why_not, images: name, pattern, excluded_by,
/// pull_secrets: name, secret_name, wanted, verdict: added, added_stale, already_present,
/// not_permitted, unusable, undecodable_here or null, detail, is_known, keys: name, key,
/// docker_hub_fallback, is_empty); inject; shadow; reason; warnings; conclusion.
///
/// Exit code 1 if there is something to act on: a warning, an image that the kubelet refuses, or a pull
/// secret that cannot be decoded while no rule wants another.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass explain -r rules.yaml -n prod-web --pull-secret harbor.yaml harbor.example.com/shop/web:1.4
  kubectl get deployment web -o yaml | pullpass explain -r rules.yaml -f - -o json")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    offline: OfflineArgs,
    #[command(flatten)]
    subject: Subject,
    /// How to print the explanation
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Subject {
    /// Images, as in a Pod
    #[arg(value_name = "IMAGE", value_parser = image)]
    images: Vec<String>,
    /// Manifest of Pods or workloads; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// An image, and not a Pod as `kubectl` names it: an answer about the image `pod/web` would mislead.
fn image(text: &str) -> Result<String, &'static str> {
    if text.starts_with("pod/") || text.starts_with("pods/") {
        return Err("a live Pod cannot be asked yet; \
            use `kubectl get pod NAME -o yaml | pullpass explain -r RULES -f -`");
    }
    Ok(text.to_owned())
}

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
    let offline = args.offline.load()?;
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

//! `mutate`: what the webhook would do to the Pods of a manifest.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::offline::{Offline, OfflineArgs, decide, read_objects};
use super::terminal::{note, printable};
use super::{CliError, Outcome};
use crate::admission::{Decision, PodView, patch};
use crate::manifest::{self, PodSource};

/// Show the Pods of a manifest as the webhook would patch them
///
/// Reads any stream of YAML documents or JSON objects, Lists included, as kubectl does. Pods, and the
/// Pods that workloads would make (Deployment, ReplicaSet, ReplicationController, StatefulSet,
/// DaemonSet, Job, CronJob and PodTemplate of any version), are printed in order, patched. Nothing but
/// `spec.imagePullSecrets` ever differs. Other objects are left out, with a note on standard error.
///
/// Do not apply what is printed for a workload to its template: a template with pull secrets of its own
/// makes Pods that do not get those of their ServiceAccount any more. Patching Pods is the
/// webhook's job.
///
/// The API server adds the pull secrets of the ServiceAccount before it calls the webhook. They are
/// not known here: write them into the Pod to see the exact outcome.
///
/// Exit code 0, also if nothing is added; 2 if a file cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass mutate -r rules.yaml -f pod.yaml -o diff
  helm template shop ./chart | pullpass mutate -r rules.yaml -n shop --pull-secret harbor.yaml -o patch
  pullpass mutate -r rules.yaml -f pod.yaml | kubectl create -f -")]
pub(super) struct MutateArgs {
    #[command(flatten)]
    offline: OfflineArgs,
    /// Manifest; `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// How to print the Pods
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A YAML stream of Pods
    Yaml,
    /// One Pod as it is, several (or none) as a List
    Json,
    /// A unified diff for each Pod that changes
    Diff,
    /// One JSON object a line for each Pod: kind, namespace, name, patch (RFC 6902), reason, warnings
    Patch,
}

pub(super) fn run(args: &MutateArgs) -> Result<Outcome, CliError> {
    let offline = args.offline.load()?;
    let mut pods = Vec::new();
    for object in read_objects(&args.file)? {
        match PodSource::of(object) {
            Ok(source) => pods.push(Mutation::of(source, &offline)?),
            Err(skipped) => note(&format!("{skipped}: left out")),
        }
    }
    if args.output != Format::Patch {
        for pod in &pods {
            for warning in &pod.warnings {
                note(&format!(
                    "{} {}: {warning}",
                    pod.source.kind, pod.source.name
                ));
            }
        }
    }
    io::stdout()
        .lock()
        .write_all(print(pods, args.output).as_bytes())?;
    Ok(Outcome::Clean)
}

/// One Pod before and after.
struct Mutation {
    source: PodSource,
    namespace: String,
    /// RFC 6902; empty if nothing changes.
    patch: Value,
    after: Value,
    reason: &'static str,
    warnings: Vec<String>,
}

impl Mutation {
    fn of(source: PodSource, offline: &Offline) -> Result<Self, CliError> {
        let namespace = source
            .namespace
            .as_ref()
            .unwrap_or(&offline.namespace)
            .clone();
        // The webhook's own path: the Pod as bytes, the view of it, the decision, the patch as bytes.
        let bytes = serde_json::to_vec(&source.pod).map_err(io::Error::from)?;
        let view = PodView::parse(&bytes).map_err(io::Error::other)?;
        let decision = decide(&namespace, &view, &offline.snapshot);
        let (patch, after) = apply(&decision, &source.pod)?;
        Ok(Self {
            source,
            namespace,
            patch,
            after,
            reason: decision.reason.as_str(),
            warnings: decision.warnings.iter().map(|w| w.to_text()).collect(),
        })
    }

    fn diff(&self) -> String {
        let before = manifest::to_yaml(std::slice::from_ref(&self.source.pod));
        let after = manifest::to_yaml(std::slice::from_ref(&self.after));
        let title = format!(
            "{} {}/{}",
            self.source.kind, self.namespace, self.source.name
        );
        let title = printable(&title);
        if before == after {
            return String::new();
        }
        let patch = diffy::create_patch(&before, &after).to_string();
        // Its own first two lines would quote the title.
        let hunks = patch.splitn(3, '\n').nth(2).unwrap_or_default();
        format!("--- {title}\n+++ {title} with pull secrets\n{hunks}")
    }
}

/// The patch, and the Pod with it.
fn apply(decision: &Decision<'_>, pod: &Value) -> Result<(Value, Value), CliError> {
    let mut after = pod.clone();
    let Some(bytes) = patch::to_json(decision) else {
        return Ok((json!([]), after));
    };
    let operations: json_patch::Patch = serde_json::from_slice(&bytes).map_err(io::Error::from)?;
    json_patch::patch(&mut after, &operations).map_err(io::Error::other)?;
    Ok((json!(operations), after))
}

fn print(pods: Vec<Mutation>, format: Format) -> String {
    match format {
        Format::Diff => pods.iter().map(Mutation::diff).collect(),
        Format::Yaml => {
            let pods: Vec<_> = pods.into_iter().map(|pod| pod.after).collect();
            manifest::to_yaml(&pods)
        }
        Format::Json => {
            let mut pods: Vec<_> = pods.into_iter().map(|pod| pod.after).collect();
            let shown = match pods.len() {
                1 => pods.remove(0),
                _ => json!({"apiVersion": "v1", "kind": "List", "items": pods}),
            };
            format!("{shown:#}\n")
        }
        Format::Patch => pods.iter().fold(String::new(), |mut lines, pod| {
            let line = json!({
                "kind": pod.source.kind,
                "namespace": pod.namespace,
                "name": pod.source.name,
                "patch": pod.patch,
                "reason": pod.reason,
                "warnings": pod.warnings,
            });
            // Writing to a String cannot fail.
            let _written = writeln!(lines, "{line}");
            lines
        }),
    }
}

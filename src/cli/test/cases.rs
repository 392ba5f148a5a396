//! A file of cases: its schema, and how a case is decided.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{CaseResult, Difference};
use crate::admission::{Decision, PodView, Reason};
use crate::cli::CliError;
use crate::cli::input::read_text;
use crate::cli::offline::{
    DEFAULT_NAMESPACE, decide, index, load_rules, parse_rules, read_objects, read_secrets,
};
use crate::index::Index;
use crate::manifest::{self, MANIFEST_BYTES_MAX, PodSource};
use crate::rules::Ruleset;
use crate::snapshot::{Namespaces, Snapshot};

/// A file of cases, as written. `pullpass test --help` documents each field.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CaseFile {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    rules: PathOr<Value>,
    #[serde(default)]
    pull_secrets: Vec<PathBuf>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
enum ApiVersion {
    #[serde(rename = "pullpass.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Debug, Deserialize)]
enum Kind {
    PullRulesTest,
}

/// A path, or the thing itself.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PathOr<T> {
    Path(PathBuf),
    Inline(T),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    namespace_labels: BTreeMap<String, String>,
    pod: Option<PathOr<Value>>,
    #[serde(default)]
    images: Vec<String>,
    service_account: Option<String>,
    #[serde(default)]
    enforce_mountable_secrets: bool,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expect {
    pull_secrets: Vec<String>,
    shadow: Option<Vec<String>>,
    reason: Option<ReasonName>,
    warnings: Option<Vec<String>>,
}

/// One of [`Reason::ALL`].
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct ReasonName(Reason);

impl TryFrom<String> for ReasonName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == name);
        reason.copied().map(Self).ok_or_else(|| {
            let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
            format!(
                "no reason is called \"{name}\"; write one of {}",
                names.join(", ")
            )
        })
    }
}

impl CaseFile {
    /// Reads a file of cases, and nothing that it refers to.
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let text = read_text(path, MANIFEST_BYTES_MAX)?;
        serde_saphyr::from_str(&text).map_err(|error| {
            let (line, column, message) = manifest::placed(&error);
            CliError::CasesSyntax {
                path: path.into(),
                line,
                column,
                message,
            }
        })
    }

    /// Decides every case. `path` is that of the file itself.
    pub(super) fn run(self, path: &Path) -> Result<Vec<CaseResult>, CliError> {
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let config = match self.rules {
            PathOr::Path(rules) => load_rules(&directory.join(rules))
                .map_err(|error| asked_by(path, "rules", error))?,
            PathOr::Inline(rules) => parse_rules(
                &format!("{}: rules", path.display()),
                &manifest::to_yaml(&[rules]),
            )?,
        };
        let secrets: Vec<_> = self
            .pull_secrets
            .iter()
            .map(|file| directory.join(file))
            .collect();
        let secrets =
            read_secrets(&secrets).map_err(|error| asked_by(path, "pullSecrets", error))?;
        let ruleset = Arc::new(Ruleset::compile(&config));
        let index = Arc::new(index(&config, secrets));
        let bench = Bench {
            path,
            directory,
            ruleset,
            index,
        };
        self.cases.into_iter().map(|case| bench.run(case)).collect()
    }
}

/// Says which file of cases asked for what cannot be read, and in which field.
fn asked_by(cases: &Path, field: &str, error: CliError) -> CliError {
    match error {
        // Rendered already, with the place in the rules themselves.
        rules @ CliError::Rules(_) => rules,
        error => CliError::Cases {
            path: cases.into(),
            message: format!("`{field}`: {error}"),
        },
    }
}

/// What the cases of one file share.
struct Bench<'a> {
    path: &'a Path,
    directory: &'a Path,
    ruleset: Arc<Ruleset>,
    index: Arc<Index>,
}

impl Bench<'_> {
    fn run(&self, case: Case) -> Result<CaseResult, CliError> {
        let source = self.pod(&case)?;
        let namespace = case.namespace.or(source.namespace);
        let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let bytes = serde_json::to_vec(&source.pod).map_err(io::Error::from)?;
        let pod = PodView::parse(&bytes).map_err(io::Error::other)?;
        let mut index = Arc::clone(&self.index);
        if case.enforce_mountable_secrets {
            let accounts = HashSet::from([pod.service_account().to_owned()]);
            let strict = &mut Arc::make_mut(&mut index).strict_service_accounts;
            strict.insert(namespace.to_owned(), accounts);
        }
        let labels = Namespaces::Fixed(Arc::new(case.namespace_labels));
        let snapshot = Snapshot::new(Arc::clone(&self.ruleset), index, labels, 1);
        let decision = decide(namespace, &pod, &snapshot);
        let differences = case.expect.differences(&decision);
        Ok(CaseResult {
            file: self.path.display().to_string(),
            name: case.name,
            passed: differences.is_empty(),
            differences,
        })
    }

    /// The one Pod that the case is about.
    fn pod(&self, case: &Case) -> Result<PodSource, CliError> {
        let wrong = |message: &str| CliError::Cases {
            path: self.path.into(),
            message: format!("case \"{}\": {message}", case.name),
        };
        let objects = match &case.pod {
            Some(_) if !case.images.is_empty() || case.service_account.is_some() => {
                return Err(wrong(
                    "write either `pod`, or `images` and `serviceAccount`",
                ));
            }
            Some(PathOr::Path(path)) => read_objects(&self.directory.join(path))
                .map_err(|error| asked_by(self.path, "pod", error))?,
            Some(PathOr::Inline(pod)) => vec![pod.clone()],
            None => vec![pod_of_images(&case.images, case.service_account.as_deref())],
        };
        let mut pods = objects
            .into_iter()
            .filter_map(|object| PodSource::of(object).ok());
        match (pods.next(), pods.next()) {
            (Some(pod), None) => Ok(pod),
            (None, _) => Err(wrong(
                "`pod` is neither a Pod nor a workload; write its `kind`",
            )),
            (Some(_), Some(_)) => Err(wrong("`pod` holds several Pods; a case is about one")),
        }
    }
}

fn pod_of_images(images: &[String], service_account: Option<&str>) -> Value {
    let containers: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
    let spec = json!({"containers": containers, "serviceAccountName": service_account});
    json!({"kind": "Pod", "spec": spec})
}

impl Expect {
    fn differences(self, decision: &Decision<'_>) -> Vec<Difference> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let mut differences = Vec::new();
        let mut compare = |field, expected: Option<Vec<String>>, found: Vec<String>| {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                differences.push(Difference {
                    field,
                    expected,
                    found,
                });
            }
        };
        compare(
            "pullSecrets",
            Some(self.pull_secrets),
            owned(&decision.inject),
        );
        compare("shadow", self.shadow, owned(&decision.shadow));
        let expected = self
            .reason
            .map(|ReasonName(reason)| vec![reason.as_str().to_owned()]);
        compare(
            "reason",
            expected,
            vec![decision.reason.as_str().to_owned()],
        );
        let found: Vec<_> = decision.warnings.iter().map(|w| w.to_text()).collect();
        // A part of the text is enough: what is not as expected stays, and is shown.
        let are_parts = |parts: &Vec<String>| {
            parts.len() == found.len() && found.iter().zip(parts).all(|(f, part)| f.contains(part))
        };
        let expected = self.warnings.filter(|parts| !are_parts(parts));
        compare("warnings", expected, found);
        differences
    }
}

//! Which Pod an object is, or would make: the Pod template by the object's kind, whatever its group
//! and version (`extensions/v1beta1` Deployments are still around).
//!
//! A template is never given back patched: with pull secrets of its own, the Pod would not get those
//! of its ServiceAccount any more (kubernetes `plugin/pkg/admission/serviceaccount`).

use std::fmt;

use serde_json::{Map, Value, json};

/// A Pod, or what makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSource {
    /// `Pod`, or the kind of the workload.
    pub kind: String,
    /// `metadata.name`, or `metadata.generateName`; empty if there is neither.
    pub name: String,
    /// `metadata.namespace`; `None` if it is not written.
    pub namespace: Option<String>,
    /// The Pod itself, or the one that the workload would make.
    pub pod: Value,
}

/// An object that makes no Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its kind.
    pub kind: String,
    /// Its name; empty if it has none.
    pub name: String,
    /// It is a workload by its kind, but there is no Pod template where one belongs.
    pub is_workload: bool,
}

/// `Service web makes no Pods`.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.is_workload {
            true => "has no Pod template",
            false => "makes no Pods",
        };
        match &*self.name {
            "" => write!(f, "{} {why}", self.kind),
            name => write!(f, "{} {name} {why}", self.kind),
        }
    }
}

/// Where the Pod template of a workload is; `None` for all other kinds.
fn template_path(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Deployment"
        | "ReplicaSet"
        | "ReplicationController"
        | "StatefulSet"
        | "DaemonSet"
        | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "PodTemplate" => "/template",
        _ => return None,
    })
}

impl PodSource {
    /// The Pod that `object` is or would make.
    ///
    /// # Errors
    /// [`Skipped`] where it makes none.
    pub fn of(object: Value) -> Result<Self, Skipped> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").unwrap_or_default().to_owned();
        let name = text("/metadata/name")
            .or_else(|| text("/metadata/generateName"))
            .unwrap_or_default()
            .to_owned();
        let namespace = text("/metadata/namespace")
            .filter(|namespace| !namespace.is_empty())
            .map(str::to_owned);
        if kind == "Pod" {
            return Ok(Self {
                kind,
                name,
                namespace,
                pod: object,
            });
        }
        let path = template_path(&kind);
        match path.and_then(|path| object.pointer(path)?.as_object()) {
            Some(template) => Ok(Self {
                pod: pod_of_template(template, &name, namespace.as_deref()),
                kind,
                name,
                namespace,
            }),
            None => Err(Skipped {
                kind,
                name,
                is_workload: path.is_some(),
            }),
        }
    }
}

/// The Pod as the workload's controller would create it: labels and annotations of the template, the
/// workload's namespace, and a name that begins with the workload's.
fn pod_of_template(template: &Map<String, Value>, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = match template.get("metadata") {
        Some(Value::Object(metadata)) => metadata.clone(),
        _ => Map::new(),
    };
    metadata.remove("name");
    metadata.remove("namespace");
    metadata.remove("creationTimestamp");
    let stem = name.trim_end_matches('-');
    metadata.insert("generateName".to_owned(), json!(format!("{stem}-")));
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    let mut pod = Map::new();
    pod.insert("apiVersion".to_owned(), json!("v1"));
    pod.insert("kind".to_owned(), json!("Pod"));
    pod.insert("metadata".to_owned(), Value::Object(metadata));
    if let Some(spec) = template.get("spec") {
        pod.insert("spec".to_owned(), spec.clone());
    }
    Value::Object(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: &Value) {
        let object = crate::manifest::parse(yaml).unwrap().remove(0);
        let found = match PodSource::of(object) {
            Ok(source) => source.pod,
            Err(skipped) => json!(skipped.is_workload),
        };
        assert_eq!(&found, expected, "{yaml}");
    }

    #[test]
    fn scenario_14_workloads_are_known_by_kind() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "a-", "namespace": "ns", "labels": {"l": "1"}},
            "spec": {"containers": []},
        });
        let template =
            "{metadata: {labels: {l: '1'}, name: x, namespace: x}, spec: {containers: []}}";
        for kind in [
            "apps/v1, kind: Deployment",
            "extensions/v1beta1, kind: Deployment",
            "apps/v1, kind: ReplicaSet",
            "v1, kind: ReplicationController",
            "apps/v1beta2, kind: StatefulSet",
            "apps/v1, kind: DaemonSet",
            "batch/v1, kind: Job",
            "apps.openkruise.io/v1alpha1, kind: DaemonSet",
        ] {
            check(
                &format!(
                    "{{apiVersion: {kind}, metadata: {{name: a, namespace: ns}}, spec: {{template: {template}}}}}"
                ),
                &pod,
            );
        }
        check(
            &format!(
                "{{kind: CronJob, metadata: {{name: a, namespace: ns}}, spec: {{jobTemplate: {{spec: {{template: {template}}}}}}}}}"
            ),
            &pod,
        );
        check(
            &format!(
                "{{kind: PodTemplate, metadata: {{name: a, namespace: ns}}, template: {template}}}"
            ),
            &pod,
        );
        check(
            &format!(
                "{{kind: Job, metadata: {{generateName: a-, namespace: ns}}, spec: {{template: {template}}}}}"
            ),
            &pod,
        );
    }

    #[test]
    fn a_pod_is_taken_as_it_is() {
        check(
            "{kind: Pod, spec: null, x: 1}",
            &json!({"kind": "Pod", "spec": null, "x": 1}),
        );
    }

    #[test]
    fn the_rest_makes_no_pods() {
        check("{kind: Service, spec: {template: {}}}", &json!(false));
        check("{kind: Deployment}", &json!(true));
        check("{kind: Job, spec: {template: []}}", &json!(true));
        check(
            "{kind: Job, metadata: 1, spec: {template: {metadata: [], spec: 5}}}",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "-"}, "spec": 5}),
        );
    }
}

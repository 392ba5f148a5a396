//! Whether the Pods of one namespace reach the webhook at all.

use kube::ResourceExt as _;

use super::Finding;
use super::facts::Facts;
use crate::installation::selector;

const CHECK: &str = "namespace";

/// The namespace's labels against the configuration's selector.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(webhook) = facts.webhook() else {
        return Vec::new();
    };
    let (name, namespace) = &facts.namespace;
    let absent = || {
        let message = format!("there is no namespace {name}");
        Finding::problem(CHECK, message, format!("kubectl create namespace {name}"))
    };
    let namespace = match namespace.or_finding(CHECK, absent) {
        Ok(namespace) => namespace,
        Err(findings) => return findings,
    };
    let unmet = selector::unmet(webhook.namespace_selector.as_ref(), namespace.labels());
    vec![match unmet {
        None => Finding::ok(CHECK, format!("Pods of {name} are sent to the webhook")),
        Some(requirement) => {
            let key = requirement.trim_start_matches('!');
            let key = key.split(' ').next().unwrap_or_default();
            let message = format!(
                "Pods of {name} are not sent to the webhook: namespaceSelector wants `{requirement}`"
            );
            let fix = match key {
                selector::NAME_LABEL => {
                    format!("run Pods that need pull secrets in another namespace than {name}")
                }
                _ => format!(
                    "if they should be, change its label: kubectl label namespace {name} --overwrite {key}=…, or {key}- to take it off"
                ),
            };
            Finding::warning(CHECK, message, fix)
        }
    }]
}

#[cfg(test)]
mod tests {
    use super::super::facts::Looked;
    use super::super::{Status, sound};
    use super::*;
    use serde_json::json;

    fn check_labels(labels: &serde_json::Value, status: Status, part: &str) {
        let (mut facts, _) = sound::facts();
        let object = json!({"metadata": {"name": "team", "labels": labels}});
        facts.namespace = (
            "team".into(),
            Looked::Seen(serde_json::from_value(object).unwrap()),
        );
        let findings = check(&facts);
        assert_eq!(findings[0].status, status, "{findings:#?}");
        assert!(findings[0].message.contains(part), "{findings:#?}");
    }

    #[test]
    fn who_opts_out_is_told_so() {
        check_labels(&json!({}), Status::Ok, "are sent");
        check_labels(
            &json!({"pullpass.dev/inject": "false"}),
            Status::Warning,
            "notin (false)",
        );
        check_labels(
            &json!({"kubernetes.io/metadata.name": "kube-system"}),
            Status::Warning,
            "notin (pullpass,kube-system",
        );
    }

    #[test]
    fn a_namespace_that_is_not_there_is_a_problem() {
        let (mut facts, _) = sound::facts();
        facts.namespace = ("nowhere".into(), Looked::Absent);
        assert_eq!(check(&facts)[0].status, Status::Problem);
    }
}

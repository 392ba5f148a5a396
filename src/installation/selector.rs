//! A Kubernetes LabelSelector as the API server evaluates it, on labels that may be known in part.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Label that the API server puts on every namespace, with its name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The first requirement that `labels` do not meet, as `kubectl get --selector` writes it. A selector
/// that is absent is met by all.
pub fn unmet(
    selector: Option<&LabelSelector>,
    labels: &BTreeMap<String, String>,
) -> Option<String> {
    requirements(selector?)
        .into_iter()
        .find(|requirement| !requirement.holds(labels))
        .map(|requirement| requirement.to_text())
}

/// Whether the selector leaves out the namespace of this name whatever its other labels are.
pub fn excludes(selector: Option<&LabelSelector>, namespace: &str) -> bool {
    let labels = BTreeMap::from([(NAME_LABEL.to_owned(), namespace.to_owned())]);
    let requirements = selector.map(requirements).unwrap_or_default();
    requirements
        .iter()
        .any(|requirement| requirement.key == NAME_LABEL && !requirement.holds(&labels))
}

/// One condition on one label.
struct Requirement<'a> {
    key: &'a str,
    operator: &'a str,
    values: &'a [String],
}

fn requirements(selector: &LabelSelector) -> Vec<Requirement<'_>> {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| Requirement {
        key,
        operator: "In",
        values: std::slice::from_ref(value),
    });
    let written = selector.match_expressions.iter().flatten();
    let written = written.map(|expression| Requirement {
        key: &expression.key,
        operator: &expression.operator,
        values: expression.values.as_deref().unwrap_or_default(),
    });
    equal.chain(written).collect()
}

impl Requirement<'_> {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(self.key);
        match self.operator {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            // The API server knows no fifth.
            _ => value.is_none(),
        }
    }

    fn to_text(&self) -> String {
        let (key, values) = (self.key, self.values.join(","));
        match self.operator {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(selector: Value, labels: Value, expected: Option<&str>) {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        let labels = serde_json::from_value(labels).unwrap();
        assert_eq!(unmet(Some(&selector), &labels).as_deref(), expected);
    }

    #[test]
    fn each_operator() {
        let one = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]});
        check(json!({}), json!({}), None);
        check(json!({"matchLabels": {"k": "a"}}), json!({"k": "a"}), None);
        check(
            json!({"matchLabels": {"k": "a"}}),
            json!({}),
            Some("k in (a)"),
        );
        check(one("In", json!(["a", "b"])), json!({"k": "b"}), None);
        check(one("NotIn", json!(["a"])), json!({}), None);
        check(
            one("NotIn", json!(["a"])),
            json!({"k": "a"}),
            Some("k notin (a)"),
        );
        check(one("Exists", json!(null)), json!({}), Some("k"));
        check(
            one("DoesNotExist", json!(null)),
            json!({"k": ""}),
            Some("!k"),
        );
    }

    #[test]
    fn only_its_name_excludes_a_namespace_for_sure() {
        let selector = |key: &str, operator: &str| -> LabelSelector {
            serde_json::from_value(json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": ["kube-system"]},
            ]}))
            .unwrap()
        };
        assert!(excludes(
            Some(&selector(NAME_LABEL, "NotIn")),
            "kube-system"
        ));
        assert!(!excludes(
            Some(&selector(NAME_LABEL, "NotIn")),
            "kube-public"
        ));
        assert!(excludes(Some(&selector(NAME_LABEL, "In")), "kube-public"));
        assert!(!excludes(Some(&selector("team", "In")), "kube-system"));
        assert!(!excludes(None, "kube-system"));
    }
}

//! The MutatingWebhookConfiguration: what the API server sends, to whom it does not, and what it does
//! when there is no answer.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, RuleWithOperations};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use kube::ResourceExt as _;
use serde_json::json;

use super::facts::{Facts, Names, Target, with_component};
use super::{Finding, WEBHOOK, or_sound};
use crate::installation::selector::{NAME_LABEL, excludes};
use crate::rules::namespace::SYSTEM_NAMESPACES;

const CHECK: &str = "configuration";
/// Oldest Kubernetes that pullpass is tested with.
const VERSION_MIN: (u32, u32) = (1, 29);
/// Longest sensible `timeoutSeconds`: for so long every Pod's creation can hang, and clients give up
/// after 30 s with several webhooks in a row.
const TIMEOUT_SECONDS_MAX: i32 = 10;
/// Fewest replicas of which one can be missing.
const REPLICAS_MIN: i32 = 2;

/// Whether Kubernetes is new enough.
pub(super) fn version(facts: &Facts) -> Vec<Finding> {
    let (major, minor) = facts.version;
    let text = format!("Kubernetes {major}.{minor}");
    vec![if facts.version < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        let fix = format!("upgrade the cluster to {major}.{minor} or newer");
        Finding::warning("cluster", format!("{text} is older than tested"), fix)
    } else {
        Finding::ok("cluster", text)
    }]
}

/// Every field that decides which Pods are sent, and what happens without an answer.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let names = &facts.names;
    let missing = || {
        let message = format!(
            "no MutatingWebhookConfiguration holds the webhook {WEBHOOK}: no Pod is looked at"
        );
        Finding::problem(CHECK, message, names.install_again())
    };
    let configurations = match facts.configurations.or_finding(CHECK, missing) {
        Ok(configurations) => configurations,
        Err(findings) => return findings,
    };
    let Some(webhook) = facts.webhook() else {
        return vec![missing()];
    };
    let mut findings = Vec::new();
    if configurations.len() > 1 {
        let all: Vec<_> = configurations.iter().map(|one| one.name_any()).collect();
        findings.push(Finding::warning(
            CHECK,
            format!(
                "{} installations: {}; this is the first",
                all.len(),
                all.join(", ")
            ),
            "choose one: pullpass doctor --webhook-configuration NAME",
        ));
    }
    findings.extend(sent(webhook, names));
    findings.extend(settings(webhook, names));
    findings.extend(failure(webhook, facts));
    findings.extend(exclusions(webhook, names));
    or_sound(findings, || {
        let to = match Target::of(webhook) {
            Target::Service {
                namespace,
                name,
                port,
                ..
            } => format!("{namespace}/{name}:{port}"),
            Target::Url(url) => url,
        };
        let name = &names.configuration;
        Finding::ok(
            CHECK,
            format!("{name} sends every Pod to {to}, system namespaces excluded"),
        )
    })
}

impl Names {
    /// The fix of everything that the chart renders.
    pub(super) fn install_again(&self) -> String {
        let (release, namespace) = (&self.release, &self.namespace);
        format!("helm upgrade --install {release} CHART -n {namespace} --reuse-values")
    }

    /// Patches fields of the webhook.
    fn patch_webhook(&self, fields: &serde_json::Value) -> String {
        let mut entry = fields.clone();
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("name".to_owned(), WEBHOOK.into());
        }
        let patch = json!({ "webhooks": [entry] });
        let name = &self.configuration;
        format!("kubectl patch mutatingwebhookconfiguration {name} -p '{patch}'")
    }
}

/// Creation of Pods is sent, and nothing else.
fn sent(webhook: &MutatingWebhook, names: &Names) -> Option<Finding> {
    let fix = || {
        names.patch_webhook(&json!({"rules": [{
            "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"], "scope": "Namespaced",
        }]}))
    };
    let rules = webhook.rules.as_deref().unwrap_or_default();
    if !rules.iter().any(sends_created_pods) {
        let message = "no rule covers CREATE of pods (v1): the webhook is never called";
        return Some(Finding::problem(CHECK, message, fix()));
    }
    let only =
        |list: &Option<Vec<String>>, value: &str| list.iter().flatten().all(|entry| entry == value);
    let exact = rules
        .iter()
        .all(|rule| only(&rule.operations, "CREATE") && only(&rule.resources, "pods"));
    (!exact).then(|| {
        let message = "more than CREATE of pods is sent: calls that change nothing and cost time";
        Finding::warning(CHECK, message, fix())
    })
}

fn sends_created_pods(rule: &RuleWithOperations) -> bool {
    let has = |list: &Option<Vec<String>>, value: &str| {
        list.iter()
            .flatten()
            .any(|entry| entry == value || entry == "*")
    };
    has(&rule.operations, "CREATE")
        && has(&rule.api_groups, "")
        && has(&rule.api_versions, "v1")
        && has(&rule.resources, "pods")
        && rule.scope.as_deref() != Some("Cluster")
}

/// Fields of one value each.
fn settings(webhook: &MutatingWebhook, names: &Names) -> Vec<Finding> {
    // Absent fields have the API's defaults (admissionregistration/v1).
    let timeout = webhook.timeout_seconds.unwrap_or(10);
    let reinvocation = webhook.reinvocation_policy.as_deref().unwrap_or("Never");
    let matching = webhook.match_policy.as_deref().unwrap_or("Equivalent");
    let table = [
        (
            timeout > TIMEOUT_SECONDS_MAX,
            format!(
                "timeoutSeconds {timeout}: without an answer, every Pod's creation hangs so long"
            ),
            json!({"timeoutSeconds": 5}),
        ),
        (
            reinvocation != "IfNeeded",
            format!(
                "reinvocationPolicy {reinvocation}: containers that a later webhook adds get no pull secret"
            ),
            json!({"reinvocationPolicy": "IfNeeded"}),
        ),
        (
            matching != "Equivalent",
            format!("matchPolicy {matching}: Pods of a later API version would not be sent"),
            json!({"matchPolicy": "Equivalent"}),
        ),
        (
            webhook.side_effects != "None",
            format!(
                "sideEffects {}: it has none, and dry runs may be refused",
                webhook.side_effects
            ),
            json!({"sideEffects": "None"}),
        ),
    ];
    let wrong = table.into_iter().filter(|(is_wrong, ..)| *is_wrong);
    wrong
        .map(|(_, message, fields)| Finding::warning(CHECK, message, names.patch_webhook(&fields)))
        .collect()
}

/// `Fail` refuses Pods while no replica answers, so one of them must always be there.
fn failure(webhook: &MutatingWebhook, facts: &Facts) -> Option<Finding> {
    let fails = webhook.failure_policy.as_deref() != Some("Ignore");
    let deployment = facts.deployments.seen();
    let deployment = deployment.and_then(|all| with_component(all, "webhook"))?;
    let wanted = deployment.spec.replicas.unwrap_or(1);
    (fails && wanted < REPLICAS_MIN).then(|| {
        let (name, namespace) = (&facts.names.webhook, &facts.names.namespace);
        Finding::problem(
            CHECK,
            format!(
                "failurePolicy Fail with {wanted} replica: no Pod can be created while it restarts"
            ),
            format!("kubectl -n {namespace} scale deployment {name} --replicas={REPLICAS_MIN}"),
        )
    })
}

/// Namespaces that the cluster or pullpass itself needs to come up are never sent.
fn exclusions(webhook: &MutatingWebhook, names: &Names) -> Option<Finding> {
    let selector = webhook.namespace_selector.as_ref();
    let own = names.namespace.as_str();
    let mandatory: Vec<&str> = std::iter::once(own).chain(SYSTEM_NAMESPACES).collect();
    let sent: Vec<&str> = mandatory
        .iter()
        .copied()
        .filter(|namespace| !excludes(selector, namespace))
        .collect();
    if sent.is_empty() {
        return None;
    }
    // The list of expressions is replaced as a whole, so those that are there come along.
    let written = selector.and_then(|selector| selector.match_expressions.as_ref());
    let mut expressions = written.cloned().unwrap_or_default();
    expressions.push(LabelSelectorRequirement {
        key: NAME_LABEL.to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(mandatory.iter().map(|&name| name.to_owned()).collect()),
    });
    Some(Finding::problem(
        CHECK,
        format!(
            "namespaceSelector does not exclude {}: system Pods, or pullpass's own, wait for pullpass",
            sent.join(", ")
        ),
        names.patch_webhook(&json!({"namespaceSelector": {"matchExpressions": expressions}})),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::facts::Looked;
    use super::super::sound;
    use super::*;
    use serde_json::Value;

    /// What is said after the field at `path` of the webhook was replaced.
    fn check_field(field: &str, value: Value, status: Status, part: &str) {
        let (mut facts, _) = sound::facts();
        let mut configuration = sound::configuration();
        configuration["webhooks"][0][field] = value;
        facts.configurations = Looked::Seen(vec![serde_json::from_value(configuration).unwrap()]);
        let findings = check(&facts);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].status, status);
        assert!(findings[0].message.contains(part), "{findings:#?}");
    }

    #[test]
    fn each_field_has_its_line() {
        use Status::{Ok, Problem, Warning};
        let rule = |operation: &str, resource: &str| {
            json!([{"operations": [operation], "apiGroups": [""], "apiVersions": ["v1"],
                    "resources": [resource]}])
        };
        check_field("failurePolicy", json!("Fail"), Ok, "sends every Pod");
        check_field("timeoutSeconds", json!(10), Ok, "sends");
        check_field("timeoutSeconds", json!(11), Warning, "timeoutSeconds 11");
        check_field("timeoutSeconds", json!(null), Ok, "sends");
        check_field(
            "reinvocationPolicy",
            json!("Never"),
            Warning,
            "reinvocationPolicy Never",
        );
        check_field(
            "reinvocationPolicy",
            json!(null),
            Warning,
            "reinvocationPolicy Never",
        );
        check_field("matchPolicy", json!("Exact"), Warning, "matchPolicy Exact");
        check_field(
            "sideEffects",
            json!("NoneOnDryRun"),
            Warning,
            "sideEffects NoneOnDryRun",
        );
        check_field("rules", rule("CREATE", "pods"), Ok, "sends");
        check_field("rules", rule("*", "*"), Warning, "more than CREATE");
        check_field(
            "rules",
            rule("UPDATE", "pods"),
            Problem,
            "no rule covers CREATE",
        );
        check_field("rules", json!([]), Problem, "no rule covers CREATE");
        check_field(
            "namespaceSelector",
            json!({}),
            Problem,
            "does not exclude pullpass, kube-system",
        );
        check_field(
            "namespaceSelector",
            json!({"matchExpressions": [{"key": NAME_LABEL, "operator": "NotIn",
                "values": ["pullpass", "kube-system", "kube-public"]}]}),
            Problem,
            "does not exclude kube-node-lease:",
        );
        check_field(
            "namespaceSelector",
            json!({"matchLabels": {NAME_LABEL: "default"}}),
            Ok,
            "sends",
        );
    }

    #[test]
    fn fail_needs_two_replicas() {
        let (mut facts, _) = sound::facts();
        let mut configuration = sound::configuration();
        configuration["webhooks"][0]["failurePolicy"] = json!("Fail");
        facts.configurations = Looked::Seen(vec![serde_json::from_value(configuration).unwrap()]);
        facts.deployments = Looked::Seen(vec![sound::deployment("webhook", 1, 1)]);
        let findings = check(&facts);
        assert!(
            findings[0].message.contains("Fail with 1 replica"),
            "{findings:#?}"
        );
        let fix = "kubectl -n pullpass scale deployment pullpass-webhook --replicas=2";
        assert_eq!(findings[0].fix.as_deref(), Some(fix));
    }

    #[test]
    fn the_fix_of_missing_exclusions_keeps_the_opt_out() {
        let (mut facts, _) = sound::facts();
        let mut configuration = sound::configuration();
        configuration["webhooks"][0]["namespaceSelector"] = json!({"matchExpressions": [
            {"key": "pullpass.dev/inject", "operator": "NotIn", "values": ["false"]},
        ]});
        facts.configurations = Looked::Seen(vec![serde_json::from_value(configuration).unwrap()]);
        let fix = check(&facts)[0].fix.clone().unwrap();
        for part in [
            "pullpass.dev/inject",
            "kube-node-lease",
            "\"name\":\"pods.pullpass.dev\"",
        ] {
            assert!(fix.contains(part), "{fix}");
        }
    }

    #[test]
    fn nothing_installed_is_a_problem() {
        let (mut facts, _) = sound::facts();
        for none in [Looked::Absent, Looked::Seen(Vec::new())] {
            facts.configurations = none;
            assert_eq!(check(&facts)[0].status, Status::Problem);
        }
    }

    #[test]
    fn an_old_kubernetes_is_a_warning() {
        let (mut facts, _) = sound::facts();
        facts.version = (1, 28);
        assert_eq!(version(&facts)[0].status, Status::Warning);
    }
}

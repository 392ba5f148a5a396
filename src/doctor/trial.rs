//! A Pod that is created as a dry run: the API server's own view of the webhook, also where
//! `failurePolicy: Ignore` hides from everyone that it could not be called.
//!
//! The rules say what the Pod has to get; if it gets it, injection works. If it does not, the API
//! server's count of calls that it passed over tells whether it failed to call, to those who may read it.
//! An open connection of the API server outlives the Service it was dialled through, so the trial can
//! be fine while the way to the next connection is broken: that is for `reach` to see.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::facts::{Facts, Plan, Trial};
use super::trouble::Trouble;
use super::{Finding, WEBHOOK};
use crate::admission::{PodView, decide_pod};
use crate::index::Index;
use crate::installation::selector;
use crate::rules::Ruleset;
use crate::rules::config::{Mode, RulesConfig};
use crate::snapshot::{Namespaces, Snapshot};

const CHECK: &str = "admission";
/// Name of everything that is made up here.
const NAME: &str = "pullpass-doctor";
/// Series of the API server: calls of a webhook that failed and were passed over.
const FAIL_OPEN: &str = "apiserver_admission_webhook_fail_open_count{";

/// Makes up a Pod that the rules give a secret in this namespace; without such a one, any Pod.
pub(super) fn plan(
    rules: Option<&RulesConfig>,
    namespace: &str,
    labels: BTreeMap<String, String>,
    image: Option<&str>,
) -> Plan {
    let nothing = RulesConfig::default();
    let rules = rules.unwrap_or(&nothing);
    let namespaces = Namespaces::Fixed(Arc::new(labels));
    let ruleset = Arc::new(Ruleset::compile(rules));
    let snapshot = Snapshot::new(ruleset, Arc::new(Index::default()), namespaces, 1);
    let planned = |image: String| {
        let bytes = pod(&image).to_string().into_bytes();
        let pod = PodView::parse(&bytes).unwrap_or_default();
        let inject = decide_pod(namespace, &pod, &snapshot).inject;
        Plan {
            image,
            expected: inject.iter().map(|&name| name.to_owned()).collect(),
        }
    };
    if let Some(image) = image {
        return planned(image.to_owned());
    }
    let enforced = rules.rules.iter().filter(|rule| rule.mode == Mode::Enforce);
    enforced
        .flat_map(|rule| rule.images.iter().flatten())
        .map(|pattern| planned(pattern.example(NAME)))
        .find(|plan| !plan.expected.is_empty())
        .unwrap_or_else(|| planned(format!("registry.example.com/{NAME}")))
}

/// The Pod: small, and sound under every Pod security level. Its own list of pull secrets keeps the
/// API server from filling in the ServiceAccount's, which would be taken for an injection.
pub(super) fn pod(image: &str) -> Value {
    let amounts = json!({"cpu": "1m", "memory": "1Mi"});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": format!("{NAME}-")},
        "spec": {
            "imagePullSecrets": [{"name": NAME}],
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "trial",
                "image": image,
                "resources": {"requests": amounts, "limits": amounts},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }],
        },
    })
}

/// How often the API server that wrote these metrics has passed over our webhook.
pub(super) fn fail_open_count(metrics: &str) -> f64 {
    let name = format!("name=\"{WEBHOOK}\"");
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(FAIL_OPEN) && line.contains(&name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// What the trial proves.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(webhook) = facts.webhook() else {
        return Vec::new();
    };
    let (namespace, seen) = &facts.namespace;
    let unseen = |message| {
        let fix = "name one that takes part: --check-namespace NAMESPACE";
        Finding::unseen(CHECK, message, fix)
    };
    let absent = || unseen(format!("there is no namespace {namespace} to try a Pod in"));
    let is_sent = |labels| selector::unmet(webhook.namespace_selector.as_ref(), labels).is_none();
    if seen.seen().is_some_and(|seen| !is_sent(seen.labels())) {
        let message = format!("no trial: the webhook is not asked about Pods of {namespace}");
        return vec![unseen(message)];
    }
    let trial = &facts.trial;
    vec![match trial.created.or_finding(CHECK, absent) {
        Err(findings) => return findings,
        Ok(Err(refusal)) => refused(refusal, namespace, facts),
        Ok(Ok(secrets)) => created(trial, secrets, namespace, facts),
    }]
}

fn refused(refusal: &str, namespace: &str, facts: &Facts) -> Finding {
    if refusal.contains(&format!("\"{WEBHOOK}\"")) {
        return super::reach::explain(CHECK, Trouble::recognise(refusal), refusal, facts);
    }
    let message = format!("the trial Pod is refused for another reason: {refusal}");
    let fix = format!("choose another namespace than {namespace}: --check-namespace NAMESPACE");
    Finding::unseen(CHECK, message, fix)
}

fn created(trial: &Trial, secrets: &[String], namespace: &str, facts: &Facts) -> Finding {
    let Plan { image, expected } = &trial.plan;
    let wanted = expected.join(", ");
    if expected.iter().any(|name| secrets.contains(name)) {
        let message = format!("a trial Pod with {image} in {namespace} gets {wanted}");
        return Finding::ok(CHECK, message);
    }
    let passed_over = trial.fail_open.map(|(before, after)| after > before);
    match (expected.is_empty(), passed_over) {
        (_, Some(true)) => Finding::problem(
            CHECK,
            "the API server could not call the webhook, and passed over it (failurePolicy Ignore)",
            logs(facts),
        ),
        (false, _) => Finding::problem(
            CHECK,
            format!(
                "a trial Pod with {image} in {namespace} should get {wanted}, and got nothing: the API server did not or could not call the webhook, or its credential is unusable"
            ),
            logs(facts),
        ),
        (true, Some(false)) => Finding::ok(
            CHECK,
            format!("no call fails; no rule adds anything to a Pod with {image} in {namespace}"),
        ),
        (true, None) => Finding::unseen(
            CHECK,
            format!(
                "no rule adds anything to a Pod with {image} in {namespace}: the trial proves nothing"
            ),
            "name an image and a namespace that a rule covers: --image IMAGE --check-namespace NAMESPACE",
        ),
    }
}

fn logs(facts: &Facts) -> String {
    let (namespace, webhook) = (&facts.names.namespace, &facts.names.webhook);
    format!("mend what the other lines say; then kubectl -n {namespace} logs deployment/{webhook}")
}

#[cfg(test)]
mod tests {
    use super::super::facts::Looked;
    use super::super::{Status, sound};
    use super::*;
    use crate::rules;

    fn planned(rules_text: &str, labels: &[(&str, &str)], image: Option<&str>) -> Plan {
        let text = format!("apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n{rules_text}");
        let config = rules::load(&text).unwrap();
        let labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        plan(Some(&config), "team", labels.collect(), image)
    }

    fn check_plan(pattern: &str, image: &str) {
        let text = format!(
            "pullSecrets: [{{name: s}}]\nrules: [{{name: r, images: ['{pattern}'], pullSecrets: [s]}}]"
        );
        let expected = Plan {
            image: image.to_owned(),
            expected: vec!["s".to_owned()],
        };
        assert_eq!(planned(&text, &[], None), expected);
    }

    #[test]
    fn every_kind_of_pattern_is_met() {
        check_plan(
            "registry.example.com",
            "registry.example.com/pullpass-doctor",
        );
        check_plan(
            "registry.example.com:5000/a/b",
            "registry.example.com:5000/a/b/pullpass-doctor",
        );
        check_plan(
            "*.azurecr.io:*",
            "pullpass-doctor.azurecr.io/pullpass-doctor",
        );
        check_plan("*", "pullpass-doctor.example.com/pullpass-doctor");
        check_plan(
            "docker.io/team-*",
            "docker.io/team-pullpass-doctor/pullpass-doctor",
        );
    }

    #[test]
    fn the_first_rule_that_applies_is_tried() {
        let text = "
pullSecrets: [{name: a}, {name: b, secretName: copy-of-b}]
rules:
- {name: shadow, images: [shadow.example.com], pullSecrets: [a], mode: Shadow}
- {name: elsewhere, images: [else.example.com], namespaces: [other], pullSecrets: [a]}
- {name: labelled, images: [r.example.com], namespaceSelector: {matchLabels: {x: y}}, pullSecrets: [b]}
";
        let tried = planned(text, &[("x", "y")], None);
        assert_eq!(tried.image, "r.example.com/pullpass-doctor");
        assert_eq!(tried.expected, ["copy-of-b"]);
        assert!(planned(text, &[], None).expected.is_empty());
        assert!(
            planned(text, &[("x", "y")], Some("busybox"))
                .expected
                .is_empty()
        );
    }

    fn check_trial(change: impl FnOnce(&mut Trial), status: Status, part: &str) {
        let (mut facts, _) = sound::facts();
        change(&mut facts.trial);
        let findings = check(&facts);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].status, status, "{findings:#?}");
        assert!(findings[0].message.contains(part), "{findings:#?}");
    }

    #[test]
    fn each_outcome_of_the_trial() {
        use Status::{Ok as Fine, Problem, Unseen};
        let bare = || Looked::Seen(Ok(vec![NAME.to_owned()]));
        check_trial(|_| {}, Fine, "gets harbor");
        check_trial(|trial| trial.created = bare(), Problem, "should get harbor");
        check_trial(
            |trial| (trial.created, trial.fail_open) = (bare(), Some((3.0, 4.0))),
            Problem,
            "passed over it",
        );
        let call = "Internal error occurred: failed calling webhook \"pods.pullpass.dev\": failed to call webhook: Post \"https://a.b.svc:443/mutate?timeout=5s\": no endpoints available for service \"a\"";
        check_trial(
            |trial| trial.created = Looked::Seen(Err(call.to_owned())),
            Problem,
            "no replica of the webhook is ready",
        );
        check_trial(
            |trial| trial.created = Looked::Seen(Err("exceeded quota".to_owned())),
            Unseen,
            "refused for another reason: exceeded quota",
        );
        check_trial(
            |trial| trial.created = Looked::Absent,
            Unseen,
            "there is no namespace",
        );
        let nothing = |trial: &mut Trial, fail_open| {
            trial.plan.expected.clear();
            (trial.created, trial.fail_open) = (bare(), fail_open);
        };
        check_trial(|trial| nothing(trial, None), Unseen, "proves nothing");
        check_trial(
            |trial| nothing(trial, Some((4.0, 4.0))),
            Fine,
            "no call fails",
        );
    }

    #[test]
    fn a_namespace_that_takes_no_part_proves_nothing() {
        let (mut facts, _) = sound::facts();
        let opted_out = json!({"metadata": {"labels": {"pullpass.dev/inject": "false"}}});
        facts.namespace.1 = Looked::Seen(serde_json::from_value(opted_out).unwrap());
        facts.trial.created = Looked::Seen(Ok(Vec::new()));
        let findings = check(&facts);
        assert_eq!(findings[0].status, Status::Unseen, "{findings:#?}");
        assert!(findings[0].message.contains("not asked"), "{findings:#?}");
    }

    #[test]
    fn only_our_webhooks_failures_count() {
        let metrics = "\
# TYPE apiserver_admission_webhook_fail_open_count counter
apiserver_admission_webhook_fail_open_count{name=\"pods.pullpass.dev\",type=\"admit\"} 3
apiserver_admission_webhook_fail_open_count{name=\"other.dev\",type=\"admit\"} 9
apiserver_admission_webhook_request_total{name=\"pods.pullpass.dev\"} 100
";
        assert_eq!(fail_open_count(metrics), 3.0);
        assert_eq!(fail_open_count(""), 0.0);
    }
}

//! Both Deployments, why a Pod of them is not ready, and whether a node can be drained.

use kube::ResourceExt as _;

use super::facts::{Facts, Looked, Target, component_of, with_component};
use super::{Finding, or_sound};
use crate::installation::workloads::{ContainerStatus, Deployment, Pod};

const CHECK: &str = "replicas";

/// Each Deployment, then the disruption budget of the webhook.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let names = &facts.names;
    let absent = || {
        let message = format!(
            "there is no Deployment of pullpass in namespace {}",
            names.namespace
        );
        Finding::problem(CHECK, message, names.install_again())
    };
    let deployments = match facts.deployments.or_finding(CHECK, absent) {
        Ok(deployments) => deployments,
        Err(findings) => return findings,
    };
    let mut findings = Vec::new();
    let mut ready = Vec::new();
    let roles = [
        ("webhook", &names.webhook),
        ("controller", &names.controller),
    ];
    // A webhook that is reached by URL runs elsewhere.
    let elsewhere = matches!(facts.target(), Some(Target::Url(_)));
    for (component, name) in roles.into_iter().skip(usize::from(elsewhere)) {
        let Some(deployment) = with_component(deployments, component) else {
            let message = format!("there is no Deployment {}/{name}", names.namespace);
            findings.push(Finding::problem(CHECK, message, names.install_again()));
            continue;
        };
        match unready(deployment, component, facts) {
            Some(finding) => findings.push(finding),
            None => ready.push(format!("{name} {}", wanted(deployment))),
        }
    }
    findings.extend(budget(deployments, facts));
    findings.extend(unasked(facts));
    or_sound(findings, || {
        Finding::ok(CHECK, format!("all ready: {}", ready.join(", ")))
    })
}

/// `spec.replicas`; 1 if absent (apps/v1).
fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

fn unready(deployment: &Deployment, component: &str, facts: &Facts) -> Option<Finding> {
    let wanted = wanted(deployment);
    let ready = deployment.status.ready_replicas;
    let namespace = &facts.names.namespace;
    let name = deployment.name_any();
    if wanted == 0 {
        let fix = format!("kubectl -n {namespace} scale deployment {name} --replicas=2");
        return Some(Finding::problem(
            CHECK,
            format!("{name} is scaled to 0"),
            fix,
        ));
    }
    if ready >= wanted {
        return None;
    }
    let pods = facts.pods.seen().map(Vec::as_slice).unwrap_or_default();
    let reasons = pods
        .iter()
        .filter(|pod| component_of(*pod) == Some(component))
        .filter_map(|pod| Some(format!("{}: {}", pod.name_any(), reason(pod, facts)?)));
    let reasons: Vec<_> = reasons.collect();
    let because = match reasons.as_slice() {
        [] => String::new(),
        reasons => format!(" ({})", reasons.join("; ")),
    };
    let message = format!("{name}: {ready} of {wanted} replicas are ready{because}");
    let fix = format!(
        "kubectl -n {namespace} describe pods -l app.kubernetes.io/component={component}; kubectl -n {namespace} logs deployment/{name}"
    );
    // One replica answers for all; without any, nothing is injected.
    Some(match ready {
        0 => Finding::problem(CHECK, message, fix),
        _ => Finding::warning(CHECK, message, fix),
    })
}

/// Why a Pod is not ready: its container's state, what it says itself, or its own condition.
fn reason(pod: &Pod, facts: &Facts) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = &status.conditions;
    if conditions
        .iter()
        .any(|c| c.kind == "Ready" && c.status == "True")
    {
        return None;
    }
    let name = pod.name_any();
    let own_words = facts.replicas.iter().find(|replica| replica.pod == name);
    let own_words = own_words.and_then(|replica| replica.ready.seen());
    let condition = || {
        let failed = conditions.iter().find(|c| c.status == "False");
        failed.and_then(|c| c.message.clone().or_else(|| c.reason.clone()))
    };
    let mut containers = status.container_statuses.iter();
    containers
        .find_map(waiting)
        .or_else(|| own_words.map(|words| one_line(words)))
        .or_else(condition)
        .or_else(|| Some("not ready".to_owned()))
}

/// `CrashLoopBackOff` and its like.
fn waiting(container: &ContainerStatus) -> Option<String> {
    container.state.waiting.as_ref()?.reason.clone()
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(", ")
}

/// More than one replica without a budget: a drain may take all of them at once.
fn budget(deployments: &[Deployment], facts: &Facts) -> Option<Finding> {
    let webhook = with_component(deployments, "webhook")?;
    if wanted(webhook) < 2 {
        let message = format!(
            "{} has one replica: nothing is injected while it moves",
            facts.names.webhook
        );
        let (namespace, name) = (&facts.names.namespace, &facts.names.webhook);
        let fix = format!("kubectl -n {namespace} scale deployment {name} --replicas=2");
        return Some(Finding::warning(CHECK, message, fix));
    }
    let has_one = match &facts.budgets {
        Looked::Seen(budgets) => budgets.iter().any(|b| component_of(b) == Some("webhook")),
        Looked::Absent => false,
        Looked::Denied(_) | Looked::Failed(_) => {
            let none = || Finding::ok(CHECK, "");
            return facts.budgets.or_finding(CHECK, none).err()?.pop();
        }
    };
    (!has_one).then(|| {
        let message =
            "the webhook has no PodDisruptionBudget: a drain may take all replicas at once";
        Finding::warning(CHECK, message, facts.names.install_again())
    })
}

/// Replicas whose own words could not be asked for.
fn unasked(facts: &Facts) -> Option<Finding> {
    let denied = facts
        .replicas
        .iter()
        .find_map(|replica| match &replica.metrics {
            Looked::Denied(said) => Some(said),
            _ => None,
        })?;
    Some(Finding::unseen(
        CHECK,
        format!("could not ask the replicas what they serve: {denied}"),
        "run it as someone with the right to get pods/proxy",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Replica;
    use super::super::{Status, sound};
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "webhook"}},
            "status": status,
        }))
        .unwrap()
    }

    fn check_changed(change: impl FnOnce(&mut Facts), status: Status, part: &str) {
        let (mut facts, _) = sound::facts();
        change(&mut facts);
        let findings = check(&facts);
        let found = findings
            .iter()
            .any(|f| f.status == status && f.message.contains(part));
        assert!(found, "{part}: {findings:#?}");
    }

    fn webhooks(wanted: i32, ready: i32) -> Looked<Vec<Deployment>> {
        let controller = sound::deployment("controller", 1, 1);
        Looked::Seen(vec![
            sound::deployment("webhook", wanted, ready),
            controller,
        ])
    }

    #[test]
    fn each_shortage_has_its_line() {
        use Status::{Ok as Fine, Problem, Unseen, Warning};
        check_changed(
            |_| {},
            Fine,
            "all ready: pullpass-webhook 2, pullpass-controller 1",
        );
        check_changed(
            |f| f.deployments = Looked::Absent,
            Problem,
            "no Deployment of pullpass",
        );
        check_changed(
            |f| f.deployments = Looked::Seen(vec![sound::deployment("webhook", 2, 2)]),
            Problem,
            "no Deployment pullpass/pullpass-controller",
        );
        check_changed(|f| f.deployments = webhooks(0, 0), Problem, "scaled to 0");
        check_changed(
            |f| f.deployments = webhooks(2, 0),
            Problem,
            "0 of 2 replicas",
        );
        check_changed(
            |f| f.deployments = webhooks(2, 1),
            Warning,
            "1 of 2 replicas",
        );
        check_changed(|f| f.deployments = webhooks(1, 1), Warning, "one replica");
        check_changed(
            |f| f.budgets = Looked::Seen(Vec::new()),
            Warning,
            "no PodDisruptionBudget",
        );
        check_changed(
            |f| f.budgets = Looked::Denied("pdb".into()),
            Unseen,
            "could not look: pdb",
        );
        check_changed(
            |f| f.replicas[0].metrics = Looked::Denied("pods/proxy".into()),
            Unseen,
            "could not ask the replicas what they serve: pods/proxy",
        );
    }

    #[test]
    fn a_pod_that_is_not_ready_says_why() {
        let because = |status: Value, words: Option<&str>, expected: &str| {
            check_changed(
                |facts| {
                    facts.deployments = webhooks(2, 1);
                    facts.pods = Looked::Seen(vec![pod("pod-0", &status)]);
                    facts.replicas = vec![Replica {
                        pod: "pod-0".to_owned(),
                        ready: words.map_or(Looked::Absent, |w| Looked::Seen(w.to_owned())),
                        metrics: Looked::Absent,
                    }];
                },
                Status::Warning,
                expected,
            );
        };
        let not_ready =
            json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]);
        because(
            json!({"containerStatuses": [{"name": "c", "ready": false, "image": "", "imageID": "",
                "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            None,
            "(pod-0: CrashLoopBackOff)",
        );
        because(
            json!({"conditions": not_ready}),
            Some("[-] rules: no rules.yaml\n"),
            "(pod-0: [-] rules: no rules.yaml)",
        );
        because(
            json!({"conditions": not_ready}),
            None,
            "(pod-0: ContainersNotReady)",
        );
        because(json!({}), None, "(pod-0: not ready)");
    }
}

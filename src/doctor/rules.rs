//! The rules: as they are written in the ConfigMap, and as the replicas serve them.

use super::facts::{Facts, Looked, Replica};
use super::{Finding, or_sound};
use crate::rules::config::RULES_KEY as KEY;
use crate::rules::{self, RulesConfig};

const CHECK: &str = "rules";
/// Most errors of one rules text that are shown; `check` shows all.
const ERRORS_SHOWN: usize = 5;
/// Longest silence of a watch, in seconds: one lasts 25, and is asked for again within 5.
const WATCH_AGE_SECONDS_MAX: f64 = 60.0;

/// The text, then each replica that does not serve it.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let names = &facts.names;
    let object = format!("{}/{}", names.namespace, names.rules);
    let missing = |what: String| {
        let (namespace, name) = (&names.namespace, &names.rules);
        let fix = format!(
            "kubectl -n {namespace} create configmap {name} --from-file={KEY} --dry-run=client -o yaml | kubectl apply -f -"
        );
        Finding::problem(CHECK, what, fix)
    };
    let absent = || missing(format!("there is no ConfigMap {object}"));
    let text = match facts.rules.or_finding(CHECK, absent) {
        Ok(Some(text)) => text,
        Ok(None) => return vec![missing(format!("ConfigMap {object} has no key {KEY}"))],
        Err(findings) => return [findings, served(facts)].concat(),
    };
    match rules::load(text) {
        Ok(config) => or_sound(served(facts), || valid(&config, &object)),
        Err(errors) => errors_of(&errors, text, &object, facts),
    }
}

fn valid(config: &RulesConfig, object: &str) -> Finding {
    let (secrets, rules) = (config.pull_secrets.len(), config.rules.len());
    Finding::ok(
        CHECK,
        format!("{object} is valid; pull secrets: {secrets}, rules: {rules}"),
    )
}

/// The first errors as `check` says them.
fn errors_of(errors: &rules::Diagnostics, text: &str, object: &str, facts: &Facts) -> Vec<Finding> {
    let (namespace, name) = (&facts.names.namespace, &facts.names.rules);
    let findings = errors.findings(text);
    let more = findings.len().saturating_sub(ERRORS_SHOWN);
    let shown = findings.iter().take(ERRORS_SHOWN).map(|finding| {
        let (line, column, message) = (finding.line, finding.column, finding.message);
        let help = finding.help.map(|help| format!("{help}; "));
        let edit = format!("kubectl -n {namespace} edit configmap {name}");
        let message = format!("{object}: {KEY}:{line}:{column}: {message}");
        Finding::problem(CHECK, message, help.unwrap_or_default() + &edit)
    });
    let rest = (more > 0).then(|| {
        let get = format!("kubectl -n {namespace} get configmap {name}");
        let fix = format!("{get} -o jsonpath='{{.data.rules\\.yaml}}' | pullpass check -");
        Finding::problem(CHECK, format!("{object}: {more} more errors"), fix)
    });
    shown.chain(rest).collect()
}

/// Replicas that serve older rules, by their own metrics.
fn served(facts: &Facts) -> Vec<Finding> {
    facts
        .replicas
        .iter()
        .flat_map(|replica| behind(replica, facts))
        .collect()
}

fn behind(replica: &Replica, facts: &Facts) -> Vec<Finding> {
    let Looked::Seen(metrics) = &replica.metrics else {
        // Who may not ask replicas is told so by the check of the replicas.
        return Vec::new();
    };
    let (namespace, pod) = (&facts.names.namespace, &replica.pod);
    let logs = format!("kubectl -n {namespace} logs {pod}");
    let mut findings = Vec::new();
    if values(metrics, "pullpass_rules_valid").any(|(_, value)| value < 1.0) {
        let message =
            format!("replica {pod} could not use the latest rules, and serves the last good ones");
        findings.push(Finding::problem(CHECK, message, logs.clone()));
    }
    for (labels, age) in values(metrics, "pullpass_watch_age_seconds") {
        if age > WATCH_AGE_SECONDS_MAX {
            let message =
                format!("replica {pod} has not heard from the API server for {age:.0} s {labels}");
            findings.push(Finding::problem(CHECK, message, logs.clone()));
        }
    }
    findings
}

/// Labels and value of each series of one metric, in Prometheus' text form.
fn values<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        Some((labels, value.parse().ok()?)).filter(|_| is_whole_name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Status, sound};
    use super::*;

    fn check_rules(rules: Looked<Option<&str>>, status: Status, expected: &[&str]) -> Vec<Finding> {
        let (mut facts, _) = sound::facts();
        facts.rules = rules.map(|text| text.map(str::to_owned));
        let findings = check(&facts);
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, part) in findings.iter().zip(expected) {
            assert_eq!(finding.status, status);
            assert!(finding.message.contains(part), "{findings:#?}");
        }
        findings
    }

    #[test]
    fn the_text_is_checked_as_check_does() {
        use Status::{Ok as Fine, Problem, Unseen};
        check_rules(
            Looked::Seen(Some(sound::RULES)),
            Fine,
            &["valid; pull secrets: 1, rules: 1"],
        );
        check_rules(
            Looked::Absent,
            Problem,
            &["no ConfigMap pullpass/pullpass-rules"],
        );
        check_rules(Looked::Seen(None), Problem, &["no key rules.yaml"]);
        check_rules(
            Looked::Denied("configmaps".into()),
            Unseen,
            &["could not look: configmaps"],
        );
        let text = sound::RULES.replace("pullSecrets: [harbor]", "pullSecrets: [habor]");
        let findings = check_rules(
            Looked::Seen(Some(&text)),
            Problem,
            &["pullpass/pullpass-rules: rules.yaml:4:"],
        );
        let fix = findings[0].fix.as_deref().unwrap();
        assert!(
            fix.ends_with("kubectl -n pullpass edit configmap pullpass-rules"),
            "{fix}"
        );
    }

    #[test]
    fn of_many_errors_five_are_shown() {
        let rules: String = (0..8)
            .map(|n| format!("- {{name: r{n}, images: ['a b']}}\n"))
            .collect();
        let text = format!("apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\nrules:\n{rules}");
        let (mut facts, _) = sound::facts();
        facts.rules = Looked::Seen(Some(text));
        let findings = check(&facts);
        assert_eq!(findings.len(), ERRORS_SHOWN + 1);
        assert!(
            findings[ERRORS_SHOWN].message.contains("more errors"),
            "{findings:#?}"
        );
    }

    #[test]
    fn replicas_that_are_behind_are_named() {
        let said = |metrics: &str| {
            let (mut facts, _) = sound::facts();
            facts.replicas[0].metrics = Looked::Seen(metrics.to_owned());
            check(&facts)[0].clone()
        };
        let finding = said("pullpass_rules_valid 0\n");
        assert_eq!(finding.status, Status::Problem);
        assert!(
            finding
                .message
                .contains("pod-0 could not use the latest rules"),
            "{finding:?}"
        );
        let finding = said("pullpass_watch_age_seconds{watch=\"rules\"} 400.5\n");
        assert!(
            finding.message.contains("for 400 s {watch=\"rules\"}"),
            "{finding:?}"
        );
        let sound =
            said("pullpass_rules_valid 1\npullpass_watch_age_seconds{watch=\"rules\"} 12\n");
        assert_eq!(sound.status, Status::Ok);
    }
}

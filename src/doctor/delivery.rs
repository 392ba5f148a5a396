//! The copies: whether their sources can be used, the controller may write them, and they are there.
//!
//! `status` says where each copy is; here is only what is wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use super::facts::Facts;
use super::{Finding, or_sound};
use crate::status::report::{PullSecretReport, SourceState};
use crate::status::{self, first_few, report};

const CHECK: &str = "delivery";

/// Nothing without usable rules: the check of the rules says so.
pub(super) fn check(facts: &Facts, now: SystemTime) -> Vec<Finding> {
    let Some(delivery) = &facts.delivery else {
        return Vec::new();
    };
    if delivery.delivers == Some(false) {
        let message = "the controller copies nothing: each namespace brings its own Secrets";
        return vec![Finding::ok(CHECK, message)];
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let report = report(delivery, now.as_secs());
    let mut findings: Vec<Finding> = forbidden(facts).into_iter().collect();
    findings.extend(unattachable(facts));
    for secret in &report.pull_secrets {
        findings.extend(source(secret));
        findings.extend(copies(secret, facts));
        findings.extend(accounts(secret, facts));
    }
    if report.index_is_current == Some(false) {
        let message = "the controller has not taken over the rules in the ConfigMap";
        findings.push(Finding::warning(CHECK, message, logs(facts)));
    }
    findings.extend(delivery.unseen.iter().map(unseen));
    or_sound(findings, || {
        let copies = report.pull_secrets.iter().flat_map(|secret| &secret.copies);
        let present: usize = copies.map(|copies| copies.present.len()).sum();
        let all = report.pull_secrets.len();
        let message = format!("pull secrets: {all}, copies: {present}, none missing");
        Finding::ok(CHECK, message)
    })
}

fn unseen(unseen: &status::Unseen) -> Finding {
    let message = format!("could not look at {}: {}", unseen.what, unseen.said);
    Finding::unseen(CHECK, message, unseen.fix.clone())
}

/// Names that the controller's role does not list.
fn forbidden(facts: &Facts) -> Option<Finding> {
    let denied = facts.copying.iter();
    let denied = denied.filter(|(_, answer)| answer.seen() == Some(&false));
    let names: Vec<String> = denied.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "the controller may not copy Secrets called {}: they are not in its role",
        first_few(&names)
    );
    let fix = format!(
        "put them into delivery.secretNames: {} --set 'delivery.secretNames={{{}}}'",
        facts.names.install_again(),
        names.join(",")
    );
    Some(Finding::problem(CHECK, message, fix))
}

/// ServiceAccounts that the controller should change and may not.
fn unattachable(facts: &Facts) -> Option<Finding> {
    let may = facts.attaching.as_ref()?.seen()?;
    let message =
        "the controller may not patch ServiceAccounts, which pull secrets are attached to";
    let fix = format!(
        "{} --set delivery.serviceAccounts=true",
        facts.names.install_again()
    );
    (!may).then(|| Finding::problem(CHECK, message, fix))
}

fn source(secret: &PullSecretReport) -> Vec<Finding> {
    let (name, source) = (&secret.name, &secret.source);
    let fix = || source.fix.clone().unwrap_or_default();
    let mut findings = Vec::new();
    match source.state {
        SourceState::Missing => {
            let message = format!("pull secret {name}: {} does not exist", source.from);
            findings.push(Finding::problem(CHECK, message, fix()));
        }
        SourceState::Unusable => {
            let reason = source.reason.as_deref().unwrap_or_default();
            let message = format!(
                "pull secret {name}: {} cannot be used: {reason}",
                source.from
            );
            findings.push(Finding::problem(CHECK, message, fix()));
        }
        SourceState::Usable => findings.extend(source.reason.as_ref().map(|reason| {
            let message = format!(
                "pull secret {name}: {} gives nothing new: {reason}",
                source.from
            );
            Finding::warning(CHECK, message, fix())
        })),
        SourceState::Unseen | SourceState::NotLookedAt => {}
    }
    if let Some(probe) = secret.probe.as_ref().filter(|probe| probe.is_rejected()) {
        let reason = probe.reason.as_deref().unwrap_or_default();
        let message = format!("pull secret {name}: its registry rejects it: {reason}");
        let fix = format!("put a login that works into {}", source.from);
        findings.push(Finding::problem(CHECK, message, fix));
    }
    let ended = secret.tokens.iter().filter(|token| token.is_expired);
    findings.extend(ended.map(|token| {
        let message = format!(
            "pull secret {name}: the token for {} ended at {}",
            token.key, token.expires
        );
        Finding::problem(
            CHECK,
            message,
            format!("put a new one into {}", source.from),
        )
    }));
    findings
}

fn copies(secret: &PullSecretReport, facts: &Facts) -> Vec<Finding> {
    let Some(copies) = &secret.copies else {
        return Vec::new();
    };
    let (name, secret_name) = (&secret.name, &secret.secret_name);
    let mut findings = Vec::new();
    let has_source = secret.source.state == SourceState::Usable;
    for (list, how) in [(&copies.missing, "missing"), (&copies.stale, "out of date")] {
        if has_source && !list.is_empty() {
            let message = format!(
                "copies of pull secret {name} are {how} in {}",
                first_few(list)
            );
            findings.push(Finding::problem(CHECK, message, logs(facts)));
        }
    }
    if !copies.foreign.is_empty() {
        let message = format!(
            "Secret {secret_name} of somebody else is in the place of copies of pull secret {name}, and left \
             alone: {}",
            first_few(&copies.foreign)
        );
        let fix = "delete it, name its maker in `adopt`, or choose another `secretName`";
        findings.push(Finding::warning(CHECK, message, fix));
    }
    findings
}

fn accounts(secret: &PullSecretReport, facts: &Facts) -> Option<Finding> {
    let missing = &secret.accounts.as_ref()?.missing;
    let message = format!(
        "pull secret {} is not attached to ServiceAccounts that should have it: {}",
        secret.name,
        first_few(missing)
    );
    (!missing.is_empty()).then(|| Finding::problem(CHECK, message, logs(facts)))
}

fn logs(facts: &Facts) -> String {
    let (namespace, controller) = (&facts.names.namespace, &facts.names.controller);
    format!("kubectl -n {namespace} logs deployment/{controller}")
}

#[cfg(test)]
mod tests {
    use super::super::facts::Looked;
    use super::super::{Status, sound};
    use super::*;
    use crate::status::facts::{Expiry, SourceFacts};

    /// What is said after `change`.
    fn check_changed(change: impl FnOnce(&mut Facts), expected: &[(Status, &str, &str)]) {
        let (mut facts, now) = sound::facts();
        change(&mut facts);
        let findings = check(&facts, now);
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, (status, message, fix)) in findings.iter().zip(expected) {
            assert_eq!(finding.status, *status, "{finding:?}");
            assert!(finding.message.contains(message), "{finding:?}");
            let said = finding.fix.as_deref().unwrap_or_default();
            assert!(said.contains(fix), "{finding:?}");
        }
    }

    fn delivery(facts: &mut Facts) -> &mut status::Facts {
        facts.delivery.as_mut().unwrap()
    }

    #[test]
    fn sound_or_switched_off_is_fine() {
        check_changed(|_| {}, &[(Status::Ok, "pull secrets: 1, copies: 1", "")]);
        check_changed(
            |facts| delivery(facts).delivers = Some(false),
            &[(Status::Ok, "copies nothing", "")],
        );
        check_changed(|facts| facts.delivery = None, &[]);
    }

    #[test]
    fn names_that_the_role_lacks_are_named_with_the_value() {
        let expected = (
            Status::Problem,
            "may not copy Secrets called harbor",
            "--set 'delivery.secretNames={harbor}'",
        );
        check_changed(
            |facts| facts.copying[0].1 = Looked::Seen(false),
            &[expected],
        );
        let expected = (
            Status::Problem,
            "may not patch ServiceAccounts",
            "--set delivery.serviceAccounts=true",
        );
        check_changed(
            |facts| facts.attaching = Some(Looked::Seen(false)),
            &[expected],
        );
        check_changed(
            |facts| facts.attaching = None,
            &[(Status::Ok, "none missing", "")],
        );
    }

    #[test]
    fn a_source_is_missing_unusable_or_over() {
        let set = |source: Looked<SourceFacts>| {
            move |facts: &mut Facts| {
                delivery(facts)
                    .sources
                    .insert(status::sound::source_ref(), source);
            }
        };
        check_changed(
            set(Looked::Absent),
            &[(
                Status::Problem,
                "Secret pullpass/harbor does not exist",
                "kubectl -n pullpass create secret docker-registry harbor",
            )],
        );
        let unusable = SourceFacts {
            unusable: Some("not JSON".to_owned()),
            ..SourceFacts::default()
        };
        check_changed(
            set(Looked::Seen(unusable)),
            &[(
                Status::Problem,
                "cannot be used: not JSON",
                "delete secret harbor; ",
            )],
        );
        let expiries = vec![Expiry {
            key: "harbor.example.com".to_owned(),
            at: 1_700_000_000,
        }];
        let over = SourceFacts {
            expiries,
            ..SourceFacts::default()
        };
        check_changed(
            set(Looked::Seen(over)),
            &[(
                Status::Problem,
                "for harbor.example.com ended at 2023-11-14T22:13:20Z",
                "put a new one into Secret pullpass/harbor",
            )],
        );
    }

    #[test]
    fn copies_are_missing_or_foreign() {
        let state = |facts: &mut Facts, there: bool| {
            let copies = &mut delivery(facts).state.copies;
            let listing = copies.get_mut("harbor").unwrap();
            let mut secret = listing.remove(&"team".into()).unwrap();
            if there {
                secret.whose = crate::delivery::copy::Whose::Foreign;
                listing.set("team".into(), secret);
            }
        };
        check_changed(
            |facts| state(facts, false),
            &[(
                Status::Problem,
                "copies of pull secret harbor are missing in team",
                "logs deployment/pullpass-controller",
            )],
        );
        check_changed(
            |facts| state(facts, true),
            &[(Status::Warning, "Secret harbor of somebody else", "`adopt`")],
        );
    }

    #[test]
    fn what_was_not_seen_is_said() {
        let unseen = status::Unseen {
            what: "copies: harbor".to_owned(),
            said: "forbidden".to_owned(),
            fix: "run it as someone".to_owned(),
        };
        check_changed(
            |facts| delivery(facts).unseen.push(unseen),
            &[(
                Status::Unseen,
                "copies: harbor: forbidden",
                "run it as someone",
            )],
        );
    }
}

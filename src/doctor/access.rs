//! What the two ServiceAccounts may do: each right they need, and none they must never have.
//!
//! The webhook is what the network talks to, so it can write nothing, and read no Secret but its own
//! certificate.

use super::facts::{Facts, Names, Right, Target};
use super::{Finding, or_sound};

const CHECK: &str = "access";

const ADMISSION: &str = "admissionregistration.k8s.io";
/// A watch begins with a list.
const FOLLOW: &[&str] = &["list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];

/// Rights of one account, in the namespace or cluster-wide.
struct Account<'a> {
    name: &'a str,
    namespace: &'a str,
    rights: Vec<Right>,
}

impl Account<'_> {
    fn right(
        &mut self,
        verbs: &[&'static str],
        of: (&'static str, &'static str),
        name: Option<&str>,
    ) {
        let namespace = Some(self.namespace);
        self.add(verbs, of, name, namespace, true);
    }

    fn cluster_right(
        &mut self,
        verbs: &[&'static str],
        of: (&'static str, &'static str),
        name: Option<&str>,
    ) {
        self.add(verbs, of, name, None, true);
    }

    fn add(
        &mut self,
        verbs: &[&'static str],
        (group, resource): (&'static str, &'static str),
        name: Option<&str>,
        namespace: Option<&str>,
        needed: bool,
    ) {
        self.rights.extend(verbs.iter().map(|verb| Right {
            account: self.name.to_owned(),
            verb,
            group,
            resource,
            name: name.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            needed,
        }));
    }
}

/// Every question; about the webhook's account only if the webhook runs in the cluster.
pub(super) fn rights(names: &Names, target: Option<&Target>) -> Vec<Right> {
    let mut rights = controller(names);
    if !matches!(target, Some(Target::Url(_))) {
        rights.extend(webhook(names));
    }
    rights
}

fn webhook(names: &Names) -> Vec<Right> {
    let mut account = Account {
        name: &names.webhook_account,
        namespace: &names.namespace,
        rights: Vec::new(),
    };
    account.right(FOLLOW, ("", "configmaps"), Some(&names.rules));
    account.right(FOLLOW, ("", "configmaps"), Some(&names.index));
    account.right(FOLLOW, ("", "secrets"), Some(&names.tls_secret));
    account.cluster_right(FOLLOW, ("", "namespaces"), None);

    let own = Some(names.namespace.as_str());
    account.add(
        &["get"],
        ("", "secrets"),
        Some(&names.ca_secret),
        own,
        false,
    );
    account.add(&["get", "list", "watch"], ("", "secrets"), None, own, false);
    account.add(&["get", "list"], ("", "secrets"), None, None, false);
    for of in [("", "secrets"), ("", "configmaps"), ("", "pods")] {
        account.add(WRITE, of, None, own, false);
        account.add(&["create", "patch"], of, None, None, false);
    }
    account.add(WRITE, ("", "secrets"), Some(&names.tls_secret), own, false);
    account.add(WRITE, ("", "configmaps"), Some(&names.rules), own, false);
    let configuration = (ADMISSION, "mutatingwebhookconfigurations");
    account.add(
        WRITE,
        configuration,
        Some(&names.configuration),
        None,
        false,
    );
    account.rights
}

fn controller(names: &Names) -> Vec<Right> {
    let mut account = Account {
        name: &names.controller_account,
        namespace: &names.namespace,
        rights: Vec::new(),
    };
    account.right(FOLLOW, ("", "configmaps"), Some(&names.rules));
    account.right(&["create"], ("events.k8s.io", "events"), None);
    account.right(
        &["get", "create", "patch"],
        ("coordination.k8s.io", "leases"),
        Some(&names.lease),
    );
    let configuration = (ADMISSION, "mutatingwebhookconfigurations");
    account.cluster_right(FOLLOW, configuration, Some(&names.configuration));
    if names.certificates == "self" {
        for secret in [&names.tls_secret, &names.ca_secret] {
            account.right(&["create", "patch"], ("", "secrets"), Some(secret));
        }
    }
    if matches!(&*names.certificates, "self" | "provided") {
        account.right(FOLLOW, ("", "secrets"), Some(&names.tls_secret));
        account.cluster_right(&["patch"], configuration, Some(&names.configuration));
    }
    if names.recovers {
        account.cluster_right(&["get", "list"], ("", "pods"), None);
        account.cluster_right(&["create"], ("", "pods/eviction"), None);
        account.cluster_right(&["create"], ("events.k8s.io", "events"), None);
        account.right(&["get"], ("", "configmaps"), Some(&names.rules));
        account.cluster_right(&["get"], configuration, Some(&names.configuration));
    }
    // A Secret of any name may be a token.
    let own = Some(names.namespace.as_str());
    account.add(&["create"], ("", "secrets"), None, own, false);
    account.add(
        &["get", "list", "update", "patch", "delete"],
        ("", "secrets"),
        None,
        Some("kube-system"),
        false,
    );
    account.rights
}

/// Rights that are missing, and rights that should not be there.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let wrong = |needed: bool, account: &str| -> Vec<String> {
        let answered = facts.access.iter().filter(|(right, answer)| {
            let has = answer.seen().copied();
            right.account == account && right.needed == needed && has == Some(!needed)
        });
        answered.map(|(right, _)| right.to_text()).collect()
    };
    let names = &facts.names;
    let mut findings = Vec::new();
    let mut accounts = vec![names.webhook_account.as_str(), &names.controller_account];
    accounts.dedup();
    for account in accounts {
        let account_name = format!("ServiceAccount {}/{account}", names.namespace);
        let (missing, excess) = (wrong(true, account), wrong(false, account));
        if !missing.is_empty() {
            let message = format!("{account_name} may not {}", missing.join(", "));
            findings.push(Finding::problem(CHECK, message, names.install_again()));
        }
        if !excess.is_empty() {
            let message = format!(
                "{account_name} must not have the right to {}",
                excess.join(", ")
            );
            let fix = format!(
                "find the binding: kubectl get rolebindings,clusterrolebindings -A -o wide | grep {account}"
            );
            findings.push(Finding::problem(CHECK, message, fix));
        }
    }
    findings.extend(unanswered(facts));
    or_sound(findings, || {
        let needed = facts
            .access
            .iter()
            .filter(|(right, _)| right.needed)
            .count();
        let others = facts.access.len() - needed;
        let message = format!(
            "both accounts have the {needed} rights they need, and none of {others} they must not have"
        );
        Finding::ok(CHECK, message)
    })
}

/// One line for all questions without an answer.
fn unanswered(facts: &Facts) -> Option<Finding> {
    let (_, first) = facts
        .access
        .iter()
        .find(|(_, answer)| answer.seen().is_none())?;
    let nobody = || Finding::unseen(CHECK, "the API server answers no SubjectAccessReview", "");
    first.or_finding(CHECK, nobody).err()?.pop()
}

impl Right {
    /// To write copies of this name; the chart gives all verbs together.
    pub(super) fn to_copy(names: &Names, secret_name: &str) -> Self {
        Self {
            account: names.controller_account.clone(),
            verb: "patch",
            group: "",
            resource: "secrets",
            name: Some(secret_name.to_owned()),
            namespace: None,
            needed: true,
        }
    }

    /// To attach secrets to ServiceAccounts.
    pub(super) fn to_attach(names: &Names) -> Self {
        Self {
            resource: "serviceaccounts",
            name: None,
            ..Self::to_copy(names, "")
        }
    }

    /// As `kubectl auth can-i` takes it.
    fn to_text(&self) -> String {
        let Self {
            verb,
            group,
            resource,
            ..
        } = self;
        let group = if group.is_empty() {
            String::new()
        } else {
            format!(".{group}")
        };
        let name = self.name.as_ref().map(|name| format!("/{name}"));
        let place = match &self.namespace {
            Some(namespace) => format!("-n {namespace}"),
            None => "-A".to_owned(),
        };
        format!(
            "`{verb} {resource}{group}{} {place}`",
            name.unwrap_or_default()
        )
    }
}

/// The answers of an API server whose roles are as they should be.
#[cfg(test)]
pub(super) fn all_right(names: &Names) -> Vec<(Right, super::facts::Looked<bool>)> {
    use super::facts::Looked;
    let answer = |right: Right| {
        let needed = right.needed;
        (right, Looked::Seen(needed))
    };
    rights(names, None).into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::Looked;
    use super::super::{Status, sound};
    use super::*;

    fn check_turned(
        turned: impl Fn(&Right) -> bool,
        answer: impl Fn(bool) -> Looked<bool>,
        status: Status,
        expected: &str,
    ) {
        let (mut facts, _) = sound::facts();
        for (right, current) in &mut facts.access {
            if turned(right) {
                *current = answer(!right.needed);
            }
        }
        let findings = check(&facts);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].status, status);
        assert!(findings[0].message.contains(expected), "{findings:#?}");
    }

    #[test]
    fn missing_and_excess_rights_are_told_apart() {
        use Status::{Problem, Unseen};
        check_turned(
            |r| r.account == "pullpass-webhook" && r.resource == "namespaces",
            Looked::Seen,
            Problem,
            "pullpass/pullpass-webhook may not `list namespaces -A`, `watch namespaces -A`",
        );
        check_turned(
            |r| r.name.as_deref() == Some("pullpass-ca") && !r.needed,
            Looked::Seen,
            Problem,
            "pullpass-webhook must not have the right to `get secrets/pullpass-ca -n pullpass`",
        );
        check_turned(
            |r| r.verb == "patch" && r.group == ADMISSION && r.needed,
            Looked::Seen,
            Problem,
            "pullpass-controller may not `patch mutatingwebhookconfigurations.admissionregistration.k8s.io/pullpass -A`",
        );
        check_turned(
            |_| true,
            |_| Looked::Denied("subjectaccessreviews".to_owned()),
            Unseen,
            "could not look: subjectaccessreviews",
        );
    }

    #[test]
    fn who_recovers_by_itself_may_evict() {
        let mut names = Names::of_chart("ns", "p");
        let evicts = |r: &Right| r.needed && r.to_text() == "`create pods/eviction -A`";
        assert!(!rights(&names, None).iter().any(evicts));
        names.recovers = true;
        assert!(rights(&names, None).iter().any(evicts));
    }

    #[test]
    fn who_makes_no_certificates_needs_no_right_to() {
        let mut names = Names::of_chart("ns", "p");
        names.certificates = "cert-manager".to_owned();
        let writes_secrets = |r: &Right| r.needed && r.resource == "secrets" && r.verb == "create";
        assert!(!rights(&names, None).iter().any(writes_secrets));
        names.certificates = "self".to_owned();
        assert!(rights(&names, None).iter().any(writes_secrets));
    }
}

//! What the two accounts may do, in every permutation.

use serde_json::{Value, json};

use super::helm::{RENDERED, Rendered, list, name};

/// A rule of a role, and whether it is limited to the release's namespace.
struct Right<'a> {
    place: String,
    rule: &'a Value,
    own_namespace: bool,
}

impl Right<'_> {
    fn has(&self, field: &str, value: &str) -> bool {
        list(&self.rule[field]).iter().any(|found| found == value)
    }

    fn only_verbs(&self, verbs: &[&str]) -> bool {
        let mut all = list(&self.rule["verbs"]).iter();
        all.all(|verb| verbs.contains(&verb.as_str().unwrap()))
    }

    fn names(&self) -> Vec<&str> {
        let names = list(&self.rule["resourceNames"]).iter();
        names.map(|name| name.as_str().unwrap()).collect()
    }
}

/// The rights of one role, `webhook` or `controller`.
fn rights<'a>(rendered: &'a Rendered, role: &str) -> Vec<Right<'a>> {
    let suffix = format!("-{role}");
    let roles = rendered
        .of_kind("Role")
        .chain(rendered.of_kind("ClusterRole"));
    let rights = roles
        .filter(|found| name(found).ends_with(&suffix))
        .flat_map(|found| {
            let right = |rule| Right {
                place: format!("{}: {rule}", rendered.place()),
                rule,
                own_namespace: found["kind"] == "Role",
            };
            list(&found["rules"]).iter().map(right)
        });
    rights.collect()
}

fn everyone() -> impl Iterator<Item = Right<'static>> {
    let roles = ["webhook", "controller", "test"];
    RENDERED
        .iter()
        .flat_map(move |rendered| roles.into_iter().flat_map(|role| rights(rendered, role)))
}

#[test]
fn nothing_is_granted_by_a_star_or_by_an_empty_list_of_names() {
    for right in everyone() {
        for field in ["apiGroups", "resources", "verbs"] {
            assert!(!list(&right.rule[field]).is_empty(), "{}", right.place);
            assert!(!right.has(field, "*"), "{}", right.place);
        }
        // `resourceNames: []` means all names.
        let names = &right.rule["resourceNames"];
        assert!(
            names.is_null() || !list(names).is_empty(),
            "{}",
            right.place
        );
    }
}

#[test]
fn incident_29_the_webhook_writes_nothing_and_reads_no_secret_but_its_certificate() {
    for rendered in RENDERED.iter().filter(|rendered| rendered.case != "url") {
        let rights = rights(rendered, "webhook");
        assert_eq!(rights.len(), 3, "{}", rendered.place());
        for right in rights {
            assert!(
                right.only_verbs(&["get", "list", "watch"]),
                "{}",
                right.place
            );
            if right.has("resources", "secrets") {
                let certificate = match &*rendered.case {
                    "certificates-provided" => "our-own-certificate",
                    "delivery-names-like-numbers" => "0x1f",
                    _ => &format!("{}-tls", name(rendered.one("MutatingWebhookConfiguration"))),
                };
                assert_eq!(right.names(), [certificate], "{}", right.place);
            }
            let by_name = right.own_namespace && !right.names().is_empty();
            assert!(
                by_name || right.has("resources", "namespaces"),
                "{}",
                right.place
            );
        }
    }
}

/// Whether the controller is told to deliver.
fn delivers(rendered: &Rendered) -> bool {
    rendered.text.contains("- --delivery\n")
}

#[test]
fn incident_37_outside_its_namespace_the_controller_reaches_secrets_by_name_and_only_to_deliver() {
    for rendered in RENDERED.iter() {
        let (copied, read): (&[&str], &[&str]) = match &*rendered.case {
            "rules" => (&["harbor", "registry-aliyun"], &["aliyun-acr"]),
            "delivery" => (&["harbor", "later", "rare", "registry-aliyun"], &["cloud"]),
            "delivery-existing-rules" | "delivery-unfenced" => (&["harbor"], &[]),
            "delivery-names-like-numbers" => (&["007"], &[]),
            "delivery-attached" | "recovery" => (&["harbor"], &[]),
            "plugins" => (&["ecr"], &[]),
            _ => (&[], &[]),
        };
        let rights = rights(rendered, "controller");
        let elsewhere =
            |right: &&Right<'_>| !right.own_namespace && right.has("resources", "secrets");
        let (reads, writes): (Vec<_>, Vec<_>) = rights
            .iter()
            .filter(elsewhere)
            .partition(|right| right.only_verbs(&["get", "list", "watch"]));
        let names = |rights: &[&Right<'_>]| -> Vec<String> {
            assert!(
                rights.iter().all(|right| !right.names().is_empty()),
                "{}",
                rendered.place()
            );
            rights
                .iter()
                .flat_map(|right| right.names())
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(names(&writes), copied, "{}", rendered.place());
        assert_eq!(names(&reads), read, "{}", rendered.place());
        assert!(
            copied.is_empty() || delivers(rendered),
            "{}",
            rendered.place()
        );
    }
}

#[test]
fn pods_are_looked_at_only_where_something_may_be_delivered_on_demand() {
    for rendered in RENDERED.iter() {
        let rights = rights(rendered, "controller");
        let mut rights = rights.iter();
        let looks =
            rights.any(|right| right.has("resources", "pods") && right.has("verbs", "watch"));
        // The chart cannot see the rules, or sees such an entry.
        let may = rendered.case.starts_with("delivery")
            && !matches!(
                &*rendered.case,
                "delivery-without-names" | "delivery-attached"
            );
        assert_eq!(looks, may, "{}", rendered.place());
    }
}

/// What the controller has for the eviction of Pods is there with the value, and only then.
#[test]
fn incident_26_pods_are_evicted_only_where_the_values_say_so() {
    for rendered in RENDERED.iter() {
        let rights = rights(rendered, "controller");
        let elsewhere = |resource: &str, verb: &str| {
            let mut elsewhere = rights.iter().filter(|right| !right.own_namespace);
            elsewhere.any(|right| right.has("resources", resource) && right.has("verbs", verb))
        };
        let recovers = rendered.case == "recovery";
        let place = rendered.place();
        assert_eq!(elsewhere("pods/eviction", "create"), recovers, "{place}");
        assert_eq!(elsewhere("events", "create"), recovers, "{place}");
        assert_eq!(
            rendered.text.contains("- --recovery\n"),
            recovers,
            "{place}"
        );
        assert!(!recovers || elsewhere("pods", "get"), "{place}");
        for verb in ["create", "patch", "delete"] {
            assert!(!elsewhere("pods", verb), "{place}");
        }
    }
}

/// Whether ServiceAccounts may be patched: by the rules of the values, or because the values say so.
fn attaches(rendered: &Rendered) -> bool {
    matches!(
        &*rendered.case,
        "delivery-attached" | "delivery-existing-rules"
    )
}

#[test]
fn incident_26_service_accounts_are_patched_only_where_rules_attach_to_them() {
    for rendered in RENDERED.iter() {
        let rights = rights(rendered, "controller");
        let elsewhere = rights.iter().filter(|right| !right.own_namespace);
        let accounts: Vec<_> = elsewhere
            .filter(|right| right.has("resources", "serviceaccounts"))
            .flat_map(|right| list(&right.rule["verbs"]))
            .collect();
        let mut expected = match delivers(rendered) {
            true => vec!["get", "list", "watch"],
            false => Vec::new(),
        };
        if attaches(rendered) {
            expected.push("patch");
        }
        assert_eq!(accounts, expected, "{}", rendered.place());
    }
}

#[test]
fn without_delivery_the_controller_knows_two_secrets_at_most() {
    for rendered in RENDERED.iter().filter(|rendered| !delivers(rendered)) {
        let rights = rights(rendered, "controller");
        let secrets = rights
            .iter()
            .filter(|right| right.has("resources", "secrets"));
        let mut names = Vec::new();
        for right in secrets.filter(|right| !right.only_verbs(&["create"])) {
            assert!(!right.names().is_empty(), "{}", right.place);
            names.extend(right.names());
        }
        let expected = match &*rendered.case {
            "url" => 0,
            case if case.starts_with("certificates-") => 1,
            _ => 2,
        };
        assert_eq!(names.len(), expected, "{}: {names:?}", rendered.place());
    }
}

#[test]
fn the_fence_is_there_wherever_secrets_may_be_created_elsewhere() {
    for rendered in RENDERED.iter() {
        let fenced = delivers(rendered) && rendered.case != "delivery-unfenced";
        let expected = match fenced && rendered.kubernetes != "1.29" {
            true => 1 + usize::from(attaches(rendered)),
            false => 0,
        };
        let place = rendered.place();
        assert_eq!(
            rendered.of_kind("ValidatingAdmissionPolicy").count(),
            expected,
            "{place}"
        );
        assert_eq!(
            rendered.of_kind("ValidatingAdmissionPolicyBinding").count(),
            expected
        );
        for policy in rendered.of_kind("ValidatingAdmissionPolicy") {
            let account = format!(
                "request.userInfo.username == \"system:serviceaccount:{}:{}-controller\"",
                rendered.namespace(),
                name(rendered.one("MutatingWebhookConfiguration"))
            );
            let policy = &policy["spec"];
            let conditions = list(&policy["matchConditions"]);
            assert_eq!(conditions.len(), 1, "{place}");
            assert_eq!(conditions[0]["expression"], account, "{place}");
            assert_eq!(policy["failurePolicy"], "Fail", "{place}");
        }
        for binding in rendered.of_kind("ValidatingAdmissionPolicyBinding") {
            let actions = &binding["spec"]["validationActions"];
            assert_eq!(*actions, json!(["Deny"]), "{place}");
        }
    }
}

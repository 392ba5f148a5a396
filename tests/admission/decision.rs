//! Who gets what, and why not: one line a case.

use pullpass::admission::decision::decide_pod;
use pullpass::admission::{Decision, PodView, Review, Warning, admit, decide, patch};
use serde_json::{Value, json};

use super::{review, snapshot};

/// `reason: added ~shadow; warning; warning`, without what is empty.
fn summary(decision: &Decision<'_>) -> String {
    let mut text = decision.reason.as_str().to_owned();
    let shadow = decision.shadow.iter().map(|name| format!("~{name}"));
    let names: Vec<_> = decision
        .inject
        .iter()
        .map(ToString::to_string)
        .chain(shadow)
        .collect();
    if !names.is_empty() {
        text += &format!(": {}", names.join(" "));
    }
    for warning in &decision.warnings {
        text += &format!("; {warning}");
    }
    text
}

/// A Pod with these images, in containers, and these fields of `spec` besides.
fn pod(images: &str, mut spec: Value) -> Value {
    let containers: Vec<_> = images
        .split_whitespace()
        .map(|image| json!({"name": "c", "image": image}))
        .collect();
    spec["containers"] = json!(containers);
    json!({"metadata": {}, "spec": spec})
}

fn check_pod(namespace: &str, pod: &Value, expected: &str) {
    let snapshot = snapshot(&[]);
    let bytes = pod.to_string();
    let view = PodView::parse(bytes.as_bytes()).unwrap();
    let decision = decide_pod(namespace, &view, &snapshot);
    assert_eq!(summary(&decision), expected, "{namespace}: {pod}");
}

fn check(images: &str, expected: &str) {
    check_pod("default", &pod(images, json!({})), expected);
}

fn check_in(namespace: &str, images: &str, expected: &str) {
    check_pod(namespace, &pod(images, json!({})), expected);
}

#[test]
fn without_images_the_credential_decides() {
    check("", "no_rule_matched");
    check("public.io/app", "no_rule_matched");
    check("usable.io/app", "injected: usable");
    check("usable.io/app:1 usable.io/app:2", "injected: usable");
    check("foreign.io/app", "injected: foreign");
    check("USABLE.io/app", "no_rule_matched");
    check("usable.io:443/app", "no_rule_matched");
    check("usable.io", "injected: docker-hub");
}

#[test]
fn scenario_08_tags_and_digests_do_not_matter() {
    const DIGEST: &str = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    check("usable.io/app:latest", "injected: usable");
    check(&format!("usable.io/app@{DIGEST}"), "injected: usable");
    check(&format!("usable.io/app:1@{DIGEST}"), "injected: usable");
}

#[test]
fn scenario_10_docker_hub_and_its_fallback() {
    check("busybox", "injected: docker-hub");
    check("janedoe/awesomeapp:v1", "injected: docker-hub");
    check("docker.io/library/busybox", "injected: docker-hub");
    check("index.docker.io/busybox", "injected: docker-hub");
    check("localhost/app", "injected: docker-hub");
    check("docker.io:443/busybox", "no_rule_matched");
}

#[test]
fn incident_16_entries_without_a_credential_do_not_count() {
    check("empty.io/app", "no_rule_matched");
}

#[test]
fn excluded_images_do_not_count() {
    check(
        "usable.io/public/app",
        "injected: usable stale; pull secret \"stale\" is stale: its source is gone",
    );
    check("usable.io/publicity", "injected: usable");
}

#[test]
fn scenario_05_paths_cover_whole_segments() {
    check("usable.io/team/app", "injected: usable path");
    check("usable.io/team/app/x", "injected: usable path");
    check("usable.io/team/app-evil", "injected: usable");
}

#[test]
fn every_rule_adds_its_secrets_in_order_and_each_once() {
    check("unknown.io/a usable.io/b", "injected: usable unknown");
    check("usable.io/b unknown.io/a", "injected: usable unknown");
    check("unknown.io/a a.wild.io/b b.wild.io/c", "injected: unknown");
}

#[test]
fn incident_30_every_place_that_names_an_image_counts() {
    for spec in [
        json!({"initContainers": [{"image": "usable.io/a"}]}),
        json!({"ephemeralContainers": [{"image": "usable.io/a"}]}),
        json!({"volumes": [{"name": "v"}, {"image": {"reference": "usable.io/a"}}]}),
    ] {
        check_pod("default", &pod("", spec), "injected: usable");
    }
}

#[test]
fn images_that_do_not_parse_are_left_to_the_kubelet() {
    check("Not:An:Image", "no_rule_matched");
    check("Not:An:Image usable.io/app", "injected: usable");
    let snapshot = snapshot(&[]);
    let bytes = pod("A B usable.io/app", json!({})).to_string();
    let view = PodView::parse(bytes.as_bytes()).unwrap();
    assert_eq!(decide_pod("default", &view, &snapshot).images_unparsable, 2);
}

#[test]
fn unknown_secrets_are_added_where_images_match() {
    check("unknown.io/app", "injected: unknown");
    check("x.wild.io/app", "injected: unknown");
}

#[test]
fn scenario_56_what_its_registry_rejects_is_added_or_left_out_with_a_warning() {
    let added = "pull secret \"rejected\" is rejected by its registry: images may not pull";
    check("rejected.io/app", &format!("injected: rejected; {added}"));
    let left_out = "pull secret \"skipped\" not added: its registry rejects it";
    check("skipped.io/app", &format!("rejected; {left_out}"));
    check(
        "usable.io/app skipped.io/app",
        &format!("injected: usable; {left_out}"),
    );
    let own = json!({"imagePullSecrets": [{"name": "skipped"}]});
    check_pod("default", &pod("skipped.io/app", own), "already_present");
}

#[test]
fn stale_secrets_are_added_with_a_warning() {
    check(
        "stale.io/app",
        "injected: stale; pull secret \"stale\" is stale: its source is gone",
    );
}

#[test]
fn scenario_11_unusable_secrets_are_not_added() {
    check(
        "broken.io/app",
        "shadowed: ~unknown ~usable; pull secret \"broken\" not added: its source cannot be decoded",
    );
    check_in(
        "own",
        "foreign.io/app",
        "unusable; pull secret \"foreign\" not added: the Secret in this namespace is broken",
    );
}

#[test]
fn scenario_20_only_permitted_namespaces() {
    const REFUSED: &str =
        "not_permitted; pull secret \"prod\" not added: not permitted in this namespace";
    check_in("prod-web", "prod.io/app", "injected: prod");
    check_in("kube-system", "prod.io/app", "injected: prod");
    check_in("kube-public", "prod.io/app", REFUSED);
    check_in("prod-legacy", "prod.io/app", REFUSED);
    check_in("dev", "prod.io/app", REFUSED);
    check_in(
        "kube-public",
        "usable.io/app",
        "not_permitted; pull secret \"usable\" not added: not permitted in this namespace",
    );
}

#[test]
fn scenario_34_two_tenants_one_name() {
    check_in("a", "tenant.io/app", "injected: regcred");
    check_in("b", "tenant.io/app", "injected: regcred");
    check_in(
        "c",
        "tenant.io/app",
        "not_permitted; pull secret \"regcred\" not added: not permitted in this namespace",
    );
}

#[test]
fn rules_apply_by_namespace() {
    check_in(
        "there-1",
        "there.io/app",
        "injected: usable; pull secret \"usable\" has no key for there.io/app",
    );
    check_in("there-not", "there.io/app", "no_rule_matched");
    check_in("elsewhere", "there.io/app", "no_rule_matched");
}

#[test]
fn rules_and_permissions_apply_by_namespace_labels() {
    let check = |labels: &[(&str, &str)], image: &str, expected: &str| {
        let snapshot = snapshot(labels);
        let bytes = pod(image, json!({})).to_string();
        let view = PodView::parse(bytes.as_bytes()).unwrap();
        let decision = decide_pod("x", &view, &snapshot);
        assert!(
            summary(&decision).starts_with(expected),
            "{labels:?} {image}: {decision:?}"
        );
    };
    check(&[("pull", "yes")], "labelled.io/app", "injected: labelled");
    check(&[("pull", "no")], "labelled.io/app", "not_permitted");
    check(&[], "labelled.io/app", "not_permitted");
    check(&[("tier", "")], "there.io/app", "injected: stale");
    check(&[], "there.io/app", "no_rule_matched");
}

#[test]
fn always_rules_need_no_image_but_the_labels() {
    let pod = |labels: Value| json!({"metadata": {"labels": labels}, "spec": {"containers": [{"image": "public.io/a"}]}});
    check_pod("x", &pod(json!({"debug": "allowed"})), "injected: debug");
    check_pod("x", &pod(json!({"debug": "denied"})), "no_rule_matched");
    check_pod("x", &pod(json!(null)), "no_rule_matched");
    check_pod("x", &pod(json!({"debug": ["allowed"]})), "no_rule_matched");
}

#[test]
fn shadow_rules_are_reported_and_nothing_else() {
    check("trial.io/app", "shadowed: ~unknown ~usable");
    check("trial.io/app usable.io/app", "injected: usable ~unknown");
}

#[test]
fn scenario_21_no_key_for_an_image() {
    check(
        "other.io/app",
        "injected: usable stale; pull secret \"usable\" has no key for other.io/app; pull secret \
         \"stale\" is stale: its source is gone; pull secret \"stale\" has no key for other.io/app",
    );
}

#[test]
fn scenario_06_what_the_pod_has_is_not_added() {
    let with = |list: Value| {
        pod(
            "usable.io/app unknown.io/app",
            json!({"imagePullSecrets": list}),
        )
    };
    check_pod("x", &with(json!(null)), "injected: usable unknown");
    check_pod("x", &with(json!([])), "injected: usable unknown");
    check_pod("x", &with(json!([{"name": "usable"}])), "injected: unknown");
    check_pod(
        "x",
        &with(json!([{"name": "unknown"}, {"name": "usable"}])),
        "already_present",
    );
    check_pod(
        "x",
        &with(json!([{}, {"name": ""}, {"name": null}, null, 1])),
        "injected: usable unknown",
    );
    check_pod("x", &with(json!("usable")), "unreadable_pod");
    check_pod("x", &with(json!({})), "unreadable_pod");
}

#[test]
fn what_the_pod_has_needs_no_warning() {
    let with = |image, name| pod(image, json!({"imagePullSecrets": [{"name": name}]}));
    check_pod("x", &with("stale.io/a", "stale"), "already_present");
    check_pod("dev", &with("prod.io/a", "prod"), "already_present");
}

#[test]
fn incident_05_mirror_pods_and_opted_out_ones_are_skipped() {
    let annotated = |annotations: Value| {
        let mut pod = pod("usable.io/app", json!({}));
        pod["metadata"]["annotations"] = annotations;
        pod
    };
    check_pod(
        "x",
        &annotated(json!({"kubernetes.io/config.mirror": "abc"})),
        "mirror_pod",
    );
    check_pod(
        "x",
        &annotated(json!({"kubernetes.io/config.mirror": ""})),
        "mirror_pod",
    );
    check_pod(
        "x",
        &annotated(json!({"kubernetes.io/config.mirror": null})),
        "mirror_pod",
    );
    check_pod(
        "x",
        &annotated(json!({"pullpass.dev/inject": "false"})),
        "opted_out",
    );
    check_pod(
        "x",
        &annotated(json!({"pullpass.dev/inject": "true"})),
        "injected: usable",
    );
    check_pod(
        "x",
        &annotated(json!({"pullpass.dev/inject": false})),
        "injected: usable",
    );
    check_pod("x", &annotated(json!(null)), "injected: usable");
}

#[test]
fn strict_service_accounts_are_left_alone() {
    const STRICT: &str = "strict_service_account; no pull secret added: the ServiceAccount enforces mountable secrets; list it there";
    let of = |spec: Value| pod("usable.io/app", spec);
    check_pod(
        "strict-default",
        &of(json!({"serviceAccountName": "strict"})),
        STRICT,
    );
    check_pod(
        "strict-default",
        &of(json!({"serviceAccount": "strict"})),
        STRICT,
    );
    check_pod("strict-default", &of(json!({})), STRICT);
    check_pod(
        "strict-default",
        &of(json!({"serviceAccountName": ""})),
        STRICT,
    );
    check_pod(
        "strict-default",
        &of(json!({"serviceAccountName": "other"})),
        "injected: usable",
    );
    check_pod(
        "x",
        &of(json!({"serviceAccountName": "strict"})),
        "injected: usable",
    );
    check_pod(
        "strict-default",
        &pod("public.io/a", json!({})),
        "no_rule_matched",
    );
}

#[test]
fn the_nearest_reason_to_an_injection_is_told() {
    check_pod(
        "own",
        &pod("prod.io/a foreign.io/a", json!({})),
        "unusable; pull secret \"foreign\" not added: the Secret in this namespace is broken; pull \
         secret \"prod\" not added: not permitted in this namespace",
    );
    check_pod(
        "dev",
        &pod(
            "prod.io/a usable.io/a",
            json!({"imagePullSecrets": [{"name": "usable"}]}),
        ),
        "already_present; pull secret \"prod\" not added: not permitted in this namespace",
    );
}

#[test]
fn warnings_are_short_whatever_the_names_are() {
    let long = "n".repeat(300);
    let image = format!("registry.example.com/{}", "é".repeat(300));
    for warning in [
        Warning::Unusable(&long),
        Warning::UndecodableHere(&long),
        Warning::Stale(&long),
        Warning::Rejected(&long),
        Warning::InjectRejected(&long),
        Warning::NotPermitted(&long),
        Warning::NoKey {
            secret: &long,
            image: image.clone(),
        },
        Warning::NoKey { secret: "s", image },
        Warning::StrictServiceAccount,
    ] {
        let text = warning.to_text();
        assert!(text.chars().count() <= Warning::CHARACTERS_MAX, "{text}");
        assert!(text.starts_with("pullpass: "), "{text}");
    }
}

/// The whole way: bytes in, bytes out.
fn check_patch(pod: &Value, expected: &Value) {
    let snapshot = snapshot(&[]);
    let body = review("x", pod).to_string();
    let view = Review::parse(body.as_bytes()).unwrap();
    let decision = decide(&view, &snapshot);
    let found = patch::to_json(&decision)
        .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    assert_eq!(&found, expected, "{pod}");
    let answer = admit(body.as_bytes(), &snapshot).unwrap();
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(
        answer["response"]["uid"],
        review("x", pod)["request"]["uid"]
    );
    assert_eq!(
        answer["response"].get("patch").is_some(),
        !expected.is_null()
    );
    assert_eq!(
        answer["response"].get("patchType").is_some(),
        !expected.is_null()
    );
}

#[test]
fn the_patch_has_one_of_two_shapes() {
    let whole = |names: &[&str]| {
        let list: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": list}])
    };
    let two = "usable.io/a unknown.io/b";
    check_patch(&pod("public.io/a", json!({})), &Value::Null);
    check_patch(&pod(two, json!({})), &whole(&["usable", "unknown"]));
    check_patch(
        &pod(two, json!({"imagePullSecrets": null})),
        &whole(&["usable", "unknown"]),
    );
    check_patch(
        &pod(two, json!({"imagePullSecrets": []})),
        &whole(&["usable", "unknown"]),
    );
    check_patch(
        &pod(two, json!({"imagePullSecrets": [{"name": "mine"}]})),
        &json!([
            {"op": "add", "path": "/spec/imagePullSecrets/-", "value": {"name": "usable"}},
            {"op": "add", "path": "/spec/imagePullSecrets/-", "value": {"name": "unknown"}},
        ]),
    );
}

#[test]
fn only_the_creation_of_a_pod_is_patched() {
    let check = |field: &str, value: Value, expected: &str| {
        let mut review = review("x", &pod("usable.io/a", json!({})));
        *review
            .pointer_mut("/request")
            .unwrap()
            .get_mut(field)
            .unwrap_or(&mut Value::Null) = Value::Null;
        review["request"][field] = value;
        let body = review.to_string();
        let snapshot = snapshot(&[]);
        let view = Review::parse(body.as_bytes()).unwrap();
        assert_eq!(decide(&view, &snapshot).reason.as_str(), expected, "{body}");
    };
    check("operation", json!("CREATE"), "injected");
    check("operation", json!("UPDATE"), "not_pod_create");
    check("operation", json!("DELETE"), "not_pod_create");
    check("operation", json!("create"), "not_pod_create");
    check("operation", json!(null), "not_pod_create");
    check(
        "subResource",
        json!("ephemeralcontainers"),
        "not_pod_create",
    );
    check("subResource", json!(""), "injected");
    check(
        "resource",
        json!({"group": "apps", "version": "v1", "resource": "pods"}),
        "not_pod_create",
    );
    check(
        "resource",
        json!({"group": "", "version": "v1", "resource": "services"}),
        "not_pod_create",
    );
    check(
        "resource",
        json!({"version": "v1", "resource": "pods"}),
        "injected",
    );
    check("resource", json!("pods"), "not_pod_create");
    check("object", json!(null), "unreadable_pod");
    check("object", json!([]), "unreadable_pod");
    check("object", json!({}), "unreadable_pod");
    check("object", json!({"spec": null}), "unreadable_pod");
}

#[test]
fn the_namespace_is_that_of_the_request() {
    let mut pod = pod("prod.io/a", json!({}));
    pod["metadata"]["namespace"] = json!("dev");
    let check = |namespace: &str, expected: &str| {
        let body = review(namespace, &pod).to_string();
        let snapshot = snapshot(&[]);
        let view = Review::parse(body.as_bytes()).unwrap();
        assert_eq!(decide(&view, &snapshot).reason.as_str(), expected);
    };
    check("prod-web", "injected");
    check("dev", "not_permitted");
}

#[test]
fn audit_annotations_and_warnings_are_there_only_where_they_say_something() {
    let check = |images: &str, expected: Value| {
        let body = review("x", &pod(images, json!({}))).to_string();
        let answer = admit(body.as_bytes(), &snapshot(&[])).unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let mut response = answer["response"].clone();
        let response = response.as_object_mut().unwrap();
        for field in ["uid", "allowed", "patch", "patchType"] {
            response.remove(field);
        }
        assert_eq!(json!(response), expected);
    };
    check("public.io/a", json!({}));
    check(
        "usable.io/a unknown.io/a",
        json!({"auditAnnotations": {"rules": "usable,images", "pull-secrets": "usable,unknown"}}),
    );
    check(
        "trial.io/a",
        json!({"auditAnnotations": {"shadow-pull-secrets": "unknown,usable"}}),
    );
    check(
        "stale.io/a",
        json!({
            "auditAnnotations": {"rules": "stale", "pull-secrets": "stale"},
            "warnings": ["pullpass: pull secret \"stale\" is stale: its source is gone"],
        }),
    );
}

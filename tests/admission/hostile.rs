//! JSON that no API server sends: an answer or HTTP 400, never a crash, never a refusal.

use pullpass::admission::decision::IMAGES_MAX;
use pullpass::admission::{Review, ReviewError, admit};
use serde_json::{Value, json};

use super::{review, snapshot};

/// `expected`: the label `reason`, or the error.
fn check(body: &[u8], expected: &str) {
    let found = match admit(body, &snapshot(&[])) {
        Ok(answer) => {
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(json["response"]["allowed"], true);
            answer.report.reason.as_str().to_owned()
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(
        found,
        expected,
        "{}",
        String::from_utf8_lossy(body.get(..200).unwrap_or(body))
    );
}

/// The review of a Pod with the text `pod`, which need not be JSON.
fn with_pod(pod: &str) -> String {
    let marker = json!("HERE");
    review("x", &marker).to_string().replace("\"HERE\"", pod)
}

fn check_pod(pod: &str, expected: &str) {
    check(with_pod(pod).as_bytes(), expected);
}

#[test]
fn what_is_no_review_cannot_be_answered() {
    const NOT_A_REVIEW: &str = "the body is not an AdmissionReview of admission.k8s.io/v1; list v1 in admissionReviewVersions";
    const NO_UID: &str = "the AdmissionReview has no request.uid";
    check(
        b"",
        "the body is not JSON (line 1, column 0); send an AdmissionReview",
    );
    check(
        b"{",
        "the body is not JSON (line 1, column 1); send an AdmissionReview",
    );
    check(
        b"{}x",
        "the body is not JSON (line 1, column 3); send an AdmissionReview",
    );
    check(
        b"\xff",
        "the body is not JSON (line 1, column 1); send an AdmissionReview",
    );
    for body in [
        "null",
        "[]",
        "1",
        "\"x\"",
        "{}",
        r#"{"kind": "AdmissionReview"}"#,
    ] {
        check(body.as_bytes(), NOT_A_REVIEW);
    }
    let mut old = review("x", &json!({}));
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    check(old.to_string().as_bytes(), NOT_A_REVIEW);
    for uid in [json!(null), json!(""), json!(5), json!(["u"])] {
        let mut review = review("x", &json!({}));
        review["request"]["uid"] = uid;
        check(review.to_string().as_bytes(), NO_UID);
    }
    for request in [json!(null), json!([]), json!("x")] {
        let mut review = review("x", &json!({}));
        review["request"] = request;
        check(review.to_string().as_bytes(), NO_UID);
    }
}

#[test]
fn errors_hold_no_byte_of_the_body() {
    let body = with_pod(r#"{"spec": hunter2}"#);
    let error = Review::parse(body.as_bytes()).unwrap_err();
    assert!(matches!(error, ReviewError::NotJson { .. }));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn null_lists_and_wrong_types_count_as_absent() {
    for list in [
        "null",
        "[]",
        "{}",
        "1",
        "true",
        "\"X\"",
        "1.5",
        "-1",
        "[null, 1, [], \"X\", {}]",
    ] {
        let pod = format!(
            r#"{{"metadata": {list}, "spec": {{"initContainers": {list}, "ephemeralContainers": {list},
            "volumes": {list}, "serviceAccountName": {list},
            "containers": [{{"image": {list}}}, {list}, {{"image": "usable.io/a"}}]}}}}"#
        );
        check_pod(&pod, "injected");
        let containers = format!(r#"{{"spec": {{"containers": {list}}}}}"#);
        check_pod(&containers, "no_rule_matched");
        let volumes = format!(
            r#"{{"spec": {{"volumes": [{{"image": {list}}}, {{"image": {{"reference": {list}}}}}]}}}}"#
        );
        check_pod(&volumes, "no_rule_matched");
    }
    for spec in ["null", "[]", "1", "\"x\""] {
        check_pod(&format!(r#"{{"spec": {spec}}}"#), "unreadable_pod");
    }
    for pod in ["null", "[]", "1", "\"x\"", "{}"] {
        check_pod(pod, "unreadable_pod");
    }
}

/// As in Go: of duplicate keys the last counts.
#[test]
fn of_duplicate_keys_the_last_counts() {
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a", "image": "public.io/a"}]}}"#,
        "no_rule_matched",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "public.io/a", "image": "usable.io/a"}]}}"#,
        "injected",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a"}], "containers": []}}"#,
        "no_rule_matched",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a"}]}, "spec": null}"#,
        "unreadable_pod",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a"}], "imagePullSecrets": [], "imagePullSecrets": "x"}}"#,
        "unreadable_pod",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a"}], "imagePullSecrets": "x", "imagePullSecrets": []}}"#,
        "injected",
    );
}

#[test]
fn escapes_are_read() {
    check_pod(
        r#"{"sp\u0065c": {"contain\u0065rs": [{"im\u0061ge": "usabl\u0065.io\/a"}]}}"#,
        "injected",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/a\u0000"}]}}"#,
        "no_rule_matched",
    );
    check_pod(
        r#"{"spec": {"containers": [{"image": "usable.io/\ud83d\ude00"}]}}"#,
        "no_rule_matched",
    );
    check_pod(
        r#"{"metadata": {"annotations": {"pullpass.dev\/inject": "f\u0061lse"}}, "spec": {}}"#,
        "opted_out",
    );
}

#[test]
fn depth_is_no_danger_where_nobody_looks() {
    const DEPTH: usize = 100_000;
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    for deep in [deep, objects] {
        let pod = format!(
            r#"{{"status": {deep}, "metadata": {{"managedFields": {deep}, "labels": {{"a": {deep}}}}},
            "spec": {{"affinity": {deep}, "containers": [{{"env": {deep}, "image": "usable.io/a"}}]}}}}"#
        );
        check_pod(&pod, "injected");
        check_pod(
            &format!(r#"{{"spec": {{"containers": {deep}}}}}"#),
            "no_rule_matched",
        );
        check_pod(
            &format!(r#"{{"spec": {deep}}}"#),
            if deep.starts_with('[') {
                "unreadable_pod"
            } else {
                "no_rule_matched"
            },
        );
    }
}

#[test]
fn size_is_no_danger() {
    for (images, expected) in [
        (IMAGES_MAX, "injected"),
        (IMAGES_MAX + 1, "too_many_images"),
        (500_000, "too_many_images"),
    ] {
        let many: Vec<Value> = (0..images)
            .map(|i| json!({"image": format!("usable.io/a{i}")}))
            .collect();
        check_pod(&json!({"spec": {"containers": many}}).to_string(), expected);
    }
    let long = "a".repeat(4 * 1024 * 1024);
    check_pod(
        &json!({"spec": {"containers": [{"image": format!("usable.io/{long}")}]}}).to_string(),
        "no_rule_matched",
    );
    let names: Vec<Value> = (0..20_000)
        .map(|i| json!({"name": format!("s{i}")}))
        .collect();
    check_pod(
        &json!({"spec": {"imagePullSecrets": names, "containers": [{"image": "usable.io/a"}]}})
            .to_string(),
        "injected",
    );
}

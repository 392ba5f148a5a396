//! Any bytes as a request: whatever `serde_json` reads is answered as the naive decision says, the
//! patch applies and changes nothing else, a second call adds nothing, and no Pod is ever denied.
#![no_main]

#[path = "review/naive.rs"]
mod naive;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use naive::Wanted;
use pullpass::admission::{ReviewError, admit};
use pullpass::snapshot::Snapshot;
use serde_json::{Value, json};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(naive::snapshot);

/// Most characters of a warning.
const WARNING_CHARACTERS_MAX: usize = 120;

fuzz_target!(|body: &[u8]| {
    let answer = admit(body, &SNAPSHOT);
    let Ok(review) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    match (answer, naive::uid(&review)) {
        (Ok(answer), Some(uid)) => check(&review, uid, &answer.body),
        (Err(error), None) => assert!(!matches!(error, ReviewError::NotJson { .. })),
        (answer, uid) => panic!("{answer:?} for uid {uid:?}"),
    }
});

fn check(review: &Value, uid: &str, answer: &[u8]) {
    let wanted = naive::decide(review);
    let answer: Value = serde_json::from_slice(answer).expect("the answer is JSON");
    let response = &answer["response"];
    assert_eq!(response["uid"], uid);
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patch"].is_null(), wanted.inject.is_empty());
    assert_eq!(response["patch"].is_null(), response["patchType"].is_null());
    check_annotations(&response["auditAnnotations"], &wanted);
    for warning in response["warnings"].as_array().into_iter().flatten() {
        let text = warning.as_str().expect("a warning is text");
        assert!(text.chars().count() <= WARNING_CHARACTERS_MAX, "{text}");
    }
    if let Some(patch) = response["patch"].as_str() {
        check_patch(review, patch, &wanted);
    }
}

fn check_annotations(annotations: &Value, wanted: &Wanted) {
    let said = |names: &[&str]| match names {
        [] => Value::Null,
        names => json!(names.join(",")),
    };
    assert_eq!(annotations["rules"], said(&wanted.rules));
    assert_eq!(annotations["pull-secrets"], said(&wanted.inject));
    assert_eq!(annotations["shadow-pull-secrets"], said(&wanted.shadow));
}

fn check_patch(review: &Value, patch: &str, wanted: &Wanted) {
    let patch = STANDARD.decode(patch).expect("the patch is base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("the patch is a patch");
    let mut patched = review.clone();
    let pod = &mut patched["request"]["object"];
    json_patch::patch(pod, &patch).expect("the patch applies");

    let mut expected = review["request"]["object"].clone();
    let list = &mut expected["spec"]["imagePullSecrets"];
    let mut references = list.as_array().cloned().unwrap_or_default();
    references.extend(wanted.inject.iter().map(|name| json!({"name": name})));
    *list = Value::Array(references);
    assert_eq!(*pod, expected);

    let again = admit(patched.to_string().as_bytes(), &SNAPSHOT).expect("a review");
    let again: Value = serde_json::from_slice(&again.body).expect("the answer is JSON");
    assert!(
        again["response"]["patch"].is_null(),
        "a second call adds to the first"
    );
}

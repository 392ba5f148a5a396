//! What holds for every Pod, however odd its JSON.

use proptest::prelude::*;
use pullpass::admission::decision::{Reason, decide_pod};
use pullpass::admission::explanation::explain;
use pullpass::admission::{PodView, admit, patch};
use serde_json::Value;

use super::{CONFIG, review, snapshot};

/// JSON text of any shape; objects may hold a key twice.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1".to_owned()),
        Just("1.5e3".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"x\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let key = prop_oneof![Just("name"), Just("image"), Just("spec"), Just("reference")];
        prop_oneof![
            array(prop::collection::vec(inner.clone(), 0..3)),
            object(prop::collection::vec(
                (key.prop_map(str::to_owned), inner),
                0..3
            )),
        ]
    })
}

fn array(items: impl Strategy<Value = Vec<String>>) -> impl Strategy<Value = String> {
    items.prop_map(|items| format!("[{}]", items.join(",")))
}

fn object(fields: impl Strategy<Value = Vec<(String, String)>>) -> impl Strategy<Value = String> {
    fields.prop_map(|fields| {
        let fields: Vec<_> = fields
            .iter()
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    })
}

/// Mostly what it should be, sometimes anything.
fn mostly<S: Strategy<Value = String> + 'static>(usual: S) -> BoxedStrategy<String> {
    prop_oneof![9 => usual, 1 => any_json()].boxed()
}

fn fields(fields: Vec<(&'static str, BoxedStrategy<String>)>) -> impl Strategy<Value = String> {
    let field = prop::sample::select(fields)
        .prop_flat_map(|(key, value)| value.prop_map(move |value| (key.to_owned(), value)));
    object(prop::collection::vec(field, 0..8))
}

fn image() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec![
        "usable.io/",
        "unknown.io/",
        "x.wild.io/",
        "stale.io/",
        "rejected.io/",
        "skipped.io/",
        "broken.io/",
        "foreign.io/",
        "prod.io/",
        "labelled.io/",
        "tenant.io/",
        "debug.io/",
        "other.io/",
        "trial.io/",
        "there.io/",
        "empty.io/",
        "docker.io/",
        "localhost/",
        "public.io/",
        "",
        "USABLE.io/",
        "a_b.com/",
    ]);
    let path = prop::sample::select(vec![
        "app",
        "public/app",
        "team/app",
        "app:1",
        "Bad",
        "x/y/z@bad",
        "",
    ]);
    (host, path).prop_map(|(host, path)| format!("\"{host}{path}\""))
}

fn containers() -> BoxedStrategy<String> {
    let container = mostly(fields(vec![
        ("image", mostly(image())),
        ("name", any_json().boxed()),
    ]));
    mostly(array(prop::collection::vec(container, 0..4)))
}

fn pull_secrets() -> BoxedStrategy<String> {
    let name = prop::sample::select(vec![
        "\"usable\"",
        "\"stale\"",
        "\"docker-hub\"",
        "\"mine\"",
        "\"\"",
        "null",
        "7",
    ]);
    let entry = mostly(fields(vec![("name", name.prop_map(str::to_owned).boxed())]));
    mostly(array(prop::collection::vec(entry, 0..4)))
}

/// A Pod as JSON text.
fn pod() -> impl Strategy<Value = String> {
    let volume = fields(vec![(
        "image",
        mostly(fields(vec![("reference", mostly(image()))])),
    )]);
    let spec = fields(vec![
        ("containers", containers()),
        ("containers", containers()),
        ("initContainers", containers()),
        ("ephemeralContainers", containers()),
        (
            "volumes",
            mostly(array(prop::collection::vec(volume, 0..3))),
        ),
        ("imagePullSecrets", pull_secrets()),
        ("serviceAccountName", mostly(Just("\"strict\"".to_owned()))),
    ]);
    let text =
        |texts: &[&'static str]| prop::sample::select(texts.to_vec()).prop_map(str::to_owned);
    let metadata = fields(vec![
        ("labels", mostly(text(&[r#"{"debug":"allowed"}"#, "{}"]))),
        (
            "annotations",
            mostly(text(&[
                r#"{"pullpass.dev/inject":"false"}"#,
                "{}",
                "{}",
                "{}",
            ])),
        ),
    ]);
    (mostly(metadata), mostly(spec))
        .prop_map(|(metadata, spec)| format!(r#"{{"metadata":{metadata},"spec":{spec}}}"#))
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "default",
        "prod-web",
        "own",
        "a",
        "there-1",
        "strict-default",
        "kube-system",
    ])
}

fn labels() -> impl Strategy<Value = &'static [(&'static str, &'static str)]> {
    prop::sample::select(vec![&[][..], &[("pull", "yes")], &[("tier", "web")]])
}

fn entries(pod: &Value) -> &[Value] {
    pod.pointer("/spec/imagePullSecrets")
        .and_then(Value::as_array)
        .map_or(&[], |list| list)
}

/// Everything but the list, which may be there or not.
fn rest(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("imagePullSecrets");
    }
    pod
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn incident_12_patch_applies_and_is_idempotent(text in pod(), namespace in namespace(), labels in labels()) {
        let snapshot = snapshot(labels);
        let before: Value = serde_json::from_str(&text).unwrap();
        let view = PodView::parse(text.as_bytes()).unwrap();
        let decision = decide_pod(namespace, &view, &snapshot);
        let Some(bytes) = patch::to_json(&decision) else {
            prop_assert_ne!(decision.reason, Reason::Injected);
            return Ok(());
        };
        prop_assert_eq!(decision.reason, Reason::Injected);
        let operations: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        let mut after = before.clone();
        json_patch::patch(&mut after, &operations).unwrap();

        prop_assert_eq!(rest(&before), rest(&after), "nothing else changes");
        let (old, new) = (entries(&before), entries(&after));
        prop_assert_eq!(&new[..old.len()], old, "every entry stays, in order");
        let added: Vec<_> = new[old.len()..].iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        prop_assert_eq!(&added[..], &decision.inject[..], "what was decided is what is added");
        for (position, name) in added.iter().enumerate() {
            prop_assert!(!old.iter().any(|entry| entry["name"] == *name), "{} was there", name);
            prop_assert!(!added[..position].contains(name), "{} twice", name);
        }

        let after = after.to_string();
        let view = PodView::parse(after.as_bytes()).unwrap();
        let again = decide_pod(namespace, &view, &snapshot);
        prop_assert!(patch::to_json(&again).is_none(), "the second call adds {:?}", again.inject);
    }

    /// A view of the text and one of what a JSON library makes of it are the same.
    #[test]
    fn the_text_is_read_as_any_json_library_reads_it(text in pod(), namespace in namespace()) {
        let snapshot = snapshot(&[]);
        let value: Value = serde_json::from_str(&text).unwrap();
        let normal = value.to_string();
        let as_written = PodView::parse(text.as_bytes()).unwrap();
        let as_read = PodView::parse(normal.as_bytes()).unwrap();
        let (as_written, as_read) = (
            decide_pod(namespace, &as_written, &snapshot),
            decide_pod(namespace, &as_read, &snapshot),
        );
        prop_assert_eq!(format!("{as_written:?}"), format!("{as_read:?}"));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes(text in pod(), namespace in namespace()) {
        let body = review(namespace, &serde_json::from_str(&text).unwrap()).to_string();
        let answer = || admit(body.as_bytes(), &snapshot(&[])).unwrap().body;
        prop_assert_eq!(answer(), answer());
    }

    /// Any bytes: an answer or an error.
    #[test]
    fn no_body_crashes(body in prop::collection::vec(any::<u8>(), 0..200), text in any_json()) {
        let snapshot = snapshot(&[]);
        let _answer = admit(&body, &snapshot);
        let _answer = admit(text.as_bytes(), &snapshot);
        let mut review = review("x", &Value::Null);
        for field in ["uid", "operation", "resource", "namespace", "object"] {
            review["request"][field] = serde_json::from_str(&text).unwrap();
            let _answer = admit(review.to_string().as_bytes(), &snapshot);
        }
    }

    /// The explanation is of this decision and of no other.
    #[test]
    fn explanations_agree_with_decisions(text in pod(), namespace in namespace(), labels in labels()) {
        let snapshot = snapshot(labels);
        let view = PodView::parse(text.as_bytes()).unwrap();
        let decision = decide_pod(namespace, &view, &snapshot);
        let explanation = explain(namespace, &view, &snapshot, &CONFIG);
        prop_assert_eq!(&explanation.inject[..], &decision.inject[..]);
        prop_assert_eq!(&explanation.shadow[..], &decision.shadow[..]);
        if decision.reason == Reason::StrictServiceAccount {
            return Ok(());
        }
        let added = |mode: &str| {
            let mut names = Vec::new();
            for rule in explanation.rules.iter().filter(|rule| rule.mode == mode) {
                for secret in rule.pull_secrets.iter().filter(|secret| secret.is_added()) {
                    if !names.contains(&secret.secret_name) {
                        names.push(secret.secret_name.clone());
                    }
                }
            }
            names
        };
        let enforced = added("Enforce");
        prop_assert_eq!(&enforced, &explanation.inject);
        let mut shadow = added("Shadow");
        shadow.retain(|name| !enforced.contains(name));
        prop_assert_eq!(&shadow, &explanation.shadow);
    }
}

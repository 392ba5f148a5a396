//! Our answers against those of the oracle: on the tables, and on generated cases.

use std::collections::BTreeMap;
use std::env;

use crate::case::{Bytes, Case};
use crate::frozen::{TABLES, table};
use crate::generate::Generator;
use crate::oracle::Oracle;

/// Cases of each kind in one run; the environment may ask for more.
const CASES_OF_EACH_KIND: usize = 20_000;

fn check(oracle: &Oracle, cases: &[Case]) {
    let answers = oracle.ask(cases);
    let wrong: Vec<_> = cases
        .iter()
        .zip(answers)
        .filter(|(case, kubelet)| case.our_answer() != *kubelet)
        .map(|(case, kubelet)| {
            format!(
                "{case:?}\n  ours    {}\n  kubelet {kubelet}",
                case.our_answer()
            )
        })
        .collect();
    let shown = wrong
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{shown}",
        wrong.len(),
        cases.len()
    );
}

fn generated(next: impl Fn(&mut Generator) -> Case) {
    let Some(oracle) = Oracle::find() else {
        return;
    };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect(name));
    let seed = number("PULLPASS_FUZZ_SEED").unwrap_or(1);
    let count = number("PULLPASS_FUZZ_CASES")
        .map_or(CASES_OF_EACH_KIND, |n| usize::try_from(n).expect("a count"));
    let mut generator = Generator::new(seed);
    for batch in 0..count.div_ceil(CASES_OF_EACH_KIND) {
        let size = CASES_OF_EACH_KIND.min(count - batch * CASES_OF_EACH_KIND);
        let cases: Vec<_> = (0..size).map(|_| next(&mut generator)).collect();
        check(&oracle, &cases);
        check_variety(&cases);
    }
}

/// Guards the generator: one that makes only broken, or only simple, cases would prove nothing.
fn check_variety(cases: &[Case]) {
    let mut kinds = BTreeMap::<String, usize>::new();
    for case in cases {
        *kinds.entry(kind(case)).or_default() += 1;
    }
    assert!(kinds.len() >= 2, "{kinds:?}");
    let least = cases.len() / 200;
    assert!(kinds.values().all(|count| *count >= least), "{kinds:?}");
}

fn kind(case: &Case) -> String {
    let answer = case.our_answer();
    let count = |field: &str| answer[field].as_array().map_or(0, Vec::len).min(2);
    match case {
        Case::Image { .. } => format!("error {}", answer["error"]),
        Case::Lookup { .. } => format!(
            "error {} matched {} fallback {}",
            answer["error"],
            count("matched"),
            answer["fallback"]
        ),
        Case::Payload { .. } => format!("{} with {}", answer["result"], count("entries")),
    }
}

#[test]
fn tables_hold_the_kubelets_answers() {
    let Some(oracle) = Oracle::find() else {
        return;
    };
    for row_set in TABLES.map(table) {
        let (cases, answers): (Vec<_>, Vec<_>) = row_set
            .into_iter()
            .map(|row| (row.case, row.answer))
            .unzip();
        for ((case, frozen), kubelet) in cases.iter().zip(&answers).zip(oracle.ask(&cases)) {
            assert_eq!(*frozen, kubelet, "the answer of the row {case:?}");
        }
    }
}

#[test]
fn generated_images_agree() {
    generated(Generator::image_case);
}

#[test]
fn generated_lookups_agree() {
    generated(Generator::lookup_case);
}

#[test]
fn generated_payloads_agree() {
    generated(Generator::payload_case);
}

#[test]
fn nesting_is_limited_as_in_go() {
    let Some(oracle) = Oracle::find() else {
        return;
    };
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        Case::Payload {
            r#type: "dockerconfigjson".into(),
            payload: Bytes(format!("{{\"x\":{open}{close}}}").into_bytes()),
        }
    };
    check(&oracle, &[9_998, 9_999, 10_000, 10_001].map(nested));
}

/// Every text of up to `length_max` characters of `alphabet`.
fn every_text(alphabet: &str, length_max: usize) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut longest = texts.clone();
    for _ in 0..length_max {
        let longer = |text: &String| {
            alphabet
                .chars()
                .map(move |c| format!("{text}{c}"))
                .collect::<Vec<_>>()
        };
        longest = longest.iter().flat_map(longer).collect();
        texts.extend_from_slice(&longest);
    }
    texts
}

#[test]
fn every_short_image_agrees() {
    let Some(oracle) = Oracle::find() else {
        return;
    };
    let texts = every_text("aA1.:/_-@[", 5);
    let case = |text: String| Case::Image {
        image: Bytes(text.into_bytes()),
    };
    check(&oracle, &texts.into_iter().map(case).collect::<Vec<_>>());
}

#[test]
fn every_short_key_agrees() {
    let Some(oracle) = Oracle::find() else {
        return;
    };
    for image in ["A/1", "A:1/A/1", "A.1/1", "[::1]:1/A"] {
        let case = |key: String| Case::Lookup {
            keys: vec![key],
            image: Bytes(image.into()),
        };
        let keys = every_text("A1*.:/[]@", 5);
        check(&oracle, &keys.into_iter().map(case).collect::<Vec<_>>());
    }
}

//! The tables: each row is `{"case": …, "answer": …}`, and the answers are the kubelet's. To add one,
//! write the case with any answer: the differential test then shows the right one.

use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::case::Case;

#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) answer: Value,
}

pub(crate) const TABLES: [&str; 3] = ["images", "lookups", "payloads"];

pub(crate) fn table(name: &str) -> Vec<Row> {
    let path = format!(
        "{}/tests/data/kubelet/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = fs::read_to_string(&path).expect(&path);
    let rows = text.lines().enumerate();
    rows.map(|(n, row)| {
        serde_json::from_str(row).unwrap_or_else(|e| panic!("{path}:{}: {e}", n + 1))
    })
    .collect()
}

fn check(name: &str) {
    let rows = table(name);
    assert!(rows.len() >= 100, "{name} has only {} rows", rows.len());
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| row.case.our_answer() != row.answer)
        .map(|row| {
            format!(
                "{:?}\n  ours    {}\n  kubelet {}",
                row.case,
                row.case.our_answer(),
                row.answer
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn images_are_read_as_the_kubelet_does() {
    check("images");
}

#[test]
fn keys_are_looked_up_as_the_kubelet_does() {
    check("lookups");
}

#[test]
fn payloads_are_decoded_as_the_kubelet_does() {
    check("payloads");
}

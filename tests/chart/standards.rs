//! Every rendered object against the schema of its kind, every Pod against Pod Security `restricted`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::helm::{RENDERED, name, output, root, tool};

/// Kinds that Kubernetes does not bring, so that it has no schemas of them.
const FOREIGN: [&str; 2] = ["cert-manager.io/v1", "monitoring.coreos.com/v1"];

/// Standard output of a command that is given one JSON value a line.
fn asked(command: &mut Command, lines: impl Iterator<Item = Value>) -> String {
    let mut input = tempfile::tempfile().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    std::io::Seek::rewind(&mut input).unwrap();
    output(command.stdin(Stdio::from(input)))
}

#[test]
fn every_object_is_valid_for_every_release() {
    // Most objects are the same in most cases: each is looked at once, under the first place it was found.
    let mut distinct = BTreeMap::new();
    for rendered in RENDERED.iter() {
        for object in &rendered.objects {
            if FOREIGN
                .iter()
                .any(|foreign| object["apiVersion"] == *foreign)
            {
                continue;
            }
            let place = format!("{}: {} {}", rendered.place(), object["kind"], name(object));
            distinct
                .entry((rendered.kubernetes, object.to_string()))
                .or_insert((place, object));
        }
    }
    assert!(distinct.len() > 9 * 20, "{} objects", distinct.len());
    let questions = distinct.iter().map(|((kubernetes, _), (place, object))| {
        json!({"place": place, "kubernetes": kubernetes, "object": object})
    });
    let python = root().join("target/tools/kubernetes-validate/bin/python");
    let mut command = Command::new(python);
    command.arg(root().join("tests/chart/validate.py"));
    let answer = asked(&mut command, questions);
    let (wrong, count) = answer
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or_else(|| ("", answer.trim_end()));
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(count, format!("{} looked at", distinct.len()));
}

#[test]
fn every_pod_is_restricted_but_with_something_of_the_node() {
    let specs: Vec<_> = RENDERED
        .iter()
        .flat_map(|rendered| rendered.pod_specs())
        .collect();
    let questions = specs
        .iter()
        .map(|(name, spec)| json!({"name": name, "spec": spec}));
    let answer = asked(&mut tool("podsecurity"), questions);
    // What cannot be restricted, and why.
    let unrestricted = [
        ("host-network for", ": pullpass-webhook:", "hostNetwork"),
        ("registry-ca-node for", ": pullpass-controller:", "hostPath"),
    ];
    let of = |line: &str, (case, pod, _): &(&str, &str, &str)| {
        line.starts_with(case) && line.contains(pod)
    };
    let (on_host, wrong): (Vec<_>, Vec<_>) = answer
        .lines()
        .partition(|line| unrestricted.iter().any(|known| of(line, known)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The same program does refuse: it is right about the Pods that cannot be restricted.
    for known in &unrestricted {
        let mut lines = on_host.iter().filter(|line| of(line, known));
        assert!(lines.any(|line| line.contains(known.2)), "{on_host:?}");
    }
}

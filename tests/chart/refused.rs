//! What must not be installed, and what is said instead.

use super::helm::{cases, output, tool};

/// One file, one case: Helm has to fail, and to say each `# error:` of the file.
#[test]
fn bad_values_are_refused_with_the_fix() {
    let mut wrong = Vec::new();
    for case in cases("refused") {
        let run = case.template("1.36");
        let said = String::from_utf8_lossy(&run.stderr);
        let expected = case.comments("error");
        assert!(!expected.is_empty(), "{} expects nothing", case.name);
        for message in expected {
            if run.status.success() || !said.contains(message) {
                wrong.push(format!("{}: not `{message}` but\n{said}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rules over what a ConfigMap holds; made here, because nobody wants to read such a file.
#[test]
fn rules_larger_than_a_config_map_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let values = directory.path().join("values.yaml");
    let image = format!("registry.example.com/{}", "a/".repeat(600_000));
    let rules = serde_json::json!({"rules": {"rules": [
        {"name": "huge", "images": [image], "pullSecrets": ["a"]},
    ]}});
    std::fs::write(&values, rules.to_string()).unwrap();
    let mut helm = tool("helm");
    helm.args([
        "template",
        "charts/pullpass",
        "--namespace=pullpass",
        "--values",
    ]);
    let run = helm.arg(&values).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success());
    assert!(said.contains("rules are larger than 1 MiB"), "{said}");
}

#[test]
fn lint_is_strict_and_finds_nothing() {
    output(tool("helm").args(["lint", "--strict", "--quiet", "charts/pullpass"]));
}

//! What is generated from the chart, and kept in the repository, is what the chart makes now.

use std::fs;
use std::process::Command;

use super::helm::{KUBERNETES, objects, output, root, tool};

/// Compares a file of the repository with what it should be.
fn same(file: &str, now: &str, recipe: &str) {
    let kept = fs::read_to_string(root().join(file)).unwrap();
    let diff = diffy::create_patch(&kept, now);
    assert!(
        kept == now,
        "{file} is out of date: run `make {recipe}`\n{diff}"
    );
}

#[test]
fn the_charts_readme_says_what_values_yaml_says() {
    let mut helm_docs = tool("helm-docs");
    let arguments = "--chart-search-root charts/pullpass --sort-values-order file --dry-run --log-level warning";
    let now = output(helm_docs.args(arguments.split(' ')));
    same("charts/pullpass/README.md", &now, "chart-readme");
    for line in now.lines().filter(|line| line.starts_with("| ")) {
        assert!(
            !line.ends_with("|  |"),
            "a value without a description: {line}"
        );
    }
}

#[test]
fn install_yaml_is_the_chart_with_its_defaults() {
    let now = output(&mut Command::new(root().join("charts/render-install-yaml")));
    same("install.yaml", &now, "install-yaml");
    let objects = objects(&now);
    assert_eq!(objects[0]["kind"], "Namespace");
    assert!(
        objects
            .iter()
            .all(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null())
    );
}

#[test]
fn one_version_says_which_chart_and_program_belong_together() {
    let text = fs::read_to_string(root().join("charts/pullpass/Chart.yaml")).unwrap();
    let chart: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["kubeVersion"], format!(">={}.0-0", KUBERNETES[0]));
}

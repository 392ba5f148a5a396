//! The alerts as Prometheus understands them. `tests/run` skips this module, and says so, where promtool is not to be had.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::helm::{RENDERED, list, output, root};

fn promtool() -> Command {
    let ours = root().join("target/tools/bin/promtool");
    match ours.exists() {
        true => Command::new(ours),
        false => Command::new("promtool"),
    }
}

/// `promtool check rules`, and its unit tests, on the rules of the rendered PrometheusRule.
#[test]
fn incident_21_promtool_accepts_the_alerts_and_they_fire_when_they_should() {
    let mut all = RENDERED.iter();
    let rendered = all.find(|rendered| rendered.case == "monitoring").unwrap();
    let groups = &rendered.one("PrometheusRule")["spec"]["groups"];
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("alerts.yaml");
    fs::write(&rules, json!({ "groups": groups }).to_string()).unwrap();
    output(
        promtool()
            .args(["check", "rules", "--lint-fatal"])
            .arg(&rules),
    );

    let tests = fs::read_to_string(root().join("tests/chart/alerts.test.yaml")).unwrap();
    let file = directory.path().join("alerts.test.yaml");
    fs::write(&file, &tests).unwrap();
    output(promtool().args(["test", "rules"]).arg(&file));

    for rule in list(&groups[0]["rules"]) {
        let alert = rule["alert"].as_str().unwrap();
        let tested = format!("alertname: {alert}\n");
        assert!(
            tests.matches(&tested).count() >= 2,
            "{alert} is not tested both ways"
        );
        let runbook = format!("https://wiki.example.com/runbooks/{alert}.md");
        assert_eq!(rule["annotations"]["runbook_url"], runbook);
        let page = root().join("docs/runbooks").join(format!("{alert}.md"));
        assert!(page.exists(), "{} does not exist", page.display());
    }
}

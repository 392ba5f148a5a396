//! Alerts and dashboard ask for metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::helm::{RENDERED, Rendered, list, root};

/// What the API server counts about webhooks (apiserver, pkg/admission/metrics).
const API_SERVER: [&str; 3] = [
    "apiserver_admission_webhook_admission_duration_seconds",
    "apiserver_admission_webhook_fail_open_count",
    "apiserver_admission_webhook_rejection_count",
];

fn rendered() -> &'static Rendered {
    let mut all = RENDERED.iter();
    all.find(|rendered| rendered.case == "monitoring").unwrap()
}

fn dashboard() -> Value {
    let mut maps = rendered().of_kind("ConfigMap");
    let map = maps.find(|map| !map["data"]["pullpass.json"].is_null());
    serde_json::from_str(map.unwrap()["data"]["pullpass.json"].as_str().unwrap()).unwrap()
}

/// Words of a query that start like a metric, without a histogram's `_bucket`.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("pullpass_") || word.starts_with("apiserver_"))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
}

/// Texts in the program's sources that are names of metrics.
fn registered() -> BTreeSet<String> {
    fn add(path: &Path, names: &mut BTreeSet<String>) {
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            entries.for_each(|entry| add(&entry.unwrap().path(), names));
            return;
        }
        let text = fs::read_to_string(path).unwrap();
        let program = text.split("#[cfg(test)]").next().unwrap();
        let quoted = program
            .split('"')
            .filter(|text| text.starts_with("pullpass_"));
        names.extend(quoted.map(str::to_owned));
    }
    let mut names = BTreeSet::new();
    add(&root().join("src/metrics.rs"), &mut names);
    add(&root().join("src/metrics"), &mut names);
    names
}

#[test]
fn every_query_names_metrics_that_exist() {
    let rules = &rendered().one("PrometheusRule")["spec"]["groups"][0]["rules"];
    let alerts = list(rules).iter().map(|rule| &rule["expr"]);
    let dashboard = dashboard();
    let panels = list(&dashboard["panels"]).iter();
    let targets = panels.flat_map(|panel| list(&panel["targets"]).iter());
    let variables = list(&dashboard["templating"]["list"]).iter();
    let queries = alerts.chain(targets.map(|target| &target["expr"])).chain(
        variables
            .map(|variable| &variable["query"])
            .filter(|query| *query != "prometheus"),
    );
    let registered = registered();
    for query in queries {
        let query = query.as_str().unwrap();
        let named: Vec<&str> = metrics(query).collect();
        assert!(!named.is_empty(), "no metric in {query}");
        for metric in named {
            let exists = registered.contains(metric) || API_SERVER.contains(&metric);
            assert!(exists, "{metric} does not exist, in {query}");
        }
    }
}

#[test]
fn the_dashboard_has_a_dozen_panels_at_most_with_titles_and_queries() {
    let dashboard = dashboard();
    let panels = list(&dashboard["panels"]);
    assert!((8..=12).contains(&panels.len()), "{} panels", panels.len());
    for panel in panels {
        assert!(
            panel["title"].is_string() && panel["description"].is_string(),
            "{panel}"
        );
        assert!(!list(&panel["targets"]).is_empty(), "{panel}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
    }
}

#[test]
fn the_service_monitor_finds_both_metrics_services() {
    let monitor = &rendered().one("ServiceMonitor")["spec"];
    let wanted = monitor["selector"]["matchLabels"].as_object().unwrap();
    let port = &monitor["endpoints"][0]["port"];
    let found = rendered().of_kind("Service").filter(|service| {
        let labels = service["metadata"]["labels"].as_object().unwrap();
        wanted
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    });
    let found: Vec<&Value> = found.collect();
    assert_eq!(found.len(), 2);
    for service in found {
        assert_eq!(&service["spec"]["ports"][0]["name"], port);
        assert_eq!(service["spec"]["clusterIP"], "None");
    }
}

#[test]
fn the_page_of_metrics_lists_each_and_no_other() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<String> = rows
        .flat_map(|row| metrics(row).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, registered());
}

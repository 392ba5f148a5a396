//! Edits of the rules: who made a mistake learns of it where they made it.

use super::RULES;
use crate::harness::cluster::Cluster;
use crate::harness::controller::{Installation, RULES as RULES_MAP};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use serde_json::json;

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "controller_rules_edit_gone_wrong_is_an_event_with_line_and_column",
        edits,
    );
}

fn edits(cluster: &Cluster) {
    let installation = Installation::create(cluster, "edits", RULES);
    let controller = installation.controller(&[]);
    let valid = |expected: f64| {
        wait_for("the rules are judged", HAPPY, || {
            let value = controller.metric("pullpass_rules_valid");
            value
                .eq(&expected)
                .then_some(())
                .ok_or_else(|| controller.log())
        });
    };
    let edit = |rules: &str| {
        let patch = json!({"data": {"rules.yaml": rules}}).to_string();
        let arguments = ["patch", "configmap", RULES_MAP, "-p", &patch];
        installation.namespace.kubectl(&arguments, "");
    };
    let said = |reason: &str, text: &str| {
        wait_for(&format!("{reason}: {text}"), HAPPY, || {
            let notes = installation.events(reason);
            let found = notes.iter().any(|note| note.contains(text));
            found
                .then_some(())
                .ok_or_else(|| format!("{notes:?}\n{}", controller.log()))
        });
    };
    valid(1.0);

    // Two mistakes in a row are two Events, each with its own place.
    edit(&RULES.replace("rules: [", "rulez: ["));
    said("RulesInvalid", "rules.yaml:5:1: ");
    valid(0.0);
    edit(&RULES.replace(
        "pullSecrets: [{name: alpha}]",
        "pullSecrets: [{nam: alpha}]",
    ));
    said("RulesInvalid", "rules.yaml:4:16: ");
    edit(RULES);
    said("RulesValid", "can be used again");
    valid(1.0);

    let events = format!(
        "/apis/events.k8s.io/v1/namespaces/{}/events",
        installation.namespace.name
    );
    let list = cluster.api.get(&events).unwrap();
    let about = list["items"].as_array().unwrap().iter();
    let mut about = about.filter(|event| event["reason"] == "RulesInvalid");
    assert!(about.all(|event| {
        event["type"] == "Warning"
            && event["regarding"]["kind"] == "ConfigMap"
            && event["regarding"]["name"] == RULES_MAP
    }));
}

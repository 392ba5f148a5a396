//! What the accounts of an installation may do is what `docs/rbac.md` says, line by line, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::lifecycle::rules_of;
use crate::harness::cluster::Cluster;
use crate::harness::namespace::Namespace;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "incident_26_rights_are_what_the_page_says",
        rights_are_what_the_page_says,
    );
    trials.api(
        "incident_26_the_controller_reaches_no_other_secret",
        no_other_secret,
    );
}

const PAGE: &str = include_str!("../../../docs/rbac.md");

/// Names of the copies that [`values`] ask for.
const COPIES: [&str; 3] = ["harbor", "rare", "regcred"];
/// Names of the sources elsewhere.
const SOURCES: [&str; 1] = ["vendors"];

/// Values that bring every line of the page into force.
fn values(delivers: bool, recovers: bool) -> Value {
    json!({
        "delivery": {"enabled": delivers},
        "controller": {"recovery": {"enabled": recovers}},
        "rules": {"pullSecrets": [
            {"name": "harbor", "serviceAccounts": ["robot"]},
            {"name": "rare", "deliver": "OnDemand"},
            {
                "name": "cloud",
                "secretName": "regcred",
                "source": {"namespace": "default", "secret": "vendors"},
            },
        ]},
    })
}

/// By resource and name (empty: all), what may be done with it.
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

/// Where a line of the page is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    OwnNamespace,
    Everywhere,
}

/// The lines of the page about `<fullname>-ROLE`: those under a sentence that begins "With `VALUE`" hold
/// where that value is on.
fn lines_of_page(role: &str, values_on: &[&str]) -> Vec<(Place, String, String)> {
    let heading = format!("## `<fullname>-{role}`");
    let section = PAGE.split(&heading).nth(1).expect("the page has it");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut is_in_force = true;
    let mut found = Vec::new();
    for line in section.lines() {
        if let Some(condition) = line.strip_prefix("With `") {
            let value = condition.split('`').next().unwrap_or_default();
            is_in_force = values_on.contains(&value);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, place, what, verbs, ..] = cells[..] else {
            continue;
        };
        let place = match place {
            "own namespace" => Place::OwnNamespace,
            "cluster" => Place::Everywhere,
            _ => continue,
        };
        if is_in_force {
            found.push((place, what.to_owned(), verbs.to_owned()));
        }
    }
    assert!(!found.is_empty(), "{role}: no table");
    found
}

/// The rights that the page gives in these places.
fn rights_of_page(role: &str, values_on: &[&str], release: &str, places: &[Place]) -> Rights {
    let mut rights = Rights::new();
    for (place, what, verbs) in lines_of_page(role, values_on) {
        if !places.contains(&place) {
            continue;
        }
        let kind = what.split([' ', ',']).next().unwrap_or_default();
        let resource = match kind.to_lowercase() {
            subresource if subresource.contains('/') => subresource,
            kind => kind.trim_end_matches('s').to_owned() + "s",
        };
        let quoted = what.split('`').skip(1).step_by(2);
        let mut names: Vec<String> = quoted.map(|name| name.replace('…', release)).collect();
        if what.contains("names of the copies") {
            names.extend(COPIES.map(str::to_owned));
        } else if what.contains("names of sources") {
            names.extend(SOURCES.map(str::to_owned));
        } else if what.contains("the one of the release") {
            names.push(release.to_owned());
        } else if names.is_empty() {
            assert!(!what.contains("by name"), "which? {what}");
            names.push(String::new());
        }
        for name in names {
            let may = rights.entry((resource.clone(), name)).or_default();
            may.extend(verbs.split(", ").map(ToOwned::to_owned));
        }
    }
    rights
}

/// What `kubectl auth can-i --list` asks for.
fn rights_in_force(cluster: &Cluster, account: &str, namespace: &str) -> Rights {
    let account = format!("--as={account}");
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        let list = rule[field].as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|text| text.as_str().map(ToOwned::to_owned))
            .collect()
    };
    let mut rights = Rights::new();
    for rule in rules_of(cluster, &account, namespace) {
        let mut names = texts(&rule, "resourceNames");
        if names.is_empty() {
            names.push(String::new());
        }
        for resource in texts(&rule, "resources") {
            for name in &names {
                let may = rights.entry((resource.clone(), name.clone())).or_default();
                may.extend(texts(&rule, "verbs"));
            }
        }
    }
    rights
}

/// Puts the accounts and roles of a release in force, and nothing else of it.
fn grant(cluster: &Cluster, namespace: &Namespace<'_>, delivers: bool, recovers: bool) {
    let name = &namespace.name;
    let arguments = [
        "template",
        name,
        "CHART",
        "--values=-",
        "--show-only=templates/rbac-controller.yaml",
        "--show-only=templates/rbac-webhook.yaml",
    ];
    let values = values(delivers, recovers).to_string();
    let roles = cluster.helm.run(name, &arguments, &values);
    cluster.kubectl.run(&["apply", "--filename=-"], &roles);
}

fn account(namespace: &Namespace<'_>, role: &str) -> String {
    let name = &namespace.name;
    format!("system:serviceaccount:{name}:{name}-{role}")
}

fn rights_are_what_the_page_says(cluster: &Cluster) {
    let own = Namespace::create(cluster, "pullpass-rights", "none");
    let other = Namespace::create(cluster, "elsewhere", "none");
    let places: [(&Namespace<'_>, &[Place]); 2] = [
        (&own, &[Place::OwnNamespace, Place::Everywhere]),
        (&other, &[Place::Everywhere]),
    ];
    let recovery = "controller.recovery.enabled";
    for (delivers, values_on) in [
        (false, &[][..]),
        (true, &["delivery.enabled"]),
        (true, &["delivery.enabled", recovery]),
    ] {
        grant(cluster, &own, delivers, values_on.contains(&recovery));
        for (namespace, places) in places {
            // What everybody may, as to ask what one may.
            let nobody = format!("system:serviceaccount:{}:default", own.name);
            let everybodys = rights_in_force(cluster, &nobody, &namespace.name);
            for role in ["webhook", "controller"] {
                let expected = rights_of_page(role, values_on, &own.name, places);
                let what = format!("{role}, {values_on:?}, in {}", namespace.name);
                wait_for(&what, HAPPY, || {
                    let account = account(&own, role);
                    let mut found = rights_in_force(cluster, &account, &namespace.name);
                    found.retain(|what, may| everybodys.get(what) != Some(may));
                    (found == expected)
                        .then_some(())
                        .ok_or_else(|| format!("{found:#?}\nbut the page says\n{expected:#?}"))
                });
            }
            let secrets = rights_of_page("controller", values_on, &own.name, &[Place::Everywhere]);
            let reaches = secrets.keys().any(|(resource, _)| resource == "secrets");
            assert_eq!(reaches, delivers, "Secrets outside its own namespace");
        }
    }
}

/// By asking for Secrets, not by asking for rights.
fn no_other_secret(cluster: &Cluster) {
    let own = Namespace::create(cluster, "pullpass-secrets", "none");
    let other = Namespace::create(cluster, "elsewhere", "none");
    let secret = json!({"metadata": {"name": "theirs"}, "stringData": {"password": "theirs"}});
    other.create_object("secrets", &secret);
    grant(cluster, &own, true, true);
    let controller = format!("--as={}", account(&own, "controller"));
    let ask = |arguments: &[&str]| {
        let arguments = [&["get", "secrets", &controller], arguments].concat();
        cluster.kubectl.try_run(&arguments, "")
    };
    let named = |name: &str| format!("--field-selector=metadata.name={name}");
    let elsewhere = format!("--namespace={}", other.name);
    wait_for("it may see its copies everywhere", HAPPY, || {
        ask(&["--all-namespaces", &named(COPIES[0])])
    });
    for forbidden in [
        &["--all-namespaces"][..],
        &["--all-namespaces", &named("theirs")],
        &[&elsewhere],
        &[&elsewhere, &named("theirs")],
        &[&elsewhere, "theirs"],
        &["--namespace=kube-system"],
    ] {
        let error = ask(forbidden).expect_err(&forbidden.join(" "));
        assert!(error.contains("(Forbidden)"), "{forbidden:?}: {error}");
    }
    // Without delivery, not even those.
    grant(cluster, &own, false, false);
    wait_for("nothing elsewhere is in reach", HAPPY, || {
        match ask(&["--all-namespaces", &named(COPIES[0])]) {
            Err(error) if error.contains("(Forbidden)") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let error = ask(&["--namespace", &own.name]).expect_err("its own certificates only");
    assert!(error.contains("(Forbidden)"), "{error}");
}

//! What `import` makes of logins, in a cluster: applied, delivered, and pulled with.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::harness::cluster::Cluster;
use crate::harness::delivery::Delivery;
use crate::harness::namespace::{docker_config, pod, pull_secrets_of};
use crate::harness::sandbox;
use crate::harness::trials::Trials;
use crate::harness::webhook::Injection;
use crate::registry::Account;

pub(crate) fn register(trials: &mut Trials) {
    trials.api("import_scenario_50_every_file_is_delivered", every_file);
    trials.node("import_scenario_54_registries_of_the_field_pull", pull);
}

/// Files with logins that some Secret comes of; nothing comes of the others.
const FILES: [&str; 11] = [
    "aliyun",
    "azure",
    "containers_auth",
    "docker_desktop",
    "dockercfg",
    "github",
    "google_json_key",
    "harbor_robot",
    "linux_plain",
    "mixed_helpers",
    "quay_robot",
];

/// Runs `pullpass import --reveal` with the helpers of the tests on PATH, and gives the stream.
fn import(file: &Path, namespace: &str) -> String {
    let helpers = data().join("helpers");
    let path = std::env::var("PATH").expect("there is one");
    let output = sandbox::program(Path::new(env!("CARGO_BIN_EXE_pullpass")))
        .args(["import", "--reveal", "--namespace", namespace])
        .arg(file)
        .env("PATH", format!("{}:{path}", helpers.display()))
        .stdin(Stdio::null())
        .output();
    let output = output.expect("the program was built");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{report}");
    String::from_utf8(output.stdout).expect("YAML is text")
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

fn name_of(secret: &Value) -> &str {
    secret["metadata"]["name"].as_str().unwrap_or_default()
}

fn every_file(cluster: &Cluster) {
    let file = |name: &str| data().join(format!("{name}.json"));
    let secrets = |yaml: &str| -> Vec<Value> {
        serde_saphyr::from_multiple(yaml).expect("pullpass writes YAML")
    };
    let all = FILES
        .iter()
        .flat_map(|name| secrets(&import(&file(name), "anywhere")));
    let mut names: Vec<String> = all.map(|secret| name_of(&secret).to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let entry = |name: &&str| format!("{{name: {name}, namespaces: NAMESPACES}}");
    let entries: Vec<String> = names.iter().map(entry).collect();
    let delivery = Delivery::start(cluster, &names, &entries.join(", "));
    let namespace = delivery.namespace("app");
    for name in FILES {
        let stream = import(&file(name), &delivery.own().name);
        let apply = ["apply", "--server-side", "-f", "-"];
        delivery.own().kubectl(&apply, &stream);
        let made = secrets(&stream);
        assert!(!made.is_empty(), "{name}");
        for secret in made {
            let data = secret["data"][".dockerconfigjson"].as_str();
            let payload = BASE64_STANDARD.decode(data.unwrap_or_default());
            let payload = String::from_utf8(payload.expect("it is base64"));
            let payload = payload.expect("it is JSON");
            delivery.until_copied(&namespace, name_of(&secret), &payload);
        }
    }
}

/// Accounts with the names that registries give them, imported from one file: each lets a Pod pull.
fn pull(cluster: &Cluster) {
    let kit = cluster.registries();
    let json_key = "{\n \"type\": \"service_account\",\n \"private_key\": \"-----BEGIN\\n\"\n}\n";
    let registries = [
        ("quay.io", "acme+import", "quay"),
        ("harbor.example.com", "robot$import+ci", "harbor"),
        ("gcr.io", "_json_key", json_key),
        ("ghcr.io", "janedoe-import", "ghp_token"),
        ("registry.cn-hangzhou.aliyuncs.com", "acme@123456", "aliyun"),
        (
            "example.azurecr.io",
            "6a1b0f4e-0000-4000-8000-1234567890ab",
            "azure~x",
        ),
        ("docker.io", "dockerhub-import", "dckr_pat"),
    ];
    let images = registries.map(|(host, user, password)| {
        let repository = format!("import/{}", host.split('.').next().unwrap_or_default());
        let account = Account::new(user, password, &[&*repository]);
        kit.tokens.permit(&account);
        kit.fresh(host, &repository)
    });
    let logins = registries.map(|(host, user, password)| match host {
        "docker.io" => ("https://index.docker.io/v1/", user, password),
        _ => (host, user, password),
    });
    let file = cluster.directory("import").join("config.json");
    let written = std::fs::write(&file, docker_config(&logins).to_string());
    written.expect("the directory is ours");
    let mut secrets: Vec<Value> =
        serde_saphyr::from_multiple(&import(&file, "anywhere")).expect("pullpass writes YAML");
    assert_eq!(secrets.len(), registries.len());
    for secret in &mut secrets {
        let metadata = secret["metadata"].as_object_mut();
        metadata.expect("it has one").remove("namespace");
    }
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("import");
    for (index, (image, (host, ..))) in images.iter().zip(registries).enumerate() {
        let name = format!("pod-{index}");
        namespace.create_object("pods", &pod(&name, &[("app", image)]));
        let expected = match host {
            "docker.io" => "docker-hub",
            host => host,
        };
        assert_eq!(pull_secrets_of(&namespace.running(&name)), [expected]);
    }
}

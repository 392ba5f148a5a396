//! Values arrive where they belong, and nothing a user adds displaces what is ours.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::helm::{RENDERED, Rendered, list, name, objects, output, root, tool};

fn case(name: &str) -> &'static Rendered {
    let mut all = RENDERED.iter();
    all.find(|rendered| rendered.case == name).unwrap()
}

/// What stands at `pointer` in one object of a case.
fn check(case_name: &str, kind: &'static str, object: &str, pointer: &str, expected: &Value) {
    let mut all = case(case_name).of_kind(kind);
    let found = all.find(|found| name(found) == object);
    let found = found
        .and_then(|found| found.pointer(pointer))
        .unwrap_or(&Value::Null);
    assert_eq!(found, expected, "{case_name}: {kind} {object} at {pointer}");
}

/// What stands at `pointer` in the webhook's Deployment.
fn webhook(case: &str, pointer: &str, expected: &Value) {
    check(case, "Deployment", "pullpass-webhook", pointer, expected);
}

/// What stands at `pointer` in the spec of its Pods.
fn pod(case: &str, pointer: &str, expected: &Value) {
    webhook(case, &format!("/spec/template/spec{pointer}"), expected);
}

/// What stands at `pointer` in the MutatingWebhookConfiguration.
fn configuration(case: &str, pointer: &str, expected: &Value) {
    check(
        case,
        "MutatingWebhookConfiguration",
        "pullpass",
        pointer,
        expected,
    );
}

#[test]
fn values_reach_their_objects() {
    webhook("defaults", "/spec/replicas", &json!(2));
    check(
        "defaults",
        "Deployment",
        "pullpass-controller",
        "/spec/replicas",
        &json!(1),
    );
    pod(
        "defaults",
        "/priorityClassName",
        &json!("system-cluster-critical"),
    );
    pod(
        "defaults",
        "/topologySpreadConstraints/0/whenUnsatisfiable",
        &json!("ScheduleAnyway"),
    );
    pod(
        "defaults",
        "/topologySpreadConstraints/1/topologyKey",
        &json!("kubernetes.io/hostname"),
    );
    let anti_affinity =
        "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/weight";
    pod("defaults", anti_affinity, &json!(100));
    pod("scheduling", "/priorityClassName", &Value::Null);
    pod("scheduling", "/affinity/podAntiAffinity", &Value::Null);
    pod("scheduling", "/topologySpreadConstraints/1", &Value::Null);
    pod("scheduling", "/tolerations/0/key", &json!("infra"));
    pod(
        "scheduling",
        "/nodeSelector",
        &json!({"kubernetes.io/os": "linux", "pool": "infra"}),
    );
    pod(
        "extras",
        "/containers/0/env/0/name",
        &json!("SSL_CERT_FILE"),
    );
    pod(
        "extras",
        "/containers/0/volumeMounts/1/mountPath",
        &json!("/etc/extra"),
    );
    pod("extras", "/volumes/1/configMap/name", &json!("company-ca"));
    pod(
        "extras",
        "/containers/0/args/9",
        &json!("--drain-seconds=20"),
    );
    pod(
        "extras",
        "/containers/0/resources/limits/memory",
        &json!("512Mi"),
    );
    pod(
        "host-network",
        "/dnsPolicy",
        &json!("ClusterFirstWithHostNet"),
    );
    pod(
        "existing-rules",
        "/containers/0/args/2",
        &json!("--rules-config-map=rules-of-the-platform-team"),
    );
    check(
        "existing-rules",
        "ConfigMap",
        "pullpass-rules",
        "",
        &Value::Null,
    );
    let metrics = "pullpass-controller-metrics";
    for service in ["pullpass-webhook", "pullpass-webhook-metrics", metrics] {
        check(
            "dual-stack",
            "Service",
            service,
            "/spec/ipFamilyPolicy",
            &json!("RequireDualStack"),
        );
        check(
            "dual-stack",
            "Service",
            service,
            "/spec/ipFamilies",
            &json!(["IPv6", "IPv4"]),
        );
    }
    let aks = "/metadata/annotations/admissions.enforcer~1disabled";
    configuration("defaults", aks, &json!("true"));
    configuration("exclusions-nulled", aks, &Value::Null);
    configuration(
        "exclusions-nulled",
        "/metadata/annotations/owner",
        &json!("platform"),
    );
    configuration(
        "url",
        "/webhooks/0/clientConfig/url",
        &json!("https://192.0.2.1:8443/mutate"),
    );
    configuration("url", "/webhooks/0/clientConfig/service", &Value::Null);
    let injector = "/metadata/annotations/cert-manager.io~1inject-ca-from";
    configuration(
        "certificates-cert-manager",
        injector,
        &json!("pullpass/pullpass-tls"),
    );
    check("url", "Deployment", "pullpass-webhook", "", &Value::Null);
}

#[test]
fn the_controller_is_told_who_keeps_the_certificates() {
    for (name, mode) in [
        ("defaults", "self"),
        ("certificates-provided", "provided"),
        ("certificates-cert-manager", "cert-manager"),
        ("url", "none"),
    ] {
        let argument = format!("- --certificates={mode}\n");
        assert!(case(name).text.contains(&argument), "{name}");
    }
}

/// Helm renders rules from a map; what the program reads from the ConfigMap has to be the same rules.
#[test]
fn rendered_rules_are_valid_rules() {
    for rendered in RENDERED.iter() {
        for map in rendered.of_kind("ConfigMap") {
            if let Some(rules) = map["data"]["rules.yaml"].as_str() {
                let found = pullpass::rules::load(rules);
                assert!(found.is_ok(), "{}: {found:?}", rendered.place());
                let expected = match &*rendered.case {
                    "rules" => 2,
                    "delivery" => 1,
                    _ => 0,
                };
                assert_eq!(found.unwrap().rules.len(), expected, "{}", rendered.place());
            }
        }
    }
}

#[test]
fn selectors_select_the_pods_they_are_for() {
    for rendered in RENDERED.iter() {
        for deployment in rendered.of_kind("Deployment") {
            let spec = &deployment["spec"];
            let labels = &spec["template"]["metadata"]["labels"];
            for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
                assert_eq!(&labels[key], value, "{}", rendered.place());
            }
            let selected = rendered.of_kind("Service").filter(|service| {
                let selector = service["spec"]["selector"].as_object().unwrap();
                selector.iter().all(|(key, value)| &labels[key] == value)
            });
            let webhook = name(deployment).ends_with("-webhook");
            assert_eq!(
                selected.count(),
                if webhook { 2 } else { 1 },
                "{}",
                rendered.place()
            );
        }
    }
}

/// The schema of the values may refuse no rules that the program takes, and Helm may not change them on their way.
#[test]
fn rules_that_the_program_takes_pass_through_the_chart() {
    let directory = root().join("tests/data/rules");
    let entries = fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    for file in files.chain([root().join("examples/rules.yaml")]) {
        let text = fs::read_to_string(&file).unwrap();
        let mut rules: Value = serde_saphyr::from_str(&text).unwrap();
        let fields = rules.as_object_mut().unwrap();
        fields.retain(|field, _| field != "apiVersion" && field != "kind");
        let values = tempfile::NamedTempFile::new().unwrap();
        fs::write(&values, json!({ "rules": rules }).to_string()).unwrap();
        let mut helm = tool("helm");
        helm.args(["template", "charts/pullpass", "--namespace=pullpass"]);
        helm.args(["--show-only=templates/rules.yaml", "--values"]);
        let map = objects(&output(helm.arg(values.path()))).remove(0);
        let rendered = map["data"]["rules.yaml"].as_str().unwrap();
        let (before, after) = (
            pullpass::rules::load(&text),
            pullpass::rules::load(rendered),
        );
        assert_eq!(after.unwrap(), before.unwrap(), "{}", file.display());
    }
}

/// Each argument of each Deployment is one that the program has, with a value that it takes: with `--help` behind
/// them it checks them all, and does nothing.
#[test]
fn the_program_takes_the_rendered_arguments() {
    for rendered in RENDERED.iter() {
        for deployment in rendered.of_kind("Deployment") {
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            let arguments = list(&container["args"]).iter();
            let arguments = arguments.map(|argument| argument.as_str().unwrap());
            let mut pullpass = Command::new(env!("CARGO_BIN_EXE_pullpass"));
            let run = pullpass.args(arguments).arg("--help").output().unwrap();
            let said = String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{}: {said}", rendered.place());
        }
    }
}

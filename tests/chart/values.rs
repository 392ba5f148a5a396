//! Values arrive where they belong, and nothing a user adds displaces what is ours.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::helm::{RENDERED, Rendered, list, name, objects, output, root, tool};

fn case(name: &str) -> &'static Rendered {
    let mut all = RENDERED.iter();
    all.find(|rendered| rendered.case == name).unwrap()
}

/// What arrives where: case, kind and name of an object, JSON pointer into it, what stands there.
const ARRIVES: &str = r#"
defaults Deployment pullpass-webhook /spec/replicas 2
defaults Deployment pullpass-controller /spec/replicas 2
defaults Deployment pullpass-webhook /spec/template/spec/priorityClassName "system-cluster-critical"
defaults Deployment pullpass-webhook /spec/template/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/weight 100
defaults Deployment pullpass-webhook /spec/template/spec/topologySpreadConstraints/0/whenUnsatisfiable "ScheduleAnyway"
defaults Deployment pullpass-webhook /spec/template/spec/topologySpreadConstraints/1/topologyKey "kubernetes.io/hostname"
scheduling Deployment pullpass-webhook /spec/template/spec/priorityClassName null
scheduling Deployment pullpass-webhook /spec/template/spec/affinity/podAntiAffinity null
scheduling Deployment pullpass-webhook /spec/template/spec/topologySpreadConstraints/1 null
scheduling Deployment pullpass-webhook /spec/template/spec/tolerations/0/key "infra"
scheduling Deployment pullpass-webhook /spec/template/spec/nodeSelector {"kubernetes.io/os": "linux", "pool": "infra"}
extras Deployment pullpass-webhook /spec/template/spec/containers/0/env/0/name "SSL_CERT_FILE"
extras Deployment pullpass-webhook /spec/template/spec/containers/0/volumeMounts/1/mountPath "/etc/extra"
extras Deployment pullpass-webhook /spec/template/spec/containers/0/args/9 "--drain-seconds=20"
extras Deployment pullpass-webhook /spec/template/spec/containers/0/resources/limits/memory "512Mi"
extras Deployment pullpass-webhook /spec/template/spec/volumes/1/configMap/name "company-ca"
extras ServiceAccount pullpass-webhook /metadata/annotations/example.com~1role "reader"
plugins Deployment pullpass-controller /spec/template/spec/initContainers/0/image "registry.example.com/plugins:1"
plugins Deployment pullpass-controller /spec/template/spec/initContainers/0/command ["cp", "-R", "/plugins/.", "/target/"]
plugins Deployment pullpass-controller /spec/template/spec/initContainers/0/volumeMounts [{"mountPath": "/target", "name": "plugins"}]
plugins Deployment pullpass-controller /spec/template/spec/initContainers/0/securityContext/readOnlyRootFilesystem true
plugins Deployment pullpass-controller /spec/template/spec/containers/0/volumeMounts/1 {"mountPath": "/plugins", "name": "plugins", "readOnly": true}
plugins Deployment pullpass-controller /spec/template/spec/volumes/1 {"emptyDir": {}, "name": "plugins"}
plugins Deployment pullpass-webhook /spec/template/spec/initContainers null
defaults Deployment pullpass-controller /spec/template/spec/initContainers null
recovery Deployment pullpass-controller /spec/template/spec/containers/0/args/16 "--recovery"
recovery Deployment pullpass-controller /spec/template/spec/containers/0/args/17 "--evictions-per-minute=5"
host-network Deployment pullpass-webhook /spec/template/spec/dnsPolicy "ClusterFirstWithHostNet"
existing-rules Deployment pullpass-webhook /spec/template/spec/containers/0/args/2 "--rules-config-map=rules-of-the-platform-team"
existing-rules ConfigMap pullpass-rules /kind null
registry-ca Deployment pullpass-controller /spec/template/spec/containers/0/args/16 "--registry-ca=/etc/registry-ca/given"
registry-ca Deployment pullpass-controller /spec/template/spec/containers/0/volumeMounts/1/mountPath "/etc/registry-ca/given"
registry-ca Deployment pullpass-controller /spec/template/spec/volumes/1/configMap/name "company-ca"
registry-ca Deployment pullpass-controller /spec/template/spec/volumes/2/name "mine"
registry-ca Deployment pullpass-webhook /spec/template/spec/volumes/1 null
registry-ca NetworkPolicy pullpass-controller /spec/egress/1/ports/0/port 5000
registry-ca NetworkPolicy pullpass-webhook /spec/egress/1/ports/0/port 53
registry-ca-node Deployment pullpass-controller /spec/template/spec/containers/0/args/16 "--registry-ca=/etc/registry-ca/node"
registry-ca-node Deployment pullpass-controller /spec/template/spec/volumes/1/hostPath/path "/etc/ssl/certs"
dual-stack Service pullpass-webhook /spec/ipFamilyPolicy "RequireDualStack"
dual-stack Service pullpass-webhook /spec/ipFamilies ["IPv6", "IPv4"]
dual-stack Service pullpass-webhook-metrics /spec/ipFamilyPolicy "RequireDualStack"
dual-stack Service pullpass-webhook-metrics /spec/ipFamilies ["IPv6", "IPv4"]
dual-stack Service pullpass-controller-metrics /spec/ipFamilyPolicy "RequireDualStack"
dual-stack Service pullpass-controller-metrics /spec/ipFamilies ["IPv6", "IPv4"]
defaults MutatingWebhookConfiguration pullpass /metadata/annotations/admissions.enforcer~1disabled "true"
exclusions-nulled MutatingWebhookConfiguration pullpass /metadata/annotations/admissions.enforcer~1disabled null
exclusions-nulled MutatingWebhookConfiguration pullpass /metadata/annotations/owner "platform"
url MutatingWebhookConfiguration pullpass /webhooks/0/clientConfig/url "https://192.0.2.1:8443/mutate"
url MutatingWebhookConfiguration pullpass /webhooks/0/clientConfig/service null
url Deployment pullpass-webhook /kind null
certificates-cert-manager MutatingWebhookConfiguration pullpass /metadata/annotations/cert-manager.io~1inject-ca-from "pullpass/pullpass-tls"
"#;

#[test]
fn values_reach_their_objects() {
    for line in ARRIVES.trim().lines() {
        let parts: Vec<&str> = line.splitn(5, ' ').collect();
        let [in_case, kind, object, pointer, expected] = parts[..] else {
            panic!("{line}");
        };
        let mut all = case(in_case).objects.iter();
        let found = all.find(|found| found["kind"] == kind && name(found) == object);
        let found = found.and_then(|found| found.pointer(pointer));
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(found.unwrap_or(&Value::Null), &expected, "{line}");
    }
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
                    "rules" | "delivery-attached" => 2,
                    "delivery" | "plugins" | "recovery" => 1,
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

/// Programs are executable in image volumes from 1.36 on.
#[test]
fn an_image_of_plugins_is_mounted_where_it_can_be() {
    let mut helm = tool("helm");
    helm.args([
        "template",
        "charts/pullpass",
        "--namespace=pullpass",
        "--kube-version=1.36.0",
    ]);
    helm.args(["--show-only=templates/controller.yaml", "--set-json"]);
    let plugins = json!({"image": "registry.example.com/plugins:1", "copyCommand": []});
    let deployment = objects(&output(helm.arg(format!("controller.plugins={plugins}")))).remove(0);
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(spec["initContainers"], Value::Null);
    let volume = json!({
        "name": "plugins",
        "image": {"reference": "registry.example.com/plugins:1", "pullPolicy": "IfNotPresent"},
    });
    assert_eq!(spec["volumes"][1], volume);
    let mount = json!({"name": "plugins", "mountPath": "/plugins", "readOnly": true});
    assert_eq!(spec["containers"][0]["volumeMounts"][1], mount);
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

//! AdmissionReviews as the API server really sends them, for benches, demo and fuzzing.
//!
//! The trial always runs; with `PULLPASS_CAPTURE=<directory>` it also writes what it heard there.
//! The Pods come from ReplicaSets, as most Pods do.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::Namespace;
use crate::harness::stub::{Reaction, Stub};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::{Reach, Registration};

/// Names the directory that captured reviews are written to.
const CAPTURE: &str = "PULLPASS_CAPTURE";

pub(crate) fn register(trials: &mut Trials) {
    trials.api("reviews_are_heard_as_the_api_server_sends_them", reviews);
}

fn reviews(cluster: &Cluster) {
    let stub = Stub::start(cluster, |_| Reaction::Patch(json!([])));
    Registration::pullpass("capture", Reach::Url(stub.url())).create(cluster);
    let namespace = Namespace::create(cluster, "shop", "capture");
    for (index, (file, template)) in cases().into_iter().enumerate() {
        let set = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": file},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": file}},
                "template": template,
            },
        });
        let path = format!("/apis/apps/v1/namespaces/{}/replicasets", namespace.name);
        cluster
            .api
            .post(&path, &set)
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let review = wait_for(&format!("a review for {file}"), HAPPY, || {
            stub.heard()
                .get(index)
                .cloned()
                .ok_or_else(|| "nothing".to_owned())
        });
        check(&review);
        if let Some(directory) = std::env::var_os(CAPTURE) {
            let path = Path::new(&directory).join(format!("{file}.json"));
            fs::write(&path, &review).expect("the capture directory is writable");
        }
    }
}

/// What every review must hold, so that nothing else is built on a wrong idea of it.
fn check(body: &[u8]) {
    let review: Value = serde_json::from_slice(body).expect("a review is JSON");
    let request = &review["request"];
    assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(
        request["resource"],
        json!({"group": "", "version": "v1", "resource": "pods"})
    );
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["dryRun"], json!(false));
    assert!(request["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
    assert!(
        request.get("name").is_none(),
        "a ReplicaSet leaves the name to the API server"
    );
}

fn cases() -> Vec<(&'static str, Value)> {
    vec![
        (
            "review-2k",
            template("review-2k", &[small_container("web")]),
        ),
        (
            "review-8k",
            template(
                "review-8k",
                &(0..2).map(large_container).collect::<Vec<_>>(),
            ),
        ),
        (
            "review-60k",
            template(
                "review-60k",
                &(0..8).map(huge_container).collect::<Vec<_>>(),
            ),
        ),
        ("review-escapes", escapes()),
        ("review-everything", everything()),
    ]
}

fn template(app: &str, containers: &[Value]) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": containers},
    })
}

/// What the shortest useful manifest has.
fn small_container(name: &str) -> Value {
    json!({"name": name, "image": "harbor.example.com/shop/web:1.4.2"})
}

/// A container as a chart writes it: probes, resources, security context, mounts.
fn large_container(index: usize) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "periodSeconds": 10});
    json!({
        "name": format!("service-{index}"),
        "image": format!("registry.cn-hangzhou.aliyuncs.com/acme/service-{index}:v2.31.{index}"),
        "args": ["--log-format=json", "--listen=0.0.0.0:8080"],
        "ports": [{"name": "http", "containerPort": 8080 + index, "protocol": "TCP"}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "orders", "key": "password"}}},
            {"name": "DATABASE", "value": "postgres.shop.svc:5432/orders?sslmode=verify-full"},
        ],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "livenessProbe": probe("/healthz"),
        "readinessProbe": probe("/ready"),
        "startupProbe": probe("/started"),
        "imagePullPolicy": "IfNotPresent",
    })
}

/// A container with as much environment as generators of manifests write.
fn huge_container(index: usize) -> Value {
    let mut container = large_container(index);
    let variables = (0..28).map(|number| {
        json!({
            "name": format!("APPLICATION_SETTING_{number:03}"),
            "value": format!("{{\"setting\": {number}, \"url\": \"https://service-{index}.example.com/{number}\"}}\n"),
        })
    });
    container["env"] = variables.collect();
    container
}

/// Text that a reader of JSON has to unescape, also in the image.
fn escapes() -> Value {
    let mut template = template("review-escapes", &[small_container("web")]);
    template["metadata"]["annotations"] = json!({
        "example.com/config": "{\"quoted\": \"\\\"deep\\\"\"}\r\n\ttab and \u{2028} and \u{1f433}",
        "example.com/html": "<a href=\"?a=1&b=2\">",
    });
    template["spec"]["containers"][0]["image"] = json!("harbor.example.com/shop/<web>&\u{1f433}");
    template["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo \"$HOME\" && exit"]);
    template
}

/// Every place that names an image, and a list of pull secrets that is there already.
fn everything() -> Value {
    let mut template = template("review-everything", &[small_container("web")]);
    template["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
    template["spec"]["initContainers"] = json!([
        {"name": "migrate", "image": "docker.io/acme/migrate@sha256:0000000000000000000000000000000000000000000000000000000000000000"},
        {"name": "proxy", "image": "quay.io/acme/proxy:v1", "restartPolicy": "Always"},
    ]);
    template["spec"]["volumes"] = json!([
        {"name": "model", "image": {"reference": "ghcr.io/acme/model:7", "pullPolicy": "Always"}},
        {"name": "scratch", "emptyDir": {}},
    ]);
    template["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "model", "mountPath": "/m"}]);
    template
}

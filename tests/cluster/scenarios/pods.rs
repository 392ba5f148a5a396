//! Pods that are not like others: static ones, image volumes, debug containers, strict namespaces.

use std::fs;

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pod, pull_secrets_of};
use crate::harness::node::NODE;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, MIRROR, wait_for};
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, BETA};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("static_pod_comes_up_with_the_webhook_on", static_pod);
    trials.node("image_volume_from_a_private_registry", image_volume);
    trials.node("debug_container_covered_by_an_always_rule", debug_container);
    trials.node("restricted_namespace", restricted);
}

fn static_pod(cluster: &Cluster) {
    let kit = cluster.registries();
    // It would inject into every Pod, were that not a mirror of a static one.
    let rules = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: alpha}]
rules: [{name: all, images: ['*'], pullSecrets: [alpha]}]
";
    let injection = Injection::start(cluster, rules, &[]);
    let namespace = injection.namespace("static");
    let mut manifest = pod("static", &[("app", &kit.fresh_public("static/app"))]);
    manifest["metadata"]["namespace"] = json!(namespace.name);
    // The kubelet reads every file in the directory, also one that is half written.
    let draft = cluster.directory("static").join("static.json");
    fs::write(&draft, manifest.to_string()).expect("the work directory is writable");
    fs::rename(&draft, cluster.node().static_pods.join("static.json")).expect("same file system");
    let mirror = namespace.running_within(&format!("static-{NODE}"), MIRROR);
    assert!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    assert!(pull_secrets_of(&mirror).is_empty());
    assert!(injection.pullpass.answered("mirror_pod") > 0.0);
    // The same webhook does inject into a Pod that is no mirror.
    let other = namespace.create_object("pods", &pod("other", &[("app", "example.com/app")]));
    assert_eq!(pull_secrets_of(&other), ["alpha"]);
}

fn image_volume(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let injected = injection.namespace("volume");
    let bare = Namespace::create(cluster, "volume-bare", "none");
    bare.create_object("secrets", &BETA.secret());
    for namespace in [&injected, &bare] {
        let mut pod = pod("app", &[("app", &kit.fresh_public("volume/app"))]);
        let reference = kit.fresh(BETA.host, "volume/model");
        pod["spec"]["volumes"] = json!([{"name": "model", "image": {"reference": reference}}]);
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "model", "mountPath": "/model"}]);
        namespace.create_object("pods", &pod);
    }
    assert_eq!(pull_secrets_of(&injected.running("app")), ["beta"]);
    let listing = injected.kubectl(&["exec", "app", "--", "/bin/ls", "/model/bin"], "");
    assert!(listing.contains("busybox"), "{listing}");
    bare.pull_failed("app");
}

fn debug_container(cluster: &Cluster) {
    let kit = cluster.registries();
    let rules = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: alpha}]
rules: [{name: debugging, images: ['127.0.0.2:*/debug'], pullSecrets: [alpha], always: true}]
";
    let injection = Injection::start(cluster, rules, &[ALPHA.secret()]);
    let namespace = injection.namespace("debug");
    namespace.create_object(
        "pods",
        &pod("app", &[("app", &kit.fresh_public("debug/app"))]),
    );
    assert_eq!(pull_secrets_of(&namespace.running("app")), ["alpha"]);
    let image = kit.fresh(ALPHA.host, "debug/tools");
    let image = format!("--image={image}");
    namespace.kubectl(
        &[
            "debug",
            "app",
            &image,
            "--container=tools",
            "--profile=general",
        ],
        "",
    );
    wait_for("the debug container runs", HAPPY, || {
        let pod = namespace.get("pods", "app")?;
        let status = &pod["status"]["ephemeralContainerStatuses"][0];
        let running = status["state"]["running"].is_object();
        running.then_some(()).ok_or_else(|| status.to_string())
    });
}

fn restricted(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = injection.namespace_labelled("restricted", &labels);
    let mut pod = pod("app", &[("app", &kit.fresh(ALPHA.host, "restricted/app"))]);
    let error = namespace
        .try_create("pods", &pod)
        .expect_err("it may run as root");
    assert!(error.contains("PodSecurity"), "{error}");
    pod["spec"]["containers"][0]["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    namespace.create_object("pods", &pod);
    assert_eq!(pull_secrets_of(&namespace.running("app")), ["alpha"]);
}

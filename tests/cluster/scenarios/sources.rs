//! Sources as people and other programs make them, good and bad.

use serde_json::{Value, json};

use super::status;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::{Delivery, Product, payload, secret};
use crate::harness::namespace::{Namespace, docker_config, pod};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.node("delivery_scenario_31_sources_made_in_every_way", every_way);
    trials.api("delivery_scenario_32_sources_that_cannot_be_used", unusable);
    trials.api(
        "delivery_scenario_53_sources_refreshed_by_somebody_else",
        refreshed,
    );
    trials.api(
        "delivery_scenario_21_a_rule_for_a_host_that_the_secret_has_no_key_for",
        without_key,
    );
}

const CONFIG: &str = ".dockerconfigjson";

/// Waits until a namespace holds a copy of ours of what the source holds now, and gives it.
#[track_caller]
fn until_like_source(delivery: &Delivery<'_>, namespace: &Namespace<'_>) -> Value {
    let source = delivery
        .own()
        .get("secrets", "regcred")
        .expect("it is there");
    wait_for("the copy is like its source", HAPPY, || {
        let copy = namespace.get("secrets", "regcred")?;
        let is_like = copy["data"] == source["data"] && copy["type"] == source["type"];
        is_like
            .then(|| copy.clone())
            .ok_or_else(|| copy.to_string())
    })
}

/// Makes the source in one of the ways in which people do.
fn make_source(own: &Namespace<'_>, way: &str, directory: &std::path::Path) {
    let login = docker_config(&[ALPHA.entry()]);
    let by_kubectl = |more: &[&str]| {
        let arguments = [&["create", "secret"], more].concat();
        own.kubectl(&arguments, "");
    };
    let server = format!("--docker-server={}", ALPHA.host);
    let user = format!("--docker-username={}", ALPHA.user);
    let password = format!("--docker-password={}", ALPHA.password);
    let registry = ["docker-registry", "regcred", &server, &user, &password];
    match way {
        "docker-registry" => by_kubectl(&registry),
        "docker-registry with email" => {
            by_kubectl(&[&registry[..], &["--docker-email=robot@example.com"]].concat());
        }
        "generic from a file" => {
            let file = directory.join("config.json");
            std::fs::write(&file, login.to_string()).expect("it is writable");
            let file = format!("--from-file={CONFIG}={}", file.display());
            let kind = "--type=kubernetes.io/dockerconfigjson";
            by_kubectl(&["generic", "regcred", &file, kind]);
        }
        "dockercfg" => {
            let object = json!({
                "metadata": {"name": "regcred"},
                "type": "kubernetes.io/dockercfg",
                "stringData": {".dockercfg": login["auths"].to_string()},
            });
            own.create_object("secrets", &object);
        }
        // In another spelling, so that there is something to replace.
        "replaced" => {
            let text = format!("{login:#}");
            own.kubectl(
                &["replace", "-f", "-"],
                &secret("regcred", &text).to_string(),
            );
        }
        other => {
            assert_eq!(other, "posted");
            own.create_object("secrets", &secret("regcred", &login.to_string()));
        }
    }
}

/// Each way after the other, on the same copies; the kubelet can use each.
fn every_way(cluster: &Cluster) {
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let delivery = Delivery::start(cluster, &["regcred"], entry);
    let namespace = delivery.namespace("ways");
    let directory = cluster.directory("ways");
    let kit = cluster.registries();
    let ways = [
        "docker-registry",
        "docker-registry with email",
        "generic from a file",
        "dockercfg",
        "posted",
        "replaced",
    ];
    for (index, way) in ways.into_iter().enumerate() {
        if index > 0 && way != "replaced" {
            let gone = delivery.own().delete("secrets", "regcred");
            gone.expect("the former way made it");
        }
        make_source(delivery.own(), way, &directory);
        let copy = until_like_source(&delivery, &namespace);
        let labels = &copy["metadata"]["labels"];
        assert_eq!(
            labels["app.kubernetes.io/instance"],
            delivery.instance(),
            "{way}"
        );
        let name = format!("way-{index}");
        let mut pod = pod(&name, &[("app", &kit.fresh(ALPHA.host, "ways/app"))]);
        pod["spec"]["imagePullSecrets"] = json!([{"name": "regcred"}]);
        namespace.create_object("pods", &pod);
        namespace.running(&name);
        namespace.assert_pulled_at_once(&name);
    }
}

fn unusable(cluster: &Cluster) {
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let product = Product::start(cluster, &["regcred"], entry);
    let delivery = &product.delivery;
    let own = delivery.own();
    let namespace = product.namespace("a");
    let good = payload("first");
    // What is no JSON at all does not get past the API server, but as another type.
    for broken in [
        "no JSON",
        &good.replace("}}}", "},}}"),
        good.trim_end_matches('}'),
    ] {
        let refused = own.try_create("secrets", &secret("regcred", broken));
        let error = refused.expect_err(broken);
        assert!(error.starts_with("422"), "{error}");
    }
    let without_type = |text: &str| {
        let mut object = secret("regcred", text);
        object["type"] = json!("Opaque");
        object
    };
    let fix = format!(
        "kubectl -n {0} delete secret regcred; kubectl -n {0} create secret docker-registry regcred",
        own.name
    );
    for (object, reason) in [
        (without_type(&good), "Opaque"),
        (without_type("no JSON"), "Opaque"),
        (secret("regcred", "{}"), "no entry has both"),
        (secret("regcred", "{\"auths\": {}}"), "no entry has both"),
    ] {
        own.create_object("secrets", &object);
        wait_for("it is said, with the fix", HAPPY, || {
            let notes = delivery.installation.events("SourceUnusable");
            let is_said = notes
                .iter()
                .any(|note| note.contains(&fix) && note.contains(reason));
            is_said.then_some(()).ok_or_else(|| format!("{notes:?}"))
        });
        delivery.until_indexed("regcred", |secret| secret["state"] == "unusable");
        product.until_injected(&namespace, IMAGE, &[]);
        namespace
            .get("secrets", "regcred")
            .expect_err("nothing can be delivered");
        own.delete("secrets", "regcred").expect("it is there");
        delivery.until_said("SourceMissing", "create secret docker-registry regcred");
    }
    product.make_source("regcred", &good);
    delivery.until_copied(&namespace, "regcred", &good);
    product.until_injected(&namespace, IMAGE, &["regcred"]);
}

/// An image that [`payload`] covers.
const IMAGE: &str = "registry.example.com/team/app:v1";

/// As External Secrets does it, and as helpers of clouds do, who delete and make anew.
fn refreshed(cluster: &Cluster) {
    const GENERATIONS: usize = 3;
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let delivery = Delivery::start(cluster, &["regcred"], entry);
    let own = delivery.own();
    let namespace = delivery.namespace("a");
    let mut first_uid = None;
    for generation in 0..2 * GENERATIONS {
        let text = payload(&format!("token {generation}"));
        let mut object = secret("regcred", &text);
        object["metadata"]["labels"] = json!({"reconcile.external-secrets.io/managed": "true"});
        object["metadata"]["annotations"] =
            json!({"reconcile.external-secrets.io/data-hash": format!("{generation}")});
        if generation < GENERATIONS {
            let apply = [
                "apply",
                "--server-side",
                "--field-manager=externalsecrets",
                "-f",
                "-",
            ];
            own.kubectl(&apply, &object.to_string());
        } else {
            own.delete("secrets", "regcred").expect("it is there");
            own.create_object("secrets", &object);
        }
        let copy = delivery.until_copied(&namespace, "regcred", &text);
        let uid = copy["metadata"]["uid"].clone();
        assert_eq!(
            uid,
            *first_uid.get_or_insert_with(|| uid.clone()),
            "never absent"
        );
        let metadata = copy["metadata"].to_string();
        assert!(!metadata.contains("external"), "{metadata}");
    }
    delivery.until_wrote(2 * GENERATIONS);
    let source = own.get("secrets", "regcred").expect("it is there");
    let managers = source["metadata"]["managedFields"].to_string();
    assert!(!managers.contains("pullpass-controller"), "{managers}");
}

/// The registry has a second host name, and the rule names that one.
fn without_key(cluster: &Cluster) {
    const INTERNAL: &str = "registry.internal.example.com/team/app:v1";
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let product = Product::start(cluster, &["regcred"], entry);
    let delivery = &product.delivery;
    status::create_deployment(delivery);
    product.make_source("regcred", &payload("first"));
    let namespace = product.namespace("a");
    product.until_injected(&namespace, IMAGE, &["regcred"]);
    let rules = format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
         pullSecrets: [{{name: regcred, namespaces: [\"{}-*\"]}}]\n\
         rules: [{{name: internal, images: [registry.internal.example.com], pullSecrets: [regcred]}}]\n",
        delivery.own().name
    );
    delivery.set_rules(&rules);
    product.until_injected(&namespace, INTERNAL, &["regcred"]);

    let trial = pod("trial", &[("app", INTERNAL)]).to_string();
    let in_namespace = ["--namespace", &namespace.name];
    let create = ["create", "--dry-run=server", "-f", "-"];
    let warnings = cluster
        .kubectl
        .try_warnings(&[&in_namespace[..], &create].concat(), &trial);
    let warnings = warnings.expect("the Pod is taken");
    let expected = "pull secret \"regcred\" has no key for registry.internal.example.com";
    assert!(warnings.contains(expected), "{warnings}");
    let counted = "pullpass_admission_warnings_total{kind=\"no_key\"}";
    assert!(product.webhook.metric(counted) >= 1.0, "{warnings}");
    wait_for("status says it", HAPPY, || {
        let said = status::ask(cluster, delivery, &["status"]);
        let expected = json!([{
            "rule": "internal",
            "pattern": "registry.internal.example.com",
            "pull_secrets": ["regcred"],
        }]);
        (said.report["without_key"] == expected)
            .then_some(())
            .ok_or_else(|| said.report.to_string())
    });
}

//! Scenario 16: what pulls every day, where the admission plugin AlwaysPullImages makes every Pod ask the registry.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pod, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, BETA};

/// Adds to the plugins that are on by default.
const FLAGS: &[&str] = &["--enable-admission-plugins=AlwaysPullImages"];
/// Trials of Pods that start from what the node has, or fail for want of it, which the plugin forbids; one with an API
/// server of its own, without the plugin; and the one that takes longest, whose images are all new.
const WITHOUT: &[&str] = &[
    "scenario_52_tokens_of_two_minutes_from_the_ecr_credential_provider",
    "scenario_60_each_failure_is_explained",
    "scenario_17_cached_images_as_documented",
    "scenario_19_a_node_is_replaced",
    "import_scenario_50_54_every_file_is_checked_delivered_and_pulled_with",
];

/// The trials of every day that share the node, and one of the plugin itself. Those that are alone on the node
/// measure, or ask each time for an image that is new.
pub(crate) fn register(trials: &mut Trials) {
    trials.api_server_flags = FLAGS;
    trials.keep_node(WITHOUT);
    trials.node(
        "scenario_16_never_and_image_volumes_are_pulled_too",
        never_and_volumes,
    );
}

fn never_and_volumes(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let injected = injection.namespace("always");
    let bare = Namespace::create(cluster, "always-bare", "none");
    let reference = kit.fresh(BETA.host, "always/model");
    let mut pod = pod("app", &[("app", &kit.fresh(ALPHA.host, "always/app"))]);
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "model", "mountPath": "/model"}]);
    pod["spec"]["volumes"] =
        json!([{"name": "model", "image": {"reference": reference, "pullPolicy": "Never"}}]);
    let created = injected.create_object("pods", &pod);
    assert_eq!(pull_secrets_of(&created), ["alpha", "beta"]);
    let spec = &created["spec"];
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(spec["volumes"][0]["image"]["pullPolicy"], "Always");
    injected.running("app");
    injected.assert_pulled_without_a_failure("app");
    // Now the node has both, and it does not help.
    bare.create_object("pods", &pod);
    bare.pull_failed("app");
}

//! Nodes that are not all alike: one with logins of its own, one that is replaced. Each trial has its own node, so
//! that the others' Pods do not notice.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{
    Namespace, bound_pod, docker_config, pod, pull_secret, pull_secrets_of,
};
use crate::harness::trials::Trials;
use crate::harness::wait::{NEW_NODE, wait_for};
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, Account, BETA, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_19_a_node_is_replaced", replaced);
    trials.node(
        "scenario_18_logins_of_the_node_beside_injected_ones",
        logins_of_the_node,
    );
}

fn logins_of_the_node(cluster: &Cluster) {
    const REPOSITORY: &str = "scenario-18/app";
    let kit = cluster.registries();
    let account = Account::new("node+file", "of the node", &[REPOSITORY]);
    kit.tokens.permit(&account);
    let stale = Account::new("node+stale", "refused by now", &[]);
    let node = cluster.another_node(Some(&token_config("quay.io", &account)));
    let own = || kit.fresh("quay.io", REPOSITORY);

    let injection = Injection::covering(cluster, &[ALPHA.secret()]);
    let namespace = injection.namespace("both");
    let private = kit.fresh(ALPHA.host, "scenario-18/app");
    let containers = [("node", &*own()), ("injected", &*private)];
    namespace.create_object("pods", &bound_pod(&node.name, "both", &containers));
    // On a node without that file.
    namespace.create_object("pods", &pod("elsewhere", &[("app", &own())]));

    let secret = pull_secret("stale", &token_config("quay.io", &stale));
    let injection = Injection::covering(cluster, &[secret]);
    let falls_back = injection.namespace("stale");
    let image = own();
    falls_back.create_object("pods", &bound_pod(&node.name, "app", &[("app", &image)]));

    assert_eq!(
        pull_secrets_of(&namespace.running_within("both", NEW_NODE)),
        ["alpha"]
    );
    namespace.assert_pulled_without_a_failure("both");
    assert_eq!(
        pull_secrets_of(&falls_back.running_within("app", NEW_NODE)),
        ["stale"]
    );
    falls_back.assert_pulled_without_a_failure("app");
    // The injected login came first, or nobody would have asked with it.
    assert!(kit.tokens.has_refused(&stale.user));
    namespace.pull_failed("elsewhere");
}

fn replaced(cluster: &Cluster) {
    const REPOSITORY: &str = "scenario-19/preloaded";
    let kit = cluster.registries();
    let mut node = cluster.another_node(None);
    let secrets = [pull_secret(
        "both",
        &docker_config(&[ALPHA.entry(), BETA.entry()]),
    )];
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("replaced");
    let images = [ALPHA.host, BETA.host].map(|host| kit.fresh(host, "scenario-19/app"));
    let containers = [("a", &*images[0]), ("b", &*images[1])];
    namespace.create_object("pods", &bound_pod(&node.name, "bare", &containers));
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": bound_pod(&node.name, "web", &containers)["spec"],
            },
        },
    });
    namespace.kubectl(&["create", "-f", "-"], &deployment.to_string());
    // What the store of a node can hide: nobody gave this Pod a credential.
    let account = Account::new("scenario-19", "who prepared the node", &[REPOSITORY]);
    kit.tokens.permit(&account);
    let image = kit.fresh("quay.io", REPOSITORY);
    node.preload(&image, &account.user, &account.password);
    let hidden = Namespace::create(cluster, "hidden", "none");
    hidden.create_object("pods", &bound_pod(&node.name, "app", &[("app", &image)]));
    hidden.running_within("app", NEW_NODE);
    let before = until_running(&namespace, &[]);
    let pulls = images.each_ref().map(|image| pulls_of(&namespace, image));

    node.replace(&cluster.plane, cluster.directory("replacement"));
    for pod in until_running(&namespace, &before) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!(pull_secrets_of(&pod), ["both"], "{name}");
        namespace.assert_pulled_without_a_failure(name);
    }
    for (image, before) in images.iter().zip(pulls) {
        assert!(
            pulls_of(&namespace, image) > before,
            "{image} is pulled again"
        );
    }
    hidden.pull_failed("app");
}

/// Waits until the Pods of the namespace run, in none of the containers that they had `before`, and the kubelet has
/// said so; gives them.
fn until_running(namespace: &Namespace<'_>, before: &[Value]) -> Vec<Value> {
    const CONTAINERS: usize = 2 * 3;
    let containers = |pods: &[Value]| -> Vec<Value> {
        let statuses = pods.iter().map(|pod| &pod["status"]["containerStatuses"]);
        let statuses = statuses.filter_map(Value::as_array).flatten();
        let running = statuses.filter(|status| status["state"]["running"].is_object());
        running
            .map(|status| status["containerID"].clone())
            .collect()
    };
    let former = containers(before);
    wait_for("the Pods run", NEW_NODE, || {
        let pods = namespace.list("pods", "")?;
        let running = containers(&pods);
        let are_new = running.iter().all(|id| !former.contains(id));
        // What it says of pulls comes before that.
        let started = told(namespace, "Started", "");
        let are_told = started >= former.len() + CONTAINERS;
        (running.len() == CONTAINERS && are_new && are_told)
            .then(|| pods.clone())
            .ok_or_else(|| format!("{started} started; {}", json!(pods)))
    })
}

/// How often the kubelet says that it has pulled an image for Pods of the namespace.
fn pulls_of(namespace: &Namespace<'_>, image: &str) -> usize {
    let said = format!("Successfully pulled image \"{image}\"");
    told(namespace, "Pulled", &said)
}

/// How often the namespace's events tell of something, in words that begin so.
fn told(namespace: &Namespace<'_>, reason: &str, said: &str) -> usize {
    let events = namespace.list("events", &format!("fieldSelector=reason%3D{reason}"));
    let events = events.unwrap_or_default().into_iter();
    let events = events.filter(|event| {
        let message = event["message"].as_str();
        message.is_some_and(|message| message.starts_with(said))
    });
    let times = events.map(|event| event["count"].as_u64().unwrap_or(1));
    usize::try_from(times.sum::<u64>()).expect("few")
}

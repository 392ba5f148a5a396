//! Nodes that are not all alike: one with logins of its own, one that is replaced. Each trial has its own node, so
//! that the others' Pods do not notice.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, docker_config, pod, pull_secret, pull_secrets_of};
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

/// A Pod that is bound to a node.
fn pod_on(node: &str, name: &str, containers: &[(&str, &str)]) -> Value {
    let mut pod = pod(name, containers);
    pod["spec"]["nodeName"] = json!(node);
    pod
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
    namespace.create_object("pods", &pod_on(&node.name, "both", &containers));
    // On a node without that file.
    namespace.create_object("pods", &pod("elsewhere", &[("app", &own())]));

    let secret = pull_secret("stale", &token_config("quay.io", &stale));
    let injection = Injection::covering(cluster, &[secret]);
    let falls_back = injection.namespace("stale");
    let image = own();
    falls_back.create_object("pods", &pod_on(&node.name, "app", &[("app", &image)]));

    assert_eq!(pull_secrets_of(&namespace.running("both")), ["alpha"]);
    namespace.assert_pulled_without_a_failure("both");
    assert_eq!(pull_secrets_of(&falls_back.running("app")), ["stale"]);
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
    namespace.create_object("pods", &pod_on(&node.name, "bare", &containers));
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
                "spec": pod_on(&node.name, "web", &containers)["spec"],
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
    hidden.create_object("pods", &pod_on(&node.name, "app", &[("app", &image)]));
    hidden.running("app");
    let before = until_running(&namespace, 3, &[]);

    node.replace(&cluster.plane, cluster.directory("replacement"));
    let after = until_running(&namespace, 3, &before);
    for pod in &after {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!(pull_secrets_of(pod), ["both"], "{name}");
        namespace.assert_pulled_without_a_failure(name);
        let pulls = namespace.events(name).into_iter();
        let pulls = pulls.filter(|(_, message)| message.starts_with("Successfully pulled image"));
        assert!(pulls.count() > containers.len(), "{name} has pulled again");
    }
    hidden.pull_failed("app");
}

/// Waits until so many Pods of a namespace run, in none of the containers that they had `before`, and gives them.
fn until_running(namespace: &Namespace<'_>, count: usize, before: &[Value]) -> Vec<Value> {
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
        (pods.len() == count && running.len() == 2 * count && are_new)
            .then(|| pods.clone())
            .ok_or_else(|| json!(pods).to_string())
    })
}

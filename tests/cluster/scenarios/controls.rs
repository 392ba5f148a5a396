//! Controls: what happens without pullpass. If one of these fails, the other trials prove nothing.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pod, pull_secret};
use crate::harness::trials::Trials;
use crate::registry::{ALPHA, Account, BETA, LITERAL_ADDRESS, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "control_a_password_registry_wants_its_password",
        password_registry,
    );
    trials.node(
        "control_a_token_registry_wants_the_right_account",
        token_registry,
    );
    trials.node("control_moods_of_registries", moods);
}

fn password_registry(cluster: &Cluster) {
    let kit = cluster.registries();
    let namespace = Namespace::create(cluster, "control", "none");
    namespace.create_objects("secrets", &[ALPHA.secret(), LITERAL_ADDRESS.secret()]);

    namespace.create_object(
        "pods",
        &pod("public", &[("app", &kit.fresh_public("public/app"))]),
    );
    let private = kit.fresh(ALPHA.host, "team/app");
    namespace.create_object("pods", &pod("without", &[("app", &private)]));
    for login in [&ALPHA, &LITERAL_ADDRESS] {
        let mut with = pod(login.user, &[("app", &kit.fresh(login.host, "team/app"))]);
        with["spec"]["imagePullSecrets"] = json!([{"name": login.user}]);
        namespace.create_object("pods", &with);
    }
    let mut wrong = pod("wrong", &[("app", &kit.fresh(BETA.host, "team/app"))]);
    wrong["spec"]["imagePullSecrets"] = json!([{"name": "alpha"}]);
    namespace.create_object("pods", &wrong);

    for name in ["public", ALPHA.user, LITERAL_ADDRESS.user] {
        namespace.running(name);
    }
    for name in ["without", "wrong"] {
        let message = namespace.pull_failed(name);
        assert!(
            message.contains("401") || message.contains("no basic auth"),
            "{message}"
        );
    }
}

fn token_registry(cluster: &Cluster) {
    let kit = cluster.registries();
    let namespace = Namespace::create(cluster, "control", "none");
    let long = format!("{{\n\"private_key\": \"{}:\"\n}}", "x".repeat(2_500));
    let robot = Account::new("robot$control", &long, &["control/app"]);
    kit.tokens.permit(&robot);
    let secret = pull_secret("robot", &token_config("harbor.example.com", &robot));
    namespace.create_object("secrets", &secret);

    for (name, repository) in [("own", "control/app"), ("neighbour", "control/other")] {
        let image = kit.fresh("harbor.example.com", repository);
        let mut pod = pod(name, &[("app", &image)]);
        pod["spec"]["imagePullSecrets"] = json!([{"name": "robot"}]);
        namespace.create_object("pods", &pod);
    }
    namespace.running("own");
    let message = namespace.pull_failed("neighbour");
    assert!(message.contains("authorization failed"), "{message}");

    kit.tokens.revoke(&robot.user);
    let mut late = pod(
        "late",
        &[("app", &kit.fresh("harbor.example.com", "control/app"))],
    );
    late["spec"]["imagePullSecrets"] = json!([{"name": "robot"}]);
    namespace.create_object("pods", &late);
    let message = namespace.pull_failed("late");
    assert!(message.contains("401"), "{message}");
}

fn moods(cluster: &Cluster) {
    let kit = cluster.registries();
    let namespace = Namespace::create(cluster, "control", "none");
    let mut proxies = Vec::new();
    let mut expected = vec![
        (kit.fresh(kit.untrusted(), "moods/app"), "x509"),
        (
            kit.fresh(kit.plain_http(), "moods/app"),
            "HTTP response to HTTPS client",
        ),
        (kit.fresh("docker.io", "moods/app"), "429"),
    ];
    for (status, text) in [(401, "401"), (403, "403"), (404, "not found")] {
        let host = format!("mood-{status}.example.com");
        proxies.push(kit.moody(&host, status));
        expected.push((kit.fresh(&host, "moods/app"), text));
    }
    for (index, (image, _)) in expected.iter().enumerate() {
        namespace.create_object("pods", &pod(&format!("mood-{index}"), &[("app", image)]));
    }
    for (index, (image, text)) in expected.iter().enumerate() {
        let message = namespace.pull_failed(&format!("mood-{index}"));
        assert!(message.contains(text), "{image}: {message}");
    }
}

//! Injection on the node: Pods that could not pull now pull, with what they need and nothing else.

use std::time::Duration;

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{
    Namespace, container, docker_config, pod, pull_secret, pull_secrets_of,
};
use crate::harness::trials::Trials;
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, Account, BETA, Login, NEXUS_4443, NEXUS_8082, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_01_private_image_without_secret", scenario_01);
    trials.node(
        "scenario_02_two_registries_an_init_container_a_public_image",
        scenario_02,
    );
    trials.node("scenario_03_two_accounts_one_host", scenario_03);
    trials.node("scenario_04_one_secret_two_registries", scenario_04);
    trials.node("scenario_05_key_scoped_to_a_path", scenario_05);
    trials.node("scenario_09_one_address_two_ports", scenario_09);
    trials.node("scenario_10_docker_hub_limits_anonymous_pulls", scenario_10);
    trials.node("names_of_the_clouds_by_pattern", clouds);
    trials.node(
        "scenario_11_public_pods_while_a_source_is_broken",
        scenario_11,
    );
    trials.node(
        "scenario_12_open_registries_and_a_password_that_is_wrong_by_now",
        scenario_12,
    );
}

/// Pods measured for each column of scenario 1.
const MEASURED_PODS: usize = 5;

fn scenario_01(cluster: &Cluster) {
    let kit = cluster.registries();
    let bare = Namespace::create(cluster, "bare", "none");
    bare.create_object(
        "pods",
        &pod("app", &[("app", &kit.fresh(ALPHA.host, "team/app"))]),
    );
    bare.pull_failed("app");
    bare.waits_for("app", "ImagePullBackOff");

    let injection = Injection::covering(cluster, &[ALPHA.secret()]);
    let injected = injection.namespace("injected");
    let by_hand = Namespace::create(cluster, "by-hand", "none");
    by_hand.create_object("secrets", &ALPHA.secret());
    let mut times: [Vec<Duration>; 2] = Default::default();
    for index in 0..MEASURED_PODS {
        let name = format!("app-{index}");
        let plain = pod(&name, &[("app", &kit.fresh(ALPHA.host, "team/app"))]);
        times[0].push(injected.time_to_running(&plain));
        let mut written = pod(&name, &[("app", &kit.fresh(ALPHA.host, "team/app"))]);
        written["spec"]["imagePullSecrets"] = json!([{"name": "alpha"}]);
        times[1].push(by_hand.time_to_running(&written));
        injected.assert_pulled_at_once(&name);
        assert_eq!(pull_secrets_of(&injected.running(&name)), ["alpha"]);
    }
    times.iter_mut().for_each(|times| times.sort());
    println!(
        "scenario 1: median time to Running of {MEASURED_PODS} Pods: injected {:.2} s, secret \
         written by hand {:.2} s",
        times[0][MEASURED_PODS / 2].as_secs_f64(),
        times[1][MEASURED_PODS / 2].as_secs_f64(),
    );
}

fn scenario_02(cluster: &Cluster) {
    let kit = cluster.registries();
    let secrets = [&NEXUS_8082, &NEXUS_4443, &BETA, &ALPHA].map(Login::secret);
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("shop");
    let mut shop = pod(
        "shop",
        &[
            ("front", &kit.fresh(ALPHA.host, "shop/front")),
            ("back", &kit.fresh(BETA.host, "shop/back")),
            ("public", &kit.fresh_public("shop/metrics")),
        ],
    );
    let mut migrate = container("migrate", &kit.fresh(NEXUS_4443.host, "shop/migrate"));
    migrate["command"] = json!(["echo", "migrated"]);
    shop["spec"]["initContainers"] = json!([migrate]);
    namespace.create_object("pods", &shop);
    let running = namespace.running("shop");
    assert_eq!(pull_secrets_of(&running), ["nexus-4443", "beta", "alpha"]);
}

fn scenario_03(cluster: &Cluster) {
    let kit = cluster.registries();
    let secrets = ["a", "b"].map(|team| {
        let repository = format!("scenario-03/app-{team}");
        let account = Account::new(
            &format!("team+{team}"),
            &format!("of {team}"),
            &[&repository],
        );
        kit.tokens.permit(&account);
        let key = format!("quay.io/{repository}");
        pull_secret(&format!("team-{team}"), &token_config(&key, &account))
    });
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("teams");
    let image = |team: &str| kit.fresh("quay.io", &format!("scenario-03/app-{team}"));
    namespace.create_object(
        "pods",
        &pod("both", &[("a", &image("a")), ("b", &image("b"))]),
    );
    namespace.create_object("pods", &pod("one", &[("b", &image("b"))]));
    assert_eq!(
        pull_secrets_of(&namespace.running("both")),
        ["team-a", "team-b"]
    );
    assert_eq!(pull_secrets_of(&namespace.running("one")), ["team-b"]);
}

fn scenario_04(cluster: &Cluster) {
    let kit = cluster.registries();
    let secret = pull_secret("registries", &docker_config(&[ALPHA.entry(), BETA.entry()]));
    let injection = Injection::covering(cluster, &[secret]);
    let namespace = injection.namespace("one-secret");
    let images = [ALPHA.host, BETA.host].map(|host| kit.fresh(host, "one/secret"));
    namespace.create_object(
        "pods",
        &pod("both", &[("a", &images[0]), ("b", &images[1])]),
    );
    assert_eq!(pull_secrets_of(&namespace.running("both")), ["registries"]);
}

fn scenario_05(cluster: &Cluster) {
    let kit = cluster.registries();
    let rules = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: test}]
rules: [{name: test, images: [ghcr.io/x/test], pullSecrets: [test]}]
";
    let account = Account::new("scenario-05", "one repository only", &["x/test"]);
    kit.tokens.permit(&account);
    let secret = pull_secret("test", &token_config("ghcr.io/x/test", &account));
    let injection = Injection::start(cluster, rules, &[secret]);
    let namespace = injection.namespace("scoped");
    for repository in ["test", "test2"] {
        let image = kit.fresh("ghcr.io", &format!("x/{repository}"));
        namespace.create_object("pods", &pod(repository, &[("app", &image)]));
    }
    assert_eq!(pull_secrets_of(&namespace.running("test")), ["test"]);
    let neighbour = namespace.get("pods", "test2").expect("it was created");
    assert!(pull_secrets_of(&neighbour).is_empty());
    namespace.pull_failed("test2");
}

fn scenario_09(cluster: &Cluster) {
    let kit = cluster.registries();
    let secrets = [&NEXUS_4443, &NEXUS_8082].map(Login::secret);
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("nexus");
    for login in [&NEXUS_4443, &NEXUS_8082] {
        let image = kit.fresh(login.host, "nexus/app");
        namespace.create_object("pods", &pod(login.user, &[("app", &image)]));
    }
    for login in [&NEXUS_4443, &NEXUS_8082] {
        assert_eq!(
            pull_secrets_of(&namespace.running(login.user)),
            [login.user]
        );
    }
}

fn scenario_10(cluster: &Cluster) {
    let kit = cluster.registries();
    let images = [
        ("busybox", "busybox"),
        ("awesomeapp", "janedoe/awesomeapp:v1"),
    ];
    let account = Account::new(
        "scenario-10",
        "an access token",
        &["library/busybox", "janedoe/awesomeapp"],
    );
    kit.tokens.permit(&account);
    let create = |namespace: &Namespace<'_>| {
        for (name, image) in images {
            let mut pod = pod(name, &[("app", image)]);
            pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
            namespace.create_object("pods", &pod);
        }
    };
    let push = || {
        kit.push("library/busybox", "latest");
        kit.push("janedoe/awesomeapp", "v1");
    };
    push();
    let bare = Namespace::create(cluster, "hub-bare", "none");
    create(&bare);
    for (name, _) in images {
        let message = bare.pull_failed(name);
        assert!(message.contains("429 Too Many Requests"), "{message}");
    }
    for key in ["docker.io", "https://index.docker.io/v1/"] {
        push();
        let secret = pull_secret("hub", &token_config(key, &account));
        let injection = Injection::covering(cluster, &[secret]);
        let namespace = injection.namespace("hub");
        create(&namespace);
        for (name, _) in images {
            assert_eq!(pull_secrets_of(&namespace.running(name)), ["hub"], "{key}");
        }
    }
}

/// Rules with patterns, on image names as the clouds hand them out.
fn clouds(cluster: &Cluster) {
    const CLOUDS: [(&str, &str, &str); 4] = [
        (
            "aliyun",
            "registry.cn-hangzhou.aliyuncs.com",
            "registry.cn-*.aliyuncs.com/acme",
        ),
        (
            "ecr",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "'*.dkr.ecr.*.amazonaws.com'",
        ),
        ("acr", "example.azurecr.io", "'*.azurecr.io'"),
        ("gcr", "gcr.io", "gcr.io/acme"),
    ];
    let kit = cluster.registries();
    let names: Vec<String> = CLOUDS
        .iter()
        .map(|(name, ..)| format!("{{name: {name}}}"))
        .collect();
    let rules = CLOUDS.iter().map(|(name, _, pattern)| {
        format!("  - {{name: {name}, images: [{pattern}], pullSecrets: [{name}]}}\n")
    });
    let rules = format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{}]\nrules:\n{}",
        names.join(", "),
        rules.collect::<String>()
    );
    let secrets = CLOUDS.map(|(name, host, _)| {
        // User names as the clouds have them.
        let user = match name {
            "ecr" => "AWS",
            "gcr" => "_json_key",
            other => other,
        };
        let account = Account::new(user, "a token", &[&format!("acme/{name}")]);
        kit.tokens.permit(&account);
        pull_secret(name, &token_config(host, &account))
    });
    let injection = Injection::start(cluster, &rules, &secrets);
    let namespace = injection.namespace("clouds");
    let images = CLOUDS.map(|(name, host, _)| (name, kit.fresh(host, &format!("acme/{name}"))));
    let containers: Vec<_> = images
        .iter()
        .map(|(name, image)| (*name, image.as_str()))
        .collect();
    namespace.create_object("pods", &pod("app", &containers));
    let names = CLOUDS.map(|(name, ..)| name);
    assert_eq!(pull_secrets_of(&namespace.running("app")), names);
}

fn scenario_11(cluster: &Cluster) {
    let kit = cluster.registries();
    let secrets = [
        ALPHA.secret(),
        pull_secret("broken", &json!({"auths": "not an object"})),
    ];
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("public");
    let public = kit.fresh_public("public/app");
    let private = kit.fresh(ALPHA.host, "team/app");
    namespace.create_object("pods", &pod("public", &[("app", &public)]));
    // One undecodable secret in its list would fail every image of this Pod.
    namespace.create_object("pods", &pod("private", &[("app", &private)]));
    assert!(pull_secrets_of(&namespace.running("public")).is_empty());
    assert_eq!(pull_secrets_of(&namespace.running("private")), ["alpha"]);
}

/// What may be had without a name may no longer be had with a wrong one: the kubelet does not try without.
fn scenario_12(cluster: &Cluster) {
    const PUBLIC: &str = "quay.io/scenario-12/public";
    let kit = cluster.registries();
    kit.tokens.publish("scenario-12/public");
    let stale = Account::new("scenario-12", "no longer right", &[]);
    let ignored = kit.fresh_public("scenario-12/app");
    let (open, _) = ignored.split_once('/').expect("an image has a registry");
    let secrets = [
        pull_secret("ignored", &token_config(open, &stale)),
        pull_secret("stale", &token_config("quay.io", &stale)),
    ];
    let injection = Injection::covering(cluster, &secrets);
    let namespace = injection.namespace("open");
    let public = || kit.fresh("quay.io", "scenario-12/public");
    namespace.create_object("pods", &pod("ignored", &[("app", &ignored)]));
    namespace.create_object("pods", &pod("stale", &[("app", &public())]));

    // As the docs advise.
    let rules = format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{{name: stale}}]\n\
         rules: [{{name: quay, images: [quay.io], excludeImages: [{PUBLIC}], pullSecrets: [stale]}}]\n"
    );
    let advised = Injection::start(cluster, &rules, &secrets[1..]).namespace("advised");
    advised.create_object("pods", &pod("public", &[("app", &public())]));

    // A registry that lets everyone in does not look at names.
    assert_eq!(pull_secrets_of(&namespace.running("ignored")), ["ignored"]);
    namespace.assert_pulled_at_once("ignored");
    let refused = namespace.pull_failed("stale");
    assert!(refused.contains("401"), "{refused}");
    let pod = namespace.get("pods", "stale").expect("it was created");
    assert_eq!(pull_secrets_of(&pod), ["stale"]);
    assert!(pull_secrets_of(&advised.running("public")).is_empty());
    advised.assert_pulled_at_once("public");
}

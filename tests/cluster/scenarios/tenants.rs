//! Who may hold which credential, and what becomes of Pods when it changes, on the node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::delivery::{Delivery, Product, payload};
use crate::harness::namespace::{docker_config, pod, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::registry::{ALPHA, Account, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("delivery_scenario_35_rotation_under_pods", rotation);
    trials.node(
        "delivery_scenario_20_a_namespace_that_is_not_permitted",
        not_permitted,
    );
    trials.node(
        "delivery_scenario_34_two_tenants_one_name_one_host",
        two_tenants,
    );
    trials.api(
        "injection_of_pods_with_a_strict_service_account",
        strict_account,
    );
}

fn not_permitted(cluster: &Cluster) {
    let kit = cluster.registries();
    let product = Product::start(cluster, &["regcred"], "");
    let delivery = &product.delivery;
    let entry = format!(
        "{{name: regcred, namespaces: [{}]}}",
        delivery.name_of("good")
    );
    delivery.set_pull_secrets(&entry);
    let login = docker_config(&[ALPHA.entry()]).to_string();
    product.make_source("regcred", &login);
    let (good, denied) = (product.namespace("good"), product.namespace("denied"));
    delivery.until_copied(&good, "regcred", &login);
    let image = || kit.fresh(ALPHA.host, "permitted/app");
    product.until_injected(&good, &image(), &["regcred"]);
    good.create_object("pods", &pod("app", &[("app", &image())]));
    denied.create_object("pods", &pod("app", &[("app", &image())]));
    let mut by_hand = pod("by-hand", &[("app", &image())]);
    by_hand["spec"]["imagePullSecrets"] = json!([{"name": "regcred"}]);
    denied.create_object("pods", &by_hand);

    assert_eq!(pull_secrets_of(&good.running("app")), ["regcred"]);
    let bare = denied.get("pods", "app").expect("it was created");
    assert!(pull_secrets_of(&bare).is_empty(), "{bare}");
    for name in ["app", "by-hand"] {
        denied.pull_failed(name);
    }
    denied
        .get("secrets", "regcred")
        .expect_err("naming it is not being permitted");
}

fn two_tenants(cluster: &Cluster) {
    const HOST: &str = "quay.io";
    let kit = cluster.registries();
    let product = Product::start(cluster, &["regcred"], "");
    let delivery = &product.delivery;
    let entries = ["a", "b"].map(|tenant| {
        let namespace = delivery.name_of(tenant);
        format!("{{name: {tenant}, secretName: regcred, namespaces: [{namespace}]}}")
    });
    delivery.set_pull_secrets(&entries.join(", "));
    let namespaces = ["a", "b"].map(|tenant| {
        let repository = format!("tenant-{tenant}/app");
        let user = format!("tenant+{tenant}");
        let account = Account::new(&user, &format!("of {tenant}"), &[&repository]);
        kit.tokens.permit(&account);
        let login = token_config(HOST, &account).to_string();
        product.make_source(tenant, &login);
        let namespace = product.namespace(tenant);
        delivery.until_copied(&namespace, "regcred", &login);
        namespace
    });
    for (namespace, own, others) in [(&namespaces[0], "a", "b"), (&namespaces[1], "b", "a")] {
        for (name, tenant) in [("own", own), ("others", others)] {
            let image = kit.fresh(HOST, &format!("tenant-{tenant}/app"));
            product.until_injected(namespace, &image, &["regcred"]);
            namespace.create_object("pods", &pod(name, &[("app", &image)]));
        }
    }
    for namespace in &namespaces {
        assert_eq!(pull_secrets_of(&namespace.running("own")), ["regcred"]);
        namespace.assert_pulled_at_once("own");
        let refused = namespace.pull_failed("others");
        assert!(refused.contains("authorization failed"), "{refused}");
    }
}

/// Rotations that are measured.
const ROTATIONS: usize = 5;
/// Namespaces with a copy each.
const NAMESPACES: usize = 20;

/// What a registry and its administrator do: a new password, for a while beside the old one.
fn rotation(cluster: &Cluster) {
    const HOST: &str = "harbor.example.com";
    let kit = cluster.registries();
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let product = Product::start(cluster, &["regcred"], entry);
    let delivery = &product.delivery;
    let mut account = Account::new("robot$rotated", "password 0", &["rotated/app"]);
    kit.tokens.permit(&account);
    product.make_source("regcred", &token_config(HOST, &account).to_string());
    let namespaces: Vec<_> = (0..NAMESPACES)
        .map(|n| product.namespace(&n.to_string()))
        .collect();
    let login = token_config(HOST, &account).to_string();
    for namespace in &namespaces {
        delivery.until_copied(namespace, "regcred", &login);
    }
    let mut lags = Vec::new();
    for rotation in 1..=ROTATIONS {
        let images = [(); 3].map(|()| kit.fresh(HOST, "rotated/app"));
        product.until_injected(&namespaces[0], &images[0], &["regcred"]);
        let create = |when: usize| {
            let pod = pod(&format!("app-{rotation}-{when}"), &[("app", &images[when])]);
            namespaces[when].create_object("pods", &pod);
        };
        account.former_password = Some(account.password.clone());
        account.password = format!("password {rotation}");
        kit.tokens.permit(&account);
        create(0);
        let before = copies(cluster, delivery);
        delivery.change_source("regcred", &token_config(HOST, &account).to_string());
        let changed = Instant::now();
        // Some copies are the old ones and some the new.
        create(1);
        lags.extend(until_rotated(cluster, delivery, &before, changed));
        let until_pulled = |when: usize| {
            let pod = format!("app-{rotation}-{when}");
            namespaces[when].running(&pod);
            namespaces[when].assert_pulled_at_once(&pod);
        };
        // A kubelet may have read the former copy and not have asked the registry yet.
        until_pulled(0);
        until_pulled(1);
        // From now on the old password opens nothing.
        account.former_password = None;
        kit.tokens.permit(&account);
        create(2);
        until_pulled(2);
    }
    lags.sort();
    let at = |percent: usize| lags[(lags.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "scenario 35: {} copies in {ROTATIONS} rotations, new after p50 {:.0} ms, p99 {:.0} ms, \
         the last {:.0} ms",
        lags.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// Uid and source hash of each copy, by namespace.
fn copies(cluster: &Cluster, delivery: &Delivery<'_>) -> BTreeMap<String, (Value, Value)> {
    let all = "/api/v1/secrets?fieldSelector=metadata.name=regcred";
    let list = cluster.api.get(all).expect("the API server is there");
    let list = list["items"].as_array().cloned().unwrap_or_default();
    let ours = list.into_iter().map(|copy| copy["metadata"].clone());
    let ours = ours
        .filter(|metadata| metadata["labels"]["app.kubernetes.io/instance"] == delivery.instance());
    let ours = ours.map(|metadata| {
        let hash = metadata["annotations"]["pullpass.dev/source-hash"].clone();
        let namespace = metadata["namespace"].as_str().expect("it is in one");
        (namespace.to_owned(), (metadata["uid"].clone(), hash))
    });
    ours.collect()
}

/// Looks until every copy holds another content than `before`; none is ever absent, or another object.
/// Gives how long each took since `changed`.
fn until_rotated(
    cluster: &Cluster,
    delivery: &Delivery<'_>,
    before: &BTreeMap<String, (Value, Value)>,
    changed: Instant,
) -> Vec<Duration> {
    let mut took = BTreeMap::new();
    wait_for("every copy is the new one", HAPPY, || {
        let now = copies(cluster, delivery);
        for (namespace, (uid, old)) in before {
            let (uid_now, hash) = now.get(namespace).expect("no copy is ever absent");
            assert_eq!(uid_now, uid, "{namespace}: it was absent");
            if hash != old {
                took.entry(namespace).or_insert_with(|| changed.elapsed());
            }
        }
        let left = before.len() - took.len();
        (left == 0)
            .then_some(())
            .ok_or_else(|| format!("{left} are old"))
    });
    took.into_values().collect()
}

/// The API server refuses a Pod of such an account that names what the account does not list: it comes
/// unpatched, and says so.
fn strict_account(cluster: &Cluster) {
    const IMAGE: &str = "registry.example.com/team/app:v1";
    let entry = "{name: regcred, namespaces: NAMESPACES}";
    let product = Product::start(cluster, &["regcred"], entry);
    product.make_source("regcred", &payload("first"));
    let namespace = product.namespace("strict");
    product.until_injected(&namespace, IMAGE, &["regcred"]);
    let annotation = "kubernetes.io/enforce-mountable-secrets=true";
    namespace.kubectl(&["annotate", "serviceaccount", "default", annotation], "");
    product.until_injected(&namespace, IMAGE, &[]);

    let create = |name: &str, named: &[&str]| {
        let mut pod = pod(name, &[("app", IMAGE)]);
        let named: Vec<Value> = named.iter().map(|name| json!({"name": name})).collect();
        pod["spec"]["imagePullSecrets"] = json!(named);
        pod["spec"]["schedulerName"] = json!("nobody");
        let arguments = ["--namespace", &namespace.name, "create", "-f", "-"];
        cluster.kubectl.try_warnings(&arguments, &pod.to_string())
    };
    let refused = create("by-hand", &["regcred"]).expect_err("then it need not be left alone");
    assert!(refused.contains("forbidden"), "{refused}");
    let warnings = create("app", &[]).expect("it is created");
    let expected =
        "no pull secret added: the ServiceAccount enforces mountable secrets; list it there";
    assert!(warnings.contains(expected), "{warnings}");
    let created = namespace.get("pods", "app").expect("it was created");
    assert!(pull_secrets_of(&created).is_empty(), "{created}");
    assert!(product.webhook.answered("strict_service_account") >= 1.0);

    // What the warning advises.
    namespace.set_account_secrets("default", &["regcred"]);
    product.until_injected(&namespace, IMAGE, &["regcred"]);
}

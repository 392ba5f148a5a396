//! Copies of pull secrets: there before the first Pod, as they should be, and never over what is
//! somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::status;
use crate::harness::cluster::Cluster;
use crate::harness::controller::{INDEX, RULES};
use crate::harness::delivery::{Delivery, Product, at_once, payload, secret, set_payload};
use crate::harness::namespace::{Namespace, docker_config, pod, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::wait::{
    HAPPY, ONE_BACK_OFF, until_counts, until_counts_within, wait_for, writes_max,
};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.alone("delivery_scenario_30_first_pods_pull_at_once", first_pods);
    trials.alone(
        "delivery_scenario_30_first_pods_while_the_leader_is_killed",
        leader_killed,
    );
    trials.alone(
        "delivery_control_first_pods_behind_a_patcher",
        behind_a_patcher,
    );
    trials.alone(
        "delivery_incident_43_on_demand_first_pods_pull_at_once",
        on_demand,
    );
    trials.alone("delivery_on_demand_pods_without_volumes", without_volumes);
    trials.api("delivery_incident_34_six_writes_a_minute_in_a_fight", fight);
    trials.api(
        "delivery_incident_07_a_foreign_secret_is_never_touched_in_a_race",
        race,
    );
    trials.api(
        "delivery_incident_07_foreign_secrets_are_left_alone",
        foreign,
    );
    trials.api(
        "delivery_incident_37_a_namespace_admin_reaches_no_other_namespace",
        namespace_admin,
    );
    trials.api("delivery_scenario_35_rotation_in_place", rotation);
    trials.api(
        "delivery_incident_24_edited_and_deleted_copies_are_put_back",
        repair,
    );
    trials.api(
        "delivery_immutable_and_wrong_type_are_made_again",
        immutable,
    );
    trials.api("delivery_incident_15_namespace_made_again", recreated);
    trials.api(
        "delivery_incident_24_labels_and_rules_come_and_go",
        labels_and_rules,
    );
    trials.api(
        "delivery_source_deleted_or_broken_leaves_copies",
        broken_source,
    );
    trials.api(
        "delivery_scenario_33_34_sources_elsewhere_and_shared_names",
        tenants,
    );
    trials.api("delivery_missing_permission_is_said", permission);
    trials.api(
        "delivery_scenario_39_copies_of_other_tools_are_adopted",
        adopted,
    );
    trials.api("delivery_off_does_nothing", off);
    trials.api(
        "delivery_incident_25_one_namespace_that_refuses_stops_no_other",
        refused,
    );
    trials.api("delivery_leader_change_writes_nothing_twice", leaders);
}

/// New namespaces in one go.
const NAMESPACES: usize = 20;
/// JSON, so that the API server takes it, but no base64 where the kubelet expects some.
const UNDECODABLE: &str = r#"{"auths": {"r.io": {"auth": "hunter2"}}}"#;
/// A write that the budget holds back comes after a minute.
const NEXT_MINUTE: Duration = Duration::from_secs(120);

/// A delivery of the login of a private registry, with a webhook that follows it.
struct FirstPods<'a> {
    product: Product<'a>,
    cluster: &'a Cluster,
}

impl<'a> FirstPods<'a> {
    fn start(cluster: &'a Cluster, deliver: &str) -> Self {
        let entry = format!("{{name: regcred, deliver: {deliver}, namespaces: NAMESPACES}}");
        let product = Product::start(cluster, &["regcred"], &entry);
        let login = docker_config(&[ALPHA.entry()]).to_string();
        product.make_source("regcred", &login);
        Self { product, cluster }
    }

    /// Makes new namespaces, and in each a Pod at the first moment at which the API server takes it. Every
    /// one comes out with the secret.
    fn pods(&self, kind: &str, change: impl Fn(&mut Value)) -> Vec<Namespace<'a>> {
        self.pods_while(kind, change, || {})
    }

    /// The same; `halfway` happens when half of the namespaces are made.
    fn pods_while(
        &self,
        kind: &str,
        change: impl Fn(&mut Value),
        halfway: impl FnOnce(),
    ) -> Vec<Namespace<'a>> {
        let labels = json!({"pullpass-test": self.product.group});
        let name = self.product.delivery.name_of(kind);
        let (namespaces, taken) = take_first_pods(self.cluster, &name, &labels, change, halfway);
        for pod in taken {
            assert_eq!(pull_secrets_of(&pod), ["regcred"], "{pod}");
        }
        namespaces
    }

    /// How many of the Pods had a failed pull.
    fn failed(pods: &[Namespace<'_>]) -> usize {
        let has_failed = |namespace: &&Namespace<'_>| {
            let events = namespace.events("app");
            events
                .iter()
                .any(|(reason, _)| reason == "Failed" || reason == "BackOff")
        };
        pods.iter().filter(has_failed).count()
    }

    fn say(&self, what: &str, failed: usize) {
        let lag = |word: &str| {
            let series = format!("pullpass_delivery_lag_seconds_{word}");
            self.product.delivery.controller.metric(&series)
        };
        let mean = 1e3 * lag("sum") / lag("count");
        println!(
            "{what}: {failed} of {NAMESPACES} first Pods failed a pull; {} copies, {mean:.1} ms after \
             what made them needed was seen, on average",
            lag("count"),
        );
    }
}

/// Makes new namespaces, and in each a Pod at the first moment at which the API server takes it. Gives
/// both, the Pods as they were taken.
fn take_first_pods<'a>(
    cluster: &'a Cluster,
    prefix: &str,
    labels: &Value,
    change: impl Fn(&mut Value),
    halfway: impl FnOnce(),
) -> (Vec<Namespace<'a>>, Vec<Value>) {
    let kit = cluster.registries();
    let mut pods = BTreeMap::new();
    for index in 0..NAMESPACES {
        let mut pod = pod("app", &[("app", &kit.fresh(ALPHA.host, "first/pod"))]);
        change(&mut pod);
        pods.insert(format!("{prefix}-{index}"), pod);
    }
    let names: Vec<String> = pods.keys().cloned().collect();
    let (first, second) = names.split_at(NAMESPACES / 2);
    let make = |names: &[String]| {
        at_once(names.len(), |index| {
            let object = json!({"metadata": {"name": names[index], "labels": labels}});
            let created = cluster.api.post("/api/v1/namespaces", &object);
            created.expect("the namespace is new");
        });
    };
    make(first);
    halfway();
    make(second);
    let taken = thread::scope(|scope| {
        let mut taking = Vec::new();
        // One looks for all: twenty who ask again and again would keep the machine busy.
        wait_for("every default ServiceAccount", HAPPY, || {
            for account in default_accounts(cluster)? {
                if let Some(pod) = pods.remove(namespace_of(&account)) {
                    let path = format!("/api/v1/namespaces/{}/pods", namespace_of(&account));
                    taking.push(scope.spawn(move || {
                        wait_for("the Pod is taken", HAPPY, || cluster.api.post(&path, &pod))
                    }));
                }
            }
            pods.is_empty()
                .then_some(())
                .ok_or_else(|| pods.len().to_string())
        });
        let taken = taking.into_iter().map(|thread| thread.join());
        taken.map(|pod| pod.expect("it says why itself")).collect()
    });
    let namespaces = names.iter().map(|name| Namespace::existing(cluster, name));
    (namespaces.collect(), taken)
}

/// The default ServiceAccounts that there are: without one, Pods are refused.
fn default_accounts(cluster: &Cluster) -> Result<Vec<Value>, String> {
    let all = "/api/v1/serviceaccounts?fieldSelector=metadata.name=default";
    let list = cluster.api.get(all)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn namespace_of(object: &Value) -> &str {
    let name = object["metadata"]["namespace"].as_str();
    name.expect("it is in a namespace")
}

/// What patchers of ServiceAccounts do, in the namespaces whose names begin with `prefix`: as soon as the
/// default ServiceAccount is there, put a copy of the Secret beside it, and its name into it.
fn patch_accounts(cluster: &Cluster, prefix: &str, secret: &Value, is_over: &AtomicBool) {
    let patch = json!({"imagePullSecrets": [{"name": "regcred"}]});
    let mut patched = BTreeSet::new();
    while !is_over.load(Ordering::Relaxed) {
        for account in default_accounts(cluster).unwrap_or_default() {
            let namespace = namespace_of(&account);
            if !namespace.starts_with(prefix) || !patched.insert(namespace.to_owned()) {
                continue;
            }
            let namespace = Namespace::existing(cluster, namespace);
            namespace.create_object("secrets", secret);
            let changed = namespace.merge("serviceaccounts", "default", &patch);
            changed.expect("the account is there");
        }
    }
}

/// The negative control: with a patcher, first Pods are admitted before it comes, and never pull. It has
/// the advantage of asking without a pause, where the real ones wait for an event.
fn behind_a_patcher(cluster: &Cluster) {
    let prefix = cluster.unique("patched");
    let login = secret("regcred", &docker_config(&[ALPHA.entry()]).to_string());
    let is_over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        scope.spawn(|| patch_accounts(cluster, &prefix, &login, &is_over));
        let (_, taken) = take_first_pods(cluster, &prefix, &json!({}), |_| {}, || {});
        is_over.store(true, Ordering::Relaxed);
        taken
    });
    let bare = taken.iter().filter(|pod| pull_secrets_of(pod).is_empty());
    let bare: Vec<&str> = bare.map(namespace_of).collect();
    for namespace in &bare {
        Namespace::existing(cluster, namespace).pull_failed("app");
    }
    let count = bare.len();
    println!(
        "behind a patcher of ServiceAccounts: {count} of {NAMESPACES} first Pods without the secret"
    );
    assert!(
        count > 0,
        "then the other trials of first Pods prove nothing"
    );
}

fn first_pods(cluster: &Cluster) {
    let trial = FirstPods::start(cluster, "Always");
    let pods = trial.pods("always", |_| {});
    for namespace in &pods {
        namespace.running("app");
        namespace.assert_pulled_at_once("app");
    }
    trial.say("Always", FirstPods::failed(&pods));
}

fn leader_killed(cluster: &Cluster) {
    const COPIES: &str = "pullpass_writes_total{object=\"copy\"}";
    let trial = FirstPods::start(cluster, "Always");
    let leader = &trial.product.delivery.controller;
    let next = trial.product.delivery.next_controller();
    wait_for("the next one knows what there is", HAPPY, || {
        let log = next.log();
        let lists = |kind| {
            let lists = log.lines().filter(|line| line.contains("listed"));
            lists.filter(|line| line.contains(kind)).count()
        };
        // Sources, and copies.
        let knows = lists("Secret") >= 2 && lists("Namespace") >= 1;
        knows.then_some(()).ok_or_else(|| log.clone())
    });
    let kill = || {
        wait_for("it is in the middle of it", HAPPY, || {
            let written = leader.metric(COPIES);
            (written > 0.0)
                .then_some(())
                .ok_or_else(|| written.to_string())
        });
        leader.kill();
    };
    let pods = trial.pods_while("orphan", |_| {}, kill);
    for namespace in &pods {
        namespace.running("app");
        namespace.assert_pulled_at_once("app");
    }
    let stood_in = next.metric(COPIES);
    let failed = FirstPods::failed(&pods);
    println!(
        "leader killed: {failed} of {NAMESPACES} first Pods failed a pull; {stood_in} copies by who stood in"
    );
    assert!(stood_in > 0.0, "then nobody was needed");
    next.until_leading();
}

fn on_demand(cluster: &Cluster) {
    let trial = FirstPods::start(cluster, "OnDemand");
    let idle = trial.product.delivery.namespace("idle");
    let pods = trial.pods("demand", |_| {});
    for namespace in &pods {
        namespace.running("app");
        namespace.assert_pulled_at_once("app");
    }
    trial.say("OnDemand", FirstPods::failed(&pods));
    idle.get("secrets", "regcred")
        .expect_err("nobody asked there");
    // It stays after the Pod.
    pods[0].delete("pods", "app").expect("it runs");
    let login = docker_config(&[ALPHA.entry()]).to_string();
    trial
        .product
        .delivery
        .until_copied(&pods[0], "regcred", &login);
}

fn without_volumes(cluster: &Cluster) {
    let trial = FirstPods::start(cluster, "OnDemand");
    let pods = trial.pods("bare", |pod| {
        pod["spec"]["automountServiceAccountToken"] = json!(false);
    });
    for namespace in &pods {
        namespace.running_within("app", ONE_BACK_OFF);
    }
    trial.say("OnDemand without volumes", FirstPods::failed(&pods));
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"]
        .as_str()
        .expect("an object has a uid")
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"]
        .as_str()
        .expect("an object has a version")
}

fn rotation(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let namespaces: Vec<_> = (0..NAMESPACES)
        .map(|n| delivery.namespace(&n.to_string()))
        .collect();
    let copies: Vec<_> = namespaces
        .iter()
        .map(|namespace| delivery.until_copied(namespace, "regcred", &payload("first")))
        .collect();
    delivery.until_wrote(NAMESPACES);
    for password in ["second", "third"] {
        let start = Instant::now();
        delivery.change_source("regcred", &payload(password));
        for (namespace, before) in namespaces.iter().zip(&copies) {
            let after = delivery.until_copied(namespace, "regcred", &payload(password));
            assert_eq!(uid(&after), uid(before), "it was never absent");
            assert_ne!(
                after["metadata"]["annotations"]["pullpass.dev/source-hash"],
                before["metadata"]["annotations"]["pullpass.dev/source-hash"]
            );
        }
        let took = start.elapsed().as_secs_f64();
        println!("scenario 35: {NAMESPACES} copies rotated within {took:.2} s");
    }
    delivery.until_wrote(3 * NAMESPACES);
    let copy = delivery.until_copied(&namespaces[0], "regcred", &payload("third"));
    assert_eq!(
        copy["metadata"]["labels"],
        json!({"app.kubernetes.io/managed-by": "pullpass", "app.kubernetes.io/instance": delivery.instance()})
    );
    let annotations = copy["metadata"]["annotations"]
        .as_object()
        .map(serde_json::Map::len);
    assert_eq!(annotations, Some(1));
    assert!(copy["metadata"].get("ownerReferences").is_none());
    assert!(copy["metadata"].get("finalizers").is_none());
}

fn repair(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let namespace = delivery.namespace("a");
    let first = payload("first");
    let copy = delivery.until_copied(&namespace, "regcred", &first);

    set_payload(&namespace, "regcred", &payload("wrong"));
    let edited = delivery.until_copied(&namespace, "regcred", &first);
    assert_eq!(uid(&edited), uid(&copy));

    let lie = json!({"metadata": {"annotations": {"pullpass.dev/source-hash": "sha256:0"}}});
    namespace
        .merge("secrets", "regcred", &lie)
        .expect("it is there");
    wait_for("the annotation is put back", HAPPY, || {
        let now = namespace.get("secrets", "regcred")?;
        let hash = &now["metadata"]["annotations"]["pullpass.dev/source-hash"];
        let is_back = *hash == copy["metadata"]["annotations"]["pullpass.dev/source-hash"];
        is_back.then_some(()).ok_or_else(|| hash.to_string())
    });

    namespace.delete("secrets", "regcred").expect("it is there");
    let again = delivery.until_copied(&namespace, "regcred", &first);
    assert_ne!(uid(&again), uid(&copy));
    delivery.until_wrote(4);
}

fn fight(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let start = Instant::now();
    let namespace = delivery.namespace("fought");
    let first = payload("first");
    delivery.until_copied(&namespace, "regcred", &first);
    let mut undone = 0;
    // Until the budget holds: whoever undoes at once gets the rest of the six at once.
    while undone < 5 {
        delivery.until_copied(&namespace, "regcred", &first);
        if undone % 2 == 0 {
            set_payload(&namespace, "regcred", &payload("wrong"));
        } else {
            namespace.delete("secrets", "regcred").expect("it is there");
        }
        undone += 1;
    }
    delivery.until_copied(&namespace, "regcred", &first);
    delivery.until_wrote(6);
    set_payload(&namespace, "regcred", &payload("wrong"));
    // Others do not wait for it.
    let other = delivery.namespace("other");
    delivery.until_copied(&other, "regcred", &first);
    let most = || writes_max(start) + 1.0;
    until_counts_within("copies written", 7.0, most, || delivery.writes());
    wait_for(
        "the copy is put back when its minute is over",
        NEXT_MINUTE,
        || {
            let writes = delivery.writes();
            (writes == 8.0)
                .then_some(())
                .ok_or_else(|| writes.to_string())
        },
    );
    assert!(
        start.elapsed() >= Duration::from_secs(60),
        "seven writes in a minute"
    );
    delivery.until_copied(&namespace, "regcred", &first);
}

/// Copies, a source, rules and an index with every mark of ours and of other tools.
fn forgeries(instance: &str) -> Vec<Value> {
    let metadata = |name: &str| {
        json!({
            "name": name,
            "labels": {
                "app.kubernetes.io/managed-by": "pullpass",
                "app.kubernetes.io/instance": instance,
            },
            "annotations": {
                "reflector.v1.k8s.emberstack.com/reflection-allowed": "true",
                "reflector.v1.k8s.emberstack.com/reflection-auto-enabled": "true",
            },
        })
    };
    let map = |name: &str, key: &str, text: &str| {
        let data = json!({key: text});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name), "data": data})
    };
    let rules = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
                 pullSecrets: [{name: forged}]\nrules: [{name: forged, pullSecrets: [forged]}]\n";
    let mut forgeries = ["regcred", "forged"].map(|name| secret(name, &payload("forged")));
    for forgery in &mut forgeries {
        let name = forgery["metadata"]["name"].as_str().map(ToOwned::to_owned);
        forgery["metadata"] = metadata(&name.expect("it has one"));
    }
    let maps = [
        map(RULES, "rules.yaml", rules),
        map(INDEX, "index.json", r#"{"version":1,"rules":""}"#),
    ];
    forgeries.into_iter().chain(maps).collect()
}

/// Whatever the administrator of one namespace makes there, it changes nothing in another: sources, rules and
/// index are pullpass's own, whatever labels others give to theirs.
fn namespace_admin(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let (tenant, other) = (delivery.namespace("tenant"), delivery.namespace("other"));
    let before = delivery.until_copied(&other, "regcred", &payload("first"));
    delivery.until_copied(&tenant, "regcred", &payload("first"));
    let binding = json!({
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
    });
    let bindings = format!(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
        tenant.name
    );
    let bound = cluster.api.post(&bindings, &binding);
    bound.expect("it is new");
    let as_tenant = |arguments: &[&str], input: &str| {
        let who = ["--as=tenant", "--namespace", &tenant.name];
        let arguments = [&who, arguments].concat();
        cluster.kubectl.try_run(&arguments, input)
    };

    for forgery in forgeries(&delivery.instance()) {
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename=-",
        ];
        let applied = as_tenant(&apply, &forgery.to_string());
        applied.expect("it is the tenant's own namespace");
    }
    let own = &delivery.own().name;
    let forbidden: [&[&str]; 4] = [
        &["label", "namespace", &tenant.name, "team=other"],
        &["get", "secret", "regcred", "--namespace", own],
        &["get", "secret", "regcred", "--namespace", &other.name],
        &["get", "configmap", RULES, "--namespace", own],
    ];
    for arguments in forbidden {
        let error = as_tenant(arguments, "").expect_err(&arguments.join(" "));
        assert!(error.contains("orbidden"), "{error}");
    }

    // What comes after the forgeries goes its way, and nothing of them has.
    delivery.change_source("regcred", &payload("second"));
    for namespace in [&tenant, &other] {
        delivery.until_copied(namespace, "regcred", &payload("second"));
    }
    let secrets = other.list("secrets", "").expect("it is there");
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert_eq!(uid(&secrets[0]), uid(&before));
    let index = delivery.index().expect("it is published");
    let known = index["secrets"].as_object().expect("it knows secrets");
    assert_eq!(known.keys().collect::<Vec<_>>(), ["regcred"]);
}

fn foreign(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let good = delivery.namespace("good");
    delivery.until_copied(&good, "regcred", &payload("first"));
    let theirs = delivery.namespace("theirs");
    // As a namespace's own administrator would: take ours away, make one's own.
    delivery.until_copied(&theirs, "regcred", &payload("first"));
    let mine = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}});
    theirs
        .merge("secrets", "regcred", &mine)
        .expect("it is there");
    set_payload(&theirs, "regcred", &payload("mine"));
    let before = theirs.get("secrets", "regcred").expect("it is there");
    delivery.until_counted("regcred", "foreign", 1.0);
    delivery.until_said("CopyNotOurs", &theirs.name);
    assert_eq!(delivery.installation.events("CopyNotOurs").len(), 1);

    // One that fails Pods is in the index, as long as it is there.
    set_payload(&theirs, "regcred", UNDECODABLE);
    delivery.until_indexed("regcred", |secret| {
        secret["undecodableIn"] == json!([theirs.name])
    });
    delivery.change_source("regcred", &payload("second"));
    delivery.until_copied(&good, "regcred", &payload("second"));
    let after = theirs.get("secrets", "regcred").expect("it is there");
    assert_eq!(uid(&after), uid(&before));
    assert_eq!(
        after["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "me"
    );

    theirs.delete("secrets", "regcred").expect("it is there");
    delivery.until_copied(&theirs, "regcred", &payload("second"));
    delivery.until_indexed("regcred", |secret| secret.get("undecodableIn").is_none());
    delivery.until_counted("regcred", "foreign", 0.0);
}

/// Somebody makes a Secret of the same name, and even of the same content, at the very moment at which
/// the controller does. Whoever is first, keeps it.
fn race(cluster: &Cluster) {
    const RACERS: usize = 4;
    const ROUNDS: usize = 16;
    let delivery = Delivery::of_regcred(cluster);
    let first = payload("first");
    let theirs = at_once(RACERS, |racer| {
        let race = |round| {
            let name = delivery.name_of(&format!("race-{racer}-{round}"));
            let namespace = json!({"metadata": {"name": name}});
            let made = cluster.api.post("/api/v1/namespaces", &namespace);
            made.expect("the namespace is new");
            let secrets = format!("/api/v1/namespaces/{name}/secrets");
            // Some come at once, others when the controller is about to write or just has.
            for _ in 0..round {
                cluster.api.get(&secrets).expect("a list");
            }
            let made = cluster.api.post(&secrets, &secret("regcred", &first));
            (name, made.ok())
        };
        (0..ROUNDS).map(race).collect::<Vec<_>>()
    });
    let theirs = theirs.concat();
    let won = theirs.iter().filter(|(_, made)| made.is_some()).count();
    println!(
        "incident 7: somebody else was first in {won} of {} races",
        theirs.len()
    );
    for (name, made) in &theirs {
        let namespace = Namespace::existing(cluster, name);
        match made {
            None => drop(delivery.until_copied(&namespace, "regcred", &first)),
            Some(made) => {
                let now = namespace.get("secrets", "regcred").expect("it is there");
                assert_eq!((uid(&now), version(&now)), (uid(made), version(made)));
            }
        }
    }
    delivery.until_counted("regcred", "foreign", won as f64);
    // What the controller writes where it has seen nothing: refused, whatever the values are.
    let namespace = delivery.namespace_labelled("made", &json!({}));
    delivery.until_copied(&namespace, "regcred", &first);
    let mine = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}});
    let mine = namespace
        .merge("secrets", "regcred", &mine)
        .expect("it is there");
    let mut body = secret("regcred", &first);
    body["metadata"]["resourceVersion"] = json!("1");
    let path = format!(
        "/api/v1/namespaces/{}/secrets/regcred?fieldManager=pullpass-controller&force=true",
        namespace.name
    );
    let apply = "application/apply-patch+yaml";
    let answer = cluster
        .api
        .request("PATCH", &path, apply, Some(&body))
        .expect("an answer");
    assert_eq!(answer.status, 409, "{}", answer.body);
    let now = namespace.get("secrets", "regcred").expect("it is there");
    assert_eq!(version(&now), version(&mine));
}

/// Under the chart's admission policy, which limits what the controller may write.
fn immutable(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    delivery.fence(&json!({}));
    let frozen = delivery.namespace("frozen");
    let copy = delivery.until_copied(&frozen, "regcred", &payload("first"));
    frozen
        .merge("secrets", "regcred", &json!({"immutable": true}))
        .expect("it is there");
    // One of another type with our labels, as after a source that changed its type.
    let typed = delivery.namespace("typed");
    delivery.until_copied(&typed, "regcred", &payload("first"));
    let mut opaque = json!({"metadata": {"name": "regcred"}, "type": "Opaque"});
    opaque["metadata"]["labels"] = copy["metadata"]["labels"].clone();
    let until_opaque = || {
        typed.delete("secrets", "regcred").ok();
        typed.try_create("secrets", &opaque)
    };
    wait_for(
        "ours is replaced by one of a wrong type",
        HAPPY,
        until_opaque,
    );

    delivery.change_source("regcred", &payload("second"));
    let thawed = delivery.until_copied(&frozen, "regcred", &payload("second"));
    assert_ne!(uid(&thawed), uid(&copy), "its data could not be changed");
    let typed = delivery.until_copied(&typed, "regcred", &payload("second"));
    assert_eq!(typed["type"], "kubernetes.io/dockerconfigjson");
}

fn recreated(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let name = delivery.namespace("again").name;
    for _ in 0..2 {
        let namespace = Namespace::existing(cluster, &name);
        let copy = delivery.until_copied(&namespace, "regcred", &payload("first"));
        let path = format!("/api/v1/namespaces/{name}");
        cluster.api.delete(&path).expect("it is there");
        wait_for("the namespace is gone", ONE_BACK_OFF, || {
            match cluster.api.get(&path) {
                Ok(namespace) => Err(namespace["status"].to_string()),
                Err(_) => Ok(()),
            }
        });
        let again = delivery.namespace("again");
        let fresh = delivery.until_copied(&again, "regcred", &payload("first"));
        assert_ne!(uid(&fresh), uid(&copy));
    }
    let log = delivery.controller.log();
    // Of other things it may have to say something, such as of a slow API server.
    let is_loud = |line: &&str| line.contains("WARN") && line.contains(&*name);
    assert_eq!(log.lines().find(is_loud), None, "quietly");
}

fn labels_and_rules(cluster: &Cluster) {
    let labelled = "{name: regcred, namespaces: NAMESPACES, namespaceSelector: {matchLabels: {pull: \"yes\"}}}";
    let delivery = Delivery::start(cluster, &["regcred", "renamed"], labelled);
    delivery.make_source("regcred", &payload("first"));
    let namespace = delivery.namespace("a");
    let set_label = |value: &Value| {
        let path = format!("/api/v1/namespaces/{}", namespace.name);
        let patch = json!({"metadata": {"labels": {"pull": value}}});
        cluster.api.merge(&path, &patch).expect("it is there");
    };
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    namespace
        .get("secrets", "regcred")
        .expect_err("it has no label");
    set_label(&json!("yes"));
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    set_label(&Value::Null);
    delivery.until_gone(&namespace, "regcred");
    set_label(&json!("yes"));
    delivery.until_copied(&namespace, "regcred", &payload("first"));

    // Another name: the copies under the former one go.
    delivery.set_pull_secrets(&labelled.replace("regcred,", "regcred, secretName: renamed,"));
    delivery.until_copied(&namespace, "renamed", &payload("first"));
    delivery.until_gone(&namespace, "regcred");
    // No entry at all, noticed by a controller that never saw the former rules.
    delivery.controller.terminate();
    wait_for("it ends", HAPPY, || {
        delivery.controller.exit_code().ok_or_else(String::new)
    });
    delivery.set_pull_secrets("");
    let next = delivery.next_controller();
    delivery.until_gone(&namespace, "renamed");
    wait_for("nothing is left to be remembered", HAPPY, || {
        let index = delivery.index()?;
        index
            .get("delivered")
            .is_none()
            .then_some(())
            .ok_or_else(|| index.to_string())
    });
    drop(next);
}

fn broken_source(cluster: &Cluster) {
    let delivery = Delivery::start(
        cluster,
        &["regcred"],
        "{name: regcred, namespaces: NAMESPACES}",
    );
    let namespace = delivery.namespace("a");
    delivery.until_said("SourceMissing", "create secret docker-registry regcred");
    delivery.until_indexed("regcred", |secret| secret["state"] == "unusable");

    // Never usable: nothing is delivered.
    delivery.make_source(
        "regcred",
        "{\"auths\": {\"r.io\": {\"auth\": \"hunter2\"}}}",
    );
    delivery.until_said("SourceUnusable", "delete secret regcred");
    namespace
        .get("secrets", "regcred")
        .expect_err("nothing can be delivered");
    delivery.change_source("regcred", &payload("first"));
    let copy = delivery.until_copied(&namespace, "regcred", &payload("first"));
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    delivery.until_said("SourceUsable", "regcred");

    // Broken later: the copies keep the last good one, and webhooks know its keys.
    let is_stale = |secret: &Value| {
        secret["state"] == "stale" && secret["keys"] == json!(["registry.example.com"])
    };
    delivery.change_source("regcred", "{}");
    delivery.until_indexed("regcred", is_stale);
    delivery.until_counted("regcred", "stale", 1.0);
    delivery
        .own()
        .delete("secrets", "regcred")
        .expect("it is there");
    delivery.until_counted("regcred", "stale", 1.0);
    delivery.until_indexed("regcred", is_stale);
    let kept = delivery.until_copied(&namespace, "regcred", &payload("first"));
    assert_eq!(version(&kept), version(&copy));

    // Made again with another content.
    delivery.make_source("regcred", &payload("second"));
    let new = delivery.until_copied(&namespace, "regcred", &payload("second"));
    assert_eq!(uid(&new), uid(&copy));
    let notes = [
        delivery.installation.events("SourceUnusable"),
        vec![delivery.controller.log()],
    ];
    assert!(!notes.concat().concat().contains("hunter2"));
}

fn tenants(cluster: &Cluster) {
    let cloud = Namespace::create(cluster, "cloud", "none");
    cloud.create_object("secrets", &secret("shared-src", &payload("of the cloud")));
    let entries = format!(
        "{{name: cloud, secretName: shared, source: {{namespace: {}, secret: shared-src}}, namespaces: NAMESPACES}}, \
         {{name: a, secretName: regcred, namespaces: [OWN-a]}}, \
         {{name: b, secretName: regcred, namespaces: [OWN-b]}}",
        cloud.name
    );
    let delivery = Delivery::start(cluster, &["regcred", "shared", "shared-src"], "");
    delivery.set_pull_secrets(&entries.replace("OWN", &delivery.own().name));
    delivery.make_source("a", &payload("of a"));
    delivery.make_source("b", &payload("of b"));
    for tenant in ["a", "b"] {
        let namespace = delivery.namespace(tenant);
        delivery.until_copied(&namespace, "regcred", &payload(&format!("of {tenant}")));
        delivery.until_copied(&namespace, "shared", &payload("of the cloud"));
    }
    let third = delivery.namespace("c");
    delivery.until_copied(&third, "shared", &payload("of the cloud"));
    third
        .get("secrets", "regcred")
        .expect_err("it is nobody's there");
    cloud.delete("secrets", "shared-src").expect("it is there");
    delivery.until_said("SourceMissing", &format!("{}/shared-src", cloud.name));
    cloud.create_object("secrets", &secret("shared-src", &payload("renewed")));
    delivery.until_copied(&third, "shared", &payload("renewed"));
}

fn permission(cluster: &Cluster) {
    let entries =
        "{name: regcred, namespaces: NAMESPACES}, {name: ungranted, namespaces: NAMESPACES}";
    let delivery = Delivery::start(cluster, &["regcred"], entries);
    delivery.make_source("regcred", &payload("first"));
    delivery.make_source("ungranted", &payload("other"));
    let namespace = delivery.namespace("a");
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    delivery.until_said("PermissionMissing", "Add ungranted to delivery.secretNames");
    namespace
        .get("secrets", "ungranted")
        .expect_err("it must not be written");
    delivery.until_indexed("ungranted", |secret| secret["state"] == "usable");
}

fn adopted(cluster: &Cluster) {
    let delivery = Delivery::start(
        cluster,
        &["regcred"],
        "{name: regcred, namespaces: NAMESPACES, adopt: [titansoft, kyverno, {label: \"made=by-hand\"}]}",
    );
    // Before there is a source, so that they are there first.
    let made = [
        (
            "patched",
            json!({"annotations": {"app.kubernetes.io/managed-by": "imagepullsecret-patcher"}}),
        ),
        (
            "cloned",
            json!({"labels": {"app.kubernetes.io/managed-by": "kyverno"}}),
        ),
        ("labelled", json!({"labels": {"made": "by-hand"}})),
        (
            "reflected",
            json!({"annotations": {"reflector.v1.k8s.emberstack.com/reflects": "a/b"}}),
        ),
    ];
    let made = made.map(|(suffix, mut metadata)| {
        let namespace = delivery.namespace(suffix);
        metadata["name"] = json!("regcred");
        let mut object = secret("regcred", &payload("theirs"));
        object["metadata"] = metadata;
        let before = namespace.create_object("secrets", &object);
        (namespace, before)
    });
    delivery.make_source("regcred", &payload("first"));
    for (namespace, before) in made.iter().take(3) {
        let after = delivery.until_copied(namespace, "regcred", &payload("first"));
        assert_eq!(uid(&after), uid(before), "taken over in place");
    }
    delivery.until_counted("regcred", "foreign", 1.0);
    let (reflected, before) = &made[3];
    let now = reflected.get("secrets", "regcred").expect("it is there");
    assert_eq!(version(&now), version(before), "the entry does not say so");
}

fn off(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let first = delivery.namespace("first");
    delivery.until_copied(&first, "regcred", &payload("first"));
    delivery.controller.terminate();
    wait_for("it ends", HAPPY, || {
        delivery.controller.exit_code().ok_or_else(String::new)
    });
    let quiet = delivery
        .installation
        .controller(&["--certificates", "none"]);
    wait_for("the next one leads", HAPPY, || {
        let leads = quiet.metric("pullpass_leader");
        (leads == 1.0).then_some(()).ok_or_else(|| quiet.log())
    });
    let second = delivery.namespace("second");
    assert_eq!(
        quiet.metric("pullpass_watch_age_seconds{watch=\"copies\"}"),
        0.0
    );
    second
        .get("secrets", "regcred")
        .expect_err("delivery is off");
}

fn refused(cluster: &Cluster) {
    let delivery = Delivery::start(
        cluster,
        &["regcred"],
        "{name: regcred, namespaces: NAMESPACES}",
    );
    status::create_deployment(&delivery);
    let full = delivery.namespace("full");
    let quota = json!({"metadata": {"name": "full"}, "spec": {"hard": {"count/secrets": "0"}}});
    full.create_object("resourcequotas", &quota);
    wait_for("the quota is in force", HAPPY, || {
        let probe = full.try_create("secrets?dryRun=All", &secret("probe", &payload("x")));
        match probe {
            Err(error) if error.contains("exceeded quota") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    delivery.make_source("regcred", &payload("first"));
    let open = delivery.namespace("open");
    delivery.until_copied(&open, "regcred", &payload("first"));
    delivery.until_said("CopyRefused", "exceeded quota");
    delivery.until_counted("regcred", "failing", 1.0);
    let said = status::ask(cluster, &delivery, &["status"]);
    let missing = &said.report["pull_secrets"][0]["copies"]["missing"];
    assert_eq!(*missing, json!([full.name]), "{}", said.text());
    assert_eq!(said.code, Some(1), "{}", said.text());
    let more = json!({"spec": {"hard": {"count/secrets": "5"}}});
    full.merge("resourcequotas", "full", &more)
        .expect("it is there");
    let what = "the copy, after the longest pause at most";
    wait_for(what, NEXT_MINUTE, || full.get("secrets", "regcred"));
    delivery.until_counted("regcred", "failing", 0.0);
    assert_eq!(delivery.installation.events("CopyRefused").len(), 1);
}

fn leaders(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let next = delivery.next_controller();
    let made: Vec<_> = (0..3).map(|n| delivery.namespace(&n.to_string())).collect();
    let until_copied = |namespace: &Namespace<'_>, password: &str| {
        delivery.until_copied(namespace, "regcred", &payload(password))
    };
    let before: Vec<_> = made
        .iter()
        .map(|namespace| until_copied(namespace, "first"))
        .collect();
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    let index = delivery
        .own()
        .get("configmaps", INDEX)
        .expect("it is published");
    delivery.controller.terminate();
    next.until_leading();
    // If the first one was slow, it has stood in.
    let copies = || next.metric("pullpass_writes_total{object=\"copy\"}");
    let stood_in = copies();
    // It works, and what was there is as it was.
    let fresh = delivery.namespace("fresh");
    until_copied(&fresh, "first");
    for (namespace, before) in made.iter().zip(&before) {
        let now = namespace.get("secrets", "regcred").expect("it is there");
        assert_eq!(version(&now), version(before));
    }
    let now = delivery
        .own()
        .get("configmaps", INDEX)
        .expect("it is published");
    assert_eq!(version(&now), version(&index));
    until_counts("copies written", stood_in + 1.0, copies);
    assert_eq!(next.metric("pullpass_writes_total{object=\"index\"}"), 0.0);
}

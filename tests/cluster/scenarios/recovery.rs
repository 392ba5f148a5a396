//! Pods that wait for an image and that a restart would fix: `pullpass recover`, and a controller that does it by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::IMAGE;
use super::explain::Trial;
use super::status::{ask, deployment};
use crate::harness::cluster::Cluster;
use crate::harness::controller::{Controller, RULES};
use crate::harness::delivery::{Delivery, RECOVERS, payload};
use crate::harness::namespace::{Namespace, pod, unscheduled_pod};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, until_counts, wait_for};
use crate::harness::webhook::{Reach, Registration};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "recovery_of_a_deployment_under_a_budget_and_of_nobody_else",
        by_hand,
    );
    trials.node(
        "recovery_by_itself_under_a_budget_and_of_nobody_else",
        by_itself,
    );
    trials.api("recovery_by_itself_holds_back", holds_back);
}

/// Names and uids of Pods.
type Pods = BTreeMap<String, String>;

/// The Pods of a namespace.
fn pods(team: &Namespace<'_>) -> Result<Pods, String> {
    Ok(team.list("pods", "")?.iter().map(named).collect())
}

fn named(pod: &Value) -> (String, String) {
    let text = |field: &str| {
        pod["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (text("name"), text("uid"))
}

/// A Deployment of two Pods that takes none away before its successor runs.
fn careful_deployment(image: &str) -> Value {
    let mut deployment = deployment(image);
    deployment["spec"]["replicas"] = json!(2);
    deployment["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
    deployment
}

/// Two Pods of `deployment/web` that run, two newer ones of it that wait for an image, and `alone`, which waits too.
/// Nobody may go below two.
fn make_pods(cluster: &Cluster, team: &Namespace<'_>) {
    let kit = cluster.registries();
    let public = careful_deployment(&kit.fresh_public("recover/web")).to_string();
    team.kubectl(&["apply", "-f", "-"], &public);
    team.kubectl(
        &["rollout", "status", "deployment/web", "--timeout=60s"],
        "",
    );
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    });
    team.kubectl(&["create", "-f", "-"], &budget.to_string());
    until_budget_holds(team);
    let private = kit.fresh(ALPHA.host, "recover/web");
    team.kubectl(
        &["apply", "-f", "-"],
        &careful_deployment(&private).to_string(),
    );
    team.create_object("pods", &pod("alone", &[("app", &private)]));
}

/// Waits until the budget is full, and sees it refuse to let one go that runs.
#[track_caller]
fn until_budget_holds(team: &Namespace<'_>) {
    wait_for("no disruption is allowed", HAPPY, || {
        let status = &team.read("pdb", "web")["status"];
        let is_full = status["currentHealthy"] == 2 && status["disruptionsAllowed"] == 0;
        is_full.then_some(()).ok_or_else(|| status.to_string())
    });
    let pods = pods(team).expect("they can be listed");
    let name = pods.keys().next().expect("two of them run");
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let refused = team.try_create(&format!("pods/{name}/eviction"), &eviction);
    let refused = refused.expect_err("it would be below the budget");
    assert!(refused.contains("disruption budget"), "{refused}");
}

/// Waits until both Pods of `deployment/web` are new ones that run, and holds that it never has less than two.
#[track_caller]
fn until_web_runs(team: &Namespace<'_>) {
    wait_for("the new ones run", ONE_BACK_OFF, || {
        let status = &team.read("deployment", "web")["status"];
        let available = status["availableReplicas"].as_u64().unwrap_or_default();
        assert!(available >= 2, "below the budget: {status}");
        let is_done = status["updatedReplicas"] == 2 && status["replicas"] == 2;
        is_done.then_some(()).ok_or_else(|| status.to_string())
    });
}

fn by_hand(cluster: &Cluster) {
    let trial = Trial::start(cluster);
    let team = &trial.team;
    make_pods(cluster, team);
    trial.make_rule();
    let recover = |words: &[&str]| ask(cluster, &trial.delivery, words);
    let listed = ["recover", "--in", &team.name];
    let seen = wait_for("three are stuck", ONE_BACK_OFF, || {
        let said = recover(&listed);
        let stuck = said.report["pods"].as_array().map_or(0, Vec::len);
        (stuck == 3)
            .then_some(said.report.clone())
            .ok_or_else(|| said.text())
    });
    let fate = |pod: &Value| (pod["owner"].clone(), pod["fate"].clone());
    let rows = seen["pods"].as_array().expect("it was counted");
    let mut fates: Vec<_> = rows.iter().map(fate).collect();
    fates.sort_by_key(|(owner, _)| owner.to_string());
    let web = (json!("deployment/web"), json!("evictable"));
    assert_eq!(fates, [web.clone(), web, (Value::Null, json!("left"))]);
    let before = pods(team).expect("they can be listed");
    assert_eq!(before.len(), 5, "{before:?}");
    assert_eq!(recover(&["status", "--stuck"]).code, Some(1));
    assert_eq!(recover(&listed).code, Some(1));
    assert_eq!(
        pods(team).as_ref(),
        Ok(&before),
        "a dry run changes nothing"
    );

    let started = Instant::now();
    let done = std::thread::scope(|scope| {
        let yes = [&listed[..], &["--yes", "--per-minute", "20"]].concat();
        let recovering = scope.spawn(move || recover(&yes));
        until_web_runs(team);
        recovering.join().expect("it does not panic")
    });
    let evicted = done.report["pods"].as_array().into_iter().flatten();
    let evicted = evicted.filter(|pod| pod["fate"] == "evicted");
    assert_eq!(evicted.count(), 2, "{}", done.text());
    assert!(started.elapsed() >= Duration::from_secs(3), "20 a minute");
    let after = pods(team).expect("they can be listed");
    assert_eq!(after.get("alone"), before.get("alone"));
    let left = recover(&listed);
    let only = left.report["pods"].as_array().map(Vec::as_slice);
    assert!(
        matches!(only, Some([pod]) if pod["pod"] == "alone"),
        "{}",
        left.text()
    );
    assert_eq!(left.code, Some(1));
}

/// Pods that the kubelet says it has no image for.
fn without_image(team: &Namespace<'_>) -> Result<Pods, String> {
    let waits = |pod: &Value| {
        let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    };
    let pods = team.list("pods", "")?;
    Ok(pods.iter().filter(|pod| waits(pod)).map(named).collect())
}

const EVICTED: &str = "pullpass_recoveries_total{outcome=\"evicted\"}";

/// Waits until the controller says that it evicted so many, and no more; and holds that nothing came to nothing.
#[track_caller]
fn until_evicted(controller: &Controller, count: u32) {
    until_counts(EVICTED, f64::from(count), || controller.metric(EVICTED));
    for outcome in ["refused", "failed"] {
        let metric = format!("pullpass_recoveries_total{{outcome=\"{outcome}\"}}");
        assert_eq!(controller.metric(&metric), 0.0, "{metric}");
    }
}

fn by_itself(cluster: &Cluster) {
    let trial = Trial::of(cluster, Delivery::recovering(cluster));
    let (team, controller) = (&trial.team, &trial.delivery.controller);
    let stands_in = trial.delivery.installation.controller(RECOVERS);
    make_pods(cluster, team);
    let waiting = wait_for("three wait for their image", ONE_BACK_OFF, || {
        let waiting = without_image(team)?;
        let is_so = waiting.len() == 3;
        is_so
            .then_some(waiting.clone())
            .ok_or_else(|| format!("{waiting:?}"))
    });
    let before = pods(team).expect("they can be listed");
    assert_eq!(
        before.len(),
        5,
        "without a rule nobody is evicted: {before:?}"
    );
    trial.make_rule();
    until_web_runs(team);
    let both = || controller.metric(EVICTED) + stands_in.metric(EVICTED);
    until_counts(EVICTED, 2.0, both);
    let after = pods(team).expect("they can be listed");
    assert_eq!(after.get("alone"), before.get("alone"));
    assert!(after.contains_key("alone"), "{after:?}");

    let events = wait_for("both evictions are Events", HAPPY, || {
        let events = team.events_of("EvictedForPullSecret");
        (events.len() == 2)
            .then_some(events.clone())
            .ok_or_else(|| format!("{events:?}"))
    });
    let mut evicted = waiting;
    evicted.remove("alone");
    for event in &events {
        let regarding = &event["regarding"];
        let name = regarding["name"].as_str().unwrap_or_default();
        assert_eq!(
            evicted.remove(name).map(Value::from).as_ref(),
            Some(&regarding["uid"])
        );
        let note = "evicted: it cannot pull, and made anew it gets regcred";
        assert_eq!(event["note"], note);
    }
    // On a machine that is slow enough, the Lease is lost.
    assert!(
        stands_in.metric(EVICTED) == 0.0 || stands_in.terms() > 0,
        "who stands in evicts nobody"
    );
}

/// A workload of Pods that no node takes, so that a trial may say how they are.
fn workload(kind: &str, name: &str, replicas: u32) -> String {
    let labels = json!({"app": name});
    let mut spec = unscheduled_pod(name, &[("app", IMAGE)])["spec"].take();
    let (version, count) = match kind {
        "Job" => ("batch/v1", "parallelism"),
        _ => ("apps/v1", "replicas"),
    };
    if kind == "Job" {
        spec["restartPolicy"] = json!("Never");
    }
    let mut object = json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": spec}},
    });
    object["spec"][count] = json!(replicas);
    if kind != "Job" {
        object["spec"]["selector"] = json!({"matchLabels": labels});
    }
    object.to_string()
}

/// The Pods of a workload, once there are so many that are no longer `before`.
#[track_caller]
fn until_made(team: &Namespace<'_>, app: &str, count: usize, before: &Pods) -> Pods {
    wait_for(&format!("{count} new Pods of {app}"), HAPPY, || {
        let pods = team.list("pods", &format!("labelSelector=app%3D{app}"))?;
        let pods: Pods = pods.iter().map(named).collect();
        let is_new = !pods.keys().any(|name| before.contains_key(name));
        (pods.len() == count && is_new)
            .then_some(pods.clone())
            .ok_or_else(|| format!("{pods:?}"))
    })
}

/// Says of Pods what a kubelet says that has no image for them; beside it runs what is in `besides`.
fn make_stuck(team: &Namespace<'_>, pods: &Pods, besides: &[&str]) {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "401 Unauthorized"}});
    let running = besides.iter().map(|name| (*name, json!({"running": {}})));
    let states = [("app", waiting)].into_iter().chain(running);
    set_status(team, pods, "Pending", states);
}

/// Says of Pods what a kubelet says that runs them.
fn make_running(team: &Namespace<'_>, pods: &Pods) {
    set_status(team, pods, "Running", [("app", json!({"running": {}}))]);
}

fn set_status<'n>(
    team: &Namespace<'_>,
    pods: &Pods,
    phase: &str,
    states: impl IntoIterator<Item = (&'n str, Value)>,
) {
    let status = |(name, state)| {
        json!({"name": name, "image": IMAGE, "imageID": "", "ready": false,
               "restartCount": 0, "state": state})
    };
    let statuses: Vec<Value> = states.into_iter().map(status).collect();
    let patch = json!({"status": {"phase": phase, "containerStatuses": statuses}});
    for name in pods.keys() {
        let patched = team.merge("pods", &format!("{name}/status"), &patch);
        patched.expect("the Pod is there");
    }
}

/// Makes a workload whose Pods are stuck, and gives them.
fn stuck(team: &Namespace<'_>, kind: &str, name: &str, count: u32) -> Pods {
    team.kubectl(&["create", "-f", "-"], &workload(kind, name, count));
    let pods = until_made(team, name, count as usize, &Pods::new());
    make_stuck(team, &pods, &[]);
    pods
}

/// Does something, and waits until the controller says that it evicts nobody because of it.
#[track_caller]
fn until_held(controller: &Controller, reason: &str, act: impl FnOnce()) {
    let said = || {
        let log = controller.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("no Pod is recovered"));
        lines.filter(|line| line.contains(reason)).count()
    };
    let before = said();
    act();
    wait_for(&format!("nobody is evicted: {reason}"), HAPPY, || {
        (said() > before)
            .then_some(())
            .ok_or_else(|| controller.log())
    });
}

/// By API server alone: nobody answers at the webhook's URL, so that Pods that are made anew get nothing.
fn holds_back(cluster: &Cluster) {
    let delivery = Delivery::recovering(cluster);
    let (own, controller) = (delivery.own(), &delivery.controller);
    let registration = Registration {
        name: own.name.clone(),
        ..Registration::pullpass(
            &own.name,
            Reach::Url("https://127.0.0.1:1/mutate".to_owned()),
        )
    };
    delivery.installation.delete_configuration();
    registration.create(cluster);
    delivery.make_source("regcred", &payload("first"));
    delivery.set_pull_secrets("{name: regcred, namespaces: NAMESPACES}");
    let labels = json!({"pullpass-test": own.name});
    let team = delivery.namespace_labelled("team", &labels);
    delivery.until_copied(&team, "regcred", &payload("first"));
    // The same elsewhere, where nobody asked for it.
    let off = Delivery::of_regcred(cluster);
    let quiet = off.namespace_labelled("team", &json!({"pullpass-test": off.own().name}));
    off.until_copied(&quiet, "regcred", &payload("first"));
    let quiet_pods = stuck(&quiet, "Deployment", "web", 1);

    let first = stuck(&team, "Deployment", "first", 1);
    until_made(&team, "first", 1, &first);
    until_evicted(controller, 1);

    // Each says of a look that it was after those before: while it is so, nobody is evicted.
    let no_webhook = || delivery.installation.delete_configuration();
    until_held(controller, "does not exist", no_webhook);
    let left = make_who_is_left(&team);
    let web = stuck(&team, "Deployment", "web", 2);
    let rules = own.get("configmaps", RULES).expect("it is there")["data"].take();
    let set_rules = |data: Value| {
        let set = own.merge("configmaps", RULES, &json!({"data": data}));
        set.expect("it is there");
    };
    let broken = json!({"rules.yaml": "rules: none"});
    until_held(controller, "are not in use", || set_rules(broken));
    until_held(controller, "does not exist", || set_rules(rules));
    assert_eq!(
        until_made(&team, "web", 2, &Pods::new()),
        web,
        "there was no webhook, and then no rules"
    );
    registration.create(cluster);
    until_evicted(controller, 2);
    // A look that finds somebody else's after them, by name, has found them too.
    let pause = stuck(&team, "Deployment", "x-pause", 1);
    until_made(&team, "x-pause", 1, &pause);
    until_evicted(controller, 3);
    let first = after_the_first(&team, &web);
    make_running(&team, &first);
    let anew = until_made(&team, "web", 2, &web);
    until_evicted(controller, 4);

    // Those that are made anew wait again.
    make_stuck(&team, &anew, &[]);
    let other = stuck(&team, "Deployment", "x-worker", 1);
    until_made(&team, "x-worker", 1, &other);
    until_evicted(controller, 5);
    assert_eq!(until_made(&team, "web", 2, &web), anew, "not in a loop");

    let there = pods(&team).expect("they can be listed");
    let are_left = left.iter().all(|(name, uid)| there.get(name) == Some(uid));
    assert!(are_left, "{left:?}, but there are {there:?}");
    assert_eq!(
        pods(&quiet).as_ref(),
        Ok(&quiet_pods),
        "nobody asked for it"
    );
    assert_eq!(off.controller.metric(EVICTED), 0.0);
}

/// Which of the Pods of `web` was made anew: one, while the other waits for it to run.
#[track_caller]
fn after_the_first(team: &Namespace<'_>, web: &Pods) -> Pods {
    let mut pods = until_made(team, "web", 2, &Pods::new());
    pods.retain(|name, _| !web.contains_key(name));
    assert_eq!(pods.len(), 1, "the first goes alone: {pods:?}");
    pods
}

/// Makes a Pod of a Job, one that nobody makes anew, and one of which a container runs.
fn make_who_is_left(team: &Namespace<'_>) -> Pods {
    let mut left = stuck(team, "Job", "once", 1);
    let alone = team.create_object("pods", &unscheduled_pod("alone", &[("app", IMAGE)]));
    let alone = Pods::from([named(&alone)]);
    make_stuck(team, &alone, &[]);
    team.kubectl(&["create", "-f", "-"], &workload("Deployment", "partly", 1));
    let partly = until_made(team, "partly", 1, &Pods::new());
    make_stuck(team, &partly, &["side"]);
    left.extend(alone);
    left.extend(partly);
    left
}

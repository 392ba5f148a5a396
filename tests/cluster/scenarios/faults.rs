//! Delivery while something else is broken: watches, connections, the API server, a second controller. All
//! is as it should be afterwards, and nothing was hammered meanwhile.

use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::harness::clock::Clock;
use crate::harness::cluster::Cluster;
use crate::harness::controller::LEASE;
use crate::harness::delivery::{DELIVERS, Delivery, at_once, payload, secret};
use crate::harness::gateway::{Gateway, expired_watch, refusal};
use crate::harness::namespace::Namespace;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, until_counts, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "delivery_fault_incident_36_a_silent_cut_is_noticed_and_made_up_for",
        cut,
    );
    trials.api(
        "delivery_fault_incident_35_changes_while_the_api_server_is_away",
        restarted,
    );
    trials.api(
        "delivery_fault_incident_36_watches_that_are_gone_list_again",
        gone,
    );
    trials.api(
        "delivery_fault_incident_25_a_storm_of_429_loses_nothing",
        too_many_requests,
    );
    trials.api(
        "delivery_fault_incident_34_two_controllers_at_once_do_not_fight",
        two_leaders,
    );
    trials.api(
        "delivery_fault_who_stands_in_and_is_elected_finishes_its_write",
        elected,
    );
    trials.api("delivery_fault_a_stepped_clock_changes_nothing", stepped);
    trials.api(
        "delivery_fault_incident_07_two_releases_share_namespaces_and_a_name",
        two_releases,
    );
    trials.api(
        "delivery_fault_incident_07_foreign_secrets_of_every_kind_are_left_alone",
        foreign_kinds,
    );
}

/// Namespaces of a trial.
const NAMESPACES: usize = 10;

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].to_string()
}

/// Makes so many namespaces in one go.
fn namespaces<'a>(delivery: &Delivery<'a>, prefix: &str) -> Vec<Namespace<'a>> {
    at_once(NAMESPACES, |index| {
        delivery.namespace(&format!("{prefix}-{index}"))
    })
}

/// Waits until all hold a copy with this password; gives their versions.
#[track_caller]
fn until_all_hold(
    delivery: &Delivery<'_>,
    namespaces: &[Namespace<'_>],
    password: &str,
) -> Vec<String> {
    let payload = payload(password);
    let copies = namespaces.iter().map(|namespace| {
        delivery.until_copied_within(namespace, "regcred", &payload, ONE_BACK_OFF)
    });
    copies.map(|copy| version(&copy)).collect()
}

/// Each watch is told three times that its version is too old, by the head of an answer and inside one.
fn gone(cluster: &Cluster) {
    const TIMES: usize = 3;
    let gateway = Gateway::start(cluster, |call, before| {
        let is_spoiled = call.is_watch() && before < TIMES;
        is_spoiled.then(|| match before % 2 {
            0 => refusal(410, "Expired", ""),
            _ => expired_watch(),
        })
    });
    let delivery = Delivery::of_regcred_at(cluster, gateway.api());
    let made = namespaces(&delivery, "gone");
    until_all_hold(&delivery, &made, "first");
    delivery.change_source("regcred", &payload("second"));
    until_all_hold(&delivery, &made, "second");
    // A list each time, and then the watch that stays.
    let asked = |is_watch: bool| {
        gateway.count(|call| {
            let is_of_copies =
                call.path == "/api/v1/secrets" && call.query.contains("metadata.name%3Dregcred");
            // Not the further pages of a list, for which other trials care.
            is_of_copies && call.is_watch() == is_watch && !call.query.contains("continue=")
        })
    };
    wait_for("the watch stays", HAPPY, || {
        let (lists, watches) = (asked(false), asked(true));
        assert!(lists <= TIMES + 1, "{lists} lists");
        (watches > TIMES)
            .then_some(())
            .ok_or_else(|| format!("{lists} lists, {watches} watches"))
    });
    assert_eq!(asked(false), TIMES + 1);
    delivery.until_wrote(2 * NAMESPACES);
}

/// Both ends believe that their connection is fine, and nothing comes through any more.
fn cut(cluster: &Cluster) {
    let gateway = Gateway::start(cluster, |_, _| None);
    let delivery = Delivery::of_regcred_at(cluster, gateway.api());
    let before = namespaces(&delivery, "before");
    until_all_hold(&delivery, &before, "first");
    gateway.cut();
    let start = Instant::now();
    delivery.change_source("regcred", &payload("second"));
    let meanwhile = namespaces(&delivery, "meanwhile");
    before[0].delete("secrets", "regcred").expect("it is there");
    wait_for("it can no longer hold its Lease", ONE_BACK_OFF, || {
        let leads = delivery.controller.metric("pullpass_leader");
        (leads == 0.0)
            .then_some(())
            .ok_or_else(|| delivery.controller.log())
    });
    println!(
        "cut silently: no longer leading after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    gateway.heal();
    let healed = Instant::now();
    for namespaces in [&before, &meanwhile] {
        until_all_hold(&delivery, namespaces, "second");
    }
    println!(
        "cut silently: all as it should be {:.1} s after the cut, {:.1} s after its end",
        start.elapsed().as_secs_f64(),
        healed.elapsed().as_secs_f64()
    );
    // Two for each of the old, of which one was deleted once; one for each of the new, and another one if
    // its namespace was listed before the source, so that it held the former content for a moment.
    let writes = wait_for("all writes are counted", HAPPY, || {
        let writes = delivery.writes();
        (writes >= 3.0 * NAMESPACES as f64)
            .then_some(writes)
            .ok_or_else(|| writes.to_string())
    });
    assert!(writes <= 4.0 * NAMESPACES as f64, "{writes}");
}

/// Whatever was made, changed and deleted while its API server was away is made up for.
fn restarted(cluster: &Cluster) {
    let (process, api) = cluster.another_api_server();
    let delivery = Delivery::of_regcred_at(cluster, &api);
    let before = namespaces(&delivery, "before");
    until_all_hold(&delivery, &before, "first");
    drop(process);
    let meanwhile = namespaces(&delivery, "meanwhile");
    delivery.change_source("regcred", &payload("second"));
    before[0].delete("secrets", "regcred").expect("it is there");
    let ended = format!("/api/v1/namespaces/{}", before[1].name);
    cluster.api.delete(&ended).expect("it is there");
    let start = Instant::now();
    let _again = cluster.api_server_again(&api);
    let ready = start.elapsed();
    for namespaces in [&before[..1], &before[2..], &meanwhile] {
        until_all_hold(&delivery, namespaces, "second");
    }
    println!(
        "API server restarted in {:.1} s: all as it should be {:.1} s later",
        ready.as_secs_f64(),
        (start.elapsed() - ready).as_secs_f64()
    );
    delivery.until_counted("regcred", "missing", 0.0);
    delivery.until_counted("regcred", "stale", 0.0);
}

/// Every call, whatever it is, is refused some times before it is let through.
fn too_many_requests(cluster: &Cluster) {
    const TIMES: usize = 4;
    let gateway = Gateway::start(cluster, |_, before| {
        (before < TIMES).then(|| refusal(429, "TooManyRequests", "Retry-After: 1\r\n"))
    });
    let delivery = Delivery::of_regcred_at(cluster, gateway.api());
    let made = namespaces(&delivery, "storm");
    until_all_hold(&delivery, &made, "first");
    let prefix = format!("/api/v1/namespaces/{}", delivery.name_of("storm"));
    let calls = gateway.count(|call| call.path.starts_with(&prefix));
    println!("429: {NAMESPACES} copies, each refused {TIMES} times, took {calls} calls");
    assert_eq!(calls, NAMESPACES * (TIMES + 1));
    delivery.until_wrote(NAMESPACES);
    delivery.until_counted("regcred", "failing", 0.0);
    assert_eq!(delivery.installation.events("CopyRefused").len(), 0);
}

/// Two that both believe to lead, as after a Lease was taken from one that did not notice.
fn two_leaders(cluster: &Cluster) {
    const OTHER_LEASE: &str = "split";
    let delivery = Delivery::of_regcred_at(cluster, &cluster.api);
    delivery.installation.grant_lease(OTHER_LEASE);
    let arguments = [DELIVERS, &["--lease", OTHER_LEASE]].concat();
    let other = delivery.installation.controller(&arguments);
    other.until_leading();
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    let writes = |object: &str| {
        let series = format!("pullpass_writes_total{{object=\"{object}\"}}");
        delivery.controller.metric(&series) + other.metric(&series)
    };

    let made = namespaces(&delivery, "shared");
    let first = until_all_hold(&delivery, &made, "first");
    delivery.change_source("regcred", &payload("second"));
    let second = until_all_hold(&delivery, &made, "second");
    assert!(first.iter().all(|version| !second.contains(version)));
    made[0].delete("secrets", "regcred").expect("it is there");
    let put_back = until_all_hold(&delivery, &made[..1], "second");
    // Whatever they still had to say to each other, they said before this.
    let last = delivery.namespace("last");
    delivery.until_copied(&last, "regcred", &payload("second"));
    let now = until_all_hold(&delivery, &made, "second");
    assert_eq!(now, [&put_back[..], &second[1..]].concat());

    // One write for each thing that happened, whoever it was. The index was made, usable, and of another
    // source: each may have been said once more by the other one, unchanged.
    let written = wait_for("all is counted", HAPPY, || {
        let written = (writes("copy"), writes("index"));
        assert!(written.1 <= 6.0, "{written:?}");
        let is_all = written.0 == 2.0 * NAMESPACES as f64 + 2.0 && written.1 >= 2.0;
        is_all
            .then_some(written)
            .ok_or_else(|| format!("{written:?}"))
    });
    println!(
        "two controllers: {} writes of copies, {} of the index",
        written.0, written.1
    );
    let [one, other] = [LEASE, OTHER_LEASE].map(|name| delivery.installation.lease(name));
    let holder = |lease: &Value| lease["spec"]["holderIdentity"].clone();
    assert_ne!(holder(&one), holder(&other), "then they are not two");
}

/// The leader dies, and who stands in is elected in the middle of a write: that is neither cut off nor done again.
fn elected(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    let own = format!("/api/v1/namespaces/{}", delivery.own().name);
    let write = format!(
        "/api/v1/namespaces/{}/secrets/regcred",
        delivery.name_of("a")
    );
    let (let_go, held) = mpsc::channel::<()>();
    let (held, is_held) = (Mutex::new(held), write.clone());
    let gateway = Gateway::start(cluster, move |call, before| {
        if call.path == is_held && before == 0 {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner);
            // An error says that the trial is over.
            block_in_place(|| held.recv().ok());
        }
        None
    });
    let next = delivery.installation.controller_at(gateway.api(), DELIVERS);
    let calls = |path: &str, is_watch: bool| {
        gateway.count(|call| call.path == path && call.is_watch() == is_watch)
    };
    wait_for("the next one has seen everything", HAPPY, || {
        let secrets = format!("{own}/secrets");
        let watched = ["/api/v1/namespaces", "/api/v1/secrets", &secrets];
        let maps = calls(&format!("{own}/configmaps"), true);
        let watches = watched.map(|path| calls(path, true));
        let is_all = watches.iter().all(|count| *count > 0) && maps > 1;
        is_all
            .then_some(())
            .ok_or_else(|| format!("{watches:?} {maps}"))
    });

    delivery.controller.kill();
    let namespace = delivery.namespace("a");
    let until_written = |what: &str| {
        until_counts(what, 1.0, || calls(&write, false) as f64);
    };
    until_written("writes of who stands in");
    let held = Instant::now();
    let lease = delivery.installation.lease_path(LEASE);
    let free = json!({"spec": {"holderIdentity": null}});
    cluster.api.merge(&lease, &free).expect("it is there");
    next.until_leading();
    // A call that takes longer than ten seconds is given up, and made again.
    let is_in_time = held.elapsed() < Duration::from_secs(8);
    let_go.send(()).expect("the gateway listens");
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    until_counts("copies written", 1.0, || {
        next.metric("pullpass_writes_total{object=\"copy\"}")
    });
    match is_in_time {
        true => until_written("writes of both"),
        false => println!("held for too long: how many calls it took is not looked at"),
    }
}

/// The wall clock jumps an hour forward, and two back: whoever leads goes on leading and delivering.
fn stepped(cluster: &Cluster) {
    let clock = Clock::new();
    let delivery = Delivery::of_regcred_with_clock(cluster, &clock);
    let made = namespaces(&delivery, "stepped");
    until_all_hold(&delivery, &made, "first");
    let lease = || delivery.installation.lease(LEASE)["spec"].clone();
    let held = lease();
    for (hours, password) in [(1, "second"), (-1, "third")] {
        clock.set(hours * 3600);
        // Or nothing would be shown.
        wait_for("the controller goes by the new time", ONE_BACK_OFF, || {
            let renewed = lease()["renewTime"].to_string();
            let at: Result<Timestamp, _> = renewed.trim_matches('"').parse();
            let off =
                at.map_err(|error| error.to_string())?.as_second() - Timestamp::now().as_second();
            ((off - hours * 3600).abs() < 1800)
                .then_some(())
                .ok_or(renewed)
        });
        delivery.change_source("regcred", &payload(password));
        until_all_hold(&delivery, &made, password);
    }
    delivery.until_wrote(3 * NAMESPACES);
    for part in ["holderIdentity", "leaseTransitions"] {
        assert_eq!(lease()[part], held[part], "somebody else led");
    }
}

/// Whoever was first in a namespace keeps it, and the other one says so, until the first lets it go.
fn two_releases(cluster: &Cluster) {
    let one = Delivery::start(cluster, &["regcred"], "");
    let other = Delivery::start(cluster, &["regcred"], "");
    for release in [&one, &other] {
        release.controller.until_leading();
    }
    let places = format!("\"{}-*\", \"{}-*\"", one.own().name, other.own().name);
    let entry = |excluded: &str| {
        format!("{{name: regcred, namespaces: [{places}], excludeNamespaces: [{excluded}]}}")
    };
    let (of_one, of_other) = (one.namespace("place"), other.namespace("place"));
    one.set_pull_secrets(&entry(&of_other.name));
    other.set_pull_secrets(&entry(&of_one.name));
    one.make_source("regcred", &payload("of one"));
    other.make_source("regcred", &payload("of the other"));
    let before = one.until_copied(&of_one, "regcred", &payload("of one"));
    other.until_copied(&of_other, "regcred", &payload("of the other"));

    for release in [&one, &other] {
        release.set_pull_secrets(&entry(""));
        release.until_counted("regcred", "foreign", 1.0);
        release.until_counted("regcred", "present", 1.0);
    }
    one.until_said("CopyNotOurs", &of_other.name);
    other.until_said("CopyNotOurs", &of_one.name);
    // A rotation reaches one's own only.
    other.change_source("regcred", &payload("of the other, renewed"));
    other.until_copied(&of_other, "regcred", &payload("of the other, renewed"));
    let now = one.until_copied(&of_one, "regcred", &payload("of one"));
    assert_eq!(version(&now), version(&before));
    one.until_wrote(1);
    other.until_wrote(2);

    // One leaves: its copy goes, the other's stays, and the other follows.
    one.set_pull_secrets("");
    other.until_copied(&of_one, "regcred", &payload("of the other, renewed"));
    other.until_copied(&of_other, "regcred", &payload("of the other, renewed"));
    other.until_counted("regcred", "present", 2.0);
}

/// Somebody else's Secrets that are there first, of every type, usable or not.
fn foreign_kinds(cluster: &Cluster) {
    let delivery = Delivery::start(
        cluster,
        &["regcred"],
        "{name: regcred, namespaces: NAMESPACES}",
    );
    let of_type = |kind: &str, data: Value| json!({"metadata": {"name": "regcred"}, "type": kind, "stringData": data});
    let mut immutable = secret("regcred", &payload("theirs"));
    immutable["immutable"] = json!(true);
    let kinds = [
        ("opaque", of_type("Opaque", json!({"password": "theirs"}))),
        (
            "dockercfg",
            of_type(
                "kubernetes.io/dockercfg",
                json!({".dockercfg": "{\"r.io\": {\"auth\": \"hunter2\"}}"}),
            ),
        ),
        ("immutable", immutable),
    ];
    let theirs = kinds.map(|(suffix, object)| {
        let namespace = delivery.namespace(suffix);
        let made = namespace.create_object("secrets", &object);
        (namespace, made)
    });
    delivery.make_source("regcred", &payload("first"));
    let ours = delivery.namespace("ours");
    delivery.until_copied(&ours, "regcred", &payload("first"));
    delivery.until_counted("regcred", "foreign", theirs.len() as f64);
    delivery.until_said("CopyNotOurs", &theirs[0].0.name);
    // The kubelet would fail a Pod that names it; the others it passes over, or reads.
    delivery.until_indexed("regcred", |secret| {
        secret["undecodableIn"] == json!([theirs[1].0.name])
    });
    for (namespace, made) in &theirs {
        let now = namespace.get("secrets", "regcred").expect("it is there");
        assert_eq!(version(&now), version(made), "{}", namespace.name);
        namespace.delete("secrets", "regcred").expect("it is there");
        delivery.until_copied(namespace, "regcred", &payload("first"));
    }
    delivery.until_counted("regcred", "foreign", 0.0);
    wait_for("nobody fails a Pod any more", HAPPY, || {
        let index = delivery.index()?;
        let undecodable = &index["secrets"]["regcred"]["undecodableIn"];
        undecodable
            .is_null()
            .then_some(())
            .ok_or_else(|| undecodable.to_string())
    });
}

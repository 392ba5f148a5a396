//! Under load: what happens to 200 Pod creates a second while the webhook is restarted, killed, moved to
//! new certificates, or cut off from the API server.
//!
//! The load is server-side dry runs: they pass the webhook as any Pod does, and leave nothing behind.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::load::{Load, Question, Tally};
use crate::harness::namespace::{Namespace, pull_secrets_of};
use crate::harness::release::{
    LOAD_PER_SECOND, ROLLOUT, Release, SECRET, covered_pod, kill_program,
};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.alone(
        "figure_p9_incident_05_06_07_08_rolling_restarts_under_load",
        |cluster| rolling_restarts(cluster, 3, 0),
    );
    trials.alone("incident_08_one_of_two_replicas_killed", one_replica_killed);
    trials.alone("incident_24_certificates_rotated_under_load", |cluster| {
        rotations(cluster, 3)
    });
    trials.alone("incident_01_every_replica_gone", every_replica_gone);
    trials.alone("incident_10_api_server_frozen_and_restarted", frozen);
}

/// The long variants.
pub(crate) fn register_soak(trials: &mut Trials) {
    trials.alone(
        "soak_figure_p9_twenty_rolling_restarts_under_load",
        |cluster| {
            rolling_restarts(cluster, 20, 10_000);
        },
    );
    trials.alone(
        "soak_incident_24_certificates_rotated_under_load",
        |cluster| {
            rotations(cluster, 20);
        },
    );
}

/// Rotations follow each other as fast as the tests can look.
fn installed(cluster: &Cluster) -> Release<'_> {
    let release = Release::prepare(cluster);
    release.install(&json!({"certificates": {"rotationWaitSeconds": 2}}));
    release
}

fn rolling_restarts(cluster: &Cluster, restarts: usize, admissions_min: usize) {
    let release = installed(cluster);
    let load = release.load();
    wait_for_answers(&load, admissions_of_a_second());
    for _ in 0..restarts {
        release.restart_webhook();
    }
    let after = load.tally().answered + admissions_of_a_second();
    wait_for_answers(&load, after.max(admissions_min));
    let tally = load.finish();
    println!("{restarts} rolling restarts: {tally}");
    assert_unnoticed(&tally);
    release.uninstall();
}

fn one_replica_killed(cluster: &Cluster) {
    let release = installed(cluster);
    let load = release.load();
    wait_for_answers(&load, admissions_of_a_second());
    let replicas = release.role("webhook");
    assert_eq!(replicas.len(), 2);
    // The API server keeps to the replica that it has connections to.
    let connections =
        |pod: &Value| Release::metric(pod, "pullpass_connections").unwrap_or_default();
    let busiest = replicas
        .iter()
        .max_by(|a, b| connections(a).total_cmp(&connections(b)));
    let killed = load.elapsed();
    kill_program(busiest.expect("there are two"));
    // As long as unmutated Pods may go on to be seen, and as long again.
    wait_for_answers(&load, load.tally().answered + 10 * admissions_of_a_second());
    release.wait_for_rollout();
    let tally = load.finish();
    let last = tally
        .unmutated
        .last()
        .map(|last| last.saturating_sub(killed));
    println!("one of two replicas killed: {tally}; the last unmutated Pod {last:?} after the kill");
    assert_eq!(tally.failed, 0);
    release.wait_until_injecting();
    release.uninstall();
}

fn rotations(cluster: &Cluster, rotations: usize) {
    let release = installed(cluster);
    let load = release.load();
    wait_for_answers(&load, admissions_of_a_second());
    for rotation in 0..rotations {
        let before = release.secret("tls")["data"]["tls.crt"].clone();
        release.rotate(&format!("test-{rotation}"));
        wait_for("the new CA is the only one", ROLLOUT, || {
            let (ca, tls) = (release.secret("ca"), release.secret("tls"));
            let done = &ca["metadata"]["annotations"]["pullpass.dev/rotated"];
            let single = ca["data"]["previous.crt"]
                .as_str()
                .is_none_or(str::is_empty);
            if *done == json!(format!("test-{rotation}"))
                && single
                && tls["data"]["tls.crt"] != before
            {
                Ok(())
            } else {
                Err(format!("rotated: {done}, one CA: {single}"))
            }
        });
    }
    // A leaf that is lost is made anew: the same path as its renewal.
    let before = release.secret("tls")["data"]["tls.crt"].clone();
    release
        .namespace
        .kubectl(&["delete", "secret", &format!("{}-tls", release.name)], "");
    wait_for("there is a new leaf", HAPPY, || {
        let tls = release
            .namespace
            .get("secrets", &format!("{}-tls", release.name))?;
        if tls["data"]["tls.crt"] == before {
            Err("the old one".to_owned())
        } else {
            Ok(())
        }
    });
    wait_for_answers(&load, load.tally().answered + 2 * admissions_of_a_second());
    let tally = load.finish();
    println!("{rotations} CA rotations and a new leaf: {tally}");
    assert_unnoticed(&tally);
    release.uninstall();
}

fn every_replica_gone(cluster: &Cluster) {
    let release = installed(cluster);
    assert_eq!(pull_secrets_of(&release.create_pod()), [SECRET]);
    release.scale_webhook(0);
    wait_for("the replicas are gone", ROLLOUT, || {
        let left = release
            .namespace
            .list("pods", "labelSelector=app.kubernetes.io/component=webhook")?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{} are left", left.len()))
        }
    });
    assert!(pull_secrets_of(&release.create_pod()).is_empty());
    let system = Namespace::existing(cluster, "kube-system");
    system.create_object("pods", &covered_pod(&cluster.unique("system")));
    release.scale_webhook(2);
    release.wait_until_injecting();
    release.uninstall();
}

/// Admissions do not need the API server: asked directly, a webhook goes on as if nothing had happened.
fn frozen(cluster: &Cluster) {
    let release = installed(cluster);
    let replicas = release.role("webhook");
    let question = release.ask_directly(&replicas[0]);
    let before = ask_for(&question, 15);
    cluster.plane.freeze_api_server();
    let during = ask_for(&question, 60);
    cluster.plane.thaw_api_server();
    println!("asked directly before: {before}");
    println!("asked directly while the API server is frozen: {during}");
    assert_unnoticed(&before);
    assert_unnoticed(&during);
    assert_fresh_again(cluster, &release, "thawed");
    cluster.plane.restart_api_server();
    assert_fresh_again(cluster, &release, "restarted");
    release.uninstall();
}

/// Every watch of every replica hears from the API server again, and injection works.
fn assert_fresh_again(cluster: &Cluster, release: &Release<'_>, event: &str) {
    let start = std::time::Instant::now();
    let freshness = |pod: &Value| Release::metric(pod, "pullpass_watch_age_seconds");
    wait_for("every watch is fresh", ROLLOUT, || {
        let since = start.elapsed().as_secs_f64();
        for pod in release
            .role("webhook")
            .iter()
            .chain(&release.role("controller"))
        {
            let age = freshness(pod)?;
            if age >= since {
                return Err(format!("a watch is {age:.1} s old, {since:.1} s after"));
            }
        }
        Ok(())
    });
    println!(
        "watches fresh {:.1} s after the API server was {event}",
        start.elapsed().as_secs_f64()
    );
    wait_for("Pods can be created", ROLLOUT, || {
        let pod = covered_pod(&cluster.unique("after"));
        release.pods.try_create("pods", &pod).map(drop)
    });
    release.wait_until_injecting();
}

fn ask_for(question: &Question, seconds: usize) -> Tally {
    let load = Load::start(question.clone(), LOAD_PER_SECOND);
    wait_for_answers(&load, seconds * admissions_of_a_second());
    load.finish()
}

fn admissions_of_a_second() -> usize {
    LOAD_PER_SECOND as usize
}

fn wait_for_answers(load: &Load, count: usize) {
    // Ten times as long as it takes where the machine keeps up.
    let limit = Duration::from_secs(30 + 10 * (count / admissions_of_a_second()) as u64);
    wait_for("the load goes on", limit, || {
        let tally = load.tally();
        if tally.answered >= count {
            Ok(())
        } else {
            Err(tally.to_string())
        }
    });
}

#[track_caller]
fn assert_unnoticed(tally: &Tally) {
    assert_eq!(tally.failed, 0, "{tally}");
    assert!(tally.unmutated.is_empty(), "{tally}: {:?}", tally.unmutated);
}

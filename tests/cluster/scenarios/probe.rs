//! Registries that are asked whether they still accept a credential, before a Pod finds out.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;

use crate::harness::cluster::Cluster;
use crate::harness::delivery::{Delivery, Product};
use crate::harness::gateway::{Call, Gateway};
use crate::harness::namespace::{Namespace, docker_config, pod, pull_secrets_of};
use crate::harness::serve::serve;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::registry::{Account, PROBED, token_config};

use super::status;

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "probe_scenario_56_a_revoked_password_is_seen_before_the_next_pod",
        revoked,
    );
    trials.api(
        "figure_p8_scenario_56_probes_at_rest_write_nothing",
        at_rest,
    );
}

/// A registry that is asked every 30 s, and a rejection that is asked for twice; as much again to be sure.
const ONE_INTERVAL: Duration = Duration::from_secs(90);

/// One entry that asks by plain HTTP, as the kit's registries speak it.
fn entry(name: &str, repository: &str, more: &str) -> String {
    let probe = format!("{{repository: \"{repository}\", plainHTTP: true, {more}}}");
    format!("{{name: {name}, namespaces: NAMESPACES, probe: {probe}}}")
}

/// Waits until the index says so of an entry, and the metric; gives the reason.
#[track_caller]
fn until_probed(delivery: &Delivery<'_>, name: &str, result: &str) -> String {
    let what = format!("{name} is {result}");
    let reason = wait_for(&what, ONE_INTERVAL, || {
        let index = delivery.index()?;
        let probe = &index["secrets"][name]["probe"];
        let reason = probe["reason"].as_str().unwrap_or_default();
        (probe["result"] == result)
            .then(|| reason.to_owned())
            .ok_or_else(|| index.to_string())
    });
    let series = |result| format!("pullpass_probes{{result=\"{result}\",secret=\"{name}\"}}");
    wait_for(&what, HAPPY, || {
        let found = delivery.controller.metric(&series(result));
        (found == 1.0)
            .then_some(())
            .ok_or_else(|| found.to_string())
    });
    reason
}

/// Waits until that is so for this reason: at first, it may be so for another.
#[track_caller]
fn until_because(delivery: &Delivery<'_>, name: &str, result: &str, part: &str) {
    wait_for(part, ONE_INTERVAL, || {
        let reason = until_probed(delivery, name, result);
        reason.contains(part).then_some(()).ok_or(reason)
    });
}

/// Waits until `status` says so of an entry; gives the exit code.
#[track_caller]
fn until_reported(cluster: &Cluster, delivery: &Delivery<'_>, name: &str, result: &str) {
    wait_for(&format!("status: {name} is {result}"), HAPPY, || {
        let said = status::ask(cluster, delivery, &["status", "--secret", name]);
        let probe = &said.report["pull_secrets"][0]["probe"];
        let is_bad = said.code == Some(1);
        (probe["result"] == result && is_bad == (result == "rejected"))
            .then_some(())
            .ok_or_else(|| said.text())
    });
}

/// Waits until a new Pod with this image is warned of this text, and gets these secrets.
#[track_caller]
fn until_warned(
    cluster: &Cluster,
    namespace: &Namespace<'_>,
    image: &str,
    warning: &str,
    names: &[&str],
) {
    let trial = pod("trial", &[("app", image)]);
    let create = ["create", "--dry-run=server", "-f", "-", "--namespace"];
    let arguments = [&create[..], &[&namespace.name]].concat();
    wait_for(warning, HAPPY, || {
        let warnings = cluster
            .kubectl
            .try_warnings(&arguments, &trial.to_string())?;
        let found = pull_secrets_of(&namespace.dry_run(&trial)?);
        (warnings.contains(warning) && found == names)
            .then_some(())
            .ok_or_else(|| format!("{warnings} {found:?}"))
    });
}

/// One password is in a file of the registry, one behind a token server; one is injected all the same, one not.
fn revoked(cluster: &Cluster) {
    let kit = cluster.registries();
    let mut registry = kit.private(&PROBED);
    let account = Account::new("probed-token", "by token", &["probe/token"]);
    kit.tokens.permit(&account);
    let interval = "interval: 30s";
    let skips = "interval: 30s, onRejected: skip";
    let entries = [
        entry("password", "127.0.0.6:5000/probe/password", interval),
        entry("token", "127.0.0.5:5000/probe/token", skips),
        entry("daily", "127.0.0.6:5000/probe/daily", "interval: 24h"),
    ];
    let names = ["password", "token", "daily"];
    let product = Product::start(cluster, &names, &entries.join(", "));
    let delivery = &product.delivery;
    status::create_deployment(delivery);
    let login = |password| docker_config(&[(PROBED.host, PROBED.user, password)]).to_string();
    product.make_source("password", &login(PROBED.password));
    let by_token = token_config("127.0.0.5:5000/probe/token", &account);
    product.make_source("token", &by_token.to_string());
    for name in ["password", "token"] {
        until_probed(delivery, name, "accepted");
        until_reported(cluster, delivery, name, "accepted");
    }
    let namespace = product.namespace("app");
    let image = |host, name: &str| kit.fresh(host, &format!("probe/{name}"));
    let password = image(PROBED.host, "password");
    let token = image("127.0.0.5:5000", "token");
    for (name, image) in [("password", &password), ("token", &token)] {
        namespace.create_object("pods", &pod(name, &[("app", image)]));
        assert_eq!(pull_secrets_of(&namespace.running(name)), [name]);
    }

    registry.revoke();
    kit.tokens.revoke(&account.user);
    for name in ["password", "token"] {
        let reason = until_probed(delivery, name, "rejected");
        assert!(
            reason.contains("refuses user name and password"),
            "{reason}"
        );
        delivery.until_said("CredentialRejected", &format!("pull secret \"{name}\""));
        until_reported(cluster, delivery, name, "rejected");
    }
    let warning = "pull secret \"password\" is rejected by its registry";
    until_warned(cluster, &namespace, &password, warning, &["password"]);
    let warning = "pull secret \"token\" not added: its registry rejects it";
    until_warned(cluster, &namespace, &token, warning, &[]);

    // Whoever is not there rejects nothing.
    registry.stop();
    until_because(delivery, "password", "unknown", "refused: nothing listens");
    until_reported(cluster, delivery, "password", "unknown");

    registry.start_again();
    // Another right than the one that is needed.
    kit.tokens
        .permit(&Account::new("probed-token", "by token", &["probe/other"]));
    until_probed(delivery, "password", "accepted");
    delivery.until_said("CredentialAccepted", "pull secret \"password\"");
    product.until_injected(&namespace, &password, &["password"]);
    until_because(
        delivery,
        "token",
        "rejected",
        "no right to pull probe/token",
    );
    kit.tokens.permit(&account);
    until_probed(delivery, "token", "accepted");
    product.until_injected(&namespace, &token, &["token"]);

    // Asked once a day, but a new payload at once.
    delivery.make_source("daily", &login("wrong"));
    until_probed(delivery, "daily", "rejected");
    delivery.change_source("daily", &login(PROBED.password));
    until_probed(delivery, "daily", "accepted");
}

/// A registry that lets in anyone says the same for ever: it is asked as often as the rules say, and what it
/// says is written once.
fn at_rest(cluster: &Cluster) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let router = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { "{}" }
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let server = serve(listener, None, router);
    let host = server.address.to_string();
    let probe = entry("open", &format!("{host}/team/app"), "interval: 30s");
    let gateway = Gateway::start(cluster, |_, _| None);
    let start = Instant::now();
    let delivery = Delivery::start_at(cluster, gateway.api(), &["open"], &probe);
    let payload = docker_config(&[(&host, "robot", "first")]).to_string();
    delivery.make_source("open", &payload);
    let reason = until_probed(&delivery, "open", "unknown");
    assert!(reason.contains("lets in anyone"), "{reason}");
    delivery.until_said("ProbeUnanswered", "lets in anyone");
    let namespace = delivery.namespace("app");
    delivery.until_copied(&namespace, "open", &payload);

    let until_asked = |times| {
        wait_for(&format!("{times} questions"), 2 * ONE_INTERVAL, || {
            let now = asked.load(Ordering::Relaxed);
            (now >= times).then_some(()).ok_or_else(|| now.to_string())
        });
    };
    // Of the election there are.
    let is_write = |call: &Call| call.method != "GET" && !call.path.contains("/leases");
    let writes = || gateway.count(is_write);
    until_asked(2);
    let before = writes();
    assert!(
        before > 0,
        "the index, the copy and the Event went this way"
    );
    until_asked(4);
    assert_eq!(writes(), before, "the same answer is no news");
    let asked = asked.load(Ordering::Relaxed);
    let took = start.elapsed();
    println!("figure P8: {asked} questions in {took:.0?}, no write since the second");
    let terms = delivery.controller.terms();
    // Give or take a tenth, and the first of each term at once.
    let most = took.as_secs_f64() / 27.0 + terms as f64;
    assert!(asked as f64 <= most, "{asked} questions in {took:?}");
}

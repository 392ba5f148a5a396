//! Certificates that look after themselves, on a real API server: the controller runs as its own
//! ServiceAccount, with its permissions and no other.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pullpass::pki::verify::verify;
use pullpass::pki::{CertificateAuthority, LEAF_LIFETIME};
use serde_json::{Value, json};

use super::RULES;
use crate::harness::cluster::Cluster;
use crate::harness::controller::{CA, Controller, Installation, LEASE, SERVICE, TLS};
use crate::harness::network::BRIDGE_ADDRESS;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, until_counts, wait_for, writes_max};
use crate::harness::webhook::{Pullpass, WEBHOOK, create_service};

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "controller_incident_34_six_writes_a_minute_in_a_fight",
        fight,
    );
    trials.api(
        "controller_incident_24_every_leaf_verifies_during_rotations",
        rotation,
    );
    trials.api("controller_leader_killed_and_the_next_one_writes", killed);
    trials.api("controller_leader_whose_lease_is_taken_stops", taken);
    trials.api(
        "controller_incident_10_leader_whose_api_server_is_frozen_stops_first",
        frozen,
    );
    trials.api("controller_leader_ended_gives_its_lease_back", ended);
    trials.api(
        "controller_leader_dead_whose_clock_was_ahead_is_replaced",
        ahead,
    );
    trials.api(
        "controller_incident_15_16_everything_is_made_from_nothing",
        fresh,
    );
    trials.api("controller_certificates_tls_secret_deleted", tls_deleted);
    trials.api("controller_certificates_ca_secret_deleted", ca_deleted);
    trials.api("controller_certificates_both_secrets_corrupted", corrupted);
    trials.api(
        "controller_certificates_ca_bundle_overwritten_by_hand",
        overwritten,
    );
    trials.api(
        "controller_certificates_secret_of_somebody_else_left_alone",
        foreign,
    );
    trials.api(
        "certificates_secret_of_a_wrong_type_is_made_again",
        wrong_type,
    );
    trials.api(
        "controller_certificates_wait_for_the_webhook_configuration",
        missing,
    );
    trials.node(
        "controller_incident_05_ready_once_the_webhook_answers_through_its_service",
        ready,
    );
    trials.api(
        "controller_certificates_provided_are_copied_into_ca_bundle",
        provided,
    );
    trials.api(
        "controller_certificates_of_cert_manager_are_left_alone",
        cert_manager,
    );
}

/// After this the Lease of a killed leader is over, on a machine that builds something else.
const TAKE_OVER: Duration = Duration::from_secs(60);
/// A write that the budget holds back comes after a minute.
const NEXT_MINUTE: Duration = Duration::from_secs(120);

impl Installation<'_> {
    /// Whether an API server would accept the leaf that is stored, by the bundle that is stored.
    fn verified(&self) -> Result<(), String> {
        self.accepts(&self.entry(TLS, "tls.crt")?, &self.bundle()?)
    }

    fn accepts(&self, chain: &str, bundle: &str) -> Result<(), String> {
        let name = format!("{SERVICE}.{}.svc", self.namespace.name);
        let now = SystemTime::now();
        verify(chain.as_bytes(), bundle.as_bytes(), &name, now).map_err(|error| error.to_string())
    }

    /// A controller that has made everything.
    fn settled(&self, arguments: &[&str]) -> Controller {
        let controller = self.controller(arguments);
        wait_for("the leaf verifies", HAPPY, || self.verified());
        controller
    }

    fn version(&self, secret: &str) -> Result<String, String> {
        let object = self.namespace.get("secrets", secret)?;
        Ok(object["metadata"]["resourceVersion"].to_string())
    }

    /// Waits for an Event of this reason whose note contains `text`.
    #[track_caller]
    fn said(&self, reason: &str, text: &str) {
        wait_for(&format!("{reason}: {text}"), HAPPY, || {
            let notes = self.events(reason);
            let found = notes.iter().any(|note| note.contains(text));
            found.then_some(()).ok_or_else(|| format!("{notes:?}"))
        });
    }

    fn annotate_ca(&self, value: &str) {
        let annotation = format!("pullpass.dev/rotate={value}");
        let arguments = ["annotate", "--overwrite", "secret", CA, &annotation];
        self.namespace.kubectl(&arguments, "");
    }

    fn overwrite(&self, secret: &str, entries: &Value) {
        let patch = json!({"stringData": entries}).to_string();
        self.namespace
            .kubectl(&["patch", "secret", secret, "-p", &patch], "");
    }

    fn delete(&self, secret: &str) {
        self.namespace.kubectl(&["delete", "secret", secret], "");
    }

    /// Writes `caBundle` as another field manager that does not ask.
    fn rival(&self, pem: &str) {
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.namespace.name},
            "webhooks": [{
                "name": WEBHOOK,
                "clientConfig": {"caBundle": BASE64_STANDARD.encode(pem)},
            }],
        });
        let apply = "application/apply-patch+yaml";
        let done = self.patch_configuration("rival&force=true", apply, &body);
        done.expect("the API server takes any bundle");
    }
}

/// Waits for `look`, and prints how long the repair took.
#[track_caller]
fn healed<T>(what: &str, look: impl FnMut() -> Result<T, String>) {
    let start = Instant::now();
    wait_for(what, HAPPY, look);
    println!("{what}: {} ms", start.elapsed().as_millis());
}

fn fresh(cluster: &Cluster) {
    let installation = Installation::create(cluster, "fresh", RULES);
    let controller = installation.controller(&[]);
    healed("CA, bundle and leaf made", || installation.verified());
    for (secret, kind) in [(CA, "Opaque"), (TLS, "kubernetes.io/tls")] {
        let object = installation.namespace.get("secrets", secret).unwrap();
        assert_eq!(object["type"], kind);
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!(owner["kind"], "ServiceAccount");
        assert_eq!(owner["blockOwnerDeletion"], Value::Null);
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/managed-by"], "pullpass");
        let instance = &labels["app.kubernetes.io/instance"];
        assert_eq!(instance, &json!(installation.namespace.name));
    }
    installation.said("CertificateIssued", "new CA: there was none yet");
    installation.said("CertificateIssued", "new certificate of the webhook");
    installation.said("CaBundleApplied", "written");

    // Of the configuration, the controller owns one field, so that no upgrade of a chart conflicts.
    let configuration = installation.configuration().unwrap();
    let managers = configuration["metadata"]["managedFields"]
        .as_array()
        .unwrap();
    let ours = managers
        .iter()
        .find(|entry| entry["manager"] == "pullpass-controller")
        .unwrap();
    let webhook = format!("k:{{\"name\":\"{WEBHOOK}\"}}");
    let expected = json!({"f:webhooks": {webhook: {
        ".": {},
        "f:clientConfig": {"f:caBundle": {}},
        "f:name": {},
    }}});
    assert_eq!(ours["fieldsV1"], expected);
    for object in ["ca", "tls", "configuration"] {
        let writes = format!("pullpass_writes_total{{object=\"{object}\"}}");
        until_counts(&writes, 1.0, || controller.metric(&writes));
    }
    let year = 364.0 * 24.0 * 3600.0;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let expiry = "pullpass_certificate_not_after_timestamp_seconds";
    let ca_expiry = controller.metric(&format!("{expiry}{{kind=\"ca\"}}"));
    assert!(ca_expiry > now.unwrap().as_secs_f64() + year, "{ca_expiry}");
    assert!(!controller.log().contains("PRIVATE KEY"));
}

fn tls_deleted(cluster: &Cluster) {
    let installation = Installation::create(cluster, "tls-deleted", RULES);
    let _controller = installation.settled(&[]);
    installation.delete(TLS);
    healed("leaf made again", || installation.verified());
    let note = "new certificate of the webhook: there was none any more";
    installation.said("CertificateLost", note);
}

fn ca_deleted(cluster: &Cluster) {
    let installation = Installation::create(cluster, "ca-deleted", RULES);
    let _controller = installation.settled(&[]);
    let before = installation.entry(CA, "ca.crt").unwrap();
    installation.delete(CA);
    healed("new CA in the bundle", || {
        // The old leaf stays in service, so it has to stay trusted.
        installation.verified()?;
        let ca = installation.entry(CA, "ca.crt")?;
        assert_ne!(ca, before);
        let bundle = installation.bundle()?;
        bundle.contains(&ca).then_some(()).ok_or(bundle)
    });
    installation.said("CertificateLost", "new CA: there was none any more");
}

fn corrupted(cluster: &Cluster) {
    let installation = Installation::create(cluster, "corrupted", RULES);
    let _controller = installation.settled(&[]);
    let broken = "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n";
    installation.overwrite(CA, &json!({"ca.crt": broken, "ca.key": "broken"}));
    installation.overwrite(TLS, &json!({"tls.crt": broken, "tls.key": "broken"}));
    healed("both made again", || installation.verified());
    installation.said(
        "CertificateLost",
        "new CA: the one before could not be read",
    );
    let note = "new certificate of the webhook: the one before could not be read";
    installation.said("CertificateLost", note);
}

fn overwritten(cluster: &Cluster) {
    let installation = Installation::create(cluster, "overwritten", RULES);
    let controller = installation.settled(&[]);
    let writes = "pullpass_ca_bundle_applied_total";
    for (round, bundle) in (0_u32..).zip(["bm8gUEVN", ""]) {
        let patch = json!([{
            "op": "replace",
            "path": "/webhooks/0/clientConfig/caBundle",
            "value": bundle,
        }]);
        let kind = "application/json-patch+json";
        let changed = installation.patch_configuration("kubectl-edit", kind, &patch);
        changed.expect("the API server takes any bundle");
        healed("bundle put back", || {
            installation.verified()?;
            let count = controller.metric(writes);
            let expected = f64::from(round + 2);
            (count == expected)
                .then_some(())
                .ok_or_else(|| format!("{count} writes"))
        });
    }
    installation.said("CaBundleOverwritten", "somebody changed the caBundle");
}

fn fight(cluster: &Cluster) {
    const WRITES: &str = "pullpass_writes_total{object=\"configuration\"}";
    let installation = Installation::create(cluster, "fight", RULES);
    let start = Instant::now();
    let controller = installation.settled(&[]);
    let ours = installation.bundle().unwrap();
    let mut rounds = 0;
    // The rival wins as soon as the minute's writes are spent.
    wait_for("the controller stops writing", ONE_BACK_OFF, || {
        let bundle = installation.bundle()?;
        let writes = controller.metric(WRITES);
        if bundle == ours {
            rounds += 1;
            installation.rival(&format!("rival {rounds}"));
        }
        (writes >= 6.0)
            .then_some(())
            .ok_or_else(|| format!("{writes} writes"))
    });
    for more in 0..50 {
        installation.rival(&format!("rival undisturbed {more}"));
    }
    let writes = controller.metric(WRITES);
    let most = writes_max(start);
    assert!(
        writes <= most,
        "{writes} writes within {:?}",
        start.elapsed()
    );
    wait_for("the next minute's writes", NEXT_MINUTE, || {
        installation.verified()
    });
    let elapsed = start.elapsed();
    println!(
        "fight: 6 writes, the 7th after {:.1} s",
        elapsed.as_secs_f64()
    );
    assert!(
        elapsed >= Duration::from_secs(60),
        "the 7th after {elapsed:?}"
    );
    // One Event that counts, not one for each round.
    assert_eq!(installation.events("CaBundleOverwritten").len(), 1);
}

fn rotation(cluster: &Cluster) {
    let installation = Installation::create(cluster, "rotation", RULES);
    let _controller = installation.settled(&["--rotation-wait", "8"]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| look_on(&installation, &is_over));
        for value in ["one", "two"] {
            let before = installation.entry(CA, "ca.crt").unwrap();
            let start = Instant::now();
            installation.annotate_ca(value);
            wait_for("the rotation is complete", ONE_BACK_OFF, || {
                let secret = installation.namespace.get("secrets", CA)?;
                let annotations = &secret["metadata"]["annotations"];
                let ca = installation.entry(CA, "ca.crt")?;
                let state = format!("{annotations}, {} old", ca == before);
                let is_done = annotations["pullpass.dev/rotated"] == value
                    && ca != before
                    && installation
                        .entry(CA, "previous.crt")
                        .unwrap_or_default()
                        .is_empty()
                    && installation.entry(TLS, "ca.crt")? == ca
                    && installation.bundle()? == ca;
                is_done.then_some(()).ok_or(state)
            });
            println!("rotation {value}: {:.1} s", start.elapsed().as_secs_f64());
        }
        is_over.store(true, Ordering::Relaxed);
        let (looks, leaves, bundles) = looks.join().expect("every combination verifies");
        println!("rotations: {looks} looks saw {leaves} leaves and {bundles} bundles");
        // One at the start and one for each rotation; two bundles for each rotation.
        assert_eq!((leaves, bundles), (3, 5));
    });
    installation.said("CertificateIssued", "new CA: a rotation was asked for");
    installation.said("CaRotated", "the former CA is retired");
}

/// Verifies what is stored until `is_over`, each leaf against the bundle of the same look and of the
/// looks beside it, as a webhook or API server that lags would have it. Gives the number of looks, of
/// leaves and of bundles.
fn look_on(installation: &Installation<'_>, is_over: &AtomicBool) -> (usize, usize, usize) {
    let (mut looks, mut leaves, mut bundles) = (0, Vec::new(), Vec::new());
    let mut before: Option<(String, String)> = None;
    loop {
        // What begins after the end sees the last bundle.
        let is_last = is_over.load(Ordering::Relaxed);
        let leaf = installation.entry(TLS, "tls.crt").unwrap();
        let bundle = installation.bundle().unwrap();
        installation.accepts(&leaf, &bundle).unwrap();
        if let Some((old_leaf, old_bundle)) = &before {
            installation.accepts(&leaf, old_bundle).unwrap();
            installation.accepts(old_leaf, &bundle).unwrap();
        }
        looks += 1;
        if !leaves.contains(&leaf) {
            leaves.push(leaf.clone());
        }
        if !bundles.contains(&bundle) {
            bundles.push(bundle.clone());
        }
        before = Some((leaf, bundle));
        if is_last {
            break;
        }
    }
    (looks, leaves.len(), bundles.len())
}

/// A leader that has made everything, and a second controller that has seen it.
fn pair(installation: &Installation<'_>) -> (Controller, Controller) {
    let first = installation.settled(&[]);
    let second = installation.controller(&[]);
    wait_for("the second sees the bundle", HAPPY, || {
        let said = second.readiness();
        said.contains("[+] configuration").then_some(()).ok_or(said)
    });
    (first, second)
}

fn wrote_nothing(controller: &Controller) {
    for object in ["ca", "tls", "configuration"] {
        let writes = controller.metric(&format!("pullpass_writes_total{{object=\"{object}\"}}"));
        assert!(writes.eq(&0.0), "{object}: {writes} writes");
    }
}

#[track_caller]
fn takes_over(controller: &Controller) {
    let start = Instant::now();
    wait_for("the other controller leads", TAKE_OVER, || {
        let is_leader = controller.metric("pullpass_leader").eq(&1.0);
        is_leader.then_some(()).ok_or_else(|| controller.log())
    });
    println!("take-over: {:.1} s", start.elapsed().as_secs_f64());
}

fn killed(cluster: &Cluster) {
    let installation = Installation::create(cluster, "killed", RULES);
    let (first, second) = pair(&installation);
    installation.delete(TLS);
    healed("leaf made again by the leader", || installation.verified());
    assert!(first.metric("pullpass_leader").eq(&1.0));
    assert!(second.metric("pullpass_leader").eq(&0.0));
    wrote_nothing(&second);
    drop(first);
    installation.delete(TLS);
    takes_over(&second);
    healed("leaf made again by the next leader", || {
        installation.verified()
    });
    installation.said("CertificateLost", "there was none any more");
}

fn ended(cluster: &Cluster) {
    let installation = Installation::create(cluster, "ended", RULES);
    let (first, second) = pair(&installation);
    let lease = installation.lease(LEASE);
    assert!(lease["spec"]["holderIdentity"].is_string(), "{lease}");
    assert_eq!(
        lease["metadata"]["ownerReferences"][0]["kind"],
        "ServiceAccount"
    );
    first.terminate();
    let code = wait_for("the leader ends", HAPPY, || {
        first.exit_code().ok_or_else(|| first.log())
    });
    assert_eq!(code, 0, "{}", first.log());
    let lease = installation.lease(LEASE);
    assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "{lease}");
    takes_over(&second);
}

/// Puts this into the Lease of a leader, and waits until it no longer is one.
fn give_lease(installation: &Installation<'_>, controller: &Controller, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    let arguments = ["patch", "lease", LEASE, "--type=merge", "-p", &patch];
    installation.namespace.kubectl(&arguments, "");
    wait_for("it stops", TAKE_OVER, || {
        let is_leader = controller.metric("pullpass_leader").eq(&1.0);
        (!is_leader).then_some(()).ok_or_else(|| controller.log())
    });
}

fn taken(cluster: &Cluster) {
    let installation = Installation::create(cluster, "taken", RULES);
    let controller = installation.settled(&[]);
    give_lease(
        &installation,
        &controller,
        &json!({"holderIdentity": "somebody"}),
    );
    // Nobody renews for somebody.
    takes_over(&controller);
}

/// By the Lease it is to be held for generations.
fn ahead(cluster: &Cluster) {
    let installation = Installation::create(cluster, "ahead", RULES);
    let controller = installation.settled(&[]);
    let spec = json!({"holderIdentity": "somebody", "renewTime": "2100-01-01T00:00:00.000000Z"});
    give_lease(&installation, &controller, &spec);
    takes_over(&controller);
    installation.delete(TLS);
    healed("leaf made again", || installation.verified());
}

fn frozen(cluster: &Cluster) {
    let installation = Installation::create(cluster, "frozen", RULES);
    let (server, api) = cluster.another_api_server();
    let first = installation.controller_at(&api, &[]);
    wait_for("the leaf verifies", HAPPY, || installation.verified());
    let second = installation.controller(&[]);
    let leads = |controller: &Controller| controller.metric("pullpass_leader").eq(&1.0);
    server.signal("STOP");
    installation.delete(TLS);
    let start = Instant::now();
    let mut stopped = None;
    wait_for("the other controller leads", TAKE_OVER, || {
        // In this order, or the second could become leader between the two looks.
        let (second_leads, first_leads) = (leads(&second), leads(&first));
        if !first_leads {
            stopped.get_or_insert_with(|| start.elapsed());
        }
        assert!(!(second_leads && first_leads), "two leaders");
        second_leads.then_some(()).ok_or_else(|| second.log())
    });
    let stopped = stopped.expect("the first stopped before").as_secs_f64();
    println!(
        "frozen: stopped after {stopped:.1} s, replaced after {:?}",
        start.elapsed()
    );
    healed("leaf made again by the other", || installation.verified());
    server.signal("CONT");
    // It is a candidate again, and wins once the other one ends.
    second.terminate();
    takes_over(&first);
}

fn foreign(cluster: &Cluster) {
    let installation = Installation::create(cluster, "foreign", RULES);
    let theirs = json!({
        "metadata": {"name": TLS},
        "stringData": {"tls.crt": "theirs", "tls.key": "theirs"},
        "type": "kubernetes.io/tls",
    });
    installation.namespace.create_object("secrets", &theirs);
    let before = installation.version(TLS).unwrap();
    let controller = installation.controller(&[]);
    installation.said("SecretNotOurs", "left alone");
    assert_eq!(installation.version(TLS).unwrap(), before);
    assert!(controller.log().contains("left alone"));
    installation.delete(TLS);
    healed("leaf made once the name is free", || {
        installation.verified()
    });
}

fn wrong_type(cluster: &Cluster) {
    let installation = Installation::create(cluster, "wrong-type", RULES);
    let stuck = json!({
        "metadata": {"name": TLS, "labels": {"app.kubernetes.io/managed-by": "pullpass"}},
        "stringData": {"tls.crt": "broken"},
        "immutable": true,
        "type": "Opaque",
    });
    installation.namespace.create_object("secrets", &stuck);
    let _controller = installation.controller(&[]);
    healed("leaf made in place of it", || installation.verified());
}

fn missing(cluster: &Cluster) {
    let installation = Installation::create(cluster, "missing", RULES);
    let mut configuration = installation.configuration().unwrap();
    installation.delete_configuration();
    let controller = installation.controller(&[]);
    let unready = |text: &str| {
        wait_for(text, HAPPY, || {
            let said = controller.readiness();
            said.contains(text).then_some(()).ok_or(said)
        });
    };
    unready("[-] configuration: MutatingWebhookConfiguration");
    unready("does not exist");
    let metadata = json!({"name": installation.namespace.name});
    configuration["metadata"] = metadata;
    configuration["webhooks"][0]["name"] = json!("other.pullpass.dev");
    installation.create_configuration(&configuration);
    unready("has no webhook pods.pullpass.dev");
    let rename = json!([{"op": "replace", "path": "/webhooks/0/name", "value": WEBHOOK}]);
    let kind = "application/json-patch+json";
    let renamed = installation.patch_configuration("kubectl-edit", kind, &rename);
    renamed.expect("a webhook can be renamed");
    healed("bundle written once there is a webhook", || {
        installation.verified()
    });
    unready("[+] configuration");
}

fn provided(cluster: &Cluster) {
    let installation = Installation::create(cluster, "provided", RULES);
    let name = format!("{SERVICE}.{}.svc", installation.namespace.name);
    let pair = |ca: &CertificateAuthority| {
        let leaf = ca
            .issue(&[&*name], SystemTime::now(), LEAF_LIFETIME)
            .unwrap();
        json!({
            "tls.crt": leaf.certificates,
            "tls.key": leaf.key,
            "ca.crt": ca.certificate_pem(),
        })
    };
    let authority = || CertificateAuthority::generate(SystemTime::now()).unwrap();
    let (first, second) = (authority(), authority());
    let controller = installation.controller(&["--certificates", "provided"]);
    wait_for("readiness names the Secret", HAPPY, || {
        let said = controller.readiness();
        said.contains(&format!("Secret {TLS} does not exist"))
            .then_some(())
            .ok_or(said)
    });
    let secret = json!({
        "metadata": {"name": TLS},
        "type": "kubernetes.io/tls",
        "stringData": pair(&first),
    });
    installation.namespace.create_object("secrets", &secret);
    healed("ca.crt copied", || installation.verified());
    assert_eq!(installation.bundle().unwrap(), first.certificate_pem());

    installation.overwrite(TLS, &pair(&second));
    healed("the next ca.crt copied", || installation.verified());
    assert_eq!(installation.bundle().unwrap(), second.certificate_pem());
    installation.rival("rival");
    healed("bundle put back", || installation.verified());
    installation.said("CaBundleOverwritten", "put back");
    assert!(installation.namespace.get("secrets", CA).is_err());
}

fn ready(cluster: &Cluster) {
    let installation = Installation::create(cluster, "ready", RULES);
    let controller = installation.settled(&[]);
    let says = |text: &str| {
        wait_for(text, HAPPY, || {
            let said = controller.readiness();
            said.contains(text).then_some(()).ok_or(said)
        });
    };
    says("[-] webhook: cannot read Service");
    // A webhook with a certificate of its own authority is none that an API server would call.
    let bridge: Ipv4Addr = BRIDGE_ADDRESS.parse().expect("an IPv4 address");
    let stranger = Pullpass::start(cluster, bridge, RULES, &[]);
    let address = stranger.address();
    let name = &installation.namespace.name;
    create_service(cluster, name, SERVICE, address.port(), None);
    says("signed by an authority that the bundle does not hold");
    drop(stranger);
    says("connection refused");
    let directory = cluster.directory("ready");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("the work directory is writable");
        path
    };
    let entry = |key: &str| file(key, &installation.entry(TLS, key).unwrap());
    let webhook = Pullpass::launch_at(cluster, address, |command| {
        command.arg("--rules").arg(file("rules.yaml", RULES));
        command.arg("--tls-cert").arg(entry("tls.crt"));
        command.arg("--tls-key").arg(entry("tls.key"));
    });
    says("[+] webhook");
    says("[+] configuration");
    // Met once, it stays met: an outage of webhooks must not take controllers out of service.
    drop(webhook);
    assert!(controller.readiness().ends_with("webhook\nready\n"));
}

fn cert_manager(cluster: &Cluster) {
    let installation = Installation::create(cluster, "cert-manager", RULES);
    let controller = installation.controller(&["--certificates", "cert-manager"]);
    wait_for("it leads", HAPPY, || {
        let is_leader = controller.metric("pullpass_leader").eq(&1.0);
        is_leader.then_some(()).ok_or_else(|| controller.log())
    });
    wait_for("it says what is missing", HAPPY, || {
        let said = controller.readiness();
        let is_said = said.contains("has no caBundle yet");
        is_said.then_some(()).ok_or(said)
    });
    // The test plays cert-manager's injector.
    let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
    installation.rival(ca.certificate_pem());
    wait_for("it sees the bundle", HAPPY, || {
        let said = controller.readiness();
        said.contains("[+] configuration").then_some(()).ok_or(said)
    });
    assert_eq!(installation.bundle().unwrap(), ca.certificate_pem());
    wrote_nothing(&controller);
    for secret in [CA, TLS] {
        assert!(installation.namespace.get("secrets", secret).is_err());
    }
}

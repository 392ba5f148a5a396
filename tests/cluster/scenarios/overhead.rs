//! P1: what a webhook costs the creation of a Pod, measured side by side in one run: without any, with one
//! that answers without looking, with the API server's own policy that adds one fixed secret, with pullpass.
//!
//! Ratios between neighbours in time are the evidence; times are those of this machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::control_plane::{flag, free_address};
use crate::harness::figures::{Figures, bench_program};
use crate::harness::load::{Question, mean_answer};
use crate::harness::namespace::{Namespace, unscheduled_pod};
use crate::harness::process::Process;
use crate::harness::sandbox;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::harness::webhook::{Reach, Registration, probe};

pub(crate) fn register(trials: &mut Trials) {
    trials.alone("figure_p1_overhead_of_a_pod_create", overhead);
}

/// Rounds; in each one, every peer is measured once, in another order.
const ROUNDS: usize = 9;
/// Pods created at once.
const CONCURRENCY: [usize; 2] = [1, 8];
/// Pods that each of them creates in one round.
const PODS_EACH: usize = 150;
/// Rules that pullpass has. The last one fires.
const RULES: usize = 1_000;

/// The peers, in the order of the table.
const PEERS: [&str; 4] = ["none", "null", "policy", "pullpass"];

fn overhead(cluster: &Cluster) {
    let Shipped {
        url,
        process: _process,
    } = start_shipped(cluster);
    let null = NullWebhook::start(cluster);
    let group = |peer: &str| format!("p1-{peer}");
    Registration::pullpass(&group("null"), Reach::Url(null.url.clone())).create(cluster);
    Registration::pullpass(&group("pullpass"), Reach::Url(url)).create(cluster);
    create_policy(cluster, &group("policy"));
    let namespaces = PEERS.map(|peer| Namespace::create(cluster, peer, &group(peer)));
    for namespace in &namespaces[1..] {
        wait_for("a peer patches", HAPPY, || {
            let pod = namespace.dry_run(&pod())?;
            let is_patched = !pod["spec"]["imagePullSecrets"].is_null();
            if is_patched {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
    }
    let mut figures = Figures::new("p1");
    for concurrency in CONCURRENCY {
        let rounds: Vec<[f64; 4]> = (0..ROUNDS)
            .map(|round| {
                let mut times_ms = [0.0; 4];
                for peer in (0..PEERS.len()).map(|at| (at + round) % PEERS.len()) {
                    times_ms[peer] = create_pods(cluster, &namespaces[peer], peer, concurrency);
                }
                times_ms
            })
            .collect();
        add_rounds(&mut figures, concurrency, &rounds);
    }
    figures.write();
}

/// Creates Pods, and takes them away again. Milliseconds of one create.
fn create_pods(
    cluster: &Cluster,
    namespace: &Namespace<'_>,
    peer: usize,
    concurrency: usize,
) -> f64 {
    let question = Question {
        path: format!("/api/v1/namespaces/{}/pods", namespace.name),
        is_mutated: match PEERS[peer] {
            "none" => |pod| pod["spec"]["imagePullSecrets"].is_null(),
            _ => |pod| pod["spec"]["imagePullSecrets"].is_array(),
        },
        ..cluster.api.ask_for_pod(&namespace.name, &pod())
    };
    let took = mean_answer(&question, concurrency, concurrency * PODS_EACH);
    namespace.kubectl(
        &[
            "delete",
            "pods",
            "--all",
            "--grace-period=0",
            "--force",
            "--wait=false",
        ],
        "",
    );
    wait_for("the Pods are gone", ONE_BACK_OFF, || {
        let left = namespace.list("pods", "limit=1")?;
        if left.is_empty() {
            Ok(())
        } else {
            Err("some are left".to_owned())
        }
    });
    took.as_secs_f64() * 1e3
}

/// Adds what the rounds of one concurrency gave.
fn add_rounds(figures: &mut Figures, concurrency: usize, rounds: &[[f64; 4]]) {
    let mut add = |name: &str, samples: Vec<f64>| {
        figures.add_median(&format!("c{concurrency}_{name}"), samples);
    };
    for (at, peer) in PEERS.iter().enumerate() {
        add(
            &format!("{peer}_ms"),
            rounds.iter().map(|times| times[at]).collect(),
        );
    }
    let ratio = |of: usize, to: usize| rounds.iter().map(|times| times[of] / times[to]).collect();
    add("pullpass_vs_none", ratio(3, 0));
    add("pullpass_vs_null", ratio(3, 1));
    add("pullpass_vs_policy", ratio(3, 2));
}

fn pod() -> Value {
    let mut pod = unscheduled_pod("", &[("app", "registry.example.com/team/app:v1")]);
    pod["metadata"] = json!({"generateName": "app-"});
    pod
}

fn rules() -> String {
    let rule = |number: usize| {
        let image = match number {
            RULES => "registry.example.com".to_owned(),
            _ => format!("registry-{number}.example.com/team-{number}"),
        };
        json!({"name": format!("rule-{number}"), "images": [image], "pullSecrets": ["alpha"]})
    };
    json!({
        "apiVersion": "pullpass.dev/v1alpha1",
        "kind": "PullRules",
        "pullSecrets": [{"name": "alpha"}],
        "rules": (1..=RULES).map(rule).collect::<Vec<_>>(),
    })
    .to_string()
}

/// The API server's own way: one fixed secret.
fn create_policy(cluster: &Cluster, group: &str) {
    let expression = r#"has(object.spec.imagePullSecrets) ? [
        JSONPatch{op: "add", path: "/spec/imagePullSecrets/-",
            value: Object.spec.imagePullSecrets{name: "alpha"}}
    ] : [
        JSONPatch{op: "add", path: "/spec/imagePullSecrets", value: []},
        JSONPatch{op: "add", path: "/spec/imagePullSecrets/-",
            value: Object.spec.imagePullSecrets{name: "alpha"}}
    ]"#;
    let policy = json!({
        "metadata": {"name": group},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"pullpass-test": group}},
                "resourceRules": [{
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods"],
                }],
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    });
    let binding = json!({"metadata": {"name": group}, "spec": {"policyName": group}});
    let group_version = "/apis/admissionregistration.k8s.io/v1";
    for (collection, object) in [
        ("mutatingadmissionpolicies", policy),
        ("mutatingadmissionpolicybindings", binding),
    ] {
        let created = cluster
            .api
            .post(&format!("{group_version}/{collection}"), &object);
        created.expect("the name is new");
    }
}

/// The program as it ships, on loopback as its peer; not the build that other trials try.
fn start_shipped(cluster: &Cluster) -> Shipped {
    let certificate = cluster.webhook_certificate();
    let (address, probes) = (free_address(), free_address());
    let rules_file = cluster.directory("shipped").join("rules.yaml");
    fs::write(&rules_file, rules()).expect("the work directory is writable");
    let mut command = sandbox::pullpass();
    command
        .args(["webhook", "--addr", &address.to_string()])
        .args(["--probe-addr", &probes.to_string()])
        .arg(flag("rules", &rules_file))
        .arg(flag("tls-cert", &certificate.certificate))
        .arg(flag("tls-key", &certificate.key));
    let process = Process::start("pullpass-shipped", &mut command, cluster.logs());
    wait_for("pullpass is ready", HAPPY, || {
        process.check_running()?;
        probe(probes, "/readyz").map(drop)
    });
    Shipped {
        url: format!("https://{address}/mutate"),
        process,
    }
}

/// The running program.
struct Shipped {
    url: String,
    process: Process,
}

/// The webhook that does not look: the same server with another handler. Dropping it ends it.
struct NullWebhook {
    url: String,
    child: Child,
}

impl NullWebhook {
    fn start(cluster: &Cluster) -> Self {
        let site = cluster.directory("null");
        let certificate = cluster.webhook_certificate();
        let copy = |from: &Path, to: &str| fs::copy(from, site.join(to)).expect("it is writable");
        copy(&certificate.certificate, "tls.crt");
        copy(&certificate.key, "tls.key");
        fs::write(site.join("rules.yaml"), rules()).expect("it is writable");
        let mut child = Command::new(bench_program())
            .args(["--serve", "fixed", "--site"])
            .arg(site)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the null webhook was built");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut address = String::new();
        BufReader::new(stdout)
            .read_line(&mut address)
            .expect("it says where it listens");
        Self {
            url: format!("https://{}/mutate", address.trim()),
            child,
        }
    }
}

impl Drop for NullWebhook {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

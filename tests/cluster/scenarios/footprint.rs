//! P5, P7, P8: how soon copies are there, and what the controller needs for it, as the API server and the
//! kernel see it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::{Delivery, payload, secret};
use crate::harness::figures::{Figures, bench_program};
use crate::harness::load::{Question, ask_many};
use crate::harness::trials::Trials;
use crate::harness::watch::{Arrivals, Watch};
use crate::harness::webhook::Pullpass;

pub(crate) fn register(trials: &mut Trials) {
    trials.api(
        "figure_p5_incident_32_unrelated_secrets_cost_no_memory",
        unrelated_secrets,
    );
}

pub(crate) fn register_bench(trials: &mut Trials) {
    trials.alone("figure_p5_memory_of_the_webhook", webhook_memory);
    trials.alone("figure_p7_from_namespace_to_secret", delivery_times);
    trials.alone(
        "figure_p5_p7_p8_incident_33_five_thousand_namespaces",
        many_namespaces,
    );
}

/// Namespaces made one after the other, and how many a second.
const PACED: usize = 100;
const PER_SECOND: u32 = 5;
/// Namespaces made at once.
const BURST: usize = 200;
/// The namespaces of a large cluster.
const MANY: usize = 5_000;
/// Connections that make objects at once.
const CONNECTIONS: usize = 8;
/// Secrets that are nobody's business, and their size in bytes.
const UNRELATED: usize = 5_000;
const UNRELATED_BYTES: usize = 20 * 1024;
/// As many as show within seconds whether they are kept: of [`UNRELATED_BYTES`], they are 10 MiB.
const SOME_UNRELATED: usize = 500;
/// Growth of memory that is none, in MiB.
const GROWTH_MAX_MIB: f64 = 2.0;
/// What client-go lets a client ask, if nobody says otherwise: a second, and at once.
const CLIENT_GO_QPS: f64 = 5.0;
const CLIENT_GO_BURST: usize = 10;
/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(5 * 60);
/// How often it is looked meanwhile.
const QUIET_LOOK: Duration = Duration::from_secs(5);
/// Longest wait for many copies, and for memory to settle.
const LONG: Duration = Duration::from_secs(300);
/// Memory that has not fallen for so long will not fall any more.
const SETTLE: Duration = Duration::from_secs(2);
/// A controller's verbs that change something, as the API server counts them.
const WRITES: [&str; 6] = [
    "APPLY",
    "DELETE",
    "DELETECOLLECTION",
    "PATCH",
    "POST",
    "PUT",
];
/// Every kind that a controller may write, but the Lease, and those that the API server itself writes.
const WRITTEN: [&str; 5] = [
    "configmaps",
    "events",
    "mutatingwebhookconfigurations",
    "secrets",
    "serviceaccounts",
];

/// As `make bench` measures it, but of the program in the image.
fn webhook_memory(_: &Cluster) {
    let mut bench = Command::new(bench_program());
    let output = bench.args(["--bench", "--only", "process"]).output();
    let output = output.expect("`make bench-cluster` built it");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}");
    let measured = |name: &str| {
        let mut lines = table.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{table}"))
    };
    let mut figures = Figures::new("p5_webhook");
    figures.add("rss_mib_1000", measured("rss_mib_1000"));
    figures.add_at_most("rss_mib_100000", measured("rss_mib_100000"), 64.0);
    figures.add_at_most("rss_mib_after_load", measured("rss_mib_after_load"), 16.0);
    figures.write();
}

fn delivery_times(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    let arrivals = Arrivals::of_secret(&cluster.api, "regcred");
    let mut figures = Figures::new("p7");

    let mut times_ms = paced(cluster, &delivery, &arrivals);
    times_ms.sort_by(f64::total_cmp);
    figures.add_at_most("created_to_present_p50_ms", times_ms[PACED / 2], 13.0);
    figures.add_at_most(
        "created_to_present_p99_ms",
        times_ms[PACED * 99 / 100],
        60.0,
    );

    let took = at_once(&cluster.api, &arrivals, &delivery.name_of("burst"), BURST);
    figures.add_at_most("burst_of_200_s", took.as_secs_f64(), 2.0);

    let prefix = cluster.unique("limited");
    let _peer = limited_patcher(&cluster.api, &prefix);
    let took = at_once(&cluster.api, &arrivals, &prefix, BURST);
    figures.add("burst_of_200_client_go_limit_s", took.as_secs_f64());
    figures.write();
}

/// Milliseconds from the answer to a namespace's creation to its Secret, at a steady rate.
fn paced(cluster: &Cluster, delivery: &Delivery<'_>, arrivals: &Arrivals) -> Vec<f64> {
    let start = Instant::now();
    let mut answered = BTreeMap::new();
    for number in 0..PACED {
        let due = Duration::from_secs(1) / PER_SECOND * u32::try_from(number).expect("few");
        thread::sleep(due.saturating_sub(start.elapsed()));
        let name = delivery.name_of(&format!("paced-{number}"));
        let object = json!({"metadata": {"name": name}});
        let created = cluster.api.post("/api/v1/namespaces", &object);
        created.expect("the name is new");
        answered.insert(name, Instant::now());
    }
    let names: Vec<String> = answered.keys().cloned().collect();
    let present = arrivals.in_all(&names, LONG).into_iter();
    present
        .zip(answered.into_values())
        .map(|(present, answered)| present.saturating_duration_since(answered).as_secs_f64() * 1e3)
        .collect()
}

/// Makes namespaces as fast as it goes. Gives the time from before the first to the last Secret.
fn at_once(api: &Api, arrivals: &Arrivals, prefix: &str, count: usize) -> Duration {
    let start = Instant::now();
    let namespaces = make_namespaces(api, prefix, count);
    let present = arrivals.in_all(&namespaces, LONG).into_iter().max();
    present.expect("there are some").duration_since(start)
}

fn make_namespaces(api: &Api, prefix: &str, count: usize) -> Vec<String> {
    let names = Arc::new(Mutex::new(Vec::new()));
    let made = Arc::clone(&names);
    let object = json!({"metadata": {"generateName": format!("{prefix}-")}});
    let question = question(api, "/api/v1/namespaces", &object);
    ask_many(&question, CONNECTIONS, count, move |namespace| {
        let name = namespace["metadata"]["name"].as_str().expect("a name");
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(name.to_owned());
    });
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.clone()
}

fn question(api: &Api, path: &str, object: &Value) -> Question {
    Question {
        path: path.to_owned(),
        is_mutated: |_| true,
        ..api.ask_for_pod("default", object)
    }
}

/// What a patcher does that is written with client-go and left at its rate limit: a Secret for each new
/// namespace. Real ones ask twice or more for each.
fn limited_patcher(api: &Api, prefix: &str) -> Watch {
    let (writer, prefix) = (api.clone(), format!("{prefix}-"));
    let start = Instant::now();
    let mut asked = 0;
    Watch::start(api, "/api/v1/namespaces?watch=true", move |event| {
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        if event["type"] != "ADDED" || !name.starts_with(&prefix) {
            return;
        }
        asked += 1;
        let wait = (asked as f64 - CLIENT_GO_BURST as f64) / CLIENT_GO_QPS;
        thread::sleep(Duration::from_secs_f64(wait.max(0.0)).saturating_sub(start.elapsed()));
        let path = format!("/api/v1/namespaces/{name}/secrets");
        let created = writer.post(&path, &secret("regcred", &payload("first")));
        created.expect("the namespace is new");
    })
}

/// A control plane of its own, of an API server and etcd only, full of namespaces.
fn many_namespaces(shared: &Cluster) {
    let cluster = &shared.another();
    let (_server, observed) = cluster.another_api_server();
    let before = Seen::at(&observed);
    let mut delivery = Delivery::of_regcred_at(cluster, &observed);
    delivery.until_indexed("regcred", |secret| secret["state"] == "usable");
    let webhook = Pullpass::following(cluster, delivery.own(), &cluster.plane.kubeconfig);
    webhook.until_ready();
    cluster.plane.stop_controllers();
    let arrivals = Arrivals::of_secret(&cluster.api, "regcred");

    let mut figures = Figures::new("p7_many");
    let took = at_once(&cluster.api, &arrivals, &delivery.name_of("many"), MANY);
    figures.add_at_most("namespaces_5000_s", took.as_secs_f64(), 60.0);
    figures.write();

    let mut figures = Figures::new("p5");
    let warm = settled(|| delivery.controller.memory_mib("VmRSS"));
    figures.add_at_most("controller_5000_namespaces_mib", warm, 64.0);
    figures.add(
        "webhook_5000_namespaces_mib",
        settled(|| webhook.memory_mib("VmRSS")),
    );
    let cold = cold_start(&mut delivery, &observed);
    figures.add_at_most("controller_5000_namespaces_started_mib", cold, 64.0);
    make_secrets(
        cluster,
        &delivery.own().name.replace("deliver", "unrelated"),
        UNRELATED,
    );
    let growth = settled(|| delivery.controller.memory_mib("VmRSS")) - cold;
    figures.add_at_most("controller_unrelated_secrets_mib", growth, GROWTH_MAX_MIB);
    let growth = cold_start(&mut delivery, &observed) - cold;
    figures.add_at_most(
        "controller_unrelated_secrets_started_mib",
        growth,
        GROWTH_MAX_MIB,
    );
    figures.write();

    quiet_minutes(&observed, &before);
}

/// Memory of a controller that starts now, once it leads and has seen everything.
fn cold_start(delivery: &mut Delivery<'_>, api: &Api) -> f64 {
    delivery.restart_at(api);
    delivery.until_counted("regcred", "present", MANY as f64);
    settled(|| delivery.controller.memory_mib("VmRSS"))
}

/// Memory once it no longer falls.
fn settled(memory_mib: impl Fn() -> f64) -> f64 {
    let mut least = memory_mib();
    loop {
        thread::sleep(SETTLE);
        let now = memory_mib();
        if now >= least {
            return now;
        }
        least = now;
    }
}

/// Secrets that no rule names, in a namespace of their own.
fn make_secrets(cluster: &Cluster, namespace: &str, count: usize) {
    let object = json!({"metadata": {"name": namespace}});
    let created = cluster.api.post("/api/v1/namespaces", &object);
    created.expect("the name is new");
    let object = json!({
        "metadata": {"generateName": "unrelated-"},
        "stringData": {"bytes": "x".repeat(UNRELATED_BYTES)},
    });
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    ask_many(
        &question(&cluster.api, &path, &object),
        CONNECTIONS,
        count,
        drop,
    );
}

/// What the API server counted of its clients: itself, a controller, and who reads this.
struct Seen {
    metrics: String,
}

impl Seen {
    fn at(api: &Api) -> Self {
        let metrics = api.text("/metrics").expect("the API server counts");
        Self { metrics }
    }

    /// The sum of a metric by resource, over the series that `is_counted`.
    fn by_resource(&self, metric: &str, is_counted: impl Fn(&str) -> bool) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for line in self.metrics.lines() {
            let series = line
                .strip_prefix(metric)
                .and_then(|rest| rest.strip_prefix('{'));
            let Some((labels, value)) = series.and_then(|rest| rest.rsplit_once("} ")) else {
                continue;
            };
            let resource = labels
                .split_once("resource=\"")
                .and_then(|(_, rest)| rest.split_once('"'));
            if let Some((resource, _)) = resource.filter(|_| is_counted(labels)) {
                *sums.entry(resource).or_default() += value.parse::<f64>().unwrap_or_default();
            }
        }
        sums
    }

    fn requests(&self, verbs: &[&str]) -> BTreeMap<&str, f64> {
        self.by_resource("apiserver_request_total", |labels| {
            verbs
                .iter()
                .any(|verb| labels.contains(&format!("verb=\"{verb}\"")))
        })
    }

    fn watches(&self) -> BTreeMap<&str, f64> {
        self.by_resource("apiserver_longrunning_requests", |labels| {
            labels.contains("verb=\"WATCH\"")
        })
    }
}

/// Nothing is written while nothing changes, and there is one watch of each kind, and of each name of
/// copies. `before` is from before the controller's start.
fn quiet_minutes(observed: &Api, before: &Seen) {
    let first = Seen::at(observed);
    let own = before.watches();
    let start = Instant::now();
    let mut watches: BTreeMap<String, f64> = BTreeMap::new();
    let mut last = Seen::at(observed);
    while start.elapsed() < QUIET {
        thread::sleep(QUIET_LOOK);
        last = Seen::at(observed);
        for (resource, open) in last.watches() {
            let ours = open - own.get(resource).copied().unwrap_or_default();
            let most = watches.entry(resource.to_owned()).or_default();
            *most = most.max(ours);
        }
    }
    let mut figures = Figures::new("p8");
    let since = |verbs: &[&str], resource: &str| {
        let of = |seen: &Seen| seen.requests(verbs).get(resource).copied();
        of(&last).unwrap_or_default() - of(&first).unwrap_or_default()
    };
    for resource in WRITTEN {
        figures.add_at_most(&format!("writes_{resource}"), since(&WRITES, resource), 0.0);
    }
    // Of the election. The API server puts its own.
    figures.add("lease_renewals", since(&["APPLY", "PATCH"], "leases"));
    let expected = [
        // Rules and index, each by its name.
        ("configmaps", 2.0),
        ("namespaces", 1.0),
        // Those of our own namespace, and the copies of one name.
        ("secrets", 2.0),
        ("serviceaccounts", 1.0),
    ];
    for (resource, goal) in expected {
        let open = watches.get(resource).copied().unwrap_or_default();
        figures.add_at_most(&format!("watches_{resource}"), open, goal);
    }
    figures.write();
    watches.retain(|_, open| *open > 0.0);
    let watches: Vec<(&str, f64)> = watches
        .iter()
        .map(|(name, open)| (&**name, *open))
        .collect();
    assert_eq!(watches, expected);
    for resource in WRITTEN {
        assert_eq!(since(&WRITES, resource), 0.0, "writes of {resource}");
    }
}

/// Neither while they are made nor later: nothing of a Secret is kept that no rule names.
fn unrelated_secrets(cluster: &Cluster) {
    let delivery = Delivery::of_regcred(cluster);
    let namespace = delivery.namespace("before");
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    let before = delivery.controller.memory_mib("RssAnon");
    make_secrets(cluster, &cluster.unique("unrelated"), SOME_UNRELATED);
    // It has been at work since.
    let namespace = delivery.namespace("after");
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    let growth = delivery.controller.memory_mib("RssAnon") - before;
    println!("incident 32: {SOME_UNRELATED} unrelated Secrets: {growth:.2} MiB more");
    assert!(growth <= GROWTH_MAX_MIB, "{growth} MiB more");
}

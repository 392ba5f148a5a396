//! Entries in the `imagePullSecrets` of ServiceAccounts: appended, put back, taken out again, and nobody
//! else's lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::api::Answer;
use crate::harness::cluster::Cluster;
use crate::harness::delivery::{ATTACHED, Delivery, at_once, listed, payload, secret};
use crate::harness::namespace::{Namespace, docker_config, pull_secrets_of, unscheduled_pod};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, until_counts_within, wait_for, writes_max};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.node("attach_scenario_37_daemon_set_of_the_system", daemon_set);
    // A ratio of times, which other trials beside it would move.
    trials.alone("attach_scenario_41_beside_a_patcher", beside_a_patcher);
    trials.api(
        "attach_scenario_36_incident_12_all_accounts_and_later_ones",
        all_accounts,
    );
    trials.api("attach_incident_34_six_writes_a_minute", fight);
    trials.api(
        "attach_scenario_38_another_patcher_loses_nothing",
        another_patcher,
    );
    trials.api("attach_incident_21_ends_with_the_rules", end_of_rules);
    trials.api("attach_missing_permission_is_said", permission);
    trials.api(
        "attach_incident_26_the_fence_lets_nothing_else_through",
        fence,
    );
}

/// The annotation of what is attached.
const ANNOTATION: &str = "pullpass.dev/attached";

/// Makes a ServiceAccount, and says how long its entry took.
fn make_account(delivery: &Delivery<'_>, namespace: &Namespace<'_>, account: &str) -> Duration {
    let start = Instant::now();
    let object = json!({"metadata": {"name": account}});
    namespace.create_object("serviceaccounts", &object);
    delivery.until_listed(namespace, account, &["regcred"]);
    start.elapsed()
}

fn all_accounts(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    let namespace = delivery.namespace("a");
    delivery.until_listed(&namespace, "default", &["regcred"]);
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    let later = make_account(&delivery, &namespace, "later");
    println!("scenario 36: a new account has its entry after {later:?}");
    let pod = unscheduled_pod("app", &[("app", "registry.example.com/app")]);
    let pod = namespace.dry_run(&pod).expect("a Pod");
    assert_eq!(pull_secrets_of(&pod), ["regcred"]);

    // As a person would.
    let start = Instant::now();
    namespace.set_account_secrets("default", &["x"]);
    delivery.until_listed(&namespace, "default", &["x", "regcred"]);
    println!(
        "scenario 36: it is back in a replaced list after {:?}",
        start.elapsed()
    );
    let account = namespace
        .get("serviceaccounts", "default")
        .expect("it is there");
    let recorded = format!("{}/regcred", delivery.instance());
    assert_eq!(
        account["metadata"]["annotations"],
        json!({ANNOTATION: recorded})
    );
    // What was in a list without us is nobody's to record.
    let mine = json!({"metadata": {"name": "mine"}, "imagePullSecrets": [{"name": "regcred"}]});
    let mine = namespace.create_object("serviceaccounts", &mine);
    make_account(&delivery, &namespace, "last");
    let now = namespace
        .get("serviceaccounts", "mine")
        .expect("it is there");
    assert_eq!(
        now["metadata"]["resourceVersion"],
        mine["metadata"]["resourceVersion"]
    );
    // One for each new entry, and one for the replaced list.
    delivery.until_wrote_accounts(4);
    delivery.until_attached("regcred", "present", 4.0);
}

fn fight(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    let start = Instant::now();
    let namespace = delivery.namespace("fought");
    delivery.until_listed(&namespace, "default", &["regcred"]);
    for _ in 0..5 {
        namespace.set_account_secrets("default", &["x"]);
        delivery.until_listed(&namespace, "default", &["x", "regcred"]);
    }
    delivery.until_wrote_accounts(6);
    namespace.set_account_secrets("default", &["x"]);
    // Others do not wait for it.
    make_account(&delivery, &namespace, "other");
    let account = namespace
        .get("serviceaccounts", "default")
        .expect("it is there");
    // A slow machine may be in the next minute by now.
    let is_over = || writes_max(start) > 6.0;
    assert!(
        listed(&account) == ["x"] || is_over(),
        "six writes in a minute are enough"
    );
    let most = || writes_max(start) + 1.0;
    until_counts_within("accounts written", 7.0, most, || delivery.account_writes());
    wait_for("the entry is missed", HAPPY, || {
        let series = "pullpass_attached{secret=\"regcred\",state=\"missing\"}";
        let missing = delivery.controller.metric(series);
        (missing == 1.0 || is_over())
            .then_some(())
            .ok_or_else(|| missing.to_string())
    });
}

/// The one that adds its entry to the list of an account: reads, changes, and writes over the version that
/// it read.
struct AddOn<'a> {
    namespace: &'a Namespace<'a>,
    account: String,
    cluster: &'a Cluster,
    /// Whether its entry is there, by what it wrote last.
    has: bool,
}

impl AddOn<'_> {
    const ENTRY: &'static str = "of-the-add-on";

    /// Takes its entry out of, or puts it into, the list; false if somebody was faster.
    fn turn(&mut self) -> bool {
        let account = self.namespace.get("serviceaccounts", &self.account);
        let mut account = account.expect("it is there");
        let mut names: Vec<String> = listed(&account).iter().map(ToString::to_string).collect();
        let has = names.iter().any(|name| name == Self::ENTRY);
        assert_eq!(has, self.has, "somebody else changed its entry: {account}");
        if has {
            names.retain(|name| name != Self::ENTRY);
        } else {
            names.insert(0, Self::ENTRY.to_owned());
        }
        account["imagePullSecrets"] = names.iter().map(|name| json!({"name": name})).collect();
        let answer = self.request("PUT", "application/json", &account);
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        self.has ^= answer.status == 200;
        answer.status == 200
    }

    fn request(&self, method: &str, kind: &str, body: &Value) -> Answer {
        let (namespace, account) = (&self.namespace.name, &self.account);
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}");
        let answer = self.cluster.api.request(method, &path, kind, Some(body));
        answer.expect("an answer")
    }
}

/// It begins when the account is new, at the moment at which ours comes, and goes on.
fn another_patcher(cluster: &Cluster) {
    const NAMESPACES: usize = 4;
    const ACCOUNTS: usize = 8;
    const TURNS: usize = 9;
    let delivery = Delivery::attaching(cluster);
    let namespaces: Vec<_> = (0..NAMESPACES)
        .map(|n| delivery.namespace(&n.to_string()))
        .collect();
    for namespace in &namespaces {
        delivery.until_listed(namespace, "default", &["regcred"]);
    }
    let add_ons = at_once(NAMESPACES, |index| {
        let add = |n| {
            let namespace = &namespaces[index];
            let account = format!("account-{n}");
            let object = json!({"metadata": {"name": account}});
            namespace.create_object("serviceaccounts", &object);
            let mut add_on = AddOn {
                namespace,
                account,
                cluster,
                has: false,
            };
            let done = (0..TURNS).filter(|_| add_on.turn()).count();
            while !add_on.has {
                add_on.turn();
            }
            (add_on, done)
        };
        (0..ACCOUNTS).map(add).collect::<Vec<_>>()
    });
    let add_ons: Vec<_> = add_ons.into_iter().flatten().collect();
    for (
        AddOn {
            namespace, account, ..
        },
        _,
    ) in &add_ons
    {
        delivery.until_listed(namespace, account, &[AddOn::ENTRY, "regcred"]);
    }
    // Nobody took ours out, so each was written once.
    delivery.until_wrote_accounts(NAMESPACES + add_ons.len());
    let done: usize = add_ons.iter().map(|(_, done)| done).sum();
    let refused = TURNS * add_ons.len() - done;
    println!("scenario 38: {done} turns of an add-on, {refused} refused since we were faster");
    assert!(delivery.installation.events("AccountRefused").is_empty());

    // What we write over a version that is not there any more: refused.
    let patch = json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": "1"},
        {"op": "add", "path": "/imagePullSecrets", "value": []},
    ]);
    let (add_on, _) = &add_ons[0];
    let answer = add_on.request("PATCH", "application/json-patch+json", &patch);
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert!(
        answer.body["details"].get("kind").is_none(),
        "{}",
        answer.body
    );
}

fn end_of_rules(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    let namespace = delivery.namespace("a");
    delivery.until_listed(&namespace, "default", &["regcred"]);
    namespace.set_account_secrets("default", &["x"]);
    delivery.until_listed(&namespace, "default", &["x", "regcred"]);
    make_account(&delivery, &namespace, "build");
    let one = ATTACHED.replace("\"*\"", "build");
    delivery.set_pull_secrets(&one);
    delivery.until_listed(&namespace, "default", &["x"]);
    delivery.until_listed(&namespace, "build", &["regcred"]);
    // Noticed by a controller that never saw the former rules.
    delivery.controller.terminate();
    wait_for("it ends", HAPPY, || {
        delivery.controller.exit_code().ok_or_else(String::new)
    });
    delivery.set_pull_secrets("");
    let next = delivery
        .installation
        .controller(&["--delivery", "--certificates", "none"]);
    delivery.until_listed(&namespace, "build", &[]);
    delivery.until_gone(&namespace, "regcred");
    wait_for("nothing is left to be remembered", HAPPY, || {
        let index = delivery.index()?;
        index
            .get("attached")
            .is_none()
            .then_some(())
            .ok_or_else(|| index.to_string())
    });
    for account in ["default", "build"] {
        let account = namespace
            .get("serviceaccounts", account)
            .expect("it is there");
        assert!(
            account["metadata"].get("annotations").is_none(),
            "{account}"
        );
    }
    drop(next);
}

fn permission(cluster: &Cluster) {
    let delivery = Delivery::start(cluster, &["regcred"], ATTACHED);
    delivery.make_source("regcred", &payload("first"));
    let namespace = delivery.namespace("a");
    delivery.until_copied(&namespace, "regcred", &payload("first"));
    delivery.until_said("PermissionMissing", "Set delivery.serviceAccounts to true");
    delivery.until_attached("regcred", "failing", 1.0);
    delivery.installation.grant_attachment();
    wait_for(
        "its entry, after the longest pause at most",
        Duration::from_secs(120),
        || {
            let account = namespace.get("serviceaccounts", "default")?;
            (listed(&account) == ["regcred"])
                .then_some(())
                .ok_or_else(|| account.to_string())
        },
    );
    delivery.until_attached("regcred", "failing", 0.0);
}

/// What the admission policy of the chart keeps the controller's account from, which RBAC would let it do.
fn fence(cluster: &Cluster) {
    let delivery = Delivery::attaching(cluster);
    let namespace = delivery.namespace("a");
    delivery.until_listed(&namespace, "default", &["regcred"]);
    namespace.set_account_secrets("default", &["x"]);
    delivery.until_listed(&namespace, "default", &["x", "regcred"]);
    let account = format!("--as={}", delivery.account());
    let patch = |patch: &Value| {
        let patch = patch.to_string();
        let arguments = [
            "patch",
            "serviceaccount",
            "default",
            "--type=merge",
            "--dry-run=server",
            &account,
            "--namespace",
            &namespace.name,
            "-p",
            &patch,
        ];
        cluster.kubectl.try_run(&arguments, "")
    };
    let secrets = |names: &[&str]| -> Value {
        let list: Value = names.iter().map(|name| json!({"name": name})).collect();
        json!({"imagePullSecrets": list})
    };
    wait_for("the policy is in force", HAPPY, || {
        match patch(&secrets(&["x", "y"])) {
            Err(error) if error.contains("ValidatingAdmissionPolicy") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for (forbidden, why) in [
        (secrets(&["x", "regcred", "token"]), "may attach only"),
        (secrets(&["regcred"]), "may take only"),
        (secrets(&[]), "may take only"),
        (json!({"secrets": [{"name": "x"}]}), "may change only"),
        (
            json!({"automountServiceAccountToken": true}),
            "may change only",
        ),
        (
            json!({"metadata": {"labels": {"a": "b"}}}),
            "may change only",
        ),
        (
            json!({"metadata": {"finalizers": ["a.b/c"]}}),
            "may change only",
        ),
        (
            json!({"metadata": {"annotations": {"eks.amazonaws.com/role-arn": "x"}}}),
            "may change only",
        ),
    ] {
        let error = patch(&forbidden).expect_err(&forbidden.to_string());
        assert!(error.contains(why), "{forbidden}: {error}");
    }
    patch(&secrets(&["x"])).expect("it is its own entry");
}

/// As many calls as client-go lets through that nobody has configured: 5 a second after a burst of 10.
struct Throttle {
    start: Instant,
    calls: u32,
}

impl Throttle {
    const BURST: u32 = 10;
    const PER_SECOND: u32 = 5;

    fn new() -> Self {
        Self {
            start: Instant::now(),
            calls: 0,
        }
    }

    fn wait(&mut self) {
        self.calls += 1;
        let due =
            Duration::from_secs(1) * self.calls.saturating_sub(Self::BURST) / Self::PER_SECOND;
        std::thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}

/// What patchers of ServiceAccounts do, call by call: a copy for each namespace, its accounts, a patch for
/// each account that does not name it.
fn patch_all(cluster: &Cluster, namespaces: &[String], source: &Value) -> Duration {
    let mut throttle = Throttle::new();
    let patch = json!({"imagePullSecrets": [{"name": "regcred"}]});
    for name in namespaces {
        let namespace = format!("/api/v1/namespaces/{name}");
        throttle.wait();
        let made = cluster.api.post(&format!("{namespace}/secrets"), source);
        made.expect("it is new");
        throttle.wait();
        let list = cluster
            .api
            .get(&format!("{namespace}/serviceaccounts"))
            .expect("a list");
        for account in list["items"].as_array().into_iter().flatten() {
            throttle.wait();
            let account = account["metadata"]["name"].as_str().expect("a name");
            let path = format!("{namespace}/serviceaccounts/{account}");
            cluster.api.merge(&path, &patch).expect("it is there");
        }
    }
    throttle.start.elapsed()
}

fn beside_a_patcher(cluster: &Cluster) {
    const NAMESPACES: usize = 40;
    let delivery = Delivery::attaching(cluster);
    let prefix = cluster.unique("patched");
    let theirs: Vec<String> = (0..NAMESPACES).map(|n| format!("{prefix}-{n}")).collect();
    for name in &theirs {
        Namespace::create_labelled(cluster, name, &json!({}));
    }
    let patcher = patch_all(cluster, &theirs, &secret("regcred", &payload("first")));

    // The same whole cluster for pullpass: everything is there but the entry in the rules.
    delivery.set_pull_secrets("");
    let ours: Vec<_> = (0..NAMESPACES)
        .map(|n| delivery.namespace(&n.to_string()))
        .collect();
    let is_ours = |object: &Value| {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        namespace.starts_with(&delivery.name_of(""))
    };
    let count = |path: &str, is_done: fn(&Value) -> bool| -> Result<usize, String> {
        let list = cluster.api.get(&format!("/api/v1/{path}"))?;
        let all = list["items"].as_array().into_iter().flatten();
        Ok(all
            .filter(|object| is_ours(object) && is_done(object))
            .count())
    };
    let copies = || count("secrets?fieldSelector=metadata.name=regcred", |_| true);
    let entries = || count("serviceaccounts", |account| listed(account) == ["regcred"]);
    assert_eq!((copies(), entries()), (Ok(0), Ok(0)));
    let start = Instant::now();
    delivery.set_pull_secrets(ATTACHED);
    wait_for("every copy and entry", HAPPY, || {
        let found = (copies()?, entries()?);
        (found == (ours.len(), ours.len()))
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    let pullpass = start.elapsed();
    let ratio = patcher.as_secs_f64() / pullpass.as_secs_f64();
    println!(
        "scenario 41: {NAMESPACES} namespaces with all their accounts: a patcher {patcher:.2?}, pullpass \
         {pullpass:.2?}, {ratio:.0} times as fast"
    );
    assert!(ratio >= 10.0, "{ratio}");
}

/// A DaemonSet of kube-system, where no webhook of ours is asked (the chart's tests hold that): its Pods
/// pull because kube-system is written out in the rules, and the ServiceAccount names the copy.
fn daemon_set(cluster: &Cluster) {
    let name = cluster.unique("regcred");
    let entry = format!("{{name: {name}, namespaces: [kube-system], serviceAccounts: [{name}]}}");
    let delivery = Delivery::start(cluster, &[&name], "");
    delivery.installation.grant_attachment();
    let login = docker_config(&[ALPHA.entry()]).to_string();
    delivery.make_source(&name, &login);
    delivery.set_pull_secrets(&entry);
    let system = Namespace::existing(cluster, "kube-system");
    system.create_object("serviceaccounts", &json!({"metadata": {"name": name}}));
    delivery.until_listed(&system, &name, &[&name]);
    delivery.until_copied(&system, &name, &login);
    let image = cluster.registries().fresh(ALPHA.host, "system/agent");
    let mut pod = unscheduled_pod("app", &[("app", &image)]);
    pod["spec"]["serviceAccountName"] = json!(name);
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("schedulerName");
    }
    let labels = json!({"app": name});
    let object = json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod["spec"]},
        },
    });
    let sets = "/apis/apps/v1/namespaces/kube-system/daemonsets";
    cluster.api.post(sets, &object).expect("it is new");
    let pod = wait_for("its Pod runs", HAPPY, || {
        let pods = system.list("pods", &format!("labelSelector=app={name}"))?;
        let running = pods.iter().find(|pod| pod["status"]["phase"] == "Running");
        running.cloned().ok_or_else(|| format!("{pods:?}"))
    });
    assert_eq!(pull_secrets_of(&pod), [&*name]);
    system.assert_pulled_at_once(pod["metadata"]["name"].as_str().expect("a name"));
    let deleted = cluster.api.delete(&format!("{sets}/{name}"));
    deleted.expect("it is there");
    // Other trials look at kube-system too.
    delivery.set_pull_secrets("");
    delivery.until_listed(&system, &name, &[]);
    delivery.until_gone(&system, &name);
}

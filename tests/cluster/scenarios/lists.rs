//! What happens to the list itself, on the API server's own object: nothing lost, nothing twice,
//! order kept, no other field touched.

use serde_json::{Value, json};

use super::{IMAGE, RULES};
use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, container, pod, pull_secrets_of, unscheduled_pod};
use crate::harness::stub::{Reaction, Stub};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::{Injection, Reach, Registration};
use crate::registry::{ALPHA, BETA};

pub(crate) fn register(trials: &mut Trials) {
    trials.api("scenario_06_the_list_is_there_already", scenario_06);
    trials.node(
        "scenario_06_service_account_secrets_live_on_the_node",
        scenario_06_node,
    );
    trials.api("scenario_13_only_image_pull_secrets_change", scenario_13);
    trials.api(
        "scenario_15_incident_38_another_webhook_before_and_after",
        scenario_15,
    );
    trials.api("opt_out_annotation_is_obeyed", opt_out);
    trials.api("dry_run_shows_the_injected_list", dry_run);
    trials.api(
        "incident_13_update_and_delete_of_an_injected_pod",
        incident_13,
    );
}

/// A namespace for `injection` whose ServiceAccount `default` names these pull secrets.
fn namespace_with_account<'a>(injection: &Injection<'a>, secrets: &[&str]) -> Namespace<'a> {
    let namespace = injection.namespace("lists");
    namespace.set_account_secrets("default", secrets);
    namespace
}

fn scenario_06(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    // (ServiceAccount's list, Pod's list, what becomes of it)
    let cases: [(&[&str], Value, &[&str]); 9] = [
        (&[], json!(null), &["alpha"]),
        (&[], json!([]), &["alpha"]),
        (&[], json!([{"name": "alpha"}]), &["alpha"]),
        (
            &[],
            json!([{"name": "z"}, {"name": "b"}]),
            &["z", "b", "alpha"],
        ),
        (&["alpha"], json!(null), &["alpha"]),
        (&["y", "alpha", "c"], json!(null), &["y", "alpha", "c"]),
        (&["y", "c"], json!(null), &["y", "c", "alpha"]),
        // A Pod with a list of its own gets nothing from its ServiceAccount.
        (&["y", "c"], json!([{"name": "z"}]), &["z", "alpha"]),
        (
            &["alpha"],
            json!([{"name": "z"}, {"name": "alpha"}]),
            &["z", "alpha"],
        ),
    ];
    for (account, list, expected) in cases {
        let namespace = namespace_with_account(&injection, account);
        let mut pod = unscheduled_pod("app", &[("app", IMAGE)]);
        pod["spec"]["imagePullSecrets"] = list.clone();
        let created = namespace.create_object("pods", &pod);
        assert_eq!(
            pull_secrets_of(&created),
            expected,
            "account {account:?}, Pod {list}"
        );
    }
}

fn scenario_06_node(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret()]);
    let namespace = namespace_with_account(&injection, &["beta"]);
    namespace.create_object("secrets", &BETA.secret());
    let images = [ALPHA.host, BETA.host].map(|host| kit.fresh(host, "team/app"));
    namespace.create_object("pods", &pod("app", &[("a", &images[0]), ("b", &images[1])]));
    assert_eq!(
        pull_secrets_of(&namespace.running("app")),
        ["beta", "alpha"]
    );
}

fn scenario_13(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    let mut pod = unscheduled_pod("app", &[("app", IMAGE)]);
    pod["spec"]["volumes"] = json!([{"name": "keys", "secret": {"secretName": "opaque"}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!([{"name": "keys", "mountPath": "/keys"}]);
    container["envFrom"] = json!([{"secretRef": {"name": "opaque"}}]);
    container["env"] = json!([{"name": "PASSWORD", "valueFrom": {
        "secretKeyRef": {"name": "opaque", "key": "password"},
    }}]);
    let [mut injected, mut bare] = [&injection.group, "none"].map(|group| {
        let namespace = Namespace::create(cluster, "opaque", group);
        namespace.create_object("secrets", &json!({"metadata": {"name": "opaque"}}));
        namespace.create_object("pods", &pod)
    });
    assert_eq!(pull_secrets_of(&injected), ["alpha"]);
    injected["spec"]
        .as_object_mut()
        .expect("a spec")
        .remove("imagePullSecrets");
    for object in [&mut injected, &mut bare] {
        forget_identity(object);
    }
    assert_eq!(injected, bare);
}

/// Removes what differs between any two Pods: names of objects, times, the random volume name.
fn forget_identity(pod: &mut Value) {
    let metadata = pod["metadata"].as_object_mut().expect("an object");
    for field in [
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
    ] {
        metadata.remove(field);
    }
    let text = pod.to_string();
    let token = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|volume| {
            volume["name"]
                .as_str()
                .filter(|name| name.starts_with("kube-api-access-"))
        });
    if let Some(token) = token {
        *pod = serde_json::from_str(&text.replace(token, "kube-api-access")).expect("still JSON");
    }
}

fn scenario_15(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    // The API server calls configurations in the order of their names; ours starts with "pullpass".
    for (order, prefix) in [("before", "a"), ("after", "z")] {
        for (what, operations) in OTHER_WEBHOOKS {
            let stub = Stub::start(cluster, move |review| Reaction::Patch(operations(review)));
            let group = cluster.unique("scenario-15");
            Registration {
                name: format!("{prefix}-{group}"),
                webhook: "pods.other.example.com".to_owned(),
                group: group.clone(),
                reach: Reach::Url(stub.url()),
            }
            .create(cluster);
            let ours = Registration::pullpass(&group, Reach::Url(injection.pullpass.url()));
            ours.create(cluster);
            let namespace = Namespace::create(cluster, "two-webhooks", &group);
            // The image of the Pod itself is covered only where the other adds the same name.
            let image = if what == "same name" {
                IMAGE
            } else {
                "public.example.com/app"
            };
            let created =
                namespace.create_object("pods", &unscheduled_pod("app", &[("app", image)]));
            let case = format!("{what}, {order} ours");
            assert_eq!(pull_secrets_of(&created), ["alpha"], "{case}");
            assert!(
                !stub.heard().is_empty(),
                "{case}: the other webhook was not called"
            );
        }
    }
}

/// What another webhook does with a review: the JSON patch it makes of it.
type Injector = fn(&Value) -> Value;

/// Each does its work once, whatever order it is called in.
const OTHER_WEBHOOKS: [(&str, Injector); 3] = [
    ("same name", add_the_same_name),
    ("private sidecar", add_a_private_sidecar),
    ("private init container", add_a_private_init_container),
];

fn add_the_same_name(review: &Value) -> Value {
    let alpha = json!({"name": "alpha"});
    match review["request"]["object"]["spec"]["imagePullSecrets"].as_array() {
        None => json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": [alpha]}]),
        Some(list) if list.contains(&alpha) => json!([]),
        Some(_) => json!([{"op": "add", "path": "/spec/imagePullSecrets/-", "value": alpha}]),
    }
}

fn add_a_private_sidecar(review: &Value) -> Value {
    let containers = review["request"]["object"]["spec"]["containers"].as_array();
    if containers.is_some_and(|containers| containers.len() > 1) {
        return json!([]);
    }
    json!([{"op": "add", "path": "/spec/containers/-", "value": container("sidecar", IMAGE)}])
}

fn add_a_private_init_container(review: &Value) -> Value {
    if review["request"]["object"]["spec"]["initContainers"].is_array() {
        return json!([]);
    }
    json!([{"op": "add", "path": "/spec/initContainers", "value": [container("init", IMAGE)]}])
}

fn opt_out(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    let namespace = injection.namespace("opt-out");
    for (value, expected) in [("false", &[][..]), ("true", &["alpha"])] {
        let mut pod = unscheduled_pod(&format!("app-{value}"), &[("app", IMAGE)]);
        pod["metadata"]["annotations"] = json!({"pullpass.dev/inject": value});
        let created = namespace.create_object("pods", &pod);
        assert_eq!(
            pull_secrets_of(&created),
            expected,
            "pullpass.dev/inject: {value:?}"
        );
    }
    assert!(injection.pullpass.answered("opted_out") > 0.0);
}

fn dry_run(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    let namespace = injection.namespace("dry-run");
    let manifest = unscheduled_pod("app", &[("app", IMAGE)]).to_string();
    let arguments = [
        "create",
        "--dry-run=server",
        "-n",
        &namespace.name,
        "-f",
        "-",
    ];
    let shown = cluster.kubectl.json(&arguments, &manifest);
    assert_eq!(pull_secrets_of(&shown), ["alpha"]);
    let error = namespace
        .get("pods", "app")
        .expect_err("nothing was created");
    assert!(error.starts_with("404"), "{error}");
}

fn incident_13(cluster: &Cluster) {
    let injection = Injection::start(cluster, RULES, &[]);
    // A careless configuration sends everything; an injected list is immutable, so a patch on an
    // update would make the Pod impossible to change.
    let careless = cluster.unique("careless");
    let ours = Registration::pullpass(&careless, Reach::Url(injection.pullpass.url()));
    ours.create_for(cluster, &["*"], &["pods", "pods/*"]);
    let namespace = Namespace::create(cluster, "careless", &careless);
    namespace.create_object("pods", &unscheduled_pod("app", &[("app", IMAGE)]));
    let rename = json!({
        "metadata": {"labels": {"changed": "yes"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example.com/team/app:v2"}]},
    });
    namespace.kubectl(&["patch", "pod", "app", "-p", &rename.to_string()], "");
    let changed = namespace.get("pods", "app").expect("it is there");
    assert_eq!(
        changed["spec"]["containers"][0]["image"],
        "registry.example.com/team/app:v2"
    );
    assert_eq!(pull_secrets_of(&changed), ["alpha"]);
    assert!(
        injection.pullpass.answered("not_pod_create") > 0.0,
        "the update was not sent"
    );
    namespace.kubectl(&["delete", "pod", "app", "--wait=false"], "");
    wait_for("the Pod is gone", HAPPY, || {
        match namespace.get("pods", "app") {
            Err(error) if error.starts_with("404") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

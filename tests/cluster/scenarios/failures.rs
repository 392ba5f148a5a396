//! When the webhook itself is the trouble: Pods are created all the same, without a patch.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{IMAGE, RULES};
use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pull_secrets_of, unscheduled_pod};
use crate::harness::stub::{Reaction, Stub};
use crate::harness::trials::Trials;
use crate::harness::webhook::{Injection, Reach, Registration};

pub(crate) fn register(trials: &mut Trials) {
    trials.api("incident_01_webhook_stopped_under_ignore", stopped);
    trials.api("webhook_slower_than_its_timeout_under_ignore", slow);
    trials.api(
        "incident_14_webhook_returning_garbage_under_ignore",
        garbage,
    );
}

/// The API server waits 5 s for a webhook.
const FAR_TOO_LATE: Duration = Duration::from_secs(60);

fn private_pod(name: &str) -> Value {
    unscheduled_pod(name, &[("app", IMAGE)])
}

/// Creates a Pod, which must be there unpatched.
#[track_caller]
fn assert_created_unpatched(namespace: &Namespace<'_>, name: &str) {
    let created = namespace.create_object("pods", &private_pod(name));
    assert!(pull_secrets_of(&created).is_empty(), "{name}");
}

fn stopped(cluster: &Cluster) {
    let Injection {
        pullpass, group, ..
    } = Injection::start(cluster, RULES, &[]);
    let namespace = Namespace::create(cluster, "stopped", &group);
    let injected = namespace.create_object("pods", &private_pod("while-it-ran"));
    assert_eq!(pull_secrets_of(&injected), ["alpha"]);
    drop(pullpass);
    assert_created_unpatched(&namespace, "stopped");
    // Namespaces that the webhook is never asked about do not even notice.
    let system = Namespace::existing(cluster, "kube-system");
    assert_created_unpatched(&system, &cluster.unique("stopped"));
}

fn slow(cluster: &Cluster) {
    let stub = Stub::start(cluster, |_| Reaction::Late(FAR_TOO_LATE));
    let group = cluster.unique("slow");
    Registration::pullpass(&group, Reach::Url(stub.url())).create(cluster);
    let start = Instant::now();
    assert_created_unpatched(&Namespace::create(cluster, "slow", &group), "app");
    println!(
        "slow webhook: Pod created after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert_eq!(stub.heard().len(), 1);
}

fn garbage(cluster: &Cluster) {
    let texts = [
        "",
        "no JSON",
        "null",
        "[]",
        "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}",
        "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\
          \"response\":{\"uid\":\"of someone else\",\"allowed\":true}}",
    ];
    for text in texts {
        let stub = Stub::start(cluster, move |_| Reaction::Text(text));
        let group = cluster.unique("garbage");
        Registration::pullpass(&group, Reach::Url(stub.url())).create(cluster);
        assert_created_unpatched(&Namespace::create(cluster, "garbage", &group), "app");
        assert_eq!(stub.heard().len(), 1, "{text:?}");
    }
    for status in [400, 500, 503] {
        let stub = Stub::start(cluster, move |_| Reaction::Status(status));
        let group = cluster.unique("garbage");
        Registration::pullpass(&group, Reach::Url(stub.url())).create(cluster);
        assert_created_unpatched(&Namespace::create(cluster, "garbage", &group), "app");
        assert_eq!(stub.heard().len(), 1, "HTTP {status}");
    }
    // The control: the same stand-in with a sound answer is believed.
    let operations =
        json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": [{"name": "x"}]}]);
    let stub = Stub::start(cluster, move |_| Reaction::Patch(operations.clone()));
    let group = cluster.unique("garbage");
    Registration::pullpass(&group, Reach::Url(stub.url())).create(cluster);
    let namespace = Namespace::create(cluster, "sound", &group);
    let created = namespace.create_object("pods", &private_pod("app"));
    assert_eq!(pull_secrets_of(&created), ["x"]);
}

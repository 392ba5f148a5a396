//! Pods made by controllers: whatever makes them, they pull, and no template is changed.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{pod, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::wait::{CRON_JOB, wait_for};
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, BETA};

pub(crate) fn register(trials: &mut Trials) {
    // First, because a CronJob waits for the next full minute.
    trials.node("scenario_07_every_workload_kind", every_kind);
    trials.node(
        "scenario_07_a_service_account_and_a_namespace_of_others",
        of_others,
    );
    trials.node("literal_08_deployment_rbd_rest_api", rbd_rest_api);
}

fn every_kind(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let namespace = injection.namespace("workloads");
    let kinds = [
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "Job",
        "CronJob",
    ];
    for kind in kinds {
        let image = kit.fresh(ALPHA.host, &format!("workloads/{}", kind.to_lowercase()));
        namespace.kubectl(&["create", "-f", "-"], &workload(kind, &image).to_string());
    }
    for kind in kinds {
        let name = kind.to_lowercase();
        let pod = wait_for(&format!("a Pod of the {kind} runs"), CRON_JOB, || {
            let pods = namespace.list("pods", &format!("labelSelector=app%3D{name}"))?;
            let runs = |pod: &&Value| {
                matches!(
                    pod["status"]["phase"].as_str(),
                    Some("Running" | "Succeeded")
                )
            };
            pods.iter().find(runs).cloned().ok_or_else(|| {
                pods.first()
                    .map_or_else(|| "no Pod".to_owned(), |pod| pod["status"].to_string())
            })
        });
        assert_eq!(pull_secrets_of(&pod), ["alpha"], "{kind}");
        let stored = namespace.kubectl(&["get", &name, &name, "-o", "json"], "");
        assert!(
            !stored.contains("imagePullSecrets"),
            "the template of the {kind} was changed"
        );
    }
}

/// A workload of this kind with one private container.
fn workload(kind: &str, image: &str) -> Value {
    let name = kind.to_lowercase();
    let labels = json!({"app": name});
    let mut template = pod(&name, &[("app", image)]);
    let mut spec = template["spec"].take();
    let is_job = matches!(kind, "Job" | "CronJob");
    if is_job {
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["command"] = json!(["echo", "done"]);
    }
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let spec = match kind {
        "Job" => json!({"template": template}),
        "CronJob" => {
            json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}})
        }
        _ => json!({"selector": {"matchLabels": labels}, "template": template}),
    };
    let group = if is_job { "batch/v1" } else { "apps/v1" };
    json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn of_others(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let namespace = injection.namespace_labelled("prometheus", &json!({}));
    let account = json!({"metadata": {"name": "build-robot"}});
    namespace.create_object("serviceaccounts", &account);
    let mut pod = pod("build", &[("app", &kit.fresh(BETA.host, "builds/app"))]);
    pod["spec"]["serviceAccountName"] = json!("build-robot");
    namespace.create_object("pods", &pod);
    let running = namespace.running("build");
    assert_eq!(pull_secrets_of(&running), ["beta"]);
    assert_eq!(running["spec"]["serviceAccountName"], "build-robot");
}

fn rbd_rest_api(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret(), BETA.secret()]);
    let namespace = injection.namespace("storage");
    let api = kit.fresh(ALPHA.host, "storage/rbd-rest-api");
    let proxy = kit.fresh(BETA.host, "storage/nginx");
    let manifest = format!(
        "
apiVersion: v1
kind: Service
metadata:
  name: rbd-rest-api
spec:
  selector: {{app: rbd-rest-api}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: rbd-rest-api
spec:
  replicas: 1
  selector:
    matchLabels: {{app: rbd-rest-api}}
  template:
    metadata:
      labels: {{app: rbd-rest-api}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector:
        kubernetes.io/os: linux
      containers:
        - name: rbd-rest-api
          image: {api}
          ports: [{{containerPort: 8080}}]
          volumeMounts: [{{name: ceph, mountPath: /etc/ceph}}]
        - name: nginx
          image: {proxy}
      volumes:
        - name: ceph
          hostPath: {{path: /etc}}
"
    );
    namespace.kubectl(&["create", "-f", "-"], &manifest);
    namespace.kubectl(
        &[
            "rollout",
            "status",
            "deployment/rbd-rest-api",
            "--timeout=60s",
        ],
        "",
    );
    let pods = namespace
        .list("pods", "labelSelector=app%3Drbd-rest-api")
        .expect("a list");
    assert_eq!(pull_secrets_of(&pods[0]), ["alpha", "beta"]);
}

//! A trial's own namespace, and the sentences trials are written in.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::wait::{HAPPY, ONE_BACK_OFF, wait_for};

/// A namespace made for one trial. Nobody deletes it: the whole cluster ends soon.
pub(crate) struct Namespace<'a> {
    /// Its name.
    pub(crate) name: String,
    cluster: &'a Cluster,
}

impl<'a> Namespace<'a> {
    /// A new namespace whose name starts with `prefix`, labelled `pullpass-test: <group>` so that
    /// the trial's webhook sees it and no other does.
    pub(crate) fn create(cluster: &'a Cluster, prefix: &str, group: &str) -> Self {
        let labels = json!({"pullpass-test": group});
        Self::create_labelled(cluster, &cluster.unique(prefix), &labels)
    }

    /// A new namespace of exactly this name with exactly these labels.
    pub(crate) fn create_labelled(cluster: &'a Cluster, name: &str, labels: &Value) -> Self {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        cluster
            .api
            .post("/api/v1/namespaces", &object)
            .expect("the namespace is new");
        Self::existing(cluster, name)
    }

    /// A namespace that is there already.
    pub(crate) fn existing(cluster: &'a Cluster, name: &str) -> Self {
        let namespace = Self {
            name: name.to_owned(),
            cluster,
        };
        // Pods are refused until the controllers have made the default ServiceAccount.
        wait_for("the default ServiceAccount exists", HAPPY, || {
            namespace.get("serviceaccounts", "default")
        });
        // Or the kubelet says that it cannot mount it, and tries again.
        wait_for("the API server's CA is there", HAPPY, || {
            namespace.get("configmaps", "kube-root-ca.crt")
        });
        namespace
    }

    /// Creates an object of the core group (`pods`, `secrets`, …).
    #[track_caller]
    pub(crate) fn create_object(&self, collection: &str, object: &Value) -> Value {
        self.try_create(collection, object)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates several objects of one collection of the core group.
    #[track_caller]
    pub(crate) fn create_objects(&self, collection: &str, objects: &[Value]) {
        for object in objects {
            self.create_object(collection, object);
        }
    }

    /// Creates an object of the core group.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn try_create(&self, collection: &str, object: &Value) -> Result<Value, String> {
        self.cluster.api.post(&self.path(collection), object)
    }

    /// What the API server would make of a Pod, which is not kept.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn dry_run(&self, pod: &Value) -> Result<Value, String> {
        self.try_create("pods?dryRun=All", pod)
    }

    /// Reads an object of the core group.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn get(&self, collection: &str, name: &str) -> Result<Value, String> {
        self.cluster
            .api
            .get(&format!("{}/{name}", self.path(collection)))
    }

    /// Changes an object of the core group by a merge patch.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn merge(
        &self,
        collection: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, String> {
        let path = format!("{}/{name}", self.path(collection));
        self.cluster.api.merge(&path, patch)
    }

    /// Deletes an object of the core group.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn delete(&self, collection: &str, name: &str) -> Result<Value, String> {
        let path = format!("{}/{name}", self.path(collection));
        self.cluster.api.delete(&path)
    }

    /// The objects of a collection of the core group that `query` chooses.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) fn list(&self, collection: &str, query: &str) -> Result<Vec<Value>, String> {
        let list = self
            .cluster
            .api
            .get(&format!("{}?{query}", self.path(collection)))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Gives a ServiceAccount this list of pull secrets.
    pub(crate) fn set_account_secrets(&self, account: &str, secrets: &[&str]) {
        let list: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        let patch = json!({"imagePullSecrets": list}).to_string();
        self.kubectl(&["patch", "serviceaccount", account, "-p", &patch], "");
    }

    /// Runs kubectl in this namespace.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.cluster
            .kubectl
            .run(&[&["--namespace", &self.name], arguments].concat(), input)
    }

    /// Reads an object of any kind, by its name.
    #[track_caller]
    pub(crate) fn read(&self, kind: &str, name: &str) -> Value {
        let arguments = ["--namespace", &self.name, "get", kind, name];
        self.cluster.kubectl.json(&arguments, "")
    }

    /// Waits until a Pod runs (or has succeeded) and gives it.
    #[track_caller]
    pub(crate) fn running(&self, pod: &str) -> Value {
        self.running_within(pod, HAPPY)
    }

    /// Waits until a Pod runs (or has succeeded) and gives it.
    #[track_caller]
    pub(crate) fn running_within(&self, pod: &str, limit: Duration) -> Value {
        wait_for(&format!("Pod {}/{pod} runs", self.name), limit, || {
            let object = self.get("pods", pod)?;
            match object["status"]["phase"].as_str() {
                Some("Running" | "Succeeded") => Ok(object),
                _ => Err(object["status"].to_string()),
            }
        })
    }

    /// Waits until a container of a Pod waits for this reason.
    #[track_caller]
    pub(crate) fn waits_for(&self, pod: &str, reason: &str) {
        wait_for(
            &format!("Pod {}/{pod} is in {reason}", self.name),
            ONE_BACK_OFF,
            || {
                let object = self.get("pods", pod)?;
                let state = &object["status"]["containerStatuses"][0]["state"];
                let there = state["waiting"]["reason"] == reason;
                there.then_some(()).ok_or_else(|| state.to_string())
            },
        );
    }

    /// Checks that a running Pod of one container got there without a detour.
    #[track_caller]
    pub(crate) fn assert_pulled_at_once(&self, pod: &str) {
        const STEPS: [&str; 5] = ["Scheduled", "Pulling", "Pulled", "Created", "Started"];
        wait_for(&format!("events of Pod {}/{pod}", self.name), HAPPY, || {
            let events = self.events(pod);
            let has = |step: &&str| events.iter().any(|(reason, _)| reason == step);
            let other = events
                .iter()
                .find(|(reason, _)| !STEPS.contains(&reason.as_str()));
            assert!(other.is_none(), "{pod}: {other:?}");
            STEPS
                .iter()
                .all(has)
                .then_some(())
                .ok_or_else(|| self.events_text(pod))
        });
    }

    /// Holds that the kubelet has pulled for a Pod, and never failed to.
    #[track_caller]
    pub(crate) fn assert_pulled_without_a_failure(&self, pod: &str) {
        wait_for(&format!("{pod} says what it pulled"), HAPPY, || {
            let events = self.events_text(pod);
            assert!(!events.contains("Failed: "), "{pod}: {events}");
            events.contains("Pulled: ").then_some(()).ok_or(events)
        });
    }

    /// Waits until the kubelet has given up on an image of a Pod for the first time, and gives the
    /// message of the event.
    #[track_caller]
    pub(crate) fn pull_failed(&self, pod: &str) -> String {
        wait_for(
            &format!("Pod {}/{pod} fails to pull", self.name),
            ONE_BACK_OFF,
            || {
                let events = self.events(pod);
                let failed = events.iter().find(|(reason, message)| {
                    reason == "Failed" && message.contains("Failed to pull image")
                });
                failed
                    .map(|(_, message)| message.clone())
                    .ok_or_else(|| self.events_text(pod))
            },
        )
    }

    /// Reason and message of every event of a Pod, in no particular order.
    pub(crate) fn events(&self, pod: &str) -> Vec<(String, String)> {
        let path = format!(
            "{}?fieldSelector=involvedObject.name={pod}",
            self.path("events")
        );
        let list = self.cluster.api.get(&path).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|event| (text(&event["reason"]), text(&event["message"])))
            .collect()
    }

    /// The Events of this reason, about any object.
    pub(crate) fn events_of(&self, reason: &str) -> Vec<Value> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.name);
        let list = self.cluster.api.get(&path).unwrap_or_default();
        let mut events = list["items"].as_array().cloned().unwrap_or_default();
        events.retain(|event| event["reason"] == reason);
        events
    }

    /// Creates a Pod, waits until it runs, and says how long that took.
    #[track_caller]
    pub(crate) fn time_to_running(&self, pod: &Value) -> Duration {
        let start = Instant::now();
        let created = self.create_object("pods", pod);
        self.running(
            created["metadata"]["name"]
                .as_str()
                .expect("a Pod has a name"),
        );
        start.elapsed()
    }

    fn events_text(&self, pod: &str) -> String {
        let events = self.events(pod);
        let lines = events
            .iter()
            .map(|(reason, message)| format!("{reason}: {message}"));
        format!("events [{}]", lines.collect::<Vec<_>>().join("; "))
    }

    fn path(&self, collection: &str) -> String {
        format!("/api/v1/namespaces/{}/{collection}", self.name)
    }
}

/// A Pod with these containers (name, image), each sleeping for ever.
pub(crate) fn pod(name: &str, containers: &[(&str, &str)]) -> Value {
    let containers = containers
        .iter()
        .map(|(name, image)| container(name, image));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            // busybox ignores SIGTERM as the first process.
            "terminationGracePeriodSeconds": 0,
            "containers": containers.collect::<Vec<_>>(),
        },
    })
}

/// Such a Pod, bound to a node.
pub(crate) fn bound_pod(node: &str, name: &str, containers: &[(&str, &str)]) -> Value {
    let mut pod = pod(name, containers);
    pod["spec"]["nodeName"] = json!(node);
    pod
}

/// Such a Pod, but one that no scheduler takes: for trials that look at the API server's object only.
pub(crate) fn unscheduled_pod(name: &str, containers: &[(&str, &str)]) -> Value {
    let mut pod = pod(name, containers);
    pod["spec"]["schedulerName"] = json!("nobody");
    pod
}

/// A container that sleeps for ever.
pub(crate) fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

/// The names in a Pod's `imagePullSecrets`, in order.
pub(crate) fn pull_secrets_of(pod: &Value) -> Vec<String> {
    let entries = pod["spec"]["imagePullSecrets"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry["name"].as_str().map(ToOwned::to_owned))
        .collect()
}

/// A Secret manifest of type dockerconfigjson.
pub(crate) fn pull_secret(name: &str, config: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": BASE64_STANDARD.encode(config.to_string())},
    })
}

/// A docker config with one login for each (key, user, password).
pub(crate) fn docker_config(logins: &[(&str, &str, &str)]) -> Value {
    let auths = logins.iter().map(|(key, user, password)| {
        let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
        (
            (*key).to_owned(),
            json!({"username": user, "password": password, "auth": auth}),
        )
    });
    json!({"auths": auths.collect::<serde_json::Map<_, _>>()})
}

//! A controller that delivers, kept apart from other trials by the names of its namespaces.

use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::controller::{Controller, INDEX, Installation, RULES};
use super::namespace::{Namespace, docker_config};
use super::wait::{HAPPY, wait_for};

/// Every ServiceAccount of the trial's namespaces gets `regcred`.
pub(crate) const ATTACHED: &str =
    "{name: regcred, namespaces: NAMESPACES, serviceAccounts: [\"*\"]}";
/// Key of the payload in a Secret of the usual type.
const KEY: &str = ".dockerconfigjson";

/// An installation whose controller delivers to namespaces called `<its namespace>-…`.
pub(crate) struct Delivery<'a> {
    /// Where sources, rules and index are.
    pub(crate) installation: Installation<'a>,
    /// The controller.
    pub(crate) controller: Controller,
    cluster: &'a Cluster,
}

impl<'a> Delivery<'a> {
    /// Starts a controller that may copy Secrets of these names, under rules with these `pullSecrets`;
    /// `NAMESPACES` in them stands for the trial's own namespaces.
    pub(crate) fn start(cluster: &'a Cluster, secret_names: &[&str], pull_secrets: &str) -> Self {
        let installation = Installation::create(cluster, "deliver", "");
        installation.grant_delivery(secret_names);
        Self::run(cluster, installation, pull_secrets)
    }

    /// The same with one source `regcred`, which every namespace of the trial gets, and every
    /// ServiceAccount of them; under the chart's admission policies.
    pub(crate) fn attaching(cluster: &'a Cluster) -> Self {
        let installation = Installation::create(cluster, "attach", "");
        installation.grant_delivery(&["regcred"]);
        installation.grant_attachment();
        let delivery = Self::run(cluster, installation, ATTACHED);
        delivery.make_source("regcred", &payload("first"));
        let values = json!({"delivery": {"secretNames": ["regcred"], "serviceAccounts": true}});
        delivery.fence(&values);
        delivery
    }

    fn run(cluster: &'a Cluster, installation: Installation<'a>, pull_secrets: &str) -> Self {
        let rules = rules(&installation.namespace.name, pull_secrets);
        let patch = json!({"data": {"rules.yaml": rules}});
        let patched = installation.namespace.merge("configmaps", RULES, &patch);
        patched.expect("the ConfigMap is there");
        let controller = installation.controller(&["--delivery", "--certificates", "none"]);
        Self {
            installation,
            controller,
            cluster,
        }
    }

    /// Puts the chart's admission policies in force, for the controller of this trial.
    pub(crate) fn fence(&self, values: &Value) {
        let own = &self.own().name;
        let arguments = [
            "template",
            own,
            "CHART",
            "--show-only=templates/admission-policy.yaml",
            "--kube-version=1.30.0",
            "--set=fullnameOverride=pullpass",
            "--values=-",
        ];
        let policies = self.cluster.helm.run(own, &arguments, &values.to_string());
        // Policies of one name for each trial.
        let policies = policies.replace("name: pullpass-controller", &format!("name: {own}"));
        let policies = policies.replace(
            "policyName: pullpass-controller",
            &format!("policyName: {own}"),
        );
        self.cluster
            .kubectl
            .run(&["create", "--filename=-"], &policies);
        let account = format!("--as=system:serviceaccount:{own}:pullpass-controller");
        let arguments = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=false",
            "--filename=-",
            &account,
            "--namespace=default",
        ];
        let opaque = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "regcred"}});
        wait_for("the policy is in force", HAPPY, || {
            match self
                .cluster
                .kubectl
                .try_run(&arguments, &opaque.to_string())
            {
                Err(error) if error.contains("ValidatingAdmissionPolicy") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// The account of its controller, as the API server calls it.
    pub(crate) fn account(&self) -> String {
        format!(
            "system:serviceaccount:{}:pullpass-controller",
            self.own().name
        )
    }

    /// The same with one source `regcred`, which every namespace of the trial gets.
    pub(crate) fn of_regcred(cluster: &'a Cluster) -> Self {
        let delivery = Self::start(
            cluster,
            &["regcred"],
            "{name: regcred, namespaces: NAMESPACES}",
        );
        delivery.make_source("regcred", &payload("first"));
        delivery
    }

    /// Gives the rules these `pullSecrets`.
    pub(crate) fn set_pull_secrets(&self, pull_secrets: &str) {
        let rules = rules(&self.own().name, pull_secrets);
        let patch = json!({"data": {"rules.yaml": rules}});
        let patched = self.own().merge("configmaps", RULES, &patch);
        patched.expect("the ConfigMap is there");
    }

    /// The namespace of the sources.
    pub(crate) fn own(&self) -> &Namespace<'a> {
        &self.installation.namespace
    }

    /// A source with this payload.
    pub(crate) fn make_source(&self, name: &str, payload: &str) {
        self.own().create_object("secrets", &secret(name, payload));
    }

    /// Puts another payload into a source.
    pub(crate) fn change_source(&self, name: &str, payload: &str) {
        set_payload(self.own(), name, payload);
    }

    /// A new namespace of the trial.
    pub(crate) fn namespace(&self, suffix: &str) -> Namespace<'a> {
        self.namespace_labelled(suffix, &json!({}))
    }

    /// A new namespace of the trial with these labels.
    pub(crate) fn namespace_labelled(&self, suffix: &str, labels: &Value) -> Namespace<'a> {
        let name = self.name_of(suffix);
        Namespace::create_labelled(self.cluster, &name, labels)
    }

    /// The name of a namespace of the trial.
    pub(crate) fn name_of(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.own().name)
    }

    /// Waits until a namespace holds a copy of ours with this payload, and gives it.
    #[track_caller]
    pub(crate) fn until_copied(
        &self,
        namespace: &Namespace<'_>,
        name: &str,
        payload: &str,
    ) -> Value {
        let what = format!("a copy of {name} in {}", namespace.name);
        wait_for(&what, HAPPY, || {
            let copy = namespace.get("secrets", name)?;
            let holds = copy["data"][KEY] == BASE64_STANDARD.encode(payload);
            let is_ours =
                copy["metadata"]["labels"]["app.kubernetes.io/instance"] == self.instance();
            (holds && is_ours)
                .then(|| copy.clone())
                .ok_or_else(|| copy.to_string())
        })
    }

    /// Waits until the list of a ServiceAccount is this one.
    #[track_caller]
    pub(crate) fn until_listed(&self, namespace: &Namespace<'_>, account: &str, names: &[&str]) {
        let what = format!("{}/{account} has {names:?}", namespace.name);
        wait_for(&what, HAPPY, || {
            let account = namespace.get("serviceaccounts", account)?;
            (listed(&account) == names)
                .then_some(())
                .ok_or_else(|| account.to_string())
        });
    }

    /// Waits until a namespace has no Secret of this name.
    #[track_caller]
    pub(crate) fn until_gone(&self, namespace: &Namespace<'_>, name: &str) {
        let what = format!("no Secret {name} in {}", namespace.name);
        wait_for(&what, HAPPY, || match namespace.get("secrets", name) {
            Ok(copy) => Err(copy.to_string()),
            Err(error) if error.starts_with("404") => Ok(()),
            Err(error) => Err(error),
        });
    }

    /// Waits until the published index says something about a secret.
    #[track_caller]
    pub(crate) fn until_indexed(&self, name: &str, is_said: impl Fn(&Value) -> bool) {
        wait_for(&format!("the index knows {name}"), HAPPY, || {
            let index = self.index()?;
            let secret = &index["secrets"][name];
            is_said(secret)
                .then_some(())
                .ok_or_else(|| index.to_string())
        });
    }

    /// The published index.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn index(&self) -> Result<Value, String> {
        let map = self.own().get("configmaps", INDEX)?;
        let text = map["data"]["index.json"].as_str().unwrap_or_default();
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Waits for an Event of this reason whose note contains `text`.
    #[track_caller]
    pub(crate) fn until_said(&self, reason: &str, text: &str) {
        wait_for(&format!("{reason}: {text}"), HAPPY, || {
            let notes = self.installation.events(reason);
            let found = notes.iter().any(|note| note.contains(text));
            found.then_some(()).ok_or_else(|| format!("{notes:?}"))
        });
    }

    /// How many copies it says it wrote.
    pub(crate) fn writes(&self) -> f64 {
        self.controller
            .metric("pullpass_writes_total{object=\"copy\"}")
    }

    /// Waits until it says so many copies of a pull secret are in this state.
    #[track_caller]
    pub(crate) fn until_counted(&self, name: &str, state: &str, count: f64) {
        self.until_metric("pullpass_copies", name, state, count);
    }

    /// Waits until it says that so many ServiceAccounts are in this state, for a pull secret.
    #[track_caller]
    pub(crate) fn until_attached(&self, name: &str, state: &str, count: f64) {
        self.until_metric("pullpass_attached", name, state, count);
    }

    #[track_caller]
    fn until_metric(&self, metric: &str, name: &str, state: &str, count: f64) {
        let series = format!("{metric}{{secret=\"{name}\",state=\"{state}\"}}");
        wait_for(&format!("{series} is {count}"), HAPPY, || {
            let found = self.controller.metric(&series);
            (found == count)
                .then_some(())
                .ok_or_else(|| found.to_string())
        });
    }

    /// The value of the label that copies carry.
    pub(crate) fn instance(&self) -> String {
        format!("{0}.{0}", self.own().name)
    }
}

/// Rules of these `pullSecrets` and, for each, one rule that injects it by what it covers.
fn rules(installation: &str, pull_secrets: &str) -> String {
    let pull_secrets = pull_secrets.replace("NAMESPACES", &format!("[\"{installation}-*\"]"));
    let names: Vec<&str> = pull_secrets
        .split("{name: ")
        .skip(1)
        .filter_map(|entry| entry.split([',', '}']).next())
        .collect();
    let rules = names
        .iter()
        .map(|name| format!("{{name: {name}, pullSecrets: [{name}]}}"));
    format!(
        "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{pull_secrets}]\nrules: [{}]\n",
        rules.collect::<Vec<_>>().join(", ")
    )
}

/// The pull secrets that a ServiceAccount lists.
pub(crate) fn listed(account: &Value) -> Vec<&str> {
    let list = account["imagePullSecrets"].as_array().into_iter().flatten();
    list.filter_map(|entry| entry["name"].as_str()).collect()
}

/// A payload with this password.
pub(crate) fn payload(password: &str) -> String {
    docker_config(&[("registry.example.com", "robot", password)]).to_string()
}

/// A Secret of the usual type.
pub(crate) fn secret(name: &str, payload: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {KEY: BASE64_STANDARD.encode(payload)},
    })
}

/// Puts another payload into a Secret.
pub(crate) fn set_payload(namespace: &Namespace<'_>, name: &str, payload: &str) {
    let patch = json!({"data": {KEY: BASE64_STANDARD.encode(payload)}});
    let patched = namespace.merge("secrets", name, &patch);
    patched.expect("the Secret is there");
}

/// Runs `work` for each of `0..count` in a thread of its own, and gives what each gave.
pub(crate) fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let work = &work;
                scope.spawn(move || work(index))
            })
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("it says why itself"));
        joined.collect()
    })
}

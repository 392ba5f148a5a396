//! A controller that delivers, and a webhook beside it, kept apart from other trials by the names of its namespaces.

use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::api::Api;
use super::clock::Clock;
use super::cluster::Cluster;
use super::controller::{Controller, INDEX, Installation, RULES};
use super::namespace::{Namespace, docker_config, pull_secrets_of, unscheduled_pod};
use super::wait::{HAPPY, until_counts, wait_for};
use super::webhook::{Pullpass, Reach, Registration};

/// Arguments of a controller that delivers and does nothing else.
pub(crate) const DELIVERS: &[&str] = &["--delivery", "--certificates", "none"];
/// Arguments of one that also evicts Pods that a restart would fix, at once.
pub(crate) const RECOVERS: &[&str] = &[
    "--delivery",
    "--certificates",
    "none",
    "--recovery",
    "--recovery-interval=1",
    "--evictions-per-minute=120",
];
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
        Self::start_at(cluster, &cluster.api, secret_names, pull_secrets)
    }

    /// The same with a controller that talks to this API server.
    pub(crate) fn start_at(
        cluster: &'a Cluster,
        api: &Api,
        secret_names: &[&str],
        pull_secrets: &str,
    ) -> Self {
        let installation = Installation::create(cluster, "deliver", "");
        installation.grant_delivery(secret_names);
        let start = |installation: &Installation<'_>| installation.controller_at(api, DELIVERS);
        Self::run(cluster, installation, start, pull_secrets)
    }

    /// The same, without a rule, with a controller that also evicts Pods that a restart would fix.
    pub(crate) fn recovering(cluster: &'a Cluster) -> Self {
        let installation = Installation::create(cluster, "recover", "");
        installation.grant_delivery(&["regcred"]);
        installation.grant_recovery();
        let start = |installation: &Installation<'_>| installation.controller(RECOVERS);
        Self::run(cluster, installation, start, "")
    }

    /// The same with one source `regcred`, which every namespace of the trial gets, and every
    /// ServiceAccount of them; under the chart's admission policies.
    pub(crate) fn attaching(cluster: &'a Cluster) -> Self {
        let installation = Installation::create(cluster, "attach", "");
        installation.grant_delivery(&["regcred"]);
        installation.grant_attachment();
        let start = |installation: &Installation<'_>| installation.controller(DELIVERS);
        let delivery = Self::run(cluster, installation, start, ATTACHED);
        delivery.make_source("regcred", &payload("first"));
        let values = json!({"delivery": {"secretNames": ["regcred"], "serviceAccounts": true}});
        delivery.fence(&values);
        delivery
    }

    fn run(
        cluster: &'a Cluster,
        installation: Installation<'a>,
        start: impl FnOnce(&Installation<'a>) -> Controller,
        pull_secrets: &str,
    ) -> Self {
        let namespace = &installation.namespace;
        put_rules(namespace, &rules(&namespace.name, pull_secrets));
        let controller = start(&installation);
        // Or it would only stand in.
        controller.until_leading();
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

    /// One with one source `regcred`, which every namespace of the trial gets.
    pub(crate) fn of_regcred(cluster: &'a Cluster) -> Self {
        Self::of_regcred_at(cluster, &cluster.api)
    }

    /// The same with a controller that talks to this API server.
    pub(crate) fn of_regcred_at(cluster: &'a Cluster, api: &Api) -> Self {
        let entry = "{name: regcred, namespaces: NAMESPACES}";
        let delivery = Self::start_at(cluster, api, &["regcred"], entry);
        delivery.make_source("regcred", &payload("first"));
        delivery
    }

    /// The same with a controller that goes by this clock.
    pub(crate) fn of_regcred_with_clock(cluster: &'a Cluster, clock: &Clock) -> Self {
        let installation = Installation::create(cluster, "deliver", "");
        installation.grant_delivery(&["regcred"]);
        let start =
            |installation: &Installation<'_>| installation.controller_with_clock(clock, DELIVERS);
        let entry = "{name: regcred, namespaces: NAMESPACES}";
        let delivery = Self::run(cluster, installation, start, entry);
        delivery.make_source("regcred", &payload("first"));
        delivery
    }

    /// Starts another controller of the same installation, which says what it does.
    pub(crate) fn next_controller(&self) -> Controller {
        let arguments = [DELIVERS, &["--log-level", "debug"]].concat();
        self.installation.controller(&arguments)
    }

    /// Ends its controller, and starts one anew that talks to this API server.
    pub(crate) fn restart_at(&mut self, api: &Api) {
        self.controller.terminate();
        wait_for("the controller has ended", HAPPY, || {
            self.controller
                .exit_code()
                .map(drop)
                .ok_or_else(|| "it runs".to_owned())
        });
        self.controller = self.installation.controller_at(api, DELIVERS);
    }

    /// Gives the rules these `pullSecrets`.
    pub(crate) fn set_pull_secrets(&self, pull_secrets: &str) {
        self.set_rules(&rules(&self.own().name, pull_secrets));
    }

    /// Gives it these rules.
    pub(crate) fn set_rules(&self, rules: &str) {
        put_rules(self.own(), rules);
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
        self.until_copied_within(namespace, name, payload, HAPPY)
    }

    /// The same, after something went wrong.
    #[track_caller]
    pub(crate) fn until_copied_within(
        &self,
        namespace: &Namespace<'_>,
        name: &str,
        payload: &str,
        limit: Duration,
    ) -> Value {
        let what = format!("a copy of {name} in {}", namespace.name);
        wait_for(&what, limit, || {
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

    /// The same of ServiceAccounts.
    pub(crate) fn account_writes(&self) -> f64 {
        self.controller
            .metric("pullpass_writes_total{object=\"account\"}")
    }

    /// Waits until it says that it wrote so many copies, and no more.
    #[track_caller]
    pub(crate) fn until_wrote(&self, copies: usize) {
        until_counts("copies written", copies as f64, || self.writes());
    }

    /// The same of ServiceAccounts.
    #[track_caller]
    pub(crate) fn until_wrote_accounts(&self, accounts: usize) {
        until_counts("accounts written", accounts as f64, || {
            self.account_writes()
        });
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

/// A delivery and a webhook that follows it, as an installation has both.
pub(crate) struct Product<'a> {
    /// The controller's half.
    pub(crate) delivery: Delivery<'a>,
    /// The webhook's.
    pub(crate) webhook: Pullpass,
    /// Pods in namespaces with this value of the label `pullpass-test` pass it.
    pub(crate) group: String,
}

impl<'a> Product<'a> {
    /// Starts a delivery as [`Delivery::start`] does, and waits until the webhook is ready.
    pub(crate) fn start(cluster: &'a Cluster, secret_names: &[&str], pull_secrets: &str) -> Self {
        let delivery = Delivery::start(cluster, secret_names, pull_secrets);
        let webhook = Pullpass::following(cluster, delivery.own(), &cluster.plane.kubeconfig);
        webhook.until_ready();
        let group = cluster.unique("product");
        Registration::pullpass(&group, Reach::Url(webhook.url())).create(cluster);
        Self {
            delivery,
            webhook,
            group,
        }
    }

    /// A new namespace of the trial whose Pods the webhook sees.
    pub(crate) fn namespace(&self, suffix: &str) -> Namespace<'a> {
        let labels = json!({"pullpass-test": self.group});
        self.delivery.namespace_labelled(suffix, &labels)
    }

    /// Makes a source, and waits until webhooks may know it.
    pub(crate) fn make_source(&self, name: &str, payload: &str) {
        self.delivery.make_source(name, payload);
        self.delivery
            .until_indexed(name, |secret| secret["state"] == "usable");
    }

    /// Waits until a Pod with this image would get just these pull secrets in `namespace`.
    #[track_caller]
    pub(crate) fn until_injected(&self, namespace: &Namespace<'_>, image: &str, names: &[&str]) {
        let trial = unscheduled_pod("trial", &[("app", image)]);
        wait_for(&format!("{image} gets {names:?}"), HAPPY, || {
            let found = pull_secrets_of(&namespace.dry_run(&trial)?);
            (found == names)
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        });
    }
}

/// Puts these rules where a controller of this namespace reads them.
fn put_rules(namespace: &Namespace<'_>, rules: &str) {
    let patch = json!({"data": {"rules.yaml": rules}});
    let patched = namespace.merge("configmaps", RULES, &patch);
    patched.expect("the ConfigMap is there");
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

//! What was found of an installation, as it was found. This module must not judge.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;

use super::access::Right;
use super::trial::Trial;
use super::workloads::{Deployment, Pod};
use super::{Finding, WEBHOOK};
use crate::http::client::CallError;

/// The result of one look.
#[derive(Debug, Clone, PartialEq)]
pub enum Looked<T> {
    /// There, and read.
    Seen(T),
    /// The API server says that there is none.
    Absent,
    /// The caller has not the right; the API server's words.
    Denied(String),
    /// No answer, or none that could be read.
    Failed(String),
}

impl<T> Looked<T> {
    /// What was read.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(object) => Some(object),
            _ => None,
        }
    }

    /// The same look, of another kind of thing.
    pub fn map<U>(self, read: impl FnOnce(T) -> U) -> Looked<U> {
        match self {
            Self::Seen(object) => Looked::Seen(read(object)),
            Self::Absent => Looked::Absent,
            Self::Denied(said) => Looked::Denied(said),
            Self::Failed(said) => Looked::Failed(said),
        }
    }

    /// What was read, or the one finding of a check that could not look, or that found `absent`.
    pub(super) fn or_finding(
        &self,
        check: &'static str,
        absent: impl FnOnce() -> Finding,
    ) -> Result<&T, Vec<Finding>> {
        let finding = match self {
            Self::Seen(object) => return Ok(object),
            Self::Absent => absent(),
            Self::Denied(said) => Finding::unseen(
                check,
                format!("could not look: {said}"),
                "run it as someone who has this right; `pullpass doctor --help` lists all it uses",
            ),
            Self::Failed(said) => Finding::unseen(
                check,
                format!("could not look: {said}"),
                "run it again; if it stays, look at the API server",
            ),
        };
        Err(vec![finding])
    }
}

/// What the objects of the installation are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Where pullpass runs.
    pub namespace: String,
    /// Value of the label `app.kubernetes.io/instance`.
    pub release: String,
    /// The MutatingWebhookConfiguration.
    pub configuration: String,
    /// Deployment of the webhook.
    pub webhook: String,
    /// Deployment of the controller.
    pub controller: String,
    /// ServiceAccount of the webhook.
    pub webhook_account: String,
    /// ServiceAccount of the controller.
    pub controller_account: String,
    /// Service of the webhook.
    pub service: String,
    /// ConfigMap of the rules.
    pub rules: String,
    /// ConfigMap of the index.
    pub index: String,
    /// Secret of the webhook's certificate.
    pub tls_secret: String,
    /// Secret of the CA. It holds a private key: never read.
    pub ca_secret: String,
    /// Lease of the controller.
    pub lease: String,
    /// Who looks after the certificate: `self`, `provided`, `cert-manager` or `none`.
    pub certificates: String,
}

impl Names {
    /// The names that the chart gives for the full name `full`.
    pub fn of_chart(namespace: &str, full: &str) -> Self {
        let named = |part: &str| format!("{full}-{part}");
        Self {
            namespace: namespace.to_owned(),
            release: full.to_owned(),
            configuration: full.to_owned(),
            webhook: named("webhook"),
            controller: named("controller"),
            webhook_account: named("webhook"),
            controller_account: named("controller"),
            service: named("webhook"),
            rules: named("rules"),
            index: named("index"),
            tls_secret: named("tls"),
            ca_secret: named("ca"),
            lease: named("controller"),
            certificates: "self".to_owned(),
        }
    }

    /// Takes over what the Deployments themselves say: their names, accounts and arguments.
    pub fn read_deployments(&mut self, deployments: &[Deployment]) {
        if let Some(webhook) = with_component(deployments, "webhook") {
            self.webhook = webhook.name_any();
            self.webhook_account = account(webhook);
        }
        if let Some(controller) = with_component(deployments, "controller") {
            self.controller = controller.name_any();
            self.controller_account = account(controller);
        }
        let arguments: Vec<&str> = deployments.iter().flat_map(arguments).collect();
        for (flag, name) in [
            ("--rules-config-map", &mut self.rules),
            ("--index-config-map", &mut self.index),
            ("--tls-secret", &mut self.tls_secret),
            ("--ca-secret", &mut self.ca_secret),
            ("--lease", &mut self.lease),
            ("--certificates", &mut self.certificates),
        ] {
            if let Some(given) = value_of(&arguments, flag) {
                given.clone_into(name);
            }
        }
    }
}

/// The Deployment with this value of `app.kubernetes.io/component`.
pub fn with_component<'a>(
    deployments: &'a [Deployment],
    component: &str,
) -> Option<&'a Deployment> {
    deployments
        .iter()
        .find(|deployment| component_of(*deployment) == Some(component))
}

/// Value of `app.kubernetes.io/component`.
pub fn component_of(object: &impl kube::Resource) -> Option<&str> {
    let labels = object.meta().labels.as_ref()?;
    labels
        .get("app.kubernetes.io/component")
        .map(String::as_str)
}

fn account(deployment: &Deployment) -> String {
    let account = deployment.spec.template.spec.service_account_name.clone();
    account.unwrap_or_else(|| "default".to_owned())
}

fn arguments(deployment: &Deployment) -> impl Iterator<Item = &str> {
    let containers = deployment.spec.template.spec.containers.iter();
    containers
        .flat_map(|container| &container.args)
        .map(String::as_str)
}

/// The value in `--flag value` or `--flag=value`.
fn value_of<'a>(arguments: &[&'a str], flag: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| *argument == flag);
    let after = position.and_then(|position| arguments.get(position + 1).copied());
    after.or_else(|| {
        let assigned = |argument: &&'a str| argument.strip_prefix(flag)?.strip_prefix('=');
        arguments.iter().find_map(assigned)
    })
}

/// How the API server is told to reach the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Through a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: i32,
        /// Path of the request.
        path: String,
    },
    /// By a URL, outside the cluster.
    Url(String),
}

impl Target {
    /// Of a webhook's `clientConfig`.
    pub fn of(webhook: &MutatingWebhook) -> Self {
        let config = &webhook.client_config;
        match &config.service {
            Some(service) => Self::Service {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port: service.port.unwrap_or(443),
                path: service.path.clone().unwrap_or_else(|| "/".to_owned()),
            },
            None => Self::Url(config.url.clone().unwrap_or_default()),
        }
    }
}

/// The name that the certificate behind a Service has to carry.
pub fn server_name(namespace: &str, service: &str) -> String {
    format!("{service}.{namespace}.svc")
}

/// What a Service's backend said to the API server's proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxied {
    /// It answered, with this HTTP status.
    Answered(u16),
    /// The API server could not ask it; its words.
    Unreached(String),
}

/// What one Pod says about itself, through the API server's proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// Name of the Pod.
    pub pod: String,
    /// `/readyz`: one line for each condition.
    pub ready: Looked<String>,
    /// `/metrics`; of the webhook's Pods only.
    pub metrics: Looked<String>,
}

/// Everything that was found.
#[derive(Debug)]
pub struct Facts {
    /// What the objects are called.
    pub names: Names,
    /// Major and minor version of Kubernetes.
    pub version: (u32, u32),
    /// Every configuration of the release that holds [`WEBHOOK`].
    pub configurations: Looked<Vec<MutatingWebhookConfiguration>>,
    /// The Service that the configuration names.
    pub service: Looked<Service>,
    /// Its endpoints.
    pub slices: Looked<Vec<EndpointSlice>>,
    /// What answers behind the Service when the API server asks; `None` without a Service.
    pub proxied: Option<Looked<Proxied>>,
    /// HTTP status of a verified call of the Service's own address; only from inside the cluster.
    pub direct: Option<Result<u16, CallError>>,
    /// The certificate chain of the TLS Secret, PEM.
    pub chain: Looked<Vec<u8>>,
    /// The dry run of a Pod.
    pub trial: Trial,
    /// The text under `rules.yaml`; `None` if the ConfigMap has no such key.
    pub rules: Looked<Option<String>>,
    /// Both roles.
    pub deployments: Looked<Vec<Deployment>>,
    /// Pods of both roles.
    pub pods: Looked<Vec<Pod>>,
    /// What the Pods say.
    pub replicas: Vec<Replica>,
    /// Disruption budgets of both roles.
    pub budgets: Looked<Vec<PodDisruptionBudget>>,
    /// Whether the two accounts have each right.
    pub access: Vec<(Right, Looked<bool>)>,
    /// The namespace whose Pods are asked about.
    pub namespace: (String, Looked<Namespace>),
}

impl Facts {
    /// The webhook, if its configuration was found.
    pub fn webhook(&self) -> Option<&MutatingWebhook> {
        let configurations = self.configurations.seen()?;
        configurations.first().and_then(webhook_of)
    }

    /// How the webhook is reached, if its configuration was found.
    pub fn target(&self) -> Option<Target> {
        self.webhook().map(Target::of)
    }
}

/// The webhook in a configuration.
pub fn webhook_of(configuration: &MutatingWebhookConfiguration) -> Option<&MutatingWebhook> {
    let webhooks = configuration.webhooks.as_ref()?;
    webhooks.iter().find(|webhook| webhook.name == WEBHOOK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_say_what_things_are_called() {
        let deployment = |component: &str, account: &str, arguments: &[&str]| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": format!("x-{component}"),
                    "labels": {"app.kubernetes.io/component": component}},
                "spec": {"selector": {}, "template": {"spec": {
                    "serviceAccountName": account,
                    "containers": [{"name": "c", "args": arguments}],
                }}},
            }))
            .unwrap()
        };
        let mut names = Names::of_chart("ns", "p");
        names.read_deployments(&[
            deployment(
                "webhook",
                "wa",
                &["webhook", "--rules-config-map", "own-rules"],
            ),
            deployment(
                "controller",
                "ca",
                &["controller", "--certificates=provided"],
            ),
        ]);
        let expected = Names {
            webhook: "x-webhook".into(),
            controller: "x-controller".into(),
            webhook_account: "wa".into(),
            controller_account: "ca".into(),
            rules: "own-rules".into(),
            certificates: "provided".into(),
            ..Names::of_chart("ns", "p")
        };
        assert_eq!(names, expected);
    }
}

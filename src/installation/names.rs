//! What the objects of an installation are called, as the chart names them and as its Deployments say.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use kube::ResourceExt as _;

use super::workloads::Deployment;
use crate::cluster::WEBHOOK;

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
    /// Whether the controller evicts Pods that a restart would fix.
    pub recovers: bool,
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
            recovers: false,
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
        self.recovers = arguments.contains(&"--recovery");
        for (flag, name) in [
            ("--webhook-configuration", &mut self.configuration),
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

/// Whether a controller copies pull secrets, by its arguments.
pub fn delivers(controller: &Deployment) -> bool {
    arguments(controller).any(|argument| argument == "--delivery")
}

/// The configuration that a controller keeps, by its arguments.
pub fn configuration_of(controller: &Deployment) -> Option<&str> {
    let arguments: Vec<&str> = arguments(controller).collect();
    value_of(&arguments, "--webhook-configuration")
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
                &["controller", "--certificates=provided", "--recovery"],
            ),
        ]);
        let expected = Names {
            webhook: "x-webhook".into(),
            controller: "x-controller".into(),
            webhook_account: "wa".into(),
            controller_account: "ca".into(),
            rules: "own-rules".into(),
            certificates: "provided".into(),
            recovers: true,
            ..Names::of_chart("ns", "p")
        };
        assert_eq!(names, expected);
    }
}

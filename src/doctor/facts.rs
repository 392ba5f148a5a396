//! What was found of an installation, as it was found. This module must not judge.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::Finding;
use crate::http::client::CallError;
use crate::installation::workloads::{Deployment, Pod};
pub use crate::installation::{
    Looked, Names, Target, component_of, server_name, webhook_of, with_component,
};
use crate::status;

impl<T> Looked<T> {
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

/// What a dry run tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The only image of the Pod.
    pub image: String,
    /// Pull secrets that the rules add to it, if all is well with their credentials.
    pub expected: Vec<String>,
}

/// What came of a dry run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// What was tried.
    pub plan: Plan,
    /// The pull secrets of the Pod that would have been created, or the API server's refusal.
    pub created: Looked<Result<Vec<String>, String>>,
    /// How many calls the API server has passed over, before and after, if both could be read.
    pub fail_open: Option<(f64, f64)>,
}

/// A question for the API server, and the answer that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The ServiceAccount, in pullpass's namespace.
    pub account: String,
    /// `get`, `list`, …
    pub verb: &'static str,
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural resource.
    pub resource: &'static str,
    /// Only this object; `None`: any.
    pub name: Option<String>,
    /// Only this namespace; `None`: cluster-wide.
    pub namespace: Option<String>,
    /// Whether the account needs it, or must not have it.
    pub needed: bool,
}

/// Everything that was found.
#[derive(Debug)]
pub struct Facts {
    /// What the objects are called.
    pub names: Names,
    /// Major and minor version of Kubernetes.
    pub version: (u32, u32),
    /// Every configuration of the release that holds [`crate::cluster::WEBHOOK`].
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
    /// Sources and copies; `None` without rules that can be used.
    pub delivery: Option<status::Facts>,
    /// Whether the controller may write Secrets of each name that copies have.
    pub copying: Vec<(String, Looked<bool>)>,
    /// Whether the controller may patch ServiceAccounts; `None` where it attaches nothing to them.
    pub attaching: Option<Looked<bool>>,
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

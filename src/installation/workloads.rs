//! Deployments and Pods, as far as this room reads them.
//!
//! Not the whole types: a Pod template has hundreds of fields, and code to read each of them.
//! What is not named here is not read. Field names and defaults are those of apps/v1 and core/v1.

use k8s_openapi::api::{apps, core};
use kube::api::ObjectMeta;
use serde::Deserialize;

use crate::cluster::part::part_of;

/// An apps/v1 Deployment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Deployment {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: DeploymentSpec,
    /// What is there.
    #[serde(default)]
    pub status: DeploymentStatus,
}

/// What is wanted of a Deployment.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// 1 if absent.
    pub replicas: Option<i32>,
    /// Its Pods.
    pub template: PodTemplate,
}

/// What is there of a Deployment.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// 0 if absent.
    pub ready_replicas: i32,
}

/// The Pods of a Deployment.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct PodTemplate {
    /// What is wanted of each.
    pub spec: PodSpec,
}

/// A core/v1 Pod.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Pod {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: PodSpec,
    /// What is there; absent until a kubelet has spoken.
    pub status: Option<PodStatus>,
}

/// What is wanted of a Pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// `default` if absent.
    pub service_account_name: Option<String>,
    /// In order.
    pub containers: Vec<Container>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Of its program.
    pub args: Vec<String>,
    /// Those it names.
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its number.
    pub container_port: i32,
}

/// What is there of a Pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Ready` and others.
    pub conditions: Vec<PodCondition>,
    /// One a container that was started or tried.
    pub container_statuses: Vec<ContainerStatus>,
}

/// A condition of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PodCondition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: Option<String>,
    /// For people.
    pub message: Option<String>,
}

/// How a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Waiting, or not.
    pub state: ContainerState,
}

/// The one state of a container's that matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Present if it waits.
    pub waiting: Option<Waiting>,
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// `CrashLoopBackOff` and its like.
    pub reason: Option<String>,
}

part_of!(apps::v1::Deployment, Deployment);
part_of!(core::v1::Pod, Pod);

//! A ServiceAccount of the API server, as the pure rooms look at it.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;

use crate::delivery::attach::ATTACHED;
use crate::delivery::state::ObjectKey;
use crate::delivery::{Account, Instance};

/// Annotation of a ServiceAccount whose Pods may name only what it lists.
const STRICT: &str = "kubernetes.io/enforce-mountable-secrets";

/// What `instance` keeps of a ServiceAccount.
pub fn read(account: &ServiceAccount, instance: &Instance) -> Account {
    let list = account.image_pull_secrets.iter().flatten();
    let annotations = account.annotations();
    let attached = annotations.get(ATTACHED).map_or("", |text| text);
    Account::new(
        instance,
        list.map(|entry| (*entry.name).into()),
        (!annotations.is_empty(), attached),
        account
            .metadata
            .resource_version
            .as_deref()
            .unwrap_or_default(),
    )
}

/// Its namespace and name.
pub fn key(account: &impl ResourceExt) -> ObjectKey {
    let namespace = account.namespace().unwrap_or_default();
    (namespace.into(), account.name_any().into())
}

/// Whether its Pods may name only what it lists.
pub fn is_strict(account: &impl ResourceExt) -> bool {
    let strict = account.annotations().get(STRICT);
    strict.is_some_and(|value| value == "true")
}

//! What the controller writes, as bodies of server-side apply, and whose an object is.
//!
//! One constant field manager, so that the API server knows our fields for ever. This module must not
//! decide when to write, and nothing here has `Debug`: the bodies hold keys.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{ObjectMeta, PatchParams};
use serde_json::{Value, json};

use crate::cluster::WEBHOOK;
use crate::delivery::copy::MANAGED_BY;

/// Who the API server says wrote our fields. Never to change: fields of another manager stay behind.
const FIELD_MANAGER: &str = "pullpass-controller";

const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "controller");
/// Labels that our objects take over from the ServiceAccount, which the chart made.
const INHERITED: [&str; 2] = ["app.kubernetes.io/name", "app.kubernetes.io/instance"];

/// Annotation that asks for a new CA, by any new value.
pub(super) const ROTATE: &str = "pullpass.dev/rotate";
/// The last value of [`ROTATE`] that was obeyed.
pub(super) const ROTATED: &str = "pullpass.dev/rotated";

/// Keys of the CA's Secret.
pub(super) mod ca {
    /// The CA's certificate.
    pub(in super::super) const CERTIFICATE: &str = "ca.crt";
    /// Its key.
    pub(in super::super) const KEY: &str = "ca.key";
    /// Certificates of former CAs that stay trusted.
    pub(in super::super) const PREVIOUS: &str = "previous.crt";
}

/// Keys of the leaf's Secret.
pub(super) mod tls {
    /// The chain, leaf first.
    pub(in super::super) const CHAIN: &str = "tls.crt";
    /// The leaf's key.
    pub(in super::super) const KEY: &str = "tls.key";
    /// The CA's certificate.
    pub(in super::super) const CA: &str = "ca.crt";
}

/// Who owns what the controller makes: its ServiceAccount, so that all of it goes with an uninstall.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    reference: OwnerReference,
    labels: BTreeMap<String, String>,
}

impl Owner {
    /// The ServiceAccount as the API server gave it.
    pub(super) fn new(account: &ServiceAccount) -> Self {
        let inherited = INHERITED.iter().filter_map(|key| {
            let value = account.labels().get(*key)?;
            Some(((*key).to_owned(), value.clone()))
        });
        let own = [MANAGED_BY, COMPONENT].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            reference: OwnerReference {
                api_version: "v1".to_owned(),
                kind: "ServiceAccount".to_owned(),
                name: account.name_any(),
                uid: account.uid().unwrap_or_default(),
                block_owner_deletion: None,
                controller: None,
            },
            labels: inherited.chain(own).collect(),
        }
    }

    /// Head of an object of ours.
    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(self.labels.clone()),
            owner_references: Some(vec![self.reference.clone()]),
            ..ObjectMeta::default()
        }
    }

    /// The Lease without its holder, which is the election's.
    pub(super) fn lease(&self, name: &str) -> Lease {
        Lease {
            metadata: self.metadata(name),
            spec: None,
        }
    }

    /// A ConfigMap with exactly these entries, over this version of it.
    pub(super) fn config_map(
        &self,
        name: &str,
        resource_version: Option<String>,
        entries: impl IntoIterator<Item = (&'static str, String)>,
    ) -> ConfigMap {
        let data = entries
            .into_iter()
            .map(|(key, text)| (key.to_owned(), text));
        ConfigMap {
            metadata: ObjectMeta {
                resource_version,
                ..self.metadata(name)
            },
            data: Some(data.collect()),
            ..ConfigMap::default()
        }
    }

    /// A Secret with exactly these entries.
    pub(super) fn secret(
        &self,
        name: &str,
        kind: &str,
        entries: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Secret {
        let data = entries
            .into_iter()
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        Secret {
            metadata: self.metadata(name),
            type_: Some(kind.to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }
}

/// `caBundle` of our webhook and nothing else of its configuration.
pub(super) fn ca_bundle(configuration: &MutatingWebhookConfiguration, pem: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": configuration.name_any(),
            "resourceVersion": configuration.resource_version(),
        },
        "webhooks": [{
            "name": WEBHOOK,
            "clientConfig": {"caBundle": ByteString(pem.into())},
        }],
    })
}

/// How all of this is written.
pub(super) fn apply() -> PatchParams {
    apply_unforced().force()
}

/// The same, but not over fields of somebody else: for what is to be made.
pub(super) fn apply_unforced() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER)
}

/// The bundle in a configuration: `None` if it has no webhook of ours, empty if that has no bundle.
pub(super) fn bundle_of(configuration: &MutatingWebhookConfiguration) -> Option<&[u8]> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let ours = webhooks.iter().find(|webhook| webhook.name == WEBHOOK)?;
    let bundle = ours.client_config.ca_bundle.as_ref();
    Some(bundle.map_or(&[], |bytes| bytes.0.as_slice()))
}

/// One entry of a Secret; empty if there is none.
pub(super) fn entry<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    let data = secret.data.as_ref();
    let bytes = data.and_then(|data| data.get(key));
    bytes.map_or(&[], |bytes| bytes.0.as_slice())
}

/// Whether the controller may write this Secret: it is ours, or it holds nothing that could be lost.
pub(super) fn is_writable(secret: &Secret) -> bool {
    let (key, ours) = MANAGED_BY;
    let is_ours = secret.labels().get(key).is_some_and(|value| value == ours);
    let is_blank = || {
        let mut values = secret.data.iter().flat_map(BTreeMap::values);
        values.all(|bytes| bytes.0.is_empty())
    };
    is_ours || is_blank()
}

/// Whether the API server lets one Secret become the other; it keeps types, and what is immutable.
pub(super) fn is_patchable(present: &Secret, wanted: &Secret) -> bool {
    present.immutable != Some(true) && present.type_ == wanted.type_
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {
            "name": "pullpass-controller",
            "uid": "1234",
            "labels": {
                "app.kubernetes.io/name": "pullpass",
                "app.kubernetes.io/instance": "mine",
                "app.kubernetes.io/managed-by": "Helm",
                "helm.sh/chart": "pullpass-1",
            },
        }}))
        .unwrap()
    }

    #[test]
    fn incident_16_our_objects_are_the_programs_own_and_go_with_its_service_account() {
        let entries = [(ca::CERTIFICATE, "x".to_owned())];
        let secret = Owner::new(&account()).secret("pullpass-ca", "Opaque", entries);
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": "pullpass-ca",
                "labels": {
                    "app.kubernetes.io/name": "pullpass",
                    "app.kubernetes.io/instance": "mine",
                    "app.kubernetes.io/component": "controller",
                    "app.kubernetes.io/managed-by": "pullpass",
                },
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "name": "pullpass-controller",
                    "uid": "1234",
                }],
            },
            "data": {"ca.crt": "eA=="},
        });
        assert_eq!(serde_json::to_value(&secret).unwrap(), expected);
    }

    #[test]
    fn incident_15_only_the_bundle_of_our_webhook_is_written() {
        let configuration = serde_json::from_value(json!({
            "metadata": {"name": "pullpass", "resourceVersion": "7"},
        }));
        let expected = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "pullpass", "resourceVersion": "7"},
            "webhooks": [{
                "name": "pods.pullpass.dev",
                "clientConfig": {"caBundle": "eA=="},
            }],
        });
        assert_eq!(ca_bundle(&configuration.unwrap(), "x"), expected);
    }

    #[test]
    fn a_bundle_is_that_of_our_webhook() {
        let configuration = |webhooks: Value| -> MutatingWebhookConfiguration {
            serde_json::from_value(json!({"metadata": {}, "webhooks": webhooks})).unwrap()
        };
        let webhook = |name: &str, client: Value| {
            json!({
                "name": name,
                "clientConfig": client,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            })
        };
        let other = webhook("other.dev", json!({"caBundle": "eA=="}));
        let absent = configuration(json!([other]));
        assert_eq!(bundle_of(&absent), None);
        let empty = configuration(json!([other, webhook(WEBHOOK, json!({}))]));
        assert_eq!(bundle_of(&empty), Some(&b""[..]));
        let full = configuration(json!([webhook(WEBHOOK, json!({"caBundle": "eQ=="}))]));
        assert_eq!(bundle_of(&full), Some(&b"y"[..]));
    }

    #[test]
    fn a_secret_that_holds_something_of_somebody_else_is_not_written() {
        let secret = |object: Value| -> Secret { serde_json::from_value(object).unwrap() };
        let labels = json!({"app.kubernetes.io/managed-by": "pullpass"});
        for (object, writable) in [
            (
                json!({"metadata": {"labels": labels}, "data": {"ca.crt": "eA=="}}),
                true,
            ),
            (json!({"metadata": {}, "data": {"ca.crt": "eA=="}}), false),
            (json!({"metadata": {}, "data": {"ca.crt": ""}}), true),
            (json!({"metadata": {}}), true),
            (
                json!({
                    "metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}},
                    "data": {"other": "eA=="},
                }),
                false,
            ),
        ] {
            assert_eq!(is_writable(&secret(object.clone())), writable, "{object}");
        }
    }
}

//! A Secret of the API server, as the pure rooms look at it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use crate::credential::SecretType;
use crate::delivery::copy::SecretView;

/// What type the API server gives a Secret without one.
const DEFAULT_TYPE: &str = "Opaque";

/// Looks at a Secret; nothing of it is copied.
pub fn view(secret: &Secret) -> SecretView<'_> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let metadata = &secret.metadata;
    let type_name = secret.type_.as_deref().unwrap_or(DEFAULT_TYPE);
    let payload = SecretType::named(type_name).and_then(|kind| {
        let data = secret.data.as_ref()?;
        Some(data.get(kind.data_key())?.0.as_slice())
    });
    SecretView {
        labels: metadata.labels.as_ref().unwrap_or(&NONE),
        annotations: metadata.annotations.as_ref().unwrap_or(&NONE),
        type_name,
        payload,
        is_immutable: secret.immutable == Some(true),
        is_terminating: metadata.deletion_timestamp.is_some(),
        resource_version: metadata.resource_version.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_payload_is_that_of_the_type() {
        let of_type = |type_name: &str| -> Secret {
            let data = json!({".dockerconfigjson": "YQ==", ".dockercfg": "Yg=="});
            serde_json::from_value(json!({"type": type_name, "data": data})).unwrap()
        };
        for (type_name, payload) in [
            ("kubernetes.io/dockerconfigjson", Some(&b"a"[..])),
            ("kubernetes.io/dockercfg", Some(b"b")),
            ("Opaque", None),
        ] {
            assert_eq!(view(&of_type(type_name)).payload, payload);
        }
        assert_eq!(view(&Secret::default()).type_name, "Opaque");
    }
}

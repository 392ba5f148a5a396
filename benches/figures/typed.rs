//! The peer: a handler as most are written, with kube's `DynamicObject` turned into a `Pod`.
//!
//! It asks the same compiled rules and writes the same answer, so that only the reading differs. It
//! reads less of the review than kube's own `AdmissionReview` would, to its advantage.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use pullpass::image::ImageRef;
use pullpass::rules::Ruleset;
use pullpass::rules::ruleset::RuleIds;
use serde::Deserialize;
use serde_json::json;

use super::Outcome;

#[derive(Deserialize)]
struct AdmissionReview {
    request: AdmissionRequest,
}

#[derive(Deserialize)]
struct AdmissionRequest {
    uid: String,
    object: DynamicObject,
}

/// Answers one review.
pub(crate) fn admit(body: &[u8], ruleset: &Ruleset) -> Outcome<Vec<u8>> {
    let request = serde_json::from_slice::<AdmissionReview>(body)?.request;
    let pod: Pod = request.object.try_parse()?;
    let names = wanted(&pod, ruleset);
    let mut response = json!({"uid": request.uid, "allowed": true});
    if let (Some(response), false) = (response.as_object_mut(), names.is_empty()) {
        let secrets: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        let patch = json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": secrets}]);
        response.insert("patchType".to_owned(), json!("JSONPatch"));
        let patch = STANDARD.encode(serde_json::to_vec(&patch)?);
        response.insert("patch".to_owned(), json!(patch));
    }
    Ok(serde_json::to_vec(&json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    }))?)
}

/// Names of the secrets that the Pod's images want, in rule order.
fn wanted<'r>(pod: &Pod, ruleset: &'r Ruleset) -> Vec<&'r str> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref());
    let containers = init.into_iter().chain(spec.map(|spec| &spec.containers));
    let mut matched = RuleIds::new();
    for image in containers.flatten().filter_map(|c| c.image.as_ref()) {
        if let Ok(image) = ImageRef::parse(image) {
            ruleset.match_image(&image, &mut matched);
        }
    }
    matched.sort_unstable();
    matched.dedup();
    let mut names = Vec::new();
    let rules = matched
        .iter()
        .filter_map(|id| ruleset.rules().get(id.0 as usize));
    for secret in rules.flat_map(|rule| &rule.secrets) {
        let secret = ruleset.pull_secrets().get(secret.0 as usize);
        if let Some(name) = secret.map(|secret| &*secret.secret_name)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

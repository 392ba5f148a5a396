//! The AdmissionReview of `admission.k8s.io/v1`: what is read of the request, how the answer is
//! written. Nothing else in the program knows this JSON.
//!
//! The rules of the answer are those of the API server's `VerifyAdmissionResponse`
//! (apiserver `pkg/admission/plugin/webhook/request/admissionreview.go`): the same uid, `patch` and
//! `patchType` together or neither. An answer built here always says `allowed: true`.

use std::borrow::Cow;
use std::fmt;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use crate::rules::{Mode, Ruleset};

use super::decision::{Decision, Warning};
use super::json::{self, NotJson, Read, Reader};
use super::patch;
use super::pod::{self, PodView};

/// Value of `apiVersion`; we advertise no other in `admissionReviewVersions`.
pub const API_VERSION: &str = "admission.k8s.io/v1";
/// Value of `kind`.
pub const KIND: &str = "AdmissionReview";

/// What is read of a request. Borrows from the body.
#[derive(Debug, Clone)]
pub struct Review<'a> {
    /// `request.uid`, echoed in the answer.
    pub uid: Cow<'a, str>,
    /// `request.operation` is `CREATE`, `request.resource` is `pods` of the core group, and there is
    /// no `request.subResource`.
    pub is_pod_create: bool,
    /// `request.namespace`; that of the object may be empty.
    pub namespace: Cow<'a, str>,
    /// `request.object`; `None` where it is no object.
    pub pod: Option<PodView<'a>>,
}

/// Why a body cannot be answered with a review. The texts hold no byte of the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// Not JSON.
    #[error("the body is {0}; send an AdmissionReview")]
    NotJson(#[from] NotJson),
    /// JSON, but `apiVersion` and `kind` are others.
    #[error(
        "the body is not an AdmissionReview of {API_VERSION}; list v1 in admissionReviewVersions"
    )]
    NotAReview,
    /// No `request.uid`: no answer could be matched to the request.
    #[error("the AdmissionReview has no request.uid")]
    NoUid,
}

impl<'a> Review<'a> {
    /// Reads an AdmissionReview.
    ///
    /// # Errors
    /// [`ReviewError`] where no answer can be built. Fields of the wrong type count as absent.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReviewError> {
        let review = json::read(body, review)?.ok_or(ReviewError::NotAReview)?;
        if review.api_version.as_deref() != Some(API_VERSION)
            || review.kind.as_deref() != Some(KIND)
        {
            return Err(ReviewError::NotAReview);
        }
        let request = review.request.ok_or(ReviewError::NoUid)?;
        let uid = request
            .uid
            .filter(|uid| !uid.is_empty())
            .ok_or(ReviewError::NoUid)?;
        let is_pod_create = request.operation.as_deref() == Some("CREATE")
            && request
                .resource
                .group
                .as_deref()
                .unwrap_or_default()
                .is_empty()
            && request.resource.resource.as_deref() == Some("pods")
            && request
                .sub_resource
                .as_deref()
                .unwrap_or_default()
                .is_empty();
        let namespace = request.namespace.unwrap_or_default();
        Ok(Self {
            uid,
            is_pod_create,
            namespace,
            pod: request.object,
        })
    }
}

#[derive(Default)]
struct ReviewFields<'a> {
    api_version: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    request: Option<RequestFields<'a>>,
}

fn review<'a>(json: &mut Reader<'a>) -> Read<Option<ReviewFields<'a>>> {
    let mut review = ReviewFields::default();
    let is_object = json.object(|key, json| {
        match &*key {
            b"apiVersion" => review.api_version = json.text()?,
            b"kind" => review.kind = json.text()?,
            b"request" => review.request = request(json)?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(is_object.then_some(review))
}

#[derive(Default)]
struct RequestFields<'a> {
    uid: Option<Cow<'a, str>>,
    operation: Option<Cow<'a, str>>,
    resource: ResourceFields<'a>,
    sub_resource: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    object: Option<PodView<'a>>,
}

fn request<'a>(json: &mut Reader<'a>) -> Read<Option<RequestFields<'a>>> {
    let mut request = RequestFields::default();
    let is_object = json.object(|key, json| {
        match &*key {
            b"uid" => request.uid = json.text()?,
            b"operation" => request.operation = json.text()?,
            b"resource" => request.resource = resource(json)?,
            b"subResource" => request.sub_resource = json.text()?,
            b"namespace" => request.namespace = json.text()?,
            b"object" => request.object = Some(pod::pod(json)?),
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(is_object.then_some(request))
}

/// `request.resource`, a GroupVersionResource; the version is of no interest.
#[derive(Default)]
struct ResourceFields<'a> {
    group: Option<Cow<'a, str>>,
    resource: Option<Cow<'a, str>>,
}

fn resource<'a>(json: &mut Reader<'a>) -> Read<ResourceFields<'a>> {
    let mut resource = ResourceFields::default();
    json.object(|key, json| {
        match &*key {
            b"group" => resource.group = json.text()?,
            b"resource" => resource.resource = json.text()?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(resource)
}

/// Room for an answer that patches, so that writing it does not grow the buffer: about 250 bytes of
/// frame, and for each of a few secrets its name in the patch (base64) and in the audit annotations.
const ANSWER_BYTES_TYPICAL: usize = 768;

/// Writes the answer to `review`.
pub fn write_response(review: &Review<'_>, decision: &Decision<'_>, ruleset: &Ruleset) -> Vec<u8> {
    let patch = patch::to_json(decision);
    let answer = AnswerJson {
        api_version: API_VERSION,
        kind: KIND,
        response: ResponseJson {
            uid: &review.uid,
            allowed: true,
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch: patch.as_deref().map(Base64),
            warnings: (!decision.warnings.is_empty()).then_some(Warnings(&decision.warnings)),
            audit_annotations: AuditAnnotations::of(decision, ruleset),
        },
    };
    let mut body = Vec::with_capacity(ANSWER_BYTES_TYPICAL);
    let written = serde_json::to_writer(&mut body, &answer);
    debug_assert!(
        written.is_ok(),
        "strings and maps with string keys always serialize"
    );
    body
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerJson<'a, 's> {
    api_version: &'static str,
    kind: &'static str,
    response: ResponseJson<'a, 's>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseJson<'a, 's> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Warnings<'a, 's>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_annotations: Option<AuditAnnotations<'a, 's>>,
}

/// Bytes written as standard base64 without a copy.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Warnings, each cut to [`Warning::CHARACTERS_MAX`].
struct Warnings<'a, 's>(&'a [Warning<'s>]);

impl Serialize for Warnings<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for warning in self.0 {
            seq.serialize_element(&warning.to_text())?;
        }
        seq.end()
    }
}

/// What the audit log keeps. The API server drops a second, different value for a key when it calls
/// again, so nothing is said when nothing is added.
struct AuditAnnotations<'a, 's> {
    decision: &'a Decision<'s>,
    ruleset: &'a Ruleset,
}

impl<'a, 's> AuditAnnotations<'a, 's> {
    fn of(decision: &'a Decision<'s>, ruleset: &'a Ruleset) -> Option<Self> {
        let says_something = !decision.inject.is_empty() || !decision.shadow.is_empty();
        says_something.then_some(Self { decision, ruleset })
    }
}

impl Serialize for AuditAnnotations<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Decision {
            inject,
            shadow,
            rules,
            ..
        } = self.decision;
        let mut map = serializer.serialize_map(None)?;
        if !inject.is_empty() {
            let names = rules
                .iter()
                .filter(|(_, mode)| *mode == Mode::Enforce)
                .filter_map(|(rule, _)| self.ruleset.rules().get(rule.0 as usize));
            map.serialize_entry("rules", &Commas(names.map(|rule| &*rule.name)))?;
            map.serialize_entry("pull-secrets", &Commas(inject.iter().copied()))?;
        }
        if !shadow.is_empty() {
            map.serialize_entry("shadow-pull-secrets", &Commas(shadow.iter().copied()))?;
        }
        map.end()
    }
}

/// Names joined by commas, written without building the text.
struct Commas<I>(I);

impl<'a, I: Iterator<Item = &'a str> + Clone> fmt::Display for Commas<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.clone().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl<'a, I: Iterator<Item = &'a str> + Clone> Serialize for Commas<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

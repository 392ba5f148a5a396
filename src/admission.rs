//! The decision: a pure function of a review and a snapshot. Bytes in, bytes out.
//!
//! One request flows through this room in one direction:
//!
//! ```text
//! bytes --review::Review--> PodView --decision::decide_pod--> Decision --review::write_response--> bytes
//! ```
//!
//! [`decision`] holds the line that decides whether a Pod is skipped. This room must not do I/O, take
//! a lock, or know HTTP; only [`review`] knows the JSON of an AdmissionReview.

pub mod context;
pub mod decision;
pub mod explanation;
mod json;
pub mod patch;
pub mod pod;
pub mod review;

pub use decision::{Decision, Reason, Warning, decide_pod};
pub use json::NotJson;
pub use pod::PodView;
pub use review::{Review, ReviewError};

use smallvec::SmallVec;

use crate::rules::{Mode, RuleId};
use crate::snapshot::Snapshot;

/// Answers one AdmissionReview: decode, decide, patch, encode.
///
/// # Errors
/// [`ReviewError`] where no valid answer can be built: the caller sends HTTP 400, and the
/// `failurePolicy` decides. A Pod is never denied.
pub fn admit(body: &[u8], snapshot: &Snapshot) -> Result<Answer, ReviewError> {
    let review = Review::parse(body)?;
    let decision = decide(&review, snapshot);
    let body = review::write_response(&review, &decision, snapshot.ruleset());
    Ok(Answer {
        body,
        report: Report::of(&decision),
    })
}

/// Decides one review. Only the CREATE of a Pod can be patched: later the list is immutable, and a
/// patch would turn a legal update into a refused one.
pub fn decide<'s>(review: &Review<'_>, snapshot: &'s Snapshot) -> Decision<'s> {
    if !review.is_pod_create {
        return Decision::unchanged(Reason::NotPodCreate);
    }
    match &review.pod {
        None => Decision::unchanged(Reason::UnreadablePod),
        Some(pod) => decide_pod(&review.namespace, pod, snapshot),
    }
}

/// What to send, and what to count.
#[derive(Debug)]
pub struct Answer {
    /// The AdmissionReview response, JSON.
    pub body: Vec<u8>,
    /// What was decided.
    pub report: Report,
}

/// What was decided, for metrics and the debug log line. No text from the Pod's body.
#[derive(Debug)]
pub struct Report {
    /// Label values `outcome` and `reason` of `pullpass_admission_requests_total`.
    pub reason: Reason,
    /// Rules that added a secret (Enforce) or would have (Shadow).
    pub injections: SmallVec<[(RuleId, Mode); 8]>,
    /// [`Warning::kind`] of each warning.
    pub warnings: SmallVec<[&'static str; 4]>,
    /// Image references that the kubelet will refuse as `InvalidImageName`.
    pub images_unparsable: u32,
    /// More secrets might have been added if the labels of the namespace were known.
    pub lacks_labels: bool,
}

impl Report {
    fn of(decision: &Decision<'_>) -> Self {
        Self {
            reason: decision.reason,
            injections: decision.rules.clone(),
            warnings: decision.warnings.iter().map(Warning::kind).collect(),
            images_unparsable: decision.images_unparsable,
            lacks_labels: decision.lacks_labels,
        }
    }
}

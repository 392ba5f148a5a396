//! The decision: a pure function of review and snapshot. Bytes in, bytes out.

use crate::snapshot::Snapshot;

/// Answers one AdmissionReview.
///
/// # Errors
/// [`ReviewError`] where no valid answer can be built: the caller sends HTTP 400.
pub fn admit(_body: &[u8], _snapshot: &Snapshot) -> Result<Answer, ReviewError> {
    todo!()
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
    pub injections: smallvec::SmallVec<[(crate::rules::RuleId, crate::rules::Mode); 8]>,
}

/// Why a review was answered as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Placeholder, more follow.
    Injected,
}

impl Reason {
    /// All values, so that every series exists from the start.
    pub const ALL: &'static [Self] = &[Self::Injected];

    /// Label value `outcome`.
    pub fn outcome(self) -> &'static str {
        "patched"
    }

    /// Label value `reason`.
    pub fn as_str(self) -> &'static str {
        "injected"
    }
}

/// Why a body cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// Not JSON, or not an AdmissionReview v1.
    #[error("not an AdmissionReview of admission.k8s.io/v1")]
    NotAReview,
    /// No `request.uid`.
    #[error("the AdmissionReview has no request.uid")]
    NoUid,
}

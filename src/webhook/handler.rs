//! One request: from an HTTP head to an HTTP answer.
//!
//! ```text
//! content type --> length --> its turn (in flight, bytes) --> body --> snapshot --> admit --> answer
//! ```
//! A request loads one snapshot, once. The exception: if it goes by labels of a namespace that nobody has
//! seen yet, it starts over under what is published within [`NAMESPACE_WAIT_MAX`].
//!
//! Whatever goes wrong is a [`Refusal`]: an HTTP error, so that the webhook's `failurePolicy` decides.
//! This module must not know the AdmissionReview, and never denies a Pod.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, EXPECT, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::BodyExt;
use prometheus::IntCounter;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Level;

use super::serving::{Serving, ServingStore};
use crate::admission::{Answer, Reason, Report, Review, ReviewError, Warning};
use crate::http::limits::{
    BODY_RESERVE_BYTES_MAX, BODY_SHARE_BYTES, Limits, NAMESPACE_WAIT_MAX, QUEUE_PART_OF_TIMEOUT,
    REFUSED_BODY_BYTES_MAX, REQUEST_TIMEOUT_DEFAULT, REQUEST_TIMEOUT_MAX,
    RETRY_AFTER as RETRY_AFTER_SECONDS,
};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Where the API server posts its reviews.
pub const PATH: &str = "/mutate";

/// What answers a review: [`crate::admission::admit`], or a stand-in under test or measurement.
pub type Admit = fn(&[u8], &Snapshot) -> Result<Answer, ReviewError>;

/// Everything a request needs.
#[derive(Debug)]
pub struct Handler {
    admit: Admit,
    snapshots: Arc<ServingStore>,
    limits: Limits,
    in_flight: Semaphore,
    body_bytes: Semaphore,
    metrics: Arc<Metrics>,
    reasons: Vec<(Reason, IntCounter)>,
    refusals: Vec<(&'static str, IntCounter)>,
    warnings: Vec<(&'static str, IntCounter)>,
}

/// Why a request got no AdmissionReview back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 415: the body would not be JSON.
    #[error("the content type is not application/json")]
    MediaType,
    /// 413.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// 408: the body did not arrive in time.
    #[error("the body did not arrive in time")]
    TooSlow,
    /// 400: the body ended early or was framed wrongly.
    #[error("the body could not be read")]
    Broken,
    /// 400: no AdmissionReview.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// 503, to be tried again: too many requests in flight, or too many bytes of bodies.
    #[error("too many requests; try again")]
    Overloaded,
    /// 500: no rules are loaded; `/readyz` says why.
    #[error("no rules are loaded yet; /readyz on the probe port says why")]
    NotReady,
    /// 500: a bug.
    #[error("internal error")]
    Panicked,
}

impl Refusal {
    /// Every value of [`Self::reason`], so that each series exists from the start.
    const REASONS: [&'static str; 8] = [
        "media_type",
        "too_large",
        "too_slow",
        "broken_body",
        "not_a_review",
        "overloaded",
        "not_ready",
        "panic",
    ];

    /// Label value `reason` of `pullpass_admission_requests_total`; the outcome is `refused`.
    fn reason(&self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::TooLarge(_) => "too_large",
            Self::TooSlow => "too_slow",
            Self::Broken => "broken_body",
            Self::Review(_) => "not_a_review",
            Self::Overloaded => "overloaded",
            Self::NotReady => "not_ready",
            Self::Panicked => "panic",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken | Self::Review(_) => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotReady | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), format!("{self}\n")).into_response();
        if self == Self::Overloaded {
            let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// A request's place among those in flight, and its share of the memory for bodies.
type Turn<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

impl Handler {
    /// A handler that answers with `admit` under what `snapshots` holds.
    pub fn new(
        admit: Admit,
        snapshots: Arc<ServingStore>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reasons = Reason::ALL.iter().map(|reason| {
            let counter = metrics.requests(reason.outcome(), reason.as_str());
            (*reason, counter)
        });
        let warnings = Warning::KINDS.map(|kind| (kind, metrics.warnings(kind)));
        let refusals = Refusal::REASONS.map(|reason| (reason, metrics.requests("refused", reason)));
        Self {
            admit,
            snapshots,
            in_flight: Semaphore::new(limits.requests_in_flight_max),
            body_bytes: Semaphore::new(limits.bodies_bytes_max),
            limits,
            reasons: reasons.collect(),
            refusals: refusals.to_vec(),
            warnings: warnings.to_vec(),
            metrics,
        }
    }

    /// The routes: POST [`PATH`]. Any other method is a 405, any other path a 404; the query plays no
    /// part.
    pub fn into_router(self) -> Router {
        Router::new()
            .route(PATH, post(mutate))
            .with_state(Arc::new(self))
    }

    async fn answer(&self, request: Request) -> Result<Vec<u8>, Refusal> {
        let (head, mut body) = request.into_parts();
        let received = self.receive(&head.headers, &head.uri, &mut body).await;
        let (body, _turn) = match received {
            Ok(received) => received,
            Err(refusal) => {
                self.discard(&refusal, &head.headers, body).await;
                return Err(refusal);
            }
        };
        match self.decide(&body, true)? {
            Some(json) => Ok(json),
            None => self.await_namespace(&body).await,
        }
    }

    /// Decides under what is served now; `None` if it `may_wait` for labels of its namespace, and they
    /// matter.
    fn decide(&self, body: &[u8], may_wait: bool) -> Result<Option<Vec<u8>>, Refusal> {
        let serving = self.snapshots.load();
        let serving = serving.as_deref().ok_or(Refusal::NotReady)?;
        let admit = AssertUnwindSafe(|| (self.admit)(body, &serving.snapshot));
        let answer = catch_unwind(admit).map_err(|_| Refusal::Panicked)??;
        if may_wait && answer.report.lacks_labels {
            return Ok(None);
        }
        self.report(&answer.report, serving, body);
        Ok(Some(answer.body))
    }

    /// A Pod may come with its namespace, before the watch has brought that.
    async fn await_namespace(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.metrics.namespace_waits.inc();
        let deadline = Instant::now() + NAMESPACE_WAIT_MAX;
        let mut published = self.snapshots.published();
        let mut may_wait = true;
        loop {
            if let Some(json) = self.decide(body, may_wait)? {
                return Ok(json);
            }
            may_wait = timeout_at(deadline, published.changed()).await.is_ok();
        }
    }

    /// Reads the body once it is this request's turn. The turn lasts as long as what is returned.
    async fn receive(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        body: &mut Body,
    ) -> Result<(Bytes, Turn<'_>), Refusal> {
        let bytes_max = self.limits.body_bytes_max;
        if !is_json(headers) {
            return Err(Refusal::MediaType);
        }
        // Without a length the body may become as large as any.
        let length = body.size_hint().exact();
        let length = length.map_or(bytes_max, |length| {
            usize::try_from(length).unwrap_or(usize::MAX)
        });
        if length > bytes_max {
            return Err(Refusal::TooLarge(bytes_max));
        }
        let deadline = requested_timeout(uri);
        let turn = timeout(deadline / QUEUE_PART_OF_TIMEOUT, self.turn(length)).await;
        let Ok(Ok(mut turn)) = turn else {
            return Err(Refusal::Overloaded);
        };
        let patience = deadline.min(self.limits.body_read_max);
        let body = timeout(patience, self.read(body, length, &mut turn)).await;
        Ok((body.map_err(|_| Refusal::TooSlow)??, turn))
    }

    /// Waits for a place, and for the first share of the memory for bodies: what a length claims costs
    /// its sender nothing, so the rest is taken as it arrives.
    async fn turn(&self, length: usize) -> Result<Turn<'_>, AcquireError> {
        let in_flight = self.in_flight.acquire().await?;
        let share = length
            .min(BODY_SHARE_BYTES)
            .min(self.limits.bodies_bytes_max);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Ok((in_flight, self.body_bytes.acquire_many(share).await?))
    }

    /// Reads a body, `length` being what to expect.
    async fn read<'s>(
        &'s self,
        body: &mut Body,
        length: usize,
        (_, share): &mut Turn<'s>,
    ) -> Result<Bytes, Refusal> {
        let bytes_max = self.limits.body_bytes_max;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else {
                continue; // Trailers.
            };
            let read = whole.len() + data.len();
            if read > bytes_max {
                return Err(Refusal::TooLarge(bytes_max));
            }
            // Not waited for: bodies that wait for each other's memory would wait for ever.
            if let Some(more) = read
                .checked_sub(share.num_permits())
                .filter(|more| *more > 0)
            {
                let more = u32::try_from(more).unwrap_or(u32::MAX);
                let more = self.body_bytes.try_acquire_many(more);
                share.merge(more.map_err(|_| Refusal::Overloaded)?);
            }
            // The ordinary review comes in one piece, which needs no copy.
            if whole.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            if whole.is_empty() {
                whole.reserve(length.min(BODY_RESERVE_BYTES_MAX));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }

    /// Throws the rest of a refused body away, within limits, so that the sender gets to read why.
    async fn discard(&self, refusal: &Refusal, headers: &HeaderMap, mut body: Body) {
        // Who waits for `100 Continue` has sent nothing; who was too slow is not waited for again.
        let is_pointless = matches!(refusal, Refusal::TooSlow | Refusal::Broken);
        if is_pointless || headers.contains_key(EXPECT) {
            return;
        }
        let rest = async {
            let mut left = REFUSED_BODY_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(bytes)?;
            }
            Some(left)
        };
        timeout(self.limits.body_read_max, rest).await.ok();
    }

    fn report(&self, report: &Report, serving: &Serving, body: &[u8]) {
        count(&self.reasons, &report.reason);
        for (rule, _) in &report.injections {
            serving.injections.count(rule.0 as usize);
        }
        for kind in &report.warnings {
            count(&self.warnings, kind);
        }
        let unparsable = u64::from(report.images_unparsable);
        self.metrics.images_unparsable.inc_by(unparsable);
        // Whose request it was is read a second time, because nobody pays for it unless debugging.
        if tracing::enabled!(Level::DEBUG)
            && let Ok(review) = Review::parse(body)
        {
            tracing::debug!(
                uid = &*review.uid,
                namespace = &*review.namespace,
                generation = serving.snapshot.generation(),
                outcome = report.reason.outcome(),
                reason = report.reason.as_str(),
                "answered"
            );
        }
    }

    fn report_refusal(&self, refusal: &Refusal) {
        count(&self.refusals, &refusal.reason());
        match refusal {
            Refusal::Overloaded => self.metrics.shed.inc(),
            Refusal::Panicked => self.metrics.panics.inc(),
            _ => {}
        }
        tracing::debug!(reason = refusal.reason(), "refused");
    }
}

async fn mutate(State(handler): State<Arc<Handler>>, request: Request) -> Response {
    let head_read = Instant::now();
    let response = match handler.answer(request).await {
        Ok(json) => {
            let media_type = HeaderValue::from_static("application/json");
            ([(CONTENT_TYPE, media_type)], json).into_response()
        }
        Err(refusal) => {
            handler.report_refusal(&refusal);
            refusal.into_response()
        }
    };
    let seconds = head_read.elapsed().as_secs_f64();
    handler.metrics.admission_duration.observe(seconds);
    response
}

/// A dozen keys: walking them is cheaper than hashing one.
fn count<K: PartialEq>(counters: &[(K, IntCounter)], key: &K) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| known == key) {
        counter.inc();
    }
}

/// Parameters such as `charset` do not matter: JSON is UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let media_type = value.and_then(|value| value.split(|byte| *byte == b';').next());
    media_type.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}

/// The deadline the API server gives itself, `?timeout=5s`.
fn requested_timeout(uri: &Uri) -> Duration {
    let parameters = uri.query().unwrap_or_default().split('&');
    let mut values = parameters.filter_map(|parameter| parameter.strip_prefix("timeout="));
    let timeout = values.next().and_then(parse_go_duration);
    timeout
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(REQUEST_TIMEOUT_DEFAULT)
        .min(REQUEST_TIMEOUT_MAX)
}

/// A duration as Go prints it: numbers with units, `1m30s`, `1.5s`, `500ms`. Negative ones are not
/// durations here.
fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at_checked(letters.unwrap_or(after.len()))?;
        let unit_seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "%C2%B5s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_seconds;
        rest = after;
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_go_prints_them() {
        let ms = Duration::from_millis;
        for (query, expected) in [
            ("/mutate?timeout=5s", ms(5_000)),
            ("/mutate?timeout=1.5s", ms(1_500)),
            ("/mutate?a=b&timeout=500ms&c", ms(500)),
            ("/mutate?timeout=1s500ms", ms(1_500)),
            ("/mutate?timeout=1m30s", REQUEST_TIMEOUT_MAX),
            ("/mutate?timeout=1e9h", REQUEST_TIMEOUT_DEFAULT),
            (
                "/mutate?timeout=999999999999999999999999h",
                REQUEST_TIMEOUT_DEFAULT,
            ),
            ("/mutate?timeout=-5s", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate?timeout=0s", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate?timeout=5", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate?timeout=s", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate?timeout=", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate?mytimeout=1s", REQUEST_TIMEOUT_DEFAULT),
            ("/mutate", REQUEST_TIMEOUT_DEFAULT),
        ] {
            assert_eq!(
                requested_timeout(&query.parse().unwrap()),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/jsonx", false),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn every_refusal_has_a_series() {
        let refusals = [
            Refusal::MediaType,
            Refusal::TooLarge(1),
            Refusal::TooSlow,
            Refusal::Broken,
            Refusal::Review(ReviewError::NoUid),
            Refusal::Overloaded,
            Refusal::NotReady,
            Refusal::Panicked,
        ];
        assert_eq!(refusals.map(|refusal| refusal.reason()), Refusal::REASONS);
    }
}

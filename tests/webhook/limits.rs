//! What is refused, with which answer, and that the answer arrives.

use std::sync::Arc;
use std::time::Duration;

use pullpass::admission::{self, Answer, ReviewError};
use pullpass::http::limits::{BODY_BYTES_MAX, Limits};
use pullpass::metrics::Metrics;
use pullpass::snapshot::Snapshot;
use pullpass::webhook::handler::Handler;
use pullpass::webhook::serving::ServingStore;
use tokio::time::advance;

use crate::client::{Connection, Response, get, post, post_chunked};
use crate::harness::{Server, StillClock, null};

/// 0.1 MiB, in bytes.
const TENTH_MIB: usize = 1024 * 1024 / 10;

/// A review of a Pod of `bytes` bytes, which are an annotation.
fn review(bytes: usize) -> Vec<u8> {
    let filler = "x".repeat(bytes);
    let review = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u-1",
        "operation":"CREATE","resource":{{"group":"","version":"v1","resource":"pods"}},"namespace":"n",
        "object":{{"metadata":{{"annotations":{{"filler":"{filler}"}}}},
        "spec":{{"containers":[{{"name":"c","image":"r.example/app"}}]}}}}}}}}"#
    );
    review.into_bytes()
}

async fn answer_to(request: impl AsRef<[u8]>) -> Response {
    let server = Server::admitting(admission::admit, Limits::default()).await;
    server.connect().await.request(request).await
}

async fn check(request: impl AsRef<[u8]>, status: u16, text: &str) {
    let answer = answer_to(request).await;
    assert_eq!(answer.status, status);
    assert!(answer.text().contains(text), "{}", answer.text());
}

#[tokio::test]
async fn incident_31_a_review_of_7_9_mib_is_answered() {
    let body = review(79 * TENTH_MIB);
    check(post("/mutate", &body), 200, r#""uid":"u-1""#).await;
    check(post_chunked("/mutate", &body), 200, r#""uid":"u-1""#).await;
}

#[tokio::test]
async fn incident_31_a_review_of_8_1_mib_gets_413() {
    let body = review(81 * TENTH_MIB);
    check(post("/mutate", &body), 413, "larger than 8388608 bytes").await;
    check(
        post_chunked("/mutate", &body),
        413,
        "larger than 8388608 bytes",
    )
    .await;
}

#[tokio::test]
async fn incident_31_the_largest_body_is_accepted_and_one_byte_more_is_not() {
    let body = vec![b' '; BODY_BYTES_MAX + 1];
    check(post("/mutate", &body[1..]), 400, "not JSON").await;
    check(post("/mutate", &body), 413, "larger").await;
    check(post_chunked("/mutate", &body[1..]), 400, "not JSON").await;
    check(post_chunked("/mutate", &body), 413, "larger").await;
}

#[tokio::test]
async fn incident_31_the_content_type_is_looked_at_before_the_body() {
    // The body never comes: the answer cannot have waited for it.
    let head = "POST /mutate HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n\
        Content-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    check(head, 415, "application/json").await;
    let without = "POST /mutate HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";
    check(without, 415, "application/json").await;
}

#[tokio::test]
async fn incident_31_a_length_over_the_limit_is_refused_before_the_body() {
    let head = "POST /mutate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
        Content-Length: 9000000\r\nExpect: 100-continue\r\n\r\n";
    check(head, 413, "larger").await;
}

#[tokio::test]
async fn only_post_and_only_one_path() {
    check(get("/mutate"), 405, "").await;
    check(get("/"), 404, "").await;
    check(post("/mutate/x", b"{}"), 404, "").await;
    check(post("/metrics", b"{}"), 404, "").await;
    check(post("/mutate?timeout=5s&x=/y", &review(1)), 200, "u-1").await;
}

#[tokio::test]
async fn what_is_no_review_gets_400() {
    check(post("/mutate", b"{"), 400, "not JSON").await;
    check(post("/mutate", b""), 400, "not JSON").await;
    check(post("/mutate", b"[]"), 400, "not an AdmissionReview").await;
    let no_uid = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#;
    check(post("/mutate", no_uid), 400, "no request.uid").await;
}

#[tokio::test]
async fn a_head_over_the_limit_gets_431() {
    let padding = "x".repeat(20_000);
    check(
        format!("GET / HTTP/1.1\r\nHost: h\r\nX: {padding}\r\n\r\n"),
        431,
        "",
    )
    .await;
}

#[tokio::test]
async fn without_rules_a_request_gets_500() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let store = Arc::new(ServingStore::new(metrics.clone()));
    let handler = Handler::new(null, store, Limits::default(), metrics);
    let server = Server::start(handler.into_router(), Limits::default()).await;
    let answer = server.connect().await.request(post("/mutate", b"{}")).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("/readyz"), "{}", answer.text());
}

#[tokio::test]
async fn incident_14_a_panic_in_the_decision_is_a_500_and_the_process_lives() {
    fn panics_on_demand(body: &[u8], snapshot: &Snapshot) -> Result<Answer, ReviewError> {
        assert_ne!(body, b"panic", "on purpose");
        null(body, snapshot)
    }
    let server = Server::admitting(panics_on_demand, Limits::default()).await;
    let mut connection = server.connect().await;
    let answer = connection.request(post("/mutate", b"panic")).await;
    assert_eq!((answer.status, answer.text()), (500, "internal error\n"));
    assert_eq!(server.metrics.panics.get(), 1);
    let answer = connection.request(post("/mutate", b"fine")).await;
    assert_eq!((answer.status, answer.text()), (200, "{}"));
}

/// The head of a request whose body does not come. Returns once the server is reading the body.
async fn begin(connection: &mut Connection, path: &str, length: usize) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    assert_eq!(connection.request(head).await.status, 100);
}

#[tokio::test]
async fn over_the_in_flight_limit_requests_get_503_and_may_retry() {
    let limits = Limits {
        requests_in_flight_max: 1,
        ..Limits::default()
    };
    let server = Server::admitting(null, limits).await;
    let mut first = server.connect().await;
    begin(&mut first, "/mutate", 2).await;
    let mut second = server.connect().await;
    // A quarter of 4 ms is waited for a turn.
    let request = post("/mutate?timeout=4ms", b"{}");
    let answer = second.request(&request).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(server.metrics.shed.get(), 1);
    assert_eq!(first.request("{}").await.status, 200);
    // The connection is as good as before.
    assert_eq!(second.request(&request).await.status, 200);
}

#[tokio::test]
async fn a_request_that_gets_its_turn_in_time_is_served() {
    let limits = Limits {
        requests_in_flight_max: 1,
        ..Limits::default()
    };
    let server = Server::admitting(null, limits).await;
    let mut first = server.connect().await;
    begin(&mut first, "/mutate", 2).await;
    let mut second = server.connect().await;
    second
        .send(post("/mutate?timeout=30s", b"{}"))
        .await
        .unwrap();
    assert_eq!(first.request("{}").await.status, 200);
    assert_eq!(second.receive().await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn over_the_limit_of_buffered_bytes_requests_get_503() {
    let limits = Limits {
        bodies_bytes_max: 100,
        ..Limits::default()
    };
    let server = Server::admitting(null, limits).await;
    let mut first = server.connect().await;
    begin(&mut first, "/mutate", 80).await;
    let mut other = server.connect().await;
    let status = async |connection: &mut Connection, bytes| {
        let request = post("/mutate?timeout=4ms", &vec![b'x'; bytes]);
        connection.request(request).await.status
    };
    assert_eq!(status(&mut other, 21).await, 503);
    assert_eq!(status(&mut other, 20).await, 200);
    assert_eq!(first.request([b'x'; 80]).await.status, 200);
    assert_eq!(status(&mut other, 100).await, 200);
    assert_eq!(status(&mut other, 101).await, 503);
}

#[tokio::test]
async fn claims_of_large_bodies_shut_nobody_out() {
    let server = Server::admitting(null, Limits::default()).await;
    let mut claims = Vec::new();
    for _ in 0..100 {
        let mut connection = server.connect().await;
        begin(&mut connection, "/mutate", 8 * 1024 * 1024).await;
        claims.push(connection);
    }
    let answer = server.connect().await.request(post("/mutate", b"{}")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn incident_09_a_body_that_trickles_in_is_cut_after_10_s() {
    let _clock = StillClock::new();
    let server = Server::admitting(null, Limits::default()).await;
    let mut slow = server.connect().await;
    begin(&mut slow, "/mutate?timeout=30s", 10).await;
    advance(Duration::from_secs(9)).await;
    slow.send("123").await.unwrap();
    advance(Duration::from_secs(2)).await;
    assert_eq!(slow.receive().await.unwrap().unwrap().status, 408);
    slow.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_waited_for_past_the_callers_own_deadline() {
    let _clock = StillClock::new();
    let server = Server::admitting(null, Limits::default()).await;
    let mut slow = server.connect().await;
    begin(&mut slow, "/mutate?timeout=2s", 10).await;
    advance(Duration::from_secs(3)).await;
    assert_eq!(slow.receive().await.unwrap().unwrap().status, 408);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_its_place() {
    let limits = Limits {
        requests_in_flight_max: 1,
        ..Limits::default()
    };
    let server = Server::admitting(null, limits).await;
    let mut first = server.connect().await;
    begin(&mut first, "/mutate", 10).await;
    drop(first);
    let answer = server.connect().await.request(post("/mutate", b"{}")).await;
    assert_eq!(answer.status, 200);
}

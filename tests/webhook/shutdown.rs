//! The end: nobody who behaves as an API server does loses a request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use pullpass::http::limits::Limits;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::advance;

use crate::client::post as post_bytes;
use crate::harness::{Server, StillClock, echo};
use crate::process::{Deployment, review};

/// A route whose requests wait for the test.
struct Gate {
    entered: Arc<Notify>,
    go_on: Arc<Notify>,
}

fn gated() -> (Router, Gate) {
    let gate = Gate {
        entered: Arc::default(),
        go_on: Arc::default(),
    };
    let (entered, go_on) = (gate.entered.clone(), gate.go_on.clone());
    let wait = async move || {
        entered.notify_one();
        go_on.notified().await;
        "done"
    };
    (echo().route("/wait", post(wait)), gate)
}

#[tokio::test(start_paused = true)]
async fn incident_07_every_request_succeeds_or_its_connection_was_closed_before() {
    let _clock = StillClock::new();
    let mut server = Server::start(echo(), Limits::default()).await;
    let request = post_bytes("/echo", b"12345");
    let mut idle = Vec::new();
    for _ in 0..25 {
        let mut connection = server.connect().await;
        assert!(!connection.request(&request).await.says_close());
        idle.push(connection);
    }
    server.stopper.drain();
    let never_used_again = idle.split_off(20);
    for mut connection in idle {
        let answer = connection.request(&request).await;
        assert_eq!((answer.status, answer.says_close()), (200, true));
        connection.closed().await;
    }
    // Whoever has not noticed yet may still connect.
    let answer = server.connect().await.request(&request).await;
    assert_eq!((answer.status, answer.says_close()), (200, true));
    advance(Duration::from_secs(11)).await;
    for mut connection in never_used_again {
        connection.closed().await;
    }
    server.ended().await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn incident_05_connections_are_accepted_until_the_drain_is_over() {
    let _clock = StillClock::new();
    let mut server = Server::start(echo(), Limits::default()).await;
    server.stopper.drain();
    assert!(
        server
            .connect()
            .await
            .request(post_bytes("/echo", b""))
            .await
            .says_close()
    );
    advance(Duration::from_secs(9)).await;
    assert!(
        server
            .connect()
            .await
            .request(post_bytes("/echo", b""))
            .await
            .says_close()
    );
    advance(Duration::from_secs(2)).await;
    server.ended().await;
}

fn no_drain() -> Limits {
    Limits {
        drain: Duration::ZERO,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished() {
    let (router, gate) = gated();
    let mut server = Server::start(router, no_drain()).await;
    let (mut at_work, mut idle) = (server.connect().await, server.connect().await);
    idle.request(post_bytes("/echo", b"")).await;
    at_work.send(post_bytes("/wait", b"")).await.unwrap();
    gate.entered.notified().await;
    server.stopper.drain();
    idle.closed().await;
    gate.go_on.notify_one();
    let answer = at_work.receive().await.unwrap().unwrap();
    assert_eq!((answer.text(), answer.says_close()), ("done", true));
    server.ended().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (router, gate) = gated();
    let mut server = Server::start(router, Limits::default()).await;
    let mut at_work = server.connect().await;
    at_work.send(post_bytes("/wait", b"")).await.unwrap();
    gate.entered.notified().await;
    server.stopper.drain();
    server.stopper.now();
    server.ended().await;
    at_work.closed().await;
    assert_eq!(server.metrics.connections.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_given_up_after_30_s() {
    let _clock = StillClock::new();
    let (router, gate) = gated();
    let mut server = Server::start(router, no_drain()).await;
    let (mut at_work, mut idle) = (server.connect().await, server.connect().await);
    idle.request(post_bytes("/echo", b"")).await;
    at_work.send(post_bytes("/wait", b"")).await.unwrap();
    gate.entered.notified().await;
    server.stopper.drain();
    // Its end shows that the drain is over and the last wait has begun.
    advance(Duration::from_millis(1)).await;
    idle.closed().await;
    advance(Duration::from_secs(31)).await;
    server.ended().await;
    at_work.closed().await;
}

#[tokio::test]
async fn sigterm_drains_the_process_and_it_exits_with_0() {
    let deployment = Deployment::new();
    let mut instance = deployment.start(1).await;
    let mut connection = instance.connect(Deployment::client()).await;
    let request = post_bytes("/mutate", &review("u"));
    assert!(!connection.request(&request).await.says_close());
    instance.terminate();
    instance.until_not_ready().await;
    let answer = connection.request(&request).await;
    assert_eq!((answer.status, answer.says_close()), (200, true));
    assert_eq!(instance.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_ends_the_process_at_once() {
    let deployment = Deployment::new();
    let hour = 3600;
    let mut instance = deployment.start(hour).await;
    let mut connection = instance.connect(Deployment::client()).await;
    instance.terminate();
    instance.until_not_ready().await;
    instance.terminate();
    assert_eq!(instance.ended().await.code(), Some(0));
    connection.closed().await;
}

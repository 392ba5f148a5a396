//! How long connections live, and what they leave behind.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use pullpass::http::limits::Limits;
use tokio::sync::Notify;
use tokio::time::advance;

use crate::client::{Connection, get, handshake, post as post_bytes};
use crate::harness::{Server, StillClock, echo, until};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn assert_open(connection: &mut Connection) {
    let answer = connection.request(post_bytes("/echo", b"12345")).await;
    assert_eq!((answer.status, answer.text()), (200, "5"));
}

#[tokio::test(start_paused = true)]
async fn incident_09_a_connection_idle_for_less_than_the_api_servers_90_s_is_served() {
    let _clock = StillClock::new();
    let server = Server::start(echo(), Limits::default()).await;
    let mut connections = Vec::new();
    for idle in [2, 5, 30, 60, 89, 119] {
        let mut connection = server.connect().await;
        assert_open(&mut connection).await;
        connections.push((idle, connection));
    }
    let mut passed = 0;
    for (idle, mut connection) in connections {
        advance(seconds(idle - passed)).await;
        passed = idle;
        assert_open(&mut connection).await;
    }
}

#[tokio::test(start_paused = true)]
async fn incident_11_an_idle_connection_ends_after_120_s() {
    let _clock = StillClock::new();
    let server = Server::start(echo(), Limits::default()).await;
    let (mut used, mut unused) = (server.connect().await, server.connect().await);
    assert_open(&mut used).await;
    server.until_open(2).await;
    advance(seconds(121)).await;
    used.closed().await;
    unused.closed().await;
    server.until_open(0).await;
}

#[tokio::test(start_paused = true)]
async fn incident_09_a_head_that_trickles_in_is_cut_after_120_s() {
    let _clock = StillClock::new();
    let server = Server::start(echo(), Limits::default()).await;
    let mut slow = server.connect().await;
    slow.send("POST /echo HTTP/1.1\r\nHost: ").await.unwrap();
    server.until_open(1).await;
    advance(seconds(119)).await;
    slow.send("localhost\r\n").await.unwrap();
    advance(seconds(2)).await;
    slow.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_cut_after_10_s() {
    let _clock = StillClock::new();
    let server = Server::start(echo(), Limits::default()).await;
    let (late, too_late) = (server.dial().await, server.dial().await);
    server.until_open(2).await;
    advance(seconds(9)).await;
    let late = handshake(late, server.client.clone()).await.unwrap();
    assert_open(&mut Connection::over(late)).await;
    advance(seconds(2)).await;
    Connection::over(too_late).closed().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_asked_to_end_with_its_next_answer() {
    let _clock = StillClock::new();
    let server = Server::start(echo(), Limits::default()).await;
    let mut connection = server.connect().await;
    let request = post_bytes("/echo", b"");
    // Up to 5 minutes less 20 %, never idle for 120 s.
    for pause in [0, 79, 79, 79] {
        advance(seconds(pause)).await;
        assert!(!connection.request(&request).await.says_close());
    }
    // Past 5 minutes plus 20 %, in two steps for the same reason; the first may be enough.
    advance(seconds(100)).await;
    if !connection.request(&request).await.says_close() {
        advance(seconds(24)).await;
        assert!(connection.request(&request).await.says_close());
    }
    connection.closed().await;
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_the_longest_idle_connection_makes_room() {
    let _clock = StillClock::new();
    let limits = Limits {
        connections_max: 3,
        ..Limits::default()
    };
    let server = Server::start(echo(), limits).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(server.connect().await);
        advance(seconds(1)).await;
    }
    assert_open(&mut connections[0]).await;
    let mut fourth = server.connect().await;
    connections[1].closed().await;
    assert_open(&mut connections[0]).await;
    assert_open(&mut connections[2]).await;
    assert_open(&mut fourth).await;
    server.until_open(3).await;
}

#[tokio::test]
async fn at_the_cap_a_connection_at_work_is_left_alone() {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, go_on) = (entered.clone(), go_on.clone());
        async move || {
            entered.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let router = Router::new().route("/wait", post(handler));
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let server = Server::start(router, limits).await;
    let mut at_work = server.connect().await;
    at_work.send(post_bytes("/wait", b"")).await.unwrap();
    entered.notified().await;
    let mut refused = Connection::over(server.dial().await);
    refused.closed().await;
    go_on.notify_one();
    let answer = at_work.receive().await.unwrap().unwrap();
    assert_eq!(answer.text(), "done");
}

#[tokio::test]
async fn a_panic_outside_the_decision_ends_its_connection_only() {
    async fn bug() {
        panic!("on purpose")
    }
    let router = echo().route("/bug", post(bug));
    let server = Server::start(router, Limits::default()).await;
    let mut other = server.connect().await;
    let mut connection = server.connect().await;
    connection.send(post_bytes("/bug", b"")).await.unwrap();
    connection.closed().await;
    until(|| server.metrics.panics.get() == 1).await;
    assert_open(&mut other).await;
}

/// Every way to come and go: half a request, a request without TLS, no handshake at all, and one
/// ordinary request in ten, because handshakes are most of the time in a debug build.
async fn come_and_go(server: &Server, connections: usize) {
    for n in 0..connections {
        match n % 10 {
            0 => assert_open(&mut server.connect().await).await,
            1 => server.connect().await.send("POST /ec").await.unwrap(),
            2 => {
                let mut plain = Connection::over(server.dial().await);
                plain.send(get("/echo")).await.unwrap();
            }
            _ => drop(server.dial().await),
        }
    }
    server.until_open(0).await;
}

#[test]
fn ten_thousand_connections_leave_no_task_and_no_memory() {
    // One thread, so that every allocation is counted and no other test's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(async {
        let server = Server::start(echo(), Limits::default()).await;
        come_and_go(&server, 100).await;
        server
    });
    let tasks = || runtime.metrics().num_alive_tasks();
    let tasks_before = tasks();
    let left = allocation_counter::measure(|| runtime.block_on(come_and_go(&server, 10_000)));
    assert_eq!(tasks(), tasks_before);
    // Less than a byte a connection: tables that grew once and stay.
    assert!(
        left.bytes_current < 10_000,
        "{} bytes are left",
        left.bytes_current
    );
}

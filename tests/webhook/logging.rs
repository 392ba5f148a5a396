//! What a request leaves in the log.

use crate::client::post;
use crate::process::{Deployment, review};

/// The log lines of three requests, one after the other on one connection.
async fn lines_of_three_requests(level: &str) -> Vec<serde_json::Value> {
    let deployment = Deployment::new();
    let mut instance = deployment.start_logging(0, level).await;
    let before = instance.logged().len();
    let mut connection = instance.connect(Deployment::client()).await;
    for uid in ["u-1", "u-2", "u-3"] {
        let answer = connection.request(post("/mutate", &review(uid))).await;
        assert_eq!(answer.status, 200);
    }
    instance.terminate();
    assert!(instance.ended().await.success());
    let mut lines = instance.logged().split_off(before);
    // Its own end is no request.
    lines.retain(|line| line.get("signal").is_none() && line["message"] != "ended");
    lines
}

#[tokio::test]
async fn incident_39_at_info_a_request_leaves_nothing() {
    assert_eq!(
        lines_of_three_requests("info").await,
        [] as [serde_json::Value; 0]
    );
}

#[tokio::test]
async fn incident_39_at_debug_a_request_leaves_one_line_without_its_body() {
    let lines = lines_of_three_requests("debug").await;
    let uids: Vec<_> = lines
        .iter()
        .map(|line| line["uid"].as_str().unwrap())
        .collect();
    assert_eq!(uids, ["u-1", "u-2", "u-3"]);
    for line in &lines {
        assert_eq!(
            (&line["namespace"], &line["generation"]),
            (&"n".into(), &1.into())
        );
        assert_eq!(
            (&line["outcome"], &line["reason"]),
            (&"patched".into(), &"injected".into())
        );
        assert!(!line.to_string().contains("harbor.example.com"), "{line}");
    }
}

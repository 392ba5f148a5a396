//! A webhook of the test's own: another injector beside pullpass, a webhook that is slow or answers
//! garbage, or an ear that only writes down what the API server sends.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::serve::{Server, acceptor, serve};

/// The API server limits requests to 3 MiB; a review holds at most two objects and a little more.
const REVIEW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a stand-in does with a review.
#[derive(Debug, Clone)]
pub(crate) enum Reaction {
    /// Allow, with these JSON patch operations (none: no patch).
    Patch(Value),
    /// Answer, but only after this long.
    Late(Duration),
    /// Answer with this text and HTTP status 200.
    Text(&'static str),
    /// Answer with this HTTP status and nothing else.
    Status(u16),
}

/// A running stand-in, and everything it has heard.
#[derive(Debug)]
pub(crate) struct Stub {
    server: Server,
    heard: Arc<Mutex<Vec<Bytes>>>,
}

impl Stub {
    /// Starts a stand-in on a loopback port; `react` sees each review.
    pub(crate) fn start(
        cluster: &Cluster,
        react: impl Fn(&Value) -> Reaction + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let heard = Arc::<Mutex<Vec<Bytes>>>::default();
        let ear = Arc::clone(&heard);
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (ear, react) = (Arc::clone(&ear), react.clone());
            async move {
                let body = to_bytes(request.into_body(), REVIEW_BYTES_MAX).await;
                let body = body.unwrap_or_default();
                let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                let reaction = react(&review);
                ear.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(body);
                answer(&review, reaction).await
            }
        });
        let tls = acceptor(&cluster.webhook_certificate());
        Self {
            server: serve(listener, Some(tls), router),
            heard,
        }
    }

    /// Where the API server reaches it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/mutate", self.server.address)
    }

    /// The reviews, byte for byte, in the order they came.
    pub(crate) fn heard(&self) -> Vec<Bytes> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn answer(review: &Value, reaction: Reaction) -> Response<Body> {
    let operations = match reaction {
        Reaction::Text(text) => return json_response(200, text.to_owned()),
        Reaction::Status(status) => return json_response(status, String::new()),
        Reaction::Late(delay) => {
            tokio::time::sleep(delay).await;
            json!([])
        }
        Reaction::Patch(operations) => operations,
    };
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    if operations
        .as_array()
        .is_some_and(|operations| !operations.is_empty())
    {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(BASE64_STANDARD.encode(operations.to_string()));
    }
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    });
    json_response(200, review.to_string())
}

fn json_response(status: u16, body: String) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response
        .body(Body::from(body))
        .expect("a constant head is valid")
}

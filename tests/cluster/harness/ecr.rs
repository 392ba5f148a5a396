//! A stand-in for Amazon's registry service, as far as `ecr-credential-provider` asks it: tokens that end soon.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::network::BRIDGE_ADDRESS;
use super::serve::{Server, serve};
use crate::registry::{Account, Kit};

/// The registry that tokens are for; the registry kit has it.
pub(crate) const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
/// User of every token. Amazon's is `AWS`, which another trial has at the same registry.
const USER: &str = "AWS-short-lived";
const OPERATION: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";

/// A running stand-in.
pub(crate) struct Ecr {
    server: Server,
    given: Arc<Mutex<Vec<Instant>>>,
}

impl Ecr {
    /// Starts one on the bridge, which Pods see too. Each of its tokens opens a repository of the registry for so long.
    pub(crate) fn start(kit: &Kit, repository: &str, lifetime: Duration) -> Self {
        let given: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let account = Mutex::new(Account::new(USER, "no token", &[repository]));
        let (shared, tokens) = (Arc::clone(&given), Arc::clone(&kit.tokens));
        let answer = Arc::new(move |request: &Request<Body>| {
            let is_asked = request
                .headers()
                .get("x-amz-target")
                .is_some_and(|target| target == OPERATION);
            let is_signed = request.headers().contains_key("authorization");
            if !is_asked || !is_signed {
                return respond(
                    StatusCode::BAD_REQUEST,
                    json!({"__type": "InvalidSignatureException"}).to_string(),
                );
            }
            let mut given = lock(&shared);
            given.push(Instant::now());
            let password = password(given.len());
            let mut account = lock(&account);
            account
                .ending
                .push((password.clone(), Instant::now() + lifetime));
            tokens.permit(&account);
            let token = BASE64_STANDARD.encode(format!("{USER}:{password}"));
            let end = SystemTime::now() + lifetime;
            let end = end
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs();
            let data = json!({"authorizationToken": token, "expiresAt": end, "proxyEndpoint": format!("https://{HOST}")});
            respond(
                StatusCode::OK,
                json!({"authorizationData": [data]}).to_string(),
            )
        });
        let router = Router::new().fallback(move |request: Request<Body>| {
            let answer = Arc::clone(&answer);
            async move { answer(&request) }
        });
        let listener = TcpListener::bind((BRIDGE_ADDRESS, 0)).expect("a port is free");
        Self {
            server: serve(listener, None, router),
            given,
        }
    }

    /// How clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// When it gave each token.
    pub(crate) fn given(&self) -> Vec<Instant> {
        lock(&self.given).clone()
    }
}

/// The payload of a Secret with the token of this generation, from 1.
pub(crate) fn payload(generation: usize) -> String {
    let auth = BASE64_STANDARD.encode(format!("{USER}:{}", password(generation)));
    json!({"auths": {HOST: {"auth": auth}}}).to_string()
}

fn password(generation: usize) -> String {
    format!("token-of-generation-{generation}")
}

fn respond(status: StatusCode, body: String) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1");
    response
        .body(Body::from(body))
        .expect("a constant head is valid")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

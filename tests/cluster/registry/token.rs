//! A token server for a registry with `auth: token`: who may pull which repository.
//!
//! It does what Docker Hub, Harbor and the clouds do: anyone gets a token, but one that opens only
//! what the account may read; a wrong password gets 401.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::distribution::Auth;
use crate::harness::pki::Pki;
use crate::harness::serve::{Server, serve};

/// `service` of every token.
pub(crate) const SERVICE: &str = "test-registry";
/// `iss` of every token.
pub(crate) const ISSUER: &str = "test-token-server";
/// Tokens live this long unless the account says otherwise.
const LIFETIME: Duration = Duration::from_secs(300);

/// Someone who may pull.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// Name of the user, also with `$`, `+`, `<` and `>`.
    pub(crate) user: String,
    /// Password, also long and of several lines.
    pub(crate) password: String,
    /// The password before that, while it is still accepted.
    pub(crate) former_password: Option<String>,
    /// Passwords that end, and when.
    pub(crate) ending: Vec<(String, Instant)>,
    /// Repositories that may be read.
    pub(crate) repositories: Vec<String>,
    /// How long a token of this account opens anything.
    pub(crate) lifetime: Duration,
}

impl Account {
    /// An account for these repositories.
    pub(crate) fn new(user: &str, password: &str, repositories: &[&str]) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            former_password: None,
            ending: Vec::new(),
            repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
            lifetime: LIFETIME,
        }
    }

    fn opens_with(&self, password: &str) -> bool {
        let mut ending = self.ending.iter();
        self.password == password
            || self.former_password.as_deref() == Some(password)
            || ending.any(|(ends, end)| ends == password && Instant::now() < *end)
    }
}

/// A running token server.
pub(crate) struct TokenServer {
    server: Server,
    certificate: PathBuf,
    state: Arc<State>,
}

struct State {
    accounts: Mutex<Vec<Account>>,
    /// Repositories that anyone may read.
    public: Mutex<HashSet<String>>,
    /// Users that came with a wrong password.
    refused: Mutex<HashSet<String>>,
    key: EncodingKey,
    header: Header,
}

impl TokenServer {
    /// Starts one on a loopback port; its tokens are signed with a certificate of `pki`.
    pub(crate) fn start(pki: &Pki) -> Self {
        let pair = pki.server("token-server", &["token-server"]);
        let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("we wrote it");
        let key = PrivatePkcs8KeyDer::from_pem_file(&pair.key).expect("we wrote it");
        let mut header = Header::new(Algorithm::ES256);
        header.x5c = Some(vec![BASE64_STANDARD.encode(&certificate)]);
        let state = Arc::new(State {
            accounts: Mutex::default(),
            public: Mutex::default(),
            refused: Mutex::default(),
            key: EncodingKey::from_ec_der(key.secret_pkcs8_der()),
            header,
        });
        let shared = Arc::clone(&state);
        let router = Router::new().fallback(move |request: Request<Body>| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(&request) }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let certificate = pki.ca_file();
        Self {
            server: serve(listener, None, router),
            certificate,
            state,
        }
    }

    /// How a registry finds this server.
    pub(crate) fn auth(&self) -> Auth {
        let realm = format!("http://{}/token", self.server.address);
        Auth::Token {
            realm,
            certificate: self.certificate.clone(),
        }
    }

    /// Lets someone in, with no other password than this to these repositories. Names may be the same for all the
    /// world, as `AWS` is.
    pub(crate) fn permit(&self, account: &Account) {
        let mut accounts = lock(&self.state.accounts);
        let is_same = |known: &Account| {
            known.user == account.user && known.repositories == account.repositories
        };
        accounts.retain(|known| !is_same(known));
        accounts.push(account.clone());
    }

    /// Locks someone out; tokens that were given already keep their lifetime.
    pub(crate) fn revoke(&self, user: &str) {
        lock(&self.state.accounts).retain(|account| account.user != user);
    }

    /// Lets anyone read a repository who comes without a name, or with a right one.
    pub(crate) fn publish(&self, repository: &str) {
        lock(&self.state.public).insert(repository.to_owned());
    }

    /// Whether a user came with a wrong password, or was unknown.
    pub(crate) fn has_refused(&self, user: &str) -> bool {
        lock(&self.state.refused).contains(user)
    }
}

impl State {
    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        // Clients try OAuth's POST first; 405 sends them to the GET that all token servers know.
        if request.method() != Method::GET {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let accounts = match basic_login(request.headers()) {
            None => Vec::new(),
            Some((user, password)) => {
                let accounts = lock(&self.accounts);
                let own = accounts.iter().filter(|account| account.user == user);
                let opened = own.filter(|account| account.opens_with(&password));
                let opened: Vec<_> = opened.cloned().collect();
                if opened.is_empty() {
                    lock(&self.refused).insert(user);
                    return plain(StatusCode::UNAUTHORIZED);
                }
                opened
            }
        };
        let query = request.uri().query().unwrap_or_default();
        let token = self.token(&accounts, &scopes(query));
        let body = json!({"token": token, "expires_in": LIFETIME.as_secs()}).to_string();
        let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
        response
            .body(Body::from(body))
            .expect("a constant head is valid")
    }

    /// Signs a token that opens those of the wanted repositories that one of the accounts may read.
    fn token(&self, accounts: &[Account], wanted: &[String]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let public = lock(&self.public);
        let may = |name: &&String| {
            public.contains(*name)
                || accounts
                    .iter()
                    .any(|account| account.repositories.contains(name))
        };
        let access: Vec<Value> = wanted
            .iter()
            .filter(may)
            .map(|name| json!({"type": "repository", "name": name, "actions": ["pull"]}))
            .collect();
        let account = accounts.first();
        let lifetime = account.map_or(LIFETIME, |account| account.lifetime);
        let claims = json!({
            "iss": ISSUER,
            "sub": account.map_or("", |account| &account.user),
            "aud": SERVICE,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime.as_secs(),
            "access": access,
        });
        jsonwebtoken::encode(&self.header, &claims, &self.key).expect("claims are JSON")
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The repositories of all `scope=repository:NAME:ACTIONS` in a query.
fn scopes(query: &str) -> Vec<String> {
    let values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="));
    let decoded = values.map(|value| {
        value
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace('+', " ")
    });
    let scopes: Vec<String> = decoded
        .flat_map(|value| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let names = scopes
        .iter()
        .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
    names.map(|(name, _)| name.to_owned()).collect()
}

fn basic_login(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let bytes = BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

//! Whether a registry still accepts a credential: what to ask it, and what its answers mean. Pure.
//!
//! ```text
//! GET /v2/ --401 Bearer--> GET <realm> (login) --token--> HEAD /v2/<name>/manifests/latest (token)
//!          --401 Basic---> GET /v2/    (login) ---200---> HEAD /v2/<name>/manifests/latest (login)
//! ```
//! As a runtime asks before a pull (distribution spec, and its token authentication), so that nothing else
//! than the right to pull is needed. What is no clear yes or no is unknown, never a no. The login goes only
//! to the registry and the realm that it names, by TLS unless the rules say otherwise; no redirect is
//! followed. This room must not send anything, and no request that it makes shows its login in `Debug`.

mod challenge;

use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::credential::{BasicAuth, Keyring};
use crate::image::{DOCKER_HUB, ImageRef};
use crate::index::document::ProbeResult;
use crate::rules::config::ProbeConfig;

use challenge::Challenge;

/// Where Docker Hub's registry is: nothing answers for it at the name that images carry.
const DOCKER_HUB_REGISTRY: &str = "registry-1.docker.io";
/// What a runtime takes for a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// What may stand in a query as it is (RFC 3986, unreserved).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One conversation with a registry: at most three questions.
#[derive(Debug)]
pub struct Conversation {
    registry: String,
    repository: String,
    plain_http: bool,
    login: BasicAuth,
    asked: Question,
}

/// What the last question was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// How to log in.
    Greeting,
    /// The same, with the login.
    Login,
    /// A token for the login.
    Token,
    /// The right to pull.
    Pull,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// This is to be asked; [`Conversation::next`] takes the answer.
    Ask(Request<()>),
    /// The conversation is over.
    End(ProbeResult),
}

impl Conversation {
    /// Begins to ask the registry of `probe` about the login in `payload` that a kubelet would try first
    /// there; `keyring` is the payload's.
    ///
    /// # Errors
    /// [`ProbeResult::Unknown`] where a kubelet would have no login for it.
    pub fn begin(
        probe: &ProbeConfig,
        keyring: &Keyring,
        payload: &[u8],
    ) -> Result<(Self, Step), ProbeResult> {
        let conversation = ImageRef::parse(&probe.repository).ok().and_then(|image| {
            let registry = match image.registry()? {
                DOCKER_HUB => DOCKER_HUB_REGISTRY,
                registry => registry,
            };
            Some(Self {
                login: BasicAuth::of(payload, keyring.covering_key(&image)?)?,
                registry: registry.to_owned(),
                repository: image.repository(),
                plain_http: probe.plain_http,
                asked: Question::Greeting,
            })
        });
        let conversation = conversation.ok_or_else(|| ProbeResult::Unknown {
            reason: format!("no key of it is for {}", probe.repository),
        })?;
        let greeting = conversation.ask_registry(Method::GET, "", None);
        Ok((conversation, greeting))
    }

    /// What follows from the answer to the last question.
    pub fn next(&mut self, answer: &Response<Vec<u8>>) -> Step {
        let registry = &self.registry;
        let status = answer.status().as_u16();
        match (self.asked, status) {
            (Question::Greeting, 200) => {
                unknown(format!("{registry} lets in anyone, so it says nothing"))
            }
            (Question::Greeting, 401) => self.log_in(answer),
            (Question::Login, 200) => {
                self.asked = Question::Pull;
                self.pull(self.login.header())
            }
            (Question::Token, 200) => match token(answer.body()) {
                Some(token) => {
                    self.asked = Question::Pull;
                    self.pull(&format!("Bearer {token}"))
                }
                None => unknown(format!("{registry} names a realm that gives no token")),
            },
            (Question::Login | Question::Token, 401) => {
                rejected(format!("{registry} refuses user name and password"))
            }
            // Some token servers say so to a wrong password, others to who has no right.
            (Question::Login | Question::Token, 403) => rejected(format!(
                "{registry} denies the login: a wrong password, or no right on {}",
                self.repository
            )),
            // Whether the tag is there is looked up after the right to see it.
            (Question::Pull, 200 | 404) => Step::End(ProbeResult::Accepted),
            (Question::Pull, 401 | 403) => rejected(format!(
                "{registry} gives the login no right to pull {}",
                self.repository
            )),
            (_, 429) => unknown(format!("{registry} takes no more questions now (429)")),
            (_, 300..=399) => unknown(format!("{registry} redirects, which is not followed")),
            _ => unknown(format!("{registry} answers {status}")),
        }
    }

    fn log_in(&mut self, answer: &Response<Vec<u8>>) -> Step {
        let headers = answer.headers().get_all(WWW_AUTHENTICATE);
        let headers = headers.iter().filter_map(|value| value.to_str().ok());
        match Challenge::choose(headers) {
            Some(Challenge::Basic) => {
                self.asked = Question::Login;
                self.ask_registry(Method::GET, "", Some(self.login.header()))
            }
            Some(Challenge::Bearer { realm, service }) => {
                if !challenge::may_have_login(&realm, self.plain_http) {
                    return unknown(format!(
                        "{} names a realm that is no https URL",
                        self.registry
                    ));
                }
                self.asked = Question::Token;
                let url = self.token_url(&realm, service.as_deref());
                ask(Method::GET, &url, Some(self.login.header()))
            }
            None => unknown(format!(
                "{} asks for another login than Basic and Bearer",
                self.registry
            )),
        }
    }

    fn token_url(&self, realm: &str, service: Option<&str>) -> String {
        let escaped = |text| utf8_percent_encode(text, ESCAPED);
        // A fragment is not sent, nor is what would come after it.
        let realm = realm.split_once('#').map_or(realm, |(sent, _)| sent);
        let separator = if realm.contains('?') { '&' } else { '?' };
        let scope = format!("repository:{}:pull", self.repository);
        let service = service.map(|service| format!("service={}&", escaped(service)));
        let service = service.unwrap_or_default();
        format!("{realm}{separator}{service}scope={}", escaped(&scope))
    }

    fn pull(&self, authorization: &str) -> Step {
        let path = format!("{}/manifests/latest", self.repository);
        self.ask_registry(Method::HEAD, &path, Some(authorization))
    }

    fn ask_registry(&self, method: Method, path: &str, authorization: Option<&str>) -> Step {
        let scheme = if self.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{path}", self.registry);
        ask(method, &url, authorization)
    }
}

fn ask(method: Method, url: &str, authorization: Option<&str>) -> Step {
    let unsendable = |_| unknown("nothing that can be sent by HTTP".to_owned());
    request(method, url, authorization).map_or_else(unsendable, Step::Ask)
}

fn request(method: Method, url: &str, authorization: Option<&str>) -> http::Result<Request<()>> {
    let mut request = Request::builder()
        .method(method)
        .uri(url)
        .header(USER_AGENT, concat!("pullpass/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, MANIFESTS);
    if let Some(authorization) = authorization {
        let mut value = HeaderValue::try_from(authorization)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(())
}

/// The token of a token server's answer.
fn token(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    tokens.find(|token| !token.is_empty())
}

fn rejected(reason: String) -> Step {
    Step::End(ProbeResult::Rejected { reason })
}

fn unknown(reason: String) -> Step {
    Step::End(ProbeResult::Unknown { reason })
}

#[cfg(test)]
mod tests;

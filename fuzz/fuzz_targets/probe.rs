//! Any bytes as what a registry answers when it is asked about a login, an answer a line: a status, and text that
//! is both the body and, cut at tabs, each challenge. Never a panic; at most three questions; the login goes to
//! the registry and to the realm that it names, by TLS unless the rules say otherwise; and it is in no reason.
#![no_main]

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response};
use libfuzzer_sys::fuzz_target;
use pullpass::credential::{DockerConfig, Keyring, SecretType};
use pullpass::index::document::{ProbeResult, REASON_CHARACTERS_MAX};
use pullpass::probe::{Conversation, Step};
use pullpass::rules::config::{OnRejected, ProbeConfig};

const PASSWORD: &str = "hunter2";
/// As the header `Authorization` has it.
const LOGIN: &str = "dTpodW50ZXIy";
const PAYLOAD: &[u8] = br#"{"auths":{"r.io":{"auth":"dTpodW50ZXIy"}}}"#;
/// How to log in, a token or the login itself, and the right to pull.
const QUESTIONS_MAX: usize = 3;

fuzz_target!(|input: &[u8]| {
    for plain_http in [false, true] {
        let answers = input.split(|byte| *byte == b'\n').map_while(answer);
        converse(answers, plain_http);
    }
});

fn answer(line: &[u8]) -> Option<Response<Vec<u8>>> {
    let (status, text) = line.split_at_checked(3)?;
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let mut answer = Response::builder().status(status);
    for challenge in text.split(|byte| *byte == b'\t') {
        if let Ok(challenge) = HeaderValue::from_bytes(challenge) {
            answer = answer.header(WWW_AUTHENTICATE, challenge);
        }
    }
    answer.body(text.to_vec()).ok()
}

fn converse(mut answers: impl Iterator<Item = Response<Vec<u8>>>, plain_http: bool) {
    let probe = ProbeConfig {
        repository: "r.io/team/app".to_owned(),
        interval_seconds: 600,
        on_rejected: OnRejected::Inject,
        plain_http,
    };
    let config = DockerConfig::decode(SecretType::DockerConfigJson, PAYLOAD).expect("it is right");
    let begun = Conversation::begin(&probe, &Keyring::of(&config), PAYLOAD);
    let (mut conversation, mut step) = begun.expect("it has a login for the registry");
    let mut asked = 0;
    let mut status = 0;
    loop {
        check_hidden(&format!("{conversation:?}"));
        let request = match &step {
            Step::Ask(request) => request,
            Step::End(result) => return check_end(result, status),
        };
        asked += 1;
        assert!(asked <= QUESTIONS_MAX);
        check_request(request, asked, plain_http);
        let Some(answer) = answers.next() else {
            return;
        };
        status = answer.status().as_u16();
        step = conversation.next(&answer);
    }
}

fn check_request(request: &Request<()>, asked: usize, plain_http: bool) {
    check_hidden(&format!("{:?}", request.headers()));
    let url = request.uri();
    let scheme = url.scheme_str();
    assert!(scheme == Some("https") || plain_http && scheme == Some("http"));
    let authority = url.authority().expect("it is whole").as_str();
    assert!(!authority.contains('@'), "somebody else's login: {url}");
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap_or_default());
    let is_login = authorization.is_some_and(|value| value == format!("Basic {LOGIN}"));
    let is_of_registry = authority == "r.io" && url.path().starts_with("/v2/");
    assert_eq!(authorization.is_some(), asked > 1);
    // Who gives tokens is told the login, and what it is for; who is told a token is the registry.
    let scope = "scope=repository%3Ateam%2Fapp%3Apull";
    let is_of_realm = url.query().is_some_and(|query| query.ends_with(scope));
    assert!(
        is_of_registry || asked == 2 && is_login && is_of_realm,
        "{url}"
    );
}

fn check_end(result: &ProbeResult, status: u16) {
    let reason = match result {
        ProbeResult::Accepted => return assert!([200, 404].contains(&status)),
        ProbeResult::Rejected { reason } => {
            assert!([401, 403].contains(&status));
            reason
        }
        ProbeResult::Unknown { reason } => reason,
        other => panic!("{other:?} is not known here"),
    };
    assert!(reason.chars().count() <= REASON_CHARACTERS_MAX);
    check_hidden(reason);
}

fn check_hidden(text: &str) {
    assert!(!text.contains(PASSWORD) && !text.contains(LOGIN), "{text}");
}

//! Conversations with registries, as tables.

use super::*;
use crate::credential::{DockerConfig, SecretType};
use crate::rules::config::OnRejected;

const BEARER: &str = r#"Bearer realm="https://auth.r.io/token?a=b",service="the r.io""#;

fn begin(
    repository: &str,
    key: &str,
    plain_http: bool,
) -> Result<(Conversation, Step), ProbeResult> {
    // Base64 of `u:hunter2`, as a registry would not take it.
    let payload = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpodW50ZXIy\n"}},"other.io":{{}}}}}}"#);
    let config = DockerConfig::decode(SecretType::DockerConfigJson, payload.as_bytes()).unwrap();
    let probe = ProbeConfig {
        repository: repository.to_owned(),
        interval_seconds: 600,
        on_rejected: OnRejected::Inject,
        plain_http,
    };
    Conversation::begin(&probe, &Keyring::of(&config), payload.as_bytes())
}

/// `GET URL`, with who asks; or the end.
fn shown(step: &Step) -> String {
    assert!(!format!("{step:?}").contains("aHVudGVyMg"), "{step:?}");
    let request = match step {
        Step::Ask(request) => request,
        Step::End(ProbeResult::Accepted) => return "accepted".to_owned(),
        Step::End(ProbeResult::Rejected { reason }) => return format!("rejected: {reason}"),
        Step::End(ProbeResult::Unknown { reason }) => return format!("unknown: {reason}"),
    };
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = match authorization.map(|value| value.to_str().unwrap()) {
        None => "",
        Some("Basic dTpodW50ZXIy") => " as u",
        Some("Bearer t0ken") => " by token",
        Some(other) => panic!("{other}"),
    };
    format!("{} {}{authorization}", request.method(), request.uri())
}

/// One answer: `401 CHALLENGE`, `200 BODY`, or a bare status.
fn answer(text: &str) -> Response<Vec<u8>> {
    let (status, rest) = text.split_once(' ').unwrap_or((text, ""));
    let response = Response::builder().status(status.parse::<u16>().unwrap());
    let response = response.header(WWW_AUTHENTICATE, rest);
    response.body(rest.as_bytes().to_vec()).unwrap()
}

/// Plays `answers` to whoever asks about `r.io/team/app`; `expected` is what comes last.
fn check(plain_http: bool, answers: &[&str], expected: &str) {
    let (mut conversation, mut step) = begin("r.io/team/app", "r.io", plain_http).unwrap();
    for text in answers {
        assert!(matches!(step, Step::Ask(_)), "{step:?} before {text}");
        step = conversation.next(&answer(text));
    }
    assert_eq!(shown(&step), expected, "{answers:?}");
    assert!(!format!("{conversation:?}").contains("dTpodW50ZXIy"));
}

#[test]
fn scenario_56_by_token() {
    let url = "https://auth.r.io/token?a=b&service=the%20r.io&scope=repository%3Ateam%2Fapp%3Apull";
    check(false, &[], "GET https://r.io/v2/");
    let asked = format!("401 {BEARER}");
    check(false, &[&asked], &format!("GET {url} as u"));
    let fragment = asked.replace("a=b", "a=b#c?d");
    check(false, &[&fragment], &format!("GET {url} as u"));
    let token = r#"200 {"token":"t0ken","expires_in":300}"#;
    let pull = "HEAD https://r.io/v2/team/app/manifests/latest by token";
    check(false, &[&asked, token], pull);
    check(
        false,
        &[&asked, r#"200 {"token":"","access_token":"t0ken"}"#],
        pull,
    );
    check(false, &[&asked, token, "200"], "accepted");
    check(false, &[&asked, token, "404"], "accepted");
    let no_right = "rejected: r.io gives the login no right to pull team/app";
    check(false, &[&asked, token, "401"], no_right);
    check(false, &[&asked, token, "403"], no_right);
    let refused = "rejected: r.io refuses user name and password";
    check(false, &[&asked, "401"], refused);
    let denied = "rejected: r.io denies the login: a wrong password, or no right on team/app";
    check(false, &[&asked, "403"], denied);
}

#[test]
fn scenario_56_by_password() {
    let asked = "401 Basic realm=x";
    check(false, &[asked], "GET https://r.io/v2/ as u");
    check(true, &[asked], "GET http://r.io/v2/ as u");
    check(
        false,
        &[asked, "401 Basic realm=x"],
        "rejected: r.io refuses user name and password",
    );
    let pull = "HEAD https://r.io/v2/team/app/manifests/latest as u";
    check(false, &[asked, "200"], pull);
    check(false, &[asked, "200", "200"], "accepted");
    let no_right = "rejected: r.io gives the login no right to pull team/app";
    check(false, &[asked, "200", "403"], no_right);
}

#[test]
fn what_is_no_answer_is_no_rejection() {
    let asked = format!("401 {BEARER}");
    let token = r#"200 {"token":"t0ken"}"#;
    for before in [&[][..], &[&*asked], &[&*asked, token]] {
        for (status, expected) in [
            ("429", "unknown: r.io takes no more questions now (429)"),
            ("500", "unknown: r.io answers 500"),
            ("503", "unknown: r.io answers 503"),
            ("307", "unknown: r.io redirects, which is not followed"),
            ("400", "unknown: r.io answers 400"),
        ] {
            check(false, &[before, &[status]].concat(), expected);
        }
    }
    check(
        false,
        &["200"],
        "unknown: r.io lets in anyone, so it says nothing",
    );
    check(false, &["404"], "unknown: r.io answers 404");
    check(false, &["403"], "unknown: r.io answers 403");
    let no_token = "unknown: r.io names a realm that gives no token";
    for body in [
        "200",
        "200 []",
        "200 {}",
        r#"200 {"token":7}"#,
        r#"200 {"token":""}"#,
    ] {
        check(false, &[&asked, body], no_token);
    }
    let unsendable = "unknown: nothing that can be sent by HTTP";
    check(false, &[&asked, r#"200 {"token":"a\nb"}"#], unsendable);
    let other = "unknown: r.io asks for another login than Basic and Bearer";
    check(false, &["401"], other);
    check(false, &["401 Digest realm=x"], other);
    let plain = "unknown: r.io names a realm that is no https URL";
    check(false, &[r#"401 Bearer realm="http://r.io/token""#], plain);
}

#[test]
fn whom_to_ask_about_which_login() {
    let check = |repository, key, expected: &str| {
        let step = begin(repository, key, false).map_or_else(Step::End, |(_, step)| step);
        assert_eq!(shown(&step), expected);
    };
    check(
        "docker.io/acme/app",
        "https://index.docker.io/v1/",
        "GET https://registry-1.docker.io/v2/",
    );
    check("r.io:5000/app", "r.io:5000", "GET https://r.io:5000/v2/");
    check("[::1]:5000/app", "[::1]:5000", "GET https://[::1]:5000/v2/");
    check(
        "r.io/app",
        "r.io/team",
        "unknown: no key of it is for r.io/app",
    );
    check(
        "other.io/app",
        "r.io",
        "unknown: no key of it is for other.io/app",
    );
}

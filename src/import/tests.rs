//! What becomes of logins, as tables.

use super::*;

fn clock() -> Clock {
    Clock {
        now: 1_000,
        show: |seconds| format!("second {seconds}"),
    }
}

fn found(key: &str, login: Login) -> Found {
    Found {
        key: key.to_owned(),
        from: "a file".to_owned(),
        login: Ok(login),
    }
}

/// Logins under these keys, `KEY=USER` for another user than `u`, and what becomes of each: `KEY: STATE SECRET`.
fn check(keys: &str, expected: &[&str]) {
    let logins = keys.split(' ').map(|text| {
        let (key, user) = text.split_once('=').unwrap_or((text, "u"));
        found(key, Login::new(key, user.to_owned(), "p".to_owned()))
    });
    let import = Import::of(logins.collect(), None, &clock());
    let said = import.rows.iter().map(|row| {
        let what = row.secret.as_ref().or(row.reason.as_ref());
        format!("{}: {}", row.key, what.unwrap())
    });
    assert_eq!(said.collect::<Vec<_>>(), expected, "{keys}");
}

#[test]
fn one_secret_for_each_host() {
    check(
        "https://index.docker.io/v1/ quay.io/a quay.io/b r.io:5000 r.io",
        &[
            "https://index.docker.io/v1/: docker-hub",
            "quay.io/a: quay.io",
            "quay.io/b: quay.io",
            "r.io:5000: r.io-5000",
            "r.io: r.io",
        ],
    );
}

#[test]
fn scenario_50_keys_that_no_image_matches() {
    let check_fix = |key: &str, expected: &str| {
        let login = Login::new(key, "u".into(), "p".into());
        let import = Import::of(vec![found(key, login)], None, &clock());
        let row = &import.rows[0];
        assert_eq!(row.state, State::Unusable, "{key}");
        assert_eq!(row.fix.as_deref(), Some(expected), "{key}");
        assert!(import.secrets.is_empty());
    };
    check_fix("https://index.docker.io/v1", "log in to docker.io");
    check_fix("https://index.docker.io/v1/acme", "log in to docker.io");
    check_fix("HTTPS://r.io", "log in to r.io");
    check_fix("oci://r.io/team", "log in to r.io/team");
    check_fix("r.io/*", "log in to r.io");
    check_fix("r.io/app:v1", "log in to r.io/app");
    check_fix("ghcr.io/Acme", "log in to ghcr.io/acme");
    check_fix("[::1]", "log in to [::1]:PORT, with the port");
    check_fix(" r.io", "write HOST[:PORT][/PATH] as in image names");
    check_fix("r.io:*", "write HOST[:PORT][/PATH] as in image names");
}

#[test]
fn keys_that_some_image_matches() {
    for key in [
        "http://r.io/v2/team/",
        "10.39.0.12:5000",
        "[::1]:5000",
        "*.dkr.ecr.*.amazonaws.com",
        "*",
        "localhost",
        "registry-1.docker.io",
        "docker.io/acme",
    ] {
        let login = Login::new(key, "u".into(), "p".into());
        let import = Import::of(vec![found(key, login)], None, &clock());
        assert_eq!(import.rows[0].state, State::Used, "{key}: {import:?}");
    }
}

#[test]
fn the_later_login_for_a_registry_counts() {
    check(
        "r.io https://r.io=v",
        &[
            r#"r.io: "https://r.io" from a file is the same registry, and comes later"#,
            "https://r.io: r.io",
        ],
    );
}

#[test]
fn what_covers_all_of_docker_hub_hides_its_usual_key() {
    let hidden = |hider: &str| {
        format!(
            "index.docker.io: \"{hider}\" hides it: the kubelet uses that for every image of Docker Hub"
        )
    };
    check(
        "index.docker.io docker.io",
        &[&hidden("docker.io"), "docker.io: docker-hub"],
    );
    check("index.docker.io *.io", &[&hidden("*.io"), "*.io: any.io"]);
    check(
        "index.docker.io docker.io/acme",
        &["index.docker.io: docker-hub", "docker.io/acme: docker-hub"],
    );
}

#[test]
fn an_empty_entry_is_filled_or_refused() {
    let empty = |key: &str| found(key, Login::new(key, String::new(), String::new()));
    let full = found("https://a.io", Login::new("a.io", "u".into(), "p".into()));
    let import = Import::of(vec![empty("a.io"), empty("b.io"), full], None, &clock());
    let states: Vec<State> = import.rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [State::Empty, State::Unusable, State::Used]);
    assert_eq!(import.unusable(), 1);
}

/// A JSON Web Token with this end.
fn token(end: u64) -> String {
    use base64::Engine as _;
    let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{end}}}"));
    format!("e30.{claims}.c2ln")
}

#[test]
fn tokens_end() {
    let import = |user: &str, password: &str| {
        let login = Login::new("r.io", user.into(), password.into());
        Import::of(vec![found("r.io", login)], None, &clock())
    };
    let ended = import("u", &token(999));
    assert_eq!(
        ended.rows[0].reason.as_deref(),
        Some("it is a token that ended at second 999")
    );
    for (user, password, expected) in [
        ("u", &*token(1_001), "ends at second 1001"),
        ("AWS", "p", "ends within 12 hours"),
    ] {
        let import = import(user, password);
        assert_eq!(import.rows[0].state, State::Used);
        assert!(import.rows[0].notes[0].contains(expected), "{import:?}");
    }
    let identity = import("<token>", "p");
    assert_eq!(identity.rows[0].state, State::Unusable);
}

#[test]
fn scenario_51_white_space_is_kept_and_said() {
    let login = Login::new("r.io", "u".into(), "hunter2\n".into());
    let import = Import::of(vec![found("r.io", login)], None, &clock());
    assert_eq!(
        import.rows[0].notes,
        ["the password has white space around it, which the kubelet keeps"]
    );
    assert!(!format!("{import:?}").contains("hunter2"));
}

#[test]
fn user_info_is_masked_in_rows_and_left_out_of_payloads() {
    let key = "https://u:hunter2@r.io/team";
    let import = Import::of(
        vec![found(key, Login::new(key, "u".into(), "p".into()))],
        Some("all"),
        &clock(),
    );
    assert_eq!(import.rows[0].key, "https://***@r.io/team");
    assert_eq!(
        import.secrets[0].keys().collect::<Vec<_>>(),
        ["https://r.io/team"]
    );
    assert_eq!(import.secrets[0].name(), "all");
}

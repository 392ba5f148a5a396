//! How a registry wants to be logged in to: the `WWW-Authenticate` of its first answer.

use http::Uri;

/// Longest `WWW-Authenticate` that is read, in bytes: a realm, a service and a scope take 300.
const CHALLENGE_BYTES_MAX: usize = 4096;

/// A way to log in that runtimes know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The login with every request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// Its URL.
        realm: String,
        /// How it knows the registry.
        service: Option<String>,
    },
}

impl Challenge {
    /// The one to follow: a token, where it is offered, as runtimes prefer it.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers.filter(|header| header.len() <= CHALLENGE_BYTES_MAX) {
            for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
                let parameter = |name: &str| {
                    let mut parameters = challenge.params.iter();
                    let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    let service = parameter("service");
                    return Some(Self::Bearer { realm, service });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

/// Whether a token server may be told the login: by TLS, or if its registry is told without, too.
pub(super) fn may_have_login(realm: &str, plain_http: bool) -> bool {
    let Ok(url) = realm.parse::<Uri>() else {
        return false;
    };
    let is_scheme = match url.scheme_str() {
        Some("https") => true,
        Some("http") => plain_http,
        _ => false,
    };
    // A user in a URL is a login of somebody else's.
    is_scheme && url.authority().is_some_and(|it| !it.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], expected: &str) {
        let found = match Challenge::choose(headers.iter().copied()) {
            None => "-".to_owned(),
            Some(Challenge::Basic) => "basic".to_owned(),
            Some(Challenge::Bearer { realm, service }) => {
                format!("{realm} {}", service.unwrap_or_default())
            }
        };
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn challenges_of_the_field() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
        check(&[hub], "https://auth.docker.io/token registry.docker.io");
        // With the scope of nothing, as quay.io and distribution write it.
        let scoped =
            r#"Bearer realm="https://r.io/token",service="r.io",scope="repository:a/b:pull,push""#;
        check(&[scoped], "https://r.io/token r.io");
        check(
            &[r#"BASIC realm="Sonatype Nexus Repository Manager""#],
            "basic",
        );
        check(
            &[r#"Basic realm="https://example.com/",service="ecr.amazonaws.com""#],
            "basic",
        );
        check(&["Negotiate", "Basic realm=x"], "basic");
        // In one header or in two, and in any order: a token is better.
        check(
            &[r#"Basic realm="x", Bearer realm="https://r.io/t""#],
            "https://r.io/t ",
        );
        check(
            &["Basic realm=x", r#"bearer Realm="https://r.io/t""#],
            "https://r.io/t ",
        );
        check(
            &[r#"Bearer realm="https://r.io/a\"b""#],
            "https://r.io/a\"b ",
        );
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        check(&[], "-");
        check(
            &["", "=", "Digest realm=x, nonce=y", "Bearer service=x"],
            "-",
        );
        check(&["Basic realm=\"", "Basic realm=é"], "-");
        check(
            &[&format!(
                "Basic realm=\"{}\"",
                "x".repeat(CHALLENGE_BYTES_MAX)
            )],
            "-",
        );
    }

    #[test]
    fn a_login_goes_nowhere_in_the_clear() {
        for (realm, plain_http, expected) in [
            ("https://r.io/token", false, true),
            ("HTTPS://r.io", false, true),
            ("https://r.io/token", true, true),
            ("http://r.io/token", false, false),
            ("http://r.io/token", true, true),
            ("ftp://r.io/token", true, false),
            ("/token", true, false),
            ("r.io", true, false),
            ("https://u:p@r.io/", false, false),
            ("https://", false, false),
            ("", true, false),
        ] {
            assert_eq!(may_have_login(realm, plain_http), expected, "{realm}");
        }
    }
}

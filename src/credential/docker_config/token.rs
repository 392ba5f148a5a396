//! When a password ends, where it says so itself: as a JWT with the claim `exp` (RFC 7519, 4.1.4), which is
//! what registries give out as short-lived tokens. Nothing of the token is kept or verified: to a registry
//! it may be something else than it looks like.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    exp: serde_json::Number,
}

/// Seconds since 1970; `None` for a password that does not say.
pub(super) fn expiry(password: &str) -> Option<u64> {
    let mut parts = password.trim().split('.');
    let (Some(_header), Some(claims), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    // A NumericDate may have a fraction.
    exp.to_string().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(claims: &str, expected: Option<u64>) {
        let claims = URL_SAFE_NO_PAD.encode(claims);
        assert_eq!(expiry(&format!("e30.{claims}.c2ln")), expected, "{claims}");
    }

    #[test]
    fn the_claim_is_seconds() {
        check(r#"{"sub":"ci","exp":1700000000}"#, Some(1_700_000_000));
        check(r#"{"exp":1700000000.75}"#, Some(1_700_000_000));
        check(r#"{"exp":-1}"#, None);
        check(r#"{"exp":"1700000000"}"#, None);
        check(r#"{"exp":null}"#, None);
        check(r#"{"sub":"ci"}"#, None);
        check("[]", None);
        check("", None);
    }

    #[test]
    fn what_is_no_token_says_nothing() {
        for password in ["", "hunter2", "a.b", "a.b.c", "a.b.c.d", "...", "e30.!.e30"] {
            assert_eq!(expiry(password), None, "{password}");
        }
    }
}

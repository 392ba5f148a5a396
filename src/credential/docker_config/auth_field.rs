//! The `auth` field of an entry: base64 of `USER:PASSWORD`, with the habits of Go's `encoding/base64`.
//! Errors show no byte of it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::credential::go_json::push_lossy;

/// Go's standard alphabet; stray bits in the last character are fine, as they are to Go.
const fn base64_engine(padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(&alphabet::STANDARD, config)
}

const PADDED: GeneralPurpose = base64_engine(DecodePaddingMode::RequireCanonical);
const UNPADDED: GeneralPurpose = base64_engine(DecodePaddingMode::RequireNone);

/// User name and password of an `auth` field (`decodeDockerConfigFieldAuth`). Bytes that are no text
/// become U+FFFD; the kubelet hands them on as they are, which no registry account has.
///
/// Padding decides by itself whether it is required: text that ends in `=` is read as padded.
pub(super) fn decode_auth(auth: &str) -> Result<(String, String), AuthProblem> {
    // Go skips line ends wherever they stand, and nothing else.
    let text: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let engine = if text.ends_with('=') {
        PADDED
    } else {
        UNPADDED
    };
    let decoded = engine
        .decode(&text)
        .map_err(|_| AuthProblem::of_text(&text))?;
    let colon = decoded.iter().position(|b| *b == b':');
    let (username, password) = decoded.split_at(colon.ok_or(AuthProblem::NoColon)?);
    let lossy = |bytes: &[u8]| {
        let mut text = String::new();
        push_lossy(&mut text, bytes);
        text
    };
    Ok((
        lossy(username),
        lossy(password.get(1..).unwrap_or_default()),
    ))
}

/// Why the `auth` of an entry does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthProblem {
    /// `-` or `_` in it.
    #[error(
        "bad base64, `-` and `_` belong to the URL-safe alphabet: encode it with the standard one"
    )]
    UrlSafe,
    /// Spaces, tabs or the like in it; line ends are fine.
    #[error("bad base64, it holds white space: remove it")]
    WhiteSpace,
    /// Any other character outside of the alphabet.
    #[error(
        "bad base64, it holds other characters than A-Z, a-z, 0-9, `+` and `/`: encode `USER:PASSWORD` again"
    )]
    Character,
    /// Too few or too many `=`, or characters missing.
    #[error(
        "bad base64, its length or padding is wrong: copy it whole, or encode `USER:PASSWORD` again"
    )]
    Padding,
    /// Base64 of something without a colon.
    #[error("no colon in what it decodes to: it must be base64 of `USER:PASSWORD`")]
    NoColon,
}

impl AuthProblem {
    fn of_text(text: &str) -> Self {
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        match text.chars().find(|c| !is_base64(*c)) {
            Some('-' | '_') => Self::UrlSafe,
            Some(c) if c.is_whitespace() => Self::WhiteSpace,
            Some(_) => Self::Character,
            None => Self::Padding,
        }
    }
}

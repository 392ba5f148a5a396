//! What the kubelet will make of one login: whether any image can ever match its key, and what its owner may not expect.
//! No text here holds a user name or password.

use crate::credential::Entry;
use crate::credential::keyring::{Key, Keyring, without_user_info};
use crate::image::ImageRef;

use super::Refusal;

/// The index key of Docker Hub.
pub(super) const DOCKER_HUB: &str = "index.docker.io";
/// Hosts that people take for Docker Hub's; images of Docker Hub have none of them in their name.
const DOCKER_HUB_LOOKALIKES: [&str; 4] = [
    "hub.docker.com",
    "registry-1.docker.io",
    "registry.hub.docker.com",
    "*.docker.io",
];
/// The user name beside an identity token, which a credential helper gives in the place of a password.
const IDENTITY_TOKEN_USER: &str = "<token>";
/// User names that registries give out with passwords that end by themselves, and after how long.
const SHORT_LIVED: [(&str, &str); 6] = [
    ("AWS", "12 hours"),
    ("oauth2accesstoken", "an hour"),
    ("_dcgcloud_token", "an hour"),
    ("_token", "an hour"),
    ("cr_temp_user", "an hour"),
    ("00000000-0000-0000-0000-000000000000", "3 hours"),
];
/// What makes a lasting login.
const LASTING: &str = "make an access token, robot account or service principal at the registry, and log in with its \
                       name and secret";
/// What does instead of one.
const ASKED: &str =
    "let the controller ask for it anew each time (`exec`, docs/short-lived-tokens.md), or";

/// Seconds since 1970, and how a person reads them.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Now.
    pub now: u64,
    /// Writes such a number as a date.
    pub show: fn(u64) -> String,
}

/// Why no image is ever pulled with this login. An empty entry is no login yet, and not refused for that.
pub(super) fn refusal(entry: &Entry, index_key: Option<&str>, clock: &Clock) -> Option<Refusal> {
    let refusal = |reason: String, fix: String| Some(Refusal { reason, fix });
    let Some(index_key) = index_key else {
        let reason = "the kubelet ignores this key: it is no URL";
        let fix = "write HOST[:PORT][/PATH] as in image names";
        return refusal(reason.into(), fix.into());
    };
    if entry.username == IDENTITY_TOKEN_USER || (entry.has_token() && !entry.is_usable()) {
        let reason = "it is an identity or registry token, which the kubelet cannot use";
        return refusal(reason.into(), LASTING.into());
    }
    if !covers_any_image(&entry.key, index_key) {
        let reason =
            format!("no image can match this key, which the kubelet reads as {index_key:?}");
        return refusal(reason, format!("log in to {}", corrected(index_key)));
    }
    let end = entry.expires().filter(|end| *end <= clock.now)?;
    let reason = format!("it is a token that ended at {}", (clock.show)(end));
    refusal(reason, format!("log in again; to have it last, {LASTING}"))
}

/// Whether the kubelet would use `key` for an image that is called as it is.
fn covers_any_image(key: &str, index_key: &str) -> bool {
    let (host, path) = host_and_path(index_key);
    // A lone `*` covers hosts without a dot, of which images have one.
    ["x", "localhost"].into_iter().any(|label| {
        let host = host.replace('*', label);
        covers(key, &format!("{host}{}/x", path.trim_end_matches('/')))
    })
}

fn covers(key: &str, image: &str) -> bool {
    let keyring = Keyring::new([Key { key, usable: true }]);
    ImageRef::parse(image).is_ok_and(|image| keyring.covering_key(&image).is_some())
}

/// What was probably meant by a key that no image can match.
fn corrected(index_key: &str) -> String {
    let without_scheme = index_key
        .split_once("://")
        .map_or(index_key, |(_, key)| key);
    let (host, path) = host_and_path(without_scheme);
    if host.eq_ignore_ascii_case(DOCKER_HUB) {
        return "docker.io".to_owned();
    }
    if host.starts_with('[') && host.ends_with(']') {
        return format!("{host}:PORT, with the port");
    }
    let path = path.split(['*', ':', '@']).next().unwrap_or_default();
    let path = path.trim_end_matches('/').to_lowercase();
    format!("{host}{path}")
}

/// What the owner of a login may not expect of the kubelet.
pub(super) fn notes(entry: &Entry, index_key: &str, clock: &Clock) -> Vec<String> {
    let (host, path) = host_and_path(index_key);
    let mut notes = Vec::new();
    let mut note = |holds: bool, text: &str| {
        if holds {
            notes.push(text.to_owned());
        }
    };
    note(
        entry.has_padded_username(),
        "the user name has white space around it, which the kubelet keeps",
    );
    note(
        entry.has_padded_password(),
        "the password has white space around it, which the kubelet keeps",
    );
    note(
        without_user_info(&entry.key) != entry.key,
        "what stands before `@`, or after `?` or `#`, is no part of the key and is left out",
    );
    note(
        host.ends_with(":443"),
        "it is used only where an image's name has the port :443 too",
    );
    note(
        DOCKER_HUB_LOOKALIKES.contains(&host),
        "images of Docker Hub are not among those it covers: their key is `docker.io`",
    );
    note(
        host.contains('*') && covers(&entry.key, "docker.io/x/x"),
        "it covers all of Docker Hub",
    );
    note(
        matches!(path, "/v1" | "/v2"),
        "only images whose path starts so are covered: write the key without the path",
    );
    note(
        !path.is_empty() && !path.ends_with('/') && !matches!(path, "/v1" | "/v2"),
        &format!(
            "the kubelet compares letters, not directories: `{index_key}-other` is covered too"
        ),
    );
    notes.extend(ends(entry, clock));
    notes
}

/// When the login stops to be one.
fn ends(entry: &Entry, clock: &Clock) -> Option<String> {
    let when = match entry.expires() {
        Some(end) => format!("at {}", (clock.show)(end)),
        None => {
            let known = SHORT_LIVED.iter().find(|(user, _)| *user == entry.username);
            format!("within {}", known?.1)
        }
    };
    Some(format!("it is a token that ends {when}: {ASKED} {LASTING}"))
}

/// Host with port, and the path with its slash.
pub(super) fn host_and_path(index_key: &str) -> (&str, &str) {
    index_key.split_at(index_key.find('/').unwrap_or(index_key.len()))
}

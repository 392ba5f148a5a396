//! What the user probably meant by a bad pattern.
//!
//! Repairs are tried in one fixed order, all of them; what comes out is only offered if it is a
//! valid pattern. Nothing here decides whether a pattern is valid.

use super::{Parts, check_port, is_lone_tag, is_registry_host, split_port, split_userinfo};

/// The corrected pattern, if the repairs lead to a valid one.
pub(super) fn corrected(text: &str) -> Option<String> {
    let text = text.trim();
    let (with_scheme, text) = match text.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, text),
    };
    let text = split_userinfo(text).map_or(text, |(_, rest)| rest);
    let (text, _digest) = text.split_once('@').unwrap_or((text, ""));
    let text = text.replace("**", "*");
    let mut segments: Vec<&str> = text
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    // `https://index.docker.io/v1/` is how docker writes the key of a registry, not a repository.
    if with_scheme && matches!(segments.as_slice(), [_, "v1" | "v2"]) {
        segments.pop();
    }
    let (host, path) = segments.split_first()?;
    let path = path.join("/").to_ascii_lowercase();
    let path = path.split_once(':').map_or(&*path, |(path, _tag)| path);
    let corrected = match path {
        "" => corrected_alone(host),
        _ if is_registry_host(split_port(host).0, split_port(host).1) => {
            format!("{}/{path}", corrected_host(host))
        }
        _ => format!("docker.io/{}/{path}", host.to_ascii_lowercase()),
    };
    Parts::read(&corrected).is_ok().then_some(corrected)
}

/// Without a path: a registry, or a Hub image with or without a tag.
fn corrected_alone(host: &str) -> String {
    let (name, port) = split_port(host);
    if is_registry_host(name, None) || port.is_some_and(|port| !is_lone_tag(name, port)) {
        return corrected_host(host);
    }
    if host == "*" {
        return host.to_owned();
    }
    format!("docker.io/library/{}", name.to_ascii_lowercase())
}

/// An IPv6 address needs brackets; what cannot be a port was a tag or a slip.
fn corrected_host(host: &str) -> String {
    if host.matches(':').count() > 1 && !host.starts_with('[') {
        return format!("[{host}]");
    }
    let (name, port) = split_port(host);
    match port.filter(|port| check_port(Some(port)).is_ok()) {
        _ if name.eq_ignore_ascii_case("index.docker.io") => "docker.io".to_owned(),
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

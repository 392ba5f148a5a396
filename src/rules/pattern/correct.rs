//! What the user probably meant by a bad pattern.
//!
//! Repairs are tried in one fixed order, all of them; what comes out is only offered if it is a
//! valid pattern. Nothing here decides whether a pattern is valid.

use super::{Parts, is_lone_tag, is_registry_host, split_port};

/// The corrected pattern, if the repairs lead to a valid one.
pub(super) fn corrected(text: &str) -> Option<String> {
    let text = text.trim();
    let (with_scheme, text) = match text.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, text),
    };
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
    let (name, port) = split_port(host);
    let path = path.join("/").to_ascii_lowercase();
    let path = path.split_once(':').map_or(&*path, |(path, _tag)| path);
    let port = port.filter(|port| *port == "*" || port.parse::<u16>().is_ok());
    let corrected = match path {
        "" if port.is_none_or(|port| is_lone_tag(name, port)) && !is_registry_host(name, None) => {
            format!("docker.io/library/{}", name.to_ascii_lowercase())
        }
        "" => join(name, port),
        _ if is_registry_host(name, port) => format!("{}/{path}", join(name, port)),
        _ => format!("docker.io/{}/{path}", name.to_ascii_lowercase()),
    };
    Parts::read(&corrected).is_ok().then_some(corrected)
}

fn join(name: &str, port: Option<&str>) -> String {
    // An IPv6 address needs its brackets.
    let name = match name.contains(':') && !name.contains('[') {
        true => format!("[{name}]"),
        false => name.to_owned(),
    };
    port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"))
}

//! One image pattern, `HOST[:PORT][/PATH]`, parsed and classified.
//!
//! ```text
//! pattern  = "*" | host [ ":" port ] [ "/" path ]
//! host     = label *( "." label )      `*` is any run inside one label; same number of labels
//!          | "[" ipv6 "]"
//! port     = 1*5 digit | "*"           absent means absent; `*` is any port or none
//! path     = segment *( "/" segment )  `*` is any run inside one segment; covers all below it
//! ```
//!
//! A host is what distribution's reference grammar takes for one: it has a `.` or a `:`, or is
//! `localhost`. Everything else is a Docker Hub image, whose pattern starts with `docker.io`.
//! Hosts are compared without case; `index.docker.io` is `docker.io`.
//!
//! This module does not match anything: that is `matcher`.

use std::borrow::Cow;
use std::fmt;

mod correct;

/// Longest pattern, in bytes: a DNS name (253), `:65535`, `/` and a repository (255, the limit of
/// the reference grammar). No image is longer.
pub const PATTERN_BYTES_MAX: usize = 253 + 6 + 1 + 255;

/// Smallest number that, after a lone word, is read as a port (`registry:80`) and not as a tag
/// (`redis:7`): no registry listens below HTTP's.
const LONE_PORT_MIN: u16 = 80;

/// A checked image pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryPattern {
    text: Box<str>,
    /// Lower-case host, `docker.io` for `index.docker.io`; `None` if the text is that already.
    normal: Option<Box<str>>,
    host_class: HostClass,
    path_class: PathClass,
    /// End of the host's name in the normal text. Positions are at most [`PATTERN_BYTES_MAX`].
    name_end: u16,
    /// End of name and port.
    host_end: u16,
}

/// How the host of a pattern is decided, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostClass {
    /// The pattern is `*`: every image.
    Any,
    /// Equality.
    Exact,
    /// Label by label.
    Wildcard,
}

/// How the path of a pattern is decided, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathClass {
    /// No path: the whole registry.
    None,
    /// Segments are equal.
    Literal,
    /// Some segment has a `*`.
    Glob,
}

/// The port of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port<'a> {
    /// The image must have none.
    Absent,
    /// The image must have this one, digit by digit.
    Exact(&'a str),
    /// Any port or none.
    Any,
}

impl RegistryPattern {
    /// Checks and classifies `text`.
    ///
    /// # Errors
    /// [`ParsePatternError`], with the corrected pattern where one can be guessed.
    pub fn parse(text: &str) -> Result<Self, ParsePatternError> {
        let parts = Parts::read(text).map_err(|problem| ParsePatternError {
            pattern: split_userinfo(text)
                .map_or(text, |(_, rest)| rest)
                .to_owned(),
            problem,
            corrected: correct::corrected(text),
        })?;
        Ok(Self::build(text, &parts))
    }

    /// An image that the pattern covers; `filler` stands where the pattern leaves something open.
    pub fn example(&self, filler: &str) -> String {
        let (host, path) = self.as_str().split_once('/').unwrap_or((self.as_str(), ""));
        let host = if host == "*" { "*.example.com" } else { host };
        let host = host.strip_suffix(":*").unwrap_or(host);
        let slash = if path.is_empty() { "" } else { "/" };
        format!("{host}{slash}{path}/{filler}").replace('*', filler)
    }

    fn build(text: &str, parts: &Parts<'_>) -> Self {
        let is_hub_alias = parts.name.eq_ignore_ascii_case("index.docker.io")
            && !matches!(parts.port, Port::Exact(_));
        let name = if is_hub_alias {
            Cow::Borrowed("docker.io")
        } else if parts.name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(parts.name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(parts.name)
        };
        let rest = text.get(parts.name.len()..).unwrap_or_default();
        let port_len = rest.len() - parts.path.map_or(0, |path| path.len() + 1);
        let end = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Self {
            text: text.into(),
            normal: (name != parts.name).then(|| format!("{name}{rest}").into()),
            host_class: match parts.name {
                "*" if parts.port == Port::Absent => HostClass::Any,
                name if name.contains('*') => HostClass::Wildcard,
                _ => HostClass::Exact,
            },
            path_class: match parts.path {
                None => PathClass::None,
                Some(path) if path.contains('*') => PathClass::Glob,
                Some(_) => PathClass::Literal,
            },
            name_end: end(name.len()),
            host_end: end(name.len() + port_len),
        }
    }

    /// The pattern as the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How the host is decided.
    pub fn host_class(&self) -> HostClass {
        self.host_class
    }

    /// How the path is decided.
    pub fn path_class(&self) -> PathClass {
        self.path_class
    }

    /// Host with port, lower case: `r.io:5000`, `[::1]:5000`, `*.azurecr.io:*`.
    pub fn host(&self) -> &str {
        self.normal()
            .get(..self.host_end.into())
            .unwrap_or_default()
    }

    /// Host without port.
    pub fn host_name(&self) -> &str {
        self.normal()
            .get(..self.name_end.into())
            .unwrap_or_default()
    }

    /// The port.
    pub fn port(&self) -> Port<'_> {
        match self
            .normal()
            .get(usize::from(self.name_end) + 1..self.host_end.into())
        {
            None => Port::Absent,
            Some("*") => Port::Any,
            Some(digits) => Port::Exact(digits),
        }
    }

    /// The path without its leading `/`; empty if there is none.
    pub fn path(&self) -> &str {
        self.normal()
            .get(usize::from(self.host_end) + 1..)
            .unwrap_or_default()
    }

    fn normal(&self) -> &str {
        self.normal.as_deref().unwrap_or(&self.text)
    }
}

impl fmt::Display for RegistryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not an image pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image pattern {}{problem}", quoted(pattern))]
pub struct ParsePatternError {
    /// The text, without what may be a password.
    pub pattern: String,
    /// What is wrong with it; the first problem of several.
    pub problem: PatternProblem,
    /// What was probably meant; a valid pattern.
    pub corrected: Option<String>,
}

impl ParsePatternError {
    /// How to fix it, as a sentence.
    pub fn fix(&self) -> String {
        match (&self.corrected, &self.problem) {
            (Some(corrected), PatternProblem::NoRegistryHost) => format!(
                "write `{corrected}` for Docker Hub, or put the host of another registry in front"
            ),
            (Some(corrected), _) => format!("write `{corrected}`"),
            (None, PatternProblem::Empty) => "write `*` for every image, or remove it".to_owned(),
            (None, _) => {
                "a pattern is `HOST[:PORT][/PATH]`, such as `harbor.example.com/team`".to_owned()
            }
        }
    }
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternProblem {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Too long to match any image.
    #[error("is longer than {PATTERN_BYTES_MAX} bytes (`PATTERN_BYTES_MAX`)")]
    TooLong,
    /// White space, which no image has.
    #[error("has white space")]
    Space,
    /// `https://` and the like.
    #[error("has a scheme, `{0}://`")]
    Scheme(String),
    /// `user:password@r.io`.
    #[error("has a user name or password in front of its host: those belong into a Secret")]
    UserInfo,
    /// `@sha256:…`.
    #[error("has a digest: a pattern covers every version of an image")]
    Digest,
    /// `:latest`.
    #[error("has a tag, `:{0}`: a pattern covers every version of an image")]
    Tag(String),
    /// `nginx`, `acme/app`.
    #[error("has no registry host")]
    NoRegistryHost,
    /// `r.io/acme/`.
    #[error("ends in `/`")]
    TrailingSlash,
    /// `r.io//acme`.
    #[error("has an empty path segment")]
    EmptySegment,
    /// `**` does not cross separators either.
    #[error("has `**`: `*` stays inside one host label or path segment")]
    DoubleStar,
    /// `r.io/Acme`.
    #[error("has upper case in its path, which no image has")]
    UpperCasePath,
    /// A host that cannot be one.
    #[error("has the host `{0}`, which no image can have")]
    Host(String),
    /// A port that cannot be one.
    #[error("has the port `{0}`: a port is digits up to 65535, or `*` for any port or none")]
    Port(String),
    /// A path segment that cannot be one.
    #[error("has the path segment `{0}`, which no image can have")]
    Segment(String),
}

/// A valid pattern, cut up; borrows from its text.
struct Parts<'a> {
    name: &'a str,
    port: Port<'a>,
    path: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// The checks go from what makes the rest unreadable (a scheme) to the details.
    fn read(text: &'a str) -> Result<Self, PatternProblem> {
        whole(text)?;
        if text == "*" {
            return Ok(Self {
                name: text,
                port: Port::Absent,
                path: None,
            });
        }
        let (host, path) = match text.split_once('/') {
            Some((host, path)) => (host, Some(path)),
            None => (text, None),
        };
        if let Some((_, tag)) = path.and_then(|path| path.rsplit_once(':')) {
            return Err(PatternProblem::Tag(tag.to_owned()));
        }
        // `::1`: which colon is the port's nobody knows.
        if host.matches(':').count() > 1 && !host.starts_with('[') {
            return Err(PatternProblem::Host(host.to_owned()));
        }
        let (name, port) = split_port(host);
        if let Some(tag) = port.filter(|port| path.is_none() && is_lone_tag(name, port)) {
            return Err(PatternProblem::Tag(tag.to_owned()));
        }
        if !is_registry_host(name, port) {
            return Err(PatternProblem::NoRegistryHost);
        }
        check_name(name)?;
        let port = check_port(port)?;
        if let Some(path) = path {
            check_path(path)?;
        }
        Ok(Self { name, port, path })
    }
}

fn whole(text: &str) -> Result<(), PatternProblem> {
    if text.is_empty() {
        return Err(PatternProblem::Empty);
    }
    if text.len() > PATTERN_BYTES_MAX {
        return Err(PatternProblem::TooLong);
    }
    // One pass for what is rare: a hundred thousand patterns come through here.
    let (mut space, mut at, mut colon, mut star) = (false, false, false, false);
    for byte in text.bytes() {
        space |= byte.is_ascii_whitespace();
        at |= byte == b'@';
        colon |= byte == b':';
        star |= byte == b'*';
    }
    if space {
        return Err(PatternProblem::Space);
    }
    if at {
        let userinfo = split_userinfo(text).map(|_| PatternProblem::UserInfo);
        return Err(userinfo.unwrap_or(PatternProblem::Digest));
    }
    if colon && let Some((scheme, _)) = text.split_once("://") {
        return Err(PatternProblem::Scheme(scheme.to_owned()));
    }
    if star && text.contains("**") {
        return Err(PatternProblem::DoubleStar);
    }
    Ok(())
}

/// A pattern, if any, in an error's sentence.
fn quoted(pattern: &str) -> String {
    if pattern.is_empty() {
        String::new()
    } else {
        format!("`{pattern}` ")
    }
}

/// Splits `user:password@` off. What follows the `@` of a digest is neither a host nor a path.
fn split_userinfo(text: &str) -> Option<(&str, &str)> {
    text.split_once('@')
        .filter(|(_, rest)| rest.contains(['.', '/']))
}

/// Splits `host` at the colon in front of its port; the colons inside `[…]` are not that.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let name_min = host.rfind(']').unwrap_or(0);
    match host.rfind(':').filter(|&colon| colon > name_min) {
        Some(colon) => (host.get(..colon).unwrap_or(host), host.get(colon + 1..)),
        None => (host, None),
    }
}

/// Whether `name:port`, alone, is an image with a tag (`nginx:latest`, `redis:7`).
fn is_lone_tag(name: &str, port: &str) -> bool {
    let lone = !name.contains(['.', ':']) && !name.eq_ignore_ascii_case("localhost");
    let port = if port == "*" {
        Some(u16::MAX)
    } else {
        port.parse().ok()
    };
    lone && !name.is_empty() && port.is_none_or(|port| port < LONE_PORT_MIN)
}

/// What the reference grammar takes for a registry. Upper case, its third sign of one, is not
/// taken here: `Acme/app` in a pattern is a slip.
fn is_registry_host(name: &str, port: Option<&str>) -> bool {
    port.is_some() || name.contains(['.', ':', '[']) || name.eq_ignore_ascii_case("localhost")
}

fn check_name(name: &str) -> Result<(), PatternProblem> {
    let ok = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| {
            address.contains(':') && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
        }),
        None => name.split('.').all(is_label),
    };
    if ok {
        Ok(())
    } else {
        Err(PatternProblem::Host(name.to_owned()))
    }
}

/// `_` is no domain character, but the kubelet reads `a_b.com/app` as a name that starts with it.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*'))
}

fn check_port(port: Option<&str>) -> Result<Port<'_>, PatternProblem> {
    match port {
        None => Ok(Port::Absent),
        Some("*") => Ok(Port::Any),
        Some(digits) if digits.parse::<u16>().is_ok() && !digits.starts_with('+') => {
            Ok(Port::Exact(digits))
        }
        Some(port) => Err(PatternProblem::Port(port.to_owned())),
    }
}

fn check_path(path: &str) -> Result<(), PatternProblem> {
    if path.is_empty() || path.ends_with('/') {
        return Err(PatternProblem::TrailingSlash);
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(PatternProblem::UpperCasePath);
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err(PatternProblem::EmptySegment);
        }
        if !is_segment(segment) {
            return Err(PatternProblem::Segment(segment.to_owned()));
        }
    }
    Ok(())
}

/// Whether some component of the reference grammar can match: `[a-z0-9]+` joined by `.`, `_`, `__`
/// or any number of `-`. What stands beside a `*` only needs the right characters.
fn is_segment(segment: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = segment.as_bytes();
    if bytes.contains(&b'*') {
        return bytes
            .iter()
            .all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-' | b'*'));
    }
    let is_joint = |joint: &[u8]| {
        matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-')
    };
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.split(alphanumeric).all(is_joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid pattern: host, port, path as they are compared.
    fn check(text: &str, expected: (HostClass, &str, Port<'_>, PathClass, &str)) {
        let p = RegistryPattern::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let found = (
            p.host_class(),
            p.host_name(),
            p.port(),
            p.path_class(),
            p.path(),
        );
        assert_eq!(found, expected, "{text}");
        assert_eq!(p.as_str(), text);
        assert!(p.host().starts_with(p.host_name()));
    }

    #[test]
    fn valid_patterns_are_classified() {
        use Port::{Absent, Any, Exact as Number};
        const EXACT: HostClass = HostClass::Exact;
        const WILD: HostClass = HostClass::Wildcard;
        const NONE: PathClass = PathClass::None;
        const LITERAL: PathClass = PathClass::Literal;
        const GLOB: PathClass = PathClass::Glob;
        check("*", (HostClass::Any, "*", Absent, NONE, ""));
        check("docker.io", (EXACT, "docker.io", Absent, NONE, ""));
        check("index.docker.io", (EXACT, "docker.io", Absent, NONE, ""));
        check(
            "Index.Docker.IO/acme",
            (EXACT, "docker.io", Absent, LITERAL, "acme"),
        );
        check("index.docker.io:*", (EXACT, "docker.io", Any, NONE, ""));
        check(
            "index.docker.io:443/x",
            (EXACT, "index.docker.io", Number("443"), LITERAL, "x"),
        );
        check(
            "docker.io/nginx",
            (EXACT, "docker.io", Absent, LITERAL, "nginx"),
        );
        check(
            "GHCR.io/acme/x",
            (EXACT, "ghcr.io", Absent, LITERAL, "acme/x"),
        );
        check("localhost", (EXACT, "localhost", Absent, NONE, ""));
        check(
            "localhost/app",
            (EXACT, "localhost", Absent, LITERAL, "app"),
        );
        check(
            "localhost:5000",
            (EXACT, "localhost", Number("5000"), NONE, ""),
        );
        check("registry:80", (EXACT, "registry", Number("80"), NONE, ""));
        check("registry:*/x", (EXACT, "registry", Any, LITERAL, "x"));
        check("r.io:05000", (EXACT, "r.io", Number("05000"), NONE, ""));
        check(
            "10.39.0.12:5000",
            (EXACT, "10.39.0.12", Number("5000"), NONE, ""),
        );
        check(
            "[::1]:5000/x",
            (EXACT, "[::1]", Number("5000"), LITERAL, "x"),
        );
        check("[FE80::1]", (EXACT, "[fe80::1]", Absent, NONE, ""));
        check("a_b.com/app", (EXACT, "a_b.com", Absent, LITERAL, "app"));
        check("*.azurecr.io", (WILD, "*.azurecr.io", Absent, NONE, ""));
        check(
            "*.azurecr.io:*/a*/b",
            (WILD, "*.azurecr.io", Any, GLOB, "a*/b"),
        );
        check("*:5000", (WILD, "*", Number("5000"), NONE, ""));
        check(
            "*.Dkr.ecr.*.amazonaws.com/x__y",
            (WILD, "*.dkr.ecr.*.amazonaws.com", Absent, LITERAL, "x__y"),
        );
        check("quay.io/*", (EXACT, "quay.io", Absent, GLOB, "*"));
        check(
            "quay.io/a-*-b.c",
            (EXACT, "quay.io", Absent, GLOB, "a-*-b.c"),
        );
    }

    /// A bad pattern, its problem and what is offered instead (`-`: nothing).
    fn refuse(text: &str, problem: &str, corrected: &str) {
        let error = RegistryPattern::parse(text).expect_err(text);
        assert!(
            error.problem.to_string().contains(problem),
            "{text}: {error}"
        );
        assert_eq!(
            error.corrected.as_deref().unwrap_or("-"),
            corrected,
            "{text}"
        );
        if let Some(corrected) = &error.corrected {
            assert!(
                RegistryPattern::parse(corrected).is_ok(),
                "{text}: {corrected}"
            );
        }
    }

    #[test]
    fn bad_patterns_are_corrected() {
        refuse("nginx", "no registry host", "docker.io/library/nginx");
        refuse("acme/app", "no registry host", "docker.io/acme/app");
        refuse("Acme/App", "no registry host", "docker.io/acme/app");
        refuse(
            "library/nginx",
            "no registry host",
            "docker.io/library/nginx",
        );
        refuse("nginx:latest", "tag", "docker.io/library/nginx");
        refuse("redis:7", "tag", "docker.io/library/redis");
        refuse("acme/app:1@sha256:00", "digest", "docker.io/acme/app");
        refuse("r.io/app:v1", "tag", "r.io/app");
        refuse("r.io:5000/app@sha256:00", "digest", "r.io:5000/app");
        refuse("r.io:latest", "port", "r.io");
        refuse("r.io:", "port", "r.io");
        refuse("r.io:5*", "port", "r.io");
        refuse("https://r.io", "scheme, `https://`", "r.io");
        refuse("oci://r.io/charts/", "scheme", "r.io/charts");
        refuse("https://index.docker.io/v1/", "scheme", "docker.io");
        refuse("https://nginx", "scheme", "docker.io/library/nginx");
        refuse("r.io/", "ends in `/`", "r.io");
        refuse("r.io/a/", "ends in `/`", "r.io/a");
        refuse("/r.io/a", "no registry host", "r.io/a");
        refuse("r.io//a", "empty path segment", "r.io/a");
        refuse("r.io/A/b", "upper case", "r.io/a/b");
        refuse("r.io/**", "`**`", "r.io/*");
        refuse("**", "`**`", "*");
        refuse(" r.io\n", "white space", "r.io");
        refuse("r.io/a b", "white space", "-");
        refuse("", "empty", "-");
        refuse("*/app", "no registry host", "docker.io/*/app");
        refuse("a..b/x", "host", "-");
        refuse(".r.io", "host", "-");
        refuse("-r.io", "host", "-");
        refuse("r.io/-a", "segment", "-");
        refuse("r.io/a___b", "segment", "-");
        refuse("r.io/a..b", "segment", "-");
        refuse("r.io/é", "segment", "-");
        refuse("é.io", "host", "-");
        refuse("::1", "host", "[::1]");
        refuse("[::1", "host", "-");
        refuse("[12.5]", "host", "-");
        refuse(
            &format!("r.io/{}", "a".repeat(PATTERN_BYTES_MAX)),
            "PATTERN_BYTES_MAX",
            "-",
        );
    }

    #[test]
    fn errors_keep_passwords_to_themselves() {
        for text in ["u:hunter2@r.io/x", "https://u:hunter2@r.io/x"] {
            let error = RegistryPattern::parse(text).expect_err(text);
            assert_eq!(error.problem, PatternProblem::UserInfo);
            assert_eq!(error.corrected.as_deref(), Some("r.io/x"));
            assert!(!format!("{error}{error:?}{}", error.fix()).contains("hunter2"));
        }
    }
}

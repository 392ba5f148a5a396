//! From `auths` keys to index keys, and the lookup of an image among them
//! (`pkg/credentialprovider/keyring.go`: `Add`, `Lookup`, `URLsMatchStr`, `isDefaultRegistryMatch`).
//!
//! 1. [`index_key`] turns each raw key into host and path, or drops it.
//! 2. Index keys are sorted in reverse byte order; raw keys with the same one keep their order.
//! 3. A key matches an image if port, number of labels and each label (`*` is any run inside one)
//!    agree, and its path is a prefix of the image's. Segments do not matter: `r.io/a` covers `r.io/ab`.
//! 4. If nothing matched and the image may come from Docker Hub, the key `index.docker.io` is used.
//!
//! This file must not hold user names or passwords: only whether there are any.

use std::fmt;

use crate::image::{DOCKER_HUB, ImageRef};

use super::DockerConfig;
use super::go_glob::Glob;
use super::go_url::{self, Url};

/// The index key whose credentials the Docker Hub fallback uses (`defaultRegistryHost`).
const DOCKER_HUB_INDEX: &[u8] = b"index.docker.io";

/// The keys of one pull secret, compiled once and scanned in the kubelet's order.
/// Holds no user name and no password: only whether there are any.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<CompiledKey>,
}

/// One raw key with what matters about its entry.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// The key as written in `auths`.
    pub key: &'a str,
    /// Whether user name and password are both there.
    pub usable: bool,
}

/// What the kubelet would use for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup<'k> {
    /// The raw keys in the kubelet's order.
    pub matched_in_order: Vec<&'k str>,
    /// Nothing matched, and the Docker Hub fallback found the key `index.docker.io`.
    pub docker_hub_fallback: bool,
}

/// The index key of a raw `auths` key, as bytes, since percent signs may decode to any; `None` where
/// the kubelet ignores the key because Go cannot parse it as a URL.
pub fn index_key(key: &str) -> Option<Vec<u8>> {
    let without_scheme = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let Url { host, path } = go_url::parse(without_scheme.unwrap_or(key).as_bytes())?;
    let version = [&b"/v1"[..], b"/v2"]
        .into_iter()
        .find_map(|v| path.strip_prefix(v).filter(|rest| rest.starts_with(b"/")));
    Some(match version.unwrap_or(&path) {
        b"/" => host,
        path => [&host, path].concat(),
    })
}

/// A raw key without what a URL may hold besides host and path: user info, query and fragment, none of
/// which the kubelet looks at. Its index key is the same.
pub fn without_user_info(key: &str) -> String {
    const SCHEMES: [&str; 2] = ["https://", "http://"];
    let scheme_of = |text: &str| SCHEMES.into_iter().find(|scheme| text.starts_with(scheme));
    let scheme = scheme_of(key);
    let rest = key.strip_prefix(scheme.unwrap_or_default());
    let rest = rest.and_then(|rest| rest.split(['?', '#']).next());
    let rest = rest.unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let bare = [host, path].concat();
    // The kubelet takes one scheme away, so what looks like one afterwards needs another before it.
    let scheme = scheme.or_else(|| scheme_of(&bare).map(|_| "https://"));
    scheme.unwrap_or_default().to_owned() + &bare
}

impl Keyring {
    /// Compiles raw keys; those the kubelet ignores are dropped.
    pub fn new<'a>(keys: impl IntoIterator<Item = Key<'a>>) -> Self {
        let mut indexed: Vec<_> = keys
            .into_iter()
            .filter_map(|key| Some((index_key(key.key)?, key)))
            .collect();
        indexed.sort_by(|(a, _), (b, _)| b.cmp(a));
        let compile = |(index_key, key): (Vec<u8>, Key<'a>)| CompiledKey {
            raw: key.key.into(),
            usable: key.usable,
            is_docker_hub: index_key == DOCKER_HUB_INDEX,
            pattern: Pattern::new(&index_key),
        };
        Self {
            keys: indexed.into_iter().map(compile).collect(),
        }
    }

    /// The keyring of one decoded payload.
    pub fn of(config: &DockerConfig) -> Self {
        Self::new(config.entries().iter().map(|entry| Key {
            key: &entry.key,
            usable: entry.is_usable(),
        }))
    }

    /// The raw keys that the kubelet does not ignore, in its order; they may carry user info.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(CompiledKey::raw)
    }

    /// The same with what matters about each entry.
    pub fn entries(&self) -> impl Iterator<Item = Key<'_>> {
        self.keys.iter().map(|key| Key {
            key: &key.raw,
            usable: key.usable,
        })
    }

    /// All keys that the kubelet would use for `image`, in its order (allocates; for people).
    ///
    /// Raw keys with the same index key come in the order given; the kubelet's own order among those
    /// of one secret is random.
    pub fn lookup(&self, image: &ImageRef<'_>) -> Lookup<'_> {
        let mut matched_in_order: Vec<_> = self.matching(image).map(CompiledKey::raw).collect();
        let mut docker_hub_fallback = false;
        if matched_in_order.is_empty() && may_be_docker_hub(image) {
            matched_in_order = self.docker_hub().map(CompiledKey::raw).collect();
            docker_hub_fallback = !matched_in_order.is_empty();
        }
        Lookup {
            matched_in_order,
            docker_hub_fallback,
        }
    }

    /// The first key with a usable credential among those the kubelet would use for `image`. A key
    /// without one does not count, but hides the Docker Hub fallback as any other that matches.
    /// Allocation-free: on the admission path.
    pub fn covering_key(&self, image: &ImageRef<'_>) -> Option<&str> {
        let mut matching = self.matching(image).peekable();
        let covering = if matching.peek().is_some() {
            matching.find(|key| key.usable)
        } else if may_be_docker_hub(image) {
            self.docker_hub().find(|key| key.usable)
        } else {
            None
        };
        covering.map(CompiledKey::raw)
    }

    fn matching(&self, image: &ImageRef<'_>) -> impl Iterator<Item = &CompiledKey> {
        let target = Target::new(image);
        let matches = move |key: &&CompiledKey| match (&key.pattern, &target) {
            (Some(pattern), Some(target)) => pattern.matches(target),
            _ => false,
        };
        self.keys.iter().filter(matches)
    }

    fn docker_hub(&self) -> impl Iterator<Item = &CompiledKey> {
        self.keys.iter().filter(|key| key.is_docker_hub)
    }
}

/// Shows the number of keys only: a key may carry user info.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct CompiledKey {
    raw: Box<str>,
    usable: bool,
    is_docker_hub: bool,
    /// `None` if the index key, decoded once, is no URL any more: it never matches.
    pattern: Option<Pattern>,
}

impl CompiledKey {
    fn raw(&self) -> &str {
        &self.raw
    }
}

/// An index key, taken apart.
#[derive(Clone)]
struct Pattern {
    host: HostPattern,
    port: Box<[u8]>,
    path: Box<[u8]>,
}

#[derive(Clone)]
enum HostPattern {
    /// No special character: label by label is the same as the whole.
    Exact(Box<[u8]>),
    Labels(Box<[Glob]>),
}

impl Pattern {
    fn new(index_key: &[u8]) -> Option<Self> {
        let url = go_url::parse(index_key)?;
        let (host, port) = go_url::split_host_port(&url.host);
        let host_pattern = if host.iter().any(|b| matches!(b, b'*' | b'[')) {
            let labels = host.split(|b| *b == b'.').map(Glob::new);
            HostPattern::Labels(labels.collect::<Option<_>>()?)
        } else {
            HostPattern::Exact(host.into())
        };
        Some(Self {
            host: host_pattern,
            port: port.into(),
            path: url.path.into(),
        })
    }

    /// Cheapest checks first.
    fn matches(&self, target: &Target<'_>) -> bool {
        let host_matches = match &self.host {
            HostPattern::Exact(host) => **host == *target.host,
            HostPattern::Labels(globs) => {
                let labels = target.host.split(|b| *b == b'.');
                globs.len() == target.labels
                    && globs
                        .iter()
                        .zip(labels)
                        .all(|(glob, label)| glob.matches(label))
            }
        };
        host_matches && *self.port == *target.port && is_prefix(&self.path, target.path)
    }
}

/// The name of an image as the kubelet sees it after parsing it as a URL.
struct Target<'a> {
    host: &'a [u8],
    /// How many labels the host has.
    labels: usize,
    port: &'a [u8],
    /// The path in parts, so that it need not be put together.
    path: [&'a [u8]; 3],
}

impl<'a> Target<'a> {
    /// `None` if the name is no URL, so that no key matches: brackets around what is no IPv6 address.
    fn new(image: &ImageRef<'a>) -> Option<Self> {
        let text = image.host().as_bytes();
        let (host, port) = go_url::split_host_port(text);
        if let Some(literal) = text.strip_prefix(b"[") {
            let address = literal.split(|b| *b == b']').next()?;
            go_url::is_ipv6(address).then_some(())?;
        }
        Some(Self {
            host,
            labels: host.split(|b| *b == b'.').count(),
            port,
            path: [
                b"/",
                image.path_prefix().as_bytes(),
                image.path().as_bytes(),
            ],
        })
    }
}

/// Whether `prefix` starts the text that `parts` make together.
fn is_prefix(prefix: &[u8], parts: [&[u8]; 3]) -> bool {
    let mut text = parts.into_iter().flatten();
    prefix.iter().all(|byte| text.next() == Some(byte))
}

/// `isDefaultRegistryMatch`: also true for `localhost/app` and `UPPER/app`, which is what it does.
fn may_be_docker_hub(image: &ImageRef<'_>) -> bool {
    let host = image.host();
    host == DOCKER_HUB || !host.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::{Key, Keyring, index_key};
    use crate::image::ImageRef;

    fn check_index_key(key: &str, expected: Option<&str>) {
        let expected = expected.map(|text| text.as_bytes().to_vec());
        assert_eq!(index_key(key), expected, "{key:?}");
    }

    fn keyring(keys: &[(&str, bool)]) -> Keyring {
        Keyring::new(keys.iter().map(|(key, usable)| Key {
            key,
            usable: *usable,
        }))
    }

    fn check(keys: &[&str], image: &str, expected: &[&str], fallback: bool) {
        let keyring = Keyring::new(keys.iter().map(|key| Key { key, usable: true }));
        let image = ImageRef::parse(image).expect(image);
        let lookup = keyring.lookup(&image);
        assert_eq!(lookup.matched_in_order, expected, "{keys:?} {image}");
        assert_eq!(lookup.docker_hub_fallback, fallback, "{keys:?} {image}");
        assert_eq!(keyring.covering_key(&image), expected.first().copied());
    }

    /// Whether one key, without the Docker Hub fallback, matches.
    fn check_match(key: &str, image: &str, expected: bool) {
        let found: &[&str] = if expected { &[key] } else { &[] };
        check(&[key], image, found, false);
    }

    #[test]
    fn raw_keys_become_index_keys() {
        check_index_key("https://index.docker.io/v1/", Some("index.docker.io"));
        check_index_key("https://index.docker.io/v1", Some("index.docker.io/v1"));
        check_index_key(
            "https://index.docker.io/v1/myorg",
            Some("index.docker.io/myorg"),
        );
        check_index_key("http://r.io/v2/team/", Some("r.io/team/"));
        check_index_key("r.io/v2", Some("r.io/v2"));
        check_index_key("HTTPS://r.io", Some("HTTPS://r.io"));
        check_index_key("u:p@r.io?x#f", Some("r.io"));
        check_index_key("r.io:", Some("r.io:"));
        check_index_key("r.io/", Some("r.io"));
        check_index_key("r.io/v1/v1/", Some("r.io/v1/"));
        check_index_key("R.io/a%20b", Some("R.io/a b"));
        check_index_key("", Some(""));
        for ignored in [" r.io", "r.io\n", "r.io:*", "r[a-z].io", "r.io/%zz", "[::1"] {
            check_index_key(ignored, None);
        }
    }

    #[test]
    fn ports_are_compared_as_text() {
        check_match("r.io", "r.io/x", true);
        check_match("r.io:", "r.io/x", true);
        check_match("r.io:443", "r.io/x", false);
        check_match("https://r.io", "r.io:443/x", false);
        check_match("r.io:5000", "r.io:05000/x", false);
        check_match("*.io:5000", "r.io:5000/x", true);
    }

    #[test]
    fn labels_are_matched_one_by_one() {
        check_match("*.io", "r.io/x", true);
        check_match("*.io", "a.b.io/x", false);
        check_match("*r.io", "xr.io/x", true);
        check_match("*r.io", "x.r.io/x", false);
        check_match("r.io", "R.io/x", false);
        check_match("*", "localhost/x", true);
        check_match("a_b.com", "a_b.com/x", true);
        check_match("[::1]:5000", "[::1]:5000/x", true);
        check_match("[::1]", "[::1]/x", false);
        check_match("[::A]", "A/x", true);
        check_match("*:5000", "[:::]:5000/x", false);
    }

    #[test]
    fn paths_are_prefixes_of_text() {
        check_match("ghcr.io/acme", "ghcr.io/acme-evil/x", true);
        check_match("r.io/team/", "r.io/team", false);
        check_match("r.io/team/", "r.io/team-b/x", false);
        check_match("r.io/*", "r.io/x", false);
        check_match("r.io/app:v1", "r.io/app:v1", false);
        check_match("docker.io/lib", "nginx", true);
        check_match("docker.io/library/nginx", "nginx", true);
        check_match("docker.io/library/nginxx", "nginx", false);
    }

    #[test]
    fn keys_are_used_in_reverse_byte_order() {
        check(
            &[
                "*.example.com/team/app",
                "r.example.com",
                "r.example.com/team",
            ],
            "r.example.com/team/app",
            &[
                "r.example.com/team",
                "r.example.com",
                "*.example.com/team/app",
            ],
            false,
        );
        check(
            &["http://r.io", "r.io"],
            "r.io/x",
            &["http://r.io", "r.io"],
            false,
        );
    }

    #[test]
    fn docker_hub_credentials_are_a_fallback() {
        let hub = "https://index.docker.io/v1/";
        check(&[hub, "r.io"], "nginx", &[hub], true);
        check(&[hub], "localhost/app", &[hub], true);
        check(&[hub], "UPPER/app", &[hub], true);
        check(&[hub], "r.io/app", &[], false);
        check(&[hub, "*.io"], "nginx", &["*.io"], false);
        check(&[hub, "docker.io/my"], "my/app", &["docker.io/my"], false);
        check(&["https://index.docker.io/v1"], "nginx", &[], false);
        check(
            &["registry-1.docker.io", "*.docker.io"],
            "nginx",
            &[],
            false,
        );
    }

    #[test]
    fn an_unusable_entry_covers_nothing_but_hides_the_fallback() {
        let image = ImageRef::parse("nginx").expect("parses");
        let check = |keys: &[(&str, bool)], expected| {
            assert_eq!(keyring(keys).covering_key(&image), expected, "{keys:?}");
        };
        check(&[("docker.io", false), ("index.docker.io", true)], None);
        check(&[("docker.io", false), ("*.io", true)], Some("*.io"));
        check(&[("index.docker.io", false)], None);
        check(
            &[("index.docker.io", false), ("http://index.docker.io", true)],
            Some("http://index.docker.io"),
        );
        check(&[], None);
    }
}

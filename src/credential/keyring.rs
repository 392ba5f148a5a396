//! From `auths` keys to index keys, and the lookup of an image among them.

use crate::image::ImageRef;

use super::DockerConfig;

/// The keys of one pull secret, compiled once and scanned in the kubelet's order.
/// Holds no user name and no password: only whether there are any.
#[derive(Debug, Clone, Default)]
pub struct Keyring {}

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

impl Keyring {
    /// Compiles raw keys; those the kubelet ignores are dropped.
    pub fn new<'a>(_keys: impl IntoIterator<Item = Key<'a>>) -> Self {
        todo!()
    }

    /// The keyring of one decoded payload.
    pub fn of(config: &DockerConfig) -> Self {
        Self::new(config.entries().iter().map(|entry| Key {
            key: &entry.key,
            usable: entry.is_usable(),
        }))
    }

    /// All keys that the kubelet would use for `image`, in its order (allocates; for people).
    pub fn lookup(&self, _image: &ImageRef<'_>) -> Lookup<'_> {
        todo!()
    }

    /// The first key with a usable credential among those the kubelet would use for `image`.
    /// Allocation-free: on the admission path.
    pub fn covering_key(&self, _image: &ImageRef<'_>) -> Option<&str> {
        todo!()
    }
}

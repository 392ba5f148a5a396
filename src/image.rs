//! Image references, read exactly as the kubelet reads them.
//!
//! The grammar and the normalisation are those of distribution/reference `ParseNormalizedNamed`,
//! which is what the kubelet's `ParseImageName` calls. Pure: no I/O, no allocation while parsing.
//! This module must not know about rules or credentials.

use std::fmt;

/// A parsed, normalised image reference that borrows from the text it was read from.
///
/// The kubelet looks credentials up by [`ImageRef::name`]: registry and repository, without tag and
/// digest. The name is never built on the matching path: it is `host`, `/`, [`Self::path_prefix`]
/// and [`Self::path`], each a borrowed slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRef<'a> {
    host: &'a str,
    host_is_registry: bool,
    path_prefix: &'static str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> ImageRef<'a> {
    /// Parses and normalises `input`.
    ///
    /// # Errors
    /// [`ParseImageError`], for every input that the kubelet answers with `InvalidImageName`.
    pub fn parse(_input: &'a str) -> Result<Self, ParseImageError> {
        todo!()
    }

    /// The first segment of the name: what pattern hosts and credential keys are compared with.
    /// Equal to the registry, except for names such as `a_b.com/app`, which have no registry.
    /// May carry a port: `r.io:5000`, `[::1]:5000`.
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// distribution's `Domain()`; `None` where it is empty (`a_b.com/app`).
    pub fn registry(&self) -> Option<&'a str> {
        self.host_is_registry.then_some(self.host)
    }

    /// `"library/"` for one-word Docker Hub images, else empty: goes in front of [`Self::path`].
    pub fn path_prefix(&self) -> &'static str {
        self.path_prefix
    }

    /// What follows the host and [`Self::path_prefix`] in the name, without a leading `/`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The tag as written; never defaulted to `latest`.
    pub fn tag(&self) -> Option<&'a str> {
        self.tag
    }

    /// The digest as written, with its algorithm.
    pub fn digest(&self) -> Option<&'a str> {
        self.digest
    }
}

/// `name`: what the kubelet looks up, `docker.io/library/nginx` for `nginx:1.27`.
impl fmt::Display for ImageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.host, self.path_prefix, self.path)
    }
}

/// Why the kubelet would answer `InvalidImageName`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseImageError {
    /// Placeholder.
    #[error("empty")]
    Empty,
}

//! Image references, read exactly as the kubelet reads them.
//!
//! ```text
//! reference  = name [":" tag] ["@" digest]
//! name       = [registry "/"] repository
//! registry   = (label *("." label) | "[" IPv6 "]") [":" port]     both cases; one or more digits
//! repository = segment *("/" segment)                             lower case, 255 bytes at most
//! ```
//!
//! Grammar (`grammar.rs`) and normalisation (here) are those of distribution/reference
//! `ParseNormalizedNamed`, which the kubelet's `ParseImageName` (`pkg/util/parsers`) calls.
//! Normalisation, in this order:
//! 1. Exactly 64 lower-case hexadecimal characters are refused.
//! 2. No `/`: `docker.io/library/` goes in front; `quay.io` alone is a Docker Hub image.
//! 3. What stands before the first `/` is the registry if it is `localhost`, holds a `.` or `:`, or an
//!    upper-case letter; `index.docker.io` becomes `docker.io`. Else the registry is `docker.io`.
//! 4. On `docker.io`, a repository of one segment gets `library/` in front.
//!
//! Pure: no I/O, no allocation while parsing. This module must not know about rules or credentials.

mod grammar;

use std::fmt;

use grammar::{check_digest, check_path, check_segment, check_tag};

/// The registry that images without one come from.
pub const DOCKER_HUB: &str = "docker.io";

/// The older name of [`DOCKER_HUB`], still the one that docker configs use as a key.
const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// Goes in front of Docker Hub repositories of one segment.
const OFFICIAL_PREFIX: &str = "library/";

/// Length of a sha256 image ID in hexadecimal, which is no name.
const IMAGE_ID_BYTES: usize = 64;

/// A parsed, normalised image reference that borrows from the text it was read from.
///
/// The kubelet looks credentials up by [the name](#impl-Display-for-ImageRef<'_>): registry and
/// repository, without tag and digest. The name is never built on the matching path: it is
/// [`Self::host`], `/`, [`Self::path_prefix`] and [`Self::path`], each a borrowed slice.
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
    pub fn parse(input: &'a str) -> Result<Self, ParseImageError> {
        if input.is_empty() {
            return Err(ParseImageError::Empty);
        }
        if input.len() == IMAGE_ID_BYTES && input.bytes().all(grammar::is_lower_hex) {
            return Err(ParseImageError::ImageId);
        }
        let (host, path_prefix, rest) = normalise(input);
        // The part after the registry is always the end of the input, so columns follow from lengths.
        let rest_column = input.len() - rest.len() + 1;

        let (name, digest) = split_once(rest, '@');
        let (path, tag) = split_once(name, ':');
        let defect = grammar::registry_defect(host);
        if let Some(defect) = defect
            && check_segment(host, 1).is_err()
        {
            return Err(grammar::registry_error(defect, host, rest));
        }
        check_path(path, rest_column)?;
        let tag_column = rest_column + path.len() + 1;
        if let Some(tag) = tag {
            check_tag(tag, tag_column)?;
        }
        if let Some(digest) = digest {
            check_digest(digest, rest_column + name.len() + 1)?;
        }

        let image = Self {
            host,
            host_is_registry: defect.is_none(),
            path_prefix,
            path,
            tag,
            digest,
        };
        match image.repository_bytes() {
            length if length > grammar::REPOSITORY_BYTES_MAX => {
                Err(ParseImageError::RepositoryTooLong { length })
            }
            _ => Ok(image),
        }
    }

    /// [`Self::parse`] for bytes of unknown encoding, such as a command line argument.
    ///
    /// # Errors
    /// As [`Self::parse`]; also for everything that is not UTF-8, since the grammar is ASCII.
    pub fn parse_bytes(input: &'a [u8]) -> Result<Self, ParseImageError> {
        let text = str::from_utf8(input).map_err(|error| ParseImageError::NotUtf8 {
            byte: error.valid_up_to() + 1,
        })?;
        Self::parse(text)
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

    /// distribution's `Path()`: the name without [`Self::registry`] (allocates; for people).
    pub fn repository(&self) -> String {
        if self.host_is_registry {
            format!("{}{}", self.path_prefix, self.path)
        } else {
            self.to_string()
        }
    }

    /// distribution's `FamiliarName()`: the shortest form of the name, without tag and digest, as
    /// people write it: `nginx`, `acme/app`, `r.io/app` (allocates; for people).
    pub fn familiar(&self) -> String {
        if self.host != DOCKER_HUB {
            return self.to_string();
        }
        let path = self.path;
        let short = match path.strip_prefix(OFFICIAL_PREFIX) {
            Some(official) if !official.contains('/') => official,
            _ => path,
        };
        short.into()
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

    /// Length of [`Self::repository`], which is what distribution limits.
    fn repository_bytes(&self) -> usize {
        let below_host = self.path_prefix.len() + self.path.len();
        if self.host_is_registry {
            below_host
        } else {
            self.host.len() + "/".len() + below_host
        }
    }
}

/// The name: what the kubelet looks up, `docker.io/library/nginx` for `nginx:1.27`.
impl fmt::Display for ImageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.host, self.path_prefix, self.path)
    }
}

/// Splits `input` into host, path prefix and the rest (path, tag, digest): steps 2 to 4 above.
fn normalise(input: &str) -> (&str, &'static str, &str) {
    let Some((first, remainder)) = input.split_once('/') else {
        return (DOCKER_HUB, OFFICIAL_PREFIX, input);
    };
    let (host, rest) = match first {
        DOCKER_HUB_INDEX => (DOCKER_HUB, remainder),
        _ if is_host_like(first) => (first, remainder),
        _ => (DOCKER_HUB, input),
    };
    let is_official = host == DOCKER_HUB && !rest.contains('/');
    (host, if is_official { OFFICIAL_PREFIX } else { "" }, rest)
}

/// Whether the part before the first `/` is taken for a registry; it may still be a malformed one.
fn is_host_like(first: &str) -> bool {
    first == "localhost"
        || first
            .bytes()
            .any(|b| matches!(b, b'.' | b':') || b.is_ascii_uppercase())
}

fn split_once(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Why the kubelet would answer `InvalidImageName`. Columns and bytes count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseImageError {
    /// Nothing was given.
    #[error("the reference is empty: write one such as `registry.example.com/team/app:1.0`")]
    Empty,
    /// The input is not text.
    #[error("byte {byte} is not UTF-8: a reference consists of ASCII characters only")]
    NotUtf8 {
        /// The first byte that is not part of a UTF-8 character.
        byte: usize,
    },
    /// The whole input is 64 lower-case hexadecimal characters.
    #[error("64 hexadecimal characters are an image ID, not a name: write `NAME@sha256:ID`")]
    ImageId,
    /// The input starts as a URL does.
    #[error("a reference has no scheme: drop everything up to and including `://`")]
    Scheme,
    /// What stands before the first `/` has to be a registry, and is none.
    #[error(
        "`{part}` before the first `/` is malformed: a registry is a host name or an IPv6 address \
         in brackets, with an optional port, such as `registry.example.com:5000`"
    )]
    Registry {
        /// What is wrong with it.
        part: RegistryPart,
    },
    /// A character that is not allowed where it stands.
    #[error("{found:?} at column {column} is not allowed in the {part}: {}", part.alphabet())]
    Character {
        /// Where in the reference.
        part: Part,
        /// The character.
        found: char,
        /// Its place in the input.
        column: usize,
    },
    /// An upper-case letter in the repository.
    #[error("{found:?} at column {column}: the repository must be lowercase, write {:?}", found.to_ascii_lowercase())]
    Uppercase {
        /// The letter.
        found: char,
        /// Its place in the input.
        column: usize,
    },
    /// `.`, `_`, `__` or dashes that do not stand between letters or digits.
    #[error(
        "the separator at column {column} is misplaced: one `.`, `_` or `__`, or dashes, may stand \
         between two letters or digits of the repository"
    )]
    Separator {
        /// Place of the separator in the input.
        column: usize,
    },
    /// Nothing before, between or after slashes.
    #[error(
        "the repository has an empty segment at column {column}: remove the extra `/`, or name it"
    )]
    EmptySegment {
        /// Where the segment should start.
        column: usize,
    },
    /// The repository is longer than distribution allows.
    #[error(
        "the repository is {length} bytes long, {max} are allowed: shorten it",
        max = grammar::REPOSITORY_BYTES_MAX
    )]
    RepositoryTooLong {
        /// Its length, `library/` included.
        length: usize,
    },
    /// A `:` with nothing behind it.
    #[error("the tag after `:` is empty: write one, or drop the `:`")]
    EmptyTag,
    /// The tag is longer than distribution allows.
    #[error("the tag is {length} bytes long, {max} are allowed: shorten it", max = grammar::TAG_BYTES_MAX)]
    TagTooLong {
        /// Its length.
        length: usize,
    },
    /// The part behind `@` has no known algorithm.
    #[error("the digest after `@` must start with `sha256:`, `sha384:` or `sha512:`")]
    DigestAlgorithm,
    /// The digest is too long or too short for its algorithm.
    #[error(
        "the digest has {found} characters after `:`, its algorithm has {expected}: copy it whole"
    )]
    DigestLength {
        /// What the algorithm asks for.
        expected: usize,
        /// What is there.
        found: usize,
    },
}

/// A part of a reference, for [`ParseImageError::Character`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// What stands before the first `/`.
    Registry,
    /// The path below the registry.
    Repository,
    /// What follows `:`.
    Tag,
    /// What follows `@`.
    Digest,
}

impl Part {
    fn alphabet(self) -> &'static str {
        match self {
            Self::Registry => "use letters, digits, `-`, `.` and `:` before the port",
            Self::Repository => "use a-z, 0-9, `.`, `_`, `-` and `/`",
            Self::Tag => "use letters, digits, `_`, `.` and `-`, the last two not first",
            Self::Digest => "use 0-9 and a-f",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "registry",
            Self::Repository => "repository",
            Self::Tag => "tag",
            Self::Digest => "digest",
        })
    }
}

/// What is malformed about a registry, for [`ParseImageError::Registry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryPart {
    /// A label between dots: empty, or with a dash at an end.
    Label,
    /// The port: empty, or not digits only.
    Port,
    /// The address in brackets: empty, with other characters than hexadecimal digits and `:`, or
    /// without the closing bracket.
    Address,
}

impl fmt::Display for RegistryPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Label => "host",
            Self::Port => "port",
            Self::Address => "[address]",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageRef, ParseImageError, Part, RegistryPart};

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(input: &str, name: &str, registry: Option<&str>, familiar: &str) {
        let image = ImageRef::parse(input).expect(input);
        assert_eq!(image.to_string(), name, "{input}");
        assert_eq!(image.registry(), registry, "{input}");
        assert_eq!(image.familiar(), familiar, "{input}");
        let repository = match registry {
            Some(registry) => name
                .strip_prefix(registry)
                .and_then(|r| r.strip_prefix('/')),
            None => Some(name),
        };
        assert_eq!(Some(&*image.repository()), repository, "{input}");
    }

    fn check_error(input: &str, expected: ParseImageError) {
        assert_eq!(ImageRef::parse(input), Err(expected), "{input}");
    }

    fn check_message(input: &str, expected: &str) {
        let error = ImageRef::parse(input).expect_err(input).to_string();
        assert!(
            error.contains(expected),
            "{input}: {error:?} lacks {expected:?}"
        );
    }

    #[test]
    fn names_are_normalised_to_docker_hub() {
        let hub = Some("docker.io");
        check("nginx", "docker.io/library/nginx", hub, "nginx");
        check("library/nginx", "docker.io/library/nginx", hub, "nginx");
        check("docker.io/nginx", "docker.io/library/nginx", hub, "nginx");
        check(
            "index.docker.io/nginx",
            "docker.io/library/nginx",
            hub,
            "nginx",
        );
        check("acme/app", "docker.io/acme/app", hub, "acme/app");
        check("library/a/b", "docker.io/library/a/b", hub, "library/a/b");
        check("quay.io", "docker.io/library/quay.io", hub, "quay.io");
        check(
            "localhost:5000",
            "docker.io/library/localhost",
            hub,
            "localhost",
        );
        check("1.2.3.4:80", "docker.io/library/1.2.3.4", hub, "1.2.3.4");
    }

    #[test]
    fn registries_are_kept_as_written() {
        let check = |name: &str, registry| check(name, name, registry, name);
        check("r.io/app", Some("r.io"));
        check("R.io/app", Some("R.io"));
        check("UPPER/app", Some("UPPER"));
        check("localhost/app", Some("localhost"));
        check("localhost:5000/a/b", Some("localhost:5000"));
        check("r.io:05000/app", Some("r.io:05000"));
        check("[::1]:5000/app", Some("[::1]:5000"));
        check("docker.io:443/nginx", Some("docker.io:443"));
        check("Docker.io/nginx", Some("Docker.io"));
        check("index.docker.io:443/nginx", Some("index.docker.io:443"));
        check("a_b.com/app", None);
    }

    #[test]
    fn tag_and_digest_are_kept_and_never_defaulted() {
        let digest = format!("sha256:{HEX}");
        let check = |suffix: &str, tag, digest| {
            let input = format!("r.io/app{suffix}");
            let image = ImageRef::parse(&input).expect(&input);
            assert_eq!((image.tag(), image.digest()), (tag, digest), "{input}");
        };
        check("", None, None);
        check(":1", Some("1"), None);
        check(&format!("@{digest}"), None, Some(&digest));
        check(&format!(":A.b-c@{digest}"), Some("A.b-c"), Some(&digest));
        let sha512 = format!("sha512:{HEX}{HEX}");
        check(&format!("@{sha512}"), None, Some(&sha512));
    }

    #[test]
    fn the_length_limit_counts_the_repository_only() {
        let fits = |input: String| assert!(ImageRef::parse(&input).is_ok(), "{input}");
        let does_not = |input: String, length| {
            check_error(&input, ParseImageError::RepositoryTooLong { length });
        };
        fits("a".repeat(247));
        does_not("a".repeat(248), 256);
        fits(format!("r.io/{}", "a".repeat(255)));
        does_not(format!("r.io/{}", "a".repeat(256)), 256);
        fits(format!("{}.io/a", "x".repeat(300)));
        does_not(format!("a_b.com/{}", "a".repeat(248)), 256);
        fits(format!("a:{}", "t".repeat(128)));
        check_error(
            &format!("a:{}", "t".repeat(129)),
            ParseImageError::TagTooLong { length: 129 },
        );
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        let character = |part, found, column| ParseImageError::Character {
            part,
            found,
            column,
        };
        check_error("", ParseImageError::Empty);
        check_error(HEX, ParseImageError::ImageId);
        check_error("https://r.io/app", ParseImageError::Scheme);
        check_error(
            "r.io/App",
            ParseImageError::Uppercase {
                found: 'A',
                column: 6,
            },
        );
        check_error(
            "index.docker.io/aB",
            ParseImageError::Uppercase {
                found: 'B',
                column: 18,
            },
        );
        check_error("r.io//a", ParseImageError::EmptySegment { column: 6 });
        check_error("r.io/a/", ParseImageError::EmptySegment { column: 8 });
        check_error("/a", ParseImageError::EmptySegment { column: 1 });
        check_error("a___b", ParseImageError::Separator { column: 4 });
        check_error("r.io/a-", ParseImageError::Separator { column: 7 });
        check_error("r.io/.a", ParseImageError::Separator { column: 6 });
        check_error("r.io/a\n", character(Part::Repository, '\n', 7));
        check_error(" r.io/a", character(Part::Registry, ' ', 1));
        check_error("r.io/ä", character(Part::Repository, 'ä', 6));
        check_error(
            "-a.io/b",
            ParseImageError::Registry {
                part: RegistryPart::Label,
            },
        );
        check_error(
            "r.io:/b",
            ParseImageError::Registry {
                part: RegistryPart::Port,
            },
        );
        check_error(
            "[::g]/b",
            ParseImageError::Registry {
                part: RegistryPart::Address,
            },
        );
        check_error("r.io/a:", ParseImageError::EmptyTag);
        check_error("r.io/a:.b", character(Part::Tag, '.', 8));
        check_error("r.io/a:b:c", character(Part::Tag, ':', 9));
        check_error("a@md5:0", ParseImageError::DigestAlgorithm);
        check_error(
            "a@sha256:",
            ParseImageError::DigestLength {
                expected: 64,
                found: 0,
            },
        );
        check_error(
            &format!("a:1@sha256:{HEX}A"),
            character(Part::Digest, 'A', 76),
        );
        assert_eq!(
            ImageRef::parse_bytes(b"r.io/\xff"),
            Err(ParseImageError::NotUtf8 { byte: 6 })
        );
    }

    #[test]
    fn messages_say_how_to_fix() {
        check_message(
            "r.io/App",
            "'A' at column 6: the repository must be lowercase, write 'a'",
        );
        check_message("r.io:x/a", "`port` before the first `/` is malformed");
        check_message("oci://r.io/a", "drop everything up to and including `://`");
        check_message(
            "a b",
            "' ' at column 2 is not allowed in the repository: use a-z, 0-9",
        );
    }
}

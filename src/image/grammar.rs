//! The grammar of references: distribution/reference `regexp.go`, with go-digest's check of digests.
//!
//! It has no ambiguity once the text is cut at the first `/`, `@` and `:`, so one pass over each part
//! decides, and knows the offending character. This file must not normalise anything.

use super::{ParseImageError, Part, RegistryPart};

/// distribution's `RepositoryNameTotalLengthMax`; the registry does not count.
pub(super) const REPOSITORY_BYTES_MAX: usize = 255;

/// One character and up to 127 more (distribution's `tag` expression).
pub(super) const TAG_BYTES_MAX: usize = 128;

/// The algorithms that the kubelet links into go-digest, with the length of their hexadecimal form.
const DIGEST_ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

pub(super) fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// What keeps `host` from being a registry: domain name, IPv4 address or bracketed IPv6 address, with
/// an optional port. No range is checked: `[:::]` and port `99999` are fine, as they are there.
pub(super) fn registry_defect(host: &str) -> Option<RegistryPart> {
    let (is_host_good, malformed, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').unwrap_or_default();
            (is_address(address), RegistryPart::Address, port)
        }
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            (name.split('.').all(is_label), RegistryPart::Label, port)
        }
    };
    let is_port_good = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    match (is_host_good, is_port_good) {
        (false, _) => Some(malformed),
        (true, false) => Some(RegistryPart::Port),
        (true, true) => None,
    }
}

fn is_address(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
}

fn is_label(label: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !label.is_empty()
        && label.bytes().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Why `host`, followed by `/` and `rest`, is neither a registry nor the start of a repository.
pub(super) fn registry_error(defect: RegistryPart, host: &str, rest: &str) -> ParseImageError {
    if host.ends_with(':') && rest.starts_with('/') {
        return ParseImageError::Scheme;
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
    match host.chars().enumerate().find(|(_, c)| !allowed(*c)) {
        Some((index, found)) => ParseImageError::Character {
            part: Part::Registry,
            found,
            column: index + 1,
        },
        None => ParseImageError::Registry { part: defect },
    }
}

/// Checks the segments of a repository, which starts at `column` of the input.
pub(super) fn check_path(path: &str, column: usize) -> Result<(), ParseImageError> {
    let mut column = column;
    for segment in path.split('/') {
        check_segment(segment, column)?;
        column += segment.len() + 1;
    }
    Ok(())
}

/// Checks one segment: runs of `a-z0-9`, joined by `.`, `_`, `__` or dashes.
pub(super) fn check_segment(segment: &str, column: usize) -> Result<(), ParseImageError> {
    let mut previous = None;
    let mut repeated = false;
    for (index, found) in segment.chars().enumerate() {
        let column = column + index;
        match found {
            'a'..='z' | '0'..='9' => {}
            '.' | '_' | '-' => {
                let again = previous == Some(found);
                let joins = match previous {
                    None => false,
                    Some('.' | '_' | '-') => again && (found == '-' || found == '_' && !repeated),
                    Some(_) => true,
                };
                if !joins {
                    return Err(ParseImageError::Separator { column });
                }
                repeated = again;
            }
            'A'..='Z' => return Err(ParseImageError::Uppercase { found, column }),
            _ => {
                return Err(ParseImageError::Character {
                    part: Part::Repository,
                    found,
                    column,
                });
            }
        }
        previous = Some(found);
    }
    match previous {
        None => Err(ParseImageError::EmptySegment { column }),
        Some('.' | '_' | '-') => Err(ParseImageError::Separator {
            column: column + segment.len() - 1,
        }),
        Some(_) => Ok(()),
    }
}

/// Checks a tag, which starts at `column` of the input.
pub(super) fn check_tag(tag: &str, column: usize) -> Result<(), ParseImageError> {
    let allowed = |index: usize, c: char| match c {
        '.' | '-' => index > 0,
        _ => c.is_ascii_alphanumeric() || c == '_',
    };
    if tag.is_empty() {
        return Err(ParseImageError::EmptyTag);
    }
    match tag.chars().enumerate().find(|(i, c)| !allowed(*i, *c)) {
        Some((index, found)) => Err(ParseImageError::Character {
            part: Part::Tag,
            found,
            column: column + index,
        }),
        None if tag.len() > TAG_BYTES_MAX => Err(ParseImageError::TagTooLong { length: tag.len() }),
        None => Ok(()),
    }
}

/// Checks a digest, which starts at `column` of the input.
pub(super) fn check_digest(digest: &str, column: usize) -> Result<(), ParseImageError> {
    let known = digest.split_once(':').and_then(|(algorithm, hex)| {
        let (_, length) = DIGEST_ALGORITHMS.iter().find(|(a, _)| *a == algorithm)?;
        Some((hex, *length))
    });
    let Some((hex, expected)) = known else {
        return Err(ParseImageError::DigestAlgorithm);
    };
    let hex_column = column + digest.len() - hex.len();
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    match hex.chars().enumerate().find(|(_, c)| !is_hex(*c)) {
        Some((index, found)) => Err(ParseImageError::Character {
            part: Part::Digest,
            found,
            column: hex_column + index,
        }),
        None if hex.len() != expected => Err(ParseImageError::DigestLength {
            expected,
            found: hex.len(),
        }),
        None => Ok(()),
    }
}

//! What Go's `net/url` and `net` make of a registry key, as far as the kubelet asks them.
//!
//! Truth is Go 1.26 with its default settings (one colon in a host, brackets only around IPv6). A
//! parsed host may hold any byte from 0x80 up, so everything here is bytes. This file must not know
//! what the kubelet does with the result.

use std::net::Ipv6Addr;

/// Host (with port) and decoded path of a URL. User info, query and fragment are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: Vec<u8>,
    pub(super) path: Vec<u8>,
}

/// `url.Parse("https://" + text)`; `None` where it fails. `http://` gives the same answers.
pub(super) fn parse(text: &[u8]) -> Option<Url> {
    let (url, fragment) = cut(text, b'#');
    decode(fragment.unwrap_or_default(), &ANY)?;
    // The check for control characters does not see the fragment.
    if url.iter().any(u8::is_ascii_control) {
        return None;
    }
    let (url, _query) = cut(url, b'?');
    let slash = url.iter().position(|b| *b == b'/').unwrap_or(url.len());
    let (authority, path) = url.split_at(slash);

    let (user_info, host) = match authority.iter().rposition(|b| *b == b'@') {
        Some(at) => (authority.get(..at)?, authority.get(at + 1..)?),
        None => (&[][..], authority),
    };
    if !user_info.iter().all(|b| is_user_info(*b)) {
        return None;
    }
    decode(user_info, &ANY)?;
    Some(Url {
        host: parse_host(host)?,
        path: decode(path, &ANY)?,
    })
}

/// `net.SplitHostPort`; where that fails, the whole text is the host, as in the kubelet's `SplitURL`.
pub(super) fn split_host_port(text: &[u8]) -> (&[u8], &[u8]) {
    try_split_host_port(text).unwrap_or((text, &[]))
}

fn try_split_host_port(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().rposition(|b| *b == b':')?;
    let (host, port) = (text.get(..colon)?, text.get(colon + 1..)?);
    let host = match host.strip_prefix(b"[") {
        Some(address) => address.strip_suffix(b"]")?,
        None if host.contains(&b':') => return None,
        None => host,
    };
    let has_bracket = |part: &[u8]| part.iter().any(|b| matches!(b, b'[' | b']'));
    (!has_bracket(host) && !has_bracket(port)).then_some((host, port))
}

/// Whether an address between brackets is one that Go accepts there: IPv6, also with an embedded IPv4
/// address, also with a zone.
pub(super) fn is_ipv6(address: &[u8]) -> bool {
    let (address, zone) = cut(address, b'%');
    zone.is_none_or(|zone| !zone.is_empty())
        && str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

fn parse_host(host: &[u8]) -> Option<Vec<u8>> {
    match host.iter().rposition(|b| *b == b'[') {
        Some(0) => parse_ip_literal(host),
        Some(_) => None,
        None => {
            let (_, port) = cut(host, b':');
            port.is_none_or(is_port).then_some(())?;
            decode(host, &HOST)
        }
    }
}

/// `[address]` or `[address%25zone]`, with an optional port.
fn parse_ip_literal(host: &[u8]) -> Option<Vec<u8>> {
    let close = host.iter().rposition(|b| *b == b']')?;
    let (address, port) = (host.get(1..close)?, host.get(close + 1..)?);
    if !port.is_empty() && !port.strip_prefix(b":").is_some_and(is_port) {
        return None;
    }
    let zone = address.windows(3).position(|w| w == b"%25");
    let (address, zone) = address.split_at(zone.unwrap_or(address.len()));
    let mut literal = decode(address, &HOST)?;
    literal.extend(decode(zone, &ZONE)?);
    is_ipv6(&literal).then(|| [b"[", literal.as_slice(), b"]", port].concat())
}

fn is_port(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit)
}

/// Which bytes a part of a URL may hold as they are, and which as `%XX`.
struct Alphabet {
    plain: fn(u8) -> bool,
    escaped: fn(u8) -> bool,
}

/// Paths, fragments, user info: anything goes.
const ANY: Alphabet = Alphabet {
    plain: |_| true,
    escaped: |_| true,
};

/// Hosts: only bytes beyond ASCII may be escaped, and the percent sign itself.
const HOST: Alphabet = Alphabet {
    plain: |b| !b.is_ascii() || is_host(b),
    escaped: |b| !b.is_ascii() || b == b'%',
};

/// Zones of IPv6 addresses: what a host may hold, the percent sign and the space may be escaped.
const ZONE: Alphabet = Alphabet {
    plain: |b| !b.is_ascii() || is_host(b),
    escaped: |b| is_host(b) || matches!(b, b'%' | b' '),
};

fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~".contains(&byte)
}

fn is_user_info(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)
}

/// Decodes `%XX`; `None` for an incomplete escape or a byte outside of `alphabet`.
fn decode(text: &[u8], alphabet: &Alphabet) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            (alphabet.plain)(byte).then_some(())?;
            decoded.push(byte);
            continue;
        }
        let (high, low) = (bytes.next()?, bytes.next()?);
        let byte = hex(*high)? << 4 | hex(*low)?;
        (alphabet.escaped)(byte).then_some(())?;
        decoded.push(byte);
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What stands before and after the first `separator`.
fn cut(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|b| *b == separator) {
        Some(at) => (text.get(..at).unwrap_or(text), text.get(at + 1..)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::{Url, is_ipv6, parse, split_host_port};

    fn check(text: &str, expected: Option<(&str, &str)>) {
        let expected = expected.map(|(host, path)| Url {
            host: host.into(),
            path: path.into(),
        });
        assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
    }

    #[test]
    fn urls_are_parsed_as_go_does() {
        check("", Some(("", "")));
        check("r.io", Some(("r.io", "")));
        check("r.io/a%2Fb c", Some(("r.io", "/a/b c")));
        check("R.io:/v1/", Some(("R.io:", "/v1/")));
        check("u:p@r.io?q#f", Some(("r.io", "")));
        check("a@b@r.io", Some(("r.io", "")));
        check("u p@r.io", None);
        check("u%zz@r.io", None);
        check("r.io/%zz", None);
        check("r.io#%zz", None);
        check("r.io#\n", Some(("r.io", "")));
        check("r.io\n", None);
        check("r.io\u{7f}", None);
        check("r io", None);
        check("r.io:*", None);
        check("r.io:1:2", None);
        check("r%41.io", None);
        check("r%25.io", Some(("r%.io", "")));
        check("r%C3%A4.io", Some(("rä.io", "")));
        check("rä.io", Some(("rä.io", "")));
        check("r[a-z].io", None);
        check("r].io", Some(("r].io", "")));
        check("[::1]:5000/x", Some(("[::1]:5000", "/x")));
        check("[::1]x", None);
        check("[1.2.3.4]", None);
        check("[fe80::1%25en0]", Some(("[fe80::1%en0]", "")));
        check("[fe80::1%25%20]", Some(("[fe80::1% ]", "")));
        check("[fe80::1%25%80]", None);
        check("[fe80::1%25]", None);
        check("[fe80::1%en0]", None);
    }

    #[test]
    fn hosts_and_ports_are_split_as_go_does() {
        let check = |text: &str, host: &str, port: &str| {
            let expected = (host.as_bytes(), port.as_bytes());
            assert_eq!(split_host_port(text.as_bytes()), expected, "{text:?}");
        };
        check("r.io", "r.io", "");
        check("r.io:", "r.io", "");
        check("r.io:05000", "r.io", "05000");
        check("[::1]:5000", "::1", "5000");
        check("[::1]", "[::1]", "");
        check("::1", "::1", "");
        check("r].io:5", "r].io:5", "");
    }

    #[test]
    fn ipv6_addresses_are_told_apart_as_go_does() {
        let check = |text: &str, expected| assert_eq!(is_ipv6(text.as_bytes()), expected, "{text}");
        check("::", true);
        check("1:2:3:4:5:6:7:8", true);
        check("1:2:3:4:5:6:7::", true);
        check("1:2:3:4::5:6:7:8", false);
        check("::ffff:1.2.3.4", true);
        check("::ffff:1.2.3.04", false);
        check("12345::", false);
        check("1::2::3", false);
        check("1234", false);
        check("::1%z", true);
        check("::1%", false);
    }
}

//! `filepath.Match`, as far as a host label can reach it.
//!
//! Go's URL parser lets neither `\` nor `?` nor `^` into a host, and `[` only as its first character,
//! around an IPv6 address: what remains are `*`, plain bytes, and the odd case that Go reads such an
//! address as a set of characters. This file must not know where labels come from.

/// A compiled pattern for one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`: any run of characters.
    Star,
    /// This byte.
    Byte(u8),
    /// `[…]`: one character in one of these ranges.
    Class(Vec<(char, char)>),
}

impl Token {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Self::Star => false,
            Self::Byte(own) => *own == byte,
            Self::Class(ranges) => {
                let found = char::from(byte);
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&found))
            }
        }
    }
}

impl Glob {
    /// Compiles a pattern. `None` if nothing can match it: Go reports it as malformed, or it is not
    /// UTF-8, which the ASCII labels of image references never equal.
    pub(super) fn new(pattern: &[u8]) -> Option<Self> {
        let mut rest = str::from_utf8(pattern).ok()?.chars();
        let mut tokens = Vec::with_capacity(pattern.len());
        while let Some(next) = rest.next() {
            match next {
                '*' => tokens.push(Token::Star),
                '[' => tokens.push(Token::Class(class(&mut rest)?)),
                _ => {
                    let mut utf8 = [0; 4];
                    let bytes = next.encode_utf8(&mut utf8).bytes();
                    tokens.extend(bytes.map(Token::Byte));
                }
            }
        }
        Some(Self { tokens })
    }

    /// Whether the whole of `label`, which is ASCII, matches. Takes at most pattern times label steps.
    pub(super) fn matches(&self, label: &[u8]) -> bool {
        let (mut token, mut byte) = (0, 0);
        // Where to go on after a dead end: behind the last star, one byte further.
        let mut retry = None;
        loop {
            match (self.tokens.get(token), label.get(byte)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    token += 1;
                    retry = Some((token, byte));
                    continue;
                }
                (Some(own), Some(found)) if own.matches(*found) => {
                    token += 1;
                    byte += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((after_star, start)) if start < label.len() => {
                    (token, byte) = (after_star, start + 1);
                    retry = Some((token, byte));
                }
                _ => return false,
            }
        }
    }
}

/// The ranges up to the closing bracket. A bracket or dash where a character should be is malformed,
/// and so is a class that does not end.
fn class(rest: &mut std::str::Chars<'_>) -> Option<Vec<(char, char)>> {
    let mut ranges = Vec::new();
    loop {
        let low = match rest.next()? {
            ']' if !ranges.is_empty() => return Some(ranges),
            ']' | '-' => return None,
            low => low,
        };
        let mut high = low;
        let mut ahead = rest.clone();
        if ahead.next() == Some('-') {
            high = ahead.next().filter(|c| !matches!(c, ']' | '-'))?;
            *rest = ahead;
        }
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    fn check(pattern: &str, label: &str, expected: bool) {
        let matched = Glob::new(pattern.as_bytes()).is_some_and(|g| g.matches(label.as_bytes()));
        assert_eq!(matched, expected, "{pattern:?} on {label:?}");
    }

    #[test]
    fn stars_match_any_run() {
        check("", "", true);
        check("*", "", true);
        check("*", "abc", true);
        check("a*", "abc", true);
        check("*c", "abc", true);
        check("a*c", "abc", true);
        check("a*b*c", "axxbxxbc", true);
        check("**", "x", true);
        check("*b", "abc", false);
        check("a", "", false);
        check("", "a", false);
        check("A", "a", false);
    }

    #[test]
    fn bracketed_addresses_are_character_classes() {
        check("[::1]", "1", true);
        check("[::1]", "[::1]", false);
        check("[::A]", "A", true);
        check("[fe80::1%1-Z]", "Q", true);
        check("[::1%*]", "*", true);
        check("[::1", "1", false);
        check("[]a]", "a", false);
        check("[a-]", "a", false);
        check("[a--]", "a", false);
    }

    #[test]
    fn many_stars_do_not_explode() {
        let (pattern, label) = ("*a".repeat(2_000), "a".repeat(4_000));
        check(&format!("{pattern}b"), &label, false);
        check(&pattern, &label, true);
    }
}

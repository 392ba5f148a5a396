//! JSON with the habits of Go's `encoding/json`, which differ from those of every JSON crate: invalid
//! UTF-8 and lone surrogates become U+FFFD, one for each byte or escape; names match in any case; the
//! depth limit is 10,000; a syntax error anywhere wins over every other error.
//!
//! Like Go, it reads twice: [`validate`] decides alone whether the text is JSON, then a [`Reader`]
//! walks over text that is known to be good. Both are flat loops, so depth costs no stack. This file
//! must not know what the documents mean, and errors show no byte of them.

mod syntax;

use syntax::Scanner;

pub use syntax::JsonProblem;
pub(super) use syntax::validate;

/// The kind of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonKind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Boolean,
    /// `null`
    Null,
}

impl std::fmt::Display for JsonKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Null => "null",
        })
    }
}

/// Walks over text that [`validate`] has accepted; what it does on other text is unspecified, but it
/// ends and does not panic. A clone looks ahead.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    scanner: Scanner<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            scanner: Scanner { text, at: 0 },
        }
    }

    /// Steps up to the next value and tells its kind and byte offset.
    pub(super) fn kind(&mut self) -> (JsonKind, usize) {
        self.scanner.skip_space();
        let kind = match self.scanner.peek() {
            Some(b'{') => JsonKind::Object,
            Some(b'[') => JsonKind::Array,
            Some(b'"') => JsonKind::String,
            Some(b't' | b'f') => JsonKind::Boolean,
            Some(b'-' | b'0'..=b'9') => JsonKind::Number,
            _ => JsonKind::Null,
        };
        (kind, self.scanner.at)
    }

    /// Reads the object that comes next. `field` gets each name, and must read or skip its value.
    pub(super) fn object<E>(
        &mut self,
        mut field: impl FnMut(&mut Self, String) -> Result<(), E>,
    ) -> Result<(), E> {
        self.scanner.at += 1;
        loop {
            self.scanner.skip_space();
            match self.scanner.peek() {
                Some(b'"') => {
                    let name = self.string();
                    self.scanner.skip_space();
                    self.scanner.at += 1;
                    field(self, name)?;
                }
                Some(b',') => self.scanner.at += 1,
                _ => {
                    self.scanner.at += 1;
                    return Ok(());
                }
            }
        }
    }

    /// Reads the string that comes next.
    pub(super) fn string(&mut self) -> String {
        let start = self.scanner.at + 1;
        self.skip();
        let end = self.scanner.at.saturating_sub(1);
        unquote(self.scanner.text.get(start..end).unwrap_or_default())
    }

    /// Steps over the value that comes next.
    pub(super) fn skip(&mut self) {
        let mut depth = 0_usize;
        loop {
            self.scanner.skip_space();
            match self.scanner.peek() {
                None => return,
                Some(b'{' | b'[') => {
                    self.scanner.at += 1;
                    depth += 1;
                }
                Some(b'}' | b']') => {
                    self.scanner.at += 1;
                    depth = depth.saturating_sub(1);
                }
                Some(b',' | b':') => self.scanner.at += 1,
                // A literal; it cannot fail in text that was validated.
                Some(_) => {
                    if self.scanner.value_start().is_err() {
                        return;
                    }
                }
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Whether an object's `name` means the field `field` (ASCII) to Go: equal up to simple Unicode case
/// folding, under which two letters beyond ASCII are an S and a K.
pub(super) fn is_field(name: &str, field: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        _ => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(field.chars().map(fold))
}

/// The text of a string literal, given what stands between its quotes.
fn unquote(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(backslash) = rest.iter().position(|b| *b == b'\\') {
        let (plain, escape) = rest.split_at(backslash);
        push_lossy(&mut text, plain);
        rest = push_escape(&mut text, escape);
    }
    push_lossy(&mut text, rest);
    text
}

/// Appends bytes as Go turns them into text: U+FFFD for each byte that is not part of a character.
pub(super) fn push_lossy(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
}

/// Appends what the escape at the start of `escape` stands for, and gives what follows it.
fn push_escape<'a>(text: &mut String, escape: &'a [u8]) -> &'a [u8] {
    if let Some((unit, rest)) = utf16_unit(escape) {
        if let Some((low, after)) = utf16_unit(rest)
            && let Some(Ok(pair)) = char::decode_utf16([unit, low]).next()
            && pair > '\u{FFFF}'
        {
            text.push(pair);
            return after;
        }
        text.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
        return rest;
    }
    let (letter, rest) = match escape {
        [_, letter, rest @ ..] => (*letter, rest),
        _ => return &[],
    };
    text.push(match letter {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        other => char::from(other),
    });
    rest
}

/// Reads `\uXXXX` from the start of `escape`.
fn utf16_unit(escape: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = escape.strip_prefix(b"\\u")?.split_at_checked(4)?;
    let unit = u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some((unit, rest))
}

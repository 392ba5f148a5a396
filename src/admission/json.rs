//! Reading JSON that may be anything: in one pass, without building it, borrowing what is kept.
//!
//! A value of the wrong type counts as absent and a later duplicate key replaces an earlier one, as in
//! Go; so a hostile body does not turn into an error answer, and that not into a refused Pod.
//!
//! Nine bytes in ten are skipped, and skipping them is most of the work of an admission: serde_json
//! takes four times as many instructions for it. What is skipped is still checked. Everything that
//! serde_json reads into a `Value` is read here, and besides only what has no meaning for us: nesting
//! of any depth, numbers beyond a float, and, in skipped text, bytes that are not UTF-8 and halves of
//! surrogate pairs. `fuzz/` holds this file to that. It must not know what is read.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Why a text is not JSON: where reading it ended. Holds no byte of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON (line {line}, column {column})")]
pub struct NotJson {
    /// 1-based line.
    pub line: usize,
    /// 1-based column of the offending byte; of the last byte, where the text ends too early.
    pub column: usize,
}

/// Reads all of `text` with `value`.
///
/// # Errors
/// [`NotJson`].
pub(super) fn read<'a, T>(
    text: &'a [u8],
    value: impl FnOnce(&mut Reader<'a>) -> Read<T>,
) -> Result<T, NotJson> {
    let mut reader = Reader { rest: text };
    let value = value(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|Malformed| {
        let read = text.split_at(text.len() - reader.rest.len()).0;
        let mut lines = read.rsplit(|byte| *byte == b'\n');
        NotJson {
            column: lines.next().map_or(0, <[u8]>::len),
            line: lines.count() + 1,
        }
    })
}

/// The byte before the reader's place, or the end of the text, is not what JSON allows there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Malformed;

pub(super) type Read<T> = Result<T, Malformed>;

/// What stood where an array was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Array {
    /// An array, possibly without elements.
    Present,
    Null,
    WrongType,
}

/// Closes no array or object, as no byte zero does.
const NOTHING: u8 = 0;

/// A place in a JSON text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a value: calls `field` for each key of an object, and it must read the key's value.
    /// Any other value is skipped. Whether it was an object.
    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(Cow<'a, [u8]>, &mut Self) -> Read<()>,
    ) -> Read<bool> {
        if self.peek()? != b'{' {
            return self.skip().map(|()| false);
        }
        self.byte()?;
        if self.peek()? == b'}' {
            return self.byte().map(|_| true);
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            field(key, self)?;
            match self.token()? {
                b',' => {}
                b'}' => return Ok(true),
                _ => return Err(Malformed),
            }
        }
    }

    /// Reads a value: calls `element` at each element of an array, and it must read it. Any other value
    /// is skipped.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Read<()>) -> Read<Array> {
        match self.peek()? {
            b'[' => self.byte()?,
            b'n' => return self.skip().map(|()| Array::Null),
            _ => return self.skip().map(|()| Array::WrongType),
        };
        if self.peek()? == b']' {
            return self.byte().map(|_| Array::Present);
        }
        loop {
            element(self)?;
            match self.token()? {
                b',' => {}
                b']' => return Ok(Array::Present),
                _ => return Err(Malformed),
            }
        }
    }

    /// Reads a value: a string, borrowed unless it has an escape; `None` from anything else.
    pub(super) fn text(&mut self) -> Read<Option<Cow<'a, str>>> {
        if self.peek()? != b'"' {
            return self.skip().map(|()| None);
        }
        self.string().and_then(utf8).map(Some)
    }

    /// Reads a value that nobody asked for.
    pub(super) fn skip(&mut self) -> Read<()> {
        // A place of its own stays in registers, which halves the instructions.
        let mut here = Self { rest: self.rest };
        let skipped = here.skip_value();
        self.rest = here.rest;
        skipped
    }

    #[inline(always)]
    fn skip_value(&mut self) -> Read<()> {
        // What closes the array or object that the place is in, and those around it. Not recursive: the
        // depth is the sender's choice.
        let mut close = NOTHING;
        let mut around: SmallVec<[u8; 64]> = SmallVec::new();
        loop {
            match self.token()? {
                b'"' => self.skip_string()?,
                b'{' if self.peek()? != b'}' => {
                    around.push(close);
                    close = b'}';
                    self.skip_key()?;
                    continue;
                }
                b'[' if self.peek()? != b']' => {
                    around.push(close);
                    close = b']';
                    continue;
                }
                b'{' | b'[' => drop(self.byte()?),
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                first => self.number(first)?,
            }
            // After a value: the next one, or the ends of what it is in.
            loop {
                if close == NOTHING {
                    return Ok(());
                }
                let next = self.token()?;
                if next == close {
                    close = around.pop().unwrap_or(NOTHING);
                } else if next != b',' {
                    return Err(Malformed);
                } else if close == b'}' {
                    self.skip_key()?;
                    break;
                } else {
                    break;
                }
            }
        }
    }

    #[inline(always)]
    fn skip_key(&mut self) -> Read<()> {
        self.expect(b'"')?;
        self.skip_string()?;
        self.expect(b':')
    }

    /// Reads a string, quotes and all.
    fn string(&mut self) -> Read<Cow<'a, [u8]>> {
        self.peek()?;
        let literal = self.rest;
        self.expect(b'"')?;
        let content = self.rest;
        self.skip_plain();
        if self.rest.first() == Some(&b'"') {
            let (content, rest) = content.split_at(content.len() - self.rest.len());
            self.rest = rest.get(1..).unwrap_or_default();
            return Ok(Cow::Borrowed(content));
        }
        self.skip_string()?;
        // Escapes are rare enough to leave them to serde_json.
        let (literal, _) = literal.split_at(literal.len() - self.rest.len());
        let text: String = serde_json::from_slice(literal).map_err(|_| Malformed)?;
        Ok(Cow::Owned(text.into_bytes()))
    }

    /// Skips the rest of a string and its closing quote.
    #[inline(always)]
    fn skip_string(&mut self) -> Read<()> {
        loop {
            self.skip_plain();
            match self.byte()? {
                b'"' => return Ok(()),
                b'\\' => match self.byte()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            if !self.byte()?.is_ascii_hexdigit() {
                                return Err(Malformed);
                            }
                        }
                    }
                    _ => return Err(Malformed),
                },
                _ => return Err(Malformed), // A control character.
            }
        }
    }

    /// Skips what stands for itself in a string: all but quotes, backslashes and control characters.
    #[inline(always)]
    fn skip_plain(&mut self) {
        while let Some((word, rest)) = self.rest.split_first_chunk() {
            let special = special_bytes(u64::from_le_bytes(*word));
            if special != 0 {
                let plain = special.trailing_zeros() as usize / 8;
                self.rest = self.rest.get(plain..).unwrap_or_default();
                return;
            }
            self.rest = rest;
        }
        while let Some((b' '..=b'!' | b'#'..=b'[' | b']'.., rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    /// Skips a number, of which `first` is read already.
    fn number(&mut self, first: u8) -> Read<()> {
        let first = if first == b'-' { self.byte()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.skip_digits(),
            _ => return Err(Malformed),
        }
        if self.rest.first() == Some(&b'.') {
            self.byte()?;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.rest.first() {
            self.byte()?;
            if let Some(b'+' | b'-') = self.rest.first() {
                self.byte()?;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one digit or more.
    fn digits(&mut self) -> Read<()> {
        if !self.byte()?.is_ascii_digit() {
            return Err(Malformed);
        }
        self.skip_digits();
        Ok(())
    }

    fn skip_digits(&mut self) {
        while let Some((b'0'..=b'9', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    fn literal(&mut self, expected: &[u8]) -> Read<()> {
        for byte in expected {
            if self.byte()? != *byte {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Read<()> {
        match self.token() {
            Ok(_) => Err(Malformed),
            Err(Malformed) => Ok(()),
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.token()? == byte {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Skips white space; the byte after it, which is not read yet.
    fn peek(&mut self) -> Read<u8> {
        while let Some((b' ' | b'\n' | b'\t' | b'\r', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        self.rest.first().copied().ok_or(Malformed)
    }

    /// Skips white space and reads the byte after it.
    #[inline(always)]
    fn token(&mut self) -> Read<u8> {
        loop {
            match self.byte()? {
                byte if byte > b' ' => return Ok(byte),
                b' ' | b'\n' | b'\t' | b'\r' => {}
                _ => return Err(Malformed),
            }
        }
    }

    #[inline(always)]
    fn byte(&mut self) -> Read<u8> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*byte)
    }
}

/// Text, if it is that.
pub(super) fn utf8(bytes: Cow<'_, [u8]>) -> Read<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => str::from_utf8(bytes)
            .map(Cow::Borrowed)
            .map_err(|_| Malformed),
        Cow::Owned(bytes) => String::from_utf8(bytes)
            .map(Cow::Owned)
            .map_err(|_| Malformed),
    }
}

/// Looks at eight bytes at once. The lowest bit that is set is the top bit of the first byte that is a
/// quote, a backslash or a control character; those above it mean nothing.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOP_BITS: u64 = ONES << 7;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    // A byte below N borrows when N is taken from it, which sets its top bit unless it was set before.
    let control = word.wrapping_sub(ONES * b' ' as u64) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & TOP_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    /// Reads a value and says it again, with `null` for what is neither object, array nor text.
    fn again(json: &mut Reader<'_>) -> Read<Value> {
        match json.peek()? {
            b'{' => {
                let mut object = serde_json::Map::new();
                json.object(|key, json| {
                    let key = utf8(key)?.into_owned();
                    object.insert(key, again(json)?);
                    Ok(())
                })?;
                Ok(Value::Object(object))
            }
            b'[' => {
                let mut array = Vec::new();
                json.array(|json| again(json).map(|element| array.push(element)))?;
                Ok(Value::Array(array))
            }
            _ => Ok(json.text()?.map_or(Value::Null, |text| json!(text))),
        }
    }

    fn without_scalars(value: Value) -> Value {
        match value {
            Value::Object(object) => object
                .into_iter()
                .map(|(key, value)| (key, without_scalars(value)))
                .collect(),
            Value::Array(array) => array.into_iter().map(without_scalars).collect(),
            Value::String(_) => value,
            _ => Value::Null,
        }
    }

    /// Reading and skipping agree with serde_json on what is JSON, reading also on what it says;
    /// wherever the text stands.
    fn check(text: &str) {
        for text in [
            text.to_owned(),
            format!(" [ {text} , {text} ] "),
            format!("{{\"a\":{text},\"b\" : {text}}}"),
        ] {
            let expected = serde_json::from_str::<Value>(&text).ok();
            let skipped = read(text.as_bytes(), Reader::skip);
            assert_eq!(skipped.is_ok(), expected.is_some(), "{text}");
            let found = read(text.as_bytes(), again).ok();
            assert_eq!(found, expected.map(without_scalars), "{text}");
        }
    }

    #[test]
    fn json_is_what_serde_json_says_it_is() {
        for text in [
            "null",
            "true",
            "false",
            "nul",
            "nulls",
            "tru",
            "True",
            "{}",
            "[]",
            "{ }",
            "[ ]",
            "[,]",
            "{,}",
            "[1,]",
            "{\"a\":1,}",
            "[1 2]",
            "{\"a\" 1}",
            "{\"a\"}",
            "{1:1}",
            "{\"a\":}",
            "[}",
            "{]",
            "[[]",
            "[]]",
            "[{]}",
            "\"",
            "\"a",
            "a",
            "",
        ] {
            check(text);
        }
    }

    #[test]
    fn numbers_are_checked() {
        for text in [
            "0",
            "-0",
            "1",
            "10",
            "01",
            "-",
            "-01",
            "1.5",
            "1.",
            ".5",
            "1e5",
            "1E+5",
            "1e-5",
            "1e",
            "1e+",
            "1.5e3",
            "1.e3",
            "+1",
            "0x1",
            "1_0",
            "NaN",
            "-Infinity",
            "1-",
            "--1",
            "123456789",
        ] {
            check(text);
        }
    }

    #[test]
    fn strings_are_checked_at_every_length() {
        for length in 0..40 {
            let plain = "x".repeat(length);
            for middle in [
                "",
                "\\n",
                "\\\"",
                "\\\\",
                "\\/",
                "\\b\\f\\r\\t",
                "\\u0041",
                "\\ud83d\\ude00",
                "\\u00",
                "\\u00g0",
                "\\x",
                "\\",
                "\n",
                "\t",
                "\u{1f}",
                "\u{7f}",
                "\u{80}",
                "é",
                "🐳",
                " ",
                "!",
                "#",
                "[",
                "]",
                "{",
                ",",
            ] {
                check(&format!("\"{plain}{middle}{plain}\""));
                check(&format!("{{\"{plain}{middle}{plain}\":\"{middle}\"}}"));
            }
        }
    }

    #[test]
    fn kept_text_is_unicode_and_skipped_text_need_not_be() {
        for text in [&b"\"\xff\""[..], b"\"\\ud800\"", b"\"\\udc00\\ud800\""] {
            assert!(read(text, Reader::skip).is_ok());
            assert!(read(text, Reader::text).is_err());
        }
    }

    #[test]
    fn depth_is_no_matter() {
        let depth = 1_000_000;
        let text = "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(text.as_bytes(), Reader::skip).is_ok());
        assert!(read("[".repeat(depth).as_bytes(), Reader::skip).is_err());
    }

    #[test]
    fn an_error_says_where() {
        for (text, line, column) in [
            ("", 1, 0),
            ("{", 1, 1),
            ("{}x", 1, 3),
            ("{\n \"a\": nope}", 2, 8),
            ("[1,\n2\n,", 3, 1),
            ("\n\n", 3, 0),
        ] {
            let error = read(text.as_bytes(), Reader::skip).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text}");
        }
    }
}

//! Whether a text is JSON, and where it stops to be: the grammar of Go's scanner (RFC 8259, bytes from
//! 0x80 up are welcome in strings and nowhere else).

/// Nesting of objects and arrays together, as in Go's scanner (`maxNestingDepth`).
const DEPTH_MAX: usize = 10_000;

/// Where the text stops to be JSON: a byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) at: usize,
    pub(crate) problem: JsonProblem,
}

/// What is wrong with text that is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonProblem {
    /// A byte order mark, UTF-8 or UTF-16, at the start.
    #[error("a byte order mark is not allowed: save the file as UTF-8 without one")]
    ByteOrderMark,
    /// The text ends inside of a value.
    #[error("the text ends too early: close every string, `{{` and `[`")]
    UnexpectedEnd,
    /// Something that starts no value.
    #[error(
        "expected a value: an object, array, string in double quotes, number, true, false or null"
    )]
    ExpectedValue,
    /// A comma before a closing bracket.
    #[error("a comma before a closing bracket is not allowed: remove it")]
    TrailingComma,
    /// Something else than a name in an object.
    #[error("expected a name in double quotes, or `}}`")]
    ExpectedName,
    /// No colon between a name and its value.
    #[error("expected `:` after the name")]
    ExpectedColon,
    /// Neither a comma nor the end after a field.
    #[error("expected `,` or `}}` after the value")]
    ExpectedCommaOrBrace,
    /// Neither a comma nor the end after an array element.
    #[error("expected `,` or `]` after the value")]
    ExpectedCommaOrBracket,
    /// A line end, tab or other control character in a string.
    #[error("control character in a string: write it as an escape such as `\\n`, or remove it")]
    ControlCharacter,
    /// A backslash before something that needs none.
    #[error("unknown escape in a string: write `\\\\` for a backslash")]
    BadEscape,
    /// Digits, sign, point or exponent where they cannot stand.
    #[error("malformed number")]
    BadNumber,
    /// Something after the end of the document.
    #[error("text after the end of the document: remove it")]
    TrailingText,
    /// Too many brackets inside each other.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Decides whether `text` is one JSON document.
pub(crate) fn validate(text: &[u8]) -> Result<(), SyntaxError> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.document().map_err(|problem| SyntaxError {
        at: scanner.at,
        problem,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    Object,
    Array,
}

/// A cursor; after an error, `at` is the offending byte.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

type Scan<T = ()> = Result<T, JsonProblem>;

impl Scanner<'_> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Steps over the next byte if `accept` likes it, else fails with `problem` or the end of text.
    fn expect(&mut self, accept: impl Fn(u8) -> bool, problem: JsonProblem) -> Scan {
        match self.peek() {
            None => Err(JsonProblem::UnexpectedEnd),
            Some(byte) if accept(byte) => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(problem),
        }
    }

    fn document(&mut self) -> Scan {
        if [&b"\xEF\xBB\xBF"[..], b"\xFF\xFE", b"\xFE\xFF"]
            .iter()
            .any(|mark| self.text.starts_with(mark))
        {
            return Err(JsonProblem::ByteOrderMark);
        }
        let mut open = Vec::new();
        loop {
            if let Some(opened) = self.value_start()? {
                if open.len() == DEPTH_MAX {
                    self.at -= 1;
                    return Err(JsonProblem::TooDeep);
                }
                open.push(opened);
                if !self.is_closed_or_named(opened)? {
                    continue;
                }
                open.pop();
            }
            if self.value_end(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Reads a whole literal, or the opening bracket of an object or array.
    pub(super) fn value_start(&mut self) -> Scan<Option<Bracket>> {
        self.skip_space();
        let Some(first) = self.peek() else {
            return Err(JsonProblem::UnexpectedEnd);
        };
        self.at += 1;
        match first {
            b'{' => return Ok(Some(Bracket::Object)),
            b'[' => return Ok(Some(Bracket::Array)),
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number(first)?,
            b't' => self.word(b"rue")?,
            b'f' => self.word(b"alse")?,
            b'n' => self.word(b"ull")?,
            _ => {
                self.at -= 1;
                return Err(JsonProblem::ExpectedValue);
            }
        }
        Ok(None)
    }

    /// After an opening bracket: true if it is closed at once, else the first name is read.
    fn is_closed_or_named(&mut self, opened: Bracket) -> Scan<bool> {
        self.skip_space();
        let close = match opened {
            Bracket::Object => b'}',
            Bracket::Array => b']',
        };
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(true);
        }
        if opened == Bracket::Object {
            self.name()?;
        }
        Ok(false)
    }

    /// After a value: closes brackets, steps over a comma. True at the end of the document.
    fn value_end(&mut self, open: &mut Vec<Bracket>) -> Scan<bool> {
        loop {
            self.skip_space();
            match (open.last(), self.peek()) {
                (None, None) => return Ok(true),
                (None, Some(_)) => return Err(JsonProblem::TrailingText),
                (Some(_), None) => return Err(JsonProblem::UnexpectedEnd),
                (Some(Bracket::Object), Some(b'}')) | (Some(Bracket::Array), Some(b']')) => {
                    self.at += 1;
                    open.pop();
                }
                (Some(bracket), Some(b',')) => {
                    self.at += 1;
                    self.after_comma(*bracket)?;
                    return Ok(false);
                }
                (Some(Bracket::Object), _) => return Err(JsonProblem::ExpectedCommaOrBrace),
                (Some(Bracket::Array), _) => return Err(JsonProblem::ExpectedCommaOrBracket),
            }
        }
    }

    fn after_comma(&mut self, bracket: Bracket) -> Scan {
        self.skip_space();
        if matches!(self.peek(), Some(b'}' | b']')) {
            return Err(JsonProblem::TrailingComma);
        }
        match bracket {
            Bracket::Object => self.name(),
            Bracket::Array => Ok(()),
        }
    }

    fn name(&mut self) -> Scan {
        self.expect(|b| b == b'"', JsonProblem::ExpectedName)?;
        self.string()?;
        self.skip_space();
        self.expect(|b| b == b':', JsonProblem::ExpectedColon)
    }

    /// The rest of a string, after its opening quote.
    fn string(&mut self) -> Scan {
        loop {
            self.expect(|b| b >= b' ', JsonProblem::ControlCharacter)?;
            match self.text.get(self.at - 1) {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape()?,
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Scan {
        self.expect(|b| b"bfnrt\\/\"u".contains(&b), JsonProblem::BadEscape)?;
        if self.text.get(self.at - 1) == Some(&b'u') {
            for _ in 0..4 {
                self.expect(|b| b.is_ascii_hexdigit(), JsonProblem::BadEscape)?;
            }
        }
        Ok(())
    }

    /// The rest of a number, after its first byte.
    fn number(&mut self, first: u8) -> Scan {
        let mut first = first;
        if first == b'-' {
            first = self.peek().unwrap_or_default();
            self.expect(|b| b.is_ascii_digit(), JsonProblem::BadNumber)?;
        }
        if first != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.expect(|b| b.is_ascii_digit(), JsonProblem::BadNumber)?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.expect(|b| b.is_ascii_digit(), JsonProblem::BadNumber)?;
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn word(&mut self, rest: &[u8]) -> Scan {
        for expected in rest {
            self.expect(|b| b == *expected, JsonProblem::ExpectedValue)?;
        }
        Ok(())
    }
}

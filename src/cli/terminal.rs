//! What reaches a terminal: colours where they are wanted, and text of manifests made harmless.
//!
//! JSON and YAML have escapes of their own and do not come through here.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write as _};

/// Text from elsewhere with its control characters escaped, as in `\u{1b}` and `\n`: a manifest must
/// neither drive the terminal nor forge a line of ours.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped.into()
}

/// Columns of a page of text: what fits beside something else on any screen.
const WIDTH: usize = 100;

/// `text` broken into lines between words, so that it stays within [`WIDTH`] where words allow it. It
/// starts at column `indent`, and so does each further line.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::with_capacity(text.len());
    let mut column = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent {
            if column + 1 + length > WIDTH {
                lines.push('\n');
                lines.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                lines.push(' ');
                column += 1;
            }
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

/// A remark on standard error, beside the answer. Nothing can be done about one that cannot be
/// written.
pub(super) fn note(text: &str) {
    drop(writeln!(io::stderr(), "note: {}", printable(text)));
}

/// Whether to write colours: to a terminal, unless the user does not want them (no-color.org).
pub(super) fn is_styled(stream: &impl IsTerminal) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !no_color
}

/// One line on standard error that says what is going on, rewritten in place and gone at the end. Shows
/// nothing where no person looks on.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Nothing to say yet.
    pub(super) fn new() -> Self {
        Self {
            is_shown: io::stderr().is_terminal(),
        }
    }

    /// Shows `text` instead of what was shown before.
    pub(super) fn show(&self, text: &str) {
        if self.is_shown {
            // Carriage return, then "erase to the end of the line".
            drop(write!(io::stderr(), "\r\x1b[K{text}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(printable(text), expected);
    }

    #[test]
    fn lines_break_between_words_and_keep_their_indent() {
        let word = "x".repeat(45);
        let text = format!("{word} {word} {word}");
        assert_eq!(wrapped(&text, 4), format!("{word} {word}\n    {word}"));
        let long = "y".repeat(WIDTH + 1);
        assert_eq!(
            wrapped(&format!("a {long} b"), 2),
            format!("a\n  {long}\n  b")
        );
        assert_eq!(wrapped("", 2), "");
    }

    #[test]
    fn control_characters_are_escaped() {
        check("harbor.example.com/ä:1", "harbor.example.com/ä:1");
        check("a\x1b[2Jb\x07", "a\\u{1b}[2Jb\\u{7}");
        check("a\r\n\tb\0", "a\\r\\n\\tb\\u{0}");
        check("\u{7f}\u{9b}1m", "\\u{7f}\\u{9b}1m");
    }
}

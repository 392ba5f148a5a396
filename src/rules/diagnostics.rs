//! Errors in a rules text: where, what, the other party, the fix.
//!
//! A rules text is read by people who want every mistake at once, so nothing here stops at the
//! first one. This module only knows the text and byte ranges in it, never the schema.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// Longest line that is shown in a rendered error, in bytes: four rows of a wide terminal. Of a
/// longer one (a generated file in one line) only the position is given, since a renderer that
/// cuts it would read it all again for every error in it.
const SHOWN_LINE_BYTES_MAX: usize = 4 * 200;

/// Farthest another party may be, in bytes, to be shown in the same excerpt: about a screen.
const SHOWN_TOGETHER_BYTES_MAX: usize = 4 * 1024;

/// Longest message, in characters: the longest pattern and what is wrong with it. The offending text
/// may be as large as the file.
const MESSAGE_CHARS_MAX: usize = 800;

/// One error, with where it is in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range of the offending text.
    pub span: Range<usize>,
    /// 1-based line of the start of the span.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// What is wrong, lower case, with the offending text.
    pub message: String,
    /// The other party, if there is one: its byte range and what it is.
    pub related: Option<(Range<usize>, String)>,
    /// How to fix it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`; [`Collector::into_diagnostics`] adds line and column.
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            line: 0,
            column: 0,
            message: tidy(message.into()),
            related: None,
            help: None,
        }
    }

    /// Names the other party; [`Collector::into_diagnostics`] adds its line.
    #[must_use]
    pub(super) fn related(mut self, span: Range<usize>, what: impl Into<String>) -> Self {
        self.related = Some((span, tidy(what.into())));
        self
    }

    /// Says how to fix it.
    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(tidy(help.into()));
        self
    }
}

/// What fits in a log line: no control characters, at most [`MESSAGE_CHARS_MAX`].
/// The text with the password of each `user:password@host` starred out, byte for byte, so that
/// positions stay. An excerpt shows the user's own line, and it may end in a log.
fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    for (at, _) in text.match_indices('@') {
        let (before, after) = (text.get(..at), text.get(at + 1..));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        if ["sha256:", "sha384:", "sha512:"]
            .iter()
            .any(|digest| after.starts_with(digest))
        {
            continue;
        }
        let is_outside = |c: char| c.is_whitespace() || "\"',[]{}".contains(c);
        let word = before.rsplit(is_outside).next().unwrap_or_default();
        let word = word.split_once("://").map_or(word, |(_, rest)| rest);
        if let Some((_, password)) = word.split_once(':') {
            masked
                .to_mut()
                .replace_range(at - password.len()..at, &"*".repeat(password.len()));
        }
    }
    masked
}

fn tidy(mut message: String) -> String {
    if let Some((cut, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
        message.truncate(cut);
        message.push('…');
    }
    if message.contains(char::is_control) {
        message = message.replace(char::is_control, "\u{fffd}");
    }
    message
}

/// One line, for a log: position, message, other party, fix.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )?;
        if let Some((_, what)) = &self.related {
            write!(f, " ({what})")?;
        }
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

/// Every error of one rules text, in order of position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

/// One line per error, for a log.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    /// Rendered like a compiler's, with the source line, a caret and the fix.
    ///
    /// `origin` is what the text is called (a path, `-`); `text` must be the text the diagnostics
    /// were made from. One blank line between errors, a line break at the end.
    pub fn render(&self, origin: &str, text: &str, color: bool) -> String {
        let text = &*without_passwords(text);
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let source = Source {
            origin,
            text,
            lines: LineIndex::new(text),
        };
        let mut rendered = String::new();
        for diagnostic in &self.0 {
            if !rendered.is_empty() {
                rendered.push('\n');
            }
            rendered.push_str(&renderer.render(&[source.report(diagnostic)]));
            rendered.push('\n');
        }
        // The renderer replaces all other control characters; a terminal may obey these as well.
        rendered.replace(|c| ('\u{80}'..='\u{9f}').contains(&c), "\u{fffd}")
    }

    /// One line for a log or an Event: the first error, and how many more there are. `name` is what the
    /// text is called.
    pub fn summary(&self, name: &str) -> String {
        let Some(first) = self.0.first() else {
            return format!("{name}: invalid");
        };
        let (line, column, message) = (first.line, first.column, &first.message);
        match self.0.len() - 1 {
            0 => format!("{name}:{line}:{column}: {message}"),
            more => format!("{name}:{line}:{column}: {message} (and {more} more)"),
        }
    }

    /// The same findings for machines, in the same order.
    pub fn findings<'a>(&'a self, text: &str) -> Vec<Finding<'a>> {
        let lines = LineIndex::new(text);
        let related = |(span, message): &'a (Range<usize>, String)| RelatedFinding {
            line: lines.line(span.start),
            message,
        };
        self.0
            .iter()
            .map(|diagnostic| Finding {
                line: diagnostic.line,
                column: diagnostic.column,
                message: &diagnostic.message,
                help: diagnostic.help.as_deref(),
                related: diagnostic.related.as_ref().map(related),
            })
            .collect()
    }
}

/// A [`Diagnostic`] as machines read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding<'a> {
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: &'a str,
    /// How to fix it.
    pub help: Option<&'a str>,
    /// The other party.
    pub related: Option<RelatedFinding<'a>>,
}

/// The other party of a [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelatedFinding<'a> {
    /// 1-based line.
    pub line: usize,
    /// What it is.
    pub message: &'a str,
}

/// Collects the errors of one text.
#[derive(Debug)]
pub(super) struct Collector<'t> {
    text: &'t str,
    found: Vec<Diagnostic>,
}

impl<'t> Collector<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            found: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// All errors in order of position, each once (what an alias repeats is one mistake), with
    /// line, column and the line of the other party; `None` if there are none.
    pub(super) fn into_diagnostics(mut self) -> Option<Diagnostics> {
        if self.found.is_empty() {
            return None;
        }
        self.found
            .sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
        self.found.dedup();
        let lines = LineIndex::new(self.text);
        // One sweep: counting each column from its line's start would be quadratic for a file in
        // one line.
        let (mut seen, mut column) = (0, 1);
        for diagnostic in &mut self.found {
            let between = self
                .text
                .get(seen..diagnostic.span.start)
                .unwrap_or_default();
            column = match between.rsplit_once('\n') {
                Some((_, tail)) => tail.chars().count() + 1,
                None => column + between.chars().count(),
            };
            seen = diagnostic.span.start;
            diagnostic.line = lines.line(seen);
            diagnostic.column = column;
            if let Some((span, what)) = &mut diagnostic.related {
                *what = format!("{what} at line {}", lines.line(span.start));
            }
        }
        Some(Diagnostics(self.found))
    }
}

/// Where lines start.
#[derive(Debug)]
struct LineIndex {
    /// Byte offset of the first byte of each line; the first is 0.
    starts: Vec<usize>,
}

impl LineIndex {
    fn new(text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// 1-based line of a byte offset.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// Byte range of a line, with its line break.
    fn range(&self, line: usize, text: &str) -> Range<usize> {
        let start = |line: usize| self.starts.get(line).copied().unwrap_or(text.len());
        start(line.saturating_sub(1))..start(line)
    }
}

/// A text as it is shown.
struct Source<'a> {
    origin: &'a str,
    text: &'a str,
    lines: LineIndex,
}

impl<'a> Source<'a> {
    /// One diagnostic as annotate-snippets wants it: title, excerpts, fix.
    fn report(&self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let mut marks = vec![(diagnostic.span.clone(), AnnotationKind::Primary, None)];
        let mut far = None;
        if let Some((span, what)) = &diagnostic.related {
            let mark = (span.clone(), AnnotationKind::Context, Some(what.as_str()));
            if span.start.abs_diff(diagnostic.span.start) <= SHOWN_TOGETHER_BYTES_MAX {
                marks.push(mark);
            } else {
                far = Some(mark);
            }
        }
        let mut group = Group::with_title(Level::ERROR.primary_title(&*diagnostic.message));
        match self.excerpt(&marks) {
            Some(excerpt) => group = group.element(excerpt),
            None => {
                let origin = Origin::path(self.origin).line(diagnostic.line);
                group = group.element(origin.char_column(diagnostic.column));
            }
        }
        if let Some(excerpt) = far.and_then(|mark| self.excerpt(&[mark])) {
            group = group.element(excerpt);
        }
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(&**help)),
            None => group,
        }
    }

    /// The lines of all `marks` and what is between; `None` if one of them is too long to show.
    fn excerpt(&self, marks: &[Mark<'a>]) -> Option<Snippet<'a, Annotation<'a>>> {
        let first = marks
            .iter()
            .map(|(span, ..)| self.lines.line(span.start))
            .min()?;
        let last = marks
            .iter()
            .map(|(span, ..)| self.lines.line(span.end))
            .max()?;
        if (first..=last).any(|line| self.lines.range(line, self.text).len() > SHOWN_LINE_BYTES_MAX)
        {
            return None;
        }
        let start = self.lines.range(first, self.text).start;
        let shown = self
            .text
            .get(start..self.lines.range(last, self.text).end)?;
        let mut excerpt = Snippet::source(shown).path(self.origin).line_start(first);
        for (span, kind, label) in marks {
            let span = span.start - start..span.end - start;
            excerpt = excerpt.annotation(kind.span(span).label(*label));
        }
        Some(excerpt)
    }
}

/// A byte range of the text, how it is marked and with which words.
type Mark<'a> = (Range<usize>, AnnotationKind, Option<&'a str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_show_no_password() {
        for (text, shown) in [
            (
                "images: [\"bob:S3CRET@r.io/x\"]",
                "images: [\"bob:******@r.io/x\"]",
            ),
            ("- https://bob:p/w:é@r.io", "- https://bob:******@r.io"),
            ("- r.io/app:v1@sha256:00", "- r.io/app:v1@sha256:00"),
            ("me@example.com a:b", "me@example.com a:b"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}

//! Errors in a rules text: where, what, the other party, the fix.

/// One error, with where it is in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range of the offending text.
    pub span: std::ops::Range<usize>,
    /// 1-based line of the start of the span.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// What is wrong, lower case, with the offending text.
    pub message: String,
    /// The other party, if there is one: its byte range and what it is.
    pub related: Option<(std::ops::Range<usize>, String)>,
    /// How to fix it.
    pub help: Option<String>,
}

/// Every error of one rules text, in order of position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Rendered like a compiler's, with the source line, a caret and the fix.
    pub fn render(&self, _origin: &str, _text: &str, _color: bool) -> String {
        todo!()
    }
}

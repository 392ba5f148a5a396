//! Reads typed values out of the YAML tree and reports what does not fit.
//!
//! Every reader returns `None` after it has reported, so that callers go on with the next field.
//! This module knows YAML types and wording, not the schema.

use std::ops::Range;

use crate::rules::diagnostics::{Collector, Diagnostic};
use crate::rules::yaml::{Kind, Node};

/// How similar a word must be to be offered instead (1: equal, 0: nothing in common).
const SIMILARITY_MIN: f64 = 0.7;

/// One way to spell a value, and what it stands for.
pub(super) type Choice<T> = (&'static str, T);

/// A cursor-less reader: nodes are passed in, errors collect here.
#[derive(Debug)]
pub(super) struct Reader<'f, 't> {
    findings: &'f mut Collector<'t>,
    /// Image patterns so far, to hold against the limit.
    pub(super) patterns: usize,
}

impl<'f, 't> Reader<'f, 't> {
    pub(super) fn new(findings: &'f mut Collector<'t>) -> Self {
        Self {
            findings,
            patterns: 0,
        }
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.findings.push(diagnostic);
    }

    /// The values of the `known` fields of mapping `node`, in the order of `known`; reports fields
    /// that are unknown or written twice. `what`: the mapping's name, `a rule`.
    pub(super) fn fields<'a, const N: usize>(
        &mut self,
        node: Node<'a>,
        what: &str,
        known: [&str; N],
    ) -> Option<Fields<'a, N>> {
        if node.kind() != Kind::Mapping {
            self.wrong_type(node, what, "a mapping of fields");
            return None;
        }
        let mut keys: [Option<Node<'a>>; N] = [None; N];
        let mut values: [Option<Node<'a>>; N] = [None; N];
        for (key, value) in node.fields() {
            let Some(name) = self.key(key) else { continue };
            let position = known.iter().position(|known| *known == name);
            let Some((seen, slot)) =
                position.and_then(|at| Some((keys.get_mut(at)?, values.get_mut(at)?)))
            else {
                self.unknown_field(key, name, what, &known);
                continue;
            };
            match seen.replace(key) {
                None => *slot = Some(value),
                Some(first) => self.duplicate_key(key, name, first.span()),
            }
        }
        let head = node
            .fields()
            .next()
            .map_or_else(|| node.span(), |(key, _)| key.span());
        Some(Fields { values, head })
    }

    /// Keys and string values of a mapping of any keys, such as labels.
    pub(super) fn string_map<'a>(&mut self, node: Node<'a>, what: &str) -> Vec<[Text<'a>; 2]> {
        if node.kind() != Kind::Mapping {
            self.wrong_type(node, what, "a mapping of strings");
            return Vec::new();
        }
        let mut pairs: Vec<[Text<'a>; 2]> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for (key, value) in node.fields() {
            let Some(name) = self.key(key) else { continue };
            if let Some(first) = seen.insert(name, key.span()) {
                self.duplicate_key(key, name, first);
                continue;
            }
            let what = format!("`{name}` of {what}");
            if let Some(value) = self.string(value, &what) {
                pairs.push([
                    Text {
                        text: name,
                        span: key.span(),
                    },
                    value,
                ]);
            }
        }
        pairs
    }

    /// A string.
    pub(super) fn string<'a>(&mut self, node: Node<'a>, what: &str) -> Option<Text<'a>> {
        let text = Text::of(node);
        if text.is_none() {
            self.wrong_type(node, what, "a string");
        }
        text
    }

    /// An entry of `list`, which is a list of strings.
    pub(super) fn entry<'a>(&mut self, node: Node<'a>, list: &str) -> Option<Text<'a>> {
        let text = Text::of(node);
        if text.is_none() {
            self.wrong_type(node, &format!("an entry of {list}"), "a string");
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: Node<'_>, what: &str) -> Option<bool> {
        match node.kind() {
            Kind::Scalar {
                text: "true" | "True" | "TRUE",
                plain: true,
            } => Some(true),
            Kind::Scalar {
                text: "false" | "False" | "FALSE",
                plain: true,
            } => Some(false),
            _ => {
                self.wrong_type(node, what, "`true` or `false`");
                None
            }
        }
    }

    /// The items of a list; none if it is something else, which is reported.
    pub(super) fn items<'a>(
        &mut self,
        node: Node<'a>,
        what: &str,
    ) -> impl Iterator<Item = Node<'a>> + use<'a> {
        if node.kind() != Kind::List {
            self.wrong_type(node, what, "a list");
        }
        node.items()
    }

    /// The entries of a list of strings.
    pub(super) fn strings<'a>(&mut self, node: Node<'a>, what: &str) -> Vec<Text<'a>> {
        let items = self.items(node, what);
        items.filter_map(|item| self.entry(item, what)).collect()
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        node: Node<'_>,
        what: &str,
        choices: &[Choice<T>],
    ) -> Option<T> {
        let Text { text, span } = self.string(node, what)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = choices.iter().map(|(word, _)| *word);
        let help = did_you_mean(text, words.clone())
            .unwrap_or_else(|| format!("it is one of {}", quoted(words)));
        self.report(Diagnostic::new(span, format!("{what} cannot be `{text}`")).help(help));
        None
    }

    fn key<'a>(&mut self, key: Node<'a>) -> Option<&'a str> {
        if let Kind::Scalar { text, .. } = key.kind() {
            return Some(text);
        }
        let message = format!("a field's name must be a string, found {}", found(key));
        self.report(Diagnostic::new(key.span(), message).help("put text in `{{ }}` in quotes"));
        None
    }

    fn unknown_field(&mut self, key: Node<'_>, name: &str, what: &str, known: &[&str]) {
        let help = if name == "<<" {
            "merge keys are not supported; name the whole value with an alias, or write it out"
                .to_owned()
        } else {
            let known = known.iter().copied();
            did_you_mean(name, known.clone())
                .unwrap_or_else(|| format!("the fields are {}", quoted(known)))
        };
        let message = format!("unknown field `{name}` in {what}");
        self.report(Diagnostic::new(key.span(), message).help(help));
    }

    fn duplicate_key(&mut self, key: Node<'_>, name: &str, first: Range<usize>) {
        let diagnostic = Diagnostic::new(key.span(), format!("field `{name}` is written twice"))
            .related(first, format!("`{name}`, first written"));
        self.report(diagnostic.help("remove one of the two, or merge their values"));
    }

    fn wrong_type(&mut self, node: Node<'_>, what: &str, expected: &str) {
        let help = match node.kind() {
            // Of the lists, only this one may be empty wherever it stands.
            Kind::Scalar { text, plain: true }
                if what == "`rules`" && scalar_type(text) == ScalarType::Null =>
            {
                "write `[]`, or remove the line".to_owned()
            }
            Kind::Scalar { text, plain: true }
                if text.is_empty()
                    || expected == "a list" && scalar_type(text) == ScalarType::Null =>
            {
                "remove the field, or give it a value".to_owned()
            }
            Kind::Scalar { text, .. } if expected == "a string" => {
                format!("put it in quotes: `\"{text}\"`")
            }
            Kind::Scalar { text, .. } if expected.starts_with("a list") => {
                format!("make it a list: `[\"{text}\"]`")
            }
            _ => format!("write {expected} here"),
        };
        let message = format!("{what} must be {expected}, found {}", found(node));
        self.report(Diagnostic::new(node.span(), message).help(help));
    }
}

/// The values of a mapping's known fields.
#[derive(Debug)]
pub(super) struct Fields<'a, const N: usize> {
    /// In the order of the names that were asked for.
    pub(super) values: [Option<Node<'a>>; N],
    /// The first key: where to point when a field is missing.
    pub(super) head: Range<usize>,
}

/// A string and where it is.
#[derive(Debug, Clone)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    pub(super) span: Range<usize>,
}

impl<'a> Text<'a> {
    /// A scalar that YAML takes for a string.
    pub(super) fn of(node: Node<'a>) -> Option<Self> {
        match node.kind() {
            Kind::Scalar { text, plain } if !plain || scalar_type(text) == ScalarType::String => {
                Some(Self {
                    text,
                    span: node.span(),
                })
            }
            _ => None,
        }
    }
}

/// The fix for a misspelt word, if a known one is similar.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    let similarity = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &word);
    let scored = known.map(|known| (similarity(known), known));
    let (score, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= SIMILARITY_MIN).then(|| format!("did you mean `{best}`?"))
}

fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What YAML's core schema takes a plain scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScalarType {
    Null,
    Boolean,
    Number,
    String,
}

fn scalar_type(text: &str) -> ScalarType {
    let digits = |radix: &str, allowed: fn(&u8) -> bool| {
        text.strip_prefix(radix)
            .is_some_and(|rest| !rest.is_empty() && rest.as_bytes().iter().all(allowed))
    };
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarType::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => ScalarType::Boolean,
        _ if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+')) => {
            ScalarType::String
        }
        _ if text.parse::<f64>().is_ok() => ScalarType::Number,
        _ if digits("0x", u8::is_ascii_hexdigit) || digits("0o", |b| matches!(b, b'0'..=b'7')) => {
            ScalarType::Number
        }
        _ => ScalarType::String,
    }
}

fn found(node: Node<'_>) -> String {
    let kind = match node.kind() {
        Kind::List => "a list",
        Kind::Mapping => "a mapping",
        Kind::Scalar { text, plain } => match scalar_type(text) {
            _ if !plain => return format!("the string \"{text}\""),
            ScalarType::String => return format!("`{text}`"),
            ScalarType::Null => "nothing",
            ScalarType::Boolean => return format!("the boolean `{text}`"),
            ScalarType::Number => return format!("the number `{text}`"),
        },
    };
    kind.to_owned()
}

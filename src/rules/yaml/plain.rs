//! A fast reader for the plain part of YAML that nearly all rules are written in.
//!
//! It exists for the start of the webhook: the full parser takes three quarters of the time in which a
//! hundred thousand rules load. What it knows:
//!
//! - lists and mappings by indentation, `key:` with nothing behind it, comments, blank lines;
//! - plain scalars of one word, of characters that mean nothing else in YAML;
//! - quoted scalars in ASCII without escapes;
//! - `[…]` and `{…}` of these, on one line.
//!
//! At the first byte that it does not know for sure it gives up, and the full parser reads the text
//! from its start. It must never accept a text that the full parser reads otherwise or refuses, and it
//! reports no errors: those are the full parser's to word.

use super::{DEPTH_MAX, Entry, EntryKind, NODES_MAX, Tree, index};

/// Longest key, in bytes. To the full parser, a `:` more than 1,024 characters behind the start of a
/// key makes none; no field and no label key is nearly as long.
const KEY_BYTES_MAX: usize = 512;

/// The tree that the full parser makes of `text`; `None` if it takes the full parser to know.
pub(super) fn read(text: &str) -> Option<Tree<'_>> {
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
        entries: Vec::new(),
        depth: 0,
    };
    if reader.content()? != Some(0) {
        return None;
    }
    // To the end of the text, since no line is indented less.
    reader.block(0)?;
    Some(Tree {
        text,
        entries: reader.entries,
        unescaped: Vec::new(),
    })
}

/// Where the content of a line starts, in bytes from the start of the line; `None` is the end of the
/// text, which is less than any.
type Column = Option<usize>;

/// A cursor. What moves it leaves it behind what was read, or returns `None` to give up.
#[derive(Debug)]
struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    entries: Vec<Entry>,
    /// How many collections are open.
    depth: usize,
}

/// Block style. Each of these reads to the first line that is not part of it, and returns its column.
impl Reader<'_> {
    /// A list or mapping that starts here, in `column`.
    fn block(&mut self, column: usize) -> Option<Column> {
        match self.peek() {
            Some(b'-') => self.list(column, self.at, false),
            _ => self.mapping(column),
        }
    }

    fn mapping(&mut self, column: usize) -> Option<Column> {
        let mapping = self.open(EntryKind::Mapping, self.at, self.at)?;
        loop {
            self.key()?;
            let next = self.value(column)?;
            if next != Some(column) {
                self.close(mapping);
                return (next < Some(column)).then_some(next);
            }
        }
    }

    /// The value of a key in `column`, whose colon was read. If there is none, it stands at the colon.
    fn value(&mut self, column: usize) -> Option<Column> {
        let colon = self.at.saturating_sub(1);
        self.spaces();
        if !matches!(self.peek(), None | Some(b'\n' | b'#')) {
            self.inline()?;
            return self.next_line();
        }
        let next = self.next_line()?;
        match next {
            Some(deeper) if deeper > column => self.block(deeper),
            // To the full parser, a list in the column of its key starts at its first item.
            Some(same) if same == column && self.peek() == Some(b'-') => {
                self.list(column, self.after_dash()?, true)
            }
            _ => {
                self.push(EntryKind::Plain, colon, colon)?;
                Some(next)
            }
        }
    }

    /// A list whose first dash is here; `start` is where its span is. `below_key`: it is in the column
    /// of its key, so that the next key ends it.
    fn list(&mut self, column: usize, start: usize, below_key: bool) -> Option<Column> {
        let list = self.open(EntryKind::List, start, start)?;
        loop {
            let item = self.after_dash()?;
            let item_column = column + (item - self.at);
            self.at = item;
            let next = if self.is_at_key()? {
                self.mapping(item_column)?
            } else {
                self.inline()?;
                self.next_line()?
            };
            if next != Some(column) || self.peek() != Some(b'-') {
                self.close(list);
                let ends = next < Some(column) || below_key && next == Some(column);
                return ends.then_some(next);
            }
        }
    }

    /// Where the item of the dash here starts, on the same line.
    fn after_dash(&self) -> Option<usize> {
        let rest = self.text.get(self.at..)?.strip_prefix(b"- ")?;
        let spaces = rest.iter().position(|b| *b != b' ')?;
        Some(self.at + 2 + spaces)
    }

    /// [`Self::content`] of the lines after this one, which must have none left.
    fn next_line(&mut self) -> Option<Column> {
        self.line_end()?;
        self.content()
    }

    /// The column of the first content, from the start of this line on.
    fn content(&mut self) -> Option<Column> {
        loop {
            let line = self.at;
            self.spaces();
            match self.peek() {
                None => return Some(None),
                Some(b'\n' | b'#') => self.line_end()?,
                Some(_) => return Some(Some(self.at - line)),
            }
        }
    }

    fn line_end(&mut self) -> Option<()> {
        self.spaces();
        if self.peek() == Some(b'#') {
            let before = self.at.checked_sub(1).and_then(|at| self.text.get(at));
            if !matches!(before, None | Some(b' ' | b'\n')) {
                return None;
            }
            self.skip(is_comment);
        }
        match self.peek() {
            None => Some(()),
            Some(b'\n') => {
                self.at += 1;
                Some(())
            }
            Some(_) => None,
        }
    }
}

/// Flow style and scalars: on one line.
impl Reader<'_> {
    fn inline(&mut self) -> Option<()> {
        match self.peek()? {
            b'[' => self.flow(EntryKind::List, b']'),
            b'{' => self.flow(EntryKind::Mapping, b'}'),
            _ => {
                let start = self.at;
                let kind = self.scalar()?;
                self.push(kind, start, self.at)
            }
        }
    }

    fn flow(&mut self, kind: EntryKind, end: u8) -> Option<()> {
        let collection = self.open(kind, self.at, self.at + 1)?;
        self.at += 1;
        loop {
            self.spaces();
            if self.peek()? == end {
                break;
            }
            if end == b'}' {
                self.key()?;
                self.spaces();
            }
            self.inline()?;
            self.spaces();
            match self.peek()? {
                b',' => self.at += 1,
                other if other == end => break,
                _ => return None,
            }
        }
        self.at += 1;
        self.close(collection);
        Some(())
    }

    /// A key with its colon.
    fn key(&mut self) -> Option<()> {
        let start = self.at;
        let kind = self.scalar()?;
        self.push(kind, start, self.at)?;
        let is_key = self.at - start <= KEY_BYTES_MAX && self.is_at_colon();
        self.at += 1;
        is_key.then_some(())
    }

    fn is_at_key(&mut self) -> Option<bool> {
        if matches!(self.peek()?, b'[' | b'{') {
            return Some(false);
        }
        let start = self.at;
        self.scalar()?;
        let is_key = self.is_at_colon();
        self.at = start;
        Some(is_key)
    }

    /// A colon that is not part of a word.
    fn is_at_colon(&self) -> bool {
        let after = self.text.get(self.at + 1);
        self.peek() == Some(b':') && matches!(after, None | Some(b' ' | b'\n'))
    }

    fn scalar(&mut self) -> Option<EntryKind> {
        match self.peek()? {
            b'"' => self.quoted(
                |b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\'),
                b'"',
            ),
            b'\'' => self.quoted(|b| matches!(b, b' '..=b'~') && b != b'\'', b'\''),
            first if is_word_start(first) => self.word(),
            _ => None,
        }
    }

    /// What comes behind the second quote is for the caller to judge: a third one is no separator.
    fn quoted(&mut self, is_inside: impl Fn(u8) -> bool, quote: u8) -> Option<EntryKind> {
        self.at += 1;
        self.skip(is_inside);
        if self.peek()? != quote {
            return None;
        }
        self.at += 1;
        Some(EntryKind::Quoted)
    }

    fn word(&mut self) -> Option<EntryKind> {
        loop {
            self.skip(is_word);
            let after = self.text.get(self.at + 1);
            if self.peek() != Some(b':') || !after.is_some_and(u8::is_ascii_alphanumeric) {
                return Some(EntryKind::Plain);
            }
            self.at += 1;
        }
    }
}

/// Bytes and entries.
impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self, skipped: impl Fn(u8) -> bool) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|b| skipped(**b)).count();
    }

    fn spaces(&mut self) {
        self.skip(|b| b == b' ');
    }

    fn push(&mut self, kind: EntryKind, start: usize, end: usize) -> Option<()> {
        if self.entries.len() >= NODES_MAX {
            return None;
        }
        self.entries.push(Entry {
            start: index(start),
            end: index(end),
            next: index(self.entries.len() + 1),
            kind,
        });
        Some(())
    }

    /// Where its entry is.
    fn open(&mut self, kind: EntryKind, start: usize, end: usize) -> Option<usize> {
        self.depth += 1;
        let position = self.entries.len();
        self.push(kind, start, end)?;
        (self.depth <= DEPTH_MAX).then_some(position)
    }

    fn close(&mut self, collection: usize) {
        self.depth -= 1;
        let next = index(self.entries.len());
        if let Some(entry) = self.entries.get_mut(collection) {
            entry.next = next;
        }
    }
}

fn is_word_start(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'/')
}

fn is_word(b: u8) -> bool {
    is_word_start(b) || matches!(b, b'-' | b'.' | b'*' | b'+' | b'=' | b'@')
}

/// All that is printable to YAML, less what takes more than the first byte to tell: `é` and `…` yes,
/// `©` and emoji no.
fn is_comment(b: u8) -> bool {
    matches!(b, b' '..=b'~' | 0x80..=0xbf | 0xc3..=0xed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::rules::is_read_plainly;

    /// Neither half of the reader may rot: what it knows, it reads; what it does not know, it leaves.
    fn check(text: &str, is_plain: bool) {
        assert_eq!(is_read_plainly(text), is_plain, "{text:?}");
    }

    #[test]
    fn rules_are_read_plainly() {
        // As benches/figures/workload.rs writes a hundred thousand.
        check(
            "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets:\n\
             - {name: s0, secretName: pull-0}\nrules:\n\
             - name: r7\n  images: [\"host-7.registry.example.net:5000\"]\n  pullSecrets: [s0]\n\
             - name: r8\n  images: [\"*.dkr.ecr.region-8.amazonaws.com\"]\n  pullSecrets: [s0]\n",
            true,
        );
        check(include_str!("../../../examples/rules.yaml"), true);
        check(include_str!("../../../tests/data/rules/design.yaml"), true);
        check(include_str!("../../../tests/data/rules/empty.yaml"), true);
        check(include_str!("../../../tests/data/rules/hosts.yaml"), true);
        // Has an anchor.
        check(
            include_str!("../../../tests/data/rules/tenants.yaml"),
            false,
        );
    }

    #[test]
    fn what_is_known() {
        for text in [
            "a: b",
            "a:",
            "a: \n\nb: # c\nc:\n",
            "# é …\n\n  \n   # x\na:   b   # y\n# z",
            "a:\n- b\n-   c: d\n    e:\n- f:\n  - g\nh:\n",
            "a:\n  - b\n # c\n  - {d: e, \"f\": 'g', }\nh:\n    i:\n      j:\n    k: []\n",
            "- a\n- b: c\n  d: [ e , [f], {g: h} ]\n",
            "a: \"\"\nb: ''\n\"c d\": 'e \"# f'\n'g': \"'h: i, [\"\n",
            "a: h.io:5000/b-*.c:v1\n10.0.0.1: /x+y=z@_\nb:c: d\n",
            "a: 1\na: 2\n",
        ] {
            check(text, true);
        }
        check(&format!("{}: a", "k".repeat(super::KEY_BYTES_MAX)), true);
        // Longer than a key may be, and than the full parser's buffers.
        for long in ["k".repeat(3_000), format!("[{}]", "'b c', ".repeat(500))] {
            check(&format!("a: {long}\nb:\n- {long}\n- c: {long}\n"), true);
        }
    }

    /// For the full parser to read or to refuse.
    const UNKNOWN: &[&str] = &[
        "",
        "\n",
        "# a",
        "a",
        "- ",
        "-\n  a: b",
        "- - a",
        "[a]",
        "{a: b}",
        " a: b",
        "-a: b",
        "\"a",
        "a:\n  b",
        "a: b c",
        "a: b\n  c",
        "a: b\n  c: d",
        "a:\n  b: c\n d: e",
        "a:\n  - b\n c: d",
        "a:\n - b\n- c",
        "- a\nb: c",
        "a: b\n- c",
        "a:\n- b\n - c",
        "- a\n  b: c",
        "a: b#",
        "a: b:",
        "a: -",
        "a: ~",
        "a: &b c",
        "a: *b",
        "a: !b c",
        "a: |\n  b",
        "a: >\n  b",
        "? a\n: b",
        "a: 'b''c'",
        "a: 'b'c",
        "a: \"\\n\"",
        "a: \"b\n  c\"",
        "a: é",
        "a: \"é\"",
        "a: b # ©",
        "a: [b",
        "a: [b\n  ]",
        "a: [b: c]",
        "a: [,]",
        "a: [b,,]",
        "a: [b] c",
        "a: [b]# c",
        "a: {b}",
        "a: {b:}",
        "a: {b: }",
        "a: {\"b\":c}",
        "a: {b: c: d}",
        "[a]: b",
        "- [a]: b",
        "a\t: b",
        "a: b\t",
        "\ta: b",
        "a: # \t",
        "a: b\r\n",
        "---\na: b",
        "a: b\n---\nc: d",
        "a: b\n...",
        "%YAML 1.2\n---\na: b",
        "\u{feff}a: b",
        "a: b\0",
    ];

    #[test]
    fn what_is_left_to_the_full_parser() {
        UNKNOWN.iter().for_each(|text| check(text, false));
    }

    #[test]
    fn limits_are_kept() {
        check(
            &format!("{}: a", "k".repeat(super::KEY_BYTES_MAX + 1)),
            false,
        );
        let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        check(&nested(super::DEPTH_MAX - 1), true);
        check(&nested(super::DEPTH_MAX), false);
        let nodes = |items: usize| format!("a: [{}]", "b,".repeat(items));
        check(&nodes(super::NODES_MAX - 3), true);
        check(&nodes(super::NODES_MAX - 2), false);
    }

    /// Every text of a few of these in a row: small, but all of them.
    #[test]
    fn short_texts_are_read_as_the_full_parser_reads_them() {
        const PARTS: [&str; 15] = [
            "a", "b", ": ", ":", "\n", " ", "  ", "- ", "-", "[", "]", "{", "}", ", ", "# ",
        ];
        const LENGTH_MAX: u32 = 5;
        let mut plain = 0;
        for length in 1..=LENGTH_MAX {
            for mut number in 0..PARTS.len().pow(length) {
                let mut text = String::new();
                for _ in 0..length {
                    text.push_str(PARTS[number % PARTS.len()]);
                    number /= PARTS.len();
                }
                plain += usize::from(is_read_plainly(&text));
            }
        }
        assert!(plain > 1_000, "{plain}");
    }

    /// Draws from a list of choices, which proptest knows how to make smaller.
    struct Choices(std::vec::IntoIter<u8>);

    impl Choices {
        fn below(&mut self, end: usize) -> usize {
            usize::from(self.0.next().unwrap_or(0)) % end
        }

        fn of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
            texts[self.below(texts.len())]
        }
    }

    const SCALARS: [&str; 12] = [
        "a",
        "b-c",
        "\"d\"",
        "'e'",
        "h.io:5000/x",
        "\"*.f: # [\"",
        "'\"'",
        "''",
        "1",
        "_",
        "/p",
        "true",
    ];
    /// Put anywhere.
    const NOISE: [&str; 42] = [
        " ", "  ", "\n", "\n\n", "\n ", "\n  ", "\t", "\r\n", "\r", ":", ": ", ":\n", "-", "- ",
        "\n- ", "- - ", "? ", "#", " # x", "\n# é\n", "&a ", "*a", "!t ", "|", ">", "~", "[", "]",
        "{", "}", ",", "\"", "'", "\n---\n", "\n...\n", "\u{feff}", "\u{85}", "a: ", "a b", "é",
        "\\", "''",
    ];

    fn block(choices: &mut Choices, indent: usize, depth: usize, text: &mut String) {
        let is_list = choices.below(2) == 1;
        for position in 0..=choices.below(3) {
            if position > 0 {
                text.push_str(choices.of(&["", "", "", "\n", "# x\n", "      \n", "   # é\n"]));
                text.push_str(&" ".repeat(indent));
            }
            let mut inner = indent;
            if is_list {
                text.push_str(choices.of(&["- ", "- ", "-   "]));
                inner += text.len() - text.rfind('-').unwrap_or(0);
            } else {
                text.push_str(choices.of(&SCALARS));
                text.push(':');
            }
            match choices.below(6) {
                0 | 1 if depth < 5 && is_list => block(choices, inner, depth + 1, text),
                0 | 1 if depth < 5 => {
                    inner += choices.below(4);
                    text.push_str(choices.of(&["\n", "\n", " # x\n", "\n\n", "\n# x\n"]));
                    text.push_str(&" ".repeat(inner));
                    block(choices, inner, depth + 1, text);
                }
                2 => text.push_str(choices.of(&["\n", " \n", "  # x\n"])),
                3 => {
                    text.push(' ');
                    flow(choices, depth, text);
                    text.push_str(choices.of(&["\n", "\n", "  # x\n"]));
                }
                _ => {
                    text.push_str(choices.of(&[" ", " ", "   "]));
                    text.push_str(choices.of(&SCALARS));
                    text.push_str(choices.of(&["\n", "\n", " \n", "  # x\n"]));
                }
            }
        }
    }

    fn flow(choices: &mut Choices, depth: usize, text: &mut String) {
        let is_list = choices.below(2) == 1;
        text.push_str(if is_list { "[" } else { "{" });
        for _ in 0..choices.below(3) {
            if !is_list {
                text.push_str(choices.of(&SCALARS));
                text.push_str(": ");
            }
            match choices.below(3) {
                0 if depth < 5 => flow(choices, depth + 1, text),
                _ => text.push_str(choices.of(&SCALARS)),
            }
            text.push_str(choices.of(&[", ", ",", " , "]));
        }
        text.push_str(if is_list { "]" } else { "}" });
    }

    /// Texts in the style of the plain reader, some of them with something put in or taken out.
    fn texts() -> impl Strategy<Value = String> {
        let choices = prop::collection::vec(any::<u8>(), 0..150);
        let noise = (
            any::<prop::sample::Index>(),
            0..3usize,
            prop::sample::select(&NOISE[..]),
        );
        (choices, prop::collection::vec(noise, 0..3)).prop_map(|(choices, noise)| {
            let mut text = String::new();
            block(&mut Choices(choices.into_iter()), 0, 0, &mut text);
            for (at, removed, noise) in noise {
                let starts: Vec<_> = text
                    .char_indices()
                    .map(|(at, _)| at)
                    .chain([text.len()])
                    .collect();
                let first = at.index(starts.len());
                let last = (first + removed).min(starts.len() - 1);
                text.replace_range(starts[first]..starts[last], noise);
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn texts_are_read_as_the_full_parser_reads_them(text in texts()) {
            is_read_plainly(&text);
        }
    }

    /// The property above would hold of a reader that knows nothing.
    #[test]
    fn the_texts_made_are_not_all_left_alone() {
        use proptest::strategy::ValueTree as _;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let plain = (0..1_000).filter(|_| {
            let text = texts().new_tree(&mut runner).unwrap().current();
            is_read_plainly(&text)
        });
        let plain = plain.count();
        assert!((200..=800).contains(&plain), "{plain} of 1000");
    }
}

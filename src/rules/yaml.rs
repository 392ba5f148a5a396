//! A YAML text as a tree in which every node knows where it came from.
//!
//! Errors must say line and column, also those that need two places of the text at once, so the
//! text is read into this tree first and checked afterwards. The tree is one flat list in the order
//! of the text: a hundred thousand rules are a million nodes, and one allocation.
//!
//! Most texts are read by [`plain`], which knows a part of YAML only; the rest, and all that is wrong,
//! by granit-parser.
//!
//! This module knows YAML and its caps, not the schema. It must not copy scalars without escapes.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

use super::diagnostics::Diagnostic;

mod plain;

/// Deepest nesting of lists and of mappings. The schema needs 7 (`rules`, a rule, a selector, its
/// expressions, one of them, its values); the rest is room for a mistake to be told by its name.
pub const DEPTH_MAX: usize = 16;
/// Most nodes (keys, values, lists, mappings), each alias counted as all that it stands for:
/// 100,000 rules of 20 nodes. Keeps a few lines of nested aliases from standing for billions.
pub const NODES_MAX: usize = 2_000_000;

/// A whole document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tree<'t> {
    text: &'t str,
    /// In the order of the text: a collection, then all that is in it.
    entries: Vec<Entry>,
    /// Scalars that do not stand in the text as they are, because of escapes or line breaks.
    unescaped: Vec<String>,
}

/// One node. Small, since there may be [`NODES_MAX`] of them.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    start: u32,
    end: u32,
    /// Index of the first node that is neither this one nor inside it.
    next: u32,
    kind: EntryKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    /// The whole span.
    Plain,
    /// The span without its quotes.
    Quoted,
    /// Index into [`Tree::unescaped`].
    Unescaped(u32),
    List,
    Mapping,
    /// Index of the node it stands for, which comes earlier.
    Alias(u32),
}

/// One node of a [`Tree`]; an alias is shown as the node that it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    tree: &'a Tree<'a>,
    entry: &'a Entry,
    index: u32,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A scalar after YAML escape processing; `plain` if written without quotes.
    Scalar { text: &'a str, plain: bool },
    /// A sequence.
    List,
    /// A mapping.
    Mapping,
}

impl<'t> Tree<'t> {
    /// Reads the one document of `text`; `None` if there is none.
    pub(super) fn parse(text: &'t str) -> Result<Option<Self>, Diagnostic> {
        plain::read(text).map_or_else(|| Self::parse_any(text), |tree| Ok(Some(tree)))
    }

    /// The same, by the full parser.
    fn parse_any(text: &'t str) -> Result<Option<Self>, Diagnostic> {
        let mut builder = Builder::new(text);
        let options = granit_parser::options! {
            emit_comments: false,
            block_nesting_limit: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
        };
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| syntax_error(&error, text))?;
            builder.event(event, &span)?;
        }
        Ok((!builder.tree.entries.is_empty()).then_some(builder.tree))
    }

    /// The outermost node.
    pub(super) fn root(&self) -> Option<Node<'_>> {
        self.node(0)
    }

    fn node(&self, index: u32) -> Option<Node<'_>> {
        let entry = self.entries.get(index as usize)?;
        match entry.kind {
            EntryKind::Alias(target) => self.node(target),
            _ => Some(Node {
                tree: self,
                entry,
                index,
            }),
        }
    }
}

impl<'a> Node<'a> {
    /// Byte range in the text: a whole scalar with its quotes, the opening of a list or mapping.
    pub(super) fn span(&self) -> Range<usize> {
        self.entry.start as usize..self.entry.end as usize
    }

    pub(super) fn kind(&self) -> Kind<'a> {
        let Entry { start, end, .. } = *self.entry;
        let text = |start: u32, end: u32| {
            self.tree
                .text
                .get(start as usize..end as usize)
                .unwrap_or_default()
        };
        match self.entry.kind {
            EntryKind::Plain => Kind::Scalar {
                text: text(start, end),
                plain: true,
            },
            EntryKind::Quoted => Kind::Scalar {
                text: text(start + 1, end - 1),
                plain: false,
            },
            EntryKind::Unescaped(index) => {
                let text = self.tree.unescaped.get(index as usize).map(String::as_str);
                Kind::Scalar {
                    text: text.unwrap_or_default(),
                    plain: false,
                }
            }
            EntryKind::List => Kind::List,
            // A node is never an alias: `Tree::node` follows them.
            EntryKind::Mapping | EntryKind::Alias(_) => Kind::Mapping,
        }
    }

    /// How many nodes are inside, at any depth.
    pub(super) fn inside(&self) -> usize {
        self.entry.next.saturating_sub(self.index + 1) as usize
    }

    /// The nodes directly inside: the items of a list; keys and values of a mapping in turn.
    fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let tree = self.tree;
        let end = self.entry.next;
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            let next = tree.entries.get(at as usize).filter(|_| at < end)?.next;
            let node = tree.node(at);
            at = next;
            node
        })
    }

    /// The items of a list; nothing for anything else.
    pub(super) fn items(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.children().take_while({
            let list = self.kind() == Kind::List;
            move |_| list
        })
    }

    /// Keys and values of a mapping; nothing for anything else.
    pub(super) fn fields(&self) -> impl Iterator<Item = (Node<'a>, Node<'a>)> + use<'a> {
        let mapping = self.kind() == Kind::Mapping;
        let mut children = self.children();
        std::iter::from_fn(move || {
            mapping.then_some(())?;
            Some((children.next()?, children.next()?))
        })
    }
}

/// Whether [`plain`] knows `text`, which it then reads as the full parser does.
///
/// # Panics
/// If the full parser makes another tree of it, or none.
#[cfg(any(test, fuzzing))]
pub fn is_read_plainly(text: &str) -> bool {
    let Some(tree) = plain::read(text) else {
        return false;
    };
    assert_eq!(Tree::parse_any(text), Ok(Some(tree)), "{text:?}");
    true
}

/// Turns events into a [`Tree`].
#[derive(Debug)]
struct Builder<'t> {
    tree: Tree<'t>,
    /// Open collections, outermost first.
    open: Vec<Open>,
    /// Anchored nodes that are complete: index, and how many nodes they stand for.
    anchors: HashMap<usize, (u32, usize)>,
    /// Nodes so far, each alias counted as all that it stands for.
    expanded: usize,
    documents: usize,
}

#[derive(Debug)]
struct Open {
    index: u32,
    /// `Builder::expanded` when it was opened.
    expanded: usize,
    anchor: usize,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            tree: Tree {
                text,
                entries: Vec::new(),
                unescaped: Vec::new(),
            },
            open: Vec::new(),
            anchors: HashMap::new(),
            expanded: 0,
            documents: 0,
        }
    }

    fn event(&mut self, event: Event<'t>, span: &Span) -> Result<(), Diagnostic> {
        if let Some(tag) = event.tag() {
            let at = span
                .tag_span()
                .map_or_else(|| bytes(span), |tag| bytes(&tag));
            let message = format!("tag `{}` is not supported", tag.original());
            let help = "remove it; quotes make a string of anything";
            return Err(Diagnostic::new(at, message).help(help));
        }
        match event {
            Event::DocumentStart(..) => self.document(span),
            Event::Scalar(text, style, anchor, _) => {
                let kind = self.scalar(&text, style, span);
                self.add(kind, span)?;
                self.remember(anchor, self.last(), 1);
                Ok(())
            }
            Event::SequenceStart(_, anchor, _) => self.start(EntryKind::List, anchor, span),
            Event::MappingStart(_, anchor, _) => self.start(EntryKind::Mapping, anchor, span),
            Event::SequenceEnd | Event::MappingEnd => {
                self.end();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn document(&mut self, span: &Span) -> Result<(), Diagnostic> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(
            Diagnostic::new(bytes(span), "a second YAML document starts here")
                .help("a rules text is one document: merge the lists and remove this `---`"),
        )
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: &Span) -> EntryKind {
        let written = span.slice(self.tree.text).unwrap_or_default();
        match style {
            // The parser makes `~` of a value that is not there.
            ScalarStyle::Plain if written == text || written.is_empty() => return EntryKind::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted
                if written.get(1..written.len().saturating_sub(1)) == Some(text) =>
            {
                return EntryKind::Quoted;
            }
            _ => {}
        }
        self.tree.unescaped.push(text.to_owned());
        EntryKind::Unescaped(index(self.tree.unescaped.len() - 1))
    }

    fn add(&mut self, kind: EntryKind, span: &Span) -> Result<(), Diagnostic> {
        self.count(1, span)?;
        let Range { start, end } = bytes(span);
        let next = index(self.tree.entries.len() + 1);
        self.tree.entries.push(Entry {
            start: index(start),
            end: index(end),
            next,
            kind,
        });
        Ok(())
    }

    fn start(&mut self, kind: EntryKind, anchor: usize, span: &Span) -> Result<(), Diagnostic> {
        let expanded = self.expanded;
        self.add(kind, span)?;
        self.open.push(Open {
            index: self.last(),
            expanded,
            anchor,
        });
        Ok(())
    }

    fn end(&mut self) {
        let next = index(self.tree.entries.len());
        if let Some(open) = self.open.pop() {
            if let Some(entry) = self.tree.entries.get_mut(open.index as usize) {
                entry.next = next;
            }
            self.remember(open.anchor, open.index, self.expanded - open.expanded);
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<(), Diagnostic> {
        let Some(&(target, nodes)) = self.anchors.get(&anchor) else {
            return Err(
                Diagnostic::new(bytes(span), "this alias stands for what it is part of")
                    .help("write the value out"),
            );
        };
        self.count(nodes.saturating_sub(1), span)?;
        self.add(EntryKind::Alias(target), span)
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Diagnostic> {
        self.expanded += nodes;
        if self.expanded <= NODES_MAX {
            return Ok(());
        }
        let message = format!("more than {NODES_MAX} YAML nodes (`NODES_MAX`)");
        let help = "an alias counts as all that it stands for; use fewer of them, or fewer rules";
        Err(Diagnostic::new(bytes(span), message).help(help))
    }

    fn remember(&mut self, anchor: usize, target: u32, nodes: usize) {
        // The parser numbers anchors from 1; 0 is none.
        if anchor != 0 {
            self.anchors.insert(anchor, (target, nodes));
        }
    }

    fn last(&self) -> u32 {
        index(self.tree.entries.len().saturating_sub(1))
    }
}

/// The parser's first complaint, after which it cannot go on.
fn syntax_error(error: &ScanError, text: &str) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(text.len());
    // The offending character, if it is one that can be shown.
    let width = text
        .get(at..)
        .and_then(|rest| rest.chars().next())
        .filter(|c| !c.is_control());
    let span = at..at + width.map_or(0, char::len_utf8);
    let message = format!("not YAML: {}", error.info());
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => {
            let message = format!("nested deeper than {DEPTH_MAX} levels (`DEPTH_MAX`)");
            Diagnostic::new(span, message).help("the schema needs 7; check the indentation")
        }
        ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName => {
            Diagnostic::new(span, "alias of an unknown anchor")
                .help("put a pattern or glob that starts with `*` in quotes")
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => Diagnostic::new(span, message).help("indent with spaces"),
        _ => Diagnostic::new(span, message)
            .help("check indentation, and that every quote and bracket before this is closed"),
    }
}

fn bytes(span: &Span) -> Range<usize> {
    // Always there for a text in memory.
    span.byte_range().unwrap_or_default()
}

/// Positions are kept in four bytes: the largest text is 16 MiB.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

//! All patterns of all rules in one trie: which patterns cover an image? No allocation.
//!
//! Every node but the roots is in one open-addressed table, keyed by (parent node, text), so that a
//! step costs the same however many patterns there are. An image is looked for
//!
//! 1. at the node of `*`;
//! 2. below its exact host, port included (one step);
//! 3. below its host without port, among patterns with `:*` (one step);
//! 4. below wildcard hosts: label by label from the right, then the port;
//! 5. from each node that a host leads to, segment by segment along the path. Every node on the
//!    way is a hit for the patterns that end there: a path covers all that is below it.
//!
//! Labels and segments with a `*` are in the table too, and listed at their parent besides: the walk
//! tries each of that list, which is short because equal texts share one node.
//!
//! With many patterns the time goes into waiting for memory. So the table holds four bytes a node and
//! stays near the core; a step then waits for one line of [`Nodes::list`] and one of the texts.
//!
//! This module knows positions of rules and patterns, not what they mean.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::image::ImageRef;

use super::glob;
use super::pattern::{HostClass, Port, RegistryPattern};

/// Hosts up to this many bytes are folded to lower case without an allocation: a DNS name and port.
const FOLDED_HOST_BYTES: usize = 253 + 6;

/// The compiled trie; immutable.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    children: HashTable<NodeId>,
    nodes: Nodes,
    /// Nodes with a `*` in their text, each parent's together.
    globs: Box<[Glob]>,
    /// Their texts once more, since those that are tried one after the other lie apart in
    /// [`Nodes::texts`].
    glob_texts: String,
    /// Patterns, those of each node together.
    hits: Box<[Hit]>,
    /// Whether step 3 and step 4 have anything to find.
    has_any_port: bool,
    has_wildcard_host: bool,
}

type NodeId = u32;

/// Roots of the steps 1 to 4.
const ANY: NodeId = 0;
const EXACT_HOST: NodeId = 1;
const ANY_PORT_HOST: NodeId = 2;
const WILDCARD_HOST: NodeId = 3;
const ROOTS: usize = 4;

/// All nodes, by [`NodeId`].
#[derive(Debug, Default)]
struct Nodes {
    list: Vec<Node>,
    /// All labels and segments, each once per node.
    texts: String,
}

/// What a node has of each list that all nodes share: where its part ends. It starts where that of
/// the node before ends.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    parent: NodeId,
    /// Its label or segment: in [`Nodes::texts`].
    text_end: u32,
    /// In [`Matcher::hits`].
    hits_end: u32,
    /// Its children with a `*`: in [`Matcher::globs`].
    globs_end: u32,
}

/// A node with a `*` in its text.
#[derive(Debug)]
struct Glob {
    node: NodeId,
    /// Where its text is in [`Matcher::glob_texts`].
    text_start: u32,
    text_end: u32,
}

impl Nodes {
    /// The part of `node` in the list of which [`Node`] knows the `end`.
    fn part(&self, node: NodeId, end: impl Fn(&Node) -> u32) -> Range<usize> {
        let at = node as usize;
        let before = at.checked_sub(1).and_then(|before| self.list.get(before));
        let start = before.map_or(0, &end);
        let end = self.list.get(at).map_or(start, &end);
        start as usize..end as usize
    }

    fn text(&self, node: NodeId) -> &str {
        let part = self.part(node, |node| node.text_end);
        self.texts.get(part).unwrap_or_default()
    }

    fn is(&self, node: NodeId, parent: NodeId, text: &str) -> bool {
        let found = self.list.get(node as usize);
        found.is_some_and(|found| found.parent == parent) && self.text(node) == text
    }

    fn hash(&self, node: NodeId) -> u64 {
        let parent = self.list.get(node as usize).map(|node| node.parent);
        hash(parent.unwrap_or_default(), self.text(node))
    }

    fn push(&mut self, parent: NodeId, text: &str) -> NodeId {
        self.texts.push_str(text);
        let node = position(self.list.len());
        self.list.push(Node {
            parent,
            text_end: position(self.texts.len()),
            ..Node::default()
        });
        node
    }
}

/// One pattern that ends at a node. Those of one node are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    /// Position of the rule.
    pub(super) rule: u32,
    /// In `excludeImages`, not in `images`.
    pub(super) exclude: bool,
    /// Position of the pattern among all that were added.
    pub(super) pattern: u32,
}

/// What is looked for: an image, or a pattern as if it were one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    /// With port, lower case.
    host: &'a str,
    name: &'a str,
    /// With its colon, which stands alone if there is no port.
    port: &'a str,
    path: Segments<'a>,
}

/// What is left of a path.
#[derive(Debug, Clone, Copy)]
struct Segments<'a> {
    /// First segment, ahead of `rest`; empty if it is there already.
    prefix: &'a str,
    rest: &'a str,
}

/// Room to fold the host of an image; lives as long as its [`Query`].
pub(super) type HostBuffer = SmallVec<[u8; FOLDED_HOST_BYTES]>;

impl<'a> Query<'a> {
    pub(super) fn image(image: &ImageRef<'a>, buffer: &'a mut HostBuffer) -> Self {
        let mut host = image.host();
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            buffer.extend_from_slice(host.as_bytes());
            buffer.make_ascii_lowercase();
            host = std::str::from_utf8(buffer).unwrap_or(host);
        }
        let prefix = image.path_prefix().trim_end_matches('/');
        Self::new(
            host,
            Segments {
                prefix,
                rest: image.path(),
            },
        )
    }

    /// A pattern with a host as if it were an image: it then hits exactly the patterns that cover
    /// all of it, by the argument at [`glob::covers`].
    fn pattern(pattern: &'a RegistryPattern) -> Self {
        Self::new(
            pattern.host(),
            Segments {
                prefix: "",
                rest: pattern.path(),
            },
        )
    }

    fn new(host: &'a str, path: Segments<'a>) -> Self {
        // The colons inside `[…]` are not the one in front of a port.
        let port = match host.rfind(':') {
            Some(colon) if !host.ends_with(']') => colon,
            _ => host.len(),
        };
        let (name, port) = host.split_at_checked(port).unwrap_or((host, ""));
        Self {
            host,
            name,
            port: if port.is_empty() { ":" } else { port },
            path,
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if !self.prefix.is_empty() {
            return Some(std::mem::take(&mut self.prefix));
        }
        if self.rest.is_empty() {
            return None;
        }
        let (segment, rest) = self.rest.split_once('/').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(segment)
    }
}

impl Matcher {
    /// Calls `visit` with the hits of every node that covers the image. A pattern comes at most
    /// once unless the query is one.
    pub(super) fn walk<'m>(&'m self, query: &Query<'_>, visit: &mut impl FnMut(&'m [Hit])) {
        visit(self.hits(ANY));
        if let Some(node) = self.child(EXACT_HOST, query.host) {
            self.walk_path(node, query.path, visit);
        }
        if self.has_any_port
            && let Some(node) = self.child(ANY_PORT_HOST, query.name)
        {
            self.walk_path(node, query.path, visit);
        }
        if self.has_wildcard_host {
            self.walk_labels(WILDCARD_HOST, Some(query.name), query, visit);
        }
    }

    /// `left`: labels that are still to be walked, from the right.
    fn walk_labels<'m>(
        &'m self,
        node: NodeId,
        left: Option<&str>,
        query: &Query<'_>,
        visit: &mut impl FnMut(&'m [Hit]),
    ) {
        let Some(left) = left else {
            for port in [query.port, ":*"] {
                if let Some(node) = self.child(node, port) {
                    self.walk_path(node, query.path, visit);
                }
            }
            return;
        };
        let (left, label) = match left.rsplit_once('.') {
            Some((left, label)) => (Some(left), label),
            None => (None, left),
        };
        if let Some(node) = self.child(node, label) {
            self.walk_labels(node, left, query, visit);
        }
        for glob in self.globs(node) {
            if glob::matches(self.glob_text(glob), label) {
                self.walk_labels(glob.node, left, query, visit);
            }
        }
    }

    fn walk_path<'m>(
        &'m self,
        node: NodeId,
        mut path: Segments<'_>,
        visit: &mut impl FnMut(&'m [Hit]),
    ) {
        visit(self.hits(node));
        let Some(segment) = path.next() else {
            return;
        };
        if let Some(node) = self.child(node, segment) {
            self.walk_path(node, path, visit);
        }
        for glob in self.globs(node) {
            if glob::matches(self.glob_text(glob), segment) {
                self.walk_path(glob.node, path, visit);
            }
        }
    }

    /// The first pattern that covers all that `pattern` covers.
    pub(super) fn covering(&self, pattern: &RegistryPattern) -> Option<u32> {
        let mut first: Option<u32> = None;
        let mut visit =
            |hits: &[Hit]| first = hits.iter().map(|hit| hit.pattern).chain(first).min();
        if pattern.host_class() == HostClass::Any {
            visit(self.hits(ANY));
        } else {
            self.walk(&Query::pattern(pattern), &mut visit);
        }
        first
    }

    fn child(&self, parent: NodeId, text: &str) -> Option<NodeId> {
        let same = |node: &NodeId| self.nodes.is(*node, parent, text);
        self.children.find(hash(parent, text), same).copied()
    }

    fn hits(&self, node: NodeId) -> &[Hit] {
        let part = self.nodes.part(node, |node| node.hits_end);
        self.hits.get(part).unwrap_or_default()
    }

    fn globs(&self, node: NodeId) -> &[Glob] {
        let part = self.nodes.part(node, |node| node.globs_end);
        self.globs.get(part).unwrap_or_default()
    }

    fn glob_text(&self, glob: &Glob) -> &str {
        let part = glob.text_start as usize..glob.text_end as usize;
        self.glob_texts.get(part).unwrap_or_default()
    }
}

/// Collects patterns and makes a [`Matcher`] of them.
#[derive(Debug)]
pub(super) struct Builder {
    /// Complete but for the lists of globs and hits.
    matcher: Matcher,
    globs: Vec<(NodeId, NodeId)>,
    hits: Vec<(NodeId, Hit)>,
}

impl Builder {
    /// `patterns`: about how many there will be.
    pub(super) fn with_capacity(patterns: usize) -> Self {
        // A host and a path, in the ordinary pattern; growing would hash every node again.
        let children = HashTable::with_capacity(2 * patterns);
        let list = vec![Node::default(); ROOTS];
        let texts = String::new();
        Self {
            matcher: Matcher {
                children,
                nodes: Nodes { list, texts },
                ..Matcher::default()
            },
            globs: Vec::new(),
            hits: Vec::with_capacity(patterns),
        }
    }

    pub(super) fn add(&mut self, pattern: &RegistryPattern, hit: Hit) {
        let mut node = match (pattern.host_class(), pattern.port()) {
            (HostClass::Any, _) => ANY,
            (HostClass::Exact, Port::Any) => {
                self.matcher.has_any_port = true;
                self.step(ANY_PORT_HOST, pattern.host_name())
            }
            (HostClass::Exact, _) => self.step(EXACT_HOST, pattern.host()),
            (HostClass::Wildcard, _) => {
                self.matcher.has_wildcard_host = true;
                let labels = pattern.host_name().rsplit('.');
                let node = labels.fold(WILDCARD_HOST, |node, label| self.step(node, label));
                // As in a `Query`: the colon stands alone if there is no port. `:*` is no glob.
                let port = pattern.host().get(pattern.host_name().len()..);
                self.child(node, port.filter(|port| !port.is_empty()).unwrap_or(":"))
                    .0
            }
        };
        for segment in (Segments {
            prefix: "",
            rest: pattern.path(),
        }) {
            node = self.step(node, segment);
        }
        self.hits.push((node, hit));
    }

    /// The child at `text`, which may be a glob.
    fn step(&mut self, parent: NodeId, text: &str) -> NodeId {
        let (child, new) = self.child(parent, text);
        if new && glob::is_glob(text) {
            self.globs.push((parent, child));
        }
        child
    }

    /// The child at `text`, and whether it is new.
    fn child(&mut self, parent: NodeId, text: &str) -> (NodeId, bool) {
        let Matcher {
            children, nodes, ..
        } = &mut self.matcher;
        let same = |node: &NodeId| nodes.is(*node, parent, text);
        let hash_value = hash(parent, text);
        if let Some(child) = children.find(hash_value, same) {
            return (*child, false);
        }
        let child = nodes.push(parent, text);
        children.insert_unique(hash_value, child, |node| nodes.hash(*node));
        (child, true)
    }

    pub(super) fn build(mut self) -> Matcher {
        self.hits.sort_unstable();
        self.globs.sort_unstable();
        let mut matcher = self.matcher;
        let Nodes { list, texts } = &mut matcher.nodes;
        set_ends(list, &self.hits, |node| &mut node.hits_end);
        set_ends(list, &self.globs, |node| &mut node.globs_end);
        list.shrink_to_fit();
        texts.shrink_to_fit();
        matcher.hits = self.hits.into_iter().map(|(_, hit)| hit).collect();
        let texts = &mut matcher.glob_texts;
        let glob = |(_, node)| {
            let text_start = position(texts.len());
            texts.push_str(matcher.nodes.text(node));
            let text_end = position(texts.len());
            Glob {
                node,
                text_start,
                text_end,
            }
        };
        matcher.globs = self.globs.into_iter().map(glob).collect();
        matcher
    }
}

/// Lets the part of each node of `sorted` end where that of the next begins.
fn set_ends<T>(nodes: &mut [Node], sorted: &[(NodeId, T)], end: impl Fn(&mut Node) -> &mut u32) {
    let mut at = 0;
    for (id, node) in nodes.iter_mut().enumerate() {
        let rest = sorted.get(at..).unwrap_or_default();
        at += rest.iter().take_while(|(of, _)| *of as usize == id).count();
        *end(node) = position(at);
    }
}

/// Not seeded: whoever writes the patterns may as well write slow ones, and images only read.
fn hash(parent: NodeId, text: &str) -> u64 {
    let mut hasher = FixedState::with_seed(u64::from(parent)).build_hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Positions are kept in four bytes: 100,000 patterns of 515 bytes stay far below.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<RegistryPattern> {
        texts
            .iter()
            .map(|text| RegistryPattern::parse(text).unwrap())
            .collect()
    }

    fn matcher(patterns: &[RegistryPattern]) -> Matcher {
        let mut builder = Builder::with_capacity(0);
        for (position, pattern) in (0..).zip(patterns) {
            builder.add(
                pattern,
                Hit {
                    rule: 0,
                    exclude: false,
                    pattern: position,
                },
            );
        }
        builder.build()
    }

    /// Which patterns cover an image, given as it is written in a Pod.
    fn check(texts: &[&str], image: &str, expected: &[&str]) {
        let patterns = patterns(texts);
        let matcher = matcher(&patterns);
        let image = ImageRef::parse(image).unwrap();
        let mut buffer = HostBuffer::new();
        let mut found: Vec<u32> = Vec::new();
        matcher.walk(&Query::image(&image, &mut buffer), &mut |hits| {
            found.extend(hits.iter().map(|hit| hit.pattern));
        });
        found.sort_unstable();
        let found: Vec<&str> = found.into_iter().map(|at| texts[at as usize]).collect();
        assert_eq!(found, expected, "{image}");
    }

    #[test]
    fn paths_are_prefixes_of_whole_segments() {
        let acme = ["ghcr.io/acme", "ghcr.io/acme/x", "ghcr.io"];
        check(&acme, "ghcr.io/acme", &["ghcr.io/acme", "ghcr.io"]);
        check(&acme, "ghcr.io/acme/x/y:1", &acme);
        check(&acme, "ghcr.io/acme/xy", &["ghcr.io/acme", "ghcr.io"]);
        check(&acme, "ghcr.io/acme-evil/x", &["ghcr.io"]);
        check(&acme, "quay.io/acme", &[]);
    }

    #[test]
    fn path_globs_stay_inside_a_segment() {
        let globs = ["r.io/a*", "r.io/*/x", "r.io/*-eu/*b", "r.io/a/*"];
        check(&globs, "r.io/a", &["r.io/a*"]);
        check(&globs, "r.io/a/x", &["r.io/a*", "r.io/*/x", "r.io/a/*"]);
        check(&globs, "r.io/b-eu/bb/c", &["r.io/*-eu/*b"]);
        check(&globs, "r.io/b/y/x", &[]);
    }

    #[test]
    fn hub_images_are_docker_io() {
        let hub = [
            "docker.io",
            "index.docker.io/library",
            "docker.io/library/nginx",
            "*.io",
        ];
        check(&hub, "nginx", &hub);
        check(
            &hub,
            "index.docker.io/nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            &hub,
        );
        check(&hub, "acme/app", &["docker.io", "*.io"]);
        check(&["docker.io/nginx"], "nginx", &[]);
    }

    #[test]
    fn hosts_are_compared_label_by_label_without_case() {
        let hosts = [
            "*.azurecr.io",
            "a.azurecr.io",
            "A.*.io",
            "*.*",
            "a*.*.io",
            "*",
        ];
        check(
            &hosts,
            "a.azurecr.io/x",
            &["*.azurecr.io", "a.azurecr.io", "A.*.io", "a*.*.io", "*"],
        );
        check(
            &hosts,
            "A.AzureCR.io/x",
            &["*.azurecr.io", "a.azurecr.io", "A.*.io", "a*.*.io", "*"],
        );
        check(&hosts, "a.b.azurecr.io/x", &["*"]);
        check(&hosts, "azurecr.io/x", &["*.*", "*"]);
        let ecr = [
            "*.dkr.ecr.*.amazonaws.com",
            "123456789012.dkr.ecr.*.amazonaws.com",
        ];
        check(&ecr, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x", &ecr);
        check(&ecr, "2.dkr.ecr.eu-west-1.amazonaws.com/x", &ecr[..1]);
    }

    #[test]
    fn ports_are_equal_absent_or_any() {
        let ports = ["r.io", "r.io:5000", "r.io:*", "*.io", "*.io:5000", "*.io:*"];
        check(&ports, "r.io/x", &["r.io", "r.io:*", "*.io", "*.io:*"]);
        check(
            &ports,
            "r.io:5000/x",
            &["r.io:5000", "r.io:*", "*.io:5000", "*.io:*"],
        );
        check(&ports, "r.io:443/x", &["r.io:*", "*.io:*"]);
        let v6 = ["[::1]", "[::1]:5000", "[::1]:*", "*:5000", "*:*"];
        check(&v6, "[::1]/x", &["[::1]", "[::1]:*", "*:*"]);
        check(
            &v6,
            "[::1]:5000/x",
            &["[::1]:5000", "[::1]:*", "*:5000", "*:*"],
        );
    }

    #[test]
    fn a_long_upper_case_host_still_matches() {
        let host = format!("{}.io", vec!["A"; 300].join("."));
        let labels = vec!["*"; 301].join(".");
        assert!(labels.len() > crate::rules::pattern::PATTERN_BYTES_MAX);
        check(&["*"], &format!("{host}/x"), &["*"]);
    }

    fn covers(outer: &str, inner: &str, expected: bool) {
        let outer_patterns = patterns(&[outer]);
        let inner_pattern = &patterns(&[inner])[0];
        let found = matcher(&outer_patterns).covering(inner_pattern);
        assert_eq!(found.is_some(), expected, "{outer} covers {inner}");
    }

    #[test]
    fn covering_is_inclusion() {
        covers("r.io", "r.io/a", true);
        covers("r.io/a", "r.io", false);
        covers("r.io/*", "r.io/a", true);
        covers("r.io/*", "r.io", false);
        covers("r.io/a*", "r.io/a*c", true);
        covers("r.io/a*c", "r.io/a*", false);
        covers("*.io", "r*.io", true);
        covers("r*.io", "*.io", false);
        covers("*.io", "*.*", false);
        covers("r.io:*", "r.io", true);
        covers("r.io:*", "r.io:5000/x", true);
        covers("r.io", "r.io:*", false);
        covers("*", "r.io", true);
        covers("*", "*", true);
        covers("*:*", "*", false);
        covers("*:*", "localhost:*", true);
    }
}

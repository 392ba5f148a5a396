//! Which namespaces a rule or a permission is about.
//!
//! A rule's globs are plain. A permission (`pullSecrets[].namespaces`) guards the system's own
//! namespaces besides: [`SYSTEM_NAMESPACES`] are permitted only where written out, whatever a glob
//! says. Rules need no such guard, since nothing is injected where it is not permitted.
//!
//! pullpass's own namespace is never permitted either, but its name is not in the rules: who knows
//! it, keeps it out.

use std::fmt;

use super::glob;
use super::selector::{LabelSelector, Labels, Requirement};

/// Namespaces that a permission covers only where they are written out literally.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Globs and labels that choose namespaces; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFilter {
    /// Globs on the namespace's name; `None`: every namespace.
    pub include: Option<Vec<String>>,
    /// Globs that take namespaces out again.
    pub exclude: Vec<String>,
    /// ANDed with the globs; `None` if absent or empty.
    pub selector: Option<LabelSelector>,
}

/// A [`NamespaceFilter`], compiled.
#[derive(Debug)]
pub struct NamespaceMatcher {
    /// `None`: nothing is written. The common case, and small.
    filter: Option<Box<Filter>>,
    /// Globs do not cover [`SYSTEM_NAMESPACES`].
    guarded: bool,
}

#[derive(Debug)]
struct Filter {
    /// `None`: every namespace, as if `*` were written.
    include: Option<Names>,
    exclude: Names,
    selector: Option<LabelSelector>,
}

/// Names and globs. Names are found by binary search, since a long list is a list of names.
#[derive(Debug)]
pub(super) struct Names {
    /// Sorted.
    literal: Box<[Box<str>]>,
    /// Whether one of the globs is `*`; the others are not kept then. The common case, and free.
    everything: bool,
    globs: Box<[Box<str>]>,
}

/// Why a namespace is not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamespaceRefusal<'a> {
    /// No entry of `namespaces` covers it.
    NotListed,
    /// A glob covers it, but [`SYSTEM_NAMESPACES`] must be written out.
    SystemNotLiteral,
    /// This entry of `excludeNamespaces` covers it.
    Excluded(&'a str),
    /// Its labels do not meet this requirement of `namespaceSelector`.
    Selector(&'a Requirement),
    /// There is a `namespaceSelector`, and the labels are not known.
    LabelsUnknown,
}

impl NamespaceMatcher {
    /// Of a rule: globs cover every namespace.
    pub(super) fn rule(filter: &NamespaceFilter) -> Self {
        let names = |entries: &Vec<String>| Names::new(entries.iter().map(String::as_str));
        let compile = || Filter {
            include: filter.include.as_ref().map(names),
            exclude: names(&filter.exclude),
            selector: filter.selector.clone(),
        };
        Self {
            filter: (*filter != NamespaceFilter::default()).then(|| Box::new(compile())),
            guarded: false,
        }
    }

    /// Of a pull secret: globs do not cover [`SYSTEM_NAMESPACES`].
    pub fn permission(filter: &NamespaceFilter) -> Self {
        Self {
            guarded: true,
            ..Self::rule(filter)
        }
    }

    /// Whether the globs let `namespace` through; the selector is not asked.
    pub fn matches_name(&self, namespace: &str) -> bool {
        self.name_refusal(namespace).is_none()
    }

    /// The selector on the namespace's labels, if there is one.
    pub fn selector(&self) -> Option<&LabelSelector> {
        self.filter.as_ref()?.selector.as_ref()
    }

    /// Whether globs and selector let the namespace through. `labels` is only asked for when a
    /// selector needs it; unknown labels (`None`) match no selector.
    pub fn matches<L: Labels>(&self, namespace: &str, labels: Option<&L>) -> bool {
        self.refusal(namespace, labels).is_none()
    }

    /// Why the namespace is not let through; `None` if it is.
    pub fn refusal<L: Labels>(
        &self,
        namespace: &str,
        labels: Option<&L>,
    ) -> Option<NamespaceRefusal<'_>> {
        self.name_refusal(namespace).or_else(|| {
            let selector = self.selector()?;
            match labels {
                Some(labels) => selector.unmet(labels).map(NamespaceRefusal::Selector),
                None => Some(NamespaceRefusal::LabelsUnknown),
            }
        })
    }

    fn name_refusal(&self, namespace: &str) -> Option<NamespaceRefusal<'_>> {
        let include = self
            .filter
            .as_ref()
            .and_then(|filter| filter.include.as_ref());
        if include.is_none_or(|include| include.literal(namespace).is_none()) {
            if include.is_some_and(|include| include.glob(namespace).is_none()) {
                return Some(NamespaceRefusal::NotListed);
            }
            if self.guarded && is_system(namespace) {
                return Some(NamespaceRefusal::SystemNotLiteral);
            }
        }
        let exclude = &self.filter.as_ref()?.exclude;
        exclude.covering(namespace).map(NamespaceRefusal::Excluded)
    }
}

impl Names {
    pub(super) fn new<'a>(entries: impl Iterator<Item = &'a str> + Clone) -> Self {
        let everything = entries.clone().any(|entry| entry == "*");
        let (globs, literal) = entries
            .map(Box::from)
            .partition(|entry| glob::is_glob(entry));
        let (mut literal, globs): (Vec<Box<str>>, Vec<Box<str>>) = (literal, globs);
        literal.sort_unstable();
        Self {
            literal: literal.into(),
            everything,
            globs: if everything {
                Box::default()
            } else {
                globs.into()
            },
        }
    }

    /// The entry that covers a namespace, or all that a glob covers ([`glob::covers`]).
    pub(super) fn covering(&self, entry: &str) -> Option<&str> {
        self.literal(entry).or_else(|| self.glob(entry))
    }

    fn literal(&self, namespace: &str) -> Option<&str> {
        let found = self
            .literal
            .binary_search_by(|entry| (**entry).cmp(namespace))
            .ok()?;
        self.literal.get(found).map(|entry| &**entry)
    }

    fn glob(&self, namespace: &str) -> Option<&str> {
        if self.everything {
            return Some("*");
        }
        self.globs
            .iter()
            .map(|entry| &**entry)
            .find(|entry| glob::matches(entry, namespace))
    }
}

/// As a sentence's end: `namespace "x" …`.
impl fmt::Display for NamespaceRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed => f.write_str("is not covered by `namespaces`"),
            Self::SystemNotLiteral => {
                f.write_str("is a system namespace, which `namespaces` must name without a `*`")
            }
            Self::Excluded(entry) => write!(f, "is excluded by `{entry}`"),
            Self::Selector(unmet) => write!(f, "does not have the labels `{unmet}`"),
            Self::LabelsUnknown => f.write_str("has labels that are not known yet"),
        }
    }
}

/// Two entries of `namespaces` that may permit one namespace in both of two permissions; `None` if
/// that is proven impossible.
///
/// Proven means: the selectors contradict each other on some label, or for each two entries there
/// is no name that both cover (literal names are compared, two globs are intersected exactly,
/// globs do not cover system namespaces), or an entry of either `excludeNamespaces` takes out the
/// one name in question, or all that one of the two globs covers. Everything else counts as an
/// overlap: two globs whose common names several excludes take out together, for instance.
pub(super) fn overlap<'a>(
    a: &'a NamespaceFilter,
    b: &'a NamespaceFilter,
) -> Option<(&'a str, &'a str)> {
    if let (Some(a), Some(b)) = (&a.selector, &b.selector)
        && a.contradicts(b)
    {
        return None;
    }
    let excluded = |entry: &str| {
        let mut excludes = a.exclude.iter().chain(&b.exclude);
        excludes.any(|exclude| glob::covers(exclude, entry))
    };
    for x in included(a) {
        for y in included(b) {
            if !glob::intersects(x, y) {
                continue;
            }
            let apart = match [x, y].into_iter().find(|entry| !glob::is_glob(entry)) {
                Some(name) => excluded(name) || (x != y && is_system(name)),
                None => excluded(x) || excluded(y),
            };
            if !apart {
                return Some((x, y));
            }
        }
    }
    None
}

fn included(filter: &NamespaceFilter) -> impl Iterator<Item = &str> {
    let all = filter.include.is_none().then_some("*");
    filter
        .include
        .iter()
        .flatten()
        .map(String::as_str)
        .chain(all)
}

fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.contains(&namespace)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rules::selector::Operator;

    fn filter(include: &[&str], exclude: &[&str]) -> NamespaceFilter {
        let owned = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        NamespaceFilter {
            include: Some(owned(include)),
            exclude: owned(exclude),
            selector: None,
        }
    }

    fn team(value: &str) -> Option<LabelSelector> {
        let operator = Operator::In(vec![value.to_owned()]);
        LabelSelector::new(vec![Requirement {
            key: "team".to_owned(),
            operator,
        }])
    }

    fn check(include: &[&str], exclude: &[&str], namespace: &str, rule: bool, permission: bool) {
        let filter = filter(include, exclude);
        let (r, p) = (
            NamespaceMatcher::rule(&filter),
            NamespaceMatcher::permission(&filter),
        );
        let context = format!("{include:?} {exclude:?} {namespace}");
        assert_eq!(r.matches_name(namespace), rule, "rule {context}");
        assert_eq!(
            p.matches_name(namespace),
            permission,
            "permission {context}"
        );
    }

    #[test]
    fn globs_and_names() {
        check(&["*"], &[], "default", true, true);
        check(&["prod-*", "b", "a"], &[], "prod-eu", true, true);
        check(&["prod-*", "b", "a"], &[], "a", true, true);
        check(&["prod-*", "b", "a"], &[], "c", false, false);
        check(&["*"], &["sandbox-*"], "sandbox-1", false, false);
        check(&["*"], &["sandbox-*", "x"], "x", false, false);
        check(&["a"], &["*"], "a", false, false);
    }

    #[test]
    fn system_namespaces_are_permitted_only_literally() {
        for system in SYSTEM_NAMESPACES {
            check(&["*"], &[], system, true, false);
            check(&["kube-*"], &[], system, true, false);
            check(&["*", system], &[], system, true, true);
            check(&["*", system], &["kube-*"], system, false, false);
        }
        check(&["kube-*"], &[], "kube-monitoring", true, true);
    }

    #[test]
    fn refusals_say_why() {
        let matcher = NamespaceMatcher::permission(&NamespaceFilter {
            selector: team("a"),
            ..filter(&["prod-*", "kube-*"], &["prod-x*"])
        });
        let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let why = |namespace: &str, labels: Option<&BTreeMap<String, String>>| {
            matcher
                .refusal(namespace, labels)
                .map(|refusal| refusal.to_string())
        };
        assert_eq!(why("prod-1", Some(&labels("a"))), None);
        for (namespace, labels, expected) in [
            ("dev", Some(labels("a")), "is not covered by `namespaces`"),
            ("prod-x1", Some(labels("a")), "is excluded by `prod-x*`"),
            (
                "prod-1",
                Some(labels("b")),
                "does not have the labels `team=a`",
            ),
            ("prod-1", None, "has labels that are not known yet"),
            (
                "kube-system",
                None,
                "is a system namespace, which `namespaces` must name without a `*`",
            ),
        ] {
            assert_eq!(why(namespace, labels.as_ref()).as_deref(), Some(expected));
        }
    }

    fn overlaps(a: &NamespaceFilter, b: &NamespaceFilter, expected: bool) {
        assert_eq!(overlap(a, b).is_some(), expected, "{a:?} {b:?}");
        assert_eq!(overlap(b, a).is_some(), expected, "{b:?} {a:?}");
    }

    #[test]
    fn overlap_unless_proven_apart() {
        overlaps(&filter(&["*"], &[]), &filter(&["a"], &[]), true);
        overlaps(&filter(&["a"], &[]), &filter(&["a"], &[]), true);
        overlaps(&filter(&["a"], &[]), &filter(&["b"], &[]), false);
        overlaps(&filter(&["a-*"], &[]), &filter(&["b-*"], &[]), false);
        overlaps(&filter(&["a-*"], &[]), &filter(&["*-b"], &[]), true);
        overlaps(&filter(&["*"], &["a"]), &filter(&["a"], &[]), false);
        overlaps(&filter(&["*"], &["a-*"]), &filter(&["a-*"], &[]), false);
        overlaps(&filter(&["*"], &["a-b*"]), &filter(&["a-*"], &[]), true);
        overlaps(&filter(&["*"], &[]), &filter(&["kube-system"], &[]), false);
        overlaps(
            &filter(&["kube-system"], &[]),
            &filter(&["kube-system"], &[]),
            true,
        );
    }

    #[test]
    fn contradicting_selectors_prove_apart() {
        let of = |value: &str| NamespaceFilter {
            selector: team(value),
            ..filter(&["*"], &[])
        };
        overlaps(&of("a"), &of("b"), false);
        overlaps(&of("a"), &of("a"), true);
        overlaps(&of("a"), &filter(&["*"], &[]), true);
    }
}

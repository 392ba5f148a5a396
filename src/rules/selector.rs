//! Kubernetes label selectors, on borrowed labels.
//!
//! The same answers as apimachinery's `LabelSelectorAsSelector`: requirements are ANDed, `NotIn`
//! and `DoesNotExist` hold for a missing label. Syntax is checked where the rules text is read.

use std::collections::BTreeMap;
use std::fmt;

/// A LabelSelector: `matchLabels` and `matchExpressions`, ANDed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition on one label. Its text form is that of `kubectl get --selector`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
}

/// What must hold for a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Has one of these values. `matchLabels` is this with one value.
    In(Vec<String>),
    /// Has none of these values, or is missing.
    NotIn(Vec<String>),
    /// Is there.
    Exists,
    /// Is missing.
    DoesNotExist,
}

/// Labels of a Pod or of a namespace.
pub trait Labels {
    /// The value of label `key`.
    fn value(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSelector {
    /// `None` without requirements: that selector selects everything.
    pub(super) fn new(requirements: Vec<Requirement>) -> Option<Self> {
        (!requirements.is_empty()).then_some(Self { requirements })
    }

    /// Whether all requirements hold for `labels`.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.unmet(labels).is_none()
    }

    /// The first requirement that does not hold for `labels`.
    pub fn unmet(&self, labels: &(impl Labels + ?Sized)) -> Option<&Requirement> {
        self.requirements
            .iter()
            .find(|requirement| !requirement.holds(labels.value(&requirement.key)))
    }

    /// Whether no labels can match both. Only what two requirements on one key rule out between
    /// them is seen; `false` is no promise that some labels do.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        self.requirements.iter().any(|ours| {
            let same_key = |theirs: &&Requirement| theirs.key == ours.key;
            other
                .requirements
                .iter()
                .filter(same_key)
                .any(|theirs| ours.contradicts(theirs))
        })
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Operator::NotIn(values), Some(value)) => !values.iter().any(|v| v == value),
            (Operator::In(_) | Operator::Exists, None) | (Operator::DoesNotExist, Some(_)) => false,
            (Operator::NotIn(_) | Operator::DoesNotExist, None) | (Operator::Exists, Some(_)) => {
                true
            }
        }
    }

    /// Whether no value, nor none, satisfies both requirements on one key.
    fn contradicts(&self, other: &Self) -> bool {
        match (&self.operator, &other.operator) {
            (Operator::In(values), _) => !values.iter().any(|value| other.holds(Some(value))),
            (_, Operator::In(values)) => !values.iter().any(|value| self.holds(Some(value))),
            (Operator::Exists, Operator::DoesNotExist)
            | (Operator::DoesNotExist, Operator::Exists) => true,
            // Left are `NotIn` beside anything and what is equal: a fresh value or none does it.
            (Operator::NotIn(_), _)
            | (Operator::Exists | Operator::DoesNotExist, Operator::NotIn(_))
            | (Operator::Exists, Operator::Exists)
            | (Operator::DoesNotExist, Operator::DoesNotExist) => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => match values.as_slice() {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(text: &str) -> Requirement {
        let list = |values: &str| values.split(',').map(str::to_owned).collect();
        let (key, operator) = match text.split_once(' ') {
            Some((key, values)) => match values.strip_prefix('!') {
                Some(values) => (key, Operator::NotIn(list(values))),
                None => (key, Operator::In(list(values))),
            },
            None => match text.strip_prefix('!') {
                Some(key) => (key, Operator::DoesNotExist),
                None => (text, Operator::Exists),
            },
        };
        Requirement {
            key: key.to_owned(),
            operator,
        }
    }

    fn selector(requirements: &[&str]) -> LabelSelector {
        LabelSelector::new(requirements.iter().map(|text| requirement(text)).collect()).unwrap()
    }

    fn check(requirements: &[&str], labels: &[(&str, &str)], expected: bool) {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(
            selector(requirements).matches(&labels),
            expected,
            "{requirements:?} {labels:?}"
        );
    }

    #[test]
    fn matches_as_apimachinery_does() {
        check(&["a 1"], &[("a", "1")], true);
        check(&["a 1"], &[("a", "2")], false);
        check(&["a 1"], &[], false);
        check(&["a 1,2"], &[("a", "2")], true);
        check(&["a !1,2"], &[("a", "2")], false);
        check(&["a !1,2"], &[("a", "3")], true);
        check(&["a !1,2"], &[], true);
        check(&["a"], &[("a", "")], true);
        check(&["a"], &[], false);
        check(&["!a"], &[("a", "")], false);
        check(&["!a"], &[("b", "")], true);
        check(&["a 1", "b"], &[("a", "1")], false);
        check(&["a 1", "b"], &[("a", "1"), ("b", "x")], true);
    }

    #[test]
    fn text_is_that_of_kubectl() {
        for (input, expected) in [
            ("a 1", "a=1"),
            ("a 1,2", "a in (1,2)"),
            ("a !1", "a notin (1)"),
            ("a", "a"),
            ("!a", "!a"),
        ] {
            assert_eq!(requirement(input).to_string(), expected);
        }
    }

    #[test]
    fn contradictions_are_symmetric_and_on_one_key() {
        for (a, b, expected) in [
            ("a 1", "a 1", false),
            ("a 1", "a 2", true),
            ("a 1,2", "a 2,3", false),
            ("a 1", "a !1", true),
            ("a 1,2", "a !1", false),
            ("a 1", "!a", true),
            ("a 1", "a", false),
            ("a", "!a", true),
            ("a", "a", false),
            ("!a", "!a", false),
            ("a !1", "a !2", false),
            ("a !1", "a", false),
            ("a !1", "!a", false),
            ("a 1", "b 2", false),
        ] {
            assert_eq!(
                selector(&[a]).contradicts(&selector(&[b])),
                expected,
                "{a} {b}"
            );
            assert_eq!(
                selector(&[b]).contradicts(&selector(&[a])),
                expected,
                "{b} {a}"
            );
        }
    }
}

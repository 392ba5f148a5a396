//! Kubernetes label selectors, on borrowed labels.

/// A LabelSelector: `matchLabels` and `matchExpressions`, ANDed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {}

/// Labels of a Pod or of a namespace.
pub trait Labels {
    /// The value of label `key`.
    fn value(&self, key: &str) -> Option<&str>;
}

impl LabelSelector {
    /// Whether all requirements hold for `labels`.
    pub fn matches(&self, _labels: &(impl Labels + ?Sized)) -> bool {
        todo!()
    }
}

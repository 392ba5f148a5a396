//! Reads the whole document: what it says it is, then its two lists.

use crate::rules::diagnostics::{Collector, Diagnostic};
use crate::rules::yaml::{Kind, Node, Tree};

use super::RulesConfig;
use super::reader::Reader;
use super::rule::KnownSecrets;

const API_VERSION: &str = "pullpass.dev/v1alpha1";
const KIND: &str = "PullRules";

/// Said when there is nothing: an empty text is more often a slip than a wish.
const EMPTY_HELP: &str = "rules that inject nothing are `apiVersion: pullpass.dev/v1alpha1` and \
                          `kind: PullRules` without `rules`";

pub(super) fn read(tree: Option<&Tree<'_>>, findings: &mut Collector<'_>) -> RulesConfig {
    let mut reader = Reader::new(findings);
    match tree.and_then(Tree::root) {
        Some(root) => reader.document(root).unwrap_or_default(),
        None => {
            reader.report(Diagnostic::new(0..0, "the rules text is empty").help(EMPTY_HELP));
            RulesConfig::default()
        }
    }
}

impl Reader<'_, '_> {
    fn document(&mut self, root: Node<'_>) -> Option<RulesConfig> {
        let what = "the rules text";
        if self.is_other_object(root) {
            return None;
        }
        let fields = self.fields(root, what, ["apiVersion", "kind", "pullSecrets", "rules"])?;
        let [api_version, kind, pull_secrets, rules] = fields.values;
        for (value, field, expected) in [
            (api_version, "apiVersion", API_VERSION),
            (kind, "kind", KIND),
        ] {
            match value {
                Some(node) => {
                    self.choice(node, &format!("`{field}`"), &[(expected, ())]);
                }
                None => {
                    let message = format!("{what} has no `{field}`");
                    let diagnostic = Diagnostic::new(fields.head.clone(), message);
                    self.report(diagnostic.help(format!("add `{field}: {expected}`")));
                }
            }
        }
        let secrets = pull_secrets
            .map(|node| self.pull_secrets(node))
            .unwrap_or_default();
        let known = KnownSecrets::new(&secrets);
        let rules = rules
            .map(|node| self.rules(node, &known))
            .unwrap_or_default();
        let pull_secrets = secrets.into_iter().map(|secret| secret.config).collect();
        Some(RulesConfig {
            pull_secrets,
            rules,
        })
    }

    /// Reports another Kubernetes object at once: each of its fields would be reported otherwise.
    fn is_other_object(&mut self, root: Node<'_>) -> bool {
        let field = |name: &str| {
            let is =
                |key: Node<'_>| matches!(key.kind(), Kind::Scalar { text, .. } if text == name);
            root.fields()
                .find(|(key, _)| is(*key))
                .map(|(_, value)| value)
        };
        let (Some(_), Some(node)) = (field("metadata"), field("kind")) else {
            return false;
        };
        let Kind::Scalar { text, .. } = node.kind() else {
            return false;
        };
        if text != KIND {
            let help = "give the rules text alone, such as a ConfigMap's `data[\"rules.yaml\"]`";
            let message = format!("this is an object of kind `{text}`, not a rules text");
            self.report(Diagnostic::new(node.span(), message).help(help));
        }
        text != KIND
    }
}

//! Reads what chooses namespaces and Pods: globs with their excludes, and LabelSelectors.

use crate::rules::diagnostics::Diagnostic;
use crate::rules::namespace::{Names, NamespaceFilter};
use crate::rules::selector::{LabelSelector, Operator, Requirement};
use crate::rules::yaml::{Kind, Node};

use super::names::{LABEL_KEY, LABEL_VALUE, NAMESPACE_GLOB};
use super::reader::{Choice, Reader, Text};

/// Makes an [`Operator`] of its values, if it takes any.
type MakeOperator = fn(Vec<String>) -> Operator;

/// The operators of a LabelSelector, and whether each takes values.
const OPERATORS: &[Choice<(MakeOperator, bool)>] = &[
    ("In", (Operator::In, true)),
    ("NotIn", (Operator::NotIn, true)),
    ("Exists", (|_| Operator::Exists, false)),
    ("DoesNotExist", (|_| Operator::DoesNotExist, false)),
];

impl Reader<'_, '_> {
    /// `namespaces`, `excludeNamespaces` and `namespaceSelector`, of a rule or of a permission.
    pub(super) fn namespace_filter(
        &mut self,
        include: Option<Node<'_>>,
        exclude: Option<Node<'_>>,
        selector: Option<Node<'_>>,
    ) -> NamespaceFilter {
        let exclude = exclude
            .map(|node| self.names(node, "`excludeNamespaces`", &NAMESPACE_GLOB))
            .unwrap_or_default();
        let include = include.map(|node| {
            let entries = self.names(node, "`namespaces`", &NAMESPACE_GLOB);
            self.check_not_empty(node, "`namespaces`", "remove it to mean every namespace");
            entries
        });
        self.check_excluded(include.as_deref(), &exclude);
        NamespaceFilter {
            include: include.map(|entries| owned(&entries)),
            exclude: owned(&exclude),
            selector: selector.and_then(|node| self.selector(node, "`namespaceSelector`")),
        }
    }

    /// Reports entries that are wholly excluded again.
    fn check_excluded(&mut self, include: Option<&[Text<'_>]>, exclude: &[Text<'_>]) {
        let names = Names::new(exclude.iter().map(|entry| entry.text));
        let span_of = |entry: &str| {
            exclude
                .iter()
                .find(|e| e.text == entry)
                .map(|e| e.span.clone())
        };
        let Some(include) = include else {
            if let Some(span) = names.covering("*").and_then(span_of) {
                let diagnostic = Diagnostic::new(span, "`*` excludes every namespace");
                self.report(diagnostic.help("exclude less, or remove what this belongs to"));
            }
            return;
        };
        for entry in include {
            let by = names.covering(entry.text);
            if let Some((by, span)) = by.and_then(|by| Some((by, span_of(by)?))) {
                let message = format!("`{}` is wholly excluded again", entry.text);
                let diagnostic = Diagnostic::new(entry.span.clone(), message)
                    .related(span, format!("by `{by}` in `excludeNamespaces`"));
                self.report(diagnostic.help("remove one of the two"));
            }
        }
    }

    /// A LabelSelector; `None` also for an empty one, which selects everything.
    pub(super) fn selector(&mut self, node: Node<'_>, what: &str) -> Option<LabelSelector> {
        let [labels, expressions] = self
            .fields(node, what, ["matchLabels", "matchExpressions"])?
            .values;
        let mut requirements = Vec::new();
        if let Some(node) = labels {
            for [key, value] in self.string_map(node, "`matchLabels`") {
                let ok = self.check_name(&key, &LABEL_KEY) & self.check_name(&value, &LABEL_VALUE);
                if ok {
                    let operator = Operator::In(vec![value.text.to_owned()]);
                    requirements.push(Requirement {
                        key: key.text.to_owned(),
                        operator,
                    });
                }
            }
        }
        if let Some(node) = expressions {
            for item in self.items(node, "`matchExpressions`") {
                requirements.extend(self.expression(item));
            }
        }
        LabelSelector::new(requirements)
    }

    fn expression(&mut self, node: Node<'_>) -> Option<Requirement> {
        let what = "an entry of `matchExpressions`";
        let fields = self.fields(node, what, ["key", "operator", "values"])?;
        let [key, operator, values] = fields.values;
        let key = self.required(key, "key", what, &fields.head);
        let key = key.and_then(|node| self.name(node, "`key`", &LABEL_KEY));
        let operator_node = self.required(operator, "operator", what, &fields.head);
        let operator = operator_node.and_then(|node| self.choice(node, "`operator`", OPERATORS));
        let texts = values.map(|node| self.names(node, "`values`", &LABEL_VALUE));
        let (make, takes_values) = operator?;
        let given = values.is_some_and(|node| node.items().next().is_some());
        if given != takes_values {
            let (message, help) = match takes_values {
                true => ("this operator needs `values`", "name at least one value"),
                false => (
                    "this operator takes no `values`",
                    "remove them, or use `In` or `NotIn`",
                ),
            };
            let at = values.filter(|_| given).or(operator_node)?.span();
            self.report(Diagnostic::new(at, message).help(help));
        }
        let operator = make(owned(&texts.unwrap_or_default()));
        Some(Requirement {
            key: key?.text.to_owned(),
            operator,
        })
    }

    /// Reports a list that must not be empty.
    pub(super) fn check_not_empty(&mut self, node: Node<'_>, what: &str, otherwise: &str) {
        if node.kind() == Kind::List && node.items().next().is_none() {
            let help = format!("name at least one, or {otherwise}");
            self.report(Diagnostic::new(node.span(), format!("{what} is empty")).help(help));
        }
    }

    /// Reports a required field that is missing.
    pub(super) fn required<'a>(
        &mut self,
        value: Option<Node<'a>>,
        field: &str,
        what: &str,
        head: &std::ops::Range<usize>,
    ) -> Option<Node<'a>> {
        if value.is_none() {
            let message = format!("{what} has no `{field}`");
            self.report(Diagnostic::new(head.clone(), message).help(format!("add `{field}: …`")));
        }
        value
    }
}

pub(super) fn owned(texts: &[Text<'_>]) -> Vec<String> {
    texts.iter().map(|text| text.text.to_owned()).collect()
}

//! Reads the entries of `rules`.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use crate::rules::diagnostics::Diagnostic;
use crate::rules::matcher::{Builder, Hit};
use crate::rules::pattern::RegistryPattern;
use crate::rules::yaml::Node;

use super::names::{Names, RULE};
use super::reader::{Choice, Reader, Text, did_you_mean};
use super::secret::Secret;
use super::{Deliver, Mode, PATTERNS_MAX, RuleConfig};

const MODES: &[Choice<Mode>] = &[("Enforce", Mode::Enforce), ("Shadow", Mode::Shadow)];

/// The entries of `pullSecrets`, as rules find them.
#[derive(Debug)]
pub(super) struct KnownSecrets<'s> {
    secrets: &'s [Secret],
    by_name: HashMap<&'s str, usize, FixedState>,
}

impl<'s> KnownSecrets<'s> {
    pub(super) fn new(secrets: &'s [Secret]) -> Self {
        let by_name = secrets
            .iter()
            .enumerate()
            .map(|(i, s)| (s.config.name.as_str(), i));
        Self {
            secrets,
            by_name: by_name.collect(),
        }
    }
}

/// Patterns with their places, which only the checks between patterns need.
#[derive(Debug, Default)]
struct Patterns {
    patterns: Vec<RegistryPattern>,
    /// Empty where nothing is excluded: a hundred thousand rules would each fill a list for nothing.
    spans: Vec<Range<usize>>,
}

impl Reader<'_, '_> {
    pub(super) fn rules(&mut self, node: Node<'_>, secrets: &KnownSecrets<'_>) -> Vec<RuleConfig> {
        let mut names = Names::default();
        names.reserve(node.items().count());
        let items = self.items(node, "`rules`");
        items
            .filter_map(|item| self.rule(item, secrets, &mut names))
            .collect()
    }

    fn rule<'a>(
        &mut self,
        node: Node<'a>,
        secrets: &KnownSecrets<'_>,
        names: &mut Names<'a>,
    ) -> Option<RuleConfig> {
        const FIELDS: [&str; 10] = [
            "name",
            "images",
            "excludeImages",
            "namespaces",
            "excludeNamespaces",
            "namespaceSelector",
            "podSelector",
            "pullSecrets",
            "always",
            "mode",
        ];
        let fields = self.fields(node, "a rule", FIELDS)?;
        let [
            name,
            images,
            exclude_images,
            include,
            exclude,
            selector,
            pods,
            refs,
            always,
            mode,
        ] = fields.values;
        let name = self.required(name, "name", "a rule", &fields.head);
        let name = name.and_then(|node| self.name(node, "`name`", &RULE));
        if let Some(name) = &name {
            self.check_unique(names, name, "rule");
        }
        let has_images = images.is_some();
        let images = images.map(|node| {
            let otherwise = "remove it to mean whatever the pull secrets cover";
            self.check_not_empty(node, "`images`", otherwise);
            self.patterns(node, "`images`", exclude_images.is_some())
        });
        let excludes = exclude_images.map(|node| self.patterns(node, "`excludeImages`", true));
        let excludes = excludes.unwrap_or_default();
        if let Some(images) = &images {
            self.check_covered(images, &excludes);
        }
        let namespaces = self.namespace_filter(include, exclude, selector);
        let pod_selector = pods.and_then(|node| self.selector(node, "`podSelector`"));
        let refs = self.required(refs, "pullSecrets", "a rule", &fields.head);
        let pull_secrets = refs.map(|node| self.secret_refs(node, secrets, has_images));
        let always = always.and_then(|node| self.boolean(node, "`always`"));
        let mode = mode.and_then(|node| self.choice(node, "`mode`", MODES));
        Some(RuleConfig {
            name: name?.text.to_owned(),
            images: images.map(|images| images.patterns),
            exclude_images: excludes.patterns,
            namespaces,
            pod_selector,
            pull_secrets: pull_secrets?,
            always: always.unwrap_or_default(),
            mode: mode.unwrap_or_default(),
        })
    }

    fn patterns(&mut self, node: Node<'_>, what: &str, with_spans: bool) -> Patterns {
        let mut read = Patterns {
            patterns: Vec::with_capacity(node.inside()),
            spans: Vec::new(),
        };
        for item in self.items(node, what) {
            let Some(Text { text, span }) = self.entry(item, what) else {
                continue;
            };
            self.patterns += 1;
            if self.patterns > PATTERNS_MAX {
                self.too_many_patterns(span);
                break;
            }
            match RegistryPattern::parse(text) {
                Ok(pattern) => {
                    read.patterns.push(pattern);
                    if with_spans {
                        read.spans.push(span);
                    }
                }
                Err(error) => {
                    self.report(Diagnostic::new(span, error.to_string()).help(error.fix()))
                }
            }
        }
        read
    }

    fn too_many_patterns(&mut self, span: Range<usize>) {
        // Once: the count stays over the limit in every list that follows.
        if self.patterns == PATTERNS_MAX + 1 {
            let message = format!("more than {PATTERNS_MAX} image patterns (`PATTERNS_MAX`)");
            let help = "a pattern covers all that is below it: use shorter ones, or `*`";
            self.report(Diagnostic::new(span, message).help(help));
        }
    }

    /// Reports patterns that one exclude takes out wholly.
    fn check_covered(&mut self, images: &Patterns, excludes: &Patterns) {
        if excludes.patterns.is_empty() {
            return;
        }
        let mut matcher = Builder::with_capacity(excludes.patterns.len());
        for (position, pattern) in (0..).zip(&excludes.patterns) {
            matcher.add(
                pattern,
                Hit {
                    rule: 0,
                    exclude: true,
                    pattern: position,
                },
            );
        }
        let matcher = matcher.build();
        for (pattern, span) in images.patterns.iter().zip(&images.spans) {
            let by = matcher.covering(pattern).map(|position| position as usize);
            let by = by.and_then(|at| excludes.patterns.get(at).zip(excludes.spans.get(at)));
            if let Some((by, by_span)) = by {
                let diagnostic = Diagnostic::new(
                    span.clone(),
                    format!("`{pattern}` is wholly excluded again"),
                )
                .related(by_span.clone(), format!("by `{by}` in `excludeImages`"));
                self.report(diagnostic.help("remove one of the two"));
            }
        }
    }

    /// Names of pull secrets, as their positions.
    fn secret_refs(
        &mut self,
        node: Node<'_>,
        secrets: &KnownSecrets<'_>,
        has_images: bool,
    ) -> Vec<usize> {
        let mut positions: Vec<usize> = Vec::with_capacity(node.inside());
        let what = "`pullSecrets`";
        self.check_not_empty(node, what, "remove the rule");
        for item in self.items(node, what) {
            let Some(Text { text, span }) = self.entry(item, what) else {
                continue;
            };
            let Some(&position) = secrets.by_name.get(text) else {
                let known = secrets
                    .secrets
                    .iter()
                    .map(|secret| secret.config.name.as_str());
                let help = did_you_mean(text, known)
                    .unwrap_or_else(|| format!("add it to `pullSecrets`: `- name: {text}`"));
                let message = format!("unknown pull secret \"{text}\"");
                self.report(Diagnostic::new(span, message).help(help));
                continue;
            };
            if positions.contains(&position) {
                let message = format!("pull secret \"{text}\" is named twice in this rule");
                self.report(Diagnostic::new(span, message).help("remove one of the two"));
                continue;
            }
            positions.push(position);
            let secret = secrets.secrets.get(position);
            let never = secret.filter(|secret| secret.config.deliver == Deliver::Never);
            if let Some(secret) = never.filter(|_| !has_images) {
                let message = format!(
                    "this rule needs `images`: nobody here can read pull secret \"{text}\" to see \
                     what it covers"
                );
                let diagnostic = Diagnostic::new(span, message)
                    .related(secret.name_span.clone(), "`deliver: Never`, defined")
                    .help("add `images`, or let pullpass deliver the Secret");
                self.report(diagnostic);
            }
        }
        positions
    }
}

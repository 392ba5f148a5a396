//! The names of Kubernetes and of the rules: what each may be, and what was probably meant.
//!
//! Sources: apimachinery `util/validation` (`IsDNS1123Label`, `IsDNS1123Subdomain`,
//! `IsQualifiedName`, `IsValidLabelValue`).

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use crate::rules::diagnostics::Diagnostic;
use crate::rules::yaml::Node;

use super::reader::{Reader, Text};

/// `DNS1123LabelMaxLength`, `LabelValueMaxLength`, and the name part of a label key, in bytes.
const LABEL_BYTES_MAX: usize = 63;
/// `DNS1123SubdomainMaxLength`, in bytes.
const SUBDOMAIN_BYTES_MAX: usize = 253;

/// A kind of name.
#[derive(Debug)]
pub(super) struct Syntax {
    /// `a Secret name`.
    name: &'static str,
    /// What it may be.
    rule: &'static str,
    accepts: fn(&str) -> bool,
}

/// Also of ServiceAccounts and of the entries of `pullSecrets`, whose name is a Secret's by default.
const SUBDOMAIN: &str = "lower-case letters, digits, `-` and `.`, a letter or digit at both ends, at most 253 characters";
const LABEL: &str =
    "lower-case letters, digits and `-`, a letter or digit at both ends, at most 63 characters";
const VALUE: &str =
    "letters, digits, `-`, `_` and `.`, a letter or digit at both ends, at most 63 characters";

pub(super) const SECRET: Syntax = Syntax {
    name: "a Secret name",
    rule: SUBDOMAIN,
    accepts: is_subdomain,
};
pub(super) const SERVICE_ACCOUNT: Syntax = Syntax {
    name: "a ServiceAccount name",
    rule: SUBDOMAIN,
    accepts: is_subdomain,
};
pub(super) const NAMESPACE: Syntax = Syntax {
    name: "a namespace name",
    rule: LABEL,
    accepts: is_label,
};
pub(super) const NAMESPACE_GLOB: Syntax = Syntax {
    name: "a namespace name or glob",
    rule: "lower-case letters, digits, `-` and `*` (any run), at most 63 characters",
    accepts: is_namespace_glob,
};
pub(super) const RULE: Syntax = Syntax {
    name: "a rule name",
    rule: VALUE,
    accepts: is_rule_name,
};
pub(super) const LABEL_KEY: Syntax = Syntax {
    name: "a label key",
    rule: "a name like `team`, with a DNS prefix before it if need be: `example.com/team`",
    accepts: is_label_key,
};
pub(super) const LABEL_VALUE: Syntax = Syntax {
    name: "a label value",
    rule: VALUE,
    accepts: is_label_value,
};
pub(super) const ENV_NAME: Syntax = Syntax {
    name: "the name of an environment variable",
    rule: "anything without `=`",
    accepts: |name| !name.is_empty() && !name.contains(['=', '\0']),
};
pub(super) const FILE: Syntax = Syntax {
    name: "the path of a file",
    rule: "an absolute path in the controller's container",
    accepts: is_absolute,
};
pub(super) const PROGRAM: Syntax = Syntax {
    name: "a program",
    rule: "an absolute path in the controller's container, or the name of a file among its plugins",
    accepts: |name| {
        is_absolute(name) || !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
    },
};

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.ends_with('/') && !path.contains('\0')
}

/// Where names are first defined. Not seeded: whoever writes the rules may as well write slow ones.
pub(super) type Names<'a> = HashMap<&'a str, Range<usize>, FixedState>;

impl Reader<'_, '_> {
    /// Whether a name is new among `names`; reports if not, and remembers it if so.
    pub(super) fn check_unique<'a>(
        &mut self,
        names: &mut Names<'a>,
        name: &Text<'a>,
        what: &str,
    ) -> bool {
        let Some(first) = names.get(name.text) else {
            names.insert(name.text, name.span.clone());
            return true;
        };
        let related = format!("{what} \"{}\", first defined", name.text);
        let message = format!("{what} \"{}\" is defined twice", name.text);
        let diagnostic =
            Diagnostic::new(name.span.clone(), message).related(first.clone(), related);
        self.report(diagnostic.help("rename one of the two, or merge them"));
        false
    }

    /// A string of this syntax.
    pub(super) fn name<'a>(
        &mut self,
        node: Node<'a>,
        what: &str,
        syntax: &Syntax,
    ) -> Option<Text<'a>> {
        let text = self.string(node, what)?;
        self.check_name(&text, syntax).then_some(text)
    }

    /// The entries of a list that have this syntax.
    pub(super) fn names<'a>(
        &mut self,
        node: Node<'a>,
        what: &str,
        syntax: &Syntax,
    ) -> Vec<Text<'a>> {
        let mut texts = self.strings(node, what);
        texts.retain(|text| self.check_name(text, syntax));
        texts
    }

    /// Whether `text` has this syntax; reports if not.
    pub(super) fn check_name(&mut self, text: &Text<'_>, syntax: &Syntax) -> bool {
        if (syntax.accepts)(text.text) {
            return true;
        }
        let Syntax {
            name,
            rule,
            accepts,
        } = syntax;
        let message = format!("`{}` is not {name}", text.text);
        let guess = text.text.trim().to_lowercase().replace(['_', ' '], "-");
        let help = match accepts(&guess) {
            true => format!("write `{guess}`: {name} is {rule}"),
            false => format!("{name} is {rule}"),
        };
        self.report(Diagnostic::new(text.span.clone(), message).help(help));
        false
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= LABEL_BYTES_MAX && is_word(text, inner)
}

fn is_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(|label| is_word(label, inner))
}

fn is_namespace_glob(text: &str) -> bool {
    if !text.contains('*') {
        return is_label(text);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*');
    text.len() <= LABEL_BYTES_MAX && text.bytes().all(allowed)
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_rule_name(text)
}

/// That of a label value, so that it can be one, and a metric's label, and part of a list.
fn is_rule_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= LABEL_BYTES_MAX && is_word(text, inner)
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_rule_name(name),
        None => is_rule_name(text),
    }
}

/// Not empty, all `inner`, with a letter or digit at both ends.
fn is_word(text: &str, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|&byte| inner(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(syntax: &Syntax, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!((syntax.accepts)(text), "{text} should be {}", syntax.name);
        }
        for text in bad {
            assert!(
                !(syntax.accepts)(text),
                "{text} should not be {}",
                syntax.name
            );
        }
    }

    #[test]
    fn names_as_apimachinery_takes_them() {
        let (long63, long64) = ("a".repeat(63), "a".repeat(64));
        let (long253, long254) = ("ab.".repeat(84) + "a", "a".repeat(254));
        check(
            &SECRET,
            &["a", "a.b-c", "1", &long64, &long253],
            &[
                "", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a/b", &long254,
            ],
        );
        check(
            &NAMESPACE,
            &["a", "a-b", "1", &long63],
            &["", "a.b", "A", "a-", "*", &long64],
        );
        check(
            &NAMESPACE_GLOB,
            &["*", "a-*", "*-a", "a"],
            &["", "A*", "a.*", "a-", &long64],
        );
        check(
            &LABEL_VALUE,
            &["", "a", "A_b.c-1", &long63],
            &["-a", "a-", "a b", &long64],
        );
        check(
            &LABEL_KEY,
            &["a", "A_b", "example.com/a", "a/b"],
            &["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a b"],
        );
        check(
            &RULE,
            &["a", "aliyun-prod", "Team_A.1"],
            &["", "a b", "a,b", "-a"],
        );
    }
}

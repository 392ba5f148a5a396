//! Reads the entries of `pullSecrets`.

use std::collections::HashMap;
use std::ops::Range;

use crate::rules::diagnostics::Diagnostic;
use crate::rules::namespace;
use crate::rules::yaml::{Kind, Node};

use super::filter::owned;
use super::names::{FILE, LABEL_KEY, LABEL_VALUE, NAMESPACE, Names, SECRET, SERVICE_ACCOUNT};
use super::reader::{Choice, Reader, Text};
use super::{Adopt, Deliver, PULL_SECRETS_MAX, ProbeConfig, PullSecretConfig, Source};

const DELIVER: &[Choice<Deliver>] = &[
    ("Always", Deliver::Always),
    ("OnDemand", Deliver::OnDemand),
    ("Never", Deliver::Never),
];

/// An entry as far as it could be read, and where it says what it says.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) config: PullSecretConfig,
    /// Of `name`.
    pub(super) name_span: Range<usize>,
    /// Of `secretName`, else of `name`.
    secret_name_span: Range<usize>,
}

impl Reader<'_, '_> {
    /// All entries that have a name; those with other errors too, so that rules may name them.
    pub(super) fn pull_secrets(&mut self, node: Node<'_>) -> Vec<Secret> {
        let items = self.items(node, "`pullSecrets`");
        if let Some(over) = node.items().nth(PULL_SECRETS_MAX) {
            let message = format!("more than {PULL_SECRETS_MAX} entries (`PULL_SECRETS_MAX`)");
            let help = "let one entry cover several namespaces";
            self.report(Diagnostic::new(over.span(), message).help(help));
            return Vec::new();
        }
        let secrets: Vec<Secret> = items.filter_map(|item| self.pull_secret(item)).collect();
        self.check_shared_names(&secrets);
        secrets
    }

    fn pull_secret(&mut self, node: Node<'_>) -> Option<Secret> {
        const FIELDS: [&str; 10] = [
            "name",
            "secretName",
            "source",
            "deliver",
            "namespaces",
            "excludeNamespaces",
            "namespaceSelector",
            "serviceAccounts",
            "adopt",
            "probe",
        ];
        let what = "an entry of `pullSecrets`";
        let fields = self.fields(node, what, FIELDS)?;
        let [
            name,
            secret_name,
            source,
            deliver,
            include,
            exclude,
            selector,
            accounts,
            adopt,
            probe,
        ] = fields.values;
        let name = self.required(name, "name", what, &fields.head);
        let name = name.and_then(|node| self.name(node, "`name`", &SECRET));
        let secret_name = secret_name.map(|node| self.name(node, "`secretName`", &SECRET));
        let default_source = name.as_ref().map_or("", |name| name.text);
        let source = source.and_then(|node| self.source(node, default_source));
        let deliver = deliver.and_then(|node| self.choice(node, "`deliver`", DELIVER));
        let namespaces = self.namespace_filter(include, exclude, selector);
        let service_accounts = accounts.map(|node| self.service_accounts(node));
        let adopt = adopt.map(|node| self.adopt(node));
        let probe = probe.and_then(|node| self.probe_of(node, deliver));

        let name = name?;
        let secret_name = secret_name.flatten().unwrap_or_else(|| name.clone());
        let default_source = || Source::Secret {
            namespace: None,
            secret: name.text.to_owned(),
        };
        Some(Secret {
            config: PullSecretConfig {
                name: name.text.to_owned(),
                secret_name: secret_name.text.to_owned(),
                source: source.unwrap_or_else(default_source),
                deliver: deliver.unwrap_or_default(),
                namespaces,
                service_accounts: service_accounts.unwrap_or_default(),
                adopt: adopt.unwrap_or_default(),
                probe,
            },
            name_span: name.span,
            secret_name_span: secret_name.span,
        })
    }

    fn probe_of(&mut self, node: Node<'_>, deliver: Option<Deliver>) -> Option<ProbeConfig> {
        if deliver == Some(Deliver::Never) {
            let message = "`probe` with `deliver: Never`: nobody here can read that credential";
            let help = "remove one of the two";
            self.report(Diagnostic::new(node.span(), message).help(help));
        }
        self.probe(node)
    }

    /// `{secret}`, `{namespace, secret}`, `{file}` or `{exec}`. `secret` defaults to the entry's name.
    fn source(&mut self, node: Node<'_>, default_secret: &str) -> Option<Source> {
        let fields = self.fields(node, "`source`", ["secret", "namespace", "file", "exec"])?;
        let [secret, namespace, file, exec] = fields.values;
        let secrets = secret.or(namespace);
        let given = [secrets, file, exec].into_iter().flatten().count();
        if given > 1 {
            let message = "`source` names more than one kind of source";
            let help = "keep one of `secret` (with or without `namespace`), `file` and `exec`";
            self.report(Diagnostic::new(fields.head, message).help(help));
            return None;
        }
        if let Some(node) = file {
            let path = self.name(node, "`file`", &FILE)?;
            return Some(Source::File {
                path: path.text.to_owned(),
            });
        }
        if let Some(node) = exec {
            return self.exec(node).map(Source::Exec);
        }
        let secret = secret.map(|node| self.name(node, "`secret`", &SECRET));
        let namespace = namespace.map(|node| self.name(node, "`namespace`", &NAMESPACE));
        Some(Source::Secret {
            namespace: namespace.flatten().map(|text| text.text.to_owned()),
            secret: secret
                .flatten()
                .map_or_else(|| default_secret.to_owned(), |t| t.text.to_owned()),
        })
    }

    fn service_accounts(&mut self, node: Node<'_>) -> Vec<String> {
        let mut names = self.strings(node, "`serviceAccounts`");
        names.retain(|name| name.text == "*" || self.check_name(name, &SERVICE_ACCOUNT));
        owned(&names)
    }

    fn adopt(&mut self, node: Node<'_>) -> Vec<Adopt> {
        let items = self.items(node, "`adopt`");
        items.filter_map(|item| self.adopted(item)).collect()
    }

    fn adopted(&mut self, node: Node<'_>) -> Option<Adopt> {
        const MAKERS: [&str; 4] = ["titansoft", "tamcore", "kyverno", "reflector"];
        let what = "an entry of `adopt`";
        if node.kind() != Kind::Mapping {
            let makers = [
                Adopt::Titansoft,
                Adopt::Tamcore,
                Adopt::Kyverno,
                Adopt::Reflector,
            ];
            let choices: Vec<_> = MAKERS.into_iter().zip(&makers).collect();
            return self.choice(node, what, &choices).cloned();
        }
        let fields = self.fields(node, what, ["label"])?;
        let [label] = fields.values;
        let label = self.required(label, "label", what, &fields.head)?;
        let label = self.string(label, "`label`")?;
        let Some((key, value)) = label.text.split_once('=') else {
            let message = format!("`{}` is not a label", label.text);
            self.report(Diagnostic::new(label.span, message).help("write `\"key=value\"`"));
            return None;
        };
        let key = Text {
            text: key,
            span: label.span.clone(),
        };
        let value = Text {
            text: value,
            span: label.span,
        };
        let ok = self.check_name(&key, &LABEL_KEY) & self.check_name(&value, &LABEL_VALUE);
        ok.then(|| Adopt::Label {
            key: key.text.to_owned(),
            value: value.text.to_owned(),
        })
    }

    pub(super) fn not_empty(&mut self, text: &Text<'_>, what: &str) -> bool {
        if text.text.is_empty() {
            let diagnostic = Diagnostic::new(text.span.clone(), format!("{what} is empty"));
            self.report(diagnostic.help("give it a value"));
        }
        !text.text.is_empty()
    }

    /// Reports names that are given twice, and a `secretName` that two entries share although one
    /// namespace may be permitted both.
    fn check_shared_names(&mut self, secrets: &[Secret]) {
        let mut names = Names::default();
        let mut sharing: HashMap<&str, Vec<&Secret>> = HashMap::new();
        for secret in secrets {
            let name = Text {
                text: &secret.config.name,
                span: secret.name_span.clone(),
            };
            if !self.check_unique(&mut names, &name, "pull secret") {
                continue;
            }
            let others = sharing.entry(&secret.config.secret_name).or_default();
            self.check_overlap(secret, others);
            others.push(secret);
        }
    }

    /// Reports the first of `others`, which have the same `secretName`, that one namespace may be
    /// permitted beside `secret`.
    fn check_overlap(&mut self, secret: &Secret, others: &[&Secret]) {
        let ours = &secret.config;
        let Some((other, (entry, other_entry))) = others.iter().find_map(|other| {
            let overlap = namespace::overlap(&ours.namespaces, &other.config.namespaces)?;
            Some((other, overlap))
        }) else {
            return;
        };
        let message = format!(
            "pull secrets \"{}\" and \"{}\" are both Secret `{}` in one namespace: `{entry}` and \
             `{other_entry}` overlap",
            ours.name, other.config.name, ours.secret_name
        );
        let related = format!("pull secret \"{}\", defined", other.config.name);
        let diagnostic = Diagnostic::new(secret.secret_name_span.clone(), message)
            .related(other.name_span.clone(), related);
        let help = "give one another `secretName`, or keep their `namespaces` apart";
        self.report(diagnostic.help(help));
    }
}

//! Who may hold what: the rules' pull secrets, seen from a namespace.
//!
//! This file must not know what is there: neither Secrets nor Pods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::rules::config::{Adopt, Deliver, ProbeConfig, PullSecretConfig, RulesConfig};
use crate::rules::{Labels, NamespaceMatcher};

use super::source::Origin;

/// The pull secrets that are delivered, from one rules text. Those with `deliver: Never` are not here.
#[derive(Debug)]
pub struct Plan {
    own_namespace: Arc<str>,
    entries: Vec<Entry>,
    by_secret_name: BTreeMap<Arc<str>, Sharing>,
    /// Names of copies that some ServiceAccounts have, in the order of the rules.
    attached: Vec<Arc<str>>,
    /// Namespaces of sources, by the source's name.
    sources: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// One pull secret of the rules.
#[derive(Debug)]
pub struct Entry {
    /// How rules call it.
    pub name: Arc<str>,
    /// Name of its copies.
    pub secret_name: Arc<str>,
    /// Where it comes from.
    pub origin: Origin,
    /// Always or OnDemand.
    pub deliver: Deliver,
    /// Whose copies are taken over.
    pub adopt: Vec<Adopt>,
    /// How its registry is asked about it.
    pub probe: Option<Arc<ProbeConfig>>,
    /// ServiceAccounts that it is attached to; `*`: all.
    service_accounts: Vec<String>,
    namespaces: NamespaceMatcher,
}

/// The entries of one `secretName`, by position. One is the rule; thousands of tenants may share a name,
/// and then each says its namespaces literally.
#[derive(Debug, Default)]
struct Sharing {
    literal: HashMap<Box<str>, Vec<usize>>,
    others: Vec<usize>,
}

/// Who may have a Secret of some name in some namespace.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// Nobody ever writes there: pullpass's own namespace, or a source.
    OffLimits,
    /// No entry is permitted; a copy of ours does not belong there.
    Nobody,
    /// This entry.
    Entry(&'a Entry),
}

impl Plan {
    /// What `config` delivers; `own_namespace` is the controller's.
    pub fn new(config: &RulesConfig, own_namespace: &str) -> Self {
        let own_namespace: Arc<str> = own_namespace.into();
        let delivered = config.pull_secrets.iter();
        let delivered = delivered.filter(|secret| secret.deliver != Deliver::Never);
        let mut by_secret_name: BTreeMap<Arc<str>, Sharing> = BTreeMap::new();
        let mut sources: HashMap<Arc<str>, Vec<Arc<str>>> = HashMap::new();
        let entries: Vec<Entry> = delivered
            .enumerate()
            .map(|(position, secret)| {
                let entry = Entry::new(secret, &own_namespace);
                let sharing = by_secret_name.entry(entry.secret_name.clone());
                sharing.or_default().add(position, secret);
                if let Origin::Secret(source) = entry.origin.clone() {
                    sources
                        .entry(source.name)
                        .or_default()
                        .push(source.namespace);
                }
                entry
            })
            .collect();
        let mut is_known = HashSet::new();
        let attached = entries
            .iter()
            .filter(|entry| !entry.service_accounts.is_empty());
        let attached = attached.map(|entry| entry.secret_name.clone());
        Self {
            attached: attached
                .filter(|name| is_known.insert(name.clone()))
                .collect(),
            entries,
            own_namespace,
            by_secret_name,
            sources,
        }
    }

    /// The controller's.
    pub fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    /// In the order of the rules text.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Names of copies, each once.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_secret_name.keys()
    }

    /// Names of copies that some ServiceAccounts have in their lists, each once, in the order of the
    /// rules text.
    pub fn attached(&self) -> &[Arc<str>] {
        &self.attached
    }

    /// Whether there are copies of this name.
    pub fn has_name(&self, secret_name: &str) -> bool {
        self.by_secret_name.contains_key(secret_name)
    }

    /// Who may have the Secret `secret_name` in a namespace with these labels. At most one entry can: the
    /// rules refuse entries that share a name and a namespace.
    pub fn claim(&self, namespace: &str, labels: &impl Labels, secret_name: &str) -> Claim<'_> {
        let sources = self.sources.get(secret_name);
        let is_source =
            sources.is_some_and(|list| list.iter().any(|source| **source == *namespace));
        if *self.own_namespace == *namespace || is_source {
            return Claim::OffLimits;
        }
        let sharing = self.by_secret_name.get(secret_name);
        let candidates = sharing
            .into_iter()
            .flat_map(|sharing| sharing.of(namespace));
        candidates
            .filter_map(|position| self.entries.get(position))
            .find(|entry| entry.namespaces.matches(namespace, Some(labels)))
            .map_or(Claim::Nobody, Claim::Entry)
    }
}

impl Entry {
    /// Whether it is attached to ServiceAccounts of this name.
    pub fn is_attached_to(&self, account: &str) -> bool {
        let mut names = self.service_accounts.iter();
        names.any(|name| name == "*" || name == account)
    }

    fn new(secret: &PullSecretConfig, own_namespace: &str) -> Self {
        Self {
            name: (*secret.name).into(),
            secret_name: (*secret.secret_name).into(),
            origin: Origin::of(&secret.source, own_namespace),
            deliver: secret.deliver,
            adopt: secret.adopt.clone(),
            probe: secret.probe.clone().map(Arc::new),
            service_accounts: secret.service_accounts.clone(),
            namespaces: NamespaceMatcher::permission(&secret.namespaces),
        }
    }
}

impl Sharing {
    fn add(&mut self, position: usize, secret: &PullSecretConfig) {
        let names = secret.namespaces.include.as_deref();
        match names.filter(|names| !names.iter().any(|name| name.contains('*'))) {
            None => self.others.push(position),
            Some(names) => {
                for name in names {
                    let entries = self.literal.entry(name.as_str().into());
                    entries.or_default().push(position);
                }
            }
        }
    }

    fn of(&self, namespace: &str) -> impl Iterator<Item = usize> {
        let literal = self.literal.get(namespace);
        literal.into_iter().flatten().chain(&self.others).copied()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn plan(pull_secrets: &str) -> Plan {
        let text = format!(
            "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{pull_secrets}]\n"
        );
        Plan::new(&crate::rules::load(&text).unwrap(), "pullpass")
    }

    /// `expected`: the entry's name, `-` for nobody, `!` for off limits.
    fn check(plan: &Plan, namespace: &str, label: &str, secret_name: &str, expected: &str) {
        let labels = BTreeMap::from([("team".to_owned(), label.to_owned())]);
        let found = match plan.claim(namespace, &labels, secret_name) {
            Claim::OffLimits => "!",
            Claim::Nobody => "-",
            Claim::Entry(entry) => &entry.name,
        };
        assert_eq!(found, expected, "{namespace} {label} {secret_name}");
    }

    #[test]
    fn scenario_30_every_namespace_but_those_of_the_system_and_ours() {
        let plan = plan("{name: harbor}");
        check(&plan, "default", "", "harbor", "harbor");
        check(&plan, "default", "", "other", "-");
        for system in ["kube-system", "kube-public", "kube-node-lease"] {
            check(&plan, system, "", "harbor", "-");
        }
        check(&plan, "pullpass", "", "harbor", "!");
    }

    #[test]
    fn scenario_37_system_namespaces_where_written_out() {
        let plan = plan("{name: harbor, namespaces: [\"*\", kube-system]}");
        check(&plan, "kube-system", "", "harbor", "harbor");
        check(&plan, "kube-public", "", "harbor", "-");
    }

    #[test]
    fn scenario_34_tenants_share_a_name() {
        let plan = plan(
            "{name: a, secretName: regcred, namespaces: [team-a]}, \
             {name: b, secretName: regcred, namespaces: [\"b-*\"]}, \
             {name: c, secretName: regcred, namespaces: [c, d], namespaceSelector: {matchLabels: {team: c}}}",
        );
        check(&plan, "team-a", "", "regcred", "a");
        check(&plan, "b-1", "", "regcred", "b");
        check(&plan, "c", "c", "regcred", "c");
        check(&plan, "d", "x", "regcred", "-");
        check(&plan, "e", "c", "regcred", "-");
        assert_eq!(plan.secret_names().count(), 1);
    }

    #[test]
    fn scenario_33_incident_07_a_source_is_never_a_target() {
        let plan = plan(
            "{name: image-pull-secret, source: {namespace: default, secret: src}}, {name: src}",
        );
        check(
            &plan,
            "default",
            "",
            "image-pull-secret",
            "image-pull-secret",
        );
        check(&plan, "default", "", "src", "!");
        check(&plan, "other", "", "src", "src");
        let sources = plan
            .entries()
            .iter()
            .filter_map(|entry| match &entry.origin {
                Origin::Secret(source) => Some(source.to_string()),
                Origin::Given(_) => None,
            });
        let sources: Vec<_> = sources.collect();
        assert_eq!(sources, ["default/src", "pullpass/src"]);
    }

    #[test]
    fn what_is_attached_to_whom() {
        let plan = plan(
            "{name: a, serviceAccounts: [build, robot]}, {name: b}, {name: c, deliver: Never}, \
             {name: d, deliver: OnDemand, serviceAccounts: [\"*\"]}",
        );
        let names: Vec<_> = plan.attached().iter().map(|name| &**name).collect();
        assert_eq!(names, ["a", "d"]);
        let of = |position: usize, account| plan.entries()[position].is_attached_to(account);
        assert!(of(0, "build") && of(0, "robot") && !of(0, "buil") && !of(1, "build"));
        assert!(of(2, "default"));
    }

    #[test]
    fn what_is_never_delivered_is_nobodys() {
        let plan = plan("{name: a, deliver: Never}, {name: b, source: {file: /x}}");
        check(&plan, "default", "", "a", "-");
        check(&plan, "default", "", "b", "b");
        assert!(matches!(plan.entries(), [only] if matches!(only.origin, Origin::Given(_))));
    }
}

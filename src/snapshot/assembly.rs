//! Puts snapshots together from pieces that come and go one by one: rules, what is known about their
//! secrets, namespaces.
//!
//! A piece that cannot be used never replaces one that can: [`Assembly`] keeps the last good ones. New
//! namespaces share compiled rules and keyrings with the snapshot before. This file must not know where
//! pieces come from, files or the API server, nor who is told about a refusal.

use std::sync::Arc;

use crate::index::{Index, SecretManifest, State};
use crate::rules::{self, Diagnostics, RulesConfig, Ruleset};

use super::{ManifestIndex, Namespaces, Snapshot};

/// Most errors of a rules text that one refusal shows; `pullpass check` shows all.
const DIAGNOSTICS_SHOWN_MAX: usize = 10;

/// The last good pieces.
#[derive(Debug)]
pub struct Assembly {
    rules: Option<LoadedRules>,
    known: Option<Known>,
    namespaces: Namespaces,
    generation: u64,
    /// Of the pieces above, unless rules or secrets changed since.
    bound: Option<Snapshot>,
}

#[derive(Debug)]
struct LoadedRules {
    ruleset: Arc<Ruleset>,
    config: RulesConfig,
}

/// What is known about the pull secrets.
#[derive(Debug)]
enum Known {
    /// Which manifest is whose source depends on the rules.
    Manifests(Vec<SecretManifest>),
    Index(Arc<Index>),
}

/// Why a rules text is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// One line: name, line and column, message, how many more there are.
    pub reason: String,
    /// What `pullpass check` would print, for the first few errors.
    pub diagnostics: Option<String>,
}

/// A new snapshot, and what an operator should know about it.
#[derive(Debug)]
pub struct Assembled {
    /// Whole and immutable.
    pub snapshot: Snapshot,
    /// Empty if only namespaces are new.
    pub findings: Vec<Finding>,
}

/// What an operator should know about pull secrets that were just taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// No pull secret of the rules has this manifest's Secret as its source: most likely a slip.
    Unclaimed {
        /// Name of the Secret.
        secret: String,
    },
    /// The payload does not decode.
    Unusable {
        /// The entry's name in the rules.
        pull_secret: String,
        /// Why, without a byte of the payload.
        reason: String,
    },
}

impl Assembly {
    /// Without rules, and without knowledge of secrets.
    pub fn new(namespaces: Namespaces) -> Self {
        Self {
            rules: None,
            known: None,
            namespaces,
            generation: 0,
            bound: None,
        }
    }

    /// Compiles a rules text, which errors call `name`. Takes a second for 100,000 rules.
    ///
    /// # Errors
    /// [`Refused`] for bad rules; the last good ones stay.
    pub fn load_rules(&mut self, name: &str, text: &str) -> Result<(), Refused> {
        let config = rules::load(text).map_err(|errors| Refused::of(name, text, errors))?;
        let ruleset = Arc::new(Ruleset::compile(&config));
        self.rules = Some(LoadedRules { ruleset, config });
        self.generation += 1;
        self.bound = None;
        Ok(())
    }

    /// Takes over what manifests say about the sources, outside a cluster.
    pub fn set_manifests(&mut self, secrets: Vec<SecretManifest>) {
        self.known = Some(Known::Manifests(secrets));
        self.bound = None;
    }

    /// Takes over an index.
    pub fn set_index(&mut self, index: Arc<Index>) {
        self.known = Some(Known::Index(index));
        self.bound = None;
    }

    /// Takes over the labels of namespaces.
    pub fn set_namespaces(&mut self, namespaces: Namespaces) {
        self.namespaces = namespaces;
    }

    /// The last good rules.
    pub fn ruleset(&self) -> Option<&Ruleset> {
        self.rules.as_ref().map(|rules| &*rules.ruleset)
    }

    /// How many times rules were loaded.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All pieces as one; `None` as long as there are no rules, or nobody said what is known about
    /// secrets.
    pub fn assemble(&mut self) -> Option<Assembled> {
        let mut findings = Vec::new();
        let snapshot = match self.bound.take() {
            Some(bound) => bound.with_namespaces(self.namespaces.clone()),
            None => self.bind(&mut findings)?,
        };
        self.bound = Some(snapshot.clone());
        Some(Assembled { snapshot, findings })
    }

    /// Gives back what only loading needed. Not before the snapshot is in use: giving 100,000 rules
    /// back takes longer than a request.
    pub fn tidy(&mut self) {
        if let Some(rules) = &mut self.rules {
            rules.config.rules = Vec::new();
        }
    }

    fn bind(&self, findings: &mut Vec<Finding>) -> Option<Snapshot> {
        let rules = self.rules.as_ref()?;
        let index = match self.known.as_ref()? {
            Known::Index(index) => index.clone(),
            Known::Manifests(secrets) => {
                let found = ManifestIndex::new(secrets.clone(), &rules.config);
                let unclaimed = found.unclaimed.into_iter();
                findings.extend(unclaimed.map(|secret| Finding::Unclaimed { secret }));
                Arc::new(found.index)
            }
        };
        for (name, coverage) in &index.secrets {
            if let State::Unusable { reason } = &coverage.state {
                findings.push(Finding::Unusable {
                    pull_secret: name.clone(),
                    reason: reason.clone(),
                });
            }
        }
        let namespaces = self.namespaces.clone();
        let ruleset = rules.ruleset.clone();
        Some(Snapshot::new(ruleset, index, namespaces, self.generation))
    }
}

impl Refused {
    /// Without diagnostics.
    pub fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            diagnostics: None,
        }
    }

    fn of(name: &str, text: &str, mut errors: Diagnostics) -> Self {
        let reason = errors.summary(name);
        errors.0.truncate(DIAGNOSTICS_SHOWN_MAX);
        Self {
            reason,
            diagnostics: Some(errors.render(name, text, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Keyring;
    use crate::index::Coverage;
    use crate::rules::SecretId;
    use std::collections::{BTreeMap, HashSet};

    fn rules(secret: &str) -> String {
        format!(
            "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
             pullSecrets: [{{name: {secret}}}]\nrules: [{{name: r, pullSecrets: [{secret}]}}]\n"
        )
    }

    fn assembly() -> Assembly {
        Assembly::new(Namespaces::default())
    }

    fn index(secret: &str, state: State) -> Arc<Index> {
        let coverage = Coverage {
            keyring: Keyring::default(),
            state,
            undecodable_in: HashSet::new(),
        };
        let secrets = [(secret.to_owned(), coverage)].into();
        Arc::new(Index {
            secrets,
            ..Index::default()
        })
    }

    fn namespaces(names: &[&str]) -> Namespaces {
        let labels = names.iter().map(|name| ((*name).into(), Arc::default()));
        Namespaces::Seen(Arc::new(labels.collect()))
    }

    #[test]
    fn nothing_without_rules_and_nothing_before_secrets_were_looked_at() {
        let mut assembly = assembly();
        assert!(assembly.assemble().is_none());
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        assert!(assembly.assemble().is_none());
        assembly.set_index(Arc::default());
        assert!(assembly.assemble().is_some());
    }

    #[test]
    fn bad_rules_are_refused_with_place_and_number_and_keep_the_last_good() {
        let mut assembly = assembly();
        assembly.set_index(Arc::default());
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        let bad = rules("a")
            .replace("rules:", "rulez:")
            .replace("name: r", "nam: r");
        let refused = assembly.load_rules("rules.yaml", &bad).unwrap_err();
        assert!(
            refused.reason.starts_with("rules.yaml:4:1: "),
            "{refused:?}"
        );
        assert!(!refused.reason.contains('\n'));
        assert!(refused.diagnostics.unwrap().contains("rulez"));
        assert_eq!(assembly.generation(), 1);
        let snapshot = assembly.assemble().unwrap().snapshot;
        assert_eq!(snapshot.ruleset().rules().len(), 1);
    }

    #[test]
    fn many_errors_are_counted_in_one_line() {
        let twice = "pullSecrets: [{name: a, x: 1, y: 2}]\nrules: []\n";
        let text = format!("apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n{twice}");
        let refused = assembly().load_rules("r", &text).unwrap_err();
        assert!(refused.reason.ends_with("(and 1 more)"), "{refused:?}");
    }

    #[test]
    fn new_namespaces_share_rules_and_coverage() {
        let mut assembly = assembly();
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        assembly.set_index(index("a", State::Stale));
        let before = assembly.assemble().unwrap().snapshot;
        assert!(before.namespaces().labels("n").is_none());
        assembly.set_namespaces(namespaces(&["n"]));
        let after = assembly.assemble().unwrap().snapshot;
        assert!(after.namespaces().labels("n").is_some());
        assert!(before.shares_ruleset(&after));
        assert!(Arc::ptr_eq(&before.coverage, &after.coverage));
        assert_eq!(before.generation(), after.generation());
    }

    #[test]
    fn a_new_index_shares_the_rules_and_new_rules_find_the_index() {
        let mut assembly = assembly();
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        assembly.set_index(Arc::default());
        let before = assembly.assemble().unwrap().snapshot;
        assert!(before.coverage(SecretId(0)).is_none());
        assembly.set_index(index("a", State::Usable));
        let after = assembly.assemble().unwrap().snapshot;
        assert!(after.coverage(SecretId(0)).is_some());
        assert!(before.shares_ruleset(&after));
        assembly.load_rules("rules.yaml", &rules("b")).unwrap();
        assembly.set_namespaces(namespaces(&["n"]));
        let renamed = assembly.assemble().unwrap().snapshot;
        assert!(renamed.coverage(SecretId(0)).is_none(), "b is unknown");
        assert_eq!(renamed.generation(), 2);
        assert!(renamed.namespaces().labels("n").is_some());
    }

    #[test]
    fn scenario_56_a_rejection_counts_under_the_rules_that_asked() {
        let mut assembly = assembly();
        let rejected = |asked: &str| State::Rejected {
            asked: asked.to_owned(),
            reason: String::new(),
        };
        let mut check = |probe: &str, asked: &str, expected: State| {
            let probed = format!("pullSecrets: [{{name: a{probe}}}]");
            let text = rules("a").replace("pullSecrets: [{name: a}]", &probed);
            assembly.load_rules("rules.yaml", &text).unwrap();
            assembly.set_index(index("a", rejected(asked)));
            let snapshot = assembly.assemble().unwrap().snapshot;
            let coverage = snapshot.coverage(SecretId(0)).unwrap();
            assert_eq!(coverage.state, expected, "{probe} {asked}");
        };
        let probe = ", probe: {repository: r.io/a}";
        check(probe, "https://r.io/a", rejected("https://r.io/a"));
        check(probe, "https://r.io/b", State::Usable);
        check(probe, "http://r.io/a", State::Usable);
        check(probe, "", State::Usable);
        check("", "https://r.io/a", State::Usable);
        check("", "", State::Usable);
    }

    #[test]
    fn findings_come_once_with_what_they_are_about() {
        let mut assembly = assembly();
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        let reason = "not JSON".to_owned();
        let state = State::Unusable {
            reason: reason.clone(),
        };
        assembly.set_index(index("a", state));
        let pull_secret = "a".to_owned();
        let unusable = Finding::Unusable {
            pull_secret,
            reason,
        };
        assert_eq!(assembly.assemble().unwrap().findings, [unusable]);
        assembly.set_namespaces(namespaces(&["n"]));
        assert_eq!(assembly.assemble().unwrap().findings, []);
    }

    #[test]
    fn rules_are_bound_to_manifests_again_after_tidying_up() {
        let manifest = |name: &str| SecretManifest {
            namespace: None,
            name: name.to_owned(),
            coverage: index("x", State::Usable).secrets["x"].clone(),
        };
        let mut assembly = assembly();
        assembly.load_rules("rules.yaml", &rules("a")).unwrap();
        assembly.set_manifests(vec![manifest("b")]);
        let secret = "b".to_owned();
        let findings = assembly.assemble().unwrap().findings;
        assert_eq!(findings, [Finding::Unclaimed { secret }]);
        assembly.tidy();
        assembly.set_manifests(vec![manifest("a")]);
        let assembled = assembly.assemble().unwrap();
        assert!(assembled.snapshot.coverage(SecretId(0)).is_some());
        assert_eq!(assembled.findings, []);
    }

    #[test]
    fn fixed_labels_are_those_of_every_namespace() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let namespaces = Namespaces::Fixed(Arc::new(labels.clone()));
        assert_eq!(namespaces.labels("any"), Some(&labels));
    }
}

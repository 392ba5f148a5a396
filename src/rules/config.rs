//! What the user said: the schema of `rules.yaml`, validated. Positions are gone from here on.

use std::fmt;

use super::diagnostics::{Collector, Diagnostic, Diagnostics};
use super::namespace::NamespaceFilter;
use super::pattern::RegistryPattern;
use super::selector::LabelSelector;
use super::yaml::Tree;

mod document;
mod exec;
mod filter;
mod names;
mod probe;
mod reader;
mod rule;
mod secret;

/// Key of the rules in their ConfigMap, and what they are called where that is all there is.
pub const RULES_KEY: &str = "rules.yaml";
/// Largest rules text from a ConfigMap, in bytes: Kubernetes' own limit for one object's data.
pub const CONFIG_MAP_RULES_BYTES_MAX: usize = 1024 * 1024;
/// Largest rules text from a file, in bytes: 100,000 patterns of 160 bytes.
pub const FILE_RULES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most entries of `pullSecrets`: one tenant each in the 5,000 namespaces that pullpass is made for.
/// Each two of them that share a `secretName` are compared.
pub const PULL_SECRETS_MAX: usize = 5_000;
/// Most image patterns (`images` and `excludeImages` together) in one rules text.
pub const PATTERNS_MAX: usize = 100_000;
/// How often a registry is asked about a credential, in seconds, where a `probe` does not say.
pub const PROBE_INTERVAL_SECONDS: u32 = 600;
/// Shortest `interval` of a `probe`, in seconds: 120 questions an hour, a hundredth of what Docker Hub, the
/// strictest of the large registries, takes from one address.
pub const PROBE_INTERVAL_SECONDS_MIN: u32 = 30;
/// Longest `interval` of a `probe`, in seconds: what is older than a day says nothing.
pub const PROBE_INTERVAL_SECONDS_MAX: u32 = 24 * 3600;

/// Most `images` or `servers` of one `exec`: each may be a call of the program, one after the other.
pub const ASKS_MAX: usize = 16;
/// How long an answer of an `exec` holds that says nothing of it, in seconds, unless `defaultCacheDuration` does.
/// Of what is in use, the tokens that live shortest live half an hour.
pub const DEFAULT_CACHE_SECONDS: u64 = 10 * 60;

/// A valid `rules.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RulesConfig {
    /// The credentials that are handed out.
    pub pull_secrets: Vec<PullSecretConfig>,
    /// The rules, in order.
    pub rules: Vec<RuleConfig>,
}

/// One entry of `pullSecrets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSecretConfig {
    /// How rules call it.
    pub name: String,
    /// Name of the Secret in the Pod's namespace.
    pub secret_name: String,
    /// Where the credential comes from.
    pub source: Source,
    /// When it is delivered.
    pub deliver: Deliver,
    /// Who may ever hold it.
    pub namespaces: NamespaceFilter,
    /// ServiceAccounts of each permitted namespace to attach it to (`*` = all).
    pub service_accounts: Vec<String>,
    /// Whose copies are taken over.
    pub adopt: Vec<Adopt>,
    /// How the registry is asked about it; `None`: it is not.
    pub probe: Option<ProbeConfig>,
}

/// How a registry is asked whether it still accepts a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// What the credential may pull from, `HOST[:PORT]/PATH`. Its registry is asked, with the login that
    /// the kubelet would try first there; other registry keys of the credential are not.
    pub repository: String,
    /// How often, in seconds.
    pub interval_seconds: u32,
    /// What happens to Pods while it does not.
    pub on_rejected: OnRejected,
    /// Whether it is asked by plain HTTP. Whoever listens has the password then.
    pub plain_http: bool,
}

impl ProbeConfig {
    /// What is asked, by which scheme: `https://HOST[:PORT]/PATH`. An answer to something else is none to this.
    pub fn asked(&self) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        format!("{scheme}://{}", self.repository)
    }
}

/// What happens to Pods while the registry rejects the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRejected {
    /// It is injected, with a warning.
    #[default]
    Inject,
    /// It is not injected.
    Skip,
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A Secret; in pullpass's own namespace if `namespace` is `None`.
    Secret {
        /// Namespace of the source, or ours.
        namespace: Option<String>,
        /// Name of the source Secret.
        secret: String,
    },
    /// A file that holds the payload.
    File {
        /// Its path.
        path: String,
    },
    /// A kubelet credential-provider plugin or docker credential helper.
    Exec(ExecSource),
}

/// A program, and how it is run and asked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecSource {
    /// Absolute path, or name among the controller's plugins; no shell is involved.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment given to it, name and value, each name once.
    pub env: Vec<(String, String)>,
    /// What it is asked.
    pub protocol: Protocol,
    /// How long an answer holds that does not say so, in seconds.
    pub default_cache_seconds: u64,
}

/// What a program is asked, and in which words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A kubelet's credential provider.
    Kubelet {
        /// Version of its protocol.
        api_version: &'static str,
        /// Registries, or repositories in them.
        images: Vec<String>,
    },
    /// A docker credential helper.
    Docker {
        /// Server URLs, as keys of docker's `config.json`.
        servers: Vec<String>,
    },
}

/// For people.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret {
                namespace: Some(namespace),
                secret,
            } => write!(f, "Secret {namespace}/{secret}"),
            Self::Secret {
                namespace: None,
                secret,
            } => write!(f, "Secret {secret}"),
            Self::File { path } => write!(f, "file {path}"),
            Self::Exec(exec) => write!(f, "program {}", exec.command),
        }
    }
}

/// Without the values of the environment and without arguments: either may be a token.
impl fmt::Debug for ExecSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ExecSource")
            .field("command", &self.command)
            .field("env", &names)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// When a pull secret is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deliver {
    /// In every permitted namespace before its first Pod.
    #[default]
    Always,
    /// When a Pod needs it.
    OnDemand,
    /// The namespace brings its own.
    Never,
}

/// Whose copies of a Secret are taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adopt {
    /// titansoft/imagepullsecret-patcher.
    Titansoft,
    /// tamcore/imagepullsecret-controller.
    Tamcore,
    /// A Kyverno `clone` rule.
    Kyverno,
    /// emberstack/kubernetes-reflector.
    Reflector,
    /// Any Secret carrying this label.
    Label {
        /// Label key.
        key: String,
        /// Label value.
        value: String,
    },
}

/// One entry of `rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// Its name, unique.
    pub name: String,
    /// `None`: whatever the credentials themselves cover.
    pub images: Option<Vec<RegistryPattern>>,
    /// Patterns that take images out again.
    pub exclude_images: Vec<RegistryPattern>,
    /// Where the rule applies.
    pub namespaces: NamespaceFilter,
    /// Labels of the Pod; `None` if absent or empty.
    pub pod_selector: Option<LabelSelector>,
    /// Indices into [`RulesConfig::pull_secrets`], in order.
    pub pull_secrets: Vec<usize>,
    /// Also when no image matches.
    pub always: bool,
    /// Enforce or Shadow.
    pub mode: Mode,
}

/// Whether a rule patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Patch.
    #[default]
    Enforce,
    /// Decide, count and report, but do not patch.
    Shadow,
}

impl RulesConfig {
    /// How many image patterns there are, `images` and `excludeImages` together.
    pub fn pattern_count(&self) -> usize {
        let patterns = |rule: &RuleConfig| {
            rule.images.as_ref().map_or(0, Vec::len) + rule.exclude_images.len()
        };
        self.rules.iter().map(patterns).sum()
    }
}

/// Parses and validates a rules text; reports every error at once.
///
/// Text that is not YAML is the exception: the parser cannot go on, so that is the only error.
///
/// # Errors
/// All [`Diagnostics`], each with line, column, offending text and fix.
pub fn load(text: &str) -> Result<RulesConfig, Diagnostics> {
    let mut findings = Collector::new(text);
    let config = read(text, &mut findings);
    match findings.into_diagnostics() {
        None => Ok(config),
        Some(diagnostics) => Err(diagnostics),
    }
}

/// The error of a text that has more than [`FILE_RULES_BYTES_MAX`] bytes: what [`load`] says, for
/// those who would not read all of it.
pub fn too_large() -> Diagnostics {
    let mut findings = Collector::new("");
    findings.push(over_limit());
    findings.into_diagnostics().unwrap_or_default()
}

fn over_limit() -> Diagnostic {
    let message = format!(
        "the rules text has more than {FILE_RULES_BYTES_MAX} bytes (`FILE_RULES_BYTES_MAX`)"
    );
    Diagnostic::new(0..0, message).help("cover more images with fewer patterns")
}

/// What can be read of `text`; worth something only without findings.
fn read(text: &str, findings: &mut Collector<'_>) -> RulesConfig {
    if text.len() > FILE_RULES_BYTES_MAX {
        findings.push(over_limit());
        return RulesConfig::default();
    }
    match Tree::parse(text) {
        Ok(tree) => document::read(tree.as_ref(), findings),
        Err(diagnostic) => {
            findings.push(diagnostic);
            RulesConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_for_exec_are_not_repeated() {
        let text = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets:\n\
                    - {name: s, source: {exec: {command: c, images: [r.io], args: [hunter2], \
                    env: [{name: A, value: hunter2}]}}}\n";
        assert!(!format!("{:?}", load(text).unwrap()).contains("hunter2"));
        let errors = load(&text.replace("value: hunter2", "value: 4711")).unwrap_err();
        assert!(!errors.to_string().contains("4711"), "{errors}");
    }

    #[test]
    fn defaults_are_those_of_the_schema() {
        let text = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
                    pullSecrets: [{name: s}]\nrules: [{name: r, pullSecrets: [s]}]\n";
        let expected = RulesConfig {
            pull_secrets: vec![PullSecretConfig {
                name: "s".to_owned(),
                secret_name: "s".to_owned(),
                source: Source::Secret {
                    namespace: None,
                    secret: "s".to_owned(),
                },
                deliver: Deliver::Always,
                namespaces: NamespaceFilter::default(),
                service_accounts: Vec::new(),
                adopt: Vec::new(),
                probe: None,
            }],
            rules: vec![RuleConfig {
                name: "r".to_owned(),
                images: None,
                exclude_images: Vec::new(),
                namespaces: NamespaceFilter::default(),
                pod_selector: None,
                pull_secrets: vec![0],
                always: false,
                mode: Mode::Enforce,
            }],
        };
        assert_eq!(load(text), Ok(expected));
    }
}

//! Reads `exec`: a program that gives credentials, described as a kubelet's `CredentialProviderConfig` does.

use std::ops::Range;

use crate::rules::diagnostics::Diagnostic;
use crate::rules::pattern::RegistryPattern;
use crate::rules::yaml::Node;

use super::filter::owned;
use super::names::{ENV_NAME, PROGRAM};
use super::reader::{Choice, Reader, Text};
use super::{ASKS_MAX, DEFAULT_CACHE_SECONDS, ExecSource, Protocol};

/// The versions of the kubelet's protocol. They differ in nothing that is used here.
const API_VERSIONS: &[Choice<&str>] = &[
    (
        "credentialprovider.kubelet.k8s.io/v1",
        "credentialprovider.kubelet.k8s.io/v1",
    ),
    (
        "credentialprovider.kubelet.k8s.io/v1beta1",
        "credentialprovider.kubelet.k8s.io/v1beta1",
    ),
    (
        "credentialprovider.kubelet.k8s.io/v1alpha1",
        "credentialprovider.kubelet.k8s.io/v1alpha1",
    ),
];
const DURATION_HELP: &str = "write `12h`, `90m` or `1h30m`, a second at least";

impl Reader<'_, '_> {
    pub(super) fn exec(&mut self, node: Node<'_>) -> Option<ExecSource> {
        const FIELDS: [&str; 7] = [
            "command",
            "args",
            "env",
            "images",
            "servers",
            "apiVersion",
            "defaultCacheDuration",
        ];
        let fields = self.fields(node, "`exec`", FIELDS)?;
        let [command, args, env, images, servers, version, cache] = fields.values;
        let args = args.map(|node| owned(&self.strings(node, "`args`")));
        let env = env.map(|node| self.environment(node));
        let protocol = self.protocol(images, servers, version, &fields.head);
        let cache = cache.map_or(Some(DEFAULT_CACHE_SECONDS), |node| self.seconds(node));
        let command = self.required(command, "command", "`exec`", &fields.head)?;
        let command = self.name(command, "`command`", &PROGRAM)?;
        Some(ExecSource {
            command: command.text.to_owned(),
            args: args.unwrap_or_default(),
            env: env.unwrap_or_default(),
            protocol: protocol?,
            default_cache_seconds: cache?,
        })
    }

    /// What the program is asked: `images` in the kubelet's protocol, or `servers` in docker's.
    fn protocol(
        &mut self,
        images: Option<Node<'_>>,
        servers: Option<Node<'_>>,
        version: Option<Node<'_>>,
        head: &Range<usize>,
    ) -> Option<Protocol> {
        const HELP: &str = "name the `images` that a kubelet's credential provider is asked about, or the `servers` \
                            that a docker credential helper is";
        let (what, node) = match (images, servers) {
            (Some(images), None) => ("`images`", images),
            (None, Some(servers)) => ("`servers`", servers),
            (None, None) => {
                let message = "`exec` has neither `images` nor `servers`";
                self.report(Diagnostic::new(head.clone(), message).help(HELP));
                return None;
            }
            (Some(_), Some(servers)) => {
                let message = "`exec` has `images` and `servers`";
                self.report(Diagnostic::new(servers.span(), message).help(HELP));
                return None;
            }
        };
        if let Some(over) = node.items().nth(ASKS_MAX) {
            let message = format!("{what} has more than {ASKS_MAX} entries (`ASKS_MAX`)");
            let help = "make several entries of `pullSecrets`";
            self.report(Diagnostic::new(over.span(), message).help(help));
        }
        self.check_not_empty(node, what, "remove the entry");
        let mut asked = self.strings(node, what);
        if images.is_none() {
            if let Some(version) = version {
                let message = "docker credential helpers have no `apiVersion`";
                self.report(Diagnostic::new(version.span(), message).help("remove it"));
            }
            asked.retain(|server| self.not_empty(server, "an entry of `servers`"));
            let servers = owned(&asked);
            return Some(Protocol::Docker { servers });
        }
        asked.retain(|image| self.is_image(image));
        let default = API_VERSIONS.first().map(|(_, version)| *version)?;
        let version = version.map_or(Some(default), |node| {
            self.choice(node, "`apiVersion`", API_VERSIONS)
        });
        Some(Protocol::Kubelet {
            api_version: version?,
            images: owned(&asked),
        })
    }

    /// A registry, or a repository in it: as a pattern, but without `*`.
    fn is_image(&mut self, image: &Text<'_>) -> bool {
        let diagnostic = match RegistryPattern::parse(image.text) {
            Err(error) => Diagnostic::new(image.span.clone(), error.to_string()).help(error.fix()),
            Ok(_) if image.text.contains('*') => {
                let message = format!("`{}` is no one image or registry", image.text);
                let help = "write one out: the program is asked about it; which images its answer \
                            covers, the answer says";
                Diagnostic::new(image.span.clone(), message).help(help)
            }
            Ok(_) => return true,
        };
        self.report(diagnostic);
        false
    }

    fn seconds(&mut self, node: Node<'_>) -> Option<u64> {
        let text = self.string(node, "`defaultCacheDuration`")?;
        let duration = text.text.parse::<jiff::SignedDuration>().ok();
        let seconds = duration.and_then(|duration| u64::try_from(duration.as_secs()).ok());
        let seconds = seconds.filter(|seconds| *seconds > 0);
        if seconds.is_none() {
            let message = format!("`{}` is not a duration", text.text);
            self.report(Diagnostic::new(text.span, message).help(DURATION_HELP));
        }
        seconds
    }

    fn environment(&mut self, node: Node<'_>) -> Vec<(String, String)> {
        let mut variables: Vec<(Text<'_>, String)> = Vec::new();
        for item in self.items(node, "`env`") {
            let Some((name, value)) = self.env(item) else {
                continue;
            };
            if let Some((first, _)) = variables.iter().find(|(first, _)| first.text == name.text) {
                let message = format!("environment variable `{}` is set twice", name.text);
                let related = format!("`{}`, first set", first.text);
                let first = first.span.clone();
                let diagnostic = Diagnostic::new(name.span, message).related(first, related);
                self.report(diagnostic.help("remove one of the two"));
                continue;
            }
            variables.push((name, value));
        }
        let owned = |(name, value): (Text<'_>, String)| (name.text.to_owned(), value);
        variables.into_iter().map(owned).collect()
    }

    fn env<'a>(&mut self, node: Node<'a>) -> Option<(Text<'a>, String)> {
        let what = "an entry of `env`";
        let fields = self.fields(node, what, ["name", "value"])?;
        let [name, value] = fields.values;
        let name = self.required(name, "name", what, &fields.head);
        let name = name.and_then(|node| self.name(node, "`name`", &ENV_NAME));
        let value = self.required(value, "value", what, &fields.head)?;
        let Some(value) = Text::of(value) else {
            // It may be a token: not even a wrong one is repeated.
            let diagnostic = Diagnostic::new(value.span(), "`value` must be a string");
            self.report(diagnostic.help("put it in quotes"));
            return None;
        };
        Some((name?, value.text.to_owned()))
    }
}

//! The naive matcher: every pattern of every rule, one after the other.
//!
//! The peer of the compiled matcher in the benches and its oracle in `fuzz/`, so it is written from
//! the description of patterns alone and shares no code with the library. It must stay simple.

use pullpass::image::ImageRef;
use pullpass::rules::RulesConfig;
use pullpass::rules::pattern::RegistryPattern;

/// All rules that have `images`.
pub(crate) struct LinearMatcher {
    rules: Vec<LinearRule>,
}

struct LinearRule {
    position: u32,
    images: Vec<LinearPattern>,
    exclude_images: Vec<LinearPattern>,
}

impl LinearMatcher {
    pub(crate) fn new(config: &RulesConfig) -> Self {
        let rules = (0..).zip(&config.rules).filter_map(|(position, rule)| {
            Some(LinearRule {
                position,
                images: patterns(rule.images.as_ref()?),
                exclude_images: patterns(&rule.exclude_images),
            })
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// Positions of the rules that have the image in `images` and not in `excludeImages`.
    pub(crate) fn matches(&self, image: &ImageRef<'_>) -> Vec<u32> {
        let name = image.to_string();
        let name = Parts::of(&name);
        let is_in = |patterns: &[LinearPattern]| patterns.iter().any(|p| p.matches(&name));
        self.rules
            .iter()
            .filter(|rule| is_in(&rule.images) && !is_in(&rule.exclude_images))
            .map(|rule| rule.position)
            .collect()
    }
}

fn patterns(patterns: &[RegistryPattern]) -> Vec<LinearPattern> {
    patterns
        .iter()
        .map(|pattern| match pattern.as_str() {
            "*" => LinearPattern::Every,
            text => LinearPattern::Parts(Parts::of(text).with_one_docker_hub()),
        })
        .collect()
}

enum LinearPattern {
    /// `*` alone.
    Every,
    Parts(Parts),
}

impl LinearPattern {
    fn matches(&self, name: &Parts) -> bool {
        let Self::Parts(pattern) = self else {
            return true;
        };
        let globs = |globs: &[String], texts: &[String]| {
            globs.iter().zip(texts).all(|(g, text)| glob(g, text))
        };
        pattern.host.len() == name.host.len()
            && globs(&pattern.host, &name.host)
            && (pattern.port == "*" || pattern.port == name.port)
            && pattern.path.len() <= name.path.len()
            && globs(&pattern.path, &name.path)
    }
}

/// `HOST[:PORT][/PATH]`, cut up.
struct Parts {
    /// Labels, in lower case.
    host: Vec<String>,
    /// Empty if absent.
    port: String,
    /// Segments.
    path: Vec<String>,
}

impl Parts {
    fn of(text: &str) -> Self {
        let (address, path) = text.split_once('/').unwrap_or((text, ""));
        let address = address.to_lowercase();
        let (host, port) = match address.rsplit_once(':') {
            // The colons of a bare IPv6 address are inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (&*address, ""),
        };
        let owned = |parts: std::str::Split<'_, char>| parts.map(str::to_owned).collect();
        Self {
            host: owned(host.split('.')),
            port: port.to_owned(),
            path: match path {
                "" => Vec::new(),
                path => owned(path.split('/')),
            },
        }
    }

    /// What a reference has gone through already: `index.docker.io` is `docker.io`.
    fn with_one_docker_hub(mut self) -> Self {
        if self.host == ["index", "docker", "io"] && matches!(&*self.port, "" | "*") {
            self.host.remove(0);
        }
        self
    }
}

/// `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(before) else {
        return false;
    };
    let Some((middle, last)) = after.rsplit_once('*') else {
        return rest.ends_with(after);
    };
    // The leftmost place for each piece leaves the most room for those that follow.
    for piece in middle.split('*') {
        let Some((_, behind)) = rest.split_once(piece) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

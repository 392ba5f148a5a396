//! Rules with `images` whose pull secrets have no key for an image that a pattern covers: the kubelet gets
//! the secret, finds nothing in it, and pulls anonymously. Mostly the registry has two host names.
//!
//! Only what is certain is said: if any key covers any image of the pattern, the pattern is fine.

use serde::Serialize;

use crate::credential::Keyring;
use crate::credential::keyring::index_key;
use crate::image::ImageRef;
use crate::index::{Coverage, State};
use crate::rules::config::{Mode, RuleConfig};
use crate::rules::ruleset::RuleIds;
use crate::rules::{RegistryPattern, RulesConfig, Ruleset, SecretId};
use crate::snapshot::Snapshot;

/// Stands where a pattern or a key leaves something open.
const FILLER: &str = "pullpass-status";

/// A pattern that none of its rule's pull secrets has a key for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WithoutKey {
    /// Name of the rule.
    pub rule: String,
    /// The pattern, as written.
    pub pattern: String,
    /// The rule's pull secrets, by the names that rules have for them.
    pub pull_secrets: Vec<String>,
}

/// Every such pattern of the rules that have one of the entries `of`, by position. A rule with a secret of
/// which nothing is known is left out.
pub(super) fn without_key(
    config: &RulesConfig,
    snapshot: &Snapshot,
    of: &[usize],
) -> Vec<WithoutKey> {
    let mut found = Vec::new();
    for rule in &config.rules {
        let is_looked_at = rule.pull_secrets.iter().any(|secret| of.contains(secret));
        let Some(keyrings) = keyrings(rule, snapshot).filter(|_| is_looked_at) else {
            continue;
        };
        let patterns = rule.images.iter().flatten();
        let bare = patterns.filter(|pattern| !keyrings.iter().any(|ring| overlap(pattern, ring)));
        found.extend(bare.map(|pattern| WithoutKey {
            rule: rule.name.clone(),
            pattern: pattern.as_str().to_owned(),
            pull_secrets: names(rule, config),
        }));
    }
    found
}

fn names(rule: &RuleConfig, config: &RulesConfig) -> Vec<String> {
    let entries = rule.pull_secrets.iter();
    let entries = entries.filter_map(|&secret| config.pull_secrets.get(secret));
    entries.map(|entry| entry.name.clone()).collect()
}

/// Of all its secrets; `None` if they are not known, cannot be used, or the rule adds none.
fn keyrings<'s>(rule: &RuleConfig, snapshot: &'s Snapshot) -> Option<Vec<&'s Keyring>> {
    if rule.mode != Mode::Enforce {
        return None;
    }
    let known = |secret: &usize| -> Option<&'s Coverage> {
        let coverage = snapshot.coverage(SecretId(u32::try_from(*secret).ok()?))?;
        (!matches!(coverage.state, State::Unusable { .. })).then_some(coverage)
    };
    let coverage = rule.pull_secrets.iter().map(known);
    coverage.map(|known| Some(&known?.keyring)).collect()
}

/// Whether some image is covered by both. Tried are images of the pattern's host or the key's, with the path
/// of either.
fn overlap(pattern: &RegistryPattern, keyring: &Keyring) -> bool {
    let ruleset = Ruleset::compile(&RulesConfig {
        rules: vec![rule_of(pattern)],
        ..RulesConfig::default()
    });
    let is_covered_by_both = |image: String| {
        let mut rules = RuleIds::new();
        ImageRef::parse(&image).is_ok_and(|image| {
            ruleset.match_image(&image, &mut rules);
            !rules.is_empty() && keyring.covering_key(&image).is_some()
        })
    };
    let ours = pattern.example(FILLER);
    let keys = keyring.entries().filter(|key| key.usable);
    let keys = keys.filter_map(|key| String::from_utf8(index_key(key.key)?).ok());
    let mut theirs = keys.map(|key| key.replace('*', FILLER) + "/" + FILLER);
    is_covered_by_both(ours.clone())
        || theirs.any(|key| {
            let halves = ours.split_once('/').zip(key.split_once('/'));
            let Some(((our_host, our_path), (key_host, key_path))) = halves else {
                return false;
            };
            let crossed = [
                format!("{key_host}/{our_path}"),
                format!("{our_host}/{key_path}"),
            ];
            is_covered_by_both(key.clone()) || crossed.into_iter().any(is_covered_by_both)
        })
}

fn rule_of(pattern: &RegistryPattern) -> RuleConfig {
    RuleConfig {
        name: String::new(),
        images: Some(vec![pattern.clone()]),
        exclude_images: Vec::new(),
        namespaces: Default::default(),
        pod_selector: None,
        pull_secrets: Vec::new(),
        always: false,
        mode: Mode::Enforce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::keyring::Key;

    fn check(pattern: &str, keys: &[&str], expected: bool) {
        let keys = keys.iter().map(|key| Key { key, usable: true });
        let ring = Keyring::new(keys);
        let parsed = RegistryPattern::parse(pattern).unwrap();
        assert_eq!(overlap(&parsed, &ring), expected, "{pattern}");
    }

    #[test]
    fn scenario_21_two_hosts_of_one_registry_do_not_overlap() {
        check(
            "registry-vpc.cn.example.com/acme",
            &["registry.cn.example.com"],
            false,
        );
        check(
            "registry.cn.example.com/acme",
            &["registry.cn.example.com"],
            true,
        );
        check("r.io:5000/acme", &["r.io"], false);
        check("r.io/acme", &["https://r.io/v2/acme"], true);
        check("r.io", &[], false);
    }

    #[test]
    fn one_image_in_common_is_enough() {
        check("r.io/acme", &["r.io/acme/web"], true);
        check("r.io/acme", &["r.io/other"], false);
        check("*.azurecr.io", &["acme.azurecr.io"], true);
        check("acme.azurecr.io", &["*.azurecr.io"], true);
        check("*.azurecr.io", &["*.azurecr.io"], true);
        check("*.azurecr.io", &["acme.example.com"], false);
        check("*", &["r.io:5000"], true);
        check("r.io:*/x", &["r.io:5000"], true);
        check("docker.io", &["https://index.docker.io/v1/"], true);
    }
}

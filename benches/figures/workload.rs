//! Rules and images to measure with: any number of rules, and images of which half match one.
//!
//! The mix is that of a cluster with many teams: mostly `HOST/TEAM`, some whole hosts, some hosts and
//! some paths with a `*`. Nothing is random, so two runs measure the same.

use std::fmt::Write as _;
use std::sync::Arc;

use pullpass::index::Index;
use pullpass::rules::{RulesConfig, Ruleset, load};
use pullpass::snapshot::{Namespaces, Snapshot};

use super::Outcome;

/// Pull secrets in the rules, whatever the number of rules.
const PULL_SECRETS: usize = 20;
/// Teams on one registry.
const TEAMS_PER_HOST: usize = 50;

/// A `rules.yaml` with `rules` rules of one pattern each, written as the documentation writes them.
pub(crate) fn rules_text(rules: usize) -> String {
    let mut text = header();
    // Writing to a `String` cannot fail.
    for rule in 0..rules {
        let (pattern, secret) = (pattern(rule), rule % PULL_SECRETS);
        let _ = write!(
            text,
            "- name: r{rule}\n  images: [\"{pattern}\"]\n  pullSecrets: [s{secret}]\n"
        );
    }
    text
}

/// One rule, for every image of [`super::bodies`], with both kinds of selectors.
pub(crate) fn selector_rules_text() -> String {
    let mut text = header();
    text.push_str(
        "- name: all\n  images: [\"*\"]\n  pullSecrets: [s0]\n  \
         namespaceSelector: {matchLabels: {pull: \"yes\"}}\n  \
         podSelector: {matchExpressions: [{key: app, operator: Exists}]}\n",
    );
    text
}

fn header() -> String {
    let mut text = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets:\n".to_owned();
    for secret in 0..PULL_SECRETS {
        let _ = writeln!(text, "- {{name: s{secret}, secretName: pull-{secret}}}");
    }
    text.push_str("rules:\n");
    text
}

/// The pattern of rule `rule`.
fn pattern(rule: usize) -> String {
    let host = rule / TEAMS_PER_HOST;
    match rule % 10 {
        7 => format!("host-{rule}.registry.example.net:5000"),
        8 => format!("*.dkr.ecr.region-{rule}.amazonaws.com"),
        9 => format!("registry-{host}.example.com/squad-{rule}-*"),
        _ => format!("registry-{host}.example.com/team-{rule}"),
    }
}

/// An image that the pattern of rule `rule` matches; another one for each `n`.
pub(crate) fn matching_image(rule: usize, n: usize) -> String {
    let host = rule / TEAMS_PER_HOST;
    match rule % 10 {
        7 => format!("host-{rule}.registry.example.net:5000/web/app-{n}:1.{n}"),
        8 => format!("{n:012}.dkr.ecr.region-{rule}.amazonaws.com/web/app:1.{n}"),
        9 => format!("registry-{host}.example.com/squad-{rule}-{n}/app:1.{n}"),
        _ => format!("registry-{host}.example.com/team-{rule}/app-{n}:1.{n}"),
    }
}

/// An image that no pattern matches, near to one or far from all.
fn other_image(rules: usize, n: usize) -> String {
    let rule = scatter(n) % rules;
    let host = rule / TEAMS_PER_HOST;
    match n % 4 {
        0 => format!("registry-{host}.example.com/team-{rule}-x/app-{n}:1.{n}"),
        1 => format!("ghcr.io/acme-{n}/app:1.{n}"),
        2 => format!("acme-{n}/app:1.{n}"),
        _ => format!("{n:012}.dkr.ecr.zone-{rule}.amazonaws.com/web/app:1.{n}"),
    }
}

/// `count` different images, of which every second matches one of `rules` rules, all over them.
pub(crate) fn images(rules: usize, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| match n % 2 {
            0 => matching_image(scatter(n) % rules, n),
            _ => other_image(rules, n),
        })
        .collect()
}

/// A fixed permutation of the numbers: Knuth's multiplicative hash.
pub(crate) fn scatter(n: usize) -> usize {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15_usize) >> 20
}

/// Reads a rules text that is known to be good.
pub(crate) fn config(text: &str) -> Outcome<RulesConfig> {
    load(text).map_err(|diagnostics| diagnostics.render("bench", text, false).into())
}

/// A snapshot of a rules text and an index, in which every namespace is labelled `pull: yes`.
pub(crate) fn snapshot(text: &str, index: Index) -> Outcome<Snapshot> {
    let ruleset = Arc::new(Ruleset::compile(&config(text)?));
    let labels = [("pull".to_owned(), "yes".to_owned())].into();
    let namespaces = Namespaces::Fixed(Arc::new(labels));
    Ok(Snapshot::new(ruleset, Arc::new(index), namespaces, 1))
}

//! Any text as `rules.yaml`: never a panic; errors point into the text; and rules that load match the
//! same images as the naive matcher. Where the fast reader of YAML knows the text, the full parser agrees.
#![no_main]

#[path = "../../benches/figures/linear.rs"]
mod linear;

use libfuzzer_sys::fuzz_target;
use linear::LinearMatcher;
use pullpass::image::ImageRef;
use pullpass::rules::pattern::RegistryPattern;
use pullpass::rules::ruleset::RuleIds;
use pullpass::rules::{Diagnostics, RuleId, RulesConfig, Ruleset, is_read_plainly, load};

/// Patterns of which images are made: the work is quadratic in their number.
const PATTERNS_TRIED_MAX: usize = 40;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    is_read_plainly(text);
    match load(text) {
        Ok(config) => check(&config),
        Err(diagnostics) => check_diagnostics(&diagnostics, text),
    }
});

fn check_diagnostics(diagnostics: &Diagnostics, text: &str) {
    assert!(!diagnostics.0.is_empty());
    for diagnostic in &diagnostics.0 {
        assert!(
            text.get(diagnostic.span.clone()).is_some(),
            "{diagnostic:?}"
        );
        assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
        let related = diagnostic.related.as_ref();
        assert!(related.is_none_or(|(span, _)| text.get(span.clone()).is_some()));
    }
    assert!(!diagnostics.render("rules.yaml", text, false).is_empty());
}

fn check(config: &RulesConfig) {
    let ruleset = Ruleset::compile(config);
    assert_eq!(ruleset.rules().len(), config.rules.len());
    assert_eq!(ruleset.pull_secrets().len(), config.pull_secrets.len());
    let linear = LinearMatcher::new(config);
    let not_excluded = LinearMatcher::new(&with_every_image(config));
    let patterns = config.rules.iter().flat_map(|rule| {
        let images = rule.images.iter().flatten();
        images
            .chain(&rule.exclude_images)
            .map(RegistryPattern::as_str)
    });
    let near = patterns.take(PATTERNS_TRIED_MAX).flat_map(images_near);
    let far = [
        "nginx",
        "localhost:5000/app",
        "[::1]:5000/app",
        "a_b.com/app",
    ];
    for image in near.chain(far.map(str::to_owned)) {
        let Ok(image) = ImageRef::parse(&image) else {
            continue;
        };
        let mut matched = RuleIds::new();
        ruleset.match_image(&image, &mut matched);
        matched.sort_unstable();
        matched.dedup();
        let matched: Vec<_> = matched.iter().map(|id| id.0).collect();
        assert_eq!(matched, linear.matches(&image), "{image}");
        let kept = (0..).zip(&config.rules).map(|(position, _)| position);
        let kept = kept.filter(|position| !ruleset.is_excluded(RuleId(*position), &image));
        assert_eq!(
            kept.collect::<Vec<_>>(),
            not_excluded.matches(&image),
            "{image}"
        );
    }
}

/// The same rules for all images, of which only `excludeImages` takes some out.
fn with_every_image(config: &RulesConfig) -> RulesConfig {
    let mut config = config.clone();
    for rule in &mut config.rules {
        rule.images = Some(vec![RegistryPattern::parse("*").expect("a valid pattern")]);
    }
    config
}

/// Images that the pattern may match, or that it matches nearly.
fn images_near(pattern: &str) -> Vec<String> {
    let bare = pattern.replace(":*", "");
    let (host, path) = bare.split_once('/').unwrap_or((&bare, "app"));
    let mut images = vec![
        bare.clone(),
        format!("{bare}/app"),
        format!("{bare}-x/app"),
        format!("{}/{path}", host.to_uppercase()),
        format!("{host}:5000/{path}"),
        format!("x.{host}/{path}"),
        format!("{host}/x/{path}"),
        format!("{host}/app"),
    ];
    for run in ["", "x", "x-y", "x.y", "x/y"] {
        images.push(bare.replace('*', run));
        images.push(format!("{}/app", bare.replace('*', run)));
    }
    images
}

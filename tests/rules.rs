//! The rules room from outside: fixture files, an independent linear matcher, allocations.
#![cfg(test)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use pullpass::image::ImageRef;
use pullpass::rules::config::{
    CONFIG_MAP_RULES_BYTES_MAX, FILE_RULES_BYTES_MAX, PATTERNS_MAX, RuleConfig,
};
use pullpass::rules::namespace::NamespaceFilter;
use pullpass::rules::ruleset::RuleIds;
use pullpass::rules::{Mode, RegistryPattern, RuleId, RulesConfig, Ruleset, load};

/// All files of a directory below `tests/data` with this extension, sorted.
fn cases(directory: &str, extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(directory);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    assert!(!paths.is_empty(), "no cases in {}", directory.display());
    paths.sort();
    paths
}

#[test]
fn valid_files_load_and_compile() {
    for path in cases("rules", "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let config = load(&text).unwrap_or_else(|e| panic!("{}:\n{e}", path.display()));
        let ruleset = Ruleset::compile(&config);
        assert_eq!(ruleset.rules().len(), config.rules.len());
        assert_eq!(ruleset.pull_secrets().len(), config.pull_secrets.len());
    }
}

/// The examples of the page, whole or as one `source`.
#[test]
fn examples_of_short_lived_tokens_are_rules() {
    let page = include_str!("../docs/short-lived-tokens.md");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let mut sources = Vec::new();
    for block in blocks.filter(|block| !block.starts_with("controller:")) {
        let text = match block.strip_prefix("source: ") {
            None => block.to_owned(),
            Some(source) => format!(
                "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
                 pullSecrets: [{{name: a, source: {}}}]\nrules: []\n",
                source.trim()
            ),
        };
        let config = load(&text).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
        sources.push(config.pull_secrets[0].source.to_string());
    }
    let expected = [
        "program ecr-credential-provider",
        "program auth-provider-gcp",
        "program acr-credential-provider",
        "program docker-credential-ecr-login",
        "file /var/run/registry/config.json",
    ];
    assert_eq!(sources, expected);
}

/// One file, one case, with what is printed for it beside it. `UPDATE_EXPECT=1` writes it anew.
#[test]
fn bad_files_are_explained() {
    let mut wrong = Vec::new();
    for path in cases("rules-bad", "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = match load(&text) {
            Ok(_) => "no error\n".to_owned(),
            Err(diagnostics) => diagnostics.render(name, &text, false),
        };
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

/// The rules for patterns once more, as plainly as they can be said: no trie, no classes.
mod linear {
    fn glob(glob: &str, text: &str) -> bool {
        match glob.split_once('*') {
            None => glob == text,
            Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
                let cuts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
                cuts.into_iter()
                    .any(|at| rest.get(at..).is_some_and(|rest| self::glob(tail, rest)))
            }),
        }
    }

    fn split_port(host: &str) -> (&str, &str) {
        match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port),
            _ => (host, ""),
        }
    }

    /// `name` is registry and repository, as the kubelet looks credentials up.
    pub(super) fn covers(pattern: &str, name: &str) -> bool {
        if pattern == "*" {
            return true;
        }
        let (host, path) = name.split_once('/').unwrap();
        let (pattern_host, pattern_path) = pattern.split_once('/').unwrap_or((pattern, ""));
        let (host, port) = split_port(host);
        let (pattern_host, pattern_port) = split_port(pattern_host);
        let host = host.to_lowercase();
        let pattern_host = match (pattern_host.to_lowercase(), pattern_port) {
            (hub, "" | "*") if hub == "index.docker.io" => "docker.io".to_owned(),
            (host, _) => host,
        };
        let labels: Vec<&str> = host.split('.').collect();
        let pattern_labels: Vec<&str> = pattern_host.split('.').collect();
        let segments: Vec<&str> = path.split('/').collect();
        let pattern_segments: Vec<&str> = pattern_path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let pairs =
            |globs: &[&str], texts: &[&str]| globs.iter().zip(texts).all(|(g, text)| glob(g, text));
        (pattern_port == "*" || pattern_port == port)
            && labels.len() == pattern_labels.len()
            && pairs(&pattern_labels, &labels)
            && pattern_segments.len() <= segments.len()
            && pairs(&pattern_segments, &segments)
    }
}

/// One rule of the property test.
#[derive(Debug, Clone)]
struct TestRule {
    images: Option<Vec<String>>,
    excludes: Vec<String>,
    always: bool,
}

/// A pattern, or an image, from an alphabet so small that hits are frequent.
fn reference(wild: bool) -> impl Strategy<Value = String> {
    let (label, segment, port) = match wild {
        true => (
            "[ab]{1,2}|A|\\*|a\\*|\\*b",
            "[ab]{1,2}|\\*|a\\*|\\*b",
            ":(80|81|\\*)",
        ),
        false => ("[ab]{1,2}|A", "[ab]{1,2}", ":8[01]"),
    };
    let known = prop::sample::select(vec!["docker.io", "index.docker.io", "localhost", "[::1]"]);
    let host = prop_oneof![
        3 => prop::collection::vec(label, 2..4).prop_map(|labels| labels.join(".")),
        1 => known.prop_map(str::to_owned),
    ];
    let port = prop_oneof![3 => Just(String::new()), 1 => port];
    let path = prop::collection::vec(segment, usize::from(!wild)..4);
    (host, port, path).prop_map(|(host, port, path)| {
        path.iter().fold(format!("{host}{port}"), |text, segment| {
            format!("{text}/{segment}")
        })
    })
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![20 => reference(true), 1 => Just("*".to_owned()), 1 => Just("*:*".to_owned())]
}

fn rule() -> impl Strategy<Value = TestRule> {
    let images = prop::collection::vec(pattern(), 1..6);
    let excludes = prop::collection::vec(pattern(), 0..3);
    (prop::option::weighted(0.9, images), excludes, any::<bool>()).prop_map(
        |(images, excludes, always)| TestRule {
            images,
            excludes,
            always,
        },
    )
}

/// Built by hand: a rules text with such excludes would be refused.
fn compile(rules: &[TestRule]) -> Ruleset {
    let parse = |texts: &[String]| -> Vec<RegistryPattern> {
        texts
            .iter()
            .map(|text| RegistryPattern::parse(text).unwrap())
            .collect()
    };
    let rules = rules.iter().enumerate().map(|(position, rule)| RuleConfig {
        name: position.to_string(),
        images: rule.images.as_deref().map(parse),
        exclude_images: parse(&rule.excludes),
        namespaces: NamespaceFilter::default(),
        pod_selector: None,
        pull_secrets: Vec::new(),
        always: rule.always,
        mode: Mode::Enforce,
    });
    Ruleset::compile(&RulesConfig {
        pull_secrets: Vec::new(),
        rules: rules.collect(),
    })
}

fn first<'p>(patterns: &'p [String], name: &str) -> Option<&'p str> {
    patterns
        .iter()
        .map(String::as_str)
        .find(|pattern| linear::covers(pattern, name))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn ruleset_agrees_with_a_linear_matcher(
        rules in prop::collection::vec(rule(), 1..12),
        images in prop::collection::vec(reference(false), 1..12),
    ) {
        let ruleset = compile(&rules);
        let unconditional = rules.iter().map(|rule| rule.always || rule.images.is_none());
        prop_assert_eq!(
            ruleset.unconditional().iter().map(|id| id.0 as usize).collect::<Vec<_>>(),
            unconditional.enumerate().filter(|(_, is)| *is).map(|(at, _)| at).collect::<Vec<_>>()
        );
        let mut all = RuleIds::new();
        let mut all_expected = Vec::new();
        for image in &images {
            let parsed = ImageRef::parse(image).unwrap();
            let name = parsed.to_string();
            for (id, rule) in (0..).map(RuleId).zip(&rules) {
                let matching = first(rule.images.as_deref().unwrap_or_default(), &name);
                let excluding = first(&rule.excludes, &name);
                prop_assert_eq!(ruleset.matching_pattern(id, &parsed), matching, "{}", name);
                prop_assert_eq!(ruleset.excluding_pattern(id, &parsed), excluding, "{}", name);
                prop_assert_eq!(ruleset.is_excluded(id, &parsed), excluding.is_some());
                if matching.is_some() && excluding.is_none() {
                    all_expected.push(id);
                }
            }
            ruleset.match_image(&parsed, &mut all);
        }
        let sorted = |mut ids: Vec<RuleId>| {
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        prop_assert_eq!(sorted(all.to_vec()), sorted(all_expected));
    }

    /// Whatever the text: an answer, and errors that can be shown.
    #[test]
    fn load_never_panics(text in "\\PC{0,200}|[\\[\\]{}:*&!,'\"# \n\t~<a-c-]{0,200}") {
        show(&text);
    }

    /// As above, but close to something valid.
    #[test]
    fn load_never_panics_on_mutated_rules(
        case in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,3}|[\n*&:\\[{-]"), 1..4),
        cut in 0_usize..4,
    ) {
        let mut paths = cases("rules", "yaml");
        paths.extend(cases("rules-bad", "yaml"));
        let mut text: Vec<char> = fs::read_to_string(case.get(&paths)).unwrap().chars().collect();
        for (at, insert) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, insert.chars());
        }
        show(&text.into_iter().collect::<String>());
    }
}

fn show(text: &str) {
    match load(text) {
        Ok(config) => assert_eq!(Ruleset::compile(&config).rules().len(), config.rules.len()),
        Err(diagnostics) => {
            assert!(!diagnostics.0.is_empty());
            assert_eq!(diagnostics.findings(text).len(), diagnostics.0.len());
            for diagnostic in &diagnostics.0 {
                assert!(
                    text.get(diagnostic.span.clone()).is_some(),
                    "{diagnostic:?}"
                );
                assert!(
                    diagnostic.line > 0 && diagnostic.column > 0,
                    "{diagnostic:?}"
                );
                assert!(diagnostic.help.is_some(), "{diagnostic:?}");
            }
            assert!(!diagnostics.render("x", text, true).is_empty());
        }
    }
}

/// Different registries and paths, a tenth of them wildcards.
fn many_patterns(count: usize) -> Ruleset {
    let images = (0..count).map(|i| match i % 10 {
        0 => format!("*.region-{i}.example.com/team"),
        1 => format!("registry.example.com:*/team-{i}/app-*"),
        _ => format!("registry-{}.example.com/team-{}/app-{i}", i % 97, i % 1_013),
    });
    compile(&[TestRule {
        images: Some(images.collect()),
        excludes: vec![],
        always: false,
    }])
}

#[test]
fn figure_p3_matching_allocates_nothing() {
    for count in [10, 1_000, 100_000] {
        let ruleset = many_patterns(count);
        let images = [
            "nginx",
            "registry-2.example.com/team-2/app-2/x:1",
            "REGISTRY-2.Example.com/team-2/app-2",
            "a.region-0.example.com/team/x",
            "registry.example.com:5000/team-1/app-x/y",
            "registry.example.com/nowhere",
            "a.b.c.d.e/f/g/h/i",
        ];
        let mut hits = 0;
        let measured = allocation_counter::measure(|| {
            for image in images {
                let image = ImageRef::parse(image).unwrap();
                let mut matched = RuleIds::new();
                ruleset.match_image(&image, &mut matched);
                hits += matched.len();
                hits += usize::from(ruleset.is_excluded(RuleId(0), &image));
            }
        });
        assert_eq!((measured.count_total, hits), (0, 4), "{count} patterns");
    }
}

/// Runs `pullpass check` on what is on its standard input.
fn check(args: &[&str], input: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullpass"));
    let command = command.arg("check").args(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read all of it may be gone by then.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let shown = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(shown).unwrap(),
    )
}

const VALID: &str =
    "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\npullSecrets: [{name: s}]\n";

#[test]
fn check_sums_up_valid_files() {
    let expected = (
        0,
        "-: valid: 1 pull secret, 0 rules, 0 patterns\n".to_owned(),
    );
    assert_eq!(check(&["-"], VALID), expected);
}

#[test]
fn check_warns_of_passwords_in_the_clear() {
    let entry = |more| format!("{{name: s, probe: {{repository: r.io/app{more}}}}}");
    let (_, shown) = check(&["-"], &VALID.replace("{name: s}", &entry("")));
    assert_eq!(shown.lines().count(), 1, "{shown}");
    let plain = VALID.replace("{name: s}", &entry(", plainHTTP: true"));
    let (code, shown) = check(&["-"], &plain);
    assert_eq!(code, 0);
    let warning =
        "-: warning: pull secret \"s\": `plainHTTP`: its password goes to r.io/app in the clear";
    assert!(shown.ends_with(&format!("{warning}\n")), "{shown}");
}

#[test]
fn check_shows_errors_and_exits_1() {
    let (code, shown) = check(&["-"], &VALID.replace("pullSecrets", "pullSecret"));
    assert_eq!(code, 1);
    assert!(shown.contains("--> -:3:1"), "{shown}");
    assert!(shown.contains("did you mean `pullSecrets`?"), "{shown}");
    assert!(shown.ends_with("\n-: 1 error\n"), "{shown}");
}

#[test]
fn check_prints_json_for_machines() {
    let (code, shown) = check(
        &["-o", "json", "-"],
        &format!("{VALID}rules: [{{name: r}}]"),
    );
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(code, 1);
    assert_eq!(report["valid"], false);
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["line"], &finding["column"]),
        (&4.into(), &10.into())
    );
    assert_eq!(finding["message"], "a rule has no `pullSecrets`");
}

#[test]
fn check_exits_2_if_a_file_cannot_be_read_and_checks_the_others() {
    let (code, shown) = check(&["no such file", "-"], VALID);
    assert_eq!(code, 2);
    assert!(shown.contains("-: valid"), "{shown}");
    assert!(shown.contains("cannot read no such file"), "{shown}");
}

#[test]
fn check_quotes_the_limits() {
    let comment = |bytes: usize| "#".repeat(bytes - VALID.len() - 1) + "\n" + VALID;
    let (code, shown) = check(&["-"], &comment(FILE_RULES_BYTES_MAX + 1));
    assert_eq!(code, 1);
    assert!(shown.contains("`FILE_RULES_BYTES_MAX`"), "{shown}");
    let (code, shown) = check(&["-"], &comment(CONFIG_MAP_RULES_BYTES_MAX + 1));
    assert_eq!(code, 0);
    assert!(shown.contains("`CONFIG_MAP_RULES_BYTES_MAX`"), "{shown}");
    let (code, shown) = check(&["-"], &comment(CONFIG_MAP_RULES_BYTES_MAX));
    assert_eq!((code, shown.lines().count()), (0, 1));
}

#[test]
fn too_many_patterns_are_one_error() {
    let images = "a.io,".repeat(PATTERNS_MAX + 10);
    let rules = format!("{VALID}rules: [{{name: r, pullSecrets: [s], images: [{images}]}}]");
    let errors = load(&rules).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert!(errors.0[0].message.contains("`PATTERNS_MAX`"), "{errors}");
}

//! Exit codes, formats and errors of `mutate`, `explain`, `test`, `doctor` and `completion`.

use serde_json::Value;

use super::{Run, check_file, pullpass, pullpass_with};

const RULES: &str =
    "-r tests/data/pods/shared/rules.yaml --pull-secret tests/data/pods/shared/secrets.yaml";
const PRIVATE: &str =
    "{kind: Pod, metadata: {name: a}, spec: {containers: [{image: harbor.example.com/a}]}}";
const PUBLIC: &str =
    "{kind: Pod, metadata: {name: b}, spec: {containers: [{image: public.example.com/b}]}}";

fn on(stdin: &str, line: &str) -> Run {
    let line = format!("{line} {RULES}");
    pullpass_with(stdin, &line.split_whitespace().collect::<Vec<_>>())
}

/// `expected` is part of standard error.
fn check_refused(run: &Run, expected: &str) {
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn mutate_prints_a_stream_that_is_read_back_as_it_was() {
    let run = on(&format!("{PRIVATE}\n---\n{PUBLIC}\n"), "mutate");
    assert_eq!(
        run.stdout,
        "kind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - image: harbor.example.com/a\n  \
         imagePullSecrets:\n  - name: harbor\n---\nkind: Pod\nmetadata:\n  name: b\nspec:\n  \
         containers:\n  - image: public.example.com/b\n"
    );
    let again = on(&run.stdout, "mutate");
    assert_eq!(again.stdout, run.stdout);
    assert_eq!((run.code, again.code), (0, 0));
}

#[test]
fn mutate_prints_one_pod_as_it_is_and_several_as_a_list() {
    let json = |stdin: &str| -> Value {
        serde_json::from_str(&on(stdin, "mutate -o json").stdout).unwrap()
    };
    assert_eq!(json(PRIVATE)["kind"], "Pod");
    let list = json(&format!("{PRIVATE}\n---\n{PUBLIC}\n"));
    assert_eq!(list["kind"], "List");
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(json("")["items"], Value::Array(Vec::new()));
}

#[test]
fn mutate_shows_no_difference_where_there_is_none() {
    assert_eq!(on(PUBLIC, "mutate -o diff").stdout, "");
}

#[test]
fn mutate_keeps_values_that_other_readers_would_take_for_something_else() {
    let labels =
        r#"{a: "yes", b: "0644", c: "1e3", d: "null", e: "on", f: "22:30", g: "~", h: ""}"#;
    let pod = format!("{{kind: Pod, metadata: {{labels: {labels}}}, spec: {{}}}}");
    let yaml = on(&pod, "mutate").stdout;
    for quoted in [
        "\"yes\"",
        "\"0644\"",
        "\"1e3\"",
        "\"null\"",
        "\"on\"",
        "\"22:30\"",
        "\"~\"",
        "\"\"",
    ] {
        assert!(yaml.contains(quoted), "{quoted} in {yaml}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_position() {
    check_refused(
        &on("kind: Pod\nspec: [", "mutate"),
        "error: -: line 2, column ",
    );
    check_refused(&on("a: 1", "mutate"), "object 1 has no \"kind\"");
    check_refused(
        &pullpass("mutate -r no-such-file -f README.md"),
        "cannot read no-such-file",
    );
    check_refused(
        &on("", "mutate -f no-such-file"),
        "cannot read no-such-file",
    );
    check_refused(&on("", "mutate --namespace-label a"), "KEY=VALUE");
    check_refused(&on("", "explain"), "required");
    check_refused(&on("", "explain nginx -f -"), "cannot be used with");
    check_refused(&pullpass("test no-such-file"), "cannot read no-such-file");
}

#[test]
fn errors_of_rules_are_shown_as_check_shows_them() {
    let bad = "tests/data/pods/skipped.yaml";
    let run = pullpass(&format!("mutate -r {bad} -f {bad}"));
    check_refused(&run, &format!("--> {bad}:"));
}

#[test]
fn no_byte_of_a_secret_is_quoted() {
    let secret = "kind: Secret\nstringData:\n  password: *hunter2\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret.yaml");
    std::fs::write(&file, secret).unwrap();
    let line = format!("explain {RULES} nginx --pull-secret {}", file.display());
    let run = pullpass(&line);
    check_refused(&run, "line 3, column 13: neither YAML nor JSON");
    assert!(!run.stderr.contains("hunter2"));
}

#[test]
fn user_info_in_a_key_is_masked() {
    let secret = r#"{kind: Secret, metadata: {name: harbor}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{"auths":{"user:hunter2@harbor.example.com":{"username":"u","password":"p"}}}'}}"#;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret.yaml");
    std::fs::write(&file, secret).unwrap();
    for output in ["text", "json"] {
        let run = pullpass(&format!(
            "explain {RULES} --pull-secret {} -o {output} harbor.example.com/a",
            file.display()
        ));
        assert!(
            run.stdout.contains("***@harbor.example.com"),
            "{}",
            run.stdout
        );
        assert!(!run.stdout.contains("hunter2"), "{}", run.stdout);
    }
}

#[test]
fn explain_says_by_its_exit_code_whether_there_is_something_to_do() {
    assert_eq!(on("", "explain harbor.example.com/a").code, 0);
    assert_eq!(on("", "explain public.example.com/a").code, 0);
    assert_eq!(on("", "explain prod.example.com/a").code, 1);
    assert_eq!(on("", "explain Not:An:Image").code, 1);
}

#[test]
fn explain_prints_one_object_for_each_pod() {
    let run = on(
        &format!("{PRIVATE}\n---\n{PUBLIC}\n"),
        "explain -f - -o json",
    );
    let objects: Vec<Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let injected: Vec<_> = objects.iter().map(|object| &object["inject"]).collect();
    assert_eq!(
        injected,
        [&serde_json::json!(["harbor"]), &serde_json::json!([])]
    );
    let pretty = format!("{:#}\n", objects[0]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/explain.json");
    check_file(file.as_ref(), &pretty);
}

#[test]
fn the_example_cases_pass() {
    let run = pullpass("test examples/tests.yaml");
    assert_eq!((run.code, &*run.stderr), (0, ""), "{}", run.stdout);
    assert!(
        run.stdout.ends_with("11 passed, 0 failed\n"),
        "{}",
        run.stdout
    );
}

const CASES: &str = r#"
apiVersion: pullpass.dev/v1alpha1
kind: PullRulesTest
rules:
  apiVersion: pullpass.dev/v1alpha1
  kind: PullRules
  pullSecrets: [{name: a}]
  rules: [{name: a, images: [a.io], pullSecrets: [a]}]
cases:
  - {name: right, images: [a.io/x], expect: {pullSecrets: [a], shadow: [], reason: injected, warnings: []}}
  - {name: wrong, images: [a.io/x], expect: {pullSecrets: [b, c], shadow: [s], reason: opted_out, warnings: [w]}}
"#;

#[test]
fn a_failed_case_shows_what_differs() {
    let run = pullpass_with(CASES, &["test", "-"]);
    assert_eq!(run.code, 1);
    assert_eq!(
        run.stdout,
        "ok     -: right\nFAILED -: wrong\n    pullSecrets\n      - b, c\n      + a\n    shadow\n      \
         - s\n      + (none)\n    reason\n      - opted_out\n      + injected\n    warnings\n      \
         - w\n      + (none)\n1 passed, 1 failed\n"
    );
    let run = pullpass_with(CASES, &["test", "-o", "json", "-"]);
    let results: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&results["passed"], &results["failed"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        results["cases"][1]["differences"][0]["field"],
        "pullSecrets"
    );
}

#[test]
fn slips_in_a_file_of_cases_are_refused() {
    let check = |from: &str, to: &str, expected: &str| {
        check_refused(
            &pullpass_with(&CASES.replacen(from, to, 1), &["test", "-"]),
            expected,
        );
    };
    check("images:", "image:", "unknown field `image`");
    check("PullRulesTest", "PullRules", "PullRulesTest");
    check("v1alpha1", "v2", "pullpass.dev/v1alpha1");
    check(
        "reason: injected",
        "reason: done",
        "no reason is called \"done\"",
    );
    check(
        "images: [a.io/x]",
        "pod: {kind: Service}",
        "case \"right\": `pod` is neither a Pod nor",
    );
    check(
        "images: [a.io/x]",
        "pod: examples/pods/debug.yaml",
        "several Pods",
    );
    check(
        "images: [a.io/x]",
        "images: [a], pod: {kind: Pod}",
        "write either `pod`, or `images`",
    );
    check("images: [a.io], pull", "images: [nginx], pull", "nginx");
}

#[test]
fn completion_knows_every_subcommand() {
    let help = pullpass("help").stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|command| !command.is_empty())
        .collect();
    assert!(commands.contains(&"mutate"), "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = pullpass(&format!("completion {shell}"));
        assert_eq!(run.code, 0);
        for command in &commands {
            assert!(run.stdout.contains(command), "{shell}: {command}");
        }
    }
}

/// Nothing but line breaks of our own.
fn check_harmless(text: &str) {
    let harmful = text.chars().find(|&c| c.is_control() && c != '\n');
    assert_eq!(harmful, None, "{text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("forged")),
        "{text}"
    );
}

#[test]
fn a_manifest_cannot_drive_the_terminal() {
    let evil = r#"\e[2J\a\x9b1m\nforged: line"#;
    let pod = format!(
        r#"{{kind: Pod, metadata: {{name: "a{evil}", namespace: "n{evil}"}}, spec: {{imagePullSecrets: [{{name: "s{evil}"}}], containers: [{{image: "i{evil}"}}, {{image: harbor.example.com/a}}]}}}}"#
    );
    let service = format!(r#"{{kind: Service, metadata: {{name: "s{evil}"}}}}"#);
    let manifest = format!("{pod}\n---\n{service}\n");
    for command in ["explain -f -", "mutate -o diff"] {
        let run = on(&manifest, command);
        check_harmless(&run.stdout);
        check_harmless(&run.stderr);
        assert!(
            run.stdout.contains(r"a\u{1b}[2J\u{7}\u{9b}1m\nforged"),
            "{}",
            run.stdout
        );
        assert!(run.stderr.contains(r"s\u{1b}[2J"), "{}", run.stderr);
    }
    let cases = CASES
        .replacen("name: right", &format!(r#"name: "right{evil}""#), 1)
        .replacen("warnings: [w]", &format!(r#"warnings: ["{evil}"]"#), 1);
    let run = pullpass_with(&cases, &["test", "-"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    check_harmless(&run.stdout);
    let escaped = format!("apiVersion: v\n\"k{evil}\": \"x{evil}\"\nnamespaces: \"y{evil}\"\n");
    for rules in [&*escaped, "kind: \u{9b}1m\n", "kind: \x1b[2J\n"] {
        let run = pullpass_with(rules, &["check", "-"]);
        assert_eq!(run.code, 1);
        check_harmless(&run.stdout);
    }
}

const UNDECODABLE: &str = r#"{kind: Secret, metadata: {name: harbor}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: '{"auths":{"harbor.example.com":{"auth":"!"}}}'}}"#;

#[test]
fn scenario_32_nobody_knows_what_an_undecodable_secret_covers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret.yaml");
    std::fs::write(&file, UNDECODABLE).unwrap();
    let explain = |image: &str| {
        pullpass(&format!(
            "explain {RULES} --pull-secret {} {image}",
            file.display()
        ))
    };
    let run = explain("harbor.example.com/a");
    let says = "`harbor` cannot be decoded, so nobody knows what it covers\n";
    assert!(run.stdout.ends_with(says), "{}", run.stdout);
    assert_eq!(run.code, 1);
    assert_eq!(explain("one.example.com/a").code, 0, "another is added");
}

#[test]
fn a_namespace_opts_out_by_its_label() {
    let label = "--namespace-label pullpass.dev/inject=false";
    let run = on(PRIVATE, &format!("explain -f - {label}"));
    let says = "\"default\" opts out by its label pullpass.dev/inject\n";
    assert!(run.stdout.ends_with(says), "{}", run.stdout);
    assert_eq!(run.code, 0);
    let run = on(PRIVATE, &format!("mutate -o patch {label}"));
    let line: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&line["reason"], &line["patch"]),
        (&"opted_out".into(), &serde_json::json!([]))
    );
    let other = on(
        PRIVATE,
        "mutate -o patch --namespace-label pullpass.dev/inject=true",
    );
    assert!(other.stdout.contains("\"injected\""), "{}", other.stdout);
    let cases = CASES.replacen(
        "images: [a.io/x], expect: {pullSecrets: [a], shadow: [], reason: injected",
        "images: [a.io/x], namespaceLabels: {pullpass.dev/inject: 'false'}, \
         expect: {pullSecrets: [], shadow: [], reason: opted_out",
        1,
    );
    let run = pullpass_with(&cases, &["test", "-"]);
    assert!(
        run.stdout.starts_with("ok     -: right\n"),
        "{}",
        run.stdout
    );
}

#[test]
fn errors_of_cases_have_one_position_and_say_who_asked() {
    let cases = CASES.replacen("cases:", "casse:", 1);
    let run = pullpass_with(&cases, &["test", "-"]);
    check_refused(&run, "error: -:9:1: unknown field `casse`");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cases.yaml");
    let check = |cases: &str, field: &str| {
        std::fs::write(&file, cases).unwrap();
        let run = pullpass(&format!("test {}", file.display()));
        let expected = format!("{}: `{field}`: cannot read ", file.display());
        check_refused(&run, &expected);
    };
    let head = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRulesTest\n";
    check(&format!("{head}rules: gone.yaml\ncases: []\n"), "rules");
    check(
        &CASES.replacen("cases:", "pullSecrets: [gone.yaml]\ncases:", 1),
        "pullSecrets",
    );
    check(
        &CASES.replacen("images: [a.io/x]", "pod: gone.yaml", 1),
        "pod",
    );
}

/// YAML and JSON of the same run, as values.
fn check_same_shape(stdin: &str, line: &str) {
    let run = |output: &str| {
        let line = format!("{line} -o {output}");
        pullpass_with(stdin, &line.split_whitespace().collect::<Vec<_>>())
    };
    let (json, yaml) = (run("json"), run("yaml"));
    let json_values: Vec<Value> = serde_json::Deserializer::from_str(&json.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let yaml_values: Vec<Value> = serde_saphyr::from_multiple(&yaml.stdout).unwrap();
    assert_eq!(json_values, yaml_values, "{}", yaml.stdout);
    assert!(!yaml.stdout.starts_with('{'), "{}", yaml.stdout);
    assert_eq!(json.code, yaml.code);
}

#[test]
fn yaml_has_the_shape_of_json() {
    let bad = "tests/data/rules-bad/fields.yaml";
    check_same_shape("", &format!("check examples/rules.yaml {bad}"));
    check_same_shape(
        &format!("{PRIVATE}\n---\n{PUBLIC}\n"),
        &format!("explain {RULES} -f -"),
    );
    check_same_shape(CASES, "test -");
}

#[test]
fn explain_does_not_take_a_live_pod_for_an_image() {
    for pod in ["pod/web", "pods/web", "po/web", "pod web"] {
        check_refused(
            &on("", &format!("explain {pod}")),
            "a live Pod falls under the rules of its cluster; leave out --rules",
        );
    }
    check_refused(
        &on("", "explain pod/web pod/shop"),
        "one live Pod at a time, and no images",
    );
    check_refused(
        &pullpass("explain harbor.example.com/web"),
        "--rules is missing; only a live Pod, as pod/NAME, needs none",
    );
}

#[test]
fn text_that_is_not_utf_8_is_refused_with_a_fix() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    std::fs::write(&file, b"kind: \xff\n").unwrap();
    let run = pullpass(&format!("check {}", file.display()));
    check_refused(&run, "rules.yaml: not UTF-8 text; save it as UTF-8");
}

#[test]
fn the_help_of_keys_warns_of_user_info() {
    let help = pullpass("keys --help").stdout;
    assert!(help.contains("user:password@registry"), "{help}");
}

#[test]
fn doctor_without_an_api_server_is_a_usage_error() {
    let nobody = "apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
";
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let doctor = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pullpass"));
        let output = command
            .args(["doctor", "-o", "json"])
            .env("KUBECONFIG", &kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(output.stdout, b"");
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = doctor();
    assert!(
        missing.contains("give a kubeconfig by KUBECONFIG"),
        "{missing}"
    );
    std::fs::write(&kubeconfig, nobody).unwrap();
    let refused = doctor();
    assert!(refused.contains("cannot ask the API server"), "{refused}");
}

//! `import` on files as they are found on laptops, build machines and in containers: one file, one case. What is said
//! of it stands beside it, with what `check` says of its rules and `keys` of its Secrets.
//!
//! The credential helpers are scripts in `tests/data/import/helpers`. Every password there holds `hunter2`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{Run, check_file, pullpass_with};

const CASES: &str = "tests/data/import";

/// Runs `pullpass import` with the helpers on PATH, in the repository's root.
fn import(args: &[&str]) -> Run {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var("PATH").unwrap();
    let helpers = root.join(CASES).join("helpers");
    let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
        .arg("import")
        .args(args)
        .current_dir(root)
        .env("PATH", format!("{}:{path}", helpers.display()))
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The Secrets of a stream of manifests: name and payload.
fn payloads(yaml: &str) -> Vec<(String, String)> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let secrets = objects.iter().filter(|object| object["kind"] == "Secret");
    secrets
        .map(|secret| {
            assert_eq!(secret["type"], "kubernetes.io/dockerconfigjson");
            assert_eq!(secret["metadata"]["namespace"], "pullpass");
            let data = secret["data"][".dockerconfigjson"].as_str().unwrap();
            let payload = BASE64_STANDARD.decode(data).unwrap();
            let name = secret["metadata"]["name"].as_str().unwrap();
            (name.to_owned(), String::from_utf8(payload).unwrap())
        })
        .collect()
}

/// What nobody may see of these texts in JSON, that of a file of logins and those of payloads: each `auth`, and the
/// password in it.
fn hidden<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut hidden = vec!["hunter2".to_owned()];
    for word in texts.flat_map(|text| text.split('"')) {
        let decoded = BASE64_STANDARD.decode(word).unwrap_or_default();
        let login = String::from_utf8(decoded).unwrap_or_default();
        if let Some((_, password)) = login.split_once(':') {
            hidden.extend([word, password].map(str::to_owned));
        }
    }
    hidden.retain(|secret| !secret.is_empty());
    hidden
}

fn case(name: &str) {
    let file = format!("{CASES}/{name}.json");
    // Nothing works there that a busy machine could make late.
    let timeout = if name == "hanging_helper" { "1" } else { "60" };
    let args = [&*file, "--helper-timeout", timeout];
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let run = import(&args);
    let written = import(&[&args[..], &["--out", out, "-o", "json"]].concat());
    let revealed = import(&[&args[..], &["--reveal"]].concat());
    assert_eq!([written.code, revealed.code], [run.code; 2]);
    let mut found = format!("$ pullpass import {file}\n{}{}", run.stdout, run.stderr);
    found += &format!("(exit code {})\n", run.code);
    let mut said = vec![run.stdout, run.stderr, written.stdout, written.stderr];
    said.push(revealed.stderr);
    let secrets = payloads(&revealed.stdout);
    if run.code < 2 {
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(payloads(&read("secrets.yaml")), secrets);
        let check = pullpass_with(&read("rules.yaml"), &["check", "-"]);
        assert_eq!(check.code, 0, "{}", check.stdout);
        found += &format!("\n$ pullpass check rules.yaml\n{}", check.stdout);
        for (secret, payload) in &secrets {
            let keys = pullpass_with(payload, &["keys", "-"]);
            assert_eq!(keys.code, 0, "{}", keys.stdout);
            assert!(keys.stdout.contains(r#""usable":true"#), "{}", keys.stdout);
            found += &format!("\n$ pullpass keys {secret}\n{}", keys.stdout);
        }
        said.extend(["rules.yaml", "values.yaml"].map(read));
    } else {
        assert_eq!(revealed.stdout, "");
    }
    let source = std::fs::read_to_string(&file).unwrap();
    let payloads = secrets.iter().map(|(_, payload)| &**payload);
    for secret in hidden(payloads.chain([&*source])) {
        let shown = said.iter().find(|text| text.contains(&secret));
        assert_eq!(shown, None, "{secret}");
    }
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{CASES}/{name}.expect"));
    check_file(&expected, &found);
}

/// One test for each file.
macro_rules! cases {
    ($($test:ident: $file:literal,)*) => {
        $(#[test] fn $test() { case($file); })*

        #[test]
        fn every_file_of_logins_is_a_case() {
            let mut tested = vec![$($file),*];
            tested.sort_unstable();
            let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(CASES);
            let files = std::fs::read_dir(cases).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut found: Vec<String> =
                names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
            found.sort_unstable();
            assert_eq!(found, tested);
        }
    };
}

cases!(
    scenario_50_docker_desktop: "docker_desktop",
    scenario_50_linux_plain: "linux_plain",
    scenario_50_mixed_helpers: "mixed_helpers",
    scenario_50_containers_auth: "containers_auth",
    scenario_50_dockercfg: "dockercfg",
    scenario_54_github: "github",
    scenario_54_harbor_robot: "harbor_robot",
    scenario_54_quay_robot: "quay_robot",
    scenario_54_azure: "azure",
    scenario_54_aliyun: "aliyun",
    scenario_54_google_json_key: "google_json_key",
    scenario_50_mistakes: "mistakes",
    scenario_50_hanging_helper: "hanging_helper",
    literal_02_broken: "broken",
);

#[test]
fn the_stream_holds_the_rules_only_where_their_name_is_given() {
    let file = "tests/data/import/harbor_robot.json";
    let kinds = |args: &[&str]| -> Vec<String> {
        let run = import(args);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(
            run.stderr.contains("white space"),
            "the report: {}",
            run.stderr
        );
        let objects: Vec<Value> = serde_saphyr::from_multiple(&run.stdout).unwrap();
        let text = |object: &Value, field: &str| object[field].as_str().unwrap().to_owned();
        objects
            .iter()
            .map(|it| format!("{} {}", text(it, "kind"), text(&it["metadata"], "name")))
            .collect()
    };
    assert_eq!(kinds(&["--reveal", file]), ["Secret harbor.example.com"]);
    assert_eq!(
        kinds(&["--reveal", "--config-map", "mine", "--into", "all", file]),
        ["Secret all", "ConfigMap mine"]
    );
}

#[test]
fn files_are_for_their_owner_and_never_overwritten_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new");
    let out = out.to_str().unwrap();
    let file = "tests/data/import/dockercfg.json";
    let run = |more: &[&str]| import(&[&[file, "--out", out], more].concat());
    assert_eq!(run(&[]).code, 0);
    let secrets = Path::new(out).join("secrets.yaml");
    let mode = || std::fs::metadata(&secrets).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    std::fs::write(&secrets, "mine").unwrap();
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(&[]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("--force replaces it"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(&secrets).unwrap(), "mine");
    assert_eq!(run(&["--force"]).code, 0);
    assert_eq!(mode(), 0o600);
}

#[test]
fn the_later_file_wins_and_it_is_said() {
    let [a, b] = ["harbor_robot", "mixed_helpers"].map(|name| format!("{CASES}/{name}.json"));
    let run = import(&["--no-helpers", &a, &b]);
    let said = format!("\"harbor.example.com\" from {b} is the same registry, and comes later");
    let text = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&said), "{text}");
    assert!(
        text.contains("its credential helpers were not asked"),
        "{text}"
    );
    assert_eq!(run.code, 0);
}

#[test]
fn docker_decides_where_the_file_is() {
    let directory = tempfile::tempdir().unwrap();
    let docker = directory.path().join(".docker");
    std::fs::create_dir(&docker).unwrap();
    let config = format!("{CASES}/dockercfg.json");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config);
    std::fs::copy(config, docker.join("config.json")).unwrap();
    let found = |name: &str, value: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullpass"));
        command
            .arg("import")
            .env_remove("DOCKER_CONFIG")
            .env_remove("HOME");
        command.env(name, value).output().unwrap().status.code()
    };
    assert_eq!(found("HOME", directory.path()), Some(0));
    assert_eq!(found("DOCKER_CONFIG", &docker), Some(0));
    assert_eq!(found("HOME", &docker), Some(2));
}

#[test]
fn what_cannot_be_used_as_a_name_is_refused() {
    let run = import(&["--into", "Not_A_Name", "tests/data/import/dockercfg.json"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("Not_A_Name"), "{}", run.stderr);
}

#[test]
fn what_no_secret_can_hold_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = |host: &str, password_bytes: usize| {
        let entry = json!({"username": "u", "password": "p".repeat(password_bytes)});
        let path = directory.path().join(host);
        std::fs::write(&path, json!({"auths": {host: entry}}).to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // In base64 a third larger.
    let [a, b] = ["a.io", "b.io"].map(|host| file(host, 400_000));
    assert_eq!(import(&[&a, &b]).code, 0);
    let out = directory.path().join("out");
    let run = import(&["--into", "all", "--out", out.to_str().unwrap(), &a, &b]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("Secret all"), "{}", run.stderr);
    assert!(!out.exists());
    assert_eq!(import(&[&file("c.io", 800_000)]).code, 2);
}

#[test]
fn no_login_at_all_is_a_finding() {
    for text in ["{}", "null", r#"{"auths":{}}"#] {
        let run = pullpass_with(text, &["import", "-"]);
        assert_eq!((run.code, &*run.stdout), (1, "there is no login here\n"));
    }
}

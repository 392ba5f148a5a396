//! The subcommands `image`, `match` and `keys`, as a script sees them.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn run<A: AsRef<OsStr>>(arguments: &[A], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pullpass"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pullpass starts");
    // The program may end without reading it all.
    drop(child.stdin.take().expect("piped").write_all(input));
    child.wait_with_output().expect("pullpass ends")
}

fn rows(output: &Output) -> Vec<Value> {
    let text = str::from_utf8(&output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn check<A: AsRef<OsStr>>(arguments: &[A], input: &[u8], code: i32, expected: &[Value]) {
    let output = run(arguments, input);
    assert_eq!(rows(&output), expected);
    assert_eq!(output.status.code(), Some(code));
}

/// The one row that `keys` prints for a payload.
fn keys(payload: &str, code: i32) -> Value {
    let output = run(&["keys", "-"], payload.as_bytes());
    assert_eq!(output.status.code(), Some(code), "{payload}");
    let mut rows = rows(&output);
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn check_error(payload: &str, expected: &str) {
    let row = keys(payload, 1);
    assert_eq!(row["result"], "error", "{payload}");
    assert_eq!(row["keys"], json!([]));
    let error = row["error"].as_str().expect("an error");
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

fn check_warning(payload: &str, expected: &str) {
    let row = keys(payload, 0);
    assert_eq!(row["result"], "ok", "{payload}");
    let warnings = row["warnings"].to_string();
    assert!(warnings.contains(expected), "{warnings} lacks {expected:?}");
}

#[test]
fn image_prints_one_object_a_line_in_the_documented_order() {
    let output = run(&["image", "nginx:1"], b"");
    assert_eq!(
        str::from_utf8(&output.stdout).expect("UTF-8"),
        "{\"input\":\"nginx:1\",\"name\":\"docker.io/library/nginx\",\"registry\":\"docker.io\",\
         \"repository\":\"library/nginx\",\"tag\":\"1\",\"digest\":null,\"familiar\":\"nginx\",\
         \"error\":null}\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn image_takes_any_bytes_and_lines_from_standard_input() {
    let output = run(&[OsStr::new("image"), OsStr::from_bytes(b"r.io/\xff")], b"");
    let row = &rows(&output)[0];
    assert_eq!(
        (&row["input"], &row["name"]),
        (&json!("r.io/\u{FFFD}"), &json!(null))
    );
    assert_eq!(output.status.code(), Some(1));

    let output = run(&["image", "a", "-", "b"], b"c\n\nd\r\ne");
    let inputs: Vec<_> = rows(&output)
        .iter()
        .map(|row| row["input"].clone())
        .collect();
    assert_eq!(inputs, ["a", "c", "", "d\r", "e", "b"]);
    assert_eq!(output.status.code(), Some(1));

    assert_eq!(run(&["image", "--", "-x"], b"").status.code(), Some(1));
    assert_eq!(run(&["image", "-x"], b"").status.code(), Some(1));
}

#[test]
fn scenario_08_tag_and_digest_do_not_change_the_name() {
    let digest = format!("@sha256:{}", "0".repeat(64));
    for suffix in ["", ":latest", ":1.0", &digest, &format!(":1.0{digest}")] {
        let image = format!("r.io/team/app{suffix}");
        let row = &rows(&run(&["image", &image], b""))[0];
        assert_eq!(row["name"], "r.io/team/app");
        let row = &rows(&run(&["match", "--auth-key", "r.io/team", &image], b""))[0];
        assert_eq!(row["matched_in_order"], json!(["r.io/team"]));
    }
}

#[test]
fn match_prints_the_keys_as_given_in_the_kubelets_order() {
    check(
        &[
            "match",
            "--auth-key",
            "https://r.io",
            "r.io/team/app:1",
            "Bad",
            "--auth-key",
            "r.io/team",
        ],
        b"",
        1,
        &[
            json!({
                "image": "r.io/team/app:1", "name": "r.io/team/app", "error": null,
                "matched_in_order": ["r.io/team", "https://r.io"], "docker_hub_fallback": false,
            }),
            json!({
                "image": "Bad", "name": null, "matched_in_order": [], "docker_hub_fallback": false,
                "error": "'B' at column 1: the repository must be lowercase, write 'b'",
            }),
        ],
    );
    check(
        &["match", "--auth-key", "https://index.docker.io/v1/", "-"],
        b"nginx\nquay.io/x\n",
        0,
        &[
            json!({
                "image": "nginx", "name": "docker.io/library/nginx", "error": null,
                "matched_in_order": ["https://index.docker.io/v1/"], "docker_hub_fallback": true,
            }),
            json!({
                "image": "quay.io/x", "name": "quay.io/x", "error": null,
                "matched_in_order": [], "docker_hub_fallback": false,
            }),
        ],
    );
}

#[test]
fn literal_01_prose_is_not_json() {
    check_error("Really really … auth keys", "not JSON at line 1, column 1");
}

#[test]
fn literal_02_a_trailing_comma_and_a_missing_brace_are_located() {
    check_error(
        "{\"auths\":{\n  \"r.io\":{},\n}}",
        "not JSON at line 3, column 1: a comma",
    );
    check_error(
        "{\"auths\":{\n  \"r.io\":{}\n}",
        "not JSON at line 3, column 2: the text ends",
    );
}

#[test]
fn literal_03_two_keys_with_one_index_key_are_warned_of() {
    let payload = r#"{"auths":{
        "10.39.0.118": {"username":"a","password":"x"},
        "10.39.0.12:5000": {"username":"a","password":"x"},
        "http://10.39.0.12:5000": {"username":"a","password":"y"}}}"#;
    let row = keys(payload, 0);
    let index_keys: Vec<_> = row["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|k| &k["index_key"])
        .collect();
    assert_eq!(
        index_keys,
        ["10.39.0.118", "10.39.0.12:5000", "10.39.0.12:5000"]
    );
    check_warning(payload, "share the index key");
}

#[test]
fn literal_04_paths_are_prefixes_of_text_to_the_kubelet() {
    let key = "https://my-registry.cn/images";
    let row = keys(&format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#), 0);
    assert_eq!(row["keys"][0]["index_key"], "my-registry.cn/images");
    for image in ["my-registry.cn/images/a", "my-registry.cn/imagesx"] {
        let row = &rows(&run(&["match", "--auth-key", key, image], b""))[0];
        assert_eq!(row["matched_in_order"], json!([key]));
    }
}

#[test]
fn literal_05_auth_wins_over_user_name_and_password() {
    let auth = "VXNlck5hbWU6UGFzc3dvcmQ=";
    for entry in [
        format!(r#"{{"auth":"{auth}"}}"#),
        format!(r#"{{"username":"x","password":"y","auth":"{auth}"}}"#),
        format!(r#"{{"auth":"{auth}","email":""}}"#),
    ] {
        let row = keys(&format!(r#"{{"auths":{{"r.io":{entry}}}}}"#), 0);
        assert_eq!(row["keys"][0]["username"], "UserName");
        assert_eq!(row["keys"][0]["usable"], true);
        assert_eq!(row["warnings"], json!([]));
    }
}

#[test]
fn scenario_32_payloads_that_cover_nothing_say_why() {
    check_warning("{}", "no entry under `auths`");
    check_warning(r#"{"kind":"Secret","data":{}}"#, "this is a manifest");
    check_error("not json", "not JSON at line 1, column 2");
    check_error(
        r#"{"auths":{"r.io":{"auth":"dTpw"},}}"#,
        "a comma before a closing bracket",
    );
    let row = keys("", 0);
    assert_eq!(
        (&row["result"], &row["keys"]),
        (&json!("skipped"), &json!([]))
    );
    let row = keys("eyJhdXRocyI6e319\n", 1);
    assert!(
        row["warnings"]
            .to_string()
            .contains("the payload is base64 itself")
    );
    let row = keys("apiVersion: v1\nkind: Secret\n", 1);
    assert!(row["warnings"].to_string().contains("this is a manifest"));
}

#[test]
fn scenario_51_wrapped_base64_and_white_space_are_read_as_the_kubelet_does() {
    let wrapped = r#"{"auths":{"r.io":{"auth":"dXNlcjpw\nYXNzd29yZA=="}}}"#;
    assert_eq!(keys(wrapped, 0)["warnings"], json!([]));
    check_error(
        &wrapped.replace("\\n", " "),
        "bad base64, it holds white space",
    );
    check_error(
        &wrapped.replace("\\n", "\n"),
        "control character in a string",
    );
    // A trailing line feed in the password.
    check_warning(
        r#"{"auths":{"r.io":{"auth":"dTpwCg=="}}}"#,
        "the password has white space",
    );
    check_warning(
        r#"{"auths":{"r.io":{"username":" u","password":"p"}}}"#,
        "the user name has white",
    );
}

#[test]
fn errors_tell_the_entry_and_what_is_wrong_with_it() {
    let check = |entry: &str, expected: &str| {
        check_error(&format!(r#"{{"auths":{{"r.io":{entry}}}}}"#), expected);
    };
    check(r#"{"auth":"a-_b"}"#, "bad `auth` for registry \"r.io\"");
    check(r#"{"auth":"a-_b"}"#, "URL-safe");
    check(r#"{"auth":"a"}"#, "its length or padding is wrong");
    check(r#"{"auth":"dXNlcg=="}"#, "no colon in what it decodes to");
    check("[]", "bad entry for registry \"r.io\" at line 1, column 18");
    check(r#"{"email":1}"#, "`email` must be a string, not a number");
    check_error(
        r#"{"auths":[]}"#,
        "wrong type at line 1, column 10: `auths` must be an object",
    );
    check_error("[]", "the document must be an object, not an array");
    check_error(
        r#"{"HttpHeaders":{"a":1}}"#,
        "each of `HttpHeaders` must be a string",
    );
    check_error(
        r#"{"auths":{"https://u:hunter2@r.io/x":1}}"#,
        "\"https://***@r.io/x\"",
    );
}

#[test]
fn warnings_tell_what_the_kubelet_does_with_an_entry() {
    let check = |key: &str, entry: &str, expected: &str| {
        check_warning(&format!(r#"{{"auths":{{"{key}":{entry}}}}}"#), expected);
    };
    check("r.io:*", "{}", "the kubelet ignores this key");
    check("r.io", r#"{"identitytoken":"t"}"#, "it has a token only");
    check("r.io", "{}", "does not fall back to Docker Hub");
    check("u:p@r.io", "{}", "what stands before `@`");
}

#[test]
fn no_password_is_ever_printed() {
    let secret = "hunter2hunter2";
    // base64 of `user:hunter2hunter2`, and the same with something broken behind it.
    let auth = "dXNlcjpodW50ZXIyaHVudGVyMg==";
    for payload in [
        format!(r#"{{"auths":{{"r.io":{{"username":"u","password":"{secret}"}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"username":"u","password":" {secret} "}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}="}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"auth":"{secret}!"}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"password":["{secret}"]}}}}}}"#),
        format!(r#"{{"auths":{{"r.io":{{"password":"{secret}"#),
        format!(r#"{{"auths":{{"r.io":{{"password":{secret}}}}}}}"#),
        format!(r#"{{"auths":{{"https://u:{secret}@r.io":1}}}}"#),
    ] {
        let output = run(&["keys", "-"], payload.as_bytes());
        for shown in [&output.stdout, &output.stderr] {
            let shown = String::from_utf8_lossy(shown);
            assert!(
                !shown.contains(secret) && !shown.contains(auth),
                "{payload}: {shown}"
            );
        }
    }
}

#[test]
fn wrong_usage_and_unreadable_files_exit_with_2() {
    for arguments in [
        &["keys", "/nonexistent"][..],
        &["keys", "/"],
        &["keys"],
        &["keys", "--type", "opaque", "-"],
        &["match", "nginx"],
        &["match", "--auth-key", "r.io"],
        &["image"],
        &["nonsense"],
        &[],
    ] {
        let output = run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn help_shows_examples() {
    for command in ["image", "match", "keys"] {
        let output = run(&[command, "--help"], b"");
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(&format!("  pullpass {command} "))
        );
    }
}

#[test]
fn the_payload_type_selects_the_shape() {
    let output = run(
        &["keys", "--type", "dockercfg", "-"],
        br#"{"r.io":{"auth":"dTpw"}}"#,
    );
    assert_eq!(
        rows(&output)[0]["keys"][0],
        json!({"key": "r.io", "index_key": "r.io", "username": "u", "usable": true})
    );
}

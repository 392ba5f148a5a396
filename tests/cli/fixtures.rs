//! One file of Pods, one case: what `mutate` and `explain` say about it stands beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{check_file, pullpass};

const CASES: &str = "tests/data/pods";
const EXAMPLES: &str = "examples/pods";
/// What the examples give; their own directory shows only what a user writes.
const EXAMPLES_EXPECTED: &str = "tests/data/examples";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a case of [`CASES`]; its first line may hold more arguments (`# args: …`).
fn case(name: &str) {
    let file = format!("{CASES}/{name}.yaml");
    let text = std::fs::read_to_string(root().join(&file)).unwrap();
    let first_line = text.lines().next().unwrap_or_default();
    let more = first_line.strip_prefix("# args: ").unwrap_or_default();
    let shared = format!("{CASES}/shared");
    let args =
        format!("-r {shared}/rules.yaml --pull-secret {shared}/secrets.yaml {more} -f {file}");
    let expected = format!("{CASES}/{name}.expect");
    check(&args, "patch", &root().join(expected));
}

fn example(name: &str) {
    let secrets = ["harbor", "aliyun", "docker-hub"]
        .map(|name| format!("--pull-secret examples/pull-secrets/{name}.yaml"))
        .join(" ");
    let args = format!("-r examples/rules.yaml {secrets} -f {EXAMPLES}/{name}.yaml");
    let expected = format!("{EXAMPLES_EXPECTED}/{name}.expect");
    check(&args, "diff", &root().join(expected));
}

fn check(args: &str, output: &str, expected: &Path) {
    let mut found = String::new();
    for command in [format!("mutate -o {output}"), "explain".to_owned()] {
        let run = pullpass(&format!("{command} {args}"));
        found += &format!("$ pullpass {command}\n{}", run.stdout);
        if !run.stderr.is_empty() {
            found += &format!("\n(standard error)\n{}", run.stderr);
        }
        found += &format!("\n(exit code {})\n\n", run.code);
    }
    check_file(expected, &found);
}

/// One test for each file (`test_name: "file"`, or `test_name` if they are the same), and a test that
/// each file has one.
macro_rules! files {
    ($run:ident, $directory:expr, $all:ident: $($test:ident $(: $file:literal)?,)*) => {
        $(#[test] fn $test() { $run(files!(@ $test $($file)?)); })*

        #[test]
        fn $all() {
            let tested = BTreeSet::from([$(files!(@ $test $($file)?).to_owned()),*]);
            assert_eq!(tested, yaml_files($directory), "each file of {} is a case here", $directory);
        }
    };
    (@ $test:ident) => { stringify!($test) };
    (@ $test:ident $file:literal) => { $file };
}

fn yaml_files(directory: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join(directory)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .collect()
}

files!(case, CASES, every_file_is_a_case:
    scenario_03_two_accounts_one_host,
    scenario_04_one_secret_two_registries,
    scenario_05_path_scope,
    scenario_06_own_entries,
    scenario_08_tags_and_digests,
    scenario_09_one_ip_two_ports,
    scenario_10_docker_hub,
    scenario_13_opaque_secrets,
    scenario_14_old_manifests,
    scenario_20_labels_do_not_match,
    scenario_20_not_permitted,
    scenario_21_internal_host,
    scenario_32_unusable_source,
    literal_04_key_with_a_path,
    literal_06_janedoe,
    images_everywhere,
    skipped,
);

files!(example, EXAMPLES, every_example_is_a_case:
    example_cronjob: "cronjob",
    example_debug: "debug",
    literal_08_deployment_of_today: "rbd-rest-api",
    literal_08_deployment_v1beta1: "rbd-rest-api-v1beta1",
    example_single: "single",
    example_two_registries: "two-registries",
);

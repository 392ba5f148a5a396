//! docs/migration.md, word for word, on a cluster with what each tool leaves behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::delivery::{listed, secret, set_payload};
use crate::harness::namespace::{Namespace, docker_config, pod, pull_secrets_of};
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::registry::{ALPHA, BETA};

pub(crate) fn register(trials: &mut Trials) {
    // Its rules are for every namespace of the cluster.
    trials.alone("scenario_39_incident_35_migration_as_documented", migration);
}

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../../../docs/migration.md");
/// What the page calls the copies.
const NAME: &str = "image-pull-secret";

/// The blocks of the page in one language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let blocks = PAGE.split(&fence).skip(1);
    blocks
        .filter_map(|block| block.split("```").next())
        .collect()
}

/// The commands of the page: what follows `$ `, with the lines that continue it.
fn commands() -> Vec<String> {
    let blocks = blocks("console").concat();
    let commands = blocks.split("$ ").skip(1);
    commands
        .map(|command| command.trim_end().to_owned())
        .collect()
}

/// What a tool leaves in a namespace: its copy, and whether its ServiceAccounts name it.
struct Tool {
    namespace: &'static str,
    copy: Value,
    patches_accounts: bool,
}

/// As of the tools' own sources: titansoft's secret.go and service_account.go; tamcore's utils.go and
/// serviceaccount_controller.go; Kyverno's background/common/labels.go; the mirrors of Reflector 7.
fn tools_before() -> [Tool; 4] {
    let patched = json!({"app.kubernetes.io/managed-by": "imagepullsecret-patcher"});
    let copy = |namespace: &'static str, metadata: Value, patches_accounts| {
        let mut copy = secret(NAME, &docker_config(&[ALPHA.entry()]).to_string());
        copy["metadata"] = metadata;
        copy["metadata"]["name"] = json!(NAME);
        Tool {
            namespace,
            copy,
            patches_accounts,
        }
    };
    let generate = |rest: &str| format!("generate.kyverno.io/{rest}");
    let cloned = json!({
        "app.kubernetes.io/managed-by": "kyverno",
        generate("clone-source"): "",
        generate("policy-name"): "sync-image-pull-secret",
        generate("policy-namespace"): "",
        generate("rule-name"): "sync-image-pull-secret",
        generate("source-group"): "",
        generate("source-kind"): "Secret",
        generate("source-namespace"): "default",
        generate("source-version"): "v1",
        generate("trigger-group"): "",
        generate("trigger-kind"): "Namespace",
        generate("trigger-namespace"): "",
        generate("trigger-version"): "v1",
    });
    let reflects = |rest: &str| format!("reflector.v1.k8s.emberstack.com/{rest}");
    let reflected = json!({
        reflects("auto-reflects"): "True",
        reflects("reflected-at"): "\"2026-05-01T10:00:00.0000000+00:00\"",
        reflects("reflected-version"): "785051",
        reflects("reflects"): format!("default/{NAME}"),
    });
    [
        copy("team-titansoft", json!({"annotations": patched}), true),
        copy(
            "team-tamcore",
            json!({"annotations": patched, "labels": patched}),
            true,
        ),
        copy("team-kyverno", json!({"labels": cloned}), false),
        copy("team-reflector", json!({"annotations": reflected}), false),
    ]
}

/// The former tools' own namespaces, Deployments and policies, as far as the page names them.
fn make_tools(cluster: &Cluster) {
    let labels = json!({"app": "tool"});
    for name in ["imagepullsecret-patcher", "reflector"] {
        Namespace::create_labelled(cluster, name, &json!({}));
        let mut template = pod("tool", &[("tool", "tool.example.com/tool")]);
        template["spec"]["schedulerName"] = json!("nobody");
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
            },
        });
        let path = format!("/apis/apps/v1/namespaces/{name}/deployments");
        cluster.api.post(&path, &deployment).expect("it is new");
    }
    let patcher = Namespace::existing(cluster, "imagepullsecret-patcher");
    let login = docker_config(&[ALPHA.entry()]).to_string();
    patcher.create_object("secrets", &secret("image-pull-secret-src", &login));

    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "metadata": {"name": "clusterpolicies.kyverno.io"},
        "spec": {
            "group": "kyverno.io",
            "scope": "Cluster",
            "names": {"kind": "ClusterPolicy", "plural": "clusterpolicies", "singular": "clusterpolicy"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": any}}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster
        .api
        .post(definitions, &definition)
        .expect("it is new");
    let generate = json!({"synchronize": true, "clone": {"namespace": "default", "name": NAME}});
    for (name, rule) in [
        ("sync-image-pull-secret", json!({"generate": generate})),
        ("add-image-pull-secret", json!({"mutate": {}})),
    ] {
        let policy = json!({
            "apiVersion": "kyverno.io/v1", "kind": "ClusterPolicy",
            "metadata": {"name": name}, "spec": {"rules": [rule]},
        });
        wait_for("Kyverno's kind is served", HAPPY, || {
            cluster
                .api
                .post("/apis/kyverno.io/v1/clusterpolicies", &policy)
        });
    }
}

/// A namespace with a copy, entries, and a Pod that runs by them. Gives the namespace, the copy and the Pod.
fn make_team<'a>(cluster: &'a Cluster, tool: &Tool) -> (Namespace<'a>, Value, Value) {
    let namespace = Namespace::create_labelled(cluster, tool.namespace, &json!({}));
    let copy = namespace.create_object("secrets", &tool.copy);
    let image = cluster.registries().fresh(ALPHA.host, "migration/before");
    let mut before = pod("before", &[("app", &image)]);
    if tool.patches_accounts {
        namespace.set_account_secrets("default", &[NAME]);
    } else {
        // As Kyverno's second policy does, or the author of the Pod.
        before["spec"]["imagePullSecrets"] = json!([{"name": NAME}]);
    }
    namespace.create_object("pods", &before);
    let before = namespace.running("before");
    (namespace, copy, before)
}

/// Runs a command of the page as a person would.
fn run(cluster: &Cluster, directory: &Path, command: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", tools().display()))
        .env("KUBECONFIG", cluster.kubectl.kubeconfig())
        .output()
        .expect("bash can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

/// A checkout of the repository, with the values of the page and the image under test.
fn checkout(cluster: &Cluster) -> PathBuf {
    let directory = cluster.directory("migration");
    let charts = Path::new(REPOSITORY).join("charts");
    symlink(charts, directory.join("charts")).expect("it is empty");
    let [values] = blocks("yaml").try_into().expect("one block of values");
    let image = cluster.image();
    let image = json!({"repository": image.repository, "digest": image.digest});
    let values = format!("image: {image}\n{values}");
    fs::write(directory.join("values.yaml"), values).expect("the directory is ours");
    directory
}

fn migration(cluster: &Cluster) {
    make_tools(cluster);
    let teams = tools_before().map(|tool| make_team(cluster, &tool));
    let directory = checkout(cluster);
    let commands = commands();
    let is_install = |command: &String| command.starts_with("helm install");
    let install = commands.iter().position(is_install).expect("it is there");
    for command in &commands[..=install] {
        run(cluster, &directory, command);
    }
    let ours = |namespace: &Namespace<'_>| {
        wait_for("the copy is ours", HAPPY, || {
            let copy = namespace.get("secrets", NAME)?;
            let instance = &copy["metadata"]["labels"]["app.kubernetes.io/instance"];
            (instance == "pullpass.pullpass")
                .then_some(())
                .ok_or_else(|| copy.to_string())?;
            Ok(copy)
        })
    };
    for (namespace, before, _) in &teams {
        let after = ours(namespace);
        assert_eq!(
            after["metadata"]["uid"], before["metadata"]["uid"],
            "never absent"
        );
        assert_eq!(after["data"], before["data"]);
    }
    for command in &commands[install + 1..] {
        run(cluster, &directory, command);
    }
    let fresh = Namespace::create_labelled(cluster, "team-new", &json!({}));
    ours(&fresh);
    let namespaces = teams
        .iter()
        .map(|(namespace, ..)| namespace)
        .chain([&fresh]);
    for namespace in namespaces.clone() {
        new_pod_pulls(cluster, namespace, ALPHA.host, "after");
    }

    // They are pullpass's to keep: another login in the source is in every copy.
    let more = docker_config(&[ALPHA.entry(), BETA.entry()]).to_string();
    set_payload(&Namespace::existing(cluster, "pullpass"), NAME, &more);
    for namespace in namespaces {
        wait_for("the copy follows", HAPPY, || {
            let copy = namespace.get("secrets", NAME)?;
            let is_new = copy["data"][".dockerconfigjson"] == BASE64_STANDARD.encode(&more);
            is_new.then_some(()).ok_or_else(|| copy.to_string())
        });
        new_pod_pulls(cluster, namespace, BETA.host, "later");
    }
    for (namespace, _, before) in &teams {
        let now = namespace.get("pods", "before").expect("it runs");
        assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
        assert_eq!(now["status"]["phase"], "Running");
        assert_eq!(now["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    let teams = teams.map(|(namespace, ..)| namespace);
    entries(&teams, &fresh);
    back(cluster, &directory, &teams);
}

/// Uninstalled, it leaves copies and entries where they are.
fn back(cluster: &Cluster, directory: &Path, teams: &[Namespace<'_>]) {
    let uninstall = "helm uninstall pullpass -n pullpass";
    assert!(PAGE.contains(uninstall));
    run(cluster, directory, uninstall);
    wait_for("the controller is gone", ONE_BACK_OFF, || {
        let pods = Namespace::existing(cluster, "pullpass").list("pods", "")?;
        pods.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{pods:?}"))
    });
    for namespace in teams {
        new_pod_pulls(cluster, namespace, BETA.host, "back");
    }
}

/// A Pod with an image that no node has seen.
fn new_pod_pulls(cluster: &Cluster, namespace: &Namespace<'_>, host: &str, name: &str) {
    let image = cluster.registries().fresh(host, "migration/after");
    namespace.create_object("pods", &pod(name, &[("app", &image)]));
    let pod = namespace.running(name);
    namespace.assert_pulled_at_once(name);
    assert_eq!(pull_secrets_of(&pod), [NAME], "{}", namespace.name);
}

/// Entries of the former tools are as they were, nobody's but the user's; the others are recorded.
fn entries(teams: &[Namespace<'_>], fresh: &Namespace<'_>) {
    for (namespace, is_ours) in teams
        .iter()
        .zip([false, false, true, true])
        .chain([(fresh, true)])
    {
        let account = namespace
            .get("serviceaccounts", "default")
            .expect("it is there");
        assert_eq!(listed(&account), [NAME]);
        let recorded = account["metadata"]["annotations"]["pullpass.dev/attached"].as_str();
        let expected = is_ours.then_some("pullpass.pullpass/image-pull-secret");
        assert_eq!(recorded, expected, "{}", namespace.name);
    }
}

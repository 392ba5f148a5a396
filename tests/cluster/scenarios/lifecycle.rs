//! From installation to removal, by Helm and by kubectl, with each way to come by a certificate: nobody
//! fights for a field, and nothing of ours is left behind. And what the two roles may do meanwhile.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::pull_secrets_of;
use crate::harness::pki::{Pair, Pki};
use crate::harness::release::{ROLLOUT, Release, SECRET, rules};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("incident_15_27_lifecycle_by_helm", by_helm);
    // Its configuration is for every namespace, other trials' as well.
    trials.alone("lifecycle_of_install_yaml_by_kubectl_apply", |cluster| {
        by_kubectl(cluster, &[]);
    });
    trials.alone(
        "lifecycle_of_install_yaml_by_kubectl_apply_server_side",
        |cluster| by_kubectl(cluster, &["--server-side"]),
    );
    trials.node("lifecycle_with_a_provided_certificate", provided);
    trials.node("lifecycle_with_cert_manager", cert_manager);
    trials.node("incident_29_what_the_webhook_may_do", webhook_permissions);
    trials.node(
        "incident_29_what_the_controller_may_do_elsewhere",
        controller_permissions,
    );
}

/// What the values become, one upgrade after the other.
fn changes() -> [Value; 3] {
    [
        json!({"webhook": {"replicas": 3}}),
        json!({"webhook": {"timeoutSeconds": 3}, "logLevel": "debug"}),
        json!({"podDisruptionBudget": {"enabled": false}, "controller": {"replicas": 3}}),
    ]
}

#[track_caller]
fn assert_injects(release: &Release<'_>) {
    assert_eq!(pull_secrets_of(&release.create_pod()), [SECRET]);
}

fn by_helm(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    release.install(&json!({}));
    upgrade_and_roll_back(&release, &json!({}));
    release.uninstall();
}

/// Three upgrades with changed values and a rollback of an installed release; injection works after each
/// and the trusted certificates stay the same.
fn upgrade_and_roll_back(release: &Release<'_>, values: &Value) {
    assert_injects(release);
    let bundle = release.bundle();
    for change in changes() {
        let mut values = values.clone();
        for (key, value) in change.as_object().expect("values are an object") {
            values[key] = value.clone();
        }
        release.upgrade(&values);
        assert_injects(release);
        assert_eq!(release.bundle(), bundle, "{change}");
    }
    release.rollback("1");
    assert_injects(release);
    assert_eq!(release.bundle(), bundle);
}

/// As its first lines say: the file, and the rules in a file of their own.
fn by_kubectl(cluster: &Cluster, flags: &[&str]) {
    let release = Release::prepare_named(cluster, "pullpass");
    let manifests = install_yaml(cluster);
    let apply = |manifests: &str| {
        let arguments = [&["apply", "--filename=-"], flags].concat();
        release.namespace.kubectl(&arguments, manifests);
        for role in ["webhook", "controller"] {
            let deployment = format!("deployment/{}-{role}", release.name);
            let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
            let arguments = ["rollout", "status", &deployment, &timeout];
            release.namespace.kubectl(&arguments, "");
        }
    };
    apply(&manifests);
    assert_injects(&release);
    let bundle = release.bundle();
    for (from, to) in [
        ("replicas: 2", "replicas: 3"),
        (
            "timeoutSeconds: 5\n    rules:",
            "timeoutSeconds: 3\n    rules:",
        ),
        ("--log-level=info", "--log-level=debug"),
    ] {
        assert!(manifests.contains(from), "install.yaml has no {from}");
        apply(&manifests.replace(from, to));
        assert_injects(&release);
        assert_eq!(release.bundle(), bundle, "{to}");
    }
    apply(&manifests);
    assert_injects(&release);
    release
        .namespace
        .kubectl(&["delete", "--filename=-"], &manifests);
    release.assert_nothing_is_left();
}

/// `install.yaml` with the image under test, and with rules.
pub(super) fn install_yaml(cluster: &Cluster) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/render-install-yaml");
    let output = Command::new(script)
        .output()
        .expect("the script can be run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("YAML is text");
    let is_rules = |document: &&str| document.contains("\n  rules.yaml: |");
    let documents = text.split("\n---\n");
    let (rules_of_file, mut documents): (Vec<_>, Vec<_>) = documents.partition(is_rules);
    assert_eq!(rules_of_file.len(), 1, "the rules are one document");
    let own_rules = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "pullpass-rules", "namespace": "pullpass"},
        "data": {"rules.yaml": rules(SECRET).to_string()},
    })
    .to_string();
    documents.push(&own_rules);
    let image = cluster.image();
    let image = format!("image: {}@{}", image.repository, image.digest);
    let lines = documents.join("\n---\n");
    let lines = lines.lines().map(|line| match line.split_once("image: ") {
        Some((indentation, _)) if indentation.trim().is_empty() => format!("{indentation}{image}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a person or cert-manager puts into the TLS Secret.
fn tls_secret(name: &str, pair: &Pair, authority: &Pki) -> Value {
    let file = |path| BASE64_STANDARD.encode(fs::read(path).expect("we wrote it"));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": file(&pair.certificate),
            "tls.key": file(&pair.key),
            "ca.crt": BASE64_STANDARD.encode(authority.ca_pem()),
        },
    })
}

/// An authority of somebody else, and a certificate of it for the webhook.
fn somebody_elses(cluster: &Cluster, release: &Release<'_>) -> (Pki, Pair) {
    let authority = Pki::create(&cluster.directory("authority"));
    let pair = authority.server("webhook", &[&release.service()]);
    (authority, pair)
}

fn provided(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    let values = json!({"certificates": {"mode": "provided", "secretName": "own"}});
    let (authority, pair) = somebody_elses(cluster, &release);
    let secret = tls_secret("own", &pair, &authority);
    release.namespace.create_object("secrets", &secret);
    release.install(&values);
    upgrade_and_roll_back(&release, &values);
    assert_eq!(release.bundle().trim(), authority.ca_pem().trim());

    let (authority, pair) = somebody_elses(cluster, &release);
    let secret = tls_secret("own", &pair, &authority);
    release.namespace.kubectl(
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename=-",
        ],
        &secret.to_string(),
    );
    wait_for("the new authority is trusted", HAPPY, || {
        let bundle = release.bundle();
        if bundle.trim() == authority.ca_pem().trim() {
            Ok(())
        } else {
            Err(bundle)
        }
    });
    release.wait_until_injecting();
    // Whoever made it takes it away.
    release.namespace.kubectl(&["delete", "secret", "own"], "");
    release.uninstall();
}

/// The kinds of cert-manager, without a schema.
fn create_cert_manager_kinds(cluster: &Cluster) {
    for (plural, kind) in [("certificates", "Certificate"), ("issuers", "Issuer")] {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.cert-manager.io")},
            "spec": {
                "group": "cert-manager.io",
                "names": {"plural": plural, "kind": kind},
                "scope": "Namespaced",
                "versions": [{
                    "name": "v1",
                    "served": true,
                    "storage": true,
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true,
                    }},
                }],
            },
        });
        cluster
            .kubectl
            .run(&["apply", "--filename=-"], &definition.to_string());
        let name = format!("crd/{plural}.cert-manager.io");
        cluster
            .kubectl
            .run(&["wait", "--for=condition=Established", &name], "");
    }
}

fn cert_manager(cluster: &Cluster) {
    create_cert_manager_kinds(cluster);
    let release = Release::prepare(cluster);
    let values = json!({"certificates": {"mode": "certManager"}});
    let (authority, pair) = somebody_elses(cluster, &release);
    std::thread::scope(|scope| {
        // Helm waits for what only cert-manager can make.
        scope.spawn(|| play_cert_manager(cluster, &release, &authority, &pair));
        release.install(&values);
    });
    upgrade_and_roll_back(&release, &values);
    let secret = format!("{}-tls", release.name);
    release
        .namespace
        .kubectl(&["delete", "secret", &secret], "");
    release.uninstall();
}

/// Does for a release what cert-manager does: the Secret that the Certificate asks for, and the caBundle
/// that the annotation asks for.
fn play_cert_manager(cluster: &Cluster, release: &Release<'_>, authority: &Pki, pair: &Pair) {
    let namespace = &release.namespace.name;
    let path = format!(
        "/apis/cert-manager.io/v1/namespaces/{namespace}/certificates/{}-tls",
        release.name
    );
    let certificate = wait_for("there is a Certificate", HAPPY, || cluster.api.get(&path));
    assert_eq!(certificate["spec"]["dnsNames"][0], json!(release.service()));
    let name = certificate["spec"]["secretName"]
        .as_str()
        .expect("it names its Secret");
    release
        .namespace
        .create_object("secrets", &tls_secret(name, pair, authority));
    let configuration = wait_for("there is a configuration", HAPPY, || {
        release.configuration()
    });
    let wanted = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(*wanted, json!(format!("{namespace}/{}-tls", release.name)));
    let bundle = BASE64_STANDARD.encode(authority.ca_pem());
    let patch =
        json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]);
    let arguments = [
        "patch",
        "mutatingwebhookconfiguration",
        &release.name,
        "--type=json",
        "--patch",
        &patch.to_string(),
    ];
    cluster.kubectl.run(&arguments, "");
}

fn account(release: &Release<'_>, role: &str) -> String {
    format!(
        "--as=system:serviceaccount:{}:{}-{role}",
        release.namespace.name, release.name
    )
}

fn webhook_permissions(cluster: &Cluster) {
    let release = Release::installed(cluster);
    let account = account(&release, "webhook");
    let tls = format!("{}-tls", release.name);
    for namespace in [
        &release.namespace.name,
        &release.pods.name,
        &"kube-system".to_owned(),
    ] {
        for rule in rules_of(cluster, &account, namespace) {
            let text = rule.to_string();
            let has = |field: &str, value: &str| {
                let list = rule[field].as_array().expect("a rule has lists");
                list.iter().any(|item| item == value)
            };
            // Everyone may ask what they may do.
            let is_question = has("apiGroups", "authorization.k8s.io")
                || has("apiGroups", "authentication.k8s.io");
            let verbs = rule["verbs"].as_array().expect("a rule has verbs");
            let only_reads = verbs
                .iter()
                .all(|verb| matches!(verb.as_str(), Some("get" | "list" | "watch")));
            assert!(is_question || only_reads, "{namespace}: {text}");
            if has("resources", "secrets") || has("resources", "*") {
                assert_eq!(*namespace, release.namespace.name, "{text}");
                assert_eq!(rule["resourceNames"], json!([tls]), "{text}");
            }
        }
    }
    let tls = format!("secret/{tls}");
    let ca = format!("secret/{}-ca", release.name);
    let rules = format!("configmap/{}-rules", release.name);
    let own = |arguments: &[&str]| {
        let arguments = [
            &["--namespace", &release.namespace.name, &account],
            arguments,
        ]
        .concat();
        cluster.kubectl.try_run(&arguments, "")
    };
    own(&["get", &tls]).expect("its own certificate");
    own(&["get", &rules]).expect("the rules");
    let patch = r#"--patch={"metadata":{"labels":{"a":"b"}}}"#;
    let forbidden: [&[&str]; 9] = [
        &["get", &ca],
        &["get", "secrets"],
        &["get", "secrets", "--all-namespaces"],
        &["patch", &tls, patch],
        &["patch", &rules, patch],
        &["delete", &rules],
        &["create", "configmap", "new"],
        &[
            "patch",
            "mutatingwebhookconfiguration",
            &release.name,
            patch,
        ],
        &["run", "new", "--image=new"],
    ];
    for arguments in forbidden {
        let error = own(arguments).expect_err(&arguments.join(" "));
        assert!(
            error.contains("Forbidden") || error.contains("forbidden"),
            "{arguments:?}: {error}"
        );
    }
}

/// What an account may do in a namespace, by SelfSubjectRulesReview.
pub(super) fn rules_of(cluster: &Cluster, account: &str, namespace: &str) -> Vec<Value> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    // Or kubectl asks, as the account, for definitions that it need not be allowed to see.
    let arguments = ["create", "--filename=-", "--validate=false", account];
    let review = cluster.kubectl.json(&arguments, &review.to_string());
    assert_eq!(review["status"]["incomplete"], false);
    let rules = review["status"]["resourceRules"].as_array().cloned();
    rules.expect("a review lists rules")
}

fn controller_permissions(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    let refused = |name: &str, expect: &str| {
        let token = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "annotations": {"kubernetes.io/service-account.name": "default"},
            },
            "type": "kubernetes.io/service-account-token",
        });
        let arguments = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=false",
            "--filename=-",
            &account(&release, "controller"),
            &format!("--namespace={}", release.pods.name),
        ];
        wait_for("a token elsewhere is refused", HAPPY, || {
            match cluster.kubectl.try_run(&arguments, &token.to_string()) {
                Err(error) if error.contains(expect) => Ok(()),
                other => Err(format!("{name}: {other:?}")),
            }
        });
    };
    release.install(&json!({"delivery": {"enabled": false}}));
    refused(SECRET, "cannot patch resource");
    // With delivery it may write Secrets everywhere, by these names; the admission policy says which.
    let pull_secrets = json!([{"name": SECRET}]);
    release
        .upgrade(&json!({"delivery": {"enabled": true}, "rules": {"pullSecrets": pull_secrets}}));
    refused(SECRET, "ValidatingAdmissionPolicy");
    refused("token", "cannot patch resource");
    release.uninstall();
}

//! Installing: what a person does first, on a node that has never seen pullpass.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::delivery::secret;
use crate::harness::namespace::{docker_config, pull_secrets_of};
use crate::harness::release::{Release, SECRET, covered_pod, rules};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::registry::ALPHA;

pub(crate) fn register(trials: &mut Trials) {
    trials.node(
        "install_by_helm_five_times_injects_the_first_pod",
        five_times,
    );
    trials.node("install_then_edit_of_the_rules_is_live", edit_of_the_rules);
    trials.node("incident_17_two_renders_are_byte_identical", two_renders);
    trials.node("install_then_helm_test", helm_test);
    trials.node("scenario_40_install_from_a_private_registry", private_image);
    trials.node("image_is_what_the_dockerfile_says", image);
}

fn five_times(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    for time in 1..=5 {
        let start = Instant::now();
        release.install(&json!({}));
        let took = start.elapsed().as_secs_f64();
        let pod = release.create_pod();
        assert_eq!(
            pull_secrets_of(&pod),
            [SECRET],
            "the first Pod of installation {time}"
        );
        println!("helm install --wait, time {time}: {took:.1} s, and the first Pod is injected");
        release.uninstall();
    }
}

fn edit_of_the_rules(cluster: &Cluster) {
    let release = Release::installed(cluster);
    let start = Instant::now();
    release.edit_rules(&rules("edited").to_string());
    let written = start.elapsed();
    wait_for("the new rules are live", HAPPY, || {
        let pod = release.pods.dry_run(&covered_pod("app"))?;
        let list = pull_secrets_of(&pod);
        if list == ["edited"] {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    });
    println!(
        "an edit of the rules was live after {:.0} ms, {:.0} ms of them kubectl's",
        start.elapsed().as_secs_f64() * 1e3,
        written.as_secs_f64() * 1e3,
    );
    // Every replica has them, not only the one that the API server talks to.
    for replica in release.role("webhook") {
        let load = release.ask_directly(&replica);
        wait_for("a replica has the new rules", HAPPY, || {
            let answer = crate::harness::load::ask_once(&load)?;
            let patch = answer["response"]["patch"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let expected = patch_of("edited");
            if patch == expected {
                Ok(())
            } else {
                Err(patch)
            }
        });
    }
}

/// The patch that gives a Pod without pull secrets this one, as it is in an answer.
fn patch_of(secret: &str) -> String {
    use base64::Engine as _;
    let operations = format!(
        r#"[{{"op":"add","path":"/spec/imagePullSecrets","value":[{{"name":"{secret}"}}]}}]"#
    );
    base64::prelude::BASE64_STANDARD.encode(operations)
}

fn two_renders(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    let first = release.render(&json!({}));
    assert_eq!(first, release.render(&json!({})));
    for never in [
        "caBundle:",
        "kind: Secret",
        "helm.sh/hook: pre",
        "helm.sh/hook: post",
    ] {
        assert!(!first.contains(never), "{never}");
    }
}

fn helm_test(cluster: &Cluster) {
    let release = Release::installed(cluster);
    println!("{}", release.test());
}

/// Where the webhook's own image needs a pull secret, nobody is there yet to inject it.
fn private_image(cluster: &Cluster) {
    let release = Release::prepare(cluster);
    let login = docker_config(&[ALPHA.entry()]).to_string();
    let login = secret("own-registry", &login);
    release.namespace.create_object("secrets", &login);
    let repository = format!("{}/pullpass", ALPHA.host);
    release.install(&json!({
        "image": {"repository": repository, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "own-registry"}],
    }));
    for role in ["webhook", "controller"] {
        for pod in release.role(role) {
            let image = pod["spec"]["containers"][0]["image"].as_str();
            assert!(image.is_some_and(|image| image.starts_with(&repository)));
        }
    }
    assert_eq!(pull_secrets_of(&release.create_pod()), [SECRET]);
}

/// Both platforms, as a registry gives them.
fn image(cluster: &Cluster) {
    let image = cluster.image();
    let crane = |arguments: &[&str]| -> Value {
        let text = cluster.registries().crane(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let name = format!("{}@{}", image.repository, image.digest);
    let index = crane(&["manifest", &name]);
    let manifests = index["manifests"].as_array().expect("it is an index");
    let mut sizes = BTreeMap::new();
    for manifest in manifests {
        let digest = manifest["digest"]
            .as_str()
            .expect("a descriptor has a digest");
        let name = format!("{}@{digest}", image.repository);
        let config = crane(&["config", &name]);
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/pullpass"]));
        assert_eq!(
            config["config"]["ExposedPorts"],
            json!({"10250/tcp": {}, "8080/tcp": {}})
        );
        let labels = &config["config"]["Labels"];
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(labels["org.opencontainers.image.title"], "pullpass");
        assert_eq!(labels["org.opencontainers.image.version"], version);
        assert_eq!(labels["org.opencontainers.image.licenses"], "Apache-2.0");
        assert_eq!(config["os"], "linux");
        assert_eq!(config["architecture"], manifest["platform"]["architecture"]);
        let layers = crane(&["manifest", &name])["layers"].clone();
        let layers = layers.as_array().expect("an image has layers").clone();
        assert_eq!(layers.len(), 1, "nothing but the program");
        let architecture = config["architecture"].as_str().map(ToOwned::to_owned);
        sizes.insert(architecture, layers[0]["size"].clone());
    }
    println!("compressed sizes in bytes: {sizes:?}");
}

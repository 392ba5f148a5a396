//! The decision written a second time: on a whole `serde_json::Value`, rule by rule, for the rules of
//! `rules.yaml` only. It shares nothing with the program but the parser of image references.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pullpass::credential::{DockerConfig, Keyring, SecretType};
use pullpass::image::ImageRef;
use pullpass::index::{Coverage, Index, State};
use pullpass::rules::{Ruleset, load};
use pullpass::snapshot::{Namespaces, Snapshot};
use serde_json::Value;

/// What the rules want for one review.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names to add.
    pub inject: Vec<&'static str>,
    /// Rules that add them.
    pub rules: Vec<&'static str>,
    /// Names that Shadow rules would add besides.
    pub shadow: Vec<&'static str>,
}

struct Rule {
    name: &'static str,
    /// Entries of `pullSecrets`.
    secrets: &'static [&'static str],
    shadow: bool,
    applies: fn(&Pod<'_>) -> bool,
    wants: fn(&str) -> bool,
    always: bool,
}

const RULES: &[Rule] = &[
    Rule {
        name: "by-key",
        secrets: &["harbor"],
        shadow: false,
        applies: |_| true,
        wants: |image| harbor_covers(image) && !below(image, "harbor.example.com/public"),
        always: false,
    },
    Rule {
        name: "by-image",
        secrets: &["prod", "shop", "stale"],
        shadow: false,
        applies: |_| true,
        wants: |image| {
            (below(image, "ghcr.io/acme") || is_azure(image))
                && !below(image, "ghcr.io/acme/public")
        },
        always: false,
    },
    Rule {
        name: "labelled",
        secrets: &["broken", "foreign"],
        shadow: false,
        applies: |pod| pod.label("app") == Some("web") && pod.label("tier") != Some("dev"),
        wants: |_| true,
        always: false,
    },
    Rule {
        name: "shadowed",
        secrets: &["harbor", "prod"],
        shadow: true,
        applies: |_| true,
        wants: |image| below(image, "quay.io") || below(image, "ghcr.io"),
        always: false,
    },
    Rule {
        name: "always",
        secrets: &["stale"],
        shadow: false,
        applies: |pod| pod.namespace.starts_with("shop-"),
        wants: |image| below(image, "never.example.com"),
        always: true,
    },
];

/// The name of the Secret, if the entry may be injected into the namespace.
fn permitted(secret: &str, namespace: &str) -> Option<&'static str> {
    match secret {
        "harbor" => Some("harbor"),
        "prod" => namespace.starts_with("prod-").then_some("regcred"),
        "shop" => (namespace.starts_with("shop-") && namespace != "shop-9").then_some("regcred"),
        "stale" => Some("stale"),
        "foreign" => (namespace != "shop-0").then_some("foreign"),
        _ => None,
    }
}

/// Hosts are compared without case, paths by segments.
fn below(image: &str, pattern: &str) -> bool {
    let (host, path) = image.split_once('/').expect("every name has a path");
    let image = format!("{}/{path}", host.to_lowercase());
    image
        .strip_prefix(pattern)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_azure(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or_default().to_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    host.split('.').count() == 3 && host.ends_with(".azurecr.io")
}

/// Keys `harbor.example.com` and `https://index.docker.io/v1/`, as the kubelet reads them.
fn harbor_covers(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or_default();
    host == "harbor.example.com" || host == "docker.io" || !host.contains(['.', ':'])
}

/// The snapshot that the program decides under.
pub fn snapshot() -> Snapshot {
    let config = load(include_str!("rules.yaml")).expect("valid rules");
    let auths = r#"{"auths": {
        "harbor.example.com": {"username": "u", "password": "p"},
        "https://index.docker.io/v1/": {"auth": "dTpw"},
        "quay.io": {"auth": "dTo="}
    }}"#;
    let harbor = DockerConfig::decode(SecretType::DockerConfigJson, auths.as_bytes());
    let coverage = |state, undecodable_in: &[&str]| Coverage {
        keyring: Keyring::of(harbor.as_ref().expect("a valid payload")),
        state,
        undecodable_in: undecodable_in.iter().map(ToString::to_string).collect(),
    };
    let unusable = State::Unusable {
        reason: "not JSON".to_owned(),
    };
    let secrets = [
        ("harbor", coverage(State::Usable, &[])),
        ("stale", coverage(State::Stale, &[])),
        ("broken", coverage(unusable, &[])),
        ("foreign", coverage(State::Usable, &["shop-0"])),
    ];
    let strict = HashSet::from(["strict".to_owned()]);
    let index = Index {
        secrets: secrets
            .into_iter()
            .map(|(name, c)| (name.to_owned(), c))
            .collect(),
        strict_service_accounts: HashMap::from([("shop-0".to_owned(), strict)]),
    };
    let labels = [("pull".to_owned(), "yes".to_owned())].into();
    let ruleset = Arc::new(Ruleset::compile(&config));
    Snapshot::new(
        ruleset,
        Arc::new(index),
        Namespaces::Fixed(Arc::new(labels)),
        1,
    )
}

struct Pod<'v> {
    namespace: &'v str,
    object: &'v Value,
}

impl<'v> Pod<'v> {
    fn label(&self, key: &str) -> Option<&'v str> {
        let labels = self.object["metadata"]["labels"].as_object()?;
        labels
            .get(key)
            .map(|value| value.as_str().unwrap_or_default())
    }

    fn annotation(&self, key: &str) -> Option<&'v Value> {
        self.object["metadata"]["annotations"].get(key)
    }

    fn has_secret(&self, name: &str) -> bool {
        let list = self.object["spec"]["imagePullSecrets"].as_array();
        list.is_some_and(|list| list.iter().any(|reference| reference["name"] == name))
    }

    /// Names of all images that parse.
    fn images(&self) -> Vec<String> {
        let spec = &self.object["spec"];
        let all = |list: &'v str| spec[list].as_array().into_iter().flatten();
        let containers = ["initContainers", "containers", "ephemeralContainers"];
        let containers = containers.into_iter().flat_map(all).map(|c| &c["image"]);
        let volumes = all("volumes").map(|volume| &volume["image"]["reference"]);
        let images = containers.chain(volumes).filter_map(Value::as_str);
        images
            .filter_map(|i| ImageRef::parse(i).ok())
            .map(|i| i.to_string())
            .collect()
    }

    fn service_account(&self) -> &'v str {
        let spec = &self.object["spec"];
        let names = ["serviceAccountName", "serviceAccount"].into_iter();
        let mut names = names.filter_map(|field| spec[field].as_str());
        names.find(|name| !name.is_empty()).unwrap_or("default")
    }

    fn may_be_patched(&self) -> bool {
        let list = &self.object["spec"]["imagePullSecrets"];
        self.annotation("kubernetes.io/config.mirror").is_none()
            && self
                .annotation("pullpass.dev/inject")
                .is_none_or(|value| value != "false")
            && self.object["spec"].is_object()
            && (list.is_null() || list.is_array())
    }
}

/// The uid, if the review can be answered.
pub fn uid(review: &Value) -> Option<&str> {
    let is_review = review["apiVersion"] == "admission.k8s.io/v1"
        && review["kind"] == "AdmissionReview"
        && review["request"].is_object();
    review["request"]["uid"]
        .as_str()
        .filter(|uid| is_review && !uid.is_empty())
}

/// Decides a review that can be answered.
pub fn decide(review: &Value) -> Wanted {
    let request = &review["request"];
    let resource = &request["resource"];
    let empty = |value: &Value| value.as_str().unwrap_or_default().is_empty();
    let is_pod_create = request["operation"] == "CREATE"
        && resource["resource"] == "pods"
        && empty(&resource["group"])
        && empty(&request["subResource"]);
    let pod = Pod {
        namespace: request["namespace"].as_str().unwrap_or_default(),
        object: &request["object"],
    };
    let mut wanted = Wanted::default();
    if !is_pod_create || !pod.may_be_patched() {
        return wanted;
    }
    let images = pod.images();
    for rule in RULES.iter().filter(|rule| (rule.applies)(&pod)) {
        if !rule.always && !images.iter().any(|image| (rule.wants)(image)) {
            continue;
        }
        let names = rule
            .secrets
            .iter()
            .filter_map(|secret| permitted(secret, pod.namespace));
        for name in names.filter(|name| !pod.has_secret(name)) {
            let list = if rule.shadow {
                &mut wanted.shadow
            } else {
                &mut wanted.inject
            };
            if list.contains(&name) {
                continue;
            }
            list.push(name);
            if !rule.shadow && !wanted.rules.contains(&rule.name) {
                wanted.rules.push(rule.name);
            }
        }
    }
    wanted.shadow.retain(|name| !wanted.inject.contains(name));
    let is_strict = pod.namespace == "shop-0" && pod.service_account() == "strict";
    if is_strict && !wanted.inject.is_empty() {
        return Wanted::default();
    }
    wanted
}

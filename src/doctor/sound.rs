//! A sound installation, for tests that break one thing of it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::all_right;
use super::facts::{Facts, Looked, Names, Plan, Proxied, Replica, Trial};
use crate::installation::workloads::Deployment;
use crate::pki::{CertificateAuthority, LEAF_LIFETIME};
pub(super) use crate::status::sound::RULES;

/// The configuration as the chart renders it, without a `caBundle`.
pub(super) fn configuration() -> Value {
    json!({
        "metadata": {"name": "pullpass"},
        "webhooks": [{
            "name": "pods.pullpass.dev",
            "clientConfig": {"service":
                {"namespace": "pullpass", "name": "pullpass-webhook", "path": "/mutate"},
                "caBundle": BASE64_STANDARD.encode(pki().1)},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"], "scope": "Namespaced"}],
            "namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn",
                    "values": ["pullpass", "kube-system", "kube-node-lease", "kube-public"]},
                {"key": "pullpass.dev/inject", "operator": "NotIn", "values": ["false"]},
            ]},
            "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "reinvocationPolicy": "IfNeeded",
            "sideEffects": "None",
            "timeoutSeconds": 5,
        }],
    })
}

/// The same with this bundle.
pub(super) fn configuration_with(bundle: &[u8]) -> MutatingWebhookConfiguration {
    let mut configuration = configuration();
    configuration["webhooks"][0]["clientConfig"]["caBundle"] =
        json!(BASE64_STANDARD.encode(bundle));
    object(configuration)
}

/// A Deployment of this component.
pub(super) fn deployment(component: &str, wanted: i32, ready: i32) -> Deployment {
    object(json!({
        "metadata": {"name": format!("pullpass-{component}"),
            "labels": {"app.kubernetes.io/component": component}},
        "spec": {"replicas": wanted, "selector": {}, "template": {}},
        "status": {"readyReplicas": ready},
    }))
}

/// Everything as it should be, and the time it was looked at.
pub(super) fn facts() -> (Facts, SystemTime) {
    let names = Names::of_chart("pullpass", "pullpass");
    let endpoint = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true}});
    let facts = Facts {
        version: (1, 36),
        configurations: Looked::Seen(vec![object(configuration())]),
        service: Looked::Seen(object(json!({"spec": {"ports": [{"port": 443}]}}))),
        slices: Looked::Seen(vec![object(json!({
            "addressType": "IPv4",
            "endpoints": [endpoint("10.0.0.1"), endpoint("10.0.0.2")],
        }))]),
        proxied: Some(Looked::Seen(Proxied::Answered(405))),
        direct: None,
        chain: Looked::Seen(pki().0.into_bytes()),
        trial: Trial {
            plan: Plan {
                image: "harbor.example.com/pullpass-doctor".to_owned(),
                expected: vec!["harbor".to_owned()],
            },
            created: Looked::Seen(Ok(vec!["pullpass-doctor".to_owned(), "harbor".to_owned()])),
            fail_open: None,
        },
        rules: Looked::Seen(Some(RULES.to_owned())),
        delivery: Some(crate::status::sound::facts()),
        copying: vec![("harbor".to_owned(), Looked::Seen(true))],
        attaching: Some(Looked::Seen(true)),
        deployments: Looked::Seen(vec![
            deployment("webhook", 2, 2),
            deployment("controller", 1, 1),
        ]),
        pods: Looked::Seen(Vec::new()),
        replicas: vec![Replica {
            pod: "pod-0".to_owned(),
            ready: Looked::Seen("ok".to_owned()),
            metrics: Looked::Seen("pullpass_rules_valid 1\n".to_owned()),
        }],
        budgets: Looked::Seen(vec![object(
            json!({"metadata": {"labels": {"app.kubernetes.io/component": "webhook"}}}),
        )]),
        access: all_right(&names),
        namespace: (
            "default".to_owned(),
            Looked::Seen(object(json!({"metadata": {"name": "default",
                "labels": {"kubernetes.io/metadata.name": "default"}}}))),
        ),
        names,
    };
    (facts, now())
}

/// What someone without a single right sees.
pub(super) fn nothing_seen() -> (Facts, SystemTime) {
    fn denied<T>() -> Looked<T> {
        Looked::Denied("forbidden".to_owned())
    }
    let (mut facts, now) = facts();
    facts.service = denied();
    facts.slices = denied();
    facts.proxied = Some(denied());
    facts.chain = denied();
    facts.trial.created = denied();
    facts.rules = denied();
    facts.delivery = None;
    facts.copying = vec![("harbor".to_owned(), denied())];
    facts.attaching = Some(denied());
    facts.deployments = denied();
    facts.pods = denied();
    facts.replicas.clear();
    facts.budgets = denied();
    facts.namespace.1 = denied();
    for (_, answer) in &mut facts.access {
        *answer = denied();
    }
    (facts, now)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// Chain and bundle, made once.
fn pki() -> (String, String) {
    static PKI: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    let make = || {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let name = "pullpass-webhook.pullpass.svc";
        let leaf = ca.issue(&[name], now(), LEAF_LIFETIME).unwrap();
        (leaf.certificates, ca.certificate_pem().to_owned())
    };
    PKI.get_or_init(make).clone()
}

fn object<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

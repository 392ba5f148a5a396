//! Sound delivery, for tests that break one thing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::facts::{Facts, SourceFacts};
use crate::cluster::secret::view;
use crate::delivery::copy::SOURCE_HASH;
use crate::delivery::state::{Namespace, Rules};
use crate::delivery::{Instance, Observed, Plan, SourceRef, SourceSecret, State};
use crate::index::document::rules_hash;
use crate::installation::{Looked, Names};
use crate::rules::{self, Ruleset};

/// Rules of one line each.
pub(crate) const RULES: &str = "apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: harbor}]
rules: [{name: harbor, images: [harbor.example.com], pullSecrets: [harbor]}]
";

/// One pull secret, whose copy is in one namespace.
pub(crate) fn facts() -> Facts {
    let payload = br#"{"auths":{"harbor.example.com":{"username":"u","password":"p"}}}"#;
    let secret = |hash: Option<String>| -> Secret {
        let mut secret = json!({
            "metadata": {"name": "harbor", "uid": "u", "resourceVersion": "1"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": BASE64_STANDARD.encode(payload)},
        });
        if let Some(hash) = hash {
            let labels = Instance::new("pullpass", "pullpass").labels();
            secret["metadata"]["labels"] = json!(labels);
            secret["metadata"]["annotations"] = json!({SOURCE_HASH: hash});
        }
        serde_json::from_value(secret).unwrap()
    };
    let config = rules::load(RULES).unwrap();
    let mut state = State {
        rules: Some(Rules {
            plan: Arc::new(Plan::new(&config, "pullpass")),
            hash: rules_hash(RULES),
        }),
        ..State::default()
    };
    let source = SourceSecret::read(&view(&secret(None)));
    let hash = source.content.as_ref().unwrap().hash.to_string();
    let copy = Observed::new(
        &view(&secret(Some(hash))),
        &Instance::new("pullpass", "pullpass"),
    );
    let namespace = Namespace {
        labels: BTreeMap::new(),
        is_terminating: false,
    };
    state
        .namespaces
        .replace([("team".into(), namespace)].into());
    state
        .own_sources
        .replace([("harbor".into(), source)].into());
    let copies = state.copies.entry("harbor".into()).or_default();
    copies.replace([("team".into(), copy)].into());
    Facts {
        names: Names::of_chart("pullpass", "pullpass"),
        ruleset: Arc::new(Ruleset::compile(&config)),
        entries: vec![0],
        config,
        webhook: None,
        index: None,
        delivers: Some(true),
        state,
        sources: [(source_ref(), Looked::Seen(SourceFacts::default()))].into(),
        pods: Vec::new(),
        unseen: Vec::new(),
    }
}

/// Where the source is.
pub(crate) fn source_ref() -> SourceRef {
    SourceRef {
        namespace: "pullpass".into(),
        name: "harbor".into(),
    }
}

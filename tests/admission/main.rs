//! The decision from outside: tables, hostile JSON, and properties over generated Pods.
#![cfg(test)]

mod decision;
mod hostile;
mod properties;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use pullpass::credential::Keyring;
use pullpass::credential::keyring::Key;
use pullpass::index::{Coverage, Index, State};
use pullpass::rules::{self, RulesConfig, Ruleset};
use pullpass::snapshot::{Namespaces, Snapshot};
use serde_json::{Value, json};

/// What all tests decide with. The state of each pull secret is in [`index`].
const RULES: &str = r#"
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets:
  - {name: usable}
  - {name: unknown}
  - {name: stale}
  - {name: rejected, probe: {repository: rejected.io/app}}
  - {name: skipped, probe: {repository: skipped.io/app, onRejected: skip}}
  - {name: broken}
  - {name: foreign}
  - {name: hub, secretName: docker-hub}
  - {name: empty}
  - {name: prod, namespaces: ["prod-*", kube-system], excludeNamespaces: [prod-legacy]}
  - {name: labelled, namespaceSelector: {matchLabels: {pull: "yes"}}}
  - {name: tenant-a, secretName: regcred, namespaces: [a]}
  - {name: tenant-b, secretName: regcred, namespaces: [b]}
  - {name: debug}
  - {name: path}
rules:
  - {name: usable, pullSecrets: [usable], excludeImages: [usable.io/public]}
  - {name: unknown-without-images, pullSecrets: [unknown]}
  - {name: images, images: [unknown.io, "*.wild.io"], pullSecrets: [unknown]}
  - {name: stale, pullSecrets: [stale]}
  - {name: rejected, pullSecrets: [rejected, skipped]}
  - {name: broken, images: [broken.io], pullSecrets: [broken]}
  - {name: foreign, pullSecrets: [foreign]}
  - {name: hub, pullSecrets: [hub]}
  - {name: empty, pullSecrets: [empty]}
  - {name: prod, images: [prod.io], pullSecrets: [prod]}
  - {name: labelled, images: [labelled.io], pullSecrets: [labelled]}
  - {name: tenants, images: [tenant.io], pullSecrets: [tenant-a, tenant-b]}
  - {name: debug, images: [debug.io], podSelector: {matchLabels: {debug: allowed}}, pullSecrets: [debug], always: true}
  - {name: no-key, images: [usable.io/public, other.io], pullSecrets: [usable, stale]}
  - {name: trial, images: [trial.io, broken.io], pullSecrets: [unknown, usable, broken], mode: Shadow}
  - {name: only-there, images: [there.io], namespaces: ["there-*"], excludeNamespaces: [there-not], pullSecrets: [usable]}
  - {name: labels-there, images: [there.io], namespaceSelector: {matchExpressions: [{key: tier, operator: Exists}]}, pullSecrets: [stale]}
  - {name: path, images: [usable.io/team/app], pullSecrets: [path]}
"#;

fn index() -> Index {
    let coverage = |keys: &[&str], state: State| Coverage {
        keyring: Keyring::new(keys.iter().map(|key| Key {
            key,
            usable: !key.starts_with("empty."),
        })),
        state,
        undecodable_in: HashSet::new(),
    };
    let rejected = |asked: &str| State::Rejected {
        asked: asked.to_owned(),
        reason: "the password is refused".to_owned(),
    };
    let broken = State::Unusable {
        reason: "not JSON".to_owned(),
    };
    let mut foreign = coverage(&["foreign.io"], State::Usable);
    foreign.undecodable_in.insert("own".to_owned());
    let secrets = [
        ("usable", coverage(&["usable.io"], State::Usable)),
        ("stale", coverage(&["stale.io"], State::Stale)),
        (
            "rejected",
            coverage(&["rejected.io"], rejected("https://rejected.io/app")),
        ),
        (
            "skipped",
            coverage(&["skipped.io"], rejected("https://skipped.io/app")),
        ),
        ("broken", coverage(&[], broken)),
        ("foreign", foreign),
        (
            "hub",
            coverage(&["https://index.docker.io/v1/"], State::Usable),
        ),
        ("empty", coverage(&["empty.io"], State::Usable)),
        ("prod", coverage(&["prod.io"], State::Usable)),
        ("labelled", coverage(&["labelled.io"], State::Usable)),
        ("debug", coverage(&["debug.io"], State::Usable)),
        ("path", coverage(&["usable.io/team"], State::Usable)),
    ];
    let secrets = secrets.map(|(name, coverage)| (name.to_owned(), coverage));
    let strict = HashSet::from(["strict".to_owned(), "default".to_owned()]);
    Index {
        secrets: secrets.into(),
        strict_service_accounts: [("strict-default".to_owned(), strict)].into(),
    }
}

/// [`RULES`], read once.
static CONFIG: LazyLock<RulesConfig> =
    LazyLock::new(|| rules::load(RULES).unwrap_or_else(|errors| panic!("{errors}")));

/// [`RULES`] and [`index`]; every namespace has the labels of `labels`.
fn snapshot(labels: &[(&str, &str)]) -> Snapshot {
    static COMPILED: LazyLock<(Arc<Ruleset>, Arc<Index>)> =
        LazyLock::new(|| (Arc::new(Ruleset::compile(&CONFIG)), Arc::new(index())));
    let (ruleset, index) = &*COMPILED;
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let namespaces = Namespaces::Fixed(Arc::new(labels.collect()));
    Snapshot::new(Arc::clone(ruleset), Arc::clone(index), namespaces, 1)
}

/// The AdmissionReview of the creation of `pod`.
fn review(namespace: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": namespace,
            "object": pod,
        },
    })
}

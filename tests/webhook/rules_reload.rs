//! Rules and Secret manifests that change under a running webhook.

use std::sync::Arc;

use pullpass::admission::{self, Reason};
use pullpass::files::Reload;
use pullpass::http::probes::Readiness;
use pullpass::metrics::Metrics;
use pullpass::shutdown;
use pullpass::snapshot::Namespaces;
use pullpass::webhook::files::RulesFiles;
use pullpass::webhook::publisher::Publisher;
use pullpass::webhook::serving::ServingStore;

use crate::harness::rules_text;
use crate::volume::Volume;

const RULES: &str = "rules.yaml";
const SECRETS: &str = "secrets.yaml";

/// A rule for `host`, and one without `images` for what the credential itself covers.
fn rules(host: &str) -> String {
    rules_text(&format!(
        "pullSecrets: [{{name: by-images}}, {{name: by-keys}}]\n\
         rules:\n\
         - {{name: a, images: [{host}], pullSecrets: [by-images]}}\n\
         - {{name: b, pullSecrets: [by-keys]}}\n"
    ))
}

fn secret(host: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: by-keys}}\n\
         type: kubernetes.io/dockerconfigjson\nstringData:\n  \
         .dockerconfigjson: '{{\"auths\": {{\"{host}\": {{\"username\": \"u\", \"password\": \"hunter2\"}}}}}}'\n"
    )
}

struct Reloading {
    volume: Volume,
    files: RulesFiles,
    store: Arc<ServingStore>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    _stopper: shutdown::Stopper,
}

impl Reloading {
    fn start(rules: &str, secrets: &str) -> Self {
        let volume = Volume::new(&[(RULES, rules), (SECRETS, secrets)]);
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Arc::new(ServingStore::new(metrics.clone()));
        let (stopper, stop) = shutdown::channel();
        let readiness = Readiness::new(stop);
        let condition = readiness.condition("rules", "not loaded yet");
        let namespaces = Namespaces::Fixed(Arc::default());
        let publisher = Publisher::new(namespaces, store.clone(), metrics.clone(), condition);
        let (rules, manifests) = (volume.path(RULES), vec![volume.path(SECRETS)]);
        let condition = readiness.condition("pull secrets", "not read yet");
        let mut files = RulesFiles::new(rules, manifests, publisher, condition);
        files.reload();
        Self {
            volume,
            files,
            store,
            metrics,
            readiness,
            _stopper: stopper,
        }
    }

    fn swap(&mut self, rules: &str, secrets: &str) {
        self.volume.swap(&[(RULES, rules), (SECRETS, secrets)]);
        self.files.reload();
    }

    /// What becomes of a Pod with an image from `host`; `None` without rules.
    fn reason(&self, host: &str) -> Option<Reason> {
        let review = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u",
            "operation":"CREATE","resource":{{"group":"","version":"v1","resource":"pods"}},"namespace":"n",
            "object":{{"metadata":{{}},"spec":{{"containers":[{{"name":"c","image":"{host}/app"}}]}}}}}}}}"#
        );
        let serving = self.store.load();
        let snapshot = &serving.as_ref()?.snapshot;
        Some(
            admission::admit(review.as_bytes(), snapshot)
                .unwrap()
                .report
                .reason,
        )
    }

    #[track_caller]
    fn check(&self, injected: &[&str], left_alone: &[&str]) {
        for host in injected {
            assert_eq!(self.reason(host), Some(Reason::Injected), "{host}");
        }
        for host in left_alone {
            assert_eq!(self.reason(host), Some(Reason::NoRuleMatched), "{host}");
        }
    }

    fn state(&self) -> (i64, i64) {
        (
            self.metrics.rules_valid.get(),
            self.metrics.rules_generation.get(),
        )
    }
}

#[test]
fn incident_19_two_symlink_swaps_of_rules_and_secrets_take_effect() {
    let mut reloading = Reloading::start(&rules("a.example"), &secret("k.example"));
    reloading.check(&["a.example", "k.example"], &["b.example", "l.example"]);
    assert_eq!(reloading.state(), (1, 1));
    reloading.swap(&rules("b.example"), &secret("l.example"));
    reloading.check(&["b.example", "l.example"], &["a.example", "k.example"]);
    assert_eq!(reloading.state(), (1, 2));
    reloading.swap(&rules("a.example"), &secret("k.example"));
    reloading.check(&["a.example", "k.example"], &["b.example", "l.example"]);
    assert_eq!(reloading.state(), (1, 3));
}

#[test]
fn a_new_secret_is_not_a_new_generation_of_rules() {
    let mut reloading = Reloading::start(&rules("a.example"), &secret("k.example"));
    reloading.swap(&rules("a.example"), &secret("l.example"));
    reloading.check(&["a.example", "l.example"], &["k.example"]);
    assert_eq!(reloading.state(), (1, 1));
}

#[test]
fn bad_rules_do_not_replace_good_ones() {
    let mut reloading = Reloading::start(&rules("a.example"), &secret("k.example"));
    for bad in [rules("https://a.example"), "{".to_owned(), String::new()] {
        reloading.swap(&bad, &secret("k.example"));
        reloading.check(&["a.example"], &["b.example"]);
        assert_eq!(reloading.state(), (0, 1), "{bad}");
        assert!(
            reloading.readiness.report().0,
            "a running replica stays ready"
        );
    }
    reloading.swap(&rules("b.example"), &secret("k.example"));
    reloading.check(&["b.example"], &["a.example"]);
    assert_eq!(reloading.state(), (1, 2));
}

#[test]
fn bad_secrets_do_not_hold_up_new_rules_nor_replace_good_ones() {
    let mut reloading = Reloading::start(&rules("a.example"), &secret("k.example"));
    reloading.swap(&rules("b.example"), "kind: ConfigMap");
    reloading.check(&["b.example", "k.example"], &["a.example"]);
    assert_eq!(reloading.state(), (1, 2));
}

#[test]
fn rules_that_are_explicitly_empty_inject_nothing() {
    let mut reloading = Reloading::start(&rules("a.example"), &secret("k.example"));
    reloading.swap(&rules_text("pullSecrets: []\nrules: []\n"), "");
    reloading.check(&[], &["a.example", "k.example"]);
    assert_eq!(reloading.state(), (1, 2));
}

#[test]
fn a_cold_start_with_bad_rules_is_not_ready_says_why_and_recovers() {
    let mut reloading = Reloading::start(&rules("https://a.example"), &secret("k.example"));
    let (ready, report) = reloading.readiness.report();
    assert!(!ready);
    assert!(
        report.contains("rules.yaml:5:"),
        "line 5 is at fault: {report}"
    );
    assert!(report.contains("https://a.example"), "{report}");
    assert_eq!(reloading.reason("a.example"), None);
    assert_eq!(reloading.state(), (0, 0));
    reloading.swap(&rules("a.example"), &secret("k.example"));
    assert!(reloading.readiness.report().0);
    reloading.check(&["a.example"], &[]);
}

#[test]
fn a_cold_start_with_bad_secrets_is_not_ready_and_shows_no_password() {
    let mut reloading = Reloading::start(&rules("a.example"), &(secret("k.example") + "  x: ]"));
    let (ready, report) = reloading.readiness.report();
    assert!(!ready);
    assert!(report.contains("secrets.yaml:"), "{report}");
    assert!(!report.contains("hunter2"), "{report}");
    reloading.swap(&rules("a.example"), &secret("k.example"));
    assert!(reloading.readiness.report().0);
}

#[test]
fn a_secret_that_does_not_decode_is_not_injected() {
    let broken = secret("k.example").replace("dockerconfigjson\n", "dockercfg\n");
    let reloading = Reloading::start(&rules("a.example"), &broken);
    assert!(reloading.readiness.report().0);
    reloading.check(&["a.example"], &["k.example"]);
}

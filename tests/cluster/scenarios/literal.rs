//! Manifests as people post them, word for word.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pull_secret, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::webhook::Injection;
use crate::registry::{ALPHA, Account, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("literal_06_pod_foo_in_namespace_awesomeapps", awesomeapps);
    trials.node(
        "literal_06_pod_busybox_in_namespace_private_registry_test",
        private_registry_test,
    );
    trials.node(
        "literal_07_kubectl_create_of_a_pod_that_echoes_success",
        private_image_test,
    );
}

fn awesomeapps(cluster: &Cluster) {
    let kit = cluster.registries();
    let account = Account::new("literal-06-foo", "janedoe's", &["janedoe/awesomeapp"]);
    kit.tokens.permit(&account);
    kit.push("janedoe/awesomeapp", "v1");
    let secret = pull_secret(
        "mysecret",
        &token_config("https://index.docker.io/v1/", &account),
    );
    let injection = Injection::covering(cluster, &[secret]);
    let namespace = injection.namespace_labelled("awesomeapps", &json!({}));
    let manifest = "
apiVersion: v1
kind: Pod
metadata:
  name: foo
  namespace: awesomeapps
spec:
  containers:
    - name: foo
      image: janedoe/awesomeapp:v1
";
    namespace.kubectl(&["create", "-f", "-"], manifest);
    let line = "  imagePullSecrets:\n    - name: mysecret\n";
    let with_line = manifest.replace("  name: foo\n", "  name: foo-with-line\n") + line;
    namespace.kubectl(&["create", "-f", "-"], &with_line);
    for name in ["foo", "foo-with-line"] {
        assert_eq!(
            pull_secrets_of(&namespace.running(name)),
            ["mysecret"],
            "{name}"
        );
    }
}

fn private_registry_test(cluster: &Cluster) {
    let kit = cluster.registries();
    let account = Account::new("literal-06-busybox", "of the registry", &["busybox"]);
    kit.tokens.permit(&account);
    kit.push("busybox", "v1");
    let config = token_config("my-private-registry.infra", &account);
    let secret = pull_secret("mysecret", &config);
    let injection = Injection::covering(cluster, &[secret]);
    let namespace = injection.namespace_labelled("private-registry-test", &json!({}));
    let manifest = "
apiVersion: v1
kind: Pod
metadata:
  name: busybox
  namespace: private-registry-test
spec:
  containers:
    - name: busybox
      image: my-private-registry.infra/busybox:v1
      command: [sleep, '3600']
";
    namespace.kubectl(&["create", "-f", "-"], manifest);
    assert_eq!(pull_secrets_of(&namespace.running("busybox")), ["mysecret"]);
}

fn private_image_test(cluster: &Cluster) {
    let kit = cluster.registries();
    let injection = Injection::covering(cluster, &[ALPHA.secret()]);
    let injected = injection.namespace("private-image");
    let bare = Namespace::create(cluster, "private-image-bare", "none");
    let image = kit.fresh(ALPHA.host, "private/image");
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: private-image-test-1
spec:
  containers:
    - name: uses-private-image
      image: {image}
      imagePullPolicy: Always
      command: [ \"echo\", \"SUCCESS\" ]
"
    );
    bare.create_object("secrets", &ALPHA.secret());
    for namespace in [&bare, &injected] {
        namespace.kubectl(&["create", "-f", "-"], &manifest);
    }
    injected.running("private-image-test-1");
    let logs = injected.kubectl(&["logs", "private-image-test-1"], "");
    assert_eq!(logs.trim(), "SUCCESS");
    bare.pull_failed("private-image-test-1");
}

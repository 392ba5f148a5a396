//! Generated Pods, hostile ones too: what the API server makes of them with the webhook is exactly
//! what `pullpass mutate` makes of them, and the webhook never causes a refusal.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, docker_config, pull_secret, pull_secrets_of};
use crate::harness::stub::{Reaction, Stub};
use crate::harness::trials::Trials;
use crate::harness::webhook::{Injection, Reach, Registration};

pub(crate) fn register(trials: &mut Trials) {
    trials.api("incident_12_corpus_of_generated_pods_equals_mutate", corpus);
}

/// Generated Pods; every value of every table below comes up many times.
const PODS: usize = 300;
/// Fewer of either would mean that the corpus proves nothing.
const OUTCOMES_MIN: usize = 50;

const RULES: &str = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: alpha}, {name: beta}, {name: hub}, {name: debug}, {name: shadow}]
rules:
  - {name: alpha, images: [registry.example.com, '*.azurecr.io/acme'], pullSecrets: [alpha]}
  - name: beta
    images: ['registry.example.com:*/team', 'a.example.com']
    excludeImages: [registry.example.com/team/public]
    pullSecrets: [beta, alpha]
  - {name: covered, pullSecrets: [hub]}
  - {name: debug, images: [debug.example.com], podSelector: {matchLabels: {debug: 'yes'}}, pullSecrets: [debug], always: true}
  - {name: shadow, images: ['*'], pullSecrets: [shadow], mode: Shadow}
";

const IMAGES: &[&str] = &[
    "registry.example.com/team/app:v1",
    "registry.example.com/team/public",
    "registry.example.com/team/public-not",
    "registry.example.com:443/team/app",
    "registry.example.com:5000/team",
    "registry.example.com.evil.example/team/app",
    "one.azurecr.io/acme/app",
    "one.azurecr.io/acme-evil/app",
    "REGISTRY.example.com/team/app",
    "a.example.com/x@sha256:0123456789012345678901234567890123456789012345678901234567890123",
    "nginx",
    "acme/app:latest",
    "docker.io/library/nginx:1",
    "index.docker.io/acme/app",
    "localhost/app",
    "localhost:5000",
    "[::1]:5000/app",
    "a_b.com/app",
    "0123456789012345678901234567890123456789012345678901234567890123",
    "registry.example.com/Team/App",
    "registry.example.com/team/app:",
    "https://registry.example.com/team/app",
    "registry.example.com/<team>&\"app\"",
    "\u{1f433}",
];

/// Images that the API server itself refuses.
const REFUSED_IMAGES: &[&str] = &["", " registry.example.com/team/app", "a.example.com/x "];

fn corpus(cluster: &Cluster) {
    let hub = docker_config(&[("https://index.docker.io/v1/", "user", "password")]);
    let secrets = [pull_secret("hub", &hub)];
    let injection = Injection::start(cluster, RULES, &secrets);
    // An ear that is called before ours: what it hears is what ours is given.
    let ear = Stub::start(cluster, |_| Reaction::Patch(json!([])));
    Registration {
        name: format!("a-{}", injection.group),
        webhook: "pods.ear.example.com".to_owned(),
        group: injection.group.clone(),
        reach: Reach::Url(ear.url()),
    }
    .create(cluster);
    let namespace = injection.namespace("corpus");
    let bare = Namespace::create(cluster, "corpus-bare", "none");
    for namespace in [&namespace, &bare] {
        namespace.create_object("serviceaccounts", &json!({"metadata": {"name": "puller"}}));
        namespace.set_account_secrets("puller", &["of-the-account", "alpha"]);
    }

    let mut random = Random(0x5eed);
    let pods: Vec<Value> = (0..PODS).map(|index| random.pod(index)).collect();
    // By name: what the API server made of it.
    let mut made = BTreeMap::new();
    let mut refused = 0;
    for pod in &pods {
        let with = namespace.dry_run(pod);
        let without = bare.dry_run(pod);
        match (with, without) {
            (Ok(with), Ok(without)) => {
                assert_only_added(&without, &with);
                made.insert(name_of(&with), pull_secrets_of(&with));
            }
            // Refused with and without us, for the same reason.
            (Err(with), Err(without)) => {
                assert_eq!(with.replace(&namespace.name, &bare.name), without, "{pod}");
                refused += 1;
            }
            (with, without) => panic!("{pod}\nwith webhook: {with:?}\nwithout: {without:?}"),
        }
    }
    let heard = ear.heard();
    let sent: Vec<Value> = heard
        .iter()
        .map(|review| serde_json::from_slice::<Value>(review).expect("JSON"))
        .map(|mut review| review["request"]["object"].take())
        .filter(|pod| made.contains_key(&name_of(pod)))
        .collect();
    // The ear hears an injected Pod twice, the second time with its secrets: that one must stay.
    let mutated = mutate(cluster, &namespace.name, &secrets, &sent);
    assert_eq!(mutated.len(), sent.len());
    for (name, list) in &mutated {
        assert_eq!(
            Some(list),
            made.get(name),
            "mutate disagrees with the API server on {name}"
        );
    }
    let changed = sent
        .iter()
        .filter(|pod| made[&name_of(pod)] != pull_secrets_of(pod))
        .count();
    let unchanged = made.len() - changed;
    println!("corpus: {changed} Pods injected, {unchanged} left alone, {refused} refused anyway");
    assert!(
        changed > OUTCOMES_MIN && unchanged > OUTCOMES_MIN,
        "{changed}, {unchanged}"
    );
}

/// The list with the webhook starts with the list without it, and only our own names follow.
fn assert_only_added(without: &Value, with: &Value) {
    let (without, with) = (pull_secrets_of(without), pull_secrets_of(with));
    let added = with.strip_prefix(without.as_slice());
    let added = added.unwrap_or_else(|| panic!("{without:?} became {with:?}"));
    for (index, name) in added.iter().enumerate() {
        let ours = ["alpha", "beta", "hub", "debug"].contains(&name.as_str());
        assert!(
            ours && !without.contains(name),
            "{without:?} became {with:?}"
        );
        assert!(
            !added[..index].contains(name),
            "{name} was added twice: {with:?}"
        );
    }
}

/// What `pullpass mutate` makes of Pods: name and list of each.
fn mutate(
    cluster: &Cluster,
    namespace: &str,
    secrets: &[Value],
    pods: &[Value],
) -> Vec<(String, Vec<String>)> {
    let directory = cluster.directory("mutate");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("the work directory is writable");
        path
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullpass"));
    command
        .arg("mutate")
        .arg("-r")
        .arg(write("rules.yaml", RULES));
    command.args(["--namespace", namespace, "-f", "-", "-o", "json"]);
    for secret in secrets {
        command
            .arg("--pull-secret")
            .arg(write("secret.yaml", &secret.to_string()));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let input = json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string();
    let mut stdin = child.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer
        .join()
        .expect("no panic")
        .expect("it reads everything");
    assert!(
        output.status.success(),
        "mutate ended with {}",
        output.status
    );
    let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let objects = documents.map(|document| document.expect("mutate writes JSON"));
    let pods = objects.flat_map(|object| match object {
        Value::Array(items) => items,
        object if object["kind"] == "List" => object["items"].as_array().cloned().expect("items"),
        object => vec![object],
    });
    pods.map(|pod| (name_of(&pod), pull_secrets_of(&pod)))
        .collect()
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"]
        .as_str()
        .expect("every Pod of the corpus has a name")
        .to_owned()
}

/// A generator of Pods that always makes the same ones (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("less than a usize")
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn image(&mut self) -> &'static str {
        if self.once_in(40) {
            self.pick(REFUSED_IMAGES)
        } else {
            self.pick(IMAGES)
        }
    }

    fn containers(&mut self, prefix: &str, limit: usize) -> Vec<Value> {
        let count = self.below(limit + 1);
        let container = |index| json!({"name": format!("{prefix}-{index}"), "image": self.image()});
        (0..count).map(container).collect()
    }

    /// Absent, null, empty or filled.
    fn set(&mut self, object: &mut Value, field: &str, items: &[Value]) {
        match (items.is_empty(), self.below(3)) {
            (false, _) => object[field] = json!(items),
            (true, 0) => object[field] = json!(null),
            (true, 1) => object[field] = json!([]),
            (true, _) => {}
        }
    }

    fn pull_secrets(&mut self) -> Vec<Value> {
        let names = ["mine", "alpha", "beta", "hub", "of-the-account", ""];
        let count = self.below(4);
        let entry = |_| match self.pick(&names) {
            "" => json!({}),
            name => json!({"name": name}),
        };
        (0..count).map(entry).collect()
    }

    fn pod(&mut self, index: usize) -> Value {
        let mut spec = json!({"schedulerName": "nobody"});
        let mut containers = self.containers("app", 3);
        if containers.is_empty() && !self.once_in(20) {
            containers.push(json!({"name": "app", "image": self.image()}));
        }
        self.set(&mut spec, "containers", &containers);
        let mut init = self.containers("init", 2);
        if let Some(sidecar) = init.first_mut().filter(|_| self.0.is_multiple_of(2)) {
            sidecar["restartPolicy"] = json!("Always");
        }
        self.set(&mut spec, "initContainers", &init);
        let mut volumes: Vec<Value> = (0..self.below(3))
            .map(|index| {
                let reference = self.image();
                json!({"name": format!("image-{index}"), "image": {"reference": reference}})
            })
            .collect();
        if self.once_in(2) {
            volumes.push(json!({"name": "scratch", "emptyDir": {}}));
        }
        self.set(&mut spec, "volumes", &volumes);
        let secrets = self.pull_secrets();
        self.set(&mut spec, "imagePullSecrets", &secrets);
        if self.once_in(30) {
            // Refused on create, but only after the webhook has seen it.
            spec["ephemeralContainers"] = json!(self.containers("debug", 1));
        }
        if self.once_in(3) {
            spec["serviceAccountName"] = json!("puller");
        }
        let mut metadata = json!({"name": format!("pod-{index}")});
        if self.once_in(4) {
            metadata["labels"] = json!({"debug": self.pick(&["yes", "no"])});
        }
        if self.once_in(8) {
            metadata["annotations"] = json!({"pullpass.dev/inject": self.pick(&["false", "true"])});
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }
}

//! Who may start from an image that the node has already: the table of `docs/cached-images.md`, line by line.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::delivery::Product;
use crate::harness::namespace::{Namespace, pod, pull_secret, pull_secrets_of};
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, ONE_BACK_OFF, wait_for};
use crate::registry::{Account, Kit, token_config};

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_17_cached_images_as_documented", as_documented);
}

const PAGE: &str = include_str!("../../../docs/cached-images.md");
const HOST: &str = "harbor.example.com";
const REPOSITORY: &str = "cached/app";
/// A credential that was refused or changed is so from the second or third of these on.
const STAGES: [&str; 3] = [
    "",
    ", its password refused since",
    ", its password changed since",
];
/// Whoever is refused leaves nothing behind at the kubelet that would help the next, so `Never` comes first.
const POLICIES: [&str; 3] = ["Never", "IfNotPresent", "Always"];
/// By [`POLICIES`].
const REFUSED: [&str; 3] = [
    "refused by the kubelet",
    "refused by the registry",
    "refused by the registry",
];
/// What the scenario holds, whatever else the page tells: how the image came, what the Pod brings, what happens.
const CORE: [(&str, &str, [&str; 3]); 4] = [
    (
        "preloaded, past the kubelet",
        "nothing",
        ["starts", "starts", "refused by the registry"],
    ),
    (
        "pulled with harbor",
        "harbor, in another namespace",
        ["starts", "starts", "pulls"],
    ),
    ("pulled with harbor", "nothing", REFUSED),
    (
        "pulled with harbor, its password changed since",
        "nothing",
        REFUSED,
    ),
];
/// The page's lines, those of [`CORE`] among them.
const LINES: usize = 12;

/// A line of the page's table.
struct Line {
    came: &'static str,
    brings: &'static str,
    /// What happens, by [`POLICIES`].
    expected: [&'static str; 3],
    image: String,
}

fn lines(kit: &Kit) -> Vec<Line> {
    let lines = PAGE.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let mut cells = cells.filter(|cells| cells.len() > 5);
    let head = cells.next().expect("the page has a table");
    assert_eq!(head[2..5], ["`IfNotPresent`", "`Never`", "`Always`"]);
    let line = |cells: Vec<&'static str>| Line {
        came: cells[0],
        brings: cells[1],
        expected: [cells[3], cells[2], cells[4]],
        image: match cells[0].contains("public") {
            true => kit.fresh_public(REPOSITORY),
            false => kit.fresh(HOST, REPOSITORY),
        },
    };
    cells.map(line).collect()
}

/// Everything that the lines speak of.
struct Scene<'a> {
    cluster: &'a Cluster,
    product: Product<'a>,
    /// Holds a copy; has pulled.
    first: Namespace<'a>,
    /// Holds a copy.
    other: Namespace<'a>,
    /// May not hold one.
    without: Namespace<'a>,
    account: Account,
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster) -> Self {
        let kit = cluster.registries();
        let product = Product::start(cluster, &["harbor"], "");
        let delivery = &product.delivery;
        let [first, other] = ["first", "other"].map(|suffix| delivery.name_of(suffix));
        delivery.set_pull_secrets(&format!("{{name: harbor, namespaces: [{first}, {other}]}}"));
        let account = Account::new("robot$cached", "first password", &[REPOSITORY]);
        let login = token_config(HOST, &account).to_string();
        kit.tokens.permit(&account);
        product.make_source("harbor", &login);
        let [first, other, without] =
            ["first", "other", "without"].map(|name| product.namespace(name));
        let image = format!("{HOST}/{REPOSITORY}");
        for namespace in [&first, &other] {
            product.delivery.until_copied(namespace, "harbor", &login);
            product.until_injected(namespace, &image, &["harbor"]);
        }
        let right = Account::new("robot$cached-too", "of its own", &[REPOSITORY]);
        kit.tokens.permit(&right);
        let wrong = Account::new(&account.user, "wrong password", &[]);
        for (name, account) in [("right", right), ("wrong", wrong)] {
            let secret = pull_secret(name, &token_config(HOST, &account));
            without.create_object("secrets", &secret);
        }
        Self {
            cluster,
            product,
            first,
            other,
            without,
            account,
        }
    }

    /// Brings the images to the node.
    fn seed(&self, lines: &[Line]) {
        let pods = lines.iter().enumerate().filter_map(|(index, line)| {
            if line.came.starts_with("preloaded") {
                let (user, password) = (&self.account.user, &self.account.password);
                self.cluster.node().preload(&line.image, user, password);
                return None;
            }
            assert!(line.came.starts_with("pulled"), "{}", line.came);
            let name = format!("seed-{index}");
            self.first
                .create_object("pods", &pod(&name, &[("app", &line.image)]));
            Some(name)
        });
        for name in pods.collect::<Vec<_>>() {
            self.first.running(&name);
            // The image stays.
            self.first.delete("pods", &name).expect("it runs");
        }
    }

    fn enter(&mut self, stage: &str) {
        let kit = self.cluster.registries();
        match STAGES.iter().position(|name| *name == stage) {
            Some(1) => {
                self.account.password = "second password".to_owned();
                kit.tokens.permit(&self.account);
            }
            Some(2) => {
                let login = token_config(HOST, &self.account).to_string();
                let delivery = &self.product.delivery;
                delivery.change_source("harbor", &login);
                for namespace in [&self.first, &self.other] {
                    delivery.until_copied(namespace, "harbor", &login);
                }
            }
            _ => {}
        }
    }

    /// Creates the Pod of a line; gives where it is.
    fn create(&self, line: &Line, name: &str, policy: &str) -> &Namespace<'a> {
        let (namespace, by_hand, injected) = match line.brings {
            "nothing" => (&self.without, None, None),
            "harbor, in the same namespace" => (&self.first, None, Some("harbor")),
            "harbor" | "harbor, in another namespace" => (&self.other, None, Some("harbor")),
            "another login that is right" => (&self.without, Some("right"), None),
            "a wrong password" => (&self.without, Some("wrong"), None),
            other => panic!("the page says {other}"),
        };
        let mut pod = pod(name, &[("app", &line.image)]);
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        if let Some(secret) = by_hand {
            pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
        }
        let created = namespace.create_object("pods", &pod);
        let expected: Vec<&str> = by_hand.into_iter().chain(injected).collect();
        assert_eq!(pull_secrets_of(&created), expected, "{}", line.brings);
        namespace
    }
}

/// What became of a Pod, in the page's words.
fn outcome(namespace: &Namespace<'_>, name: &str) -> &'static str {
    wait_for(&format!("{name} starts or does not"), ONE_BACK_OFF, || {
        let events = namespace.events(name);
        let found = events.iter().find_map(|(reason, message)| match &**reason {
            "Pulled" if message.contains("already present on machine") => Some("starts"),
            "Pulled" => Some("pulls"),
            "ErrImageNeverPull" => Some("refused by the kubelet"),
            "Failed" if message.contains("Failed to pull image") => Some("refused by the registry"),
            _ => None,
        });
        found.ok_or_else(|| format!("{events:?}"))
    })
}

fn as_documented(cluster: &Cluster) {
    let lines = lines(cluster.registries());
    let mut scene = Scene::set(cluster);
    scene.seed(&lines);
    let mut found = vec![[""; 3]; lines.len()];
    for stage in STAGES {
        scene.enter(stage);
        let is_now = |line: &Line| match stage {
            "" => !line.came.ends_with("since"),
            stage => line.came.ends_with(stage),
        };
        for (column, policy) in POLICIES.into_iter().enumerate() {
            let now = lines.iter().enumerate().filter(|(_, line)| is_now(line));
            let pods = now.map(|(index, line)| {
                let name = format!("line-{index}-{}", policy.to_lowercase());
                (index, scene.create(line, &name, policy), name)
            });
            for (index, namespace, name) in pods.collect::<Vec<_>>() {
                let outcome = outcome(namespace, &name);
                if matches!(outcome, "starts" | "pulls") {
                    namespace.running_within(&name, HAPPY);
                }
                found[index][column] = outcome;
                namespace.delete("pods", &name).expect("it is there");
            }
        }
    }
    for (line, [never, if_not_present, always]) in lines.iter().zip(&found) {
        println!(
            "scenario 17: {}; {}: {if_not_present}; {never}; {always}",
            line.came, line.brings
        );
    }
    let expected: Vec<_> = lines.iter().map(|line| line.expected).collect();
    assert_eq!(found, expected, "the page says otherwise");
    assert_eq!(lines.len(), LINES);
    for core in CORE {
        let mut said = lines.iter().zip(&found);
        let is_said = said.any(|(line, found)| (line.came, line.brings, *found) == core);
        assert!(is_said, "{core:?}");
    }
}

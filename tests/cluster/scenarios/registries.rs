//! The pages on registries: each Secret as its command makes it, each page's rules, and the image it speaks of.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::cluster::Cluster;
use crate::harness::namespace::{pod, pull_secrets_of};
use crate::harness::sandbox;
use crate::harness::tier::tools;
use crate::harness::trials::Trials;
use crate::harness::webhook::Injection;
use crate::registry::Account;

pub(crate) fn register(trials: &mut Trials) {
    trials.node("scenario_54_every_page_on_a_registry_as_written", pages);
}

const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/registries");
const NAMES: [&str; 12] = [
    "acr.md",
    "aliyun.md",
    "docker-hub.md",
    "ecr.md",
    "gar.md",
    "ghcr.md",
    "gitlab.md",
    "harbor.md",
    "ibm.md",
    "nexus.md",
    "quay.md",
    "tcr.md",
];

/// What a page tells people to do.
struct Page {
    name: String,
    text: String,
}

impl Page {
    /// All but the list of them, which has to name each; in the order of their names.
    fn read_all() -> Vec<Self> {
        let page = |path: &Path| Self {
            name: path.file_name().expect("it has one").display().to_string(),
            text: fs::read_to_string(path).expect("it can be read"),
        };
        let entries = fs::read_dir(PAGES).expect("there are pages");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let (lists, mut pages): (Vec<_>, Vec<_>) = paths
            .map(|path| page(&path))
            .partition(|page| page.name == "README.md");
        for page in &pages {
            assert!(
                lists[0].text.contains(&format!("({})", page.name)),
                "{}",
                page.name
            );
        }
        pages.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        pages
    }

    /// What stands between `start` and `end`.
    fn between(&self, start: &str, end: &str) -> &str {
        let found = self
            .text
            .split_once(start)
            .and_then(|(_, rest)| rest.split_once(end));
        found
            .unwrap_or_else(|| panic!("{} has no {start}", self.name))
            .0
    }

    /// The Secret that its command makes, typed into a shell.
    fn secret(&self) -> Value {
        let command = self.between("```console\n$ ", "\n```");
        let script = format!(
            "PATH={}:$PATH; {command} --dry-run=client -o json",
            tools().display()
        );
        let made = sandbox::output("sh", &["-c", &script]);
        let mut secret: Value = serde_json::from_str(&made).expect("kubectl writes JSON");
        let metadata = secret["metadata"].as_object_mut().expect("it has some");
        assert_eq!(
            metadata.remove("namespace"),
            Some("pullpass".into()),
            "{}",
            self.name
        );
        secret
    }

    /// An argument of its command as a reader takes it, without the quotes that are for the shell.
    fn argument(&self, name: &str) -> &str {
        let argument = self.between(&format!("--docker-{name}="), "\n");
        let argument = argument.split(" --").next().unwrap_or_default();
        argument.trim_end_matches(['\\', ' ']).trim_matches('\'')
    }

    /// Registry and repository of its image, with the tag.
    fn image(&self) -> (&str, &str, &str) {
        let image = self.between("Then a Pod with the image `", "`");
        let (name, tag) = image.rsplit_once(':').expect("with a tag");
        match name.split_once('/') {
            Some((host, repository)) if host.contains('.') => (host, repository, tag),
            _ => ("docker.io", name, tag),
        }
    }
}

fn pages(cluster: &Cluster) {
    let kit = cluster.registries();
    let pages = Page::read_all();
    let names: Vec<_> = pages.iter().map(|page| &*page.name).collect();
    assert_eq!(names, NAMES);
    let started = pages.iter().map(|page| {
        let (host, repository, tag) = page.image();
        let account = Account::new(
            page.argument("username"),
            page.argument("password"),
            &[repository],
        );
        kit.tokens.permit(&account);
        kit.push(repository, tag);
        let secret = page.secret();
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        let name = name.to_owned();
        let rules = page.between("```yaml\n", "```");
        let injection = Injection::start(cluster, rules, &[secret]);
        let namespace = injection.namespace("registry");
        let image = page.between("Then a Pod with the image `", "`");
        namespace.create_object("pods", &pod("app", &[("app", image)]));
        println!("scenario 54: {host}, {}", account.user);
        (injection, namespace, name)
    });
    for (_injection, namespace, name) in started.collect::<Vec<_>>() {
        assert_eq!(pull_secrets_of(&namespace.running("app")), [name]);
        namespace.assert_pulled_at_once("app");
        namespace.delete("pods", "app").expect("it runs");
    }
}

//! Runs Helm and reads what it rendered.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

/// The releases that the chart supports, the oldest first.
pub(crate) const KUBERNETES: [&str; 9] = [
    "1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37",
];

/// One values file. Its comments may hold lines `# helm: ARGUMENTS` and `# error: MESSAGE`.
pub(crate) struct Case {
    pub(crate) name: String,
    file: PathBuf,
    text: String,
}

/// What Helm made of a case for one release of Kubernetes.
pub(crate) struct Rendered {
    pub(crate) case: String,
    pub(crate) kubernetes: &'static str,
    pub(crate) text: String,
    pub(crate) objects: Vec<Value>,
}

/// Every valid case for every release.
pub(crate) static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let all = cases("valid").into_iter();
    all.flat_map(|case| KUBERNETES.map(|kubernetes| case.render(kubernetes)))
        .collect()
});

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `make tools` puts into `target/tools/bin`, to be run in the repository's root.
pub(crate) fn tool(name: &str) -> Command {
    let program = root().join("target/tools/bin").join(name);
    assert!(
        program.exists(),
        "{} is missing: run `make tools`",
        program.display()
    );
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Standard output of a command that has to succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let run = command.output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{command:?}\n{said}");
    String::from_utf8(run.stdout).unwrap()
}

/// The files of `tests/data/chart/DIRECTORY`, sorted.
pub(crate) fn cases(directory: &str) -> Vec<Case> {
    let directory = root().join("tests/data/chart").join(directory);
    let entries = fs::read_dir(&directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", directory.display());
    let case = |file: PathBuf| Case {
        name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&file).unwrap(),
        file,
    };
    files.into_iter().map(case).collect()
}

impl Case {
    /// The texts after `# KEY: `.
    pub(crate) fn comments(&self, key: &str) -> Vec<&str> {
        let start = format!("# {key}: ");
        let lines = self.text.lines();
        lines
            .filter_map(|line| line.strip_prefix(&*start))
            .collect()
    }

    /// `helm template` of this case; its own arguments win over the usual ones.
    pub(crate) fn template(&self, kubernetes: &str) -> Output {
        let mut helm = tool("helm");
        helm.args(["template", "pullpass", "charts/pullpass"])
            .args(["--namespace", "pullpass"])
            .args(["--kube-version", &format!("{kubernetes}.0")])
            .arg("--values")
            .arg(&self.file);
        for arguments in self.comments("helm") {
            helm.args(arguments.split(' '));
        }
        helm.output().unwrap()
    }

    fn render(&self, kubernetes: &'static str) -> Rendered {
        let run = self.template(kubernetes);
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(
            run.status.success(),
            "{} for {kubernetes}:\n{said}",
            self.name
        );
        let text = String::from_utf8(run.stdout).unwrap();
        Rendered {
            case: self.name.clone(),
            kubernetes,
            objects: objects(&text),
            text,
        }
    }
}

/// The objects of a YAML stream.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect()
}

impl Rendered {
    /// What a failed assertion shows.
    pub(crate) fn place(&self) -> String {
        format!("{} for {}", self.case, self.kubernetes)
    }

    pub(crate) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The only object of a kind that has one.
    pub(crate) fn one(&self, kind: &'static str) -> &Value {
        let mut all = self.of_kind(kind);
        let first = all.next();
        let only = first.filter(|_| all.next().is_none());
        only.unwrap_or_else(|| panic!("{}: not one {kind}", self.place()))
    }

    /// The release's namespace.
    pub(crate) fn namespace(&self) -> &str {
        let mut deployments = self.of_kind("Deployment");
        deployments.next().unwrap()["metadata"]["namespace"]
            .as_str()
            .unwrap()
    }

    /// The specs of all Pods: the Deployments', and that of `helm test`.
    pub(crate) fn pod_specs(&self) -> Vec<(String, &Value)> {
        let pods = self.objects.iter().filter_map(|object| {
            let spec = match object["kind"].as_str()? {
                "Pod" => &object["spec"],
                "Deployment" => &object["spec"]["template"]["spec"],
                _ => return None,
            };
            Some((format!("{}: {}", self.place(), name(object)), spec))
        });
        pods.collect()
    }
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The elements of an array; none if it is absent.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

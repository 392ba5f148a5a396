//! The commands that look at a cluster, on objects in files: one file of objects, one case. A stand-in for
//! the API server answers from them; what the commands print stands beside it.
//!
//! A file's comments say more: `# run: COMMAND` for each command, in order, and `# denied: RESOURCE` for what
//! the caller has no right to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::check_file;

const CASES: &str = "tests/data/live";
/// Fewer than any client asks for, so that every list has pages.
const PAGE: usize = 2;

/// Columns of a terminal that everybody has.
const COLUMNS: usize = 100;

fn case(name: &str) {
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let text = std::fs::read_to_string(cases.join(format!("{name}.yaml"))).unwrap();
    let said = |key: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(|value| value.trim().to_owned()).collect()
    };
    let server = ApiServer::start(&text, said("# denied:"));
    let mut found = String::new();
    for command in said("# run:") {
        let output = Command::new(env!("CARGO_BIN_EXE_pullpass"))
            .args(command.split_whitespace())
            .env("KUBECONFIG", server.kubeconfig())
            .output()
            .unwrap();
        let [stdout, stderr] =
            [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out));
        found += &format!("$ pullpass {command}\n{stdout}");
        if !stderr.is_empty() {
            found += &format!("\n(standard error)\n{stderr}");
        }
        found += &format!("\n(exit code {})\n\n", output.status.code().unwrap());
        assert!(!found.contains("hunter2"), "{found}");
        let long = stdout
            .lines()
            .filter(|_| !command.contains("-o json"))
            .find(|line| line.chars().count() > COLUMNS && !line.contains("fix: "));
        assert_eq!(long, None, "only a command may be longer than a line");
    }
    check_file(&cases.join(format!("{name}.expect")), &found);
}

/// One test for each file.
macro_rules! cases {
    ($($name:ident,)*) => {
        $(#[test] fn $name() { case(stringify!($name)); })*

        #[test]
        fn every_file_of_objects_is_a_case() {
            let mut tested = vec![$(stringify!($name)),*];
            tested.sort_unstable();
            let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(CASES);
            let files = std::fs::read_dir(cases).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut found: Vec<String> =
                names.filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned)).collect();
            found.sort_unstable();
            assert_eq!(found, tested);
        }
    };
}

cases!(
    all_is_well,
    much_is_wrong,
    delivery_is_off,
    registries_are_asked,
    rights_are_missing,
    rules_are_wrong,
    after_uninstall,
    two_installations,
    pods_that_do_not_pull,
    pods_with_few_rights,
    pods_that_are_stuck,
);

/// A stand-in for an API server.
struct ApiServer {
    directory: tempfile::TempDir,
}

/// Objects that it has, and resources that nobody may look at.
struct Store {
    objects: Vec<Value>,
    denied: Vec<String>,
}

impl ApiServer {
    fn start(objects: &str, denied: Vec<String>) -> Self {
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(objects).unwrap();
        objects.iter_mut().for_each(encode);
        let store = Arc::new(Mutex::new(Store { objects, denied }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let store = store.clone();
                thread::spawn(move || serve(stream.unwrap(), &store));
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(directory.path().join("kubeconfig"), config.to_string()).unwrap();
        Self { directory }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }
}

/// As the API server stores a Secret: what stands in `stringData` becomes `data`.
fn encode(object: &mut Value) {
    if let Some(Value::Object(texts)) = object["stringData"].take().into() {
        for (key, text) in texts {
            object["data"][key] = json!(BASE64_STANDARD.encode(text.as_str().unwrap()));
        }
    }
}

fn serve(stream: TcpStream, store: &Mutex<Store>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return;
    };
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let (status, answer) = store.lock().unwrap().answer(method, target, &body);
    let answer = answer.to_string();
    let mut stream = reader.into_inner();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        answer.len()
    );
    // The program may have ended.
    let _closed = stream.write_all((head + &answer).as_bytes());
}

impl Store {
    fn answer(&mut self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/version" {
            let fields = [
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
            ];
            let mut version = json!({"major": "1", "minor": "36", "compiler": "", "platform": ""});
            for field in fields {
                version[field] = json!("");
            }
            return (200, version);
        }
        let parts: Vec<&str> = path.split('/').collect();
        let known = [
            "namespaces",
            "secrets",
            "configmaps",
            "pods",
            "events",
            "deployments",
            "serviceaccounts",
        ];
        let is_kind = |part: &str| known.contains(&part) || part.ends_with("configurations");
        let resource = parts.iter().rposition(|part| is_kind(part)).unwrap();
        let kind = parts[resource];
        if self.denied.iter().any(|denied| denied == kind) {
            let words =
                format!("{kind} is forbidden: User \"dev\" cannot list resource \"{kind}\"");
            return refusal(403, &words);
        }
        let namespace = parts[..resource]
            .iter()
            .rposition(|part| *part == "namespaces");
        let namespace = namespace.and_then(|at| parts.get(at + 1)).copied();
        match parts.get(resource + 1) {
            Some(name) if parts.last() == Some(&"eviction") => self.evict(namespace, name, body),
            Some(name) => self.one(method, kind, namespace, name, body),
            None => self.list(kind, namespace, &parameters(query)),
        }
    }

    fn one(
        &mut self,
        method: &str,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        body: &Value,
    ) -> (u16, Value) {
        let found = self.objects.iter().position(|object| {
            is_of(object, kind, namespace) && object["metadata"]["name"] == name
        });
        let Some(found) = found else {
            return refusal(404, &format!("{kind} \"{name}\" not found"));
        };
        if method != "DELETE" {
            return (200, self.objects[found].clone());
        }
        let metadata = &self.objects[found]["metadata"];
        let expected = &body["preconditions"];
        // Somebody else is always faster with this one.
        let is_changed = metadata["annotations"]["changed-meanwhile"] == "yes";
        if is_changed
            || expected["uid"] != metadata["uid"]
            || expected["resourceVersion"] != metadata["resourceVersion"]
        {
            return refusal(409, "the object has been modified");
        }
        (200, self.objects.remove(found))
    }

    /// As the API server does; the Pod of this annotation is under a PodDisruptionBudget.
    fn evict(&mut self, namespace: Option<&str>, name: &str, body: &Value) -> (u16, Value) {
        let found = self
            .objects
            .iter()
            .find(|object| is_of(object, "pods", namespace) && object["metadata"]["name"] == name);
        if found.is_some_and(|pod| pod["metadata"]["annotations"]["disruptions"] == "0") {
            let words = "Cannot evict pod as it would violate the pod's disruption budget.";
            return refusal(429, words);
        }
        self.one("DELETE", "pods", namespace, name, &body["deleteOptions"])
    }

    fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
        parameters: &[(String, String)],
    ) -> (u16, Value) {
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let chosen = self.objects.iter().filter(|object| {
            is_of(object, kind, namespace)
                && is_selected(parameter("labelSelector"), |key| {
                    object["metadata"]["labels"][key].as_str()
                })
                && is_selected(parameter("fieldSelector"), |key| {
                    object
                        .pointer(&format!("/{}", key.replace('.', "/")))?
                        .as_str()
                })
        });
        let start: usize = parameter("continue").parse().unwrap_or_default();
        let chosen: Vec<&Value> = chosen.collect();
        let items: Vec<_> = chosen.iter().skip(start).take(PAGE).collect();
        let next = start + items.len();
        let token = if next < chosen.len() {
            next.to_string()
        } else {
            String::new()
        };
        (
            200,
            json!({"metadata": {"continue": token}, "items": items}),
        )
    }
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "message": message, "reason": "", "code": code,
    });
    (code, status)
}

fn is_of(object: &Value, kind: &str, namespace: Option<&str>) -> bool {
    let own = object["kind"].as_str().unwrap().to_ascii_lowercase() + "s";
    own == kind && namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
}

/// A selector of `k=v` and `k!=v`.
fn is_selected<'a>(selector: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector
        .split(',')
        .filter(|part| !part.is_empty())
        .all(|part| match part.split_once("!=") {
            Some((key, other)) => value(key) != Some(other),
            None => {
                let (key, wanted) = part.split_once('=').unwrap();
                value(key) == Some(wanted)
            }
        })
}

fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        decoded.push(u8::from_str_radix(hex, 16).unwrap().into());
        decoded += rest;
    }
    decoded
}

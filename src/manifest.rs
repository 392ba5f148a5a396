//! Kubernetes manifests: a YAML or JSON stream as objects, and the Pods they are or make.
//!
//! For the commands that work on files. It reads scalars as `kubectl` does, which follows YAML 1.1:
//! `yes` is a boolean and `0644` is octal. This module must not read a file, and must not know about
//! rules.

pub mod workload;

pub use workload::{PodSource, Skipped};

use serde::Serialize;
use serde_json::Value;

/// Largest manifest file, in bytes: some 3,000 Pods as `kubectl get -o json` prints them.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most scalars, sequences and mappings in one stream: one for every 8 bytes of the largest file.
/// About 100 bytes of memory each.
const NODES_MAX: usize = MANIFEST_BYTES_MAX / 8;
/// Most parser events in one stream: a sequence or mapping has two, its start and its end.
const EVENTS_MAX: usize = NODES_MAX * 2;
/// Deepest nesting, in sequences and mappings. The deepest manifests are CRDs that contain a Pod
/// template, at about 40.
const DEPTH_MAX: usize = 64;
/// Most parser events that aliases may repeat, so that a small file cannot grow into a large one.
const ALIAS_EVENTS_MAX: usize = 100_000;

/// Why a manifest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("{bytes} bytes are more than the limit of {MANIFEST_BYTES_MAX}; split the file")]
    TooLarge {
        /// Length of the text.
        bytes: usize,
    },
    /// Neither YAML nor JSON, or beyond a limit.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// 1-based line.
        line: u64,
        /// 1-based column, in characters.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// An object without `kind`.
    #[error("object {ordinal} has no \"kind\"; only Kubernetes objects can be read")]
    NoKind {
        /// Which object of the stream, from 1; those of a List are counted one by one.
        ordinal: usize,
    },
}

impl ManifestError {
    /// The same without the reader's own words, which may quote the text: for Secrets.
    #[must_use]
    pub fn without_quotes(self) -> Self {
        match self {
            Self::Syntax { line, column, .. } => Self::Syntax {
                line,
                column,
                message: "neither YAML nor JSON".to_owned(),
            },
            other => other,
        }
    }
}

/// Reads a stream of objects, in order: YAML documents, or JSON objects one after another. The items
/// of a List stand for themselves; empty documents are left out; of duplicate keys the last counts.
///
/// # Errors
/// [`ManifestError`], with the position where there is one.
pub fn parse(text: &str) -> Result<Vec<Value>, ManifestError> {
    if text.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge { bytes: text.len() });
    }
    let documents = match parse_json(text) {
        Some(documents) => documents,
        None => parse_yaml(text)?,
    };
    let mut objects = Vec::with_capacity(documents.len());
    for document in documents {
        unfold(document, &[], &mut objects)?;
    }
    Ok(objects)
}

/// Writes objects, or other values without YAML's own types, as a YAML stream in which every reader, also one of YAML 1.1, finds the same
/// values: strings that look like something else are quoted.
pub fn to_yaml(objects: &[impl Serialize]) -> String {
    // Long strings stay on their line: image references are searched for, and compared.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let yaml = serde_saphyr::to_string_multiple_with_options(objects, options);
    debug_assert!(yaml.is_ok(), "what is JSON always serializes");
    yaml.unwrap_or_default()
}

/// JSON objects one after another, as `jq` and `kubectl get -o json` print them; `None` where the
/// text is anything else. YAML contains JSON, but only one object for each document.
fn parse_json(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let stream = serde_json::Deserializer::from_str(text).into_iter();
    stream.collect::<Result<_, _>>().ok()
}

fn parse_yaml(text: &str) -> Result<Vec<Value>, ManifestError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: NODES_MAX,
            max_nodes: NODES_MAX,
            max_events: EVENTS_MAX,
            max_depth: DEPTH_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIAS_EVENTS_MAX,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let (line, column, message) = placed(&error);
        ManifestError::Syntax {
            line,
            column,
            message,
        }
    })
}

/// Line and column, from 1, and the reader's own words up to their first ` at line `.
pub(crate) fn placed(error: &serde_saphyr::Error) -> (u64, u64, String) {
    let (line, column) = error
        .location()
        .map_or((1, 1), |location| (location.line(), location.column()));
    let text = error.without_snippet().to_string();
    let message = text
        .split_once(" at line ")
        .map_or(&*text, |(message, _)| message);
    (line, column, message.to_owned())
}

/// Adds `object`, or the items of a List. Items of a typed list such as PodList carry no `apiVersion`
/// and `kind` of their own where they come from the API server as they are: they get those of `list`.
fn unfold(
    mut object: Value,
    list: &[(&str, Value)],
    objects: &mut Vec<Value>,
) -> Result<(), ManifestError> {
    if let Some(fields) = object.as_object_mut() {
        for (field, value) in list {
            fields.entry(*field).or_insert_with(|| value.clone());
        }
    }
    let no_kind = ManifestError::NoKind {
        ordinal: objects.len() + 1,
    };
    let kind = object.get("kind").and_then(Value::as_str).ok_or(no_kind)?;
    let Some(item_kind) = kind.strip_suffix("List").map(str::to_owned) else {
        objects.push(object);
        return Ok(());
    };
    let mut list = Vec::new();
    if !item_kind.is_empty() {
        list.push(("kind", Value::from(item_kind)));
        list.extend(
            object
                .get("apiVersion")
                .map(|it| ("apiVersion", it.clone())),
        );
    }
    let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) else {
        return Ok(());
    };
    items
        .into_iter()
        .try_for_each(|item| unfold(item, &list, objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is JSON: the objects, or an error's text.
    fn check(text: &str, expected: &str) {
        let found = match parse(text) {
            Ok(objects) => serde_json::to_string(&objects).unwrap(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn streams() {
        check("", "[]");
        check("# nothing\n---\n---\n...\n", "[]");
        check(
            "kind: A\n---\n# comment\n---\nkind: B\n",
            r#"[{"kind":"A"},{"kind":"B"}]"#,
        );
        check("\u{feff}kind: A\r\nx: 1\r\n", r#"[{"kind":"A","x":1}]"#);
        check(
            "{\"kind\":\"A\"}\n{\"kind\":\"B\"}",
            r#"[{"kind":"A"},{"kind":"B"}]"#,
        );
        check(" {\n\t\"kind\": \"\\u0041\"}\n", r#"[{"kind":"A"}]"#);
        check(
            "{kind: A}\n---\n{\"kind\":\"B\"}",
            r#"[{"kind":"A"},{"kind":"B"}]"#,
        );
    }

    #[test]
    fn lists() {
        check(
            "kind: List\nitems: [{kind: A}, {kind: List, items: [{kind: B}]}]",
            r#"[{"kind":"A"},{"kind":"B"}]"#,
        );
        check(
            "kind: PodList\nitems: [{x: 1}, {kind: Z}]",
            r#"[{"kind":"Pod","x":1},{"kind":"Z"}]"#,
        );
        check(
            "apiVersion: apps/v1\nkind: DeploymentList\nitems: [{x: 1}, {apiVersion: v9}]",
            r#"[{"apiVersion":"apps/v1","kind":"Deployment","x":1},{"apiVersion":"v9","kind":"Deployment"}]"#,
        );
        check(
            "apiVersion: v1\nkind: List\nitems: [{kind: A}]",
            r#"[{"kind":"A"}]"#,
        );
        check("kind: List", "[]");
        check("kind: PodList\nitems: null", "[]");
        check(
            "kind: List\nitems: [{x: 1}]",
            "object 1 has no \"kind\"; only Kubernetes objects can be read",
        );
    }

    /// As kubectl's own reader (sigs.k8s.io/yaml) resolves them.
    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        check(
            "{kind: A, a: 0644, b: yes, c: off, d: '0644', e: 22:30, f: 2001-01-01, g: 1_000}",
            r#"[{"a":420,"b":true,"c":false,"d":"0644","e":"22:30","f":"2001-01-01","g":1000,"kind":"A"}]"#,
        );
        check("kind: A\nx: 1\nx: 2", r#"[{"kind":"A","x":2}]"#);
        check(
            "kind: A\nx: &x [1]\ny: *x\n<<: {z: 1}",
            r#"[{"kind":"A","x":[1],"y":[1],"z":1}]"#,
        );
    }

    #[test]
    fn errors_say_where() {
        check(
            "kind: A\nx: [1\ny: 2",
            "line 3, column 2: illegal placement of ':' indicator",
        );
        check(
            "kind: A\nx: .inf",
            "line 2, column 4: non-finite float `.inf` rejected by the configured policy",
        );
        check(
            "a: 1",
            "object 1 has no \"kind\"; only Kubernetes objects can be read",
        );
        check(
            "just text",
            "object 1 has no \"kind\"; only Kubernetes objects can be read",
        );
        check(
            "kind: A\n---\n[1]",
            "object 2 has no \"kind\"; only Kubernetes objects can be read",
        );
        let large = " ".repeat(MANIFEST_BYTES_MAX + 1);
        check(
            &large,
            "16777217 bytes are more than the limit of 16777216; split the file",
        );
    }

    #[test]
    fn a_small_file_cannot_grow_into_a_large_one() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{},", level - 1).repeat(9);
            bomb += &format!("a{level}: &a{level} [{below}]\n");
        }
        check(
            &bomb,
            "line 6, column 10: alias replay limit exceeded: total_replayed_events=100001 > 100000",
        );
        check(
            &"[".repeat(100_000),
            "line 1, column 256: recursion limit exceeded",
        );
        check(
            &r#"{"a":"#.repeat(100_000),
            "line 1, column 321: budget breached: Depth { depth: 65 }",
        );
    }

    #[test]
    fn an_ordinary_file_of_a_mebibyte_is_read() {
        let pod = "kind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n    image: r.io/web:1\n";
        let text = vec![pod; 1024 * 1024 / pod.len()].join("---\n");
        assert_eq!(parse(&text).unwrap().len(), 1024 * 1024 / pod.len());
    }

    #[test]
    fn written_yaml_is_read_back_as_it_was() {
        let strings = [
            "yes",
            "No",
            "on",
            "n",
            "~",
            "null",
            "",
            "0644",
            "0x1F",
            "1e3",
            "1_000",
            "22:30",
            ".5",
            "-",
            "- x",
            "#x",
            "a: b",
            "=",
            "<<",
            "2001-01-01",
            "a\nb\n\n",
            " a\nb",
            "\t",
            "a\r\nb",
            "\0\u{85}\u{feff}",
            "---",
        ];
        let values: Vec<Value> = strings.iter().map(|&s| s.into()).collect();
        let keys: Value = strings.iter().map(|&s| (s, 1)).collect();
        let object = serde_json::json!({"kind": "A", "values": values, "keys": keys, "none": [[], {}, null, true, 1, -1.5]});
        let yaml = to_yaml(&[object.clone(), object.clone()]);
        assert_eq!(parse(&yaml).unwrap(), [object.clone(), object], "{yaml}");
    }
}

//! The bodies that are posted: AdmissionReviews that a real API server sent, each varied in its uid,
//! its name and its images, so that no cache sees the same bytes twice in a row.

use std::path::Path;

use serde_json::Value;

use super::{Outcome, workload};

/// Reviews of one size class.
pub(crate) struct Bodies {
    bodies: Vec<Vec<u8>>,
}

/// Different bodies that are cycled.
const VARIANTS: usize = 50;

/// Rules that the images of the bodies match; see [`workload::rules_text`].
pub(crate) const RULES: usize = 1_000;

impl Bodies {
    /// Variants of `examples/reviews/review-SIZE.json`.
    pub(crate) fn of_size(size: &str) -> Outcome<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/reviews")
            .join(format!("review-{size}.json"));
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let review: Value = serde_json::from_str(&text)?;
        let request = review.get("request").ok_or("no request")?;
        let uid = string(request.get("uid"))?;
        let pod = request.get("object").ok_or("no object")?;
        let name = string(pod.pointer("/metadata/generateName"))?;
        let images = images(pod)?;
        let bodies = (0..VARIANTS).map(|n| {
            let mut body = text.replace(uid, &varied_uid(uid, n));
            body = body.replace(name, &format!("web-{n}-"));
            for (i, image) in images.iter().enumerate() {
                // Four Pods in five get a secret for each of their images.
                let new = match n % 5 {
                    4 => format!("docker.io/library/nginx:1.{n}.{i}"),
                    _ => workload::matching_image(workload::scatter(n * 8 + i) % RULES, n),
                };
                body = body.replace(&format!("\"{image}\""), &format!("\"{new}\""));
            }
            body.into_bytes()
        });
        Ok(Self {
            bodies: bodies.collect(),
        })
    }

    /// All of them, once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bodies.iter().map(Vec::as_slice)
    }

    /// `count` of them, starting again where they end.
    pub(crate) fn cycle(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        self.bodies.iter().map(Vec::as_slice).cycle().take(count)
    }

    /// Mean length, in bytes.
    pub(crate) fn mean_bytes(&self) -> usize {
        self.iter().map(<[u8]>::len).sum::<usize>() / self.bodies.len().max(1)
    }
}

fn images(pod: &Value) -> Outcome<Vec<&str>> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers
        .ok_or("no containers")?
        .iter()
        .map(|container| string(container.get("image")))
        .collect()
}

fn string(value: Option<&Value>) -> Outcome<&str> {
    Ok(value.and_then(Value::as_str).ok_or("not a string")?)
}

/// A uid of the same length.
fn varied_uid(uid: &str, n: usize) -> String {
    let tail = format!("{n:012x}");
    let head: String = uid.chars().take(uid.len() - tail.len()).collect();
    head + &tail
}

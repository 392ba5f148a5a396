//! The JSON Patch (RFC 6902) that adds pull secrets to a Pod.
//!
//! Only two shapes exist, because a patch that decodes but does not apply gets the Pod refused
//! whatever the `failurePolicy` says (kubernetes issue 129459): `add` of the whole list where there is
//! none, and `add` at its end. This module must never write `test`, `replace` or `remove`, and never
//! another field.

use serde::Serialize;

use super::decision::Decision;

/// A Secret of the Pod's namespace, by name.
#[derive(Serialize)]
struct LocalObjectReference<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Add<V> {
    op: &'static str,
    path: &'static str,
    value: V,
}

/// Room for the patch of a few secrets with names of ordinary length.
const PATCH_BYTES_TYPICAL: usize = 256;

/// The patch as JSON; `None` where there is nothing to add.
pub fn to_json(decision: &Decision<'_>) -> Option<Vec<u8>> {
    if decision.inject.is_empty() {
        return None;
    }
    let names = decision
        .inject
        .iter()
        .map(|&name| LocalObjectReference { name });
    let mut json = Vec::with_capacity(PATCH_BYTES_TYPICAL);
    let written = if decision.list_is_empty {
        let value = Sequence(names);
        serde_json::to_writer(
            &mut json,
            &[Add {
                op: "add",
                path: "/spec/imagePullSecrets",
                value,
            }],
        )
    } else {
        let path = "/spec/imagePullSecrets/-";
        serde_json::to_writer(
            &mut json,
            &Sequence(names.map(|value| Add {
                op: "add",
                path,
                value,
            })),
        )
    };
    debug_assert!(written.is_ok(), "strings always serialize");
    Some(json)
}

/// An iterator written as a JSON array.
struct Sequence<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Sequence<I> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

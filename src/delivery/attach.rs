//! Entries in the `imagePullSecrets` of ServiceAccounts, for who comes from a tool that patches them.
//!
//! The API server takes that list only whole, and has other writers. So it is changed by a JSON patch that
//! tests the version it was made for: it appends, and takes out what this installation appended before,
//! and moves nothing else. Which entries those are, says the annotation [`ATTACHED`]: what was in the list
//! without us is never in it, and so never taken out. This file must not decide who may have an entry.

use std::sync::Arc;

use serde_json::{Value, json};

use super::copy::{Instance, Versioned};

/// Annotation of a ServiceAccount with the entries that were appended: `<instance>/<name>`, with commas
/// between them. The instance tells releases of one cluster apart; neither part can hold a `/` or a comma,
/// so that any text can be read, and what others wrote stays as it is.
pub const ATTACHED: &str = "pullpass.dev/attached";
/// The same in a JSON pointer.
const ATTACHED_POINTER: &str = "/metadata/annotations/pullpass.dev~1attached";

/// What is kept of a ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The list, in order; empty if there is none.
    names: Box<[Arc<str>]>,
    /// What this installation appended, whether or not it is still there.
    ours: Box<[Arc<str>]>,
    /// What [`ATTACHED`] says of others.
    others: Box<str>,
    has_annotations: bool,
    /// Which version of it this is.
    resource_version: Box<str>,
}

/// An entry that a ServiceAccount may have.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Name of the Secret.
    pub name: &'a Arc<str>,
    /// Whether it is appended where it is not; otherwise it stays where it is.
    pub is_due: bool,
}

/// What is to be changed in a ServiceAccount.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a> {
    account: &'a Account,
    /// To be appended.
    missing: Vec<&'a Arc<str>>,
    /// Ours, to be taken out of annotation and list.
    ended: Vec<&'a Arc<str>>,
}

impl Versioned for Account {
    fn version(&self) -> &str {
        &self.resource_version
    }
}

impl Account {
    /// What `instance` keeps of a ServiceAccount with this list, [`ATTACHED`] and version.
    pub fn new(
        instance: &Instance,
        names: impl IntoIterator<Item = Arc<str>>,
        (has_annotations, attached): (bool, &str),
        resource_version: &str,
    ) -> Self {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for item in attached.split(',').filter(|item| !item.is_empty()) {
            match item.split_once('/') {
                Some((of, name)) if of == instance.as_str() => ours.push(Arc::from(name)),
                _ => others.push(item),
            }
        }
        Self {
            names: names.into_iter().collect(),
            ours: ours.into(),
            others: others.join(",").into(),
            has_annotations,
            resource_version: resource_version.into(),
        }
    }

    /// What this installation appended.
    pub fn ours(&self) -> &[Arc<str>] {
        &self.ours
    }

    /// Whether its Pods are given this Secret.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|entry| **entry == *name)
    }

    /// What is to be changed, if these are the entries that it may have; `None` if nothing is.
    pub fn change<'a>(&'a self, wishes: &[Wish<'a>]) -> Option<Change<'a>> {
        let missing = wishes
            .iter()
            .filter(|wish| wish.is_due && !self.has(wish.name));
        let is_wished = |name: &Arc<str>| wishes.iter().any(|wish| wish.name == name);
        let change = Change {
            account: self,
            missing: missing.map(|wish| wish.name).collect(),
            ended: self.ours.iter().filter(|name| !is_wished(name)).collect(),
        };
        (!change.missing.is_empty() || !change.ended.is_empty()).then_some(change)
    }
}

impl Change<'_> {
    /// The `resourceVersion` that it fits.
    pub fn version(&self) -> &str {
        self.account.version()
    }

    /// It as a JSON patch (RFC 6902), which fits this very version only.
    pub fn patch(&self, instance: &Instance) -> Value {
        let version = self.version();
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
        let parts = [vec![test], self.removals(), self.additions()].concat();
        let parts = parts.into_iter().chain(self.annotation(instance));
        parts.collect()
    }

    /// From the end, so that no removal moves what another means.
    fn removals(&self) -> Vec<Value> {
        let names = &self.account.names;
        let position = |ended: &&Arc<str>| names.iter().position(|name| name == *ended);
        let mut positions: Vec<_> = self.ended.iter().filter_map(position).collect();
        positions.sort_unstable();
        positions.dedup();
        let removal =
            |position| json!({"op": "remove", "path": format!("/imagePullSecrets/{position}")});
        positions.into_iter().rev().map(removal).collect()
    }

    fn additions(&self) -> Vec<Value> {
        let entries = self.missing.iter().map(|name| json!({"name": &***name}));
        if self.missing.is_empty() {
            return Vec::new();
        }
        // An empty list is stored as none.
        if self.account.names.is_empty() {
            let list: Value = entries.collect();
            return vec![json!({"op": "add", "path": "/imagePullSecrets", "value": list})];
        }
        let append = |entry| json!({"op": "add", "path": "/imagePullSecrets/-", "value": entry});
        entries.map(append).collect()
    }

    /// What [`ATTACHED`] should say, if that is something else than it says.
    fn annotation(&self, instance: &Instance) -> Option<Value> {
        let Account { ours, others, .. } = self.account;
        let is_put_back =
            self.ended.is_empty() && self.missing.iter().all(|name| ours.contains(name));
        if is_put_back {
            return None;
        }
        let stay = ours.iter().filter(|name| !self.ended.contains(name));
        let new = self.missing.iter().filter(|name| !ours.contains(name));
        let recorded = stay.chain(new.copied());
        let recorded = recorded.map(|name| format!("{}/{name}", instance.as_str()));
        let others = Some(others.to_string()).filter(|others| !others.is_empty());
        let text: Vec<String> = others.into_iter().chain(recorded).collect();
        let text = text.join(",");
        Some(if text.is_empty() {
            json!({"op": "remove", "path": ATTACHED_POINTER})
        } else if self.account.has_annotations {
            json!({"op": "add", "path": ATTACHED_POINTER, "value": text})
        } else {
            json!({"op": "add", "path": "/metadata/annotations", "value": {ATTACHED: text}})
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance() -> Instance {
        Instance::new("pullpass", "pullpass")
    }

    /// A ServiceAccount as the API server has it.
    fn object(names: &[&str], annotations: Option<&str>) -> Value {
        let mut object = json!({"metadata": {"resourceVersion": "7"}});
        if !names.is_empty() {
            object["imagePullSecrets"] = names.iter().map(|name| json!({"name": name})).collect();
        }
        if let Some(text) = annotations {
            object["metadata"]["annotations"] = json!({"other": "x"});
            if !text.is_empty() {
                object["metadata"]["annotations"][ATTACHED] = text.into();
            }
        }
        object
    }

    fn names(object: &Value) -> Vec<String> {
        let list = object["imagePullSecrets"].as_array().into_iter().flatten();
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        list.map(name).collect()
    }

    fn read(object: &Value) -> Account {
        let annotations = object["metadata"].get("annotations");
        let attached = annotations.and_then(|all| all[ATTACHED].as_str());
        Account::new(
            &instance(),
            names(object).into_iter().map(Arc::from),
            (annotations.is_some(), attached.unwrap_or_default()),
            object["metadata"]["resourceVersion"].as_str().unwrap(),
        )
    }

    /// What the API server makes of it; `None` if nothing is to be changed.
    fn attach(before: &Value, wishes: &[(&str, bool)]) -> Option<Value> {
        let names: Vec<Arc<str>> = wishes.iter().map(|(name, _)| Arc::from(*name)).collect();
        let wishes = names.iter().zip(wishes);
        let wishes: Vec<_> = wishes
            .map(|(name, &(_, is_due))| Wish { name, is_due })
            .collect();
        let account = read(before);
        let patch = account.change(&wishes)?.patch(&instance());
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        let mut after = before.clone();
        json_patch::patch(&mut after, &patch).unwrap();
        let mut changed = before.clone();
        changed["metadata"]["resourceVersion"] = json!("8");
        json_patch::patch(&mut changed, &patch).unwrap_err();
        Some(after)
    }

    const OURS: &str = "pullpass.pullpass/harbor";

    fn check(before: &Value, wishes: &[(&str, bool)], after: Option<&Value>) {
        assert_eq!(attach(before, wishes).as_ref(), after, "{before}");
    }

    #[test]
    fn incident_03_entries_are_appended_and_nothing_else_is_changed() {
        let harbor = &[("harbor", true)];
        let mut first = object(&["harbor"], None);
        first["metadata"]["annotations"] = json!({ATTACHED: OURS});
        check(&object(&[], None), harbor, Some(&first));
        check(
            &object(&["x"], Some("")),
            harbor,
            Some(&object(&["x", "harbor"], Some(OURS))),
        );
        check(&object(&["x", "harbor"], Some(OURS)), harbor, None);
        // As it was before us, and so nobody's to take out.
        check(&object(&["harbor", "x"], None), harbor, None);
        check(&object(&["harbor", "x"], None), &[], None);
    }

    #[test]
    fn scenario_36_an_entry_that_was_taken_out_is_put_back() {
        check(
            &object(&["x"], Some(OURS)),
            &[("harbor", true)],
            Some(&object(&["x", "harbor"], Some(OURS))),
        );
        // Without a source, nothing is put anywhere, and what is there stays.
        check(&object(&["x"], Some(OURS)), &[("harbor", false)], None);
        check(&object(&[], None), &[("harbor", false)], None);
        check(&object(&["harbor"], Some(OURS)), &[("harbor", false)], None);
    }

    #[test]
    fn incident_21_only_what_was_appended_is_taken_out() {
        check(
            &object(&["harbor", "x"], Some(OURS)),
            &[],
            Some(&object_with_empty_annotation(&["x"])),
        );
        check(
            &object(&["x"], Some(OURS)),
            &[],
            Some(&object_with_empty_annotation(&["x"])),
        );
        let both = "pullpass.pullpass/harbor,pullpass.pullpass/aliyun";
        check(
            &object(&["x", "harbor", "y", "aliyun"], Some(both)),
            &[("aliyun", true)],
            Some(&object(
                &["x", "y", "aliyun"],
                Some("pullpass.pullpass/aliyun"),
            )),
        );
    }

    fn object_with_empty_annotation(names: &[&str]) -> Value {
        object(names, Some(""))
    }

    #[test]
    fn what_others_recorded_stays() {
        let theirs = "b.c/other,nonsense";
        let both = format!("{theirs},{OURS}");
        check(
            &object(&["other"], Some(theirs)),
            &[("harbor", true)],
            Some(&object(&["other", "harbor"], Some(&both))),
        );
        check(
            &object(&["other", "harbor"], Some(&both)),
            &[],
            Some(&object(&["other"], Some(theirs))),
        );
    }

    fn any_names() -> impl Strategy<Value = Vec<&'static str>> {
        let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("x")];
        proptest::collection::vec(name, 0..6)
    }

    proptest! {
        /// Any account, any wishes: one patch, and then nothing is left to do; entries that were not
        /// recorded as ours are all there, in their order.
        #[test]
        fn incident_04_a_patch_loses_nobodys_entry_and_leaves_nothing_to_do(
            list in any_names(),
            recorded in proptest::option::of(any_names()),
            wishes in proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3),
            due in proptest::collection::vec(any::<bool>(), 3),
        ) {
            let recorded: Option<Vec<_>> = recorded.map(|names| {
                let item = |name: &&str| format!("pullpass.pullpass/{name}");
                names.iter().map(item).collect()
            });
            let recorded = recorded.map(|items| items.join(","));
            let before = object(&list, recorded.as_deref());
            let wishes: Vec<_> = wishes.into_iter().zip(due).collect();
            let ours = read(&before).ours;
            let after = attach(&before, &wishes);
            if let Some(after) = &after {
                prop_assert_eq!(attach(after, &wishes), None, "{}", after);
                for (name, is_due) in &wishes {
                    prop_assert!(!is_due || names(after).iter().any(|entry| entry == name));
                }
                let of_others = |object: &Value| {
                    let mut names = names(object);
                    names.retain(|name| !ours.iter().any(|our| **our == **name));
                    names
                };
                let kept = of_others(after);
                prop_assert!(kept.starts_with(&of_others(&before)), "{}", after);
                prop_assert_eq!(&after["metadata"]["annotations"]["other"], &before["metadata"]["annotations"]["other"]);
            }
        }
    }
}

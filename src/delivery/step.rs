//! The one next step for one Secret of one namespace, from what is wanted and what is there.
//!
//! What is not ours, and not to be adopted, is never written, whatever is wanted. Steps are taken one at
//! a time and then looked at again; at their end there is nothing left to do, which a property test holds.

use crate::credential::SecretType;
use crate::rules::config::Adopt;

use super::copy::{ContentHash, Observed};

/// What should become of a Secret.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// Not ours to decide now: too little is known, or the namespace is going away.
    Unknown,
    /// A copy of ours does not belong here.
    Gone,
    /// A copy that is there stays; there is nothing it could be made of.
    Kept,
    /// A copy with this content.
    Holding(Content<'a>),
}

/// What a copy should hold.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Its type.
    pub kind: SecretType,
    /// Of type and payload.
    pub hash: ContentHash,
    /// Whose Secrets are taken over for it.
    pub adopt: &'a [Adopt],
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// A Secret where there is none. Must fail where there is one.
    Create,
    /// The copy's fields over this very version, in place.
    Apply,
    /// This very version is deleted, so that it can be created: its data cannot be changed.
    Recreate,
    /// This very version is deleted.
    Delete,
}

/// How one copy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyState {
    /// There, with the source's content.
    Present,
    /// Wanted and not there.
    Missing,
    /// There, with another content than the source's, or the source is gone or unusable.
    Stale,
    /// Somebody else's Secret has its name.
    Foreign,
}

/// What is to be done, and how the copy is doing before it; no state where none is wanted.
pub fn next(wanted: Wanted<'_>, there: Option<&Observed>) -> (Step, Option<CopyState>) {
    match (wanted, there) {
        (Wanted::Unknown, _) | (Wanted::Gone, None) => (Step::Nothing, None),
        (Wanted::Gone, Some(secret)) if secret.is_ours() && !secret.is_terminating => {
            (Step::Delete, None)
        }
        (Wanted::Gone, Some(_)) => (Step::Nothing, None),
        (Wanted::Kept, None) => (Step::Nothing, Some(CopyState::Missing)),
        (Wanted::Kept, Some(secret)) => (Step::Nothing, Some(out_of_date(secret))),
        (Wanted::Holding(_), None) => (Step::Create, Some(CopyState::Missing)),
        // Its end will be seen, and then it is created.
        (Wanted::Holding(_), Some(secret)) if secret.is_terminating => {
            (Step::Nothing, Some(CopyState::Missing))
        }
        (Wanted::Holding(content), Some(secret)) => hold(content, secret),
    }
}

fn hold(content: Content<'_>, secret: &Observed) -> (Step, Option<CopyState>) {
    if secret.is_copy_of(content.hash) {
        return (Step::Nothing, Some(CopyState::Present));
    }
    let is_writable = secret.is_ours() || secret.is_adopted_by(content.adopt);
    // The API server keeps types for ever, and data that is immutable; labels it lets go.
    let holds_it = secret.hash == Some(content.hash);
    let can_change = secret.kind == Some(content.kind) && !secret.is_immutable;
    let step = match (is_writable, holds_it || can_change) {
        (false, _) => Step::Nothing,
        (true, true) => Step::Apply,
        (true, false) => Step::Recreate,
    };
    (step, Some(out_of_date(secret)))
}

fn out_of_date(secret: &Observed) -> CopyState {
    if secret.is_ours() {
        CopyState::Stale
    } else {
        CopyState::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::copy::{INSTANCE, Instance, MANAGED_BY, SOURCE_HASH, SecretView};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What the API server stores.
    #[derive(Debug, Clone, PartialEq)]
    struct Stored {
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        type_name: &'static str,
        payload: Option<&'static [u8]>,
        is_immutable: bool,
        is_terminating: bool,
        version: u32,
    }

    const JSON: &str = "kubernetes.io/dockerconfigjson";
    const CFG: &str = "kubernetes.io/dockercfg";
    const NEW: &[u8] = br#"{"auths":{"r.io":{"username":"u","password":"new"}}}"#;
    const OLD: &[u8] = br#"{"auths":{"r.io":{"username":"u","password":"old"}}}"#;

    fn ours() -> Instance {
        Instance::new("pullpass", "pullpass")
    }

    fn hash(payload: &[u8]) -> ContentHash {
        ContentHash::of(SecretType::DockerConfigJson, payload)
    }

    impl Stored {
        /// A Secret that nobody labelled.
        fn foreign(type_name: &'static str, payload: &'static [u8]) -> Self {
            Self {
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                type_name,
                payload: (type_name != "Opaque").then_some(payload),
                is_immutable: false,
                is_terminating: false,
                version: 1,
            }
        }

        /// A copy as it should be.
        fn copy(payload: &'static [u8]) -> Self {
            let annotation = (SOURCE_HASH.to_owned(), hash(payload).to_string());
            Self {
                labels: ours().labels(),
                annotations: [annotation].into(),
                ..Self::foreign(JSON, payload)
            }
        }

        fn labelled(mut self, labels: BTreeMap<String, String>) -> Self {
            self.labels = labels;
            self
        }

        fn unmarked(mut self) -> Self {
            self.annotations.clear();
            self
        }

        fn immutable(mut self) -> Self {
            self.is_immutable = true;
            self
        }

        fn terminating(mut self) -> Self {
            self.is_terminating = true;
            self
        }

        fn observed(&self) -> Observed {
            let view = SecretView {
                labels: &self.labels,
                annotations: &self.annotations,
                type_name: self.type_name,
                payload: self.payload,
                is_immutable: self.is_immutable,
                is_terminating: self.is_terminating,
                resource_version: &self.version.to_string(),
                uid: "u",
            };
            Observed::new(&view, &ours())
        }
    }

    fn holding(adopt: &[Adopt]) -> Wanted<'_> {
        Wanted::Holding(Content {
            kind: SecretType::DockerConfigJson,
            hash: hash(NEW),
            adopt,
        })
    }

    fn check(wanted: Wanted<'_>, there: Option<&Stored>, step: Step, state: Option<CopyState>) {
        let observed = there.map(Stored::observed);
        let found = next(wanted, observed.as_ref());
        assert_eq!(found, (step, state), "{wanted:?} {there:?}");
    }

    #[test]
    fn a_copy_is_made_kept_and_changed_in_place() {
        use CopyState::{Missing, Present, Stale};
        let hold = |there: Option<Stored>, step, state| {
            check(holding(&[]), there.as_ref(), step, Some(state));
        };
        hold(None, Step::Create, Missing);
        hold(Some(Stored::copy(NEW)), Step::Nothing, Present);
        hold(Some(Stored::copy(NEW).immutable()), Step::Nothing, Present);
        hold(Some(Stored::copy(OLD)), Step::Apply, Stale);
        hold(Some(Stored::copy(NEW).unmarked()), Step::Apply, Stale);
        hold(
            Some(Stored::copy(NEW).unmarked().immutable()),
            Step::Apply,
            Stale,
        );
        hold(
            Some(Stored::copy(NEW).terminating()),
            Step::Nothing,
            Missing,
        );
    }

    #[test]
    fn a_copy_that_cannot_be_changed_is_made_again() {
        let labels = ours().labels();
        let again = |there: Stored| {
            check(
                holding(&[]),
                Some(&there),
                Step::Recreate,
                Some(CopyState::Stale),
            );
        };
        again(Stored::copy(OLD).immutable());
        again(Stored::foreign(CFG, NEW).labelled(labels.clone()));
        again(Stored::foreign("Opaque", NEW).labelled(labels));
    }

    #[test]
    fn incident_07_what_is_not_ours_is_never_written() {
        let instance = (INSTANCE.to_owned(), ours().as_str().to_owned());
        for secret in [
            Stored::foreign(JSON, NEW),
            Stored::foreign("Opaque", NEW),
            Stored::copy(OLD).labelled(Instance::new("b", "c").labels()),
            Stored::copy(OLD).labelled([instance].into()),
        ] {
            for wanted in [holding(&[]), holding(&[Adopt::Kyverno]), Wanted::Kept] {
                check(
                    wanted,
                    Some(&secret),
                    Step::Nothing,
                    Some(CopyState::Foreign),
                );
            }
            check(Wanted::Gone, Some(&secret), Step::Nothing, None);
        }
    }

    #[test]
    fn copies_stay_without_a_source_and_go_without_a_permission() {
        let copy = Stored::copy(NEW);
        check(Wanted::Kept, None, Step::Nothing, Some(CopyState::Missing));
        check(
            Wanted::Kept,
            Some(&copy),
            Step::Nothing,
            Some(CopyState::Stale),
        );
        check(Wanted::Gone, None, Step::Nothing, None);
        check(Wanted::Gone, Some(&copy), Step::Delete, None);
        check(
            Wanted::Gone,
            Some(&copy.clone().immutable()),
            Step::Delete,
            None,
        );
        check(
            Wanted::Gone,
            Some(&copy.clone().terminating()),
            Step::Nothing,
            None,
        );
        check(Wanted::Unknown, None, Step::Nothing, None);
        check(Wanted::Unknown, Some(&copy), Step::Nothing, None);
    }

    #[test]
    fn scenario_39_what_is_adopted_is_taken_over_in_place_where_it_can_be() {
        let kyverno = (MANAGED_BY.0.to_owned(), "kyverno".to_owned());
        let cloned = |type_name, payload| {
            Stored::foreign(type_name, payload).labelled([kyverno.clone()].into())
        };
        for (there, step) in [
            (cloned(JSON, NEW), Step::Apply),
            (cloned(JSON, OLD), Step::Apply),
            (cloned(CFG, NEW), Step::Recreate),
            (cloned(JSON, OLD).immutable(), Step::Recreate),
        ] {
            let found = next(holding(&[Adopt::Kyverno]), Some(&there.observed()));
            assert_eq!(found, (step, Some(CopyState::Foreign)), "{there:?}");
            let unasked = next(holding(&[]), Some(&there.observed()));
            assert_eq!(unasked.0, Step::Nothing);
        }
    }

    /// What the API server makes of a step, if it does not refuse it.
    fn take(step: Step, there: Option<Stored>) -> Option<Stored> {
        match (step, there) {
            (Step::Nothing, there) => there,
            (Step::Create, None) => Some(Stored::copy(NEW)),
            (Step::Apply, Some(mut stored)) => {
                let copy = Stored::copy(NEW);
                let changes = stored.payload != copy.payload || stored.type_name != copy.type_name;
                assert!(!changes || !stored.is_immutable, "refused: immutable");
                assert_eq!(stored.type_name, copy.type_name, "refused: type");
                stored.labels.extend(copy.labels);
                stored.annotations.extend(copy.annotations);
                stored.payload = copy.payload;
                stored.version += 1;
                Some(stored)
            }
            (Step::Recreate, Some(_)) => take(Step::Create, None),
            (Step::Delete, Some(_)) => None,
            (step, there) => panic!("{step:?} on {there:?}"),
        }
    }

    fn any_stored() -> impl Strategy<Value = Stored> {
        let labels = prop_oneof![
            Just(BTreeMap::new()),
            Just(ours().labels()),
            Just(Instance::new("b", "c").labels()),
            Just(BTreeMap::from([(
                MANAGED_BY.0.to_owned(),
                "kyverno".to_owned()
            )])),
        ];
        let annotation = prop_oneof![
            Just(None),
            Just(Some(hash(NEW).to_string())),
            Just(Some(hash(OLD).to_string())),
            Just(Some("nonsense".to_owned())),
        ];
        let type_name = prop_oneof![Just(JSON), Just(CFG), Just("Opaque")];
        let payload = prop_oneof![Just(NEW), Just(OLD), Just(&b"{"[..])];
        let all = (
            labels,
            annotation,
            type_name,
            payload,
            any::<bool>(),
            any::<bool>(),
        );
        all.prop_map(
            |(labels, annotation, type_name, payload, is_immutable, is_terminating)| {
                let annotation = annotation.map(|hash| (SOURCE_HASH.to_owned(), hash));
                Stored {
                    labels,
                    annotations: annotation.into_iter().collect(),
                    is_immutable,
                    is_terminating,
                    ..Stored::foreign(type_name, payload)
                }
            },
        )
    }

    proptest! {
        /// Any Secret, any wish: one step, and then nothing is left to do; what is not ours is as it was.
        #[test]
        fn figure_p8_steps_reach_a_point_at_which_nothing_is_written(
            before in proptest::option::of(any_stored()),
            wish in 0..5,
        ) {
            let adopt = [Adopt::Kyverno];
            let wanted = match wish {
                0 => Wanted::Unknown,
                1 => Wanted::Gone,
                2 => Wanted::Kept,
                3 => holding(&[]),
                _ => holding(&adopt),
            };
            let observe = |there: &Option<Stored>| there.as_ref().map(Stored::observed);
            let (step, _) = next(wanted, observe(&before).as_ref());
            let after = take(step, before.clone());
            let (again, state) = next(wanted, observe(&after).as_ref());
            prop_assert_eq!(again, Step::Nothing, "{:?}", after);
            let touchable = observe(&before).is_none_or(|secret| {
                secret.is_ours() || (wish == 4 && secret.is_adopted_by(&adopt))
            });
            if touchable {
                let is_settled = before.as_ref().is_some_and(|stored| stored.is_terminating);
                let expected = wish < 3 || is_settled || state == Some(CopyState::Present);
                prop_assert!(expected, "{state:?} {after:?}");
            } else {
                prop_assert_eq!(after, before);
            }
        }
    }
}

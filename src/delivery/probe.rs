//! Which credentials registries are asked about, and what is known of the answers.
//!
//! An answer is one about a payload: with another payload it is as if nobody had asked. Whoever leads next
//! goes by what was published until it has asked itself. This file must not know how to ask.

use std::sync::Arc;

use crate::index::document::{ProbeDocument, ProbeResult};
use crate::rules::config::ProbeConfig;

use super::copy::ContentHash;
use super::plan::Entry;
use super::source::Payload;
use super::state::State;

/// Something to ask a registry.
#[derive(Debug, Clone)]
pub struct Question {
    /// Which registry, and how often.
    pub probe: Arc<ProbeConfig>,
    /// What it holds is asked about.
    pub payload: Arc<Payload>,
}

/// What a registry said of a payload.
#[derive(Debug, PartialEq)]
pub struct Answered {
    hash: ContentHash,
    said: ProbeDocument,
}

/// The same question has the same answer.
impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.payload.hash == other.payload.hash && self.probe == other.probe
    }
}

impl State {
    /// Everything that is to be asked, by the entry's name.
    pub fn questions(&self) -> impl Iterator<Item = (&Arc<str>, Question)> {
        self.entries().iter().filter_map(|entry| {
            let question = Question {
                probe: Arc::clone(entry.probe.as_ref()?),
                payload: Arc::clone(self.payload(entry)?),
            };
            Some((&entry.name, question))
        })
    }

    /// Notes an answer, unless something else is asked by now. Gives whether that is news.
    pub fn answer(&mut self, name: &Arc<str>, question: &Question, result: ProbeResult) -> bool {
        let is_current = |(of, current): (&Arc<str>, Question)| of == name && current == *question;
        if !self.questions().any(is_current) {
            return false;
        }
        let asked = question.probe.asked();
        let answered = Answered {
            hash: question.payload.hash,
            said: ProbeDocument { asked, result },
        };
        let is_news = self.answers.get(name) != Some(&answered);
        self.answers.insert(Arc::clone(name), answered);
        is_news
    }

    /// Forgets what this process was told. Nothing that is written follows.
    pub fn forget_answers(&mut self) -> bool {
        self.answers.clear();
        false
    }

    /// What the registry says of what copies of an entry hold; `None` where it was not asked.
    pub fn probed(&self, entry: &Entry) -> Option<&ProbeResult> {
        Some(&self.probe_document(entry)?.result)
    }

    /// The same, to be published.
    pub(super) fn probe_document(&self, entry: &Entry) -> Option<&ProbeDocument> {
        let asked = entry.probe.as_ref()?.asked();
        let hash = self.payload(entry)?.hash;
        let own = self.answers.get(&entry.name);
        let own = own.filter(|own| own.hash == hash).map(|own| &own.said);
        own.filter(|said| said.asked == asked).or_else(|| {
            let published = self.published.as_ref()?.as_ref()?;
            let secret = published.secrets.get(&*entry.name)?;
            let said = secret.probe.as_ref()?;
            (secret.hash == hash.to_string() && said.asked == asked).then_some(said)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::state::tests::{set_source, state as state_of};
    use crate::delivery::survey::Topic;
    use crate::index::IndexDocument;

    const PROBED: &str = "{name: harbor, probe: {repository: r.io/app}}";

    fn rejected() -> ProbeResult {
        let reason = "r.io refuses".to_owned();
        ProbeResult::Rejected { reason }
    }

    fn question(state: &State) -> (Arc<str>, Question) {
        let (name, question) = state.questions().next().unwrap();
        (Arc::clone(name), question)
    }

    fn published(state: &State) -> Option<ProbeResult> {
        let index = state.index().unwrap();
        let document = index.secrets["harbor"].probe.clone();
        document.map(|document| document.result)
    }

    #[test]
    fn only_what_the_rules_say_is_asked_and_only_what_is_there() {
        let state = state_of("{name: harbor}, {name: later, probe: {repository: r.io/app}}");
        assert_eq!(state.questions().count(), 0);
        let (name, question) = question(&state_of(PROBED));
        assert_eq!(&*name, "harbor");
        assert_eq!(question.probe.repository, "r.io/app");
    }

    #[test]
    fn scenario_56_an_answer_is_published_and_the_same_again_is_no_news() {
        let mut state = state_of(PROBED);
        assert_eq!(published(&state), None);
        let (name, question) = question(&state);
        assert!(state.answer(&name, &question, rejected()));
        assert_eq!(published(&state), Some(rejected()));
        assert!(!state.answer(&name, &question, rejected()));
        let findings = state.findings(&state.survey());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].topic, Topic::CredentialRejected(name.clone()));
        assert!(findings[0].note.contains("r.io refuses"), "{findings:?}");
        assert!(state.answer(&name, &question, ProbeResult::Accepted));
        assert_eq!(published(&state), Some(ProbeResult::Accepted));
        assert_eq!(state.findings(&state.survey()), []);
    }

    #[test]
    fn scenario_56_a_rejection_ends_with_its_payload_and_its_question() {
        let mut state = state_of(PROBED);
        let (name, question) = question(&state);
        state.answer(&name, &question, rejected());
        state.published = Some(state.index());
        // Another controller leads.
        state.answers.clear();
        assert_eq!(published(&state), Some(rejected()));
        let other = br#"{"auths":{"r.io":{"username":"u","password":"other"}}}"#;
        set_source(&mut state, other);
        assert_eq!(published(&state), None);
        // The answer to what was asked before comes late.
        state.answer(&name, &question, rejected());
        assert_eq!(published(&state), None);
        state.own_sources.remove(&"harbor".into());
        assert_eq!(published(&state), None);
        state.rules = state_of("{name: harbor}").rules;
        assert_eq!(published(&state), None);
    }

    #[test]
    fn scenario_56_what_was_published_answers_what_was_asked_and_nothing_else() {
        let check = |probe: &str, expected: Option<ProbeResult>| {
            let mut state = state_of(PROBED);
            let (name, question) = question(&state);
            state.answer(&name, &question, rejected());
            state.published = Some(state.index());
            state.rules = state_of(&format!("{{name: harbor, probe: {{{probe}}}}}")).rules;
            // By who leads, and by who leads next.
            assert_eq!(published(&state), expected, "{probe}");
            state.answers.clear();
            assert_eq!(published(&state), expected, "{probe}");
        };
        check("repository: r.io/app", Some(rejected()));
        let otherwise = "repository: r.io/app, interval: 1h, onRejected: skip";
        check(otherwise, Some(rejected()));
        check("repository: r.io/other", None);
        check("repository: s.io/app", None);
        check("repository: r.io/app, plainHTTP: true", None);
    }

    #[test]
    fn scenario_56_an_index_that_does_not_say_what_was_asked_says_nothing() {
        let mut state = state_of(PROBED);
        let (name, question) = question(&state);
        state.answer(&name, &question, rejected());
        let json = state.index().unwrap().to_json().unwrap();
        let old = json.replace(r#""asked":"https://r.io/app","#, "");
        assert_ne!(old, json);
        state.answers.clear();
        for (json, expected) in [(json, Some(rejected())), (old, None)] {
            state.published = Some(Some(IndexDocument::parse(&json).unwrap()));
            assert_eq!(published(&state), expected, "{json}");
        }
    }
}

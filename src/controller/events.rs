//! Events: what an administrator sees with `kubectl describe` of an object of ours.
//!
//! Only on namespaced objects, in our own namespace; and on a Pod that was evicted, in its own. An Event that cannot be written is a log line:
//! nothing waits for it. No Event holds a byte of a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Who the Events say they are from.
const REPORTER: &str = "pullpass-controller";
/// Longest note, in bytes; the API server takes 1,024.
const NOTE_BYTES_MAX: usize = 1000;

/// What happened, and how an administrator should take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A CA or leaf was made.
    CertificateIssued,
    /// A new CA took over.
    CaRotated,
    /// `caBundle` was written.
    CaBundleApplied,
    /// A certificate was gone or damaged.
    CertificateLost,
    /// Somebody else changed `caBundle`.
    CaBundleOverwritten,
    /// A Secret of our name belongs to somebody else.
    SecretNotOurs,
    /// The rules cannot be used.
    RulesInvalid,
    /// They can be used again.
    RulesValid,
    /// A source is not there.
    SourceMissing,
    /// A source cannot be used.
    SourceUnusable,
    /// It can be used now.
    SourceUsable,
    /// A registry rejects a credential.
    CredentialRejected,
    /// It accepts it again.
    CredentialAccepted,
    /// It does not say.
    ProbeUnanswered,
    /// Somebody else's Secret has the name of a copy.
    CopyNotOurs,
    /// The API server refuses copies.
    CopyRefused,
    /// The API server refuses changes of ServiceAccounts.
    AccountRefused,
    /// RBAC does not let the controller do its work.
    PermissionMissing,
    /// The index does not fit into a ConfigMap.
    IndexTooLarge,
    /// A Pod was evicted, so that it gets a pull secret when it is made anew.
    EvictedForPullSecret,
}

impl Reason {
    fn type_(self) -> EventType {
        match self {
            Self::CertificateIssued
            | Self::CaRotated
            | Self::CaBundleApplied
            | Self::RulesValid
            | Self::SourceUsable
            | Self::CredentialAccepted
            | Self::EvictedForPullSecret => EventType::Normal,
            Self::CertificateLost
            | Self::CaBundleOverwritten
            | Self::SecretNotOurs
            | Self::RulesInvalid
            | Self::SourceMissing
            | Self::SourceUnusable
            | Self::CredentialRejected
            | Self::ProbeUnanswered
            | Self::CopyNotOurs
            | Self::CopyRefused
            | Self::AccountRefused
            | Self::PermissionMissing
            | Self::IndexTooLarge => EventType::Warning,
        }
    }

    /// What the controller was doing.
    fn action(self) -> &'static str {
        match self {
            Self::RulesInvalid | Self::RulesValid => "CheckRules",
            Self::CaBundleApplied | Self::CaBundleOverwritten => "ApplyCaBundle",
            Self::CertificateIssued
            | Self::CaRotated
            | Self::CertificateLost
            | Self::SecretNotOurs => "KeepCertificates",
            Self::CredentialRejected | Self::CredentialAccepted | Self::ProbeUnanswered => {
                "AskRegistry"
            }
            Self::SourceMissing
            | Self::SourceUnusable
            | Self::SourceUsable
            | Self::CopyNotOurs
            | Self::CopyRefused
            | Self::AccountRefused
            | Self::PermissionMissing
            | Self::IndexTooLarge => "Deliver",
            Self::EvictedForPullSecret => "Recover",
        }
    }
}

/// Most notes whose repetitions are known. Each is one state of one pull secret, or of the certificates.
const NOTES_MAX: usize = 100;

/// Writes Events. Repetitions of a note about the same version of an object are counted, not repeated.
#[derive(Clone)]
pub(super) struct Events {
    client: Client,
    /// By note: a recorder goes by the reason, and would count what is new as what was said before.
    recorders: Arc<Mutex<HashMap<String, Recorder>>>,
}

impl Events {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            recorders: Arc::default(),
        }
    }

    fn recorder(&self, note: &str) -> Recorder {
        let mut recorders = self
            .recorders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if recorders.len() >= NOTES_MAX {
            recorders.clear();
        }
        let recorder = recorders.entry(note.to_owned());
        let new = || Recorder::new(self.client.clone(), Reporter::from(REPORTER));
        recorder.or_insert_with(new).clone()
    }

    /// Says `note` about an object, in its namespace.
    pub(super) async fn publish(&self, regarding: &ObjectReference, reason: Reason, note: &str) {
        let event = Event {
            type_: reason.type_(),
            reason: format!("{reason:?}"),
            note: Some(short(note)),
            action: reason.action().to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder(note).publish(&event, regarding).await {
            tracing::warn!(?reason, note, %error, "the Event could not be written");
        }
    }
}

fn short(note: &str) -> String {
    if note.len() <= NOTE_BYTES_MAX {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(NOTE_BYTES_MAX);
    format!("{}…", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit_into_an_event() {
        assert_eq!(short("rules.yaml:1:1: no"), "rules.yaml:1:1: no");
        for letter in ["x", "é", "€", "😀"] {
            let cut = short(&letter.repeat(1024));
            assert!(cut.len() <= 1024 && cut.ends_with('…'), "{}", cut.len());
        }
    }

    #[test]
    fn what_needs_somebody_is_a_warning() {
        for (reason, warns) in [
            (Reason::CertificateIssued, false),
            (Reason::CaRotated, false),
            (Reason::CaBundleApplied, false),
            (Reason::RulesValid, false),
            (Reason::CertificateLost, true),
            (Reason::CaBundleOverwritten, true),
            (Reason::SecretNotOurs, true),
            (Reason::RulesInvalid, true),
            (Reason::SourceUnusable, true),
            (Reason::CopyNotOurs, true),
            (Reason::SourceUsable, false),
            (Reason::EvictedForPullSecret, false),
        ] {
            assert_eq!(reason.type_() == EventType::Warning, warns, "{reason:?}");
        }
    }
}

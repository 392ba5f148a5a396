//! From facts to what is said: each pull secret with its source, its registries and its copies, and what is
//! left to do. Its JSON is what `status -o json` prints. Words for people only; this file must not ask.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::facts::{Expiry, Facts, Unseen};
use super::keys::{WithoutKey, without_key};
use super::restarts::{Restart, restarts};
use crate::delivery::{CopyState, Instance, SourceRef, Step};
use crate::index::IndexDocument;
use crate::index::document::{ProbeResult, SecretDocument, StateDocument};
use crate::installation::Looked;
use crate::rules::config::{Deliver, OnRejected, ProbeConfig, PullSecretConfig};

/// Everything that `status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where pullpass runs.
    pub namespace: String,
    /// Its Helm release.
    pub release: String,
    /// Value of the label `app.kubernetes.io/instance` of its copies.
    pub instance: String,
    /// Whether the controller delivers; `None` if that could not be seen.
    pub delivers: Option<bool>,
    /// Whether the controller has published what it says of these rules; `None` where it need not, or that
    /// could not be seen.
    pub index_is_current: Option<bool>,
    /// The entries of the rules, in order.
    pub pull_secrets: Vec<PullSecretReport>,
    /// Copies that no rule wants any more.
    pub unwanted: Vec<Place>,
    /// Patterns of rules whose pull secrets have no key for them.
    pub without_key: Vec<WithoutKey>,
    /// Pods that wait for an image, and that a restart would help.
    pub restarts: Vec<Restart>,
    /// How many Pods wait for an image, and would not get any other pull secret.
    pub pods_unhelped: usize,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
    /// How many things there are to do: what the exit code goes by.
    pub findings: usize,
}

/// One entry of `pullSecrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullSecretReport {
    /// How rules call it.
    pub name: String,
    /// Name of its copies.
    pub secret_name: String,
    /// `Always`, `OnDemand` or `Never`.
    pub deliver: &'static str,
    /// Where it comes from.
    pub source: SourceReport,
    /// What the webhook was told of it.
    pub index: IndexReport,
    /// What its registry says of it; absent where the rules ask for no probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeReport>,
    /// Registry keys that have a user name and a password, without user info.
    pub registries: Vec<String>,
    /// Credentials that say when they end.
    pub tokens: Vec<TokenReport>,
    /// Its copies; `None` where none are delivered, or they could not be compared.
    pub copies: Option<CopiesReport>,
    /// ServiceAccounts that it is attached to, or should be; absent where there are none, or they could not be
    /// seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountsReport>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// `Secret pullpass/harbor`, `file PATH`, `program PATH`; of what each namespace brings, that.
    pub from: String,
    /// How it is.
    pub state: SourceState,
    /// Why it cannot be used, or gives nothing newer than what is used.
    pub reason: Option<String>,
    /// What makes it usable.
    pub fix: Option<String>,
}

/// How a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// There, and a kubelet can use it.
    Usable,
    /// There is none.
    Missing,
    /// There, and no kubelet can use it.
    Unusable,
    /// It could not be looked at.
    Unseen,
    /// Nobody reads it, or the controller has not said yet how it is.
    NotLookedAt,
}

/// What `index.json` says of a pull secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// `usable`, `stale`, `unusable`, or `unknown` where it says nothing.
    pub state: &'static str,
    /// Why it is unusable or stale.
    pub reason: Option<String>,
}

/// What the controller was told by a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// What the login should be able to pull from.
    pub repository: String,
    /// `accepted`, `rejected` or `unknown`; `None` where the controller has not asked yet.
    pub result: Option<&'static str>,
    /// Why it is no `accepted`.
    pub reason: Option<String>,
    /// Whether it is left out of Pods while it is rejected.
    pub skips: bool,
}

/// A credential that ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenReport {
    /// Its registry key.
    pub key: String,
    /// When, RFC 3339.
    pub expires: String,
    /// Whether that is over.
    pub is_expired: bool,
}

/// Namespaces by what is there, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopiesReport {
    /// A copy with the source's content.
    pub present: Vec<String>,
    /// None, though one is wanted.
    pub missing: Vec<String>,
    /// Somebody else's Secret of that name, which is left alone.
    pub foreign: Vec<String>,
    /// A copy with another content than the source's, or the source is gone.
    pub stale: Vec<String>,
}

/// ServiceAccounts by what is in their lists, as `namespace/name`, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccountsReport {
    /// The entry is there.
    pub attached: Vec<String>,
    /// It should be there and is not.
    pub missing: Vec<String>,
}

/// A Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub secret: String,
}

/// What there is to say at `now`, in seconds since 1970.
pub fn report(facts: &Facts, now: u64) -> Report {
    let names = &facts.names;
    let (mut copies, unwanted) = copies(facts);
    let mut accounts = accounts(facts);
    let entries = facts.entries.iter();
    let entries = entries.filter_map(|&entry| facts.config.pull_secrets.get(entry));
    let pull_secrets: Vec<_> = entries
        .map(|entry| PullSecretReport {
            accounts: accounts.remove(&entry.name),
            ..facts.pull_secret(entry, copies.remove(&entry.name), now)
        })
        .collect();
    let snapshot = facts.snapshot();
    let mut restarts = restarts(&facts.pods, &facts.judge(&snapshot, false));
    let helped: usize = restarts.iter().map(|restart| restart.pods.len()).sum();
    restarts.retain(|restart| {
        pull_secrets
            .iter()
            .any(|secret| restart.adds.contains(&secret.secret_name))
    });
    let mut report = Report {
        namespace: names.namespace.clone(),
        release: names.release.clone(),
        instance: Instance::new(&names.namespace, &names.configuration)
            .as_str()
            .to_owned(),
        delivers: facts.delivers,
        index_is_current: facts.index_is_current(),
        pull_secrets,
        unwanted,
        without_key: without_key(&facts.config, &snapshot, &facts.entries),
        pods_unhelped: facts.pods.len() - helped,
        restarts,
        unseen: facts.unseen.clone(),
        findings: 0,
    };
    report.findings = report.count();
    report
}

/// By the entry's name; and copies that belong nowhere.
fn copies(facts: &Facts) -> (BTreeMap<String, CopiesReport>, Vec<Place>) {
    let mut copies: BTreeMap<String, CopiesReport> = BTreeMap::new();
    let mut unwanted = Vec::new();
    for (namespace, secret) in facts.state.objects() {
        let look = facts.state.look(namespace, secret);
        if look.step == Step::Delete {
            unwanted.push(Place {
                namespace: namespace.to_string(),
                secret: secret.to_string(),
            });
        }
        let Some((entry, state)) = look.entry.zip(look.state) else {
            continue;
        };
        let report = copies.entry(entry.name.to_string()).or_default();
        report.of(state).push(namespace.to_string());
    }
    (copies, unwanted)
}

/// By the entry's name.
fn accounts(facts: &Facts) -> BTreeMap<String, AccountsReport> {
    let mut reports: BTreeMap<String, AccountsReport> = BTreeMap::new();
    for (key, account) in facts.state.accounts.known().into_iter().flatten() {
        let place = || format!("{}/{}", key.0, key.1);
        for (entry, wish) in facts.state.wishes(key).unwrap_or_default() {
            let report = reports.entry(entry.name.to_string()).or_default();
            if account.has(wish.name) {
                report.attached.push(place());
            } else if wish.is_due {
                report.missing.push(place());
            }
        }
    }
    reports
}

impl Report {
    fn count(&self) -> usize {
        let secrets = self.pull_secrets.iter().map(PullSecretReport::findings);
        secrets.sum::<usize>()
            + usize::from(self.index_is_current == Some(false))
            + usize::from(!self.unwanted.is_empty())
            + self.without_key.len()
            + self.restarts.len()
    }
}

impl PullSecretReport {
    /// How many things there are to do about it.
    pub fn findings(&self) -> usize {
        let is_bad = self.source.state.is_bad();
        let expired = self.tokens.iter().filter(|token| token.is_expired);
        let copies = self.copies.iter().flat_map(|copies| {
            // What a source that is gone leaves behind is no second thing to do.
            let stale = if is_bad { &[][..] } else { &copies.stale };
            let missing = if is_bad { &[][..] } else { &copies.missing };
            [missing, &copies.foreign, stale]
        });
        let mut accounts = self.accounts.iter();
        usize::from(is_bad || self.source.reason.is_some())
            + usize::from(self.probe.as_ref().is_some_and(ProbeReport::is_rejected))
            + expired.count()
            + copies.filter(|list| !list.is_empty()).count()
            + usize::from(accounts.any(|accounts| !accounts.missing.is_empty()))
    }
}

impl SourceState {
    /// Whether nothing can be copied for it.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Missing | Self::Unusable)
    }
}

impl CopiesReport {
    fn of(&mut self, state: CopyState) -> &mut Vec<String> {
        match state {
            CopyState::Present => &mut self.present,
            CopyState::Missing => &mut self.missing,
            CopyState::Foreign => &mut self.foreign,
            CopyState::Stale => &mut self.stale,
        }
    }
}

impl Facts {
    fn index_is_current(&self) -> Option<bool> {
        // `None` outside: it was not seen.
        let published = self.state.published.as_ref()?;
        let rules = self.state.rules.as_ref()?;
        let is_current = |index: &IndexDocument| index.rules == rules.hash;
        (self.delivers == Some(true)).then(|| published.as_ref().is_some_and(is_current))
    }

    fn pull_secret(
        &self,
        entry: &PullSecretConfig,
        copies: Option<CopiesReport>,
        now: u64,
    ) -> PullSecretReport {
        let source = self.source_of(entry);
        let seen = source.as_ref().and_then(|source| self.sources.get(source));
        let seen = seen.and_then(Looked::seen);
        let expiries = seen.into_iter().flat_map(|seen| &seen.expiries);
        let published = self.index.as_ref();
        let published = published.and_then(|index| index.secrets.get(&entry.name));
        PullSecretReport {
            name: entry.name.clone(),
            secret_name: entry.secret_name.clone(),
            deliver: match entry.deliver {
                Deliver::Always => "Always",
                Deliver::OnDemand => "OnDemand",
                Deliver::Never => "Never",
            },
            registries: match (published, seen) {
                // As the webhook was told.
                (Some(published), _) => published.keys.clone(),
                (None, Some(seen)) => seen.registries.clone(),
                (None, None) => Vec::new(),
            },
            tokens: expiries.map(|expiry| token(expiry, now)).collect(),
            copies: self.can_compare(entry).then(|| copies.unwrap_or_default()),
            accounts: None,
            source: self.source_report(entry, source.as_ref()),
            index: IndexReport::of(published),
            probe: entry
                .probe
                .as_ref()
                .map(|probe| ProbeReport::of(probe, published)),
        }
    }

    /// Whether all that a copy is judged by was seen.
    fn can_compare(&self, entry: &PullSecretConfig) -> bool {
        let plan = self
            .state
            .rules
            .iter()
            .flat_map(|rules| rules.plan.entries());
        let mut planned = plan.filter(|planned| *planned.name == entry.name);
        planned.any(|planned| self.state.source_of(planned).is_some())
            && self.state.namespaces.known().is_some()
            && self.state.copies.contains_key(&*entry.secret_name)
    }

    fn source_report(&self, entry: &PullSecretConfig, source: Option<&SourceRef>) -> SourceReport {
        let not_looked_at = |from: String| SourceReport {
            from,
            state: SourceState::NotLookedAt,
            reason: None,
            fix: None,
        };
        let Some(source) = source else {
            if entry.deliver == Deliver::Never {
                return not_looked_at("brought by each namespace".to_owned());
            }
            return self.given_report(entry);
        };
        let from = format!("Secret {source}");
        let SourceRef { namespace, name } = source;
        let create = format!(
            "kubectl -n {namespace} create secret docker-registry {name} \
             --docker-server=HOST --docker-username=USER --docker-password=PASSWORD"
        );
        let (state, reason, fix) = match self.sources.get(source) {
            None => return not_looked_at(from),
            Some(Looked::Denied(_) | Looked::Failed(_)) => (SourceState::Unseen, None, None),
            Some(Looked::Absent) => (SourceState::Missing, None, Some(create)),
            Some(Looked::Seen(seen)) => match &seen.unusable {
                None => (SourceState::Usable, None, None),
                Some(reason) => {
                    let delete = format!("kubectl -n {namespace} delete secret {name}");
                    let fix = format!("{delete}; {create}");
                    (SourceState::Unusable, Some(reason.clone()), Some(fix))
                }
            },
        };
        SourceReport {
            from,
            state,
            reason,
            fix,
        }
    }

    /// Of a file or a program, which only the controller sees: by what it published.
    fn given_report(&self, entry: &PullSecretConfig) -> SourceReport {
        let index = self.index.as_ref();
        let published = index.and_then(|index| index.secrets.get(&entry.name));
        let problem = published.map(|published| published.problem.clone());
        let problem = problem.filter(|problem| !problem.is_empty());
        let (state, reason) = match published.map(|published| &published.state) {
            None => (SourceState::NotLookedAt, None),
            Some(StateDocument::Usable) => (SourceState::Usable, problem),
            Some(StateDocument::Stale) => (SourceState::Unusable, problem),
            Some(StateDocument::Unusable { reason }) => {
                (SourceState::Unusable, Some(reason.clone()))
            }
        };
        let fix = "look for it in what the controller has mounted, and try it by hand";
        SourceReport {
            from: entry.source.to_string(),
            state,
            fix: reason.as_ref().map(|_| fix.to_owned()),
            reason,
        }
    }
}

impl IndexReport {
    fn of(published: Option<&SecretDocument>) -> Self {
        let problem = published.map(|secret| secret.problem.clone());
        let problem = problem.filter(|problem| !problem.is_empty());
        let (state, reason) = match published.map(|secret| &secret.state) {
            None => ("unknown", None),
            Some(StateDocument::Usable) => ("usable", None),
            Some(StateDocument::Stale) => ("stale", problem),
            Some(StateDocument::Unusable { reason }) => ("unusable", Some(reason.clone())),
        };
        Self { state, reason }
    }
}

impl ProbeReport {
    fn of(probe: &ProbeConfig, published: Option<&SecretDocument>) -> Self {
        let answer = published.and_then(|secret| secret.probe.as_ref());
        let result = answer.and_then(|answer| answer.answer_to(&probe.asked()));
        Self {
            repository: probe.repository.clone(),
            result: result.map(ProbeResult::as_str),
            reason: match result {
                Some(ProbeResult::Rejected { reason } | ProbeResult::Unknown { reason }) => {
                    Some(reason.clone())
                }
                Some(ProbeResult::Accepted) | None => None,
            },
            skips: probe.on_rejected == OnRejected::Skip,
        }
    }

    /// Whether the registry does not accept the credential.
    pub fn is_rejected(&self) -> bool {
        self.result == Some("rejected")
    }
}

fn token(expiry: &Expiry, now: u64) -> TokenReport {
    let at = i64::try_from(expiry.at).ok();
    let at = at.and_then(|at| Timestamp::from_second(at).ok());
    TokenReport {
        key: expiry.key.clone(),
        // Beyond the year 9999.
        expires: at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
        is_expired: expiry.at <= now,
    }
}

//! Which copies may be deleted, which entries taken out of ServiceAccounts, and what became of each. Pure.
//!
//! Of a controller that is there, only what its rules do not want may go: the rest it would put back at
//! once. What is not labelled as this installation's is never in the list.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::ObjectMeta;
use serde::Serialize;

use super::facts::Unseen;
use crate::delivery::copy::{INSTANCE, SOURCE_HASH};
use crate::delivery::state::{Namespace, ObjectKey};
use crate::delivery::{Account, Claim, Instance, Plan};
use crate::installation::{Looked, Names, Removal};

/// What was found.
#[derive(Debug)]
pub struct Swept {
    /// What the objects of the installation are called.
    pub names: Names,
    /// Every Secret with the first label of a copy.
    pub labelled: Vec<ObjectMeta>,
    /// ServiceAccounts to which this installation attached something.
    pub attached: Looked<Vec<(ObjectKey, Account)>>,
    /// Who would put copies back.
    pub controller: Controller,
    /// How many Pods name a Secret, by namespace and the Secret's name.
    pub pods: Looked<PodCounts>,
}

/// Pods by namespace and the name of a Secret in their `imagePullSecrets`.
pub type PodCounts = BTreeMap<(String, String), usize>;

/// The controller of the installation.
#[derive(Debug)]
pub enum Controller {
    /// There is none, or it does not deliver.
    Gone,
    /// It puts back what these rules want in these namespaces.
    Delivers(Arc<Plan>, BTreeMap<Arc<str>, Namespace>),
    /// It is there, and nobody could read what it wants.
    DeliversSomething,
}

/// Everything that `cleanup` says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cleanup {
    /// Where pullpass runs, or ran.
    pub namespace: String,
    /// Its Helm release.
    pub release: String,
    /// Value of the label `app.kubernetes.io/instance` of its copies.
    pub instance: String,
    /// Whether its controller is there, and delivers.
    pub delivers: bool,
    /// Its copies.
    pub copies: Vec<CopyReport>,
    /// ServiceAccounts with entries that it appended.
    pub service_accounts: Vec<AccountReport>,
    /// How many copies other installations have, by instance; they are left alone.
    pub others: BTreeMap<String, usize>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyReport {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub secret: String,
    /// How many Pods of the namespace name it; `None` if they could not be listed.
    pub pods: Option<usize>,
    /// What may become of it, or has.
    pub fate: Fate,
    /// Why it is still there.
    pub reason: Option<String>,
    /// Which version of it was looked at.
    #[serde(skip)]
    pub metadata: ObjectMeta,
}

/// One ServiceAccount.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountReport {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// The entries that were appended to its `imagePullSecrets`.
    pub secrets: Vec<String>,
    /// What may become of them, or has.
    pub fate: Fate,
    /// Why they are still there.
    pub reason: Option<String>,
    /// What was looked at.
    #[serde(skip)]
    pub account: Account,
}

/// What may become of a copy or of entries, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// `--yes` takes it away.
    Deletable,
    /// The controller would put it back.
    Wanted,
    /// It is gone.
    Deleted,
    /// It could not be taken away.
    Failed,
}

impl Swept {
    /// What may be deleted.
    pub fn plan(self) -> Cleanup {
        let Names {
            namespace,
            release,
            configuration,
            ..
        } = self.names;
        let instance = Instance::new(&namespace, &configuration);
        let looks = [
            Unseen::of("Pods that name a copy", "list pods -A", &self.pods),
            Unseen::of(
                "ServiceAccounts with entries of pullpass",
                "list serviceaccounts -A",
                &self.attached,
            ),
        ];
        let pods = self.pods.seen();
        let attached = self.attached.seen().into_iter().flatten();
        let accounts = attached.map(|(key, account)| self.controller.report(key, account));
        let service_accounts = accounts.collect();
        let (mut copies, mut others) = (Vec::new(), BTreeMap::new());
        for metadata in self.labelled {
            let labels = metadata.labels.as_ref();
            let of = labels.and_then(|labels| labels.get(INSTANCE));
            let of = of.map(String::as_str).unwrap_or_default();
            let place = metadata.namespace.clone().unwrap_or_default();
            // No copy is ever made in the installation's own namespace: it holds what else the controller
            // makes.
            if place == namespace {
                continue;
            }
            if of != instance.as_str() {
                let annotations = metadata.annotations.as_ref();
                if annotations.is_none_or(|all| !all.contains_key(SOURCE_HASH)) {
                    continue;
                }
                *others.entry(of.to_owned()).or_default() += 1;
                continue;
            }
            let secret = metadata.name.clone().unwrap_or_default();
            let key = (place, secret);
            let reason = self.controller.reason_to_keep(&key.0, &key.1);
            copies.push(CopyReport {
                pods: pods.map(|counts| counts.get(&key).copied().unwrap_or_default()),
                fate: Fate::unless_kept(reason),
                reason: reason.map(str::to_owned),
                namespace: key.0,
                secret: key.1,
                metadata,
            });
        }
        Cleanup {
            namespace,
            release,
            instance: instance.as_str().to_owned(),
            delivers: !matches!(self.controller, Controller::Gone),
            copies,
            service_accounts,
            others,
            unseen: looks.into_iter().flatten().collect(),
        }
    }
}

impl Controller {
    fn reason_to_keep(&self, namespace: &str, secret: &str) -> Option<&'static str> {
        self.reason_unless(namespace, secret, |claim| matches!(claim, Claim::Nobody))
    }

    fn reason_unless(
        &self,
        namespace: &str,
        secret: &str,
        is_unwanted: impl Fn(Claim<'_>) -> bool,
    ) -> Option<&'static str> {
        match self {
            Self::Gone => None,
            Self::DeliversSomething => Some("whether the controller wants it could not be seen"),
            Self::Delivers(plan, namespaces) => {
                let labels = namespaces.get(namespace).map(|known| &known.labels);
                let is_wanted =
                    labels.is_none_or(|labels| !is_unwanted(plan.claim(namespace, labels, secret)));
                is_wanted.then_some("the controller would put it back")
            }
        }
    }

    fn report(&self, (namespace, name): &ObjectKey, account: &Account) -> AccountReport {
        let is_unwanted =
            |claim: Claim<'_>| !matches!(claim, Claim::Entry(entry) if entry.is_attached_to(name));
        let mut reasons = account.ours().iter();
        let reason = reasons.find_map(|secret| self.reason_unless(namespace, secret, is_unwanted));
        AccountReport {
            namespace: namespace.to_string(),
            service_account: name.to_string(),
            secrets: account.ours().iter().map(ToString::to_string).collect(),
            fate: Fate::unless_kept(reason),
            reason: reason.map(str::to_owned),
            account: account.clone(),
        }
    }
}

impl Fate {
    fn unless_kept(reason: Option<&str>) -> Self {
        match reason {
            Some(_) => Self::Wanted,
            None => Self::Deletable,
        }
    }

    fn after(removal: Removal) -> (Self, Option<String>) {
        match removal {
            Removal::Done => (Self::Deleted, None),
            Removal::Changed => {
                let reason = "it was changed meanwhile; run it again".to_owned();
                (Self::Failed, Some(reason))
            }
            Removal::Refused(said) | Removal::Failed(said) => (Self::Failed, Some(said)),
        }
    }
}

impl Cleanup {
    /// How many copies are like this.
    pub fn count(&self, fate: Fate) -> usize {
        self.copies.iter().filter(|copy| copy.fate == fate).count()
    }

    /// How many ServiceAccounts are like this.
    pub fn count_accounts(&self, fate: Fate) -> usize {
        let accounts = self.service_accounts.iter();
        accounts.filter(|account| account.fate == fate).count()
    }

    /// How many of both are still there.
    pub fn left(&self) -> usize {
        let gone = self.count(Fate::Deleted) + self.count_accounts(Fate::Deleted);
        self.copies.len() + self.service_accounts.len() - gone
    }

    /// How copies that are wanted can be deleted.
    pub fn fix(&self) -> String {
        let (release, namespace) = (&self.release, &self.namespace);
        format!(
            "to delete what the controller wants, uninstall it first: helm uninstall {release} \
             -n {namespace}; or take the pull secret out of the rules"
        )
    }
}

impl CopyReport {
    /// What became of it.
    pub(super) fn set(&mut self, removal: Removal) {
        (self.fate, self.reason) = Fate::after(removal);
    }
}

impl AccountReport {
    /// What became of its entries.
    pub(super) fn set(&mut self, removal: Removal) {
        (self.fate, self.reason) = Fate::after(removal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;
    use serde_json::json;

    fn labelled(namespace: &str, name: &str, instance: &str) -> ObjectMeta {
        serde_json::from_value(json!({
            "name": name, "namespace": namespace, "uid": "u", "resourceVersion": "7",
            "labels": {"app.kubernetes.io/managed-by": "pullpass", INSTANCE: instance},
            "annotations": {SOURCE_HASH: "sha256:0"},
        }))
        .unwrap()
    }

    fn attached(namespace: &str, name: &str) -> (ObjectKey, Account) {
        let instance = Instance::new("pullpass", "pullpass");
        let names = ["x".into(), "harbor".into()];
        let recorded = (true, "pullpass.pullpass/harbor,b.c/x");
        let account = Account::new(&instance, names, recorded, "7");
        ((namespace.into(), name.into()), account)
    }

    fn account_fates(cleanup: &Cleanup) -> Vec<(&str, Fate)> {
        let accounts = cleanup.service_accounts.iter();
        let fate = |account: &'_ AccountReport| account.fate;
        accounts
            .map(|account| (&*account.namespace, fate(account)))
            .collect()
    }

    fn plan(controller: Controller, pods: Looked<PodCounts>) -> Cleanup {
        let labelled = vec![
            labelled("prod", "harbor", "pullpass.pullpass"),
            labelled("dev", "harbor", "pullpass.pullpass"),
            labelled("prod", "old", "pullpass.pullpass"),
            labelled("prod", "other", "b.c"),
            labelled("pullpass", "harbor", "pullpass.pullpass"),
        ];
        let swept = Swept {
            names: Names::of_chart("pullpass", "pullpass"),
            labelled,
            attached: Looked::Seen(vec![attached("prod", "build"), attached("dev", "build")]),
            controller,
            pods,
        };
        swept.plan()
    }

    fn delivers() -> Controller {
        let rules = "apiVersion: pullpass.dev/v1alpha1\nkind: PullRules\n\
                     pullSecrets: [{name: harbor, namespaces: [prod], serviceAccounts: [build]}]\n\
                     rules: [{name: r, pullSecrets: [harbor]}]\n";
        let config = rules::load(rules).unwrap();
        let namespace = Namespace {
            labels: BTreeMap::new(),
            is_terminating: false,
        };
        let namespaces = ["prod", "dev"].map(|name| (name.into(), namespace.clone()));
        Controller::Delivers(Arc::new(Plan::new(&config, "pullpass")), namespaces.into())
    }

    fn fates(cleanup: &Cleanup) -> Vec<(&str, &str, Fate)> {
        let copies = cleanup.copies.iter();
        let fate = |copy: &'_ CopyReport| copy.fate;
        copies
            .map(|copy| (&*copy.namespace, &*copy.secret, fate(copy)))
            .collect()
    }

    #[test]
    fn only_copies_of_this_instance_are_in_the_list_and_none_of_its_own_namespace() {
        let pods = [(("prod".to_owned(), "harbor".to_owned()), 3)];
        let cleanup = plan(Controller::Gone, Looked::Seen(pods.into()));
        use Fate::Deletable;
        let expected = [
            ("prod", "harbor", Deletable),
            ("dev", "harbor", Deletable),
            ("prod", "old", Deletable),
        ];
        assert_eq!(fates(&cleanup), expected);
        assert_eq!(cleanup.others, [("b.c".to_owned(), 1)].into());
        let pods: Vec<_> = cleanup.copies.iter().map(|copy| copy.pods).collect();
        assert_eq!(pods, [Some(3), Some(0), Some(0)]);
        assert_eq!(
            account_fates(&cleanup),
            [("prod", Deletable), ("dev", Deletable)]
        );
        assert_eq!(
            cleanup.service_accounts[0].secrets,
            ["harbor"],
            "x is another's"
        );
    }

    #[test]
    fn what_a_controller_would_put_back_is_kept() {
        use Fate::{Deletable, Wanted};
        let some = plan(delivers(), Looked::Seen(BTreeMap::new()));
        let expected = [
            ("prod", "harbor", Wanted),
            ("dev", "harbor", Deletable),
            ("prod", "old", Deletable),
        ];
        assert_eq!(fates(&some), expected);
        assert_eq!(account_fates(&some), [("prod", Wanted), ("dev", Deletable)]);
        let all = plan(
            Controller::DeliversSomething,
            Looked::Denied("pods".to_owned()),
        );
        assert_eq!((all.count(Wanted), all.count_accounts(Wanted)), (3, 2));
        assert_eq!(all.copies[0].pods, None);
        assert_eq!(all.unseen[0].said, "pods");
        assert!(all.fix().contains("helm uninstall pullpass -n pullpass"));
    }

    #[test]
    fn what_became_of_a_copy_is_said() {
        let mut cleanup = plan(Controller::Gone, Looked::Absent);
        cleanup.copies[0].set(Removal::Done);
        cleanup.copies[1].set(Removal::Changed);
        cleanup.copies[2].set(Removal::Failed("forbidden".to_owned()));
        assert_eq!(cleanup.count(Fate::Deleted), 1);
        assert_eq!(cleanup.count(Fate::Failed), 2);
        assert_eq!(cleanup.copies[2].reason.as_deref(), Some("forbidden"));
        assert_eq!(cleanup.left(), 4);
        cleanup.service_accounts[0].set(Removal::Done);
        assert_eq!(cleanup.left(), 3);
    }
}

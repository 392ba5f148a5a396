//! The list of trials, and how it is run: one cluster, only as large as the chosen trials need; first
//! the trials that do not mind each other, then those that must be alone, one after the other.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};

use super::cluster::Cluster;
use super::tier::{Tier, Tiers, all_required};

/// Trials run at once. Most of their time is waiting for the kubelet, on two cores.
const THREADS: usize = 6;

type Shared = Arc<OnceLock<Cluster>>;

/// Every trial with its tier.
pub(crate) struct Trials {
    /// Given to the API server.
    pub(crate) api_server_flags: &'static [&'static str],
    cluster: Shared,
    list: Vec<Listed>,
}

/// A trial with what it needs.
struct Listed {
    tier: Tier,
    /// Runs while no other trial does.
    is_alone: bool,
    trial: Trial,
}

impl Trials {
    /// Asks `register` for its trials.
    pub(crate) fn collect(register: impl FnOnce(&mut Self)) -> Self {
        let mut trials = Self {
            api_server_flags: &[],
            cluster: Shared::default(),
            list: Vec::new(),
        };
        register(&mut trials);
        trials
    }

    /// A trial that needs only the API server.
    pub(crate) fn api(&mut self, name: &str, trial: fn(&Cluster)) {
        self.add(Tier::Api, false, name, trial);
    }

    /// A trial that needs a node.
    pub(crate) fn node(&mut self, name: &str, trial: fn(&Cluster)) {
        self.add(Tier::Node, false, name, trial);
    }

    /// A trial that needs a node, and nobody else on it: it loads the machine, or harms what all share.
    pub(crate) fn alone(&mut self, name: &str, trial: fn(&Cluster)) {
        self.add(Tier::Node, true, name, trial);
    }

    /// Keeps those that share a node, without these.
    pub(crate) fn keep_node(&mut self, without: &[&str]) {
        let before = self.list.len();
        let is_left_out = |listed: &Listed| without.contains(&listed.trial.name());
        self.list.retain(|listed| !is_left_out(listed));
        let left_out = before - self.list.len();
        assert_eq!(left_out, without.len(), "there is a trial of each name");
        let is_kept = |listed: &Listed| listed.tier == Tier::Node && !listed.is_alone;
        self.list.retain(is_kept);
    }

    /// Prints the names, without starting anything.
    pub(crate) fn list(self, arguments: &Arguments) -> ExitCode {
        let trials = self.list.into_iter().map(|listed| listed.trial).collect();
        libtest_mimic::run(arguments, trials).exit_code()
    }

    /// Starts the cluster, runs the chosen trials, and says what was skipped.
    pub(crate) fn run(self, arguments: &Arguments, tiers: &Tiers, workdir: PathBuf) -> ExitCode {
        let chosen = |tier: Tier| {
            self.list
                .iter()
                .any(|listed| listed.tier == tier && !arguments.is_filtered_out(&listed.trial))
        };
        let node = chosen(Tier::Node) && tiers.check(Tier::Node).is_ok();
        let api = chosen(Tier::Api) && tiers.check(Tier::Api).is_ok();
        let skipped: Vec<(Tier, &str)> = Tier::ALL
            .into_iter()
            .filter(|tier| chosen(*tier))
            .filter_map(|tier| Some((tier, tiers.check(tier).err()?)))
            .collect();
        if node || api {
            let start = Instant::now();
            let tier = if node { Tier::Node } else { Tier::Api };
            let cluster = Cluster::start(workdir, tier, self.api_server_flags);
            println!("cluster up in {:.1} s", start.elapsed().as_secs_f64());
            assert!(
                self.cluster.set(cluster).is_ok(),
                "the cluster is started once"
            );
        }
        let (alone, together): (Vec<_>, Vec<_>) =
            self.list.into_iter().partition(|listed| listed.is_alone);
        let mut failed = false;
        for (list, threads) in [(together, THREADS), (alone, 1)] {
            let trials = list.into_iter().map(|listed| {
                let can_run = tiers.check(listed.tier).is_ok();
                listed.trial.with_ignored_flag(!can_run)
            });
            let mut arguments = arguments.clone();
            arguments.test_threads = Some(arguments.test_threads.unwrap_or(threads).min(threads));
            failed |= libtest_mimic::run(&arguments, trials.collect()).has_failed();
        }
        for (tier, reason) in &skipped {
            println!("SKIPPED {}: {reason}", tier.name());
        }
        if failed || (all_required() && !skipped.is_empty()) {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }

    fn add(&mut self, tier: Tier, is_alone: bool, name: &str, trial: fn(&Cluster)) {
        let cluster = Arc::clone(&self.cluster);
        let run = move || {
            trial(cluster.get().expect("the cluster runs before any trial"));
            Ok(())
        };
        self.list.push(Listed {
            tier,
            is_alone,
            trial: Trial::test(name, run).with_kind(tier.name()),
        });
    }
}

//! Delivery: copies of pull secrets in every namespace that may hold them, their entries in the
//! ServiceAccounts that the rules name, and the index of what they cover.
//!
//! ```text
//! API server --watches--> board (state, queue) --writer, 8 at a time---> API server: copies, accounts
//!                            |-- index ---------------------------------> ConfigMap, for the webhook
//!                            |-- announce ------------------------------> metrics, Events
//!                            |-- prober <---> registries, about what the rules say
//!                            `-- recoverer, if wanted ------------------> API server: evictions
//! ```
//! Watches run in every replica; the rest only while it leads, but for one thing: who does not lead stands
//! in for a leader that does not create what a Pod waits for. What to do is decided by
//! [`crate::delivery`], from what is there. This room must not keep or log a byte of a copy.

mod accounts;
mod announce;
mod board;
mod copies;
mod given;
mod index;
mod patience;
mod prober;
mod queue;
mod recoverer;
mod watches;
mod writer;

pub(super) use self::recoverer::Surroundings;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::accounts::Accounts;
use self::announce::Announcer;
use self::board::{Board, Scope};
use self::copies::Copies;
use self::index::Publisher;
use self::prober::{Authorities, Prober};
use self::queue::Duty;
use self::recoverer::Recoverer;
use self::watches::Watches;
use self::writer::Writer;
use super::budget::Budget;
use super::events::Events;
use super::next_change;
use super::objects::Owner;
use super::programs::Programs;
use super::rules::{Loaded, Verdict};
use crate::cluster::client::Connection;
use crate::cluster::watch::Seen;
use crate::delivery::state::Rules;
use crate::delivery::{Instance, Plan, State};
use crate::metrics::{ControllerMetrics, DeliveryMetrics, Metrics};
use crate::shutdown::Stop;

/// Pause between a change and its consequences for watches and index, in which others join it. Copies do
/// not wait.
const BURST: Duration = Duration::from_millis(20);

/// What delivery is made of.
pub(super) struct Parts {
    pub(super) connection: Connection,
    pub(super) client: Client,
    /// Our own namespace.
    pub(super) namespace: String,
    pub(super) instance: Instance,
    /// Name of the index's ConfigMap.
    pub(super) index: String,
    pub(super) index_seen: watch::Receiver<Seen<ConfigMap>>,
    pub(super) rules: watch::Receiver<Option<Arc<Loaded>>>,
    pub(super) verdicts: watch::Receiver<Option<Verdict>>,
    pub(super) events: Events,
    pub(super) programs: Programs,
    pub(super) metrics: Arc<Metrics>,
    pub(super) own_metrics: ControllerMetrics,
    pub(super) delivery_metrics: DeliveryMetrics,
    /// Files and directories of authorities that registries are verified by.
    pub(super) registry_ca: Vec<PathBuf>,
    /// For who evicts Pods, if somebody should.
    pub(super) recovery: Option<Surroundings>,
}

/// The one that delivers, while it leads.
pub(super) struct Delivery {
    writer: Writer,
    publisher: Publisher,
    announcer: Announcer,
    prober: Prober,
    recoverer: Option<Recoverer>,
}

impl Delivery {
    /// Starts to look at everything; writes nothing yet.
    pub(super) fn start(tasks: &mut JoinSet<()>, mut parts: Parts) -> Self {
        let board = Arc::new(Board::default());
        let instance = Arc::new(parts.instance.clone());
        let panics = parts.metrics.panics.clone();
        look(tasks, &board, &instance, &parts);
        let recovery = parts.recovery.take();
        let recoverer = recovery.map(|surroundings| Recoverer::new(&board, &parts, surroundings));
        Self {
            recoverer,
            writer: Writer {
                board: Arc::clone(&board),
                copies: Copies {
                    board: Arc::clone(&board),
                    client: parts.client.clone(),
                    instance: Arc::clone(&instance),
                    metrics: parts.delivery_metrics.clone(),
                    writes: parts.own_metrics.writes("copy"),
                },
                accounts: Accounts {
                    board: Arc::clone(&board),
                    client: parts.client.clone(),
                    instance,
                    writes: parts.own_metrics.writes("account"),
                },
                panics: panics.clone(),
            },
            publisher: Publisher {
                board: Arc::clone(&board),
                maps: Api::namespaced(parts.client, &parts.namespace),
                name: parts.index,
                seen: parts.index_seen,
                metrics: parts.delivery_metrics.clone(),
                writes: parts.own_metrics.writes("index"),
                written: None,
                put_back: Budget::default(),
            },
            prober: Prober {
                board: Arc::clone(&board),
                authorities: Authorities {
                    paths: parts.registry_ca,
                    read: None,
                },
                panics,
            },
            announcer: Announcer {
                board,
                verdicts: parts.verdicts,
                events: parts.events,
                metrics: parts.delivery_metrics,
                namespace: parts.namespace,
                said: Default::default(),
            },
        }
    }

    /// What is done for a leader that does not.
    pub(super) fn stand_in(&self) -> StandIn {
        StandIn(self.writer.clone())
    }

    /// Delivers until `stop` drains; writes that were begun are finished first.
    pub(super) async fn run(&mut self, owner: &Owner, stop: &Stop) {
        let _counted = Counted(self.announcer.metrics.clone());
        let _leading = Leading::begin(&self.writer.board);
        // What this process heard when it led before is older than what is published.
        self.prober.board.change_if(State::forget_answers);
        let recover = async {
            if let Some(recoverer) = &mut self.recoverer {
                recoverer.run(stop).await;
            }
        };
        tokio::join!(
            self.publisher.run(owner, stop),
            self.writer.run(Duty::Lead, stop),
            self.announcer.run(stop),
            self.prober.run(stop),
            recover,
        );
    }
}

/// Keeps the board up to date with what is there, in tasks of their own.
fn look(tasks: &mut JoinSet<()>, board: &Arc<Board>, instance: &Arc<Instance>, parts: &Parts) {
    let watches = Watches {
        board: Arc::clone(board),
        connection: parts.connection.clone(),
        metrics: Arc::clone(&parts.metrics),
        instance: Arc::clone(instance),
        namespace: parts.namespace.clone(),
        programs: parts.programs.clone(),
        runs: parts.delivery_metrics.program_runs.clone(),
    };
    tasks.spawn(async move {
        if let Err(error) = watches.run().await {
            tracing::error!(%error, "nothing can be delivered");
        }
        pending().await
    });
    let namespace = parts.namespace.clone();
    tasks.spawn(plan(Arc::clone(board), parts.rules.clone(), namespace));
    let (board, seen) = (Arc::clone(board), parts.index_seen.clone());
    tasks.spawn(async move { match index::follow(board, seen).await {} });
}

/// The one that creates what a Pod waits for, while another one leads who may be dead.
pub(super) struct StandIn(Writer);

impl StandIn {
    /// Stands in until `stop` drains; writes that were begun are finished first.
    pub(super) async fn run(&self, stop: &Stop) {
        self.0.run(Duty::StandIn, stop).await;
    }
}

/// Only who leads counts copies and makes the index: what is said of them goes when this does.
struct Counted(DeliveryMetrics);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.copies.set([]);
        self.0.attached.set([]);
        self.0.probes.set([]);
        self.0.index_too_large.set(0);
    }
}

/// Says that this controller leads, until it is dropped.
struct Leading<'a>(&'a Board);

impl<'a> Leading<'a> {
    fn begin(board: &'a Board) -> Self {
        set_leading(board, true);
        Self(board)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        set_leading(self.0, false);
    }
}

fn set_leading(board: &Board, is_leading: bool) {
    board.change_if(|state| {
        // Whoever leads finds out for itself.
        state.is_index_too_large = false;
        std::mem::replace(&mut state.is_leading, is_leading) != is_leading
    });
}

/// Keeps the plan up to date with the rules, for ever.
async fn plan(
    board: Arc<Board>,
    mut rules: watch::Receiver<Option<Arc<Loaded>>>,
    own_namespace: String,
) {
    loop {
        let loaded = rules.borrow_and_update().clone();
        if let Some(loaded) = loaded {
            let plan = Arc::new(Plan::new(&loaded.config, &own_namespace));
            board.change(|state| {
                state.rules = Some(Rules {
                    plan,
                    hash: loaded.hash.clone(),
                });
                vec![Scope::Everything]
            });
        }
        next_change(&mut rules).await;
    }
}

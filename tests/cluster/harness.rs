//! The cluster under the tests, and what a test needs to talk to it.
//!
//! The rooms, from the ground up: [`wait`] and [`process`] know nothing of Kubernetes; [`pki`],
//! [`api`], [`watch`], [`kubectl`], [`helm`] and [`load`] speak to an API server; [`control_plane`], [`network`]
//! and [`node`] start the programs; [`cluster`] puts them together; [`namespace`], [`webhook`],
//! [`controller`], [`delivery`] and [`release`] are what scenarios are written with; [`gateway`] spoils the way to
//! the API server. [`sandbox`], [`tier`] and [`trials`] decide where and what is run, [`figures`] keeps what was
//! measured.

pub(crate) mod api;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod control_plane;
pub(crate) mod controller;
pub(crate) mod delivery;
pub(crate) mod ecr;
pub(crate) mod figures;
pub(crate) mod gateway;
pub(crate) mod helm;
pub(crate) mod kubectl;
pub(crate) mod load;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod release;
pub(crate) mod sandbox;
pub(crate) mod serve;
pub(crate) mod stub;
pub(crate) mod tier;
pub(crate) mod trials;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod webhook;

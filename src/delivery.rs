//! What is to be delivered where, decided from what is there. Pure.
//!
//! ```text
//! rules --plan--> who may hold what ---.
//! namespaces, Pods, sources, copies ---+--state--> one Step for each (namespace, secretName),
//! ServiceAccounts ---------------------|           one Change for each ServiceAccount
//!                                      `---------> index, survey, findings
//! ```
//! The controller carries steps out; `status` and `cleanup` look with the same eyes. Nothing is decided
//! from an event: only from what is there. This room must not keep a byte of a copy: a copy is known by
//! the hash of what it holds.

pub mod attach;
pub mod copy;
mod index;
pub mod plan;
pub mod probe;
pub mod source;
pub mod state;
pub mod step;
pub mod survey;

pub use attach::Account;
pub use copy::{ContentHash, Instance, Observed, SecretView};
pub use plan::{Claim, Entry, Plan};
pub use probe::Question;
pub use source::{Payload, SourceRef, SourceSecret};
pub use state::State;
pub use step::{CopyState, Step};

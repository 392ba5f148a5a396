//! How delivery is doing, seen from outside: for `pullpass status`, `explain pod/NAME`, `recover`,
//! `cleanup` and `doctor`.
//!
//! ```text
//! API server --fetch--> Facts --report--> Report       decided by `delivery` and `admission` themselves
//!            --sweep--> what copies are there, and their end
//!            --recovery--> Pods that a restart would fix, as `crate::recovery` finds them, and their eviction
//! ```
//! `fetch`, `pull::fetch`, `sweep` and `recovery` ask with the caller's rights, and what they may not see is said, not an error. The
//! rest is pure. Of Secrets it keeps what [`crate::delivery`] keeps, and shows only names, keys and ends of
//! tokens; nothing in it writes but [`sweep::clean`] and [`recovery::evict_all`].

pub mod cleanup;
pub mod facts;
mod fetch;
pub mod keys;
pub mod pull;
pub mod recovery;
pub mod report;
pub mod restarts;
#[cfg(test)]
pub(crate) mod sound;
pub mod sweep;

pub use facts::{Facts, Unseen, first_few};
pub use fetch::{CannotLookError, Scope, fetch};
pub use report::{Report, report};

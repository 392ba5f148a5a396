//! How delivery is doing, seen from outside: for `pullpass status`, `pullpass cleanup` and `pullpass doctor`.
//!
//! ```text
//! API server --fetch--> Facts --report--> Report       decided by `delivery` and `admission` themselves
//!            --sweep--> what copies are there, and their end
//! ```
//! `fetch` and `sweep` ask with the caller's rights, and what they may not see is said, not an error. The
//! rest is pure. Of Secrets it keeps what [`crate::delivery`] keeps, and shows only names, keys and ends of
//! tokens; nothing in it writes but [`sweep::clean`].

pub mod cleanup;
pub mod facts;
mod fetch;
pub mod keys;
pub mod pods;
pub mod pull;
pub mod report;
#[cfg(test)]
pub(crate) mod sound;
pub mod sweep;

pub use facts::{Facts, Unseen, first_few};
pub use fetch::{CannotLookError, Scope, fetch};
pub use report::{Report, report};

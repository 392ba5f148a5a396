//! One Pod: which images it wants, with which pull secrets, and why one of them is not there. For
//! `pullpass explain pod/NAME`.
//!
//! ```text
//! API server --fetch--> PodFacts --report--> PullReport        with `recovery`'s images and failure for the kubelet's part
//! ```
//! Only `fetch` asks, with the caller's rights; what it may not see is said. The rest is pure. Of Secrets only
//! keys and whether they can be used are kept.

pub mod fetch;
pub mod report;

pub use fetch::{CannotExplainError, fetch};
pub use report::{PullReport, report};

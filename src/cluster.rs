//! The API server's side: a client whose every call ends, and watches that notice when they are cut.
//!
//! ```text
//! API server --list, watch--> watch::follow_* --latest state--> whoever decides
//! ```
//! Nobody else watches. This room must not decide anything, and writes nothing by itself.

pub mod account;
pub mod client;
pub(crate) mod part;
pub mod secret;
pub mod watch;

/// Name of pullpass's webhook inside its configuration. Never to change: an entry of which we own a field
/// cannot be renamed.
pub const WEBHOOK: &str = "pods.pullpass.dev";

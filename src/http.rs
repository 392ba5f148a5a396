//! HTTP/1.1 with or without TLS, as both roles serve it: the accept loop, its limits, and the probes.
//!
//! This room must not know what is asked or answered.

pub mod client;
pub mod fetch;
pub mod limits;
pub mod probes;
pub mod server;

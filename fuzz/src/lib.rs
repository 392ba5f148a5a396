//! The rooms that decide, built from the program's own files but without its server: instrumenting
//! TLS and HTTP connections, which no target reaches, would take six times as long.
//!
//! That they compile by themselves is one of the program's invariants.

#[path = "../../src"]
mod program {
    pub mod admission;
    pub mod credential;
    pub mod image;
    pub mod index;
    pub mod probe;
    pub mod rules;
    pub mod snapshot;
}

pub use program::*;

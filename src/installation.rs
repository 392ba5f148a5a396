//! Finds an installation from outside, for the commands that look at a live cluster: asks the API server with
//! the caller's rights what is called how, and what is there.
//!
//! A missing right is an answer like any other ([`Looked::Denied`]). This room must not judge, and writes
//! nothing by itself.

mod api_server;
mod looked;
mod names;
pub mod selector;
pub mod workloads;

pub use api_server::{Answer, ApiServer, Chosen, Found, Reading, Removal, UnreachableError};
pub use looked::Looked;
pub use names::{
    Names, Target, component_of, configuration_of, delivers, server_name, webhook_of,
    with_component,
};

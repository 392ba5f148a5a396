//! Pull secrets, read and matched exactly as the kubelet does
//! (`pkg/credentialprovider/{config,keyring}.go`). Pure.
//!
//! [`DockerConfig`] is what a payload decodes to; [`Keyring`] is the order and the match of its keys.
//! The `go_*` files hold the habits of Go's standard library that the kubelet's answers rest on.
//! This module must not know about rules, and no password may leave it but in a payload, or in
//! a login for its registry.

pub mod docker_config;
pub mod keyring;

mod go_glob;
mod go_json;
mod go_url;

pub use docker_config::{
    BasicAuth, DecodeError, DockerConfig, Entry, Login, LoginFile, SecretType,
};
pub use keyring::{Keyring, Lookup};

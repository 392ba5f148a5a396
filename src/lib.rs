//! pullpass gives every Pod the image pull secrets its images need.
//!
//! The rooms below are listed from the top floor down; every arrow between them points down.
//! ARCHITECTURE.md walks one request through them.

pub mod admission;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod credential;
pub mod credential_helper;
pub mod delivery;
pub mod doctor;
pub mod files;
pub mod http;
pub mod image;
pub mod import;
pub mod index;
pub mod installation;
pub mod logging;
pub mod manifest;
pub mod metrics;
pub mod pki;
pub mod probe;
pub mod recovery;
pub mod rules;
pub mod shutdown;
pub mod snapshot;
pub mod status;
pub mod webhook;

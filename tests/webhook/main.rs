//! The server, from the outside: real sockets, real TLS, the client written by hand so that it can
//! misbehave. No test waits for time to pass: where a limit is a time, the clock stands still and is
//! moved.
#![cfg(test)]

mod client;
mod connections;
mod harness;
mod limits;
mod logging;
mod namespaces;
mod probes;
mod process;
mod replacement;
mod rules_reload;
mod shutdown;
mod tls_rotation;
mod volume;

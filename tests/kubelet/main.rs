//! References, payloads and lookups against the kubelet itself.
//!
//! - `frozen`: tables under `tests/data/kubelet`, one case and its answer a line; run everywhere.
//! - `differential`: the same rows, and generated ones, put to an oracle that links the kubelet's own
//!   packages (`tests/tools/kubernetes/oracle`). Without the oracle this part is skipped, with one line
//!   that says so, unless `PULLPASS_REQUIRE_ALL=1`.
//! - `properties`: what must hold for every input, without an oracle.

#![cfg(test)]

mod case;
mod cli;
mod differential;
mod frozen;
mod generate;
mod oracle;
mod properties;

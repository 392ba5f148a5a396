//! The Helm chart, as Helm itself renders it: every values file of `tests/data/chart/valid` against every
//! release of Kubernetes, every file of `refused` with its message. No cluster; `make tools` built what it runs.
#![cfg(test)]

mod drift;
mod helm;
mod incidents;
mod metrics;
mod promtool;
mod refused;
mod rights;
mod standards;
mod values;

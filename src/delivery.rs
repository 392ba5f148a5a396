//! What is to be delivered where, decided from what is there. Pure.
//!
//! ```text
//! rules + namespaces + who asked --plan--> which entry a (namespace, secretName) may hold
//!                    sources, copies -----> one Step
//! ```
//! The controller carries steps out; `status` and `cleanup` look with the same eyes. This room must not
//! keep a byte of a copy: a copy is known by the hash of what it holds.

pub mod copy;

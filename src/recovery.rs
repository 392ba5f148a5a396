//! Pods that wait for an image and would start if they were made anew, and how one is evicted: for `recover`, for
//! `status`, and for a controller that recovers by itself.
//!
//! ```text
//! Pod --read--> FailingPod --judge, with rules, index and logins--> StuckPod --eviction--> API server
//! ```
//! What is here is pure but for `eviction`. This room must not look for Pods, nor choose when one is evicted.

pub mod eviction;
pub mod failure;
pub mod images;
pub mod pods;
pub mod stuck;

//! Every limit of the server, with its unit and where it comes from.
//!
//! The constants are what runs; [`Limits`] exists so that a test can lower one. What must not happen:
//! a limit written as a number anywhere else in this room.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Largest body, in bytes. The API server accepts requests of 3 MiB, and an AdmissionReview may carry
/// the object twice (`object` and `oldObject`); the rest is for the review's own fields and escapes.
pub const BODY_BYTES_MAX: usize = 8 * MIB;
/// Most bytes of bodies in memory at once: eight of the largest, or 1,000 of 64 KiB.
pub const BODIES_BYTES_MAX: usize = 64 * MIB;
/// Most bytes reserved because a `Content-Length` says so. A claim costs its sender nothing, so what
/// lies beyond is reserved as it arrives.
pub const BODY_RESERVE_BYTES_MAX: usize = MIB;
/// Bytes of memory that a request waits for before its body is read: the largest review of an ordinary
/// Pod. Beyond them a body takes more as it arrives, or is refused, so that claims alone shut nobody out.
pub const BODY_SHARE_BYTES: usize = 64 * KIB;
/// Most bytes of a refused body that are read and thrown away before the refusal is sent. Unread bytes
/// would make the kernel reset the connection, and the sender would lose the answer. Twice the largest
/// body: whoever sends more than that is not an API server.
pub const REFUSED_BODY_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;
/// Largest request head, in bytes; over it, 431. The API server's is below 500 bytes.
pub const HEAD_BYTES_MAX: usize = 16 * KIB;
/// Largest read buffer of one connection, in bytes: what one TLS record holds. A larger one would only be
/// more memory per connection, because no read brings more.
pub const READ_BUFFER_BYTES_MAX: usize = 16 * KIB;

/// Most requests between head and answer. At 100 µs each two cores never come near it, unless bodies
/// arrive slowly; each may hold a body, so it also bounds memory.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;
/// Most connections of the webhook. An API server keeps 25 idle ones; this is room for 40 of them.
pub const CONNECTIONS_MAX: usize = 1024;
/// Most connections of the probe port: the kubelet and a few scrapers.
pub const PROBE_CONNECTIONS_MAX: usize = 64;

/// Longest TLS handshake; the API server gives up after the same time.
pub const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a whole body once its head is there. Ten seconds for 8 MiB is 7 Mbit/s.
pub const BODY_READ_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the next request head, which is also how long an idle connection lives (hyper has
/// one timer for both). The API server keeps idle connections for 90 s; if ours ended first, it would
/// send a request into a closed connection and not retry it.
pub const HEAD_OR_IDLE_MAX: Duration = Duration::from_secs(120);
/// When a connection is asked to end, so that load spreads over new replicas.
pub const CONNECTION_AGE: Duration = Duration::from_secs(5 * 60);
/// By how many percent [`CONNECTION_AGE`] varies, so that connections opened together do not end so.
pub const CONNECTION_AGE_JITTER_PERCENT: u32 = 20;

/// Deadline of a request without a readable `?timeout=`: the default of `timeoutSeconds`.
pub const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Latest deadline of a request: the largest `timeoutSeconds` that Kubernetes allows.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// A request may wait for its turn for this part of its deadline (one in …), then it is refused while
/// the API server still has time to ask another replica.
pub const QUEUE_PART_OF_TIMEOUT: u32 = 4;
/// Longest wait for the labels of a namespace that was made together with its Pod. The watch brings them
/// within some 10 ms; with the longest wait for its turn it stays below the shortest `timeoutSeconds`, 1 s.
pub const NAMESPACE_WAIT_MAX: Duration = Duration::from_millis(300);
/// Seconds in the `Retry-After` of a refusal. API servers retry answers that have one, within their
/// deadline.
pub const RETRY_AFTER: &str = "1";

/// How long a server that was told to end still accepts connections: API servers and load balancers
/// need that long to stop choosing it.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Longest wait for requests in flight after that: the latest deadline of a request. Together with
/// [`DRAIN`] it stays below `terminationGracePeriodSeconds`, which is 45.
pub const FINISH_MAX: Duration = REQUEST_TIMEOUT_MAX;
const _: () = assert!(DRAIN.as_secs() + FINISH_MAX.as_secs() < 45);

/// Pause after the listener failed, which it does when file descriptors run out.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Largest certificate or key file, in bytes: a chain of ten RSA-4096 certificates is 25 KB.
pub const PEM_FILE_BYTES_MAX: usize = MIB;

/// `time` ± so many percent.
pub fn jittered(time: Duration, percent: u32) -> Duration {
    // Every `RandomState` has other keys; nothing here needs better randomness.
    let random = RandomState::new().build_hasher().finish();
    let spread = u64::from(2 * percent) + 1;
    let drawn = u32::try_from(random % spread).unwrap_or_default();
    time * (100 - percent + drawn) / 100
}

/// The limits that a test may want lower. [`Limits::default`] is what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Default [`BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Default [`BODIES_BYTES_MAX`].
    pub bodies_bytes_max: usize,
    /// Default [`REQUESTS_IN_FLIGHT_MAX`].
    pub requests_in_flight_max: usize,
    /// Default [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// Default [`TLS_HANDSHAKE_MAX`].
    pub tls_handshake_max: Duration,
    /// Default [`BODY_READ_MAX`].
    pub body_read_max: Duration,
    /// Default [`HEAD_OR_IDLE_MAX`].
    pub head_or_idle_max: Duration,
    /// Default [`CONNECTION_AGE`].
    pub connection_age: Duration,
    /// Default [`DRAIN`].
    pub drain: Duration,
    /// Default [`FINISH_MAX`].
    pub finish_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_MAX,
            bodies_bytes_max: BODIES_BYTES_MAX,
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            connections_max: CONNECTIONS_MAX,
            tls_handshake_max: TLS_HANDSHAKE_MAX,
            body_read_max: BODY_READ_MAX,
            head_or_idle_max: HEAD_OR_IDLE_MAX,
            connection_age: CONNECTION_AGE,
            drain: DRAIN,
            finish_max: FINISH_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the contract says, written out a second time.
    #[test]
    fn incident_11_the_effective_settings_are_those_of_the_contract() {
        let seconds = Duration::from_secs;
        let contract = Limits {
            body_bytes_max: 8_388_608,
            bodies_bytes_max: 67_108_864,
            requests_in_flight_max: 256,
            connections_max: 1_024,
            tls_handshake_max: seconds(10),
            body_read_max: seconds(10),
            head_or_idle_max: seconds(120),
            connection_age: seconds(300),
            drain: seconds(10),
            finish_max: seconds(30),
        };
        assert_eq!(Limits::default(), contract);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_varies() {
        let age = Duration::from_secs(300);
        let drawn: Vec<Duration> = (0..1000).map(|_| jittered(age, 20)).collect();
        let (low, high) = (Duration::from_secs(240), Duration::from_secs(360));
        assert!(drawn.iter().all(|age| (low..=high).contains(age)));
        assert!(drawn.iter().any(|age| *age != drawn[0]));
    }

    #[test]
    fn incident_09_idle_connections_outlive_the_api_servers() {
        let api_server_idle_max = Duration::from_secs(90);
        assert!(Limits::default().head_or_idle_max > api_server_idle_max);
    }
}

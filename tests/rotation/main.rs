//! Certificates over years, in a simulated cluster: at every moment, every leaf in service verifies
//! against every bundle an API server may have.
#![cfg(test)]

mod cluster;

use std::time::{Duration, SystemTime};

use cluster::{Cluster, DAY, MINUTE, Object, Write};
use proptest::prelude::*;
use pullpass::pki::rotation::{ROTATION_WAIT, Why};
use pullpass::pki::{CertificateAuthority, PemPair};

const SECOND: Duration = Duration::from_secs(1);

/// Most writes until nothing is left of one trouble amid a rotation: five of the rotation that it
/// undid, and five of the one that makes up for it, and one to restore each object.
const WRITES_MAX: usize = 13;

/// While something is under way, the time between two moments, unless the controller wants one before.
const MOMENT: Duration = Duration::from_secs(20);

/// Lets time pass to the next moment of interest: while something is under way every [`MOMENT`], else to
/// the minute before, at or after a boundary, and at least every day.
fn time_to_next_moment(cluster: &Cluster, wait: Duration, is_quiet: bool) -> Duration {
    if !is_quiet {
        return wait.min(MOMENT);
    }
    let around = |at: SystemTime| [at - MINUTE, at, at + MINUTE];
    let next = cluster.boundaries().into_iter().flat_map(around);
    let next = next.filter(|at| *at > cluster.clock).min();
    let distance = next.map_or(DAY, |at| at.duration_since(cluster.clock).unwrap());
    distance.min(DAY)
}

/// Runs for so long and checks at every moment. Returns the number of moments.
fn live(cluster: &mut Cluster, time: Duration) -> usize {
    let end = cluster.clock + time;
    let (mut moments, mut quiet_since) = (0, cluster.clock);
    while cluster.clock < end {
        let writes = cluster.writes.len();
        let wait = cluster.control();
        cluster.check().unwrap_or_else(|error| {
            panic!("moment {moments}: {error}; writes: {:?}", cluster.writes)
        });
        if writes != cluster.writes.len() {
            quiet_since = cluster.clock;
        }
        moments += 1;
        let is_quiet = cluster.clock > quiet_since + ROTATION_WAIT * 3;
        let rest = end.duration_since(cluster.clock).unwrap();
        cluster.pass(time_to_next_moment(cluster, wait, is_quiet).min(rest));
    }
    moments
}

/// Three years: the CA is rotated 4 times, every 243 1/3 days; the leaf is renewed every 60 days, 4
/// times under each CA, and 2 times under the last.
fn check_three_years(cluster: &mut Cluster) {
    let moments = live(cluster, DAY * 3 * 365);
    assert!(moments > 3 * 365, "{moments}");
    let mut expected = Vec::new();
    for _ in 0..4 {
        expected.extend([Write::Leaf(Why::Due); 4]);
        expected.extend(rotation(Why::Due));
    }
    expected.extend([Write::Leaf(Why::Due); 2]);
    assert_eq!(cluster.writes, expected);
    cluster.assert_at_rest();
}

/// The writes of a rotation that nothing disturbs.
fn rotation(why: Why) -> [Write; 5] {
    [
        Write::Ca(why),
        Write::Bundle,
        Write::Leaf(Why::Issuer),
        Write::Ca(Why::Retire),
        Write::Bundle,
    ]
}

/// Lives on until nothing is left of a change.
fn settle(cluster: &mut Cluster) {
    live(cluster, ROTATION_WAIT * 8);
    cluster.assert_at_rest();
}

#[test]
fn incident_20_for_three_years_every_leaf_verifies_and_no_write_is_needless() {
    check_three_years(&mut Cluster::settled());
}

#[test]
fn incident_20_a_crash_after_each_write_changes_nothing() {
    let mut cluster = Cluster::settled();
    cluster.crash_after_each_write = true;
    check_three_years(&mut cluster);
}

#[test]
fn incident_23_clocks_need_not_agree() {
    // An hour ahead is what certificates are back-dated by; late by less than a leaf's last third.
    for skew_seconds in [59 * 60, -25 * 24 * 60 * 60] {
        let mut cluster = Cluster::new();
        cluster.skew_seconds = skew_seconds;
        cluster.settle_in();
        check_three_years(&mut cluster);
    }
}

#[test]
fn an_empty_cluster_takes_three_writes() {
    let mut cluster = Cluster::new();
    cluster.control();
    let three = [
        Write::Ca(Why::Absent),
        Write::Bundle,
        Write::Leaf(Why::Absent),
    ];
    assert_eq!(cluster.writes, three);
    cluster.check_stored().unwrap();
}

#[test]
fn incident_24_a_rotation_waits_for_late_copies() {
    let mut cluster = Cluster::settled();
    cluster.rotate = Some("1".to_owned());
    settle(&mut cluster);
    assert_eq!(cluster.writes, rotation(Why::Requested));
    assert_eq!(cluster.rotated.as_deref(), Some("1"));
    cluster.writes.clear();
    settle(&mut cluster);
    assert_eq!(cluster.writes, []);
}

#[test]
fn requests_amid_a_rotation_are_one_more_rotation() {
    let mut cluster = Cluster::settled();
    for request in 0..20 {
        cluster.rotate = Some(request.to_string());
        live(&mut cluster, SECOND * 5);
    }
    settle(&mut cluster);
    assert_eq!(cluster.writes, [rotation(Why::Requested); 2].concat());
    assert_eq!(cluster.rotated.as_deref(), Some("19"));
}

/// At each moment of a rotation, what the safety property holds through: whatever happens to the CA
/// Secret, and to the memory of the controller.
#[test]
fn incident_20_a_lost_ca_amid_a_rotation_is_not_noticed() {
    type Trouble = (&'static str, fn(&mut Cluster));
    let troubles: [Trouble; 8] = [
        ("lost", |cluster| cluster.ca = None),
        ("damaged", |cluster| {
            cluster.ca.as_mut().unwrap().certificate.truncate(100);
        }),
        ("key damaged", |cluster| {
            cluster.ca.as_mut().unwrap().key.truncate(100)
        }),
        ("another key", |cluster| {
            cluster.ca.as_mut().unwrap().key = foreign_ca().key.into_bytes();
        }),
        ("restored", |cluster| {
            let ca = foreign_ca();
            let stored = cluster.ca.as_mut().unwrap();
            stored.certificate = ca.certificates.into_bytes();
            stored.key = ca.key.into_bytes();
        }),
        ("previous lost", |cluster| {
            cluster.ca.as_mut().unwrap().previous.clear()
        }),
        ("previous damaged", |cluster| {
            cluster.ca.as_mut().unwrap().previous = b"-----BEGIN CERTIFICATE-----".to_vec();
        }),
        ("crash", Cluster::crash),
    ];
    for (name, trouble) in troubles {
        for seconds in (0..=240).step_by(15) {
            let mut cluster = Cluster::settled();
            cluster.rotate = Some("1".to_owned());
            live(&mut cluster, SECOND * seconds);
            trouble(&mut cluster);
            if seconds % 2 == 0 {
                cluster.crash();
            }
            settle(&mut cluster);
            let writes = cluster.writes.len();
            assert!(
                writes <= 12,
                "{name} after {seconds} s: {:?}",
                cluster.writes
            );
        }
    }
}

#[test]
fn incident_22_a_clock_that_jumps_is_followed_at_once() {
    let days = [
        -2000.0, -400.0, -100.0, -1.0, -0.1, 0.1, 31.0, 61.0, 100.0, 250.0, 400.0, 2000.0,
    ];
    for days in days {
        for seconds in [0, 20, 60, 80, 120, 140] {
            let mut cluster = Cluster::settled();
            cluster.rotate = Some("1".to_owned());
            live(&mut cluster, SECOND * seconds);
            // And back again once it has settled.
            for days in [days, -days] {
                cluster.writes.clear();
                cluster.jump(days);
                recover(&mut cluster);
                assert!(cluster.writes.len() <= WRITES_MAX, "{:?}", cluster.writes);
            }
        }
    }
}

/// Replicas would refuse such a pair, and new ones not become ready.
#[test]
fn a_leaf_secret_with_a_damaged_issuer_is_written_again() {
    let mut cluster = Cluster::settled();
    let no_x509 = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    cluster.edit(Object::LeafCertificate, |pem| {
        pem.extend_from_slice(no_x509)
    });
    recover(&mut cluster);
    assert_eq!(cluster.writes, [Write::Leaf(Why::Unreadable)]);
}

/// A clock that was never set is in 1970, where hardly a certificate can be valid.
#[test]
fn incident_22_a_clock_that_was_never_set() {
    let mut cluster = Cluster::new();
    cluster.clock = SystemTime::UNIX_EPOCH;
    cluster.settle_in();
    cluster.jump(20_000.0);
    recover(&mut cluster);
}

fn recover(cluster: &mut Cluster) {
    heal(cluster, false);
    settle(cluster);
}

/// What is stored is right at once. If all was well after the trouble, and it `is_felt` by nobody, it
/// stays so; else it is well once copies are not late any more.
fn heal(cluster: &mut Cluster, is_felt: bool) {
    cluster.publish();
    let stays_well = cluster.check().is_ok() && !is_felt;
    cluster.control();
    cluster.check_stored().unwrap();
    if !stays_well {
        for _ in 0..2 {
            cluster.pass(ROTATION_WAIT);
            cluster.control();
        }
    }
    cluster.check().unwrap();
}

#[derive(Debug, Clone)]
enum Trouble {
    Loss(Object),
    /// The first so many bytes, in thousandths of its length, are left.
    Cut(Object, usize),
    /// One bit is another, at so many thousandths of its length.
    Bit(Object, usize, u8),
    Bytes(Object, Vec<u8>),
    /// All of it is someone else's.
    Foreign(Object),
    /// A certificate of someone else's is there besides.
    Extra(Object),
    Rotate(u8),
    Names(bool),
    Jump(f64),
    Crash,
}

fn object() -> impl Strategy<Value = Object> {
    use Object::{
        Bundle, CaCertificate, CaKey, CaSecret, LeafCertificate, LeafKey, LeafSecret, Previous,
    };
    prop::sample::select(vec![
        CaCertificate,
        CaKey,
        Previous,
        CaSecret,
        LeafCertificate,
        LeafKey,
        LeafSecret,
        Bundle,
    ])
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        object().prop_map(Trouble::Loss),
        (object(), 0..1000_usize).prop_map(|(object, at)| Trouble::Cut(object, at)),
        (object(), 0..1000_usize, 0..8_u8)
            .prop_map(|(object, at, bit)| Trouble::Bit(object, at, bit)),
        (object(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(object, bytes)| Trouble::Bytes(object, bytes)),
        object().prop_map(Trouble::Foreign),
        object().prop_map(Trouble::Extra),
        any::<u8>().prop_map(Trouble::Rotate),
        any::<bool>().prop_map(Trouble::Names),
        (-1000.0..1000.0).prop_map(Trouble::Jump),
        Just(Trouble::Crash),
    ]
}

impl Trouble {
    /// Whether it takes from replicas or API servers what they need: then nothing can be promised until
    /// it is healed.
    fn is_felt(&self, cluster: &Cluster) -> bool {
        let (Self::Loss(object)
        | Self::Cut(object, _)
        | Self::Bit(object, ..)
        | Self::Bytes(object, _)
        | Self::Foreign(object)
        | Self::Extra(object)) = self
        else {
            return false;
        };
        let is_leaf = matches!(
            object,
            Object::LeafCertificate | Object::LeafKey | Object::LeafSecret
        );
        is_leaf && !cluster.is_at_rest()
    }

    fn happen(&self, cluster: &mut Cluster) {
        let foreign = foreign_ca();
        match self {
            Self::Loss(object) => match object {
                Object::CaSecret => cluster.ca = None,
                Object::LeafSecret => cluster.leaf = None,
                Object::Bundle => cluster.bundle = None,
                _ => cluster.edit(*object, |bytes| bytes.clear()),
            },
            Self::Cut(object, at) => {
                cluster.edit(*object, |bytes| bytes.truncate(bytes.len() * at / 1000))
            }
            Self::Bit(object, at, bit) => cluster.edit(*object, |bytes| {
                let at = bytes.len() * at / 1000;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }),
            Self::Bytes(object, new) => cluster.edit(*object, |bytes| bytes.clone_from(new)),
            Self::Foreign(object) => {
                let is_key = matches!(object, Object::CaKey | Object::LeafKey);
                let new = if is_key {
                    foreign.key
                } else {
                    foreign.certificates
                };
                cluster.edit(*object, |bytes| *bytes = new.clone().into_bytes());
            }
            Self::Extra(object) => {
                cluster.edit(*object, |bytes| {
                    bytes.extend_from_slice(foreign.certificates.as_bytes())
                });
            }
            Self::Rotate(value) => cluster.rotate = Some(value.to_string()),
            Self::Names(more) => {
                cluster.names.truncate(1);
                cluster.names.extend(more.then(|| "10.0.0.1".to_owned()));
            }
            Self::Jump(days) => cluster.jump(*days),
            Self::Crash => cluster.crash(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens, and whenever: the next writes, at most five, make it right again; it holds from
    /// then on; and the writes come to an end.
    #[test]
    fn incident_20_any_loss_at_any_time_is_healed(
        troubles in prop::collection::vec((trouble(), 0..200_u32), 1..5),
    ) {
        let mut cluster = Cluster::settled();
        for (trouble, seconds) in troubles {
            let is_felt = trouble.is_felt(&cluster);
            trouble.happen(&mut cluster);
            heal(&mut cluster, is_felt);
            live(&mut cluster, SECOND * seconds);
        }
        settle(&mut cluster);
    }
}

fn foreign_ca() -> PemPair {
    let at = SystemTime::UNIX_EPOCH + DAY * 20_000;
    CertificateAuthority::generate(at).unwrap().to_pair()
}

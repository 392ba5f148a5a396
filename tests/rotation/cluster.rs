//! A cluster in memory: the three objects, the copies of them that are in use, and a controller that
//! does what `next` says.
//!
//! Copies lag: an API server may use any bundle, and a replica serve any leaf, that was replaced less
//! than the wait ago. [`Cluster::check`] tries every pair of them. Time passes only by [`Cluster::pass`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use pullpass::pki::rotation::{
    Observed, ROTATION_WAIT, Step, StoredCa, StoredLeaf, Timing, Unchanged, Why, bundle, next,
};
use pullpass::pki::verify::{CertificateFacts, VerifyError, verify};
use pullpass::pki::{parse_chain, parse_key};

pub(crate) const NAME: &str = "pullpass-webhook.pullpass.svc";
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most writes at one moment: CA, bundle, leaf, and once more CA and bundle.
const WRITES_AT_ONCE_MAX: usize = 5;

#[derive(Clone)]
pub(crate) struct CaSecret {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) previous: Vec<u8>,
}

#[derive(Clone, PartialEq)]
pub(crate) struct LeafSecret {
    pub(crate) certificates: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// What may be damaged by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Object {
    CaCertificate,
    CaKey,
    Previous,
    CaSecret,
    LeafCertificate,
    LeafKey,
    LeafSecret,
    Bundle,
}

/// A value, and the time since the start at which it was replaced.
struct Copy<T> {
    value: T,
    replaced_at: Option<Duration>,
}

/// A kind of write, as the tests count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Ca(Why),
    Bundle,
    Leaf(Why),
}

pub(crate) struct Cluster {
    /// What all clocks but the controller's show.
    pub(crate) clock: SystemTime,
    /// How far the controller's clock is ahead (or, if negative, late), in seconds.
    pub(crate) skew_seconds: i64,
    /// Time since the start, whatever the clocks show.
    elapsed: Duration,
    started: Instant,
    pub(crate) ca: Option<CaSecret>,
    pub(crate) rotate: Option<String>,
    pub(crate) rotated: Option<String>,
    pub(crate) leaf: Option<LeafSecret>,
    pub(crate) bundle: Option<Vec<u8>>,
    pub(crate) names: Vec<String>,
    bundle_copies: Vec<Copy<Vec<u8>>>,
    leaf_copies: Vec<Copy<LeafSecret>>,
    bundle_seen: Unchanged,
    leaf_seen: Unchanged,
    /// Whether the controller dies after each write.
    pub(crate) crash_after_each_write: bool,
    pub(crate) writes: Vec<Write>,
}

impl Cluster {
    /// An empty cluster.
    pub(crate) fn new() -> Self {
        Self {
            clock: SystemTime::UNIX_EPOCH + DAY * 20_000,
            skew_seconds: 0,
            elapsed: Duration::ZERO,
            started: Instant::now(),
            ca: None,
            rotate: None,
            rotated: None,
            leaf: None,
            bundle: None,
            names: vec![NAME.to_owned()],
            bundle_copies: Vec::new(),
            leaf_copies: Vec::new(),
            bundle_seen: Unchanged::default(),
            leaf_seen: Unchanged::default(),
            crash_after_each_write: false,
            writes: Vec::new(),
        }
    }

    /// One whose first certificates have reached everyone.
    pub(crate) fn settled() -> Self {
        let mut cluster = Self::new();
        cluster.settle_in();
        cluster
    }

    /// Lets the first certificates reach everyone.
    pub(crate) fn settle_in(&mut self) {
        for _ in 0..3 {
            self.control();
            self.pass(ROTATION_WAIT);
        }
        self.assert_at_rest();
        self.writes.clear();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.clock += time;
        let is_in_use = |replaced_at: Option<Duration>| {
            replaced_at.is_none_or(|replaced_at| self.elapsed < replaced_at + ROTATION_WAIT)
        };
        self.bundle_copies
            .retain(|copy| is_in_use(copy.replaced_at));
        self.leaf_copies.retain(|copy| is_in_use(copy.replaced_at));
    }

    /// The controller's memory is lost.
    pub(crate) fn crash(&mut self) {
        self.bundle_seen = Unchanged::default();
        self.leaf_seen = Unchanged::default();
    }

    /// Everything stored reaches whoever reads it, sooner or later.
    pub(crate) fn publish(&mut self) {
        let replaced_at = Some(self.elapsed);
        let bundle = self.bundle.clone().unwrap_or_default();
        if self
            .bundle_copies
            .last()
            .is_none_or(|copy| copy.value != bundle)
        {
            if let Some(copy) = self.bundle_copies.last_mut() {
                copy.replaced_at = replaced_at;
            }
            self.bundle_copies.push(Copy {
                value: bundle,
                replaced_at: None,
            });
        }
        // A replica keeps its last good pair.
        let Some(leaf) = self.leaf.clone().filter(is_usable) else {
            return;
        };
        if self
            .leaf_copies
            .last()
            .is_none_or(|copy| copy.value != leaf)
        {
            if let Some(copy) = self.leaf_copies.last_mut() {
                copy.replaced_at = replaced_at;
            }
            self.leaf_copies.push(Copy {
                value: leaf,
                replaced_at: None,
            });
        }
    }

    /// The controller looks and writes until it has nothing to write. Returns how long it wants to
    /// wait. Never goes on for ever.
    pub(crate) fn control(&mut self) -> Duration {
        for _ in 0..=WRITES_AT_ONCE_MAX {
            self.publish();
            match self.next() {
                Step::Wait { at_most } => return at_most,
                step => self.write(step),
            }
            if self.crash_after_each_write {
                self.crash();
            }
        }
        let writes = self.writes.len().saturating_sub(WRITES_AT_ONCE_MAX + 1);
        panic!("writes without end: {:?}", &self.writes[writes..]);
    }

    fn next(&mut self) -> Step {
        let instant = self.started + self.elapsed;
        let leaf_bytes = self.leaf.as_ref().map(|leaf| &*leaf.certificates);
        let skew = Duration::from_secs(self.skew_seconds.unsigned_abs());
        let clock = match self.skew_seconds {
            0.. => self.clock + skew,
            _ => self.clock - skew,
        };
        let observed = Observed {
            ca: self.ca.as_ref().map(|ca| StoredCa {
                certificate: &ca.certificate,
                key: &ca.key,
                previous: &ca.previous,
            }),
            leaf: self.leaf.as_ref().map(|leaf| StoredLeaf {
                certificates: &leaf.certificates,
                key: &leaf.key,
            }),
            bundle: self.bundle.as_deref(),
            names: &self.names,
            rotate: self.rotate.as_deref(),
            rotated: self.rotated.as_deref(),
            bundle_seen_for: self.bundle_seen.see(self.bundle.as_deref(), instant),
            leaf_seen_for: self.leaf_seen.see(leaf_bytes, instant),
        };
        next(&observed, clock, &Timing::default()).unwrap()
    }

    fn write(&mut self, step: Step) {
        match step {
            Step::WriteCa {
                ca,
                previous_pem,
                rotated,
                why,
            } => {
                self.ca = Some(CaSecret {
                    certificate: ca.certificates.into_bytes(),
                    key: ca.key.into_bytes(),
                    previous: previous_pem.into_bytes(),
                });
                self.rotated = rotated;
                self.writes.push(Write::Ca(why));
            }
            Step::ApplyBundle { pem } => {
                self.bundle = Some(pem.into_bytes());
                self.writes.push(Write::Bundle);
            }
            Step::WriteLeaf { pair, ca_pem, why } => {
                let ca = self.ca.as_ref().unwrap();
                assert_eq!(ca_pem, bundle(&ca.certificate, b""));
                assert!(pair.certificates.ends_with(&ca_pem));
                self.leaf = Some(LeafSecret {
                    certificates: pair.certificates.into_bytes(),
                    key: pair.key.into_bytes(),
                });
                self.writes.push(Write::Leaf(why));
            }
            Step::Wait { .. } => panic!("a wait is no write"),
        }
    }

    /// Whether every leaf in service is accepted by every API server.
    pub(crate) fn check(&self) -> Result<(), VerifyError> {
        assert!(!self.leaf_copies.is_empty() && !self.bundle_copies.is_empty());
        for leaf in &self.leaf_copies {
            for bundle in &self.bundle_copies {
                self.accepts(&leaf.value, &bundle.value)?;
            }
        }
        Ok(())
    }

    /// Whether what is stored now works, once it has reached everyone.
    pub(crate) fn check_stored(&self) -> Result<(), VerifyError> {
        self.accepts(self.leaf.as_ref().unwrap(), self.bundle.as_ref().unwrap())
    }

    fn accepts(&self, leaf: &LeafSecret, bundle: &[u8]) -> Result<(), VerifyError> {
        verify(&leaf.certificates, bundle, NAME, self.clock)
    }

    /// Changes the bytes of an object that is there.
    pub(crate) fn edit(&mut self, object: Object, mut change: impl FnMut(&mut Vec<u8>)) {
        use Object as O;
        if let Some(ca) = &mut self.ca {
            match object {
                O::CaCertificate => change(&mut ca.certificate),
                O::CaKey => change(&mut ca.key),
                O::Previous => change(&mut ca.previous),
                O::CaSecret => [&mut ca.certificate, &mut ca.key, &mut ca.previous]
                    .into_iter()
                    .for_each(&mut change),
                _ => {}
            }
        }
        if let Some(leaf) = &mut self.leaf {
            match object {
                O::LeafCertificate => change(&mut leaf.certificates),
                O::LeafKey => change(&mut leaf.key),
                O::LeafSecret => [&mut leaf.certificates, &mut leaf.key]
                    .into_iter()
                    .for_each(&mut change),
                _ => {}
            }
        }
        if let (Some(bundle), O::Bundle) = (&mut self.bundle, object) {
            change(bundle);
        }
    }

    /// All clocks jump by so many days, while nothing else happens.
    pub(crate) fn jump(&mut self, days: f64) {
        let distance = DAY.mul_f64(days.abs());
        if days < 0.0 {
            self.clock -= distance;
        } else {
            self.clock += distance;
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let alone = self.ca.as_ref().map(|ca| bundle(&ca.certificate, b""));
        alone.as_deref().map(str::as_bytes) == self.bundle.as_deref()
            && self.bundle_copies.len() == 1
            && self.leaf_copies.len() == 1
    }

    /// That nothing is left of any change: one CA, nothing else trusted, its leaf.
    pub(crate) fn assert_at_rest(&self) {
        let ca = self.ca.as_ref().unwrap();
        let alone = bundle(&ca.certificate, b"");
        assert_eq!(self.bundle.as_deref(), Some(alone.as_bytes()));
        self.check_stored().unwrap();
        self.check().unwrap();
    }

    /// First second, time of renewal and last second of every certificate in use.
    pub(crate) fn boundaries(&self) -> BTreeSet<SystemTime> {
        let mut boundaries = BTreeSet::new();
        let leaves = self
            .leaf_copies
            .iter()
            .map(|copy| &*copy.value.certificates);
        let bundles = self.bundle_copies.iter().map(|copy| &*copy.value);
        for pem in leaves.chain(bundles) {
            for certificate in parse_chain(pem).unwrap_or_default() {
                let facts = CertificateFacts::read(&certificate).unwrap();
                boundaries.extend([facts.not_before, facts.renew_at(), facts.not_after]);
            }
        }
        boundaries
    }
}

fn is_usable(pair: &LeafSecret) -> bool {
    use rustls::crypto::aws_lc_rs::default_provider;
    let (Ok(chain), Ok(key)) = (parse_chain(&pair.certificates), parse_key(&pair.key)) else {
        return false;
    };
    // As the webhook does, for its metrics.
    if !chain.iter().all(|one| CertificateFacts::read(one).is_ok()) {
        return false;
    }
    rustls::sign::CertifiedKey::from_der(chain, key, &default_provider()).is_ok()
}

//! What to write next so that the webhook is always served by a certificate that API servers trust.
//!
//! A pure function of what is stored, [`next`], asked again after each write and after each [`POLL`]:
//! nothing is remembered between two calls, so a crash between any two writes changes nothing. This
//! module must not do I/O and reads no clock; its caller says what time it is and for how long it has
//! seen things.
//!
//! Three objects take part, and each has copies that lag by up to [`Timing::rotation_wait`]:
//!
//! ```text
//! CA Secret       ca.crt ca.key, previous.crt     only the controller reads it
//! caBundle        ca.crt + previous.crt           every API server has a copy
//! leaf Secret     tls.crt tls.key                 every webhook replica has a copy
//! ```
//!
//! **Safety.** Whichever copy of the leaf a replica serves and whichever copy of the bundle an API
//! server has, the one verifies against the other. Hence a rotation in four writes:
//!
//! ```text
//! CA Secret: new CA, the old one becomes previous -> caBundle: both -> wait
//!     -> leaf of the new CA -> wait -> CA Secret: no previous -> caBundle: the new one alone
//! ```
//!
//! The rules, in the order of the code:
//!
//! 1. A CA that is lost, damaged, or out of its life is made again. What the present leaf depends on
//!    stays trusted as `previous`.
//! 2. The bundle is the CA, what is `previous`, and what the present leaf or a late copy of it may still
//!    depend on. Anything else in it is replaced.
//! 3. A leaf that no API server accepts is issued again at once: there is nothing to lose.
//! 4. A CA is rotated when two thirds of its life are over or when asked to, one rotation at a time.
//! 5. A leaf that is still accepted is issued again once the bundle has been there for the wait, or at
//!    once by the CA that issued it.
//! 6. `previous` is retired once the leaf of the CA has been there for the wait.
//!
//! Two clocks are used for two things. Lives of certificates are compared with the wall clock, looked
//! at each [`POLL`], because a monotonic one stands still while a machine sleeps. Waits are measured by
//! the caller with a monotonic clock ([`Unchanged`]), because a wall clock may jump over them.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;

use super::verify::{CertificateFacts, canonical_name, verify_chain, verify_name};
use super::{
    CertificateAuthority, LEAF_LIFETIME, PemPair, PkiError, authority, parse_chain,
    readable_certificates, to_pem,
};

/// How long [`Step::Wait`] is at most: a wall clock may have jumped meanwhile.
pub const POLL: Duration = Duration::from_secs(60);

/// Default of [`Timing::rotation_wait`]: an API server's informer and the webhook's watch deliver within
/// a second; the rest is for one that has to be opened anew.
pub const ROTATION_WAIT: Duration = Duration::from_secs(60);

/// Most certificates in a bundle: one rotation needs two, a CA that is lost amid it three. Clients try
/// each, because all have the same name: webpki gives up after 100 signatures, Go after 100 too.
pub const BUNDLE_CERTIFICATES_MAX: usize = 8;

/// How long the parts of a cluster may lag behind each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long an API server may use an old bundle, or a webhook replica an old leaf. Default
    /// [`ROTATION_WAIT`].
    pub rotation_wait: Duration,
}

/// What is stored in the cluster now, as raw as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The CA Secret; `None` if there is none.
    pub ca: Option<StoredCa<'a>>,
    /// The leaf Secret; `None` if there is none.
    pub leaf: Option<StoredLeaf<'a>>,
    /// `caBundle` of the webhook configuration, PEM (not base64); `None` if it has none.
    pub bundle: Option<&'a [u8]>,
    /// DNS names or IP addresses that the leaf is for; at least one.
    pub names: &'a [String],
    /// Value of the annotation that asks for a rotation; the empty one asks for nothing.
    pub rotate: Option<&'a str>,
    /// Value of the annotation that says which rotation was made last.
    pub rotated: Option<&'a str>,
    /// For how long this process has seen `bundle` as it is, by [`Unchanged`]; `None` if there is none.
    pub bundle_seen_for: Option<Duration>,
    /// For how long this process has seen the `tls.crt` of `leaf` as it is, by [`Unchanged`]; `None` if
    /// there is none.
    pub leaf_seen_for: Option<Duration>,
}

/// The CA Secret's data. A key that is missing is empty here.
#[derive(Clone, Copy)]
pub struct StoredCa<'a> {
    /// `ca.crt`: PEM, of which the first certificate counts.
    pub certificate: &'a [u8],
    /// `ca.key`: PEM, PKCS#8.
    pub key: &'a [u8],
    /// `previous.crt`: PEM certificates that stay trusted. What cannot be read in it is skipped.
    pub previous: &'a [u8],
}

/// The leaf Secret's data. A key that is missing is empty here.
#[derive(Clone, Copy)]
pub struct StoredLeaf<'a> {
    /// `tls.crt`: PEM, leaf first.
    pub certificates: &'a [u8],
    /// `tls.key`: PEM, PKCS#8.
    pub key: &'a [u8],
}

/// What to do next; after a write, once it is observed, ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the CA Secret.
    WriteCa {
        /// `ca.crt` and `ca.key`; those that are there already if `why` is [`Why::Retire`].
        ca: PemPair,
        /// `previous.crt`; empty for none.
        previous_pem: String,
        /// The value of the annotation that says which rotation was made last; `None` for no
        /// annotation.
        rotated: Option<String>,
        /// The reason.
        why: Why,
    },
    /// Write the bundle into the webhook configuration.
    ApplyBundle {
        /// PEM.
        pem: String,
    },
    /// Write the leaf Secret.
    WriteLeaf {
        /// `tls.crt`, leaf then CA, and `tls.key`.
        pair: PemPair,
        /// `ca.crt`.
        ca_pem: String,
        /// The reason.
        why: Why,
    },
    /// Nothing to write: look again after this at the latest, and after each change.
    Wait {
        /// At most [`POLL`]. By a monotonic clock.
        at_most: Duration,
    },
}

/// Why a Secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// There is none.
    Absent,
    /// It cannot be read, or its key is that of another certificate, or the CA is not one that
    /// pullpass made.
    Unreadable,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet: the clock was ahead when it was made, or is late now.
    NotYetValid,
    /// Two thirds of its life are over.
    Due,
    /// A rotation of the CA was asked for.
    Requested,
    /// No leaf that the CA issues verifies against it.
    Unusable,
    /// The leaf is not for the names it has to be for.
    Names,
    /// The leaf was issued by another CA.
    Issuer,
    /// No replica serves a leaf of the previous CA any more.
    Retire,
}

impl Why {
    /// Whether something was lost or damaged, rather than replaced in time.
    pub fn is_loss(self) -> bool {
        matches!(
            self,
            Self::Absent | Self::Unreadable | Self::Expired | Self::NotYetValid | Self::Unusable
        )
    }
}

/// Says what to write next, given what is stored and the time.
///
/// # Errors
/// [`PkiError::Name`] if a name can be in no certificate, [`PkiError::Clock`] or
/// [`PkiError::Generate`] if none can be made at all.
pub fn next(observed: &Observed<'_>, now: SystemTime, timing: &Timing) -> Result<Step, PkiError> {
    // No certificate is valid before 1970.
    let look = Look::new(observed, now.max(SystemTime::UNIX_EPOCH), timing);
    let ca = match look.ca() {
        Ok(ca) => ca,
        Err(why) => return look.new_ca(why),
    };
    let previous = look.previous(&ca);
    let target = look.bundle(&ca, &previous);
    if observed.bundle != Some(target.as_bytes()) {
        return Ok(Step::ApplyBundle { pem: target });
    }
    let fault = look.leaf_fault(&ca);
    if let Some(why) = fault
        && !look.leaf_is_accepted()
    {
        return look.issue(&ca, why);
    }
    if previous.is_empty()
        && let Some(why) = look.rotation(&ca)
    {
        return look.new_ca(why);
    }
    if let Some(why) = fault {
        if look.bundle_is_everywhere() || look.depends_on(&ca.certificate) {
            return look.issue(&ca, why);
        }
    } else if !previous.is_empty() && look.leaf_is_everywhere() {
        return Ok(look.retire(&ca));
    }
    Ok(look.wait())
}

/// The bundle for a CA and what is `previous`, PEM: the CA first, each certificate once, what cannot be
/// read left out. What [`next`] applies, unless the present leaf depends on more.
pub fn bundle(ca_pem: &[u8], previous_pem: &[u8]) -> String {
    let mut all = readable_certificates(ca_pem);
    all.truncate(1);
    for certificate in readable_certificates(previous_pem) {
        if !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    to_pem(&all)
}

/// Whether every certificate of `certificates` is in `bundle`, and there is one. Both PEM.
pub fn bundle_contains(bundle: &[u8], certificates: &[u8]) -> bool {
    let bundle = readable_certificates(bundle);
    let wanted = readable_certificates(certificates);
    !wanted.is_empty() && wanted.iter().all(|one| bundle.contains(one))
}

/// Measures for how long a value has been seen as it is.
#[derive(Debug, Clone, Default)]
pub struct Unchanged {
    seen: Option<(Vec<u8>, Instant)>,
}

impl Unchanged {
    /// Notes the value, and says for how long each call has had the same one; `None` if there is none.
    pub fn see(&mut self, value: Option<&[u8]>, now: Instant) -> Option<Duration> {
        if self.seen.as_ref().map(|(seen, _)| &**seen) != value {
            self.seen = value.map(|value| (value.to_owned(), now));
        }
        let (_, since) = self.seen.as_ref()?;
        Some(now.duration_since(*since))
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rotation_wait: ROTATION_WAIT,
        }
    }
}

/// One look at what is stored, read.
struct Look<'a> {
    observed: &'a Observed<'a>,
    now: SystemTime,
    rotation_wait: Duration,
    bundle: Vec<CertificateDer<'static>>,
    leaf: Result<Leaf, Why>,
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    facts: CertificateFacts,
}

struct Ca {
    authority: CertificateAuthority,
    certificate: CertificateDer<'static>,
    facts: CertificateFacts,
}

impl Leaf {
    fn read(stored: StoredLeaf<'_>) -> Result<Self, PkiError> {
        let chain = parse_chain(stored.certificates)?;
        let first = chain.first().ok_or(PkiError::NoCertificate)?;
        authority::key_of(first, stored.key)?;
        // Replicas read all of the chain, and refuse the pair if they cannot.
        let facts: Result<Vec<_>, _> = chain.iter().map(CertificateFacts::read).collect();
        let facts = facts?.into_iter().next().ok_or(PkiError::NoCertificate)?;
        Ok(Self { chain, facts })
    }
}

impl Ca {
    fn read(stored: StoredCa<'_>) -> Result<Self, PkiError> {
        let authority = CertificateAuthority::from_pem(stored.certificate, stored.key)?;
        let certificate = authority.certificate().clone();
        let facts = CertificateFacts::read(&certificate)?;
        Ok(Self {
            authority,
            certificate,
            facts,
        })
    }
}

impl<'a> Look<'a> {
    fn new(observed: &'a Observed<'a>, now: SystemTime, timing: &Timing) -> Self {
        let leaf = observed.leaf.ok_or(Why::Absent);
        Self {
            observed,
            now,
            rotation_wait: timing.rotation_wait,
            bundle: readable_certificates(observed.bundle.unwrap_or_default()),
            leaf: leaf.and_then(|stored| Leaf::read(stored).map_err(|_| Why::Unreadable)),
        }
    }

    /// The CA, if it can issue now.
    fn ca(&self) -> Result<Ca, Why> {
        let stored = self.observed.ca.ok_or(Why::Absent)?;
        let ca = Ca::read(stored).map_err(|_| Why::Unreadable)?;
        match out_of_life(&ca.facts, self.now) {
            Some(why) => Err(why),
            None => Ok(ca),
        }
    }

    /// What the CA Secret keeps trusted besides the CA.
    fn previous(&self, ca: &Ca) -> Vec<CertificateDer<'static>> {
        let stored = self.observed.ca.map(|stored| stored.previous);
        let mut previous = readable_certificates(stored.unwrap_or_default());
        previous.retain(|one| *one != ca.certificate);
        previous
    }

    /// The bundle to apply.
    fn bundle(&self, ca: &Ca, previous: &[CertificateDer<'static>]) -> String {
        let mut all = vec![ca.certificate.clone()];
        all.extend_from_slice(previous);
        let leaf_is_covered = self.leaf_verifies(&all);
        let is_needed = |one: &CertificateDer<'static>| {
            // A late replica may serve a leaf of any CA made here.
            let for_late = !self.leaf_is_everywhere() && authority::is_made_here(one);
            for_late || (!leaf_is_covered && self.depends_on(one))
        };
        for one in &self.bundle {
            if !all.contains(one) && is_needed(one) {
                all.push(one.clone());
            }
        }
        if all.len() > BUNDLE_CERTIFICATES_MAX {
            all.sort_by_key(|one| (*one != ca.certificate, !self.depends_on(one)));
            all.truncate(BUNDLE_CERTIFICATES_MAX);
        }
        to_pem(&all)
    }

    /// Why the leaf has to be issued again.
    fn leaf_fault(&self, ca: &Ca) -> Option<Why> {
        let leaf = match &self.leaf {
            Ok(leaf) => leaf,
            Err(why) => return Some(*why),
        };
        if let Some(why) = out_of_life(&leaf.facts, self.now) {
            return Some(why);
        }
        let mut names: Vec<_> = self
            .observed
            .names
            .iter()
            .map(|n| canonical_name(n))
            .collect();
        names.sort();
        names.dedup();
        if leaf.facts.names != names {
            return Some(Why::Names);
        }
        if !self.depends_on(&ca.certificate) {
            return Some(Why::Issuer);
        }
        (leaf.facts.renew_at() <= self.now).then_some(Why::Due)
    }

    fn leaf_verifies(&self, roots: &[CertificateDer<'_>]) -> bool {
        let verifies = |leaf: &Leaf| verify_chain(&leaf.chain, roots, self.now).is_ok();
        self.leaf.as_ref().is_ok_and(verifies)
    }

    fn depends_on(&self, root: &CertificateDer<'static>) -> bool {
        self.leaf_verifies(std::slice::from_ref(root))
    }

    /// Whether an API server that has this bundle accepts this leaf, under any of the names.
    fn leaf_is_accepted(&self) -> bool {
        let Ok(leaf) = &self.leaf else { return false };
        let mut names = self.observed.names.iter();
        self.leaf_verifies(&self.bundle) && names.any(|name| verify_name(&leaf.chain, name).is_ok())
    }

    /// Why the CA has to be rotated, although it is good.
    fn rotation(&self, ca: &Ca) -> Option<Why> {
        let requested = self.request();
        if requested.is_some() && requested != self.observed.rotated {
            return Some(Why::Requested);
        }
        (ca.facts.renew_at() <= self.now).then_some(Why::Due)
    }

    fn request(&self) -> Option<&'a str> {
        self.observed.rotate.filter(|value| !value.is_empty())
    }

    fn bundle_is_everywhere(&self) -> bool {
        self.observed.bundle_seen_for >= Some(self.rotation_wait)
    }

    fn leaf_is_everywhere(&self) -> bool {
        self.observed.leaf_seen_for >= Some(self.rotation_wait)
    }

    /// A new CA; it is what every request so far has asked for.
    fn new_ca(&self, why: Why) -> Result<Step, PkiError> {
        let authority = CertificateAuthority::generate(self.now)?;
        let previous = self.bundle.iter().filter(|one| self.depends_on(one));
        Ok(Step::WriteCa {
            ca: authority.to_pair(),
            previous_pem: to_pem(previous.take(BUNDLE_CERTIFICATES_MAX - 1)),
            rotated: self.request().or(self.observed.rotated).map(str::to_owned),
            why,
        })
    }

    fn retire(&self, ca: &Ca) -> Step {
        Step::WriteCa {
            ca: ca.authority.to_pair(),
            previous_pem: String::new(),
            rotated: self.observed.rotated.map(str::to_owned),
            why: Why::Retire,
        }
    }

    fn issue(&self, ca: &Ca, why: Why) -> Result<Step, PkiError> {
        let names = self.observed.names;
        let mut pair = ca.authority.issue(names, self.now, LEAF_LIFETIME)?;
        // Without this a CA that has our name in another encoding, say, would issue leaves for ever.
        let chain = parse_chain(pair.certificates.as_bytes())?;
        if verify_chain(&chain, std::slice::from_ref(&ca.certificate), self.now).is_err() {
            return self.new_ca(Why::Unusable);
        }
        pair.certificates += ca.authority.certificate_pem();
        Ok(Step::WriteLeaf {
            pair,
            ca_pem: ca.authority.certificate_pem().to_owned(),
            why,
        })
    }

    fn wait(&self) -> Step {
        let seen = [self.observed.bundle_seen_for, self.observed.leaf_seen_for];
        let rest = seen.map(|seen| self.rotation_wait.saturating_sub(seen.unwrap_or_default()));
        let rest = rest.into_iter().filter(|rest| !rest.is_zero()).min();
        Step::Wait {
            at_most: rest.map_or(POLL, |rest| rest.min(POLL)),
        }
    }
}

fn out_of_life(facts: &CertificateFacts, now: SystemTime) -> Option<Why> {
    if now < facts.not_before {
        Some(Why::NotYetValid)
    } else if now > facts.not_after {
        Some(Why::Expired)
    } else {
        None
    }
}

impl fmt::Debug for StoredCa<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCa").finish_non_exhaustive()
    }
}

impl fmt::Debug for StoredLeaf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredLeaf").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn stored<'a>(ca: &'a PemPair, previous: &'a str) -> StoredCa<'a> {
        StoredCa {
            certificate: ca.certificates.as_bytes(),
            key: ca.key.as_bytes(),
            previous: previous.as_bytes(),
        }
    }

    fn observed<'a>(
        ca: Option<StoredCa<'a>>,
        bundle: &'a str,
        names: &'a [String],
    ) -> Observed<'a> {
        Observed {
            ca,
            leaf: None,
            bundle: Some(bundle.as_bytes()),
            names,
            rotate: None,
            rotated: None,
            bundle_seen_for: None,
            leaf_seen_for: None,
        }
    }

    fn ca() -> CertificateAuthority {
        CertificateAuthority::generate(now()).unwrap()
    }

    fn step(observed: &Observed<'_>) -> Step {
        next(observed, now(), &Timing::default()).unwrap()
    }

    #[test]
    fn a_bundle_has_the_ca_first_and_nothing_twice() {
        let (ca, other) = (ca(), ca());
        let (ca, other) = (ca.certificate_pem(), other.certificate_pem());
        let previous = format!("# hello\n{other}{ca}{other}");
        let made = bundle(ca.as_bytes(), previous.as_bytes());
        assert_eq!(made, format!("{ca}{other}"));
        assert!(bundle_contains(made.as_bytes(), ca.as_bytes()));
        assert!(!bundle_contains(ca.as_bytes(), made.as_bytes()));
        assert!(!bundle_contains(ca.as_bytes(), b""));
    }

    /// It would issue leaves for ever, none of which verifies.
    #[test]
    fn a_ca_with_our_name_in_another_encoding_is_made_again() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = DnValue::PrintableString("pullpass CA".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = (now() - Duration::from_secs(60)).into();
        params.not_after = (now() + LEAF_LIFETIME).into();
        let pair = PemPair {
            certificates: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        };
        let names = ["a.b.svc".to_owned()];
        let observed = observed(Some(stored(&pair, "")), &pair.certificates, &names);
        let Step::WriteCa { why, .. } = step(&observed) else {
            panic!("not replaced");
        };
        assert_eq!(why, Why::Unusable);
    }

    #[test]
    fn a_full_bundle_keeps_what_the_leaf_depends_on() {
        let (old, new) = (ca(), ca());
        let others: String = (0..20).map(|_| ca().certificate_pem().to_owned()).collect();
        let names = ["a.b.svc".to_owned()];
        let leaf = old.issue(&names, now(), LEAF_LIFETIME).unwrap();
        let before = format!("{others}{}", old.certificate_pem());
        let pair = new.to_pair();
        let mut observed = observed(Some(stored(&pair, &others)), &before, &names);
        observed.leaf = Some(StoredLeaf {
            certificates: leaf.certificates.as_bytes(),
            key: leaf.key.as_bytes(),
        });
        let Step::ApplyBundle { pem } = step(&observed) else {
            panic!("not applied");
        };
        let applied = parse_chain(pem.as_bytes()).unwrap();
        assert_eq!(applied.len(), BUNDLE_CERTIFICATES_MAX);
        assert_eq!(
            applied[..2],
            [new.certificate().clone(), old.certificate().clone()]
        );
        // And it stays.
        observed.bundle = Some(pem.as_bytes());
        assert!(matches!(step(&observed), Step::Wait { .. }));
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_an_error() {
        let (pair, names) = (ca().to_pair(), ["a b".to_owned()]);
        let observed = observed(Some(stored(&pair, "")), &pair.certificates, &names);
        let error = next(&observed, now(), &Timing::default()).unwrap_err();
        assert_eq!(error, PkiError::Name("a b".to_owned()));
    }

    #[test]
    fn a_clock_beyond_the_years_of_certificates_is_an_error() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
        let error = next(&observed(None, "", &[]), late, &Timing::default()).unwrap_err();
        assert_eq!(error, PkiError::Clock);
    }

    #[test]
    fn an_interruption_starts_the_count_anew() {
        let (mut unchanged, start) = (Unchanged::default(), Instant::now());
        let mut see = |value: &str, second| {
            let value = (!value.is_empty()).then_some(value.as_bytes());
            let seen_for = unchanged.see(value, start + Duration::from_secs(second));
            seen_for.map(|seen_for| seen_for.as_secs())
        };
        assert_eq!(see("", 0), None);
        assert_eq!(see("a", 1), Some(0));
        assert_eq!(see("a", 5), Some(4));
        assert_eq!(see("b", 6), Some(0));
        assert_eq!(see("", 7), None);
        assert_eq!(see("b", 8), Some(0));
    }

    #[test]
    fn debug_shows_no_key() {
        let pair = ca().to_pair();
        let observed = observed(Some(stored(&pair, "")), "", &[]);
        let step = step(&Observed {
            ca: None,
            ..observed
        });
        assert!(matches!(step, Step::WriteCa { .. }));
        assert!(!format!("{observed:?}{step:?}").contains("PRIVATE"));
    }
}

//! What an API server thinks of a certificate: its facts, and whether it would accept it.
//!
//! webpki does the cryptography. Go's `x509.Certificate.Verify` looks at one thing more, the validity
//! of the root itself, and that is added here: a leaf that outlives its CA would otherwise pass. This
//! module must not read a clock.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::{PkiError, parse_chain, readable_certificates};

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Distinguished name, as text.
    pub subject: String,
    /// Distinguished name of who signed it, as text.
    pub issuer: String,
    /// Its DNS names and IP addresses, sorted, as [`canonical_name`] writes them.
    pub names: Vec<String>,
    /// First second of its life.
    pub not_before: SystemTime,
    /// Last second of its life.
    pub not_after: SystemTime,
}

/// Why an API server would refuse a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The chain cannot be read.
    #[error("the served certificate cannot be read: {0}")]
    Chain(PkiError),
    /// The bundle holds no certificate: an API server says "unable to parse bytes as PEM block".
    #[error("the CA bundle holds no certificate that can be read")]
    Bundle,
    /// No certificate of the bundle signed it: "certificate signed by unknown authority".
    #[error("no certificate of the CA bundle has signed the served one")]
    UnknownIssuer,
    /// A certificate of the bundle signed it, but is expired or not valid yet.
    #[error(
        "the CA that signed the served certificate is expired or not valid yet; compare the clocks"
    )]
    IssuerNotValid,
    /// The certificate has expired.
    #[error("the served certificate has expired; compare the clocks")]
    Expired,
    /// The certificate is not valid yet.
    #[error("the served certificate is not valid yet; compare the clocks")]
    NotYetValid,
    /// "certificate is valid for A, not B".
    #[error("the served certificate is not for {0:?}")]
    Name(String),
    /// Anything else, in webpki's words.
    #[error("the served certificate is refused: {0}")]
    Other(String),
}

impl CertificateFacts {
    /// Reads the facts of one certificate.
    ///
    /// # Errors
    /// [`PkiError::X509`] if it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| PkiError::X509)?;
        let validity = parsed.validity();
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: names(&parsed),
            not_before: system_time(validity.not_before).ok_or(PkiError::X509)?,
            not_after: system_time(validity.not_after).ok_or(PkiError::X509)?,
        })
    }

    /// Whether `at` is within its life.
    pub fn is_valid_at(&self, at: SystemTime) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// When two thirds of its life are over: time to make the next one, with the last third as reserve.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before + life.unwrap_or_default() / 3 * 2
    }
}

/// A name as [`CertificateFacts::names`] has it: an IP address in its canonical form, else lower case.
pub fn canonical_name(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// Whether an API server whose `caBundle` is `bundle` accepts `chain` (leaf first) from a server that
/// it calls `name` at this time. All PEM.
///
/// # Errors
/// The reason why not.
pub fn verify(chain: &[u8], bundle: &[u8], name: &str, at: SystemTime) -> Result<(), VerifyError> {
    let chain = parse_chain(chain).map_err(VerifyError::Chain)?;
    let bundle = readable_certificates(bundle);
    if bundle.is_empty() {
        return Err(VerifyError::Bundle);
    }
    verify_chain(&chain, &bundle, at)?;
    verify_name(&chain, name)
}

/// Whether one of `roots` that is valid at this time leads to the first certificate of `chain`.
pub(super) fn verify_chain(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    at: SystemTime,
) -> Result<(), VerifyError> {
    let is_valid = |root: &&CertificateDer<'_>| {
        CertificateFacts::read(root).is_ok_and(|facts| facts.is_valid_at(at))
    };
    let result = anchored(chain, roots.iter().filter(is_valid), at);
    if result == Err(VerifyError::UnknownIssuer) && anchored(chain, roots.iter(), at).is_ok() {
        return Err(VerifyError::IssuerNotValid);
    }
    result
}

/// Whether the first certificate of `chain` is for `name`.
pub(super) fn verify_name(chain: &[CertificateDer<'_>], name: &str) -> Result<(), VerifyError> {
    let refused = || VerifyError::Name(name.to_owned());
    let server_name = ServerName::try_from(name).map_err(|_| refused())?;
    verify_server_name(&leaf(chain)?, &server_name).map_err(|_| refused())
}

fn leaf<'a>(chain: &'a [CertificateDer<'_>]) -> Result<ParsedCertificate<'a>, VerifyError> {
    let first = chain
        .first()
        .ok_or(VerifyError::Chain(PkiError::NoCertificate))?;
    ParsedCertificate::try_from(first).map_err(|_| VerifyError::Chain(PkiError::X509))
}

/// webpki's judgement; the life of the roots does not matter to it.
fn anchored<'a>(
    chain: &[CertificateDer<'_>],
    roots: impl Iterator<Item = &'a CertificateDer<'a>>,
    at: SystemTime,
) -> Result<(), VerifyError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.cloned());
    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH);
    verify_server_cert_signed_by_trust_anchor(
        &leaf(chain)?,
        &store,
        chain.get(1..).unwrap_or_default(),
        UnixTime::since_unix_epoch(since_epoch.unwrap_or_default()),
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    )
    .map_err(|error| match error {
        rustls::Error::InvalidCertificate(error) => refusal(error),
        other => VerifyError::Other(other.to_string()),
    })
}

fn refusal(error: CertificateError) -> VerifyError {
    use CertificateError as E;
    match error {
        // The latter where the bundle has another CA of the same name.
        E::UnknownIssuer | E::BadSignature => VerifyError::UnknownIssuer,
        E::Expired | E::ExpiredContext { .. } => VerifyError::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => VerifyError::NotYetValid,
        other => VerifyError::Other(other.to_string()),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(canonical_name(name)),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(IpAddr::from(four).to_string()),
            Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    };
    let mut names: Vec<_> = extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{BACKDATE, CA_LIFETIME, CertificateAuthority, LEAF_LIFETIME};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    #[test]
    fn incident_20_each_refusal_has_its_reason() {
        let (ca, other) = (
            CertificateAuthority::generate(now()).unwrap(),
            CertificateAuthority::generate(now()).unwrap(),
        );
        let issued = |lifetime| ca.issue(&["a.svc"], now(), lifetime).unwrap().certificates;
        let (leaf, long) = (issued(LEAF_LIFETIME), issued(CA_LIFETIME * 2));
        let day = Duration::from_secs(24 * 60 * 60);
        let check = |leaf: &str, bundle: &str, name: &str, at, expected| {
            assert_eq!(
                verify(leaf.as_bytes(), bundle.as_bytes(), name, at),
                expected
            );
        };
        let (bundle, other) = (ca.certificate_pem(), other.certificate_pem());
        check(&leaf, bundle, "a.svc", now(), Ok(()));
        check(&leaf, &format!("{other}{bundle}"), "a.svc", now(), Ok(()));
        let name = || Err(VerifyError::Name("b.svc".to_owned()));
        check(&leaf, bundle, "b.svc", now(), name());
        check(
            &leaf,
            other,
            "a.svc",
            now(),
            Err(VerifyError::UnknownIssuer),
        );
        check(&leaf, "Cg==", "a.svc", now(), Err(VerifyError::Bundle));
        let none = || Err(VerifyError::Chain(PkiError::NoCertificate));
        check("", bundle, "a.svc", now(), none());
        let at = now() + LEAF_LIFETIME + day;
        check(&leaf, bundle, "a.svc", at, Err(VerifyError::Expired));
        // The leaf lives on, its CA does not: webpki alone would accept it.
        let at = now() + CA_LIFETIME + day;
        check(&long, bundle, "a.svc", at, Err(VerifyError::IssuerNotValid));
        let at = now() - BACKDATE - day;
        check(&leaf, bundle, "a.svc", at, Err(VerifyError::NotYetValid));
    }

    #[test]
    fn facts_are_what_was_issued() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let names = ["B.svc", "a.svc", "0:0::1", "10.0.0.1", "a.svc"];
        let leaf = ca.issue(&names, now(), LEAF_LIFETIME).unwrap();
        let chain = parse_chain(leaf.certificates.as_bytes()).unwrap();
        let facts = CertificateFacts::read(&chain[0]).unwrap();
        assert_eq!(facts.names, ["10.0.0.1", "::1", "a.svc", "b.svc"]);
        assert_eq!(facts.issuer, "CN=pullpass CA");
        assert_eq!(facts.subject, "CN=pullpass");
        assert_eq!(facts.not_before, now() - BACKDATE);
        assert_eq!(facts.not_after, now() + LEAF_LIFETIME);
        assert_eq!(
            facts.renew_at(),
            now() - BACKDATE + (BACKDATE + LEAF_LIFETIME) / 3 * 2
        );
        let ends = [facts.not_before, facts.not_after];
        assert!(ends.into_iter().all(|end| facts.is_valid_at(end)));
        let second = Duration::from_secs(1);
        assert!(!facts.is_valid_at(facts.not_before - second));
        assert!(!facts.is_valid_at(facts.not_after + second));
    }
}

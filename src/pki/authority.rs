//! The CA that pullpass makes for itself, and the leaves it issues.
//!
//! Every CA has the same name, so that one bundle may hold several and each client finds the right one
//! by its signature. This module must not decide when to make one; that is `rotation`.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;

use super::{BACKDATE, CA_LIFETIME, PemPair, PkiError, parse_chain, to_pem};

/// Common name of every CA made here. [`CertificateAuthority::from_pem`] insists on it, because the
/// issuer name of a leaf has to equal it byte for byte.
const CA_NAME: &str = "pullpass CA";

/// Latest end of a certificate, since 1970: X.509 writes years with four digits (RFC 5280 section
/// 4.1.2.5.2), and 8020 years of 365.25 days end in 9990.
const NOT_AFTER_MAX: Duration = Duration::from_secs(8020 * 36525 * 24 * 60 * 60 / 100);

/// A CA that can issue leaves.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new key and a self-signed certificate, valid for [`CA_LIFETIME`] from `now`.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if the crypto library fails.
    pub fn generate(now: SystemTime) -> Result<Self, PkiError> {
        let params = ca_params(now)?;
        let key = new_key()?;
        let certificate = params.self_signed(&key).map_err(generate)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes up a CA that [`Self::generate`] made, from its two PEM texts. The first certificate counts.
    ///
    /// # Errors
    /// [`PkiError`] if they cannot be read or do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let chain = parse_chain(certificate)?;
        let certificate = chain.into_iter().next().ok_or(PkiError::NoCertificate)?;
        let key = key_of(&certificate, key)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| PkiError::X509)?;
        // Go refuses signatures of a CA that has usages, but not this one.
        let usage = parsed.key_usage().map_err(|_| PkiError::X509)?;
        let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
        if !(is_made_here(&certificate) && parsed.is_ca() && may_sign) {
            return Err(PkiError::ForeignCa);
        }
        // Of the parameters only the name, the usages and the key's identifier reach a leaf.
        Ok(Self {
            certificate_pem: to_pem([&certificate]),
            certificate,
            issuer: Issuer::new(ca_params(SystemTime::UNIX_EPOCH)?, key),
        })
    }

    /// The CA certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Certificate and key, for where they are stored.
    pub fn to_pair(&self) -> PemPair {
        PemPair {
            certificates: self.certificate_pem.clone(),
            key: self.key_pem(),
        }
    }

    /// The CA certificate, PEM: what a client has to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's private key, PEM. Only for where it is stored.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a server certificate for `names` (DNS names or IP addresses) with a new key, valid for
    /// `lifetime` from `now`.
    ///
    /// # Errors
    /// [`PkiError::Name`] for a name that is neither, [`PkiError::Generate`] if the crypto library fails.
    pub fn issue(
        &self,
        names: &[impl AsRef<str>],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<PemPair, PkiError> {
        let mut params = params("pullpass", now, lifetime)?;
        params.subject_alt_names = names
            .iter()
            .map(|name| subject_alt_name(name.as_ref()))
            .collect::<Result<_, _>>()?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = new_key()?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(generate)?;
        Ok(PemPair {
            certificates: leaf.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The private key, if it is this certificate's.
///
/// # Errors
/// [`PkiError::NoKey`] if it cannot be read, [`PkiError::ForeignCa`] if it is another's.
pub(super) fn key_of(certificate: &CertificateDer<'_>, key: &[u8]) -> Result<KeyPair, PkiError> {
    let key = str::from_utf8(key).map_err(|_| PkiError::NoKey)?;
    let key = KeyPair::from_pem(key).map_err(|_| PkiError::NoKey)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| PkiError::X509)?;
    if *parsed.public_key().subject_public_key.data == *key.public_key_raw() {
        Ok(key)
    } else {
        Err(PkiError::ForeignCa)
    }
}

/// Whether a certificate has the name that every CA made here has.
pub(super) fn is_made_here(certificate: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| {
        let mut names = parsed.subject().iter_common_name();
        names.any(|name| name.as_str() == Ok(CA_NAME))
    })
}

fn ca_params(now: SystemTime) -> Result<CertificateParams, PkiError> {
    let mut params = params(CA_NAME, now, CA_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(
    common_name: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let not_after = now.checked_add(lifetime).ok_or(PkiError::Clock)?;
    if not_after > SystemTime::UNIX_EPOCH + NOT_AFTER_MAX {
        return Err(PkiError::Clock);
    }
    // A computer without a battery starts in 1970, and webpki reads no earlier date.
    let not_before = now.checked_sub(BACKDATE).unwrap_or(SystemTime::UNIX_EPOCH);
    params.not_before = not_before.max(SystemTime::UNIX_EPOCH).into();
    params.not_after = not_after.max(SystemTime::UNIX_EPOCH).into();
    Ok(params)
}

fn subject_alt_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let invalid = || PkiError::Name(name.to_owned());
    // rustls knows what a client accepts as a DNS name; a wildcard is one label more.
    let host = name.strip_prefix("*.").unwrap_or(name);
    rustls::pki_types::DnsName::try_from(host).map_err(|_| invalid())?;
    name.try_into().map(SanType::DnsName).map_err(|_| invalid())
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` wants")]
fn generate(error: rcgen::Error) -> PkiError {
    PkiError::Generate(error.to_string())
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::verify::verify;
    use crate::pki::{LEAF_LIFETIME, not_after_unix_seconds};

    fn verifies(ca_pem: &str, pair: &PemPair, name: &str, at: SystemTime) -> bool {
        verify(pair.certificates.as_bytes(), ca_pem.as_bytes(), name, at).is_ok()
    }

    fn now() -> SystemTime {
        SystemTime::now()
    }

    #[test]
    fn a_leaf_verifies_under_its_names_within_its_life_only() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let names = ["localhost", "127.0.0.1", "::1", "pullpass.pullpass.svc"];
        let pair = ca.issue(&names, now(), LEAF_LIFETIME).unwrap();
        let valid = |name, at| verifies(ca.certificate_pem(), &pair, name, at);
        for name in names {
            assert!(valid(name, now()), "{name}");
        }
        assert!(!valid("example.com", now()));
        assert!(!valid(
            "localhost",
            now() + LEAF_LIFETIME + Duration::from_secs(2)
        ));
    }

    #[test]
    fn incident_23_a_clock_an_hour_late_accepts_the_leaf() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let pair = ca.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        let late = now() - BACKDATE + Duration::from_secs(5);
        assert!(verifies(ca.certificate_pem(), &pair, "localhost", late));
    }

    #[test]
    fn another_ca_of_the_same_name_does_not_verify_it() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let other = CertificateAuthority::generate(now()).unwrap();
        let pair = ca.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        assert!(!verifies(
            other.certificate_pem(),
            &pair,
            "localhost",
            now()
        ));
        let bundle = format!("{}{}", other.certificate_pem(), ca.certificate_pem());
        assert!(verifies(&bundle, &pair, "localhost", now()));
    }

    #[test]
    fn a_ca_read_back_issues_leaves_that_verify() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let read = CertificateAuthority::from_pem(
            ca.certificate_pem().as_bytes(),
            ca.key_pem().as_bytes(),
        )
        .unwrap();
        let pair = read.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        assert!(verifies(ca.certificate_pem(), &pair, "localhost", now()));
    }

    #[test]
    fn a_foreign_ca_or_key_is_refused() {
        let (ca, other) = (
            CertificateAuthority::generate(now()).unwrap(),
            CertificateAuthority::generate(now()).unwrap(),
        );
        let leaf = ca.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        let refused = |certificate: &str, key: &str| {
            CertificateAuthority::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert_eq!(
            refused(ca.certificate_pem(), &other.key_pem()),
            PkiError::ForeignCa
        );
        assert_eq!(refused(&leaf.certificates, &leaf.key), PkiError::ForeignCa);
        assert_eq!(refused("", &ca.key_pem()), PkiError::NoCertificate);
        assert_eq!(refused(ca.certificate_pem(), ""), PkiError::NoKey);
    }

    #[test]
    fn names_are_addresses_or_dns_names() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        for name in ["", "a b", "münchen.example", "a..b", "-"] {
            let error = ca.issue(&[name], now(), LEAF_LIFETIME).unwrap_err();
            assert_eq!(error, PkiError::Name(name.to_owned()));
        }
        ca.issue(&["*.example.com"], now(), LEAF_LIFETIME).unwrap();
    }

    #[test]
    fn not_after_is_now_plus_lifetime() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let pair = ca.issue(&["localhost"], at, LEAF_LIFETIME).unwrap();
        let chain = parse_chain(pair.certificates.as_bytes()).unwrap();
        assert_eq!(
            not_after_unix_seconds(&chain[0]).unwrap(),
            1_800_000_000 + 90 * 24 * 60 * 60
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let pair = ca.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        assert!(!format!("{ca:?}{pair:?}").contains("PRIVATE"));
    }
}

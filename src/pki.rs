//! Certificates: a CA, leaves issued by it, and PEM as people and tools write it.
//!
//! ECDSA P-256 throughout: an API server opens a connection per call under load, and P-256 is the
//! cheapest signature that every client accepts. Pure but for randomness; this module must not read
//! files, and must not know who uses a certificate. Private keys never appear in `Debug` or errors.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long before "now" a certificate becomes valid: covers clocks that are an hour late.
pub const BACKDATE: Duration = Duration::from_secs(60 * 60);
/// Life of a CA.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Life of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Common name of every CA made here. [`CertificateAuthority::from_pem`] insists on it, because the
/// issuer name of a leaf has to equal it byte for byte.
const CA_NAME: &str = "pullpass CA";

/// A CA that can issue leaves.
pub struct CertificateAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    /// Leaf first.
    pub certificates: String,
    /// PKCS#8.
    pub key: String,
}

/// Why a certificate could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// Key or certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Generate(String),
    /// A subject alternative name is neither an address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    Name(String),
    /// No `CERTIFICATE` block.
    #[error(
        "there is no certificate; expected a PEM block that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    /// No private key in any of the three encodings.
    #[error(
        "there is no private key; expected a PEM block PRIVATE KEY (PKCS#8), RSA PRIVATE KEY (PKCS#1) or EC PRIVATE KEY (SEC1), not encrypted"
    )]
    NoKey,
    /// A PEM block is damaged.
    #[error("the PEM text of the {0} is damaged; copy the file again")]
    Pem(&'static str),
    /// The DER inside a `CERTIFICATE` block is no X.509 certificate.
    #[error("a CERTIFICATE block holds no X.509 certificate; copy the file again")]
    X509,
    /// The CA was made by something else, or the key is that of another.
    #[error("not a CA made by pullpass, or not its key; delete it to have it made again")]
    ForeignCa,
}

impl CertificateAuthority {
    /// Makes a new key and a self-signed certificate, valid for [`CA_LIFETIME`] from `now`.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if the crypto library fails.
    pub fn generate(now: SystemTime) -> Result<Self, PkiError> {
        let params = ca_params(now);
        let key = new_key()?;
        let certificate = params.self_signed(&key).map_err(generate)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes up a CA that [`Self::generate`] made, from its two PEM texts.
    ///
    /// # Errors
    /// [`PkiError`] if they cannot be read or do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let chain = parse_chain(certificate.as_bytes())?;
        let key = KeyPair::from_pem(key).map_err(|_| PkiError::NoKey)?;
        let first = chain.first().ok_or(PkiError::NoCertificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|_| PkiError::X509)?;
        let ours = parsed
            .subject()
            .iter_common_name()
            .any(|name| name.as_str() == Ok(CA_NAME));
        let its_key = *parsed.public_key().subject_public_key.data == *key.public_key_raw();
        if !(ours && its_key && parsed.is_ca()) {
            return Err(PkiError::ForeignCa);
        }
        // Of the parameters only the name, the usages and the key's identifier reach a leaf.
        Ok(Self {
            certificate_pem: certificate.to_owned(),
            issuer: Issuer::new(ca_params(SystemTime::UNIX_EPOCH + BACKDATE), key),
        })
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
        let mut params = params("pullpass", now, lifetime);
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

/// Reads every `CERTIFICATE` block; leaf first, as files of this kind are.
///
/// # Errors
/// [`PkiError::NoCertificate`], or [`PkiError::Pem`] for a damaged block.
pub fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| PkiError::Pem("certificate"))?;
    if chain.is_empty() {
        return Err(PkiError::NoCertificate);
    }
    Ok(chain)
}

/// Reads the first private key: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// [`PkiError::NoKey`], or [`PkiError::Pem`] for a damaged block.
pub fn parse_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PkiError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => PkiError::NoKey,
        _ => PkiError::Pem("private key"),
    })
}

/// When a certificate expires, in seconds of Unix time.
///
/// # Errors
/// [`PkiError::X509`] if it is none.
pub fn not_after_unix_seconds(certificate: &CertificateDer<'_>) -> Result<i64, PkiError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| PkiError::X509)?;
    Ok(parsed.validity().not_after.timestamp())
}

/// Draws one random number. The first one of a process takes the crypto library 40 to 60 ms; without
/// this it would be taken out of the first handshake.
///
/// # Errors
/// [`PkiError::Generate`] if the system has no randomness.
pub fn warm_up() -> Result<(), PkiError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .secure_random
        .fill(&mut [0; 32])
        .map_err(|_| PkiError::Generate("the system gives no random numbers".to_owned()))
}

fn ca_params(now: SystemTime) -> CertificateParams {
    let mut params = params(CA_NAME, now, CA_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(common_name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
    params
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

impl fmt::Debug for PemPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemPair")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;

    fn verifies(ca_pem: &str, pair: &PemPair, name: &str, at: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(parse_chain(ca_pem.as_bytes()).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let chain = parse_chain(pair.certificates.as_bytes()).unwrap();
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &chain[0],
            &chain[1..],
            &ServerName::try_from(name.to_owned()).unwrap(),
            &[],
            UnixTime::since_unix_epoch(since_epoch),
        )
        .is_ok()
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
        let read = CertificateAuthority::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
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
            CertificateAuthority::from_pem(certificate, key).unwrap_err()
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
    fn damaged_pem_is_told_from_missing_pem() {
        let damaged = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert_eq!(parse_chain(damaged), Err(PkiError::Pem("certificate")));
        assert_eq!(parse_chain(b"hello"), Err(PkiError::NoCertificate));
        assert_eq!(parse_key(b"hello"), Err(PkiError::NoKey));
        let damaged = b"-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n";
        assert_eq!(parse_key(damaged), Err(PkiError::Pem("private key")));
    }

    #[test]
    fn debug_shows_no_key() {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let pair = ca.issue(&["localhost"], now(), LEAF_LIFETIME).unwrap();
        assert!(!format!("{ca:?}{pair:?}").contains("PRIVATE"));
    }
}

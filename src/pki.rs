//! Certificates: a CA, leaves issued by it, and PEM as people and tools write it.
//!
//! ECDSA P-256 throughout: an API server opens a connection per call under load, and P-256 is the
//! cheapest signature that every client accepts. Pure but for randomness; this room must not read
//! files or a clock, and must not know who uses a certificate. Private keys never appear in `Debug` or
//! errors. [`authority`] makes certificates, [`verify`] judges them as an API server does, [`rotation`]
//! says which of them to write next.

pub mod authority;
pub mod rotation;
pub mod verify;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use authority::CertificateAuthority;

/// How long before "now" a certificate becomes valid: covers clocks that are an hour late.
pub const BACKDATE: Duration = Duration::from_secs(60 * 60);
/// Life of a CA.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Life of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

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
    /// The clock shows a year that no certificate can hold.
    #[error("the clock is beyond the year 9990; set it")]
    Clock,
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

/// Reads the certificates of a bundle, each once. Whatever cannot be read is skipped, as Go's
/// `x509.CertPool.AppendCertsFromPEM` does for an API server.
pub(crate) fn readable_certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem).filter_map(Result::ok) {
        if verify::CertificateFacts::read(&certificate).is_ok()
            && !certificates.contains(&certificate)
        {
            certificates.push(certificate);
        }
    }
    certificates
}

/// Writes `CERTIFICATE` blocks, 64 characters a line as RFC 7468 section 2 asks of writers.
pub(crate) fn to_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem += "-----BEGIN CERTIFICATE-----\n";
        let mut base64 = &*STANDARD.encode(certificate);
        while let Some((line, rest)) = base64.split_at_checked(64) {
            pem += line;
            pem.push('\n');
            base64 = rest;
        }
        if !base64.is_empty() {
            pem += base64;
            pem.push('\n');
        }
        pem += "-----END CERTIFICATE-----\n";
    }
    pem
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

    #[test]
    fn pem_is_written_as_it_is_read() {
        let ca = CertificateAuthority::generate(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let pem = ca.certificate_pem();
        let chain = parse_chain(pem.as_bytes()).unwrap();
        assert_eq!(to_pem(&chain), pem);
        assert_eq!(to_pem([&chain[0], &chain[0]]), format!("{pem}{pem}"));
    }

    #[test]
    fn what_cannot_be_read_is_skipped() {
        let ca = CertificateAuthority::generate(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let pem = ca.certificate_pem();
        let no_base64 = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let text = format!("hello\n{no_base64}{no_x509}{pem}{pem}-----BEGIN CERTIFICATE-----\n");
        assert_eq!(
            readable_certificates(text.as_bytes()),
            parse_chain(pem.as_bytes()).unwrap()
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
}

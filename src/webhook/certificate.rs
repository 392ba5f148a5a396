//! The certificate in use: swapped without a restart, never by a worse one.
//!
//! [`Certificates`] is what every handshake asks; [`CertificateFiles`] keeps it up to date from two
//! files, [`in_memory`] fills it once. Connections keep the certificate they were opened with. This
//! module must not make up a certificate where files were asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};

use crate::files::{Reload, WatchedFiles};
use crate::http::limits::PEM_FILE_BYTES_MAX;
use crate::http::probes::Condition;
use crate::metrics::Metrics;
use crate::pki::{self, CA_LIFETIME, CertificateAuthority, PkiError};

/// Names of the in-memory certificate, before `--tls-san`.
pub const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The current certificate and key; empty until the first good pair.
///
/// An `ArcSwap`, because every handshake reads it and one in weeks writes it.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwapOption<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    metrics: Arc<Metrics>,
    condition: Condition,
}

/// Why a pair cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The PEM cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The key is not the certificate's.
    #[error(
        "the private key does not belong to the first certificate; put the server's own certificate first and its issuers after it"
    )]
    KeyMismatch,
    /// The key's kind is not supported.
    #[error("the private key cannot be used ({0}); use ECDSA P-256 or RSA of at least 2048 bits")]
    Key(String),
}

impl Certificates {
    /// Empty; `condition` is met with the first good pair.
    pub fn new(metrics: Arc<Metrics>, condition: Condition) -> Self {
        // `main` installs one for the whole process; tests need not.
        let provider = CryptoProvider::get_default().cloned();
        Self {
            current: ArcSwapOption::empty(),
            provider: provider.unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider())),
            metrics,
            condition,
        }
    }

    /// TLS 1.2 and 1.3, HTTP/1.1 only, no client certificates, no resumption: API servers do not
    /// resume, and tickets would be written for nothing.
    ///
    /// # Errors
    /// If the crypto provider supports neither version, which it does.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Uses a pair for new connections. On an error the previous one stays.
    ///
    /// # Errors
    /// [`CertificateError`] if the pair cannot be used.
    pub fn install(&self, certificates: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain = pki::parse_chain(certificates)?;
        let expiries = chain.iter().map(pki::not_after_unix_seconds);
        let expiries = expiries.collect::<Result<Vec<_>, _>>()?;
        let key = pki::parse_key(key)?;
        let pair =
            CertifiedKey::from_der(chain, key, &self.provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    CertificateError::KeyMismatch
                }
                other => CertificateError::Key(other.to_string()),
            })?;
        let (leaf, issuers) = expiries.split_first().ok_or(PkiError::NoCertificate)?;
        self.metrics.certificate_not_after("leaf", Some(*leaf));
        self.metrics
            .certificate_not_after("ca", issuers.iter().min().copied());
        self.current.store(Some(Arc::new(pair)));
        self.metrics.certificate_failures.set(0);
        self.condition.met();
        Ok(())
    }

    /// [`Self::install`], and says what became of it; `origin` is where the pair was found.
    pub(super) fn replace(&self, origin: &str, certificates: &[u8], key: &[u8]) {
        match self.install(certificates, key) {
            Ok(()) => tracing::info!(origin, "certificate loaded"),
            Err(error) => self.refuse(&format!("{origin}: {error}")),
        }
    }

    /// Says that there is no pair: ordinary at the start, a failure once there was one.
    pub(super) fn missing(&self, reason: &str) {
        if self.current.load().is_some() {
            self.refuse(reason);
        } else {
            tracing::warn!(reason, "no certificate yet: not ready until there is one");
            self.condition.unmet(reason);
        }
    }

    /// Counts and logs a pair that cannot be used.
    fn refuse(&self, reason: &str) {
        self.metrics.certificate_failures.inc();
        if self.current.load().is_some() {
            tracing::error!(
                reason,
                "certificate refused: the last good one stays in use"
            );
        } else {
            tracing::error!(
                reason,
                "certificate refused: not ready until it can be used"
            );
            self.condition.unmet(reason);
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// A certificate chain and a key in two files.
#[derive(Debug)]
pub struct CertificateFiles {
    files: WatchedFiles,
    certificates: Arc<Certificates>,
}

impl CertificateFiles {
    /// Nothing is read before the first [`Reload::reload`].
    pub fn new(certificate: PathBuf, key: PathBuf, certificates: Arc<Certificates>) -> Self {
        Self {
            files: WatchedFiles::new(vec![certificate, key], PEM_FILE_BYTES_MAX),
            certificates,
        }
    }
}

impl Reload for CertificateFiles {
    fn reload(&mut self) {
        match self.files.changed() {
            None => {}
            Some(Err(error)) => self.certificates.refuse(&error.to_string()),
            Some(Ok(files)) => {
                if let [(origin, certificate), (_, key)] = &**files {
                    self.certificates.replace(origin, certificate, key);
                }
            }
        }
    }
}

/// Makes a CA and a leaf for loopback and `names`, writes the CA's certificate to `ca_out`, so that
/// clients can trust it, and then uses the leaf. The CA's key is dropped.
pub fn in_memory(certificates: &Certificates, names: &[String], ca_out: Option<&Path>) {
    let made = || {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate(now).map_err(|error| error.to_string())?;
        let names = LOOPBACK_NAMES
            .into_iter()
            .chain(names.iter().map(String::as_str));
        let leaf = ca.issue(&names.collect::<Vec<_>>(), now, CA_LIFETIME);
        let leaf = leaf.map_err(|error| error.to_string())?;
        if let Some(path) = ca_out {
            std::fs::write(path, ca.certificate_pem())
                .map_err(|error| format!("cannot write the CA to {}: {error}", path.display()))?;
        }
        let chain = format!("{}{}", leaf.certificates, ca.certificate_pem());
        let installed = certificates.install(chain.as_bytes(), leaf.key.as_bytes());
        installed.map_err(|error| error.to_string())
    };
    match (made(), ca_out.map(Path::display)) {
        (Err(reason), _) => certificates.refuse(&reason),
        (Ok(()), None) => {
            tracing::info!("certificate made in memory; --ca-out FILE gives clients its CA");
        }
        (Ok(()), Some(ca)) => tracing::info!(
            %ca,
            "certificate made in memory; caBundle is `base64 -w0 {ca}`, curl takes `--cacert {ca}`"
        ),
    }
}

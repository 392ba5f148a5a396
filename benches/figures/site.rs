//! A directory with all that a server needs: rules, certificate, key, and the CA for its clients.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pullpass::pki::{CertificateAuthority, LEAF_LIFETIME};

use super::{Outcome, workload};

/// The directory; it does not own it.
pub(crate) struct Site<'a>(pub(crate) &'a Path);

impl Site<'_> {
    /// Writes certificate, key and CA.
    pub(crate) fn write_certificate(&self) -> Outcome<()> {
        let authority = CertificateAuthority::generate(SystemTime::now())?;
        let leaf = authority.issue(&["127.0.0.1"], SystemTime::now(), LEAF_LIFETIME)?;
        std::fs::write(self.ca(), authority.certificate_pem())?;
        std::fs::write(self.certificate(), leaf.certificates)?;
        std::fs::write(self.key(), leaf.key)?;
        Ok(())
    }

    /// Writes that many rules.
    pub(crate) fn write_rules(&self, rules: usize) -> Outcome<()> {
        Ok(std::fs::write(self.rules(), workload::rules_text(rules))?)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.join("tls.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("tls.key")
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.0.join("rules.yaml")
    }
}

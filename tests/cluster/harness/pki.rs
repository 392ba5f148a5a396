//! One certificate authority for everything in the cluster, made anew for every run.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The authority and the directory its certificates are written to.
pub(crate) struct Pki {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its private key, PKCS#8.
    pub(crate) key: PathBuf,
}

impl Pair {
    /// The certificate, DER.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("we wrote it")
    }
}

impl Pki {
    /// Makes the authority and writes `ca.crt` into `directory`.
    pub(crate) fn create(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("the work directory is writable");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "pullpass test authority");
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("valid parameters");
        fs::write(directory.join("ca.crt"), issuer.pem()).expect("the work directory is writable");
        Self {
            directory: directory.to_owned(),
            issuer,
        }
    }

    /// Where the authority's certificate is.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The authority's certificate, PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for `names` (DNS names and addresses).
    pub(crate) fn server(&self, file: &str, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A client certificate for `user`, a member of `group` if that is not empty.
    pub(crate) fn client(&self, file: &str, user: &str, group: &str) -> Pair {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        self.sign(file, params)
    }

    /// A key pair that signs tokens: the private half and the public half, as PEM files.
    pub(crate) fn token_keys(&self) -> (PathBuf, PathBuf) {
        let key = new_key();
        let private = self.write("service-accounts.key", &key.serialize_pem());
        let public = self.write("service-accounts.pub", &key.public_key_pem());
        (private, public)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Pair {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = new_key();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("valid parameters");
        Pair {
            certificate: self.write(&format!("{file}.crt"), &certificate.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.directory.join(file);
        fs::write(&path, text).expect("the work directory is writable");
        path
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a P-256 key can be made")
}

//! What the API server holds of certificates, as last seen, and which bundle should be in service.
//!
//! Read only. No `Debug` anywhere: the Secrets hold keys.

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use tokio::sync::watch;

use super::objects::{self, ca, tls};
use super::{CertificateMode, next_change};
use crate::cluster::watch::Seen;
use crate::metrics::Metrics;
use crate::pki::{self, rotation};

/// Three objects, followed.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) mode: CertificateMode,
    /// Only in mode `self`; elsewhere there is none.
    pub(super) ca: watch::Receiver<Seen<Secret>>,
    pub(super) tls: watch::Receiver<Seen<Secret>>,
    pub(super) configuration: watch::Receiver<Seen<MutatingWebhookConfiguration>>,
    /// What administrators call them.
    pub(super) names: Names,
}

/// The names of the three objects.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) ca: String,
    pub(super) tls: String,
    pub(super) configuration: String,
}

/// The three objects at one time; `None`: there is none.
pub(super) struct Current {
    pub(super) ca: Option<Arc<Secret>>,
    pub(super) tls: Option<Arc<Secret>>,
    pub(super) configuration: Option<Arc<MutatingWebhookConfiguration>>,
}

impl Stored {
    /// Completes when one of the three changed since [`Self::current`].
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = next_change(&mut self.ca) => {}
            () = next_change(&mut self.tls) => {}
            () = next_change(&mut self.configuration) => {}
        }
    }

    /// What is there; `None` until the API server has answered for all three.
    pub(super) fn current(&mut self) -> Option<Current> {
        fn known<K>(receiver: &mut watch::Receiver<Seen<K>>) -> Option<Option<Arc<K>>> {
            match &*receiver.borrow_and_update() {
                Seen::NotYet => None,
                Seen::Absent => Some(None),
                Seen::Present(object) => Some(Some(object.clone())),
            }
        }
        // All three, so that each is marked as seen.
        let (ca, tls) = (known(&mut self.ca), known(&mut self.tls));
        let configuration = known(&mut self.configuration);
        Some(Current {
            ca: ca?,
            tls: tls?,
            configuration: configuration?,
        })
    }

    /// The bundle in the configuration, if it is the one that should be there.
    pub(super) fn bundle_in_service(&mut self) -> Result<Vec<u8>, String> {
        let current = self
            .current()
            .ok_or("the API server has not answered yet")?;
        let bundle = current.bundle(&self.names)?;
        let name = &self.names.configuration;
        let wanted = match self.mode {
            CertificateMode::SelfSigned => {
                let secret = current.ca.as_deref();
                let secret =
                    secret.ok_or_else(|| format!("Secret {} does not exist yet", self.names.ca))?;
                objects::entry(secret, ca::CERTIFICATE).to_vec()
            }
            CertificateMode::Provided => current.provided_bundle(&self.names)?.into_bytes(),
            CertificateMode::CertManager | CertificateMode::None => bundle.to_vec(),
        };
        if bundle.is_empty() {
            return Err(format!("{name} has no caBundle yet"));
        }
        if rotation::bundle_contains(bundle, &wanted) {
            Ok(bundle.to_vec())
        } else {
            Err(format!("the caBundle of {name} does not hold the CA yet"))
        }
    }

    /// Keeps the expiry of what is stored in the metrics, for ever.
    pub(super) async fn report(mut self, metrics: Arc<Metrics>) -> Infallible {
        loop {
            if let Some(current) = self.current() {
                let expiry = |secret: Option<&Secret>, key| {
                    let chain = pki::parse_chain(objects::entry(secret?, key)).ok()?;
                    pki::not_after_unix_seconds(chain.first()?).ok()
                };
                let issuer = current.ca.as_deref().or(current.tls.as_deref());
                metrics.certificate_not_after("ca", expiry(issuer, ca::CERTIFICATE));
                metrics.certificate_not_after("leaf", expiry(current.tls.as_deref(), tls::CHAIN));
            }
            self.changed().await;
        }
    }
}

impl Current {
    /// The bundle of our webhook, which may be empty.
    pub(super) fn bundle(&self, names: &Names) -> Result<&[u8], String> {
        let name = &names.configuration;
        let configuration = self.configuration.as_deref();
        let configuration = configuration
            .ok_or_else(|| format!("MutatingWebhookConfiguration {name} does not exist"))?;
        objects::bundle_of(configuration).ok_or_else(|| {
            let webhook = crate::cluster::WEBHOOK;
            format!("MutatingWebhookConfiguration {name} has no webhook {webhook}")
        })
    }

    /// The bundle of mode `provided`.
    pub(super) fn provided_bundle(&self, names: &Names) -> Result<String, String> {
        let name = &names.tls;
        let secret = self.tls.as_deref();
        let secret = secret.ok_or_else(|| format!("Secret {name} does not exist"))?;
        let said = |reason| format!("Secret {name}: {reason}");
        provided_bundle(secret).map_err(said)
    }
}

/// `ca.crt`, or the last certificate of the chain if that is a CA.
fn provided_bundle(secret: &Secret) -> Result<String, String> {
    let given = objects::entry(secret, tls::CA);
    if !given.is_empty() {
        let bundle = rotation::bundle(given, given);
        return Some(bundle)
            .filter(|bundle| !bundle.is_empty())
            .ok_or_else(|| "ca.crt holds no certificate that can be read".to_owned());
    }
    let missing = "there is no ca.crt, and tls.crt does not end with a CA; add the issuer's \
                   certificate as ca.crt";
    let chain = pki::parse_chain(objects::entry(secret, tls::CHAIN));
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    let last = chain.last().filter(|last| is_ca(last));
    let last = last.ok_or_else(|| missing.to_owned())?;
    Ok(pki::to_pem([last]))
}

fn is_ca(certificate: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateAuthority, LEAF_LIFETIME};
    use k8s_openapi::ByteString;
    use std::time::SystemTime;

    fn bundle(entries: &[(&str, &str)]) -> Result<String, String> {
        let data = entries
            .iter()
            .map(|(key, text)| ((*key).to_owned(), ByteString((*text).into())));
        provided_bundle(&Secret {
            data: Some(data.collect()),
            ..Secret::default()
        })
    }

    #[test]
    fn a_provided_bundle_is_ca_crt_or_the_end_of_the_chain() {
        let now = SystemTime::now();
        let (ca, other) = (
            CertificateAuthority::generate(now).unwrap(),
            CertificateAuthority::generate(now).unwrap(),
        );
        let (ca_pem, other_pem) = (ca.certificate_pem(), other.certificate_pem());
        let leaf = ca.issue(&["a.svc"], now, LEAF_LIFETIME).unwrap();
        let chain = format!("{}{ca_pem}", leaf.certificates);

        let given = bundle(&[("ca.crt", other_pem), ("tls.crt", &chain)]);
        assert_eq!(given.as_deref(), Ok(other_pem));
        let both = format!("{ca_pem}{other_pem}");
        assert_eq!(bundle(&[("ca.crt", &both)]).as_deref(), Ok(&*both));
        assert_eq!(bundle(&[("tls.crt", &chain)]).as_deref(), Ok(ca_pem));

        for (entries, problem) in [
            (
                &[("tls.crt", &*leaf.certificates)][..],
                "there is no ca.crt",
            ),
            (&[("tls.crt", "")], "tls.crt: there is no certificate"),
            (&[("ca.crt", "Cg==")], "ca.crt holds no certificate"),
        ] {
            let said = bundle(entries).unwrap_err();
            assert!(said.starts_with(problem), "{said}");
        }
    }
}

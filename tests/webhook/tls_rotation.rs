//! Certificates: which are read, and how they change under running connections.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pullpass::files::Reload;
use pullpass::http::limits::Limits;
use pullpass::metrics::Metrics;
use pullpass::pki::{LEAF_LIFETIME, PemPair, parse_chain, parse_key};
use pullpass::webhook::certificate::{CertificateFiles, Certificates};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RsaKeySize,
};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use x509_parser::der_parser::parse_der;

use crate::client::{Connection, handshake, leaf, post, trusting};
use crate::harness::{CA, Server, condition, echo};
use crate::volume::Volume;

fn issue() -> PemPair {
    CA.issue(&["localhost"], SystemTime::now(), LEAF_LIFETIME)
        .unwrap()
}

fn files(pair: &PemPair) -> [(&'static str, &str); 2] {
    [("tls.crt", &pair.certificates), ("tls.key", &pair.key)]
}

fn der(pair: &PemPair) -> CertificateDer<'static> {
    parse_chain(pair.certificates.as_bytes()).unwrap().remove(0)
}

/// A server that reads its certificate from a volume, when told to.
struct Rotation {
    volume: Volume,
    files: CertificateFiles,
    server: Server,
}

impl Rotation {
    async fn start(pair: &PemPair) -> Self {
        let volume = Volume::new(&files(pair));
        let metrics = Arc::new(Metrics::new().unwrap());
        let certificates = Arc::new(Certificates::new(metrics.clone(), condition()));
        let (certificate, key) = (volume.path("tls.crt"), volume.path("tls.key"));
        let mut files = CertificateFiles::new(certificate, key, certificates.clone());
        files.reload();
        let server = Server::serving(echo(), Limits::default(), metrics, certificates).await;
        Self {
            volume,
            files,
            server,
        }
    }

    fn swap(&mut self, new: &[(&str, &str)]) {
        self.volume.swap(new);
        self.files.reload();
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self) -> CertificateDer<'static> {
        let stream = self.server.dial().await;
        let stream = handshake(stream, self.server.client.clone()).await.unwrap();
        leaf(stream.get_ref().1)
    }

    fn failures(&self) -> i64 {
        self.server.metrics.certificate_failures.get()
    }
}

#[tokio::test]
async fn incident_19_two_rotations_by_symlink_swap_reach_new_connections() {
    let (first, second, third) = (issue(), issue(), issue());
    let mut rotation = Rotation::start(&first).await;
    assert_eq!(rotation.shown().await, der(&first));
    let mut old = rotation.server.connect().await;
    for next in [&second, &third] {
        rotation.swap(&files(next));
        assert_eq!(rotation.shown().await, der(next));
        let answer = old.request(post("/echo", b"12345")).await;
        assert_eq!(answer.text(), "5", "connections survive");
    }
}

#[tokio::test]
async fn incident_19_a_bad_pair_between_two_good_ones_keeps_the_last_good() {
    let (first, second) = (issue(), issue());
    let mut rotation = Rotation::start(&first).await;
    let mismatched = [("tls.crt", &*second.certificates), ("tls.key", &*first.key)];
    let bad: [&[(&str, &str)]; 4] = [
        &mismatched,
        &[("tls.crt", ""), ("tls.key", &first.key)],
        &[("tls.crt", &first.certificates), ("tls.key", "nonsense")],
        &[("tls.crt", &first.certificates)],
    ];
    for (failures, files) in (1..).zip(bad) {
        rotation.swap(files);
        assert_eq!(rotation.failures(), failures);
        rotation.files.reload();
        assert_eq!(rotation.failures(), failures, "one state is one failure");
        assert_eq!(rotation.shown().await, der(&first));
    }
    rotation.swap(&files(&second));
    assert_eq!(rotation.failures(), 0);
    assert_eq!(rotation.shown().await, der(&second));
}

#[tokio::test]
async fn incident_24_no_handshake_fails_while_certificates_rotate() {
    let mut rotation = Rotation::start(&issue()).await;
    for _ in 0..20 {
        let next = issue();
        rotation.volume.swap(&files(&next));
        let (server, reader) = (&rotation.server, &mut rotation.files);
        let before = server.connect();
        reader.reload();
        let (mut during, mut after) = (before.await, server.connect().await);
        assert_eq!(during.request(post("/echo", b"1")).await.text(), "1");
        assert_eq!(after.request(post("/echo", b"1")).await.text(), "1");
    }
}

fn install(certificates: &str, key: &str) -> Result<(), String> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let store = Certificates::new(metrics, condition());
    let installed = store.install(certificates.as_bytes(), key.as_bytes());
    installed.map_err(|error| error.to_string())
}

fn self_signed(key: &KeyPair) -> String {
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.self_signed(key).unwrap().pem()
}

/// PKCS#8 wraps the older encoding of the same key in an OCTET STRING (RFC 5958, section 2).
fn unwrap_pkcs8(key: &KeyPair, label: &str) -> String {
    let (_, pkcs8) = parse_der(key.serialized_der()).unwrap();
    let inner = pkcs8.as_sequence().unwrap()[2].as_slice().unwrap();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(inner)
    )
}

#[test]
fn keys_are_read_as_pkcs8_pkcs1_and_sec1() {
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for (certificate_of, key) in [
        (&ec, ec.serialize_pem()),
        (&ec, unwrap_pkcs8(&ec, "EC PRIVATE KEY")),
        (&rsa, rsa.serialize_pem()),
        (&rsa, unwrap_pkcs8(&rsa, "RSA PRIVATE KEY")),
    ] {
        assert_eq!(install(&self_signed(certificate_of), &key), Ok(()));
        // Tools put parameters or comments in front.
        let with_preface = format!("# made by hand\n{key}");
        assert_eq!(install(&self_signed(certificate_of), &with_preface), Ok(()));
    }
    let other = install(&self_signed(&ec), &rsa.serialize_pem());
    assert!(other.unwrap_err().contains("does not belong"));
}

#[tokio::test]
async fn a_chain_is_sent_whole_and_its_order_matters() {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ca_params = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params
    };
    let (root_key, intermediate_key, leaf_key) = (key(), key(), key());
    let root_params = ca_params("root");
    let root = root_params.self_signed(&root_key).unwrap();
    let root_issuer = Issuer::from_params(&root_params, &root_key);
    let intermediate_params = ca_params("intermediate");
    let intermediate = intermediate_params
        .signed_by(&intermediate_key, &root_issuer)
        .unwrap();
    let issuer = Issuer::from_params(&intermediate_params, &intermediate_key);
    let leaf_params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf_params.signed_by(&leaf_key, &issuer).unwrap();

    let pair = PemPair {
        certificates: leaf.pem() + &intermediate.pem(),
        key: leaf_key.serialize_pem(),
    };
    let rotation = Rotation::start(&pair).await;
    let trust_root = trusting(&root.pem());
    let mut connection = Connection::tls(rotation.server.address, trust_root)
        .await
        .unwrap();
    assert_eq!(connection.request(post("/echo", b"1")).await.text(), "1");
    let metrics = String::from_utf8(rotation.server.metrics.render().unwrap()).unwrap();
    assert!(metrics.contains("not_after_timestamp_seconds{kind=\"ca\"}"));

    let wrong_order = intermediate.pem() + &leaf.pem();
    let error = install(&wrong_order, &pair.key).unwrap_err();
    assert!(error.contains("server's own certificate first"), "{error}");
}

/// The version that a client offering only these ends up with, or its error.
async fn negotiate(
    server: &Server,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> Result<(ProtocolVersion, Option<String>), String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(parse_chain(CA.certificate_pem().as_bytes()).unwrap());
    let mut config = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = handshake(server.dial().await, Arc::new(config)).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let connection = stream.get_ref().1;
    let alpn = connection.alpn_protocol();
    let alpn = alpn.map(|name| String::from_utf8(name.to_vec()).unwrap());
    Ok((connection.protocol_version().unwrap(), alpn))
}

#[tokio::test]
async fn tls_1_2_and_1_3_and_nothing_but_http_1_1() {
    let server = Server::start(echo(), Limits::default()).await;
    let http = Some("http/1.1".to_owned());
    for (versions, alpn, expected) in [
        (
            &[&TLS12, &TLS13][..],
            &["http/1.1"][..],
            (ProtocolVersion::TLSv1_3, http.clone()),
        ),
        (
            &[&TLS12],
            &["h2", "http/1.1"],
            (ProtocolVersion::TLSv1_2, http),
        ),
        (&[&TLS13], &[], (ProtocolVersion::TLSv1_3, None)),
    ] {
        assert_eq!(negotiate(&server, versions, alpn).await, Ok(expected));
    }
    let h2_only = negotiate(&server, &[&TLS13], &["h2"]).await;
    assert!(h2_only.unwrap_err().contains("NoApplicationProtocol"));
}

#[test]
fn a_private_key_is_not_shown_by_errors() {
    let pair = issue();
    let key = parse_key(pair.key.as_bytes()).unwrap();
    let error = install(&issue().certificates, &pair.key).unwrap_err();
    assert!(!error.contains(&STANDARD.encode(key.secret_der())));
}

//! What the kubelet's words about an image mean. Pure: a reason and a message in, a class out.
//!
//! The words are those of the kubelet, of containerd, CRI-O and the registries; all that are known stand with
//! their class in `tests/data/kubelet-messages.yaml`. This file must not know the Pod: whether it holds a login
//! at all is for `report.rs` to say.

use serde::Serialize;

/// Why an image is not there, as far as the words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The registry does not know who asks: no login, or a wrong one (401).
    Unauthorized,
    /// It knows, and does not let them (403, `insufficient_scope`). Some say this of what does not exist.
    Denied,
    /// No such repository or tag (404). Some say this of what one may not see.
    NotFound,
    /// Too many pulls (429).
    RateLimited,
    /// The node does not trust the registry's certificate.
    UntrustedCertificate,
    /// The node speaks TLS, and the registry plain HTTP.
    PlainHttp,
    /// The node speaks plain HTTP, and the registry TLS.
    TlsExpected,
    /// The registry's name has no address.
    UnknownHost,
    /// Nothing listens at the registry's address.
    ConnectionRefused,
    /// No answer in time, or no way there.
    Unreachable,
    /// The registry failed (5xx).
    RegistryError,
    /// `imagePullPolicy: Never`, and the image is not there, or not for this Pod.
    NeverPulled,
    /// The reference does not parse.
    InvalidReference,
    /// The image is not made for this node's architecture.
    NoPlatform,
    /// A pull secret of the Pod does not decode, which fails every image.
    UndecodableSecret,
    /// A signature is missing or wrong.
    Signature,
    /// The kubelet pulls only so many images a second.
    Throttled,
    /// The node's disk is full.
    DiskFull,
    /// Words that are not known.
    Other,
}

/// Phrases in lower case, the first that is found decides: what a proxy, a certificate or a platform does
/// comes before status codes, and `insufficient_scope` before the `authorization failed` behind it.
const PHRASES: &[(&str, Failure)] = &[
    ("couldn't parse image name", Failure::InvalidReference),
    ("invalid reference format", Failure::InvalidReference),
    ("no match for platform", Failure::NoPlatform),
    ("no image found in manifest list", Failure::NoPlatform),
    ("no image found in image index", Failure::NoPlatform),
    ("looking for beginning of", Failure::UndecodableSecret),
    ("unexpected end of json input", Failure::UndecodableSecret),
    ("unable to parse auth field", Failure::UndecodableSecret),
    ("illegal base64 data", Failure::UndecodableSecret),
    ("json: cannot unmarshal", Failure::UndecodableSecret),
    ("x509:", Failure::UntrustedCertificate),
    (
        "failed to verify certificate",
        Failure::UntrustedCertificate,
    ),
    ("http response to https client", Failure::PlainHttp),
    (
        "first record does not look like a tls handshake",
        Failure::PlainHttp,
    ),
    ("http request to an https server", Failure::TlsExpected),
    ("http request was sent to https port", Failure::TlsExpected),
    ("toomanyrequests", Failure::RateLimited),
    ("too many requests", Failure::RateLimited),
    ("rate limit", Failure::RateLimited),
    ("pull qps exceeded", Failure::Throttled),
    ("no space left on device", Failure::DiskFull),
    ("signature validation failed", Failure::Signature),
    // Whatever becomes of the question: also where nobody answers it, or in time.
    ("dial tcp: lookup", Failure::UnknownHost),
    ("no such host", Failure::UnknownHost),
    ("name resolution", Failure::UnknownHost),
    ("server misbehaving", Failure::UnknownHost),
    ("connection refused", Failure::ConnectionRefused),
    ("connection reset by peer", Failure::Unreachable),
    ("no route to host", Failure::Unreachable),
    ("network is unreachable", Failure::Unreachable),
    ("i/o timeout", Failure::Unreachable),
    ("handshake timeout", Failure::Unreachable),
    ("deadline exceeded", Failure::Unreachable),
    ("awaiting headers", Failure::Unreachable),
    ("500 internal server error", Failure::RegistryError),
    ("502 bad gateway", Failure::RegistryError),
    ("503 service unavailable", Failure::RegistryError),
    ("504 gateway timeout", Failure::RegistryError),
    ("insufficient_scope", Failure::Denied),
    ("access to the resource is denied", Failure::Denied),
    ("403 forbidden", Failure::Denied),
    ("403 (forbidden)", Failure::Denied),
    ("unauthorized", Failure::Unauthorized),
    ("authentication required", Failure::Unauthorized),
    ("no basic auth credentials", Failure::Unauthorized),
    ("invalid username/password", Failure::Unauthorized),
    ("authorization failed", Failure::Unauthorized),
    ("failed to authorize", Failure::Unauthorized),
    ("denied:", Failure::Denied),
    ("access denied", Failure::Denied),
    ("manifest unknown", Failure::NotFound),
    ("name unknown", Failure::NotFound),
    ("not found", Failure::NotFound),
    ("registry is unavailable", Failure::RegistryError),
];

impl Failure {
    /// Of a waiting container's reason and message, or of an Event's.
    pub fn of(reason: &str, message: &str) -> Self {
        match reason {
            "InvalidImageName" => return Self::InvalidReference,
            "ErrImageNeverPull" => return Self::NeverPulled,
            "SignatureValidationFailed" => return Self::Signature,
            _ => {}
        }
        let message = message.to_lowercase();
        // containerd says no more of a TLS port that is asked in plain HTTP.
        if message.contains("http://") && message.contains("400 bad request") {
            return Self::TlsExpected;
        }
        let words = without_names(&message);
        let found = PHRASES.iter().find(|(phrase, _)| words.contains(phrase));
        found.map_or(Self::Other, |(_, failure)| *failure)
    }

    /// What it means, for people.
    pub fn says(self) -> &'static str {
        match self {
            Self::Unauthorized => "the registry wants a login (401)",
            Self::Denied => {
                "the registry does not permit it, or the repository does not exist (403)"
            }
            Self::NotFound => "the registry has no such repository or tag (404)",
            Self::RateLimited => "the registry's rate limit is used up (429)",
            Self::UntrustedCertificate => {
                "the node does not trust the registry's certificate (x509)"
            }
            Self::PlainHttp => "the registry speaks plain HTTP, the node expects TLS",
            Self::TlsExpected => "the registry expects TLS, the node speaks plain HTTP",
            Self::UnknownHost => "the node cannot resolve the registry's host name",
            Self::ConnectionRefused => "nothing listens at the registry's address",
            Self::Unreachable => "the node gets no answer from the registry",
            Self::RegistryError => "the registry itself failed (5xx)",
            Self::NeverPulled => {
                "imagePullPolicy is Never, and the node has no image that this Pod may use"
            }
            Self::InvalidReference => "the image reference does not parse",
            Self::NoPlatform => "the image is not made for the node's architecture",
            Self::UndecodableSecret => {
                "a pull secret of the Pod cannot be decoded, which fails all its images"
            }
            Self::Signature => "the image's signature was not accepted",
            Self::Throttled => "the kubelet pulls no more images at once (pull QPS exceeded)",
            Self::DiskFull => "the node's disk is full",
            Self::Other => "the kubelet could not pull it",
        }
    }

    /// What helps, whatever Pod it is.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Unauthorized => "put a login for this registry into a pull secret",
            Self::Denied => "give the account the right to pull this repository, at the registry",
            Self::NotFound => "correct the reference, or push the image",
            Self::RateLimited => {
                "wait, pull with an account that has a higher limit, or from a mirror"
            }
            Self::UntrustedCertificate => {
                "put the registry's CA where the node's container runtime looks; no pull secret helps"
            }
            Self::PlainHttp => {
                "give the registry a certificate, or name it as http:// in the container runtime's \
                 configuration; no pull secret helps"
            }
            Self::TlsExpected => {
                "name the registry as https:// in the container runtime's configuration; no pull \
                 secret helps"
            }
            Self::UnknownHost => "correct the host name in the reference, or the node's DNS",
            Self::ConnectionRefused => "correct the port in the reference, or start the registry",
            Self::Unreachable => "look at firewalls and proxies between node and registry",
            Self::RegistryError => "look at the registry; the kubelet tries again by itself",
            Self::NeverPulled => {
                "load the image on the node, or set imagePullPolicy to IfNotPresent; a kubelet of 1.35 \
                 or later also wants the credential that the image was pulled with"
            }
            Self::InvalidReference => {
                "correct the reference; `pullpass image REF` says what is wrong"
            }
            Self::NoPlatform => "push the image for this architecture, or choose another node",
            Self::UndecodableSecret => "`pullpass keys FILE` says what is wrong with a Secret",
            Self::Signature => "sign the image, or change the node's signature policy",
            Self::Throttled => "wait, or raise registryPullQPS of the kubelet",
            Self::DiskFull => "make room on the node",
            Self::Other => "the words above are all there is; see the container runtime's log",
        }
    }

    /// Whether a login, or a better one, may be what is missing.
    pub fn is_about_login(self) -> bool {
        matches!(
            self,
            Self::Unauthorized
                | Self::Denied
                | Self::NotFound
                | Self::RateLimited
                | Self::NeverPulled
        )
    }
}

/// The message without what people name: references, addresses and what is in quotes. An image called
/// `forbidden` is not.
fn without_names(message: &str) -> String {
    let is_name = |word: &&str| {
        let host = word.split_once('/').map(|(host, _)| host);
        word.starts_with(['"', '\''])
            || host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost")
    };
    let words: Vec<&str> = message
        .split_whitespace()
        .filter(|word| !is_name(word))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn real_messages_have_their_class() {
        let table = include_str!("../../tests/data/kubelet-messages.yaml");
        let mut classes = BTreeSet::new();
        let rows: Vec<serde_json::Value> = serde_saphyr::from_multiple(table).unwrap();
        for row in rows {
            let text = |field: &str| row[field].as_str().unwrap_or_default();
            let found = Failure::of(text("reason"), text("message"));
            assert_eq!(serde_json::to_value(found).unwrap(), row["class"], "{row}");
            classes.insert(found);
        }
        assert_eq!(classes.len(), Failure::Other as usize + 1, "{classes:?}");
    }

    #[test]
    fn what_people_call_things_decides_nothing() {
        let message = "failed to pull image \"r.io/x509:/forbidden:404\": rpc error: \
                       https://r.io/v2/unauthorized/manifests/toomanyrequests: not found";
        assert_eq!(Failure::of("ErrImagePull", message), Failure::NotFound);
    }
}

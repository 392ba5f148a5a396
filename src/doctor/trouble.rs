//! What the API server's words about an unreachable webhook mean, and what to do about it.

use crate::http::client::CallError;
use crate::installation::Names;

/// Why a webhook cannot be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    ServiceNotFound,
    NoEndpoints,
    NoPort,
    WrongName,
    UnknownAuthority,
    BundleNotPem,
    Expired,
    NoCertificate,
    NotTls,
    TimedOut,
    Refused,
    NoRoute,
    NoTunnel,
    Cut,
    WrongPath,
}

/// Texts of the API server (1.29 to 1.37) and of Go's libraries in it, and what each means. The first
/// that occurs counts, so the narrower ones come first.
const TEXTS: &[(&str, Trouble)] = &[
    ("no endpoints available for service", Trouble::NoEndpoints),
    ("no service port", Trouble::NoPort),
    ("x509: certificate is valid for", Trouble::WrongName),
    (
        "x509: certificate is not valid for any names",
        Trouble::WrongName,
    ),
    ("x509: cannot validate certificate for", Trouble::WrongName),
    (
        "certificate relies on legacy Common Name",
        Trouble::WrongName,
    ),
    (
        "certificate signed by unknown authority",
        Trouble::UnknownAuthority,
    ),
    ("unable to parse bytes as PEM block", Trouble::BundleNotPem),
    ("unable to load root certificates", Trouble::BundleNotPem),
    (
        "certificate has expired or is not yet valid",
        Trouble::Expired,
    ),
    ("connection refused", Trouble::Refused),
    ("no route to host", Trouble::NoRoute),
    ("network is unreachable", Trouble::NoRoute),
    // konnectivity, between a managed control plane and its nodes.
    ("o agent available", Trouble::NoTunnel),
    ("server gave HTTP response to HTTPS client", Trouble::NotTls),
    ("does not look like a TLS handshake", Trouble::NotTls),
    ("remote error: tls", Trouble::NoCertificate),
    ("deadline exceeded", Trouble::TimedOut),
    ("i/o timeout", Trouble::TimedOut),
    ("Client.Timeout", Trouble::TimedOut),
    ("TLS handshake timeout", Trouble::TimedOut),
    ("request timed out", Trouble::TimedOut),
    ("connection reset by peer", Trouble::Cut),
    ("broken pipe", Trouble::Cut),
    (": EOF", Trouble::Cut),
    ("could not find the requested resource", Trouble::WrongPath),
];

impl Trouble {
    /// What an error text of the API server is about; `None` for words of which nothing is known.
    pub(super) fn recognise(text: &str) -> Option<Self> {
        let known = TEXTS.iter().find(|(part, _)| text.contains(part));
        known.map(|(_, trouble)| *trouble).or_else(|| {
            // `service "x" not found` of the webhook call, `services "x" not found` of the proxy.
            let named = ["service \"", "services \""];
            let after = named.iter().find_map(|start| text.split_once(start));
            after
                .is_some_and(|(_, rest)| rest.contains("\" not found"))
                .then_some(Self::ServiceNotFound)
        })
    }

    /// What our own call of the Service ran into.
    pub(super) fn of_call(error: &CallError) -> Option<Self> {
        match error {
            CallError::Refused => Some(Self::Refused),
            CallError::TimedOut => Some(Self::TimedOut),
            CallError::UnknownAuthority => Some(Self::UnknownAuthority),
            CallError::WrongName { .. } => Some(Self::WrongName),
            CallError::Expired | CallError::NotYetValid => Some(Self::Expired),
            CallError::Bundle(_) => Some(Self::BundleNotPem),
            CallError::Other(text) => Self::recognise(text),
        }
    }

    /// In one sentence.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::ServiceNotFound => "the webhook's Service does not exist",
            Self::NoEndpoints => "no replica of the webhook is ready behind the Service",
            Self::NoPort => "the Service has not the port that the configuration names",
            Self::WrongName => "the webhook's certificate is for another name",
            Self::UnknownAuthority => {
                "the webhook's certificate is not from the CA in the configuration's caBundle"
            }
            Self::BundleNotPem => "the configuration's caBundle is not PEM",
            Self::Expired => "the webhook's certificate has expired, or a clock is wrong",
            Self::NoCertificate => "the webhook has no certificate to show yet",
            Self::NotTls => "what listens there speaks no TLS",
            Self::TimedOut => "no answer: most likely a firewall between API server and Pods",
            Self::Refused => "nobody listens on the Service's target port",
            Self::NoRoute => "the API server has no route to the Pod network",
            Self::NoTunnel => "the tunnel from the control plane to the nodes is down",
            Self::Cut => "the connection was cut: a proxy or mesh in between, or a crash",
            Self::WrongPath => "the webhook does not know the path of the configuration",
        }
    }

    /// What to do.
    pub(super) fn fix(self, names: &Names) -> String {
        let Names {
            namespace,
            service,
            webhook,
            controller,
            tls_secret,
            configuration,
            ..
        } = names;
        match self {
            Self::ServiceNotFound | Self::NoPort | Self::WrongPath => names.install_again(),
            Self::NoEndpoints => format!(
                "kubectl -n {namespace} get pods -l app.kubernetes.io/component=webhook; kubectl -n {namespace} describe deployment {webhook}"
            ),
            Self::WrongName | Self::Expired => names.renew_certificate(),
            Self::UnknownAuthority | Self::BundleNotPem => match &*names.certificates {
                "cert-manager" => format!(
                    "look at cert-manager's cainjector, which writes caBundle of {configuration}"
                ),
                "none" => "put the CA of the webhook's certificate into webhook.caBundle of the chart's values".to_owned(),
                // The controller puts its bundle back within seconds of any start.
                _ => format!("kubectl -n {namespace} rollout restart deployment {controller}"),
            },
            Self::NoCertificate => format!(
                "kubectl -n {namespace} get secret {tls_secret}; kubectl -n {namespace} logs deployment/{controller}"
            ),
            Self::TimedOut | Self::NoRoute => format!(
                "allow TCP from the control plane to the nodes and Pods on the target port: kubectl -n {namespace} get service {service} -o jsonpath='{{.spec.ports}}'; kubectl -n {namespace} get networkpolicy"
            ),
            Self::Refused | Self::NotTls => format!(
                "compare targetPort with the webhook's --addr: kubectl -n {namespace} get service {service} -o yaml; kubectl -n {namespace} logs deployment/{webhook}"
            ),
            Self::NoTunnel => "look at the konnectivity agents: kubectl -n kube-system get pods".to_owned(),
            Self::Cut => format!(
                "take namespace {namespace} out of the mesh, then: kubectl -n {namespace} logs deployment/{webhook} --previous"
            ),
        }
    }
}

impl Names {
    /// The fix of a certificate that is the wrong one.
    pub(super) fn renew_certificate(&self) -> String {
        let (namespace, secret) = (&self.namespace, &self.tls_secret);
        match &*self.certificates {
            "self" => {
                format!("kubectl -n {namespace} delete secret {secret}  # made again in seconds")
            }
            "cert-manager" => format!("kubectl -n {namespace} describe certificate {secret}"),
            _ => format!(
                "put a certificate for {}.{namespace}.svc into Secret {namespace}/{secret}",
                self.service
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: impl Into<Option<Trouble>>) {
        assert_eq!(Trouble::recognise(text), expected.into(), "{text}");
    }

    const CALL: &str = "Internal error occurred: failed calling webhook \"pods.pullpass.dev\": failed to call webhook: Post \"https://pullpass-webhook.pullpass.svc:443/mutate?timeout=5s\": ";

    fn check_call(reason: &str, expected: Trouble) {
        check(&format!("{CALL}{reason}"), expected);
    }

    #[test]
    fn every_text_of_the_api_server_is_recognised() {
        use Trouble::*;
        check_call("service \"pullpass-webhook\" not found", ServiceNotFound);
        check_call(
            "no endpoints available for service \"pullpass-webhook\"",
            NoEndpoints,
        );
        check_call(
            "no service port 443 found for service \"pullpass-webhook\"",
            NoPort,
        );
        check_call(
            "tls: failed to verify certificate: x509: certificate is valid for a.b.svc, not pullpass-webhook.pullpass.svc",
            WrongName,
        );
        check_call(
            "tls: failed to verify certificate: x509: certificate is not valid for any names, but wanted to match x",
            WrongName,
        );
        check_call(
            "x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs",
            WrongName,
        );
        check_call(
            "x509: certificate relies on legacy Common Name field, use SANs instead",
            WrongName,
        );
        check_call(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of \"x509: ECDSA verification failure\" while trying to verify candidate authority certificate \"pullpass CA\")",
            UnknownAuthority,
        );
        check_call(
            "unable to load root certificates: unable to parse bytes as PEM block",
            BundleNotPem,
        );
        check_call(
            "x509: certificate has expired or is not yet valid: current time 2026-01-01T00:00:00Z is after 2025-01-01T00:00:00Z",
            Expired,
        );
        check_call(
            "dial tcp 10.96.1.2:443: connect: connection refused",
            Refused,
        );
        check_call("dial tcp 10.96.1.2:443: connect: no route to host", NoRoute);
        check_call("dial tcp 10.96.1.2:443: i/o timeout", TimedOut);
        check_call("context deadline exceeded", TimedOut);
        check_call("net/http: TLS handshake timeout", TimedOut);
        check_call("http: server gave HTTP response to HTTPS client", NotTls);
        check_call("remote error: tls: handshake failure", NoCertificate);
        check_call("EOF", Cut);
        check_call(
            "read tcp 10.0.0.1:5->10.0.0.2:443: read: connection reset by peer",
            Cut,
        );
        check_call("No agent available", NoTunnel);
        check_call(
            "the server could not find the requested resource",
            WrongPath,
        );
    }

    #[test]
    fn the_proxys_texts_are_recognised() {
        check(
            "services \"pullpass-webhook\" not found",
            Trouble::ServiceNotFound,
        );
        check(
            "error trying to reach service: dial tcp 10.88.0.1:40001: connect: connection refused",
            Trouble::Refused,
        );
        check(
            "no endpoints available for service \"https:pullpass-webhook:443\"",
            Trouble::NoEndpoints,
        );
    }

    #[test]
    fn other_troubles_are_not_taken_for_ours() {
        check("namespaces \"x\" not found", None);
        check(
            "error looking up service account default/default: serviceaccount \"default\" not found",
            None,
        );
        check("exceeded quota: compute", None);
    }

    #[test]
    fn every_fix_names_the_installation() {
        let names = Names::of_chart("ns", "p");
        for (_, trouble) in TEXTS {
            let fix = trouble.fix(&names);
            let is_named = fix.contains("-n ns") || *trouble == Trouble::NoTunnel;
            assert!(is_named, "{trouble:?}: {fix}");
        }
    }
}

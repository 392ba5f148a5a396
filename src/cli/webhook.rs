//! `pullpass webhook`: from arguments to a running server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::http::limits::Limits;
use crate::shutdown::{self, Signals};
use crate::webhook::{CertificateSource, Config, RulesSource, Webhook};
use crate::{admission, logging};

/// Most threads that serve requests. One serves some thousand admissions a second, and each keeps
/// memory of its own: on a machine with 64 cores, 64 threads would be a waste.
const WORKER_THREADS_MAX: usize = 4;

/// Longest wait, at the very end, for a file that is still being read: a hung mount must not keep the
/// process alive.
pub(super) const HUNG_READ_MAX: Duration = Duration::from_millis(500);

/// Answer AdmissionReviews over TLS: the mutating webhook
///
/// Serves POST /mutate with TLS on one port; /livez, /readyz and /metrics without on another. Rules,
/// what is known about pull secrets, and the certificate come from files or, in a cluster, from objects
/// of the API server. They are taken over when they change; bad ones never replace good ones. SIGTERM
/// drains, a second one ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WebhookArgs {
    /// The rules, in a file
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "rules_config_map"
    )]
    rules: Option<PathBuf>,
    /// Manifests (YAML or JSON) of the Secrets that the rules name as sources; may be repeated
    #[arg(long, value_name = "FILE")]
    pull_secret: Vec<PathBuf>,
    /// A label that every namespace has; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    namespace_label: Vec<(String, String)>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Address of the TLS port; port 0 lets the system choose, and the log says which
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    addr: SocketAddr,
    /// Address of the plain port for probes and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    probe_addr: SocketAddr,
    /// How long to accept connections after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().drain.as_secs())]
    drain_seconds: u64,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    logging: logging::LogArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "In a cluster")]
struct ClusterArgs {
    /// The rules, in key rules.yaml of this ConfigMap; the labels of namespaces come from the API server
    #[arg(long, value_name = "NAME", requires = "index_config_map")]
    #[arg(conflicts_with_all = ["rules", "pull_secret", "namespace_label"])]
    rules_config_map: Option<String>,
    /// What pull secrets cover, in key index.json of this ConfigMap, which the controller writes
    #[arg(
        long,
        value_name = "NAME",
        requires = "rules_config_map",
        conflicts_with = "rules"
    )]
    index_config_map: Option<String>,
    /// Namespace of these objects [default: that of the Pod, or of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Certificate")]
struct TlsArgs {
    /// Certificate chain, PEM, leaf first. Without it, a CA and a certificate for loopback are made in memory
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key, PEM: PKCS#8, PKCS#1 or SEC1
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A DNS name or IP address to add to the certificate made in memory; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert")]
    tls_san: Vec<String>,
    /// Where to write the CA of the certificate made in memory, so that clients can trust it
    #[arg(long, value_name = "FILE", conflicts_with = "tls_cert")]
    ca_out: Option<PathBuf>,
    /// A Secret with tls.crt and tls.key, in a cluster
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tls_cert", "tls_san", "ca_out"])]
    tls_secret: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  pullpass webhook --rules rules.yaml --ca-out ca.crt
  curl --cacert ca.crt -H 'content-type: application/json' -d @review.json https://localhost:8443/mutate

  pullpass webhook --rules rules.yaml --pull-secret harbor.yaml --tls-cert tls.crt --tls-key tls.key

In a cluster, as the chart runs it (elsewhere the same works with a kubeconfig):
  pullpass webhook --namespace pullpass --rules-config-map pullpass-rules \\
    --index-config-map pullpass-index --tls-secret pullpass-tls \\
    --addr [::]:10250 --probe-addr [::]:8080 --log-format json";

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=');
    let pair = pair.filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl From<WebhookArgs> for Config {
    fn from(args: WebhookArgs) -> Self {
        let tls = args.tls;
        let certificate = match (tls.tls_cert, tls.tls_key, tls.tls_secret) {
            (Some(certificate), Some(key), _) => CertificateSource::Files { certificate, key },
            (_, _, Some(name)) => CertificateSource::Secret(name),
            _ => CertificateSource::InMemory {
                names: tls.tls_san,
                ca_out: tls.ca_out,
            },
        };
        let cluster = args.cluster;
        let rules = match (cluster.rules_config_map, cluster.index_config_map) {
            (Some(rules), Some(index)) => RulesSource::ConfigMaps { rules, index },
            _ => RulesSource::Files {
                // Required without the other two.
                rules: args.rules.unwrap_or_default(),
                pull_secrets: args.pull_secret,
                namespace_labels: args.namespace_label.into_iter().collect(),
            },
        };
        Self {
            address: args.addr,
            probe_address: args.probe_addr,
            rules,
            certificate,
            namespace: cluster.namespace,
            limits: Limits {
                drain: Duration::from_secs(args.drain_seconds),
                ..Limits::default()
            },
            admit: admission::admit,
        }
    }
}

/// Runs until a signal ends it. Exit code 0 after a drain, 2 if it could not start.
pub(super) fn run(args: WebhookArgs) -> ExitCode {
    let outcome = logging::init(&args.logging)
        .map_err(Into::into)
        .and_then(|()| serve(args.into()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error, "cannot serve");
            ExitCode::from(2)
        }
    }
}

fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let cores = available_parallelism().map_or(1, Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKER_THREADS_MAX))
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let signals = Signals::catch()?;
        let (stopper, stop) = shutdown::channel();
        let webhook = Webhook::bind(config, stop).await?;
        tracing::info!(
            webhook = %webhook.local_addr(),
            probes = %webhook.probe_addr(),
            "listening"
        );
        tokio::select! {
            served = webhook.serve() => served?,
            never = signals.relay(&stopper) => match never {},
        }
        tracing::info!("ended");
        Ok(())
    });
    runtime.shutdown_timeout(HUNG_READ_MAX);
    served
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: WebhookArgs,
    }

    fn parse(line: &str) -> Result<Config, clap::Error> {
        let words = std::iter::once("webhook").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args.into())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = parse("--rules r.yaml").unwrap();
        assert_eq!(config.address.to_string(), "127.0.0.1:8443");
        assert_eq!(config.probe_address.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits, Limits::default());
        let in_memory = CertificateSource::InMemory {
            names: Vec::new(),
            ca_out: None,
        };
        assert_eq!(config.certificate, in_memory);
    }

    #[test]
    fn certificate_and_key_come_together_and_exclude_the_in_memory_one() {
        assert!(parse("-r r --tls-cert c --tls-key k").is_ok());
        assert!(parse("-r r --tls-cert c").is_err());
        assert!(parse("-r r --tls-key k").is_err());
        assert!(parse("-r r --tls-cert c --tls-key k --tls-san n").is_err());
        assert!(parse("-r r --tls-cert c --tls-key k --ca-out f").is_err());
    }

    #[test]
    fn labels_are_pairs() {
        let config = parse("-r r --namespace-label a=b --namespace-label c=").unwrap();
        let RulesSource::Files {
            namespace_labels, ..
        } = config.rules
        else {
            panic!("{config:?}")
        };
        let labels: Vec<_> = namespace_labels.into_iter().collect();
        assert_eq!(labels, [("a".into(), "b".into()), ("c".into(), "".into())]);
        assert!(parse("-r r --namespace-label a").is_err());
        assert!(parse("-r r --namespace-label =b").is_err());
    }

    #[test]
    fn files_and_objects_exclude_each_other() {
        const OBJECTS: &str = "--rules-config-map r --index-config-map i";
        let config = parse(&format!("{OBJECTS} --tls-secret t --namespace n")).unwrap();
        let objects = RulesSource::ConfigMaps {
            rules: "r".to_owned(),
            index: "i".to_owned(),
        };
        assert_eq!(config.rules, objects);
        assert_eq!(
            config.certificate,
            CertificateSource::Secret("t".to_owned())
        );
        assert_eq!(config.namespace.as_deref(), Some("n"));
        assert!(parse(&format!("{OBJECTS} --tls-cert c --tls-key k")).is_ok());
        for other in ["-r r", "--pull-secret s", "--namespace-label a=b"] {
            assert!(parse(&format!("{OBJECTS} {other}")).is_err(), "{other}");
        }
        for other in ["--tls-cert c --tls-key k", "--tls-san n", "--ca-out f"] {
            assert!(
                parse(&format!("-r r --tls-secret t {other}")).is_err(),
                "{other}"
            );
        }
        assert!(parse("").is_err());
        assert!(parse("--rules-config-map r").is_err());
        assert!(parse("-r r --index-config-map i").is_err());
    }
}

//! `pullpass controller`: from arguments to a running controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::webhook::HUNG_READ_MAX;
use crate::cluster::client::Connection;
use crate::controller::{CertificateMode, Config, Controller, Recovery};
use crate::logging;
use crate::pki::rotation::ROTATION_WAIT;
use crate::recovery::eviction::EVICTIONS_PER_MINUTE_MAX;
use crate::shutdown::{self, Signals};

/// Evictions a minute unless somebody says otherwise: a third of what `recover` takes, since nobody looks on.
const EVICTIONS_PER_MINUTE: u32 = 10;
/// Seconds between two looks for Pods. A list of those that are pending is a page or a few.
const RECOVERY_INTERVAL_SECONDS: u64 = 60;

/// Deliver pull secrets, keep the webhook's certificates and caBundle, and report bad rules as Events
///
/// Needs a cluster: in a Pod its ServiceAccount is used, elsewhere the kubeconfig. Several may run; one
/// of them writes. Serves /livez, /readyz and /metrics on a plain port. SIGTERM finishes the write under
/// way and gives the Lease back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ControllerArgs {
    /// Namespace of everything but the webhook configuration; by default that of the ServiceAccount or
    /// kubeconfig
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// ConfigMap of the rules, key rules.yaml
    #[arg(long, value_name = "NAME", default_value = "pullpass-rules")]
    rules_config_map: String,
    /// Lease of the leader election
    #[arg(long, value_name = "NAME", default_value = "pullpass-controller")]
    lease: String,
    /// ServiceAccount that owns what the controller makes
    #[arg(long, value_name = "NAME", default_value = "pullpass-controller")]
    service_account: String,
    /// Address of the plain port for probes and metrics; port 0 lets the system choose, and the log
    /// says which
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    probe_addr: SocketAddr,
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    certificates: CertificateArgs,
    #[command(flatten)]
    logging: logging::LogArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Delivery")]
struct DeliveryArgs {
    /// Copy the pull secrets of the rules into the namespaces that may hold them, and publish the index of
    /// what they cover
    #[arg(long)]
    delivery: bool,
    /// Evict Pods that wait for an image and would get a pull secret, made anew, that was delivered to their
    /// namespace: as `pullpass recover --yes` does, but only those of Deployments, ReplicaSets, StatefulSets,
    /// DaemonSets and ReplicationControllers
    #[arg(long, requires = "delivery")]
    recovery: bool,
    /// Evictions a minute at most
    #[arg(long, value_name = "N", default_value_t = EVICTIONS_PER_MINUTE,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(EVICTIONS_PER_MINUTE_MAX)))]
    evictions_per_minute: u32,
    /// Time from one look for such Pods to the next, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = RECOVERY_INTERVAL_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=24 * 60 * 60))]
    recovery_interval: u64,
    /// Directory of the programs that rules call by a plain name (source: {exec: …})
    #[arg(long, value_name = "DIR", default_value = "/plugins")]
    plugins: PathBuf,
    /// ConfigMap of the index, key index.json
    #[arg(long, value_name = "NAME", default_value = "pullpass-index")]
    index_config_map: String,
    /// Authority that registries are verified by when they are asked about a credential (`probe` in the
    /// rules): a PEM file, or a directory of them. May be given several times; without it no registry is
    /// trusted
    #[arg(long, value_name = "PATH")]
    registry_ca: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Certificates")]
struct CertificateArgs {
    /// Who makes the certificates, and who writes caBundle
    #[arg(long, value_enum, value_name = "MODE", default_value = "self")]
    certificates: CertificateMode,
    /// MutatingWebhookConfiguration that holds the webhook pods.pullpass.dev
    #[arg(long, value_name = "NAME", default_value = "pullpass")]
    webhook_configuration: String,
    /// The webhook's Service
    #[arg(long, value_name = "NAME", default_value = "pullpass-webhook")]
    service: String,
    /// Secret of the certificate that the webhook serves
    #[arg(long, value_name = "NAME", default_value = "pullpass-tls")]
    tls_secret: String,
    /// Secret of the CA
    #[arg(long, value_name = "NAME", default_value = "pullpass-ca")]
    ca_secret: String,
    /// How long API servers and webhooks may need to see a change of the certificates, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = ROTATION_WAIT.as_secs())]
    rotation_wait: u64,
}

const EXAMPLES: &str = "\
Examples:
  pullpass controller --namespace pullpass
  pullpass controller --namespace pullpass --certificates provided --tls-secret my-tls

A new CA is made for each new value of an annotation on the CA's Secret:
  kubectl -n pullpass annotate --overwrite secret pullpass-ca pullpass.dev/rotate=\"$(date)\"";

impl ControllerArgs {
    fn config(self, connection: &Connection) -> Config {
        let namespace = self.namespace;
        Config {
            probe_address: self.probe_addr,
            namespace: namespace.unwrap_or_else(|| connection.namespace().to_owned()),
            rules_config_map: self.rules_config_map,
            webhook_configuration: self.certificates.webhook_configuration,
            service: self.certificates.service,
            tls_secret: self.certificates.tls_secret,
            ca_secret: self.certificates.ca_secret,
            lease: self.lease,
            service_account: self.service_account,
            certificates: self.certificates.certificates,
            rotation_wait: Duration::from_secs(self.certificates.rotation_wait),
            registry_ca: self.delivery.registry_ca,
            delivery: self
                .delivery
                .delivery
                .then_some(self.delivery.index_config_map),
            recovery: self.delivery.recovery.then_some(Recovery {
                evictions_per_minute: self.delivery.evictions_per_minute,
                interval: Duration::from_secs(self.delivery.recovery_interval),
            }),
            plugins: self.delivery.plugins,
        }
    }
}

/// Runs until a signal ends it. Exit code 0 after that, 2 if it could not start.
pub(super) fn run(args: ControllerArgs) -> ExitCode {
    let outcome = logging::init(&args.logging)
        .map_err(Into::into)
        .and_then(|()| serve(args));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error, "cannot run");
            ExitCode::from(2)
        }
    }
}

fn serve(args: ControllerArgs) -> Result<(), Box<dyn std::error::Error>> {
    // It waits nearly all of the time.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let signals = Signals::catch()?;
        let (stopper, stop) = shutdown::channel();
        let connection = Connection::infer().await?;
        let config = args.config(&connection);
        let namespace = config.namespace.clone();
        let controller = Controller::bind(config, connection, stop).await?;
        tracing::info!(probes = %controller.probe_addr(), namespace, "listening");
        tokio::select! {
            served = controller.serve() => served?,
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
        args: ControllerArgs,
    }

    fn parse(line: &str) -> Result<ControllerArgs, clap::Error> {
        let words = std::iter::once("controller").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn the_defaults_are_the_charts() {
        let args = parse("").unwrap();
        let certificates = args.certificates;
        assert_eq!(certificates.certificates, CertificateMode::SelfSigned);
        assert_eq!(certificates.ca_secret, "pullpass-ca");
        assert_eq!(certificates.tls_secret, "pullpass-tls");
        assert_eq!(certificates.service, "pullpass-webhook");
        assert_eq!(certificates.webhook_configuration, "pullpass");
        assert_eq!(certificates.rotation_wait, 60);
        assert_eq!(args.rules_config_map, "pullpass-rules");
        assert_eq!(args.lease, "pullpass-controller");
        assert_eq!(args.delivery.index_config_map, "pullpass-index");
        assert!(!args.delivery.delivery, "the chart says so, not a guess");
        assert_eq!(args.service_account, "pullpass-controller");
        assert_eq!(args.delivery.evictions_per_minute, 10);
    }

    #[test]
    fn pods_are_evicted_only_where_pull_secrets_are_delivered_and_somebody_asks_for_it() {
        assert!(!parse("--delivery").unwrap().delivery.recovery);
        assert!(parse("--delivery --recovery").unwrap().delivery.recovery);
        assert!(parse("--recovery").is_err());
        assert!(parse("--delivery --recovery --evictions-per-minute 0").is_err());
        assert!(parse("--delivery --recovery --recovery-interval 0").is_err());
    }

    #[test]
    fn the_modes_are_called_as_in_the_docs() {
        for (word, mode) in [
            ("self", CertificateMode::SelfSigned),
            ("provided", CertificateMode::Provided),
            ("cert-manager", CertificateMode::CertManager),
            ("none", CertificateMode::None),
        ] {
            let args = parse(&format!("--certificates {word}")).unwrap();
            assert_eq!(args.certificates.certificates, mode);
        }
        assert!(parse("--certificates selfsigned").is_err());
    }
}

//! `status`: what was delivered where, and what is left to do?

mod text;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::live::{self, InstallationArgs, Live};
use super::recover;
use super::terminal::Progress;
use super::{CliError, Format, Outcome};
use crate::status::recovery::Which;
use crate::status::{self, Facts, Scope, report};

/// Say what was delivered where, and what is left to do
///
/// For each pull secret of the rules: its source, its registries, when a token in it ends, what the webhook was told, and in
/// which namespaces its copies are present, missing, stale, or somebody else's Secret has their name (foreign). Then rules
/// whose pull secrets have no key for their images, and Pods that wait for an image and would get a pull secret if they
/// were made anew: restart those.
///
/// Uses the kubeconfig, or in a Pod its ServiceAccount, and only the rights that these have; what it may not look at is
/// said. It changes nothing, and shows no password, token or user name.
///
/// It reads the MutatingWebhookConfiguration; in pullpass's namespace Deployments and the ConfigMaps of rules and index;
/// the Secrets that are sources; and in all namespaces, namespaces, the Secrets of the names that copies have, Pods that are
/// Pending, and ServiceAccounts where secrets are attached to them.
///
/// -o json and -o yaml print one object: namespace, release, instance, delivers, index_is_current, pull_secrets (name,
/// secret_name, deliver, source: from, state, reason, fix, index: state, reason, registries, tokens: key, expires,
/// is_expired, copies: present, missing, foreign, stale, each a list of namespaces; accounts: attached, missing, each a
/// list of NAMESPACE/NAME), unwanted, without_key (rule, pattern, pull_secrets), restarts (namespace, pods, adds, fix),
/// pods_unhelped, unseen (what, said, fix), findings.
///
/// Exit code 1 if there is something to do. 2 if the API server cannot be reached, or there are no rules.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass status
  pullpass status -n pullpass --secret harbor
  pullpass status --stuck
  pullpass status -o json | jq -r '.restarts[].fix'
  pullpass status -o json | jq '.pull_secrets[] | {name, missing: .copies.missing}'")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    installation: InstallationArgs,
    /// Only this entry of `pullSecrets`
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Only Pods that wait for an image and that a restart would fix, one by one, and whether `recover` may evict them; prints
    /// what `recover` prints
    #[arg(long, conflicts_with = "secret")]
    stuck: bool,
    /// How to print the report
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(args: &StatusArgs) -> Result<Outcome, CliError> {
    if args.stuck {
        let all = Which {
            namespaces: &[],
            jobs: false,
        };
        let progress = Progress::new();
        let looked = live::run(recover::look(&args.installation, all, &progress));
        drop(progress);
        return recover::print(&looked?.1, false, args.output);
    }
    let facts = live::run(look(args))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let report = report(&facts, now.unwrap_or_default().as_secs());
    args.output.print(&report, text::render)?;
    Ok(match report.findings {
        0 => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

async fn look(args: &StatusArgs) -> Result<Facts, CliError> {
    let progress = Progress::new();
    let show = |what: &str| progress.show(&format!("looking at: {what}"));
    let (server, found) = Live::find(&args.installation.chosen(), &progress).await?;
    let scope = Scope {
        pull_secret: args.secret.as_deref(),
        pods: true,
    };
    let facts = status::fetch(&server, &found, scope, &show).await;
    facts.map_err(|error| CliError::Cluster(error.to_string()))
}

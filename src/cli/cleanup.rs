//! `cleanup`: the copies that an installation has left, and their end.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};

use super::live::{self, InstallationArgs, Live};
use super::terminal::{Progress, printable, wrapped};
use super::{CliError, Format, Outcome};
use crate::status::cleanup::{AccountReport, Cleanup, CopyReport, Fate};
use crate::status::sweep;

/// List the copies of an installation, and with --yes delete them
///
/// A copy is a Secret that pullpass made: it carries the labels app.kubernetes.io/managed-by=pullpass and
/// app.kubernetes.io/instance=NAMESPACE.CONFIGURATION. Uninstalling leaves copies where they are, so that workloads go on
/// pulling; this takes them away. Nothing without both labels is ever touched, and each copy is deleted only as it was
/// looked at.
///
/// While a controller is there that delivers, copies that its rules want are kept: it would put them back.
///
/// Entries that pullpass appended to ServiceAccounts (rules with `serviceAccounts`) are listed, and taken out with the
/// copies: those that the annotation pullpass.dev/attached records for this installation, and no other.
///
/// Beside each copy is the number of Pods of its namespace that name it. They go on running; what they pull after that, they
/// pull without it.
///
/// Uses the kubeconfig, or in a Pod its ServiceAccount: list of Secrets, ServiceAccounts, Pods and namespaces in the
/// cluster, of Deployments and the rules ConfigMap in pullpass's namespace; and with --yes delete of Secrets and patch of
/// ServiceAccounts.
///
/// After `helm uninstall` say --namespace, and --webhook-configuration where the release was not called pullpass.
///
/// -o json and -o yaml print one object: namespace, release, instance, delivers, copies (namespace, secret, pods,
/// fate: deletable, wanted, deleted or failed, reason), service_accounts (namespace, service_account, secrets, fate, reason),
/// others (other installations and how many copies they have), unseen.
///
/// Exit code 0 if no copy is left, 1 if some are, 2 if none may be deleted, or the API server cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass cleanup -n pullpass
  pullpass cleanup -n pullpass --yes
  pullpass cleanup -n pullpass -o json | jq -r '.copies[] | select(.pods > 0) | .namespace'")]
pub(super) struct CleanupArgs {
    #[command(flatten)]
    installation: InstallationArgs,
    /// Delete the copies
    #[arg(long)]
    yes: bool,
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(args: &CleanupArgs) -> Result<Outcome, CliError> {
    let cleanup = live::run(sweep(args))?;
    args.output
        .print(&cleanup, |cleanup, styled| text(cleanup, args.yes, styled))?;
    Ok(match cleanup.left() {
        0 => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

async fn sweep(args: &CleanupArgs) -> Result<Cleanup, CliError> {
    let progress = Progress::new();
    let show = |what: &str| progress.show(&format!("looking at: {what}"));
    let (server, found) = Live::find(&args.installation.chosen(), &progress).await?;
    let swept = sweep::look(&server, &found, &show).await;
    let swept = swept.map_err(|error| CliError::Cluster(error.to_string()))?;
    let mut cleanup = swept.plan();
    let both = |fate| cleanup.count(fate) + cleanup.count_accounts(fate);
    let wanted = cleanup.count(Fate::Wanted);
    if args.yes && both(Fate::Wanted) > 0 && both(Fate::Deletable) == 0 {
        let fix = cleanup.fix();
        let message = format!(
            "nothing was deleted, since the controller would put all {wanted} copies back; {fix}"
        );
        return Err(CliError::Cluster(message));
    }
    if args.yes {
        let show = |done: &str| progress.show(done);
        sweep::clean(&server, &mut cleanup, &show).await;
    }
    Ok(cleanup)
}

fn text(cleanup: &Cleanup, yes: bool, styled: bool) -> String {
    let mut text = String::new();
    let width = cleanup.copies.iter().map(|copy| place(copy).len()).max();
    for copy in &cleanup.copies {
        let (color, says) = shown(copy.fate);
        let style = if styled { color } else { Style::new() };
        let (place, width) = (place(copy), width.unwrap_or_default());
        let reason = copy.reason.as_ref().map(|reason| format!("; {reason}"));
        let line = format!(
            "{place:<width$}  {}{}",
            pods(copy.pods),
            reason.unwrap_or_default()
        );
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{style}{says}{style:#} {}", printable(&line));
    }
    for account in &cleanup.service_accounts {
        let (color, says) = match account.fate {
            Fate::Deletable => (Style::new(), "entry  "),
            Fate::Deleted => (AnsiColor::Green.on_default(), "undone "),
            fate => shown(fate),
        };
        let style = if styled { color } else { Style::new() };
        let line = of_account(account);
        let _written = writeln!(text, "{style}{says}{style:#} {}", printable(&line));
    }
    for line in remarks(cleanup, yes) {
        let _written = writeln!(text, "{}", wrapped(&printable(&line), 0));
    }
    if cleanup.count(Fate::Wanted) + cleanup.count_accounts(Fate::Wanted) > 0 {
        let _written = writeln!(text, "fix: {}", cleanup.fix());
    }
    text
}

fn shown(fate: Fate) -> (Style, &'static str) {
    match fate {
        Fate::Deletable => (Style::new(), "copy   "),
        Fate::Wanted => (AnsiColor::Cyan.on_default(), "kept   "),
        Fate::Deleted => (AnsiColor::Green.on_default(), "deleted"),
        Fate::Failed => (AnsiColor::Red.on_default(), "FAILED "),
    }
}

fn of_account(account: &AccountReport) -> String {
    let (namespace, name) = (&account.namespace, &account.service_account);
    let secrets = account.secrets.join(", ");
    let reason = account.reason.as_ref().map(|reason| format!("; {reason}"));
    let reason = reason.unwrap_or_default();
    format!("{namespace}/{name}  ServiceAccount, with {secrets}{reason}")
}

fn place(copy: &CopyReport) -> String {
    format!("{}/{}", copy.namespace, copy.secret)
}

fn pods(count: Option<usize>) -> String {
    match count {
        None => "Pods were not looked at".to_owned(),
        Some(0) => "no Pod names it".to_owned(),
        Some(1) => "1 Pod names it".to_owned(),
        Some(many) => format!("{many} Pods name it"),
    }
}

/// What is said below the list.
fn remarks(cleanup: &Cleanup, yes: bool) -> Vec<String> {
    let [deletable, kept, deleted, failed] =
        [Fate::Deletable, Fate::Wanted, Fate::Deleted, Fate::Failed]
            .map(|fate| cleanup.count(fate));
    let mut remarks: Vec<String> = cleanup
        .unseen
        .iter()
        .map(|unseen| {
            format!(
                "{} were not looked at: {}; {}",
                unseen.what, unseen.said, unseen.fix
            )
        })
        .collect();
    for (instance, count) in &cleanup.others {
        remarks.push(format!(
            "copies of another installation, {instance}, which are left alone: {count}"
        ));
    }
    let instance = &cleanup.instance;
    remarks.push(match (yes, cleanup.copies.len()) {
        (_, 0) => format!("there are no copies of {instance}"),
        (true, _) => {
            format!("copies of {instance}: {deleted} deleted, {failed} not deleted, {kept} kept")
        }
        (false, all) if deletable > 0 => {
            format!("copies of {instance}: {all}; --yes deletes {deletable} of them")
        }
        (false, all) => format!("copies of {instance}: {all}"),
    });
    let [deletable, kept, undone, failed] =
        [Fate::Deletable, Fate::Wanted, Fate::Deleted, Fate::Failed]
            .map(|fate| cleanup.count_accounts(fate));
    remarks.extend(match (yes, cleanup.service_accounts.len()) {
        (_, 0) => None,
        (true, _) => Some(format!(
            "ServiceAccounts with entries of {instance}: {undone} undone, {failed} not undone, {kept} kept"
        )),
        (false, all) => Some(format!(
            "ServiceAccounts with entries of {instance}: {all}; --yes takes them out of {deletable}"
        )),
    });
    remarks
}

//! `recover`: evicts Pods that a restart would fix. Its list is also what `status --stuck` prints.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};

use super::live::{self, InstallationArgs, Live};
use super::terminal::{Progress, printable, wrapped};
use super::{CliError, Format, Outcome};
use crate::installation::ApiServer;
use crate::recovery::eviction::EVICTIONS_PER_MINUTE_MAX;
use crate::recovery::stuck::{Fate, StuckPod};
use crate::status::recovery::{self, EVICTIONS_PER_MINUTE, StuckReport, Which};

/// List Pods that wait for an image and that a restart would fix, and with --yes evict them
///
/// A Pod is listed if it is in ErrImagePull or ImagePullBackOff and, created now, it would get a pull secret that it lacks,
/// which is in its namespace and has a login for the image. Mostly it is older than the rule. Its list cannot be changed, so
/// it has to be made anew.
///
/// --yes evicts what something makes anew: Pods of Deployments, ReplicaSets, StatefulSets, DaemonSets and
/// ReplicationControllers. Left where they are, and listed with the command that restarts them: Pods that nobody makes anew;
/// Pods of Jobs, which count an evicted Pod as failed, and of other owners, which may (--jobs evicts both); Pods of which
/// another container runs. Static Pods are never listed.
///
/// Pods go by the Eviction API, so that PodDisruptionBudgets hold: what one refuses is listed as refused, and another run
/// tries it again. One goes after the other, each only if it still waits then.
///
/// Uses the kubeconfig, or in a Pod its ServiceAccount, and only the rights that these have: get of the ConfigMaps of rules
/// and index in pullpass's namespace, list of namespaces and Pods, get of the Secrets that Pods would get; and with --yes
/// create of pods/eviction. With --in it lists Pods of those namespaces only.
///
/// -o json and -o yaml print one object: namespace, release, pods (namespace, pod, owner, adds, fate: evictable, left,
/// evicted, recovered, refused or failed, reason, fix), unseen.
///
/// Exit code 0 if no such Pod is left, 1 if some are, 2 if the API server cannot be asked, or there are no rules.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass recover
  pullpass recover --in team-a --in team-b --yes
  pullpass recover --yes --per-minute 6
  pullpass recover -o json | jq -r '.pods[] | select(.fate == \"left\") | .fix'")]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    installation: InstallationArgs,
    /// Only Pods of this namespace; may be repeated
    #[arg(long = "in", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Also Pods of Jobs, which count as failed then, and of other owners, which may count them so
    #[arg(long)]
    jobs: bool,
    /// Evictions a minute at most
    #[arg(long, value_name = "N", default_value_t = EVICTIONS_PER_MINUTE,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(EVICTIONS_PER_MINUTE_MAX)))]
    per_minute: u32,
    /// Evict the Pods
    #[arg(long)]
    yes: bool,
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(args: &RecoverArgs) -> Result<Outcome, CliError> {
    let report = live::run(recover(args))?;
    print(&report, args.yes, args.output)
}

async fn recover(args: &RecoverArgs) -> Result<StuckReport, CliError> {
    let progress = Progress::new();
    let which = Which {
        namespaces: &args.namespaces,
        jobs: args.jobs,
    };
    let (server, mut report) = look(&args.installation, which, &progress).await?;
    if args.yes {
        let show = |done: &str| progress.show(done);
        recovery::evict_all(&server, &mut report, args.per_minute, &show).await;
    }
    Ok(report)
}

/// What a restart would fix.
pub(super) async fn look(
    installation: &InstallationArgs,
    which: Which<'_>,
    progress: &Progress,
) -> Result<(ApiServer, StuckReport), CliError> {
    let show = |what: &str| progress.show(&format!("looking at: {what}"));
    let (server, found) = Live::find(&installation.chosen(), progress).await?;
    let report = recovery::look(&server, &found, which, &show).await;
    let report = report.map_err(|error| CliError::Cluster(error.to_string()))?;
    Ok((server, report))
}

/// Prints a list of Pods; some left are findings.
pub(super) fn print(report: &StuckReport, yes: bool, output: Format) -> Result<Outcome, CliError> {
    output.print(report, |report, styled| text(report, yes, styled))?;
    Ok(match report.left() {
        0 => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

fn text(report: &StuckReport, yes: bool, styled: bool) -> String {
    let mut text = String::new();
    for pod in &report.pods {
        line(&mut text, pod, styled);
    }
    for unseen in &report.unseen {
        let said = format!("not looked at: {}: {}", unseen.what, unseen.said);
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{}", wrapped(&printable(&said), 2));
        let _written = writeln!(text, "  fix: {}", printable(&unseen.fix));
    }
    let _written = writeln!(text, "{}", remark(report, yes));
    text
}

fn line(text: &mut String, pod: &StuckPod, styled: bool) {
    let (color, says) = match pod.fate {
        Fate::Evictable => (Style::new(), "stuck    "),
        Fate::Left => (AnsiColor::Cyan.on_default(), "left     "),
        Fate::Evicted => (AnsiColor::Green.on_default(), "evicted  "),
        Fate::Recovered => (AnsiColor::Green.on_default(), "recovered"),
        Fate::Refused => (AnsiColor::Yellow.on_default(), "refused  "),
        Fate::Failed => (AnsiColor::Red.on_default(), "FAILED   "),
    };
    let style = if styled { color } else { Style::new() };
    let owner = pod.owner.as_deref().unwrap_or("nobody");
    let reason = pod.reason.as_ref().map(|reason| format!("; {reason}"));
    let said = format!(
        "{}/{}  of {owner}; would get {}{}",
        pod.namespace,
        pod.pod,
        pod.adds.join(", "),
        reason.unwrap_or_default()
    );
    let said = printable(&said);
    // Writing to a String cannot fail.
    let _written = writeln!(text, "{style}{says}{style:#} {}", wrapped(&said, INDENT));
    if matches!(pod.fate, Fate::Left | Fate::Failed) {
        let _written = writeln!(text, "{:INDENT$}fix: {}", "", printable(&pod.fix));
    }
}

/// Columns before a Pod.
const INDENT: usize = 10;

fn remark(report: &StuckReport, yes: bool) -> String {
    let [evictable, left, evicted, refused, failed] = [
        Fate::Evictable,
        Fate::Left,
        Fate::Evicted,
        Fate::Refused,
        Fate::Failed,
    ]
    .map(|fate| report.count(fate));
    match (report.pods.len(), yes) {
        (0, _) if report.unseen.is_empty() => "no Pod waits that a restart would fix".to_owned(),
        (0, _) => "no Pod waits that a restart would fix, as far as could be seen".to_owned(),
        (all, false) => format!(
            "Pods that a restart would fix: {all}; pullpass recover --yes evicts {evictable} of them"
        ),
        (_, true) => format!(
            "Pods that a restart would fix: {evicted} evicted, {refused} refused, {failed} not \
             evicted, {left} left"
        ),
    }
}

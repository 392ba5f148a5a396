//! `doctor`: is the installation in this cluster sound?

use std::fmt::Write as _;
use std::time::SystemTime;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::live::{self, InstallationArgs, Live};
use super::offline::DEFAULT_NAMESPACE;
use super::terminal::{Progress, printable};
use super::{CliError, Format, Outcome};
use crate::doctor::{self, Asked, Facts, Finding, Status};

/// Look at an installation and say what is wrong, with the fix
///
/// Uses the kubeconfig, or in a Pod its ServiceAccount, and only the rights that these have; what it may not look at is
/// said. It changes nothing: a trial Pod is created as a dry run.
///
/// It reads (get or list) the MutatingWebhookConfiguration, the namespace of --check-namespace, and in pullpass's namespace
/// Deployments, Pods, PodDisruptionBudgets, the Service and its EndpointSlices, the rules ConfigMap and the TLS Secret (its
/// certificate only); for delivery, the index ConfigMap, the Secrets that are sources, all namespaces, and in all of them
/// the Secrets of the names that copies have; asks through services/proxy and pods/proxy whether the API server reaches the webhook; creates a Pod
/// as a dry run; and creates SubjectAccessReviews. With the right to get /metrics of the API server it also sees calls that
/// failurePolicy Ignore hides. In a Pod it calls the Service itself.
///
/// -o json and -o yaml print one object: namespace, configuration, findings (check, status: ok, unseen, warning or problem,
/// message, fix), and how many there are of each status.
///
/// Exit code 1 if there is a problem, or if not even the webhook's configuration could be looked at; warnings do not count.
/// 2 if the API server cannot be reached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullpass doctor
  pullpass doctor -n pullpass --check-namespace team-a
  pullpass doctor -o json | jq '.findings[] | select(.status != \"ok\")'")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    installation: InstallationArgs,
    /// Namespace whose Pods should get pull secrets; one is tried there
    #[arg(long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    check_namespace: String,
    /// Image of the trial Pod [default: made up from the rules]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Also call the Service's own address from here, which works on nodes and in Pods [default: in a Pod without KUBECONFIG]
    #[arg(long)]
    inside: bool,
    /// How to print the findings
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What `-o json` and `-o yaml` print.
#[derive(Serialize)]
struct Report {
    namespace: String,
    configuration: String,
    findings: Vec<Finding>,
    ok: usize,
    unseen: usize,
    warnings: usize,
    problems: usize,
}

pub(super) fn run(args: &DoctorArgs) -> Result<Outcome, CliError> {
    let facts = live::run(look(args))?;
    let report = Report::of(&facts, doctor::examine(&facts, SystemTime::now()));
    args.output.print(&report, Report::text)?;
    Ok(match report.problems {
        0 if facts.webhook().is_some() => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

async fn look(args: &DoctorArgs) -> Result<Facts, CliError> {
    let live = Live::connect().await?;
    let asked = Asked {
        chosen: args.installation.chosen(),
        check_namespace: args.check_namespace.clone(),
        image: args.image.clone(),
        inside: args.inside || is_in_pod(),
    };
    let progress = Progress::new();
    let show = |what: &str| progress.show(&format!("looking at: {what}"));
    Ok(doctor::fetch(&live.server, &live.namespace, &asked, &show).await)
}

/// Whether the cluster that is asked is the one this runs in. The kubelet gives every container the
/// first variable; with the second, another cluster may be meant.
fn is_in_pod() -> bool {
    let is_set = |name| std::env::var_os(name).is_some();
    is_set("KUBERNETES_SERVICE_HOST") && !is_set("KUBECONFIG")
}

impl Report {
    fn of(facts: &Facts, findings: Vec<Finding>) -> Self {
        let count = |status| findings.iter().filter(|f| f.status == status).count();
        Self {
            namespace: facts.names.namespace.clone(),
            configuration: facts.names.configuration.clone(),
            ok: count(Status::Ok),
            unseen: count(Status::Unseen),
            warnings: count(Status::Warning),
            problems: count(Status::Problem),
            findings,
        }
    }

    fn text(&self, styled: bool) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let (color, says) = match finding.status {
                Status::Ok => (AnsiColor::Green, "ok     "),
                Status::Unseen => (AnsiColor::Cyan, "unseen "),
                Status::Warning => (AnsiColor::Yellow, "warning"),
                Status::Problem => (AnsiColor::Red, "PROBLEM"),
            };
            let style = if styled {
                color.on_default()
            } else {
                Style::new()
            };
            let (check, message) = (finding.check, printable(&finding.message));
            // Writing to a String cannot fail.
            let _written = writeln!(text, "{style}{says}{style:#} {check}: {message}");
            if let Some(fix) = &finding.fix {
                let _written = writeln!(text, "        fix: {}", printable(fix));
            }
        }
        let Self {
            ok,
            unseen,
            warnings,
            problems,
            ..
        } = self;
        text + &format!("{ok} ok, {warnings} warnings, {problems} problems, {unseen} not seen\n")
    }
}

//! `explain pod/NAME`: a Pod of the cluster, with the kubelet's words about it.

use std::fmt::{self, Write as _};

use clap::builder::styling::Style;

use super::ExplainArgs;
use super::text::Page;
use crate::cli::live::{self, Live};
use crate::cli::terminal::{Progress, printable, wrapped};
use crate::cli::{CliError, Outcome};
use crate::recovery::images::ImageState;
use crate::status::pull::report::{ImageReport, PodSecretReport, PodSecretState};
use crate::status::pull::{self, PullReport};

/// Columns before the text of a line: two, a label of five, two.
const INDENT: usize = 9;

pub(super) fn run(args: &ExplainArgs, pod: &str) -> Result<Outcome, CliError> {
    let report = live::run(look(args, pod))?;
    args.output.print(&report, render)?;
    Ok(match report.findings() {
        0 => Outcome::Clean,
        _ => Outcome::Findings,
    })
}

async fn look(args: &ExplainArgs, name: &str) -> Result<PullReport, CliError> {
    let progress = Progress::new();
    let show = |what: &str| progress.show(&format!("looking at: {what}"));
    let meant = args.release.in_namespace(args.installation.as_deref());
    let live = Live::connect().await?;
    progress.show("looking at: installation");
    let found = live.server.find(&meant, &live.namespace).await;
    let namespace = args.surroundings.namespace.as_ref();
    let namespace = namespace.unwrap_or(&live.namespace);
    let facts = pull::fetch(&live.server, &found, (namespace, name), &show).await;
    let facts = facts.map_err(|error| CliError::Cluster(error.to_string()))?;
    Ok(pull::report(&facts))
}

fn render(report: &PullReport, styled: bool) -> String {
    let mut page = Page::new(styled);
    // Writing to a String cannot fail.
    let _written = page.live(report);
    page.text
}

impl Page {
    fn live(&mut self, report: &PullReport) -> fmt::Result {
        self.head(report)?;
        for image in &report.images {
            self.image(image)?;
        }
        for secret in &report.pull_secrets {
            self.pull_secret(secret)?;
        }
        let bold = self.styles.bold;
        if let Some(decision) = &report.decision {
            writeln!(self.text, "\n{bold}If it were created now{bold:#}")?;
            if report.is_sent == Some(false) {
                writeln!(self.text, "the API server would not ask pullpass about it")?;
            } else {
                self.decision(decision)?;
            }
        }
        if !report.unseen.is_empty() {
            writeln!(self.text, "\n{bold}Not looked at{bold:#}")?;
        }
        for unseen in &report.unseen {
            let text = format!("{}: {}", unseen.what, unseen.said);
            writeln!(self.text, "  {}", wrapped(&printable(&text), 4))?;
            writeln!(self.text, "    fix: {}", printable(&unseen.fix))?;
        }
        writeln!(self.text, "\n{bold}{}{bold:#}", report.conclusion)
    }

    fn head(&mut self, report: &PullReport) -> fmt::Result {
        let bold = self.styles.bold;
        let PullReport {
            namespace,
            name,
            created,
            owner,
            node,
            ..
        } = report;
        writeln!(
            self.text,
            "{bold}Pod {}{bold:#} in namespace {bold}{}{bold:#}",
            printable(name),
            printable(namespace)
        )?;
        let facts = [
            created.map(|at| format!("created {at}")),
            owner.as_ref().map(|owner| format!("of {owner}")),
            Some(match node {
                Some(node) => format!("on {node}"),
                None => "not scheduled".to_owned(),
            }),
        ];
        let facts: Vec<_> = facts.into_iter().flatten().collect();
        writeln!(self.text, "  {}", printable(&facts.join(", ")))
    }

    fn image(&mut self, report: &ImageReport) -> fmt::Result {
        let (good, bad, dim) = (self.styles.good, self.styles.bad, self.styles.dim);
        let image = &report.image;
        // A decoder's words are no name of a reason; they follow as what the kubelet says.
        let reason = image.reason.as_deref();
        let reason = reason.filter(|reason| !reason.contains(' '));
        let (style, state) = match image.state {
            ImageState::Pulled => (good, "pulled"),
            ImageState::Waiting => (Style::new(), "not pulled yet"),
            ImageState::Failing => (bad, reason.unwrap_or("failing")),
        };
        writeln!(
            self.text,
            "  image  {}  {dim}{}/{}{dim:#}  {style}{state}{style:#}",
            printable(&image.image),
            image.place,
            printable(&image.name),
        )?;
        for login in &report.logins {
            let text = format!("login  Secret {}, key {}", login.secret, login.key);
            self.more(&text, dim)?;
        }
        if let Some(says) = &report.says {
            self.more(says, bad)?;
        }
        if let Some(fix) = &report.fix {
            // Not broken into lines: it may be a command.
            writeln!(self.text, "{:INDENT$}fix: {}", "", printable(fix))?;
        }
        match &image.message {
            Some(message) => self.more(&format!("kubelet: {message}"), dim),
            None => Ok(()),
        }
    }

    fn more(&mut self, text: &str, style: Style) -> fmt::Result {
        let text = printable(text);
        let text = wrapped(&text, INDENT);
        writeln!(self.text, "{:INDENT$}{style}{text}{style:#}", "")
    }

    fn pull_secret(&mut self, secret: &PodSecretReport) -> fmt::Result {
        let label = if secret.is_listed { "has  " } else { "lacks" };
        let (style, state) = match secret.state {
            PodSecretState::Current => (self.styles.good, "a copy that is as its source is"),
            PodSecretState::Present => (self.styles.good, "there"),
            PodSecretState::Missing => (self.styles.bad, "not in the namespace"),
            PodSecretState::Foreign => (
                self.styles.bad,
                "somebody else's Secret, and not pullpass's copy",
            ),
            PodSecretState::Stale => (self.styles.bad, "a copy that is not as its source is"),
            PodSecretState::Unseen => (Style::new(), "could not be looked at"),
        };
        let unusable = secret.unusable.as_ref();
        let unusable = unusable.map(|why| format!("; unusable: {why}"));
        let text = format!("{}: {state}{}", secret.name, unusable.unwrap_or_default());
        let text = printable(&text);
        let text = wrapped(&text, INDENT);
        writeln!(self.text, "  {label}  {style}{text}{style:#}")
    }
}

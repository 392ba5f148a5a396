//! A report as text for a terminal, in lines of 100 columns where words allow it.

use std::fmt::{self, Write};

use clap::builder::styling::{AnsiColor, Style};

use crate::cli::terminal::{printable, wrapped};
use crate::status::report::{
    AccountsReport, CopiesReport, ProbeReport, PullSecretReport, SourceState,
};
use crate::status::{Report, first_few};

/// Renders a report, with a line break at the end.
pub(super) fn render(report: &Report, styled: bool) -> String {
    let mut page = Page {
        text: String::new(),
        styled,
    };
    // Writing to a String cannot fail.
    let _written = page.report(report);
    page.text
}

/// How good a line is.
#[derive(Clone, Copy)]
enum Mark {
    Good,
    Bad,
    Plain,
}

struct Page {
    text: String,
    styled: bool,
}

impl Page {
    fn report(&mut self, report: &Report) -> fmt::Result {
        let Report {
            namespace,
            release,
            instance,
            ..
        } = report;
        writeln!(
            self.text,
            "release {release} in namespace {namespace}; its copies are labelled {instance}"
        )?;
        self.delivery(report)?;
        for secret in &report.pull_secrets {
            self.pull_secret(secret, report)?;
        }
        self.rest(report)?;
        writeln!(self.text)?;
        match report.findings {
            0 if report.unseen.is_empty() => writeln!(self.text, "nothing to do"),
            0 => writeln!(self.text, "nothing to do, as far as could be seen"),
            1 => writeln!(self.text, "1 thing to do"),
            many => writeln!(self.text, "{many} things to do"),
        }
    }

    fn delivery(&mut self, report: &Report) -> fmt::Result {
        let doctor = doctor(report);
        let (text, fix) = match (report.delivers, report.index_is_current) {
            (Some(false), _) => (
                "The controller copies nothing: each namespace has to bring its own Secrets",
                "if it should, set delivery.enabled in the chart's values",
            ),
            (_, Some(false)) => (
                "The controller has not published what it says of these rules",
                &*doctor,
            ),
            _ => return Ok(()),
        };
        writeln!(self.text)?;
        self.item(text, fix)
    }

    fn pull_secret(&mut self, secret: &PullSecretReport, report: &Report) -> fmt::Result {
        let name = printable(&secret.name);
        let bold = self.style(Style::new().bold());
        write!(self.text, "\n{bold}{name}{bold:#}")?;
        if secret.secret_name != secret.name {
            write!(self.text, " (Secret {})", printable(&secret.secret_name))?;
        }
        writeln!(self.text, ", {}", secret.deliver)?;
        self.source(secret)?;
        if report.delivers != Some(false) {
            self.webhook(secret)?;
        }
        if let Some(probe) = &secret.probe {
            self.probe(probe, secret)?;
        }
        if !secret.registries.is_empty() {
            self.line("registries", Mark::Plain, &first_few(&secret.registries))?;
        }
        for token in &secret.tokens {
            let (mark, end) = match token.is_expired {
                true => (Mark::Bad, "ended"),
                false => (Mark::Plain, "ends"),
            };
            self.line(
                "token",
                mark,
                &format!("{} {end} {}", token.key, token.expires),
            )?;
        }
        if let Some(copies) = &secret.copies {
            self.copies(copies, secret, report)?;
        }
        match &secret.accounts {
            Some(accounts) => self.accounts(accounts, report),
            None => Ok(()),
        }
    }

    fn accounts(&mut self, accounts: &AccountsReport, report: &Report) -> fmt::Result {
        let AccountsReport { attached, missing } = accounts;
        let has = format!("{} have it", attached.len());
        if missing.is_empty() {
            return self.line("accounts", Mark::Good, &has);
        }
        let text = format!("{has}, {} do not", missing.len());
        self.line("accounts", Mark::Bad, &text)?;
        self.line("  missing", Mark::Plain, &first_few(missing))?;
        self.fix(&doctor(report))
    }

    fn probe(&mut self, probe: &ProbeReport, secret: &PullSecretReport) -> fmt::Result {
        let repository = &probe.repository;
        let reason = probe.reason.as_deref().unwrap_or_default();
        let (mark, text) = match probe.result {
            Some("accepted") => (Mark::Good, format!("lets it pull {repository}")),
            Some("rejected") => (Mark::Bad, format!("rejects it: {reason}")),
            Some(_) => (
                Mark::Plain,
                format!("does not say whether it accepts it: {reason}"),
            ),
            None => (Mark::Plain, format!("not asked about {repository} yet")),
        };
        self.line("registry", mark, &text)?;
        match probe.is_rejected() {
            true => self.fix(&format!(
                "put a login that works into {}",
                secret.source.from
            )),
            false => Ok(()),
        }
    }

    fn webhook(&mut self, secret: &PullSecretReport) -> fmt::Result {
        let index = &secret.index;
        let rejected = secret.probe.as_ref().filter(|probe| probe.is_rejected());
        let reason = index.reason.as_deref().unwrap_or_default();
        let unusable = format!("does not inject it: {reason}");
        let (mark, text) = match index.state {
            "usable" => match rejected {
                None => (Mark::Good, "injects it"),
                Some(probe) if probe.skips => {
                    (Mark::Bad, "does not inject it: its registry rejects it")
                }
                Some(_) => (
                    Mark::Bad,
                    "injects it with a warning: its registry rejects it",
                ),
            },
            "stale" => (
                Mark::Bad,
                "injects it with a warning: its source is gone or unusable",
            ),
            "unusable" => (Mark::Bad, &*unusable),
            _ => (
                Mark::Plain,
                "was told nothing of it, and injects it by patterns only",
            ),
        };
        self.line("webhook", mark, text)
    }

    fn source(&mut self, secret: &PullSecretReport) -> fmt::Result {
        let source = &secret.source;
        let (mark, state) = match source.state {
            SourceState::Usable if source.reason.is_some() => (Mark::Bad, ": gives nothing new"),
            SourceState::Usable => (Mark::Good, ": usable"),
            SourceState::Missing => (Mark::Bad, ": missing"),
            SourceState::Unusable => (Mark::Bad, ": unusable"),
            SourceState::Unseen => (Mark::Plain, ": could not be looked at"),
            SourceState::NotLookedAt => (Mark::Plain, ""),
        };
        let reason = source.reason.as_ref().map(|reason| format!(", {reason}"));
        let text = format!("{}{state}{}", source.from, reason.unwrap_or_default());
        self.line("source", mark, &text)?;
        match &source.fix {
            Some(fix) => self.fix(fix),
            None => Ok(()),
        }
    }

    fn copies(
        &mut self,
        copies: &CopiesReport,
        secret: &PullSecretReport,
        report: &Report,
    ) -> fmt::Result {
        let CopiesReport {
            present,
            missing,
            foreign,
            stale,
        } = copies;
        let lists = [
            ("present", present),
            ("missing", missing),
            ("foreign", foreign),
            ("stale", stale),
        ];
        let counts = lists.iter().filter(|(_, list)| !list.is_empty());
        let counts: Vec<_> = counts
            .map(|(state, list)| format!("{} {state}", list.len()))
            .collect();
        let is_whole = missing.is_empty() && foreign.is_empty() && stale.is_empty();
        let (mark, counts) = match (is_whole, counts.is_empty()) {
            (_, true) => (Mark::Plain, "none wanted".to_owned()),
            (true, false) => (Mark::Good, counts.join(", ")),
            (false, false) => (Mark::Bad, counts.join(", ")),
        };
        self.line("copies", mark, &counts)?;
        // Without a source, that is what has to be mended.
        let has_source = !secret.source.state.is_bad();
        let doctor = has_source.then(|| doctor(report));
        let foreign_fix =
            "nobody touches them: delete them, `adopt` them, or choose another `secretName`";
        for (state, list, fix) in [
            ("missing", missing, doctor.as_deref()),
            ("foreign", foreign, Some(foreign_fix)),
            ("stale", stale, doctor.as_deref()),
        ] {
            if !list.is_empty() {
                self.line(&format!("  {state}"), Mark::Plain, &first_few(list))?;
                fix.map_or(Ok(()), |fix| self.fix(fix))?;
            }
        }
        Ok(())
    }

    /// What is not about one pull secret.
    fn rest(&mut self, report: &Report) -> fmt::Result {
        if !report.unwanted.is_empty() {
            let places = report.unwanted.iter();
            let places: Vec<String> = places
                .map(|place| format!("{}/{}", place.namespace, place.secret))
                .collect();
            self.head("Copies that no rule wants")?;
            self.item(
                &first_few(&places),
                "the controller deletes them; if they stay: pullpass cleanup",
            )?;
        }
        if !report.without_key.is_empty() {
            self.head("Rules whose pull secrets have no key for their images")?;
        }
        for bare in &report.without_key {
            let secrets = bare.pull_secrets.join(", ");
            self.item(
                &format!(
                    "rule {}: {}: no key of {secrets} covers it",
                    bare.rule, bare.pattern
                ),
                "log in to that host in the source Secret, or write the host that it has a key for",
            )?;
        }
        if !report.restarts.is_empty() {
            self.head("Pods that a restart would fix")?;
        }
        for restart in &report.restarts {
            let pods = first_few(&restart.pods);
            let adds = restart.adds.join(", ");
            self.item(
                &format!("namespace {}: {pods}: would get {adds}", restart.namespace),
                &restart.fix,
            )?;
        }
        if report.pods_unhelped > 0 {
            let text = format!(
                "Pods that wait for an image, and that a restart would not help: {}",
                report.pods_unhelped
            );
            writeln!(
                self.text,
                "\n{text}\n    fix: kubectl -n NAMESPACE describe pod POD"
            )?;
        }
        if !report.unseen.is_empty() {
            self.head("Not looked at")?;
        }
        for unseen in &report.unseen {
            self.item(&format!("{}: {}", unseen.what, unseen.said), &unseen.fix)?;
        }
        Ok(())
    }

    fn style(&self, style: Style) -> Style {
        if self.styled { style } else { Style::new() }
    }

    fn head(&mut self, text: &str) -> fmt::Result {
        let bold = self.style(Style::new().bold());
        writeln!(self.text, "\n{bold}{text}{bold:#}")
    }

    fn item(&mut self, text: &str, fix: &str) -> fmt::Result {
        writeln!(self.text, "  {}", wrapped(&printable(text), 4))?;
        writeln!(self.text, "    fix: {}", printable(fix))
    }

    /// Not broken into lines: it may be a command.
    fn fix(&mut self, fix: &str) -> fmt::Result {
        writeln!(self.text, "{:LABEL$}fix: {}", "", printable(fix))
    }

    fn line(&mut self, label: &str, mark: Mark, text: &str) -> fmt::Result {
        let style = self.style(match mark {
            Mark::Good => AnsiColor::Green.on_default(),
            Mark::Bad => AnsiColor::Red.on_default(),
            Mark::Plain => Style::new(),
        });
        let text = printable(text);
        let text = wrapped(&text, LABEL);
        writeln!(self.text, "  {label:<10}  {style}{text}{style:#}")
    }
}

/// Columns before the text of a line: two, a label of ten, two.
const LABEL: usize = 14;

fn doctor(report: &Report) -> String {
    let namespace = &report.namespace;
    format!("the controller does it within seconds; if not: pullpass doctor -n {namespace}")
}

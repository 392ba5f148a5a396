//! An explanation as text for a terminal.
//!
//! What a manifest, a payload or a rule may spell freely goes through [`printable`]; names of rules and
//! pull secrets, and images that parse, are ASCII without control characters by their own grammar.

use std::fmt::{self, Write};

use clap::builder::styling::{AnsiColor, Style};

use super::Explained;
use crate::admission::explanation::{
    Explanation, ImageReading, KeyReport, Outcome, PatternReport, RuleReport, SecretReport,
};
use crate::cli::terminal::printable;

/// The styles; all of them empty where colours are not wanted.
pub(super) struct Styles {
    pub(super) good: Style,
    pub(super) bad: Style,
    pub(super) dim: Style,
    pub(super) bold: Style,
}

impl Styles {
    fn new(styled: bool) -> Self {
        let pick = |style: Style| if styled { style } else { Style::new() };
        Self {
            good: pick(AnsiColor::Green.on_default()),
            bad: pick(AnsiColor::Red.on_default()),
            dim: pick(Style::new().dimmed()),
            bold: pick(Style::new().bold()),
        }
    }
}

/// Renders one explained Pod, with a line break at the end.
pub(super) fn render(explained: &Explained, styled: bool) -> String {
    let mut page = Page::new(styled);
    // Writing to a String cannot fail.
    let _written = page.explained(explained);
    page.text
}

/// What is written so far.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) styles: Styles,
}

impl Page {
    pub(super) fn new(styled: bool) -> Self {
        Self {
            text: String::new(),
            styles: Styles::new(styled),
        }
    }

    fn explained(&mut self, explained: &Explained) -> fmt::Result {
        let Explained {
            kind,
            name,
            explanation,
        } = explained;
        let Styles { bold, .. } = self.styles;
        let space = if name.is_empty() { "" } else { " " };
        writeln!(
            self.text,
            "{bold}{}{space}{}{bold:#} in namespace {bold}{}{bold:#}",
            printable(kind),
            printable(name),
            printable(&explanation.namespace)
        )?;
        self.pod(explanation)?;
        if !explanation.rules.is_empty() {
            writeln!(self.text)?;
        }
        self.decision(explanation)
    }

    /// Every rule, and what follows.
    pub(super) fn decision(&mut self, explanation: &Explanation) -> fmt::Result {
        let width = widest(explanation.rules.iter().map(|rule| &rule.name));
        for rule in &explanation.rules {
            self.rule(rule, width)?;
        }
        writeln!(self.text)?;
        let Styles { bad, bold, .. } = self.styles;
        for warning in &explanation.warnings {
            writeln!(self.text, "{bad}warning{bad:#}: {}", printable(warning))?;
        }
        writeln!(
            self.text,
            "{bold}{}{bold:#}",
            printable(&explanation.conclusion)
        )
    }

    fn pod(&mut self, explanation: &Explanation) -> fmt::Result {
        let Styles { bad, dim, .. } = self.styles;
        let width = widest(explanation.images.iter().map(|image| &image.image));
        for image in &explanation.images {
            let ImageReading {
                image,
                place,
                name,
                hint,
                error,
                ..
            } = image;
            let shown = printable(image);
            writeln!(self.text, "  image  {shown:width$}  {dim}{place}{dim:#}")?;
            if let Some(error) = error {
                writeln!(
                    self.text,
                    "         {bad}the kubelet refuses it{bad:#}: {}",
                    printable(error)
                )?;
            }
            match (hint, name) {
                (Some(hint), _) => writeln!(self.text, "         {dim}{}{dim:#}", printable(hint))?,
                (None, Some(name)) if !image.starts_with(name.as_str()) => {
                    writeln!(self.text, "         {dim}the kubelet reads {name}{dim:#}")?;
                }
                _ => {}
            }
        }
        for name in &explanation.present {
            let name = if name.is_empty() { "(no name)" } else { name };
            writeln!(self.text, "  has    {}", printable(name))?;
        }
        Ok(())
    }

    fn rule(&mut self, rule: &RuleReport, width: usize) -> fmt::Result {
        let Styles { good, dim, .. } = self.styles;
        let name = &rule.name;
        let added = || {
            let secrets = rule.pull_secrets.iter().filter(|secret| secret.is_added());
            let names: Vec<_> = secrets.map(|secret| &*secret.secret_name).collect();
            names.join(", ")
        };
        let (sign, style, says) = match rule.outcome {
            Outcome::Adds => ('+', good, format!("adds {}", added())),
            Outcome::WouldAdd => (
                '~',
                good,
                format!("would add {}, but is in Shadow mode", added()),
            ),
            Outcome::AddsNothing => ('=', dim, "adds nothing".to_owned()),
            Outcome::WantsNothing => ('-', dim, "wants nothing".to_owned()),
            Outcome::DoesNotApply => ('-', dim, "does not apply".to_owned()),
        };
        let why_not = rule.why_not.iter().map(|why_not| format!(": {why_not}"));
        let why_not: String = why_not.collect();
        writeln!(
            self.text,
            "{style}{sign} {name:width$}{style:#}  {says}{}",
            printable(&why_not)
        )?;
        let matched = || rule.images.iter().filter(|image| image.pattern.is_some());
        let width = widest(matched().map(|image| &image.name));
        matched().try_for_each(|image| self.pattern(image, width))?;
        let wants_nothing = rule.why_not.is_some();
        let mut secrets = rule.pull_secrets.iter().filter(|_| !wants_nothing);
        secrets.try_for_each(|secret| self.secret(secret, matched().next().is_some()))
    }

    /// An image that a pattern matches.
    fn pattern(&mut self, image: &PatternReport, width: usize) -> fmt::Result {
        let PatternReport {
            name,
            pattern,
            excluded_by,
        } = image;
        let pattern = pattern.as_deref().unwrap_or_default();
        let pattern = printable(pattern);
        write!(self.text, "    {name:width$}  matches `{pattern}`")?;
        match excluded_by {
            Some(excluded) => writeln!(self.text, ", but is excluded by `{}`", printable(excluded)),
            None => writeln!(self.text),
        }
    }

    /// `is_clear`: the lines above say why the rule wants it.
    fn secret(&mut self, secret: &SecretReport, is_clear: bool) -> fmt::Result {
        let Styles { good, bad, .. } = self.styles;
        let style = match secret.verdict {
            Some(_) if secret.is_added() => good,
            Some("not_permitted" | "unusable" | "undecodable_here") => bad,
            _ => Style::new(),
        };
        let SecretReport {
            name,
            secret_name,
            detail,
            ..
        } = secret;
        let alias = match name == secret_name {
            true => String::new(),
            false => format!(" (Secret {secret_name})"),
        };
        write!(
            self.text,
            "    pull secret {name}{alias}: {style}{}{style:#}",
            printable(detail)
        )?;
        // Without `images`, only the images with a key are of interest.
        let shown = || {
            let keys = secret.keys.iter();
            keys.filter(|key| is_clear || key.key.is_some() || key.is_empty)
        };
        match &secret.wanted {
            Some(wanted) if !is_clear && shown().next().is_none() => {
                writeln!(self.text, "; {}", printable(wanted))?;
            }
            None if !secret.is_known => writeln!(self.text, "; give it with --pull-secret")?,
            _ => writeln!(self.text)?,
        }
        let width = widest(shown().map(|key| &key.name));
        shown().try_for_each(|key| self.key(key, width))
    }

    fn key(&mut self, report: &KeyReport, width: usize) -> fmt::Result {
        let Styles { dim, .. } = self.styles;
        let says = match &report.key {
            Some(key) if report.docker_hub_fallback => {
                format!("key `{key}`, as the fallback for Docker Hub")
            }
            Some(key) => format!("key `{key}`"),
            None if report.is_empty => "a key without user name and password".to_owned(),
            None => "no key".to_owned(),
        };
        writeln!(
            self.text,
            "      {dim}{:width$}  {}{dim:#}",
            report.name,
            printable(&says)
        )
    }
}

/// Widest column, in characters: one very long name must not push every other line to the right.
const COLUMN_CHARACTERS_MAX: usize = 56;

fn widest<'a>(texts: impl Iterator<Item = &'a String>) -> usize {
    let widths = texts.map(|text| printable(text).chars().count());
    widths.max().unwrap_or(0).min(COLUMN_CHARACTERS_MAX)
}

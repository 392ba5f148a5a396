//! The report of an import as text for a terminal, in lines of 100 columns where words allow it.

use std::fmt::{self, Write as _};

use clap::builder::styling::{AnsiColor, Style};

use super::Report;
use crate::cli::terminal::{printable, wrapped};
use crate::import::{Row, State};
use crate::manifest;

/// Column of what is said of a login, below its key.
const INDENT: usize = 4;

/// The whole report, with a line break at its end.
pub(super) fn render(report: &Report<'_>, styled: bool) -> String {
    let mut text = remarks(report, styled);
    if !report.secrets.is_empty() {
        text += "\n# rules.yaml\n";
        text += &manifest::to_yaml(&[&report.rules]);
    }
    for (at, path) in report.written.iter().enumerate() {
        text += if at == 0 { "\nwritten: " } else { ", " };
        text += &printable(path);
    }
    if !report.written.is_empty() {
        text += "\n";
    }
    text
}

/// What is said of the logins, without the rules.
pub(super) fn remarks(report: &Report<'_>, styled: bool) -> String {
    let mut page = Page {
        text: String::new(),
        styled,
    };
    // Writing to a String cannot fail.
    let _written = page.remarks(report);
    page.text
}

struct Page {
    text: String,
    styled: bool,
}

impl Page {
    fn remarks(&mut self, report: &Report<'_>) -> fmt::Result {
        for row in report.logins {
            self.row(row)?;
        }
        for note in report.notes {
            writeln!(self.text, "{}", wrapped(&printable(note), 0))?;
        }
        let logins = report.logins.iter();
        let used = logins.filter(|row| row.state == State::Used).count();
        let secrets = report.secrets.len();
        if report.logins.is_empty() {
            return writeln!(self.text, "there is no login here");
        }
        let unusable = report.unusable;
        let said = format!(
            "{used} used, in {secrets} Secret{}; {unusable} cannot be used",
            if secrets == 1 { "" } else { "s" }
        );
        writeln!(self.text, "\n{said}")
    }

    fn row(&mut self, row: &Row) -> fmt::Result {
        let bold = self.style(Style::new().bold());
        let key = printable(&row.key);
        writeln!(
            self.text,
            "{bold}{key}{bold:#} from {}",
            printable(&row.from)
        )?;
        let reason = row.reason.as_deref().unwrap_or_default();
        match row.state {
            State::Used => {
                let secret = row.secret.as_deref().unwrap_or_default();
                self.line(AnsiColor::Green, "Secret", secret)?;
            }
            State::Empty => self.line(AnsiColor::Green, "empty", "its login is elsewhere")?,
            State::Replaced => self.line(AnsiColor::Yellow, "not used", reason)?,
            State::Unusable => self.line(AnsiColor::Red, "CANNOT BE USED", reason)?,
        }
        if let Some(fix) = &row.fix {
            self.line(AnsiColor::Cyan, "fix", fix)?;
        }
        for note in &row.notes {
            self.line(AnsiColor::Yellow, "note", note)?;
        }
        Ok(())
    }

    fn line(&mut self, color: AnsiColor, what: &str, text: &str) -> fmt::Result {
        let style = self.style(color.on_default());
        let text = format!("{what}: {}", printable(text));
        let text = wrapped(&text, INDENT);
        let rest = text.strip_prefix(what).unwrap_or_default();
        writeln!(self.text, "    {style}{what}{style:#}{rest}")
    }

    fn style(&self, style: Style) -> Style {
        if self.styled { style } else { Style::new() }
    }
}

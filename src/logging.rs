//! Logs: text for people, JSON for machines, always on standard error.
//!
//! At `info` nothing is logged per request, at `debug` at most one line. No Pod body and no byte of a
//! secret is ever logged, and not by a panic either: [`init`] replaces the panic message, which may
//! quote the text that was being sliced, by the place of the panic.

use std::panic;

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The arguments that choose how to log.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,
    /// The least important lines that are shown; `debug` adds one line per request
    #[arg(long, value_enum, default_value = "info", value_name = "LEVEL")]
    pub log_level: Level,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line for people.
    Text,
    /// One JSON object a line, the fields of the event beside `message`.
    Json,
}

/// How important a line is at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Something is broken and stays so until someone acts.
    Error,
    /// Something is worth a look.
    Warn,
    /// What an operator wants to know: starts, stops, new rules, new certificates.
    Info,
    /// One line per request.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Installs the process-wide logger and panic hook.
///
/// # Errors
/// If the process has a logger already.
pub fn init(args: &LogArgs) -> Result<(), TryInitError> {
    // Libraries log requests of their own at debug; they are heard when something is wrong. Not kube: it
    // quotes answers that it cannot read, Secrets too, and what fails is logged by who asked for it.
    let ours = args.log_level.filter();
    let filter = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("kube", ours.min(LevelFilter::ERROR))
        .with_target(env!("CARGO_CRATE_NAME"), ours);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match args.log_format {
        Format::Text => registry.with(lines.with_target(false)).try_init(),
        Format::Json => registry
            .with(lines.json().flatten_event(true).with_current_span(false))
            .try_init(),
    }?;
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(
            place = place.as_deref().unwrap_or("unknown"),
            "a bug: the program panicked here; please report it"
        );
    }));
    Ok(())
}

//! Where log lines go, and how they look.

use std::env;
use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::cli::{LogArgs, LogFormat};

/// The filter where the command line has none.
const VARIABLE: &str = "WEIR_LOG";

/// Starts logging to standard error.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let (origin, filter) = match (&args.log_level, env::var(VARIABLE)) {
        (Some(level), _) => ("--log-level", level.clone()),
        (None, Ok(level)) => (VARIABLE, level),
        (None, Err(_)) => ("", "info".to_owned()),
    };
    let filter = EnvFilter::try_new(&filter)
        .with_context(|| format!("{origin}: `{filter}` is no log filter"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match args.log_format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .init(),
    }
    Ok(())
}

//! `weir check`, and reading a config for `weir run`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use weir_model::Config;

use crate::cause::told;
use crate::run;

/// Prints what is wrong with a config, or a line that says what is in it.
pub(crate) fn check(file: &Path) -> Result<ExitCode> {
    let text = read(file)?;
    let config = match Config::parse(&text, file) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &config.warnings {
        eprintln!("{warning}\n");
    }
    let unreadable = unreadable(&config);
    for file in &unreadable {
        eprintln!("warning: {file}");
    }
    println!(
        "{}",
        summary(file, &config, config.warnings.len() + unreadable.len())
    );
    Ok(ExitCode::SUCCESS)
}

/// Files that the config names and that cannot be read here. The config may be right nevertheless: for another
/// machine, or another user.
fn unreadable(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for listener in &config.listeners {
        for file in listener.files() {
            if let Err(error) = fs::File::open(file) {
                found.push(format!(
                    "listener `{}`: {} cannot be read: {error}",
                    listener.name,
                    file.display()
                ));
            }
        }
    }
    for pool in &config.pools {
        for file in pool.tls.iter().flat_map(|tls| tls.files()) {
            if let Err(error) = fs::File::open(file) {
                found.push(format!(
                    "pool `{}`: {} cannot be read: {error}",
                    pool.name,
                    file.display()
                ));
            }
        }
    }
    if let Err(error) = run::token(&config.api) {
        found.push(told(&error));
    }
    found
}

/// Reads and parses a config. The error is what people need to mend it.
pub(crate) fn load(file: &Path) -> Result<Config> {
    let text = read(file)?;
    Config::parse(&text, file)
        .map_err(|errors| anyhow::anyhow!("the config has mistakes\n{errors}"))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read the config {}", file.display()))
}

fn summary(file: &Path, config: &Config, warnings: usize) -> String {
    let backends: usize = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let mut line = format!(
        "{}: ok: {}, {}, {}",
        file.display(),
        counted(config.listeners.len(), "listener"),
        counted(config.pools.len(), "pool"),
        counted(backends, "backend"),
    );
    if warnings > 0 {
        line.push_str(&format!("; {}", counted(warnings, "warning")));
    }
    line
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

//! What size costs at layer 4: the start of a node with ten thousand listeners, a change of one of them, and a table of
//! ten million sessions.

mod sessions;
mod start;

use anyhow::{Context, Result};
use serde_json::json;

use crate::bench::Options;

/// Measures, prints the table, and writes it as JSON where the options say so.
pub fn run(options: &Options) -> Result<()> {
    let mut starts = Vec::new();
    for kind in start::KINDS {
        if options.wants(kind.name) {
            starts.push(start::measure(kind)?);
        }
    }
    if !starts.is_empty() {
        println!("{}", start::TITLES);
    }
    for row in &starts {
        println!("{row}");
    }
    let sessions = if options.wants(sessions::NAME) {
        Some(sessions::measure(options.quick)?)
    } else {
        None
    };
    if let Some(sessions) = &sessions {
        println!("{sessions}");
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json!({
            "benchmark": "scale",
            "starts": starts.iter().map(start::Row::json).collect::<Vec<_>>(),
            "sessions": sessions.as_ref().map(sessions::Figures::json),
        }))?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

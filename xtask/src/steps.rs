//! The steps of a task, each with the time it took.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What has been done, in order.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Runs a step.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let start = Instant::now();
        let result = work();
        self.done
            .push((name.to_owned(), start.elapsed(), result.is_ok()));
        result
    }

    /// Runs a step that is a program.
    pub(crate) fn cargo(&mut self, name: &str, mut command: Command) -> Result<()> {
        self.run(name, || {
            let status = command
                .status()
                .with_context(|| format!("start {}", command.get_program().display()))?;
            if !status.success() {
                bail!("{name} failed: {status}");
            }
            Ok(())
        })
    }

    /// Prints what was done and how long it took.
    pub(crate) fn print(&self) {
        if self.done.is_empty() {
            return;
        }
        println!("\n{:<24} {:>8}", "step", "seconds");
        for (name, took, good) in &self.done {
            let verdict = if *good { "" } else { "  FAILED" };
            println!("{name:<24} {:>8.1}{verdict}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("{:<24} {:>8.1}", "total", total.as_secs_f64());
    }
}

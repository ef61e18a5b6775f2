//! The project's tasks, so that a fresh machine needs a Rust toolchain and nothing else: `cargo xtask`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod packages;
mod steps;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};

use crate::steps::Steps;

const USAGE: &str = "\
Usage: cargo xtask <task>

Tasks:
  test [ARGS]     every test of the workspace; ARGS go to `cargo test`, as in `cargo xtask test -p weir-lab`
  ci              formatting, clippy with warnings as errors, dependencies, and every test
  bench l4|l7|scale [--quick] [--only TEXT] [--json FILE]
                  one benchmark, or those of its rows whose name contains TEXT, with an optimized build: a table,
                  and the same as JSON into FILE
  soak l4         a gigabyte through every mode, family and encapsulation of layer 4, with checksums: a table
  fuzz [TARGET [SECONDS]]
                  a fuzz target, `packets` unless another one is named, for a minute or as long as given; needs a
                  nightly toolchain and cargo-fuzz, and says so where one is missing

As root, `test`, `ci`, `bench` and `soak` install missing programs (nginx, curl, wrk, iperf3 and the like) from the
distribution's packages. Where they cannot, the tests that need them are skipped and say so.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut steps = Steps::default();
    let result = match args.as_slice() {
        ["test", rest @ ..] => test(&mut steps, Skipping::Allowed, rest),
        ["ci"] => ci(&mut steps),
        ["soak", "l4"] => soak(&mut steps),
        ["bench", plane @ ("l4" | "l7" | "scale"), rest @ ..] => bench(&mut steps, plane, rest),
        ["fuzz"] => fuzz(&mut steps, "packets", "60"),
        ["fuzz", target] => fuzz(&mut steps, target, "60"),
        ["fuzz", target, seconds] => fuzz(&mut steps, target, seconds),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(anyhow!("unknown task: {}\n\n{USAGE}", args.join(" "))),
    };
    steps.print();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What becomes of tests that cannot run here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skipping {
    /// They say why, and pass.
    Allowed,
    /// They fail: root has and gets all that they need.
    Forbidden,
}

/// Builds and runs the tests. The packages come first: a test looks for its programs when it starts.
fn test(steps: &mut Steps, skipping: Skipping, args: &[&str]) -> Result<()> {
    steps.run("packages", || packages::install(packages::FOR_TESTS))?;
    let selected = args
        .iter()
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let scope: &[&str] = if selected { &[] } else { &["--workspace"] };
    let mut build = cargo(&["test", "--no-run"]);
    build.args(scope).args(args);
    steps.cargo("build tests", build)?;
    let mut run = cargo(&["test", "--no-fail-fast"]);
    run.args(scope).args(args);
    if !selected {
        // The lab runs the binary that was built along with the tests of its own crate, so that nothing compiles twice
        // for other features. By itself it would build the binary alone.
        run.env("WEIR_BIN", target_folder()?.join("debug/weir"));
    }
    if skipping == Skipping::Forbidden {
        run.env("WEIR_NO_SKIP", "1");
    }
    steps.cargo("test", run)
}

fn ci(steps: &mut Steps) -> Result<()> {
    steps.cargo("format", cargo(&["fmt", "--all", "--check"]))?;
    for outside in ["crates/l4-ebpf", "fuzz"] {
        let manifest = root()?.join(outside).join("Cargo.toml");
        if manifest.exists() {
            let mut format = cargo(&["fmt", "--check", "--manifest-path"]);
            format.arg(manifest);
            steps.cargo(&format!("format {outside}"), format)?;
        }
    }
    steps.cargo(
        "clippy",
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    // The kernel's program, as optimized as it is built: it has no unwinding, which other profiles want.
    let manifest = root()?.join("crates/l4-ebpf/Cargo.toml");
    let mut clippy = cargo(&["clippy", "--release", "--manifest-path"]);
    clippy
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_folder()?.join("clippy-l4-ebpf"));
    clippy.args(["--", "-D", "warnings"]);
    steps.cargo("clippy l4-ebpf", clippy)?;
    if packages::find("cargo-deny").is_some() {
        steps.cargo(
            "dependencies",
            cargo(&[
                "deny",
                "--workspace",
                "check",
                "bans",
                "licenses",
                "sources",
            ]),
        )?;
    } else {
        println!("skipped: dependencies (cargo-deny is not installed)");
    }
    let skipping = if packages::is_root() {
        Skipping::Forbidden
    } else {
        Skipping::Allowed
    };
    test(steps, skipping, &[])
}

/// Runs the scenarios that take too long for every day.
fn soak(steps: &mut Steps) -> Result<()> {
    let lab = ["-p", "weir-lab", "--test", "scenarios"];
    let only = ["l4_families::", "--ignored", "--nocapture"];
    test(
        steps,
        Skipping::Forbidden,
        &[&lab[..], &["--"], &only].concat(),
    )
}

/// Runs one of the lab's benchmarks with everything optimized, the lab too.
fn bench(steps: &mut Steps, plane: &str, args: &[&str]) -> Result<()> {
    steps.run("packages", || packages::install(packages::FOR_BENCHMARKS))?;
    steps.cargo(
        "build",
        cargo(&[
            "build",
            "--release",
            "-p",
            "weir",
            "-p",
            "weir-lab",
            "--bins",
        ]),
    )?;
    let target = target_folder()?.join("release");
    let mut bench = Command::new(target.join("bench"));
    bench
        .arg(plane)
        .args(args)
        .env("WEIR_BIN", target.join("weir"));
    steps.cargo("bench", bench)
}

/// Runs a fuzz target. Nothing else here needs a nightly toolchain: the fuzzer's instrumentation is not in the stable one.
fn fuzz(steps: &mut Steps, target: &str, seconds: &str) -> Result<()> {
    let seconds: u32 = seconds
        .parse()
        .with_context(|| format!("`{seconds}` is no number of seconds"))?;
    let nightly = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .output();
    if !nightly.is_ok_and(|output| output.status.success()) {
        bail!(
            "fuzzing needs a nightly toolchain, and there is none: `rustup toolchain install nightly`"
        );
    }
    if packages::find("cargo-fuzz").is_none() {
        bail!("fuzzing needs cargo-fuzz, and it is not in PATH: `cargo install cargo-fuzz`");
    }
    let mut run = Command::new("rustup");
    run.args(["run", "nightly", "cargo", "fuzz", "run", target, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .arg("-max_len=1024")
        .current_dir(root()?);
    steps.cargo(&format!("fuzz {target}"), run)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// The workspace's folder.
fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is a folder of the workspace")
}

/// Cargo's target folder: this program is in its `debug`.
fn target_folder() -> Result<PathBuf> {
    let own = env::current_exe().context("find the target folder")?;
    let folder = own
        .ancestors()
        .nth(2)
        .with_context(|| format!("{} is not in a target folder", own.display()))?;
    Ok(folder.to_owned())
}

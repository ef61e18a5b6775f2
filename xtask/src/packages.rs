//! Programs of the distribution that tests and benchmarks run.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};

/// A program, or a file, and the Debian package that brings it.
type Program = (&'static str, &'static str);

/// What the tests run.
pub(crate) const FOR_TESTS: &[Program] = &[
    (
        "/usr/lib/python3/dist-packages/grpc/__init__.py",
        "python3-grpcio",
    ),
    (
        "/usr/lib/python3/dist-packages/hypercorn/__init__.py",
        "python3-hypercorn",
    ),
    (
        "/usr/lib/python3/dist-packages/websockets/__init__.py",
        "python3-websockets",
    ),
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("ping", "iputils-ping"),
    ("traceroute", "traceroute"),
    ("wrk", "wrk"),
];

/// What the benchmarks run.
pub(crate) const FOR_BENCHMARKS: &[Program] = &[
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

/// Mirrors fail now and then.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);

/// A package's scripts ask this program whether they may start its service (Debian's invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. Where that is not ours to do, says what is missing and goes on: tests skip by themselves.
pub(crate) fn install(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|(program, _)| *program)
        .collect::<Vec<_>>()
        .join(", ");
    if !is_root() || find("apt-get").is_none() {
        let why = if is_root() {
            "there is no apt-get"
        } else {
            "not root"
        };
        println!("not installed: {names} ({why}); the tests that need them are skipped");
        return Ok(());
    }
    println!("installing: {names}");
    let _policy = Policy::forbid_services().context("keep services from being started")?;
    apt(&["update"])?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(missing.iter().map(|(_, package)| *package));
    apt(&args)
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Where a program is, by `PATH` and the folders of system programs, which some users' `PATH` lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders
        // An absolute path is itself in every folder.
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        let output = Command::new("apt-get")
            .args([
                "--quiet",
                "-o",
                "DPkg::Lock::Timeout=300",
                "-o",
                "Acquire::Retries=3",
            ])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .context("start apt-get")?;
        if output.status.success() {
            return Ok(());
        }
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("apt-get {}: {}", args[0], output.status);
    }
    bail!("apt-get {} failed {TRIES} times:\n{last}", args.join(" "))
}

/// Forbids that installed packages start their services: nginx would take port 80. Lifted on drop.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> io::Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        // 101: action forbidden by policy.
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            // Nobody to tell; a policy that stays only keeps services from starting by themselves.
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}

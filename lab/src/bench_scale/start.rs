//! How long a node with many listeners takes to start, and to follow a change of one of them.
//!
//! ```text
//! lb ── world: a router for all backends, and all of them
//! ```
//! The start is over when `/healthz` answers: by then XDP is attached and every listener serves. The change is a reload
//! of the file in which one listener's port is another; it is over when the log says so.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;
use weir_netns::{Namespace, veth};

use crate::folder::Folder;
use crate::http;
use crate::process::Process;
use crate::weir::binary;

/// The head of the table.
pub(super) const TITLES: &str = "listeners, backends                             check s   start s   CPU s   MiB   change s   CPU s";
const LB: &str = "192.0.2.10/24";
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 9900);
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Changes; the median counts.
const CHANGES: usize = 5;

/// A size, with health checks or without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    listeners: u32,
    backends: u32,
    checks: bool,
}

/// What is measured.
pub(super) const KINDS: [Kind; 4] = [
    Kind::new("start, 10 listeners, 50 backends", 10, 50, false),
    Kind::new(
        "start, 10,000 listeners, 50,000 backends",
        10_000,
        50_000,
        false,
    ),
    Kind::new(
        "start, 10,000 listeners, 50,000 checked",
        10_000,
        50_000,
        true,
    ),
    Kind::new("start, 1 pool for 10,000 listeners", 10_000, 5, false),
];

impl Kind {
    const fn new(name: &'static str, listeners: u32, backends: u32, checks: bool) -> Self {
        Self {
            name,
            listeners,
            backends,
            checks,
        }
    }

    /// The file. Each listener has a pool of its own if there are backends for that; `port` is that of the last listener.
    fn config(self, port: u16) -> String {
        let mut text = "[node]\nname = \"scale\"\n[l4]\ninterfaces = [\"eth0\"]\nlocal_addresses = [\"192.0.2.10\"]\n".to_owned();
        let pools = self.listeners.min(self.backends / 5).max(1);
        for number in 0..self.listeners {
            let [_, a, b, c] = number.to_be_bytes();
            let port = if number + 1 == self.listeners {
                port
            } else {
                80
            };
            let pool = number % pools;
            let _ = writeln!(
                text,
                "[[listener]]\nname = \"l{number}\"\nbind = \"203.{a}.{b}.{c}:{port}\"\nprotocol = \"tcp\"\nforward = \
                 \"fullnat\"\npool = \"p{pool}\""
            );
        }
        for pool in 0..pools {
            let _ = writeln!(text, "[[pool]]\nname = \"p{pool}\"");
            if self.checks {
                text.push_str("health = { type = \"tcp\", interval = \"30s\" }\n");
            }
            text.push_str("backend = [\n");
            for server in 0..self.backends / pools {
                let [_, a, b, c] = (pool * (self.backends / pools) + server).to_be_bytes();
                let _ = writeln!(
                    text,
                    "  {{ address = \"10.{a}.{b}.{c}:8080\", weight = 10 }},"
                );
            }
            text.push_str("]\n");
        }
        text
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: &'static str,
    /// `weir check` of the file.
    check: Duration,
    /// From the start of the process to the answer, and what of a core it took.
    start: Duration,
    start_cpu: Duration,
    /// The most memory that it had, maps apart.
    memory_bytes: u64,
    change: Duration,
    change_cpu: Duration,
}

impl Row {
    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "what": self.name,
            "check_s": self.check.as_secs_f64(),
            "start_s": self.start.as_secs_f64(),
            "start_cpu_s": self.start_cpu.as_secs_f64(),
            "memory_bytes": self.memory_bytes,
            "change_s": self.change.as_secs_f64(),
            "change_cpu_s": self.change_cpu.as_secs_f64(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<46} {:>8.3} {:>9.3} {:>7.2} {:>5} {:>10.3} {:>7.2}",
            self.name,
            self.check.as_secs_f64(),
            self.start.as_secs_f64(),
            self.start_cpu.as_secs_f64(),
            self.memory_bytes >> 20,
            self.change.as_secs_f64(),
            self.change_cpu.as_secs_f64(),
        )
    }
}

/// The load balancer's namespace, and that of everything else.
struct Place {
    lb: Namespace,
    _world: Namespace,
}

impl Place {
    fn new() -> Result<Self> {
        let (lb, world) = (Namespace::new("lb")?, Namespace::new("world")?);
        let (near, far) = veth((&lb, "eth0"), (&world, "eth0"))?;
        near.add_address(LB)?;
        far.add_address(&format!("{ROUTER}/24"))?;
        lb.forward_packets()?;
        lb.add_route("0.0.0.0/0", IpAddr::V4(ROUTER))?;
        // All backends are here: what is sent to any of them is for this machine.
        let mut local = Command::new("ip");
        local.args(["route", "add", "local", "10.0.0.0/8", "dev", "lo"]);
        let output = world.output(&mut local).context("run ip")?;
        ensure!(
            output.status.success(),
            "ip: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let server = world.run(|| TcpListener::bind("0.0.0.0:8080"))?;
        thread::spawn(move || server.incoming().for_each(drop));
        Ok(Self { lb, _world: world })
    }
}

/// Starts a node of this size, and changes it.
pub(super) fn measure(kind: Kind) -> Result<Row> {
    let place = Place::new()?;
    let folder = Folder::new();
    let file = folder.write("weir.toml", kind.config(80));
    let before = Instant::now();
    let checked = Command::new(binary())
        .arg("check")
        .arg(&file)
        .output()
        .context("run weir check")?;
    let check = before.elapsed();
    ensure!(
        checked.status.success(),
        "weir check: {}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let mut command = Command::new(binary());
    command.arg("run").arg("--config").arg(&file);
    let before = Instant::now();
    let mut weir = Process::start("weir", &place.lb, &folder, &mut command);
    let mut figures = || -> Result<Row> {
        wait(&mut weir, |_| {
            let answer = place
                .lb
                .run(|| http::get(SocketAddr::from(API), "localhost", "/healthz"));
            answer.is_ok_and(|answer| answer.status == 200)
        })?;
        let start = before.elapsed();
        let start_cpu = cpu(&weir)?;
        let memory_bytes = most_memory(&weir)?;
        let mut changes = Vec::new();
        for change in 0..CHANGES {
            folder.write("weir.toml", kind.config(1000 + change as u16));
            let cpu_before = cpu(&weir)?;
            let before = Instant::now();
            weir.signal(Signal::SIGHUP);
            wait(&mut weir, |log| log.matches("reloaded: ").count() > change)?;
            changes.push((before.elapsed(), cpu(&weir)?.saturating_sub(cpu_before)));
        }
        changes.sort();
        let (change, change_cpu) = changes[CHANGES / 2];
        Ok(Row {
            name: kind.name,
            check,
            start,
            start_cpu,
            memory_bytes,
            change,
            change_cpu,
        })
    };
    let outcome = figures();
    weir.kill();
    let mut detach = Command::new(binary());
    detach.arg("detach").arg("--config").arg(&file);
    let detached = place.lb.output(&mut detach).context("run weir detach")?;
    ensure!(
        detached.status.success(),
        "weir detach: {}",
        String::from_utf8_lossy(&detached.stderr)
    );
    outcome.with_context(|| weir.log())
}

/// Waits for something to be so, given the log.
fn wait(weir: &mut Process, mut done: impl FnMut(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = weir.ended() {
            anyhow::bail!("weir ended: {status}");
        }
        if done(&weir.log()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Processor time of all threads of a process so far (proc(5), /proc/pid/stat, utime and stime).
fn cpu(process: &Process) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, fields) = stat
        .rsplit_once(')')
        .context("the process' name has an end")?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has ticks")?;
    Ok(Duration::from_secs_f64(
        ticks.iter().sum::<u64>() as f64 / per_second as f64,
    ))
}

/// The most memory that a process had at any time (proc(5), VmHWM).
fn most_memory(process: &Process) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("the kernel tells the most memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

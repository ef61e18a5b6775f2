//! Ten million sessions in one table: memory, refusals, and what it costs to go through them.
//!
//! ```text
//! gen ── lb ── sink
//! ```
//! The kernel makes the packets (live frames of a test run): SYNs and acknowledgements of clients. Behind lb a program
//! answers the SYNs, so every session has both directions and is established, and stays while the figures are taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::xdp::XdpMode;
use serde_json::json;
use weir_l4::{DropReason, Filter, Plane, Stats};
use weir_model::{Config, Snapshot};
use weir_netns::{Link, Namespace, veth};

use crate::bench_l4::live::{Generator, Way};

pub(super) const NAME: &str = "sessions, 10,000,000";
/// Of the config.
const MAX_SESSIONS: u32 = 10_000_000;
/// Opened in one go: clients confirm their sessions within a fraction of a second, as those of a table that is nearly full
/// must.
const CHUNK: u32 = 50_000;
/// Sessions whose packets are measured: far more than fit a cache.
const MEASURED: u32 = 500_000;
/// Where all clients and the way to them are.
const CLIENTS: &str = "100.64.0.0/10";
const CLIENT_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BACKENDS: u8 = 100;
const LOCALS: u8 = 64;
/// Passes of the sweep that are watched.
const PASSES: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Packets of established sessions while nobody counts, and while somebody does.
const PACKETS: u32 = 1_000_000;

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// Sessions that clients asked for, and that were there at the end.
    asked: u64,
    open: u64,
    /// Of the table of IPv4.
    table_bytes: u64,
    lines_used: f64,
    refused: Vec<(&'static str, u64)>,
    load: Duration,
    fill: Duration,
    pass: Duration,
    pass_cpu: Duration,
    count: Duration,
    page: Duration,
    /// Nanoseconds of a packet, generator and cables included.
    packet_ns: f64,
    packet_while_counted_ns: f64,
}

impl Figures {
    fn bytes_per_session(&self) -> f64 {
        self.table_bytes as f64 / f64::from(MAX_SESSIONS)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "max_sessions": MAX_SESSIONS,
            "asked": self.asked,
            "open": self.open,
            "table_bytes": self.table_bytes,
            "bytes_per_session": self.bytes_per_session(),
            "lines_used": self.lines_used,
            "refused": self.refused.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "load_s": self.load.as_secs_f64(),
            "fill_s": self.fill.as_secs_f64(),
            "pass_s": self.pass.as_secs_f64(),
            "pass_cpu_s": self.pass_cpu.as_secs_f64(),
            "count_s": self.count.as_secs_f64(),
            "page_s": self.page.as_secs_f64(),
            "packet_ns": self.packet_ns,
            "packet_while_counted_ns": self.packet_while_counted_ns,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: Vec<String> = self
            .refused
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        writeln!(f, "\nmax_sessions = {MAX_SESSIONS}, FullNAT, IPv4, TCP")?;
        for (what, value) in [
            (
                "bytes a session",
                format!("{:.1}", self.bytes_per_session()),
            ),
            ("MiB of the table", (self.table_bytes >> 20).to_string()),
            ("sessions asked for", self.asked.to_string()),
            ("sessions open", self.open.to_string()),
            (
                "lines in use, of 100",
                format!("{:.1}", self.lines_used * 100.0),
            ),
            ("packets refused", refused.join(", ")),
            ("start, s", format!("{:.2}", self.load.as_secs_f64())),
            ("filling, s", format!("{:.1}", self.fill.as_secs_f64())),
            (
                "a pass of the sweep, s",
                format!("{:.2}", self.pass.as_secs_f64()),
            ),
            (
                "CPU of a pass, s",
                format!("{:.3}", self.pass_cpu.as_secs_f64()),
            ),
            (
                "part of a core",
                format!(
                    "{:.2}",
                    self.pass_cpu.as_secs_f64() / self.pass.as_secs_f64()
                ),
            ),
            (
                "counting them, s",
                format!("{:.2}", self.count.as_secs_f64()),
            ),
            (
                "a page of 1,000, ms",
                format!("{:.2}", self.page.as_secs_f64() * 1e3),
            ),
            (
                "a packet over both cables, ns",
                format!("{:.0}", self.packet_ns),
            ),
            (
                "the same while they are counted, ns",
                format!("{:.0}", self.packet_while_counted_ns),
            ),
        ] {
            writeln!(f, "{what:<46} {value:>16}")?;
        }
        Ok(())
    }
}

/// The three namespaces.
struct Place {
    generator: Namespace,
    lb: Namespace,
    send: Link,
    arms: [Link; 2],
    sink: Link,
}

impl Place {
    fn new() -> Result<Self> {
        let [generator, lb, sink] = [
            Namespace::new("gen")?,
            Namespace::new("lb")?,
            Namespace::new("sink")?,
        ];
        let (send, in_arm) = veth((&generator, "eth0"), (&lb, "eth0"))?;
        let (out_arm, sink) = veth((&lb, "eth1"), (&sink, "eth0"))?;
        in_arm.add_address("192.0.2.254/24")?;
        out_arm.add_address("10.0.2.254/24")?;
        lb.forward_packets()?;
        let mac = sink.mac()?;
        for n in 1..=BACKENDS {
            out_arm.add_neighbour(IpAddr::V4(Ipv4Addr::new(10, 0, 2, n)), mac)?;
        }
        in_arm.add_neighbour(IpAddr::V4(CLIENT_ROUTER), send.mac()?)?;
        lb.add_route(CLIENTS, IpAddr::V4(CLIENT_ROUTER))?;
        Ok(Self {
            generator,
            lb,
            send,
            arms: [in_arm, out_arm],
            sink,
        })
    }
}

fn config() -> Result<Arc<Config>> {
    let locals: Vec<String> = (1..=LOCALS).map(|n| format!("\"10.0.3.{n}\"")).collect();
    let backends: Vec<String> = (1..=BACKENDS)
        .map(|n| format!("{{ address = \"10.0.2.{n}:8080\" }}"))
        .collect();
    let text = format!(
        "[l4]\ninterfaces = [\"eth0\", \"eth1\"]\nlocal_addresses = [{}]\nmax_sessions = {MAX_SESSIONS}\n\
         max_sessions_ipv6 = 1024\n[[listener]]\nname = \"a\"\nbind = \"203.0.113.10:80\"\nprotocol = \"tcp\"\n\
         forward = \"fullnat\"\npool = \"a\"\n[[pool]]\nname = \"a\"\nbackend = [{}]\n",
        locals.join(", "),
        backends.join(", ")
    );
    let config =
        Config::parse(&text, Path::new("weir.toml")).map_err(|errors| anyhow!("{errors}"))?;
    Ok(Arc::new(config))
}

/// Makes the table, fills it, and goes through it.
pub(super) fn measure(quick: bool) -> Result<Figures> {
    let sessions = if quick {
        MAX_SESSIONS / 10
    } else {
        MAX_SESSIONS
    };
    let place = Place::new()?;
    let config = config()?;
    let snapshot = Arc::new(Snapshot::new(config.clone()));
    let l4 = config.l4.as_ref().context("there is an [l4]")?;
    let before = Instant::now();
    let plane = place.lb.run(|| Plane::start(l4))?;
    let load = before.elapsed();
    plane.commit(plane.prepare(&snapshot)?);

    let mut generator = Generator::load(
        MEASURED,
        Way {
            from: place.generator.clone(),
            by: place.send.index(),
            to: place.arms[0].mac()?,
        },
    )?;
    generator.attach("bench_answer", &place.sink, XdpMode::Driver)?;
    generator.attach("bench_sink", &place.send, XdpMode::Driver)?;
    let before = Instant::now();
    for first in (0..sessions).step_by(CHUNK as usize) {
        generator.open(first..first + CHUNK)?;
    }
    let fill = before.elapsed();

    let asked = u64::from(sessions);
    wait(&plane, "two passes", |stats, since| {
        stats.table.passes >= since + 2
    })?;
    let (pass, pass_cpu) = passes(&plane)?;
    let before = Instant::now();
    let counted = plane.session_count(&Filter::default());
    let count = before.elapsed();
    let before = Instant::now();
    ensure!(
        plane.sessions(&Filter::default(), 1000).len() == 1000,
        "no page"
    );
    let page = before.elapsed();
    ensure!(
        counted * 100 >= asked * 95,
        "only {counted} of {asked} sessions are there"
    );

    generator.take(0..MEASURED)?;
    let packet_ns = generator.packet_ns(PACKETS)?;
    let done = AtomicBool::new(false);
    let counts = AtomicU64::new(0);
    let packet_while_counted_ns = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                counts.fetch_add(1, Ordering::Relaxed);
                plane.session_count(&Filter::default());
            }
        });
        let ns = generator.packet_ns(PACKETS);
        done.store(true, Ordering::Relaxed);
        ns
    })?;

    let stats = plane.stats();
    let figures = Figures {
        asked,
        open: counted,
        table_bytes: stats.table.bytes,
        lines_used: stats.table.lines_used as f64 / stats.table.lines as f64,
        refused: [DropReason::TableFull, DropReason::PortsExhausted]
            .into_iter()
            .map(|reason| (reason.as_str(), drops(&stats, reason)))
            .collect(),
        load,
        fill,
        pass,
        pass_cpu,
        count,
        page,
        packet_ns,
        packet_while_counted_ns,
    };
    plane.stop();
    Ok(figures)
}

fn drops(stats: &Stats, reason: DropReason) -> u64 {
    let of_reason = stats.drops.iter().filter(|(found, _)| *found == reason);
    of_reason.map(|(_, count)| count).sum()
}

/// How long a pass takes, and its processor time: the mean of some.
fn passes(plane: &Plane) -> Result<(Duration, Duration)> {
    wait(plane, "the end of a pass", |stats, since| {
        stats.table.passes > since
    })?;
    let before = Instant::now();
    let mut cpu = Duration::ZERO;
    for _ in 0..PASSES {
        wait(plane, "the end of a pass", |stats, since| {
            stats.table.passes > since
        })?;
        cpu += plane.stats().table.pass_cpu;
    }
    Ok((before.elapsed() / PASSES as u32, cpu / PASSES as u32))
}

/// Waits for what the sweep counts; `done` is given the passes at the beginning as well.
fn wait(plane: &Plane, what: &str, done: impl Fn(&Stats, u64) -> bool) -> Result<()> {
    let since = plane.stats().table.passes;
    let deadline = Instant::now() + PATIENCE;
    while !done(&plane.stats(), since) {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

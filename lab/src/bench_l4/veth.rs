//! Packets per second over veth, on one core, beside DNAT by nftables in the same place.
//!
//! ```text
//! gen ── lb ── sink
//! ```
//! The kernel makes the packets itself (live frames of a test run): the generator writes the next flow's headers and
//! redirects into the cable to lb. At lb runs weir, or the kernel's stack with a DNAT rule, or a program that drops,
//! which is what generator and cable cost by themselves. At the sink a program counts and drops.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use weir_l4_common::family::V4;
use weir_l4_common::service::Mode;
use weir_netns::{Link, Namespace, veth};

use super::{BACKENDS, FRAME_LEN, Forward, Generator, UDP, VIP, clients, median, xdp};

pub(super) const NAME: &str = "packets per second over veth";
/// Flows in random order.
const FLOWS: u32 = 1000;
/// Frames that the kernel makes at a time; its default.
const BATCH: u32 = 64;
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Packets per second, median of several runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// The generator and one cable: every packet dropped at lb.
    drop: f64,
    weir: f64,
    /// With packets handed to both cores; the generator has the first one for itself otherwise.
    spread: f64,
    nftables: f64,
}

impl Rates {
    /// What one packet costs beyond the generator and the first cable, nanoseconds.
    fn own_ns(self, rate: f64) -> f64 {
        1e9 / rate - 1e9 / self.drop
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "drop_pps": self.drop,
            "weir_pps": self.weir,
            "weir_spread_pps": self.spread,
            "nftables_pps": self.nftables,
            "ratio": self.weir / self.nftables,
        })
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<46} {:>10} {:>12} {:>16}",
            "UDP, IPv4, one core, over veth, 1,000 flows", "kpps", "of nftables", "ns beyond cable"
        )?;
        for (name, rate) in [
            ("dropped at the first cable's end", self.drop),
            ("weir, fullnat", self.weir),
            ("weir, fullnat, spread over two cores", self.spread),
            ("nftables, dnat", self.nftables),
        ] {
            let times = rate / self.nftables;
            let own = self.own_ns(rate);
            writeln!(
                f,
                "{name:<46} {:>10.0} {times:>12.2} {own:>16.0}",
                rate / 1e3
            )?;
        }
        Ok(())
    }
}

/// The three namespaces and their interfaces.
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
            out_arm.add_neighbour(IpAddr::V4(Ipv4Addr::new(10, 0, 2, n as u8)), mac)?;
        }
        // What the clients would answer from.
        lb.add_route("100.64.0.0/10", IpAddr::V4(BACKEND))?;
        Ok(Self {
            generator,
            lb,
            send,
            arms: [in_arm, out_arm],
            sink,
        })
    }
}

/// Runs all three, in turn, several times.
pub(super) fn measure(quick: bool) -> Result<Rates> {
    // Softirqs run where the generator's thread is: generator, lb and sink share one core.
    let mut core = CpuSet::new();
    core.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &core).context("stay on one core")?;
    let packets = if quick { 500_000 } else { 3_000_000 };
    let rounds = if quick { 3 } else { 5 };
    let (mut drop, mut weir, mut nftables) = (Vec::new(), Vec::new(), Vec::new());
    let mut spread = Vec::new();
    for _ in 0..rounds {
        drop.push(dropped(packets)?);
        weir.push(by_weir(&[], packets)?);
        spread.push(by_weir(&[0, 1], packets)?);
        nftables.push(by_nftables(packets)?);
    }
    Ok(Rates {
        drop: median(&mut drop),
        weir: median(&mut weir),
        spread: median(&mut spread),
        nftables: median(&mut nftables),
    })
}

fn generator(place: &Place) -> Result<Generator> {
    let mut flows = clients::<V4>(0..FLOWS, 0, 1);
    for flow in &mut flows {
        flow.key.udp = true;
    }
    let mut generator = Generator::load(FLOWS, 1)?;
    generator.fill(&flows)?;
    let send = xdp(&mut generator.ebpf, "bench_send")?.fd()?.try_clone()?;
    ProgramArray::<&mut MapData>::try_from(generator.map("NEXT")?)?.set(0, &send, 0)?;
    let mut plan = [0u8; 24];
    plan[4..8].copy_from_slice(&FLOWS.to_ne_bytes());
    plan[8..12].copy_from_slice(&FRAME_LEN.to_ne_bytes());
    plan[12..16].copy_from_slice(&place.send.index().to_ne_bytes());
    plan[16..22].copy_from_slice(&place.arms[0].mac()?);
    Array::<_, [u8; 24]>::try_from(generator.map("PLAN")?)?.set(0, plan, 0)?;
    Ok(generator)
}

/// Sends packets as fast as the core can; those that arrive, per second. Where it forwards more slowly than it makes
/// packets, the cable's queue drops the rest.
fn rate(place: &Place, generator: &mut Generator, packets: u32) -> Result<f64> {
    // The first ones open sessions, and fill caches.
    send(place, generator, FLOWS * 4)?;
    let before = settled(generator)?;
    let start = Instant::now();
    send(place, generator, packets)?;
    let elapsed = start.elapsed();
    let arrived = settled(generator)? - before;
    ensure!(
        arrived * 5 >= u64::from(packets),
        "only {arrived} of {packets} packets arrived"
    );
    Ok(arrived as f64 / elapsed.as_secs_f64())
}

fn send(place: &Place, generator: &mut Generator, packets: u32) -> Result<()> {
    let mut frame = [0u8; FRAME_LEN as usize];
    frame[38..40].copy_from_slice(&(FRAME_LEN as u16 - 34).to_be_bytes());
    let program: &Xdp = xdp(&mut generator.ebpf, "bench_generate")?;
    let options = TestRunOptions {
        data_in: Some(&frame),
        repeat: packets,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    };
    // The interface is looked for in the namespace of the caller.
    place
        .generator
        .run(|| program.test_run(options))
        .context("send live frames")?;
    Ok(())
}

/// Packets that have arrived, once no more do.
fn settled(generator: &mut Generator) -> Result<u64> {
    let mut last = u64::MAX;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let sunk: PerCpuArray<_, u64> = generator.map("SUNK")?.try_into()?;
        let count = sunk.get(&0, 0)?.iter().sum();
        if count == last {
            return Ok(count);
        }
        ensure!(Instant::now() < deadline, "packets do not cease to arrive");
        last = count;
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attach_sink(generator: &mut Generator, at: &Link) -> Result<()> {
    let program = xdp(&mut generator.ebpf, "bench_sink")?;
    at.namespace()
        .run(|| program.attach_to_if_index(at.index(), XdpMode::Driver))
        .with_context(|| format!("attach the sink to {}", at.name()))?;
    Ok(())
}

fn dropped(packets: u32) -> Result<f64> {
    let place = Place::new()?;
    let mut generator = generator(&place)?;
    attach_sink(&mut generator, &place.arms[0])?;
    rate(&place, &mut generator, packets)
}

fn by_weir(cores: &[u32], packets: u32) -> Result<f64> {
    let place = Place::new()?;
    let mut generator = generator(&place)?;
    attach_sink(&mut generator, &place.sink)?;
    let mut weir = Forward::load_spread(Mode::Fullnat, FLOWS, UDP, VIP.into(), cores)?;
    for (slot, arm) in (0..).zip(&place.arms) {
        weir.set_link(slot, arm.index(), 1500, arm.mac()?)?;
        weir.set("LINK_OF", arm.index(), (slot + 1).to_ne_bytes())?;
    }
    let mac = place.sink.mac()?;
    for n in 1..=BACKENDS {
        let address = Ipv4Addr::new(10, 0, 2, n as u8).to_ipv6_mapped();
        weir.set_backend(n, address, 8080, mac, 1)?;
    }
    for arm in &place.arms {
        let program = xdp(&mut weir.ebpf, weir.main)?;
        place
            .lb
            .run(|| program.attach_to_if_index(arm.index(), XdpMode::Driver))
            .with_context(|| format!("attach weir to {}", arm.name()))?;
    }
    let rate = rate(&place, &mut generator, packets)?;
    weir.ensure_no_drops()?;
    Ok(rate)
}

fn by_nftables(packets: u32) -> Result<f64> {
    let place = Place::new()?;
    let mut generator = generator(&place)?;
    attach_sink(&mut generator, &place.sink)?;
    // A cable takes the generator's frames only where a program waits for them; this one hands them to the stack.
    place.arms[0].accept_xdp_tx()?;
    let rule = format!(
        "table ip weir {{\n chain pre {{\n  type nat hook prerouting priority dstnat\n  \
         ip daddr {VIP} udp dport 80 dnat to {BACKEND}:8080\n }}\n}}\n"
    );
    let output = place
        .lb
        .output(Command::new("nft").arg(&rule))
        .context("run nft")?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    rate(&place, &mut generator, packets)
}

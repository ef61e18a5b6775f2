//! What a packet costs at layer 4, in nanoseconds of one core, without a network: BPF test runs.
//!
//! A generator program writes the headers of one flow after the other, in random order, and tail-calls the program
//! under test. The generator with an empty program behind it is measured in the same round, and taken off. Beside
//! weir runs a reference that keeps its sessions in the kernel's LRU hash map: one lookup and the same rewrite.

mod cores;
mod veth;

use std::collections::HashMap as Rows;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use weir_l4::program;
use weir_l4_common::checksum;
use weir_l4_common::drop::Drop;
use weir_l4_common::hash::FlowKey4;
use weir_l4_common::listeners::Place;
use weir_l4_common::service::{ListenerKey, Mode, mapped};

use crate::bench::Options;

/// Frames are of this length, without the frame check sequence.
const FRAME_LEN: u32 = 60;
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const BACKENDS: u32 = 100;
const LOCALS: u32 = 64;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;
const SYN_ACK: u8 = 18;

/// One packet that the generator writes; the layout of `Flow` in the BPF program.
#[derive(Clone, Copy)]
struct Flow {
    key: FlowKey4,
    flags: u8,
}

impl Flow {
    fn bytes(&self) -> [u8; 32] {
        let length = (FRAME_LEN as u16 - 14).to_be();
        let proto = if self.key.udp { UDP } else { TCP };
        let mut ip = [0u8; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_ne_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = proto;
        ip[12..16].copy_from_slice(&self.key.src.to_ne_bytes());
        ip[16..20].copy_from_slice(&self.key.dst.to_ne_bytes());
        let ip_checksum = !checksum::fold(checksum::sum(&ip));
        let mut flow = [0u8; 32];
        flow[0..4].copy_from_slice(&self.key.src.to_ne_bytes());
        flow[4..8].copy_from_slice(&self.key.dst.to_ne_bytes());
        flow[8..12].copy_from_slice(&self.key.ports.to_ne_bytes());
        flow[12..14].copy_from_slice(&ip_checksum.to_ne_bytes());
        // The TCP checksum is only ever updated by difference: any value will do. UDP is sent without one.
        if !self.key.udp {
            flow[14..16].copy_from_slice(&[0x12, 0x34]);
        }
        flow[16] = proto;
        flow[17] = self.flags;
        flow[18..20].copy_from_slice(&length.to_ne_bytes());
        flow
    }
}

/// The clients with these numbers, in random order: a permutation by a linear congruence would be a pattern that
/// prefetchers know; a shuffle is none.
fn clients(numbers: Range<u32>, flags: u8, order: u64) -> Vec<Flow> {
    let mut flows: Vec<Flow> = numbers
        .map(|n| {
            let addr = u32::from(Ipv4Addr::new(100, 64, 0, 1)) + n / 16;
            let port = (10_000 + (n % 16) * 997) as u16;
            let ports = u32::from(port.to_be()) | u32::from(80u16.to_be()) << 16;
            let dst = u32::from_ne_bytes(VIP.octets());
            Flow {
                key: FlowKey4 {
                    src: addr.to_be(),
                    dst,
                    ports,
                    udp: false,
                },
                flags,
            }
        })
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ order;
    for i in (1..flows.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        flows.swap(i, (state % (i as u64 + 1)) as usize);
    }
    flows
}

/// The generator and its references, with room for `flows` packets and as many reference sessions as `sessions`.
struct Generator {
    ebpf: Ebpf,
    count: u32,
}

impl Generator {
    fn load(flows: u32, reference: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", flows)
            .map_max_entries("REFERENCE", reference)
            .load(program::BENCH)
            .context("load the generator")?;
        for name in [
            "bench_generate",
            "bench_nothing",
            "bench_lru",
            "bench_lru_insert",
            "bench_send",
            "bench_sink",
        ] {
            xdp(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf, count: 0 })
    }

    fn fill(&mut self, flows: &[Flow]) -> Result<()> {
        let mut map: Array<&mut MapData, [u8; 32]> = self.map("FLOWS")?.try_into()?;
        for (at, flow) in flows.iter().enumerate() {
            map.set(at as u32, flow.bytes(), 0)?;
        }
        self.count = flows.len() as u32;
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))
    }

    /// Runs `packets` packets through the program in the slot; nanoseconds each.
    fn run(&mut self, packets: u32) -> Result<f64> {
        self.run_from(0, packets)
    }

    /// Runs `packets` packets, beginning with that of the flow with index `at`; nanoseconds each.
    fn run_from(&mut self, at: u32, packets: u32) -> Result<f64> {
        let mut plan = [0u8; 24];
        plan[0..4].copy_from_slice(&at.to_ne_bytes());
        plan[4..8].copy_from_slice(&self.count.to_ne_bytes());
        plan[8..12].copy_from_slice(&FRAME_LEN.to_ne_bytes());
        Array::<_, [u8; 24]>::try_from(self.map("PLAN")?)?.set(0, plan, 0)?;
        let frame = [0u8; FRAME_LEN as usize];
        let program = xdp(&mut self.ebpf, "bench_generate")?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let start = cpu_time()?;
        let result = program.test_run(options).context("test run")?;
        let elapsed = cpu_time()? - start;
        ensure!(
            result.return_value != 0,
            "the generator did not reach the program under test"
        );
        Ok(elapsed.as_nanos() as f64 / f64::from(packets))
    }

    fn aim(&mut self, name: &str) -> Result<()> {
        let program = xdp(&mut self.ebpf, name)?.fd()?.try_clone()?;
        self.aim_at_program(&program)
    }

    fn aim_at(&mut self, weir: &mut Forward) -> Result<()> {
        let program = weir.program()?;
        self.aim_at_program(&program)
    }

    fn aim_at_program(&mut self, program: &ProgramFd) -> Result<()> {
        let mut next: ProgramArray<&mut MapData> = self.map("NEXT")?.try_into()?;
        next.set(0, program, 0)?;
        Ok(())
    }
}

/// CPU time of this thread: what other programs take of the core does not count.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// `weir_forward` with one listener and its backends.
struct Forward {
    ebpf: Ebpf,
    sets: u32,
}

impl Forward {
    fn load(mode: Mode, sessions: u32) -> Result<Self> {
        Self::load_for(mode, sessions, TCP)
    }

    /// As [`Self::load`], with a listener of this protocol.
    fn load_for(mode: Mode, sessions: u32, proto: u8) -> Result<Self> {
        // The size that the daemon gives a table: 64 in 100 lines taken when every session is there.
        let sets = (f64::from(sessions.max(1024)) * 2.0 / 4.0 / 0.64).ceil() as u32;
        let seed = 0x0123_4567_89ab_cdef_u64;
        let mut ebpf = EbpfLoader::new()
            .override_global("SETS", &sets, true)
            .override_global("SEED", &seed, true)
            .map_max_entries("SESSIONS4", sets)
            .map_max_entries("SCHEDULE", 1024)
            .load(program::FORWARD)
            .context("load weir_forward")?;
        xdp(&mut ebpf, "weir_forward")?
            .load()
            .context("load weir_forward")?;
        let mut weir = Self { ebpf, sets };
        weir.set("LINKS", 0, link(1, 1500, [2, 0, 0, 0, 0, 1]))?;
        weir.set("LINK_OF", 1, 1u32.to_ne_bytes())?;
        for n in 0..LOCALS {
            let local = u32::from(Ipv4Addr::new(192, 0, 2, 1)) + n;
            weir.set("LOCALS", n, local.to_be_bytes())?;
        }
        let mut settings = [0u8; 8];
        settings[..4].copy_from_slice(&LOCALS.to_ne_bytes());
        weir.set("CONFIG", 0, settings)?;
        let port = if matches!(mode, Mode::Dr | Mode::Tunnel) {
            80u16
        } else {
            8080
        };
        for n in 1..=BACKENDS {
            weir.set_backend(n, port, [2, 0, 0, 0, 2, n as u8], 0)?;
        }
        for element in 0..BACKENDS / 4 {
            let mut lanes = [0u8; 8];
            for lane in 0..4 {
                let number = (element * 4 + lane + 1) as u16;
                lanes[lane as usize * 2..][..2].copy_from_slice(&number.to_ne_bytes());
            }
            weir.set("SCHEDULE", element, lanes)?;
        }
        let key = ListenerKey {
            addr: mapped(u32::from_ne_bytes(VIP.octets())),
            port: 80u16.to_be(),
            proto,
            zero: 0,
        };
        let mut entry = [0u8; 64];
        for (bytes, word) in entry.chunks_exact_mut(4).zip(key.addr) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        entry[16..18].copy_from_slice(&key.port.to_ne_bytes());
        entry[18] = key.proto;
        entry[24..26].copy_from_slice(&1u16.to_ne_bytes());
        entry[26] = mode as u8;
        entry[32..36].copy_from_slice(&BACKENDS.to_ne_bytes());
        const ENTRY: u32 = 2;
        weir.set("LISTENERS", ENTRY, entry)?;
        let place = Place::of(&key);
        let mut slots = [0u8; 8];
        slots[place.slot(0) as usize % 2 * 4..][..4]
            .copy_from_slice(&place.word(ENTRY).to_ne_bytes());
        weir.set("LISTENER_SLOTS", place.slot(0) / 2, slots)?;
        Ok(weir)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))
    }

    fn set<const N: usize>(&mut self, name: &str, at: u32, value: [u8; N]) -> Result<()>
    where
        [u8; N]: aya::Pod,
    {
        Array::<_, [u8; N]>::try_from(self.map(name)?)?.set(at, value, 0)?;
        Ok(())
    }

    fn program(&mut self) -> Result<ProgramFd> {
        Ok(xdp(&mut self.ebpf, "weir_forward")?.fd()?.try_clone()?)
    }

    /// A backend whose next hop has this MAC address, behind the interface with this index in `LINKS`.
    fn set_backend(&mut self, number: u32, port: u16, mac: [u8; 6], link: u8) -> Result<()> {
        let mut backend = [0u8; 32];
        let addr = Ipv4Addr::new(10, 0, 2, number as u8).to_ipv6_mapped();
        backend[0..16].copy_from_slice(&addr.octets());
        backend[16..18].copy_from_slice(&port.to_be_bytes());
        backend[24..30].copy_from_slice(&mac);
        backend[30] = link;
        backend[31] = 1;
        self.set("BACKENDS", number, backend)
    }

    /// Fails if the program has dropped a packet, and says why it did.
    fn ensure_no_drops(&mut self) -> Result<()> {
        let drops: PerCpuArray<_, u64> = self.map("DROPS")?.try_into()?;
        for reason in Drop::ALL {
            let count: u64 = drops.get(&(reason as u32), 0)?.iter().sum();
            ensure!(
                count == 0,
                "{count} packets were dropped: {}",
                reason.as_str()
            );
        }
        Ok(())
    }

    /// The lines of replies, as the flows that they expect, by the flow that they answer.
    fn replies(&mut self) -> Result<Rows<FlowKey4, FlowKey4>> {
        let sets = self.sets;
        let table: Array<_, [u8; 256]> = self.map("SESSIONS4")?.try_into()?;
        let mut replies = Rows::new();
        for at in 0..sets {
            let set = table.get(&at, 0)?;
            for line in set.chunks(64) {
                let word = |at: usize| {
                    u32::from_ne_bytes([line[at], line[at + 1], line[at + 2], line[at + 3]])
                };
                const LIVE_REVERSE: u8 = 0x82;
                if line[12] & LIVE_REVERSE == LIVE_REVERSE {
                    let expected = FlowKey4 {
                        src: word(0),
                        dst: word(4),
                        ports: word(8),
                        udp: false,
                    };
                    let sent = FlowKey4 {
                        src: word(16),
                        dst: word(20),
                        ports: word(24),
                        udp: false,
                    };
                    replies.insert(sent.reversed(), expected);
                }
            }
        }
        Ok(replies)
    }
}

fn link(ifindex: u32, mtu: u16, mac: [u8; 6]) -> [u8; 16] {
    let mut link = [0u8; 16];
    link[0..4].copy_from_slice(&ifindex.to_ne_bytes());
    link[8..14].copy_from_slice(&mac);
    link[14..16].copy_from_slice(&mtu.to_ne_bytes());
    link
}

/// One row of the table, nanoseconds.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    sessions: u32,
    weir: f64,
    reference: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.reference.map(|reference| self.weir / reference)
    }
}

/// By how much a round's value is above the generator's own cost in the same round: the median of all rounds.
fn median_above(values: &[f64], own: &[f64]) -> f64 {
    let mut above: Vec<f64> = values
        .iter()
        .zip(own)
        .map(|(value, own)| value - own)
        .collect();
    median(&mut above)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Packets of established sessions, hit in random order.
fn established(mode: Mode, sessions: u32, reference: bool, quick: bool) -> Result<Row> {
    let mut weir = Forward::load(mode, sessions)?;
    let mut generator = Generator::load(sessions, sessions * 2)?;
    generator.fill(&clients(0..sessions, SYN, 0))?;
    generator.aim_at(&mut weir)?;
    generator.run(sessions)?;
    weir.ensure_no_drops()?;
    if reference {
        generator.aim("bench_lru_insert")?;
        generator.run(sessions)?;
    }
    // In another order than they were inserted: the LRU map's entries lie in the order of insertion.
    generator.fill(&clients(0..sessions, ACK, 1))?;
    // Few sessions come around often enough for the processor to learn the order in which they come; the rounds are long
    // enough for that to be so in all but their beginning.
    let packets = if quick { 400_000 } else { 4_000_000u32 }.max(sessions);
    let (mut nothing, mut ours, mut lru) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if quick { 5 } else { 11 } {
        generator.aim("bench_nothing")?;
        nothing.push(generator.run(packets)?);
        generator.aim_at(&mut weir)?;
        ours.push(generator.run(packets)?);
        if reference {
            generator.aim("bench_lru")?;
            lru.push(generator.run(packets)?);
        }
    }
    weir.ensure_no_drops()?;
    Ok(Row {
        what: format!("{}, established", name(mode)),
        sessions,
        weir: median_above(&ours, &nothing),
        reference: reference.then(|| median_above(&lru, &nothing)),
    })
}

/// What a new session is compared with.
#[derive(Clone, Copy)]
enum Insertion {
    /// Into an LRU map with room for twice as many entries.
    WithRoom,
    /// Into an LRU map that is full, as one that keeps sessions becomes: each insertion evicts an entry.
    AtCapacity,
}

/// New sessions into an empty table: both directions and a local port; the reference inserts one entry.
///
/// They come in twentieths, weir's and the reference's in turn. Of each twentieth the median of all rounds counts; the
/// figure is the mean of the twentieths, as the table fills.
fn opening(sessions: u32, insertion: Insertion, quick: bool) -> Result<Row> {
    const PARTS: u32 = 20;
    let entries = match insertion {
        Insertion::WithRoom => sessions * 2,
        Insertion::AtCapacity => sessions,
    };
    let part = sessions / PARTS;
    let none = || vec![Vec::new(); PARTS as usize];
    let (mut nothing, mut ours, mut lru) = (none(), none(), none());
    for _ in 0..if quick { 2 } else { 7 } {
        let mut weir = Forward::load(Mode::Fullnat, sessions)?;
        let mut generator = Generator::load(sessions, entries)?;
        if matches!(insertion, Insertion::AtCapacity) {
            generator.fill(&clients(sessions..2 * sessions, SYN, 0))?;
            generator.aim("bench_lru_insert")?;
            generator.run(sessions)?;
        }
        generator.fill(&clients(0..sessions, SYN, 0))?;
        for at in 0..PARTS {
            let (index, first) = (at as usize, at * part);
            generator.aim("bench_nothing")?;
            nothing[index].push(generator.run_from(first, part)?);
            generator.aim_at(&mut weir)?;
            ours[index].push(generator.run_from(first, part)?);
            generator.aim("bench_lru_insert")?;
            lru[index].push(generator.run_from(first, part)?);
        }
        weir.ensure_no_drops()?;
    }
    let mean = |parts: &[Vec<f64>]| {
        let parts = parts.iter().zip(&nothing);
        let medians = parts.map(|(part, nothing)| median_above(part, nothing));
        medians.sum::<f64>() / f64::from(PARTS)
    };
    Ok(Row {
        what: insertion.name().to_owned(),
        sessions,
        weir: mean(&ours),
        reference: Some(mean(&lru)),
    })
}

impl Insertion {
    fn name(self) -> &'static str {
        match self {
            Self::WithRoom => "fullnat, new session | LRU map with room",
            Self::AtCapacity => "fullnat, new session | LRU map at capacity",
        }
    }
}

const CONNECTION: &str = "fullnat, whole TCP connection (10 packets)";

/// Whole TCP connections: handshake, request, answer, close; ten packets in both directions.
fn connections(count: u32, quick: bool) -> Result<Row> {
    // Which local port a session gets depends on the sessions before it alone: a first pass tells the ports.
    let opening = clients(0..count, SYN, 0);
    let mut weir = Forward::load(Mode::Fullnat, count)?;
    let mut generator = Generator::load(count * 10, 1)?;
    generator.fill(&opening)?;
    generator.aim_at(&mut weir)?;
    generator.run(count)?;
    let replies = weir.replies()?;
    let mut packets = Vec::with_capacity(opening.len() * 10);
    for flow in &opening {
        let client = flow.key;
        let backend = *replies
            .get(&client)
            .context("a session without a line for its replies")?;
        for (key, flags) in [
            (client, SYN),
            (backend, SYN_ACK),
            (client, ACK),
            (client, ACK),
            (backend, ACK),
            (backend, ACK),
            (client, ACK),
            (client, FIN_ACK),
            (backend, FIN_ACK),
            (client, ACK),
        ] {
            packets.push(Flow { key, flags });
        }
    }
    generator.fill(&packets)?;
    let (mut nothing, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 2 } else { 5 } {
        generator.aim("bench_nothing")?;
        nothing.push(generator.run(count * 10)? * 10.0);
        let mut weir = Forward::load(Mode::Fullnat, count)?;
        generator.aim_at(&mut weir)?;
        ours.push(generator.run(count * 10)? * 10.0);
        weir.ensure_no_drops()?;
    }
    Ok(Row {
        what: CONNECTION.to_owned(),
        sessions: count,
        weir: minimum(&ours) - minimum(&nothing),
        reference: None,
    })
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Fullnat => "fullnat",
        Mode::Nat => "nat",
        Mode::Dr => "dr",
        Mode::Tunnel => "tunnel",
    }
}

/// Measures, prints the table, and writes it as JSON where the options say so.
pub fn run(options: &Options) -> Result<()> {
    let quick = options.quick;
    let mut rows = Vec::new();
    let wanted = |row: &str| options.wants(row);
    for sessions in [1, 1_000, 100_000, 1_000_000] {
        if wanted("fullnat, established") {
            rows.push(established(Mode::Fullnat, sessions, true, quick)?);
        }
    }
    for mode in [Mode::Nat, Mode::Dr, Mode::Tunnel] {
        if wanted(&format!("{}, established", name(mode))) {
            rows.push(established(mode, 1_000, false, quick)?);
        }
    }
    for sessions in [100_000, 1_000_000] {
        for insertion in [Insertion::WithRoom, Insertion::AtCapacity] {
            if wanted(insertion.name()) {
                rows.push(opening(sessions, insertion, quick)?);
            }
        }
    }
    if wanted(CONNECTION) {
        rows.push(connections(100_000, quick)?);
    }

    let mut cores = Vec::new();
    if wanted(cores::NAME) {
        for sessions in [1_000, 100_000] {
            cores.push(cores::measure(sessions, quick)?);
        }
    }
    let veth = if wanted(veth::NAME) {
        Some(veth::measure(quick)?)
    } else {
        None
    };
    println!(
        "{:<46} {:>10} {:>9} {:>9} {:>6}",
        "TCP, IPv4, one core", "sessions", "weir ns", "LRU ns", "ratio"
    );
    for row in &rows {
        let reference = row.reference.map_or(String::new(), |ns| format!("{ns:.1}"));
        let ratio = row
            .ratio()
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<46} {:>10} {:>9.1} {:>9} {:>6}",
            row.what, row.sessions, row.weir, reference, ratio
        );
    }
    if !cores.is_empty() {
        println!("\n{}", cores::NAME);
    }
    for row in &cores {
        println!("{row}");
    }
    if let Some(veth) = &veth {
        println!("{veth}");
    }
    if let Some(path) = &options.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "what": row.what,
                    "sessions": row.sessions,
                    "weir_ns": row.weir,
                    "lru_ns": row.reference,
                    "ratio": row.ratio(),
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&json!({
            "benchmark": "l4",
            "rows": rows,
            "cores": cores.iter().map(cores::Row::json).collect::<Vec<_>>(),
            "veth": veth.as_ref().map(veth::Rates::json),
        }))?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

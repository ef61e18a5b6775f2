//! What a packet costs at layer 4, in nanoseconds of one core, without a network: BPF test runs.
//!
//! A generator program writes the headers of one flow after the other, in random order, and tail-calls the program
//! under test. The generator with an empty program behind it is measured in the same round, and taken off. Beside
//! weir runs a reference that keeps its sessions in the kernel's LRU hash map: one lookup and the same rewrite.

mod cores;
pub(crate) mod live;
mod veth;

use std::collections::HashMap as Rows;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, CpuMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use weir_l4::program;
use weir_l4_common::checksum;
use weir_l4_common::drop::Drop;
use weir_l4_common::family::{Addr6, Family, V4, V6};
use weir_l4_common::hash::{FlowKey, FlowKey4};
use weir_l4_common::link::{LINKS_MAP, LINKS_MAX};
use weir_l4_common::listeners::Place;
use weir_l4_common::service::{ListenerKey, Mode, mapped};
use weir_l4_common::spread::CORES_MAX;

use crate::bench::Options;

/// Frames of IPv4 are of this length, without the frame check sequence.
const FRAME_LEN: u32 = 60;
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x10);
const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, 0, 1);
const BACKENDS: u32 = 100;
const LOCALS: u32 = 64;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;
const SYN_ACK: u8 = 18;

/// One packet that the generator writes.
#[derive(Clone, Copy)]
struct Flow<F: Wire = V4> {
    key: FlowKey<F>,
    flags: u8,
}

/// A family as the generator has it.
trait Wire: Family {
    /// The generator's program and its map of flows.
    const GENERATE: &'static str;
    const FLOWS: &'static str;
    /// Frames are of this length, without the frame check sequence.
    const FRAME_LEN: u32;
    /// A flow in the map.
    type Bytes: Pod;
    fn bytes(flow: &Flow<Self>) -> Self::Bytes;
    /// Addresses of the client with this number and of the VIP.
    fn addresses(client: u32) -> (Self::Addr, Self::Addr);
}

impl Wire for V4 {
    const GENERATE: &'static str = "bench_generate";
    const FLOWS: &'static str = "FLOWS";
    const FRAME_LEN: u32 = FRAME_LEN;
    type Bytes = [u8; 32];

    /// The layout of `Flow` in the BPF program.
    fn bytes(flow: &Flow) -> [u8; 32] {
        let length = (FRAME_LEN as u16 - 14).to_be();
        let proto = if flow.key.udp { UDP } else { TCP };
        let mut ip = [0u8; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_ne_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = proto;
        ip[12..16].copy_from_slice(&flow.key.src.to_ne_bytes());
        ip[16..20].copy_from_slice(&flow.key.dst.to_ne_bytes());
        let ip_checksum = !checksum::fold(checksum::sum(&ip));
        let mut bytes = [0u8; 32];
        bytes[0..4].copy_from_slice(&flow.key.src.to_ne_bytes());
        bytes[4..8].copy_from_slice(&flow.key.dst.to_ne_bytes());
        bytes[8..12].copy_from_slice(&flow.key.ports.to_ne_bytes());
        bytes[12..14].copy_from_slice(&ip_checksum.to_ne_bytes());
        // The TCP checksum is only ever updated by difference: any value will do. UDP is sent without one.
        if !flow.key.udp {
            bytes[14..16].copy_from_slice(&[0x12, 0x34]);
        }
        bytes[16] = proto;
        bytes[17] = flow.flags;
        bytes[18..20].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn addresses(client: u32) -> (u32, u32) {
        let addr = u32::from(Ipv4Addr::new(100, 64, 0, 1)) + client;
        (addr.to_be(), u32::from_ne_bytes(VIP.octets()))
    }
}

impl Wire for V6 {
    const GENERATE: &'static str = "bench_generate6";
    const FLOWS: &'static str = "FLOWS6";
    const FRAME_LEN: u32 = FRAME_LEN + 20;
    type Bytes = [u8; 48];

    /// The layout of `Flow6` in the BPF program.
    fn bytes(flow: &Flow<V6>) -> [u8; 48] {
        let mut bytes = [0u8; 48];
        let (src, dst) = (flow.key.src, flow.key.dst);
        for (bytes, word) in bytes
            .chunks_exact_mut(8)
            .zip([src.high, src.low, dst.high, dst.low])
        {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[32..36].copy_from_slice(&flow.key.ports.to_ne_bytes());
        bytes[36..38].copy_from_slice(&[0x12, 0x34]);
        bytes[38] = TCP;
        bytes[39] = flow.flags;
        let length = Self::FRAME_LEN as u16 - 14 - 40;
        bytes[40..42].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn addresses(client: u32) -> (Addr6, Addr6) {
        let client = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1))
            + (u128::from(client / 4) << 64)
            + u128::from(client % 4);
        (addr6(Ipv6Addr::from(client)), addr6(VIP6))
    }
}

fn addr6(addr: Ipv6Addr) -> Addr6 {
    let octets = addr.octets();
    let word = |at: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&octets[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    Addr6 {
        high: word(0),
        low: word(8),
    }
}

/// The clients with these numbers, in random order: a permutation by a linear congruence would be a pattern that
/// prefetchers know; a shuffle is none.
fn clients<F: Wire>(numbers: Range<u32>, flags: u8, order: u64) -> Vec<Flow<F>> {
    let mut flows: Vec<Flow<F>> = numbers.map(|n| client(n, flags)).collect();
    shuffle(&mut flows, order);
    flows
}

fn client<F: Wire>(n: u32, flags: u8) -> Flow<F> {
    let port = (10_000 + (n % 16) * 997) as u16;
    let ports = u32::from(port.to_be()) | u32::from(80u16.to_be()) << 16;
    let (src, dst) = F::addresses(n / 16);
    let udp = false;
    Flow {
        key: FlowKey {
            src,
            dst,
            ports,
            udp,
        },
        flags,
    }
}

fn shuffle<T>(flows: &mut [T], order: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ order;
    for i in (1..flows.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        flows.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

/// The generator and its references, with room for `flows` packets and as many reference sessions as `sessions`.
struct Generator {
    ebpf: Ebpf,
    count: u32,
    program: &'static str,
    frame_len: u32,
}

impl Generator {
    fn load(flows: u32, reference: u32) -> Result<Self> {
        Self::load_for::<V4>(flows, reference)
    }

    fn load_for<F: Wire>(flows: u32, reference: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(F::FLOWS, flows)
            .map_max_entries("REFERENCE", reference)
            .load(program::BENCH)
            .context("load the generator")?;
        for name in [
            F::GENERATE,
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
        Ok(Self {
            ebpf,
            count: 0,
            program: F::GENERATE,
            frame_len: F::FRAME_LEN,
        })
    }

    fn fill<F: Wire>(&mut self, flows: &[Flow<F>]) -> Result<()> {
        let mut map: Array<&mut MapData, F::Bytes> = self.map(F::FLOWS)?.try_into()?;
        for (at, flow) in flows.iter().enumerate() {
            map.set(at as u32, F::bytes(flow), 0)?;
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
        plan[8..12].copy_from_slice(&self.frame_len.to_ne_bytes());
        Array::<_, [u8; 24]>::try_from(self.map("PLAN")?)?.set(0, plan, 0)?;
        let frame = vec![0u8; self.frame_len as usize];
        let program = xdp(&mut self.ebpf, self.program)?;
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
    /// The program that is attached.
    main: &'static str,
    sets: u32,
}

/// The seed of the flows' hash.
const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Sets of a table that is not used.
const UNUSED: u32 = 2;

impl Forward {
    fn load(mode: Mode, sessions: u32) -> Result<Self> {
        Self::load_for(mode, sessions, TCP, VIP.into())
    }

    /// As [`Self::load`], with a listener of this protocol at this address.
    fn load_for(mode: Mode, sessions: u32, proto: u8, vip: IpAddr) -> Result<Self> {
        Self::load_spread(mode, sessions, proto, vip, &[])
    }

    /// As [`Self::load_for`]; packets are handed to these cores, where there are any.
    fn load_spread(
        mode: Mode,
        sessions: u32,
        proto: u8,
        vip: IpAddr,
        cores: &[u32],
    ) -> Result<Self> {
        // The size that the daemon gives a table: 64 in 100 lines taken when every session is there.
        let sets = (f64::from(sessions.max(1024)) * 2.0 / 4.0 / 0.64).ceil() as u32;
        let (sets4, sets6) = match vip {
            IpAddr::V4(_) => (sets, UNUSED),
            IpAddr::V6(_) => (UNUSED, sets),
        };
        let spread_cores = cores.len() as u32;
        let mut spread_to = [0u32; CORES_MAX];
        spread_to[..cores.len()].copy_from_slice(cores);
        let mut ebpf = EbpfLoader::new()
            .override_global("SETS", &sets4, true)
            .override_global("SETS6", &sets6, true)
            .override_global("SEED", &SEED, true)
            .override_global("SPREAD_CORES", &spread_cores, true)
            .override_global("SPREAD_TO", &spread_to, true)
            .map_max_entries("CORES", spread_cores.max(1))
            .map_max_entries("SESSIONS4", sets4)
            .map_max_entries("SESSIONS6", sets6)
            .map_max_entries("SCHEDULE", 1024)
            .load(program::FORWARD)
            .context("load weir_forward")?;
        let main = if cores.is_empty() {
            "weir_forward"
        } else {
            let forward = xdp(&mut ebpf, "weir_forward_core")?;
            forward.load().context("load weir_forward_core")?;
            let forward = forward.fd()?.try_clone()?;
            let map = ebpf.map_mut("CORES").context("no map CORES")?;
            let mut map: CpuMap<_> = map.try_into()?;
            for core in cores {
                map.set(*core, 2048, Some(&forward), 0)?;
            }
            "weir_spread"
        };
        xdp(&mut ebpf, main)?
            .load()
            .with_context(|| format!("load {main}"))?;
        let mut weir = Self { ebpf, main, sets };
        weir.set_link(0, 1, 1500, [2, 0, 0, 0, 0, 1])?;
        weir.set("LINK_OF", 1, 1u32.to_ne_bytes())?;
        for n in 0..LOCALS {
            let local = u32::from(Ipv4Addr::new(192, 0, 2, 1)) + n;
            weir.set("LOCALS", n, local.to_be_bytes())?;
            let local = u128::from(LOCAL6) + u128::from(n);
            weir.set("LOCALS6", n, local.to_be_bytes())?;
        }
        let mut settings = [0u8; 8];
        settings[..4].copy_from_slice(&LOCALS.to_ne_bytes());
        settings[4..].copy_from_slice(&LOCALS.to_ne_bytes());
        weir.set("CONFIG", 0, settings)?;
        let port = if matches!(mode, Mode::Dr | Mode::Tunnel) {
            80u16
        } else {
            8080
        };
        for n in 1..=BACKENDS {
            let address = match vip {
                IpAddr::V4(_) => Ipv4Addr::new(10, 0, 2, n as u8).to_ipv6_mapped(),
                IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xa, 2, 0, 0, 0, n as u16),
            };
            weir.set_backend(n, address, port, [2, 0, 0, 0, 2, n as u8], 0)?;
        }
        for element in 0..BACKENDS / 4 {
            let mut lanes = [0u8; 8];
            for lane in 0..4 {
                let number = (element * 4 + lane + 1) as u16;
                lanes[lane as usize * 2..][..2].copy_from_slice(&number.to_ne_bytes());
            }
            weir.set("SCHEDULE", element, lanes)?;
        }
        let addr = match vip {
            IpAddr::V4(vip) => mapped(u32::from_ne_bytes(vip.octets())),
            IpAddr::V6(vip) => addr6(vip).words(),
        };
        let key = ListenerKey {
            addr,
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
        [u8; N]: Pod,
    {
        Array::<_, [u8; N]>::try_from(self.map(name)?)?.set(at, value, 0)?;
        Ok(())
    }

    fn program(&mut self) -> Result<ProgramFd> {
        Ok(xdp(&mut self.ebpf, self.main)?.fd()?.try_clone()?)
    }

    fn set_link(&mut self, slot: u32, ifindex: u32, mtu: u16, mac: [u8; 6]) -> Result<()> {
        const ALL: usize = LINKS_MAX as usize * 16;
        let mut map: Array<_, [u8; ALL]> = self.map(LINKS_MAP)?.try_into()?;
        let mut links = map.get(&0, 0)?;
        let link = &mut links[slot as usize * 16..][..16];
        link[0..4].copy_from_slice(&ifindex.to_ne_bytes());
        link[8..14].copy_from_slice(&mac);
        link[14..16].copy_from_slice(&mtu.to_ne_bytes());
        map.set(0, links, 0)?;
        Ok(())
    }

    /// A backend whose next hop has this MAC address, behind the interface with this index in `LINKS`.
    fn set_backend(
        &mut self,
        number: u32,
        address: Ipv6Addr,
        port: u16,
        mac: [u8; 6],
        link: u8,
    ) -> Result<()> {
        let mut backend = [0u8; 32];
        backend[0..16].copy_from_slice(&address.octets());
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

/// Packets of established sessions, hit in random order. The least of the rounds counts: whatever else the machine does
/// adds, and nothing takes away.
fn established<F: Wire>(mode: Mode, vip: IpAddr, sessions: u32, options: &Options) -> Result<Row> {
    let reference = mode == Mode::Fullnat && vip.is_ipv4();
    let mut weir = Forward::load_for(mode, sessions, TCP, vip)?;
    let mut generator =
        Generator::load_for::<F>(sessions, if reference { sessions * 2 } else { 1 })?;
    generator.fill(&clients::<F>(0..sessions, SYN, 0))?;
    generator.aim_at(&mut weir)?;
    generator.run(sessions)?;
    weir.ensure_no_drops()?;
    if reference {
        generator.aim("bench_lru_insert")?;
        generator.run(sessions)?;
    }
    // In another order than they were inserted: the LRU map's entries lie in the order of insertion.
    generator.fill(&clients::<F>(0..sessions, ACK, 1))?;
    // Few sessions come around often enough for the processor to learn the order in which they come; the rounds are long
    // enough for that to be so in all but their beginning.
    let packets = if options.quick { 400_000 } else { 4_000_000u32 }.max(sessions);
    let packets = if sessions > 10_000 {
        packets / 2
    } else {
        packets
    };
    let (mut nothing, mut ours, mut lru) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if options.quick { 5 } else { 9 } {
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
    let nothing = minimum(&nothing);
    Ok(Row {
        what: format!("{}, established", name::<F>(mode)),
        sessions,
        weir: minimum(&ours) - nothing,
        reference: reference.then(|| minimum(&lru) - nothing),
    })
}

/// What a new session is compared with.
#[derive(Clone, Copy)]
enum Insertion {
    /// Into an LRU map with room for twice as many entries.
    WithRoom,
    /// Into an LRU map that is full, as one that keeps sessions becomes: each insertion evicts an entry.
    AtCapacity,
    /// Nothing.
    None,
}

/// New sessions into an empty table: both directions and a local port; the reference inserts one entry.
///
/// They come in twentieths, weir's and the reference's in turn. Of each twentieth the median of all rounds counts; the
/// figure is the mean of the twentieths, as the table fills.
fn opening<F: Wire>(vip: IpAddr, sessions: u32, insertion: Insertion, quick: bool) -> Result<Row> {
    const PARTS: u32 = 20;
    let entries = match insertion {
        Insertion::WithRoom => sessions * 2,
        Insertion::AtCapacity => sessions,
        Insertion::None => 1,
    };
    let part = sessions / PARTS;
    let none = || vec![Vec::new(); PARTS as usize];
    let (mut nothing, mut ours, mut lru) = (none(), none(), none());
    for _ in 0..if quick { 2 } else { 7 } {
        let mut weir = Forward::load_for(Mode::Fullnat, sessions, TCP, vip)?;
        let mut generator = Generator::load_for::<F>(sessions, entries)?;
        if matches!(insertion, Insertion::AtCapacity) {
            generator.fill(&clients::<F>(sessions..2 * sessions, SYN, 0))?;
            generator.aim("bench_lru_insert")?;
            generator.run(sessions)?;
        }
        generator.fill(&clients::<F>(0..sessions, SYN, 0))?;
        for at in 0..PARTS {
            let (index, first) = (at as usize, at * part);
            generator.aim("bench_nothing")?;
            nothing[index].push(generator.run_from(first, part)?);
            generator.aim_at(&mut weir)?;
            ours[index].push(generator.run_from(first, part)?);
            if !matches!(insertion, Insertion::None) {
                generator.aim("bench_lru_insert")?;
                lru[index].push(generator.run_from(first, part)?);
            }
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
        reference: (!matches!(insertion, Insertion::None)).then(|| mean(&lru)),
    })
}

impl Insertion {
    fn name(self) -> &'static str {
        match self {
            Self::WithRoom => "fullnat, new session | LRU map with room",
            Self::AtCapacity => "fullnat, new session | LRU map at capacity",
            Self::None => "fullnat, IPv6, new session",
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

fn name<F: Wire>(mode: Mode) -> String {
    let mode = match mode {
        Mode::Fullnat => "fullnat",
        Mode::Nat => "nat",
        Mode::Dr => "dr",
        Mode::Tunnel => "tunnel",
    };
    let family = if F::IP_LEN == V6::IP_LEN {
        ", IPv6"
    } else {
        ""
    };
    format!("{mode}{family}")
}

/// Measures, prints the table, and writes it as JSON where the options say so.
pub fn run(options: &Options) -> Result<()> {
    let quick = options.quick;
    let mut rows = Vec::new();
    let wanted = |row: &str| options.wants(row);
    for (mode, sessions) in [
        (Mode::Fullnat, 1),
        (Mode::Fullnat, 1_000),
        (Mode::Fullnat, 100_000),
        (Mode::Fullnat, 1_000_000),
        (Mode::Nat, 1_000),
        (Mode::Dr, 1_000),
        (Mode::Tunnel, 1_000),
    ] {
        if wanted(&format!(
            "{}, established, {sessions} sessions",
            name::<V4>(mode)
        )) {
            rows.push(established::<V4>(mode, VIP.into(), sessions, options)?);
        }
    }
    for sessions in [1, 1_000, 100_000] {
        let mode = Mode::Fullnat;
        if wanted(&format!(
            "{}, established, {sessions} sessions",
            name::<V6>(mode)
        )) {
            rows.push(established::<V6>(mode, VIP6.into(), sessions, options)?);
        }
    }
    for sessions in [100_000, 1_000_000] {
        for insertion in [Insertion::WithRoom, Insertion::AtCapacity] {
            if wanted(insertion.name()) {
                rows.push(opening::<V4>(VIP.into(), sessions, insertion, quick)?);
            }
        }
        if wanted(Insertion::None.name()) && sessions == 100_000 {
            rows.push(opening::<V6>(
                VIP6.into(),
                sessions,
                Insertion::None,
                quick,
            )?);
        }
    }
    if wanted(CONNECTION) {
        rows.push(connections(100_000, quick)?);
    }

    let mut cores = Vec::new();
    if wanted(cores::NAME) {
        for sessions in [1_000, 100_000] {
            for spread in [cores::Spread::ByHash, cores::Spread::ByQueue] {
                cores.push(cores::measure(spread, sessions, quick)?);
            }
        }
    }
    let veth = if wanted(veth::NAME) {
        Some(veth::measure(quick)?)
    } else {
        None
    };
    println!(
        "{:<46} {:>10} {:>9} {:>9} {:>6}",
        "TCP, one core", "sessions", "weir ns", "LRU ns", "ratio"
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

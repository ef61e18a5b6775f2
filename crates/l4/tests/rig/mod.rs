//! The loaded program with maps that a test fills, and packets that a test builds and takes apart.
#![allow(dead_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use weir_l4_common::checksum;
use weir_l4_common::client;
use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::link::{LINK_NOWHERE, LINKS_MAP, Link, Links, TAGGED};
use weir_l4_common::listeners::{self, Entry, PROBES, Place};
use weir_l4_common::quic::{QuicConfig, QuicServerKey, config_key};
use weir_l4_common::service::{
    BACKEND_ACCEPTS, Backend, Listener, ListenerKey, Mode, Pick, Settings, mapped,
};
use weir_l4_common::session::{ENDED, LINK_MASK, LIVE, REVERSE, UDP};
use weir_l4_common::vlan::{Tags, VlanKey};

/// Gives foreign types of plain bytes to aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);
// SAFETY: used with the map types of weir-l4-common alone, which are integers without padding.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

pub(crate) const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 11);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 1, 2, 3, 4, 7);
pub(crate) const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10);
pub(crate) const BACKEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 0x11);
/// The interface that test runs come in by: loopback.
pub(crate) const INGRESS: u32 = 1;
/// An interface that does not exist; a redirect to it is only a verdict.
pub(crate) const EGRESS: u32 = 4711;

/// Jiffies; longer than a test takes.
const FRAGMENT_TIMEOUT: u32 = 30_000;

/// Whether the kernel lets us load programs; says so when not.
pub(crate) fn privileged() -> bool {
    // SAFETY: no arguments, no memory.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: loading BPF programs needs root");
    }
    root
}

pub(crate) struct Rig {
    ebpf: Ebpf,
    run_name: &'static str,
    /// What listeners are given of tunnels.
    pub(crate) tunnel: Listener,
}

/// What came out of a run.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) packet: Vec<u8>,
}

pub(crate) fn be(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

/// An address as the program has it.
pub(crate) fn words(addr: impl Into<IpAddr>) -> [u32; 4] {
    match addr.into() {
        IpAddr::V4(addr) => mapped(be(addr)),
        IpAddr::V6(addr) => {
            let octets = addr.octets();
            std::array::from_fn(|word| {
                u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte]))
            })
        }
    }
}

/// The addresses of a family that the rig serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: IpAddr,
    pub(crate) vip: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) backend: IpAddr,
}

pub(crate) const FAMILIES: [Addresses; 2] = [
    Addresses {
        client: IpAddr::V4(CLIENT),
        vip: IpAddr::V4(VIP),
        local: IpAddr::V4(LOCAL),
        backend: IpAddr::V4(BACKEND),
    },
    Addresses {
        client: IpAddr::V6(CLIENT6),
        vip: IpAddr::V6(VIP6),
        local: IpAddr::V6(LOCAL6),
        backend: IpAddr::V6(BACKEND6),
    },
];

impl Rig {
    /// `weir_forward` with a table of `sets` sets, links 0 (ingress) and 1 (egress), one local address.
    pub(crate) fn new(sets: u32) -> Self {
        let seed = 0x5eed_u64;
        let mut ebpf = EbpfLoader::new()
            .override_global("SETS", &sets, true)
            .override_global("SETS6", &sets, true)
            .override_global("SEED", &seed, true)
            .override_global("FRAGMENT_TIMEOUT", &FRAGMENT_TIMEOUT, true)
            .map_max_entries("SESSIONS4", sets)
            .map_max_entries("SESSIONS6", sets)
            .override_global("CLIENT_SETS", &16u32, true)
            .map_max_entries("CLIENTS", 16)
            .map_max_entries("SCHEDULE", 65_536)
            .load(weir_l4::program::FORWARD)
            .unwrap();
        let program: &mut Xdp = ebpf
            .program_mut("weir_forward")
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        let mut rig = Self {
            ebpf,
            run_name: "weir_forward",
            tunnel: Listener::default(),
        };
        rig.link(0, INGRESS, LB_MAC);
        rig.link(1, EGRESS, OTHER_MAC);
        rig.locals(&[LOCAL]);
        rig
    }

    /// `weir_decap` where tunnels to `end` end, GUE on port 6080.
    pub(crate) fn decap(end: impl Into<IpAddr>) -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global("GUE_PORT", &6080u16.to_be(), true)
            .load(weir_l4::program::DECAP)
            .unwrap();
        let program: &mut Xdp = ebpf.program_mut("weir_decap").unwrap().try_into().unwrap();
        program.load().unwrap();
        let mut rig = Self {
            ebpf,
            run_name: "weir_decap",
            tunnel: Listener::default(),
        };
        rig.hash::<[u32; 4], u32>("TUNNEL_ENDS")
            .insert(Plain(words(end)), Plain(1), 0)
            .unwrap();
        rig
    }

    fn array<T: Copy + 'static>(&mut self, name: &str) -> Array<&mut MapData, Plain<T>> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    fn hash<K: Copy + 'static, V: Copy + 'static>(
        &mut self,
        name: &str,
    ) -> HashMap<&mut MapData, Plain<K>, Plain<V>> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    pub(crate) fn locals(&mut self, locals: &[Ipv4Addr]) {
        for (slot, local) in locals.iter().enumerate() {
            self.array("LOCALS")
                .set(slot as u32, Plain(be(*local)), 0)
                .unwrap();
        }
        self.array("LOCALS6")
            .set(0, Plain(LOCAL6.octets()), 0)
            .unwrap();
        self.settings(Settings {
            locals: locals.len() as u32,
            locals6: 1,
        });
    }

    fn links(&mut self, change: impl FnOnce(&mut Links)) {
        let mut map = self.array::<Links>(LINKS_MAP);
        let Plain(mut links) = map.get(&0, 0).unwrap();
        change(&mut links);
        map.set(0, Plain(links), 0).unwrap();
    }

    /// A new generation of routes and neighbours.
    pub(crate) fn route_generation(&mut self, route_generation: u32) {
        self.links(|links| {
            for index in [0, 1, usize::from(LINK_NOWHERE)] {
                links[index].route_generation = route_generation;
            }
        });
    }

    /// How connection ids of a pool are read, and one server of theirs.
    pub(crate) fn quic(
        &mut self,
        pool: u16,
        number: u8,
        config: QuicConfig,
        server: &[u8],
        backend: u16,
    ) {
        let key = QuicServerKey::new(pool, server);
        self.hash::<u32, QuicConfig>("QUIC_CONFIGS")
            .insert(Plain(config_key(pool, number)), Plain(config), 0)
            .unwrap();
        self.hash::<QuicServerKey, u32>("QUIC_SERVERS")
            .insert(Plain(key), Plain(u32::from(backend)), 0)
            .unwrap();
    }

    /// An interface, with a place among the links.
    pub(crate) fn link(&mut self, slot: u32, ifindex: u32, mac: [u8; 6]) {
        let link = Link {
            ifindex,
            mtu: 1500,
            mac,
            ..Link::default()
        };
        self.links(|links| links[slot as usize] = link);
        self.array("LINK_OF")
            .set(ifindex, Plain(slot + 1), 0)
            .unwrap();
    }

    /// A VLAN device of an interface, with a place among the links.
    pub(crate) fn vlan(&mut self, device: u32, ifindex: u32, tags: Tags, slot: u32, mac: [u8; 6]) {
        let link = Link {
            ifindex: ifindex | TAGGED,
            mtu: 1500,
            mac,
            tags,
            ..Link::default()
        };
        self.links(|links| links[slot as usize] = link);
        self.array("LINK_OF")
            .set(device, Plain(slot + 1), 0)
            .unwrap();
        self.hash::<VlanKey, u32>("VLANS")
            .insert(Plain(VlanKey { ifindex, tags }), Plain(device), 0)
            .unwrap();
    }

    pub(crate) fn settings(&mut self, settings: Settings) {
        self.array("CONFIG").set(0, Plain(settings), 0).unwrap();
    }

    pub(crate) fn backend(&mut self, number: u16, backend: Backend) {
        self.array("BACKENDS")
            .set(u32::from(number), Plain(backend), 0)
            .unwrap();
    }

    /// A listener with the backends given by number, in turn.
    pub(crate) fn listener(
        &mut self,
        id: u16,
        port: u16,
        proto: u8,
        mode: Mode,
        pick: Pick,
        slots: &[u16],
    ) {
        self.listener_by(VIP, id, port, proto, mode, pick as u8, slots);
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn listener_on(
        &mut self,
        vip: impl Into<IpAddr>,
        id: u16,
        port: u16,
        proto: u8,
        mode: Mode,
        pick: Pick,
        slots: &[u16],
    ) {
        self.listener_by(vip, id, port, proto, mode, pick as u8, slots);
    }

    /// The same, with what else may be said of how a slot is picked.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn listener_by(
        &mut self,
        vip: impl Into<IpAddr>,
        id: u16,
        port: u16,
        proto: u8,
        mode: Mode,
        pick: u8,
        slots: &[u16],
    ) {
        let vip = words(vip);
        let base = u32::from(id) * 1024;
        let mut padded = slots.to_vec();
        padded.resize(slots.len().next_multiple_of(4), 0);
        for (element, lanes) in padded.chunks(4).enumerate() {
            let lanes: [u16; 4] = lanes.try_into().unwrap();
            self.array("SCHEDULE")
                .set(base / 4 + element as u32, Plain(lanes), 0)
                .unwrap();
        }
        let key = ListenerKey {
            addr: vip,
            port: port.to_be(),
            proto,
            zero: 0,
        };
        let listener = Listener {
            id,
            mode: mode as u8,
            pick,
            table_base: base,
            table_len: slots.len() as u32,
            ..self.tunnel
        };
        let at = u32::from(id) * 2;
        let entry = Entry {
            key,
            listener,
            ..Entry::default()
        };
        self.array("LISTENERS").set(at, Plain(entry), 0).unwrap();
        let place = Place::of(&key);
        let free = (0..PROBES)
            .map(|probe| place.slot(probe))
            .find(|slot| self.is_slot_for(*slot, &key))
            .unwrap();
        let mut slots = self.listener_slots(free);
        slots[free as usize % 2] = place.word(at);
        self.array("LISTENER_SLOTS")
            .set(free / 2, Plain(slots), 0)
            .unwrap();
        self.hash::<[u32; 4], u32>("VIPS")
            .insert(Plain(vip), Plain(1), 0)
            .unwrap();
    }

    /// Ends the sessions of TCP that are there, as the sweep does.
    pub(crate) fn end_sessions(&mut self) {
        fn end<const WORDS: usize, const SIZE: usize>(words: &mut [u32; SIZE], meta: usize) {
            for line in words.chunks_exact_mut(WORDS) {
                let client = line[meta] & (LIVE | REVERSE | UDP) == LIVE;
                if client {
                    line[meta] |= LINK_MASK;
                    // Behind the MAC address, the listener and the backend.
                    let changes = WORDS * 5 / 8 + if WORDS == 16 { 0 } else { 2 };
                    line[changes] |= u32::from(ENDED) << 16;
                }
            }
        }
        let sets = self.array::<[u32; 64]>("SESSIONS4").len();
        for set in 0..sets {
            let Plain(mut words) = self.array::<[u32; 64]>("SESSIONS4").get(&set, 0).unwrap();
            end::<16, 64>(&mut words, 3);
            self.array("SESSIONS4").set(set, Plain(words), 0).unwrap();
            let Plain(mut words) = self.array::<[u32; 128]>("SESSIONS6").get(&set, 0).unwrap();
            end::<32, 128>(&mut words, 9);
            self.array("SESSIONS6").set(set, Plain(words), 0).unwrap();
        }
    }

    /// The weight of a backend of pool 0.
    pub(crate) fn load(&mut self, number: u16, weight: u32) {
        self.array("LOADS")
            .set(u32::from(number), Plain([0, weight, 0, 0]), 0)
            .unwrap();
    }

    /// Pool 0 remembers clients for so many jiffies.
    pub(crate) fn pool(&mut self, timeout: u32) {
        let pool = client::Pool {
            timeout,
            mask4: u32::MAX,
            mask6: [u32::MAX; 4],
            name: 0,
        };
        self.array("POOLS").set(0, Plain(pool), 0).unwrap();
    }

    /// Whether a slot is free, or that of this key.
    fn is_slot_for(&mut self, slot: u32, key: &ListenerKey) -> bool {
        let word = self.listener_slots(slot)[slot as usize % 2];
        listeners::entry_place(word).is_none_or(|at| {
            let entry: Entry = self.array("LISTENERS").get(&at, 0).unwrap().0;
            entry.key == *key
        })
    }

    /// The element of `LISTENER_SLOTS` with this slot.
    fn listener_slots(&mut self, slot: u32) -> [u32; 2] {
        self.array("LISTENER_SLOTS").get(&(slot / 2), 0).unwrap().0
    }

    /// For each family one TCP and one UDP listener on port 80 in this mode, with one backend on link 1.
    pub(crate) fn serve(&mut self, mode: Mode) {
        self.serve_with(mode, FAMILIES);
    }

    /// FullNAT, each listener with the backend of the other family.
    pub(crate) fn serve_across(&mut self) {
        self.serve_with(Mode::Fullnat, [FAMILIES[1], FAMILIES[0]]);
    }

    fn serve_with(&mut self, mode: Mode, backends: [Addresses; 2]) {
        let port = if matches!(mode, Mode::Dr | Mode::Tunnel) {
            80u16
        } else {
            8080
        };
        let [v4, v6] = backends;
        for (number, listener, family, backend) in
            [(1, 1, FAMILIES[0], v4), (60, 61, FAMILIES[1], v6)]
        {
            let backend = Backend {
                addr: words(backend.backend),
                port: port.to_be(),
                mac: BACKEND_MAC,
                link: 1,
                flags: BACKEND_ACCEPTS,
                ..Backend::default()
            };
            self.backend(number, backend);
            for (id, proto) in [(listener, 6), (listener + 1, 17)] {
                self.listener_on(family.vip, id, 80, proto, mode, Pick::Next, &[number]);
            }
        }
    }

    /// Listeners of one family whose backend is of another or the same one, by a tunnel.
    pub(crate) fn serve_tunnel(&mut self, inner: Addresses, outer: Addresses, tunnel: Listener) {
        self.tunnel = tunnel;
        self.array("TUNNEL_SOURCES")
            .set(1, Plain(tunnel.source), 0)
            .unwrap();
        let backend = Backend {
            addr: words(outer.backend),
            port: 80u16.to_be(),
            mac: BACKEND_MAC,
            link: 1,
            flags: BACKEND_ACCEPTS,
            ..Backend::default()
        };
        self.backend(1, backend);
        self.listener_on(inner.vip, 1, 80, 6, Mode::Tunnel, Pick::Next, &[1]);
        self.listener_on(inner.vip, 2, 80, 17, Mode::Tunnel, Pick::Next, &[1]);
    }

    pub(crate) fn run(&mut self, packet: &[u8]) -> Outcome {
        let mut out = vec![0u8; packet.len() + 128];
        let program: &mut Xdp = self
            .ebpf
            .program_mut(self.run_name)
            .unwrap()
            .try_into()
            .unwrap();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let verdict = match result.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect(EGRESS),
            other => panic!("XDP action {other}"),
        };
        Outcome {
            verdict,
            packet: out,
        }
    }

    /// Packets dropped for this reason so far.
    pub(crate) fn drops(&mut self, reason: Drop) -> u64 {
        let map: PerCpuArray<&mut MapData, u64> =
            self.ebpf.map_mut("DROPS").unwrap().try_into().unwrap();
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }
}

/// What a test says about a packet; checksums and lengths are filled in. For IPv6 `ttl` is the hop limit, `tos` the traffic
/// class, and `id` the flow label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) eth_dst: [u8; 6],
    pub(crate) eth_src: [u8; 6],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) l4: L4,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum L4 {
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
    },
    /// A segment that is nothing but a reset with this sequence number.
    Reset {
        src: u16,
        dst: u16,
        sequence: u32,
    },
    Udp {
        src: u16,
        dst: u16,
        checksum: bool,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
    /// Any other protocol: the payload is all there is.
    Other(u8),
    /// GRE without options, around a packet of this EtherType.
    Gre(u16),
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Packet {
    fn new(src: IpAddr, dst: IpAddr, l4: L4) -> Self {
        Self {
            eth_dst: LB_MAC,
            eth_src: CLIENT_MAC,
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            fragment: 0x4000,
            options: Vec::new(),
            l4,
            payload: b"weir".to_vec(),
        }
    }

    pub(crate) fn tcp(
        src: (impl Into<IpAddr>, u16),
        dst: (impl Into<IpAddr>, u16),
        flags: u8,
    ) -> Self {
        Self::new(
            src.0.into(),
            dst.0.into(),
            L4::Tcp {
                src: src.1,
                dst: dst.1,
                flags,
            },
        )
    }

    pub(crate) fn udp(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16)) -> Self {
        Self::new(
            src.0.into(),
            dst.0.into(),
            L4::Udp {
                src: src.1,
                dst: dst.1,
                checksum: true,
            },
        )
    }

    /// An echo request, of ICMP or ICMPv6.
    pub(crate) fn echo(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Self {
        let (src, dst) = (src.into(), dst.into());
        let kind = if src.is_ipv6() { 128 } else { 8 };
        Self::new(src, dst, L4::Icmp { kind, code: 0 })
    }

    fn proto(&self) -> u8 {
        match self.l4 {
            L4::Tcp { .. } | L4::Reset { .. } => 6,
            L4::Udp { .. } => 17,
            L4::Icmp { .. } if self.src.is_ipv6() => 58,
            L4::Icmp { .. } => 1,
            L4::Other(proto) => proto,
            L4::Gre(_) => 47,
        }
    }

    /// The frame, with every length and checksum computed in full.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        let length_at = match self.l4 {
            L4::Tcp { src, dst, flags } => {
                l4.extend(src.to_be_bytes());
                l4.extend(dst.to_be_bytes());
                l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
                Some(16)
            }
            L4::Reset { src, dst, sequence } => {
                l4.extend(src.to_be_bytes());
                l4.extend(dst.to_be_bytes());
                l4.extend(sequence.to_be_bytes());
                l4.extend([0, 0, 0, 0, 0x50, RST, 0, 0, 0, 0, 0, 0]);
                Some(16)
            }
            L4::Udp { src, dst, checksum } => {
                l4.extend(src.to_be_bytes());
                l4.extend(dst.to_be_bytes());
                l4.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                l4.extend([0, 0]);
                checksum.then_some(6)
            }
            L4::Icmp { kind, code } => {
                l4.extend([kind, code, 0, 0, 0, 7, 0, 1]);
                Some(2)
            }
            L4::Other(_) => None,
            L4::Gre(ethertype) => {
                l4.extend([0, 0]);
                l4.extend(ethertype.to_be_bytes());
                None
            }
        };
        l4.extend(&self.payload);
        if let Some(at) = length_at {
            let pseudo = match self.l4 {
                L4::Icmp { .. } if self.src.is_ipv4() => 0,
                _ => {
                    let mut pseudo = [octets(self.src), octets(self.dst)].concat();
                    pseudo.extend([0, self.proto()]);
                    pseudo.extend((l4.len() as u16).to_be_bytes());
                    checksum::sum(&pseudo)
                }
            };
            let mut sum = !checksum::fold(pseudo + checksum::sum(&l4));
            if sum == 0 && matches!(self.l4, L4::Udp { .. }) {
                sum = 0xffff;
            }
            l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        }
        let mut frame = Vec::new();
        frame.extend(self.eth_dst);
        frame.extend(self.eth_src);
        if self.src.is_ipv6() {
            frame.extend([0x86, 0xdd]);
            let first = 0x6000_0000 | u32::from(self.tos) << 20 | u32::from(self.id);
            frame.extend(first.to_be_bytes());
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([self.proto(), self.ttl]);
            frame.extend(octets(self.src));
            frame.extend(octets(self.dst));
        } else {
            frame.extend([8, 0]);
            frame.extend(self.ipv4_header(l4.len()));
        }
        frame.extend(l4);
        frame
    }

    fn ipv4_header(&self, behind: usize) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut ip = vec![0x40 | (header / 4) as u8, self.tos];
        ip.extend(((header + behind) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.proto(), 0, 0]);
        ip.extend(octets(self.src));
        ip.extend(octets(self.dst));
        ip.extend(&self.options);
        let sum = !checksum::fold(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
        ip
    }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// The local port that FullNAT put into a packet, for tests that must answer to it.
pub(crate) fn source_port(frame: &[u8]) -> u16 {
    let at = if frame[12..14] == [0x86, 0xdd] {
        54
    } else {
        34
    };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

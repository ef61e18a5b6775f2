//! The packet logic's machine in memory: what the kernel and its maps are to the XDP program.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use weir_l4_common::client::{self, ClientSet, Pool};
use weir_l4_common::drop::Drop;
use weir_l4_common::env::{Env, NextHop, Verdict};
use weir_l4_common::event::Event;
use weir_l4_common::family::{Addr6, Family, V4, V6};
use weir_l4_common::forward::forward;
use weir_l4_common::fragment::{FRAGMENT_SETS, FragmentSet};
use weir_l4_common::frame::Frame;
use weir_l4_common::hash::{FlowKey, FlowKey4, FlowKey6};
use weir_l4_common::link::Link;
use weir_l4_common::load::{self, Load};
use weir_l4_common::open::Opening;
use weir_l4_common::quic::{self, QuicConfig, QuicServerKey, QuicWork};
use weir_l4_common::refusal::{self, Budget, Refusal};
use weir_l4_common::reset;
use weir_l4_common::service::{
    BACKEND_ACCEPTS, Backend, BackendCounters, Listener, ListenerCounters, ListenerKey, Mode, Pick,
    Settings, mapped,
};
use weir_l4_common::session::{LIVE, Line, Set, Set4, Set6};
use weir_l4_common::vlan::{Tagged, Tags, VlanKey};
use weir_l4_common::{across, checksum, mss, open, spread, table, unusual, vlan, walk};

/// Bytes in front of a packet, as XDP drivers leave them.
pub const HEADROOM: usize = 256;
pub const FRAGMENT_TIMEOUT: u32 = 7500;
pub const INGRESS: u32 = 1;
pub const EGRESS: u32 = 2;
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 11);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10);
pub const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10);
pub const BACKEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 0x11);
pub const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];

pub fn be(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

pub fn words(addr: Ipv6Addr) -> [u32; 4] {
    let octets = addr.octets();
    std::array::from_fn(|word| {
        u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte]))
    })
}

/// The addresses of one family that the machine serves: VIP, local address, backend.
pub fn addresses(ipv6: bool) -> [IpAddr; 3] {
    if ipv6 {
        [VIP6, LOCAL6, BACKEND6].map(IpAddr::V6)
    } else {
        [VIP, LOCAL, BACKEND].map(IpAddr::V4)
    }
}

/// The machine; what the logic gets is a reference to it.
pub struct Machine {
    table4: Vec<UnsafeCell<Set4>>,
    table6: Vec<UnsafeCell<Set6>>,
    opening4: UnsafeCell<Opening<V4>>,
    opening6: UnsafeCell<Opening<V6>>,
    packet: RefCell<Vec<u8>>,
    start: Cell<usize>,
    pub listeners: HashMap<ListenerKey, Listener>,
    pub slots: Vec<u16>,
    pub backends: HashMap<u16, Backend>,
    pub locals: Vec<u32>,
    pub locals6: Vec<Addr6>,
    pub next_hop: NextHop,
    /// Source and destination of every next hop that was asked for.
    pub asked: RefCell<Vec<(IpAddr, IpAddr)>>,
    pub events: RefCell<Vec<Event>>,
    pub drops: RefCell<Vec<Drop>>,
    pub links: Vec<Link>,
    pub jiffies: Cell<u32>,
    /// How connection ids of QUIC are read.
    pub quic_configs: HashMap<u32, QuicConfig>,
    quic_work: UnsafeCell<QuicWork>,
    /// Backends by servers' ids.
    pub quic_servers: HashMap<QuicServerKey, u16>,
    /// VLAN devices.
    pub vlans: HashMap<VlanKey, u32>,
    /// Their indices in `links`.
    pub vlan_links: HashMap<u32, u8>,
    tagged: UnsafeCell<Tagged>,
    fragments: Vec<UnsafeCell<FragmentSet>>,
    refusals: UnsafeCell<Budget>,
    pub loads: Vec<UnsafeCell<Load>>,
    pub pool: Pool,
    pub clients: Vec<UnsafeCell<ClientSet>>,
    listener_counters: UnsafeCell<ListenerCounters>,
    backend_counters: UnsafeCell<BackendCounters>,
}

impl Machine {
    /// In each family one backend, and listeners on port 80 of the VIP for TCP and UDP in this mode.
    pub fn new(sets: usize, mode: Mode) -> Self {
        let keeps_port = matches!(mode, Mode::Dr | Mode::Tunnel);
        let port = if keeps_port { 80u16 } else { 8080 }.to_be();
        let backend = |addr| Backend {
            addr,
            port,
            zero: [0; 3],
            mac: BACKEND_MAC,
            link: 1,
            flags: BACKEND_ACCEPTS,
        };
        let listener = |id| Listener {
            id,
            mode: mode as u8,
            pick: Pick::Next as u8,
            table_base: (u32::from(id) - 1) / 2,
            table_len: 1,
            ..Listener::default()
        };
        let key = |addr, proto| ListenerKey {
            addr,
            port: 80u16.to_be(),
            proto,
            zero: 0,
        };
        Self {
            table4: (0..sets).map(|_| zeroed()).collect(),
            table6: (0..sets).map(|_| zeroed()).collect(),
            // SAFETY: every field is an integer or a bool, for which zero is a value.
            opening4: UnsafeCell::new(unsafe { std::mem::zeroed() }),
            // SAFETY: as above.
            opening6: UnsafeCell::new(unsafe { std::mem::zeroed() }),
            packet: RefCell::default(),
            start: Cell::new(0),
            listeners: HashMap::from([
                (key(mapped(be(VIP)), 6), listener(1)),
                (key(mapped(be(VIP)), 17), listener(2)),
                (key(words(VIP6), 6), listener(3)),
                (key(words(VIP6), 17), listener(4)),
            ]),
            slots: vec![1, 2],
            backends: HashMap::from([
                (1, backend(mapped(be(BACKEND)))),
                (2, backend(words(BACKEND6))),
            ]),
            locals: vec![be(LOCAL)],
            locals6: vec![Addr6::from_words(words(LOCAL6))],
            next_hop: NextHop::None,
            asked: RefCell::default(),
            events: RefCell::default(),
            drops: RefCell::default(),
            links: vec![link(INGRESS, LB_MAC), link(EGRESS, OTHER_MAC)],
            jiffies: Cell::new(1000),
            quic_configs: HashMap::new(),
            quic_servers: HashMap::new(),
            quic_work: UnsafeCell::default(),
            vlans: HashMap::new(),
            vlan_links: HashMap::new(),
            tagged: UnsafeCell::default(),
            fragments: (0..FRAGMENT_SETS).map(|_| UnsafeCell::default()).collect(),
            refusals: UnsafeCell::default(),
            loads: (0..16).map(|_| UnsafeCell::default()).collect(),
            pool: Pool::default(),
            clients: (0..4).map(|_| UnsafeCell::default()).collect(),
            listener_counters: UnsafeCell::default(),
            backend_counters: UnsafeCell::default(),
        }
    }

    /// Each listener gets the backend of the other family.
    pub fn lead_across(&mut self) {
        self.slots.reverse();
    }

    /// Runs one packet; the verdict, and the packet as it is then.
    pub fn run(&self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut memory = vec![0xaa; HEADROOM];
        memory.extend(packet);
        *self.packet.borrow_mut() = memory;
        self.start.set(HEADROOM);
        let verdict = forward(self);
        (verdict, self.packet.borrow()[self.start.get()..].to_vec())
    }

    /// Sessions opened, of all listeners.
    pub fn sessions(&self) -> u64 {
        // SAFETY: nothing runs while the test looks.
        unsafe { (*self.listener_counters.get()).sessions }
    }

    /// The hash by which a packet is spread over cores.
    pub fn spread(&self, packet: &[u8]) -> Option<u64> {
        *self.packet.borrow_mut() = packet.to_vec();
        self.start.set(0);
        spread::hash(self)
    }

    /// Keys of all live lines of IPv4.
    pub fn flows4(&self) -> Vec<FlowKey4> {
        flows(&self.table4)
    }

    /// Keys of all live lines of IPv6.
    pub fn flows6(&self) -> Vec<FlowKey6> {
        flows(&self.table6)
    }
}

fn zeroed<F: Family>() -> UnsafeCell<Set<F>> {
    // SAFETY: every field of a set is an integer, for which zero is a value.
    UnsafeCell::new(unsafe { std::mem::zeroed::<Set<F>>() })
}

fn flows<F: Family>(table: &[UnsafeCell<Set<F>>]) -> Vec<FlowKey<F>> {
    let lines = table.iter().flat_map(|set| {
        // SAFETY: nothing runs while the test looks.
        let set: &Set<F> = unsafe { &*set.get() };
        set.lines.iter()
    });
    lines
        .filter(|line| line.meta() & LIVE != 0)
        .map(Line::key)
        .collect()
}

/// An interface.
fn link(ifindex: u32, mac: [u8; 6]) -> Link {
    Link {
        ifindex,
        route_generation: 7,
        mac,
        mtu: 1500,
        ..Link::default()
    }
}

impl Env for &Machine {
    fn frame(&self) -> Frame {
        let mut packet = self.packet.borrow_mut();
        let range = packet[self.start.get()..].as_mut_ptr_range();
        // SAFETY: the buffer is not touched while the logic runs, and outlives it.
        unsafe { Frame::new(range.start, range.end) }
    }

    fn move_start(&self, bytes: i32) -> bool {
        let start = self.start.get() as i64 + i64::from(bytes);
        if start < 0 || start as usize > self.packet.borrow().len() {
            return false;
        }
        self.start.set(start as usize);
        true
    }

    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the logic holds no reference to it.
        match unsafe { (*self.tagged.get()).device } {
            0 => INGRESS,
            device => device,
        }
    }

    fn port_ifindex(&self) -> u32 {
        INGRESS
    }

    fn tag_aware(&self) -> impl Env {
        *self
    }

    fn vlan(&self, key: &VlanKey) -> Option<u32> {
        self.vlans.get(key).copied()
    }

    fn tagged(&self) -> Option<*mut Tagged> {
        Some(self.tagged.get())
    }

    fn take_tags_off(&self) -> u64 {
        vlan::take_off(*self)
    }

    fn finish_tagged(&self, verdict: Verdict) -> Verdict {
        vlan::finish(*self, verdict)
    }

    fn send_tagged(&self, ifindex: u32, tags: Tags) -> Verdict {
        vlan::send(*self, ifindex, tags)
    }

    fn shorten(&self, bytes: u32) -> bool {
        let mut packet = self.packet.borrow_mut();
        let len = packet.len() - self.start.get();
        if bytes as usize + 14 > len {
            return false;
        }
        let end = packet.len() - bytes as usize;
        packet.truncate(end);
        true
    }

    fn unusual4(&self) -> u64 {
        unusual::packet::<V4>(*self)
    }

    fn unusual6(&self) -> u64 {
        unusual::packet::<V6>(*self)
    }

    fn walk6(&self, offset: u32) -> u64 {
        walk::headers6(&self.frame(), offset as usize)
    }

    fn sum(&self, from: u32, to: u32) -> u32 {
        checksum::range(&self.frame(), from, to)
    }

    fn clamp(&self, tcp: u32, max: u16) {
        mss::clamp(self.frame(), tcp as usize, max);
    }

    fn across4(&self) -> u64 {
        across::translate::<V4>(*self)
    }

    fn across6(&self) -> u64 {
        across::translate::<V6>(*self)
    }

    fn across_error4(&self) -> u64 {
        across::error::<V4>(*self)
    }

    fn across_error6(&self) -> u64 {
        across::error::<V6>(*self)
    }

    fn across_open4(&self) -> u64 {
        open::across::session::<V4>(*self)
    }

    fn across_open6(&self) -> u64 {
        open::across::session::<V6>(*self)
    }

    fn refuse4(&self, source: u32, refusal: Refusal) -> u64 {
        refusal::send4(*self, source, refusal).bits()
    }

    fn refuse6(&self, source: Addr6, refusal: Refusal) -> u64 {
        refusal::send6(*self, source, refusal).bits()
    }

    fn reset4(&self) -> u64 {
        reset::answer4(*self).bits()
    }

    fn reset6(&self) -> u64 {
        reset::answer6(*self).bits()
    }

    fn fragments(&self, index: u32) -> Option<*mut FragmentSet> {
        self.fragments.get(index as usize).map(UnsafeCell::get)
    }

    fn fragment_timeout(&self) -> u32 {
        FRAGMENT_TIMEOUT
    }

    fn refusals(&self) -> Option<*mut Budget> {
        Some(self.refusals.get())
    }

    fn jiffies(&self) -> u32 {
        self.jiffies.get()
    }

    fn seed(&self) -> u64 {
        0x5eed
    }

    fn sets4(&self) -> u32 {
        self.table4.len() as u32
    }

    fn sets6(&self) -> u32 {
        self.table6.len() as u32
    }

    fn set4(&self, index: u32) -> Option<*mut Set4> {
        self.table4.get(index as usize).map(UnsafeCell::get)
    }

    fn set6(&self, index: u32) -> Option<*mut Set6> {
        self.table6.get(index as usize).map(UnsafeCell::get)
    }

    fn find4(&self, key: &FlowKey4, hash: u64) -> u32 {
        table::number(*self, key, hash)
    }

    fn find6(&self, key: &FlowKey6, hash: u64) -> u32 {
        table::number(*self, key, hash)
    }

    fn opening4(&self) -> Option<*mut Opening<V4>> {
        Some(self.opening4.get())
    }

    fn opening6(&self) -> Option<*mut Opening<V6>> {
        Some(self.opening6.get())
    }

    fn settings(&self) -> Settings {
        Settings {
            locals: self.locals.len() as u32,
            locals6: self.locals6.len() as u32,
        }
    }

    fn link(&self, index: u32) -> Option<&'static Link> {
        let link = self.links.get(index as usize)?;
        // SAFETY: links change between packets at most, and the logic keeps nothing of a packet.
        Some(unsafe { &*std::ptr::from_ref(link) })
    }

    fn link_of(&self, ifindex: u32) -> Option<u8> {
        if let Some(index) = self.vlan_links.get(&ifindex) {
            return Some(*index);
        }
        let mut links = self.links.iter();
        links
            .position(|link| link.ifindex == ifindex)
            .map(|index| index as u8)
    }

    fn listener(&self, key: &ListenerKey) -> Option<&'static Listener> {
        // Kept for good, each once: a fuzzer runs millions of packets, and there are few listeners.
        static KEPT: Mutex<Vec<&'static Listener>> = Mutex::new(Vec::new());
        let listener = *self.listeners.get(key)?;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = kept.iter().find(|kept| ***kept == listener) {
            return Some(same);
        }
        kept.push(Box::leak(Box::new(listener)));
        kept.last().copied()
    }

    fn is_vip(&self, addr: &[u32; 4]) -> bool {
        *addr == mapped(be(VIP)) || *addr == words(VIP6)
    }

    fn slot(&self, index: u32) -> Option<u16> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, number: u16) -> Option<Backend> {
        self.backends.get(&number).copied()
    }

    fn load(&self, number: u16) -> Option<*mut Load> {
        self.loads.get(usize::from(number)).map(UnsafeCell::get)
    }

    fn least(&self, base: u32, len: u32, start: u32) -> u16 {
        load::least(*self, base, len, start)
    }

    fn lighter_of_two(&self, base: u32, len: u32, random: u64) -> u16 {
        load::lighter_of_two(*self, base, len, random)
    }

    fn pool(&self, _: u32) -> Option<*const Pool> {
        Some(&raw const self.pool)
    }

    fn client_sets(&self) -> u32 {
        self.clients.len() as u32
    }

    fn clients(&self, set: u32) -> Option<*mut ClientSet> {
        self.clients.get(set as usize).map(UnsafeCell::get)
    }

    fn known_client(&self, tag: u64, pool: u64, now: u32) -> u16 {
        client::known(*self, tag, pool, now)
    }

    fn remember_client(&self, tag: u64, word: u64, now: u32) {
        client::remember(*self, tag, word, now);
    }

    fn local4(&self, index: u32) -> Option<u32> {
        self.locals.get(index as usize).copied()
    }

    fn local6(&self, index: u32) -> Option<Addr6> {
        self.locals6.get(index as usize).copied()
    }

    fn tunnel_source(&self, _: u16) -> Option<[u32; 4]> {
        self.listeners
            .values()
            .map(|listener| listener.source)
            .next()
    }

    fn quic_config(&self, key: u32) -> Option<*const QuicConfig> {
        self.quic_configs.get(&key).map(std::ptr::from_ref)
    }

    fn quic_work(&self) -> Option<*mut QuicWork> {
        Some(self.quic_work.get())
    }

    fn quic_decrypt(&self, key: u32) {
        quic::decrypt_id(*self, key);
    }

    fn quic_server(&self, key: &QuicServerKey) -> Option<u16> {
        self.quic_servers.get(key).copied()
    }

    fn quic_backend(&self, pool: u16, udp: u32) -> u32 {
        quic::backend(*self, pool, udp as usize).map_or(0, u32::from)
    }

    fn listener_counters(&self, _: u16) -> Option<*mut ListenerCounters> {
        Some(self.listener_counters.get())
    }

    fn backend_counters(&self, _: u16) -> Option<*mut BackendCounters> {
        Some(self.backend_counters.get())
    }

    fn count_drop(&self, reason: Drop) {
        self.drops.borrow_mut().push(reason);
    }

    fn tell(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn next_hop4(&self, src: u32, dst: u32) -> NextHop {
        let ip = |addr: u32| IpAddr::V4(Ipv4Addr::from(addr.to_ne_bytes()));
        self.asked.borrow_mut().push((ip(src), ip(dst)));
        self.next_hop
    }

    fn next_hop6(&self, src: Addr6, dst: Addr6) -> NextHop {
        let ip = |addr: Addr6| {
            let halves = u128::from(addr.high) | u128::from(addr.low) << 64;
            IpAddr::V6(Ipv6Addr::from(halves.to_ne_bytes()))
        };
        self.asked.borrow_mut().push((ip(src), ip(dst)));
        self.next_hop
    }
}

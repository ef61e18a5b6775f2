//! The first packet of a session: a backend is picked, a local port taken, both directions written.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::AcqRel;

use crate::checksum::{difference32, fold};
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::event::{Event, EventKind};
use crate::forward::{Packet, dropped, outer_constant};
use crate::frame::Head;
use crate::hash::{self, FlowKey4, reduce};
use crate::link::LINK_NONE;
use crate::packet::{PROTO_TCP, PROTO_UDP, UDP_HEAD, at};
use crate::service::{
    BACKEND_ACCEPTS, LOCAL_PORT_MIN, Listener, ListenerCounters, ListenerKey, Mode, Pick, mapped,
};
use crate::session::{
    ACK, FIN, GENERATION_SHIFT, LINK_SHIFT, Line4, MODE_SHIFT, Place, REVERSE, RST, SEEN_SHIFT,
    SYN, UDP, seen,
};
use crate::table;

/// Local ports that are tried for a new session. With nine of ten in use, one session in thirty finds none.
const PORT_TRIES: u16 = 32;

/// Whether a SYN on a line means that the session has to be scheduled anew. A SYN on a closed session (RFC 9293,
/// section 3.6.1; nf_conntrack_proto_tcp.c treats it alike) starts it again on the same backend, if the listener stands
/// and the backend takes new sessions; if not, both lines are taken out of use.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
pub(crate) unsafe fn reopens(env: impl Env, line: *mut Line4) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        if meta & (REVERSE | UDP) != 0 {
            return false;
        }
        let peer = match Mode::from_bits((meta >> MODE_SHIFT) as u8) {
            Mode::Fullnat | Mode::Nat => {
                let key = (*line).peer_key();
                table::find(env, &key, &Place::of(key.hash(env.seed()), env.sets()))
            }
            Mode::Dr | Mode::Tunnel => None,
        };
        let here = seen(meta);
        let there = peer.map_or(0, |peer| seen((*peer).meta()));
        let closed = (here | there) & (FIN | RST) != 0;
        if !closed && here & ACK != 0 {
            return false;
        }
        // The rules may have changed since: the listener is gone or of another kind, the backend takes nothing new.
        let key = (*line).key();
        let listener_key = ListenerKey {
            addr: mapped(key.dst),
            port: key.dst_port(),
            proto: PROTO_TCP,
            zero: 0,
        };
        let stands = env.listener(&listener_key).is_some_and(|listener| {
            listener.id == (*line).listener
                && u32::from(listener.mode) == meta >> MODE_SHIFT & 3
                && listener.table_len != 0
        });
        let accepts = env
            .backend((*line).backend)
            .is_some_and(|backend| backend.flags & BACKEND_ACCEPTS != 0);
        if !stands || !accepts {
            table::retire(line);
            if let Some(peer) = peer {
                table::retire(peer);
            }
            return true;
        }
        if closed {
            (*line).meta.fetch_and(!(0xff << SEEN_SHIFT), AcqRel);
            if let Some(peer) = peer {
                (*peer).meta.fetch_and(!(0xff << SEEN_SHIFT), AcqRel);
            }
            count_session(env, (*line).listener, (*line).backend);
        }
        false
    }
}

/// Opens a session for a packet to a listener: the line of its direction.
#[inline(always)]
pub(crate) fn session(env: impl Env, packet: &Packet, hash: u64) -> Result<*mut Line4, Verdict> {
    let key = &packet.key;
    let proto = if key.udp { PROTO_UDP } else { PROTO_TCP };
    let listener_key = ListenerKey {
        addr: mapped(key.dst),
        port: key.dst_port(),
        proto,
        zero: 0,
    };
    let listener = env.listener(&listener_key).ok_or(Verdict::Pass)?;
    try_session(env, packet, hash, listener).map_err(|reason| {
        let kind = match reason {
            Drop::PortsExhausted => Some(EventKind::PortsExhausted),
            Drop::TableFull => Some(EventKind::TableFull),
            _ => None,
        };
        if let Some(kind) = kind {
            let listener = u32::from(listener.id);
            env.tell(Event {
                kind: kind as u32,
                ifindex: 0,
                addr: key.dst,
                listener,
            });
        }
        dropped(env, listener.id, reason)
    })
}

#[inline(always)]
fn try_session(
    env: impl Env,
    packet: &Packet,
    hash: u64,
    listener: &Listener,
) -> Result<*mut Line4, Drop> {
    let Packet {
        head, key, flags, ..
    } = packet;
    if !key.udp && *flags != SYN {
        return Err(Drop::NoSession);
    }
    if listener.table_len == 0 {
        return Err(Drop::NoBackend);
    }
    let counters = env.listener_counters(listener.id).ok_or(Drop::NoBackend)?;
    // SAFETY: the environment gave this core's counters, which nobody else writes.
    let turn = unsafe { pick(counters, listener, key) };
    let number = env
        .slot(listener.table_base + turn)
        .ok_or(Drop::NoBackend)?;
    let backend = env.backend(number).ok_or(Drop::NoBackend)?;
    if backend.link == LINK_NONE {
        return Err(Drop::NoNextHop);
    }
    let mode = Mode::from_bits(listener.mode);
    let mut reply_line = None;
    let (new_src, new_dst, new_ports) = match mode {
        Mode::Fullnat => {
            let local = local(env, hash).ok_or(Drop::PortsExhausted)?;
            let backend_port = u32::from(backend.port) | u32::from(key.udp) << 16;
            let slice = hash::slice(hash).wrapping_add(beside(env.sets()));
            let port = free_port(env, local, backend.addr, backend_port, u32::from(slice));
            if port == 0 {
                return Err(Drop::PortsExhausted);
            }
            let new_ports = port | u32::from(backend.port) << 16;
            let reply = FlowKey4 {
                src: local,
                dst: backend.addr,
                ports: new_ports,
                udp: key.udp,
            }
            .reversed();
            reply_line = Some(open_reverse(env, head, key, listener, number, &reply)?);
            (local, backend.addr, new_ports)
        }
        Mode::Nat => {
            let new_ports = key.ports & 0xffff | u32::from(backend.port) << 16;
            let reply = FlowKey4 {
                src: key.src,
                dst: backend.addr,
                ports: new_ports,
                udp: key.udp,
            }
            .reversed();
            if env.is_taken(&reply, reply.hash(env.seed())) {
                // The same client port talks to this backend through another VIP.
                return Err(Drop::PortsExhausted);
            }
            reply_line = Some(open_reverse(env, head, key, listener, number, &reply)?);
            (key.src, backend.addr, new_ports)
        }
        Mode::Dr => (key.src, key.dst, key.ports),
        Mode::Tunnel => (
            local(env, hash).ok_or(Drop::PortsExhausted)?,
            backend.addr,
            key.ports,
        ),
    };
    let Some(line) = table::claim(env, hash) else {
        if let Some(reply_line) = reply_line {
            table::retire(reply_line.as_ptr());
        }
        return Err(Drop::TableFull);
    };
    let rewrite = Rewrite {
        new_src,
        new_dst,
        new_ports,
        mac: backend.mac,
        link: backend.link,
        mode,
        reverse: false,
        listener: listener.id,
        backend: number,
    };
    // SAFETY: the line is claimed by us and not published.
    unsafe { fill(env, line.as_ptr(), key, &rewrite) };
    if !table::publish(env, line, hash, rewrite.bits(env, key.udp)) {
        // Another core has opened the same session in this moment.
        if let Some(reply_line) = reply_line {
            table::retire(reply_line.as_ptr());
        }
        return table::find(env, key, &Place::of(hash, env.sets())).ok_or(Drop::TableFull);
    }
    // SAFETY: as above.
    unsafe { (*counters).sessions += 1 };
    count_backend_session(env, number);
    Ok(line.as_ptr())
}

/// Index into the listener's scheduling table.
///
/// # Safety
/// `counters` must be this core's counters of the listener.
#[inline(always)]
unsafe fn pick(counters: *mut ListenerCounters, listener: &Listener, key: &FlowKey4) -> u32 {
    if listener.pick == Pick::Next as u8 {
        // SAFETY: by the caller's promise.
        unsafe {
            let turn = (*counters).turn as u32;
            let turn = if turn >= listener.table_len { 0 } else { turn };
            (*counters).turn = u64::from(turn + 1);
            turn
        }
    } else {
        let address_alone = listener.pick == Pick::HashAddress as u8;
        let port = if address_alone { 0 } else { key.src_port() };
        reduce(hash::client(key.src, port), listener.table_len)
    }
}

/// A local address for the flow with this hash.
#[inline(always)]
fn local(env: impl Env, hash: u64) -> Option<u32> {
    let locals = env.settings().locals;
    env.local(reduce(hash as u32, locals))
        .filter(|addr| locals != 0 && *addr != 0)
}

/// How many slices further the replies' line should be. Where a slice is less than a set, the next set, so that a set
/// is not filled by pairs; where it is more, the same slice.
#[inline(always)]
fn beside(sets: u32) -> u16 {
    // Checked, although a table has sets: a division that could fail would panic, and BPF cannot.
    match (1u32 << 16).checked_div(sets) {
        None | Some(0) => 0,
        Some(slices) => slices as u16 + 1,
    }
}

/// A local port, so that the replies' flow from this backend to the local address is free; network byte order, 0 if
/// there is none. The first choice is the one that puts the replies' line into `slice`; then those of the slices around it.
#[inline(never)]
fn free_port(env: impl Env, local: u32, backend: u32, backend_port: u32, slice: u32) -> u32 {
    let udp = backend_port >> 16 != 0;
    let mut reply = FlowKey4 {
        src: backend,
        dst: local,
        ports: backend_port & 0xffff,
        udp,
    };
    let bare = reply.hash(env.seed());
    let mut slice = slice as u16;
    let mut tries = 0u16;
    while tries < PORT_TRIES {
        let port = hash::port_in_slice(bare, slice);
        if u16::from_be(port) >= LOCAL_PORT_MIN {
            reply.ports = backend_port & 0xffff | u32::from(port) << 16;
            if !env.is_taken(&reply, reply.hash(env.seed())) {
                return u32::from(port);
            }
        }
        // One further, two back, three further, and so on.
        tries += 1;
        slice = if tries & 1 == 1 {
            slice.wrapping_add(tries)
        } else {
            slice.wrapping_sub(tries)
        };
    }
    0
}

/// Claims, fills and publishes the line of the replies to `key`, which arrive as `reply`. Until the kernel is asked
/// for the way, with the first reply, they go back the way the request came.
#[inline(always)]
fn open_reverse(
    env: impl Env,
    head: &Head<UDP_HEAD>,
    key: &FlowKey4,
    listener: &Listener,
    number: u16,
    reply: &FlowKey4,
) -> Result<NonNull<Line4>, Drop> {
    let hash = reply.hash(env.seed());
    let line = table::claim(env, hash).ok_or(Drop::TableFull)?;
    let back = key.reversed();
    let rewrite = Rewrite {
        new_src: back.src,
        new_dst: back.dst,
        new_ports: back.ports,
        mac: head.load_mac::<{ at::ETH_SRC }>(),
        link: env.link_of(env.ingress_ifindex()).unwrap_or(0),
        mode: Mode::from_bits(listener.mode),
        reverse: true,
        listener: listener.id,
        backend: number,
    };
    // SAFETY: the line is claimed by us and not published.
    unsafe { fill(env, line.as_ptr(), reply, &rewrite) };
    if table::publish(env, line, hash, rewrite.bits(env, key.udp)) {
        Ok(line)
    } else {
        // Another core took the same port in this moment; the client's next try finds another.
        Err(Drop::PortsExhausted)
    }
}

/// What a new line says about its packets.
struct Rewrite {
    new_src: u32,
    new_dst: u32,
    new_ports: u32,
    mac: [u8; 6],
    link: u8,
    mode: Mode,
    reverse: bool,
    listener: u16,
    backend: u16,
}

impl Rewrite {
    /// The bits of `meta`. A reply's line gets a route generation that is not the present one.
    #[inline(always)]
    fn bits(&self, env: impl Env, udp: bool) -> u32 {
        let link = env.link(u32::from(self.link & 0x3f));
        let generation = link.map_or(0, |link| link.route_generation);
        let generation = generation.wrapping_sub(u32::from(self.reverse)) & 0xff;
        (self.mode as u32) << MODE_SHIFT
            | if udp { UDP } else { 0 }
            | if self.reverse { REVERSE } else { 0 }
            | u32::from(self.link & 0x3f) << LINK_SHIFT
            | generation << GENERATION_SHIFT
    }
}

/// Writes everything but `meta` of a claimed line.
///
/// # Safety
/// `line` must be a line of the session table that the caller has claimed and not published.
#[inline(always)]
unsafe fn fill(env: impl Env, line: *mut Line4, key: &FlowKey4, rewrite: &Rewrite) {
    let addresses = difference32(key.src, rewrite.new_src) + difference32(key.dst, rewrite.new_dst);
    let ip_delta = if rewrite.mode as u8 == Mode::Tunnel as u8 {
        outer_constant(rewrite.new_src, rewrite.new_dst)
    } else {
        fold(addresses)
    };
    // SAFETY: by the caller's promise; nobody reads the fields before the line is published.
    unsafe {
        (*line).src = key.src;
        (*line).dst = key.dst;
        (*line).ports = key.ports;
        (*line).new_src = rewrite.new_src;
        (*line).new_dst = rewrite.new_dst;
        (*line).new_ports = rewrite.new_ports;
        (*line).ip_delta = ip_delta;
        (*line).l4_delta = fold(addresses + difference32(key.ports, rewrite.new_ports));
        (*line).mac = rewrite.mac;
        (*line).listener = rewrite.listener;
        (*line).backend = rewrite.backend;
        (*line).changes = 0;
        (*line).last_seen = env.jiffies();
        (*line).packets = 0;
        (*line).bytes = 0;
    }
}

#[inline(always)]
fn count_session(env: impl Env, listener: u16, backend: u16) {
    if let Some(counters) = env.listener_counters(listener) {
        // SAFETY: the environment gives this core's counters, which nobody else writes.
        unsafe { (*counters).sessions += 1 };
    }
    count_backend_session(env, backend);
}

#[inline(always)]
fn count_backend_session(env: impl Env, backend: u16) {
    if let Some(counters) = env.backend_counters(backend) {
        // SAFETY: as above.
        unsafe { (*counters).sessions += 1 };
    }
}

//! The first packet of a session: a backend is picked, a local port taken, both directions written.

pub mod across;

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::AcqRel;

use crate::across::Across;
use crate::checksum::{difference32, fold};
use crate::client;
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::event::{Event, EventKind};
use crate::family::{Addr6, Family, V4, V6};
use crate::forward::dropped;
use crate::hash::{self, FlowKey, reduce};
use crate::link::LINK_NONE;
use crate::load;
use crate::packet::{ETH_LEN, PROTO_TCP, PROTO_UDP, eth};
use crate::parse::Packet;
use crate::service::{
    BACKEND_ACCEPTS, Backend, Encapsulation, LOCAL_PORT_MIN, Listener, ListenerCounters,
    ListenerKey, Mode, PERSISTENT, Pick,
};
use crate::session::{
    ACK, ACROSS, COUNTED, ENDED, FIN, GENERATION_SHIFT, LINK_SHIFT, Line, MODE_SHIFT, REVERSE, RST,
    SEEN_SHIFT, SYN, UDP, seen,
};
use crate::table;
use crate::tunnel::{self, Kind, Tunnelled};

/// Local ports that are tried for a new session. With half of those towards its backend in use, about one session in a
/// million finds none; with three of four, one in 5,000; with nine of ten, one in 25.
const PORT_TRIES: u32 = 32;
/// So many of them are beside the first choice, on the same page or one near it. Were all there, runs of ports in use
/// would grow as they do under linear probing: with three of four in use, one session in 70 would find none.
const TRIES_BESIDE: u32 = 8;

/// Whether a SYN on a line means that the session has to be scheduled anew. A SYN on a closed session (RFC 9293,
/// section 3.6.1; nf_conntrack_proto_tcp.c treats it alike) starts it again on the same backend, if the listener stands
/// and the backend takes new sessions; if not, both lines are taken out of use.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
pub(crate) unsafe fn reopens<F: Across>(env: impl Env, line: *mut Line<F>) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        if meta & (REVERSE | UDP) != 0 {
            return false;
        }
        let mut mode = Mode::from_bits((meta >> MODE_SHIFT) as u8);
        let peer: Option<&AtomicU32> = match mode {
            Mode::Fullnat | Mode::Nat => {
                let key = (*line).peer_key();
                let peer = table::find(env, &key, key.hash(env.seed()));
                peer.map(|peer| &(*peer.as_ptr()).meta)
            }
            Mode::Tunnel if meta & ACROSS != 0 => {
                mode = Mode::Fullnat;
                F::peer(env, line).map(|peer| &(*peer).meta)
            }
            Mode::Dr | Mode::Tunnel => None,
        };
        let here = seen(meta);
        let there = peer.map_or(0, |peer| seen(peer.as_ptr().read_volatile()));
        let closed = (here | there) & (FIN | RST) != 0;
        let ended = (*line).changes & ENDED != 0;
        if !closed && !ended && here & ACK != 0 {
            return false;
        }
        // The rules may have changed since: the listener is gone or of another kind, the backend takes nothing new.
        let key = (*line).key();
        let listener_key = ListenerKey {
            addr: F::widen(key.dst),
            port: key.dst_port(),
            proto: PROTO_TCP,
            zero: 0,
        };
        let listener = env.listener(&listener_key).filter(|listener| {
            listener.id == (*line).listener
                && listener.mode == mode as u8
                && listener.table_len != 0
        });
        let accepts = env
            .backend((*line).backend)
            .is_some_and(|backend| backend.flags & BACKEND_ACCEPTS != 0);
        let Some(listener) = listener.filter(|_| accepts && !ended) else {
            table::retire(line);
            if let Some(peer) = peer {
                table::retire_state(peer);
            }
            return true;
        };
        if closed {
            // User space may have taken it off already; it does so once the flags say that the session is closed.
            if listener.counts() && (*line).changes & COUNTED == 0 {
                (*line).changes = COUNTED;
                load::add(env, (*line).backend);
            }
            (*line).meta.fetch_and(!(0xff << SEEN_SHIFT), AcqRel);
            if let Some(peer) = peer {
                peer.fetch_and(!(0xff << SEEN_SHIFT), AcqRel);
            }
            count_session(env, (*line).listener, (*line).backend);
        }
        false
    }
}

/// What is known of a session that is being opened. It is in memory of the core's own, one step after the other adds to it:
/// all functions of a BPF program together have a stack of 512 bytes, and keys of IPv6 are large.
#[repr(C)]
#[derive(Debug)]
pub struct Opening<F: Family> {
    /// The packet that opens it.
    key: FlowKey<F>,
    /// What replies will look like, where they come back through us.
    reply: FlowKey<F>,
    new_src: F::Addr,
    new_dst: F::Addr,
    new_ports: u32,
    /// In tunnel mode, what the line has in place of the differences.
    ip_delta: u16,
    l4_delta: u16,
    flags: u8,
    /// The interface that the packet came in by, as its index in `LINKS`.
    link: u8,
    /// Offset of the TCP or UDP header.
    l4: u16,
    /// The backend's number.
    number: u16,
    hash: u64,
    reply_hash: u64,
    /// How the steps went that come before the table is touched.
    code: u32,
    listener: Listener,
    backend: Backend,
    /// Where the packet came from: the next hop of replies, until the kernel is asked for it.
    mac: [u8; 6],
}

/// A step of opening has gone well.
const DONE: u32 = 0;
/// There is no listener: the packet is the kernel's.
const PASS: u32 = u32::MAX;
/// The backend is of the other family: [`across`] goes on.
const LEADS_ACROSS: u32 = u32::MAX - 1;

/// A step has not: why.
#[inline(always)]
fn failed(reason: Drop) -> u32 {
    reason as u32 + 1
}

/// Works out the session that a packet to a listener would open, and nothing else: it may have one. True if it has none,
/// for sure: the first look at its line shows that.
#[inline(always)]
pub(crate) fn prepare<F: Tunnelled>(env: impl Env, packet: &Packet<F>, hash: u64) -> bool {
    note(env, packet, hash, ETH_LEN + F::IP_LEN);
    work_out::<F>(env)
}

/// The first part of [`prepare`]: notes what the packet says; `l4` is the offset of its TCP or UDP header.
#[inline(always)]
pub(crate) fn note<F: Tunnelled>(env: impl Env, packet: &Packet<F>, hash: u64, l4: usize) {
    let Some(opening) = F::opening(env) else {
        return;
    };
    // SAFETY: the environment gave this core's memory, which nobody else uses while the packet is on its way.
    let opening = unsafe { &mut *opening };
    opening.key = packet.key;
    opening.flags = packet.flags;
    opening.hash = hash;
    opening.l4 = l4 as u16;
    opening.mac = packet.eth.load_mac::<{ eth::SRC }>();
}

/// The second part of [`prepare`]: works out what follows from that.
#[inline(always)]
pub(crate) fn work_out<F: Tunnelled>(env: impl Env) -> bool {
    let Some(opening) = F::opening(env) else {
        return false;
    };
    // SAFETY: as above.
    let opening = unsafe { &mut *opening };
    let mut code = choose(env, opening);
    if code != PASS && opening.listener.quic != 0 {
        code = follow_connection(env, opening, code);
    }
    if code == DONE {
        code = if opening.listener.mode == Mode::Tunnel as u8 {
            aim_tunnel(env, opening)
        } else {
            aim(env, opening)
        };
    }
    opening.code = code;
    table::is_free_at_first_sight::<F>(env, opening.hash)
}

/// Takes the backend that the packet's connection id names, in place of the scheduler's, also if it takes nothing new: the
/// connection is there already, and only the client's address is another one. Otherwise all stays, `code` as well. Here and
/// not in [`choose`], which is a function deeper in the stack.
#[inline(always)]
fn follow_connection<F: Tunnelled>(env: impl Env, opening: &mut Opening<F>, code: u32) -> u32 {
    if !opening.key.udp {
        return code;
    }
    let pool = opening.listener.pool as u16;
    let number = env.quic_backend(pool, opening.l4.into()) as u16;
    let Some(backend) = env.backend(number).filter(|_| number != 0) else {
        return code;
    };
    opening.number = number;
    opening.backend = backend;
    if backend.link == LINK_NONE {
        failed(Drop::NoNextHop)
    } else {
        DONE
    }
}

/// Opens the session that [`prepare`] has worked out: the line of the packet's direction, or the bits of a verdict. Both are
/// eight bytes: of a verdict the compiler would make halves, and put the line's address on the stack as such.
#[inline(always)]
pub(crate) fn session<F: Tunnelled>(env: impl Env) -> Result<*mut Line<F>, u64> {
    let opening = F::opening(env).ok_or(Verdict::Drop.bits())?;
    // SAFETY: as in `prepare`.
    let opening = unsafe { &mut *opening };
    let mut code = opening.code;
    if code == DONE && has_replies(opening) {
        code = open_replies(env, opening);
    }
    if code != DONE {
        return Err(refuse(env, opening, code).bits());
    }
    match open_requests(env, opening) {
        Some(line) => Ok(line.as_ptr()),
        None => Err(refuse(env, opening, failed(Drop::TableFull)).bits()),
    }
}

/// What becomes of the packet if a step failed.
#[inline(always)]
fn refuse<F: Tunnelled>(env: impl Env, opening: &Opening<F>, code: u32) -> Verdict {
    let Some(reason) = code.checked_sub(1).and_then(Drop::from_number) else {
        return if code == LEADS_ACROSS {
            Verdict::Across { opens: true }
        } else {
            Verdict::Pass
        };
    };
    let kind = match reason {
        Drop::PortsExhausted => Some(EventKind::PortsExhausted),
        Drop::TableFull => Some(EventKind::TableFull),
        _ => None,
    };
    if let Some(kind) = kind {
        env.tell(Event {
            kind: kind as u32,
            ifindex: 0,
            addr: F::widen(opening.key.dst),
            listener: u32::from(opening.listener.id),
        });
    }
    dropped(env, opening.listener.id, reason)
}

/// Whether replies come back through us.
#[inline(always)]
fn has_replies<F: Tunnelled>(opening: &Opening<F>) -> bool {
    let mode = opening.listener.mode;
    mode == Mode::Fullnat as u8 || mode == Mode::Nat as u8
}

/// The first step: the listener, and whose turn it is.
#[inline(never)]
fn choose<F: Tunnelled>(env: impl Env, opening: &mut Opening<F>) -> u32 {
    let key = &opening.key;
    let Some(listener) = env.listener(&ListenerKey {
        addr: F::widen(key.dst),
        port: key.dst_port(),
        proto: if key.udp { PROTO_UDP } else { PROTO_TCP },
        zero: 0,
    }) else {
        return PASS;
    };
    opening.listener = *listener;
    if !key.udp && opening.flags != SYN {
        return failed(Drop::NoSession);
    }
    if listener.table_len == 0 {
        return failed(Drop::NoBackend);
    }
    let Some(counters) = env.listener_counters(listener.id) else {
        return failed(Drop::NoBackend);
    };
    let number = if listener.pick <= Pick::HashAddressPort as u8 {
        // SAFETY: the environment gave this core's counters, which nobody else writes.
        let slot = unsafe { pick(counters, listener, key) };
        env.slot(listener.table_base + slot)
    } else {
        // SAFETY: as above.
        unsafe { remembered(env, counters, listener, key, opening.hash) }
    };
    let Some(number) = number else {
        return failed(Drop::NoBackend);
    };
    let Some(backend) = env.backend(number) else {
        return failed(Drop::NoBackend);
    };
    opening.number = number;
    opening.backend = backend;
    if backend.link == LINK_NONE {
        return failed(Drop::NoNextHop);
    }
    DONE
}

/// The second step: what packets are rewritten to.
#[inline(never)]
fn aim<F: Tunnelled>(env: impl Env, opening: &mut Opening<F>) -> u32 {
    let key = &opening.key;
    let Some(backend) = F::narrow(opening.backend.addr) else {
        return if opening.listener.mode == Mode::Fullnat as u8 {
            LEADS_ACROSS
        } else {
            failed(Drop::NoBackend)
        };
    };
    let backend_port = u32::from(opening.backend.port);
    match Mode::from_bits(opening.listener.mode) {
        Mode::Fullnat => {
            let Some(local) = local::<F>(env, opening.hash) else {
                return failed(Drop::PortsExhausted);
            };
            opening.reply = FlowKey {
                src: backend,
                dst: local,
                ports: backend_port,
                udp: key.udp,
            };
            let slice = hash::slice(opening.hash).wrapping_add(beside(F::sets(env)));
            let base = opening.reply.base(env.seed());
            let mut port = u32::from(hash::port_in_slice(base.with_ports(backend_port), slice));
            opening.reply_hash = base.with_ports(backend_port | port << 16);
            if !is_local_port(port as u16)
                || !table::is_free_at_first_sight::<F>(env, opening.reply_hash)
            {
                port = free_port(env, &opening.reply, course(opening.hash, slice));
                if port == 0 {
                    return failed(Drop::PortsExhausted);
                }
                opening.reply_hash = base.with_ports(backend_port | port << 16);
            }
            opening.reply.ports = backend_port | port << 16;
            opening.new_src = local;
            opening.new_dst = backend;
            opening.new_ports = port | backend_port << 16;
        }
        Mode::Nat => {
            let new_ports = key.ports & 0xffff | backend_port << 16;
            opening.reply = FlowKey {
                src: backend,
                dst: key.src,
                ports: new_ports.rotate_left(16),
                udp: key.udp,
            };
            let reply = &opening.reply;
            opening.reply_hash = reply.hash(env.seed());
            if F::find(env, reply, opening.reply_hash) != 0 {
                // The same client port talks to this backend through another VIP.
                return failed(Drop::PortsExhausted);
            }
            opening.new_src = key.src;
            opening.new_dst = backend;
            opening.new_ports = new_ports;
        }
        Mode::Dr => {
            opening.new_src = key.src;
            opening.new_dst = key.dst;
            opening.new_ports = key.ports;
        }
        Mode::Tunnel => return failed(Drop::NoBackend),
    }
    DONE
}

/// The second step in tunnel mode: the outer header.
#[inline(never)]
fn aim_tunnel<F: Tunnelled>(env: impl Env, opening: &mut Opening<F>) -> u32 {
    let listener = &opening.listener;
    let encapsulation = Encapsulation::from_bits(listener.encapsulation);
    // Other bits than those that local addresses are picked by.
    let spread = (opening.hash >> 32) as u32 ^ opening.hash as u32;
    // Ports from 49152 on are for the like (RFC 6335, section 6).
    opening.new_ports =
        u32::from((0xc000 | spread as u16).to_be()) | u32::from(listener.tunnel_port) << 16;
    let mask = ((1u64 << (listener.source_bits & 63)) - 1) as u32;
    let [a, b, c, d] = listener.source;
    let source = [a, b, c, d & !mask.to_be() | (spread & mask).to_be()];
    let has_source = a | b | c | d != 0;
    let backend = opening.backend.addr;
    if let Some(dst) = V4::narrow(backend) {
        let src = if has_source {
            V4::narrow(source)
        } else {
            local::<V4>(env, opening.hash)
        };
        let Some(src) = src else {
            return failed(Drop::PortsExhausted);
        };
        opening.new_src = F::hold4(src);
        opening.new_dst = F::hold4(dst);
        let protocol = tunnel::protocol(encapsulation, F::IN_IP);
        opening.ip_delta = tunnel::constant(protocol, src, dst);
        opening.l4_delta = encapsulation as u16;
    } else {
        let at = reduce(opening.hash as u32, env.settings().locals6);
        let (src, place) = if has_source {
            (Some(Addr6::from_words(source)), 0)
        } else {
            (local::<V6>(env, opening.hash), at + 1)
        };
        let Some(src) = src else {
            return failed(Drop::PortsExhausted);
        };
        let (src, dst) = F::hold6(src, Addr6::from_words(backend), place);
        opening.new_src = src;
        opening.new_dst = dst;
        opening.ip_delta = 0;
        opening.l4_delta = encapsulation as u16 | Kind::OUTER_IPV6;
    }
    DONE
}
/// The third step, where replies come back through us: claims, fills and publishes their line. Until the kernel is asked
/// for the way, with the first reply, they go back the way the request came.
#[inline(never)]
fn open_replies<F: Tunnelled>(env: impl Env, opening: &mut Opening<F>) -> u32 {
    let hash = opening.reply_hash;
    let Some(claimed) = table::claim(env, hash) else {
        return failed(Drop::TableFull);
    };
    opening.link = env.link_of(env.ingress_ifindex()).unwrap_or(0);
    let back = opening.key.reversed();
    let rewrite = Rewrite {
        new_src: back.src,
        new_dst: back.dst,
        new_ports: back.ports,
        mac: opening.mac,
        link: opening.link,
        mode: Mode::from_bits(opening.listener.mode),
        reverse: true,
        listener: opening.listener.id,
        backend: opening.number,
        counted: false,
    };
    // SAFETY: the line is claimed by us and not published.
    unsafe { fill(env, claimed.line.as_ptr(), &opening.reply, &rewrite) };
    if table::publish(env, &claimed, hash, rewrite.bits(env, opening.key.udp)) {
        DONE
    } else {
        // Another core took the same port in this moment; the client's next try finds another.
        failed(Drop::PortsExhausted)
    }
}

/// The last step: claims, fills and publishes the line of the packet itself, and counts the session.
#[inline(never)]
fn open_requests<F: Tunnelled>(
    env: impl Env,
    opening: &mut Opening<F>,
) -> Option<NonNull<Line<F>>> {
    let hash = opening.hash;
    let Some(claimed) = table::claim(env, hash) else {
        retire_replies(env, opening);
        return None;
    };
    let rewrite = Rewrite {
        new_src: opening.new_src,
        new_dst: opening.new_dst,
        new_ports: opening.new_ports,
        mac: opening.backend.mac,
        link: opening.backend.link,
        mode: Mode::from_bits(opening.listener.mode),
        reverse: false,
        listener: opening.listener.id,
        backend: opening.number,
        counted: opening.listener.counts(),
    };
    // SAFETY: the line is claimed by us and not published.
    unsafe {
        fill(env, claimed.line.as_ptr(), &opening.key, &rewrite);
        if opening.listener.mode == Mode::Tunnel as u8 {
            (*claimed.line.as_ptr()).ip_delta = opening.ip_delta;
            (*claimed.line.as_ptr()).l4_delta = opening.l4_delta;
        }
    }
    if rewrite.counted {
        // Before it is published: user space takes off whatever it finds marked.
        load::add(env, opening.number);
    }
    if !table::publish(env, &claimed, hash, rewrite.bits(env, opening.key.udp)) {
        // Another core has opened the same session in this moment.
        retire_replies(env, opening);
        return table::find(env, &opening.key, hash);
    }
    count_session(env, opening.listener.id, opening.number);
    Some(claimed.line)
}

/// The packet's own line could not be opened: takes that of the replies back.
#[inline(never)]
fn retire_replies<F: Tunnelled>(env: impl Env, opening: &Opening<F>) -> u32 {
    if has_replies(opening) {
        let reply = &opening.reply;
        if let Some(line) = table::find(env, reply, opening.reply_hash) {
            table::retire(line.as_ptr());
        }
    }
    DONE
}

/// The backend of a client that the pool remembers; else one by load, or as [`pick`] says.
///
/// # Safety
/// As for `pick`.
#[inline(always)]
unsafe fn remembered<F: Tunnelled>(
    env: impl Env,
    counters: *mut ListenerCounters,
    listener: &Listener,
    key: &FlowKey<F>,
    hash: u64,
) -> Option<u16> {
    let now = env.jiffies();
    let mut tag = 0;
    let mut expires = 0;
    if listener.pick & PERSISTENT != 0 {
        // SAFETY: an element lives as long as the map.
        let pool = unsafe { &*env.pool(listener.pool)? };
        tag = client::tag(F::widen(key.src), pool, env.seed());
        expires = now.wrapping_add(pool.timeout);
        let known = env.known_client(tag, pool.name, now);
        if known != 0 {
            env.remember_client(tag, client::word(expires, known), now);
            return Some(known);
        }
    }
    let (base, len) = (listener.table_base, listener.table_len);
    let number = match listener.pick() {
        pick if pick == Pick::LeastLoaded as u8 => {
            env.least(base, len, reduce(load::draw(hash, now) as u32, len))
        }
        pick if pick == Pick::TwoChoices as u8 => {
            env.lighter_of_two(base, len, load::draw(hash, now))
        }
        // SAFETY: by the caller's promise.
        _ => env.slot(base + unsafe { pick(counters, listener, key) })?,
    };
    if number == 0 {
        return None;
    }
    if listener.pick & PERSISTENT != 0 {
        env.remember_client(tag, client::word(expires, number), now);
    }
    Some(number)
}

/// Index into the listener's scheduling table.
///
/// # Safety
/// `counters` must be this core's counters of the listener.
#[inline(always)]
unsafe fn pick<F: Tunnelled>(
    counters: *mut ListenerCounters,
    listener: &Listener,
    key: &FlowKey<F>,
) -> u32 {
    if listener.pick() == Pick::Next as u8 {
        // SAFETY: by the caller's promise.
        unsafe {
            let turn = (*counters).turn as u32;
            let turn = if turn >= listener.table_len { 0 } else { turn };
            (*counters).turn = u64::from(turn + 1);
            turn
        }
    } else {
        let address_alone = listener.pick() == Pick::HashAddress as u8;
        let port = if address_alone { 0 } else { key.src_port() };
        reduce(hash::client::<F>(key.src, port), listener.table_len)
    }
}

/// A local address for the flow with this hash.
#[inline(always)]
fn local<F: Tunnelled>(env: impl Env, hash: u64) -> Option<F::Addr> {
    let locals = F::locals(env.settings());
    F::local(env, reduce(hash as u32, locals)).filter(|_| locals != 0)
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

/// Where a local port is looked for: in the upper half the slice of the first choice; in the lower half, odd, so that it leads
/// to every slice, the step between those that are far away.
#[inline(always)]
fn course(hash: u64, slice: u16) -> u32 {
    u32::from(slice) << 16 | u32::from(hash as u16 | 1)
}

/// A local port, so that the flow of replies to it is free; network byte order, 0 if there is none. `reply` has everything
/// but the port, which is its destination's. The first choice is the one that puts the replies' line into the slice of the
/// [`course`]; then those of the slices around it; then others, each session by a step of its own.
#[inline(never)]
fn free_port<F: Tunnelled>(env: impl Env, reply: &FlowKey<F>, mut course: u32) -> u32 {
    let base = reply.base(env.seed());
    let bare = base.with_ports(reply.ports);
    let mut tries = 0u32;
    while tries < PORT_TRIES {
        let port = hash::port_in_slice(bare, (course >> 16) as u16);
        if is_local_port(port) {
            let ports = reply.ports | u32::from(port) << 16;
            let reply = FlowKey { ports, ..*reply };
            if F::find(env, &reply, base.with_ports(ports)) == 0 {
                return u32::from(port);
            }
        }
        tries += 1;
        course = if tries >= TRIES_BESIDE {
            course.wrapping_add(course << 16)
        } else if tries & 1 == 1 {
            // One further, two back, three further, and so on.
            course.wrapping_add(tries << 16)
        } else {
            course.wrapping_sub(tries << 16)
        };
    }
    0
}

/// Whether FullNAT takes this port, in network byte order.
#[inline(always)]
fn is_local_port(port: u16) -> bool {
    u16::from_be(port) >= LOCAL_PORT_MIN
}

/// What a new line says about its packets.
struct Rewrite<F: Tunnelled> {
    new_src: F::Addr,
    new_dst: F::Addr,
    new_ports: u32,
    mac: [u8; 6],
    link: u8,
    mode: Mode,
    reverse: bool,
    listener: u16,
    backend: u16,
    /// Whether schedulers count the session.
    counted: bool,
}

impl<F: Tunnelled> Rewrite<F> {
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
unsafe fn fill<F: Tunnelled>(
    env: impl Env,
    line: *mut Line<F>,
    key: &FlowKey<F>,
    rewrite: &Rewrite<F>,
) {
    let addresses =
        F::difference(key.src, rewrite.new_src) + F::difference(key.dst, rewrite.new_dst);
    // SAFETY: by the caller's promise; nobody reads the fields before the line is published.
    unsafe {
        (*line).src = key.src;
        (*line).dst = key.dst;
        (*line).ports = key.ports;
        (*line).new_src = rewrite.new_src;
        (*line).new_dst = rewrite.new_dst;
        (*line).new_ports = rewrite.new_ports;
        (*line).ip_delta = fold(addresses);
        (*line).l4_delta = fold(addresses + difference32(key.ports, rewrite.new_ports));
        (*line).mac = rewrite.mac;
        (*line).listener = rewrite.listener;
        (*line).backend = rewrite.backend;
        (*line).changes = if rewrite.counted { COUNTED } else { 0 };
        (*line).last_seen = env.jiffies();
        // Volatile: else the compiler calls a function that clears memory byte by byte.
        (&raw mut (*line).packets).write_volatile(0);
        (&raw mut (*line).bytes).write_volatile(0);
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

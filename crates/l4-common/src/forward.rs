//! The way of a packet: parsed, found, rewritten, counted, sent.

use core::sync::atomic::Ordering::AcqRel;

use crate::checksum;
use crate::drop::Drop;
use crate::env::{Env, NextHop, Verdict};
use crate::event::{Event, EventKind};
use crate::frame::{Frame, Head};
use crate::hash::FlowKey4;
use crate::link::{LINK_NONE, Link};
use crate::open;
use crate::packet::{
    DONT_FRAGMENT, ETH_LEN, ETHERTYPE_IPV4, FRAGMENT_MASK, FRAGMENT_OFFSET, IPV4_LEN, IPV4_PLAIN,
    PROTO_ICMP, PROTO_IPIP, PROTO_TCP, PROTO_UDP, TCP_HEAD, UDP_HEAD, at,
};
use crate::service::{ListenerKey, Mode, mapped};
use crate::session::{
    ACK, FIN, GENERATION_SHIFT, LINK_MASK, LINK_SHIFT, Line4, MODE_SHIFT, Place, REVERSE, RST,
    SEEN_SHIFT, SYN, UDP, seen,
};
use crate::table::AtHome;
use crate::{ping, table};

/// Bytes that tunnel mode puts in front of the packet.
pub const OUTER_LEN: usize = IPV4_LEN;
/// Time to live of outer headers; the kernel's default for what it sends.
pub const OUTER_TTL: u8 = 64;

/// A whole TCP or UDP packet without IPv4 options.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) frame: Frame,
    pub(crate) head: Head<UDP_HEAD>,
    pub(crate) key: FlowKey4,
    /// TCP flags FIN, SYN, RST and ACK; 0 for UDP.
    pub(crate) flags: u8,
}

/// Every other packet.
enum Other {
    /// Nothing that we know.
    Foreign,
    Icmp,
    /// A fragment, or a packet with IPv4 options.
    Unusual,
    /// Lengths contradict each other.
    Malformed,
}

impl Packet {
    #[inline(always)]
    fn parse(env: impl Env) -> Result<Self, Other> {
        let frame = env.frame();
        let head = frame.head::<UDP_HEAD>().ok_or(Other::Foreign)?;
        if head.load::<{ at::ETHERTYPE }, u16>() != ETHERTYPE_IPV4 {
            return Err(Other::Foreign);
        }
        let plain = head.load::<{ at::IP_VERSION }, u8>() == IPV4_PLAIN;
        let whole = head.load::<{ at::IP_FRAGMENT }, u16>() & FRAGMENT_MASK == 0;
        if !plain || !whole {
            return Err(Other::Unusual);
        }
        let udp = match head.load::<{ at::IP_PROTO }, u8>() {
            PROTO_TCP => false,
            PROTO_UDP => true,
            PROTO_ICMP => return Err(Other::Icmp),
            _ => return Err(Other::Foreign),
        };
        let l4_len = if udp { UDP_HEAD } else { TCP_HEAD } - ETH_LEN;
        let ip_len = usize::from(u16::from_be(head.load::<{ at::IP_LEN }, u16>()));
        if ip_len < l4_len || ip_len + ETH_LEN > frame.len() {
            return Err(Other::Malformed);
        }
        let mut flags = 0;
        if !udp {
            let tcp = frame.head::<TCP_HEAD>().ok_or(Other::Malformed)?;
            flags = tcp.load::<{ at::TCP_FLAGS }, u8>() & (FIN | SYN | RST | ACK);
        }
        let key = FlowKey4 {
            src: head.load::<{ at::IP_SRC }, u32>(),
            dst: head.load::<{ at::IP_DST }, u32>(),
            ports: head.load::<{ at::PORTS }, u32>(),
            udp,
        };
        Ok(Self {
            frame,
            head,
            key,
            flags,
        })
    }
}

/// Decides on one packet, and rewrites it where it is ours.
///
/// What only few packets need is in functions of their own, which begin with the packet again: what they want of
/// stack and registers then costs the others nothing.
#[inline(always)]
pub fn forward(env: impl Env) -> Verdict {
    let packet = match Packet::parse(env) {
        Ok(packet) => packet,
        Err(Other::Foreign) => return Verdict::Pass,
        Err(Other::Icmp) => return Verdict::from_bits(ping::answer(env)),
        Err(Other::Unusual) => return Verdict::from_bits(unusual(env)),
        Err(Other::Malformed) => return Verdict::from_bits(malformed(env)),
    };
    let hash = packet.key.hash(env.seed());
    match table::find_at_home(env, &packet.key, &Place::of(hash, env.sets())) {
        // SAFETY: the table found the line, and lines never leave its memory; this direction of the session is the
        // only writer of the line.
        AtHome::Line(line) if packet.flags != SYN => unsafe { rewrite(env, &packet, line) },
        AtHome::Absent => Verdict::from_bits(open(env, hash)),
        _ => match search(env, hash) {
            NOT_FOUND => Verdict::from_bits(open(env, hash)),
            verdict => Verdict::from_bits(verdict),
        },
    }
}

/// What [`search`] answers when the flow has no line.
const NOT_FOUND: u64 = u64::MAX;

/// A packet whose line may be in another set than its home, or a SYN of a flow that has a line.
#[inline(never)]
fn search(env: impl Env, hash: u64) -> u64 {
    let Ok(packet) = Packet::parse(env) else {
        return Verdict::Pass.bits();
    };
    match table::find(env, &packet.key, &Place::of(hash, env.sets())) {
        // SAFETY: the table found the line.
        Some(line) if packet.flags != SYN || unsafe { !open::reopens(env, line) } => {
            // SAFETY: as in `forward`.
            unsafe { rewrite(env, &packet, line) }.bits()
        }
        _ => NOT_FOUND,
    }
}

/// A packet of a flow that has no line.
#[inline(never)]
fn open(env: impl Env, hash: u64) -> u64 {
    let Ok(packet) = Packet::parse(env) else {
        return Verdict::Pass.bits();
    };
    match open::session(env, &packet, hash) {
        // SAFETY: as in `forward`.
        Ok(line) => unsafe { rewrite(env, &packet, line) },
        Err(verdict) => verdict,
    }
    .bits()
}

/// Rewrites a packet of a live line, counts it, and says where it goes.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
unsafe fn rewrite(env: impl Env, packet: &Packet, line: *mut Line4) -> Verdict {
    let Packet {
        frame, head, flags, ..
    } = packet;
    // SAFETY: by the caller's promise. Single fields are read and written through the pointer: no reference to the
    // whole line is held while other cores read it.
    unsafe {
        let mut meta = (*line).meta();
        let Some(mut link) = env.link((meta & LINK_MASK) >> LINK_SHIFT) else {
            return Verdict::Drop;
        };
        if meta >> GENERATION_SHIFT & 0xff != link.route_generation & 0xff {
            refresh_next_hop(env, line);
            meta = (*line).meta();
            let Some(next) = env.link((meta & LINK_MASK) >> LINK_SHIFT) else {
                return Verdict::Drop;
            };
            link = next;
        }
        if link.ifindex == 0 {
            return dropped(env, (*line).listener, Drop::NoNextHop);
        }
        let length = frame.len();
        let ttl = head.load::<{ at::IP_TTL }, u8>();
        if ttl <= 1 {
            return dropped(env, (*line).listener, Drop::TtlExpired);
        }
        let tunnel = meta >> MODE_SHIFT & 3 == Mode::Tunnel as u32;
        (*line).last_seen = env.jiffies();
        (*line).packets += 1;
        (*line).bytes += length as u64;
        if meta & UDP == 0 {
            // The byte of the flags seen is written by this direction alone; a reset that was followed by other
            // packets was none.
            let seen_byte = (&raw mut (*line).meta).cast::<u8>().add(3);
            seen_byte.write_volatile(seen(meta) & !RST | *flags);
        }

        // One less in the first byte of its word: as a difference, 0xfeff in network byte order.
        head.store::<{ at::IP_TTL }, u8>(ttl - 1);
        const TTL_DELTA: u32 = 0xfeffu16.to_be() as u32;
        if !tunnel {
            let delta = TTL_DELTA + u32::from((*line).ip_delta);
            let delta = ((delta & 0xffff) + (delta >> 16)) as u16;
            head.store::<{ at::IP_CHECKSUM }, u16>(checksum::apply(
                head.load::<{ at::IP_CHECKSUM }, u16>(),
                delta,
            ));
            head.store::<{ at::IP_SRC }, u32>((*line).new_src);
            head.store::<{ at::IP_DST }, u32>((*line).new_dst);
            head.store::<{ at::PORTS }, u32>((*line).new_ports);
            if meta & UDP == 0 {
                let Some(tcp) = frame.head::<TCP_HEAD>() else {
                    return Verdict::Drop;
                };
                let old = tcp.load::<{ at::TCP_CHECKSUM }, u16>();
                tcp.store::<{ at::TCP_CHECKSUM }, u16>(checksum::apply(old, (*line).l4_delta));
            } else {
                let old = head.load::<{ at::UDP_CHECKSUM }, u16>();
                // Zero says that there is no checksum (RFC 768), and a computed zero is sent as all ones.
                if old != 0 {
                    let new = checksum::apply(old, (*line).l4_delta);
                    head.store::<{ at::UDP_CHECKSUM }, u16>(if new == 0 { 0xffff } else { new });
                }
            }
            head.store_mac::<{ at::ETH_DST }>((*line).mac);
            head.store_mac::<{ at::ETH_SRC }>(link.mac);
            return send(env, &link);
        }
        let old = head.load::<{ at::IP_CHECKSUM }, u16>();
        head.store::<{ at::IP_CHECKSUM }, u16>(checksum::apply(old, TTL_DELTA as u16));
        encapsulate(env, head, line, &link)
    }
}

/// Puts the outer header of tunnel mode in front (RFC 2003).
///
/// # Safety
/// As for `rewrite`.
#[inline(always)]
unsafe fn encapsulate(
    env: impl Env,
    head: &Head<UDP_HEAD>,
    line: *mut Line4,
    link: &Link,
) -> Verdict {
    let tos = head.load::<{ at::IP_TOS }, u8>();
    let id = head.load::<{ at::IP_ID }, u16>();
    let dont_fragment = head.load::<{ at::IP_FRAGMENT }, u16>() & DONT_FRAGMENT;
    // SAFETY: by the caller's promise.
    let (new_src, new_dst, constant, mac, listener) = unsafe {
        (
            (*line).new_src,
            (*line).new_dst,
            (*line).ip_delta,
            (*line).mac,
            (*line).listener,
        )
    };
    let outer_len = u32::from(u16::from_be(head.load::<{ at::IP_LEN }, u16>())) + OUTER_LEN as u32;
    if outer_len > u32::from(link.mtu) {
        return dropped(env, listener, Drop::TooBig);
    }
    if !env.move_start(-(OUTER_LEN as i32)) {
        return dropped(env, listener, Drop::NoHeadroom);
    }
    let frame = env.frame();
    let Some(outer) = frame.head::<{ ETH_LEN + OUTER_LEN }>() else {
        return Verdict::Drop;
    };
    let outer_len = (outer_len as u16).to_be();
    outer.store_mac::<{ at::ETH_DST }>(mac);
    outer.store_mac::<{ at::ETH_SRC }>(link.mac);
    outer.store::<{ at::ETHERTYPE }, u16>(ETHERTYPE_IPV4);
    outer.store::<{ at::IP_VERSION }, u8>(IPV4_PLAIN);
    outer.store::<{ at::IP_TOS }, u8>(tos);
    outer.store::<{ at::IP_LEN }, u16>(outer_len);
    outer.store::<{ at::IP_ID }, u16>(id);
    outer.store::<{ at::IP_FRAGMENT }, u16>(dont_fragment);
    outer.store::<{ at::IP_TTL }, u8>(OUTER_TTL);
    outer.store::<{ at::IP_PROTO }, u8>(PROTO_IPIP);
    let tos_word = u16::from_ne_bytes([0, tos]);
    let sum = u64::from(constant)
        + u64::from(tos_word)
        + u64::from(outer_len)
        + u64::from(id)
        + u64::from(dont_fragment);
    outer.store::<{ at::IP_CHECKSUM }, u16>(!checksum::fold(sum));
    outer.store::<{ at::IP_SRC }, u32>(new_src);
    outer.store::<{ at::IP_DST }, u32>(new_dst);
    send(env, link)
}

/// The folded sum of what is the same in every outer header of a session: version, time to live, protocol, addresses.
#[inline(always)]
pub fn outer_constant(src: u32, dst: u32) -> u16 {
    let fixed = u64::from(u16::from_ne_bytes([IPV4_PLAIN, 0]))
        + u64::from(u16::from_ne_bytes([OUTER_TTL, PROTO_IPIP]));
    checksum::fold(fixed + u64::from(src) + u64::from(dst))
}

#[inline(always)]
fn send(env: impl Env, link: &Link) -> Verdict {
    if link.ifindex == env.ingress_ifindex() {
        Verdict::Transmit
    } else {
        Verdict::Redirect(link.ifindex)
    }
}

/// Counts a packet that is dropped: by its reason and for its listener.
#[inline(always)]
pub(crate) fn dropped(env: impl Env, listener: u16, reason: Drop) -> Verdict {
    env.count_drop(reason);
    if let Some(counters) = env.listener_counters(listener) {
        // SAFETY: the environment gave this core's counters, which nobody else writes.
        unsafe { (*counters).drops += 1 };
    }
    Verdict::Drop
}

/// Takes the next hop of a line anew, after routes or neighbours have changed.
///
/// # Safety
/// As for `rewrite`.
#[inline(never)]
unsafe fn refresh_next_hop(env: impl Env, line: *mut Line4) {
    // SAFETY: by the caller's promise; only this direction writes the line's next hop.
    unsafe {
        let next = if (*line).meta() & REVERSE == 0 {
            env.backend((*line).backend)
                .filter(|backend| backend.link != LINK_NONE)
                .map(|backend| (backend.mac, backend.link))
        } else {
            match env.next_hop((*line).new_src, (*line).new_dst) {
                NextHop::Found { ifindex, mac } => env.link_of(ifindex).map(|link| (mac, link)),
                NextHop::NoNeighbour { ifindex, addr } => {
                    let kind = EventKind::NeighbourWanted as u32;
                    env.tell(Event {
                        kind,
                        ifindex,
                        addr,
                        listener: 0,
                    });
                    None
                }
                NextHop::None => None,
            }
        };
        // Without an answer the old next hop stays: for replies, the way the request came.
        if let Some((mac, link)) = next {
            (*line).mac = mac;
            (*line).meta.fetch_and(!LINK_MASK, AcqRel);
            (*line)
                .meta
                .fetch_or(u32::from(link) << LINK_SHIFT & LINK_MASK, AcqRel);
        }
        let link = env.link(((*line).meta() & LINK_MASK) >> LINK_SHIFT);
        let generation = link.map_or(0, |link| link.route_generation) as u8;
        (&raw mut (*line).meta)
            .cast::<u8>()
            .add(2)
            .write_volatile(generation);
    }
}

/// Drops a packet whose lengths contradict each other, where it is for a listener.
#[inline(never)]
fn malformed(env: impl Env) -> u64 {
    match env.frame().head::<UDP_HEAD>() {
        Some(head) => refuse(
            env,
            &head,
            head.load::<{ at::PORTS + 2 }, u16>(),
            Drop::Malformed,
        ),
        None => Verdict::Pass,
    }
    .bits()
}

/// Packets with IPv4 options, and first fragments: dropped where they are for a listener, as no session can be
/// found for what follows them.
#[inline(never)]
fn unusual(env: impl Env) -> u64 {
    let frame = env.frame();
    let Some(head) = frame.head::<UDP_HEAD>() else {
        return Verdict::Pass.bits();
    };
    let version = head.load::<{ at::IP_VERSION }, u8>();
    let header_len = usize::from(version & 0xf) * 4;
    let fragment = head.load::<{ at::IP_FRAGMENT }, u16>() & FRAGMENT_MASK;
    if version >> 4 != 4 || header_len < IPV4_LEN || fragment & FRAGMENT_OFFSET != 0 {
        return Verdict::Pass.bits();
    }
    let Some(ports) = frame.part::<4>(ETH_LEN + header_len) else {
        return Verdict::Pass.bits();
    };
    let reason = if fragment == 0 {
        Drop::IpOptions
    } else {
        Drop::Fragment
    };
    refuse(env, &head, ports.load::<2, u16>(), reason).bits()
}

/// Drops a packet if it is for a listener; the kernel gets it otherwise.
#[inline(always)]
fn refuse(env: impl Env, head: &Head<UDP_HEAD>, port: u16, reason: Drop) -> Verdict {
    let proto = head.load::<{ at::IP_PROTO }, u8>();
    let addr = head.load::<{ at::IP_DST }, u32>();
    match env.listener(&ListenerKey {
        addr: mapped(addr),
        port,
        proto,
        zero: 0,
    }) {
        Some(listener) => dropped(env, listener.id, reason),
        None => Verdict::Pass,
    }
}

const _: () = assert!(SEEN_SHIFT == 24 && GENERATION_SHIFT == 16 && cfg!(target_endian = "little"));

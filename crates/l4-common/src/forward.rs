//! The way of a packet: parsed, found, rewritten, counted, sent.

use core::sync::atomic::Ordering::AcqRel;

use crate::checksum;
use crate::drop::Drop;
use crate::env::{Env, NextHop, Verdict};
use crate::event::{Event, EventKind};
use crate::family::{Family, V4, V6};
use crate::frame::Head;
use crate::link::{LINK_NONE, Link};
use crate::open;
use crate::packet::{
    ETH_LEN, FRAGMENT_MASK, FRAGMENT_OFFSET, IPV4_LEN, IPV6_LEN, L4_LEN, UDP_HEAD, at, eth, ip6, l4,
};
use crate::parse::{Other, Packet};
use crate::service::{ListenerKey, Mode, mapped};
use crate::session::{
    GENERATION_SHIFT, LINK_MASK, LINK_SHIFT, Line, MODE_SHIFT, Place, REVERSE, RST, SEEN_SHIFT,
    SYN, UDP, seen,
};
use crate::table::AtHome;
use crate::tunnel::{self, Tunnelled};
use crate::{ping, table};

/// Decides on one packet, and rewrites it where it is ours.
///
/// What only few packets need is in functions of their own, which begin with the packet again: what they want of
/// stack and registers then costs the others nothing. IPv6 is such a function, so that IPv4 does not pay for it.
#[inline(always)]
pub fn forward(env: impl Env) -> Verdict {
    match V4::parse(env.frame()) {
        Ok(packet) => match at_home(env, &packet) {
            Ok(verdict) => verdict,
            Err(next) => elsewhere::<V4>(env, next),
        },
        Err(Other::Foreign) => Verdict::Pass,
        Err(Other::NotIpv4) => match forward6(env) {
            // Called from here, so that the stack of what follows begins here as well.
            next @ (PREPARE | SEARCH | OPEN) => elsewhere::<V6>(env, next),
            bits => Verdict::from_bits(bits),
        },
        Err(Other::Icmp) => Verdict::from_bits(ping::answer4(env)),
        Err(Other::Unusual) => Verdict::from_bits(unusual(env)),
        Err(Other::Malformed) => Verdict::from_bits(malformed(env)),
    }
}

/// No verdict: the flow has no line, and [`open`] is to be called.
const OPEN: u64 = u64::MAX;
/// No verdict: [`search`] has to look.
const SEARCH: u64 = u64::MAX - 1;
/// No verdict: the packet opens a session as a rule, and [`prepare`] comes before the first look.
const PREPARE: u64 = u64::MAX - 2;

/// What is not IPv4.
#[inline(never)]
fn forward6(env: impl Env) -> u64 {
    match V6::parse(env.frame()) {
        Ok(packet) => at_home(env, &packet).map_or_else(|next| next, Verdict::bits),
        Err(Other::Icmp) => ping::answer6(env),
        Err(Other::Malformed) => malformed6(env),
        // Nobody looks behind extension headers yet.
        Err(Other::Foreign | Other::NotIpv4 | Other::Unusual) => Verdict::Pass.bits(),
    }
}

/// A packet of TCP or UDP: the verdict if its line is in its home set and it opens nothing, or else what to do next.
#[inline(always)]
fn at_home<F: Tunnelled>(env: impl Env, packet: &Packet<F>) -> Result<Verdict, u64> {
    if packet.flags == SYN {
        return Err(PREPARE);
    }
    let hash = packet.key.hash(env.seed());
    match table::find_at_home(env, &packet.key, &Place::of(hash, F::sets(env))) {
        // SAFETY: the table found the line, and lines never leave its memory; this direction of the session is the
        // only writer of the line.
        AtHome::Line(line) => Ok(unsafe { rewrite(env, packet, line) }),
        AtHome::Absent => Err(OPEN),
        AtHome::Further => Err(SEARCH),
    }
}

/// Any other packet of TCP or UDP.
///
/// What is slow about a new session are the first looks at its two lines, which nobody has had in a cache for long. Where
/// a SYN has come, all that can be known without them is worked out first, so that both looks come one behind the other
/// and the processor waits for them at the same time.
#[inline(always)]
fn elsewhere<F: Tunnelled>(env: impl Env, mut next: u64) -> Verdict {
    let prepared = next == PREPARE;
    if prepared {
        next = prepare::<F>(env);
    }
    if next == SEARCH {
        next = search::<F>(env);
    }
    if next == OPEN {
        if !prepared {
            prepare::<F>(env);
        }
        next = open::<F>(env);
    }
    Verdict::from_bits(next)
}

/// Works out what a session of the packet would be. Says whether the flow has no line, for sure, or may have one.
#[inline(never)]
fn prepare<F: Tunnelled>(env: impl Env) -> u64 {
    let Ok(packet) = F::parse(env.frame()) else {
        return Verdict::Pass.bits();
    };
    let hash = packet.key.hash(env.seed());
    if open::prepare(env, &packet, hash) {
        OPEN
    } else {
        SEARCH
    }
}

/// A packet whose line may be in another set than its home, or a SYN of a flow that has a line.
#[inline(never)]
fn search<F: Tunnelled>(env: impl Env) -> u64 {
    let Ok(packet) = F::parse(env.frame()) else {
        return Verdict::Pass.bits();
    };
    let hash = packet.key.hash(env.seed());
    match table::find(env, &packet.key, &Place::of(hash, F::sets(env))) {
        // SAFETY: the table found the line.
        Some(line) if packet.flags != SYN || unsafe { !open::reopens(env, line) } => {
            // SAFETY: as in `at_home`.
            unsafe { rewrite(env, &packet, line) }.bits()
        }
        _ => OPEN,
    }
}

/// A packet of a flow that has no line, after [`prepare`].
#[inline(never)]
fn open<F: Tunnelled>(env: impl Env) -> u64 {
    let Ok(packet) = F::parse(env.frame()) else {
        return Verdict::Pass.bits();
    };
    match open::session::<F>(env) {
        // SAFETY: as in `at_home`.
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
unsafe fn rewrite<F: Tunnelled>(env: impl Env, packet: &Packet<F>, line: *mut Line<F>) -> Verdict {
    let Packet {
        frame,
        eth,
        ip,
        l4,
        flags,
        ..
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
        let hops = F::hops(ip);
        if hops <= 1 {
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

        if !tunnel {
            F::take_hop(ip, hops, (*line).ip_delta);
            F::set_addresses(ip, (*line).new_src, (*line).new_dst);
            l4.store::<{ l4::PORTS }, u32>((*line).new_ports);
            if meta & UDP == 0 {
                let Some(tcp) = packet.tcp() else {
                    return Verdict::Drop;
                };
                let old = tcp.load::<{ l4::TCP_CHECKSUM }, u16>();
                tcp.store::<{ l4::TCP_CHECKSUM }, u16>(checksum::apply(old, (*line).l4_delta));
            } else {
                let old = l4.load::<{ l4::UDP_CHECKSUM }, u16>();
                // Zero says that there is no checksum (RFC 768), and a computed zero is sent as all ones.
                if old != 0 {
                    let new = checksum::apply(old, (*line).l4_delta);
                    l4.store::<{ l4::UDP_CHECKSUM }, u16>(if new == 0 { 0xffff } else { new });
                }
            }
            eth.store_mac::<{ eth::DST }>((*line).mac);
            eth.store_mac::<{ eth::SRC }>(link.mac);
            return send(env, &link);
        }
        F::take_hop(ip, hops, 0);
        tunnel::encapsulate(env, packet, line, &link)
    }
}

#[inline(always)]
pub(crate) fn send(env: impl Env, link: &Link) -> Verdict {
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
unsafe fn refresh_next_hop<F: Family>(env: impl Env, line: *mut Line<F>) {
    // SAFETY: by the caller's promise; only this direction writes the line's next hop.
    unsafe {
        let next = if (*line).meta() & REVERSE == 0 {
            env.backend((*line).backend)
                .filter(|backend| backend.link != LINK_NONE)
                .map(|backend| (backend.mac, backend.link))
        } else {
            match F::next_hop(env, (*line).new_src, (*line).new_dst) {
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

/// The same for IPv6.
#[inline(never)]
fn malformed6(env: impl Env) -> u64 {
    let Some(head) = env.frame().head::<{ ETH_LEN + IPV6_LEN + L4_LEN }>() else {
        return Verdict::Pass.bits();
    };
    let ip = head.part::<ETH_LEN, IPV6_LEN>();
    let l4 = head.part::<{ ETH_LEN + IPV6_LEN }, L4_LEN>();
    let addr = [
        ip.load::<{ ip6::DST }, u32>(),
        ip.load::<{ ip6::DST + 4 }, u32>(),
        ip.load::<{ ip6::DST + 8 }, u32>(),
        ip.load::<{ ip6::DST + 12 }, u32>(),
    ];
    let key = ListenerKey {
        addr,
        port: l4.load::<{ l4::PORTS + 2 }, u16>(),
        proto: ip.load::<{ ip6::NEXT }, u8>(),
        zero: 0,
    };
    refuse_if_ours(env, &key, Drop::Malformed).bits()
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
    let addr = mapped(head.load::<{ at::IP_DST }, u32>());
    let key = ListenerKey {
        addr,
        port,
        proto,
        zero: 0,
    };
    refuse_if_ours(env, &key, reason)
}

/// Drops a packet to this address and port if there is a listener; the kernel gets it otherwise.
#[inline(always)]
fn refuse_if_ours(env: impl Env, key: &ListenerKey, reason: Drop) -> Verdict {
    match env.listener(key) {
        Some(listener) => dropped(env, listener.id, reason),
        None => Verdict::Pass,
    }
}

const _: () = assert!(SEEN_SHIFT == 24 && GENERATION_SHIFT == 16 && cfg!(target_endian = "little"));

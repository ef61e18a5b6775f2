//! The way of a packet: parsed, found, rewritten, counted, sent.

use core::sync::atomic::Ordering::AcqRel;

use crate::checksum;
use crate::drop::Drop;
use crate::env::{Env, NextHop, Verdict};
use crate::event::{Event, EventKind};
use crate::family::{Family, V4, V6};
use crate::frame::Head;
use crate::link::{self, LINK_NONE, LINK_NOWHERE, Link};
use crate::open;
use crate::packet::{ETH_LEN, IPV6_LEN, L4_LEN, TCP_LEN, UDP_HEAD, at, eth, ip6, l4};
use crate::parse::{Other, Packet};
use crate::refusal::{Refusal, Refused};
use crate::service::{ListenerKey, Mode, mapped};
use crate::session::{
    ACROSS, ENDED, FIN, GENERATION_SHIFT, LINK_MASK, LINK_SHIFT, Line, MODE_SHIFT, Place, REVERSE,
    RST, SEEN_SHIFT, SYN, UDP, seen,
};
use crate::table::AtHome;
use crate::tunnel::{self, Tunnelled};
use crate::unusual::{self, Unusual};
use crate::{across, ping, table, vlan};

/// Decides on one packet, and rewrites it where it is ours.
///
/// What only few packets need is in functions of their own, which begin with the packet again: what they want of
/// stack and registers then costs the others nothing. IPv6 is such a function, so that IPv4 does not pay for it.
#[inline(always)]
pub fn forward(env: impl Env) -> Verdict {
    match V4::parse(env.frame()) {
        Ok(packet) => {
            let verdict = match at_home(env, &packet) {
                Ok(verdict) => verdict,
                Err(next) => elsewhere::<V4>(env, next),
            };
            led::<V4>(env, verdict)
        }
        // What is called from here has its stack begin here as well.
        Err(Other::NotIpv4) => match forward6(env) {
            next @ (PREPARE | SEARCH | OPEN) => led::<V6>(env, elsewhere::<V6>(env, next)),
            TAGGED => not_plain(env, env.take_tags_off()),
            bits => led::<V6>(env, not_plain(env, bits)),
        },
        Err(Other::Icmp) => not_plain(env, ping::answer4(env)),
        Err(Other::Unusual) if vlan::has_tags(&env.frame()) => not_plain(env, env.take_tags_off()),
        Err(Other::Unusual) => not_plain(env, UNUSUAL4),
        Err(Other::Malformed) => Verdict::from_bits(malformed(env)),
        Err(Other::Foreign) => Verdict::Pass,
    }
}

/// The verdict, or what becomes of a packet whose session leads to the other family.
#[inline(always)]
fn led<F: Unusual>(env: impl Env, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Across { opens } => across::decide::<F>(env, opens),
        verdict => verdict,
    }
}

/// The verdict with these bits, or that of what decides instead.
#[inline(always)]
fn not_plain(env: impl Env, bits: u64) -> Verdict {
    let aware = env.tag_aware();
    let verdict = match bits {
        UNUSUAL4 => led::<V4>(aware, unusual::decide::<V4>(aware)),
        UNUSUAL6 => led::<V6>(aware, unusual::decide::<V6>(aware)),
        bits => return Verdict::from_bits(bits),
    };
    env.finish_tagged(verdict)
}

/// No verdict: the flow has no line, and [`open`] is to be called.
const OPEN: u64 = u64::MAX;
/// No verdict: [`search`] has to look, in all sets.
const SEARCH: u64 = u64::MAX - 1;
/// No verdict: the packet opens a session as a rule, and [`prepare`] comes before the first look.
const PREPARE: u64 = u64::MAX - 2;
/// No verdict: [`unusual::decide`] has to, for IPv4.
pub(crate) const UNUSUAL4: u64 = u64::MAX - 3;
/// The same for IPv6.
pub(crate) const UNUSUAL6: u64 = u64::MAX - 4;
/// No verdict: the frame has tags.
const TAGGED: u64 = u64::MAX - 5;

/// What is not IPv4.
#[inline(never)]
fn forward6(env: impl Env) -> u64 {
    match V6::parse(env.frame()) {
        Ok(packet) => at_home(env, &packet).map_or_else(|next| next, Verdict::bits),
        Err(Other::Icmp) => ping::answer6(env),
        Err(Other::Malformed) => malformed6(env),
        Err(Other::Unusual) => UNUSUAL6,
        Err(_) if vlan::has_tags(&env.frame()) => TAGGED,
        Err(Other::Foreign | Other::NotIpv4) => Verdict::Pass.bits(),
    }
}

/// A packet of TCP or UDP: the verdict if its line is in its home set and it neither opens something nor answers to that,
/// or else what to do next.
///
/// Both protocols have a copy of their own: what differs between them is asked once, where the packet is parsed.
#[inline(always)]
fn at_home<F: Unusual>(env: impl Env, packet: &Packet<F>) -> Result<Verdict, u64> {
    if packet.key.udp {
        at_home_as(env, &packet.of_udp())
    } else {
        at_home_as(env, &packet.of_tcp())
    }
}

#[inline(always)]
fn at_home_as<F: Unusual>(env: impl Env, packet: &Packet<F>) -> Result<Verdict, u64> {
    if packet.flags & SYN != 0 {
        return Err(if packet.flags == SYN { PREPARE } else { SEARCH });
    }
    let hash = packet.key.hash(env.seed());
    match table::find_at_home(env, &packet.key, &Place::of(hash, F::sets(env))) {
        // SAFETY: the table found the line, and lines never leave its memory; this direction of the session is the
        // only writer of the line.
        AtHome::Line(line, meta) => Ok(unsafe { rewrite(env, packet, line, meta) }),
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
fn elsewhere<F: Unusual>(env: impl Env, mut next: u64) -> Verdict {
    let mut prepared = next == PREPARE;
    if prepared {
        next = prepare::<F>(env);
    }
    if next == SEARCH {
        next = search::<F>(env);
    }
    if next == PREPARE {
        // The session that was in the way is gone only now.
        prepared = false;
        next = OPEN;
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
fn prepare<F: Unusual>(env: impl Env) -> u64 {
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

/// A packet whose line may be in another set than its home, or a SYN, or the answer to one, of a flow that has a line.
#[inline(never)]
fn search<F: Unusual>(env: impl Env) -> u64 {
    let Ok(packet) = F::parse(env.frame()) else {
        return Verdict::Pass.bits();
    };
    let hash = packet.key.hash(env.seed());
    match table::find(env, &packet.key, hash) {
        // SAFETY: the table found the line.
        Some(line) if packet.flags != SYN || unsafe { !open::reopens(env, line.as_ptr()) } => {
            // SAFETY: as in `at_home`.
            unsafe { rewrite_clamped(env, &packet, line.as_ptr()) }.bits()
        }
        Some(_) => PREPARE,
        None => OPEN,
    }
}

/// A packet of a flow that has no line, after [`prepare`].
#[inline(never)]
fn open<F: Unusual>(env: impl Env) -> u64 {
    let Ok(packet) = F::parse(env.frame()) else {
        return Verdict::Pass.bits();
    };
    match open::session::<F>(env) {
        // SAFETY: as in `at_home`.
        Ok(line) => unsafe { rewrite_clamped(env, &packet, line) }.bits(),
        Err(bits) => bits,
    }
}

/// The link that a packet of a live line with these TCP flags leaves by; the next hop is taken anew where routes have
/// changed. Without one there is no way, which is counted. `meta` is the line's.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn way<F: Family>(
    env: impl Env,
    line: *mut Line<F>,
    meta: u32,
    flags: u8,
) -> Option<&'static Link> {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut link = env.link((meta & LINK_MASK) >> LINK_SHIFT)?;
        if meta >> GENERATION_SHIFT & 0xff != link.route_generation & 0xff {
            refresh_next_hop(env, line);
            let meta = (*line).meta();
            link = env.link((meta & LINK_MASK) >> LINK_SHIFT)?;
        }
        // Across, who goes on looks for the way himself.
        if link.ifindex == 0 && meta & ACROSS == 0 {
            link = detour(env, line, flags)?;
        }
        Some(link)
    }
}

/// The link that a packet leaves by whose line leads nowhere, if there is one for it after all: what its client has
/// to reset goes to the backend of an ended session, too. Any other is counted.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
unsafe fn detour<F: Family>(env: impl Env, line: *mut Line<F>, flags: u8) -> Option<&'static Link> {
    // SAFETY: by the caller's promise; only this direction writes the line's next hop.
    unsafe {
        let ended = (*line).changes & ENDED != 0;
        if ended && flags & RST != 0 {
            let backend = env.backend((*line).backend);
            if let Some(backend) = backend.filter(|backend| backend.link < LINK_NOWHERE) {
                (*line).mac = backend.mac;
                return env.link(u32::from(backend.link));
            }
        }
        let reason = if ended {
            Drop::Removed
        } else {
            Drop::NoNextHop
        };
        dropped(env, (*line).listener, reason);
        None
    }
}

/// What becomes of a packet that has no way: if its session has ended, its sender hears of that, as if it had closed the
/// session itself; the line stays for a while, so that the backend's packets still reach the client, which resets them.
///
/// # Safety
/// `line` must be a line of the session table, and this direction its only writer.
#[inline(never)]
unsafe fn astray<F: Refused>(env: impl Env, line: *mut Line<F>, length: usize, flags: u8) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        if (*line).changes & ENDED == 0 || flags & RST != 0 {
            return Verdict::Drop.bits();
        }
        count(env, line, (*line).meta(), length, FIN, false);
    }
    F::reset(env)
}

/// Counts a packet of a line, and notes its time and its flags.
///
/// # Safety
/// `line` must be a line of the session table, and this direction its only writer.
#[inline(always)]
pub(crate) unsafe fn count<F: Family>(
    env: impl Env,
    line: *mut Line<F>,
    meta: u32,
    length: usize,
    flags: u8,
    udp: bool,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*line).last_seen = env.jiffies();
        (*line).packets += 1;
        (*line).bytes += length as u64;
        if !udp {
            // The byte of the flags seen is written by this direction alone, and seldom; a reset that was followed by other
            // packets was none.
            let flags = seen(meta) & !RST | flags;
            if flags != seen(meta) {
                let seen_byte = (&raw mut (*line).meta).cast::<u8>().add(3);
                seen_byte.write_volatile(flags);
            }
        }
    }
}

/// The longest frame of a line that a link takes. By the interface that it came in by everything may leave that does not
/// grow: it has been carried there.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn limit<F: Family>(
    env: impl Env,
    link: &Link,
    line: *const Line<F>,
    tunnel: bool,
) -> usize {
    let longest = usize::from(link.mtu) + ETH_LEN;
    if tunnel {
        // SAFETY: by the caller's promise.
        longest.saturating_sub(unsafe { tunnel::overhead(line) })
    } else if link.ifindex == env.port_ifindex() {
        usize::MAX
    } else {
        longest
    }
}

/// Lowers the maximum segment size of a SYN, or of the answer to it, to what both links carry. `tcp` is the offset of
/// the TCP header.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
pub(crate) unsafe fn clamp<F: Family>(env: impl Env, line: *mut Line<F>, tcp: usize) {
    // SAFETY: by the caller's promise.
    let meta = unsafe { (*line).meta() };
    if meta & ACROSS != 0 {
        return;
    }
    let to = env.link((meta & LINK_MASK) >> LINK_SHIFT);
    let from = env.link_of(env.ingress_ifindex());
    let from = from.and_then(|index| env.link(u32::from(index)));
    let outer = if meta >> MODE_SHIFT & 3 == Mode::Tunnel as u32 {
        // SAFETY: by the caller's promise.
        unsafe { tunnel::overhead(line) as u16 }
    } else {
        0
    };
    let mtu_in = from.map_or(u16::MAX, |link| link.mtu);
    let mtu_out = to.map_or(u16::MAX, |link| link.mtu.saturating_sub(outer));
    let mtu = if mtu_in < mtu_out { mtu_in } else { mtu_out };
    let headers = (F::IP_LEN + TCP_LEN) as u16;
    env.clamp(tcp as u32, mtu.saturating_sub(headers));
}

/// Refuses a packet of a line whose hops are used up.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
pub(crate) unsafe fn expired<F: Refused>(env: impl Env, line: *mut Line<F>) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        dropped(env, (*line).listener, Drop::TtlExpired);
        F::refuse(env, refuser(line), Refusal::Expired)
    }
}

/// Refuses a packet of a line that is longer than a frame of `limit` bytes. Its sender hears of it even if it allows to
/// fragment: we never do.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
pub(crate) unsafe fn too_big<F: Refused>(env: impl Env, line: *mut Line<F>, limit: usize) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        dropped(env, (*line).listener, Drop::TooBig);
        let mtu = limit.saturating_sub(ETH_LEN) as u16;
        F::refuse(env, refuser(line), Refusal::TooBig { mtu })
    }
}

/// The address that refuses packets of a line: the one that they are sent to, or the VIP where that is a client's.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
unsafe fn refuser<F: Family>(line: *mut Line<F>) -> F::Addr {
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        let nat_reply = REVERSE | (Mode::Nat as u32) << MODE_SHIFT;
        if meta & (REVERSE | 3 << MODE_SHIFT) == nat_reply {
            (*line).new_src
        } else {
            (*line).dst
        }
    }
}

/// [`rewrite`], with segments made to fit where the packet is a SYN or the answer to one.
///
/// # Safety
/// As for [`rewrite`].
#[inline(always)]
unsafe fn rewrite_clamped<F: Unusual>(
    env: impl Env,
    packet: &Packet<F>,
    line: *mut Line<F>,
) -> Verdict {
    // SAFETY: by the caller's promise.
    unsafe {
        if packet.flags & SYN != 0 {
            clamp(env, line, ETH_LEN + F::IP_LEN);
        }
        rewrite(env, packet, line, (*line).meta())
    }
}

/// Rewrites a packet of a live line, counts it, and says where it goes. `meta` is the line's, from when it was found.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn rewrite<F: Tunnelled + Refused>(
    env: impl Env,
    packet: &Packet<F>,
    line: *mut Line<F>,
    meta: u32,
) -> Verdict {
    let Packet {
        frame,
        eth,
        ip,
        l4,
        key,
        flags,
    } = packet;
    // SAFETY: by the caller's promise. Single fields are read and written through the pointer: no reference to the
    // whole line is held while other cores read it.
    unsafe {
        let length = frame.len();
        let Some(link) = way(env, line, meta, *flags) else {
            return Verdict::from_bits(astray(env, line, length, *flags));
        };
        if meta >> MODE_SHIFT & 3 == Mode::Tunnel as u32 {
            return Verdict::from_bits(rewrite_tunnelled(env, line, *flags));
        }
        let hops = F::hops(ip);
        if hops <= 1 {
            return Verdict::from_bits(expired(env, line));
        }
        // Nearly every packet fits into every link, so that what may be longer is asked of the others alone.
        if length > usize::from(link.mtu) + ETH_LEN {
            let limit = limit(env, link, line, false);
            if length > limit {
                return Verdict::from_bits(too_big(env, line, limit));
            }
        }
        count(env, line, meta, length, *flags, key.udp);

        F::take_hop(ip, hops, (*line).ip_delta);
        F::rewrite_addresses(ip, line);
        l4.store::<{ l4::PORTS }, u32>((*line).new_ports);
        if key.udp {
            let old = l4.load::<{ l4::UDP_CHECKSUM }, u16>();
            // Zero says that there is no checksum (RFC 768), and a computed zero is sent as all ones.
            if old != 0 {
                let new = checksum::apply(old, (*line).l4_delta);
                l4.store::<{ l4::UDP_CHECKSUM }, u16>(if new == 0 { 0xffff } else { new });
            }
        } else {
            let Some(tcp) = packet.tcp() else {
                return Verdict::Drop;
            };
            let old = tcp.load::<{ l4::TCP_CHECKSUM }, u16>();
            tcp.store::<{ l4::TCP_CHECKSUM }, u16>(checksum::apply(old, (*line).l4_delta));
        }
        eth.store_mac::<{ eth::DST }>((*line).mac);
        eth.store_mac::<{ eth::SRC }>(link.mac);
        send(env, link)
    }
}

/// [`rewrite`] in tunnel mode: the packet stays, but for a hop, and goes behind an outer header. In a function of its own,
/// so that the other modes do not pay for the memory that it takes.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
unsafe fn rewrite_tunnelled<F: Tunnelled + Refused>(
    env: impl Env,
    line: *mut Line<F>,
    flags: u8,
) -> u64 {
    let frame = env.frame();
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        if meta & ACROSS != 0 {
            // The line itself leads on: its client's reset and what its backend sends still have to pass.
            if (*line).changes & ENDED != 0 && flags & RST == 0 {
                dropped(env, (*line).listener, Drop::Removed);
                return astray(env, line, frame.len(), flags);
            }
            return Verdict::Across { opens: false }.bits();
        }
        let (Some(mut link), Some((_, ip))) =
            (env.link((meta & LINK_MASK) >> LINK_SHIFT), F::plain(&frame))
        else {
            return Verdict::Drop.bits();
        };
        if link.ifindex == 0 {
            let Some(detour) = detour(env, line, flags) else {
                return Verdict::Drop.bits();
            };
            link = detour;
        }
        let hops = F::hops(&ip);
        if hops <= 1 {
            return expired(env, line);
        }
        let length = frame.len();
        let limit = limit(env, link, line, true);
        if length > limit {
            return too_big(env, line, limit);
        }
        count(env, line, meta, length, flags, meta & UDP != 0);
        F::take_hop(&ip, hops, 0);
        tunnel::encapsulate(env, &ip, line, link).bits()
    }
}

/// Sends a frame by a link.
#[inline(always)]
pub(crate) fn send(env: impl Env, link: &Link) -> Verdict {
    if link.ifindex == env.port_ifindex() {
        Verdict::Transmit
    } else if link.ifindex & link::TAGGED == 0 {
        Verdict::Redirect(link.ifindex)
    } else {
        env.send_tagged(link.ifindex & !link::TAGGED, link.tags)
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
        if (*line).meta() & ACROSS == 0 {
            let ask = || F::next_hop(env, (*line).new_src, (*line).new_dst);
            renew_next_hop(env, line, ask);
        }
    }
}

/// [`refresh_next_hop`], where `ask` asks the kernel for the way of replies.
///
/// # Safety
/// As for `rewrite`.
#[inline(always)]
pub(crate) unsafe fn renew_next_hop<F: Family>(
    env: impl Env,
    line: *mut Line<F>,
    ask: impl FnOnce() -> NextHop,
) {
    // SAFETY: by the caller's promise; only this direction writes the line's next hop.
    unsafe {
        let next = if (*line).meta() & REVERSE == 0 {
            if (*line).changes & ENDED != 0 && (*line).meta() & ACROSS == 0 {
                Some(((*line).mac, LINK_NOWHERE))
            } else {
                env.backend((*line).backend)
                    .filter(|backend| backend.link != LINK_NONE)
                    .map(|backend| (backend.mac, backend.link))
            }
        } else {
            match ask() {
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
pub(crate) fn refuse_if_ours(env: impl Env, key: &ListenerKey, reason: Drop) -> Verdict {
    match env.listener(key) {
        Some(listener) => dropped(env, listener.id, reason),
        None => Verdict::Pass,
    }
}

const _: () = assert!(SEEN_SHIFT == 24 && GENERATION_SHIFT == 16 && cfg!(target_endian = "little"));

//! FullNAT from one family of IP to the other: NAT64 and NAT46 (RFC 7915).
//!
//! A session has a line in each table. The one of IPv6 holds the IPv4 addresses that its packets get. The one of IPv4 has no
//! room for IPv6 addresses: it holds the number of the other line, whose addresses, exchanged, are those that its packets
//! get. Before they are used, the other line must say that this line is its peer: it may have been given to another flow.
//!
//! Other sessions' packets know nothing of this. Those of sessions that lead across are met where tunnels are told from the
//! rest, and begin again here, in functions apart. Options and extension headers end here, as RFC 7915 says; fragments stay
//! fragments. We never fragment: who sends what is too long for its way hears of it, whether or not he allows to fragment.

use core::ptr::NonNull;

use crate::checksum::{apply, fold, sum_range};
use crate::drop::Drop;
use crate::env::{Env, NextHop, Verdict};
use crate::family::{Addr6, Family, V4, V6};
use crate::forward::{count, dropped, expired, renew_next_hop, send, too_big};
use crate::frame::Frame;
use crate::hash::FlowKey;
use crate::icmp::{Quote, Related, rewrite_quoted};
use crate::link::Link;
use crate::open::across::{line6, open_lines4, open_lines6};
use crate::packet::{
    DONT_FRAGMENT, ETH_LEN, FRAGMENT_MASK, IPV4_LEN, IPV4_PLAIN, IPV6_LEN, L4_LEN, PROTO_UDP,
    TCP_LEN, eth, ip4, ip6, l4,
};
use crate::refusal::Refused;
use crate::session::{
    ACROSS, GENERATION_SHIFT, LINK_MASK, LINK_SHIFT, LIVE, Line, Line4, Line6, SYN, UDP,
};
use crate::table;
use crate::tunnel::Tunnelled;
use crate::unusual::{Other, Taken};
use crate::walk::{FRAGMENT, Part, Walked};

/// In place of a verdict's bits: the packet has a session now, and [`translate`] is to be called.
pub const AGAIN: u64 = u64::MAX;
/// In place of a verdict's bits: the packet is an error of ICMP, and [`error`] is to be called.
const ERROR: u64 = u64::MAX - 1;

/// Bytes of a fragment header.
const FRAGMENT_LEN: usize = 8;
/// The longest IPv4 packet that may be fragmented further on: what is longer came from a sender of IPv6 who knows that his
/// way carries it (RFC 7915, section 5.1).
const MAY_BE_FRAGMENTED: usize = 1260;
/// The least that every link of IPv6 carries (RFC 8200, section 5).
const LEAST_MTU6: u32 = 1280;
/// What a header of IP says that the other family can say as well.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Type of service, or traffic class.
    class: u8,
    /// Time to live, or hop limit, of what leaves.
    hops: u8,
    /// More-fragments flag and offset, as in IPv4's header, in host byte order; 0: the packet is whole.
    fragment: u16,
    /// Identification, host byte order.
    id: u32,
}

/// A family whose sessions may lead to the other one.
pub trait Across: Tunnelled + Walked + Related + Refused {
    /// The other family.
    type Other: Across<Other = Self>;

    /// [`translate`], by the environment.
    fn translate(env: impl Env) -> u64;
    /// [`error`], by the environment.
    fn error(env: impl Env) -> u64;
    /// [`crate::open::across::session`], by the environment.
    fn open(env: impl Env) -> u64;
    /// Writes both lines of a session whose client is of this family.
    fn open_lines(env: impl Env) -> u32;

    /// The other line of a session.
    ///
    /// # Safety
    /// `line` must be a line of the session table that leads across.
    unsafe fn peer(env: impl Env, line: *const Line<Self>) -> Option<*mut Line<Self::Other>>;
    /// Source and destination of what a line's packets become.
    ///
    /// # Safety
    /// As above.
    unsafe fn new_addresses(env: impl Env, line: *const Line<Self>) -> Option<Ends<Self::Other>>;

    /// Whether the header's own checksum is right, if it has one: what has another header would not show any more that this
    /// one was damaged.
    fn is_sound(env: impl Env, from: usize, to: usize) -> bool;
    /// What the header at `ip` says; `l4` is where the payload begins.
    fn facts(frame: &Frame, ip: usize, l4: usize, part: Part, id: u32) -> Option<Facts>;
    /// Bytes of the header that such a packet gets.
    fn header_len(facts: &Facts) -> usize;
    /// Writes the header at `at`, with `len` bytes of `proto` behind it.
    fn write_header(
        frame: &Frame,
        at: usize,
        facts: &Facts,
        proto: u8,
        len: usize,
        ends: Ends<Self>,
    ) -> Option<()>;
    /// What a checksum is over besides the payload: both addresses, length and protocol.
    fn pseudo(ends: Ends<Self>, proto: u8, len: usize) -> u64;
    /// The same, where ICMP's checksum is over it.
    fn pseudo_of_icmp(ends: Ends<Self>, len: usize) -> u64 {
        if Self::OVER_ADDRESSES {
            Self::pseudo(ends, Self::ICMP, len)
        } else {
            0
        }
    }
    /// An error of this family's ICMP in the other one's: type and code, and what comes behind the checksum. `mtu` makes of
    /// an error's MTU that of the other family.
    fn convert(kind: u8, code: u8, rest: u32, mtu: impl Fn(u32) -> u32) -> Option<(u16, u32)>;
}

/// Source and destination.
type Ends<F> = (<F as Family>::Addr, <F as Family>::Addr);

/// What becomes of a packet whose session leads across, or is to be opened so.
#[inline(always)]
pub(crate) fn decide<F: Across>(env: impl Env, opens: bool) -> Verdict {
    let mut bits = if opens { F::open(env) } else { AGAIN };
    if bits == AGAIN {
        bits = F::translate(env);
    }
    if bits == ERROR {
        bits = F::error(env);
    }
    Verdict::from_bits(bits)
}

impl Across for V4 {
    type Other = V6;

    #[inline(always)]
    fn translate(env: impl Env) -> u64 {
        env.across4()
    }

    #[inline(always)]
    fn error(env: impl Env) -> u64 {
        env.across_error4()
    }

    #[inline(always)]
    fn open(env: impl Env) -> u64 {
        env.across_open4()
    }

    #[inline(always)]
    fn open_lines(env: impl Env) -> u32 {
        open_lines4(env)
    }

    #[inline(always)]
    unsafe fn peer(env: impl Env, line: *const Line4) -> Option<*mut Line6> {
        // SAFETY: by the caller's promise.
        unsafe {
            let other = line6(env, (*line).new_src)?;
            let (src, dst) = V6::outer4(other);
            let is_peer = (*other).meta() & (LIVE | ACROSS) == LIVE | ACROSS
                && ((*other).meta() ^ (*line).meta()) & UDP == 0
                && src == (*line).dst
                && dst == (*line).src
                && (*other).new_ports == (*line).ports.rotate_left(16);
            is_peer.then_some(other)
        }
    }

    #[inline(always)]
    unsafe fn new_addresses(env: impl Env, line: *const Line4) -> Option<(Addr6, Addr6)> {
        // SAFETY: by the caller's promise; the table gave the other line.
        unsafe {
            let peer = Self::peer(env, line)?;
            Some(((*peer).dst, (*peer).src))
        }
    }

    #[inline(always)]
    fn is_sound(env: impl Env, from: usize, to: usize) -> bool {
        sum_range(env, from, to).is_some_and(|sum| fold(sum) == 0xffff)
    }

    #[inline(always)]
    fn facts(frame: &Frame, ip: usize, _: usize, _: Part, id: u32) -> Option<Facts> {
        let ip = Self::ip_at(frame, ip)?;
        Some(Facts {
            class: ip.load::<{ ip4::TOS }, u8>(),
            hops: Self::hops(&ip).wrapping_sub(1),
            fragment: u16::from_be(ip.load::<{ ip4::FRAGMENT }, u16>() & FRAGMENT_MASK),
            id: u32::from(u16::from_be(id as u16)),
        })
    }

    #[inline(always)]
    fn header_len(_: &Facts) -> usize {
        IPV4_LEN
    }

    #[inline(always)]
    fn write_header(
        frame: &Frame,
        at: usize,
        facts: &Facts,
        proto: u8,
        len: usize,
        (src, dst): (u32, u32),
    ) -> Option<()> {
        let ip = Self::ip_at(frame, at)?;
        let len = len + IPV4_LEN;
        // What may be fragmented needs a number for that (RFC 6864, section 4.1).
        let (id, fragment) = if facts.fragment == 0 && len > MAY_BE_FRAGMENTED {
            (0, DONT_FRAGMENT)
        } else {
            ((facts.id as u16).to_be(), facts.fragment.to_be())
        };
        let len = (len as u16).to_be();
        let version = u16::from_ne_bytes([IPV4_PLAIN, facts.class]);
        let ttl = u16::from_ne_bytes([facts.hops, proto]);
        ip.store::<{ ip4::VERSION }, u16>(version);
        ip.store::<{ ip4::LEN }, u16>(len);
        ip.store::<{ ip4::ID }, u16>(id);
        ip.store::<{ ip4::FRAGMENT }, u16>(fragment);
        ip.store::<{ ip4::TTL }, u16>(ttl);
        let sum = u64::from(version)
            + u64::from(len)
            + u64::from(id)
            + u64::from(fragment)
            + u64::from(ttl)
            + u64::from(src)
            + u64::from(dst);
        ip.store::<{ ip4::CHECKSUM }, u16>(!fold(sum));
        Self::set_addresses(&ip, src, dst);
        Some(())
    }

    #[inline(always)]
    fn pseudo((src, dst): (u32, u32), proto: u8, len: usize) -> u64 {
        u64::from(src) + u64::from(dst) + behind_addresses(proto, len)
    }

    /// RFC 7915, section 4.2.
    #[inline(always)]
    fn convert(kind: u8, code: u8, rest: u32, mtu: impl Fn(u32) -> u32) -> Option<(u16, u32)> {
        let unreachable = |code: u8| Some((u16::from_ne_bytes([1, code]), 0));
        match (kind, code) {
            // The protocol: IPv6 calls that a problem with the next header, at its place.
            (3, 2) => Some((u16::from_ne_bytes([4, 1]), 6u32.to_be())),
            (3, 3) => unreachable(4),
            (3, 4) => {
                // Zero comes from routers of before RFC 1191: the least is safe.
                let mtu = mtu(u32::from(u16::from_be((rest >> 16) as u16)));
                let mtu = if mtu < LEAST_MTU6 { LEAST_MTU6 } else { mtu };
                Some((u16::from_ne_bytes([2, 0]), mtu.to_be()))
            }
            (3, ..16) if 1 << code & NOT_ALLOWED != 0 => unreachable(1),
            (3, ..16) if 1 << code & NO_WAY != 0 => unreachable(0),
            (11, code) => Some((u16::from_ne_bytes([3, code]), 0)),
            (12, 0 | 2) => {
                let pointer = match rest as u8 {
                    at @ ..8 => nth([0, 1, 4, 4, NOWHERE, NOWHERE, NOWHERE, NOWHERE], at),
                    at @ 8..16 => nth([7, 6, NOWHERE, NOWHERE, 8, 8, 8, 8], at),
                    16..20 => 24,
                    _ => NOWHERE,
                };
                if pointer == NOWHERE {
                    return None;
                }
                Some((u16::from_ne_bytes([4, 0]), u32::from(pointer).to_be()))
            }
            _ => None,
        }
    }
}

impl Across for V6 {
    type Other = V4;

    #[inline(always)]
    fn translate(env: impl Env) -> u64 {
        env.across6()
    }

    #[inline(always)]
    fn error(env: impl Env) -> u64 {
        env.across_error6()
    }

    #[inline(always)]
    fn open(env: impl Env) -> u64 {
        env.across_open6()
    }

    #[inline(always)]
    fn open_lines(env: impl Env) -> u32 {
        open_lines6(env)
    }

    #[inline(always)]
    unsafe fn peer(env: impl Env, line: *const Line6) -> Option<*mut Line4> {
        // SAFETY: by the caller's promise.
        let key = unsafe {
            let (src, dst) = V6::outer4(line);
            FlowKey::<V4> {
                src,
                dst,
                ports: (*line).new_ports,
                udp: (*line).meta() & UDP != 0,
            }
            .reversed()
        };
        table::find(env, &key, key.hash(env.seed())).map(NonNull::as_ptr)
    }

    #[inline(always)]
    unsafe fn new_addresses(_: impl Env, line: *const Line6) -> Option<(u32, u32)> {
        // SAFETY: by the caller's promise.
        Some(unsafe { V6::outer4(line) })
    }

    #[inline(always)]
    fn is_sound(_: impl Env, _: usize, _: usize) -> bool {
        true
    }

    #[inline(always)]
    fn facts(frame: &Frame, ip: usize, l4: usize, part: Part, id: u32) -> Option<Facts> {
        let ip = Self::ip_at(frame, ip)?;
        let fragment = match part {
            Part::Whole => 0,
            // More follow.
            Part::First => 0x2000,
            Part::Later => {
                let header = frame.part::<FRAGMENT_LEN>(l4.wrapping_sub(FRAGMENT_LEN))?;
                let place = u16::from_be(header.load::<2, u16>());
                place >> 3 | (place & 1) << 13
            }
        };
        Some(Facts {
            class: (u32::from_be(ip.load::<{ ip6::VERSION }, u32>()) >> 20) as u8,
            hops: Self::hops(&ip).wrapping_sub(1),
            fragment,
            id: u32::from_be(id),
        })
    }

    #[inline(always)]
    fn header_len(facts: &Facts) -> usize {
        if facts.fragment == 0 {
            IPV6_LEN
        } else {
            IPV6_LEN + FRAGMENT_LEN
        }
    }

    #[inline(always)]
    fn write_header(
        frame: &Frame,
        at: usize,
        facts: &Facts,
        proto: u8,
        len: usize,
        (src, dst): (Addr6, Addr6),
    ) -> Option<()> {
        let ip = Self::ip_at(frame, at)?;
        let first = 6 << 28 | u32::from(facts.class) << 20;
        ip.store::<{ ip6::VERSION }, u32>(first.to_be());
        ip.store::<{ ip6::HOPS }, u8>(facts.hops);
        Self::set_addresses(&ip, src, dst);
        if facts.fragment == 0 {
            ip.store::<{ ip6::LEN }, u16>((len as u16).to_be());
            ip.store::<{ ip6::NEXT }, u8>(proto);
        } else {
            ip.store::<{ ip6::LEN }, u16>(((len + FRAGMENT_LEN) as u16).to_be());
            ip.store::<{ ip6::NEXT }, u8>(FRAGMENT);
            let header = frame.part::<FRAGMENT_LEN>(at + IPV6_LEN)?;
            let place = facts.fragment << 3 | facts.fragment >> 13 & 1;
            header.store::<0, u16>(u16::from_ne_bytes([proto, 0]));
            header.store::<2, u16>(place.to_be());
            header.store::<4, u32>(facts.id.to_be());
        }
        Some(())
    }

    #[inline(always)]
    fn pseudo((src, dst): (Addr6, Addr6), proto: u8, len: usize) -> u64 {
        let words = |addr: Addr6| {
            let [a, b, c, d] = addr.words();
            u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
        };
        words(src) + words(dst) + behind_addresses(proto, len)
    }

    /// RFC 7915, section 5.2.
    #[inline(always)]
    fn convert(kind: u8, code: u8, rest: u32, mtu: impl Fn(u32) -> u32) -> Option<(u16, u32)> {
        let unreachable = |code: u8| Some((u16::from_ne_bytes([3, code]), 0));
        match (kind, code) {
            (1, ..5) => unreachable(nth([1, 10, 1, 1, 3, 0, 0, 0], code)),
            (2, _) => {
                let mtu = mtu(u32::from_be(rest));
                let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
                Some((u16::from_ne_bytes([3, 4]), u32::from(mtu.to_be()) << 16))
            }
            (3, code) => Some((u16::from_ne_bytes([11, code]), 0)),
            (4, 0) => {
                let pointer = match u32::from_be(rest) {
                    at @ ..8 => nth([0, 1, NOWHERE, NOWHERE, 2, 2, 9, 8], at as u8),
                    8..24 => 12,
                    24..40 => 16,
                    _ => NOWHERE,
                };
                if pointer == NOWHERE {
                    return None;
                }
                Some((u16::from_ne_bytes([12, 0]), u32::from(pointer)))
            }
            (4, 1) => unreachable(2),
            _ => None,
        }
    }
}

/// ICMP's codes of unreachable that say that it is not allowed, as bits.
const NOT_ALLOWED: u16 = 1 << 9 | 1 << 10 | 1 << 13 | 1 << 15;
/// Those that say that there is no way.
const NO_WAY: u16 = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
/// In place of a pointer: to nothing that the other header has.
const NOWHERE: u8 = 0xff;

/// One of eight bytes. By a shift: of a table in memory the kernel's verifier could not see the bounds.
#[inline(always)]
fn nth(bytes: [u8; 8], index: u8) -> u8 {
    (u64::from_le_bytes(bytes) >> ((index & 7) * 8)) as u8
}

/// The rest of a pseudo header.
#[inline(always)]
fn behind_addresses(proto: u8, len: usize) -> u64 {
    u64::from((len as u16).to_be()) + u64::from(u16::from_ne_bytes([0, proto]))
}

/// The link that packets of a line that leads across leave by: [`crate::forward::way`] for these.
///
/// # Safety
/// `line` must be a line of the session table that leads across.
#[inline(always)]
unsafe fn way<F: Across>(env: impl Env, line: *mut Line<F>) -> Option<&'static Link> {
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        let mut link = env.link((meta & LINK_MASK) >> LINK_SHIFT)?;
        if meta >> GENERATION_SHIFT & 0xff != link.route_generation & 0xff {
            refresh_next_hop(env, line);
            let meta = (*line).meta();
            link = env.link((meta & LINK_MASK) >> LINK_SHIFT)?;
        }
        if link.ifindex == 0 {
            dropped(env, (*line).listener, Drop::NoNextHop);
            return None;
        }
        Some(link)
    }
}

/// # Safety
/// As for [`way`].
#[inline(never)]
unsafe fn refresh_next_hop<F: Across>(env: impl Env, line: *mut Line<F>) {
    // SAFETY: by the caller's promise.
    unsafe {
        renew_next_hop(env, line, || match F::new_addresses(env, line) {
            Some((src, dst)) => F::Other::next_hop(env, src, dst),
            None => NextHop::None,
        });
    }
}

/// Makes a packet of a session that leads across one of the other family. Bits of a verdict, or [`ERROR`].
#[inline(always)]
pub fn translate<F: Across>(env: impl Env) -> u64 {
    let taken = match Taken::<F>::parse(env) {
        Ok(taken) => taken,
        Err(Other::Icmp(_)) => return ERROR,
        Err(_) => return Verdict::Pass.bits(),
    };
    let Some(line) = table::find(env, &taken.key, taken.key.hash(env.seed())) else {
        // Taken away in this moment.
        return Verdict::Drop.bits();
    };
    let line = line.as_ptr();
    // SAFETY: the table found the line; this direction of the session is its only writer.
    unsafe { rewrite(env, &taken, line) }
}

/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
unsafe fn rewrite<F: Across>(env: impl Env, taken: &Taken<F>, line: *mut Line<F>) -> u64 {
    let frame = env.frame();
    let layout = &taken.layout;
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        let listener = (*line).listener;
        if meta & ACROSS == 0 {
            return Verdict::Drop.bits();
        }
        if layout.end > frame.len()
            || layout.l4 > layout.end
            || !F::is_sound(env, ETH_LEN, layout.l4)
        {
            return dropped(env, listener, Drop::Malformed).bits();
        }
        let Some(link) = way(env, line) else {
            return Verdict::Drop.bits();
        };
        if F::hops(&taken.ip) <= 1 {
            return expired(env, line);
        }
        let Some(mut facts) = F::facts(&frame, ETH_LEN, layout.l4, layout.part, layout.id) else {
            return Verdict::Drop.bits();
        };
        if layout.part == Part::Whole {
            // A number for what may be fragmented further on; each flow counts from another one.
            facts.id = ((*line).packets as u32).wrapping_add((*line).new_ports);
        }
        let len = layout.end - layout.l4;
        let new_header = F::Other::header_len(&facts);
        let mtu = usize::from(link.mtu);
        // By the interface that it came in by everything may leave that does not grow.
        let fits = link.ifindex == env.ingress_ifindex() && ETH_LEN + new_header <= layout.l4;
        if !fits && new_header + len > mtu {
            return too_big(env, line, (mtu + layout.l4).saturating_sub(new_header));
        }
        if layout.part != Part::Later && !rewrite_l4(env, taken, line, link) {
            return dropped(env, listener, Drop::NoChecksum).bits();
        }
        count(env, line, meta, frame.len(), taken.flags, taken.key.udp);
        let Some(ends) = F::new_addresses(env, line) else {
            return dropped(env, listener, Drop::NoSession).bits();
        };
        if !env.move_start(layout.l4 as i32 - (ETH_LEN + new_header) as i32) {
            return dropped(env, listener, Drop::NoHeadroom).bits();
        }
        let frame = env.frame();
        let written = F::Other::write_header(&frame, ETH_LEN, &facts, layout.proto, len, ends);
        leave::<F::Other>(env, (*line).mac, link, written).bits()
    }
}

/// Writes the Ethernet header in front of a header that is written, and sends the frame.
#[inline(always)]
fn leave<F: Family>(env: impl Env, mac: [u8; 6], link: &Link, written: Option<()>) -> Verdict {
    let (Some(()), Some(ethernet)) = (written, env.frame().head::<ETH_LEN>()) else {
        return Verdict::Drop;
    };
    ethernet.store_mac::<{ eth::DST }>(mac);
    ethernet.store_mac::<{ eth::SRC }>(link.mac);
    ethernet.store::<{ eth::TYPE }, u16>(F::ETHERTYPE);
    send(env, link)
}

/// Rewrites the header of TCP or UDP. False: a datagram without a checksum, which IPv6 does not allow, and none can be
/// worked out, as it is in fragments or too long.
///
/// # Safety
/// `line` must be a line of the session table that leads across.
#[inline(always)]
unsafe fn rewrite_l4<F: Across>(
    env: impl Env,
    taken: &Taken<F>,
    line: *mut Line<F>,
    link: &Link,
) -> bool {
    // SAFETY: by the caller's promise.
    let (new_ports, delta) = unsafe { ((*line).new_ports, (*line).l4_delta) };
    let frame = env.frame();
    let layout = &taken.layout;
    if !taken.key.udp {
        if taken.flags & SYN != 0 {
            clamp::<F>(env, link, layout.l4);
        }
        let Some(tcp) = frame.part::<TCP_LEN>(layout.l4) else {
            return true;
        };
        tcp.store::<{ l4::PORTS }, u32>(new_ports);
        let old = tcp.load::<{ l4::TCP_CHECKSUM }, u16>();
        tcp.store::<{ l4::TCP_CHECKSUM }, u16>(apply(old, delta));
        return true;
    }
    let Some(udp) = frame.part::<L4_LEN>(layout.l4) else {
        return true;
    };
    let old = udp.load::<{ l4::UDP_CHECKSUM }, u16>();
    let new = if old != 0 {
        apply(old, delta)
    } else {
        // Zero says that there is none (RFC 768). Not so in IPv6: there it is a mistake that nobody should hide.
        let whole = F::IP_LEN == IPV4_LEN && layout.part == Part::Whole;
        let ends = (taken.key.src, taken.key.dst);
        let sum = sum_range(env, layout.l4, layout.end).filter(|_| whole);
        let Some(sum) = sum else {
            return false;
        };
        // As it would be in IPv4, and from there like every other.
        let len = layout.end - layout.l4;
        apply(!fold(sum + F::pseudo(ends, PROTO_UDP, len)), delta)
    };
    udp.store::<{ l4::PORTS }, u32>(new_ports);
    // A computed zero is sent as all ones.
    udp.store::<{ l4::UDP_CHECKSUM }, u16>(if new == 0 { 0xffff } else { new });
    true
}

/// Lowers the maximum segment size of a SYN, or of the answer to it, to what both links carry. It is what the packet's
/// sender receives, in his own family; on the other link such a segment has the other header.
#[inline(never)]
fn clamp<F: Across>(env: impl Env, link: &Link, tcp: usize) {
    let from = env.link_of(env.ingress_ifindex());
    let from = from.and_then(|index| env.link(u32::from(index)));
    let mtu_in = from.map_or(u16::MAX, |link| link.mtu);
    let payload_in = mtu_in.saturating_sub((F::IP_LEN + TCP_LEN) as u16);
    let payload_out = link.mtu.saturating_sub((F::Other::IP_LEN + TCP_LEN) as u16);
    let payload = if payload_in < payload_out {
        payload_in
    } else {
        payload_out
    };
    env.clamp(tcp as u32, payload);
}

/// Makes an error about a packet of a session that leads across one of the other family: header, ICMP, and the quoted header.
#[inline(always)]
pub fn error<F: Across>(env: impl Env) -> u64 {
    let Some(layout) = F::walk(env, ETH_LEN) else {
        return Verdict::Pass.bits();
    };
    let Some(quote) = Quote::<F>::parse(env, layout.l4) else {
        return Verdict::Pass.bits();
    };
    let Some(line) = table::find(env, &quote.answers, quote.answers.hash(env.seed())) else {
        return Verdict::Pass.bits();
    };
    let line = line.as_ptr();
    // SAFETY: the table found the line. Its counters and its time stay: an error is no packet of the session.
    unsafe {
        if (*line).meta() & ACROSS == 0 {
            return Verdict::Drop.bits();
        }
        rewrite_error(env, &quote, line)
    }
}

/// # Safety
/// `line` must be a line of the session table that leads across.
#[inline(always)]
unsafe fn rewrite_error<F: Across>(env: impl Env, quote: &Quote<F>, line: *mut Line<F>) -> u64 {
    let frame = env.frame();
    // SAFETY: by the caller's promise.
    unsafe {
        let listener = (*line).listener;
        let (Some(ip), Some(inner), Some(icmp)) = (
            F::ip_at(&frame, ETH_LEN),
            F::walk(env, quote.ip),
            frame.part::<L4_LEN>(quote.icmp),
        ) else {
            return Verdict::Drop.bits();
        };
        if F::hops(&ip) <= 1 {
            return dropped(env, listener, Drop::TtlExpired).bits();
        }
        if !F::is_sound(env, ETH_LEN, quote.icmp) || inner.end < inner.l4 {
            return dropped(env, listener, Drop::Malformed).bits();
        }
        let Some(link) = way(env, line) else {
            return Verdict::Drop.bits();
        };
        let (Some(outer), Some(mut quoted)) = (
            F::facts(&frame, ETH_LEN, quote.icmp, Part::Whole, 0),
            F::facts(&frame, quote.ip, inner.l4, inner.part, inner.id),
        ) else {
            return Verdict::Drop.bits();
        };
        // As it was when it was sent.
        quoted.hops = quoted.hops.wrapping_add(1);
        let new_header = F::Other::header_len(&quoted);
        let old_header = inner.l4 - quote.ip;
        let [kind, code, ..] = icmp.load::<{ l4::ICMP_TYPE }, u32>().to_ne_bytes();
        let rest = icmp.load::<{ l4::ICMP_REST }, u32>();
        let ingress = env.link_of(env.ingress_ifindex());
        let ingress = ingress.and_then(|index| env.link(u32::from(index)));
        let mtu_in = ingress.map_or(u32::MAX >> 1, |link| u32::from(link.mtu));
        let mtu = |mtu: u32| {
            let mtu = if mtu_in < mtu { mtu_in } else { mtu };
            let mtu = (mtu + new_header as u32).saturating_sub(old_header as u32);
            if mtu > u32::from(link.mtu) {
                u32::from(link.mtu)
            } else {
                mtu
            }
        };
        let Some((kind, rest)) = F::convert(kind, code, rest, mtu) else {
            return dropped(env, listener, Drop::Untranslatable).bits();
        };
        let behind = quote.end - inner.l4;
        let len = L4_LEN + new_header + behind;
        if F::Other::IP_LEN + len > usize::from(link.mtu) {
            return dropped(env, listener, Drop::TooBig).bits();
        }

        // What goes out of the sum under the checksum, and then what comes in.
        let old = icmp.load::<{ l4::ICMP_CHECKSUM }, u16>();
        let Some(gone) = sum_range(env, quote.icmp, inner.l4) else {
            return dropped(env, listener, Drop::Malformed).bits();
        };
        let gone = gone + F::pseudo_of_icmp(F::addresses(&ip), quote.end - quote.icmp);
        let mut change = u64::from(!fold(gone)) + u64::from(old);
        let (ports, delta) = ((*line).new_ports, (*line).l4_delta);
        let (Some(l4), Some((src, dst))) = (
            rewrite_quoted(&frame, quote, ports, delta),
            F::new_addresses(env, line),
        ) else {
            return Verdict::Drop.bits();
        };
        change += l4;
        let start = ETH_LEN + F::Other::IP_LEN;
        if !env.move_start(inner.l4 as i32 - (start + L4_LEN + new_header) as i32) {
            return dropped(env, listener, Drop::NoHeadroom).bits();
        }
        let frame = env.frame();
        let proto = <F::Other as Related>::ICMP;
        let inner_len = inner.end - inner.l4;
        let (Some(()), Some(icmp), Some(())) = (
            F::Other::write_header(&frame, ETH_LEN, &outer, proto, len, (src, dst)),
            frame.part::<L4_LEN>(start),
            // Quoted is what goes the other way.
            F::Other::write_header(
                &frame,
                start + L4_LEN,
                &quoted,
                inner.proto,
                inner_len,
                (dst, src),
            ),
        ) else {
            return Verdict::Drop.bits();
        };
        icmp.store::<{ l4::ICMP_TYPE }, u16>(kind);
        icmp.store::<{ l4::ICMP_CHECKSUM }, u16>(0);
        icmp.store::<{ l4::ICMP_REST }, u32>(rest);
        let Some(come) = sum_range(env, start, start + L4_LEN + new_header) else {
            return Verdict::Drop.bits();
        };
        change += come + F::Other::pseudo_of_icmp((src, dst), len);
        icmp.store::<{ l4::ICMP_CHECKSUM }, u16>(apply(old, fold(change)));
        leave::<F::Other>(env, (*line).mac, link, Some(())).bits()
    }
}

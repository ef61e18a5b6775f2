//! Tunnel mode: the packet travels in an outer IP packet to the backend, which takes it off and answers directly.
//!
//! Both headers may be of either family. Between them is nothing (IPIP: RFC 2003, RFC 2473, RFC 4213), a UDP header (GUE,
//! variant 1, which carries IP packets directly: draft-ietf-intarea-gue, section 6), or a GRE header without options
//! (RFC 2784). The kernel's `ipip`, `sit`, `ip6tnl`, `fou` and `gre` devices take them all off.
//!
//! What is constant for a session is in its line: the outer addresses, as far as they fit, in place of the new ones; a
//! [`Kind`] in place of the difference for TCP and UDP; and in place of the new ports a pair that the flow's hash gives:
//! the ports of GUE, of which the source is also the flow label of an outer IPv6 header (RFC 6438).

use crate::checksum;
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Addr6, Family, V4, V6};
use crate::forward::{dropped, send};
use crate::frame::{Frame, Head};
use crate::link::Link;
use crate::packet::{
    DONT_FRAGMENT, ETH_LEN, GRE_LEN, IPV4_LEN, IPV4_PLAIN, IPV6_LEN, PROTO_GRE, PROTO_IPIP,
    PROTO_IPV6, PROTO_UDP, UDP_LEN, eth, ip4, ip6, l4,
};
use crate::service::Encapsulation;
use crate::session::{LINK_MASK, LINK_SHIFT, Line};

/// Time to live, and hop limit, of outer headers; the kernel's default for what it sends.
pub const OUTER_HOPS: u8 = 64;

/// What is in front of the inner packet, as a line keeps it: an [`Encapsulation`] in the lowest bits, and
/// [`Kind::OUTER_IPV6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// The outer header is IPv6; IPv4 otherwise.
    pub const OUTER_IPV6: u16 = 0x100;

    #[inline(always)]
    fn encapsulation(self) -> Encapsulation {
        Encapsulation::from_bits(self.0 as u8)
    }

    #[inline(always)]
    fn is_outer_ipv6(self) -> bool {
        self.0 & Self::OUTER_IPV6 != 0
    }

    /// Bytes of the outer IP header.
    #[inline(always)]
    fn header(self) -> usize {
        if self.is_outer_ipv6() {
            IPV6_LEN
        } else {
            IPV4_LEN
        }
    }

    /// Bytes between the outer IP header and the inner packet.
    #[inline(always)]
    fn between(self) -> usize {
        match self.encapsulation() {
            Encapsulation::Ipip => 0,
            Encapsulation::Gue => UDP_LEN,
            Encapsulation::Gre => GRE_LEN,
        }
    }
}

/// The outer header's protocol for an inner packet whose own number is `inner`.
#[inline(always)]
pub(crate) fn protocol(encapsulation: Encapsulation, inner: u8) -> u8 {
    match encapsulation {
        Encapsulation::Ipip => inner,
        Encapsulation::Gue => PROTO_UDP,
        Encapsulation::Gre => PROTO_GRE,
    }
}

/// What the outer header takes from the inner one.
#[derive(Clone, Copy)]
pub struct Inner {
    /// Type of service, or traffic class.
    class: u8,
    /// Identification, where the inner packet has one.
    id: u16,
    /// The don't-fragment flag: an inner IPv6 packet has it by its nature.
    dont_fragment: u16,
    /// Bytes of the inner packet.
    len: u32,
}

/// A family whose packets travel in tunnels, and whose headers are outer ones.
pub trait Tunnelled: Family {
    /// IP protocol number of this family inside of IP.
    const IN_IP: u8;

    /// The Ethernet and IP headers at their plain places.
    fn plain(frame: &Frame) -> Option<(Head<ETH_LEN>, Self::Ip)>;
    /// What an outer header takes from this one.
    fn inner(ip: &Self::Ip) -> Inner;
    /// An IPv4 address in the place of one of this family.
    fn hold4(addr: u32) -> Self::Addr;
    /// The addresses of an outer IPv6 header, as a line of this family keeps them. A line of IPv4 has no room: it keeps the
    /// last word of the source, and where the rest is ([`Env::tunnel_source`]); the destination is the backend's.
    fn hold6(src: Addr6, dst: Addr6, place: u32) -> (Self::Addr, Self::Addr);
    /// The addresses of an outer IPv4 header, from a line.
    ///
    /// # Safety
    /// `line` must be a line of the session table.
    unsafe fn outer4(line: *const Line<Self>) -> (u32, u32);
    /// The addresses of an outer IPv6 header, from a line.
    ///
    /// # Safety
    /// `line` must be a line of the session table.
    unsafe fn outer6(env: impl Env, line: *const Line<Self>) -> Option<(Addr6, Addr6)>;
}

impl Tunnelled for V4 {
    const IN_IP: u8 = PROTO_IPIP;

    #[inline(always)]
    fn plain(frame: &Frame) -> Option<(Head<ETH_LEN>, Self::Ip)> {
        let head = frame.head::<{ ETH_LEN + IPV4_LEN }>()?;
        Some((head.part::<0, ETH_LEN>(), head.part::<ETH_LEN, IPV4_LEN>()))
    }

    #[inline(always)]
    fn inner(ip: &Self::Ip) -> Inner {
        Inner {
            class: ip.load::<{ ip4::TOS }, u8>(),
            id: ip.load::<{ ip4::ID }, u16>(),
            dont_fragment: ip.load::<{ ip4::FRAGMENT }, u16>() & DONT_FRAGMENT,
            len: Self::packet_len(ip),
        }
    }

    #[inline(always)]
    fn hold4(addr: u32) -> u32 {
        addr
    }

    #[inline(always)]
    fn hold6(src: Addr6, _: Addr6, place: u32) -> (u32, u32) {
        (src.words()[3], place)
    }

    #[inline(always)]
    unsafe fn outer4(line: *const Line<Self>) -> (u32, u32) {
        // SAFETY: by the caller's promise.
        unsafe { ((*line).new_src, (*line).new_dst) }
    }

    #[inline(always)]
    unsafe fn outer6(env: impl Env, line: *const Line<Self>) -> Option<(Addr6, Addr6)> {
        // SAFETY: by the caller's promise.
        let (last, place, listener, backend) = unsafe {
            (
                (*line).new_src,
                (*line).new_dst,
                (*line).listener,
                (*line).backend,
            )
        };
        let [a, b, c, _] = match place.checked_sub(1) {
            Some(local) => env.local6(local)?.words(),
            None => env.tunnel_source(listener)?,
        };
        let dst = V6::narrow(env.backend(backend)?.addr)?;
        Some((Addr6::from_words([a, b, c, last]), dst))
    }
}

impl Tunnelled for V6 {
    const IN_IP: u8 = PROTO_IPV6;

    #[inline(always)]
    fn plain(frame: &Frame) -> Option<(Head<ETH_LEN>, Self::Ip)> {
        let head = frame.head::<{ ETH_LEN + IPV6_LEN }>()?;
        Some((head.part::<0, ETH_LEN>(), head.part::<ETH_LEN, IPV6_LEN>()))
    }

    #[inline(always)]
    fn inner(ip: &Self::Ip) -> Inner {
        let first = u32::from_be(ip.load::<{ ip6::VERSION }, u32>());
        Inner {
            class: (first >> 20) as u8,
            id: 0,
            dont_fragment: DONT_FRAGMENT,
            len: Self::packet_len(ip),
        }
    }

    #[inline(always)]
    fn hold4(addr: u32) -> Addr6 {
        Addr6::from_words(Self::widen_v4(addr))
    }

    #[inline(always)]
    fn hold6(src: Addr6, dst: Addr6, _: u32) -> (Addr6, Addr6) {
        (src, dst)
    }

    #[inline(always)]
    unsafe fn outer4(line: *const Line<Self>) -> (u32, u32) {
        // SAFETY: by the caller's promise.
        unsafe { ((*line).new_src.words()[3], (*line).new_dst.words()[3]) }
    }

    #[inline(always)]
    unsafe fn outer6(_: impl Env, line: *const Line<Self>) -> Option<(Addr6, Addr6)> {
        // SAFETY: by the caller's promise.
        Some(unsafe { ((*line).new_src, (*line).new_dst) })
    }
}

impl V6 {
    #[inline(always)]
    fn widen_v4(addr: u32) -> [u32; 4] {
        V4::widen(addr)
    }
}

/// The folded sum of what is the same in every outer IPv4 header of a session: version, time to live, protocol, addresses.
#[inline(always)]
pub(crate) fn constant(protocol: u8, src: u32, dst: u32) -> u16 {
    let fixed = u64::from(u16::from_ne_bytes([IPV4_PLAIN, 0]))
        + u64::from(u16::from_ne_bytes([OUTER_HOPS, protocol]));
    checksum::fold(fixed + u64::from(src) + u64::from(dst))
}

/// Bytes that go in front of a line's packets in tunnel mode.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn overhead<F: Family>(line: *const Line<F>) -> usize {
    // SAFETY: by the caller's promise.
    let kind = Kind(unsafe { (*line).l4_delta });
    kind.header() + kind.between()
}

/// Puts the outer header in front; the packet fits the link with it. The commonest kind, IPIP of IPv4, goes straight on;
/// the others are in a function of their own.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn encapsulate<F: Tunnelled>(
    env: impl Env,
    ip: &F::Ip,
    line: *mut Line<F>,
    link: &Link,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let kind = Kind(unsafe { (*line).l4_delta });
    if F::IN_IP != PROTO_IPIP || kind.0 != Encapsulation::Ipip as u16 {
        // SAFETY: by the caller's promise.
        return Verdict::from_bits(unsafe { encapsulate_other(env, line) });
    }
    let inner = F::inner(ip);
    // SAFETY: by the caller's promise. Read before the packet moves.
    let (addresses, constant, mac, listener) = unsafe {
        (
            F::outer4(line),
            (*line).ip_delta,
            (*line).mac,
            (*line).listener,
        )
    };
    let len = inner.len + IPV4_LEN as u32;
    if !env.move_start(-(IPV4_LEN as i32)) {
        return dropped(env, listener, Drop::NoHeadroom);
    }
    let Some((ethernet, ip)) = V4::plain(&env.frame()) else {
        return Verdict::Drop;
    };
    write4(&ip, &inner, len, F::IN_IP, constant, addresses);
    finish(env, &ethernet, V4::ETHERTYPE, mac, link)
}

/// Every other kind of outer header.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(never)]
unsafe fn encapsulate_other<F: Tunnelled>(env: impl Env, line: *mut Line<F>) -> u64 {
    // SAFETY: by the caller's promise; here and below single fields are read.
    let (meta, kind, listener) =
        unsafe { ((*line).meta(), Kind((*line).l4_delta), (*line).listener) };
    let Some(link) = env.link((meta & LINK_MASK) >> LINK_SHIFT) else {
        return Verdict::Drop.bits();
    };
    let Some((_, ip)) = F::plain(&env.frame()) else {
        return Verdict::Drop.bits();
    };
    let inner = F::inner(&ip);
    let encapsulation = kind.encapsulation();
    let (header, between) = (kind.header(), kind.between());
    let len = inner.len + (header + between) as u32;
    if !env.move_start(-((header + between) as i32)) {
        return dropped(env, listener, Drop::NoHeadroom).bits();
    }
    let frame = env.frame();
    let protocol = protocol(encapsulation, F::IN_IP);
    // SAFETY: by the caller's promise.
    let (ports, mac) = unsafe { ((*line).new_ports, (*line).mac) };
    let written = if kind.is_outer_ipv6() {
        // SAFETY: by the caller's promise.
        let Some(addresses) = (unsafe { F::outer6(env, line) }) else {
            return dropped(env, listener, Drop::NoNextHop).bits();
        };
        V6::plain(&frame).map(|(ethernet, ip)| {
            write6(&ip, &inner, len, protocol, ports as u16, addresses);
            (ethernet, V6::ETHERTYPE)
        })
    } else {
        // SAFETY: by the caller's promise.
        let (addresses, constant) = unsafe { (F::outer4(line), (*line).ip_delta) };
        V4::plain(&frame).map(|(ethernet, ip)| {
            write4(&ip, &inner, len, protocol, constant, addresses);
            (ethernet, V4::ETHERTYPE)
        })
    };
    let Some((ethernet, ethertype)) = written else {
        return Verdict::Drop.bits();
    };
    match encapsulation {
        Encapsulation::Ipip => {}
        Encapsulation::Gue => {
            let Some(udp) = frame.part::<UDP_LEN>(ETH_LEN + header) else {
                return Verdict::Drop.bits();
            };
            udp.store::<{ l4::PORTS }, u32>(ports);
            let len = (inner.len as u16 + UDP_LEN as u16).to_be();
            udp.store::<{ l4::UDP_LEN }, u16>(len);
            // None: the inner packet has its own, and with IPv6 tunnels may do without (RFC 6935).
            udp.store::<{ l4::UDP_CHECKSUM }, u16>(0);
        }
        Encapsulation::Gre => {
            let Some(gre) = frame.part::<GRE_LEN>(ETH_LEN + header) else {
                return Verdict::Drop.bits();
            };
            gre.store::<0, u16>(0);
            gre.store::<2, u16>(F::ETHERTYPE);
        }
    }
    finish(env, &ethernet, ethertype, mac, link).bits()
}

#[inline(always)]
fn finish(
    env: impl Env,
    ethernet: &Head<ETH_LEN>,
    ethertype: u16,
    mac: [u8; 6],
    link: &Link,
) -> Verdict {
    ethernet.store_mac::<{ eth::DST }>(mac);
    ethernet.store_mac::<{ eth::SRC }>(link.mac);
    ethernet.store::<{ eth::TYPE }, u16>(ethertype);
    send(env, link)
}

/// Writes an outer IPv4 header; `constant` is [`constant`].
#[inline(always)]
fn write4(
    ip: &Head<IPV4_LEN>,
    inner: &Inner,
    len: u32,
    protocol: u8,
    constant: u16,
    (src, dst): (u32, u32),
) {
    let len = (len as u16).to_be();
    ip.store::<{ ip4::VERSION }, u8>(IPV4_PLAIN);
    ip.store::<{ ip4::TOS }, u8>(inner.class);
    ip.store::<{ ip4::LEN }, u16>(len);
    ip.store::<{ ip4::ID }, u16>(inner.id);
    ip.store::<{ ip4::FRAGMENT }, u16>(inner.dont_fragment);
    ip.store::<{ ip4::TTL }, u8>(OUTER_HOPS);
    ip.store::<{ ip4::PROTO }, u8>(protocol);
    let sum = u64::from(constant)
        + u64::from(u16::from_ne_bytes([0, inner.class]))
        + u64::from(len)
        + u64::from(inner.id)
        + u64::from(inner.dont_fragment);
    ip.store::<{ ip4::CHECKSUM }, u16>(!checksum::fold(sum));
    V4::set_addresses(ip, src, dst);
}

/// Writes an outer IPv6 header.
#[inline(always)]
fn write6(
    ip: &Head<IPV6_LEN>,
    inner: &Inner,
    len: u32,
    protocol: u8,
    label: u16,
    (src, dst): (Addr6, Addr6),
) {
    let first = 6 << 28 | u32::from(inner.class) << 20 | u32::from(u16::from_be(label));
    ip.store::<{ ip6::VERSION }, u32>(first.to_be());
    ip.store::<{ ip6::LEN }, u16>(((len - IPV6_LEN as u32) as u16).to_be());
    ip.store::<{ ip6::NEXT }, u8>(protocol);
    ip.store::<{ ip6::HOPS }, u8>(OUTER_HOPS);
    V6::set_addresses(ip, src, dst);
}

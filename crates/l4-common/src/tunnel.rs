//! Tunnel mode: the packet travels in an outer IP packet to the backend, which takes it off and answers directly
//! (RFC 2003, RFC 2473).

use crate::checksum;
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Family, V4, V6};
use crate::forward::{dropped, send};
use crate::frame::Head;
use crate::link::Link;
use crate::packet::{
    DONT_FRAGMENT, ETH_LEN, IPV4_LEN, IPV4_PLAIN, IPV6_LEN, PROTO_IPIP, PROTO_IPV6, eth, ip4, ip6,
};
use crate::parse::Packet;
use crate::session::Line;

/// Time to live, and hop limit, of outer headers; the kernel's default for what it sends.
pub const OUTER_HOPS: u8 = 64;

/// A family whose packets can travel in an outer header of their own family.
pub trait Tunnelled: Family {
    /// What the outer header takes from the inner one.
    type Copied: Copy;
    /// Reads it.
    fn copied(ip: &Self::Ip) -> Self::Copied;
    /// What is the same in every outer header of a session, for the line to keep.
    fn constant(src: Self::Addr, dst: Self::Addr) -> u16;
    /// Writes the Ethernet header's type and the outer header at the beginning of the frame, which has got the room.
    /// False if the frame has it not.
    fn write_outer(
        env: impl Env,
        copied: Self::Copied,
        len: u32,
        constant: u16,
        addresses: (Self::Addr, Self::Addr),
    ) -> Option<Head<ETH_LEN>>;
}

impl Tunnelled for V4 {
    /// Type of service; identification; the don't-fragment flag.
    type Copied = (u8, u16, u16);

    #[inline(always)]
    fn copied(ip: &Self::Ip) -> Self::Copied {
        (
            ip.load::<{ ip4::TOS }, u8>(),
            ip.load::<{ ip4::ID }, u16>(),
            ip.load::<{ ip4::FRAGMENT }, u16>() & DONT_FRAGMENT,
        )
    }

    /// The folded sum of version, time to live, protocol and addresses.
    #[inline(always)]
    fn constant(src: u32, dst: u32) -> u16 {
        let fixed = u64::from(u16::from_ne_bytes([IPV4_PLAIN, 0]))
            + u64::from(u16::from_ne_bytes([OUTER_HOPS, PROTO_IPIP]));
        checksum::fold(fixed + u64::from(src) + u64::from(dst))
    }

    #[inline(always)]
    fn write_outer(
        env: impl Env,
        (tos, id, dont_fragment): Self::Copied,
        len: u32,
        constant: u16,
        (src, dst): (u32, u32),
    ) -> Option<Head<ETH_LEN>> {
        let head = env.frame().head::<{ ETH_LEN + IPV4_LEN }>()?;
        let outer = head.part::<ETH_LEN, IPV4_LEN>();
        let len = (len as u16).to_be();
        outer.store::<{ ip4::VERSION }, u8>(IPV4_PLAIN);
        outer.store::<{ ip4::TOS }, u8>(tos);
        outer.store::<{ ip4::LEN }, u16>(len);
        outer.store::<{ ip4::ID }, u16>(id);
        outer.store::<{ ip4::FRAGMENT }, u16>(dont_fragment);
        outer.store::<{ ip4::TTL }, u8>(OUTER_HOPS);
        outer.store::<{ ip4::PROTO }, u8>(PROTO_IPIP);
        let sum = u64::from(constant)
            + u64::from(u16::from_ne_bytes([0, tos]))
            + u64::from(len)
            + u64::from(id)
            + u64::from(dont_fragment);
        outer.store::<{ ip4::CHECKSUM }, u16>(!checksum::fold(sum));
        V4::set_addresses(&outer, src, dst);
        Some(head.part::<0, ETH_LEN>())
    }
}

impl Tunnelled for V6 {
    /// Version, traffic class and flow label.
    type Copied = u32;

    #[inline(always)]
    fn copied(ip: &Self::Ip) -> u32 {
        ip.load::<{ ip6::VERSION }, u32>()
    }

    #[inline(always)]
    fn constant(_: Self::Addr, _: Self::Addr) -> u16 {
        0
    }

    #[inline(always)]
    fn write_outer(
        env: impl Env,
        first: u32,
        len: u32,
        _: u16,
        (src, dst): (Self::Addr, Self::Addr),
    ) -> Option<Head<ETH_LEN>> {
        let head = env.frame().head::<{ ETH_LEN + IPV6_LEN }>()?;
        let outer = head.part::<ETH_LEN, IPV6_LEN>();
        outer.store::<{ ip6::VERSION }, u32>(first);
        outer.store::<{ ip6::LEN }, u16>(((len - IPV6_LEN as u32) as u16).to_be());
        outer.store::<{ ip6::NEXT }, u8>(PROTO_IPV6);
        outer.store::<{ ip6::HOPS }, u8>(OUTER_HOPS);
        V6::set_addresses(&outer, src, dst);
        Some(head.part::<0, ETH_LEN>())
    }
}

/// What is the same in every outer header of a session, for its line to keep.
#[inline(always)]
pub(crate) fn constant<F: Tunnelled>(src: F::Addr, dst: F::Addr) -> u16 {
    F::constant(src, dst)
}

/// Puts the outer header in front.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
pub(crate) unsafe fn encapsulate<F: Tunnelled>(
    env: impl Env,
    packet: &Packet<F>,
    line: *mut Line<F>,
    link: &Link,
) -> Verdict {
    let copied = F::copied(&packet.ip);
    // SAFETY: by the caller's promise. Read before the packet moves: the compiler keeps them in registers.
    let (addresses, constant, mac, listener) = unsafe {
        (
            ((*line).new_src, (*line).new_dst),
            (*line).ip_delta,
            (*line).mac,
            (*line).listener,
        )
    };
    let len = F::packet_len(&packet.ip) + F::IP_LEN as u32;
    if len > u32::from(link.mtu) {
        return dropped(env, listener, Drop::TooBig);
    }
    if !env.move_start(-(F::IP_LEN as i32)) {
        return dropped(env, listener, Drop::NoHeadroom);
    }
    let Some(ethernet) = F::write_outer(env, copied, len, constant, addresses) else {
        return Verdict::Drop;
    };
    ethernet.store_mac::<{ eth::DST }>(mac);
    ethernet.store_mac::<{ eth::SRC }>(link.mac);
    ethernet.store::<{ eth::TYPE }, u16>(F::ETHERTYPE);
    send(env, link)
}

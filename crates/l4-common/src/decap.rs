//! The backend's end of a tunnel: the outer header comes off, and the kernel gets the packet as the client sent it.

use crate::env::Verdict;
use crate::frame::{Frame, Head};
use crate::packet::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_MASK, GRE_LEN, IPV4_LEN, IPV4_PLAIN,
    IPV6_LEN, PROTO_GRE, PROTO_IPIP, PROTO_IPV6, PROTO_UDP, UDP_LEN, eth, ip4, ip6, l4,
};
use crate::service::mapped;

/// What the decapsulation asks of the machine.
pub trait DecapEnv: Copy {
    /// The packet as it is now.
    fn frame(&self) -> Frame;
    /// Takes `bytes` bytes off the packet's front; false if it is shorter.
    fn shrink(&self, bytes: u32) -> bool;
    /// Whether tunnels to this address end here; network byte order, IPv4 as [`mapped`].
    fn ends_here(&self, addr: &[u32; 4]) -> bool;
    /// The port of GUE, network byte order.
    fn gue_port(&self) -> u16;
    /// Counts a packet that was taken out of its tunnel.
    fn count(&self);
}

/// An outer header.
struct Outer {
    /// Bytes of the IP header.
    len: usize,
    protocol: u8,
    dst: [u32; 4],
}

/// Takes the outer header off a packet to us: IPIP, GUE (variant 1) or GRE, each in IPv4 and IPv6 and with either in it.
/// Everything else goes on untouched.
#[inline(always)]
pub fn decap(env: impl DecapEnv) -> Verdict {
    let frame = env.frame();
    let Some(outer) = outer(&frame) else {
        return Verdict::Pass;
    };
    let Some(between) = between(env, &frame, &outer) else {
        return Verdict::Pass;
    };
    let cut = outer.len + between;
    let Some(inner) = frame.part::<1>(ETH_LEN + cut) else {
        return Verdict::Pass;
    };
    let ethertype = match (inner.load::<0, u8>() >> 4, outer.protocol) {
        (4, PROTO_IPIP | PROTO_UDP | PROTO_GRE) => ETHERTYPE_IPV4,
        (6, PROTO_IPV6 | PROTO_UDP | PROTO_GRE) => ETHERTYPE_IPV6,
        _ => return Verdict::Pass,
    };
    if !env.ends_here(&outer.dst) {
        return Verdict::Pass;
    }
    let Some(head) = frame.head::<ETH_LEN>() else {
        return Verdict::Pass;
    };
    let (dst, src) = (
        head.load_mac::<{ eth::DST }>(),
        head.load_mac::<{ eth::SRC }>(),
    );
    if !env.shrink(cut as u32) {
        return Verdict::Drop;
    }
    let Some(head) = env.frame().head::<ETH_LEN>() else {
        return Verdict::Drop;
    };
    head.store_mac::<{ eth::DST }>(dst);
    head.store_mac::<{ eth::SRC }>(src);
    head.store::<{ eth::TYPE }, u16>(ethertype);
    env.count();
    Verdict::Pass
}

/// A plain and whole IP header.
#[inline(always)]
fn outer(frame: &Frame) -> Option<Outer> {
    let head = frame.head::<{ ETH_LEN + IPV4_LEN }>()?;
    match head.load::<{ eth::TYPE }, u16>() {
        ETHERTYPE_IPV4 => {
            let ip = head.part::<ETH_LEN, IPV4_LEN>();
            let plain = ip.load::<{ ip4::VERSION }, u8>() == IPV4_PLAIN;
            let whole = ip.load::<{ ip4::FRAGMENT }, u16>() & FRAGMENT_MASK == 0;
            (plain && whole).then(|| Outer {
                len: IPV4_LEN,
                protocol: ip.load::<{ ip4::PROTO }, u8>(),
                dst: mapped(ip.load::<{ ip4::DST }, u32>()),
            })
        }
        ETHERTYPE_IPV6 => {
            let ip: Head<IPV6_LEN> = frame
                .head::<{ ETH_LEN + IPV6_LEN }>()?
                .part::<ETH_LEN, IPV6_LEN>();
            (ip.load::<{ ip6::VERSION }, u8>() >> 4 == 6).then(|| Outer {
                len: IPV6_LEN,
                protocol: ip.load::<{ ip6::NEXT }, u8>(),
                dst: [
                    ip.load::<{ ip6::DST }, u32>(),
                    ip.load::<{ ip6::DST + 4 }, u32>(),
                    ip.load::<{ ip6::DST + 8 }, u32>(),
                    ip.load::<{ ip6::DST + 12 }, u32>(),
                ],
            })
        }
        _ => None,
    }
}

/// Bytes between the outer header and the inner one; `None` if there is no inner one.
#[inline(always)]
fn between(env: impl DecapEnv, frame: &Frame, outer: &Outer) -> Option<usize> {
    match outer.protocol {
        PROTO_IPIP | PROTO_IPV6 => Some(0),
        PROTO_UDP => {
            let udp = frame.part::<UDP_LEN>(ETH_LEN + outer.len)?;
            let ours = udp.load::<{ l4::PORTS + 2 }, u16>() == env.gue_port();
            ours.then_some(UDP_LEN)
        }
        PROTO_GRE => {
            let gre = frame.part::<GRE_LEN>(ETH_LEN + outer.len)?;
            // No checksum, key or sequence number, version 0: none of them is what we send.
            let plain = gre.load::<0, u16>() == 0;
            let ip = matches!(gre.load::<2, u16>(), ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
            (plain && ip).then_some(GRE_LEN)
        }
        _ => None,
    }
}

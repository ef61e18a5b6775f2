//! Echo: a VIP answers ping, whether or not the kernel has the address (RFC 792, RFC 4443).

use crate::checksum::{apply, difference32, fold};
use crate::env::{Env, Verdict};
use crate::family::{Addr6, Family, V4, V6};
use crate::forward::{UNUSUAL4, UNUSUAL6};
use crate::frame::Head;
use crate::packet::{ETH_LEN, IPV4_LEN, IPV6_LEN, L4_LEN, eth, ip4, ip6, l4};
use crate::service::mapped;

/// Type 8, code 0, and type 0, code 0, as they lie in the packet.
const ECHO_REQUEST: u16 = u16::from_ne_bytes([8, 0]);
const ECHO_REPLY: u16 = 0;
/// Type 128, code 0, and type 129, code 0.
const ECHO_REQUEST6: u16 = u16::from_ne_bytes([128, 0]);
const ECHO_REPLY6: u16 = u16::from_ne_bytes([129, 0]);
/// Time to live, and hop limit, of an answer.
const HOPS: u8 = 64;

/// Turns an echo request to a VIP into its answer; all other packets of ICMP are [`crate::unusual`]. The packet has an IPv4 header
/// without options.
#[inline(never)]
pub(crate) fn answer4(env: impl Env) -> u64 {
    const LEN: usize = ETH_LEN + IPV4_LEN + L4_LEN;
    let Some(head) = env.frame().head::<LEN>() else {
        return Verdict::Pass.bits();
    };
    let (ip, icmp) = (
        head.part::<ETH_LEN, IPV4_LEN>(),
        head.part::<{ ETH_LEN + IPV4_LEN }, L4_LEN>(),
    );
    let (src, dst) = (
        ip.load::<{ ip4::SRC }, u32>(),
        ip.load::<{ ip4::DST }, u32>(),
    );
    if icmp.load::<{ l4::ICMP_TYPE }, u16>() != ECHO_REQUEST {
        return UNUSUAL4;
    }
    if !env.is_vip(&mapped(dst)) || !is_whole::<V4>(env, &ip) {
        return Verdict::Pass.bits();
    }
    V4::set_addresses(&ip, dst, src);
    let ttl = ip.load::<{ ip4::TTL }, u8>();
    ip.store::<{ ip4::TTL }, u8>(HOPS);
    let delta = fold(difference32(u32::from(ttl), u32::from(HOPS)));
    let checksum = ip.load::<{ ip4::CHECKSUM }, u16>();
    ip.store::<{ ip4::CHECKSUM }, u16>(apply(checksum, delta));
    reply(&head.part::<0, ETH_LEN>(), &icmp, ECHO_REQUEST, ECHO_REPLY)
}

/// The same for ICMPv6. The checksum is also over both addresses, which change places.
#[inline(never)]
pub(crate) fn answer6(env: impl Env) -> u64 {
    const LEN: usize = ETH_LEN + IPV6_LEN + L4_LEN;
    let Some(head) = env.frame().head::<LEN>() else {
        return Verdict::Pass.bits();
    };
    let (ip, icmp) = (
        head.part::<ETH_LEN, IPV6_LEN>(),
        head.part::<{ ETH_LEN + IPV6_LEN }, L4_LEN>(),
    );
    if icmp.load::<{ l4::ICMP_TYPE }, u16>() != ECHO_REQUEST6 {
        return UNUSUAL6;
    }
    let src = Addr6 {
        high: ip.load::<{ ip6::SRC }, u64>(),
        low: ip.load::<{ ip6::SRC + 8 }, u64>(),
    };
    let dst = Addr6 {
        high: ip.load::<{ ip6::DST }, u64>(),
        low: ip.load::<{ ip6::DST + 8 }, u64>(),
    };
    if !env.is_vip(&dst.words()) || !is_whole::<V6>(env, &ip) {
        return Verdict::Pass.bits();
    }
    V6::set_addresses(&ip, dst, src);
    ip.store::<{ ip6::HOPS }, u8>(HOPS);
    reply(
        &head.part::<0, ETH_LEN>(),
        &icmp,
        ECHO_REQUEST6,
        ECHO_REPLY6,
    )
}

/// Whether all of a packet has arrived that its header speaks of, and the header of an echo is in it.
#[inline(always)]
fn is_whole<F: Family>(env: impl Env, ip: &F::Ip) -> bool {
    let len = F::packet_len(ip) as usize;
    len >= F::IP_LEN + L4_LEN && ETH_LEN + len <= env.frame().len()
}

/// What is left to do in both families: the type and its checksum, and the way back.
#[inline(always)]
fn reply(ethernet: &Head<ETH_LEN>, icmp: &Head<L4_LEN>, request: u16, reply: u16) -> u64 {
    icmp.store::<{ l4::ICMP_TYPE }, u16>(reply);
    let delta = fold(u64::from(!request) + u64::from(reply));
    let checksum = icmp.load::<{ l4::ICMP_CHECKSUM }, u16>();
    icmp.store::<{ l4::ICMP_CHECKSUM }, u16>(apply(checksum, delta));
    let (to, from) = (
        ethernet.load_mac::<{ eth::SRC }>(),
        ethernet.load_mac::<{ eth::DST }>(),
    );
    ethernet.store_mac::<{ eth::DST }>(to);
    ethernet.store_mac::<{ eth::SRC }>(from);
    Verdict::Transmit.bits()
}

//! Echo: a VIP answers ping, whether or not the kernel has the address (RFC 792).

use crate::checksum::{apply, difference32, fold};
use crate::env::{Env, Verdict};
use crate::packet::{UDP_HEAD, at};
use crate::service::mapped;

/// Type 8, code 0, and type 0, code 0, as they lie in the packet.
const ECHO_REQUEST: u16 = u16::from_ne_bytes([8, 0]);
const ECHO_REPLY: u16 = 0;
/// Time to live of an answer.
const TTL: u8 = 64;

/// Turns an echo request to a VIP into its answer; everything else of ICMP is the kernel's.
#[inline(never)]
pub(crate) fn answer(env: impl Env) -> u64 {
    let Some(head) = env.frame().head::<UDP_HEAD>() else {
        return Verdict::Pass.bits();
    };
    let dst = head.load::<{ at::IP_DST }, u32>();
    if head.load::<{ at::ICMP_TYPE }, u16>() != ECHO_REQUEST || !env.is_vip(&mapped(dst)) {
        return Verdict::Pass.bits();
    }
    let src = head.load::<{ at::IP_SRC }, u32>();
    head.store::<{ at::IP_SRC }, u32>(dst);
    head.store::<{ at::IP_DST }, u32>(src);
    head.store::<{ at::ICMP_TYPE }, u16>(ECHO_REPLY);
    let delta = fold(u64::from(!ECHO_REQUEST));
    let checksum = head.load::<{ at::ICMP_CHECKSUM }, u16>();
    head.store::<{ at::ICMP_CHECKSUM }, u16>(apply(checksum, delta));
    let ttl = head.load::<{ at::IP_TTL }, u8>();
    head.store::<{ at::IP_TTL }, u8>(TTL);
    let delta = fold(difference32(u32::from(ttl), u32::from(TTL)));
    let checksum = head.load::<{ at::IP_CHECKSUM }, u16>();
    head.store::<{ at::IP_CHECKSUM }, u16>(apply(checksum, delta));
    let (to, from) = (
        head.load_mac::<{ at::ETH_SRC }>(),
        head.load_mac::<{ at::ETH_DST }>(),
    );
    head.store_mac::<{ at::ETH_DST }>(to);
    head.store_mac::<{ at::ETH_SRC }>(from);
    Verdict::Transmit.bits()
}

//! The backend's end of a tunnel: the outer header comes off, and the kernel gets the packet as the client sent it.

use crate::env::Verdict;
use crate::frame::Frame;
use crate::packet::{ETH_LEN, ETHERTYPE_IPV4, FRAGMENT_MASK, IPV4_LEN, IPV4_PLAIN, PROTO_IPIP, at};

/// What the decapsulation asks of the machine.
pub trait DecapEnv: Copy {
    /// The packet as it is now.
    fn frame(&self) -> Frame;
    /// Takes `bytes` bytes off the packet's front; false if it is shorter.
    fn shrink(&self, bytes: u32) -> bool;
    /// Whether tunnels to this address, in network byte order, end here.
    fn ends_here(&self, addr: u32) -> bool;
    /// Counts a packet that was taken out of its tunnel.
    fn count(&self);
}

/// Takes the outer header off an IPIP packet to us (RFC 2003); everything else goes on untouched.
#[inline(always)]
pub fn decap(env: impl DecapEnv) -> Verdict {
    const HEAD: usize = ETH_LEN + 2 * IPV4_LEN;
    let Some(head) = env.frame().head::<HEAD>() else {
        return Verdict::Pass;
    };
    let inner = head.load::<{ at::IP_VERSION + IPV4_LEN }, u8>();
    let ours = head.load::<{ at::ETHERTYPE }, u16>() == ETHERTYPE_IPV4
        && head.load::<{ at::IP_VERSION }, u8>() == IPV4_PLAIN
        && head.load::<{ at::IP_PROTO }, u8>() == PROTO_IPIP
        && head.load::<{ at::IP_FRAGMENT }, u16>() & FRAGMENT_MASK == 0
        && inner >> 4 == 4
        && env.ends_here(head.load::<{ at::IP_DST }, u32>());
    if !ours {
        return Verdict::Pass;
    }
    let (dst, src) = (
        head.load_mac::<{ at::ETH_DST }>(),
        head.load_mac::<{ at::ETH_SRC }>(),
    );
    if !env.shrink(IPV4_LEN as u32) {
        return Verdict::Drop;
    }
    let Some(head) = env.frame().head::<ETH_LEN>() else {
        return Verdict::Drop;
    };
    head.store_mac::<{ at::ETH_DST }>(dst);
    head.store_mac::<{ at::ETH_SRC }>(src);
    head.store::<{ at::ETHERTYPE }, u16>(ETHERTYPE_IPV4);
    env.count();
    Verdict::Pass
}

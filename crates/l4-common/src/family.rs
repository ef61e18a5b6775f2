//! The two families of IP: what an address is, and how a header is read and rewritten. All the rest of the packet
//! logic is written once for both.

use core::fmt::Debug;
use core::hash::Hash;
use core::mem::offset_of;

use crate::checksum::{self, difference32};
use crate::env::{Env, NextHop};
use crate::frame::{Frame, Head};
use crate::hash::{FIRST_FACTOR, FlowKey};
use crate::open::Opening;
use crate::packet::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_MASK, IPV4_LEN, IPV4_PLAIN, IPV6_LEN, L4_LEN,
    PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, TCP_LEN, at, eth, ip4, ip6, is_extension, l4,
};
use crate::parse::{Other, Packet};
use crate::service::{Settings, mapped};
use crate::session::{ACK, FIN, Line, RST, SYN, Set};

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V6;

/// An IPv6 address as it lies in the packet: two words in memory order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr6 {
    /// The first eight bytes.
    pub high: u64,
    /// The last eight bytes.
    pub low: u64,
}

impl Addr6 {
    /// From four words in memory order.
    #[inline(always)]
    pub const fn from_words([a, b, c, d]: [u32; 4]) -> Self {
        Self {
            high: a as u64 | (b as u64) << 32,
            low: c as u64 | (d as u64) << 32,
        }
    }

    /// As four words in memory order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        let (high, low) = (self.high, self.low);
        [
            high as u32,
            (high >> 32) as u32,
            low as u32,
            (low >> 32) as u32,
        ]
    }
}

/// A family of IP.
pub trait Family: Copy + Debug + Default + Eq + Hash + 'static {
    /// An address as it lies in the packet.
    type Addr: Copy + Debug + Default + Eq + Hash;
    /// An IP header without options or extension headers.
    type Ip: Copy;

    /// EtherType, as it lies in the frame.
    const ETHERTYPE: u16;
    /// Bytes of an IP header without options or extension headers.
    const IP_LEN: usize;

    /// A whole packet of this family with nothing between its IP header and TCP or UDP.
    fn parse(frame: Frame) -> Result<Packet<Self>, Other>;

    /// The address in sixteen bytes; IPv4 as [`mapped`].
    fn widen(addr: Self::Addr) -> [u32; 4];
    /// The address from sixteen bytes; `None` if it is of the other family.
    fn narrow(addr: [u32; 4]) -> Option<Self::Addr>;
    /// The address in one word, for hashing.
    fn word(addr: Self::Addr) -> u64;
    /// The addresses of a flow under a seed, mixed into one word.
    fn mix(key: &FlowKey<Self>, seed: u64) -> u64;
    /// What changing one address to another adds to a sum, not folded.
    fn difference(old: Self::Addr, new: Self::Addr) -> u64;
    /// The bits in which the addresses of a line differ from those of a flow; 0: they are the same. Read as they are at
    /// this moment: others may be writing them.
    ///
    /// # Safety
    /// `line` must be a line of the session table.
    unsafe fn differing_addresses(line: *const Line<Self>, key: &FlowKey<Self>) -> u64;

    /// Number of sets in the session table.
    fn sets(env: impl Env) -> u32;
    /// The set with this index.
    fn set(env: impl Env, index: u32) -> Option<*mut Set<Self>>;
    /// The number of the line of the flow with this hash: [`crate::table::number`].
    fn find(env: impl Env, key: &FlowKey<Self>, hash: u64) -> u32;
    /// This core's memory for a session that is being opened.
    fn opening(env: impl Env) -> Option<*mut Opening<Self>>;
    /// How many local addresses there are.
    fn locals(settings: Settings) -> u32;
    /// A local address.
    fn local(env: impl Env, index: u32) -> Option<Self::Addr>;
    /// The kernel's next hop for a packet from `src` to `dst`.
    fn next_hop(env: impl Env, src: Self::Addr, dst: Self::Addr) -> NextHop;

    /// Time to live, or hop limit.
    fn hops(ip: &Self::Ip) -> u8;
    /// One hop less than `hops`; `delta` is what else changes of the header's checksum.
    fn take_hop(ip: &Self::Ip, hops: u8, delta: u16);
    /// Writes both addresses; the header's checksum stays.
    fn set_addresses(ip: &Self::Ip, src: Self::Addr, dst: Self::Addr);
    /// Writes both addresses that a line rewrites to; the header's checksum stays.
    ///
    /// # Safety
    /// `line` must be a line of the session table.
    unsafe fn rewrite_addresses(ip: &Self::Ip, line: *const Line<Self>);
    /// Bytes of the whole packet from the IP header on.
    fn packet_len(ip: &Self::Ip) -> u32;
}

impl Family for V4 {
    type Addr = u32;
    type Ip = Head<IPV4_LEN>;

    const ETHERTYPE: u16 = ETHERTYPE_IPV4;
    const IP_LEN: usize = IPV4_LEN;

    #[inline(always)]
    fn parse(frame: Frame) -> Result<Packet<Self>, Other> {
        let head = frame
            .head::<{ ETH_LEN + IPV4_LEN + L4_LEN }>()
            // The last fragment of a datagram may be shorter.
            .ok_or(Other::Unusual)?;
        if head.load::<{ at::ETHERTYPE }, u16>() != ETHERTYPE_IPV4 {
            return Err(Other::NotIpv4);
        }
        let ip = head.part::<ETH_LEN, IPV4_LEN>();
        let plain = ip.load::<{ ip4::VERSION }, u8>() == IPV4_PLAIN;
        let whole = ip.load::<{ ip4::FRAGMENT }, u16>() & FRAGMENT_MASK == 0;
        if !plain || !whole {
            return Err(Other::Unusual);
        }
        let udp = match ip.load::<{ ip4::PROTO }, u8>() {
            PROTO_TCP => false,
            PROTO_UDP => true,
            PROTO_ICMP => return Err(Other::Icmp),
            _ => return Err(Other::Foreign),
        };
        let ip_len = usize::from(u16::from_be(ip.load::<{ ip4::LEN }, u16>()));
        let l4_len = if udp { L4_LEN } else { TCP_LEN };
        if ip_len < IPV4_LEN + l4_len || ip_len + ETH_LEN > frame.len() {
            return Err(Other::Malformed);
        }
        let l4 = head.part::<{ ETH_LEN + IPV4_LEN }, L4_LEN>();
        let flags = if udp { 0 } else { tcp_flags(&frame, &l4)? };
        // Both in one word, as the hash and the comparison with a line take them.
        let addresses = ip.load::<{ ip4::SRC }, u64>();
        let key = FlowKey {
            src: addresses as u32,
            dst: (addresses >> 32) as u32,
            ports: l4.load::<{ l4::PORTS }, u32>(),
            udp,
        };
        Ok(Packet {
            frame,
            eth: head.part::<0, ETH_LEN>(),
            ip,
            l4,
            key,
            flags,
        })
    }

    #[inline(always)]
    fn widen(addr: u32) -> [u32; 4] {
        mapped(addr)
    }

    #[inline(always)]
    fn narrow(addr: [u32; 4]) -> Option<u32> {
        let [a, b, c, d] = addr;
        (a | b == 0 && c == 0xffffu32.to_be()).then_some(d)
    }

    #[inline(always)]
    fn word(addr: u32) -> u64 {
        u64::from(addr)
    }

    #[inline(always)]
    fn mix(key: &FlowKey<Self>, seed: u64) -> u64 {
        let h = key.addresses() ^ seed ^ u64::from(key.udp) << 63;
        (h ^ h >> 32).wrapping_mul(FIRST_FACTOR)
    }

    #[inline(always)]
    fn difference(old: u32, new: u32) -> u64 {
        difference32(old, new)
    }

    #[inline(always)]
    unsafe fn differing_addresses(line: *const Line<Self>, key: &FlowKey<Self>) -> u64 {
        // SAFETY: by the caller's promise; both addresses are eight bytes in a row at the line's start.
        unsafe { (&raw const (*line).src).cast::<u64>().read_volatile() ^ key.addresses() }
    }

    #[inline(always)]
    fn sets(env: impl Env) -> u32 {
        env.sets4()
    }

    #[inline(always)]
    fn set(env: impl Env, index: u32) -> Option<*mut Set<Self>> {
        env.set4(index)
    }

    #[inline(always)]
    fn find(env: impl Env, key: &FlowKey<Self>, hash: u64) -> u32 {
        env.find4(key, hash)
    }

    #[inline(always)]
    fn opening(env: impl Env) -> Option<*mut Opening<Self>> {
        env.opening4()
    }

    #[inline(always)]
    fn locals(settings: Settings) -> u32 {
        settings.locals
    }

    #[inline(always)]
    fn local(env: impl Env, index: u32) -> Option<u32> {
        env.local4(index).filter(|addr| *addr != 0)
    }

    #[inline(always)]
    fn next_hop(env: impl Env, src: u32, dst: u32) -> NextHop {
        env.next_hop4(src, dst)
    }

    #[inline(always)]
    fn hops(ip: &Self::Ip) -> u8 {
        ip.load::<{ ip4::TTL }, u8>()
    }

    #[inline(always)]
    fn take_hop(ip: &Self::Ip, hops: u8, delta: u16) {
        // One less in the first byte of its word: as a difference, 0xfeff in network byte order.
        const TTL_DELTA: u32 = 0xfeffu16.to_be() as u32;
        ip.store::<{ ip4::TTL }, u8>(hops - 1);
        let delta = TTL_DELTA + u32::from(delta);
        let delta = ((delta & 0xffff) + (delta >> 16)) as u16;
        let old = ip.load::<{ ip4::CHECKSUM }, u16>();
        ip.store::<{ ip4::CHECKSUM }, u16>(checksum::apply(old, delta));
    }

    #[inline(always)]
    fn set_addresses(ip: &Self::Ip, src: u32, dst: u32) {
        ip.store::<{ ip4::SRC }, u32>(src);
        ip.store::<{ ip4::DST }, u32>(dst);
    }

    #[inline(always)]
    unsafe fn rewrite_addresses(ip: &Self::Ip, line: *const Line<Self>) {
        const { assert!(offset_of!(Line<V4>, new_dst) == offset_of!(Line<V4>, new_src) + 4) };
        // SAFETY: by the caller's promise; both addresses are eight bytes in a row, in the line as in the header.
        ip.store::<{ ip4::SRC }, u64>(unsafe { (&raw const (*line).new_src).cast::<u64>().read() });
    }

    #[inline(always)]
    fn packet_len(ip: &Self::Ip) -> u32 {
        u32::from(u16::from_be(ip.load::<{ ip4::LEN }, u16>()))
    }
}

impl Family for V6 {
    type Addr = Addr6;
    type Ip = Head<IPV6_LEN>;

    const ETHERTYPE: u16 = ETHERTYPE_IPV6;
    const IP_LEN: usize = IPV6_LEN;

    #[inline(always)]
    fn parse(frame: Frame) -> Result<Packet<Self>, Other> {
        let head = frame
            .head::<{ ETH_LEN + IPV6_LEN + L4_LEN }>()
            .ok_or(Other::Foreign)?;
        if head.load::<{ eth::TYPE }, u16>() != ETHERTYPE_IPV6 {
            return Err(Other::Foreign);
        }
        let ip = head.part::<ETH_LEN, IPV6_LEN>();
        if ip.load::<{ ip6::VERSION }, u8>() >> 4 != 6 {
            return Err(Other::Foreign);
        }
        let udp = match ip.load::<{ ip6::NEXT }, u8>() {
            PROTO_TCP => false,
            PROTO_UDP => true,
            PROTO_ICMPV6 => return Err(Other::Icmp),
            next if is_extension(next) => return Err(Other::Unusual),
            _ => return Err(Other::Foreign),
        };
        let payload_len = usize::from(u16::from_be(ip.load::<{ ip6::LEN }, u16>()));
        let l4_len = if udp { L4_LEN } else { TCP_LEN };
        if payload_len < l4_len || payload_len + IPV6_LEN + ETH_LEN > frame.len() {
            return Err(Other::Malformed);
        }
        let l4 = head.part::<{ ETH_LEN + IPV6_LEN }, L4_LEN>();
        let flags = if udp { 0 } else { tcp_flags(&frame, &l4)? };
        let key = FlowKey {
            src: Addr6 {
                high: ip.load::<{ ip6::SRC }, u64>(),
                low: ip.load::<{ ip6::SRC + 8 }, u64>(),
            },
            dst: Addr6 {
                high: ip.load::<{ ip6::DST }, u64>(),
                low: ip.load::<{ ip6::DST + 8 }, u64>(),
            },
            ports: l4.load::<{ l4::PORTS }, u32>(),
            udp,
        };
        Ok(Packet {
            frame,
            eth: head.part::<0, ETH_LEN>(),
            ip,
            l4,
            key,
            flags,
        })
    }

    #[inline(always)]
    fn widen(addr: Addr6) -> [u32; 4] {
        addr.words()
    }

    #[inline(always)]
    fn narrow(addr: [u32; 4]) -> Option<Addr6> {
        if V4::narrow(addr).is_some() {
            None
        } else {
            Some(Addr6::from_words(addr))
        }
    }

    #[inline(always)]
    fn word(addr: Addr6) -> u64 {
        (addr.high ^ addr.high >> 32).wrapping_mul(FIRST_FACTOR) ^ addr.low
    }

    #[inline(always)]
    fn mix(key: &FlowKey<Self>, seed: u64) -> u64 {
        // Each word has a factor of its own and is mixed before they are added, side by side: half the time of one
        // after the other. The seed is in each, so that no two words can be played against each other.
        const FACTORS: [u64; 4] = [
            0x9e37_79b9_7f4a_7c15,
            0xc2b2_ae3d_27d4_eb4f,
            0xd6e8_feb8_6659_fd93,
            0xa076_1d64_78bd_642f,
        ];
        let word = |word: u64, factor: u64| {
            let h = (word ^ seed).wrapping_mul(factor);
            h ^ h >> 32
        };
        let src = word(key.src.high, FACTORS[0]).wrapping_add(word(key.src.low, FACTORS[1]));
        let dst = word(key.dst.high, FACTORS[2]).wrapping_add(word(key.dst.low, FACTORS[3]));
        let h = src.wrapping_add(dst) ^ seed ^ u64::from(key.udp) << 63;
        (h ^ h >> 32).wrapping_mul(FIRST_FACTOR)
    }

    #[inline(always)]
    fn difference(old: Addr6, new: Addr6) -> u64 {
        let (old, new) = (old.words(), new.words());
        difference32(old[0], new[0])
            + difference32(old[1], new[1])
            + difference32(old[2], new[2])
            + difference32(old[3], new[3])
    }

    #[inline(always)]
    unsafe fn differing_addresses(line: *const Line<Self>, key: &FlowKey<Self>) -> u64 {
        // SAFETY: by the caller's promise.
        unsafe {
            let (src, dst) = (&raw const (*line).src, &raw const (*line).dst);
            ((&raw const (*src).low).read_volatile() ^ key.src.low)
                | ((&raw const (*src).high).read_volatile() ^ key.src.high)
                | ((&raw const (*dst).low).read_volatile() ^ key.dst.low)
                | ((&raw const (*dst).high).read_volatile() ^ key.dst.high)
        }
    }

    #[inline(always)]
    fn sets(env: impl Env) -> u32 {
        env.sets6()
    }

    #[inline(always)]
    fn set(env: impl Env, index: u32) -> Option<*mut Set<Self>> {
        env.set6(index)
    }

    #[inline(always)]
    fn find(env: impl Env, key: &FlowKey<Self>, hash: u64) -> u32 {
        env.find6(key, hash)
    }

    #[inline(always)]
    fn opening(env: impl Env) -> Option<*mut Opening<Self>> {
        env.opening6()
    }

    #[inline(always)]
    fn locals(settings: Settings) -> u32 {
        settings.locals6
    }

    #[inline(always)]
    fn local(env: impl Env, index: u32) -> Option<Addr6> {
        env.local6(index).filter(|addr| addr.high | addr.low != 0)
    }

    #[inline(always)]
    fn next_hop(env: impl Env, src: Addr6, dst: Addr6) -> NextHop {
        env.next_hop6(src, dst)
    }

    #[inline(always)]
    fn hops(ip: &Self::Ip) -> u8 {
        ip.load::<{ ip6::HOPS }, u8>()
    }

    #[inline(always)]
    fn take_hop(ip: &Self::Ip, hops: u8, _: u16) {
        ip.store::<{ ip6::HOPS }, u8>(hops - 1);
    }

    #[inline(always)]
    fn set_addresses(ip: &Self::Ip, src: Addr6, dst: Addr6) {
        ip.store::<{ ip6::SRC }, u64>(src.high);
        ip.store::<{ ip6::SRC + 8 }, u64>(src.low);
        ip.store::<{ ip6::DST }, u64>(dst.high);
        ip.store::<{ ip6::DST + 8 }, u64>(dst.low);
    }

    #[inline(always)]
    unsafe fn rewrite_addresses(ip: &Self::Ip, line: *const Line<Self>) {
        // SAFETY: by the caller's promise.
        let (src, dst) = unsafe { ((*line).new_src, (*line).new_dst) };
        Self::set_addresses(ip, src, dst);
    }

    #[inline(always)]
    fn packet_len(ip: &Self::Ip) -> u32 {
        u32::from(u16::from_be(ip.load::<{ ip6::LEN }, u16>())) + IPV6_LEN as u32
    }
}

/// The flags of TCP that sessions know.
#[inline(always)]
fn tcp_flags(frame: &Frame, l4: &Head<L4_LEN>) -> Result<u8, Other> {
    let tcp = frame.at::<TCP_LEN, L4_LEN>(l4).ok_or(Other::Malformed)?;
    Ok(tcp.load::<{ l4::TCP_FLAGS }, u8>() & (FIN | SYN | RST | ACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_family() {
        let v4 = u32::from_ne_bytes([192, 0, 2, 1]);
        assert_eq!(V4::narrow(V4::widen(v4)), Some(v4));
        assert_eq!(V6::narrow(V4::widen(v4)), None);
        for words in [[0; 4], [0, 0, 0, v4], [1, 0, 0xffffu32.to_be(), v4]] {
            let v6 = Addr6::from_words(words);
            assert_eq!(v6.words(), words);
            assert_eq!(V6::narrow(V6::widen(v6)), Some(v6));
            assert_eq!(V4::narrow(V6::widen(v6)), None);
        }
    }
}

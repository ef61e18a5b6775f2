//! Errors of ICMP that we send ourselves: about a packet that has come too far, or that is too big for its way.

use crate::checksum::{fold, sum_to_end};
use crate::env::{Env, Verdict};
use crate::family::{Addr6, Family, V4, V6};
use crate::packet::{
    ETH_LEN, FRAGMENT_OFFSET, IPV4_LEN, IPV4_PLAIN, IPV6_LEN, L4_LEN, PROTO_ICMP, PROTO_ICMPV6,
    eth, ip4, ip6, l4,
};
use crate::vlan;
use crate::walk::Walked;

/// Hops of an error.
const HOPS: u8 = 64;
/// Errors that a core sends in one jiffy at most: no more than 8,000 in a second, whatever is sent to us (RFC 1812,
/// section 4.3.2.8).
const PER_JIFFY: u32 = 8;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The time to live is used up.
    Expired,
    /// The way to the next hop carries no IP packet of more bytes than this (RFC 1191).
    TooBig {
        /// Bytes of the largest packet.
        mtu: u16,
    },
}

/// How many errors a core has sent in this jiffy: the element of the per-core map `REFUSALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// The jiffy.
    pub jiffies: u32,
    /// Errors sent in it.
    pub sent: u32,
}

impl Refusal {
    /// As one word: BPF's global functions take numbers.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        match self {
            Self::Expired => 0,
            Self::TooBig { mtu } => 1 | u32::from(mtu) << 16,
        }
    }

    /// From [`Refusal::bits`].
    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        if bits & 1 == 0 {
            Self::Expired
        } else {
            Self::TooBig {
                mtu: (bits >> 16) as u16,
            }
        }
    }
}

/// A family in which errors are sent.
pub trait Refused: Walked {
    /// [`send`], by the environment.
    fn refuse(env: impl Env, source: Self::Addr, refusal: Refusal) -> u64;
    /// [`crate::reset::answer`], by the environment.
    fn reset(env: impl Env) -> u64;
    /// Bytes that an error quotes of its packet at most, a multiple of four.
    const QUOTE_MAX: usize;
    /// Type and code of an error as they lie in the header, and what comes behind the checksum.
    fn message(refusal: Refusal) -> (u16, u32);
    /// Whether errors about a packet may be sent to its sender.
    fn may_hear(ip: &Self::Ip) -> bool;
    /// Writes the header of an answer of this protocol with so many bytes behind it.
    fn write(ip: &Self::Ip, source: Self::Addr, to: Self::Addr, protocol: u8, len: usize);
    /// What addresses, protocol and length add to the checksum of what is behind the header (RFC 9293, section 3.1; RFC 8200,
    /// section 8.1).
    fn sum_beside(source: Self::Addr, to: Self::Addr, protocol: u8, len: usize) -> u64;
    /// The protocol of errors.
    const ERRORS: u8;
    /// What they add to the checksum of an error.
    fn icmp_pseudo(source: Self::Addr, to: Self::Addr, len: usize) -> u64;
}

impl Refused for V4 {
    #[inline(always)]
    fn refuse(env: impl Env, source: u32, refusal: Refusal) -> u64 {
        env.refuse4(source, refusal)
    }

    #[inline(always)]
    fn reset(env: impl Env) -> u64 {
        env.reset4()
    }

    /// So that the error is no longer than 576 bytes (RFC 1812, section 4.3.2.3).
    const QUOTE_MAX: usize = 576 - IPV4_LEN - L4_LEN;

    /// Time exceeded; destination unreachable, as fragmentation is needed (RFC 792, RFC 1191).
    #[inline(always)]
    fn message(refusal: Refusal) -> (u16, u32) {
        match refusal {
            Refusal::Expired => (u16::from_ne_bytes([11, 0]), 0),
            Refusal::TooBig { mtu } => (u16::from_ne_bytes([3, 4]), u32::from(mtu.to_be()) << 16),
        }
    }

    /// RFC 1812, section 4.3.2.7.
    #[inline(always)]
    fn may_hear(ip: &Self::Ip) -> bool {
        let first = ip.load::<{ ip4::SRC }, u8>();
        let later = ip.load::<{ ip4::FRAGMENT }, u16>() & FRAGMENT_OFFSET != 0;
        first != 0 && first != 127 && first < 224 && !later
    }

    #[inline(always)]
    fn write(ip: &Self::Ip, source: u32, to: u32, protocol: u8, len: usize) {
        let version = u16::from_ne_bytes([IPV4_PLAIN, 0]);
        let len = ((IPV4_LEN + len) as u16).to_be();
        let ttl = u16::from_ne_bytes([HOPS, protocol]);
        ip.store::<{ ip4::VERSION }, u16>(version);
        ip.store::<{ ip4::LEN }, u16>(len);
        // Neither identification nor flags: the answer is too short to be fragmented (RFC 6864, section 4.1).
        ip.store::<{ ip4::ID }, u32>(0);
        ip.store::<{ ip4::TTL }, u16>(ttl);
        let fixed = u64::from(version) + u64::from(len) + u64::from(ttl);
        let checksum = !fold(fixed + u64::from(source) + u64::from(to));
        ip.store::<{ ip4::CHECKSUM }, u16>(checksum);
        V4::set_addresses(ip, source, to);
    }

    #[inline(always)]
    fn sum_beside(source: u32, to: u32, protocol: u8, len: usize) -> u64 {
        let protocol = u16::from_ne_bytes([0, protocol]);
        u64::from(source) + u64::from(to) + u64::from(protocol) + u64::from((len as u16).to_be())
    }

    const ERRORS: u8 = PROTO_ICMP;

    /// Nothing (RFC 792).
    #[inline(always)]
    fn icmp_pseudo(_: u32, _: u32, _: usize) -> u64 {
        0
    }
}

impl Refused for V6 {
    #[inline(always)]
    fn refuse(env: impl Env, source: Addr6, refusal: Refusal) -> u64 {
        env.refuse6(source, refusal)
    }

    #[inline(always)]
    fn reset(env: impl Env) -> u64 {
        env.reset6()
    }

    /// So that the error is no longer than every link carries (RFC 4443, section 2.4(c)).
    const QUOTE_MAX: usize = 1280 - IPV6_LEN - L4_LEN;

    /// Time exceeded; packet too big (RFC 4443, sections 3.2 and 3.3).
    #[inline(always)]
    fn message(refusal: Refusal) -> (u16, u32) {
        match refusal {
            Refusal::Expired => (u16::from_ne_bytes([3, 0]), 0),
            Refusal::TooBig { mtu } => (u16::from_ne_bytes([2, 0]), u32::from(mtu).to_be()),
        }
    }

    /// Neither the unspecified address nor one of many (RFC 4443, section 2.4(e)).
    #[inline(always)]
    fn may_hear(ip: &Self::Ip) -> bool {
        let (src, _) = V6::addresses(ip);
        src.high | src.low != 0 && src.high as u8 != 0xff
    }

    #[inline(always)]
    fn write(ip: &Self::Ip, source: Addr6, to: Addr6, protocol: u8, len: usize) {
        ip.store::<{ ip6::VERSION }, u32>(u32::from_ne_bytes([0x60, 0, 0, 0]));
        ip.store::<{ ip6::LEN }, u16>((len as u16).to_be());
        ip.store::<{ ip6::NEXT }, u8>(protocol);
        ip.store::<{ ip6::HOPS }, u8>(HOPS);
        V6::set_addresses(ip, source, to);
    }

    #[inline(always)]
    fn sum_beside(source: Addr6, to: Addr6, protocol: u8, len: usize) -> u64 {
        let words = |addr: Addr6| addr.words().into_iter().map(u64::from).sum::<u64>();
        let protocol = u16::from_ne_bytes([0, protocol]);
        words(source) + words(to) + u64::from((len as u16).to_be()) + u64::from(protocol)
    }

    const ERRORS: u8 = PROTO_ICMPV6;

    #[inline(always)]
    fn icmp_pseudo(source: Addr6, to: Addr6, len: usize) -> u64 {
        Self::sum_beside(source, to, PROTO_ICMPV6, len)
    }
}

/// Turns a packet that we do not forward into an error about it, from `source` to its sender, by the way that it came;
/// drops it where no error may be sent. Whole words of the packet are quoted. `HEAD` is the length of the headers of
/// Ethernet and IP, and `WORDS` those that are quoted, at most.
#[inline(always)]
pub fn send<F: Refused, const HEAD: usize, const WORDS: usize>(
    env: impl Env,
    source: F::Addr,
    refusal: Refusal,
) -> Verdict {
    const { assert!(HEAD == ETH_LEN + F::IP_LEN && WORDS * 4 == F::QUOTE_MAX) };
    let frame = env.frame();
    let (Some(ethernet), Some(ip)) = (frame.head::<ETH_LEN>(), F::ip_at(&frame, ETH_LEN)) else {
        return Verdict::Drop;
    };
    let to_one = ethernet.load::<{ eth::DST }, u8>() & 1 == 0;
    if !to_one || !F::may_hear(&ip) || !may_send(env) {
        return Verdict::Drop;
    }
    let (sender, _) = F::addresses(&ip);
    let (to, from) = (
        ethernet.load_mac::<{ eth::SRC }>(),
        ethernet.load_mac::<{ eth::DST }>(),
    );
    let packet_len = F::packet_len(&ip) as usize;
    let quote_len = if packet_len < F::QUOTE_MAX {
        packet_len & !3
    } else {
        F::QUOTE_MAX
    };
    let surplus = frame.len().wrapping_sub(ETH_LEN + quote_len);
    if surplus > 0xffff || surplus != 0 && !env.shorten(surplus as u32) {
        return Verdict::Drop;
    }
    if !env.move_start(-((F::IP_LEN + L4_LEN) as i32)) {
        return Verdict::Drop;
    }
    let frame = env.frame();
    let (Some(head), Some(icmp)) = (frame.head::<HEAD>(), frame.part::<L4_LEN>(HEAD)) else {
        return Verdict::Drop;
    };
    let Some(ip) = F::ip_at(&frame, ETH_LEN) else {
        return Verdict::Drop;
    };
    let (kind, rest) = F::message(refusal);
    let quoted = sum_to_end::<WORDS>(&frame, HEAD + L4_LEN);
    head.store_mac::<{ eth::DST }>(to);
    head.store_mac::<{ eth::SRC }>(from);
    head.store::<{ eth::TYPE }, u16>(F::ETHERTYPE);
    F::write(&ip, source, sender, F::ERRORS, L4_LEN + quote_len);
    let pseudo = F::icmp_pseudo(source, sender, L4_LEN + quote_len);
    icmp.store::<{ l4::ICMP_TYPE }, u16>(kind);
    let checksum = !fold(pseudo + u64::from(kind) + u64::from(rest) + quoted);
    icmp.store::<{ l4::ICMP_CHECKSUM }, u16>(checksum);
    icmp.store::<{ l4::ICMP_REST }, u32>(rest);
    vlan::send_back(env)
}

/// [`send`] for IPv4.
#[inline(always)]
pub fn send4(env: impl Env, source: u32, refusal: Refusal) -> Verdict {
    send::<V4, { ETH_LEN + IPV4_LEN }, { V4::QUOTE_MAX / 4 }>(env, source, refusal)
}

/// [`send`] for IPv6.
#[inline(always)]
pub fn send6(env: impl Env, source: Addr6, refusal: Refusal) -> Verdict {
    send::<V6, { ETH_LEN + IPV6_LEN }, { V6::QUOTE_MAX / 4 }>(env, source, refusal)
}

/// Whether this core may send another error, which counts as sent.
#[inline(always)]
fn may_send(env: impl Env) -> bool {
    let Some(budget) = env.refusals() else {
        return false;
    };
    let now = env.jiffies();
    // SAFETY: the environment gave this core's element, which nobody else writes.
    unsafe {
        if (*budget).jiffies != now {
            *budget = Budget {
                jiffies: now,
                sent: 0,
            };
        }
        (*budget).sent += 1;
        (*budget).sent <= PER_JIFFY
    }
}

//! The headers of IP, walked by their lengths: options of IPv4, extension headers of IPv6, fragments.

use crate::env::Env;
use crate::family::{Addr6, Family, V4, V6};
use crate::frame::Frame;
use crate::packet::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_MASK, FRAGMENT_OFFSET, IPV4_LEN, IPV6_LEN,
    eth, ip4, ip6,
};

/// Extension headers that are looked behind, in one packet.
const EXTENSIONS_MAX: u32 = 6;
/// Extension headers of IPv6, as next headers (RFC 8200, section 4; RFC 4302).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// In a fragment header: the offset alone, and with the flag that more follow, as they lie there.
const OFFSET6: u16 = 0xfff8u16.to_be();
const OFFSET6_MORE: u16 = 0xfff9u16.to_be();

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment.
    First,
    /// A later fragment, without ports.
    Later,
}

/// What the headers of IP say.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Offset of what is behind the headers of IP.
    pub l4: usize,
    /// Offset of the packet's end, by its own word.
    pub end: usize,
    /// The protocol of what is behind the headers.
    pub proto: u8,
    /// Which part of a datagram this is.
    pub part: Part,
    /// Identification of the datagram; 0 where it is whole.
    pub id: u32,
}

impl Layout {
    /// That it is one.
    const PRESENT: u64 = 1 << 31;

    /// Everything but the packet's end in one word, which is not 0.
    #[inline(always)]
    fn bits(self) -> u64 {
        self.l4 as u64
            | u64::from(self.proto) << 16
            | (self.part as u64) << 24
            | Self::PRESENT
            | u64::from(self.id) << 32
    }

    /// From [`Layout::bits`], or 0.
    #[inline(always)]
    fn from_bits(bits: u64, end: usize) -> Option<Self> {
        if bits & Self::PRESENT == 0 {
            return None;
        }
        Some(Self {
            l4: bits as usize & 0xffff,
            end,
            proto: (bits >> 16) as u8,
            part: match bits >> 24 & 3 {
                0 => Part::Whole,
                1 => Part::First,
                _ => Part::Later,
            },
            id: (bits >> 32) as u32,
        })
    }
}

/// A family whose headers can be walked.
pub trait Walked: Family {
    /// The headers of IP from `offset` on; `None` if they are not of this family, or lead nowhere that we know.
    fn walk(env: impl Env, offset: usize) -> Option<Layout>;
    /// The header at `offset`, without options or extension headers.
    fn ip_at(frame: &Frame, offset: usize) -> Option<Self::Ip>;
    /// Source and destination.
    fn addresses(ip: &Self::Ip) -> (Self::Addr, Self::Addr);
}

/// Whether the frame is one of this family.
#[inline(always)]
pub(crate) fn is_of<F: Family>(frame: &Frame) -> bool {
    let head = frame.head::<ETH_LEN>();
    head.is_some_and(|head| head.load::<{ eth::TYPE }, u16>() == F::ETHERTYPE)
}

const _: () = assert!(V4::ETHERTYPE == ETHERTYPE_IPV4 && V6::ETHERTYPE == ETHERTYPE_IPV6);

impl Walked for V4 {
    #[inline(always)]
    fn walk(env: impl Env, offset: usize) -> Option<Layout> {
        let ip = Self::ip_at(&env.frame(), offset)?;
        let version = ip.load::<{ ip4::VERSION }, u8>();
        let header_len = usize::from(version & 0xf) * 4;
        if version >> 4 != 4 || header_len < IPV4_LEN {
            return None;
        }
        let fragment = ip.load::<{ ip4::FRAGMENT }, u16>() & FRAGMENT_MASK;
        let part = if fragment == 0 {
            Part::Whole
        } else if fragment & FRAGMENT_OFFSET == 0 {
            Part::First
        } else {
            Part::Later
        };
        Some(Layout {
            l4: offset + header_len,
            end: offset + usize::from(u16::from_be(ip.load::<{ ip4::LEN }, u16>())),
            proto: ip.load::<{ ip4::PROTO }, u8>(),
            part,
            id: u32::from(ip.load::<{ ip4::ID }, u16>()),
        })
    }

    #[inline(always)]
    fn ip_at(frame: &Frame, offset: usize) -> Option<Self::Ip> {
        frame.part::<IPV4_LEN>(offset)
    }

    #[inline(always)]
    fn addresses(ip: &Self::Ip) -> (u32, u32) {
        (
            ip.load::<{ ip4::SRC }, u32>(),
            ip.load::<{ ip4::DST }, u32>(),
        )
    }
}

impl Walked for V6 {
    #[inline(always)]
    fn walk(env: impl Env, offset: usize) -> Option<Layout> {
        let len = Self::ip_at(&env.frame(), offset)?.load::<{ ip6::LEN }, u16>();
        let end = offset + IPV6_LEN + usize::from(u16::from_be(len));
        Layout::from_bits(env.walk6(offset as u32), end)
    }

    #[inline(always)]
    fn ip_at(frame: &Frame, offset: usize) -> Option<Self::Ip> {
        frame.part::<IPV6_LEN>(offset)
    }

    #[inline(always)]
    fn addresses(ip: &Self::Ip) -> (Addr6, Addr6) {
        (
            Addr6 {
                high: ip.load::<{ ip6::SRC }, u64>(),
                low: ip.load::<{ ip6::SRC + 8 }, u64>(),
            },
            Addr6 {
                high: ip.load::<{ ip6::DST }, u64>(),
                low: ip.load::<{ ip6::DST + 8 }, u64>(),
            },
        )
    }
}

/// The last offset that [`Frame::part`] reaches.
const OFFSET_MAX: usize = 0xff;

/// The headers of IPv6 from `offset` on, as [`Layout::bits`], or 0. For the environment to call, which has the kernel's
/// verifier look at these loops once.
#[inline(always)]
pub fn headers6(frame: &Frame, offset: usize) -> u64 {
    walk6(frame, offset).map_or(0, Layout::bits)
}

#[inline(always)]
fn walk6(frame: &Frame, offset: usize) -> Option<Layout> {
    let ip = V6::ip_at(frame, offset)?;
    if offset > OFFSET_MAX - IPV6_LEN || ip.load::<{ ip6::VERSION }, u8>() >> 4 != 6 {
        return None;
    }
    let mut layout = Layout {
        l4: offset + IPV6_LEN,
        end: offset + IPV6_LEN + usize::from(u16::from_be(ip.load::<{ ip6::LEN }, u16>())),
        proto: ip.load::<{ ip6::NEXT }, u8>(),
        part: Part::Whole,
        id: 0,
    };
    let mut extensions = 0;
    while extensions < EXTENSIONS_MAX {
        let units = match layout.proto {
            HOP_BY_HOP | DESTINATION | ROUTING | FRAGMENT | AUTHENTICATION => {
                frame.part::<8>(layout.l4)?
            }
            _ => return Some(layout),
        };
        let kind = layout.proto;
        layout.proto = units.load::<0, u8>();
        let len = usize::from(units.load::<1, u8>());
        if kind == FRAGMENT {
            let fragment = units.load::<2, u16>();
            layout.l4 += 8;
            layout.id = units.load::<4, u32>();
            // A fragment that is all of its datagram is none (RFC 6946).
            if fragment & OFFSET6 != 0 {
                layout.part = Part::Later;
                return Some(layout);
            }
            if fragment & OFFSET6_MORE != 0 {
                layout.part = Part::First;
            }
        } else if kind == AUTHENTICATION {
            layout.l4 += (len + 2) * 4;
        } else {
            // With a station still to come, the destination in the header is not the one that ports belong to.
            if kind == ROUTING && units.load::<3, u8>() != 0 {
                return None;
            }
            layout.l4 += (len + 1) * 8;
        }
        if layout.l4 > OFFSET_MAX {
            return None;
        }
        extensions += 1;
    }
    None
}

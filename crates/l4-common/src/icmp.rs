//! Errors of ICMP about packets of sessions: from a router or a backend to the client, from the client's side to the
//! backend (RFC 792; RFC 4443; RFC 5508, section 4.2; RFC 5927 says what such errors can do).
//!
//! An error quotes the packet that it is about as that was sent, behind our rewrite. Turned round, the quoted addresses
//! and ports are those of the answer to it: the line of the answers says who is to hear of the error, and how the
//! quoted packet looked to him.

use crate::checksum::{apply, difference16, difference32, fold};
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Family, V4, V6};
use crate::forward::{dropped, limit, send, way};
use crate::frame::Frame;
use crate::hash::FlowKey;
use crate::packet::{
    ETH_LEN, L4_LEN, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, eth, ip4, l4,
};
use crate::service::Mode;
use crate::session::{ACROSS, Line, MODE_SHIFT};
use crate::table;
use crate::tunnel::{self, Tunnelled};
use crate::walk::{Part, Walked};

/// A family with its kind of ICMP.
pub trait Related: Walked {
    /// The protocol's number.
    const ICMP: u8;
    /// Whether the checksum of ICMP is also over the addresses of its packet.
    const OVER_ADDRESSES: bool;
    /// Whether messages of this type are errors that quote a packet.
    fn is_error(kind: u8) -> bool;
    /// Adds the difference of addresses to the header's own checksum, if it has one; what that adds to a sum over the
    /// header, not folded.
    fn fix(ip: &Self::Ip, addresses: u16) -> u64;
}

impl Related for V4 {
    const ICMP: u8 = PROTO_ICMP;
    const OVER_ADDRESSES: bool = false;

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind == 3 || kind == 11 || kind == 12
    }

    #[inline(always)]
    fn fix(ip: &Self::Ip, addresses: u16) -> u64 {
        let old = ip.load::<{ ip4::CHECKSUM }, u16>();
        let new = apply(old, addresses);
        ip.store::<{ ip4::CHECKSUM }, u16>(new);
        difference16(old, new)
    }
}

impl Related for V6 {
    const ICMP: u8 = PROTO_ICMPV6;
    const OVER_ADDRESSES: bool = true;

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind != 0 && kind <= 4
    }

    #[inline(always)]
    fn fix(_: &Self::Ip, _: u16) -> u64 {
        0
    }
}

/// Where the parts of an error are, and whose it is.
pub(crate) struct Quote<F: Family> {
    /// Offset of the ICMP header.
    pub(crate) icmp: usize,
    /// Offset of the quoted IP header.
    pub(crate) ip: usize,
    /// Offset of the quoted TCP or UDP header.
    pub(crate) l4: usize,
    /// Offset of the packet's end.
    pub(crate) end: usize,
    /// The flow of answers to the quoted packet.
    pub(crate) answers: FlowKey<F>,
}

impl<F: Related> Quote<F> {
    /// Takes an ICMP packet apart whose ICMP header is at `icmp`; `None` if it is no error about TCP or UDP.
    #[inline(always)]
    pub(crate) fn parse(env: impl Env, icmp: usize) -> Option<Self> {
        let frame = &env.frame();
        let outer = F::ip_at(frame, ETH_LEN)?;
        let kind = frame.part::<L4_LEN>(icmp)?.load::<{ l4::ICMP_TYPE }, u8>();
        if !F::is_error(kind) {
            return None;
        }
        let ip = icmp + L4_LEN;
        let layout = F::walk(env, ip)?;
        let udp = match layout.proto {
            PROTO_TCP => false,
            PROTO_UDP => true,
            _ => return None,
        };
        let end = ETH_LEN + F::packet_len(&outer) as usize;
        if layout.part == Part::Later || end > frame.len() || layout.l4 + L4_LEN > end {
            return None;
        }
        let (src, dst) = F::addresses(&F::ip_at(frame, ip)?);
        let ports = frame
            .part::<L4_LEN>(layout.l4)?
            .load::<{ l4::PORTS }, u32>();
        let answers = FlowKey {
            src,
            dst,
            ports,
            udp,
        }
        .reversed();
        Some(Self {
            icmp,
            ip,
            l4: layout.l4,
            end,
            answers,
        })
    }
}

/// Sends an error about a packet of a session to whom the packet came from; every other ICMP packet is the kernel's.
/// `icmp` is the offset of the ICMP header.
#[inline(always)]
pub(crate) fn relay<F: Related + Tunnelled>(env: impl Env, icmp: usize) -> Verdict {
    let frame = env.frame();
    let Some(quote) = Quote::<F>::parse(env, icmp) else {
        return Verdict::Pass;
    };
    let hash = quote.answers.hash(env.seed());
    let Some(line) = table::find(env, &quote.answers, hash) else {
        return Verdict::Pass;
    };
    let line = line.as_ptr();
    let (Some(ip), Some(ethernet)) = (F::ip_at(&frame, ETH_LEN), frame.head::<ETH_LEN>()) else {
        return Verdict::Pass;
    };
    // SAFETY: the table found the line. Its counters and its time stay: an error is no packet of the session.
    unsafe {
        let meta = (*line).meta();
        if meta & ACROSS != 0 {
            return Verdict::Across { opens: false };
        }
        let Some(link) = way(env, line, meta, 0) else {
            return Verdict::Drop;
        };
        let hops = F::hops(&ip);
        if hops <= 1 {
            return dropped(env, (*line).listener, Drop::TtlExpired);
        }
        let mode = Mode::from_bits((meta >> MODE_SHIFT) as u8);
        let limit = limit(env, link, line, mode as u8 == Mode::Tunnel as u8);
        if frame.len() > limit {
            return dropped(env, (*line).listener, Drop::TooBig);
        }
        F::take_hop(&ip, hops, 0);
        match mode {
            Mode::Fullnat | Mode::Nat => {
                if translate(&frame, &quote, line).is_none() {
                    return Verdict::Drop;
                }
            }
            Mode::Dr => {}
            Mode::Tunnel => return tunnel::encapsulate(env, &ip, line, link),
        }
        ethernet.store_mac::<{ eth::DST }>((*line).mac);
        ethernet.store_mac::<{ eth::SRC }>(link.mac);
        send(env, link)
    }
}

/// Rewrites an error as the line of the answers says: the quoted packet backwards, the error's own addresses forwards.
/// A source that is no end of the session, such as a router's address under NAT, stays.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
unsafe fn translate<F: Related>(frame: &Frame, quote: &Quote<F>, line: *mut Line<F>) -> Option<()> {
    // SAFETY: by the caller's promise.
    let (src, dst, new_src, new_dst, new_ports, l4_delta) = unsafe {
        (
            (*line).src,
            (*line).dst,
            (*line).new_src,
            (*line).new_dst,
            (*line).new_ports,
            (*line).l4_delta,
        )
    };
    // Both quoted addresses change by the same differences as in the line's packets: only their places are exchanged.
    let addresses = fold(F::difference(src, new_src) + F::difference(dst, new_dst));
    let quoted = F::ip_at(frame, quote.ip)?;
    let mut change = u64::from(addresses) + F::fix(&quoted, addresses);
    F::set_addresses(&quoted, new_dst, new_src);

    change += rewrite_quoted(frame, quote, new_ports, l4_delta)?;

    let outer = F::ip_at(frame, ETH_LEN)?;
    let (old_src, old_dst) = F::addresses(&outer);
    let source = if new_src == src { old_src } else { new_src };
    let own = fold(F::difference(old_src, source) + F::difference(old_dst, new_dst));
    F::fix(&outer, own);
    F::set_addresses(&outer, source, new_dst);
    if F::OVER_ADDRESSES {
        change += u64::from(own);
    }
    let icmp = frame.part::<L4_LEN>(quote.icmp)?;
    let old = icmp.load::<{ l4::ICMP_CHECKSUM }, u16>();
    icmp.store::<{ l4::ICMP_CHECKSUM }, u16>(apply(old, fold(change)));
    Some(())
}

/// Rewrites the quoted header of TCP or UDP as a line of the answers says; what that adds to the sum of the error.
#[inline(always)]
pub(crate) fn rewrite_quoted<F: Related>(
    frame: &Frame,
    quote: &Quote<F>,
    new_ports: u32,
    l4_delta: u16,
) -> Option<u64> {
    let header = frame.part::<L4_LEN>(quote.l4)?;
    let ports = new_ports.rotate_left(16);
    let mut change = difference32(header.load::<{ l4::PORTS }, u32>(), ports);
    header.store::<{ l4::PORTS }, u32>(ports);
    if quote.answers.udp {
        let old = header.load::<{ l4::UDP_CHECKSUM }, u16>();
        if old != 0 {
            let new = apply(old, l4_delta);
            let new = if new == 0 { 0xffff } else { new };
            header.store::<{ l4::UDP_CHECKSUM }, u16>(new);
            change += difference16(old, new);
        }
    } else if quote.l4 + l4::TCP_CHECKSUM + 2 <= quote.end
        && let Some(checksum) = frame.far_part::<2>(quote.l4 + l4::TCP_CHECKSUM)
    {
        let old = checksum.load::<0, u16>();
        let new = apply(old, l4_delta);
        checksum.store::<0, u16>(new);
        change += difference16(old, new);
    }
    Some(change)
}

//! Packets that are not plain: with IPv4 options or IPv6 extension headers, in fragments, errors of ICMP.
//!
//! They are few, so that nothing here is written for speed, and everything is in functions apart from the plain packets'
//! way.

use crate::across::Across;
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Family, V4, V6};
use crate::forward::{clamp, count, expired, limit, refuse_if_ours, rewrite, send, too_big, way};
use crate::fragment::{recall, remember, tag};
use crate::frame::Head;
use crate::hash::FlowKey;
use crate::icmp::{self, Related};
use crate::packet::{ETH_LEN, L4_LEN, PROTO_TCP, PROTO_UDP, TCP_LEN, eth, l4};
use crate::parse::Packet;
use crate::refusal::Refused;
use crate::service::{ListenerKey, Mode};
use crate::session::{ACK, ACROSS, FIN, Line, MODE_SHIFT, RST, SYN, UDP};
use crate::tunnel::{self, Tunnelled};
use crate::walk::{Layout, Part, Walked, is_of};
use crate::{open, table};

/// A family whose unusual packets are dealt with.
pub trait Unusual: Tunnelled + Walked + Related + Refused + Across {
    /// [`packet`], by the environment.
    fn unusual(env: impl Env) -> u64;
}

impl Unusual for V4 {
    #[inline(always)]
    fn unusual(env: impl Env) -> u64 {
        env.unusual4()
    }
}

impl Unusual for V6 {
    #[inline(always)]
    fn unusual(env: impl Env) -> u64 {
        env.unusual6()
    }
}

/// A packet of TCP or UDP, taken apart.
pub(crate) struct Taken<F: Family> {
    pub(crate) layout: Layout,
    pub(crate) ip: F::Ip,
    eth: Head<ETH_LEN>,
    /// The datagram's name in the table of fragments.
    tag: u64,
    pub(crate) key: FlowKey<F>,
    /// TCP flags FIN, SYN, RST and ACK; 0 for UDP and later fragments.
    pub(crate) flags: u8,
}

/// Every other packet.
pub(crate) enum Other<F: Family> {
    /// Nothing that we know.
    Foreign,
    /// ICMP, whose header is at this offset.
    Icmp(usize),
    /// Lengths contradict each other.
    Malformed(FlowKey<F>),
}

impl<F: Walked + Related> Taken<F> {
    #[inline(always)]
    pub(crate) fn parse(env: impl Env) -> Result<Self, Other<F>> {
        let frame = env.frame();
        if !is_of::<F>(&frame) {
            return Err(Other::Foreign);
        }
        let eth = frame.head::<ETH_LEN>().ok_or(Other::Foreign)?;
        let layout = F::walk(env, ETH_LEN).ok_or(Other::Foreign)?;
        let ip = F::ip_at(&frame, ETH_LEN).ok_or(Other::Foreign)?;
        let udp = match layout.proto {
            PROTO_TCP => false,
            PROTO_UDP => true,
            proto if proto == F::ICMP && layout.part == Part::Whole => {
                return Err(Other::Icmp(layout.l4));
            }
            _ => return Err(Other::Foreign),
        };
        let (src, dst) = F::addresses(&ip);
        let mut key = FlowKey {
            src,
            dst,
            ports: 0,
            udp,
        };
        let tag = tag(F::mix(&key, env.seed()), layout.id);
        let mut flags = 0;
        if layout.part == Part::Later {
            key.ports = recall(env, tag).ok_or(Other::Foreign)?;
            if layout.l4 > layout.end || layout.end > frame.len() {
                return Err(Other::Malformed(key));
            }
        } else {
            let ports = frame.part::<4>(layout.l4).ok_or(Other::Foreign)?;
            key.ports = ports.load::<{ l4::PORTS }, u32>();
            let l4_len = if udp { L4_LEN } else { TCP_LEN };
            if layout.l4 + l4_len > layout.end || layout.end > frame.len() {
                return Err(Other::Malformed(key));
            }
            if !udp {
                let tcp = frame.part::<TCP_LEN>(layout.l4);
                let tcp = tcp.ok_or(Other::Malformed(key))?;
                flags = tcp.load::<{ l4::TCP_FLAGS }, u8>() & (FIN | SYN | RST | ACK);
            }
        }
        Ok(Self {
            layout,
            ip,
            eth,
            tag,
            key,
            flags,
        })
    }

    /// As what goes the way of plain packets; a later fragment cannot.
    #[inline(always)]
    fn packet(&self, env: impl Env) -> Option<Packet<F>> {
        let frame = env.frame();
        Some(Packet {
            frame,
            eth: self.eth,
            ip: self.ip,
            l4: frame.part::<L4_LEN>(self.layout.l4)?,
            key: self.key,
            flags: self.flags,
        })
    }
}

/// Decides on a packet with IPv4 options or IPv6 extension headers, a fragment, or an ICMP packet that is no ping of a
/// VIP. In two steps where there is no session yet, since what opens one wants more stack than is left in a function of a
/// function.
#[inline(always)]
pub(crate) fn decide<F: Unusual>(env: impl Env) -> Verdict {
    let bits = F::unusual(env);
    if bits != WANTS_SESSION {
        return Verdict::from_bits(bits);
    }
    let bits = note::<F>(env);
    if bits != WANTS_SESSION {
        return Verdict::from_bits(bits);
    }
    work_out::<F>(env);
    let bits = open_session::<F>(env);
    if bits != WANTS_SESSION {
        return Verdict::from_bits(bits);
    }
    match F::unusual(env) {
        // Taken away in this moment.
        WANTS_SESSION => Verdict::Drop,
        bits => Verdict::from_bits(bits),
    }
}

/// In place of a verdict's bits: there is no session, and the packet may open one.
const WANTS_SESSION: u64 = u64::MAX - 1;

/// Notes what the packet says for the session that it opens; [`WANTS_SESSION`].
#[inline(never)]
fn note<F: Unusual>(env: impl Env) -> u64 {
    let Ok(taken) = Taken::<F>::parse(env) else {
        return Verdict::Pass.bits();
    };
    let Some(packet) = taken.packet(env) else {
        return Verdict::Pass.bits();
    };
    let hash = packet.key.hash(env.seed());
    open::note(env, &packet, hash, taken.layout.l4);
    WANTS_SESSION
}

/// Works out what a session of the noted packet would be. Apart from the above, which wants stack of its own.
#[inline(never)]
fn work_out<F: Unusual>(env: impl Env) -> u64 {
    // Whether the flow has a line by now, opening finds out by itself.
    u64::from(open::work_out::<F>(env))
}

/// Opens the session that is prepared; [`WANTS_SESSION`] if that worked.
#[inline(never)]
fn open_session<F: Unusual>(env: impl Env) -> u64 {
    match open::session::<F>(env) {
        Ok(_) => WANTS_SESSION,
        Err(bits) => bits,
    }
}

/// The verdict on an unusual packet of a session, as bits, or that it wants one.
#[inline(always)]
pub fn packet<F: Unusual>(env: impl Env) -> u64 {
    let taken = match Taken::<F>::parse(env) {
        Ok(taken) => taken,
        Err(Other::Foreign) => return Verdict::Pass.bits(),
        Err(Other::Icmp(icmp)) => return icmp::relay::<F>(env, icmp).bits(),
        Err(Other::Malformed(key)) => {
            let key = ListenerKey {
                addr: F::widen(key.dst),
                port: key.dst_port(),
                proto: if key.udp { PROTO_UDP } else { PROTO_TCP },
                zero: 0,
            };
            return refuse_if_ours(env, &key, Drop::Malformed).bits();
        }
    };
    let hash = taken.key.hash(env.seed());
    let Some(line) = table::find(env, &taken.key, hash) else {
        return if taken.layout.part == Part::Later {
            Verdict::Pass.bits()
        } else {
            WANTS_SESSION
        };
    };
    let line = line.as_ptr();
    // SAFETY: the table found the line; this direction of the session is its only writer.
    unsafe {
        if taken.layout.part == Part::Later {
            return follow(env, &taken, line).bits();
        }
        if taken.flags == SYN && open::reopens(env, line) {
            return WANTS_SESSION;
        }
        if taken.layout.part == Part::First {
            remember(env, taken.tag, taken.key.ports);
        }
        let Some(packet) = taken.packet(env) else {
            return Verdict::Drop.bits();
        };
        if taken.flags & SYN != 0 {
            clamp(env, line, taken.layout.l4);
        }
        rewrite(env, &packet, line, (*line).meta()).bits()
    }
}

/// Rewrites a later fragment, which has addresses alone; counts it, and says where it goes.
///
/// # Safety
/// `line` must be a line of the session table.
#[inline(always)]
unsafe fn follow<F: Unusual>(env: impl Env, taken: &Taken<F>, line: *mut Line<F>) -> Verdict {
    let frame = env.frame();
    // SAFETY: by the caller's promise.
    unsafe {
        let meta = (*line).meta();
        let Some(link) = way(env, line, meta, 0) else {
            return Verdict::Drop;
        };
        let hops = F::hops(&taken.ip);
        if hops <= 1 {
            return Verdict::from_bits(expired(env, line));
        }
        if meta & ACROSS != 0 {
            return Verdict::Across { opens: false };
        }
        let tunnel = meta >> MODE_SHIFT & 3 == Mode::Tunnel as u32;
        let limit = limit(env, link, line, tunnel);
        if frame.len() > limit {
            return Verdict::from_bits(too_big(env, line, limit));
        }
        count(env, line, meta, frame.len(), 0, meta & UDP != 0);
        if tunnel {
            F::take_hop(&taken.ip, hops, 0);
            return tunnel::encapsulate(env, &taken.ip, line, link);
        }
        F::take_hop(&taken.ip, hops, (*line).ip_delta);
        F::set_addresses(&taken.ip, (*line).new_src, (*line).new_dst);
        taken.eth.store_mac::<{ eth::DST }>((*line).mac);
        taken.eth.store_mac::<{ eth::SRC }>(link.mac);
        send(env, link)
    }
}

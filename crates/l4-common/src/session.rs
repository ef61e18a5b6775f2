//! The session tables: one line per direction of a session, 64 bytes for IPv4 and 128 for IPv6, four lines to a set.
//!
//! A flow's hash gives its home set, and a line in it. Its lines are tried from there, in a fixed order: the home
//! set, its neighbour on the same page, then sets anywhere, [`PROBES`] sets in all. A line that was taken when a flow
//! came by carries a mark, and only then the next one is looked at: nearly every packet touches one line, whether its
//! flow has a session or not. The program claims a free line by compare-exchange on
//! [`Line::meta`], fills it, and publishes it by setting [`LIVE`]. User space takes a line away in two steps:
//! it clears [`LIVE`] and sets [`DYING`]; later, when no program can still be at it, it frees the line.
//! Each direction writes only its own line.

use core::sync::atomic::AtomicU32;

use crate::family::{Family, V4, V6};
use crate::hash::{FlowKey, reduce};

/// Lines in a set.
pub const LINES: usize = 4;
/// Sets that a flow may be in. With 64 of 100 lines taken, at most one set in three is full, so that fewer than one
/// new flow in ten million finds no room.
pub const PROBES: u32 = 16;

/// `meta`: the line is taken.
pub const OCCUPIED: u32 = 0x10;
/// `meta`: the line is complete; lookups may find it. Never without [`OCCUPIED`].
pub const LIVE: u32 = 0x80;
/// `meta`: packets become ones of the other family ([`crate::across`]). Beside the number of [`crate::service::Mode::Tunnel`],
/// so that other sessions' packets are never asked for it.
pub const ACROSS: u32 = 0x20;
/// `meta`: the line has been taken out of use and is about to be freed.
pub const DYING: u32 = 0x40;
/// `meta`: the flow is UDP; TCP otherwise.
pub const UDP: u32 = 0x01;
/// `meta`: packets from the backend; from the client otherwise.
pub const REVERSE: u32 = 0x02;
/// `meta`: where the two bits of the [`crate::service::Mode`] are.
pub const MODE_SHIFT: u32 = 2;
/// `meta`: where the six bits of the index into `LINKS` are.
pub const LINK_SHIFT: u32 = 8;
/// `meta`: the six bits of the link.
pub const LINK_MASK: u32 = 0x3f << LINK_SHIFT;
/// `meta`, also of a free line: flows that came by have gone on to the next line. Two bits: the program sets both;
/// the sweep clears the lower one, and the upper one if the lower one stayed clear and it found no such flow.
pub const PASSED: u32 = 0xc000;
/// `meta`: where the eight bits of the route generation are.
pub const GENERATION_SHIFT: u32 = 16;
/// `meta`: where the eight bits of the TCP flags seen are.
pub const SEEN_SHIFT: u32 = 24;

/// `changes`, of a client's line: the session is counted in its backend's [`crate::load::Load`].
pub const COUNTED: u16 = 0x8000;

/// `changes`, of a client's line of TCP: the session is not to go on. Its packets lead to
/// [`crate::link::LINK_NOWHERE`], and are answered with resets.
pub const ENDED: u16 = 0x4000;

/// TCP flag FIN, as in the header.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST. In the flags seen: the last packet was a reset; a later one without it takes it back.
pub const RST: u8 = 0x04;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// One direction of a session: what its packets look like, what becomes of them, and what was counted.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Line<F: Family> {
    /// Source address of arriving packets, network byte order.
    pub src: F::Addr,
    /// Destination address of arriving packets, network byte order.
    pub dst: F::Addr,
    /// Source port, then destination port, as in the packet.
    pub ports: u32,
    /// State and flags: the bits above, the route generation and the TCP flags seen.
    pub meta: AtomicU32,
    /// Source address after the rewrite; in tunnel mode that of the outer header. With [`ACROSS`], IPv4 in sixteen bytes, or
    /// in a line of IPv4, which has no room, the number of the session's line of IPv6, from 1.
    pub new_src: F::Addr,
    /// Destination address after the rewrite; in tunnel mode that of the outer header.
    pub new_dst: F::Addr,
    /// Ports after the rewrite.
    pub new_ports: u32,
    /// What the rewrite adds to the IPv4 header's checksum, time to live apart; in tunnel mode the folded sum of the
    /// constant part of the outer header.
    pub ip_delta: u16,
    /// What the rewrite adds to the TCP or UDP checksum.
    pub l4_delta: u16,
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// Number of the listener.
    pub listener: u16,
    /// Number of the backend.
    pub backend: u16,
    /// [`COUNTED`] and [`ENDED`]. The other bits, which are to count changes of state that a peer must hear of, are not used yet.
    pub changes: u16,
    /// Time of the last packet: low 32 bits of the kernel's jiffies.
    pub last_seen: u32,
    /// Packets of this direction.
    pub packets: u64,
    /// Bytes of this direction's frames, as they arrived.
    pub bytes: u64,
}

/// The value of the maps `SESSIONS4` and `SESSIONS6`: four lines.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Set<F: Family> {
    /// The lines, in no order.
    pub lines: [Line<F>; LINES],
}

/// One direction of an IPv4 session.
pub type Line4 = Line<V4>;
/// One direction of an IPv6 session.
pub type Line6 = Line<V6>;
/// Four lines of IPv4.
pub type Set4 = Set<V4>;
/// Four lines of IPv6.
pub type Set6 = Set<V6>;

const _: () = assert!(size_of::<Line4>() == 64 && size_of::<Set4>() == 256);
const _: () = assert!(size_of::<Line6>() == 128 && size_of::<Set6>() == 512);

/// Where a flow's line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    hash: u64,
    sets: u32,
}

impl Place {
    /// The place of a flow with this hash in a table of `sets` sets.
    #[inline(always)]
    pub fn of(hash: u64, sets: u32) -> Self {
        Self { hash, sets }
    }

    /// Index of the set that is tried first.
    #[inline(always)]
    pub fn home(&self) -> u32 {
        reduce((self.hash >> 32) as u32, self.sets)
    }

    /// Index of the set that is tried as number `probe`, `0..PROBES`.
    #[inline(always)]
    pub fn set(&self, probe: u32) -> u32 {
        match probe {
            0 => self.home(),
            1 => {
                let neighbour = self.home() ^ 1;
                if neighbour < self.sets {
                    neighbour
                } else {
                    self.home()
                }
            }
            _ => reduce(
                (self.hash as u32 ^ probe).wrapping_mul(0x9e37_79b1),
                self.sets,
            ),
        }
    }

    /// The indices of all lines that the flow may be in, in the order in which they are tried.
    pub fn lines(self) -> impl Iterator<Item = u32> {
        (0..PROBES * LINES as u32).map(move |probe| {
            self.set(probe / LINES as u32) * LINES as u32
                + ((self.start() + probe) & (LINES as u32 - 1))
        })
    }

    /// The line of a set that is looked at first, `0..LINES`.
    #[inline(always)]
    pub fn start(&self) -> u32 {
        self.hash as u32 & 3
    }
}

impl<F: Family> Line<F> {
    /// The present [`Line::meta`]. A volatile load where an atomic one would do: BPF has none before version 4 of
    /// its instruction set.
    #[inline(always)]
    pub fn meta(&self) -> u32 {
        // SAFETY: the field is valid, and aligned words are read whole on every machine that Linux runs XDP on.
        unsafe { self.meta.as_ptr().read_volatile() }
    }

    /// The key of the packets of this line.
    pub fn key(&self) -> FlowKey<F> {
        let udp = self.meta() & UDP != 0;
        FlowKey {
            src: self.src,
            dst: self.dst,
            ports: self.ports,
            udp,
        }
    }

    /// The key of the line of the other direction: the reverse of what this one rewrites to. Only FullNAT and NAT
    /// have one.
    pub fn peer_key(&self) -> FlowKey<F> {
        let udp = self.meta() & UDP != 0;
        FlowKey {
            src: self.new_src,
            dst: self.new_dst,
            ports: self.new_ports,
            udp,
        }
        .reversed()
    }
}

/// The TCP flags seen, from `meta`.
#[inline(always)]
pub fn seen(meta: u32) -> u8 {
    (meta >> SEEN_SHIFT) as u8
}

//! A line of the session table as user space sees it: every field an atomic, as the program writes it meanwhile.

use std::fmt::Debug;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use weir_l4_common::family::{Addr6, Family, V4, V6};
use weir_l4_common::hash::FlowKey;
use weir_l4_common::link::LINK_NOWHERE;
use weir_l4_common::service::Mode;
use weir_l4_common::session::{
    ACROSS, COUNTED, DYING, ENDED, LINES, LINK_MASK, LINK_SHIFT, LIVE, Line4, Line6, MODE_SHIFT,
    OCCUPIED, PASSED, Place, REVERSE, UDP, seen,
};

use crate::memory::prefetch;

/// A family whose addresses are read while others write them.
pub(crate) trait Cells: Family {
    /// An address, in atomics.
    type Cell: Debug + Default + Send + Sync;
    /// The other family.
    type Other: Cells<Other = Self>;

    /// Reads an address. One that others are writing may come out mixed: the line's state is looked at after it.
    fn load(cell: &Self::Cell) -> Self::Addr;
    /// Writes an address.
    #[cfg(test)]
    fn store(cell: &Self::Cell, addr: Self::Addr);
    /// The address as the rest of the world has it.
    fn ip(addr: Self::Addr) -> IpAddr;
    /// The line of the other direction, in the other table; only where [`Meta::is_across`].
    fn across<'a>(table: Table<'a, Self>, line: &Line<Self>) -> Option<&'a Line<Self::Other>>;
    /// The source of what a line's packets become; `peer` is its other line, if that is in the other table.
    fn new_source(line: &Line<Self>, peer: Option<&Line<Self::Other>>) -> IpAddr;
}

impl Cells for V4 {
    type Cell = AtomicU32;
    type Other = V6;

    fn load(cell: &AtomicU32) -> u32 {
        cell.load(Relaxed)
    }

    #[cfg(test)]
    fn store(cell: &AtomicU32, addr: u32) {
        cell.store(addr, Relaxed);
    }

    fn ip(addr: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(addr.to_ne_bytes()))
    }

    fn across<'a>(table: Table<'a, V4>, line: &Line<V4>) -> Option<&'a Line<V6>> {
        let number = line.new_src.load(Relaxed);
        let peer = table.other.get(number.checked_sub(1)? as usize)?;
        let meta = peer.meta();
        // It may have been given to another flow.
        let is_peer = meta.is_live() && meta.is_across() && key4(peer)? == line.key();
        is_peer.then_some(peer)
    }

    fn new_source(line: &Line<V4>, peer: Option<&Line<V6>>) -> IpAddr {
        match peer {
            Some(peer) => V6::ip(V6::load(&peer.dst)),
            None => V4::ip(V4::load(&line.new_src)),
        }
    }
}

impl Cells for V6 {
    type Cell = [AtomicU64; 2];
    type Other = V4;

    fn load([high, low]: &[AtomicU64; 2]) -> Addr6 {
        Addr6 {
            high: high.load(Relaxed),
            low: low.load(Relaxed),
        }
    }

    #[cfg(test)]
    fn store([high, low]: &[AtomicU64; 2], addr: Addr6) {
        high.store(addr.high, Relaxed);
        low.store(addr.low, Relaxed);
    }

    fn ip(addr: Addr6) -> IpAddr {
        let halves = u128::from(addr.high) | u128::from(addr.low) << 64;
        IpAddr::V6(Ipv6Addr::from(halves.to_ne_bytes()))
    }

    fn across<'a>(table: Table<'a, V6>, line: &Line<V6>) -> Option<&'a Line<V4>> {
        let (key, other) = (key4(line)?, Table::<V4>::new(table.other, table.seed));
        let index = other.find(&key, &other.place(&key))?;
        Some(&table.other[index as usize])
    }

    fn new_source(line: &Line<V6>, _: Option<&Line<V4>>) -> IpAddr {
        V6::ip(V6::load(&line.new_src)).to_canonical()
    }
}

/// The key of the line of IPv4 that belongs to one of IPv6; `None` if that does not lead across.
fn key4(line: &Line<V6>) -> Option<FlowKey<V4>> {
    let [src, dst] = [&line.new_src, &line.new_dst].map(|cell| V4::narrow(V6::load(cell).words()));
    let key = FlowKey::<V4> {
        src: src?,
        dst: dst?,
        ports: line.new_ports.load(Relaxed),
        udp: line.meta().is_udp(),
    };
    Some(key.reversed())
}

/// The same bytes as [`weir_l4_common::session::Line`].
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Line<F: Cells> {
    pub(crate) src: F::Cell,
    pub(crate) dst: F::Cell,
    pub(crate) ports: AtomicU32,
    pub(crate) meta: AtomicU32,
    pub(crate) new_src: F::Cell,
    pub(crate) new_dst: F::Cell,
    pub(crate) new_ports: AtomicU32,
    deltas: AtomicU32,
    mac: [AtomicU16; 3],
    pub(crate) listener: AtomicU16,
    pub(crate) backend: AtomicU16,
    changes: AtomicU16,
    pub(crate) last_seen: AtomicU32,
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

macro_rules! assert_same_layout {
    ($ours:ty, $theirs:ty: $($field:ident),*) => {
        const _: () = {
            assert!(size_of::<$ours>() == size_of::<$theirs>());
            assert!(offset_of!($ours, deltas) == offset_of!($theirs, ip_delta));
            $(assert!(offset_of!($ours, $field) == offset_of!($theirs, $field));)*
        };
    };
}

assert_same_layout!(Line<V4>, Line4: src, dst, ports, meta, new_src, new_dst, new_ports, mac, listener, backend, changes, last_seen, packets, bytes);
assert_same_layout!(Line<V6>, Line6: src, dst, ports, meta, new_src, new_dst, new_ports, mac, listener, backend, changes, last_seen, packets, bytes);

/// The bits of `meta` that say what a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta(pub(crate) u32);

impl Meta {
    pub(crate) fn is_occupied(self) -> bool {
        self.0 & OCCUPIED != 0
    }

    pub(crate) fn is_live(self) -> bool {
        self.0 & LIVE != 0
    }

    /// Taken out of use and not yet freed.
    pub(crate) fn is_dying(self) -> bool {
        self.0 & (LIVE | DYING) == DYING
    }

    pub(crate) fn is_udp(self) -> bool {
        self.0 & UDP != 0
    }

    pub(crate) fn is_reverse(self) -> bool {
        self.0 & REVERSE != 0
    }

    pub(crate) fn mode(self) -> Mode {
        if self.is_across() {
            Mode::Fullnat
        } else {
            Mode::from_bits((self.0 >> MODE_SHIFT) as u8)
        }
    }

    /// Whether the session's other line is in the other family's table.
    pub(crate) fn is_across(self) -> bool {
        self.0 & ACROSS != 0
    }

    /// Whether sessions of this line's mode have a second line.
    pub(crate) fn has_peer(self) -> bool {
        matches!(self.mode(), Mode::Fullnat | Mode::Nat)
    }

    /// The TCP flags seen.
    pub(crate) fn seen(self) -> u8 {
        seen(self.0)
    }
}

impl<F: Cells> Line<F> {
    pub(crate) fn meta(&self) -> Meta {
        Meta(self.meta.load(Acquire))
    }

    pub(crate) fn key(&self) -> FlowKey<F> {
        FlowKey {
            src: F::load(&self.src),
            dst: F::load(&self.dst),
            ports: self.ports.load(Relaxed),
            udp: self.meta().is_udp(),
        }
    }

    /// The key of the line of the other direction, in the same table; only where [`Meta::has_peer`] and not
    /// [`Meta::is_across`].
    pub(crate) fn peer_key(&self) -> FlowKey<F> {
        FlowKey {
            src: F::load(&self.new_src),
            dst: F::load(&self.new_dst),
            ports: self.new_ports.load(Relaxed),
            udp: self.meta().is_udp(),
        }
        .reversed()
    }

    /// Takes the line out of use if it is still as `meta` says.
    pub(crate) fn retire(&self, meta: Meta) -> bool {
        debug_assert!(meta.is_live(), "only live lines are retired");
        self.meta
            .compare_exchange(meta.0, meta.0 & !LIVE | DYING, AcqRel, Relaxed)
            .is_ok()
    }

    /// Whether schedulers count the session of this line.
    pub(crate) fn is_counted(&self) -> bool {
        self.changes.load(Relaxed) & COUNTED != 0
    }

    /// Schedulers count the session no more; true if they did.
    pub(crate) fn count_no_more(&self) -> bool {
        self.is_counted() && self.changes.fetch_and(!COUNTED, AcqRel) & COUNTED != 0
    }

    /// Whether the session of this line is not to go on.
    pub(crate) fn is_ended(&self) -> bool {
        self.changes.load(Relaxed) & ENDED != 0
    }

    /// Has the client's packets answered with resets; true if they were not yet. To be repeated with each pass: a program may
    /// be about to write a next hop that it has asked for before it saw the mark.
    pub(crate) fn end(&self) -> bool {
        let nowhere = u32::from(LINK_NOWHERE) << LINK_SHIFT;
        let is_new = !self.is_ended() && self.changes.fetch_or(ENDED, AcqRel) & ENDED == 0;
        // Fails where it leads there already, or has just been taken out of use. Where a line leads to the other family, the
        // program looks at the mark.
        let _ = self.meta.fetch_update(AcqRel, Acquire, |meta| {
            let leads_on = meta & (LIVE | ACROSS) == LIVE && meta & LINK_MASK != nowhere;
            leads_on.then_some(meta & !LINK_MASK | nowhere)
        });
        is_new
    }

    /// Whether a packet came since `last_seen` was read.
    pub(crate) fn has_moved(&self, last_seen: u32) -> bool {
        self.last_seen.load(Acquire) != last_seen
    }

    /// Gives the line back; the marks of its set stay.
    pub(crate) fn free(&self) {
        self.meta.fetch_and(PASSED, AcqRel);
    }
}

/// A session table: sets of [`LINES`] lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a, F: Cells> {
    lines: &'a [Line<F>],
    /// The other family's table.
    other: &'a [Line<F::Other>],
    seed: u64,
}

impl<'a, F: Cells> Table<'a, F> {
    /// The table in this memory; the hash of flows has this seed.
    pub(crate) fn new(lines: &'a [Line<F>], seed: u64) -> Self {
        debug_assert!(
            lines.len().is_multiple_of(LINES),
            "a table consists of sets"
        );
        let other = &[];
        Self { lines, other, seed }
    }

    /// The same, beside the other family's table.
    pub(crate) fn beside(self, other: &'a [Line<F::Other>]) -> Self {
        Self { other, ..self }
    }

    /// The line of the other direction, in the other table; only where [`Meta::is_across`].
    pub(crate) fn across(self, line: &Line<F>) -> Option<&'a Line<F::Other>> {
        F::across(self, line)
    }

    /// Number of sets.
    pub(crate) fn sets(&self) -> u32 {
        (self.lines.len() / LINES) as u32
    }

    /// All lines, set after set.
    pub(crate) fn lines(&self) -> &'a [Line<F>] {
        self.lines
    }

    /// The lines of a set.
    pub(crate) fn set(&self, set: u32) -> &'a [Line<F>] {
        &self.lines[set as usize * LINES..][..LINES]
    }

    /// Where a flow's line may be.
    pub(crate) fn place(&self, key: &FlowKey<F>) -> Place {
        Place::of(key.hash(self.seed), self.sets())
    }

    /// Fetches the line that is looked at first, ahead of a [`Table::find`].
    pub(crate) fn prefetch(&self, place: &Place) {
        if let Some(index) = place.lines().next() {
            prefetch(&self.lines[index as usize]);
        }
    }

    /// Index of a flow's live line.
    pub(crate) fn find(&self, key: &FlowKey<F>, place: &Place) -> Option<u32> {
        for index in place.lines() {
            let line = &self.lines[index as usize];
            let meta = line.meta();
            if meta.is_live() && line.key() == *key {
                return Some(index);
            }
            if meta.0 & PASSED == 0 {
                return None;
            }
        }
        None
    }
}

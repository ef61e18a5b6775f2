//! A line of the session table as user space sees it: every field an atomic, as the program writes it meanwhile.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use weir_l4_common::hash::FlowKey4;
use weir_l4_common::service::Mode;
use weir_l4_common::session::{
    DYING, LINES, LIVE, Line4, MODE_SHIFT, OCCUPIED, PASSED, Place, REVERSE, UDP, seen,
};

use crate::memory::prefetch;

/// The same 64 bytes as [`Line4`].
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Line {
    pub(crate) src: AtomicU32,
    pub(crate) dst: AtomicU32,
    pub(crate) ports: AtomicU32,
    pub(crate) meta: AtomicU32,
    pub(crate) new_src: AtomicU32,
    pub(crate) new_dst: AtomicU32,
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

const _: () = {
    assert!(size_of::<Line>() == size_of::<Line4>());
    assert!(offset_of!(Line, src) == offset_of!(Line4, src));
    assert!(offset_of!(Line, dst) == offset_of!(Line4, dst));
    assert!(offset_of!(Line, ports) == offset_of!(Line4, ports));
    assert!(offset_of!(Line, meta) == offset_of!(Line4, meta));
    assert!(offset_of!(Line, new_src) == offset_of!(Line4, new_src));
    assert!(offset_of!(Line, new_dst) == offset_of!(Line4, new_dst));
    assert!(offset_of!(Line, new_ports) == offset_of!(Line4, new_ports));
    assert!(offset_of!(Line, deltas) == offset_of!(Line4, ip_delta));
    assert!(offset_of!(Line, mac) == offset_of!(Line4, mac));
    assert!(offset_of!(Line, listener) == offset_of!(Line4, listener));
    assert!(offset_of!(Line, backend) == offset_of!(Line4, backend));
    assert!(offset_of!(Line, changes) == offset_of!(Line4, changes));
    assert!(offset_of!(Line, last_seen) == offset_of!(Line4, last_seen));
    assert!(offset_of!(Line, packets) == offset_of!(Line4, packets));
    assert!(offset_of!(Line, bytes) == offset_of!(Line4, bytes));
};

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
        Mode::from_bits((self.0 >> MODE_SHIFT) as u8)
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

impl Line {
    pub(crate) fn meta(&self) -> Meta {
        Meta(self.meta.load(Acquire))
    }

    pub(crate) fn key(&self) -> FlowKey4 {
        FlowKey4 {
            src: self.src.load(Relaxed),
            dst: self.dst.load(Relaxed),
            ports: self.ports.load(Relaxed),
            udp: self.meta().is_udp(),
        }
    }

    /// The key of the line of the other direction; only where [`Meta::has_peer`].
    pub(crate) fn peer_key(&self) -> FlowKey4 {
        FlowKey4 {
            src: self.new_src.load(Relaxed),
            dst: self.new_dst.load(Relaxed),
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

    /// Whether a packet came since `last_seen` was read.
    pub(crate) fn has_moved(&self, last_seen: u32) -> bool {
        self.last_seen.load(Acquire) != last_seen
    }

    /// Gives the line back; the marks of its set stay.
    pub(crate) fn free(&self) {
        self.meta.fetch_and(PASSED, AcqRel);
    }
}

/// The session table: sets of [`LINES`] lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    lines: &'a [Line],
    seed: u64,
}

impl<'a> Table<'a> {
    /// The table in this memory; the hash of flows has this seed.
    pub(crate) fn new(lines: &'a [Line], seed: u64) -> Self {
        debug_assert!(
            lines.len().is_multiple_of(LINES),
            "a table consists of sets"
        );
        Self { lines, seed }
    }

    /// Number of sets.
    pub(crate) fn sets(&self) -> u32 {
        (self.lines.len() / LINES) as u32
    }

    /// All lines, set after set.
    pub(crate) fn lines(&self) -> &'a [Line] {
        self.lines
    }

    /// The lines of a set.
    pub(crate) fn set(&self, set: u32) -> &'a [Line] {
        &self.lines[set as usize * LINES..][..LINES]
    }

    /// Where a flow's line may be.
    pub(crate) fn place(&self, key: &FlowKey4) -> Place {
        Place::of(key.hash(self.seed), self.sets())
    }

    /// Fetches the line that is looked at first, ahead of a [`Table::find`].
    pub(crate) fn prefetch(&self, place: &Place) {
        if let Some(index) = place.lines().next() {
            prefetch(&self.lines[index as usize]);
        }
    }

    /// Index of a flow's live line.
    pub(crate) fn find(&self, key: &FlowKey4, place: &Place) -> Option<u32> {
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

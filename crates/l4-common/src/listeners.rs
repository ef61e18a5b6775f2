//! The table of listeners: how one is found by VIP, port and protocol.
//!
//! Two arrays. A *slot* is a word: the place of an entry, and a few bits of its key's hash; 0 is free. A key's slots
//! are [`PROBES`] in a row from the one that its hash says, up to the first free one. An *entry* is the key with what the
//! listener is; a listener has two of them, and is changed by filling the one that is not in use and then storing the
//! slot: a packet sees the old listener or the new one. Only user space writes. A quarter of the slots is in use at
//! most, so a packet that is for no listener reads one word, as a rule.

use crate::service::{LISTENERS_MAX, Listener, ListenerKey};

/// Slots; a power of two, four for each listener.
pub const SLOTS: u32 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 18;
/// Entries: two for each number of a listener.
pub const ENTRIES: u32 = (LISTENERS_MAX + 1) * 2;
/// Slots that a key may be in. With a quarter in use, runs of taken slots this long do not occur: the chance of one is
/// below 0.53^64 for each slot, as α·e^(1-α) bounds how the tail falls.
pub const PROBES: u32 = 64;
/// A slot whose listener has gone; keys behind it are still found. No entry has this place, as numbers begin at 1.
pub const GONE: u32 = 1;
/// Bits of a slot that say where the entry is.
const PLACE_BITS: u32 = 17;

const _: () = assert!(ENTRIES <= 1 << PLACE_BITS && SLOTS >= 4 * LISTENERS_MAX);

/// A listener and its key. 64 bytes, a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What packets to the listener look like.
    pub key: ListenerKey,
    /// Zero.
    pub zero: u32,
    /// What becomes of them.
    pub listener: Listener,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// The arrays, in the kernel or in memory. A handle, passed by value.
pub trait Table: Copy {
    /// The slot with this index, below [`SLOTS`].
    fn slot(&self, index: u32) -> Option<u32>;
    /// The entry at this place, below [`ENTRIES`].
    fn entry(&self, place: u32) -> Option<*const Entry>;
}

/// Where a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    hash: u64,
}

impl Place {
    /// The place of a key.
    #[inline(always)]
    pub fn of(key: &ListenerKey) -> Self {
        let [a, b, c, d] = key.addr;
        let upper = u64::from(a) | u64::from(b) << 32;
        let lower = u64::from(c) | u64::from(d) << 32;
        let service = u64::from(key.port) | u64::from(key.proto) << 16;
        // Not seeded: keys are the operator's, and what others send is compared with them alone.
        let mut h = lower ^ upper.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ service << 40;
        h = (h ^ h >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ h >> 29 ^ service).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self { hash: h }
    }

    /// The index of the slot that is looked at as number `probe`.
    #[inline(always)]
    pub fn slot(&self, probe: u32) -> u32 {
        ((self.hash >> (64 - SLOT_BITS)) as u32 + probe) & (SLOTS - 1)
    }

    /// A slot of this key whose entry is at `place`.
    #[inline(always)]
    pub fn word(&self, place: u32) -> u32 {
        (self.hash as u32) << PLACE_BITS | place
    }
}

/// Where a slot says that the entry is; `None` if it is free or its listener has gone.
#[inline(always)]
pub fn entry_place(slot: u32) -> Option<u32> {
    let place = slot & ((1 << PLACE_BITS) - 1);
    (place > GONE).then_some(place)
}

/// The place of the entry with this key; 0 if there is none.
#[inline(always)]
pub fn find(table: impl Table, key: &ListenerKey) -> u32 {
    let place = Place::of(key);
    let mut probe = 0;
    while probe < PROBES {
        let slot = match table.slot(place.slot(probe)) {
            None | Some(0) => return 0,
            Some(slot) => slot,
        };
        if let Some(at) = entry_place(slot)
            && place.word(at) == slot
            && let Some(entry) = table.entry(at)
        {
            // SAFETY: the table gave the entry, which is not written while a slot leads to it.
            let found = unsafe { (*entry).key };
            if found == *key {
                return at;
            }
        }
        probe += 1;
    }
    0
}

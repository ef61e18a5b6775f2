//! Fragments: later ones have no ports, and find their session by what the first one left here (RFC 791, section 3.2;
//! RFC 8200, section 4.5).
//!
//! A small table in an array, apart from the session table: sets of four entries, each a seeded hash of addresses,
//! identification and protocol, and the ports that the first fragment had. A full set gives its oldest entry up, so
//! that a flood of fragments costs other fragments at most. An entry that is read while another core writes it gives
//! wrong ports at worst; the flow that they name is between the same two addresses, or has no session.
//!
//! A later fragment that comes before the first one goes to the kernel, since nobody can tell whose it is: XDP cannot
//! hold a packet back. There it ends in time, and with it the datagram.

use crate::env::Env;

/// Entries in a set: one cache line.
const ENTRIES: usize = 4;
/// Sets of the table: 16,384 datagrams on their way at once, in 256 KiB.
pub const FRAGMENT_SETS: u32 = 1 << SETS_BITS;
const SETS_BITS: u32 = 12;
/// Seconds after which a first fragment is forgotten: as long as Linux waits for the others (`ipfrag_time`).
pub const FRAGMENT_TIMEOUT_SECONDS: u32 = 30;

/// A set of the map `FRAGMENTS`. 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct FragmentSet {
    entries: [Entry; ENTRIES],
}

/// A datagram of which the first fragment has been seen. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The datagram's [`tag`]; 0: the entry is free.
    tag: u64,
    /// Source port, then destination port, as in the packet.
    ports: u32,
    /// When the first fragment came, in jiffies.
    seen: u32,
}

/// The name of a datagram in the table: a hash of its two addresses and its protocol, mixed under the seed by
/// [`crate::family::Family::mix`], and of its identification. Never 0.
#[inline(always)]
pub(crate) fn tag(mixed: u64, id: u32) -> u64 {
    let h = mixed ^ u64::from(id);
    let h = (h ^ h >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
    (h ^ h >> 32) | 1
}

/// The entry `index` of a set.
#[inline(always)]
fn entry(set: *mut FragmentSet, index: usize) -> *mut Entry {
    set.cast::<Entry>().wrapping_add(index & (ENTRIES - 1))
}

/// Notes the ports of a datagram's first fragment.
#[inline(always)]
pub(crate) fn remember(env: impl Env, tag: u64, ports: u32) {
    let Some(set) = env.fragments((tag >> (64 - SETS_BITS)) as u32) else {
        return;
    };
    let now = env.jiffies();
    let mut victim = entry(set, 0);
    let mut oldest = 0;
    let mut index = 0;
    // SAFETY: the entries are inside the set, which the environment vouches for; other cores may write them, and every
    // value is an entry.
    unsafe {
        while index < ENTRIES {
            let candidate = entry(set, index);
            let named = (&raw const (*candidate).tag).read_volatile();
            let age = if named == tag {
                u32::MAX
            } else if named == 0 {
                u32::MAX - 1
            } else {
                now.wrapping_sub((*candidate).seen) >> 1
            };
            if age > oldest {
                oldest = age;
                victim = candidate;
            }
            index += 1;
        }
        (*victim).ports = ports;
        (*victim).seen = now;
        (&raw mut (*victim).tag).write_volatile(tag);
    }
}

/// The ports of the datagram that a later fragment belongs to.
#[inline(always)]
pub(crate) fn recall(env: impl Env, tag: u64) -> Option<u32> {
    let set = env.fragments((tag >> (64 - SETS_BITS)) as u32)?;
    let now = env.jiffies();
    let mut index = 0;
    while index < ENTRIES {
        let candidate = entry(set, index);
        // SAFETY: as above.
        unsafe {
            if (&raw const (*candidate).tag).read_volatile() == tag {
                let fresh = now.wrapping_sub((*candidate).seen) < env.fragment_timeout();
                return fresh.then_some((*candidate).ports);
            }
        }
        index += 1;
    }
    None
}

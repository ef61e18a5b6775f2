//! Finding, claiming and publishing lines of the session table.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::env::Env;
use crate::hash::FlowKey4;
use crate::session::{DYING, LINES, LIVE, Line4, OCCUPIED, Place, SPILLED, Set4, UDP};

/// What became of an attempt to claim a line for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The line is ours; nobody finds it before [`publish`].
    Line(*mut Line4),
    /// The flow has a live line.
    Taken,
    /// Both sets are full.
    Full,
}

/// The live line of a flow.
#[inline(always)]
pub(crate) fn find(env: &impl Env, key: &FlowKey4, place: &Place) -> Option<*mut Line4> {
    let set = env.set(place.first)?;
    if let Some(line) = find_in(set, key, place.start) {
        return Some(line);
    }
    if !spilled(set) {
        return None;
    }
    find_in(env.set(place.second)?, key, place.start)
}

#[inline(always)]
fn find_in(set: *mut Set4, key: &FlowKey4, start: u32) -> Option<*mut Line4> {
    let state = LIVE | if key.udp { UDP } else { 0 };
    let mut i = 0;
    while i < LINES as u32 {
        let line = line_of(set, start + i);
        // SAFETY: `line_of` stays inside the set, which the environment vouches for. Fields of a line that is being
        // filled may change under us; without LIVE they are not used.
        let found = unsafe {
            (&raw const (*line).src).cast::<u64>().read_volatile() == key.addresses()
                && (&raw const (*line).ports).read_volatile() == key.ports
                && (*line).meta() & (LIVE | UDP) == state
        };
        if found {
            return Some(line);
        }
        i += 1;
    }
    None
}

/// The line `index % LINES` of a set.
#[inline(always)]
fn line_of(set: *mut Set4, index: u32) -> *mut Line4 {
    set.cast::<Line4>()
        .wrapping_add(index as usize & (LINES - 1))
}

#[inline(always)]
fn spilled(set: *mut Set4) -> bool {
    // SAFETY: the set is valid; `meta` is atomic.
    unsafe { (*line_of(set, 0)).meta() & SPILLED != 0 }
}

/// Claims a free line for a flow, unless it has a live one.
#[inline(always)]
pub(crate) fn claim(env: &impl Env, key: &FlowKey4, place: &Place) -> Claim {
    let Some(first) = env.set(place.first) else {
        return Claim::Full;
    };
    if find_in(first, key, place.start).is_some() {
        return Claim::Taken;
    }
    if !spilled(first) {
        if let Some(line) = claim_in(first, place.start) {
            return Claim::Line(line);
        }
        // SAFETY: the set is valid; `meta` is atomic. The mark is set before a line of the second set is claimed.
        unsafe { (*line_of(first, 0)).meta.fetch_or(SPILLED, AcqRel) };
    }
    let Some(second) = env.set(place.second) else {
        return Claim::Full;
    };
    if find_in(second, key, place.start).is_some() {
        return Claim::Taken;
    }
    // A line of the first set may have become free while the mark still stands; it is the better one.
    match claim_in(first, place.start).or_else(|| claim_in(second, place.start)) {
        Some(line) => {
            // The sweep may be about to take the mark back: set it again, so that it stays.
            // SAFETY: as above.
            unsafe { (*line_of(first, 0)).meta.fetch_or(SPILLED, AcqRel) };
            Claim::Line(line)
        }
        None => Claim::Full,
    }
}

#[inline(always)]
fn claim_in(set: *mut Set4, start: u32) -> Option<*mut Line4> {
    let mut i = 0;
    while i < LINES as u32 {
        let line = line_of(set, start + i);
        // SAFETY: the line is inside the set; `meta` is atomic.
        let (meta, old) = unsafe { (&(*line).meta, (*line).meta()) };
        if old & OCCUPIED == 0
            && meta
                .compare_exchange(old, old | OCCUPIED, AcqRel, Relaxed)
                .is_ok()
        {
            return Some(line);
        }
        i += 1;
    }
    None
}

/// Makes a claimed and filled line visible. `bits` are the flags, link, generation and flags seen of `meta`.
/// False if another core published the same flow at the same time: the line is given up then.
#[inline(always)]
pub(crate) fn publish(
    env: &impl Env,
    line: *mut Line4,
    key: &FlowKey4,
    place: &Place,
    bits: u32,
) -> bool {
    // SAFETY: the line was claimed by us and stays in the table's memory; `meta` is atomic.
    let meta = unsafe { &(*line).meta };
    meta.fetch_or(bits | LIVE, AcqRel);
    // Both cores look after they have published, so at least one of them sees the other.
    if twin(env, line, key, place) {
        retire(line);
        return false;
    }
    true
}

#[inline(always)]
fn twin(env: &impl Env, line: *mut Line4, key: &FlowKey4, place: &Place) -> bool {
    let Some(first) = env.set(place.first) else {
        return false;
    };
    if other_in(first, line, key) {
        return true;
    }
    if !spilled(first) {
        return false;
    }
    let Some(second) = env.set(place.second) else {
        return false;
    };
    place.second != place.first && other_in(second, line, key)
}

#[inline(always)]
fn other_in(set: *mut Set4, line: *mut Line4, key: &FlowKey4) -> bool {
    let state = LIVE | if key.udp { UDP } else { 0 };
    let mut i = 0;
    while i < LINES as u32 {
        let other = line_of(set, i);
        // SAFETY: as in `find_in`.
        let same = unsafe {
            (&raw const (*other).src).cast::<u64>().read_volatile() == key.addresses()
                && (&raw const (*other).ports).read_volatile() == key.ports
                && (*other).meta() & (LIVE | UDP) == state
        };
        if same && !core::ptr::eq(other, line) {
            return true;
        }
        i += 1;
    }
    false
}

/// Takes a live line out of use; the sweep counts and frees it.
#[inline(always)]
pub(crate) fn retire(line: *mut Line4) {
    // SAFETY: lines never leave the table's memory; `meta` is atomic. Set before cleared: at no moment does the line
    // look claimed and unfinished.
    unsafe {
        (*line).meta.fetch_or(DYING, AcqRel);
        (*line).meta.fetch_and(!LIVE, AcqRel);
    }
}

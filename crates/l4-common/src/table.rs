//! Finding, claiming and publishing lines of the session table.

use core::hint::black_box;
use core::mem::offset_of;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::env::Env;
use crate::family::Family;
use crate::hash::FlowKey;
use crate::session::{DYING, LINES, LIVE, Line, OCCUPIED, PASSED, PROBES, Place, Set, UDP};

/// The live line of the flow with this hash.
#[inline(always)]
pub(crate) fn find<F: Family>(
    env: impl Env,
    key: &FlowKey<F>,
    hash: u64,
) -> Option<NonNull<Line<F>>> {
    let mut line = null_mut();
    let number = F::find(env, key, hash);
    if number != 0
        && let Some(set) = F::set(env, (number - 1) / LINES as u32)
    {
        line = line_of(set, number - 1);
    }
    // Whether there is a line must be asked of the pointer: of the number, the kernel's verifier would not see that the one
    // follows from the other.
    NonNull::new(black_box(line))
}

/// The number of a flow's live line in the whole table, from 1; 0: it has none. Lines are looked at in the order of its
/// place, up to the first without a mark.
#[inline(always)]
pub fn number<F: Family>(env: impl Env, key: &FlowKey<F>, hash: u64) -> u32 {
    let place = Place::of(hash, F::sets(env));
    let mut probe = 0;
    while probe < PROBES {
        let index = place.set(probe);
        let Some(set) = F::set(env, index) else {
            return 0;
        };
        let mut lane = 0;
        while lane < LINES as u32 {
            let line = line_of(set, place.start() + lane);
            let word = word(line);
            if is_flow(line, word, key) {
                let lane = (place.start() + lane) & (LINES as u32 - 1);
                return index * LINES as u32 + lane + 1;
            }
            if meta_of(word) & PASSED == 0 {
                return 0;
            }
            lane += 1;
        }
        probe += 1;
    }
    0
}

/// What a look at a flow's home set tells.
pub(crate) enum AtHome<F: Family> {
    /// Its live line, and the line's `meta`.
    Line(*mut Line<F>, u32),
    /// The flow has no line.
    Absent,
    /// Its line may be in another set.
    Further,
}

/// The live line of a flow, if it is in its home set.
#[inline(always)]
pub(crate) fn find_at_home<F: Family>(env: impl Env, key: &FlowKey<F>, place: &Place) -> AtHome<F> {
    let Some(set) = F::set(env, place.home()) else {
        return AtHome::Absent;
    };
    let mut lane = 0;
    while lane < LINES as u32 {
        let line = line_of(set, place.start() + lane);
        let word = word(line);
        if is_flow(line, word, key) {
            return AtHome::Line(line, meta_of(word));
        }
        if meta_of(word) & PASSED == 0 {
            return AtHome::Absent;
        }
        lane += 1;
    }
    AtHome::Further
}

/// Whether a line is the live line of a flow; `word` is its [`word`]. Everything is compared in one question: a processor
/// guesses the answer, and is wrong at most once.
#[inline(always)]
fn is_flow<F: Family>(line: *mut Line<F>, word: u64, key: &FlowKey<F>) -> bool {
    let state = LIVE | if key.udp { UDP } else { 0 };
    let wanted = u64::from(key.ports) | u64::from(state) << 32;
    let others = (word ^ wanted) & (u64::from(LIVE | UDP) << 32 | u64::from(u32::MAX));
    // SAFETY: callers pass lines of the table. Fields of a line that is being filled may change under us; without
    // LIVE they are not used.
    unsafe { F::differing_addresses(line, key) | others == 0 }
}

/// `ports` and `meta` of a line, as they are at this moment.
#[inline(always)]
fn word<F: Family>(line: *mut Line<F>) -> u64 {
    const { assert!(offset_of!(Line<F>, meta) == offset_of!(Line<F>, ports) + 4) };
    const { assert!(offset_of!(Line<F>, ports) % 8 == 0 && cfg!(target_endian = "little")) };
    // SAFETY: callers pass lines of the table; both words are eight bytes in a row, aligned.
    unsafe { (&raw const (*line).ports).cast::<u64>().read_volatile() }
}

/// The `meta` in a [`word`].
#[inline(always)]
fn meta_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The line `index % LINES` of a set.
#[inline(always)]
fn line_of<F: Family>(set: *mut Set<F>, index: u32) -> *mut Line<F> {
    set.cast::<Line<F>>()
        .wrapping_add(index as usize & (LINES - 1))
}

#[inline(always)]
fn meta<F: Family>(line: *mut Line<F>) -> u32 {
    // SAFETY: callers pass lines of the table.
    unsafe { (*line).meta() }
}

/// The line that is looked at first for a flow with this hash.
#[inline(always)]
fn first<F: Family>(env: impl Env, hash: u64) -> Option<*mut Line<F>> {
    let place = Place::of(hash, F::sets(env));
    F::set(env, place.home()).map(|set| line_of(set, place.start()))
}

/// Whether it takes one look to know that no flow with this hash has a line: the first one is free and has no mark.
#[inline(always)]
pub(crate) fn is_free_at_first_sight<F: Family>(env: impl Env, hash: u64) -> bool {
    first::<F>(env, hash).is_some_and(|line| meta(line) & (OCCUPIED | PASSED) == 0)
}

/// A line that its taker has to fill and to [`publish`].
pub(crate) struct Claimed<F: Family> {
    pub(crate) line: NonNull<Line<F>>,
    /// It is the one that is looked at first.
    is_first: bool,
}

/// Claims a free line for a flow that has none: the first in the order of its place. Those that it passes get a mark.
#[inline(always)]
pub(crate) fn claim<F: Family>(env: impl Env, hash: u64) -> Option<Claimed<F>> {
    let line = NonNull::new(first::<F>(env, hash)?)?;
    let old = meta(line.as_ptr());
    // SAFETY: the line is inside the set; `meta` is atomic.
    let meta = unsafe { &(*line.as_ptr()).meta };
    if old & OCCUPIED == 0
        && meta
            .compare_exchange(old, old | OCCUPIED, AcqRel, Relaxed)
            .is_ok()
    {
        return Some(Claimed {
            line,
            is_first: true,
        });
    }
    Some(Claimed {
        line: claim_further(env, hash)?,
        is_first: false,
    })
}

/// [`claim`], where the first line is taken.
#[inline(never)]
fn claim_further<F: Family>(env: impl Env, hash: u64) -> Option<NonNull<Line<F>>> {
    let place = Place::of(hash, F::sets(env));
    let mut probe = 0;
    while probe < PROBES {
        let set = F::set(env, place.set(probe))?;
        let mut lane = 0;
        while lane < LINES as u32 {
            let line = line_of(set, place.start() + lane);
            let old = meta(line);
            // SAFETY: the line is inside the set; `meta` is atomic.
            let meta = unsafe { &(*line).meta };
            if old & OCCUPIED == 0
                && meta
                    .compare_exchange(old, old | OCCUPIED, AcqRel, Relaxed)
                    .is_ok()
            {
                return NonNull::new(line);
            }
            // The mark is there before a line behind it is. It is set anew where it stands already: the sweep may be
            // about to take it back.
            meta.fetch_or(PASSED, AcqRel);
            lane += 1;
        }
        probe += 1;
    }
    None
}

/// Makes a claimed and filled line visible. `bits` are the flags, link, generation and flags seen of `meta`.
/// False if another core published the same flow at the same time: the line is given up then.
#[inline(always)]
pub(crate) fn publish<F: Family>(
    env: impl Env,
    claimed: &Claimed<F>,
    hash: u64,
    bits: u32,
) -> bool {
    let line = claimed.line;
    // SAFETY: the line was claimed by the caller and stays in the table's memory; `meta` is atomic.
    let old = unsafe { (*line.as_ptr()).meta.fetch_or(bits | LIVE, AcqRel) };
    // Both cores look after they have published, so at least one of them sees the other. In front of a line is
    // nothing if it is the first; behind it is nothing if it has no mark.
    claimed.is_first && old & PASSED == 0 || is_alone(env, line, hash)
}

/// Whether no other line has the flow of this one; if one has, this one is given up.
#[inline(never)]
fn is_alone<F: Family>(env: impl Env, line: NonNull<Line<F>>, hash: u64) -> bool {
    let line = line.as_ptr();
    // SAFETY: the caller has claimed, filled and published the line.
    let key = unsafe { (*line).key() };
    let place = Place::of(hash, F::sets(env));
    let mut probe = 0;
    while probe < PROBES {
        let Some(set) = F::set(env, place.set(probe)) else {
            return true;
        };
        let mut lane = 0;
        while lane < LINES as u32 {
            let other = line_of(set, place.start() + lane);
            let word = word(other);
            if !core::ptr::eq(other, line) && is_flow(other, word, &key) {
                retire(line);
                return false;
            }
            if meta_of(word) & PASSED == 0 {
                return true;
            }
            lane += 1;
        }
        probe += 1;
    }
    true
}

/// Takes a live line out of use; the sweep counts and frees it.
#[inline(always)]
pub(crate) fn retire<F: Family>(line: *mut Line<F>) {
    // SAFETY: lines never leave the table's memory; `meta` is atomic.
    retire_state(unsafe { &(*line).meta });
}

/// [`retire`], given the line's `meta`.
#[inline(always)]
pub(crate) fn retire_state(meta: &AtomicU32) {
    // Set before cleared: at no moment does the line look claimed and unfinished.
    meta.fetch_or(DYING, AcqRel);
    meta.fetch_and(!LIVE, AcqRel);
}

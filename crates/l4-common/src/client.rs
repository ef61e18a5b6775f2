//! Persistence: which backend a client's sessions go to, for some time after the last of them.
//!
//! A table of sets of [`CLIENTS`] entries; a client's entry is in its home set or the neighbour. The key is a seeded hash of
//! pool and address, 64 bits of it: of two clients that share it, one is sent where the other goes, in the same pool, and
//! nothing worse. An entry says when it is out of date by itself. It is written by the first session of a client, and
//! kept up by user space as long as the client has a session that is confirmed; those entries are given up for no other, so
//! that a flood of forged addresses drives out its own.

use core::hint::black_box;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::env::Env;
use crate::hash::reduce;
use crate::load::sign;
use crate::service::BACKEND_ACCEPTS;

/// Entries in a set.
pub const CLIENTS: usize = 4;
/// Sets that a client's entry may be in.
const PROBES: u32 = 2;
/// In an entry's word: a confirmed session was seen.
pub const CONFIRMED: u64 = 1 << 48;

/// An entry. 16 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Client {
    /// The key; 0: free.
    pub tag: AtomicU64,
    /// From the lowest bits: when it is out of date (jiffies, 32 bits), the backend's number (16), [`CONFIRMED`].
    pub word: AtomicU64,
}

/// A set of the map `CLIENTS`. 64 bytes, a cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct ClientSet {
    /// The entries, in no order.
    pub clients: [Client; CLIENTS],
}

const _: () = assert!(size_of::<ClientSet>() == 64);

/// An entry of `POOLS`, at the pool's number. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// How long clients are remembered, jiffies.
    pub timeout: u32,
    /// The part of an IPv4 address that counts, network byte order.
    pub mask4: u32,
    /// The part of an IPv6 address that counts, network byte order.
    pub mask6: [u32; 4],
    /// A hash of the pool's name: numbers are given anew by the next daemon, which keeps the clients.
    pub name: u64,
}

const _: () = assert!(size_of::<Pool>() == 32);

/// The word of an entry.
#[inline(always)]
pub fn word(expires: u32, backend: u16) -> u64 {
    u64::from(expires) | u64::from(backend) << 32
}

/// The backend of a word.
#[inline(always)]
pub fn backend(word: u64) -> u16 {
    (word >> 32) as u16
}

/// Whether a word is out of date.
#[inline(always)]
pub fn is_over(word: u64, now: u32) -> bool {
    (word as u32).wrapping_sub(now).cast_signed() <= 0
}

/// The key of a client, IPv4 as mapped, in a pool.
#[inline(always)]
pub fn tag(addr: [u32; 4], pool: &Pool, seed: u64) -> u64 {
    let [a, b, c, d] = addr;
    let is_v4 = a | b == 0 && c == 0xffffu32.to_be();
    let [ma, mb, mc, md] = pool.mask6;
    let (upper, lower) = if is_v4 {
        (1, u64::from(d & pool.mask4))
    } else {
        (
            u64::from(a & ma) | u64::from(b & mb) << 32,
            u64::from(c & mc) | u64::from(d & md) << 32,
        )
    };
    let mut h = upper ^ seed;
    h = (h ^ h >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 29 ^ lower ^ pool.name;
    h = (h ^ h >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
    h = (h ^ h >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    // Zero marks a free entry.
    h ^ h >> 32 | 1
}

/// The sets of a key.
#[inline(always)]
pub fn set(tag: u64, probe: u32, sets: u32) -> u32 {
    // The number of sets is even.
    reduce((tag >> 32) as u32, sets) ^ (probe & 1)
}

/// The backend that a client's sessions go to, if it still takes them and belongs to the pool whose name has this hash; 0 if
/// there is none.
#[inline(always)]
pub fn known(env: impl Env, tag: u64, pool: u64, now: u32) -> u16 {
    let sets = env.client_sets();
    let mut index = 0;
    while index < PROBES * CLIENTS as u32 {
        let Some(client) = entry(env, tag, index, sets) else {
            return 0;
        };
        let (found, word) = read(client);
        if found == tag && !is_over(word, now) {
            return usable(env, backend(word), pool);
        }
        index += 1;
    }
    0
}

/// The backend with this number if it takes new sessions of this pool, else 0: its number may have become that of
/// another since, and a client's entry may be read while another's is written over it.
#[inline(always)]
fn usable(env: impl Env, number: u16, pool: u64) -> u16 {
    let accepts = env
        .backend(number)
        .is_some_and(|backend| backend.flags & BACKEND_ACCEPTS != 0);
    let Some(load) = env.load(number) else {
        return 0;
    };
    // SAFETY: an element lives as long as the map; the word is read whole.
    let belongs = unsafe { (&raw const (*load).pool).read_volatile() } == pool;
    if accepts && belongs { number } else { 0 }
}

/// Remembers a client: in its own entry, in one that is free or out of date, or in the one that is out of date first of
/// those without a confirmed session. Where all have one, the client is not remembered.
#[inline(always)]
pub fn remember(env: impl Env, tag: u64, word: u64, now: u32) {
    let sets = env.client_sets();
    let mut best = NOBODY;
    let mut index = 0;
    while index < PROBES * CLIENTS as u32 {
        let Some(client) = entry(env, tag, index, sets) else {
            return;
        };
        let (found, old) = read(client);
        if found == tag {
            write(client, word);
            return;
        }
        // The smaller of both, without a branch: see `load::least`.
        let less = (worth(found, old, now) << 8 | u64::from(index)).wrapping_sub(best);
        best = best.wrapping_add(less.wrapping_mul(sign(less)));
        index += 1;
    }
    if best >= NOBODY {
        return;
    }
    let Some(client) = entry(env, tag, best as u32 & 7, sets) else {
        return;
    };
    let (found, _) = read(client);
    // SAFETY: inside a set of the map; the field is atomic.
    let claimed = unsafe {
        (*client)
            .tag
            .compare_exchange(found, tag, AcqRel, Relaxed)
            .is_ok()
    };
    if claimed {
        write(client, word);
    }
}

/// More than an entry that may be given up is worth, in the form that they are compared in.
const NOBODY: u64 = 1 << 41;

/// What an entry is worth: nothing if it is free or out of date, else the jiffies that it has left, and with a confirmed
/// session more than that. Without branches, see above.
#[inline(always)]
fn worth(tag: u64, word: u64, now: u32) -> u64 {
    let left = (word as u32).wrapping_sub(now);
    let lasts = left.wrapping_sub(1) >> 31 ^ 1;
    let taken = (tag | tag.wrapping_neg()) >> 63;
    let confirmed = word >> 48 & 1;
    (u64::from(left) + (confirmed << 33)).wrapping_mul(black_box(u64::from(lasts) & taken))
}

/// The entry of a key with this index, `0..PROBES * CLIENTS`.
#[inline(always)]
fn entry(env: impl Env, tag: u64, index: u32, sets: u32) -> Option<*mut Client> {
    let set = env.clients(set(tag, index / CLIENTS as u32, sets))?;
    Some(
        set.cast::<Client>()
            .wrapping_add(index as usize & (CLIENTS - 1)),
    )
}

#[inline(always)]
fn read(client: *mut Client) -> (u64, u64) {
    // SAFETY: callers pass entries of the map; words are read whole.
    unsafe {
        (
            (&raw const (*client).tag).cast::<u64>().read_volatile(),
            (&raw const (*client).word).cast::<u64>().read_volatile(),
        )
    }
}

#[inline(always)]
fn write(client: *mut Client, word: u64) {
    // SAFETY: as above.
    unsafe { (&raw mut (*client).word).cast::<u64>().write_volatile(word) };
}

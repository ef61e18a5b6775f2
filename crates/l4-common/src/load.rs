//! Schedulers that go by the sessions under way: the least of some backends, and the better of two.
//!
//! A word for each backend says how many there are. The program adds to it when it opens a session, and marks the
//! session's line; user space takes it off when the session closes or goes, and the mark with it. Only new sessions touch
//! the words.

use core::hint::black_box;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use crate::env::Env;
use crate::hash::reduce;

/// Backends that `least_conn` looks at for one session. In a larger pool they are so many in a row, from a place that the
/// session's hash says.
pub const SCAN_MAX: u32 = 64;

/// An entry of `LOADS`, at the backend's number. 16 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Load {
    /// Sessions under way that schedulers count; written by all.
    pub sessions: AtomicU32,
    /// The weight of the backend, in hundredths of its unit; 0: it takes nothing new.
    pub weight: u32,
    /// A hash of its pool's name.
    pub pool: u64,
}

/// What schedulers compare.
#[derive(Clone, Copy)]
struct Burden {
    sessions: u64,
    weight: u64,
}

impl Burden {
    #[inline(always)]
    fn of(env: impl Env, number: u16) -> Option<Self> {
        let load = env.load(number)?;
        // SAFETY: an element lives as long as the map; words are read whole.
        let (sessions, weight) = unsafe {
            (
                (&raw const (*load).sessions).cast::<u32>().read_volatile(),
                (&raw const (*load).weight).read_volatile(),
            )
        };
        Some(Self {
            sessions: u64::from(sessions),
            weight: u64::from(weight),
        })
    }

    /// Whether one more session would weigh less here than there.
    #[inline(always)]
    fn is_lighter(self, other: Self) -> bool {
        (self.sessions + 1) * other.weight < (other.sessions + 1) * self.weight
    }
}

/// Counts a session that is about to be published.
#[inline(always)]
pub(crate) fn add(env: impl Env, number: u16) {
    if let Some(load) = env.load(number) {
        // SAFETY: an element lives as long as the map; the word is atomic.
        unsafe { (*load).sessions.fetch_add(1, Relaxed) };
    }
}

/// The backend with the fewest sessions for its weight, of at most [`SCAN_MAX`] in the list of `len` members at slot
/// `base`; 0 if there is none. `start`, below `len`, is where the search begins, which decides between equal ones.
#[inline(always)]
pub fn least(env: impl Env, base: u32, len: u32, start: u32) -> u16 {
    // Bits that are multiplied with, in place of branches and masks: the verifier would follow both sides of each in
    // every round.
    let mut best = 0u64;
    let mut burden = Burden {
        sessions: 0,
        weight: 0,
    };
    let mut looked = 0;
    while looked < SCAN_MAX {
        // A bound of its own: of both together the compiler would make one that the verifier does not see.
        if looked >= black_box(len) {
            break;
        }
        let at = start.wrapping_add(looked);
        let beyond = sign(u64::from(len).wrapping_sub(1).wrapping_sub(u64::from(at)));
        let at = at.wrapping_sub(len.wrapping_mul(beyond as u32));
        let Some(number) = env.slot(base.wrapping_add(at)) else {
            break;
        };
        let Some(other) = Burden::of(env, number) else {
            break;
        };
        // One if the other is lighter, as in `is_lighter`.
        let less = sign(
            (other.sessions + 1)
                .wrapping_mul(burden.weight)
                .wrapping_sub((burden.sessions + 1).wrapping_mul(other.weight)),
        );
        let towards =
            |here: u64, there: u64| here.wrapping_add(there.wrapping_sub(here).wrapping_mul(less));
        best = towards(best, u64::from(number));
        burden.sessions = towards(burden.sessions, other.sessions);
        burden.weight = towards(burden.weight, other.weight);
        looked += 1;
    }
    best as u16
}

/// The sign bit of a difference, of which the compiler knows nothing: it would make branches of it again.
#[inline(always)]
pub(crate) fn sign(difference: u64) -> u64 {
    black_box(difference >> 63)
}

/// Of two slots drawn at random from the table of `len` slots at `base`, in which a backend has as many as its weight
/// says, the backend that is lighter (Mitzenmacher, IEEE TPDS 2001); 0 if there is none.
#[inline(always)]
pub fn lighter_of_two(env: impl Env, base: u32, len: u32, random: u64) -> u16 {
    let first = env.slot(base.wrapping_add(reduce(random as u32, len)));
    let second = env.slot(base.wrapping_add(reduce((random >> 32) as u32, len)));
    let (Some(first), Some(second)) = (first, second) else {
        return 0;
    };
    let (Some(here), Some(there)) = (Burden::of(env, first), Burden::of(env, second)) else {
        return 0;
    };
    if there.is_lighter(here) {
        second
    } else {
        first
    }
}

/// Random bits for one session: its hash, which is seeded, and the time, so that the same flow does not always draw the
/// same two.
#[inline(always)]
pub(crate) fn draw(hash: u64, jiffies: u32) -> u64 {
    let mut h = hash ^ u64::from(jiffies).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ h >> 29
}

const _: () = assert!(size_of::<Load>() == 16);

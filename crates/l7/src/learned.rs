//! Which backend has set which cookie: what all workers of a pool remember of its application's sessions.
//!
//! A value is kept as a hash under a key of the process, so that an entry has one size, and nobody can make two values
//! meet. Each part of the table has two generations: what is used moves to the young one, and when that is full, or the
//! time is over, it becomes the old one and what was old is forgotten. So room is bounded, and whoever comes often stays.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use weir_model::Learning;

/// Parts with a lock each; workers that look at the same time rarely meet.
const PARTS: usize = 16;

/// A cookie's value, hashed.
pub(crate) type Session = u128;

/// The table of a pool.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    keys: [RandomState; 2],
    parts: [Mutex<Part>; PARTS],
    forgotten: AtomicU64,
}

#[derive(Debug, Default)]
struct Part {
    young: HashMap<Session, Entry>,
    old: HashMap<Session, Entry>,
    /// When the young generation began.
    since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: SocketAddr,
    used_ms: u64,
}

impl Learned {
    /// What stands for a value.
    pub(crate) fn session(&self, value: &[u8]) -> Session {
        let [high, low] = &self.keys;
        u128::from(high.hash_one(value)) << 64 | u128::from(low.hash_one(value))
    }

    /// The backend that a session is at; counts as its use.
    pub(crate) fn find(
        &self,
        session: Session,
        learning: &Learning,
        now_ms: u64,
    ) -> Option<SocketAddr> {
        let mut part = self.part(session);
        self.age(&mut part, learning, now_ms);
        let known = part.young.remove(&session);
        let known = known.or_else(|| part.old.remove(&session))?;
        if now_ms.saturating_sub(known.used_ms) > timeout_ms(learning) {
            return None;
        }
        self.insert(&mut part, session, known.backend, learning, now_ms);
        Some(known.backend)
    }

    /// A session is at this backend from now on.
    pub(crate) fn put(
        &self,
        session: Session,
        backend: SocketAddr,
        learning: &Learning,
        now_ms: u64,
    ) {
        let mut part = self.part(session);
        self.age(&mut part, learning, now_ms);
        part.old.remove(&session);
        self.insert(&mut part, session, backend, learning, now_ms);
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> u64 {
        let of = |part: &Mutex<Part>| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            (part.young.len() + part.old.len()) as u64
        };
        self.parts.iter().map(of).sum()
    }

    /// How many were forgotten before their time, for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }

    fn part(&self, session: Session) -> MutexGuard<'_, Part> {
        self.parts[session as usize % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What was old when the young generation began has not been used since: after the time it is over for all of it.
    fn age(&self, part: &mut Part, learning: &Learning, now_ms: u64) {
        if now_ms.saturating_sub(part.since_ms) > timeout_ms(learning) {
            part.old = std::mem::take(&mut part.young);
            part.since_ms = now_ms;
        }
    }

    fn insert(
        &self,
        part: &mut Part,
        session: Session,
        backend: SocketAddr,
        learning: &Learning,
        now_ms: u64,
    ) {
        let generation_max = (learning.entries as usize / PARTS / 2).max(1);
        if part.young.len() >= generation_max && !part.young.contains_key(&session) {
            let timeout_ms = timeout_ms(learning);
            let is_alive = |entry: &&Entry| now_ms.saturating_sub(entry.used_ms) <= timeout_ms;
            let lost = part.old.values().filter(is_alive).count();
            self.forgotten.fetch_add(lost as u64, Relaxed);
            part.old = std::mem::take(&mut part.young);
            part.since_ms = now_ms;
        }
        let used_ms = now_ms;
        part.young.insert(session, Entry { backend, used_ms });
    }
}

fn timeout_ms(learning: &Learning) -> u64 {
    u64::try_from(learning.timeout.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEARNING: Learning = Learning {
        timeout: Duration::from_millis(1000),
        entries: 640,
    };

    fn backend(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn a_session_is_known_for_its_time_after_each_use() {
        let learned = Learned::default();
        let session = learned.session(b"abc");
        assert_eq!(learned.find(session, &LEARNING, 0), None);
        learned.put(session, backend(1), &LEARNING, 0);
        for now_ms in [1000, 2000, 2900, 3900] {
            assert_eq!(learned.find(session, &LEARNING, now_ms), Some(backend(1)));
        }
        assert_eq!(learned.find(session, &LEARNING, 4901), None);
        assert_eq!(learned.len(), 0);
        learned.put(session, backend(1), &LEARNING, 5000);
        learned.put(session, backend(2), &LEARNING, 5000);
        assert_eq!(learned.find(session, &LEARNING, 5001), Some(backend(2)));
        assert_eq!(learned.find(learned.session(b"abd"), &LEARNING, 5001), None);
    }

    #[test]
    fn room_is_bounded_and_who_comes_often_stays() {
        let learned = Learned::default();
        let faithful = learned.session(b"faithful");
        learned.put(faithful, backend(1), &LEARNING, 0);
        for number in 0..10_000_u32 {
            let other = learned.session(&number.to_be_bytes());
            learned.put(other, backend(2), &LEARNING, 10);
            assert_eq!(learned.find(faithful, &LEARNING, 10), Some(backend(1)));
            assert!(learned.len() <= u64::from(LEARNING.entries), "{number}");
        }
        assert_eq!(learned.len() + learned.forgotten(), 10_001);
    }

    #[test]
    fn what_nobody_asks_for_goes_with_time() {
        let learned = Learned::default();
        for number in 0..320_u32 {
            learned.put(
                learned.session(&number.to_be_bytes()),
                backend(1),
                &LEARNING,
                0,
            );
        }
        // New ones come now and then, to each part.
        for now_ms in [1001, 2002, 3003] {
            for number in 0..320_u32 {
                learned.find(learned.session(&number.to_le_bytes()), &LEARNING, now_ms);
            }
        }
        assert_eq!((learned.len(), learned.forgotten()), (0, 0));
    }
}

//! Outlier ejection: a backend that fails several times in a row takes no new work for a while, which grows with each
//! time. Only the counting is here; how many of a pool may be out at once is the pool's to say.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weir_model::Outlier;

/// What is known about one backend's failures, shared by all workers. While it answers, nobody writes here.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: AtomicU32,
    /// The end of the last ejection, in milliseconds; 0: there was none.
    ejected_until_ms: AtomicU64,
    /// How often it was ejected lately.
    times: Mutex<u32>,
    ejections: AtomicU64,
}

impl Failures {
    /// Takes in how a piece of work went; true when the row of failures is long enough for an ejection.
    pub fn record(&self, failed: bool, policy: &Outlier, now_ms: u64) -> bool {
        if !failed {
            if self.in_a_row.load(Relaxed) != 0 {
                self.in_a_row.store(0, Relaxed);
            }
            return false;
        }
        let in_a_row = self.in_a_row.fetch_add(1, Relaxed) + 1;
        in_a_row >= policy.failures && !self.is_ejected(now_ms)
    }

    /// Whether it is left out now.
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.ejected_until_ms.load(Relaxed)
    }

    /// Leaves it out from now on; says for how long. The first ejection lasts `ejection`, each further one twice as
    /// long, up to `ejection_max`; a backend that was in for that long after its last one begins anew.
    pub fn eject(&self, policy: &Outlier, now_ms: u64) -> Duration {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.ejected_until_ms.load(Relaxed);
        if now_ms.saturating_sub(ended) > millis(policy.ejection_max) {
            *times = 0;
        }
        // Beyond 2^20 times the bound has long been reached.
        let factor = 1u32 << (*times).min(20);
        let length = policy
            .ejection
            .saturating_mul(factor)
            .min(policy.ejection_max);
        *times = times.saturating_add(1);
        self.in_a_row.store(0, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.ejected_until_ms
            .store(now_ms + millis(length).max(1), Relaxed);
        length
    }

    /// Ejections so far.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }
}

/// Whether one more of a pool's backends may be ejected. `takers` take new work now and are not ejected, `ejected` are
/// out already, of `total` backends in all.
pub fn may_eject(takers: usize, ejected: usize, total: usize, policy: &Outlier) -> bool {
    let share = total * policy.ejected_max_percent as usize / 100;
    takers > 1 && ejected < share.max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Outlier {
        Outlier {
            failures: 3,
            ejection: Duration::from_secs(1),
            ejection_max: Duration::from_secs(3),
            ..Outlier::default()
        }
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let (failures, policy) = (Failures::default(), policy());
        let outcomes = [true, true, false, true, true, true];
        let due: Vec<bool> = outcomes
            .iter()
            .map(|failed| failures.record(*failed, &policy, 100))
            .collect();
        assert_eq!(due, [false, false, false, false, false, true]);
    }

    #[test]
    fn ejections_grow_and_begin_anew_after_a_good_time() {
        let (failures, policy) = (Failures::default(), policy());
        let mut now = 10_000;
        let lengths: Vec<u128> = (0..4)
            .map(|_| {
                let length = failures.eject(&policy, now);
                assert!(failures.is_ejected(now) && !failures.record(true, &policy, now));
                now += length.as_millis() as u64;
                assert!(!failures.is_ejected(now));
                length.as_millis()
            })
            .collect();
        assert_eq!(lengths, [1000, 2000, 3000, 3000]);
        assert_eq!(failures.eject(&policy, now + 3001).as_millis(), 1000);
        assert_eq!(failures.ejections(), 5);
    }

    #[test]
    fn a_share_may_be_out_and_never_the_last_taker() {
        let policy = policy();
        let check = |takers, ejected, total, expected| {
            assert_eq!(
                may_eject(takers, ejected, total, &policy),
                expected,
                "{takers} take work, {ejected} are out of {total}"
            );
        };
        check(2, 0, 2, true);
        check(1, 0, 1, false);
        check(1, 1, 2, false);
        check(9, 1, 10, true);
        check(6, 4, 10, true);
        check(5, 5, 10, false);
        check(2, 0, 10, true);
        check(1, 0, 10, false);
    }
}

//! When a check runs: spread over the interval, the same after every start.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The first check of a backend comes within this time, however long the interval: until then nothing is known
/// about it.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// The instants of one check, as offsets from its start: the first soon, then every `interval` at a phase of its
/// own, so that many checks with one interval are spread evenly over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    phase: Duration,
    next: Duration,
}

impl Schedule {
    /// The schedule of the check that `key` identifies. `interval` is above zero.
    pub fn new<K: Hash>(key: &K, interval: Duration) -> Self {
        // SipHash with fixed keys: the same phase in every run of one build.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        // 2^53: the fraction is exact in an f64, and below 1.
        let fraction = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
        Self {
            interval,
            phase: interval.mul_f64(fraction),
            next: interval.min(FIRST_WITHIN).mul_f64(fraction),
        }
    }

    /// When the next check is due.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// The check that was due has been made and it is `now`: the next one is the first on the grid after the one
    /// that was due, or at once when that has passed. Missed ones are not made up for.
    pub fn advance(&mut self, now: Duration) {
        let interval = self.interval.as_nanos().max(1);
        let after = |instant: Duration| {
            let Some(since) = instant.checked_sub(self.phase) else {
                return self.phase;
            };
            let steps = since.as_nanos() / interval + 1;
            let offset = u64::try_from(steps * interval).unwrap_or(u64::MAX);
            self.phase + Duration::from_nanos(offset)
        };
        let due = after(self.next);
        // Late by a whole interval or more: what lies between was missed.
        self.next = if after(due) <= now { after(now) } else { due };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instants(key: u32, interval: Duration, count: usize) -> Vec<Duration> {
        let mut schedule = Schedule::new(&key, interval);
        (0..count)
            .map(|_| {
                let due = schedule.next();
                schedule.advance(due);
                due
            })
            .collect()
    }

    #[test]
    fn steps_are_never_longer_than_the_interval_and_then_equal() {
        for key in 0..200 {
            for interval in [10, 500, 1000, 2000, 60_000].map(Duration::from_millis) {
                let at = instants(key, interval, 6);
                assert!(at[0] < interval.min(FIRST_WITHIN));
                assert!(
                    at.windows(2)
                        .all(|pair| pair[1] > pair[0] && pair[1] - pair[0] <= interval),
                    "{at:?}"
                );
                assert!(
                    at[1..].windows(2).all(|pair| pair[1] - pair[0] == interval),
                    "{at:?}"
                );
            }
        }
    }

    #[test]
    fn many_checks_spread_evenly_over_the_interval() {
        let mut tenths = [0; 10];
        for key in 0..10_000u32 {
            let phase = instants(key, Duration::from_secs(10), 2)[1].as_nanos() % 10_000_000_000;
            tenths[usize::try_from(phase / 1_000_000_000).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (850..1150).contains(&count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn same_key_same_schedule() {
        assert_eq!(
            instants(7, Duration::from_secs(2), 4),
            instants(7, Duration::from_secs(2), 4)
        );
    }

    #[test]
    fn missed_checks_are_not_made_up_for() {
        let interval = Duration::from_secs(2);
        let mut schedule = Schedule::new(&1, interval);
        let phase = schedule.phase;
        schedule.advance(schedule.next());
        let due = schedule.next();
        schedule.advance(due + interval * 10 + Duration::from_millis(1));
        let next = schedule.next();
        assert!(next > due + interval * 10 && next <= due + interval * 11);
        assert_eq!((next - phase).as_nanos() % interval.as_nanos(), 0);
    }

    #[test]
    fn a_check_that_took_its_whole_interval_does_not_skip_the_next() {
        let interval = Duration::from_secs(2);
        let mut schedule = Schedule::new(&1, interval);
        schedule.advance(schedule.next());
        let due = schedule.next();
        schedule.advance(due + interval + Duration::from_millis(3));
        assert_eq!(schedule.next(), due + interval);
    }
}

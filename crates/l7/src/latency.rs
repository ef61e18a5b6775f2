//! How long requests take: histograms that one worker writes and anybody reads.

use std::time::Duration;

use crate::stats::Counter;

/// The upper bound of the first bucket. A request through this proxy on one network takes about as long.
const FIRST: Duration = Duration::from_micros(125);
/// Each bucket is twice as wide as the one before: 19 of them end at 32.8 seconds, past the timeout that most have. The
/// last one has no bound.
const BUCKETS: usize = 20;

/// One worker's histogram: an increment of a bucket, and one of the sum, both in memory of the worker's own.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(took_ns)].add(1);
        self.sum_ns.add(took_ns);
    }
}

/// The bucket of a time: the first whose bound is not below it.
fn bucket(took_ns: u64) -> usize {
    let widths = took_ns.saturating_sub(1) / FIRST.as_nanos() as u64;
    let doublings = u64::BITS - widths.leading_zeros();
    (doublings as usize).min(BUCKETS - 1)
}

/// The upper bound of a bucket, itself included; `None`: it has none.
fn bound(bucket: usize) -> Option<Duration> {
    (bucket + 1 < BUCKETS).then(|| FIRST * (1 << bucket))
}

/// How long requests took.
#[derive(Clone, Debug, Default)]
pub struct LatencyStats {
    counts: [u64; BUCKETS],
    /// All of them together.
    pub sum: Duration,
}

impl LatencyStats {
    pub(crate) fn add(&mut self, cell: &Histogram) {
        for (sum, counter) in self.counts.iter_mut().zip(&cell.buckets) {
            *sum += counter.get();
        }
        self.sum += Duration::from_nanos(cell.sum_ns.get());
    }

    /// How many requests ended within each bound and past the one before; the last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let counts = self.counts.iter().enumerate();
        counts.map(|(index, count)| (bound(index), *count))
    }

    /// How many requests ended.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_is_not_below_it() {
        let mut before_ns = 0;
        for index in 0..BUCKETS {
            let Some(bound) = bound(index) else {
                assert_eq!(index, BUCKETS - 1);
                assert_eq!(bucket(before_ns + 1), index);
                assert_eq!(bucket(u64::MAX), index);
                continue;
            };
            let bound_ns = bound.as_nanos() as u64;
            assert_eq!(bucket(before_ns + 1), index);
            assert_eq!(bucket(bound_ns), index);
            before_ns = bound_ns;
        }
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn histograms_of_workers_add_up() {
        let cells = [Histogram::default(), Histogram::default()];
        cells[0].record(Duration::from_micros(100));
        cells[1].record(Duration::from_micros(100));
        cells[1].record(Duration::from_secs(3600));
        let mut stats = LatencyStats::default();
        for cell in &cells {
            stats.add(cell);
        }
        assert_eq!(stats.count(), 3);
        assert_eq!(
            stats.sum,
            Duration::from_secs(3600) + Duration::from_micros(200)
        );
        let buckets: Vec<_> = stats.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(buckets, [(Some(FIRST), 2), (None, 1)]);
    }
}

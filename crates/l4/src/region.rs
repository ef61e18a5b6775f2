//! Who has which part of the `SCHEDULE` map.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A table that is replaced stays in place for this long: a program that picked it up needs it for microseconds.
pub(crate) const GRACE: Duration = Duration::from_millis(10);

/// A part of the map, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// First element.
    pub(crate) start: u32,
    /// Number of elements, above 0.
    pub(crate) len: u32,
}

/// Allocator of regions: first fit, neighbours joined when they become free.
#[derive(Debug)]
pub(crate) struct Regions {
    /// Length of each free stretch by its start; no two of them touch.
    free: BTreeMap<u32, u32>,
    /// Given back, oldest first, and when.
    resting: VecDeque<(Duration, Region)>,
    capacity: u32,
}

impl Regions {
    /// All of `capacity` elements free.
    pub(crate) fn new(capacity: u32) -> Self {
        let free = if capacity > 0 {
            BTreeMap::from([(0, capacity)])
        } else {
            BTreeMap::new()
        };
        Self {
            free,
            resting: VecDeque::new(),
            capacity,
        }
    }

    /// Elements in all.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// A region of `len` elements; `None` if no free stretch is as long. `now` is any clock that only goes forward,
    /// the same in all calls.
    pub(crate) fn allocate(&mut self, len: u32, now: Duration) -> Option<Region> {
        debug_assert!(len > 0, "a region has elements");
        self.wake(now);
        let (&start, &stretch) = self.free.iter().find(|&(_, &stretch)| stretch >= len)?;
        self.free.remove(&start);
        if stretch > len {
            self.free.insert(start + len, stretch - len);
        }
        Some(Region { start, len })
    }

    /// Takes a region back that programs may still be reading; it is free again after [`GRACE`].
    pub(crate) fn retire(&mut self, region: Region, now: Duration) {
        self.resting.push_back((now, region));
    }

    /// Takes a region back that no program has seen.
    pub(crate) fn free(&mut self, region: Region) {
        let Region { mut start, mut len } = region;
        if let Some((&before, &stretch)) = self.free.range(..start).next_back()
            && before + stretch == start
        {
            self.free.remove(&before);
            start = before;
            len += stretch;
        }
        if let Some(stretch) = self.free.remove(&(start + len)) {
            len += stretch;
        }
        self.free.insert(start, len);
    }

    /// When the next retired region becomes free, if there is one.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        self.resting.front().map(|(since, _)| *since + GRACE)
    }

    fn wake(&mut self, now: Duration) {
        while let Some(&(since, region)) = self.resting.front()
            && since + GRACE <= now
        {
            self.resting.pop_front();
            self.free(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: Duration = Duration::ZERO;

    #[test]
    fn retired_regions_rest_before_they_are_given_out_again() {
        let mut regions = Regions::new(10);
        let region = regions.allocate(10, T0).unwrap();
        regions.retire(region, T0);
        assert_eq!(
            regions.allocate(1, T0 + GRACE - Duration::from_nanos(1)),
            None
        );
        assert_eq!(regions.wakes_at(), Some(T0 + GRACE));
        assert_eq!(regions.allocate(10, T0 + GRACE), Some(region));
        assert_eq!(regions.wakes_at(), None);
    }

    #[test]
    fn an_empty_map_has_no_regions() {
        assert_eq!(Regions::new(0).allocate(1, T0), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Free(usize),
        Retire(usize),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1u32..40).prop_map(Step::Allocate),
            1 => any::<usize>().prop_map(Step::Free),
            2 => any::<usize>().prop_map(Step::Retire),
            1 => (0u64..8).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// Against a model that keeps an owner for every element.
        #[test]
        fn regions_never_overlap_and_space_comes_back(steps in steps()) {
            const CAPACITY: u32 = 128;
            let mut regions = Regions::new(CAPACITY);
            let mut held: Vec<Region> = Vec::new();
            let mut resting: Vec<(Duration, Region)> = Vec::new();
            let mut now = T0;
            for step in steps {
                match step {
                    Step::Allocate(len) => {
                        resting.retain(|(since, _)| *since + GRACE > now);
                        let mut taken = [false; CAPACITY as usize];
                        for region in held.iter().chain(resting.iter().map(|(_, region)| region)) {
                            for slot in &mut taken[region.start as usize..][..region.len as usize] {
                                *slot = true;
                            }
                        }
                        let fits = taken.windows(len as usize).any(|window| window.iter().all(|taken| !taken));
                        let region = regions.allocate(len, now);
                        prop_assert_eq!(region.is_some(), fits);
                        if let Some(region) = region {
                            prop_assert_eq!(region.len, len);
                            let range = region.start as usize..(region.start + region.len) as usize;
                            prop_assert!(taken[range].iter().all(|taken| !taken));
                            held.push(region);
                        }
                    }
                    Step::Free(i) if !held.is_empty() => {
                        let region = held.swap_remove(i % held.len());
                        regions.free(region);
                    }
                    Step::Retire(i) if !held.is_empty() => {
                        let region = held.swap_remove(i % held.len());
                        regions.retire(region, now);
                        resting.push((now, region));
                    }
                    Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                    Step::Free(_) | Step::Retire(_) => {}
                }
            }
            for region in held {
                regions.free(region);
            }
            let all = regions.allocate(CAPACITY, now + GRACE);
            prop_assert_eq!(all, Some(Region { start: 0, len: CAPACITY }));
        }
    }
}

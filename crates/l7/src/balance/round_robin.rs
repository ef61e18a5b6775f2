//! Smooth weighted round robin, as nginx does it: every backend gains its weight, the one that is ahead is picked
//! and pays the sum of all weights. Heavy ones come more often, and never in bursts.

/// Picks backends in turn.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    weights: Vec<u32>,
    current: Vec<i64>,
    total: i64,
    /// All weights are the same: a turn is a step.
    equal: bool,
    next: usize,
}

impl RoundRobin {
    /// Backends with these weights; 0 is never picked.
    pub fn new(weights: &[u32]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1])
            && weights.first().is_some_and(|first| *first > 0);
        let total = weights.iter().map(|weight| i64::from(*weight)).sum();
        Self {
            weights: weights.to_vec(),
            current: vec![0; weights.len()],
            total,
            equal,
            next: 0,
        }
    }

    /// The index of the next backend that is not `excluded`.
    pub fn pick(&mut self, excluded: Option<usize>) -> Option<usize> {
        if self.equal {
            let count = self.weights.len();
            let mut index = self.next;
            if excluded == Some(index) {
                index = (index + 1) % count;
            }
            self.next = (index + 1) % count;
            return (excluded != Some(index)).then_some(index);
        }
        let mut best: Option<usize> = None;
        for (index, weight) in self.weights.iter().enumerate() {
            if *weight == 0 || excluded == Some(index) {
                continue;
            }
            self.current[index] += i64::from(*weight);
            if best.is_none_or(|best| self.current[index] > self.current[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        let excluded_weight = excluded.map_or(0, |excluded| i64::from(self.weights[excluded]));
        self.current[best] -= self.total - excluded_weight;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_take_turns() {
        let mut balance = RoundRobin::new(&[2, 2, 2]);
        let picks: Vec<usize> = (0..6).filter_map(|_| balance.pick(None)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn heavy_backends_do_not_come_in_bursts() {
        let mut balance = RoundRobin::new(&[5, 1, 1]);
        let picks: Vec<usize> = (0..7).filter_map(|_| balance.pick(None)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn the_excluded_is_not_picked_even_when_it_is_alone() {
        assert_eq!(RoundRobin::new(&[1]).pick(Some(0)), None);
        assert_eq!(RoundRobin::new(&[1, 1]).pick(Some(0)), Some(1));
        assert_eq!(RoundRobin::new(&[3, 1]).pick(Some(0)), Some(1));
        assert_eq!(RoundRobin::new(&[]).pick(None), None);
        assert_eq!(RoundRobin::new(&[0, 0]).pick(None), None);
    }

    proptest! {
        #[test]
        fn shares_are_exact_over_one_round(weights in proptest::collection::vec(0u32..20, 1..8)) {
            let total: u32 = weights.iter().sum();
            let mut balance = RoundRobin::new(&weights);
            let mut counts = vec![0; weights.len()];
            for _ in 0..total {
                counts[balance.pick(None).unwrap()] += 1;
            }
            prop_assert_eq!(counts.iter().sum::<u32>(), total);
            if weights.iter().any(|weight| *weight != weights[0]) {
                prop_assert_eq!(counts, weights);
            }
        }
    }
}

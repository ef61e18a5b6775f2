//! Smooth weighted round robin, as nginx does it: every backend gains its weight, the one that is ahead is picked
//! and pays the sum of all weights. Heavy ones come more often, and never in bursts.

/// Picks backends in turn.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    weights: Vec<u32>,
    current: Vec<i64>,
    /// All weights are the same: a turn is a step.
    equal: bool,
    next: usize,
}

impl RoundRobin {
    /// Backends with these weights; 0 is never picked.
    pub fn new(weights: &[u32]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1])
            && weights.first().is_some_and(|first| *first > 0);
        Self {
            weights: weights.to_vec(),
            current: vec![0; weights.len()],
            equal,
            next: 0,
        }
    }

    /// The index of the next backend that is `usable`.
    pub fn pick(&mut self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.equal {
            let count = self.weights.len();
            let mut index = self.next;
            for _ in 0..count {
                let next = if index + 1 == count { 0 } else { index + 1 };
                if usable(index) {
                    self.next = next;
                    return Some(index);
                }
                index = next;
            }
            return None;
        }
        let mut best: Option<usize> = None;
        let mut total = 0;
        for (index, weight) in self.weights.iter().enumerate() {
            if *weight == 0 || !usable(index) {
                continue;
            }
            total += i64::from(*weight);
            self.current[index] += i64::from(*weight);
            if best.is_none_or(|best| self.current[index] > self.current[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        self.current[best] -= total;
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
        let picks: Vec<usize> = (0..6).filter_map(|_| balance.pick(|_| true)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn heavy_backends_do_not_come_in_bursts() {
        let mut balance = RoundRobin::new(&[5, 1, 1]);
        let picks: Vec<usize> = (0..7).filter_map(|_| balance.pick(|_| true)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn what_is_not_usable_is_not_picked_even_when_it_is_alone() {
        assert_eq!(RoundRobin::new(&[1]).pick(|index| index != 0), None);
        assert_eq!(RoundRobin::new(&[1, 1]).pick(|index| index != 0), Some(1));
        assert_eq!(RoundRobin::new(&[3, 1]).pick(|index| index != 0), Some(1));
        assert_eq!(RoundRobin::new(&[]).pick(|_| true), None);
        assert_eq!(RoundRobin::new(&[0, 0]).pick(|_| true), None);
    }

    #[test]
    fn turns_go_on_past_those_that_are_not_usable() {
        let mut balance = RoundRobin::new(&[1, 1, 1, 1]);
        let picks: Vec<usize> = (0..4)
            .filter_map(|_| balance.pick(|index| index % 2 == 0))
            .collect();
        assert_eq!(picks, [0, 2, 0, 2]);
    }

    proptest! {
        #[test]
        fn shares_are_exact_over_one_round(weights in proptest::collection::vec(0u32..20, 1..8)) {
            let total: u32 = weights.iter().sum();
            let mut balance = RoundRobin::new(&weights);
            let mut counts = vec![0; weights.len()];
            for _ in 0..total {
                counts[balance.pick(|_| true).unwrap()] += 1;
            }
            prop_assert_eq!(counts.iter().sum::<u32>(), total);
            if weights.iter().any(|weight| *weight != weights[0]) {
                prop_assert_eq!(counts, weights);
            }
        }
    }
}

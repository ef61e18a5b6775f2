//! Least connections: the backend with the least work under way relative to its weight. Ties go in turn.

/// Picks the backend with the least work under way.
#[derive(Clone, Debug, Default)]
pub struct LeastConn {
    weights: Vec<u32>,
    first: usize,
}

impl LeastConn {
    /// Backends with these weights; 0 is never picked.
    pub fn new(weights: &[u32]) -> Self {
        Self {
            weights: weights.to_vec(),
            first: 0,
        }
    }

    /// The index of the backend where one more piece of work weighs least. `active` counts what is under way.
    pub fn pick(
        &mut self,
        active: impl Fn(usize) -> usize,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = self.weights.len();
        let mut best: Option<(usize, u64, u64)> = None;
        for step in 0..count {
            let index = (self.first + step) % count;
            let weight = u64::from(self.weights[index]);
            if weight == 0 || !usable(index) {
                continue;
            }
            let load = active(index) as u64 + 1;
            // load / weight < best_load / best_weight, without dividing
            if best
                .is_none_or(|(_, best_load, best_weight)| load * best_weight < best_load * weight)
            {
                best = Some((index, load, weight));
            }
        }
        let (index, ..) = best?;
        self.first = (index + 1) % count;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_least_loaded_relative_to_weight() {
        let mut balance = LeastConn::new(&[1, 4, 0]);
        let active = [1usize, 3, 0];
        assert_eq!(balance.pick(|index| active[index], |_| true), Some(1));
        assert_eq!(
            balance.pick(|index| active[index], |index| index != 1),
            Some(0)
        );
    }

    #[test]
    fn ties_take_turns() {
        let mut balance = LeastConn::new(&[1, 1, 1]);
        let picks: Vec<_> = (0..4)
            .filter_map(|_| balance.pick(|_| 0, |_| true))
            .collect();
        assert_eq!(picks, [0, 1, 2, 0]);
    }

    #[test]
    fn loads_follow_weights_when_nothing_ends() {
        let mut balance = LeastConn::new(&[3, 1]);
        let mut active = [0usize; 2];
        for _ in 0..400 {
            let index = balance.pick(|index| active[index], |_| true).unwrap();
            active[index] += 1;
        }
        assert_eq!(active, [300, 100]);
    }
}

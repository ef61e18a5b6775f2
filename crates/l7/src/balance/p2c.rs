//! The power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): two backends
//! drawn at random by weight, and the better of them. No herd runs after the best one, and no table is searched.

/// Microseconds that a backend of which nothing is known is expected to take while its first answer is out: it is
/// asked once, and not flooded before it has answered.
const UNKNOWN_MICROS: f32 = 1_000_000.0;
/// Draws of a pair before all are looked at: with half of them unusable, one in a thousand comes so far.
const DRAWS_MAX: usize = 10;

/// Draws backends by weight.
#[derive(Clone, Debug, Default)]
pub struct P2c {
    weights: Vec<u32>,
    /// Backends side by side on a line, each as long as its weight.
    ends: Vec<u64>,
    state: u64,
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Pieces of work under way.
    pub active: usize,
    /// What an answer is expected to take, in microseconds.
    pub micros: Option<f32>,
}

impl P2c {
    /// Backends with these weights; 0 is never picked.
    pub fn new(weights: &[u32], seed: u64) -> Self {
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += u64::from(*weight);
            end
        });
        Self {
            ends: ends.collect(),
            weights: weights.to_vec(),
            state: seed | 1,
        }
    }

    /// The index of a backend that is `usable`.
    pub fn pick(
        &mut self,
        load: impl Fn(usize) -> Load,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let total = *self.ends.last()?;
        if total == 0 {
            return None;
        }
        for _ in 0..DRAWS_MAX {
            let first = self.draw(total);
            let rest = total - u64::from(self.weights[first]);
            if rest == 0 {
                return usable(first).then_some(first);
            }
            let second = self.draw_other(rest, first);
            let picked = match (usable(first), usable(second)) {
                (true, true) => self.better(first, second, &load),
                (true, false) => first,
                (false, true) => second,
                (false, false) => continue,
            };
            return Some(picked);
        }
        (0..self.weights.len()).find(|index| self.weights[*index] > 0 && usable(*index))
    }

    fn better(&self, first: usize, second: usize, load: impl Fn(usize) -> Load) -> usize {
        let (cost, other) = (
            self.cost(first, load(first)),
            self.cost(second, load(second)),
        );
        // Of equals the first: it was drawn by weight, so that shares follow weights where loads are the same.
        if other < cost { second } else { first }
    }

    /// How long a further piece of work is expected to take. The mean weight is the unit of what is under way, so that
    /// heavier backends may have more of it.
    fn cost(&self, index: usize, load: Load) -> f32 {
        let Some(micros) = load.micros else {
            return if load.active == 0 {
                0.0
            } else {
                UNKNOWN_MICROS * self.pressure(index, load.active)
            };
        };
        micros * self.pressure(index, load.active)
    }

    fn pressure(&self, index: usize, active: usize) -> f32 {
        let total = *self.ends.last().unwrap_or(&0) as f32;
        let mean = total / self.weights.len().max(1) as f32;
        1.0 + active as f32 * mean / self.weights[index].max(1) as f32
    }

    fn draw(&mut self, total: u64) -> usize {
        let point = self.random(total);
        self.ends.partition_point(|end| *end <= point)
    }

    /// One of the others: the line without the first.
    fn draw_other(&mut self, rest: u64, first: usize) -> usize {
        let mut point = self.random(rest);
        let start = self.ends[first] - u64::from(self.weights[first]);
        if point >= start {
            point += u64::from(self.weights[first]);
        }
        self.ends.partition_point(|end| *end <= point)
    }

    /// A number below `bound`: xorshift64* (Vigna, 2016), scaled by the high half of the product (Lemire, 2019).
    fn random(&mut self, bound: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(random) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Load = Load {
        active: 0,
        micros: Some(1000.0),
    };

    fn shares(
        weights: &[u32],
        load: impl Fn(usize) -> Load,
        usable: impl Fn(usize) -> bool,
    ) -> Vec<f64> {
        let mut balance = P2c::new(weights, 7);
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..20_000 {
            counts[balance.pick(&load, &usable).unwrap()] += 1;
        }
        counts
            .iter()
            .map(|count| f64::from(*count) / 20_000.0)
            .collect()
    }

    fn near(shares: &[f64], expected: &[f64]) {
        for (share, expected) in shares.iter().zip(expected) {
            assert!((share - expected).abs() < 0.015, "{shares:?}");
        }
    }

    #[test]
    fn shares_follow_weights_where_loads_are_the_same() {
        near(&shares(&[1, 0, 3], |_| SAME, |_| true), &[0.25, 0.0, 0.75]);
    }

    #[test]
    fn the_slower_of_two_is_left_alone() {
        let load = |index| Load {
            micros: Some([1_000.0, 5_000.0, 1_000.0][index]),
            active: 0,
        };
        near(&shares(&[1, 1], load, |_| true), &[1.0, 0.0]);
        near(&shares(&[1, 1, 1], load, |_| true), &[0.5, 0.0, 0.5]);
    }

    #[test]
    fn what_is_under_way_counts_relative_to_weight() {
        let load = |index| Load {
            active: [3, 8][index],
            ..SAME
        };
        near(&shares(&[1, 3], load, |_| true), &[0.0, 1.0]);
        let load = |index| Load {
            active: [3, 10][index],
            ..SAME
        };
        near(&shares(&[1, 3], load, |_| true), &[1.0, 0.0]);
    }

    #[test]
    fn an_unknown_backend_is_asked_once_and_not_flooded() {
        let load = |active| {
            move |index| match index {
                0 => Load {
                    active,
                    micros: None,
                },
                _ => SAME,
            }
        };
        near(&shares(&[1, 1], load(0), |_| true), &[1.0, 0.0]);
        near(&shares(&[1, 1], load(1), |_| true), &[0.0, 1.0]);
    }

    #[test]
    fn loads_follow_weights_when_nothing_ends() {
        let mut balance = P2c::new(&[3, 1, 0], 1);
        let mut active = [0usize; 3];
        for _ in 0..400 {
            let load = |index: usize| Load {
                active: active[index],
                ..SAME
            };
            let index = balance.pick(load, |_| true).unwrap();
            active[index] += 1;
        }
        assert!(
            (295..=305).contains(&active[0]) && active[2] == 0,
            "{active:?}"
        );
    }

    #[test]
    fn what_is_not_usable_is_not_picked() {
        near(
            &shares(&[1, 1, 1], |_| SAME, |index| index == 1),
            &[0.0, 1.0, 0.0],
        );
        let mut alone = P2c::new(&[5], 1);
        assert_eq!(alone.pick(|_| SAME, |_| true), Some(0));
        assert_eq!(alone.pick(|_| SAME, |_| false), None);
        assert_eq!(P2c::new(&[0, 0], 1).pick(|_| SAME, |_| true), None);
        assert_eq!(P2c::new(&[], 1).pick(|_| SAME, |_| true), None);
    }
}

//! Requests that several pools share by weight.

/// Pools and their shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Each pool's number, and the sum of the weights up to it.
    sides: Vec<(usize, u64)>,
}

impl Split {
    /// Shares of these weights, of which one is above 0.
    pub(super) fn new(pools: impl Iterator<Item = (usize, u32)>) -> Self {
        let mut sum = 0;
        let sides = pools.map(|(pool, weight)| {
            sum += u64::from(weight);
            (pool, sum)
        });
        Self {
            sides: sides.collect(),
        }
    }

    /// The pools, in the order of the file.
    pub fn pools(&self) -> impl Iterator<Item = usize> {
        self.sides.iter().map(|(pool, _)| *pool)
    }

    /// The pool of a turn. Of any turns in a row, each pool gets its share to within a few: the turns are spread by
    /// the golden section (Knuth, The Art of Computer Programming, volume 3, section 6.4), and go on evenly when only
    /// every second or third of them comes here.
    pub fn pick(&self, turn: u64) -> usize {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let total = self.sides.last().map_or(0, |(_, sum)| *sum);
        let point = (u128::from(turn.wrapping_mul(GOLDEN)) * u128::from(total)) >> 64;
        let at = self
            .sides
            .partition_point(|(_, sum)| u128::from(*sum) <= point);
        // The point is below the total, so this is a side; the last one if all weights were 0.
        self.sides[at.min(self.sides.len() - 1)].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_get_their_shares_whatever_turns_come() {
        let split = Split::new([(7, 90), (8, 0), (9, 10)].into_iter());
        for (start, step) in [(0, 1), (5, 2), (1 << 40, 3), (u64::MAX - 100, 7)] {
            let mut counts = [0i32; 10];
            for turn in 0..1_000u64 {
                counts[split.pick((turn * step).wrapping_add(start))] += 1;
            }
            assert!((counts[7] - 900).abs() <= 5, "{counts:?}");
            assert_eq!(counts[8], 0);
            assert_eq!(counts[7] + counts[9], 1_000);
        }
    }

    #[test]
    fn the_greatest_weights_do_not_overflow() {
        let split = Split::new((0..64).map(|pool| (pool, 1_000_000)));
        let picked: std::collections::HashSet<usize> =
            (0..1_000).map(|turn| split.pick(turn)).collect();
        assert_eq!(picked.len(), 64);
    }
}

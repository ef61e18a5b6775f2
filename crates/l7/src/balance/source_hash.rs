//! A backend by a hash of the client: the same client, the same backend, as long as the backends stay.

/// Backends side by side on a line, each as long as its weight; a hash is a point on it.
#[derive(Clone, Debug, Default)]
pub struct SourceHash {
    ends: Vec<u64>,
}

impl SourceHash {
    /// Backends with these weights; 0 is never picked.
    pub fn new(weights: &[u32]) -> Self {
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += u64::from(*weight);
            end
        });
        Self {
            ends: ends.collect(),
        }
    }

    /// The index of the backend of this hash.
    pub fn pick(&self, hash: u64) -> Option<usize> {
        let total = *self.ends.last()?;
        if total == 0 {
            return None;
        }
        // The high half of the product scales the hash to 0..total (Lemire, "Fast random integer generation", 2019).
        let point = ((u128::from(hash) * u128::from(total)) >> 64) as u64;
        Some(self.ends.partition_point(|end| *end <= point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::stable_hash;

    #[test]
    fn shares_follow_weights() {
        let balance = SourceHash::new(&[1, 0, 3]);
        let mut counts = [0u32; 3];
        for client in 0..40_000u32 {
            counts[balance.pick(stable_hash(&client.to_be_bytes(), 0)).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((9_500..10_500).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_ends_of_the_line_belong_to_someone() {
        let balance = SourceHash::new(&[0, 1, 1, 0]);
        assert_eq!(balance.pick(0), Some(1));
        assert_eq!(balance.pick(u64::MAX), Some(2));
        assert_eq!(SourceHash::new(&[0]).pick(7), None);
        assert_eq!(SourceHash::new(&[]).pick(7), None);
    }
}

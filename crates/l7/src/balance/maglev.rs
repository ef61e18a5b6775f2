//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a lookup table in which each backend has its share of
//! entries, and which changes little when backends come and go. Weights: a backend takes as many turns a round as
//! its weight.

use super::stable_hash;

/// Entries of the table: a prime, so that every step visits every entry.
const ENTRIES: usize = 65_537;

/// A lookup table of backends.
#[derive(Clone, Debug)]
pub struct Maglev {
    entries: Box<[u16]>,
}

const EMPTY: u16 = u16::MAX;

impl Maglev {
    /// A table of backends, each named by bytes that identify it, with its weight; 0 has no entry. `None` where
    /// nobody has a weight, or where there are more backends than an entry can name.
    pub fn new(backends: &[(Vec<u8>, u32)]) -> Option<Self> {
        let heaviest = backends
            .iter()
            .map(|(_, weight)| *weight)
            .max()
            .unwrap_or(0);
        if heaviest == 0 || backends.len() >= usize::from(EMPTY) {
            return None;
        }
        let mut cursors: Vec<Cursor> = backends.iter().map(|(name, _)| Cursor::new(name)).collect();
        let mut credits = vec![0u32; backends.len()];
        let mut entries = vec![EMPTY; ENTRIES].into_boxed_slice();
        let mut filled = 0;
        loop {
            for (index, (_, weight)) in backends.iter().enumerate() {
                // The heaviest has a turn every round, the others in proportion.
                credits[index] += weight;
                if credits[index] < heaviest {
                    continue;
                }
                credits[index] -= heaviest;
                let entry = cursors[index].next_empty(&entries);
                entries[entry] = index as u16;
                filled += 1;
                if filled == ENTRIES {
                    return Some(Self { entries });
                }
            }
        }
    }

    /// The index of the backend of this hash.
    pub fn pick(&self, hash: u64) -> usize {
        usize::from(self.entries[(hash % ENTRIES as u64) as usize])
    }
}

/// One backend's walk through the table, in its own order.
struct Cursor {
    at: usize,
    step: usize,
}

impl Cursor {
    fn new(name: &[u8]) -> Self {
        let offset = stable_hash(name, 1) % ENTRIES as u64;
        let step = stable_hash(name, 2) % (ENTRIES as u64 - 1) + 1;
        Self {
            at: offset as usize,
            step: step as usize,
        }
    }

    fn next_empty(&mut self, entries: &[u16]) -> usize {
        loop {
            let entry = self.at;
            self.at = (self.at + self.step) % ENTRIES;
            if entries[entry] == EMPTY {
                return entry;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(weights: &[u32]) -> Vec<(Vec<u8>, u32)> {
        weights
            .iter()
            .enumerate()
            .map(|(index, weight)| (format!("backend-{index}").into_bytes(), *weight))
            .collect()
    }

    fn shares(table: &Maglev, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for entry in &table.entries {
            shares[usize::from(*entry)] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_weights() {
        let shares = shares(&Maglev::new(&named(&[1, 2, 0, 5])).unwrap(), 4);
        assert_eq!(shares[2], 0);
        for (share, weight) in shares.iter().zip([1.0, 2.0, 0.0, 5.0]) {
            assert!(
                (*share as f64 - weight / 8.0 * ENTRIES as f64).abs() < 10.0,
                "{shares:?}"
            );
        }
    }

    #[test]
    fn losing_one_of_ten_moves_few_others() {
        let all = Maglev::new(&named(&[1; 10])).unwrap();
        let mut weights = [1; 10];
        weights[3] = 0;
        let without = Maglev::new(&named(&weights)).unwrap();
        let moved = all
            .entries
            .iter()
            .zip(&without.entries)
            .filter(|(a, b)| a != b && **a != 3)
            .count();
        // The paper's figure 12: a few per cent at this table size.
        assert!(
            moved < ENTRIES / 20,
            "{moved} entries of backends that stayed moved"
        );
    }

    #[test]
    fn nobody_with_a_weight_has_no_table() {
        assert!(Maglev::new(&named(&[0, 0])).is_none());
        assert!(Maglev::new(&[]).is_none());
    }
}

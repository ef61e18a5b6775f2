//! Small numbers for listeners and backends: what session lines carry instead of names.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers from 1, one per key. A key keeps its number over reloads; a number whose key is gone is given out again
/// only when no session carries it any more.
#[derive(Debug)]
pub(crate) struct Numbers<K> {
    by_key: HashMap<K, Entry>,
    keys: Vec<Option<K>>,
    free: Vec<u16>,
    max: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Part of the config.
    Used,
    /// Gone from the config; sessions may carry it. Whether a pass of the sweep has begun since.
    Released { swept: bool },
}

impl<K: Clone + Eq + Hash> Numbers<K> {
    /// Numbers up to `max`.
    pub(crate) fn new(max: u16) -> Self {
        Self {
            by_key: HashMap::new(),
            keys: vec![None],
            free: Vec::new(),
            max,
        }
    }

    /// Numbers that keys have from before: sessions may carry them, and the config has not claimed them yet.
    pub(crate) fn restore(&mut self, numbered: impl IntoIterator<Item = (u16, K)>) {
        for (number, key) in numbered {
            let at = usize::from(number);
            if self.keys.len() <= at {
                self.keys.resize(at + 1, None);
            }
            if number == 0 || self.keys[at].is_some() || self.by_key.contains_key(&key) {
                continue;
            }
            self.keys[at] = Some(key.clone());
            let state = State::Released { swept: false };
            self.by_key.insert(key, Entry { number, state });
        }
        // The lowest is given out first.
        let holes = (1..self.keys.len())
            .rev()
            .filter(|at| self.keys[*at].is_none());
        self.free = holes.map(|at| at as u16).collect();
    }

    /// The key's number: the one that it has or still has, or a new one; `None` if all are taken. True: it was not
    /// in use before this call.
    pub(crate) fn assign(&mut self, key: &K) -> Option<(u16, bool)> {
        if let Some(entry) = self.by_key.get_mut(key) {
            let fresh = entry.state != State::Used;
            entry.state = State::Used;
            return Some((entry.number, fresh));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.keys.len() <= usize::from(self.max) => {
                self.keys.push(None);
                (self.keys.len() - 1) as u16
            }
            None => return None,
        };
        self.keys[usize::from(number)] = Some(key.clone());
        self.by_key.insert(
            key.clone(),
            Entry {
                number,
                state: State::Used,
            },
        );
        Some((number, true))
    }

    /// The key's number, also while only sessions carry it.
    pub(crate) fn number(&self, key: &K) -> Option<u16> {
        self.by_key.get(key).map(|entry| entry.number)
    }

    /// The key with this number.
    pub(crate) fn key(&self, number: u16) -> Option<&K> {
        self.keys.get(usize::from(number))?.as_ref()
    }

    /// The key has left the config.
    pub(crate) fn release(&mut self, key: &K) {
        if let Some(entry) = self.by_key.get_mut(key) {
            entry.state = State::Released { swept: false };
        }
    }

    /// Released numbers that no session carries. To be called at the end of each pass of the sweep; `carried` says
    /// what the pass found. Only a pass that began after the release has a say.
    pub(crate) fn idle(&mut self, carried: impl Fn(u16) -> bool) -> Vec<u16> {
        let mut idle = Vec::new();
        for entry in self.by_key.values_mut() {
            match &mut entry.state {
                State::Released { swept: true } if !carried(entry.number) => {
                    idle.push(entry.number);
                }
                State::Released { swept } => *swept = true,
                State::Used => {}
            }
        }
        idle
    }

    /// Gives a released number back.
    pub(crate) fn free(&mut self, number: u16) {
        if let Some(key) = self.keys[usize::from(number)].take() {
            self.by_key.remove(&key);
            self.free.push(number);
        }
    }

    /// Every key that has a number, and whether it is part of the config.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u16, bool)> {
        self.by_key
            .iter()
            .map(|(key, entry)| (key, entry.number, entry.state == State::Used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_number_while_sessions_carry_it() {
        let mut numbers = Numbers::new(10);
        assert_eq!(numbers.assign(&"a"), Some((1, true)));
        assert_eq!(numbers.assign(&"b"), Some((2, true)));
        assert_eq!(numbers.assign(&"a"), Some((1, false)));
        numbers.release(&"a");
        assert_eq!(numbers.idle(|_| true), []);
        assert_eq!(numbers.idle(|number| number == 1), []);
        assert_eq!(numbers.assign(&"c"), Some((3, true)));
        assert_eq!(numbers.assign(&"a"), Some((1, true)));
        assert_eq!(numbers.key(1), Some(&"a"));
    }

    #[test]
    fn a_number_without_sessions_is_given_out_again() {
        let mut numbers = Numbers::new(2);
        numbers.assign(&"a");
        numbers.assign(&"b");
        assert_eq!(numbers.assign(&"c"), None);
        assert_eq!(numbers.idle(|_| false), []);
        numbers.release(&"a");
        assert_eq!(numbers.assign(&"c"), None);
        assert_eq!(
            numbers.idle(|_| false),
            [],
            "the pass began before the release"
        );
        assert_eq!(numbers.idle(|_| false), [1]);
        numbers.free(1);
        assert_eq!(numbers.number(&"a"), None);
        assert_eq!(numbers.assign(&"c"), Some((1, true)));
        assert_eq!(numbers.key(1), Some(&"c"));
    }

    #[test]
    fn numbers_from_before_stay_with_their_keys_and_holes_are_given_out() {
        let mut numbers = Numbers::new(10);
        numbers.restore([(5, "e"), (2, "b"), (2, "twice"), (7, "b"), (0, "zero")]);
        assert_eq!(numbers.assign(&"b"), Some((2, true)));
        assert_eq!(numbers.assign(&"new"), Some((1, true)));
        assert_eq!(numbers.number(&"twice"), None);
        assert_eq!(numbers.idle(|_| false), [], "a whole pass has a say");
        assert_eq!(numbers.idle(|_| false), [5]);
        for (number, key) in [(3, "c"), (4, "d"), (6, "f"), (7, "g")] {
            assert_eq!(numbers.assign(&key), Some((number, true)));
        }
    }

    #[test]
    fn the_highest_number_is_usable_and_zero_is_not() {
        let mut numbers = Numbers::new(u16::MAX);
        for key in 1..=u32::from(u16::MAX) {
            assert_eq!(numbers.assign(&key), Some((key as u16, true)));
        }
        assert_eq!(numbers.assign(&0), None);
        assert_eq!(numbers.key(0), None);
    }
}

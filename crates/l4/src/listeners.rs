//! The maps `LISTENER_SLOTS` and `LISTENERS`: user space's side of the table that the program finds listeners in.
//! Their layout, and how they are read, is in [`weir_l4_common::listeners`].

use std::mem::transmute;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use weir_l4_common::listeners::{Entry, GONE, PROBES, Place, SLOTS, entry_place};
use weir_l4_common::service::{Listener, ListenerKey};

use crate::memory::{ListenerCell, Mapped, SlotsCell};

/// The table. What it holds is in the maps alone, so that maps of an earlier process can be taken over.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    slots: Mapped<SlotsCell>,
    entries: Mapped<ListenerCell>,
}

impl ListenerTable {
    pub(crate) fn new(slots: Mapped<SlotsCell>, entries: Mapped<ListenerCell>) -> Self {
        Self { slots, entries }
    }

    /// Adds a listener, or replaces it whole.
    ///
    /// The entry that is written was in use two changes ago; a program that read it then has long ended, as a change
    /// takes far longer than a packet.
    pub(crate) fn write(&self, key: ListenerKey, listener: Listener) {
        let first = u32::from(listener.id) * 2;
        let to = first + u32::from(self.is_in_use(first));
        let words = words(&Entry {
            key,
            listener,
            ..Entry::default()
        });
        for (cell, word) in self.entries[to as usize].iter().zip(words) {
            cell.store(word, Relaxed);
        }
        let place = Place::of(&key);
        match self.find(&key).or_else(|| self.room(place)) {
            Some(index) => self.slot(index).store(place.word(to), Release),
            // Runs of taken slots this long come only from slots that were given up.
            None => self.rebuild(Some((key, to))),
        }
    }

    /// Whether a slot leads to the entry at this place.
    fn is_in_use(&self, place: u32) -> bool {
        let index = self.find(&self.entry(place).key);
        index.and_then(|index| entry_place(self.slot(index).load(Acquire))) == Some(place)
    }

    /// Removes a listener; false if there was none.
    pub(crate) fn remove(&self, key: &ListenerKey) -> bool {
        let Some(mut index) = self.find(key) else {
            return false;
        };
        // Keys behind it are found by going on; where none can be, it is free, and so are those in front of it that
        // were only passed.
        if self.slot(next(index)).load(Relaxed) != 0 {
            self.slot(index).store(GONE, Release);
            return true;
        }
        loop {
            self.slot(index).store(0, Release);
            index = index.wrapping_sub(1) & (SLOTS - 1);
            if self.slot(index).load(Relaxed) != GONE {
                return true;
            }
        }
    }

    /// The index of the slot of a key.
    fn find(&self, key: &ListenerKey) -> Option<u32> {
        let place = Place::of(key);
        for probe in 0..PROBES {
            let index = place.slot(probe);
            let slot = self.slot(index).load(Acquire);
            if slot == 0 {
                return None;
            }
            if let Some(at) = entry_place(slot)
                && self.entry(at).key == *key
            {
                return Some(index);
            }
        }
        None
    }

    /// The index of a slot that a new key can have.
    fn room(&self, place: Place) -> Option<u32> {
        (0..PROBES)
            .map(|probe| place.slot(probe))
            .find(|index| entry_place(self.slot(*index).load(Relaxed)).is_none())
    }

    /// Puts all listeners into their slots anew, with one more. For a moment packets of some of them go to the kernel.
    fn rebuild(&self, more: Option<(ListenerKey, u32)>) {
        let listeners: Vec<(ListenerKey, u32)> = (0..SLOTS)
            .filter_map(|index| entry_place(self.slot(index).load(Relaxed)))
            .map(|at| (self.entry(at).key, at))
            .chain(more)
            .collect();
        for index in 0..SLOTS {
            self.slot(index).store(0, Relaxed);
        }
        for (key, at) in listeners {
            let place = Place::of(&key);
            match self.room(place) {
                Some(index) => self.slot(index).store(place.word(at), Release),
                None => tracing::error!(?key, "no slot for a listener"),
            }
        }
    }

    fn slot(&self, index: u32) -> &AtomicU32 {
        &self.slots[index as usize / 2][index as usize % 2]
    }

    fn entry(&self, place: u32) -> Entry {
        let words = self.entries[place as usize]
            .each_ref()
            .map(|word| word.load(Relaxed));
        // SAFETY: the same size; every bit pattern is an entry.
        unsafe { transmute::<[u64; size_of::<Entry>() / 8], Entry>(words) }
    }
}

fn next(index: u32) -> u32 {
    (index + 1) & (SLOTS - 1)
}

fn words(entry: &Entry) -> [u64; size_of::<Entry>() / 8] {
    // SAFETY: the same size, and no padding: the fields fill the entry.
    unsafe { transmute::<Entry, [u64; size_of::<Entry>() / 8]>(*entry) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proptest::prelude::*;
    use weir_l4_common::listeners::{self, ENTRIES};
    use weir_l4_common::service::mapped;

    use super::*;
    use crate::memory::Shared;

    fn memory<T: Shared>(count: usize) -> Mapped<T> {
        let fd = memfd_create(c"weir-test", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&fd, (count * size_of::<T>()) as i64).unwrap();
        Mapped::new(fd.as_fd(), count).unwrap()
    }

    fn table() -> ListenerTable {
        ListenerTable::new(memory(SLOTS as usize / 2), memory(ENTRIES as usize))
    }

    fn key(number: u32) -> ListenerKey {
        ListenerKey {
            addr: mapped(0x0a00_0000 | number >> 2),
            port: 80 + (number >> 1 & 1) as u16,
            proto: if number & 1 == 0 { 6 } else { 17 },
            zero: 0,
        }
    }

    fn listener(id: u16, table_base: u32) -> Listener {
        Listener {
            id,
            table_base,
            ..Listener::default()
        }
    }

    /// What the program finds.
    fn found(table: &ListenerTable, key: &ListenerKey) -> Option<Listener> {
        match listeners::find(table, key) {
            0 => None,
            place => Some(table.entry(place).listener),
        }
    }

    impl listeners::Table for &ListenerTable {
        fn slot(&self, index: u32) -> Option<u32> {
            Some(ListenerTable::slot(self, index).load(Relaxed))
        }

        fn entry(&self, place: u32) -> Option<*const Entry> {
            Some(self.entries[place as usize].as_ptr().cast())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn holds_what_was_written(changes in prop::collection::vec((0u32..300, 0u32..3), 1..600)) {
            let table = table();
            let mut model = HashMap::new();
            for (base, (number, what)) in (0..).zip(changes) {
                let key = key(number);
                if what == 0 {
                    prop_assert_eq!(table.remove(&key), model.remove(&key).is_some());
                } else {
                    let listener = listener(number as u16 + 1, base);
                    table.write(key, listener);
                    model.insert(key, listener);
                }
            }
            for number in 0..300 {
                let key = key(number);
                prop_assert_eq!(found(&table, &key), model.get(&key).copied());
            }
        }
    }

    #[test]
    fn takes_as_many_listeners_as_there_are_numbers() {
        let table = table();
        for number in 0..65_535u32 {
            table.write(key(number), listener(number as u16 + 1, number));
        }
        let longest = (0..65_535)
            .map(|number| {
                let place = Place::of(&key(number));
                let index = table.find(&key(number)).unwrap();
                index.wrapping_sub(place.slot(0)) & (SLOTS - 1)
            })
            .max()
            .unwrap();
        assert!(
            longest < PROBES / 2,
            "a key is {longest} slots from its own"
        );
        for number in 0..65_535 {
            assert!(table.remove(&key(number)));
        }
        assert!((0..SLOTS).all(|index| {
            let slot = table.slot(index).load(Relaxed);
            slot == 0 || slot == GONE
        }));
        table.rebuild(None);
        assert!((0..SLOTS).all(|index| table.slot(index).load(Relaxed) == 0));
    }

    #[test]
    fn a_replaced_listener_is_in_its_other_entry() {
        let table = table();
        table.write(key(1), listener(7, 1));
        let first = entry_place(table.slot(table.find(&key(1)).unwrap()).load(Relaxed)).unwrap();
        table.write(key(1), listener(7, 2));
        let second = entry_place(table.slot(table.find(&key(1)).unwrap()).load(Relaxed)).unwrap();
        assert_eq!([first, second], [14, 15]);
        assert_eq!(table.entry(first).listener.table_base, 1);
        table.write(key(1), listener(9, 3));
        assert_eq!(found(&table, &key(1)), Some(listener(9, 3)));
    }

    #[test]
    fn a_listener_that_moves_is_found_at_both_places_until_the_old_one_goes() {
        let table = table();
        table.write(key(1), listener(7, 1));
        table.write(key(2), listener(7, 2));
        assert_eq!(found(&table, &key(1)), Some(listener(7, 1)));
        assert_eq!(found(&table, &key(2)), Some(listener(7, 2)));
        assert!(table.remove(&key(1)));
        assert_eq!(found(&table, &key(1)), None);
        assert_eq!(found(&table, &key(2)), Some(listener(7, 2)));
    }

    #[test]
    fn two_listeners_change_places() {
        let table = table();
        table.write(key(1), listener(7, 1));
        table.write(key(2), listener(8, 2));
        table.write(key(1), listener(8, 3));
        table.write(key(2), listener(7, 4));
        assert_eq!(found(&table, &key(1)), Some(listener(8, 3)));
        assert_eq!(found(&table, &key(2)), Some(listener(7, 4)));
    }

    #[test]
    fn a_full_run_of_slots_is_put_in_order() {
        let table = table();
        let wanted = key(5);
        let place = Place::of(&wanted);
        for probe in 0..PROBES {
            table.slot(place.slot(probe)).store(1 << 20 | 2, Relaxed);
        }
        table.write(wanted, listener(3, 4));
        assert_eq!(found(&table, &wanted), Some(listener(3, 4)));
    }
}

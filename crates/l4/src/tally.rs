//! Counts by listener and by backend.

use std::sync::atomic::Ordering::Relaxed;

use crate::line::{Cells, Line, Meta};

/// What was counted for a listener or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Live sessions.
    pub(crate) sessions: u64,
    /// Lines that carry the number, those included that are about to be freed.
    pub(crate) lines: u64,
    /// Packets from clients.
    pub(crate) packets_in: u64,
    /// Bytes from clients.
    pub(crate) bytes_in: u64,
    /// Packets from backends.
    pub(crate) packets_out: u64,
    /// Bytes from backends.
    pub(crate) bytes_out: u64,
}

impl Count {
    fn add_traffic(&mut self, reverse: bool, packets: u64, bytes: u64) {
        if reverse {
            self.packets_out += packets;
            self.bytes_out += bytes;
        } else {
            self.packets_in += packets;
            self.bytes_in += bytes;
        }
    }

    fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.lines += other.lines;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
    }
}

/// Counts by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    listeners: Vec<Count>,
    backends: Vec<Count>,
}

impl Tally {
    /// Counts in the order of the numbers, from 0.
    pub(crate) fn from_counts(
        listeners: impl Iterator<Item = Count>,
        backends: impl Iterator<Item = Count>,
    ) -> Self {
        // Most numbers are never given: as long as the last one with a count.
        let counted = |counts: &mut dyn Iterator<Item = Count>| {
            let mut counts: Vec<Count> = counts.collect();
            let is_used = |count: &Count| *count != Count::default();
            counts.truncate(counts.iter().rposition(is_used).map_or(0, |last| last + 1));
            counts
        };
        Self {
            listeners: counted(&mut { listeners }),
            backends: counted(&mut { backends }),
        }
    }

    /// A listener's count.
    pub(crate) fn listener(&self, number: u16) -> Count {
        self.listeners
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// A backend's count.
    pub(crate) fn backend(&self, number: u16) -> Count {
        self.backends
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// Sets a listener's count to zero.
    pub(crate) fn forget_listener(&mut self, number: u16) {
        *entry(&mut self.listeners, number) = Count::default();
    }

    /// Sets a backend's count to zero.
    pub(crate) fn forget_backend(&mut self, number: u16) {
        *entry(&mut self.backends, number) = Count::default();
    }

    /// Adds what a line has counted; returns the counts of its listener and its backend.
    pub(crate) fn count_line<F: Cells>(
        &mut self,
        line: &Line<F>,
        meta: Meta,
    ) -> (&mut Count, &mut Count) {
        let listener = entry(&mut self.listeners, line.listener.load(Relaxed));
        let backend = entry(&mut self.backends, line.backend.load(Relaxed));
        let (packets, bytes) = (line.packets.load(Relaxed), line.bytes.load(Relaxed));
        listener.add_traffic(meta.is_reverse(), packets, bytes);
        backend.add_traffic(meta.is_reverse(), packets, bytes);
        (listener, backend)
    }

    /// Adds other counts.
    pub(crate) fn add(&mut self, other: &Self) {
        for (ours, theirs) in [
            (&mut self.listeners, &other.listeners),
            (&mut self.backends, &other.backends),
        ] {
            if ours.len() < theirs.len() {
                ours.resize(theirs.len(), Count::default());
            }
            for (ours, theirs) in ours.iter_mut().zip(theirs) {
                ours.add(theirs);
            }
        }
    }

    /// Sets all counts to zero.
    pub(crate) fn clear(&mut self) {
        self.listeners.fill(Count::default());
        self.backends.fill(Count::default());
    }
}

fn entry(counts: &mut Vec<Count>, number: u16) -> &mut Count {
    let number = usize::from(number);
    if counts.len() <= number {
        counts.resize(number + 1, Count::default());
    }
    &mut counts[number]
}

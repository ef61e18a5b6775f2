//! Goes through the session table, again and again: ends idle sessions, frees lines, counts.
//!
//! A line is taken out of use first and freed when no program can still be at it. Totals are made anew in each pass,
//! from the lines in place and from what was counted in lines that are gone; every packet is in exactly one of both.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use weir_l4_common::hash::FlowKey4;
use weir_l4_common::session::{ACK, FIN, LINES, PASSED, Place, RST};

use crate::line::{Line, Meta, Table};
use crate::state::{Direction, State, Timeouts, one_way, two_way};

/// A line stays out of use for this long before it is freed: a program that found it needs it for microseconds.
pub(crate) const GRACE: Duration = Duration::from_millis(10);
/// Lines whose peers are fetched together, so that the waits for memory overlap.
const BATCH: usize = 32;
/// Lines without a peer that are kept in mind from one pass to the next; more of them wait for a later pass.
const SUSPECTS_MAX: usize = 65_536;
/// The peer of an idle line in the middle of an established session is looked at in one of so many passes.
const ESTABLISHED_STRIDE: u32 = 8;
/// The peer of an idle reverse line, which only a fault takes away, is looked at in one of so many passes.
const REVERSE_STRIDE: u32 = 16;
/// The lower bit of the mark, which the program sets again each time.
const PASSED_AGAIN: u32 = 0x4000;
/// The upper bit of the mark.
const PASSED_ONCE: u32 = PASSED & !PASSED_AGAIN;
/// Marks are looked after in two passes out of so many: that writes to every marked line.
const MARKS_STRIDE: u32 = 64;

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Low 32 bits of the kernel's jiffies.
    pub(crate) jiffies: u32,
    /// Length of a jiffy.
    pub(crate) tick: Duration,
    /// Any clock that only goes forward.
    pub(crate) monotonic: Duration,
}

impl Now {
    /// Jiffies since a line's last packet. A packet may be newer than this clock reading.
    pub(crate) fn idle(&self, last_seen: u32) -> u32 {
        let idle = self.jiffies.wrapping_sub(last_seen);
        if idle > u32::MAX - 1000 { 0 } else { idle }
    }

    /// How long so many jiffies are.
    pub(crate) fn duration(&self, jiffies: u32) -> Duration {
        self.tick * jiffies
    }
}

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
    pub(crate) fn listener(&self, number: u16) -> Count {
        self.listeners
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn backend(&self, number: u16) -> Count {
        self.backends
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    fn count_line(&mut self, line: &Line, meta: Meta) -> (&mut Count, &mut Count) {
        let listener = entry(&mut self.listeners, line.listener.load(Relaxed));
        let backend = entry(&mut self.backends, line.backend.load(Relaxed));
        let (packets, bytes) = (line.packets.load(Relaxed), line.bytes.load(Relaxed));
        listener.add_traffic(meta.is_reverse(), packets, bytes);
        backend.add_traffic(meta.is_reverse(), packets, bytes);
        (listener, backend)
    }

    fn add(&mut self, other: &Self) {
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

    fn clear(&mut self) {
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

/// What one pass found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Counts by listener and backend; packets and bytes never go down.
    pub(crate) tally: Tally,
    /// Lines in use, those included that are about to be freed.
    pub(crate) lines_used: u64,
    /// Live sessions.
    pub(crate) sessions: u64,
    /// Lines with the mark that flows have passed them by.
    pub(crate) lines_passed: u64,
    /// Sessions that ended since the start because they were idle.
    pub(crate) expired: u64,
    /// Lines that were removed since the start because their peer was gone.
    pub(crate) orphans: u64,
}

/// The sweep's place in the table and what it remembers.
#[derive(Debug)]
pub(crate) struct Sweep {
    timeouts: Timeouts,
    pass: u32,
    /// The next set.
    cursor: u32,
    /// Totals of the pass under way.
    totals: Totals,
    /// Of lines that are gone.
    retired: Tally,
    /// Of lines that are gone, and that the pass under way had counted in place.
    retired_later: Tally,
    /// Lines taken out of use, oldest first, and when.
    dying: VecDeque<(Duration, u32)>,
    /// The same lines.
    queued: Bits,
    /// Lines whose peer was not there in the pass before this one, and in this one.
    suspects: [Vec<(u32, FlowKey4)>; 2],
    /// Lines that flows have passed by on the way to where they are.
    passed: Bits,
    /// Lines to be looked at together with their peers.
    batch: Vec<(u32, Meta, Place)>,
}

impl Sweep {
    /// A sweep of a table with so many sets, at its start.
    pub(crate) fn new(sets: u32, timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            pass: 0,
            cursor: 0,
            totals: Totals::default(),
            retired: Tally::default(),
            retired_later: Tally::default(),
            dying: VecDeque::new(),
            queued: Bits::new(sets as usize * LINES),
            suspects: [Vec::new(), Vec::new()],
            passed: Bits::new(sets as usize * LINES),
            batch: Vec::with_capacity(BATCH),
        }
    }

    /// Goes through the next `sets` sets at most; at the end of a pass returns what it found.
    pub(crate) fn step(&mut self, table: Table<'_>, now: Now, sets: u32) -> Option<Totals> {
        self.free_dead(table, now);
        let end = self.cursor.saturating_add(sets).min(table.sets());
        for set in self.cursor..end {
            self.visit_set(table, now, set);
        }
        self.judge_batch(table, now);
        self.cursor = end;
        if end < table.sets() {
            None
        } else {
            Some(self.end_pass(table, now))
        }
    }

    /// Forgets what was counted for a listener: its number is about to be given to another one.
    pub(crate) fn forget_listener(&mut self, number: u16) {
        *entry(&mut self.retired.listeners, number) = Count::default();
    }

    /// Forgets what was counted for a backend.
    pub(crate) fn forget_backend(&mut self, number: u16) {
        *entry(&mut self.retired.backends, number) = Count::default();
    }

    fn visit_set(&mut self, table: Table<'_>, now: Now, set: u32) {
        let lines = table.set(set);
        for (lane, line) in lines.iter().enumerate() {
            let meta = line.meta();
            if meta.0 & PASSED != 0 {
                self.totals.lines_passed += 1;
                if self.pass % MARKS_STRIDE == 0 {
                    line.meta.fetch_and(!PASSED_AGAIN, AcqRel);
                }
            }
            if !meta.is_occupied() {
                continue;
            }
            self.totals.lines_used += 1;
            let index = set * LINES as u32 + lane as u32;
            if meta.is_live() {
                self.visit_live(table, now, set, index, line, meta);
            } else if meta.is_dying() {
                self.count_in_place(line, meta);
                // The program takes lines out of use, too.
                self.queue(now, index);
            }
        }
    }

    fn visit_live(
        &mut self,
        table: Table<'_>,
        now: Now,
        set: u32,
        index: u32,
        line: &Line,
        meta: Meta,
    ) {
        if self.pass % MARKS_STRIDE == 1 {
            let place = table.place(&line.key());
            for passed in place.lines().take_while(|passed| *passed != index) {
                self.passed.set(passed as usize);
            }
        }
        let (listener, backend) = self.count_in_place(line, meta);
        if !meta.is_reverse() {
            listener.sessions += 1;
            backend.sessions += 1;
            self.totals.sessions += 1;
        }
        let idle = now.idle(line.last_seen.load(Relaxed));
        if now.duration(idle) < self.timeouts.least(meta.is_udp()) {
            return;
        }
        if !meta.has_peer() {
            self.judge_one_way(now, index, line, meta, idle);
        } else if index.wrapping_add(self.pass).is_multiple_of(stride(meta)) {
            let place = table.place(&line.peer_key());
            table.prefetch(&place);
            self.batch.push((index, meta, place));
            if self.batch.len() == BATCH {
                self.judge_batch(table, now);
            }
        }
    }

    fn count_in_place(&mut self, line: &Line, meta: Meta) -> (&mut Count, &mut Count) {
        let (listener, backend) = self.totals.tally.count_line(line, meta);
        listener.lines += 1;
        backend.lines += 1;
        (listener, backend)
    }

    fn judge_one_way(&mut self, now: Now, index: u32, line: &Line, meta: Meta, idle: u32) {
        let client = direction(line, meta, idle);
        let state = one_way(meta.is_udp(), client);
        if now.duration(idle) >= self.timeouts.of(state, false) && line.retire(meta) {
            self.totals.expired += 1;
            self.queue(now, index);
        }
    }

    fn judge_batch(&mut self, table: Table<'_>, now: Now) {
        let mut batch = std::mem::take(&mut self.batch);
        for (index, meta, place) in batch.drain(..) {
            let line = &table.lines()[index as usize];
            match table.find(&line.peer_key(), &place) {
                None if self.suspects[1].len() < SUSPECTS_MAX => {
                    self.suspects[1].push((index, line.key()))
                }
                None => {}
                Some(_) if meta.is_reverse() => {}
                Some(peer) => self.judge_pair(table, now, (index, meta), peer),
            }
        }
        self.batch = batch;
    }

    fn judge_pair(
        &mut self,
        table: Table<'_>,
        now: Now,
        (index, meta): (u32, Meta),
        peer_index: u32,
    ) {
        let (line, peer) = (
            &table.lines()[index as usize],
            &table.lines()[peer_index as usize],
        );
        let (state, idle) = session(now, line, meta, Some(peer));
        if now.duration(idle) < self.timeouts.of(state, true) {
            return;
        }
        // A line that has changed since it was judged stays: another packet came.
        if line.retire(meta) {
            self.totals.expired += 1;
            self.queue(now, index);
            let peer_meta = peer.meta();
            if peer_meta.is_live() && peer.retire(peer_meta) {
                self.queue(now, peer_index);
            }
        }
    }

    fn queue(&mut self, now: Now, index: u32) {
        if !self.queued.set(index as usize) {
            self.dying.push_back((now.monotonic, index));
        }
    }

    fn free_dead(&mut self, table: Table<'_>, now: Now) {
        while let Some(&(since, index)) = self.dying.front()
            && since + GRACE <= now.monotonic
        {
            self.dying.pop_front();
            self.queued.clear(index as usize);
            let line = &table.lines()[index as usize];
            let meta = line.meta();
            if !meta.is_dying() {
                continue;
            }
            // What this pass has counted in place must not be counted twice in it.
            let counted = index / LINES as u32 >= self.cursor;
            let tally = if counted {
                &mut self.retired
            } else {
                &mut self.retired_later
            };
            tally.count_line(line, meta);
            line.free();
        }
    }

    fn end_pass(&mut self, table: Table<'_>, now: Now) -> Totals {
        self.remove_orphans(table, now);
        self.clear_marks(table);
        self.pass = self.pass.wrapping_add(1);
        self.cursor = 0;
        let (expired, orphans) = (self.totals.expired, self.totals.orphans);
        let mut totals = std::mem::replace(
            &mut self.totals,
            Totals {
                expired,
                orphans,
                ..Totals::default()
            },
        );
        totals.tally.add(&self.retired);
        self.retired.add(&self.retired_later);
        self.retired_later.clear();
        totals
    }

    /// Removes lines that had no peer a pass ago and have none now. A program writes both within microseconds.
    fn remove_orphans(&mut self, table: Table<'_>, now: Now) {
        for (index, key) in std::mem::take(&mut self.suspects[0]) {
            let line = &table.lines()[index as usize];
            let meta = line.meta();
            if !meta.is_live() || line.key() != key {
                continue;
            }
            let peer = line.peer_key();
            if table.find(&peer, &table.place(&peer)).is_none() && line.retire(meta) {
                self.totals.orphans += 1;
                self.queue(now, index);
            }
        }
        self.suspects.swap(0, 1);
    }

    /// Takes back marks that no flow needs. The lower bit was cleared in the pass before: where it is clear still, no
    /// program has passed the line since, and this whole pass has seen no flow that needs the mark.
    fn clear_marks(&mut self, table: Table<'_>) {
        if self.pass % MARKS_STRIDE != 1 {
            return;
        }
        for (index, line) in table.lines().iter().enumerate() {
            let meta = line.meta.load(Acquire);
            if meta & PASSED == PASSED_ONCE && !self.passed.get(index) {
                // Fails where a program marks it again, or writes the line: another time will do.
                let _ = line
                    .meta
                    .compare_exchange(meta, meta & !PASSED, AcqRel, Relaxed);
            }
        }
        self.passed.clear_all();
    }
}

/// In one of how many passes an idle line's peer is looked at.
fn stride(meta: Meta) -> u32 {
    if meta.is_reverse() {
        REVERSE_STRIDE
    } else if !meta.is_udp() && meta.seen() & (ACK | FIN | RST) == ACK {
        ESTABLISHED_STRIDE
    } else {
        1
    }
}

fn direction(line: &Line, meta: Meta, idle: u32) -> Direction {
    Direction {
        seen: meta.seen(),
        packets: line.packets.load(Relaxed),
        idle,
    }
}

/// The state of a session, given its client's line, and for how many jiffies both directions have been idle.
pub(crate) fn session(now: Now, line: &Line, meta: Meta, peer: Option<&Line>) -> (State, u32) {
    let client = direction(line, meta, now.idle(line.last_seen.load(Relaxed)));
    if !meta.has_peer() {
        return (one_way(meta.is_udp(), client), client.idle);
    }
    let reply =
        peer.map(|peer| direction(peer, peer.meta(), now.idle(peer.last_seen.load(Relaxed))));
    let idle = reply.map_or(client.idle, |reply| reply.idle.min(client.idle));
    (two_way(meta.is_udp(), client, reply), idle)
}

/// One bit per line or set.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// True if it was set before.
    fn set(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        let word = &mut self.0[index / 64];
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    fn get(&self, index: usize) -> bool {
        self.0[index / 64] & 1 << (index % 64) != 0
    }

    fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn clear_all(&mut self) {
        self.0.fill(0);
    }
}

//! Goes through the session table, again and again: ends idle sessions, frees lines, counts.
//!
//! A line is taken out of use first and freed when no program can still be at it. Totals are made anew in each pass,
//! from the lines in place and from what was counted in lines that are gone; every packet is in exactly one of both.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use weir_l4_common::client::Pool;
use weir_l4_common::hash::FlowKey;
use weir_l4_common::session::{ACK, FIN, LINES, PASSED, Place, RST};

use crate::line::{Cells, Line, Meta, Table};
use crate::policies::Ending;
use crate::pressure::Pressure;
use crate::record::{Freed, Records};
use crate::schedulers::Schedulers;
use crate::state::{Direction, State, Timeouts, one_way, two_way};
use crate::tally::{Count, Tally};

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
    /// Jiffies since a line's last packet. A packet may be newer than this clock reading, by however long the thread
    /// was held up: half of all differences mean that.
    pub(crate) fn idle(&self, last_seen: u32) -> u32 {
        let idle = self.jiffies.wrapping_sub(last_seen);
        if idle.cast_signed() < 0 { 0 } else { idle }
    }

    /// How long so many jiffies are.
    pub(crate) fn duration(&self, jiffies: u32) -> Duration {
        self.tick * jiffies
    }
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
    /// The timeouts from now on.
    pub(crate) timeouts: Timeouts,
}

/// What one pass through both tables found.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Counts in both tables.
    pub(crate) tally: Tally,
    /// Of IPv4; its tally is in the one above.
    pub(crate) v4: Totals,
    /// Of IPv6, likewise.
    pub(crate) v6: Totals,
}

impl Passed {
    pub(crate) fn new(mut v4: Totals, mut v6: Totals) -> Self {
        let mut tally = std::mem::take(&mut v4.tally);
        tally.add(&v6.tally);
        v6.tally = Tally::default();
        Self { tally, v4, v6 }
    }
}

/// The sweep's place in the table and what it remembers.
#[derive(Debug)]
pub(crate) struct Sweep<F: Cells> {
    /// Those of the config.
    timeouts: Timeouts,
    /// Those of the pass under way.
    present: Timeouts,
    /// Lines that may be in use.
    room: u64,
    /// How full the table is just now.
    pressure: Pressure,
    /// Unconfirmed sessions have to go early for it.
    pressed: bool,
    /// What outlives the process.
    records: Option<Arc<Records>>,
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
    suspects: [Vec<(u32, FlowKey<F>)>; 2],
    /// Lines that flows have passed by on the way to where they are.
    passed: Bits,
    /// Who hears of sessions that are there, and of those that end.
    schedulers: Option<Arc<Schedulers>>,
    /// Pools that remember clients.
    pools: Arc<HashMap<u64, Pool>>,
    /// Whose sessions are not to go on.
    ending: Arc<Ending>,
    /// Lines to be looked at together with their peers.
    batch: Vec<(u32, Meta, Place)>,
}

impl<F: Cells> Sweep<F> {
    /// A sweep of a table with so many sets, at its start. When more than `room` lines are in use, sessions that are
    /// not established have to go earlier.
    pub(crate) fn new(sets: u32, room: u64, timeouts: Timeouts) -> Self {
        Self {
            present: timeouts.clone(),
            timeouts,
            room,
            pressure: Pressure::new(u64::from(sets) * LINES as u64, room),
            pressed: false,
            records: None,
            pass: 0,
            cursor: 0,
            totals: Totals::default(),
            retired: Tally::default(),
            retired_later: Tally::default(),
            dying: VecDeque::new(),
            queued: Bits::new(sets as usize * LINES),
            suspects: [Vec::new(), Vec::new()],
            passed: Bits::new(sets as usize * LINES),
            schedulers: None,
            pools: Arc::default(),
            ending: Arc::default(),
            batch: Vec::with_capacity(BATCH),
        }
    }

    /// Goes on from what a former daemon has counted, and counts for the next one.
    pub(crate) fn resume(&mut self, records: Arc<Records>) {
        self.retired = records.tally();
        (self.totals.expired, self.totals.orphans) = records.ended();
        self.keep(records);
    }

    /// Counts for the next daemon.
    pub(crate) fn keep(&mut self, records: Arc<Records>) {
        self.records = Some(records);
    }

    /// Goes through the next `sets` sets at most; at the end of a pass returns what it found.
    pub(crate) fn step(&mut self, table: Table<'_, F>, now: Now, sets: u32) -> Option<Totals> {
        self.free_dead(table, now);
        if let Some(schedulers) = &self.schedulers {
            self.pools = schedulers.pools();
        }
        let end = self.cursor.saturating_add(sets).min(table.sets());
        let used_before = self.totals.lines_used;
        for set in self.cursor..end {
            self.visit_set(table, now, set);
        }
        self.judge_batch(table, now);
        let lines = u64::from(end - self.cursor) * LINES as u64;
        self.pressure
            .saw(lines, self.totals.lines_used - used_before);
        let unconfirmed_most = self.pressure.conclude();
        self.pressed = unconfirmed_most.is_some();
        self.present.unconfirmed_at_most(unconfirmed_most);
        self.cursor = end;
        if end < table.sets() {
            None
        } else {
            Some(self.end_pass(table, now))
        }
    }

    /// These hear of sessions from now on.
    pub(crate) fn tell(&mut self, schedulers: Arc<Schedulers>) {
        self.schedulers = Some(schedulers);
    }

    /// Tells schedulers of a client's live line.
    fn tell_of(&self, now: Now, line: &Line<F>, meta: Meta) {
        let Some(schedulers) = &self.schedulers else {
            return;
        };
        let backend = line.backend.load(Relaxed);
        if meta.seen() & (FIN | RST) != 0 {
            if line.count_no_more() {
                schedulers.closed(backend);
            }
        } else if !self.pools.is_empty() && !is_unconfirmed(line, meta) {
            let client = F::widen(F::load(&line.src));
            schedulers.confirmed(&self.pools, client, backend, now);
        }
    }

    /// Whether the table is so full that the next step should not wait.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed
    }

    /// What sessions may be idle from the next pass on.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Whose sessions are to end, from the next pass on.
    pub(crate) fn set_ending(&mut self, ending: Arc<Ending>) {
        self.ending = ending;
    }

    /// Between two passes: frees what has waited for it.
    pub(crate) fn rest(&mut self, table: Table<'_, F>, now: Now) {
        self.free_dead(table, now);
    }

    /// Forgets what was counted for a listener: its number is about to be given to another one.
    pub(crate) fn forget_listener(&mut self, number: u16) {
        self.retired.forget_listener(number);
    }

    /// Forgets what was counted for a backend.
    pub(crate) fn forget_backend(&mut self, number: u16) {
        self.retired.forget_backend(number);
    }

    fn visit_set(&mut self, table: Table<'_, F>, now: Now, set: u32) {
        let lines = table.set(set);
        for (lane, line) in lines.iter().enumerate() {
            let meta = line.meta();
            if meta.0 & PASSED != 0 {
                self.totals.lines_passed += 1;
                if self.pass.is_multiple_of(MARKS_STRIDE) {
                    line.meta.fetch_and(!PASSED_AGAIN, AcqRel);
                }
            }
            if !meta.is_occupied() {
                continue;
            }
            self.totals.lines_used += 1;
            let index = set * LINES as u32 + lane as u32;
            if meta.is_live() {
                self.visit_live(table, now, index, line, meta);
            } else if meta.is_dying() {
                self.count_in_place(line, meta);
                // The program takes lines out of use, too.
                self.queue(now, index);
            }
        }
    }

    fn visit_live(
        &mut self,
        table: Table<'_, F>,
        now: Now,
        index: u32,
        line: &Line<F>,
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
        if !meta.is_reverse() {
            let (listener, backend) = (line.listener.load(Relaxed), line.backend.load(Relaxed));
            if line.is_ended() || self.ending.has(listener, backend) {
                if self.end(table, now, index, line, meta) {
                    return;
                }
            } else {
                self.tell_of(now, line, meta);
            }
        }
        let last_seen = line.last_seen.load(Relaxed);
        if !meta.is_reverse() && is_unconfirmed(line, meta) {
            // In this table.
            let lines = if meta.has_peer() && !meta.is_across() {
                2
            } else {
                1
            };
            self.pressure
                .saw_unconfirmed(now.duration(now.idle(last_seen)), lines);
        }
        if now.duration(now.idle(last_seen)) < self.present.least(meta.is_udp()) {
            return;
        }
        if !meta.has_peer() {
            self.judge_one_way(now, index, line, meta, last_seen);
        } else if !index.wrapping_add(self.pass).is_multiple_of(stride(meta)) {
            // Another time.
        } else if meta.is_across() {
            self.judge_across(table, now, index, meta);
        } else {
            let place = table.place(&line.peer_key());
            table.prefetch(&place);
            self.batch.push((index, meta, place));
            if self.batch.len() == BATCH {
                self.judge_batch(table, now);
            }
        }
    }

    /// Ends a session: one of TCP by answering its client, any other, and one that is not open yet, by taking its lines out
    /// of use, which is true then.
    fn end(
        &mut self,
        table: Table<'_, F>,
        now: Now,
        index: u32,
        line: &Line<F>,
        meta: Meta,
    ) -> bool {
        if line.count_no_more()
            && let Some(schedulers) = &self.schedulers
        {
            schedulers.closed(line.backend.load(Relaxed));
        }
        if !meta.is_udp() && !is_unconfirmed(line, meta) {
            line.end();
            return false;
        }
        let across = meta.is_across().then(|| table.across(line)).flatten();
        if !line.retire(meta) {
            return false;
        }
        self.queue(now, index);
        if let Some(peer) = across {
            // The other table's own sweep frees it.
            let meta = peer.meta();
            if meta.is_live() {
                peer.retire(meta);
            }
        } else if meta.has_peer() {
            let key = line.peer_key();
            if let Some(peer) = table.find(&key, &table.place(&key)) {
                let line = &table.lines()[peer as usize];
                let meta = line.meta();
                if meta.is_live() && line.retire(meta) {
                    self.queue(now, peer);
                }
            }
        }
        true
    }

    fn count_in_place(&mut self, line: &Line<F>, meta: Meta) -> (&mut Count, &mut Count) {
        let (listener, backend) = self.totals.tally.count_line(line, meta);
        listener.lines += 1;
        backend.lines += 1;
        (listener, backend)
    }

    fn judge_one_way(&mut self, now: Now, index: u32, line: &Line<F>, meta: Meta, last_seen: u32) {
        let idle = now.idle(last_seen);
        let state = one_way(meta.is_udp(), direction(line, meta, idle));
        let listener = line.listener.load(Relaxed);
        if now.duration(idle) >= self.present.of(state, false, listener)
            && !line.has_moved(last_seen)
            && line.retire(meta)
        {
            self.totals.expired += 1;
            self.queue(now, index);
        }
    }

    fn judge_batch(&mut self, table: Table<'_, F>, now: Now) {
        let mut batch = std::mem::take(&mut self.batch);
        for (index, meta, place) in batch.drain(..) {
            let line = &table.lines()[index as usize];
            match table.find(&line.peer_key(), &place) {
                None => self.suspect(index, line),
                Some(_) if meta.is_reverse() => {}
                Some(peer_index) => {
                    let peer = &table.lines()[peer_index as usize];
                    if self.judge_pair(now, (index, line, meta), peer) {
                        self.queue(now, peer_index);
                    }
                }
            }
        }
        self.batch = batch;
    }

    /// A line whose peer is in the other table.
    fn judge_across(&mut self, table: Table<'_, F>, now: Now, index: u32, meta: Meta) {
        let line = &table.lines()[index as usize];
        match table.across(line) {
            None => self.suspect(index, line),
            Some(_) if meta.is_reverse() => {}
            // The other table's own sweep finds the peer out of use, and frees it.
            Some(peer) => {
                self.judge_pair(now, (index, line, meta), peer);
            }
        }
    }

    /// A line has no peer.
    fn suspect(&mut self, index: u32, line: &Line<F>) {
        if self.suspects[1].len() < SUSPECTS_MAX {
            self.suspects[1].push((index, line.key()));
        }
    }

    /// Ends the session of a client's line if it has been idle for too long. Whether the peer was taken out of use.
    fn judge_pair<P: Cells>(
        &mut self,
        now: Now,
        (index, line, meta): (u32, &Line<F>, Meta),
        peer: &Line<P>,
    ) -> bool {
        let seen = [line.last_seen.load(Relaxed), peer.last_seen.load(Relaxed)];
        let (state, mut idle) = session(now, line, meta, Some(peer));
        if state == State::SynRecv {
            // A backend that repeats its answer does not make the client more real.
            idle = now.idle(seen[0]);
        }
        if now.duration(idle) < self.present.of(state, true, line.listener.load(Relaxed)) {
            return false;
        }
        // The session stays if another packet came since it was judged. Most packets do not change `meta`, so the
        // times are compared as well; a packet in the few instructions until `meta` is exchanged is still missed, and
        // its session ends after its whole timeout.
        if line.has_moved(seen[0]) || peer.has_moved(seen[1]) || !line.retire(meta) {
            return false;
        }
        self.totals.expired += 1;
        self.queue(now, index);
        let peer_meta = peer.meta();
        peer_meta.is_live() && peer.retire(peer_meta)
    }

    fn queue(&mut self, now: Now, index: u32) {
        if !self.queued.set(index as usize) {
            self.dying.push_back((now.monotonic, index));
        }
    }

    fn free_dead(&mut self, table: Table<'_, F>, now: Now) {
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
            if let Some(records) = &self.records {
                records.add(Freed {
                    listener: line.listener.load(Relaxed),
                    backend: line.backend.load(Relaxed),
                    reverse: meta.is_reverse(),
                    packets: line.packets.load(Relaxed),
                    bytes: line.bytes.load(Relaxed),
                });
            }
            if line.count_no_more()
                && let Some(schedulers) = &self.schedulers
            {
                schedulers.closed(line.backend.load(Relaxed));
            }
            line.free();
        }
    }

    fn end_pass(&mut self, table: Table<'_, F>, now: Now) -> Totals {
        self.remove_orphans(table, now);
        self.clear_marks(table);
        self.pass = self.pass.wrapping_add(1);
        self.cursor = 0;
        let pressure = self.totals.lines_used as f64 / self.room.max(1) as f64;
        let mut present = self.timeouts.under(pressure);
        present.unconfirmed_at_most(self.present.unconfirmed());
        self.present = present;
        self.totals.timeouts = self.present.clone();
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
    fn remove_orphans(&mut self, table: Table<'_, F>, now: Now) {
        for (index, key) in std::mem::take(&mut self.suspects[0]) {
            let line = &table.lines()[index as usize];
            let meta = line.meta();
            if !meta.is_live() || line.key() != key {
                continue;
            }
            let has_peer = if meta.is_across() {
                table.across(line).is_some()
            } else {
                let peer = line.peer_key();
                table.find(&peer, &table.place(&peer)).is_some()
            };
            if !has_peer && line.retire(meta) {
                self.totals.orphans += 1;
                self.queue(now, index);
            }
        }
        self.suspects.swap(0, 1);
    }

    /// Takes back marks that no flow needs. The lower bit was cleared in the pass before: where it is clear still, no
    /// program has passed the line since, and this whole pass has seen no flow that needs the mark.
    fn clear_marks(&mut self, table: Table<'_, F>) {
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

/// [`State::is_unconfirmed`], as far as the client's line tells.
fn is_unconfirmed<F: Cells>(line: &Line<F>, meta: Meta) -> bool {
    if meta.is_udp() {
        line.packets.load(Relaxed) <= 1
    } else {
        meta.seen() & (ACK | FIN | RST) == 0
    }
}

fn direction<F: Cells>(line: &Line<F>, meta: Meta, idle: u32) -> Direction {
    Direction {
        seen: meta.seen(),
        packets: line.packets.load(Relaxed),
        idle,
    }
}

/// The state of a session, given its client's line, and for how many jiffies both directions have been idle.
pub(crate) fn session<F: Cells, P: Cells>(
    now: Now,
    line: &Line<F>,
    meta: Meta,
    peer: Option<&Line<P>>,
) -> (State, u32) {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::Ordering::Release;

    use proptest::prelude::*;
    use weir_l4_common::family::{Addr6, V4, V6};
    use weir_l4_common::hash::{FlowKey4, FlowKey6};
    use weir_l4_common::link::LINK_NOWHERE;
    use weir_l4_common::service::{Mode, mapped};
    use weir_l4_common::session::{
        ACROSS, LINK_MASK, LINK_SHIFT, LIVE, MODE_SHIFT, OCCUPIED, REVERSE, SEEN_SHIFT, SYN, UDP,
    };
    use weir_model::{Forward, SessionTimeouts};

    use super::*;
    use crate::policies::Policies;
    use crate::session::{Found, NumberFilter, Search};

    const SEED: u64 = 0x1234_5678_9abc_def0;
    const TICK: Duration = Duration::from_millis(4);
    /// Jiffies wrap a minute after the start; in the kernel it is five (`INITIAL_JIFFIES`).
    const FIRST_JIFFIES: u32 = 0u32.wrapping_sub(60 * 250);

    /// The table, its clock, and what the XDP program does with them.
    struct World {
        lines: Vec<Line<V4>>,
        now: Now,
        sweep: Sweep<V4>,
        totals: Totals,
    }

    #[derive(Clone, Copy, Debug)]
    struct Flow {
        id: u16,
        udp: bool,
        mode: Mode,
    }

    impl Flow {
        fn tcp(id: u16) -> Self {
            Self {
                id,
                udp: false,
                mode: Mode::Fullnat,
            }
        }

        fn key(self) -> FlowKey4 {
            FlowKey4 {
                src: 0x0a00_0001,
                dst: 0x0b00_0001,
                ports: u32::from(self.id),
                udp: self.udp,
            }
        }

        /// The client's direction after the rewrite.
        fn rewritten(self) -> FlowKey4 {
            FlowKey4 {
                src: 0x0c00_0001,
                dst: 0x0d00_0001,
                ports: u32::from(self.id),
                udp: self.udp,
            }
        }

        fn reply_key(self) -> FlowKey4 {
            self.rewritten().reversed()
        }

        fn has_reply(self) -> bool {
            matches!(self.mode, Mode::Fullnat | Mode::Nat)
        }

        fn listener(self) -> u16 {
            self.id % 3 + 1
        }
    }

    impl World {
        fn new(sets: u32) -> Self {
            let now = Now {
                jiffies: FIRST_JIFFIES,
                tick: TICK,
                monotonic: Duration::ZERO,
            };
            Self {
                lines: (0..sets as usize * LINES)
                    .map(|_| Line::default())
                    .collect(),
                now,
                sweep: Sweep::new(sets, u64::from(sets) * LINES as u64, Timeouts::default()),
                totals: Totals::default(),
            }
        }

        fn table(&self) -> Table<'_, V4> {
            Table::new(&self.lines, SEED)
        }

        fn wait(&mut self, time: Duration) {
            self.now.monotonic += time;
            let jiffies = self.now.monotonic.as_nanos() / TICK.as_nanos();
            self.now.jiffies = FIRST_JIFFIES.wrapping_add(jiffies as u32);
        }

        /// One pass, a second long.
        fn pass(&mut self) {
            let steps = self.lines.len() as u32 / LINES as u32;
            for _ in 0..steps {
                self.wait(Duration::from_secs(1) / steps);
                self.step();
            }
        }

        /// One set further.
        fn step(&mut self) {
            let table = Table::new(&self.lines, SEED);
            if let Some(totals) = self.sweep.step(table, self.now, 1) {
                self.totals = totals;
            }
        }

        fn passes(&mut self, count: u32) {
            for _ in 0..count {
                self.pass();
            }
        }

        /// Opens a session as the program does; false if there is no room.
        fn open(&self, flow: Flow) -> bool {
            if flow.has_reply()
                && !self.write(flow.reply_key(), flow.key().reversed(), flow, REVERSE)
            {
                return false;
            }
            if self.write(flow.key(), flow.rewritten(), flow, 0) {
                return true;
            }
            if flow.has_reply() {
                self.retire(&flow.reply_key());
            }
            false
        }

        fn write(&self, key: FlowKey4, new: FlowKey4, flow: Flow, bits: u32) -> bool {
            for index in self.table().place(&key).lines() {
                let line = &self.lines[index as usize];
                if line.meta().is_occupied() {
                    line.meta.fetch_or(PASSED, AcqRel);
                    continue;
                }
                line.meta.fetch_or(OCCUPIED, AcqRel);
                V4::store(&line.src, key.src);
                V4::store(&line.dst, key.dst);
                line.ports.store(key.ports, Relaxed);
                V4::store(&line.new_src, new.src);
                V4::store(&line.new_dst, new.dst);
                line.new_ports.store(new.ports, Relaxed);
                line.listener.store(flow.listener(), Relaxed);
                line.backend.store(7, Relaxed);
                line.last_seen.store(self.now.jiffies, Relaxed);
                line.packets.store(0, Relaxed);
                line.bytes.store(0, Relaxed);
                let udp = if flow.udp { UDP } else { 0 };
                line.meta.fetch_or(
                    LIVE | bits | udp | (flow.mode as u32) << MODE_SHIFT,
                    Release,
                );
                return true;
            }
            false
        }

        /// A packet; false if it finds no line.
        fn packet(&self, key: &FlowKey4, flags: u8) -> bool {
            let Some(index) = self.table().find(key, &self.table().place(key)) else {
                return false;
            };
            let line = &self.lines[index as usize];
            line.last_seen.store(self.now.jiffies, Relaxed);
            line.packets.fetch_add(1, Relaxed);
            line.bytes.fetch_add(100, Relaxed);
            if !key.udp {
                let seen = line.meta().seen() & !RST | flags;
                let meta = line.meta().0 & !(0xff << SEEN_SHIFT) | u32::from(seen) << SEEN_SHIFT;
                line.meta.store(meta, Release);
            }
            true
        }

        fn retire(&self, key: &FlowKey4) {
            let index = self.table().find(key, &self.table().place(key)).unwrap();
            let line = &self.lines[index as usize];
            assert!(line.retire(line.meta()));
        }

        fn handshake(&self, flow: Flow) {
            assert!(self.open(flow));
            assert!(self.packet(&flow.key(), SYN));
            assert!(self.packet(&flow.reply_key(), SYN | ACK));
            assert!(self.packet(&flow.key(), ACK));
        }

        fn finds(&self, key: &FlowKey4) -> bool {
            self.table().find(key, &self.table().place(key)).is_some()
        }

        fn used(&self) -> usize {
            self.lines
                .iter()
                .filter(|line| line.meta().is_occupied())
                .count()
        }
    }

    #[test]
    fn a_packet_newer_than_the_clock_reading_means_not_idle() {
        let now = Now {
            jiffies: u32::MAX - 5,
            tick: Duration::from_millis(1),
            monotonic: Duration::ZERO,
        };
        assert_eq!(now.idle(now.jiffies), 0);
        assert_eq!(now.idle(now.jiffies - 432_000_000), 432_000_000);
        for ahead in [1, 1000, 1001, 1_000_000] {
            assert_eq!(now.idle(now.jiffies.wrapping_add(ahead)), 0, "{ahead}");
        }
    }

    #[test]
    fn a_thread_that_was_held_up_ends_no_session() {
        for ahead in [1001, 1_000_000] {
            for mode in [Mode::Fullnat, Mode::Dr] {
                let mut world = World::new(16);
                let flow = Flow {
                    mode,
                    ..Flow::tcp(1)
                };
                assert!(world.open(flow));
                assert!(world.packet(&flow.key(), ACK));
                for line in &world.lines {
                    let last_seen = world.now.jiffies.wrapping_add(ahead);
                    line.last_seen.store(last_seen, Relaxed);
                }
                let now = world.now;
                world.passes(2 * ESTABLISHED_STRIDE);
                // The world's clock went on: less than the lines are ahead.
                assert!(world.now.jiffies.wrapping_sub(now.jiffies) < 1_000_000);
                assert!(world.finds(&flow.key()), "{mode:?}, {ahead} ahead");
                assert_eq!(world.totals.expired, 0);
            }
        }
    }

    /// Sweeps on until the session has gone, and says how long it was idle then.
    fn lifetime(world: &mut World, flow: Flow) -> Duration {
        let start = world.now.monotonic;
        while world.finds(&flow.key()) {
            world.pass();
            assert!(world.now.monotonic - start < Duration::from_secs(500_000));
            // Days are long: nothing happens in the middle of them.
            if world.now.monotonic - start > Duration::from_secs(1000) {
                world.wait(Duration::from_secs(600));
            }
        }
        world.now.monotonic - start
    }

    #[test]
    fn sessions_live_as_long_as_their_state_says() {
        let check = |flow: Flow, talk: &dyn Fn(&World), timeout_s: u64, slack_s: u64| {
            let mut world = World::new(64);
            assert!(world.open(flow));
            talk(&world);
            let lived = lifetime(&mut world, flow).as_secs();
            assert!(
                (timeout_s..=timeout_s + slack_s).contains(&lived),
                "{flow:?}: {lived} s, not {timeout_s} s"
            );
            world.passes(2);
            assert_eq!(world.used(), 0, "{flow:?}: both lines are free");
            assert_eq!(world.totals.expired, 1);
        };
        let flow = Flow::tcp(9);
        let (out, back) = (flow.key(), flow.reply_key());
        check(
            flow,
            &|w| {
                w.packet(&out, SYN);
            },
            120,
            2,
        );
        check(
            flow,
            &|w| {
                w.packet(&out, SYN);
                w.packet(&back, SYN | ACK);
            },
            60,
            2,
        );
        let established = |w: &World| {
            w.packet(&out, SYN);
            w.packet(&back, SYN | ACK);
            w.packet(&out, ACK);
        };
        check(flow, &established, 432_000, 6000);
        let slack = u64::from(ESTABLISHED_STRIDE) + 1;
        check(
            flow,
            &|w| {
                established(w);
                w.packet(&back, RST);
            },
            10,
            slack,
        );
        check(
            flow,
            &|w| {
                established(w);
                w.packet(&out, FIN | ACK);
            },
            120,
            2,
        );
        check(
            flow,
            &|w| {
                established(w);
                w.packet(&out, FIN | ACK);
                w.packet(&back, FIN | ACK);
            },
            120,
            2,
        );
        let udp = Flow { udp: true, ..flow };
        let (out, back) = (udp.key(), udp.reply_key());
        check(
            udp,
            &|w| {
                w.packet(&out, 0);
            },
            30,
            2,
        );
        check(
            udp,
            &|w| {
                w.packet(&out, 0);
                w.packet(&back, 0);
            },
            30,
            2,
        );
        check(
            udp,
            &|w| {
                w.packet(&out, 0);
                w.packet(&back, 0);
                w.packet(&out, 0);
            },
            120,
            2,
        );
        for mode in [Mode::Dr, Mode::Tunnel] {
            let flow = Flow {
                mode,
                ..Flow::tcp(9)
            };
            let out = flow.key();
            check(
                flow,
                &|w| {
                    w.packet(&out, SYN);
                },
                60,
                2,
            );
            check(
                flow,
                &|w| {
                    w.packet(&out, SYN);
                    w.packet(&out, ACK);
                },
                900,
                2,
            );
        }
    }

    #[test]
    fn every_state_has_the_timeout_that_is_configured() {
        let seconds = Duration::from_secs;
        let configured = SessionTimeouts {
            syn_sent: seconds(41),
            syn_recv: seconds(53),
            established: seconds(307),
            established_one_way: seconds(67),
            fin_wait: seconds(79),
            close_wait: seconds(97),
            time_wait: seconds(109),
            close: seconds(127),
            udp: seconds(139),
            udp_stream: seconds(151),
        };
        let (tcp, dr) = (
            Flow::tcp(9),
            Flow {
                mode: Mode::Dr,
                ..Flow::tcp(9)
            },
        );
        let udp = Flow { udp: true, ..tcp };
        // Packets, true from the client.
        let opened = [(true, SYN), (false, SYN | ACK), (true, ACK)];
        let after = |more: &[(bool, u8)]| [&opened[..], more].concat();
        let end = FIN | ACK;
        let cases = [
            (tcp, opened[..1].to_vec(), configured.syn_sent),
            (tcp, opened[..2].to_vec(), configured.syn_recv),
            (tcp, opened.to_vec(), configured.established),
            (
                dr,
                vec![opened[0], opened[2]],
                configured.established_one_way,
            ),
            (tcp, after(&[(true, end)]), configured.fin_wait),
            (dr, vec![opened[0], (true, end)], configured.fin_wait),
            (
                tcp,
                after(&[(true, end), (false, ACK)]),
                configured.close_wait,
            ),
            (
                tcp,
                after(&[(false, end), (true, ACK)]),
                configured.close_wait,
            ),
            (
                tcp,
                after(&[(true, end), (false, end)]),
                configured.time_wait,
            ),
            (tcp, after(&[(false, RST)]), configured.close),
            (udp, vec![(true, 0), (false, 0)], configured.udp),
            (
                udp,
                vec![(true, 0), (false, 0), (true, 0)],
                configured.udp_stream,
            ),
        ];
        for (flow, packets, timeout) in cases {
            let mut world = World::new(16);
            let timeouts = Timeouts::new(configured.clone(), Arc::default());
            world.sweep.set_timeouts(timeouts);
            // Those at the start are in force for the first pass.
            world.pass();
            assert!(world.open(flow));
            for (from_client, flags) in &packets {
                // What was heard later says which side has closed first.
                world.wait(TICK);
                let key = if *from_client {
                    flow.key()
                } else {
                    flow.reply_key()
                };
                assert!(world.packet(&key, *flags));
            }
            let lived = lifetime(&mut world, flow);
            let slack = seconds(u64::from(ESTABLISHED_STRIDE) + 2);
            assert!(
                lived >= timeout - seconds(1) && lived <= timeout + slack,
                "{packets:?}: {lived:?} in place of {timeout:?}"
            );
        }
    }

    #[test]
    fn a_full_table_loses_what_is_not_established_first() {
        let mut world = World::new(64);
        for id in 0..100 {
            let flow = Flow::tcp(id);
            world.handshake(flow);
            if id >= 20 {
                world.packet(&flow.key(), FIN | ACK);
                world.packet(&flow.reply_key(), FIN | ACK);
            }
        }
        world.passes(90);
        assert!(
            world.used() < 150,
            "closed sessions go after less than 120 s: {}",
            world.used()
        );
        for id in 0..20 {
            assert!(world.finds(&Flow::tcp(id).key()), "established ones stay");
        }
    }

    #[test]
    fn a_flood_drives_out_its_own_and_no_established_session() {
        let mut world = World::new(512);
        for id in 0..100 {
            world.handshake(Flow::tcp(id));
        }
        // Lines for 1024 sessions, and many more half-open ones and single packets in a second.
        let (mut next, mut opened) = (100, 0);
        for _ in 0..200 {
            for _ in 0..10 {
                let flow = Flow {
                    id: next,
                    udp: next % 2 == 0,
                    mode: Mode::Fullnat,
                };
                opened += u32::from(world.open(flow));
                next += 1;
            }
            world.wait(Duration::from_millis(10));
            for _ in 0..6 {
                let table = Table::new(&world.lines, SEED);
                world.sweep.step(table, world.now, 16);
            }
        }
        for id in 0..100 {
            assert!(world.finds(&Flow::tcp(id).key()), "established: {id}");
        }
        assert!(
            opened > 1_950,
            "{opened} of 2000 new flows found room: others went for them"
        );
        world.passes(3);
        assert!(world.used() < 1_600, "{} lines in use", world.used());
    }

    #[test]
    fn sessions_of_what_was_removed_end() {
        const NOWHERE: u32 = (LINK_NOWHERE as u32) << LINK_SHIFT;
        for all in [true, false] {
            let mut world = World::new(64);
            // Of these the listeners are 2 and 1.
            let [ended, spared] = [Flow::tcp(1), Flow::tcp(3)];
            let half_open = Flow::tcp(4);
            let udp = Flow {
                udp: true,
                ..Flow::tcp(7)
            };
            world.handshake(ended);
            world.handshake(spared);
            assert!(world.open(half_open) && world.open(udp));
            for _ in 0..3 {
                world.packet(&udp.key(), 0);
                world.packet(&udp.reply_key(), 0);
            }
            let mut policies = Policies::default();
            if all {
                policies.end_backend(7, true);
            } else {
                policies.end_listener(2, true);
            }
            world.sweep.set_ending(policies.ending());
            world.pass();
            let line = |world: &World, flow: Flow| {
                let index = world
                    .table()
                    .find(&flow.key(), &world.table().place(&flow.key()));
                let line = &world.lines[index.unwrap() as usize];
                (line.is_ended(), line.meta().0 & LINK_MASK == NOWHERE)
            };
            assert_eq!(line(&world, ended), (true, true));
            assert_eq!(line(&world, spared), (all, all));
            for flow in [udp, half_open] {
                assert!(!world.finds(&flow.key()) && !world.finds(&flow.reply_key()));
            }
            // A program wrote the next hop that it was about to write.
            let key = ended.key();
            let index = world
                .table()
                .find(&key, &world.table().place(&key))
                .unwrap();
            world.lines[index as usize]
                .meta
                .fetch_and(!LINK_MASK, AcqRel);
            // Also when nobody knows any more why it ended.
            world.sweep.set_ending(Arc::default());
            world.pass();
            assert_eq!(line(&world, ended), (true, true));
            assert!(
                world.finds(&ended.reply_key()),
                "the backend's packets pass"
            );
            // The client was told: the program counts that as its FIN.
            world.packet(&key, FIN);
            world.passes(130);
            assert!(!world.finds(&key) && !world.finds(&ended.reply_key()));
            assert_eq!(world.totals.orphans, 0);
        }
    }

    #[test]
    fn packets_of_either_direction_keep_a_session() {
        let mut world = World::new(16);
        let flow = Flow {
            udp: true,
            ..Flow::tcp(1)
        };
        assert!(world.open(flow));
        for round in 0..100 {
            let key = if round % 2 == 0 {
                flow.key()
            } else {
                flow.reply_key()
            };
            assert!(world.packet(&key, 0), "round {round}");
            world.passes(25);
        }
        assert_eq!(world.totals.tally.listener(flow.listener()).packets_in, 50);
        assert_eq!(world.totals.tally.listener(flow.listener()).packets_out, 50);
    }

    #[test]
    fn a_line_rests_before_it_is_given_out_again() {
        let mut world = World::new(4);
        let flow = Flow::tcp(1);
        world.handshake(flow);
        // As the program does with a session that it schedules anew.
        world.retire(&flow.key());
        world.retire(&flow.reply_key());
        for _ in 0..4 {
            world.step();
        }
        assert_eq!(world.used(), 2, "no time has passed");
        world.wait(GRACE - Duration::from_nanos(1));
        world.step();
        assert_eq!(world.used(), 2);
        world.wait(Duration::from_nanos(1));
        world.step();
        assert_eq!(world.used(), 0);
        world.passes(2);
        assert_eq!(
            world.totals.tally.listener(flow.listener()).packets_in,
            2,
            "counted, though nobody saw it live"
        );
    }

    /// Both tables, with one session of an IPv6 client and an IPv4 backend.
    struct Across {
        lines4: Vec<Line<V4>>,
        lines6: Vec<Line<V6>>,
        sweep4: Sweep<V4>,
        sweep6: Sweep<V6>,
        totals: Passed,
        now: Now,
    }

    impl Across {
        const CLIENT: FlowKey6 = FlowKey6 {
            src: Addr6 { high: 1, low: 2 },
            dst: Addr6 { high: 3, low: 4 },
            ports: 0x5000_0007,
            udp: false,
        };
        const REPLY: FlowKey4 = FlowKey4 {
            src: 0x0b00_0001,
            dst: 0x0c00_0001,
            ports: 0x0009_901f,
            udp: false,
        };

        fn new() -> Self {
            let sets = 16;
            let lines = sets as usize * LINES;
            let mut world = Self {
                lines4: (0..lines).map(|_| Line::default()).collect(),
                lines6: (0..lines).map(|_| Line::default()).collect(),
                sweep4: Sweep::new(sets, lines as u64, Timeouts::default()),
                sweep6: Sweep::new(sets, lines as u64, Timeouts::default()),
                totals: Passed::default(),
                now: World::new(1).now,
            };
            world.pass();
            let bits = OCCUPIED | LIVE | ACROSS | (Mode::Tunnel as u32) << MODE_SHIFT;
            let (client, reply) = (Self::CLIENT, Self::REPLY);
            let number = world.table6().place(&client).lines().next().unwrap();
            let line = &world.lines6[number as usize];
            V6::store(&line.src, client.src);
            V6::store(&line.dst, client.dst);
            line.ports.store(client.ports, Relaxed);
            V6::store(&line.new_src, Addr6::from_words(mapped(reply.dst)));
            V6::store(&line.new_dst, Addr6::from_words(mapped(reply.src)));
            line.new_ports.store(reply.ports.rotate_left(16), Relaxed);
            line.last_seen.store(world.now.jiffies, Relaxed);
            line.meta.store(bits, Release);
            let at = world.table4().place(&reply).lines().next().unwrap();
            let line = &world.lines4[at as usize];
            V4::store(&line.src, reply.src);
            V4::store(&line.dst, reply.dst);
            line.ports.store(reply.ports, Relaxed);
            V4::store(&line.new_src, number + 1);
            line.new_ports.store(client.ports.rotate_left(16), Relaxed);
            line.last_seen.store(world.now.jiffies, Relaxed);
            line.meta.store(bits | REVERSE, Release);
            world
        }

        fn table4(&self) -> Table<'_, V4> {
            Table::new(&self.lines4, SEED).beside(&self.lines6)
        }

        fn table6(&self) -> Table<'_, V6> {
            Table::new(&self.lines6, SEED).beside(&self.lines4)
        }

        /// One pass of both, a second long.
        fn pass(&mut self) {
            self.now.monotonic += Duration::from_secs(1);
            let jiffies = self.now.monotonic.as_nanos() / TICK.as_nanos();
            self.now.jiffies = FIRST_JIFFIES.wrapping_add(jiffies as u32);
            let table4 = Table::new(&self.lines4, SEED).beside(&self.lines6);
            let v4 = self.sweep4.step(table4, self.now, u32::MAX).unwrap();
            let table6 = Table::new(&self.lines6, SEED).beside(&self.lines4);
            let v6 = self.sweep6.step(table6, self.now, u32::MAX).unwrap();
            self.totals = Passed::new(v4, v6);
        }

        fn packet<F: Cells>(&self, table: Table<'_, F>, key: &FlowKey<F>, flags: u8) {
            let index = table.find(key, &table.place(key)).unwrap();
            let line = &table.lines()[index as usize];
            line.last_seen.store(self.now.jiffies, Relaxed);
            line.packets.fetch_add(1, Relaxed);
            line.meta.fetch_or(u32::from(flags) << SEEN_SHIFT, AcqRel);
        }

        fn request(&self, flags: u8) {
            self.packet(self.table6(), &Self::CLIENT, flags);
        }

        fn reply(&self, flags: u8) {
            self.packet(self.table4(), &Self::REPLY, flags);
        }

        /// Lines in use in both tables.
        fn used(&self) -> [usize; 2] {
            [
                self.lines4
                    .iter()
                    .filter(|line| line.meta().is_occupied())
                    .count(),
                self.lines6
                    .iter()
                    .filter(|line| line.meta().is_occupied())
                    .count(),
            ]
        }

        /// Seconds until no line is in use.
        fn lifetime(&mut self) -> u32 {
            let mut seconds = 0;
            while self.used() != [0, 0] {
                self.pass();
                seconds += 1;
            }
            seconds
        }
    }

    #[test]
    fn a_session_with_a_line_in_each_table_lives_by_what_both_have_seen() {
        let slack = |lifetime: u32, expected: u32| {
            assert!(
                (expected..expected + 20).contains(&lifetime),
                "{lifetime} s instead of {expected}"
            );
        };
        let mut world = Across::new();
        world.request(SYN);
        slack(world.lifetime(), 120);

        let mut world = Across::new();
        world.request(SYN);
        world.reply(SYN | ACK);
        slack(world.lifetime(), 60);

        let mut world = Across::new();
        world.request(SYN | ACK);
        world.reply(SYN | ACK);
        for _ in 0..1000 {
            world.pass();
        }
        assert_eq!(world.used(), [1, 1]);
        assert_eq!((world.totals.v4.sessions, world.totals.v6.sessions), (0, 1));
        let count = world.totals.tally.listener(0);
        assert_eq!(
            (count.sessions, count.packets_in, count.packets_out),
            (1, 1, 1)
        );
        world.request(FIN);
        world.reply(FIN);
        slack(world.lifetime(), 120);
        assert_eq!((world.totals.v4.expired, world.totals.v6.expired), (0, 1));
        assert_eq!((world.totals.v4.orphans, world.totals.v6.orphans), (0, 0));
    }

    #[test]
    fn a_line_whose_peer_in_the_other_table_is_gone_is_removed() {
        for reverse in [false, true] {
            let mut world = Across::new();
            world.request(SYN | ACK);
            world.reply(SYN | ACK);
            if reverse {
                let index = world
                    .table6()
                    .place(&Across::CLIENT)
                    .lines()
                    .next()
                    .unwrap();
                let line = &world.lines6[index as usize];
                assert!(line.retire(line.meta()));
            } else {
                let index = world.table4().place(&Across::REPLY).lines().next().unwrap();
                let line = &world.lines4[index as usize];
                assert!(line.retire(line.meta()));
            }
            // Only lines that are idle for a while are looked at.
            let lifetime = world.lifetime();
            assert!(lifetime < 60, "{lifetime} s");
            let orphans = (world.totals.v4.orphans, world.totals.v6.orphans);
            assert_eq!(orphans, if reverse { (1, 0) } else { (0, 1) });
        }
    }

    #[test]
    fn a_session_with_a_line_in_each_table_is_listed_as_one() {
        let mut world = Across::new();
        world.request(SYN | ACK);
        world.reply(SYN | ACK);
        world.pass();
        let mut found = Vec::new();
        let (timeouts, filter) = (Timeouts::default(), NumberFilter::default());
        let search4 = Search {
            table: world.table4(),
            now: world.now,
            timeouts: &timeouts,
            filter: &filter,
        };
        let search6 = Search {
            table: world.table6(),
            now: world.now,
            timeouts: &timeouts,
            filter: &filter,
        };
        assert_eq!(search4.list(0, 2, &mut found, None), None);
        assert_eq!(search6.list(0, 2, &mut found, None), None);
        let [Found { session, .. }] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(session.forward, Forward::Fullnat);
        assert_eq!(session.state, State::Established);
        assert_eq!((session.packets_in, session.packets_out), (1, 1));
        let local = V4::ip(Across::REPLY.dst);
        assert_eq!(session.local.unwrap().ip(), local);
        assert_eq!(session.client.ip(), V6::ip(Across::CLIENT.src));
    }

    #[test]
    fn a_line_without_its_peer_is_removed() {
        for reverse in [false, true] {
            let mut world = World::new(16);
            let flow = Flow::tcp(3);
            world.handshake(flow);
            world.retire(&if reverse {
                flow.key()
            } else {
                flow.reply_key()
            });
            world.passes(10 + 2 * REVERSE_STRIDE + 4);
            assert_eq!(
                (world.used(), world.totals.orphans),
                (0, 1),
                "the reverse line is left: {reverse}"
            );
        }
    }

    #[test]
    fn a_session_half_opened_in_this_moment_is_no_orphan() {
        let mut world = World::new(16);
        let flow = Flow::tcp(3);
        assert!(world.write(flow.reply_key(), flow.key().reversed(), flow, REVERSE));
        world.passes(2);
        assert!(world.write(flow.key(), flow.rewritten(), flow, 0));
        world.passes(30);
        assert!(world.finds(&flow.key()) && world.finds(&flow.reply_key()));
    }

    #[test]
    fn marks_go_when_no_flow_needs_them() {
        let mut world = World::new(8);
        let flows: Vec<Flow> = (0..14).map(Flow::tcp).collect();
        for flow in &flows {
            world.handshake(*flow);
        }
        let marked = |world: &World| {
            world
                .lines
                .iter()
                .filter(|line| line.meta().0 & PASSED != 0)
                .count()
        };
        assert!(marked(&world) > 0);
        world.passes(2 * MARKS_STRIDE);
        for flow in &flows {
            assert!(
                world.finds(&flow.key()) && world.finds(&flow.reply_key()),
                "{flow:?}"
            );
            world.retire(&flow.key());
            world.retire(&flow.reply_key());
        }
        world.passes(2 * MARKS_STRIDE + 2);
        assert_eq!((world.used(), marked(&world)), (0, 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open(u16, bool, bool),
        Packet(u16, bool, u8),
        Reset(u16),
        Wait(u64),
        Sweep(u8),
        Passes(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let flags = prop_oneof![
            Just(SYN),
            Just(SYN | ACK),
            Just(ACK),
            Just(FIN | ACK),
            Just(RST)
        ];
        let step = prop_oneof![
            4 => (0u16..40, any::<bool>(), any::<bool>()).prop_map(|(id, udp, one_way)| Step::Open(id, udp, one_way)),
            8 => (0u16..40, any::<bool>(), flags).prop_map(|(id, reply, flags)| Step::Packet(id, reply, flags)),
            1 => (0u16..40).prop_map(Step::Reset),
            2 => (0u64..70_000).prop_map(Step::Wait),
            4 => (1u8..16).prop_map(Step::Sweep),
            1 => (1u8..80).prop_map(Step::Passes),
        ];
        prop::collection::vec(step, 1..120)
    }

    /// What the model knows of a session.
    struct Known {
        flow: Flow,
        last_packet: Duration,
        /// The client has answered the backend: until then, only its own packets keep a session of TCP.
        confirmed: bool,
    }

    proptest! {
        /// Against a model that remembers every session and every packet. However program and sweep take turns:
        /// a session is there until it was idle for its timeout, and every packet is counted once.
        #[test]
        fn no_session_ends_early_and_no_packet_is_lost(steps in steps()) {
            let mut world = World::new(8);
            let mut known: HashMap<u16, Known> = HashMap::new();
            let mut packets: HashMap<u16, [u64; 2]> = HashMap::new();
            let mut counted: HashMap<u16, Count> = HashMap::new();
            for step in steps {
                match step {
                    Step::Open(id, udp, one_way) if !known.contains_key(&id) => {
                        let mode = if one_way { Mode::Dr } else { Mode::Fullnat };
                        let flow = Flow { id, udp, mode };
                        if world.open(flow) {
                            known.insert(id, Known { flow, last_packet: world.now.monotonic, confirmed: udp });
                        }
                    }
                    Step::Packet(id, reply, flags) => {
                        let Some(session) = known.get_mut(&id) else { continue };
                        let reply = reply && session.flow.has_reply();
                        let key = if reply { session.flow.reply_key() } else { session.flow.key() };
                        prop_assert!(world.packet(&key, flags), "{:?} has no line", session.flow);
                        session.confirmed |= !reply && flags & (ACK | FIN | RST) != 0;
                        if session.confirmed || !reply {
                            session.last_packet = world.now.monotonic;
                        }
                        packets.entry(session.flow.listener()).or_default()[usize::from(reply)] += 1;
                    }
                    Step::Reset(id) => {
                        let Some(session) = known.remove(&id) else { continue };
                        world.retire(&session.flow.key());
                        if session.flow.has_reply() {
                            world.retire(&session.flow.reply_key());
                        }
                    }
                    Step::Wait(milliseconds) => world.wait(Duration::from_millis(milliseconds)),
                    Step::Sweep(sets) => for _ in 0..sets {
                        world.step();
                    },
                    Step::Passes(count) => world.passes(u32::from(count)),
                    Step::Open(..) => {}
                }
                let now = world.now.monotonic;
                // The table is small, so that it is often nearly full.
                let least = |udp: bool| Timeouts::default().under(1.0).least(udp);
                known.retain(|_, session| {
                    let here = world.finds(&session.flow.key())
                        && (!session.flow.has_reply() || world.finds(&session.flow.reply_key()));
                    assert!(
                        here || now - session.last_packet >= least(session.flow.udp),
                        "{:?} ended after {:?}", session.flow, now - session.last_packet
                    );
                    here
                });
                for listener in 1..=3 {
                    let count = world.totals.tally.listener(listener);
                    let before = counted.insert(listener, count).unwrap_or_default();
                    prop_assert!(count.packets_in >= before.packets_in && count.packets_out >= before.packets_out);
                    let [to, from] = packets.get(&listener).copied().unwrap_or_default();
                    prop_assert!(count.packets_in <= to && count.packets_out <= from, "counted twice");
                }
            }
            world.passes(3);
            for listener in 1..=3 {
                let count = world.totals.tally.listener(listener);
                let [to, from] = packets.get(&listener).copied().unwrap_or_default();
                prop_assert_eq!((count.packets_in, count.packets_out), (to, from));
                prop_assert_eq!((count.bytes_in, count.bytes_out), (100 * to, 100 * from));
            }
            let live: u64 = (1..=3).map(|listener| world.totals.tally.listener(listener).sessions).sum();
            prop_assert_eq!(live, world.totals.sessions);
        }
    }
}

//! Time for a worker: a coarse clock and one deadline per connection, both driven by one tick.
//!
//! A timer per request would cost more than parsing it. A connection waits for one thing at a time, so one deadline
//! is enough; setting it is a store, and the tick looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at. They fire up to two ticks late, never early.
pub(crate) const TICK: Duration = Duration::from_millis(50);
const TICK_MS: u64 = 50;
/// A tick that comes later than this was held up: by a stopped process, or a machine without time for it.
const STALL_MS: u64 = 2 * TICK_MS;

/// What a connection is doing, as far as a drain treats it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between two requests: it may be closed.
    Idle,
    /// At work.
    Busy,
}

#[derive(Debug)]
struct Slot {
    deadline_ms: u64,
    /// No deadline is later than this; `NEVER` where there is no such bound.
    limit_ms: u64,
    waker: Option<Waker>,
    expired: bool,
    phase: Phase,
    listener: usize,
}

/// The clock and the deadlines of one worker.
#[derive(Debug)]
pub(crate) struct Deadlines {
    started: Instant,
    now_ms: Cell<u64>,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

const NEVER: u64 = u64::MAX;

impl Deadlines {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            now_ms: Cell::new(0),
            slots: RefCell::default(),
        }
    }

    /// Milliseconds since the start, at the last tick.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Moves the clock and wakes those whose time is over. Time in which nothing here could run counts for nobody:
    /// what was set after it, by the clock of the tick before, would be over at once.
    pub(crate) fn tick(&self, now: Instant) {
        let now_ms =
            u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(NEVER - 1);
        let elapsed = now_ms.saturating_sub(self.now_ms.replace(now_ms));
        let surplus = if elapsed > STALL_MS {
            elapsed - TICK_MS
        } else {
            0
        };
        let mut slots = self.slots.borrow_mut();
        for slot in &mut slots.all {
            if surplus > 0 && slot.deadline_ms != NEVER {
                slot.deadline_ms = slot.deadline_ms.saturating_add(surplus).min(NEVER - 1);
                if slot.limit_ms != NEVER {
                    slot.limit_ms = slot.limit_ms.saturating_add(surplus).min(NEVER - 1);
                }
            }
            if slot.deadline_ms <= now_ms {
                slot.deadline_ms = NEVER;
                slot.expired = true;
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Leaves connections that are between two requests, of one listener or of all, only so much more time.
    pub(crate) fn hasten_idle(&self, listener: Option<usize>, left: Duration) {
        let deadline_ms = self.deadline(left);
        for slot in &mut self.slots.borrow_mut().all {
            let concerned = listener.is_none_or(|listener| slot.listener == listener);
            if concerned && slot.waker.is_some() && slot.phase == Phase::Idle && !slot.expired {
                slot.deadline_ms = slot.deadline_ms.min(deadline_ms);
            }
        }
    }

    fn deadline(&self, timeout: Duration) -> u64 {
        // The clock may be a tick behind.
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(NEVER / 2);
        self.now_ms
            .get()
            .saturating_add(timeout_ms.saturating_add(TICK_MS))
            .min(NEVER - 1)
    }
}

/// One connection's deadline.
#[derive(Debug)]
pub(crate) struct Watch {
    deadlines: Rc<Deadlines>,
    slot: usize,
}

impl Watch {
    /// A watch for the task that calls, a connection of `listener`, without a deadline yet.
    pub(crate) fn new(deadlines: &Rc<Deadlines>, listener: usize, cx: &Context<'_>) -> Self {
        let mut slots = deadlines.slots.borrow_mut();
        let waker = Some(cx.waker().clone());
        let fresh = Slot {
            deadline_ms: NEVER,
            limit_ms: NEVER,
            waker,
            expired: false,
            phase: Phase::Busy,
            listener,
        };
        let slot = if let Some(slot) = slots.free.pop() {
            slots.all[slot] = fresh;
            slot
        } else {
            slots.all.push(fresh);
            slots.all.len() - 1
        };
        drop(slots);
        Self {
            deadlines: Rc::clone(deadlines),
            slot,
        }
    }

    /// Sets the deadline, in place of the one before.
    pub(crate) fn arm(&self, timeout: Duration, phase: Phase) {
        let slot = &mut self.deadlines.slots.borrow_mut().all[self.slot];
        slot.deadline_ms = self.deadlines.deadline(timeout).min(slot.limit_ms);
        slot.expired = false;
        slot.phase = phase;
    }

    /// Bounds all deadlines that are set from now on: whatever is waited for, it is over after this time. `None` takes
    /// the bound away.
    pub(crate) fn limit(&self, timeout: Option<Duration>) {
        let slot = &mut self.deadlines.slots.borrow_mut().all[self.slot];
        slot.limit_ms = timeout.map_or(NEVER, |timeout| self.deadlines.deadline(timeout));
    }

    /// Whether the bound has passed.
    pub(crate) fn is_over_limit(&self) -> bool {
        let limit_ms = self.deadlines.slots.borrow().all[self.slot].limit_ms;
        limit_ms <= self.deadlines.now_ms.get()
    }

    /// Whether the deadline has passed. The next [`Self::arm`] forgets it.
    pub(crate) fn is_expired(&self) -> bool {
        self.deadlines.slots.borrow().all[self.slot].expired
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.deadlines.slots.borrow_mut();
        let slot = &mut slots.all[self.slot];
        slot.deadline_ms = NEVER;
        slot.limit_ms = NEVER;
        slot.waker = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_after_the_timeout_and_once() {
        let start = Instant::now();
        let deadlines = Rc::new(Deadlines::new(start));
        let cx = Context::from_waker(Waker::noop());
        let watch = Watch::new(&deadlines, 0, &cx);
        watch.arm(Duration::from_millis(100), Phase::Busy);
        deadlines.tick(start + Duration::from_millis(100));
        assert!(!watch.is_expired());
        deadlines.tick(start + Duration::from_millis(150));
        assert!(watch.is_expired());
        watch.arm(Duration::from_millis(100), Phase::Busy);
        assert!(!watch.is_expired());
    }

    #[test]
    fn a_limit_bounds_what_is_set_after_it() {
        let start = Instant::now();
        let deadlines = Rc::new(Deadlines::new(start));
        let cx = Context::from_waker(Waker::noop());
        let watch = Watch::new(&deadlines, 0, &cx);
        watch.limit(Some(Duration::from_millis(100)));
        for tick in 1..=2 {
            watch.arm(Duration::from_secs(60), Phase::Busy);
            deadlines.tick(start + tick * TICK);
            assert!(!watch.is_expired() && !watch.is_over_limit());
        }
        deadlines.tick(start + 3 * TICK);
        assert!(watch.is_expired() && watch.is_over_limit());
        watch.limit(None);
        watch.arm(Duration::from_secs(60), Phase::Busy);
        deadlines.tick(start + 4 * TICK);
        assert!(!watch.is_expired() && !watch.is_over_limit());
    }

    #[test]
    fn a_stall_counts_for_nobody() {
        let start = Instant::now();
        let deadlines = Rc::new(Deadlines::new(start));
        let cx = Context::from_waker(Waker::noop());
        let before = Watch::new(&deadlines, 0, &cx);
        let never = Watch::new(&deadlines, 0, &cx);
        before.arm(Duration::from_millis(200), Phase::Busy);
        deadlines.tick(start + TICK);
        let awake = start + TICK + Duration::from_secs(100);
        // The clock is still that of the tick before the stall.
        let after = Watch::new(&deadlines, 0, &cx);
        after.arm(Duration::from_millis(300), Phase::Busy);
        let expired = || (before.is_expired(), after.is_expired());
        deadlines.tick(awake);
        assert_eq!(expired(), (false, false));
        for tick in 1..=5 {
            deadlines.tick(awake + tick * TICK);
            assert!(!after.is_expired());
        }
        assert_eq!(expired(), (true, false));
        deadlines.tick(awake + 6 * TICK);
        assert_eq!(expired(), (true, true));
        assert!(!never.is_expired());
    }

    #[test]
    fn only_idle_connections_of_the_listener_are_hastened() {
        let start = Instant::now();
        let deadlines = Rc::new(Deadlines::new(start));
        let cx = Context::from_waker(Waker::noop());
        let watches: Vec<Watch> = [0, 0, 1]
            .iter()
            .map(|listener| Watch::new(&deadlines, *listener, &cx))
            .collect();
        let hour = Duration::from_secs(3600);
        watches[0].arm(hour, Phase::Idle);
        watches[1].arm(hour, Phase::Busy);
        watches[2].arm(hour, Phase::Idle);
        deadlines.hasten_idle(Some(0), Duration::from_millis(100));
        for tick in 1..=4 {
            deadlines.tick(start + tick * TICK);
        }
        assert_eq!(
            watches.iter().map(Watch::is_expired).collect::<Vec<_>>(),
            [true, false, false]
        );
    }

    #[test]
    fn slots_are_used_again() {
        let deadlines = Rc::new(Deadlines::new(Instant::now()));
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..10 {
            drop(Watch::new(&deadlines, 0, &cx));
        }
        assert_eq!(deadlines.slots.borrow().all.len(), 1);
    }
}

//! One worker: a thread with a current-thread runtime, its own listening sockets, buffers, deadlines and upstream
//! connections. Workers share the plan, which none of them writes.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::Notify;

use crate::access_log::Lines;
use crate::buffer::BufferPool;
use crate::deadlines::{Deadlines, TICK};
use crate::downstream::StreamTasks;
use crate::edits::RequestId;
use crate::listener::LocalListener;
use crate::plan::{HeldPlan, ListenerPlan, Plan};
use crate::tls::Renewals;
use crate::upstream::LocalPool;

/// Bytes that are read at once. Large bodies cost less than with 32 KiB, small ones the same (`bench l7`).
const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers that a worker keeps while nobody uses them: 8 MiB.
const BUFFERS_KEPT_MAX: usize = 128;
const TICKS_PER_SECOND: u32 = 20;
/// Failures that a worker logs in a second. Each is counted anyway; a log that waits for its disk must not hold up
/// the requests that do not fail.
const LOG_PER_SECOND: u32 = 100;
/// What a connection between two requests is left when its listener closes: time for a request that is on its way.
pub(crate) const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What the engine and its workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What all clocks count from.
    pub(crate) started: Instant,
    pub(crate) plan: ArcSwap<Plan>,
    /// Counts up after each change of `plan`.
    pub(crate) generation: AtomicU64,
    pub(crate) draining: AtomicBool,
    /// How often files of TLS were taken over.
    pub(crate) renewals: Renewals,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            plan: ArcSwap::default(),
            generation: AtomicU64::default(),
            draining: AtomicBool::default(),
            renewals: Default::default(),
        }
    }
}

/// How the engine reaches a worker.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    commands: Mutex<Vec<Command>>,
    notify: Notify,
    /// Connections that are open, written by the worker at every change.
    pub(crate) active: AtomicUsize,
    /// Sockets that connections are still accepted from.
    pub(crate) listening: AtomicUsize,
}

/// What the engine asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve a socket as this listener. Sockets that served it before stop.
    Serve(Arc<ListenerPlan>, socket2::Socket),
    /// Look at the plan, and at whether a drain has begun.
    Refresh,
    /// End, whatever is under way.
    Stop,
}

impl Mailbox {
    /// Hands a command over. The queue is as long as config changes outrun the worker, which empties it at once.
    pub(crate) fn send(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A worker's view of all pools, by number.
pub(crate) type LocalPools = Rc<Vec<Option<Rc<LocalPool>>>>;

/// A worker's own state, shared by the tasks on its thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) buffers: Rc<BufferPool>,
    pub(crate) draining: Cell<bool>,
    /// Failures that may still be logged this second, and those that were not.
    log_left: Cell<u32>,
    unlogged: Cell<u64>,
    /// What the next connection's seed is made from.
    seed: Cell<u64>,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    generation: Cell<u64>,
    plan: RefCell<Arc<Plan>>,
    pools: RefCell<LocalPools>,
    /// Counts up with every request that several pools share.
    turns: Cell<u64>,
    /// Of the next request that is given one.
    request_id: Cell<RequestId>,
    /// Of access logs.
    pub(crate) lines: Lines,
    pub(crate) stream_tasks: StreamTasks,
    listeners: RefCell<Vec<Option<Rc<LocalListener>>>>,
}

impl Worker {
    /// The runtime of a worker: built where the error can still be told.
    pub(crate) fn runtime() -> std::io::Result<LocalRuntime> {
        Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // For slow signatures: as much time as the worker has itself, and no more.
            .max_blocking_threads(1)
            .thread_name("weir-l7-sign")
            .build_local(LocalOptions::default())
    }

    /// Serves until told to stop.
    pub(crate) async fn run(
        index: usize,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        lines: Lines,
    ) {
        let worker = Rc::new(Self {
            index,
            deadlines: Rc::new(Deadlines::new(shared.started)),
            buffers: Rc::new(BufferPool::new(BUFFER_BYTES, BUFFERS_KEPT_MAX)),
            draining: Cell::new(false),
            log_left: Cell::new(LOG_PER_SECOND),
            unlogged: Cell::new(0),
            seed: Cell::new(RandomState::new().hash_one(index)),
            shared,
            mailbox,
            generation: Cell::new(0),
            plan: RefCell::default(),
            pools: RefCell::default(),
            // Workers do not begin at the same side of a split.
            turns: Cell::new((index as u64) << 32),
            request_id: Cell::new(RequestId {
                worker: RandomState::new().hash_one(index),
                count: 0,
            }),
            lines,
            stream_tasks: StreamTasks::default(),
            listeners: RefCell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&worker).tick());
        loop {
            worker.mailbox.notify.notified().await;
            for command in worker.mailbox.take() {
                worker.refresh();
                match command {
                    Command::Serve(listener, socket) => worker.serve(listener, socket),
                    Command::Refresh => worker.begin_drain_if_told(),
                    Command::Stop => return,
                }
            }
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        loop {
            let now = interval.tick().await;
            self.deadlines.tick(now.into_std());
            self.lines.flush();
            for pool in self.pools.borrow().iter().flatten() {
                pool.yield_idle();
            }
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(TICKS_PER_SECOND) {
                self.renew_log();
                self.stream_tasks.reap();
                for pool in self.pools.borrow().iter().flatten() {
                    pool.reap(self.deadlines.now_ms());
                }
            }
        }
    }

    /// The turn of a request that several pools share.
    pub(crate) fn turn(&self) -> u64 {
        let turn = self.turns.get();
        self.turns.set(turn.wrapping_add(1));
        turn
    }

    /// A number for a request.
    pub(crate) fn request_id(&self) -> RequestId {
        let id = self.request_id.get();
        self.request_id.set(RequestId {
            count: id.count + 1,
            ..id
        });
        id
    }

    /// A number that no other connection gets, and that others do not know.
    pub(crate) fn next_seed(&self) -> u64 {
        self.seed.set(self.seed.get().wrapping_add(1 << 32));
        self.seed.get()
    }

    /// Whether one more failure may be logged.
    pub(crate) fn may_log(&self) -> bool {
        let left = self.log_left.get();
        if left == 0 {
            self.unlogged.set(self.unlogged.get() + 1);
        } else {
            self.log_left.set(left - 1);
        }
        left > 0
    }

    fn renew_log(&self) {
        self.log_left.set(LOG_PER_SECOND);
        let unlogged = self.unlogged.take();
        if unlogged > 0 {
            tracing::warn!(
                failures = unlogged,
                "more failures than are logged one by one"
            );
        }
    }

    /// Takes over the newest plan. Called before each request is routed: a committed change counts from the next
    /// request on, without waiting for the worker to be told.
    pub(crate) fn refresh(&self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation.get() {
            self.generation.set(generation);
            self.take_over(self.shared.plan.load_full());
        }
    }

    #[cold]
    fn take_over(&self, plan: Arc<Plan>) {
        let before = self.pools.borrow().clone();
        let count = plan.pools.len().max(before.len());
        let now = |number: usize| {
            let old = before.get(number).and_then(Option::as_ref);
            let Some(new) = plan.pools.get(number).and_then(Option::as_ref) else {
                old.inspect(|old| old.retire());
                return None;
            };
            match old {
                Some(old) if Arc::ptr_eq(new, &old.plan) => Some(Rc::clone(old)),
                old => Some(Rc::new(LocalPool::new(
                    new,
                    old.map(|old| &**old),
                    self.index,
                ))),
            }
        };
        self.pools.replace(Rc::new((0..count).map(now).collect()));
        let mut listeners = self.listeners.borrow_mut();
        let mut heirs = Vec::new();
        for slot in listeners.iter_mut() {
            let Some(listener) = slot else { continue };
            let key = listener.plan.borrow().socket_key();
            match plan.listener(listener.number) {
                Some(new) if new.socket_key() == key => {
                    listener.plan.replace(Rc::new(HeldPlan(Arc::clone(new))));
                }
                _ => {
                    let heir = plan
                        .listener_at(key)
                        .map(|heir| Rc::new(LocalListener::new(Arc::clone(heir), self.index)));
                    heirs.extend(heir.clone());
                    listener.keep_pools(Rc::clone(&before));
                    self.close(listener, heir);
                    *slot = None;
                }
            }
        }
        for heir in heirs {
            let number = heir.number;
            put(&mut listeners, number, heir);
        }
        drop(listeners);
        *self.plan.borrow_mut() = plan;
    }

    /// Serves a socket that was bound for a listener of the plan that was committed with it. A newer plan may have
    /// come in the meantime: then the socket goes to whoever has its address now.
    fn serve(self: &Rc<Self>, planned: Arc<ListenerPlan>, socket: socket2::Socket) {
        let current = self
            .plan
            .borrow()
            .listener_at(planned.socket_key())
            .cloned();
        let is_current = current.is_some();
        let listener = Rc::new(LocalListener::new(current.unwrap_or(planned), self.index));
        if is_current {
            let mut listeners = self.listeners.borrow_mut();
            if let Some(before) = put(&mut listeners, listener.number, Rc::clone(&listener)) {
                self.close(&before, None);
            }
        } else {
            listener.close(None);
        }
        LocalListener::start(self, listener, socket);
    }

    fn close(&self, listener: &LocalListener, heir: Option<Rc<LocalListener>>) {
        listener.close(heir);
        self.deadlines
            .hasten_idle(Some(listener.number), IDLE_GRACE);
    }

    fn begin_drain_if_told(&self) {
        if self.shared.draining.load(Ordering::Acquire) && !self.draining.replace(true) {
            for listener in self.listeners.borrow().iter().flatten() {
                listener.close(None);
            }
            self.deadlines.hasten_idle(None, IDLE_GRACE);
        }
    }

    /// The pool that a listener's routes call by this number. One that is not served any more goes by the pools of
    /// its last day. Where no backend of the pool takes new work, a backup that has one.
    pub(crate) fn pool(&self, listener: &LocalListener, number: usize) -> Option<Rc<LocalPool>> {
        let pools = match listener.kept_pools() {
            Some(pools) => pools,
            None => self.pools.borrow().clone(),
        };
        let pool = |number: usize| pools.get(number)?.as_ref();
        let own = pool(number)?;
        let mut taker = own;
        // A config has no chains of backups that lead back.
        while !taker.plan.takes_work {
            match taker.plan.backup.and_then(pool) {
                Some(backup) => taker = backup,
                None => return Some(Rc::clone(own)),
            }
        }
        Some(Rc::clone(taker))
    }

    /// Counts a connection, until the guard is dropped.
    pub(crate) fn count_connection(
        self: &Rc<Self>,
        listener: &Rc<LocalListener>,
    ) -> ConnectionGuard {
        self.mailbox.active.fetch_add(1, Ordering::Relaxed);
        listener.counters().connections.add(1);
        listener.counters().connections_active.add(1);
        ConnectionGuard {
            worker: Rc::clone(self),
            listener: Rc::clone(listener),
        }
    }

    /// Counts a listening socket, until the guard is dropped.
    pub(crate) fn count_listening(self: &Rc<Self>) -> ListeningGuard {
        self.mailbox.listening.fetch_add(1, Ordering::Relaxed);
        ListeningGuard {
            worker: Rc::clone(self),
        }
    }

    /// Connections that are open on this worker.
    pub(crate) fn active(&self) -> usize {
        self.mailbox.active.load(Ordering::Relaxed)
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.worker.mailbox.active.fetch_sub(1, Ordering::Relaxed);
        self.listener.counters().connections_active.sub(1);
    }
}

/// A listening socket, counted.
#[derive(Debug)]
pub(crate) struct ListeningGuard {
    worker: Rc<Worker>,
}

impl Drop for ListeningGuard {
    fn drop(&mut self) {
        self.worker
            .mailbox
            .listening
            .fetch_sub(1, Ordering::Relaxed);
    }
}

fn put(
    listeners: &mut Vec<Option<Rc<LocalListener>>>,
    number: usize,
    listener: Rc<LocalListener>,
) -> Option<Rc<LocalListener>> {
    if listeners.len() <= number {
        listeners.resize(number + 1, None);
    }
    listeners[number].replace(listener)
}

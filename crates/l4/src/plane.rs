//! The L4 data plane: loaded, attached, following snapshots.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use weir_l4_common::client::CLIENTS;
use weir_l4_common::drop::Drop as DropReason;
use weir_l4_common::family::{V4, V6};
use weir_l4_common::link::{LINKS_MAP, LINKS_MAX};
use weir_l4_common::listeners::{ENTRIES, SLOTS};
use weir_l4_common::service::{BACKENDS_MAX, LISTENERS_MAX, Mode};
use weir_l4_common::session::LINES;
use weir_model::{BackendId, Forward, L4, Snapshot};

use crate::attach::Programs;
use crate::backends::Backends;
use crate::clock::{Clock, monotonic, tick};
use crate::counters::CounterMaps;
use crate::error::Error;
use crate::former::{self, Former};
use crate::line::{Cells, Line, Table};
use crate::links::Links;
use crate::listeners::ListenerTable;
use crate::lock::lock;
use crate::maps::KernelMaps;
use crate::memory::Mapped;
use crate::object::{
    LAYOUT, SCHEDULE_ELEMENTS, SESSIONS4, SESSIONS6, TableSizes, check_memory, keep, load, mapped,
    take,
};
use crate::pin::{Pins, namespace_cookie};
use crate::plan::{Change, Plan};
use crate::policies::Policies;
use crate::quic::QuicMaps;
use crate::record::Records;
use crate::schedulers::Schedulers;
use crate::session::{Cursor, CursorError, Filter, Found, Listing, NumberFilter, Search, Session};
use crate::spread;
use crate::state::Timeouts;
use crate::stats::{BackendStats, Counters, InterfaceStats, ListenerStats, Stats, TableStats};
use crate::sweep::{Now, Passed, Sweep, Totals};
use crate::tally::Count;
use crate::vlans::Vlans;
use crate::wake::Wake;
use crate::watch::{Order, Parts, Watch};

/// A preparing change waits so long for next hops of new backends; a neighbour answers in well under a millisecond…
const NEXT_HOP_WAIT: Duration = Duration::from_millis(200);
/// …and so much longer for each of them: the kernel is asked for one way after the other.
const NEXT_HOP_WAIT_EACH: Duration = Duration::from_micros(20);
/// One pass of the sweep through the table takes this long…
const PASS_INTERVAL: Duration = Duration::from_secs(1);
/// …in so many steps.
const PASS_STEPS: u32 = 100;
/// After a step the sweep rests for at least so many times as long as the step took: a table too large to go through
/// in time takes more time, not more of a core.
const PASS_REST: u32 = 4;
/// …and where the table is full, only as long as it took: half of a core against a flood.
const PRESSED_REST: u32 = 1;

/// The running plane. Dropping it detaches the program, and sessions end with it, but for a plane with pins that has
/// attached or found the program attached: that forwards on, and the next plane takes over.
pub struct Plane {
    shared: Arc<Shared>,
    sweep: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    /// Backends that took no new sessions when the former daemon ended.
    idle: Vec<BackendId>,
    /// Whether a former daemon's program was attached when this began.
    took_over: bool,
    /// Whether everything is removed at the end.
    removes: bool,
}

/// A snapshot that is ready to take effect. Dropped without a commit, it leaves no trace.
pub struct Prepared {
    change: Option<Change>,
    addresses: Vec<IpAddr>,
    /// The interfaces of the snapshot.
    interfaces: Vec<String>,
    shared: Arc<Shared>,
}

/// What the plane and its threads have in common.
struct Shared {
    l4: L4,
    plan: Mutex<Plan>,
    maps: Mutex<KernelMaps>,
    counters: Mutex<CounterMaps>,
    backends: Arc<Backends>,
    programs: Arc<Mutex<Programs>>,
    /// Cores that packets are spread over.
    cores: Vec<u32>,
    /// Interfaces of the snapshot in force.
    interfaces: Mutex<Vec<String>>,
    /// Whether the program is attached, or will be when a snapshot is in force.
    attached: AtomicBool,
    orders: Sender<Order>,
    watch: Arc<Wake>,
    records: Arc<Records>,
    lines4: Mapped<Line<V4>>,
    lines6: Mapped<Line<V6>>,
    seed: u64,
    clock: Clock,
    policies: Arc<Mutex<Policies>>,
    schedulers: Arc<Schedulers>,
    totals: Mutex<Arc<Passed>>,
    passes: AtomicU64,
    pass_cpu_nanoseconds: AtomicU64,
}

/// Ends the sweep's thread.
#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Plane {
    /// Loads the program, attaches it to the interfaces, and starts to follow routes and sessions. Interfaces are
    /// those of the calling thread's network namespace. Nothing outlives the plane.
    pub fn start(l4: &L4) -> Result<Self, Error> {
        let plane = Self::load(l4, None)?;
        plane.attach()?;
        Ok(plane)
    }

    /// Loads the program and starts to follow routes and sessions. With pins, sessions, counters and the numbers of
    /// listeners and backends are those that a former daemon left, and its program goes on forwarding as it does until
    /// [`Plane::attach`]. An error has changed nothing.
    pub fn load(l4: &L4, pins: Option<Pins>) -> Result<Self, Error> {
        let former = match &pins {
            Some(pins) => former::find(pins, TableSizes::of(l4), l4)?,
            None => None,
        };
        let loaded = Self::build(l4, pins.as_ref(), former);
        match (loaded, pins) {
            (Ok(mut plane), Some(pins)) => {
                plane.took_over = former.is_some();
                lock(&plane.shared.programs).pin(pins);
                Ok(plane)
            }
            (Ok(plane), None) => Ok(plane),
            (Err(error), pins) => {
                if former.is_none()
                    && let Some(Err(error)) = pins.map(Pins::remove)
                {
                    tracing::warn!(%error, "left in the BPF file system");
                }
                Err(error)
            }
        }
    }

    fn build(l4: &L4, pins: Option<&Pins>, former: Option<Former>) -> Result<Self, Error> {
        let sizes = former.map_or_else(|| TableSizes::of(l4), |former| former.sizes);
        check_memory(l4, sizes, former.as_ref())?;
        let seed = former.map_or_else(
            || RandomState::new().build_hasher().finish(),
            |former| former.seed,
        );
        let cores = spread::cores(l4.spread)?;
        let mut ebpf = load(sizes, seed, &cores, pins.zip(former.as_ref()))?;
        let records = Arc::new(Records {
            layout: mapped(&ebpf, LAYOUT, 1)?,
            listeners: mapped(&ebpf, "LISTENER_RECORDS", LISTENERS_MAX as usize + 1)?,
            backends: mapped(&ebpf, "BACKEND_RECORDS", BACKENDS_MAX as usize + 1)?,
            links: mapped(&ebpf, "LINK_RECORDS", LINKS_MAX as usize)?,
        });
        if former.is_none() {
            records.begin(seed, namespace_cookie()?);
        }
        if let Some(pins) = pins {
            keep(&ebpf, pins, former.as_ref())?;
        }
        let lines4 = mapped(&ebpf, SESSIONS4, sizes.sets4 as usize * LINES)?;
        let lines6 = mapped(&ebpf, SESSIONS6, sizes.sets6 as usize * LINES)?;
        let clock_cell = mapped(&ebpf, "CLOCK", 1)?;
        let backends = Arc::new(Backends::new(mapped(
            &ebpf,
            "BACKENDS",
            BACKENDS_MAX as usize + 1,
        )?));
        let schedulers = Arc::new(Schedulers::new(
            mapped(&ebpf, "LOADS", BACKENDS_MAX as usize + 1)?,
            mapped(&ebpf, "CLIENTS", sizes.client_sets as usize * CLIENTS)?,
            seed,
            tick()?,
        ));
        let policies = Arc::new(Mutex::new(Policies::default()));
        let maps = KernelMaps {
            records: records.clone(),
            backends: backends.clone(),
            schedule: mapped(&ebpf, "SCHEDULE", SCHEDULE_ELEMENTS as usize)?,
            settings: take(&mut ebpf, "CONFIG")?,
            locals4: take(&mut ebpf, "LOCALS")?,
            locals6: take(&mut ebpf, "LOCALS6")?,
            tunnel_sources: take(&mut ebpf, "TUNNEL_SOURCES")?,
            listeners: ListenerTable::new(
                mapped(&ebpf, "LISTENER_SLOTS", SLOTS as usize / 2)?,
                mapped(&ebpf, "LISTENERS", ENTRIES as usize)?,
            ),
            vips: take(&mut ebpf, "VIPS")?,
            pools: take(&mut ebpf, "POOLS")?,
            quic: QuicMaps::new(
                take(&mut ebpf, "QUIC_CONFIGS")?,
                take(&mut ebpf, "QUIC_SERVERS")?,
            ),
            schedulers: schedulers.clone(),
            policies: policies.clone(),
        };
        let counters = CounterMaps {
            listeners: take(&mut ebpf, "LISTENER_COUNTERS")?,
            backends: take(&mut ebpf, "BACKEND_COUNTERS")?,
            drops: take(&mut ebpf, "DROPS")?,
            spread: take(&mut ebpf, "SPREAD")?,
        };
        let links = Links::new(
            take(&mut ebpf, LINKS_MAP)?,
            take(&mut ebpf, "LINK_OF")?,
            records.clone(),
        );
        let vlans = Vlans::new(take(&mut ebpf, "VLANS")?);
        let events = take(&mut ebpf, "EVENTS")?;
        let programs = Arc::new(Mutex::new(spread::load(ebpf, &cores)?));
        let clock = Clock::new(clock_cell, programs.clone())?;
        let mut plan = Plan::new(l4.clone(), SCHEDULE_ELEMENTS);
        plan.restore(&records);
        let mut idle = Vec::new();
        for (number, id, accepts) in records.backends() {
            // Sessions go on to those, too, that are not in the config any more.
            backends.write(number, id.address, false);
            if !accepts {
                idle.push(id);
            }
        }
        let wake = Arc::new(Wake::new().map_err(Error::system("make an eventfd"))?);
        let (orders, ordered) = mpsc::channel();
        let watch = Watch::start(Parts {
            events,
            wake: wake.clone(),
            backends: backends.clone(),
            programs: programs.clone(),
            links,
            vlans,
            mode: l4.xdp_mode,
            orders: ordered,
            expected: l4.interfaces.clone(),
            locals: l4.local_addresses.clone(),
        })?;
        let shared = Arc::new(Shared {
            l4: l4.clone(),
            plan: Mutex::new(plan),
            maps: Mutex::new(maps),
            counters: Mutex::new(counters),
            backends,
            programs,
            cores,
            interfaces: Mutex::new(l4.interfaces.clone()),
            attached: AtomicBool::new(false),
            orders,
            watch: wake,
            records,
            lines4,
            lines6,
            seed,
            clock,
            policies,
            schedulers,
            totals: Mutex::default(),
            passes: AtomicU64::new(0),
            pass_cpu_nanoseconds: AtomicU64::new(0),
        });
        let stop = Arc::new(Stop::default());
        let mut plane = Self {
            shared: shared.clone(),
            sweep: stop.clone(),
            threads: Vec::new(),
            idle,
            took_over: false,
            removes: false,
        };
        plane.spawn("weir-l4-watch", move || watch.run())?;
        plane.spawn("weir-l4-sweep", move || shared.sweep(&stop))?;
        tracing::info!(
            max_sessions = l4.max_sessions,
            max_sessions_ipv6 = l4.max_sessions_ipv6,
            table_bytes = sizes.bytes(),
            taken_over = former.is_some(),
            "layer 4 is up"
        );
        Ok(plane)
    }

    /// Attaches the program to the interfaces of the snapshot in force. Where a former daemon's is attached, this one
    /// takes its place, interface by interface, with no packet between them.
    pub fn attach(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let interfaces = lock(&shared.interfaces).clone();
        shared.attach(&interfaces)?;
        shared.order(Order::Keep(interfaces));
        shared.attached.store(true, Release);
        Ok(())
    }

    /// Backends that took no new sessions when the former daemon ended: by its health checks, as a rule.
    pub fn idle_before(&self) -> &[BackendId] {
        &self.idle
    }

    /// Does everything for a snapshot that can fail, and nothing that packets notice. Waits a moment for the next
    /// hops of new backends; a backend whose next hop stays unknown is no error.
    pub fn prepare(&self, snapshot: &Arc<Snapshot>) -> Result<Prepared, Error> {
        let shared = &self.shared;
        let change = shared.prepare(snapshot)?;
        let addresses: Vec<IpAddr> = change
            .addresses()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let new = shared.backends.expect(&addresses);
        let prepared = Prepared {
            change: Some(change),
            addresses,
            interfaces: interfaces(snapshot),
            shared: shared.clone(),
        };
        if shared.attached.load(Acquire) {
            shared.attach(&prepared.interfaces)?;
        }
        if !new.is_empty() {
            shared.watch.wake();
            let wait = NEXT_HOP_WAIT + NEXT_HOP_WAIT_EACH * new.len() as u32;
            let unknown = shared.backends.wait_for_hops(&new, wait);
            if !unknown.is_empty() {
                tracing::warn!(backends = unknown.len(), first = %unknown[0], "next hops are not known yet");
            }
        }
        Ok(prepared)
    }

    /// Makes a prepared snapshot take effect. Snapshots are committed in the order in which they were prepared.
    pub fn commit(&self, mut prepared: Prepared) {
        if let Some(change) = prepared.change.take() {
            let mut plan = lock(&self.shared.plan);
            plan.commit(change, &mut *lock(&self.shared.maps), monotonic());
        }
        lock(&self.shared.interfaces).clone_from(&prepared.interfaces);
        if self.shared.attached.load(Acquire) {
            self.shared.order(Order::Keep(prepared.interfaces.clone()));
        }
        drop(prepared);
        self.shared.watch.wake();
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// At most `limit` sessions that match, in no order.
    pub fn sessions(&self, filter: &Filter, limit: usize) -> Vec<Session> {
        let start = Cursor {
            ipv6: false,
            line: 0,
            of: self.shared.lines4.len(),
        };
        // A listing that does not begin does not count.
        let listing = self.list(filter, Some(start), limit);
        listing.unwrap_or_default().sessions
    }

    /// At most `limit` sessions that match, from where another listing has ended, or from the beginning. A beginning
    /// counts all that match; that takes one pass through the tables.
    pub fn list(
        &self,
        filter: &Filter,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Listing, CursorError> {
        self.shared.list(filter, from, limit)
    }

    /// How many sessions match.
    pub fn session_count(&self, filter: &Filter) -> u64 {
        let listing = self.list(filter, None, 0);
        listing.ok().and_then(|listing| listing.total).unwrap_or(0)
    }

    /// Detaches the program and ends the plane's threads. Sessions end with it; nothing stays in the kernel.
    pub fn stop(mut self) {
        self.removes = true;
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work);
        self.threads
            .push(thread.map_err(Error::system("start a thread"))?);
        Ok(())
    }
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane")
            .field("l4", &self.shared.l4)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("change", &self.change)
            .finish_non_exhaustive()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let is_of_use = self.took_over || self.shared.attached.load(Acquire);
        let leaves = !self.removes && is_of_use && lock(&self.shared.programs).is_pinned();
        if leaves {
            self.shared.order(Order::LeaveNeighbours);
        }
        self.shared.watch.stop();
        *lock(&self.sweep.stopped) = true;
        self.sweep.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It has said why on standard error.
            let _ = thread.join();
        }
        if leaves {
            return;
        }
        let mut programs = lock(&self.shared.programs);
        for interface in programs.interfaces() {
            programs.detach(&interface);
        }
        if let Some(Err(error)) = programs.take_pins().map(Pins::remove) {
            tracing::error!(%error, "left in the BPF file system");
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(change) = self.change.take() {
            lock(&self.shared.plan).abandon(change);
            if self.shared.attached.load(Acquire) {
                let interfaces = lock(&self.shared.interfaces).clone();
                self.shared.order(Order::Keep(interfaces));
            }
        }
        self.shared.backends.unexpect(&self.addresses);
    }
}

fn interfaces(snapshot: &Snapshot) -> Vec<String> {
    let l4 = snapshot.config.l4.as_ref();
    l4.map(|l4| l4.interfaces.clone()).unwrap_or_default()
}

impl Shared {
    /// Has the thread that follows interfaces attach the program to these, too.
    fn attach(&self, interfaces: &[String]) -> Result<(), Error> {
        let (done, outcome) = mpsc::sync_channel(1);
        self.order(Order::Attach(interfaces.to_vec(), done));
        outcome.recv().unwrap_or_else(|_| {
            let source = io::Error::other("the thread that follows interfaces has ended");
            Err(Error::System {
                what: "attach XDP",
                source,
            })
        })
    }

    fn order(&self, order: Order) {
        // Nobody is there to obey only at the end.
        let _ = self.orders.send(order);
        self.watch.wake();
    }

    fn prepare(&self, snapshot: &Arc<Snapshot>) -> Result<Change, Error> {
        let mut plan = lock(&self.plan);
        match plan.prepare(snapshot, monotonic()) {
            // Tables that were replaced a moment ago still take room.
            Err(Error::ScheduleFull { .. }) if plan.room_comes_at().is_some() => {
                let wait = plan
                    .room_comes_at()
                    .unwrap_or_default()
                    .saturating_sub(monotonic());
                std::thread::sleep(wait);
                plan.prepare(snapshot, monotonic())
            }
            result => result,
        }
    }

    fn table4(&self) -> Table<'_, V4> {
        Table::new(&self.lines4, self.seed).beside(&self.lines6)
    }

    fn table6(&self) -> Table<'_, V6> {
        Table::new(&self.lines6, self.seed).beside(&self.lines4)
    }

    fn list(
        &self,
        filter: &Filter,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Listing, CursorError> {
        let (lines4, lines6) = (self.lines4.len(), self.lines6.len());
        if let Some(Cursor { ipv6, line, of }) = from
            && (of != if ipv6 { lines6 } else { lines4 } || line > of)
        {
            return Err(CursorError::Stale);
        }
        let mut total = from.is_none().then_some(0);
        let Some(filter) = self.number_filter(filter) else {
            return Ok(Listing {
                total,
                ..Listing::default()
            });
        };
        let totals = lock(&self.totals).clone();
        let now = self.clock.now();
        let mut found = Vec::new();
        let mut next = None;
        let at = |ipv6: bool| match from {
            Some(cursor) if cursor.ipv6 == ipv6 => cursor.line,
            // Behind the table of IPv4 comes that of IPv6.
            Some(cursor) if cursor.ipv6 => lines4,
            _ => 0,
        };
        let search = Search {
            table: self.table4(),
            now,
            timeouts: &totals.v4.timeouts,
            filter: &filter,
        };
        if let Some(line) = search.list(at(false), limit, &mut found, total.as_mut()) {
            next = Some(Cursor {
                ipv6: false,
                line,
                of: lines4,
            });
        }
        if next.is_none() || total.is_some() {
            let search = Search {
                table: self.table6(),
                now,
                timeouts: &totals.v6.timeouts,
                filter: &filter,
            };
            let left = limit - found.len();
            if let Some(line) = search.list(at(true), left, &mut found, total.as_mut()) {
                next = next.or(Some(Cursor {
                    ipv6: true,
                    line,
                    of: lines6,
                }));
            }
        }
        Ok(Listing {
            sessions: self.name(found),
            total,
            next: next.filter(|_| limit > 0),
        })
    }

    /// `None` if nothing can match.
    fn number_filter(&self, filter: &Filter) -> Option<NumberFilter> {
        let mut plan = lock(&self.plan);
        let listener = match &filter.listener {
            Some(name) => Some(plan.listener_numbers().number(name)?),
            None => None,
        };
        let backends = (filter.pool.is_some() || filter.backend.is_some()).then(|| {
            let mut matching = vec![false; usize::from(u16::MAX) + 1];
            for (id, number, _) in plan.backend_numbers().iter() {
                matching[usize::from(number)] =
                    filter.pool.as_ref().is_none_or(|pool| id.pool == *pool)
                        && filter.backend.is_none_or(|ends| ends.contains(id.address));
            }
            matching
        });
        let mode = match filter.forward {
            None => None,
            Some(Forward::Fullnat) => Some(Mode::Fullnat),
            Some(Forward::Nat) => Some(Mode::Nat),
            Some(Forward::Dr) => Some(Mode::Dr),
            Some(Forward::Tunnel) => Some(Mode::Tunnel),
            Some(Forward::Proxy) => return None,
        };
        Some(NumberFilter {
            udp: filter.udp,
            mode,
            client: filter.client,
            vip: filter.vip,
            local: filter.local,
            listener,
            backends,
            state: filter.state,
        })
    }

    fn name(&self, found: Vec<Found>) -> Vec<Session> {
        let mut plan = lock(&self.plan);
        let name = |found: Found| Session {
            listener: plan.listener_numbers().key(found.listener).cloned(),
            backend: plan.backend_numbers().key(found.backend).cloned(),
            ..found.session
        };
        found.into_iter().map(name).collect()
    }

    fn stats(&self) -> Stats {
        let totals = lock(&self.totals).clone();
        // Reading counters takes a system call each: not while others wait for the plan.
        let mut plan = lock(&self.plan);
        let listeners: Vec<_> = plan.listener_numbers().iter().map(owned).collect();
        let backends: Vec<_> = plan.backend_numbers().iter().map(owned).collect();
        drop(plan);
        let counters = lock(&self.counters);
        let drops = DropReason::ALL
            .iter()
            .map(|reason| (*reason, counters.drops(*reason)));
        let mut stats = Stats {
            drops: drops.collect(),
            table: self.table_stats(&self.lines4, self.l4.max_sessions, &totals.v4),
            table6: self.table_stats(&self.lines6, self.l4.max_sessions_ipv6, &totals.v6),
            ..Stats::default()
        };
        for (listener, number, configured) in listeners {
            let sum = counters.listener(number);
            stats.listeners.push(ListenerStats {
                listener,
                configured,
                counters: count(totals.tally.listener(number), sum.sessions),
                drops: sum.drops,
            });
        }
        for (backend, number, configured) in backends {
            let sessions = counters.backend_sessions(number);
            stats.backends.push(BackendStats {
                backend,
                configured,
                counters: count(totals.tally.backend(number), sessions),
            });
        }
        stats.cores = counters.cores(&self.cores);
        drop(counters);
        stats.listeners.sort_by(|a, b| a.listener.cmp(&b.listener));
        stats.backends.sort_by(|a, b| a.backend.cmp(&b.backend));
        let programs = lock(&self.programs);
        stats.interfaces = lock(&self.interfaces)
            .iter()
            .map(|interface| InterfaceStats {
                interface: interface.clone(),
                attachment: programs.attachment(interface).map(|(mode, _)| mode),
            })
            .collect();
        stats
    }

    fn table_stats<F: Cells>(
        &self,
        lines: &[Line<F>],
        max_sessions: u32,
        totals: &Totals,
    ) -> TableStats {
        TableStats {
            max_sessions,
            bytes: size_of_val(lines) as u64,
            lines: lines.len() as u64,
            lines_used: totals.lines_used,
            sessions: totals.sessions,
            lines_passed: totals.lines_passed,
            expired: totals.expired,
            orphans: totals.orphans,
            passes: self.passes.load(Relaxed),
            pass_cpu: Duration::from_nanos(self.pass_cpu_nanoseconds.load(Relaxed)),
        }
    }

    /// Goes through the tables until it is stopped. A pass ends when both are through: numbers are given back when neither
    /// has a line with them.
    fn sweep(&self, stop: &Stop) {
        // Until a snapshot is in force nobody knows how long sessions may be idle, and the former daemon's program may
        // still open some for listeners that are gone from the config.
        while !self.attached.load(Acquire) {
            if stop.wait(PASS_INTERVAL / PASS_STEPS) {
                return;
            }
        }
        let (sessions4, sessions6) = (self.l4.max_sessions, self.l4.max_sessions_ipv6);
        let timeouts = || lock(&self.policies).timeouts();
        let mut v4 = Course::new(self.table4(), sessions4, timeouts());
        let mut v6 = Course::new(self.table6(), sessions6, timeouts());
        // What was counted before is in one of both.
        v4.sweep.resume(self.records.clone());
        v6.sweep.keep(self.records.clone());
        v4.sweep.tell(self.schedulers.clone());
        v6.sweep.tell(self.schedulers.clone());
        let mut cpu_before = thread_cpu();
        let mut rest = Duration::ZERO;
        while !stop.wait(rest) {
            let now = self.clock.now();
            v4.step(now);
            v6.step(now);
            let took = monotonic().saturating_sub(now.monotonic);
            rest = if v4.sweep.is_pressed() || v6.sweep.is_pressed() {
                took * PRESSED_REST
            } else {
                (took * PASS_REST).max(PASS_INTERVAL / PASS_STEPS)
            };
            if v4.totals.is_none() || v6.totals.is_none() {
                continue;
            }
            let take = |totals: &mut Option<Totals>| totals.take().unwrap_or_default();
            let totals = Passed::new(take(&mut v4.totals), take(&mut v6.totals));
            v4.sweep.set_timeouts(timeouts());
            v6.sweep.set_timeouts(timeouts());
            let ending = lock(&self.policies).ending();
            v4.sweep.set_ending(Arc::clone(&ending));
            v6.sweep.set_ending(ending);
            self.give_numbers_back(&mut v4.sweep, &mut v6.sweep, &totals);
            let expired = totals.v4.expired + totals.v6.expired;
            self.records
                .set_ended(expired, totals.v4.orphans + totals.v6.orphans);
            *lock(&self.totals) = Arc::new(totals);
            let cpu = thread_cpu();
            self.pass_cpu_nanoseconds
                .store(cpu.saturating_sub(cpu_before).as_nanos() as u64, Release);
            cpu_before = cpu;
            self.passes.fetch_add(1, Release);
            if let Err(error) = self.clock.ask() {
                tracing::error!(%error, "ask the kernel for its clock");
            }
        }
    }

    /// Numbers of listeners and backends that have left the config, and that no session carries any more.
    fn give_numbers_back(&self, v4: &mut Sweep<V4>, v6: &mut Sweep<V6>, totals: &Passed) {
        let mut plan = lock(&self.plan);
        let mut counters = lock(&self.counters);
        for number in plan
            .listener_numbers()
            .idle(|number| totals.tally.listener(number).lines > 0)
        {
            v4.forget_listener(number);
            v6.forget_listener(number);
            match counters.clear_listener(number) {
                Ok(()) => {
                    self.records.forget_listener(number);
                    lock(&self.policies).end_listener(number, false);
                    plan.listener_numbers().free(number);
                }
                Err(error) => tracing::error!(%error, "clear a listener's counters"),
            }
        }
        for number in plan
            .backend_numbers()
            .idle(|number| totals.tally.backend(number).lines > 0)
        {
            v4.forget_backend(number);
            v6.forget_backend(number);
            match counters.clear_backend(number) {
                Ok(()) => {
                    self.backends.forget(number);
                    lock(&self.policies).end_backend(number, false);
                    self.records.forget_backend(number);
                    self.schedulers.forget_backend(number);
                    plan.backend_numbers().free(number);
                }
                Err(error) => tracing::error!(%error, "clear a backend's counters"),
            }
        }
    }
}

/// A sweep on its way through a table.
struct Course<'a, F: Cells> {
    table: Table<'a, F>,
    sweep: Sweep<F>,
    /// Of the pass that has ended, until the other table's has.
    totals: Option<Totals>,
}

impl<'a, F: Cells> Course<'a, F> {
    fn new(table: Table<'a, F>, max_sessions: u32, timeouts: Timeouts) -> Self {
        let room = u64::from(max_sessions) * 2;
        Self {
            table,
            sweep: Sweep::new(table.sets(), room, timeouts),
            totals: None,
        }
    }

    fn step(&mut self, now: Now) {
        if self.totals.is_some() {
            self.sweep.rest(self.table, now);
        } else {
            let sets = self.table.sets().div_ceil(PASS_STEPS);
            self.totals = self.sweep.step(self.table, now, sets);
        }
    }
}

impl Stop {
    /// Waits; true if the thread is to end.
    fn wait(&self, time: Duration) -> bool {
        let stopped = lock(&self.stopped);
        *self
            .changed
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

fn owned<K: Clone>((key, number, configured): (&K, u16, bool)) -> (K, u16, bool) {
    (key.clone(), number, configured)
}

fn count(count: Count, sessions_opened: u64) -> Counters {
    Counters {
        sessions_active: count.sessions,
        sessions_opened,
        packets_in: count.packets_in,
        bytes_in: count.bytes_in,
        packets_out: count.packets_out,
        bytes_out: count.bytes_out,
    }
}

/// Processor time of the calling thread.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

//! The backends' side: choosing one, and the connections that a worker keeps to each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use weir_model::{
    BackendId, HashKey, Outlier, PoolConnections, PoolProtocol, ProxyProtocolVersion, Scheduler,
};

use crate::balance::{
    LeastConn, P2c, RoundRobin, client_hash, connection_hash, ewma, p2c, rehash, stable_hash,
};
use crate::buffer::{Buffer, BufferPool};
use crate::client::Client;
use crate::codec::h1::RequestHead;
use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::h2::StreamIo;
use crate::multiplex::Multiplex;
use crate::plan::{BackendCell, BackendPlan, PoolPlan};
use crate::queue::Queue;
use crate::retry::Budget;
use crate::stats::{BackendCounters, PoolCounters};
use crate::tls;
use crate::transport::{Plain, Transport, Upstream};
use crate::worker::Worker;

/// A worker's view of a pool.
#[derive(Debug)]
pub(crate) struct LocalPool {
    pub(crate) plan: Arc<PoolPlan>,
    worker: usize,
    backends: Vec<Rc<LocalBackend>>,
    /// Work, or connections, have bounds.
    is_limited: bool,
    /// Work under way is counted at each backend, for all workers.
    is_counted: bool,
    /// The time is taken of answers.
    is_timed: bool,
    round_robin: RefCell<RoundRobin>,
    least_conn: RefCell<LeastConn>,
    p2c: RefCell<P2c>,
    /// Requests and retries under way here.
    pub(crate) budget: Rc<Budget>,
}

/// A worker's view of a backend, and its connections.
#[derive(Debug)]
pub(crate) struct LocalBackend {
    pub(crate) id: BackendId,
    cell: Arc<BackendCell>,
    worker: usize,
    /// Still in the config; a connection to a backend that is gone is not kept.
    current: Cell<bool>,
    idle: RefCell<Vec<Connection>>,
    tls: Option<Arc<weir_tls::Client>>,
    proxy_protocol: Option<ProxyProtocolVersion>,
    /// Its connections where HTTP/2 is spoken.
    multiplex: Option<Multiplex>,
}

/// A connection to a backend, or a stream of one.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) io: Upstream,
    /// What was read and not yet used; without memory while the connection is idle.
    pub(crate) buffer: Buffer,
    /// It has carried a request before.
    pub(crate) reused: bool,
    idle_since_ms: u64,
    opened_ms: u64,
    /// Requests that it has carried.
    requests: u32,
    /// Absent for a stream.
    _open: Option<OpenGuard>,
}

/// An open connection, or one that is being opened, counted.
#[derive(Debug)]
struct OpenGuard {
    cell: Arc<BackendCell>,
    worker: usize,
    is_open: bool,
    /// Whoever waits for it to end, where connections are limited.
    queue: Option<Arc<Queue>>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if self.is_open {
            self.cell.counters[self.worker].connections_active.sub(1);
        }
        self.cell.load.connections.fetch_sub(1, SeqCst);
        if let Some(queue) = &self.queue {
            queue.call_first();
        }
    }
}

/// What came of the search for a backend.
#[derive(Debug)]
pub(crate) enum Picked {
    Work(Work),
    /// Backends are there, but the limits are reached.
    Full,
    /// No backend takes new work.
    Nobody,
}

/// A piece of work that a backend has been given; ends when dropped.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) backend: Rc<LocalBackend>,
    /// The backend's place in the pool that gave it.
    pub(crate) index: usize,
    pool: Rc<LocalPool>,
    /// It is counted at its backend, for all workers.
    counted: bool,
    /// It is counted at its pool.
    counted_at_pool: bool,
    /// When it began; where somebody wants to know.
    began: Option<Instant>,
}

impl Work {
    /// When it began, where it matters how long its answer takes.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// The head of an answer came, so long after the work began.
    pub(crate) fn answered(&self, status: u16, took: Option<Duration>, now_ms: u64) {
        if let Some(took) = took {
            self.backend.cell.load.latency.record(took, now_ms);
        }
        if let Some(policy) = &self.pool.plan.pool.outlier {
            let is_slow = policy
                .slow
                .is_some_and(|slow| took.is_some_and(|took| took > slow));
            self.record(policy.on.has(status) || is_slow, policy, now_ms);
        }
    }

    /// The backend did not answer, or could not be reached.
    pub(crate) fn failed(&self, now_ms: u64) {
        if let Some(began) = self.began {
            let took = began.elapsed().max(ewma::FAILURE);
            self.backend.cell.load.latency.record(took, now_ms);
        }
        if let Some(policy) = &self.pool.plan.pool.outlier {
            self.record(true, policy, now_ms);
        }
    }

    fn record(&self, failed: bool, policy: &Outlier, now_ms: u64) {
        if self.backend.cell.failures.record(failed, policy, now_ms) {
            self.pool.plan.eject(self.index, now_ms);
        }
    }

    /// An idle connection that is alive.
    pub(crate) fn reuse(&self, now_ms: u64) -> Option<Connection> {
        self.backend.reuse(&self.pool.plan.pool.connections, now_ms)
    }

    /// Opens a connection for a client; the caller's watch limits how long that takes.
    pub(crate) async fn connect_in_time(
        &self,
        watch: &Watch,
        timeout: Duration,
        client: &Client,
        worker: &Worker,
        now_ms: u64,
    ) -> Result<Connection, Reason> {
        let limit = self.pool.plan.pool.limits.connections;
        let queue = limit.map(|_| Arc::clone(&self.pool.plan.cell.queue));
        self.backend
            .connect_in_time(
                watch,
                timeout,
                (client, worker),
                (limit, queue),
                (&self.pool.plan.pool.connections, now_ms),
            )
            .await
    }

    /// Keeps a connection for the next request. Its buffer is empty and without memory.
    pub(crate) fn keep(&self, connection: Connection, now_ms: u64) {
        let plan = &self.pool.plan;
        // One that waits on another worker cannot use what is kept here.
        let is_wanted = plan.pool.limits.connections.is_some() && plan.cell.queue.len() > 0;
        if !is_wanted {
            self.backend
                .keep(connection, &plan.pool.connections, now_ms);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.backend.counters().requests_active.sub(1);
        if self.counted {
            self.backend.cell.load.active.fetch_sub(1, SeqCst);
        }
        if self.counted_at_pool {
            self.pool.plan.cell.active.fetch_sub(1, SeqCst);
        }
        if self.pool.is_limited {
            self.pool.plan.cell.queue.call_first();
        }
    }
}

/// What is known when a backend is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'c> {
    pub(crate) client: SocketAddr,
    /// The hash of the part of the request that the pool goes by, where it goes by one and the request has it.
    pub(crate) request_hash: Option<u64>,
    /// The first piece of work of its connection.
    pub(crate) first: bool,
    /// Gets it if it can take it; a place in the pool.
    pub(crate) wanted: Option<usize>,
    /// Have just failed; places in the pool.
    pub(crate) excluded: &'c [usize],
    /// The excluded ones get it when nobody else is there.
    pub(crate) or_excluded: bool,
    /// The worker's clock.
    pub(crate) now_ms: u64,
}

impl Choice<'_> {
    /// A new connection or session of a client.
    pub(crate) fn of(client: SocketAddr, now_ms: u64) -> Self {
        Self {
            client,
            request_hash: None,
            first: true,
            wanted: None,
            excluded: &[],
            or_excluded: false,
            now_ms,
        }
    }
}

/// How often a backend is looked for when other workers take the last place of the one that was found.
const PICKS_MAX: usize = 8;

/// Other backends that are tried for a hash whose own one cannot take work: nearly always one of them can, and the same
/// clients get the same one.
const REHASHES_MAX: u32 = 8;

impl LocalPool {
    /// A view of `plan`; backends that `before` had keep their connections.
    pub(crate) fn new(plan: &Arc<PoolPlan>, before: Option<&Self>, worker: usize) -> Self {
        let mut known: HashMap<SocketAddr, Rc<LocalBackend>> = HashMap::new();
        // Idle connections of the old kind are of no use where the kind of connection has changed.
        let is_same_kind = before.is_some_and(|before| {
            let (before, now) = (&before.plan.pool, &plan.pool);
            before.tls == now.tls
                && before.proxy_protocol == now.proxy_protocol
                && before.protocol == now.protocol
        });
        for backend in before.iter().flat_map(|before| &before.backends) {
            if is_same_kind {
                known.insert(backend.id.address, Rc::clone(backend));
            } else {
                backend.retire();
            }
        }
        let (tls, proxy_protocol) = (plan.tls.clone(), plan.pool.proxy_protocol);
        let is_http2 = plan.pool.protocol == PoolProtocol::Http2;
        let fresh = |plan: &BackendPlan| {
            Rc::new(LocalBackend {
                id: plan.id.clone(),
                cell: Arc::clone(&plan.cell),
                worker,
                current: Cell::new(true),
                idle: RefCell::default(),
                tls: tls.clone(),
                proxy_protocol,
                multiplex: is_http2.then(Multiplex::default),
            })
        };
        let backends = plan.backends.iter();
        let backends: Vec<_> = backends
            .map(|plan| {
                known
                    .remove(&plan.id.address)
                    .unwrap_or_else(|| fresh(plan))
            })
            .collect();
        for gone in known.values() {
            gone.retire();
        }
        let limits = &plan.pool.limits;
        let counts_requests = limits.requests.is_some() || limits.pool_requests.is_some();
        let scheduler = plan.pool.scheduler;
        let is_slow_known = plan
            .pool
            .outlier
            .as_ref()
            .is_some_and(|outlier| outlier.slow.is_some());
        Self {
            is_limited: counts_requests || limits.connections.is_some(),
            is_counted: limits.requests.is_some()
                || matches!(scheduler, Scheduler::LeastConn | Scheduler::P2c),
            is_timed: scheduler == Scheduler::P2c || is_slow_known,
            budget: before.map_or_else(Rc::default, |before| Rc::clone(&before.budget)),
            round_robin: RefCell::new(RoundRobin::new(&plan.weights)),
            least_conn: RefCell::new(LeastConn::new(&plan.weights)),
            p2c: RefCell::new(P2c::new(&plan.weights, seed())),
            backends,
            worker,
            plan: Arc::clone(plan),
        }
    }

    /// This worker's counters.
    pub(crate) fn counters(&self) -> &PoolCounters {
        &self.plan.cell.counters[self.worker]
    }

    /// The pool is not in the config any more.
    pub(crate) fn retire(&self) {
        for backend in &self.backends {
            backend.retire();
        }
    }

    /// Gives a piece of work to a backend, by the pool's scheduler.
    pub(crate) fn pick(self: &Rc<Self>, choice: &Choice<'_>) -> Picked {
        let pool_requests = self.plan.pool.limits.pool_requests;
        if let Some(most) = pool_requests
            && self.plan.cell.active.fetch_add(1, SeqCst) >= most
        {
            self.plan.cell.active.fetch_sub(1, SeqCst);
            return Picked::Full;
        }
        let picked = self.pick_counted(choice);
        if pool_requests.is_some() && !matches!(picked, Picked::Work(_)) {
            self.plan.cell.active.fetch_sub(1, SeqCst);
        }
        picked
    }

    fn pick_counted(self: &Rc<Self>, choice: &Choice<'_>) -> Picked {
        for _ in 0..PICKS_MAX {
            let Some(index) = self.find(choice) else {
                let is_there = |index: usize| {
                    self.plan.weights[index] > 0
                        && (choice.or_excluded || !choice.excluded.contains(&index))
                };
                let full =
                    (0..self.backends.len()).any(|index| is_there(index) && self.is_full(index));
                return if full { Picked::Full } else { Picked::Nobody };
            };
            let backend = &self.backends[index];
            if self.is_counted {
                let before = backend.cell.load.active.fetch_add(1, SeqCst);
                // Another worker took the last place at the same time.
                if self
                    .plan
                    .pool
                    .limits
                    .requests
                    .is_some_and(|most| before >= most)
                {
                    backend.cell.load.active.fetch_sub(1, SeqCst);
                    continue;
                }
            }
            backend.counters().requests.add(1);
            backend.counters().requests_active.add(1);
            return Picked::Work(Work {
                backend: Rc::clone(backend),
                index,
                pool: Rc::clone(self),
                counted: self.is_counted,
                counted_at_pool: self.plan.pool.limits.pool_requests.is_some(),
                began: self.is_timed.then(Instant::now),
            });
        }
        Picked::Full
    }

    /// The place of the backend that gets the next piece of work.
    fn find(&self, choice: &Choice<'_>) -> Option<usize> {
        let weights = &self.plan.weights;
        let ejects = self.plan.pool.outlier.is_some();
        let is_free = |index: usize| !choice.excluded.contains(&index) && !self.is_full(index);
        let usable = |index: usize| {
            is_free(index)
                && !(ejects && self.backends[index].cell.failures.is_ejected(choice.now_ms))
        };
        choice
            .wanted
            .filter(|wanted| weights[*wanted] > 0 && usable(*wanted))
            .or_else(|| self.pick_index(choice, usable))
            // An ejected backend is better than none.
            .or_else(|| ejects.then(|| self.pick_index(choice, is_free)).flatten())
            .or_else(|| {
                let mut excluded = choice.excluded.iter().rev().copied();
                excluded.find(|index| {
                    choice.or_excluded && weights[*index] > 0 && !self.is_full(*index)
                })
            })
    }

    /// Whether a backend has as much work, or as many connections, as it may.
    fn is_full(&self, index: usize) -> bool {
        if !self.is_limited {
            return false;
        }
        let limits = &self.plan.pool.limits;
        let backend = &self.backends[index];
        let load = &backend.cell.load;
        limits
            .requests
            .is_some_and(|most| load.active.load(SeqCst) >= most)
            || limits.connections.is_some_and(|most| {
                load.connections.load(SeqCst) >= most && backend.idle.borrow().is_empty()
            })
    }

    /// As `pick`, but waits for a place where the pool is full, if that is allowed and for as long as it is.
    pub(crate) async fn take(
        self: &Rc<Self>,
        choice: &Choice<'_>,
        watch: &Watch,
    ) -> Result<Work, Reason> {
        let limits = &self.plan.pool.limits;
        let queue = &self.plan.cell.queue;
        // Those who wait come first.
        if !self.is_limited || queue.len() == 0 {
            match self.pick(choice) {
                Picked::Work(work) => return Ok(work),
                Picked::Nobody => return Err(Reason::NoBackend),
                Picked::Full if limits.pending == 0 => return Err(Reason::PoolFull),
                Picked::Full => {}
            }
        }
        watch.arm(limits.pending_timeout(), Phase::Busy);
        let mut place = None;
        poll_fn(|cx| {
            if place.is_none() {
                place = queue.join(limits.pending, cx);
            }
            let Some(place) = &place else {
                return Poll::Ready(Err(Reason::PoolFull));
            };
            if place.is_first() {
                match self.pick(choice) {
                    Picked::Work(work) => return Poll::Ready(Ok(work)),
                    Picked::Nobody => return Poll::Ready(Err(Reason::NoBackend)),
                    Picked::Full => {}
                }
            }
            if watch.is_expired() {
                return Poll::Ready(Err(Reason::PendingTimeout));
            }
            Poll::Pending
        })
        .await
    }

    fn pick_index(&self, choice: &Choice<'_>, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let active = |index: usize| self.backends[index].cell.load.active.load(Relaxed);
        match self.plan.pool.scheduler {
            Scheduler::RoundRobin => {}
            Scheduler::LeastConn => return self.least_conn.borrow_mut().pick(active, usable),
            Scheduler::P2c => {
                let load = |index: usize| p2c::Load {
                    active: active(index),
                    micros: self.backends[index].cell.load.latency.micros(choice.now_ms),
                };
                return self.p2c.borrow_mut().pick(load, usable);
            }
            Scheduler::SourceHash | Scheduler::Maglev => {
                let picked = self.hash(choice).and_then(|hash| {
                    (0..=REHASHES_MAX)
                        .filter_map(|salt| self.pick_hashed(rehash(hash, salt)))
                        .find(|index| usable(*index))
                });
                if picked.is_some() {
                    return picked;
                }
            }
        }
        // In turn; also where there is nothing to hash, or where the backends of a hash cannot take it.
        if choice.first
            && let Ok(mut turns) = self.plan.turns.try_lock()
        {
            return turns.pick(usable);
        }
        self.round_robin.borrow_mut().pick(usable)
    }

    /// What the pool hashes, hashed.
    fn hash(&self, choice: &Choice<'_>) -> Option<u64> {
        match self.plan.pool.hash {
            None | Some(HashKey::Address) => Some(client_hash(choice.client.ip())),
            Some(HashKey::AddressPort) => Some(connection_hash(choice.client)),
            Some(HashKey::Uri | HashKey::Header(_) | HashKey::Cookie(_)) => choice.request_hash,
        }
    }

    fn pick_hashed(&self, hash: u64) -> Option<usize> {
        match (&self.plan.source_hash, &self.plan.maglev) {
            (Some(line), _) => line.pick(hash),
            (None, Some(table)) => Some(table.pick(hash)),
            (None, None) => None,
        }
    }

    /// The hash of the part of a request that the pool goes by; none where it goes by something else, or where the
    /// request does not have it.
    pub(crate) fn request_hash(&self, request: &RequestHead, head: &[u8]) -> Option<u64> {
        match self.plan.pool.hash.as_ref()? {
            HashKey::Address | HashKey::AddressPort => None,
            HashKey::Uri => Some(stable_hash(request.target.of(head), 0)),
            HashKey::Header(name) => request.field(head, name).map(|value| stable_hash(value, 0)),
            HashKey::Cookie(name) => request
                .cookie(head, name.as_bytes())
                .map(|value| stable_hash(value, 0)),
        }
    }

    /// Closes connections that were idle for too long, or that the backend has closed.
    pub(crate) fn reap(&self, now_ms: u64) {
        for backend in &self.backends {
            if let Some(multiplex) = &backend.multiplex {
                multiplex.reap(&self.plan.pool.connections, now_ms);
            }
            backend.reap(|connection| {
                connection.is_usable(&self.plan.pool.connections, now_ms)
                    && connection.io.is_quiet()
            });
        }
    }

    /// Closes idle connections where somebody waits for one that this worker does not need now.
    pub(crate) fn yield_idle(&self) {
        if self.plan.pool.limits.connections.is_some() && self.plan.cell.queue.len() > 0 {
            for backend in &self.backends {
                backend.reap(|_| false);
            }
        }
    }
}

impl Connection {
    /// Whether it may carry another request.
    fn is_usable(&self, policy: &PoolConnections, now_ms: u64) -> bool {
        let within = |since_ms: u64, bound: Duration| {
            now_ms.saturating_sub(since_ms) < u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)
        };
        within(self.idle_since_ms, policy.idle_timeout)
            && policy
                .lifetime
                .is_none_or(|lifetime| within(self.opened_ms, lifetime))
            && policy.requests_max.is_none_or(|most| self.requests < most)
    }
}

impl LocalBackend {
    /// This worker's counters.
    pub(crate) fn counters(&self) -> &BackendCounters {
        &self.cell.counters[self.worker]
    }

    /// An idle connection that is alive, the one used last first: the others may grow old enough to be closed.
    fn reuse(&self, policy: &PoolConnections, now_ms: u64) -> Option<Connection> {
        // The PROXY header at its beginning has told of another client.
        if self.proxy_protocol.is_some() {
            return None;
        }
        if let Some(multiplex) = &self.multiplex {
            let stream = multiplex.open(policy, now_ms)?;
            self.counters().connections_reused.add(1);
            return Some(Connection::stream(stream, true));
        }
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut connection = idle.pop()?;
            self.counters().connections_idle.sub(1);
            if connection.io.is_quiet() && connection.is_usable(policy, now_ms) {
                connection.reused = true;
                connection.requests += 1;
                self.counters().connections_reused.add(1);
                return Some(connection);
            }
        }
    }

    async fn connect_in_time(
        &self,
        watch: &Watch,
        timeout: Duration,
        (client, worker): (&Client, &Worker),
        (limit, queue): (Option<usize>, Option<Arc<Queue>>),
        (policy, now_ms): (&PoolConnections, u64),
    ) -> Result<Connection, Reason> {
        watch.arm(timeout, Phase::Busy);
        let turn = match &self.multiplex {
            None => None,
            Some(multiplex) => {
                let mut waiting = pin!(multiplex.open_or_turn(policy, now_ms));
                let got = poll_fn(|cx| match waiting.as_mut().poll(cx) {
                    Poll::Ready(got) => Poll::Ready(Ok(got)),
                    Poll::Pending if watch.is_expired() => Poll::Ready(Err(Reason::ConnectTimeout)),
                    Poll::Pending => Poll::Pending,
                });
                match got.await? {
                    Ok(stream) => {
                        self.counters().connections_reused.add(1);
                        return Ok(Connection::stream(stream, true));
                    }
                    Err(turn) => Some((multiplex, turn)),
                }
            }
        };
        let before = self.cell.load.connections.fetch_add(1, SeqCst);
        let mut open = OpenGuard {
            cell: Arc::clone(&self.cell),
            worker: self.worker,
            is_open: false,
            queue,
        };
        if limit.is_some_and(|limit| before >= limit) {
            return Err(Reason::PoolFull);
        }
        let mut connecting = pin!(self.connect(client, &worker.buffers));
        let io = poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(Ok(io)) => Poll::Ready(Ok(io)),
            Poll::Ready(Err((reason, error))) => {
                tracing::debug!(backend = %self.id, %error, %reason, "cannot connect");
                Poll::Ready(Err(reason))
            }
            Poll::Pending if watch.is_expired() => Poll::Ready(Err(Reason::ConnectTimeout)),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        open.is_open = true;
        self.counters().connections_opened.add(1);
        self.counters().connections_active.add(1);
        let Some((multiplex, turn)) = turn else {
            return Ok(Connection {
                io,
                buffer: Buffer::default(),
                reused: false,
                idle_since_ms: now_ms,
                opened_ms: now_ms,
                requests: 1,
                _open: Some(open),
            });
        };
        let scheme: &[u8] = match &io {
            Upstream::Tls(io) if io.session().alpn_protocol() != Some(b"h2") => {
                tracing::debug!(backend = %self.id, "the backend does not agree to HTTP/2 (ALPN)");
                return Err(Reason::UpstreamTls);
            }
            Upstream::Tls(_) => b"https",
            _ => b"http",
        };
        let stream = multiplex
            .add(io, scheme, &worker.deadlines, &worker.buffers, open)
            .ok_or(Reason::ConnectFailed)?;
        drop(turn);
        Ok(Connection::stream(stream, false))
    }

    /// A connection that is ready for a request: TLS and PROXY header included.
    async fn connect(
        &self,
        client: &Client,
        buffers: &BufferPool,
    ) -> Result<Upstream, (Reason, io::Error)> {
        let failed = |error| (connect_reason(&error), error);
        let stream = connect(self.id.address).await.map_err(failed)?;
        let mut io = Plain::new(stream);
        if let Some(version) = self.proxy_protocol {
            let header = client.proxy_header(version);
            send_whole(&mut io, &header).await.map_err(failed)?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Upstream::Plain(io));
        };
        let refused = |error| (Reason::UpstreamTls, error);
        let session = tls
            .connection(self.id.address)
            .map_err(|error| refused(io::Error::other(error)))?;
        let io = tls::connect(io, session, buffers).await.map_err(refused)?;
        Ok(Upstream::Tls(Box::new(io)))
    }

    fn keep(&self, mut connection: Connection, policy: &PoolConnections, now_ms: u64) {
        // A stream has had its request; its connection is kept elsewhere.
        if self.multiplex.is_some() {
            return;
        }
        connection.idle_since_ms = now_ms;
        let mut idle = self.idle.borrow_mut();
        if self.current.get()
            && idle.len() < policy.idle_max
            && self.proxy_protocol.is_none()
            && connection.is_usable(policy, now_ms)
        {
            idle.push(connection);
            self.counters().connections_idle.add(1);
        }
    }

    fn reap(&self, stays: impl FnMut(&mut Connection) -> bool) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(stays);
        let reaped = (before - idle.len()) as u64;
        self.counters().connections_idle.sub(reaped);
    }

    /// Whether it is still in the config.
    pub(crate) fn is_current(&self) -> bool {
        self.current.get()
    }

    fn retire(&self) {
        self.current.set(false);
        if let Some(multiplex) = &self.multiplex {
            multiplex.retire();
        }
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.counters().connections_idle.sub(idle.len() as u64);
    }
}

impl Connection {
    fn stream(io: StreamIo, reused: bool) -> Self {
        Self {
            io: Upstream::Http2(io),
            buffer: Buffer::default(),
            reused,
            idle_since_ms: 0,
            opened_ms: 0,
            requests: 1,
            _open: None,
        }
    }
}

/// A number that is another one for each worker and each view of a pool, so that they do not draw alike.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// Whose fault it is that a socket towards a backend cannot be had: where this node has run out of something, the
/// backend was not even asked (errno(3), socket(2), connect(2)).
pub(crate) fn connect_reason(error: &io::Error) -> Reason {
    // They have no kind in `std`; the numbers of include/uapi/asm-generic/errno.h.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _)
        | (_, Some(ENFILE | EMFILE | ENOBUFS)) => Reason::OutOfResources,
        _ => Reason::ConnectFailed,
    }
}

/// Sends bytes that a fresh socket has room for.
async fn send_whole(io: &mut Plain, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += poll_fn(|cx| io.poll_write(cx, &[IoSlice::new(&bytes[sent..])])).await?;
    }
    Ok(())
}

/// A TCP connection to `address`, without Nagle's algorithm: what is written is meant to leave.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_lacks_is_not_the_backends_failure() {
        // ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS.
        for number in [12, 23, 24, 99, 105] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(connect_reason(&error), Reason::OutOfResources, "{error}");
        }
        // ENETUNREACH, ECONNRESET, ECONNREFUSED, EHOSTUNREACH.
        for number in [101, 104, 111, 113] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(connect_reason(&error), Reason::ConnectFailed, "{error}");
        }
    }
}

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
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use weir_model::{BackendId, HashKey, ProxyProtocolVersion, Scheduler};

use crate::balance::{
    LeastConn, P2c, RoundRobin, client_hash, connection_hash, ewma, p2c, rehash, stable_hash,
};
use crate::buffer::{Buffer, BufferPool};
use crate::client::Client;
use crate::codec::h1::RequestHead;
use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::plan::{BackendCell, BackendPlan, PoolPlan};
use crate::stats::BackendCounters;
use crate::tls;
use crate::transport::{Plain, Transport, Upstream};

/// Idle connections to one backend that a worker keeps. More than these were needed only in a burst.
const IDLE_MAX: usize = 256;

/// How long a connection may wait for its next request. Servers commonly close theirs after 60 s or more; where one
/// does so earlier, epoll tells.
const IDLE_MAX_MS: u64 = 55_000;

/// A worker's view of a pool.
#[derive(Debug)]
pub(crate) struct LocalPool {
    pub(crate) plan: Arc<PoolPlan>,
    backends: Vec<Rc<LocalBackend>>,
    round_robin: RefCell<RoundRobin>,
    least_conn: RefCell<LeastConn>,
    p2c: RefCell<P2c>,
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
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) io: Upstream,
    /// What was read and not yet used; without memory while the connection is idle.
    pub(crate) buffer: Buffer,
    /// It has carried a request before.
    pub(crate) reused: bool,
    idle_since_ms: u64,
    _open: OpenGuard,
}

#[derive(Debug)]
struct OpenGuard {
    cell: Arc<BackendCell>,
    worker: usize,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.cell.counters[self.worker].connections_active.sub(1);
    }
}

/// A piece of work that a backend has been given; ends when dropped.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) backend: Rc<LocalBackend>,
    /// The backend's place in the pool that gave it.
    pub(crate) index: usize,
    shared: bool,
    /// When it began; where somebody wants to know.
    began: Option<Instant>,
}

impl Work {
    /// The backend has answered, or failed to.
    pub(crate) fn ended(&self, failed: bool, now_ms: u64) {
        if let Some(began) = self.began {
            let took = began.elapsed();
            let took = if failed {
                took.max(ewma::FAILURE)
            } else {
                took
            };
            self.backend.cell.load.latency.record(took, now_ms);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.backend.counters().requests_active.sub(1);
        if self.shared {
            self.backend.cell.load.active.fetch_sub(1, Relaxed);
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
    /// Has just failed.
    pub(crate) excluded: Option<&'c LocalBackend>,
    /// The excluded one gets it when nobody else is there.
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
            excluded: None,
            or_excluded: false,
            now_ms,
        }
    }
}

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
            before.tls == now.tls && before.proxy_protocol == now.proxy_protocol
        });
        for backend in before.iter().flat_map(|before| &before.backends) {
            if is_same_kind {
                known.insert(backend.id.address, Rc::clone(backend));
            } else {
                backend.retire();
            }
        }
        let (tls, proxy_protocol) = (plan.tls.clone(), plan.pool.proxy_protocol);
        let fresh = |plan: &BackendPlan| {
            Rc::new(LocalBackend {
                id: plan.id.clone(),
                cell: Arc::clone(&plan.cell),
                worker,
                current: Cell::new(true),
                idle: RefCell::default(),
                tls: tls.clone(),
                proxy_protocol,
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
        Self {
            round_robin: RefCell::new(RoundRobin::new(&plan.weights)),
            least_conn: RefCell::new(LeastConn::new(&plan.weights)),
            p2c: RefCell::new(P2c::new(&plan.weights, seed())),
            backends,
            plan: Arc::clone(plan),
        }
    }

    /// The pool is not in the config any more.
    pub(crate) fn retire(&self) {
        for backend in &self.backends {
            backend.retire();
        }
    }

    /// Gives a piece of work to a backend, by the pool's scheduler.
    pub(crate) fn pick(&self, choice: &Choice<'_>) -> Option<Work> {
        let excluded = choice.excluded.and_then(|excluded| {
            self.backends
                .iter()
                .position(|backend| std::ptr::eq(Rc::as_ptr(backend), excluded))
        });
        let usable = |index: usize| Some(index) != excluded;
        let index = choice
            .wanted
            .filter(|wanted| self.plan.weights[*wanted] > 0 && usable(*wanted))
            .or_else(|| self.pick_index(choice, usable))
            .or_else(|| {
                excluded.filter(|excluded| choice.or_excluded && self.plan.weights[*excluded] > 0)
            })?;
        let backend = Rc::clone(&self.backends[index]);
        let (shared, timed) = match self.plan.pool.scheduler {
            Scheduler::LeastConn => (true, false),
            Scheduler::P2c => (true, true),
            Scheduler::RoundRobin | Scheduler::SourceHash | Scheduler::Maglev => (false, false),
        };
        if shared {
            backend.cell.load.active.fetch_add(1, Relaxed);
        }
        backend.counters().requests.add(1);
        backend.counters().requests_active.add(1);
        Some(Work {
            backend,
            index,
            shared,
            began: timed.then(Instant::now),
        })
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
            let mut idle = backend.idle.borrow_mut();
            idle.retain_mut(|connection| {
                now_ms < connection.idle_since_ms + IDLE_MAX_MS && connection.io.is_quiet()
            });
            let reaped = backend
                .counters()
                .connections_idle
                .get()
                .saturating_sub(idle.len() as u64);
            backend.counters().connections_idle.sub(reaped);
        }
    }
}

impl LocalBackend {
    /// This worker's counters.
    pub(crate) fn counters(&self) -> &BackendCounters {
        &self.cell.counters[self.worker]
    }

    /// An idle connection that is alive, the one used last first: the others may grow old enough to be closed.
    pub(crate) fn reuse(&self) -> Option<Connection> {
        // The PROXY header at its beginning has told of another client.
        if self.proxy_protocol.is_some() {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut connection = idle.pop()?;
            self.counters().connections_idle.sub(1);
            if connection.io.is_quiet() {
                connection.reused = true;
                self.counters().connections_reused.add(1);
                return Some(connection);
            }
        }
    }

    /// Opens a connection for a client, TLS and PROXY header included; the caller's watch limits how long that takes.
    pub(crate) async fn connect_in_time(
        &self,
        watch: &Watch,
        timeout: Duration,
        client: &Client,
        buffers: &BufferPool,
    ) -> Result<Connection, Reason> {
        watch.arm(timeout, Phase::Busy);
        let mut connecting = pin!(self.connect(client, buffers));
        poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(Ok(connection)) => Poll::Ready(Ok(connection)),
            Poll::Ready(Err((reason, error))) => {
                tracing::debug!(backend = %self.id, %error, %reason, "cannot connect");
                Poll::Ready(Err(reason))
            }
            Poll::Pending if watch.is_expired() => Poll::Ready(Err(Reason::ConnectTimeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    async fn connect(
        &self,
        client: &Client,
        buffers: &BufferPool,
    ) -> Result<Connection, (Reason, io::Error)> {
        let failed = |error| (connect_reason(&error), error);
        let stream = connect(self.id.address).await.map_err(failed)?;
        self.counters().connections_opened.add(1);
        self.counters().connections_active.add(1);
        let open = OpenGuard {
            cell: Arc::clone(&self.cell),
            worker: self.worker,
        };
        let mut io = Plain::new(stream);
        if let Some(version) = self.proxy_protocol {
            let header = client.proxy_header(version);
            send_whole(&mut io, &header).await.map_err(failed)?;
        }
        let io = match &self.tls {
            None => Upstream::Plain(io),
            Some(tls) => {
                let refused = |error| (Reason::UpstreamTls, error);
                let session = tls
                    .connection(self.id.address)
                    .map_err(|error| refused(io::Error::other(error)))?;
                Upstream::Tls(Box::new(
                    tls::connect(io, session, buffers).await.map_err(refused)?,
                ))
            }
        };
        Ok(Connection {
            io,
            buffer: Buffer::default(),
            reused: false,
            idle_since_ms: 0,
            _open: open,
        })
    }

    /// Keeps a connection for the next request. Its buffer is empty and without memory.
    pub(crate) fn keep(&self, mut connection: Connection, now_ms: u64) {
        let mut idle = self.idle.borrow_mut();
        if self.current.get() && idle.len() < IDLE_MAX && self.proxy_protocol.is_none() {
            connection.idle_since_ms = now_ms;
            idle.push(connection);
            self.counters().connections_idle.add(1);
        }
    }

    /// Whether it is still in the config.
    pub(crate) fn is_current(&self) -> bool {
        self.current.get()
    }

    fn retire(&self) {
        self.current.set(false);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.counters().connections_idle.sub(idle.len() as u64);
    }
}

/// A number that is another one for each worker and each view of a pool, so that they do not draw alike.
fn seed() -> u64 {
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

//! A snapshot, compiled for the workers: names are numbers, routes are tables, certificates are loaded. Immutable,
//! and shared by all workers. What a change does not touch is the same object as before.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use weir_model::{BackendId, Listener, LogOutput, Name, Pool, Protocol, Scheduler, Snapshot};
use weir_tls::TicketKeys;

use crate::access_log::{Log, Output};
use crate::admission::Admission;
use crate::balance::outlier::{self, Failures};
use crate::balance::{Ewma, Maglev, RoundRobin, SourceHash};
use crate::engine::Error;
use crate::learned::Learned;
use crate::queue::Queue;
use crate::route_counters::{RouteCounters, RouteNumbers};
use crate::routing::Routes;
use crate::stats::{BackendCounters, ListenerCounters, PoolCounters};
use crate::sticky::{Cookies, Key};
use crate::tls;

/// Everything that the workers serve.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By number; `None` where a number's listener is not served any more.
    pub(crate) listeners: Vec<Option<Arc<ListenerPlan>>>,
    /// By number, likewise.
    pub(crate) pools: Vec<Option<Arc<PoolPlan>>>,
    /// Numbers of listeners by what their sockets are bound to.
    numbers: HashMap<(SocketAddr, bool), usize>,
}

/// A listener, compiled.
#[derive(Debug)]
pub(crate) struct ListenerPlan {
    pub(crate) number: usize,
    pub(crate) listener: Arc<Listener>,
    pub(crate) routes: Routes,
    pub(crate) tls: Option<weir_tls::Server>,
    /// Where its requests and connections are written down.
    pub(crate) log: Option<Log>,
    /// One for each worker.
    pub(crate) counters: Arc<[ListenerCounters]>,
    pub(crate) route_counters: RouteCounters,
    pub(crate) admission: Arc<Admission>,
}

/// A listener's plan as one thread holds it: copies of it are counted by that thread alone, and the plan's own count,
/// which all workers would write to, is left in peace.
#[derive(Debug)]
pub(crate) struct HeldPlan(pub(crate) Arc<ListenerPlan>);

impl Deref for HeldPlan {
    type Target = ListenerPlan;

    fn deref(&self) -> &ListenerPlan {
        &self.0
    }
}

/// A pool, compiled.
#[derive(Debug)]
pub(crate) struct PoolPlan {
    pub(crate) pool: Arc<Pool>,
    pub(crate) backends: Vec<BackendPlan>,
    /// The weights that count now: 0 for a backend that takes no new work.
    pub(crate) weights: Vec<u32>,
    /// Whether a backend takes new work.
    pub(crate) takes_work: bool,
    /// The number of the pool that takes it while none does.
    pub(crate) backup: Option<usize>,
    pub(crate) source_hash: Option<SourceHash>,
    pub(crate) maglev: Option<Maglev>,
    pub(crate) cookies: Option<Cookies>,
    /// The same object for as long as the pool's `tls` is the same.
    pub(crate) tls: Option<Arc<weir_tls::Client>>,
    /// Turns for the first request of each connection, so that even single requests go round over all workers. A
    /// worker that finds it taken goes by its own.
    pub(crate) turns: Mutex<RoundRobin>,
    /// Taken while one of its backends is ejected, so that two workers do not eject one too many.
    ejecting: Mutex<()>,
    pub(crate) cell: Arc<PoolCell>,
}

impl PoolPlan {
    /// Leaves a backend out that has failed too often, if the others can do without it.
    #[cold]
    pub(crate) fn eject(&self, index: usize, now_ms: u64) {
        let Some(policy) = &self.pool.outlier else {
            return;
        };
        let _ejecting = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ejected = |index: usize| self.backends[index].cell.failures.is_ejected(now_ms);
        if is_ejected(index) {
            return;
        }
        let takes = |index: &usize| self.weights[*index] > 0 && !is_ejected(*index);
        let takers = (0..self.backends.len()).filter(takes).count();
        let ejected = (0..self.backends.len())
            .filter(|index| is_ejected(*index))
            .count();
        if !outlier::may_eject(takers, ejected, self.backends.len(), policy) {
            return;
        }
        let backend = &self.backends[index];
        let length = backend.cell.failures.eject(policy, now_ms);
        tracing::warn!(
            pool = %backend.id.pool, backend = %backend.id.address, failures = policy.failures, ?length,
            "backend is ejected: it failed too often in a row"
        );
    }
}

/// A backend, and what all workers know about it.
#[derive(Debug)]
pub(crate) struct BackendPlan {
    pub(crate) id: BackendId,
    pub(crate) cell: Arc<BackendCell>,
}

/// What lives as long as a backend is in the config.
#[derive(Debug)]
pub(crate) struct BackendCell {
    pub(crate) load: BackendLoad,
    pub(crate) failures: Failures,
    /// One for each worker.
    pub(crate) counters: Box<[BackendCounters]>,
}

/// What all workers know about a backend's load; kept for schedulers that go by it, and written at the beginning and
/// the end of a piece of work. A cache line pair of its own: what is read beside it stays where it is.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct BackendLoad {
    /// Work under way.
    pub(crate) active: AtomicUsize,
    /// Connections that are open.
    pub(crate) connections: AtomicUsize,
    /// How long it takes to answer.
    pub(crate) latency: Ewma,
}

/// What lives as long as the engine for a pool's name.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PoolCell {
    /// Work under way over all workers; kept for a pool with a limit of its own.
    pub(crate) active: AtomicUsize,
    /// Those who wait for a place.
    pub(crate) queue: Arc<Queue>,
    /// The sessions of its application, where it goes by them.
    pub(crate) learned: Learned,
    /// One for each worker.
    pub(crate) counters: Box<[PoolCounters]>,
}

/// What lives as long as the engine for a listener's name.
#[derive(Debug)]
struct ListenerCell {
    number: usize,
    /// One for each worker.
    counters: Arc<[ListenerCounters]>,
    routes: RouteNumbers,
    /// The keys of its session tickets: clients resume their sessions after a reload, too.
    tickets: Option<Arc<TicketKeys>>,
    admission: Arc<Admission>,
}

/// What outlives plans: numbers and counters.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    key: Key,
    listeners: HashMap<Name, ListenerCell>,
    pools: HashMap<Name, usize>,
    pool_cells: HashMap<Name, Arc<PoolCell>>,
    backends: HashMap<BackendId, Arc<BackendCell>>,
    /// Access logs that are open, as long as a plan has them.
    outputs: HashMap<LogOutput, Weak<Output>>,
}

impl Registry {
    pub(crate) fn new(workers: usize, key: Key) -> Self {
        Self {
            workers,
            key,
            listeners: HashMap::new(),
            pools: HashMap::new(),
            pool_cells: HashMap::new(),
            backends: HashMap::new(),
            outputs: HashMap::new(),
        }
    }

    fn pool_number(&mut self, name: &Name) -> usize {
        let next = self.pools.len();
        *self.pools.entry(name.clone()).or_insert(next)
    }

    fn pool_cell(&mut self, name: &Name) -> Arc<PoolCell> {
        let workers = self.workers;
        let cell = || PoolCell {
            active: AtomicUsize::default(),
            queue: Arc::default(),
            learned: Learned::default(),
            counters: (0..workers).map(|_| PoolCounters::default()).collect(),
        };
        let cells = self.pool_cells.entry(name.clone());
        Arc::clone(cells.or_insert_with(|| Arc::new(cell())))
    }

    fn listener_cell(&mut self, name: &Name) -> &mut ListenerCell {
        let number = self.listeners.len();
        let counters = || {
            (0..self.workers)
                .map(|_| ListenerCounters::default())
                .collect()
        };
        self.listeners
            .entry(name.clone())
            .or_insert_with(|| ListenerCell {
                number,
                counters: counters(),
                routes: RouteNumbers::default(),
                tickets: None,
                admission: Arc::default(),
            })
    }

    fn backend_cell(&mut self, id: &BackendId) -> Arc<BackendCell> {
        let workers = self.workers;
        let cell = || BackendCell {
            load: BackendLoad::default(),
            failures: Failures::default(),
            counters: (0..workers).map(|_| BackendCounters::default()).collect(),
        };
        Arc::clone(
            self.backends
                .entry(id.clone())
                .or_insert_with(|| Arc::new(cell())),
        )
    }

    /// The access log of a listener, opened where it is not yet.
    fn log(&mut self, listener: &Listener) -> Result<Option<Log>, Error> {
        let Some(config) = &listener.access_log else {
            return Ok(None);
        };
        let known = self.outputs.get(&config.output).and_then(Weak::upgrade);
        let output = match known {
            Some(output) => output,
            None => {
                let output = Output::open(&config.output).map_err(|source| Error::AccessLog {
                    listener: listener.name.clone(),
                    output: config.output.clone(),
                    source,
                })?;
                let output = Arc::new(output);
                self.outputs
                    .insert(config.output.clone(), Arc::downgrade(&output));
                output
            }
        };
        Ok(Some(Log::new(config, output)))
    }

    /// Forgets backends that a committed plan does not have; connections that still use one keep its cell. Names keep
    /// their numbers, so that the counters of a listener that comes back go on: there are as many as names were ever
    /// configured.
    pub(crate) fn forget_all_but(&mut self, plan: &Plan) {
        let backends = plan.pools.iter().flatten().flat_map(|pool| &pool.backends);
        let kept: HashSet<&BackendId> = backends.map(|backend| &backend.id).collect();
        self.backends.retain(|id, _| kept.contains(id));
        self.outputs.retain(|_, output| output.strong_count() > 0);
    }

    /// Compiles a snapshot; takes over from `before` what has not changed.
    pub(crate) fn compile(
        &mut self,
        snapshot: &Arc<Snapshot>,
        before: &Plan,
    ) -> Result<Plan, Error> {
        let config = &snapshot.config;
        let mut pools: Vec<Option<Arc<PoolPlan>>> = Vec::new();
        for pool in &config.pools {
            let number = self.pool_number(&pool.name);
            if pools.len() <= number {
                pools.resize(number + 1, None);
            }
            let weights = weights(pool, snapshot);
            let before = before.pools.get(number).and_then(Option::as_ref);
            let same = before.filter(|before| {
                (Arc::ptr_eq(&before.pool, pool) || before.pool == *pool)
                    && before.weights == weights
            });
            pools[number] = Some(match same {
                Some(same) => Arc::clone(same),
                None => Arc::new(self.compile_pool(pool, weights, before)?),
            });
        }
        let mut listeners: Vec<Option<Arc<ListenerPlan>>> = Vec::new();
        for listener in config
            .listeners
            .iter()
            .filter(|listener| !listener.forward.is_xdp())
        {
            let number = self.listener_cell(&listener.name).number;
            if listeners.len() <= number {
                listeners.resize(number + 1, None);
            }
            let same = before
                .listeners
                .get(number)
                .and_then(Option::as_ref)
                .filter(|before| {
                    // Certificates are read again with every change of the listener, and at a reload of the file, which
                    // makes a new object even of an equal listener.
                    Arc::ptr_eq(&before.listener, listener)
                        || (before.listener == *listener && listener.certificates.is_empty())
                });
            listeners[number] = Some(match same {
                Some(same) => Arc::clone(same),
                None => Arc::new(self.compile_listener(listener)?),
            });
        }
        let served = listeners.iter().flatten();
        let numbers = served
            .map(|listener| (listener.socket_key(), listener.number))
            .collect();
        Ok(Plan {
            listeners,
            pools,
            numbers,
        })
    }

    fn compile_pool(
        &mut self,
        pool: &Arc<Pool>,
        weights: Vec<u32>,
        before: Option<&Arc<PoolPlan>>,
    ) -> Result<PoolPlan, Error> {
        let backup = pool.backup.as_ref().map(|backup| self.pool_number(backup));
        let tls = match (
            &pool.tls,
            before.filter(|before| before.pool.tls == pool.tls),
        ) {
            (None, _) => None,
            (Some(_), Some(before)) => before.tls.clone(),
            (Some(tls), None) => {
                let made = weir_tls::Client::new(tls).map_err(|source| Error::PoolTls {
                    pool: pool.name.clone(),
                    source: Box::new(source),
                })?;
                Some(Arc::new(made))
            }
        };
        let backends = pool.backends.iter().map(|backend| {
            let id = BackendId {
                pool: pool.name.clone(),
                address: backend.address,
            };
            let cell = self.backend_cell(&id);
            BackendPlan { id, cell }
        });
        let backends: Vec<BackendPlan> = backends.collect();
        let maglev = (pool.scheduler == Scheduler::Maglev).then(|| {
            let named = |(backend, weight): (&BackendPlan, &u32)| {
                (backend.id.address.to_string().into_bytes(), *weight)
            };
            Maglev::new(&backends.iter().zip(&weights).map(named).collect::<Vec<_>>())
        });
        let ids = || backends.iter().map(|backend| &backend.id);
        let cell = self.pool_cell(&pool.name);
        let cookies = pool
            .sticky
            .as_ref()
            .map(|sticky| Cookies::new(sticky, ids(), &self.key, &cell));
        Ok(PoolPlan {
            cookies,
            tls,
            source_hash: (pool.scheduler == Scheduler::SourceHash)
                .then(|| SourceHash::new(&weights)),
            maglev: maglev.flatten(),
            turns: Mutex::new(RoundRobin::new(&weights)),
            takes_work: weights.iter().any(|weight| *weight > 0),
            backup,
            ejecting: Mutex::new(()),
            cell,
            pool: Arc::clone(pool),
            backends,
            weights,
        })
    }

    fn compile_listener(&mut self, listener: &Arc<Listener>) -> Result<ListenerPlan, Error> {
        let routes = Routes::new(listener, |pool| self.pool_number(pool));
        let log = self.log(listener)?;
        let workers = self.workers;
        let cell = self.listener_cell(&listener.name);
        let route_counters = cell.routes.compile(listener, workers);
        let tls = match listener.protocol {
            Protocol::Https => {
                let refused = |source| Error::ListenerTls {
                    listener: listener.name.clone(),
                    source: Box::new(source),
                };
                let tickets = match &cell.tickets {
                    Some(tickets) => Arc::clone(tickets),
                    None => {
                        let fresh = TicketKeys::automatic().map_err(refused)?;
                        Arc::clone(cell.tickets.insert(Arc::new(fresh)))
                    }
                };
                let alpn = tls::alpn(listener);
                Some(weir_tls::Server::new(listener, &tickets, alpn).map_err(refused)?)
            }
            _ => None,
        };
        Ok(ListenerPlan {
            number: cell.number,
            counters: Arc::clone(&cell.counters),
            route_counters,
            admission: Arc::clone(&cell.admission),
            listener: Arc::clone(listener),
            routes,
            tls,
            log,
        })
    }
}

impl Plan {
    /// The outputs of all access logs, each once.
    pub(crate) fn outputs(&self) -> Vec<Arc<Output>> {
        let mut outputs: Vec<Arc<Output>> = Vec::new();
        for log in self
            .listeners
            .iter()
            .flatten()
            .filter_map(|listener| listener.log.as_ref())
        {
            if !outputs.iter().any(|known| Arc::ptr_eq(known, &log.output)) {
                outputs.push(Arc::clone(&log.output));
            }
        }
        outputs
    }

    /// The listener that is served under a number.
    pub(crate) fn listener(&self, number: usize) -> Option<&Arc<ListenerPlan>> {
        self.listeners.get(number)?.as_ref()
    }

    /// The listener with this address.
    pub(crate) fn listener_at(&self, key: (SocketAddr, bool)) -> Option<&Arc<ListenerPlan>> {
        self.listener(*self.numbers.get(&key)?)
    }
}

impl ListenerPlan {
    /// The pool of a listener that has no routes.
    pub(crate) fn default_pool(&self) -> Option<usize> {
        self.routes.default_pool()
    }

    /// What a listening socket is bound to: when this changes, the sockets do.
    pub(crate) fn socket_key(&self) -> (SocketAddr, bool) {
        (self.listener.bind, self.listener.protocol.is_udp())
    }
}

/// The weights that count. They are as in the config, or, where a backend starts slowly, in hundredths of that.
fn weights(pool: &Pool, snapshot: &Snapshot) -> Vec<u32> {
    let weight = |backend: &weir_model::Backend| {
        let id = BackendId {
            pool: pool.name.clone(),
            address: backend.address,
        };
        snapshot.weight(&id, backend)
    };
    let weights: Vec<u32> = pool.backends.iter().map(weight).collect();
    if weights.iter().all(|weight| weight.is_multiple_of(100)) {
        weights.iter().map(|weight| weight / 100).collect()
    } else {
        weights
    }
}

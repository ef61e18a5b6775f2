//! The engine: workers, and the changes that reach them.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_model::{L7, LogOutput, Name, Snapshot};
use weir_tls::TlsError;

use crate::access_log::{Lines, Writer};
use crate::listener;
use crate::plan::{Plan, Registry};
use crate::stats::{
    BackendStats, CertificateStats, ListenerStats, PoolCertificateStats, PoolStats, Stats,
};
use crate::sticky::Key;
use crate::tls::Renewal;
use crate::worker::{Command, Mailbox, Shared, Worker};

/// Why the engine cannot start, or cannot serve a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A worker thread cannot be started.
    #[error("cannot start worker {worker}: {source}")]
    Worker {
        /// Its number.
        worker: usize,
        /// What the system says.
        source: io::Error,
    },
    /// A listener's address cannot be had.
    #[error("listener `{listener}`: cannot bind {address}: {source}")]
    Bind {
        /// The listener.
        listener: Name,
        /// Its address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file that a listener's TLS needs cannot be used.
    #[error("listener `{listener}`: {source}")]
    ListenerTls {
        /// The listener.
        listener: Name,
        /// What is wrong with it.
        source: Box<TlsError>,
    },
    /// A listener's access log cannot be opened.
    #[error("listener `{listener}`: cannot open the access log {output}: {source}")]
    AccessLog {
        /// The listener.
        listener: Name,
        /// Where it goes.
        output: LogOutput,
        /// What the system says.
        source: io::Error,
    },
    /// The thread that writes access logs cannot be started.
    #[error("cannot start the thread that writes access logs: {source}")]
    Writer {
        /// What the system says.
        source: io::Error,
    },
    /// A file that TLS towards a pool's backends needs cannot be used.
    #[error("pool `{pool}`: {source}")]
    PoolTls {
        /// The pool.
        pool: Name,
        /// What is wrong with it.
        source: Box<TlsError>,
    },
    /// The thread that looks at certificates cannot be started.
    #[error("cannot start the thread that looks at certificates: {0}")]
    Renewal(io::Error),
    /// The system has no random numbers for the key of sticky cookies.
    #[error("cannot make a random key")]
    Key,
}

/// The proxy engine: serves every listener that is forwarded in user space.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    registry: Mutex<Registry>,
    _renewal: Renewal,
    /// Behind the workers: what they have handed over is written before the end.
    writer: Writer,
}

#[derive(Debug)]
struct Handle {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// A snapshot that can be served: certificates are read, sockets bound. Dropped, it leaves no trace.
#[derive(Debug)]
#[must_use = "a prepared snapshot is served only when it is committed"]
pub struct Prepared {
    plan: Plan,
    /// New sockets by the number of their listener, one for each worker.
    sockets: Vec<(usize, Vec<socket2::Socket>)>,
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline; 0 when all had ended.
    pub connections_left: usize,
}

impl Engine {
    /// Starts the workers; they serve nothing yet.
    pub fn start(config: &L7) -> Result<Self, Error> {
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        let key = Key::random().map_err(|_| Error::Key)?;
        let shared = Arc::<Shared>::default();
        let mut engine = Self {
            _renewal: Renewal::start(Arc::clone(&shared)).map_err(Error::Renewal)?,
            shared,
            workers: Vec::with_capacity(count),
            registry: Mutex::new(Registry::new(count, key)),
            writer: Writer::start().map_err(|source| Error::Writer { source })?,
        };
        for worker in 0..count {
            engine.workers.push(
                engine
                    .start_worker(worker)
                    .map_err(|source| Error::Worker { worker, source })?,
            );
        }
        Ok(engine)
    }

    fn start_worker(&self, index: usize) -> io::Result<Handle> {
        let mailbox = Arc::new(Mailbox::default());
        let (shared, of_worker) = (Arc::clone(&self.shared), Arc::clone(&mailbox));
        let lines = Lines::new(self.writer.sender());
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("weir-l7-{index}"))
            .spawn(move || {
                // A local runtime stays on the thread that built it.
                match Worker::runtime() {
                    Ok(runtime) => {
                        let _ = report.send(Ok(()));
                        runtime.block_on(Worker::run(index, shared, of_worker, lines));
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Handle {
            mailbox,
            thread: Some(thread),
        })
    }

    /// Does everything that can fail for serving `snapshot`: reads certificates, binds sockets. Nothing changes for
    /// clients until it is committed. What is the same as now costs next to nothing.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the same signature for every data plane"
    )]
    pub fn prepare(&self, snapshot: Arc<Snapshot>) -> Result<Prepared, Error> {
        let before = self.shared.plan.load_full();
        let plan = self
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .compile(&snapshot, &before)?;
        // Served already: by this listener, or by one that gives its sockets to this one.
        let new: Vec<_> = plan
            .listeners
            .iter()
            .flatten()
            .filter(|listener| before.listener_at(listener.socket_key()).is_none())
            .collect();
        for listener in &new {
            let (address, udp) = listener.socket_key();
            // An address of a socket of ours that has all addresses is taken by it, and lawfully so.
            let is_ours = before.listeners.iter().flatten().any(|ours| {
                let (other, other_udp) = ours.socket_key();
                let meet = other.ip().is_unspecified() || address.ip().is_unspecified();
                other.port() == address.port() && other_udp == udp && meet
            });
            if !is_ours {
                listener::check_free(address, udp).map_err(|source| Error::Bind {
                    listener: listener.listener.name.clone(),
                    address,
                    source,
                })?;
            }
        }
        let mut sockets = Vec::new();
        for listener in new {
            let (address, udp) = listener.socket_key();
            let bound: io::Result<Vec<_>> = self
                .workers
                .iter()
                .map(|_| listener::bind(address, udp))
                .collect();
            let name = || listener.listener.name.clone();
            sockets.push((
                listener.number,
                bound.map_err(|source| Error::Bind {
                    listener: name(),
                    address,
                    source,
                })?,
            ));
        }
        Ok(Prepared { plan, sockets })
    }

    /// Serves a prepared snapshot, which was prepared after the last commit. The next request of every connection
    /// goes by it; connections go on.
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { plan, sockets } = prepared;
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget_all_but(&plan);
        let plan = Arc::new(plan);
        self.shared.plan.store(Arc::clone(&plan));
        self.shared.generation.fetch_add(1, Ordering::Release);
        for (number, bound) in sockets {
            let Some(listener) = plan.listener(number) else {
                continue;
            };
            for (socket, worker) in bound.into_iter().zip(&self.workers) {
                if !listener.listener.protocol.is_udp()
                    && let Err(error) = listener::listen(&socket)
                {
                    // Bound, so this is not about the address being taken by a stranger.
                    tracing::error!(listener = %listener.listener.name, %error, "cannot listen");
                    continue;
                }
                worker
                    .mailbox
                    .send(Command::Serve(Arc::clone(listener), socket));
            }
        }
        for worker in &self.workers {
            worker.mailbox.send(Command::Refresh);
        }
    }

    /// What was counted since the start.
    pub fn stats(&self) -> Stats {
        let plan = self.shared.plan.load();
        let mut stats = Stats {
            tls_files_renewed: self.shared.renewals.renewed.load(Ordering::Relaxed),
            tls_files_refused: self.shared.renewals.refused.load(Ordering::Relaxed),
            access_logs: plan.outputs().iter().map(|output| output.stats()).collect(),
            ..Stats::default()
        };
        for listener in plan.listeners.iter().flatten() {
            stats.listeners.push(ListenerStats {
                routes: listener.route_counters.stats(&listener.listener),
                ..ListenerStats::sum(&listener.listener.name, listener.counters.iter())
            });
            if let Some(tls) = &listener.tls {
                for expiry in tls.current().expiries() {
                    stats.certificates.push(CertificateStats {
                        listener: listener.listener.name.clone(),
                        expiry: expiry.clone(),
                    });
                }
            }
        }
        let now_ms = self.shared.started.elapsed().as_millis() as u64;
        for pool in plan.pools.iter().flatten() {
            stats.pools.push(PoolStats {
                pending: pool.cell.queue.len() as u64,
                sticky_sessions: pool.cell.learned.len(),
                sticky_forgotten: pool.cell.learned.forgotten(),
                ..PoolStats::sum(&pool.pool.name, pool.cell.counters.iter())
            });
            let expiry = pool.tls.as_ref().and_then(|tls| tls.expiry());
            stats
                .pool_certificates
                .extend(expiry.map(|expiry| PoolCertificateStats {
                    pool: pool.pool.name.clone(),
                    expiry,
                }));
            for backend in &pool.backends {
                let failures = &backend.cell.failures;
                stats.backends.push(BackendStats {
                    ejected: failures.is_ejected(now_ms),
                    ejections: failures.ejections(),
                    ..BackendStats::sum(&backend.id, backend.cell.counters.iter())
                });
            }
        }
        stats
    }

    /// Opens the files of access logs anew, as somebody has moved them away. Lines that come meanwhile are in one or the
    /// other.
    pub fn reopen_access_logs(&self) {
        self.writer.reopen(self.shared.plan.load().outputs());
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.mailbox.active.load(Ordering::Relaxed))
            .sum()
    }

    /// Stops accepting, lets requests and tunnels end, and returns when all have or when `limit` is over. What is
    /// open then ends when the engine is dropped. Blocks; there is no way back.
    pub fn drain(&self, limit: Duration) -> Drained {
        let deadline = Instant::now() + limit;
        self.shared.draining.store(true, Ordering::Release);
        for worker in &self.workers {
            worker.mailbox.send(Command::Refresh);
        }
        loop {
            let connections_left = self.connections();
            let listening = self
                .workers
                .iter()
                .any(|worker| worker.mailbox.listening.load(Ordering::Relaxed) > 0);
            if (connections_left == 0 && !listening) || Instant::now() >= deadline {
                return Drained { connections_left };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.mailbox.send(Command::Stop);
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker panicked");
            }
        }
    }
}

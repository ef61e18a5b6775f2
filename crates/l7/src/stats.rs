//! Counters. Each worker counts into cells of its own; only reading them looks at all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weir_model::{BackendId, Name};
use weir_tls::CertificateExpiry;

use crate::access_log::AccessLogStats;
use crate::errors::Reason;
use crate::latency::{Histogram, LatencyStats};

/// A counter that one thread writes and any thread reads: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_sub(count), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for each reason.
#[derive(Debug)]
struct PerReason([Counter; Reason::COUNT]);

impl Default for PerReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// One worker's counters of a listener; a cache line pair of its own, so that workers do not share one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ListenerCounters {
    pub(crate) connections: Counter,
    pub(crate) connections_active: Counter,
    pub(crate) requests: Counter,
    pub(crate) answers: [Counter; 6],
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) datagrams_in: Counter,
    pub(crate) datagrams_out: Counter,
    pub(crate) datagrams_dropped: Counter,
    /// Of HTTP requests.
    pub(crate) latency: Histogram,
    errors: PerReason,
}

impl ListenerCounters {
    pub(crate) fn count_error(&self, reason: Reason) {
        self.errors.0[reason as usize].add(1);
    }

    pub(crate) fn count_answer(&self, status: u16) {
        self.answers[usize::from(status / 100).min(5)].add(1);
    }
}

/// One worker's counters of a backend.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct BackendCounters {
    pub(crate) requests: Counter,
    pub(crate) requests_active: Counter,
    pub(crate) connections_opened: Counter,
    pub(crate) connections_reused: Counter,
    pub(crate) connections_active: Counter,
    pub(crate) connections_idle: Counter,
    pub(crate) retries: Counter,
    failures: PerReason,
}

impl BackendCounters {
    pub(crate) fn count_failure(&self, reason: Reason) {
        self.failures.0[reason as usize].add(1);
    }
}

/// One worker's counters of a pool; HTTP only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PoolCounters {
    requests: Counter,
    retries: Counter,
    answers: [Counter; 6],
    latency: Histogram,
}

impl PoolCounters {
    /// A request came.
    pub(crate) fn begin(&self) {
        self.requests.add(1);
    }

    /// A request ended, after so many tries, with this status; 0: the client was told none.
    pub(crate) fn end(&self, tries: u32, status: u16, took: Duration) {
        self.retries.add(u64::from(tries.saturating_sub(1)));
        if status > 0 {
            self.answers[usize::from(status / 100).min(5)].add(1);
        }
        self.latency.record(took);
    }
}

/// What the engine has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Every listener that is served, in the order of the config.
    pub listeners: Vec<ListenerStats>,
    /// Every backend of every pool, in the order of the config.
    pub backends: Vec<BackendStats>,
    /// Every access log that is written, each once.
    pub access_logs: Vec<AccessLogStats>,
    /// Every pool, in the order of the config.
    pub pools: Vec<PoolStats>,
    /// Every certificate of every listener.
    pub certificates: Vec<CertificateStats>,
    /// Every certificate that a pool shows its backends.
    pub pool_certificates: Vec<PoolCertificateStats>,
    /// How often changed files of TLS were taken over.
    pub tls_files_renewed: u64,
    /// How often changed files of TLS could not be used.
    pub tls_files_refused: u64,
}

/// When a certificate of a listener ends.
#[derive(Clone, Debug)]
pub struct CertificateStats {
    /// The listener.
    pub listener: Name,
    /// The file, and the end.
    pub expiry: CertificateExpiry,
}

/// When the certificate that a pool shows its backends ends.
#[derive(Clone, Debug)]
pub struct PoolCertificateStats {
    /// The pool.
    pub pool: Name,
    /// The file, and the end.
    pub expiry: CertificateExpiry,
}

/// What was counted for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStats {
    /// Its name; `#` and its place in the listener, from 1, where it has none.
    pub name: String,
    /// Requests, or connections of a `tls` listener, that went by it.
    pub requests: u64,
}

/// What a listener has counted.
#[derive(Clone, Debug)]
pub struct ListenerStats {
    /// The listener.
    pub name: Name,
    /// Connections accepted; sessions begun on a `udp` listener.
    pub connections: u64,
    /// Connections, or UDP sessions, that are open now.
    pub connections_active: u64,
    /// Requests whose head was read and accepted.
    pub requests: u64,
    /// Final answers sent, by class: `[1]` is 1xx (101 only) and so on to `[5]`.
    pub answers: [u64; 6],
    /// Bytes taken from clients and passed on; heads as they were passed on.
    pub bytes_in: u64,
    /// Bytes sent to clients; heads as they were sent.
    pub bytes_out: u64,
    /// TLS handshakes that were completed.
    pub handshakes: u64,
    /// TLS handshakes that failed.
    pub handshakes_failed: u64,
    /// Datagrams from clients.
    pub datagrams_in: u64,
    /// Datagrams to clients.
    pub datagrams_out: u64,
    /// Datagrams that were not passed on, either way.
    pub datagrams_dropped: u64,
    /// How long HTTP requests took.
    pub latency: LatencyStats,
    /// Its routes, in the order of the config. Those of one name share a counter.
    pub routes: Vec<RouteStats>,
    /// Requests and connections that failed, by reason; only those that occurred.
    pub errors: Vec<(Reason, u64)>,
}

/// What was counted for a backend.
#[derive(Clone, Debug)]
pub struct BackendStats {
    /// The backend.
    pub id: BackendId,
    /// Requests, or proxied connections, given to it; a repeated one counts again.
    pub requests: u64,
    /// Requests, or proxied connections, that are under way now.
    pub requests_active: u64,
    /// Connections opened to it.
    pub connections_opened: u64,
    /// Requests that took a connection which an earlier one had left.
    pub connections_reused: u64,
    /// Connections that are open now, the idle ones included.
    pub connections_active: u64,
    /// Connections that wait for a request now.
    pub connections_idle: u64,
    /// Requests that were repeated on it after another connection or backend had failed.
    pub retries: u64,
    /// What failed, by reason; only what occurred.
    pub failures: Vec<(Reason, u64)>,
    /// It is left out now, because it failed too often in a row.
    pub ejected: bool,
    /// How often that happened.
    pub ejections: u64,
}

/// What was counted for a pool, and what is under way in it.
#[derive(Clone, Debug)]
pub struct PoolStats {
    /// The pool.
    pub name: Name,
    /// Requests and connections that wait for a place now.
    pub pending: u64,
    /// Sessions of the application that are remembered.
    pub sticky_sessions: u64,
    /// Those that were forgotten before their time, for want of room.
    pub sticky_forgotten: u64,
    /// HTTP requests that were led to it.
    pub requests: u64,
    /// Tries of these after the first.
    pub retries: u64,
    /// Answers to these, the backends' and ours, by class as in [`ListenerStats::answers`].
    pub answers: [u64; 6],
    /// How long they took.
    pub latency: LatencyStats,
}

impl PoolStats {
    pub(crate) fn sum<'c>(name: &Name, cells: impl Iterator<Item = &'c PoolCounters>) -> Self {
        let mut sum = Self {
            name: name.clone(),
            pending: 0,
            sticky_sessions: 0,
            sticky_forgotten: 0,
            requests: 0,
            retries: 0,
            answers: [0; 6],
            latency: LatencyStats::default(),
        };
        for cell in cells {
            sum.requests += cell.requests.get();
            sum.retries += cell.retries.get();
            for (sum, counter) in sum.answers.iter_mut().zip(&cell.answers) {
                *sum += counter.get();
            }
            sum.latency.add(&cell.latency);
        }
        sum
    }
}

impl ListenerStats {
    pub(crate) fn sum<'c>(name: &Name, cells: impl Iterator<Item = &'c ListenerCounters>) -> Self {
        let mut sum = Self {
            name: name.clone(),
            connections: 0,
            connections_active: 0,
            requests: 0,
            answers: [0; 6],
            bytes_in: 0,
            bytes_out: 0,
            handshakes: 0,
            handshakes_failed: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            datagrams_dropped: 0,
            latency: LatencyStats::default(),
            routes: Vec::new(),
            errors: Vec::new(),
        };
        let mut errors = [0; Reason::COUNT];
        for cell in cells {
            sum.connections += cell.connections.get();
            sum.connections_active += cell.connections_active.get();
            sum.requests += cell.requests.get();
            for (sum, counter) in sum.answers.iter_mut().zip(&cell.answers) {
                *sum += counter.get();
            }
            sum.bytes_in += cell.bytes_in.get();
            sum.bytes_out += cell.bytes_out.get();
            sum.handshakes += cell.handshakes.get();
            sum.handshakes_failed += cell.handshakes_failed.get();
            sum.datagrams_in += cell.datagrams_in.get();
            sum.datagrams_out += cell.datagrams_out.get();
            sum.datagrams_dropped += cell.datagrams_dropped.get();
            sum.latency.add(&cell.latency);
            add_reasons(&mut errors, &cell.errors);
        }
        sum.errors = occurred(&errors);
        sum
    }

    /// How often requests or connections failed for this reason.
    pub fn errors(&self, reason: Reason) -> u64 {
        count_of(&self.errors, reason)
    }
}

impl BackendStats {
    pub(crate) fn sum<'c>(
        id: &BackendId,
        cells: impl Iterator<Item = &'c BackendCounters>,
    ) -> Self {
        let mut sum = Self {
            id: id.clone(),
            requests: 0,
            requests_active: 0,
            connections_opened: 0,
            connections_reused: 0,
            connections_active: 0,
            connections_idle: 0,
            retries: 0,
            failures: Vec::new(),
            ejected: false,
            ejections: 0,
        };
        let mut failures = [0; Reason::COUNT];
        for cell in cells {
            sum.requests += cell.requests.get();
            sum.requests_active += cell.requests_active.get();
            sum.connections_opened += cell.connections_opened.get();
            sum.connections_reused += cell.connections_reused.get();
            sum.connections_active += cell.connections_active.get();
            sum.connections_idle += cell.connections_idle.get();
            sum.retries += cell.retries.get();
            add_reasons(&mut failures, &cell.failures);
        }
        sum.failures = occurred(&failures);
        sum
    }

    /// How often it failed for this reason.
    pub fn failures(&self, reason: Reason) -> u64 {
        count_of(&self.failures, reason)
    }
}

fn add_reasons(sums: &mut [u64; Reason::COUNT], counters: &PerReason) {
    for (sum, counter) in sums.iter_mut().zip(&counters.0) {
        *sum += counter.get();
    }
}

fn occurred(sums: &[u64; Reason::COUNT]) -> Vec<(Reason, u64)> {
    Reason::ALL
        .iter()
        .zip(sums)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (*reason, *count))
        .collect()
}

fn count_of(counts: &[(Reason, u64)], reason: Reason) -> u64 {
    counts
        .iter()
        .find(|(other, _)| *other == reason)
        .map_or(0, |(_, count)| *count)
}

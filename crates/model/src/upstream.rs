//! What goes to backends at one time at most, and how long connections to them are kept.

use std::time::Duration;

/// Bounds of the work that a pool's backends are given at one time, over all workers. What is more waits, or is
/// refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PoolLimits {
    /// Connections to one backend, those that wait for a request included.
    pub connections: Option<usize>,
    /// Requests, or proxied connections, of one backend.
    pub requests: Option<usize>,
    /// Requests, or proxied connections, of the whole pool.
    pub pool_requests: Option<usize>,
    /// Requests that wait for a place. Default 0: none.
    pub pending: usize,
    /// How long one waits. Default 1 s.
    pub pending_timeout: Option<Duration>,
}

impl PoolLimits {
    /// `pending_timeout` where none is given.
    pub const DEFAULT_PENDING_TIMEOUT: Duration = Duration::from_secs(1);

    /// How long a request waits for a place.
    pub fn pending_timeout(&self) -> Duration {
        self.pending_timeout
            .unwrap_or(Self::DEFAULT_PENDING_TIMEOUT)
    }
}

/// How long the connections to a pool's backends are kept. Numbers are of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolConnections {
    /// Connections to one backend that wait for a request. Default 1024.
    pub idle_max: usize,
    /// How long one waits. Default 55 s.
    pub idle_timeout: Duration,
    /// How old one gets; one that is older is not used again.
    pub lifetime: Option<Duration>,
    /// Requests that one carries.
    pub requests_max: Option<u32>,
}

impl Default for PoolConnections {
    fn default() -> Self {
        Self {
            // Those of so many requests at once. With fewer, each burst of more opens the rest anew, which costs more than
            // a request; what nobody needs ends by `idle_timeout`.
            idle_max: 1024,
            // Servers commonly close theirs after 60 s or more.
            idle_timeout: Duration::from_secs(55),
            lifetime: None,
            requests_max: None,
        }
    }
}

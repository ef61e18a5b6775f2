//! A pool: backends that serve the same thing, and how work is spread over them.

use crate::backend::Backend;
use crate::health::HealthCheck;
use crate::name::Name;

/// Backends that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: Name,
    /// How new work is spread. Default `round_robin`.
    pub scheduler: Scheduler,
    /// How backends are checked; absent: never, and all count as healthy.
    pub health: Option<HealthCheck>,
    /// A client's requests stay with one backend; HTTP only.
    pub sticky: Option<Sticky>,
    /// At least one; no address twice.
    pub backends: Vec<Backend>,
}

/// How new work is spread over a pool's backends. Weights always count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// In turn, heavier ones more often, spread evenly (nginx's smooth weighted round robin).
    #[default]
    RoundRobin,
    /// The fewest connections or requests under way, relative to weight. Proxied listeners only.
    LeastConn,
    /// By a hash of the client's address.
    SourceHash,
    /// Through a Maglev table, so that a change of backends moves few clients (Eisenbud et al., NSDI 2016, section 3.4):
    /// by the client's address and port at layer 4, by its address at layer 7.
    Maglev,
}

impl Scheduler {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::SourceHash => "source_hash",
            Self::Maglev => "maglev",
        }
    }
}

/// Persistence by cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// Who sets it.
    pub mode: StickyMode,
}

/// Who sets the cookie that persistence goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StickyMode {
    /// The load balancer, in addition to what the backend sets.
    Insert,
}

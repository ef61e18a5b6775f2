//! A server behind the load balancer.

use std::fmt;
use std::net::SocketAddr;

use crate::name::Name;

/// The highest weight of a backend.
pub const MAX_WEIGHT: u16 = 1000;

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new work, relative to the other backends of the pool; 0 takes none. Default 1, at most 1000.
    pub weight: u16,
}

/// What identifies a backend over reloads: the pool and the address, never the position in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The pool's name.
    pub pool: Name,
    /// The backend's address.
    pub address: SocketAddr,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.address)
    }
}

//! A server behind the load balancer.

use std::fmt;
use std::net::SocketAddr;

use crate::health::HealthCheck;
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
    /// Where it is checked, when that is somewhere else.
    pub check_address: Option<SocketAddr>,
    /// What the server calls itself in connection ids of QUIC, from 1 to 15 bytes; all of a pool have as many.
    pub quic_server_id: Option<Vec<u8>>,
}

impl Backend {
    /// Where a check asks about it: its own check address, else the check's port at its address, else where it listens.
    pub fn checked_at(&self, check: &HealthCheck) -> SocketAddr {
        self.check_address.unwrap_or_else(|| {
            SocketAddr::new(self.address.ip(), check.port.unwrap_or(self.address.port()))
        })
    }
}

/// What identifies a backend over reloads: the pool and the address, never the position in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The pool's name.
    pub pool: Name,
    /// The backend's address.
    pub address: SocketAddr,
}

/// The part of a backend's weight that counts now: less than all of it while the backend starts slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    percent: u8,
}

impl Share {
    /// The whole weight.
    pub const FULL: Self = Self { percent: 100 };

    /// So many hundredths, at least one and at most all.
    pub fn percent(percent: u8) -> Self {
        Self {
            percent: percent.clamp(1, 100),
        }
    }

    /// A weight's share, in hundredths of the weight's unit.
    pub fn of(self, weight: u16) -> u32 {
        u32::from(weight) * u32::from(self.percent)
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::FULL
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.address)
    }
}

//! A pool: backends that serve the same thing, and how work is spread over them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::health::HealthCheck;
use crate::name::Name;
use crate::outlier::Outlier;
use crate::proxy_protocol::ProxyProtocolVersion;
use crate::retry::Retry;
use crate::sticky::Sticky;
use crate::tls::UpstreamTls;
use crate::upstream::{PoolConnections, PoolLimits};

/// Backends that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: Name,
    /// How new work is spread. Default `round_robin`.
    pub scheduler: Scheduler,
    /// What `source_hash` and `maglev` hash; absent: what they hash by default.
    pub hash: Option<HashKey>,
    /// How backends are checked; absent: never, and all count as healthy.
    pub health: Option<HealthCheck>,
    /// A client's requests stay with one backend; HTTP only.
    pub sticky: Option<Sticky>,
    /// The pool that takes the new work while no backend of this one does. Chains of them end.
    pub backup: Option<Name>,
    /// How long a backend that comes back, or joins, takes to get its whole share of the work; absent: it gets it at once.
    pub slow_start: Option<Duration>,
    /// What is spoken with the backends by HTTP listeners. Default `http1`.
    pub protocol: PoolProtocol,
    /// Connections to the backends are TLS; absent: in clear. Proxied listeners only.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Connections to the backends begin with a PROXY header. Proxied listeners other than `udp` only.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// When requests are tried again.
    pub retry: Retry,
    /// When backends that fail are left out; absent: never.
    pub outlier: Option<Outlier>,
    /// What backends are given at one time.
    pub limits: PoolLimits,
    /// How long connections to backends are kept.
    pub connections: PoolConnections,
    /// A client's sessions go to one backend, where the XDP program forwards.
    pub persistence: Option<Persistence>,
    /// What becomes of sessions of what is removed, where the XDP program forwards.
    pub on_removal: OnRemoval,
    /// How connection ids of QUIC are read that name backends, where the XDP program forwards; empty: not at all. No
    /// `config_id` twice.
    pub quic: Vec<QuicIds>,
    /// At least one; no address twice.
    pub backends: Vec<Backend>,
}

/// What is spoken with a pool's backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PoolProtocol {
    /// HTTP/1.1: one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2: many at once. Over TLS it is agreed on (ALPN), in clear it is taken for granted.
    Http2,
}

/// How new work is spread over a pool's backends. Weights always count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// In turn, heavier ones more often, spread evenly (nginx's smooth weighted round robin).
    #[default]
    RoundRobin,
    /// The fewest connections or requests under way, relative to weight. Proxied listeners only.
    LeastConn,
    /// Of two backends drawn at random by weight the one that promises to answer sooner: by what is under way on it and
    /// by the time that its answers take (at layer 7), relative to weight.
    P2c,
    /// By a hash of the client's address, or of `hash`.
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
            Self::P2c => "p2c",
            Self::SourceHash => "source_hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether it goes by a hash.
    pub fn hashes(self) -> bool {
        matches!(self, Self::SourceHash | Self::Maglev)
    }
}

/// What a scheduler hashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The client's address.
    Address,
    /// The client's address and port.
    AddressPort,
    /// The request's target: path and query. HTTP only.
    Uri,
    /// The value of a request's header field, by its name in lower case. HTTP only.
    Header(String),
    /// The value of a request's cookie. HTTP only.
    Cookie(String),
}

impl HashKey {
    /// Whether it is a part of a request, which only HTTP listeners see.
    pub fn is_of_request(&self) -> bool {
        matches!(self, Self::Uri | Self::Header(_) | Self::Cookie(_))
    }
}

/// What becomes of a backend's sessions when it is removed from its pool, and of a listener's when that is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnRemoval {
    /// They go on until they end.
    #[default]
    Keep,
    /// They end at once: those of TCP are reset.
    Reset,
}

/// How a server writes its own id into connection ids of QUIC (draft-ietf-quic-load-balancers).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuicIds {
    /// The configuration that ids say they are of, from 0 to 6. Default 0.
    pub config_id: u8,
    /// Bytes of the nonce behind the server's id, from 4 to 18.
    pub nonce_length: u8,
    /// The key that both are encrypted with, a file of 16 bytes or 32 hexadecimal digits; absent: they are in clear.
    pub key_file: Option<PathBuf>,
}

/// Persistence by the client's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long a client is remembered after its last session. Default 5 min.
    pub timeout: Duration,
    /// Bits of an IPv4 address that tell clients apart. Default 32.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that tell clients apart. Default 64: a host changes the rest as it likes.
    pub prefix_v6: u8,
}

impl Default for Persistence {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            prefix_v4: 32,
            prefix_v6: 64,
        }
    }
}

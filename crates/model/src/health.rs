//! How backends are checked, and what a check concludes.

use std::sync::Arc;
use std::time::Duration;

use crate::proxy_protocol::ProxyProtocolVersion;
use crate::tls::UpstreamTls;

/// What the checks of a pool's backends do, how often, and how many results in a row change a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// The question that is asked.
    pub probe: HealthProbe,
    /// From the start of one check to the start of the next. Default 2 s.
    pub interval: Duration,
    /// A check without an answer after this time has failed. Default 1 s, or `interval` if that is shorter; never
    /// above `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back. Default 2.
    pub rise: u32,
    /// Failures in a row that take a backend out. Default 3.
    pub fall: u32,
    /// The port that is asked, in place of the backend's own.
    pub port: Option<u16>,
    /// The pool's: what is asked over a connection is asked over TLS, as its requests are. Absent where `port` is given.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The pool's: checks begin with a PROXY header that says that they are our own. Absent where `port` is given.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

impl HealthCheck {
    /// `interval` where none is given.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
    /// `timeout` where none is given and the interval is not shorter.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
    /// `rise` where none is given.
    pub const DEFAULT_RISE: u32 = 2;
    /// `fall` where none is given.
    pub const DEFAULT_FALL: u32 = 3;
}

impl HealthProbe {
    /// The statuses that count as healthy where none are given, from the first to the second.
    pub const DEFAULT_STATUS: (u16, u16) = (200, 399);
}

/// The question that a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HealthProbe {
    /// Can a TCP connection be opened?
    Tcp,
    /// Does what comes over a TCP connection contain what is expected?
    Exchange {
        /// What is sent first; may be nothing.
        send: Vec<u8>,
        /// What the answer contains, not empty.
        expect: Vec<u8>,
    },
    /// Does a request over HTTP/1.1 have one of the expected answers?
    Http(HttpProbe),
    /// Does the service say that it is serving (grpc.health.v1, over HTTP/2 in clear)?
    Grpc {
        /// The service that is asked about; empty: the server as a whole.
        service: String,
        /// `:authority`; the backend's address when absent.
        host: Option<String>,
    },
}

impl HealthProbe {
    /// The word in the config.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp | Self::Exchange { .. } => "tcp",
            Self::Http(_) => "http",
            Self::Grpc { .. } => "grpc",
        }
    }
}

/// A request, and which answers to it are healthy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    /// The method. Default `GET`.
    pub method: String,
    /// The request target, from `/`. Default `/`.
    pub path: String,
    /// The `Host` header; the backend's address when absent.
    pub host: Option<String>,
    /// Further header fields, as they are sent.
    pub headers: Vec<(String, String)>,
    /// Lowest status that counts as healthy. Default 200.
    pub status_min: u16,
    /// Highest status that counts as healthy. Default 399.
    pub status_max: u16,
    /// What the answer's body has to contain in its first 64 KiB; absent: the body does not matter.
    pub body: Option<String>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        let (status_min, status_max) = HealthProbe::DEFAULT_STATUS;
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            status_min,
            status_max,
            body: None,
        }
    }
}

/// The verdict on a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// No check has ended yet, or the pool has no check: new work is given to it.
    #[default]
    Unknown,
    /// Passing.
    Up,
    /// Failing: takes no new work; what is established goes on.
    Down,
}

impl Health {
    /// Whether new connections, sessions and requests may go to a backend in this state.
    pub fn takes_new_work(self) -> bool {
        !matches!(self, Self::Down)
    }
}

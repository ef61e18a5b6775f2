//! The proxy engine: HTTP/1.1, HTTP/2, TLS and TCP in user space.
//!
//! [`Engine`] serves the listeners of a [`weir_model::Snapshot`]. One worker thread per core has its own listening
//! sockets, buffers, deadlines and upstream connections; on the path of a request workers share nothing but the
//! plan that the snapshot was compiled to. The codecs do no I/O: bytes in, events out.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access_log;
mod admission;
pub mod balance;
mod buffer;
mod client;
pub mod codec;
mod deadlines;
mod downstream;
mod edits;
mod engine;
pub mod errors;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod grpc;
mod h2;
mod latency;
mod learned;
mod listener;
mod multiplex;
mod plan;
mod queue;
mod relay;
mod retry;
mod route_counters;
pub mod routing;
pub mod stats;
mod sticky;
mod tls;
mod transport;
mod tunnel;
mod udp;
mod upstream;
mod worker;

pub use access_log::{AccessLogStats, Termination};
pub use engine::{Drained, Engine, Error, Prepared};
pub use errors::{Reason, Side};
pub use latency::LatencyStats;
pub use stats::{
    BackendStats, CertificateStats, ListenerStats, PoolCertificateStats, PoolStats, RouteStats,
    Stats,
};
pub use weir_tls::TlsError;

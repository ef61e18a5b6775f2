//! What a node is told to do: listeners, pools, backends, routes and policies.
//!
//! [`Config`] is valid by construction: it only comes out of [`Config::parse`], so names resolve,
//! binds do not collide, and a listener's mode fits its protocol. Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backend;
pub mod config;
pub mod health;
pub mod listener;
pub mod name;
pub mod node;
pub mod pool;
pub mod route;
pub mod snapshot;

pub use backend::{Backend, BackendId, MAX_WEIGHT, Share};
pub use config::{
    Config, ConfigErrors, Diagnostic, Kind as DiagnosticKind, Note, Position, Severity,
};
pub use health::{Health, HealthCheck, HealthProbe, HttpProbe};
pub use listener::{CertificateFiles, Forward, HttpLimits, Listener, Protocol, Timeouts};
pub use name::{Name, NameError};
pub use node::{Api, L4, L7, Node, XdpMode};
pub use pool::{HashKey, Pool, Scheduler, Sticky, StickyMode};
pub use route::{HostError, HostPattern, PathError, PathPrefix, Route};
pub use snapshot::{BackendState, Snapshot};

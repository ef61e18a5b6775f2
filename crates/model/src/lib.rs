//! What a node is told to do: listeners, pools, backends, routes and policies.
//!
//! [`Config`] is valid by construction: it only comes out of [`Config::parse`], so names resolve,
//! binds do not collide, and a listener's mode fits its protocol. Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access_log;
pub mod action;
pub mod backend;
pub mod condition;
pub mod config;
pub mod endpoints;
pub mod header_edits;
pub mod health;
mod http2;
pub mod http_policy;
pub mod ip_prefix;
pub mod listener;
pub mod name;
pub mod node;
pub mod outlier;
pub mod path;
pub mod pattern;
pub mod pool;
pub mod proxy_protocol;
pub mod retry;
pub mod route;
pub mod session;
pub mod snapshot;
pub mod sticky;
pub mod template;
pub mod tls;
pub mod tunnel;
pub mod upstream;

pub use access_log::{AccessLog, LogFormat, LogOutput, LogVariable};
pub use action::{Action, FixedAnswer, Group, PathRewrite, Redirect, Rewrite, Scheme, SplitPool};
pub use backend::{Backend, BackendId, MAX_WEIGHT, Share};
pub use condition::{Condition, ValueTest};
pub use config::{
    Config, ConfigErrors, Diagnostic, Kind as DiagnosticKind, Note, Position, Severity,
};
pub use endpoints::{Endpoints, EndpointsError};
pub use header_edits::{HeaderEdits, HeaderField, HeaderVariable};
pub use health::{Health, HealthCheck, HealthProbe, HttpProbe};
pub use http_policy::{EncodedSlashes, HttpPolicy};
pub use http2::Http2;
pub use ip_prefix::{IpPrefix, IpPrefixError};
pub use listener::{
    CertificateFiles, ConnectionLimits, Forward, HttpLimits, Listener, Protocol, Timeouts,
};
pub use name::{Name, NameError};
pub use node::{Api, L4, L7, Node, OnStop, Spread, XdpMode};
pub use outlier::{Outlier, OutlierOn};
pub use pattern::{Pattern, PatternError};
pub use pool::{HashKey, OnRemoval, Persistence, Pool, PoolProtocol, QuicIds, Scheduler};
pub use proxy_protocol::{ProxyProtocolIn, ProxyProtocolVersion};
pub use retry::{Retry, RetryOn};
pub use route::{HostError, HostPattern, PathError, PathMatch, PathPrefix, RequestParts, Route};
pub use session::SessionTimeouts;
pub use snapshot::{BackendState, Snapshot};
pub use sticky::{CookieAttributes, Learning, SameSite, Sticky, StickyMode};
pub use template::{Part, Template, TemplateError};
pub use tls::{ClientAuth, ClientAuthMode, ListenerTls, TlsVersion, UpstreamTls};
pub use tunnel::{Encapsulation, Tunnel};
pub use upstream::{PoolConnections, PoolLimits};

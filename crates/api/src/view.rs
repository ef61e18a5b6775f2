//! What the API shows: plain values, taken at the moment of the question.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use weir_model::Endpoints;

use crate::order::{Override, OverrideView};
use crate::timestamp::rfc3339;

/// What a node can tell about itself. Called on threads that may block for milliseconds, never on the data path.
pub trait View: Send + Sync + 'static {
    /// Whether the node takes no new work and is about to stop. Asked often; must not block.
    fn is_draining(&self) -> bool;
    /// The node as a whole.
    fn node(&self) -> NodeView;
    /// Every listener, in the order of the file.
    fn listeners(&self) -> Vec<ListenerView>;
    /// Every pool, in the order of the file.
    fn pools(&self) -> Vec<PoolView>;
    /// Every backend of every pool, in the order of the file.
    fn backends(&self) -> Vec<BackendView>;
    /// What operators have set in place of the config.
    fn overrides(&self) -> Vec<OverrideView>;
    /// The layer 4 sessions that fit the filter, at most `filter.limit` of them. The error says, for people, what is
    /// wrong with the filter.
    fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, String>;
}

/// Some of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// How many there are in all, also those that a limit left out.
    pub total: u64,
    /// Those that are shown.
    pub items: Vec<T>,
}

impl<T> Page<T> {
    /// All of them.
    pub fn whole(items: Vec<T>) -> Self {
        Self {
            total: items.len() as u64,
            items,
        }
    }
}

/// The node as a whole.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The version of weir.
    pub version: &'static str,
    /// When the process started.
    pub started: SystemTime,
    /// The snapshot that is in force.
    pub generation: u64,
    /// What became of reloads.
    pub reloads: ReloadsView,
    /// Packets that layer 4 dropped, by reason, from all listeners.
    pub drops: Vec<DropView>,
    /// The session tables of both families; none where layer 4 does not run.
    pub sessions: Vec<SessionsView>,
    /// Interfaces that layer 4 is attached to, or should be.
    pub interfaces: Vec<InterfaceView>,
    /// Cores that layer 4's packets are spread over; none where they are not.
    pub cores: Vec<CoreView>,
    /// Access logs.
    pub access_logs: Vec<AccessLogView>,
    /// Health checks that began late.
    pub late_checks: u64,
    /// What TLS is made of.
    pub tls: TlsView,
    /// The process; none where the system does not tell.
    pub process: Option<ProcessView>,
}

/// A core that packets are spread over.
#[derive(Clone, Copy, Debug)]
pub struct CoreView {
    /// The kernel's number of it.
    pub core: u32,
    /// Packets that it has received and handed on.
    pub handed: u64,
    /// Packets that it was handed and has looked at.
    pub taken: u64,
}

/// Certificates, and what became of files that were replaced.
#[derive(Clone, Debug, Default)]
pub struct TlsView {
    /// Every certificate of every listener.
    pub certificates: Vec<CertificateView>,
    /// Every certificate that a pool shows its backends.
    pub pool_certificates: Vec<PoolCertificateView>,
    /// How often changed files were taken over.
    pub renewed: u64,
    /// How often changed files could not be used, and those before stayed in force.
    pub refused: u64,
}

/// A certificate of a listener.
#[derive(Clone, Debug)]
pub struct CertificateView {
    /// The listener.
    pub listener: String,
    /// The file that it is in.
    pub file: String,
    /// When it ends, in seconds since 1970.
    pub not_after_s: u64,
}

/// The certificate that a pool shows its backends.
#[derive(Clone, Debug)]
pub struct PoolCertificateView {
    /// The pool.
    pub pool: String,
    /// The file that it is in.
    pub file: String,
    /// When it ends, in seconds since 1970.
    pub not_after_s: u64,
}

/// How long requests took; in metrics only.
#[derive(Clone, Debug, Default)]
pub struct LatencyView {
    /// Upper bounds in seconds, the last one infinite, each with the requests that it has and the one before has not.
    pub buckets: Vec<(f64, u64)>,
    /// All of them together.
    pub sum: Duration,
}

/// A session table.
#[derive(Clone, Copy, Debug)]
pub struct SessionsView {
    /// `ipv4` or `ipv6`: that of the clients' packets.
    pub family: &'static str,
    /// Sessions now.
    pub open: u64,
    /// What the table is sized for.
    pub max: u64,
    /// Sessions that ended because they were idle.
    pub expired: u64,
    /// Memory of the table.
    pub table_bytes: u64,
}

/// An interface of layer 4.
#[derive(Clone, Debug)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// How XDP is attached, `native` or `generic`; none: it is not.
    pub mode: Option<&'static str>,
}

/// What the system says about the process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessView {
    /// CPU time so far, user and system.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// File descriptors that may be open.
    pub max_fds: u64,
}

/// What became of reloads.
#[derive(Clone, Copy, Debug)]
pub struct ReloadsView {
    /// Since the start.
    pub succeeded: u64,
    /// Refused, and everything kept.
    pub failed: u64,
    /// Whether the last one, or the start itself, succeeded.
    pub last_succeeded: bool,
    /// When that was.
    pub last: SystemTime,
}

/// A listener.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// VIP and port.
    #[schema(value_type = String, example = "203.0.113.10:443")]
    pub bind: SocketAddr,
    /// `tcp`, `udp`, `tls`, `http` or `https`.
    pub protocol: &'static str,
    /// `proxy`, `fullnat`, `nat`, `dr` or `tunnel`.
    pub forward: &'static str,
    /// Where traffic goes that no route matches.
    pub pool: Option<String>,
    /// Its routes, in the order of the file.
    pub routes: Vec<RouteView>,
    /// What went through it.
    pub traffic: Traffic,
    /// How long its HTTP requests took.
    #[serde(skip)]
    pub latency: Option<LatencyView>,
}

/// A route of a listener.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RouteView {
    /// Its name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hosts it applies to; empty: all.
    pub hosts: Vec<String>,
    /// The whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where the path begins; with no path at all: all paths.
    pub path_prefix: Option<String>,
    /// An expression for the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// What else is asked of a request, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// `pool`, `split`, `redirect` or `answer`.
    pub action: &'static str,
    /// Where matching requests go.
    pub pool: Option<String>,
    /// Where they go by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<SplitView>,
    /// The status of a redirect or an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Requests, or connections of a `tls` listener, that went by it; routes of one name are counted together.
    pub requests: u64,
}

/// One side of a split.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SplitView {
    /// The pool.
    pub pool: String,
    /// Its share, relative to the others.
    pub weight: u32,
}

/// What became of the lines of an access log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccessLogView {
    /// The file, or `standard output`.
    pub output: String,
    /// Lines that were written.
    pub written: u64,
    /// Lines that were not, as the disk could not keep up or take them.
    pub dropped: u64,
}

/// Counters since the start. What a kind of listener or backend cannot have is absent.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Traffic {
    /// Connections (proxy) or sessions (XDP) so far.
    pub connections: u64,
    /// Of these, open now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Of these, open and waiting for a request; proxied backends only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// Requests that took a connection which an earlier one had left; proxied backends only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// From clients, towards backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// From backends, towards clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// Packets (XDP) or datagrams (proxied UDP) from clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_in: Option<u64>,
    /// Packets (XDP) or datagrams (proxied UDP) towards clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_out: Option<u64>,
    /// HTTP requests of a listener; requests and proxied connections that were given to a backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Of these, under way now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_open: Option<u64>,
    /// Requests that came to this backend after another try had failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u64>,
    /// HTTP answers by class of status: 1xx, 2xx, 3xx, 4xx, 5xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<[u64; 5]>,
    /// TLS handshakes that were completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<u64>,
    /// TLS handshakes that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_failed: Option<u64>,
    /// What was dropped, refused or broke off, by reason.
    pub drops: Vec<DropView>,
}

/// One reason why something was dropped, refused or broke off, and how often.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DropView {
    /// One word of a documented list.
    pub reason: &'static str,
    /// Times so far.
    pub count: u64,
}

/// A pool.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// How work is spread: `round_robin`, `least_conn`, `p2c`, `source_hash` or `maglev`.
    pub scheduler: &'static str,
    /// How backends are checked; none: not at all.
    pub check: Option<CheckView>,
    /// The cookie that keeps clients with a backend.
    pub sticky_cookie: Option<String>,
    /// Whose cookie that is: `insert`, `rewrite`, `prefix` or `learn`.
    pub sticky_mode: Option<&'static str>,
    /// Sessions that are remembered, and those that were forgotten before their time; `learn` only.
    pub sticky_sessions: Option<StickySessionsView>,
    /// Backends in all.
    pub backends: u64,
    /// Backends that take new work.
    pub available: u64,
    /// Proxied requests and connections that wait for a place within the pool's limits.
    pub pending: u64,
    /// HTTP requests that were led to it, tries after the first not included.
    pub requests: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Answers to these requests, ours included, by class of status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub answers: [u64; 5],
    /// How long they took.
    #[serde(skip)]
    pub latency: LatencyView,
}

/// What is remembered of an application's sessions.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct StickySessionsView {
    /// Sessions that are remembered.
    pub open: u64,
    /// Those that were forgotten before their time, for want of room.
    pub forgotten: u64,
}

/// A pool's health check.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CheckView {
    /// `tcp`, `http` or `grpc`.
    pub r#type: &'static str,
    /// The path that is asked for; HTTP only.
    pub path: Option<String>,
    /// From the start of one check to the start of the next.
    #[serde(rename = "interval_ms", serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub interval: Duration,
    /// A check has failed after this time.
    #[serde(rename = "timeout_ms", serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub timeout: Duration,
    /// Successes in a row that bring a backend back.
    pub rise: u32,
    /// Failures in a row that take a backend out.
    pub fall: u32,
}

/// A backend of a pool.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackendView {
    /// Its pool.
    pub pool: String,
    /// Its address.
    #[schema(value_type = String, example = "10.0.2.11:8080")]
    pub address: SocketAddr,
    /// Its share of new work.
    pub weight: u16,
    /// The verdict of the health checks.
    pub health: HealthView,
    /// An operator drains it.
    pub draining: bool,
    /// What an operator has set in place of the config.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Override>,
    /// Whether new work may go to it.
    pub available: bool,
    /// It failed too often in a row, and the proxy gives it no new work for a while.
    pub ejected: bool,
    /// How often that happened.
    pub ejections: u64,
    /// What the checks have shown; none where it is not checked.
    pub checks: Option<ChecksView>,
    /// What went to it and came from it.
    pub traffic: Traffic,
}

/// The verdict on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthView {
    /// Not checked, or not yet: new work is given to it.
    Unknown,
    /// Passing.
    Up,
    /// Failing: no new work.
    Down,
}

impl From<weir_model::Health> for HealthView {
    fn from(health: weir_model::Health) -> Self {
        match health {
            weir_model::Health::Unknown => Self::Unknown,
            weir_model::Health::Up => Self::Up,
            weir_model::Health::Down => Self::Down,
        }
    }
}

/// What the checks of a backend have shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChecksView {
    /// When the verdict came to be.
    #[serde(serialize_with = "instant")]
    #[schema(value_type = String, format = DateTime)]
    pub since: SystemTime,
    /// Why it is what it is.
    pub reason: String,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks that could not be made for want of our own resources.
    pub inconclusive: u64,
    /// How long the last one took.
    #[serde(rename = "last_duration_ms", serialize_with = "maybe_milliseconds")]
    #[schema(value_type = Option<f64>)]
    pub last_duration: Option<Duration>,
    /// Why the last one that did not pass did not.
    pub last_failure: Option<String>,
}

/// A layer 4 session.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// The listener's name; none where it has gone.
    pub listener: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `fullnat`, `nat`, `dr` or `tunnel`.
    pub forward: &'static str,
    /// The client's end.
    #[schema(value_type = String, example = "198.51.100.7:40112")]
    pub client: SocketAddr,
    /// VIP and port.
    #[schema(value_type = String, example = "203.0.113.10:3306")]
    pub vip: SocketAddr,
    /// What stands in the client's place with FullNAT; the outer source, with port 0, of a tunnel.
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// The backend's pool; none where it has gone.
    pub pool: Option<String>,
    /// The backend's end; none where it has gone.
    #[schema(value_type = Option<String>, example = "10.0.2.11:3306")]
    pub backend: Option<SocketAddr>,
    /// The state: of TCP as in netfilter's connection tracking.
    pub state: &'static str,
    /// Since the last packet of either direction.
    #[serde(rename = "idle_ms", serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub idle: Duration,
    /// How long it will live from now on if no packet comes.
    #[serde(rename = "timeout_left_ms", serialize_with = "milliseconds")]
    #[schema(value_type = f64)]
    pub timeout_left: Duration,
    /// Packets from the client.
    pub packets_in: u64,
    /// Packets to the client; 0 where they do not come through here.
    pub packets_out: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client; 0 where they do not come through here.
    pub bytes_out: u64,
}

/// Some sessions.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct SessionPage {
    /// How many fit in all, also those that the limit left out; none where the question had a `cursor`.
    pub total: Option<u64>,
    /// Those that are shown.
    pub items: Vec<SessionView>,
    /// The `cursor` with which the same question goes on; none: these are the last ones.
    #[schema(example = "4-81920-3276800")]
    pub next: Option<String>,
}

/// Which sessions are asked for: those that fit everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Only of this listener.
    pub listener: Option<String>,
    /// Only to backends of this pool.
    pub pool: Option<String>,
    /// Only of these clients.
    pub client: Option<Endpoints>,
    /// Only with this in the client's place.
    pub local: Option<Endpoints>,
    /// Only to these backends.
    pub backend: Option<Endpoints>,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// How packets are rewritten: the word in the config.
    pub forward: Option<String>,
    /// The state: the word in answers.
    pub state: Option<String>,
    /// At most so many are shown.
    pub limit: usize,
    /// Where a former answer has ended.
    pub cursor: Option<String>,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(in_milliseconds(*duration))
}

fn maybe_milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(in_milliseconds).serialize(serializer)
}

/// Whole microseconds: more digits would be noise.
fn in_milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn instant<S: Serializer>(instant: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*instant))
}

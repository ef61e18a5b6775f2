//! The grammar of the config file: which tables and keys there are, and what a value may be by itself.
//! What must hold between values is in `resolve`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::access_log::{ACCESS_LOG, ListenerLog, read_access_log, read_listener_log};
use super::address::{backend_address, ip_address, listen_address};
use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::duration::format_duration;
use super::health::read_probe;
use super::http_policy::read_http_policy;
use super::http2::{HTTP2, read_http2};
use super::policy::{
    OUTLIER, POOL_CONNECTIONS, POOL_LIMITS, Policies, RETRY, read_hash, read_policies,
};
use super::proxy_protocol::{PROXY_PROTOCOL, PROXY_PROTOCOL_VERSIONS, read_proxy_protocol};
use super::quic::{QUIC, check_quic, read_quic, read_server_id};
use super::route::{self, RouteTable, read_route};
use super::section::{Grammar, Read, Section, duration, integer, text, word};
use super::session::{
    PERSISTENCE, SESSION_TIMEOUTS, read_idle_timeout, read_persistence, read_session_timeouts,
};
use super::source::{At, Span};
use super::sticky::{STICKY, read_sticky};
use super::tls::{LISTENER_TLS, POOL_TLS, read_listener_tls, read_pool_tls};
use super::tunnel::{TUNNEL, read_tunnel};
use crate::access_log::AccessLog;
use crate::backend::{Backend, MAX_WEIGHT};
use crate::health::HealthCheck;
use crate::http_policy::HttpPolicy;
use crate::http2::Http2;
use crate::listener::{
    CertificateFiles, ConnectionLimits, Forward, HttpLimits, Protocol, Timeouts,
};
use crate::name::Name;
use crate::node::{Api, L4, L7, Node, OnStop, Spread, XdpMode};
use crate::pool::{HashKey, OnRemoval, Persistence, PoolProtocol, QuicIds, Scheduler};
use crate::proxy_protocol::{ProxyProtocolIn, ProxyProtocolVersion};
use crate::sticky::Sticky;
use crate::tls::{ListenerTls, UpstreamTls};
use crate::tunnel::Tunnel;

static ROOT: Grammar = Grammar {
    title: "the file",
    keys: &["node", "l4", "l7", "api", "access_log", "listener", "pool"],
    synonyms: &[
        ("frontend", "listener"),
        ("server", "listener"),
        ("virtual_server", "listener"),
        ("upstream", "pool"),
        ("cluster", "pool"),
        ("xdp", "l4"),
        ("global", "node"),
        ("log", "access_log"),
    ],
    example: "",
};
static NODE: Grammar = Grammar {
    title: "[node]",
    keys: &["name", "drain_timeout", "state_dir"],
    synonyms: &[("hostname", "name")],
    example: "[node]",
};
static L4_TABLE: Grammar = Grammar {
    title: "[l4]",
    keys: &[
        "interfaces",
        "xdp_mode",
        "local_addresses",
        "max_sessions",
        "persistent_clients",
        "timeouts",
        "max_sessions_ipv6",
        "pin_dir",
        "on_stop",
        "spread",
    ],
    synonyms: &[
        ("interface", "interfaces"),
        ("mode", "xdp_mode"),
        ("local_address", "local_addresses"),
        ("bpffs", "pin_dir"),
        ("on_exit", "on_stop"),
        ("cores", "spread"),
        ("cpus", "spread"),
        ("cpumap", "spread"),
    ],
    example: "[l4]",
};
static L7_TABLE: Grammar = Grammar {
    title: "[l7]",
    keys: &["workers"],
    synonyms: &[("threads", "workers")],
    example: "[l7]",
};
static API: Grammar = Grammar {
    title: "[api]",
    keys: &["listen", "token_file"],
    synonyms: &[
        ("bind", "listen"),
        ("address", "listen"),
        ("token", "token_file"),
    ],
    example: "[api]",
};
static LISTENER: Grammar = Grammar {
    title: "[[listener]]",
    keys: &[
        "name",
        "bind",
        "protocol",
        "forward",
        "pool",
        "route",
        "certificates",
        "idle_timeout",
        "tunnel",
        "tls",
        "proxy_protocol",
        "allow_upgrade",
        "encoded_slashes",
        "max_connections",
        "max_connections_per_client",
        "timeouts",
        "limits",
        "http2",
        "access_log",
    ],
    synonyms: &[
        ("listen", "bind"),
        ("timeout", "idle_timeout"),
        ("h2", "http2"),
        ("h2c", "http2"),
        ("address", "bind"),
        ("vip", "bind"),
        ("mode", "forward"),
        ("backend", "pool"),
        ("default_pool", "pool"),
        ("ssl", "tls"),
        ("accept_proxy", "proxy_protocol"),
        ("upgrade", "allow_upgrade"),
        ("maxconn", "max_connections"),
        ("connections", "max_connections"),
        ("limit_conn", "max_connections_per_client"),
        ("cert_file", "certificates"),
        ("key_file", "certificates"),
    ],
    example: "[[listener]]",
};
static CERTIFICATE: Grammar = Grammar {
    title: "`certificates`",
    keys: &["cert_file", "key_file"],
    synonyms: &[
        ("cert", "cert_file"),
        ("certificate", "cert_file"),
        ("key", "key_file"),
    ],
    example: r#"certificates = [{ cert_file = "web.pem", key_file = "web.key" }]"#,
};
static TIMEOUTS: Grammar = Grammar {
    title: "`timeouts`",
    keys: &[
        "connect",
        "request_header",
        "keep_alive",
        "response_header",
        "idle",
        "request",
        "tunnel",
    ],
    synonyms: &[
        ("client", "idle"),
        ("server", "response_header"),
        ("header", "request_header"),
    ],
    example: r#"timeouts = { connect = "3s" }"#,
};
static LIMITS: Grammar = Grammar {
    title: "`limits`",
    keys: &["header_bytes", "header_count", "min_rate"],
    synonyms: &[("headers", "header_count"), ("header_size", "header_bytes")],
    example: "limits = { header_bytes = 16_384 }",
};
static POOL: Grammar = Grammar {
    title: "[[pool]]",
    keys: &[
        "name",
        "scheduler",
        "hash",
        "health",
        "sticky",
        "persistence",
        "on_removal",
        "quic",
        "backup_pool",
        "slow_start",
        "protocol",
        "tls",
        "proxy_protocol",
        "retry",
        "outlier",
        "limits",
        "connections",
        "backend",
    ],
    synonyms: &[
        ("retries", "retry"),
        ("outlier_detection", "outlier"),
        ("passive_health", "outlier"),
        ("circuit_breaker", "limits"),
        ("maxconn", "limits"),
        ("keepalive", "connections"),
        ("keep_alive", "connections"),
        ("persistence_timeout", "persistence"),
        ("stick_table", "persistence"),
        ("session_affinity", "persistence"),
        ("on_remove", "on_removal"),
        ("expire_nodest_conn", "on_removal"),
        ("quic_lb", "quic"),
        ("connection_id", "quic"),
        ("backup", "backup_pool"),
        ("fallback", "backup_pool"),
        ("spare_pool", "backup_pool"),
        ("sorry_server", "backup_pool"),
        ("slowstart", "slow_start"),
        ("balance", "scheduler"),
        ("algorithm", "scheduler"),
        ("lb", "scheduler"),
        ("hash_key", "hash"),
        ("hash_on", "hash"),
        ("check", "health"),
        ("health_check", "health"),
        ("server", "backend"),
        ("servers", "backend"),
        ("cookie", "sticky"),
        ("ssl", "tls"),
        ("send_proxy", "proxy_protocol"),
    ],
    example: "[[pool]]",
};
static HEALTH: Grammar = Grammar {
    title: "`health`",
    keys: &[
        "type",
        "port",
        "method",
        "path",
        "host",
        "headers",
        "expect_status",
        "expect_body",
        "send",
        "expect",
        "service",
        "interval",
        "timeout",
        "rise",
        "fall",
    ],
    synonyms: &[
        ("status", "expect_status"),
        ("body", "expect_body"),
        ("header", "headers"),
        ("recv", "expect"),
        ("receive", "expect"),
        ("match", "expect"),
        ("service_name", "service"),
        ("authority", "host"),
        ("uri", "path"),
        ("url", "path"),
        ("protocol", "type"),
    ],
    example: r#"health = { type = "tcp" }"#,
};
static BACKEND: Grammar = Grammar {
    title: "`backend`",
    keys: &["address", "weight", "check_address", "quic_server_id"],
    synonyms: &[
        ("bind", "address"),
        ("host", "address"),
        ("server", "address"),
        ("check", "check_address"),
        ("health_address", "check_address"),
        ("check_port", "check_address"),
        ("server_id", "quic_server_id"),
    ],
    example: r#"backend = [{ address = "10.0.2.11:8080" }]"#,
};
pub(super) static ALL: [&Grammar; 35] = [
    &NODE,
    &L4_TABLE,
    &SESSION_TIMEOUTS,
    &L7_TABLE,
    &API,
    &ACCESS_LOG,
    &LISTENER,
    &route::ROUTE,
    &CERTIFICATE,
    &LISTENER_TLS,
    &PROXY_PROTOCOL,
    &TIMEOUTS,
    &LIMITS,
    &HTTP2,
    &POOL,
    &HEALTH,
    &STICKY,
    &POOL_TLS,
    &PERSISTENCE,
    &QUIC,
    &BACKEND,
    &TUNNEL,
    // The tables in a route.
    route::TABLES[0],
    route::TABLES[1],
    route::TABLES[2],
    route::TABLES[3],
    route::TABLES[4],
    route::TABLES[5],
    route::TABLES[6],
    route::TABLES[7],
    route::TABLES[8],
    &RETRY,
    &OUTLIER,
    &POOL_LIMITS,
    &POOL_CONNECTIONS,
];

static PROTOCOLS: [(&str, Protocol); 5] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("tls", Protocol::Tls),
    ("http", Protocol::Http),
    ("https", Protocol::Https),
];
static FORWARDS: [(&str, Forward); 5] = [
    ("fullnat", Forward::Fullnat),
    ("nat", Forward::Nat),
    ("dr", Forward::Dr),
    ("tunnel", Forward::Tunnel),
    ("proxy", Forward::Proxy),
];
static FORWARD_SYNONYMS: [(&str, &str); 8] = [
    ("dsr", "dr"),
    ("direct", "dr"),
    ("gate", "dr"),
    ("ipip", "tunnel"),
    ("tun", "tunnel"),
    ("snat", "fullnat"),
    ("dnat", "nat"),
    ("masq", "nat"),
];
static SCHEDULERS: [(&str, Scheduler); 5] = [
    ("round_robin", Scheduler::RoundRobin),
    ("least_conn", Scheduler::LeastConn),
    ("p2c", Scheduler::P2c),
    ("source_hash", Scheduler::SourceHash),
    ("maglev", Scheduler::Maglev),
];
static POOL_PROTOCOLS: [(&str, PoolProtocol); 2] = [
    ("http1", PoolProtocol::Http1),
    ("http2", PoolProtocol::Http2),
];
static SCHEDULER_SYNONYMS: [(&str, &str); 15] = [
    ("rr", "round_robin"),
    ("wrr", "round_robin"),
    ("roundrobin", "round_robin"),
    ("lc", "least_conn"),
    ("wlc", "least_conn"),
    ("leastconn", "least_conn"),
    ("least_request", "p2c"),
    ("random", "p2c"),
    ("ewma", "p2c"),
    ("peak_ewma", "p2c"),
    ("sh", "source_hash"),
    ("source", "source_hash"),
    ("ip_hash", "source_hash"),
    ("mh", "maglev"),
    ("conhash", "maglev"),
];
static XDP_MODES: [(&str, XdpMode); 3] = [
    ("auto", XdpMode::Auto),
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
];
static SPREAD: [(&str, Spread); 2] = [("queues", Spread::Queues), ("cpus", Spread::Cpus)];
static ON_REMOVAL: [(&str, OnRemoval); 2] =
    [("keep", OnRemoval::Keep), ("reset", OnRemoval::Reset)];
static ON_STOP: [(&str, OnStop); 2] = [("keep", OnStop::Keep), ("drain", OnStop::Drain)];

/// Sessions of the table: below, a table is not worth its set-up; above, it needs more memory than a node has.
const MAX_SESSIONS: RangeInclusive<u32> = L4::LEAST_MAX_SESSIONS..=134_217_728;
const WORKERS: RangeInclusive<u32> = 0..=1_024;
/// Connections at one time; more than a node has ports and memory for is no limit.
const CONNECTIONS: RangeInclusive<u32> = 1..=16_777_216;
/// Nobody is slow who moves a gigabyte a second.
const MAX_RATE: u32 = 1_000_000_000;
const HEADER_BYTES: RangeInclusive<u32> = 1_024..=262_144;
const HEADER_COUNT: RangeInclusive<u32> = 1..=1_000;
const CHECKS: RangeInclusive<u32> = 1..=100;
const MIN_CHECK: Duration = Duration::from_millis(10);
const MAX_CHECK: Duration = Duration::from_secs(3600);
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(1);
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);
/// A backend's share grows in steps; shorter ones than these are none.
const MIN_SLOW_START: Duration = Duration::from_secs(1);
const MAX_SLOW_START: Duration = Duration::from_secs(3600);
const MAX_DRAIN: Duration = Duration::from_secs(86_400);
/// The longest file name that Linux takes (`PATH_MAX` in linux/limits.h, with its final zero).
const MAX_PATH: usize = 4_095;
/// `IFNAMSIZ` in linux/if.h, without the final zero.
const MAX_INTERFACE: usize = 15;

/// The whole file, value by value.
pub(super) struct File<'t> {
    pub(super) node: Node,
    pub(super) l4: Option<L4Table>,
    pub(super) l7: L7,
    pub(super) api: ApiTable,
    pub(super) access_log: Option<AccessLog>,
    pub(super) listeners: Vec<ListenerTable<'t>>,
    pub(super) pools: Vec<PoolTable<'t>>,
}

pub(super) struct L4Table {
    pub(super) span: Span,
    pub(super) l4: L4,
    pub(super) local_addresses: Vec<At<IpAddr>>,
    /// As written; without it, it follows from the rest of the file.
    pub(super) max_sessions_ipv6: Option<u32>,
}

pub(super) struct ApiTable {
    pub(super) api: Api,
    /// `listen` as written; absent or unreadable is `None`.
    pub(super) listen: Option<At<SocketAddr>>,
    pub(super) has_token: bool,
}

pub(super) struct ListenerTable<'t> {
    pub(super) span: Span,
    /// "listener `web`".
    pub(super) subject: String,
    pub(super) name: Read<&'t str>,
    pub(super) bind: Read<SocketAddr>,
    pub(super) protocol: Read<Protocol>,
    pub(super) forward: Read<Forward>,
    pub(super) pool: Read<&'t str>,
    pub(super) routes: Read<Vec<RouteTable<'t>>>,
    pub(super) certificates: Read<Vec<CertificateFiles>>,
    pub(super) idle_timeout: Option<At<Duration>>,
    pub(super) tunnel: Tunnel,
    pub(super) tunnel_span: Option<Span>,
    pub(super) tls: ListenerTls,
    pub(super) tls_span: Option<Span>,
    pub(super) proxy_protocol: Option<ProxyProtocolIn>,
    pub(super) proxy_protocol_span: Option<Span>,
    pub(super) http: HttpPolicy,
    /// Where keys of `http` stand that do.
    pub(super) http_spans: Vec<(&'static str, Span)>,
    pub(super) connections: ConnectionLimits,
    /// Likewise.
    pub(super) connection_spans: Vec<(&'static str, Span)>,
    pub(super) timeouts: Timeouts,
    pub(super) timeouts_span: Option<Span>,
    pub(super) limits: HttpLimits,
    pub(super) limits_span: Option<Span>,
    pub(super) http2: Http2,
    pub(super) http2_span: Option<Span>,
    pub(super) access_log: ListenerLog,
    pub(super) access_log_span: Option<Span>,
}

pub(super) struct PoolTable<'t> {
    pub(super) span: Span,
    /// "pool `web`".
    pub(super) subject: String,
    pub(super) name: Read<&'t str>,
    pub(super) scheduler: Read<Scheduler>,
    pub(super) hash: Read<HashKey>,
    pub(super) health: Option<HealthCheck>,
    pub(super) sticky: Option<At<Sticky>>,
    pub(super) persistence: Option<At<Persistence>>,
    pub(super) on_removal: Read<OnRemoval>,
    pub(super) quic: Vec<At<QuicIds>>,
    pub(super) backup: Read<&'t str>,
    pub(super) slow_start: Option<Duration>,
    pub(super) tls: Option<At<UpstreamTls>>,
    pub(super) proxy_protocol: Read<ProxyProtocolVersion>,
    pub(super) policies: Policies,
    pub(super) protocol: Read<PoolProtocol>,
    pub(super) backends: Vec<BackendTable>,
}

pub(super) struct BackendTable {
    pub(super) address: At<SocketAddr>,
    pub(super) weight: u16,
    pub(super) check_address: Read<SocketAddr>,
    pub(super) quic_server_id: Read<Vec<u8>>,
}

impl BackendTable {
    pub(super) fn backend(&self) -> Backend {
        Backend {
            address: self.address.value,
            weight: self.weight,
            check_address: self.check_address.good().map(|at| at.value),
            quic_server_id: self.quic_server_id.good().map(|at| at.value.clone()),
        }
    }
}

/// Reads the whole file.
pub(super) fn read_file<'t>(root: &'t DeTable<'t>, span: Span, out: &mut Findings<'_>) -> File<'t> {
    let root = Section::new(root, span, &ROOT, &ALL, out);
    let node = match root.section("node", &NODE, &ALL, out) {
        Some(section) => read_node(&section, out),
        None => Node::default(),
    };
    let l4 = root
        .section("l4", &L4_TABLE, &ALL, out)
        .map(|section| read_l4(&section, out));
    let l7 = match root.section("l7", &L7_TABLE, &ALL, out) {
        Some(section) => read_l7(&section, out),
        None => L7::default(),
    };
    let api = match root.section("api", &API, &ALL, out) {
        Some(section) => read_api(&section, out),
        None => ApiTable {
            api: Api::default(),
            listen: None,
            has_token: false,
        },
    };
    let access_log = root
        .section("access_log", &ACCESS_LOG, &ALL, out)
        .map(|section| read_access_log(&section, out));
    let listeners = root
        .sections("listener", &LISTENER, &ALL, out)
        .or(Vec::new());
    let listeners = listeners
        .iter()
        .map(|section| read_listener(section, out))
        .collect();
    let pools = root.sections("pool", &POOL, &ALL, out).or(Vec::new());
    let pools = pools
        .iter()
        .map(|section| read_pool(section, out))
        .collect();
    File {
        node,
        l4,
        l7,
        api,
        access_log,
        listeners,
        pools,
    }
}

fn read_node(section: &Section<'_>, out: &mut Findings<'_>) -> Node {
    let default = Node::default();
    let name = section.read("name", out, |value| check_name(text("name")(value)?));
    let drain_timeout = section.read(
        "drain_timeout",
        out,
        duration("drain_timeout", Duration::ZERO, MAX_DRAIN),
    );
    let state_dir = read_path(section, "state_dir", out);
    Node {
        state_dir: state_dir
            .good()
            .map_or(default.state_dir, |at| at.value.clone()),
        name: name.good().map(|at| Name::new(at.value)),
        drain_timeout: drain_timeout.or(default.drain_timeout),
    }
}

fn read_l4(section: &Section<'_>, out: &mut Findings<'_>) -> L4Table {
    let interfaces = section.strings("interfaces", "[\"eth0\"]", out, interface);
    let xdp_mode = section.read(
        "xdp_mode",
        out,
        word(
            "xdp_mode",
            &XDP_MODES,
            &[("skb", "generic"), ("driver", "native")],
        ),
    );
    let local_addresses = section
        .strings("local_addresses", "[\"192.0.2.10\"]", out, ip_address)
        .or(Vec::new());
    let max_sessions = section.read(
        "max_sessions",
        out,
        integer("max_sessions", *MAX_SESSIONS.start(), *MAX_SESSIONS.end()),
    );
    let persistent_clients = section.read(
        "persistent_clients",
        out,
        integer(
            "persistent_clients",
            *MAX_SESSIONS.start(),
            *MAX_SESSIONS.end(),
        ),
    );
    let timeouts = section
        .section("timeouts", &SESSION_TIMEOUTS, &ALL, out)
        .map(|section| read_session_timeouts(&section, out));
    let max_sessions_ipv6 = section.read(
        "max_sessions_ipv6",
        out,
        integer(
            "max_sessions_ipv6",
            *MAX_SESSIONS.start(),
            *MAX_SESSIONS.end(),
        ),
    );
    let pin_dir = read_path(section, "pin_dir", out);
    let on_stop = section.read(
        "on_stop",
        out,
        word(
            "on_stop",
            &ON_STOP,
            &[("detach", "drain"), ("leave", "keep")],
        ),
    );
    let spread = section.read(
        "spread",
        out,
        word(
            "spread",
            &SPREAD,
            &[("cores", "cpus"), ("cpumap", "cpus"), ("rss", "queues")],
        ),
    );
    match &interfaces {
        Read::Absent => out.error(
            section.span,
            Complaint::new(
                Kind::MissingKey,
                "[l4] has no `interfaces`",
                "expected `interfaces = [\"eth0\"]`",
            )
            .help("name the interfaces where packets arrive; without XDP, leave [l4] out"),
        ),
        Read::Good(list) if list.value.is_empty() && !has_items(section, "interfaces") => out
            .error(
                list.span,
                Complaint::new(
                    Kind::InvalidValue,
                    "`interfaces` is empty",
                    "expected at least one interface",
                )
                .help("name the interfaces where packets arrive; without XDP, leave [l4] out"),
            ),
        _ => {}
    }
    let interfaces = interfaces.or(Vec::new());
    duplicates(&interfaces, "interface", out);
    duplicates(&local_addresses, "local address", out);
    let max_sessions = max_sessions.or(L4::DEFAULT_MAX_SESSIONS);
    let max_sessions_ipv6 = max_sessions_ipv6.good().map(|at| at.value);
    let l4 = L4 {
        interfaces: interfaces
            .into_iter()
            .map(|at| at.value.to_owned())
            .collect(),
        xdp_mode: xdp_mode.or(XdpMode::default()),
        local_addresses: local_addresses.iter().map(|at| at.value).collect(),
        max_sessions,
        max_sessions_ipv6: max_sessions_ipv6.unwrap_or(L4::LEAST_MAX_SESSIONS),
        persistent_clients: persistent_clients.or(L4::DEFAULT_PERSISTENT_CLIENTS),
        timeouts: timeouts.unwrap_or_default(),
        pin_dir: pin_dir
            .good()
            .map_or_else(|| L4::DEFAULT_PIN_DIR.into(), |at| at.value.clone()),
        on_stop: on_stop.or(OnStop::default()),
        spread: spread.or(Spread::default()),
    };
    L4Table {
        span: section.span,
        l4,
        local_addresses,
        max_sessions_ipv6,
    }
}

/// Whether an array has items, readable or not.
pub(super) fn has_items(section: &Section<'_>, key: &'static str) -> bool {
    section
        .peek(key)
        .and_then(DeValue::as_array)
        .is_some_and(|array| !array.is_empty())
}

/// Reports values that stand twice in a list.
fn duplicates<T: std::hash::Hash + Eq + std::fmt::Display>(
    list: &[At<T>],
    noun: &str,
    out: &mut Findings<'_>,
) {
    let mut first = std::collections::HashMap::new();
    for at in list {
        if let Some(earlier) = first.insert(&at.value, at.span) {
            let message = format!("{noun} `{}` is there twice", at.value);
            out.error(
                at.span,
                Complaint::new(Kind::Duplicate, message, "expected each once")
                    .note(earlier, "the first is here"),
            );
            first.insert(&at.value, earlier);
        }
    }
}

fn read_l7(section: &Section<'_>, out: &mut Findings<'_>) -> L7 {
    let workers = section.read(
        "workers",
        out,
        integer("workers", *WORKERS.start(), *WORKERS.end()),
    );
    L7 {
        workers: workers.or(0) as usize,
    }
}

fn read_api(section: &Section<'_>, out: &mut Findings<'_>) -> ApiTable {
    let listen = section.read("listen", out, |value| {
        listen_address("listen", text("listen")(value)?)
    });
    let token_file = read_path(section, "token_file", out);
    let api = Api {
        listen: listen.good().map_or(Api::default().listen, |at| at.value),
        token_file: token_file.good().map(|at| at.value.clone()),
    };
    ApiTable {
        api,
        listen: listen.good().copied(),
        has_token: !token_file.is_absent(),
    }
}

pub(super) fn read_path(
    section: &Section<'_>,
    key: &'static str,
    out: &mut Findings<'_>,
) -> Read<PathBuf> {
    let written = section.read(key, out, |value| {
        let written = text(key)(value)?;
        if written.is_empty() || written.len() > MAX_PATH || written.contains('\0') {
            let message = format!("`{key}` is not a file name: {}", quoted(written));
            return Err(Complaint::new(
                Kind::InvalidValue,
                message,
                "expected a path, relative to the config file",
            ));
        }
        Ok(written)
    });
    match written {
        Read::Good(at) => Read::Good(At {
            value: out.source().path(at.value),
            span: at.span,
        }),
        Read::Bad(span) => Read::Bad(span),
        Read::Absent => Read::Absent,
    }
}

fn read_listener<'t>(section: &Section<'t>, out: &mut Findings<'_>) -> ListenerTable<'t> {
    let name = read_name(section, out);
    let bind = section.require("bind", "\"203.0.113.10:80\"", out, |value| {
        listen_address("bind", text("bind")(value)?)
    });
    let protocol = section.require(
        "protocol",
        "\"tcp\"`, `\"udp\"`, `\"tls\"`, `\"http\"` or `\"https\"",
        out,
        word(
            "protocol",
            &PROTOCOLS,
            &[("ssl", "tls"), ("h2", "https"), ("sni", "tls")],
        ),
    );
    let forward = section.read(
        "forward",
        out,
        word("forward", &FORWARDS, &FORWARD_SYNONYMS),
    );
    let pool = section.read("pool", out, text("pool"));
    let routes = match section.sections("route", &route::ROUTE, &ALL, out) {
        Read::Good(at) => {
            let value = at
                .value
                .iter()
                .map(|section| read_route(section, out))
                .collect();
            Read::Good(At {
                value,
                span: section.key_span("route").unwrap_or(at.span),
            })
        }
        Read::Bad(span) => Read::Bad(span),
        Read::Absent => Read::Absent,
    };
    let certificates = match section.sections("certificates", &CERTIFICATE, &ALL, out) {
        Read::Good(at) => {
            if at.value.is_empty() && !has_items(section, "certificates") {
                let complaint = Complaint::new(
                    Kind::InvalidValue,
                    "`certificates` is empty",
                    "expected at least one",
                );
                out.error(
                    at.span,
                    complaint.help(format!("write `{}`", CERTIFICATE.example)),
                );
            }
            let value = at
                .value
                .iter()
                .filter_map(|section| read_certificate(section, out))
                .collect();
            Read::Good(At {
                value,
                span: section.key_span("certificates").unwrap_or(at.span),
            })
        }
        Read::Bad(span) => Read::Bad(span),
        Read::Absent => Read::Absent,
    };
    let idle_timeout = read_idle_timeout(section, out);
    let tunnel = section
        .section("tunnel", &TUNNEL, &ALL, out)
        .map(|section| read_tunnel(&section, out));
    let tls = section
        .section("tls", &LISTENER_TLS, &ALL, out)
        .map(|section| read_listener_tls(&section, out));
    let proxy_protocol = section
        .section("proxy_protocol", &PROXY_PROTOCOL, &ALL, out)
        .map(|section| read_proxy_protocol(&section, out));
    let http = read_http_policy(section, out);
    let mut most = |key| {
        let read = section.read(
            key,
            out,
            integer(key, *CONNECTIONS.start(), *CONNECTIONS.end()),
        );
        read.good().map(|at| at.value)
    };
    let connections = ConnectionLimits {
        max: most("max_connections"),
        max_per_client: most("max_connections_per_client"),
    };
    let spans = |keys: [&'static str; 2]| {
        let span = |key| section.key_span(key).map(|span| (key, span));
        keys.into_iter().filter_map(span).collect()
    };
    let timeouts = section
        .section("timeouts", &TIMEOUTS, &ALL, out)
        .map(|section| read_timeouts(&section, out));
    let limits = section
        .section("limits", &LIMITS, &ALL, out)
        .map(|section| read_limits(&section, out));
    let http2 = section
        .section("http2", &HTTP2, &ALL, out)
        .map(|section| read_http2(&section, out));
    ListenerTable {
        span: section.span,
        subject: section.subject(),
        name,
        bind,
        protocol,
        forward,
        pool,
        routes,
        certificates,
        idle_timeout,
        tunnel: tunnel.unwrap_or_default(),
        tunnel_span: section.key_span("tunnel"),
        tls: tls.unwrap_or_default(),
        tls_span: section.key_span("tls"),
        proxy_protocol,
        proxy_protocol_span: section.key_span("proxy_protocol"),
        http,
        http_spans: spans(["allow_upgrade", "encoded_slashes"]),
        connections,
        connection_spans: spans(["max_connections", "max_connections_per_client"]),
        timeouts: timeouts.unwrap_or_default(),
        timeouts_span: section.key_span("timeouts"),
        limits: limits.unwrap_or_default(),
        limits_span: section.key_span("limits"),
        http2: http2.unwrap_or_default(),
        http2_span: section.key_span("http2"),
        access_log: read_listener_log(section, out),
        access_log_span: section.key_span("access_log"),
    }
}

fn read_certificate(section: &Section<'_>, out: &mut Findings<'_>) -> Option<CertificateFiles> {
    let mut path = |key, example| {
        let path = read_path(section, key, out);
        if path.is_absent() {
            let message = format!("a certificate has no `{key}`");
            out.error(
                section.span,
                Complaint::new(
                    Kind::MissingKey,
                    message,
                    format!("expected `{key} = \"{example}\"`"),
                ),
            );
        }
        path.good().map(|at| at.value.clone())
    };
    let (cert_file, key_file) = (path("cert_file", "web.pem"), path("key_file", "web.key"));
    Some(CertificateFiles {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

fn read_timeouts(section: &Section<'_>, out: &mut Findings<'_>) -> Timeouts {
    let default = Timeouts::default();
    let request = section
        .read(
            "request",
            out,
            duration("request", MIN_TIMEOUT, MAX_TIMEOUT),
        )
        .good()
        .map(|at| at.value);
    let mut read = |key, default| {
        section
            .read(key, out, duration(key, MIN_TIMEOUT, MAX_TIMEOUT))
            .or(default)
    };
    Timeouts {
        connect: read("connect", default.connect),
        request_header: read("request_header", default.request_header),
        keep_alive: read("keep_alive", default.keep_alive),
        response_header: read("response_header", default.response_header),
        idle: read("idle", default.idle),
        request,
        tunnel: read("tunnel", default.tunnel),
    }
}

fn read_limits(section: &Section<'_>, out: &mut Findings<'_>) -> HttpLimits {
    let default = HttpLimits::default();
    let min_rate = section.read("min_rate", out, integer("min_rate", 0, MAX_RATE));
    let mut read = |key, range: RangeInclusive<u32>, default: usize| {
        let read = section.read(key, out, integer(key, *range.start(), *range.end()));
        read.good().map_or(default, |at| at.value as usize)
    };
    HttpLimits {
        min_rate: min_rate.or(default.min_rate),
        header_bytes: read("header_bytes", HEADER_BYTES, default.header_bytes),
        header_count: read("header_count", HEADER_COUNT, default.header_count),
    }
}

fn read_pool<'t>(section: &Section<'t>, out: &mut Findings<'_>) -> PoolTable<'t> {
    let name = read_name(section, out);
    let scheduler = section.read(
        "scheduler",
        out,
        word("scheduler", &SCHEDULERS, &SCHEDULER_SYNONYMS),
    );
    let hash = read_hash(section, out);
    let health = section
        .section("health", &HEALTH, &ALL, out)
        .map(|section| read_health(&section, out));
    let sticky = section
        .section("sticky", &STICKY, &ALL, out)
        .and_then(|section| read_sticky(&section, out));
    let persistence = section
        .section("persistence", &PERSISTENCE, &ALL, out)
        .map(|section| read_persistence(&section, out));
    let on_removal = section.read(
        "on_removal",
        out,
        word(
            "on_removal",
            &ON_REMOVAL,
            &[("drain", "keep"), ("close", "reset"), ("rst", "reset")],
        ),
    );
    let quic = read_quic(section, out);
    let backup = section.read("backup_pool", out, text("backup_pool"));
    let slow_start = section.read(
        "slow_start",
        out,
        duration("slow_start", MIN_SLOW_START, MAX_SLOW_START),
    );
    let tls = section
        .section("tls", &POOL_TLS, &ALL, out)
        .map(|section| At {
            value: read_pool_tls(&section, out),
            span: section.span,
        });
    let proxy_protocol = section.read(
        "proxy_protocol",
        out,
        word(
            "proxy_protocol",
            &PROXY_PROTOCOL_VERSIONS,
            &[("1", "v1"), ("2", "v2")],
        ),
    );
    let policies = read_policies(section, &ALL, out);
    let protocol = section.read(
        "protocol",
        out,
        word(
            "protocol",
            &POOL_PROTOCOLS,
            &[
                ("http/1.1", "http1"),
                ("http", "http1"),
                ("h2", "http2"),
                ("h2c", "http2"),
                ("grpc", "http2"),
            ],
        ),
    );
    let backends = match section.sections("backend", &BACKEND, &ALL, out) {
        Read::Good(list) => {
            if list.value.is_empty() && !has_items(section, "backend") {
                let message = format!("{} has no backends", section.subject());
                let complaint =
                    Complaint::new(Kind::InvalidValue, message, "expected at least one backend");
                out.error(
                    list.span,
                    complaint.help(format!("write `{}`", BACKEND.example)),
                );
            }
            list.value
                .iter()
                .filter_map(|section| read_backend(section, out))
                .collect()
        }
        Read::Absent => {
            let message = format!("{} has no `backend`", section.subject());
            let label = "expected `backend = [{ address = \"10.0.2.11:8080\" }]`";
            out.error(
                section.span,
                Complaint::new(Kind::MissingKey, message, label),
            );
            Vec::new()
        }
        Read::Bad(_) => Vec::new(),
    };
    check_quic(&section.subject(), &quic, &backends, out);
    PoolTable {
        span: section.span,
        subject: section.subject(),
        name,
        scheduler,
        hash,
        health,
        sticky,
        persistence,
        on_removal,
        quic,
        backup,
        slow_start: slow_start.good().map(|at| at.value),
        tls,
        proxy_protocol,
        policies,
        protocol,
        backends,
    }
}

fn read_backend(section: &Section<'_>, out: &mut Findings<'_>) -> Option<BackendTable> {
    let address = section.require("address", "\"10.0.2.11:8080\"", out, |value| {
        backend_address(text("address")(value)?)
    });
    let weight = section
        .read("weight", out, integer("weight", 0, MAX_WEIGHT))
        .or(1);
    let check_address = section.read("check_address", out, |value| {
        backend_address(text("check_address")(value)?)
    });
    Some(BackendTable {
        address: *address.good()?,
        weight,
        check_address,
        quic_server_id: read_server_id(section, out),
    })
}

fn read_health(section: &Section<'_>, out: &mut Findings<'_>) -> HealthCheck {
    let probe = read_probe(section, out);
    let port = section.read("port", out, integer("port", 1u16, u16::MAX));
    let interval_read = section.read("interval", out, duration("interval", MIN_CHECK, MAX_CHECK));
    let interval = interval_read.or(HealthCheck::DEFAULT_INTERVAL);
    let timeout_read = section.read("timeout", out, duration("timeout", MIN_CHECK, MAX_CHECK));
    if let Some(timeout) = timeout_read.good()
        && !matches!(interval_read, Read::Bad(_))
        && timeout.value > interval
    {
        let message = format!(
            "`timeout` is longer than `interval`: {}",
            format_duration(timeout.value)
        );
        let label = format!(
            "expected at most the interval, {}",
            format_duration(interval)
        );
        let mut complaint = Complaint::new(Kind::Conflict, message, label);
        match interval_read.span() {
            Some(span) => complaint = complaint.note(span, "`interval` is here"),
            None => complaint = complaint.help("`interval` is not given, so it has its default"),
        }
        out.error(timeout.span, complaint);
    }
    let rise = section.read("rise", out, integer("rise", *CHECKS.start(), *CHECKS.end()));
    let fall = section.read("fall", out, integer("fall", *CHECKS.start(), *CHECKS.end()));
    HealthCheck {
        probe,
        interval,
        timeout: timeout_read.or(HealthCheck::DEFAULT_TIMEOUT.min(interval)),
        rise: rise.or(HealthCheck::DEFAULT_RISE),
        fall: fall.or(HealthCheck::DEFAULT_FALL),
        port: port.good().map(|at| at.value),
        // The pool's, once it is known whole.
        tls: None,
        proxy_protocol: None,
    }
}

/// A name that something has. One that cannot be is reported, and stands all the same for those that refer to it.
fn read_name<'t>(section: &Section<'t>, out: &mut Findings<'_>) -> Read<&'t str> {
    let name = section.require("name", "\"web\"", out, text("name"));
    if let Read::Good(at) = &name
        && let Err(complaint) = check_name(at.value)
    {
        out.error(at.span, complaint);
    }
    name
}

pub(super) fn check_name(written: &str) -> Result<&str, Complaint> {
    Name::parse(written).map(|_| written).map_err(|error| {
        let message = format!("{} cannot be a name: {error}", quoted(written));
        let label = format!(
            "expected 1 to {} letters, digits, `-`, `_` or `.`",
            Name::MAX_LEN
        );
        Complaint::new(Kind::InvalidValue, message, label)
    })
}

/// What the kernel takes as the name of a device: `dev_valid_name` in net/core/dev.c.
fn interface(written: &str) -> Result<&str, Complaint> {
    let reason = if written.is_empty() {
        "it is empty"
    } else if written.len() > MAX_INTERFACE {
        "it is too long"
    } else if matches!(written, "." | "..")
        || written
            .bytes()
            .any(|byte| !byte.is_ascii_graphic() || b"/:".contains(&byte))
    {
        "it has characters that interfaces do not have"
    } else {
        return Ok(written);
    };
    let message = format!(
        "{} is not the name of an interface: {reason}",
        quoted(written)
    );
    Err(Complaint::new(
        Kind::InvalidValue,
        message,
        format!("expected 1 to {MAX_INTERFACE} characters, as `eth0`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_reference() {
        let reference = include_str!("../../../../docs/config.md");
        for grammar in ALL {
            for key in grammar.keys {
                assert!(
                    reference.contains(&format!("\n| `{key}` |")),
                    "`{key}` of {}",
                    grammar.title
                );
            }
        }
        let words = [
            SCHEDULERS.map(|(word, _)| word).as_slice(),
            &FORWARDS.map(|(word, _)| word),
        ]
        .concat();
        for word in words {
            assert!(reference.contains(&format!("\n| `{word}` |")), "`{word}`");
        }
        for (word, _) in PROTOCOLS {
            assert!(reference.contains(&format!("`\"{word}\"`")), "`{word}`");
        }
    }

    #[test]
    fn synonyms_lead_to_keys_and_are_none() {
        for grammar in ALL.into_iter().chain([&ROOT]) {
            for (word, key) in grammar.synonyms {
                assert!(grammar.keys.contains(key), "{key} in {}", grammar.title);
                assert!(!grammar.keys.contains(word), "{word} in {}", grammar.title);
            }
        }
        for (word, name) in SCHEDULER_SYNONYMS {
            assert!(
                SCHEDULERS.iter().any(|(scheduler, _)| *scheduler == name),
                "{word}"
            );
        }
        for (word, name) in FORWARD_SYNONYMS {
            assert!(
                FORWARDS.iter().any(|(forward, _)| *forward == name),
                "{word}"
            );
        }
    }
}

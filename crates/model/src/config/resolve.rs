//! What must hold between the values of a config: names resolve, binds do not collide, modes fit protocols, pools
//! fit listeners. What holds becomes a [`Config`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Config;
use super::access_log::ListenerLog;
use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::{BackendTable, File, ListenerTable, PoolTable};
use super::near::{alternatives, nearest};
use super::route::RouteTable;
use super::section::Read;
use super::source::Span;
use crate::access_log::AccessLog;
use crate::action::Scheme;
use crate::health::HealthCheck;
use crate::listener::{Forward, Listener, Protocol};
use crate::name::Name;
use crate::node::L4;
use crate::pool::{OnRemoval, Pool, PoolProtocol};
use crate::route::{HostPattern, PathMatch};
use crate::tls::UpstreamTls;

/// Names of a file with more than this many are not listed in a message.
const LISTED_NAMES: usize = 8;
/// Near misses are looked for this many times in a file: each looks at every name.
const NEAR_MISSES: usize = 32;

/// Checks a file as a whole. `None` if something in it is missing, which has been reported.
pub(super) fn resolve(file: &File<'_>, out: &mut Findings<'_>) -> Option<Config> {
    let pools = Pools::new(file, out);
    unique_names(
        file.listeners.iter().map(|listener| &listener.name),
        "listener",
        out,
    );
    let listeners: Vec<Resolved<'_, '_>> = file
        .listeners
        .iter()
        .map(|table| Resolved::new(table, file, out))
        .collect();
    let uses = pools.uses(&listeners, out);
    for listener in &listeners {
        check_protocol(listener, out);
        check_routes(listener, out);
        check_tls(listener, out);
        check_proxy_protocol(listener, out);
        check_xdp_listener(listener, file, out);
    }
    let binds = Binds::new(&listeners, out);
    binds.check_api(file, &listeners, out);
    check_local_addresses(file, &listeners, out);
    for (at, pool) in file.pools.iter().enumerate() {
        check_backends(pool, out);
        check_users(pool, &uses.of_pool[at], &listeners, file, out);
        check_loops((at, pool), &uses, &binds, &listeners, out);
    }
    if file.l4.is_none() {
        warn_of_fallback(&listeners, out);
    }

    let access_log = file.access_log.clone().map(Arc::new);
    let built_listeners: Option<Vec<_>> = listeners
        .iter()
        .map(|listener| listener.build(access_log.as_ref()).map(Arc::new))
        .collect();
    let built_pools: Option<Vec<_>> = file
        .pools
        .iter()
        .map(|pool| build_pool(pool).map(Arc::new))
        .collect();
    let l4 = file.l4.as_ref().map(|table| {
        let mut l4 = table.l4.clone();
        if table.max_sessions_ipv6.is_none() && has_ipv6(&l4, file, &uses, &listeners) {
            l4.max_sessions_ipv6 = l4.max_sessions;
        }
        l4
    });
    Some(Config::new(
        file.node.clone(),
        l4,
        file.l7.clone(),
        file.api.api.clone(),
        built_listeners?,
        built_pools?,
    ))
}

/// A listener with what follows from its values.
struct Resolved<'f, 't> {
    table: &'f ListenerTable<'t>,
    protocol: Option<Protocol>,
    /// As written; `proxy` where nothing is.
    asked: Option<Forward>,
    /// As done: `proxy` where there is no `[l4]`. `None` if it cannot be told, or the protocol cannot have it.
    forward: Option<Forward>,
    bind: Option<SocketAddr>,
}

impl<'f, 't> Resolved<'f, 't> {
    fn new(table: &'f ListenerTable<'t>, file: &File<'_>, out: &mut Findings<'_>) -> Self {
        let protocol = table.protocol.good().map(|at| at.value);
        let asked = match &table.forward {
            Read::Absent => Some(Forward::Proxy),
            Read::Good(at) => Some(at.value),
            Read::Bad(_) => None,
        };
        let mut forward = asked;
        if let (Some(protocol), Some(asked), Some(span)) = (protocol, asked, table.forward.span())
            && asked.is_xdp()
            && !matches!(protocol, Protocol::Tcp | Protocol::Udp)
        {
            let message = format!("protocol `{protocol}` cannot have `forward = \"{asked}\"`");
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                "expected `proxy`, which is the default",
            );
            let help = match protocol {
                Protocol::Tls | Protocol::Https => {
                    format!("to forward TLS unopened by `{asked}`, write `protocol = \"tcp\"`")
                }
                _ => {
                    format!("to forward whole connections by `{asked}`, write `protocol = \"tcp\"`")
                }
            };
            out.error(span, complaint.help(help));
            forward = None;
        }
        if file.l4.is_none() {
            forward = forward.map(|_| Forward::Proxy);
        }
        Self {
            table,
            protocol,
            asked,
            forward,
            bind: table.bind.good().map(|at| at.value),
        }
    }

    fn is_xdp(&self) -> bool {
        self.forward.is_some_and(Forward::is_xdp)
    }

    fn asked_word(&self) -> &'static str {
        self.asked.unwrap_or(Forward::Proxy).as_str()
    }

    fn is_http(&self) -> bool {
        matches!(self.protocol, Some(Protocol::Http | Protocol::Https))
    }

    fn forward_span(&self) -> Span {
        self.table.forward.span().unwrap_or(self.table.span)
    }

    fn bind_span(&self) -> Span {
        self.table.bind.span().unwrap_or(self.table.span)
    }

    fn subject(&self) -> &str {
        &self.table.subject
    }

    /// References to pools: its own, then those of its routes.
    fn references(&self) -> impl Iterator<Item = &Read<&'t str>> {
        let routes = self
            .table
            .routes
            .good()
            .into_iter()
            .flat_map(|routes| &routes.value);
        std::iter::once(&self.table.pool).chain(routes.flat_map(|route| &route.pools))
    }

    fn build(&self, access_log: Option<&Arc<AccessLog>>) -> Option<Listener> {
        let table = self.table;
        let access_log = match &table.access_log {
            ListenerLog::Inherited => access_log.cloned(),
            ListenerLog::Off => None,
            ListenerLog::Own(log) => Some(Arc::new(log.clone())),
        };
        let routes = table
            .routes
            .good()
            .into_iter()
            .flat_map(|routes| &routes.value)
            .map(RouteTable::build);
        Some(Listener {
            name: Name::new(table.name.good()?.value),
            bind: self.bind?,
            protocol: self.protocol?,
            forward: self.forward?,
            pool: table.pool.good().map(|at| Name::new(at.value)),
            routes: routes.collect::<Option<_>>()?,
            certificates: table
                .certificates
                .good()
                .map(|at| at.value.clone())
                .unwrap_or_default(),
            idle_timeout: table.idle_timeout.map(|at| at.value),
            tunnel: table.tunnel,
            tls: table.tls.clone(),
            proxy_protocol: table.proxy_protocol.clone(),
            http: table.http.clone(),
            connections: table.connections,
            timeouts: table.timeouts.clone(),
            limits: table.limits.clone(),
            http2: table.http2.clone(),
            access_log,
        })
    }
}

fn build_pool(table: &PoolTable<'_>) -> Option<Pool> {
    let tls = table.tls.as_ref().map(|at| Arc::new(at.value.clone()));
    let protocol = table.protocol.good().map(|at| at.value).unwrap_or_default();
    let proxy_protocol = table.proxy_protocol.good().map(|at| at.value);
    Some(Pool {
        name: Name::new(table.name.good()?.value),
        scheduler: table
            .scheduler
            .good()
            .map(|at| at.value)
            .unwrap_or_default(),
        hash: table.hash.good().map(|at| at.value.clone()),
        health: table.health.clone().map(|health| {
            // A port of its own is another service, which has its own ways.
            let is_same = health.port.is_none();
            HealthCheck {
                tls: tls.clone().filter(|_| is_same),
                proxy_protocol: proxy_protocol.filter(|_| is_same),
                ..health
            }
        }),
        sticky: table.sticky.as_ref().map(|at| at.value.clone()),
        retry: table.policies.retry.clone(),
        outlier: table.policies.outlier.clone(),
        limits: table.policies.limits.clone(),
        connections: table.policies.connections.clone(),
        persistence: table.persistence.as_ref().map(|at| at.value.clone()),
        on_removal: table.on_removal.or(OnRemoval::default()),
        quic: table.quic.iter().map(|at| at.value.clone()).collect(),
        backup: table.backup.good().map(|at| Name::new(at.value)),
        slow_start: table.slow_start,
        protocol,
        tls: tls.map(|tls| {
            // What is spoken is asked for in the handshake; checks ask for themselves.
            if protocol == PoolProtocol::Http2 && tls.alpn.is_empty() {
                let mut tls = UpstreamTls::clone(&tls);
                tls.alpn = vec!["h2".to_owned()];
                return Arc::new(tls);
            }
            tls
        }),
        proxy_protocol,
        backends: table.backends.iter().map(BackendTable::backend).collect(),
    })
}

/// Reports names that several have, and returns who has each first.
fn unique_names<'n, 't: 'n>(
    names: impl Iterator<Item = &'n Read<&'t str>>,
    noun: &str,
    out: &mut Findings<'_>,
) -> HashMap<&'t str, usize> {
    let mut first: HashMap<&str, (usize, Span)> = HashMap::new();
    for (index, name) in names.enumerate() {
        let Some(at) = name.good() else { continue };
        if let Some((_, earlier)) = first.get(at.value) {
            let message = format!("there are two {noun}s named {}", quoted(at.value));
            let complaint = Complaint::new(Kind::Duplicate, message, "expected a name of its own");
            out.error(at.span, complaint.note(*earlier, "the first is here"));
        } else {
            first.insert(at.value, (index, at.span));
        }
    }
    first
        .into_iter()
        .map(|(name, (index, _))| (name, index))
        .collect()
}

/// The pools by name.
struct Pools<'f, 't> {
    file: &'f File<'t>,
    by_name: HashMap<&'t str, usize>,
}

/// Who sends to which pool.
struct Uses {
    /// For each pool the listeners that refer to it, and where.
    of_pool: Vec<Vec<Use>>,
    /// Pairs of a listener and a pool.
    pairs: HashSet<(usize, usize)>,
}

#[derive(Clone, Copy)]
struct Use {
    listener: usize,
    span: Span,
}

impl<'f, 't> Pools<'f, 't> {
    fn new(file: &'f File<'t>, out: &mut Findings<'_>) -> Self {
        Self {
            file,
            by_name: unique_names(file.pools.iter().map(|pool| &pool.name), "pool", out),
        }
    }

    /// Resolves every reference; reports those to no pool, and warns of pools without a reference.
    fn uses(&self, listeners: &[Resolved<'_, 't>], out: &mut Findings<'_>) -> Uses {
        let mut uses = Uses {
            of_pool: vec![Vec::new(); self.file.pools.len()],
            pairs: HashSet::new(),
        };
        let mut near_misses = 0;
        for (listener, resolved) in listeners.iter().enumerate() {
            for reference in resolved.references().filter_map(Read::good) {
                if let Some(pool) = self.by_name.get(reference.value) {
                    if uses.pairs.insert((listener, *pool)) {
                        uses.of_pool[*pool].push(Use {
                            listener,
                            span: reference.span,
                        });
                    }
                } else {
                    near_misses += 1;
                    out.error(
                        reference.span,
                        self.unknown(reference.value, near_misses <= NEAR_MISSES),
                    );
                }
            }
        }
        self.follow_backups(&mut uses, &mut near_misses, out);
        // A pool with an unreadable or repeated name may be the one that was meant.
        for (pool, users) in self.file.pools.iter().zip(&uses.of_pool) {
            let first_of_its_name = |at: &super::source::At<&str>| {
                self.by_name
                    .get(at.value)
                    .is_some_and(|first| std::ptr::eq(&self.file.pools[*first], pool))
            };
            if let Some(at) = pool.name.good()
                && users.is_empty()
                && first_of_its_name(at)
            {
                let message = format!("{} is not used", pool.subject);
                out.warn(
                    at.span,
                    Complaint::new(
                        Kind::Unused,
                        message,
                        "no listener and no route sends to it",
                    ),
                );
            }
        }
        uses
    }

    /// Who sends to a pool sends to its backup as well. Reports backups that are no pool, and chains of them that do
    /// not end.
    fn follow_backups(&self, uses: &mut Uses, near_misses: &mut usize, out: &mut Findings<'_>) {
        let mut backups: Vec<Option<Use>> = Vec::with_capacity(self.file.pools.len());
        for table in &self.file.pools {
            let found = table.backup.good().and_then(|at| {
                let found = self.by_name.get(at.value).copied();
                if found.is_none() {
                    *near_misses += 1;
                    out.error(at.span, self.unknown(at.value, *near_misses <= NEAR_MISSES));
                }
                // In place of the listener, the pool that is referred to.
                found.map(|listener| Use {
                    listener,
                    span: at.span,
                })
            });
            backups.push(found);
        }
        let pools = self.file.pools.len();
        for start in 0..pools {
            let users: Vec<usize> = uses.of_pool[start]
                .iter()
                .map(|user| user.listener)
                .collect();
            let mut at = start;
            let mut steps = 0;
            while let Some(next) = backups[at] {
                at = next.listener;
                steps += 1;
                if at == start || steps > pools {
                    break;
                }
                for listener in &users {
                    if uses.pairs.insert((*listener, at)) {
                        uses.of_pool[at].push(Use {
                            listener: *listener,
                            span: next.span,
                        });
                    }
                }
            }
            if let Some(backup) = backups[start].filter(|_| at == start) {
                let message = format!(
                    "the backups of {} lead back to it",
                    self.file.pools[start].subject
                );
                let complaint = Complaint::new(
                    Kind::Conflict,
                    message,
                    "expected a pool that does not count on this one",
                );
                out.error(backup.span, complaint);
            }
        }
    }

    fn unknown(&self, name: &str, look_for_near_miss: bool) -> Complaint {
        let names = || {
            self.file
                .pools
                .iter()
                .filter_map(|pool| pool.name.good().map(|at| at.value))
                // What cannot be a name was reported, and may have characters that a terminal obeys.
                .filter(|name| Name::parse(name).is_ok())
        };
        let count = self.by_name.len();
        let label = match count {
            0 => "expected the name of a [[pool]], and the file has none".to_owned(),
            1..=LISTED_NAMES => format!("expected {}", alternatives(names())),
            _ => format!("expected the name of one of the {count} pools"),
        };
        let near = if look_for_near_miss {
            nearest(name, names().collect::<Vec<_>>())
        } else {
            None
        };
        Complaint::new(
            Kind::UnknownName,
            format!("no pool is named {}", quoted(name)),
            label,
        )
        .maybe_help(near.map(|near| format!("did you mean `{near}`?")))
    }
}

/// What a protocol has to have, and cannot have.
fn check_protocol(listener: &Resolved<'_, '_>, out: &mut Findings<'_>) {
    let table = listener.table;
    let subject = listener.subject();
    let Some(protocol) = listener.protocol else {
        return;
    };
    let has_routes = match &table.routes {
        Read::Absent => false,
        Read::Good(routes) => !routes.value.is_empty(),
        Read::Bad(_) => true,
    };
    match protocol {
        Protocol::Tcp | Protocol::Udp => {
            if table.pool.is_absent() {
                let message = format!("{subject} has no `pool`");
                out.error(
                    table.span,
                    Complaint::new(Kind::MissingKey, message, "expected `pool = \"…\"`"),
                );
            }
            if let Some(span) = table.routes.span()
                && has_routes
            {
                let message = format!("routes on a listener of protocol `{protocol}`");
                let complaint = Complaint::new(
                    Kind::Conflict,
                    message,
                    "routes need protocol `http`, `https` or `tls`",
                );
                out.error(
                    span,
                    complaint.help("send everything to one pool: `pool = \"…\"` on the listener"),
                );
            }
        }
        Protocol::Tls | Protocol::Http | Protocol::Https
            if table.pool.is_absent() && !has_routes =>
        {
            let message = format!("{subject} has neither `pool` nor routes");
            let complaint = Complaint::new(
                Kind::MissingKey,
                message,
                "expected `pool = \"…\"` or a [[listener.route]]",
            );
            out.error(table.span, complaint);
        }
        Protocol::Tls | Protocol::Http | Protocol::Https => {}
    }
    if protocol == Protocol::Https && table.certificates.is_absent() {
        let message = format!("{subject} has no `certificates`, and its protocol is `https`");
        let label =
            "expected `certificates = [{ cert_file = \"web.pem\", key_file = \"web.key\" }]`";
        let complaint = Complaint::new(Kind::MissingKey, message, label);
        out.error(
            table.span,
            complaint.help("to pass TLS on unopened, write `protocol = \"tls\"`"),
        );
    }
    if protocol != Protocol::Https
        && let Some(span) = table.certificates.span()
    {
        let message = format!("certificates on a listener of protocol `{protocol}`");
        let complaint = Complaint::new(Kind::Conflict, message, "only `https` opens TLS");
        out.error(
            span,
            match protocol {
                Protocol::Http => complaint.help("write `protocol = \"https\"`"),
                _ => complaint,
            },
        );
    }
    for (key, span) in &table.http_spans {
        if !listener.is_http() {
            let message = format!("`{key}` on a listener of protocol `{protocol}`");
            let label = "it needs protocol `http` or `https`";
            out.error(*span, Complaint::new(Kind::Conflict, message, label));
        }
    }
    for (key, span) in &table.connection_spans {
        if protocol.is_udp() || listener.is_xdp() {
            let message = if protocol.is_udp() {
                format!("`{key}` on a listener of protocol `udp`")
            } else {
                format!("`{key}` with `forward = \"{}\"`", listener.asked_word())
            };
            let label = "it counts connections that are proxied";
            out.error(*span, Complaint::new(Kind::Conflict, message, label));
        }
    }
    if let Some(span) = table.limits_span
        && !listener.is_http()
    {
        let message = format!("limits for HTTP on a listener of protocol `{protocol}`");
        out.error(
            span,
            Complaint::new(
                Kind::Conflict,
                message,
                "they need protocol `http` or `https`",
            ),
        );
    }
    if let Some(span) = table.http2_span
        && !listener.is_http()
    {
        let message = format!("HTTP/2 on a listener of protocol `{protocol}`");
        out.error(
            span,
            Complaint::new(
                Kind::Conflict,
                message,
                "it needs protocol `http` or `https`",
            ),
        );
    }
    if let (Some(span), ListenerLog::Own(_)) = (table.access_log_span, &table.access_log)
        && (listener.is_xdp() || protocol.is_udp())
    {
        let message = format!("an access log of {subject}, which has no requests or connections");
        let label = "expected a proxied listener of another protocol than `udp`";
        out.error(span, Complaint::new(Kind::Conflict, message, label));
    }
    if let Some(span) = table.timeouts_span
        && listener.is_xdp()
    {
        let message = format!(
            "timeouts of the proxy on a listener with `forward = \"{}\"`",
            listener.asked_word()
        );
        out.error(
            span,
            Complaint::new(Kind::Conflict, message, "they need `forward = \"proxy\"`"),
        );
    }
    if let Some(at) = table.idle_timeout
        && listener.asked == Some(Forward::Proxy)
    {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`idle_timeout` on a listener with `forward = \"proxy\"`",
            "it needs an XDP mode",
        );
        out.error(
            at.span,
            complaint.help("the proxy has `timeouts = { tunnel = \"1h\" }`"),
        );
    }
    if let Some(span) = table.tunnel_span
        && listener.asked.is_some_and(|asked| asked != Forward::Tunnel)
    {
        let message = format!(
            "`tunnel` on a listener with `forward = \"{}\"`",
            listener.asked_word()
        );
        let complaint = Complaint::new(Kind::Conflict, message, "it needs `forward = \"tunnel\"`");
        out.error(span, complaint);
    }
}

/// TLS is opened by `https` only.
fn check_tls(listener: &Resolved<'_, '_>, out: &mut Findings<'_>) {
    if let (Some(span), Some(protocol)) = (listener.table.tls_span, listener.protocol)
        && protocol != Protocol::Https
    {
        let message = format!("`tls` on a listener of protocol `{protocol}`");
        let complaint = Complaint::new(Kind::Conflict, message, "only `https` opens TLS");
        out.error(
            span,
            complaint.help("for TLS towards the backends, write `tls = { … }` in their [[pool]]"),
        );
    }
}

/// The PROXY header is the beginning of a connection, which only the proxy sees.
fn check_proxy_protocol(listener: &Resolved<'_, '_>, out: &mut Findings<'_>) {
    let (Some(span), Some(protocol)) = (listener.table.proxy_protocol_span, listener.protocol)
    else {
        return;
    };
    if protocol.is_udp() {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`proxy_protocol` on a listener of protocol `udp`",
            "datagrams have no connection that could begin with a header",
        );
        out.error(span, complaint);
    } else if listener.is_xdp() {
        let message = format!(
            "`proxy_protocol` on a listener with `forward = \"{}\"`",
            listener.asked_word()
        );
        out.error(
            span,
            Complaint::new(Kind::Conflict, message, "it needs `forward = \"proxy\"`"),
        );
    }
}

/// Path expressions of a listener at most: their automata take memory, and time to build at a reload.
const PATH_REGEXES_MAX: usize = 1_000;
/// Routes with the same host and path that are compared with each other: more would take quadratic time.
const COMPARED_ROUTES: usize = 64;

/// What routes of a `tls` listener may look at, and routes that an earlier one hides.
fn check_routes(listener: &Resolved<'_, '_>, out: &mut Findings<'_>) {
    let Some(routes) = listener.table.routes.good() else {
        return;
    };
    unique_names(routes.value.iter().map(|route| &route.name), "route", out);
    let mut regexes = 0;
    let mut earlier: HashMap<_, Vec<(&RouteTable<'_>, Span)>> = HashMap::new();
    for route in &routes.value {
        if listener.protocol == Some(Protocol::Tls) {
            check_tls_route(route, out);
        }
        check_redirect(listener, route, out);
        if let PathMatch::Regex(_) = route.path {
            regexes += 1;
            if regexes == PATH_REGEXES_MAX + 1 {
                let message = format!(
                    "{} has too many routes with `path_regex`",
                    listener.subject()
                );
                let label = format!("expected at most {PATH_REGEXES_MAX} in a listener");
                out.error(
                    route.path_span.unwrap_or(route.span),
                    Complaint::new(Kind::OutOfRange, message, label),
                );
            }
        }
        let path = match &route.path {
            PathMatch::Any => ("", ""),
            PathMatch::Exact(path) => ("path", path.as_str()),
            PathMatch::Prefix(prefix) => ("path_prefix", prefix.as_str()),
            PathMatch::Regex(pattern) => ("path_regex", pattern.as_str()),
        };
        let any_host = (!route.has_host).then_some((None, route.span));
        let hosts = route
            .hosts
            .iter()
            .map(|at| (Some(&at.value), at.span))
            .chain(any_host);
        for (host, span) in hosts {
            let others = earlier.entry((host, path)).or_default();
            if let Some((_, first)) = others.iter().find(|(other, _)| other.covers(route)) {
                let what = host.map_or_else(|| "all hosts".to_owned(), |host| format!("`{host}`"));
                let paths = match path {
                    ("", _) => String::new(),
                    (_, path) => format!(" and {}", quoted(path)),
                };
                let message = format!("a route for {what}{paths} that never matches");
                let complaint = Complaint::new(
                    Kind::Duplicate,
                    message,
                    "an earlier route matches the same",
                );
                out.warn(span, complaint.note(*first, "the first is here"));
            } else if others.len() < COMPARED_ROUTES {
                others.push((route, span));
            }
        }
    }
}

/// A connection that is not opened shows its name and its client, and nothing can be said in it.
fn check_tls_route(route: &RouteTable<'_>, out: &mut Findings<'_>) {
    if let Some((key, span)) = route.http_only {
        let complaint = Complaint::new(
            Kind::Conflict,
            format!("`{key}` on a listener of protocol `tls`"),
            "TLS is not opened, so only `host` (SNI) is seen",
        );
        let help = match key {
            "path" | "path_prefix" | "path_regex" => {
                "to route by path, write `protocol = \"https\"` and give it certificates"
            }
            _ => "for this, write `protocol = \"https\"` and give it certificates",
        };
        out.error(span, complaint.help(help));
    }
    if !route.has_host {
        let complaint = Complaint::new(
            Kind::MissingKey,
            "[[listener.route]] has no `host`",
            "expected `host = [\"www.example.com\"]`",
        );
        out.error(
            route.span,
            complaint.help("for all other hosts, write `pool` on the listener"),
        );
    }
    let is_address = |host: &HostPattern| match host {
        HostPattern::Exact(host) => host.starts_with('[') || host.parse::<IpAddr>().is_ok(),
        HostPattern::Wildcard(_) => false,
    };
    for at in &route.hosts {
        if is_address(&at.value) {
            let message = format!("`{}` as `host` on a listener of protocol `tls`", at.value);
            let label = "SNI carries names, never addresses (RFC 6066, section 3)";
            out.error(at.span, Complaint::new(Kind::Conflict, message, label));
        }
    }
}

/// A redirect to where the request has come from goes round for ever.
fn check_redirect(listener: &Resolved<'_, '_>, route: &RouteTable<'_>, out: &mut Findings<'_>) {
    let own = match listener.protocol {
        Some(Protocol::Http) => Scheme::Http,
        Some(Protocol::Https) => Scheme::Https,
        _ => return,
    };
    if let Some((scheme, span)) = route.scheme_redirect()
        && scheme.unwrap_or(own) == own
    {
        let message = format!(
            "a redirect to `{}`, where the request has come from",
            own.as_str()
        );
        let complaint = Complaint::new(Kind::Conflict, message, "the client would come back here");
        out.error(span, complaint);
    }
}

/// What an XDP listener needs of the node, and of its VIP.
fn check_xdp_listener(listener: &Resolved<'_, '_>, file: &File<'_>, out: &mut Findings<'_>) {
    let (Some(_), Some(bind), Some(forward)) = (&file.l4, listener.bind, listener.forward) else {
        return;
    };
    if !forward.is_xdp() {
        return;
    }
    let vip = bind.ip();
    if vip.is_unspecified() {
        let message = format!("`forward = \"{forward}\"` on every address of the node");
        let complaint = Complaint::new(Kind::Conflict, message, "expected one address, the VIP");
        out.error(
            listener.bind_span(),
            complaint.help("only proxied listeners can be on all addresses"),
        );
    } else if vip.is_loopback() {
        let message = format!("`forward = \"{forward}\"` on a loopback address");
        let label = "XDP sees only packets that arrive at an interface";
        out.error(
            listener.bind_span(),
            Complaint::new(Kind::Conflict, message, label),
        );
    }
}

/// What is listened on. TCP and UDP are apart, IPv4 and IPv6 as well (sockets are opened with `IPV6_V6ONLY`).
struct Binds {
    exact: HashMap<(Transport, SocketAddr), usize>,
    /// Proxied listeners on all addresses of a family.
    wildcard: HashMap<(Transport, bool, u16), usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn of(protocol: Protocol) -> Self {
        if protocol.is_udp() {
            Self::Udp
        } else {
            Self::Tcp
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl Binds {
    /// Indexes the binds and reports those that collide.
    fn new(listeners: &[Resolved<'_, '_>], out: &mut Findings<'_>) -> Self {
        let mut binds = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for (index, listener) in listeners.iter().enumerate() {
            let (Some(bind), Some(protocol)) = (listener.bind, listener.protocol) else {
                continue;
            };
            let transport = Transport::of(protocol);
            if let Some(earlier) = binds.exact.get(&(transport, bind)) {
                let message = format!("two listeners are on {} `{bind}`", transport.as_str());
                out.error(
                    listener.bind_span(),
                    collision(message, &listeners[*earlier]),
                );
                continue;
            }
            binds.exact.insert((transport, bind), index);
            if bind.ip().is_unspecified() && !listener.is_xdp() {
                binds
                    .wildcard
                    .insert((transport, bind.is_ipv6(), bind.port()), index);
            }
        }
        for listener in listeners {
            let (Some(bind), Some(protocol)) = (listener.bind, listener.protocol) else {
                continue;
            };
            let transport = Transport::of(protocol);
            // XDP takes the packets of its VIPs before any socket sees them.
            if !bind.ip().is_unspecified()
                && !listener.is_xdp()
                && let Some(wildcard) =
                    binds
                        .wildcard
                        .get(&(transport, bind.is_ipv6(), bind.port()))
            {
                let wildcard = &listeners[*wildcard];
                let message = format!(
                    "{} `{bind}` is taken by {}, which is on every address",
                    transport.as_str(),
                    wildcard.subject()
                );
                out.error(listener.bind_span(), collision(message, wildcard));
            }
        }
        binds
    }

    /// The API must be reachable, and by nobody else.
    fn check_api(&self, file: &File<'_>, listeners: &[Resolved<'_, '_>], out: &mut Findings<'_>) {
        let address = file.api.api.listen;
        if let Some(listen) = &file.api.listen
            && !listen.value.ip().is_loopback()
            && !file.api.has_token
        {
            let message = format!("the API listens on `{address}` without `token_file`");
            let complaint = Complaint::new(
                Kind::MissingKey,
                message,
                "whoever reaches it can change the node",
            );
            out.error(
                listen.span,
                complaint.help("write `token_file = \"token\"` in [api], or listen on `127.0.0.1`"),
            );
        }
        let same_port = |listener: &&Resolved<'_, '_>| {
            listener.protocol.is_some_and(|protocol| !protocol.is_udp())
                && listener.bind.is_some_and(|bind| {
                    let overlaps = bind.ip() == address.ip()
                        || (!listener.is_xdp()
                            && (bind.ip().is_unspecified() || address.ip().is_unspecified()));
                    bind.port() == address.port() && bind.is_ipv6() == address.is_ipv6() && overlaps
                })
        };
        if let Some(listener) = listeners.iter().find(same_port) {
            match &file.api.listen {
                Some(listen) => {
                    let message = format!(
                        "the API listens on `{address}`, and so does {}",
                        listener.subject()
                    );
                    out.error(listen.span, collision(message, listener));
                }
                None => {
                    let message = format!(
                        "{} is where the API listens, `{address}`",
                        listener.subject()
                    );
                    let complaint =
                        Complaint::new(Kind::Duplicate, message, "expected another port");
                    out.error(
                        listener.bind_span(),
                        complaint.help(
                            "or put the API elsewhere: `listen = \"127.0.0.1:9901\"` in [api]",
                        ),
                    );
                }
            }
        }
    }
}

fn collision(message: String, other: &Resolved<'_, '_>) -> Complaint {
    Complaint::new(
        Kind::Duplicate,
        message,
        "expected an address and port of its own",
    )
    .note(other.bind_span(), format!("{} is here", other.subject()))
}

/// A local address is the node's own, a VIP is what clients use: a packet must be one or the other.
fn check_local_addresses(file: &File<'_>, listeners: &[Resolved<'_, '_>], out: &mut Findings<'_>) {
    let Some(l4) = &file.l4 else { return };
    let mut vips: HashMap<IpAddr, &Resolved<'_, '_>> = HashMap::new();
    for listener in listeners {
        if let Some(bind) = listener.bind {
            vips.entry(bind.ip()).or_insert(listener);
        }
    }
    for local in &l4.local_addresses {
        if let Some(listener) = vips.get(&local.value) {
            let message = format!("local address `{}` is a VIP", local.value);
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                "expected an address that no listener is on",
            );
            out.error(
                local.span,
                complaint.note(
                    listener.bind_span(),
                    format!("{} is here", listener.subject()),
                ),
            );
        }
    }
}

/// What a pool's backends must be by themselves.
fn check_backends(pool: &PoolTable<'_>, out: &mut Findings<'_>) {
    let mut first: HashMap<SocketAddr, Span> = HashMap::new();
    for backend in &pool.backends {
        let address = backend.address;
        if let Some(earlier) = first.get(&address.value) {
            let message = format!("backend `{}` is in {} twice", address.value, pool.subject);
            let complaint = Complaint::new(Kind::Duplicate, message, "expected each address once");
            out.error(
                address.span,
                complaint
                    .help("for more of the work, raise its `weight`")
                    .note(*earlier, "the first is here"),
            );
        } else {
            first.insert(address.value, address.span);
        }
    }
    if !pool.backends.is_empty() && pool.backends.iter().all(|backend| backend.weight == 0) {
        let message = format!("every backend of {} has weight 0", pool.subject);
        out.warn(
            pool.span,
            Complaint::new(Kind::Unused, message, "none of them takes new work"),
        );
    }
}

/// What a pool must be for the listeners that send to it.
fn check_users(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    file: &File<'_>,
    out: &mut Findings<'_>,
) {
    let listener_of = |user: &Use| &listeners[user.listener];
    check_hash(pool, users, listeners, out);
    if let Some((key, span)) = pool.policies.first
        && !users.is_empty()
        && users.iter().all(|user| listener_of(user).is_xdp())
    {
        let message = format!("`{key}` of {}, which only XDP listeners use", pool.subject);
        let label = "the proxy alone goes by it";
        out.warn(span, Complaint::new(Kind::Unused, message, label));
    }
    if let Some(sticky) = &pool.sticky
        && let Some(user) = users.iter().find(|user| {
            let listener = listener_of(user);
            listener.protocol.is_some() && !listener.is_http()
        })
    {
        let listener = listener_of(user);
        let protocol = listener.protocol.map_or("", Protocol::as_str);
        let message = format!(
            "{} is sticky, and {} of protocol `{protocol}` sends to it",
            pool.subject,
            listener.subject()
        );
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "cookies are seen by `http` and `https` listeners only",
        );
        out.error(
            sticky.span,
            complaint
                .help("`scheduler = \"source_hash\"` keeps a client's connections at one backend")
                .note(user.span, format!("{} is here", listener.subject())),
        );
    }
    check_connection(pool, users, listeners, out);
    check_pool_protocol(pool, users, listeners, out);
    if let Some(persistence) = &pool.persistence
        && let Some(user) = users
            .iter()
            .find(|user| listener_of(user).asked == Some(Forward::Proxy))
    {
        let listener = listener_of(user);
        let message = format!(
            "{} remembers clients, and {}, which is proxied, sends to it",
            pool.subject,
            listener.subject()
        );
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "`persistence` is for listeners with an XDP mode",
        );
        out.error(
            persistence.span,
            complaint
                .help("the proxy has `sticky = { cookie = \"WEIRSRV\" }`, and `scheduler = \"source_hash\"`")
                .note(user.span, format!("{} is here", listener.subject())),
        );
    }
    if let Some(on_removal) = pool.on_removal.good()
        && on_removal.value == OnRemoval::Reset
        && let Some(user) = users
            .iter()
            .find(|user| listener_of(user).asked == Some(Forward::Proxy))
    {
        let listener = listener_of(user);
        let message = format!(
            "{} resets sessions, and {}, which is proxied, sends to it",
            pool.subject,
            listener.subject()
        );
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "`on_removal = \"reset\"` is for listeners with an XDP mode",
        );
        out.error(
            on_removal.span,
            complaint.note(user.span, format!("{} is here", listener.subject())),
        );
    }
    if let Some(quic) = pool.quic.first()
        && let Some(user) = users
            .iter()
            .find(|user| listener_of(user).asked == Some(Forward::Proxy))
    {
        let listener = listener_of(user);
        let message = format!(
            "{} goes by connection ids of QUIC, and {}, which is proxied, sends to it",
            pool.subject,
            listener.subject()
        );
        let label = "`quic` is for listeners with an XDP mode";
        let complaint = Complaint::new(Kind::Conflict, message, label);
        out.error(
            quic.span,
            complaint.note(user.span, format!("{} is here", listener.subject())),
        );
    }
    let Some(xdp) = users.iter().find(|user| listener_of(user).is_xdp()) else {
        return;
    };
    let forward = listener_of(xdp).asked_word();
    for backend in &pool.backends {
        let ip = backend.address.value.ip();
        let note = format!("{} is here", listener_of(xdp).subject());
        if ip.is_loopback() {
            let message = format!("a backend on a loopback address with `forward = \"{forward}\"`");
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                "XDP sends packets out of an interface",
            );
            out.error(backend.address.span, complaint.note(xdp.span, note));
        }
    }
    check_direct_ports(pool, users, listeners, out);
    check_families(pool, users, listeners, file, out);
}

/// The families of IP that an XDP listener leads from and to, and the local addresses that it takes for that.
fn check_families(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    file: &File<'_>,
    out: &mut Findings<'_>,
) {
    let Some(l4) = &file.l4 else { return };
    let mut first_of_family: [Option<&BackendTable>; 2] = [None; 2];
    for backend in &pool.backends {
        let family = usize::from(backend.address.value.is_ipv6());
        first_of_family[family].get_or_insert(backend);
    }
    for backend in first_of_family.into_iter().flatten() {
        let is_ipv6 = backend.address.value.is_ipv6();
        let has_local = l4
            .local_addresses
            .iter()
            .any(|at| at.value.is_ipv6() == is_ipv6);
        for user in users {
            let listener = &listeners[user.listener];
            let (Some(bind), Some(forward)) = (listener.bind, listener.forward) else {
                continue;
            };
            if !forward.is_xdp() {
                continue;
            }
            let source = listener.table.tunnel.source;
            if let (Forward::Tunnel, Some(source)) = (forward, source)
                && source.address().is_ipv6() != is_ipv6
            {
                let message = format!(
                    "outer sources of {} for a backend on {}",
                    family(!is_ipv6),
                    family(is_ipv6)
                );
                let complaint = Complaint::new(
                    Kind::Conflict,
                    message,
                    format!("expected a backend on {}", family(!is_ipv6)),
                );
                let span = listener.table.tunnel_span.unwrap_or(listener.table.span);
                out.error(
                    backend.address.span,
                    complaint.note(span, format!("{}'s `source` is here", listener.subject())),
                );
            }
            if bind.is_ipv6() != is_ipv6 && matches!(forward, Forward::Nat | Forward::Dr) {
                let (from, to) = (family(bind.is_ipv6()), family(is_ipv6));
                let message = format!(
                    "`forward = \"{forward}\"` from {} on {from} to a backend on {to}",
                    listener.subject()
                );
                let complaint = Complaint::new(
                    Kind::Conflict,
                    message,
                    format!("expected a backend on {from}"),
                )
                .help("`forward = \"proxy\"`, `\"fullnat\"` and `\"tunnel\"` lead from one family to the other");
                out.error(
                    backend.address.span,
                    complaint.note(
                        listener.bind_span(),
                        format!("{} is here", listener.subject()),
                    ),
                );
            }
            let has_source = forward == Forward::Tunnel && source.is_some();
            if matches!(forward, Forward::Fullnat | Forward::Tunnel) && !has_local && !has_source {
                out.error(
                    listener.forward_span(),
                    no_local(forward, is_ipv6).note(l4.span, "[l4] is here"),
                );
            }
        }
    }
}

fn family(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}

fn no_local(forward: Forward, is_ipv6: bool) -> Complaint {
    let family = family(is_ipv6);
    let message = format!(
        "`forward = \"{forward}\"`, and [l4] has no local address of the backends' family, {family}"
    );
    let label = match forward {
        Forward::Fullnat => "it puts a local address in place of the client's",
        _ => "a local address is the outer source of the tunnel",
    };
    let example = if is_ipv6 {
        "2001:db8::10"
    } else {
        "192.0.2.10"
    };
    Complaint::new(Kind::MissingKey, message, label).help(format!(
        "write `local_addresses = [\"{example}\"]` in [l4], with an {family} address of this node"
    ))
}

/// Whether anything at layer 4 is IPv6, so that there will be sessions.
fn has_ipv6(l4: &L4, file: &File<'_>, uses: &Uses, listeners: &[Resolved<'_, '_>]) -> bool {
    let xdp = |user: &Use| listeners[user.listener].is_xdp();
    l4.local_addresses.iter().any(IpAddr::is_ipv6)
        || listeners
            .iter()
            .any(|listener| listener.is_xdp() && listener.bind.is_some_and(|bind| bind.is_ipv6()))
        || file.pools.iter().zip(&uses.of_pool).any(|(pool, users)| {
            users.iter().any(xdp)
                && pool
                    .backends
                    .iter()
                    .any(|backend| backend.address.value.is_ipv6())
        })
}

/// `hash` is for schedulers that hash, and what it names must be there to be seen.
fn check_hash(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    out: &mut Findings<'_>,
) {
    let Read::Good(hash) = &pool.hash else { return };
    if let Read::Absent | Read::Good(_) = &pool.scheduler {
        let scheduler = pool.scheduler.good().map(|at| at.value).unwrap_or_default();
        if !scheduler.hashes() {
            let message = format!("`hash` with `scheduler = \"{}\"`", scheduler.as_str());
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                "only `source_hash` and `maglev` hash",
            );
            out.error(hash.span, complaint);
            return;
        }
    }
    let listener_of = |user: &&Use| &listeners[user.listener];
    let blind = users.iter().find(|user| {
        let listener = listener_of(user);
        listener.protocol.is_some() && !listener.is_http() && hash.value.is_of_request()
    });
    if let Some(user) = blind {
        let listener = &listeners[user.listener];
        let protocol = listener.protocol.map_or("", Protocol::as_str);
        let message = format!(
            "{} hashes a part of requests, and {} of protocol `{protocol}` sends to it",
            pool.subject,
            listener.subject()
        );
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "requests are seen by `http` and `https` listeners only",
        );
        out.error(
            hash.span,
            complaint
                .help("`hash = \"address\"` is there for every protocol")
                .note(user.span, format!("{} is here", listener.subject())),
        );
    }
}

/// Requests on shared connections need listeners that see requests, and connections that tell of nobody.
fn check_pool_protocol(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    out: &mut Findings<'_>,
) {
    let Read::Good(protocol) = &pool.protocol else {
        return;
    };
    let unfit = users.iter().find(|user| {
        let listener = &listeners[user.listener];
        listener.protocol.is_some() && !listener.is_http()
    });
    if let Some(user) = unfit {
        let listener = &listeners[user.listener];
        let message = format!(
            "{} has `protocol`, and {} sends no requests to it",
            pool.subject,
            listener.subject()
        );
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "requests are seen by `http` and `https` listeners only",
        );
        out.error(
            protocol.span,
            complaint.note(user.span, format!("{} is here", listener.subject())),
        );
    }
    if protocol.value == PoolProtocol::Http2
        && let Read::Good(header) = &pool.proxy_protocol
    {
        let message = format!("{} has `proxy_protocol` and HTTP/2", pool.subject);
        let complaint = Complaint::new(
            Kind::Conflict,
            message,
            "a connection that many clients share cannot begin with the header of one",
        );
        out.error(header.span, complaint.help("write `protocol = \"http1\"`"));
    }
}

/// TLS and PROXY headers towards backends need a connection that is ours.
fn check_connection(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    out: &mut Findings<'_>,
) {
    let keys = [
        ("tls", pool.tls.as_ref().map(|at| at.span)),
        (
            "proxy_protocol",
            pool.proxy_protocol.good().map(|at| at.span),
        ),
    ];
    for (key, span) in keys {
        let Some(span) = span else { continue };
        let unfit = users.iter().find(|user| {
            let listener = &listeners[user.listener];
            listener.is_xdp() || listener.protocol.is_some_and(Protocol::is_udp)
        });
        if let Some(user) = unfit {
            let listener = &listeners[user.listener];
            let message = format!(
                "{} has `{key}`, and {} sends packets to it, not connections",
                pool.subject,
                listener.subject()
            );
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                "expected listeners with `forward = \"proxy\"` and a protocol other than `udp`",
            );
            out.error(
                span,
                complaint.note(user.span, format!("{} is here", listener.subject())),
            );
        }
    }
    if let Some(tls) = pool.tls.as_ref()
        && !tls.value.verify
    {
        let message = format!("certificates of {} are not verified", pool.subject);
        let complaint = Complaint::new(
            Kind::Unused,
            message,
            "whoever is between here and the backends can read and change everything",
        );
        out.warn(
            tls.span,
            complaint
                .help("write `ca_file = \"…\"` with the backends' own authority or certificates"),
        );
    }
}

/// `dr` and `tunnel` leave the port as it is.
fn check_direct_ports(
    pool: &PoolTable<'_>,
    users: &[Use],
    listeners: &[Resolved<'_, '_>],
    out: &mut Findings<'_>,
) {
    let mut ports: BTreeMap<u16, Use> = BTreeMap::new();
    let mut first = None;
    for user in users {
        let listener = &listeners[user.listener];
        if let (Some(Forward::Dr | Forward::Tunnel), Some(bind)) = (listener.forward, listener.bind)
        {
            first.get_or_insert((bind.port(), *user));
            ports.entry(bind.port()).or_insert(*user);
        }
    }
    let Some((port, user)) = first else { return };
    let first = &listeners[user.listener];
    for (other_port, other) in ports {
        if other_port != port {
            let listener = &listeners[other.listener];
            let message = format!(
                "{} is on port {other_port}, {} on port {port}, and both send to {} without changing the port",
                listener.subject(),
                first.subject(),
                pool.subject
            );
            let complaint = Complaint::new(Kind::Conflict, message, "expected a pool of its own");
            out.error(
                other.span,
                complaint.note(user.span, format!("{} is here", first.subject())),
            );
        }
    }
    for backend in &pool.backends {
        let found = backend.address.value.port();
        if found != port {
            let forward = first.asked_word();
            let message = format!(
                "`forward = \"{forward}\"` does not change the port, but the backend's is {found}"
            );
            let complaint = Complaint::new(
                Kind::Conflict,
                message,
                format!("expected the listener's port, {port}"),
            );
            out.error(
                backend.address.span,
                complaint
                    .help("`fullnat` and `nat` change it")
                    .note(first.bind_span(), format!("{} is here", first.subject())),
            );
        }
    }
}

/// A backend that is the listener itself: what is sent to it comes back.
fn check_loops(
    (at, pool): (usize, &PoolTable<'_>),
    uses: &Uses,
    binds: &Binds,
    listeners: &[Resolved<'_, '_>],
    out: &mut Findings<'_>,
) {
    for backend in &pool.backends {
        let address = backend.address.value;
        for transport in [Transport::Tcp, Transport::Udp] {
            let exact = binds.exact.get(&(transport, address));
            let wildcard = || {
                binds
                    .wildcard
                    .get(&(transport, address.is_ipv6(), address.port()))
            };
            let found = exact.or_else(|| address.ip().is_loopback().then(wildcard).flatten());
            if let Some(listener) = found
                && uses.pairs.contains(&(*listener, at))
            {
                let listener = &listeners[*listener];
                let message = format!(
                    "backend `{address}` is {} itself, which sends to it",
                    listener.subject()
                );
                let complaint =
                    Complaint::new(Kind::Conflict, message, "expected the address of a server");
                let note = format!("{} is here", listener.subject());
                out.error(
                    backend.address.span,
                    complaint.note(listener.bind_span(), note),
                );
            }
        }
    }
}

/// Without `[l4]`, what XDP would forward is proxied.
fn warn_of_fallback(listeners: &[Resolved<'_, '_>], out: &mut Findings<'_>) {
    for listener in listeners {
        if let (Some(asked), Some(_), Some(at)) = (
            listener.asked,
            listener.forward,
            listener.table.forward.good(),
        ) && asked.is_xdp()
        {
            let message = format!(
                "{} is proxied in user space: the file has no [l4]",
                listener.subject()
            );
            let complaint = Complaint::new(Kind::Unused, message, format!("`{asked}` needs XDP"));
            out.warn(
                at.span,
                complaint.help(
                    "add [l4] with `interfaces = [\"eth0\"]`, or write `forward = \"proxy\"`",
                ),
            );
        }
    }
}

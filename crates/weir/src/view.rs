//! What the API shows, put together from the snapshot, the health checks and the data planes' counters.

use std::collections::HashMap;
use std::sync::Arc;

use weir_api::View;
use weir_api::order::OverrideView;
use weir_api::view::{
    AccessLogView, BackendView, CertificateView, CheckView, ChecksView, CoreView, DropView,
    InterfaceView, LatencyView, ListenerView, NodeView, PoolCertificateView, PoolView, RouteView,
    SessionFilter, SessionPage, SessionView, SessionsView, SplitView, StickySessionsView, TlsView,
    Traffic,
};
use weir_health::HealthReport;
use weir_l7::{BackendStats, LatencyStats, ListenerStats, PoolStats, Reason};
use weir_model::{
    Action, BackendId, HealthCheck, HealthProbe, Listener, Name, PathMatch, Pool, Protocol, Route,
    Snapshot, SplitPool, StickyMode, ValueTest,
};

use crate::node::Node;
use crate::{procfs, sessions};

impl View for Node {
    fn is_draining(&self) -> bool {
        self.drains_now()
    }

    fn node(&self) -> NodeView {
        let l4 = self.planes.l4_stats();
        let drops = |stats: &weir_l4::Stats| {
            stats
                .drops
                .iter()
                .map(|(reason, count)| DropView {
                    reason: reason.as_str(),
                    count: *count,
                })
                .collect()
        };
        let interface = |stats: &weir_l4::InterfaceStats| InterfaceView {
            name: stats.interface.clone(),
            mode: stats.attachment.map(weir_l4::Attachment::as_str),
        };
        NodeView {
            name: self.name(),
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            generation: self.snapshot().generation,
            reloads: self.reloads(),
            drops: l4.as_ref().map(drops).unwrap_or_default(),
            sessions: l4
                .iter()
                .flat_map(|stats| [("ipv4", &stats.table), ("ipv6", &stats.table6)])
                .map(|(family, table)| SessionsView {
                    family,
                    open: table.sessions,
                    max: table.max_sessions.into(),
                    expired: table.expired,
                    table_bytes: table.bytes,
                })
                .collect(),
            interfaces: l4
                .iter()
                .flat_map(|stats| &stats.interfaces)
                .map(interface)
                .collect(),
            cores: l4
                .iter()
                .flat_map(|stats| &stats.cores)
                .map(|stats| CoreView {
                    core: stats.core,
                    handed: stats.handed,
                    taken: stats.taken,
                })
                .collect(),
            access_logs: self
                .planes
                .l7_stats()
                .access_logs
                .iter()
                .map(|log| AccessLogView {
                    output: log.output.to_string(),
                    written: log.written,
                    dropped: log.dropped,
                })
                .collect(),
            late_checks: self.health.late(),
            tls: tls(&self.planes.l7_stats()),
            process: procfs::process(),
        }
    }

    fn listeners(&self) -> Vec<ListenerView> {
        let mut traffic: HashMap<Name, Traffic> = HashMap::new();
        let mut proxied: HashMap<Name, (Requests, LatencyView)> = HashMap::new();
        for stats in self.planes.l7_stats().listeners {
            let routes = stats.routes.iter();
            let routes = routes.map(|route| (route.name.clone(), route.requests));
            proxied.insert(
                stats.name.clone(),
                (routes.collect(), latency(&stats.latency)),
            );
            traffic.insert(stats.name.clone(), proxied_listener(&stats));
        }
        for stats in self
            .planes
            .l4_stats()
            .into_iter()
            .flat_map(|stats| stats.listeners)
        {
            traffic.insert(stats.listener.clone(), xdp_listener(&stats));
        }
        let view = |listener: &Arc<Listener>| {
            let (requests, latency) = proxied.remove(&listener.name).unzip();
            let is_http = matches!(listener.protocol, Protocol::Http | Protocol::Https);
            let requests: Requests = requests.unwrap_or_default();
            let routes = listener.routes.iter().enumerate();
            ListenerView {
                latency: latency.filter(|_| is_http),
                name: listener.name.to_string(),
                bind: listener.bind,
                protocol: listener.protocol.as_str(),
                forward: listener.forward.as_str(),
                pool: listener.pool.as_ref().map(ToString::to_string),
                routes: routes
                    .map(|(place, of)| route(place, of, &requests))
                    .collect(),
                traffic: traffic
                    .remove(&listener.name)
                    .map(|traffic| of_listener(listener, traffic))
                    .unwrap_or_default(),
            }
        };
        self.snapshot().config.listeners.iter().map(view).collect()
    }

    fn pools(&self) -> Vec<PoolView> {
        let snapshot = self.snapshot();
        let stats = self.planes.l7_stats().pools.into_iter();
        let stats: HashMap<Name, PoolStats> = stats.map(|pool| (pool.name.clone(), pool)).collect();
        let view = |pool: &Arc<Pool>| {
            let counted = stats.get(&pool.name);
            PoolView {
                pending: counted.map_or(0, |stats| stats.pending),
                requests: counted.map_or(0, |stats| stats.requests),
                retries: counted.map_or(0, |stats| stats.retries),
                answers: counted.map_or([0; 5], |stats| {
                    let [_, classes @ ..] = stats.answers;
                    classes
                }),
                latency: counted
                    .map(|stats| latency(&stats.latency))
                    .unwrap_or_default(),
                sticky_mode: pool.sticky.as_ref().map(|sticky| sticky.mode.as_str()),
                sticky_sessions: counted
                    .filter(|_| learns(pool))
                    .map(|stats| StickySessionsView {
                        open: stats.sticky_sessions,
                        forgotten: stats.sticky_forgotten,
                    }),
                name: pool.name.to_string(),
                scheduler: pool.scheduler.as_str(),
                check: pool.health.as_ref().map(check),
                sticky_cookie: pool.sticky.as_ref().map(|sticky| sticky.cookie.clone()),
                backends: pool.backends.len() as u64,
                available: available(&snapshot, pool),
            }
        };
        snapshot.config.pools.iter().map(view).collect()
    }

    fn backends(&self) -> Vec<BackendView> {
        let snapshot = self.snapshot();
        let mut traffic: HashMap<BackendId, Traffic> = HashMap::new();
        let mut ejections: HashMap<BackendId, (bool, u64)> = HashMap::new();
        for stats in self.planes.l7_stats().backends {
            ejections.insert(stats.id.clone(), (stats.ejected, stats.ejections));
            traffic.insert(stats.id.clone(), proxied_backend(&stats));
        }
        for stats in self
            .planes
            .l4_stats()
            .into_iter()
            .flat_map(|stats| stats.backends)
        {
            let of_backend = traffic.entry(stats.backend).or_default();
            *of_backend = sum(of_backend, &sessions_of(&stats.counters));
        }
        let overrides = Self::overrides(self);
        let view = |(id, backend, _): (BackendId, &weir_model::Backend, &Arc<Pool>)| {
            let state = snapshot.state(&id);
            let (ejected, ejections) = ejections.remove(&id).unwrap_or_default();
            BackendView {
                ejected,
                ejections,
                pool: id.pool.to_string(),
                address: id.address,
                weight: backend.weight,
                health: state.health.into(),
                draining: state.draining,
                overridden: overrides.get(&id).copied(),
                available: backend.weight > 0 && snapshot.takes_new_work(&id),
                checks: self.health.report(&id).map(checks),
                traffic: traffic.remove(&id).unwrap_or_default(),
            }
        };
        snapshot.config.backends().map(view).collect()
    }

    fn overrides(&self) -> Vec<OverrideView> {
        let all = Self::overrides(self);
        let view = |(id, set): (&BackendId, &_)| OverrideView {
            pool: id.pool.to_string(),
            address: id.address,
            set: *set,
        };
        all.iter().map(view).collect()
    }

    fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, String> {
        sessions::find(&self.planes, &self.snapshot().config, filter)
    }
}

/// What the API shows of a session.
pub(crate) fn session(session: &weir_l4::Session) -> SessionView {
    SessionView {
        listener: session.listener.as_ref().map(ToString::to_string),
        protocol: if session.udp { "udp" } else { "tcp" },
        forward: session.forward.as_str(),
        client: session.client,
        vip: session.vip,
        local: session.local,
        pool: session
            .backend
            .as_ref()
            .map(|backend| backend.pool.to_string()),
        backend: session.backend.as_ref().map(|backend| backend.address),
        state: session.state.as_str(),
        idle: session.idle,
        timeout_left: session.timeout_left,
        packets_in: session.packets_in,
        packets_out: session.packets_out,
        bytes_in: session.bytes_in,
        bytes_out: session.bytes_out,
    }
}

/// What layer 4 counted for a listener. Reasons are counted for the node as a whole.
fn xdp_listener(stats: &weir_l4::ListenerStats) -> Traffic {
    let drops = vec![DropView {
        reason: "any",
        count: stats.drops,
    }];
    Traffic {
        drops,
        ..sessions_of(&stats.counters)
    }
}

fn sessions_of(counters: &weir_l4::Counters) -> Traffic {
    Traffic {
        connections: counters.sessions_opened,
        open: Some(counters.sessions_active),
        bytes_in: Some(counters.bytes_in),
        bytes_out: Some(counters.bytes_out),
        packets_in: Some(counters.packets_in),
        packets_out: Some(counters.packets_out),
        ..Traffic::default()
    }
}

/// A backend can serve listeners of both planes.
fn sum(proxied: &Traffic, xdp: &Traffic) -> Traffic {
    let add = |a: Option<u64>, b: Option<u64>| a.map_or(b, |a| Some(a + b.unwrap_or(0)));
    Traffic {
        connections: proxied.connections + xdp.connections,
        open: add(proxied.open, xdp.open),
        bytes_in: xdp.bytes_in,
        bytes_out: xdp.bytes_out,
        packets_in: xdp.packets_in,
        packets_out: xdp.packets_out,
        ..proxied.clone()
    }
}

/// Takes away what a proxied listener of this protocol cannot have.
fn of_listener(listener: &Listener, mut traffic: Traffic) -> Traffic {
    let protocol = listener.protocol;
    if listener.forward.is_xdp() {
        return traffic;
    }
    if !matches!(protocol, Protocol::Http | Protocol::Https) {
        (traffic.requests, traffic.answers) = (None, None);
    }
    if protocol != Protocol::Https {
        (traffic.handshakes, traffic.handshakes_failed) = (None, None);
    }
    if protocol != Protocol::Udp {
        (traffic.packets_in, traffic.packets_out) = (None, None);
    }
    traffic
}

/// What TLS of layer 7 is made of.
fn tls(stats: &weir_l7::Stats) -> TlsView {
    let certificate = |stats: &weir_l7::CertificateStats| CertificateView {
        listener: stats.listener.to_string(),
        file: stats.expiry.file.display().to_string(),
        not_after_s: stats.expiry.not_after_s,
    };
    let of_pool = |stats: &weir_l7::PoolCertificateStats| PoolCertificateView {
        pool: stats.pool.to_string(),
        file: stats.expiry.file.display().to_string(),
        not_after_s: stats.expiry.not_after_s,
    };
    TlsView {
        pool_certificates: stats.pool_certificates.iter().map(of_pool).collect(),
        certificates: stats.certificates.iter().map(certificate).collect(),
        renewed: stats.tls_files_renewed,
        refused: stats.tls_files_refused,
    }
}

/// What layer 7 counted for a listener.
fn proxied_listener(stats: &ListenerStats) -> Traffic {
    let [_, classes @ ..] = stats.answers;
    let mut drops = reasons(&stats.errors);
    if stats.datagrams_dropped > 0 {
        drops.push(DropView {
            reason: "datagram_dropped",
            count: stats.datagrams_dropped,
        });
    }
    Traffic {
        connections: stats.connections,
        open: Some(stats.connections_active),
        bytes_in: Some(stats.bytes_in),
        bytes_out: Some(stats.bytes_out),
        packets_in: Some(stats.datagrams_in),
        packets_out: Some(stats.datagrams_out),
        requests: Some(stats.requests),
        answers: Some(classes),
        handshakes: Some(stats.handshakes),
        handshakes_failed: Some(stats.handshakes_failed),
        drops,
        ..Traffic::default()
    }
}

/// What layer 7 counted for a backend.
fn proxied_backend(stats: &BackendStats) -> Traffic {
    Traffic {
        connections: stats.connections_opened,
        open: Some(stats.connections_active),
        idle: Some(stats.connections_idle),
        reused: Some(stats.connections_reused),
        requests: Some(stats.requests),
        requests_open: Some(stats.requests_active),
        retries: Some(stats.retries),
        drops: reasons(&stats.failures),
        ..Traffic::default()
    }
}

fn reasons(counts: &[(Reason, u64)]) -> Vec<DropView> {
    counts
        .iter()
        .map(|(reason, count)| DropView {
            reason: reason.as_str(),
            count: *count,
        })
        .collect()
}

fn learns(pool: &Pool) -> bool {
    let sticky = pool.sticky.as_ref();
    sticky.is_some_and(|sticky| matches!(sticky.mode, StickyMode::Learn(_)))
}

fn available(snapshot: &Snapshot, pool: &Pool) -> u64 {
    let takes_work = |backend: &&weir_model::Backend| {
        let id = BackendId {
            pool: pool.name.clone(),
            address: backend.address,
        };
        backend.weight > 0 && snapshot.takes_new_work(&id)
    };
    pool.backends.iter().filter(takes_work).count() as u64
}

/// Requests of a listener's routes, by what these are called.
type Requests = HashMap<String, u64>;

fn latency(stats: &LatencyStats) -> LatencyView {
    let bucket = |(bound, count): (Option<std::time::Duration>, u64)| {
        (
            bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()),
            count,
        )
    };
    LatencyView {
        buckets: stats.buckets().map(bucket).collect(),
        sum: stats.sum,
    }
}

fn route(place: usize, route: &Route, requests: &Requests) -> RouteView {
    let called = match &route.name {
        Some(name) => name.to_string(),
        None => format!("#{}", place + 1),
    };
    let (path, path_prefix, path_regex) = match &route.path {
        PathMatch::Any => (None, None, None),
        PathMatch::Exact(path) => (Some(path.clone()), None, None),
        PathMatch::Prefix(prefix) => (None, Some(prefix.clone()), None),
        PathMatch::Regex(pattern) => (None, None, Some(pattern.to_string())),
    };
    let (action, pool, status) = match &route.action {
        Action::Pool(pool) => ("pool", Some(pool.to_string()), None),
        Action::Split(_) => ("split", None, None),
        Action::Redirect(redirect) => ("redirect", None, Some(redirect.status)),
        Action::Answer(answer) => ("answer", None, Some(answer.status)),
    };
    let split = match &route.action {
        Action::Split(sides) => sides.as_slice(),
        _ => &[],
    };
    let side = |side: &SplitPool| SplitView {
        pool: side.pool.to_string(),
        weight: side.weight,
    };
    RouteView {
        requests: requests.get(&called).copied().unwrap_or(0),
        name: route.name.as_ref().map(ToString::to_string),
        hosts: route.hosts.iter().map(ToString::to_string).collect(),
        path,
        path_prefix,
        path_regex,
        conditions: conditions(route),
        action,
        pool,
        split: split.iter().map(side).collect(),
        status,
    }
}

/// What a route asks beside host and path, each in a few words.
fn conditions(route: &Route) -> Vec<String> {
    let mut words = Vec::new();
    if !route.methods.is_empty() {
        words.push(format!("method {}", route.methods.join(", ")));
    }
    let kinds = [
        ("header", &route.headers),
        ("query", &route.query),
        ("cookie", &route.cookies),
    ];
    for (kind, conditions) in kinds {
        words.extend(conditions.iter().map(|condition| {
            let name = &condition.name;
            match &condition.test {
                ValueTest::Exact(value) => format!("{kind} {name} is {value:?}"),
                ValueTest::Prefix(value) => format!("{kind} {name} begins with {value:?}"),
                ValueTest::Regex(pattern) => format!("{kind} {name} matches {pattern}"),
                ValueTest::Present(true) => format!("{kind} {name} is there"),
                ValueTest::Present(false) => format!("{kind} {name} is not there"),
            }
        }));
    }
    if !route.clients.is_empty() {
        let ranges: Vec<String> = route.clients.iter().map(ToString::to_string).collect();
        words.push(format!("client in {}", ranges.join(", ")));
    }
    words
}

fn check(check: &HealthCheck) -> CheckView {
    let path = match &check.probe {
        HealthProbe::Http(http) => Some(http.path.clone()),
        HealthProbe::Tcp | HealthProbe::Exchange { .. } | HealthProbe::Grpc { .. } => None,
    };
    CheckView {
        r#type: check.probe.as_str(),
        path,
        interval: check.interval,
        timeout: check.timeout,
        rise: check.rise,
        fall: check.fall,
    }
}

fn checks(report: HealthReport) -> ChecksView {
    ChecksView {
        since: report.since,
        reason: report.reason,
        passed: report.passed,
        failed: report.failed,
        inconclusive: report.inconclusive,
        last_duration: report.last_duration,
        last_failure: report.last_failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operators look reasons up there.
    #[test]
    fn every_reason_is_documented() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let document = std::fs::read_to_string(file).unwrap();
        let l7 = Reason::ALL.iter().map(|reason| reason.as_str());
        let l4 = weir_l4::DropReason::ALL
            .iter()
            .map(|reason| reason.as_str());
        for reason in l7.chain(l4).chain(["datagram_dropped", "any"]) {
            assert!(
                document.contains(&format!("\n| {reason} |")),
                "docs/metrics.md lacks {reason}"
            );
        }
    }

    #[test]
    fn counters_of_both_planes_add_up_at_a_backend() {
        let proxied = Traffic {
            connections: 3,
            open: Some(1),
            requests: Some(9),
            ..Traffic::default()
        };
        let counters = weir_l4::Counters {
            sessions_opened: 4,
            sessions_active: 2,
            packets_in: 10,
            bytes_in: 100,
            packets_out: 20,
            bytes_out: 200,
        };
        let both = sum(&proxied, &sessions_of(&counters));
        assert_eq!(
            (both.connections, both.open, both.requests),
            (7, Some(3), Some(9))
        );
        assert_eq!((both.bytes_in, both.packets_out), (Some(100), Some(20)));
        let alone = sum(&Traffic::default(), &sessions_of(&counters));
        assert_eq!(
            (alone.connections, alone.open, alone.requests),
            (4, Some(2), None)
        );
    }
}

//! `/metrics`: every value is read from the [`View`] at the moment of the scrape. Names, units and labels are
//! documented in `docs/metrics.md`; a test holds the two together.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::error::ApiError;
use crate::timestamp::unix_seconds;
use crate::view::{
    BackendView, HealthView, LatencyView, ListenerView, NodeView, PoolView, Traffic, View,
};

/// Series that one scrape has at most: enough for the 50,000 backends that a node may have, all of them busy. It is about
/// 100 MB of text, and what reads it has to keep as many series.
const SERIES_MAX: u64 = 1_000_000;

/// Encodes what a view shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Reads this view at every scrape.
    pub fn new(view: Arc<dyn View>) -> Self {
        Self::bounded(view, SERIES_MAX)
    }

    /// The same with another bound.
    pub(crate) fn bounded(view: Arc<dyn View>, series_max: u64) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { view, series_max }));
        Self { registry }
    }

    /// The text of all metrics.
    ///
    /// # Errors
    /// When a value cannot be written as text.
    pub fn encode(&self) -> Result<String, ApiError> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)
            .map_err(|error| ApiError::internal(format!("encode metrics: {error}")))?;
        Ok(text)
    }
}

struct Scrape {
    view: Arc<dyn View>,
    series_max: u64,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families {
            encoder,
            leaves_zeros_out: false,
            room: self.series_max,
            left_out: 0,
        };
        node(&mut families, &self.view.node(), self.view.is_draining())?;
        listeners(&mut families, &self.view.listeners())?;
        pools(&mut families, &self.view.pools())?;
        // The last, as there are the most of them: what is left out is theirs.
        backends(&mut families, &self.view.backends())?;
        families.end()
    }
}

/// A label's name and value.
type Label<'s> = (&'static str, &'s str);

/// No family has more.
const MOST_LABELS: usize = 4;

/// One value and its labels. Nothing of it is on the heap: a node can have a million samples.
struct Sample<'s> {
    labels: [Label<'s>; MOST_LABELS],
    label_count: usize,
    value: Value<'s>,
}

enum Value<'s> {
    Whole(u64),
    Real(f64),
    Latency(&'s LatencyView),
}

impl Value<'_> {
    /// How many series it is.
    fn series(&self) -> u64 {
        match self {
            Self::Whole(_) | Self::Real(_) => 1,
            // And the sum and the count.
            Self::Latency(latency) => latency.buckets.len() as u64 + 2,
        }
    }

    fn is_zero(&self) -> bool {
        matches!(self, Self::Whole(0))
    }

    fn encode(&self, kind: MetricType, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match (kind, self) {
            (MetricType::Counter, Self::Whole(value)) => {
                metric.encode_counter::<NoLabelSet, u64, f64>(value, None)
            }
            (MetricType::Counter, Self::Real(value)) => {
                metric.encode_counter::<NoLabelSet, f64, f64>(value, None)
            }
            (_, Self::Whole(value)) => metric.encode_gauge(value),
            (_, Self::Real(value)) => metric.encode_gauge(value),
            (_, Self::Latency(latency)) => {
                let count = latency.buckets.iter().map(|(_, count)| count).sum();
                let sum_s = latency.sum.as_secs_f64();
                metric.encode_histogram::<NoLabelSet>(sum_s, count, &latency.buckets, None)
            }
        }
    }
}

impl<'s> Sample<'s> {
    fn new(first: &[Label<'s>], last: Option<Label<'s>>, value: Value<'s>) -> Self {
        let mut labels = [("", ""); MOST_LABELS];
        let given = first.iter().copied().chain(last);
        let label_count = labels
            .iter_mut()
            .zip(given)
            .map(|(place, label)| *place = label)
            .count();
        debug_assert_eq!(
            label_count,
            first.len() + usize::from(last.is_some()),
            "MOST_LABELS is too low"
        );
        Self {
            labels,
            label_count,
            value,
        }
    }

    fn labels(&self) -> &[Label<'s>] {
        &self.labels[..self.label_count]
    }
}

/// A sample of a count.
fn whole<'s, const N: usize>(labels: [Label<'s>; N], value: u64) -> Sample<'s> {
    Sample::new(&labels, None, Value::Whole(value))
}

/// A sample of a measure.
fn real<'s, const N: usize>(labels: [Label<'s>; N], value: f64) -> Sample<'s> {
    Sample::new(&labels, None, Value::Real(value))
}

/// A sample of a count with one more label.
fn with<'s>(labels: &[Label<'s>], label: Label<'s>, value: u64) -> Sample<'s> {
    Sample::new(labels, Some(label), Value::Whole(value))
}

/// Writes families; one without samples is left out.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    /// Whether samples that are 0 are left out. A node may have 50,000 backends, of which most have little to say.
    leaves_zeros_out: bool,
    /// Series that may still be written.
    room: u64,
    /// Series for which there was no room.
    left_out: u64,
}

impl Families<'_> {
    /// A counter; the format adds `_total` to its name.
    fn counter<'s>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = Sample<'s>>,
    ) -> fmt::Result {
        self.family(MetricType::Counter, name, help, unit, samples)
    }

    fn gauge<'s>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = Sample<'s>>,
    ) -> fmt::Result {
        self.family(MetricType::Gauge, name, help, unit, samples)
    }

    /// How long requests took.
    fn latency<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'s>>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        self.family(MetricType::Histogram, name, help, unit, samples)
    }

    /// Says what was left out; there is always room for that.
    fn end(&mut self) -> fmt::Result {
        self.leaves_zeros_out = false;
        self.room = 1;
        let left_out = self.left_out;
        self.gauge(
            "weir_metrics_series_left_out",
            "Series that this scrape lacks, as there are more than it may have.",
            None,
            [whole([], left_out)],
        )
    }

    fn family<'s>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = Sample<'s>>,
    ) -> fmt::Result {
        let leaves_zeros_out = self.leaves_zeros_out;
        let mut samples = samples
            .into_iter()
            .filter(|sample| !(leaves_zeros_out && sample.value.is_zero()))
            .peekable();
        let Some(first) = samples.peek() else {
            return Ok(());
        };
        if first.value.series() > self.room {
            self.left_out += samples.map(|sample| sample.value.series()).sum::<u64>();
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, unit, kind)?;
        for sample in samples {
            let series = sample.value.series();
            if series > self.room {
                self.left_out += series;
                continue;
            }
            self.room -= series;
            if sample.label_count == 0 {
                sample.value.encode(kind, &mut family)?;
            } else {
                sample
                    .value
                    .encode(kind, &mut family.encode_family(&sample.labels())?)?;
            }
        }
        Ok(())
    }
}

fn node(families: &mut Families<'_>, node: &NodeView, is_draining: bool) -> fmt::Result {
    let reloads = &node.reloads;
    families.gauge(
        "weir_build_info",
        "The running version; always 1.",
        None,
        [whole([("version", node.version), ("node", &node.name)], 1)],
    )?;
    families.gauge(
        "weir_start_time",
        "When the process started.",
        Some(&Unit::Seconds),
        [real([], unix_seconds(node.started))],
    )?;
    let uptime = SystemTime::now()
        .duration_since(node.started)
        .unwrap_or_default();
    families.gauge(
        "weir_uptime",
        "Since the process started.",
        Some(&Unit::Seconds),
        [real([], uptime.as_secs_f64())],
    )?;
    families.gauge(
        "weir_draining",
        "1 while the node takes no new work and is about to stop.",
        None,
        [whole([], u64::from(is_draining))],
    )?;
    families.gauge(
        "weir_config_generation",
        "The snapshot in force; counts up with every change of config or health.",
        None,
        [whole([], node.generation)],
    )?;
    families.counter(
        "weir_config_reloads",
        "Reloads by result; a failed one changes nothing.",
        None,
        [
            whole([("result", "succeeded")], reloads.succeeded),
            whole([("result", "failed")], reloads.failed),
        ],
    )?;
    families.gauge(
        "weir_config_last_reload_success",
        "1 when the last reload, or the start, succeeded.",
        None,
        [whole([], u64::from(reloads.last_succeeded))],
    )?;
    families.gauge(
        "weir_config_last_reload_time",
        "When that was.",
        Some(&Unit::Seconds),
        [real([], unix_seconds(reloads.last))],
    )?;
    let drops = node
        .drops
        .iter()
        .map(|drop| whole([("reason", drop.reason)], drop.count));
    families.counter(
        "weir_drops",
        "Packets dropped at layer 4, by reason, over all listeners.",
        None,
        drops,
    )?;
    let numbers: Vec<String> = node
        .cores
        .iter()
        .map(|core| core.core.to_string())
        .collect();
    let cores = node.cores.iter().zip(&numbers).flat_map(|(core, number)| {
        [("handed", core.handed), ("taken", core.taken)]
            .map(|(step, count)| whole([("core", number.as_str()), ("step", step)], count))
    });
    families.counter(
        "weir_core_packets",
        "Packets of layer 4 that a core handed on, and those that it was handed and has looked at.",
        None,
        cores,
    )?;
    let sessions = node.sessions.iter();
    families.gauge(
        "weir_sessions",
        "Layer 4 sessions now.",
        None,
        sessions
            .clone()
            .map(|s| whole([("family", s.family)], s.open)),
    )?;
    families.gauge(
        "weir_sessions_max",
        "Layer 4 sessions that the table is sized for.",
        None,
        sessions.map(|s| whole([("family", s.family)], s.max)),
    )?;
    let sessions = node.sessions.iter();
    let expired = sessions
        .clone()
        .map(|s| whole([("family", s.family)], s.expired));
    families.counter(
        "weir_sessions_expired",
        "Layer 4 sessions that ended because they were idle.",
        None,
        expired,
    )?;
    let bytes = sessions.map(|s| whole([("family", s.family)], s.table_bytes));
    families.gauge(
        "weir_sessions_table",
        "Memory of the session table.",
        Some(&Unit::Bytes),
        bytes,
    )?;
    let attached = node.interfaces.iter().map(|interface| {
        let mode = interface.mode.unwrap_or("none");
        whole(
            [("interface", interface.name.as_str()), ("mode", mode)],
            u64::from(interface.mode.is_some()),
        )
    });
    families.gauge(
        "weir_interface_attached",
        "1 where XDP is attached to an interface of [l4].",
        None,
        attached,
    )?;
    let lines = node.access_logs.iter().flat_map(|log| {
        let output = ("output", log.output.as_str());
        [
            whole([output, ("result", "written")], log.written),
            whole([output, ("result", "dropped")], log.dropped),
        ]
    });
    families.counter(
        "weir_access_log_lines",
        "Lines of access logs by what became of them.",
        None,
        lines,
    )?;
    families.counter(
        "weir_health_checks_late",
        "Health checks that began more than 100 ms late.",
        None,
        [whole([], node.late_checks)],
    )?;
    let expiries = node.tls.certificates.iter().map(|certificate| {
        let labels = [
            ("listener", certificate.listener.as_str()),
            ("file", certificate.file.as_str()),
        ];
        whole(labels, certificate.not_after_s)
    });
    families.gauge(
        "weir_tls_certificate_expiry",
        "When a listener's certificate ends.",
        Some(&Unit::Seconds),
        expiries,
    )?;
    let expiries = node.tls.pool_certificates.iter().map(|certificate| {
        let labels = [
            ("pool", certificate.pool.as_str()),
            ("file", certificate.file.as_str()),
        ];
        whole(labels, certificate.not_after_s)
    });
    families.gauge(
        "weir_tls_client_certificate_expiry",
        "When the certificate that a pool shows its backends ends.",
        Some(&Unit::Seconds),
        expiries,
    )?;
    families.counter(
        "weir_tls_files_renewed",
        "Listeners and pools whose TLS files had changed, by whether these could be used.",
        None,
        [
            whole([("result", "succeeded")], node.tls.renewed),
            whole([("result", "failed")], node.tls.refused),
        ],
    )?;
    let process = node.process.iter();
    families.counter(
        "process_cpu",
        "CPU time, user and system.",
        Some(&Unit::Seconds),
        process.clone().map(|p| real([], p.cpu.as_secs_f64())),
    )?;
    families.gauge(
        "process_resident_memory",
        "Resident memory.",
        Some(&Unit::Bytes),
        process.clone().map(|p| whole([], p.resident_bytes)),
    )?;
    families.gauge(
        "process_open_fds",
        "Open file descriptors.",
        None,
        process.clone().map(|p| whole([], p.open_fds)),
    )?;
    families.gauge(
        "process_max_fds",
        "File descriptors that may be open.",
        None,
        process.map(|p| whole([], p.max_fds)),
    )
}

fn listeners(families: &mut Families<'_>, listeners: &[ListenerView]) -> fmt::Result {
    let binds: Vec<String> = listeners
        .iter()
        .map(|listener| listener.bind.to_string())
        .collect();
    let info = listeners.iter().zip(&binds).map(|(listener, bind)| {
        let labels = [
            ("listener", listener.name.as_str()),
            ("bind", bind.as_str()),
            ("protocol", listener.protocol),
            ("forward", listener.forward),
        ];
        whole(labels, 1)
    });
    families.gauge(
        "weir_listener_info",
        "What a listener is; always 1.",
        None,
        info,
    )?;
    let of: Vec<([Label<'_>; 1], &Traffic)> = listeners
        .iter()
        .map(|listener| ([("listener", listener.name.as_str())], &listener.traffic))
        .collect();
    traffic(families, "listener", &of)?;
    let latencies = listeners.iter().filter_map(|listener| {
        let latency = Value::Latency(listener.latency.as_ref()?);
        Some(Sample::new(&[("listener", &listener.name)], None, latency))
    });
    families.latency(
        "weir_listener_request_duration",
        "From the first byte of an HTTP request until its answer was sent.",
        latencies,
    )?;
    routes(families, listeners)
}

fn routes(families: &mut Families<'_>, listeners: &[ListenerView]) -> fmt::Result {
    let mut counted: Vec<(&str, String, u64)> = Vec::new();
    for listener in listeners {
        let mut names = HashSet::new();
        for (place, route) in listener.routes.iter().enumerate() {
            // Routes of one name have one counter.
            if route.name.as_ref().is_none_or(|name| names.insert(name)) {
                let name = route.name.clone();
                let name = name.unwrap_or_else(|| format!("#{}", place + 1));
                counted.push((&listener.name, name, route.requests));
            }
        }
    }
    families.leaves_zeros_out = true;
    let requests = counted
        .iter()
        .map(|(listener, route, count)| whole([("listener", listener), ("route", route)], *count));
    families.counter(
        "weir_route_requests",
        "Requests that went by a route.",
        None,
        requests,
    )?;
    families.leaves_zeros_out = false;
    Ok(())
}

fn pools(families: &mut Families<'_>, pools: &[PoolView]) -> fmt::Result {
    let of = |value: fn(&PoolView) -> u64| {
        pools
            .iter()
            .map(move |pool| whole([("pool", &pool.name)], value(pool)))
    };
    families.gauge(
        "weir_pool_backends",
        "Backends of the pool.",
        None,
        of(|pool| pool.backends),
    )?;
    families.gauge(
        "weir_pool_backends_available",
        "Backends that take new work.",
        None,
        of(|pool| pool.available),
    )?;
    families.gauge(
        "weir_pool_pending",
        "Requests and connections that wait for a place within the pool's limits.",
        None,
        of(|pool| pool.pending),
    )?;
    // Most pools of layer 4 never see a request: what is 0 is left out.
    families.leaves_zeros_out = true;
    families.counter(
        "weir_pool_requests",
        "HTTP requests that were led to the pool.",
        None,
        of(|pool| pool.requests),
    )?;
    families.counter(
        "weir_pool_retries",
        "Tries of these after the first.",
        None,
        of(|pool| pool.retries),
    )?;
    let answers = pools.iter().flat_map(|pool| {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .into_iter()
            .zip(pool.answers);
        classes.map(|(class, count)| whole([("pool", &pool.name), ("class", class)], count))
    });
    families.counter(
        "weir_pool_answers",
        "Answers to these, ours included, by class of status.",
        None,
        answers,
    )?;
    let latencies = pools
        .iter()
        .filter(|pool| pool.requests > 0)
        .map(|pool| Sample::new(&[("pool", &pool.name)], None, Value::Latency(&pool.latency)));
    families.latency(
        "weir_pool_request_duration",
        "From the end of a request's head until its answer was sent, tries and waiting included.",
        latencies,
    )?;
    families.leaves_zeros_out = false;
    let remembered = || {
        let pools = pools.iter();
        pools.filter_map(|pool| Some(([("pool", pool.name.as_str())], pool.sticky_sessions?)))
    };
    families.gauge(
        "weir_pool_sticky_sessions",
        "Sessions of the application that are remembered.",
        None,
        remembered().map(|(labels, sessions)| whole(labels, sessions.open)),
    )?;
    families.counter(
        "weir_pool_sticky_forgotten",
        "Sessions of the application that were forgotten before their time, for want of room.",
        None,
        remembered().map(|(labels, sessions)| whole(labels, sessions.forgotten)),
    )
}

fn backends(families: &mut Families<'_>, backends: &[BackendView]) -> fmt::Result {
    let addresses: Vec<String> = backends
        .iter()
        .map(|backend| backend.address.to_string())
        .collect();
    let labelled: Vec<([Label<'_>; 2], &BackendView)> = backends
        .iter()
        .zip(&addresses)
        .map(|(backend, address)| {
            (
                [
                    ("pool", backend.pool.as_str()),
                    ("backend", address.as_str()),
                ],
                backend,
            )
        })
        .collect();
    let each = |value: fn(&BackendView) -> u64| {
        labelled
            .iter()
            .map(move |(labels, backend)| whole(*labels, value(backend)))
    };
    families.gauge(
        "weir_backend_available",
        "1 when the backend takes new work.",
        None,
        each(|b| b.available.into()),
    )?;
    families.gauge(
        "weir_backend_weight",
        "Its share of new work.",
        None,
        each(|b| b.weight.into()),
    )?;
    families.leaves_zeros_out = true;
    families.gauge(
        "weir_backend_draining",
        "1 when an operator drains it.",
        None,
        each(|b| b.draining.into()),
    )?;
    families.gauge(
        "weir_backend_overridden",
        "1 when an operator has set something in place of the config.",
        None,
        each(|b| b.overridden.is_some().into()),
    )?;
    families.gauge(
        "weir_backend_ejected",
        "1 while the proxy leaves the backend out because it failed too often in a row.",
        None,
        each(|b| b.ejected.into()),
    )?;
    families.counter(
        "weir_backend_ejections",
        "How often that happened.",
        None,
        each(|b| b.ejections),
    )?;
    let health = labelled.iter().flat_map(|([pool, address], backend)| {
        [
            ("up", HealthView::Up),
            ("down", HealthView::Down),
            ("unknown", HealthView::Unknown),
        ]
        .map(|(word, health)| {
            whole(
                [*pool, *address, ("state", word)],
                u64::from(backend.health == health),
            )
        })
    });
    families.gauge(
        "weir_backend_health",
        "1 for the verdict of the health checks.",
        None,
        health,
    )?;
    let checked = || {
        labelled
            .iter()
            .filter_map(|(labels, backend)| Some((*labels, backend.checks.as_ref()?)))
    };
    let checks = checked().flat_map(|([pool, address], checks)| {
        [
            ("passed", checks.passed),
            ("failed", checks.failed),
            ("inconclusive", checks.inconclusive),
        ]
        .map(|(result, count)| whole([pool, address, ("result", result)], count))
    });
    families.counter(
        "weir_backend_checks",
        "Health checks by result.",
        None,
        checks,
    )?;
    let durations = checked()
        .filter_map(|(labels, checks)| Some(real(labels, checks.last_duration?.as_secs_f64())));
    families.gauge(
        "weir_backend_check_duration",
        "How long the last health check took.",
        Some(&Unit::Seconds),
        durations,
    )?;
    let since = checked().map(|(labels, checks)| real(labels, unix_seconds(checks.since)));
    families.gauge(
        "weir_backend_health_since",
        "When the present verdict came to be.",
        Some(&Unit::Seconds),
        since,
    )?;
    let of: Vec<_> = labelled
        .iter()
        .map(|(labels, backend)| (*labels, &backend.traffic))
        .collect();
    traffic(families, "backend", &of)
}

/// The families that listeners and backends share.
fn traffic<'a, const N: usize>(
    families: &mut Families<'_>,
    noun: &str,
    of: &[([Label<'a>; N], &'a Traffic)],
) -> fmt::Result {
    let name = |metric: &str| format!("weir_{noun}_{metric}");
    let each = |value: fn(&Traffic) -> Option<u64>| {
        of.iter()
            .filter_map(move |(labels, traffic)| Some(whole(*labels, value(traffic)?)))
    };
    let both_ways = |value: fn(&Traffic) -> Option<[u64; 2]>| {
        let directions = move |(labels, traffic): &([Label<'a>; N], &'a Traffic)| {
            let [towards_backend, towards_client] = value(traffic)?;
            Some([
                with(labels, ("direction", "in"), towards_backend),
                with(labels, ("direction", "out"), towards_client),
            ])
        };
        of.iter().filter_map(directions).flatten()
    };

    let connections = each(|traffic| Some(traffic.connections));
    families.counter(
        &name("connections"),
        "Connections (proxy) or sessions (XDP) so far.",
        None,
        connections,
    )?;
    let open = each(|traffic| traffic.open);
    families.gauge(&name("connections_open"), "Of these, open now.", None, open)?;
    let idle = each(|traffic| traffic.idle);
    families.gauge(
        &name("connections_idle"),
        "Of these, open and waiting for a request.",
        None,
        idle,
    )?;
    let reused = each(|traffic| traffic.reused);
    families.counter(
        &name("connections_reused"),
        "Requests that took a connection left by an earlier one.",
        None,
        reused,
    )?;
    let bytes = both_ways(|traffic| Some([traffic.bytes_in?, traffic.bytes_out?]));
    families.counter(
        &name("transferred"),
        "Bytes from clients (in) and to clients (out).",
        Some(&Unit::Bytes),
        bytes,
    )?;
    let packets = both_ways(|traffic| Some([traffic.packets_in?, traffic.packets_out?]));
    families.counter(
        &name("packets"),
        "Packets (XDP) or datagrams (proxied UDP), by direction.",
        None,
        packets,
    )?;
    let requests = each(|traffic| traffic.requests);
    families.counter(&name("requests"), "Requests so far.", None, requests)?;
    let open = each(|traffic| traffic.requests_open);
    families.gauge(
        &name("requests_open"),
        "Of these, under way now.",
        None,
        open,
    )?;
    let retries = each(|traffic| traffic.retries);
    families.counter(
        &name("retries"),
        "Requests that came here after another try had failed.",
        None,
        retries,
    )?;
    let answers = of
        .iter()
        .filter_map(|(labels, traffic)| Some((labels, traffic.answers?)))
        .flat_map(|(labels, counts)| {
            let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(counts);
            classes.map(|(class, count)| with(labels, ("class", class), count))
        });
    families.counter(
        &name("answers"),
        "HTTP answers by class of status.",
        None,
        answers,
    )?;
    let handshakes = of
        .iter()
        .filter_map(|(labels, traffic)| {
            let (completed, failed) = (traffic.handshakes?, traffic.handshakes_failed?);
            Some([
                with(labels, ("result", "completed"), completed),
                with(labels, ("result", "failed"), failed),
            ])
        })
        .flatten();
    families.counter(
        &name("tls_handshakes"),
        "TLS handshakes by result.",
        None,
        handshakes,
    )?;
    let drops = of.iter().flat_map(|(labels, traffic)| {
        traffic
            .drops
            .iter()
            .map(move |drop| with(labels, ("reason", drop.reason), drop.count))
    });
    families.counter(
        &name("drops"),
        "What was dropped, refused or broke off, by reason.",
        None,
        drops,
    )
}

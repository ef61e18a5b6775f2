//! How a pool's work is spread and guarded: the grammar of the keys of `[[pool]]` beyond its backends and checks.

use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::duration::format_duration;
use super::file::{MAX_TIMEOUT, MIN_TIMEOUT};
use super::near::nearest;
use super::section::{Grammar, Read, Section, duration, integer, word, wrong_type};
use super::source::Span;
use crate::outlier::{Outlier, OutlierOn};
use crate::pool::HashKey;
use crate::retry::{Retry, RetryOn};
use crate::upstream::{PoolConnections, PoolLimits};

pub(super) static RETRY: Grammar = Grammar {
    title: "`retry`",
    keys: &[
        "tries",
        "on",
        "budget",
        "backoff",
        "backoff_max",
        "try_timeout",
    ],
    synonyms: &[
        ("attempts", "tries"),
        ("count", "tries"),
        ("conditions", "on"),
        ("retry_on", "on"),
        ("per_try_timeout", "try_timeout"),
        ("timeout", "try_timeout"),
    ],
    example: r#"retry = { tries = 3, on = ["connect", "reset", "503"] }"#,
};
pub(super) static OUTLIER: Grammar = Grammar {
    title: "`outlier`",
    keys: &[
        "failures",
        "on",
        "slow",
        "ejection",
        "ejection_max",
        "ejected_max",
    ],
    synonyms: &[
        ("consecutive_5xx", "failures"),
        ("errors", "failures"),
        ("max_fails", "failures"),
        ("fail_timeout", "ejection"),
        ("time", "ejection"),
        ("max_ejection_percent", "ejected_max"),
        ("percent", "ejected_max"),
    ],
    example: r#"outlier = { failures = 5, ejection = "30s" }"#,
};
pub(super) static POOL_LIMITS: Grammar = Grammar {
    title: "`limits` of a pool",
    keys: &[
        "connections",
        "requests",
        "pool_requests",
        "pending",
        "pending_timeout",
    ],
    synonyms: &[
        ("max_connections", "connections"),
        ("maxconn", "requests"),
        ("max_requests", "requests"),
        ("queue", "pending"),
        ("maxqueue", "pending"),
        ("queue_timeout", "pending_timeout"),
    ],
    example: "limits = { requests = 100, pending = 50 }",
};
pub(super) static POOL_CONNECTIONS: Grammar = Grammar {
    title: "`connections`",
    keys: &["idle_max", "idle_timeout", "lifetime", "requests_max"],
    synonyms: &[
        ("idle", "idle_max"),
        ("max_idle", "idle_max"),
        ("keepalive", "idle_max"),
        ("timeout", "idle_timeout"),
        ("max_age", "lifetime"),
        ("max_requests", "requests_max"),
        ("requests", "requests_max"),
    ],
    example: r#"connections = { idle_max = 64, idle_timeout = "30s" }"#,
};

type SetRetryOn = fn(&mut RetryOn);
/// Words of `retry.on`.
static RETRY_WORDS: [(&str, SetRetryOn); 6] = [
    ("connect", |on| on.connect = true),
    ("reset", |on| on.reset = true),
    ("timeout", |on| on.timeout = true),
    ("502", |on| on.bad_gateway = true),
    ("503", |on| on.unavailable = true),
    ("504", |on| on.gateway_timeout = true),
];
static OUTLIER_WORDS: [(&str, OutlierOn); 2] = [
    ("5xx", OutlierOn::ServerError),
    ("gateway", OutlierOn::Gateway),
];

/// Tries of a request: more only multiply the load of a failure.
const MAX_TRIES: u32 = 10;
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Failures in a row; above, an outlier is found by nobody.
const MAX_FAILURES: u32 = 1_000;
const MIN_EJECTION: Duration = Duration::from_millis(100);
const MAX_EJECTION: Duration = Duration::from_secs(86_400);
/// Work under way, in connections or requests: more file descriptors than these a process does not have.
const MAX_UNDER_WAY: u32 = 10_000_000;
/// Requests that wait: each holds a client's connection and its buffer.
const MAX_PENDING: u32 = 100_000;
const MAX_PENDING_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_IDLE: u32 = 65_536;
const MAX_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The policies of a pool.
pub(super) struct Policies {
    pub(super) retry: Retry,
    pub(super) outlier: Option<Outlier>,
    pub(super) limits: PoolLimits,
    pub(super) connections: PoolConnections,
    /// The first of them that is written, and where.
    pub(super) first: Option<(&'static str, Span)>,
}

/// Reads the policies of a pool.
pub(super) fn read_policies(
    section: &Section<'_>,
    all: &[&'static Grammar],
    out: &mut Findings<'_>,
) -> Policies {
    let retry = section
        .section("retry", &RETRY, all, out)
        .map(|section| read_retry(&section, out));
    let outlier = section
        .section("outlier", &OUTLIER, all, out)
        .map(|section| read_outlier(&section, out));
    let limits = section
        .section("limits", &POOL_LIMITS, all, out)
        .map(|section| read_pool_limits(&section, out));
    let connections = section
        .section("connections", &POOL_CONNECTIONS, all, out)
        .map(|section| read_connections(&section, out));
    let keys = ["retry", "outlier", "limits", "connections"];
    Policies {
        first: keys
            .into_iter()
            .find_map(|key| Some((key, section.key_span(key)?))),
        retry: retry.unwrap_or_default(),
        outlier,
        limits: limits.unwrap_or_default(),
        connections: connections.unwrap_or_default(),
    }
}

fn read_retry(section: &Section<'_>, out: &mut Findings<'_>) -> Retry {
    let default = Retry::CONFIGURED;
    let tries = section.read("tries", out, integer("tries", 1, MAX_TRIES));
    let mut on = RetryOn::default();
    let words = section.strings("on", "[\"connect\", \"503\"]", out, |written| {
        let names = || RETRY_WORDS.iter().map(|(name, _)| *name);
        let Some((_, set)) = RETRY_WORDS.iter().find(|(name, _)| *name == written) else {
            let meant = match written {
                "connect-failure" | "refused" | "refused-stream" | "conn-failure" | "error" => {
                    Some("connect")
                }
                "empty-response" | "closed" => Some("reset"),
                "response-timeout" | "per_try_timeout" => Some("timeout"),
                "gateway-error" | "5xx" => Some("502"),
                _ => nearest(written, names().collect::<Vec<_>>()),
            };
            let label = "expected `connect`, `reset`, `timeout`, `502`, `503` or `504`";
            let message = format!("unknown reason to try again: {}", quoted(written));
            return Err(Complaint::new(Kind::InvalidValue, message, label)
                .maybe_help(meant.map(|word| format!("did you mean `\"{word}\"`?"))));
        };
        set(&mut on);
        Ok(())
    });
    let backoff = section.read(
        "backoff",
        out,
        duration("backoff", Duration::ZERO, MAX_BACKOFF),
    );
    let backoff_max = section.read(
        "backoff_max",
        out,
        duration("backoff_max", Duration::ZERO, MAX_BACKOFF),
    );
    let least = backoff.or(default.backoff);
    if let Some(most) = backoff_max.good()
        && most.value < least
    {
        let message = "`backoff_max` is shorter than `backoff`";
        let label = format!("expected at least {}", format_duration(least));
        out.error(most.span, Complaint::new(Kind::Conflict, message, label));
    }
    let budget = section.read("budget", out, integer("budget", 0, 100u32));
    let try_timeout = section.read(
        "try_timeout",
        out,
        duration("try_timeout", MIN_TIMEOUT, MAX_TIMEOUT),
    );
    Retry {
        tries: tries.or(default.tries),
        on: if words.is_absent() { default.on } else { on },
        budget_percent: Some(budget.or(20)),
        backoff: least,
        backoff_max: backoff_max.or(default.backoff_max.max(least)),
        try_timeout: try_timeout.good().map(|at| at.value),
    }
}

fn read_outlier(section: &Section<'_>, out: &mut Findings<'_>) -> Outlier {
    let default = Outlier::default();
    let failures = section.read("failures", out, integer("failures", 1, MAX_FAILURES));
    let on = section.read(
        "on",
        out,
        word("on", &OUTLIER_WORDS, &[("gateway_errors", "gateway")]),
    );
    let slow = section.read("slow", out, duration("slow", MIN_TIMEOUT, MAX_TIMEOUT));
    let ejection = section
        .read(
            "ejection",
            out,
            duration("ejection", MIN_EJECTION, MAX_EJECTION),
        )
        .or(default.ejection);
    let ejection_max = section.read(
        "ejection_max",
        out,
        duration("ejection_max", MIN_EJECTION, MAX_EJECTION),
    );
    if let Some(most) = ejection_max.good()
        && most.value < ejection
    {
        let message = "`ejection_max` is shorter than `ejection`";
        let label = format!("expected at least {}", format_duration(ejection));
        out.error(most.span, Complaint::new(Kind::Conflict, message, label));
    }
    let ejected_max = section.read("ejected_max", out, integer("ejected_max", 1, 100u32));
    Outlier {
        failures: failures.or(default.failures),
        on: on.or(default.on),
        slow: slow.good().map(|at| at.value),
        ejection,
        ejection_max: ejection_max.or(default.ejection_max.max(ejection)),
        ejected_max_percent: ejected_max.or(default.ejected_max_percent),
    }
}

fn read_pool_limits(section: &Section<'_>, out: &mut Findings<'_>) -> PoolLimits {
    let mut read = |key, least: u32, most: u32| {
        let read = section.read(key, out, integer(key, least, most));
        read.good().map(|at| at.value as usize)
    };
    let connections = read("connections", 1, MAX_UNDER_WAY);
    let requests = read("requests", 1, MAX_UNDER_WAY);
    let pool_requests = read("pool_requests", 1, MAX_UNDER_WAY);
    let pending = read("pending", 0, MAX_PENDING);
    let pending_timeout = section.read(
        "pending_timeout",
        out,
        duration("pending_timeout", MIN_TIMEOUT, MAX_PENDING_TIMEOUT),
    );
    PoolLimits {
        connections,
        requests,
        pool_requests,
        pending: pending.unwrap_or(0),
        pending_timeout: pending_timeout.good().map(|at| at.value),
    }
}

fn read_connections(section: &Section<'_>, out: &mut Findings<'_>) -> PoolConnections {
    let default = PoolConnections::default();
    let idle_max = section.read("idle_max", out, integer("idle_max", 0, MAX_IDLE));
    let idle_timeout = section.read(
        "idle_timeout",
        out,
        duration("idle_timeout", MIN_TIMEOUT, MAX_IDLE_TIMEOUT),
    );
    let lifetime = section.read(
        "lifetime",
        out,
        duration("lifetime", MIN_TIMEOUT, MAX_TIMEOUT),
    );
    let requests_max = section.read("requests_max", out, integer("requests_max", 1, u32::MAX));
    PoolConnections {
        idle_max: idle_max
            .good()
            .map_or(default.idle_max, |at| at.value as usize),
        idle_timeout: idle_timeout.or(default.idle_timeout),
        lifetime: lifetime.good().map(|at| at.value),
        requests_max: requests_max.good().map(|at| at.value),
    }
}

/// The longest name of a header field or cookie; servers' own limits for whole heads are not much longer.
const MAX_FIELD_NAME: usize = 128;

/// A character of a token: RFC 9110, section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads `hash = "address"`, `"uri"`, `{ header = "x-user" }`, `{ cookie = "sid" }`.
pub(super) fn read_hash(section: &Section<'_>, out: &mut Findings<'_>) -> Read<HashKey> {
    section.read("hash", out, hash_key)
}

fn hash_key(value: &DeValue<'_>) -> Result<HashKey, Complaint> {
    const LABEL: &str = "expected `\"address\"`, `\"address_port\"`, `\"uri\"`, `{ header = \"x-user\" }` or `{ cookie = \"sid\" }`";
    let invalid = |message: String| Complaint::new(Kind::InvalidValue, message, LABEL);
    match value {
        DeValue::String(word) => match word.as_ref() {
            "address" => Ok(HashKey::Address),
            "address_port" => Ok(HashKey::AddressPort),
            "uri" => Ok(HashKey::Uri),
            "header" => Err(
                invalid("`hash` by header needs the header's name".to_owned())
                    .help("write `hash = { header = \"x-user\" }`"),
            ),
            "cookie" => Err(
                invalid("`hash` by cookie needs the cookie's name".to_owned())
                    .help("write `hash = { cookie = \"sid\" }`"),
            ),
            other => {
                let meant = match other {
                    "source" | "ip" | "client" | "src" => Some("address"),
                    "url" | "path" => Some("uri"),
                    _ => nearest(other, ["address", "address_port", "uri"]),
                };
                let help = meant.map(|word| format!("did you mean `\"{word}\"`?"));
                Err(invalid(format!("unknown `hash` {}", quoted(other))).maybe_help(help))
            }
        },
        DeValue::Table(table) => {
            let mut entries = table.iter();
            let (Some((key, found)), None) = (entries.next(), entries.next()) else {
                return Err(invalid("`hash` has not one key".to_owned()));
            };
            let key = key.get_ref().as_ref();
            let make: fn(String) -> HashKey = match key {
                "header" => |name| HashKey::Header(name.to_ascii_lowercase()),
                "cookie" => HashKey::Cookie,
                other => {
                    let help = nearest(other, ["header", "cookie"])
                        .map(|near| format!("did you mean `{near}`?"));
                    let message = format!("unknown key {} in `hash`", quoted(other));
                    return Err(Complaint::new(Kind::UnknownKey, message, LABEL).maybe_help(help));
                }
            };
            let Some(name) = found.get_ref().as_str() else {
                return Err(wrong_type(&format!("`{key}`"), "a string", found.get_ref()));
            };
            if name.is_empty() || name.len() > MAX_FIELD_NAME || !name.bytes().all(is_token_byte) {
                return Err(invalid(format!(
                    "{} is not a name for a {key}",
                    quoted(name)
                )));
            }
            Ok(make(name.to_owned()))
        }
        other => Err(wrong_type("`hash`", "a string or a table", other)),
    }
}

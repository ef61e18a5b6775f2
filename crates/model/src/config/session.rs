//! The grammar of what concerns layer 4 sessions: how long they may be idle.

use std::time::Duration;

use super::diagnostic::Findings;
use super::section::{Grammar, Section, duration, integer};
use super::source::At;
use crate::pool::Persistence;
use crate::session::SessionTimeouts;

pub(super) static SESSION_TIMEOUTS: Grammar = Grammar {
    title: "[l4.timeouts]",
    keys: &[
        "syn_sent",
        "syn_recv",
        "established",
        "established_one_way",
        "fin_wait",
        "close_wait",
        "time_wait",
        "close",
        "udp",
        "udp_stream",
    ],
    synonyms: &[
        ("tcp", "established"),
        ("idle", "established"),
        ("last_ack", "time_wait"),
        ("tcpfin", "fin_wait"),
    ],
    example: "[l4.timeouts]",
};

pub(super) static PERSISTENCE: Grammar = Grammar {
    title: "`persistence`",
    keys: &["timeout", "prefix_v4", "prefix_v6"],
    synonyms: &[("expire", "timeout"), ("netmask", "prefix_v4")],
    example: r#"persistence = { timeout = "5m" }"#,
};

/// The sweep goes through the table once a second.
const MIN: Duration = Duration::from_secs(1);
/// The sweep has to come by in time to see that a client still has a session.
const MIN_MEMORY: Duration = Duration::from_secs(5);
/// The clock of sessions wraps after seven weeks on a kernel with 1000 ticks a second, and half of that is "later".
const MAX: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn read_session_timeouts(
    section: &Section<'_>,
    out: &mut Findings<'_>,
) -> SessionTimeouts {
    let default = SessionTimeouts::default();
    let mut read = |key: &'static str, default: Duration| {
        section.read(key, out, duration(key, MIN, MAX)).or(default)
    };
    SessionTimeouts {
        syn_sent: read("syn_sent", default.syn_sent),
        syn_recv: read("syn_recv", default.syn_recv),
        established: read("established", default.established),
        established_one_way: read("established_one_way", default.established_one_way),
        fin_wait: read("fin_wait", default.fin_wait),
        close_wait: read("close_wait", default.close_wait),
        time_wait: read("time_wait", default.time_wait),
        close: read("close", default.close),
        udp: read("udp", default.udp),
        udp_stream: read("udp_stream", default.udp_stream),
    }
}

pub(super) fn read_persistence(section: &Section<'_>, out: &mut Findings<'_>) -> At<Persistence> {
    let default = Persistence::default();
    let timeout = section.read("timeout", out, duration("timeout", MIN_MEMORY, MAX));
    let prefix_v4 = section.read("prefix_v4", out, integer("prefix_v4", 1, 32));
    let prefix_v6 = section.read("prefix_v6", out, integer("prefix_v6", 1, 128));
    let value = Persistence {
        timeout: timeout.or(default.timeout),
        prefix_v4: prefix_v4.or(default.prefix_v4),
        prefix_v6: prefix_v6.or(default.prefix_v6),
    };
    At {
        value,
        span: section.span,
    }
}

pub(super) fn read_idle_timeout(
    section: &Section<'_>,
    out: &mut Findings<'_>,
) -> Option<At<Duration>> {
    section
        .read("idle_timeout", out, duration("idle_timeout", MIN, MAX))
        .good()
        .copied()
}

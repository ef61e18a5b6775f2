//! What was counted.

use std::time::Duration;

use weir_l4_common::drop::Drop as DropReason;
use weir_model::{BackendId, Name};

use crate::attach::Attachment;

/// Counters of the whole plane at one moment. Packets and bytes are as of the last pass through the session table,
/// about a second ago at most; they never go down while the plane runs.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By listener; those included that have left the config and whose sessions still run.
    pub listeners: Vec<ListenerStats>,
    /// By backend; those included that have left the config and whose sessions still run.
    pub backends: Vec<BackendStats>,
    /// Packets dropped, by reason; all reasons.
    pub drops: Vec<(DropReason, u64)>,
    /// The session table of IPv4.
    pub table: TableStats,
    /// The session table of IPv6.
    pub table6: TableStats,
    /// Interfaces of the config.
    pub interfaces: Vec<InterfaceStats>,
    /// Cores that packets are spread over; none where a packet is forwarded on the core that receives it.
    pub cores: Vec<CoreStats>,
}

/// What a core has done for the others, and they for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreStats {
    /// The kernel's number of the core.
    pub core: u32,
    /// Packets that it has received and handed on, to itself as well.
    pub handed: u64,
    /// Packets that it was handed and has looked at.
    pub taken: u64,
}

/// Counters of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStats {
    /// Its name.
    pub listener: Name,
    /// Whether it is part of the config.
    pub configured: bool,
    /// What was counted.
    pub counters: Counters,
    /// Packets to it that were dropped, for whatever reason.
    pub drops: u64,
}

/// Counters of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStats {
    /// Pool and address.
    pub backend: BackendId,
    /// Whether it is part of the config.
    pub configured: bool,
    /// What was counted.
    pub counters: Counters,
}

/// What is counted for listeners and backends alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions in the table now.
    pub sessions_active: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of frames from clients.
    pub bytes_in: u64,
    /// Packets from backends; 0 where replies do not pass through us (DR, tunnel).
    pub packets_out: u64,
    /// Bytes of frames from backends.
    pub bytes_out: u64,
}

/// A session table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Sessions that the config asks room for.
    pub max_sessions: u32,
    /// Bytes of memory.
    pub bytes: u64,
    /// Lines; a session has two of them with FullNAT and NAT, one with DR and tunnel.
    pub lines: u64,
    /// Lines in use.
    pub lines_used: u64,
    /// Sessions.
    pub sessions: u64,
    /// Lines that flows have passed by on the way to where they are.
    pub lines_passed: u64,
    /// Sessions that ended because they were idle.
    pub expired: u64,
    /// Lines that were removed because their session's other line was gone.
    pub orphans: u64,
    /// Passes through the table.
    pub passes: u64,
    /// Processor time of the last pass.
    pub pass_cpu: Duration,
}

/// An interface of the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Its name.
    pub interface: String,
    /// How the program is attached; `None`: it is not, as the interface has gone.
    pub attachment: Option<Attachment>,
}

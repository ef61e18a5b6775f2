//! Why the XDP program drops a packet that is addressed to a listener or belongs to a session.

/// A reason to drop; the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// The headers contradict the packet's length or each other.
    Malformed = 0,
    /// A TCP packet without a session that does not open one.
    NoSession = 1,
    /// No backend of the pool takes new work.
    NoBackend = 2,
    /// The MAC address of the backend's next hop is not known, or the interface is gone.
    NoNextHop = 3,
    /// All lines of the session table that the flow may have are taken.
    TableFull = 4,
    /// No local port is free for the backend, or no local address is set.
    PortsExhausted = 5,
    /// Time to live used up.
    TtlExpired = 6,
    /// No room for the outer header before the packet.
    NoHeadroom = 7,
    /// The packet, with its outer header, does not fit the MTU of the link to the next hop; we never fragment.
    TooBig = 8,
    /// A datagram of UDP without a checksum, which IPv6 does not allow, in fragments or too long to make up for it.
    NoChecksum = 9,
    /// An error of ICMP that the other family has no word for (RFC 7915, sections 4.2 and 5.2).
    Untranslatable = 10,
    /// The session's backend or listener was removed from a pool that resets sessions; the client is answered with a reset.
    Removed = 11,
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::NoSession,
        Self::NoBackend,
        Self::NoNextHop,
        Self::TableFull,
        Self::PortsExhausted,
        Self::TtlExpired,
        Self::NoHeadroom,
        Self::TooBig,
        Self::NoChecksum,
        Self::Untranslatable,
        Self::Removed,
    ];

    /// The reason with this number.
    #[inline(always)]
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoSession => "no_session",
            Self::NoBackend => "no_backend",
            Self::NoNextHop => "no_next_hop",
            Self::TableFull => "table_full",
            Self::PortsExhausted => "ports_exhausted",
            Self::TtlExpired => "ttl_expired",
            Self::NoHeadroom => "no_headroom",
            Self::TooBig => "too_big",
            Self::NoChecksum => "no_checksum",
            Self::Untranslatable => "untranslatable",
            Self::Removed => "removed",
        }
    }
}

//! What the XDP program tells user space through the ring buffer, besides counters.

/// One record of the ring buffer. 28 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`] as its number.
    pub kind: u32,
    /// The interface concerned, 0 if none.
    pub ifindex: u32,
    /// Address concerned, as in the packet, IPv4 as [`crate::service::mapped`]; zeros if none.
    pub addr: [u32; 4],
    /// The listener concerned, 0 if none.
    pub listener: u32,
}

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The kernel has no MAC address for the next hop `addr` on `ifindex`: please ask for it.
    NeighbourWanted = 1,
    /// No local port was free for a new session of `listener` to the backend at `addr`.
    PortsExhausted = 2,
    /// A new session of `listener` found no room in the table.
    TableFull = 3,
}

impl EventKind {
    /// The kind with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::NeighbourWanted),
            2 => Some(Self::PortsExhausted),
            3 => Some(Self::TableFull),
            _ => None,
        }
    }
}

//! Listeners, scheduling tables and backends as the XDP program sees them.

use crate::link::LINK_NONE;

/// Listeners that a node can have at layer 4: a session line has 16 bits for the number; 0 is none.
pub const LISTENERS_MAX: u32 = 65_535;
/// Backends that a node can have at layer 4, those included whose sessions still run; 0 is none.
pub const BACKENDS_MAX: u32 = 65_535;
/// Pools that listeners can have at layer 4, those included that back up others; 0 is none.
pub const POOLS_MAX: u32 = 65_535;
/// Local addresses of each family that FullNAT and tunnels can use.
pub const LOCALS_MAX: u32 = 256;
/// Scheduling slots in one element of the `SCHEDULE` map.
pub const SCHEDULE_LANES: u32 = 4;
/// First local port that FullNAT takes; up to 65535.
pub const LOCAL_PORT_MIN: u16 = 1024;
/// Slots of a Maglev table: the smaller of the two sizes in the paper (Eisenbud et al., NSDI 2016, section 5.3).
pub const MAGLEV_SLOTS: u32 = 65_537;

/// What a listener is looked up by. 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// VIP, network byte order; IPv4 as [`mapped`].
    pub addr: [u32; 4],
    /// Port, network byte order.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub proto: u8,
    /// Zero.
    pub zero: u8,
}

/// An IPv4 address in network byte order as an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
#[inline(always)]
pub const fn mapped(addr: u32) -> [u32; 4] {
    [0, 0, 0xffffu32.to_be(), addr]
}

/// What becomes of packets to a listener. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// The listener's number, from 1: its counters, and what session lines carry.
    pub id: u16,
    /// A [`Mode`] as its number.
    pub mode: u8,
    /// A [`Pick`] as its number; with [`PERSISTENT`], clients come back to their backends.
    pub pick: u8,
    /// First slot of the scheduling table, counted in slots; a multiple of [`SCHEDULE_LANES`].
    pub table_base: u32,
    /// Slots of the scheduling table; 0: no backend takes new work.
    pub table_len: u32,
    /// With [`Mode::Tunnel`], an [`Encapsulation`] as its number.
    pub encapsulation: u8,
    /// Low bits of `source` that the flow's hash fills, up to 32.
    pub source_bits: u8,
    /// With [`Encapsulation::Gue`], the destination port, network byte order.
    pub tunnel_port: u16,
    /// The addresses that outer sources are taken from, IPv4 as [`mapped`]; zeros: the local addresses.
    pub source: [u32; 4],
    /// The number of the pool.
    pub pool: u32,
    /// 1: connection ids of QUIC say where a new session goes; 0: they do not.
    pub quic: u32,
}

impl Listener {
    /// How a slot is picked for who is not known.
    #[inline(always)]
    pub fn pick(&self) -> u8 {
        self.pick & !PERSISTENT
    }

    /// Whether its schedulers count sessions.
    #[inline(always)]
    pub fn counts(&self) -> bool {
        self.pick() >= Pick::LeastLoaded as u8
    }
}

/// What is between the outer IP header of a tunnel and the packet in it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing.
    #[default]
    Ipip = 0,
    /// A UDP header: GUE, variant 1.
    Gue = 1,
    /// A GRE header.
    Gre = 2,
}

impl Encapsulation {
    /// The one with this number; only the low two bits count.
    #[inline(always)]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            1 => Self::Gue,
            2 => Self::Gre,
            _ => Self::Ipip,
        }
    }
}

/// How packets of a session are rewritten.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Source becomes a local address, destination the backend.
    Fullnat = 0,
    /// Destination becomes the backend.
    Nat = 1,
    /// Only the MAC addresses change.
    Dr = 2,
    /// An outer IP header is put in front.
    Tunnel = 3,
}

impl Mode {
    /// The mode with this number; only the low two bits count.
    #[inline(always)]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Fullnat,
            1 => Self::Nat,
            2 => Self::Dr,
            _ => Self::Tunnel,
        }
    }
}

/// How a slot of the scheduling table is picked for a new session.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// In turn; each core counts for itself.
    Next = 0,
    /// By a hash of the client's address.
    HashAddress = 1,
    /// By a hash of the client's address and port.
    HashAddressPort = 2,
    /// The backend with the fewest sessions under way for its weight. The table is a list of the backends.
    LeastLoaded = 3,
    /// The better of two slots drawn at random.
    TwoChoices = 4,
}

/// In [`Listener::pick`]: the pool remembers clients.
pub const PERSISTENT: u8 = 0x80;

/// An element of `SCHEDULE`: four slots, each the number of a backend. 8 bytes.
pub type ScheduleElement = [u16; SCHEDULE_LANES as usize];

/// An entry of `BACKENDS`, at the backend's number. 32 bytes. Address and port are those of the number and do not change
/// while it is in use; what does, the last eight bytes, is written by one store.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address, network byte order; IPv4 as [`mapped`].
    pub addr: [u32; 4],
    /// Port, network byte order.
    pub port: u16,
    /// Zero.
    pub zero: [u16; 3],
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// Index into `LINKS` of the interface towards the next hop; [`LINK_NONE`]: not known.
    pub link: u8,
    /// [`BACKEND_ACCEPTS`] or 0.
    pub flags: u8,
}

/// The backend takes new sessions. A SYN that reopens an old session of a backend without this flag is scheduled anew.
pub const BACKEND_ACCEPTS: u8 = 1;

impl Default for Backend {
    fn default() -> Self {
        Self {
            addr: [0; 4],
            port: 0,
            zero: [0; 3],
            mac: [0; 6],
            link: LINK_NONE,
            flags: 0,
        }
    }
}

/// What a core counts for a listener, and where its next turn is: an element of the per-core map
/// `LISTENER_COUNTERS`, at the listener's number. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerCounters {
    /// Sessions opened.
    pub sessions: u64,
    /// Packets of this listener that were dropped, for whatever reason.
    pub drops: u64,
    /// The next turn of [`Pick::Next`].
    pub turn: u64,
}

/// What a core counts for a backend: an element of the per-core map `BACKEND_COUNTERS`, at the backend's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Sessions opened.
    pub sessions: u64,
}

/// The one element of `CONFIG`: what may change while the program runs. 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Entries of `LOCALS` in use.
    pub locals: u32,
    /// Entries of `LOCALS6` in use.
    pub locals6: u32,
}

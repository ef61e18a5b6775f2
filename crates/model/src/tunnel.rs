//! How packets travel to backends in tunnel mode.

use crate::ip_prefix::IpPrefix;

/// The outer header that XDP puts in front of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What is between the outer IP header and the packet.
    pub encapsulation: Encapsulation,
    /// The destination port of GUE. Default 6080.
    pub port: u16,
    /// Outer sources are addresses of this range, one for each flow. Absent: a local address.
    pub source: Option<IpPrefix>,
}

impl Tunnel {
    /// The port of GUE that IANA has assigned.
    pub const DEFAULT_PORT: u16 = 6080;
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            encapsulation: Encapsulation::default(),
            port: Self::DEFAULT_PORT,
            source: None,
        }
    }
}

/// What is between an outer IP header and the packet in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// Nothing: IP in IP, of any two families.
    #[default]
    Ipip,
    /// Generic UDP Encapsulation, variant 1.
    Gue,
    /// Generic Routing Encapsulation, without options.
    Gre,
}

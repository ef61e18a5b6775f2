//! What a frame is: a packet of TCP or UDP, or something else.

use crate::family::Family;
use crate::frame::{Frame, Head};
use crate::hash::FlowKey;
use crate::packet::{ETH_LEN, L4_LEN, TCP_LEN};

/// A whole TCP or UDP packet.
///
/// [`Family::parse`] makes one of a frame where everything is at its plain place: for a compiler, all that is read and
/// written after it is at a constant distance from the frame's start. One whose headers are elsewhere is made of its
/// parts, and goes the same way from there on.
#[derive(Clone, Copy, Debug)]
pub struct Packet<F: Family> {
    /// The frame that the headers are in.
    pub frame: Frame,
    /// The Ethernet header.
    pub eth: Head<ETH_LEN>,
    /// The fixed part of the IP header.
    pub ip: F::Ip,
    /// The beginning of the TCP or UDP header, wherever it is.
    pub l4: Head<L4_LEN>,
    /// Addresses, ports, protocol.
    pub key: FlowKey<F>,
    /// TCP flags FIN, SYN, RST and ACK; 0 for UDP.
    pub flags: u8,
}

/// Every other packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Nothing that we know.
    Foreign,
    /// Not IPv4; what else is to be seen.
    NotIpv4,
    /// ICMP, or ICMPv6, right behind the IP header.
    Icmp,
    /// A fragment, or a packet with IPv4 options or IPv6 extension headers.
    Unusual,
    /// Lengths contradict each other.
    Malformed,
}

impl<F: Family> Packet<F> {
    /// The same packet, where it is TCP: the compiler sees that it is.
    #[inline(always)]
    pub fn of_tcp(&self) -> Self {
        let key = FlowKey {
            udp: false,
            ..self.key
        };
        Self { key, ..*self }
    }

    /// The same packet, where it is UDP.
    #[inline(always)]
    pub fn of_udp(&self) -> Self {
        let key = FlowKey {
            udp: true,
            ..self.key
        };
        Self {
            key,
            flags: 0,
            ..*self
        }
    }

    /// The TCP header, where it is TCP.
    #[inline(always)]
    pub fn tcp(&self) -> Option<Head<TCP_LEN>> {
        self.frame.at::<TCP_LEN, L4_LEN>(&self.l4)
    }
}

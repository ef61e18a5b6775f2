//! The parts of an Ethernet frame with IPv4 that the data plane reads and writes: offsets and constants.
//!
//! Ethernet II; IPv4 without options (RFC 791); TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792).

/// EtherType of IPv4, as it lies in the frame.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// First byte of an IPv4 header without options.
pub const IPV4_PLAIN: u8 = 0x45;
/// More-fragments flag and fragment offset, as they lie in the header.
pub const FRAGMENT_MASK: u16 = 0x3fffu16.to_be();
/// Fragment offset alone.
pub const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();
/// Don't-fragment flag.
pub const DONT_FRAGMENT: u16 = 0x4000u16.to_be();

/// IP protocol numbers.
pub const PROTO_ICMP: u8 = 1;
/// IPv4 in IP (RFC 2003).
pub const PROTO_IPIP: u8 = 4;
/// TCP.
pub const PROTO_TCP: u8 = 6;
/// UDP.
pub const PROTO_UDP: u8 = 17;

/// Offsets in the frame.
pub mod at {
    use super::{ETH_LEN, IPV4_LEN};

    /// Destination MAC address.
    pub const ETH_DST: usize = 0;
    /// Source MAC address.
    pub const ETH_SRC: usize = 6;
    /// EtherType.
    pub const ETHERTYPE: usize = 12;
    /// Version and header length.
    pub const IP_VERSION: usize = ETH_LEN;
    /// Type of service.
    pub const IP_TOS: usize = ETH_LEN + 1;
    /// Total length.
    pub const IP_LEN: usize = ETH_LEN + 2;
    /// Identification.
    pub const IP_ID: usize = ETH_LEN + 4;
    /// Flags and fragment offset.
    pub const IP_FRAGMENT: usize = ETH_LEN + 6;
    /// Time to live.
    pub const IP_TTL: usize = ETH_LEN + 8;
    /// Protocol.
    pub const IP_PROTO: usize = ETH_LEN + 9;
    /// Header checksum.
    pub const IP_CHECKSUM: usize = ETH_LEN + 10;
    /// Source address.
    pub const IP_SRC: usize = ETH_LEN + 12;
    /// Destination address.
    pub const IP_DST: usize = ETH_LEN + 16;
    /// Source and destination port of TCP and UDP.
    pub const PORTS: usize = ETH_LEN + IPV4_LEN;
    /// Flags of TCP.
    pub const TCP_FLAGS: usize = PORTS + 13;
    /// Checksum of TCP.
    pub const TCP_CHECKSUM: usize = PORTS + 16;
    /// Checksum of UDP.
    pub const UDP_CHECKSUM: usize = PORTS + 6;
    /// Type and code of ICMP.
    pub const ICMP_TYPE: usize = PORTS;
    /// Checksum of ICMP.
    pub const ICMP_CHECKSUM: usize = PORTS + 2;
}

/// Bytes of a frame up to the end of a UDP or ICMP echo header.
pub const UDP_HEAD: usize = ETH_LEN + IPV4_LEN + 8;
/// Bytes of a frame up to the end of a TCP header without options.
pub const TCP_HEAD: usize = ETH_LEN + IPV4_LEN + 20;

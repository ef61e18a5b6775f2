//! The parts of an Ethernet frame with IP that the data plane reads and writes: offsets and constants.
//!
//! Ethernet II; IPv4 (RFC 791), IPv6 (RFC 8200); TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, RFC 4443).

/// EtherType of IPv4, as it lies in the frame.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of a UDP header, and of an ICMP echo's: what every packet that we know has behind its IP header.
pub const L4_LEN: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of a GRE header without options.
pub const GRE_LEN: usize = 4;
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
/// IPv6 in IP (RFC 2473, RFC 4213).
pub const PROTO_IPV6: u8 = 41;
/// GRE (RFC 2784).
pub const PROTO_GRE: u8 = 47;
/// ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// Whether an IPv6 header's next header is an extension header (RFC 8200, section 4): hop-by-hop options, routing,
/// fragment, destination options, authentication.
#[inline(always)]
pub fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 60 | 51)
}

/// Offsets in the Ethernet header.
pub mod eth {
    /// Destination MAC address.
    pub const DST: usize = 0;
    /// Source MAC address.
    pub const SRC: usize = 6;
    /// EtherType.
    pub const TYPE: usize = 12;
}

/// Offsets in the IPv4 header.
pub mod ip4 {
    /// Version and header length.
    pub const VERSION: usize = 0;
    /// Type of service.
    pub const TOS: usize = 1;
    /// Total length.
    pub const LEN: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTO: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
}

/// Offsets in the IPv6 header.
pub mod ip6 {
    /// Version, traffic class and flow label: a word of four bytes.
    pub const VERSION: usize = 0;
    /// Payload length: what is behind this header.
    pub const LEN: usize = 4;
    /// Next header.
    pub const NEXT: usize = 6;
    /// Hop limit.
    pub const HOPS: usize = 7;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
}

/// Offsets in the header behind IP.
pub mod l4 {
    /// Source and destination port of TCP and UDP.
    pub const PORTS: usize = 0;
    /// Sequence number of TCP.
    pub const TCP_SEQUENCE: usize = 4;
    /// Acknowledgement number of TCP.
    pub const TCP_ACK: usize = 8;
    /// Length of the TCP header, then its flags.
    pub const TCP_OFFSET: usize = 12;
    /// Flags of TCP.
    pub const TCP_FLAGS: usize = 13;
    /// Window of TCP.
    pub const TCP_WINDOW: usize = 14;
    /// Checksum of TCP.
    pub const TCP_CHECKSUM: usize = 16;
    /// Urgent pointer of TCP.
    pub const TCP_URGENT: usize = 18;
    /// Length of UDP.
    pub const UDP_LEN: usize = 4;
    /// Checksum of UDP.
    pub const UDP_CHECKSUM: usize = 6;
    /// Type and code of ICMP.
    pub const ICMP_TYPE: usize = 0;
    /// Checksum of ICMP.
    pub const ICMP_CHECKSUM: usize = 2;
    /// What comes behind type, code and checksum of ICMP.
    pub const ICMP_REST: usize = 4;
}

/// Offsets in a frame with a plain IPv4 header.
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

//! Packets for tests: built with every length and checksum computed in full, and checked in full.

use std::net::IpAddr;

use weir_l4_common::checksum;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// ICMP of either family.
pub const ICMP: u8 = 1;

/// A packet of IP without its payload.
#[derive(Clone, Debug)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub hops: u8,
    /// Identification, and offset and flags as IPv4 has them.
    pub fragment: Option<(u16, u16)>,
    pub dont_fragment: bool,
    pub more: More,
}

/// What is between the fixed header and the payload, besides a fragment header.
#[derive(Clone, Debug, PartialEq)]
pub enum More {
    Nothing,
    /// Options of IPv4.
    Options(Vec<u8>),
    /// Extension headers of IPv6: number, and the bytes behind next header and length.
    Extensions(Vec<(u8, Vec<u8>)>),
}

impl Ip {
    pub fn new(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, proto: u8) -> Self {
        Self {
            src: src.into(),
            dst: dst.into(),
            proto,
            hops: 64,
            fragment: None,
            dont_fragment: false,
            more: More::Nothing,
        }
    }

    /// The protocol's number in this family.
    fn number(&self) -> u8 {
        if self.proto == ICMP && self.src.is_ipv6() {
            58
        } else {
            self.proto
        }
    }

    /// The packet from the IP header on.
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let options = match &self.more {
                    More::Options(options) => &options[..],
                    _ => &[],
                };
                let header_len = 20 + options.len();
                let (id, fragment) = self.fragment.unwrap_or_default();
                let fragment = fragment | if self.dont_fragment { 0x4000 } else { 0 };
                let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
                ip.extend(((header_len + payload.len()) as u16).to_be_bytes());
                ip.extend(id.to_be_bytes());
                ip.extend(fragment.to_be_bytes());
                ip.extend([self.hops, self.number(), 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(options);
                let sum = !checksum::fold(checksum::sum(&ip));
                ip[10..12].copy_from_slice(&sum.to_ne_bytes());
                ip.extend(payload);
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut extensions = match &self.more {
                    More::Extensions(extensions) => extensions.clone(),
                    _ => Vec::new(),
                };
                if let Some((id, fragment)) = self.fragment {
                    let mut rest = (fragment << 3 | fragment >> 13 & 1).to_be_bytes().to_vec();
                    rest.extend(u32::from(id).to_be_bytes());
                    extensions.push((44, rest));
                }
                let mut behind = Vec::new();
                for (index, (_, rest)) in extensions.iter().enumerate() {
                    let next = extensions
                        .get(index + 1)
                        .map_or(self.number(), |next| next.0);
                    assert_eq!((rest.len() + 2) % 8, 0);
                    behind.extend([next, (rest.len() / 8) as u8]);
                    behind.extend(rest);
                }
                behind.extend(payload);
                let mut ip = vec![0x60, 1, 2, 3];
                ip.extend((behind.len() as u16).to_be_bytes());
                ip.push(extensions.first().map_or(self.number(), |first| first.0));
                ip.push(self.hops);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(behind);
                ip
            }
            _ => panic!("two families"),
        }
    }

    fn pseudo(&self, len: usize) -> u64 {
        let mut pseudo = Vec::new();
        for addr in [self.src, self.dst] {
            match addr {
                IpAddr::V4(addr) => pseudo.extend(addr.octets()),
                IpAddr::V6(addr) => pseudo.extend(addr.octets()),
            }
        }
        pseudo.extend([0, self.number()]);
        pseudo.extend((len as u16).to_be_bytes());
        checksum::sum(&pseudo)
    }

    /// A UDP datagram between these addresses.
    pub fn udp(&self, src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
        let mut udp = Vec::new();
        udp.extend(src.to_be_bytes());
        udp.extend(dst.to_be_bytes());
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let sum = !checksum::fold(self.pseudo(udp.len()) + checksum::sum(&udp));
        let sum = if sum == 0 { 0xffff } else { sum };
        udp[6..8].copy_from_slice(&sum.to_ne_bytes());
        udp
    }

    /// A TCP segment between these addresses, with options.
    pub fn tcp(&self, src: u16, dst: u16, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(src.to_be_bytes());
        tcp.extend(dst.to_be_bytes());
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        tcp.extend([(20 + options.len() as u8) << 2, flags, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(options);
        let sum = !checksum::fold(self.pseudo(tcp.len()) + checksum::sum(&tcp));
        tcp[16..18].copy_from_slice(&sum.to_ne_bytes());
        tcp
    }

    /// An ICMP message between these addresses.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
        let mut icmp = vec![kind, code, 0, 0];
        icmp.extend(rest);
        icmp.extend(quote);
        let pseudo = if self.src.is_ipv6() {
            self.pseudo(icmp.len())
        } else {
            0
        };
        let sum = !checksum::fold(pseudo + checksum::sum(&icmp));
        icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
        icmp
    }
}

/// An Ethernet frame of IP.
pub fn frame(dst: [u8; 6], src: [u8; 6], ip: &[u8]) -> Vec<u8> {
    let kind = if ip[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [8, 0]
    };
    [&dst[..], &src, &kind, ip].concat()
}

/// Checksums may be 0 or all ones for the same sum, except UDP's, which is none then: alike here.
#[track_caller]
pub fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    if actual == expected {
        return;
    }
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let differs: Vec<usize> = (0..actual.len())
        .filter(|at| actual[*at] != expected[*at])
        .collect();
    let zero = |at: usize| matches!(actual[at], 0 | 0xff) && matches!(expected[at], 0 | 0xff);
    assert!(
        differs.iter().all(|at| zero(*at)) && differs.len().is_multiple_of(2),
        "{what}: differs at {differs:?}\n{actual:02x?}\n{expected:02x?}"
    );
}

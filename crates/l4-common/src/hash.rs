//! The hash of a flow: where its session line is, which slot of a scheduling table it takes.

use crate::family::{Family, V4, V6};

/// The key of one direction of a flow, as it stands in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<F: Family> {
    /// Source address, network byte order.
    pub src: F::Addr,
    /// Destination address, network byte order.
    pub dst: F::Addr,
    /// The first four bytes of the TCP or UDP header: source port, then destination port.
    pub ports: u32,
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
}

/// The key of one direction of an IPv4 flow.
pub type FlowKey4 = FlowKey<V4>;
/// The key of one direction of an IPv6 flow.
pub type FlowKey6 = FlowKey<V6>;

impl FlowKey4 {
    /// Source and destination address as one word, as they lie in the header.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        u64::from(self.src) | u64::from(self.dst) << 32
    }
}

impl<F: Family> FlowKey<F> {
    /// Source port, network byte order.
    #[inline(always)]
    pub fn src_port(&self) -> u16 {
        self.ports as u16
    }

    /// Destination port, network byte order.
    #[inline(always)]
    pub fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// The key that packets of the other direction have when neither address nor port is changed.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: self.ports.rotate_left(16),
            udp: self.udp,
        }
    }

    /// A 64-bit hash. Its upper half says where in the session table the flow's home is; the topmost 16 bits are its
    /// *slice* of the table.
    ///
    /// Addresses are mixed under a secret seed, by two steps of splitmix64's finalizer (Steele, Lea, Flood, OOPSLA
    /// 2014), so that nobody can aim flows at one place. Ports are added after a multiplication alone: so a port can be
    /// computed that puts a flow into a given slice, which is how both directions of a session come to lie on one page
    /// ([`port_in_slice`]).
    #[inline(always)]
    pub fn hash(&self, seed: u64) -> u64 {
        self.base(seed).with_ports(self.ports)
    }

    /// The part of [`FlowKey::hash`] that is the same for all ports.
    #[inline(always)]
    pub fn base(&self, seed: u64) -> Base {
        let h = F::mix(self, seed);
        Base((h ^ h >> 29).wrapping_mul(0x94d0_49bb_1331_11eb))
    }
}

/// A hash to which ports have still to be added.
#[derive(Clone, Copy, Debug)]
pub struct Base(u64);

impl Base {
    /// The hash of the flow with these ports.
    #[inline(always)]
    pub fn with_ports(self, ports: u32) -> u64 {
        let ports = ports.wrapping_mul(PORT_FACTOR);
        let upper = ((self.0 >> 32) as u32).wrapping_add(ports);
        let lower = self.0 as u32 ^ ports.rotate_right(12);
        u64::from(upper) << 32 | u64::from(lower)
    }
}

/// Factor of the first step of splitmix64's finalizer.
pub(crate) const FIRST_FACTOR: u64 = 0xbf58_476d_1ce4_e5b9;
/// Factor of the ports in a flow's hash; near the golden ratio, so that ports in a row lie far apart.
const PORT_FACTOR: u32 = 0x9e37_79b1;
/// Its inverse modulo 2^16.
const PORT_INVERSE: u16 = inverse(PORT_FACTOR as u16);

/// The inverse of an odd number modulo 2^16, by Newton's iteration: each step doubles the bits that are right.
const fn inverse(odd: u16) -> u16 {
    let mut x = odd;
    let mut steps = 0;
    while steps < 4 {
        x = x.wrapping_mul(2u16.wrapping_sub(odd.wrapping_mul(x)));
        steps += 1;
    }
    x
}

/// The slice of a flow, from its hash.
#[inline(always)]
pub fn slice(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// The core, of `cores`, that has the flow with this hash where work is spread over them by it. It follows from the place
/// in the session table: each core has a part of the table for itself, and as a rule both directions of a session.
#[inline(always)]
pub fn core(hash: u64, cores: u32) -> u32 {
    reduce((hash >> 32) as u32, cores)
}

/// The destination port, in network byte order, that puts a flow into `slice`; `hash` is the flow's with port 0.
#[inline(always)]
pub fn port_in_slice(hash: u64, slice: u16) -> u16 {
    slice
        .wrapping_sub(self::slice(hash))
        .wrapping_mul(PORT_INVERSE)
}

/// Hash of a client's address, or of address and port, for scheduling. Not seeded: every node of a group picks alike.
#[inline(always)]
pub fn client<F: Family>(addr: F::Addr, port: u16) -> u32 {
    let mut h = (F::word(addr) ^ u64::from(port) << 32).wrapping_add(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (h ^ h >> 31) as u32
}

/// Maps 32 uniform bits to `0..len` without a division (Lemire, TOMACS 2019).
#[inline(always)]
pub fn reduce(hash: u32, len: u32) -> u32 {
    ((u64::from(hash) * u64::from(len)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::family::Addr6;

    proptest! {
        #[test]
        fn a_port_is_found_for_every_slice(src: u32, dst: u32, port: u16, udp: bool, seed: u64, wanted: u16) {
            let bare = FlowKey4 { src, dst, ports: u32::from(port), udp };
            let found = port_in_slice(bare.hash(seed), wanted);
            let flow = FlowKey4 { ports: u32::from(port) | u32::from(found) << 16, ..bare };
            prop_assert_eq!(slice(flow.hash(seed)), wanted);
            let addr = |addr: u32| Addr6 { high: u64::from(addr) << 7, low: u64::from(!addr) };
            let bare = FlowKey6 { src: addr(src), dst: addr(dst), ports: u32::from(port), udp };
            let found = port_in_slice(bare.hash(seed), wanted);
            let flow = FlowKey6 { ports: u32::from(port) | u32::from(found) << 16, ..bare };
            prop_assert_eq!(slice(flow.hash(seed)), wanted);
        }
    }

    /// How far the fullest of `buckets` is above the mean, when flows of these keys are put into them.
    fn worst<F: Family>(keys: impl Iterator<Item = FlowKey<F>>, buckets: usize) -> f64 {
        let mut counts = [0u32; 256];
        let mut total = 0;
        for key in keys {
            counts[reduce((key.hash(0x5eed) >> 32) as u32, buckets as u32) as usize] += 1;
            total += 1;
        }
        f64::from(*counts.iter().max().unwrap()) * buckets as f64 / f64::from(total)
    }

    #[test]
    fn flows_that_are_alike_are_spread() {
        let key = |src: u32, sport: u16| FlowKey4 {
            src: src.to_be(),
            dst: 0x0a71_00cb,
            ports: u32::from(sport.to_be()) | 0x5000 << 16,
            udp: false,
        };
        let ports_in_a_row = (0..25_600).map(|n| key(0x6440_0001, 1024 + n as u16));
        assert!(worst(ports_in_a_row, 256) < 1.5);
        let clients_in_a_row = (0..25_600).map(|n| key(0x6440_0000 + n, 40_000));
        assert!(worst(clients_in_a_row, 256) < 1.5);
    }

    #[test]
    fn flows_of_ipv6_that_are_alike_are_spread() {
        let key = |high: u64, low: u64, sport: u16| FlowKey6 {
            src: Addr6 {
                high: (0x2001_0db8_0000_0000 + high).to_be(),
                low: low.to_be(),
            },
            dst: Addr6 {
                high: 0x2001_0db8_0203_0000_u64.to_be(),
                low: 0x10_u64.to_be(),
            },
            ports: u32::from(sport.to_be()) | 0x5000 << 16,
            udp: false,
        };
        assert!(worst((0..25_600).map(|n| key(0, 1, 1024 + n as u16)), 256) < 1.5);
        assert!(worst((0..25_600).map(|n| key(0, n, 40_000)), 256) < 1.5);
        assert!(worst((0..25_600).map(|n| key(n << 16, 1, 40_000)), 256) < 1.5);
        assert!(worst((0..25_600).map(|n| key(n, n, 40_000)), 256) < 1.5);
        assert!(worst((0..25_600).map(|n| key(0, n << 40, 40_000)), 256) < 1.5);
    }
}

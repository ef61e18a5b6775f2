//! The hash of a flow: where its session line is, which slot of a scheduling table it takes.

/// The key of one direction of an IPv4 flow, as it stands in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey4 {
    /// Source address, network byte order.
    pub src: u32,
    /// Destination address, network byte order.
    pub dst: u32,
    /// The first four bytes of the TCP or UDP header: source port, then destination port.
    pub ports: u32,
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
}

impl FlowKey4 {
    /// Source and destination address as one word, as they lie in the header.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        u64::from(self.src) | u64::from(self.dst) << 32
    }

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

    /// A 64-bit hash under a secret seed, so that nobody can aim flows at one set. Multiplications carry upwards, shifts
    /// bring down (the two steps of splitmix64's finalizer; Steele, Lea, Flood, OOPSLA 2014), with the ports put in
    /// between: the upper half is the better one.
    #[inline(always)]
    pub fn hash(&self, seed: u64) -> u64 {
        let mut h = (self.addresses() ^ seed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^= h >> 32;
        h ^= u64::from(self.ports) | u64::from(self.udp) << 32;
        h = h.wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^ h >> 32
    }
}

/// Hash of a client's address, or of address and port, for scheduling. Not seeded: every node of a group picks alike.
#[inline(always)]
pub fn client(addr: u32, port: u16) -> u32 {
    let mut h = (u64::from(addr) | u64::from(port) << 32).wrapping_add(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (h ^ h >> 31) as u32
}

/// Maps 32 uniform bits to `0..len` without a division (Lemire, TOMACS 2019).
#[inline(always)]
pub fn reduce(hash: u32, len: u32) -> u32 {
    ((u64::from(hash) * u64::from(len)) >> 32) as u32
}

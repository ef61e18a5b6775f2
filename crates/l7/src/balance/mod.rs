//! Which backend takes the next piece of work. Small structures without I/O; each knows only indexes and weights.

pub mod ewma;
pub mod least_conn;
pub mod maglev;
pub mod outlier;
pub mod p2c;
pub mod round_robin;
pub mod source_hash;

pub use ewma::Ewma;
pub use least_conn::LeastConn;
pub use maglev::Maglev;
pub use p2c::P2c;
pub use round_robin::RoundRobin;
pub use source_hash::SourceHash;

use std::net::{IpAddr, SocketAddr};

/// A hash that does not change between runs or nodes: FNV-1a, then the finalizer of MurmurHash3 to spread it.
pub fn stable_hash(bytes: &[u8], seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The hash of a client. An IPv4 address hashes the same whether it came mapped into IPv6 or not.
pub fn client_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => stable_hash(&address.octets(), 0),
        IpAddr::V6(address) => stable_hash(&address.octets(), 0),
    }
}

/// The hash of a client's connection: address and port.
pub fn connection_hash(client: SocketAddr) -> u64 {
    rehash(client_hash(client.ip()), u32::from(client.port()))
}

/// Another hash from a hash, as good as the first; 0 leaves it as it is.
pub fn rehash(hash: u64, salt: u32) -> u64 {
    if salt == 0 {
        return hash;
    }
    stable_hash(&hash.to_le_bytes(), u64::from(salt))
}

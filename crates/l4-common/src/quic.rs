//! QUIC routed by connection id: which server an id names (draft-ietf-quic-load-balancers-21; "the draft" below).
//!
//! A server puts its own id into the connection ids that it gives to clients, in the open or encrypted. When a client
//! comes from a new address, its packets have no session, but an id that says where the connection lives.

use crate::aes::{Schedule, decrypt, decryption, encrypt, encryption};
use crate::env::Env;
use crate::frame::Head;
use crate::service::BACKENDS_MAX;

/// The configuration that no id has: "not routable" (section 3.2).
pub const CONFIGS: u8 = 7;
/// Configurations that a node can have, over all its pools.
pub const QUIC_CONFIGS_MAX: u32 = 1024;
/// Servers' ids that a node can have: as many as backends.
pub const QUIC_SERVERS_MAX: u32 = BACKENDS_MAX;
/// Bytes of a server's id, at most: of the 20 bytes that QUIC allows to a connection id, one is the first octet, and the
/// nonce has at least four (section 5.3).
pub const SERVER_ID_MAX: usize = 15;
/// Bytes of server id and nonce together, at most.
pub const PLAINTEXT_MAX: usize = 19;
/// Bytes of a nonce, at least.
pub const NONCE_MIN: usize = 4;
/// Bytes of a connection id in QUIC versions 1 and 2, at most.
const ID_MAX: usize = 20;
/// Bytes of a UDP header.
const UDP_LEN: usize = 8;
/// Bytes of a long header before the destination connection id, and the place of its length (RFC 8999, section 5.1).
const LONG_HEAD: usize = 6;
const LONG_ID_LEN: usize = 5;
/// First bit of a packet: it has a long header.
const LONG: u8 = 0x80;

/// How connection ids of a pool are read: the value of the map `QUIC_CONFIGS`, at [`config_key`]. What follows from the
/// lengths is worked out by user space, so that the program in the kernel has no cases to tell apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// Bytes of a server's id, from 1 to [`SERVER_ID_MAX`].
    pub server_id_len: u8,
    /// Bytes of the nonce.
    pub nonce_len: u8,
    /// 1: ids are encrypted.
    pub encrypted: u8,
    /// Bytes before the right half, where four passes encrypt.
    pub right_begin: u8,
    /// The bits of a server's id.
    pub server_mask: [u32; 4],
    /// The bits of the left half and of the right one.
    pub half_masks: [[u32; 4]; 2],
    /// The key, expanded for encryption.
    pub encryption: Schedule,
    /// The key, expanded for decryption.
    pub decryption: Schedule,
}

/// What a server is looked up by in the map `QUIC_SERVERS`. 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QuicServerKey {
    /// The pool's number.
    pub pool: u16,
    /// Bytes of the server's id.
    pub len: u16,
    /// The server's id, zeros behind it: words as they are in memory.
    pub id: [u32; 4],
}

impl QuicServerKey {
    /// The key of a server with this id, of [`SERVER_ID_MAX`] bytes at most.
    pub fn new(pool: u16, server_id: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(server_id) {
            *to = *from;
        }
        let [a, b, c, d] = [0, 4, 8, 12]
            .map(|at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        Self {
            pool,
            len: server_id.len() as u16,
            id: [a, b, c, d],
        }
    }
}

/// The key in `QUIC_CONFIGS` of a pool's configuration `config`, which is in the first three bits of an id.
#[inline(always)]
pub fn config_key(pool: u16, config: u8) -> u32 {
    u32::from(pool) | u32::from(config) << 16
}

/// What a core works with while it reads an id. It is in memory of the core's own: the stack has no room for it, and the
/// verifier does not follow what is in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QuicWork {
    /// What is behind the first octet, and then, in the first four words, its plain text.
    text: [u32; 8],
    /// The left half and the right one.
    halves: [[u32; 4]; 2],
    server: QuicServerKey,
}

/// The bits of word `word` that belong to the first `len` bytes.
fn mask(len: usize, word: usize) -> u32 {
    let bytes = len.saturating_sub(word * 4).min(4);
    (0xffff_ffff_u64 << (32 - 8 * bytes)) as u32
}

impl QuicConfig {
    /// A configuration with these lengths, and a key where ids are encrypted.
    pub fn new(server_id_len: u8, nonce_len: u8, key: Option<[u8; 16]>) -> Self {
        let len = usize::from(server_id_len) + usize::from(nonce_len);
        let half = len.div_ceil(2);
        let mut half_masks = [core::array::from_fn(|word| mask(half, word)); 2];
        if len % 2 != 0 {
            // Of an odd number of bytes, each half has four bits of the one in the middle.
            let last = half - 1;
            half_masks[0][last / 4] &= !(0x0f00_0000 >> (last % 4 * 8));
            half_masks[1][0] &= 0x0fff_ffff;
        }
        Self {
            server_id_len,
            nonce_len,
            encrypted: key.is_some().into(),
            right_begin: (len - half) as u8,
            server_mask: core::array::from_fn(|word| mask(server_id_len.into(), word)),
            half_masks,
            encryption: encryption(key.unwrap_or_default()),
            decryption: decryption(key.unwrap_or_default()),
        }
    }

    /// Bytes of server id and nonce together.
    #[inline(always)]
    fn len(&self) -> u32 {
        u32::from(self.server_id_len) + u32::from(self.nonce_len)
    }
}

/// The backend that a datagram's connection id names, if it has one that can be read. `udp` is the offset of the UDP
/// header.
#[inline(always)]
pub fn backend(env: impl Env, pool: u16, udp: usize) -> Option<u16> {
    let frame = env.frame();
    let payload = udp + UDP_LEN;
    // No packet of QUIC is shorter than this, whatever its header.
    let head = frame.part::<LONG_HEAD>(payload)?;
    let (at, len) = if head.load::<0, u8>() & LONG == 0 {
        // A short header does not say how long the id is.
        (payload + 1, ID_MAX as u32)
    } else {
        let len = u32::from(head.load::<LONG_ID_LEN, u8>());
        (payload + LONG_HEAD, len)
    };
    // No packet of QUIC is so short: behind the id are at least 20 bytes (RFC 9001, section 5.4.2).
    let id = frame.part::<ID_MAX>(at)?;
    let number = config_key(pool, id.load::<0, u8>() >> 5);
    // SAFETY: the environment gave an element of the map, which lives as long as the packet is worked on; user space
    // replaces elements whole.
    let config = unsafe { &*env.quic_config(number)? };
    if config.len() > PLAINTEXT_MAX as u32 || len < 1 + config.len() {
        return None;
    }
    // SAFETY: the environment gave this core's memory, which nobody else uses while the packet is on its way.
    let work = unsafe { &mut *env.quic_work()? };
    note(work, &id);
    if config.encrypted != 0 {
        env.quic_decrypt(number);
    }
    name(config, work, pool);
    env.quic_server(&work.server)
}

/// Writes down what is behind the first octet.
#[inline(always)]
fn note(work: &mut QuicWork, id: &Head<ID_MAX>) {
    work.text = [
        u32::from_be(id.load::<1, u32>()),
        u32::from_be(id.load::<5, u32>()),
        u32::from_be(id.load::<9, u32>()),
        u32::from_be(id.load::<13, u32>()),
        // The last three bytes, and none behind them.
        u32::from_be(id.load::<16, u32>()) << 8,
        0,
        0,
        0,
    ];
}

/// Makes the key of the server whose id is at the beginning of the plain text (section 5.5).
#[inline(always)]
fn name(config: &QuicConfig, work: &mut QuicWork, pool: u16) {
    work.server.pool = pool;
    work.server.len = u16::from(config.server_id_len);
    let mut word = 0;
    while word < 4 {
        work.server.id[word] = (work.text[word] & config.server_mask[word]).to_be();
        word += 1;
    }
}

/// Decrypts the id that is worked on, of the configuration at `number`.
#[inline(always)]
pub fn decrypt_id(env: impl Env, number: u32) {
    let (Some(config), Some(work)) = (env.quic_config(number), env.quic_work()) else {
        return;
    };
    // SAFETY: as in `backend`.
    let (config, work) = unsafe { (&*config, &mut *work) };
    plain(config, work);
}

#[inline(always)]
fn plain(config: &QuicConfig, work: &mut QuicWork) {
    if config.len() == 16 {
        let text = &work.text;
        let block = decrypt(&config.decryption, [text[0], text[1], text[2], text[3]]);
        work.text = [block[0], block[1], block[2], block[3], 0, 0, 0, 0];
    } else {
        four_passes(config, work);
    }
}

/// Undoes the four rounds of encryption of lengths other than 16 (section 5.4.2).
#[inline(always)]
fn four_passes(config: &QuicConfig, work: &mut QuicWork) {
    let (begin, shift) = (
        usize::from(config.right_begin) / 4,
        u32::from(config.right_begin) % 4 * 8,
    );
    let mut word = 0;
    while word < 3 {
        let (high, low) = (
            work.text[(begin + word) & 7],
            work.text[(begin + word + 1) & 7],
        );
        let right = (u64::from(high) << 32 | u64::from(low)) << shift >> 32;
        work.halves[0][word] = work.text[word] & config.half_masks[0][word];
        work.halves[1][word] = right as u32 & config.half_masks[1][word];
        word += 1;
    }
    let mut pass = 4;
    while pass > 0 {
        // The even ones change the left half, the odd ones the right half.
        let to = pass as usize & 1;
        let from = work.halves[to ^ 1];
        let last = config.len() << 8 | pass;
        let stream = encrypt(&config.encryption, [from[0], from[1], from[2], last]);
        let mut word = 0;
        while word < 3 {
            work.halves[to][word] ^= stream[word] & config.half_masks[to][word];
            word += 1;
        }
        pass -= 1;
    }
    // Both halves behind each other again.
    let [left, right] = work.halves;
    work.text = [left[0], left[1], left[2], 0, 0, 0, 0, 0];
    let mut word = 0;
    while word < 3 {
        let moved = u64::from(right[word]) << 32 >> shift;
        work.text[(begin + word) & 7] |= (moved >> 32) as u32;
        work.text[(begin + word + 1) & 7] |= moved as u32;
        word += 1;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::frame::Frame;

    const KEY: [u8; 16] = 0x8f95_f092_4576_5f80_2569_34e5_0c66_207f_u128.to_be_bytes();

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// `id` must name `server` where nonces have `nonce_len` bytes.
    fn check(key: Option<[u8; 16]>, server: &str, nonce_len: u8, id: &str) {
        let server = bytes(server);
        let config = QuicConfig::new(server.len() as u8, nonce_len, key);
        // What is behind the id must not matter.
        for beyond in [0, 0xff] {
            let mut memory = bytes(id);
            assert_eq!(memory.len(), 1 + server.len() + usize::from(nonce_len));
            memory.resize(ID_MAX, beyond);
            let range = memory.as_mut_ptr_range();
            // SAFETY: `memory` lives until the end of the turn and nobody else refers to it meanwhile.
            let head = unsafe { Frame::new(range.start, range.end) }.head::<ID_MAX>();
            let mut work = QuicWork::default();
            note(&mut work, &head.unwrap());
            if key.is_some() {
                plain(&config, &mut work);
            }
            name(&config, &mut work, 3);
            assert_eq!(work.server, QuicServerKey::new(3, &server), "{id}");
        }
    }

    /// The vectors of the draft's appendix B, and the example of section 5.4.2.3.
    #[test]
    fn ids_are_as_in_the_draft() {
        check(None, "c4605e", 4, "07c4605e4504cc4f");
        // The draft leaves out zeros at the beginning of octets.
        check(None, "350d28b420", 5, "2a350d28b42003487d970b");
        check(Some(KEY), "ed793a", 4, "0720b1d07b359d3c");
        check(
            Some(KEY),
            "ed793a51d49b8f5fab65",
            5,
            "2fcc381bc74cb4fbad2823a3d1f8fed2",
        );
        check(
            Some(KEY),
            "ed793a51d49b8f5f",
            8,
            "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
        );
        check(
            Some(KEY),
            "ed793a51d49b8f5fab",
            9,
            "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
        );
        let example = 0xfdf7_26a9_893e_c05c_0632_d395_6680_baf0_u128.to_be_bytes();
        check(Some(example), "31441a", 4, "0767947d29be054a");
    }

    /// Encrypts as the draft says, byte by byte: the other way round, and written apart from what it tests.
    fn encrypted(key: [u8; 16], plain: &[u8]) -> Vec<u8> {
        let schedule = encryption(key);
        let aes = |input: [u8; 16]| {
            let word = |i: usize| u32::from_be_bytes(input[i * 4..i * 4 + 4].try_into().unwrap());
            let out = encrypt(&schedule, [word(0), word(1), word(2), word(3)]);
            out.into_iter()
                .flat_map(u32::to_be_bytes)
                .collect::<Vec<u8>>()
        };
        if plain.len() == 16 {
            return aes(plain.try_into().unwrap());
        }
        let half = plain.len().div_ceil(2);
        let odd = plain.len() % 2 == 1;
        let (mut left, mut right) = (plain[..half].to_vec(), plain[plain.len() - half..].to_vec());
        let clear = |left: &mut [u8], right: &mut [u8]| {
            if odd {
                left[half - 1] &= 0xf0;
                right[0] &= 0x0f;
            }
        };
        clear(&mut left, &mut right);
        for pass in 1..=4u8 {
            let from = if pass % 2 == 1 { &left } else { &right };
            let mut input = [0; 16];
            input[..half].copy_from_slice(from);
            input[14..].copy_from_slice(&[plain.len() as u8, pass]);
            let stream = aes(input);
            let to = if pass % 2 == 1 { &mut right } else { &mut left };
            for (to, stream) in to.iter_mut().zip(stream) {
                *to ^= stream;
            }
            clear(&mut left, &mut right);
        }
        let mut out = left;
        if odd {
            out[half - 1] |= right.remove(0);
        }
        out.extend(right);
        out
    }

    #[test]
    fn every_length_is_read_back() {
        for server_len in 1..=SERVER_ID_MAX {
            for nonce_len in NONCE_MIN..=PLAINTEXT_MAX - server_len {
                let plain: Vec<u8> = (0..server_len + nonce_len)
                    .map(|i| (i * 37 + server_len * 11 + 1) as u8)
                    .collect();
                let mut id = std::vec![0x5a];
                id.extend(encrypted(KEY, &plain));
                let hex = |bytes: &[u8]| {
                    bytes
                        .iter()
                        .map(|byte| std::format!("{byte:02x}"))
                        .collect::<std::string::String>()
                };
                check(
                    Some(KEY),
                    &hex(&plain[..server_len]),
                    nonce_len as u8,
                    &hex(&id),
                );
            }
        }
    }
}

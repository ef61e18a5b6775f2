//! Connection ids of QUIC that name backends: what pools say of them, and the maps that the program reads.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use weir_l4_common::quic::{QuicConfig, QuicServerKey, config_key};
use weir_model::Pool;

use crate::error::Error;

/// How connection ids of a pool are read, and which backends they name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuicPool {
    /// By the configuration that ids say they are of.
    formats: BTreeMap<u8, Format>,
    /// Numbers of backends by servers' ids.
    servers: BTreeMap<Vec<u8>, u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    server_id_len: u8,
    nonce_len: u8,
    key: Option<Key>,
}

/// A key; logs do not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl QuicPool {
    /// What a pool says, with keys out of their files; `None`: nothing. `numbers` are those of its backends.
    pub(crate) fn read(
        pool: &Pool,
        numbers: impl Iterator<Item = (SocketAddr, u16)>,
    ) -> Result<Option<Self>, Error> {
        if pool.quic.is_empty() {
            return Ok(None);
        }
        let numbers: HashMap<SocketAddr, u16> = numbers.collect();
        let mut servers = BTreeMap::new();
        for backend in &pool.backends {
            if let Some(id) = &backend.quic_server_id
                && let Some(number) = numbers.get(&backend.address)
            {
                servers.insert(id.clone(), *number);
            }
        }
        let server_id_len = servers.keys().next().map_or(1, |id| id.len() as u8);
        let mut formats = BTreeMap::new();
        for ids in &pool.quic {
            let key = match &ids.key_file {
                None => None,
                Some(path) => Some(read_key(path).map_err(|source| Error::QuicKey {
                    pool: pool.name.clone(),
                    path: path.clone(),
                    source,
                })?),
            };
            let format = Format {
                server_id_len,
                nonce_len: ids.nonce_length,
                key,
            };
            formats.insert(ids.config_id, format);
        }
        Ok(Some(Self { formats, servers }))
    }

    /// How many configurations it has.
    pub(crate) fn formats(&self) -> usize {
        self.formats.len()
    }
}

/// A key of 16 bytes, or of 32 hexadecimal digits.
fn read_key(path: &Path) -> io::Result<Key> {
    let content = fs::read(path)?;
    if let Ok(key) = <[u8; 16]>::try_from(&content[..]) {
        return Ok(Key(key));
    }
    let text = std::str::from_utf8(&content).unwrap_or_default().trim();
    let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    match u128::from_str_radix(text, 16) {
        Ok(key) if digits => Ok(Key(key.to_be_bytes())),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected a key of 16 bytes, or of 32 hexadecimal digits",
        )),
    }
}

/// The maps.
pub(crate) struct QuicMaps {
    configs: BpfHashMap<MapData, u32, [u8; size_of::<QuicConfig>()]>,
    servers: BpfHashMap<MapData, [u8; size_of::<QuicServerKey>()], u32>,
    written: HashMap<u16, QuicPool>,
}

impl QuicMaps {
    pub(crate) fn new(
        configs: BpfHashMap<MapData, u32, [u8; size_of::<QuicConfig>()]>,
        servers: BpfHashMap<MapData, [u8; size_of::<QuicServerKey>()], u32>,
    ) -> Self {
        Self {
            configs,
            servers,
            written: HashMap::new(),
        }
    }

    /// Writes what is other than before of the pool with this number.
    pub(crate) fn write(&mut self, pool: u16, quic: &QuicPool) {
        let old = self.written.remove(&pool).unwrap_or_default();
        for id in old
            .formats
            .keys()
            .filter(|id| !quic.formats.contains_key(id))
        {
            logged("QUIC_CONFIGS", self.configs.remove(&config_key(pool, *id)));
        }
        for id in old
            .servers
            .keys()
            .filter(|id| !quic.servers.contains_key(*id))
        {
            logged("QUIC_SERVERS", self.servers.remove(&server_key(pool, id)));
        }
        for (id, number) in &quic.servers {
            if old.servers.get(id) != Some(number) {
                let key = server_key(pool, id);
                logged(
                    "QUIC_SERVERS",
                    self.servers.insert(key, u32::from(*number), 0),
                );
            }
        }
        for (id, format) in &quic.formats {
            if old.formats.get(id) != Some(format) {
                let value = config_bytes(format);
                logged(
                    "QUIC_CONFIGS",
                    self.configs.insert(config_key(pool, *id), value, 0),
                );
            }
        }
        if *quic != QuicPool::default() {
            self.written.insert(pool, quic.clone());
        }
    }
}

/// Room is looked after before, so that writing does not fail.
fn logged(map: &str, result: Result<(), MapError>) {
    if let Err(error) = result {
        tracing::error!(map, %error, "write to a map");
    }
}

/// The bytes of a key, in the order of its fields.
fn server_key(pool: u16, id: &[u8]) -> [u8; size_of::<QuicServerKey>()] {
    let mut bytes = [0; size_of::<QuicServerKey>()];
    bytes[..2].copy_from_slice(&pool.to_ne_bytes());
    bytes[2..4].copy_from_slice(&(id.len() as u16).to_ne_bytes());
    bytes[4..4 + id.len()].copy_from_slice(id);
    bytes
}

/// The bytes of a configuration, in the order of its fields.
fn config_bytes(format: &Format) -> [u8; size_of::<QuicConfig>()] {
    let Format {
        server_id_len,
        nonce_len,
        key,
    } = *format;
    let config = QuicConfig::new(server_id_len, nonce_len, key.map(|Key(key)| key));
    let mut bytes = [0; size_of::<QuicConfig>()];
    bytes[..4].copy_from_slice(&[
        server_id_len,
        nonce_len,
        config.encrypted,
        config.right_begin,
    ]);
    let words = config
        .server_mask
        .iter()
        .chain(config.half_masks.as_flattened())
        .chain(&config.encryption)
        .chain(&config.decryption);
    for (bytes, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_have_the_bytes_that_the_program_reads() {
        let key = Key(std::array::from_fn(|i| i as u8));
        let format = Format {
            server_id_len: 3,
            nonce_len: 5,
            key: Some(key),
        };
        // SAFETY: same size, and every bit pattern is a configuration.
        let read = unsafe {
            std::mem::transmute::<[u8; size_of::<QuicConfig>()], QuicConfig>(config_bytes(&format))
        };
        assert_eq!(read, QuicConfig::new(3, 5, Some(key.0)));
        // SAFETY: as above, a key.
        let read = unsafe {
            std::mem::transmute::<[u8; size_of::<QuicServerKey>()], QuicServerKey>(server_key(
                7,
                &[1, 2, 3],
            ))
        };
        assert_eq!(read, QuicServerKey::new(7, &[1, 2, 3]));
    }

    #[test]
    fn a_pool_says_whom_ids_name_and_how_they_are_read() {
        let read = |quic: &str| {
            let text = format!(
                "[l4]\ninterfaces = [\"eth0\"]\n\
                 [[listener]]\nname = \"h3\"\nbind = \"203.0.113.10:443\"\nprotocol = \"udp\"\nforward = \"dr\"\n\
                 pool = \"h3\"\n[[pool]]\nname = \"h3\"\n{quic}\nbackend = [\n\
                 {{ address = \"10.0.2.11:443\", quic_server_id = \"0a000b\" }},\n\
                 {{ address = \"10.0.2.12:443\", quic_server_id = \"0A000C\" }}]\n"
            );
            let config = weir_model::Config::parse(&text, Path::new("weir.toml")).unwrap();
            let numbers = [("10.0.2.11:443", 7), ("10.0.2.12:443", 8)];
            let numbers = numbers.map(|(address, number)| (address.parse().unwrap(), number));
            QuicPool::read(&config.pools[0], numbers.into_iter())
        };
        let quic = read("quic = [{ config_id = 1, nonce_length = 8 }]")
            .unwrap()
            .unwrap();
        let format = Format {
            server_id_len: 3,
            nonce_len: 8,
            key: None,
        };
        assert_eq!(quic.formats, BTreeMap::from([(1, format)]));
        let servers = [(vec![10, 0, 11], 7), (vec![10, 0, 12], 8)];
        assert_eq!(quic.servers, BTreeMap::from(servers));
        let error = read("quic = [{ nonce_length = 8, key_file = \"/no/such.key\" }]").unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("pool h3: read the key of connection ids from /no/such.key: "),
            "{error}"
        );
    }

    #[test]
    fn keys_are_bytes_or_digits() {
        let path = std::env::temp_dir().join(format!("weir-quic-key-{}", std::process::id()));
        let check = |content: &[u8], good: bool| {
            fs::write(&path, content).unwrap();
            let key = read_key(&path);
            assert_eq!(
                key.as_ref().ok(),
                good.then_some(&Key(*b"0123456789abcdef"))
            );
            if let Ok(key) = key {
                assert_eq!(format!("{key:?}"), "Key(..)");
            }
        };
        check(b"0123456789abcdef", true);
        check(b"30313233343536373839616263646566\n", true);
        check(b"3031323334353637383961626364656", false);
        check(b"+0313233343536373839616263646566", false);
        check(b"", false);
        fs::remove_file(&path).unwrap();
        assert!(read_key(&path).is_err());
    }
}

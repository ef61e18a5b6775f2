//! What a daemon leaves for the next one: whose the numbers are that session lines carry, and what was counted in lines
//! that are gone. The maps stay when the process is killed; nothing is ever half written in them, as the first word of
//! a record is written last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use weir_l4_common::record::{
    EXPIRED, GENERATION, LAYOUT_VERSION, NAMESPACE, ORPHANS, SEED, TRAFFIC, VERSION,
};
use weir_model::{BackendId, Name};

use crate::memory::{BackendRecordCell, LayoutCell, LinkCell, ListenerRecordCell, Mapped};
use crate::tally::{Count, Tally};

/// Words of a name with its length.
const NAME: usize = 8;
/// Where a listener's traffic is.
const LISTENER_TRAFFIC: usize = NAME;
/// Where a backend's address is, its pool, its traffic, and whether it takes new sessions.
const ADDRESS: usize = 1;
const POOL: usize = ADDRESS + 2;
const BACKEND_TRAFFIC: usize = POOL + NAME;
const ACCEPTS: usize = BACKEND_TRAFFIC + TRAFFIC;

/// The maps of records.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) layout: Mapped<LayoutCell>,
    pub(crate) listeners: Mapped<ListenerRecordCell>,
    pub(crate) backends: Mapped<BackendRecordCell>,
    pub(crate) links: Mapped<LinkCell>,
}

/// What was counted of a line that is freed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freed {
    pub(crate) listener: u16,
    pub(crate) backend: u16,
    pub(crate) reverse: bool,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Records {
    /// The first daemon at these maps says what they are.
    pub(crate) fn begin(&self, seed: u64, namespace: u64) {
        let layout = &self.layout[0];
        layout[SEED].store(seed, Relaxed);
        layout[NAMESPACE].store(namespace, Relaxed);
        layout[VERSION].store(LAYOUT_VERSION, Release);
    }

    /// The generation of routes that session lines were written with last.
    pub(crate) fn generation(&self) -> u32 {
        self.layout[0][GENERATION].load(Acquire) as u32
    }

    /// To be called before the program sees a generation.
    pub(crate) fn set_generation(&self, generation: u32) {
        self.layout[0][GENERATION].store(generation.into(), Release);
    }

    /// Sessions that ended because they were idle, and lines that had lost their peer.
    pub(crate) fn ended(&self) -> (u64, u64) {
        let layout = &self.layout[0];
        (layout[EXPIRED].load(Relaxed), layout[ORPHANS].load(Relaxed))
    }

    /// Keeps both.
    pub(crate) fn set_ended(&self, expired: u64, orphans: u64) {
        self.layout[0][EXPIRED].store(expired, Relaxed);
        self.layout[0][ORPHANS].store(orphans, Relaxed);
    }

    /// Listeners that have a number.
    pub(crate) fn listeners(&self) -> Vec<(u16, Name)> {
        let numbered = (0..=u16::MAX).zip(self.listeners.iter()).skip(1);
        numbered
            .filter_map(|(number, record)| Some((number, name(&record[..NAME])?)))
            .collect()
    }

    /// A listener has a number from now on.
    pub(crate) fn name_listener(&self, number: u16, name: &Name) {
        write_text(&self.listeners[usize::from(number)][..NAME], name.as_str());
    }

    /// A listener's number is free.
    pub(crate) fn forget_listener(&self, number: u16) {
        clear(&self.listeners[usize::from(number)]);
    }

    /// Backends that have a number, and whether they take new sessions.
    pub(crate) fn backends(&self) -> Vec<(u16, BackendId, bool)> {
        backends(&self.backends)
    }

    /// A backend has a number from now on.
    pub(crate) fn name_backend(&self, number: u16, id: &BackendId) {
        let record = &self.backends[usize::from(number)];
        write_text(&record[POOL..][..NAME], id.pool.as_str());
        let (family, octets) = match id.address.ip() {
            IpAddr::V4(address) => (4, address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => (6, address.octets()),
        };
        for (word, bytes) in record[ADDRESS..].iter().zip(octets.chunks_exact(8)) {
            word.store(word_of(bytes), Relaxed);
        }
        let [high, low] = id.address.port().to_be_bytes();
        let first = u64::from_le_bytes([1, family, high, low, 0, 0, 0, 0]);
        record[0].store(first, Release);
    }

    /// Whether a backend takes new sessions.
    pub(crate) fn set_accepts(&self, number: u16, accepts: bool) {
        self.backends[usize::from(number)][ACCEPTS].store(accepts.into(), Relaxed);
    }

    /// A backend's number is free.
    pub(crate) fn forget_backend(&self, number: u16) {
        clear(&self.backends[usize::from(number)]);
    }

    /// The names of interfaces by their index in `LINKS`.
    pub(crate) fn links(&self) -> Vec<String> {
        self.links.iter().map_while(|record| text(record)).collect()
    }

    /// An interface has an index from now on.
    pub(crate) fn name_link(&self, index: u8, name: &str) {
        write_text(&self.links[usize::from(index)], name);
    }

    /// Adds what a line has counted that is about to be freed.
    pub(crate) fn add(&self, freed: Freed) {
        let listener = &self.listeners[usize::from(freed.listener)][LISTENER_TRAFFIC..];
        let backend = &self.backends[usize::from(freed.backend)][BACKEND_TRAFFIC..];
        let at = 2 * usize::from(freed.reverse);
        for record in [listener, backend] {
            record[at].fetch_add(freed.packets, Relaxed);
            record[at + 1].fetch_add(freed.bytes, Relaxed);
        }
    }

    /// What was counted in lines that are gone.
    pub(crate) fn tally(&self) -> Tally {
        let listeners = self.listeners.iter();
        let backends = self.backends.iter();
        Tally::from_counts(
            listeners.map(|record| count(&record[LISTENER_TRAFFIC..])),
            backends.map(|record| count(&record[BACKEND_TRAFFIC..])),
        )
    }
}

/// See [`Records::backends`].
pub(crate) fn backends(records: &[BackendRecordCell]) -> Vec<(u16, BackendId, bool)> {
    let numbered = (0..=u16::MAX).zip(records).skip(1);
    numbered
        .filter_map(|(number, record)| {
            let accepts = record[ACCEPTS].load(Relaxed) != 0;
            Some((number, backend(record)?, accepts))
        })
        .collect()
}

fn count(traffic: &[AtomicU64]) -> Count {
    let word = |at: usize| traffic[at].load(Relaxed);
    Count {
        packets_in: word(0),
        bytes_in: word(1),
        packets_out: word(2),
        bytes_out: word(3),
        ..Count::default()
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Writes a text of at most eight bytes a word, less one for its length. The word with the length comes last.
fn write_text(words: &[AtomicU64], text: &str) {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
    debug_assert!(bytes.len() <= words.len() * 8, "the text has room");
    bytes.resize(words.len() * 8, 0);
    for (word, bytes) in words.iter().zip(bytes.chunks_exact(8)).rev() {
        word.store(word_of(bytes), Release);
    }
}

/// The text in a record; `None` where there is none.
fn text(words: &[AtomicU64]) -> Option<String> {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|word| word.load(Acquire).to_le_bytes())
        .collect();
    let (&len, rest) = bytes.split_first()?;
    let text = rest
        .get(..usize::from(len))
        .filter(|text| !text.is_empty())?;
    String::from_utf8(text.to_vec()).ok()
}

fn name(words: &[AtomicU64]) -> Option<Name> {
    Name::parse(&text(words)?).ok()
}

fn backend(record: &[AtomicU64]) -> Option<BackendId> {
    let [taken, family, high, low, ..] = record[0].load(Acquire).to_le_bytes();
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(8).zip(&record[ADDRESS..]) {
        bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
    }
    let [.., a, b, c, d] = octets;
    let ip: IpAddr = match (taken, family) {
        (1, 4) => Ipv4Addr::new(a, b, c, d).into(),
        (1, 6) => Ipv6Addr::from(octets).into(),
        _ => return None,
    };
    Some(BackendId {
        pool: name(&record[POOL..][..NAME])?,
        address: SocketAddr::from((ip, u16::from_be_bytes([high, low]))),
    })
}

/// The first word first: what is left of a record that is not whole means nothing.
fn clear(record: &[AtomicU64]) {
    for word in record {
        word.store(0, Release);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::memory::Shared;

    fn mapped<T: Shared>(count: usize) -> Mapped<T> {
        let fd = memfd_create(c"weir-records", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&fd, (count * size_of::<T>()) as i64).unwrap();
        Mapped::new(fd.as_fd(), count).unwrap()
    }

    /// Records in memory of the test's own.
    pub(crate) fn records() -> Records {
        Records {
            layout: mapped(1),
            listeners: mapped(16),
            backends: mapped(16),
            links: mapped(4),
        }
    }

    fn id(pool: &str, address: &str) -> BackendId {
        BackendId {
            pool: Name::new(pool),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn whose_a_number_is_can_be_read_until_it_is_given_back() {
        let records = records();
        let long = "x".repeat(Name::MAX_LEN);
        records.name_listener(1, &Name::new("web"));
        records.name_listener(15, &Name::new(&long));
        let listeners = [(1, Name::new("web")), (15, Name::new(&long))];
        assert_eq!(records.listeners(), listeners);
        records.name_backend(2, &id("p", "10.0.0.1:8080"));
        records.name_backend(3, &id(&long, "[2001:db8::1]:65535"));
        records.set_accepts(3, true);
        assert_eq!(
            records.backends(),
            [
                (2, id("p", "10.0.0.1:8080"), false),
                (3, id(&long, "[2001:db8::1]:65535"), true)
            ]
        );
        records.forget_listener(1);
        records.forget_backend(3);
        assert_eq!(records.listeners().len(), 1);
        assert_eq!(records.backends().len(), 1);
        records.name_link(0, "eth0");
        records.name_link(1, "enp1s0f0np0.409");
        assert_eq!(records.links(), ["eth0", "enp1s0f0np0.409"]);
    }

    #[test]
    fn a_record_that_is_not_whole_is_free() {
        let records = records();
        records.name_backend(2, &id("pool", "10.0.0.1:8080"));
        let record = &records.backends[2];
        let first = record[0].swap(0, Relaxed);
        assert!(records.backends().is_empty());
        record[0].store(first, Relaxed);
        record[POOL].store(word_of(&[4, b'\n', 0, 0, 0]), Relaxed);
        assert!(records.backends().is_empty());
        record[0].store(0xff, Relaxed);
        assert!(records.backends().is_empty());
        records.listeners[1][0].store(u64::MAX, Relaxed);
        assert!(records.listeners().is_empty());
    }

    #[test]
    fn what_was_counted_stays_with_the_number_until_it_is_given_back() {
        let records = records();
        let freed = |reverse, packets, bytes| Freed {
            listener: 1,
            backend: 2,
            reverse,
            packets,
            bytes,
        };
        records.add(freed(false, 3, 300));
        records.add(freed(true, 5, 500));
        records.add(freed(false, 1, 100));
        let count = records.tally().listener(1);
        assert_eq!((count.packets_in, count.bytes_in), (4, 400));
        assert_eq!((count.packets_out, count.bytes_out), (5, 500));
        assert_eq!(records.tally().backend(2), count);
        records.forget_listener(1);
        assert_eq!(records.tally().listener(1), Count::default());
        records.set_ended(7, 8);
        assert_eq!(records.ended(), (7, 8));
    }
}

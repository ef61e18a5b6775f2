//! What the program's schedulers know: loads of backends, and clients that pools remember. The program writes both with
//! new sessions; here they are kept true as sessions go on and end, for the sweep.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use weir_l4_common::client::{self, CLIENTS, CONFIRMED, Pool};
use weir_model::{Name, Persistence};

use crate::memory::{ClientCell, LoadCell, Mapped};
use crate::sweep::Now;

/// Entries of the table of clients for each one that it is made for: a set that is full forgets somebody.
const CLIENTS_PERCENT: u64 = 133;

/// Sets of a table for so many clients.
pub(crate) fn client_sets(clients: u32) -> u32 {
    let entries = u64::from(clients) * CLIENTS_PERCENT / 100;
    let sets = entries.div_ceil(CLIENTS as u64).next_multiple_of(2);
    u32::try_from(sets).unwrap_or(u32::MAX - 1).max(2)
}

/// The maps `LOADS` and `CLIENTS`, and what is known of pools.
#[derive(Debug)]
pub(crate) struct Schedulers {
    loads: Mapped<LoadCell>,
    clients: Mapped<ClientCell>,
    /// Pools that remember clients, by the hash of their name.
    pools: RwLock<Arc<HashMap<u64, Pool>>>,
    seed: u64,
    /// Length of a jiffy.
    tick: Duration,
}

impl Schedulers {
    pub(crate) fn new(
        loads: Mapped<LoadCell>,
        clients: Mapped<ClientCell>,
        seed: u64,
        tick: Duration,
    ) -> Self {
        Self {
            loads,
            clients,
            pools: RwLock::default(),
            seed,
            tick,
        }
    }

    /// Writes what a backend weighs now, in which pool.
    pub(crate) fn write_load(&self, backend: u16, weight: u32, pool: u64) {
        let load = &self.loads[usize::from(backend)];
        load.weight.store(weight, Relaxed);
        load.pool.store(pool, Release);
    }

    /// The number of a backend that no session has any more is about to be given to another.
    pub(crate) fn forget_backend(&self, backend: u16) {
        let load = &self.loads[usize::from(backend)];
        load.pool.store(0, Relaxed);
        load.weight.store(0, Relaxed);
        load.sessions.store(0, Relaxed);
    }

    /// Writes how a pool remembers clients; what the map `POOLS` is to have.
    pub(crate) fn write_pool(&self, name: &Name, persistence: Option<&Persistence>) -> Pool {
        let name = name_hash(name);
        let pool = persistence.map(|persistence| Pool {
            timeout: (persistence.timeout.as_nanos() / self.tick.as_nanos().max(1)) as u32,
            mask4: mask::<4>(persistence.prefix_v4)[0],
            mask6: mask::<16>(persistence.prefix_v6),
            name,
        });
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut pools);
        match pool {
            Some(pool) => map.insert(name, pool),
            None => map.remove(&name),
        };
        pool.unwrap_or_default()
    }

    /// Sessions to a backend that schedulers count now.
    #[cfg(test)]
    pub(crate) fn sessions(&self, backend: u16) -> u32 {
        self.loads[usize::from(backend)].sessions.load(Relaxed)
    }

    /// A session that was counted has closed or gone.
    pub(crate) fn closed(&self, backend: u16) {
        let sessions = &self.loads[usize::from(backend)].sessions;
        // Never below zero, whatever was in the maps that were found.
        let _ = sessions.fetch_update(AcqRel, Acquire, |sessions| sessions.checked_sub(1));
    }

    /// Pools that remember clients; empty where nobody has to tell of live sessions.
    pub(crate) fn pools(&self) -> Arc<HashMap<u64, Pool>> {
        Arc::clone(&self.pools.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client, IPv4 as mapped, has a live session with a backend that is confirmed: it is remembered from now on.
    pub(crate) fn confirmed(
        &self,
        pools: &HashMap<u64, Pool>,
        addr: [u32; 4],
        backend: u16,
        now: Now,
    ) {
        let name = self.loads[usize::from(backend)].pool.load(Acquire);
        let Some(pool) = pools.get(&name) else {
            return;
        };
        let tag = client::tag(addr, pool, self.seed);
        let word = client::word(now.jiffies.wrapping_add(pool.timeout), backend) | CONFIRMED;
        let sets = (self.clients.len() / CLIENTS) as u32;
        let mut free = None;
        for probe in 0..2 {
            let first = client::set(tag, probe, sets) as usize * CLIENTS;
            for [tag_cell, word_cell] in &self.clients[first..first + CLIENTS] {
                let (found, old) = (tag_cell.load(Acquire), word_cell.load(Acquire));
                if found == tag {
                    // One that goes elsewhere by now, as this backend took nothing new for a while, stays there.
                    if client::backend(old) == backend || client::is_over(old, now.jiffies) {
                        // Fails where the program has just written it.
                        let _ = word_cell.compare_exchange(old, word, AcqRel, Relaxed);
                    }
                    return;
                }
                let is_free =
                    found == 0 || client::is_over(old, now.jiffies) || old & CONFIRMED == 0;
                if is_free && free.is_none() {
                    free = Some((tag_cell, found, word_cell));
                }
            }
        }
        if let Some((tag_cell, found, word_cell)) = free
            && tag_cell
                .compare_exchange(found, tag, AcqRel, Relaxed)
                .is_ok()
        {
            word_cell.store(word, Release);
        }
    }

    /// Clients that are remembered.
    #[cfg(test)]
    pub(crate) fn clients_known(&self, now: Now) -> u64 {
        let known = self.clients.iter().filter(|[tag, word]| {
            tag.load(Relaxed) != 0 && !client::is_over(word.load(Relaxed), now.jiffies)
        });
        known.count() as u64
    }
}

/// A hash of a pool's name that is the same in every daemon, as what is remembered outlives it: FNV-1a
/// (draft-eastlake-fnv). Never zero, which a backend without a pool has.
pub(crate) fn name_hash(name: &Name) -> u64 {
    let bytes = name.as_str().bytes();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// The mask of a prefix, network byte order.
fn mask<const BYTES: usize>(prefix: u8) -> [u32; 4] {
    let mut words = [0; 4];
    for (index, word) in words.iter_mut().enumerate().take(BYTES / 4) {
        let bits = u32::from(prefix).saturating_sub(index as u32 * 32).min(32);
        *word = u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use weir_l4_common::service::mapped;

    use super::*;

    const TICK: Duration = Duration::from_millis(4);

    fn schedulers() -> Schedulers {
        let memory = || {
            let fd = memfd_create(c"weir-schedulers", MFdFlags::empty()).unwrap();
            nix::unistd::ftruncate(&fd, 4096).unwrap();
            fd
        };
        let loads = Mapped::new(memory().as_fd(), 256).unwrap();
        let clients = Mapped::new(memory().as_fd(), 64).unwrap();
        Schedulers::new(loads, clients, 7, TICK)
    }

    fn at(jiffies: u32) -> Now {
        Now {
            jiffies,
            tick: TICK,
            monotonic: Duration::ZERO,
        }
    }

    #[test]
    fn masks_are_those_of_prefixes() {
        let check = |prefix: u8, words: [u32; 4]| {
            assert_eq!(mask::<16>(prefix).map(u32::from_be), words, "/{prefix}");
        };
        check(0, [0; 4]);
        check(1, [1 << 31, 0, 0, 0]);
        check(32, [u32::MAX, 0, 0, 0]);
        check(64, [u32::MAX, u32::MAX, 0, 0]);
        check(65, [u32::MAX, u32::MAX, 1 << 31, 0]);
        check(128, [u32::MAX; 4]);
        assert_eq!(mask::<4>(24)[0], u32::from_ne_bytes([255, 255, 255, 0]));
    }

    #[test]
    fn a_load_never_falls_below_zero() {
        let schedulers = schedulers();
        schedulers.write_load(3, 100, 1);
        schedulers.loads[3].sessions.store(1, Relaxed);
        schedulers.closed(3);
        schedulers.closed(3);
        assert_eq!(schedulers.sessions(3), 0);
        assert_eq!(schedulers.loads[3].weight.load(Relaxed), 100);
    }

    #[test]
    fn a_live_session_keeps_its_client_remembered() {
        let schedulers = schedulers();
        let persistence = Persistence {
            timeout: Duration::from_secs(4),
            prefix_v4: 24,
            prefix_v6: 64,
        };
        let name = Name::from("web");
        schedulers.write_load(3, 100, name_hash(&name));
        schedulers.write_load(4, 100, name_hash(&Name::from("api")));
        schedulers.write_pool(&name, Some(&persistence));
        let pools = schedulers.pools();
        let client = mapped(u32::from_ne_bytes([10, 0, 0, 1]));
        // The clock wraps.
        let start = u32::MAX - 10;
        schedulers.confirmed(&pools, client, 3, at(start));
        schedulers.confirmed(&pools, client, 4, at(start));
        assert_eq!(
            schedulers.clients_known(at(start)),
            1,
            "the pool of 4 remembers nobody"
        );
        let neighbour = mapped(u32::from_ne_bytes([10, 0, 0, 2]));
        schedulers.confirmed(&pools, neighbour, 3, at(start.wrapping_add(500)));
        let known = |after: u32| schedulers.clients_known(at(start.wrapping_add(after)));
        assert_eq!((known(999), known(1499), known(1500)), (1, 1, 0));
    }
}

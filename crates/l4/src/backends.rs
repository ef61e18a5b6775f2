//! The map `BACKENDS`: addresses and flags from the config, next hops from the kernel's routing.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Release;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_l4_common::link::LINK_NONE;
use weir_l4_common::service::BACKEND_ACCEPTS;

use crate::links::NOWHERE;
use crate::lock::lock;
use crate::maps::octets;
use crate::memory::{BackendCell, Mapped};

/// A next hop as the map has it: MAC address and index into `LINKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) mac: [u8; 6],
    pub(crate) link: u8,
}

/// The word of a [`BackendCell`] that changes: next hop and flags.
const HOP: usize = 3;

/// Every backend in the map, and who waits for next hops.
#[derive(Debug)]
pub(crate) struct Backends {
    cells: Mapped<BackendCell>,
    state: Mutex<State>,
    resolved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    by_number: HashMap<u16, (SocketAddr, bool)>,
    by_address: HashMap<IpAddr, Address>,
    /// Addresses that came or went since they were last asked for.
    news: HashSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Address {
    numbers: Vec<u16>,
    /// Changes under way that will use it.
    expected: u32,
    hop: Option<Hop>,
    /// What the map has while there is no next hop.
    lost: bool,
}

impl Backends {
    pub(crate) fn new(cells: Mapped<BackendCell>) -> Self {
        let backends = Self {
            cells,
            state: Mutex::default(),
            resolved: Condvar::new(),
        };
        for cell in &*backends.cells {
            store(&cell[HOP], hop_word(None, false));
        }
        backends
    }

    /// Writes a backend; its next hop is that of its address, as far as known.
    pub(crate) fn write(&self, number: u16, address: SocketAddr, accepts: bool) {
        let mut state = lock(&self.state);
        let before = state.by_number.insert(number, (address, accepts));
        if before.is_none_or(|(before, _)| before != address) {
            let entry = state.by_address.entry(address.ip()).or_default();
            entry.numbers.push(number);
            state.news.insert(address.ip());
        }
        let hop = state
            .by_address
            .get(&address.ip())
            .and_then(Address::hop_in_map);
        self.write_cell(number, address, hop, accepts);
    }

    /// Forgets a backend that no session uses any more.
    pub(crate) fn forget(&self, number: u16) {
        let mut state = lock(&self.state);
        let Some((address, _)) = state.by_number.remove(&number) else {
            return;
        };
        if let Some(entry) = state.by_address.get_mut(&address.ip()) {
            entry.numbers.retain(|other| *other != number);
        }
        state.drop_unused(address.ip());
        store(&self.cells[usize::from(number)][HOP], hop_word(None, false));
    }

    /// A change under way will use these addresses: their next hops are looked for already. Returns those that are new.
    pub(crate) fn expect(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut state = lock(&self.state);
        let mut new = Vec::new();
        for addr in addresses {
            if !state.by_address.contains_key(addr) {
                new.push(*addr);
                state.news.insert(*addr);
            }
            state.by_address.entry(*addr).or_default().expected += 1;
        }
        new
    }

    /// The change is written, or given up.
    pub(crate) fn unexpect(&self, addresses: &[IpAddr]) {
        let mut state = lock(&self.state);
        for addr in addresses {
            if let Some(entry) = state.by_address.get_mut(addr) {
                entry.expected = entry.expected.saturating_sub(1);
            }
            state.drop_unused(*addr);
        }
    }

    /// Waits until the next hops of all these addresses are known; returns those that were not known in time.
    pub(crate) fn wait_for_hops(&self, addresses: &[IpAddr], timeout: Duration) -> Vec<IpAddr> {
        let deadline = Instant::now() + timeout;
        let mut unknown = addresses.to_vec();
        let mut state = lock(&self.state);
        loop {
            // Every next hop wakes us: only the last address is looked at each time.
            while unknown.last().is_some_and(|addr| state.is_resolved(*addr)) {
                unknown.pop();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if unknown.is_empty() || left.is_zero() {
                unknown.retain(|addr| !state.is_resolved(*addr));
                return unknown;
            }
            let waited = self.resolved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Addresses that came (true) or went (false) since the last call.
    pub(crate) fn news(&self) -> Vec<(IpAddr, bool)> {
        let mut state = lock(&self.state);
        let news = std::mem::take(&mut state.news);
        news.into_iter()
            .map(|addr| (addr, state.by_address.contains_key(&addr)))
            .collect()
    }

    /// The next hop of an address is known, or has changed.
    pub(crate) fn set_hop(&self, addr: IpAddr, hop: Hop) {
        let mut state = lock(&self.state);
        let Some(entry) = state.by_address.get_mut(&addr) else {
            return;
        };
        entry.hop = Some(hop);
        entry.lost = false;
        self.write_hop(&state, addr);
        drop(state);
        self.resolved.notify_all();
    }

    /// There is no way to an address any more: packets of its sessions are dropped, too.
    pub(crate) fn lose_hop(&self, addr: IpAddr) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.by_address.get_mut(&addr) {
            entry.hop = None;
            entry.lost = true;
            self.write_hop(&state, addr);
        }
    }

    fn write_hop(&self, state: &State, addr: IpAddr) {
        let Some(entry) = state.by_address.get(&addr) else {
            return;
        };
        let hop = entry.hop_in_map();
        let numbers = &entry.numbers;
        for number in numbers {
            if let Some(&(_, accepts)) = state.by_number.get(number) {
                store(
                    &self.cells[usize::from(*number)][HOP],
                    hop_word(hop, accepts),
                );
            }
        }
    }

    fn write_cell(&self, number: u16, address: SocketAddr, hop: Option<Hop>, accepts: bool) {
        let cell = &self.cells[usize::from(number)];
        for (word, value) in cell.iter().zip(address_words(address)) {
            store(word, value);
        }
        store(&cell[HOP], hop_word(hop, accepts));
    }
}

impl Address {
    /// After a loss, sessions have to be told: with [`NOWHERE`] they drop their packets, and with `LINK_NONE` they would
    /// go on to the next hop they have.
    fn hop_in_map(&self) -> Option<Hop> {
        let nowhere = Hop {
            mac: [0; 6],
            link: NOWHERE,
        };
        self.hop.or(self.lost.then_some(nowhere))
    }
}

impl State {
    fn is_resolved(&self, addr: IpAddr) -> bool {
        self.by_address
            .get(&addr)
            .is_some_and(|address| address.hop.is_some())
    }

    fn drop_unused(&mut self, addr: IpAddr) {
        if self
            .by_address
            .get(&addr)
            .is_some_and(|entry| entry.numbers.is_empty() && entry.expected == 0)
        {
            self.by_address.remove(&addr);
            self.news.insert(addr);
        }
    }
}

fn store(word: &AtomicU64, value: u64) {
    word.store(value, Release);
}

/// Address and port, network byte order.
fn address_words(address: SocketAddr) -> [u64; HOP] {
    let octets = octets(address.ip());
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&octets[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    [word(0), word(8), u64::from(address.port().to_be())]
}

/// MAC address, link, flags.
fn hop_word(hop: Option<Hop>, accepts: bool) -> u64 {
    let Hop {
        mac: [a, b, c, d, e, f],
        link,
    } = hop.unwrap_or(Hop {
        mac: [0; 6],
        link: LINK_NONE,
    });
    u64::from_ne_bytes([
        a,
        b,
        c,
        d,
        e,
        f,
        link,
        if accepts { BACKEND_ACCEPTS } else { 0 },
    ])
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, transmute};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::Relaxed;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use weir_l4_common::service::{Backend, mapped};

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn backends() -> Backends {
        let fd = memfd_create(c"weir-backends", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&fd, 4096).unwrap();
        Backends::new(Mapped::new(fd.as_fd(), 128).unwrap())
    }

    fn entry(backends: &Backends, number: usize) -> Backend {
        let words = backends.cells[number]
            .each_ref()
            .map(|word| word.load(Relaxed));
        // SAFETY: same size, and every bit pattern is a backend.
        unsafe { transmute::<[u64; 4], Backend>(words) }
    }

    #[test]
    fn entries_have_the_layout_that_the_program_reads() {
        assert_eq!(offset_of!(Backend, mac), HOP * 8);
        let backends = backends();
        assert_eq!(entry(&backends, 3), Backend::default());
        backends.write(3, "10.0.0.1:8080".parse().unwrap(), true);
        let written = entry(&backends, 3);
        assert_eq!(written.addr, mapped(u32::from_ne_bytes([10, 0, 0, 1])));
        assert_eq!(written.port, 8080u16.to_be());
        assert_eq!((written.link, written.flags), (LINK_NONE, BACKEND_ACCEPTS));
        backends.set_hop(
            IpAddr::from([10, 0, 0, 1]),
            Hop {
                mac: [1, 2, 3, 4, 5, 6],
                link: 7,
            },
        );
        let hopped = entry(&backends, 3);
        assert_eq!(
            (hopped.mac, hopped.link, hopped.flags),
            ([1, 2, 3, 4, 5, 6], 7, BACKEND_ACCEPTS)
        );
        backends.write(3, "10.0.0.1:8080".parse().unwrap(), false);
        assert_eq!(entry(&backends, 3), Backend { flags: 0, ..hopped });
        backends.forget(3);
        assert_eq!(entry(&backends, 3).link, LINK_NONE);
        backends.write(4, "[2001:db8::1]:53".parse().unwrap(), true);
        let written = entry(&backends, 4);
        let words = [0x2001_0db8u32.to_be(), 0, 0, 1u32.to_be()];
        assert_eq!((written.addr, written.port), (words, 53u16.to_be()));
    }

    #[test]
    fn one_address_serves_all_its_backends() {
        let backends = backends();
        let addr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        backends.write(1, SocketAddr::new(addr, 80), true);
        backends.write(2, SocketAddr::new(addr, 81), true);
        assert_eq!(backends.news(), [(addr, true)]);
        backends.set_hop(
            addr,
            Hop {
                mac: [9; 6],
                link: 1,
            },
        );
        assert_eq!((entry(&backends, 1).link, entry(&backends, 2).link), (1, 1));
        backends.forget(1);
        assert_eq!(backends.news(), []);
        backends.write(4, SocketAddr::new(addr, 82), true);
        assert_eq!(
            entry(&backends, 4).mac,
            [9; 6],
            "the next hop is known already"
        );
        backends.forget(2);
        backends.forget(4);
        assert_eq!(backends.news(), [(addr, false)]);
    }

    #[test]
    fn a_lost_next_hop_leads_nowhere_until_there_is_one_again() {
        let backends = backends();
        let addr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let hop = Hop {
            mac: [9; 6],
            link: 1,
        };
        backends.write(1, SocketAddr::new(addr, 80), true);
        backends.set_hop(addr, hop);
        backends.lose_hop(addr);
        let lost = entry(&backends, 1);
        assert_eq!((lost.link, lost.flags), (NOWHERE, BACKEND_ACCEPTS));
        assert_eq!(backends.wait_for_hops(&[addr], NOW), [addr]);
        backends.write(2, SocketAddr::new(addr, 81), true);
        assert_eq!(entry(&backends, 2).link, NOWHERE);
        backends.set_hop(addr, hop);
        assert_eq!((entry(&backends, 1).link, entry(&backends, 2).link), (1, 1));
    }

    #[test]
    fn a_change_waits_for_the_next_hops_of_new_addresses() {
        let backends = backends();
        let addr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
        assert_eq!(backends.expect(&[addr]), [addr]);
        assert_eq!(backends.news(), [(addr, true)]);
        assert_eq!(backends.wait_for_hops(&[addr], NOW), [addr]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| backends.wait_for_hops(&[addr], Duration::from_secs(10)));
            backends.set_hop(
                addr,
                Hop {
                    mac: [9; 6],
                    link: 1,
                },
            );
            assert!(waiting.join().unwrap().is_empty());
        });
        backends.unexpect(&[addr]);
        assert_eq!(backends.news(), [(addr, false)], "the change was given up");
    }
}

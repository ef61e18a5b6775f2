//! Which backend gets a new session, where that depends on those that are there.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use weir_l4_common::client::{self, CONFIRMED, Pool};
use weir_l4_common::env::Verdict;
use weir_l4_common::load::SCAN_MAX;
use weir_l4_common::service::{BACKEND_ACCEPTS, Backend, Mode, PERSISTENT, Pick, mapped};
use weir_l4_machine::machine::{BACKEND, LB_MAC, Machine, OTHER_MAC, VIP, be};

const BACKENDS: u16 = 4;
const POOL: u32 = 3;
/// The hash of the pool's name.
const NAME: u64 = 0x1234_5678_9abc_def0;
const TIMEOUT: u32 = 500;

/// Direct routing to backends 1 to 4, which are told by their MAC addresses.
fn machine(pick: u8, weights: [u32; BACKENDS as usize]) -> Machine {
    let mut machine = Machine::new(4096, Mode::Dr);
    machine.slots.clear();
    for (number, weight) in (1..).zip(weights) {
        let backend = Backend {
            addr: mapped(be(BACKEND)),
            port: 80u16.to_be(),
            zero: [0; 3],
            mac: mac(number),
            link: 1,
            flags: BACKEND_ACCEPTS,
        };
        machine.backends.insert(number, backend);
        let load = machine.loads[usize::from(number)].get_mut();
        (load.weight, load.pool) = (weight, NAME);
        let turns = if pick == Pick::LeastLoaded as u8 {
            1
        } else {
            weight
        };
        for _ in 0..turns {
            machine.slots.push(number);
        }
    }
    let len = machine.slots.len() as u32;
    for listener in machine.listeners.values_mut() {
        (listener.pick, listener.table_len, listener.pool) = (pick, len, POOL);
    }
    machine.pool = Pool {
        timeout: TIMEOUT,
        mask4: u32::from_ne_bytes([255, 255, 255, 0]),
        mask6: [u32::MAX, u32::MAX, 0, 0],
        name: NAME,
    };
    machine
}

fn mac(number: u16) -> [u8; 6] {
    [2, 0, 0, 0, 3, number as u8]
}

/// A datagram to the VIP; the backend that it goes to.
fn ask(machine: &Machine, client: Ipv4Addr, port: u16) -> u16 {
    let mut frame = [&LB_MAC[..], &OTHER_MAC, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(client.octets());
    frame.extend(VIP.octets());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 8, 0, 0]);
    let (verdict, sent) = machine.run(&frame);
    assert!(matches!(verdict, Verdict::Redirect(_)), "{verdict:?}");
    u16::from(sent[5])
}

fn client(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, last, 7)
}

fn sessions(machine: &Machine) -> Vec<u32> {
    // SAFETY: nothing runs while the test looks.
    let load = |number: u16| unsafe { &*machine.loads[usize::from(number)].get() };
    (1..=BACKENDS)
        .map(|number| load(number).sessions.load(Relaxed))
        .collect()
}

fn set_sessions(machine: &Machine, number: u16, sessions: u32) {
    // SAFETY: nothing runs while the test writes.
    let load = unsafe { &*machine.loads[usize::from(number)].get() };
    load.sessions.store(sessions, Relaxed);
}

#[test]
fn the_least_loaded_gets_the_next_session() {
    let machine = machine(Pick::LeastLoaded as u8, [100; 4]);
    for (number, sessions) in (1..).zip([7, 3, 9, 5]) {
        set_sessions(&machine, number, sessions);
    }
    assert!((1..=2).all(|port| ask(&machine, client(1), port) == 2));
    let to: Vec<u16> = (3..=12)
        .map(|port| ask(&machine, client(1), port))
        .collect();
    assert!(!to.contains(&3), "{to:?}");
    assert_eq!(sessions(&machine), [9, 9, 9, 9]);
}

#[test]
fn weights_say_how_much_each_can_bear() {
    let machine = machine(Pick::LeastLoaded as u8, [400, 200, 100, 100]);
    for port in 1..=800 {
        ask(&machine, client(1), port);
    }
    assert_eq!(sessions(&machine), [400, 200, 100, 100]);
    let machine = self::machine(Pick::TwoChoices as u8, [4, 2, 1, 1]);
    for port in 1..=800 {
        ask(&machine, client(1), port);
    }
    for (sessions, share) in sessions(&machine).into_iter().zip([400, 200, 100, 100]) {
        assert!(sessions.abs_diff(share) <= 12, "{sessions} of {share}");
    }
}

#[test]
fn equal_ones_are_taken_as_it_falls() {
    let machine = machine(Pick::LeastLoaded as u8, [100; 4]);
    let mut firsts = [0u32; 4];
    for port in 1..=400 {
        (1..=BACKENDS).for_each(|number| set_sessions(&machine, number, 0));
        firsts[usize::from(ask(&machine, client(1), port) - 1)] += 1;
    }
    assert!(firsts.iter().all(|count| *count > 60), "{firsts:?}");
}

#[test]
fn two_choices_never_take_the_heavier() {
    let machine = machine(Pick::TwoChoices as u8, [1; 4]);
    set_sessions(&machine, 2, 1_000_000);
    let to_it = (1..=1000).filter(|port| ask(&machine, client(1), *port) == 2);
    // Both draws have to fall on it: one in sixteen.
    let count = to_it.count();
    assert!((30..100).contains(&count), "{count}");
}

#[test]
fn a_pool_larger_than_the_search_is_searched_from_anywhere() {
    let mut machine = machine(Pick::LeastLoaded as u8, [100; 4]);
    machine.slots = vec![1; 10 * SCAN_MAX as usize];
    machine.slots[300] = 2;
    for listener in machine.listeners.values_mut() {
        listener.table_len = machine.slots.len() as u32;
    }
    set_sessions(&machine, 1, 1_000_000);
    let found = (1..=1000).filter(|port| ask(&machine, client(1), *port) == 2);
    let count = found.count();
    assert!((60..140).contains(&count), "one in ten: {count}");
}

fn persistent(pick: Pick) -> u8 {
    pick as u8 | PERSISTENT
}

#[test]
fn a_client_comes_back_to_its_backend_until_the_timeout() {
    let machine = machine(persistent(Pick::Next), [1; 4]);
    let first = ask(&machine, client(1), 1);
    for port in 2..20 {
        machine.jiffies.set(machine.jiffies.get() + TIMEOUT - 1);
        assert_eq!(
            ask(&machine, client(1), port),
            first,
            "each session counts anew"
        );
    }
    assert_ne!(ask(&machine, client(2), 1), first, "the next one's turn");
    let neighbour = Ipv4Addr::new(198, 51, 1, 200);
    assert_eq!(ask(&machine, neighbour, 1), first, "the same prefix");
    machine.jiffies.set(machine.jiffies.get() + TIMEOUT);
    assert_ne!(ask(&machine, client(1), 20), first, "forgotten");
}

#[test]
fn a_backend_that_takes_nothing_new_loses_its_clients() {
    let mut machine = machine(persistent(Pick::Next), [1; 4]);
    let first = ask(&machine, client(1), 1);
    machine.backends.get_mut(&first).unwrap().flags = 0;
    machine.slots.retain(|number| *number != first);
    for listener in machine.listeners.values_mut() {
        listener.table_len = 3;
    }
    let second = ask(&machine, client(1), 2);
    assert_ne!(second, first);
    machine.backends.get_mut(&first).unwrap().flags = BACKEND_ACCEPTS;
    assert_eq!(
        ask(&machine, client(1), 3),
        second,
        "and does not get them back"
    );
}

#[test]
fn a_number_that_is_another_pools_now_is_not_used() {
    let mut machine = machine(persistent(Pick::Next), [1; 4]);
    let first = ask(&machine, client(1), 1);
    machine.loads[usize::from(first)].get_mut().pool = NAME + 1;
    assert_ne!(ask(&machine, client(1), 2), first);
}

#[test]
fn persistence_goes_before_the_load() {
    let machine = machine(persistent(Pick::LeastLoaded), [100; 4]);
    let first = ask(&machine, client(1), 1);
    set_sessions(&machine, first, 1000);
    assert_eq!(ask(&machine, client(1), 2), first);
    assert_ne!(ask(&machine, client(2), 1), first);
    assert_eq!(sessions(&machine).iter().sum::<u32>(), 1000 + 2);
}

#[test]
fn a_flood_of_addresses_forgets_none_with_a_confirmed_session() {
    let machine = machine(persistent(Pick::Next), [1; 4]);
    let known: Vec<u16> = (0..4).map(|last| ask(&machine, client(last), 1)).collect();
    for set in &machine.clients {
        // SAFETY: nothing runs while the test writes: what user space does for live sessions.
        for client in unsafe { &(*set.get()).clients } {
            client.word.fetch_or(CONFIRMED, Relaxed);
        }
    }
    for forged in 0..2000u32 {
        ask(&machine, Ipv4Addr::from(0x0a00_0000 + (forged << 8)), 9);
    }
    for (last, backend) in known.into_iter().enumerate() {
        assert_eq!(ask(&machine, client(last as u8), 2), backend);
    }
}

proptest! {
    #[test]
    fn words_keep_what_they_are_made_of(expires: u32, backend: u16, now: u32) {
        let word = client::word(expires, backend);
        prop_assert_eq!(client::backend(word), backend);
        prop_assert_eq!(client::backend(word | CONFIRMED), backend);
        let left = expires.wrapping_sub(now);
        prop_assert_eq!(client::is_over(word, now), left == 0 || left > u32::MAX / 2);
    }
}

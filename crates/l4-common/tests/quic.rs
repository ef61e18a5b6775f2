//! Datagrams of QUIC: a client that comes from another address finds its backend by the connection id.
#![allow(clippy::unwrap_used)]

use weir_l4_common::quic::{QuicConfig, QuicServerKey, config_key};
use weir_l4_common::service::{BACKEND_ACCEPTS, Backend, Mode, mapped};
use weir_l4_machine::Machine;
use weir_l4_machine::machine::{BACKEND, LB_MAC, VIP, be};
use weir_l4_machine::wire::{CLIENT_MAC, Ip, UDP, frame};

const POOL: u16 = 9;
const BACKENDS: u16 = 3;
const CONFIG: u8 = 2;
const NONCE: [u8; 5] = [9, 8, 7, 6, 5];

fn mac(number: u16) -> [u8; 6] {
    [2, 0, 0, 0, 3, number as u8]
}

/// What the server with this number calls itself.
fn server_id(number: u16) -> [u8; 3] {
    [0xa0, 0, number as u8]
}

/// Direct routing in turn to backends that are told by their MAC addresses.
fn machine() -> Machine {
    let mut machine = Machine::new(64, Mode::Dr);
    machine.slots = (1..=BACKENDS).collect();
    for number in 1..=BACKENDS {
        let backend = Backend {
            addr: mapped(be(BACKEND)),
            port: 80u16.to_be(),
            zero: [0; 3],
            mac: mac(number),
            link: 1,
            flags: BACKEND_ACCEPTS,
        };
        machine.backends.insert(number, backend);
        let key = QuicServerKey::new(POOL, &server_id(number));
        machine.quic_servers.insert(key, number);
    }
    for listener in machine.listeners.values_mut() {
        (listener.table_base, listener.table_len) = (0, BACKENDS.into());
        (listener.pool, listener.quic) = (POOL.into(), 1);
    }
    let config = QuicConfig::new(3, NONCE.len() as u8, None);
    machine
        .quic_configs
        .insert(config_key(POOL, CONFIG), config);
    machine
}

/// An id of the server with this number.
fn id(config: u8, number: u16) -> Vec<u8> {
    [&[config << 5 | 8][..], &server_id(number), &NONCE].concat()
}

/// A packet with a short header, and one with a long header.
fn short(id: &[u8]) -> Vec<u8> {
    [&[0x40][..], id, &[0x55; 24]].concat()
}

fn long(id: &[u8]) -> Vec<u8> {
    let head = [0xc0, 0, 0, 0, 1, id.len() as u8];
    [&head[..], id, &[0x55; 24]].concat()
}

/// The backend that a datagram from this port goes to.
fn backend(machine: &Machine, port: u16, fragment: Option<(u16, u16)>, payload: &[u8]) -> u16 {
    let client = std::net::Ipv4Addr::new(198, 51, 100, 7);
    let ip = Ip {
        fragment,
        ..Ip::new(client, VIP, UDP)
    };
    let packet = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(port, 80, payload)));
    let (_, out) = machine.run(&packet);
    u16::from(out[5])
}

#[test]
fn a_connection_stays_at_its_backend_when_the_clients_address_changes() {
    let machine = machine();
    for number in 1..=BACKENDS {
        for (port, packet) in [
            (1000, short(&id(CONFIG, number))),
            (2000, long(&id(CONFIG, number))),
        ] {
            for port in port..port + 7 {
                let port = port + number * 100;
                assert_eq!(backend(&machine, port, None, &packet), number);
                // From there on the session is what counts.
                let other = short(&id(CONFIG, number % BACKENDS + 1));
                assert_eq!(backend(&machine, port, None, &other), number);
            }
        }
    }
}

#[test]
fn the_first_fragment_has_the_connection_id() {
    let machine = machine();
    for number in 1..=BACKENDS {
        let packet = [short(&id(CONFIG, number)), vec![0; 38]].concat();
        assert_eq!(packet.len() % 8, 0);
        let first = Some((number, 0x2000));
        assert_eq!(backend(&machine, 1000 + number, first, &packet), number);
    }
}

#[test]
fn a_connection_goes_on_at_a_backend_that_takes_nothing_new() {
    let mut machine = machine();
    for listener in machine.listeners.values_mut() {
        listener.table_len = 0;
    }
    for entry in machine.backends.values_mut() {
        entry.flags = 0;
    }
    assert_eq!(backend(&machine, 1000, None, &short(&id(CONFIG, 2))), 2);
}

#[test]
fn ids_that_say_nothing_are_scheduled() {
    let machine = machine();
    let unknown = server_id(77);
    let strangers = [
        short(&id(CONFIG + 1, 2)),
        short(&id(7, 2)),
        short(&[&[CONFIG << 5][..], &unknown, &NONCE].concat()),
        long(&id(CONFIG, 2)[..8]),
        long(&[]),
        short(&id(CONFIG, 2))[..20].to_vec(),
        vec![0x40],
        Vec::new(),
    ];
    for (case, packet) in strangers.iter().enumerate() {
        let turns: Vec<u16> = (0..BACKENDS)
            .map(|port| backend(&machine, 1000 + case as u16 * 10 + port, None, packet))
            .collect();
        let mut each = turns.clone();
        each.sort_unstable();
        assert_eq!(each, [1, 2, 3], "{turns:?} for {packet:02x?}");
    }
}

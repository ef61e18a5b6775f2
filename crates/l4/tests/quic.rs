//! QUIC by connection id through the program in the kernel: ids in clear, and encrypted in one pass and in four.
#![allow(clippy::unwrap_used)]

mod rig;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rig::{
    BACKEND, BACKEND_MAC, BACKEND6, CLIENT, CLIENT6, Packet, Rig, VIP, VIP6, privileged, words,
};
use weir_l4_common::quic::QuicConfig;
use weir_l4_common::service::{BACKEND_ACCEPTS, Backend, Listener, Mode, Pick};

const POOL: u16 = 5;
/// The key of the draft's appendix B.
const KEY: [u8; 16] = 0x8f95_f092_4576_5f80_2569_34e5_0c66_207f_u128.to_be_bytes();

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Connection ids of the draft's appendix B: of whom, how long the nonce is, and whether they are encrypted.
const IDS: [(&str, &str, u8, bool); 5] = [
    ("07c4605e4504cc4f", "c4605e", 4, false),
    ("0720b1d07b359d3c", "ed793a", 4, true),
    (
        "2fcc381bc74cb4fbad2823a3d1f8fed2",
        "ed793a51d49b8f5fab65",
        5,
        true,
    ),
    (
        "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
        "ed793a51d49b8f5f",
        8,
        true,
    ),
    (
        "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
        "ed793a51d49b8f5fab",
        9,
        true,
    ),
];

#[test]
fn clients_that_change_their_address_stay_at_their_backend() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(1024);
    let mac = |number: u16| [BACKEND_MAC[0], 0, 0, 0, 9, number as u8];
    // What is scheduled goes to the first of each family.
    let families: [(IpAddr, IpAddr, u16); 2] = [
        (VIP.into(), BACKEND.into(), 0),
        (VIP6.into(), BACKEND6.into(), 10),
    ];
    for (vip, addr, first) in families {
        rig.tunnel = Listener {
            pool: u32::from(POOL + first),
            quic: 1,
            ..Listener::default()
        };
        for number in 1..=3 {
            let backend = Backend {
                addr: words(addr),
                port: 443u16.to_be(),
                mac: mac(first + number),
                link: 1,
                flags: BACKEND_ACCEPTS,
                ..Backend::default()
            };
            rig.backend(first + number, backend);
        }
        let id = 1 + first;
        rig.listener_on(vip, id, 443, 17, Mode::Dr, Pick::Next, &[1 + first]);
    }
    for (case, (id, server, nonce_len, encrypted)) in (0u16..).zip(IDS) {
        let (id, server) = (bytes(id), bytes(server));
        let key = encrypted.then_some(KEY);
        let config = QuicConfig::new(server.len() as u8, nonce_len, key);
        let payload = [&[0x40][..], &id, &[0x77; 30]].concat();
        // Another server, whom nobody knows.
        let mut unknown = payload.clone();
        unknown[2] ^= 1;
        for (vip, _, first) in families {
            let number = first + 2 + case % 2;
            rig.quic(POOL + first, id[0] >> 5, config, &server, number);
            let mut goes_to = |address: u16, port: u16, payload: &[u8]| -> [u8; 6] {
                let client: IpAddr = match vip {
                    IpAddr::V4(_) => Ipv4Addr::from(u32::from(CLIENT) + u32::from(address)).into(),
                    IpAddr::V6(_) => {
                        Ipv6Addr::from(u128::from(CLIENT6) + u128::from(address)).into()
                    }
                };
                let packet = Packet {
                    payload: payload.to_vec(),
                    ..Packet::udp((client, port), (vip, 443))
                };
                rig.run(&packet.bytes()).packet[..6].try_into().unwrap()
            };
            let port = 1000 + case * 10;
            // From another address, from another port, from both.
            for (address, port) in [(0, port), (1, port), (0, port + 1), (2, port + 2)] {
                let found = goes_to(address, port, &payload);
                assert_eq!(found, mac(number), "{vip} {id:02x?}");
                // From there on the session is what counts.
                let found = goes_to(address, port, &unknown);
                assert_eq!(found, mac(number), "{vip} {id:02x?}");
            }
            let found = goes_to(0, 30_000 + case, &unknown);
            assert_eq!(found, mac(first + 1), "{vip} {id:02x?}");
        }
    }
}

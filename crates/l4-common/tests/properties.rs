//! What holds for every packet: there and back gives the packet back, every checksum equals the full computation,
//! and what is not ours is not touched.
#![allow(clippy::unwrap_used)]

mod machine;

use std::collections::HashSet;
use std::net::Ipv4Addr;

use machine::{BACKEND, BACKEND_MAC, EGRESS, LB_MAC, LOCAL, Machine, OTHER_MAC, VIP};
use proptest::collection::vec;
use proptest::prelude::*;
use weir_l4_common::checksum;
use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::forward::OUTER_LEN;
use weir_l4_common::service::Mode;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SYN: u8 = 2;

/// A packet from a client to a listener.
#[derive(Clone, Debug)]
struct Request {
    client: Ipv4Addr,
    port: u16,
    udp: bool,
    ttl: u8,
    tos: u8,
    payload: Vec<u8>,
    checksum: bool,
}

fn request() -> impl Strategy<Value = Request> {
    let client = (1u8..224, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d));
    (
        client,
        any::<u16>(),
        any::<bool>(),
        2u8..,
        any::<u8>(),
        vec(any::<u8>(), 0..64),
        any::<bool>(),
    )
        .prop_map(|(client, port, udp, ttl, tos, payload, checksum)| Request {
            client,
            port,
            udp,
            ttl,
            tos,
            payload,
            checksum,
        })
}

/// A frame with every length and checksum computed in full.
fn frame(
    request: &Request,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    flags: u8,
    ttl: u8,
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(src.1.to_be_bytes());
    l4.extend(dst.1.to_be_bytes());
    let at = if request.udp {
        l4.extend((8 + request.payload.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
        6
    } else {
        l4.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        16
    };
    l4.extend(&request.payload);
    let proto = if request.udp { 17 } else { 6 };
    if !request.udp || request.checksum {
        let mut pseudo = Vec::new();
        pseudo.extend(src.0.octets());
        pseudo.extend(dst.0.octets());
        pseudo.extend([0, proto]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        let mut sum = !checksum::fold(checksum::sum(&pseudo) + checksum::sum(&l4));
        if sum == 0 && request.udp {
            sum = 0xffff;
        }
        l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    let mut ip = vec![0x45, request.tos];
    ip.extend((20 + l4.len() as u16).to_be_bytes());
    ip.extend([0x12, 0x34, 0x40, 0, ttl, proto, 0, 0]);
    ip.extend(src.0.octets());
    ip.extend(dst.0.octets());
    let sum = !checksum::fold(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    [&LB_MAC[..], &CLIENT_MAC, &[8, 0], &ip, &l4].concat()
}

fn with_macs(mut frame: Vec<u8>, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame
}

/// TCP's checksum may be 0 or all ones for the same sum; frames are compared with that set alike.
fn normal(mut frame: Vec<u8>, request: &Request) -> Vec<u8> {
    if !request.udp && frame[50..52] == [0xff, 0xff] {
        frame[50..52].fill(0);
    }
    if frame[24..26] == [0xff, 0xff] {
        frame[24..26].fill(0);
    }
    frame
}

proptest! {
    #[test]
    fn there_and_back_gives_the_packet_back(request in request(), fullnat in any::<bool>()) {
        let machine = Machine::new(64, if fullnat { Mode::Fullnat } else { Mode::Nat });
        let client = (request.client, request.port);
        let (verdict, out) = machine.run(&frame(&request, client, (VIP, 80), SYN, request.ttl));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let source = if fullnat { (LOCAL, u16::from_be_bytes([out[34], out[35]])) } else { client };
        prop_assert!(!fullnat || source.1 >= 1024);
        let expected = frame(&request, source, (BACKEND, 8080), SYN, request.ttl - 1);
        let expected = with_macs(expected, BACKEND_MAC, OTHER_MAC);
        prop_assert_eq!(normal(out, &request), normal(expected, &request));

        let (verdict, out) = machine.run(&frame(&request, (BACKEND, 8080), source, SYN | 16, request.ttl));
        prop_assert_eq!(verdict, Verdict::Transmit);
        let expected = frame(&request, (VIP, 80), client, SYN | 16, request.ttl - 1);
        prop_assert_eq!(normal(out, &request), normal(with_macs(expected, CLIENT_MAC, LB_MAC), &request));
    }

    #[test]
    fn direct_routing_leaves_the_packet_as_it_is(request in request()) {
        let machine = Machine::new(64, Mode::Dr);
        let (verdict, out) = machine.run(&frame(&request, (request.client, request.port), (VIP, 80), SYN, request.ttl));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let expected = frame(&request, (request.client, request.port), (VIP, 80), SYN, request.ttl - 1);
        let expected = with_macs(expected, BACKEND_MAC, OTHER_MAC);
        prop_assert_eq!(normal(out, &request), normal(expected, &request));
    }

    #[test]
    fn tunnels_carry_the_packet_as_it_is(request in request()) {
        let machine = Machine::new(64, Mode::Tunnel);
        let (verdict, out) = machine.run(&frame(&request, (request.client, request.port), (VIP, 80), SYN, request.ttl));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let outer = &out[14..14 + OUTER_LEN];
        prop_assert_eq!(checksum::fold(checksum::sum(outer)), 0xffff);
        prop_assert_eq!(usize::from(u16::from_be_bytes([outer[2], outer[3]])), out.len() - 14);
        prop_assert_eq!((outer[1], outer[9]), (request.tos, 4));
        prop_assert_eq!(&outer[12..16], LOCAL.octets());
        prop_assert_eq!(&outer[16..20], BACKEND.octets());
        let inner = frame(&request, (request.client, request.port), (VIP, 80), SYN, request.ttl - 1);
        prop_assert_eq!(normal([&out[..14], &out[34..]].concat(), &request), normal(with_macs(inner, BACKEND_MAC, OTHER_MAC), &request));
    }

    #[test]
    fn nothing_foreign_is_touched(bytes in vec(any::<u8>(), 0..200), ip in any::<bool>()) {
        let machine = Machine::new(64, Mode::Fullnat);
        let mut bytes = bytes;
        if ip && bytes.len() > 34 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        }
        let (verdict, out) = machine.run(&bytes);
        prop_assert!(matches!(verdict, Verdict::Pass | Verdict::Drop));
        prop_assert_eq!(out, bytes);
        prop_assert!(machine.flows().is_empty());
    }

    /// Mutated requests: whatever happens, a packet that leaves has checksums that are right if they came in right.
    #[test]
    fn damage_is_never_forwarded_as_something_else(
        request in request(),
        at in 12usize..60,
        value in any::<u8>(),
        cut in 0usize..100,
    ) {
        let machine = Machine::new(64, Mode::Fullnat);
        let mut bytes = frame(&request, (request.client, request.port), (VIP, 80), SYN, request.ttl);
        if at < bytes.len() {
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let (verdict, out) = machine.run(&bytes);
        match verdict {
            Verdict::Pass | Verdict::Drop => prop_assert_eq!(out, bytes),
            Verdict::Transmit => prop_assert!(out[23] == 1, "only ping is answered"),
            Verdict::Redirect(_) => {
                let whole = |frame: &[u8]| checksum::fold(checksum::sum(&frame[14..34])) == 0xffff;
                prop_assert_eq!(whole(&out), whole(&bytes), "IP checksum");
            }
        }
    }
}

#[test]
fn no_two_sessions_share_a_local_port_towards_a_backend() {
    let machine = Machine::new(4096, Mode::Fullnat);
    let mut opened = 0;
    for n in 0..4000u32 {
        let request = Request {
            client: Ipv4Addr::from(0x6440_0000 + n / 8),
            port: (1000 + n % 8) as u16,
            udp: n % 3 == 0,
            ttl: 64,
            tos: 0,
            payload: Vec::new(),
            checksum: true,
        };
        let (verdict, _) = machine.run(&frame(
            &request,
            (request.client, request.port),
            (VIP, 80),
            SYN,
            64,
        ));
        assert_eq!(verdict, Verdict::Redirect(EGRESS));
        opened += 1;
    }
    let flows = machine.flows();
    assert_eq!(flows.len(), 2 * opened);
    assert_eq!(
        flows.iter().collect::<HashSet<_>>().len(),
        flows.len(),
        "every flow has one line"
    );
}

#[test]
fn the_last_free_port_is_never_given_twice() {
    let machine = Machine::new(65_536, Mode::Fullnat);
    let mut ports = HashSet::new();
    let mut refused = 0u32;
    for n in 0..70_000u32 {
        let request = Request {
            client: Ipv4Addr::from(0x6440_0000 + n / 16),
            port: (1000 + n % 16) as u16,
            udp: true,
            ttl: 64,
            tos: 0,
            payload: Vec::new(),
            checksum: false,
        };
        let (verdict, out) = machine.run(&frame(
            &request,
            (request.client, request.port),
            (VIP, 80),
            0,
            64,
        ));
        match verdict {
            Verdict::Redirect(_) => {
                assert!(ports.insert([out[34], out[35]]), "a port in use was taken");
            }
            _ => refused += 1,
        }
    }
    assert!(refused >= 70_000 - 64_512);
    assert!(
        machine
            .drops
            .borrow()
            .iter()
            .all(|reason| *reason == Drop::PortsExhausted)
    );
    assert!(
        ports.len() > 60_000,
        "{} ports of 64,512 in use",
        ports.len()
    );
}

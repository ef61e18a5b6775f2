//! What holds for every packet: there and back gives the packet back, every checksum equals the full computation,
//! and what is not ours is not touched.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use weir_l4_common::checksum;
use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::event::EventKind;
use weir_l4_common::hash;
use weir_l4_common::service::Mode;
use weir_l4_machine::machine::{BACKEND_MAC, EGRESS, LB_MAC, Machine, OTHER_MAC, addresses};
use weir_l4_machine::wire::{self, Ip};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SYN: u8 = 2;

/// A packet from a client to a listener.
#[derive(Clone, Debug)]
struct Request {
    client: IpAddr,
    port: u16,
    udp: bool,
    hops: u8,
    class: u8,
    payload: Vec<u8>,
    checksum: bool,
}

impl Request {
    /// VIP, local address and backend of its family.
    fn addresses(&self) -> [IpAddr; 3] {
        addresses(self.client.is_ipv6())
    }

    fn client(&self) -> (IpAddr, u16) {
        (self.client, self.port)
    }

    /// Where the header behind IP begins in a frame.
    fn l4_at(&self) -> usize {
        14 + if self.client.is_ipv6() { 40 } else { 20 }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let v4 = (1u8..224, any::<[u8; 3]>())
        .prop_map(|(a, [b, c, d])| IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    let v6 = any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        IpAddr::V6(Ipv6Addr::from(octets))
    });
    (
        prop_oneof![v4, v6],
        any::<u16>(),
        any::<bool>(),
        2u8..,
        any::<u8>(),
        vec(any::<u8>(), 0..64),
        any::<bool>(),
    )
        .prop_map(
            |(client, port, udp, hops, class, payload, checksum)| Request {
                client,
                port,
                udp,
                hops,
                class,
                payload,
                // A datagram of IPv6 always has one.
                checksum: checksum || client.is_ipv6(),
            },
        )
}

/// Both directions of a FullNAT session come to one core, but for those at the edge of two
/// cores' parts of the table.
#[test]
fn requests_and_answers_come_to_one_core() {
    const SESSIONS: u32 = 1000;
    for cores in [2, 7, 64] {
        let machine = Machine::new(1024, Mode::Fullnat);
        let (mut together, mut used) = (0, HashSet::new());
        for n in 0..SESSIONS {
            let request = Request {
                client: IpAddr::V4(Ipv4Addr::from(0x6440_0000 + n * 256 + cores)),
                port: 40_000,
                udp: n % 2 == 0,
                hops: 64,
                class: 0,
                payload: Vec::new(),
                checksum: true,
            };
            let [vip, ..] = request.addresses();
            let sent = frame(&request, request.client(), (vip, 80), SYN, 64);
            let (_, forwarded) = machine.run(&sent);
            let part = |at: usize| u16::from_be_bytes([forwarded[at], forwarded[at + 1]]);
            let address = |at: usize| {
                IpAddr::V4(Ipv4Addr::from(
                    <[u8; 4]>::try_from(&forwarded[at..at + 4]).unwrap(),
                ))
            };
            let (local, backend) = ((address(26), part(34)), (address(30), part(36)));
            let answer = frame(&request, backend, local, 0x12, 64);
            let core = |frame: &[u8]| hash::core(machine.spread(frame).unwrap(), cores);
            together += u32::from(core(&sent) == core(&answer));
            used.insert(core(&sent));
        }
        assert!(
            together >= SESSIONS * 9 / 10,
            "{together} with {cores} cores"
        );
        assert_eq!(used.len(), cores as usize);
    }
}

/// Fragments of a datagram, whether they have ports or not, come to one core; what is neither IPv4 nor IPv6 to none.
#[test]
fn fragments_of_a_datagram_come_to_one_core() {
    let machine = Machine::new(64, Mode::Fullnat);
    for (src, dst) in [
        (IpAddr::from([100, 64, 0, 1]), addresses(false)[0]),
        ("2001:db8:1::1".parse().unwrap(), addresses(true)[0]),
    ] {
        let hash = |fragment| {
            let mut ip = Ip::new(src, dst, 17);
            ip.fragment = fragment;
            machine.spread(&wire::frame(LB_MAC, CLIENT_MAC, &ip.with(&[7; 64])))
        };
        let whole = hash(None);
        let first = hash(Some((9, 0x2000)));
        assert!(whole.is_some() && first.is_some() && whole != first);
        assert_eq!(hash(Some((9, 8))), first);
    }
    // Behind tags as well, there by the addresses alone.
    let ip = Ip::new([100, 64, 0, 1], addresses(false)[0], 17).with(&[7; 64]);
    let frame = wire::frame(LB_MAC, CLIENT_MAC, &ip);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]] {
        let tagged = [&frame[..12], tags, &frame[12..]].concat();
        assert!(machine.spread(&tagged).is_some());
    }
    assert_eq!(machine.spread(&[0; 60]), None);
    assert_eq!(machine.spread(&[0; 10]), None);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A frame with every length and checksum computed in full.
fn frame(
    request: &Request,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    flags: u8,
    hops: u8,
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
        let mut pseudo = [octets(src.0), octets(dst.0)].concat();
        pseudo.extend([0, proto]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        let mut sum = !checksum::fold(checksum::sum(&pseudo) + checksum::sum(&l4));
        if sum == 0 && request.udp {
            sum = 0xffff;
        }
        l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    let mut ip = Vec::new();
    let ethertype = if src.0.is_ipv6() {
        ip.extend([
            0x60 | request.class >> 4,
            request.class << 4 | 0xa,
            0xbc,
            0xde,
        ]);
        ip.extend((l4.len() as u16).to_be_bytes());
        ip.extend([proto, hops]);
        [0x86, 0xdd]
    } else {
        ip.extend([0x45, request.class]);
        ip.extend((20 + l4.len() as u16).to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, hops, proto, 0, 0]);
        [8, 0]
    };
    ip.extend(octets(src.0));
    ip.extend(octets(dst.0));
    if src.0.is_ipv4() {
        let sum = !checksum::fold(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
    [&LB_MAC[..], &CLIENT_MAC, &ethertype, &ip, &l4].concat()
}

fn with_macs(mut frame: Vec<u8>, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame
}

/// TCP's checksum may be 0 or all ones for the same sum; frames are compared with that set alike.
fn normal(mut frame: Vec<u8>, request: &Request) -> Vec<u8> {
    let at = request.l4_at();
    if !request.udp && frame[at + 16..at + 18] == [0xff, 0xff] {
        frame[at + 16..at + 18].fill(0);
    }
    if request.client.is_ipv4() && frame[24..26] == [0xff, 0xff] {
        frame[24..26].fill(0);
    }
    frame
}

proptest! {
    #[test]
    fn there_and_back_gives_the_packet_back(request in request(), fullnat in any::<bool>()) {
        let machine = Machine::new(64, if fullnat { Mode::Fullnat } else { Mode::Nat });
        let ([vip, local, backend], client) = (request.addresses(), request.client());
        let (verdict, out) = machine.run(&frame(&request, client, (vip, 80), SYN, request.hops));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let at = request.l4_at();
        let source = if fullnat { (local, u16::from_be_bytes([out[at], out[at + 1]])) } else { client };
        prop_assert!(!fullnat || source.1 >= 1024);
        let expected = frame(&request, source, (backend, 8080), SYN, request.hops - 1);
        let expected = with_macs(expected, BACKEND_MAC, OTHER_MAC);
        prop_assert_eq!(normal(out, &request), normal(expected, &request));

        let (verdict, out) = machine.run(&frame(&request, (backend, 8080), source, SYN | 16, request.hops));
        prop_assert_eq!(verdict, Verdict::Transmit);
        let expected = frame(&request, (vip, 80), client, SYN | 16, request.hops - 1);
        prop_assert_eq!(normal(out, &request), normal(with_macs(expected, CLIENT_MAC, LB_MAC), &request));
    }

    #[test]
    fn direct_routing_leaves_the_packet_as_it_is(request in request()) {
        let machine = Machine::new(64, Mode::Dr);
        let (verdict, out) = machine.run(&frame(&request, request.client(), (request.addresses()[0], 80), SYN, request.hops));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let expected = frame(&request, request.client(), (request.addresses()[0], 80), SYN, request.hops - 1);
        let expected = with_macs(expected, BACKEND_MAC, OTHER_MAC);
        prop_assert_eq!(normal(out, &request), normal(expected, &request));
    }

    #[test]
    fn tunnels_carry_the_packet_as_it_is(request in request()) {
        let machine = Machine::new(64, Mode::Tunnel);
        let [vip, local, backend] = request.addresses();
        let (verdict, out) = machine.run(&frame(&request, request.client(), (vip, 80), SYN, request.hops));
        prop_assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let outer_len = request.l4_at() - 14;
        let outer = &out[14..14 + outer_len];
        let addresses = [octets(local), octets(backend)].concat();
        prop_assert_eq!(&outer[outer_len - addresses.len()..], &addresses);
        let len = |at: usize| usize::from(u16::from_be_bytes([outer[at], outer[at + 1]]));
        if request.client.is_ipv6() {
            prop_assert_eq!(len(4), out.len() - 14 - 40);
            prop_assert_eq!((outer[6], outer[7]), (41, 64));
            prop_assert_eq!([outer[0], outer[1] & 0xf0], [out[54], out[55] & 0xf0], "traffic class");
        } else {
            prop_assert_eq!(checksum::fold(checksum::sum(outer)), 0xffff);
            prop_assert_eq!(len(2), out.len() - 14);
            prop_assert_eq!((outer[1], outer[8], outer[9]), (request.class, 64, 4));
        }
        let inner = frame(&request, request.client(), (vip, 80), SYN, request.hops - 1);
        let taken_out = [&out[..14], &out[14 + outer_len..]].concat();
        prop_assert_eq!(normal(taken_out, &request), normal(with_macs(inner, BACKEND_MAC, OTHER_MAC), &request));
    }

    #[test]
    fn nothing_foreign_is_touched(bytes in vec(any::<u8>(), 0..200), ip in 0..3) {
        let machine = Machine::new(64, Mode::Fullnat);
        let mut bytes = bytes;
        if bytes.len() > 34 {
            match ip {
                0 => {}
                1 => bytes[12..15].copy_from_slice(&[8, 0, 0x45]),
                _ => bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
            }
        }
        let (verdict, out) = machine.run(&bytes);
        prop_assert!(matches!(verdict, Verdict::Pass | Verdict::Drop));
        prop_assert_eq!(out, bytes);
        prop_assert!(machine.flows4().is_empty() && machine.flows6().is_empty());
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
        let mut bytes = frame(&request, request.client(), (request.addresses()[0], 80), SYN, request.hops);
        if at < bytes.len() {
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let (verdict, out) = machine.run(&bytes);
        match verdict {
            Verdict::Pass | Verdict::Drop => prop_assert_eq!(out, bytes),
            Verdict::Across { .. } => prop_assert!(false, "a packet was left undecided"),
            Verdict::Transmit if request.client.is_ipv6() => prop_assert!(out[20] == 58, "only ping is answered"),
            Verdict::Transmit => prop_assert!(out[23] == 1, "only ping is answered"),
            Verdict::Redirect(_) if request.client.is_ipv6() => {}
            Verdict::Redirect(_) => {
                let whole = |frame: &[u8]| checksum::fold(checksum::sum(&frame[14..34])) == 0xffff;
                prop_assert_eq!(whole(&out), whole(&bytes), "IP checksum");
            }
        }
    }
}

/// Client `n` of a family, with a port of its own among eight.
fn client(ipv6: bool, n: u32) -> (IpAddr, u16) {
    let v4 = 0x6440_0000 + n / 8;
    let address = if ipv6 {
        IpAddr::V6(Ipv6Addr::from(
            0x2001_0db8_00aa_0000_u128 << 64 | u128::from(n / 8),
        ))
    } else {
        IpAddr::V4(Ipv4Addr::from(v4))
    };
    (address, (1000 + n % 8) as u16)
}

fn bare((client, port): (IpAddr, u16), udp: bool) -> Request {
    Request {
        client,
        port,
        udp,
        hops: 64,
        class: 0,
        payload: Vec::new(),
        checksum: true,
    }
}

fn assert_each_once<T: Eq + Hash>(flows: &[T], expected: usize) {
    assert_eq!(flows.len(), expected);
    let distinct = flows.iter().collect::<HashSet<_>>().len();
    assert_eq!(distinct, flows.len(), "every flow has one line");
}

#[test]
fn no_two_sessions_share_a_local_port_towards_a_backend() {
    let machine = Machine::new(4096, Mode::Fullnat);
    for ipv6 in [false, true] {
        for n in 0..4000u32 {
            let request = bare(client(ipv6, n), n.is_multiple_of(3));
            let vip = request.addresses()[0];
            let (verdict, _) = machine.run(&frame(&request, request.client(), (vip, 80), SYN, 64));
            assert_eq!(verdict, Verdict::Redirect(EGRESS));
        }
    }
    assert_each_once(&machine.flows4(), 2 * 4000);
    assert_each_once(&machine.flows6(), 2 * 4000);
}

fn the_last_free_port_is_never_given_twice(ipv6: bool) {
    let machine = Machine::new(65_536, Mode::Fullnat);
    let mut ports = HashSet::new();
    let mut refused = 0u32;
    for n in 0..70_000u32 {
        let request = bare(client(ipv6, n), true);
        let at = request.l4_at();
        let vip = request.addresses()[0];
        let (verdict, out) = machine.run(&frame(&request, request.client(), (vip, 80), 0, 64));
        match verdict {
            Verdict::Redirect(_) => {
                assert!(
                    ports.insert([out[at], out[at + 1]]),
                    "a port in use was taken"
                );
            }
            _ => refused += 1,
        }
    }
    assert!(refused >= 70_000 - 64_512);
    let drops = machine.drops.borrow();
    assert!(drops.iter().all(|reason| *reason == Drop::PortsExhausted));
    let events = machine.events.borrow();
    let kind = EventKind::PortsExhausted as u32;
    assert!(events.len() == drops.len() && events.iter().all(|event| event.kind == kind));
    assert!(
        ports.len() > 60_000,
        "{} ports of 64,512 in use",
        ports.len()
    );
}

#[test]
fn the_last_free_port_of_ipv4_is_never_given_twice() {
    the_last_free_port_is_never_given_twice(false);
}

#[test]
fn the_last_free_port_of_ipv6_is_never_given_twice() {
    the_last_free_port_is_never_given_twice(true);
}

/// Two backends of each family, who get sessions in turn; there is one local address.
fn of_two_backends(sets: usize) -> Machine {
    let mut machine = Machine::new(sets, Mode::Fullnat);
    for listener in machine.listeners.values_mut() {
        listener.table_base *= 2;
        listener.table_len = 2;
    }
    machine.slots = vec![1, 3, 2, 4];
    for (first, second) in [(1, 3), (2, 4)] {
        let mut backend = machine.backends[&first];
        backend.addr[3] ^= 1u32.to_be();
        machine.backends.insert(second, backend);
    }
    machine
}

fn a_local_port_serves_several_backends(ipv6: bool) {
    // Three of four ports towards each backend. Lines for twice as many sessions: no other bound is near.
    const SESSIONS: u32 = 2 * (65_536 - 1024) / 4 * 3;
    let machine = of_two_backends(SESSIONS as usize);
    let mut flows = HashSet::new();
    let mut ports = HashSet::new();
    for n in 0..SESSIONS {
        let request = bare(client(ipv6, n), true);
        let (at, vip) = (request.l4_at(), request.addresses()[0]);
        let (verdict, out) = machine.run(&frame(&request, request.client(), (vip, 80), 0, 64));
        if let Verdict::Redirect(_) = verdict {
            let port = [out[at], out[at + 1]];
            // The backend's address ends where the ports begin.
            assert!(flows.insert((out[at - 1], port)), "a flow in use was taken");
            ports.insert(port);
        }
    }
    let refused = SESSIONS as usize - flows.len();
    let drops = machine.drops.borrow();
    assert!(drops.iter().all(|reason| *reason == Drop::PortsExhausted));
    assert_eq!(drops.len(), refused, "all the others have a session");
    assert!(refused <= 20, "{refused} found no port of the fourth part");
    assert!(flows.len() > ports.len() * 4 / 3, "{} ports", ports.len());
}

#[test]
fn a_local_port_of_ipv4_serves_several_backends() {
    a_local_port_serves_several_backends(false);
}

#[test]
fn a_local_port_of_ipv6_serves_several_backends() {
    a_local_port_serves_several_backends(true);
}

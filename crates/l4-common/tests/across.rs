//! FullNAT to backends of the other family (RFC 7915): every header and checksum is compared with one that is built in full.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use weir_l4_common::checksum;
use weir_l4_common::drop::Drop;
use weir_l4_common::env::{NextHop, Verdict};
use weir_l4_common::service::Mode;
use weir_l4_machine::machine::{
    BACKEND_MAC, EGRESS, INGRESS, LB_MAC, Machine, OTHER_MAC, addresses, be, words,
};
use weir_l4_machine::wire::{CLIENT_MAC, ICMP, Ip, More, TCP, UDP, assert_same, frame};

const PORT: u16 = 40_000;
const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A machine where a client of one family has a backend of the other.
struct Scene {
    machine: Machine,
    client: IpAddr,
    vip: IpAddr,
    local: IpAddr,
    backend: IpAddr,
    /// Routers on the client's side and on the backend's.
    routers: [IpAddr; 2],
}

type End = (IpAddr, u16);

impl Scene {
    fn new(ipv6_client: bool) -> Self {
        let mut machine = Machine::new(64, Mode::Fullnat);
        machine.lead_across();
        let [vip, ..] = addresses(ipv6_client);
        let [_, local, backend] = addresses(!ipv6_client);
        let of = |ipv6, v6: &str, v4: &str| if ipv6 { v6 } else { v4 }.parse().unwrap();
        let router = |ipv6| of(ipv6, "2001:db8:f::77", "192.0.2.77");
        Self {
            machine,
            client: of(ipv6_client, "2001:db8:c::7", "198.51.100.7"),
            vip,
            local,
            backend,
            routers: [router(ipv6_client), router(!ipv6_client)],
        }
    }

    fn both() -> impl Iterator<Item = Self> {
        [true, false].into_iter().map(Self::new)
    }

    fn run(&self, ip: &[u8]) -> (Verdict, Vec<u8>) {
        self.machine.run(&frame(LB_MAC, CLIENT_MAC, ip))
    }

    /// What the backend gets of a packet.
    #[track_caller]
    fn forwarded(&self, ip: &[u8]) -> Vec<u8> {
        let (verdict, out) = self.run(ip);
        assert_eq!(verdict, Verdict::Redirect(EGRESS));
        let expected = [&BACKEND_MAC[..], &OTHER_MAC].concat();
        assert_eq!(out[..12], expected);
        out[14..].to_vec()
    }

    /// What the client gets of one.
    #[track_caller]
    fn answered(&self, ip: &[u8]) -> Vec<u8> {
        let (verdict, out) = self.run(ip);
        assert_eq!(verdict, Verdict::Transmit);
        let expected = [&CLIENT_MAC[..], &LB_MAC].concat();
        assert_eq!(out[..12], expected);
        out[14..].to_vec()
    }

    /// Opens a session; the local end.
    fn open(&self, proto: u8) -> End {
        let ip = Ip::new(self.client, self.vip, proto);
        self.forwarded(&ip.with(&segment(&ip, PORT, 80, SYN)));
        let ports = match self.local {
            IpAddr::V4(local) => {
                let mut flows = self.machine.flows4().into_iter();
                let reply = flows.find(|flow| flow.dst == be(local) && flow.udp == (proto == UDP));
                reply.unwrap().dst_port()
            }
            IpAddr::V6(local) => {
                let mut flows = self.machine.flows6().into_iter();
                let reply = flows
                    .find(|flow| flow.dst.words() == words(local) && flow.udp == (proto == UDP));
                reply.unwrap().dst_port()
            }
        };
        (self.local, u16::from_be(ports))
    }

    fn client(&self) -> End {
        (self.client, PORT)
    }

    fn vip(&self) -> End {
        (self.vip, 80)
    }

    fn backend(&self) -> End {
        (self.backend, 8080)
    }

    fn drops(&self) -> Vec<Drop> {
        self.machine.drops.borrow().clone()
    }
}

fn segment(ip: &Ip, src: u16, dst: u16, flags: u8) -> Vec<u8> {
    if ip.proto == TCP {
        ip.tcp(src, dst, flags, &[])
    } else {
        ip.udp(src, dst, b"weir, odd")
    }
}

fn between((src, src_port): End, (dst, dst_port): End, proto: u8, flags: u8) -> Vec<u8> {
    let ip = Ip::new(src, dst, proto);
    ip.with(&segment(&ip, src_port, dst_port, flags))
}

/// Sets what a translated header does not have from [`Ip`]: no flow label, and for IPv4 identification and flags.
fn with_header(mut packet: Vec<u8>, id: u16, fragment: u16) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    } else {
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[10..12].fill(0);
        let len = usize::from(packet[0] & 0xf) * 4;
        let sum = !checksum::fold(checksum::sum(&packet[..len]));
        packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
    packet
}

/// The same where the identification is ours to choose: as in `out`.
fn like(packet: Vec<u8>, out: &[u8]) -> Vec<u8> {
    let long = packet.len() > 1260;
    let id = u16::from_be_bytes([out[4], out[5]]);
    with_header(
        packet,
        if long { 0 } else { id },
        if long { 0x4000 } else { 0 },
    )
}

proptest! {
    #[test]
    fn there_and_back_gives_the_packet_back(
        ipv6: bool,
        udp: bool,
        port: u16,
        hops in 2u8..,
        payload in vec(any::<u8>(), 0..1400),
        options in 0usize..3,
    ) {
        let scene = Scene::new(ipv6);
        let proto = if udp { UDP } else { TCP };
        let packet = |src: End, dst: End, hops, flags| {
            let ip = Ip { hops, ..Ip::new(src.0, dst.0, proto) };
            let l4 = if udp {
                ip.udp(src.1, dst.1, &payload)
            } else {
                ip.tcp(src.1, dst.1, flags, &[1, 1, 1, 0].repeat(options))
            };
            ip.with(&l4)
        };
        let client = (scene.client, port);
        let out = scene.forwarded(&packet(client, scene.vip(), hops, SYN));
        let at = if ipv6 { 20 } else { 40 };
        let local = (scene.local, u16::from_be_bytes([out[at], out[at + 1]]));
        prop_assert!(local.1 >= 1024);
        let expected = packet(local, scene.backend(), hops - 1, SYN);
        assert_same(&out, &like(expected, &out), "request");
        let out = scene.answered(&packet(scene.backend(), local, hops, SYN | ACK));
        let expected = packet(scene.vip(), client, hops - 1, SYN | ACK);
        assert_same(&out, &like(expected, &out), "reply");
    }
}

#[test]
fn options_and_extension_headers_end_here() {
    for proto in [TCP, UDP] {
        for scene in Scene::both() {
            let local = scene.open(proto);
            let more = |address: IpAddr| {
                if address.is_ipv6() {
                    vec![
                        More::Extensions(vec![(0, vec![1, 4, 0, 0, 0, 0])]),
                        More::Extensions(vec![(60, vec![1; 14]), (43, vec![3, 0, 0, 0, 0, 0])]),
                    ]
                } else {
                    vec![
                        More::Options(vec![1, 1, 1, 0]),
                        More::Options([7, 39, 4, 0, 0, 0, 0, 0].repeat(5)),
                    ]
                }
            };
            let with = |src: End, dst: End, more| {
                let ip = Ip {
                    more,
                    ..Ip::new(src.0, dst.0, proto)
                };
                ip.with(&segment(&ip, src.1, dst.1, ACK))
            };
            let without = |src: End, dst: End| {
                let ip = Ip {
                    hops: 63,
                    ..Ip::new(src.0, dst.0, proto)
                };
                ip.with(&segment(&ip, src.1, dst.1, ACK))
            };
            for more in more(scene.client) {
                let out = scene.forwarded(&with(scene.client(), scene.vip(), more));
                let expected = without(local, scene.backend());
                assert_same(&out, &like(expected, &out), "request");
            }
            for more in more(scene.backend) {
                let out = scene.answered(&with(scene.backend(), local, more));
                let expected = without(scene.vip(), scene.client());
                assert_same(&out, &like(expected, &out), "reply");
            }
        }
    }
}

/// The fragments of a datagram.
fn fragments(src: End, dst: End, hops: u8, id: u16) -> [Vec<u8>; 3] {
    let payload: Vec<u8> = (0..3000u32).map(|byte| (byte * 7) as u8).collect();
    let ip = Ip {
        hops,
        ..Ip::new(src.0, dst.0, UDP)
    };
    let datagram = ip.udp(src.1, dst.1, &payload);
    [(0, 1400), (1400, 2800), (2800, datagram.len())].map(|(from, to)| {
        let more = if to < datagram.len() { 0x2000 } else { 0 };
        let fragment = Some((id, more | (from / 8) as u16));
        Ip {
            fragment,
            ..ip.clone()
        }
        .with(&datagram[from..to])
    })
}

#[test]
fn fragments_stay_fragments() {
    for scene in Scene::both() {
        let local = scene.open(UDP);
        let sent = fragments(scene.client(), scene.vip(), 64, 7);
        for (packet, expected) in sent.iter().zip(fragments(local, scene.backend(), 63, 7)) {
            let place = u16::from_be_bytes([expected[6], expected[7]]);
            let expected = with_header(expected, 7, place);
            assert_same(&scene.forwarded(packet), &expected, "fragment");
        }
        let sent = fragments(scene.backend(), local, 64, 8);
        for (packet, expected) in sent
            .iter()
            .zip(fragments(scene.vip(), scene.client(), 63, 8))
        {
            let place = u16::from_be_bytes([expected[6], expected[7]]);
            let expected = with_header(expected, 8, place);
            assert_same(&scene.answered(packet), &expected, "fragment of a reply");
        }
        // All of a datagram with a fragment header is whole.
        if scene.client.is_ipv6() {
            let ip = Ip {
                fragment: Some((9, 0)),
                ..Ip::new(scene.client, scene.vip, UDP)
            };
            let out = scene.forwarded(&ip.with(&ip.udp(PORT, 80, b"weir")));
            assert_eq!((out.len(), &out[6..8]), (32, &[0, 0][..]));
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_gets_one() {
    let scene = Scene::new(false);
    let local = scene.open(UDP);
    for len in [0, 1, 2, 3, 4, 5, 700, 1452] {
        let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        let ip = Ip::new(scene.client, scene.vip, UDP);
        let mut udp = ip.udp(PORT, 80, &payload);
        udp[6..8].fill(0);
        // What is behind the packet is not of it.
        let packet = [ip.with(&udp), vec![0xee; 3]].concat();
        let out = scene.forwarded(&packet);
        let ip = Ip {
            hops: 63,
            ..Ip::new(local.0, scene.backend, UDP)
        };
        let expected = ip.with(&ip.udp(local.1, 8080, &payload));
        assert_eq!(out[expected.len()..], [0xee; 3]);
        assert_same(&out[..expected.len()], &like(expected, &out), "datagram");
    }
    // Of one in fragments, nobody knows the sum.
    let [mut first, ..] = fragments(scene.client(), scene.vip(), 64, 7);
    first[26..28].fill(0);
    assert_eq!(scene.run(&first).0, Verdict::Drop);
    assert_eq!(scene.drops(), [Drop::NoChecksum]);
    // IPv6 knows no such thing.
    let scene = Scene::new(true);
    scene.open(UDP);
    let ip = Ip::new(scene.client, scene.vip, UDP);
    let mut udp = ip.udp(PORT, 80, b"weir");
    udp[6..8].fill(0);
    assert_eq!(scene.run(&ip.with(&udp)).0, Verdict::Drop);
    assert_eq!(scene.drops(), [Drop::NoChecksum]);
}

#[test]
fn a_damaged_header_is_not_made_a_sound_one() {
    let scene = Scene::new(false);
    scene.open(UDP);
    let mut packet = between(scene.client(), scene.vip(), UDP, 0);
    packet[1] ^= 4;
    assert_eq!(scene.run(&packet).0, Verdict::Drop);
    assert_eq!(scene.drops(), [Drop::Malformed]);
}

/// Errors of one family, and what they are in the other: type, code, what is behind the checksum. The first are ICMP's.
type Error = (u8, u8, [u8; 4]);

fn errors4() -> Vec<(Error, Option<Error>)> {
    let mtu = |mtu: u16| {
        let [high, low] = mtu.to_be_bytes();
        [0, 0, high, low]
    };
    let none = [0; 4];
    let mut errors = vec![
        ((3, 2, none), Some((4, 1, [0, 0, 0, 6]))),
        ((3, 3, none), Some((1, 4, none))),
        ((3, 4, mtu(1400)), Some((2, 0, mtu(1420)))),
        ((3, 4, mtu(1500)), Some((2, 0, mtu(1500)))),
        ((3, 4, mtu(0)), Some((2, 0, mtu(1280)))),
        ((3, 4, mtu(576)), Some((2, 0, mtu(1280)))),
        ((3, 14, none), None),
        ((11, 0, none), Some((3, 0, none))),
        ((11, 1, none), Some((3, 1, none))),
        ((12, 1, none), None),
        ((12, 0, [10, 0, 0, 0]), None),
    ];
    for code in [0, 1, 5, 6, 7, 8, 11, 12] {
        errors.push(((3, code, none), Some((1, 0, none))));
    }
    for code in [9, 10, 13, 15] {
        errors.push(((3, code, none), Some((1, 1, none))));
    }
    for (from, to) in [
        (0, 0),
        (1, 1),
        (2, 4),
        (3, 4),
        (8, 7),
        (9, 6),
        (15, 8),
        (19, 24),
    ] {
        errors.push(((12, 0, [from, 0, 0, 0]), Some((4, 0, [0, 0, 0, to]))));
    }
    errors
}

fn errors6() -> Vec<(Error, Option<Error>)> {
    let none = [0; 4];
    let mut errors = vec![
        ((1, 0, none), Some((3, 1, none))),
        ((1, 1, none), Some((3, 10, none))),
        ((1, 2, none), Some((3, 1, none))),
        ((1, 3, none), Some((3, 1, none))),
        ((1, 4, none), Some((3, 3, none))),
        ((1, 5, none), None),
        ((2, 0, [0, 0, 5, 0x78]), Some((3, 4, [0, 0, 5, 0x64]))),
        ((2, 0, [0, 1, 0, 0]), Some((3, 4, [0, 0, 5, 0xc8]))),
        ((3, 0, none), Some((11, 0, none))),
        ((3, 1, none), Some((11, 1, none))),
        ((4, 1, [0, 0, 0, 6]), Some((3, 2, none))),
        ((4, 2, none), None),
        ((4, 0, [0, 0, 0, 2]), None),
    ];
    for (from, to) in [
        (0, 0),
        (1, 1),
        (4, 2),
        (5, 2),
        (6, 9),
        (7, 8),
        (23, 12),
        (39, 16),
    ] {
        errors.push(((4, 0, [0, 0, 0, from]), Some((12, 0, [to, 0, 0, 0]))));
    }
    errors
}

#[test]
fn errors_become_the_other_familys() {
    for proto in [TCP, UDP] {
        for ipv6 in [true, false] {
            // An error about a request comes from the backend's side; one about a reply from the client's.
            for about_reply in [false, true] {
                let from6 = ipv6 == about_reply;
                for (error, expected) in if from6 { errors6() } else { errors4() } {
                    // The least that may be quoted, odd numbers, and all of it.
                    for behind in [8, 13, 18, 1000] {
                        let scene = Scene::new(ipv6);
                        let local = scene.open(proto);
                        let packet = |src: End, dst: End| {
                            let ip = Ip {
                                hops: 7,
                                ..Ip::new(src.0, dst.0, proto)
                            };
                            let l4 = if proto == TCP {
                                ip.tcp(src.1, dst.1, ACK, &[1; 20])
                            } else {
                                ip.udp(src.1, dst.1, b"an odd number of bytes.")
                            };
                            ip.with(&l4)
                        };
                        let (seen, sent, router, to, source, target) = if about_reply {
                            (
                                packet(scene.vip(), scene.client()),
                                packet(scene.backend(), local),
                                scene.routers[0],
                                scene.vip,
                                scene.local,
                                scene.backend,
                            )
                        } else {
                            (
                                packet(local, scene.backend()),
                                packet(scene.client(), scene.vip()),
                                scene.routers[1],
                                local.0,
                                scene.vip,
                                scene.client,
                            )
                        };
                        let (old, new) = if from6 { (40, 20) } else { (20, 40) };
                        let behind = behind.min(seen.len() - old);
                        let with = |src, dst, hops, (kind, code, rest): Error, quote: &[u8]| {
                            let ip = Ip {
                                hops,
                                ..Ip::new(src, dst, ICMP)
                            };
                            ip.with(&ip.icmp(kind, code, rest, quote))
                        };
                        let (verdict, out) =
                            scene.run(&with(router, to, 64, error, &seen[..old + behind]));
                        let Some(expected) = expected else {
                            assert_eq!(verdict, Verdict::Drop, "{error:?}");
                            assert_eq!(scene.drops(), [Drop::Untranslatable]);
                            continue;
                        };
                        let forward = if about_reply {
                            Verdict::Redirect(EGRESS)
                        } else {
                            Verdict::Transmit
                        };
                        assert_eq!(verdict, forward, "{error:?}");
                        let quote = with_header(sent[..new + behind].to_vec(), 0, 0);
                        let whole = with(source, target, 63, expected, &quote);
                        let whole = with_header(whole, 0, 0);
                        assert_same(&out[14..], &whole, &format!("{error:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_answered_with_what_does() {
    for scene in Scene::both() {
        scene.open(UDP);
        let (header, fits) = if scene.client.is_ipv6() {
            (40, 1520)
        } else {
            (20, 1480)
        };
        let packet = |len: usize| {
            let ip = Ip::new(scene.client, scene.vip, UDP);
            ip.with(&ip.udp(PORT, 80, &vec![3; len - header - 8]))
        };
        scene.forwarded(&packet(fits));
        let (verdict, out) = scene.run(&packet(fits + 1));
        assert_eq!(verdict, Verdict::Transmit);
        let mtu = out[14 + header + 6..][..2].to_vec();
        assert_eq!(mtu, (fits as u16).to_be_bytes());
        assert_eq!(scene.drops(), [Drop::TooBig]);
        let ip = Ip {
            hops: 1,
            ..Ip::new(scene.client, scene.vip, UDP)
        };
        let (verdict, _) = scene.run(&ip.with(&ip.udp(PORT, 80, b"far")));
        assert_eq!(verdict, Verdict::Transmit);
        assert_eq!(scene.drops(), [Drop::TooBig, Drop::TtlExpired]);
    }
}

#[test]
fn segments_fit_both_links_in_both_families() {
    for scene in Scene::both() {
        let options = |size: u16| [&[2, 4][..], &size.to_be_bytes(), &[1, 1, 4, 2]].concat();
        let ip = Ip::new(scene.client, scene.vip, TCP);
        let out = scene.forwarded(&ip.with(&ip.tcp(PORT, 80, SYN, &options(8960))));
        let at = if scene.client.is_ipv6() { 20 } else { 40 };
        // The larger header is IPv6's, on whichever side that is.
        assert_eq!(out[at + 20..][..8], options(1440));
        let port = u16::from_be_bytes([out[at], out[at + 1]]);
        let ip = Ip::new(scene.backend, scene.local, TCP);
        let reply = ip.tcp(8080, port, SYN | ACK, &options(8960));
        let out = scene.answered(&ip.with(&reply));
        let at = if scene.client.is_ipv6() { 40 } else { 20 };
        assert_eq!(out[at + 20..][..8], options(1440));
    }
}

#[test]
fn a_syn_opens_a_closed_session_again_and_no_open_one() {
    for scene in Scene::both() {
        let local = scene.open(TCP);
        let lines = || scene.machine.flows4().len() + scene.machine.flows6().len();
        let request = |flags| scene.forwarded(&between(scene.client(), scene.vip(), TCP, flags));
        let reply = |flags| scene.answered(&between(scene.backend(), local, TCP, flags));
        reply(SYN | ACK);
        request(ACK);
        assert_eq!(scene.machine.sessions(), 1);
        request(SYN);
        assert_eq!((scene.machine.sessions(), lines()), (1, 2));
        request(FIN | ACK);
        reply(FIN | ACK);
        request(SYN);
        assert_eq!((scene.machine.sessions(), lines()), (2, 2));
        assert_eq!(scene.open(TCP), local);
    }
}

#[test]
fn a_backend_that_takes_nothing_new_gets_no_old_session_again() {
    for ipv6 in [true, false] {
        let mut scene = Scene::new(ipv6);
        let local = scene.open(TCP);
        scene.forwarded(&between(scene.client(), scene.vip(), TCP, FIN | ACK));
        for backend in scene.machine.backends.values_mut() {
            backend.flags = 0;
        }
        for listener in scene.machine.listeners.values_mut() {
            listener.table_len = 0;
        }
        let (verdict, _) = scene.run(&between(scene.client(), scene.vip(), TCP, SYN));
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(scene.drops(), [Drop::NoBackend]);
        assert!(scene.machine.flows4().is_empty() && scene.machine.flows6().is_empty());
        let (verdict, _) = scene.run(&between(scene.backend(), local, TCP, ACK));
        assert_eq!(verdict, Verdict::Pass);
    }
}

#[test]
fn the_way_of_replies_is_asked_for_in_the_clients_family() {
    for ipv6 in [true, false] {
        let mut scene = Scene::new(ipv6);
        let local = scene.open(TCP);
        let mac = [2, 0, 0, 0, 9, 9];
        scene.machine.next_hop = NextHop::Found {
            ifindex: INGRESS,
            mac,
        };
        let (verdict, out) = scene.run(&between(scene.backend(), local, TCP, SYN | ACK));
        assert_eq!((verdict, &out[..6]), (Verdict::Transmit, &mac[..]));
        let asked = scene.machine.asked.borrow().clone();
        assert_eq!(asked, [(scene.vip, scene.client)]);
    }
}

#[test]
fn every_session_has_a_line_in_each_table_and_a_port_of_its_own() {
    for ipv6 in [true, false] {
        let mut machine = Machine::new(4096, Mode::Fullnat);
        machine.lead_across();
        let [vip, ..] = addresses(ipv6);
        for n in 0..4000u16 {
            let client: IpAddr = if ipv6 {
                format!("2001:db8:aa::{:x}", n / 8 + 1).parse().unwrap()
            } else {
                format!("100.64.{}.{}", n / 2048, n / 8 % 256)
                    .parse()
                    .unwrap()
            };
            let packet = between((client, 1000 + n % 8), (vip, 80), TCP, SYN);
            let (verdict, _) = machine.run(&frame(LB_MAC, CLIENT_MAC, &packet));
            assert_eq!(verdict, Verdict::Redirect(EGRESS));
        }
        let (v4, v6) = (machine.flows4(), machine.flows6());
        assert_eq!((v4.len(), v6.len()), (4000, 4000));
        assert_eq!(v4.iter().collect::<HashSet<_>>().len(), 4000);
        assert_eq!(v6.iter().collect::<HashSet<_>>().len(), 4000);
    }
}

#[test]
fn a_full_table_of_either_family_opens_no_half_session() {
    for ipv6 in [true, false] {
        let mut machine = Machine::new(1, Mode::Fullnat);
        machine.lead_across();
        let [vip, ..] = addresses(ipv6);
        let client: IpAddr = if ipv6 {
            "2001:db8:c::7"
        } else {
            "198.51.100.7"
        }
        .parse()
        .unwrap();
        for port in 1..=5 {
            let packet = between((client, port), (vip, 80), TCP, SYN);
            let (verdict, _) = machine.run(&frame(LB_MAC, CLIENT_MAC, &packet));
            assert_eq!(verdict == Verdict::Drop, port == 5);
        }
        assert_eq!(*machine.drops.borrow(), [Drop::TableFull]);
        assert_eq!((machine.flows4().len(), machine.flows6().len()), (4, 4));
    }
}

#[test]
fn without_a_local_address_of_the_backends_family_there_is_none() {
    for ipv6 in [true, false] {
        let mut scene = Scene::new(ipv6);
        scene.machine.locals.clear();
        scene.machine.locals6.clear();
        let (verdict, _) = scene.run(&between(scene.client(), scene.vip(), TCP, SYN));
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(scene.drops(), [Drop::PortsExhausted]);
    }
}

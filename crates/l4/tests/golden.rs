//! Packets in, verdicts and packets out, through the program in the kernel.
#![allow(clippy::unwrap_used)]

mod rig;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use rig::{
    ACK, Addresses, BACKEND, BACKEND_MAC, CLIENT, CLIENT_MAC, CLIENT6, EGRESS, FAMILIES, FIN, L4,
    LB_MAC, LOCAL, LOCAL6, OTHER_MAC, Packet, RST, Rig, SYN, VIP, VIP6, privileged, source_port,
    words,
};
use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::service::{
    BACKEND_ACCEPTS, Backend, Encapsulation, Listener, Mode, PERSISTENT, Pick, Settings,
};

const PORT: u16 = 40_000;

/// Runs `input` and compares the verdict and, byte for byte, the packet.
#[track_caller]
fn check(rig: &mut Rig, input: &Packet, verdict: Verdict, expected: &Packet) {
    let outcome = rig.run(&input.bytes());
    assert_eq!(outcome.verdict, verdict);
    assert_eq!(outcome.packet, expected.bytes(), "packet out");
}

#[track_caller]
fn check_drop(rig: &mut Rig, input: &Packet, reason: Drop) {
    let before = rig.drops(reason);
    // An error goes back to the sender in place of some packets.
    let verdict = match reason {
        Drop::TtlExpired | Drop::TooBig => Verdict::Transmit,
        _ => Verdict::Drop,
    };
    assert_eq!(rig.run(&input.bytes()).verdict, verdict);
    assert_eq!(
        rig.drops(reason),
        before + 1,
        "counter of {}",
        reason.as_str()
    );
}

#[track_caller]
fn check_untouched(rig: &mut Rig, input: &Packet) {
    check(rig, input, Verdict::Pass, input);
}

fn syn() -> Packet {
    Packet::tcp((CLIENT, PORT), (VIP, 80), SYN)
}

/// What leaves towards the backend: one hop further, with our MAC and the backend's.
fn sent(packet: Packet) -> Packet {
    Packet {
        eth_src: OTHER_MAC,
        eth_dst: BACKEND_MAC,
        ttl: packet.ttl - 1,
        ..packet
    }
}

/// What leaves towards the client, by the way that the request came.
fn answered(packet: Packet) -> Packet {
    Packet {
        eth_src: LB_MAC,
        eth_dst: CLIENT_MAC,
        ttl: packet.ttl - 1,
        ..packet
    }
}

fn replies(packet: Packet) -> Packet {
    Packet {
        eth_src: BACKEND_MAC,
        eth_dst: OTHER_MAC,
        ..packet
    }
}

#[test]
fn fullnat_rewrites_both_directions() {
    if !privileged() {
        return;
    }
    for (family, udp) in FAMILIES
        .iter()
        .flat_map(|family| [(family, false), (family, true)])
    {
        let mut rig = Rig::new(64);
        rig.serve(Mode::Fullnat);
        let Addresses {
            client,
            vip,
            local,
            backend,
        } = *family;
        let packet = |src: (IpAddr, u16), dst: (IpAddr, u16), flags| {
            if udp {
                Packet::udp(src, dst)
            } else {
                Packet::tcp(src, dst, flags)
            }
        };
        let request = packet((client, PORT), (vip, 80), SYN);
        let port = source_port(&rig.run(&request.bytes()).packet);
        assert!(port >= 1024);
        let forwarded = sent(packet((local, port), (backend, 8080), SYN));
        check(&mut rig, &request, Verdict::Redirect(EGRESS), &forwarded);
        let reply = replies(packet((backend, 8080), (local, port), SYN | ACK));
        let delivered = answered(packet((vip, 80), (client, PORT), SYN | ACK));
        check(&mut rig, &reply, Verdict::Transmit, &delivered);
        let more = packet((client, PORT), (vip, 80), ACK);
        check(
            &mut rig,
            &more,
            Verdict::Redirect(EGRESS),
            &sent(packet((local, port), (backend, 8080), ACK)),
        );
    }
}

#[test]
fn nat_keeps_the_client() {
    if !privileged() {
        return;
    }
    for Addresses {
        client,
        vip,
        backend,
        ..
    } in FAMILIES
    {
        let mut rig = Rig::new(64);
        rig.serve(Mode::Nat);
        let request = Packet::tcp((client, PORT), (vip, 80), SYN);
        let forwarded = sent(Packet::tcp((client, PORT), (backend, 8080), SYN));
        check(&mut rig, &request, Verdict::Redirect(EGRESS), &forwarded);
        let reply = replies(Packet::tcp((backend, 8080), (client, PORT), SYN | ACK));
        let delivered = answered(Packet::tcp((vip, 80), (client, PORT), SYN | ACK));
        check(&mut rig, &reply, Verdict::Transmit, &delivered);
    }
}

#[test]
fn dr_changes_nothing_but_macs_and_ttl() {
    if !privileged() {
        return;
    }
    for Addresses { client, vip, .. } in FAMILIES {
        let mut rig = Rig::new(64);
        rig.serve(Mode::Dr);
        for packet in [
            Packet::tcp((client, PORT), (vip, 80), SYN),
            Packet::udp((client, PORT), (vip, 80)),
        ] {
            let forwarded = sent(packet.clone());
            check(&mut rig, &packet, Verdict::Redirect(EGRESS), &forwarded);
        }
    }
}

/// The packet in its tunnel, by everything but what the flow's hash gives: that is read from `out`.
fn tunnelled(inner: &Packet, outer: Addresses, encapsulation: Encapsulation, out: &[u8]) -> Packet {
    let ipv6 = outer.backend.is_ipv6();
    let header = if ipv6 { 40 } else { 20 };
    let (proto, ethertype) = if inner.src.is_ipv6() {
        (41, 0x86dd)
    } else {
        (4, 0x0800)
    };
    let l4 = match encapsulation {
        Encapsulation::Ipip => L4::Other(proto),
        Encapsulation::Gue => L4::Udp {
            src: u16::from_be_bytes([out[14 + header], out[15 + header]]),
            dst: 6080,
            checksum: false,
        },
        Encapsulation::Gre => L4::Gre(ethertype),
    };
    Packet {
        eth_src: OTHER_MAC,
        eth_dst: BACKEND_MAC,
        tos: inner.tos,
        // The flow label, or the identification, which an inner IPv6 packet does not have.
        id: match (ipv6, inner.src.is_ipv6()) {
            (true, _) => u16::from_be_bytes([out[16], out[17]]),
            (false, true) => 0,
            (false, false) => inner.id,
        },
        l4,
        payload: inner.bytes()[14..].to_vec(),
        ..Packet::tcp((outer.local, 0), (outer.backend, 0), 0)
    }
}

#[test]
fn every_tunnel_is_put_in_front_and_taken_off() {
    if !privileged() {
        return;
    }
    for (inner_family, outer_family) in FAMILIES
        .iter()
        .flat_map(|inner| FAMILIES.iter().map(move |outer| (*inner, *outer)))
    {
        for encapsulation in [Encapsulation::Ipip, Encapsulation::Gue, Encapsulation::Gre] {
            let mut rig = Rig::new(64);
            let tunnel = Listener {
                encapsulation: encapsulation as u8,
                tunnel_port: 6080u16.to_be(),
                ..Listener::default()
            };
            rig.serve_tunnel(inner_family, outer_family, tunnel);
            let Addresses { client, vip, .. } = inner_family;
            for request in [
                Packet {
                    tos: 0x28,
                    ..Packet::tcp((client, PORT), (vip, 80), SYN)
                },
                Packet::udp((client, PORT), (vip, 80)),
            ] {
                let inner = Packet {
                    ttl: 63,
                    ..request.clone()
                };
                let out = rig.run(&request.bytes()).packet;
                let outer = tunnelled(&inner, outer_family, encapsulation, &out);
                check(&mut rig, &request, Verdict::Redirect(EGRESS), &outer);

                let mut end = Rig::decap(outer_family.backend);
                let taken_out = Packet {
                    eth_src: OTHER_MAC,
                    eth_dst: BACKEND_MAC,
                    ..inner
                };
                check(&mut end, &outer, Verdict::Pass, &taken_out);
                let elsewhere = Packet {
                    dst: outer_family.client,
                    ..outer
                };
                check_untouched(&mut end, &elsewhere);
            }
        }
    }
}

#[test]
fn outer_sources_and_ports_spread_over_flows() {
    if !privileged() {
        return;
    }
    for (inner, outer, source) in [
        (FAMILIES[0], FAMILIES[0], "10.99.0.0"),
        (FAMILIES[1], FAMILIES[0], "10.99.0.0"),
        (FAMILIES[0], FAMILIES[1], "2001:db8:99::"),
        (FAMILIES[1], FAMILIES[1], "2001:db8:99::"),
    ] {
        let mut rig = Rig::new(1024);
        let source: IpAddr = source.parse().unwrap();
        let tunnel = Listener {
            encapsulation: Encapsulation::Gue as u8,
            tunnel_port: 6080u16.to_be(),
            source: words(source),
            source_bits: 16,
            ..Listener::default()
        };
        rig.serve_tunnel(inner, outer, tunnel);
        let (mut sources, mut ports) = (HashSet::new(), HashSet::new());
        for port in 2000..2100 {
            let request = Packet::tcp((inner.client, port), (inner.vip, 80), SYN).bytes();
            let first = rig.run(&request).packet;
            assert_eq!(rig.run(&request).packet, first, "a flow keeps what it has");
            let (at, l4) = if outer.local.is_ipv6() {
                (22, 54)
            } else {
                (26, 34)
            };
            let fixed = l4 - at - (l4 - at) / 2 - 2;
            let octets = match source {
                IpAddr::V4(source) => source.octets().to_vec(),
                IpAddr::V6(source) => source.octets().to_vec(),
            };
            assert_eq!(first[at..at + fixed], octets[..fixed]);
            sources.insert(first[at + fixed..at + fixed + 2].to_vec());
            let port = u16::from_be_bytes([first[l4], first[l4 + 1]]);
            assert!(port >= 0xc000);
            ports.insert(port);
        }
        assert!(sources.len() > 90 && ports.len() > 90);
    }
}

#[test]
fn what_is_no_tunnel_to_us_is_not_taken_off() {
    if !privileged() {
        return;
    }
    let mut end = Rig::decap(BACKEND);
    let inner = syn().bytes()[14..].to_vec();
    let outer = |l4: L4, payload: Vec<u8>| Packet {
        l4,
        payload,
        ..Packet::tcp((LOCAL, 0), (BACKEND, 0), 0)
    };
    let udp = |dst: u16| L4::Udp {
        src: 50_000,
        dst,
        checksum: false,
    };
    let mut neither = inner.clone();
    neither[0] = 0x75;
    for packet in [
        outer(udp(6081), inner.clone()),
        outer(udp(6080), neither.clone()),
        outer(udp(6080), Vec::new()),
        // GUE of variant 0 begins with zeros.
        outer(udp(6080), [&[0, 4, 0, 0][..], &inner].concat()),
        outer(L4::Gre(0x6558), inner.clone()),
        outer(L4::Other(41), inner.clone()),
        outer(L4::Other(4), neither),
        Packet {
            fragment: 0x2000,
            ..outer(L4::Other(4), inner.clone())
        },
    ] {
        check_untouched(&mut end, &packet);
    }
    // A key: what is behind it is not where it should be.
    let mut with_key = outer(L4::Gre(0x0800), inner);
    with_key.l4 = L4::Other(47);
    with_key.payload = [&[0x20, 0, 8, 0, 0, 0, 0, 1][..], &with_key.payload].concat();
    check_untouched(&mut end, &with_key);
}

#[test]
fn tunnel_drops_what_does_not_fit() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Tunnel);
    let fits = Packet {
        payload: vec![1; 1500 - 20 - 20 - 20],
        ..syn()
    };
    assert_eq!(rig.run(&fits.bytes()).verdict, Verdict::Redirect(EGRESS));
    let larger = Packet {
        payload: vec![1; 1500 - 20 - 20 - 20 + 1],
        ..syn()
    };
    check_drop(&mut rig, &larger, Drop::TooBig);
}

#[test]
fn udp_without_checksum_stays_without() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Nat);
    let bare = |src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)| Packet {
        l4: L4::Udp {
            src: src.1,
            dst: dst.1,
            checksum: false,
        },
        ..Packet::udp(src, dst)
    };
    let request = bare((CLIENT, PORT), (VIP, 80));
    check(
        &mut rig,
        &request,
        Verdict::Redirect(EGRESS),
        &sent(bare((CLIENT, PORT), (BACKEND, 8080))),
    );
}

#[test]
fn vips_answer_ping() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    for (family, reply) in FAMILIES.iter().zip([0, 129]) {
        let (client, vip) = (family.client, family.vip);
        let request = Packet {
            ttl: 3,
            ..Packet::echo(client, vip)
        };
        let reply = Packet {
            eth_src: LB_MAC,
            eth_dst: CLIENT_MAC,
            l4: L4::Icmp {
                kind: reply,
                code: 0,
            },
            ..Packet::echo(vip, client)
        };
        check(&mut rig, &request, Verdict::Transmit, &reply);
        check_untouched(&mut rig, &Packet::echo(client, family.local));
        // A time stamp of ICMP; a neighbour solicitation of ICMPv6.
        for kind in [13, 135] {
            check_untouched(
                &mut rig,
                &Packet {
                    l4: L4::Icmp { kind, code: 0 },
                    ..Packet::echo(client, vip)
                },
            );
        }
    }
}

#[test]
fn what_is_not_ours_goes_to_the_kernel_untouched() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    let cases = [
        Packet::tcp((CLIENT, PORT), (VIP, 22), SYN),
        Packet::tcp((CLIENT, PORT), (LOCAL, 80), SYN),
        Packet::udp((CLIENT, PORT), (VIP, 53)),
        Packet {
            l4: L4::Other(47),
            ..syn()
        },
        Packet {
            options: vec![1, 1, 1, 0],
            ..Packet::tcp((CLIENT, PORT), (VIP, 22), SYN)
        },
        Packet {
            fragment: 0x2000,
            ..Packet::tcp((CLIENT, PORT), (VIP, 22), SYN)
        },
        Packet::tcp((CLIENT6, PORT), (VIP6, 22), SYN),
        Packet::tcp((CLIENT6, PORT), (LOCAL6, 80), SYN),
        Packet::udp((CLIENT6, PORT), (VIP6, 53)),
        Packet {
            l4: L4::Other(47),
            ..Packet::udp((CLIENT6, PORT), (VIP6, 80))
        },
        // A later fragment has no ports; whose it is, nobody can tell.
        Packet {
            fragment: 0x2010,
            ..syn()
        },
    ];
    for packet in &cases {
        check_untouched(&mut rig, packet);
    }
    let mut arp = syn().bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    let outcome = rig.run(&arp);
    assert_eq!((outcome.verdict, outcome.packet), (Verdict::Pass, arp));
}

#[test]
fn every_drop_has_its_reason() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    for Addresses { client, vip, .. } in FAMILIES {
        for flags in [0, ACK, FIN, RST, SYN | ACK, SYN | FIN, SYN | RST] {
            check_drop(
                &mut rig,
                &Packet::tcp((client, PORT), (vip, 80), flags),
                Drop::NoSession,
            );
        }
        let last_hop = Packet {
            ttl: 1,
            ..Packet::tcp((client, PORT), (vip, 80), SYN)
        };
        check_drop(&mut rig, &last_hop, Drop::TtlExpired);
    }
    let mut lies = syn();
    lies.payload.clear();
    let mut bytes = lies.bytes();
    bytes[16..18].copy_from_slice(&100u16.to_be_bytes());
    let before = rig.drops(Drop::Malformed);
    assert_eq!(rig.run(&bytes).verdict, Verdict::Drop);
    assert_eq!(rig.drops(Drop::Malformed), before + 1);
    let mut lies = Packet::tcp((CLIENT6, PORT), (VIP6, 80), SYN).bytes();
    lies[18..20].copy_from_slice(&100u16.to_be_bytes());
    assert_eq!(rig.run(&lies).verdict, Verdict::Drop);
    assert_eq!(rig.drops(Drop::Malformed), before + 2);

    rig.listener(3, 81, 6, Mode::Fullnat, Pick::Next, &[]);
    check_drop(
        &mut rig,
        &Packet::tcp((CLIENT, PORT), (VIP, 81), SYN),
        Drop::NoBackend,
    );
    rig.backend(9, Backend::default());
    rig.listener(4, 82, 6, Mode::Fullnat, Pick::Next, &[9]);
    check_drop(
        &mut rig,
        &Packet::tcp((CLIENT, PORT), (VIP, 82), SYN),
        Drop::NoNextHop,
    );
    rig.settings(Settings::default());
    let other = Packet::tcp((CLIENT, PORT + 1), (VIP, 80), SYN);
    check_drop(&mut rig, &other, Drop::PortsExhausted);
}

#[test]
fn truncated_packets_do_no_harm() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    for family in FAMILIES {
        let whole = Packet::tcp((family.client, PORT), (family.vip, 80), SYN).bytes();
        // The kernel's test run takes no less than an Ethernet header.
        for length in 14..whole.len() {
            let outcome = rig.run(&whole[..length]);
            assert!(
                matches!(outcome.verdict, Verdict::Pass | Verdict::Drop),
                "length {length}"
            );
            assert_eq!(outcome.packet, &whole[..length], "length {length}");
        }
    }
}

#[test]
fn a_full_table_is_a_counter_and_keeps_its_sessions() {
    if !privileged() {
        return;
    }
    for Addresses {
        client,
        vip,
        local,
        backend,
    } in FAMILIES
    {
        let mut rig = Rig::new(8);
        rig.serve(Mode::Fullnat);
        let mut opened = Vec::new();
        for port in 1000..1200 {
            let packet = Packet::tcp((client, port), (vip, 80), SYN);
            let outcome = rig.run(&packet.bytes());
            if outcome.verdict == Verdict::Redirect(EGRESS) {
                opened.push((port, source_port(&outcome.packet)));
            }
        }
        // Eight sets of four lines hold at most 16 sessions.
        let count = opened.len();
        assert!((14..=16).contains(&count), "{count} sessions");
        assert!(rig.drops(Drop::TableFull) > 0);
        for (port, local_port) in opened {
            let packet = Packet::tcp((client, port), (vip, 80), ACK);
            let forwarded = sent(Packet::tcp((local, local_port), (backend, 8080), ACK));
            check(&mut rig, &packet, Verdict::Redirect(EGRESS), &forwarded);
            let reply = replies(Packet::tcp((backend, 8080), (local, local_port), ACK));
            let delivered = answered(Packet::tcp((vip, 80), (client, port), ACK));
            check(&mut rig, &reply, Verdict::Transmit, &delivered);
        }
    }
}

#[test]
fn a_closed_session_is_reopened_by_a_syn() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    let port = source_port(&rig.run(&syn().bytes()).packet);
    rig.run(&Packet::tcp((CLIENT, PORT), (VIP, 80), ACK).bytes());
    rig.run(&Packet::tcp((CLIENT, PORT), (VIP, 80), FIN | ACK).bytes());
    let forwarded = sent(Packet::tcp((LOCAL, port), (BACKEND, 8080), SYN));
    check(&mut rig, &syn(), Verdict::Redirect(EGRESS), &forwarded);

    // The backend has left the rotation, and the session is closed: another one takes the new connection.
    let other = Ipv4Addr::new(10, 0, 2, 12);
    let gone = Backend {
        addr: words(BACKEND),
        port: 8080u16.to_be(),
        mac: BACKEND_MAC,
        link: 1,
        ..Backend::default()
    };
    let fresh = Backend {
        addr: words(other),
        flags: 1,
        ..gone
    };
    rig.backend(1, gone);
    rig.backend(2, fresh);
    rig.listener(1, 80, 6, Mode::Fullnat, Pick::Next, &[2]);
    rig.run(&Packet::tcp((CLIENT, PORT), (VIP, 80), RST).bytes());
    let port = source_port(&rig.run(&syn().bytes()).packet);
    check(
        &mut rig,
        &syn(),
        Verdict::Redirect(EGRESS),
        &sent(Packet::tcp((LOCAL, port), (other, 8080), SYN)),
    );
}

#[test]
fn a_closed_session_of_another_listener_is_not_reopened() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    rig.run(&syn().bytes());
    rig.run(&Packet::tcp((CLIENT, PORT), (VIP, 80), ACK).bytes());
    rig.run(&Packet::tcp((CLIENT, PORT), (VIP, 80), RST).bytes());
    // The same VIP and port, now another listener in another mode.
    rig.listener(7, 80, 6, Mode::Nat, Pick::Next, &[1]);
    let forwarded = sent(Packet::tcp((CLIENT, PORT), (BACKEND, 8080), SYN));
    check(&mut rig, &syn(), Verdict::Redirect(EGRESS), &forwarded);
}

#[test]
fn round_robin_takes_turns_and_hashes_stay() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(256);
    let addresses: Vec<Ipv4Addr> = (1..=3).map(|n| Ipv4Addr::new(10, 0, 2, n)).collect();
    for (number, addr) in (1..).zip(&addresses) {
        let backend = Backend {
            addr: words(*addr),
            port: 8080u16.to_be(),
            mac: BACKEND_MAC,
            link: 1,
            flags: 1,
            ..Backend::default()
        };
        rig.backend(number, backend);
    }
    rig.listener(1, 80, 6, Mode::Fullnat, Pick::Next, &[1, 2, 3]);
    rig.listener(2, 81, 6, Mode::Fullnat, Pick::HashAddress, &[1, 2, 3]);
    let backend_of = |rig: &mut Rig, client: Ipv4Addr, port, vip_port| {
        let packet = Packet::tcp((client, port), (VIP, vip_port), SYN);
        let out = rig.run(&packet.bytes()).packet;
        Ipv4Addr::new(out[30], out[31], out[32], out[33])
    };
    // Test runs are free to move between cores, and each core has its own turn.
    let pinned = pin_to_first_core();
    let turns: Vec<_> = (0..6)
        .map(|port| backend_of(&mut rig, CLIENT, 2000 + port, 80))
        .collect();
    drop(pinned);
    assert_eq!(turns, [&addresses[..], &addresses[..]].concat());
    let first = backend_of(&mut rig, CLIENT, 3000, 81);
    assert!((3001..3020).all(|port| backend_of(&mut rig, CLIENT, port, 81) == first));
    let spread: HashSet<_> = (0..50)
        .map(|n| backend_of(&mut rig, Ipv4Addr::new(198, 51, 100, n), 3000, 81))
        .collect();
    assert_eq!(spread.len(), 3);
}

/// Keeps the thread on core 0; each test has a thread of its own.
fn pin_to_first_core() -> impl std::any::Any {
    // SAFETY: the set is ours and of the size given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        assert_eq!(
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set),
            0
        );
    }
}

#[test]
fn a_new_route_generation_takes_the_next_hop_anew() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(64);
    rig.serve(Mode::Fullnat);
    let port = source_port(&rig.run(&syn().bytes()).packet);
    let moved = [2, 0, 0, 0, 9, 9];
    rig.backend(
        1,
        Backend {
            addr: words(BACKEND),
            port: 8080u16.to_be(),
            mac: moved,
            link: 1,
            flags: 1,
            ..Backend::default()
        },
    );
    let forwarded = sent(Packet::tcp((LOCAL, port), (BACKEND, 8080), SYN));
    check(&mut rig, &syn(), Verdict::Redirect(EGRESS), &forwarded);
    rig.route_generation(1);
    check(
        &mut rig,
        &syn(),
        Verdict::Redirect(EGRESS),
        &Packet {
            eth_dst: moved,
            ..forwarded
        },
    );
}

/// The schedulers that look at other maps run in the kernel as they do in memory, where they are tested.
#[test]
fn schedulers_by_load_and_persistence_run_in_the_kernel() {
    if !privileged() {
        return;
    }
    for pick in [
        Pick::LeastLoaded as u8,
        Pick::TwoChoices as u8,
        Pick::Next as u8 | PERSISTENT,
        Pick::LeastLoaded as u8 | PERSISTENT,
    ] {
        let mut rig = Rig::new(1024);
        rig.serve(Mode::Dr);
        for number in 2..=3 {
            rig.backend(number, backend_of(number));
        }
        rig.listener_by(VIP, 1, 80, 6, Mode::Dr, pick, &[2, 3]);
        rig.pool(1000);
        for number in 2..=3 {
            rig.load(number, 100);
        }
        let mut to = |port: u16| {
            let packet = Packet::tcp((CLIENT, port), (VIP, 80), SYN);
            let outcome = rig.run(&packet.bytes());
            assert!(matches!(outcome.verdict, Verdict::Redirect(_)));
            outcome.packet[5]
        };
        let counts = (0..100).fold([0u32; 4], |mut counts, n| {
            counts[usize::from(to(1000 + n))] += 1;
            counts
        });
        if pick & PERSISTENT != 0 {
            assert!(counts.contains(&100), "{pick}: {counts:?}");
        } else {
            assert!(counts[2].abs_diff(counts[3]) <= 4, "{pick}: {counts:?}");
        }
    }
}

fn backend_of(number: u16) -> Backend {
    Backend {
        addr: words(BACKEND),
        port: 80u16.to_be(),
        zero: [0; 3],
        mac: [2, 0, 0, 0, 3, number as u8],
        link: 1,
        flags: BACKEND_ACCEPTS,
    }
}

/// A packet of the family of `to`, as it is once it was one of the other family: what both have in common is kept.
fn across(packet: &Packet, src: (IpAddr, u16), dst: (IpAddr, u16), out: &[u8]) -> Packet {
    let l4 = match packet.l4 {
        L4::Tcp { flags, .. } => L4::Tcp {
            src: src.1,
            dst: dst.1,
            flags,
        },
        _ => L4::Udp {
            src: src.1,
            dst: dst.1,
            checksum: true,
        },
    };
    let (id, fragment) = match (src.0, packet.payload.len()) {
        // No flow label.
        (IpAddr::V6(_), _) => (0, 0),
        // May be fragmented further on, with a number of ours.
        (_, ..1200) => (u16::from_be_bytes([out[18], out[19]]), 0),
        _ => (0, 0x4000),
    };
    Packet {
        src: src.0,
        dst: dst.0,
        id,
        fragment,
        options: Vec::new(),
        l4,
        ..packet.clone()
    }
}

#[test]
fn fullnat_leads_from_one_family_to_the_other_and_back() {
    if !privileged() {
        return;
    }
    for (ours, theirs) in [(FAMILIES[0], FAMILIES[1]), (FAMILIES[1], FAMILIES[0])] {
        for (udp, len) in [(false, 4), (true, 5), (false, 1300), (true, 1301)] {
            let mut rig = Rig::new(64);
            rig.serve_across();
            let packet = |src: (IpAddr, u16), dst: (IpAddr, u16), flags| Packet {
                tos: 0x28,
                payload: (0..len).map(|byte| byte as u8).collect(),
                ..if udp {
                    Packet::udp(src, dst)
                } else {
                    Packet::tcp(src, dst, flags)
                }
            };
            let (client, vip) = ((ours.client, PORT), (ours.vip, 80));
            let backend = (theirs.backend, 8080);
            let request = packet(client, vip, SYN);
            let out = rig.run(&request.bytes()).packet;
            let local = (theirs.local, source_port(&out));
            assert!(local.1 >= 1024);
            for flags in [SYN, ACK] {
                let request = packet(client, vip, flags);
                let out = rig.run(&request.bytes());
                assert_eq!(out.verdict, Verdict::Redirect(EGRESS));
                let expected = sent(across(&request, local, backend, &out.packet));
                assert_eq!(out.packet, expected.bytes(), "{request:?}");
                let reply = replies(packet(backend, local, flags | ACK));
                let out = rig.run(&reply.bytes());
                assert_eq!(out.verdict, Verdict::Transmit);
                let expected = answered(across(&reply, vip, client, &out.packet));
                assert_eq!(out.packet, expected.bytes(), "{reply:?}");
            }
            let gone = Packet {
                ttl: 1,
                ..packet(client, vip, ACK)
            };
            check_drop(&mut rig, &gone, Drop::TtlExpired);
            let long = Packet {
                payload: vec![7; 1480],
                ..packet(client, vip, ACK)
            };
            check_drop(&mut rig, &long, Drop::TooBig);
        }
    }
}

#[test]
fn an_ended_session_answers_its_client_with_resets() {
    if !privileged() {
        return;
    }
    for (family, mode) in FAMILIES
        .iter()
        .flat_map(|family| [Mode::Fullnat, Mode::Nat, Mode::Dr].map(|mode| (family, mode)))
    {
        let mut rig = Rig::new(64);
        rig.serve(mode);
        let Addresses { client, vip, .. } = *family;
        let packet = |flags| Packet::tcp((client, PORT), (vip, 80), flags);
        let opened = rig.run(&packet(SYN).bytes());
        let acknowledged = rig.run(&packet(ACK).bytes());
        assert_eq!(acknowledged.verdict, Verdict::Redirect(EGRESS));
        rig.end_sessions();
        // What the packet acknowledges is the number that the client waits for.
        let reset = Packet {
            eth_dst: CLIENT_MAC,
            eth_src: LB_MAC,
            id: 0,
            fragment: 0,
            payload: Vec::new(),
            l4: L4::Reset {
                src: 80,
                dst: PORT,
                sequence: 2,
            },
            ..Packet::tcp((vip, 80), (client, PORT), RST)
        };
        let before = rig.drops(Drop::Removed);
        check(&mut rig, &packet(ACK), Verdict::Transmit, &reset);
        // Also after the next change of routes.
        rig.route_generation(1);
        check(&mut rig, &packet(FIN | ACK), Verdict::Transmit, &reset);
        assert_eq!(rig.drops(Drop::Removed), before + 2);
        // Resets are not answered: the backend hears of them.
        let last = rig.run(&packet(RST | ACK).bytes());
        assert_eq!(last.verdict, Verdict::Redirect(EGRESS));
        assert_eq!(last.packet[..12], opened.packet[..12]);
        assert_eq!(last.packet[26..38], opened.packet[26..38]);
        assert_eq!(rig.run(&packet(FIN).bytes()).verdict, Verdict::Drop);
        // The same ports again are a new session.
        let again = rig.run(&packet(SYN).bytes());
        assert_eq!(again.verdict, Verdict::Redirect(EGRESS));
        let answer = rig.run(&packet(ACK).bytes());
        assert_eq!(answer.verdict, Verdict::Redirect(EGRESS), "{mode:?}");
    }
}

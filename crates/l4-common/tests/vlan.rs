//! Frames with tags: whose they are, and with which tags they leave.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use weir_l4_common::env::Verdict;
use weir_l4_common::link::{Link, TAGGED};
use weir_l4_common::service::Mode;
use weir_l4_common::vlan::{TPID_CUSTOMER, TPID_SERVICE, Tags, VlanKey, tag};
use weir_l4_machine::Machine;
use weir_l4_machine::machine::{BACKEND_MAC, EGRESS, INGRESS, LB_MAC, OTHER_MAC, addresses};
use weir_l4_machine::wire::{CLIENT_MAC, ICMP, Ip, UDP, assert_same, frame};

/// VLAN devices: of the interface that frames come in by, and of the one towards the backends.
const IN: u32 = 100;
const OUT: u32 = 101;

fn client(ipv6: bool) -> IpAddr {
    let addr = if ipv6 {
        "2001:db8:c::7"
    } else {
        "198.51.100.7"
    };
    addr.parse().unwrap()
}

/// Tags of a frame, with the highest priority.
fn with_tags(frame: &[u8], tags: Tags) -> Vec<u8> {
    let tags = tags.into_iter().filter(|tag| *tag != 0);
    let tags: Vec<u8> = tags.flat_map(u32::to_ne_bytes).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

fn with_priority(tags: Tags) -> Tags {
    let priority = u32::from_ne_bytes([0, 0, 0xe0, 0]);
    tags.map(|tag| if tag == 0 { 0 } else { tag | priority })
}

/// Frames come in with `from`, and leave to the backend with `to`.
fn machine(mode: Mode, from: Tags, to: Tags) -> Machine {
    let mut machine = Machine::new(64, mode);
    if from[0] != 0 {
        let key = VlanKey {
            ifindex: INGRESS,
            tags: from,
        };
        machine.vlans.insert(key, IN);
        let link = Link {
            ifindex: INGRESS | TAGGED,
            tags: from,
            ..machine.links[0]
        };
        machine.links.push(link);
        machine.vlan_links.insert(IN, 2);
    }
    if to[0] != 0 {
        let link = machine.links[1];
        machine.links[1] = Link {
            ifindex: EGRESS | TAGGED,
            tags: to,
            ..link
        };
        machine.vlan_links.insert(OUT, 1);
    }
    machine
}

const NONE: Tags = [0; 2];

fn kinds() -> [Tags; 3] {
    let (one, outer, inner) = (
        tag(TPID_CUSTOMER, 100),
        tag(TPID_SERVICE, 4094),
        tag(TPID_CUSTOMER, 7),
    );
    [NONE, [one, 0], [outer, inner]]
}

#[test]
fn frames_leave_with_the_tags_of_their_link() {
    for ipv6 in [false, true] {
        for from in kinds() {
            for to in kinds() {
                let machine = machine(Mode::Fullnat, from, to);
                let [vip, local, backend] = addresses(ipv6);
                let client = client(ipv6);
                let ip = Ip::new(client, vip, UDP);
                let request = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(1000, 80, b"weir")));
                let (verdict, out) = machine.run(&with_tags(&request, with_priority(from)));
                assert_eq!(verdict, Verdict::Redirect(EGRESS), "{from:?} to {to:?}");
                let ports = out.len() - 4 - 8;
                let port = u16::from_be_bytes([out[ports], out[ports + 1]]);
                let ip = Ip {
                    hops: 63,
                    ..Ip::new(local, backend, UDP)
                };
                let expected = frame(
                    BACKEND_MAC,
                    OTHER_MAC,
                    &ip.with(&ip.udp(port, 8080, b"weir")),
                );
                assert_same(&out, &with_tags(&expected, to), "request");

                // The reply goes back the way the request came, with its tags; here it comes without.
                let ip = Ip::new(backend, local, UDP);
                let reply = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(8080, port, b"weir")));
                let (verdict, out) = machine.run(&reply);
                assert_eq!(verdict, Verdict::Transmit);
                let ip = Ip {
                    hops: 63,
                    ..Ip::new(vip, client, UDP)
                };
                let expected = frame(CLIENT_MAC, LB_MAC, &ip.with(&ip.udp(80, 1000, b"weir")));
                assert_same(&out, &with_tags(&expected, from), "reply");
            }
        }
    }
}

#[test]
fn what_is_answered_goes_back_with_its_tags() {
    for ipv6 in [false, true] {
        for from in kinds() {
            let machine = machine(Mode::Dr, from, NONE);
            let [vip, ..] = addresses(ipv6);
            let from = with_priority(from);
            let ip = Ip::new(client(ipv6), vip, ICMP);
            let kind = if ipv6 { 128 } else { 8 };
            let ping = frame(
                LB_MAC,
                CLIENT_MAC,
                &ip.with(&ip.icmp(kind, 0, [0, 1, 0, 2], b"")),
            );
            let far = Ip {
                hops: 1,
                ..Ip::new(client(ipv6), vip, UDP)
            };
            let far = frame(LB_MAC, CLIENT_MAC, &far.with(&far.udp(1000, 80, b"weir")));
            for packet in [ping, far] {
                let (verdict, out) = machine.run(&with_tags(&packet, from));
                assert_eq!(verdict, Verdict::Transmit);
                let tags = with_tags(&[0; 12], from);
                assert_eq!(out[12..tags.len()], tags[12..]);
                assert_eq!(out[..12], [CLIENT_MAC, LB_MAC].concat());
            }
        }
    }
}

#[test]
fn fragments_follow_the_first_one_into_a_vlan_and_may_be_short() {
    for from in kinds() {
        for to in kinds() {
            let machine = machine(Mode::Nat, from, to);
            let [vip, _, backend] = addresses(false);
            let piece = |dst, hops, fragment, l4: &[u8]| {
                let ip = Ip {
                    fragment: Some((7, fragment)),
                    hops,
                    ..Ip::new(client(false), dst, UDP)
                };
                ip.with(l4)
            };
            let (before, after) = (
                Ip::new(client(false), vip, UDP).udp(1000, 80, &[1; 17]),
                Ip::new(client(false), backend, UDP).udp(1000, 8080, &[1; 17]),
            );
            for (fragment, range) in [(0x2000, 0..24), (3, 24..25)] {
                let request = piece(vip, 64, fragment, &before[range.clone()]);
                let request = frame(LB_MAC, CLIENT_MAC, &request);
                let (verdict, out) = machine.run(&with_tags(&request, from));
                assert_eq!(verdict, Verdict::Redirect(EGRESS));
                let sent = piece(backend, 63, fragment, &after[range]);
                let sent = frame(BACKEND_MAC, OTHER_MAC, &sent);
                assert_same(&out, &with_tags(&sent, to), "fragment");
            }
        }
    }
}

#[test]
fn a_tag_that_names_no_vlan_is_as_none() {
    let machine = machine(Mode::Nat, NONE, NONE);
    let [vip, _, backend] = addresses(false);
    let ip = Ip::new(client(false), vip, UDP);
    let request = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(1000, 80, b"weir")));
    let priority = with_priority([tag(TPID_CUSTOMER, 0), 0]);
    let (verdict, out) = machine.run(&with_tags(&request, priority));
    assert_eq!(verdict, Verdict::Redirect(EGRESS));
    let ip = Ip {
        hops: 63,
        ..Ip::new(client(false), backend, UDP)
    };
    let sent = ip.with(&ip.udp(1000, 8080, b"weir"));
    assert_same(&out, &frame(BACKEND_MAC, OTHER_MAC, &sent), "request");
}

#[test]
fn tagged_frames_that_are_not_ours_reach_the_kernel_as_they_came() {
    let [vip, ..] = addresses(false);
    let ip = Ip::new(client(false), vip, UDP);
    let ours = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(1000, 80, b"weir")));
    let foreign = frame(LB_MAC, CLIENT_MAC, &ip.with(&ip.udp(1000, 53, b"weir")));
    let [_, one, two] = kinds();
    let three = with_tags(&with_tags(&ours, one), two);
    for known in [one, two] {
        let machine = machine(Mode::Nat, known, NONE);
        let stranger = [tag(TPID_CUSTOMER, 101), 0];
        let mut cases = vec![
            with_tags(&ours, stranger),
            with_tags(&foreign, with_priority(known)),
        ];
        cases.push(three.clone());
        let tagged = with_tags(&foreign, known);
        cases.extend((0..tagged.len()).map(|len| tagged[..len].to_vec()));
        for packet in cases {
            assert_eq!(machine.run(&packet), (Verdict::Pass, packet));
        }
    }
}

//! Frames with tags through the program in the kernel: of sessions in every mode and family, in and out of VLANs.
#![allow(clippy::unwrap_used)]

mod rig;

use rig::{
    ACK, Addresses, BACKEND_MAC, CLIENT_MAC, EGRESS, FAMILIES, INGRESS, LB_MAC, OTHER_MAC, Packet,
    Rig, SYN, privileged, source_port,
};
use weir_l4_common::env::Verdict;
use weir_l4_common::service::{Listener, Mode};
use weir_l4_common::vlan::{TPID_CUSTOMER, TPID_SERVICE, Tags, tag};

const PORT: u16 = 40_000;
const NONE: Tags = [0; 2];
/// VLAN devices, as numbers of the kernel's: of the interface that frames come in by, and of the one to the backends.
const IN: u32 = 100;
const OUT: u32 = 101;

/// No tag, one, two.
fn kinds() -> [Tags; 3] {
    let (customer, service) = (tag(TPID_CUSTOMER, 100), tag(TPID_SERVICE, 4094));
    [NONE, [customer, 0], [service, customer]]
}

/// The frame of a packet, with tags.
fn tagged(packet: &Packet, tags: Tags) -> Vec<u8> {
    let frame = packet.bytes();
    let tags: Vec<u8> = tags
        .into_iter()
        .filter(|tag| *tag != 0)
        .flat_map(u32::to_ne_bytes)
        .collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// From now on requests come in with the tags `from`, and leave to the backend with `to`.
fn lead(rig: &mut Rig, from: Tags, to: Tags) {
    if from != NONE {
        rig.vlan(IN, INGRESS, from, 2, LB_MAC);
    }
    if to == NONE {
        rig.link(1, EGRESS, OTHER_MAC);
    } else {
        rig.vlan(OUT, EGRESS, to, 1, OTHER_MAC);
    }
}

fn serving(mode: Mode) -> Rig {
    let mut rig = Rig::new(64);
    rig.serve(mode);
    rig
}

#[track_caller]
fn check(rig: &mut Rig, input: &[u8], verdict: Verdict, expected: &[u8]) {
    let outcome = rig.run(input);
    assert_eq!(outcome.verdict, verdict);
    assert_eq!(outcome.packet, expected, "packet out");
}

/// A SYN and what follows it, there and back.
fn converse(rig: &mut Rig, mode: Mode, family: Addresses, client_port: u16, [from, to]: [Tags; 2]) {
    let Addresses {
        client,
        vip,
        local,
        backend,
    } = family;
    lead(rig, from, to);
    let request = |flags| Packet::tcp((client, client_port), (vip, 80), flags);
    let mut port = client_port;
    for flags in [SYN, ACK] {
        let packet = tagged(&request(flags), from);
        let sent = match mode {
            Mode::Fullnat => {
                let at = 4 * to.iter().filter(|tag| **tag != 0).count();
                let mut out = rig.run(&packet).packet;
                out.drain(12..12 + at);
                port = source_port(&out);
                Packet::tcp((local, port), (backend, 8080), flags)
            }
            Mode::Nat => Packet::tcp((client, client_port), (backend, 8080), flags),
            _ => request(flags),
        };
        let sent = Packet {
            eth_src: OTHER_MAC,
            eth_dst: BACKEND_MAC,
            ttl: 63,
            ..sent
        };
        check(rig, &packet, Verdict::Redirect(EGRESS), &tagged(&sent, to));
    }
    // Whatever a reply comes with, here none: it leaves the way that requests come.
    let to = match mode {
        Mode::Fullnat => (local, port),
        Mode::Nat => (client, client_port),
        _ => return,
    };
    let reply = Packet::tcp((backend, 8080), to, SYN | ACK);
    let answered = Packet {
        eth_src: LB_MAC,
        eth_dst: CLIENT_MAC,
        ttl: 63,
        ..Packet::tcp((vip, 80), (client, client_port), SYN | ACK)
    };
    check(
        rig,
        &reply.bytes(),
        Verdict::Transmit,
        &tagged(&answered, from),
    );
}

#[test]
fn sessions_lead_into_vlans_and_out_of_them() {
    if !privileged() {
        return;
    }
    for mode in [Mode::Fullnat, Mode::Nat, Mode::Dr] {
        let mut rig = serving(mode);
        let ways = kinds()
            .into_iter()
            .flat_map(|from| kinds().map(|to| [from, to]));
        for (port, way) in (PORT..).zip(ways) {
            for family in FAMILIES {
                converse(&mut rig, mode, family, port, way);
            }
        }
    }
}

#[test]
fn the_tags_of_a_tunnel_are_in_front_of_its_outer_header() {
    if !privileged() {
        return;
    }
    let [_, one, two] = kinds();
    let mut rig = serving(Mode::Tunnel);
    for family in FAMILIES {
        lead(&mut rig, one, NONE);
        rig.serve_tunnel(family, family, Listener::default());
        let syn = Packet::tcp((family.client, PORT), (family.vip, 80), SYN);
        let plain = rig.run(&tagged(&syn, one));
        assert_eq!(plain.verdict, Verdict::Redirect(EGRESS));
        lead(&mut rig, one, two);
        let ack = Packet::tcp((family.client, PORT), (family.vip, 80), ACK);
        let sent = rig.run(&tagged(&ack, one));
        assert_eq!(sent.verdict, Verdict::Redirect(EGRESS));
        let tags: Vec<u8> = two.into_iter().flat_map(u32::to_ne_bytes).collect();
        assert_eq!(sent.packet[..12], plain.packet[..12]);
        assert_eq!(sent.packet[12..20], tags);
        assert_eq!(sent.packet.len(), plain.packet.len() + 8);
        // The outer header is the same but for what the kind of packet changes of it: nothing here.
        let header = if family.vip.is_ipv4() { 20 } else { 40 };
        assert_eq!(sent.packet[20..22 + header], plain.packet[12..14 + header]);
    }
}

#[test]
fn tagged_frames_that_are_not_ours_reach_the_kernel_as_they_came() {
    if !privileged() {
        return;
    }
    let [_, one, two] = kinds();
    let mut rig = serving(Mode::Fullnat);
    lead(&mut rig, two, NONE);
    for family in FAMILIES {
        let ours = Packet::tcp((family.client, PORT), (family.vip, 80), SYN);
        let foreign = Packet::tcp((family.client, PORT), (family.client, 80), SYN);
        for frame in [tagged(&ours, one), tagged(&foreign, two)] {
            check(&mut rig, &frame, Verdict::Pass, &frame);
        }
    }
}

#[test]
fn pings_of_a_vip_are_answered_in_their_vlan() {
    if !privileged() {
        return;
    }
    let mut rig = serving(Mode::Dr);
    for family in FAMILIES {
        for tags in kinds() {
            lead(&mut rig, tags, NONE);
            let outcome = rig.run(&tagged(&Packet::echo(family.client, family.vip), tags));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            let expected = tagged(&Packet::echo(family.vip, family.client), tags);
            assert_eq!(outcome.packet.len(), expected.len());
            let at = expected.len() - Packet::echo(family.vip, family.client).bytes().len();
            assert_eq!(outcome.packet[12..14 + at], expected[12..14 + at]);
            assert_eq!(outcome.packet[..12], [CLIENT_MAC, LB_MAC].concat());
        }
    }
}

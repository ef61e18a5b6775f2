//! Packets that are not plain: with options or extension headers, in fragments, errors of ICMP, both relayed and our own.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::service::Mode;
use weir_l4_machine::machine::{
    BACKEND_MAC, EGRESS, FRAGMENT_TIMEOUT, LB_MAC, Machine, OTHER_MAC, addresses, be, words,
};
use weir_l4_machine::wire::{CLIENT_MAC, ICMP, Ip, More, TCP, UDP, assert_same, frame};

const PORT: u16 = 40_000;
const SYN: u8 = 2;
const ACK: u8 = 16;
const MODES: [Mode; 4] = [Mode::Fullnat, Mode::Nat, Mode::Dr, Mode::Tunnel];

/// A machine in a mode, and the addresses of a family.
struct Scene {
    machine: Machine,
    mode: Mode,
    client: IpAddr,
    router: IpAddr,
    vip: IpAddr,
    local: IpAddr,
    backend: IpAddr,
}

impl Scene {
    fn new(mode: Mode, ipv6: bool) -> Self {
        let [vip, local, backend] = addresses(ipv6);
        let (client, router) = if ipv6 {
            ("2001:db8:c::7", "2001:db8:f::77")
        } else {
            ("198.51.100.7", "192.0.2.77")
        };
        Self {
            machine: Machine::new(64, mode),
            mode,
            client: client.parse().unwrap(),
            router: router.parse().unwrap(),
            vip,
            local,
            backend,
        }
    }

    /// Every mode in both families.
    fn all() -> impl Iterator<Item = Self> {
        MODES
            .into_iter()
            .flat_map(|mode| [Self::new(mode, false), Self::new(mode, true)])
    }

    /// The same, where replies come back through us.
    fn both_ways() -> impl Iterator<Item = Self> {
        Self::all().filter(Self::has_replies)
    }

    fn has_replies(&self) -> bool {
        matches!(self.mode, Mode::Fullnat | Mode::Nat)
    }

    fn is_ipv6(&self) -> bool {
        self.vip.is_ipv6()
    }

    fn header_len(&self) -> usize {
        if self.is_ipv6() { 40 } else { 20 }
    }

    fn run(&self, ip: &[u8]) -> (Verdict, Vec<u8>) {
        self.machine.run(&arrived(ip))
    }

    /// Runs a packet that is to be forwarded to the backend, and gives it as the backend sees it.
    #[track_caller]
    fn forwarded(&self, ip: &[u8]) -> Vec<u8> {
        let (verdict, out) = self.run(ip);
        assert_eq!(verdict, Verdict::Redirect(EGRESS), "{:?}", self.mode);
        if !matches!(self.mode, Mode::Tunnel) {
            return out;
        }
        let outer = 14 + self.header_len();
        match self.backend {
            IpAddr::V4(backend) => assert_eq!((out[23], &out[30..34]), (4, &backend.octets()[..])),
            IpAddr::V6(backend) => assert_eq!((out[20], &out[38..54]), (41, &backend.octets()[..])),
        }
        [&out[..14], &out[outer..]].concat()
    }

    /// How a packet from the client's port to the VIP's looks behind the rewrite: source and destination.
    fn behind(&self) -> ((IpAddr, u16), (IpAddr, u16)) {
        match self.mode {
            Mode::Fullnat => ((self.local, self.local_port()), (self.backend, 8080)),
            Mode::Nat => ((self.client, PORT), (self.backend, 8080)),
            Mode::Dr | Mode::Tunnel => ((self.client, PORT), (self.vip, 80)),
        }
    }

    fn local_port(&self) -> u16 {
        let ports = match self.local {
            IpAddr::V4(local) => {
                let flows = self.machine.flows4();
                flows
                    .iter()
                    .find(|flow| flow.dst == be(local))
                    .unwrap()
                    .dst_port()
            }
            IpAddr::V6(local) => {
                let flows = self.machine.flows6();
                let reply = flows.iter().find(|flow| flow.dst.words() == words(local));
                reply.unwrap().dst_port()
            }
        };
        u16::from_be(ports)
    }

    fn flows(&self) -> usize {
        self.machine.flows4().len() + self.machine.flows6().len()
    }

    fn open(&self, proto: u8) {
        let ip = Ip::new(self.client, self.vip, proto);
        self.forwarded(&ip.with(&segment(&ip, PORT, 80, SYN)));
    }

    /// What may stand between the header and the payload.
    fn between(&self) -> Vec<More> {
        if self.is_ipv6() {
            let routing = |left| (43, vec![3, left, 0, 0, 0, 0]);
            vec![
                More::Extensions(vec![(0, vec![1, 4, 0, 0, 0, 0])]),
                More::Extensions(vec![(60, vec![1; 14]), routing(0), (60, vec![1; 22])]),
            ]
        } else {
            vec![
                More::Options(vec![1, 1, 1, 0]),
                More::Options([7, 39, 4, 0, 0, 0, 0, 0].repeat(5)),
            ]
        }
    }

    /// Errors with what is behind their checksum.
    fn errors(&self) -> [(u8, u8, [u8; 4]); 4] {
        if self.is_ipv6() {
            [
                (1, 4, [0; 4]),
                (2, 0, [0, 0, 5, 0x78]),
                (3, 0, [0; 4]),
                (4, 1, [0, 0, 0, 6]),
            ]
        } else {
            [
                (3, 3, [0; 4]),
                (3, 4, [0, 0, 5, 0x78]),
                (11, 0, [0; 4]),
                (12, 0, [9, 0, 0, 0]),
            ]
        }
    }

    /// What we ourselves say.
    fn refusal(&self, source: IpAddr, to: IpAddr, too_big: Option<u16>, quoted: &[u8]) -> Vec<u8> {
        let longest = if self.is_ipv6() { 1280 - 48 } else { 576 - 28 };
        let quoted = &quoted[..quoted.len().min(longest) & !3];
        let ip = Ip::new(source, to, ICMP);
        let (kind, code) = match (self.is_ipv6(), too_big) {
            (false, None) => (11, 0),
            (false, Some(_)) => (3, 4),
            (true, None) => (3, 0),
            (true, Some(_)) => (2, 0),
        };
        let [high, low] = too_big.unwrap_or(0).to_be_bytes();
        let mut packet = ip.with(&ip.icmp(kind, code, [0, 0, high, low], quoted));
        if self.is_ipv6() {
            // Ours have neither traffic class nor flow label.
            packet[1..4].fill(0);
        }
        frame(CLIENT_MAC, LB_MAC, &packet)
    }
}

/// To the load balancer.
fn arrived(ip: &[u8]) -> Vec<u8> {
    frame(LB_MAC, CLIENT_MAC, ip)
}

/// What leaves towards the backend.
fn to_backend(ip: &[u8]) -> Vec<u8> {
    frame(BACKEND_MAC, OTHER_MAC, ip)
}

/// What leaves towards the client.
fn to_client(ip: &[u8]) -> Vec<u8> {
    frame(CLIENT_MAC, LB_MAC, ip)
}

fn segment(ip: &Ip, src: u16, dst: u16, flags: u8) -> Vec<u8> {
    if ip.proto == TCP {
        ip.tcp(src, dst, flags, &[])
    } else {
        ip.udp(src, dst, b"weir")
    }
}

#[test]
fn packets_with_options_go_the_way_of_those_without() {
    for proto in [TCP, UDP] {
        for scene in Scene::all() {
            for more in scene.between() {
                let scene = Scene::new(scene.mode, scene.is_ipv6());
                let with = |src, dst, hops| Ip {
                    more: more.clone(),
                    hops,
                    ..Ip::new(src, dst, proto)
                };
                for flags in [SYN, ACK] {
                    let ip = with(scene.client, scene.vip, 64);
                    let out = scene.forwarded(&ip.with(&segment(&ip, PORT, 80, flags)));
                    let (src, dst) = scene.behind();
                    let ip = with(src.0, dst.0, 63);
                    let expected = to_backend(&ip.with(&segment(&ip, src.1, dst.1, flags)));
                    assert_same(&out, &expected, "request");
                }
                if scene.has_replies() {
                    let (src, dst) = scene.behind();
                    let ip = with(dst.0, src.0, 64);
                    let (verdict, out) = scene.run(&ip.with(&segment(&ip, dst.1, src.1, ACK)));
                    assert_eq!(verdict, Verdict::Transmit);
                    let ip = with(scene.vip, scene.client, 63);
                    assert_same(
                        &out,
                        &to_client(&ip.with(&segment(&ip, 80, PORT, ACK))),
                        "reply",
                    );
                }
            }
        }
    }
}

#[test]
fn what_leads_nowhere_reaches_the_kernel() {
    let scene = Scene::new(Mode::Fullnat, true);
    let header = |number| (number, vec![0; 6]);
    for extensions in [
        // A station is still to come: the ports are not this destination's.
        vec![(43, vec![3, 1, 0, 0, 0, 0])],
        vec![header(60); 7],
        vec![(60, vec![0; 254])],
        vec![header(50)],
        vec![header(59)],
    ] {
        let more = More::Extensions(extensions);
        let ip = Ip {
            more,
            ..Ip::new(scene.client, scene.vip, UDP)
        };
        let packet = arrived(&ip.with(&ip.udp(PORT, 80, b"weir")));
        assert_eq!(scene.machine.run(&packet), (Verdict::Pass, packet));
    }
    assert_eq!(scene.flows(), 0);
}

#[test]
fn headers_that_lie_about_their_length_are_malformed_or_foreign() {
    for ipv6 in [false, true] {
        let scene = Scene::new(Mode::Fullnat, ipv6);
        for more in scene.between() {
            let ip = Ip {
                more,
                ..Ip::new(scene.client, scene.vip, UDP)
            };
            let whole = arrived(&ip.with(&ip.udp(PORT, 80, b"weir")));
            for len in 0..whole.len() {
                let (verdict, out) = scene.machine.run(&whole[..len]);
                assert!(matches!(verdict, Verdict::Pass | Verdict::Drop), "{len}");
                assert_eq!(out, &whole[..len]);
            }
            let at = if ipv6 { 55 } else { 14 };
            for length in (0..=4).chain([0x1f, 0xff]) {
                let mut lies = whole.clone();
                lies[at] = if ipv6 { length } else { 0x40 | length & 0xf };
                if lies == whole {
                    continue;
                }
                let (verdict, out) = scene.machine.run(&lies);
                assert!(matches!(verdict, Verdict::Pass | Verdict::Drop), "{length}");
                assert_eq!(out, lies);
            }
        }
        assert_eq!(scene.flows(), 0);
    }
}

/// The fragments of a datagram of 3000 bytes.
fn fragments(ip: &Ip, id: u16, src: u16, dst: u16) -> [Vec<u8>; 3] {
    let payload: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
    let datagram = ip.udp(src, dst, &payload);
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
fn fragments_follow_the_first_one() {
    for scene in Scene::all() {
        let request = Ip::new(scene.client, scene.vip, UDP);
        let sent = fragments(&request, 7, PORT, 80);
        // Before the first one nobody knows whose they are.
        let early = arrived(&sent[1]);
        assert_eq!(scene.machine.run(&early), (Verdict::Pass, early.clone()));
        let outs = sent.map(|packet| scene.forwarded(&packet));
        let (src, dst) = scene.behind();
        let rewritten = Ip {
            hops: 63,
            ..Ip::new(src.0, dst.0, UDP)
        };
        for (out, expected) in outs.iter().zip(fragments(&rewritten, 7, src.1, dst.1)) {
            assert_same(out, &to_backend(&expected), "fragment");
        }
        if scene.has_replies() {
            let reply = Ip::new(dst.0, src.0, UDP);
            let rewritten = Ip {
                hops: 63,
                ..Ip::new(scene.vip, scene.client, UDP)
            };
            let replies = fragments(&reply, 8, dst.1, src.1);
            for (packet, expected) in replies.iter().zip(fragments(&rewritten, 8, 80, PORT)) {
                let (verdict, out) = scene.run(packet);
                assert_eq!(verdict, Verdict::Transmit);
                assert_same(&out, &to_client(&expected), "fragment of a reply");
            }
        }
        // Another datagram, another time.
        let other = fragments(&request, 9, PORT, 80);
        assert_eq!(scene.run(&other[1]).0, Verdict::Pass);
        let jiffies = &scene.machine.jiffies;
        jiffies.set(jiffies.get() + FRAGMENT_TIMEOUT);
        assert_eq!(scene.machine.run(&early).0, Verdict::Pass);
    }
}

#[test]
fn the_last_fragment_may_be_one_byte_and_the_only_one_is_none() {
    for scene in Scene::all() {
        let piece = |fragment, l4: &[u8]| {
            let fragment = Some((7, fragment));
            let ip = Ip {
                fragment,
                ..Ip::new(scene.client, scene.vip, UDP)
            };
            ip.with(l4)
        };
        let whole = Ip::new(scene.client, scene.vip, UDP);
        scene.forwarded(&piece(0x2000, &whole.udp(PORT, 80, &[1; 16])));
        scene.forwarded(&piece(3, b"!"));
        if scene.is_ipv6() {
            let atomic = scene.forwarded(&piece(0, &whole.udp(PORT, 80, b"weir")));
            assert_eq!(atomic[20], 44);
        }
    }
}

#[test]
fn fragments_that_are_not_ours_reach_the_kernel() {
    for ipv6 in [false, true] {
        let scene = Scene::new(Mode::Fullnat, ipv6);
        for packet in fragments(&Ip::new(scene.client, scene.vip, UDP), 7, PORT, 53) {
            let packet = arrived(&packet);
            assert_eq!(scene.machine.run(&packet), (Verdict::Pass, packet));
        }
    }
}

#[test]
fn a_flood_of_fragments_costs_no_session_and_the_newest_datagrams_go_on() {
    let scene = Scene::new(Mode::Nat, false);
    scene.open(TCP);
    scene.open(UDP);
    let flows = scene.flows();
    let piece = |id: u16, fragment: u16, payload: &[u8]| {
        let fragment = Some((id, fragment));
        Ip {
            fragment,
            ..Ip::new(scene.client, scene.vip, UDP)
        }
        .with(payload)
    };
    let datagram = Ip::new(scene.client, scene.vip, UDP).udp(PORT, 80, b"");
    for id in 0..60_000 {
        scene.forwarded(&piece(id, 0x2000, &datagram));
    }
    assert_eq!(scene.flows(), flows);
    scene.forwarded(&piece(59_999, 1, b"last"));
    let ip = Ip::new(scene.client, scene.vip, TCP);
    scene.forwarded(&ip.with(&ip.tcp(PORT, 80, ACK, &[])));
}

#[test]
fn errors_about_requests_come_to_the_client_as_if_about_his_packet() {
    for proto in [TCP, UDP] {
        for scene in Scene::both_ways() {
            scene.open(proto);
            let (src, dst) = scene.behind();
            let packet = |src: (IpAddr, u16), dst: (IpAddr, u16)| {
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
            let (sent, seen) = (
                packet(src, dst),
                packet((scene.client, PORT), (scene.vip, 80)),
            );
            for from in [scene.router, scene.backend] {
                for (kind, code, rest) in scene.errors() {
                    // The least that there may be behind the header, and more.
                    for behind in [8, 13, 18, 1000] {
                        let quote = (scene.header_len() + behind).min(sent.len());
                        for more in scene.between().into_iter().chain([More::Nothing]) {
                            let error = |src, dst, hops, quoted: &[u8]| {
                                let more = more.clone();
                                let ip = Ip {
                                    hops,
                                    more,
                                    ..Ip::new(src, dst, ICMP)
                                };
                                ip.with(&ip.icmp(kind, code, rest, quoted))
                            };
                            let (verdict, out) = scene.run(&error(from, src.0, 64, &sent[..quote]));
                            assert_eq!(verdict, Verdict::Transmit, "{:?} {kind}", scene.mode);
                            let expected = error(scene.vip, scene.client, 63, &seen[..quote]);
                            assert_same(&out, &to_client(&expected), "error");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn errors_about_replies_come_to_the_backend_as_if_about_its_packet() {
    for proto in [TCP, UDP] {
        for scene in Scene::all() {
            scene.open(proto);
            let (src, dst) = scene.behind();
            let packet = |src: (IpAddr, u16), dst: (IpAddr, u16)| {
                let ip = Ip::new(src.0, dst.0, proto);
                ip.with(&segment(&ip, src.1, dst.1, ACK))
            };
            // What the backend sent, and what the client's side saw of it.
            let (sent, seen) = (
                packet(dst, src),
                packet((scene.vip, 80), (scene.client, PORT)),
            );
            for (kind, code, rest) in scene.errors() {
                let error = |src, dst, hops, quoted: &[u8]| {
                    let ip = Ip {
                        hops,
                        ..Ip::new(src, dst, ICMP)
                    };
                    ip.with(&ip.icmp(kind, code, rest, quoted))
                };
                let out = scene.forwarded(&error(scene.router, scene.vip, 64, &seen));
                let fullnat = matches!(scene.mode, Mode::Fullnat);
                let source = if fullnat { scene.local } else { scene.router };
                assert_same(&out, &to_backend(&error(source, dst.0, 63, &sent)), "error");
            }
        }
    }
}

#[test]
fn errors_about_what_is_not_ours_reach_the_kernel() {
    for ipv6 in [false, true] {
        let scene = Scene::new(Mode::Fullnat, ipv6);
        scene.open(UDP);
        let (src, dst) = scene.behind();
        let ip = Ip::new(src.0, dst.0, UDP);
        let ours = ip.with(&ip.udp(src.1, dst.1, b"weir"));
        let stranger = ip.with(&ip.udp(src.1, dst.1 + 1, b"weir"));
        let later = Ip {
            fragment: Some((7, 5)),
            ..ip.clone()
        }
        .with(b"0123456789");
        let (unreachable, others) = if ipv6 {
            (1, [137, 128, 0])
        } else {
            (3, [5, 8, 4])
        };
        let short = &ours[..scene.header_len() + 7];
        let quotes = [&stranger[..], short, &later, &[]].map(|quote| (unreachable, quote));
        for (kind, quote) in quotes
            .into_iter()
            .chain(others.map(|kind| (kind, &ours[..])))
        {
            let ip = Ip::new(scene.router, scene.local, ICMP);
            let packet = arrived(&ip.with(&ip.icmp(kind, 0, [0; 4], quote)));
            assert_eq!(
                scene.machine.run(&packet),
                (Verdict::Pass, packet),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_packet_that_has_come_too_far_is_answered() {
    for scene in Scene::all() {
        scene.open(UDP);
        let ip = Ip {
            hops: 1,
            ..Ip::new(scene.client, scene.vip, UDP)
        };
        for len in [4, 5, 1400] {
            let packet = ip.with(&ip.udp(PORT, 80, &vec![7; len]));
            let (verdict, out) = scene.run(&packet);
            assert_eq!(verdict, Verdict::Transmit);
            let expected = scene.refusal(scene.vip, scene.client, None, &packet);
            assert_same(&out, &expected, "time exceeded");
        }
        let drops = scene.machine.drops.borrow();
        assert_eq!(drops.as_slice(), [Drop::TtlExpired; 3]);
    }
}

#[test]
fn a_reply_that_has_come_too_far_is_answered_by_whom_the_backend_sent_it_to() {
    for scene in Scene::both_ways() {
        scene.open(TCP);
        let source = if matches!(scene.mode, Mode::Fullnat) {
            scene.local
        } else {
            scene.vip
        };
        let (src, dst) = scene.behind();
        for more in scene.between() {
            let ip = Ip {
                hops: 1,
                more,
                ..Ip::new(dst.0, src.0, TCP)
            };
            let packet = ip.with(&ip.tcp(dst.1, src.1, ACK, &[]));
            let (verdict, out) = scene.run(&packet);
            assert_eq!(verdict, Verdict::Transmit);
            let expected = scene.refusal(source, scene.backend, None, &packet);
            assert_same(&out, &expected, "time exceeded");
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_its_way_is_answered_with_what_does() {
    for scene in Scene::all() {
        scene.open(UDP);
        let tunnel = matches!(scene.mode, Mode::Tunnel);
        let fits = 1500 - if tunnel { scene.header_len() } else { 0 };
        let ip = Ip {
            dont_fragment: true,
            ..Ip::new(scene.client, scene.vip, UDP)
        };
        let packet = |len: usize| {
            let payload = vec![3; len - scene.header_len() - 8];
            ip.with(&ip.udp(PORT, 80, &payload))
        };
        scene.forwarded(&packet(fits));
        let larger = packet(fits + 1);
        let (verdict, out) = scene.run(&larger);
        assert_eq!(verdict, Verdict::Transmit);
        let expected = scene.refusal(scene.vip, scene.client, Some(fits as u16), &larger);
        assert_same(&out, &expected, "too big");
        assert_eq!(scene.machine.drops.borrow().as_slice(), [Drop::TooBig]);
    }
}

#[test]
fn errors_of_our_own_are_bounded_and_never_about_what_must_not_have_one() {
    for ipv6 in [false, true] {
        let scene = Scene::new(Mode::Nat, ipv6);
        let expired = |src| {
            let ip = Ip {
                hops: 1,
                ..Ip::new(src, scene.vip, UDP)
            };
            ip.with(&ip.udp(PORT, 80, b"weir"))
        };
        let unheard = if ipv6 {
            vec!["::", "ff02::1"]
        } else {
            vec!["224.0.0.1", "0.0.0.0", "255.255.255.255", "127.0.0.1"]
        };
        for src in unheard {
            let src: IpAddr = src.parse().unwrap();
            assert_eq!(scene.run(&expired(src)).0, Verdict::Drop, "{src}");
        }
        let mut to_all = arrived(&expired(scene.client));
        to_all[..6].fill(0xff);
        assert_eq!(scene.machine.run(&to_all).0, Verdict::Drop);
        if !ipv6 {
            let first = Ip {
                fragment: Some((7, 0x2000)),
                ..Ip::new(scene.client, scene.vip, UDP)
            };
            scene.forwarded(&first.with(&first.udp(PORT, 80, b"weir")));
            let later = Ip {
                hops: 1,
                fragment: Some((7, 9)),
                ..first
            };
            assert_eq!(scene.run(&later.with(b"01234567")).0, Verdict::Drop);
        }
        let answers = |times: u32| {
            let packet = expired(scene.client);
            let answers = (0..times).filter(|_| scene.run(&packet).0 == Verdict::Transmit);
            answers.count()
        };
        assert_eq!(answers(100), 8);
        let jiffies = &scene.machine.jiffies;
        jiffies.set(jiffies.get() + 1);
        assert_eq!(answers(1), 1);
    }
}

#[test]
fn segments_are_made_to_fit_both_links() {
    for scene in Scene::all() {
        let tunnel = matches!(scene.mode, Mode::Tunnel);
        let header = scene.header_len() as u16;
        let plain = 1500 - header - 20;
        let size = if tunnel { plain - header } else { plain };
        let options = |size: u16| [&[2, 4][..], &size.to_be_bytes(), &[1, 1, 4, 2]].concat();
        let ip = Ip::new(scene.client, scene.vip, TCP);
        let out = scene.forwarded(&ip.with(&ip.tcp(PORT, 80, SYN, &options(8960))));
        let (src, dst) = scene.behind();
        let ip = Ip {
            hops: 63,
            ..Ip::new(src.0, dst.0, TCP)
        };
        let expected = to_backend(&ip.with(&ip.tcp(src.1, dst.1, SYN, &options(size))));
        assert_same(&out, &expected, "SYN");
        if scene.has_replies() {
            let ip = Ip::new(dst.0, src.0, TCP);
            let reply = ip.with(&ip.tcp(dst.1, src.1, SYN | ACK, &options(8960)));
            let (_, out) = scene.run(&reply);
            let ip = Ip {
                hops: 63,
                ..Ip::new(scene.vip, scene.client, TCP)
            };
            let expected = to_client(&ip.with(&ip.tcp(80, PORT, SYN | ACK, &options(plain))));
            assert_same(&out, &expected, "SYN and ACK");
        }
    }
}

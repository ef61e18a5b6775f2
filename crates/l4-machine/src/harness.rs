//! Sequences of packets made of a fuzzer's bytes, and what must hold for each of them.
//!
//! The bytes are a script: a mode, and then one packet after the other, built right and then damaged. So that sessions
//! come about, addresses and ports are few. Whatever the script says:
//!
//! - What goes to the kernel is as it came, byte for byte; so is what is dropped.
//! - What leaves has checksums that are right where they were right on arrival, and wrong where they were wrong: nothing
//!   is repaired, and nothing broken.
//! - What leaves says of itself how long it is, and is no longer than the frame.
//! - A dropped packet is counted. No flow has two lines.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use weir_l4_common::checksum;
use weir_l4_common::env::Verdict;
use weir_l4_common::service::{Encapsulation, Mode};

use crate::Machine;
use crate::machine::{LB_MAC, addresses};
use crate::wire::{self, CLIENT_MAC, ICMP, Ip, More, TCP, UDP};

/// Packets of a script that are run; more would not find more.
const PACKETS_MAX: usize = 64;

/// A fuzzer's bytes, taken one after the other; zeros behind the end.
struct Script<'a> {
    bytes: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// What became of a script's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Went to the kernel.
    pub passed: usize,
    /// Were dropped.
    pub dropped: usize,
    /// Were answered by an error of our own.
    pub refused: usize,
    /// Left as what they are, errors and pings apart.
    pub forwarded: usize,
    /// Of those, IPv6 on arrival.
    pub forwarded6: usize,
    /// Pings that were answered, and errors that were sent on.
    pub icmp: usize,
}

/// What runs packets: the machine in memory, or the program in the kernel.
pub trait Subject {
    /// Runs one packet; the verdict, and the packet as it is then.
    fn run(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>);
    /// Packets dropped and counted so far.
    fn drops(&mut self) -> u64;
    /// Lets some jiffies pass, if the clock is the subject's own.
    fn wait(&mut self, jiffies: u32);
    /// Looks for what must not be in the subject's own state.
    fn inspect(&mut self);
}

impl Subject for Machine {
    fn run(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        Machine::run(self, packet)
    }

    fn drops(&mut self) -> u64 {
        self.drops.borrow().len() as u64
    }

    fn wait(&mut self, jiffies: u32) {
        self.jiffies.set(self.jiffies.get().wrapping_add(jiffies));
    }

    fn inspect(&mut self) {
        assert_distinct(&self.flows4());
        assert_distinct(&self.flows6());
    }
}

/// Every way to a backend; without a mode, FullNAT to one of the other family.
pub const WAYS: [(Option<Mode>, Encapsulation); 7] = [
    (Some(Mode::Fullnat), Encapsulation::Ipip),
    (Some(Mode::Nat), Encapsulation::Ipip),
    (Some(Mode::Dr), Encapsulation::Ipip),
    (Some(Mode::Tunnel), Encapsulation::Ipip),
    (Some(Mode::Tunnel), Encapsulation::Gue),
    (Some(Mode::Tunnel), Encapsulation::Gre),
    (None, Encapsulation::Ipip),
];
/// Where GUE goes; nothing else that leaves is for this port.
pub const GUE_PORT: u16 = 6080;

/// Runs a script on a machine of its own, whose way to backends is the first byte's to say.
///
/// # Panics
/// Where something does not hold that must.
pub fn run(bytes: &[u8]) -> Tally {
    let mut script = Script { bytes };
    let (mode, encapsulation) = script.pick(&WAYS);
    let mut machine = Machine::new(16, mode.unwrap_or(Mode::Fullnat));
    if mode.is_none() {
        machine.lead_across();
    }
    for listener in machine.listeners.values_mut() {
        listener.encapsulation = encapsulation as u8;
        listener.tunnel_port = GUE_PORT.to_be();
    }
    run_on(&mut machine, script.bytes)
}

/// Runs a script.
///
/// # Panics
/// As [`run`].
pub fn run_on(subject: &mut impl Subject, bytes: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let mut script = Script { bytes };
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for _ in 0..PACKETS_MAX {
        if script.bytes.is_empty() {
            break;
        }
        let mut packet = next(&mut script, &sent);
        damage(&mut script, &mut packet);
        let out = check(subject, &packet, &mut tally);
        sent.extend(out);
        subject.wait(u32::from(script.byte() >> 5));
    }
    tally
}

/// The next packet: a request, the answer to something that left, an error about it, or bytes without a sense.
fn next(script: &mut Script<'_>, sent: &[Vec<u8>]) -> Vec<u8> {
    let answer = script.byte();
    match (
        answer % 4,
        sent.get(usize::from(answer / 4) % sent.len().max(1)),
    ) {
        (1, Some(packet)) => turned(packet),
        (2, Some(packet)) => error(script, packet),
        (3, _) => {
            let len = script.below(100);
            let mut noise: Vec<u8> = (0..len).map(|_| script.byte()).collect();
            if noise.len() > 14 {
                let kind = script.pick(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]]);
                noise[12..14].copy_from_slice(&kind);
            }
            noise
        }
        _ => request(script),
    }
}

/// A packet to a service, or near one.
fn request(script: &mut Script<'_>) -> Vec<u8> {
    let ipv6 = script.byte() & 1 == 1;
    let [vip, local, backend] = addresses(ipv6);
    let client: IpAddr = if ipv6 {
        format!("2001:db8:c::{}", 1 + script.below(4)).parse()
    } else {
        format!("198.51.100.{}", 1 + script.below(4)).parse()
    }
    .expect("an address");
    let dst = script.pick(&[vip, vip, vip, vip, local, backend]);
    let proto = script.pick(&[TCP, TCP, UDP, UDP, ICMP, 47]);
    let (src_port, dst_port) = (
        1000 + script.below(4) as u16,
        script.pick(&[80, 80, 80, 22]),
    );
    let mut ip = Ip::new(client, dst, proto);
    ip.hops = script.pick(&[64, 64, 64, 2, 1, 0]);
    ip.dont_fragment = script.byte() & 1 == 1;
    if script.below(4) == 0 {
        let (id, place) = (
            script.below(3) as u16,
            script.pick(&[0x2000, 0x2001, 0x2010, 2, 1, 0]),
        );
        ip.fragment = Some((id, place));
    }
    if script.below(3) == 0 {
        ip.more = if ipv6 {
            let number = script.pick(&[0, 43, 60, 51, 44]);
            let rest = (0..6 + 8 * script.below(3))
                .map(|_| script.byte() & 3)
                .collect();
            More::Extensions(vec![(number, rest)])
        } else {
            More::Options(
                (0..4 * (1 + script.below(10)))
                    .map(|_| script.byte())
                    .collect(),
            )
        };
    }
    let payload = vec![script.byte(); script.below(3) * 700 + script.below(8)];
    let l4 = match proto {
        TCP => {
            let flags = script.pick(&[2, 2, 0x10, 0x12, 0x11, 4, 0]);
            let options = script.pick(&[vec![], vec![2, 4, 0x23, 0], vec![1, 2, 4, 9, 9, 0, 0, 0]]);
            [ip.tcp(src_port, dst_port, flags, &options), Vec::new()].concat()
        }
        UDP => ip.udp(src_port, dst_port, &payload),
        _ => ip.icmp(script.pick(&[8, 128, 0, 13]), 0, [0, 7, 0, 1], &payload),
    };
    wire::frame(LB_MAC, CLIENT_MAC, &ip.with(&l4))
}

/// Offsets of source, destination and ports in a plain frame that left, and the length of its addresses.
fn places(frame: &[u8]) -> Option<(usize, usize, usize, usize)> {
    match frame.get(12..15)? {
        [8, 0, 0x45] if frame.len() >= 42 => Some((26, 30, 34, 4)),
        [0x86, 0xdd, _] if frame.len() >= 62 => Some((22, 38, 54, 16)),
        _ => None,
    }
}

/// What would answer a packet: the ends exchanged, which changes no checksum.
fn turned(packet: &[u8]) -> Vec<u8> {
    let mut answer = packet.to_vec();
    if let Some((src, dst, ports, len)) = places(packet) {
        answer[src..src + len].copy_from_slice(&packet[dst..dst + len]);
        answer[dst..dst + len].copy_from_slice(&packet[src..src + len]);
        answer[ports..ports + 2].copy_from_slice(&packet[ports + 2..ports + 4]);
        answer[ports + 2..ports + 4].copy_from_slice(&packet[ports..ports + 2]);
    }
    answer
}

/// An error about a packet that left.
fn error(script: &mut Script<'_>, packet: &[u8]) -> Vec<u8> {
    let Some((src, ..)) = places(packet) else {
        return packet.to_vec();
    };
    let ipv6 = src == 22;
    let (router, to): (IpAddr, IpAddr) = if ipv6 {
        let octets: [u8; 16] = packet[22..38].try_into().expect("sixteen bytes");
        ("2001:db8:f::1".parse().expect("an address"), octets.into())
    } else {
        let octets: [u8; 4] = packet[26..30].try_into().expect("four bytes");
        ("192.0.2.77".parse().expect("an address"), octets.into())
    };
    let kind = if ipv6 {
        script.pick(&[1, 2, 3, 4, 137])
    } else {
        script.pick(&[3, 11, 12, 5, 4])
    };
    let ip = Ip::new(router, to, ICMP);
    let quote = &packet[14..];
    let quote = &quote[..quote.len().min(20 + script.below(256))];
    wire::frame(
        LB_MAC,
        CLIENT_MAC,
        &ip.with(&ip.icmp(kind, script.byte() & 7, [0, 0, 5, 0x78], quote)),
    )
}

/// Changes some bytes, or cuts the end off; mostly not.
fn damage(script: &mut Script<'_>, packet: &mut Vec<u8>) {
    let how = script.byte();
    if how & 3 == 1 && !packet.is_empty() {
        for _ in 0..1 + (how >> 6) {
            let at = script.below(packet.len().min(128));
            packet[at] = script.byte();
        }
    } else if how & 7 == 2 {
        packet.truncate(packet.len().saturating_sub(script.below(256)));
    }
}

/// Runs a packet and checks what came of it; what leaves, if it does.
///
/// # Panics
/// As [`run`].
fn check(subject: &mut impl Subject, packet: &[u8], tally: &mut Tally) -> Option<Vec<u8>> {
    let before = subject.drops();
    let (verdict, out) = subject.run(packet);
    let dropped = subject.drops() > before;
    subject.inspect();
    match verdict {
        Verdict::Pass => {
            assert_eq!(out, packet, "a packet for the kernel was changed");
            tally.passed += 1;
            None
        }
        Verdict::Drop => {
            assert!(dropped, "a drop was not counted");
            tally.dropped += 1;
            None
        }
        Verdict::Transmit | Verdict::Redirect(_) => {
            assert_leaves(packet, &out, dropped);
            let icmp = matches!((out[12], out[23], out[20]), (8, 1, _) | (0x86, _, 58));
            *match (dropped, icmp) {
                (true, _) => &mut tally.refused,
                (_, true) => &mut tally.icmp,
                _ => &mut tally.forwarded,
            } += 1;
            if !dropped && !icmp && packet[12..14] == [0x86, 0xdd] {
                tally.forwarded6 += 1;
            }
            Some(out)
        }
        Verdict::Across { .. } => panic!("a packet was left undecided"),
    }
}

fn assert_distinct<T: Eq + Hash>(flows: &[T]) {
    let distinct: HashSet<&T> = flows.iter().collect();
    assert_eq!(distinct.len(), flows.len(), "a flow has two lines");
}

/// What must hold of a frame that leaves. `own`: it is an error of ours about the packet.
///
/// # Panics
/// As [`run`].
pub fn assert_leaves(packet: &[u8], out: &[u8], own: bool) {
    let (before, after) = (Sound::of(packet), Sound::of(out));
    let Some(after) = after else {
        panic!("what left is no packet: {out:02x?}");
    };
    if own {
        assert_ne!(after.header, Some(false), "our own error's header");
        assert_eq!(after.payload, Some(true), "our own error");
        return;
    }
    let Some(before) = before else {
        panic!("what came was no packet: {packet:02x?}");
    };
    if packet[12..14] != out[12..14] {
        assert_ne!(after.header, Some(false), "the new header's checksum");
    } else if before.header.is_some() && after.header.is_some() && !after.tunnelled {
        assert_eq!(before.header, after.header, "the header's checksum");
    }
    if after.tunnelled {
        assert_ne!(after.header, Some(false), "the outer header's checksum");
    } else if before.payload.is_some() && after.payload.is_some() {
        assert_eq!(before.payload, after.payload, "the payload's checksum");
    }
}

/// Which checksums of a frame are right; `None` where there is none, or where it cannot be told.
#[derive(Clone, Copy, Debug)]
struct Sound {
    header: Option<bool>,
    payload: Option<bool>,
    /// The outer header of a tunnel.
    tunnelled: bool,
}

impl Sound {
    fn of(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        match frame.get(12..14)? {
            [8, 0] => {
                let header_len = usize::from(ip.first()? & 0xf) * 4;
                let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
                let packet = ip.get(..total)?;
                let header = packet.get(..header_len)?;
                let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
                let proto = header[9];
                let pseudo = checksum::sum(&header[12..20])
                    + u64::from(u16::from_ne_bytes([0, proto]))
                    + u64::from(((total - header_len) as u16).to_be());
                let l4 = &packet[header_len..];
                Some(Self {
                    header: Some(checksum::fold(checksum::sum(header)) == 0xffff),
                    payload: if whole {
                        payload(proto, pseudo, l4)
                    } else {
                        None
                    },
                    tunnelled: is_tunnel(proto, 4, l4),
                })
            }
            [0x86, 0xdd] => {
                let total = 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
                let packet = ip.get(..total)?;
                let (next, at) = behind_extensions(packet);
                let l4 = packet.get(at..)?;
                let pseudo = checksum::sum(&packet[8..40])
                    + u64::from(u16::from_ne_bytes([0, next]))
                    + u64::from((l4.len() as u16).to_be());
                Some(Self {
                    header: None,
                    payload: payload(next, pseudo, l4),
                    tunnelled: is_tunnel(next, 41, l4),
                })
            }
            _ => None,
        }
    }
}

/// Whether what is behind a header of IP is a packet in a tunnel; `ip_in_ip` is the number of one of the same family.
fn is_tunnel(proto: u8, ip_in_ip: u8, l4: &[u8]) -> bool {
    const GRE: u8 = 47;
    proto == ip_in_ip
        || proto == GRE
        || proto == UDP && l4.get(2..4) == Some(&GUE_PORT.to_be_bytes())
}

/// The last next header of an IPv6 packet, and where it begins; 59 for a fragment.
fn behind_extensions(packet: &[u8]) -> (u8, usize) {
    let (mut next, mut at) = (packet[6], 40);
    while let (0 | 43 | 44 | 51 | 60, Some(header)) = (next, packet.get(at..at + 8)) {
        let len = usize::from(header[1]);
        at += match next {
            44 if header[2] != 0 || header[3] & 0xf9 != 0 => return (59, at),
            44 => 8,
            51 => (len + 2) * 4,
            _ => (len + 1) * 8,
        };
        next = header[0];
    }
    (next, at)
}

/// Whether the checksum in a payload is right.
fn payload(proto: u8, pseudo: u64, l4: &[u8]) -> Option<bool> {
    let right = |pseudo: u64| checksum::fold(pseudo + checksum::sum(l4)) == 0xffff;
    match proto {
        TCP if l4.len() >= 20 => Some(right(pseudo)),
        UDP if l4.len() >= 8 && l4[6..8] != [0, 0] => Some(right(pseudo)),
        ICMP if l4.len() >= 8 => Some(right(0)),
        58 if l4.len() >= 8 => Some(right(pseudo)),
        _ => None,
    }
}

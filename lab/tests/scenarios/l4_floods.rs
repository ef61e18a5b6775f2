//! Floods from forged senders while real clients work: who is established stays, and who is honest gets in.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_l4_common::checksum;
use weir_lab::network::VIP;
use weir_lab::{Folder, Network, ready, until};
use weir_netns::Namespace;

use crate::client::{Echo, noise};
use crate::l4_removal::{Datagrams, Download, FILE_BYTES};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, vip};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the session table is made for.
const MAX_SESSIONS: u32 = 2048;
/// The flood in a second: some five times what the table holds.
const PACKETS_A_SECOND: u32 = 10_000;
const BATCH: u32 = 100;
/// `IPPROTO_RAW` (RFC 3493 systems): whole packets of IPv4 are sent, whatever their source.
const RAW: i32 = 255;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Syn,
    Datagram,
}

/// Packets that open sessions, each from another sender that is nowhere.
struct Flood {
    kind: Kind,
    socket: Socket,
    sent: AtomicU32,
    done: AtomicBool,
}

impl Flood {
    /// Sent by the router, as if they had come from far away.
    fn from(router: &Namespace, kind: Kind) -> Self {
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)));
        Self {
            kind,
            socket: router.run(raw).unwrap(),
            sent: AtomicU32::new(0),
            done: AtomicBool::new(false),
        }
    }

    /// Goes on until it is told to end.
    fn run(&self) {
        let to = SockAddr::from(SocketAddr::from((VIP, 0)));
        let mut number = 0;
        while !self.done.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                number += 1;
                // What the queues of a veth do not take is lost, as in any flood.
                let _ = self.socket.send_to(&packet(self.kind, number), &to);
            }
            self.sent.store(number, Ordering::Relaxed);
            thread::sleep(Duration::from_secs(1) * BATCH / PACKETS_A_SECOND);
        }
    }
}

/// A whole packet; the kernel fills in what is left of the IP header.
fn packet(kind: Kind, number: u32) -> Vec<u8> {
    // Every address of 198.18.0.0/15, which is for tests (RFC 2544), in an order that repeats nowhere soon.
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let from = Ipv4Addr::from(0xc612_0000 | mixed >> 15);
    let port = (1024 + (mixed & 0x7fff)) as u16;
    let to = if number.is_multiple_of(2) { ECHO } else { WEB };
    let (protocol, mut l4) = match kind {
        Kind::Syn => {
            let mut l4 = [port.to_be_bytes(), to.to_be_bytes()].concat();
            l4.extend(mixed.to_be_bytes());
            l4.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            (6, l4)
        }
        Kind::Datagram => {
            let mut l4 = [port.to_be_bytes(), ECHO.to_be_bytes()].concat();
            l4.extend([0, 12, 0, 0]);
            l4.extend(b"weir");
            (17, l4)
        }
    };
    if matches!(kind, Kind::Syn) {
        let mut pseudo = [from.octets(), VIP.octets()].concat();
        pseudo.extend([0, protocol]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        let sum = !checksum::fold(checksum::sum(&pseudo) + checksum::sum(&l4));
        l4[16..18].copy_from_slice(&sum.to_ne_bytes());
    }
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 60, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(VIP.octets());
    packet.extend(l4);
    packet
}

/// Ends the flood when it is dropped.
struct End<'a>(&'a Flood);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

fn established_sessions_survive(scenario: &str, kind: Kind) {
    if !ready(scenario, &["nginx"]) {
        return;
    }
    let files = Folder::new();
    let file = noise(FILE_BYTES);
    fs::write(files.path().join("file"), &file).unwrap();
    let config = |network: &Network| {
        let mut config = Config::of(network, Mode::Fullnat);
        config.l4_more = format!("max_sessions = {MAX_SESSIONS}\n");
        config.text()
    };
    let scene = Scene::with(Arms::Two, Mode::Fullnat, config, Some(&files));
    let client = &scene.network.client;
    let downloads = Download::one_to_each(client);
    let mut held: Vec<Echo> = (0..20)
        .map(|_| Echo::connect(client, vip(ECHO)).unwrap())
        .collect();
    let datagrams = Datagrams::to(client, "b1");
    let weir = &scene.weir;
    let metric = |name: &str| weir.metric(name, &["family=\"ipv4\""]);
    let expired = metric("weir_sessions_expired_total");
    let flood = Flood::from(&scene.network.router, kind);
    thread::scope(|scope| {
        scope.spawn(|| flood.run());
        let _end = End(&flood);
        let sent = |times: u32| {
            let goal = flood.sent.load(Ordering::Relaxed) + times * MAX_SESSIONS;
            until("the flood", PATIENCE, || {
                flood.sent.load(Ordering::Relaxed) >= goal
            });
        };
        sent(5);
        let file = &file;
        let transfers: Vec<_> = downloads
            .into_iter()
            .map(|download| scope.spawn(move || download.finish(file)))
            .collect();
        // Who is new has to find room among all the others; one whose first packets find none tries again.
        let honest = (0..40).filter(|_| {
            Echo::connect(client, vip(ECHO)).is_ok_and(|mut echo| echo.say(b"hello").is_ok())
        });
        let honest = honest.count();
        assert!(honest >= 36, "{honest} of 40 new connections");
        sent(5);
        for transfer in transfers {
            transfer.join().unwrap().unwrap();
        }
        for echo in &mut held {
            echo.say(&noise(10_000)).unwrap();
        }
        until("the stream of datagrams has its backend", PATIENCE, || {
            let name = datagrams.ask();
            assert!(name.as_deref().is_none_or(|name| name == "b1"), "{name:?}");
            name.is_some()
        });
        // Whoever was given up for another was not established.
        let expired = metric("weir_sessions_expired_total") - expired;
        assert!(expired > f64::from(MAX_SESSIONS / 2), "{expired}");
    });
}

#[test]
fn a_flood_of_syns_ends_no_established_session() {
    established_sessions_survive("a_flood_of_syns_ends_no_established_session", Kind::Syn);
}

#[test]
fn a_flood_of_datagrams_ends_no_established_session() {
    established_sessions_survive(
        "a_flood_of_datagrams_ends_no_established_session",
        Kind::Datagram,
    );
}

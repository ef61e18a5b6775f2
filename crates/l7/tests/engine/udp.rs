//! UDP proxying.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::*;

/// Answers every datagram with its own name and the datagram.
fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut datagram = vec![0; 65_535];
        while let Ok((length, client)) = socket.recv_from(&mut datagram) {
            let answer = [name.as_bytes(), &datagram[..length]].concat();
            let _ = socket.send_to(&answer[..answer.len().min(65_507)], client);
        }
    });
    address
}

fn client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(proxy.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    let mut answer = vec![0; 65_535];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

#[test]
fn a_client_stays_with_its_backend_and_clients_are_spread() {
    let backends = [echo("a"), echo("b")];
    let proxy = Proxy::start(&one_listener("udp", &backends, ""));
    let mut seen = Vec::new();
    for _ in 0..6 {
        let client = client(&proxy);
        let first = ask(&client, b"1")[0];
        for _ in 0..5 {
            assert_eq!(ask(&client, b"hello"), [&[first], &b"hello"[..]].concat());
        }
        seen.push(first);
    }
    assert_eq!(
        (
            seen.iter().filter(|name| **name == b'a').count(),
            seen.len()
        ),
        (3, 6)
    );
    proxy.until("all datagrams are counted", |proxy| {
        let stats = proxy.listener_stats();
        (stats.connections, stats.datagrams_in, stats.datagrams_out) == (6, 36, 36)
    });
}

#[test]
fn large_and_empty_datagrams_come_through() {
    let backend = echo("");
    let proxy = Proxy::start(&one_listener("udp", &[backend], ""));
    let client = client(&proxy);
    let large = noise(60_000, 3);
    assert!(ask(&client, &large) == large);
    assert!(ask(&client, b"").is_empty());
}

#[test]
fn a_session_whose_backend_is_gone_finds_another() {
    let (dead, backend) = (dead_address(), echo("b"));
    let proxy = Proxy::start(&one_listener("udp", &[dead], ""));
    let client = client(&proxy);
    client.send(b"lost").unwrap();
    proxy.until("the session has ended", |proxy| {
        let stats = proxy.listener_stats();
        stats.connections == 1 && stats.connections_active == 0
    });
    proxy.apply(&one_listener("udp", &[backend], ""));
    assert_eq!(ask(&client, b"found"), b"bfound");
}

#[test]
fn a_removed_listener_gives_its_address_back_though_the_backend_talks_on() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let backend = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let (_, session) = socket.recv_from(&mut [0; 16]).unwrap();
        let deadline = Instant::now() + 2 * PATIENCE;
        while Instant::now() < deadline && socket.send_to(b"more", session).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let proxy = Proxy::start(&one_listener("udp", &[backend], ""));
    let client = client(&proxy);
    assert_eq!(ask(&client, b"begin"), b"more");
    // The pool stays: a backend that goes ends its sessions anyway.
    let other = one_listener("udp", &[backend], "")
        .replace("name = \"main\"\nbind", "name = \"other\"\nbind")
        .replace("LISTEN", &free_address().to_string());
    proxy.apply(&other);
    proxy.until("the address is free", |proxy| {
        UdpSocket::bind(proxy.address).is_ok()
    });
}

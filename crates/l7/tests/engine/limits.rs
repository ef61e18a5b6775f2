//! Bounds of what is under way in a pool, and of how long connections are kept.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use weir_l7::Reason;

use crate::harness::*;

fn proxy(protocol: &str, backends: &[std::net::SocketAddr], policy: &str) -> Proxy {
    let pool = pool("main", backends, policy);
    Proxy::start(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"{protocol}\"\npool = \"main\"\n{pool}"
    ))
}

/// Answers one request for each word that it is given.
fn released() -> (Origin, Sender<()>) {
    let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let origin = Origin::start(move |_, mut peer| {
        while peer.request().is_some() {
            if receiver.lock().unwrap().recv_timeout(PATIENCE).is_err() {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (origin, sender)
}

fn ask(proxy: &Proxy) -> Peer {
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client
}

fn active(proxy: &Proxy, origin: &Origin) -> u64 {
    proxy.backend_stats(origin.address).requests_active
}

fn pending(proxy: &Proxy) -> u64 {
    proxy.engine.stats().pools[0].pending
}

#[test]
fn what_is_over_the_limit_is_refused_where_nobody_may_wait() {
    for limit in ["requests = 2", "pool_requests = 2", "connections = 2"] {
        let (origin, release) = released();
        let pool = pool(
            "main",
            &[origin.address],
            &format!("limits = {{ {limit} }}"),
        );
        // With one worker, so that the connections that are kept are there for the last request.
        let proxy = Proxy::start_with(
            &format!(
                "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
            ),
            1,
        );
        let mut under_way: Vec<Peer> = (0..2).map(|_| ask(&proxy)).collect();
        proxy.until("both are under way", |proxy| {
            active(proxy, &origin) == 2 && origin.connections() == 2
        });
        for _ in 0..3 {
            let answer = proxy.client().get("/").unwrap();
            assert_eq!(
                (answer.status, answer.text()),
                (503, "503 Service Unavailable: pool_full\n"),
                "{limit}"
            );
        }
        assert_eq!(proxy.listener_stats().errors(Reason::PoolFull), 3);
        for _ in &under_way {
            release.send(()).unwrap();
        }
        for client in &mut under_way {
            assert_eq!(client.answer().unwrap().status, 200);
        }
        proxy.until("the places are free", |proxy| active(proxy, &origin) == 0);
        release.send(()).unwrap();
        assert_eq!(ask(&proxy).answer().unwrap().status, 200, "{limit}");
    }
}

#[test]
fn a_full_backend_is_passed_over() {
    let (slow, release) = released();
    let quick = Origin::saying("quick");
    let proxy = proxy(
        "http",
        &[slow.address, quick.address],
        "limits = { requests = 1 }",
    );
    let mut first = None;
    while active(&proxy, &slow) == 0 {
        first = Some(ask(&proxy));
        proxy.until("the request is with one of them", |proxy| {
            active(proxy, &slow) + proxy.backend_stats(quick.address).requests > 0
        });
    }
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "quick");
    }
    release.send(()).unwrap();
    assert_eq!(first.unwrap().answer().unwrap().text(), "ok");
}

#[test]
fn those_who_wait_are_served_in_turn_over_all_workers() {
    let (origin, release) = released();
    let proxy = proxy(
        "http",
        &[origin.address],
        "limits = { requests = 1, pending = 3, pending_timeout = \"20s\" }",
    );
    let mut clients = vec![ask(&proxy)];
    proxy.until("the first is under way", |proxy| {
        active(proxy, &origin) == 1
    });
    for number in 1..=3 {
        clients.push(ask(&proxy));
        proxy.until("it waits", |proxy| pending(proxy) == number);
    }
    assert_eq!(
        proxy.client().get("/").unwrap().status,
        503,
        "three may wait"
    );
    for (left, mut client) in clients.into_iter().enumerate() {
        release.send(()).unwrap();
        assert_eq!(client.answer().unwrap().text(), "ok", "in turn");
        proxy.until("the next has its place", |proxy| {
            pending(proxy) == 2u64.saturating_sub(left as u64)
        });
    }
}

#[test]
fn waiting_has_an_end_and_leaves_the_queue() {
    let (origin, release) = released();
    let proxy = proxy(
        "http",
        &[origin.address],
        "limits = { requests = 1, pending = 2, pending_timeout = \"100ms\" }",
    );
    let mut first = ask(&proxy);
    proxy.until("the first is under way", |proxy| {
        active(proxy, &origin) == 1
    });
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (503, "503 Service Unavailable: pending_timeout\n")
    );
    assert_eq!(pending(&proxy), 0);
    release.send(()).unwrap();
    assert_eq!(first.answer().unwrap().status, 200);
}

#[test]
fn connections_that_one_worker_keeps_are_given_up_for_another() {
    let origin = Origin::saying("ok");
    let proxy = proxy(
        "http",
        &[origin.address],
        "limits = { connections = 1, pending = 10, pending_timeout = \"20s\" }",
    );
    // Connections of clients come to both workers in the end; each may have to wait for the other's idle one.
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "ok");
    }
    assert!(proxy.backend_stats(origin.address).connections_active <= 1);
}

#[test]
fn proxied_connections_are_bounded_too() {
    let (origin, _release) = released();
    let proxy = proxy("tcp", &[origin.address], "limits = { requests = 1 }");
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    proxy.until("the first is there", |_| origin.connections() == 1);
    // It may be reset before anything can be done with it.
    let second = std::net::TcpStream::connect(proxy.address);
    proxy.until("the second is refused", |proxy| {
        proxy.listener_stats().errors(Reason::PoolFull) == 1
    });
    assert_eq!(origin.connections(), 1);
    drop(second);
}

#[test]
fn connections_end_after_so_many_requests_or_so_much_time() {
    let cases = [
        ("requests_max = 2", Duration::ZERO, 4),
        ("idle_max = 0", Duration::ZERO, 8),
        ("idle_timeout = \"10ms\"", Duration::from_millis(120), 8),
        ("lifetime = \"10ms\"", Duration::from_millis(120), 8),
        (
            "idle_timeout = \"1m\", lifetime = \"1m\"",
            Duration::ZERO,
            1,
        ),
    ];
    for (policy, between, expected) in cases {
        let origin = Origin::saying("ok");
        let pool = pool(
            "main",
            &[origin.address],
            &format!("connections = {{ {policy} }}"),
        );
        let proxy = Proxy::start_with(
            &format!(
                "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
            ),
            1,
        );
        let mut client = proxy.client();
        for _ in 0..8 {
            assert_eq!(client.get("/").unwrap().text(), "ok");
            std::thread::sleep(between);
        }
        assert_eq!(origin.connections(), expected, "{policy}");
    }
}

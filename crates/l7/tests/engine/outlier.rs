//! Backends that fail while they serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::*;

fn proxy(backends: &[std::net::SocketAddr], policy: &str) -> Proxy {
    let pool = pool("main", backends, policy);
    Proxy::start(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
    ))
}

/// Fails as long as the switch says so.
fn failing(switch: &Arc<AtomicBool>, status: &'static str) -> Origin {
    let switch = Arc::clone(switch);
    Origin::start(move |_, mut peer| {
        while peer.request().is_some() {
            let status = if switch.load(Ordering::SeqCst) {
                status
            } else {
                "200 OK"
            };
            peer.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nxx"));
        }
    })
}

#[test]
fn a_backend_that_fails_in_a_row_is_left_out_and_comes_back() {
    let switch = Arc::new(AtomicBool::new(true));
    let (bad, good) = (failing(&switch, "500 Oh"), Origin::saying("good"));
    let proxy = proxy(
        &[bad.address, good.address],
        "outlier = { failures = 3, ejection = \"2s\" }",
    );
    let mut client = proxy.client();
    for _ in 0..10 {
        client.get("/");
    }
    let stats = proxy.backend_stats(bad.address);
    assert_eq!((stats.ejected, stats.requests), (true, 3));
    switch.store(false, Ordering::SeqCst);
    let mut while_out = 0;
    while proxy.backend_stats(bad.address).ejected {
        assert_eq!(client.get("/").unwrap().text(), "good");
        while_out += 1;
    }
    assert!(while_out > 0);
    proxy.until("it serves again", |_| {
        proxy.client().get("/").unwrap().text() == "xx"
    });
    assert_eq!(proxy.backend_stats(bad.address).ejections, 1);
}

#[test]
fn failures_of_every_kind_count_and_client_errors_do_not() {
    let switch = Arc::new(AtomicBool::new(true));
    let cases: [(Origin, &str, bool); 5] = [
        (failing(&switch, "502 Gateway"), "on = \"gateway\"", true),
        (failing(&switch, "500 Oh"), "on = \"gateway\"", false),
        (failing(&switch, "404 Not Found"), "on = \"5xx\"", false),
        (
            Origin::start(|_, mut peer| {
                peer.request();
            }),
            "on = \"gateway\"",
            true,
        ),
        (
            Origin::start(|_, mut peer| {
                while peer.request().is_some() {
                    std::thread::sleep(std::time::Duration::from_millis(60));
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            }),
            "slow = \"20ms\"",
            true,
        ),
    ];
    let good = Origin::saying("good");
    for (origin, policy, expected) in &cases {
        let proxy = proxy(
            &[origin.address, good.address],
            &format!("outlier = {{ failures = 2, ejection = \"1m\", {policy} }}"),
        );
        for _ in 0..8 {
            proxy.client().get("/");
        }
        let stats = proxy.backend_stats(origin.address);
        assert_eq!(stats.ejected, *expected, "{policy}: {stats:?}");
    }
    let dead = dead_address();
    let proxy = proxy(&[dead, good.address], "outlier = { failures = 2 }");
    for _ in 0..8 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "good");
    }
    let stats = proxy.backend_stats(dead);
    assert_eq!((stats.ejected, stats.requests), (true, 2));
}

#[test]
fn the_last_backend_is_never_left_out() {
    let switch = Arc::new(AtomicBool::new(true));
    let origins: Vec<Origin> = (0..4).map(|_| failing(&switch, "500 Oh")).collect();
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let check = |policy: &str, most: usize| {
        let proxy = proxy(&addresses, policy);
        for _ in 0..60 {
            assert_eq!(proxy.client().get("/").unwrap().status, 500);
        }
        let stats = addresses
            .iter()
            .map(|address| proxy.backend_stats(*address));
        assert_eq!(
            stats.filter(|stats| stats.ejected).count(),
            most,
            "{policy}"
        );
    };
    check("outlier = { failures = 2 }", 2);
    check("outlier = { failures = 2, ejected_max = 100 }", 3);
    check("outlier = { failures = 2, ejected_max = 10 }", 1);
}

#[test]
fn sticky_clients_of_an_ejected_backend_are_served_by_another() {
    let switch = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let bad = failing(&switch, "500 Oh");
    let good = Origin::start(move |_, mut peer| {
        while peer.request().is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = proxy(
        &[bad.address, good.address],
        "outlier = { failures = 2, ejection = \"1m\" }\nsticky = { cookie = \"S\" }",
    );
    let cookie = loop {
        let answer = proxy.client().get("/").unwrap();
        if answer.text() == "xx" {
            let cookie = field(&answer.head, "set-cookie").unwrap();
            break cookie.split(';').next().unwrap().to_owned();
        }
    };
    switch.store(true, Ordering::SeqCst);
    let mut client = proxy.client();
    let mut ask = || {
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"
        ));
        client.answer().unwrap().status
    };
    assert_eq!([ask(), ask(), ask(), ask()], [500, 500, 200, 200]);
}

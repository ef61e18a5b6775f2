//! What is tried again, and what is not.

use weir_l7::Reason;

use crate::harness::*;

#[test]
fn a_backend_that_refuses_connections_is_passed_over_for_any_method() {
    let (origin, dead) = (Origin::mirror(), dead_address());
    let proxy = Proxy::http(&[dead, origin.address], "");
    for method in ["GET", "POST"] {
        for _ in 0..4 {
            let mut client = proxy.client();
            client.send(&format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            ));
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, 200);
            assert!(answer.text().ends_with("abc"));
        }
    }
    let failures = proxy.backend_stats(dead).failures(Reason::ConnectFailed);
    assert!(failures >= 2);
    assert_eq!(proxy.backend_stats(origin.address).retries, failures);
}

#[test]
fn only_one_other_backend_is_tried() {
    let dead = [dead_address(), dead_address(), dead_address()];
    let proxy = Proxy::http(&dead, "");
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (502, "502 Bad Gateway: connect_failed\n")
    );
    let failures: u64 = dead
        .iter()
        .map(|dead| proxy.backend_stats(*dead).failures(Reason::ConnectFailed))
        .sum();
    assert_eq!(failures, 2);
}

/// Answers one request on each connection, and closes when it has read the second.
fn dies_at_the_second_request() -> Origin {
    Origin::start(|number, mut peer| {
        let head = peer.request().unwrap_or_default();
        peer.drain_body(&head);
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"
        ));
        peer.request();
    })
}

#[test]
fn idempotent_requests_are_repeated_where_a_reused_connection_was_dead() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let origin = dies_at_the_second_request();
        let proxy = Proxy::start_with(&one_listener("http", &[origin.address], ""), 1);
        let mut client = proxy.client();
        assert_eq!(client.get("/").unwrap().text(), "0");
        client.send(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        ));
        assert!(
            client.head().unwrap().starts_with("HTTP/1.1 200 "),
            "{method}"
        );
        let stats = proxy.backend_stats(origin.address);
        assert_eq!(
            (stats.retries, stats.failures(Reason::UpstreamClosed)),
            (1, 1),
            "{method}"
        );
    }
}

#[test]
fn other_requests_are_not_repeated() {
    let origin = dies_at_the_second_request();
    let proxy = Proxy::start_with(&one_listener("http", &[origin.address], ""), 1);
    let mut client = proxy.client();
    assert_eq!(client.get("/").unwrap().text(), "0");
    client.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (502, "502 Bad Gateway: upstream_closed\n")
    );
    assert_eq!(
        (
            origin.connections(),
            proxy.backend_stats(origin.address).retries
        ),
        (1, 0)
    );
}

#[test]
fn a_body_that_has_gone_is_not_repeated() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        peer.request();
        // Closes in the middle of the second request's body.
        peer.bytes(50_000);
    });
    let proxy = Proxy::start_with(&one_listener("http", &[origin.address], ""), 1);
    let mut client = proxy.client();
    assert_eq!(client.get("/").unwrap().text(), "ok");
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    client.send_bytes(&noise(100_000, 1));
    assert_eq!(client.answer().unwrap().status, 502);
    assert_eq!(proxy.backend_stats(origin.address).retries, 0);
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_again() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
    });
    let proxy = Proxy::http(&[origin.address], "");
    assert_eq!(proxy.client().get("/").unwrap().status, 502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn connections_that_the_backend_closed_are_not_used() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // Closes without a word.
    });
    let proxy = Proxy::start_with(&one_listener("http", &[origin.address], ""), 1);
    let mut client = proxy.client();
    for _ in 0..5 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().unwrap().text(), "ok");
        proxy.until("the idle connection is reaped", |proxy| {
            proxy.backend_stats(origin.address).connections_idle == 0
        });
    }
}

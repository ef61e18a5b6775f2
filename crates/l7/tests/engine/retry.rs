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
        proxy.until("the connection is reaped", |proxy| {
            proxy.backend_stats(origin.address).connections_active == 0
        });
    }
}

/// A proxy of one worker whose pool has these lines.
fn with_policy(backends: &[std::net::SocketAddr], policy: &str) -> Proxy {
    let pool = pool("main", backends, policy);
    Proxy::start_with(
        &format!(
            "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
        ),
        1,
    )
}

/// Answers every request with this status line, and a body.
fn answering(status: &'static str) -> Origin {
    Origin::start(move |_, mut peer| {
        while let Some(request) = peer.request() {
            peer.drain_body(&request);
            peer.send(&format!(
                "HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbusy"
            ));
        }
    })
}

#[test]
fn answers_that_ask_for_it_are_tried_elsewhere_and_the_client_sees_one_answer() {
    let (busy, good) = (answering("503 Busy"), Origin::mirror());
    let proxy = with_policy(
        &[busy.address, good.address],
        "retry = { on = [\"503\"], backoff = \"0ms\" }",
    );
    let mut client = proxy.client();
    for _ in 0..6 {
        client.send("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with("abc"), "{}", answer.text());
    }
    let refused = proxy
        .backend_stats(busy.address)
        .failures(Reason::UpstreamRefused);
    assert_eq!((refused, proxy.backend_stats(good.address).retries), (6, 6));
    // Its answers were whole: the connection went on.
    assert_eq!(busy.connections(), 1);
}

#[test]
fn the_last_answer_is_passed_on_and_so_is_one_to_a_request_that_is_not_idempotent() {
    let busy = answering("503 Busy");
    let proxy = with_policy(
        &[busy.address],
        "retry = { tries = 3, on = [\"503\"], backoff = \"1ms\" }",
    );
    let answer = proxy.client().get("/").unwrap();
    assert_eq!((answer.status, answer.text()), (503, "busy"));
    assert_eq!(proxy.backend_stats(busy.address).requests, 3);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "busy");
    assert_eq!(proxy.backend_stats(busy.address).requests, 4);
}

#[test]
fn resets_before_an_answer_are_tried_again_where_the_policy_says_so() {
    let origin = Origin::start(|number, mut peer| {
        let request = peer.request().unwrap_or_default();
        peer.drain_body(&request);
        if number > 0 {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = with_policy(&[origin.address], "retry = { on = [\"reset\"] }");
    assert_eq!(proxy.client().get("/").unwrap().text(), "ok");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_try_without_an_answer_in_time_is_given_up_for_another() {
    let silent = Origin::start(|_, mut peer| {
        peer.request();
        peer.rest();
    });
    let good = Origin::saying("good");
    let proxy = with_policy(
        &[silent.address, good.address],
        "retry = { on = [\"timeout\"], try_timeout = \"100ms\" }",
    );
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "good");
    }
    let stats = proxy.backend_stats(silent.address);
    assert_eq!(stats.failures(Reason::ResponseTimeout), 4);
}

#[test]
fn every_backend_is_tried_once_before_one_is_tried_twice() {
    let dead = [dead_address(), dead_address(), dead_address()];
    let good = Origin::saying("good");
    let proxy = with_policy(
        &[dead[0], dead[1], dead[2], good.address],
        "retry = { tries = 4, on = [\"connect\"], backoff = \"1ms\" }",
    );
    for _ in 0..8 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "good");
    }
}

#[test]
fn retries_beyond_the_budget_are_not_made() {
    // Nobody is answered before all are here, so that their number is known.
    const REQUESTS: usize = 20;
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(REQUESTS));
    let busy = Origin::start(move |number, mut peer| {
        while let Some(_request) = peer.request() {
            if number < REQUESTS {
                barrier.wait();
                peer.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
            }
        }
    });
    let proxy = with_policy(
        &[busy.address],
        "retry = { on = [\"503\"], budget = 25, backoff = \"0ms\" }\n\
         connections = { idle_max = 0 }",
    );
    let mut clients: Vec<Peer> = (0..REQUESTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    // A quarter of those under way may be retries; the retries hang.
    let answered = |proxy: &Proxy| proxy.listener_stats().answers[5];
    proxy.until("the others have their answer", |proxy| {
        answered(proxy) >= 15
    });
    let retries = proxy.backend_stats(busy.address).retries;
    assert!((3..=5).contains(&retries), "{retries}");
    assert_eq!(answered(&proxy) + retries, REQUESTS as u64);
}

#[test]
fn a_request_has_a_time_as_a_whole() {
    // Each try is quick enough by itself.
    let silent = Origin::start(|_, mut peer| {
        peer.request();
        peer.rest();
    });
    let pool = pool(
        "main",
        &[silent.address],
        "retry = { tries = 10, on = [\"timeout\"], try_timeout = \"200ms\", backoff = \"0ms\" }",
    );
    let proxy = Proxy::start(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n\
         timeouts = {{ request = \"500ms\" }}\n{pool}"
    ));
    let mut client = proxy.client();
    let answer = client.get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (504, "504 Gateway Timeout: request_timeout\n")
    );
    let tries = proxy.backend_stats(silent.address).requests;
    assert!((2..=3).contains(&tries), "{tries}");
    // The time is the request's, not the connection's.
    assert_eq!(client.get("/").unwrap().status, 504);
}

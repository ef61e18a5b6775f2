//! What clients and backends may not do.

use weir_l7::Reason;

use crate::harness::*;

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(
        &[origin.address],
        "limits = { header_bytes = 1024, header_count = 8 }",
    );
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(2000));
    let wide = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(2000)
    );
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(8));
    let cases: &[(&str, u16, Reason)] = &[
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            Reason::LengthAndCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            400,
            Reason::BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
            Reason::UnknownTransferCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            Reason::UnknownTransferCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            400,
            Reason::BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            400,
            Reason::BadTransferEncoding,
        ),
        (
            "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            Reason::BadPath,
        ),
        (
            "GET http://a/a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            Reason::BadPath,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n",
            400,
            Reason::BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            Reason::BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
            400,
            Reason::BadField,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
            400,
            Reason::BadField,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            400,
            Reason::BadField,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
            400,
            Reason::BadField,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            400,
            Reason::BareLineEnd,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", 400, Reason::BareLineEnd),
        ("GET / HTTP/1.1\r\n\r\n", 400, Reason::MissingHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
            Reason::DuplicateHost,
        ),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, Reason::BadHost),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, Reason::BadTarget),
        ("nonsense\r\n\r\n", 400, Reason::BadRequestLine),
        (
            "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
            505,
            Reason::UnknownVersion,
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            501,
            Reason::ConnectRefused,
        ),
        (&long, 414, Reason::TargetTooLong),
        (&wide, 431, Reason::HeadTooLarge),
        (&many, 431, Reason::HeadTooLarge),
        // In the body, after the request has been passed on: the backend sees no end, the client learns why.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            400,
            Reason::BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX",
            400,
            Reason::BadChunk,
        ),
    ];
    for (input, status, reason) in cases {
        let before = proxy.listener_stats().errors(*reason);
        let mut client = proxy.client();
        client.send(input);
        // Behind it, a request that must not be seen.
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client
            .answer()
            .unwrap_or_else(|| panic!("no answer to {input:?}"));
        assert_eq!(answer.status, *status, "{input:?}: {answer:?}");
        assert!(
            answer.text().contains(reason.as_str()),
            "{input:?}: {answer:?}"
        );
        assert!(answer.has("Connection: close"));
        client.finish();
        assert!(client.ends(), "{input:?}");
        assert_eq!(
            proxy.listener_stats().errors(*reason),
            before + 1,
            "{input:?}"
        );
    }
    assert_eq!(proxy.client().get("/").unwrap().text(), "ok");
}

#[test]
fn broken_answers_become_502() {
    for (answer, reason) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reason::BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            Reason::BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
            Reason::BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
            Reason::BadResponse,
        ),
        ("nonsense\r\n\r\n", Reason::BadResponse),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            Reason::UnaskedUpgrade,
        ),
        ("", Reason::UpstreamClosed),
        ("HTTP/1.1 200 OK\r\nContent-", Reason::UpstreamClosed),
    ] {
        let origin = Origin::start(move |_, mut peer| {
            peer.request();
            peer.send(answer);
        });
        let proxy = Proxy::http(&[origin.address], "");
        let mut client = proxy.client();
        let told = client.get("/").unwrap();
        assert_eq!(
            (told.status, told.text()),
            (502, format!("502 Bad Gateway: {reason}\n").as_str()),
            "{answer:?}"
        );
        assert_eq!(
            proxy.backend_stats(origin.address).failures(reason),
            1,
            "{answer:?}"
        );
        assert_eq!(proxy.listener_stats().errors(reason), 1, "{answer:?}");
        // The client has done nothing wrong: its connection goes on.
        assert_eq!(client.get("/").unwrap().status, 502);
    }
}

#[test]
fn a_stream_of_interim_answers_is_cut() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        for _ in 0..100 {
            peer.send("HTTP/1.1 103 Early Hints\r\n\r\n");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    let mut answer = client.get("/").unwrap();
    let mut hints = 0;
    while answer.status == 103 {
        hints += 1;
        answer = client.answer().unwrap();
    }
    assert_eq!((hints, answer.status), (16, 502));
}

#[test]
fn answers_that_are_cut_short_do_not_look_whole() {
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nnonsense",
    ] {
        let origin = Origin::start(move |_, mut peer| {
            peer.request();
            peer.send(start);
        });
        let proxy = Proxy::http(&[origin.address], "");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let whole = client.rest();
        assert!(!whole.ends_with(b"0\r\n\r\n"));
        proxy.until("the failure is counted", |proxy| {
            let stats = proxy.listener_stats();
            stats.errors(Reason::UpstreamTruncated) + stats.errors(Reason::BadResponseFraming) == 1
        });
    }
}

#[test]
fn bytes_behind_an_answer_are_not_the_next_answer() {
    // In one piece: what comes later, on a connection that is in use again, nobody can tell from an answer.
    let origin = Origin::start(|number, mut peer| {
        while peer.request().is_some() {
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}{evil}"
            ));
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for number in 0..9 {
        assert_eq!(client.get("/").unwrap().text(), number.to_string());
    }
}

#[test]
fn no_backend_is_503() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let config = one_listener("http", &[origin.address], "");
    let state = |health, draining| {
        let mut snapshot = proxy.snapshot(&config);
        let id = weir_model::BackendId {
            pool: "main".into(),
            address: origin.address,
        };
        snapshot.backends.insert(
            id,
            weir_model::BackendState {
                health,
                draining,
                ..Default::default()
            },
        );
        proxy.apply_snapshot(snapshot);
    };
    let mut client = proxy.client();
    assert_eq!(client.get("/").unwrap().status, 200);
    state(weir_model::Health::Down, false);
    let answer = client.get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (503, "503 Service Unavailable: no_backend\n")
    );
    state(weir_model::Health::Up, false);
    assert_eq!(client.get("/").unwrap().status, 200);
    state(weir_model::Health::Up, true);
    assert_eq!(client.get("/").unwrap().status, 503);
    proxy.apply(&config.replace("\" }", "\", weight = 0 }"));
    assert_eq!(client.get("/").unwrap().status, 503);
    proxy.apply(&config);
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(proxy.listener_stats().errors(Reason::NoBackend), 3);
}

#[test]
fn head_of_a_failed_request_has_no_body() {
    let proxy = Proxy::http(&[dead_address()], "");
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.head().unwrap().starts_with("HTTP/1.1 502 "));
    }
}

#[test]
fn encoded_slashes_pass_where_they_are_allowed() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "encoded_slashes = \"pass\"");
    let answer = proxy.client().get("/a%2Fb/c%5cd?e=/../").unwrap();
    assert!(
        answer
            .text()
            .starts_with("GET /a%2Fb/c%5cd?e=/../ HTTP/1.1\r\n")
    );
    assert_eq!(proxy.client().get("/a%2F..%2Fb").unwrap().status, 400);
}

#[test]
fn connections_above_the_limits_are_closed_and_counted() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(
        &[origin.address],
        "max_connections = 3\nmax_connections_per_client = 2\nproxy_protocol = { from = [\"127.0.0.1\"] }",
    );
    let client_of = |last: u8| {
        let mut client = proxy.client();
        client.send(&format!(
            "PROXY TCP4 192.0.2.{last} 203.0.113.1 5000 80\r\n"
        ));
        client
    };
    let served = |client: &mut Peer| client.get("/").is_some_and(|answer| answer.status == 200);
    let mut of_first: Vec<Peer> = (0..2).map(|_| client_of(1)).collect();
    assert!(of_first.iter_mut().all(served));
    assert!(!served(&mut client_of(1)));
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::TooManyOfClient) == 1
    });
    let mut of_second = client_of(2);
    assert!(served(&mut of_second));
    assert!(!served(&mut client_of(3)));
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::TooMany) == 1
    });
    // Those that were let in go on, and leave room when they end.
    assert!(of_first.iter_mut().all(served) && served(&mut of_second));
    drop(of_first.pop());
    proxy.until("it has ended", |proxy| {
        proxy.listener_stats().connections_active == 2
    });
    assert!(served(&mut client_of(1)));
}

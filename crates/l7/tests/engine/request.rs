//! Requests and answers that are as they should be.

use crate::harness::*;

#[test]
fn a_request_is_passed_on_and_answered() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("POST /x?y HTTP/1.1\r\nHost: a.example\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        "POST /x?y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a.example\r\n\r\nhello"
    );
}

#[test]
fn what_the_client_says_about_itself_is_appended_to_or_replaced() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\n\r\n",
    );
    let answer = client.answer().unwrap();
    let text = answer.text();
    assert_eq!(
        field(text, "x-forwarded-for"),
        Some("1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1")
    );
    assert_eq!(field(text, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(text, "x-forwarded-host"), Some("a"));
    assert_eq!(text.to_lowercase().matches("x-forwarded").count(), 3);
}

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").unwrap().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
    let stats = proxy.backend_stats(origin.address);
    assert_eq!(
        (
            stats.requests,
            stats.connections_opened,
            stats.connections_reused
        ),
        (20, 1, 19)
    );
    // The last answer is counted after it was sent.
    proxy.until("all answers are counted", |proxy| {
        proxy.listener_stats().answers[2] == 20
    });
    let stats = proxy.listener_stats();
    assert_eq!(
        (stats.connections, stats.connections_active, stats.requests),
        (1, 1, 20)
    );
    drop(client);
    proxy.until("the connection has ended", |proxy| {
        proxy.listener_stats().connections_active == 0
    });
    proxy.until("the backend's connection is idle", |proxy| {
        let stats = proxy.backend_stats(origin.address);
        (
            stats.requests_active,
            stats.connections_active,
            stats.connections_idle,
        ) == (0, 1, 1)
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    for (start, end) in [
        ("POST /1 ", "abc"),
        ("POST /2 ", "de"),
        ("GET /3 ", "\r\n\r\n"),
        ("GET /4 ", "\r\n\r\n"),
    ] {
        let answer = client.answer().unwrap();
        assert!(
            answer.text().starts_with(start) && answer.text().ends_with(end),
            "{answer:?}"
        );
    }
    assert!(client.ends());
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for byte in b"GET /slow HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n" {
        client.send_bytes(&[*byte]);
    }
    assert!(
        client
            .answer()
            .unwrap()
            .text()
            .starts_with("GET /slow HTTP/1.1\r\nHost: a\r\nX: y\r\n")
    );
}

#[test]
fn an_answers_head_may_come_byte_by_byte() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            for byte in b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nok" {
                peer.send_bytes(&[*byte]);
            }
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.get("/").unwrap();
        assert!(answer.has("X: y"));
        assert_eq!(answer.text(), "ok");
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(request) = peer.request() {
            let target = request.split(' ').nth(1).unwrap();
            peer.send(match target {
                "/204" => "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            });
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    let no_content = client.get("/204").unwrap();
    assert_eq!(
        (no_content.status, field(&no_content.head, "content-length")),
        (204, None)
    );
    assert_eq!(client.get("/304").unwrap().status, 304);
    client.send("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(field(&client.head().unwrap(), "content-length"), Some("7"));
    assert_eq!(client.get("/").unwrap().text(), "ok");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn interim_answers_are_passed_on() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            peer.send(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
            );
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for _ in 0..2 {
        let hints = client.get("/").unwrap();
        assert_eq!(hints.status, 103);
        assert!(hints.has("Link: </a.css>"));
        assert_eq!(client.answer().unwrap().status, 102);
        assert_eq!(client.answer().unwrap().text(), "ok");
    }
    // HTTP/1.0 does not know them.
    let mut old = proxy.client();
    old.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().unwrap().status, 200);
}

#[test]
fn http_1_0_clients_are_served() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(request) = peer.request() {
            assert!(request.contains(" HTTP/1.1\r\n"), "{request}");
            assert_eq!(
                request.matches("Host: ").count(),
                2,
                "Host and X-Forwarded-Host: {request}"
            );
            if request.contains("/chunked") {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nch\r\n4\r\nunks\r\n0\r\n\r\n");
            } else {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer().unwrap();
    assert!(
        answer.has("Connection: keep-alive") && answer.text() == "ok",
        "{answer:?}"
    );
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(client.answer().unwrap().has("Connection: close"));
    assert!(client.ends());
    let mut client = proxy.client();
    client.send("GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.text(), field(&answer.head, "transfer-encoding")),
        ("chunks", None)
    );
    assert!(answer.has("Connection: close"));
}

#[test]
fn an_old_request_without_a_host_gets_one() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        field(client.answer().unwrap().text(), "host"),
        Some(proxy.address.to_string().as_str())
    );
}

#[test]
fn routes_choose_the_pool_and_nothing_matching_is_404() {
    let (api, web) = (Origin::saying("api"), Origin::saying("web"));
    let config = format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\n\
         [[listener.route]]\nhost = [\"api.example.com\"]\npath_prefix = \"/v1\"\npool = \"api\"\n\
         [[listener.route]]\nhost = [\"*.example.com\"]\npool = \"web\"\n{}{}",
        pool("api", &[api.address], ""),
        pool("web", &[web.address], "")
    );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for (host, target, status, text) in [
        ("api.example.com", "/v1/x", 200, "api"),
        ("API.example.com:80", "/v1", 200, "api"),
        ("api.example.com", "/v2", 200, "web"),
        ("www.example.com", "/v1", 200, "web"),
        ("example.org", "/v1", 404, "404 Not Found: no_route\n"),
    ] {
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.answer().unwrap();
        assert_eq!(
            (answer.status, answer.text()),
            (status, text),
            "{host}{target}"
        );
    }
    // The absolute form counts, not the Host field.
    client.send("GET http://api.example.com/v1 HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "api");
}

#[test]
fn listeners_on_ipv6_serve_too() {
    let origin = Origin::mirror();
    let engine = weir_l7::Engine::start(&weir_model::L7 { workers: 1 }).unwrap();
    let address = std::net::TcpListener::bind("[::1]:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = Proxy { engine, address };
    proxy.apply(&one_listener("http", &[origin.address], ""));
    assert_eq!(
        field(proxy.client().get("/").unwrap().text(), "x-forwarded-for"),
        Some("::1")
    );
}

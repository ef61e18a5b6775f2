//! The PROXY protocol: whom it is believed from, and what backends are told.

use std::io::{Read, Write};
use std::net::SocketAddr;

use weir_l7::Reason;
use weir_l7::codec::proxy_protocol::{self, Additions, Header, Progress};

use crate::harness::*;
use crate::pki::*;

const BELIEVED: &str = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn binary(source: &str, destination: &str) -> Vec<u8> {
    let mut header = Vec::new();
    proxy_protocol::write_binary(
        source.parse().unwrap(),
        destination.parse().unwrap(),
        &Additions::default(),
        &mut header,
    );
    header
}

#[test]
fn the_client_is_who_the_header_names() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], BELIEVED);
    let check = |header: &[u8], expected: &str| {
        let mut client = proxy.client();
        client.send_bytes(&[header, ASK.as_bytes(), ASK.as_bytes()].concat());
        for _ in 0..2 {
            let answer = client.answer().unwrap();
            let field = format!("X-Forwarded-For: {expected}\r\n");
            assert!(answer.text().contains(&field), "{}", answer.text());
        }
    };
    check(b"PROXY TCP4 192.0.2.9 203.0.113.1 5000 80\r\n", "192.0.2.9");
    check(
        b"PROXY TCP6 2001:db8::9 2001:db8::1 5000 80\r\n",
        "2001:db8::9",
    );
    check(b"PROXY UNKNOWN\r\n", "127.0.0.1");
    check(&binary("192.0.2.8:1", "203.0.113.1:80"), "192.0.2.8");
    check(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0", "127.0.0.1");
}

#[test]
fn a_header_may_come_in_any_pieces() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], BELIEVED);
    let line = b"PROXY TCP4 192.0.2.9 203.0.113.1 5000 80\r\n".to_vec();
    for header in [line, binary("192.0.2.9:1", "203.0.113.1:80")] {
        let whole = [&header[..], ASK.as_bytes()].concat();
        let mut client = proxy.client();
        for byte in &whole {
            client.send_bytes(&[*byte]);
            std::thread::yield_now();
        }
        let answer = client.answer().unwrap();
        assert!(answer.text().contains("X-Forwarded-For: 192.0.2.9\r\n"));
    }
}

#[test]
fn what_is_no_header_is_refused_without_an_answer() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], BELIEVED);
    for (number, start) in [ASK, "PROXY TCP4 nonsense\r\n", "PROXY TCP4 1"]
        .iter()
        .enumerate()
    {
        let mut client = proxy.client();
        client.send(start);
        // It may have been refused already.
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        assert!(client.rest().is_empty(), "{start}");
        let count = number as u64 + 1;
        proxy.until("it is counted", |proxy| {
            let stats = proxy.listener_stats();
            stats.errors(Reason::BadProxyHeader) + stats.errors(Reason::DownstreamClosed) == count
        });
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn nobody_else_is_believed() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(
        &[origin.address],
        "proxy_protocol = { from = [\"192.0.2.0/24\", \"::1\"] }",
    );
    let mut client = proxy.client();
    client.send("PROXY TCP4 192.0.2.9 203.0.113.1 5000 80\r\n");
    client.send(ASK);
    assert!(client.rest().is_empty());
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::UntrustedProxy) == 1
    });
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_header_that_does_not_come_ends_the_wait() {
    let origin = Origin::saying("ok");
    let extra = format!("{BELIEVED}\ntimeouts = {{ request_header = \"200ms\" }}");
    let proxy = Proxy::http(&[origin.address], &extra);
    let mut client = proxy.client();
    client.send("PROXY ");
    assert!(client.rest().is_empty());
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::HeadTimeout) == 1
    });
}

#[test]
fn the_header_stands_before_the_tls_handshake() {
    let folder = Folder::new("before-tls");
    let origin = Origin::mirror();
    let authority = Authority::new("proxied");
    let entry = authority
        .issue(1, &["a.example"], Kind::Ecdsa)
        .entry(&folder, "a");
    let extra = format!("{BELIEVED}\ncertificates = [{entry}]");
    let proxy = Proxy::start(&one_listener("https", &[origin.address], &extra));
    let mut session = connect(proxy.address, &authority.client(None), "a.example");
    session
        .sock
        .write_all(&binary("192.0.2.7:1", "203.0.113.1:443"))
        .unwrap();
    write!(
        session,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    session.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("X-Forwarded-For: 192.0.2.7\r\n"),
        "{answer}"
    );
}

/// An origin that takes a PROXY header off each connection, and answers each request, or the first line, with what it
/// was told.
fn told() -> Origin {
    Origin::start(|number, mut peer| {
        let mut bytes = Vec::new();
        let (header, length) = loop {
            match proxy_protocol::parse(&bytes) {
                Ok(Progress::Complete { header, length }) => break (header, length),
                Ok(Progress::Partial) => bytes.extend(peer.bytes(1)),
                Err(reason) => panic!("{reason}: {bytes:?}"),
            }
        };
        assert_eq!(length, bytes.len());
        let Header::Of {
            source,
            destination,
        } = header
        else {
            panic!("{header:?}");
        };
        let body = format!("{number} {source} {destination} {}", bytes.escape_ascii());
        while let Some(request) = peer.request() {
            peer.drain_body(&request);
            let length = body.len();
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    })
}

#[test]
fn backends_are_told_who_the_client_is_and_connections_are_not_shared() {
    for version in ["v1", "v2"] {
        let origin = told();
        let send = format!("proxy_protocol = \"{version}\"");
        let text = format!(
            "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{}",
            pool("main", &[origin.address], &send)
        );
        let proxy = Proxy::start_with(&text, 1);
        for number in 0..3 {
            let mut client = proxy.client();
            let own: SocketAddr = client.stream.local_addr().unwrap();
            let expected = format!("{number} {own} {} ", proxy.address);
            let answer = client.get("/").unwrap();
            assert!(answer.text().starts_with(&expected), "{}", answer.text());
        }
        // What a proxy in front has said is passed on.
        proxy.apply(&text.replace(
            "pool = \"main\"\n[[",
            &format!("pool = \"main\"\n{BELIEVED}\n[["),
        ));
        let mut client = proxy.client();
        client.send_bytes(&binary("192.0.2.7:77", "203.0.113.1:80"));
        let answer = client.get("/").unwrap();
        assert!(
            answer.text().contains(" 192.0.2.7:77 203.0.113.1:80 "),
            "{}",
            answer.text()
        );
        // TCP as well.
        proxy.apply(&text.replace("protocol = \"http\"", "protocol = \"tcp\""));
        let mut client = proxy.client();
        let own: SocketAddr = client.stream.local_addr().unwrap();
        let answer = client.get("/").unwrap();
        assert!(
            answer.text().contains(&format!(" {own} ")),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn backends_are_told_about_tls() {
    let folder = Folder::new("told-tls");
    let origin = told();
    let (authority, clients) = (Authority::new("told"), Authority::new("clients"));
    let entry = authority
        .issue(1, &["a.example"], Kind::Ecdsa)
        .entry(&folder, "a");
    let ca = folder.write("clients.pem", &clients.pem());
    let text = format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"https\"\npool = \"main\"\n\
         certificates = [{entry}]\ntls = {{ client_ca_file = \"{ca}\" }}\n{}",
        pool("main", &[origin.address], "proxy_protocol = \"v2\"")
    );
    let proxy = Proxy::start(&text);
    let shown = clients.issue(2, &["client"], Kind::Ecdsa);
    let mut config = (*authority.client(Some(&shown))).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (answer, _) = get(proxy.address, &config.into(), "a.example", "").unwrap();
    // ALPN, authority; TLS with a verified certificate, and its version.
    for part in [
        r"\x01\x00\x08http/1.1",
        r"\x02\x00\ta.example",
        r"\x20\x00\x0f\x07\x00\x00\x00\x00!\x00\x07TLSv1.3",
    ] {
        let part = part.replace(r"\x20", " ");
        assert!(answer.contains(&part), "{part}: {answer}");
    }
}

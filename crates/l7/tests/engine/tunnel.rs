//! Upgrades, TCP proxying, and TLS that is not opened.

use std::io::Write;

use weir_l7::Reason;

use crate::harness::*;
use crate::pki::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Agrees to an upgrade and then sends everything back.
fn agreeing() -> Origin {
    Origin::start(|_, mut peer| {
        let head = peer.request().unwrap();
        assert!(
            field(&head, "upgrade") == Some("websocket")
                && field(&head, "connection") == Some("upgrade"),
            "{head}"
        );
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nwelcome");
        loop {
            let byte = peer.bytes(1);
            if byte.is_empty() {
                break;
            }
            peer.send_bytes(&byte);
        }
        peer.send("bye");
    })
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let origin = agreeing();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send(ASK);
    let answer = client.head().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && field(&answer, "upgrade") == Some("websocket"),
        "{answer}"
    );
    assert_eq!(client.bytes(7), b"welcome");
    client.send("\r\n\0any bytes");
    assert_eq!(client.bytes(12), b"\r\n\0any bytes");
    client.finish();
    assert_eq!(client.rest(), b"bye");
    proxy.until("101 is counted", |proxy| {
        proxy.listener_stats().answers[1] == 1
    });
    proxy.until("the tunnel has ended", |proxy| {
        proxy.engine.connections() == 0
    });
    assert!(proxy.listener_stats().errors.is_empty());
}

#[test]
fn bytes_that_come_before_101_wait_for_it() {
    let (send_101, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::start(move |_, mut peer| {
        peer.request().unwrap();
        peer.stream
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .unwrap();
        assert!(peer.bytes(1).is_empty(), "a byte of the tunnel before 101");
        told.lock().unwrap().recv().unwrap();
        peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        );
        let early = peer.bytes(5);
        peer.send_bytes(&early);
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send(ASK);
    client.send("early");
    send_101.send(()).unwrap();
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.rest(), b"early");
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::saying("no");
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send(ASK);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "no");
    assert_eq!(client.answer().unwrap().text(), "no");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_silent_tunnel_ends() {
    let origin = agreeing();
    let proxy = Proxy::http(&[origin.address], "timeouts = { tunnel = \"300ms\" }");
    let mut client = proxy.client();
    client.send(ASK);
    client.head().unwrap();
    assert_eq!(client.bytes(7), b"welcome");
    assert!(client.rest().is_empty());
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::TunnelIdle) == 1
    });
}

#[test]
fn tcp_is_proxied_whole_with_half_close() {
    let origin = Origin::start(|_, mut peer| {
        let all = peer.rest();
        peer.send_bytes(&all);
        peer.send("end");
    });
    let proxy = Proxy::start(&one_listener("tcp", &[origin.address], ""));
    let bytes = noise(3_000_000, 9);
    let mut client = proxy.client();
    client.stream.write_all(&bytes).unwrap();
    client.finish();
    let rest = client.rest();
    assert!(rest[..3_000_000] == bytes[..] && rest.ends_with(b"end"));
    proxy.until("all bytes are counted", |proxy| {
        let stats = proxy.listener_stats();
        (stats.bytes_in, stats.bytes_out) == (3_000_000, 3_000_003)
    });
}

#[test]
fn tcp_tries_another_backend_once_and_resets_where_there_is_none() {
    let origin = Origin::start(|_, mut peer| peer.send("hello"));
    let dead = dead_address();
    let proxy = Proxy::start(&one_listener("tcp", &[dead, origin.address], ""));
    for _ in 0..4 {
        assert_eq!(proxy.client().rest(), b"hello");
    }
    assert!(proxy.backend_stats(origin.address).retries >= 2);
    let proxy = Proxy::start(&one_listener("tcp", &[dead], ""));
    // A reset, not an orderly end; it may come before connect() returns.
    if let Ok(stream) = std::net::TcpStream::connect(proxy.address) {
        assert!(std::io::Read::read(&mut &stream, &mut [0]).is_err());
    }
    proxy.until("the failure is counted", |proxy| {
        proxy.listener_stats().errors(Reason::ConnectFailed) == 1
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let origin = Origin::start(|_, mut peer| {
        peer.bytes(1);
        socket2::SockRef::from(&peer.stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    });
    let proxy = Proxy::start(&one_listener("tcp", &[origin.address], ""));
    let mut client = proxy.client();
    client.send("x");
    assert!(!client.ends());
}

#[test]
fn tls_is_passed_on_unopened_and_only_tls() {
    let config = crate::tls::client_config();
    let name = "a.example".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let length = hello.len();
    let origin = Origin::start(move |_, mut peer| {
        let bytes = peer.bytes(length);
        peer.send_bytes(&bytes);
    });
    let proxy = Proxy::start(&one_listener("tls", &[origin.address], ""));
    let mut client = proxy.client();
    for part in hello.chunks(100) {
        client.send_bytes(part);
    }
    assert!(client.rest() == hello);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert!(client.rest().is_empty());
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::BadClientHello) == 1
    });
    assert_eq!(origin.connections(), 1);
}

#[test]
fn only_allowed_upgrades_are_passed_on() {
    let origin = Origin::mirror();
    let ask = |proxy: &Proxy, protocol: &str| {
        let mut client = proxy.client();
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        ));
        let seen = client.answer().unwrap();
        field(seen.text(), "upgrade").map(str::to_owned)
    };
    let by_default = Proxy::http(&[origin.address], "");
    assert_eq!(ask(&by_default, "WebSocket").as_deref(), Some("WebSocket"));
    for protocol in ["chat/2", "h2c", "websocket, chat/2", "tls/1.0"] {
        assert_eq!(ask(&by_default, protocol), None, "{protocol}");
    }
    let other = Proxy::http(&[origin.address], "allow_upgrade = [\"Chat/2\"]");
    assert_eq!(ask(&other, "chat/2").as_deref(), Some("chat/2"));
    assert_eq!(ask(&other, "websocket"), None);
    let none = Proxy::http(&[origin.address], "allow_upgrade = []");
    assert_eq!(ask(&none, "websocket"), None);
}

/// A client as today's browsers are: a post-quantum key share, a placeholder of an encrypted hello, all in records of a
/// few bytes.
fn modern_client(authority: &Authority) -> std::sync::Arc<rustls::ClientConfig> {
    use rustls::client::{EchGreaseConfig, EchMode};
    use rustls::crypto::aws_lc_rs::{default_provider, hpke, kx_group};
    let suite = hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public, _) = rustls::crypto::hpke::Hpke::generate_key_pair(suite).unwrap();
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_ech(EchMode::Grease(EchGreaseConfig::new(suite, public)))
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.max_fragment_size = Some(40);
    config.into()
}

#[test]
fn a_hello_of_any_size_in_any_pieces_is_routed_by_its_name() {
    let authority = Authority::new("unopened");
    let backend = |name: &str| {
        let pair = authority.issue(1, &[name], Kind::Ecdsa);
        tls_mirror(Authority::server(&pair, None))
    };
    let (a, b) = (backend("a.example"), backend("b.example"));
    let route = |name: &str| {
        format!("[[listener.route]]\nhost = [\"{name}.example\"]\npool = \"{name}\"\n")
    };
    let proxy = Proxy::start(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"tls\"\n{}{}{}{}",
        route("a"),
        route("b"),
        pool("a", &[a.address], ""),
        pool("b", &[b.address], "")
    ));
    let plain = authority.client(None);
    let modern = modern_client(&authority);
    for config in [&plain, &modern] {
        for name in ["a.example", "b.example"] {
            let (answer, _) = get(proxy.address, config, name, "")
                .unwrap_or_else(|error| panic!("{error}: {name}, {:?}", proxy.listener_stats()));
            assert!(answer.contains(&format!("name: {name}\n")), "{answer}");
        }
    }
    assert_eq!((a.connections(), b.connections()), (2, 2));

    // Byte by byte, and then with a name that nobody serves.
    let hello = |config: &std::sync::Arc<rustls::ClientConfig>, name: &'static str| {
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        let mut session = rustls::ClientConnection::new(config.clone(), name).unwrap();
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
        bytes
    };
    let bytes = hello(&modern, "a.example");
    assert!(bytes.len() > 1500, "{}", bytes.len());
    let mut client = proxy.client();
    for byte in bytes.chunks(7) {
        client.send_bytes(byte);
    }
    assert_eq!(client.bytes(1), [22], "the backend's own hello");
    let refused = |bytes: &[u8], reason| {
        let before = proxy.listener_stats().errors(reason);
        let mut client = proxy.client();
        client.send_bytes(bytes);
        client.rest();
        proxy.until("it is counted", |proxy| {
            proxy.listener_stats().errors(reason) == before + 1
        });
    };
    refused(&hello(&plain, "c.example"), Reason::NoRoute);
    // Without a name: the address of a server is never asked for.
    refused(&hello(&plain, "192.0.2.1"), Reason::NoRoute);
    refused(&noise(500, 3), Reason::BadClientHello);
    // A hello that goes on for ever, in records that are right.
    let endless = [
        &[22, 3, 1, 0, 4, 1, 0, 0x3f, 0xff][..],
        &[22, 3, 1, 0, 1, 0].repeat(40_000),
    ]
    .concat();
    refused(&endless, Reason::BadClientHello);
}

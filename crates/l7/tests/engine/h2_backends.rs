//! HTTP/2 towards backends, and gRPC through it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weir_l7::Reason;
use weir_l7::codec::h2::connection::Inbox;
use weir_l7::codec::h2::{Connection, Key};

use crate::h2::{Client, client_limits, parse};
use crate::harness::*;

/// What a backend does with the text of a request, and whether that was its end: text to send, and whether the answer
/// is complete.
type Handler = dyn Fn(&mut Connection, Key, &str, bool) + Send + Sync;

/// A backend that speaks HTTP/2, of the codec that is tested byte by byte elsewhere.
struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    fn start(
        streams: u32,
        handler: impl Fn(&mut Connection, Key, &str, bool) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || serve(stream, streams, &*handler));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Answers when the request is complete, with its text.
    fn mirror() -> Self {
        Self::start(100, |connection, key, text, ended| {
            if ended {
                send(connection, key, text);
            }
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A whole answer.
fn send(connection: &mut Connection, key: Key, body: &str) {
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write(key, text.as_bytes());
    connection.release_stream(key);
}

fn serve(mut stream: TcpStream, streams: u32, handler: &Handler) {
    stream
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    let mut config = client_limits();
    config.streams_max = streams;
    let mut connection = Connection::server(config, 1);
    let mut input = Vec::new();
    let mut open: Vec<(Key, String, bool)> = Vec::new();
    loop {
        let output = connection.output().to_vec();
        connection.sent(output.len());
        if stream.write_all(&output).is_err() || connection.is_dead() {
            return;
        }
        let mut bytes = [0; 65_536];
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        let read = connection.receive(&input, 0).unwrap();
        input.drain(..read);
        let mut opened = Vec::new();
        connection.take_opened(&mut opened);
        open.extend(
            opened
                .iter()
                .map(|opened| (opened.key, String::new(), false)),
        );
        for (key, text, told) in &mut open {
            let before = text.len();
            while let Inbox::Text(more) = connection.inbox(*key) {
                let count = more.len();
                text.push_str(std::str::from_utf8(more).unwrap());
                connection.consume(*key, count);
            }
            let ended = connection.inbox(*key) == Inbox::Ended;
            if text.len() > before || (ended && !*told) {
                *told = ended;
                handler(&mut connection, *key, text, ended);
            }
        }
        open.retain(|(key, ..)| !connection.is_reset(*key));
    }
}

fn config(backends: &[SocketAddr], extra: &str) -> String {
    let pool = pool("main", backends, "protocol = \"http2\"");
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{extra}\n{pool}"
    )
}

#[test]
fn requests_of_many_clients_share_a_connection() {
    let backend = Backend::mirror();
    let proxy = Proxy::start_with(&config(&[backend.address], ""), 1);
    let answer = proxy.client().get("/one").unwrap();
    assert!(
        answer
            .text()
            .starts_with("GET /one HTTP/1.1\r\nHost: test\r\n"),
        "{}",
        answer.text()
    );
    let mut client = Client::connect(&proxy);
    let keys: Vec<_> = (0..20)
        .map(|_| client.begin("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"))
        .collect();
    for key in keys {
        assert!(client.answer(key).text().ends_with("\r\n\r\nhello"));
    }
    let mut old = proxy.client();
    for _ in 0..3 {
        old.send("POST /y HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        assert!(
            old.answer()
                .unwrap()
                .text()
                .ends_with("0002\r\nok\r\n0\r\n\r\n")
        );
    }
    assert_eq!(backend.connections(), 1);
    let stats = proxy.backend_stats(backend.address);
    assert_eq!((stats.connections_opened, stats.requests), (1, 24));
}

#[test]
fn a_backend_that_takes_few_streams_gets_more_connections() {
    let backend = Backend::start(2, |connection, key, text, ended| {
        if ended && text.starts_with("GET /go") {
            send(connection, key, "ok");
        }
    });
    let proxy = Proxy::start_with(&config(&[backend.address], ""), 1);
    let mut client = Client::connect(&proxy);
    let first = client.begin("GET /go HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer(first).text(), "ok");
    let waiting: Vec<_> = (0..4)
        .map(|_| client.begin("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n"))
        .collect();
    for _ in 0..3 {
        let key = client.begin("GET /go HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.answer(key).text(), "ok");
    }
    for key in waiting {
        client.connection.release_stream(key);
    }
    client.pass();
    proxy.until("nothing is under way", |proxy| {
        proxy.backend_stats(backend.address).requests_active == 0
    });
    assert_eq!(backend.connections(), 3);
}

#[test]
fn a_stream_of_messages_passes_both_ways_as_it_comes() {
    // Answers each message as it comes, like a bidirectional method of gRPC.
    let backend = Backend::start(100, |connection, key, text, ended| {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let count = body.matches("ping").count();
        if count == 0 && !ended {
            assert!(head.contains("\r\nte: trailers"), "{head}");
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
            connection.write(key, head.as_bytes());
        } else if !ended {
            connection.write(key, format!("5\r\npong{count}\r\n").as_bytes());
        } else {
            connection.write(key, b"0\r\nGrpc-Status: 0\r\nGrpc-Message: done\r\n\r\n");
            connection.release_stream(key);
        }
    });
    let proxy = Proxy::start(&config(&[backend.address], ""));
    let mut client = Client::connect(&proxy);
    let key = client.begin(
        "POST /service/method HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    let mut text = String::new();
    let mut until = |client: &mut Client, what: &str| {
        client.until(what, |client| {
            while let Inbox::Text(more) = client.connection.inbox(key) {
                let count = more.len();
                text.push_str(std::str::from_utf8(more).unwrap());
                client.connection.consume(key, count);
            }
            text.contains(what)
        });
    };
    until(&mut client, "Transfer-Encoding: chunked\r\n\r\n");
    for number in 1..=3 {
        client.send(key, b"4\r\nping\r\n");
        until(&mut client, &format!("pong{number}"));
    }
    client.send(key, b"0\r\n\r\n");
    until(
        &mut client,
        "0\r\ngrpc-status: 0\r\ngrpc-message: done\r\n\r\n",
    );
}

#[test]
fn failures_are_told_to_grpc_clients_as_grpc_status() {
    let proxy = Proxy::start(&config(&[dead_address()], ""));
    let mut client = Client::connect(&proxy);
    let key = client.begin(
        "POST /service/method HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nContent-Type: application/grpc+proto\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    let answer = client.answer(key);
    assert_eq!(answer.status, 200);
    assert!(answer.has("grpc-status: 14"), "{}", answer.head);
    assert!(
        answer.has("grpc-message: 502 Bad Gateway"),
        "{}",
        answer.head
    );
    assert!(
        answer.has("content-type: application/grpc"),
        "{}",
        answer.head
    );
    // Others are told in the usual way.
    assert_eq!(client.get("/").status, 502);
}

#[test]
fn the_time_that_a_client_gives_its_call_is_kept() {
    let backend = Backend::start(100, |_, _, _, _| {});
    let proxy = Proxy::start(&config(&[backend.address], ""));
    let mut client = Client::connect(&proxy);
    let key = client.begin(
        "POST /service/method HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         grpc-timeout: 200m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    let answer = client.answer(key);
    assert_eq!(answer.status, 200);
    assert!(answer.has("grpc-status: 4"), "{}", answer.head);
    assert_eq!(proxy.listener_stats().errors(Reason::RequestTimeout), 1);
}

#[test]
fn connections_of_http2_end_after_so_many_requests_or_so_much_time() {
    for (policy, between, expected) in [
        ("requests_max = 2", Duration::ZERO, 3),
        ("lifetime = \"10ms\"", Duration::from_millis(120), 6),
        ("lifetime = \"1m\", requests_max = 6", Duration::ZERO, 1),
    ] {
        let backend = Backend::mirror();
        let pool = pool(
            "main",
            &[backend.address],
            &format!("protocol = \"http2\"\nconnections = {{ {policy} }}"),
        );
        let listener = "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n";
        let proxy = Proxy::start_with(&format!("{listener}{pool}"), 1);
        let mut client = proxy.client();
        for _ in 0..6 {
            assert_eq!(client.get("/").unwrap().status, 200);
            std::thread::sleep(between);
        }
        assert_eq!(backend.connections(), expected, "{policy}");
    }
}

#[test]
fn what_a_backend_has_not_served_goes_elsewhere() {
    let ending = Backend::start(100, |connection, key, _, ended| {
        if ended {
            // Refuses, and says that it ends.
            connection.refuse(key);
            connection.announce_end();
        }
    });
    let good = Backend::mirror();
    let proxy = Proxy::start_with(&config(&[ending.address, good.address], ""), 1);
    let mut client = Client::connect(&proxy);
    for _ in 0..6 {
        let key = client.begin("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        assert!(client.answer(key).text().ends_with("\r\n\r\nhi"));
    }
    assert!(proxy.backend_stats(good.address).retries >= 3);
}

#[test]
fn a_backend_that_breaks_off_fails_the_requests_under_way() {
    let backend = Backend::start(100, |connection, key, text, ended| {
        if !ended {
            return;
        }
        if text.starts_with("GET /half") {
            connection.write(key, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            connection.release_stream(key);
        } else if text.starts_with("GET /reset") {
            connection.release_stream(key);
        } else {
            send(connection, key, "ok");
        }
    });
    let proxy = Proxy::start_with(&config(&[backend.address], ""), 1);
    let mut client = Client::connect(&proxy);
    let key = client.begin("GET /half HTTP/1.1\r\nHost: test\r\n\r\n");
    // The reset overtakes what was not passed on yet.
    if let Ok(text) = client.end(key) {
        assert_eq!(parse(&text).status, 502);
    }
    assert_eq!(client.get("/reset").status, 502);
    // Streams fail, the connection goes on.
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.connections(), 1);
    let stats = proxy.listener_stats();
    let failed = stats.errors(Reason::UpstreamTruncated) + stats.errors(Reason::UpstreamClosed);
    assert_eq!(failed, 2);
}

#[test]
fn a_large_answer_waits_for_a_slow_client_and_holds_up_nobody() {
    let body = "x".repeat(2_000_000);
    let sent = Arc::new(std::sync::Mutex::new(std::collections::HashMap::new()));
    let backend = Backend::start(100, move |connection, key, text, ended| {
        if ended && text.starts_with("GET /small") {
            send(connection, key, "small");
        } else if ended {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            connection.write(key, head.as_bytes());
            connection.write(key, body.as_bytes());
            sent.lock().unwrap().insert(format!("{key:?}"), ());
        }
    });
    let proxy = Proxy::start_with(&config(&[backend.address], ""), 1);
    // Takes nothing of what it has asked for.
    let mut slow = proxy.client();
    slow.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut client = Client::connect(&proxy);
    for _ in 0..10 {
        assert_eq!(client.get("/small").text(), "small");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_backend_that_speaks_http_1_is_a_bad_gateway() {
    let proxy = Proxy::start(&config(&[Origin::saying("no").address], ""));
    // One that speaks HTTP/1.1 in clear is found out by its first bytes.
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(answer.status, 502);
}

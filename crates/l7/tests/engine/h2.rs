//! HTTP/2 on the clients' side.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use weir_l7::Reason;
use weir_l7::codec::h2::connection::Inbox;
use weir_l7::codec::h2::sending::Written;
use weir_l7::codec::h2::{Config, Connection, ErrorCode, FloodLimits, Key, PREFACE};
use weir_l7::codec::websocket::accept;

use crate::harness::*;
use crate::tls::{Folder, client_config};

/// What is below a client.
pub(crate) trait Bytes: Read + Write {}
impl<T: Read + Write> Bytes for T {}

/// A client, of the codec that is tested byte by byte elsewhere.
pub(crate) struct Client {
    io: Box<dyn Bytes>,
    pub(crate) connection: Connection,
    input: Vec<u8>,
    ended: bool,
}

pub(crate) fn client_limits() -> Config {
    Config {
        streams_max: 1000,
        stream_window: 65_535,
        connection_window: 1 << 20,
        header_bytes: 65_536,
        header_count: 1000,
        continuations_max: 100,
        websockets: false,
        scheme: b"http",
        floods: FloodLimits {
            resets: u32::MAX,
            made_resets: u32::MAX,
            pings: u32::MAX,
            settings: u32::MAX,
            empty_data: u32::MAX,
            tiny_windows: u32::MAX,
            idle_frames: u32::MAX,
        },
    }
}

impl Client {
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(Box::new(stream))
    }

    pub(crate) fn connect_tls(proxy: &Proxy, alpn: &[&[u8]]) -> Self {
        let mut config = ClientConfig::clone(&client_config());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = "localhost".to_owned().try_into().unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tls = StreamOwned::new(session, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).unwrap();
        }
        assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
        tls.sock
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Self::over(Box::new(tls))
    }

    fn over(io: Box<dyn Bytes>) -> Self {
        Self {
            io,
            connection: Connection::client(client_limits()),
            input: Vec::new(),
            ended: false,
        }
    }

    /// Sends what there is to send, and reads once.
    pub(crate) fn pass(&mut self) {
        let output = self.connection.output().to_vec();
        self.connection.sent(output.len());
        let _ = self.io.write_all(&output).and_then(|()| self.io.flush());
        let mut bytes = [0; 65_536];
        match self.io.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                let read = self.connection.receive(&self.input, 0).unwrap();
                self.input.drain(..read);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.ended = true,
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            self.pass();
        }
    }

    /// Begins a request, all of whose text fits the windows.
    pub(crate) fn begin(&mut self, text: &str) -> Key {
        self.until("the peer's settings", |client| {
            client.connection.is_established()
        });
        let key = self.connection.open().unwrap();
        assert_eq!(
            self.connection.write(key, text.as_bytes()),
            Written::Taken(text.len())
        );
        key
    }

    /// Sends more of a request.
    pub(crate) fn send(&mut self, key: Key, mut text: &[u8]) {
        self.until("room", |client| {
            if let Written::Taken(count) = client.connection.write(key, text) {
                text = &text[count..];
            }
            text.is_empty()
        });
    }

    /// The text of an answer until its end, or how it broke off.
    pub(crate) fn end(&mut self, key: Key) -> Result<Vec<u8>, ErrorCode> {
        let mut text = Vec::new();
        let mut result = None;
        self.until("the end of the answer", |client| {
            loop {
                match client.connection.inbox(key) {
                    Inbox::Text(more) => {
                        let count = more.len();
                        text.extend_from_slice(more);
                        client.connection.consume(key, count);
                    }
                    Inbox::Empty if client.ended => result = Some(Err(ErrorCode::InternalError)),
                    Inbox::Empty => return false,
                    Inbox::Ended => result = Some(Ok(())),
                    Inbox::Reset(code) => result = Some(Err(code)),
                }
                if result.is_some() {
                    return true;
                }
            }
        });
        self.connection.release_stream(key);
        result.unwrap().map(|()| text)
    }

    /// An answer, its body without chunks.
    pub(crate) fn answer(&mut self, key: Key) -> Answer {
        parse(&self.end(key).unwrap())
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        let key = self.begin(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.answer(key)
    }

    pub(crate) fn until_closed(&mut self) {
        self.until("the end of the connection", |client| client.ended);
    }
}

/// Reads an answer's text.
pub(crate) fn parse(text: &[u8]) -> Answer {
    let end = text
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8(text[..end].to_vec()).unwrap();
    let mut body = Vec::new();
    let mut rest = &text[end..];
    if field(&head, "transfer-encoding").is_none() {
        body = rest.to_vec();
    } else {
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 4 + size..];
        }
    }
    Answer {
        status: head[9..12].parse().unwrap(),
        head,
        body,
    }
}

#[test]
fn requests_go_to_a_backend_of_http_1() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Client::connect(&proxy);
    let answer = client.get("/path?query");
    assert_eq!(answer.status, 200);
    let seen = answer.text();
    assert!(
        seen.starts_with("GET /path?query HTTP/1.1\r\nHost: test\r\n"),
        "{seen}"
    );
    assert!(seen.contains(
        "\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: test\r\n"
    ));
    // Again, on the connections that both sides have kept.
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    // HTTP/1.1 is spoken on the same listener.
    assert_eq!(proxy.client().get("/").unwrap().status, 200);
    proxy.until("all are counted", |proxy| {
        let stats = proxy.listener_stats();
        (stats.requests, stats.answers[2]) == (7, 7)
    });
}

#[test]
fn alpn_chooses_the_version() {
    let folder = Folder::new("h2-alpn");
    let entry = folder.certificate("own", &["localhost"]);
    let origin = Origin::mirror();
    let extra = format!("certificates = [{entry}]");
    let proxy = Proxy::start(&one_listener("https", &[origin.address], &extra));
    let mut client = Client::connect_tls(&proxy, &[b"h2", b"http/1.1"]);
    let answer = client.get("/");
    assert!(answer.text().contains("X-Forwarded-Proto: https\r\n"));
    let off = format!("{extra}\nhttp2 = {{ enabled = false }}");
    proxy.apply(&one_listener("https", &[origin.address], &off));
    let mut config = ClientConfig::clone(&client_config());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = "localhost".to_owned().try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tls = StreamOwned::new(session, TcpStream::connect(proxy.address).unwrap());
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_listener_without_http_2_refuses_its_preface() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "http2 = { enabled = false }");
    let mut client = proxy.client();
    client.send_bytes(PREFACE);
    assert_eq!(client.answer().unwrap().status, 505);
}

#[test]
fn requests_of_one_connection_do_not_wait_for_each_other() {
    let slow = Origin::start(|_, mut peer| {
        while let Some(request) = peer.request() {
            if request.starts_with("GET /slow") {
                // Until the test is over.
                peer.rest();
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfast");
        }
    });
    let proxy = Proxy::http(&[slow.address], "");
    let mut client = Client::connect(&proxy);
    let waiting = client.begin("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut keys: VecDeque<Key> = (0..100)
        .map(|_| client.begin("GET /fast HTTP/1.1\r\nHost: test\r\n\r\n"))
        .collect();
    while let Some(key) = keys.pop_front() {
        assert_eq!(client.answer(key).text(), "fast");
    }
    // Taken back, the backend sees it.
    client.connection.release_stream(waiting);
    client.pass();
    let backend = slow.address;
    proxy.until("nothing is under way", |proxy| {
        proxy.backend_stats(backend).requests_active == 0
    });
    assert_eq!(proxy.listener_stats().errors(Reason::DownstreamClosed), 1);
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    let origin = Origin::start(|_, mut peer| {
        let request = peer.request().unwrap();
        let length: usize = field(&request, "content-length").unwrap().parse().unwrap();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        let mut left = length;
        while left > 0 {
            let piece = peer.bytes(left.min(10_000));
            left -= piece.len();
            peer.send_bytes(&piece);
        }
        peer.rest();
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Client::connect(&proxy);
    let body = noise(3_000_000, 7);
    let key = client.begin(&format!(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let mut sent = 0;
    let mut text = Vec::new();
    client.until("the whole echo", |client| {
        if let Written::Taken(count) = client.connection.write(key, &body[sent..]) {
            sent += count;
        }
        while let Inbox::Text(more) = client.connection.inbox(key) {
            let count = more.len();
            text.extend_from_slice(more);
            client.connection.consume(key, count);
        }
        client.connection.inbox(key) == Inbox::Ended
    });
    assert_eq!(parse(&text).body, body);
}

#[test]
fn a_body_that_nobody_reads_holds_its_sender_up() {
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    let origin = Origin::start(move |_, mut peer| {
        let head = peer.request().unwrap();
        while !released.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let length = peer.drain_body(&head).len().to_string();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}",
            length.len()
        ));
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Client::connect(&proxy);
    let body = noise(32 << 20, 3);
    let key = client.begin(&format!(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let mut sent = 0;
    let mut still = 0;
    client.until("the window is used up", |client| {
        let before = sent;
        while let Written::Taken(count) = client.connection.write(key, &body[sent..]) {
            sent += count;
        }
        still = if sent == before { still + 1 } else { 0 };
        still == 20
    });
    // What the sockets hold, and our windows; not the body.
    assert!(sent < body.len() / 2, "{sent}");
    release.store(true, Ordering::SeqCst);
    client.send(key, &body[sent..]);
    assert_eq!(client.answer(key).text(), body.len().to_string());
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::start(|_, mut peer| {
        let request = peer.request().unwrap();
        assert!(request.contains("\r\nte: trailers\r\n"));
        let (body, trailers) = peer.chunks();
        assert_eq!(
            (&body[..], &trailers[..]),
            (&b"hello"[..], "x-sum: 1\r\n\r\n")
        );
        peer.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n",
        );
        peer.rest();
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Client::connect(&proxy);
    let key = client.begin(
        "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let text = String::from_utf8(client.end(key).unwrap()).unwrap();
    assert!(
        text.ends_with("\r\n\r\n0002\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        "{text}"
    );
}

#[test]
fn failures_are_answered_as_over_http_1() {
    let origin = Origin::start(|number, mut peer| {
        peer.request();
        if number == 0 {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
    });
    let proxy = Proxy::http(&[origin.address], "limits = { header_bytes = 2048 }");
    let mut client = Client::connect(&proxy);
    // Cut off in the middle: the stream fails, the connection does not.
    let key = client.begin("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.end(key), Err(ErrorCode::Cancel));
    assert_eq!(client.get("/").status, 502);
    let long = "x".repeat(2000);
    let key = client.begin(&format!(
        "GET / HTTP/1.1\r\nHost: test\r\nX-Long: {long}\r\n\r\n"
    ));
    assert_eq!(client.answer(key).status, 431);
    for host in ["a,b", "a@b"] {
        let key = client.begin(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.answer(key).status, 400);
    }
    let stats = proxy.listener_stats();
    assert_eq!(stats.errors(Reason::HeadTooLarge), 1);
    assert_eq!(stats.errors(Reason::BadHost), 2);
    assert_eq!(stats.errors(Reason::UpstreamTruncated), 1);
}

#[test]
fn an_answer_before_the_end_of_the_request_ends_the_stream_in_order() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Client::connect(&proxy);
    let key = client.begin("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nbegin");
    let answer = client.answer(key);
    assert_eq!((answer.status, answer.text()), (413, "no"));
    // The connection goes on.
    assert_eq!(client.get("/").status, 413);
}

#[test]
fn websockets_pass_over_a_stream() {
    let origin = Origin::start(|_, mut peer| {
        let request = peer.request().unwrap();
        assert!(request.starts_with("GET /chat HTTP/1.1\r\n"), "{request}");
        let key = field(&request, "sec-websocket-key").unwrap();
        assert_eq!(key.len(), 24);
        assert!(request.contains("Upgrade: websocket\r\n"), "{request}");
        let accept = String::from_utf8(accept(key.as_bytes())).unwrap();
        peer.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"));
        loop {
            let piece = peer.bytes(4);
            if piece.is_empty() {
                break;
            }
            peer.send_bytes(&piece);
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Raw::connect(&proxy);
    client.headers(
        1,
        4,
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "test"),
            ("sec-websocket-version", "13"),
        ],
    );
    let (kind, flags, _, payload) = client.frame_of(1);
    assert_eq!((kind, flags, payload[0]), (1, 4, 0x88));
    for word in [b"ping", b"pong"] {
        client.frame(0, 0, 1, word);
        assert_eq!(client.frame_of(1), (0, 0, 1, word.to_vec()));
    }
    client.frame(0, 1, 1, b"");
    assert_eq!(client.frame_of(1), (0, 1, 1, Vec::new()));
    proxy.until("no tunnel is left", |proxy| {
        proxy.backend_stats(origin.address).requests_active == 0
    });
}

#[test]
fn a_backend_that_does_not_know_websockets_gets_none() {
    let origin = Origin::start(|_, mut peer| {
        peer.request().unwrap();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
        peer.bytes(1);
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = Raw::connect(&proxy);
    client.headers(
        1,
        4,
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "test"),
        ],
    );
    // Not 200.
    assert_ne!(client.frame_of(1).3[0], 0x88);
    assert_eq!(proxy.listener_stats().answers[5], 1);
}

/// A client of single frames.
struct Raw(Peer);

impl Raw {
    fn connect(proxy: &Proxy) -> Self {
        let mut client = Self(proxy.client());
        client.0.send_bytes(PREFACE);
        client.frame(4, 0, 0, b"");
        client
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.0.send_bytes(&bytes);
    }

    fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.extend([0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        self.frame(1, flags, stream, &block);
    }

    fn get(&mut self, stream: u32) {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "test"),
        ];
        self.headers(stream, 5, &fields);
    }

    /// The next frame; kind, flags, stream and payload.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let header = self.0.bytes(9);
        if header.len() < 9 {
            return None;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes(header[5..].try_into().unwrap());
        Some((header[3], header[4], stream, self.0.bytes(length)))
    }

    /// The next frame of a stream but window updates.
    fn frame_of(&mut self, stream: u32) -> (u8, u8, u32, Vec<u8>) {
        loop {
            let frame = self.next().unwrap();
            if frame.2 == stream && frame.0 != 8 {
                return frame;
            }
        }
    }

    /// The code of the GOAWAY that ends the connection.
    fn goaway(&mut self) -> u32 {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == 7 {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code.unwrap()
    }
}

#[test]
fn floods_cost_the_client_its_connection() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.rest();
    });
    let extra = "http2 = { pings = 10, settings = 10, empty_data = 10, resets = 10, made_resets = 10, idle_frames = 10, continuations = 3 }";
    let proxy = Proxy::http(&[origin.address], extra);
    type Attack = fn(&mut Raw, u32);
    let attacks: [(Reason, Attack); 8] = [
        (Reason::PingFlood, |client, _| {
            client.frame(6, 0, 0, &[0; 8]);
        }),
        (Reason::SettingsFlood, |client, _| {
            client.frame(4, 0, 0, b"");
        }),
        (Reason::EmptyDataFlood, |client, round| {
            if round == 0 {
                let fields = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "test"),
                ];
                client.headers(1, 4, &fields);
            }
            client.frame(0, 0, 1, b"");
        }),
        (Reason::ResetFlood, |client, round| {
            client.get(2 * round + 1);
            client.frame(3, 0, 2 * round + 1, &[0, 0, 0, 8]);
        }),
        (Reason::MadeResetFlood, |client, round| {
            client.get(2 * round + 1);
            client.frame(8, 0, 2 * round + 1, &[0; 4]);
        }),
        (Reason::HeadFlood, |client, round| {
            let mut fields = vec![
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "test"),
            ];
            fields.resize(300, ("cookie", "a=b"));
            client.headers(2 * round + 1, 5, &fields);
        }),
        (Reason::FrameFlood, |client, _| {
            client.frame(2, 0, 1, &[0; 5]);
        }),
        (Reason::ContinuationFlood, |client, round| {
            if round == 0 {
                client.headers(1, 1, &[(":method", "GET")]);
            }
            client.frame(9, 0, 1, b"");
        }),
    ];
    for (reason, attack) in attacks {
        let mut client = Raw::connect(&proxy);
        for round in 0..12 {
            attack(&mut client, round);
        }
        assert_eq!(client.goaway(), 11, "{reason}");
        proxy.until("the reason is counted", |proxy| {
            proxy.listener_stats().errors(reason) == 1
        });
    }
    proxy.until("nothing is left", |proxy| {
        proxy.backend_stats(origin.address).requests_active == 0
            && proxy.listener_stats().connections_active == 0
    });
}

#[test]
fn a_client_that_takes_nothing_loses_its_stream() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
            peer.send_bytes(&vec![b'x'; 1_000_000]);
        }
    });
    let proxy = Proxy::http(&[origin.address], "timeouts = { idle = \"300ms\" }");
    let mut client = Raw::connect(&proxy);
    client.get(1);
    loop {
        let (kind, _, _, _) = client.frame_of(1);
        if kind == 3 {
            break;
        }
    }
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::DownstreamIdle) == 1
    });
}

#[test]
fn idle_connections_end_in_order() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::http(&[origin.address], "timeouts = { keep_alive = \"200ms\" }");
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get("/").status, 200);
    client.until_closed();
    assert!(client.connection.peer_is_ending());
    assert_eq!(proxy.listener_stats().errors, []);
}

#[test]
fn half_a_preface_is_waited_for_no_longer_than_for_a_head() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::http(
        &[origin.address],
        "timeouts = { request_header = \"200ms\" }",
    );
    for bytes in [
        &PREFACE[..10],
        &PREFACE[..24],
        &[PREFACE, &[0, 0, 4, 1, 0, 0, 0, 0, 1]].concat(),
    ] {
        let mut client = proxy.client();
        client.send_bytes(bytes);
        client.rest();
    }
    assert_eq!(proxy.listener_stats().errors(Reason::HeadTimeout), 3);
}

#[test]
fn a_drain_lets_requests_end_and_tells_the_client() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(request) = peer.request() {
            if request.starts_with("GET /slow") {
                std::thread::sleep(Duration::from_millis(300));
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let (mut idle, mut busy) = (Client::connect(&proxy), Client::connect(&proxy));
    assert_eq!(idle.get("/").status, 200);
    let key = busy.begin("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    busy.pass();
    proxy.until("it is under way", |proxy| {
        proxy.backend_stats(origin.address).requests_active == 1
    });
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| proxy.engine.drain(PATIENCE));
        assert_eq!(busy.answer(key).text(), "ok");
        for client in [&mut idle, &mut busy] {
            client.until_closed();
            assert!(client.connection.peer_is_ending());
        }
        drain.join().unwrap();
    });
}

//! A server's side against frames that are made here, byte by byte: what RFC 9113 says of each, and the limits.

use super::connection::{Inbox, Opened};
use super::frame::{FrameHeader, HEADER_BYTES, flag, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::sending::{OUT_BYTES_MAX, Written};
use super::*;
use proptest::prelude::*;

fn config() -> Config {
    Config {
        streams_max: 4,
        stream_window: 65_535,
        connection_window: 131_072,
        header_bytes: 4096,
        header_count: 32,
        continuations_max: 3,
        websockets: true,
        scheme: b"http",
        floods: FloodLimits {
            resets: 5,
            made_resets: 5,
            pings: 5,
            settings: 5,
            empty_data: 5,
            tiny_windows: 5,
            idle_frames: 5,
        },
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHeader {
        length: payload.len(),
        kind,
        flags,
        stream,
    }
    .write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        // Plain literals, so that every byte can be sent that an encoder of good manners would not.
        out.push(0);
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        if value.len() < 127 {
            out.push(value.len() as u8);
        } else {
            out.push(127);
            let rest = value.len() - 127;
            out.extend([rest as u8 & 0x7f | 0x80, (rest >> 7) as u8]);
        }
        out.extend_from_slice(value.as_bytes());
    }
    out
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/"),
    (":authority", "example.com"),
];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(more).copied().collect()
}

const END: u8 = flag::END_STREAM | flag::END_HEADERS;

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, &block(fields))
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, END, &GET)
}

/// A request whose body is to come.
fn post(stream: u32) -> Vec<u8> {
    let fields: Vec<_> = [(":method", "POST")]
        .iter()
        .chain(&GET[1..])
        .copied()
        .collect();
    headers(stream, flag::END_HEADERS, &fields)
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_settings(list, &mut out);
    out
}

fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A frame that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn parse(mut bytes: &[u8]) -> Vec<Sent> {
    let mut all = Vec::new();
    while let Some(header) = FrameHeader::parse(bytes) {
        let end = HEADER_BYTES + header.length;
        all.push(Sent {
            kind: header.kind,
            flags: header.flags,
            stream: header.stream,
            payload: bytes[HEADER_BYTES..end].to_vec(),
        });
        bytes = &bytes[end..];
    }
    assert!(bytes.is_empty());
    all
}

/// A server behind its preface and first SETTINGS, what it said about them taken away.
fn server() -> Connection {
    server_with(config())
}

fn server_with(config: Config) -> Connection {
    let mut connection = Connection::server(config, 1);
    let input = [PREFACE, &settings(&[])].concat();
    assert_eq!(connection.receive(&input, 0), Ok(input.len()));
    take(&mut connection);
    connection
}

fn take(connection: &mut Connection) -> Vec<Sent> {
    let sent = parse(connection.output());
    connection.sent(connection.output().len());
    sent
}

fn opened(connection: &mut Connection) -> Vec<Opened> {
    let mut opened = Vec::new();
    connection.take_opened(&mut opened);
    opened
}

fn text(connection: &mut Connection, key: Key) -> String {
    let mut text = Vec::new();
    while let Inbox::Text(more) = connection.inbox(key) {
        let count = more.len();
        text.extend_from_slice(more);
        connection.consume(key, count);
    }
    String::from_utf8(text).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// GOAWAY.
    Ends(ErrorCode),
    /// RST_STREAM of stream 1.
    Resets(ErrorCode),
    /// Nothing is wrong.
    Good,
}
use ErrorCode::*;
use Outcome::*;

fn outcome(connection: &mut Connection) -> Outcome {
    let code =
        |payload: &[u8]| u32::from_be_bytes(payload[payload.len() - 4..].try_into().unwrap());
    for sent in take(connection) {
        let all = [
            NoError,
            ProtocolError,
            InternalError,
            FlowControlError,
            StreamClosed,
            FrameSizeError,
            RefusedStream,
            Cancel,
            CompressionError,
            EnhanceYourCalm,
        ];
        let of = |payload: &[u8]| {
            *all.iter()
                .find(|other| **other as u32 == code(payload))
                .unwrap()
        };
        match sent.kind {
            kind::GOAWAY => return Ends(of(&sent.payload)),
            kind::RST_STREAM => return Resets(of(&sent.payload)),
            _ => {}
        }
    }
    Good
}

/// What becomes of these frames, in one piece and byte by byte.
fn check(name: &str, frames: &[Vec<u8>], expected: Outcome) {
    let input = frames.concat();
    let mut whole = server();
    let result = whole.receive(&input, 0);
    assert_eq!(result.is_err(), matches!(expected, Ends(_)), "{name}");
    assert_eq!(outcome(&mut whole), expected, "{name}");
    let mut pieces = server();
    let mut kept = Vec::new();
    for byte in &input {
        kept.push(*byte);
        match pieces.receive(&kept, 0) {
            Ok(count) => drop(kept.drain(..count)),
            Err(_) => break,
        }
    }
    assert_eq!(outcome(&mut pieces), expected, "{name}, byte by byte");
}

#[test]
fn frames_that_are_wrong_end_a_stream_or_the_connection() {
    let pad =
        |kind, flags, stream, payload: &[u8]| frame(kind, flags | flag::PADDED, stream, payload);
    let priority = |stream: u32, on: u32| {
        let payload = [&on.to_be_bytes()[..], &[7]].concat();
        frame(kind::PRIORITY, 0, stream, &payload)
    };
    let cases: Vec<(&str, Vec<Vec<u8>>, Outcome)> = vec![
        ("a request", vec![get(1)], Good),
        ("another after it", vec![get(1), get(3)], Good),
        (
            "data on stream 0",
            vec![data(0, 0, b"x")],
            Ends(ProtocolError),
        ),
        (
            "data on an idle stream",
            vec![data(1, 0, b"x")],
            Ends(ProtocolError),
        ),
        (
            "data after the end",
            vec![get(1), data(1, 0, b"x")],
            Resets(StreamClosed),
        ),
        (
            "data after a reset",
            vec![post(1), reset(1), data(1, 0, b"x")],
            Resets(StreamClosed),
        ),
        (
            "padding of the whole frame",
            vec![post(1), pad(kind::DATA, 0, 1, b"\x02ab")],
            Good,
        ),
        (
            "padding longer than the frame",
            vec![post(1), pad(kind::DATA, 0, 1, b"\x03ab")],
            Ends(ProtocolError),
        ),
        (
            "padding flag on an empty frame",
            vec![post(1), pad(kind::DATA, 0, 1, b"")],
            Ends(FrameSizeError),
        ),
        ("headers on stream 0", vec![get(0)], Ends(ProtocolError)),
        (
            "headers on an even stream",
            vec![get(2)],
            Ends(ProtocolError),
        ),
        (
            "headers on a smaller stream",
            vec![get(5), get(3)],
            Ends(ProtocolError),
        ),
        (
            "headers after the end",
            vec![get(1), get(1)],
            Resets(StreamClosed),
        ),
        (
            "headers after a reset",
            vec![post(1), reset(1), get(1)],
            Ends(StreamClosed),
        ),
        (
            "trailers",
            vec![post(1), headers(1, END, &[("x-sum", "1")])],
            Good,
        ),
        (
            "trailers that end nothing",
            vec![post(1), headers(1, flag::END_HEADERS, &[("x", "1")])],
            Resets(ProtocolError),
        ),
        (
            "a pseudo-field in trailers",
            vec![post(1), headers(1, END, &[(":path", "/")])],
            Resets(ProtocolError),
        ),
        (
            "a header block that is none",
            vec![frame(kind::HEADERS, END, 1, b"\xff\xff\xff\xff\xff\xff")],
            Ends(CompressionError),
        ),
        (
            "headers padded too much",
            vec![pad(kind::HEADERS, END, 1, b"\x05abc")],
            Ends(ProtocolError),
        ),
        (
            "headers that depend on themselves",
            vec![frame(
                kind::HEADERS,
                END | flag::PRIORITY,
                1,
                &[&[0, 0, 0, 1, 9], &block(&GET)[..]].concat(),
            )],
            Resets(ProtocolError),
        ),
        (
            "headers with a priority",
            vec![frame(
                kind::HEADERS,
                END | flag::PRIORITY,
                1,
                &[&[0, 0, 0, 3, 9], &block(&GET)[..]].concat(),
            )],
            Good,
        ),
        (
            "headers too short for their priority",
            vec![frame(kind::HEADERS, END | flag::PRIORITY, 1, &[0, 0])],
            Ends(FrameSizeError),
        ),
        ("priority on an idle stream", vec![priority(9, 1)], Good),
        (
            "priority on stream 0",
            vec![priority(0, 1)],
            Ends(ProtocolError),
        ),
        (
            "priority on itself",
            vec![post(1), priority(1, 1)],
            Resets(ProtocolError),
        ),
        (
            "priority of four bytes",
            vec![post(1), frame(kind::PRIORITY, 0, 1, &[0; 4])],
            Resets(FrameSizeError),
        ),
        (
            "reset of an idle stream",
            vec![reset(1)],
            Ends(ProtocolError),
        ),
        ("reset of stream 0", vec![reset(0)], Ends(ProtocolError)),
        (
            "reset of three bytes",
            vec![post(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])],
            Ends(FrameSizeError),
        ),
        ("reset twice", vec![post(1), reset(1), reset(1)], Good),
        (
            "settings on a stream",
            vec![frame(kind::SETTINGS, 0, 1, b"")],
            Ends(ProtocolError),
        ),
        (
            "settings of five bytes",
            vec![frame(kind::SETTINGS, 0, 0, &[0; 5])],
            Ends(FrameSizeError),
        ),
        (
            "an acknowledgement with a payload",
            vec![frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])],
            Ends(FrameSizeError),
        ),
        (
            "an acknowledgement",
            vec![frame(kind::SETTINGS, flag::ACK, 0, b"")],
            Good,
        ),
        (
            "push neither on nor off",
            vec![settings(&[(setting::ENABLE_PUSH, 2)])],
            Ends(ProtocolError),
        ),
        (
            "a window too large",
            vec![settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)])],
            Ends(FlowControlError),
        ),
        (
            "frames too small",
            vec![settings(&[(setting::MAX_FRAME_SIZE, 16_383)])],
            Ends(ProtocolError),
        ),
        (
            "frames too large",
            vec![settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)])],
            Ends(ProtocolError),
        ),
        (
            "an unknown setting",
            vec![settings(&[(0xf00d, 7)]), get(1)],
            Good,
        ),
        (
            "a window that overflows by a setting",
            vec![
                get(1),
                update(1, 0x7fff_0000),
                settings(&[(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)]),
            ],
            Ends(FlowControlError),
        ),
        (
            "a push by the client",
            vec![frame(kind::PUSH_PROMISE, 0, 1, &[0; 4])],
            Ends(ProtocolError),
        ),
        ("a ping", vec![frame(kind::PING, 0, 0, &[1; 8])], Good),
        (
            "a ping on a stream",
            vec![frame(kind::PING, 0, 1, &[0; 8])],
            Ends(ProtocolError),
        ),
        (
            "a ping of seven bytes",
            vec![frame(kind::PING, 0, 0, &[0; 7])],
            Ends(FrameSizeError),
        ),
        (
            "goaway on a stream",
            vec![frame(kind::GOAWAY, 0, 1, &[0; 8])],
            Ends(ProtocolError),
        ),
        (
            "goaway of seven bytes",
            vec![frame(kind::GOAWAY, 0, 0, &[0; 7])],
            Ends(FrameSizeError),
        ),
        (
            "an update of nothing",
            vec![update(0, 0)],
            Ends(ProtocolError),
        ),
        (
            "an update of nothing on a stream",
            vec![post(1), update(1, 0)],
            Resets(ProtocolError),
        ),
        (
            "an update of an idle stream",
            vec![update(1, 1)],
            Ends(ProtocolError),
        ),
        (
            "an update of three bytes",
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])],
            Ends(FrameSizeError),
        ),
        (
            "a window that overflows",
            vec![update(0, 0x7fff_ffff)],
            Ends(FlowControlError),
        ),
        (
            "a stream's window that overflows",
            vec![post(1), update(1, 0x7fff_ffff)],
            Resets(FlowControlError),
        ),
        (
            "a continuation of nothing",
            vec![frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"")],
            Ends(ProtocolError),
        ),
        (
            "a continuation after the end",
            vec![get(1), frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"")],
            Ends(ProtocolError),
        ),
        (
            "something between",
            vec![
                headers(1, flag::END_STREAM, &GET),
                frame(kind::PING, 0, 0, &[0; 8]),
            ],
            Ends(ProtocolError),
        ),
        (
            "a continuation of another stream",
            vec![
                headers(1, flag::END_STREAM, &GET),
                frame(kind::CONTINUATION, flag::END_HEADERS, 3, b""),
            ],
            Ends(ProtocolError),
        ),
        (
            "an unknown frame between",
            vec![headers(1, flag::END_STREAM, &GET), frame(0xaa, 0, 0, b"")],
            Ends(ProtocolError),
        ),
        (
            "an unknown frame",
            vec![frame(0xaa, 0xff, 7, b"anything"), get(1)],
            Good,
        ),
        (
            "a frame too long",
            vec![frame(kind::DATA, 0, 1, &[0; 16_385])],
            Ends(FrameSizeError),
        ),
        (
            "more than the window",
            vec![post(1), vec![data(1, 0, &[0; 16_384]); 4].concat()],
            Resets(FlowControlError),
        ),
    ];
    for (name, frames, expected) in &cases {
        check(name, frames, *expected);
    }
}

#[test]
fn the_connection_begins_with_the_preface_and_settings() {
    for (input, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Ends(ProtocolError)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", Ends(ProtocolError)),
        (&[PREFACE, &get(1)].concat(), Ends(ProtocolError)),
        (
            &[PREFACE, &frame(kind::SETTINGS, flag::ACK, 0, b"")].concat(),
            Ends(ProtocolError),
        ),
        (&PREFACE[..20], Good),
    ] {
        let mut connection = Connection::server(config(), 1);
        take(&mut connection);
        assert_eq!(connection.receive(input, 0).is_err(), expected != Good);
        assert_eq!(outcome(&mut connection), expected);
    }
}

#[test]
fn requests_that_smuggle_or_contradict_themselves_are_reset() {
    let replaced = |name: &'static str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        GET.iter()
            .map(|(other, old)| (*other, if *other == name { value } else { old }))
            .collect()
    };
    let without = |name: &str| -> Vec<(&'static str, &'static str)> {
        GET.iter()
            .filter(|(other, _)| *other != name)
            .copied()
            .collect()
    };
    for (fields, reason) in [
        (with(&[("X-Upper", "1")]), Reason::BadField),
        (with(&[("x y", "1")]), Reason::BadField),
        (with(&[("x:y", "1")]), Reason::BadField),
        (with(&[("", "1")]), Reason::BadField),
        (with(&[("x\r\ny", "1")]), Reason::BadField),
        (with(&[("x", "1\r\nhost: evil")]), Reason::BadField),
        (with(&[("x", "1\ny")]), Reason::BadField),
        (with(&[("x", "1\0y")]), Reason::BadField),
        (with(&[("x", " 1")]), Reason::BadField),
        (with(&[("x", "1\t")]), Reason::BadField),
        (with(&[("connection", "close")]), Reason::ConnectionField),
        (with(&[("keep-alive", "1")]), Reason::ConnectionField),
        (
            with(&[("proxy-connection", "close")]),
            Reason::ConnectionField,
        ),
        (
            with(&[("transfer-encoding", "chunked")]),
            Reason::ConnectionField,
        ),
        (with(&[("upgrade", "websocket")]), Reason::ConnectionField),
        (with(&[("te", "trailers, gzip")]), Reason::ConnectionField),
        (with(&[("host", "other.example.com")]), Reason::BadHost),
        (with(&[("content-length", "1x")]), Reason::BadContentLength),
        (
            with(&[("content-length", "0"), ("content-length", "1")]),
            Reason::BadContentLength,
        ),
        (with(&[("content-length", "1")]), Reason::LengthMismatch),
        (with(&[(":path", "/other")]), Reason::BadPseudoField),
        (with(&[("x", "1"), (":path", "/")]), Reason::BadPseudoField),
        (with(&[(":status", "200")]), Reason::BadPseudoField),
        (with(&[(":unknown", "1")]), Reason::BadPseudoField),
        (with(&[(":protocol", "websocket")]), Reason::BadPseudoField),
        (without(":method"), Reason::BadPseudoField),
        (without(":path"), Reason::BadPseudoField),
        (without(":scheme"), Reason::BadPseudoField),
        (replaced(":path", ""), Reason::BadPseudoField),
        (replaced(":path", "*"), Reason::BadTarget),
        (replaced(":path", "http://evil/"), Reason::BadTarget),
        (
            replaced(":path", "/ HTTP/1.1\r\nx: y"),
            Reason::BadPseudoField,
        ),
        (replaced(":path", "/a b"), Reason::BadPseudoField),
        (replaced(":method", "GET /x"), Reason::BadPseudoField),
        (replaced(":method", "G:T"), Reason::BadPseudoField),
        (replaced(":method", "CONNECT"), Reason::BadPseudoField),
        (replaced(":authority", "a\r\nx: y"), Reason::BadPseudoField),
        (replaced(":authority", ""), Reason::BadPseudoField),
    ] {
        let mut connection = server();
        connection.receive(&headers(1, END, &fields), 0).unwrap();
        assert_eq!(connection.take_faults(), [reason], "{fields:?}");
        assert_eq!(
            outcome(&mut connection),
            Resets(ProtocolError),
            "{fields:?}"
        );
        assert!(opened(&mut connection).is_empty());
    }
}

#[test]
fn a_request_becomes_text() {
    let mut connection = server();
    let fields = with(&[
        ("cookie", "a=1"),
        ("x-own", "value"),
        ("host", "EXAMPLE.com"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("content-length", "0"),
    ]);
    connection.receive(&headers(1, END, &fields), 0).unwrap();
    let stream = opened(&mut connection)[0];
    assert_eq!(stream.refused, None);
    assert_eq!(
        text(&mut connection, stream.key),
        "GET / HTTP/1.1\r\nHost: example.com\r\nx-own: value\r\nte: trailers\r\ncontent-length: 0\r\n\
         Cookie: a=1; b=2\r\n\r\n"
    );
    assert_eq!(connection.inbox(stream.key), Inbox::Ended);
}

#[test]
fn a_body_without_a_length_comes_in_chunks_with_its_trailers() {
    let mut connection = server();
    let frames = [
        post(1),
        data(1, 0, b"hello"),
        data(1, flag::PADDED, b"\x02!\0\0"),
        headers(1, END, &[("x-sum", "7")]),
    ];
    connection.receive(&frames.concat(), 0).unwrap();
    let key = opened(&mut connection)[0].key;
    assert_eq!(
        text(&mut connection, key),
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
         0005\r\nhello\r\n0001\r\n!\r\n0\r\nx-sum: 7\r\n\r\n"
    );
}

#[test]
fn a_body_is_as_long_as_it_says() {
    let fields: Vec<_> = [(":method", "PUT")]
        .iter()
        .chain(&GET[1..])
        .chain(&[("content-length", "5")])
        .copied()
        .collect();
    let put = headers(1, flag::END_HEADERS, &fields);
    for (bodies, is_good) in [
        (vec![data(1, flag::END_STREAM, b"hello")], true),
        (
            vec![
                data(1, 0, b"he"),
                data(1, 0, b"llo"),
                data(1, flag::END_STREAM, b""),
            ],
            true,
        ),
        (
            vec![data(1, 0, b"hello"), headers(1, END, &[("x", "y")])],
            true,
        ),
        (vec![data(1, flag::END_STREAM, b"hell")], false),
        (vec![data(1, 0, b"hello!")], false),
        (vec![headers(1, END, &[("x", "y")])], false),
    ] {
        let mut connection = server();
        connection
            .receive(&[put.clone(), bodies.concat()].concat(), 0)
            .unwrap();
        let expected = if is_good { Good } else { Resets(ProtocolError) };
        assert_eq!(outcome(&mut connection), expected, "{bodies:?}");
        let faults: &[Reason] = if is_good {
            &[]
        } else {
            &[Reason::LengthMismatch]
        };
        assert_eq!(connection.take_faults(), faults);
        if is_good {
            let key = opened(&mut connection)[0].key;
            assert!(text(&mut connection, key).ends_with("\r\n\r\nhello"));
        }
    }
}

#[test]
fn a_websocket_is_asked_for_as_in_http_1() {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "example.com"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "mine"),
    ];
    let mut connection = server();
    connection
        .receive(
            &[headers(1, flag::END_HEADERS, &fields), data(1, 0, b"frame")].concat(),
            0,
        )
        .unwrap();
    let key = opened(&mut connection)[0].key;
    let text = text(&mut connection, key);
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with(
            "GET /chat HTTP/1.1\r\nHost: example.com\r\nsec-websocket-version: 13\r\n"
        )
    );
    assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(!head.contains("mine"));
    assert_eq!(rest, "frame");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: x\r\n\r\nback";
    assert_eq!(
        connection.write(key, answer.as_bytes()),
        Written::Taken(answer.len())
    );
    let sent = take(&mut connection);
    assert_eq!(
        (sent[0].kind, &sent[0].payload[..]),
        (kind::HEADERS, &[0x88][..])
    );
    assert_eq!(
        (sent[1].kind, &sent[1].payload[..]),
        (kind::DATA, &b"back"[..])
    );
    connection.finish(key);
    assert_eq!(take(&mut connection)[0].flags, flag::END_STREAM);
}

/// Sends an answer of one piece, and gives the frames, a block's fields as text.
fn answer(request: &[(&str, &str)], text: &str) -> Vec<(u8, u8, String)> {
    let mut connection = server();
    connection.receive(&headers(1, END, request), 0).unwrap();
    let key = opened(&mut connection)[0].key;
    // In one piece, and byte by byte.
    let mut frames = Vec::new();
    for piece in [text.len(), 1] {
        let mut other = server();
        other.receive(&headers(1, END, request), 0).unwrap();
        opened(&mut other);
        for piece in text.as_bytes().chunks(piece) {
            assert_eq!(other.write(key, piece), Written::Taken(piece.len()));
        }
        if !text.contains("Content-Length") && !text.contains("Transfer-Encoding") {
            other.finish(key);
        }
        let mut decoder = Decoder::default();
        let mut joined: Vec<(u8, u8, String)> = Vec::new();
        for sent in take(&mut other) {
            let mut content = String::new();
            if sent.kind == kind::HEADERS {
                decoder
                    .decode(&sent.payload, |name, value| {
                        content += std::str::from_utf8(name).unwrap();
                        content += "=";
                        content += std::str::from_utf8(value).unwrap();
                        content += "\n";
                    })
                    .unwrap();
            } else {
                content = String::from_utf8(sent.payload).unwrap();
            }
            match joined.last_mut() {
                Some((kind::DATA, flags, before)) if sent.kind == kind::DATA => {
                    *before += &content;
                    *flags |= sent.flags;
                }
                _ => joined.push((sent.kind, sent.flags, content)),
            }
        }
        frames.push(joined);
    }
    assert_eq!(frames[0], frames[1]);
    frames.remove(0)
}

#[test]
fn an_answer_becomes_frames() {
    let head = |fields: &str, flags| (kind::HEADERS, flags, fields.to_owned());
    let body = |text: &str| (kind::DATA, flag::END_STREAM, text.to_owned());
    let open = flag::END_HEADERS;
    for (method, text, expected) in [
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nKeep-Alive: 3\r\nX-Own: v\r\n\r\nhello",
            vec![
                head(":status=200\ncontent-length=5\nx-own=v\n", open),
                body("hello"),
            ],
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
            vec![head(":status=200\n", open), body("hello!")],
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nGrpc-Status: 0\r\n\r\n",
            vec![
                head(":status=200\n", open),
                (kind::DATA, 0, "hello".to_owned()),
                head("grpc-status=0\n", END),
            ],
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            vec![head(":status=200\n", open), body("until the end")],
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            vec![head(":status=200\ncontent-length=5\n", END)],
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\n",
            vec![head(":status=204\n", END)],
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            vec![head(":status=304\ncontent-length=5\n", END)],
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            vec![head(":status=200\ncontent-length=0\n", END)],
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 599 Own\r\nContent-Length: 1\r\n\r\n!",
            vec![
                head(":status=103\nlink=x\n", open),
                head(":status=599\ncontent-length=1\n", open),
                body("!"),
            ],
        ),
    ] {
        let request: Vec<_> = [(":method", method)]
            .iter()
            .chain(&GET[1..])
            .copied()
            .collect();
        assert_eq!(answer(&request, text), expected, "{text}");
    }
}

#[test]
fn header_lists_are_limited_by_what_they_come_to() {
    let crumbs: Vec<(&str, &str)> = (0..40).map(|_| ("cookie", "a=b")).collect();
    let large = "x".repeat(4000);
    for fields in [crumbs, vec![("x", &large[..]), ("y", "")]] {
        let fields: Vec<_> = GET.iter().copied().chain(fields).collect();
        let mut connection = server();
        connection.receive(&headers(1, END, &fields), 0).unwrap();
        let refused = opened(&mut connection)[0];
        assert_eq!(refused.refused, Some(Reason::HeadTooLarge));
        // The table of the decoder has gone on: the next request is understood.
        connection.receive(&get(3), 0).unwrap();
        assert_eq!(opened(&mut connection)[0].refused, None);
    }
}

#[test]
fn a_bomb_of_indexed_fields_ends_the_connection() {
    let mut connection = server();
    // An entry of 3 kB, and then its index again and again: a byte each.
    let mut bomb = vec![0x40, 1, b'x', 127];
    let rest = 3000 - 127;
    bomb.extend([rest as u8 & 0x7f | 0x80, (rest >> 7) as u8]);
    bomb.extend([b'y'; 3000]);
    bomb.extend([0xbe; 4000]);
    let fault = connection
        .receive(&frame(kind::HEADERS, END, 1, &bomb), 0)
        .unwrap_err();
    assert_eq!(fault.reason, Reason::FieldBomb);
    assert_eq!(outcome(&mut connection), Ends(EnhanceYourCalm));
}

#[test]
fn floods_end_the_connection() {
    let priority = frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]);
    let streams = |frames: &dyn Fn(u32) -> Vec<u8>| -> Vec<Vec<u8>> {
        (0..20).map(|number| frames(2 * number + 1)).collect()
    };
    for (reason, frames) in [
        (Reason::PingFlood, vec![frame(kind::PING, 0, 0, &[0; 8]); 6]),
        (Reason::SettingsFlood, vec![settings(&[]); 6]),
        (
            Reason::SettingsFlood,
            vec![frame(kind::SETTINGS, flag::ACK, 0, b""); 6],
        ),
        (
            Reason::EmptyDataFlood,
            [vec![post(1)], vec![data(1, 0, b""); 6]].concat(),
        ),
        (
            Reason::EmptyDataFlood,
            [vec![post(1)], vec![data(1, flag::PADDED, b"\0"); 6]].concat(),
        ),
        (Reason::FrameFlood, vec![priority; 6]),
        (Reason::FrameFlood, vec![frame(0xaa, 0, 0, b""); 6]),
        (Reason::FrameFlood, vec![update(0, 1); 6]),
        (
            Reason::ResetFlood,
            streams(&|id| [get(id), reset(id)].concat()),
        ),
        (
            Reason::MadeResetFlood,
            streams(&|id| [post(id), update(id, 0)].concat()),
        ),
        (
            Reason::MadeResetFlood,
            streams(&|id| headers(id, END, &[("x", "y")])),
        ),
        (
            Reason::ContinuationFlood,
            [
                vec![headers(1, flag::END_STREAM, &GET)],
                vec![frame(kind::CONTINUATION, 0, 1, b""); 4],
            ]
            .concat(),
        ),
    ] {
        let mut connection = server();
        let mut fault = None;
        for frame in frames {
            match connection.receive(&frame, 0) {
                Ok(_) => {
                    // Whoever was asked for has no time to do anything.
                    for opened in opened(&mut connection) {
                        connection.release_stream(opened.key);
                    }
                }
                Err(found) => {
                    fault = Some(found);
                    break;
                }
            }
        }
        assert_eq!(fault.map(|fault| fault.reason), Some(reason));
        assert!(connection.is_dead());
        let goaway = take(&mut connection).pop().unwrap();
        assert_eq!(
            (goaway.kind, goaway.payload[7]),
            (kind::GOAWAY, EnhanceYourCalm as u8)
        );
    }
}

#[test]
fn large_header_lists_again_and_again_end_the_connection() {
    let crumbs = [("cookie", "a=b"); 40];
    let fields = with(&crumbs);
    // Whether the client has room for streams or not.
    for streams_max in [1, 100] {
        let mut connection = server_with(Config {
            streams_max,
            ..config()
        });
        for round in 0..5 {
            connection
                .receive(&headers(2 * round + 1, END, &fields), 0)
                .unwrap();
        }
        let fault = connection
            .receive(&headers(11, END, &fields), 0)
            .unwrap_err();
        assert_eq!(fault.code, EnhanceYourCalm);
        assert_eq!(fault.reason, Reason::HeadFlood);
        assert!(connection.is_dead());
    }
}

#[test]
fn tiny_windows_end_the_connection() {
    let mut connection = server();
    connection
        .receive(
            &[settings(&[(setting::INITIAL_WINDOW_SIZE, 1)]), get(1)].concat(),
            0,
        )
        .unwrap();
    let key = opened(&mut connection)[0].key;
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        "x".repeat(99)
    );
    let mut at = 0;
    while !connection.is_dead() {
        if let Written::Taken(count) = connection.write(key, &text.as_bytes()[at..]) {
            at += count;
        }
        assert!(at < text.len());
        let _ = connection.receive(&update(1, 1), 0);
    }
    assert_eq!(connection.take_faults(), [Reason::WindowStallFlood]);
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let mut connection = server();
    let requests: Vec<u8> = (0..5).flat_map(|number| get(2 * number + 1)).collect();
    connection.receive(&requests, 0).unwrap();
    assert_eq!(opened(&mut connection).len(), 4);
    assert_eq!(outcome(&mut connection), Resets(RefusedStream));
    assert_eq!(connection.take_faults(), [Reason::TooManyStreams]);
}

#[test]
fn windows_are_given_back_as_the_body_is_read() {
    let mut connection = server();
    connection.receive(&post(1), 0).unwrap();
    let key = opened(&mut connection)[0].key;
    text(&mut connection, key);
    for _ in 0..64 {
        connection.receive(&data(1, 0, &[b'x'; 16_000]), 0).unwrap();
        assert!(matches!(connection.inbox(key), Inbox::Text(_)));
        text(&mut connection, key);
    }
    let given = |sent: &[Sent], stream| -> u32 {
        let of = |sent: &&Sent| sent.kind == kind::WINDOW_UPDATE && sent.stream == stream;
        sent.iter()
            .filter(of)
            .map(|sent| u32::from_be_bytes(sent.payload[..].try_into().unwrap()))
            .sum()
    };
    let sent = take(&mut connection);
    assert!(given(&sent, 1) > 64 * 16_000 - 65_536);
    assert!(given(&sent, 0) > 64 * 16_000 - 131_072);
    // Unread, nothing comes back.
    for _ in 0..2 {
        connection.receive(&data(1, 0, &[b'x'; 16_000]), 0).unwrap();
    }
    assert_eq!(take(&mut connection), []);
}

#[test]
fn what_is_not_read_of_a_stream_comes_back_when_it_goes() {
    let mut connection = server();
    for id in (1..200).step_by(2) {
        connection
            .receive(&[post(id), data(id, 0, &[0; 16_000])].concat(), 0)
            .unwrap();
        let key = opened(&mut connection)[0].key;
        connection.release_stream(key);
        connection.sent(connection.output().len());
    }
    assert!(!connection.is_dead());
}

#[test]
fn what_is_sent_keeps_within_windows_and_room() {
    let mut connection = server();
    connection.receive(&[get(1), get(3)].concat(), 0).unwrap();
    let keys: Vec<Key> = opened(&mut connection)
        .iter()
        .map(|opened| opened.key)
        .collect();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let body = vec![b'x'; 1_000_000];
    for key in &keys {
        assert_eq!(connection.write(*key, head), Written::Taken(head.len()));
    }
    assert!(matches!(
        connection.write(keys[0], &body),
        Written::Taken(1..65_536)
    ));
    assert_eq!(connection.write(keys[0], &body), Written::Blocked);
    let sent: usize = take(&mut connection)
        .iter()
        .map(|sent| sent.payload.len())
        .sum();
    assert!(sent < OUT_BYTES_MAX + 1024);
    // The connection's window is all but used up; the other stream gets what is left.
    while let Written::Taken(_) = connection.write(keys[1], &body) {}
    take(&mut connection);
    assert_eq!(connection.write(keys[0], &body), Written::Blocked);
    // Both windows open: they take turns.
    let more = [update(0, 1 << 20), update(1, 1 << 20), update(3, 1 << 20)].concat();
    connection.receive(&more, 0).unwrap();
    let mut shares = [0usize; 2];
    for _ in 0..20 {
        for (share, key) in shares.iter_mut().zip(&keys) {
            while let Written::Taken(count) = connection.write(*key, &body[..65_536]) {
                *share += count;
            }
        }
        take(&mut connection);
    }
    let (least, most) = (shares[0].min(shares[1]), shares[0].max(shares[1]));
    assert!(least * 2 > most, "{shares:?}");
}

#[test]
fn a_stream_that_is_dropped_early_is_reset() {
    let mut connection = server();
    connection
        .receive(&[get(1), post(3), get(5)].concat(), 0)
        .unwrap();
    let keys: Vec<Key> = opened(&mut connection)
        .iter()
        .map(|opened| opened.key)
        .collect();
    connection.release_stream(keys[0]);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    connection.write(keys[1], answer);
    connection.release_stream(keys[1]);
    connection.write(keys[2], answer);
    connection.release_stream(keys[2]);
    let resets: Vec<(u32, u8)> = take(&mut connection)
        .iter()
        .filter(|sent| sent.kind == kind::RST_STREAM)
        .map(|sent| (sent.stream, sent.payload[3]))
        .collect();
    assert_eq!(resets, [(1, InternalError as u8), (3, NoError as u8)]);
    assert_eq!(connection.stream_count(), 0);
    assert_eq!(connection.write(keys[0], answer), Written::Closed);
}

#[test]
fn the_end_is_announced_before_streams_are_not_served() {
    let mut connection = server();
    connection.announce_end();
    connection.receive(&get(1), 0).unwrap();
    assert_eq!(opened(&mut connection).len(), 1);
    connection.end_after_open_streams();
    connection.receive(&get(3), 0).unwrap();
    assert_eq!(opened(&mut connection).len(), 0);
    let last: Vec<u32> = take(&mut connection)
        .iter()
        .filter(|sent| sent.kind == kind::GOAWAY)
        .map(|sent| u32::from_be_bytes(sent.payload[..4].try_into().unwrap()))
        .collect();
    assert_eq!(last, [0x7fff_ffff, 1]);
}

#[test]
fn both_sides_understand_each_other() {
    let (mut client, mut server) = (
        Connection::client(config()),
        Connection::server(config(), 1),
    );
    let pass = |client: &mut Connection, server: &mut Connection| {
        for _ in 0..4 {
            let up = client.output().to_vec();
            client.sent(up.len());
            assert_eq!(server.receive(&up, 0), Ok(up.len()));
            let down = server.output().to_vec();
            server.sent(down.len());
            assert_eq!(client.receive(&down, 0), Ok(down.len()));
        }
    };
    pass(&mut client, &mut server);
    let key = client.open().unwrap();
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(
        client.write(key, request.as_bytes()),
        Written::Taken(request.len())
    );
    pass(&mut client, &mut server);
    let there = opened(&mut server)[0].key;
    assert_eq!(
        text(&mut server, there),
        "POST /x HTTP/1.1\r\nHost: a\r\nte: trailers\r\nTransfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n0\r\n\r\n"
    );
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
    server.write(there, answer.as_bytes());
    pass(&mut client, &mut server);
    assert_eq!(
        text(&mut client, key),
        "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"
    );
    assert_eq!(client.inbox(key), Inbox::Ended);
}

proptest! {
    #[test]
    fn no_input_panics_or_grows_without_bound(
        frames in proptest::collection::vec((0u8..12, any::<u8>(), 0u32..9, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
        drops in any::<u8>(),
    ) {
        let mut connection = server();
        for (number, (kind, flags, stream, payload)) in frames.iter().enumerate() {
            let input = if *kind == 10 { get(*stream) } else if *kind == 11 { post(*stream) } else {
                frame(*kind, *flags, *stream, payload)
            };
            let _ = connection.receive(&input, number as u64);
            for opened in opened(&mut connection) {
                if drops & 1 << (opened.key.id % 8) != 0 {
                    connection.write(opened.key, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
                    connection.release_stream(opened.key);
                }
            }
            prop_assert!(connection.stream_count() <= 8);
        }
        prop_assert!(connection.output().len() < 64 * 1024);
    }

    #[test]
    fn any_block_of_an_encoder_is_text_that_http_1_understands(
        fields in proptest::collection::vec(("[a-z][a-z-]{0,10}", "[!-~]{1,20}"), 0..10),
    ) {
        let mut encoder = Encoder::default();
        let mut payload = Vec::new();
        for (name, value) in GET {
            encoder.field(name.as_bytes(), value.as_bytes(), &mut payload);
        }
        for (name, value) in &fields {
            encoder.field(name.as_bytes(), value.as_bytes(), &mut payload);
        }
        let mut connection = server();
        connection.receive(&frame(kind::HEADERS, END, 1, &payload), 0).unwrap();
        for opened in opened(&mut connection) {
            let text = text(&mut connection, opened.key);
            let mut head = crate::codec::h1::RequestHead::default();
            let limits = weir_model::HttpLimits::default();
            // What cannot be parsed here is refused with 400, as from any client.
            if let Ok(progress) = head.parse(text.as_bytes(), &limits) {
                prop_assert_eq!(progress, crate::codec::h1::Progress::Complete);
                prop_assert_eq!(head.length, text.len());
            }
        }
    }
}

/// The streams of the frames of a kind, in their order.
fn streams_of(wanted: u8, mut output: &[u8]) -> Vec<u32> {
    output = &output[PREFACE.len()..];
    let mut streams = Vec::new();
    while let Some(header) = FrameHeader::parse(output) {
        if header.kind == wanted {
            streams.push(header.stream);
        }
        output = &output[HEADER_BYTES + header.length..];
    }
    streams
}

#[test]
fn requests_are_sent_in_the_order_of_their_streams() {
    let mut client = Connection::client(config());
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let first = client.open().unwrap();
    assert_eq!(client.write(first, head), Written::Taken(head.len()));
    let written = client.write(first, &[b'x'; 100_000]);
    assert!(matches!(written, Written::Taken(count) if count < 65_535));
    assert!(client.is_backed_up());
    // There is no room for more, but for what other streams must not overtake.
    let (second, third) = (client.open().unwrap(), client.open().unwrap());
    assert_eq!(client.write(second, head), Written::Taken(head.len()));
    assert_eq!(client.write(second, b"x"), Written::Blocked);
    assert_eq!(client.write(third, head), Written::Taken(head.len()));
    assert_eq!(streams_of(kind::HEADERS, client.output()), [1, 3, 5]);
}

#[test]
fn a_request_that_was_never_sent_is_not_taken_back() {
    let mut client = Connection::client(config());
    let (released, finished) = (client.open().unwrap(), client.open().unwrap());
    client.release_stream(released);
    client.finish(finished);
    client.release_stream(finished);
    assert_eq!(streams_of(kind::RST_STREAM, client.output()), []);
    let sent = client.open().unwrap();
    client.write(sent, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.release_stream(sent);
    assert_eq!(streams_of(kind::HEADERS, client.output()), [5]);
    assert_eq!(streams_of(kind::RST_STREAM, client.output()), [5]);
}

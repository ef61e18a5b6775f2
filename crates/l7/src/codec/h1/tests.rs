//! Heads and chunks: what is accepted, what is refused and why, and that it makes no difference in what pieces the
//! bytes come.

use proptest::prelude::*;
use weir_model::HttpLimits;

use super::response::After;
use super::*;
use crate::errors::Reason::*;

const LIMITS: HttpLimits = HttpLimits {
    header_bytes: 1024,
    header_count: 16,
    min_rate: 0,
};

/// Parses a request at every split: every shorter input must be partial, or refused for the reason of the whole.
fn request(input: &[u8]) -> Result<RequestHead, Reason> {
    let mut head = RequestHead::default();
    let whole = match head.parse(input, &LIMITS) {
        Ok(Progress::Complete) => Ok(head.clone()),
        Ok(Progress::Partial) => panic!("{:?} is not whole", String::from_utf8_lossy(input)),
        Err(reason) => Err(reason),
    };
    let length = whole.as_ref().map_or(input.len(), |head| head.length);
    for end in 0..length {
        match (head.parse(&input[..end], &LIMITS), &whole) {
            (Ok(Progress::Partial), _) => {}
            (Err(early), Err(late)) if early == *late => {}
            (other, _) => panic!(
                "{:?}: {other:?} instead of {whole:?}",
                String::from_utf8_lossy(&input[..end])
            ),
        }
    }
    whole
}

/// What the backend is sent of a request, without the fields that the proxy adds.
fn sent(input: &str) -> Result<String, Reason> {
    let mut head = request(input.as_bytes())?;
    head.allow_upgrade(input.as_bytes(), &["websocket".to_owned()]);
    let mut out = Vec::new();
    head.write(input.as_bytes(), b"fallback:80", &mut out);
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn requests_are_passed_on_without_the_fields_of_the_hop() {
    for (input, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET /x?y HTTP/1.1\r\nConnection: keep-alive, X-Hop\r\nhOST: a\r\nx-hop: 1\r\nKeep-Alive: 5\r\nX: y\r\n\r\n",
            "GET /x?y HTTP/1.1\r\nhOST: a\r\nX: y\r\n",
        ),
        // What says where the message goes and where it ends is not for Connection to remove.
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: host, content-length\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n",
        ),
        // Named before it stands, and behind.
        (
            "GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\nConnection: b, a\r\nB: 2\r\nC: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nC: 3\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n",
        ),
        // Only a WebSocket is asked for; other upgrades are ours to ignore (RFC 9110, section 7.8).
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        // The first line is found out to be left out after a later one.
        (
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nHost: a\r\nKeep-Alive: 1\r\nX: y\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX: y\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n",
        ),
        // However the coding is spelled, the backend reads it as we do.
        (
            "PUT / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nX: y\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nX: y\r\n",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\t CHUNKED \r\nX: y\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: a\r\nX: y\r\nTransfer-Encoding: chunked\r\n",
        ),
        // The absolute form: its authority wins over Host.
        (
            "GET http://b:8080/p?q HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
            "GET /p?q HTTP/1.1\r\nHost: b:8080\r\nX: y\r\n",
        ),
        (
            "GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: b\r\n",
        ),
        (
            "GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /?q HTTP/1.1\r\nHost: b\r\n",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: b\r\n",
        ),
        (
            "OPTIONS http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: b\r\n",
        ),
        (
            "OPTIONS http://b?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS /?q HTTP/1.1\r\nHost: b\r\n",
        ),
        // HTTP/1.0 becomes HTTP/1.1 on our side.
        (
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: fallback:80\r\n",
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n",
        ),
    ] {
        assert_eq!(sent(input).as_deref(), Ok(expected), "{input:?}");
    }
}

#[test]
fn requests_are_refused_for_their_reason() {
    for (input, reason) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            LengthAndCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            LengthAndCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            BadContentLength,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            UnknownTransferCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            UnknownTransferCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked ,\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            UnknownTransferCoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\n: a\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n", BadField),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", BareLineEnd),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLineEnd),
        ("\r\n\r\n\r\n\r\n\r\n", BadRequestLine),
        ("GET / HTTP/1.1\r\n\r\n", MissingHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            DuplicateHost,
        ),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", BadHost),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", BadHost),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET http://u@b/x HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", ConnectRefused),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", UnknownVersion),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", UnknownVersion),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
    ] {
        assert_eq!(
            request(input.as_bytes()).map(|_| ()),
            Err(reason),
            "{input:?}"
        );
    }
}

#[test]
fn framing_and_connection_of_requests() {
    let head = |fields: &str| {
        request(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap()
    };
    assert_eq!(head("").framing, Framing::None);
    assert_eq!(head("Content-Length: 0\r\n").framing, Framing::None);
    assert_eq!(head("Content-Length: 007\r\n").framing, Framing::Length(7));
    assert_eq!(
        head("Transfer-Encoding:  CHUNKED \r\n").framing,
        Framing::Chunked
    );
    assert!(head("").keep_alive);
    assert!(!head("Connection: x, CLOSE\r\n").keep_alive);
    assert!(!head("Connection: keep-alive\r\nConnection: close\r\n").keep_alive);
    assert!(head("Expect: 100-Continue\r\n").expects_continue);
    let old = |fields: &str| request(format!("GET / HTTP/1.0\r\n{fields}\r\n").as_bytes()).unwrap();
    assert!(!old("").keep_alive);
    assert!(old("Connection: Keep-Alive\r\n").keep_alive);
    assert!(!old("Expect: 100-continue\r\n").expects_continue);
}

#[test]
fn limits_hold_at_the_limit_and_not_beyond() {
    let mut head = RequestHead::default();
    let with_length = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    assert_eq!(
        head.parse(with_length(1024).as_bytes(), &LIMITS),
        Ok(Progress::Complete)
    );
    assert_eq!(
        head.parse(with_length(1025).as_bytes(), &LIMITS),
        Err(HeadTooLarge)
    );
    assert_eq!(
        head.parse(&with_length(5000).as_bytes()[..1023], &LIMITS),
        Ok(Progress::Partial)
    );
    assert_eq!(
        head.parse(&with_length(5000).as_bytes()[..1024], &LIMITS),
        Err(HeadTooLarge)
    );
    let target = format!("GET /{} HTTP/1.1\r\n", "x".repeat(1024));
    assert_eq!(head.parse(target.as_bytes(), &LIMITS), Err(TargetTooLong));
    let with_fields = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(count - 1)
        )
    };
    assert_eq!(
        head.parse(with_fields(16).as_bytes(), &LIMITS),
        Ok(Progress::Complete)
    );
    assert_eq!(
        head.parse(with_fields(17).as_bytes(), &LIMITS),
        Err(HeadTooLarge)
    );
    let many = HttpLimits {
        header_bytes: 64 * 1024,
        header_count: 1000,
        ..LIMITS
    };
    assert_eq!(
        head.parse(with_fields(1000).as_bytes(), &many),
        Ok(Progress::Complete)
    );
    assert_eq!(
        head.parse(with_fields(1001).as_bytes(), &many),
        Err(HeadTooLarge)
    );
}

/// Parses an answer at every split.
fn response(input: &[u8], method: Method) -> Result<ResponseHead, Reason> {
    let mut head = ResponseHead::default();
    let whole = match head.parse(input, method, &LIMITS) {
        Ok(Progress::Complete) => Ok(head.clone()),
        Ok(Progress::Partial) => panic!("{:?} is not whole", String::from_utf8_lossy(input)),
        Err(reason) => Err(reason),
    };
    let length = whole.as_ref().map_or(input.len(), |head| head.length);
    for end in 0..length {
        match (head.parse(&input[..end], method, &LIMITS), &whole) {
            (Ok(Progress::Partial), _) => {}
            (Err(early), Err(late)) if early == *late => {}
            (other, _) => panic!(
                "{:?}: {other:?} instead of {whole:?}",
                String::from_utf8_lossy(&input[..end])
            ),
        }
    }
    whole
}

#[test]
fn answers_are_passed_on_without_the_fields_of_the_hop() {
    for (input, after, plain, expected) in [
        (
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 1\r\n\r\n",
            After::Close,
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.0 200 OK\r\nA: b\r\n\r\n",
            After::KeepAliveHttp10,
            false,
            "HTTP/1.1 200 OK\r\nA: b\r\nConnection: keep-alive\r\n\r\n",
        ),
        (
            "HTTP/1.1 200\r\nA: b\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 200\r\nA: b\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nA: b\r\n\r\n",
            After::Close,
            true,
            "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:Chunked\r\nA: b\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:Chunked\r\nA: b\r\n\r\n",
            After::Close,
            true,
            "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            After::Upgrade,
            false,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ),
        // RFC 9110, section 8.6: neither has these fields; a client that believed them would wait for a body.
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 200 OK\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x\r\nX: 1\r\n\r\n",
            After::KeepAlive,
            false,
            "HTTP/1.1 200 OK\r\n\r\n",
        ),
    ] {
        let head = response(input.as_bytes(), Method::Get).unwrap();
        let mut out = Vec::new();
        head.write(input.as_bytes(), after, plain, None, b"", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{input:?}");
    }
}

#[test]
fn framing_of_answers() {
    for (method, status, fields, framing, keep_alive) in [
        (
            Method::Get,
            200,
            "Content-Length: 5\r\n",
            Framing::Length(5),
            true,
        ),
        (
            Method::Get,
            200,
            "Content-Length: 0\r\n",
            Framing::None,
            true,
        ),
        (
            Method::Get,
            200,
            "Transfer-Encoding: chunked\r\n",
            Framing::Chunked,
            true,
        ),
        (
            Method::Get,
            200,
            "Transfer-Encoding: chunked\r\nConnection: close\r\n",
            Framing::Chunked,
            false,
        ),
        (Method::Get, 200, "", Framing::UntilClose, false),
        (
            Method::Head,
            200,
            "Content-Length: 5\r\n",
            Framing::None,
            true,
        ),
        (Method::Head, 200, "", Framing::None, true),
        (Method::Get, 204, "", Framing::None, true),
        (
            Method::Get,
            304,
            "Content-Length: 5\r\n",
            Framing::None,
            true,
        ),
        (Method::Get, 100, "", Framing::None, true),
        (Method::Get, 101, "", Framing::None, true),
    ] {
        let head = response(
            format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes(),
            method,
        )
        .unwrap();
        assert_eq!(
            (head.framing, head.keep_alive),
            (framing, keep_alive),
            "{method:?} {status} {fields:?}"
        );
    }
    let old = response(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get).unwrap();
    assert_eq!((old.framing, old.keep_alive), (Framing::Length(5), false));
    let old = response(
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        Method::Get,
    )
    .unwrap();
    assert!(old.keep_alive);
}

#[test]
fn answers_that_break_framing_are_refused() {
    for (input, reason) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n",
            BadResponseFraming,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadResponseFraming,
        ),
        ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", BadResponse),
        ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", BadResponse),
        ("HTTP/1.1 200 OK\nX: y\r\n\r\n", BadResponse),
        ("HTTP/1.1 20 OK\r\n\r\n", BadResponse),
        ("HTTP/1.1 099 OK\r\n\r\n", BadResponse),
        ("HTTP/2 200\r\n\r\n", BadResponse),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", BadResponse),
        ("ICY 200 OK\r\n\r\n", BadResponse),
    ] {
        assert_eq!(
            response(input.as_bytes(), Method::Get).map(|_| ()),
            Err(reason),
            "{input:?}"
        );
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2000));
    assert_eq!(
        ResponseHead::default().parse(long.as_bytes(), Method::Get, &LIMITS),
        Err(BadResponse)
    );
}

/// The content, what is passed on, and what is left behind the body.
type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Decodes chunks that come in two pieces, split at `at`.
fn decode(input: &[u8], at: usize) -> Result<Option<Decoded>, Reason> {
    let mut decoder = ChunkDecoder::default();
    let (mut data, mut passed, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for part in [&input[..at], &input[at..]] {
        waiting.extend_from_slice(part);
        loop {
            let piece = decoder.next(&waiting)?;
            if piece.kind == PieceKind::NeedMore {
                assert_eq!(piece.length, 0);
                break;
            }
            assert!(piece.length > 0);
            let bytes: Vec<u8> = waiting.drain(..piece.length).collect();
            match piece.kind {
                PieceKind::Data => {
                    data.extend_from_slice(&bytes);
                    passed.extend_from_slice(&bytes);
                }
                PieceKind::Extension | PieceKind::ForbiddenTrailer => {}
                _ => passed.extend_from_slice(&bytes),
            }
        }
    }
    Ok(decoder.is_done().then_some((data, passed, waiting)))
}

#[test]
fn chunks_are_decoded_at_every_split() {
    for (input, data, passed) in [
        (
            "5\r\nhello\r\n0\r\n\r\nNEXT",
            "hello",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("0\r\n\r\nNEXT", "", "0\r\n\r\n"),
        (
            "000A\r\n0123456789\r\n00\r\n\r\nNEXT",
            "0123456789",
            "000A\r\n0123456789\r\n00\r\n\r\n",
        ),
        (
            "a;x=\"y\";z\r\n0123456789\r\n0;last\r\n\r\nNEXT",
            "0123456789",
            "a\r\n0123456789\r\n0\r\n\r\n",
        ),
        (
            "2 \t;x\r\nhi\r\n0\r\n\r\nNEXT",
            "hi",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "1\r\na\r\n0\r\nX: y\r\nHost: b\r\nZ:\r\n\r\nNEXT",
            "a",
            "1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        ),
        (
            "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\nNEXT",
            "\r\n",
            "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
        ),
    ] {
        for at in 0..=input.len() {
            let expected = (
                data.as_bytes().to_vec(),
                passed.as_bytes().to_vec(),
                b"NEXT".to_vec(),
            );
            assert_eq!(
                decode(input.as_bytes(), at),
                Ok(Some(expected)),
                "{input:?} at {at}"
            );
        }
    }
}

#[test]
fn bad_chunks_are_refused_at_every_split() {
    for input in [
        "\r\n",
        "g\r\n",
        " 5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5 \r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5;\n\r\nhello\r\n",
        "5;a\0b\r\nhello\r\n",
        "5;a\rb\r\nhello\r\n",
        "1000000000000000\r\n",
        "0000000000000001\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: a\0\r\n\r\n",
        "0\r\n\n",
        "0\r\n\rX\r\n",
    ] {
        for at in 0..=input.len() {
            assert_eq!(
                decode(input.as_bytes(), at),
                Err(BadChunk),
                "{input:?} at {at}"
            );
        }
    }
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let extensions = "1;x\r\na\r\n".repeat(9000);
    assert_eq!(decode(extensions.as_bytes(), 0), Err(BadChunk));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000));
    assert_eq!(decode(trailers.as_bytes(), 0), Err(BadChunk));
    let endless = format!("0\r\nX: {}", "y".repeat(9000));
    assert_eq!(decode(endless.as_bytes(), 0), Err(BadChunk));
}

proptest! {
    #[test]
    fn what_is_chunked_comes_back(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut input = Vec::new();
        for chunk in &chunks {
            input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            input.extend_from_slice(chunk);
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"0\r\n\r\n");
        let at = cut.index(input.len());
        let expected = (chunks.concat(), input.clone(), Vec::new());
        prop_assert_eq!(decode(&input, at), Ok(Some(expected)));
    }

    #[test]
    fn fields_that_are_nobodys_business_come_through(
        fields in proptest::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,12}", "[!-~]([ -~]{0,20}[!-~])?"), 0..12),
    ) {
        let ours = |name: &str| {
            let known = ["te", "host", "expect", "upgrade", "connection", "keep-alive", "content-length"];
            let more = ["http2-settings", "transfer-encoding", "proxy-connection"];
            known.iter().chain(&more).any(|known| name.eq_ignore_ascii_case(known)) || name.to_ascii_lowercase().starts_with("x-f")
        };
        let lines: String =
            fields.iter().filter(|(name, _)| !ours(name)).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        prop_assert_eq!(sent(&input), Ok(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}")));
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        let head = response(answer.as_bytes(), Method::Get).unwrap();
        let mut out = Vec::new();
        head.write(answer.as_bytes(), After::KeepAlive, false, None, b"", &mut out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), answer);
    }
}

/// A small generator (xorshift64*), so that a failing seed can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

/// Mutates valid messages, and holds what is accepted against the rules that nothing may break.
#[test]
fn mutated_messages_are_refused_or_sound() {
    let seeds: [&[u8]; 4] = [
        b"POST http://b/x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close, x\r\nX: y\r\n\r\n",
        b"GET /p?q HTTP/1.1\r\nHost: a.example:80\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
        b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n",
    ];
    let spice: &[u8] = b"\r\n\0\t :;,\x7f\xff0aX/";
    let mut random = Random(0x5eed);
    for _ in 0..60_000 {
        let mut input = seeds[random.next(seeds.len())].to_vec();
        for _ in 0..=random.next(4) {
            let at = random.next(input.len());
            match random.next(4) {
                0 => input[at] = spice[random.next(spice.len())],
                1 => input.insert(at, spice[random.next(spice.len())]),
                2 => {
                    input.remove(at);
                }
                _ => {
                    let end = at + random.next(input.len() - at + 1);
                    let part = input[at..end].to_vec();
                    input.splice(at..at, part);
                }
            }
            if input.is_empty() {
                input.push(b' ');
            }
        }
        let mut head = RequestHead::default();
        if head.parse(&input, &LIMITS) == Ok(Progress::Complete) {
            let mut out = Vec::new();
            head.write(&input, b"f", &mut out);
            sound(&input, &out);
            let names = |wanted: &str| field_count(&out, wanted);
            assert_eq!(names("host"), 1, "{input:?}");
            assert!(
                names("content-length") + names("transfer-encoding") <= 1,
                "{input:?}"
            );
            out.extend_from_slice(b"\r\n");
            let mut again = RequestHead::default();
            assert_eq!(
                again.parse(&out, &HttpLimits::default()),
                Ok(Progress::Complete),
                "{input:?}"
            );
            assert_eq!(again.framing, head.framing, "{input:?}");
        }
        let mut head = ResponseHead::default();
        if head.parse(&input, Method::Get, &LIMITS) == Ok(Progress::Complete) {
            let mut out = Vec::new();
            head.write(&input, After::KeepAlive, false, None, b"", &mut out);
            sound(&input, &out);
            assert!(
                field_count(&out, "content-length") + field_count(&out, "transfer-encoding") <= 1,
                "{input:?}"
            );
            let mut again = ResponseHead::default();
            assert_eq!(
                again.parse(&out, Method::Get, &HttpLimits::default()),
                Ok(Progress::Complete),
                "{input:?}"
            );
            assert_eq!(again.framing, head.framing, "{input:?}");
        }
        let at = random.next(input.len());
        if let Ok(Some((data, passed, left))) = decode(&input, at) {
            // What is passed on decodes to the same, and has no more behind it.
            assert_eq!(
                decode(&passed, 0),
                Ok(Some((data, passed.clone(), Vec::new()))),
                "{input:?}"
            );
            assert!(input.ends_with(&left));
        }
    }
}

fn field_count(head: &[u8], name: &str) -> usize {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter(|line| {
            line.split(|byte| *byte == b':')
                .next()
                .is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()))
        })
        .count()
}

/// No control byte, every line ended by CRLF.
fn sound(input: &[u8], out: &[u8]) {
    for (at, byte) in out.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(out.get(at + 1), Some(&b'\n'), "{input:?}"),
            b'\n' => assert_eq!(out[at - 1], b'\r', "{input:?}"),
            b'\t' => {}
            byte => assert!(*byte >= 0x20 && *byte != 0x7f, "{input:?}"),
        }
    }
}

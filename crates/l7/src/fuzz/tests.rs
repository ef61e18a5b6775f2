//! The harness, for a few seconds and always the same.

use super::{client_hello, h1, proxy_protocol};

/// xorshift64 (Marsaglia, Journal of Statistical Software 8(14), 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    /// Damages a message in a few places: bytes changed, put in, taken out, repeated.
    fn damage(&mut self, message: &mut Vec<u8>, spice: &[u8]) {
        for _ in 0..self.below(4) {
            if message.is_empty() {
                return;
            }
            let at = self.below(message.len());
            let byte = spice[self.below(spice.len())];
            match self.below(5) {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                2 => message[at] ^= 1 << self.below(8),
                3 => {
                    message.remove(at);
                }
                _ => {
                    let length = self.below((message.len() - at).min(40) + 1);
                    let part = message[at..at + length].to_vec();
                    message.splice(at..at, part);
                }
            }
        }
    }
}

/// Runs the messages as they are, and damaged so many times.
fn check(run: fn(&[u8]), rounds: usize, messages: &[Vec<u8>], spice: &[u8]) {
    for message in messages {
        run(message);
    }
    let mut random = Random(0x5eed_0001);
    for _ in 0..rounds {
        let mut message = messages[random.below(messages.len())].clone();
        random.damage(&mut message, spice);
        run(&message);
    }
}

const TEXT_SPICE: &[u8] = b"\r\n\0\t :;,\x7f\xff0aX/*[]";

#[test]
fn requests_hold() {
    let messages = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nPOST http://b/x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close, x\r\nX: y\r\n\r\n",
        "GET /p?q HTTP/1.1\r\nHost: a.example:80\r\nTransfer-Encoding: Chunked\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\nmore",
        "GET /w HTTP/1.1\r\nHost: [::1]:8\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nCookie: a=b; c=d\r\n\r\n",
        "OPTIONS http://b HTTP/1.0\r\nConnection: keep-alive\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n",
    ];
    check(
        h1::requests,
        4_000,
        &messages.map(|message| message.as_bytes().to_vec()),
        TEXT_SPICE,
    );
}

#[test]
fn answers_hold() {
    let messages = [
        "gHTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
        "HHTTP/1.1 200 OK\r\nTransfer-Encoding:  chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
        "gHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
        "HHTTP/1.0 304 Not Modified\r\nContent-Length: 7\r\nConnection: x\r\nX: y\r\n\r\n",
        "HHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HHTTP/1.1 204\r\n\r\n",
    ];
    check(
        h1::answers,
        4_000,
        &messages.map(|message| message.as_bytes().to_vec()),
        TEXT_SPICE,
    );
}

#[test]
fn chunks_hold() {
    let messages = [
        "0\r\n\r\n",
        "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\nHost: a\r\n\r\nmore",
        "a \t;e\r\n0123456789\r\n00\r\n\r\n",
    ];
    check(
        h1::chunks,
        8_000,
        &messages.map(|message| message.as_bytes().to_vec()),
        TEXT_SPICE,
    );
}

#[test]
fn proxy_headers_hold() {
    let binary = |command: u8, family: u8, content: &[u8]| {
        let length = [0, content.len() as u8];
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[command, family][..],
            &length,
            content,
        ]
        .concat()
    };
    let messages = [
        b"PROXY TCP4 192.0.2.1 203.0.113.7 12345 443\r\nmore".to_vec(),
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 65535\r\n".to_vec(),
        b"PROXY UNKNOWN what ever\r\n".to_vec(),
        binary(0x20, 0, b""),
        binary(0x21, 0x11, b"\xc0\0\x02\x01\xcb\0\x71\x07\x30\x39\x01\xbb"),
        binary(
            0x21,
            0x11,
            b"\xc0\0\x02\x01\xcb\0\x71\x07\x30\x39\x01\xbb\x01\0\x02h2\x04\0\x01x",
        ),
        binary(0x21, 0x21, &[1; 36]),
    ];
    check(
        proxy_protocol::headers,
        12_000,
        &messages,
        b"\r\n\0 .:0129af\x11\x21",
    );
}

#[test]
fn server_names_hold() {
    let mut message = vec![1, 0, 0, 68, 3, 3];
    message.extend_from_slice(&[7; 32]);
    message.extend_from_slice(
        b"\0\0\x02\x13\x01\x01\0\0\x1a\0\x17\0\0\0\0\0\x12\0\x10\0\0\x0dA.example.com",
    );
    let length = message.len() - 4;
    message[3] = length as u8;
    let records = |size: usize| -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat())
            .collect()
    };
    let messages = [1, 7, 255].map(records);
    assert_eq!(
        crate::codec::client_hello::server_name(&messages[2]),
        crate::codec::client_hello::Hello::Name("a.example.com".to_owned())
    );
    check(
        client_hello::names,
        4_000,
        &messages,
        b"\0\x01\x03\x16.aZ\xff",
    );
}

//! `X-Forwarded-For`, `-Proto` and `-Host`, `Client-Cert`: who asked, and how, as the backend cannot see it.
//!
//! The client's own `-For` is kept and our peer's address appended: a backend trusts it from the right, as far as
//! it knows the proxies. `-Proto` and `-Host` of the client are replaced: only we know them. `Client-Cert` (RFC 9440)
//! is the certificate that the client has shown and that was verified; a client's own field never gets through.

use std::io::Write;
use std::net::IpAddr;

use crate::client::Client;
use crate::codec::h1::RequestHead;

/// What is the same for all requests of a connection.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// The two lines, whole, for a client that sends no `X-Forwarded-For` of its own.
    lines: Vec<u8>,
    client: IpAddr,
    /// The line of the client's certificate, whole; empty where none was shown.
    certificate: Vec<u8>,
}

impl Forwarded {
    pub(crate) fn new(from: &Client) -> Self {
        let client = from.address.ip().to_canonical();
        let proto = from.scheme();
        let lines =
            format!("X-Forwarded-Proto: {proto}\r\nX-Forwarded-For: {client}\r\n").into_bytes();
        let certificate = from.certificate().map_or_else(Vec::new, |der| {
            let mut line = b"Client-Cert: :".to_vec();
            write_base64(der, &mut line);
            line.extend_from_slice(b":\r\n");
            line
        });
        Self {
            lines,
            client,
            certificate,
        }
    }

    /// Ends the head of a request with these fields and the empty line.
    pub(crate) fn write(&self, request: &RequestHead, head: &[u8], out: &mut Vec<u8>) {
        if request.forwarded_for.is_none() {
            out.extend_from_slice(&self.lines);
        } else {
            self.write_appended(request, head, out);
        }
        out.extend_from_slice(&self.certificate);
        if !request.authority.is_empty() {
            out.extend_from_slice(b"X-Forwarded-Host: ");
            out.extend_from_slice(request.authority.of(head));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    #[cold]
    fn write_appended(&self, request: &RequestHead, head: &[u8], out: &mut Vec<u8>) {
        let proto_end = self
            .lines
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |lf| lf + 1);
        out.extend_from_slice(&self.lines[..proto_end]);
        out.extend_from_slice(b"X-Forwarded-For: ");
        for addresses in request.forwarded_for() {
            out.extend_from_slice(addresses.of(head));
            out.extend_from_slice(b", ");
        }
        // Writing to a vector does not fail.
        let _ = write!(out, "{}\r\n", self.client);
    }
}

/// Base64 (RFC 4648, section 4), as a structured field has it.
pub(crate) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            out.push(if at <= group.len() {
                ALPHABET[index as usize]
            } else {
                b'='
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (plain, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            write_base64(plain.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        write_base64(&[0xfb, 0xff, 0xfe], &mut out);
        assert_eq!(out, b"+//+");
    }
}

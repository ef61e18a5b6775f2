//! `X-Forwarded-For`, `-Proto` and `-Host`: who asked, and how, as the backend cannot see it.
//!
//! The client's own `-For` is kept and our peer's address appended: a backend trusts it from the right, as far as
//! it knows the proxies. `-Proto` and `-Host` of the client are replaced: only we know them.

use std::io::Write;
use std::net::IpAddr;

use crate::codec::h1::RequestHead;

/// What is the same for all requests of a connection.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// The two lines, whole, for a client that sends no `X-Forwarded-For` of its own.
    lines: Vec<u8>,
    client: IpAddr,
}

impl Forwarded {
    pub(crate) fn new(client: IpAddr, proto: &str) -> Self {
        let client = client.to_canonical();
        let lines =
            format!("X-Forwarded-Proto: {proto}\r\nX-Forwarded-For: {client}\r\n").into_bytes();
        Self { lines, client }
    }

    /// Ends the head of a request with these fields and the empty line.
    pub(crate) fn write(&self, request: &RequestHead, head: &[u8], out: &mut Vec<u8>) {
        if request.forwarded_for.is_none() {
            out.extend_from_slice(&self.lines);
        } else {
            self.write_appended(request, head, out);
        }
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

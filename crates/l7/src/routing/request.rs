//! A request as routes look at it, whatever it came in.

use std::net::IpAddr;

/// What conditions are about. Values are as they were sent.
pub trait RequestView {
    /// The method.
    fn method(&self) -> &[u8];

    /// Host and port; empty where none was sent.
    fn authority(&self) -> &[u8];

    /// Path and query; empty where the path is `/`.
    fn target(&self) -> &[u8];

    /// The values of a header field; the name is in lower case.
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;

    /// The client's address.
    fn client(&self) -> IpAddr;
}

/// A connection, of which no more than a name and the client are known.
#[derive(Clone, Copy, Debug)]
pub struct Bare<'n> {
    /// The name in the handshake (SNI); may be empty.
    pub name: &'n [u8],
    /// The client's address.
    pub client: IpAddr,
}

impl RequestView for Bare<'_> {
    fn method(&self) -> &[u8] {
        b""
    }

    fn authority(&self) -> &[u8] {
        self.name
    }

    fn target(&self) -> &[u8] {
        b""
    }

    fn values<'s>(&'s self, _name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        std::iter::empty()
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

/// The path of a target and its query, without `?`.
pub fn path_and_query(target: &[u8]) -> (&[u8], &[u8]) {
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &b""[..]),
    };
    (if path.is_empty() { b"/" } else { path }, query)
}

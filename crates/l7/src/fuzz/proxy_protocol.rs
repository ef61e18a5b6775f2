//! PROXY headers: what is accepted can be written again, in either version, and says the same.

use std::net::SocketAddr;

use super::at_every_split;
use crate::codec::proxy_protocol::{
    Additions, HEADER_BYTES_MAX, Header, Progress, parse, write_binary, write_line,
};

/// Runs the bytes as the beginning of a connection.
pub fn headers(bytes: &[u8]) {
    let said = at_every_split(bytes, |bytes| match parse(bytes) {
        Ok(Progress::Partial) => None,
        Ok(Progress::Complete { header, length }) => Some(Ok((header, length))),
        Err(reason) => Some(Err(reason)),
    });
    if said.is_none() {
        assert!(bytes.len() < HEADER_BYTES_MAX, "it never ends");
    }
    let Some(Ok((header, length))) = said else {
        return;
    };
    assert!(length <= bytes.len().min(HEADER_BYTES_MAX));
    let Header::Of {
        source,
        destination,
    } = header
    else {
        return;
    };
    let mut line = Vec::new();
    write_line(source, destination, &mut line);
    let mut binary = Vec::new();
    write_binary(source, destination, &Additions::default(), &mut binary);
    for written in [line, binary] {
        let Ok(Progress::Complete {
            header:
                Header::Of {
                    source: source_again,
                    destination: destination_again,
                },
            length,
        }) = parse(&written)
        else {
            panic!("{header:?} was written as {written:?}");
        };
        assert_eq!(length, written.len());
        assert_eq!(canonical(source_again), canonical(source));
        assert_eq!(canonical(destination_again), canonical(destination));
    }
}

/// An IPv4 address is the same within IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

//! TLS connections, to clients and to backends.

mod handshake;
mod renewal;
mod stream;

pub(crate) use handshake::{accept, connect};
pub(crate) use renewal::{Renewal, Renewals};
pub(crate) use stream::Tls;

/// What is spoken over TLS on a listener, the preferred protocol first (RFC 7301).
pub(crate) fn alpn(listener: &weir_model::Listener) -> &'static [&'static [u8]] {
    if listener.http2.enabled {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    }
}

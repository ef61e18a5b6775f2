//! Who a connection is from, and how it came.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::{ProtocolVersion, ServerConnection};
use weir_model::ProxyProtocolVersion;

use crate::codec::proxy_protocol::{self, Additions};
use crate::edits::TlsFacts;

/// A client's connection, as far as backends are told about it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The client, as the proxy in front says where that is believed.
    pub(crate) address: SocketAddr,
    /// What it connected to.
    pub(crate) local: SocketAddr,
    /// What its TLS handshake has shown; absent in clear.
    pub(crate) tls: Option<Box<Handshake>>,
}

/// What a TLS handshake has shown.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    version: &'static str,
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    /// The client's own certificate, DER, which was verified.
    certificate: Option<Vec<u8>>,
    /// How long it took; the first request takes it.
    took: Cell<Option<Duration>>,
}

impl Handshake {
    pub(crate) fn of(session: &ServerConnection, took: Duration) -> Self {
        let certificates = session.peer_certificates();
        Self {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            server_name: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            certificate: certificates
                .and_then(<[_]>::first)
                .map(|certificate| certificate.to_vec()),
            took: Cell::new(Some(took)),
        }
    }

    /// Whether the client and we have agreed on HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.alpn.as_deref() == Some(b"h2")
    }
}

impl Client {
    /// A connection in clear.
    pub(crate) fn new(address: SocketAddr, local: SocketAddr) -> Self {
        Self {
            address,
            local,
            tls: None,
        }
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// What header fields can say about its TLS.
    pub(crate) fn tls_facts(&self) -> Option<TlsFacts<'_>> {
        let tls = self.tls.as_deref()?;
        Some(TlsFacts {
            version: tls.version,
            sni: tls.server_name.as_deref().unwrap_or_default(),
        })
    }

    /// How long its handshake took, for whoever asks first.
    pub(crate) fn take_handshake_time(&self) -> Option<Duration> {
        self.tls.as_ref()?.took.take()
    }

    /// The certificate that it has shown, DER.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.certificate.as_deref()
    }

    /// The PROXY header that tells a backend about it.
    pub(crate) fn proxy_header(&self, version: ProxyProtocolVersion) -> Vec<u8> {
        let mut header = Vec::with_capacity(128);
        match version {
            ProxyProtocolVersion::V1 => {
                proxy_protocol::write_line(self.address, self.local, &mut header);
            }
            ProxyProtocolVersion::V2 => {
                let tls = self.tls.as_deref();
                let additions = Additions {
                    tls_version: tls.map(|tls| tls.version),
                    verified: tls.is_some_and(|tls| tls.certificate.is_some()),
                    authority: tls.and_then(|tls| tls.server_name.as_deref()),
                    alpn: tls.and_then(|tls| tls.alpn.as_deref()),
                };
                proxy_protocol::write_binary(self.address, self.local, &additions, &mut header);
            }
        }
        header
    }
}

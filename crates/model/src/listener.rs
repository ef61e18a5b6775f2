//! A listener: the address, port and protocol that clients use, and what becomes of their traffic.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::http_policy::HttpPolicy;
use crate::http2::Http2;
use crate::name::Name;
use crate::proxy_protocol::ProxyProtocolIn;
use crate::route::Route;
use crate::tls::ListenerTls;
use crate::tunnel::Tunnel;

/// One service address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: Name,
    /// VIP and port.
    pub bind: SocketAddr,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// How traffic reaches the backends.
    pub forward: Forward,
    /// Where traffic goes that no route matches. Absent only where routes exist: what matches none is then answered 404.
    pub pool: Option<Name>,
    /// Routes in the order of the file: of any kind with `http` and `https`; by host (SNI) and client, to pools, with
    /// `tls`; none with `tcp` and `udp`.
    pub routes: Vec<Route>,
    /// Certificates of an `https` listener: at least one; the first is the default. Empty elsewhere.
    pub certificates: Vec<CertificateFiles>,
    /// How long an established session may be idle, where the XDP program forwards; absent: as `[l4.timeouts]` says.
    pub idle_timeout: Option<Duration>,
    /// The outer header, with [`Forward::Tunnel`].
    pub tunnel: Tunnel,
    /// The rest of TLS on an `https` listener; elsewhere as by default.
    pub tls: ListenerTls,
    /// Absent: connections come from the clients themselves. TCP only.
    pub proxy_protocol: Option<ProxyProtocolIn>,
    /// What is taken of HTTP clients beyond plain requests.
    pub http: HttpPolicy,
    /// How many connections there may be at one time.
    pub connections: ConnectionLimits,
    /// How long the proxy waits, and for what.
    pub timeouts: Timeouts,
    /// What a request's head may be at most.
    pub limits: HttpLimits,
    /// HTTP/2, and what clients may do over it.
    pub http2: Http2,
    /// Where its requests and connections are written down: the node's log, or its own. None: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
}

impl Listener {
    /// The files that it is made of: certificates, keys, authorities, ticket keys.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter();
        let auth = self.tls.client_auth.iter();
        pairs
            .flat_map(|pair| [&pair.cert_file, &pair.key_file])
            .chain(auth.clone().map(|auth| &auth.ca_file))
            .chain(auth.filter_map(|auth| auth.crl_file.as_ref()))
            .chain(&self.tls.ticket_key_file)
            .map(PathBuf::as_path)
    }

    /// The pools that it sends to: its own, then those of its routes; a name may come twice.
    pub fn pool_names(&self) -> impl Iterator<Item = &Name> {
        self.pool
            .iter()
            .chain(self.routes.iter().flat_map(|route| route.action.pools()))
    }
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A stream of bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// TLS that is routed by SNI and not opened.
    Tls,
    /// HTTP in clear.
    Http,
    /// HTTP over TLS, opened here.
    Https,
}

impl Protocol {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Whether the listener is on a UDP port; TCP and UDP ports do not collide.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How traffic reaches the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// User space: connections end here and new ones are opened to the backend.
    Proxy,
    /// XDP: source becomes a local address, destination the backend; replies come back through us.
    Fullnat,
    /// XDP: destination becomes the backend; backends route replies through us.
    Nat,
    /// XDP: only the MAC address changes; the backend has the VIP on its loopback and answers directly.
    Dr,
    /// XDP: the packet travels in an outer IP packet; the backend takes it off and answers directly.
    Tunnel,
}

impl Forward {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Fullnat => "fullnat",
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
        }
    }

    /// Whether the XDP program does it.
    pub fn is_xdp(self) -> bool {
        !matches!(self, Self::Proxy)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A certificate chain and its key, both PEM. Paths are absolute, or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// How many connections a listener may have at one time. Absent: as many as the node bears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionLimits {
    /// All of them. A connection beyond it is closed at once.
    pub max: Option<u32>,
    /// Those of one client address; of an IPv6 client, those of its /64.
    pub max_per_client: Option<u32>,
}

/// How long the proxy waits, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// For a connection to a backend. Default 3 s.
    pub connect: Duration,
    /// For a request's head, from its first byte (or the connection's start) to its end. Default 10 s.
    pub request_header: Duration,
    /// Between two requests of a downstream connection. Default 60 s.
    pub keep_alive: Duration,
    /// For the head of the backend's answer, from the end of the request. Default 60 s.
    pub response_header: Duration,
    /// Without a byte in either direction: bodies, TCP proxying, upgraded connections. Default 60 s for bodies;
    /// TCP and upgraded connections use `tunnel`.
    pub idle: Duration,
    /// For a whole request: from the end of its head to the end of its answer. Default: any time.
    pub request: Option<Duration>,
    /// Without a byte in either direction of a TCP or upgraded connection. Default 1 h.
    pub tunnel: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request_header: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            response_header: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            request: None,
            tunnel: Duration::from_secs(3600),
        }
    }
}

/// What the head of a request, or of an answer, may be at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpLimits {
    /// Bytes of start line and header fields together. Default 16 KiB, at most 256 KiB.
    pub header_bytes: usize,
    /// Number of header fields. Default 128, at most 1000.
    pub header_count: usize,
    /// Bytes a second that a client has to send of its body, or take of the answer, while it is waited for; looked at
    /// over `timeouts.idle`. 0: none. Default 100.
    pub min_rate: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            header_count: 128,
            min_rate: 100,
        }
    }
}

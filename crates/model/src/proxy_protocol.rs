//! The PROXY protocol: who the client is, told at the beginning of a connection by the proxy in front.

use crate::ip_prefix::IpPrefix;

/// A listener behind another proxy: every connection begins with a PROXY header, of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyProtocolIn {
    /// The proxies that are believed, at least one range. Connections from elsewhere are refused.
    pub from: Vec<IpPrefix>,
}

/// The form of the header that backends are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary, with the TLS version, the server name and ALPN of the client's connection where it had them.
    V2,
}

impl ProxyProtocolVersion {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

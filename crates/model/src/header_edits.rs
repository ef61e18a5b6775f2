//! Header fields that a route takes off, replaces or adds.

use std::fmt;

use crate::template::Template;

/// Changes of a message's fields, in this order: what is removed, what is set, what is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names of fields that are taken off, in lower case.
    pub remove: Vec<String>,
    /// Fields that take the place of all others of their name.
    pub set: Vec<HeaderField>,
    /// Fields that are added to others of their name.
    pub add: Vec<HeaderField>,
}

/// A field that is written for each message. One whose value comes out empty is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    /// The name as it is written.
    pub name: String,
    /// The value.
    pub value: Template<HeaderVariable>,
}

impl HeaderEdits {
    /// Fields of one list at most: each costs every message time.
    pub const MAX_FIELDS: usize = 64;
    /// The longest value as it is written, in bytes.
    pub const MAX_VALUE: usize = 4_096;

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &HeaderVariable> {
        self.set
            .iter()
            .chain(&self.add)
            .flat_map(|field| field.value.variables())
    }
}

macro_rules! variables {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal;)+) => {
        /// What a value can have in it. A variable that a request does not have is empty.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HeaderVariable {
            $($(#[doc = $doc])+ $name,)+
        }

        impl HeaderVariable {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in the config.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

variables! {
    /// The client's IP address.
    ClientAddress = "client_address";
    /// The client's port.
    ClientPort = "client_port";
    /// The address that the client has connected to.
    LocalAddress = "local_address";
    /// The port that the client has connected to.
    LocalPort = "local_port";
    /// `http` or `https`.
    Scheme = "scheme";
    /// The request's host as the client sent it, with a port if it had one.
    Host = "host";
    /// The request's method.
    Method = "method";
    /// The path as the client sent it, without the query.
    Path = "path";
    /// The query as the client sent it, without `?`.
    Query = "query";
    /// A number of this request alone, the same as in the access log: 32 hexadecimal digits.
    RequestId = "request_id";
    /// `TLSv1.2` or `TLSv1.3`; empty without TLS.
    TlsVersion = "tls_version";
    /// The name that the client asked for in its handshake (SNI).
    TlsSni = "tls_sni";
    /// The listener's name.
    Listener = "listener";
}

impl HeaderVariable {
    /// The variable of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|variable| variable.as_str() == name)
    }
}

impl fmt::Display for HeaderVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether nobody but the proxy itself may touch a field: it says where a message ends, where it goes, or is of this
/// hop alone (RFC 9110, sections 7.2 and 7.6.1).
pub fn is_reserved_field(name: &str) -> bool {
    const RESERVED: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    RESERVED
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
}

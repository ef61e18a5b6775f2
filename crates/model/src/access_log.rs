//! What is written down about every request and connection, and where.

use std::fmt;
use std::path::PathBuf;

use crate::template::Template;

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub output: LogOutput,
    /// What a line looks like.
    pub format: LogFormat,
    /// Header fields of requests that are written down as well, in lower case; at most
    /// [`AccessLog::MAX_HEADERS`].
    pub request_headers: Vec<String>,
}

impl AccessLog {
    /// Header fields of a request at most: each is looked for in each request.
    pub const MAX_HEADERS: usize = 16;
    /// The longest template, in bytes.
    pub const MAX_TEMPLATE: usize = 4_096;
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// The end of a file, which is made if it is not there.
    File(PathBuf),
}

impl fmt::Display for LogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What a line looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object with all variables.
    Json,
    /// A text of one's own.
    Template(Template<LogVariable>),
}

macro_rules! variables {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal;)+) => {
        /// What is known of a request or connection when it has ended.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum LogVariable {
            $($(#[doc = $doc])+ $name,)+
            /// The value of a header field of the request, by its name in lower case.
            RequestHeader(String),
        }

        impl LogVariable {
            /// All but the header fields, in the order of a JSON line.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in templates and the key in JSON.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $word,)+
                    Self::RequestHeader(name) => name,
                }
            }
        }
    };
}

variables! {
    /// When it ended.
    Time = "time";
    /// The listener's name.
    Listener = "listener";
    /// The client's IP address.
    ClientAddress = "client_address";
    /// The client's port.
    ClientPort = "client_port";
    /// The address that the client has connected to.
    LocalAddress = "local_address";
    /// The port that the client has connected to.
    LocalPort = "local_port";
    /// What is spoken with the client.
    Protocol = "protocol";
    /// `TLSv1.2` or `TLSv1.3`.
    TlsVersion = "tls_version";
    /// The name that the client asked for in its handshake.
    TlsSni = "tls_sni";
    /// The number of this request alone.
    RequestId = "request_id";
    /// The request's method.
    Method = "method";
    /// The request's host as it was sent.
    Host = "host";
    /// The request's path and query as they were sent.
    Target = "target";
    /// The route's name, or its place in the listener (`#1`).
    Route = "route";
    /// The pool.
    Pool = "pool";
    /// The backend that was asked last.
    Backend = "backend";
    /// Backends that were asked, and asked again.
    Tries = "tries";
    /// The status of the answer.
    Status = "status";
    /// Bytes from the client that were passed on.
    BytesIn = "bytes_in";
    /// Bytes to the client.
    BytesOut = "bytes_out";
    /// The TLS handshake, for the first request of its connection.
    TlsUs = "tls_us";
    /// From the request's first byte to the end of its head.
    HeadUs = "head_us";
    /// From there until a connection to a backend was had.
    ConnectUs = "connect_us";
    /// From there to the head of the answer.
    FirstByteUs = "first_byte_us";
    /// From the request's first byte, or the connection's beginning, to the end.
    TotalUs = "total_us";
    /// How it ended.
    Termination = "termination";
}

impl LogVariable {
    /// The variable of this name; `request_header:NAME` is a header field.
    pub fn named(name: &str) -> Option<Self> {
        let is_token = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        match name.strip_prefix("request_header:") {
            Some(field) => is_token(field).then(|| Self::RequestHeader(field.to_ascii_lowercase())),
            None => Self::ALL
                .iter()
                .find(|variable| variable.as_str() == name)
                .cloned(),
        }
    }
}

impl fmt::Display for LogVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestHeader(name) => write!(f, "request_header:{name}"),
            other => f.write_str(other.as_str()),
        }
    }
}

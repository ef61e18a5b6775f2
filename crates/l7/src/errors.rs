//! What goes wrong with a request or a connection: whose fault it is, what the client is told, and why.

use std::fmt;

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client.
    Downstream,
    /// The backend, or the way to it.
    Upstream,
    /// This node, or what it was told to do.
    Internal,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Internal => "internal",
        })
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $side:ident, $status:literal;)+) => {
        /// Why a request or a connection failed. The list is closed: each has a name in logs and metrics,
        /// a side, and the status that the client is told where it can still be told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in logs and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Who is to blame.
            pub fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)+ }
            }

            /// What the client is told; 0 where nobody is left to tell, or nothing is spoken that could.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

reasons! {
    /// The request line is not one.
    BadRequestLine = "bad_request_line", Downstream, 400;
    /// The request target has none of the forms of RFC 9112, section 3.2, or bytes that none may have.
    BadTarget = "bad_target", Downstream, 400;
    /// The path has segments `.` or `..`, an encoded slash or NUL, or a backslash: two programs could read it
    /// differently.
    BadPath = "bad_path", Downstream, 400;
    /// A field line is not one: a bad name, a space before the colon, a control byte, a folded line.
    BadField = "bad_field", Downstream, 400;
    /// A line ends with a bare LF, or has a bare CR in it.
    BareLineEnd = "bare_line_end", Downstream, 400;
    /// No `Host` in an HTTP/1.1 request.
    MissingHost = "missing_host", Downstream, 400;
    /// More than one `Host`.
    DuplicateHost = "duplicate_host", Downstream, 400;
    /// `Host` is not a host with an optional port.
    BadHost = "bad_host", Downstream, 400;
    /// `Content-Length` is not a number, or two of them differ.
    BadContentLength = "bad_content_length", Downstream, 400;
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding = "length_and_coding", Downstream, 400;
    /// `Transfer-Encoding` in HTTP/1.0, more than once, empty, or a list.
    BadTransferEncoding = "bad_transfer_encoding", Downstream, 400;
    /// A transfer coding that is not `chunked`.
    UnknownTransferCoding = "unknown_transfer_coding", Downstream, 501;
    /// A chunk's size line, its end or a trailer is not one.
    BadChunk = "bad_chunk", Downstream, 400;
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    UnknownVersion = "unknown_version", Downstream, 505;
    /// `CONNECT`: this is no forward proxy.
    ConnectRefused = "connect_refused", Downstream, 501;
    /// The request line alone is longer than the head may be.
    TargetTooLong = "target_too_long", Downstream, 414;
    /// The head is longer, or has more fields, than the listener's limits.
    HeadTooLarge = "head_too_large", Downstream, 431;
    /// The request's head did not come in time.
    HeadTimeout = "head_timeout", Downstream, 408;
    /// The client sent nothing, or took nothing, for too long.
    DownstreamIdle = "downstream_idle", Downstream, 408;
    /// The client sent its body, or took the answer, more slowly than `limits.min_rate`.
    SlowClient = "slow_client", Downstream, 408;
    /// The client closed or reset its connection in the middle of a request, or before its answer.
    DownstreamClosed = "downstream_closed", Downstream, 0;
    /// The TLS handshake with the client failed.
    TlsHandshake = "tls_handshake", Downstream, 0;
    /// A TLS record from the client was not valid.
    TlsRecord = "tls_record", Downstream, 0;
    /// A connection on a `tls` listener did not begin with a TLS ClientHello.
    BadClientHello = "bad_client_hello", Downstream, 0;
    /// A connection on a listener with `proxy_protocol` did not begin with a PROXY header.
    BadProxyHeader = "bad_proxy_header", Downstream, 0;
    /// A connection on a listener with `proxy_protocol` came from an address that is not believed.
    UntrustedProxy = "untrusted_proxy", Downstream, 0;
    /// No route matches, and the listener has no pool of its own.
    NoRoute = "no_route", Internal, 404;
    /// No backend of the pool takes new work.
    NoBackend = "no_backend", Upstream, 503;
    /// The pool's limits are reached, and no more requests may wait for a place.
    PoolFull = "pool_full", Upstream, 503;
    /// No place became free in the pool while the request waited for one.
    PendingTimeout = "pending_timeout", Upstream, 503;
    /// The connection to the backend was refused or failed.
    ConnectFailed = "connect_failed", Upstream, 502;
    /// The connection to the backend took too long.
    ConnectTimeout = "connect_timeout", Upstream, 504;
    /// The TLS handshake with the backend failed, or its certificate is not trusted.
    UpstreamTls = "upstream_tls", Upstream, 502;
    /// The backend closed the connection before its answer's head was complete.
    UpstreamClosed = "upstream_closed", Upstream, 502;
    /// The backend answered with a status that was tried again.
    UpstreamRefused = "upstream_refused", Upstream, 502;
    /// The backend closed the connection in the middle of its answer's body.
    UpstreamTruncated = "upstream_truncated", Upstream, 502;
    /// The head of the answer did not come in time.
    ResponseTimeout = "response_timeout", Upstream, 504;
    /// The request as a whole took longer than it may.
    RequestTimeout = "request_timeout", Upstream, 504;
    /// The backend sent nothing, or took nothing, for too long in the middle of a message.
    UpstreamIdle = "upstream_idle", Upstream, 504;
    /// The answer's head is not one, or is larger than the limits.
    BadResponse = "bad_response", Upstream, 502;
    /// The answer's framing is ambiguous or broken.
    BadResponseFraming = "bad_response_framing", Upstream, 502;
    /// The backend answered 101 to a request that asked for no upgrade.
    UnaskedUpgrade = "unasked_upgrade", Upstream, 502;
    /// A tunnel was silent for too long.
    TunnelIdle = "tunnel_idle", Downstream, 0;
    /// The drain's deadline passed while the connection was in use.
    DrainDeadline = "drain_deadline", Internal, 0;
    /// The bound on connections or UDP sessions was reached.
    TooMany = "too_many", Internal, 503;
    /// The listener's bound on connections of one client was reached.
    TooManyOfClient = "too_many_of_client", Downstream, 0;
    /// This node has no file descriptor, port or memory left for a connection to a backend.
    OutOfResources = "out_of_resources", Internal, 503;
    /// HTTP/2: a frame that is none, or that does not belong where it is (RFC 9113).
    BadFrame = "bad_frame", Downstream, 400;
    /// HTTP/2: a header block that cannot be decoded.
    BadCompression = "bad_compression", Downstream, 400;
    /// HTTP/2: more data than the window allows, or a window that is too large.
    WindowExceeded = "window_exceeded", Downstream, 400;
    /// HTTP/2: pseudo-fields that are unknown, missing, twice, after other fields, or have no such value.
    BadPseudoField = "bad_pseudo_field", Downstream, 400;
    /// HTTP/2: a field that only HTTP/1.1 has, as `Connection`, or `TE` other than `trailers`.
    ConnectionField = "connection_field", Downstream, 400;
    /// HTTP/2: a body that is not as long as `Content-Length` says.
    LengthMismatch = "length_mismatch", Downstream, 400;
    /// HTTP/2: more streams at once than the limit; refused, so that they can be tried again.
    TooManyStreams = "too_many_streams", Downstream, 503;
    /// HTTP/2: a header list many times as large as the limit, out of a small block.
    FieldBomb = "field_bomb", Downstream, 431;
    /// HTTP/2: a header block in too many frames.
    ContinuationFlood = "continuation_flood", Downstream, 400;
    /// HTTP/2: too many requests taken back (rapid reset).
    ResetFlood = "reset_flood", Downstream, 429;
    /// HTTP/2: too many frames that make us reset a stream (made-you-reset).
    MadeResetFlood = "made_reset_flood", Downstream, 429;
    /// HTTP/2: too many header lists beyond the limits.
    HeadFlood = "head_flood", Downstream, 431;
    /// HTTP/2: too many PING frames.
    PingFlood = "ping_flood", Downstream, 429;
    /// HTTP/2: too many SETTINGS frames.
    SettingsFlood = "settings_flood", Downstream, 429;
    /// HTTP/2: too many DATA frames without data.
    EmptyDataFlood = "empty_data_flood", Downstream, 429;
    /// HTTP/2: too much data that a window of a few bytes cuts to pieces.
    WindowStallFlood = "window_stall_flood", Downstream, 429;
    /// HTTP/2: too many frames that say nothing.
    FrameFlood = "frame_flood", Downstream, 429;
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether no connection to a backend could be had.
    pub(crate) fn is_of_connecting(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed | Self::ConnectTimeout | Self::UpstreamTls | Self::OutOfResources
        )
    }

    /// Whether something did not come in time.
    pub(crate) fn is_timeout(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout
                | Self::ResponseTimeout
                | Self::PendingTimeout
                | Self::UpstreamIdle
                | Self::DownstreamIdle
        )
    }

    /// Whether it is a failure of the backend that was asked, and says something about it.
    pub(crate) fn is_backends(self) -> bool {
        let ours = matches!(
            self,
            Self::NoBackend | Self::PoolFull | Self::PendingTimeout | Self::RequestTimeout
        );
        self.side() == Side::Upstream && !ours
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The standard phrase of a status that this proxy answers by itself (RFC 9110, section 15; RFC 6585).
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reasons_have_numbers_in_order_and_names_of_their_own() {
        let mut names = HashSet::new();
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(names.insert(reason.as_str()));
            assert!(
                reason.status() == 0 || phrase(reason.status()) != "Error",
                "{reason}"
            );
        }
    }
}

//! HTTP/2 on a listener, and what its clients may do.

/// What clients of a listener may do over HTTP/2. Where it says "in ten seconds", a client that does more loses its
/// connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http2 {
    /// It is spoken: over TLS where the client asks for it (ALPN), in clear where the client begins with it. Default on.
    pub enabled: bool,
    /// WebSockets over it (RFC 8441). Default on.
    pub websocket: bool,
    /// Requests of a connection at once; more are refused. Default 128.
    pub streams: u32,
    /// Bytes of a request's body that are taken before the backend has taken them. Default 64 KiB.
    pub stream_window_bytes: u32,
    /// CONTINUATION frames of one header block. Default 16.
    pub continuations: u32,
    /// Requests that are taken back in ten seconds before they are answered. Default 400.
    pub resets: u32,
    /// Mistakes in ten seconds that cost a request each. Default 100.
    pub made_resets: u32,
    /// PING frames in ten seconds. Default 200.
    pub pings: u32,
    /// SETTINGS frames in ten seconds. Default 50.
    pub settings: u32,
    /// Empty DATA frames in ten seconds. Default 500.
    pub empty_data: u32,
    /// Pieces of less than 64 bytes in ten seconds that a body is cut into as the client's window is no larger.
    /// Default 2000.
    pub tiny_windows: u32,
    /// PRIORITY frames, unknown frames, and WINDOW_UPDATE frames that no data has called for, in ten seconds. Default
    /// 5000.
    pub idle_frames: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            enabled: true,
            websocket: true,
            streams: 128,
            stream_window_bytes: 64 * 1024,
            continuations: 16,
            resets: 400,
            made_resets: 100,
            pings: 200,
            settings: 50,
            empty_data: 500,
            tiny_windows: 2000,
            idle_frames: 5000,
        }
    }
}

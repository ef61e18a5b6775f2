//! HTTP/2 (RFC 9113) without I/O: bytes in, streams and bytes out.
//!
//! A [`Connection`] is either side of a connection. It reads frames, keeps the states of streams and the windows, and
//! hands on what a stream carries as the text of an HTTP/1.1 message: see `message.rs`. It knows no clock and no
//! socket; time is passed in.

pub mod connection;
pub mod flood;
pub mod frame;
pub mod hpack;
mod message;
pub mod sending;
pub mod stream;

pub use connection::{Config, Connection, Role};
pub use flood::FloodLimits;
pub use frame::{ErrorCode, PREFACE};
pub use stream::Key;

use crate::errors::Reason;

/// Why a connection or a stream is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the peer is told.
    pub code: ErrorCode,
    /// What is counted.
    pub reason: Reason,
}

impl Fault {
    const PROTOCOL: Self = Self {
        code: ErrorCode::ProtocolError,
        reason: Reason::BadFrame,
    };
    const FRAME_SIZE: Self = Self {
        code: ErrorCode::FrameSizeError,
        reason: Reason::BadFrame,
    };
    const FLOW_CONTROL: Self = Self {
        code: ErrorCode::FlowControlError,
        reason: Reason::WindowExceeded,
    };
    const STREAM_CLOSED: Self = Self {
        code: ErrorCode::StreamClosed,
        reason: Reason::BadFrame,
    };
}

#[cfg(test)]
mod tests;

//! Frames (RFC 9113, sections 4 and 6): their headers, and writing those that are sent.

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// The payload that every peer takes, and the largest that we take (RFC 9113, section 4.2).
pub const PAYLOAD_BYTES_MAX: usize = 16_384;

/// The largest window, and the largest increment of one (RFC 9113, section 6.9.1).
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What a client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6")]
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113, section 6.5.2; RFC 8441, section 3).
pub mod setting {
    #![allow(missing_docs, reason = "the names of RFC 9113, section 6.5.2")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// In order.
    NoError = 0,
    /// The peer does what nobody may do.
    ProtocolError = 1,
    /// We have failed.
    InternalError = 2,
    /// The peer sends more than the window allows.
    FlowControlError = 3,
    /// A frame for a stream that has ended.
    StreamClosed = 5,
    /// A frame of a size that it cannot have.
    FrameSizeError = 6,
    /// The stream was refused before anything was done for it.
    RefusedStream = 7,
    /// The stream is not wanted any more.
    Cancel = 8,
    /// The header compression cannot be followed any more.
    CompressionError = 9,
    /// The peer is suspected of wanting to wear us out.
    EnhanceYourCalm = 11,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub length: usize,
    /// One of [`kind`], or something that is to be ignored.
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0: the connection as a whole.
    pub stream: u32,
}

impl FrameHeader {
    /// The header at the front of `input`.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let (header, _) = input.split_first_chunk::<HEADER_BYTES>()?;
        let [a, b, c, kind, flags, s, t, u, v] = *header;
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: number([s, t, u, v]),
        })
    }

    /// Whether it has a flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    /// Writes it over what was left free for it at `at`.
    pub fn write_at(&self, at: usize, out: &mut [u8]) {
        out[at..at + HEADER_BYTES].copy_from_slice(&self.bytes());
    }
}

/// 31 bits; the one before them has no meaning.
pub fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & WINDOW_MAX
}

fn short(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    header.write(out);
    out.extend_from_slice(payload);
}

/// Appends a RST_STREAM.
pub fn write_reset(stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    short(
        kind::RST_STREAM,
        0,
        stream,
        &(code as u32).to_be_bytes(),
        out,
    );
}

/// Appends a WINDOW_UPDATE.
pub fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    short(
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
        out,
    );
}

/// Appends a GOAWAY.
pub fn write_goaway(last_stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    let payload = [last_stream.to_be_bytes(), (code as u32).to_be_bytes()].concat();
    short(kind::GOAWAY, 0, 0, &payload, out);
}

/// Appends a PING.
pub fn write_ping(out: &mut Vec<u8>) {
    short(kind::PING, 0, 0, &[0; 8], out);
}

/// Appends the answer to a PING.
pub fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    short(kind::PING, flag::ACK, 0, payload, out);
}

/// Appends a SETTINGS.
pub fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    short(kind::SETTINGS, 0, 0, &payload, out);
}

/// Appends the answer to a SETTINGS.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    short(kind::SETTINGS, flag::ACK, 0, &[], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let header = FrameHeader {
            length: 0x01_02_03,
            kind: kind::HEADERS,
            flags: flag::END_STREAM | flag::END_HEADERS,
            stream: 0x7f00_0001,
        };
        let mut out = Vec::new();
        header.write(&mut out);
        assert_eq!(FrameHeader::parse(&out), Some(header));
        assert_eq!(FrameHeader::parse(&out[..8]), None);
        out[5] |= 0x80;
        assert_eq!(FrameHeader::parse(&out), Some(header));
    }
}

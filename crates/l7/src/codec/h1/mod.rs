//! HTTP/1.x (RFC 9112): heads, framing, chunks. `httparse` finds the tokens; what is accepted is decided here.
//!
//! Nothing is copied and nothing is kept between calls: a head is parsed out of the buffer that it was read into,
//! and what is found are offsets into that buffer.

pub mod chunked;
pub mod field;
pub mod request;
pub mod response;

pub use chunked::{ChunkDecoder, Piece, PieceKind};
pub use request::{Replaced, RequestHead};
pub use response::ResponseHead;

use crate::errors::Reason;

/// Where something is in the buffer that a head was parsed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes.
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start..self.end]
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    fn of_part(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Self {
            start,
            end: start + part.len(),
        }
    }
}

/// What a call of a parser came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The head is complete.
    Complete,
    /// More bytes are needed.
    Partial,
}

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends; answers only.
    UntilClose,
}

/// Methods, as far as the proxy treats them differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    #[default]
    Get,
    /// `HEAD`: the answer has no body.
    Head,
    /// `OPTIONS`.
    Options,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `TRACE`.
    Trace,
    /// `CONNECT`: refused.
    Connect,
    /// `POST` and every other method.
    Other,
}

impl Method {
    fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Whether a request may be sent again when it is not known what became of it (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Self::Connect | Self::Other)
    }
}

/// Fields are counted up to this number on the stack; a listener that allows more pays an allocation.
const FIELDS_ON_STACK: usize = 128;

/// Every LF of a head must have its CR: `httparse` is content without.
fn has_bare_lf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

/// `Content-Length`: digits and nothing else; more than 19 of them overflow.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |length, byte| {
        byte.is_ascii_digit()
            .then(|| length * 10 + u64::from(byte - b'0'))
    })
}

/// What the values of a message's `Transfer-Encoding` come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TransferEncoding {
    #[default]
    Absent,
    Chunked,
    Unknown,
    Bad,
}

impl TransferEncoding {
    /// Takes one more field line into account. Only `chunked` alone is known. A list that ends with it is of codings
    /// that nobody here knows; any other list, and be it one with empty elements, is refused: other parsers may read it
    /// differently.
    fn and(self, value: &[u8]) -> Self {
        let value = field::trim(value);
        if self != Self::Absent || value.is_empty() {
            Self::Bad
        } else if value.contains(&b',') {
            let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
            let mut codings = value.rsplit(|byte| *byte == b',').map(field::trim);
            let ends_well = codings.next().is_some_and(is_chunked);
            if ends_well && codings.all(|coding| !coding.is_empty() && !is_chunked(coding)) {
                Self::Unknown
            } else {
                Self::Bad
            }
        } else if value.eq_ignore_ascii_case(b"chunked") {
            Self::Chunked
        } else {
            Self::Unknown
        }
    }

    /// Whether the bytes of a field line behind its name are what everybody writes.
    fn is_plain(rest: &[u8]) -> bool {
        rest == b": chunked\r\n"
    }

    /// The field line that takes the place of one that is not plain.
    const LINE: &[u8] = b"Transfer-Encoding: chunked\r\n";
}

/// The bytes between which a line that is left out lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeftOut(Vec<Span>);

impl LeftOut {
    fn clear(&mut self) {
        self.0.clear();
    }

    fn add(&mut self, line: Span) {
        match self.0.last_mut() {
            Some(last) if last.end == line.start => last.end = line.end,
            // Found late: `Connection` may name fields that stand before it.
            Some(last) if line.start < last.start => {
                self.0.push(line);
                self.0.sort_unstable_by_key(|line| line.start);
            }
            _ => self.0.push(line),
        }
    }

    /// Copies `head[from..to]` without the lines that are left out.
    pub(crate) fn copy_rest(&self, head: &[u8], from: usize, to: usize, out: &mut Vec<u8>) {
        let mut at = from;
        for line in &self.0 {
            if line.start > at {
                out.extend_from_slice(&head[at..line.start]);
            }
            at = at.max(line.end);
        }
        out.extend_from_slice(&head[at..to]);
    }
}

/// The reason why `httparse` refused a request.
fn request_reason(error: httparse::Error) -> Reason {
    match error {
        httparse::Error::TooManyHeaders => Reason::HeadTooLarge,
        httparse::Error::Version => Reason::UnknownVersion,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Reason::BadField,
        httparse::Error::NewLine => Reason::BareLineEnd,
        httparse::Error::Token | httparse::Error::Status => Reason::BadRequestLine,
    }
}

#[cfg(test)]
mod tests;

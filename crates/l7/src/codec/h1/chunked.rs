//! The chunked transfer coding (RFC 9112, section 7.1), strict: sizes are hexadecimal digits, lines end with CRLF,
//! extensions have no control bytes and are not passed on.

use crate::errors::Reason;

/// What some bytes of a chunked body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Sizes and line ends: part of the coding, not of the content.
    Coding,
    /// Content.
    Data,
    /// A chunk extension: no one is obliged to understand it, and it is dropped.
    Extension,
    /// A trailer field with its line end.
    Trailer,
    /// A trailer field that no trailer may be (RFC 9110, section 6.5.1), to be dropped.
    ForbiddenTrailer,
    /// The empty line behind the trailers: the last bytes of the body.
    End,
    /// More input is needed; nothing is consumed.
    NeedMore,
}

/// Bytes at the front of the input, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What they are.
    pub kind: PieceKind,
    /// How many; 0 only with [`PieceKind::NeedMore`].
    pub length: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    SizeFirst,
    Size,
    /// White space between the size and what follows.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Takes a chunked body apart, in whatever pieces it comes.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    remaining: u64,
    size_digits: u8,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// Digits of a size: 2^60 bytes are enough for one chunk, and do not overflow.
const SIZE_DIGITS_MAX: u8 = 15;
/// Bytes of extensions in one body: nobody uses them, but attackers do.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of trailers in one body.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Fields that say where a message goes, where it ends or what hop it is for, and so must not come late.
const FORBIDDEN_TRAILERS: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

impl ChunkDecoder {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Says what the bytes at the front of `input` are. The caller takes them off before the next call.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Reason> {
        if input.is_empty() || self.state == State::Done {
            return Ok(Piece {
                kind: PieceKind::NeedMore,
                length: 0,
            });
        }
        match self.state {
            State::Data => {
                let length = usize::try_from(self.remaining)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                self.remaining -= length as u64;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                Ok(Piece {
                    kind: PieceKind::Data,
                    length,
                })
            }
            State::Extension => self.extension(input),
            State::SizeSpace => self.white_space(input),
            State::Trailers => self.trailer(input),
            _ => self.coding(input),
        }
    }

    fn coding(&mut self, input: &[u8]) -> Result<Piece, Reason> {
        let mut length = 0;
        for &byte in input {
            match (self.state, byte) {
                (State::SizeFirst, _) => {
                    self.remaining = u64::from(hex(byte).ok_or(Reason::BadChunk)?);
                    self.size_digits = 1;
                    self.state = State::Size;
                }
                (State::Size, b'\r') => self.state = State::SizeLf,
                (State::Size, b' ' | b'\t') => self.state = State::SizeSpace,
                (State::Size, b';') => self.state = State::Extension,
                (State::Size, _) => {
                    self.remaining =
                        self.remaining * 16 + u64::from(hex(byte).ok_or(Reason::BadChunk)?);
                    self.size_digits += 1;
                    if self.size_digits > SIZE_DIGITS_MAX {
                        return Err(Reason::BadChunk);
                    }
                }
                (State::SizeLf, b'\n') => {
                    self.state = if self.remaining == 0 {
                        State::Trailers
                    } else {
                        State::Data
                    };
                }
                (State::DataCr, b'\r') => self.state = State::DataLf,
                (State::DataLf, b'\n') => self.state = State::SizeFirst,
                _ => return Err(Reason::BadChunk),
            }
            // What begins an extension is part of it.
            if matches!(self.state, State::Extension | State::SizeSpace) {
                break;
            }
            length += 1;
            if matches!(self.state, State::Data | State::Trailers) {
                break;
            }
        }
        if length == 0 {
            return self.next(input);
        }
        Ok(Piece {
            kind: PieceKind::Coding,
            length,
        })
    }

    /// White space behind a size is tolerated only before an extension (RFC 9112, section 7.1.1, "bad" white space).
    fn white_space(&mut self, input: &[u8]) -> Result<Piece, Reason> {
        let length = input
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        self.count_extension(length)?;
        match input.get(length) {
            None => Ok(Piece {
                kind: PieceKind::Extension,
                length,
            }),
            Some(b';') if length == 0 => {
                self.state = State::Extension;
                self.extension(input)
            }
            Some(b';') => {
                self.state = State::Extension;
                Ok(Piece {
                    kind: PieceKind::Extension,
                    length,
                })
            }
            Some(_) => Err(Reason::BadChunk),
        }
    }

    fn extension(&mut self, input: &[u8]) -> Result<Piece, Reason> {
        let length = input
            .iter()
            .take_while(|byte| is_field_byte(**byte))
            .count();
        self.count_extension(length)?;
        match input.get(length) {
            None => {}
            Some(b'\r') => self.state = State::Size,
            Some(_) => return Err(Reason::BadChunk),
        }
        if length == 0 {
            return self.coding(input);
        }
        Ok(Piece {
            kind: PieceKind::Extension,
            length,
        })
    }

    fn count_extension(&mut self, length: usize) -> Result<(), Reason> {
        self.extension_bytes += length;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            Err(Reason::BadChunk)
        } else {
            Ok(())
        }
    }

    fn trailer(&mut self, input: &[u8]) -> Result<Piece, Reason> {
        let Some(lf) = memchr::memchr(b'\n', input) else {
            let too_long = self.trailer_bytes + input.len() > TRAILER_BYTES_MAX;
            let could_be_line = match input {
                [line @ .., b'\r'] => is_trailer_start(line),
                line => is_trailer_start(line),
            };
            return if too_long || !could_be_line {
                Err(Reason::BadChunk)
            } else {
                Ok(Piece {
                    kind: PieceKind::NeedMore,
                    length: 0,
                })
            };
        };
        let length = lf + 1;
        self.trailer_bytes += length;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Reason::BadChunk);
        }
        let [line @ .., b'\r', b'\n'] = &input[..length] else {
            return Err(Reason::BadChunk);
        };
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Piece {
                kind: PieceKind::End,
                length,
            });
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(Reason::BadChunk);
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty()
            || !name.iter().all(|byte| is_token_byte(*byte))
            || !value.iter().all(|byte| is_field_byte(*byte))
        {
            return Err(Reason::BadChunk);
        }
        let forbidden = FORBIDDEN_TRAILERS
            .iter()
            .any(|field| name.eq_ignore_ascii_case(field.as_bytes()));
        let kind = if forbidden {
            PieceKind::ForbiddenTrailer
        } else {
            PieceKind::Trailer
        };
        Ok(Piece { kind, length })
    }
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Bytes of a field value: visible ones, white space, and what is not ASCII (RFC 9110, section 5.5).
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

/// Bytes of a token (RFC 9110, section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_trailer_start(line: &[u8]) -> bool {
    line.iter().all(|byte| is_field_byte(*byte))
        && line.first().is_none_or(|byte| is_token_byte(*byte))
}

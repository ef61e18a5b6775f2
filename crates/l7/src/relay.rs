//! One direction of a message or a tunnel: a head that was assembled, then bytes from a source to a sink, as far
//! as the framing says. Bytes go from the buffer that they were read into; what the decoder drops is stepped over.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use crate::buffer::{Buffer, BufferPool};
use crate::codec::h1::{ChunkDecoder, Framing, PieceKind};
use crate::errors::Reason;
use crate::transport::Transport;

/// Where the bytes end, and what of them is passed on.
#[derive(Debug, Default)]
enum Body {
    #[default]
    Ended,
    Length(u64),
    Chunked(ChunkDecoder),
    /// Chunks are taken off.
    Dechunked(ChunkDecoder),
    UntilClose,
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    #[default]
    Source,
    Sink,
}

/// Why a direction ended before its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The source failed.
    Read,
    /// The source ended before the body did.
    Ended,
    /// The sink failed.
    Write,
    /// The body is malformed.
    Malformed(Reason),
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    /// What is sent before anything from the source.
    pub(crate) head: Vec<u8>,
    sent: usize,
    body: Body,
    /// Bytes at the front of the source's buffer that go as they are.
    ready: usize,
    /// Bytes behind those that are dropped.
    dropped: usize,
    /// Bytes went from the source's buffer to the sink: what was sent cannot be sent again.
    consumed: bool,
    /// Bytes that the sink took, all in all.
    pub(crate) moved: u64,
    pub(crate) waits_for: WaitsFor,
}

/// A body that is this small is copied behind its head: one plain write is cheaper than a vectored one.
const COPIED_BODY_MAX: usize = 4096;

impl Relay {
    /// Prepares for another message. What is in `head` is to be sent first.
    pub(crate) fn begin(&mut self, framing: Framing, dechunk: bool) {
        self.sent = 0;
        self.ready = 0;
        self.dropped = 0;
        self.consumed = false;
        self.body = match framing {
            Framing::None => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked if dechunk => Body::Dechunked(ChunkDecoder::default()),
            Framing::Chunked => Body::Chunked(ChunkDecoder::default()),
            Framing::UntilClose => Body::UntilClose,
        };
    }

    /// Whether everything that was sent is still in `head`.
    pub(crate) fn can_be_repeated(&self) -> bool {
        !self.consumed
    }

    /// Whether the sink has taken anything of this message.
    pub(crate) fn has_begun(&self) -> bool {
        self.sent > 0 || self.consumed
    }

    /// Whether the sink has taken the whole of `head`.
    pub(crate) fn head_is_out(&self) -> bool {
        self.sent == self.head.len()
    }

    /// Sends `head` again, to another sink.
    pub(crate) fn repeat(&mut self) {
        self.sent = 0;
    }

    /// Whether nothing of the source's body was seen yet, though there is one.
    pub(crate) fn waits_for_first_byte(&self) -> bool {
        !self.consumed && self.ready == 0 && self.head_is_out()
    }

    /// Moves bytes until the end, or until source or sink make it wait.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Transport,
        buffer: &mut Buffer,
        sink: &mut impl Transport,
        pool: &BufferPool,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if self.ready == 0 {
                self.decode(buffer).map_err(Failure::Malformed)?;
            }
            if self.sent == 0
                && self.ready > 0
                && self.ready <= COPIED_BODY_MAX
                && !self.head.is_empty()
            {
                self.head.extend_from_slice(&buffer.filled()[..self.ready]);
                buffer.consume(self.ready);
                self.ready = 0;
                continue;
            }
            let head = &self.head[self.sent..];
            self.waits_for = WaitsFor::Sink;
            if !head.is_empty() || self.ready > 0 {
                let body = if self.ready > 0 {
                    &buffer.filled()[..self.ready]
                } else {
                    &[]
                };
                let written = match (head, body) {
                    (head, []) => ready!(sink.poll_write(cx, &[IoSlice::new(head)])),
                    ([], body) => ready!(sink.poll_write(cx, &[IoSlice::new(body)])),
                    (head, body) => {
                        ready!(sink.poll_write(cx, &[IoSlice::new(head), IoSlice::new(body)]))
                    }
                };
                let written = written.map_err(|_| Failure::Write)?;
                let of_head = written.min(head.len());
                self.sent += of_head;
                if written > of_head {
                    self.ready -= written - of_head;
                    buffer.consume(written - of_head);
                    self.consumed = true;
                }
                self.moved += written as u64;
                continue;
            }
            ready!(sink.poll_flush(cx)).map_err(|_| Failure::Write)?;
            if matches!(self.body, Body::Ended) {
                return Poll::Ready(Ok(()));
            }
            self.waits_for = WaitsFor::Source;
            if ready!(source.poll_read(cx, buffer, pool)).map_err(|_| Failure::Read)? == 0 {
                if !matches!(self.body, Body::UntilClose) {
                    return Poll::Ready(Err(Failure::Ended));
                }
                self.body = Body::Ended;
            }
        }
    }

    /// Finds out how many bytes at the front of the buffer may go, and how many behind them may not.
    fn decode(&mut self, buffer: &mut Buffer) -> Result<(), Reason> {
        buffer.consume(std::mem::take(&mut self.dropped));
        match &mut self.body {
            Body::Ended => {}
            Body::Length(remaining) => {
                self.ready = buffer
                    .len()
                    .min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= self.ready as u64;
                if *remaining == 0 {
                    self.body = Body::Ended;
                }
            }
            Body::UntilClose => self.ready = buffer.len(),
            Body::Chunked(_) | Body::Dechunked(_) => self.decode_chunks(buffer)?,
        }
        Ok(())
    }

    fn decode_chunks(&mut self, buffer: &mut Buffer) -> Result<(), Reason> {
        let (decoder, dechunk) = match &mut self.body {
            Body::Chunked(decoder) => (decoder, false),
            Body::Dechunked(decoder) => (decoder, true),
            _ => return Ok(()),
        };
        while buffer.len() > self.ready {
            let piece = decoder.next(&buffer.filled()[self.ready..])?;
            let passes = match piece.kind {
                PieceKind::NeedMore => break,
                PieceKind::Data => true,
                PieceKind::Coding | PieceKind::Trailer | PieceKind::End => !dechunk,
                PieceKind::Extension | PieceKind::ForbiddenTrailer => false,
            };
            if passes {
                self.ready += piece.length;
            } else if self.ready == 0 {
                buffer.consume(piece.length);
            } else {
                self.dropped = piece.length;
            }
            if decoder.is_done() {
                break;
            }
            if self.dropped > 0 {
                return Ok(());
            }
        }
        if decoder.is_done() && self.dropped == 0 {
            self.body = Body::Ended;
        }
        Ok(())
    }
}

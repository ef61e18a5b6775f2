//! One side of a connection, as far as it sends: the text of messages becomes frames, within the windows, and streams
//! take turns.

use super::connection::{Connection, Role};
use super::frame::{ErrorCode, FrameHeader, HEADER_BYTES, flag, kind};
use super::message::{
    TextFraming, TextHead, encode_request, encode_response, encode_trailers, text_head_length,
};
use super::stream::{Key, Outbound, Stream};
use crate::codec::h1::{ChunkDecoder, PieceKind};

/// Bytes that wait to be sent. Beyond them streams wait: a peer that does not read fills no memory.
pub const OUT_BYTES_MAX: usize = 64 * 1024;
/// The least that a stream may write when it is its turn: what fits is shared among at most so many of these.
const QUOTA_MIN: usize = 16 * 1024;
/// DATA that is shorter than this because of the window is counted: the peer makes work of nothing.
const TINY_DATA_BYTES: usize = 64;
/// WINDOW_UPDATE frames that one DATA frame may call for: of the stream and of the connection.
const UPDATES_PER_DATA: u32 = 2;
/// And how many of them may be outstanding.
const UPDATES_EXPECTED_MAX: u32 = 100_000;

/// What became of text that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So much of it was taken.
    Taken(usize),
    /// None: there is no room now. The stream's waker is called when there is.
    Blocked,
    /// None: the stream has ended.
    Closed,
}

impl Connection {
    /// Takes text of a message that is sent on a stream.
    pub fn write(&mut self, key: Key, text: &[u8]) -> Written {
        let Some(stream) = self.streams.get_mut(key) else {
            return Written::Closed;
        };
        if stream.reset.is_some() || stream.local_ended {
            return Written::Closed;
        }
        if stream.carry.is_empty() {
            return self.write_some(key, text);
        }
        // Something was cut in the middle of a line or head: it is whole now, or kept until it is.
        let mut whole = std::mem::take(&mut stream.carry);
        let carried = whole.len();
        whole.extend_from_slice(text);
        match self.write_some(key, &whole) {
            Written::Taken(taken) => Written::Taken(taken.saturating_sub(carried)),
            Written::Blocked => {
                whole.truncate(carried);
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.carry = whole;
                }
                Written::Blocked
            }
            Written::Closed => Written::Closed,
        }
    }

    fn write_some(&mut self, key: Key, text: &[u8]) -> Written {
        let mut taken = 0;
        while taken < text.len() {
            let Some(stream) = self.streams.get_mut(key) else {
                return Written::Closed;
            };
            let rest = &text[taken..];
            let count = match &mut stream.outbound {
                Outbound::Head => match text_head_length(rest) {
                    None => {
                        stream.carry.extend_from_slice(rest);
                        rest.len()
                    }
                    // A request's head is never held up: streams open in the order of their numbers (RFC 9113, section
                    // 5.1.1), and another one with a higher number may have its turn first. They are as many as may be
                    // open.
                    Some(length) if self.role == Role::Client || self.has_room() => {
                        if !self.write_head(key, &rest[..length]) {
                            return Written::Closed;
                        }
                        length
                    }
                    Some(_) => 0,
                },
                Outbound::Length(left) => {
                    let wanted = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let left = *left;
                    let count = self.write_data(key, &rest[..wanted], |count| count as u64 == left);
                    let left = left - count as u64;
                    let next = if left == 0 {
                        Outbound::Done
                    } else {
                        Outbound::Length(left)
                    };
                    self.set_outbound(key, next);
                    count
                }
                Outbound::Chunked(decoder) => {
                    let mut decoder = decoder.clone();
                    let Some(count) = self.write_chunked(key, rest, &mut decoder) else {
                        self.reset(key, ErrorCode::InternalError);
                        return Written::Closed;
                    };
                    count
                }
                Outbound::UntilEnd => self.write_data(key, rest, |_| false),
                // Bytes behind a message: there is nothing to do with them.
                Outbound::Done => rest.len(),
            };
            if count == 0 {
                break;
            }
            taken += count;
        }
        if taken > 0 || text.is_empty() {
            return Written::Taken(taken);
        }
        self.enqueue(key);
        Written::Blocked
    }

    fn has_room(&self) -> bool {
        self.out.len() - self.out_sent < OUT_BYTES_MAX
    }

    /// Sends a head. `false`: the text is none.
    fn write_head(&mut self, key: Key, text: &[u8]) -> bool {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEADER_BYTES]);
        let head = match self.role {
            Role::Server => encode_response(text, &mut self.encoder, &mut self.out),
            Role::Client => {
                encode_request(text, self.config.scheme, &mut self.encoder, &mut self.out)
            }
        };
        let Some(head) = head else {
            // The encoder's table may have changed: nothing that follows would be understood.
            self.out.truncate(start);
            self.give_up(ErrorCode::InternalError);
            return false;
        };
        let role = self.role;
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        let outbound = outbound_after(role, head, stream);
        let ends = matches!(outbound, Outbound::Done);
        if role == Role::Client {
            stream.is_head = head.is_head;
        }
        stream.outbound = outbound;
        self.frame_block(start, key.id, ends);
        if ends {
            self.streams.update(key, |stream| stream.local_ended = true);
        }
        true
    }

    /// Puts the frames' headers to a block of fields at the end of `out`, before which room is left for one.
    fn frame_block(&mut self, start: usize, stream: u32, ends: bool) {
        let length = self.out.len() - start - HEADER_BYTES;
        let ends = if ends { flag::END_STREAM } else { 0 };
        let first = length.min(self.peer_frame_max);
        let mut header = FrameHeader {
            length: first,
            kind: kind::HEADERS,
            flags: ends
                | if first == length {
                    flag::END_HEADERS
                } else {
                    0
                },
            stream,
        };
        header.write_at(start, &mut self.out);
        if first == length {
            return;
        }
        let rest = self.out.split_off(start + HEADER_BYTES + first);
        let mut pieces = rest.chunks(self.peer_frame_max).peekable();
        while let Some(piece) = pieces.next() {
            let is_last = pieces.peek().is_none();
            header = FrameHeader {
                length: piece.len(),
                kind: kind::CONTINUATION,
                flags: if is_last { flag::END_HEADERS } else { 0 },
                stream,
            };
            header.write(&mut self.out);
            self.out.extend_from_slice(piece);
        }
    }

    /// Sends as much of `data` as may go now, in one frame. `ends` says whether so many bytes are the last.
    fn write_data(&mut self, key: Key, data: &[u8], ends: impl Fn(usize) -> bool) -> usize {
        let room = OUT_BYTES_MAX.saturating_sub(self.out.len() - self.out_sent);
        let connection = usize::try_from(self.send_window).unwrap_or(0);
        let Some(stream) = self.streams.get_mut(key) else {
            return 0;
        };
        let window = usize::try_from(stream.send_window)
            .unwrap_or(0)
            .min(connection);
        let count = data
            .len()
            .min(window)
            .min(room)
            .min(stream.quota)
            .min(self.peer_frame_max);
        if count == 0 {
            return 0;
        }
        stream.send_window -= count as i64;
        stream.quota = stream.quota.saturating_sub(count);
        self.send_window -= count as i64;
        self.updates_expected =
            (self.updates_expected + UPDATES_PER_DATA).min(UPDATES_EXPECTED_MAX);
        let ends = ends(count);
        let start = self.out.len();
        let header = FrameHeader {
            length: count,
            kind: kind::DATA,
            flags: if ends { flag::END_STREAM } else { 0 },
            stream: key.id,
        };
        header.write(&mut self.out);
        self.out.extend_from_slice(&data[..count]);
        self.last_data = Some((key.id, start, self.out.len()));
        if ends {
            self.streams.update(key, |stream| stream.local_ended = true);
        }
        if count == window && count < data.len() && count < TINY_DATA_BYTES {
            self.count_tiny();
        }
        count
    }

    /// Sends what a piece of a body in chunks stands for. `None`: it is malformed.
    fn write_chunked(
        &mut self,
        key: Key,
        text: &[u8],
        decoder: &mut ChunkDecoder,
    ) -> Option<usize> {
        let before = decoder.clone();
        let mut piece = decoder.next(text).ok()?;
        let count = match piece.kind {
            PieceKind::Data => {
                let count = self.write_data(key, &text[..piece.length], |_| false);
                if count == 0 {
                    return Some(0);
                }
                if count < piece.length {
                    *decoder = before;
                    piece = decoder.next(&text[..count]).ok()?;
                }
                piece.length
            }
            PieceKind::NeedMore => {
                // The beginning of a line.
                let stream = self.streams.get_mut(key)?;
                stream.carry.extend_from_slice(text);
                text.len()
            }
            PieceKind::Trailer => {
                let stream = self.streams.get_mut(key)?;
                stream.trailers.extend_from_slice(&text[..piece.length]);
                piece.length
            }
            PieceKind::Coding
            | PieceKind::Extension
            | PieceKind::ForbiddenTrailer
            | PieceKind::End => piece.length,
        };
        if decoder.is_done() {
            self.end(key);
        } else {
            self.set_outbound(key, Outbound::Chunked(decoder.clone()));
        }
        Some(count)
    }

    /// Sends the end of a stream, with the trailers that were collected.
    fn end(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.outbound = Outbound::Done;
        let trailers = std::mem::take(&mut stream.trailers);
        if trailers.is_empty() {
            match self.last_data {
                // The frame has not gone yet, and nothing is behind it: it can say itself that it is the last.
                Some((id, start, end))
                    if id == key.id && end == self.out.len() && start >= self.out_sent =>
                {
                    self.out[start + 4] |= flag::END_STREAM;
                }
                _ => {
                    let header = FrameHeader {
                        length: 0,
                        kind: kind::DATA,
                        flags: flag::END_STREAM,
                        stream: key.id,
                    };
                    header.write(&mut self.out);
                }
            }
        } else {
            let start = self.out.len();
            self.out.extend_from_slice(&[0; HEADER_BYTES]);
            encode_trailers(&trailers, &mut self.encoder, &mut self.out);
            self.frame_block(start, key.id, true);
        }
        self.streams.update(key, |stream| stream.local_ended = true);
    }

    /// No more text will come for a stream. Where that is too early, the stream is reset.
    pub fn finish(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.local_ended || stream.reset.is_some() {
            return;
        }
        if matches!(stream.outbound, Outbound::UntilEnd) {
            self.end(key);
        } else {
            let code = match self.role {
                Role::Server => ErrorCode::InternalError,
                Role::Client => ErrorCode::Cancel,
            };
            self.reset(key, code);
        }
    }

    /// Puts a stream into the queue of those that wait.
    pub(super) fn enqueue(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        // A stream whose own window is used up waits for its peer, not for a turn.
        let waits_for_window =
            stream.send_window <= 0 && !matches!(stream.outbound, Outbound::Head);
        if !stream.queued && !waits_for_window {
            stream.queued = true;
            self.queue.push_back(key);
        }
    }

    /// Wakes the streams whose turn it is, as many as there is room for, and shares the room among them.
    pub fn unblock(&mut self) {
        let room = OUT_BYTES_MAX.saturating_sub(self.out.len() - self.out_sent);
        let woken = self.queue.len().min(room / QUOTA_MIN);
        for _ in 0..woken {
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            let needs_window = !matches!(stream.outbound, Outbound::Head);
            if needs_window && self.send_window <= 0 {
                self.queue.push_front(key);
                return;
            }
            stream.queued = false;
            stream.quota = room / woken;
            stream.wake();
        }
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.out[self.out_sent..]
    }

    /// So much of it was sent.
    pub fn sent(&mut self, count: usize) {
        self.out_sent += count;
        if self.out_sent == self.out.len() {
            self.out.clear();
            self.out_sent = 0;
            self.last_data = None;
        }
        self.unblock();
    }

    /// Whether so much waits to be sent that nothing should be read which might be answered.
    pub fn is_backed_up(&self) -> bool {
        !self.has_room()
    }

    /// Whether there is memory for what is to be sent.
    pub fn has_output_memory(&self) -> bool {
        self.out.capacity() > 0
    }

    /// The memory for what is to be sent, where nothing is.
    pub fn take_output_memory(&mut self) -> Vec<u8> {
        if self.out.is_empty() {
            std::mem::take(&mut self.out)
        } else {
            Vec::new()
        }
    }

    /// Lends memory for what is to be sent.
    pub fn lend_output_memory(&mut self, memory: Vec<u8>) {
        if self.out.is_empty() && memory.is_empty() {
            self.out = memory;
        }
    }

    /// Whether a stream became, or is to become, a tunnel.
    pub fn is_tunnel(&self, key: Key) -> bool {
        self.streams.get(key).is_some_and(|stream| stream.is_tunnel)
    }
}

/// What follows a head.
fn outbound_after(role: Role, head: TextHead, stream: &Stream) -> Outbound {
    if role == Role::Server {
        if stream.is_tunnel && head.status == 101 {
            return Outbound::UntilEnd;
        }
        if head.status < 200 {
            return Outbound::Head;
        }
        if stream.is_head || matches!(head.status, 204 | 304) {
            return Outbound::Done;
        }
    }
    match (head.framing, role) {
        (TextFraming::Length(0), _) | (TextFraming::Unsaid, Role::Client) => Outbound::Done,
        (TextFraming::Length(length), _) => Outbound::Length(length),
        (TextFraming::Chunked, _) => Outbound::Chunked(ChunkDecoder::default()),
        (TextFraming::Unsaid, Role::Server) => Outbound::UntilEnd,
    }
}

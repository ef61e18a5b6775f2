//! One stream: how far each direction is, and what has come that nobody has read yet.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use super::frame::ErrorCode;
use crate::codec::h1::ChunkDecoder;

/// Which stream of a connection. A key of a stream that is gone finds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) index: u32,
    /// The stream's identifier, which never comes twice on a connection.
    pub(super) id: u32,
}

/// How the data that comes is handed on as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// No head has come yet.
    Head,
    /// As it is.
    Plain,
    /// In chunks.
    Chunked,
    /// The message has no body: data is thrown away.
    Nothing,
}

/// What is expected of the text that is sent.
#[derive(Clone, Debug)]
pub(super) enum Outbound {
    /// A head.
    Head,
    /// So many bytes.
    Length(u64),
    /// Chunks, and behind them trailers.
    Chunked(ChunkDecoder),
    /// Bytes, until the end is said.
    UntilEnd,
    /// Nothing more.
    Done,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub(super) id: u32,
    /// Bytes that the peer may still send.
    pub(super) receive_window: u32,
    /// The peer has sent its last frame.
    pub(super) remote_ended: bool,
    /// What is left of the length that the peer has said.
    pub(super) expected: Option<u64>,
    pub(super) inbound: Inbound,
    /// Text that nobody has read yet.
    pub(super) inbox: Vec<u8>,
    pub(super) inbox_read: usize,
    /// Bytes of data in the inbox: the peer gets them back as window when they are read.
    pub(super) unread: u32,
    /// Bytes that were read, and that the peer has not got back yet.
    pub(super) uncredited: u32,
    /// Bytes that the peer takes; negative after the peer has made its windows smaller.
    pub(super) send_window: i64,
    /// We have sent our last frame.
    pub(super) local_ended: bool,
    pub(super) outbound: Outbound,
    /// Text that is no whole line or head yet.
    pub(super) carry: Vec<u8>,
    /// Trailer lines that are sent at the end.
    pub(super) trailers: Vec<u8>,
    /// The request's method is HEAD.
    pub(super) is_head: bool,
    /// A WebSocket.
    pub(super) is_tunnel: bool,
    /// Reset, by whomever: nothing goes either way.
    pub(super) reset: Option<ErrorCode>,
    /// Its reader or writer was let down: what is sent when it goes.
    pub(super) aborted: bool,
    /// Waits for its turn to write.
    pub(super) queued: bool,
    /// What it may write before it is the turn of others; as much as there is room for until it has to wait.
    pub(super) quota: usize,
    pub(super) waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, receive_window: u32, send_window: i64) -> Self {
        Self {
            id,
            receive_window,
            remote_ended: false,
            expected: None,
            inbound: Inbound::Head,
            inbox: Vec::new(),
            inbox_read: 0,
            unread: 0,
            uncredited: 0,
            send_window,
            local_ended: false,
            outbound: Outbound::Head,
            carry: Vec::new(),
            trailers: Vec::new(),
            is_head: false,
            is_tunnel: false,
            reset: None,
            aborted: false,
            queued: false,
            quota: usize::MAX,
            waker: None,
        }
    }

    /// Text that nobody has read yet.
    pub fn unread(&self) -> &[u8] {
        &self.inbox[self.inbox_read..]
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether it counts against the number of streams (RFC 9113, section 5.1.2).
    pub(super) fn is_open(&self) -> bool {
        self.reset.is_none() && !(self.remote_ended && self.local_ended)
    }
}

/// Identifiers are odd or even numbers in order: they are good hashes as they are.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        // Tables look at the highest bits and at the lowest.
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    /// Those that are open.
    pub(super) open: usize,
    /// Streams that are gone, for their memory.
    #[expect(clippy::vec_box, reason = "they go back into slots as they are")]
    spare: Vec<Box<Stream>>,
}

/// Streams whose memory is kept for the next ones of the same connection.
const SPARE_MAX: usize = 16;

impl Streams {
    pub(super) fn insert(&mut self, mut stream: Stream) -> Key {
        self.open += 1;
        let id = stream.id;
        let boxed = match self.spare.pop() {
            Some(mut spare) => {
                stream.inbox = std::mem::take(&mut spare.inbox);
                *spare = stream;
                spare
            }
            None => Box::new(stream),
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(boxed);
                index
            }
            None => {
                self.slots.push(Some(boxed));
                self.slots.len() as u32 - 1
            }
        };
        self.by_id.insert(id, index);
        Key { index, id }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).map(|index| Key { index: *index, id })
    }

    pub(super) fn get(&self, key: Key) -> Option<&Stream> {
        let stream = self.slots.get(key.index as usize)?.as_deref()?;
        (stream.id == key.id).then_some(stream)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream> {
        let stream = self.slots.get_mut(key.index as usize)?.as_deref_mut()?;
        (stream.id == key.id).then_some(stream)
    }

    /// Changes a stream, and keeps count of those that are open.
    pub(super) fn update<R>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut Stream) -> R,
    ) -> Option<R> {
        let stream = self.get_mut(key)?;
        let was_open = stream.is_open();
        let result = change(stream);
        let is_open = stream.is_open();
        if was_open && !is_open {
            self.open -= 1;
        }
        Some(result)
    }

    pub(super) fn remove(&mut self, key: Key) {
        if self.get(key).is_none() {
            return;
        }
        if let Some(mut stream) = self.slots[key.index as usize].take() {
            self.by_id.remove(&key.id);
            self.free.push(key.index);
            if stream.is_open() {
                self.open -= 1;
            }
            if self.spare.len() < SPARE_MAX {
                stream.inbox.clear();
                if stream.inbox.capacity() > KEPT_INBOX_BYTES_MAX {
                    stream.inbox = Vec::new();
                }
                stream.waker = None;
                self.spare.push(stream);
            }
        }
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten().map(|stream| &mut **stream)
    }

    /// Gives back what memory it can.
    pub(super) fn release(&mut self) {
        if self.by_id.is_empty() {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.spare = Vec::new();
            self.by_id.shrink_to_fit();
        }
    }
}

/// What is kept of the memory of an inbox: a head of the common size.
const KEPT_INBOX_BYTES_MAX: usize = 2048;

//! Byte buffers of a fixed size, kept by a worker and lent to connections while bytes are under way.

use std::cell::RefCell;

/// Bytes that were read and not yet used, in one piece.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            data: vec![0; capacity],
            start: 0,
            end: 0,
        }
    }

    /// Whether memory is behind it; an idle connection gives its memory back.
    pub(crate) fn is_lent(&self) -> bool {
        !self.data.is_empty()
    }

    /// The bytes.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes it holds at most.
    pub(crate) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Where the next bytes are read to. Moves what is there to the front when that makes room.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.data.len() && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.data[self.end..]
    }

    /// Counts bytes that were written to [`Self::spare`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.data.len());
    }

    /// Forgets bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    /// Makes it hold at least `capacity` bytes.
    pub(crate) fn grow(&mut self, capacity: usize) {
        if capacity > self.data.len() {
            self.data.resize(capacity, 0);
        }
    }
}

/// The buffers of one worker that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct BufferPool {
    capacity: usize,
    kept_max: usize,
    buffers: RefCell<Vec<Buffer>>,
    small: RefCell<Vec<Buffer>>,
    heads: RefCell<Vec<Vec<u8>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
}

/// What a stream of HTTP/2 has sent at once as a rule: a head. Hundreds of streams may be under way on a worker, each with a
/// buffer.
const SMALL_CAPACITY: usize = 4096;
/// Small buffers and heads that are kept while unused, of so many requests at once: 8 MiB of either.
const SMALL_KEPT_MAX: usize = 2048;

/// What is to be sent on one HTTP/2 connection, as long as no large bodies are among it.
const OUTPUT_CAPACITY: usize = 16 * 1024;
/// One that holds a full output and its frames' headers is kept; one that a large block of fields made larger is not.
const KEPT_OUTPUT_CAPACITY_MAX: usize = 160 * 1024;

/// A head that grew beyond this is not kept: one client's long head must not stay as memory for ever.
const KEPT_HEAD_CAPACITY_MAX: usize = 4096;

impl BufferPool {
    /// Buffers of `capacity` bytes, of which at most `kept_max` are kept while unused.
    pub(crate) fn new(capacity: usize, kept_max: usize) -> Self {
        Self {
            capacity,
            kept_max,
            buffers: RefCell::default(),
            small: RefCell::default(),
            heads: RefCell::default(),
            outputs: RefCell::default(),
        }
    }

    /// Puts memory behind a buffer that has none.
    pub(crate) fn lend(&self, buffer: &mut Buffer) {
        if !buffer.is_lent() {
            *buffer = self
                .buffers
                .borrow_mut()
                .pop()
                .unwrap_or_else(|| Buffer::with_capacity(self.capacity));
        }
    }

    /// Makes room for `count` more bytes, as far as a buffer holds them: little memory for few, the usual for many.
    pub(crate) fn lend_for(&self, count: usize, buffer: &mut Buffer) {
        if !buffer.is_lent() && count <= SMALL_CAPACITY {
            *buffer = self
                .small
                .borrow_mut()
                .pop()
                .unwrap_or_else(|| Buffer::with_capacity(SMALL_CAPACITY));
        } else if buffer.capacity() < self.capacity && buffer.spare().len() < count {
            let mut larger = Buffer::default();
            self.lend(&mut larger);
            let filled = buffer.filled();
            larger.spare()[..filled.len()].copy_from_slice(filled);
            larger.advance(filled.len());
            self.take_back(buffer);
            *buffer = larger;
        }
    }

    /// Takes the memory of a buffer back; what is in it is lost.
    pub(crate) fn take_back(&self, buffer: &mut Buffer) {
        if !buffer.is_lent() {
            return;
        }
        let mut buffer = std::mem::take(buffer);
        let (kept, kept_max) = match buffer.capacity() {
            capacity if capacity == self.capacity => (&self.buffers, self.kept_max),
            SMALL_CAPACITY => (&self.small, SMALL_KEPT_MAX),
            _ => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < kept_max {
            buffer.start = 0;
            buffer.end = 0;
            kept.push(buffer);
        }
    }

    /// Likewise, where nothing is in it.
    pub(crate) fn take_back_empty(&self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            self.take_back(buffer);
        }
    }

    /// An empty vector to assemble a head in.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.heads
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(1024))
    }

    /// An empty vector for what is to be sent on an HTTP/2 connection.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.outputs
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(OUTPUT_CAPACITY))
    }

    /// Takes it back.
    pub(crate) fn take_output_back(&self, mut output: Vec<u8>) {
        let mut kept = self.outputs.borrow_mut();
        let is_usual = (OUTPUT_CAPACITY..=KEPT_OUTPUT_CAPACITY_MAX).contains(&output.capacity());
        if is_usual && kept.len() < self.kept_max {
            output.clear();
            kept.push(output);
        }
    }

    /// Takes a head's vector back.
    pub(crate) fn take_head_back(&self, head: &mut Vec<u8>) {
        let mut head = std::mem::take(head);
        let mut kept = self.heads.borrow_mut();
        if (1..=KEPT_HEAD_CAPACITY_MAX).contains(&head.capacity()) && kept.len() < SMALL_KEPT_MAX {
            head.clear();
            kept.push(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_room_by_moving_to_the_front() {
        let pool = BufferPool::new(8, 4);
        let mut buffer = Buffer::default();
        pool.lend(&mut buffer);
        buffer.spare().copy_from_slice(b"abcdefgh");
        buffer.advance(8);
        assert!(buffer.spare().is_empty());
        buffer.consume(6);
        assert_eq!(buffer.spare().len(), 6);
        assert_eq!(buffer.filled(), b"gh");
    }

    #[test]
    fn keeps_a_bounded_number_of_its_own_size() {
        let pool = BufferPool::new(8, 1);
        let mut buffers: Vec<Buffer> = (0..3).map(|_| Buffer::default()).collect();
        for buffer in &mut buffers {
            pool.lend(buffer);
        }
        buffers[0].grow(16);
        for buffer in &mut buffers {
            pool.take_back(buffer);
            assert!(!buffer.is_lent());
        }
        assert_eq!(pool.buffers.borrow().len(), 1);
    }

    #[test]
    fn few_bytes_get_little_memory_and_more_of_it_when_they_grow_many() {
        let pool = BufferPool::new(16 * SMALL_CAPACITY, 4);
        let mut buffer = Buffer::default();
        pool.lend_for(100, &mut buffer);
        assert_eq!(buffer.capacity(), SMALL_CAPACITY);
        buffer.spare()[..5].copy_from_slice(b"hello");
        buffer.advance(5);
        pool.lend_for(SMALL_CAPACITY - 5, &mut buffer);
        assert_eq!(buffer.capacity(), SMALL_CAPACITY);
        pool.lend_for(SMALL_CAPACITY - 4, &mut buffer);
        assert_eq!(
            (buffer.capacity(), buffer.filled()),
            (16 * SMALL_CAPACITY, &b"hello"[..])
        );
        // More than fits is read in pieces.
        pool.lend_for(usize::MAX, &mut buffer);
        assert_eq!(buffer.filled(), b"hello");
        pool.take_back_empty(&mut buffer);
        assert!(buffer.is_lent());
        buffer.consume(5);
        pool.take_back_empty(&mut buffer);
        assert!(!buffer.is_lent());
        assert_eq!(
            (pool.buffers.borrow().len(), pool.small.borrow().len()),
            (1, 1)
        );
        pool.lend_for(SMALL_CAPACITY + 1, &mut buffer);
        assert_eq!(buffer.capacity(), 16 * SMALL_CAPACITY);
    }
}

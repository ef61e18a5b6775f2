//! A stream of an HTTP/2 connection as a transport.
//!
//! What is above reads and writes the text of one HTTP/1.1 message, as it does on a connection of HTTP/1.1; the codec
//! makes frames of it and text of frames. The streams of a connection and the task that moves its bytes share the
//! codec. All of them run on one thread, and none keeps it borrowed while it waits.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::buffer::{Buffer, BufferPool};
use crate::codec::h2::connection::Inbox;
use crate::codec::h2::sending::Written;
use crate::codec::h2::{Connection, ErrorCode, Key};
use crate::transport::Transport;

/// A connection, as its streams and the task that moves its bytes share it.
#[derive(Debug)]
pub(crate) struct Session {
    connection: RefCell<Connection>,
    /// The task that moves the bytes.
    mover: RefCell<Option<Waker>>,
    /// It has been told that there is something to do.
    told: Cell<bool>,
    buffers: Rc<BufferPool>,
}

impl Session {
    pub(crate) fn new(connection: Connection, buffers: Rc<BufferPool>) -> Rc<Self> {
        Rc::new(Self {
            buffers,
            connection: RefCell::new(connection),
            mover: RefCell::default(),
            told: Cell::new(false),
        })
    }

    /// The codec. Nobody keeps it over a wait.
    pub(crate) fn connection(&self) -> RefMut<'_, Connection> {
        self.connection.borrow_mut()
    }

    /// Puts memory behind what is to be sent.
    pub(crate) fn lend_memory(&self, connection: &mut Connection) {
        if !connection.has_output_memory() {
            connection.lend_output_memory(self.buffers.output());
        }
    }

    /// Takes it back, where everything was sent.
    pub(crate) fn take_memory_back(&self, connection: &mut Connection) {
        self.buffers
            .take_output_back(connection.take_output_memory());
    }

    /// The task that calls moves the bytes from now on.
    pub(crate) fn begin_move(&self, cx: &Context<'_>) {
        self.told.set(false);
        let mut mover = self.mover.borrow_mut();
        match &mut *mover {
            Some(known) => known.clone_from(cx.waker()),
            None => *mover = Some(cx.waker().clone()),
        }
    }

    /// There is something to send, or a stream has gone. The mover is woken once, however many streams say so: what
    /// they have written by the time that it runs goes out in one piece.
    pub(crate) fn tell(&self) {
        if !self.told.replace(true)
            && let Some(mover) = &*self.mover.borrow()
        {
            mover.wake_by_ref();
        }
    }
}

/// Reads of one connection before others have their turn. A buffer is full of frames that each cost far more than their
/// bytes, where somebody wants it so.
const READS_IN_A_TURN: u32 = 2;

/// What the task that moves the bytes may still do before others have their turn.
#[derive(Debug)]
pub(crate) struct Turn {
    reads_left: u32,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self {
            reads_left: READS_IN_A_TURN,
        }
    }

    /// Whether it may read again.
    pub(crate) fn has_reads(&self) -> bool {
        self.reads_left > 0
    }

    /// It has read.
    pub(crate) fn count_read(&mut self) {
        self.reads_left = self.reads_left.saturating_sub(1);
    }

    /// Ends the turn. Who may have left something unread is woken again, once all who are awake have run and the sockets
    /// were asked who else is: to be woken at once would put it before those that the kernel knows of.
    pub(crate) fn end(self, cx: &mut Context<'_>) {
        if self.reads_left == 0 {
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
    }
}

/// One stream. Dropped before its end, it is reset.
#[derive(Debug)]
pub(crate) struct StreamIo {
    session: Rc<Session>,
    key: Key,
    /// The direction away from here has ended.
    shut: bool,
}

impl StreamIo {
    pub(crate) fn new(session: Rc<Session>, key: Key) -> Self {
        Self {
            session,
            key,
            shut: false,
        }
    }

    /// Whether the peer has not served the request, and says so: it may be sent elsewhere.
    pub(crate) fn is_refused(&self) -> bool {
        self.session.connection().reset_code(self.key) == Some(ErrorCode::RefusedStream)
    }

    /// Wakes the task that calls when anything happens to the stream.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        self.session.connection().set_waker(self.key, cx.waker());
    }
}

impl Drop for StreamIo {
    fn drop(&mut self) {
        self.session.connection().release_stream(self.key);
        self.session.tell();
    }
}

impl Transport for StreamIo {
    const CARRIES_ONE: bool = true;

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<io::Result<usize>> {
        let mut connection = self.session.connection();
        let count = match connection.inbox(self.key) {
            Inbox::Text(text) => {
                pool.lend_for(text.len(), buffer);
                let spare = buffer.spare();
                let count = text.len().min(spare.len());
                spare[..count].copy_from_slice(&text[..count]);
                count
            }
            Inbox::Ended => return Poll::Ready(Ok(0)),
            // A request that was not served may be sent elsewhere, as if its connection had been closed before.
            Inbox::Reset(ErrorCode::RefusedStream) => return Poll::Ready(Ok(0)),
            Inbox::Reset(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            // What was not read by now will not be.
            Inbox::Empty if self.shut && !connection.is_tunnel(self.key) => {
                return Poll::Ready(Ok(0));
            }
            Inbox::Empty => {
                connection.set_waker(self.key, cx.waker());
                return Poll::Pending;
            }
        };
        buffer.advance(count);
        connection.consume(self.key, count);
        if !connection.output().is_empty() {
            self.session.tell();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut connection = self.session.connection();
        self.session.lend_memory(&mut connection);
        let mut taken = 0;
        for part in parts {
            match connection.write(self.key, part) {
                Written::Taken(count) => {
                    taken += count;
                    if count < part.len() {
                        break;
                    }
                }
                Written::Blocked if taken == 0 => {
                    connection.set_waker(self.key, cx.waker());
                    // Turns are given by who sends.
                    self.session.tell();
                    return Poll::Pending;
                }
                Written::Closed if taken == 0 => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Written::Blocked | Written::Closed => break,
            }
        }
        self.session.tell();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        self.session.connection().finish(self.key);
        self.session.tell();
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.session.connection().abort(self.key);
    }

    fn is_gone(&self) -> bool {
        self.session.connection().is_reset(self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::worker::Worker;

    #[test]
    fn one_that_never_stops_reading_holds_nobody_up() {
        let runtime = Worker::runtime().unwrap();
        runtime.block_on(async {
            let reads = Rc::new(Cell::new(0));
            let counted = Rc::clone(&reads);
            let busy = tokio::task::spawn_local(poll_fn(move |cx| {
                let mut turn = Turn::new();
                while turn.has_reads() {
                    counted.set(counted.get() + 1);
                    turn.count_read();
                }
                turn.end(cx);
                Poll::<()>::Pending
            }));
            let (mut here, mut there) = UnixStream::pair().unwrap();
            for _ in 0..100 {
                // It has read all there was: only epoll knows what comes next.
                let empty = there.try_read(&mut [0]).unwrap_err();
                assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
                let before = reads.get();
                here.write_u8(0).await.unwrap();
                there.read_u8().await.unwrap();
                assert!(reads.get() - before <= 2 * READS_IN_A_TURN);
            }
            assert!(reads.get() > READS_IN_A_TURN);
            busy.abort();
        });
    }

    #[test]
    fn a_turn_with_reads_left_is_not_followed_by_another() {
        let runtime = Worker::runtime().unwrap();
        runtime.block_on(async {
            let mut polls = 0;
            let idle = poll_fn(|cx| {
                polls += 1;
                let mut turn = Turn::new();
                turn.count_read();
                turn.end(cx);
                Poll::<()>::Pending
            });
            let waited = tokio::time::timeout(Duration::from_millis(20), idle);
            assert!(waited.await.is_err());
            // Once for the beginning, once for the end of the time.
            assert!(polls <= 2);
        });
    }
}

//! HTTP/2 connections to a backend: each carries many requests at once, and a worker has as few as it needs.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use crate::buffer::{Buffer, BufferPool};
use crate::codec::h2::{Config, Connection, FloodLimits};
use crate::deadlines::Deadlines;
use crate::h2::{Session, StreamIo};
use crate::transport::{Transport, Upstream};

/// Requests of one connection at once, where the backend allows as many. More connections cost less than the turns that
/// more streams would have to wait for.
const STREAMS_MAX: u32 = 100;
/// Bytes of an answer that are taken before its client has taken them.
const STREAM_WINDOW: u32 = 65_535;
/// All streams' windows together: a client that takes nothing must not hold up the answers to others.
const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// Of an answer's head; what a listener allows is asked where it is passed on.
const HEADER_BYTES: usize = 256 * 1024;
const HEADER_COUNT: usize = 1000;
/// Backends are no attackers, but may be broken: this often is more than any use there is.
const FRAMES_IN_TEN_SECONDS: u32 = 100_000;

/// The HTTP/2 connections of a worker to a backend.
#[derive(Debug, Default)]
pub(crate) struct Multiplex {
    sessions: RefCell<Vec<Kept>>,
    /// Somebody opens a connection; others that need one wait for it.
    connecting: Cell<bool>,
    opened: Notify,
}

#[derive(Debug)]
struct Kept {
    session: Rc<Session>,
    idle_since_ms: Option<u64>,
}

/// Who opens a connection. Dropped, it lets the others go on.
#[derive(Debug)]
pub(crate) struct Turn<'m>(&'m Multiplex);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.opened.notify_waiters();
    }
}

impl Multiplex {
    /// A stream of a connection that has room for one.
    pub(crate) fn open(&self) -> Option<StreamIo> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|kept| {
            let connection = kept.session.connection();
            !connection.is_dead() && !connection.peer_is_ending() && !connection.is_ending()
        });
        sessions.iter_mut().find_map(|kept| {
            let key = kept.session.connection().open()?;
            kept.idle_since_ms = None;
            Some(StreamIo::new(Rc::clone(&kept.session), key))
        })
    }

    /// A stream of a connection that somebody has opened meanwhile, or the turn to open one.
    pub(crate) async fn open_or_turn(&self) -> Result<StreamIo, Turn<'_>> {
        loop {
            if let Some(stream) = self.open() {
                return Ok(stream);
            }
            if !self.connecting.replace(true) {
                return Err(Turn(self));
            }
            self.opened.notified().await;
        }
    }

    /// Takes a connection that was opened, and gives its first stream. `guard` is kept as long as the connection lives.
    pub(crate) fn add(
        &self,
        io: Upstream,
        scheme: &'static [u8],
        deadlines: &Rc<Deadlines>,
        buffers: &Rc<BufferPool>,
        guard: impl Sized + 'static,
    ) -> Option<StreamIo> {
        let session = Session::new(Connection::client(config(scheme)), Rc::clone(buffers));
        let key = session.connection().open()?;
        let stream = StreamIo::new(Rc::clone(&session), key);
        self.sessions.borrow_mut().push(Kept {
            session: Rc::clone(&session),
            idle_since_ms: None,
        });
        let mut mover = Mover {
            session,
            io,
            buffer: Buffer::default(),
            deadlines: Rc::clone(deadlines),
            buffers: Rc::clone(buffers),
        };
        tokio::task::spawn_local(async move {
            poll_fn(|cx| mover.poll(cx)).await;
            mover.session.connection().fail_streams();
            mover.buffers.take_back(&mut mover.buffer);
            // The end of TLS, where there is room for it; nobody waits for it.
            poll_fn(|cx| Poll::Ready(mover.io.poll_shutdown(cx).is_ready())).await;
            drop(guard);
        });
        Some(stream)
    }

    /// Ends connections that were idle for too long.
    pub(crate) fn reap(&self, now_ms: u64, idle_timeout: Duration) {
        let idle_max_ms = u64::try_from(idle_timeout.as_millis()).unwrap_or(u64::MAX);
        self.sessions.borrow_mut().retain_mut(|kept| {
            if kept.session.connection().stream_count() > 0 {
                kept.idle_since_ms = None;
                return true;
            }
            let since_ms = *kept.idle_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) < idle_max_ms {
                return true;
            }
            end(&kept.session);
            false
        });
    }

    /// No more requests come: connections end with those that are under way.
    pub(crate) fn retire(&self) {
        for kept in self.sessions.borrow_mut().drain(..) {
            end(&kept.session);
        }
    }
}

fn end(session: &Session) {
    session.connection().end_after_open_streams();
    session.tell();
}

fn config(scheme: &'static [u8]) -> Config {
    Config {
        streams_max: STREAMS_MAX,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        header_bytes: HEADER_BYTES,
        header_count: HEADER_COUNT,
        continuations_max: 64,
        websockets: false,
        scheme,
        floods: FloodLimits {
            resets: FRAMES_IN_TEN_SECONDS,
            made_resets: FRAMES_IN_TEN_SECONDS,
            pings: FRAMES_IN_TEN_SECONDS,
            settings: FRAMES_IN_TEN_SECONDS,
            empty_data: FRAMES_IN_TEN_SECONDS,
            tiny_windows: FRAMES_IN_TEN_SECONDS,
            idle_frames: FRAMES_IN_TEN_SECONDS,
        },
    }
}

/// What moves a connection's bytes.
struct Mover {
    session: Rc<Session>,
    io: Upstream,
    buffer: Buffer,
    deadlines: Rc<Deadlines>,
    buffers: Rc<BufferPool>,
}

impl Mover {
    /// Moves bytes until the connection ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.begin_move(cx);
        loop {
            let Ok(is_flushed) = self.flush(cx) else {
                return Poll::Ready(());
            };
            let is_over = {
                let connection = self.session.connection();
                let is_ending = connection.is_ending() || connection.peer_is_ending();
                connection.is_dead() || (is_ending && connection.stream_count() == 0)
            };
            if is_over && (is_flushed || self.session.connection().is_dead()) {
                return Poll::Ready(());
            }
            match self.io.poll_read(cx, &mut self.buffer, &self.buffers) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    let mut connection = self.session.connection();
                    let now_ms = self.deadlines.now_ms();
                    match connection.receive(self.buffer.filled(), now_ms) {
                        Ok(count) => self.buffer.consume(count),
                        Err(fault) => {
                            tracing::debug!(reason = %fault.reason, "a backend breaks HTTP/2");
                            self.buffer.consume(self.buffer.len());
                        }
                    }
                    drop(connection.take_faults());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if is_flushed && !self.session.connection().output().is_empty() => {}
                Poll::Pending => break,
            }
        }
        if self.buffer.is_empty() {
            self.buffers.take_back(&mut self.buffer);
        }
        Poll::Pending
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, std::io::Error> {
        let mut connection = self.session.connection();
        while !connection.output().is_empty() {
            match self.io.poll_write(cx, &[IoSlice::new(connection.output())]) {
                Poll::Ready(count) => connection.sent(count?),
                Poll::Pending => return Ok(false),
            }
        }
        connection.unblock();
        self.session.take_memory_back(&mut connection);
        match self.io.poll_flush(cx) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }
}

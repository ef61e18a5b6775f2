//! HTTP/2 connections to a backend: each carries many requests at once, and a worker has as few as it needs.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use weir_model::PoolConnections;

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

/// A connection on which nothing has come for so long is asked for a sign of life with the next request: what is in
/// between may have forgotten it.
const SILENCE_MS: u64 = 10_000;
/// Likewise, while requests are under way. Servers of gRPC do not bear it more often than every five minutes.
const SILENCE_AT_WORK_MS: u64 = 300_000;
/// Looks, a second apart, after which requests go elsewhere where none has come.
const LOOKS_TO_DOUBT: u32 = 1;
/// And after which the connection is given up. Not a time: a process that was stopped must not blame its peers.
const LOOKS_TO_END: u32 = 5;

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
    pulse: Rc<Pulse>,
    idle_since_ms: Option<u64>,
    opened_ms: u64,
    /// Requests that it has carried.
    requests: u32,
}

impl Kept {
    fn new(session: Rc<Session>, now_ms: u64) -> Self {
        let pulse = Pulse::default();
        pulse.heard(now_ms);
        Self {
            session,
            pulse: Rc::new(pulse),
            idle_since_ms: None,
            opened_ms: now_ms,
            requests: 0,
        }
    }

    /// Whether it is old enough, or has carried enough.
    fn is_worn(&self, policy: &PoolConnections, now_ms: u64) -> bool {
        let age_ms = u128::from(now_ms.saturating_sub(self.opened_ms));
        policy
            .lifetime
            .is_some_and(|lifetime| age_ms >= lifetime.as_millis())
            || policy
                .requests_max
                .is_some_and(|most| self.requests >= most)
    }

    /// A stream, where there is room for one, and no doubt that the backend is there.
    fn open(&mut self, now_ms: u64) -> Option<StreamIo> {
        if self.pulse.is_in_doubt() {
            return None;
        }
        let key = self.session.connection().open()?;
        self.idle_since_ms = None;
        self.requests = self.requests.saturating_add(1);
        if self.pulse.asks(now_ms, SILENCE_MS) {
            self.session.connection().send_ping();
        }
        Some(StreamIo::new(Rc::clone(&self.session), key))
    }

    /// Looks for a sign of life, once a second.
    fn look(&self, now_ms: u64) {
        if self.pulse.is_over() {
            tracing::debug!("a backend does not answer PING");
            self.session.connection().fail_streams();
            self.session.tell();
        } else if self.session.connection().stream_count() > 0
            && self.pulse.asks(now_ms, SILENCE_AT_WORK_MS)
        {
            self.session.connection().send_ping();
            self.session.tell();
        }
    }
}

/// Whether the peer of a connection is still there.
#[derive(Debug, Default)]
struct Pulse {
    heard_ms: Cell<u64>,
    /// Looks since it was asked.
    asked: Cell<Option<u32>>,
}

impl Pulse {
    /// Something has come.
    fn heard(&self, now_ms: u64) {
        self.heard_ms.set(now_ms);
        self.asked.set(None);
    }

    /// Whether it is time to ask; if so, it is asked.
    fn asks(&self, now_ms: u64, silence_ms: u64) -> bool {
        let is_time =
            self.asked.get().is_none() && now_ms.saturating_sub(self.heard_ms.get()) >= silence_ms;
        if is_time {
            self.asked.set(Some(0));
        }
        is_time
    }

    fn is_in_doubt(&self) -> bool {
        self.asked.get() >= Some(LOOKS_TO_DOUBT)
    }

    /// Counts a look. Whether there were too many.
    fn is_over(&self) -> bool {
        let looks = self.asked.get().map(|looks| looks + 1);
        self.asked.set(looks);
        looks >= Some(LOOKS_TO_END)
    }
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
    pub(crate) fn open(&self, policy: &PoolConnections, now_ms: u64) -> Option<StreamIo> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|kept| {
            if kept.is_worn(policy, now_ms) {
                end(&kept.session);
            }
            let connection = kept.session.connection();
            !connection.is_dead() && !connection.peer_is_ending() && !connection.is_ending()
        });
        sessions.iter_mut().find_map(|kept| kept.open(now_ms))
    }

    /// A stream of a connection that somebody has opened meanwhile, or the turn to open one.
    pub(crate) async fn open_or_turn(
        &self,
        policy: &PoolConnections,
        now_ms: u64,
    ) -> Result<StreamIo, Turn<'_>> {
        loop {
            if let Some(stream) = self.open(policy, now_ms) {
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
        let mut kept = Kept::new(Rc::clone(&session), deadlines.now_ms());
        let stream = kept.open(deadlines.now_ms())?;
        let pulse = Rc::clone(&kept.pulse);
        self.sessions.borrow_mut().push(kept);
        let mut mover = Mover {
            session,
            pulse,
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

    /// Ends connections that were idle for too long, are too old, or whose backend is gone without a word. Called once a
    /// second.
    pub(crate) fn reap(&self, policy: &PoolConnections, now_ms: u64) {
        let idle_max_ms = u64::try_from(policy.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        self.sessions.borrow_mut().retain_mut(|kept| {
            kept.look(now_ms);
            if kept.is_worn(policy, now_ms) {
                end(&kept.session);
                return false;
            }
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
    pulse: Rc<Pulse>,
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
                    self.pulse.heard(now_ms);
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

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 9] = [0, 0, 8, 6, 0, 0, 0, 0, 0];

    struct Rig {
        multiplex: Multiplex,
        session: Rc<Session>,
        pulse: Rc<Pulse>,
    }

    impl Rig {
        fn new() -> Self {
            let buffers = Rc::new(BufferPool::new(1024, 1));
            let session = Session::new(Connection::client(config(b"http")), buffers);
            let kept = Kept::new(Rc::clone(&session), 0);
            let pulse = Rc::clone(&kept.pulse);
            let multiplex = Multiplex::default();
            multiplex.sessions.borrow_mut().push(kept);
            Self {
                multiplex,
                session,
                pulse,
            }
        }

        fn open(&self, now_ms: u64) -> bool {
            let policy = PoolConnections::default();
            self.multiplex.open(&policy, now_ms).is_some()
        }

        fn look(&self, now_ms: u64) {
            self.multiplex.reap(&PoolConnections::default(), now_ms);
        }

        fn pings(&self) -> usize {
            let connection = self.session.connection();
            connection
                .output()
                .windows(9)
                .filter(|at| *at == PING)
                .count()
        }
    }

    #[test]
    fn a_silent_connection_is_asked_with_the_next_request() {
        let rig = Rig::new();
        assert!(rig.open(SILENCE_MS - 1));
        assert_eq!(rig.pings(), 0);
        assert!(rig.open(SILENCE_MS) && rig.open(SILENCE_MS));
        assert_eq!(rig.pings(), 1);
        // A word is enough.
        rig.look(SILENCE_MS + 1000);
        assert!(!rig.open(SILENCE_MS + 1000));
        rig.pulse.heard(SILENCE_MS + 1001);
        assert!(rig.open(SILENCE_MS + 1001));
        for _ in 0..10 {
            rig.look(SILENCE_MS + 2000);
        }
        assert!(!rig.session.connection().is_dead());
        assert_eq!(rig.pings(), 1);
    }

    #[test]
    fn a_connection_whose_backend_is_gone_is_given_up() {
        let rig = Rig::new();
        let policy = PoolConnections::default();
        let stream = rig.multiplex.open(&policy, 2 * SILENCE_MS).unwrap();
        for look in 1..LOOKS_TO_END {
            rig.look(2 * SILENCE_MS + u64::from(look) * 1000);
            assert!(!rig.session.connection().is_dead(), "{look}");
        }
        rig.look(4 * SILENCE_MS);
        assert!(rig.session.connection().is_dead() && stream.is_gone());
        assert!(!rig.open(4 * SILENCE_MS));
    }

    #[test]
    fn a_request_that_waits_for_long_is_asked_after_now_and_then() {
        let rig = Rig::new();
        let stream = rig.multiplex.open(&PoolConnections::default(), 0).unwrap();
        for (now_ms, pings) in [
            (SILENCE_AT_WORK_MS - 1, 0),
            (SILENCE_AT_WORK_MS, 1),
            (SILENCE_AT_WORK_MS + 1000, 1),
        ] {
            rig.look(now_ms);
            assert_eq!(rig.pings(), pings);
        }
        drop(stream);
    }
}

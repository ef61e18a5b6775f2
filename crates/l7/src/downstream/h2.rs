//! A client's HTTP/2 connection: one task moves its bytes, and each request has one of its own.
//!
//! All frames of one read are taken before anything is written, and what the requests have answered until this task
//! runs again goes out in one write, which is one TLS record or a few.

use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use weir_model::{Http2, HttpLimits};

use crate::buffer::Buffer;
use crate::client::Client;
use crate::codec::h2::connection::Opened;
use crate::codec::h2::{Config, Connection, ErrorCode, FloodLimits};
use crate::deadlines::{Phase, Watch};
use crate::downstream::stream_tasks::Stream;
use crate::errors::{Reason, phrase};
use crate::forwarded::Forwarded;
use crate::h2::{Session, StreamIo, Turn};
use crate::listener::LocalListener;
use crate::transport::Transport;
use crate::worker::{IDLE_GRACE, Worker};

/// Bytes that a client may send on all streams together before they are read: what a connection's bodies may fill.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How long the end of a connection may take.
const CLOSE: Duration = Duration::from_secs(2);
/// Bytes that are read and thrown away meanwhile.
const CLOSE_BYTES_MAX: usize = 512 * 1024;
/// How long a connection without a request keeps the memory for streams: what comes at once needs it again.
const MEMORY_KEPT: Duration = Duration::from_secs(1);
/// As good as never; the clock of deadlines takes it.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the connection as a whole waits for. Requests have deadlines of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// The rest of the preface or of a header block.
    Head,
    /// A request, which may come at once.
    Next,
    /// A request.
    Idle,
    /// A request that was on its way when the connection's end was announced.
    Last,
    /// The client, to take what was sent.
    Sink,
    /// The requests that are under way.
    Requests,
}

struct Mover<T> {
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    io: T,
    client: Rc<Client>,
    forwarded: Rc<Forwarded>,
    watch: Watch,
    session: Rc<Session>,
    buffer: Buffer,
    opened: Vec<Opened>,
    waits: Option<Waits>,
    /// Bytes that were sent since the deadline was set.
    moved: bool,
    /// No request has come yet.
    first: bool,
    /// No request has come for a while.
    is_idle: bool,
    /// The client sends nothing more.
    ended: bool,
    /// The time for requests that were on their way is over.
    last_over: bool,
}

/// Serves a connection until its end. `buffer` holds what the client has already sent.
pub(crate) async fn serve<T: Transport>(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    watch: Watch,
    io: T,
    client: Rc<Client>,
    buffer: Buffer,
) {
    let config = {
        let plan = listener.plan.borrow();
        config(&plan.listener.http2, &plan.listener.limits)
    };
    let forwarded = Rc::new(Forwarded::new(&client));
    let connection = Connection::server(config, worker.next_seed());
    let session = Session::new(connection, Rc::clone(&worker.buffers));
    let mut mover = Mover {
        worker,
        listener,
        io,
        client,
        forwarded,
        watch,
        session,
        buffer,
        opened: Vec::new(),
        waits: None,
        moved: false,
        first: true,
        is_idle: false,
        ended: false,
        last_over: false,
    };
    if !mover.buffer.is_empty() {
        mover.receive();
    }
    let result = poll_fn(|cx| mover.poll(cx)).await;
    mover.session.connection().fail_streams();
    match result {
        Ok(()) => mover.close().await,
        Err(reason) => {
            mover.count(reason);
            mover.io.abort();
        }
    }
    mover.worker.buffers.take_back(&mut mover.buffer);
}

/// What a listener allows.
fn config(http2: &Http2, limits: &HttpLimits) -> Config {
    Config {
        streams_max: http2.streams,
        stream_window: http2.stream_window_bytes,
        connection_window: CONNECTION_WINDOW.max(http2.stream_window_bytes),
        header_bytes: limits.header_bytes,
        header_count: limits.header_count,
        continuations_max: http2.continuations,
        websockets: http2.websocket,
        scheme: b"",
        floods: FloodLimits {
            resets: http2.resets,
            made_resets: http2.made_resets,
            pings: http2.pings,
            settings: http2.settings,
            empty_data: http2.empty_data,
            tiny_windows: http2.tiny_windows,
            idle_frames: http2.idle_frames,
        },
    }
}

impl<T: Transport> Mover<T> {
    /// Moves bytes until the connection ends: in order, or for a reason.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        self.session.begin_move(cx);
        let mut turn = Turn::new();
        loop {
            let is_flushed = self.flush(cx)?;
            // What was read may have to be answered, and what was held up may go on.
            if turn.has_reads() && self.read(cx, is_flushed)? {
                turn.count_read();
                continue;
            }
            let (is_dead, streams, has_output) = {
                let connection = self.session.connection();
                let has_output = !connection.output().is_empty();
                (connection.is_dead(), connection.stream_count(), has_output)
            };
            if is_flushed && !has_output && (is_dead || (self.ended && streams == 0)) {
                return Poll::Ready(Ok(()));
            }
            if is_flushed && has_output {
                continue;
            }
            if self.wait(is_flushed, streams)? {
                break;
            }
        }
        turn.end(cx);
        if self.buffer.is_empty() {
            self.worker.buffers.take_back(&mut self.buffer);
        }
        Poll::Pending
    }

    /// Sends what there is to send. `false`: the client does not take all of it now.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Reason> {
        let mut connection = self.session.connection();
        while !connection.output().is_empty() {
            match self.io.poll_write(cx, &[IoSlice::new(connection.output())]) {
                Poll::Ready(Ok(count)) => {
                    connection.sent(count);
                    self.moved = true;
                }
                Poll::Ready(Err(_)) => return Err(Reason::DownstreamClosed),
                Poll::Pending => return Ok(false),
            }
        }
        connection.unblock();
        self.session.take_memory_back(&mut connection);
        drop(connection);
        match self.io.poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => Err(Reason::DownstreamClosed),
            Poll::Pending => Ok(false),
        }
    }

    /// Reads, and begins what was asked for. `false`: nothing has come, or nothing may be read now.
    fn read(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> Result<bool, Reason> {
        {
            let connection = self.session.connection();
            // A client that does not take what it has asked for is not asked what else it wants.
            if self.ended || connection.is_dead() || (!is_flushed && connection.is_backed_up()) {
                return Ok(false);
            }
        }
        match self
            .io
            .poll_read(cx, &mut self.buffer, &self.worker.buffers)
        {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) if count > 0 => {
                self.receive();
                Ok(true)
            }
            Poll::Ready(end) => {
                self.ended = true;
                let mut connection = self.session.connection();
                // Between two requests anybody may close.
                if connection.stream_count() > 0 || end.is_err() {
                    connection.fail_streams();
                }
                Ok(false)
            }
        }
    }

    /// Takes what was read.
    fn receive(&mut self) {
        let mut connection = self.session.connection();
        self.session.lend_memory(&mut connection);
        let received = connection.receive(self.buffer.filled(), self.worker.deadlines.now_ms());
        match received {
            Ok(count) => self.buffer.consume(count),
            Err(fault) => {
                self.buffer.consume(self.buffer.len());
                self.count(fault.reason);
            }
        }
        let mut opened = std::mem::take(&mut self.opened);
        connection.take_opened(&mut opened);
        let faults = connection.take_faults();
        drop(connection);
        for reason in faults {
            self.count(reason);
        }
        for opened in opened.drain(..) {
            self.begin(opened);
        }
        self.opened = opened;
    }

    /// Begins a request.
    fn begin(&mut self, opened: Opened) {
        let io = StreamIo::new(Rc::clone(&self.session), opened.key);
        if io.is_gone() {
            // Taken back in the same breath: nobody is to be troubled with it.
            self.listener
                .counters()
                .count_error(Reason::DownstreamClosed);
            return;
        }
        if let Some(reason) = opened.refused {
            self.refuse(opened, reason);
            return;
        }
        let first = std::mem::replace(&mut self.first, false);
        self.is_idle = false;
        let stream = Stream {
            listener: Rc::clone(&self.listener),
            io,
            client: Rc::clone(&self.client),
            forwarded: Rc::clone(&self.forwarded),
            first,
        };
        self.worker.stream_tasks.serve(&self.worker, stream);
    }

    /// Answers a request that could not be read.
    fn refuse(&self, opened: Opened, reason: Reason) {
        self.count(reason);
        let status = reason.status();
        let text = format!(
            "HTTP/1.1 {status} {}\r\nContent-Length: 0\r\n\r\n",
            phrase(status)
        );
        self.session.connection().write(opened.key, text.as_bytes());
        self.listener.counters().count_answer(status);
    }

    /// Sets the deadline for what is waited for now. `false`: it has passed, and something is to be done about it.
    fn wait(&mut self, is_flushed: bool, streams: usize) -> Result<bool, Reason> {
        let is_closing = self.listener.is_closing() || self.worker.draining.get();
        let mut connection = self.session.connection();
        if is_closing && connection.is_established() && !connection.is_ending() {
            connection.announce_end();
            return Ok(false);
        }
        if self.last_over && streams == 0 {
            connection.give_up(ErrorCode::NoError);
            return Ok(false);
        }
        let waits = if !is_flushed {
            Waits::Sink
        } else if connection.is_in_the_middle() {
            Waits::Head
        } else if connection.is_ending() && !self.last_over {
            Waits::Last
        } else if streams > 0 {
            Waits::Requests
        } else if self.is_idle {
            Waits::Idle
        } else {
            Waits::Next
        };
        if self.waits != Some(waits) || (waits == Waits::Sink && self.moved) {
            let plan = self.listener.plan.borrow();
            let timeouts = &plan.listener.timeouts;
            let (timeout, phase) = match waits {
                Waits::Head => (timeouts.request_header, Phase::Busy),
                Waits::Next => (MEMORY_KEPT.min(timeouts.keep_alive), Phase::Idle),
                Waits::Idle => (timeouts.keep_alive.saturating_sub(MEMORY_KEPT), Phase::Idle),
                Waits::Last => (IDLE_GRACE, Phase::Busy),
                Waits::Sink => (timeouts.idle, Phase::Busy),
                Waits::Requests => (NEVER, Phase::Busy),
            };
            self.watch.arm(timeout, phase);
            self.waits = Some(waits);
            self.moved = false;
            if waits == Waits::Idle {
                connection.release_memory();
            }
        }
        if !self.watch.is_expired() {
            return Ok(true);
        }
        self.waits = None;
        match waits {
            Waits::Head => {
                drop(connection);
                self.count(Reason::HeadTimeout);
                self.session.connection().give_up(ErrorCode::NoError);
            }
            Waits::Next => self.is_idle = true,
            Waits::Idle => connection.give_up(ErrorCode::NoError),
            Waits::Last => {
                self.last_over = true;
                connection.end_after_open_streams();
            }
            Waits::Sink => return Err(Reason::DownstreamIdle),
            Waits::Requests => {}
        }
        Ok(false)
    }

    fn count(&self, reason: Reason) {
        self.listener.counters().count_error(reason);
        if self.worker.may_log() {
            let listener = &self.listener.plan.borrow().listener.name;
            tracing::debug!(%listener, client = %self.client.address, %reason, "HTTP/2 connection or stream failed");
        }
    }

    /// Ends the connection in order. What the client still sends is read for a while: closing with unread bytes resets
    /// the connection, and the client would lose what was sent to it.
    async fn close(&mut self) {
        self.watch.arm(CLOSE, Phase::Busy);
        let mut is_shut = false;
        poll_fn(|cx| {
            if !is_shut {
                match self.io.poll_shutdown(cx) {
                    Poll::Pending if !self.watch.is_expired() => return Poll::Pending,
                    _ => is_shut = true,
                }
            }
            let mut read = 0;
            while !self.ended && read < CLOSE_BYTES_MAX {
                self.buffer.consume(self.buffer.len());
                match self
                    .io
                    .poll_read(cx, &mut self.buffer, &self.worker.buffers)
                {
                    Poll::Ready(Ok(count)) if count > 0 => read += count,
                    Poll::Ready(_) => self.ended = true,
                    Poll::Pending if self.watch.is_expired() => self.ended = true,
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

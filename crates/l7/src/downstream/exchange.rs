//! One request and its answer, both directions at once: the request goes to the backend as it comes, the answer to
//! the client as it comes, and neither waits for the other to be complete.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use weir_model::{HeaderEdits, HttpLimits, Retry, RetryOn, Timeouts};

use crate::buffer::Buffer;
use crate::codec::h1::response::After;
use crate::codec::h1::{Framing, Progress, RequestHead, ResponseHead, Version};
use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::listener::LocalListener;
use crate::relay::{Failure, Relay, WaitsFor};
use crate::retry::{Budget, Counted};
use crate::sticky::Cookies;
use crate::transport::Transport;
use crate::upstream::Connection;
use crate::worker::Worker;

/// Interim answers to one request. Early hints come once or twice; a stream of them is an attack or a defect.
const INTERIM_MAX: u32 = 16;

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The answer was sent.
    Answered {
        /// The backend's connection can carry another request.
        upstream_goes_on: bool,
        /// The client's connection can.
        downstream_goes_on: bool,
    },
    /// The backend answered with a status that is tried again; the client has not been told of it.
    Refused {
        /// The backend's connection can carry another request.
        upstream_goes_on: bool,
        /// The retry, counted.
        retry: Counted,
    },
    /// The backend has agreed to an upgrade, and the client was told.
    Upgraded,
    /// It failed.
    Failed {
        /// Why.
        reason: Reason,
        /// Bytes of an answer's head have gone to the client, and it does not know what an answer of ours would be.
        answered: bool,
        /// Not a byte of an answer has come.
        nothing_came: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The answer's head is to come.
    Head,
    /// An interim answer is on its way to the client.
    Interim,
    /// The final answer is.
    Final,
    Done,
}

/// One request and its answer.
pub(crate) struct Exchange<'e, T> {
    pub(crate) io: &'e mut T,
    pub(crate) buffer: &'e mut Buffer,
    pub(crate) connection: &'e mut Connection,
    pub(crate) upload: &'e mut Relay,
    pub(crate) download: &'e mut Relay,
    pub(crate) request: &'e RequestHead,
    pub(crate) response: &'e mut ResponseHead,
    pub(crate) worker: &'e Worker,
    pub(crate) watch: &'e Watch,
    pub(crate) limits: &'e HttpLimits,
    pub(crate) timeouts: &'e Timeouts,
    pub(crate) listener: &'e LocalListener,
    /// Answers that are tried again; none where this is the last try.
    pub(crate) retried: RetryOn,
    pub(crate) policy: &'e Retry,
    pub(crate) budget: &'e Rc<Budget>,
    /// The longest wait for the answer's head.
    pub(crate) response_timeout: Duration,
    /// When the work began, where the time of the answer's head is wanted.
    pub(crate) began: Option<Instant>,
    /// Field lines that are added to the final answer.
    pub(crate) added: &'e [u8],
    /// What a backend has to say to agree to a WebSocket, where the client cannot check it.
    pub(crate) accept: Option<&'e [u8]>,
    /// Fields of the final answer that are taken off.
    pub(crate) removed: Option<&'e HeaderEdits>,
    /// The pool's cookies, and the backend that is asked.
    pub(crate) cookies: Option<(&'e Cookies, usize)>,
    /// Where the moment is noted at which the answer's head was there; `None`: nobody asks.
    pub(crate) first_byte: Option<&'e mut Option<Instant>>,
    pub(crate) state: State,
}

/// How far an exchange is.
pub(crate) struct State {
    stage: Stage,
    upload_over: bool,
    /// The backend does not take the request any more; it may have answered before.
    upload_broken: bool,
    interim: u32,
    after: After,
    /// How long the answer's head took.
    pub(crate) took: Option<Duration>,
    /// The answer is not for the client: the next try, counted.
    retry: Option<Counted>,
    /// What `moved` of both directions was when the deadline was set.
    moved: Option<u64>,
    /// Since when the client is waited for, and what `moved` was then.
    pace: Option<(u64, u64)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            stage: Stage::Head,
            upload_over: false,
            upload_broken: false,
            interim: 0,
            after: After::Close,
            took: None,
            retry: None,
            moved: None,
            pace: None,
        }
    }
}

impl<T: Transport> Exchange<'_, T> {
    /// Goes on as far as both sides allow.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.advance(cx) {
            Ok(Some(end)) => Poll::Ready(end),
            // Before the deadline is set here, what has expired is that of something else.
            Ok(None) if self.state.moved.is_some() && self.watch.is_expired() => {
                Poll::Ready(self.failed(self.timeout_reason()))
            }
            Ok(None) => match self.check_rate() {
                Ok(()) => {
                    self.set_deadline();
                    // What waits needs no memory; nobody can tell when the next bytes come.
                    let buffers = &self.worker.buffers;
                    buffers.take_back_empty(self.buffer);
                    buffers.take_back_empty(&mut self.connection.buffer);
                    Poll::Pending
                }
                Err(reason) => Poll::Ready(self.failed(reason)),
            },
            Err(reason) => Poll::Ready(self.failed(reason)),
        }
    }

    fn failed(&self, reason: Reason) -> End {
        let answered = match self.state.stage {
            Stage::Head => false,
            Stage::Interim => self.download.has_begun() && !self.download.head_is_out(),
            Stage::Final | Stage::Done => self.download.has_begun(),
        };
        let nothing_came = self.state.stage == Stage::Head
            && self.state.interim == 0
            && self.connection.buffer.is_empty();
        End::Failed {
            reason,
            answered,
            nothing_came,
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Result<Option<End>, Reason> {
        if self.io.is_gone() {
            return Err(Reason::DownstreamClosed);
        }
        if !self.state.upload_over {
            self.advance_upload(cx)?;
        }
        loop {
            match self.state.stage {
                Stage::Head => {
                    if !self.advance_head(cx)? {
                        let pool = &self.worker.buffers;
                        let gone = self.state.upload_over
                            && self.io.poll_closed(cx, self.buffer, pool).is_ready();
                        return if gone {
                            Err(Reason::DownstreamClosed)
                        } else {
                            Ok(None)
                        };
                    }
                    if let Some(retry) = self.state.retry.take() {
                        return Ok(Some(self.refused(retry)));
                    }
                }
                Stage::Interim | Stage::Final => {
                    let pool = &self.worker.buffers;
                    let Connection { io, buffer, .. } = &mut *self.connection;
                    match self.download.poll(cx, io, buffer, self.io, pool) {
                        Poll::Pending => return Ok(None),
                        Poll::Ready(Ok(())) if self.state.stage == Stage::Interim => {
                            self.state.stage = Stage::Head;
                        }
                        Poll::Ready(Ok(())) => self.state.stage = Stage::Done,
                        Poll::Ready(Err(Failure::Write)) => return Err(Reason::DownstreamClosed),
                        Poll::Ready(Err(Failure::Malformed(_))) => {
                            return Err(Reason::BadResponseFraming);
                        }
                        Poll::Ready(Err(Failure::Read | Failure::Ended)) => {
                            return Err(Reason::UpstreamTruncated);
                        }
                    }
                }
                Stage::Done => return Ok(self.end()),
            }
        }
    }

    /// What there is to say once the answer is out. `None`: the request is still being sent, and somebody wants it.
    fn end(&self) -> Option<End> {
        if self.state.after == After::Upgrade {
            return Some(End::Upgraded);
        }
        let goes_on = matches!(self.state.after, After::KeepAlive | After::KeepAliveHttp10);
        if self.state.upload_over || !goes_on || !self.response.keep_alive {
            let whole = self.state.upload_over && !self.state.upload_broken;
            return Some(End::Answered {
                upstream_goes_on: whole
                    && self.response.keep_alive
                    && self.connection.buffer.is_empty(),
                downstream_goes_on: whole && goes_on,
            });
        }
        None
    }

    /// The connection can be used again where the whole of the answer is here already.
    fn refused(&mut self, retry: Counted) -> End {
        let buffer = &mut self.connection.buffer;
        let body = match self.response.framing {
            Framing::None => Some(0),
            Framing::Length(length) => usize::try_from(length).ok(),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let is_whole = body.is_some_and(|body| body == buffer.len());
        buffer.consume(buffer.len());
        End::Refused {
            upstream_goes_on: is_whole
                && self.state.upload_over
                && !self.state.upload_broken
                && self.response.keep_alive,
            retry,
        }
    }

    fn advance_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Reason> {
        let pool = &self.worker.buffers;
        match self
            .upload
            .poll(cx, self.io, self.buffer, &mut self.connection.io, pool)
        {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.state.upload_over = true;
                Ok(())
            }
            // The answer may have been sent before the backend closed: it is what the client should see.
            Poll::Ready(Err(Failure::Write)) => {
                self.state.upload_over = true;
                self.state.upload_broken = true;
                Ok(())
            }
            Poll::Ready(Err(Failure::Malformed(reason))) => Err(reason),
            Poll::Ready(Err(Failure::Read | Failure::Ended)) => Err(Reason::DownstreamClosed),
        }
    }

    /// Reads and parses the answer's head. `false`: more is to come.
    fn advance_head(&mut self, cx: &mut Context<'_>) -> Result<bool, Reason> {
        loop {
            let buffer = &mut self.connection.buffer;
            if !buffer.is_empty() {
                match self
                    .response
                    .parse(buffer.filled(), self.request.method, self.limits)?
                {
                    Progress::Complete => {
                        self.take_head()?;
                        return Ok(true);
                    }
                    Progress::Partial if buffer.len() == buffer.capacity() => {
                        buffer.grow(self.limits.header_bytes.max(buffer.capacity() + 1));
                    }
                    Progress::Partial => {}
                }
            }
            match self.connection.io.poll_read(
                cx,
                &mut self.connection.buffer,
                &self.worker.buffers,
            ) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0) | Err(_)) => return Err(Reason::UpstreamClosed),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Decides what becomes of the head that was parsed, and assembles it for the client.
    fn take_head(&mut self) -> Result<(), Reason> {
        let head = self.connection.buffer.filled();
        let old_client = self.request.version == Version::Http10;
        if !self.response.is_interim() {
            self.state.took = self.began.map(|began| began.elapsed());
        }
        self.download.head.clear();
        if self.response.is_interim() {
            self.state.interim += 1;
            if self.state.interim > INTERIM_MAX {
                return Err(Reason::BadResponse);
            }
            // HTTP/1.0 has no interim answers (RFC 9110, section 15.2).
            if !old_client {
                self.response.write(
                    head,
                    After::KeepAlive,
                    false,
                    None,
                    b"",
                    &mut self.download.head,
                );
            }
            self.download.begin(Framing::None, false);
            self.state.stage = Stage::Interim;
        } else if self.retried.has_status(self.response.status)
            && self.upload.can_be_repeated()
            && let Some(retry) = Counted::retry_within(self.budget, self.policy)
        {
            self.state.retry = Some(retry);
        } else {
            if let Some(first_byte) = &mut self.first_byte {
                **first_byte = Some(Instant::now());
            }
            let dechunk = old_client && self.response.framing == Framing::Chunked;
            self.state.after = self.after(dechunk)?;
            self.response.write(
                head,
                self.state.after,
                dechunk,
                self.removed,
                self.added,
                &mut self.download.head,
            );
            if let Some((cookies, backend)) = self.cookies {
                let now_ms = self.worker.deadlines.now_ms();
                cookies.answer(backend, &mut self.download.head, now_ms);
            }
            self.download.begin(self.response.framing, dechunk);
            self.state.stage = Stage::Final;
        }
        self.connection.buffer.consume(self.response.length);
        Ok(())
    }

    fn after(&self, dechunk: bool) -> Result<After, Reason> {
        if self.response.status == 101 {
            // Only what was asked for, and only once the whole request is out: what the client sends from here on
            // is not HTTP (CVE-2026-2833 is about sending it on too early).
            let asked = self.request.upgrade && self.state.upload_over && !self.state.upload_broken;
            if !asked {
                return Err(Reason::UnaskedUpgrade);
            }
            let head = self.connection.buffer.filled();
            let accepted = self.response.field(head, "sec-websocket-accept");
            return if self.accept.is_some() && accepted != self.accept {
                Err(Reason::BadResponse)
            } else {
                Ok(After::Upgrade)
            };
        }
        // The client that waits for 100 may or may not send its body after a final answer: nobody can tell what the
        // next bytes are (RFC 9110, section 10.1.1).
        let body_in_doubt = self.request.expects_continue
            && !self.state.upload_over
            && self.upload.waits_for_first_byte();
        // The backend will not read the rest of the request, and the client cannot go on before it is out.
        let cut_short = !self.state.upload_over && !self.response.keep_alive;
        // Asked now: the listener may have closed, or a drain begun, while the backend was at work.
        let closing = self.listener.is_closing() || self.worker.draining.get();
        let ends = !self.request.keep_alive
            || closing
            || cut_short
            || dechunk
            || body_in_doubt
            || self.state.upload_broken
            || self.response.framing == Framing::UntilClose;
        Ok(match self.request.version {
            _ if ends => After::Close,
            Version::Http11 => After::KeepAlive,
            Version::Http10 => After::KeepAliveHttp10,
        })
    }

    /// Sees that a client that is waited for moves at least so much as `min_rate` says, looked at over the time that it
    /// could also be silent: a byte now and then does not keep a backend's connection for ever.
    fn check_rate(&mut self) -> Result<(), Reason> {
        // Streams share a connection, and their windows; small messages that come slowly are common on them.
        if self.limits.min_rate == 0 || !self.io.is_connection() {
            return Ok(());
        }
        let now_ms = self.worker.deadlines.now_ms();
        let moved = self.upload.moved + self.download.moved;
        let waits_for_client = if self.state.upload_over {
            self.state.stage != Stage::Head && self.download.waits_for == WaitsFor::Sink
        } else {
            self.state.stage == Stage::Head && self.upload.waits_for == WaitsFor::Source
        };
        let Some((from_ms, before)) = self.state.pace.filter(|_| waits_for_client) else {
            self.state.pace = waits_for_client.then_some((now_ms, moved));
            return Ok(());
        };
        let elapsed_ms = now_ms.saturating_sub(from_ms);
        if u128::from(elapsed_ms) < self.timeouts.idle.as_millis() {
            return Ok(());
        }
        let least = u64::from(self.limits.min_rate).saturating_mul(elapsed_ms) / 1000;
        if moved - before < least {
            return Err(Reason::SlowClient);
        }
        self.state.pace = Some((now_ms, moved));
        Ok(())
    }

    /// Sets the deadline for what is waited for now, if anything has moved since it was set.
    fn set_deadline(&mut self) {
        let moved = self.upload.moved + self.download.moved;
        if self.state.moved != Some(moved) {
            self.state.moved = Some(moved);
            self.watch.arm(self.timeout(), Phase::Busy);
        }
    }

    fn timeout(&self) -> Duration {
        if self.waits_for_answer() {
            self.response_timeout
        } else {
            self.timeouts.idle
        }
    }

    fn waits_for_answer(&self) -> bool {
        self.state.stage == Stage::Head && self.state.upload_over
    }

    fn timeout_reason(&self) -> Reason {
        let direction = if self.state.upload_over {
            &self.download
        } else {
            &self.upload
        };
        match (direction.waits_for, self.state.upload_over) {
            _ if self.waits_for_answer() => Reason::ResponseTimeout,
            (WaitsFor::Source, false) | (WaitsFor::Sink, true) => Reason::DownstreamIdle,
            (WaitsFor::Sink, false) | (WaitsFor::Source, true) => Reason::UpstreamIdle,
        }
    }
}

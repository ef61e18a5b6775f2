//! A client's HTTP/1.x connection: one request after the other.

use std::future::poll_fn;
use std::io::{IoSlice, Write};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use weir_model::{Action, FixedAnswer, HeaderEdits, RetryOn, Route};

use crate::access_log::{About, Note};
use crate::buffer::Buffer;
use crate::client::Client;
use crate::codec::h1::{Framing, Method, Progress, Replaced, RequestHead, ResponseHead, Version};
use crate::codec::{path, websocket};
use crate::deadlines::{Phase, Watch};
use crate::downstream::exchange::{End, Exchange, State};
use crate::downstream::h2;
use crate::downstream::stream_tasks::Stream;
use crate::edits::{self, Facts, RequestId, write_fields};
use crate::errors::{Reason, Side, phrase};
use crate::forwarded::Forwarded;
use crate::grpc;
use crate::listener::LocalListener;
use crate::plan::{HeldPlan, ListenerPlan};
use crate::relay::Relay;
use crate::retry::{Counted, FailedTry, Tried};
use crate::routing::{Found, RequestView, Split, Target};
use crate::sticky::Wanted;
use crate::transport::Transport;
use crate::tunnel;
use crate::upstream::{Choice, Connection, LocalBackend, LocalPool, Work};
use crate::worker::{IDLE_GRACE, Worker};

/// Bytes that are read and thrown away after a refusal, so that the client sees the answer before a reset.
const LINGER_BYTES_MAX: usize = 512 * 1024;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(2);

struct Downstream<T> {
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    io: T,
    client: Rc<Client>,
    forwarded: Rc<Forwarded>,
    buffer: Buffer,
    request: RequestHead,
    response: ResponseHead,
    upload: Relay,
    download: Relay,
    watch: Watch,
    /// No request has been answered yet.
    first: bool,
    /// The request is one of gRPC, whose failures are told in its own way.
    is_grpc: bool,
    /// The time that the client gives its call of gRPC.
    grpc_timeout: Option<Duration>,
    /// What a backend has to say to agree to a WebSocket, where the client cannot check it.
    accept: Option<Vec<u8>>,
    /// A client may begin with the preface of HTTP/2.
    may_be_http2: bool,
    /// What there is to say of the request that is under way, when it has ended.
    note: Note,
}

/// What becomes of the connection.
enum Next {
    Request,
    /// Everything that the client sent was read: it can be closed.
    Close,
    /// The client may still be sending.
    Linger,
    /// The client must not take what it has for the whole answer.
    Abort,
    Tunnel(Connection, Work),
    /// The client speaks HTTP/2.
    Http2,
}

/// What becomes of a request.
enum Begun<'p> {
    Pool(ToPool<'p>),
    /// We answer it ourselves.
    Here(OwnAnswer<'p>),
    /// Nobody serves it.
    Nothing,
}

/// A request that goes to a pool.
struct ToPool<'p> {
    pool: Rc<LocalPool>,
    route: Option<&'p Route>,
    /// What the request's cookie says.
    wanted: Wanted,
    request_hash: Option<u64>,
    /// Field lines that the route adds to the answer.
    added: Vec<u8>,
}

/// An answer of our own.
#[derive(Default)]
struct OwnAnswer<'a> {
    status: u16,
    content_type: Option<&'a str>,
    body: &'a [u8],
    /// More field lines.
    fields: Vec<u8>,
}

impl<'a> OwnAnswer<'a> {
    fn text(status: u16, body: &'a str) -> Self {
        Self {
            status,
            content_type: Some("text/plain"),
            body: body.as_bytes(),
            fields: Vec::new(),
        }
    }

    /// A failure as gRPC clients expect it: 200, and the status in what counts as trailers (gRPC over HTTP/2,
    /// "Responses").
    fn grpc(status: u16, reason: Option<Reason>) -> Self {
        let code = grpc::code(status, reason);
        Self {
            status: 200,
            content_type: Some("application/grpc"),
            body: b"",
            fields: format!(
                "grpc-status: {code}\r\ngrpc-message: {status} {}\r\n",
                phrase(status)
            )
            .into_bytes(),
        }
    }

    fn write(&self, connection_field: &str, is_head: bool, out: &mut Vec<u8>) {
        out.clear();
        // Writing to a vector does not fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        if let Some(content_type) = self.content_type {
            let _ = write!(out, "Content-Type: {content_type}\r\n");
        }
        if !FixedAnswer::is_bodiless(self.status) {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        out.extend_from_slice(&self.fields);
        let _ = write!(out, "{connection_field}\r\n");
        if !is_head {
            out.extend_from_slice(self.body);
        }
    }
}

/// A request that has come over HTTP/1.x, as routes look at it.
struct Arrived<'h> {
    request: &'h RequestHead,
    head: &'h [u8],
    client: IpAddr,
}

impl RequestView for Arrived<'_> {
    fn method(&self) -> &[u8] {
        self.request.method_name.of(self.head)
    }

    fn authority(&self) -> &[u8] {
        self.request.authority.of(self.head)
    }

    fn target(&self) -> &[u8] {
        self.request.target.of(self.head)
    }

    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.request.values(self.head, name)
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

/// What reading a head came to.
enum Read {
    Head,
    /// The client closed, or was silent, between two requests.
    Ended,
    Refused(Reason),
    /// The preface of HTTP/2.
    Http2,
}

/// Serves a connection until its end.
pub(crate) async fn serve<T: Transport>(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    watch: Watch,
    io: T,
    client: Client,
) {
    // Over TLS it is agreed on in the handshake.
    let may_be_http2 = client.tls.is_none() && listener.plan.borrow().listener.http2.enabled;
    let mut downstream = Downstream {
        worker,
        listener,
        io,
        forwarded: Rc::new(Forwarded::new(&client)),
        client: Rc::new(client),
        buffer: Buffer::default(),
        request: RequestHead::default(),
        response: ResponseHead::default(),
        upload: Relay::default(),
        download: Relay::default(),
        watch,
        first: true,
        is_grpc: false,
        grpc_timeout: None,
        accept: None,
        may_be_http2,
        note: Note::default(),
    };
    match downstream.serve().await {
        Left::Nothing => {}
        Left::Tunnel(connection, work) => downstream.relay(connection, work).await,
        Left::Http2 => {
            let Downstream {
                worker,
                listener,
                io,
                client,
                buffer,
                watch,
                ..
            } = downstream;
            h2::serve(worker, listener, watch, io, client, buffer).await;
        }
    }
}

/// What the heads of requests and answers are parsed into, kept for its memory.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    request: RequestHead,
    response: ResponseHead,
}

/// Serves the request of one stream of an HTTP/2 connection.
pub(crate) async fn serve_stream(worker: &Rc<Worker>, stream: Stream, heads: &mut Heads) {
    let Stream {
        listener,
        io,
        client,
        forwarded,
        first,
    } = stream;
    let watch = poll_fn(|cx| {
        io.watch(cx);
        Poll::Ready(Watch::new(&worker.deadlines, listener.number, cx))
    })
    .await;
    let mut downstream = Downstream {
        worker: Rc::clone(worker),
        listener,
        io,
        client,
        forwarded,
        buffer: Buffer::default(),
        request: std::mem::take(&mut heads.request),
        response: std::mem::take(&mut heads.response),
        upload: Relay::default(),
        download: Relay::default(),
        watch,
        first,
        is_grpc: false,
        grpc_timeout: None,
        accept: None,
        may_be_http2: false,
        note: Note::default(),
    };
    match downstream.serve().await {
        Left::Tunnel(connection, work) => downstream.relay(connection, work).await,
        Left::Nothing | Left::Http2 => {
            heads.request = downstream.request;
            heads.response = downstream.response;
        }
    }
}

/// What is left to do with a connection, or a stream, after its requests.
enum Left {
    Nothing,
    /// To relay bytes.
    Tunnel(Connection, Work),
    /// To speak HTTP/2.
    Http2,
}

impl<T: Transport> Downstream<T> {
    /// Serves requests until the end.
    async fn serve(&mut self) -> Left {
        let next = self.serve_requests().await;
        match next {
            Next::Http2 => return Left::Http2,
            Next::Tunnel(connection, work) => return Left::Tunnel(connection, work),
            Next::Request | Next::Close => self.close().await,
            Next::Linger => self.linger().await,
            Next::Abort => self.io.abort(),
        }
        self.give_heads_back();
        self.worker.buffers.take_back(&mut self.buffer);
        Left::Nothing
    }

    /// Relays bytes between the client and a backend that have agreed to it.
    async fn relay(mut self, connection: Connection, work: Work) {
        self.give_heads_back();
        let Downstream {
            worker,
            listener,
            io,
            buffer,
            watch,
            client,
            request,
            mut note,
            ..
        } = self;
        let relayed = tunnel::relay(&worker, &listener, io, buffer, connection, &watch).await;
        drop(work);
        relayed.note(&mut note);
        let protocol = protocol::<T>(&request);
        write_line(&worker, &listener, &client, protocol, &note);
    }

    async fn serve_requests(&mut self) -> Next {
        loop {
            match self.read_head().await {
                Read::Head => {}
                Read::Ended => return Next::Close,
                Read::Http2 => return Next::Http2,
                Read::Refused(reason) => {
                    self.count(reason, None);
                    let next = match reason.status() {
                        0 => Next::Close,
                        _ => self.refuse(reason).await,
                    };
                    self.write_line();
                    return next;
                }
            }
            let next = self.answer().await;
            if let Some(began) = self.note.began {
                self.listener.counters().latency.record(began.elapsed());
            }
            if !matches!(next, Next::Tunnel(..)) {
                self.write_line();
            }
            match next {
                Next::Request if T::CARRIES_ONE => return Next::Close,
                Next::Request => self.first = false,
                next => return next,
            }
            self.give_heads_back();
            self.worker.buffers.take_back_empty(&mut self.buffer);
        }
    }

    fn give_heads_back(&mut self) {
        self.worker.buffers.take_head_back(&mut self.upload.head);
        self.worker.buffers.take_head_back(&mut self.download.head);
    }

    async fn read_head(&mut self) -> Read {
        self.note.clear();
        let plan = self.plan();
        let timeouts = &plan.listener.timeouts;
        let patience = if self.first {
            timeouts.request_header
        } else {
            timeouts.keep_alive
        };
        // The answer may have begun, and promised to keep the connection, before the drain did.
        let patience = if self.is_closing() {
            patience.min(IDLE_GRACE)
        } else {
            patience
        };
        self.watch.arm(patience, Phase::Idle);
        let mut scanned = 0;
        poll_fn(|cx| self.poll_head(cx, &plan, &mut scanned)).await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        plan: &ListenerPlan,
        scanned: &mut usize,
    ) -> Poll<Read> {
        let limits = &plan.listener.limits;
        loop {
            if self.buffer.len() > *scanned {
                let bytes = self.buffer.filled();
                if self.first && self.may_be_http2 && bytes.starts_with(b"PRI * ") {
                    return Poll::Ready(Read::Http2);
                }
                if *scanned == 0
                    || may_be_complete(bytes, *scanned)
                    || bytes.len() >= limits.header_bytes
                {
                    match self.request.parse(bytes, limits) {
                        Ok(Progress::Complete) => {
                            let now = Instant::now();
                            self.note.began.get_or_insert(now);
                            self.note.head = Some(now);
                            let policy = &plan.listener.http;
                            self.request.allow_upgrade(bytes, &policy.allow_upgrade);
                            let target = self.request.target.of(bytes);
                            return Poll::Ready(
                                match path::check(target, policy.encoded_slashes) {
                                    Ok(()) => Read::Head,
                                    Err(reason) => Read::Refused(reason),
                                },
                            );
                        }
                        Ok(Progress::Partial) => {}
                        Err(reason) => return Poll::Ready(Read::Refused(reason)),
                    }
                }
                if *scanned == 0 {
                    self.note.began.get_or_insert_with(Instant::now);
                    self.watch
                        .arm(plan.listener.timeouts.request_header, Phase::Busy);
                }
                *scanned = self.buffer.len();
                if self.buffer.len() == self.buffer.capacity() {
                    self.buffer
                        .grow(limits.header_bytes.max(self.buffer.capacity()) + 64);
                }
            }
            match self
                .io
                .poll_read(cx, &mut self.buffer, &self.worker.buffers)
            {
                Poll::Ready(Ok(0) | Err(_)) if self.buffer.is_empty() => {
                    return Poll::Ready(Read::Ended);
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    return Poll::Ready(Read::Refused(Reason::DownstreamClosed));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if !self.watch.is_expired() => return Poll::Pending,
                Poll::Pending if self.buffer.is_empty() => return Poll::Ready(Read::Ended),
                Poll::Pending => return Poll::Ready(Read::Refused(Reason::HeadTimeout)),
            }
        }
    }

    /// Routes the request whose head was read; assembles the head for the backend, or our own answer.
    fn begin<'p>(&mut self, plan: &'p ListenerPlan) -> Begun<'p> {
        let head = self.buffer.filled();
        let view = Arrived {
            request: &self.request,
            head,
            client: self.client.address.ip(),
        };
        let found = plan.routes.find(&view);
        let (route, number) = match found {
            Found::Default(number) => (None, Some(number)),
            Found::Nothing => (None, None),
            Found::Route(index, Target::Pool(number)) => (Some(index), Some(*number)),
            Found::Route(index, Target::Split(split)) => {
                (Some(index), Some(self.side(split, head)))
            }
            Found::Route(index, Target::Here) => (Some(index), None),
        };
        if let Some(index) = route {
            self.listener.count_route(plan, index);
        }
        let pool = number.and_then(|number| self.worker.pool(&self.listener, number));
        let route = route.map(|index| (index, plan.routes.route(index)));
        let edits = |(_, route): &(usize, &'p Route)| {
            !route.request_headers.is_empty() || !route.response_headers.is_empty()
        };
        let mut added = Vec::new();
        let mut request_edits = None;
        let id = self.worker.request_id();
        if let Some(log) = &plan.log {
            let journal = self.note.journal.get_or_insert_default();
            journal.take_down(log, &view);
            journal.route = route.map(|(index, _)| index);
            journal.request_id = Some(id);
        }
        if let Some((_, route)) = route.filter(edits) {
            let facts = self.facts(plan, &view, id);
            write_fields(&route.response_headers, &facts, &mut added);
            request_edits = Some((&route.request_headers, facts));
        }

        let begun = match (pool, route) {
            (Some(pool), route) => {
                let cookies = pool.plan.cookies.as_ref();
                let now_ms = self.worker.deadlines.now_ms();
                let wanted = cookies
                    .map(|cookies| cookies.wanted(&self.request, head, now_ms))
                    .unwrap_or_default();
                let request_hash = pool.request_hash(&self.request, head);
                let mut out = self.worker.buffers.head();
                let local;
                let fallback = if self.request.authority.is_empty() {
                    local = self.client.local.to_string();
                    local.as_bytes()
                } else {
                    b""
                };
                match route.filter(|(_, route)| !route.rewrite.is_empty()) {
                    None => self.request.write(head, fallback, &mut out),
                    Some((index, route)) => {
                        let mut target = Vec::new();
                        plan.routes.write_target(index, view.target(), &mut target);
                        let replaced = Replaced {
                            target: Some(&target),
                            host: route.rewrite.host.as_ref().map(String::as_bytes),
                        };
                        self.request
                            .write_replaced(head, replaced, fallback, &mut out);
                    }
                }
                self.forwarded.write(&self.request, head, &mut out);
                if let Some((edits, facts)) = request_edits {
                    edits::apply(edits, &facts, &mut out);
                }
                if let Some(cookies) = cookies {
                    cookies.strip(&mut out);
                }
                self.upload.head = out;
                Begun::Pool(ToPool {
                    pool,
                    route: route.map(|(_, route)| route),
                    wanted,
                    request_hash,
                    added,
                })
            }
            (None, Some((index, route))) => match &route.action {
                Action::Redirect(redirect) => {
                    added.extend_from_slice(b"Location: ");
                    plan.routes.write_location(
                        (index, redirect),
                        &view,
                        self.client.local,
                        &mut added,
                    );
                    added.extend_from_slice(b"\r\n");
                    Begun::Here(OwnAnswer {
                        status: redirect.status,
                        fields: added,
                        ..OwnAnswer::default()
                    })
                }
                Action::Answer(answer) => Begun::Here(OwnAnswer {
                    status: answer.status,
                    content_type: answer.content_type.as_deref().or_else(|| {
                        (!answer.body.is_empty()).then_some("text/plain; charset=utf-8")
                    }),
                    body: answer.body.as_bytes(),
                    fields: added,
                }),
                // Its pool is not served any more.
                Action::Pool(_) | Action::Split(_) => Begun::Nothing,
            },
            (None, None) => Begun::Nothing,
        };
        // gRPC is POST, and not spoken over HTTP/1.1.
        self.is_grpc = T::CARRIES_ONE
            && self.request.method == Method::Other
            && self
                .request
                .field(head, "content-type")
                .is_some_and(|value| value.starts_with(b"application/grpc"));
        self.grpc_timeout = None;
        if self.is_grpc {
            let timeout = self.request.field(head, "grpc-timeout");
            self.grpc_timeout = timeout.and_then(grpc::timeout);
        }
        // Over HTTP/2 the key is ours.
        self.accept = None;
        if T::CARRIES_ONE && self.request.upgrade {
            let key = self.request.field(head, "sec-websocket-key");
            self.accept = key.map(websocket::accept);
        }
        self.download.head = self.worker.buffers.head();
        self.buffer.consume(self.request.length);
        // The answer may be long in coming.
        self.worker.buffers.take_back_empty(&mut self.buffer);
        self.upload.begin(self.request.framing, false);
        begun
    }

    /// The pool of a split: the one whose cookie the client has, else by turns.
    fn side(&self, split: &Split, head: &[u8]) -> usize {
        let has_cookie = |number: &usize| {
            let pool = self.worker.pool(&self.listener, *number);
            pool.is_some_and(|pool| {
                let cookies = pool.plan.cookies.as_ref();
                let now_ms = self.worker.deadlines.now_ms();
                cookies.is_some_and(|cookies| {
                    let wanted = cookies.wanted(&self.request, head, now_ms);
                    wanted.backend.is_some()
                })
            })
        };
        split
            .pools()
            .find(has_cookie)
            .unwrap_or_else(|| split.pick(self.worker.turn()))
    }

    /// What the variables of header fields stand for.
    fn facts<'f>(
        &'f self,
        plan: &'f ListenerPlan,
        view: &'f Arrived<'f>,
        request_id: RequestId,
    ) -> Facts<'f> {
        Facts {
            client: self.client.address,
            local: self.client.local,
            scheme: self.client.scheme(),
            method: view.method(),
            authority: view.authority(),
            target: view.target(),
            request_id,
            tls: self.client.tls_facts(),
            listener: plan.listener.name.as_str(),
        }
    }

    /// Answers the request whose head was read.
    async fn answer(&mut self) -> Next {
        self.worker.refresh();
        self.listener.counters().requests.add(1);
        let plan = self.plan();
        let begun = self.begin(&plan);
        if let Some(journal) = &mut self.note.journal {
            journal.plan = Some(Rc::clone(&plan));
        }
        let begun = match begun {
            Begun::Pool(begun) => begun,
            Begun::Here(answer) => return self.answer_here(&answer).await,
            Begun::Nothing => return self.fail(Reason::NoRoute, None).await,
        };
        let limits = [plan.listener.timeouts.request, self.grpc_timeout];
        self.watch.limit(limits.into_iter().flatten().min());
        let counters = begun.pool.counters();
        counters.begin();
        let next = self.try_backends(&plan, &begun).await;
        let took = self.note.head.map_or(Duration::ZERO, |head| head.elapsed());
        counters.end(self.note.tries, self.note.status, took);
        self.watch.limit(None);
        next
    }

    /// Gives the request to a backend, and to another one as often as the pool's policy says.
    async fn try_backends(&mut self, plan: &Rc<HeldPlan>, begun: &ToPool<'_>) -> Next {
        let pool = &begun.pool;
        let removed = begun.route.map(|route| &route.response_headers);
        let policy = &pool.plan.pool.retry;
        let _request = Counted::request(&pool.budget);
        let mut tried = Tried::default();
        loop {
            let now_ms = self.worker.deadlines.now_ms();
            let choice = Choice {
                client: self.client.address,
                request_hash: begun.request_hash,
                first: self.first,
                wanted: begun.wanted.backend,
                excluded: &tried.backends,
                // A backend whose idle connection was dead may be well; one that refuses a connection is not.
                or_excluded: tried
                    .reason
                    .is_some_and(|reason| !reason.is_of_connecting()),
                now_ms,
            };
            let work = match pool.take(&choice, &self.watch).await {
                Ok(work) => work,
                Err(reason) => {
                    let reason = tried.reason.unwrap_or(reason);
                    return self.fail(self.blame(reason), None).await;
                }
            };
            self.note.tries += 1;
            if let Some(journal) = &mut self.note.journal {
                journal.backend = Some(work.backend.id.clone());
            }
            let cookies = pool.plan.cookies.as_ref();
            let mut added = cookies
                .filter(|_| begun.wanted.backend != Some(work.index))
                .and_then(|cookies| cookies.field(work.index, plan.tls.is_some()))
                .unwrap_or_default();
            if !begun.added.is_empty() {
                added.extend_from_slice(&begun.added);
            }
            // After a failure only a new connection shows whether the backend is well.
            let reused = if tried.reason.is_none() {
                work.reuse(now_ms)
            } else {
                None
            };
            let connection = match reused {
                Some(connection) => Ok(connection),
                None => {
                    let timeout = plan.listener.timeouts.connect;
                    work.connect_in_time(&self.watch, timeout, &self.client, &self.worker, now_ms)
                        .await
                }
            };
            let mut connection = match connection {
                Ok(connection) => connection,
                // Another worker took the last place; those that wait come before this one.
                Err(Reason::PoolFull) => match work.reuse(now_ms) {
                    Some(connection) => connection,
                    None => return self.fail(Reason::PoolFull, Some(&work.backend)).await,
                },
                Err(reason) => {
                    let reason = self.blame(reason);
                    self.count_failure(reason, &work);
                    let failed = FailedTry::to_connect(reason);
                    if !tried.may_go_on(&failed, policy, &pool.budget) {
                        return self.fail(reason, Some(&work.backend)).await;
                    }
                    tried.add(work.index, reason);
                    tried.wait(policy).await;
                    continue;
                }
            };
            if tried.reason.is_some() {
                work.backend.counters().retries.add(1);
            }
            if self.note.journal.is_some() {
                self.note.connected = Some(Instant::now());
            }
            let retried = if tried.is_last(policy) || !self.request.method.is_idempotent() {
                RetryOn::default()
            } else {
                policy.on
            };
            let (end, took) = self
                .exchange(
                    plan,
                    &mut connection,
                    (&added, removed),
                    (pool, retried),
                    &work,
                )
                .await;
            self.count_bytes();
            let now_ms = self.worker.deadlines.now_ms();
            match end {
                End::Answered {
                    upstream_goes_on,
                    downstream_goes_on,
                } => {
                    work.answered(self.response.status, took, now_ms);
                    if let Some(cookies) = cookies {
                        cookies.answered(begun.wanted, work.index, now_ms);
                    }
                    self.count_answer(self.response.status);
                    let buffers = &self.worker.buffers;
                    buffers.take_back(&mut connection.buffer);
                    if upstream_goes_on {
                        work.keep(connection, now_ms);
                    }
                    return if downstream_goes_on {
                        Next::Request
                    } else {
                        Next::Linger
                    };
                }
                End::Refused {
                    upstream_goes_on,
                    retry,
                } => {
                    work.answered(self.response.status, took, now_ms);
                    self.worker.buffers.take_back(&mut connection.buffer);
                    if upstream_goes_on {
                        work.keep(connection, now_ms);
                    }
                    self.upload.repeat();
                    tried.add_refused(work.index, retry);
                    work.backend
                        .counters()
                        .count_failure(Reason::UpstreamRefused);
                    drop(work);
                    tried.wait(policy).await;
                }
                End::Upgraded => {
                    work.answered(self.response.status, took, now_ms);
                    self.count_answer(self.response.status);
                    return Next::Tunnel(connection, work);
                }
                End::Failed {
                    reason,
                    answered,
                    nothing_came,
                } => {
                    self.worker.buffers.take_back(&mut connection.buffer);
                    let reason = self.blame(reason);
                    let failed = FailedTry {
                        reason,
                        can_be_repeated: self.upload.can_be_repeated(),
                        nothing_came,
                        // What was not served may be repeated, whatever it is.
                        idempotent: self.request.method.is_idempotent()
                            || connection.io.is_refused(),
                    };
                    // The backend may have closed the connection before it saw the request: that is nobody's failure.
                    let was_dead = (connection.reused || connection.io.is_refused())
                        && failed.is_of_dead_connection();
                    if was_dead {
                        work.backend.counters().count_failure(reason);
                    } else {
                        self.count_failure(reason, &work);
                    }
                    if was_dead && tried.reason.is_none() {
                        self.upload.repeat();
                        tried.add_dead(work.index, reason, &pool.budget);
                        continue;
                    }
                    if !was_dead && tried.may_go_on(&failed, policy, &pool.budget) {
                        self.upload.repeat();
                        tried.add(work.index, reason);
                        drop(work);
                        tried.wait(policy).await;
                        continue;
                    }
                    if answered {
                        self.count(reason, Some(&work.backend));
                        return Next::Abort;
                    }
                    return self.fail(reason, Some(&work.backend)).await;
                }
            }
        }
    }

    /// What a timeout is to be called: where the request as a whole has had its time, it is that.
    fn blame(&self, reason: Reason) -> Reason {
        if reason.is_timeout() && self.watch.is_over_limit() {
            Reason::RequestTimeout
        } else {
            reason
        }
    }

    async fn exchange(
        &mut self,
        plan: &ListenerPlan,
        connection: &mut Connection,
        (added, removed): (&[u8], Option<&HeaderEdits>),
        (pool, retried): (&LocalPool, RetryOn),
        work: &Work,
    ) -> (End, Option<Duration>) {
        let response_header = plan.listener.timeouts.response_header;
        let policy = &pool.plan.pool.retry;
        let mut exchange = Exchange {
            io: &mut self.io,
            buffer: &mut self.buffer,
            connection,
            upload: &mut self.upload,
            download: &mut self.download,
            request: &self.request,
            response: &mut self.response,
            worker: &self.worker,
            watch: &self.watch,
            limits: &plan.listener.limits,
            timeouts: &plan.listener.timeouts,
            listener: &self.listener,
            retried,
            policy,
            budget: &pool.budget,
            response_timeout: policy
                .try_timeout
                .map_or(response_header, |timeout| timeout.min(response_header)),
            began: work.began(),
            added,
            accept: self.accept.as_deref(),
            removed,
            cookies: pool
                .plan
                .cookies
                .as_ref()
                .map(|cookies| (cookies, work.index)),
            first_byte: self
                .note
                .journal
                .is_some()
                .then_some(&mut self.note.first_byte),
            state: State::default(),
        };
        let end = poll_fn(|cx| exchange.poll(cx)).await;
        (end, exchange.state.took)
    }

    /// Whether the connection ends after the request that is under way.
    fn is_closing(&self) -> bool {
        self.listener.is_closing() || self.worker.draining.get()
    }

    fn plan(&self) -> Rc<HeldPlan> {
        Rc::clone(&self.listener.plan.borrow())
    }

    fn count_bytes(&mut self) {
        let bytes_in = std::mem::take(&mut self.upload.moved);
        let bytes_out = std::mem::take(&mut self.download.moved);
        self.listener.counters().bytes_in.add(bytes_in);
        self.listener.counters().bytes_out.add(bytes_out);
        self.note.bytes_in += bytes_in;
        self.note.bytes_out += bytes_out;
    }

    /// Counts an answer that was sent, as far as the client took it.
    fn count_answer(&mut self, status: u16) {
        self.listener.counters().count_answer(status);
        self.note.status = status;
    }

    /// Writes the line of the request that has ended.
    fn write_line(&self) {
        let protocol = protocol::<T>(&self.request);
        write_line(
            &self.worker,
            &self.listener,
            &self.client,
            protocol,
            &self.note,
        );
    }

    /// Counts a failure of a backend.
    fn count_failure(&self, reason: Reason, work: &Work) {
        if reason.side() == Side::Upstream {
            work.backend.counters().count_failure(reason);
        }
        if reason.is_backends() {
            work.failed(self.worker.deadlines.now_ms());
        }
    }

    /// Counts and logs a failed request.
    fn count(&mut self, reason: Reason, backend: Option<&LocalBackend>) {
        self.note.reason = Some(reason);
        self.listener.counters().count_error(reason);
        if !self.worker.may_log() {
            return;
        }
        let listener = &self.listener.plan.borrow().listener.name;
        let backend = backend.map(|backend| tracing::field::display(&backend.id));
        let client = self.client.address;
        if reason.side() == Side::Downstream {
            tracing::debug!(%listener, %client, backend, %reason, "request failed");
        } else {
            tracing::warn!(%listener, %client, backend, %reason, "request failed");
        }
    }

    /// Ends a request whose answer has not begun.
    async fn fail(&mut self, reason: Reason, backend: Option<&LocalBackend>) -> Next {
        // The client has its own time to take the answer.
        self.watch.limit(None);
        self.count(reason, backend);
        if reason.side() != Side::Downstream {
            let status = reason.status();
            let body = format!("{status} {}: {reason}\n", phrase(status));
            return self.answer_here(&OwnAnswer::text(status, &body)).await;
        }
        if reason.status() == 0 {
            return Next::Close;
        }
        self.refuse(reason).await
    }

    /// Answers a request by ourselves. The connection goes on where nothing else of the request is to come.
    async fn answer_here(&mut self, answer: &OwnAnswer<'_>) -> Next {
        let bodiless = self.request.framing == Framing::None;
        if !bodiless || !self.request.keep_alive || self.is_closing() {
            return if self.send_answer(answer, "Connection: close\r\n").await {
                Next::Linger
            } else {
                Next::Close
            };
        }
        let told = if self.request.version == Version::Http10 {
            "Connection: keep-alive\r\n"
        } else {
            ""
        };
        if self.send_answer(answer, told).await {
            Next::Request
        } else {
            Next::Close
        }
    }

    /// Tells the client why its request is refused, and that the connection ends.
    async fn refuse(&mut self, reason: Reason) -> Next {
        let status = reason.status();
        let body = format!("{status} {}: {reason}\n", phrase(status));
        let answer = OwnAnswer::text(status, &body);
        if self.send_answer(&answer, "Connection: close\r\n").await {
            Next::Linger
        } else {
            Next::Close
        }
    }

    /// Sends an answer of our own; `false` where the client does not take it.
    async fn send_answer(&mut self, answer: &OwnAnswer<'_>, connection_field: &str) -> bool {
        let status = answer.status;
        let told;
        let answer = if self.is_grpc && status >= 400 {
            told = OwnAnswer::grpc(status, self.note.reason);
            &told
        } else {
            answer
        };
        answer.write(
            connection_field,
            self.request.method == Method::Head,
            &mut self.download.head,
        );
        let plan = self.plan();
        self.watch.arm(plan.listener.timeouts.idle, Phase::Busy);
        let mut sent = 0;
        let Self {
            io,
            download,
            watch,
            ..
        } = self;
        let written = poll_fn(|cx| {
            while sent < download.head.len() {
                match io.poll_write(cx, &[IoSlice::new(&download.head[sent..])]) {
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending if watch.is_expired() => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match io.poll_flush(cx) {
                Poll::Ready(result) => Poll::Ready(result.is_ok()),
                Poll::Pending if watch.is_expired() => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        });
        let written = written.await;
        self.listener.counters().bytes_out.add(sent as u64);
        self.note.bytes_out += sent as u64;
        self.count_answer(status);
        if !written && self.note.reason.is_none() {
            self.note.reason = Some(Reason::DownstreamClosed);
        }
        written
    }

    /// Ends the connection in order.
    async fn close(&mut self) {
        self.watch.arm(LINGER, Phase::Busy);
        let Self { io, watch, .. } = self;
        poll_fn(|cx| match io.poll_shutdown(cx) {
            Poll::Pending if !watch.is_expired() => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }

    /// Ends the connection in order, and reads for a while what the client still sends: closing with unread bytes
    /// resets the connection, and the client would lose the answer (RFC 9112, section 9.6).
    async fn linger(&mut self) {
        self.close().await;
        let mut read = 0;
        let Self {
            io,
            watch,
            buffer,
            worker,
            ..
        } = self;
        poll_fn(|cx| {
            loop {
                buffer.consume(buffer.len());
                match io.poll_read(cx, buffer, &worker.buffers) {
                    Poll::Ready(Ok(count)) if count > 0 && read + count < LINGER_BYTES_MAX => {
                        read += count;
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if watch.is_expired() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

/// What a request has come in.
fn protocol<T: Transport>(request: &RequestHead) -> &'static str {
    match request.version {
        _ if T::CARRIES_ONE => "HTTP/2",
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    }
}

/// Writes the line of a request that has ended, where its listener has an access log.
fn write_line(
    worker: &Worker,
    listener: &LocalListener,
    client: &Client,
    protocol: &'static str,
    note: &Note,
) {
    let kept = note.journal.as_ref();
    let kept = kept.and_then(|journal| journal.plan.clone());
    let plan = kept.unwrap_or_else(|| Rc::clone(&listener.plan.borrow()));
    let Some(log) = &plan.log else { return };
    let about = About {
        plan: &plan,
        client,
        protocol: if note.head.is_some() {
            protocol
        } else {
            client.scheme()
        },
        sni: None,
    };
    worker.lines.write(log, &note.record(&about));
}

/// Whether an empty line ends within the bytes behind `scanned`. Bare LFs count: they are refused by the parser.
fn may_be_complete(bytes: &[u8], scanned: usize) -> bool {
    let from = scanned.saturating_sub(3);
    memchr::memchr_iter(b'\n', &bytes[from..])
        .any(|lf| matches!(&bytes[from + lf + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

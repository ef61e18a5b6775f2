//! Bytes both ways, until both ways have ended: upgraded connections, TCP proxying, and TLS that is not opened.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::access_log::{About, Note};
use crate::buffer::Buffer;
use crate::client::Client;
use crate::codec::client_hello::{self, Hello};
use crate::codec::h1::Framing;
use crate::deadlines::{Phase, Watch};
use crate::errors::{Reason, Side};
use crate::listener::LocalListener;
use crate::plan::HeldPlan;
use crate::relay::{Failure, Relay};
use crate::retry::{Counted, FailedTry, Tried};
use crate::routing::{Bare, Found, Target};
use crate::transport::{Plain, Transport};
use crate::upstream::{Choice, Connection, LocalBackend, Work};
use crate::worker::Worker;

/// One direction: bytes, then the end, which is passed on while the other direction goes on (half-close).
struct Direction {
    relay: Relay,
    bytes_over: bool,
    over: bool,
}

impl Direction {
    fn new() -> Self {
        let mut relay = Relay::default();
        relay.begin(Framing::UntilClose, false);
        Self {
            relay,
            bytes_over: false,
            over: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Transport,
        buffer: &mut Buffer,
        sink: &mut impl Transport,
        worker: &Worker,
    ) -> Result<(), Failure> {
        if !self.bytes_over {
            match self.relay.poll(cx, source, buffer, sink, &worker.buffers) {
                Poll::Pending => {
                    // A silent direction needs no memory.
                    if buffer.is_empty() {
                        worker.buffers.take_back(buffer);
                    }
                    return Ok(());
                }
                Poll::Ready(result) => result?,
            }
            self.bytes_over = true;
        }
        if !self.over && sink.poll_shutdown(cx).is_ready() {
            self.over = true;
        }
        Ok(())
    }
}

/// What a tunnel has moved, and why it ended, if not in order.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) reason: Option<Reason>,
}

impl Relayed {
    /// Adds it to what there is to say of the connection.
    pub(crate) fn note(&self, note: &mut Note) {
        note.bytes_in += self.bytes_in;
        note.bytes_out += self.bytes_out;
        note.reason = note.reason.or(self.reason);
    }
}

/// Relays bytes both ways. `buffer` holds what the client has already sent.
pub(crate) async fn relay<T: Transport>(
    worker: &Worker,
    listener: &LocalListener,
    mut io: T,
    mut buffer: Buffer,
    mut connection: Connection,
    watch: &Watch,
) -> Relayed {
    let timeout = listener.plan.borrow().listener.timeouts.tunnel;
    watch.arm(timeout, Phase::Busy);
    let mut up = Direction::new();
    let mut down = Direction::new();
    let mut relayed = Relayed::default();
    let counters = listener.counters();
    let result = poll_fn(|cx| {
        if let Err(failure) = up.poll(cx, &mut io, &mut buffer, &mut connection.io, worker) {
            return Poll::Ready(Err(match failure {
                Failure::Write => Reason::UpstreamClosed,
                _ => Reason::DownstreamClosed,
            }));
        }
        let Connection {
            io: upstream,
            buffer: upstream_buffer,
            ..
        } = &mut connection;
        if let Err(failure) = down.poll(cx, upstream, upstream_buffer, &mut io, worker) {
            return Poll::Ready(Err(match failure {
                Failure::Write => Reason::DownstreamClosed,
                _ => Reason::UpstreamClosed,
            }));
        }
        // Counted as they go: a tunnel may live for days.
        let total = up.relay.moved + down.relay.moved;
        if total != 0 {
            let moved_in = std::mem::take(&mut up.relay.moved);
            let moved_out = std::mem::take(&mut down.relay.moved);
            counters.bytes_in.add(moved_in);
            counters.bytes_out.add(moved_out);
            relayed.bytes_in += moved_in;
            relayed.bytes_out += moved_out;
            watch.arm(timeout, Phase::Busy);
        }
        if up.over && down.over {
            return Poll::Ready(Ok(()));
        }
        if watch.is_expired() {
            Poll::Ready(Err(Reason::TunnelIdle))
        } else {
            Poll::Pending
        }
    })
    .await;
    if let Err(reason) = result {
        relayed.reason = Some(reason);
        counters.count_error(reason);
        tracing::debug!(listener = %listener.plan.borrow().listener.name, %reason, bytes = relayed.bytes_in + relayed.bytes_out, "tunnel failed");
        // The other side shall see that this was no orderly end.
        io.abort();
        connection.io.abort();
    }
    worker.buffers.take_back(&mut buffer);
    worker.buffers.take_back(&mut connection.buffer);
    relayed
}

/// Serves a connection of a `tcp` listener.
pub(crate) async fn serve_tcp(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    watch: Watch,
    io: Plain,
    client: Client,
) {
    worker.refresh();
    let mut passage = Passage::begin(worker, listener, client, "tcp");
    let pool = passage.plan.default_pool();
    passage
        .connect_and_relay(&watch, io, Buffer::default(), pool)
        .await;
    passage.write_line(None);
}

/// Serves a connection of a `tls` listener: reads the server name out of the ClientHello, which is then passed on.
pub(crate) async fn serve_tls(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    watch: Watch,
    mut io: Plain,
    client: Client,
) {
    let timeout = listener.plan.borrow().listener.timeouts.request_header;
    watch.arm(timeout, Phase::Busy);
    let began = Instant::now();
    let mut buffer = Buffer::default();
    let name = poll_fn(|cx| {
        loop {
            if !buffer.is_empty() {
                match client_hello::server_name(buffer.filled()) {
                    Hello::Name(name) => return Poll::Ready(Ok(Some(name))),
                    Hello::NoName => return Poll::Ready(Ok(None)),
                    Hello::Partial if buffer.len() < buffer.capacity() => {}
                    Hello::Partial | Hello::Invalid => {
                        return Poll::Ready(Err(Reason::BadClientHello));
                    }
                }
            }
            match io.poll_read(cx, &mut buffer, &worker.buffers) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Reason::DownstreamClosed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if watch.is_expired() => {
                    return Poll::Ready(Err(Reason::HeadTimeout));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    worker.refresh();
    let mut passage = Passage::begin(worker, listener, client, "tls");
    passage.note.began = Some(began);
    match name {
        Ok(name) => {
            let host = name.unwrap_or_default();
            let request = Bare {
                name: host.as_bytes(),
                client: passage.client.address.ip(),
            };
            let plan = Rc::clone(&passage.plan);
            let (route, pool) = match plan.routes.find(&request) {
                Found::Route(index, Target::Pool(pool)) => (Some(index), Some(*pool)),
                Found::Route(index, Target::Split(split)) => {
                    (Some(index), Some(split.pick(passage.worker.turn())))
                }
                Found::Default(pool) => (None, Some(pool)),
                Found::Route(_, Target::Here) | Found::Nothing => (None, None),
            };
            if let Some(index) = route {
                passage.listener.count_route(&plan, index);
            }
            if let Some(journal) = &mut passage.note.journal {
                journal.route = route;
            }
            passage.connect_and_relay(&watch, io, buffer, pool).await;
            passage.write_line(Some(&host));
        }
        Err(reason) => {
            passage.failed(None, reason);
            passage.worker.buffers.take_back(&mut buffer);
            passage.write_line(None);
        }
    }
}

/// A connection that is passed on unopened, and what there is to say of it when it has ended.
struct Passage {
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    /// What was in force when it came.
    plan: Rc<HeldPlan>,
    client: Client,
    protocol: &'static str,
    note: Note,
}

impl Passage {
    fn begin(
        worker: Rc<Worker>,
        listener: Rc<LocalListener>,
        client: Client,
        protocol: &'static str,
    ) -> Self {
        let plan = Rc::clone(&listener.plan.borrow());
        let is_logged = plan.log.is_some();
        Self {
            worker,
            listener,
            plan,
            client,
            protocol,
            note: Note {
                began: is_logged.then(Instant::now),
                journal: is_logged.then(Box::default),
                ..Note::default()
            },
        }
    }

    fn write_line(&mut self, sni: Option<&str>) {
        let Some(log) = &self.plan.log else { return };
        let about = About {
            plan: &self.plan,
            client: &self.client,
            protocol: self.protocol,
            sni,
        };
        self.worker.lines.write(log, &self.note.record(&about));
    }

    async fn connect_and_relay(
        &mut self,
        watch: &Watch,
        mut io: Plain,
        mut buffer: Buffer,
        pool: Option<usize>,
    ) {
        match self.connect(watch, pool).await {
            Ok((connection, work)) => {
                let relayed = relay(&self.worker, &self.listener, io, buffer, connection, watch);
                relayed.await.note(&mut self.note);
                drop(work);
            }
            Err((reason, backend)) => {
                self.failed(backend.as_deref(), reason);
                self.worker.buffers.take_back(&mut buffer);
                io.abort();
            }
        }
    }

    /// A connection to a backend of the pool; to another one where the first fails, as often as the pool's policy says.
    async fn connect(
        &mut self,
        watch: &Watch,
        pool: Option<usize>,
    ) -> Result<(Connection, Work), (Reason, Option<Rc<LocalBackend>>)> {
        let Self {
            worker,
            listener,
            client,
            note,
            ..
        } = self;
        let Some(pool) = pool.and_then(|number| worker.pool(listener, number)) else {
            return Err((Reason::NoRoute, None));
        };
        let timeout = listener.plan.borrow().listener.timeouts.connect;
        let policy = &pool.plan.pool.retry;
        let _request = Counted::request(&pool.budget);
        let mut failed: Option<(Rc<LocalBackend>, Reason)> = None;
        let mut tried = Tried::default();
        loop {
            let now_ms = worker.deadlines.now_ms();
            let choice = Choice {
                excluded: &tried.backends,
                ..Choice::of(client.address, now_ms)
            };
            let work = match pool.take(&choice, watch).await {
                Ok(work) => work,
                Err(reason) => {
                    return Err(
                        failed.map_or((reason, None), |(backend, reason)| (reason, Some(backend)))
                    );
                }
            };
            note.tries += 1;
            if let Some(journal) = &mut note.journal {
                journal.backend = Some(work.backend.id.clone());
            }
            let connection = work
                .connect_in_time(watch, timeout, client, worker, now_ms)
                .await;
            match connection {
                Ok(connection) => {
                    if note.journal.is_some() {
                        note.head = note.began;
                        note.connected = Some(Instant::now());
                    }
                    work.answered(200, None, worker.deadlines.now_ms());
                    if failed.is_some() {
                        work.backend.counters().retries.add(1);
                    }
                    return Ok((connection, work));
                }
                Err(reason) => {
                    if reason.is_backends() {
                        work.failed(worker.deadlines.now_ms());
                    }
                    if reason.side() == Side::Upstream {
                        work.backend.counters().count_failure(reason);
                    }
                    let failed_try = FailedTry::to_connect(reason);
                    if !tried.may_go_on(&failed_try, policy, &pool.budget) {
                        return Err((reason, Some(Rc::clone(&work.backend))));
                    }
                    tried.add(work.index, reason);
                    failed = Some((Rc::clone(&work.backend), reason));
                    drop(work);
                    tried.wait(policy).await;
                }
            }
        }
    }

    fn failed(&mut self, backend: Option<&LocalBackend>, reason: Reason) {
        self.note.reason = Some(reason);
        let Self {
            worker,
            listener,
            client,
            ..
        } = self;
        listener.counters().count_error(reason);
        if !worker.may_log() {
            return;
        }
        let backend = backend.map(|backend| tracing::field::display(&backend.id));
        let listener = &listener.plan.borrow().listener.name;
        let client = client.address;
        if reason.side() == Side::Downstream {
            tracing::debug!(%listener, %client, backend, %reason, "connection failed");
        } else {
            tracing::warn!(%listener, %client, backend, %reason, "connection failed");
        }
    }
}

//! Bytes both ways, until both ways have ended: upgraded connections, TCP proxying, and TLS that is not opened.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::buffer::Buffer;
use crate::client::Client;
use crate::codec::client_hello::{self, Hello};
use crate::codec::h1::Framing;
use crate::deadlines::{Phase, Watch};
use crate::errors::{Reason, Side};
use crate::listener::LocalListener;
use crate::relay::{Failure, Relay};
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

/// Relays bytes both ways. `buffer` holds what the client has already sent.
pub(crate) async fn relay<T: Transport>(
    worker: &Worker,
    listener: &LocalListener,
    mut io: T,
    mut buffer: Buffer,
    mut connection: Connection,
    watch: &Watch,
) {
    let timeout = listener.plan.borrow().listener.timeouts.tunnel;
    watch.arm(timeout, Phase::Busy);
    let mut up = Direction::new();
    let mut down = Direction::new();
    let mut moved = 0;
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
            moved += total;
            counters.bytes_in.add(std::mem::take(&mut up.relay.moved));
            counters
                .bytes_out
                .add(std::mem::take(&mut down.relay.moved));
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
        counters.count_error(reason);
        tracing::debug!(listener = %listener.plan.borrow().listener.name, %reason, bytes = moved, "tunnel failed");
        // The other side shall see that this was no orderly end.
        io.abort();
        connection.io.abort();
    }
    worker.buffers.take_back(&mut buffer);
    worker.buffers.take_back(&mut connection.buffer);
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
    let pool = listener.plan.borrow().default_pool();
    connect_and_relay(
        &worker,
        &listener,
        &watch,
        io,
        Buffer::default(),
        &client,
        pool,
    )
    .await;
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
    match name {
        Ok(name) => {
            let host = name.unwrap_or_default();
            let request = Bare {
                name: host.as_bytes(),
                client: client.address.ip(),
            };
            let pool = match listener.plan.borrow().routes.find(&request) {
                Found::Route(_, Target::Pool(pool)) => Some(*pool),
                Found::Default(pool) => Some(pool),
                Found::Route(_, Target::Split(split)) => Some(split.pick(worker.turn())),
                Found::Route(_, Target::Here) | Found::Nothing => None,
            };
            connect_and_relay(&worker, &listener, &watch, io, buffer, &client, pool).await;
        }
        Err(reason) => {
            failed(&worker, &listener, &client, None, reason);
            worker.buffers.take_back(&mut buffer);
        }
    }
}

async fn connect_and_relay(
    worker: &Worker,
    listener: &LocalListener,
    watch: &Watch,
    mut io: Plain,
    mut buffer: Buffer,
    client: &Client,
    pool: Option<usize>,
) {
    match connect(worker, listener, watch, client, pool).await {
        Ok((connection, work)) => {
            relay(worker, listener, io, buffer, connection, watch).await;
            drop(work);
        }
        Err((reason, work)) => {
            failed(
                worker,
                listener,
                client,
                work.as_ref().map(|work| &*work.backend),
                reason,
            );
            worker.buffers.take_back(&mut buffer);
            io.abort();
        }
    }
}

/// A connection to a backend of the pool; to another one where the first fails, once.
async fn connect(
    worker: &Worker,
    listener: &LocalListener,
    watch: &Watch,
    client: &Client,
    pool: Option<usize>,
) -> Result<(Connection, Work), (Reason, Option<Work>)> {
    let Some(pool) = pool.and_then(|number| worker.pool(listener, number)) else {
        return Err((Reason::NoRoute, None));
    };
    let timeout = listener.plan.borrow().listener.timeouts.connect;
    let mut failed: Option<(Work, Reason)> = None;
    loop {
        let excluded = failed.as_ref().map(|(work, _)| &*work.backend);
        let Some(work) = pool.pick(&Choice {
            excluded,
            ..Choice::of(client.address, worker.deadlines.now_ms())
        }) else {
            return Err(failed.map_or((Reason::NoBackend, None), |(work, reason)| {
                (reason, Some(work))
            }));
        };
        match work
            .backend
            .connect_in_time(watch, timeout, client, &worker.buffers)
            .await
        {
            Ok(connection) => {
                if failed.is_some() {
                    work.backend.counters().retries.add(1);
                }
                return Ok((connection, work));
            }
            Err(reason) => {
                if reason.side() == Side::Upstream {
                    work.backend.counters().count_failure(reason);
                }
                if failed.is_some() {
                    return Err((reason, Some(work)));
                }
                failed = Some((work, reason));
            }
        }
    }
}

fn failed(
    worker: &Worker,
    listener: &LocalListener,
    client: &Client,
    backend: Option<&LocalBackend>,
    reason: Reason,
) {
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

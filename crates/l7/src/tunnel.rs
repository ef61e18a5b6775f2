//! Bytes both ways, until both ways have ended: upgraded connections and TCP proxying.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::buffer::Buffer;
use crate::codec::h1::Framing;
use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::listener::LocalListener;
use crate::relay::{Failure, Relay};
use crate::transport::Transport;
use crate::upstream::Connection;
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
        Self { relay, bytes_over: false, over: false }
    }

    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
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

/// Relays an upgraded connection. `buffer` holds what the client has already sent.
pub(crate) async fn upgraded<T: Transport>(
    worker: &Rc<Worker>,
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
    let result = poll_fn(|cx| {
        if let Err(failure) = up.poll(cx, &mut io, &mut buffer, &mut connection.io, worker) {
            return Poll::Ready(Err(match failure {
                Failure::Write(_) => Reason::UpstreamClosed,
                _ => Reason::DownstreamClosed,
            }));
        }
        let Connection { io: upstream, buffer: upstream_buffer, .. } = &mut connection;
        if let Err(failure) = down.poll(cx, upstream, upstream_buffer, &mut io, worker) {
            return Poll::Ready(Err(match failure {
                Failure::Write(_) => Reason::DownstreamClosed,
                _ => Reason::UpstreamClosed,
            }));
        }
        if up.over && down.over {
            return Poll::Ready(Ok(()));
        }
        if up.relay.moved + down.relay.moved != moved {
            moved = up.relay.moved + down.relay.moved;
            watch.arm(timeout, Phase::Busy);
        }
        if watch.is_expired() { Poll::Ready(Err(Reason::TunnelIdle)) } else { Poll::Pending }
    })
    .await;
    let counters = listener.counters();
    counters.bytes_in.add(up.relay.moved);
    counters.bytes_out.add(down.relay.moved);
    if let Err(reason) = result {
        counters.count_error(reason);
        // The other side shall see that this was no orderly end.
        io.abort();
        connection.io.abort();
    }
    worker.buffers.take_back(&mut buffer);
    worker.buffers.take_back(&mut connection.buffer);
}

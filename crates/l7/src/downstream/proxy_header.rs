//! The PROXY header at the beginning of a connection, on listeners that are behind another proxy.

use std::future::poll_fn;
use std::task::Poll;

use weir_model::ProxyProtocolIn;

use crate::buffer::Buffer;
use crate::client::Client;
use crate::codec::proxy_protocol::{self, Header, Progress};
use crate::deadlines::Watch;
use crate::errors::Reason;
use crate::transport::Plain;
use crate::worker::Worker;

/// Reads the header and nothing behind it; the client of the connection is then who it names. Whoever is not believed is
/// refused unread: what it says about its client is worth nothing, and to take its own address for the client's would
/// let it pass for one.
pub(super) async fn read(
    rules: &ProxyProtocolIn,
    io: &mut Plain,
    watch: &Watch,
    worker: &Worker,
    client: &mut Client,
) -> Result<(), Reason> {
    let peer = client.address.ip();
    if !rules.from.iter().any(|range| range.contains(peer)) {
        return Err(Reason::UntrustedProxy);
    }
    let mut buffer = Buffer::default();
    let read = look(io, watch, worker, &mut buffer).await;
    worker.buffers.take_back(&mut buffer);
    if let Header::Of {
        source,
        destination,
    } = read?
    {
        client.address = source;
        client.local = destination;
    }
    Ok(())
}

/// Looks at what has come until the header is whole, and takes it off.
async fn look(
    io: &mut Plain,
    watch: &Watch,
    worker: &Worker,
    buffer: &mut Buffer,
) -> Result<Header, Reason> {
    let mut seen = 0;
    let (header, mut length) = poll_fn(|cx| {
        loop {
            worker.buffers.lend(buffer);
            let window = buffer.spare();
            let room = window.len().min(proxy_protocol::HEADER_BYTES_MAX);
            match io.poll_peek(cx, &mut window[..room], seen) {
                Poll::Ready(Ok(count)) => match proxy_protocol::parse(&window[..count])? {
                    Progress::Complete { header, length } => {
                        return Poll::Ready(Ok((header, length)));
                    }
                    Progress::Partial => seen = count,
                },
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::DownstreamClosed)),
                Poll::Pending if watch.is_expired() => {
                    return Poll::Ready(Err(Reason::HeadTimeout));
                }
                Poll::Pending => {
                    worker.buffers.take_back(buffer);
                    return Poll::Pending;
                }
            }
        }
    })
    .await?;
    while length > 0 {
        let taken = poll_fn(|cx| io.poll_take(cx, &mut buffer.spare()[..length])).await;
        match taken {
            Ok(count) if count > 0 => length -= count,
            _ => return Err(Reason::DownstreamClosed),
        }
    }
    Ok(header)
}

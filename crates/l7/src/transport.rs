//! What carries bytes: the seam between the engine and the way it reaches its peers. Kernel sockets and TLS over
//! them now; nothing above knows which.

use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::{Buffer, BufferPool};
use crate::h2::StreamIo;
use crate::tls::Tls;

/// A stream of bytes to and from one peer. Reads and writes are tried at once; a caller waits only when told to.
pub(crate) trait Transport {
    /// It ends with the one message that it carries each way, as a stream of HTTP/2 does.
    const CARRIES_ONE: bool = false;

    /// Reads into `buffer`, which is lent from `pool` only when there is something to read. 0 is the end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<io::Result<usize>>;

    /// Takes bytes to be sent, and says how many.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Sends what was taken and is held back.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that no more bytes will come; reading goes on.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready where the peer of a connection has closed while it was our turn. What comes instead is kept in `buffer`;
    /// while something is in it, nobody looks. Of a stream of a connection [`Self::is_gone`] tells.
    fn poll_closed(
        &mut self,
        _cx: &mut Context<'_>,
        _buffer: &mut Buffer,
        _pool: &BufferPool,
    ) -> Poll<()> {
        Poll::Pending
    }

    /// Whether it is a connection of its own.
    fn is_connection(&self) -> bool {
        false
    }

    /// Makes the end of the connection look like what it is when it is dropped now: a failure.
    fn abort(&mut self);

    /// Whether the peer has given up what is under way, as far as it is known without reading.
    fn is_gone(&self) -> bool {
        false
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
}

impl Plain {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Whether nothing has come and the peer has not closed, as far as epoll has told: no system call.
    pub(crate) fn is_quiet(&self) -> bool {
        self.stream.try_io(Interest::READABLE, || Ok(())).is_err()
    }

    /// Shows the bytes that have come without taking them; only when there are more than `seen`, or none will come
    /// any more.
    pub(crate) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        target: &mut [u8],
        seen: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut bytes = ReadBuf::new(target);
            let count = ready!(self.stream.poll_peek(cx, &mut bytes))?;
            if count > seen {
                return Poll::Ready(Ok(count));
            }
            ready!(self.stream.poll_read_ready(cx))?;
            // What was seen is still there, so the socket counts as readable: it counts anew from the next byte on, or
            // once the peer has closed, which stays.
            let _ = self.stream.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
            if self.stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads at most as much as `target` holds.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.try_read(target) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// One read. One that does not fill its target has emptied the socket: the next waits for epoll without asking
    /// the kernel first (epoll(7), "Possible pitfalls", on edge-triggered stream sockets).
    pub(crate) fn try_read(&self, target: &mut [u8]) -> io::Result<usize> {
        let mut count = None;
        let tried = self.stream.try_io(Interest::READABLE, || {
            let read = (&*SockRef::from(&self.stream)).read(target)?;
            count = Some(read);
            if read == 0 || read == target.len() {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
        match (count, tried) {
            (Some(count), _) => Ok(count),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// What [`Transport::poll_closed`] is for connections.
pub(crate) fn poll_closed(
    io: &mut impl Transport,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
    pool: &BufferPool,
) -> Poll<()> {
    if !buffer.is_empty() {
        return Poll::Pending;
    }
    match io.poll_read(cx, buffer, pool) {
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
        Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
    }
}

impl Transport for Plain {
    fn poll_closed(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<()> {
        poll_closed(self, cx, buffer, pool)
    }

    fn is_connection(&self) -> bool {
        true
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            pool.lend(buffer);
            match self.try_read(buffer.spare()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let tried = self.stream.try_io(Interest::WRITABLE, || {
                let socket = SockRef::from(&self.stream);
                match parts {
                    [part] => (&*socket).write(part),
                    parts => (&*socket).write_vectored(parts),
                }
            });
            match tried {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write))
    }

    fn abort(&mut self) {
        // Without lingering, close(2) sends a reset. Where that cannot be had, the peer sees an ordinary end.
        let _ = SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// In clear.
    Plain(Plain),
    /// Over TLS.
    Tls(Box<Tls<ClientConnection>>),
    /// A stream of a connection that others share.
    Http2(StreamIo),
}

impl Upstream {
    /// Whether nothing has come that someone would have to read, and the peer has not closed.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(io) => io.is_quiet(),
            Self::Tls(io) => io.is_quiet(),
            Self::Http2(_) => true,
        }
    }

    /// Whether the backend has said that it did not serve the request.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Http2(io) if io.is_refused())
    }
}

impl Transport for Upstream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(io) => io.poll_read(cx, buffer, pool),
            Self::Tls(io) => io.poll_read(cx, buffer, pool),
            Self::Http2(io) => io.poll_read(cx, buffer, pool),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(io) => io.poll_write(cx, parts),
            Self::Tls(io) => io.poll_write(cx, parts),
            Self::Http2(io) => io.poll_write(cx, parts),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => io.poll_flush(cx),
            Self::Tls(io) => io.poll_flush(cx),
            Self::Http2(io) => io.poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => io.poll_shutdown(cx),
            Self::Tls(io) => io.poll_shutdown(cx),
            Self::Http2(io) => io.poll_shutdown(cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Plain(io) => io.abort(),
            Self::Tls(io) => io.abort(),
            Self::Http2(io) => io.abort(),
        }
    }
}

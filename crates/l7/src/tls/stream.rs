//! A TLS connection as a transport: rustls over a socket, with the worker's buffers.

use std::io::{self, IoSlice, Read, Write};
use std::ops::DerefMut;
use std::task::{Context, Poll, ready};

use rustls::{ConnectionCommon, IoState, SideData};

use crate::buffer::{Buffer, BufferPool};
use crate::transport::{self, Plain, Transport};

/// Bytes of plaintext that are encrypted ahead of the socket: one record of the largest size, and its like.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// A TLS connection.
#[derive(Debug)]
pub(crate) struct Tls<S> {
    io: Plain,
    session: Box<S>,
    /// Records that were read from the socket and not yet given to the session.
    records: Buffer,
    /// The session holds plaintext.
    readable: bool,
}

/// A connection whose session is elsewhere.
pub(super) struct Parts {
    io: Plain,
    records: Buffer,
}

impl Parts {
    pub(super) fn with<S>(self, session: Box<S>) -> Tls<S> {
        Tls {
            io: self.io,
            session,
            records: self.records,
            readable: false,
        }
    }
}

impl<S> Tls<S> {
    /// The session of the protocol.
    pub(crate) fn session(&self) -> &S {
        &self.session
    }

    pub(super) fn take_apart(self) -> (Parts, Box<S>) {
        let parts = Parts {
            io: self.io,
            records: self.records,
        };
        (parts, self.session)
    }
}

impl<S, D> Tls<S>
where
    S: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    pub(super) fn new(io: Plain, session: S) -> Self {
        Self::with_records(io, session, Buffer::default())
    }

    /// A connection of which records have been read.
    pub(super) fn with_records(io: Plain, mut session: S, records: Buffer) -> Self {
        session.set_buffer_limit(Some(AHEAD_BYTES_MAX));
        Self {
            io,
            session: Box::new(session),
            records,
            readable: false,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Goes on with the handshake.
    pub(super) fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        pool: &BufferPool,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.session.wants_write() {
                ready!(self.poll_flush(cx))?;
            }
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_records(cx, pool))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Gives records to the session and has it take them in. 0 is the end of the connection.
    fn poll_records(&mut self, cx: &mut Context<'_>, pool: &BufferPool) -> Poll<io::Result<usize>> {
        let taken = ready!(self.poll_fill(cx, pool))?;
        if taken > 0 {
            let processed = self.session.process_new_packets();
            if processed.is_err() {
                // The alert that says why; whether it arrives makes no difference any more.
                let _ = self.poll_flush(cx);
            }
            self.processed(processed)?;
        }
        Poll::Ready(Ok(taken))
    }

    /// Gives records to the session, read from the socket where none are left. 0 is the end of the connection.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pool: &BufferPool,
    ) -> Poll<io::Result<usize>> {
        if self.records.is_empty() {
            let Poll::Ready(read) = self.io.poll_read(cx, &mut self.records, pool) else {
                pool.take_back(&mut self.records);
                return Poll::Pending;
            };
            if read? == 0 {
                pool.take_back(&mut self.records);
                self.session.read_tls(&mut io::empty())?;
                return Poll::Ready(Ok(0));
            }
        }
        let taken = self.session.read_tls(&mut self.records.filled())?;
        self.records.consume(taken);
        if self.records.is_empty() {
            // An idle connection needs no memory, and nobody can tell when the next bytes come.
            pool.take_back(&mut self.records);
        }
        Poll::Ready(Ok(taken))
    }

    /// Notes what came out of the records that the session was given.
    pub(super) fn processed(
        &mut self,
        processed: Result<IoState, rustls::Error>,
    ) -> io::Result<()> {
        match processed {
            Ok(state) => {
                self.readable = state.plaintext_bytes_to_read() > 0;
                Ok(())
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Whether no plaintext has come and the peer has not closed. Records of the protocol itself, as the tickets that
    /// come after a handshake, are taken in on the way.
    pub(crate) fn is_quiet(&mut self) -> bool {
        while !self.io.is_quiet() {
            let quiet = match self.session.read_tls(&mut Source(&self.io)) {
                Ok(0) => false,
                Ok(_) => self.session.process_new_packets().is_ok_and(|state| {
                    state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed()
                }),
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            if !quiet {
                return false;
            }
        }
        let is_empty = |state: IoState| state.plaintext_bytes_to_read() == 0;
        self.records.is_empty() && self.session.process_new_packets().is_ok_and(is_empty)
    }
}

/// A socket that is read at once or not at all.
struct Source<'s>(&'s Plain);

impl Read for Source<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(target)
    }
}

/// A socket as rustls wants it.
struct Sink<'s, 'c, 'w> {
    io: &'s mut Plain,
    cx: &'c mut Context<'w>,
}

impl Write for Sink<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.io.poll_write(self.cx, parts) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S, D> Transport for Tls<S>
where
    S: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    fn poll_closed(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        pool: &BufferPool,
    ) -> Poll<()> {
        transport::poll_closed(self, cx, buffer, pool)
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
            if self.readable {
                pool.lend(buffer);
                match self.session.reader().read(buffer.spare()) {
                    Ok(count) => {
                        buffer.advance(count);
                        return Poll::Ready(Ok(count));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.readable = false;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if ready!(self.poll_records(cx, pool))? == 0 {
                // An end without close_notify is an error of its own; the session knows.
                self.readable = true;
            } else if self.session.wants_write() {
                // Answers of the protocol itself, as to a key update. They go out with the next write otherwise.
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.session.wants_write() {
            ready!(self.poll_flush(cx))?;
        }
        let taken = match parts {
            [part] => self.session.writer().write(part)?,
            parts => self.session.writer().write_vectored(parts)?,
        };
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is held back goes out with the next flush.
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Sink {
                io: &mut self.io,
                cx,
            }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Says so once, however often it is called.
        self.session.send_close_notify();
        ready!(self.poll_flush(cx))?;
        self.io.poll_shutdown(cx)
    }

    fn abort(&mut self) {
        self.io.abort();
    }
}

//! A TLS connection as a transport: rustls over a socket, with the worker's buffers.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ProtocolVersion, ServerConfig, ServerConnection};

use crate::buffer::{Buffer, BufferPool};
use crate::edits::TlsFacts;
use crate::transport::{Plain, Transport};

/// Bytes of plaintext that are encrypted ahead of the socket: one record of the largest size, and its like.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// A TLS connection to a client.
#[derive(Debug)]
pub(crate) struct Tls {
    io: Plain,
    session: Box<ServerConnection>,
    /// Records that were read from the socket and not yet given to the session.
    records: Buffer,
    /// The session holds plaintext.
    readable: bool,
}

impl Tls {
    pub(crate) fn new(io: Plain, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut session = ServerConnection::new(config)?;
        session.set_buffer_limit(Some(AHEAD_BYTES_MAX));
        Ok(Self {
            io,
            session: Box::new(session),
            records: Buffer::default(),
            readable: false,
        })
    }

    /// Goes on with the handshake.
    pub(crate) fn poll_handshake(
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

    /// Gives records to the session, read from the socket where none are left. 0 is the end of the connection.
    fn poll_records(&mut self, cx: &mut Context<'_>, pool: &BufferPool) -> Poll<io::Result<usize>> {
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
        match self.session.process_new_packets() {
            Ok(state) => self.readable = state.plaintext_bytes_to_read() > 0,
            Err(error) => {
                // The alert that says why; whether it arrives makes no difference any more.
                let _ = self.poll_flush(cx);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
        Poll::Ready(Ok(taken))
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

impl Transport for Tls {
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

    fn tls(&self) -> Option<TlsFacts<'_>> {
        let version = match self.session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        };
        let sni = self.session.server_name().unwrap_or_default();
        Some(TlsFacts { version, sni })
    }

    fn abort(&mut self) {
        self.io.abort();
    }
}

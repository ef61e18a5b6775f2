//! The handshake. An RSA signature takes milliseconds, in which no other connection of the worker would move: those are
//! made on a thread beside the worker's. The others take less time than it takes to ask somebody else.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

use rustls::server::Acceptor;
use rustls::{ClientConnection, ServerConnection};
use tokio::task::spawn_blocking;
use weir_tls::ServerSide;

use super::Tls;
use crate::buffer::{Buffer, BufferPool};
use crate::transport::{Plain, Transport};

/// Makes a client's connection one over TLS.
pub(crate) async fn accept(
    io: Plain,
    side: &ServerSide,
    pool: &BufferPool,
) -> io::Result<Tls<ServerConnection>> {
    if side.may_sign_slowly() {
        return accept_by_key(io, side, pool).await;
    }
    let session = ServerConnection::new(side.config.clone()).map_err(invalid)?;
    finish(Tls::new(io, session)).with(pool).await
}

/// Makes a connection to a backend one over TLS.
pub(crate) async fn connect(
    io: Plain,
    session: ClientConnection,
    pool: &BufferPool,
) -> io::Result<Tls<ClientConnection>> {
    finish(Tls::new(io, session)).with(pool).await
}

/// Reads the client's hello first, which says which key will sign.
async fn accept_by_key(
    mut io: Plain,
    side: &ServerSide,
    pool: &BufferPool,
) -> io::Result<Tls<ServerConnection>> {
    let mut records = Buffer::default();
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        read_more(&mut io, &mut records, pool).await?;
        let taken = acceptor.read_tls(&mut records.filled())?;
        records.consume(taken);
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) => {}
            Err((error, mut alert)) => {
                send_alert(&mut io, |sink| alert.write_all(sink)).await;
                return Err(invalid(error));
            }
        }
    };
    let is_slow = side.signs_slowly_for(&accepted.client_hello());
    let config = side.config.clone();
    let answered = if is_slow {
        spawn_blocking(move || accepted.into_connection(config)).await?
    } else {
        accepted.into_connection(config)
    };
    let session = match answered {
        Ok(session) => session,
        Err((error, mut alert)) => {
            send_alert(&mut io, |sink| alert.write_all(sink)).await;
            return Err(invalid(error));
        }
    };
    let mut tls = Tls::with_records(io, session, records);
    if is_slow {
        // A client can ask for the signature to be made only now, by a first hello that suits nobody.
        tls = finish_elsewhere(tls, pool).await?;
        return Ok(tls);
    }
    finish(tls).with(pool).await
}

/// Goes on with a handshake whose every step may take long.
async fn finish_elsewhere(
    mut tls: Tls<ServerConnection>,
    pool: &BufferPool,
) -> io::Result<Tls<ServerConnection>> {
    loop {
        poll_fn(|cx| tls.poll_flush(cx)).await?;
        if !tls.is_handshaking() {
            return Ok(tls);
        }
        if poll_fn(|cx| tls.poll_fill(cx, pool)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (parts, mut session) = tls.take_apart();
        let (session, processed) = spawn_blocking(move || {
            let processed = session.process_new_packets();
            (session, processed)
        })
        .await?;
        tls = parts.with(session);
        if processed.is_err() {
            // The alert that says why; whether it arrives makes no difference any more.
            poll_fn(|cx| {
                let _ = tls.poll_flush(cx);
                Poll::Ready(())
            })
            .await;
        }
        tls.processed(processed)?;
    }
}

async fn read_more(io: &mut Plain, records: &mut Buffer, pool: &BufferPool) -> io::Result<()> {
    if !records.is_empty() {
        return Ok(());
    }
    let read = poll_fn(|cx| match io.poll_read(cx, records, pool) {
        Poll::Pending => {
            pool.take_back(records);
            Poll::Pending
        }
        ready => ready,
    });
    match read.await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Tells the client why; whether that arrives makes no difference any more.
async fn send_alert(io: &mut Plain, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    let mut alert = Vec::new();
    if write(&mut alert).is_ok() {
        poll_fn(|cx| {
            let _ = ready!(io.poll_write(cx, &[io::IoSlice::new(&alert)]));
            Poll::Ready(())
        })
        .await;
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A handshake that goes on where it is.
struct Finish<S>(Tls<S>);

fn finish<S>(tls: Tls<S>) -> Finish<S> {
    Finish(tls)
}

impl<S, D> Finish<S>
where
    S: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    D: rustls::SideData,
{
    async fn with(self, pool: &BufferPool) -> io::Result<Tls<S>> {
        let Self(mut tls) = self;
        poll_fn(|cx| tls.poll_handshake(cx, pool)).await?;
        Ok(tls)
    }
}

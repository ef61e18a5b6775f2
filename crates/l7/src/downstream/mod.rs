//! The clients' side: what becomes of a connection that a listener has accepted.

mod exchange;
mod h1;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::TcpStream;
use weir_model::Protocol;

use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::listener::LocalListener;
use crate::tls::Tls;
use crate::transport::Plain;
use crate::tunnel;
use crate::worker::Worker;

/// Serves one connection until its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    stream: TcpStream,
    client: SocketAddr,
) {
    // Fails only where the connection has ended already.
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let watch = poll_fn(|cx| Poll::Ready(Watch::new(&worker.deadlines, listener.number, cx))).await;
    let io = Plain::new(stream);
    let protocol = listener.plan.borrow().listener.protocol;
    match protocol {
        Protocol::Http => h1::serve(worker, listener, watch, io, (client, local), "http").await,
        Protocol::Https => {
            if let Some(io) = handshake(&worker, &listener, &watch, io, client).await {
                h1::serve(worker, listener, watch, io, (client, local), "https").await;
            }
        }
        Protocol::Tcp => tunnel::serve_tcp(worker, listener, watch, io, client).await,
        Protocol::Tls => tunnel::serve_tls(worker, listener, watch, io, client).await,
        // Datagrams have no connections.
        Protocol::Udp => {}
    }
}

async fn handshake(
    worker: &Worker,
    listener: &LocalListener,
    watch: &Watch,
    io: Plain,
    client: SocketAddr,
) -> Option<Tls> {
    let plan = Rc::clone(&listener.plan.borrow());
    let config = plan.tls.clone()?;
    watch.arm(plan.listener.timeouts.request_header, Phase::Busy);
    let result = match Tls::new(io, config) {
        Ok(mut tls) => poll_fn(|cx| match tls.poll_handshake(cx, &worker.buffers) {
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| error.to_string())),
            Poll::Pending if watch.is_expired() => Poll::Ready(Err("timeout".to_owned())),
            Poll::Pending => Poll::Pending,
        })
        .await
        .map(|()| tls),
        Err(error) => Err(error.to_string()),
    };
    let counters = listener.counters();
    match result {
        Ok(tls) => {
            counters.handshakes.add(1);
            Some(tls)
        }
        Err(error) => {
            counters.handshakes_failed.add(1);
            counters.count_error(Reason::TlsHandshake);
            tracing::debug!(listener = %plan.listener.name, %client, error, "TLS handshake failed");
            None
        }
    }
}

//! The clients' side: what becomes of a connection that a listener has accepted.

mod exchange;
mod h1;
mod h2;
mod proxy_header;
mod stream_tasks;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use rustls::ServerConnection;
use tokio::net::TcpStream;
use weir_model::Protocol;

use crate::access_log::{About, Note};
use crate::buffer::Buffer;
use crate::client::{Client, Handshake};
use crate::deadlines::{Phase, Watch};
use crate::errors::Reason;
use crate::listener::LocalListener;
use crate::plan::ListenerPlan;
use crate::tls::{self, Tls};
use crate::transport::{Plain, Transport};
use crate::tunnel;
use crate::worker::Worker;

pub(crate) use stream_tasks::StreamTasks;

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
    let mut client = Client::new(client, local);
    let watch = poll_fn(|cx| Poll::Ready(Watch::new(&worker.deadlines, listener.number, cx))).await;
    let mut io = Plain::new(stream);
    let began = Instant::now();
    let plan = Rc::clone(&listener.plan.borrow());
    if let Some(rules) = &plan.listener.proxy_protocol {
        watch.arm(plan.listener.timeouts.request_header, Phase::Busy);
        let read = proxy_header::read(rules, &mut io, &watch, &worker, &mut client);
        if let Err(reason) = read.await {
            refused(&worker, &listener, &client, reason);
            write_failed(&worker, &plan, &client, began, reason);
            return;
        }
    }
    let admitted = plan
        .admission
        .admit(plan.listener.connections, client.address.ip());
    let _admitted = match admitted {
        Ok(admitted) => admitted,
        Err(reason) => {
            refused(&worker, &listener, &client, reason);
            io.abort();
            return;
        }
    };
    let protocol = plan.listener.protocol;
    drop(plan);
    match protocol {
        Protocol::Http => h1::serve(worker, listener, watch, io, client).await,
        Protocol::Https => {
            if let Some(io) = handshake(&worker, &listener, &watch, io, &client).await {
                let handshake = Handshake::of(io.session(), began.elapsed());
                let is_http2 = handshake.is_http2();
                client.tls = Some(Box::new(handshake));
                if is_http2 {
                    let client = Rc::new(client);
                    h2::serve(worker, listener, watch, io, client, Buffer::default()).await;
                } else {
                    h1::serve(worker, listener, watch, io, client).await;
                }
            }
        }
        Protocol::Tcp => tunnel::serve_tcp(worker, listener, watch, io, client).await,
        Protocol::Tls => tunnel::serve_tls(worker, listener, watch, io, client).await,
        // Datagrams have no connections.
        Protocol::Udp => {}
    }
}

fn refused(worker: &Worker, listener: &LocalListener, client: &Client, reason: Reason) {
    listener.counters().count_error(reason);
    if worker.may_log() {
        let (listener, client) = (&listener.plan.borrow().listener.name, client.address);
        tracing::debug!(%listener, %client, %reason, "connection refused");
    }
}

async fn handshake(
    worker: &Worker,
    listener: &LocalListener,
    watch: &Watch,
    io: Plain,
    client: &Client,
) -> Option<Tls<ServerConnection>> {
    let began = Instant::now();
    let plan = Rc::clone(&listener.plan.borrow());
    let side = plan.tls.as_ref()?.current();
    watch.arm(plan.listener.timeouts.request_header, Phase::Busy);
    let result = {
        let mut handshake = pin!(tls::accept(io, &side, &worker.buffers));
        poll_fn(|cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| error.to_string())),
            Poll::Pending if watch.is_expired() => Poll::Ready(Err("timeout".to_owned())),
            Poll::Pending => Poll::Pending,
        })
        .await
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
            let address = client.address;
            tracing::debug!(listener = %plan.listener.name, client = %address, error, "TLS handshake failed");
            write_failed(worker, &plan, client, began, Reason::TlsHandshake);
            None
        }
    }
}

/// Writes the line of a connection that has come to nothing, where its listener has an access log.
fn write_failed(
    worker: &Worker,
    plan: &ListenerPlan,
    client: &Client,
    began: Instant,
    reason: Reason,
) {
    let Some(log) = &plan.log else { return };
    let note = Note {
        began: Some(began),
        reason: Some(reason),
        ..Note::default()
    };
    let about = About {
        plan,
        client,
        protocol: plan.listener.protocol.as_str(),
        sni: None,
    };
    worker.lines.write(log, &note.record(&about));
}

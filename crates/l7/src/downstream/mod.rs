//! The clients' side: what becomes of a connection that a listener has accepted.

mod exchange;
mod h1;

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use weir_model::Protocol;

use crate::listener::LocalListener;
use crate::transport::Plain;
use crate::worker::Worker;

/// Serves one connection until its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Rc<LocalListener>, stream: TcpStream, client: SocketAddr) {
    let protocol = listener.plan.borrow().listener.protocol;
    let Ok(local) = stream.local_addr() else { return };
    match protocol {
        Protocol::Http => h1::serve(worker, listener, Plain::new(stream), (client, local), "http").await,
        _ => {}
    }
}

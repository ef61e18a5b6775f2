//! A worker's part of a listener: its own socket in the kernel's SO_REUSEPORT group, and the accept loop.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::downstream;
use crate::plan::ListenerPlan;
use crate::stats::ListenerCounters;
use crate::udp;
use crate::worker::Worker;

/// Connections that the kernel holds until they are accepted; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Connections of one worker. Beyond it accepting waits, and the kernel's backlog fills.
const CONNECTIONS_MAX: usize = 262_144;

/// How long accepting rests when the process has no file descriptor left, or at the bound on connections.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A socket bound to `address` in a SO_REUSEPORT group, not listening yet.
pub(crate) fn bind(address: SocketAddr, udp: bool) -> io::Result<Socket> {
    let (kind, protocol) = if udp {
        (Type::DGRAM, SocketProtocol::UDP)
    } else {
        (Type::STREAM, SocketProtocol::TCP)
    };
    let socket = Socket::new(
        Domain::for_address(address),
        kind.nonblocking(),
        Some(protocol),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if !udp {
        socket.set_reuse_address(true)?;
        // Inherited by the connections that are accepted.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Begins to take connections.
pub(crate) fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}

/// A worker's part of a listener.
#[derive(Debug)]
pub(crate) struct LocalListener {
    pub(crate) number: usize,
    /// Counted by this thread alone: the plan itself is shared by all workers.
    pub(crate) plan: RefCell<Rc<Arc<ListenerPlan>>>,
    counters: Arc<[ListenerCounters]>,
    worker: usize,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl LocalListener {
    pub(crate) fn new(plan: Arc<ListenerPlan>, worker: usize) -> Self {
        Self {
            number: plan.number,
            counters: Arc::clone(&plan.counters),
            plan: RefCell::new(Rc::new(plan)),
            worker,
            closing: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    /// This worker's counters.
    pub(crate) fn counters(&self) -> &ListenerCounters {
        &self.counters[self.worker]
    }

    /// Whether it takes no new connections, and those that it has end after their current request.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Stops taking new connections.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes the task that calls when the listener closes.
    pub(crate) fn wake_when_closing(&self, cx: &Context<'_>) {
        self.waker.replace(Some(cx.waker().clone()));
    }

    /// Serves a socket that listens.
    pub(crate) fn start(worker: &Rc<Worker>, listener: Rc<Self>, socket: Socket) {
        let name = listener.plan.borrow().listener.name.clone();
        let protocol = listener.plan.borrow().listener.protocol;
        if protocol.is_udp() {
            match UdpSocket::from_std(socket.into()) {
                Ok(socket) => {
                    tokio::task::spawn_local(udp::serve(Rc::clone(worker), listener, socket));
                }
                Err(error) => {
                    tracing::error!(listener = %name, %error, "cannot register the socket")
                }
            }
            return;
        }
        match TcpListener::from_std(socket.into()) {
            Ok(socket) => {
                tokio::task::spawn_local(accept(Rc::clone(worker), listener, socket));
            }
            Err(error) => {
                tracing::error!(listener = %name, %error, "cannot register the listening socket")
            }
        }
    }
}

/// Accepts until the listener closes, and then what the kernel has already taken on.
async fn accept(worker: Rc<Worker>, listener: Rc<LocalListener>, socket: TcpListener) {
    loop {
        let accepted = poll_fn(|cx| match socket.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending if listener.is_closing() => Poll::Ready(None),
            Poll::Pending => {
                listener.wake_when_closing(cx);
                Poll::Pending
            }
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, client))) => {
                serve(&worker, &listener, stream, client);
                while worker.active() >= CONNECTIONS_MAX && !listener.is_closing() {
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
            Some(Err(error)) if is_of_one_connection(&error) => {}
            Some(Err(error)) => {
                let name = listener.plan.borrow().listener.name.clone();
                tracing::error!(listener = %name, %error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Errors of the connection that would have been accepted, not of the listening socket (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn serve(worker: &Rc<Worker>, listener: &Rc<LocalListener>, stream: TcpStream, client: SocketAddr) {
    let guard = worker.count_connection(listener);
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    tokio::task::spawn_local(async move {
        downstream::serve(worker, listener, stream, client).await;
        drop(guard);
    });
}

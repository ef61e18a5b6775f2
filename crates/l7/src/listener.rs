//! A worker's part of a listener: its own socket in the kernel's SO_REUSEPORT group, and the accept loop.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol as SocketProtocol, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::downstream;
use crate::plan::{HeldPlan, ListenerPlan};
use crate::stats::ListenerCounters;
use crate::udp;
use crate::worker::{LocalPools, Worker};

/// Connections that the kernel holds until they are accepted; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Connections of one worker. Beyond it accepting waits, and the kernel's backlog fills.
const CONNECTIONS_MAX: usize = 262_144;

/// How long accepting rests when the process has no file descriptor left, or at the bound on connections.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long a closing listener accepts what had begun: a round trip to most clients.
const CLOSING_GRACE: Duration = Duration::from_millis(500);

/// Fails where a socket of somebody else has the address, which a SO_REUSEPORT group would silently share with ours if
/// it is of the same user: half of the connections would go to the other one. A listener of ours that has just been
/// closed is waited for.
pub(crate) fn check_free(address: SocketAddr, udp: bool) -> io::Result<()> {
    let deadline = Instant::now() + 2 * CLOSING_GRACE;
    loop {
        match bind_with(address, udp, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(CLOSING_GRACE / 10);
            }
            result => return result.map(drop),
        }
    }
}

/// A socket bound to `address` in a SO_REUSEPORT group, not listening yet.
pub(crate) fn bind(address: SocketAddr, udp: bool) -> io::Result<Socket> {
    bind_with(address, udp, true)
}

fn bind_with(address: SocketAddr, udp: bool, reuse_port: bool) -> io::Result<Socket> {
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
    socket.set_reuse_port(reuse_port)?;
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
    pub(crate) plan: RefCell<Rc<HeldPlan>>,
    counters: Arc<[ListenerCounters]>,
    worker: usize,
    closing: Cell<bool>,
    /// Who goes on with the socket: a listener that has this one's address now, under another name.
    heir: RefCell<Option<Rc<LocalListener>>>,
    /// What its routes lead to, since the config has it no more.
    pools: RefCell<Option<LocalPools>>,
    waker: RefCell<Option<Waker>>,
}

impl LocalListener {
    pub(crate) fn new(plan: Arc<ListenerPlan>, worker: usize) -> Self {
        Self {
            number: plan.number,
            counters: Arc::clone(&plan.counters),
            plan: RefCell::new(Rc::new(HeldPlan(plan))),
            worker,
            closing: Cell::new(false),
            heir: RefCell::default(),
            pools: RefCell::default(),
            waker: RefCell::default(),
        }
    }

    /// This worker's counters.
    pub(crate) fn counters(&self) -> &ListenerCounters {
        &self.counters[self.worker]
    }

    /// Counts a request that goes by a route of `plan`.
    pub(crate) fn count_route(&self, plan: &ListenerPlan, route: usize) {
        plan.route_counters.count(route, self.worker);
    }

    /// Whether it takes no new connections, and those that it has end after their current request.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Stops taking new connections; `heir` takes them from now on.
    pub(crate) fn close(&self, heir: Option<Rc<Self>>) {
        self.heir.replace(heir);
        self.closing.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Takes the pools along that its routes lead to.
    pub(crate) fn keep_pools(&self, pools: LocalPools) {
        self.pools.replace(Some(pools));
    }

    /// The pools that it took along.
    pub(crate) fn kept_pools(&self) -> Option<LocalPools> {
        self.pools.borrow().clone()
    }

    /// Who goes on with the socket.
    pub(crate) fn heir(&self) -> Option<Rc<Self>> {
        self.heir.borrow().clone()
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
                    tracing::error!(listener = %name, %error, "cannot register the socket");
                }
            }
            return;
        }
        match TcpListener::from_std(socket.into()) {
            Ok(socket) => {
                tokio::task::spawn_local(accept(Rc::clone(worker), listener, socket));
            }
            Err(error) => {
                tracing::error!(listener = %name, %error, "cannot register the listening socket");
            }
        }
    }
}

/// Accepts until the listener closes. Then no new handshake begins, and those that have begun are seen to the end:
/// closing at once would reset connections that clients believe they have.
async fn accept(worker: Rc<Worker>, mut listener: Rc<LocalListener>, socket: TcpListener) {
    let _listening = worker.count_listening();
    let mut closing: Option<Pin<Box<tokio::time::Sleep>>> = None;
    loop {
        let accepted = poll_fn(|cx| {
            match socket.poll_accept(cx) {
                Poll::Ready(accepted) => return Poll::Ready(Some(accepted)),
                Poll::Pending if listener.is_closing() && closing.is_none() => {
                    return Poll::Ready(None);
                }
                Poll::Pending => listener.wake_when_closing(cx),
            }
            match &mut closing {
                Some(rest) => rest.as_mut().poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        match accepted.await {
            None if closing.is_some() => return,
            None => match listener.heir() {
                Some(heir) => listener = heir,
                None => {
                    if let Err(error) = refuse_handshakes(&socket) {
                        tracing::warn!(%error, "a closing listener cannot refuse new handshakes");
                    }
                    closing = Some(Box::pin(tokio::time::sleep(CLOSING_GRACE)));
                }
            },
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

/// Drops every SYN that comes to a listening socket: clients send it again, and then find the address closed, or
/// served by someone else. The filter sees packets from the TCP header on (tcp_filter in net/ipv4/tcp_ipv4.c).
fn refuse_handshakes(socket: &TcpListener) -> io::Result<()> {
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(socket).attach_filter(&[
        // ldb [FLAGS_OFFSET]; and SYN|ACK; jeq SYN: drop, else accept whole
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
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

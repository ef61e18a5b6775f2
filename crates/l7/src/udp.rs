//! UDP proxying: a session for each client address, with a socket of its own towards one backend.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::deadlines::{Phase, Watch};
use crate::errors::{Reason, Side};
use crate::listener::LocalListener;
use crate::upstream::{Choice, Picked, Work, connect_reason};
use crate::worker::{ConnectionGuard, IDLE_GRACE, Worker};

/// A session without a datagram in either direction ends after this time.
const IDLE: Duration = Duration::from_secs(60);

/// Sessions of one listener on one worker. Each costs a socket; more are refused, and counted.
const SESSIONS_MAX: usize = 65_536;

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Datagrams that one task handles before others have their turn.
const BATCH: usize = 64;

/// A worker's part of a `udp` listener.
struct Proxy {
    worker: Rc<Worker>,
    listener: RefCell<Rc<LocalListener>>,
    socket: UdpSocket,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>>>,
    /// Datagrams pass through here one at a time.
    datagram: RefCell<Box<[u8]>>,
}

/// One client and its backend.
struct Session {
    client: SocketAddr,
    upstream: UdpSocket,
    work: Work,
    watch: RefCell<Option<Watch>>,
    /// Its last deadline is set.
    ending: Cell<bool>,
    _guard: ConnectionGuard,
}

/// Serves a socket until the listener closes.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Rc<LocalListener>, socket: UdpSocket) {
    let datagram = RefCell::new(vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice());
    let listener = RefCell::new(listener);
    let proxy = Rc::new(Proxy {
        worker,
        listener,
        socket,
        sessions: RefCell::default(),
        datagram,
    });
    loop {
        let open = poll_fn(|cx| proxy.poll_clients(cx)).await;
        if !open {
            return;
        }
        tokio::task::yield_now().await;
    }
}

impl Proxy {
    /// Handles datagrams from clients; `false` when the listener has closed.
    fn poll_clients(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<bool> {
        for _ in 0..BATCH {
            let listener = self.listener();
            if listener.is_closing() {
                let Some(heir) = listener.heir() else {
                    return Poll::Ready(false);
                };
                self.listener.replace(heir);
                continue;
            }
            match self.socket.poll_recv_ready(cx) {
                Poll::Ready(_) => {}
                Poll::Pending => {
                    listener.wake_when_closing(cx);
                    return Poll::Pending;
                }
            }
            let mut datagram = self.datagram.borrow_mut();
            match self.socket.try_recv_from(&mut datagram) {
                Ok((length, client)) => self.pass_on(client, &datagram[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => tracing::debug!(%error, "cannot receive a datagram"),
            }
        }
        Poll::Ready(true)
    }

    fn listener(&self) -> Rc<LocalListener> {
        Rc::clone(&self.listener.borrow())
    }

    fn pass_on(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let listener = self.listener();
        let counters = listener.counters();
        counters.datagrams_in.add(1);
        self.worker.refresh();
        let known = self
            .sessions
            .borrow()
            .get(&client)
            .filter(|session| session.work.backend.is_current())
            .cloned();
        let session = match known.map_or_else(|| self.open(client), Ok) {
            Ok(session) => session,
            Err(reason) => {
                counters.count_error(reason);
                counters.datagrams_dropped.add(1);
                return;
            }
        };
        session.touch(&listener);
        // Tried at once: of a new socket tokio does not know yet that it can be written to.
        match SockRef::from(&session.upstream).send(datagram) {
            Ok(_) => counters.bytes_in.add(datagram.len() as u64),
            Err(error) => {
                counters.datagrams_dropped.add(1);
                // The answer to an earlier datagram: nobody listens there. The next may find another backend.
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.count_failure(&session);
                    self.sessions.borrow_mut().remove(&client);
                    session.end();
                }
            }
        }
    }

    fn open(self: &Rc<Self>, client: SocketAddr) -> Result<Rc<Session>, Reason> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= SESSIONS_MAX {
            return Err(Reason::TooMany);
        }
        let listener = self.listener();
        let number = listener.plan.borrow().default_pool();
        let pool = number
            .and_then(|number| self.worker.pool(&listener, number))
            .ok_or(Reason::NoRoute)?;
        let choice = Choice::of(client, self.worker.deadlines.now_ms());
        // A datagram does not wait for a place.
        let work = match pool.pick(&choice) {
            Picked::Work(work) => work,
            Picked::Full => return Err(Reason::PoolFull),
            Picked::Nobody => return Err(Reason::NoBackend),
        };
        let upstream = connect(work.backend.id.address).map_err(|error| {
            tracing::warn!(backend = %work.backend.id, %error, "cannot open a UDP socket");
            let reason = connect_reason(&error);
            if reason.side() == Side::Upstream {
                work.backend.counters().count_failure(reason);
            }
            reason
        })?;
        let guard = self.worker.count_connection(&listener);
        let session = Rc::new(Session {
            client,
            upstream,
            work,
            watch: RefCell::default(),
            ending: Cell::new(false),
            _guard: guard,
        });
        sessions.insert(client, Rc::clone(&session));
        tokio::task::spawn_local(Rc::clone(self).run(Rc::clone(&session)));
        Ok(session)
    }

    /// Handles a session's datagrams from its backend, until it ends.
    async fn run(self: Rc<Self>, session: Rc<Session>) {
        let number = self.listener().number;
        let watch = poll_fn(|cx| Poll::Ready(Watch::new(&self.worker.deadlines, number, cx))).await;
        session.watch.replace(Some(watch));
        session.touch(&self.listener());
        // An error without a datagram does not make a socket readable; it has to be asked for.
        let interest = Interest::READABLE | Interest::ERROR;
        loop {
            let mut ready = pin!(session.upstream.ready(interest));
            let ready = poll_fn(|cx| match ready.as_mut().poll(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.ok()),
                Poll::Pending if session.is_over() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            let Some(ready) = ready.await else { break };
            if session.is_over() || (ready.is_error() && self.has_failed(&session)) {
                break;
            }
            self.pass_answers_on(&session);
            tokio::task::yield_now().await;
        }
        let mut sessions = self.sessions.borrow_mut();
        if sessions
            .get(&session.client)
            .is_some_and(|current| Rc::ptr_eq(current, &session))
        {
            sessions.remove(&session.client);
        }
    }

    /// Whether there is an error behind the readiness. The next datagram may find another backend.
    fn has_failed(&self, session: &Session) -> bool {
        // Forgets the readiness.
        let _ = session.upstream.try_io(Interest::ERROR, || {
            Err::<(), _>(io::ErrorKind::WouldBlock.into())
        });
        let error = session.upstream.take_error().ok().flatten();
        if error.is_some() {
            self.count_failure(session);
        }
        error.is_some()
    }

    /// The backend's machine says that nobody listens.
    fn count_failure(&self, session: &Session) {
        session
            .work
            .backend
            .counters()
            .count_failure(Reason::ConnectFailed);
        self.listener()
            .counters()
            .count_error(Reason::ConnectFailed);
    }

    /// Passes on what has come.
    fn pass_answers_on(&self, session: &Session) {
        let listener = self.listener();
        let counters = listener.counters();
        let mut datagram = self.datagram.borrow_mut();
        for _ in 0..BATCH {
            match session.upstream.try_recv(&mut datagram) {
                Ok(length) => {
                    session.touch(&listener);
                    match SockRef::from(&self.socket)
                        .send_to(&datagram[..length], &session.client.into())
                    {
                        Ok(_) => {
                            counters.datagrams_out.add(1);
                            counters.bytes_out.add(length as u64);
                        }
                        // A full socket buffer: datagrams may be lost, and waiting would hold up the others.
                        Err(_) => counters.datagrams_dropped.add(1),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.count_failure(session),
            }
        }
    }
}

impl Session {
    fn is_over(&self) -> bool {
        self.watch.borrow().as_ref().is_some_and(Watch::is_expired)
            || !self.work.backend.is_current()
    }

    fn end(&self) {
        if let Some(watch) = &*self.watch.borrow() {
            watch.arm(Duration::ZERO, Phase::Idle);
        }
    }

    /// Something was passed on. Once the listener has closed and nobody goes on with its socket, that is no reason to
    /// stay: nobody reads from the socket, and it keeps the address bound.
    fn touch(&self, listener: &LocalListener) {
        if let Some(watch) = &*self.watch.borrow()
            && !self.ending.get()
        {
            let ends = listener.is_closing() && listener.heir().is_none();
            self.ending.set(ends);
            watch.arm(if ends { IDLE_GRACE } else { IDLE }, Phase::Idle);
        }
    }
}

fn connect(backend: SocketAddr) -> io::Result<UdpSocket> {
    let any = if backend.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(backend)?;
    UdpSocket::from_std(socket)
}

//! Sessions, listed from the table's memory while the program goes on writing it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use weir_l4_common::service::Mode;
use weir_model::{BackendId, Forward, Name};

use crate::line::{Cells, Line, Meta, Table};
use crate::state::{State, Timeouts};
use crate::sweep::{Now, session};

/// One session of a client with a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
    /// How its packets are rewritten.
    pub forward: Forward,
    /// Where the client sends from.
    pub client: SocketAddr,
    /// The listener's address.
    pub vip: SocketAddr,
    /// What FullNAT puts in place of the client's address; with a tunnel the outer source and port 0.
    pub local: Option<SocketAddr>,
    /// The backend and its pool; `None` if its number was given up while we looked.
    pub backend: Option<BackendId>,
    /// The listener that opened it; `None` as above.
    pub listener: Option<Name>,
    /// Its state.
    pub state: State,
    /// How long no packet has come, in either direction.
    pub idle: Duration,
    /// How long it will live from now on if no packet comes.
    pub timeout_left: Duration,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes of frames from the client.
    pub bytes_in: u64,
    /// Packets from the backend; 0 where replies do not pass through us.
    pub packets_out: u64,
    /// Bytes of frames from the backend.
    pub bytes_out: u64,
}

/// Which sessions are meant: those that match everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// UDP or TCP.
    pub udp: Option<bool>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The VIP.
    pub vip: Option<IpAddr>,
    /// The listener's name.
    pub listener: Option<Name>,
    /// The pool's name.
    pub pool: Option<Name>,
    /// The backend's address and port.
    pub backend: Option<SocketAddr>,
    /// The state.
    pub state: Option<State>,
}

/// A filter with names replaced by numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberFilter {
    pub(crate) udp: Option<bool>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) vip: Option<IpAddr>,
    pub(crate) listener: Option<u16>,
    /// Any of these.
    pub(crate) backends: Option<Vec<u16>>,
    pub(crate) state: Option<State>,
}

/// A session with numbers in place of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) listener: u16,
    pub(crate) backend: u16,
    pub(crate) session: Session,
}

/// Goes through a table; `each` says whether to go on. False if it said no.
pub(crate) fn for_each<F: Cells>(
    table: Table<'_, F>,
    now: Now,
    timeouts: &Timeouts,
    filter: &NumberFilter,
    each: &mut impl FnMut(Found) -> bool,
) -> bool {
    for line in table.lines() {
        let meta = line.meta();
        if meta.is_live()
            && !meta.is_reverse()
            && filter.matches(line, meta)
            && let Some(found) = look(table, now, timeouts, line, meta)
            && filter
                .state
                .is_none_or(|state| state == found.session.state)
            && !each(found)
        {
            return false;
        }
    }
    true
}

impl NumberFilter {
    /// Everything but the state, which takes the other line as well.
    fn matches<F: Cells>(&self, line: &Line<F>, meta: Meta) -> bool {
        self.udp.is_none_or(|udp| udp == meta.is_udp())
            && self
                .client
                .is_none_or(|client| client == F::ip(F::load(&line.src)))
            && self.vip.is_none_or(|vip| vip == F::ip(F::load(&line.dst)))
            && self
                .listener
                .is_none_or(|listener| listener == line.listener.load(Relaxed))
            && self
                .backends
                .as_ref()
                .is_none_or(|backends| backends.contains(&line.backend.load(Relaxed)))
    }
}

/// What was counted of replies.
struct Replies {
    packets: u64,
    bytes: u64,
}

impl Replies {
    fn of<F: Cells>(line: Option<&Line<F>>) -> Self {
        Self {
            packets: line.map_or(0, |line| line.packets.load(Relaxed)),
            bytes: line.map_or(0, |line| line.bytes.load(Relaxed)),
        }
    }
}

/// The session of a client's line; `None` if the line was given to another flow while we looked.
fn look<F: Cells>(
    table: Table<'_, F>,
    now: Now,
    timeouts: &Timeouts,
    line: &Line<F>,
    meta: Meta,
) -> Option<Found> {
    let key = line.key();
    let mut across = None;
    let (peer, (state, idle)) = if meta.is_across() {
        across = table.across(line);
        (Replies::of(across), session(now, line, meta, across))
    } else if meta.has_peer() {
        let key = line.peer_key();
        let peer = table
            .find(&key, &table.place(&key))
            .map(|index| &table.lines()[index as usize]);
        (Replies::of(peer), session(now, line, meta, peer))
    } else {
        let none = None::<&Line<F>>;
        (Replies::of(none), session(now, line, meta, none))
    };
    let idle = now.duration(idle);
    let new_src = F::new_source(line, across);
    let new_ports = line.new_ports.load(Relaxed);
    let (forward, local) = match meta.mode() {
        Mode::Fullnat => (
            Forward::Fullnat,
            Some(SocketAddr::new(new_src, u16::from_be(new_ports as u16))),
        ),
        Mode::Nat => (Forward::Nat, None),
        Mode::Dr => (Forward::Dr, None),
        Mode::Tunnel => (Forward::Tunnel, Some(SocketAddr::new(new_src, 0))),
    };
    let found = Found {
        listener: line.listener.load(Relaxed),
        backend: line.backend.load(Relaxed),
        session: Session {
            udp: meta.is_udp(),
            forward,
            client: SocketAddr::new(F::ip(key.src), u16::from_be(key.src_port())),
            vip: SocketAddr::new(F::ip(key.dst), u16::from_be(key.dst_port())),
            local,
            backend: None,
            listener: None,
            state,
            idle,
            timeout_left: timeouts
                .of(state, meta.has_peer(), line.listener.load(Relaxed))
                .saturating_sub(idle),
            packets_in: line.packets.load(Relaxed),
            bytes_in: line.bytes.load(Relaxed),
            packets_out: peer.packets,
            bytes_out: peer.bytes,
        },
    };
    (line.meta().is_live() && line.key() == key).then_some(found)
}

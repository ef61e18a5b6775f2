//! Sessions, listed from the table's memory while the program goes on writing it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use weir_l4_common::hash::FlowKey;
use weir_l4_common::service::Mode;
use weir_model::{BackendId, Endpoints, Forward, Name};

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
    /// How packets are rewritten.
    pub forward: Option<Forward>,
    /// The client's end.
    pub client: Option<Endpoints>,
    /// The VIP.
    pub vip: Option<IpAddr>,
    /// What stands in the client's place; sessions without match nothing.
    pub local: Option<Endpoints>,
    /// The listener's name.
    pub listener: Option<Name>,
    /// The pool's name.
    pub pool: Option<Name>,
    /// The backend's end.
    pub backend: Option<Endpoints>,
    /// The state.
    pub state: Option<State>,
}

/// Where a listing goes on. Sessions do not move: one that is there all the while is listed exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Whether it is in the table of IPv6, which comes after that of IPv4.
    pub(crate) ipv6: bool,
    /// The first line to look at.
    pub(crate) line: usize,
    /// Lines of the table: one of another size has other places.
    pub(crate) of: usize,
}

/// Why a listing cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It was not made by a listing.
    #[error("it is not what an answer has given")]
    Unknown,
    /// The table was made anew since.
    #[error("the session table has been made anew since; begin without a cursor")]
    Stale,
}

/// Some sessions of many.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order of the tables.
    pub sessions: Vec<Session>,
    /// How many match in all; only where the listing begins.
    pub total: Option<u64>,
    /// Where it goes on; `None`: these are the last ones.
    pub next: Option<Cursor>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { 6 } else { 4 };
        write!(f, "{family}-{}-{}", self.line, self.of)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let number = |text: Option<&str>| text?.parse().ok();
        let mut parts = text.split('-');
        let read = (
            parts.next(),
            number(parts.next()),
            number(parts.next()),
            parts.next(),
        );
        match read {
            (Some(family @ ("4" | "6")), Some(line), Some(of), None) => Ok(Self {
                ipv6: family == "6",
                line,
                of,
            }),
            _ => Err(CursorError::Unknown),
        }
    }
}

/// A filter with names replaced by numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberFilter {
    pub(crate) udp: Option<bool>,
    pub(crate) mode: Option<Mode>,
    pub(crate) client: Option<Endpoints>,
    pub(crate) vip: Option<IpAddr>,
    pub(crate) local: Option<Endpoints>,
    pub(crate) listener: Option<u16>,
    /// By number, whether it is one of them.
    pub(crate) backends: Option<Vec<bool>>,
    pub(crate) state: Option<State>,
}

/// A session with numbers in place of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) listener: u16,
    pub(crate) backend: u16,
    pub(crate) session: Session,
}

/// A table that is gone through, the time, and what is looked for. Only what has to be known of a session is read: to
/// count sessions of a listener, one line of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a, F: Cells> {
    pub(crate) table: Table<'a, F>,
    pub(crate) now: Now,
    pub(crate) timeouts: &'a Timeouts,
    pub(crate) filter: &'a NumberFilter,
}

impl<'a, F: Cells> Search<'a, F> {
    /// The lines of sessions that match, from this one on.
    pub(crate) fn lines(self, from: usize) -> impl Iterator<Item = (usize, &'a Line<F>)> {
        let lines = self.table.lines().iter().enumerate().skip(from);
        lines.filter(move |(_, line)| {
            let meta = line.meta();
            meta.is_live()
                && !meta.is_reverse()
                && self.filter.matches(self.table, line, meta)
                && self.filter.state.is_none_or(|state| {
                    self.look(line)
                        .is_some_and(|found| found.session.state == state)
                })
        })
    }

    /// At most `limit` more sessions, and the line of the next one. Where there is a `total`, it goes on to the end and counts.
    pub(crate) fn list(
        self,
        from: usize,
        limit: usize,
        found: &mut Vec<Found>,
        mut total: Option<&mut u64>,
    ) -> Option<usize> {
        let mut next = None;
        let full = found.len() + limit;
        for (index, line) in self.lines(from) {
            if let Some(total) = &mut total {
                **total += 1;
            }
            if found.len() < full {
                found.extend(self.look(line));
            } else if next.is_none() {
                next = Some(index);
                if total.is_none() {
                    break;
                }
            }
        }
        next
    }

    /// The session of a client's line; `None` if the line was given to another flow while we looked.
    fn look(self, line: &Line<F>) -> Option<Found> {
        look(self.table, self.now, self.timeouts, line, line.meta())
    }
}

impl NumberFilter {
    /// Everything but the state, which takes the other line as well.
    fn matches<F: Cells>(&self, table: Table<'_, F>, line: &Line<F>, meta: Meta) -> bool {
        self.udp.is_none_or(|udp| udp == meta.is_udp())
            && self.mode.is_none_or(|mode| mode == meta.mode())
            && self
                .listener
                .is_none_or(|listener| listener == line.listener.load(Relaxed))
            && self.backends.as_ref().is_none_or(|backends| {
                let number = usize::from(line.backend.load(Relaxed));
                backends.get(number).copied().unwrap_or(false)
            })
            && self
                .client
                .is_none_or(|client| client.contains(client_of(&line.key())))
            && self.vip.is_none_or(|vip| vip == F::ip(F::load(&line.dst)))
            && self.local.is_none_or(|local| {
                local_of(table, line, meta).is_some_and(|end| local.contains(end))
            })
    }
}

fn client_of<F: Cells>(key: &FlowKey<F>) -> SocketAddr {
    SocketAddr::new(F::ip(key.src), u16::from_be(key.src_port()))
}

/// What stands in the client's place.
fn local_of<F: Cells>(table: Table<'_, F>, line: &Line<F>, meta: Meta) -> Option<SocketAddr> {
    let address = || {
        let across = meta.is_across().then(|| table.across(line)).flatten();
        F::new_source(line, across)
    };
    match meta.mode() {
        Mode::Fullnat => {
            let port = u16::from_be(line.new_ports.load(Relaxed) as u16);
            Some(SocketAddr::new(address(), port))
        }
        Mode::Tunnel => Some(SocketAddr::new(address(), 0)),
        Mode::Nat | Mode::Dr => None,
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
    let (peer, (state, idle)) = if meta.is_across() {
        let across = table.across(line);
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
    let forward = match meta.mode() {
        Mode::Fullnat => Forward::Fullnat,
        Mode::Nat => Forward::Nat,
        Mode::Dr => Forward::Dr,
        Mode::Tunnel => Forward::Tunnel,
    };
    let found = Found {
        listener: line.listener.load(Relaxed),
        backend: line.backend.load(Relaxed),
        session: Session {
            udp: meta.is_udp(),
            forward,
            client: client_of(&key),
            vip: SocketAddr::new(F::ip(key.dst), u16::from_be(key.dst_port())),
            local: local_of(table, line, meta),
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

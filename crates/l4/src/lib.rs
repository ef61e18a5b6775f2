//! The user-space side of layer 4: builds, loads and attaches the XDP programs, keeps their maps in step with
//! snapshots and with the kernel's routing, ends idle sessions, and counts.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn serve(l4: &weir_model::L4, snapshot: &Arc<weir_model::Snapshot>) -> Result<(), weir_l4::Error> {
//! let plane = weir_l4::Plane::start(l4)?;
//! let prepared = plane.prepare(snapshot)?;
//! plane.commit(prepared);
//! println!("{:?}", plane.stats());
//! # Ok(()) }
//! ```
//!
//! Two threads serve a [`Plane`], beside the caller's:
//! - `watch` follows interfaces, routes and neighbours (`netlink`, `next_hop`) and writes `links` and `backends`;
//! - `sweep` goes through the session table (`line`, `state`), ends what is idle and counts (`tally`).
//!
//! A snapshot becomes a difference in `plan`, with the help of `schedule` (tables), `region` (their places) and
//! `number` (small numbers for names), all pure; `maps` writes it. `object` and `attach` bring the program into the
//! kernel, `pin` and `record` keep what outlives the process, and `former` takes over what another one left; `memory`
//! is the one place where maps are memory.
//!
//! Needs Linux 5.16 or newer (neighbours that the kernel keeps fresh), and CAP_BPF with CAP_NET_ADMIN.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attach;
mod available;
mod backends;
mod clock;
mod counters;
mod decap;
mod detach;
mod error;
mod former;
mod line;
mod links;
mod listeners;
mod lock;
mod maps;
mod memory;
mod netlink;
mod next_hop;
mod number;
mod object;
mod pin;
mod plan;
mod plane;
mod policies;
mod pressure;
pub mod program;
mod quic;
mod record;
mod region;
mod schedule;
mod schedulers;
mod session;
mod spread;
mod state;
mod stats;
mod sweep;
mod tally;
mod vlans;
mod wake;
mod watch;

pub use attach::Attachment;
pub use decap::Decap;
pub use detach::{Detached, detach};
pub use error::Error;
pub use pin::Pins;
pub use plane::{Plane, Prepared};
pub use session::{Cursor, CursorError, Filter, Listing, Session};
pub use state::State;
pub use stats::{
    BackendStats, CoreStats, Counters, InterfaceStats, ListenerStats, Stats, TableStats,
};
pub use weir_l4_common::drop::Drop as DropReason;

//! The node's API: what runs, how it does, and metrics. Only this crate knows JSON and status codes.
//!
//! [`View`] is what the API shows; the control loop's side implements it. What changes something is an order to the one
//! owner of the node's state, handed in at the [`Desk`], never a lock on shared state.
//!
//! Threats: the listener is on loopback or behind a bearer token; connections, their idle time, and the size of
//! every answer are bounded, so that a slow or greedy client costs memory that was reckoned with.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod connections;
pub mod error;
pub mod metrics;
pub mod order;
pub mod router;
pub mod timestamp;
pub mod token;
pub mod view;

pub use connections::Connections;
pub use order::Desk;
pub use router::{router, serve};
pub use token::{Access, Token, TokenError};
pub use view::View;

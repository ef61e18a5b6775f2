//! TLS out of files: certificates and keys, whom to trust, ticket keys. They become configs of rustls, and new ones when
//! the files change.
//!
//! [`Server`] is for a listener, [`Client`] for the backends of a pool. No connection is made here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod certificates;
mod client;
mod error;
mod expiry;
mod files;
mod revocation;
mod server;
mod tickets;

pub use certificates::CertificateExpiry;
pub use client::Client;
pub use error::TlsError;
pub use files::Look;
pub use server::{Server, ServerSide};
pub use tickets::TicketKeys;

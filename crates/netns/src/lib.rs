//! Small networks inside one machine: network namespaces as Rust types, joined by veth pairs and bridges.
//!
//! ```no_run
//! # fn main() -> Result<(), weir_netns::Error> {
//! use weir_netns::{Namespace, veth};
//!
//! let client = Namespace::new("client")?;
//! let server = Namespace::new("server")?;
//! let (near, far) = veth((&client, "eth0"), (&server, "eth0"))?;
//! near.add_address("192.0.2.1/24")?;
//! far.add_address("192.0.2.2/24")?;
//! let listener = server.run(|| std::net::TcpListener::bind("192.0.2.2:80"));
//! let stream = client.run(|| std::net::TcpStream::connect("192.0.2.2:80"));
//! # Ok(()) }
//! ```
//!
//! Everything is removed when the last handle is dropped, also while a panic unwinds. What a killed process left
//! behind is removed by the next process that makes a namespace. Only the kernel is needed, no programs; and root,
//! see [`check_available`].
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod ethtool;
mod lan;
mod link;
mod namespace;
mod netlink;
#[allow(unsafe_code, reason = "neither std nor nix has the bpf system call")]
mod pass_program;

pub use error::Error;
pub use lan::Lan;
pub use link::{Link, veth};
pub use namespace::{Namespace, check_available};

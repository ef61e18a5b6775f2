//! The lab: networks of namespaces with the built binary in the middle and real programs around it.
//!
//! Scenarios are in `tests/scenarios`, benchmarks behind `cargo xtask bench`. A scenario begins with [`ready`], builds
//! a [`Network`], starts servers and [`Weir`] in it, and looks at what clients see. Everything is gone when the test
//! ends, also after a panic.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bench;
pub mod bench_l4;
pub mod bench_l7;
pub mod bench_scale;
pub mod echo;
pub mod folder;
pub mod http;
pub mod network;
pub mod network6;
pub mod nginx;
pub mod patience;
pub mod process;
pub mod requirements;
pub mod weir;

pub use echo::{TcpEcho, UdpEcho};
pub use folder::Folder;
pub use network::{Host, Network};
pub use nginx::Nginx;
pub use patience::{eventually, until};
pub use process::Process;
pub use requirements::ready;
pub use weir::{Decap, Weir};
